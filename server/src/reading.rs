//! Threads that read records and proofs.
//!
//! A [`LogReader`] belongs to one thread, so each thread has its own. Nothing is served beyond what is applied and
//! durable here (I-REPLICA-1), and [`LogReader::read`] hashes every record again and compares it with its leaf
//! before it hands it out. Jobs are short: who streams asks for piece after piece.
//!
//! I-READING-1: jobs that wait are bounded; one more is refused at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::LogReader;
use stele_proof::TreeSize;
use tokio::sync::oneshot;

use crate::view::View;

/// Jobs that wait.
const MAX_WAITING: usize = 256;

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadTrouble {
    /// Too many wait already.
    #[error("Busy: too many reads wait; try again")]
    Busy,
    /// The node stops.
    #[error("this node is stopping")]
    Stopping,
    /// The log has no record yet.
    #[error("the log has no record yet")]
    Empty,
    /// A read died; the thread goes on with the next one.
    #[error("the read failed of a fault of this program, which has told it to its log")]
    Fault,
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

type Job = Box<dyn FnOnce(&mut Reading) + Send>;

/// The threads.
pub struct Readers {
    jobs: Mutex<Option<SyncSender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a thread reads with.
struct Reading {
    environment: Environment,
    path: PathBuf,
    view: View,
    reader: Option<LogReader>,
}

impl Readers {
    /// Starts so many threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(environment: &Environment, path: &Path, view: &View, count: usize) -> std::io::Result<Self> {
        let (jobs, received) = sync_channel::<Job>(MAX_WAITING);
        let received = Arc::new(Mutex::new(received));
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let received = Arc::clone(&received);
            let (environment, path, view) = (environment.clone(), path.to_owned(), view.clone());
            let work = move || {
                // What reads is made where it reads: it cannot change threads.
                let mut reading = Reading { environment, path, view, reader: None };
                while let Some(job) = next(&received) {
                    if catch_unwind(AssertUnwindSafe(|| job(&mut reading))).is_err() {
                        tracing::error!("a read died");
                        reading.reader = None;
                    }
                }
            };
            threads.push(std::thread::Builder::new().name(format!("reader-{number}")).spawn(work)?);
        }
        Ok(Self { jobs: Mutex::new(Some(jobs)), threads: Mutex::new(threads) })
    }

    /// Reads, on one of the threads, from a log of which at least `needs` records are visible here.
    ///
    /// # Errors
    /// [`ReadTrouble`].
    pub async fn run<T: Send + 'static>(
        &self,
        needs: TreeSize,
        work: impl FnOnce(&LogReader) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, ReadTrouble> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |reading| {
            // Whoever asked may be gone, and others wait.
            if answer.is_closed() {
                return;
            }
            let read = reading.up_to(needs).and_then(|reader| Ok(work(reader)?));
            // Where nobody waits any more, nobody wants the answer.
            drop(answer.send(read));
        });
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            match jobs.as_ref().ok_or(ReadTrouble::Stopping)?.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(ReadTrouble::Busy),
                Err(TrySendError::Disconnected(_)) => return Err(ReadTrouble::Stopping),
            }
        }
        answered.await.unwrap_or(Err(ReadTrouble::Fault))
    }

    /// Ends the threads, after the jobs that wait. Blocks.
    pub fn stop(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reading thread died");
            }
        }
    }
}

fn next(received: &Mutex<Receiver<Job>>) -> Option<Job> {
    received.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Reading {
    /// The reader, with at least so many records before its end. It is moved only where it must be: what it knows of
    /// the open segment is read again after each move.
    fn up_to(&mut self, needs: TreeSize) -> Result<&LogReader, ReadTrouble> {
        let visible = self.view.visible().ok_or(ReadTrouble::Stopping)?;
        if visible.size().get() == 0 {
            return Err(ReadTrouble::Empty);
        }
        let reader = match self.reader.take() {
            Some(mut reader) if reader.size() < needs => {
                reader.advance_to(&visible.tail)?;
                reader
            }
            Some(reader) => reader,
            None => LogReader::open_at(&self.environment, &self.path, &visible.tail)?,
        };
        Ok(self.reader.insert(reader))
    }
}
