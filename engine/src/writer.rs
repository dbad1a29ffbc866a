//! The writer: the only place that writes frames, payloads and slots. It has a thread of its own, or is
//! driven by its caller ([`crate::environment::Workers`]).
//!
//! It takes everything that is queued, writes it, flushes once, and tells the callbacks in order:
//! group commit without a timer.
//!
//! The commit point of a group is the return of [`DiskFile::sync`] on the segment file in
//! [`Writer::write_group`]; its payloads were flushed before its frames were written.
//!
//! I-WRITER-1: written <= durable + one group.
//! I-WRITER-2: callbacks fire in the order of the raft log, after the flush that covers them.
//! I-WRITER-3: after the first failure nothing is written, and every waiting callback is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::directory::{Inventory, LogDirectory};
use crate::disk::{Access, Disk, DiskError, DiskFile, Mode, replace};
use crate::error::{LogError, Poisoned};
use crate::frame::{HEADER_BYTES, Placed, Tail};
use crate::hard_state::{CleanMark, HardState, HardStateFile, OwnStanding, PeerMark, Vote};
use crate::number::Group;
use crate::prepare::{Due, Wanted, name_prepared};
use crate::queue::Taken;
use crate::recovery::{create_segment, cut_behind};
use crate::ring::Slot;
use crate::segment::{PayloadPart, PayloadPlace, SegmentFile};
use crate::store::Shared;

/// Called once: when everything before it is durable, or when it never will be. The writer runs it, and it must not
/// wait for the writer.
pub type OnDurable = Box<dyn FnOnce(Result<(), Poisoned>) + Send>;

/// A writer that has been idle this long confirms that its last group is durable.
const CONFIRM_AFTER: Duration = Duration::from_millis(50);
/// Most bytes of one flush group.
pub(crate) const MAX_GROUP_BYTES: usize = 16 << 20;

/// What the writer is asked to do, in order.
pub(crate) enum Work {
    /// Write a frame.
    Append(Append),
    /// Tell when everything before is durable.
    Notice(OnDurable),
    /// Drop the entries behind this tail.
    Truncate { tail: Tail, done: OnDurable },
    /// Change the hard state.
    State(Change, OnDurable),
}

/// What changes of the hard state.
pub(crate) enum Change {
    /// A vote.
    Vote(Vote),
    /// What peers have been seen to have.
    Peers(Vec<PeerMark>),
    /// How this node stands with its peers.
    Standing(OwnStanding),
}

pub(crate) struct Append {
    pub(crate) placed: Placed,
    pub(crate) body: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) weight: usize,
    pub(crate) on_durable: Option<OnDurable>,
}

/// The state of the writer.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: LogDirectory,
    pub(crate) inventory: Inventory,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hard_state: HardStateFile,
    /// The end of what is durable.
    pub(crate) tail: Tail,
    pub(crate) group: Group,
    pub(crate) file: Box<dyn DiskFile>,
    /// When space for the next file is due.
    pub(crate) due: Due,
    /// What the file took that this writer ended last.
    pub(crate) ended: Option<u64>,
    pub(crate) payload_file: Option<(PayloadPart, Box<dyn DiskFile>)>,
    pub(crate) buffer: Vec<u8>,
    /// Whether the newest slot says {start = end = end of the log}.
    pub(crate) confirmed: bool,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(mut self) -> Result<(), LogError> {
        loop {
            let wait = if self.confirmed { None } else { Some(CONFIRM_AFTER) };
            let taken = self.shared.queue.take(wait);
            if let Some(end) = self.turn(taken) {
                return end;
            }
        }
    }

    /// Does what was taken; `Some` when the writer has come to its end. Behind a closed queue it marks
    /// the clean stop, unless the store was dropped.
    pub(crate) fn turn(&mut self, taken: Taken<Work>) -> Option<Result<(), LogError>> {
        match taken {
            // The preparer has met a failure: nothing is written any more, and the stop is not clean.
            Taken::Idle | Taken::Closed if self.shared.failure().is_some() => Some(Err(self.shared.poisoned().into())),
            Taken::Work(mut work) => self.handle(&mut work).err().map(|error| {
                let poisoned = self.shared.poison(&error);
                refuse(work, &poisoned);
                Err(error)
            }),
            Taken::Idle => self.or_poison(Self::confirm).err().map(Err),
            Taken::Closed if self.shared.is_dropped() => Some(Ok(())),
            Taken::Closed => Some(self.or_poison(Self::stop)),
        }
    }

    fn or_poison(&mut self, step: impl FnOnce(&mut Self) -> Result<(), LogError>) -> Result<(), LogError> {
        step(self).inspect_err(|error| {
            self.shared.poison(error);
        })
    }

    /// Does what was queued. On an error, what is left in `work` was not done.
    fn handle(&mut self, work: &mut VecDeque<Work>) -> Result<(), LogError> {
        while let Some(first) = work.pop_front() {
            if let Some(poisoned) = self.shared.failure() {
                work.push_front(first);
                return Err(poisoned.into());
            }
            match first {
                Work::Append(append) => {
                    let mut group = vec![append];
                    self.gather(&mut group, work);
                    if let Err(error) = self.write_group(&group) {
                        let poisoned = self.shared.poison(&error);
                        group
                            .into_iter()
                            .filter_map(|append| append.on_durable)
                            .for_each(|tell| tell(Err(poisoned.clone())));
                        return Err(error);
                    }
                    self.finish_group(group)?;
                }
                Work::Notice(on_durable) => on_durable(Ok(())),
                Work::Truncate { tail, done } => match self.truncate(tail) {
                    Ok(()) => done(Ok(())),
                    Err(error) => {
                        done(Err(self.shared.poison(&error)));
                        return Err(error);
                    }
                },
                Work::State(change, on_durable) => {
                    let state = self.hard_state.state().clone();
                    let state = match change {
                        Change::Vote(vote) => HardState { vote, ..state },
                        Change::Peers(peers) => HardState { peers, ..state },
                        Change::Standing(OwnStanding::LetIn(incarnation)) => {
                            HardState { incarnation, doubt: None, ..state }
                        }
                        Change::Standing(OwnStanding::Stale) => HardState { stale: true, ..state },
                    };
                    self.save(state, on_durable)?;
                }
            }
        }
        Ok(())
    }

    fn save(&mut self, state: HardState, on_durable: OnDurable) -> Result<(), LogError> {
        if let Err(error) = self.hard_state.save(state) {
            let error = error.into();
            on_durable(Err(self.shared.poison(&error)));
            return Err(error);
        }
        on_durable(Ok(()));
        Ok(())
    }

    /// Takes the appends that can share a flush: in one file, up to the bound.
    fn gather(&self, group: &mut Vec<Append>, work: &mut VecDeque<Work>) {
        let mut bytes = group[0].weight;
        let mut ended = group[0].placed.ends_segment;
        while !ended && bytes < MAX_GROUP_BYTES {
            match work.pop_front() {
                Some(Work::Append(append)) => {
                    bytes += append.weight;
                    ended = append.placed.ends_segment;
                    group.push(append);
                }
                Some(other) => return work.push_front(other),
                None => return,
            }
        }
    }

    fn write_group(&mut self, group: &[Append]) -> Result<(), LogError> {
        self.write_payloads(group)?;
        let start = self.tail.offset;
        let mut end = start;
        let mut written = start.get();
        self.buffer.clear();
        for append in group {
            let frame_len = usize::try_from(append.placed.header.frame_len(self.tail.alignment)).unwrap_or(usize::MAX);
            let frame_start = self.buffer.len();
            self.buffer.extend_from_slice(&append.placed.bytes);
            self.buffer.extend_from_slice(&append.body);
            self.buffer.resize(frame_start + frame_len, 0);
            end = crate::number::Offset::new(append.placed.offset.get() + frame_len as u64);
            if self.buffer.len() >= WRITE_BYTES {
                self.file.write_at(&self.buffer, written)?;
                written += self.buffer.len() as u64;
                self.buffer.clear();
            }
        }
        self.file.write_at(&self.buffer, written)?;
        let slot = Slot {
            segment: self.tail.segment,
            group: self.group.next(),
            start,
            end,
            committed: self.shared.committed(),
        };
        self.file.write_at(&slot.encode(), Slot::place(slot.group))?;
        let began = self.shared.clock.micros();
        // The commit point: from here on the group survives a crash.
        self.file.sync()?;
        self.shared.flushes.note(began, self.shared.clock.micros());
        self.group = slot.group;
        self.confirmed = false;
        Ok(())
    }

    /// Payloads go first, and are durable before a frame that names them is written.
    fn write_payloads(&mut self, group: &[Append]) -> Result<(), LogError> {
        let mut dirty = false;
        for append in group {
            let Some(place) = append.placed.header.payload else { continue };
            if self.payload_file.as_ref().is_none_or(|(part, _)| *part != place.part) {
                if let (true, Some((_, file))) = (dirty, &self.payload_file) {
                    file.sync()?;
                }
                dirty = false;
                self.payload_file = Some((place.part, self.open_payloads(place)?));
            }
            if let Some((_, file)) = &self.payload_file {
                let mut bytes = append.payload.to_vec();
                let padded = self.tail.alignment.round_up(place.end()) - u64::from(place.offset);
                bytes.resize(usize::try_from(padded).unwrap_or(usize::MAX), 0);
                file.write_at(&bytes, u64::from(place.offset))?;
                dirty = true;
            }
        }
        match &self.payload_file {
            Some((_, file)) if dirty => Ok(file.sync()?),
            _ => Ok(()),
        }
    }

    /// Opens a payload part, which is created with its first payload.
    fn open_payloads(&self, place: PayloadPlace) -> Result<Box<dyn DiskFile>, DiskError> {
        let name = SegmentFile::Payloads(self.tail.segment, place.part);
        let path = self.directory.segment_file(name);
        if place.offset == crate::segment::PAYLOADS_START {
            let header = self.inventory.header(self.tail.segment, Some(place.part)).encode();
            replace(self.disk.as_ref(), &path, &header, Mode::Private)?;
        }
        self.disk.open(&path, Access::Write)
    }

    /// Moves the durable end, tells the callbacks, and rolls where the segment ended.
    fn finish_group(&mut self, group: Vec<Append>) -> Result<(), LogError> {
        let weight = group.iter().map(|append| append.weight).sum();
        for append in &group {
            if append.placed.ends_segment {
                let frame_len = append.placed.header.frame_len(self.tail.alignment);
                self.ended = Some(append.placed.offset.get() + frame_len);
            }
            self.tail.advance(&append.placed);
        }
        self.shared.set_durable(&self.tail);
        for append in group {
            if let Some(tell) = append.on_durable {
                tell(Ok(()));
            }
        }
        self.shared.queue.release(weight);
        if self.tail.segment_is_empty() {
            return self.roll();
        }
        if self.due.is_now(&self.tail, self.shared.seal_bytes()) {
            self.shared.prepared.want(Wanted { open: self.tail.segment, ended: self.ended });
        }
        Ok(())
    }

    /// Makes the file of the segment that is now open, of what was prepared where that is ready; it is born
    /// with a full ring.
    fn roll(&mut self) -> Result<(), LogError> {
        self.group = self.group.born();
        let slot = self.confirming_slot();
        if self.shared.prepared.take() {
            name_prepared(self.disk.as_ref(), &self.directory, &self.inventory, &slot)?;
        } else {
            create_segment(self.disk.as_ref(), &self.directory, &self.inventory, &slot)?;
        }
        self.open_file()
    }

    /// Opens the file of the segment that is now open, which has its slot.
    fn open_file(&mut self) -> Result<(), LogError> {
        let name = SegmentFile::Frames(self.tail.segment);
        self.file = self.disk.open(&self.directory.segment_file(name), Access::Write)?;
        let file_len = self.file.status()?.len;
        self.due = Due::from(self.tail, file_len);
        self.payload_file = None;
        self.confirmed = true;
        self.shared.set_open(self.tail.segment, file_len);
        Ok(())
    }

    fn confirming_slot(&self) -> Slot {
        Slot {
            segment: self.tail.segment,
            group: self.group,
            start: self.tail.offset,
            end: self.tail.offset,
            committed: self.shared.committed().min(self.tail.next_index),
        }
    }

    fn confirm(&mut self) -> Result<(), LogError> {
        if self.confirmed {
            return Ok(());
        }
        self.group = self.group.next();
        let slot = self.confirming_slot();
        self.file.write_at(&slot.encode(), Slot::place(slot.group))?;
        self.file.sync()?;
        self.confirmed = true;
        Ok(())
    }

    /// Marks the clean stop. The open file is cut to its frames first: how much of it was prepared in time
    /// depends on threads, and the bytes of a log that was closed do not.
    fn stop(&mut self) -> Result<(), LogError> {
        self.confirm()?;
        if self.due.file_len() > self.tail.offset.get() {
            self.file.set_len(self.tail.offset.get())?;
            self.file.sync()?;
        }
        let clean = CleanMark { group: self.group, segment: self.tail.segment, end: self.tail.offset };
        let state = HardState { clean: Some(clean), ..self.hard_state.state().clone() };
        Ok(self.hard_state.save(state)?)
    }

    /// Drops the entries behind `tail`; everything queued before is already durable.
    fn truncate(&mut self, tail: Tail) -> Result<(), LogError> {
        let inventory = Inventory::take(self.disk.as_ref(), &self.directory)?;
        let committed = self.shared.committed().min(tail.next_index);
        self.group = cut_behind(self.disk.as_ref(), &self.directory, &inventory, &tail, self.group, committed)?;
        if tail.segment < self.tail.segment {
            // What ended there is open again.
            self.ended = None;
        }
        self.tail = tail;
        self.shared.set_durable(&tail);
        self.open_file()
    }
}

/// Frames are written in pieces of about this size.
const WRITE_BYTES: usize = 1 << 20;
const _: () = assert!(WRITE_BYTES > HEADER_BYTES);

/// Tells everybody who still waits that it will not happen.
pub(crate) fn refuse(work: VecDeque<Work>, poisoned: &Poisoned) {
    for item in work {
        match item {
            Work::Append(Append { on_durable: Some(tell), .. })
            | Work::Notice(tell)
            | Work::State(_, tell)
            | Work::Truncate { done: tell, .. } => tell(Err(poisoned.clone())),
            Work::Append(_) => {}
        }
    }
}
