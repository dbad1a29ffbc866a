//! The segment store as a Raft log store: append, truncate, read, vote; durability is told in order.
//!
//! I-STORE-1: applied <= committed <= durable <= appended on a one-voter log; `durable <= appended`
//! on every log.
//! I-STORE-2: entries are placed and queued under one lock, so the queue is in raft-log order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;

use crate::directory::{Inventory, LogDirectory, open_payloads, relative};
use crate::disk::{Access, Disk, read_up_to};
use crate::driver::Driver;
use crate::environment::{Clock, Environment};
use crate::error::{LogError, Poisoned};
use crate::flushes::{FlushTimes, Flushes};
use crate::frame::{EntryKind, FrameHeader, HEADER_BYTES, PlaceError, Placed, Tail};
use crate::hard_state::{HardState, HardStateFile, MAX_PEERS, OwnStanding, PeerMark, Vote};
use crate::number::{Alignment, Offset, RaftIndex, SegmentNumber, Term};
use crate::prepare::{Due, Prepared, Preparer, PreparingRefused, remove_left};
use crate::queue::{Refused, WorkQueue, lock};
use crate::recovery::{Holders, Recovered, recover};
use crate::scan::{FrameScanner, Seen};
use crate::segment::SegmentFile;
pub use crate::writer::OnDurable;
use crate::writer::{Append, Change, Work, Writer, refuse};

/// Bytes at which segments are ended where nobody says otherwise.
pub(crate) const DEFAULT_SEAL_BYTES: u64 = 256 << 20;

/// Most bytes that are appended and not yet durable.
pub const MAX_UNFLUSHED_BYTES: usize = 32 << 20;

/// An entry to append: what consensus replicates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: Term,
    /// What the body is.
    pub kind: EntryKind,
    /// The body, as it crosses the wire and lies in the frame.
    pub body: Bytes,
    /// The payload slots of a batch; empty otherwise.
    pub payload: Bytes,
}

impl Entry {
    /// Bytes of its body and payload.
    pub fn byte_len(&self) -> usize {
        self.body.len() + self.payload.len()
    }
}

/// Why an entry was not appended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Too many bytes are waiting to be flushed.
    #[error("the log is busy: too many bytes wait to be flushed; try again")]
    Busy,
    /// The entry cannot stand in any log, or not here.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The store has stopped.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// What the writer and its callers share.
pub(crate) struct Shared {
    pub(crate) queue: WorkQueue<Work>,
    progress: Mutex<Progress>,
    moved: Condvar,
    committed: AtomicU64,
    /// The store was dropped and not closed: its end is no clean stop.
    dropped: AtomicBool,
    /// The file for the next segment.
    pub(crate) prepared: Prepared,
    /// Bytes at which segments are ended.
    seal_bytes: AtomicU64,
    /// Measures flushes.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) flushes: Flushes,
}

struct Progress {
    durable: RaftIndex,
    open: SegmentNumber,
    /// How long the open segment's file was when the writer opened it.
    open_len: u64,
    poisoned: Option<Poisoned>,
}

impl Shared {
    pub(crate) fn committed(&self) -> RaftIndex {
        RaftIndex::new(self.committed.load(Ordering::Acquire))
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    pub(crate) fn set_durable(&self, tail: &Tail) {
        lock(&self.progress).durable = tail.next_index;
        self.moved.notify_all();
    }

    pub(crate) fn set_open(&self, segment: SegmentNumber, file_len: u64) {
        let mut progress = lock(&self.progress);
        (progress.open, progress.open_len) = (segment, file_len);
        drop(progress);
        self.moved.notify_all();
    }

    pub(crate) fn seal_bytes(&self) -> u64 {
        self.seal_bytes.load(Ordering::Relaxed)
    }

    /// Why the store has stopped, if a failure has stopped it.
    pub(crate) fn failure(&self) -> Option<Poisoned> {
        lock(&self.progress).poisoned.clone()
    }

    /// Why the store has stopped.
    pub(crate) fn poisoned(&self) -> Poisoned {
        lock(&self.progress).poisoned.clone().unwrap_or_else(|| Poisoned("the log was closed".into()))
    }

    /// Stops the store for good; the first reason stays.
    pub(crate) fn poison(&self, error: &LogError) -> Poisoned {
        let mut progress = lock(&self.progress);
        let poisoned = progress.poisoned.get_or_insert_with(|| Poisoned(error.to_string().into())).clone();
        drop(progress);
        self.queue.close();
        self.prepared.stop();
        self.moved.notify_all();
        poisoned
    }
}

/// Where the entries that are not in sealed segments lie.
struct Recent {
    /// The end of what was appended.
    tail: Tail,
    /// The tail at the start of each unsealed segment, and the places of its frames.
    segments: BTreeMap<SegmentNumber, (Tail, Vec<Offset>)>,
    /// The newest entries: those that are not yet durable, and as many before them as fit `keep_bytes`.
    entries: BTreeMap<RaftIndex, Entry>,
    /// Bytes of `entries`.
    entry_bytes: usize,
    /// Bytes of entries that are kept though they are durable.
    keep_bytes: usize,
    /// How many truncations were queued, and how many of them are done.
    cuts: (u64, u64),
    /// While some are not done: the least index from which on entries were dropped. What is there now is not durable,
    /// whatever the writer said of what was there before.
    cut: RaftIndex,
}

impl Recent {
    /// A truncation was queued; the writer comes to it later.
    fn begin_cut(&mut self, from: RaftIndex) {
        let (begun, done) = self.cuts;
        self.cut = if begun > done { self.cut.min(from) } else { from };
        self.cuts.0 += 1;
    }

    /// One past the last durable entry of those that are here now, where the writer says `durable`.
    fn settled(&self, durable: RaftIndex) -> RaftIndex {
        let (begun, done) = self.cuts;
        if begun > done { durable.min(self.cut) } else { durable }
    }

    /// The tail at the start of the segment in which an entry lies that is not in a sealed one.
    fn segment_start(&self, index: RaftIndex) -> Option<Tail> {
        self.segments.values().rev().map(|(start, _)| *start).find(|start| start.next_index <= index)
    }
    fn keep(&mut self, index: RaftIndex, entry: Entry, durable: RaftIndex) {
        let durable = self.settled(durable);
        self.entry_bytes += entry.byte_len();
        self.entries.insert(index, entry);
        while self.entry_bytes > self.keep_bytes
            && let Some(oldest) = self.entries.first_entry().filter(|oldest| *oldest.key() < durable)
        {
            self.entry_bytes -= oldest.remove().byte_len();
        }
    }

    fn drop_from(&mut self, index: RaftIndex) {
        let dropped = self.entries.split_off(&index);
        self.entry_bytes -= dropped.values().map(Entry::byte_len).sum::<usize>();
        self.segments.retain(|_, (start, offsets)| {
            let keep = index.get().saturating_sub(start.next_index.get());
            offsets.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            !offsets.is_empty()
        });
    }
}

/// The store. Dropping it without [`SegmentStore::close`] leaves no clean mark, as a kill would.
pub struct SegmentStore {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    alignment: Alignment,
    shared: Arc<Shared>,
    recent: Mutex<Recent>,
    /// `None` once the store is closed.
    writer: Mutex<Option<Driver>>,
    preparer: Preparer,
}

impl SegmentStore {
    /// Recovers the log and starts its writer. `start` is the tail behind the last sealed segment;
    /// the caller holds the directory's lock.
    ///
    /// # Errors
    /// [`LogError`]: rot, a failed call.
    pub fn open(
        environment: &Environment,
        directory: &LogDirectory,
        inventory: &Inventory,
        start: Tail,
    ) -> Result<(Self, Recovered), LogError> {
        Self::open_held(environment, directory, inventory, (start, Holders::Nobody))
    }

    /// As [`SegmentStore::open`], of a log that others may hold, too.
    ///
    /// # Errors
    /// As [`SegmentStore::open`].
    pub fn open_held(
        environment: &Environment,
        directory: &LogDirectory,
        inventory: &Inventory,
        (start, holders): (Tail, Holders<'_>),
    ) -> Result<(Self, Recovered), LogError> {
        let disk = Arc::clone(&environment.disk);
        let mut hard_state = HardStateFile::open(disk.as_ref(), &directory.hard_state())?;
        let recovered = recover(disk.as_ref(), directory, inventory, (start, holders), &mut hard_state)?;
        let starts = hard_state.state().starts + 1;
        hard_state.save(HardState { clean: None, starts, ..hard_state.state().clone() })?;
        let segments = index_unsealed(disk.as_ref(), directory, start, &recovered.tail)?;

        let path = directory.segment_file(SegmentFile::Frames(recovered.tail.segment));
        let file = disk.open(&path, Access::Write)?;
        let file_len = file.status()?.len;
        let shared = Arc::new(Shared {
            queue: WorkQueue::new(MAX_UNFLUSHED_BYTES),
            progress: Mutex::new(Progress {
                durable: recovered.tail.next_index,
                open: recovered.tail.segment,
                open_len: file_len,
                poisoned: None,
            }),
            moved: Condvar::new(),
            committed: AtomicU64::new(recovered.committed.get()),
            dropped: AtomicBool::new(false),
            prepared: Prepared::new(),
            seal_bytes: AtomicU64::new(DEFAULT_SEAL_BYTES),
            clock: Arc::clone(&environment.clock),
            flushes: Flushes::new(),
        });
        let preparer = Preparer::start(&disk, directory, inventory.height, &shared, environment.workers)?;
        let writer = Writer {
            disk: Arc::clone(&disk),
            directory: directory.clone(),
            inventory: inventory.clone(),
            shared: Arc::clone(&shared),
            hard_state,
            tail: recovered.tail,
            group: recovered.group,
            file,
            due: Due::from(recovered.tail, file_len),
            ended: None,
            payload_file: None,
            buffer: Vec::new(),
            confirmed: true,
        };
        let writer = Driver::start(writer, environment.workers, directory.path())?;
        let recent = Mutex::new(Recent {
            tail: recovered.tail,
            segments,
            entries: BTreeMap::new(),
            entry_bytes: 0,
            keep_bytes: 0,
            cuts: (0, 0),
            cut: RaftIndex::new(0),
        });
        let alignment = recovered.tail.alignment;
        let writer = Mutex::new(Some(writer));
        let store = Self { disk, directory: directory.clone(), alignment, shared, recent, writer, preparer };
        Ok((store, recovered))
    }

    /// Appends an entry; it can be read when this returns and is durable when `on_durable` is told so.
    /// Waits while too many bytes are unflushed.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    pub fn append(&self, entry: Entry, on_durable: Option<OnDurable>) -> Result<Placed, AppendError> {
        let weight = weight(&entry, self.alignment);
        let reserved = self.shared.queue.try_reserve(weight).or_else(|refused| {
            if refused == Refused::Closed {
                return Err(refused);
            }
            self.write_queued();
            self.shared.queue.reserve(weight)
        });
        reserved.map_err(|refused| self.refusal(refused))?;
        self.append_reserved(entry, weight, on_durable)
    }

    /// As [`SegmentStore::append`], but never waits: [`AppendError::Busy`].
    ///
    /// # Errors
    /// [`AppendError`]; nothing was appended.
    pub fn try_append(&self, entry: Entry, on_durable: Option<OnDurable>) -> Result<Placed, AppendError> {
        let weight = weight(&entry, self.alignment);
        self.shared.queue.try_reserve(weight).map_err(|refused| self.refusal(refused))?;
        self.append_reserved(entry, weight, on_durable)
    }

    /// As [`SegmentStore::append`], but neither waits nor refuses because of what is unflushed: whoever calls it
    /// looks at [`SegmentStore::unflushed_bytes`] before it lets in more.
    ///
    /// # Errors
    /// [`AppendError`], never [`AppendError::Busy`]; nothing was appended.
    pub fn append_beyond(&self, entry: Entry, on_durable: Option<OnDurable>) -> Result<Placed, AppendError> {
        let weight = weight(&entry, self.alignment);
        self.shared.queue.reserve_beyond(weight).map_err(|refused| self.refusal(refused))?;
        self.append_reserved(entry, weight, on_durable)
    }

    fn append_reserved(
        &self,
        entry: Entry,
        weight: usize,
        on_durable: Option<OnDurable>,
    ) -> Result<Placed, AppendError> {
        let mut recent = lock(&self.recent);
        let placed = match recent.tail.place(entry.kind, entry.term, &entry.body, entry.payload.len()) {
            Ok(placed) => placed,
            Err(error) => {
                self.shared.queue.release(weight);
                return Err(error.into());
            }
        };
        let append = Append { placed, body: entry.body.clone(), payload: entry.payload.clone(), weight, on_durable };
        if self.shared.queue.push(Work::Append(append)).is_err() {
            return Err(self.refusal(Refused::Closed));
        }
        let start = recent.tail;
        recent.segments.entry(placed.segment).or_insert_with(|| (start, Vec::new())).1.push(placed.offset);
        recent.tail.advance(&placed);
        recent.keep(placed.header.index, entry, self.durable());
        Ok(placed)
    }

    fn refusal(&self, refused: Refused) -> AppendError {
        match refused {
            Refused::Full => AppendError::Busy,
            Refused::Closed => AppendError::Poisoned(self.poisoned()),
        }
    }

    fn poisoned(&self) -> Poisoned {
        self.shared.poisoned()
    }

    /// Tells when everything appended before is durable.
    pub fn notify(&self, on_durable: OnDurable) {
        if let Err(item) = self.shared.queue.push(Work::Notice(on_durable)) {
            refuse([item].into(), &self.poisoned());
        }
    }

    /// Waits until everything appended before is durable.
    ///
    /// # Errors
    /// [`Poisoned`].
    pub fn flush(&self) -> Result<(), Poisoned> {
        let (tell, told) = mpsc::sync_channel(1);
        self.notify(Box::new(move |result| answer(&tell, result)));
        self.write_queued();
        told.recv().unwrap_or_else(|_gone| Err(self.poisoned()))
    }

    /// Makes a vote durable, in order with the appends.
    pub fn save_vote(&self, vote: Vote, on_durable: OnDurable) {
        if let Err(item) = self.shared.queue.push(Work::State(Change::Vote(vote), on_durable)) {
            refuse([item].into(), &self.poisoned());
        }
    }

    /// Makes durable what peers have been seen to have, in order with votes and appends.
    ///
    /// # Panics
    /// Where there are more than [`crate::hard_state::MAX_PEERS`].
    pub fn save_peers(&self, peers: Vec<PeerMark>, on_durable: OnDurable) {
        assert!(peers.len() <= MAX_PEERS, "{} peers", peers.len());
        if let Err(item) = self.shared.queue.push(Work::State(Change::Peers(peers), on_durable)) {
            refuse([item].into(), &self.poisoned());
        }
    }

    /// Makes durable that a start was let in, or that none will be, in order with votes and appends.
    pub fn save_standing(&self, standing: OwnStanding, on_durable: OnDurable) {
        if let Err(item) = self.shared.queue.push(Work::State(Change::Standing(standing), on_durable)) {
            refuse([item].into(), &self.poisoned());
        }
    }

    /// Drops the entries from this index on, and waits until they cannot come back. Whoever reads meanwhile waits for
    /// no disk: the entries are gone for readers once the writer has been told to drop them.
    ///
    /// # Errors
    /// [`TruncateError`]: a truncation of committed or sealed entries is refused.
    pub fn truncate(&self, from: RaftIndex) -> Result<(), TruncateError> {
        loop {
            let Some((start, seen)) = self.cut_at(&lock(&self.recent), from)? else { return Ok(()) };
            // What is kept lies in its file from here on, and is looked at without the lock.
            self.flush()?;
            let tail = self.tail_before(from, start).map_err(|error| self.shared.poison(&error))?;
            let (tell, told) = mpsc::sync_channel(1);
            {
                let mut recent = lock(&self.recent);
                match self.cut_at(&recent, from)? {
                    None => return Ok(()),
                    Some(now) if now != (start, seen) => continue,
                    Some(_) => {}
                }
                let done = Box::new(move |result| answer(&tell, result));
                if self.shared.queue.push(Work::Truncate { tail, done }).is_err() {
                    return Err(self.poisoned().into());
                }
                recent.begin_cut(from);
                recent.drop_from(from);
                recent.tail = tail;
                // I-STORE-1: what was durable behind it is none of this log's any more.
                let mut progress = lock(&self.shared.progress);
                progress.durable = progress.durable.min(from);
            }
            self.write_queued();
            let cut = told.recv().unwrap_or_else(|_gone| Err(self.poisoned()));
            lock(&self.recent).cuts.1 += 1;
            return Ok(cut?);
        }
    }

    /// How many truncations have begun: entries that were read one after the other stand together in a log where it is
    /// the same before and behind.
    pub fn truncations(&self) -> u64 {
        lock(&self.recent).cuts.0
    }

    /// The tail at the start of the segment that is cut, and how many truncations there were before; `None` where
    /// there is nothing to drop.
    fn cut_at(&self, recent: &Recent, from: RaftIndex) -> Result<Option<(Tail, u64)>, TruncateError> {
        if from >= recent.tail.next_index {
            return Ok(None);
        }
        let committed = self.shared.committed();
        let start = recent.segment_start(from).filter(|_| from >= committed);
        let start = start.ok_or(TruncateError::Committed { from, committed })?;
        Ok(Some((start, recent.cuts.0)))
    }

    /// The tail before an entry, found from the start of its segment; all frames before it are durable.
    fn tail_before(&self, index: RaftIndex, segment_start: Tail) -> Result<Tail, LogError> {
        let mut tail = segment_start;
        let name = SegmentFile::Frames(tail.segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        let mut scanner = FrameScanner::new(file.as_ref());
        while tail.next_index < index {
            match scanner.at(&tail)? {
                Seen::Frame(placed, _) => tail.advance(&placed),
                Seen::Nothing | Seen::Bad(_) => {
                    let what = "a frame to be kept is damaged";
                    return Err(LogError::damaged(relative(name), tail.offset.get(), None, what));
                }
            }
        }
        Ok(tail)
    }

    /// The end of what was appended.
    pub fn tail(&self) -> Tail {
        lock(&self.recent).tail
    }

    /// One past the last durable entry.
    pub fn durable(&self) -> RaftIndex {
        lock(&self.shared.progress).durable
    }

    /// How long the flushes of about the last minute took; `None` where there were none.
    pub fn flush_times(&self) -> Option<FlushTimes> {
        self.shared.flushes.times(self.shared.clock.micros())
    }

    /// Bytes that what was appended and is not durable yet takes in its files.
    pub fn unflushed_bytes(&self) -> u64 {
        self.shared.queue.weight() as u64
    }

    /// A handle by which another thread follows the writer.
    pub fn progress(&self) -> StoreProgress {
        StoreProgress(Arc::clone(&self.shared))
    }

    /// An entry that is still in memory: every one that is not yet durable is.
    pub fn recent_entry(&self, index: RaftIndex) -> Option<Entry> {
        lock(&self.recent).entries.get(&index).cloned()
    }

    /// Reads an entry of an unsealed segment; `None` where it lies in a sealed one or was not appended.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Disk`].
    pub fn read_entry(&self, index: RaftIndex) -> Result<Option<Entry>, LogError> {
        let recent = lock(&self.recent);
        if let Some(entry) = recent.entries.get(&index) {
            return Ok(Some(entry.clone()));
        }
        let found = recent.segments.iter().rev().find_map(|(segment, (start, offsets))| {
            let at = usize::try_from(index.get().checked_sub(start.next_index.get())?).ok()?;
            Some((*segment, *offsets.get(at)?))
        });
        drop(recent);
        match found {
            None => Ok(None),
            Some((segment, offset)) => read_entry_at(self.disk.as_ref(), &self.directory, segment, offset).map(Some),
        }
    }

    /// Without a writer thread: does everything that is queued. With one, which does it by itself: nothing.
    pub fn write_queued(&self) {
        if let Some(writer) = &*lock(&self.writer) {
            writer.write_queued(&self.shared);
        }
    }

    /// Without a writer thread: does everything that is queued or, where nothing is, what a writer does
    /// that has been idle for a while. With one: nothing.
    pub fn confirm_idle(&self) {
        if let Some(writer) = &*lock(&self.writer) {
            writer.confirm_idle(&self.shared);
        }
    }

    /// Without a preparing thread: does the next step of preparing space, where one is due. With one, which
    /// does it by itself: nothing.
    pub fn prepare_step(&self) {
        self.preparer.step();
    }

    /// Why space for the next segment file was not prepared, the first time that was so; appending goes on.
    pub fn preparing_refused(&self) -> Option<PreparingRefused> {
        self.shared.prepared.refused()
    }

    /// Sets at how many bytes the caller ends a segment: no more than that is prepared for the next.
    pub fn set_seal_bytes(&self, bytes: u64) {
        self.shared.seal_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Gives back space that was prepared for the next segment file and that records need now; answers
    /// whether there was any.
    pub(crate) fn give_back_prepared(&self, refused: PreparingRefused) -> bool {
        self.preparer.give_back(refused)
    }

    /// How much of the open file's prepared space lies behind what was appended.
    pub(crate) fn prepared_left(&self) -> u64 {
        let tail = self.tail();
        let progress = lock(&self.shared.progress);
        if progress.open == tail.segment { progress.open_len.saturating_sub(tail.offset.get()) } else { 0 }
    }

    /// Sets how many bytes of the newest entries stay in memory once they are durable: for those that are sent on.
    /// None, unless this is called.
    pub fn keep_recent(&self, bytes: usize) {
        lock(&self.recent).keep_bytes = bytes;
    }

    /// Forgets the places of a segment that has been sealed.
    pub fn forget(&self, sealed: SegmentNumber) {
        lock(&self.recent).segments.remove(&sealed);
    }

    /// Flushes what is queued, marks the clean stop and ends the writer: for all who hold the store. Nothing is
    /// appended any more; it can still be read.
    ///
    /// # Errors
    /// [`LogError`]: what made the writer stop, also where that was an earlier call.
    pub fn close(&self) -> Result<(), LogError> {
        self.shared.queue.close();
        self.preparer.stop();
        let writer = lock(&self.writer).take();
        let end = writer.and_then(|writer| writer.finish(&self.shared));
        end.unwrap_or_else(|| Err(self.poisoned().into()))?;
        Ok(remove_left(self.disk.as_ref(), &self.directory, &self.shared.prepared)?)
    }
}

impl Drop for SegmentStore {
    fn drop(&mut self) {
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            self.shared.dropped.store(true, Ordering::Release);
            self.shared.queue.close();
            // What the writer met was told to every callback; nobody is left to tell here.
            drop(writer.finish(&self.shared));
            self.shared.poison(&LogError::Poisoned(Poisoned("the log was closed".into())));
        }
    }
}

/// Follows a store from another thread.
#[derive(Clone)]
pub struct StoreProgress(Arc<Shared>);

impl StoreProgress {
    /// One past the last durable entry.
    pub fn durable(&self) -> RaftIndex {
        lock(&self.0.progress).durable
    }

    /// Notes that entries below this index are committed; rides in the next slot.
    pub fn set_committed(&self, end: RaftIndex) {
        self.0.committed.fetch_max(end.get(), Ordering::AcqRel);
    }

    /// Stops the store for good.
    pub(crate) fn poison(&self, error: &LogError) {
        self.0.poison(error);
    }

    /// Waits until a segment is no longer the open one: all of it is durable and it has a successor.
    ///
    /// # Errors
    /// [`Poisoned`].
    pub fn wait_ended(&self, segment: SegmentNumber) -> Result<(), Poisoned> {
        let mut progress = lock(&self.0.progress);
        while progress.open <= segment {
            if let Some(poisoned) = &progress.poisoned {
                return Err(poisoned.clone());
            }
            progress = self.0.moved.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

/// Why a suffix was not dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// Committed and sealed entries are for ever.
    #[error("entries from {from} on may not be dropped: {committed} are committed, or they are sealed")]
    Committed {
        /// The first entry to be dropped.
        from: RaftIndex,
        /// One past the last committed one.
        committed: RaftIndex,
    },
    /// The store has stopped.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// The bytes that an entry takes in its files.
fn weight(entry: &Entry, alignment: Alignment) -> usize {
    let padded = |bytes: usize| usize::try_from(alignment.round_up(bytes as u64)).unwrap_or(usize::MAX);
    padded(HEADER_BYTES + entry.body.len()) + padded(entry.payload.len())
}

/// Hands a result to somebody who waits, or has given up waiting.
fn answer<T>(tell: &mpsc::SyncSender<T>, result: T) {
    drop(tell.try_send(result));
}

fn index_unsealed(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: Tail,
    end: &Tail,
) -> Result<BTreeMap<SegmentNumber, (Tail, Vec<Offset>)>, LogError> {
    let mut segments = BTreeMap::new();
    crate::walk::walk(disk, directory, start, end, &mut |before, placed, _| {
        segments.entry(placed.segment).or_insert_with(|| (*before, Vec::new())).1.push(placed.offset);
        Ok(())
    })?;
    Ok(segments)
}

/// Reads and checks one entry at a known place.
///
/// # Errors
/// [`LogError::Damaged`], [`LogError::Disk`].
pub fn read_entry_at(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segment: SegmentNumber,
    offset: Offset,
) -> Result<Entry, LogError> {
    let (header, body) = read_frame_at(disk, directory, segment, offset)?;
    let payload = match header.payload {
        None => Bytes::new(),
        Some(place) => {
            let name = SegmentFile::Payloads(segment, place.part);
            let file = open_payloads(disk, directory, name, Some(header.first_leaf))?;
            let bytes = read_up_to(file.as_ref(), u64::from(place.offset), place.len as usize)?;
            if bytes.len() != place.len as usize {
                let what = "the payload file ends too early";
                return Err(LogError::damaged(relative(name), u64::from(place.offset), Some(header.first_leaf), what));
            }
            bytes.into()
        }
    };
    Ok(Entry { term: header.term, kind: header.kind, body: body.into(), payload })
}

/// Reads a frame at a known place and checks its two checksums; the link is not checked.
///
/// # Errors
/// [`LogError::Damaged`], [`LogError::Disk`].
pub fn read_frame_at(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segment: SegmentNumber,
    offset: Offset,
) -> Result<(FrameHeader, Vec<u8>), LogError> {
    let name = SegmentFile::Frames(segment);
    let damaged = |what: &dyn std::fmt::Display| LogError::damaged(relative(name), offset.get(), None, what);
    let file = disk.open(&directory.segment_file(name), Access::Read)?;
    let head = read_up_to(file.as_ref(), offset.get(), HEADER_BYTES)?;
    let head = head.first_chunk().ok_or_else(|| damaged(&"the file ends before the frame"))?;
    let header = FrameHeader::decode(head, segment, offset).map_err(|fault| damaged(&fault))?;
    let body = read_up_to(file.as_ref(), offset.get() + HEADER_BYTES as u64, header.body_len as usize)?;
    if body.len() != header.body_len as usize || crc32fast::hash(&body) != header.body_checksum {
        return Err(damaged(&crate::frame::FrameFault::BodyChecksum));
    }
    Ok((header, body))
}
