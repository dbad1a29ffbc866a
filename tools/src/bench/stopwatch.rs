//! Time, as benches need it: how long something took.

use std::time::{Duration, Instant};

/// Runs from when it was made.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a bench measures, and this module wraps it")]
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    /// What has gone by.
    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// What has gone by, in seconds.
    pub(super) fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

/// The one in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
