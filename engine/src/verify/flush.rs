//! What the flush rings and the clean mark prove about the unsealed files.

use std::collections::BTreeSet;

use crate::directory::{LogDirectory, relative};
use crate::disk::{Access, Disk, read_up_to};
use crate::error::{Damage, LogError};
use crate::hard_state::{CleanMark, read_clean_mark};
use crate::number::{Group, SegmentNumber};
use crate::recovery::Told;
use crate::recovery::table::Newest;
use crate::ring::Slot;
use crate::segment::{PAGE_BYTES, RING_SLOTS, RING_START, SegmentFile};

use super::files::damage;
use super::survey::Survey;

/// What is known to be durable.
pub(crate) struct Flushed {
    /// Whether somebody has the log open for writing.
    pub(crate) writer: bool,
    /// The slot with the highest group.
    pub(crate) newest: Option<Slot>,
    /// The mark of the last clean stop.
    pub(crate) clean: Option<CleanMark>,
    /// The files whose rings hold a slot.
    told: BTreeSet<SegmentNumber>,
    /// Pages of rings that hold neither zeros nor a slot.
    unreadable: Vec<(SegmentNumber, u64)>,
    /// The last segment file.
    last: SegmentNumber,
}

impl Flushed {
    /// Reads the rings of the unsealed files.
    ///
    /// # Errors
    /// [`LogError`] of a failed call.
    pub(crate) fn read(disk: &dyn Disk, directory: &LogDirectory, survey: &Survey) -> Result<Self, LogError> {
        let writer = disk.is_locked(&directory.lock())?;
        // A writer may have gone on since; a damaged file is told of where the file itself is looked at.
        let clean = if writer { None } else { read_clean_mark(disk, &directory.hard_state())? };
        let mut flushed = Self {
            writer,
            newest: None,
            clean,
            told: BTreeSet::new(),
            unreadable: Vec::new(),
            last: survey.inventory.last,
        };
        for segment in survey.unsealed() {
            let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
            flushed.read_ring(segment, &read_up_to(file.as_ref(), RING_START, RING_BYTES)?);
        }
        Ok(flushed)
    }

    /// The rings of one file that stands alone.
    pub(crate) fn of_ring(segment: SegmentNumber, ring: &[u8]) -> Self {
        let mut flushed = Self {
            writer: false,
            newest: None,
            clean: None,
            told: BTreeSet::new(),
            unreadable: Vec::new(),
            last: segment,
        };
        flushed.read_ring(segment, ring);
        flushed
    }

    fn read_ring(&mut self, segment: SegmentNumber, ring: &[u8]) {
        for (number, page) in (0..).zip(ring.chunks(PAGE_BYTES)) {
            match Slot::decode(page, segment) {
                Some(slot) if slot.group.get() % RING_SLOTS == number => {
                    self.told.insert(segment);
                    if self.newest.is_none_or(|newest| newest.group < slot.group) {
                        self.newest = Some(slot);
                    }
                }
                None if page.iter().all(|byte| *byte == 0) => {}
                _ => self.unreadable.push((segment, RING_START + number * PAGE_BYTES as u64)),
            }
        }
    }

    /// What the rings tell about a place in this file.
    pub(crate) fn told(&self, segment: SegmentNumber) -> Told<'_> {
        let marked = self.clean.is_some_and(|mark| mark.segment == segment);
        let own = if marked || self.told.contains(&segment) { Newest::Readable } else { Newest::NoSlot };
        Told { newest: self.newest.as_ref(), own }
    }

    /// What is wrong with the rings. An unreadable page is the trace of a kill, and no damage, only
    /// where the group behind the newest would stand, in a log that was not closed cleanly since.
    pub(crate) fn check(&self, findings: &mut Vec<Damage>, notes: &mut Vec<String>) {
        if self.writer {
            return;
        }
        let group = self.newest.map_or(Group::new(0), |slot| slot.group);
        let closed = self.clean.is_some_and(|mark| group <= mark.group);
        let torn = self.newest.map(|slot| (slot.segment, Slot::place(group.next())));
        for (segment, at) in &self.unreadable {
            let name = SegmentFile::Frames(*segment);
            if !closed && torn == Some((*segment, *at)) {
                notes.push(format!("{}, byte {at}: the slot of a flush that was not finished", relative(name)));
            } else {
                findings.push(damage(
                    name,
                    *at,
                    "the page of the flush ring holds neither a slot nor zeros; `stele repair` clears it",
                ));
            }
        }
        if let Some(mark) = self.clean
            && mark.segment > self.last
        {
            let what = "the file is missing, and the log was closed cleanly in it; restore it from a copy";
            findings.push(damage(SegmentFile::Frames(mark.segment), 0, what));
        } else if let Some(mark) = self.clean
            && self.unreadable.is_empty()
            && !self.is_marked(mark)
            && closed
        {
            let what = "the flush ring does not hold the slot of the last clean stop; `stele repair` writes it";
            findings.push(damage(SegmentFile::Frames(mark.segment), Slot::place(mark.group), what));
        }
    }

    fn is_marked(&self, mark: CleanMark) -> bool {
        self.newest.is_some_and(|slot| {
            (slot.group, slot.segment, slot.end) == (mark.group, mark.segment, mark.end) && slot.start == slot.end
        })
    }
}

/// Bytes of a flush ring.
pub(crate) const RING_BYTES: usize = PAGE_BYTES * 3;
const _: () = assert!(RING_SLOTS == 3);
