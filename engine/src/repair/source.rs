//! The two logs that a repair reads, and whether they are the same one.

use std::collections::BTreeSet;
use std::io;

use crate::directory::{LogDirectory, read_file_header};
use crate::disk::{Access, Disk, DiskError, DiskFile, read_small, read_up_to};
use crate::error::LogError;
use crate::frame::{FrameFault, FrameHeader, HEADER_BYTES, Placed, Tail};
use crate::number::SegmentNumber;
use crate::scan::{FrameScanner, Seen};
use crate::segment::{FileHeader, SegmentFile};

/// Largest `log.toml` that is looked at.
const MAX_DESCRIPTION_BYTES: usize = 4096;

/// One of the two logs; nothing of it is believed before it was checked.
pub(super) struct Source<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) directory: &'a LogDirectory,
    /// The files in its `segments` directory.
    pub(super) files: BTreeSet<SegmentFile>,
}

/// What stands at a place.
pub(super) enum Found {
    Good(Box<Placed>, Vec<u8>),
    Bad(Option<FrameFault>),
}

/// How two logs stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kinship {
    Same,
    Other,
    Unknown,
}

impl<'a> Source<'a> {
    pub(super) fn look(disk: &'a dyn Disk, directory: &'a LogDirectory) -> Result<Self, LogError> {
        let names = match disk.list(&directory.segments()) {
            Err(error) if is_missing(&error) => Vec::new(),
            names => names?,
        };
        let files = names.iter().filter_map(|name| SegmentFile::parse(name)).collect();
        Ok(Self { disk, directory, files })
    }

    /// The segment files that are there.
    pub(super) fn segments(&self) -> impl DoubleEndedIterator<Item = SegmentNumber> + '_ {
        self.files.iter().filter_map(|file| match file {
            SegmentFile::Frames(segment) => Some(*segment),
            SegmentFile::Payloads(..) | SegmentFile::Tiles(_) | SegmentFile::Hashes(_) => None,
        })
    }

    pub(super) fn open(&self, file: SegmentFile) -> Result<Option<Box<dyn DiskFile>>, LogError> {
        match self.disk.open(&self.directory.segment_file(file), Access::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The first readable header of a segment file: all agree in alignment and block height.
    pub(super) fn geometry(&self) -> Result<Option<FileHeader>, LogError> {
        for segment in self.segments() {
            let name = SegmentFile::Frames(segment);
            let Some(file) = self.open(name)? else { continue };
            match read_file_header(file.as_ref(), name) {
                Ok(header) => return Ok(Some(header)),
                Err(LogError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether `other` is a copy of this log: where the frames of one can be followed from the first on, the
    /// headers of the other at the same places tell, as each holds the checksums of what came before, and the
    /// first frame of a log names the log.
    pub(super) fn kinship(&self, other: &Self) -> Result<Kinship, LogError> {
        for (walked, compared) in [(self, other), (other, self)] {
            let kinship = walked.follow(compared)?;
            if kinship != Kinship::Unknown {
                return Ok(kinship);
            }
        }
        let [own, theirs] = [self.described_id()?, other.described_id()?];
        Ok(match (own, theirs) {
            (Some(own), Some(theirs)) if own == theirs => Kinship::Same,
            (Some(_), Some(_)) => Kinship::Other,
            _ => Kinship::Unknown,
        })
    }

    fn follow(&self, other: &Self) -> Result<Kinship, LogError> {
        let Some(geometry) = self.geometry()? else { return Ok(Kinship::Unknown) };
        let mut tail = Tail::start(geometry.alignment, geometry.height);
        let name = SegmentFile::Frames(tail.segment);
        let (Some(file), Some(compared)) = (self.open(name)?, other.open(name)?) else {
            return Ok(Kinship::Unknown);
        };
        let mut scanner = FrameScanner::new(file.as_ref());
        while tail.segment == SegmentNumber::new(0) {
            let Found::Good(placed, _) = frame(&mut scanner, &tail)? else { break };
            match standing_header(compared.as_ref(), &tail)? {
                Some(bytes) if bytes == placed.bytes => return Ok(Kinship::Same),
                Some(_) => return Ok(Kinship::Other),
                None => tail.advance(&placed),
            }
        }
        Ok(Kinship::Unknown)
    }

    /// The line of `log.toml` that names the log: the last resort.
    fn described_id(&self) -> Result<Option<String>, LogError> {
        let bytes = read_small(self.disk, &self.directory.description(), MAX_DESCRIPTION_BYTES)?;
        let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
        Ok(text.lines().find(|line| line.starts_with("log_id = ")).map(str::to_owned))
    }
}

/// What stands at the tail's place, as an owned frame.
pub(super) fn frame(scanner: &mut FrameScanner<'_>, tail: &Tail) -> Result<Found, DiskError> {
    Ok(match scanner.at(tail)? {
        Seen::Frame(placed, body) => Found::Good(Box::new(placed), body.to_vec()),
        Seen::Nothing => Found::Bad(None),
        Seen::Bad(fault) => Found::Bad(Some(fault)),
    })
}

/// The frame header at the tail's place, where one stands there that is good by its own checksum, whatever it
/// links to.
pub(super) fn standing_header(file: &dyn DiskFile, tail: &Tail) -> Result<Option<[u8; HEADER_BYTES]>, DiskError> {
    let bytes = read_up_to(file, tail.offset.get(), HEADER_BYTES)?;
    let header = bytes.first_chunk::<HEADER_BYTES>();
    Ok(header.filter(|bytes| FrameHeader::decode(bytes, tail.segment, tail.offset).is_ok()).copied())
}

pub(super) fn is_missing(error: &DiskError) -> bool {
    matches!(error.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
