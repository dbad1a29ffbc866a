//! The time and the randomness that a schedule gives to the engine.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use stele_engine::environment::{Clock, Entropy, Environment, Workers};
use stele_proof::UnixMillis;

use crate::fake_disk::FakeDisk;
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

/// What a log on this disk takes from outside: a clock that stands, randomness of one seed, and no threads.
pub fn environment(disk: &FakeDisk) -> Environment {
    let source = Arc::new(Source::new(UnixMillis::new(1_000_000), SplitMix64::new(1)));
    let (disk, clock) = (Arc::new(disk.clone()), Arc::<Source>::clone(&source));
    Environment { disk, clock, entropy: source, workers: Workers::Inline }
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
