//! The segment store as openraft's log storage.
//!
//! Votes, appends and truncations go through the store's one queue, so they reach the disk in the order in which
//! openraft gave them. An entry can be read as soon as [`RaftLogStorage::append`] returns; openraft is told that
//! it is durable by the store's writer, after the flush. `purge` is refused: entries are the audit log.
//!
//! What is read from files for followers that are far behind is bounded in bytes a second, all of them together, so that
//! those who write are not held up; but a follower that would not come nearer so is not held up either ([`Gain`]).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::vote::RaftVote;
use openraft::{OptionalSend, RaftLogReader};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::Disk;
use stele_engine::hard_state;
use stele_engine::number::{Alignment, NodeId, RaftIndex, Term};
use stele_engine::store::SegmentStore;
use tokio::sync::oneshot;

use crate::entry::{Entry, LogId, TypeConfig, Vote, log_id};
use crate::joining::pace::Pace;
use crate::stored::StoredEntries;

/// Bytes of durable entries that stay in memory, to be sent to followers that are a little behind.
pub const RECENT_BYTES: usize = 32 << 20;
/// About how many bytes of entries are read at a time for a follower that is far behind.
pub const READ_BYTES: usize = 2 << 20;

/// Bytes a second that are read from files for followers: as many as a node that joins copies if nothing else is said.
pub const CATCH_UP_RATE: u64 = 64 << 20;

/// openraft's log storage, and its readers: they share the store.
pub struct RaftLog {
    shared: Arc<Shared>,
    /// Of the follower that this one reads for.
    gain: Gain,
}

impl Clone for RaftLog {
    /// Another reader, for whomever.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), gain: Gain::default() }
    }
}

/// Whether a follower comes nearer to the end of the log.
#[derive(Clone, Copy, Default, Debug)]
struct Gain {
    /// The fewest entries that it lacked since it fell behind.
    fewest: Option<u64>,
}

impl Gain {
    /// Whether it lacks fewer than ever since it fell behind: what it lost while it was held up does not count as gained
    /// when it comes back.
    fn is_made(&mut self, lacks: u64) -> bool {
        let made = self.fewest.is_none_or(|fewest| lacks < fewest);
        if made {
            self.fewest = Some(lacks);
        }
        made
    }
}

struct Shared {
    store: Arc<SegmentStore>,
    /// The last vote that was made durable, `None` before a node's first.
    vote: Arc<Mutex<Option<Vote>>>,
    committed: Mutex<Option<LogId>>,
    stored: StoredEntries,
    pace: Pace,
}

impl RaftLog {
    /// `vote` is what hard state holds, `committed` one past the last entry that recovery knows to be committed.
    pub fn new(
        store: Arc<SegmentStore>,
        disk: &Arc<dyn Disk>,
        directory: &LogDirectory,
        alignment: Alignment,
        vote: hard_state::Vote,
    ) -> Self {
        store.keep_recent(RECENT_BYTES);
        let stored = StoredEntries::new(Arc::clone(&store), disk, directory, alignment);
        // A node that never voted holds term 0.
        let vote = (vote.term > Term::new(0)).then(|| {
            Vote::from_leader_id(
                openraft::impls::leader_id_std::LeaderId { term: vote.term.get(), voted_for: vote.node.get() },
                vote.committed,
            )
        });
        let shared = Shared {
            store,
            vote: Arc::new(Mutex::new(vote)),
            committed: Mutex::new(None),
            stored,
            pace: Pace::new(CATCH_UP_RATE),
        };
        Self { shared: Arc::new(shared), gain: Gain::default() }
    }

    /// Tells, also when this is gone, the term of the last durable vote and one past the last durable entry: what
    /// this node has at least, until it votes in a later term.
    pub fn durable(&self) -> impl Fn() -> (Term, RaftIndex) + Send + Sync + 'static {
        let (progress, vote) = (self.shared.store.progress(), Arc::clone(&self.shared.vote));
        move || {
            // In this order: a truncation comes behind the vote for who asked for it.
            let end = progress.durable();
            let vote = *lock(&vote);
            (Term::new(vote.map_or(0, |vote| vote.leader_id.term)), end)
        }
    }

    /// Says up to where the log is known to be committed, as recovery found it.
    ///
    /// # Errors
    /// Where the entry cannot be read.
    pub async fn recovered(&self, committed: RaftIndex) -> io::Result<()> {
        let last = committed.min(self.shared.store.tail().next_index);
        let Some(index) = last.get().checked_sub(1) else { return Ok(()) };
        let entries = self.read(index, index + 1, 1).await?;
        *lock(&self.shared.committed) = entries.first().map(|entry| log_id(Term::new(entry.leader.term), entry.index));
        Ok(())
    }

    /// The entries of `start..end` that the log holds, from the first on: all, or as many as fit `max_bytes` and at
    /// least one.
    async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let end = end.min(self.shared.store.tail().next_index.get());
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for index in (start..end).map(RaftIndex::new) {
            let Some(stored) = self.shared.store.recent_entry(index) else { break };
            bytes += stored.byte_len();
            entries.push(Entry::from_stored(index, stored));
            if bytes >= max_bytes {
                return Ok(entries);
            }
        }
        let next = start + entries.len() as u64;
        if next < end {
            let shared = Arc::clone(&self.shared);
            let left = max_bytes - bytes;
            let (next, end) = (RaftIndex::new(next), RaftIndex::new(end));
            let more = tokio::task::spawn_blocking(move || shared.stored.read(next, end, left));
            entries.append(&mut more.await.map_err(io::Error::other)?.map_err(io::Error::other)?);
        }
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*lock(&self.shared.vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        if self.shared.store.recent_entry(RaftIndex::new(start)).is_some() {
            self.gain = Gain::default();
            return self.read(start, end, READ_BYTES).await;
        }
        let lacks = self.shared.store.tail().next_index.get().saturating_sub(start);
        let entries = self.read(start, end, READ_BYTES).await?;
        if self.gain.is_made(lacks) {
            let bytes: usize = entries.iter().map(|entry| entry.payload.body.len() + entry.payload.slots.len()).sum();
            self.shared.pace.take(bytes as u64).await;
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.shared.store.tail();
        let last = tail.next_index.get().checked_sub(1).map(|index| log_id(tail.last_term, RaftIndex::new(index)));
        Ok(LogState { last_purged_log_id: None, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let stored = hard_state::Vote {
            term: Term::new(vote.leader_id.term),
            node: NodeId::new(vote.leader_id.voted_for),
            committed: vote.committed,
        };
        let (tell, told) = oneshot::channel();
        // Nobody is told where openraft gave up waiting, which it does only when it stops.
        self.shared.store.save_vote(stored, Box::new(move |result| drop(tell.send(result))));
        told.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        *lock(&self.shared.vote) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // It rides in the next flush group's slot; nothing waits for it.
        if let Some(committed) = committed {
            self.shared.store.progress().set_committed(RaftIndex::new(committed.index).next());
        }
        *lock(&self.shared.committed) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(*lock(&self.shared.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        for entry in entries {
            let (index, next) = (entry.index, self.shared.store.tail().next_index);
            if index != next {
                return Err(io::Error::other(format!(
                    "entry {index} does not follow the log, which ends before {next}"
                )));
            }
            self.shared.store.append_beyond(entry.into_stored(), None).map_err(io::Error::other)?;
        }
        let told = move |result: Result<(), stele_engine::error::Poisoned>| {
            callback.io_completed(result.map_err(io::Error::other));
        };
        self.shared.store.notify(Box::new(told));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = RaftIndex::new(last.map_or(0, |last| last.index + 1));
        let store = Arc::clone(&self.shared.store);
        let truncated = tokio::task::spawn_blocking(move || store.truncate(from));
        truncated.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        Err(io::Error::other(format!("entries up to {log_id} were to be purged; they are the audit log and stay")))
    }
}

/// Locks a mutex whose holders never leave it half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_no_nearer_is_told_from_who_does() {
        let mut gain = Gain::default();
        let told = [900, 800, 800, 810, 700, 0].map(|lacks| gain.is_made(lacks));
        assert_eq!(told, [true, true, false, false, true, true]);
        let mut gain = Gain::default();
        let told = [900, 800, 850, 840, 830].map(|lacks| gain.is_made(lacks));
        assert_eq!(told, [true, true, false, false, false], "what was lost meanwhile is no gain");
    }
}
