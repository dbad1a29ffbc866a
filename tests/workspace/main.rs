//! What must hold of the workspace as a whole.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it skipped")]

mod arrows;
mod bench;
mod cluster;
mod file_descriptors;
mod file_size;
mod full_disk;
mod history;
mod hostile;
mod index;
mod join;
mod kill;
mod liar;
mod named_tests;
mod process;
mod quickstart;
mod rights;
mod stopped;
mod streams;
mod tls;
mod trial;
mod trials;
mod two_processes;
