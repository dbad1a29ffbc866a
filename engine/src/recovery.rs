//! Recovery: what of the unsealed files is the log, decided by what was flushed before (FAULTS.md).
//!
//! A place is *bad* if no valid, linking frame stands there and either it lies below the newest
//! slot's `end` or a byte behind it is not zero. Zeros end the log only where neither holds.
//!
//! | the first bad place lies | clean mark matches the ring | below the newest slot's `committed` | decision |
//! |---|---|---|---|
//! | nowhere | - | - | the log ends behind the last valid frame |
//! | anywhere | yes | - | rot |
//! | below the newest slot's `start` | no | - | rot |
//! | at or behind `start` | no | yes | rot: on one machine there is no peer to ask |
//! | at or behind `start` | no | no | the last group was torn: cut there |
//!
//! Without any readable slot `start` is the first byte behind the last sealed file. Rot is kept, never
//! cut: the log is refused for writing.
//!
//! I-RECOVERY-1: no valid frame is rewritten in place.
//! I-RECOVERY-2: when recovery returns, a slot {start = end = end of the log} is durable and every
//! byte behind the end is zero or gone; running it again changes nothing but the group number.

use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, DiskFile};
use crate::error::LogError;
use crate::frame::{FrameFault, Tail};
use crate::hard_state::CleanMark;
use crate::number::{Group, Offset, RaftIndex, SegmentNumber};
use crate::ring::{Slot, read_ring};
use crate::scan::{FrameScanner, Seen};
use crate::segment::{FRAMES_START, PayloadPart, RING_SLOTS, RING_START, SegmentFile};

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

/// A tail that was never acknowledged and has been cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// In which segment.
    pub segment: SegmentNumber,
    /// From which byte on.
    pub offset: Offset,
    /// What stood there.
    pub fault: Option<FrameFault>,
}

/// Recovers the unsealed files; `start` is the tail behind the last sealed one.
///
/// # Errors
/// [`LogError::Damaged`] for rot; [`LogError::Disk`], after which nothing may be written.
pub fn recover(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    start: Tail,
    clean: Option<CleanMark>,
) -> Result<Recovered, LogError> {
    let slots = flush_and_read_slots(disk, directory, inventory)?;
    let newest = slots.iter().max_by_key(|slot| slot.group).copied();
    let (tail, bad) = find_end(disk, directory, inventory, start, newest.as_ref())?;
    let cut = match bad {
        None => None,
        Some(fault) => {
            decide(&tail, newest.as_ref(), clean, fault)?;
            Some(TornTail { segment: tail.segment, offset: tail.offset, fault })
        }
    };
    let group = newest.map_or(Group::new(0), |slot| slot.group);
    let committed = newest.map_or(RaftIndex::new(0), |slot| slot.committed).min(tail.next_index);
    let group = cut_behind(disk, directory, inventory, &tail, group, committed)?;
    Ok(Recovered { tail, group, committed, cut })
}

/// After a kill, frames may be in the page cache and not on disk: flush first, then look.
///
/// A payload file may be sealed already where sealing was interrupted, so none is opened for writing.
fn flush_and_read_slots(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
) -> Result<Vec<Slot>, LogError> {
    let mut slots = Vec::new();
    for segment in inventory.sealed.get()..=inventory.last.get() {
        let segment = SegmentNumber::new(segment);
        for part in inventory.payload_parts(segment) {
            let name = SegmentFile::Payloads(segment, part);
            disk.open(&directory.segment_file(name), Access::Read)?.sync()?;
        }
        let name = SegmentFile::Frames(segment);
        let path = directory.segment_file(name);
        let file = disk.open(&path, Access::Read)?;
        file.sync()?;
        read_file_header(file.as_ref(), name)?;
        slots.extend(read_ring(file.as_ref(), segment)?.0);
    }
    Ok(slots)
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

/// The table of the module documentation: whether what is bad behind `tail` is a torn group.
///
/// # Errors
/// [`LogError::Damaged`] where it is rot.
pub(crate) fn decide(
    tail: &Tail,
    newest: Option<&Slot>,
    clean: Option<CleanMark>,
    fault: Option<FrameFault>,
) -> Result<(), LogError> {
    let place = (tail.segment, tail.offset);
    let clean = newest.is_some_and(|slot| {
        clean == Some(CleanMark { group: slot.group, segment: slot.segment, end: slot.end }) && slot.start == slot.end
    });
    let why = if clean {
        "the log was closed cleanly behind it"
    } else if newest.is_some_and(|slot| place < (slot.segment, slot.start)) {
        "it was durable"
    } else if newest.is_some_and(|slot| tail.next_index < slot.committed) {
        "it was committed"
    } else {
        return Ok(());
    };
    let what = fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
    let what = format!("{what}, and {why}: the file has rotted; restore it from a copy of the log");
    Err(LogError::damaged(
        relative(SegmentFile::Frames(tail.segment)),
        tail.offset.get(),
        Some(tail.leaves.next_leaf()),
        what,
    ))
}

/// Cuts everything behind `tail` in three steps, each safe to be interrupted: a confirming slot in
/// the file of the cut; zeros from the cut on and cleared slots beyond it; later files removed.
///
/// Also the end of a truncation (DESIGN.md section 6, guarantee 6).
///
/// # Errors
/// [`LogError::Disk`], after which nothing may be written.
pub fn cut_behind(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    tail: &Tail,
    group: Group,
    committed: RaftIndex,
) -> Result<Group, LogError> {
    let group = group.next();
    let slot = Slot { segment: tail.segment, group, start: tail.offset, end: tail.offset, committed };
    if tail.segment > inventory.last {
        create_segment(disk, directory, inventory, &slot)?;
        return Ok(group);
    }
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(tail.segment)), Access::Write)?;
    file.write_at(&slot.encode(), Slot::place(group))?;
    file.sync()?;
    zero_from(file.as_ref(), tail.offset.get())?;
    for other in 1..RING_SLOTS {
        clear_slot_beyond(file.as_ref(), tail, Group::new(group.get() + other))?;
    }
    file.sync()?;
    for segment in tail.segment.get() + 1..=inventory.last.get() {
        let path = directory.segment_file(SegmentFile::Frames(SegmentNumber::new(segment)));
        let later = disk.open(&path, Access::Write)?;
        zero_from(later.as_ref(), RING_START)?;
        later.sync()?;
    }
    remove_later_files(disk, directory, inventory, tail)?;
    Ok(group)
}

fn zero_from(file: &dyn DiskFile, from: u64) -> Result<(), LogError> {
    let len = file.status()?.len;
    let zeros = vec![0; 1 << 16];
    let mut at = from;
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_at(&zeros[..step], at)?;
        at += step as u64;
    }
    Ok(())
}

/// Clears what lies in a group's place of the ring where it claims what has been cut.
fn clear_slot_beyond(file: &dyn DiskFile, tail: &Tail, group: Group) -> Result<(), LogError> {
    let (slots, _) = read_ring(file, tail.segment)?;
    let place = Slot::place(group);
    if slots.iter().any(|slot| Slot::place(slot.group) == place && slot.end > tail.offset) {
        file.write_at(&[0; crate::segment::PAGE_BYTES], place)?;
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

/// Creates a segment file with its header and a first slot: temporary name, flush, rename, directory
/// flush. From then on it counts (I-RING-3).
///
/// # Errors
/// [`LogError::Disk`] of the failed call.
pub fn create_segment(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    slot: &Slot,
) -> Result<(), LogError> {
    let start = usize::try_from(FRAMES_START.get()).unwrap_or(0);
    let mut head = vec![0; start];
    let header = inventory.header(slot.segment, None).encode();
    head[..header.len()].copy_from_slice(&header);
    let place = usize::try_from(Slot::place(slot.group)).unwrap_or(0);
    let page = slot.encode();
    head[place..place + page.len()].copy_from_slice(&page);
    let path = directory.segment_file(SegmentFile::Frames(slot.segment));
    crate::disk::replace(disk, &path, &head, crate::disk::Mode::Private)?;
    Ok(())
}
