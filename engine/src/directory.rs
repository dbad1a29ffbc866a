//! A log's directory: where each file lies (DETAILS.md), and which segments are there.

use std::io;
use std::path::{Path, PathBuf};

use stele_proof::LeafIndex;

use crate::disk::{Access, Disk, DiskFile, TEMPORARY, read_up_to};
use crate::error::{Damage, LogError};
use crate::generation::GenerationError;
use crate::hard_state::read_hard_state;
use crate::number::{Alignment, BlockHeight, SegmentNumber};
use crate::recovery::examine::REMEDY;
use crate::ring::{RingState, read_ring};
use crate::segment::{FRAMES_START, FileHeader, HeaderFault, PAGE_BYTES, PayloadPart, SegmentFile};

/// The paths of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDirectory {
    path: PathBuf,
    segments: PathBuf,
}

impl LogDirectory {
    /// A log at this path, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { segments: path.join("segments"), path }
    }

    /// No log: a directory in which segment files lie by themselves.
    pub fn of_segment_files(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { segments: path.clone(), path }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy of what genesis says, for people; derived.
    pub fn description(&self) -> PathBuf {
        self.path.join("log.toml")
    }

    /// Frames, payloads and tile sidecars.
    pub fn segments(&self) -> PathBuf {
        self.segments.clone()
    }

    /// Space for the next segment file ([`crate::prepare`]).
    pub fn prepared(&self) -> PathBuf {
        self.segments().join(format!("prepared{TEMPORARY}"))
    }

    /// A file of a segment.
    pub fn segment_file(&self, file: SegmentFile) -> PathBuf {
        self.segments().join(file.name())
    }

    /// State files.
    pub fn states(&self) -> PathBuf {
        self.path.join("state")
    }

    /// The state file of a segment.
    pub fn state(&self, segment: SegmentNumber) -> PathBuf {
        self.states().join(format!("{:016x}", segment.get()))
    }

    /// Vote, incarnation, clean mark.
    pub fn hard_state(&self) -> PathBuf {
        self.path.join("hard-state")
    }

    /// The last signed tree head.
    pub fn signing_state(&self) -> PathBuf {
        self.path.join("signing-state")
    }

    /// Private keys.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// The log key.
    pub fn log_key(&self) -> PathBuf {
        self.keys().join("log")
    }

    /// The cosigner key.
    pub fn cosigner_key(&self) -> PathBuf {
        self.keys().join("cosigner")
    }

    /// The policy that proofs of this log are checked against.
    pub fn policy(&self) -> PathBuf {
        self.path.join("policy")
    }

    /// The latest checkpoint made here.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// Says that segments are being taken over from other nodes ([`crate::adopt`]): there is no log yet.
    pub fn joining(&self) -> PathBuf {
        self.path.join("joining")
    }

    /// Damaged files that were replaced; never read again.
    pub fn quarantine(&self) -> PathBuf {
        self.path.join("quarantine")
    }

    /// The index: derived, and no part of the log ([`crate::index`]).
    pub fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// How far the index got.
    pub fn index_mark(&self) -> PathBuf {
        self.index().join("mark")
    }

    /// The store under the index.
    pub fn index_store(&self) -> PathBuf {
        self.index().join("store")
    }

    /// The lock of whoever has the index open.
    pub fn index_lock(&self) -> PathBuf {
        self.path.join("index.lock")
    }

    /// An index that was moved aside.
    pub fn bad_index(&self, number: u32) -> PathBuf {
        self.path.join(format!("index.bad-{number}"))
    }

    /// The advisory lock.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }
}

/// The name of a segment's file as error messages give it, relative to the log's directory.
pub fn relative(file: SegmentFile) -> String {
    format!("segments/{}", file.name())
}

/// What lies in the `segments` directory.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The log's frame alignment.
    pub alignment: Alignment,
    /// The log's block height.
    pub height: BlockHeight,
    /// Segment 0 up to, but not with, this one have been sealed.
    pub sealed: SegmentNumber,
    /// The last segment file.
    pub last: SegmentNumber,
    /// Payload parts per segment, ascending.
    payloads: Vec<(SegmentNumber, PayloadPart)>,
}

impl Inventory {
    /// Takes stock of a log's files; reads one header.
    ///
    /// # Errors
    /// [`LogError::NoLog`], [`LogError::Unfinished`], [`LogError::Damaged`] where a segment is missing,
    /// [`LogError::Version`].
    pub fn take(disk: &dyn Disk, directory: &LogDirectory) -> Result<Self, LogError> {
        let names = match disk.list(&directory.segments()) {
            Ok(names) => names,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                return Err(without_directory(disk, directory));
            }
            Err(error) => return Err(error.into()),
        };
        let mut next = SegmentNumber::new(0);
        let mut payloads = Vec::new();
        for name in &names {
            match SegmentFile::parse(name) {
                Some(SegmentFile::Frames(number)) if number == next => next = next.next(),
                Some(SegmentFile::Frames(_)) => {
                    let missing = relative(SegmentFile::Frames(next));
                    return Err(LogError::damaged(missing, 0, None, format!("the segment file is missing; {REMEDY}")));
                }
                Some(SegmentFile::Payloads(number, part)) => payloads.push((number, part)),
                Some(SegmentFile::Tiles(_) | SegmentFile::Hashes(_)) | None => {}
            }
        }
        payloads.sort_unstable();
        let Some(last) = next.get().checked_sub(1).map(SegmentNumber::new) else {
            return Err(without_segments(disk, directory));
        };
        let is_read_only = |segment| -> Result<bool, LogError> {
            let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
            Ok(file.status()?.read_only)
        };
        // In a copy that was made read-only as a whole, the open file still has its flush ring.
        let is_cleared = |segment| -> Result<bool, LogError> {
            let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
            Ok(read_ring(file.as_ref(), segment)?.1 == RingState::Cleared)
        };
        if is_read_only(last)? && is_cleared(last)? {
            let missing = relative(SegmentFile::Frames(next));
            let what =
                format!("the segment file is missing: the one before it is sealed, and so has a successor; {REMEDY}");
            return Err(LogError::damaged(missing, 0, None, what));
        }
        let mut sealed = last;
        while let Some(before) = sealed.get().checked_sub(1).map(SegmentNumber::new) {
            if is_read_only(before)? {
                break;
            }
            sealed = before;
        }
        let header = any_file_header(disk, directory, last)?;
        Ok(Self { alignment: header.alignment, height: header.height, sealed, last, payloads })
    }

    /// What a look at files found that need not be a good log.
    pub(crate) const fn of_findings(
        header: &FileHeader,
        sealed: SegmentNumber,
        last: SegmentNumber,
        payloads: Vec<(SegmentNumber, PayloadPart)>,
    ) -> Self {
        Self { alignment: header.alignment, height: header.height, sealed, last, payloads }
    }

    /// The inventory of a log that has no segment yet.
    pub(crate) const fn of_new_log(alignment: Alignment, height: BlockHeight) -> Self {
        let first = SegmentNumber::new(0);
        Self { alignment, height, sealed: first, last: first, payloads: Vec::new() }
    }

    /// Payload parts of a segment that exist.
    pub fn payload_parts(&self, segment: SegmentNumber) -> impl Iterator<Item = PayloadPart> + '_ {
        self.payloads.iter().filter(move |(number, _)| *number == segment).map(|(_, part)| *part)
    }

    /// The header that a file of this log must have.
    pub const fn header(&self, segment: SegmentNumber, part: Option<PayloadPart>) -> FileHeader {
        FileHeader { segment, part, alignment: self.alignment, height: self.height }
    }
}

/// The header of the first segment file that has a good one: it tells the log's settings.
fn any_file_header(disk: &dyn Disk, directory: &LogDirectory, last: SegmentNumber) -> Result<FileHeader, LogError> {
    let mut first = None;
    for segment in (0..=last.get()).map(SegmentNumber::new) {
        let name = SegmentFile::Frames(segment);
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        match read_file_header(file.as_ref(), name) {
            Err(LogError::Damaged(damage)) => {
                first.get_or_insert(damage);
            }
            other => return other,
        }
    }
    match first {
        Some(damage) => Err(LogError::Damaged(Damage { what: format!("{}; {REMEDY}", damage.what), ..damage })),
        None => Err(LogError::NoLog(directory.path().to_owned())),
    }
}

/// The directory of segments is made before the hard state: where that is, the directory was lost.
fn without_directory(disk: &dyn Disk, directory: &LogDirectory) -> LogError {
    match disk.open(&directory.hard_state(), Access::Read) {
        Ok(_) => LogError::damaged("segments", 0, None, format!("the directory is missing; {REMEDY}")),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => LogError::NoLog(directory.path().to_owned()),
        Err(error) => error.into(),
    }
}

/// A log whose making was interrupted has no segment yet; one that has been open has lost them.
fn without_segments(disk: &dyn Disk, directory: &LogDirectory) -> LogError {
    match read_hard_state(disk, &directory.hard_state()) {
        Ok(state) if state.starts > 0 => {
            let missing = relative(SegmentFile::Frames(SegmentNumber::new(0)));
            LogError::damaged(missing, 0, None, format!("the segment file is missing; {REMEDY}"))
        }
        Err(GenerationError::Disk(error)) if error.source.kind() != io::ErrorKind::NotFound => error.into(),
        Err(error @ GenerationError::Damaged(_)) => error.into(),
        Ok(_) | Err(_) => LogError::Unfinished(directory.path().to_owned()),
    }
}

/// Reads and checks the header of a segment or payload file against its name.
///
/// # Errors
/// [`LogError::Damaged`] or [`LogError::Version`].
pub fn read_file_header(file: &dyn DiskFile, name: SegmentFile) -> Result<FileHeader, LogError> {
    let page = read_up_to(file, 0, PAGE_BYTES)?;
    let header = FileHeader::decode(&page).map_err(|fault| match fault {
        HeaderFault::Damaged => LogError::damaged(relative(name), 0, None, fault),
        HeaderFault::UnknownVersion(_) => LogError::Version { file: relative(name), fault },
    })?;
    let named = match header.part {
        None => SegmentFile::Frames(header.segment),
        Some(part) => SegmentFile::Payloads(header.segment, part),
    };
    if named != name {
        let what = format!("the file says it is {}: files were swapped", named.name());
        return Err(LogError::damaged(relative(name), 0, None, what));
    }
    // It was born with its ring (I-RING-3). Without one, what it held would look as if never flushed.
    let len = file.status()?.len;
    if header.part.is_none() && len < FRAMES_START.get() {
        return Err(LogError::damaged(relative(name), len, None, "the file ends inside its flush ring"));
    }
    Ok(header)
}

/// Opens a payload file for reading. It was durable before the frame that names it, so its absence is damage.
///
/// # Errors
/// [`LogError::Damaged`] where it is missing; [`LogError::Disk`].
pub(crate) fn open_payloads(
    disk: &dyn Disk,
    directory: &LogDirectory,
    name: SegmentFile,
    leaf: Option<LeafIndex>,
) -> Result<Box<dyn DiskFile>, LogError> {
    disk.open(&directory.segment_file(name), Access::Read).map_err(|error| match error.source.kind() {
        io::ErrorKind::NotFound => {
            LogError::damaged(relative(name), 0, leaf, format!("the payload file is missing; {REMEDY}"))
        }
        _ => error.into(),
    })
}

/// Whether this is the name of one of a log's own files, in whichever of its directories.
pub(crate) fn is_own_name(name: &str) -> bool {
    let is_state =
        || name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    OWN_NAMES.contains(&name) || SegmentFile::parse(name).is_some() || is_state()
}

/// Files of a log that are no segment's. `prepared` exists under its temporary name only.
const OWN_NAMES: [&str; 8] =
    ["log.toml", "hard-state", "signing-state", "policy", "checkpoint", "log", "cosigner", "prepared"];

/// Deletes what an interrupted creation left behind; what an operator has put there has other names.
///
/// # Errors
/// [`crate::disk::DiskError`] of the failed call.
pub fn remove_temporaries(disk: &dyn Disk, directory: &LogDirectory) -> Result<(), LogError> {
    for path in [directory.path().to_owned(), directory.segments(), directory.states(), directory.keys()] {
        let names = match disk.list(&path) {
            Ok(names) => names,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for name in names.iter().filter(|name| name.strip_suffix(TEMPORARY).is_some_and(is_own_name)) {
            disk.remove(&path.join(name))?;
        }
    }
    Ok(())
}
