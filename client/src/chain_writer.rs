//! Building the records of one chain, and resuming it.

use std::sync::Arc;

use bytes::Bytes;
use stele_proof::UnixMillis;
use stele_proof::record::{
    Actor, BoundsError, Object, PayloadCommitment, RecordBuilder, RecordError, Salt, SelfHash, Subject, VerifyError,
};

use crate::appender::{Appender, Pending};
use crate::error::{AppendError, InvalidRecord};
use crate::record::{ChainName, FinishedRecord, Payload};

/// The last record of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainHead {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub self_hash: SelfHash,
}

/// What happened: a record without its chain. Strings are normalised when it is built.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When.
    pub ts_ms: UnixMillis,
    /// What.
    pub kind: &'a str,
    /// Who did it.
    pub actor: Actor<'a>,
    /// To what.
    pub subject: Subject<'a>,
    /// Why, as a label.
    pub reason: &'a str,
    /// Details, without the reserved key `payload`.
    pub attrs: &'a Object,
}

/// Writes one chain: numbers its records, links them, and pushes them in order.
///
/// After an error of a [`Pending`] that is final, the writer is ahead of the log: its next records would follow one
/// that is not there. [`ChainWriter::rewind`] sets it back, to a head that the caller knows or that
/// [`Client::head`](crate::client::Client::head) tells.
pub struct ChainWriter {
    appender: Appender,
    chain: Arc<ChainName>,
    head: Option<ChainHead>,
    scratch: Vec<u8>,
}

impl ChainWriter {
    /// Goes on behind a head; `None` begins the chain.
    pub fn new(appender: Appender, chain: ChainName, head: Option<ChainHead>) -> Self {
        Self { appender, chain: Arc::new(chain), head, scratch: Vec::new() }
    }

    /// The last record that was pushed, or where the writer was set to.
    pub const fn head(&self) -> Option<ChainHead> {
        self.head
    }

    /// The chain.
    pub fn chain(&self) -> &ChainName {
        &self.chain
    }

    /// Sets the writer behind another head; `None` is the beginning of the chain.
    pub const fn rewind(&mut self, head: Option<ChainHead>) {
        self.head = head;
    }

    /// Appends an event.
    ///
    /// # Errors
    /// [`AppendError::Invalid`] where it makes no record: nothing was pushed, the chain stands where it stood.
    /// [`AppendError::Closed`].
    pub async fn append(&mut self, event: &Event<'_>) -> Result<Pending, AppendError> {
        let record = self.build(event, None)?;
        self.push(record).await
    }

    /// Appends an event with a payload, under a salt from the system.
    ///
    /// # Errors
    /// As [`ChainWriter::append`].
    pub async fn append_with_payload(&mut self, event: &Event<'_>, payload: Bytes) -> Result<Pending, AppendError> {
        let mut salt = [0; Salt::LEN];
        getrandom::fill(&mut salt).map_err(|error| InvalidRecord::Randomness { what: error.to_string() })?;
        let record = self.build(event, Some(Payload { salt: Salt::new(salt), bytes: payload }))?;
        self.push(record).await
    }

    /// The next record of the chain, finished; the writer does not move.
    ///
    /// # Errors
    /// [`InvalidRecord`].
    pub fn build(&mut self, event: &Event<'_>, payload: Option<Payload>) -> Result<FinishedRecord, InvalidRecord> {
        let last = self.head.map_or(0, |head| head.seq);
        let seq = last.checked_add(1).ok_or(InvalidRecord::ChainFull { seq: last })?;
        let commit = |payload: &Payload| PayloadCommitment::commit(&payload.salt, &payload.bytes);
        let commitment = payload.as_ref().map(commit).transpose();
        let builder = RecordBuilder {
            ts_ms: event.ts_ms,
            writer_id: &self.chain.writer_id,
            stream: &self.chain.stream,
            kind: event.kind,
            actor: event.actor,
            subject: event.subject,
            reason: event.reason,
            attrs: event.attrs,
            payload: commitment.map_err(|error: BoundsError| VerifyError::from(RecordError::from(error)))?,
        };
        self.scratch.clear();
        let prev = self.head.map(|head| head.self_hash);
        let record = builder.encode(seq, prev.as_ref(), &mut self.scratch).map_err(VerifyError::from)?;
        FinishedRecord::finish(&record, &self.chain, payload)
    }

    async fn push(&mut self, record: FinishedRecord) -> Result<Pending, AppendError> {
        let pending = self.appender.push(&record).await?;
        self.head = Some(ChainHead { seq: record.seq(), self_hash: record.self_hash() });
        Ok(pending)
    }
}
