//! The segment store of Stele: the files that are at once the Raft log, the audit log and the Merkle
//! leaves (DESIGN.md section 6).
//!
//! Synchronous; all I/O goes through [`disk::Disk`], time and randomness through
//! [`environment::Environment`].
//!
//! | module | owns |
//! |---|---|
//! | [`number`] | counts and positions |
//! | [`disk`] | the I/O seam |
//! | [`environment`] | clock and randomness |
//! | [`segment`] | names and headers of segment and payload files |
//! | [`frame`] | one Raft entry in a segment file |
//! | [`batch`] | the body of a batch |
//! | [`membership`] | the body of a membership entry |
//! | [`tiles`] | the tile sidecar of a sealed segment: frame table and hashes |
//! | [`reserved`] | the bodies of the records the log writes itself |
//! | [`ring`] | the flush ring: what is durable |
//! | [`generation`] | small guarded files |
//! | [`hard_state`] | vote, incarnation, clean mark, peers |
//! | [`signing_state`] | the last signed tree head |

pub mod batch;
pub mod disk;
pub mod environment;
pub mod frame;
pub mod generation;
pub mod hard_state;
pub mod membership;
pub mod number;
pub mod reserved;
pub mod ring;
pub mod segment;
pub mod signing_state;
pub mod tiles;
