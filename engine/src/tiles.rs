//! The tile sidecar of a sealed segment: its frame table, and the hashes of the log tree that are
//! complete with it. File `<16 hex digits>.tiles`, derived from the segment file.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELTILE` |
//! | 8 | 32 | checksum | BLAKE3 of all bytes from 40 on |
//! | 40 | 2 | format version | 2 |
//! | 42 | 2 | zero | |
//! | 44 | 4 | frame count `n` | at least 1 |
//! | 48 | 8 | segment number | |
//! | 56 | 8 | first leaf | the number of leaves before the segment |
//! | 64 | 8 | leaf count | |
//! | 72 | 8 | first raft index | |
//! | 80 | 8 | last term | of the last frame |
//! | 88 | 8 | end | where the last frame ends, padding included |
//! | 96 | 4 | last link | the header checksum of the last frame |
//! | 100 | 4 | zero | |
//! | 104 | 16 `n` | frame table | per frame: file offset, 8 bytes, and first leaf, 8 bytes |
//! | .. | 32 each | hashes of the nodes of level 0 | one per leaf, in order |
//! | .. | 32 each | of levels 4, 8, 12, ... | each in order, up to the last level that has any |
//!
//! Little-endian; replaced as a whole, never changed. Every fourth level of the tree is stored, so that
//! any other node takes at most 7 hashes of a stored one's row; levels 0, 8, 16, ... are what tiles hold
//! (C2SP tlog-tiles). Magic, checksum and version keep their places in all versions. The version is the
//! sidecar's own: a file of an older one counts as missing. Version 1 had only levels 0, 8, 16, ...
//!
//! I-TILES-1: the hash of a node of a stored level L lies in the sidecar of the segment that completes
//! it: first leaf < (index + 1) * 2^L <= first leaf + leaf count. So over all segments each is
//! stored once.
//! I-TILES-2: frame offsets ascend, from the place of a segment's first frame up to the end; first
//! leaves never descend.

use core::ops::Range;

use stele_proof::LeafIndex;
use stele_proof::tree::{self, Hash, Node};

use crate::frame::{self, read_u32, read_u64};
use crate::number::{Offset, RaftIndex, SegmentNumber, Term};
use crate::segment::{FRAMES_START, LeafRange};

/// Bytes before the frame table.
pub const HEADER_BYTES: usize = 104;
/// Bytes of a frame in the frame table.
pub const FRAME_ROW_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"STELTILE";
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 40;
/// The version of this format, which is derived and has one of its own.
pub const TILES_VERSION: u16 = 2;
/// Every level of the tree that is a multiple of this one is stored.
pub const STORED_STEP: u8 = 4;
/// Stored levels that a tree of 2^64 - 1 leaves has.
const STORED_LEVELS: u8 = 16;
/// The binary logarithm of the largest block: a segment lies in one.
const LARGEST_BLOCK_HEIGHT: u32 = 20;
/// What every frame begins on a multiple of: the smallest frame alignment.
const SMALLEST_ALIGNMENT: u64 = 8;

const _: () = assert!(HEADER_BYTES == 8 + 32 + 2 + 2 + 4 + 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4);
const _: () = assert!(CHECKED_FROM == 8 + 32);
const _: () = assert!(STORED_LEVELS == Node::MAX_LEVEL / STORED_STEP + 1);

/// Why bytes are not the sidecar of a segment. The file is derived: it can be built again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TilesFault {
    /// Not what was written.
    #[error("the tile sidecar is damaged")]
    Damaged,
    /// A good file of a format that is no longer written: it counts as missing.
    #[error("the tile sidecar has format version {0}, which is older than {TILES_VERSION}")]
    OlderVersion(u16),
    /// A good file of a format this version does not know.
    #[error("format version {0} is unknown to this version, which knows {TILES_VERSION}; use a newer release")]
    UnknownVersion(u16),
    /// A good file of another segment.
    #[error("the tile sidecar is that of segment {0}")]
    OtherSegment(SegmentNumber),
    /// A field holds what is never written.
    #[error("the tile sidecar holds an impossible {0}")]
    Field(&'static str),
}

/// Where a frame lies, from the frame table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePlace {
    /// Its position in the Raft log.
    pub index: RaftIndex,
    /// Where in the segment file it begins.
    pub offset: Offset,
    /// Where it ends, padding included.
    pub end: Offset,
    /// Leaves before it.
    pub first_leaf: LeafIndex,
}

/// The sidecar of a segment, read as a whole and checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tiles {
    bytes: Vec<u8>,
    geometry: Geometry,
}

/// What the header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Geometry {
    segment: SegmentNumber,
    leaves: LeafRange,
    first_index: RaftIndex,
    frame_count: u32,
    last_link: u32,
    last_term: Term,
    end: Offset,
}

impl Tiles {
    /// Reads the sidecar of a segment.
    ///
    /// # Errors
    /// [`TilesFault`] for anything that [`TilesBuilder`] would not have written for it. Whether the
    /// hashes are those of the segment's records is not checked.
    pub fn decode(bytes: Vec<u8>, segment: SegmentNumber) -> Result<Self, TilesFault> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(TilesFault::Damaged)?;
        if header[..8] != MAGIC || header[8..CHECKED_FROM] != *blake3::hash(&bytes[CHECKED_FROM..]).as_bytes() {
            return Err(TilesFault::Damaged);
        }
        let version = u16::from_le_bytes([header[40], header[41]]);
        match version {
            TILES_VERSION => {}
            ..TILES_VERSION => return Err(TilesFault::OlderVersion(version)),
            _ => return Err(TilesFault::UnknownVersion(version)),
        }
        let geometry = Geometry::decode(header)?;
        if geometry.segment != segment {
            return Err(TilesFault::OtherSegment(geometry.segment));
        }
        if bytes.len() as u64 != geometry.file_len() {
            return Err(TilesFault::Field("length"));
        }
        let tiles = Self { bytes, geometry };
        tiles.check_frames()?;
        Ok(tiles)
    }

    /// I-TILES-2.
    fn check_frames(&self) -> Result<(), TilesFault> {
        let mut offset = FRAMES_START;
        let mut first_leaf = self.geometry.leaves.first;
        for frame in self.frames() {
            if frame.offset != offset || !is_frame(frame.offset, frame.end) {
                return Err(TilesFault::Field("frame offset"));
            }
            let at_start = frame.index == self.geometry.first_index;
            if frame.first_leaf < first_leaf
                || (at_start && frame.first_leaf != first_leaf)
                || frame.first_leaf > self.geometry.leaves.end
            {
                return Err(TilesFault::Field("first leaf of a frame"));
            }
            offset = frame.end;
            first_leaf = frame.first_leaf;
        }
        Ok(())
    }

    /// The segment.
    pub const fn segment(&self) -> SegmentNumber {
        self.geometry.segment
    }

    /// The leaves of the segment; a segment may have none.
    pub const fn leaves(&self) -> LeafRange {
        self.geometry.leaves
    }

    /// How many frames the segment has, at least 1.
    pub const fn frame_count(&self) -> u32 {
        self.geometry.frame_count
    }

    /// The index of the first frame.
    pub const fn first_index(&self) -> RaftIndex {
        self.geometry.first_index
    }

    /// The index of the last frame.
    pub const fn last_index(&self) -> RaftIndex {
        RaftIndex::new(self.geometry.first_index.get() + (self.geometry.frame_count - 1) as u64)
    }

    /// The header checksum of the last frame: what the first frame of the next segment links to.
    pub const fn last_link(&self) -> u32 {
        self.geometry.last_link
    }

    /// The term of the last frame.
    pub const fn last_term(&self) -> Term {
        self.geometry.last_term
    }

    /// Where the last frame ends, padding included: the length of the sealed segment file.
    pub const fn end(&self) -> Offset {
        self.geometry.end
    }

    /// The file's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash of a leaf of the segment; `None` for all other leaves.
    pub fn leaf_hash(&self, leaf: LeafIndex) -> Option<Hash> {
        self.stored_hash(Node::leaf(leaf)?)
    }

    /// The hash of a node of a stored level; `None` where another segment completes the node
    /// (I-TILES-1), or its level is not stored.
    pub fn stored_hash(&self, node: Node) -> Option<Hash> {
        if !node.level().is_multiple_of(STORED_STEP) {
            return None;
        }
        let indexes = completed(self.geometry.leaves, node.level());
        if !indexes.contains(&node.index()) {
            return None;
        }
        let lower = stored_levels().take_while(|lower| *lower < node.level());
        let before: u64 = lower.map(|lower| count(&completed(self.geometry.leaves, lower))).sum();
        let at = self.geometry.hashes_start() + (before + node.index() - indexes.start) * Hash::LEN as u64;
        let hash = self.bytes.get(usize::try_from(at).ok()?..)?.first_chunk()?;
        Some(Hash::new(*hash))
    }

    /// The frame of an entry; `None` if it lies in another segment.
    pub fn frame(&self, index: RaftIndex) -> Option<FramePlace> {
        let position = index.get().checked_sub(self.geometry.first_index.get())?;
        let position = u32::try_from(position).ok()?;
        (position < self.geometry.frame_count).then(|| self.place(position))
    }

    /// The frame that holds a leaf; `None` if it lies in another segment.
    pub fn frame_of_leaf(&self, leaf: LeafIndex) -> Option<FramePlace> {
        if !self.geometry.leaves.contains(leaf) {
            return None;
        }
        // A frame without leaves has the first leaf of the frame after it: the last one counts.
        let rows = self.rows();
        let behind = rows.partition_point(|row| read_u64(row, 8) <= leaf.get());
        Some(self.place(u32::try_from(behind.checked_sub(1)?).ok()?))
    }

    /// All frames of the segment in order.
    pub fn frames(&self) -> impl Iterator<Item = FramePlace> {
        (0..self.geometry.frame_count).map(|position| self.place(position))
    }

    fn rows(&self) -> &[[u8; FRAME_ROW_BYTES]] {
        let table = &self.bytes[HEADER_BYTES..];
        &table.as_chunks().0[..self.geometry.frame_count as usize]
    }

    fn place(&self, position: u32) -> FramePlace {
        let rows = self.rows();
        let row = &rows[position as usize];
        let end = rows.get(position as usize + 1).map_or(self.geometry.end, |next| Offset::new(read_u64(next, 0)));
        FramePlace {
            index: RaftIndex::new(self.geometry.first_index.get() + u64::from(position)),
            offset: Offset::new(read_u64(row, 0)),
            end,
            first_leaf: LeafIndex::new(read_u64(row, 8)),
        }
    }
}

impl Geometry {
    fn decode(header: &[u8; HEADER_BYTES]) -> Result<Self, TilesFault> {
        if header[42..44] != [0; 2] || header[100..104] != [0; 4] {
            return Err(TilesFault::Field("reserved byte"));
        }
        let first = LeafIndex::new(read_u64(header, 56));
        let end = first.checked_add(read_u64(header, 64)).ok_or(TilesFault::Field("leaf count"))?;
        let geometry = Self {
            segment: SegmentNumber::new(read_u64(header, 48)),
            leaves: LeafRange { first, end },
            first_index: RaftIndex::new(read_u64(header, 72)),
            frame_count: read_u32(header, 44),
            last_link: read_u32(header, 96),
            last_term: Term::new(read_u64(header, 80)),
            end: Offset::new(read_u64(header, 88)),
        };
        if !is_in_one_block(geometry.leaves) {
            return Err(TilesFault::Field("leaf count"));
        }
        let frames = u64::from(geometry.frame_count);
        if frames == 0 || geometry.first_index.get().checked_add(frames).is_none() {
            return Err(TilesFault::Field("frame count"));
        }
        Ok(geometry)
    }

    /// The header, without its checksum.
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[40..42].copy_from_slice(&TILES_VERSION.to_le_bytes());
        header[44..48].copy_from_slice(&self.frame_count.to_le_bytes());
        header[48..56].copy_from_slice(&self.segment.get().to_le_bytes());
        header[56..64].copy_from_slice(&self.leaves.first.get().to_le_bytes());
        header[64..72].copy_from_slice(&self.leaves.len().to_le_bytes());
        header[72..80].copy_from_slice(&self.first_index.get().to_le_bytes());
        header[80..88].copy_from_slice(&self.last_term.get().to_le_bytes());
        header[88..96].copy_from_slice(&self.end.get().to_le_bytes());
        header[96..100].copy_from_slice(&self.last_link.to_le_bytes());
        header
    }

    fn hashes_start(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.frame_count) * FRAME_ROW_BYTES as u64
    }

    fn file_len(&self) -> u64 {
        let hashes: u64 = stored_levels().map(|level| count(&completed(self.leaves, level))).sum();
        self.hashes_start() + hashes * Hash::LEN as u64
    }
}

/// The levels of the tree of which every node is stored.
fn stored_levels() -> impl Iterator<Item = u8> {
    (0..STORED_LEVELS).map(|position| position * STORED_STEP)
}

/// The nodes of a level of the tree that are complete at the end of the leaves and were not before them.
fn completed(leaves: LeafRange, level: u8) -> Range<u64> {
    let complete = |leaves: u64| leaves.checked_shr(u32::from(level)).unwrap_or(0);
    complete(leaves.first.get())..complete(leaves.end.get())
}

const fn count(indexes: &Range<u64>) -> u64 {
    indexes.end - indexes.start
}

/// Whether leaves lie in one block of the largest height, as those of any segment do (I-FRAME-3).
pub(crate) fn is_in_one_block(leaves: LeafRange) -> bool {
    match leaves.end.get().checked_sub(1) {
        Some(last) if !leaves.is_empty() => leaves.first.get() >> LARGEST_BLOCK_HEIGHT == last >> LARGEST_BLOCK_HEIGHT,
        _ => true,
    }
}

/// Whether a frame can lie between two positions.
pub(crate) fn is_frame(offset: Offset, end: Offset) -> bool {
    let len = end.get().checked_sub(offset.get());
    len.is_some_and(|len| len >= frame::HEADER_BYTES as u64) && end.get().is_multiple_of(SMALLEST_ALIGNMENT)
}

/// Collects a sidecar while a segment is walked from its first frame to its last.
#[derive(Clone, Debug)]
pub struct TilesBuilder {
    segment: SegmentNumber,
    first_leaf: LeafIndex,
    first_index: RaftIndex,
    /// The frame table as it will be written.
    frames: Vec<u8>,
    last_frame: Option<(Offset, LeafIndex)>,
    /// Per stored level, the hashes one after the other.
    levels: [Vec<u8>; STORED_LEVELS as usize],
}

impl TilesBuilder {
    /// Begins with the first leaf and the first raft index of a segment.
    pub const fn new(segment: SegmentNumber, first_leaf: LeafIndex, first_index: RaftIndex) -> Self {
        let levels = [const { Vec::new() }; STORED_LEVELS as usize];
        Self { segment, first_leaf, first_index, frames: Vec::new(), last_frame: None, levels }
    }

    /// Takes the next frame, with or without leaves, before its leaves.
    ///
    /// # Panics
    /// Where it cannot follow the frame before (I-TILES-2), or is not the one with the next leaf.
    pub fn frame(&mut self, offset: Offset, first_leaf: LeafIndex) {
        let follows = self.last_frame.map_or(offset == FRAMES_START, |(last, _)| is_frame(last, offset));
        assert!(follows, "I-TILES-2: a frame at {offset}");
        assert_eq!(first_leaf.get(), self.first_leaf.get() + self.leaf_count(), "I-TILES-2: leaves before a frame");
        self.frames.extend_from_slice(&offset.get().to_le_bytes());
        self.frames.extend_from_slice(&first_leaf.get().to_le_bytes());
        self.last_frame = Some((offset, first_leaf));
    }

    /// Takes a node that a leaf completes: what [`tree::CompactRange::append_observed`] reports. Keeps it if
    /// its level is stored.
    ///
    /// # Panics
    /// Where a node is missing before it (I-TILES-1).
    pub fn observe(&mut self, node: Node, hash: Hash) {
        if !node.level().is_multiple_of(STORED_STEP) {
            return;
        }
        let hashes = &mut self.levels[usize::from(node.level() / STORED_STEP)];
        let first = self.first_leaf.get() >> node.level();
        assert_eq!(node.index(), first + (hashes.len() / Hash::LEN) as u64, "I-TILES-1: {node}");
        hashes.extend_from_slice(hash.as_bytes());
    }

    /// The file's bytes, given the last frame's header checksum, its term, and where it ends.
    ///
    /// # Panics
    /// Where what was collected is not a segment: no frame, leaves beyond a block, nodes missing.
    pub fn finish(self, last_link: u32, last_term: Term, end: Offset) -> Vec<u8> {
        assert!(self.last_frame.is_some_and(|(last, _)| is_frame(last, end)), "I-TILES-2: an end at {end}");
        let first = self.first_leaf;
        let leaves = LeafRange { first, end: LeafIndex::new(first.get() + self.leaf_count()) };
        assert!(is_in_one_block(leaves), "I-FRAME-3: leaves {first} to {}", leaves.end);
        for (level, hashes) in stored_levels().zip(&self.levels) {
            let expected = count(&completed(leaves, level)) * Hash::LEN as u64;
            assert_eq!(hashes.len() as u64, expected, "I-TILES-1: bytes of level {level}");
        }
        let frame_count = u32::try_from(self.frames.len() / FRAME_ROW_BYTES).expect("frames of a segment fit 32 bits");
        let Self { segment, first_index, .. } = self;
        let geometry = Geometry { segment, leaves, first_index, frame_count, last_link, last_term, end };
        let mut bytes = Vec::with_capacity(usize::try_from(geometry.file_len()).unwrap_or(0));
        bytes.extend_from_slice(&geometry.encode());
        bytes.extend_from_slice(&self.frames);
        self.levels.iter().for_each(|hashes| bytes.extend_from_slice(hashes));
        let checksum = blake3::hash(&bytes[CHECKED_FROM..]);
        bytes[8..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
        bytes
    }

    fn leaf_count(&self) -> u64 {
        (self.levels[0].len() / Hash::LEN) as u64
    }
}

/// The nodes of a stored level that together are one node of the log tree: 1, 2, 4 or 8, in order.
pub fn stored_row(node: Node) -> impl Iterator<Item = Node> {
    let height = node.level() % STORED_STEP;
    let first = node.index() << height;
    // All of them end where the node does, or before.
    (first..first + (1 << height)).filter_map(move |index| Node::new(node.level() - height, index))
}

/// The leaf that completes a node, whose segment's sidecar has its hash where its level is stored
/// (I-TILES-1).
pub const fn completing_leaf(node: Node) -> LeafIndex {
    LeafIndex::new(node.end().get() - 1)
}

/// The hash of a node of any level, from those of its [`stored_row`].
///
/// `stored_hash` is asked, in order, for each node of the row: they may lie in the sidecars of several
/// segments.
///
/// # Errors
/// The first error of `stored_hash`.
pub fn node_hash_from<E>(node: Node, mut stored_hash: impl FnMut(Node) -> Result<Hash, E>) -> Result<Hash, E> {
    let mut row = [Hash::new([0; Hash::LEN]); 1 << (STORED_STEP - 1)];
    let mut len = 0;
    for (slot, stored) in row.iter_mut().zip(stored_row(node)) {
        *slot = stored_hash(stored)?;
        len += 1;
    }
    while len > 1 {
        len /= 2;
        for at in 0..len {
            row[at] = tree::node_hash(&row[2 * at], &row[2 * at + 1]);
        }
    }
    Ok(row[0])
}

#[cfg(test)]
mod tests;
