//! C2SP tlog-tiles: the log tree and its records cut into immutable files of 256.
//!
//! | path | holds | bytes |
//! |---|---|---|
//! | `tile/<L>/<N>` | hashes N * 256 to N * 256 + 255 of level 8 * L | 256 hashes of 32 bytes |
//! | `tile/<L>/<N>.p/<W>` | the first W of them | W hashes of 32 bytes |
//! | `tile/entries/<N>` | records N * 256 to N * 256 + 255 | 256 times: length (u16 big-endian), record |
//! | `tile/entries/<N>.p/<W>` | the first W of them | W times the same |
//!
//! L is decimal, W is decimal from 1 to 255, N is written in groups of three digits, all but the last
//! with an `x` in front: 1234067 is `x001/x234/067`. A tree of *s* leaves has floor(s / 256^L) hashes
//! on tile level L; a tile of which it has none does not exist. The hashes of the levels between are
//! computed inside a tile, and only complete subtrees are ever joined.
//!
//! Coordinates that no tree of at most 2^64 - 1 leaves has cannot be built, and their paths are
//! refused: so L is at most 7 here, where C2SP allows 63.

mod bytes;
mod path;

#[cfg(test)]
mod tests;

pub use bytes::{DecodeError, EncodeError, Entries, EntryBundle, decode_tile, encode_bundle, encode_tile};
pub use path::{TilePath, TilePathError};

use crate::number::{LeafIndex, TreeSize};
use crate::tree::{CompactRange, Hash, Node};

/// The number of levels of the tree that one tile spans.
const TILE_HEIGHT: u8 = 8;
/// The number of hashes or records in a full tile.
const FULL_WIDTH: u16 = 1 << TILE_HEIGHT;
/// The highest tile level of any tree.
const MAX_TILE_LEVEL: u8 = Node::MAX_LEVEL / TILE_HEIGHT;

const _: () = assert!(MAX_TILE_LEVEL == 7);

/// The number of hashes or records in a tile: 1 to 256, of which 256 is full.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TileWidth(u16);

impl TileWidth {
    /// The width of a full tile, 256.
    pub const FULL: Self = Self(FULL_WIDTH);

    /// Wraps a width, or `None` unless it is 1 to 256.
    pub const fn new(width: u16) -> Option<Self> {
        if width == 0 || width > FULL_WIDTH { None } else { Some(Self(width)) }
    }

    /// The plain number, 1 to 256.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether the tile can grow no more.
    pub const fn is_full(self) -> bool {
        self.0 == FULL_WIDTH
    }

    /// The width of tile `index` on a level of `total` hashes or records; `None` if it has none.
    fn within(total: u64, index: u64) -> Option<Self> {
        let start = index.checked_mul(FULL_WIDTH.into())?;
        let left = total.checked_sub(start)?.min(FULL_WIDTH.into());
        Self::new(u16::try_from(left).expect("at most a full tile is left"))
    }
}

/// Which hash tile, and how wide: a level, a position in it, a width.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TileId {
    level: u8,
    index: u64,
    width: TileWidth,
}

impl TileId {
    /// The tile, or `None` if no tree has it.
    pub fn new(level: u8, index: u64, width: TileWidth) -> Option<Self> {
        let last = index.checked_mul(FULL_WIDTH.into())?.checked_add(u64::from(width.get()) - 1)?;
        Node::new(level.checked_mul(TILE_HEIGHT)?, last)?;
        Some(Self { level, index, width })
    }

    /// The tile as wide as a tree of the size has it, or `None` if that tree has none of it.
    pub fn at(level: u8, index: u64, size: TreeSize) -> Option<Self> {
        let width = TileWidth::within(hashes_on(level, size), index)?;
        Some(Self { level, index, width })
    }

    /// The tile level: the tile holds hashes of level 8 times this one.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The position among the tiles of the same level.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// The number of hashes in the tile.
    pub const fn width(self) -> TileWidth {
        self.width
    }

    /// The nodes whose hashes the tile holds, in order.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        let first = self.index * u64::from(FULL_WIDTH);
        (0..u64::from(self.width.get())).map(move |offset| {
            Node::new(self.level * TILE_HEIGHT, first + offset).expect("every hash of a tile is a node")
        })
    }

    /// The size of the smallest tree that has the tile this wide.
    pub fn end(self) -> TreeSize {
        let end = self.index * u64::from(FULL_WIDTH) + u64::from(self.width.get());
        TreeSize::new(end << (self.level * TILE_HEIGHT))
    }
}

/// Which entry bundle, and how wide: a position and a width.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BundleId {
    index: u64,
    width: TileWidth,
}

impl BundleId {
    /// The bundle, or `None` if no tree has it.
    pub fn new(index: u64, width: TileWidth) -> Option<Self> {
        TileId::new(0, index, width)?;
        Some(Self { index, width })
    }

    /// The bundle as wide as a tree of the size has it, or `None` if that tree has none of it.
    pub fn at(index: u64, size: TreeSize) -> Option<Self> {
        let width = TileWidth::within(size.get(), index)?;
        Some(Self { index, width })
    }

    /// The bundle that holds a record in a tree of the size, and how many records are before it in the
    /// bundle; `None` if the tree does not hold the record.
    pub fn holding(leaf: LeafIndex, size: TreeSize) -> Option<(Self, usize)> {
        let full = u64::from(FULL_WIDTH);
        let offset = usize::try_from(leaf.get() % full).expect("an offset is below 256");
        let bundle = Self::at(leaf.get() / full, size)?;
        (offset < usize::from(bundle.width.get())).then_some((bundle, offset))
    }

    /// The position among the bundles.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// The number of records in the bundle.
    pub const fn width(self) -> TileWidth {
        self.width
    }

    /// The leaf of the first record in the bundle.
    pub fn first_leaf(self) -> LeafIndex {
        LeafIndex::new(self.index * u64::from(FULL_WIDTH))
    }

    /// The size of the smallest tree that has the bundle this wide.
    pub fn end(self) -> TreeSize {
        TreeSize::new(self.first_leaf().get() + u64::from(self.width.get()))
    }
}

/// Where the hash of a node is to be found: it is the root over `count` hashes in a row of one tile.
///
/// For a node of a level that is a multiple of 8 the count is 1: its hash is in the tile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TileSlot {
    node: Node,
}

impl TileSlot {
    /// Where the hash of the node is to be found.
    pub const fn of(node: Node) -> Self {
        Self { node }
    }

    /// The level of the tile.
    pub const fn level(self) -> u8 {
        self.node.level() / TILE_HEIGHT
    }

    /// The position of the tile on its level.
    pub const fn index(self) -> u64 {
        self.node.index() >> (TILE_HEIGHT - self.height())
    }

    /// The tile as wide as a tree of the size has it, or `None` if the node is not complete there.
    pub fn tile(self, size: TreeSize) -> Option<TileId> {
        (self.node.end() <= size).then(|| TileId::at(self.level(), self.index(), size))?
    }

    /// How many hashes of the tile are before the first of the row.
    pub fn offset(self) -> usize {
        let in_tile = self.node.index() & ((1 << (TILE_HEIGHT - self.height())) - 1);
        usize::try_from(in_tile << self.height()).expect("an offset is below 256")
    }

    /// The number of hashes in the row, 1 to 128.
    pub const fn count(self) -> usize {
        1 << self.height()
    }

    /// The hash of the node, from the hashes of its tile; `None` if the tile is too narrow.
    pub fn hash(self, tile: &[Hash]) -> Option<Hash> {
        subtree_hash(tile.get(self.offset()..self.offset() + self.count())?)
    }

    /// How many levels the node is above the hashes of its tile.
    const fn height(self) -> u8 {
        self.node.level() % TILE_HEIGHT
    }
}

/// Every hash tile of a tree of the size, the lowest level first, each level from left to right.
///
/// Only the last of a level can be partial. The empty tree has none.
pub fn tiles(size: TreeSize) -> impl Iterator<Item = TileId> {
    (0..=MAX_TILE_LEVEL).flat_map(move |level| {
        let count = hashes_on(level, size).div_ceil(FULL_WIDTH.into());
        (0..count).filter_map(move |index| TileId::at(level, index, size))
    })
}

/// Every entry bundle of a tree of the size, from left to right; only the last can be partial.
pub fn bundles(size: TreeSize) -> impl Iterator<Item = BundleId> {
    let count = size.get().div_ceil(FULL_WIDTH.into());
    (0..count).filter_map(move |index| BundleId::at(index, size))
}

/// The root over a row of hashes of one tile: that of the perfect subtree they are the hashes of.
///
/// `None` unless there are 1, 2, 4, 8, ... or 256 hashes. The row must start at a multiple of its
/// length; 256 hashes, a full tile, give one hash of the next tile level.
pub fn subtree_hash(hashes: &[Hash]) -> Option<Hash> {
    if !hashes.len().is_power_of_two() || hashes.len() > usize::from(FULL_WIDTH) {
        return None;
    }
    let mut range = CompactRange::new();
    for hash in hashes {
        range.append(*hash);
    }
    Some(range.root())
}

/// The number of complete nodes of level 8 * `level` in a tree of the size.
fn hashes_on(level: u8, size: TreeSize) -> u64 {
    size.get().checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0)
}
