//! A bound on bytes a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Lets so many bytes pass in a second, whoever wants them.
pub(crate) struct Pace {
    rate: u64,
    /// When all that was let pass has had its time.
    free: Mutex<Instant>,
}

impl Pace {
    /// `rate` is in bytes a second.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), free: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may pass.
    pub(crate) async fn take(&self, bytes: u64) {
        let begins = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = (*free).max(Instant::now());
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
            *free = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            begins
        };
        sleep_until(begins).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_take_the_rate_holds_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        let takers = (0..5).map(|_| async {
            for _ in 0..4 {
                pace.take(100).await;
            }
        });
        futures_util::future::join_all(takers).await;
        // The last of 2,000 bytes begin when those before have had their time.
        assert_eq!(start.elapsed().as_millis(), 1900);
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..11 {
            pace.take(100).await;
        }
        assert_eq!(start.elapsed().as_millis(), 1000);
    }
}
