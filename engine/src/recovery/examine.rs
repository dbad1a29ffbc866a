//! Looking at the unsealed files, or at all, without writing: evidence, decision, standing.

use std::collections::BTreeSet;
use std::io;

use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk};
use crate::error::{Damage, LogError};
use crate::frame::{FrameFault, HEADER_BYTES, Tail};
use crate::hard_state::{CleanMark, read_clean_mark};
use crate::number::{Offset, RaftIndex, SegmentNumber};
use crate::reader::{MAX_TILES_BYTES, tail_behind};
use crate::ring::{RingState, Slot, read_ring};
use crate::scan::FrameScanner;
use crate::segment::{FRAMES_START, FileHeader, SegmentFile};
use crate::tiles::Tiles;

use super::quarantine::{
    DurableEnd, HeaderFinding, IdentifiedBy, Needed, NeededRange, Standing, WithoutOffer, file_header, needed_ranges,
};
use super::table::{BadEntry, Evidence, FirstBad, Mark, Newest, Outcome};
use super::{FirstPlace, Told, find_end};

/// What the files say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examination {
    /// Behind the last valid frame before the first bad place.
    pub tail: Tail,
    /// The newest slot of the ring, or the mark of a clean stop in its place.
    pub newest: Option<Slot>,
    /// What was found, as far as it decides.
    pub evidence: Evidence,
    /// What it means.
    pub outcome: Outcome,
    /// What stands at the first bad place; `None` where nothing is bad or nothing stands there.
    pub fault: Option<FrameFault>,
    /// What a node may do with it.
    pub standing: Standing,
    /// What a log that nobody else holds lacks, where it refuses to be written.
    pub(crate) needed: Needed,
}

/// What there is to be examined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// What an opening looks at: the files that are not sealed, and whether the others are there.
    Unsealed,
    /// Every frame of the log.
    Whole,
}

/// Answers the standing of a log; takes no lock, writes nothing, and asks for nothing to be sound but the
/// header of one segment file. Nobody may be writing meanwhile.
///
/// Payload files and derived files are not looked at.
///
/// # Errors
/// [`LogError::NoLog`], [`LogError::Unfinished`]; [`LogError::Damaged`] where no segment file has a good
/// header; [`LogError::Version`], [`LogError::Disk`].
pub fn standing(disk: &dyn Disk, directory: &LogDirectory, extent: Extent) -> Result<Standing, LogError> {
    Ok(examine_directory(disk, directory, extent)?.standing)
}

/// As [`standing`], with the evidence.
///
/// # Errors
/// As [`standing`].
pub fn examine_directory(disk: &dyn Disk, directory: &LogDirectory, extent: Extent) -> Result<Examination, LogError> {
    let clean = read_clean_mark(disk, &directory.hard_state())?;
    let found = Files::look(disk, directory, clean)?;
    let start = match extent {
        Extent::Whole => Tail::start(found.header.alignment, found.header.height),
        Extent::Unsealed => found.start_of_unsealed(disk, directory)?,
    };
    let sealed = DurableEnd { segment: found.sealed, offset: FRAMES_START };
    let before = needed_ranges(disk, directory, start, sealed)?;
    let inventory = Inventory::of_findings(&found.header, found.sealed, found.last, Vec::new());
    if before.ranges.is_empty() && found.missing.is_empty() {
        let slots = read_slots(disk, directory, found.sealed..=found.last)?;
        return examine(disk, directory, &inventory, before.tail, (slots, clean));
    }
    let present = (found.sealed.get()..=found.last.get()).map(SegmentNumber::new);
    let mut slots = Vec::new();
    for segment in present.filter(|segment| !found.missing.contains(segment)) {
        slots.extend(read_slots(disk, directory, segment..=segment)?);
    }
    let newest = newest_of(&slots, clean);
    let mut end = durable_end(found.sealed, newest.as_ref());
    // What lies before a file that is there was durable, and so was what a clean stop ended.
    if let Some(clean) = clean
        && (clean.segment, clean.end) > (end.segment, end.offset)
    {
        end = DurableEnd { segment: clean.segment, offset: clean.end };
    }
    if found.last > end.segment {
        end = DurableEnd { segment: found.last, offset: FRAMES_START };
    }
    let needed = needed_ranges(disk, directory, start, end)?;
    Ok(rotten(newest, needed))
}

/// What lies in the `segments` directory, whether or not it is a whole log.
struct Files {
    header: FileHeader,
    sealed: SegmentNumber,
    last: SegmentNumber,
    missing: BTreeSet<SegmentNumber>,
}

impl Files {
    fn look(disk: &dyn Disk, directory: &LogDirectory, clean: Option<CleanMark>) -> Result<Self, LogError> {
        let names = match disk.list(&directory.segments()) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let there: BTreeSet<SegmentNumber> = names
            .iter()
            .filter_map(|name| match SegmentFile::parse(name) {
                Some(SegmentFile::Frames(number)) => Some(number),
                _ => None,
            })
            .collect();
        let Some(&last_there) = there.last() else {
            // Says whether it was never made or lost everything.
            return match Inventory::take(disk, directory) {
                Err(error) => Err(error),
                Ok(_) => Err(LogError::NoLog(directory.path().to_owned())),
            };
        };
        let mut header = Err(LogError::NoLog(directory.path().to_owned()));
        for segment in &there {
            let name = SegmentFile::Frames(*segment);
            let file = disk.open(&directory.segment_file(name), Access::Read)?;
            header = read_file_header(file.as_ref(), name);
            if !matches!(header, Err(LogError::Damaged(_))) {
                break;
            }
        }
        let is_read_only = |segment: SegmentNumber| -> Result<bool, LogError> {
            let path = directory.segment_file(SegmentFile::Frames(segment));
            Ok(there.contains(&segment) && disk.open(&path, Access::Read)?.status()?.read_only)
        };
        let mut last = last_there;
        let file = disk.open(&directory.segment_file(SegmentFile::Frames(last)), Access::Read)?;
        // A sealed file always has a successor.
        if is_read_only(last)? && read_ring(file.as_ref(), last)?.1 == RingState::Cleared {
            last = last.next();
        }
        last = last.max(clean.map_or(last, |clean| clean.segment));
        let mut sealed = last_there;
        while let Some(before) = sealed.get().checked_sub(1).map(SegmentNumber::new) {
            if is_read_only(before)? {
                break;
            }
            sealed = before;
        }
        let missing = (0..=last.get()).map(SegmentNumber::new).filter(|segment| !there.contains(segment)).collect();
        Ok(Self { header: header?, sealed, last, missing })
    }

    /// The tail behind the last sealed file as its sidecar tells, else the start of the log.
    fn start_of_unsealed(&self, disk: &dyn Disk, directory: &LogDirectory) -> Result<Tail, LogError> {
        let start = Tail::start(self.header.alignment, self.header.height);
        let Some(before) = self.sealed.get().checked_sub(1).map(SegmentNumber::new) else { return Ok(start) };
        if self.missing.iter().any(|missing| *missing <= before) {
            return Ok(start);
        }
        let path = directory.segment_file(SegmentFile::Tiles(before));
        let bytes = crate::disk::read_small(disk, &path, MAX_TILES_BYTES)?;
        let tiles = bytes.and_then(|bytes| Tiles::decode(bytes, before).ok());
        let inventory = Inventory::of_findings(&self.header, self.sealed, self.last, Vec::new());
        Ok(tiles.map_or(start, |tiles| tail_behind(&inventory, &tiles)))
    }
}

/// The valid slots of these files.
///
/// # Errors
/// [`LogError::Disk`].
pub(crate) fn read_slots(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segments: std::ops::RangeInclusive<SegmentNumber>,
) -> Result<Vec<Slot>, LogError> {
    let mut slots = Vec::new();
    for segment in (segments.start().get()..=segments.end().get()).map(SegmentNumber::new) {
        let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
        slots.extend(read_ring(file.as_ref(), segment)?.0);
    }
    Ok(slots)
}

/// The newest slot. The mark of a clean stop says what the confirming slot before it said: where that
/// slot cannot be read, the mark stands for it, and nothing was written since it was made.
fn newest_of(slots: &[Slot], clean: Option<CleanMark>) -> Option<Slot> {
    let committed = slots.iter().map(|slot| slot.committed).max().unwrap_or(RaftIndex::new(0));
    let marked = clean.map(|CleanMark { group, segment, end }| Slot { segment, group, start: end, end, committed });
    marked.into_iter().chain(slots.iter().copied()).max_by_key(|slot| slot.group)
}

/// Up to where a slot, or that the files before are sealed, proves frames to have been durable.
fn durable_end(sealed: SegmentNumber, newest: Option<&Slot>) -> DurableEnd {
    newest.map_or(DurableEnd { segment: sealed, offset: FRAMES_START }, |slot| DurableEnd {
        segment: slot.segment,
        offset: slot.end,
    })
}

/// Examines the unsealed files, all of which are there; `start` is the tail behind the last sealed one.
///
/// # Errors
/// [`LogError::Disk`], [`LogError::Version`].
pub(crate) fn examine(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    start: Tail,
    (slots, clean): (Vec<Slot>, Option<CleanMark>),
) -> Result<Examination, LogError> {
    let newest = newest_of(&slots, clean);
    let end = durable_end(inventory.sealed, newest.as_ref());
    for segment in (inventory.sealed.get()..=inventory.last.get()).map(SegmentNumber::new) {
        if file_header(disk, directory, segment)? != HeaderFinding::Good {
            // A file is born with its header, before anything that it holds.
            let end = if segment > end.segment { DurableEnd { segment, offset: FRAMES_START } } else { end };
            let needed = needed_ranges(disk, directory, start, end)?;
            return Ok(rotten(newest, needed));
        }
    }
    let (tail, bad) = find_end(disk, directory, inventory, start, newest.as_ref())?;
    let first = if bad.is_some() { FirstPlace::Bad } else { FirstPlace::Sound };
    let own = slots.iter().chain(&newest).any(|slot| slot.segment == tail.segment);
    // Where the segment before has ended and the file of the next is not born, there is nothing to be told.
    let own = if own || tail.segment > inventory.last { Newest::Readable } else { Newest::NoSlot };
    let evidence = evidence(&tail, Told { newest: newest.as_ref(), own }, clean, first);
    let outcome = evidence.outcome();
    let fault = bad.flatten();
    let here = Needed { ranges: Vec::new(), sound: tail, tail };
    match outcome {
        Outcome::EndsHere => {
            let standing = Standing::MayVote;
            Ok(Examination { tail, newest, evidence, outcome, fault, standing, needed: here })
        }
        Outcome::Rot => {
            let mut needed = needed_ranges(disk, directory, start, end)?;
            if needed.ranges.is_empty() {
                needed.ranges.push(behind_the_end(disk, directory, &tail, evidence.mark)?);
            }
            let standing = Standing::MayNotVote(needed.ranges.clone());
            Ok(Examination { tail, newest, evidence, outcome, fault, standing, needed })
        }
        Outcome::InDoubt | Outcome::InDoubtCommitted => {
            let range = doubtful(disk, directory, &tail, end)?;
            let without_offer = if outcome == Outcome::InDoubt { WithoutOffer::Cut } else { WithoutOffer::Wait };
            let mut needed = match without_offer {
                WithoutOffer::Cut => here,
                WithoutOffer::Wait => needed_ranges(disk, directory, start, end)?,
            };
            if needed.ranges.is_empty() {
                needed.ranges.push(range);
            }
            let standing = Standing::MustAsk { range, without_offer };
            Ok(Examination { tail, newest, evidence, outcome, fault, standing, needed })
        }
    }
}

/// Files that are missing or do not say what they are: rot, whatever the ring says, if it says anything.
fn rotten(newest: Option<Slot>, needed: Needed) -> Examination {
    let (first_bad, mark, entry) = (FirstBad::BelowStart, Mark::Differs, BadEntry::Unknown);
    let evidence = Evidence { first_bad, newest: Newest::Readable, mark, entry };
    let standing = Standing::MayNotVote(needed.ranges.clone());
    Examination { tail: needed.sound, newest, evidence, outcome: evidence.outcome(), fault: None, standing, needed }
}

/// What is known about the place behind the tail.
pub(super) fn evidence(tail: &Tail, told: Told<'_>, clean: Option<CleanMark>, first: FirstPlace) -> Evidence {
    let Told { newest, own } = told;
    let place = (tail.segment, tail.offset);
    let matches = newest.is_some_and(|slot| {
        clean == Some(CleanMark { group: slot.group, segment: slot.segment, end: slot.end }) && slot.start == slot.end
    });
    let below_start = newest.is_some_and(|slot| place < (slot.segment, slot.start));
    let committed = newest.is_some_and(|slot| tail.next_index < slot.committed);
    Evidence {
        first_bad: match first {
            FirstPlace::Sound => FirstBad::Nowhere,
            FirstPlace::Bad if below_start => FirstBad::BelowStart,
            FirstPlace::Bad => FirstBad::AtOrBehindStart,
        },
        newest: own,
        mark: if matches { Mark::Matches } else { Mark::Differs },
        entry: if committed { BadEntry::Committed } else { BadEntry::Unknown },
    }
}

/// From the tail up to where the newest slot says that its group ends.
fn doubtful(disk: &dyn Disk, directory: &LogDirectory, tail: &Tail, end: DurableEnd) -> Result<NeededRange, LogError> {
    let (segment, from) = (tail.segment, tail.offset);
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::ReadDirect)?;
    let own = FrameScanner::new(file.as_ref()).header_at(segment, from)?;
    let follows = own.filter(|(header, _)| header.link == tail.link && header.index == tail.next_index);
    let to = (segment == end.segment && end.offset > from).then_some(end.offset);
    Ok(NeededRange {
        segment,
        from,
        to: follows.map(|(header, _)| Offset::new(from.get() + header.frame_len(tail.alignment))).or(to),
        first_index: tail.next_index,
        end_index: follows.map(|_| tail.next_index.next()),
        first_leaf: tail.leaves.next_leaf(),
        identified_by: if follows.is_some() { IdentifiedBy::OwnHeader } else { IdentifiedBy::Nothing },
    })
}

/// What may stand behind the last sound frame: something where nothing was written behind a clean stop, or what
/// a lost ring no longer tells of.
fn behind_the_end(disk: &dyn Disk, directory: &LogDirectory, tail: &Tail, mark: Mark) -> Result<NeededRange, LogError> {
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(tail.segment)), Access::Read)?;
    Ok(NeededRange {
        segment: tail.segment,
        from: tail.offset,
        to: match mark {
            Mark::Matches => Some(Offset::new(file.status()?.len.max(tail.offset.get() + HEADER_BYTES as u64))),
            Mark::Differs => None,
        },
        first_index: tail.next_index,
        end_index: (mark == Mark::Matches).then_some(tail.next_index),
        first_leaf: tail.leaves.next_leaf(),
        identified_by: IdentifiedBy::Nothing,
    })
}

impl Examination {
    /// Why a log that nobody else holds is not written.
    pub(crate) fn refusal(&self) -> LogError {
        LogError::Damaged(self.damage())
    }

    /// The first damage, with how much there is in all and what to do.
    pub(crate) fn damage(&self) -> Damage {
        let ranges = &self.needed.ranges;
        let known: u64 = ranges.iter().filter_map(NeededRange::byte_len).sum();
        let at_least = if ranges.iter().all(|range| range.to.is_some()) { "" } else { "at least " };
        let places = if ranges.len() == 1 { "place" } else { "places" };
        let in_all = format!("{} {places} with {at_least}{known} bytes damaged in all", ranges.len());
        match ranges.first().filter(|range| range.from < FRAMES_START) {
            Some(range) => {
                let what = match range.to {
                    Some(_) => "the file header is damaged",
                    None => "the segment file is missing, or another one is in its place",
                };
                range.damage(format!("{what}; {in_all}; {REMEDY}"))
            }
            None => Damage {
                file: relative(SegmentFile::Frames(self.tail.segment)),
                offset: self.tail.offset.get(),
                leaf: Some(self.tail.leaves.next_leaf()),
                what: format!("{}; {in_all}; {REMEDY}", rot_sentence(self.fault, self.evidence)),
            },
        }
    }
}

/// What an operator does about damage.
pub(crate) const REMEDY: &str =
    "`stele repair --from COPY` restores it from a copy of the log; reading what is sound goes on";

/// What is wrong at the first bad place, and why it is rot.
pub(super) fn rot_sentence(fault: Option<FrameFault>, evidence: Evidence) -> String {
    if evidence.newest == Newest::NoSlot {
        let what = fault.map_or_else(String::new, |fault| format!("{fault}, and "));
        return format!("{what}the flush ring, which tells what was durable, holds no slot: the file has rotted");
    }
    let why = match evidence {
        Evidence { mark: Mark::Matches, .. } => "the log was closed cleanly behind it",
        Evidence { first_bad: FirstBad::BelowStart, .. } => "it was durable",
        _ => "it was committed",
    };
    let what = fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
    format!("{what}, and {why}: the file has rotted")
}
