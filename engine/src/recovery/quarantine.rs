//! Quarantine: what a damaged log lacks, found without writing anything.
//!
//! Rot is kept, never cut, and a node with rot does not vote. So that it can fetch what it lacks,
//! reading goes on behind the damage, as far as the newest slot's `end` proves that frames were durable:
//! - a frame whose body is bad and whose header is good and follows the frame before tells its own
//!   extent, and the frames behind it link to its header;
//! - behind a bad header, the next frame of this file with a good header is looked for, place by place,
//!   in pieces of bounded size; its link is the checksum of the last header that is missing;
//! - a file that is missing, or is another one, is missing as a whole.
//!
//! There are at most as many ranges as frames; they do not overlap and stand in the log's order.

use std::io;

use stele_proof::{LeafIndex, TreeSize};

use crate::directory::{LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk};
use crate::error::{Damage, LogError};
use crate::frame::{EntryKind, FrameHeader, HEADER_BYTES, Tail, stored_checksum};
use crate::number::{Offset, RaftIndex, SegmentNumber};
use crate::scan::{FrameScanner, Seen};
use crate::segment::{FRAMES_START, PAGE_BYTES, PAYLOADS_START, PayloadPart, SegmentFile};

/// Whether a node may vote and acknowledge with the log as it lies there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Every frame that was ever durable here is there.
    MayVote,
    /// The last group is in doubt: all peers are asked for it first.
    MustAsk {
        /// From the first bad place on.
        range: NeededRange,
        /// What to do where all have answered, or the wait is over, and none offers it.
        without_offer: WithoutOffer,
    },
    /// Frames that were durable have rotted: no vote, no acknowledgement, no "I do not have it", until
    /// these ranges have been restored. Everything else of the log goes on being read.
    MayNotVote(Vec<NeededRange>),
}

/// What becomes of a doubtful last group that nobody offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithoutOffer {
    /// It was not acknowledged, and is cut.
    Cut,
    /// It is known to be committed: the node waits on.
    Wait,
}

/// Bytes of a segment file that must be restored from another holder of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeededRange {
    /// Which segment.
    pub segment: SegmentNumber,
    /// The first byte.
    pub from: Offset,
    /// One past the last byte, where it is known; it may lie behind the end of a truncated file.
    pub to: Option<Offset>,
    /// No sound entry before the range has this index or a higher one: the first that may lie in it.
    pub first_index: RaftIndex,
    /// One past the last entry that lies in it, where that is known; `first_index` where only bytes
    /// are wrong and no entry is missing.
    pub end_index: Option<RaftIndex>,
    /// The first record that may lie in it.
    pub first_leaf: LeafIndex,
    /// How an offer can be told to be the right one.
    pub identified_by: IdentifiedBy,
}

/// How it is known what belongs into a range. Where only [`IdentifiedBy::Nothing`] is, an offer counts
/// only as committed by an elected leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentifiedBy {
    /// One frame, whose own header is good: the body must have its checksum.
    OwnHeader,
    /// The next sound frame links to the header of the last frame of the range, and that to those
    /// before it, also to those of ranges that end where this one begins.
    NextLink,
    /// It is a file header, which follows from the segment's number and the log's settings.
    Settings,
    /// By nothing that lies here.
    Nothing,
}

impl NeededRange {
    /// Bytes of the range, where its end is known.
    pub fn byte_len(&self) -> Option<u64> {
        self.to.map(|to| to.get().saturating_sub(self.from.get()))
    }

    /// The range as a finding.
    pub(crate) fn damage(&self, what: String) -> Damage {
        let file = relative(SegmentFile::Frames(self.segment));
        Damage { file, offset: self.from.get(), leaf: Some(self.first_leaf), what }
    }
}

/// What a walk over damage found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Needed {
    /// What must be restored.
    pub(crate) ranges: Vec<NeededRange>,
    /// The tail before the first range.
    pub(crate) sound: Tail,
    /// The tail behind everything; what it says of leaves and indexes is a lower bound where the last
    /// range has no known end.
    pub(crate) tail: Tail,
}

impl Needed {
    /// How many records were durable, where that is known.
    pub(crate) fn size(&self) -> Option<TreeSize> {
        let known = self.ranges.last().is_none_or(|range| range.end_index.is_some());
        known.then_some(self.tail.leaves)
    }
}

/// How far frames are known to have been durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DurableEnd {
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: Offset,
}

/// Collects every range between the tail and the durable end that does not hold what it held.
///
/// # Errors
/// [`LogError::Disk`] of a failed call; [`LogError::Version`].
pub(crate) fn needed_ranges(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: Tail,
    end: DurableEnd,
) -> Result<Needed, LogError> {
    let known = Known { link: LinkBefore::Known, payloads: PayloadsBefore::Known };
    let mut walk = Walk { disk, directory, tail: start, known, sound: None, ranges: Vec::new() };
    for segment in (start.segment.get()..=end.segment.get()).map(SegmentNumber::new) {
        let bound = (segment == end.segment).then_some(end.offset);
        walk.segment(segment, bound)?;
    }
    Ok(Needed { ranges: walk.ranges, sound: walk.sound.unwrap_or(walk.tail), tail: walk.tail })
}

/// Whether the last header before the tail is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LinkBefore {
    Known,
    Missing,
}

/// Whether the end of the payloads before the tail is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PayloadsBefore {
    Known,
    Missing,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    link: LinkBefore,
    payloads: PayloadsBefore,
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    directory: &'a LogDirectory,
    /// Behind the last frame whose header is known.
    tail: Tail,
    known: Known,
    /// Where it was at the first damage.
    sound: Option<Tail>,
    ranges: Vec<NeededRange>,
}

impl Walk<'_> {
    /// Walks the frames of one file, up to `bound` or to its end.
    fn segment(&mut self, segment: SegmentNumber, bound: Option<Offset>) -> Result<(), LogError> {
        if self.tail.segment < segment {
            self.lose_end_of_segment();
        }
        let path = self.directory.segment_file(SegmentFile::Frames(segment));
        let file = match self.disk.open(&path, Access::ReadDirect) {
            Ok(file) => file,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                self.lose_file(segment);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        match file_header(self.disk, self.directory, segment)? {
            HeaderFinding::Good => {}
            HeaderFinding::Damaged => self.keep(NeededRange {
                from: Offset::new(0),
                to: Some(Offset::new(PAGE_BYTES as u64)),
                end_index: Some(self.tail.next_index),
                identified_by: IdentifiedBy::Settings,
                ..self.range_here(segment)
            }),
            HeaderFinding::OfAnotherFile => {
                self.lose_file(segment);
                return Ok(());
            }
        }
        let bound_or_len = match bound {
            Some(bound) => bound,
            None => Offset::new(file.status()?.len),
        };
        let mut scanner = FrameScanner::new(file.as_ref());
        while self.tail.segment == segment && self.tail.offset < bound_or_len {
            if !self.step(&mut scanner, bound_or_len)?.is_frame() {
                break;
            }
        }
        if let Some(bound) = bound.filter(|bound| self.tail.segment == segment && self.tail.offset < *bound) {
            let lost = NeededRange { to: Some(bound), ..self.range_here(segment) };
            self.keep(lost);
            self.tail.offset = bound;
        }
        Ok(())
    }

    /// Moves behind the next frame whose header is known; what is missing or bad before or in it is kept
    /// as a range.
    fn step(&mut self, scanner: &mut FrameScanner<'_>, bound: Offset) -> Result<Step, LogError> {
        let segment = self.tail.segment;
        let own = scanner.header_at(segment, self.tail.offset)?;
        if let (LinkBefore::Known, Some((header, bytes))) = (self.known.link, own) {
            if self.known.payloads == PayloadsBefore::Missing && header.payload.is_some() {
                self.take_payload_place(&header);
            }
            if let Seen::Frame(placed, _) = scanner.at(&self.tail)? {
                self.tail.advance(&placed);
                return Ok(Step::Frame);
            }
            if self.follows(&header) {
                self.lose_body(&header, &bytes);
                return Ok(Step::Frame);
            }
        }
        let alignment = self.tail.alignment;
        let from = self.tail.offset;
        let first = match self.known.link {
            LinkBefore::Known => Offset::new(from.get() + u64::from(alignment.get())),
            LinkBefore::Missing => from,
        };
        let tail = self.tail;
        let link = self.known.link;
        let found = scanner.next_header(segment, first..bound, alignment, |offset, header| {
            may_come_behind(&tail, link, offset, header)
        })?;
        let Some((offset, header)) = found else { return Ok(Step::NoMore) };
        self.go_on_at(offset, &header);
        Ok(Step::Frame)
    }

    /// Whether a frame with this good header can be the next one.
    fn follows(&self, header: &FrameHeader) -> bool {
        let tail = &self.tail;
        header.link == tail.link
            && header.index == tail.next_index
            && header.first_leaf == tail.leaves.next_leaf()
            && header.term >= tail.last_term
            && u64::from(header.leaf_count) <= tail.room_in_block()
    }

    /// The body of the next frame is bad, its header good.
    fn lose_body(&mut self, header: &FrameHeader, bytes: &[u8; HEADER_BYTES]) {
        let tail = self.tail;
        let to = Offset::new(tail.offset.get() + header.frame_len(tail.alignment));
        self.keep(NeededRange {
            to: Some(to),
            end_index: Some(tail.next_index.next()),
            identified_by: IdentifiedBy::OwnHeader,
            ..self.range_here(tail.segment)
        });
        if header.payload.is_some() {
            self.take_payload_place(header);
        }
        if let Some(place) = header.payload {
            self.tail.payload_offset = place.offset + place.len;
        }
        self.tail.next_index = tail.next_index.next();
        self.tail.last_term = header.term;
        self.tail.link = stored_checksum(bytes);
        self.tail.leaves = header.leaves_after();
        self.tail.offset = to;
        if ends_segment(&tail, header) {
            self.begin_segment(tail.segment.next());
            self.known.payloads = PayloadsBefore::Known;
        }
    }

    /// A good header stands at `offset`; what lies between it and the tail is missing.
    fn go_on_at(&mut self, offset: Offset, header: &FrameHeader) {
        let segment = self.tail.segment;
        if offset == self.tail.offset {
            if let Some(range) = self.ranges.iter_mut().rev().find(|range| range.end_index.is_none()) {
                range.end_index = Some(header.index);
                range.identified_by = IdentifiedBy::NextLink;
            }
        } else {
            self.keep(NeededRange {
                to: Some(offset),
                end_index: Some(header.index),
                identified_by: IdentifiedBy::NextLink,
                ..self.range_here(segment)
            });
        }
        self.tail.offset = offset;
        self.tail.link = header.link;
        self.tail.next_index = header.index;
        self.tail.last_term = header.term;
        self.tail.leaves = TreeSize::new(header.first_leaf.get());
        self.known = Known { link: LinkBefore::Known, payloads: PayloadsBefore::Missing };
    }

    /// Payloads of a frame begin where its header says, if nothing is known of those before.
    fn take_payload_place(&mut self, header: &FrameHeader) {
        if let Some(place) = header.payload {
            self.tail.payload_part = place.part;
            self.tail.payload_offset = place.offset;
            self.known.payloads = PayloadsBefore::Known;
        }
    }

    /// The tail's file should go on and does not: its last frames are missing.
    fn lose_end_of_segment(&mut self) {
        let lost = self.range_here(self.tail.segment);
        self.keep(lost);
        self.begin_segment(self.tail.segment.next());
        self.known = Known { link: LinkBefore::Missing, payloads: PayloadsBefore::Known };
    }

    fn lose_file(&mut self, segment: SegmentNumber) {
        let lost = NeededRange { from: Offset::new(0), ..self.range_here(segment) };
        self.keep(lost);
        self.begin_segment(segment.next());
        self.known = Known { link: LinkBefore::Missing, payloads: PayloadsBefore::Known };
    }

    fn begin_segment(&mut self, segment: SegmentNumber) {
        self.tail.segment = segment;
        self.tail.offset = FRAMES_START;
        self.tail.payload_part = PayloadPart::FIRST;
        self.tail.payload_offset = PAYLOADS_START;
    }

    fn keep(&mut self, range: NeededRange) {
        self.sound.get_or_insert(self.tail);
        self.ranges.push(range);
    }

    /// From the tail's place on, with nothing known of where it ends.
    fn range_here(&self, segment: SegmentNumber) -> NeededRange {
        NeededRange {
            segment,
            from: self.tail.offset,
            to: None,
            first_index: self.tail.next_index,
            end_index: None,
            first_leaf: self.tail.leaves.next_leaf(),
            identified_by: IdentifiedBy::Nothing,
        }
    }
}

/// Whether a step found a frame.
enum Step {
    Frame,
    NoMore,
}

impl Step {
    const fn is_frame(&self) -> bool {
        matches!(self, Self::Frame)
    }
}

/// Whether a frame with this header can stand at `offset` where frames behind the tail are missing.
fn may_come_behind(tail: &Tail, link: LinkBefore, offset: Offset, header: &FrameHeader) -> bool {
    let (Some(entries), Some(leaves)) =
        (header.index.get().checked_sub(tail.next_index.get()), header.first_leaf.get().checked_sub(tail.leaves.get()))
    else {
        return false;
    };
    // Every missing frame has taken some room, and this segment has not ended with any of them.
    let room = (offset.get() - tail.offset.get()) / u64::from(tail.alignment.get());
    let here = link == LinkBefore::Missing || (entries > 0 && entries <= room && leaves < tail.room_in_block());
    here && header.term >= tail.last_term
}

/// Whether the frame that follows the tail with this header is the last of its segment.
fn ends_segment(tail: &Tail, header: &FrameHeader) -> bool {
    match header.kind {
        EntryKind::Batch => header.leaf_count > 0 && u64::from(header.leaf_count) == tail.room_in_block(),
        EntryKind::Seal => header.body_checksum == crc32fast::hash(&tail.segment.get().to_le_bytes()),
        EntryKind::Blank | EntryKind::Membership | EntryKind::Trim => false,
    }
}

/// What the header of a segment file turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HeaderFinding {
    Good,
    Damaged,
    /// A good one, of a file with another name: files were swapped.
    OfAnotherFile,
}

/// Looks at the header of a segment file.
///
/// # Errors
/// [`LogError::Disk`], [`LogError::Version`].
pub(crate) fn file_header(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segment: SegmentNumber,
) -> Result<HeaderFinding, LogError> {
    let name = SegmentFile::Frames(segment);
    let file = disk.open(&directory.segment_file(name), Access::Read)?;
    match read_file_header(file.as_ref(), name) {
        Ok(_) => Ok(HeaderFinding::Good),
        Err(LogError::Damaged(_)) => {
            let page = crate::disk::read_up_to(file.as_ref(), 0, PAGE_BYTES)?;
            let decoded = crate::segment::FileHeader::decode(&page);
            Ok(if decoded.is_ok() { HeaderFinding::OfAnotherFile } else { HeaderFinding::Damaged })
        }
        Err(other) => Err(other),
    }
}
