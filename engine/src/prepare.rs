//! Space for the next segment file, zeroed ahead: frames are then written over blocks that exist, and a
//! flush has no metadata to change (DESIGN.md section 6, guarantee 4).
//!
//! The preparer has a thread of its own, or is driven by its caller ([`crate::environment::Workers`]).
//! When the writer finds the open segment half full, the preparer makes `segments/prepared.tmp`, zeroes
//! it past the page cache in small steps, and flushes it. The next roll writes header and full ring into
//! it, flushes it, gives it the segment's name and flushes the directory; a roll that finds nothing ready
//! makes a plain file, and what is being prepared serves the one after it. Nobody ever waits for zeros.
//!
//! Prepared space is a convenience: it is given up where space is short, deleted when a log is closed (also
//! what the open file has left of it) or opened, and never in the way of a record. A call of the preparer that fails for another reason stops
//! the log: the medium has failed.
//!
//! I-PREPARE-1: at most one file is prepared, and it belongs to whoever holds its stage: the preparer
//! while it is zeroed or removed, nobody while it is ready, then the writer.
//! I-PREPARE-2: what is ready is zero from the first to the last byte, and durable.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::directory::{Inventory, LogDirectory};
use crate::disk::{Access, Disk, DiskError, DiskFile};
use crate::environment::Workers;
use crate::error::{LogError, Poisoned};
use crate::frame::Tail;
use crate::number::{BlockHeight, SegmentNumber};
use crate::queue::lock;
use crate::recovery::segment_head;
use crate::ring::Slot;
use crate::seal::low_water;
use crate::segment::{FRAMES_START, PAGE_BYTES, SegmentFile};
use crate::store::Shared;

/// What is prepared where no file has ended yet.
const FIRST_BYTES: u64 = 16 << 20;
/// Bytes that are zeroed at a time.
const STEP_BYTES: usize = 1 << 20;

/// Why space for the next file was not prepared, or was given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreparingRefused {
    /// Free bytes.
    pub free: u64,
    /// What must be free to prepare.
    pub needed: u64,
}

/// What the preparer is to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The segment that is open.
    pub(crate) open: SegmentNumber,
    /// What the file took that ended last; `None` where that one ended before the log was opened.
    pub(crate) ended: Option<u64>,
}

/// Where the file for the next segment is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// There is none.
    Nothing,
    /// The writer wants one.
    Wanted(Wanted),
    /// The preparer has it in hands.
    Zeroing,
    /// It may be taken.
    Ready,
    /// The preparer is to remove it.
    Unwanted,
}

/// What the preparer, the writer and the callers share.
pub(crate) struct Prepared {
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    stage: Stage,
    refused: Option<PreparingRefused>,
    /// From now on nothing is prepared.
    stopped: bool,
}

impl Prepared {
    pub(crate) const fn new() -> Self {
        let state = State { stage: Stage::Nothing, refused: None, stopped: false };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }

    /// The writer wants a file for the next segment, unless one is on its way.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.go_on(Stage::Nothing, Stage::Wanted(wanted));
    }

    /// Whether a file is ready; it is then the caller's.
    pub(crate) fn take(&self) -> bool {
        self.go_on(Stage::Ready, Stage::Nothing)
    }

    /// Why nothing was prepared, the first time.
    pub(crate) fn refused(&self) -> Option<PreparingRefused> {
        lock(&self.state).refused
    }

    /// Lets the preparer come to its end behind the step at hand.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.moved.notify_all();
    }

    /// Whether there may be a file that nobody will take any more.
    fn is_left(&self) -> bool {
        matches!(lock(&self.state).stage, Stage::Zeroing | Stage::Ready | Stage::Unwanted)
    }

    /// Goes from one stage to the next, unless another has come in between.
    fn go_on(&self, from: Stage, to: Stage) -> bool {
        let mut state = lock(&self.state);
        let goes = state.stage == from;
        if goes {
            state.stage = to;
            self.moved.notify_all();
        }
        goes
    }

    /// Has the file removed, for space is short; answers whether there was one.
    fn give_back(&self, refused: PreparingRefused) -> bool {
        let mut state = lock(&self.state);
        state.stage = match state.stage {
            Stage::Nothing | Stage::Wanted(_) => {
                state.stage = Stage::Nothing;
                return false;
            }
            Stage::Zeroing | Stage::Ready | Stage::Unwanted => Stage::Unwanted,
        };
        state.refused.get_or_insert(refused);
        self.moved.notify_all();
        true
    }

    /// Waits until what was given back is gone, or never will be.
    fn wait_removed(&self) {
        let mut state = lock(&self.state);
        while state.stage == Stage::Unwanted && !state.stopped {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is something to do; `None` once there never will be.
    fn wait_work(&self) -> Option<Stage> {
        let mut state = lock(&self.state);
        while !state.stopped && matches!(state.stage, Stage::Nothing | Stage::Ready) {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (!state.stopped).then_some(state.stage)
    }

    /// What there is to do now.
    fn work(&self) -> Option<Stage> {
        let state = lock(&self.state);
        (!state.stopped).then_some(state.stage)
    }
}

/// How much is prepared: what the last file took and a quarter more, in whole pages.
fn prepared_len(ended: Option<u64>, seal_bytes: u64) -> u64 {
    const PAGE: u64 = PAGE_BYTES as u64;
    let len = ended.map_or(FIRST_BYTES, |bytes| bytes.saturating_add(bytes / 4));
    // At least one page of frames, else there is nothing to write over.
    let len = len.min(seal_bytes).max(FRAMES_START.get() + PAGE);
    len.checked_next_multiple_of(PAGE).unwrap_or(len)
}

/// Makes the prepared file that was taken the slot's segment file: as [`crate::recovery::create_segment`],
/// from when it returns the segment counts.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub(crate) fn name_prepared(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    slot: &Slot,
) -> Result<(), DiskError> {
    let prepared = directory.prepared();
    let file = disk.open(&prepared, Access::Write)?;
    file.write_at(&segment_head(inventory, slot), 0)?;
    file.sync()?;
    disk.rename(&prepared, &directory.segment_file(SegmentFile::Frames(slot.segment)))?;
    disk.sync_directory(&directory.segments())
}

/// What prepares: a thread, or the callers.
pub(crate) struct Preparer {
    shared: Arc<Shared>,
    seat: Seat,
}

enum Seat {
    /// `None` once it has ended.
    Thread(Mutex<Option<JoinHandle<()>>>),
    Inline(Box<Mutex<Preparation>>),
}

impl Preparer {
    /// Starts the preparer, which waits until the writer wants something.
    ///
    /// # Errors
    /// [`DiskError`] where the system gives no thread.
    pub(crate) fn start(
        disk: &Arc<dyn Disk>,
        directory: &LogDirectory,
        height: BlockHeight,
        shared: &Arc<Shared>,
        workers: Workers,
    ) -> Result<Self, DiskError> {
        let preparation = Preparation {
            disk: Arc::clone(disk),
            directory: directory.clone(),
            shared: Arc::clone(shared),
            height,
            zeros: Vec::new(),
            file: None,
        };
        let seat = match workers {
            Workers::Threads => Seat::Thread(Mutex::new(Some(spawn(preparation, directory.path())?))),
            Workers::Inline => Seat::Inline(Box::new(Mutex::new(preparation))),
        };
        Ok(Self { shared: Arc::clone(shared), seat })
    }

    /// Without a thread: does the next step, where one is due.
    pub(crate) fn step(&self) {
        if let Seat::Inline(preparation) = &self.seat
            && let Some(stage) = self.shared.prepared.work()
            && let Err(error) = lock(preparation).step(stage)
        {
            self.shared.poison(&error);
        }
    }

    /// Gives back the space of a file that no roll has taken, and waits for it; answers whether there was
    /// one.
    pub(crate) fn give_back(&self, refused: PreparingRefused) -> bool {
        let given = self.shared.prepared.give_back(refused);
        if given {
            self.step();
            self.shared.prepared.wait_removed();
        }
        given
    }

    /// Ends the preparer; nothing is under way when this returns.
    pub(crate) fn stop(&self) {
        self.shared.prepared.stop();
        if let Seat::Thread(thread) = &self.seat
            && let Some(thread) = lock(thread).take()
        {
            // Where it died of a panic, the store is poisoned.
            drop(thread.join());
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes what was prepared for nobody, behind the end of preparer and writer.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub(crate) fn remove_left(disk: &dyn Disk, directory: &LogDirectory, prepared: &Prepared) -> Result<(), DiskError> {
    if prepared.is_left() { remove_if_there(disk, &directory.prepared()) } else { Ok(()) }
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn spawn(mut preparation: Preparation, log: &Path) -> Result<JoinHandle<()>, DiskError> {
    let work = move || {
        let mut death = DeathNotice { shared: Arc::clone(&preparation.shared), expected: false };
        while let Some(stage) = death.shared.prepared.wait_work() {
            if let Err(error) = preparation.step(stage) {
                death.shared.poison(&error);
            }
        }
        death.expected = true;
    };
    let spawned = std::thread::Builder::new().name("stele-preparer".to_owned()).spawn(work);
    spawned.map_err(|source| DiskError { operation: "start the preparing thread for", path: log.to_owned(), source })
}

/// Poisons the store when the preparer dies of a panic.
struct DeathNotice {
    shared: Arc<Shared>,
    expected: bool,
}

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if !self.expected {
            self.shared.poison(&LogError::Poisoned(Poisoned("the preparer died".into())));
        }
    }
}

/// The work of the preparer.
struct Preparation {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    shared: Arc<Shared>,
    height: BlockHeight,
    /// A step of zeros and what it takes to begin them at a page.
    zeros: Vec<u8>,
    file: Option<Zeroed>,
}

/// A file that is being zeroed.
struct Zeroed {
    file: Box<dyn DiskFile>,
    access: Access,
    done: u64,
    len: u64,
}

impl Preparation {
    /// Does the next small step of a stage.
    fn step(&mut self, stage: Stage) -> Result<(), LogError> {
        match stage {
            Stage::Nothing | Stage::Ready => {}
            Stage::Wanted(wanted) => self.begin(wanted)?,
            Stage::Zeroing => self.zero()?,
            Stage::Unwanted => {
                self.file = None;
                remove_if_there(self.disk.as_ref(), &self.directory.prepared())?;
                self.shared.prepared.go_on(Stage::Unwanted, Stage::Nothing);
            }
        }
        Ok(())
    }

    /// Makes the file, where there is space for it.
    fn begin(&mut self, wanted: Wanted) -> Result<(), LogError> {
        let prepared = &self.shared.prepared;
        let ended = match (wanted.ended, wanted.open.get().checked_sub(1)) {
            (None, Some(before)) => {
                let name = SegmentFile::Frames(SegmentNumber::new(before));
                match self.disk.open(&self.directory.segment_file(name), Access::Read) {
                    Ok(file) => Some(file.status()?.len),
                    // A truncation has removed it since this was wanted.
                    Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error.into()),
                }
            }
            (ended, _) => ended,
        };
        let len = prepared_len(ended, self.shared.seal_bytes());
        let free = self.disk.free_bytes(self.directory.path())?;
        let needed = self.needed(len);
        if free < needed {
            let mut state = lock(&prepared.state);
            state.refused.get_or_insert(PreparingRefused { free, needed });
            drop(state);
            prepared.go_on(Stage::Wanted(wanted), Stage::Nothing);
            return Ok(());
        }
        if !prepared.go_on(Stage::Wanted(wanted), Stage::Zeroing) {
            return Ok(());
        }
        let path = self.directory.prepared();
        remove_if_there(self.disk.as_ref(), &path)?;
        match self.disk.open(&path, Access::Create) {
            Ok(_) => {}
            Err(error) if is_full(&error) => return self.give_up(len),
            Err(error) => return Err(error.into()),
        }
        let access = Access::WriteDirect;
        self.file = Some(Zeroed { file: self.disk.open(&path, access)?, access, done: 0, len });
        Ok(())
    }

    /// What must be free: what is prepared; the rest of the open file, which is about as long at most, so
    /// that a record is not soon refused for what lies ready; and what sealing takes.
    const fn needed(&self, len: u64) -> u64 {
        low_water(self.height).saturating_add(len.saturating_mul(2))
    }

    /// Zeroes a step, or flushes where all is zeroed.
    fn zero(&mut self) -> Result<(), LogError> {
        let Some(Zeroed { file, access, done, len }) = &mut self.file else {
            unreachable!("I-PREPARE-1: what is zeroed is in the preparer's hands");
        };
        if *done == *len {
            file.sync()?;
            self.file = None;
            self.zeros = Vec::new();
            self.shared.prepared.go_on(Stage::Zeroing, Stage::Ready);
            return Ok(());
        }
        if self.zeros.is_empty() {
            self.zeros = vec![0; STEP_BYTES + PAGE_BYTES];
        }
        let slack = self.zeros.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let step = usize::try_from(*len - *done).unwrap_or(usize::MAX).min(STEP_BYTES);
        match file.write_at(&self.zeros[slack..slack + step], *done) {
            Ok(()) => *done += step as u64,
            Err(error) if is_full(&error) => {
                let len = *len;
                return self.give_up(len);
            }
            // The file system took the flag for direct I/O and does not take such a write.
            Err(error) if error.source.kind() == std::io::ErrorKind::InvalidInput && *access != Access::Write => {
                *access = Access::Write;
                *file = self.disk.open(&self.directory.prepared(), Access::Write)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Space has run out meanwhile: the file is removed, and appending goes on without it.
    fn give_up(&mut self, len: u64) -> Result<(), LogError> {
        self.file = None;
        remove_if_there(self.disk.as_ref(), &self.directory.prepared())?;
        let free = self.disk.free_bytes(self.directory.path())?;
        let mut state = lock(&self.shared.prepared.state);
        state.refused.get_or_insert(PreparingRefused { free, needed: self.needed(len) });
        state.stage = Stage::Nothing;
        drop(state);
        self.shared.prepared.moved.notify_all();
        Ok(())
    }
}

fn is_full(error: &DiskError) -> bool {
    matches!(error.source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// What the writer knows of the open file, to tell when the next one is due.
pub(crate) struct Due {
    /// Where this writer began with the open segment.
    began: Tail,
    /// How long its file was then.
    file_len: u64,
    /// Whether the next one has been asked for.
    asked: bool,
}

impl Due {
    pub(crate) const fn from(began: Tail, file_len: u64) -> Self {
        Self { began, file_len, asked: false }
    }

    /// How long the open file was when the writer opened it.
    pub(crate) const fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Whether the writer, at `tail` now, has come half the way from where it began to the end of the
    /// segment, by leaves, by bytes, or by what was prepared of its file. Counted from where it began,
    /// so that a short run into a segment that is nearly full prepares nothing. Once per segment.
    pub(crate) fn is_now(&mut self, tail: &Tail, seal_bytes: u64) -> bool {
        let leaves = tail.height.leaves();
        let began = &self.began;
        let block_end = (began.leaves.get() / leaves + 1) * leaves;
        let half = |from: u64, now: u64, end: u64| end > from && now.saturating_sub(from) >= (end - from).div_ceil(2);
        let due = !self.asked
            && (half(began.leaves.get(), tail.leaves.get(), block_end)
                || half(began.stored_bytes(), tail.stored_bytes(), seal_bytes)
                || half(began.offset.get(), tail.offset.get(), self.file_len));
        self.asked |= due;
        due
    }
}
