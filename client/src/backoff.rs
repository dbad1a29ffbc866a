//! Waits between attempts.

use core::time::Duration;

use crate::config::Retry;

/// Draws the waits: doubled for each attempt up to a cap, the upper half of it by chance, so that clients that were
/// cut off together do not come back together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    retry: Retry,
    random: u64,
}

impl Backoff {
    pub(crate) const fn new(retry: Retry, seed: u64) -> Self {
        Self { retry, random: seed }
    }

    /// The wait after this many failed attempts (the first is 0).
    pub(crate) fn delay(&mut self, failed: u32) -> Duration {
        let factor = 1_u32.checked_shl(failed).unwrap_or(u32::MAX);
        let whole = self.retry.base.saturating_mul(factor).min(self.retry.cap);
        let half = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX);
        whole - Duration::from_nanos(half) + Duration::from_nanos(self.next() % half.saturating_add(1))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lies_in_the_upper_half_of_its_step_and_below_the_cap() {
        let retry = Retry { base: Duration::from_millis(10), cap: Duration::from_millis(75) };
        let mut backoff = Backoff::new(retry, 1);
        for (failed, step) in [(0, 10), (1, 20), (2, 40), (3, 75), (4, 75), (31, 75), (32, 75), (u32::MAX, 75)] {
            let step = Duration::from_millis(step);
            let waits: Vec<_> = (0..200).map(|_| backoff.delay(failed)).collect();
            assert!(waits.iter().all(|wait| (step / 2..=step).contains(wait)), "{failed}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter after {failed}");
        }
    }
}
