//! Reading a segment back from disk and recomputing everything that can be recomputed.
//!
//! Sealing, verifying, scrubbing and rebuilding a tile sidecar all stand on this one reading. It does
//! not look at chains across records (a visitor may) nor at seal records.

use std::collections::BTreeMap;

use stele_proof::LeafIndex;
use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::record::{Record, Salt, SelfHash};
use stele_proof::tree::{CompactRange, leaf_hash};

use crate::batch::{Batch, BatchRecord};
use crate::directory::{LogDirectory, open_payloads, read_file_header, relative};
use crate::disk::{Disk, DiskFile, read_up_to};
use crate::error::LogError;
use crate::frame::{EntryKind, Placed, Tail};
use crate::number::{Alignment, Offset, RaftIndex, SegmentNumber, Term};
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
    let segment = start.tail.segment;
    let first = start.tail.leaves.next_leaf();
    let mut reader = Reader {
        disk,
        directory,
        depth,
        visit,
        tree: start.tree.clone(),
        tiles: TilesBuilder::new(segment, first, start.tail.next_index),
        digests: DigestTree::new(),
        self_hashes: Vec::new(),
        payloads: BTreeMap::new(),
        membership: None,
        payload_file: None,
        file_bytes: start.tail.offset.get(),
        link: start.tail.link,
        term: start.tail.last_term,
        alignment: start.tail.alignment,
    };
    let mut tail = start.tail;
    walk_segment(disk, directory, &mut tail, end, &mut |_, placed, body| reader.frame(placed, body))?;
    let leaves = LeafRange { first, end: tail.leaves.next_leaf() };
    Ok(SegmentReading {
        segment,
        leaves,
        first_index: start.tail.next_index,
        end: tail,
        file_bytes: reader.file_bytes,
        tiles: reader.tiles.finish(reader.link, reader.term, Offset::new(reader.file_bytes)),
        tree: reader.tree,
        digest_root: reader.digests.root(),
        self_hashes: reader.self_hashes,
        payloads: reader.payloads,
        membership: reader.membership,
    })
}

struct Reader<'r, 'v> {
    disk: &'r dyn Disk,
    directory: &'r LogDirectory,
    depth: Depth,
    visit: &'r mut VisitRecord<'v>,
    tree: CompactRange,
    tiles: TilesBuilder,
    digests: DigestTree,
    self_hashes: Vec<[u8; 32]>,
    payloads: BTreeMap<PayloadPart, u64>,
    membership: Option<Vec<u8>>,
    payload_file: Option<(PayloadPart, Box<dyn DiskFile>)>,
    file_bytes: u64,
    link: u32,
    term: Term,
    alignment: Alignment,
}

impl Reader<'_, '_> {
    fn frame(&mut self, placed: &Placed, body: &[u8]) -> Result<(), LogError> {
        let header = &placed.header;
        self.tiles.frame(placed.offset, header.first_leaf);
        self.link = crate::frame::stored_checksum(&placed.bytes);
        self.term = header.term;
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
        if header.kind == EntryKind::Batch && header.leaf_count > 0 {
            let batch = Batch::parse(body).map_err(|error| self.damaged(placed, None, &error.to_string()))?;
            for (leaf, record) in (header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()) {
                let (tree, tiles) = (&mut self.tree, &mut self.tiles);
                tree.append_observed(leaf_hash(record.bytes), &mut |node, hash| tiles.observe(node, hash));
                if self.depth != Depth::Leaves {
                    self.record(placed, leaf, record, &payload)?;
                }
            }
        }
        self.file_bytes = placed.offset.get() + header.frame_len(self.alignment);
        Ok(())
    }

    fn record(
        &mut self,
        placed: &Placed,
        leaf: LeafIndex,
        stored: BatchRecord<'_>,
        payload: &[u8],
    ) -> Result<(), LogError> {
        let record =
            Record::parse(stored.bytes).map_err(|error| self.damaged(placed, Some(leaf), &error.to_string()))?;
        let self_hash = record.self_hash();
        self.digests.push(*self_hash.as_bytes());
        self.self_hashes.push(*self_hash.as_bytes());
        let (at, len) = (stored.slot.0 as usize, stored.slot.1 as usize);
        let slot = payload.get(at..at + len).unwrap_or_default();
        if self.depth == Depth::Everything
            && let Err(what) = check_payload(&record, slot, len)
        {
            return Err(match placed.header.payload {
                Some(place) => {
                    let name = relative(SegmentFile::Payloads(placed.segment, place.part));
                    LogError::damaged(name, u64::from(place.offset) + at as u64, Some(leaf), what)
                }
                None => self.damaged(placed, Some(leaf), what),
            });
        }
        (self.visit)(leaf, &record, self_hash, slot).map_err(|what| self.damaged(placed, Some(leaf), &what))
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

    fn damaged(&self, placed: &Placed, leaf: Option<LeafIndex>, what: &str) -> LogError {
        let leaf = leaf.or(Some(placed.header.first_leaf));
        LogError::damaged(relative(SegmentFile::Frames(placed.segment)), placed.offset.get(), leaf, what)
    }
}

/// Checks a record's payload slot against its commitment.
///
/// # Errors
/// What is wrong.
pub fn check_payload(record: &Record<'_>, slot: &[u8], stored_len: usize) -> Result<(), &'static str> {
    match (record.payload(), slot.split_first_chunk::<{ Salt::LEN }>()) {
        (None, _) if stored_len == 0 => Ok(()),
        (None, _) => Err("a payload is stored that the record does not commit to"),
        (Some(_), _) if stored_len == 0 => Err("the payload that the record commits to is missing"),
        (Some(commitment), Some((salt, bytes))) if commitment.opens_with(&Salt::new(*salt), bytes) => Ok(()),
        (Some(_), _) => Err("the payload is not the one that the record commits to"),
    }
}
