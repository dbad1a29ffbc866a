//! What lies in the `segments` directory, good or not.

use std::collections::BTreeSet;
use std::io;

use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, DiskError, TEMPORARY};
use crate::error::{Damage, LogError};
use crate::generation::GenerationError;
use crate::hard_state::read_hard_state;
use crate::number::SegmentNumber;
use crate::ring::read_ring;
use crate::segment::{FileHeader, PayloadPart, SegmentFile};

/// The files, and what a look at their names and modes tells.
pub(crate) struct Survey {
    /// Segments up to the last one; one in the middle may be missing.
    pub(crate) inventory: Inventory,
    /// The segment files that are there.
    frames: BTreeSet<SegmentNumber>,
    /// Bytes of segment and payload files.
    pub(crate) total: u64,
}

/// Names in the directory, sorted by what they are.
struct Names {
    frames: BTreeSet<SegmentNumber>,
    payloads: Vec<(SegmentNumber, PayloadPart)>,
    /// Tile sidecars and hash tables.
    derived: Vec<(SegmentNumber, SegmentFile)>,
    foreign: Vec<String>,
}

/// Whether there is a log, damaged or not.
///
/// # Errors
/// As [`Survey::take`].
pub(crate) fn look(
    disk: &dyn Disk,
    directory: &LogDirectory,
    findings: &mut Vec<Damage>,
    notes: &mut Vec<String>,
) -> Result<(), LogError> {
    Survey::take(disk, directory, findings, notes).map(|_| ())
}

impl Survey {
    /// Lists the files; damage that the names alone show goes to `findings`.
    pub(crate) fn take(
        disk: &dyn Disk,
        directory: &LogDirectory,
        findings: &mut Vec<Damage>,
        notes: &mut Vec<String>,
    ) -> Result<Self, LogError> {
        let names = list(disk, directory)?;
        let (Some(last), Some(header)) = (names.frames.last().copied(), geometry(disk, directory, &names.frames)?)
        else {
            return match names.frames.first() {
                None => Err(without_segments(disk, directory)?),
                Some(first) => {
                    let name = relative(SegmentFile::Frames(*first));
                    Err(LogError::damaged(
                        name,
                        0,
                        None,
                        "no segment file has a readable header; restore the files from a copy",
                    ))
                }
            };
        };
        for file in strays(&names) {
            let what = "the file belongs to no segment of the log; move it away".to_owned();
            findings.push(Damage { file: relative(file), offset: 0, leaf: None, what });
        }
        for name in &names.foreign {
            notes.push(format!("segments/{name} is no file of a log, and was not looked at"));
        }
        let sealed = first_unsealed(disk, directory, &names.frames)?;
        let inventory = Inventory::of_findings(&header, sealed, last, names.payloads);
        let mut survey = Self { inventory, frames: names.frames, total: 0 };
        survey.total = survey.count_bytes(disk, directory)?;
        Ok(survey)
    }

    /// How many segment files there are.
    pub(crate) fn segments(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Whether the segment file is there.
    pub(crate) fn has(&self, segment: SegmentNumber) -> bool {
        self.frames.contains(&segment)
    }

    /// The files of the segments that are not sealed.
    pub(crate) fn unsealed(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.frames.range(self.inventory.sealed..).copied()
    }

    /// Bytes of a segment's file and of its payload files.
    pub(crate) fn bytes_of(
        &self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        segment: SegmentNumber,
    ) -> Result<u64, LogError> {
        let mut bytes = 0;
        let parts = self.inventory.payload_parts(segment).map(|part| SegmentFile::Payloads(segment, part));
        for file in parts.chain([SegmentFile::Frames(segment)]) {
            match disk.open(&directory.segment_file(file), Access::Read) {
                Ok(file) => bytes += file.status()?.len,
                // Whoever reads it tells of it.
                Err(error) if is_missing(&error) || is_no_file_to_read(error.source.kind()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }

    fn count_bytes(&self, disk: &dyn Disk, directory: &LogDirectory) -> Result<u64, LogError> {
        self.frames.iter().try_fold(0, |sum, segment| Ok(sum + self.bytes_of(disk, directory, *segment)?))
    }
}

fn list(disk: &dyn Disk, directory: &LogDirectory) -> Result<Names, LogError> {
    let listed = match disk.list(&directory.segments()) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            return Err(without_directory(disk, directory)?);
        }
        listed => listed?,
    };
    let mut names = Names { frames: BTreeSet::new(), payloads: Vec::new(), derived: Vec::new(), foreign: Vec::new() };
    for name in listed {
        match SegmentFile::parse(&name) {
            Some(SegmentFile::Frames(segment)) => {
                names.frames.insert(segment);
            }
            Some(SegmentFile::Payloads(segment, part)) => names.payloads.push((segment, part)),
            Some(file @ (SegmentFile::Tiles(segment) | SegmentFile::Hashes(segment))) => {
                names.derived.push((segment, file));
            }
            // What an interrupted creation left behind goes away when the log is opened for writing.
            None if name.ends_with(TEMPORARY) => {}
            None => names.foreign.push(name),
        }
    }
    names.payloads.sort_unstable();
    Ok(names)
}

/// Payload files and sidecars behind the last segment. What belongs to a missing one is told with it.
fn strays(names: &Names) -> impl Iterator<Item = SegmentFile> + '_ {
    let payloads = names.payloads.iter().map(|(segment, part)| (*segment, SegmentFile::Payloads(*segment, *part)));
    let last = names.frames.last().copied();
    payloads
        .chain(names.derived.iter().copied())
        .filter(move |(segment, _)| Some(*segment) > last)
        .map(|(_, file)| file)
}

/// The first readable header: all files of a log agree in alignment and block height.
fn geometry(
    disk: &dyn Disk,
    directory: &LogDirectory,
    frames: &BTreeSet<SegmentNumber>,
) -> Result<Option<FileHeader>, LogError> {
    let mut unreadable = None;
    for segment in frames {
        let name = SegmentFile::Frames(*segment);
        let opened = disk.open(&directory.segment_file(name), Access::Read).map_err(LogError::from);
        match opened.and_then(|file| read_file_header(file.as_ref(), name)) {
            Ok(header) => return Ok(Some(header)),
            Err(LogError::Damaged(_)) => {}
            Err(LogError::Disk(error)) if is_no_file_to_read(error.source.kind()) => {
                unreadable = unreadable.or(Some(error))
            }
            Err(error) => return Err(error),
        }
    }
    unreadable.map_or(Ok(None), |error| Err(error.into()))
}

/// What an empty `segments` directory means: the making of the log was interrupted, or it has lost them.
fn without_segments(disk: &dyn Disk, directory: &LogDirectory) -> Result<LogError, LogError> {
    match read_hard_state(disk, &directory.hard_state()) {
        Ok(state) if state.starts == 0 => Ok(LogError::NoLog(directory.path().to_owned())),
        Err(GenerationError::Disk(error)) if error.source.kind() == io::ErrorKind::NotFound => {
            Ok(LogError::NoLog(directory.path().to_owned()))
        }
        Err(GenerationError::Missing(_)) => Ok(LogError::NoLog(directory.path().to_owned())),
        Err(GenerationError::Disk(error)) => Err(error.into()),
        Ok(_) | Err(GenerationError::Damaged(_)) => {
            let name = relative(SegmentFile::Frames(SegmentNumber::new(0)));
            Ok(LogError::damaged(name, 0, None, "the file is missing, as all segments are; restore them from a copy"))
        }
    }
}

/// What a missing `segments` directory means: it is made before everything else of a log.
fn without_directory(disk: &dyn Disk, directory: &LogDirectory) -> Result<LogError, LogError> {
    for path in [directory.hard_state(), directory.signing_state(), directory.log_key(), directory.cosigner_key()] {
        match disk.open(&path, Access::Read) {
            Ok(_) => {
                let what = "the directory is missing, and this has been a log; restore it from a copy";
                return Ok(LogError::damaged("segments", 0, None, what));
            }
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(LogError::NoLog(directory.path().to_owned()))
}

/// Whether an open that ended so found something else than a file that this user can read.
pub(crate) const fn is_no_file_to_read(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, Other, PermissionDenied};
    matches!(kind, IsADirectory | NotADirectory | Other | PermissionDenied)
}

/// Whether a call failed because of the file or the medium, and not for want of means of this process.
pub(crate) fn is_of_the_file(error: &DiskError) -> bool {
    use rustix::io::Errno;
    let means = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
    matches!(error.operation, "open" | "read" | "look at")
        && error.source.kind() != io::ErrorKind::OutOfMemory
        && !means.contains(&error.source.raw_os_error())
}

fn is_missing(error: &DiskError) -> bool {
    matches!(error.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The segment behind the last sealed one. In a copy that was made read-only as a whole, an open file still
/// has slots in its flush ring, which rot cannot write.
pub(crate) fn first_unsealed(
    disk: &dyn Disk,
    directory: &LogDirectory,
    frames: &BTreeSet<SegmentNumber>,
) -> Result<SegmentNumber, LogError> {
    // The last file is never sealed: a sealed file has a successor.
    for segment in frames.iter().rev().skip(1) {
        let file = disk.open(&directory.segment_file(SegmentFile::Frames(*segment)), Access::Read)?;
        if file.status()?.read_only && read_ring(file.as_ref(), *segment)?.0.is_empty() {
            return Ok(segment.next());
        }
    }
    Ok(SegmentNumber::new(0))
}
