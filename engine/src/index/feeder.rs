//! A thread that keeps the index close to the durable end of a log, for programs that embed one, and answers
//! what intake asks of it.
//!
//! It reads the log as any reader does and takes nothing from whoever appends: it looks for new records
//! [`LOOKS_MS`] milliseconds after its last look, and is behind by what was appended since and by less than a
//! sheet and a frame. Where another process has the index open (somebody reads through it), it waits for it.
//!
//! A question never waits for longer than [`ANSWER_MS`] and is never queued behind more than
//! [`MOST_QUESTIONS`]: while the index is made anew, is far behind or has stopped the answer is
//! [`Unavailable`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use stele_proof::TreeSize;

use crate::disk::DiskError;
use crate::environment::Environment;

use super::{Identity, Index, IndexError, Known, StoreFault};

/// Milliseconds between two looks for new records.
pub const LOOKS_MS: u64 = 200;
/// Milliseconds that a question waits for its answer.
pub const ANSWER_MS: u64 = 1000;
/// Questions that wait at once.
pub const MOST_QUESTIONS: usize = 64;
/// An index that is behind by more leaves than this answers no questions.
pub const MOST_BEHIND: u64 = 65_536;

/// How far the index got, and what stopped it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lag {
    /// Leaves that have sheets.
    pub indexed: TreeSize,
    /// Leaves that were durable at the last look.
    pub durable: TreeSize,
    /// Who else has the index open: it grows once they are done.
    pub waits_for: Option<String>,
    /// Why the index was moved aside since this began, the last time that was so.
    pub moved_aside: Option<String>,
    /// Why the index grows no further; queries are then answered by reading.
    pub stopped: Option<String>,
}

impl Lag {
    /// Leaves that have no sheet yet.
    pub const fn behind(&self) -> u64 {
        self.durable.get().saturating_sub(self.indexed.get())
    }
}

/// Why there is no answer now. Whoever asked may ask again later, or read the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// It is being made anew, or is far behind.
    #[error("the index is behind: {indexed} of {durable} records are indexed")]
    Behind {
        /// Leaves that have sheets.
        indexed: TreeSize,
        /// Leaves that were durable at the last look.
        durable: TreeSize,
    },
    /// Too many questions wait, or the answer takes too long.
    #[error("the index is busy")]
    Busy,
    /// It failed to answer this, and goes on.
    #[error("the index could not answer: {0}")]
    Failed(String),
    /// It failed, and grows no further.
    #[error("the index has stopped: {0}")]
    Stopped(String),
}

/// The thread. Dropping it stops it, after what it writes at once.
pub struct Feeder {
    shared: Arc<Shared>,
    /// `None` once it is told to end.
    asked: Option<SyncSender<Asked>>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Whether a request to look waits: one is enough.
    look: AtomicBool,
    lag: Mutex<Lag>,
}

impl Shared {
    fn tell(&self, change: impl FnOnce(&mut Lag)) {
        change(&mut self.lag.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the thread is asked to do.
enum Asked {
    Look,
    Find { stream: String, writer: String, seq: u64, answer: SyncSender<Result<Known, Unavailable>> },
}

impl Feeder {
    /// Opens the index of a log and starts to feed it.
    ///
    /// # Errors
    /// [`IndexError`], but not [`IndexError::InUse`]; also where the system gives no thread.
    pub fn start(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let shared = Arc::new(Shared::default());
        let (tell, told) = sync_channel(1);
        let (asked, questions) = sync_channel(MOST_QUESTIONS);
        let feeding = Feeding { shared: Arc::clone(&shared), questions };
        let (environment, place) = (environment.clone(), path.to_owned());
        let work = move || feeding.run(&environment, &place, &tell);
        let spawned = std::thread::Builder::new().name("stele-index".to_owned()).spawn(work);
        let thread = spawned.map_err(|source| DiskError {
            operation: "start the indexing thread for",
            path: path.to_owned(),
            source,
        })?;
        let feeder = Self { shared, asked: Some(asked), thread: Some(thread) };
        match told.recv() {
            Ok(result) => result.map(|()| feeder),
            Err(_it_died) => Err(StoreFault::Unusable("the indexing thread has died".to_owned()).into()),
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
        if let Some(asked) = &self.asked
            && !self.shared.look.swap(true, Ordering::AcqRel)
            && asked.try_send(Asked::Look).is_err()
        {
            // Where so many questions wait, it looks after each of them.
            self.shared.look.store(false, Ordering::Release);
        }
    }

    /// Looks for the record that has an identity.
    ///
    /// # Errors
    /// [`Unavailable`] where the index cannot say now.
    pub fn find_identity(&self, identity: &Identity<'_>) -> Result<Known, Unavailable> {
        let lag = self.lag();
        if let Some(why) = lag.stopped {
            return Err(Unavailable::Stopped(why));
        }
        if lag.waits_for.is_some() {
            return Err(Unavailable::Busy);
        }
        if lag.behind() > MOST_BEHIND {
            return Err(Unavailable::Behind { indexed: lag.indexed, durable: lag.durable });
        }
        let (answer, answered) = sync_channel(1);
        let (stream, writer) = (identity.stream.to_owned(), identity.writer.to_owned());
        let question = Asked::Find { stream, writer, seq: identity.seq, answer };
        let asked = self.asked.as_ref().is_some_and(|asked| asked.try_send(question).is_ok());
        if !asked {
            return Err(Unavailable::Busy);
        }
        match answered.recv_timeout(Duration::from_millis(ANSWER_MS)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Unavailable::Busy),
        }
    }
}

/// The thread's side.
struct Feeding {
    shared: Arc<Shared>,
    questions: Receiver<Asked>,
}

impl Feeding {
    fn run(self, environment: &Environment, path: &Path, tell: &SyncSender<Result<(), IndexError>>) {
        let mut index = loop {
            match Index::open(environment, path) {
                Ok(index) => break index,
                Err(error @ IndexError::InUse { .. }) => {
                    self.shared.tell(|lag| lag.waits_for = Some(error.to_string()));
                    // Only the first one is waited for.
                    drop(tell.try_send(Ok(())));
                    if self.answer(None).is_none() {
                        return;
                    }
                }
                Err(error) => {
                    self.shared.tell(|lag| lag.stopped = Some(error.to_string()));
                    return drop(tell.try_send(Err(error)));
                }
            }
        };
        self.shared.tell(|lag| {
            (lag.waits_for, lag.indexed, lag.durable) = (None, index.indexed(), index.reader().size());
        });
        drop(tell.try_send(Ok(())));
        loop {
            let shared = &self.shared;
            let fed = index.catch_up(&mut |indexed, durable| {
                shared.tell(|lag| (lag.indexed, lag.durable) = (indexed, durable));
                if shared.stop.load(Ordering::Acquire) {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            });
            if let Err(error) = fed {
                return shared.tell(|lag| lag.stopped = Some(error.to_string()));
            }
            shared.tell(|lag| {
                (lag.indexed, lag.durable) = (index.indexed(), index.reader().size());
                lag.moved_aside = index.moved_aside().map(str::to_owned);
            });
            if self.answer(Some(&mut index)).is_none() {
                return;
            }
        }
    }

    /// Waits for a question or for the next look; `None` where nobody asks any more.
    fn answer(&self, index: Option<&mut Index>) -> Option<()> {
        let (stream, writer, seq, answer) = match self.questions.recv_timeout(Duration::from_millis(LOOKS_MS)) {
            Ok(Asked::Find { stream, writer, seq, answer }) => (stream, writer, seq, answer),
            Ok(Asked::Look) => {
                self.shared.look.store(false, Ordering::Release);
                return Some(());
            }
            Err(RecvTimeoutError::Timeout) => return Some(()),
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        let identity = Identity { stream: &stream, writer: &writer, seq };
        let found = match index {
            Some(index) => index.find_identity(&identity).map_err(|error| Unavailable::Failed(error.to_string())),
            None => Err(Unavailable::Busy),
        };
        // Whoever asked may have stopped waiting.
        drop(answer.try_send(found));
        Some(())
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.asked = None;
        if let Some(thread) = self.thread.take() {
            // Where it died of a panic, the index is judged when it is opened again.
            drop(thread.join());
        }
    }
}
