//! Entries by raft index, read from the segment files: for whoever is so far behind that what it needs is no
//! longer in memory.
//!
//! Each frame is checked by its own checksums and by the link to the frame before it in its file.

use std::ops::Range;
use std::sync::Arc;

use crate::directory::{LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, read_up_to};
use crate::error::LogError;
use crate::frame::{FrameHeader, HEADER_BYTES, stored_checksum};
use crate::number::{Alignment, Offset, RaftIndex, SegmentNumber};
use crate::segment::{FRAMES_START, SegmentFile};
use crate::store::{Entry, read_entry_at};

/// Reads entries of one log; remembers where the frames of the segment lie that it read last.
pub struct EntryReader {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    alignment: Alignment,
    at: Option<Places>,
}

/// Where the frames of a segment lie.
struct Places {
    segment: SegmentNumber,
    first: RaftIndex,
    offsets: Vec<Offset>,
}

impl EntryReader {
    /// A reader of this log.
    pub fn new(disk: &Arc<dyn Disk>, directory: &LogDirectory, alignment: Alignment) -> Self {
        Self { disk: Arc::clone(disk), directory: directory.clone(), alignment, at: None }
    }

    /// The entries of a range that stand in segments before `open`: as many, from the first on, as fit
    /// `max_bytes`, at least one where there is one.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Disk`].
    pub fn read(
        &mut self,
        range: Range<RaftIndex>,
        open: SegmentNumber,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut index = range.start;
        while index < range.end && (entries.is_empty() || bytes < max_bytes) {
            let Some((segment, offset)) = self.place(index, open)? else { break };
            let entry = read_entry_at(self.disk.as_ref(), &self.directory, segment, offset)?;
            bytes += entry.byte_len();
            entries.push(entry);
            index = index.next();
        }
        Ok(entries)
    }

    fn place(&mut self, index: RaftIndex, open: SegmentNumber) -> Result<Option<(SegmentNumber, Offset)>, LogError> {
        let found = |places: &Places| {
            let at = usize::try_from(index.get().checked_sub(places.first.get())?).ok()?;
            Some((places.segment, *places.offsets.get(at)?))
        };
        if let Some(place) = self.at.as_ref().and_then(found) {
            return Ok(Some(place));
        }
        let Some(segment) = self.segment_of(index, open)? else { return Ok(None) };
        let places = self.places(segment)?;
        let place = found(&places);
        self.at = Some(places);
        Ok(place)
    }

    /// The last segment before `open` whose first entry is not behind `index`.
    fn segment_of(&self, index: RaftIndex, open: SegmentNumber) -> Result<Option<SegmentNumber>, LogError> {
        let (mut low, mut high) = (0, open.get());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.first_index(SegmentNumber::new(middle))? <= index {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1).map(SegmentNumber::new))
    }

    fn first_index(&self, segment: SegmentNumber) -> Result<RaftIndex, LogError> {
        let name = SegmentFile::Frames(segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        let bytes = read_up_to(file.as_ref(), FRAMES_START.get(), HEADER_BYTES)?;
        let header = bytes.first_chunk().map(|bytes| FrameHeader::decode(bytes, segment, FRAMES_START));
        match header {
            Some(Ok(header)) => Ok(header.index),
            Some(Err(fault)) => Err(LogError::damaged(relative(name), FRAMES_START.get(), None, fault)),
            None => Err(LogError::damaged(relative(name), FRAMES_START.get(), None, "the file ends before a frame")),
        }
    }

    /// Reads the headers of a segment that has ended.
    fn places(&self, segment: SegmentNumber) -> Result<Places, LogError> {
        let name = SegmentFile::Frames(segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        read_file_header(file.as_ref(), name)?;
        let len = file.status()?.len;
        let mut at = FRAMES_START;
        let mut before: Option<(RaftIndex, u32)> = None;
        let mut places = Places { segment, first: RaftIndex::new(0), offsets: Vec::new() };
        while at.get() < len {
            let bytes = read_up_to(file.as_ref(), at.get(), HEADER_BYTES)?;
            let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>().filter(|bytes| **bytes != [0; HEADER_BYTES]) else {
                // The rest of the space that was prepared for a segment that is not cut yet.
                break;
            };
            let damaged = |what: &dyn std::fmt::Display| LogError::damaged(relative(name), at.get(), None, what);
            let header = FrameHeader::decode(bytes, segment, at).map_err(|fault| damaged(&fault))?;
            match before {
                None => places.first = header.index,
                Some((index, link)) if header.index == index.next() && header.link == link => {}
                Some(_) => return Err(damaged(&crate::frame::FrameFault::Link)),
            }
            before = Some((header.index, stored_checksum(bytes)));
            places.offsets.push(at);
            at = Offset::new(at.get() + header.frame_len(self.alignment));
        }
        Ok(places)
    }
}
