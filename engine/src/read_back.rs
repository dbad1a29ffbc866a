//! Reading a segment back from disk and recomputing everything that can be recomputed.
//!
//! Sealing, verifying, scrubbing and rebuilding a tile sidecar all stand on this one reading. It does
//! not look at chains across records (a visitor may) nor at seal records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use stele_proof::LeafIndex;
use stele_proof::digest_tree::{self, Digest};
use stele_proof::record::{Record, Salt, SelfHash};
use stele_proof::tree::{CompactRange, leaf_hash};

use crate::batch::{Batch, BatchRecord};
use crate::directory::{LogDirectory, open_payloads, read_file_header, relative};
use crate::disk::{Access, Disk, DiskFile, read_up_to};
use crate::error::LogError;
use crate::frame::{EntryKind, Placed, Tail};
use crate::number::{Alignment, Offset, RaftIndex, SegmentNumber, Term};
use crate::seal::digest_of;
use crate::segment::{LeafRange, PayloadPart, PayloadPlace, SegmentFile};
use crate::tiles::TilesBuilder;
use crate::walk::walk_segment;

/// Where a segment begins: everything before it that it depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentStart {
    /// The tail before its first frame.
    pub tail: Tail,
    /// The tree before its first leaf.
    pub tree: CompactRange,
}

/// How much is recomputed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Frames and leaf hashes.
    Leaves,
    /// Also every record, its hash and the digest tree.
    Records,
    /// Also every payload.
    Everything,
}

/// What a segment holds, recomputed.
#[derive(Debug)]
pub struct SegmentReading {
    /// Which segment.
    pub segment: SegmentNumber,
    /// Its leaves.
    pub leaves: LeafRange,
    /// Its first entry.
    pub first_index: RaftIndex,
    /// The tail behind its last frame.
    pub end: Tail,
    /// The tree behind its last leaf.
    pub tree: CompactRange,
    /// Length of the segment file.
    pub file_bytes: u64,
    /// BLAKE3 of the whole file, where it was hashed along.
    pub file_digest: Option<Digest>,
    /// The bytes of its tile sidecar.
    pub tiles: Vec<u8>,
    /// The self hashes of its records; empty unless records were recomputed.
    pub self_hashes: Vec<[u8; 32]>,
    /// The root of its digest tree; `None` without leaves or unless records were recomputed.
    pub digest_root: Option<Digest>,
    /// The payload parts and their lengths.
    pub payloads: BTreeMap<PayloadPart, u64>,
    /// The body of its last membership entry.
    pub membership: Option<Vec<u8>>,
}

/// What is called for each record that was recomputed, with its payload slot: salt and payload, empty
/// where there is none or payloads are not read. An answer of `Err` is damage at that record.
pub type VisitRecord<'v> = dyn FnMut(LeafIndex, &Record<'_>, SelfHash, &[u8]) -> Result<(), String> + 'v;

/// Reads the segment that begins at `start`, up to its last frame or up to `end`.
///
/// # Errors
/// [`LogError::Damaged`] with file, offset and record; [`LogError::Disk`].
pub fn read_back(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: &SegmentStart,
    end: Option<&Tail>,
    depth: Depth,
    visit: &mut VisitRecord<'_>,
) -> Result<SegmentReading, LogError> {
    let mut leaves = LeafReader::new(start);
    let mut records = RecordReader::new(disk, directory, depth, visit, start);
    let mut tail = start.tail;
    walk_segment(disk, directory, &mut tail, end, &mut |_, placed, body| {
        let batch = batch_of(placed, body)?;
        leaves.frame(placed, batch.as_ref());
        records.frame(placed, body, batch.as_ref())
    })?;
    Ok(reading(start, tail, leaves.finish(), records.finish(), None))
}

/// As [`read_back`], on two threads: a second one walks the same frames and hashes leaves and tree. Of a
/// segment that is read to its last frame, the one that is done first hashes the whole file, too.
///
/// # Errors
/// As [`read_back`].
pub(crate) fn read_back_on_two(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: &SegmentStart,
    end: Option<&Tail>,
    depth: Depth,
    visit: &mut VisitRecord<'_>,
) -> Result<SegmentReading, LogError> {
    let is_digest_taken = AtomicBool::new(end.is_some());
    let digest = || -> Result<Option<Digest>, LogError> {
        if is_digest_taken.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        let path = directory.segment_file(SegmentFile::Frames(start.tail.segment));
        Ok(Some(digest_of(disk.open(&path, Access::Read)?.as_ref())?))
    };
    let tree_side = || {
        let mut leaves = LeafReader::new(start);
        let mut tail = start.tail;
        walk_segment(disk, directory, &mut tail, end, &mut |_, placed, body| {
            leaves.frame(placed, batch_of(placed, body)?.as_ref());
            Ok(())
        })?;
        Ok::<_, LogError>((leaves.finish(), digest()?))
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(tree_side);
        let mut records = RecordReader::new(disk, directory, depth, visit, start);
        let mut tail = start.tail;
        let walked = walk_segment(disk, directory, &mut tail, end, &mut |_, placed, body| {
            records.frame(placed, body, batch_of(placed, body)?.as_ref())
        });
        let found = walked.and_then(|()| Ok((records.finish(), digest()?)));
        let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What the records side finds comes first: it is what one thread would find.
        let (records, own_digest) = found?;
        let (leaves, digest) = other?;
        Ok(reading(start, tail, leaves, records, own_digest.or(digest)))
    })
}

fn batch_of<'b>(placed: &Placed, body: &'b [u8]) -> Result<Option<Batch<'b>>, LogError> {
    let header = &placed.header;
    if header.kind != EntryKind::Batch || header.leaf_count == 0 {
        return Ok(None);
    }
    Batch::parse(body).map(Some).map_err(|error| damaged(placed, None, &error.to_string()))
}

fn reading(
    start: &SegmentStart,
    tail: Tail,
    leaves: LeavesRead,
    records: RecordsRead,
    file_digest: Option<Digest>,
) -> SegmentReading {
    SegmentReading {
        segment: start.tail.segment,
        leaves: LeafRange { first: start.tail.leaves.next_leaf(), end: tail.leaves.next_leaf() },
        first_index: start.tail.next_index,
        end: tail,
        file_bytes: leaves.file_bytes,
        file_digest,
        tiles: leaves.tiles,
        tree: leaves.tree,
        digest_root: records.digest_root,
        self_hashes: records.self_hashes,
        payloads: records.payloads,
        membership: records.membership,
    }
}

/// The side of a reading that is about leaves and tree.
struct LeafReader {
    tree: CompactRange,
    tiles: TilesBuilder,
    file_bytes: u64,
    link: u32,
    term: Term,
    alignment: Alignment,
}

struct LeavesRead {
    tree: CompactRange,
    tiles: Vec<u8>,
    file_bytes: u64,
}

impl LeafReader {
    fn new(start: &SegmentStart) -> Self {
        let tail = &start.tail;
        Self {
            tree: start.tree.clone(),
            tiles: TilesBuilder::new(tail.segment, tail.leaves.next_leaf(), tail.next_index),
            file_bytes: tail.offset.get(),
            link: tail.link,
            term: tail.last_term,
            alignment: tail.alignment,
        }
    }

    fn frame(&mut self, placed: &Placed, batch: Option<&Batch<'_>>) {
        let header = &placed.header;
        self.tiles.frame(placed.offset, header.first_leaf);
        self.link = crate::frame::stored_checksum(&placed.bytes);
        self.term = header.term;
        let (tree, tiles) = (&mut self.tree, &mut self.tiles);
        for record in batch.into_iter().flat_map(Batch::records) {
            tree.append_observed(leaf_hash(record.bytes), &mut |node, hash| tiles.observe(node, hash));
        }
        self.file_bytes = placed.offset.get() + header.frame_len(self.alignment);
    }

    fn finish(self) -> LeavesRead {
        let tiles = self.tiles.finish(self.link, self.term, Offset::new(self.file_bytes));
        LeavesRead { tree: self.tree, tiles, file_bytes: self.file_bytes }
    }
}

/// Records that are parsed and hashed together.
const GROUP: usize = 64;

/// The side of a reading that is about records and payloads.
struct RecordReader<'r, 'v> {
    disk: &'r dyn Disk,
    directory: &'r LogDirectory,
    depth: Depth,
    visit: &'r mut VisitRecord<'v>,
    self_hashes: Vec<[u8; 32]>,
    payloads: BTreeMap<PayloadPart, u64>,
    membership: Option<Vec<u8>>,
    payload_file: Option<(PayloadPart, Box<dyn DiskFile>)>,
    alignment: Alignment,
}

struct RecordsRead {
    self_hashes: Vec<[u8; 32]>,
    digest_root: Option<Digest>,
    payloads: BTreeMap<PayloadPart, u64>,
    membership: Option<Vec<u8>>,
}

impl<'r, 'v> RecordReader<'r, 'v> {
    fn new(
        disk: &'r dyn Disk,
        directory: &'r LogDirectory,
        depth: Depth,
        visit: &'r mut VisitRecord<'v>,
        start: &SegmentStart,
    ) -> Self {
        Self {
            disk,
            directory,
            depth,
            visit,
            self_hashes: Vec::new(),
            payloads: BTreeMap::new(),
            membership: None,
            payload_file: None,
            alignment: start.tail.alignment,
        }
    }

    fn frame(&mut self, placed: &Placed, body: &[u8], batch: Option<&Batch<'_>>) -> Result<(), LogError> {
        let header = &placed.header;
        let payload = match (header.payload, self.depth) {
            (Some(place), Depth::Everything) => self.payload(placed, place)?,
            _ => Vec::new(),
        };
        if let Some(place) = header.payload {
            self.payloads.insert(place.part, self.alignment.round_up(place.end()));
        }
        if header.kind == EntryKind::Membership {
            self.membership = Some(body.to_vec());
        }
        match batch {
            Some(batch) if self.depth != Depth::Leaves => self.records(placed, batch, &payload),
            _ => Ok(()),
        }
    }

    fn records(&mut self, placed: &Placed, batch: &Batch<'_>, payload: &[u8]) -> Result<(), LogError> {
        let mut stored = (placed.header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()).peekable();
        let mut group = Vec::with_capacity(GROUP);
        let mut inputs = Vec::with_capacity(GROUP);
        let mut hashes = Vec::with_capacity(GROUP);
        while stored.peek().is_some() {
            group.clear();
            inputs.clear();
            hashes.clear();
            let mut fault = None;
            for (leaf, stored) in stored.by_ref().take(GROUP) {
                match Record::parse(stored.bytes) {
                    Ok(record) => group.push((leaf, record, stored)),
                    Err(error) => {
                        fault = Some(damaged(placed, Some(leaf), &error.to_string()));
                        break;
                    }
                }
            }
            inputs.extend(group.iter().map(|(_, record, _)| record.canonical()));
            SelfHash::of_many(&inputs, &mut hashes);
            // What lies before a record that cannot be read is told first.
            for ((leaf, record, stored), self_hash) in group.iter().zip(&hashes) {
                self.record(
                    placed,
                    *leaf,
                    record,
                    *self_hash,
                    payload.get(range_of(stored)).unwrap_or_default(),
                    stored,
                )?;
            }
            if let Some(fault) = fault {
                return Err(fault);
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        placed: &Placed,
        leaf: LeafIndex,
        record: &Record<'_>,
        self_hash: SelfHash,
        slot: &[u8],
        stored: &BatchRecord<'_>,
    ) -> Result<(), LogError> {
        self.self_hashes.push(*self_hash.as_bytes());
        let (at, len) = stored.slot;
        if self.depth == Depth::Everything
            && let Err(what) = check_payload(record, slot, len as usize)
        {
            return Err(match placed.header.payload {
                Some(place) => {
                    let name = relative(SegmentFile::Payloads(placed.segment, place.part));
                    LogError::damaged(name, u64::from(place.offset) + u64::from(at), Some(leaf), what)
                }
                None => damaged(placed, Some(leaf), what),
            });
        }
        (self.visit)(leaf, record, self_hash, slot).map_err(|what| damaged(placed, Some(leaf), &what))
    }

    fn finish(self) -> RecordsRead {
        RecordsRead {
            digest_root: digest_tree::root_of(&self.self_hashes),
            self_hashes: self.self_hashes,
            payloads: self.payloads,
            membership: self.membership,
        }
    }

    /// The payload slots of a frame; the padding behind them must be zero.
    fn payload(&mut self, placed: &Placed, place: PayloadPlace) -> Result<Vec<u8>, LogError> {
        let name = SegmentFile::Payloads(placed.segment, place.part);
        let leaf = Some(placed.header.first_leaf);
        if self.payload_file.as_ref().is_none_or(|(part, _)| *part != place.part) {
            let file = open_payloads(self.disk, self.directory, name, leaf)?;
            read_file_header(file.as_ref(), name)?;
            self.payload_file = Some((place.part, file));
        }
        let padded = self.alignment.round_up(place.end()) - u64::from(place.offset);
        let mut bytes = match &self.payload_file {
            Some((_, file)) => {
                read_up_to(file.as_ref(), u64::from(place.offset), usize::try_from(padded).unwrap_or(usize::MAX))?
            }
            None => Vec::new(),
        };
        let len = place.len as usize;
        if (bytes.len() as u64) < padded {
            let what = "the payload file ends too early";
            return Err(LogError::damaged(relative(name), u64::from(place.offset), leaf, what));
        }
        if let Some(at) = bytes[len..].iter().position(|byte| *byte != 0) {
            let what = "the padding behind the payloads is not zero";
            return Err(LogError::damaged(relative(name), place.end() + at as u64, leaf, what));
        }
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// Where a record's payload slot lies in its frame's payload.
fn range_of(stored: &BatchRecord<'_>) -> std::ops::Range<usize> {
    let at = stored.slot.0 as usize;
    at..at + stored.slot.1 as usize
}

fn damaged(placed: &Placed, leaf: Option<LeafIndex>, what: &str) -> LogError {
    let leaf = leaf.or(Some(placed.header.first_leaf));
    LogError::damaged(relative(SegmentFile::Frames(placed.segment)), placed.offset.get(), leaf, what)
}

/// Checks a record's payload slot against its commitment.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_payload(record: &Record<'_>, slot: &[u8], stored_len: usize) -> Result<(), &'static str> {
    match (record.payload(), slot.split_first_chunk::<{ Salt::LEN }>()) {
        (None, _) if stored_len == 0 => Ok(()),
        (None, _) => Err("a payload is stored that the record does not commit to"),
        (Some(_), _) if stored_len == 0 => Err("the payload that the record commits to is missing"),
        (Some(commitment), Some((salt, bytes))) if commitment.opens_with(&Salt::new(*salt), bytes) => Ok(()),
        (Some(_), _) => Err("the payload is not the one that the record commits to"),
    }
}
