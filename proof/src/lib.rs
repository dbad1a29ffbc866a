//! What an auditor links: records, the log tree, signed notes, checkpoints, policies and proofs.
//!
//! Pure: no I/O, no async, no clock, no randomness. Everything that comes from outside is refused
//! unless it is exactly what an encoder here would have written.
//!
//! | module | owns |
//! |---|---|
//! | [`checkpoint`] | the text by which a log states its size and root: [`checkpoint::Origin`], [`checkpoint::Checkpoint`] |
//! | [`cosignature`] | timestamped cosignatures of checkpoints |
//! | [`digest_tree`] | BLAKE3 digests, and the tree over the records of a segment |
//! | [`interop`] | the interchange form of one chain: segment files and their manifest |
//! | [`key`] | keys of signed notes and their text forms |
//! | [`note`] | signed notes |
//! | [`number`] | the counts and positions: [`LeafIndex`], [`TreeSize`], [`UnixMillis`], [`UnixSeconds`] |
//! | [`policy`] | whom a reader believes: logs, witnesses, groups and the quorum |
//! | [`proof_file`] | `.tlog-proof`: an inclusion proof with its signed checkpoint |
//! | [`record`] | the audit record: canonical bytes, hash, chain, bounds, payload commitment |
//! | [`tile`] | C2SP tlog-tiles: paths, coordinates and bytes of hash tiles and entry bundles |
//! | [`tree`] | the log tree: RFC 6962 over SHA-256, its nodes, proofs and their verification |

pub mod checkpoint;
pub mod cosignature;
pub mod digest_tree;
pub mod interop;
pub mod key;
pub mod note;
pub mod number;
pub mod policy;
pub mod proof_file;
pub mod record;
pub mod tile;
pub mod tree;

pub use number::{LeafIndex, TreeSize, UnixMillis, UnixSeconds};
