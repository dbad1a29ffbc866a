//! Looking for records by their hash alone: what a leader asks of a record that is sent again when it remembers no
//! more what stands under its identity.
//!
//! Sealed segments are asked by their hash tables, newest first; the open one, and one without a good table, is read
//! once for all that is wanted. It needs no store and takes no lock.

use stele_proof::LeafIndex;
use stele_proof::record::SelfHash;

use crate::error::LogError;
use crate::number::SegmentNumber;
use crate::reader::{LogReader, Payloads, ReadRecord};
use crate::segment::LeafRange;

use super::hashes::{Table, TableFault, WantedHash};

/// Where records are, and whether the whole log was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundHashes {
    /// For each that was wanted, in order: where it is.
    pub leaves: Vec<Option<LeafIndex>>,
    /// Leaves that were not looked at: they are in segments without a hash table, and too many to be read.
    pub not_looked_at: u64,
}

/// Looks for records by `self_hash`; reads at most `most` leaves of sealed segments without a hash table.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub fn find_hashes(reader: &LogReader, wanted: &[SelfHash], most: u64) -> Result<FoundHashes, LogError> {
    let mut found = FoundHashes { leaves: vec![None; wanted.len()], not_looked_at: 0 };
    let mut room = most;
    let end = reader.size().next_leaf();
    let mut open = LeafIndex::new(0);
    for segment in (0..reader.inventory().sealed.get()).rev().map(SegmentNumber::new) {
        let leaves = match in_table(reader, segment, wanted, &mut found)? {
            Ok(leaves) => leaves,
            // Whatever the fault: the table is only derived.
            Err(_fault) => {
                let leaves = reader.segment(segment)?.leaves();
                match room.checked_sub(leaves.len()) {
                    Some(left) => {
                        room = left;
                        read(reader, leaves, wanted, &mut found)?;
                    }
                    None => found.not_looked_at += leaves.len(),
                }
                leaves
            }
        };
        open = open.max(leaves.end);
        if found.leaves.iter().all(Option::is_some) {
            return Ok(found);
        }
    }
    read(reader, LeafRange { first: open, end }, wanted, &mut found)?;
    Ok(found)
}

fn in_table(
    reader: &LogReader,
    segment: SegmentNumber,
    wanted: &[SelfHash],
    found: &mut FoundHashes,
) -> Result<Result<LeafRange, TableFault>, LogError> {
    let table = match Table::open(reader.disk(), reader.directory(), segment) {
        Ok(table) => table,
        Err(fault) => return Ok(Err(fault)),
    };
    for (place, hash) in wanted.iter().enumerate() {
        if found.leaves[place].is_some() {
            continue;
        }
        let candidates = match table.look_up(&WantedHash::of(hash)) {
            Ok(candidates) => candidates,
            Err(fault) => return Ok(Err(fault)),
        };
        for first in candidates {
            let end = LeafIndex::new(first.get() + 1);
            read(reader, LeafRange { first, end }, wanted, found)?;
        }
    }
    Ok(Ok(table.leaves()))
}

/// Looks at every record of a range.
fn read(reader: &LogReader, range: LeafRange, wanted: &[SelfHash], found: &mut FoundHashes) -> Result<(), LogError> {
    if range.first >= range.end {
        return Ok(());
    }
    reader.read(range.first, range.end, Payloads::Leave, &mut |record: ReadRecord| {
        let hash = SelfHash::of(&record.canonical);
        for (place, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted == hash) {
            found.leaves[place] = Some(record.index);
        }
        Ok::<_, LogError>(())
    })
}
