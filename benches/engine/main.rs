//! The benches, in the order of a record's way in (`lib.rs` has the table).

#![allow(missing_docs, reason = "what criterion generates has none")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod append;
mod frames;
mod made;
mod records;
mod tree;

criterion::criterion_group!(benches, records::run, tree::run, frames::run, append::run);
criterion::criterion_main!(benches);
