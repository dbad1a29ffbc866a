//! What every file of the log must hold, frame by frame, as far as the two logs tell.
//!
//! | at the place of the next frame | and | taken |
//! |---|---|---|
//! | this log's frame is good and links | - | it |
//! | it is not, and the flush ring, the clean mark or a later file prove that one was durable | the copy's is good and links | the copy's |
//! | | the copy's is not, either | nothing: the file is not restored |
//! | it is not, and nothing proves it | the copy has none, either | here the log ends |
//! | | the copy's is good and links, and this log's ring rules it out | here the log ends |
//! | | the copy's is good and links, and is identified | the copy's |
//! | | the copy's is good and links, and is not | nothing: the file is not restored |
//!
//! What is taken from the copy must be *identified*: by the header of this log's own frame, which outlived its
//! body; by a frame of this log that links behind it; or, where nothing of this log follows, by a signed root
//! or by the same end of both logs. A copy that went another way since is found out by that, except where both
//! ended after as many starts and groups at the same byte, and no root was signed.
//!
//! Where this log ended is told by [`super::ends`]; a file in which nobody knows it is left as it is.
//!
//! Known holes: where the copy lacks a frame that nothing proves durable (behind the newest slot's start, after a
//! kill), its successor is not looked for; a read error of the disk ends the repair.

use std::collections::{BTreeMap, BTreeSet};

use stele_proof::LeafIndex;

use crate::directory::{Inventory, relative};
use crate::disk::{DiskFile, Mode, read_small, read_up_to};
use crate::error::{Damage, LogError};
use crate::frame::{FrameFault, HEADER_BYTES, Placed, Tail};
use crate::number::{RaftIndex, SegmentNumber};
use crate::reader::{MAX_TILES_BYTES, tail_behind};
use crate::recovery::table::Newest;
use crate::recovery::{Told, decide};
use crate::ring::Slot;
use crate::scan::FrameScanner;
use crate::segment::{FRAMES_START, FileHeader, LeafRange, PAGE_BYTES, RING_SLOTS, RING_START, SegmentFile};
use crate::tiles::Tiles;
use crate::verify::survey::first_unsealed;

use super::ends::{Ends, GO_ON_WITH_COPY};
use super::payloads::{Part, Payloads};
use super::source::{Found, Source, frame, standing_header};

/// Bytes that were bad or missing and have been restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The first byte.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// The records that they hold; none where they hold no record.
    pub leaves: LeafRange,
}

impl Restored {
    /// A range that holds no record.
    pub(super) const fn without_records(from: u64, to: u64) -> Self {
        Self { from, to, leaves: LeafRange { first: LeafIndex::new(0), end: LeafIndex::new(0) } }
    }
}

/// What is written over a range.
#[derive(Clone, Debug)]
pub(super) enum Fill {
    /// That many bytes of the copy, from the same place.
    Copy(u64),
    /// That many zeros.
    Zeros(u64),
    /// These bytes.
    Bytes(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub(super) at: u64,
    pub(super) fill: Fill,
}

/// A file that is to be built: what this log's own file holds, cut or extended to `len`, and patched.
#[derive(Clone, Debug)]
pub(super) struct Rebuild {
    pub(super) len: u64,
    pub(super) mode: Mode,
    pub(super) patches: Vec<Patch>,
    pub(super) restored: Vec<Restored>,
}

/// Frames of the copy behind which nothing of this log has followed so far.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The segments they lie in.
    pub(super) segments: BTreeSet<SegmentNumber>,
    /// The leaves up to their end.
    pub(super) end: LeafIndex,
    /// Whether both logs were left at the same end.
    pub(super) same_end: bool,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) files: BTreeMap<SegmentFile, Rebuild>,
    /// Payload files that no frame names.
    pub(super) unnamed: BTreeSet<SegmentFile>,
    /// What cannot be restored.
    pub(super) lost: Vec<Damage>,
    /// The last run, where nothing of this log follows it.
    pub(super) unidentified: Option<Run>,
}

/// Makes the plan. In `suspects` the copy's frames are preferred.
pub(super) struct Planner<'a> {
    own: &'a Source<'a>,
    copy: &'a Source<'a>,
    header: FileHeader,
    ends: Ends,
    copy_ends: Ends,
    /// The segments before this one are sealed.
    sealed: SegmentNumber,
    last: SegmentNumber,
    suspects: &'a BTreeSet<SegmentNumber>,
    tail: Tail,
    run: Option<Run>,
    plan: Plan,
}

/// The frame that is taken, or why none is.
enum Choice {
    Own(Box<Placed>, Vec<u8>),
    /// Whether this log's own header says that it is that frame.
    Copy(Box<Placed>, Vec<u8>, Header),
    End,
    Lost(Damage),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Header {
    Same,
    Gone,
}

/// The files of the segment at hand.
struct Pair<'f> {
    own: Option<(&'f dyn DiskFile, FrameScanner<'f>)>,
    copy: Option<FrameScanner<'f>>,
}

/// How far the frames of a segment went, and those that are the copy's.
struct Walked {
    end: u64,
    ended: bool,
    leaves: LeafRange,
    taken: Vec<Restored>,
    payloads: BTreeMap<crate::segment::PayloadPart, Part>,
}

impl<'a> Planner<'a> {
    /// Looks at both logs.
    ///
    /// # Errors
    /// [`LogError`]; [`LogError::Damaged`] where no file of either has a readable header.
    pub(super) fn new(
        own: &'a Source<'a>,
        copy: &'a Source<'a>,
        suspects: &'a BTreeSet<SegmentNumber>,
    ) -> Result<Self, LogError> {
        let header = match own.geometry()? {
            Some(header) => Some(header),
            None => copy.geometry()?,
        };
        let what = "no segment file has a readable header, here and in the copy";
        let header = header.ok_or_else(|| LogError::damaged("segments", 0, None, what))?;
        let ends = Ends::read(own)?;
        let segments: BTreeSet<SegmentNumber> = own.segments().collect();
        let sealed = first_unsealed(own.disk, own.directory, &segments)?;
        let marked = ends.clean().map(|mark| mark.segment);
        let last = segments.last().copied().max(marked).unwrap_or(SegmentNumber::new(0));
        let copy_ends = Ends::read(copy)?;
        let tail = Tail::start(header.alignment, header.height);
        Ok(Self { own, copy, header, ends, copy_ends, sealed, last, suspects, tail, run: None, plan: Plan::default() })
    }

    /// Walks both logs side by side.
    ///
    /// # Errors
    /// [`LogError`] of a failed call.
    pub(super) fn run(mut self) -> Result<Plan, LogError> {
        self.plan.lost.extend(self.ends.lost());
        while self.tail.segment <= self.last && self.ends.lost_segment() != Some(self.tail.segment) {
            let segment = self.tail.segment;
            let before = self.tail;
            let lost = self.plan.lost.len();
            let walked = self.segment()?;
            if self.plan.lost.len() > lost {
                if !self.go_on_behind(before)? {
                    break;
                }
                continue;
            }
            self.payloads(segment, &walked)?;
            self.frames(segment, &walked)?;
            if !walked.ended {
                break;
            }
        }
        let same_end = self.ends.is_same(&self.copy_ends);
        self.plan.unidentified = self.run.take().map(|run| Run { same_end, ..run });
        Ok(self.plan)
    }

    /// Walks the frames of the segment at hand.
    fn segment(&mut self) -> Result<Walked, LogError> {
        let segment = self.tail.segment;
        let name = SegmentFile::Frames(segment);
        let (own, copy) = (self.own.open(name)?, self.copy.open(name)?);
        let mut pair = Pair {
            own: own.as_deref().map(|file| (file, FrameScanner::new(file))),
            copy: copy.as_deref().map(FrameScanner::new),
        };
        let mut payloads = Payloads::of(self.own, self.copy, segment, self.header.alignment);
        let leaves = LeafRange { first: self.tail.leaves.next_leaf(), end: self.tail.leaves.next_leaf() };
        let (end, payload_parts) = (FRAMES_START.get(), BTreeMap::new());
        let mut walked = Walked { end, ended: false, leaves, taken: Vec::new(), payloads: payload_parts };
        while self.tail.segment == segment {
            let (placed, body) = match self.choose(&mut pair)? {
                Choice::End => break,
                Choice::Lost(damage) => {
                    self.plan.lost.push(damage);
                    // What leads up to a place that neither has is not known to be this log's.
                    self.drop_run();
                    return Ok(walked);
                }
                Choice::Own(placed, body) => {
                    self.run = None;
                    (placed, body)
                }
                Choice::Copy(placed, body, header) => {
                    self.take(&placed, header, &mut walked.taken);
                    (placed, body)
                }
            };
            payloads.frame(&placed, &body, &self.header)?;
            walked.end = placed.offset.get() + placed.header.frame_len(self.header.alignment);
            self.tail.advance(&placed);
        }
        walked.ended = self.tail.segment > segment;
        walked.leaves.end = self.tail.leaves.next_leaf();
        walked.payloads = payloads.finish();
        Ok(walked)
    }

    fn take(&mut self, placed: &Placed, header: Header, taken: &mut Vec<Restored>) {
        let from = placed.offset.get();
        let to = from + placed.header.frame_len(self.header.alignment);
        let leaves = LeafRange { first: placed.header.first_leaf, end: placed.header.leaves_after().next_leaf() };
        match taken.last_mut() {
            Some(last) if last.to == from => (last.to, last.leaves.end) = (to, leaves.end),
            _ => taken.push(Restored { from, to, leaves }),
        }
        if header == Header::Same {
            self.run = None;
            return;
        }
        let run = self.run.get_or_insert_with(|| Run { segments: BTreeSet::new(), end: leaves.end, same_end: false });
        run.segments.insert(placed.segment);
        run.end = leaves.end;
    }

    fn drop_run(&mut self) {
        for segment in self.run.take().map(|run| run.segments).unwrap_or_default() {
            self.plan.files.retain(|file, _| match file {
                SegmentFile::Frames(of)
                | SegmentFile::Payloads(of, _)
                | SegmentFile::Tiles(of)
                | SegmentFile::Hashes(of) => *of != segment,
            });
        }
    }

    /// The frame at the tail: the table of the module documentation.
    fn choose(&self, pair: &mut Pair<'_>) -> Result<Choice, LogError> {
        let tail = &self.tail;
        let own = match &mut pair.own {
            Some((_, scanner)) => frame(scanner, tail)?,
            None => Found::Bad(None),
        };
        let fault = match own {
            Found::Good(placed, body) if !self.suspects.contains(&tail.segment) => {
                return Ok(Choice::Own(placed, body));
            }
            Found::Good(placed, body) => return self.suspect(pair, placed, body),
            Found::Bad(fault) => fault,
        };
        let theirs = match &mut pair.copy {
            Some(scanner) => frame(scanner, tail)?,
            None => Found::Bad(None),
        };
        let standing = match &pair.own {
            Some((file, _)) => standing_header(*file, tail)?,
            None => None,
        };
        if !self.was_durable(fault) {
            return self.in_doubt(pair, fault, theirs, standing.as_ref());
        }
        Ok(match theirs {
            Found::Good(placed, body) if standing == Some(placed.bytes) => Choice::Copy(placed, body, Header::Same),
            Found::Good(..) if standing.is_some() && self.run.is_some() => {
                Choice::Lost(self.lost(
                    "the frames of the copy do not lead to those of this log: it is a copy that went another way",
                ))
            }
            Found::Good(placed, body) => Choice::Copy(placed, body, Header::Gone),
            Found::Bad(theirs) => Choice::Lost(self.lost(&both(fault, theirs, pair.copy.is_some()))),
        })
    }

    /// What becomes of a place of which nothing proves that a frame was durable there.
    fn in_doubt(
        &self,
        pair: &mut Pair<'_>,
        fault: Option<FrameFault>,
        theirs: Found,
        standing: Option<&[u8; HEADER_BYTES]>,
    ) -> Result<Choice, LogError> {
        if self.ends.ends_before(&self.tail) {
            return Ok(Choice::End);
        }
        let what = match theirs {
            Found::Good(placed, body) if standing == Some(&placed.bytes) => {
                return Ok(Choice::Copy(placed, body, Header::Same));
            }
            Found::Good(placed, body)
                if self.ends.is_in_newest_group(&self.tail) && self.ends.is_same(&self.copy_ends) =>
            {
                return Ok(Choice::Copy(placed, body, Header::Gone));
            }
            Found::Good(..) => {
                "the copy goes on here, and nothing of this log tells whether that was acknowledged or is of a log that \
                 went another way"
            }
            Found::Bad(_) if self.ends.is_ring_rotten() && self.stands_behind(pair, fault)? => {
                "the flush ring is damaged, so nothing tells where the log ended, and the copy has nothing here, either"
            }
            Found::Bad(_) => return Ok(Choice::End),
        };
        Ok(Choice::Lost(self.lost(&format!("{what}: the file was left as it is; {GO_ON_WITH_COPY}"))))
    }

    /// Whether something that is no frame stands at the tail or behind it.
    fn stands_behind(&self, pair: &mut Pair<'_>, fault: Option<FrameFault>) -> Result<bool, LogError> {
        Ok(match &mut pair.own {
            _ if fault.is_some() => true,
            Some((_, scanner)) => scanner.non_zero_from(self.tail.offset.get())?,
            None => false,
        })
    }

    /// Where this log's frames are good by themselves and do not add up, the copy's come first.
    fn suspect(&self, pair: &mut Pair<'_>, own: Box<Placed>, own_body: Vec<u8>) -> Result<Choice, LogError> {
        let theirs = match &mut pair.copy {
            Some(scanner) => frame(scanner, &self.tail)?,
            None => Found::Bad(None),
        };
        Ok(match theirs {
            Found::Good(placed, body) if placed.bytes != own.bytes || body != own_body => {
                Choice::Copy(placed, body, Header::Gone)
            }
            Found::Good(..) | Found::Bad(_) => Choice::Own(own, own_body),
        })
    }

    /// Whether there once was a durable frame at the tail.
    fn was_durable(&self, fault: Option<FrameFault>) -> bool {
        let tail = &self.tail;
        if tail.segment < self.last || tail.segment < self.sealed {
            return true;
        }
        match self.ends.clean() {
            Some(mark) => (tail.segment, tail.offset) < (mark.segment, mark.end),
            None => {
                let newest = self.ends.newest.as_ref();
                let own = newest.map_or(Newest::NoSlot, |_slot| Newest::Readable);
                decide(tail, Told { newest, own }, None, fault).is_err()
            }
        }
    }

    fn lost(&self, what: &str) -> Damage {
        Damage {
            file: relative(SegmentFile::Frames(self.tail.segment)),
            offset: self.tail.offset.get(),
            leaf: Some(self.tail.leaves.next_leaf()),
            what: what.to_owned(),
        }
    }

    /// Moves behind a segment that cannot be restored, by its sidecar in either log.
    fn go_on_behind(&mut self, before: Tail) -> Result<bool, LogError> {
        for source in [self.own, self.copy] {
            let path = source.directory.segment_file(SegmentFile::Tiles(before.segment));
            let Some(bytes) = read_small(source.disk, &path, MAX_TILES_BYTES)? else { continue };
            let Ok(tiles) = Tiles::decode(bytes, before.segment) else { continue };
            if (tiles.leaves().first, tiles.first_index()) == (before.leaves.next_leaf(), before.next_index) {
                let inventory = Inventory::of_findings(&self.header, self.sealed, self.last, Vec::new());
                self.tail = tail_behind(&inventory, &tiles);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What becomes of the payload files of a segment.
    fn payloads(&mut self, segment: SegmentNumber, walked: &Walked) -> Result<(), LogError> {
        let sealed = self.becomes_sealed(segment, walked);
        for (number, part) in &walked.payloads {
            let name = SegmentFile::Payloads(segment, *number);
            if !part.lost.is_empty() {
                self.plan.lost.extend(part.lost.iter().cloned());
                continue;
            }
            let own_len = part.own_len()?;
            let bad_len = if sealed { own_len != part.len } else { own_len < part.len };
            if !part.is_missing() && part.patches.is_empty() && !bad_len {
                continue;
            }
            let mode = if sealed { Mode::Sealed } else { Mode::Private };
            let (patches, mut restored) = (part.patches.clone(), merged(&part.restored));
            if restored.is_empty() {
                restored.push(Restored::without_records(own_len.min(part.len), own_len.max(part.len)));
            }
            self.plan.files.insert(name, Rebuild { len: part.len, mode, patches, restored });
        }
        if sealed {
            let unnamed = self.own.files.iter().filter(|file| match file {
                SegmentFile::Payloads(of, part) => *of == segment && !walked.payloads.contains_key(part),
                SegmentFile::Frames(_) | SegmentFile::Tiles(_) | SegmentFile::Hashes(_) => false,
            });
            self.plan.unnamed.extend(unnamed);
        }
        Ok(())
    }

    /// Whether a segment is sealed, or will be: one that is missing and had ended, where all before it are.
    fn becomes_sealed(&self, segment: SegmentNumber, walked: &Walked) -> bool {
        let missing = !self.own.files.contains(&SegmentFile::Frames(segment));
        let next_sealed = (self.sealed.get()..segment.get())
            .all(|before| !self.own.files.contains(&SegmentFile::Frames(SegmentNumber::new(before))));
        segment < self.sealed || (missing && walked.ended && next_sealed)
    }

    /// What becomes of a segment file.
    fn frames(&mut self, segment: SegmentNumber, walked: &Walked) -> Result<(), LogError> {
        let name = SegmentFile::Frames(segment);
        let sealed = self.becomes_sealed(segment, walked);
        let own = self.own.open(name)?;
        let page = self.header_page(segment);
        let mut restored = Vec::new();
        let mut patches = Vec::new();
        let head = match &own {
            Some(file) => read_up_to(file.as_ref(), 0, page.len())?,
            None => Vec::new(),
        };
        if head != page {
            patches.push(Patch { at: 0, fill: Fill::Bytes(page.to_vec()) });
            restored.push(Restored::without_records(0, PAGE_BYTES as u64));
        }
        self.ring(segment, own.as_deref(), sealed, &mut patches, &mut restored)?;
        for taken in &walked.taken {
            patches.push(Patch { at: taken.from, fill: Fill::Copy(taken.to - taken.from) });
        }
        restored.extend(&walked.taken);
        let own_len = match &own {
            Some(file) => file.status()?.len,
            None => 0,
        };
        let behind = match &own {
            Some(_) if sealed => own_len > walked.end,
            // A torn last group is no damage: recovery cuts it.
            Some(file) if !walked.ended && self.ends.clean().is_some() => {
                FrameScanner::new(file.as_ref()).non_zero_from(walked.end)?
            }
            _ => false,
        };
        if behind {
            restored.push(Restored::without_records(walked.end, own_len));
        }
        if own.is_none() {
            restored = vec![Restored { from: 0, to: walked.end, leaves: walked.leaves }];
        }
        if restored.is_empty() {
            return Ok(());
        }
        let mode = if sealed { Mode::Sealed } else { Mode::Private };
        self.plan.files.insert(name, Rebuild { len: walked.end, mode, patches, restored });
        Ok(())
    }

    fn header_page(&self, segment: SegmentNumber) -> [u8; PAGE_BYTES] {
        FileHeader { segment, part: None, ..self.header }.encode()
    }

    /// The flush ring of a sealed file is zero; that of another one is its own, never the copy's. What is
    /// unreadable in it proves nothing, and becomes zeros; the slot of a clean stop is what the mark says.
    fn ring(
        &self,
        segment: SegmentNumber,
        own: Option<&dyn DiskFile>,
        sealed: bool,
        patches: &mut Vec<Patch>,
        restored: &mut Vec<Restored>,
    ) -> Result<(), LogError> {
        let bytes = match own {
            Some(file) => read_up_to(file, RING_START, PAGE_BYTES * RING_PAGES)?,
            None => Vec::new(),
        };
        let mark = self.ends.clean().filter(|mark| mark.segment == segment && !sealed);
        for (number, at) in (0..RING_SLOTS).zip((RING_START..).step_by(PAGE_BYTES)) {
            let from = PAGE_BYTES * usize::try_from(number).unwrap_or(0);
            let page = bytes.get(from..from + PAGE_BYTES);
            let slot = page.and_then(|page| Slot::decode(page, segment)).filter(|slot| Slot::place(slot.group) == at);
            let closing = mark.filter(|mark| Slot::place(mark.group) == at).map(|mark| Slot {
                segment,
                group: mark.group,
                start: mark.end,
                end: mark.end,
                committed: slot.map_or(RaftIndex::new(0), |slot| slot.committed),
            });
            let wanted = match (closing, slot) {
                (Some(closing), Some(slot)) if is_closing(&slot, &closing) => Some(slot),
                (Some(closing), _) => Some(closing),
                (None, slot) => slot.filter(|_| !sealed),
            };
            let wanted = wanted.map_or([0; PAGE_BYTES], |slot| slot.encode());
            // An unreadable page that is the trace of a kill is cleared with the rest, and no damage by itself.
            let torn = !sealed && mark.is_none() && self.is_torn(segment, at);
            if page == Some(&wanted) {
                continue;
            }
            if own.is_some() && !torn {
                restored.push(Restored::without_records(at, at + PAGE_BYTES as u64));
            }
            patches.push(Patch { at, fill: Fill::Bytes(wanted.to_vec()) });
        }
        Ok(())
    }

    /// Whether the group behind the newest would have its slot there.
    fn is_torn(&self, segment: SegmentNumber, at: u64) -> bool {
        self.ends.newest.is_some_and(|slot| slot.segment == segment && Slot::place(slot.group.next()) == at)
    }
}

const RING_PAGES: usize = 3;
const _: () = assert!(RING_SLOTS == RING_PAGES as u64);

fn is_closing(slot: &Slot, closing: &Slot) -> bool {
    (slot.group, slot.start, slot.end) == (closing.group, closing.start, closing.end)
}

/// Neighbours made one.
fn merged(ranges: &[Restored]) -> Vec<Restored> {
    let mut merged: Vec<Restored> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.to == range.from && last.leaves.end == range.leaves.first => {
                (last.to, last.leaves.end) = (range.to, range.leaves.end);
            }
            _ => merged.push(*range),
        }
    }
    merged
}

fn both(own: Option<FrameFault>, theirs: Option<FrameFault>, exists: bool) -> String {
    let told =
        |fault: Option<FrameFault>| fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
    let theirs = if exists { told(theirs) } else { "the file is missing".to_owned() };
    format!("{}; in the copy, too: {theirs}", told(own))
}
