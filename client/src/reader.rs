//! Records in order, checked before they are handed out.
//!
//! A record is canonical, is the next one, and its payload (where it was asked for and is still there) opens its
//! commitment; or the reader ends with an error. That it is *in the log* is checked where the caller asks
//! ([`Assurance::Proven`]): records are then held back, of a range up to 4,096 or 4 MiB of them, of a tail those that
//! came together, until one proof shows that all of them are under a checkpoint that meets the policy. What was read
//! before an error is proved and handed out first.
//!
//! A proved range with an end is over only where it reaches that end, or the size of the checkpoint that its last record
//! was proved under: a stream that ends before that is opened again, elsewhere, and in the end it is an error. What stays
//! the server's word is that there is nothing behind that checkpoint, that a range has no record at all, and where a range
//! without an end is over.
//!
//! After a lost connection the reader goes on with the next record, on a new stream; so it does where a range brings
//! nothing for [`Timeouts::answer`](crate::config::Timeouts::answer). It gives up when eight streams in a row break
//! without a record, or no server opens one within the time for one call.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use stele_api::v1;
use stele_proof::policy::{Policy, VerifiedCheckpoint};
use stele_proof::record::{PayloadCommitment, Record, Salt, SelfHash};
use stele_proof::{LeafIndex, TreeSize};
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::client::{Client, final_error, out_of_time};
use crate::error::{CallError, Violation, hash, is_final};
use crate::record::Payload;
use crate::router::log_client;

mod proving;

use proving::Proving;

/// Streams in a row that may break, or end too early, without a record.
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
    pub proven: Option<Arc<VerifiedCheckpoint>>,
}

#[derive(Clone, Copy)]
enum Extent {
    Range { end: Option<TreeSize>, freshness: Freshness },
    Tail,
}

/// Reads records in order.
pub struct Reader {
    client: Client,
    start: LeafIndex,
    next: LeafIndex,
    extent: Extent,
    payloads: Payloads,
    stream: Option<Streaming<v1::ReadResponse>>,
    /// At most one message.
    waiting: VecDeque<v1::Record>,
    /// Checked, and held back until they are proved.
    proving: Option<Proving>,
    /// What may be handed out.
    ready: VecDeque<VerifiedRecord>,
    /// What ended the reading, behind all that is held back.
    failed: Option<CallError>,
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

    fn new(client: Client, start: LeafIndex, extent: Extent, payloads: Payloads, assurance: Assurance) -> Self {
        let proving = match assurance {
            Assurance::Canonical => None,
            Assurance::Proven(policy) => Some(Proving::new(policy)),
        };
        Self {
            backoff: client.backoff(),
            client,
            start,
            next: start,
            extent,
            payloads,
            stream: None,
            waiting: VecDeque::new(),
            proving,
            ready: VecDeque::new(),
            failed: None,
            done: false,
            dry: 0,
        }
    }

    /// The index of the record that comes next.
    pub const fn position(&self) -> LeafIndex {
        self.next
    }

    /// The next record; `None` at the end of the range, never when following. After an error the reader stands where
    /// it stood; after `PolicyNotMet` it still holds what is to be proved, so ask again later. Dropped half-way, it
    /// loses nothing.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn next(&mut self) -> Result<Option<VerifiedRecord>, CallError> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                self.dry = 0;
                self.next = LeafIndex::new(self.next.get().saturating_add(1));
                return Ok(Some(record));
            }
            if self.must_prove() {
                self.prove().await?;
            } else if let Some(error) = self.failed.take() {
                return Err(error);
            } else if self.is_over() {
                let Some(size) = self.withheld() else { return Ok(None) };
                self.done = false;
                if let Err(error) = self.ended_early(size).await {
                    self.failed = Some(error);
                }
            } else if let Some(record) = self.waiting.pop_front() {
                self.take(record);
            } else if let Err(error) = self.fill().await {
                self.failed = Some(error);
            }
        }
    }

    /// The index of the record that is to be received next.
    fn due(&self) -> LeafIndex {
        let here = self.ready.len() + self.proving.as_ref().map_or(0, Proving::len);
        LeafIndex::new(self.next.get().saturating_add(u64::try_from(here).unwrap_or(u64::MAX)))
    }

    fn is_over(&self) -> bool {
        let end = match self.extent {
            Extent::Range { end, .. } => end,
            Extent::Tail => None,
        };
        self.waiting.is_empty() && self.done || end.is_some_and(|end| !end.contains(self.due()))
    }

    /// The size of the checkpoint in hand, where it shows that the range has more records than came.
    fn withheld(&self) -> Option<TreeSize> {
        let Extent::Range { end: Some(end), .. } = self.extent else { return None };
        let size = self.proving.as_ref()?.size()?;
        let due = self.due();
        (size.contains(due) && end.contains(due)).then_some(size)
    }

    /// A stream ended before all that is known to be there: another node is asked, unless that was done too often.
    async fn ended_early(&mut self, size: TreeSize) -> Result<(), CallError> {
        if self.dry == MAX_DRY_STREAMS {
            return Err(Violation::EndedEarly { due: self.due(), size }.into());
        }
        // What is written meanwhile is not run after.
        if let Extent::Range { end: Some(end), .. } = &mut self.extent {
            *end = size.min(*end);
        }
        self.leave().await;
        Ok(())
    }

    /// Whether what is held back is a whole row, or nothing more comes to it at once.
    fn must_prove(&self) -> bool {
        let follows = matches!(self.extent, Extent::Tail) && self.waiting.is_empty();
        let row = |proving: &Proving| follows || proving.is_full() || self.failed.is_some() || self.is_over();
        self.proving.as_ref().is_some_and(|proving| proving.len() > 0 && row(proving))
    }

    async fn prove(&mut self) -> Result<(), CallError> {
        let Some(proving) = &mut self.proving else { return Ok(()) };
        match proving.prove(&self.client).await {
            Ok(records) => {
                self.ready.extend(records);
                Ok(())
            }
            // The node that is asked lags behind the one that has sent the records.
            Err(CallError::NotFound { text }) => self.lags(text).await,
            Err(error) => {
                if matches!(error, CallError::Violation(_) | CallError::Fork { .. } | CallError::NotConsistent { .. }) {
                    proving.clear();
                    self.give_up_stream();
                    self.failed = None;
                }
                Err(error)
            }
        }
    }

    fn take(&mut self, record: v1::Record) {
        match self.check(record) {
            Ok(record) => {
                self.dry = 0;
                match &mut self.proving {
                    Some(proving) => proving.push(record),
                    None => self.ready.push_back(record),
                }
            }
            Err(violation) => {
                self.give_up_stream();
                self.failed = Some(violation.into());
            }
        }
    }

    fn give_up_stream(&mut self) {
        self.stream = None;
        self.waiting.clear();
        self.done = false;
    }

    /// Waits for the next message, on a new stream where there is none.
    async fn fill(&mut self) -> Result<(), CallError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match self.open().await {
                Err(CallError::NotFound { text }) => return self.end_was_lost(text).await,
                opened => opened?,
            },
        };
        let message = match self.extent {
            // There may be nothing to send.
            Extent::Tail => stream.message().await,
            Extent::Range { .. } => match timeout(self.client.patience(), stream.message()).await {
                Ok(message) => message,
                Err(_) => return self.lags("no record came in time".to_owned()).await,
            },
        };
        match message {
            Ok(Some(response)) if response.records.is_empty() => {
                return Err(Violation::Missing { what: "records" }.into());
            }
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

    /// There is no record where a stream broke: that is the end of the log where the record before is there.
    async fn end_was_lost(&mut self, text: String) -> Result<(), CallError> {
        let Extent::Range { freshness, .. } = self.extent else { return Err(CallError::NotFound { text }) };
        let due = self.due();
        if due == self.start {
            return Err(CallError::NotFound { text });
        }
        if let Some(size) = self.withheld() {
            return self.ended_early(size).await;
        }
        let last = LeafIndex::new(due.get() - 1);
        match self.open_range(last, last.size_with(), freshness).await {
            Ok(_) => self.done = true,
            // A node that has less than the one before.
            Err(CallError::NotFound { text }) => self.lags(text).await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What follows a broken stream: a wait, then a new stream, unless it brought nothing too often.
    async fn rest(&mut self, status: &Status) -> Result<(), CallError> {
        if is_final(status.code()) {
            return Err(final_error(status));
        }
        if self.dry == MAX_DRY_STREAMS {
            return Err(out_of_time(status));
        }
        sleep(self.backoff.delay(self.dry)).await;
        self.dry += 1;
        Ok(())
    }

    /// As [`Reader::rest`], where the node that was asked has less than others have, or says nothing.
    async fn lags(&mut self, text: String) -> Result<(), CallError> {
        if self.dry == MAX_DRY_STREAMS {
            return Err(out_of_time(&Status::unavailable(text)));
        }
        self.leave().await;
        Ok(())
    }

    /// Another node is asked, after a wait.
    async fn leave(&mut self) {
        self.client.leave(self.backoff.delay(self.dry)).await;
        self.dry += 1;
    }

    async fn open(&self) -> Result<Streaming<v1::ReadResponse>, CallError> {
        match self.extent {
            Extent::Tail => {
                let (log, from) = (self.client.log().as_str().to_owned(), self.due().get());
                let request = v1::TailRequest { log, from, with_payload: self.payloads == Payloads::With };
                let ask = |channel| {
                    let request = request.clone();
                    async move { log_client(channel).tail(request).await }
                };
                Ok(self.client.ask(ask).await?.into_inner())
            }
            Extent::Range { end, freshness } => self.open_range(self.due(), end, freshness).await,
        }
    }

    async fn open_range(
        &self,
        start: LeafIndex,
        end: Option<TreeSize>,
        freshness: Freshness,
    ) -> Result<Streaming<v1::ReadResponse>, CallError> {
        let request = v1::ReadRequest {
            log: self.client.log().as_str().to_owned(),
            start: start.get(),
            end: end.map(TreeSize::get),
            max_records: 0,
            with_payload: self.payloads == Payloads::With,
            linearizable: freshness == Freshness::Linearizable,
        };
        let ask = |channel| {
            let request = request.clone();
            async move { log_client(channel).read(request).await }
        };
        Ok(self.client.ask(ask).await?.into_inner())
    }

    fn check(&self, record: v1::Record) -> Result<VerifiedRecord, Violation> {
        let (index, expected) = (LeafIndex::new(record.index), self.due());
        if index != expected {
            return Err(Violation::IndexGap { expected, found: index });
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
                _ => return Err(Violation::Payload { index }),
            },
            (None, Some(_)) => return Err(Violation::Payload { index }),
        };
        let self_hash = parsed.self_hash();
        Ok(VerifiedRecord { index, canonical: record.canonical, self_hash, payload, proven: None })
    }
}
