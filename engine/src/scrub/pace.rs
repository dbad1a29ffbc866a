//! How fast a scrub may read.

use std::num::NonZeroU64;
use std::time::Duration;

/// A rate, kept step by step: who is slower than it waits for nothing, and saves nothing up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    bytes_per_second: NonZeroU64,
}

impl Pace {
    /// At most so many bytes a second.
    pub const fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second }
    }

    /// How many bytes a step should read: a tenth of a second's, between 64 KiB and 4 MiB.
    pub fn step_bytes(self) -> u64 {
        (self.bytes_per_second.get() / 10).clamp(64 << 10, 4 << 20)
    }

    /// How long to wait after a step that read so many bytes in that time.
    pub fn wait_after(self, bytes: u64, took: Duration) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        due.saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: u64) -> Pace {
        Pace::new(NonZeroU64::new(rate).unwrap())
    }

    #[test]
    fn steps_and_waits_together_take_the_time_that_the_rate_gives() {
        for (rate, sizes) in [(1_000_000, [1_000_000, 1, 333]), (7, [7, 14, 1]), (u64::MAX, [1 << 40, 5, 0])] {
            let took = Duration::from_nanos(10);
            let mut elapsed = Duration::ZERO;
            for bytes in sizes {
                elapsed += took + pace(rate).wait_after(bytes, took);
            }
            let due = sizes.iter().sum::<u64>() as f64 / rate as f64;
            assert!((elapsed.as_secs_f64() - due).abs() < 1e-7, "{rate}: {elapsed:?}, not {due} s");
        }
    }

    #[test]
    fn a_slow_step_is_not_made_good_by_a_fast_one() {
        assert_eq!(pace(1000).wait_after(1000, Duration::from_secs(5)), Duration::ZERO);
        // The clock may have stood still, or gone back: the longest wait is what the bytes are worth.
        assert_eq!(pace(1000).wait_after(1000, Duration::ZERO), Duration::from_secs(1));
        assert_eq!(pace(1).wait_after(u64::MAX, Duration::ZERO), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn steps_are_small_at_low_rates_and_bounded_at_high_ones() {
        for (rate, bytes) in [(1, 64 << 10), (10 << 20, 1 << 20), (u64::MAX, 4 << 20)] {
            assert_eq!(pace(rate).step_bytes(), bytes, "{rate}");
        }
    }
}
