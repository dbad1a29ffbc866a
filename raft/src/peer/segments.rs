//! Sealed segments, as one node gives them to another.

use std::sync::Arc;

use bytes::Bytes;
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Access, Disk, DiskFile, read_up_to};
use stele_engine::error::LogError;
use stele_engine::number::SegmentNumber;
use stele_engine::segment::{PayloadPart, SegmentFile};
use stele_proof::TreeSize;
use stele_proof::tree::Hash;

use super::wire::{Fields, FrameWriter, MessageError};

/// Most bytes of one read.
pub const MAX_READ_BYTES: usize = 1 << 20;
/// Most bytes of a list; a longer one is asked for in pieces.
pub const MAX_LIST_BYTES: usize = 1 << 20;

/// Most hashes of a consistency proof: at most two for each level of a tree.
pub const MAX_PROOF_HASHES: usize = 128;
/// Most bytes of a signed checkpoint.
pub const MAX_NOTE_BYTES: usize = 64 << 10;

const COUNT_BYTES: usize = 4;
const SEGMENT_BYTES: usize = 20;
const PART_BYTES: usize = 8;

/// A sealed segment: which files it has, and how long they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedSegment {
    /// Its number.
    pub number: SegmentNumber,
    /// Bytes of the file of frames.
    pub frames_bytes: u64,
    /// Bytes of each payload part, from part 0 on.
    pub payload_bytes: Vec<u64>,
}

impl SealedSegment {
    const fn list_bytes(&self) -> usize {
        SEGMENT_BYTES + self.payload_bytes.len() * PART_BYTES
    }

    pub(super) fn write_list(list: &[Self], frame: &mut FrameWriter) {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        frame.put(&count(list.len()));
        for segment in list {
            frame.put(&segment.number.get().to_le_bytes());
            frame.put(&segment.frames_bytes.to_le_bytes());
            frame.put(&count(segment.payload_bytes.len()));
            for bytes in &segment.payload_bytes {
                frame.put(&bytes.to_le_bytes());
            }
        }
    }

    pub(super) fn read_list(fields: &mut Fields<'_>) -> Result<Vec<Self>, MessageError> {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let segments = count(fields.u32()?);
        if segments > fields.left() / SEGMENT_BYTES {
            return Err(MessageError::Field("segment count"));
        }
        let mut list: Vec<Self> = Vec::with_capacity(segments);
        for _ in 0..segments {
            let (number, frames_bytes) = (fields.segment()?, fields.u64("length")?);
            let parts = count(fields.u32()?);
            if parts > fields.left() / PART_BYTES {
                return Err(MessageError::Field("part count"));
            }
            let payload_bytes = (0..parts).map(|_| fields.u64("length")).collect::<Result<_, _>>()?;
            if list.last().is_some_and(|last| last.number >= number) {
                return Err(MessageError::Field("segment"));
            }
            list.push(Self { number, frames_bytes, payload_bytes });
        }
        Ok(list)
    }
}

/// What vouches for a copy: a signed checkpoint, and the proof that its tree extends the copied one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    /// The signed note.
    pub note: Bytes,
    /// From the size that was asked for to that of the checkpoint.
    pub proof: Vec<Hash>,
}

impl Vouched {
    pub(super) fn write(&self, frame: &mut FrameWriter) {
        frame.put(&u32::try_from(self.proof.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.proof.iter().for_each(|hash| frame.put(hash.as_bytes()));
        frame.put_bytes(&self.note);
    }

    pub(super) fn read(mut message: Bytes) -> Result<Self, MessageError> {
        let mut fields = Fields::new(&message);
        let count = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        if count > MAX_PROOF_HASHES {
            return Err(MessageError::Field("hash count"));
        }
        let proof = (0..count).map(|_| fields.take().map(Hash::new)).collect::<Result<_, _>>()?;
        let note = message.split_off(message.len() - fields.left());
        if note.len() > MAX_NOTE_BYTES {
            return Err(MessageError::Field("note"));
        }
        Ok(Self { note, proof })
    }
}

/// Why a source gives no segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It has no such file, or it is not sealed yet.
    #[error("there is no such sealed file")]
    NotSealed,
    /// A payload part is missing.
    #[error("a payload part of segment {0} is missing")]
    MissingPart(SegmentNumber),
    /// It has no signed checkpoint that covers so many records.
    #[error("there is no checkpoint of so many records")]
    NoCheckpoint,
    /// The file cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where a node takes segments from that others ask for. Called on threads that may block.
pub trait SegmentSource: Send + Sync + 'static {
    /// Sealed segments from this one on, ascending: as many as [`MAX_LIST_BYTES`] take, none behind the last.
    ///
    /// # Errors
    /// [`SourceError`].
    fn list(&self, from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError>;

    /// Bytes of a sealed file: `len` of them, fewer only at its end.
    ///
    /// # Errors
    /// [`SourceError`].
    fn read(&self, file: SegmentFile, offset: u64, len: usize) -> Result<Bytes, SourceError>;

    /// A signed checkpoint of at least so many records (at least one), and the proof that its tree extends theirs. A
    /// source that holds no keys has none.
    ///
    /// # Errors
    /// [`SourceError::NoCheckpoint`] and the others.
    fn vouch(&self, _size: TreeSize) -> Result<Vouched, SourceError> {
        Err(SourceError::NoCheckpoint)
    }
}

/// The sealed segments of a log's directory.
pub struct SealedFiles {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
}

impl SealedFiles {
    /// Those of this log.
    pub const fn new(disk: Arc<dyn Disk>, directory: LogDirectory) -> Self {
        Self { disk, directory }
    }

    /// Opens a file that nobody writes any more.
    fn open(&self, name: SegmentFile) -> Result<Box<dyn DiskFile>, SourceError> {
        let file = match self.disk.open(&self.directory.segment_file(name), Access::Read) {
            Ok(file) => file,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Err(SourceError::NotSealed),
            Err(error) => return Err(LogError::from(error).into()),
        };
        if file.status().map_err(LogError::from)?.read_only { Ok(file) } else { Err(SourceError::NotSealed) }
    }

    fn describe(&self, number: SegmentNumber, parts: Vec<PayloadPart>) -> Result<SealedSegment, SourceError> {
        let len = |name| Ok::<_, SourceError>(self.open(name)?.status().map_err(LogError::from)?.len);
        let frames_bytes = len(SegmentFile::Frames(number))?;
        let payload_bytes = parts.into_iter().map(|part| len(SegmentFile::Payloads(number, part)));
        Ok(SealedSegment { number, frames_bytes, payload_bytes: payload_bytes.collect::<Result<_, _>>()? })
    }
}

impl SegmentSource for SealedFiles {
    fn list(&self, from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError> {
        let inventory = Inventory::take(self.disk.as_ref(), &self.directory)?;
        let mut list = Vec::new();
        let mut bytes = COUNT_BYTES;
        for number in (from.get()..inventory.sealed.get()).map(SegmentNumber::new) {
            let parts: Vec<PayloadPart> = inventory.payload_parts(number).collect();
            if parts.iter().zip(0..).any(|(part, place)| part.get() != place) {
                return Err(SourceError::MissingPart(number));
            }
            let segment = self.describe(number, parts)?;
            bytes += segment.list_bytes();
            if bytes > MAX_LIST_BYTES {
                break;
            }
            list.push(segment);
        }
        Ok(list)
    }

    fn read(&self, file: SegmentFile, offset: u64, len: usize) -> Result<Bytes, SourceError> {
        let segment = match file {
            SegmentFile::Frames(number)
            | SegmentFile::Payloads(number, _)
            | SegmentFile::Tiles(number)
            | SegmentFile::Hashes(number) => number,
        };
        // The mode of the file of frames is set last: until then the segment is not sealed.
        let frames = self.open(SegmentFile::Frames(segment))?;
        let opened = if file == SegmentFile::Frames(segment) { frames } else { self.open(file)? };
        let bytes = read_up_to(opened.as_ref(), offset, len.min(MAX_READ_BYTES)).map_err(LogError::from)?;
        Ok(bytes.into())
    }
}
