//! The entries that a node has stored, in memory and in its files, read by index.

use std::sync::{Arc, Mutex, PoisonError};

use stele_engine::directory::LogDirectory;
use stele_engine::disk::Disk;
use stele_engine::entries::EntryReader;
use stele_engine::error::LogError;
use stele_engine::number::{Alignment, RaftIndex};
use stele_engine::store::SegmentStore;

use crate::entry::{Entry, LogId, log_id};
use crate::raft_log::READ_BYTES;

/// What a node holds behind an entry that another one named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The last entry of its log; `None` where it has none.
    pub last: Option<LogId>,
    /// Whether its log holds the entry that was named.
    pub holds: Holds,
    /// The entries behind it, from the next on, where they were asked for.
    pub entries: Vec<Entry>,
}

impl Offer {
    /// Whether there is anything behind the entry that was named.
    pub fn goes_on(&self, named: &LogId) -> bool {
        self.holds == Holds::It && self.last.is_some_and(|last| last.index > named.index)
    }
}

/// Whether a log holds an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holds {
    /// That one, and so what the other log holds before it (Raft's log matching, 5.3).
    It,
    /// Another one in its place, or none.
    Not,
}

/// What is asked of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// How far it goes.
    Position,
    /// That, and about [`READ_BYTES`] of entries.
    Entries,
}

/// Why stored entries were not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// An entry is missing below the end of the log.
    #[error("entry {0} is not in the log, and entries behind it are")]
    Missing(RaftIndex),
    /// Entries were dropped while they were read: another leader has others.
    #[error("the log was truncated meanwhile")]
    Truncated,
    /// A file cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The entries of a store and of the sealed segments before it. Reading them may block.
pub struct StoredEntries {
    store: Arc<SegmentStore>,
    /// For entries that lie in sealed segments only.
    files: Mutex<EntryReader>,
}

impl StoredEntries {
    /// Those of this log.
    pub fn new(store: Arc<SegmentStore>, disk: &Arc<dyn Disk>, directory: &LogDirectory, alignment: Alignment) -> Self {
        Self { store, files: Mutex::new(EntryReader::new(disk, directory, alignment)) }
    }

    /// Entries of `start..end`, which the log must hold, from the first on: all, or as many as fit `max_bytes` and at
    /// least one.
    ///
    /// # Errors
    /// [`StoredError`].
    pub fn read(&self, start: RaftIndex, end: RaftIndex, max_bytes: usize) -> Result<Vec<Entry>, StoredError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut index = start;
        while index < end && (bytes < max_bytes || entries.is_empty()) {
            let open = self.store.tail().segment;
            let stored = match self.store.read_entry(index)? {
                Some(stored) => Some(stored),
                None => {
                    let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                    files.read(index..index.next(), open, 1)?.into_iter().next()
                }
            };
            let stored = stored.ok_or(StoredError::Missing(index))?;
            bytes += stored.byte_len();
            entries.push(Entry::from_stored(index, stored));
            index = index.next();
        }
        Ok(entries)
    }

    /// What this log offers to one that ends with `named`.
    ///
    /// # Errors
    /// [`StoredError`].
    pub fn offer(&self, named: &LogId, wanted: Wanted) -> Result<Offer, StoredError> {
        let truncations = self.store.truncations();
        let offer = self.look(named, wanted);
        // What was read one after the other is of one log only where nothing was dropped meanwhile.
        if self.store.truncations() == truncations { offer } else { Err(StoredError::Truncated) }
    }

    fn look(&self, named: &LogId, wanted: Wanted) -> Result<Offer, StoredError> {
        let tail = self.store.tail();
        let last = tail.next_index.get().checked_sub(1);
        let last = last.map(|index| log_id(tail.last_term, RaftIndex::new(index)));
        let index = RaftIndex::new(named.index);
        let holds = match last {
            Some(last) if last == *named => Holds::It,
            Some(last) if last.index > named.index => {
                let there = self.read(index, index.next(), 1)?;
                if there.iter().any(|entry| entry.leader == named.leader_id) { Holds::It } else { Holds::Not }
            }
            _ => Holds::Not,
        };
        let mut entries = Vec::new();
        if (holds, wanted) == (Holds::It, Wanted::Entries) {
            entries = self.read(index.next(), tail.next_index, READ_BYTES)?;
        }
        Ok(Offer { last, holds, entries })
    }
}
