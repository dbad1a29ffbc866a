//! Sinks for programs that embed the log: something that takes records one by one, checks them, links them to
//! their chains and says where each one is and how well it is kept.
//!
//! | sink | keeps records | feature |
//! |---|---|---|
//! | [`RamSink`] | in bounded memory, nothing on disk | |
//! | `wal::WalSink` | in a log of one voter, whose directory every `stele` command reads | `wal` |
//! | `export::Exporter` | nowhere: turns the records of a chain into signed checkpoints for a host's `ExportSink` | `export` |
//!
//! The features are additive, and off by default: neither changes what is here without it.
//!
//! Names are those of `seeds/003` (API, IDB 3.4), except:
//!
//! - A *chain* is named by stream and writer ([`ChainName`]), never by the stream alone, and its head belongs to the
//!   sink. A sink never rewrites `seq` and `prev` of a finished record: they are its identity, so a retry is found.
//! - [`AuditSink::emit`] is a method, not a function over `state` and `append`: it takes the head and appends in one
//!   step, so that two emitters of one chain cannot meet in between and look like tampering.
//! - `append` answers an [`Acknowledgement`], which holds the new head; [`ChainState::head`] is a hash, not a string.
//! - `Full` is called [`AppendError::Busy`], and a sink that is full refuses the new record, never drops an old one.
//! - A record is its canonical bytes (`stele_proof::record`); there is no `AuditRecord` of loose fields.
//! - Calls are synchronous. A host on an async runtime calls them where blocking is allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stele_proof::LeafIndex;
use stele_proof::record::{BoundsError, RecordBuilder, SelfHash};

use crate::chains::{ChainError, Head};
use crate::error::{LogError, Poisoned};
use crate::intake::{Refusal, Submission};
use crate::local::PushError;

#[cfg(feature = "export")]
pub mod export;
mod ram;
#[cfg(feature = "wal")]
pub mod wal;

pub use ram::{HeldRecord, RamSettings, RamSink};
pub use stele_proof::interop::ChainName;

/// How far a chain is. A snapshot: another writer of the chain may be further when it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ChainState {
    /// The hash of its last record, which is the next one's `prev`; `None` = there is no record yet (`b3:0`).
    pub head: Option<SelfHash>,
    /// The number of its last record, which is how many it has.
    pub seq: u64,
}

impl ChainState {
    /// The number that the next record must carry.
    pub const fn next_seq(&self) -> u64 {
        self.seq + 1
    }
}

impl From<Option<Head>> for ChainState {
    fn from(head: Option<Head>) -> Self {
        head.map_or_else(Self::default, |head| Self { head: Some(head.self_hash), seq: head.seq })
    }
}

/// How well an acknowledged record is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kept {
    /// In the memory of this process.
    InMemory,
    /// Appended to the log, on its way to the disk: lost if the process dies before a flush.
    Appended,
    /// Flushed.
    Durable,
}

/// A record was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledgement {
    /// Its place in the log.
    pub index: LeafIndex,
    /// Its hash: the head of its chain unless it was there already.
    pub self_hash: SelfHash,
    /// How well it is kept.
    pub kept: Kept,
}

/// Why a record was not acknowledged (names of `seeds/003`, API and CONCURRENCY).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// No room now; nothing was taken. Try again later, or count the record as shed.
    #[error("Busy: {waiting} of {bound} bytes are taken up; try again")]
    Busy {
        /// Bytes taken up.
        waiting: usize,
        /// Bytes there may be.
        bound: usize,
    },
    /// The record was taken and was not durable in time. It still may become so: append the same finished record again.
    #[error("Timeout: the record was not durable within {} ms", after.as_millis())]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The sink was closed; nothing was taken.
    #[error("Closed: the sink was closed")]
    Closed,
    /// The sink was aborted while the record waited. Whether it is in the log is not known.
    #[error("Canceled: the sink was aborted while the record waited")]
    Canceled,
    /// The record or its payload is too large.
    #[error("SizeExceeded: {0}")]
    SizeExceeded(#[from] BoundsError),
    /// The record is not what its hash says, or other bytes are known under its identity.
    #[error(transparent)]
    Tamper(Refusal),
    /// The number leaves a gap in the chain.
    #[error("SeqGap: seq {found} does not follow, the chain's next is {expected}")]
    SeqGap {
        /// The chain's next number.
        expected: u64,
        /// The record's.
        found: u64,
    },
    /// `prev` is not the chain's head.
    #[error("LinkMismatch: prev does not name the chain's last record, {expected}")]
    LinkMismatch {
        /// The head.
        expected: SelfHash,
    },
    /// Not canonical, not finished, a reserved name, or a payload that does not belong to the record.
    #[error(transparent)]
    Schema(Refusal),
    /// The sink has as many chains as it may.
    #[error("Chains: the sink has {limit} chains already, a new one is refused")]
    TooManyChains {
        /// How many there may be.
        limit: usize,
    },
    /// The record is older than everything the sink still holds of its chain, so it cannot tell a retry from a forgery.
    #[error("Forgotten: seq {seq} is older than what the sink still holds of its chain")]
    Forgotten {
        /// The record's number.
        seq: u64,
    },
    /// The log failed. It acknowledges nothing any more where the error is a failed write or flush.
    #[error("Io: {0}")]
    Io(Arc<LogError>),
}

impl From<Refusal> for AppendError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::SizeExceeded(error) => Self::SizeExceeded(error),
            Refusal::Chain(ChainError::SeqGap { expected, found }) => Self::SeqGap { expected, found },
            Refusal::Chain(ChainError::LinkMismatch { expected }) => Self::LinkMismatch { expected },
            Refusal::Chain(ChainError::TooManyChains(limit)) => Self::TooManyChains { limit },
            Refusal::HashMismatch { .. } | Refusal::Chain(ChainError::Tamper { .. }) => Self::Tamper(refusal),
            // A sink forbids nothing.
            Refusal::Schema(_)
            | Refusal::NotFinished
            | Refusal::Reserved
            | Refusal::Payload(_)
            | Refusal::Forbidden => Self::Schema(refusal),
        }
    }
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Poisoned> for AppendError {
    fn from(poisoned: Poisoned) -> Self {
        LogError::from(poisoned).into()
    }
}

impl From<PushError> for AppendError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Refused(refusal) => refusal.into(),
            PushError::Log(error) => error.into(),
        }
    }
}

/// What became of the records that were submitted to a sink since it was opened; for a host's metrics.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Acknowledged (`audit_appended_total`).
    pub acknowledged: u64,
    /// Shed with [`AppendError::Busy`] (`audit_drop_total{reason="audit_backpressure"}`).
    pub shed: u64,
    /// Ended with any other error.
    pub failed: u64,
}

/// Counts, from any thread.
#[derive(Default)]
struct Counters {
    acknowledged: AtomicU64,
    shed: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn count<T>(&self, result: &Result<T, AppendError>) {
        let counter = match result {
            Ok(_) => &self.acknowledged,
            Err(AppendError::Busy { .. }) => &self.shed,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { acknowledged: get(&self.acknowledged), shed: get(&self.shed), failed: get(&self.failed) }
    }
}

/// The heads of chains.
///
/// ```
/// use stele_engine::sink::{AuditSink as _, AuditStream as _, ChainName, RamSettings, RamSink};
/// # use stele_proof::UnixMillis;
/// # use stele_proof::record::{Actor, Object, RecordBuilder, Subject};
/// # let attrs = Object::default();
/// # let draft = RecordBuilder {
/// #     ts_ms: UnixMillis::new(1_730_246_400_000), writer_id: "gateway@1", stream: "ingress", kind: "GetServed",
/// #     actor: Actor { anon: true, ..Actor::default() }, subject: Subject::default(), reason: "ok", attrs: &attrs,
/// #     payload: None,
/// # };
/// let sink = RamSink::new(RamSettings::default());
/// let chain = ChainName { stream: "ingress", writer_id: "gateway@1" };
/// assert_eq!(sink.state(chain)?.next_seq(), 1);
/// let head = sink.emit(&draft)?.self_hash;
/// assert_eq!(sink.state(chain)?.head, Some(head));
/// # Ok::<(), stele_engine::sink::AppendError>(())
/// ```
pub trait AuditStream {
    /// How far a chain is, counting records that are taken and not yet durable. A chain without records is at its
    /// beginning.
    ///
    /// # Errors
    /// [`AppendError::Closed`], [`AppendError::Io`].
    fn state(&self, chain: ChainName<'_>) -> Result<ChainState, AppendError>;
}

/// Takes records.
///
/// Contract of every implementation:
/// - *Atomic*: after an error other than `Timeout`, `Canceled` and `Io` nothing of the record was taken.
/// - *Append-only*: nothing that was acknowledged is changed; a full sink refuses.
/// - *Idempotent*: a finished record that is there already is acknowledged again with the place it has; under its
///   identity (writer, stream, seq) with other bytes it is [`AppendError::Tamper`].
/// - *Durable* as far as [`Acknowledgement::kept`] says, and no further.
/// - *Concurrent*: any number of threads may submit. Per chain, records are numbered without gap in the order in which
///   they are taken.
/// - *Bounded*: what is taken and waits is bounded; past it the answer is [`AppendError::Busy`], without waiting.
///
/// ```
/// use stele_engine::sink::{AppendError, AuditSink, Kept, RamSettings, RamSink};
/// use stele_proof::UnixMillis;
/// use stele_proof::record::{Actor, Object, Record, RecordBuilder, Subject};
///
/// let sink = RamSink::new(RamSettings::default());
/// let attrs = Object::default();
/// let draft = RecordBuilder {
///     ts_ms: UnixMillis::new(1_730_246_400_000),
///     writer_id: "gateway@1",
///     stream: "ingress",
///     kind: "GetServed",
///     actor: Actor { anon: true, ..Actor::default() },
///     subject: Subject::default(),
///     reason: "ok",
///     attrs: &attrs,
///     payload: None,
/// };
/// // The sink numbers and links the record:
/// let first = sink.emit(&draft)?;
/// assert_eq!((first.index.get(), first.kept), (0, Kept::InMemory));
///
/// // The writer numbers and links the record, and may send it again:
/// let mut canonical = Vec::new();
/// let record = draft.encode(2, Some(&first.self_hash), &mut canonical).unwrap();
/// let mut finished = Vec::new();
/// record.write_finished(&record.self_hash(), &mut finished);
/// let second = sink.append(&finished)?;
/// assert_eq!(sink.append(&finished)?, second);
///
/// // What does not fit says why:
/// let mut canonical = Vec::new();
/// let record = draft.encode(9, Some(&second.self_hash), &mut canonical).unwrap();
/// let mut finished = Vec::new();
/// record.write_finished(&record.self_hash(), &mut finished);
/// assert!(matches!(sink.append(&finished), Err(AppendError::SeqGap { expected: 3, found: 9 })));
/// # Ok::<(), AppendError>(())
/// ```
pub trait AuditSink: AuditStream + Send + Sync {
    /// Takes a record, with its payload where it has one.
    ///
    /// # Errors
    /// [`AppendError`].
    fn submit(&self, submission: &Submission<'_>) -> Result<Acknowledgement, AppendError>;

    /// Makes everything that was acknowledged as well kept as this sink can.
    ///
    /// # Errors
    /// [`AppendError::Io`], [`AppendError::Closed`], [`AppendError::Canceled`], [`AppendError::Timeout`].
    fn flush(&self) -> Result<(), AppendError>;

    /// What became of what was submitted.
    fn counts(&self) -> Counts;

    /// Numbers, links and takes a record without payload: bounds, canonical form and chain in one step. Called twice,
    /// it makes two records; who must be able to send a record again numbers it and uses [`AuditSink::append`].
    ///
    /// # Errors
    /// [`AppendError`].
    fn emit(&self, draft: &RecordBuilder<'_>) -> Result<Acknowledgement, AppendError> {
        self.submit(&Submission::Draft { builder: draft, payload: None })
    }

    /// Takes a finished record without payload.
    ///
    /// # Errors
    /// [`AppendError`].
    fn append(&self, finished: &[u8]) -> Result<Acknowledgement, AppendError> {
        self.submit(&Submission::Finished { bytes: finished, payload: None })
    }
}
