//! Reading a log again, a step at a time, to find what has rotted before it is needed.
//!
//! | what | compared with |
//! |---|---|
//! | frames | their checksums and links |
//! | records | the canonical form, the leaves in the tile sidecar, the record before them in their chain |
//! | `checkpoint`, `signing-state` | the root of so many records |
//! | payloads | the commitments in the records; padding with zeros |
//! | a sealed file | its seal record: length, digest, leaves, nodes, digest tree; its flush ring with zeros |
//! | tile sidecars, state files of sealed segments | what the frames give, the digest in the seal record |
//! | hash tables | their own checksums and order, the tile sidecar that they name |
//! | `hard-state`, `signing-state` | checksums of every copy; what a copy holds, the other |
//! | unsealed files | what the flush ring and the clean mark prove durable |
//!
//! It reads past the page cache where the file system can: what is compared is what lies on the disk. It takes
//! no lock and writes nothing, and works beside a writer, of whose files it reads what the flush ring proves
//! durable. Not covered, and covered by [`crate::verify`]: signatures, keys, the policy, `log.toml`. Covered by neither:
//! `lock`, `index`, the node's own numbers in `hard-state`.
//!
//! What cannot be opened or read, or is no file, is a finding like any other, and the scrub goes on. Only the mode of the
//! newest segment files and the flush rings of unsealed ones must be readable: without them nothing tells what the
//! others are held against, and the scrub ends with the error.
//!
//! All that it compares lies in the log's own directory. So it cannot find what somebody changed who set right
//! everything that depends on it: of an unsealed segment the checksums, if no signed head covers it; of a sealed one all
//! chains, sidecars, seal records and files behind it, and with this node's keys the signed heads, too. Whoever holds an
//! older checkpoint from elsewhere finds that ([`crate::verify`] takes one).
//!
//! A scrub that begins behind the log's first segment, or goes on behind damage, takes the first record of each chain
//! there at its word.
//!
//! Behind a damaged body the next frame is read; behind a damaged frame header, or an unreadable place, the
//! next segment, where its sidecar tells where that begins.
//!
//! The engine does not wait: a [`Scrubber`] does a bounded step when it is asked, and [`Pace`] says how long
//! the caller should wait before the next. [`Scrubber::position`] is where a scrub that is interrupted goes on.

mod beside;
mod direct;
mod follow;
mod pace;
mod segment;

use std::path::Path;
use std::sync::Arc;

use stele_proof::tree::CompactRange;
use stele_proof::{LeafIndex, TreeSize};

use crate::directory::{LogDirectory, relative};
use crate::disk::{Access, Disk, read_up_to};
use crate::environment::Environment;
use crate::error::{Damage, LogError};
use crate::frame::{FrameFault, Tail};
use crate::number::{Offset, SegmentNumber};
use crate::reader::{LogReader, tail_behind};
use crate::recovery::decide;
use crate::reserved::SegmentSealed;
use crate::scan::{FrameScanner, Seen};
use crate::seal::digest_of;
use crate::segment::{FRAMES_START, SegmentFile};
use crate::verify::flush::Flushed;
use crate::verify::seals::Seals;
use crate::verify::survey::{Survey, is_of_the_file};

use beside::{TableState, check_states, check_table, unreadable};
use direct::PastTheCache;
use follow::{Follow, Whole};
use segment::{SegmentWork, Standing};

pub use pace::Pace;

/// Findings that are told of one segment; more are counted.
const MAX_FINDINGS: u64 = 16;
/// Bytes of prepared space that are looked at at a time.
const REST_BYTES: usize = 256 << 10;

/// Where a scrub goes on: at the start of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScrubPosition {
    /// The first segment that has not been compared with everything that there is to compare it with.
    pub segment: SegmentNumber,
}

/// Something that is not what was written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScrubFinding {
    /// The segment it belongs to, where its file has one.
    pub segment: Option<SegmentNumber>,
    /// File, offset, record, and what is wrong.
    pub damage: Damage,
}

impl ScrubFinding {
    fn of(damage: Damage) -> Self {
        let segment = match damage.file.split_once('/') {
            Some(("segments", name)) => SegmentFile::parse(name).map(|file| match file {
                SegmentFile::Frames(segment)
                | SegmentFile::Payloads(segment, _)
                | SegmentFile::Tiles(segment)
                | SegmentFile::Hashes(segment) => segment,
            }),
            Some(("state", name)) => u64::from_str_radix(name, 16).ok().map(SegmentNumber::new),
            _ => None,
        };
        Self { segment, damage }
    }
}

/// Whether there is more to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// There is.
    GoesOn,
    /// Everything has been read, or what is left cannot be.
    Done,
}

/// What a step did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes that were read from the disk.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<ScrubFinding>,
    /// What is no damage and should be known.
    pub notes: Vec<String>,
    /// Whether there is more to read.
    pub outcome: Outcome,
}

/// What was read so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ScrubTotals {
    /// Bytes of segment and payload files.
    pub bytes: u64,
    /// Bytes of them that were there when the scrub began.
    pub of_bytes: u64,
    /// Records.
    pub records: u64,
    /// Segments of which all was read that could be.
    pub segments: u64,
}

/// A scrub on its way.
pub struct Scrubber {
    disk: PastTheCache,
    directory: LogDirectory,
    survey: Survey,
    flushed: Flushed,
    /// The first segment of this scrub.
    first: SegmentNumber,
    /// Where the segment at hand begins.
    tail: Tail,
    /// The tree there; `None` behind records that could not be read.
    tree: Option<CompactRange>,
    work: Option<SegmentWork>,
    phase: Phase,
    seals: Seals,
    follow: Follow,
    totals: ScrubTotals,
    /// Records before this scrub's first one.
    before: TreeSize,
    /// Bytes read that were told of.
    told_bytes: u64,
    missing_sidecars: u64,
    missing_tables: u64,
    /// Whether it ended before the end of the log.
    stopped: bool,
    /// Findings in the segment at hand.
    found: u64,
    step: Step,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Frames,
    /// Whether anything but zeros lies behind the last frame of the last segment, from this offset on.
    Rest(u64),
    Done,
}

/// What lies behind the last frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Zeros,
    Bytes,
}

impl Scrubber {
    /// Begins a scrub at a position of an earlier one, else at the start of the log. At a position in an unsealed segment
    /// it begins at the first of those.
    ///
    /// # Errors
    /// [`LogError::NoLog`], [`LogError::Version`], [`LogError::Disk`]; [`LogError::Damaged`] where no segment file
    /// has a readable header; [`LogError::NoSegment`].
    pub fn start(environment: &Environment, path: &Path, from: Option<ScrubPosition>) -> Result<Self, LogError> {
        let disk = PastTheCache::new(Arc::clone(&environment.disk));
        let directory = LogDirectory::new(path);
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let mut survey = Survey::take(&disk, &directory, &mut findings, &mut notes)?;
        if let Some(from) = from.filter(|from| from.segment > survey.inventory.last) {
            return Err(LogError::NoSegment { segment: from.segment, last: survey.inventory.last });
        }
        let mut flushed = Flushed::read(&disk, &directory, &survey)?;
        // A writer may seal and roll between the look at the names and the look into the files; again only where it did.
        while flushed.writer && flushed.newest.is_none() {
            let last = survey.inventory.last;
            (findings, notes) = (Vec::new(), Vec::new());
            survey = Survey::take(&disk, &directory, &mut findings, &mut notes)?;
            flushed = Flushed::read(&disk, &directory, &survey)?;
            if survey.inventory.last == last {
                break;
            }
        }
        if flushed.writer {
            findings.clear();
        }
        flushed.check(&mut findings, &mut notes);
        if flushed.writer && flushed.newest.is_none() {
            let segment = relative(SegmentFile::Frames(survey.inventory.sealed));
            notes.push(format!("no flush ring from {segment} on has a readable slot: nothing there is known durable"));
        }
        let mut follow = Follow::new();
        findings.extend(check_states(&disk, &directory)?);
        follow.read_heads(&disk, &directory, &mut findings)?;
        let mut tail = Tail::start(survey.inventory.alignment, survey.inventory.height);
        let mut tree = CompactRange::new();
        // What is read to find the place counts, too: the caller waits for it.
        let environment = Environment { disk: Arc::new(disk.clone()), ..environment.clone() };
        if let Some(from) = from.filter(|from| from.segment.get() > 0) {
            let from = from.segment.min(survey.inventory.sealed);
            match LogReader::open(&environment, path).and_then(|reader| reader.segment_start(from)) {
                Ok(start) => {
                    (tail, tree) = (start.tail, start.tree);
                    follow.skip();
                }
                // Then it begins at the start, and finds that.
                Err(LogError::Damaged(_)) => {}
                Err(LogError::Disk(error)) if is_of_the_file(&error) => {}
                Err(error) => return Err(error),
            }
        }
        findings.extend(follow.compare(&tree));
        let findings = findings.into_iter().map(ScrubFinding::of).collect();
        let mut totals = ScrubTotals { of_bytes: survey.total, ..ScrubTotals::default() };
        for segment in (0..tail.segment.get()).map(SegmentNumber::new) {
            totals.of_bytes = totals.of_bytes.saturating_sub(survey.bytes_of(&disk, &directory, segment)?);
        }
        let before = tree.size();
        Ok(Self {
            disk,
            directory,
            survey,
            flushed,
            first: tail.segment,
            tail,
            tree: Some(tree),
            work: None,
            phase: Phase::Frames,
            seals: Seals::default(),
            follow,
            totals,
            before,
            told_bytes: 0,
            missing_sidecars: 0,
            missing_tables: 0,
            stopped: false,
            found: 0,
            step: Step { bytes: 0, findings, notes, outcome: Outcome::GoesOn },
        })
    }

    /// Where to begin again after an interruption.
    pub fn position(&self) -> ScrubPosition {
        let here = self.tail.segment;
        ScrubPosition { segment: self.seals.oldest_waiting().map_or(here, |waiting| waiting.min(here)) }
    }

    /// What was read so far.
    pub fn totals(&self) -> ScrubTotals {
        let here = self.work.as_ref().map_or(0, |work| work.tail.offset.get().saturating_sub(self.tail.offset.get()));
        ScrubTotals { bytes: self.totals.bytes + here, ..self.totals }
    }

    /// Reads on until about so many bytes have been read: the frame at hand, with its payloads, is finished. What was
    /// read to begin counts as the first step's.
    ///
    /// # Errors
    /// [`LogError::Disk`], [`LogError::Version`]. Damage is no error: it is in the answer.
    pub fn step(&mut self, bytes: u64) -> Result<Step, LogError> {
        let before = self.told_bytes;
        while self.phase != Phase::Done && self.disk.bytes_read() - before < bytes.max(1) {
            self.go_on(before + bytes.max(1))?;
        }
        let outcome = if self.phase == Phase::Done { Outcome::Done } else { Outcome::GoesOn };
        let next = Step { bytes: 0, findings: Vec::new(), notes: Vec::new(), outcome };
        self.told_bytes = self.disk.bytes_read();
        let read = self.told_bytes - before;
        Ok(Step { bytes: read, outcome, ..std::mem::replace(&mut self.step, next) })
    }

    fn go_on(&mut self, budget_end: u64) -> Result<(), LogError> {
        let Some(mut work) = self.work.take() else { return self.begin() };
        let done = match self.phase {
            Phase::Frames => self.frames(&mut work, budget_end),
            Phase::Rest(from) => self.rest(&work, from),
            Phase::Done => Ok(()),
        };
        match done {
            Ok(()) => {}
            Err(LogError::Damaged(damage)) => {
                self.tell(damage, &mut work);
                work.given_up = true;
            }
            // A place that cannot be read is what a scrub is there to find.
            Err(LogError::Disk(error)) => {
                let damage = unreadable(&self.directory, error, Some(work.tail.leaves.next_leaf()))?;
                let is_here = damage.file == relative(SegmentFile::Frames(work.tail.segment));
                let offset = if is_here { work.tail.offset.get() } else { damage.offset };
                self.tell(Damage { offset, ..damage }, &mut work);
                work.given_up = true;
            }
            Err(error) => return Err(error),
        }
        if work.given_up && self.phase != Phase::Done {
            return self.behind(&work);
        }
        if work.tail.segment != self.tail.segment {
            return self.finish_segment(&work);
        }
        self.work = Some(work);
        if self.phase == Phase::Done { self.finish() } else { Ok(()) }
    }

    /// Opens the segment at hand.
    fn begin(&mut self) -> Result<(), LogError> {
        let segment = self.tail.segment;
        self.found = 0;
        if segment > self.survey.inventory.last {
            return self.finish();
        }
        let standing = if segment < self.survey.inventory.sealed { Standing::Sealed } else { Standing::Open };
        let mut work = SegmentWork::new(self.tail, self.tree.clone(), standing);
        match work.open(&self.disk, &self.directory, &self.survey.inventory) {
            Ok(None) => {}
            Ok(Some(told)) => {
                self.missing_sidecars += u64::from(told.is_missing);
                if let Some(damage) = told.damage {
                    self.tell(damage, &mut work);
                }
            }
            Err(LogError::Damaged(damage)) => {
                self.tell(damage, &mut work);
                work.given_up = true;
            }
            Err(LogError::Disk(error)) => {
                let damage = unreadable(&self.directory, error, Some(self.tail.leaves.next_leaf()))?;
                self.tell(damage, &mut work);
                work.given_up = true;
            }
            Err(error) => return Err(error),
        }
        if work.given_up {
            return self.behind(&work);
        }
        self.work = Some(work);
        Ok(())
    }

    /// Reads frames until the budget is used up or the segment ends.
    fn frames(&mut self, work: &mut SegmentWork, budget_end: u64) -> Result<(), LogError> {
        let name = SegmentFile::Frames(self.tail.segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        let mut scanner = FrameScanner::new(file.as_ref());
        let limit = self.limit();
        while self.disk.bytes_read() < budget_end {
            let tail = work.tail;
            if tail.segment != self.tail.segment {
                return Ok(());
            }
            if limit.is_some_and(|limit| (tail.segment, tail.offset) >= limit) {
                self.phase = Phase::Done;
                return Ok(());
            }
            let fault = match scanner.at(&tail)? {
                Seen::Frame(placed, body) => {
                    let found = work.frame(&self.disk, &self.directory, &placed, body, &mut self.follow)?;
                    self.totals.records += u64::from(placed.header.leaf_count);
                    for damage in found.damage {
                        self.tell(damage, work);
                    }
                    if found.lost_seal {
                        self.seals.lost();
                    }
                    self.hold(found.sealed)?;
                    continue;
                }
                Seen::Nothing if work.standing == Standing::Open && limit.is_none() => {
                    self.phase = Phase::Rest(tail.offset.get());
                    return Ok(());
                }
                Seen::Nothing => None,
                Seen::Bad(fault) => Some(fault),
            };
            if work.standing == Standing::Open && limit.is_none() {
                self.judge(work, Rest::Bytes, fault)?;
                if self.phase == Phase::Done {
                    return Ok(());
                }
            } else {
                let what = fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
                let (file, leaf) = (relative(name), Some(tail.leaves.next_leaf()));
                self.tell(Damage { file, offset: tail.offset.get(), leaf, what }, work);
            }
            // A good header still says how long the frame is, and which records it holds.
            match scanner.header_at(tail.segment, tail.offset)? {
                Some((header, bytes)) if work.skip(&header, &bytes) => self.follow.skip(),
                _ => {
                    work.given_up = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Where what is known to be durable ends, beside a writer.
    fn limit(&self) -> Option<(SegmentNumber, Offset)> {
        let unsealed = (self.survey.inventory.sealed, FRAMES_START);
        self.flushed.writer.then(|| self.flushed.newest.map_or(unsealed, |slot| (slot.segment, slot.start)))
    }

    /// Looks for anything but zeros behind the last frame.
    fn rest(&mut self, work: &SegmentWork, from: u64) -> Result<(), LogError> {
        let name = SegmentFile::Frames(self.tail.segment);
        let file = self.disk.open(&self.directory.segment_file(name), Access::Read)?;
        let bytes = read_up_to(file.as_ref(), from, REST_BYTES)?;
        if bytes.iter().any(|byte| *byte != 0) {
            self.phase = Phase::Frames;
            self.judge(work, Rest::Bytes, None)?;
        } else if bytes.len() == REST_BYTES {
            self.phase = Phase::Rest(from + bytes.len() as u64);
            return Ok(());
        } else {
            self.phase = Phase::Frames;
            self.judge(work, Rest::Zeros, None)?;
        }
        // Where it is damage, nothing behind it has a known place.
        if self.phase != Phase::Done {
            self.stop();
        }
        Ok(())
    }

    /// Whether the frames of an unsealed segment end where they may, where nobody else writes: then the scrub
    /// is done, else damage is told.
    fn judge(&mut self, work: &SegmentWork, rest: Rest, fault: Option<FrameFault>) -> Result<(), LogError> {
        let tail = work.tail;
        let name = relative(SegmentFile::Frames(tail.segment));
        let newest = self.flushed.newest;
        let below_end = newest.is_some_and(|slot| (tail.segment, tail.offset) < (slot.segment, slot.end));
        let is_last = tail.segment == self.survey.inventory.last;
        if rest == Rest::Zeros && !below_end && is_last {
            self.phase = Phase::Done;
            return Ok(());
        }
        let what = fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
        if self.disk.is_locked(&self.directory.lock())? {
            self.note(format!("{name}, byte {}: {what}; the log is being written now, run this again", tail.offset));
            self.stopped = true;
            self.phase = Phase::Done;
            return Ok(());
        }
        let leaf = Some(tail.leaves.next_leaf());
        match decide(&tail, self.flushed.told(tail.segment), self.flushed.clean, fault) {
            Err(LogError::Damaged(damage)) => self.tell_only(damage),
            Err(error) => return Err(error),
            Ok(()) if !is_last => {
                let what = format!("{what}, but a later segment file follows; restore the file from a copy");
                self.tell_only(Damage { file: name, offset: tail.offset.get(), leaf, what });
            }
            Ok(()) => {
                self.note(format!("{name}, byte {}: {what}; a last group that was not acknowledged", tail.offset));
                self.phase = Phase::Done;
            }
        }
        Ok(())
    }

    /// The segment at hand was read to its end.
    fn finish_segment(&mut self, work: &SegmentWork) -> Result<(), LogError> {
        let segment = self.tail.segment;
        let ended = work.end(&self.disk, &self.directory, &self.survey.inventory)?;
        for damage in ended.damage {
            self.tell_only(damage);
        }
        self.missing_tables += u64::from(ended.table == Some(TableState::Missing));
        match ended.body {
            Some(body) => self.seals.good(*body),
            None => self.seals.damaged(segment),
        }
        self.tree.clone_from(&work.tree);
        self.move_to(work.tail)
    }

    /// Moves behind a segment that could not be read to its end: by its sidecar.
    fn behind(&mut self, work: &SegmentWork) -> Result<(), LogError> {
        self.seals.damaged(self.tail.segment);
        self.follow.skip();
        match &work.sidecar {
            Some(tiles) => {
                let mut damage = Vec::new();
                let segment = self.tail.segment;
                let table = check_table(&self.disk, &self.directory, segment, Some(tiles.as_bytes()), &mut damage);
                self.missing_tables += u64::from(table == TableState::Missing);
                damage.into_iter().for_each(|damage| self.tell_only(damage));
                let leaves = tiles.leaves().first.get()..tiles.leaves().end.get();
                if let Some(tree) = &mut self.tree {
                    for hash in leaves.filter_map(|leaf| tiles.leaf_hash(LeafIndex::new(leaf))) {
                        tree.append(hash);
                    }
                }
                let tail = tail_behind(&self.survey.inventory, tiles);
                self.move_to(tail)
            }
            None => {
                self.stop();
                self.finish()
            }
        }
    }

    fn move_to(&mut self, tail: Tail) -> Result<(), LogError> {
        self.flush_count();
        let segment = self.tail.segment;
        self.totals.bytes += self.survey.bytes_of(&self.disk, &self.directory, segment)?;
        self.totals.segments += 1;
        self.tail = tail;
        Ok(())
    }

    /// Ends the scrub before the end of the log.
    fn stop(&mut self) {
        let segment = self.tail.segment;
        if segment < self.survey.inventory.last {
            let name = relative(SegmentFile::Frames(segment));
            self.note(format!("what follows {name} was not read: where it begins is not known"));
        }
        self.stopped = true;
        self.phase = Phase::Done;
    }

    fn finish(&mut self) -> Result<(), LogError> {
        self.phase = Phase::Done;
        self.flush_count();
        if self.missing_sidecars > 0 {
            let missing = self.missing_sidecars;
            self.note(format!("{missing} tile sidecars are missing; they are derived, and reading is slow without"));
        }
        if self.missing_tables > 0 {
            let missing = self.missing_tables;
            self.note(format!(
                "{missing} hash tables are missing; they are derived, and finding by hash is slow without"
            ));
        }
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        let leaves = self.work.as_ref().map_or(self.tail, |work| work.tail).leaves;
        let end = leaves.next_leaf();
        let whole = if self.stopped || self.flushed.writer { Whole::InPart } else { Whole::ToTheEnd };
        self.follow.finish(self.before, leaves, whole, &mut findings, &mut notes);
        std::mem::take(&mut self.seals).finish(end, self.survey.inventory.height, &mut findings, &mut notes);
        self.step.findings.extend(findings.into_iter().map(ScrubFinding::of));
        self.step.notes.extend(notes);
        Ok(())
    }

    /// Holds seal records against the segments they are about, as far as this scrub has read them.
    fn hold(&mut self, records: Vec<(LeafIndex, SegmentSealed)>) -> Result<(), LogError> {
        for (leaf, mut record) in records {
            if record.segment < self.first {
                continue;
            }
            if let Some(digest) = record.state_digest.take() {
                let path = self.directory.state(record.segment);
                match self.disk.open(&path, Access::Read).and_then(|file| digest_of(file.as_ref())) {
                    Ok(found) if found == digest => {}
                    Ok(_) => {
                        let file = format!("state/{:016x}", record.segment.get());
                        let what = format!(
                            "the state file is not what the seal record, record {leaf}, says; it is derived: \
                             `stele repair` computes it anew"
                        );
                        self.tell_only(Damage { file, offset: 0, leaf: None, what });
                    }
                    // It is derived, and made again when the log is opened.
                    Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        let damage = unreadable(&self.directory, error, None)?;
                        self.tell_only(damage);
                    }
                }
            }
            if let Some(damage) = self.seals.recorded(leaf, &record) {
                self.step.findings.push(ScrubFinding::of(damage));
            }
        }
        Ok(())
    }

    fn tell(&mut self, damage: Damage, work: &mut SegmentWork) {
        work.is_told = true;
        self.tell_only(damage);
    }

    fn tell_only(&mut self, damage: Damage) {
        self.found += 1;
        if self.found <= MAX_FINDINGS {
            self.step.findings.push(ScrubFinding::of(damage));
        }
    }

    /// Tells how many findings of a segment were not told.
    fn flush_count(&mut self) {
        if let Some(more) = self.found.checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
            let name = relative(SegmentFile::Frames(self.tail.segment));
            self.note(format!("{name}: {more} more findings in this segment"));
        }
        self.found = 0;
    }

    fn note(&mut self, note: String) {
        self.step.notes.push(note);
    }
}
