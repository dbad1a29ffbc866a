//! The growing right edge of a log tree, in space logarithmic in its size.

use core::fmt;

use crate::number::TreeSize;

use super::{Hash, Node, empty_root, join_peaks, node_hash};

/// One peak for each bit of a tree size.
const MAX_PEAKS: usize = 64;

/// A tree size and the peaks of that tree: enough to append and to know the root.
#[derive(Clone)]
pub struct CompactRange {
    size: TreeSize,
    /// The largest subtree first; what lies past the number of peaks is left over from earlier sizes.
    slots: [Hash; MAX_PEAKS],
}

/// A row of peaks that is not one of a tree of the size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a tree of size {size} has {expected} peaks, not {found}")]
pub struct WrongPeaks {
    /// The size of the tree.
    pub size: TreeSize,
    /// The number of 1 bits of the size.
    pub expected: usize,
    /// The number of hashes given.
    pub found: usize,
}

impl CompactRange {
    /// The tree without leaves.
    pub const fn new() -> Self {
        Self { size: TreeSize::new(0), slots: [Hash::new([0; Hash::LEN]); MAX_PEAKS] }
    }

    /// The tree of a size and of its peaks, the largest subtree first.
    ///
    /// The hashes are taken on trust: compare [`CompactRange::root`] with a known root.
    ///
    /// # Errors
    ///
    /// [`WrongPeaks`] unless there is one peak for each 1 bit of the size.
    pub fn from_peaks(size: TreeSize, peaks: Vec<Hash>) -> Result<Self, WrongPeaks> {
        let expected = peak_count(size);
        if peaks.len() != expected {
            return Err(WrongPeaks { size, expected, found: peaks.len() });
        }
        let mut range = Self::new();
        range.size = size;
        range.slots[..expected].copy_from_slice(&peaks);
        Ok(range)
    }

    /// The number of leaves.
    pub const fn size(&self) -> TreeSize {
        self.size
    }

    /// The hashes of the perfect subtrees that make up the tree, the largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.slots[..peak_count(self.size)]
    }

    /// Appends a leaf hash.
    ///
    /// # Panics
    ///
    /// If the tree already has 2^64 - 1 leaves.
    pub fn append(&mut self, leaf: Hash) {
        self.append_observed(leaf, &mut |_, _| ());
    }

    /// Appends a leaf hash and reports every node it completes: the leaf, then its ancestors upwards.
    ///
    /// Over all appends every perfect subtree of the tree is reported exactly once.
    ///
    /// # Panics
    ///
    /// If the tree already has 2^64 - 1 leaves.
    pub fn append_observed(&mut self, leaf: Hash, observe: &mut impl FnMut(Node, Hash)) {
        let grown = self.size.checked_add(1).expect("a tree has at most 2^64 - 1 leaves");
        let mut peaks = peak_count(self.size);
        let mut node = Node::inside(0, self.size.get());
        let mut hash = leaf;
        observe(node, hash);
        for level in 1..=grown.get().trailing_zeros() {
            peaks -= 1;
            node = Node::inside(level, node.index() >> 1);
            hash = node_hash(&self.slots[peaks], &hash);
            observe(node, hash);
        }
        self.slots[peaks] = hash;
        self.size = grown;
    }

    /// The root of the tree (RFC 6962 2.1), [`empty_root`] without leaves.
    pub fn root(&self) -> Hash {
        join_peaks(self.peaks()).unwrap_or_else(empty_root)
    }
}

impl Default for CompactRange {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for CompactRange {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.peaks() == other.peaks()
    }
}

impl Eq for CompactRange {}

impl fmt::Debug for CompactRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactRange").field("size", &self.size).field("peaks", &self.peaks()).finish()
    }
}

fn peak_count(size: TreeSize) -> usize {
    usize::try_from(size.get().count_ones()).expect("a tree size has 64 bits")
}
