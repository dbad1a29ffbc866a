//! The newest part of the log tree, in memory: what was just appended is proved without reading a file.
//!
//! Of the leaves behind a base every node is kept that one of them completes, in two parts: when the newer one has
//! its share of leaves, the older one is dropped. Left of the base a proof needs only the peaks of the tree there.
//! Each part has at most [`PART_LEAVES`] leaves and so fewer than twice as many nodes of 32 bytes: 8 MiB together.

use stele_proof::tree::{self, CompactRange, Hash, Node, NodeReader};
use stele_proof::{LeafIndex, TreeSize};

/// Leaves of a part.
const PART_LEAVES: u64 = 1 << 16;

/// The nodes that leaves behind a base complete.
pub struct RecentTree {
    older: Option<Part>,
    newer: Part,
    size: TreeSize,
    part_leaves: u64,
}

/// The nodes that some leaves in a row complete.
struct Part {
    base: TreeSize,
    /// The nodes that the tree before consists of.
    peaks: Vec<(Node, Hash)>,
    /// By level.
    rows: Vec<Row>,
}

/// Nodes of one level, without a gap.
#[derive(Default)]
struct Row {
    first: u64,
    hashes: Vec<Hash>,
}

/// A node that is not kept here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not kept in memory")]
pub struct NotRecent(Node);

impl RecentTree {
    /// Begins behind this tree.
    pub fn behind(tree: &CompactRange) -> Self {
        Self::with_parts(tree, PART_LEAVES)
    }

    fn with_parts(tree: &CompactRange, part_leaves: u64) -> Self {
        Self { older: None, newer: Part::behind(tree), size: tree.size(), part_leaves }
    }

    /// Appends a leaf to the tree, and keeps the nodes that it completes.
    ///
    /// # Panics
    /// Where the tree is not the one that was appended to before.
    pub fn append(&mut self, tree: &mut CompactRange, leaf: Hash) {
        assert_eq!(tree.size(), self.size, "the nodes kept are of another tree");
        if self.size.get() - self.newer.base.get() == self.part_leaves {
            self.older = Some(std::mem::replace(&mut self.newer, Part::behind(tree)));
        }
        tree.append_observed(leaf, &mut |node, hash| self.newer.keep(node, hash));
        self.size = tree.size();
    }

    /// From which leaf on proofs are made here.
    pub fn start(&self) -> LeafIndex {
        self.oldest().base.next_leaf()
    }

    /// The inclusion proof of a leaf in the tree of a size; `None` where it is too old for memory, or not in that
    /// tree, or the tree is larger than this one.
    pub fn prove_inclusion(&self, leaf: LeafIndex, size: TreeSize) -> Option<Vec<Hash>> {
        let kept = leaf >= self.start() && size <= self.size;
        kept.then(|| tree::prove_inclusion(leaf, size, self).ok()).flatten()
    }

    /// The root of the tree of a size; `None` where that is too old for memory, or larger than this one.
    pub fn root_at(&self, size: TreeSize) -> Option<Hash> {
        let kept = size >= self.oldest().base && size <= self.size;
        kept.then(|| tree::root_at(size, self).ok()).flatten()
    }

    fn oldest(&self) -> &Part {
        self.older.as_ref().unwrap_or(&self.newer)
    }

    fn node(&self, node: Node) -> Option<Hash> {
        let kept = self.newer.node(node).or_else(|| self.older.as_ref()?.node(node));
        kept.or_else(|| self.oldest().peaks.iter().find(|(peak, _)| *peak == node).map(|(_, hash)| *hash))
    }
}

impl NodeReader for RecentTree {
    type Error = NotRecent;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Self::Error> {
        nodes.iter().map(|node| self.node(*node).ok_or(NotRecent(*node))).collect()
    }
}

impl Part {
    fn behind(tree: &CompactRange) -> Self {
        let peaks = tree::peak_nodes(tree.size()).into_iter().zip(tree.peaks().iter().copied()).collect();
        Self { base: tree.size(), peaks, rows: Vec::new() }
    }

    fn keep(&mut self, node: Node, hash: Hash) {
        let level = usize::from(node.level());
        if self.rows.len() <= level {
            self.rows.resize_with(level + 1, Row::default);
        }
        let row = &mut self.rows[level];
        if row.hashes.is_empty() {
            row.first = node.index();
        }
        row.hashes.push(hash);
    }

    fn node(&self, node: Node) -> Option<Hash> {
        let row = self.rows.get(usize::from(node.level()))?;
        let place = usize::try_from(node.index().checked_sub(row.first)?).ok()?;
        row.hashes.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Every node of a tree.
    struct Whole(HashMap<Node, Hash>);

    impl NodeReader for Whole {
        type Error = Node;

        fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Node> {
            nodes.iter().map(|node| self.0.get(node).copied().ok_or(*node)).collect()
        }
    }

    fn leaf(number: u64) -> Hash {
        tree::leaf_hash(&number.to_le_bytes())
    }

    #[test]
    fn what_is_kept_gives_the_proofs_and_roots_that_all_nodes_give() {
        for begin in [0, 1, 5, 8, 13, 31] {
            let (mut all, mut whole) = (CompactRange::new(), Whole(HashMap::new()));
            let append = |all: &mut CompactRange, whole: &mut Whole, number| {
                all.append_observed(leaf(number), &mut |node, hash| {
                    whole.0.insert(node, hash);
                });
            };
            (0..begin).for_each(|number| append(&mut all, &mut whole, number));
            let mut tree = all.clone();
            let mut recent = RecentTree::with_parts(&tree, 8);
            for number in begin..begin + 40 {
                append(&mut all, &mut whole, number);
                recent.append(&mut tree, leaf(number));
                assert_eq!(tree.root(), all.root());
                let start = recent.start().get();
                assert!(number - start < 16, "no more than two parts are kept");
                assert!(start == begin || number - start >= 8, "at least one part is kept");
                for size in (start.max(1)..=number + 1).map(TreeSize::new) {
                    assert_eq!(recent.root_at(size), tree::root_at(size, &whole).ok(), "{size}");
                    for index in (start..size.get()).map(LeafIndex::new) {
                        let proof = recent.prove_inclusion(index, size).unwrap();
                        assert_eq!(proof, tree::prove_inclusion(index, size, &whole).unwrap(), "{index} of {size}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_too_old_or_not_there_yet_is_not_proved() {
        let mut tree = CompactRange::new();
        let mut recent = RecentTree::with_parts(&tree, 8);
        (0..20).for_each(|number| recent.append(&mut tree, leaf(number)));
        let (index, size) = (LeafIndex::new, TreeSize::new);
        assert_eq!(recent.start(), index(8));
        assert_eq!(recent.prove_inclusion(index(7), size(20)), None);
        assert_eq!(recent.prove_inclusion(index(9), size(21)), None);
        assert_eq!(recent.prove_inclusion(index(9), size(9)), None);
        assert_eq!([recent.root_at(size(7)), recent.root_at(size(21))], [None, None]);
    }
}
