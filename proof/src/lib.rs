//! What an auditor links: records, the log tree, signed notes, checkpoints, policies and proofs.
//!
//! Pure: no I/O, no async, no clock, no randomness. Everything that comes from outside is refused
//! unless it is exactly what an encoder here would have written.
//!
//! | module | owns |
//! |---|---|
//! | [`digest_tree`] | BLAKE3 digests, and the tree over the records of a segment |
//! | [`number`] | the counts and positions: [`LeafIndex`], [`TreeSize`], [`UnixMillis`], [`UnixSeconds`] |
//! | [`record`] | the audit record: canonical bytes, hash, chain, bounds, payload commitment |
//! | [`tile`] | C2SP tlog-tiles: paths, coordinates and bytes of hash tiles and entry bundles |
//! | [`tree`] | the log tree: RFC 6962 over SHA-256, its nodes, proofs and their verification |

pub mod digest_tree;
pub mod number;
pub mod record;
pub mod tile;
pub mod tree;

pub use number::{LeafIndex, TreeSize, UnixMillis, UnixSeconds};
