//! A thread that keeps the index close to the durable end of a log, for programs that embed one.
//!
//! It reads the log as any reader does and takes nothing from whoever appends: it looks for new records
//! [`LOOKS_MS`] milliseconds after its last look, and is behind by what was appended since and by less than a
//! sheet and a frame.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use stele_proof::TreeSize;

use crate::disk::DiskError;
use crate::environment::Environment;

use super::{Index, IndexError, StoreFault};

/// Milliseconds between two looks for new records.
pub const LOOKS_MS: u64 = 200;

/// How far the index got, and what stopped it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lag {
    /// Leaves that have sheets.
    pub indexed: TreeSize,
    /// Leaves that were durable at the last look.
    pub durable: TreeSize,
    /// Why the index grows no further; queries are then answered by reading.
    pub stopped: Option<String>,
}

/// The thread. Dropping it stops it.
pub struct Feeder {
    shared: Arc<Shared>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    lag: Mutex<Lag>,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Lag)) {
        change(&mut self.lag.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Feeder {
    /// Opens the index of a log and starts to feed it.
    ///
    /// # Errors
    /// [`IndexError`]; also where the system gives no thread.
    pub fn start(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let (tell, told) = mpsc::sync_channel(1);
        let (environment, place) = (environment.clone(), path.to_owned());
        let work = move || {
            let (opened, result) = match Index::open(&environment, &place) {
                Ok(index) => (Some(index), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let (Ok(()), Some(mut index)) = (tell.send(result), opened) else { return };
            while !seen.stop.load(Ordering::Acquire) {
                let progress = &mut |indexed, durable| seen.tell(|lag| (lag.indexed, lag.durable) = (indexed, durable));
                if let Err(error) = index.catch_up(progress) {
                    return seen.tell(|lag| lag.stopped = Some(error.to_string()));
                }
                seen.tell(|lag| (lag.indexed, lag.durable) = (index.mark.leaves, index.reader.size()));
                std::thread::park_timeout(Duration::from_millis(LOOKS_MS));
            }
        };
        let spawned = std::thread::Builder::new().name("stele-index".to_owned()).spawn(work);
        let thread = spawned.map_err(|source| DiskError {
            operation: "start the indexing thread for",
            path: path.to_owned(),
            source,
        })?;
        let feeder = Self { shared, thread: Some(thread) };
        match told.recv() {
            Ok(result) => result.map(|()| feeder),
            Err(_it_died) => Err(StoreFault("the indexing thread has died".to_owned()).into()),
        }
    }

    /// How far it got.
    pub fn lag(&self) -> Lag {
        let mut lag = self.shared.lag.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if lag.stopped.is_none() && self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            lag.stopped = Some("the indexing thread has died".to_owned());
        }
        lag
    }

    /// Has it look for new records now.
    pub fn look(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // Where it died of a panic, the index is judged when it is opened again.
            drop(thread.join());
        }
    }
}
