//! Inclusion and consistency proofs, roots and peaks of any past size, from stored nodes.

use crate::number::{LeafIndex, TreeSize};

use super::path::{Path, Plan, push_row};
use super::{Hash, Node, empty_root, join_peaks};

/// Where the hashes of complete nodes are stored.
///
/// The contract:
/// - the answer holds one hash for each node asked for, in the same order; a node that cannot be
///   answered for is an error of the whole call, never a placeholder;
/// - every node asked for is complete in a tree of the size that the caller named; at least one and
///   at most 128 are asked for in one call, and one call is all that a proof needs;
/// - a complete node never changes, so asking again gives the same hash;
/// - reading has no effect that a caller could see; concurrency is up to the implementation.
///
/// The hashes are not checked here: a prover with wrong hashes makes proofs that do not verify.
pub trait NodeReader {
    /// Why nodes could not be read.
    type Error;

    /// Reads the hash of every node, in order.
    ///
    /// # Errors
    ///
    /// If the hash of any of the nodes is missing or could not be read.
    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Self::Error>;
}

/// Why there is no proof.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError<E> {
    /// The leaf is not part of the tree.
    #[error("leaf {index} is not in a tree of size {size}")]
    LeafBeyondSize {
        /// The leaf to prove.
        index: LeafIndex,
        /// The size of the tree.
        size: TreeSize,
    },
    /// The old tree is empty, or larger than the new one.
    #[error("there is no consistency proof from size {old} to size {new}")]
    BadSizes {
        /// The size of the old tree.
        old: TreeSize,
        /// The size of the new tree.
        new: TreeSize,
    },
    /// The nodes could not be read.
    #[error("reading nodes of the tree")]
    Read(#[source] E),
    /// The reader broke its contract.
    #[error("asked for {expected} nodes, got {found}")]
    WrongCount {
        /// The number of nodes asked for.
        expected: usize,
        /// The number of hashes answered.
        found: usize,
    },
}

/// The nodes that an inclusion proof is computed from (RFC 6962 2.1.1), or `None` if the leaf is not
/// in a tree of the size.
pub fn inclusion_nodes(index: LeafIndex, size: TreeSize) -> Option<Vec<Node>> {
    inclusion_plan(index, size).map(|plan| plan.nodes)
}

/// The nodes that a consistency proof is computed from (RFC 6962 2.1.2), or `None` if the old tree is
/// empty or larger than the new one.
pub fn consistency_nodes(old: TreeSize, new: TreeSize) -> Option<Vec<Node>> {
    consistency_plan(old, new).map(|plan| plan.nodes)
}

/// The peaks of a tree of the size, the largest first: what its root is computed from.
pub fn peak_nodes(size: TreeSize) -> Vec<Node> {
    let mut nodes = Vec::new();
    push_row(0, size, &mut nodes);
    nodes
}

/// The proof that a leaf is in a tree of the size, the leaf's sibling first (RFC 6962 2.1.1).
///
/// # Errors
///
/// [`ProveError`], but not `BadSizes`.
pub fn prove_inclusion<R: NodeReader>(
    index: LeafIndex,
    size: TreeSize,
    reader: &R,
) -> Result<Vec<Hash>, ProveError<R::Error>> {
    let plan = inclusion_plan(index, size).ok_or(ProveError::LeafBeyondSize { index, size })?;
    compute(&plan, reader)
}

/// The proof that the old tree is a prefix of the new one (RFC 6962 2.1.2); empty for equal sizes.
///
/// # Errors
///
/// [`ProveError`], but not `LeafBeyondSize`.
pub fn prove_consistency<R: NodeReader>(
    old: TreeSize,
    new: TreeSize,
    reader: &R,
) -> Result<Vec<Hash>, ProveError<R::Error>> {
    let plan = consistency_plan(old, new).ok_or(ProveError::BadSizes { old, new })?;
    compute(&plan, reader)
}

/// The root of the tree of the size (RFC 6962 2.1).
///
/// # Errors
///
/// `Read` and `WrongCount` of [`ProveError`].
pub fn root_at<R: NodeReader>(size: TreeSize, reader: &R) -> Result<Hash, ProveError<R::Error>> {
    Ok(join_peaks(&peaks_at(size, reader)?).unwrap_or_else(empty_root))
}

/// The hashes of the peaks of the tree of the size, the largest first.
///
/// # Errors
///
/// `Read` and `WrongCount` of [`ProveError`].
pub fn peaks_at<R: NodeReader>(size: TreeSize, reader: &R) -> Result<Vec<Hash>, ProveError<R::Error>> {
    read(&peak_nodes(size), reader)
}

fn inclusion_plan(index: LeafIndex, size: TreeSize) -> Option<Plan> {
    size.contains(index).then(|| Path::new(0, index.get(), size).plan())
}

/// The way to the new root from the last peak of the old tree, and that peak first, unless it is the
/// whole old tree: then the verifier knows it.
fn consistency_plan(old: TreeSize, new: TreeSize) -> Option<Plan> {
    if old.get() == 0 || old > new {
        return None;
    }
    if old == new {
        return Some(Plan { nodes: Vec::new(), fringe: 0..0 });
    }
    let level = old.get().trailing_zeros();
    let index = (old.get() - 1) >> level;
    let mut plan = Path::new(level, index, new).plan();
    if index > 0 {
        plan.nodes.insert(0, Node::inside(level, index));
        plan.fringe = plan.fringe.start + 1..plan.fringe.end + 1;
    }
    Some(plan)
}

fn compute<R: NodeReader>(plan: &Plan, reader: &R) -> Result<Vec<Hash>, ProveError<R::Error>> {
    let mut proof = read(&plan.nodes, reader)?;
    let fringe = join_peaks(&proof[plan.fringe.clone()]);
    proof.splice(plan.fringe.clone(), fringe);
    Ok(proof)
}

fn read<R: NodeReader>(nodes: &[Node], reader: &R) -> Result<Vec<Hash>, ProveError<R::Error>> {
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let hashes = reader.read_nodes(nodes).map_err(ProveError::Read)?;
    if hashes.len() != nodes.len() {
        return Err(ProveError::WrongCount { expected: nodes.len(), found: hashes.len() });
    }
    Ok(hashes)
}
