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

/// What a node offers another of its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The last entry of its log; `None` where it has none.
    pub last: Option<LogId>,
    /// The entries behind the one that was named, from the next on; none where its log does not hold that one.
    pub entries: Vec<Entry>,
}

/// Why stored entries were not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// An entry is missing below the end of the log.
    #[error("entry {0} is not in the log, and entries behind it are")]
    Missing(RaftIndex),
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

    /// What this log offers to one that ends with `last`: where it holds that entry, about [`READ_BYTES`] of what comes
    /// behind it.
    ///
    /// # Errors
    /// [`StoredError`].
    pub fn offer(&self, last: &LogId) -> Result<Offer, StoredError> {
        let tail = self.store.tail();
        let own_last = tail.next_index.get().checked_sub(1);
        let own_last = own_last.map(|index| log_id(tail.last_term, RaftIndex::new(index)));
        let index = RaftIndex::new(last.index);
        let mut entries = Vec::new();
        if index < tail.next_index {
            // Raft's log matching (5.3): with the same term at an index, two logs hold the same up to it.
            let same = self.read(index, index.next(), 1)?.iter().any(|entry| entry.leader == last.leader_id);
            if same {
                entries = self.read(index.next(), tail.next_index, READ_BYTES)?;
            }
        }
        Ok(Offer { last: own_last, entries })
    }
}
