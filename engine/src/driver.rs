//! Who drives the writer: a thread of its own, or whoever waits for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::disk::DiskError;
use crate::environment::Workers;
use crate::error::{LogError, Poisoned};
use crate::queue::{Taken, lock};
use crate::store::Shared;
use crate::writer::{Work, Writer, refuse};

/// The writer and what drives it.
pub(crate) enum Driver {
    /// A thread, which answers how it ended.
    Thread(JoinHandle<Result<(), LogError>>),
    /// The callers.
    Inline(Box<Mutex<Driven>>),
}

/// A writer without a thread.
pub(crate) struct Driven {
    writer: Option<(Writer, DeathNotice)>,
    end: Option<Result<(), LogError>>,
}

impl Driver {
    /// Starts the writer.
    ///
    /// # Errors
    /// [`DiskError`] where the system gives no thread.
    pub(crate) fn start(writer: Writer, workers: Workers, log: &Path) -> Result<Self, DiskError> {
        let death = DeathNotice { shared: Arc::clone(&writer.shared), expected: false };
        if workers == Workers::Inline {
            return Ok(Self::Inline(Box::new(Mutex::new(Driven { writer: Some((writer, death)), end: None }))));
        }
        let work = move || {
            let mut death = death;
            let result = writer.run();
            death.expected = true;
            result
        };
        let spawned = std::thread::Builder::new().name("stele-writer".to_owned()).spawn(work);
        spawned.map(Self::Thread).map_err(|source| DiskError {
            operation: "start the writer thread for",
            path: log.to_owned(),
            source,
        })
    }

    /// Without a thread: does what is queued.
    pub(crate) fn write_queued(&self, shared: &Shared) {
        if let Self::Inline(driven) = self {
            let mut driven = lock(driven);
            match shared.queue.take_now() {
                Taken::Idle => {}
                taken => driven.turn(taken),
            }
        }
    }

    /// Without a thread: lets the writer find that it is idle.
    pub(crate) fn confirm_idle(&self, shared: &Shared) {
        if let Self::Inline(driven) = self {
            let mut driven = lock(driven);
            driven.turn(shared.queue.take_now());
        }
    }

    /// How the writer ended, behind a closed queue; `None` where it died of a panic.
    pub(crate) fn finish(self, shared: &Shared) -> Option<Result<(), LogError>> {
        match self {
            Self::Thread(thread) => thread.join().ok(),
            Self::Inline(driven) => {
                let mut driven = driven.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
                while driven.writer.is_some() {
                    driven.turn(shared.queue.take_now());
                }
                driven.end
            }
        }
    }
}

impl Driven {
    fn turn(&mut self, taken: Taken<Work>) {
        if let Some((writer, death)) = &mut self.writer {
            self.end = writer.turn(taken);
            if self.end.is_some() {
                death.expected = true;
                self.writer = None;
            }
        }
    }
}

/// Poisons the store when the writer dies of a panic; however it ends, tells those whose work is still
/// in the queue (I-WRITER-3).
struct DeathNotice {
    shared: Arc<Shared>,
    expected: bool,
}

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if !self.expected {
            self.shared.poison(&LogError::Poisoned(Poisoned("the writer died".into())));
        }
        let left = self.shared.queue.abandon();
        if !left.is_empty() {
            refuse(left, &self.shared.poisoned());
        }
    }
}
