//! A sink in bounded memory: nothing of it ever reaches a disk.
//!
//! I-RAM-1: the bytes of what is held never exceed the bound.
//!
//! A full sink refuses with `Busy` until the host has drained it; a bound is no reason to lose what was acknowledged.
//! Draining takes the oldest records out and leaves heads, numbers and tree as they are, so the chains go on.
//! Beside the records there are the heads of at most [`RamSettings::max_chains`] chains and 65,536 recent identities.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::{Mutex, MutexGuard};

use stele_proof::record::{BoundsError, Limits, Record, Salt, SelfHash, canonical_text};
use stele_proof::tree::{self, CompactRange};
use stele_proof::{LeafIndex, TreeSize};

use super::{Acknowledgement, AppendError, AuditSink, AuditStream, ChainName, ChainState, Counters, Counts, Kept};
use crate::chains::{ChainError, Chains};
use crate::error::{LogError, Poisoned};
use crate::intake::{Admitted, Asker, Refusal, Submission, admit};

/// The bounds of a [`RamSink`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamSettings {
    /// Most bytes of records and payloads, what each takes beside its bytes included.
    pub max_bytes: usize,
    /// Most chains.
    pub max_chains: usize,
    /// Bounds of each record.
    pub limits: Limits,
}

impl Default for RamSettings {
    /// 16 MiB, 1,024 chains, the format's limits.
    fn default() -> Self {
        Self { max_bytes: 16 << 20, max_chains: 1024, limits: Limits::default() }
    }
}

/// A record that a [`RamSink`] holds or held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldRecord {
    /// Its place.
    pub index: LeafIndex,
    /// Its canonical bytes, which hash to `self_hash`.
    pub canonical: Vec<u8>,
    /// Its hash.
    pub self_hash: SelfHash,
    /// Salt and payload, where it has one.
    pub payload: Option<(Salt, Vec<u8>)>,
}

impl HeldRecord {
    fn weight(canonical: usize, payload: usize) -> usize {
        size_of::<Self>() + canonical + payload
    }

    fn own_weight(&self) -> usize {
        Self::weight(self.canonical.len(), self.payload.as_ref().map_or(0, |(_, bytes)| bytes.len()))
    }

    /// Nothing is served that is not what was taken: memory rots, too.
    fn check(&self) -> Result<(), AppendError> {
        let computed = SelfHash::of(&self.canonical);
        if computed == self.self_hash {
            return Ok(());
        }
        Err(AppendError::Tamper(Refusal::HashMismatch { claimed: self.self_hash, computed }))
    }
}

/// Keeps records in memory.
///
/// ```
/// use stele_engine::sink::{AuditSink as _, RamSettings, RamSink};
/// # use stele_proof::UnixMillis;
/// # use stele_proof::record::{Actor, Object, RecordBuilder, Subject};
/// # let attrs = Object::default();
/// # let draft = RecordBuilder {
/// #     ts_ms: UnixMillis::new(1), writer_id: "w", stream: "s", kind: "K",
/// #     actor: Actor { anon: true, ..Actor::default() }, subject: Subject::default(), reason: "ok", attrs: &attrs,
/// #     payload: None,
/// # };
/// let sink = RamSink::new(RamSettings::default());
/// sink.emit(&draft)?;
/// sink.emit(&draft)?;
/// let taken_out = sink.drain(1)?;
/// assert_eq!(taken_out[0].index.get(), 0);
/// assert_eq!(sink.held()?[0].index.get(), 1);
/// assert_eq!(sink.size()?.get(), 2);
/// # Ok::<(), stele_engine::sink::AppendError>(())
/// ```
pub struct RamSink {
    settings: RamSettings,
    counters: Counters,
    held: Mutex<Held>,
}

struct Held {
    chains: Chains,
    tree: CompactRange,
    records: VecDeque<HeldRecord>,
    bytes: usize,
    /// The record at hand.
    buffer: Vec<u8>,
}

impl RamSink {
    /// An empty sink.
    pub fn new(settings: RamSettings) -> Self {
        let held = Held {
            chains: Chains::new(settings.max_chains),
            tree: CompactRange::new(),
            records: VecDeque::new(),
            bytes: 0,
            buffer: Vec::new(),
        };
        Self { settings, counters: Counters::default(), held: Mutex::new(held) }
    }

    /// A panic while the lock was held may have left chains and tree apart: then the sink has failed.
    fn lock(&self) -> Result<MutexGuard<'_, Held>, AppendError> {
        let Ok(held) = self.held.lock() else {
            return Err(Poisoned("a thread panicked while it changed the sink".into()).into());
        };
        Ok(held)
    }

    /// How many records were taken, those drained included.
    ///
    /// # Errors
    /// [`AppendError::Io`] after a panic inside the sink.
    pub fn size(&self) -> Result<TreeSize, AppendError> {
        Ok(self.lock()?.tree.size())
    }

    /// The root of the log tree over all records that were taken, those drained included.
    ///
    /// # Errors
    /// [`AppendError::Io`] after a panic inside the sink.
    pub fn root(&self) -> Result<tree::Hash, AppendError> {
        Ok(self.lock()?.tree.root())
    }

    /// A copy of what is held, oldest first, each record hashed again.
    ///
    /// # Errors
    /// [`AppendError::Tamper`] where one is not what was taken.
    pub fn held(&self) -> Result<Vec<HeldRecord>, AppendError> {
        let held = self.lock()?;
        held.records.iter().try_for_each(HeldRecord::check)?;
        Ok(held.records.iter().cloned().collect())
    }

    /// Takes the oldest records out, at most so many, each hashed again: for handing them on.
    ///
    /// # Errors
    /// [`AppendError::Tamper`] where one is not what was taken; then nothing is taken out.
    pub fn drain(&self, at_most: usize) -> Result<Vec<HeldRecord>, AppendError> {
        let mut held = self.lock()?;
        let count = at_most.min(held.records.len());
        held.records.range(..count).try_for_each(HeldRecord::check)?;
        let out: Vec<_> = held.records.drain(..count).collect();
        held.bytes -= out.iter().map(HeldRecord::own_weight).sum::<usize>();
        Ok(out)
    }
}

impl AuditStream for RamSink {
    fn state(&self, chain: ChainName<'_>) -> Result<ChainState, AppendError> {
        let (stream, writer) = (canonical_text(chain.stream), canonical_text(chain.writer_id));
        Ok(self.lock()?.chains.head(&stream, &writer).into())
    }
}

impl AuditSink for RamSink {
    fn submit(&self, submission: &Submission<'_>) -> Result<Acknowledgement, AppendError> {
        let result = self.lock().and_then(|mut held| held.take(submission, &self.settings));
        self.counters.count(&result);
        result
    }

    /// There is nowhere to flush to.
    fn flush(&self) -> Result<(), AppendError> {
        self.lock().map(drop)
    }

    fn counts(&self) -> Counts {
        self.counters.get()
    }
}

impl Held {
    fn take(&mut self, submission: &Submission<'_>, settings: &RamSettings) -> Result<Acknowledgement, AppendError> {
        self.buffer.clear();
        let admitted = admit(submission, Asker::Client, &settings.limits, &mut self.chains, &mut self.buffer)?;
        let (Submission::Draft { payload, .. } | Submission::Finished { payload, .. }) = submission;
        let (index, self_hash) = match admitted {
            Admitted::Next(self_hash, _) => (self.keep(self_hash, *payload, settings.max_bytes)?, self_hash),
            Admitted::Duplicate(self_hash, index) => (index, self_hash),
            Admitted::Older(self_hash) => (self.look_up(self_hash)?, self_hash),
        };
        Ok(Acknowledgement { index, self_hash, kept: Kept::InMemory })
    }

    fn keep(
        &mut self,
        self_hash: SelfHash,
        payload: Option<(&Salt, &[u8])>,
        max_bytes: usize,
    ) -> Result<LeafIndex, AppendError> {
        let weight = HeldRecord::weight(self.buffer.len(), payload.map_or(0, |(_, bytes)| bytes.len()));
        if weight > max_bytes {
            return Err(BoundsError::RecordTooLarge { bytes: weight, limit: max_bytes }.into());
        }
        if weight > max_bytes - self.bytes {
            return Err(AppendError::Busy { waiting: self.bytes, bound: max_bytes });
        }
        let index = self.tree.size().next_leaf();
        let canonical = self.buffer.clone();
        let record = Record::parse(&canonical).map_err(Refusal::from)?;
        self.chains.advance(&record, self_hash, index).map_err(Refusal::from)?;
        self.tree.append(tree::leaf_hash(&canonical));
        let payload = payload.map(|(salt, bytes)| (*salt, bytes.to_vec()));
        self.records.push_back(HeldRecord { index, canonical, self_hash, payload });
        self.bytes += weight;
        assert!(self.bytes <= max_bytes, "I-RAM-1: {} bytes are held, at most {max_bytes} may be", self.bytes);
        Ok(index)
    }

    /// Finds an identity older than the window among what is still held; the record is in the buffer.
    fn look_up(&self, self_hash: SelfHash) -> Result<LeafIndex, AppendError> {
        let wanted = Record::parse(&self.buffer).map_err(Refusal::from)?;
        for held in &self.records {
            let Ok(record) = Record::parse(&held.canonical) else {
                return Err(LogError::damaged("memory", 0, Some(held.index), "the record is not canonical").into());
            };
            let is_wanted = record.seq() == wanted.seq()
                && record.stream() == wanted.stream()
                && record.writer_id() == wanted.writer_id();
            if is_wanted && held.self_hash == self_hash {
                return Ok(held.index);
            }
            if is_wanted {
                return Err(Refusal::from(ChainError::Tamper { at: held.index }).into());
            }
        }
        Err(AppendError::Forgotten { seq: wanted.seq() })
    }
}

#[cfg(test)]
mod tests {
    use stele_proof::UnixMillis;
    use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

    use super::*;

    #[test]
    fn a_record_that_changed_in_memory_is_not_served() {
        let sink = RamSink::new(RamSettings::default());
        let attrs = Object::default();
        let draft = RecordBuilder {
            ts_ms: UnixMillis::new(7),
            writer_id: "w",
            stream: "s",
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        for _ in 0..3 {
            sink.emit(&draft).unwrap();
        }
        sink.lock().unwrap().records[1].canonical[5] ^= 1;
        assert!(matches!(sink.held(), Err(AppendError::Tamper(_))));
        assert!(matches!(sink.drain(2), Err(AppendError::Tamper(_))));
        assert_eq!(sink.drain(1).unwrap()[0].index.get(), 0, "nothing was taken out before");
    }
}
