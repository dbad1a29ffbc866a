//! Recovery: what of the unsealed files is the log, decided by what was flushed before (FAULTS.md).
//!
//! [`table`] is the decision; [`quarantine`] what a damaged log lacks; [`examine`] looks and decides, and
//! writes nothing. Rot before the last group is kept, never cut: the log is refused for writing, and recovery writes
//! nothing.
//!
//! Where others hold the log, too, a last group in doubt is cut only once the doubt is durable in hard state: from then
//! on it is this node's promise to ask them for the group before it takes part ([`Doubt`]).
//!
//! I-RECOVERY-1: no valid frame is rewritten in place.
//! I-RECOVERY-2: when recovery returns, a slot {start = end = end of the log} is durable and every
//! byte behind the end is zero or gone; running it again changes nothing but the group number.

pub mod examine;
pub mod quarantine;
pub mod table;

use crate::directory::{Inventory, LogDirectory, open_payloads, read_file_header, relative};
use crate::disk::{Access, Disk, DiskFile, read_up_to};
use crate::error::LogError;
use crate::frame::{EntryKind, FrameFault, HEADER_BYTES, MAX_BODY_BYTES, Tail, stored_checksum};
use crate::hard_state::{CleanMark, Doubt, HardState, HardStateFile};
use crate::membership::Membership;
use crate::number::{Group, NodeId, Offset, RaftIndex, SegmentNumber, Term};
use crate::ring::{Slot, read_ring};
use crate::scan::{FrameScanner, Seen};
use crate::segment::{FRAMES_START, PAGE_BYTES, PayloadPart, RING_SLOTS, RING_START, SegmentFile};
use crate::writer::MAX_GROUP_BYTES;

use examine::{Examination, REMEDY, evidence, read_slots, rot_sentence};
use quarantine::{IdentifiedBy, Standing};
use table::{Alone, Mark, Newest, Outcome};

/// What recovery found and made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The end of the log.
    pub tail: Tail,
    /// The group of the confirming slot.
    pub group: Group,
    /// One past the highest raft index known to be committed.
    pub committed: RaftIndex,
    /// Whether frames of a torn last group were cut.
    pub cut: Option<TornTail>,
}

/// A tail that has been cut: it was never acknowledged, or, where others hold the log, too, they are asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// In which segment.
    pub segment: SegmentNumber,
    /// From which byte on.
    pub offset: Offset,
    /// What stood there.
    pub fault: Option<FrameFault>,
}

/// Who holds a log besides this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holders<'m> {
    /// Nobody.
    Nobody,
    /// The nodes of this membership, which is empty where there is none yet, or of one in the unsealed files.
    Members(&'m [u8]),
}

/// Recovers the unsealed files; `start` is the tail behind the last sealed one.
///
/// # Errors
/// [`LogError::Damaged`] for rot; [`LogError::Disk`], after which nothing may be written.
pub fn recover(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    (start, holders): (Tail, Holders<'_>),
    hard_state: &mut HardStateFile,
) -> Result<Recovered, LogError> {
    flush(disk, directory, inventory)?;
    let slots = read_slots(disk, directory, inventory.sealed..=inventory.last)?;
    let clean = hard_state.state().clean;
    let found = examine::examine(disk, directory, inventory, start, (slots, clean))?;
    let Examination { tail, newest, fault, .. } = found;
    let torn = TornTail { segment: tail.segment, offset: tail.offset, fault };
    let own = hard_state.state().node;
    let cut = match (found.outcome.alone(), found.outcome) {
        (Alone::Open, _) => None,
        (_, Outcome::InDoubt | Outcome::InDoubtCommitted)
            if tail.next_index > RaftIndex::new(0) && others_vote(disk, directory, start, &tail, (own, holders))? =>
        {
            let before = hard_state.state().clone();
            let doubt = doubt_of(disk, directory, &found, &before)?;
            if found.outcome == Outcome::InDoubtCommitted {
                keep_doubtful(disk, directory, inventory, &tail, &doubt)?;
            }
            hard_state.save(HardState { doubt: Some(doubt), ..before })?;
            Some(torn)
        }
        (Alone::Cut, _) => Some(torn),
        (Alone::Refuse, _) => return Err(found.refusal()),
    };
    // Where nothing was bad, only zeros were read from the disk behind the tail; after a clean stop no
    // failed flush can have left something else in the page cache.
    let behind = match (cut, found.evidence.mark) {
        (None, Mark::Matches) => Behind::Zeros,
        (None, Mark::Differs) => Behind::ZerosOnDisk,
        (Some(_), _) => Behind::Unknown,
    };
    look_at_payloads(disk, directory, &tail)?;
    let group = newest.map_or(Group::new(0), |slot| slot.group);
    let committed = newest.map_or(RaftIndex::new(0), |slot| slot.committed).min(tail.next_index);
    let group = cut_behind_as(disk, directory, inventory, &tail, (group, committed, behind))?;
    Ok(Recovered { tail, group, committed, cut })
}

/// Whether this membership lets another node vote.
pub(crate) fn lets_others_vote(own: NodeId, membership: &[u8]) -> bool {
    let membership = Membership::decode(membership);
    membership.is_ok_and(|membership| membership.voters.iter().flatten().any(|voter| *voter != own))
}

/// Whether a membership that this log is of, or may be of, lets another node vote.
fn others_vote(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: Tail,
    end: &Tail,
    (own, holders): (NodeId, Holders<'_>),
) -> Result<bool, LogError> {
    let Holders::Members(sealed) = holders else { return Ok(false) };
    let mut others = lets_others_vote(own, sealed);
    crate::walk::walk(disk, directory, start, end, &mut |_, placed, body| {
        others |= placed.header.kind == EntryKind::Membership && lets_others_vote(own, body);
        Ok(())
    })?;
    Ok(others)
}

/// What is known of a last group in doubt. Behind an earlier doubt only a cut or what peers gave can have left it, so
/// what was known then still holds.
fn doubt_of(
    disk: &dyn Disk,
    directory: &LogDirectory,
    found: &Examination,
    before: &HardState,
) -> Result<Doubt, LogError> {
    let Examination { tail, newest, .. } = found;
    let place = |end: &Offset| *end > tail.offset;
    let told = newest.filter(|slot| slot.segment == tail.segment).map(|slot| slot.end).filter(place);
    let earlier = before.doubt.filter(|earlier| earlier.segment == tail.segment);
    let most = MAX_GROUP_BYTES + HEADER_BYTES + MAX_BODY_BYTES;
    let end = told.max(earlier.map(|earlier| earlier.end).filter(place));
    let end = end.unwrap_or_else(|| Offset::new(tail.offset.get() + most as u64));
    let committed = newest.map_or(RaftIndex::new(0), |slot| slot.committed);
    let doubt = Doubt {
        first: tail.next_index,
        header: own_header(disk, directory, found)?,
        committed,
        leader: if before.vote.committed { before.vote.term } else { Term::new(0) },
        segment: tail.segment,
        end,
    };
    Ok(match before.doubt {
        None => doubt,
        Some(earlier) => Doubt {
            // The header that stands there now may be a peer's.
            header: earlier.header.filter(|_| earlier.first == doubt.first),
            committed: committed.max(earlier.committed),
            leader: earlier.leader,
            ..doubt
        },
    })
}

/// The checksum of the header of the first frame in doubt, where that is good.
fn own_header(disk: &dyn Disk, directory: &LogDirectory, found: &Examination) -> Result<Option<u32>, LogError> {
    let tail = &found.tail;
    let is_good = match &found.standing {
        Standing::MustAsk { range, .. } => range.identified_by == IdentifiedBy::OwnHeader,
        Standing::MayVote | Standing::MayNotVote(_) => false,
    };
    if !is_good {
        return Ok(None);
    }
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(tail.segment)), Access::ReadDirect)?;
    let header = FrameScanner::new(file.as_ref()).header_at(tail.segment, tail.offset)?;
    Ok(header.map(|(_, bytes)| stored_checksum(&bytes)))
}

/// Copies what is cut of a group that is known to be committed into `quarantine/`: where no other holder is left, it is
/// the last trace of it.
fn keep_doubtful(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
    doubt: &Doubt,
) -> Result<(), LogError> {
    let place = directory.quarantine();
    disk.create_directory(&place)?;
    let keep = |name: SegmentFile, from: u64, to: Option<u64>| -> Result<(), LogError> {
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        let to = to.unwrap_or(u64::MAX).min(file.status()?.len);
        let bytes = read_up_to(file.as_ref(), from, usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX))?;
        let path = place.join(format!("{}.from-{from}", name.name()));
        Ok(crate::disk::replace(disk, &path, &bytes, crate::disk::Mode::Private)?)
    };
    keep(SegmentFile::Frames(tail.segment), tail.offset.get(), Some(doubt.end.get()))?;
    for part in inventory.payload_parts(tail.segment).filter(|part| *part >= tail.payload_part) {
        let from = if part == tail.payload_part { u64::from(tail.payload_offset) } else { 0 };
        keep(SegmentFile::Payloads(tail.segment, part), from, None)?;
    }
    disk.sync_directory(directory.path())?;
    Ok(())
}

/// Whether the payload files of the open segment are there, as long as its frames say: payloads are durable before
/// the frame that names them. What they hold is not looked at.
fn look_at_payloads(disk: &dyn Disk, directory: &LogDirectory, tail: &Tail) -> Result<(), LogError> {
    let parts = if payload_part_is_unused(tail, tail.payload_part) { 0..0 } else { 0..tail.payload_part.get() + 1 };
    for part in parts.map(PayloadPart::new) {
        let name = SegmentFile::Payloads(tail.segment, part);
        let file = open_payloads(disk, directory, name, None)?;
        read_file_header(file.as_ref(), name)?;
        if part == tail.payload_part && file.status()?.len < u64::from(tail.payload_offset) {
            let what = format!("the payload file ends too early; {REMEDY}");
            return Err(LogError::damaged(relative(name), file.status()?.len, None, what));
        }
    }
    Ok(())
}

/// After a kill, frames may be in the page cache and not on disk: flush first, then look.
///
/// A payload file may be sealed already where sealing was interrupted, so none is opened for writing.
fn flush(disk: &dyn Disk, directory: &LogDirectory, inventory: &Inventory) -> Result<(), LogError> {
    for segment in inventory.sealed.get()..=inventory.last.get() {
        let segment = SegmentNumber::new(segment);
        for part in inventory.payload_parts(segment) {
            let name = SegmentFile::Payloads(segment, part);
            disk.open(&directory.segment_file(name), Access::Read)?.sync()?;
        }
        disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?.sync()?;
    }
    Ok(())
}

/// The tail behind the last valid frame, and what is bad there, if anything is. Writes nothing.
///
/// # Errors
/// [`LogError::Disk`] of a failed call.
pub(crate) fn find_end(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    start: Tail,
    newest: Option<&Slot>,
) -> Result<(Tail, Option<Option<FrameFault>>), LogError> {
    let mut tail = start;
    let mut rest_from = FRAMES_START;
    let mut stopped: Option<Option<FrameFault>> = None;
    for segment in inventory.sealed.get()..=inventory.last.get() {
        let segment = SegmentNumber::new(segment);
        let path = directory.segment_file(SegmentFile::Frames(segment));
        let file = disk.open(&path, Access::ReadDirect)?;
        let mut scanner = FrameScanner::new(file.as_ref());
        let seen_file = disk.open(&path, Access::Read)?;
        let mut seen = FrameScanner::new(seen_file.as_ref());
        while stopped.is_none() && tail.segment == segment {
            let durable = newest.is_some_and(|slot| (tail.segment, tail.offset) < (slot.segment, slot.start));
            match scanner.at(&tail)? {
                // Where the flush of a cut has failed, the disk still has frames that the page cache shows as
                // zeros: they are of the last group, and in doubt.
                Seen::Frame(placed, _)
                    if durable || matches!(seen.at(&tail)?, Seen::Frame(same, _) if same == placed) =>
                {
                    tail.advance(&placed);
                }
                Seen::Frame(..) | Seen::Nothing => {
                    rest_from = tail.offset;
                    stopped = Some(None);
                }
                Seen::Bad(fault) => {
                    rest_from = tail.offset;
                    stopped = Some(Some(fault));
                }
            }
        }
        // What lies behind the last frame of an ended segment is cut off when it is sealed.
        if stopped.is_some() && scanner.non_zero_from(rest_from.get())? {
            return Ok((tail, Some(stopped.flatten())));
        }
        rest_from = FRAMES_START;
    }
    let below_end = newest.is_some_and(|slot| (tail.segment, tail.offset) < (slot.segment, slot.end));
    Ok((tail, below_end.then(|| stopped.flatten())))
}

/// What the flush rings tell about the place behind a tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told<'s> {
    /// The newest slot of all unsealed files, or the mark of a clean stop in its place.
    pub(crate) newest: Option<&'s Slot>,
    /// Whether the file of the tail has a slot of its own.
    pub(crate) own: Newest,
}

/// Whether what is bad behind `tail` is a torn group, for a log that nobody else holds.
///
/// # Errors
/// [`LogError::Damaged`] where it is rot.
pub(crate) fn decide(
    tail: &Tail,
    told: Told<'_>,
    clean: Option<CleanMark>,
    fault: Option<FrameFault>,
) -> Result<(), LogError> {
    let evidence = evidence(tail, told, clean, FirstPlace::Bad);
    match evidence.outcome().alone() {
        Alone::Open | Alone::Cut => Ok(()),
        Alone::Refuse => Err(LogError::damaged(
            relative(SegmentFile::Frames(tail.segment)),
            tail.offset.get(),
            Some(tail.leaves.next_leaf()),
            format!("{}; {REMEDY}", rot_sentence(fault, evidence)),
        )),
    }
}

/// Whether the place behind a tail is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FirstPlace {
    Bad,
    Sound,
}

/// What lies in a file behind the tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behind {
    /// Zeros, on the disk and in the page cache.
    Zeros,
    /// Zeros on the disk, and anything in the page cache.
    ZerosOnDisk,
    /// Anything.
    Unknown,
}

/// Cuts everything behind `tail` in three steps, each safe to be interrupted: a confirming slot in
/// the file of the cut; zeros from the cut on and cleared slots beyond it; later files removed.
///
/// Also the end of a truncation (DESIGN.md section 6, guarantee 6).
///
/// # Errors
/// [`LogError::Disk`], after which nothing may be written.
pub(crate) fn cut_behind(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
    group: Group,
    committed: RaftIndex,
) -> Result<Group, LogError> {
    cut_behind_as(disk, directory, inventory, tail, (group, committed, Behind::Unknown))
}

fn cut_behind_as(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
    (group, committed, behind): (Group, RaftIndex, Behind),
) -> Result<Group, LogError> {
    let slot = |group| Slot { segment: tail.segment, group, start: tail.offset, end: tail.offset, committed };
    if tail.segment > inventory.last {
        let group = group.born();
        create_segment(disk, directory, inventory, &slot(group))?;
        return Ok(group);
    }
    let group = group.next();
    let slot = slot(group);
    let path = directory.segment_file(SegmentFile::Frames(tail.segment));
    let file = disk.open(&path, Access::Write)?;
    file.write_at(&slot.encode(), Slot::place(group))?;
    file.sync()?;
    match behind {
        Behind::Zeros => {}
        Behind::ZerosOnDisk => zero_from(file.as_ref(), None, tail.offset.get())?,
        Behind::Unknown => {
            let on_disk = disk.open(&path, Access::ReadDirect)?;
            zero_from(file.as_ref(), Some(on_disk.as_ref()), tail.offset.get())?;
        }
    }
    for other in 1..RING_SLOTS {
        clear_slot_beyond(file.as_ref(), tail, Group::new(group.get() + other))?;
    }
    file.sync()?;
    for segment in tail.segment.get() + 1..=inventory.last.get() {
        let path = directory.segment_file(SegmentFile::Frames(SegmentNumber::new(segment)));
        let later = disk.open(&path, Access::Write)?;
        let on_disk = disk.open(&path, Access::ReadDirect)?;
        zero_from(later.as_ref(), Some(on_disk.as_ref()), RING_START)?;
        later.sync()?;
    }
    remove_later_files(disk, directory, inventory, tail)?;
    Ok(group)
}

/// Makes every byte from `from` on zero, and writes only pages that are not.
///
/// Looks on the disk, where that is not known, and in the page cache, in which a failed flush may have left what is not on
/// the disk: a later write beside it would take it along.
fn zero_from(file: &dyn DiskFile, on_disk: Option<&dyn DiskFile>, from: u64) -> Result<(), LogError> {
    let zeros = vec![0; ZEROING_BYTES];
    let mut scanner = on_disk.map(FrameScanner::new);
    let mut at = from;
    let len = file.status()?.len;
    while at < len {
        let until = (at / ZEROING_BYTES as u64 + 1) * ZEROING_BYTES as u64;
        let step = usize::try_from(until.min(len) - at).unwrap_or(ZEROING_BYTES);
        let cached = read_up_to(file, at, step)?;
        let stored = match &mut scanner {
            Some(scanner) => scanner.bytes(at, step)?,
            None => &[],
        };
        // From the first page that is not zero to the last one.
        let is_dirty = |place: usize| {
            let page = place..(place + PAGE_BYTES).min(step);
            [cached.get(page.clone()), stored.get(page)].into_iter().flatten().flatten().any(|byte| *byte != 0)
        };
        let mut dirty = (0..step).step_by(PAGE_BYTES).filter(|place| is_dirty(*place));
        if let Some(first) = dirty.next() {
            let end = (dirty.next_back().unwrap_or(first) + PAGE_BYTES).min(step);
            file.write_at(&zeros[..end - first], at + first as u64)?;
        }
        at += step as u64;
    }
    Ok(())
}

/// Zeros are written, and looked for, in pieces of this size.
const ZEROING_BYTES: usize = 1 << 16;

/// Clears what lies in a group's place of the ring where it claims what has been cut.
fn clear_slot_beyond(file: &dyn DiskFile, tail: &Tail, group: Group) -> Result<(), LogError> {
    let (slots, _) = read_ring(file, tail.segment)?;
    let place = Slot::place(group);
    if slots.iter().any(|slot| Slot::place(slot.group) == place && slot.end > tail.offset) {
        file.write_at(&[0; PAGE_BYTES], place)?;
    }
    Ok(())
}

/// Removes the files behind the cut, last first, so that none is ever missing in the middle.
fn remove_later_files(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
) -> Result<(), LogError> {
    for segment in (tail.segment.get()..=inventory.last.get()).rev().map(SegmentNumber::new) {
        for part in inventory.payload_parts(segment) {
            let path = directory.segment_file(SegmentFile::Payloads(segment, part));
            if segment > tail.segment || part > tail.payload_part || payload_part_is_unused(tail, part) {
                disk.remove(&path)?;
            } else if part == tail.payload_part {
                let file = disk.open(&path, Access::Write)?;
                let end = tail.alignment.round_up(u64::from(tail.payload_offset));
                if file.status()?.len > end {
                    file.set_len(end)?;
                    file.sync()?;
                }
            }
        }
        if segment > tail.segment {
            disk.remove(&directory.segment_file(SegmentFile::Frames(segment)))?;
        }
        disk.sync_directory(&directory.segments())?;
    }
    Ok(())
}

/// Whether the tail has no payload in its part, which then need not exist.
fn payload_part_is_unused(tail: &Tail, part: PayloadPart) -> bool {
    part == tail.payload_part && tail.payload_offset == crate::segment::PAYLOADS_START
}

/// Creates a segment file with its header and a full ring: temporary name, flush, rename, directory
/// flush. From then on it counts (I-RING-3).
///
/// # Errors
/// [`LogError::Disk`] of the failed call.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    slot: &Slot,
) -> Result<(), LogError> {
    let path = directory.segment_file(SegmentFile::Frames(slot.segment));
    crate::disk::replace(disk, &path, &segment_head(inventory, slot), crate::disk::Mode::Private)?;
    Ok(())
}

/// What a segment file begins with when it is born: its header, and a ring full of slots that say the same,
/// of this group and those before it (I-RING-3).
pub(crate) fn segment_head(inventory: &Inventory, slot: &Slot) -> Vec<u8> {
    let start = usize::try_from(FRAMES_START.get()).unwrap_or(0);
    let mut head = vec![0; start];
    let header = inventory.header(slot.segment, None).encode();
    head[..header.len()].copy_from_slice(&header);
    for before in 0..RING_SLOTS {
        let slot = Slot { group: Group::new(slot.group.get() - before), ..*slot };
        let place = usize::try_from(Slot::place(slot.group)).unwrap_or(0);
        let page = slot.encode();
        head[place..place + page.len()].copy_from_slice(&page);
    }
    head
}
