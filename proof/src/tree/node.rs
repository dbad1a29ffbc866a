//! The perfect subtrees of the log tree, by position.

use core::fmt;

use crate::number::{LeafIndex, TreeSize};

/// A perfect subtree: 2^`level` leaves, the first of them leaf `index` * 2^`level`.
///
/// Level 0 are the leaves. A node is complete, and final, in every tree of at least [`Node::end`]
/// leaves; every node that can be built ends at a size that can be represented.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    level: u8,
    index: u64,
}

impl Node {
    /// The highest level of a node: 2^64 leaves are one more than a tree can have.
    pub const MAX_LEVEL: u8 = 63;

    /// The node at a level and a position in it, or `None` if it would end beyond the largest tree.
    pub const fn new(level: u8, index: u64) -> Option<Self> {
        if level > Self::MAX_LEVEL || index >= u64::MAX >> level {
            return None;
        }
        Some(Self { level, index })
    }

    /// The leaf as a node of level 0, or `None` for the index that no tree can hold.
    pub const fn leaf(index: LeafIndex) -> Option<Self> {
        Self::new(0, index.get())
    }

    /// A node that the caller knows to lie inside a tree.
    ///
    /// # Panics
    ///
    /// If it would end beyond the largest tree.
    pub(super) fn inside(level: u32, index: u64) -> Self {
        let level = u8::try_from(level).expect("a level is below 64");
        Self::new(level, index).expect("a node inside a tree ends at a size")
    }

    /// The height over the leaves, 0 to 63.
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The position among the nodes of the same level.
    pub const fn index(self) -> u64 {
        self.index
    }

    /// The first leaf of the subtree.
    pub const fn first_leaf(self) -> LeafIndex {
        LeafIndex::new(self.index << self.level)
    }

    /// The size of the smallest tree in which the node is complete.
    pub const fn end(self) -> TreeSize {
        TreeSize::new((self.index + 1) << self.level)
    }

    /// The node one level up that holds this one, or `None` if it would end beyond the largest tree.
    pub const fn parent(self) -> Option<Self> {
        Self::new(self.level + 1, self.index >> 1)
    }

    /// The left and the right half, or `None` of a leaf.
    pub const fn children(self) -> Option<(Self, Self)> {
        let Some(level) = self.level.checked_sub(1) else {
            return None;
        };
        let left = self.index << 1;
        Some((Self { level, index: left }, Self { level, index: left | 1 }))
    }

    /// The other half of the parent, or `None` if it would end beyond the largest tree.
    pub const fn sibling(self) -> Option<Self> {
        Self::new(self.level, self.index ^ 1)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of level {}", self.index, self.level)
    }
}
