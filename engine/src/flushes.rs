//! How long flushes took: a histogram of the last minute, of fixed size, which one thread writes without a lock and
//! others read.
//!
//! Time is cut into slices of [`SLICE_MICROS`]; seven of them are kept, six whole ones and the one at hand. A slice
//! counts flushes by time: eight buckets for each power of two of microseconds, so that what is told is at most an
//! eighth too long. Whoever reads while a slice is begun anew may see a few flushes too few.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Microseconds of a slice.
const SLICE_MICROS: u64 = 10_000_000;
/// Slices that are kept.
const SLICES: usize = 7;
/// Buckets for each power of two.
const STEPS: u64 = 8;
/// Buckets of a slice: up to 2^35 microseconds, more than nine hours.
const BUCKETS: usize = 264;

struct Slice {
    /// Which slice since the clock began, counted from 1; 0 for one that was never begun.
    number: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

/// The histogram.
pub(crate) struct Flushes([Slice; SLICES]);

/// How long flushes took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushTimes {
    /// How many there were.
    pub count: u64,
    /// The time, in microseconds, that half of them took at most.
    pub p50_micros: u64,
    /// The time, in microseconds, that 99 of 100 took at most.
    pub p99_micros: u64,
}

impl Flushes {
    pub(crate) fn new() -> Self {
        let slice = |_| Slice { number: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU32::new(0)) };
        Self(std::array::from_fn(slice))
    }

    /// Notes a flush that began and ended at these times of one clock, in microseconds. One thread only.
    pub(crate) fn note(&self, began: u64, ended: u64) {
        let number = ended / SLICE_MICROS + 1;
        let Some(slice) = self.slice(number) else { return };
        if slice.number.load(Ordering::Relaxed) != number {
            slice.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
            slice.number.store(number, Ordering::Release);
        }
        if let Some(bucket) = slice.buckets.get(bucket_of(ended.saturating_sub(began))) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn slice(&self, number: u64) -> Option<&Slice> {
        self.0.get(usize::try_from(number % SLICES as u64).ok()?)
    }

    /// The flushes of about the last minute; `None` where there were none.
    pub(crate) fn times(&self, now: u64) -> Option<FlushTimes> {
        let newest = now / SLICE_MICROS + 1;
        let kept = newest.saturating_sub(SLICES as u64 - 1).max(1)..=newest;
        let mut counts = [0_u64; BUCKETS];
        for slice in self.0.iter().filter(|slice| kept.contains(&slice.number.load(Ordering::Acquire))) {
            for (count, bucket) in counts.iter_mut().zip(&slice.buckets) {
                *count += u64::from(bucket.load(Ordering::Relaxed));
            }
        }
        let count: u64 = counts.iter().sum();
        let at = |hundredths: u64| {
            let wanted = (count * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            let place = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            place.map(end_of)
        };
        Some(FlushTimes { count, p50_micros: at(50)?, p99_micros: at(99)? })
    }
}

/// The bucket of a time: the time itself below [`STEPS`], then by its power of two and the three bits behind.
fn bucket_of(micros: u64) -> usize {
    let bucket = match micros.checked_ilog2().map(u64::from) {
        Some(power) if power >= 3 => (power - 2) * STEPS + ((micros >> (power - 3)) & (STEPS - 1)),
        _ => micros,
    };
    usize::try_from(bucket).map_or(BUCKETS - 1, |bucket| bucket.min(BUCKETS - 1))
}

/// The longest time of a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    match bucket / STEPS {
        0 => bucket,
        row => ((STEPS + bucket % STEPS + 1) << (row - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_told_at_most_an_eighth_too_long() {
        let powers = (0..35).map(|power| 1_u64 << power);
        for micros in powers.flat_map(|power| [power - 1, power, power + power / 3, power + power / 2]) {
            let told = end_of(bucket_of(micros));
            assert!(told >= micros && told - micros <= micros / 8, "{micros} is told as {told}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_last_minute_counts_and_what_was_before_does_not() {
        let flushes = Flushes::new();
        assert_eq!(flushes.times(0), None);
        let second = 1_000_000;
        for at in 0..100 {
            // One a second: 90 of 100 microseconds and, in the first ten seconds, ten of 5 milliseconds.
            let took = if at < 10 { 5000 } else { 100 };
            flushes.note(at * second, at * second + took);
        }
        let late = flushes.times(99 * second).unwrap();
        assert_eq!((late.count, late.p50_micros, late.p99_micros), (70, 103, 103));
        assert_eq!(flushes.times(1000 * second), None, "nothing was flushed for a long time");
        let flushes = Flushes::new();
        for took in [100; 98].into_iter().chain([5000; 2]) {
            flushes.note(0, took);
        }
        let both = flushes.times(second).unwrap();
        assert_eq!((both.count, both.p50_micros), (100, 103));
        assert!((5000..5625).contains(&both.p99_micros), "{both:?}");
    }
}
