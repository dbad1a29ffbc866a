//! Reading an export record by record, each checked before it is handed out.

use std::io;
use std::path::{Path, PathBuf};

use stele_proof::interop::{
    BatchCheck, Content, FormatFault, Frame, HEADER_BYTES, MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest,
    ManifestSegment, Slot, decode_header,
};
use stele_proof::record::{Record, Salt, SelfHash, VerifyError};

use crate::disk::{Access, Disk, DiskError, DiskFile, read_up_to};
use crate::read_back::check_payload;

use super::{Finding, InteropError};

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A record of an export: canonical, hashing to what it claims, and following the one before.
#[derive(Clone, Copy, Debug)]
pub struct Item<'r> {
    /// The record.
    pub record: Record<'r>,
    /// Its hash.
    pub self_hash: SelfHash,
    /// Its payload, where it came along; the record commits to it.
    pub payload: Option<(Salt, &'r [u8])>,
}

/// An open export.
pub struct ExportReader<'d> {
    disk: &'d dyn Disk,
    directory: PathBuf,
    manifest: Manifest,
    check: BatchCheck,
    /// The next segment to be opened.
    next: usize,
    open: Option<OpenSegment>,
}

struct OpenSegment {
    segment: ManifestSegment,
    /// Records that have not been handed out.
    left: u32,
    frames: Cursor,
    payloads: Option<OpenPayloads>,
}

struct OpenPayloads {
    /// Slots that have not been handed out.
    left: u32,
    slots: Cursor,
}

impl<'d> ExportReader<'d> {
    /// Reads the manifest.
    ///
    /// # Errors
    /// [`InteropError::NoExport`], [`InteropError::Bad`].
    pub fn open(disk: &'d dyn Disk, directory: &Path) -> Result<Self, InteropError> {
        let file = match disk.open(&directory.join(MANIFEST_FILE), Access::Read) {
            Err(error) if is_missing(&error) => return Err(InteropError::NoExport(directory.to_owned())),
            opened => opened?,
        };
        let bad =
            |what: String| InteropError::Bad(Finding { file: MANIFEST_FILE.to_owned(), offset: 0, seq: None, what });
        let len = usize::try_from(file.status()?.len).unwrap_or(usize::MAX);
        if len > MAX_MANIFEST_BYTES {
            return Err(bad(format!("it has {len} bytes, more than {MAX_MANIFEST_BYTES}")));
        }
        let bytes = read_up_to(file.as_ref(), 0, len)?;
        let manifest = Manifest::decode(&bytes).map_err(|error| bad(error.to_string()))?;
        let check = BatchCheck::new(&manifest);
        Ok(Self { disk, directory: directory.to_owned(), manifest, check, next: 0, open: None })
    }

    /// What the export says that it holds.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many records the manifest names.
    pub fn total(&self) -> u64 {
        self.manifest.range().last() - self.manifest.range().first() + 1
    }

    /// The next record; `None` behind the last one, when every file has been checked to its end.
    ///
    /// # Errors
    /// [`InteropError::Bad`] at the first thing that does not hold, [`InteropError::Log`].
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, InteropError> {
        if self.open.as_ref().is_none_or(|open| open.left == 0) {
            if let Some(open) = self.open.take() {
                self.finish(open)?;
            }
            let Some(segment) = self.manifest.segments.get(self.next).copied() else { return Ok(None) };
            self.next += 1;
            self.open = Some(OpenSegment::open(self.disk, &self.directory, segment)?);
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        open.left -= 1;
        open.next_item(&mut self.check).map(Some)
    }

    /// Nothing may be left over, and the root must be that of the manifest.
    fn finish(&mut self, open: OpenSegment) -> Result<(), InteropError> {
        let OpenSegment { segment, mut frames, payloads, .. } = open;
        frames.end()?;
        if let Some(OpenPayloads { left, mut slots }) = payloads {
            if left > 0 {
                return Err(slots.bad(None, "its count is larger than the number of payloads that records commit to"));
            }
            slots.end()?;
        }
        let computed = self.check.take_root();
        if computed != Some(segment.root) {
            let computed = computed.map_or_else(|| "none".to_owned(), |root| root.to_string());
            let what = format!("RootMismatch: the manifest says {}, the records have {computed}", segment.root);
            return Err(InteropError::Bad(Finding { file: segment.file(), offset: 0, seq: None, what }));
        }
        Ok(())
    }
}

impl OpenSegment {
    fn open(disk: &dyn Disk, directory: &Path, segment: ManifestSegment) -> Result<Self, InteropError> {
        let Some((mut frames, count)) = Cursor::open(disk, directory, segment.file(), Content::Records)? else {
            let what = "the file is missing".to_owned();
            return Err(InteropError::Bad(Finding { file: segment.file(), offset: 0, seq: None, what }));
        };
        if count != segment.range.count() {
            let what = format!("the header says {count} records, the manifest {}", segment.range.count());
            frames.at = 0;
            return Err(frames.bad(None, what));
        }
        let payloads = Cursor::open(disk, directory, segment.payload_file(), Content::Payloads)?;
        let payloads = payloads.map(|(slots, left)| OpenPayloads { left, slots });
        Ok(Self { segment, left: count, frames, payloads })
    }

    fn next_item<'r>(&'r mut self, check: &mut BatchCheck) -> Result<Item<'r>, InteropError> {
        let seq = Some(check.next_seq());
        let place = self.frames.advance(seq, |bytes| Ok(Frame::decode(bytes)?.map(|(_, len)| len)))?;
        let wrong = |what: String| InteropError::Bad(Finding { seq, ..self.frames.finding(place.at, what) });
        let Some((frame, _)) = Frame::decode(&self.frames.buffer[place.start..]).ok().flatten() else {
            return Err(wrong(FormatFault::Cut.to_string()));
        };
        let record = check.accept(&frame).map_err(|error| wrong(told(&error)))?;
        let payload = match (&mut self.payloads, record.payload()) {
            (Some(payloads), Some(_)) => Some(payloads.next(&record)?),
            _ => None,
        };
        Ok(Item { record, self_hash: frame.self_hash, payload })
    }
}

impl OpenPayloads {
    /// The payload of a record that commits to one.
    fn next<'r>(&'r mut self, record: &Record<'_>) -> Result<(Salt, &'r [u8]), InteropError> {
        let seq = Some(record.seq());
        let Some(left) = self.left.checked_sub(1) else {
            return Err(self.slots.bad(seq, "its count is smaller than the number of payloads that records commit to"));
        };
        self.left = left;
        let place = self.slots.advance(seq, |bytes| Ok(Slot::decode(bytes)?.map(|(_, len)| len)))?;
        let bytes = &self.slots.buffer[place.start..];
        let wrong = |what: &str| InteropError::Bad(Finding { seq, ..self.slots.finding(place.at, what.to_owned()) });
        let Some((slot, _)) = Slot::decode(bytes).ok().flatten() else { return Err(wrong("the file ends too early")) };
        if slot.seq != record.seq() {
            return Err(wrong("the slot is that of another record"));
        }
        let stored = [slot.salt.as_bytes().as_slice(), slot.payload].concat();
        check_payload(record, &stored, stored.len()).map_err(wrong)?;
        Ok((slot.salt, slot.payload))
    }
}

/// What is wrong with a record, under the names of INTEROP section 6.
fn told(error: &VerifyError) -> String {
    let name = match error {
        VerifyError::HashMismatch { .. } => "HashMismatch",
        VerifyError::PrevMismatch { .. } => "PrevMismatch",
        VerifyError::SeqMismatch { .. } => "SeqMismatch",
        VerifyError::Bounds(_) => "SizeExceeded",
        _ => "Schema",
    };
    format!("{name}: {error}")
}

/// A file that is read from front to back.
struct Cursor {
    file: Box<dyn DiskFile>,
    name: String,
    buffer: Vec<u8>,
    /// How much of the buffer has been used, and where in the file that is.
    used: usize,
    at: u64,
}

/// What was found at the front: where it begins in the buffer, and in the file.
struct Place {
    start: usize,
    at: u64,
}

impl Cursor {
    /// Opens a file and reads its header; answers it with its count, or `None` where there is none.
    fn open(
        disk: &dyn Disk,
        directory: &Path,
        name: String,
        content: Content,
    ) -> Result<Option<(Self, u32)>, InteropError> {
        let file = match disk.open(&directory.join(&name), Access::Read) {
            Err(error) if is_missing(&error) => return Ok(None),
            opened => opened?,
        };
        let mut cursor = Self { file, name, buffer: Vec::new(), used: 0, at: 0 };
        cursor.more()?;
        let count = decode_header(content, &cursor.buffer).map_err(|fault| cursor.bad(None, fault))?;
        cursor.used = HEADER_BYTES;
        cursor.at = HEADER_BYTES as u64;
        Ok(Some((cursor, count)))
    }

    /// Moves behind the thing at the front, whose length `measure` tells: `None` where it needs more bytes.
    fn advance(
        &mut self,
        seq: Option<u64>,
        measure: impl Fn(&[u8]) -> Result<Option<usize>, FormatFault>,
    ) -> Result<Place, InteropError> {
        loop {
            match measure(&self.buffer[self.used..]) {
                Err(fault) => return Err(self.bad(seq, fault)),
                Ok(Some(len)) => {
                    let place = Place { start: self.used, at: self.at };
                    self.used += len;
                    self.at += len as u64;
                    return Ok(place);
                }
                Ok(None) => {
                    if !self.more()? {
                        return Err(self.bad(seq, FormatFault::Cut));
                    }
                }
            }
        }
    }

    /// Reads on; answers whether there was anything. What was used is given up.
    fn more(&mut self) -> Result<bool, DiskError> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let len = self.buffer.len();
        self.buffer.resize(len + CHUNK_BYTES, 0);
        let read = self.file.read_at(&mut self.buffer[len..], self.at + len as u64)?;
        self.buffer.truncate(len + read);
        Ok(read > 0)
    }

    fn end(&mut self) -> Result<(), InteropError> {
        if self.used < self.buffer.len() || self.more()? {
            return Err(self.bad(None, FormatFault::TooLong));
        }
        Ok(())
    }

    fn finding(&self, offset: u64, what: String) -> Finding {
        Finding { file: self.name.clone(), offset, seq: None, what }
    }

    fn bad(&self, seq: Option<u64>, what: impl ToString) -> InteropError {
        InteropError::Bad(Finding { seq, ..self.finding(self.at, what.to_string()) })
    }
}

fn is_missing(error: &DiskError) -> bool {
    matches!(error.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
