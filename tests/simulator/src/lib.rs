//! A machine whose disk crashes: an implementation of [`stele_engine::disk::Disk`] in memory that keeps
//! the contract of that trait and nothing beyond it.
//!
//! The assumptions are those the product's documentation states: a flush that succeeded is on stable
//! storage; without one any subset of the written sectors survives a crash, in any order, torn ones as
//! garbage; names are durable only when their directory was flushed; a flush that failed is final.
//!
//! | module | owns |
//! |---|---|
//! | [`random`] | numbers from a seed |
//! | [`fault`] | which call fails, and how |
//! | [`fake_disk`] | the disk: calls, guards, crash, kill |
//! | `content` | the bytes of a file: in the page cache, on the platter, under way |
//! | `names` | directory entries: seen, durable, under way |
//! | `machine` | everything behind the lock: files, faults, counters, trace |
//! | [`source`] | time and randomness of a schedule |
//! | [`mishap`] | what goes wrong in a life |
//! | [`schedules`] | running schedules by their seeds |
//! | [`tree`] | copying a directory from one disk to another |
//!
//! Not modelled: the order in which a journal keeps changes of names (any subset survives here), pages
//! larger than a sector, holes, hard links, directories that are renamed or removed, permissions other
//! than that a sealed file cannot be opened for writing.

mod content;
pub mod fake_disk;
pub mod fault;
mod machine;
pub mod mishap;
mod names;
pub mod random;
pub mod schedules;
pub mod source;
pub mod tree;
