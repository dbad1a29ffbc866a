//! Reading the frames of a segment file one after the other.

use std::ops::Range;

use crate::disk::{DiskError, DiskFile};
use crate::frame::{FrameFault, FrameHeader, HEADER_BYTES, Placed, Tail};
use crate::number::{Alignment, Offset, SegmentNumber};
use crate::segment::PAGE_BYTES;

/// Bytes read at a time at first, and at most: who reads on is given more with each read.
const FIRST_WINDOW_BYTES: usize = 1 << 16;
const MAX_WINDOW_BYTES: usize = 1 << 20;

/// What stands at a place.
#[derive(Debug)]
pub enum Seen<'w> {
    /// A good frame that follows the tail, and its body.
    Frame(Placed, &'w [u8]),
    /// The file ends here, or zeros begin.
    Nothing,
    /// Something that is not the next frame.
    Bad(FrameFault),
}

/// Reads frames through a window whose place in memory and file suits direct I/O.
pub struct FrameScanner<'f> {
    file: &'f dyn DiskFile,
    buffer: Vec<u8>,
    /// Where the window lies in `buffer`, in the file, and how much of it was read.
    slack: usize,
    at: u64,
    len: usize,
    /// How much the next read brings, unless more is asked for.
    ahead: usize,
}

impl<'f> FrameScanner<'f> {
    /// A scanner of this file.
    pub fn new(file: &'f dyn DiskFile) -> Self {
        Self { file, buffer: Vec::new(), slack: 0, at: 0, len: 0, ahead: FIRST_WINDOW_BYTES }
    }

    /// What stands at the tail's place.
    ///
    /// # Errors
    /// [`DiskError`] of a failed read.
    pub fn at(&mut self, tail: &Tail) -> Result<Seen<'_>, DiskError> {
        let start = tail.offset.get();
        let Some(bytes) = self.window(start, HEADER_BYTES)?.first_chunk::<HEADER_BYTES>().copied() else {
            let rest = self.window(start, HEADER_BYTES)?;
            return Ok(if rest.iter().all(|byte| *byte == 0) { Seen::Nothing } else { Seen::Bad(FrameFault::Cut) });
        };
        if bytes == [0; HEADER_BYTES] {
            return Ok(Seen::Nothing);
        }
        let header = match FrameHeader::decode(&bytes, tail.segment, tail.offset) {
            Ok(header) => header,
            Err(fault) => return Ok(Seen::Bad(fault)),
        };
        let body_len = header.body_len as usize;
        let frame_len = usize::try_from(header.frame_len(tail.alignment)).unwrap_or(usize::MAX);
        let frame = self.window(start, frame_len)?;
        if frame.len() < frame_len {
            return Ok(Seen::Bad(FrameFault::Cut));
        }
        let (body, padding) = frame[HEADER_BYTES..].split_at(body_len);
        if padding.iter().any(|byte| *byte != 0) {
            return Ok(Seen::Bad(FrameFault::Padding));
        }
        match tail.check(&bytes, &header, body) {
            Ok(placed) => Ok(Seen::Frame(placed, body)),
            Err(fault) => Ok(Seen::Bad(fault)),
        }
    }

    /// The header at a place, if a good one stands there, and its bytes.
    ///
    /// # Errors
    /// [`DiskError`] of a failed read.
    pub fn header_at(
        &mut self,
        segment: SegmentNumber,
        offset: Offset,
    ) -> Result<Option<(FrameHeader, [u8; HEADER_BYTES])>, DiskError> {
        let Some(bytes) = self.window(offset.get(), HEADER_BYTES)?.first_chunk::<HEADER_BYTES>().copied() else {
            return Ok(None);
        };
        Ok(FrameHeader::decode(&bytes, segment, offset).ok().map(|header| (header, bytes)))
    }

    /// The first aligned place in a range where a good header stands that is accepted. Reads the range
    /// once, a window at a time.
    ///
    /// # Errors
    /// [`DiskError`] of a failed read.
    pub fn next_header(
        &mut self,
        segment: SegmentNumber,
        range: Range<Offset>,
        alignment: Alignment,
        accept: impl Fn(Offset, &FrameHeader) -> bool,
    ) -> Result<Option<(Offset, FrameHeader)>, DiskError> {
        let step = u64::from(alignment.get());
        let mut at = range.start.get();
        while at < range.end.get() {
            let bytes = self.window(at, FIRST_WINDOW_BYTES)?;
            let places = bytes.windows(HEADER_BYTES).step_by(alignment.get() as usize);
            let mut looked = 0;
            for (place, bytes) in (at..range.end.get()).step_by(alignment.get() as usize).zip(places) {
                let offset = Offset::new(place);
                if let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>()
                    && let Ok(header) = FrameHeader::decode(bytes, segment, offset)
                    && accept(offset, &header)
                {
                    return Ok(Some((offset, header)));
                }
                looked += step;
            }
            if looked == 0 {
                return Ok(None);
            }
            at += looked;
        }
        Ok(None)
    }

    /// Whether any byte from `start` to the end of the file is not zero.
    ///
    /// # Errors
    /// [`DiskError`] of a failed read.
    pub fn non_zero_from(&mut self, start: u64) -> Result<bool, DiskError> {
        let mut at = start;
        loop {
            let bytes = self.window(at, FIRST_WINDOW_BYTES)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            if bytes.len() < FIRST_WINDOW_BYTES {
                return Ok(false);
            }
            at += bytes.len() as u64;
        }
    }

    /// The bytes from `start`, `len` of them or up to the end of the file.
    ///
    /// # Errors
    /// [`DiskError`] of a failed read.
    pub(crate) fn bytes(&mut self, start: u64, len: usize) -> Result<&[u8], DiskError> {
        self.window(start, len)
    }

    /// The bytes from `start`, `len` of them or up to the end of the file.
    fn window(&mut self, start: u64, len: usize) -> Result<&[u8], DiskError> {
        let inside = |at: u64, read: usize| start >= at && start + len as u64 <= at + read as u64;
        if !inside(self.at, self.len) {
            let page = PAGE_BYTES as u64;
            let from = start / page * page;
            let skipped = usize::try_from(start - from).unwrap_or(0);
            let want = (skipped + len).next_multiple_of(PAGE_BYTES).max(self.ahead);
            self.ahead = (self.ahead * 2).min(MAX_WINDOW_BYTES);
            if self.buffer.len() < want + PAGE_BYTES {
                self.buffer = vec![0; want + PAGE_BYTES];
            }
            self.slack = self.buffer.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
            self.len = self.file.read_at(&mut self.buffer[self.slack..self.slack + want], from)?;
            self.at = from;
        }
        let skipped = usize::try_from(start - self.at).unwrap_or(usize::MAX).min(self.len);
        let end = (skipped + len).min(self.len);
        Ok(&self.buffer[self.slack + skipped..self.slack + end])
    }
}
