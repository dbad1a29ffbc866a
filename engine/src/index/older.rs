//! Looking for records by their hash alone: what a leader asks of records that are sent again when it remembers no
//! more what stands under their identities.
//!
//! Everything that is wanted is looked for at once. Sealed segments are asked by their hash tables, newest first: a page
//! of a table is read once, whatever the number of hashes, and so is a frame that may hold some of them. The open
//! segment, and one without a good table, is read once. It needs no store and takes no lock.
//!
//! What is read is bounded ([`Bounds`]). Behind the bound it goes on with the first hash that is still not found, alone,
//! so that each look tells at least that one; of the others it is not known.

use std::collections::HashMap;

use stele_proof::LeafIndex;
use stele_proof::record::SelfHash;

use crate::error::LogError;
use crate::frame::read_u64;
use crate::number::{Offset, SegmentNumber};
use crate::reader::{LogReader, Payloads, ReadRecord};
use crate::segment::LeafRange;

use super::hashes::{Table, TableFault};

/// The most that is read for one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Leaves of sealed segments without a hash table.
    pub leaves: u64,
    /// Pages of hash tables, and frames that they point at.
    pub pages: u64,
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// Here.
    At(LeafIndex),
    /// Not in the log, all of which was looked at.
    Nowhere,
    /// Not in what was looked at, which is not all of the log.
    Unknown,
}

/// What a look found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundHashes {
    /// For each that was wanted, in order.
    pub whereabouts: Vec<Whereabouts>,
    /// Leaves that were read because no table tells of them; with those of the open segment.
    pub leaves_read: u64,
    /// Pages of hash tables and frames that were read.
    pub pages_read: u64,
}

/// Looks for records by `self_hash`.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub fn find_hashes(reader: &LogReader, wanted: &[SelfHash], bounds: Bounds) -> Result<FoundHashes, LogError> {
    let mut search = Search::new(reader, wanted, bounds);
    let mut open = LeafIndex::new(0);
    for segment in (0..reader.inventory().sealed.get()).rev().map(SegmentNumber::new) {
        open = open.max(search.sealed(segment)?.end);
        if search.left.is_empty() {
            break;
        }
    }
    if !search.left.is_empty() {
        search.read(LeafRange { first: open, end: reader.size().next_leaf() })?;
    }
    Ok(search.finish(wanted))
}

/// A look that is under way.
struct Search<'r> {
    reader: &'r LogReader,
    bounds: Bounds,
    /// What was found; `None` for the others.
    found: HashMap<SelfHash, Option<LeafIndex>>,
    /// What is still looked for: the key in hash tables, by which they ascend, and the place among all that is wanted.
    left: Vec<(u64, usize, SelfHash)>,
    /// A segment was left out.
    has_gap: bool,
    /// The one that is gone on with behind the bound.
    alone: Option<SelfHash>,
    leaves_read: u64,
    pages_read: u64,
}

impl<'r> Search<'r> {
    fn new(reader: &'r LogReader, wanted: &[SelfHash], bounds: Bounds) -> Self {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut left = Vec::with_capacity(wanted.len());
        for (place, hash) in wanted.iter().enumerate() {
            if found.insert(*hash, None).is_none() {
                left.push((read_u64(hash.as_bytes(), 0), place, *hash));
            }
        }
        left.sort_unstable();
        Self { reader, bounds, found, left, has_gap: false, alone: None, leaves_read: 0, pages_read: 0 }
    }

    /// Looks at a sealed segment; answers its leaves.
    fn sealed(&mut self, segment: SegmentNumber) -> Result<LeafRange, LogError> {
        if self.pages_read >= self.bounds.pages && self.alone.is_none() {
            let first = self.left.iter().min_by_key(|(_, place, _)| *place).copied();
            self.alone = first.map(|(_, _, hash)| hash);
            self.left = first.into_iter().collect();
        }
        // Whatever the fault: the table is only derived.
        if let Ok(leaves) = self.in_table(segment)? {
            return Ok(leaves);
        }
        let leaves = self.reader.segment(segment)?.leaves();
        if self.leaves_read.saturating_add(leaves.len()) <= self.bounds.leaves {
            self.read(leaves)?;
        } else {
            self.has_gap = true;
        }
        Ok(leaves)
    }

    fn in_table(&mut self, segment: SegmentNumber) -> Result<Result<LeafRange, TableFault>, LogError> {
        let table = match Table::open(self.reader.disk(), self.reader.directory(), segment) {
            Ok(table) => table,
            Err(fault) => return Ok(Err(fault)),
        };
        let keys = self.left.iter().map(|(key, _, _)| *key);
        let candidates = match table.look_up_all(keys, &mut self.pages_read) {
            Ok(candidates) => candidates,
            Err(fault) => return Ok(Err(fault)),
        };
        self.candidates(segment, candidates)?;
        Ok(Ok(table.leaves()))
    }

    /// Looks at the records that a table points at, those of a frame together.
    fn candidates(&mut self, segment: SegmentNumber, mut leaves: Vec<LeafIndex>) -> Result<(), LogError> {
        if leaves.is_empty() {
            return Ok(());
        }
        leaves.sort_unstable();
        leaves.dedup();
        let tiles = self.reader.segment(segment)?;
        let frame = |leaf: &LeafIndex| -> Option<Offset> { tiles.frame_of_leaf(*leaf).map(|frame| frame.offset) };
        for together in leaves.chunk_by(|one, next| frame(one) == frame(next)) {
            let (Some(first), Some(last)) = (together.first(), together.last()) else { continue };
            self.pages_read += 1;
            let range = LeafRange { first: *first, end: LeafIndex::new(last.get() + 1) };
            self.each(range, &|leaf| together.binary_search(&leaf).is_ok())?;
        }
        Ok(())
    }

    /// Looks at every record of a range.
    fn read(&mut self, range: LeafRange) -> Result<(), LogError> {
        if range.first >= range.end {
            return Ok(());
        }
        self.leaves_read += range.len();
        self.each(range, &|_| true)
    }

    fn each(&mut self, range: LeafRange, counts: &dyn Fn(LeafIndex) -> bool) -> Result<(), LogError> {
        let (reader, found) = (self.reader, &mut self.found);
        reader.read(range.first, range.end, Payloads::Leave, &mut |record: ReadRecord| {
            if counts(record.index)
                && let Some(place) = found.get_mut(&SelfHash::of(&record.canonical))
            {
                *place = Some(record.index);
            }
            Ok::<_, LogError>(())
        })?;
        self.left.retain(|(_, _, hash)| self.found.get(hash).is_some_and(Option::is_none));
        Ok(())
    }

    fn finish(self, wanted: &[SelfHash]) -> FoundHashes {
        let all = |hash: &SelfHash| !self.has_gap && self.alone.is_none_or(|alone| alone == *hash);
        let of = |hash: &SelfHash| match self.found.get(hash).copied().flatten() {
            Some(leaf) => Whereabouts::At(leaf),
            None if all(hash) => Whereabouts::Nowhere,
            None => Whereabouts::Unknown,
        };
        FoundHashes {
            whereabouts: wanted.iter().map(of).collect(),
            leaves_read: self.leaves_read,
            pages_read: self.pages_read,
        }
    }
}
