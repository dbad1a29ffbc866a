//! What is known of where a log ended.
//!
//! | this log itself has | so |
//! |---|---|
//! | a clean mark, and no flush since | it ended at the mark |
//! | a slot in its last file, and an older one in the place of the next group | nothing behind the newest slot's end was acknowledged |
//! | a slot in its last file, and none in the place of the next group | it ended with that group, or with one of the next two |
//! | no slot in its last file (I-RING-3), or the last file is missing | nobody knows: the file is left as it is |
//!
//! Nothing that a copy holds proves it: a copy that was made while the log was written lacks what was
//! acknowledged after, and one that was opened since has another end. A signed root tells what there was, and
//! not that nothing followed. The one exception is a copy of the same start with the same newest slot: it
//! may fill that slot's own group.
//!
//! I-REPAIR-3: no log is called whole that may end before what was acknowledged and the copy has.

use crate::directory::relative;
use crate::error::{Damage, LogError};
use crate::frame::Tail;
use crate::generation::GenerationError;
use crate::hard_state::{CleanMark, HardState, read_hard_state};
use crate::number::{Group, SegmentNumber};
use crate::ring::{Slot, read_ring};
use crate::segment::{FRAMES_START, PAGE_BYTES, SegmentFile};

use super::source::{Source, is_missing};
use crate::disk::{DiskFile, read_up_to};

/// What the operator can do where a repair cannot go on.
pub(super) const GO_ON_WITH_COPY: &str =
    "where the copy is known to hold everything that was acknowledged, go on with the copy in place of this directory";

/// What is known of the end of a log.
pub(super) struct Ends {
    pub(super) newest: Option<Slot>,
    state: Option<HardState>,
    /// Where the ring does not rule out that a group followed the newest slot's.
    next: NextSlot,
    lost: Option<(SegmentNumber, Lost)>,
}

/// What stands where the slot behind the newest would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextSlot {
    /// An older slot: the next group was not acknowledged.
    Older,
    /// None that can be read.
    Unknown,
    /// None, and the slot before the newest cannot be read, either: no kill leaves that.
    Rotten,
}

/// Why nobody knows where the log ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lost {
    File,
    Ring,
}

impl Ends {
    pub(super) fn read(source: &Source<'_>) -> Result<Self, LogError> {
        let mut newest: Option<Slot> = None;
        let mut next = NextSlot::Unknown;
        let mut lost = Some((SegmentNumber::new(0), Lost::File));
        for segment in source.segments() {
            let Some(file) = source.open(SegmentFile::Frames(segment))? else { continue };
            let (slots, _) = read_ring(file.as_ref(), segment)?;
            if let Some(slot) = slots.iter().max_by_key(|slot| slot.group)
                && newest.is_none_or(|newest| newest.group < slot.group)
            {
                newest = Some(*slot);
                next = next_slot(file.as_ref(), slot, &slots)?;
            }
            let status = file.status()?;
            lost = if status.read_only && is_zero(file.as_ref(), segment)? {
                Some((segment.next(), Lost::File))
            } else if slots.is_empty() || status.len < FRAMES_START.get() {
                Some((segment, Lost::Ring))
            } else {
                None
            };
        }
        let state = match read_hard_state(source.disk, &source.directory.hard_state()) {
            Ok(state) => Some(state),
            Err(GenerationError::Disk(error)) if !is_missing(&error) => return Err(error.into()),
            Err(_) => None,
        };
        let ends = Self { newest, state, next, lost };
        let lost = ends.lost.filter(|(segment, _)| ends.clean().is_none_or(|mark| mark.segment < *segment));
        Ok(Self { lost, ..ends })
    }

    /// The mark of the last clean stop, unless something was flushed since.
    pub(super) fn clean(&self) -> Option<CleanMark> {
        let mark = self.state.as_ref()?.clean?;
        self.newest.is_none_or(|slot| slot.group <= mark.group).then_some(mark)
    }

    /// Whether two logs were left at the same end by the same run of the same writer.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let clean = self.clean();
        let (Some(own), Some(theirs)) = (&self.state, &other.state) else { return false };
        let marked = clean.is_some() && clean == other.clean();
        own.starts == theirs.starts && (marked || (self.newest.is_some() && self.newest == other.newest))
    }

    /// The file in which the log ends, where nobody knows where in it.
    pub(super) fn lost(&self) -> Option<Damage> {
        let (segment, lost) = self.lost?;
        let what = match lost {
            Lost::File => "the open segment file is missing, and with it its flush ring",
            Lost::Ring => "the flush ring of the open segment file is lost",
        };
        Some(Damage {
            file: relative(SegmentFile::Frames(segment)),
            offset: 0,
            leaf: None,
            what: format!(
                "{what}; the log was not closed cleanly, so nothing tells where it ended, and a copy may lack what was \
                 acknowledged: the file was left as it is; {GO_ON_WITH_COPY}"
            ),
        })
    }

    /// The segment of [`Self::lost`].
    pub(super) fn lost_segment(&self) -> Option<SegmentNumber> {
        self.lost.map(|(segment, _)| segment)
    }

    /// Whether nothing from there on was acknowledged.
    pub(super) fn ends_before(&self, tail: &Tail) -> bool {
        self.clean().is_some() || (self.next == NextSlot::Older && !self.is_in_newest_group(tail))
    }

    /// Whether a place lies in the group of the newest slot.
    pub(super) fn is_in_newest_group(&self, tail: &Tail) -> bool {
        self.newest.is_some_and(|slot| (tail.segment, tail.offset) < (slot.segment, slot.end))
    }

    /// Whether more of the ring is gone than a kill takes.
    pub(super) fn is_ring_rotten(&self) -> bool {
        self.next == NextSlot::Rotten
    }
}

/// What the ring tells about the group behind the newest slot's.
fn next_slot(file: &dyn DiskFile, newest: &Slot, slots: &[Slot]) -> Result<NextSlot, LogError> {
    let is_read = |group: Group| slots.iter().any(|slot| Slot::place(slot.group) == Slot::place(group));
    let next = newest.group.next();
    if is_read(next) {
        return Ok(NextSlot::Older);
    }
    let page = read_up_to(file, Slot::place(next.next()), PAGE_BYTES)?;
    let torn = is_read(next.next()) || page.iter().all(|byte| *byte == 0);
    Ok(if torn { NextSlot::Unknown } else { NextSlot::Rotten })
}

fn is_zero(file: &dyn DiskFile, segment: SegmentNumber) -> Result<bool, LogError> {
    Ok(read_ring(file, segment)?.1 == crate::ring::RingState::Cleared)
}
