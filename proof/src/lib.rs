//! What an auditor links: records, the log tree, signed notes, checkpoints, policies and proofs.
//!
//! Pure: no I/O, no async, no clock, no randomness. Everything that comes from outside is refused
//! unless it is exactly what an encoder here would have written.
//!
//! | module | owns |
//! |---|---|
//! | [`number`] | the counts and positions: [`LeafIndex`], [`TreeSize`], [`UnixMillis`], [`UnixSeconds`] |
//! | [`record`] | the audit record: canonical bytes, hash, chain, bounds, payload commitment |
//! | [`tree`] | the log tree: RFC 6962 over SHA-256, its nodes, proofs and their verification |

pub mod number;
pub mod record;
pub mod tree;

pub use number::{LeafIndex, TreeSize, UnixMillis, UnixSeconds};
