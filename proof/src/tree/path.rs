//! The way from a perfect subtree up to the root of a tree: what a proof is made of.

use crate::number::TreeSize;

use super::Node;

/// The way from a node up to the root.
///
/// The first `inner` siblings are those up to where the way meets the right edge of the tree: all
/// perfect subtrees but the last, the *fringe*, which is what lies right of the way and may be ragged.
/// From there on every sibling is a left one and perfect: the `border` siblings, one for each 1 bit of
/// `index >> inner`.
pub(super) struct Path {
    level: u32,
    index: u64,
    size: TreeSize,
    inner: u32,
}

impl Path {
    /// The way from node `index` of `level` in a tree that has at least one leaf of it.
    pub(super) fn new(level: u32, index: u64, size: TreeSize) -> Self {
        let last = (size.get() - 1) >> level;
        assert!(index <= last, "the way starts inside the tree");
        let inner = u64::BITS - (index ^ last).leading_zeros();
        Self { level, index, size, inner }
    }

    /// The number of siblings up to and with the fringe.
    pub(super) fn inner(&self) -> usize {
        bit_count(self.inner)
    }

    /// The number of siblings up to the root.
    pub(super) fn len(&self) -> usize {
        let above = self.index.checked_shr(self.inner).unwrap_or(0);
        bit_count(self.inner) + bit_count(above.count_ones())
    }

    /// The perfect subtrees whose hashes give the siblings, in the order of the proof.
    pub(super) fn plan(&self) -> Plan {
        let mut nodes = Vec::with_capacity(self.len());
        let (mut level, mut index) = (self.level, self.index);
        for _ in 1..self.inner {
            nodes.push(Node::inside(level, index ^ 1));
            level += 1;
            index >>= 1;
        }
        let fringe_start = nodes.len();
        if self.inner > 0 {
            push_row((index + 1) << level, self.size, &mut nodes);
            level += 1;
            index >>= 1;
        }
        let fringe_end = nodes.len();
        while index > 0 {
            if index & 1 == 1 {
                nodes.push(Node::inside(level, index ^ 1));
            }
            level += 1;
            index >>= 1;
        }
        Plan { nodes, fringe: fringe_start..fringe_end }
    }
}

/// The nodes to read for a proof; those in `fringe` are joined to one hash of it.
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    pub(super) fringe: core::ops::Range<usize>,
}

/// Pushes the row of perfect subtrees from leaf `start` to the end of the tree, the largest first.
///
/// `start` is a multiple of the largest of them.
pub(super) fn push_row(start: u64, size: TreeSize, nodes: &mut Vec<Node>) {
    let mut start = start;
    while let Some(level) = (size.get() - start).checked_ilog2() {
        nodes.push(Node::inside(level, start >> level));
        start += 1 << level;
    }
}

fn bit_count(bits: u32) -> usize {
    usize::try_from(bits).expect("a tree size has 64 bits")
}
