//! The log tree: RFC 6962 over SHA-256, one leaf per record.
//!
//! | input | hash | source |
//! |---|---|---|
//! | no leaf | SHA-256("") | RFC 6962 2.1 |
//! | a record | SHA-256(0x00, record) | RFC 6962 2.1 |
//! | two subtrees | SHA-256(0x01, left, right) | RFC 6962 2.1 |
//!
//! The left subtree holds the largest power of two of leaves that is smaller than the whole. So a tree
//! of size *n* is a row of perfect subtrees, its *peaks*, one for each 1 bit of *n*, the largest
//! first, joined from the right. Only perfect subtrees ([`Node`]) never change once complete: they are
//! what is stored and read; everything else is computed from them.
//!
//! Nothing here recurses: every loop is bounded by the 64 bits of a tree size. The model is
//! golang.org/x/mod/sumdb/tlog: plan the nodes, one read, then compute.

mod hash;
mod node;
mod path;
mod prove;
mod range;
mod verify;

#[cfg(test)]
mod tests;

pub use hash::Hash;
pub(crate) use hash::{parse_lower_hex, write_lower_hex};
pub use node::Node;
pub use prove::{
    NodeReader, ProveError, consistency_nodes, inclusion_nodes, peak_nodes, peaks_at, prove_consistency,
    prove_inclusion, root_at,
};
pub use range::{CompactRange, WrongPeaks};
pub use verify::{ProofError, verify_consistency, verify_inclusion, verify_prefix};

use sha2::{Digest, Sha256};

/// The first byte of what is hashed to a leaf (RFC 6962 2.1).
const LEAF_PREFIX: [u8; 1] = [0x00];
/// The first byte of what is hashed to an interior node (RFC 6962 2.1).
const NODE_PREFIX: [u8; 1] = [0x01];

/// The leaf of a record, SHA-256(0x00, record) (RFC 6962 2.1).
pub fn leaf_hash(record: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(LEAF_PREFIX);
    hasher.update(record);
    Hash::new(hasher.finalize().into())
}

/// The node over two subtrees, SHA-256(0x01, left, right) (RFC 6962 2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(NODE_PREFIX);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    Hash::new(hasher.finalize().into())
}

/// The root of the tree without leaves, SHA-256 of nothing (RFC 6962 2.1).
pub fn empty_root() -> Hash {
    Hash::new(Sha256::digest([]).into())
}

/// The root over a row of perfect subtrees, the largest first; `None` over none.
fn join_peaks(peaks: &[Hash]) -> Option<Hash> {
    let (last, larger) = peaks.split_last()?;
    Some(larger.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
}
