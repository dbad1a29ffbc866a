//! Criterion benches of the parts that every record goes through; they live in `engine/`.
//!
//! `cargo bench -p stele-benches` runs them, `-- records` those of one group; criterion keeps what it saw in
//! `target/criterion` and tells how much the next run differs (`--save-baseline`, `--baseline`). They find out which
//! part became slower. What the whole reaches beside what the disk allows is measured by `stele bench engine`.
//!
//! | group | what |
//! |---|---|
//! | `records` | canonical form from fields and from JSON, strict parsing, hashes one by one and side by side |
//! | `tree` | leaves into the log tree, inclusion proofs out of one |
//! | `frames` | a batch built and placed as a frame; frames of a file scanned and checked |
//! | `append` | batches of finished records made durable in a log on disk |
//!
//! There is no comparison with other people's logs here. `raft-engine` and `okaywal` neither hash, chain nor check
//! what they take, so that their figures would say more about what Stele does for a record than about how well.
