//! What an auditor links: records, the log tree, signed notes, checkpoints, policies and proofs.
//!
//! Pure: no I/O, no async, no clock, no randomness. Everything that comes from outside is refused
//! unless it is exactly what an encoder here would have written.
//!
//! | module | owns |
//! |---|---|
//! | [`number`] | the counts and positions: [`LeafIndex`], [`TreeSize`], [`UnixMillis`], [`UnixSeconds`] |

pub mod number;

pub use number::{LeafIndex, TreeSize, UnixMillis, UnixSeconds};
