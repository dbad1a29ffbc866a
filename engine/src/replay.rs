//! Following a log from its newest state file to its end: what opening a log for writing reads.
//!
//! Opening is recovery, not verification: every frame behind the state file is checked and hashed into
//! the tree, and of its records those that nothing else vouches for ([`Chains::advance_frame`]). Everything
//! is recomputed when a segment is sealed.
//!
//! A state file vouches for itself only by its own digest. So it is taken only where the last frame of its
//! segment is the one that it tells of, and dropped again, for an older one, unless the log behind it
//! holds the seal record of its segment with its digest (I-REPLAY-1: what opening adds up stands on frames, and
//! on a state file only as far as the frames name it).

use std::collections::{BTreeMap, VecDeque};

use stele_proof::digest_tree::Digest;
use stele_proof::record::{Record, Salt};
use stele_proof::tree::CompactRange;
use stele_proof::{LeafIndex, UnixMillis};

use crate::batch::{Batch, BatchRecord};
use crate::chains::{ChainError, MAX_CHAINS};
use crate::directory::{Inventory, LogDirectory, relative};
use crate::disk::{Access, Disk, DiskError, read_up_to};
use crate::error::LogError;
use crate::frame::{EntryKind, FrameHeader, HEADER_BYTES, MAX_BODY_BYTES, Placed, Tail, stored_checksum};
use crate::number::{Offset, SegmentNumber};
use crate::read_back::{SegmentStart, check_payload};
use crate::reserved::{self, SegmentSealed};
use crate::segment::SegmentFile;
use crate::state::{self, State, StateKeeper};

/// Segments that a copy has sealed last, whose seal records count as not compared yet where they are read again: nothing
/// on disk says whether they were, and a record that stands in the last sealed segment is about the one before it.
const LOOKED_AT_AGAIN: u64 = 2;
/// Bytes that are read at a time in search of the last frame.
const LOOK_BYTES: u64 = 1 << 17;

/// Calls `each` for every record of a valid batch.
pub(crate) fn each_record(
    placed: &Placed,
    body: &[u8],
    each: &mut dyn FnMut(LeafIndex, &Record<'_>),
) -> Result<(), LogError> {
    each_stored(placed, body, &mut |leaf, record, _| each(leaf, record))
}

/// As [`each_record`], with what the batch says of the record.
pub(crate) fn each_stored<'b>(
    placed: &Placed,
    body: &'b [u8],
    each: &mut dyn FnMut(LeafIndex, &Record<'b>, BatchRecord<'b>),
) -> Result<(), LogError> {
    if placed.header.kind != EntryKind::Batch || placed.header.leaf_count == 0 {
        return Ok(());
    }
    let name = relative(SegmentFile::Frames(placed.segment));
    let damaged = |leaf, what: String| LogError::damaged(name.clone(), placed.offset.get(), leaf, what);
    let batch = Batch::parse(body).map_err(|error| damaged(None, error.to_string()))?;
    for (leaf, stored) in (placed.header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()) {
        let record = Record::parse(stored.bytes).map_err(|error| damaged(Some(leaf), error.to_string()))?;
        each(leaf, &record, stored);
    }
    Ok(())
}

/// What the frames read so far stand on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Basis {
    /// Frames alone, or a state file with the digest that the seal record of its segment tells.
    Certain,
    /// A state file whose seal record was not read yet.
    Unconfirmed(Digest),
    /// A state file that does not belong to this log.
    Refuted,
}

/// Where reading begins.
#[derive(Clone, Copy)]
struct Before {
    /// The state file is that of a segment before this one.
    state: SegmentNumber,
    /// The first segment whose start is noted.
    noted: SegmentNumber,
    /// As in [`Applied`].
    unsealed: Option<SegmentNumber>,
}

/// What the frames read so far add up to.
pub(crate) struct Applied {
    /// The first segment that was read and not taken from a state file.
    first: SegmentNumber,
    basis: Basis,
    pub(crate) tail: Tail,
    pub(crate) tree: CompactRange,
    pub(crate) keeper: StateKeeper,
    /// The first segment whose start is noted.
    noted: SegmentNumber,
    /// Of a copy that follows others, the first segment that was not sealed here when it was opened: its seal record
    /// may be there already.
    unsealed: Option<SegmentNumber>,
    /// What seal records say of segments from `unsealed` on, and of [`LOOKED_AT_AGAIN`] before it.
    pub(crate) told: BTreeMap<SegmentNumber, SegmentSealed>,
    /// Where the segments began that have no seal record as far as is known, or are not sealed here, the open one last,
    /// and what the log added up to there.
    pub(crate) starts: VecDeque<(SegmentStart, StateKeeper)>,
    /// Time of the open segment's first record outside `stele/`.
    pub(crate) aging_since: Option<UnixMillis>,
}

impl Applied {
    /// Reads the log up to its sealed end: the newest state file, and the segments behind it.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Disk`].
    pub(crate) fn up_to_sealed(
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
    ) -> Result<Self, LogError> {
        Self::begin(disk, directory, inventory, None)
    }

    /// The same of a copy that follows others: they may have recorded what is not sealed here.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Disk`].
    pub(crate) fn of_copy_up_to_sealed(
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
    ) -> Result<Self, LogError> {
        Self::begin(disk, directory, inventory, Some(inventory.sealed))
    }

    fn begin(
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
        unsealed: Option<SegmentNumber>,
    ) -> Result<Self, LogError> {
        // A stop between sealing and the seal record leaves the last sealed segment without one.
        let noted = SegmentNumber::new(inventory.sealed.get().saturating_sub(1));
        Self::from_before(disk, directory, inventory, Before { state: inventory.sealed, noted, unsealed })
    }

    /// Reads on, up to the end of the log, and again from further back where that is needed.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Disk`].
    pub(crate) fn up_to(
        mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
        end: &Tail,
    ) -> Result<Self, LogError> {
        loop {
            while self.basis != Basis::Refuted && (self.tail.segment, self.tail.offset) < (end.segment, end.offset) {
                self.walk_segment(disk, directory, Some(end))?;
            }
            self.begin_segment();
            let recorded = self.recorded();
            let before = match self.basis {
                // Segments without a seal record are sealed again, so they must have been read.
                Basis::Certain if recorded < self.first.max(self.noted) => recorded,
                Basis::Certain => return Ok(self),
                Basis::Unconfirmed(_) | Basis::Refuted => recorded.min(self.last_before()),
            };
            let unsealed = self.unsealed;
            self = Self::from_before(disk, directory, inventory, Before { state: before, noted: before, unsealed })?;
        }
    }

    /// From a state file up to the sealed end.
    fn from_before(
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
        from: Before,
    ) -> Result<Self, LogError> {
        let mut before = from.state;
        loop {
            let state = state::load_newest(disk, directory, before, MAX_CHAINS)?;
            if let Some(state) = &state
                && !is_behind_its_last_frame(disk, directory, inventory, &state.tail)?
            {
                before = SegmentNumber::new(state.tail.segment.get() - 1);
                continue;
            }
            let mut applied = Self::behind(inventory, state, from);
            while applied.basis != Basis::Refuted && applied.tail.segment < inventory.sealed {
                applied.walk_segment(disk, directory, None)?;
            }
            if applied.basis != Basis::Refuted {
                return Ok(applied);
            }
            before = applied.last_before();
        }
    }

    fn behind(inventory: &Inventory, state: Option<State>, from: Before) -> Self {
        let (basis, tail, tree, keeper) = match state {
            Some(state) => {
                let basis = Basis::Unconfirmed(state.digest);
                (basis, state.tail, state.tree.clone(), StateKeeper::behind(state))
            }
            None => {
                let tail = Tail::start(inventory.alignment, inventory.height);
                (Basis::Certain, tail, CompactRange::new(), StateKeeper::new(MAX_CHAINS))
            }
        };
        let first = tail.segment;
        let Before { noted, unsealed, .. } = from;
        let (told, starts) = (BTreeMap::new(), VecDeque::new());
        Self { first, basis, tail, tree, keeper, noted, unsealed, told, starts, aging_since: None }
    }

    /// The segment of the state file.
    fn last_before(&self) -> SegmentNumber {
        SegmentNumber::new(self.first.get().saturating_sub(1))
    }

    /// The first segment that has no seal record: they stand in the order of segments, without a gap.
    fn recorded(&mut self) -> SegmentNumber {
        let head = self.keeper.chains.head(reserved::SEGMENTS_STREAM, reserved::WRITER);
        SegmentNumber::new(head.map_or(0, |head| head.seq))
    }

    /// Notes where a segment begins, and forgets those that have their seal record and are sealed.
    fn begin_segment(&mut self) {
        let recorded = self.recorded();
        let done = self.unsealed.map_or(recorded, |unsealed| recorded.min(unsealed));
        self.starts.retain(|(start, _)| start.tail.segment >= done);
        let is_new = self.starts.back().is_none_or(|(start, _)| start.tail.segment < self.tail.segment);
        if is_new && self.tail.segment_is_empty() {
            self.aging_since = None;
            if self.tail.segment >= self.noted {
                let start = SegmentStart { tail: self.tail, tree: self.tree.clone() };
                self.starts.push_back((start, self.keeper.heads_only()));
            }
        }
    }

    fn walk_segment(&mut self, disk: &dyn Disk, directory: &LogDirectory, end: Option<&Tail>) -> Result<(), LogError> {
        self.begin_segment();
        let segment = self.tail.segment;
        let mut tail = self.tail;
        let mut file_bytes = 0;
        crate::walk::walk_segment(disk, directory, &mut tail, end, &mut |before, placed, body| {
            file_bytes = placed.offset.get() + placed.header.frame_len(before.alignment);
            if placed.header.kind == EntryKind::Membership {
                self.keeper.membership = body.to_vec();
            }
            if self.basis == Basis::Refuted { Ok(()) } else { self.frame(disk, directory, placed, body) }
        })?;
        self.tail = tail;
        if tail.segment > segment
            && let Some(bytes) = self.keeper.end_segment(file_bytes, &tail, &self.tree)
            && end.is_none()
            && self.basis == Basis::Certain
        {
            state::store(disk, directory, segment, &bytes)?;
        }
        Ok(())
    }

    /// Applies the records of a frame.
    fn frame(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        placed: &Placed,
        body: &[u8],
    ) -> Result<(), LogError> {
        let mut records = Vec::new();
        let mut told = Vec::new();
        each_stored(placed, body, &mut |leaf, record, stored| {
            self.tree.append(record.leaf_hash());
            if !record.is_reserved() {
                self.aging_since.get_or_insert(record.ts_ms());
            } else if self.seals_basis(record) || self.seals_unsealed(record) {
                told.push((*record, stored));
            }
            records.push((leaf, *record));
        })?;
        if let Err((leaf, error)) = self.keeper.chains.advance_frame(records.into_iter()) {
            return self.broken(placed, leaf, error);
        }
        for (record, stored) in told {
            // What cannot be read is damage, which sealing and verifying find.
            let Some(sealed) = read_seal_record(disk, directory, placed, &record, stored)? else { continue };
            if let (true, Basis::Unconfirmed(digest)) = (self.seals_basis(&record), self.basis) {
                let same = sealed.segment == self.last_before() && sealed.state_digest == Some(digest);
                self.basis = if same { Basis::Certain } else { Basis::Refuted };
            }
            if self.seals_unsealed(&record) {
                self.told.insert(sealed.segment, sealed);
            }
        }
        Ok(())
    }

    /// A chain that does not hold is damage, unless it may be the state file that is wrong.
    fn broken(&mut self, placed: &Placed, leaf: LeafIndex, error: ChainError) -> Result<(), LogError> {
        if self.basis == Basis::Certain {
            let name = relative(SegmentFile::Frames(placed.segment));
            return Err(LogError::damaged(name, placed.offset.get(), Some(leaf), error));
        }
        self.basis = Basis::Refuted;
        Ok(())
    }

    /// Whether a record is the seal record of a segment that is not sealed here, or was sealed last.
    fn seals_unsealed(&self, record: &Record<'_>) -> bool {
        self.unsealed.is_some_and(|unsealed| record.seq() > unsealed.get().saturating_sub(LOOKED_AT_AGAIN))
            && record.stream().escaped() == reserved::SEGMENTS_STREAM
            && record.writer_id().escaped() == reserved::WRITER
    }

    /// Whether a record is the seal record of the state file's segment.
    fn seals_basis(&self, record: &Record<'_>) -> bool {
        matches!(self.basis, Basis::Unconfirmed(_))
            && record.stream().escaped() == reserved::SEGMENTS_STREAM
            && record.writer_id().escaped() == reserved::WRITER
            && record.seq() == self.first.get()
    }
}

/// The body of a seal record; `None` where it cannot be read as what the record commits to.
fn read_seal_record(
    disk: &dyn Disk,
    directory: &LogDirectory,
    placed: &Placed,
    record: &Record<'_>,
    stored: BatchRecord<'_>,
) -> Result<Option<SegmentSealed>, DiskError> {
    let (at, len) = (u64::from(stored.slot.0), stored.slot.1 as usize);
    let Some(place) = placed.header.payload.filter(|_| len <= Salt::LEN + reserved::MAX_BODY_BYTES) else {
        return Ok(None);
    };
    let path = directory.segment_file(SegmentFile::Payloads(placed.segment, place.part));
    let file = match disk.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let slot = read_up_to(file.as_ref(), u64::from(place.offset) + at, len)?;
    if check_payload(record, &slot, len).is_err() {
        return Ok(None);
    }
    Ok(slot.get(Salt::LEN..).and_then(|body| SegmentSealed::decode(body).ok()))
}

/// Whether the sealed segment before `tail` ends with the frame that the tail tells of: the store goes on
/// from a tail before anything else has vouched for a state file.
fn is_behind_its_last_frame(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
) -> Result<bool, DiskError> {
    let Some(segment) = tail.segment.get().checked_sub(1).map(SegmentNumber::new) else { return Ok(false) };
    if (tail.alignment, tail.height) != (inventory.alignment, inventory.height) {
        return Ok(false);
    }
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
    let len = file.status()?.len;
    let is_last = |bytes: &[u8; HEADER_BYTES], at: u64| {
        stored_checksum(bytes) == tail.link
            && FrameHeader::decode(bytes, segment, Offset::new(at)).is_ok_and(|header| {
                at + header.frame_len(tail.alignment) == len
                    && header.index.next() == tail.next_index
                    && header.term == tail.last_term
                    && header.leaves_after() == tail.leaves
            })
    };
    let step = u64::from(tail.alignment.get());
    let first = len.saturating_sub(tail.alignment.round_up((HEADER_BYTES + MAX_BODY_BYTES) as u64));
    // Backwards, a piece after the other; a header may stand across their border.
    let mut end = len / step * step;
    while end > first {
        let start = end.saturating_sub(LOOK_BYTES).max(first);
        let want = usize::try_from(end - start).unwrap_or(usize::MAX).saturating_add(HEADER_BYTES);
        let bytes = read_up_to(file.as_ref(), start, want)?;
        let mut at = end;
        while at >= start + step {
            at -= step;
            let place = usize::try_from(at - start).unwrap_or(usize::MAX);
            if bytes.get(place..).and_then(|rest| rest.first_chunk()).is_some_and(|header| is_last(header, at)) {
                return Ok(true);
            }
        }
        end = start;
    }
    Ok(false)
}
