//! Records in order, checked before they are handed out.
//!
//! A record is canonical, is the next one, and its payload (where it was asked for and is still there) opens its
//! commitment; or the reader ends with an error. That it is *in the log* is checked where the caller asks
//! ([`Assurance::Proven`]), by an inclusion proof of its own for each record: one more call each. Whoever reads many
//! records hashes them into a tree and compares its root with one checkpoint instead.
//!
//! After a lost connection the reader goes on with the next record, on a new stream; it gives up when eight streams in a
//! row break without a record, or no server opens one within the time for one call.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use stele_api::v1;
use stele_proof::policy::{Policy, VerifiedCheckpoint};
use stele_proof::record::{PayloadCommitment, Record, Salt, SelfHash};
use stele_proof::{LeafIndex, TreeSize};
use tokio::time::sleep;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::client::{Client, final_error};
use crate::error::{CallError, Violation, hash, is_final};
use crate::record::Payload;
use crate::router::log_client;

/// Streams in a row that may break without a record.
const MAX_DRY_STREAMS: u32 = 8;

/// How far a record is checked.
#[derive(Clone, Default, Debug)]
pub enum Assurance {
    /// It is canonical, and its payload opens its commitment.
    #[default]
    Canonical,
    /// It is also in the log, under a checkpoint that meets this policy.
    Proven(Arc<Policy>),
}

/// Whether payloads are sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Payloads {
    /// They are not.
    #[default]
    Without,
    /// They are, with their salts.
    With,
}

/// What is visible at the server that is asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Freshness {
    /// What this server has.
    #[default]
    Local,
    /// Everything that was acknowledged before the call.
    Linearizable,
}

/// What to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadRange {
    /// The first record.
    pub start: LeafIndex,
    /// The size to stop at; `None`: the end of what is visible.
    pub end: Option<TreeSize>,
    /// Whether payloads are sent.
    pub payloads: Payloads,
    /// What is visible.
    pub freshness: Freshness,
}

impl ReadRange {
    /// One record.
    pub const fn one(index: LeafIndex) -> Self {
        Self { start: index, end: index.size_with(), payloads: Payloads::Without, freshness: Freshness::Local }
    }

    /// From a record to the end of what is visible.
    pub const fn from(start: LeafIndex) -> Self {
        Self { start, end: None, payloads: Payloads::Without, freshness: Freshness::Local }
    }
}

/// The payload of a record that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PayloadState {
    /// The record has none.
    None,
    /// It opens the commitment.
    Present(Payload),
    /// The record commits to one; it was not asked for, has expired or was erased.
    Absent(PayloadCommitment),
}

/// A record that was checked.
#[derive(Clone, Debug)]
pub struct VerifiedRecord {
    /// Where it is.
    pub index: LeafIndex,
    /// The canonical bytes.
    pub canonical: Bytes,
    /// Their hash.
    pub self_hash: SelfHash,
    /// Its payload.
    pub payload: PayloadState,
    /// The checkpoint that it is proved under, where that was asked for.
    pub proven: Option<VerifiedCheckpoint>,
}

#[derive(Clone, Copy)]
enum Extent {
    Range { end: Option<TreeSize>, freshness: Freshness },
    Tail,
}

/// Reads records in order.
pub struct Reader {
    client: Client,
    next: LeafIndex,
    extent: Extent,
    payloads: Payloads,
    assurance: Assurance,
    stream: Option<Streaming<v1::ReadResponse>>,
    /// At most one message.
    waiting: VecDeque<v1::Record>,
    done: bool,
    backoff: Backoff,
    /// Broken streams in a row that brought no record.
    dry: u32,
}

impl Reader {
    pub(crate) fn range(client: Client, range: ReadRange, assurance: Assurance) -> Self {
        let ReadRange { start, end, payloads, freshness } = range;
        Self::new(client, start, Extent::Range { end, freshness }, payloads, assurance)
    }

    pub(crate) fn tail(client: Client, from: LeafIndex, payloads: Payloads, assurance: Assurance) -> Self {
        Self::new(client, from, Extent::Tail, payloads, assurance)
    }

    fn new(client: Client, next: LeafIndex, extent: Extent, payloads: Payloads, assurance: Assurance) -> Self {
        let (backoff, waiting) = (client.backoff(), VecDeque::new());
        Self { client, next, extent, payloads, assurance, stream: None, waiting, done: false, backoff, dry: 0 }
    }

    /// The index of the record that comes next.
    pub const fn position(&self) -> LeafIndex {
        self.next
    }

    /// The next record; `None` at the end of the range, never when following. After an error the reader stands where
    /// it stood. Not to be dropped half-way when proofs are asked for: the record in hand would be read again.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn next(&mut self) -> Result<Option<VerifiedRecord>, CallError> {
        while self.waiting.is_empty() {
            let end = match self.extent {
                Extent::Range { end, .. } => end,
                Extent::Tail => None,
            };
            if self.done || end.is_some_and(|end| !end.contains(self.next)) {
                return Ok(None);
            }
            self.fill().await?;
        }
        let Some(record) = self.waiting.pop_front() else { return Ok(None) };
        match self.check(record).await {
            Ok(record) => {
                self.dry = 0;
                self.next = LeafIndex::new(self.next.get().saturating_add(1));
                Ok(Some(record))
            }
            Err(error) => {
                self.stream = None;
                self.waiting.clear();
                Err(error)
            }
        }
    }

    /// Waits for the next message, on a new stream where there is none.
    async fn fill(&mut self) -> Result<(), CallError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await?,
        };
        match stream.message().await {
            Ok(Some(response)) => {
                self.waiting = response.records.into();
                self.stream = Some(stream);
            }
            Ok(None) if matches!(self.extent, Extent::Range { .. }) => self.done = true,
            // Following does not end; a server that ends it is going away.
            Ok(None) => self.rest(&Status::unavailable("the server ended the stream")).await?,
            Err(status) => self.rest(&status).await?,
        }
        Ok(())
    }

    /// What follows a broken stream: a wait, then a new stream, unless it brought nothing too often.
    async fn rest(&mut self, status: &Status) -> Result<(), CallError> {
        if is_final(status.code()) {
            return Err(final_error(status));
        }
        if self.dry == MAX_DRY_STREAMS {
            return Err(CallError::Unavailable { last: status.message().to_owned() });
        }
        sleep(self.backoff.delay(self.dry)).await;
        self.dry += 1;
        Ok(())
    }

    async fn open(&self) -> Result<Streaming<v1::ReadResponse>, CallError> {
        let (log, start) = (self.client.log().as_str().to_owned(), self.next.get());
        let with_payload = self.payloads == Payloads::With;
        match self.extent {
            Extent::Tail => {
                let request = v1::TailRequest { log, from: start, with_payload };
                let ask = |channel| {
                    let request = request.clone();
                    async move { log_client(channel).tail(request).await }
                };
                Ok(self.client.ask(ask).await?.into_inner())
            }
            Extent::Range { end, freshness } => {
                let linearizable = freshness == Freshness::Linearizable;
                let end = end.map(TreeSize::get);
                let request = v1::ReadRequest { log, start, end, max_records: 0, with_payload, linearizable };
                let ask = |channel| {
                    let request = request.clone();
                    async move { log_client(channel).read(request).await }
                };
                Ok(self.client.ask(ask).await?.into_inner())
            }
        }
    }

    async fn check(&self, record: v1::Record) -> Result<VerifiedRecord, CallError> {
        let index = LeafIndex::new(record.index);
        if index != self.next {
            return Err(Violation::IndexGap { expected: self.next, found: index }.into());
        }
        let parsed =
            Record::parse(&record.canonical).map_err(|error| Violation::Record { index, reason: error.to_string() })?;
        let payload = match (parsed.payload(), record.payload) {
            (None, None) => PayloadState::None,
            (Some(commitment), None) => PayloadState::Absent(commitment),
            (Some(commitment), Some(payload)) => match hash(&payload.salt).map(Salt::new) {
                Some(salt) if commitment.opens_with(&salt, &payload.bytes) => {
                    PayloadState::Present(Payload { salt, bytes: payload.bytes })
                }
                _ => return Err(Violation::Payload { index }.into()),
            },
            (None, Some(_)) => return Err(Violation::Payload { index }.into()),
        };
        let self_hash = parsed.self_hash();
        let proven = match &self.assurance {
            Assurance::Canonical => None,
            Assurance::Proven(policy) => {
                let proven = self.client.prove(index, None, policy).await?;
                if proven.canonical != record.canonical {
                    let reason = "another record is proved at this index".to_owned();
                    return Err(Violation::Proof { reason }.into());
                }
                Some(proven.checkpoint)
            }
        };
        Ok(VerifiedRecord { index, canonical: record.canonical, self_hash, payload, proven })
    }
}
