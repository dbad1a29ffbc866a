//! The time and the randomness that a schedule gives to the engine.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use stele_engine::environment::{Clock, Entropy};
use stele_proof::UnixMillis;

use crate::random::SplitMix64;

/// A clock that a schedule moves, and randomness from its seed.
pub struct Source {
    now: AtomicU64,
    random: Mutex<SplitMix64>,
}

impl Source {
    /// A clock that stands at `now`.
    pub const fn new(now: UnixMillis, random: SplitMix64) -> Self {
        Self { now: AtomicU64::new(now.get()), random: Mutex::new(random) }
    }

    /// Moves the clock.
    pub fn advance(&self, millis: u64) {
        self.now.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for Source {
    fn now(&self) -> UnixMillis {
        UnixMillis::new(self.now.load(Ordering::Relaxed))
    }
}

impl Entropy for Source {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).fill(out);
        Ok(())
    }
}
