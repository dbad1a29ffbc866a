//! Checking proofs that come from anybody.

use crate::number::{LeafIndex, TreeSize};

use super::path::Path;
use super::{CompactRange, Hash, node_hash};

/// Why a proof proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The leaf is not part of the tree; no leaf is part of the empty one.
    #[error("leaf {index} is not in a tree of size {size}")]
    IndexBeyondSize {
        /// The leaf claimed to be in the tree.
        index: LeafIndex,
        /// The size of the tree.
        size: TreeSize,
    },
    /// Every tree is consistent with the empty one: there is nothing to prove.
    #[error("the old tree of a consistency proof is empty")]
    OldSizeZero,
    /// The old tree is larger than the new one.
    #[error("the old size {old} is beyond the new size {new}")]
    SizesReversed {
        /// The size of the old tree.
        old: TreeSize,
        /// The size of the new tree.
        new: TreeSize,
    },
    /// The indexes and sizes fix the length of a proof, and it is not this one.
    #[error("the proof has {found} hashes where {expected} belong")]
    WrongLength {
        /// The length that the indexes and sizes ask for, in hashes.
        expected: usize,
        /// The length of the proof, in hashes.
        found: usize,
    },
    /// The proof leads to another root of the (new) tree.
    #[error("the proof leads to root {computed}, not to {given}")]
    RootMismatch {
        /// The root to be proved.
        given: Hash,
        /// The root that the proof leads to.
        computed: Hash,
    },
    /// The proof leads to another root of the old tree.
    #[error("the proof leads to old root {computed}, not to {given}")]
    OldRootMismatch {
        /// The old root to be proved.
        given: Hash,
        /// The old root that the proof leads to.
        computed: Hash,
    },
}

/// Checks that the tree of this size and root holds the leaf hash at the index (RFC 6962 2.1.1,
/// RFC 9162 2.1.3.2).
///
/// Size and root must come from the same checkpoint: a proof alone fits more than one size.
///
/// # Errors
///
/// [`ProofError`]; nothing is proved then.
pub fn verify_inclusion(
    leaf: &Hash,
    index: LeafIndex,
    size: TreeSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if !size.contains(index) {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let path = Path::new(0, index.get(), size);
    check_length(path.len(), proof)?;
    let (inner, border) = proof.split_at(path.inner());

    let mut hash = *leaf;
    let mut position = index.get();
    for sibling in inner {
        hash = if position & 1 == 1 { node_hash(sibling, &hash) } else { node_hash(&hash, sibling) };
        position >>= 1;
    }
    for sibling in border {
        hash = node_hash(sibling, &hash);
    }
    check_root(root, hash)
}

/// Checks as [`verify_inclusion`], and answers the tree of everything before the leaf.
///
/// The left-hand hashes of the proof are the peaks of that tree: at each level where the way up comes from the right,
/// one, down to the smallest. So whoever hashes a row of leaves needs one proof for all of it: that of the last, with
/// which the tree of those before must agree.
///
/// # Errors
///
/// [`ProofError`]; nothing is proved then.
pub fn verify_prefix(
    leaf: &Hash,
    index: LeafIndex,
    size: TreeSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<CompactRange, ProofError> {
    verify_inclusion(leaf, index, size, proof, root)?;
    let (inner, border) = proof.split_at(Path::new(0, index.get(), size).inner());
    let from_right = |level: usize| (index.get() >> level) & 1 == 1;
    let inner = inner.iter().enumerate().filter(|(level, _)| from_right(*level)).map(|(_, hash)| hash);
    let mut peaks: Vec<Hash> = inner.chain(border).copied().collect();
    peaks.reverse();
    let before = TreeSize::new(index.get());
    Ok(CompactRange::from_peaks(before, peaks)
        .expect("the way up comes from the right once for each 1 bit of the index"))
}

/// Checks that the old tree is a prefix of the new one (RFC 6962 2.1.2, RFC 9162 2.1.4.2).
///
/// Equal sizes need equal roots and an empty proof. An old size of 0 is refused: it would say nothing
/// about the new root. Each size and its root must come from the same checkpoint.
///
/// # Errors
///
/// [`ProofError`]; nothing is proved then.
pub fn verify_consistency(
    old_size: TreeSize,
    old_root: &Hash,
    new_size: TreeSize,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size.get() == 0 {
        return Err(ProofError::OldSizeZero);
    }
    if old_size > new_size {
        return Err(ProofError::SizesReversed { old: old_size, new: new_size });
    }
    if old_size == new_size {
        check_length(0, proof)?;
        return check_root(new_root, *old_root);
    }
    // The way starts at the last peak of the old tree, which the proof names first, unless that peak
    // is the whole old tree.
    let level = old_size.get().trailing_zeros();
    let start = (old_size.get() - 1) >> level;
    let path = Path::new(level, start, new_size);
    let named = usize::from(start > 0);
    check_length(named + path.len(), proof)?;
    let (seed, siblings) = proof.split_at(named);
    let (inner, border) = siblings.split_at(path.inner());

    let mut old = seed.first().copied().unwrap_or(*old_root);
    let mut new = old;
    let mut position = start;
    for sibling in inner {
        if position & 1 == 1 {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
        } else {
            new = node_hash(&new, sibling);
        }
        position >>= 1;
    }
    for sibling in border {
        old = node_hash(sibling, &old);
        new = node_hash(sibling, &new);
    }
    if old != *old_root {
        return Err(ProofError::OldRootMismatch { given: *old_root, computed: old });
    }
    check_root(new_root, new)
}

fn check_length(expected: usize, proof: &[Hash]) -> Result<(), ProofError> {
    if proof.len() == expected { Ok(()) } else { Err(ProofError::WrongLength { expected, found: proof.len() }) }
}

fn check_root(given: &Hash, computed: Hash) -> Result<(), ProofError> {
    if computed == *given { Ok(()) } else { Err(ProofError::RootMismatch { given: *given, computed }) }
}
