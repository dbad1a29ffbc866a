//! Time, randomness and threads, which come in as arguments so that tests and the simulator own them.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use stele_proof::UnixMillis;

use crate::disk::{Disk, RealDisk};

/// The time of day; advisory, and never part of what is replicated except as a record's `ts_ms`.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> UnixMillis;

    /// Microseconds since a moment that stays the same while the process runs; never goes back. For measuring only.
    /// A clock that measures nothing answers 0.
    fn micros(&self) -> u64 {
        0
    }
}

/// Bytes that nobody can guess.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()>;
}

/// Who does the work that a log does beside its caller: writing, sealing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Workers {
    /// Threads of their own.
    Threads,
    /// The caller, when it has to wait for that work or asks for it by [`crate::store::SegmentStore::write_queued`] and
    /// the like: the same calls give the same calls to the disk, in the same order. For tests.
    #[default]
    Inline,
}

/// Everything the engine takes from outside.
#[derive(Clone)]
pub struct Environment {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Who works.
    pub workers: Workers,
}

impl Environment {
    /// The operating system's files, clock, randomness and threads.
    pub fn system() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            workers: Workers::Threads,
        }
    }

    /// An array of random bytes.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn random<const N: usize>(&self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixMillis {
        #[expect(clippy::disallowed_methods, reason = "this module wraps it")]
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixMillis::new(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn micros(&self) -> u64 {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "this module wraps it")]
        let now = Instant::now();
        let since = now.saturating_duration_since(*BEGINNING.get_or_init(|| now));
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(out).map_err(std::io::Error::other)
    }
}
