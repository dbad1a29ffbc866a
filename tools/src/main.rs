//! `stele`, the command line.
fn main() {}
