//! How much each workload does: by default what its figure is about; less for a quick look.

use clap::{Args, builder::RangedU64ValueParser};

/// The records of two blocks of the default height.
const TWO_BLOCKS: usize = 2 << 16;
/// Batches of fewer records than these are flushed this many times at most.
pub(super) const SMALL_BATCH: usize = 16;
const SMALL_BATCHES: usize = 2 << 9;
/// The largest batch: a round has at least one.
const LARGEST_BATCH: u64 = 1024;

fn between(least: u64, most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=most)
}

/// The arguments that say how much is done. The defaults are what the figures are about.
#[derive(Args, Clone, Copy, Debug)]
pub struct Sizes {
    /// How many records a round of `canonicalise_hash_chain`, `verify_self_hash` and `verify_chain` takes.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = between(1, 10_000_000))]
    pub hash_records: usize,
    /// How many records a round of the workloads that append takes, behind as many that are not timed; shorter
    /// rounds than the default see no segment end, and say little. `append_stream` times half as many again. 1,024 to
    /// 1,048,576.
    #[arg(long, value_name = "N", default_value_t = TWO_BLOCKS, value_parser = between(LARGEST_BATCH, 1 << 20))]
    pub append_records: usize,
    /// How many rounds there are, 1 to 99; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = between(1, 99))]
    pub rounds: usize,
}

impl Sizes {
    /// Records that are timed, in batches of so many.
    pub(super) const fn batched_records(&self, batch: usize) -> usize {
        if batch < SMALL_BATCH && self.append_records > SMALL_BATCHES * batch {
            return SMALL_BATCHES * batch;
        }
        self.append_records / batch * batch
    }

    /// Records that are timed where batches come as they come.
    pub(super) const fn streamed_records(&self) -> usize {
        self.append_records / 2 * 3
    }

    /// Records that have to be there for all of it.
    pub(super) const fn needed_records(&self) -> usize {
        self.append_records + self.streamed_records()
    }
}
