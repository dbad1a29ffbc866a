//! What must hold of the workspace as a whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it skipped")]

mod arrows;
mod bench;
mod cluster;
mod file_descriptors;
mod file_size;
mod full_disk;
mod index;
mod join;
mod kill;
mod named_tests;
mod process;
mod quickstart;
mod stopped;
mod streams;
mod two_processes;
