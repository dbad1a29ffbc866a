//! One segment file by itself, without the log before it.

use std::path::Path;

use stele_proof::LeafIndex;
use stele_proof::tree::{CompactRange, Hash};

use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, DiskFile, read_up_to};
use crate::error::{Damage, LogError};
use crate::frame::{FrameHeader, HEADER_BYTES, Tail};
use crate::number::SegmentNumber;
use crate::read_back::{Depth, SegmentReading, SegmentStart, read_back};
use crate::recovery::decide;
use crate::reserved::SegmentSealed;
use crate::scan::{FrameScanner, Seen};
use crate::seal::describe;
use crate::segment::{FRAMES_START, FileHeader, PayloadPart, RING_START, SegmentFile};

use super::files::{check_headers, check_sealed, or_damage, payload_tails};
use super::flush::{Flushed, RING_BYTES};
use super::records::RecordAudit;

/// What one segment file turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentReport {
    /// Which segment it says it is.
    pub segment: SegmentNumber,
    /// The leaf that it says is its first.
    pub first_leaf: LeafIndex,
    /// Records in it.
    pub records: u64,
    /// What its seal record must say; `None` where it is damaged or not sealed.
    pub sealed: Option<SegmentSealed>,
    /// What is damaged; empty for a good file.
    pub findings: Vec<Damage>,
    /// What is no damage and should be known.
    pub notes: Vec<String>,
}

/// Verifies one segment file, and its payload files where they lie beside it.
///
/// What it says about the log before it, its raft index, first leaf and link, is on trust: compare
/// [`SegmentReport::sealed`] with the seal record in the log.
///
/// # Errors
/// [`LogError::File`] where the name is not that of a segment file, [`LogError::Version`],
/// [`LogError::Disk`]. Damage is no error: it is in the report.
pub fn verify_segment(disk: &dyn Disk, path: &Path) -> Result<SegmentReport, LogError> {
    let named = path.file_name().and_then(|name| name.to_str()).and_then(SegmentFile::parse);
    let Some(SegmentFile::Frames(segment)) = named else {
        let why = "a segment file has 16 hexadecimal digits and `.seg` as its name; give one of those".to_owned();
        return Err(LogError::File { file: path.display().to_string(), why });
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = LogDirectory::of_segment_files(parent.unwrap_or(Path::new(".")));
    let file = disk.open(path, Access::Read)?;
    let mut report = SegmentReport {
        segment,
        first_leaf: LeafIndex::new(0),
        records: 0,
        sealed: None,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    match or_damage(start_of(file.as_ref(), segment), SegmentFile::Frames(segment))? {
        Err(damage) => report.findings.push(damage),
        Ok(None) => report.notes.push("the segment holds no frame yet".to_owned()),
        Ok(Some((header, start))) => {
            report.first_leaf = start.tail.leaves.next_leaf();
            Alone { disk, directory, file, header, start, report: &mut report }.run()?;
        }
    }
    Ok(report)
}

/// The header, and what the first frame says about the log before it; `None` where there is no frame.
fn start_of(file: &dyn DiskFile, segment: SegmentNumber) -> Result<Option<(FileHeader, SegmentStart)>, LogError> {
    let name = SegmentFile::Frames(segment);
    let header = read_file_header(file, name)?;
    let bytes = read_up_to(file, FRAMES_START.get(), HEADER_BYTES)?;
    if !file.status()?.read_only && !FrameScanner::new(file).non_zero_from(FRAMES_START.get())? {
        return Ok(None);
    }
    let damaged = |what: &str| LogError::damaged(relative(name), FRAMES_START.get(), None, what);
    let bytes = bytes.first_chunk().ok_or_else(|| damaged("the file ends inside its first frame"))?;
    let first = FrameHeader::decode(bytes, segment, FRAMES_START).map_err(|fault| damaged(&fault.to_string()))?;
    let tail = Tail::before_first(&header, &first).ok_or_else(|| damaged("no log has this first frame"))?;
    // The tree before the segment is not known. Nodes over its own leaves alone, of which its seal record
    // tells, do not depend on it.
    let peaks = vec![Hash::new([0; Hash::LEN]); tail.leaves.get().count_ones() as usize];
    let tree = CompactRange::from_peaks(tail.leaves, peaks).map_err(|error| damaged(&error.to_string()))?;
    Ok(Some((header, SegmentStart { tail, tree })))
}

/// The verification of one file.
struct Alone<'a> {
    disk: &'a dyn Disk,
    directory: LogDirectory,
    file: Box<dyn DiskFile>,
    header: FileHeader,
    start: SegmentStart,
    report: &'a mut SegmentReport,
}

impl Alone<'_> {
    fn run(mut self) -> Result<(), LogError> {
        let segment = self.header.segment;
        let parts = self.parts()?;
        let payloads = parts.iter().map(|part| (segment, *part)).collect();
        let inventory = Inventory::of_findings(&self.header, segment, segment, payloads);
        let ring = read_up_to(self.file.as_ref(), RING_START, RING_BYTES)?;
        let status = self.file.status()?;
        // An unsealed file was born with a slot in its ring.
        let cleared = ring.iter().all(|byte| *byte == 0);
        let end = if status.read_only || cleared { None } else { Some(self.find_end(&ring)?) };
        if end == Some(self.start.tail) {
            return Ok(());
        }
        let depth = if parts.is_empty() { Depth::Records } else { Depth::Everything };
        let mut reading = match self.read(end.as_ref(), depth)? {
            Ok(reading) => reading,
            Err(damage) => {
                self.report.findings.push(damage);
                return Ok(());
            }
        };
        self.report.records = reading.leaves.len();
        let named = reading.payloads.clone();
        if parts.is_empty() && !named.is_empty() {
            self.report.notes.push("its payload files are not beside it, so payloads were not checked".to_owned());
            reading.payloads.clear();
        }
        let (disk, directory) = (self.disk, &self.directory);
        self.report.findings.extend(check_headers(disk, directory, &inventory, &reading)?);
        if end.is_some() {
            self.report.notes.push("the segment is not sealed, so there is no digest to compare".to_owned());
            self.report.notes.extend(payload_tails(disk, directory, &inventory, &reading)?);
            return Ok(());
        }
        if !status.read_only {
            self.report.notes.push("a sealed segment should be read-only (mode 0444)".to_owned());
        }
        self.report.findings.extend(check_sealed(disk, directory, &inventory, &reading)?);
        if self.report.findings.is_empty() {
            reading.payloads = named;
            self.report.sealed = Some(describe(disk, directory, &self.start, &reading)?);
        }
        Ok(())
    }

    /// The payload files beside it.
    fn parts(&self) -> Result<Vec<PayloadPart>, LogError> {
        let names = self.disk.list(&self.directory.segments())?;
        let part = |name: &String| match SegmentFile::parse(name) {
            Some(SegmentFile::Payloads(segment, part)) if segment == self.header.segment => Some(part),
            _ => None,
        };
        Ok(names.iter().filter_map(part).collect())
    }

    /// Where the frames of a segment that is not sealed end.
    fn find_end(&mut self, ring: &[u8]) -> Result<Tail, LogError> {
        let segment = self.header.segment;
        let name = SegmentFile::Frames(segment);
        let flushed = Flushed::of_ring(segment, ring);
        flushed.check(&mut self.report.findings, &mut self.report.notes);
        let mut tail = self.start.tail;
        let mut scanner = FrameScanner::new(self.file.as_ref());
        let fault = loop {
            if tail.segment != segment {
                return Ok(tail);
            }
            match scanner.at(&tail)? {
                Seen::Frame(placed, _) => tail.advance(&placed),
                Seen::Nothing => break None,
                Seen::Bad(fault) => break Some(fault),
            }
        };
        let below_end = flushed.newest.is_some_and(|slot| tail.offset < slot.end);
        if below_end || scanner.non_zero_from(tail.offset.get())? {
            match or_damage(decide(&tail, flushed.told(segment), None, fault), name)? {
                Err(damage) => self.report.findings.push(damage),
                Ok(()) => {
                    let (name, at) = (relative(name), tail.offset);
                    self.report.notes.push(format!("{name}, byte {at}: a last group that was not acknowledged"));
                }
            }
        }
        Ok(tail)
    }

    fn read(&self, end: Option<&Tail>, depth: Depth) -> Result<Result<SegmentReading, Damage>, LogError> {
        let mut records = RecordAudit::new(self.header.alignment, self.header.height);
        if self.start.tail.leaves.get() > 0 {
            records.skip();
        }
        let (disk, directory) = (self.disk, &self.directory);
        let reading = read_back(disk, directory, &self.start, end, depth, &mut |leaf, record, self_hash, slot| {
            records.record(leaf, record, self_hash, slot)
        });
        or_damage(reading, SegmentFile::Frames(self.header.segment))
    }
}
