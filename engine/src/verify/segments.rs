//! The walk over all segments, one at a time, from the first frame to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use stele_proof::digest_tree::Digest;
use stele_proof::record::Record;
use stele_proof::tree::{self, CompactRange};
use stele_proof::{LeafIndex, TreeSize};

use crate::directory::{LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, DiskError, read_small};
use crate::environment::Workers;
use crate::error::{Damage, LogError};
use crate::frame::{FrameFault, Tail};
use crate::index::hashes::{self, Table, TableFault};
use crate::number::SegmentNumber;
use crate::read_back::{Depth, SegmentReading, SegmentStart, read_back, read_back_on_two};
use crate::reader::{MAX_TILES_BYTES, tail_behind};
use crate::recovery::decide;
use crate::recovery::table::Newest;
use crate::reserved::SegmentSealed;
use crate::ring::{RingState, read_ring};
use crate::scan::{FrameScanner, Seen};
use crate::seal::describe;
use crate::segment::SegmentFile;
use crate::tiles::{Tiles, TilesFault};

use super::files::{Derived, check_derived, check_headers, check_sealed, damage, or_damage, payload_tails};
use super::flush::Flushed;
use super::records::RecordAudit;
use super::seals::Seals;
use super::survey::{Survey, is_no_file_to_read};
use super::{Progress, Rewrite};

/// A verification on its way.
pub(super) struct Audit<'a> {
    disk: &'a dyn Disk,
    directory: &'a LogDirectory,
    pub(super) survey: Survey,
    pub(super) flushed: Flushed,
    pub(super) records: RecordAudit,
    seals: Seals,
    /// The body of the last membership entry that was read.
    pub(super) membership: Vec<u8>,
    /// The roots that are asked for, as far as they are known.
    roots: BTreeMap<TreeSize, Option<tree::Hash>>,
    /// Tail and tree behind what has been read.
    pub(super) walked: SegmentStart,
    /// Whether the walk had to stop before the end of the log.
    pub(super) stopped: bool,
    /// Segments that have a state file.
    states: BTreeSet<SegmentNumber>,
    missing_sidecars: u64,
    missing_tables: u64,
    /// Segments that are what their seal records say.
    pub(super) recorded: BTreeSet<SegmentNumber>,
    /// What becomes of derived files that are not what they must be.
    rewrite: Option<&'a mut Rewrite<'a>>,
    workers: Workers,
    pub(super) bytes: u64,
    pub(super) findings: Vec<Damage>,
    pub(super) notes: Vec<String>,
}

/// Where the readable frames of a segment end.
enum Stop {
    /// With its last frame.
    Ended,
    /// Where a writer at work has not yet proven more to be durable.
    Limit,
    /// Here is no frame; whether anything but zeros follows, and what is wrong with it.
    Bad(Rest, Option<FrameFault>),
}

/// What lies behind the last frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Zeros,
    Bytes,
}

impl<'a> Audit<'a> {
    /// Looks at the directory and at the flush rings.
    pub(super) fn start(
        disk: &'a dyn Disk,
        directory: &'a LogDirectory,
        sizes: Vec<TreeSize>,
        workers: Workers,
        rewrite: Option<&'a mut Rewrite<'a>>,
    ) -> Result<Self, LogError> {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let mut survey = Survey::take(disk, directory, &mut findings, &mut notes)?;
        let mut flushed = Flushed::read(disk, directory, &survey)?;
        // A writer may seal and roll between the look at the names and the look into the files.
        while flushed.writer && flushed.newest.is_none() {
            (findings, notes) = (Vec::new(), Vec::new());
            survey = Survey::take(disk, directory, &mut findings, &mut notes)?;
            flushed = Flushed::read(disk, directory, &survey)?;
        }
        if flushed.writer {
            // It makes files between two looks.
            findings.clear();
        }
        flushed.check(&mut findings, &mut notes);
        let inventory = &survey.inventory;
        let tail = Tail::start(inventory.alignment, inventory.height);
        let mut audit = Self {
            disk,
            directory,
            records: RecordAudit::new(inventory.alignment, inventory.height),
            survey,
            flushed,
            seals: Seals::default(),
            membership: Vec::new(),
            roots: sizes.into_iter().map(|size| (size, None)).collect(),
            walked: SegmentStart { tail, tree: CompactRange::new() },
            stopped: false,
            states: BTreeSet::new(),
            missing_sidecars: 0,
            missing_tables: 0,
            recorded: BTreeSet::new(),
            rewrite,
            workers,
            bytes: 0,
            findings,
            notes,
        };
        audit.keep_root(&CompactRange::new());
        Ok(audit)
    }

    /// Reads every segment.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), LogError> {
        let last = self.survey.inventory.last;
        let total = self.survey.total;
        while self.walked.tail.segment <= last {
            let segment = self.walked.tail.segment;
            progress(Progress { bytes: self.bytes.min(total), total });
            let goes_on = if segment < self.survey.inventory.sealed { self.sealed()? } else { self.unsealed()? };
            self.bytes += self.survey.bytes_of(self.disk, self.directory, segment)?;
            self.hold_seal_records();
            if !goes_on {
                break;
            }
        }
        progress(Progress { bytes: self.bytes.min(total), total });
        self.check_successor()?;
        self.check_states()?;
        let end = self.walked.tree.size().next_leaf();
        let height = self.survey.inventory.height;
        self.recorded = self.seals.agreed();
        std::mem::take(&mut self.seals).finish(end, height, &mut self.findings, &mut self.notes);
        if self.missing_sidecars > 0 {
            let missing = self.missing_sidecars;
            self.notes
                .push(format!("{missing} tile sidecars are missing or of an older format; they are derived, and reading is slow without"));
        }
        if self.missing_tables > 0 {
            let missing = self.missing_tables;
            self.notes.push(format!(
                "{missing} hash tables are missing or beside an older sidecar; they are derived, and finding by hash is slow without"
            ));
        }
        Ok(())
    }

    /// The root at a size that was asked for at the start; `None` where it is not known.
    pub(super) fn root_at(&self, size: TreeSize) -> Option<tree::Hash> {
        self.roots.get(&size).copied().flatten()
    }

    /// A sealed segment; answers whether the next one can be read.
    fn sealed(&mut self) -> Result<bool, LogError> {
        let segment = self.walked.tail.segment;
        let name = SegmentFile::Frames(segment);
        let reading = match self.read(None)? {
            Ok(reading) => reading,
            Err(damage) => {
                self.damaged(segment, damage);
                return self.go_on_behind(segment);
            }
        };
        let (disk, directory, inventory) = (self.disk, self.directory, &self.survey.inventory);
        let wrong = match check_headers(disk, directory, inventory, &reading)? {
            None => check_sealed(disk, directory, inventory, &reading)?,
            wrong => wrong,
        };
        match wrong {
            Some(damage) => {
                self.findings.push(damage);
                self.seals.damaged(segment);
                self.end_segment(&reading)?;
            }
            None => self.good(&reading)?,
        }
        if !disk.open(&directory.segment_file(name), Access::Read)?.status()?.read_only {
            self.notes.push(format!("{} is sealed and should be read-only (mode 0444)", relative(name)));
        }
        let (found, file) = (self.check_sidecar(&reading)?, SegmentFile::Tiles(segment));
        let path = self.directory.segment_file(file);
        let is_missing = matches!(found, Derived::Missing);
        if !self.derived(found, relative(file), &path, &reading.tiles)? && is_missing {
            self.missing_sidecars += 1;
        }
        self.check_table(&reading)?;
        self.advance(&reading)?;
        Ok(true)
    }

    /// A segment that is not sealed; answers whether another one follows.
    fn unsealed(&mut self) -> Result<bool, LogError> {
        let segment = self.walked.tail.segment;
        let name = SegmentFile::Frames(segment);
        let (tail, stop) = match or_damage(self.scan(), name)? {
            Ok(found) => found,
            Err(damage) => {
                self.damaged(segment, damage);
                return self.go_on_behind(segment);
            }
        };
        let healthy = self.judge(&tail, &stop)?;
        if tail != self.walked.tail {
            let reading = match self.read(Some(&tail))? {
                Ok(reading) => reading,
                Err(damage) => {
                    self.damaged(segment, damage);
                    match self.read_frames(Some(&tail))? {
                        Some(reading) => reading,
                        None => return self.stop(),
                    }
                }
            };
            self.finish_unsealed(&reading, matches!(stop, Stop::Ended) && healthy)?;
        }
        if !healthy {
            return self.stop();
        }
        Ok(matches!(stop, Stop::Ended))
    }

    fn finish_unsealed(&mut self, reading: &SegmentReading, ended: bool) -> Result<(), LogError> {
        let (disk, directory, inventory) = (self.disk, self.directory, &self.survey.inventory);
        if !self.seals.is_damaged(reading.segment) {
            if let Some(damage) = check_headers(disk, directory, inventory, reading)? {
                self.findings.push(damage);
            }
            if !self.flushed.writer {
                self.notes.extend(payload_tails(disk, directory, inventory, reading)?);
            }
            if ended {
                self.good(reading)?;
            }
        }
        if ended {
            let file = SegmentFile::Tiles(reading.segment);
            match self.check_sidecar(reading)? {
                Derived::Missing => {}
                found => {
                    self.derived(found, relative(file), &self.directory.segment_file(file), &reading.tiles)?;
                }
            }
        }
        self.advance(reading)
    }

    /// Keeps what the seal record of a segment must say.
    fn good(&mut self, reading: &SegmentReading) -> Result<(), LogError> {
        let body = describe(self.disk, self.directory, &self.walked, reading)?;
        let state_digest = self.end_segment(reading)?;
        self.seals.good(SegmentSealed { state_digest, ..body });
        Ok(())
    }

    /// Looks at the state file of a segment, where one is due, and answers its digest.
    fn end_segment(&mut self, reading: &SegmentReading) -> Result<Option<Digest>, LogError> {
        let Some(state) = self.records.end_segment(reading) else { return Ok(None) };
        self.states.insert(reading.segment);
        let path = self.directory.state(reading.segment);
        match check_derived(self.disk, &path, state_name(reading.segment), &state)? {
            // It is made when the segment is sealed.
            Derived::Missing if reading.segment >= self.survey.inventory.sealed => {}
            found => {
                self.derived(found, state_name(reading.segment), &path, &state)?;
            }
        }
        Ok(Some(Digest::of(&state)))
    }

    /// Has a derived file written anew, where that is asked for, else tells of it; answers whether it is now
    /// what it must be.
    fn derived(&mut self, found: Derived, name: String, path: &Path, bytes: &[u8]) -> Result<bool, LogError> {
        match (found, self.rewrite.as_mut()) {
            (Derived::Good, _) => return Ok(true),
            (Derived::Missing | Derived::Damaged(_), Some(rewrite)) => {
                rewrite(name, path, Some(bytes))?;
                return Ok(true);
            }
            (Derived::Missing, None) => {}
            (Derived::Damaged(damage), None) => self.findings.push(damage),
        }
        Ok(false)
    }

    /// Looks at the hash table of a sealed segment: whether it is whole, and that of this segment. A log can do
    /// without.
    fn check_table(&mut self, reading: &SegmentReading) -> Result<(), LogError> {
        let file = SegmentFile::Hashes(reading.segment);
        let table = Table::open_beside(self.disk, self.directory, reading.segment, &reading.tiles);
        let found = match table.and_then(|table| table.check()) {
            Ok(()) => return Ok(()),
            Err(TableFault::Missing) => Derived::Missing,
            // It names the sidecar beside it.
            Err(TableFault::Other) if self.has_older_sidecar(reading.segment)? => Derived::Missing,
            // A call that failed is no damage, unless what stands there is no file that this user can read.
            Err(TableFault::Unreadable(kind)) if !is_no_file_to_read(kind) => {
                let path = self.directory.segment_file(file);
                return Err(DiskError { operation: "read", path, source: kind.into() }.into());
            }
            Err(fault) => {
                let what = format!("{fault}; it is derived: `stele repair` computes it anew");
                Derived::Damaged(Damage { file: relative(file), offset: 0, leaf: None, what })
            }
        };
        let is_missing = matches!(found, Derived::Missing);
        let bytes = match &self.rewrite {
            Some(_) => hashes::compute(self.disk, self.directory, self.walked.tail, &reading.tiles)?,
            None => Vec::new(),
        };
        if !self.derived(found, relative(file), &self.directory.segment_file(file), &bytes)? && is_missing {
            self.missing_tables += 1;
        }
        Ok(())
    }

    fn check_sidecar(&self, reading: &SegmentReading) -> Result<Derived, LogError> {
        let name = SegmentFile::Tiles(reading.segment);
        match check_derived(self.disk, &self.directory.segment_file(name), relative(name), &reading.tiles)? {
            Derived::Damaged(_) if self.has_older_sidecar(reading.segment)? => Ok(Derived::Missing),
            found => Ok(found),
        }
    }

    /// Whether the sidecar of a segment is a good one of an older format, which counts as missing.
    fn has_older_sidecar(&self, segment: SegmentNumber) -> Result<bool, LogError> {
        let path = self.directory.segment_file(SegmentFile::Tiles(segment));
        let bytes = match read_small(self.disk, &path, MAX_TILES_BYTES) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            bytes => bytes.ok().flatten(),
        };
        let decoded = bytes.map(|bytes| Tiles::decode(bytes, segment));
        Ok(matches!(decoded, Some(Err(TilesFault::OlderVersion(_)))))
    }

    /// A log is opened from its newest state file: there must be none that was not due.
    fn check_states(&mut self) -> Result<(), LogError> {
        let names = match self.disk.list(&self.directory.states()) {
            Ok(names) => names,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for segment in names.iter().filter_map(|name| u64::from_str_radix(name, 16).ok()).map(SegmentNumber::new) {
            let walked = segment < self.walked.tail.segment || !self.flushed.writer;
            if walked && !self.records.is_broken() && !self.states.contains(&segment) {
                if let Some(rewrite) = self.rewrite.as_mut() {
                    rewrite(state_name(segment), &self.directory.state(segment), None)?;
                    continue;
                }
                let what = "no state file was due for this segment; it is derived: remove it".to_owned();
                self.findings.push(Damage { file: state_name(segment), offset: 0, leaf: None, what });
            }
        }
        Ok(())
    }

    /// Finds the last readable frame of the segment at hand.
    fn scan(&self) -> Result<(Tail, Stop), LogError> {
        let mut tail = self.walked.tail;
        let segment = tail.segment;
        let name = SegmentFile::Frames(segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        read_file_header(file.as_ref(), name)?;
        let limit = if self.flushed.writer { self.flushed.newest } else { None };
        let mut scanner = FrameScanner::new(file.as_ref());
        let fault = loop {
            if tail.segment != segment {
                return Ok((tail, Stop::Ended));
            }
            if limit.is_some_and(|slot| (segment, tail.offset) >= (slot.segment, slot.start)) {
                return Ok((tail, Stop::Limit));
            }
            match scanner.at(&tail)? {
                Seen::Frame(placed, _) => tail.advance(&placed),
                Seen::Nothing => break None,
                Seen::Bad(fault) => break Some(fault),
            }
        };
        let rest = if scanner.non_zero_from(tail.offset.get())? { Rest::Bytes } else { Rest::Zeros };
        Ok((tail, Stop::Bad(rest, fault)))
    }

    /// Whether the frames end where they may: at the end of the log, or at a group that was torn.
    fn judge(&mut self, tail: &Tail, stop: &Stop) -> Result<bool, LogError> {
        let Stop::Bad(rest, fault) = stop else { return Ok(true) };
        let name = SegmentFile::Frames(tail.segment);
        let newest = self.flushed.newest;
        let below_end = newest.is_some_and(|slot| (tail.segment, tail.offset) < (slot.segment, slot.end));
        let is_last = tail.segment == self.survey.inventory.last;
        let is_told = self.flushed.told(tail.segment).own == Newest::Readable;
        if *rest == Rest::Zeros && fault.is_none() && !below_end && is_last && is_told {
            return Ok(true);
        }
        let fault_text = fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
        if !self.flushed.writer && self.disk.is_locked(&self.directory.lock())? {
            let (name, at) = (relative(name), tail.offset);
            self.notes.push(format!("{name}, byte {at}: {fault_text}; the log is being written now, run this again"));
            return Ok(true);
        }
        match or_damage(decide(tail, self.flushed.told(tail.segment), self.flushed.clean, *fault), name)? {
            Err(damage) => self.damaged(tail.segment, damage),
            Ok(()) if !is_last => {
                let what = format!("{fault_text}, but a later segment file follows; restore the file from a copy");
                let leaf = Some(tail.leaves.next_leaf());
                self.damaged(tail.segment, Damage { leaf, ..damage(name, tail.offset.get(), &what) });
            }
            Ok(()) => {
                let (name, at) = (relative(name), tail.offset);
                self.notes.push(format!("{name}, byte {at}: {fault_text}; a last group that was not acknowledged"));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the segment at hand, up to its last frame or up to `end`, and all there is in it.
    fn read(&mut self, end: Option<&Tail>) -> Result<Result<SegmentReading, Damage>, LogError> {
        let records = &mut self.records;
        let visit = &mut |leaf: LeafIndex, record: &Record<'_>, self_hash, slot: &[u8]| {
            records.record(leaf, record, self_hash, slot)
        };
        let reading = match self.workers {
            Workers::Threads => read_back_on_two,
            Workers::Inline => read_back,
        };
        let reading = reading(self.disk, self.directory, &self.walked, end, Depth::Everything, visit);
        or_damage(reading, SegmentFile::Frames(self.walked.tail.segment))
    }

    /// Reads the frames of the segment at hand and nothing else; `None` where they are damaged.
    fn read_frames(&self, end: Option<&Tail>) -> Result<Option<SegmentReading>, LogError> {
        let (disk, directory) = (self.disk, self.directory);
        let reading = read_back(disk, directory, &self.walked, end, Depth::Leaves, &mut |_, _, _, _| Ok(()));
        Ok(or_damage(reading, SegmentFile::Frames(self.walked.tail.segment))?.ok())
    }

    fn damaged(&mut self, segment: SegmentNumber, damage: Damage) {
        self.findings.push(damage);
        self.seals.damaged(segment);
        self.records.skip();
    }

    /// Moves behind a damaged segment: by its frames where these are good, else by its sidecar.
    fn go_on_behind(&mut self, segment: SegmentNumber) -> Result<bool, LogError> {
        if self.survey.has(segment)
            && let Some(reading) = self.read_frames(None)?
        {
            self.advance(&reading)?;
            return Ok(true);
        }
        let path = self.directory.segment_file(SegmentFile::Tiles(segment));
        let bytes = match read_small(self.disk, &path, MAX_TILES_BYTES) {
            Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            bytes => bytes.ok().flatten(),
        };
        let here = &self.walked.tail;
        let fits =
            |tiles: &Tiles| (tiles.leaves().first, tiles.first_index()) == (here.leaves.next_leaf(), here.next_index);
        match bytes.and_then(|bytes| Tiles::decode(bytes, segment).ok()).filter(fits) {
            Some(tiles) => {
                self.walk_leaves(&tiles);
                self.walked.tail = tail_behind(&self.survey.inventory, &tiles);
                Ok(true)
            }
            None => self.stop(),
        }
    }

    /// Ends the walk before the end of the log.
    fn stop(&mut self) -> Result<bool, LogError> {
        self.stopped = true;
        self.records.skip();
        let segment = self.walked.tail.segment;
        if segment < self.survey.inventory.last {
            let name = relative(SegmentFile::Frames(segment));
            self.notes.push(format!("what follows {name} was not checked: where it begins is not known"));
        }
        Ok(false)
    }

    /// Moves behind what was read.
    fn advance(&mut self, reading: &SegmentReading) -> Result<(), LogError> {
        if let Some(membership) = &reading.membership {
            self.membership.clone_from(membership);
        }
        let sizes = self.walked.tree.size()..=reading.tree.size();
        if self.roots.range(sizes).next().is_some() {
            let tiles = Tiles::decode(reading.tiles.clone(), reading.segment)
                .map_err(|fault| LogError::damaged(relative(SegmentFile::Tiles(reading.segment)), 0, None, fault))?;
            self.walk_leaves(&tiles);
        }
        self.walked = SegmentStart { tail: reading.end, tree: reading.tree.clone() };
        Ok(())
    }

    /// Appends a segment's leaves to the tree, and keeps the roots that are asked for on the way.
    fn walk_leaves(&mut self, tiles: &Tiles) {
        let leaves = tiles.leaves();
        let hashes = (leaves.first.get()..leaves.end.get()).filter_map(|leaf| tiles.leaf_hash(LeafIndex::new(leaf)));
        let mut tree = std::mem::take(&mut self.walked.tree);
        for hash in hashes {
            tree.append(hash);
            self.keep_root(&tree);
        }
        self.walked.tree = tree;
    }

    fn keep_root(&mut self, tree: &CompactRange) {
        if let Some(root) = self.roots.get_mut(&tree.size()) {
            *root = Some(tree.root());
        }
    }

    /// Holds the seal records met so far against their segments.
    fn hold_seal_records(&mut self) {
        for (leaf, record) in std::mem::take(&mut self.records.sealed) {
            self.findings.extend(self.seals.recorded(leaf, &record));
        }
    }

    /// A sealed segment always has a successor. In a copy that was made read-only as a whole, the last one
    /// has not ended.
    fn check_successor(&mut self) -> Result<(), LogError> {
        let last = self.survey.inventory.last;
        let path = self.directory.segment_file(SegmentFile::Frames(last));
        let next = SegmentFile::Frames(last.next());
        if self.flushed.writer || self.findings.iter().any(|finding| finding.file == relative(next)) {
            return Ok(());
        }
        let file = self.disk.open(&path, Access::Read)?;
        // In a copy that was made read-only as a whole, the open file still has its flush ring.
        if file.status()?.read_only && read_ring(file.as_ref(), last)?.1 == RingState::Cleared {
            let what = "the file is missing: a sealed segment always has a successor; restore it from a copy";
            self.findings.push(damage(next, 0, what));
        }
        Ok(())
    }
}

/// How findings name a state file.
fn state_name(segment: SegmentNumber) -> String {
    format!("state/{:016x}", segment.get())
}
