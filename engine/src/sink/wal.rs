//! A sink into a log of one voter (`local`), shared by any number of threads.
//!
//! Whoever submits takes room in the queue, pushes the record under the log's lock, and waits; one thread cuts what was
//! pushed meanwhile into a batch. So records that arrive together share a frame and a flush.
//!
//! I-SINK-1: every record that was pushed has its waiter in the queue, in the order of the log: both happen under the
//! log's lock, and so does closing.
//! I-SINK-2: room is given back when the record's fate is known, and not before.
//! I-SINK-3: a record is acknowledged as durable only by the flush that covers it.
//!
//! The bound counts each record as if it had a frame of its own, and is at most half of what the store lets wait for a
//! flush: so a push never waits for the disk's flushes, and a full queue answers `Busy` at once. It may wait while the
//! last leaf of a block waits for a seal.
//!
//! `seeds/003` (API, CONFIG) calls `rotate_bytes` what `stele` calls `seal.bytes`. A log must be made before it can be
//! opened ([`WalSink::create`]): what it is called and how it is shaped is fixed then, for ever.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use stele_proof::record::{MAX_RECORD_BYTES, Salt};

use super::{Acknowledgement, AppendError, AuditSink, AuditStream, ChainName, ChainState, Counters, Counts, Kept};
use crate::batch;
use crate::birth::CreateOptions;
use crate::disk::DiskError;
use crate::environment::{Environment, Workers};
use crate::error::{LogError, Poisoned};
use crate::frame;
use crate::intake::Submission;
use crate::local::{LocalLog, SealSettings};
use crate::number::Alignment;
use crate::queue::{Refused, Taken, WorkQueue, lock};
use crate::store::MAX_UNFLUSHED_BYTES;

/// Least bytes of a segment (`seeds/003`, CONFIG 4).
pub const MIN_ROTATE_BYTES: u64 = 8 << 20;
/// Most bytes that may wait in the queue, each record counted with a frame of its own.
pub const MAX_QUEUE_BYTES: usize = MAX_UNFLUSHED_BYTES / 2;

/// What an acknowledgement waits for. The log flushes as fast as the disk lets it in any case.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum FsyncPolicy {
    /// The flush of the record. It says [`Kept::Durable`].
    #[default]
    Always,
    /// Nothing but the appending. It says [`Kept::Appended`]: a kill or a power failure may lose the record. A flush,
    /// a checkpoint and closing wait for the disk.
    OnCheckpoint,
    /// As `OnCheckpoint`, and [`AuditSink::flush`] does not wait for the disk either. For tests.
    Never,
}

/// What a sink is run for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Profile {
    /// Records that matter.
    #[default]
    Production,
    /// Tests: only here may nothing be flushed.
    Test,
}

/// How a [`WalSink`] works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalConfig {
    /// The log's directory.
    pub dir: PathBuf,
    /// Bytes at which a segment is ended; at least [`MIN_ROTATE_BYTES`].
    pub rotate_bytes: u64,
    /// What an acknowledgement waits for.
    pub fsync: FsyncPolicy,
    /// What the sink is run for.
    pub profile: Profile,
    /// Bytes that may wait, each record counted with a frame of its own; at most [`MAX_QUEUE_BYTES`].
    pub queue_bytes: usize,
    /// How long an acknowledgement is waited for.
    pub deadline: Duration,
}

impl WalConfig {
    /// 128 MiB a segment, every acknowledgement durable, 8 MiB in the queue, ten seconds.
    pub const fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            rotate_bytes: 128 << 20,
            fsync: FsyncPolicy::Always,
            profile: Profile::Production,
            queue_bytes: 8 << 20,
            deadline: Duration::from_secs(10),
        }
    }

    fn check(&self) -> Result<(), OpenError> {
        if self.fsync == FsyncPolicy::Never && self.profile != Profile::Test {
            return Err(OpenError::NeverOutsideTests);
        }
        if self.rotate_bytes < MIN_ROTATE_BYTES {
            return Err(OpenError::RotateTooSmall { bytes: self.rotate_bytes });
        }
        if self.queue_bytes == 0 || self.queue_bytes > MAX_QUEUE_BYTES {
            return Err(OpenError::Queue { bytes: self.queue_bytes });
        }
        Ok(())
    }
}

/// Why a sink cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `fsync = never` loses acknowledged records.
    #[error("fsync = never is for the test profile only; use always or on_checkpoint")]
    NeverOutsideTests,
    /// Segments would be tiny.
    #[error("rotate_bytes is {bytes}, at least {MIN_ROTATE_BYTES} are needed")]
    RotateTooSmall {
        /// What was asked for.
        bytes: u64,
    },
    /// The queue takes nothing, or more than the log lets wait for a flush.
    #[error("queue_bytes is {bytes}, it must be 1 to {MAX_QUEUE_BYTES}")]
    Queue {
        /// What was asked for.
        bytes: usize,
    },
    /// The log cannot be made or opened.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Appends to a log on this machine. Dropped without [`WalSink::close`] it leaves the log as a kill would: whole, to be
/// recovered when it is opened. A drop waits no longer than the sink's deadline, even beside a disk that hangs, unless the
/// system gives it no thread to leave the flush to: then it waits for the flush.
///
/// ```
/// use stele_engine::birth::CreateOptions;
/// use stele_engine::environment::Environment;
/// use stele_engine::sink::wal::{WalConfig, WalSink};
/// use stele_engine::sink::{AuditSink as _, Kept};
/// # use stele_proof::UnixMillis;
/// use stele_proof::checkpoint::Origin;
/// # use stele_proof::record::{Actor, Object, RecordBuilder, Subject};
/// # let attrs = Object::default();
/// # let draft = RecordBuilder {
/// #     ts_ms: UnixMillis::new(1), writer_id: "w", stream: "s", kind: "K",
/// #     actor: Actor { anon: true, ..Actor::default() }, subject: Subject::default(), reason: "ok", attrs: &attrs,
/// #     payload: None,
/// # };
/// # let directory = tempfile::tempdir()?;
/// let config = WalConfig::new(directory.path().join("audit"));
/// let options = CreateOptions::new(Origin::new("example.com/audit")?);
/// let sink = WalSink::create(&Environment::system(), &config, &options)?;
/// assert_eq!(sink.emit(&draft)?.kept, Kept::Durable);
/// let checkpoint = sink.checkpoint()?;
/// assert!(checkpoint.starts_with("example.com/audit\n"));
/// sink.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WalSink {
    shared: Arc<Shared>,
    config: WalConfig,
    alignment: Alignment,
    workers: Workers,
    /// `None` where the callers cut, and once it was joined.
    cutter: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// `None` once the sink was closed or aborted.
    log: Mutex<Option<LocalLog>>,
    queue: WorkQueue<Waiter>,
    counters: Counters,
    fsync: FsyncPolicy,
    aborted: AtomicBool,
}

/// Room in the queue, given back when this is dropped.
struct Room {
    shared: Arc<Shared>,
    weight: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.queue.release(self.weight);
    }
}

/// Somebody who pushed and waits. Dropped without an answer, it means that nobody will give one.
struct Waiter {
    answer: SyncSender<Result<(), Poisoned>>,
    wants: Kept,
    room: Room,
}

impl Waiter {
    fn tell(self, result: Result<(), Poisoned>) {
        // Room first: who is answered may submit again at once.
        drop(self.room);
        // Whoever gave up waiting wants no answer.
        drop(self.answer.try_send(result));
    }
}

impl WalSink {
    /// Makes a new log in a directory that does not exist yet or is empty, and opens it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn create(environment: &Environment, config: &WalConfig, options: &CreateOptions) -> Result<Self, OpenError> {
        config.check()?;
        Self::start(environment, config, LocalLog::create(environment, &config.dir, options)?)
    }

    /// Opens a log: takes its lock and recovers it. Chains go on where they were.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(environment: &Environment, config: &WalConfig) -> Result<Self, OpenError> {
        config.check()?;
        Self::start(environment, config, LocalLog::open(environment, &config.dir)?)
    }

    fn start(environment: &Environment, config: &WalConfig, mut log: LocalLog) -> Result<Self, OpenError> {
        log.set_seal_settings(SealSettings { bytes: config.rotate_bytes, ..SealSettings::default() });
        let alignment = log.genesis().frame_align;
        let shared = Arc::new(Shared {
            log: Mutex::new(Some(log)),
            queue: WorkQueue::new(config.queue_bytes),
            counters: Counters::default(),
            fsync: config.fsync,
            aborted: AtomicBool::new(false),
        });
        let cutter = if environment.workers == Workers::Threads {
            let shared = Arc::clone(&shared);
            let cut = move || {
                let _death = DeathNotice(Arc::clone(&shared));
                shared.cut_until_closed();
            };
            let spawned = std::thread::Builder::new().name("stele-sink".to_owned()).spawn(cut);
            Some(spawned.map_err(|source| {
                let path = config.dir.clone();
                LogError::Disk(DiskError { operation: "start the sink's thread for", path, source })
            })?)
        } else {
            None
        };
        let workers = environment.workers;
        Ok(Self { shared, config: config.clone(), alignment, workers, cutter: Mutex::new(cutter) })
    }

    /// Waits until everything that was taken is durable, whatever the policy, signs a checkpoint and answers it.
    ///
    /// # Errors
    /// [`AppendError::Io`], [`AppendError::Closed`], [`AppendError::Canceled`], [`AppendError::Timeout`].
    pub fn checkpoint(&self) -> Result<String, AppendError> {
        self.wait_for_flush()?;
        Ok(self.shared.with_log(LocalLog::checkpoint)??)
    }

    /// Takes nothing more, waits for what was taken, seals what has ended and marks the clean stop. Closing again is no
    /// error, nor is closing after [`WalSink::abort`].
    ///
    /// # Errors
    /// [`AppendError::Io`].
    pub fn close(&self) -> Result<(), AppendError> {
        // Under the lock, so that whatever was pushed has its waiter in the queue (I-SINK-1).
        match self.shared.lock() {
            Ok(_log) => self.shared.queue.close(),
            Err(error) => {
                self.shared.queue.close();
                return Err(error);
            }
        }
        self.join();
        self.shared.cut_queued();
        let log = self.shared.lock()?.take();
        log.map_or(Ok(()), |log| Ok(log.close()?))
    }

    /// Takes nothing more, and waits for no more than the flush under way: who waits for a later one is told
    /// [`AppendError::Canceled`]. The log is left as a kill would leave it.
    pub fn abort(&self) {
        self.shared.abort();
        self.join();
    }

    fn join(&self) {
        let cutter = lock(&self.cutter).take();
        // That it panicked, everybody who waited was told; the log is closed or dropped by whoever asked.
        drop(cutter.map(JoinHandle::join));
    }

    /// Takes room for one record, or refuses at once.
    fn reserve(&self, weight: usize) -> Result<Room, AppendError> {
        let queue = &self.shared.queue;
        queue.try_reserve(weight).map_err(|refused| match refused {
            Refused::Full => AppendError::Busy { waiting: queue.weight(), bound: self.config.queue_bytes },
            Refused::Closed => AppendError::Closed,
        })?;
        Ok(Room { shared: Arc::clone(&self.shared), weight })
    }

    /// Bytes of a record in the store, were it alone in a frame, its payload beside it.
    fn weight(&self, payload: Option<(&Salt, &[u8])>) -> usize {
        let padded = |bytes: usize| usize::try_from(self.alignment.round_up(bytes as u64)).unwrap_or(usize::MAX);
        let lengths = 4 + 2;
        let record = frame::HEADER_BYTES + batch::HEADER_BYTES + MAX_RECORD_BYTES + lengths;
        padded(record) + payload.map_or(0, |(_, bytes)| padded(Salt::LEN + bytes.len()))
    }

    fn take(&self, submission: &Submission<'_>) -> Result<Acknowledgement, AppendError> {
        let (Submission::Draft { payload, .. } | Submission::Finished { payload, .. }) = submission;
        let room = self.reserve(self.weight(*payload))?;
        let kept = if self.config.fsync == FsyncPolicy::Always { Kept::Durable } else { Kept::Appended };
        let (receipt, told) = {
            let mut guard = self.shared.lock()?;
            let log = guard.as_mut().ok_or(AppendError::Closed)?;
            let receipt = log.push(submission)?;
            (receipt, self.shared.wait_in_line(room, kept)?)
        };
        self.wait(&told)?;
        Ok(Acknowledgement { index: receipt.index, self_hash: receipt.self_hash, kept })
    }

    fn wait(&self, told: &Receiver<Result<(), Poisoned>>) -> Result<(), AppendError> {
        if self.workers == Workers::Inline {
            self.shared.cut_queued();
        }
        match told.recv_timeout(self.config.deadline) {
            Ok(Err(_)) if self.shared.aborted.load(Ordering::Acquire) => Err(AppendError::Canceled),
            Ok(result) => Ok(result?),
            Err(RecvTimeoutError::Timeout) => Err(AppendError::Timeout { after: self.config.deadline }),
            Err(RecvTimeoutError::Disconnected) => Err(AppendError::Canceled),
        }
    }

    fn wait_for_flush(&self) -> Result<(), AppendError> {
        // A flush takes no room: it must work where the queue is full.
        let room = Room { shared: Arc::clone(&self.shared), weight: 0 };
        let told = {
            let guard = self.shared.lock()?;
            guard.as_ref().ok_or(AppendError::Closed)?;
            self.shared.wait_in_line(room, Kept::Durable)?
        };
        self.wait(&told)
    }
}

impl AuditStream for WalSink {
    fn state(&self, chain: ChainName<'_>) -> Result<ChainState, AppendError> {
        self.shared.with_log(|log| log.head(chain).into())
    }
}

impl AuditSink for WalSink {
    fn submit(&self, submission: &Submission<'_>) -> Result<Acknowledgement, AppendError> {
        let result = self.take(submission);
        self.shared.counters.count(&result);
        result
    }

    /// Waits until everything that was taken is durable; with [`FsyncPolicy::Never`] it does not wait.
    fn flush(&self) -> Result<(), AppendError> {
        if self.config.fsync == FsyncPolicy::Never {
            return self.shared.with_log(|_| ());
        }
        self.wait_for_flush()
    }

    fn counts(&self) -> Counts {
        self.shared.counters.get()
    }
}

impl Drop for WalSink {
    /// Aborts. Where the flush under way takes longer than the sink's deadline, it is left to a thread that ends with it:
    /// until then the log stays locked. Where there is no thread to be had, it waits.
    fn drop(&mut self) {
        let cutter = lock(&self.cutter).take();
        if self.workers == Workers::Inline || cutter.is_none() {
            // Nobody else flushes, or it was closed.
            self.shared.abort();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let (done, told) = mpsc::sync_channel::<()>(0);
        let end = move || {
            shared.abort();
            drop(cutter.map(JoinHandle::join));
            drop(done);
        };
        match std::thread::Builder::new().name("stele-sink-end".to_owned()).spawn(end) {
            // Nothing is ever sent: the channel ends with the thread's work.
            Ok(_thread) => drop(told.recv_timeout(self.config.deadline)),
            Err(_no_thread) => self.shared.abort(),
        }
    }
}

impl Shared {
    /// Takes nothing more; who waits is told [`AppendError::Canceled`]. Waits for the flush under way.
    fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
        // Those who push meanwhile find the queue closed; those whose batch was cut hear from the log.
        drop(self.queue.abandon());
        if let Ok(mut log) = self.lock() {
            drop(log.take());
        }
    }

    /// A panic while the lock was held may have left the log half changed: then the sink has failed.
    fn lock(&self) -> Result<MutexGuard<'_, Option<LocalLog>>, AppendError> {
        let Ok(log) = self.log.lock() else {
            return Err(Poisoned("a thread panicked while it changed the log".into()).into());
        };
        Ok(log)
    }

    fn with_log<T>(&self, work: impl FnOnce(&mut LocalLog) -> T) -> Result<T, AppendError> {
        self.lock()?.as_mut().map(work).ok_or(AppendError::Closed)
    }

    /// The caller holds the log's lock.
    fn wait_in_line(&self, room: Room, wants: Kept) -> Result<Receiver<Result<(), Poisoned>>, AppendError> {
        let (answer, told) = mpsc::sync_channel(1);
        match self.queue.push(Waiter { answer, wants, room }) {
            Ok(()) => Ok(told),
            Err(_waiter) => Err(AppendError::Canceled),
        }
    }

    fn cut_until_closed(&self) {
        while let Taken::Work(waiters) = self.queue.take(None) {
            let (all_told, told) = mpsc::sync_channel::<()>(1);
            self.cut(waiters.into(), all_told);
            if self.fsync == FsyncPolicy::Always {
                // What is pushed meanwhile shares the next frame. The sender goes with the callback, told or dropped.
                told.iter().for_each(drop);
            }
        }
    }

    /// Without a thread, and for what is left when the thread is gone.
    fn cut_queued(&self) {
        if let Taken::Work(waiters) = self.queue.take_now() {
            self.cut(waiters.into(), mpsc::sync_channel(1).0);
        }
    }

    /// Appends what was pushed and answers those who wait for it: now, or when it is durable.
    fn cut(&self, waiters: Vec<Waiter>, all_told: SyncSender<()>) {
        let Ok(mut guard) = self.lock() else { return };
        let Some(log) = guard.as_mut() else { return };
        let answers: Vec<_> = waiters.iter().map(|waiter| (waiter.answer.clone(), waiter.wants)).collect();
        let cut = log.cut(Box::new(move |result| {
            for waiter in waiters {
                waiter.tell(result.clone());
            }
            drop(all_told);
        }));
        // Where the cut fails, the callback may have been dropped. Who was answered keeps the first answer.
        let result = cut.map_err(|error| match error {
            LogError::Poisoned(poisoned) => poisoned,
            other => Poisoned(other.to_string().into()),
        });
        for (answer, wants) in answers {
            if wants < Kept::Durable || result.is_err() {
                drop(answer.try_send(result.clone()));
            }
        }
        log.write_queued();
    }
}

/// However the cutter ends, nobody waits for it.
struct DeathNotice(Arc<Shared>);

impl Drop for DeathNotice {
    fn drop(&mut self) {
        drop(self.0.queue.abandon());
    }
}
