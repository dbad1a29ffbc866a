//! Black-box tests of `stele`: what it prints, how it ends, and what it says when it refuses.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say what they skip")]

mod append;
mod arguments;
mod index;
mod interop;
mod keys;
mod note;
mod outside;
mod pipe;
mod record;
mod repair;
mod stele;
mod tlog;
mod verify;
