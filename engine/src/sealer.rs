//! Sealing ended segments, one after the other, beside the one who appends.
//!
//! I-SEALER-1: segments are handed over, sealed and answered in order; behind one that could not be
//! sealed nothing is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::directory::LogDirectory;
use crate::disk::{Access, Disk, DiskError};
use crate::environment::{Environment, Workers};
use crate::error::{LogError, Poisoned};
use crate::read_back::SegmentStart;
use crate::reserved::SegmentSealed;
use crate::seal::{SegmentEnd, digest_of, seal_segment};
use crate::segment::SegmentFile;
use crate::state::StateKeeper;
use crate::store::StoreProgress;

/// Seals what it is given: on a thread of its own, or when it is asked for the outcome.
pub(crate) struct Sealer {
    seat: Seat,
    /// Segments handed over whose seal record has not been asked for.
    waiting: usize,
}

enum Seat {
    Thread {
        /// `None` once it has been told to stop.
        jobs: Option<mpsc::Sender<Job>>,
        done: mpsc::Receiver<Result<SegmentSealed, LogError>>,
        /// `None` once it has ended.
        thread: Option<JoinHandle<()>>,
    },
    Inline {
        sealing: Box<Sealing>,
        jobs: VecDeque<Job>,
        done: VecDeque<Result<SegmentSealed, LogError>>,
    },
}

enum Job {
    /// Seals a segment that ended.
    Seal { start: Box<SegmentStart>, end: SegmentEnd },
    /// Looks at a segment again that is sealed here, and of which this is told.
    Look(Box<SegmentSealed>),
}

/// What sealing needs, and what the log added up to at the last sealed segment.
struct Sealing {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    progress: StoreProgress,
    keeper: StateKeeper,
}

impl Sealing {
    /// What keeps a segment from being sealed keeps the log from going on: a failed flush is final.
    fn work(&mut self, job: &Job) -> Result<SegmentSealed, LogError> {
        let done = match job {
            Job::Seal { start, end } => {
                self.progress.wait_ended(start.tail.segment)?;
                seal_segment(self.disk.as_ref(), &self.directory, start, end, &mut self.keeper)
            }
            Job::Look(told) => self.look(told),
        };
        done.inspect_err(|error| self.progress.poison(error))
    }

    /// What the file of a sealed segment says, as far as a seal record tells of the file.
    fn look(&self, told: &SegmentSealed) -> Result<SegmentSealed, LogError> {
        let path = self.directory.segment_file(SegmentFile::Frames(told.segment));
        let file = self.disk.open(&path, Access::Read)?;
        let (file_bytes, file_digest) = (file.status()?.len, digest_of(file.as_ref())?);
        Ok(SegmentSealed { file_bytes, file_digest, ..told.clone() })
    }
}

impl Sealer {
    /// `keeper` has followed the log up to the first segment that will be handed over.
    ///
    /// # Errors
    /// [`DiskError`] where the system gives no thread.
    pub(crate) fn start(
        environment: &Environment,
        directory: &LogDirectory,
        progress: StoreProgress,
        keeper: StateKeeper,
    ) -> Result<Self, DiskError> {
        let disk = Arc::clone(&environment.disk);
        let sealing = Sealing { disk, directory: directory.clone(), progress, keeper };
        let seat = match environment.workers {
            Workers::Threads => spawn(sealing)?,
            Workers::Inline => {
                Seat::Inline { sealing: Box::new(sealing), jobs: VecDeque::new(), done: VecDeque::new() }
            }
        };
        Ok(Self { seat, waiting: 0 })
    }

    /// Hands over a segment whose last frame has been appended.
    pub(crate) fn submit(&mut self, start: SegmentStart, end: SegmentEnd) {
        self.hand_over(Job::Seal { start: Box::new(start), end });
    }

    /// Hands over a segment that is sealed here, with its seal record; what its file says is answered in its turn.
    pub(crate) fn look_again(&mut self, told: SegmentSealed) {
        self.hand_over(Job::Look(Box::new(told)));
    }

    fn hand_over(&mut self, job: Job) {
        self.waiting += 1;
        match &mut self.seat {
            // A thread that is gone sends no answer either: `wait_next` tells.
            Seat::Thread { jobs: Some(jobs), .. } => drop(jobs.send(job)),
            Seat::Thread { jobs: None, .. } => {}
            Seat::Inline { jobs, .. } => jobs.push_back(job),
        }
    }

    /// Segments handed over whose seal record has not been asked for.
    pub(crate) const fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) const fn is_busy(&self) -> bool {
        self.waiting > 0
    }

    /// Without a thread: seals the next segment, all of which has been written.
    pub(crate) fn seal_next(&mut self) {
        if let Seat::Inline { sealing, jobs, done } = &mut self.seat
            && let Some(job) = jobs.pop_front()
        {
            let result = sealing.work(&job);
            if result.is_err() {
                jobs.clear();
            }
            done.push_back(result);
        }
    }

    /// The next sealed segment, in order; `None` where none is waited for.
    ///
    /// # Errors
    /// [`LogError`]: why it was not sealed.
    pub(crate) fn wait_next(&mut self) -> Result<Option<SegmentSealed>, LogError> {
        if self.waiting == 0 {
            return Ok(None);
        }
        self.waiting -= 1;
        if matches!(&self.seat, Seat::Inline { done, .. } if done.is_empty()) {
            self.seal_next();
        }
        let answer = match &mut self.seat {
            Seat::Thread { done, .. } => done.recv().ok(),
            Seat::Inline { done, .. } => done.pop_front(),
        };
        match answer {
            Some(result) => result.map(Some),
            None => Err(LogError::Poisoned(Poisoned("sealing has stopped".into()))),
        }
    }
}

impl Sealer {
    /// As [`Sealer::wait_next`], but `None` also where the next one is not sealed yet.
    ///
    /// # Errors
    /// As [`Sealer::wait_next`].
    pub(crate) fn try_next(&mut self) -> Result<Option<SegmentSealed>, LogError> {
        let answer = match &mut self.seat {
            _ if self.waiting == 0 => return Ok(None),
            Seat::Thread { done, .. } => match done.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return Ok(None),
                answer => answer.ok(),
            },
            Seat::Inline { done, .. } => match done.pop_front() {
                None => return Ok(None),
                answer => answer,
            },
        };
        self.waiting -= 1;
        match answer {
            Some(result) => result.map(Some),
            None => Err(LogError::Poisoned(Poisoned("sealing has stopped".into()))),
        }
    }
}

/// How much the sealing thread gives way to others.
const NICENESS: i32 = 10;

fn spawn(mut sealing: Sealing) -> Result<Seat, DiskError> {
    let path = sealing.directory.path().to_owned();
    let (jobs, todo) = mpsc::channel::<Job>();
    let (report, done) = mpsc::channel();
    let work = move || {
        // Sealing can wait and appending cannot. Where the system will not have it, it is as urgent as all else.
        let _refused = rustix::process::setpriority_process(None, NICENESS);
        for job in todo {
            let result = sealing.work(&job);
            let failed = result.is_err();
            // Where nobody waits any more, the log was dropped, and sealing resumes when it is opened.
            if report.send(result).is_err() || failed {
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name("stele-sealer".to_owned()).spawn(work);
    let thread = spawned.map_err(|source| DiskError { operation: "start the sealing thread for", path, source })?;
    Ok(Seat::Thread { jobs: Some(jobs), done, thread: Some(thread) })
}

impl Drop for Sealer {
    /// Waits for the jobs that are queued, so that nobody touches the files once the lock is given back. The
    /// store, closed or dropped before, has ended all other waiting.
    fn drop(&mut self) {
        if let Seat::Thread { jobs, thread, .. } = &mut self.seat {
            *jobs = None;
            if let Some(thread) = thread.take() {
                // Where it died of a panic, the segment is sealed when the log is opened again.
                drop(thread.join());
            }
        }
    }
}
