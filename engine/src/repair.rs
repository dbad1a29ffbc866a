//! Restoring what is damaged in a log from a copy of it, on one machine.
//!
//! | what | from where |
//! |---|---|
//! | frames of segment files | this log's own, else the copy's at the same place ([`plan`]'s table) |
//! | payloads | this log's own, else the copy's, each held against its record |
//! | file headers, padding, zeros of a sealed file | computed |
//! | the flush ring of an unsealed file | its own; the slot of a clean stop from hard state |
//! | tile sidecars, state files, `log.toml` | computed from the frames |
//! | `hard-state`, `signing-state` | the good copy beside the damaged one, in the same file |
//! | `checkpoint` | the copy's, where the log has its root and the policy accepts it |
//! | `hard-state` or `signing-state` without a good newest generation, `keys`, `policy` | never |
//!
//! Nothing is put in place that was not verified there first: every file is built beside the one that it will
//! replace, then the whole log is verified as if all of them were in place ([`crate::verify`]: frames, records,
//! payloads, seal records, signed roots). What is still damaged then is left as it is. What is replaced is kept
//! in `quarantine/`. The copy is only read.
//!
//! I-REPAIR-1: the name of a guarded file stands for what it was or for what was verified, at any moment.
//! I-REPAIR-2: no frame is taken that nothing of this log identifies.
//! I-REPAIR-3: no log is called whole that may end before what was acknowledged and the copy has ([`ends`]).

mod ends;
mod payloads;
mod plan;
mod source;
pub(crate) mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use stele_proof::TreeSize;

use crate::birth::{read_genesis, refresh_description};
use crate::checkpointing::MAX_FILE_BYTES;
use crate::directory::{LogDirectory, relative, remove_temporaries};
use crate::disk::{Access, Disk, DiskError, Mode, read_small, replace};
use crate::error::{Damage, LogError};
use crate::generation::{GenerationError, damaged_pages, read, restore_copies};
use crate::hard_state;
use crate::local::take_lock;
use crate::number::SegmentNumber;
use crate::segment::{FRAMES_START, PAGE_BYTES, SegmentFile};
use crate::signing_state;
use crate::verify::{Evidence, LogReport, Progress, VerifyOptions, audit};

use ends::{Ends, GO_ON_WITH_COPY};
pub use plan::Restored;
use plan::{Plan, Planner, Rebuild, Run};
use source::{Kinship, Source};
use stage::View;

/// What a restored file was held against before it was put in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldAgainst {
    /// Its seal record: length, digest, leaves, tree nodes, digest tree.
    SealRecord,
    /// The frames before and behind it, and a signed tree head of that many records.
    LinksAndSigned(TreeSize),
    /// The frames before and behind it.
    Links,
    /// What the frames give.
    Frames,
    /// The good copy beside the damaged one.
    OtherCopy,
    /// The settings of the log and its hard state: what stands before the first frame is computed.
    Settings,
    /// The log's root and its policy.
    RootAndPolicy,
}

/// One file that was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoredFile {
    /// Its name, relative to the log's directory.
    pub file: String,
    /// What of it was restored; empty where it was written as a whole.
    pub ranges: Vec<Restored>,
    /// What it was held against.
    pub held_against: HeldAgainst,
    /// Where what it replaced is kept.
    pub quarantined: Option<String>,
}

/// What a repair did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairReport {
    /// What was found damaged before.
    pub found: Vec<Damage>,
    /// What was restored.
    pub restored: Vec<RestoredFile>,
    /// What was moved away, and where to.
    pub moved: Vec<(String, String)>,
    /// What was not restored, and why.
    pub refused: Vec<Damage>,
    /// Keys and policy that are missing, and are never taken from a copy.
    pub missing: Vec<String>,
    /// The log as it is now; `None` where it cannot even be walked, which [`RepairReport::refused`] tells.
    pub after: Option<LogReport>,
}

impl RepairReport {
    /// Whether the log verifies now and nothing was refused: a log that lost its end may verify without it.
    pub fn is_whole(&self) -> bool {
        self.refused.is_empty() && self.after.as_ref().is_some_and(|after| after.findings.is_empty())
    }
}

/// Why nothing was repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The two directories are one.
    #[error("{} is the log itself; give a copy of it", .0.display())]
    Itself(PathBuf),
    /// The copy is of another log.
    #[error("{} is another log, not a copy of this one; nothing was changed", .0.display())]
    OtherLog(PathBuf),
    /// Neither the frames nor `log.toml` tell.
    #[error("nothing readable tells whether {} is a copy of this log; nothing was changed", .0.display())]
    Unknown(PathBuf),
    /// Where the copy should be there is no log.
    #[error("there is no log in {}, which was given as the copy; nothing was changed", .0.display())]
    NoCopy(PathBuf),
    /// The copy cannot be read.
    #[error("the copy cannot be read: {0}; make all of it readable for the user that runs the repair")]
    Copy(#[source] DiskError),
    /// Anything else.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl RepairError {
    /// An error of a call on the copy is told as such.
    fn of(error: LogError, copied: &LogDirectory) -> Self {
        match error {
            LogError::Disk(error) if error.path.starts_with(copied.path()) => Self::Copy(error),
            LogError::NoLog(path) if path == copied.path() => Self::NoCopy(path),
            other => Self::Log(other),
        }
    }
}

impl From<crate::disk::DiskError> for RepairError {
    fn from(error: crate::disk::DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// Restores what is damaged in the log at `path` from the copy at `from`.
///
/// # Errors
/// [`RepairError`]; whatever was in place before or was verified is in place then, and it can be run again.
pub fn repair(
    disk: &dyn Disk,
    path: &Path,
    from: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<RepairReport, RepairError> {
    let (directory, copied) = (LogDirectory::new(path), LogDirectory::new(from));
    if path.components().eq(from.components()) {
        return Err(RepairError::Itself(from.to_owned()));
    }
    // Before the lock, so that none is made where there is no log.
    match audit_shallow(disk, &directory) {
        Ok(()) | Err(LogError::Damaged(_)) => {}
        Err(LogError::Disk(error)) if stage::is_directory(disk, &error.path)? => {}
        Err(error) => return Err(error.into()),
    }
    if stage::is_no_directory(disk, &directory.quarantine())? {
        let file = directory.quarantine().display().to_string();
        let why =
            "it must be a directory, in which what is replaced is kept: move it away; nothing was changed".to_owned();
        return Err(LogError::File { file, why }.into());
    }
    let _lock = stage::Held(take_lock(disk, &directory)?);
    let of = |error| RepairError::of(error, &copied);
    let mut own = Source::look(disk, &directory)?;
    for file in own.files.clone() {
        if stage::is_directory(disk, &directory.segment_file(file))? {
            own.files.remove(&file);
        }
    }
    let copy = Source::look(disk, &copied).map_err(of)?;
    if copy.files.is_empty() {
        return Err(RepairError::NoCopy(from.to_owned()));
    }
    match own.kinship(&copy).map_err(of)? {
        Kinship::Same => {}
        Kinship::Other => return Err(RepairError::OtherLog(from.to_owned())),
        Kinship::Unknown => return Err(RepairError::Unknown(from.to_owned())),
    }
    let aside = stage::move_directories(disk, &directory)?;
    // Looked at again: what was moved is missing now.
    let own = Source::look(disk, &directory)?;
    let mut repair = Repair {
        disk,
        directory: &directory,
        copied: &copied,
        lost: Ends::read(&own)?.lost(),
        report: RepairReport {
            found: Vec::new(),
            restored: Vec::new(),
            moved: aside,
            refused: Vec::new(),
            missing: missing(disk, &directory)?,
            after: None,
        },
    };
    match repair.run(progress) {
        Ok(()) => Ok(repair.report),
        Err(error) => {
            // What was built takes space that may be what is missing. Where this fails, too, the first error
            // is the one to be told, and the next repair clears.
            match repair.clear() {
                Ok(()) | Err(_) => Err(of(error)),
            }
        }
    }
}

/// Whether there is a log at all, damaged or not.
fn audit_shallow(disk: &dyn Disk, directory: &LogDirectory) -> Result<(), LogError> {
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    crate::verify::survey::look(disk, directory, &mut findings, &mut notes)
}

/// A repair on its way.
struct Repair<'a> {
    disk: &'a dyn Disk,
    directory: &'a LogDirectory,
    copied: &'a LogDirectory,
    /// The file in which the log ends, where nobody knows where in it.
    lost: Option<Damage>,
    report: RepairReport,
}

/// What a verification told, also where it could not begin.
struct Look {
    report: Option<LogReport>,
    evidence: Evidence,
    findings: Vec<Damage>,
}

impl Look {
    fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether a file is known to be good.
    fn clears(&self, file: SegmentFile, segment: SegmentNumber) -> bool {
        let name = relative(file);
        self.report.is_some()
            && self.evidence.stopped.is_none_or(|stopped| segment <= stopped)
            && !self.findings.iter().any(|finding| finding.file == name)
    }
}

impl Repair<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), LogError> {
        let before = self.look(&View::new(self.disk), progress)?;
        let derived = self.lacks_derived(before.report.as_ref());
        if before.is_clean() && self.lost.is_none() && !derived {
            self.report.after = before.report;
            return Ok(());
        }
        self.report.found.clone_from(&before.findings);
        self.report.found.extend(self.lost.clone().filter(|lost| before.findings.iter().all(|f| f.file != lost.file)));
        self.clear()?;
        self.states()?;
        if self.lost.is_some()
            || before.findings.iter().any(|finding| finding.file.starts_with("segments") || is_head(&finding.file))
        {
            self.segments(progress)?;
        }
        self.checkpoint(&before.findings, progress)?;
        self.derived(progress)?;
        let after = self.look(&View::new(self.disk), progress)?;
        self.refuse(&after);
        self.report.after = after.report;
        Ok(())
    }

    /// As [`look`]; where the file is lost in which the log ends, there may be no record before it.
    fn look(&self, view: &View<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Look, LogError> {
        match (look(view, self.directory, progress), &self.lost) {
            (Err(LogError::NoLog(_)), Some(lost)) => {
                Ok(Look { report: None, evidence: Evidence::default(), findings: vec![lost.clone()] })
            }
            (looked, _) => looked,
        }
    }

    /// Removes what this repair or an interrupted one has built and not put in place.
    fn clear(&self) -> Result<(), LogError> {
        remove_temporaries(self.disk, self.directory)?;
        self.clean_quarantine()
    }

    /// Whether something derived is missing that no finding tells of.
    fn lacks_derived(&self, report: Option<&LogReport>) -> bool {
        report.is_none_or(|report| {
            report.notes.iter().any(|note| note.contains("tile sidecars are missing") || note.starts_with("log.toml "))
        })
    }

    /// What an interrupted repair left behind.
    fn clean_quarantine(&self) -> Result<(), LogError> {
        let place = self.directory.quarantine();
        let names = match self.disk.list(&place) {
            Err(error) if source::is_missing(&error) => return Ok(()),
            names => names?,
        };
        names
            .iter()
            .filter(|name| stage::is_unfinished_copy(name))
            .try_for_each(|name| self.disk.remove(&place.join(name)))?;
        Ok(())
    }

    /// Copies of hard state and signing state, from the good ones beside them.
    fn states(&mut self) -> Result<(), LogError> {
        let files = [
            ("hard-state", self.directory.hard_state(), hard_state::MAGIC),
            ("signing-state", self.directory.signing_state(), signing_state::MAGIC),
        ];
        for (name, path, magic) in files {
            let pages = match damaged_pages(self.disk, &path, magic) {
                Err(error) if source::is_missing(&error) => continue,
                pages => pages?,
            };
            // Where no copy of the newest generation is good, that is told of in the end.
            match read(self.disk, &path, magic) {
                Ok(_) if pages.is_empty() => continue,
                Ok(_) => {}
                Err(GenerationError::Damaged(_) | GenerationError::Missing(_)) => continue,
                Err(GenerationError::Disk(error)) => return Err(error.into()),
            }
            let quarantined = stage::quarantine(self.disk, self.directory, &path)?;
            restore_copies(self.disk, &path, magic)?;
            let ranges = pages.iter().map(|page| Restored::without_records(*page, page + PAGE_BYTES as u64)).collect();
            self.restored(name.to_owned(), ranges, HeldAgainst::OtherCopy, quarantined);
        }
        Ok(())
    }

    fn restored(&mut self, file: String, ranges: Vec<Restored>, held: HeldAgainst, quarantined: Option<String>) {
        self.report.restored.push(RestoredFile { file, ranges, held_against: held, quarantined });
    }

    /// Segment and payload files.
    fn segments(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), LogError> {
        let (disk, directory) = (self.disk, self.directory);
        // Where the log ended is not known without any segment file: then none is made.
        if is_missing_directory(disk, directory)? {
            if let Some(lost) = &self.lost {
                self.report.refused.push(lost.clone());
                return Ok(());
            }
            disk.create_directory(&directory.segments())?;
            disk.sync_directory(directory.path())?;
        }
        let own = Source::look(disk, directory)?;
        let copy = Source::look(disk, self.copied)?;
        let mut suspects = BTreeSet::new();
        let (plan, seen, paths) = loop {
            let plan = Planner::new(&own, &copy, &suspects)?.run()?;
            let mut view = View::new(disk);
            let mut paths = BTreeMap::new();
            for (file, rebuild) in &plan.files {
                let path = directory.segment_file(*file);
                view.staged.insert(path.clone(), stage::build(&own, &copy, *file, rebuild)?);
                paths.insert(*file, path);
            }
            disk.sync_directory(&directory.segments())?;
            let seen = self.look(&view, progress)?;
            let doubted = doubted(&plan, &seen);
            if doubted.is_subset(&suspects) {
                break (plan, seen, paths);
            }
            paths.values().try_for_each(|path| stage::remove(disk, &stage::temporary(path)))?;
            suspects.extend(doubted);
        };
        for (file, rebuild) in &plan.files {
            self.put(*file, &paths[file], rebuild, &plan, &seen)?;
        }
        for file in plan.unnamed.iter().filter(|file| seen.findings.iter().any(|found| found.file == relative(**file)))
        {
            let path = directory.segment_file(*file);
            if let Some(kept) = stage::quarantine(disk, directory, &path)? {
                disk.remove(&path)?;
                disk.sync_directory(&directory.segments())?;
                self.report.moved.push((relative(*file), kept));
            }
        }
        self.report.refused.extend(plan.lost);
        Ok(())
    }

    /// Puts a file in place that was verified, or takes it away again.
    fn put(
        &mut self,
        file: SegmentFile,
        path: &Path,
        rebuild: &Rebuild,
        plan: &Plan,
        seen: &Look,
    ) -> Result<(), LogError> {
        let (SegmentFile::Frames(segment)
        | SegmentFile::Payloads(segment, _)
        | SegmentFile::Tiles(segment)
        | SegmentFile::Hashes(segment)) = file;
        let run = plan.unidentified.as_ref().filter(|run| run.segments.contains(&segment));
        let identified = run.is_none_or(|run| is_identified(run, segment, seen));
        if !identified || !seen.clears(file, segment) {
            stage::remove(self.disk, &stage::temporary(path))?;
            let what = if identified {
                "what the copy has does not verify in its place".to_owned()
            } else {
                format!(
                    "what the copy has was not taken: nothing of this log follows it and no signed root covers it, so \
                     it may be that of a log that went another way; {GO_ON_WITH_COPY}"
                )
            };
            let from = rebuild.restored.first().copied();
            self.report.refused.push(Damage {
                file: relative(file),
                offset: from.map_or(0, |range| range.from),
                leaf: from.filter(|range| !range.leaves.is_empty()).map(|range| range.leaves.first),
                what,
            });
            return Ok(());
        }
        let quarantined = stage::quarantine(self.disk, self.directory, path)?;
        stage::install(self.disk, path)?;
        let held = if seen.evidence.recorded.contains(&segment) {
            HeldAgainst::SealRecord
        } else {
            held_against(file, &rebuild.restored, seen.evidence.signed)
        };
        self.restored(relative(file), rebuild.restored.clone(), held, quarantined);
        Ok(())
    }

    /// The stored checkpoint: another true one, where the copy has one.
    fn checkpoint(&mut self, found: &[Damage], progress: &mut dyn FnMut(Progress)) -> Result<(), LogError> {
        if !found.iter().any(|finding| finding.file == "checkpoint") {
            return Ok(());
        }
        let path = self.directory.checkpoint();
        let mut view = View::new(self.disk);
        if self.look(&view, progress)?.findings.iter().all(|finding| finding.file != "checkpoint") {
            return Ok(());
        }
        let Some(bytes) = read_small(self.disk, &self.copied.checkpoint(), MAX_FILE_BYTES)? else { return Ok(()) };
        // Looked at where it will lie: a temporary name beside it.
        let staged = stage::temporary(&path);
        stage::remove(self.disk, &staged)?;
        let file = self.disk.open(&staged, Access::Create)?;
        file.write_at(&bytes, 0)?;
        file.set_mode(Mode::Public)?;
        file.sync()?;
        view.staged.insert(path.clone(), staged.clone());
        let seen = self.look(&view, progress)?;
        let compared = seen.evidence.stopped.is_none() && seen.report.is_some();
        if !compared || seen.findings.iter().any(|finding| finding.file == "checkpoint" || finding.file == "policy") {
            return Ok(stage::remove(self.disk, &staged)?);
        }
        let quarantined = stage::quarantine(self.disk, self.directory, &path)?;
        stage::install(self.disk, &path)?;
        self.restored("checkpoint".to_owned(), Vec::new(), HeldAgainst::RootAndPolicy, quarantined);
        Ok(())
    }

    /// What is a function of the frames.
    fn derived(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), LogError> {
        let (disk, directory) = (self.disk, self.directory);
        let mut written: Vec<(String, Option<String>)> = Vec::new();
        let mut rewrite = |name: String, path: &Path, bytes: Option<&[u8]>| -> Result<(), LogError> {
            match bytes {
                Some(bytes) => {
                    if let Some(parent) = path.parent() {
                        disk.create_directory(parent)?;
                        disk.sync_directory(directory.path())?;
                    }
                    replace(disk, path, bytes, Mode::Sealed)?;
                    written.push((name, None));
                }
                None => {
                    let kept = stage::quarantine(disk, directory, path)?;
                    stage::remove(disk, path)?;
                    disk.sync_directory(&directory.states())?;
                    written.push((name, kept));
                }
            }
            Ok(())
        };
        let view = View::new(disk);
        match audit(&view, directory, &VerifyOptions::default(), Some(&mut rewrite), progress) {
            Ok(_) | Err(LogError::Damaged(_) | LogError::NoLog(_)) => {}
            Err(error) => return Err(error),
        }
        for (file, kept) in written {
            match kept {
                None => self.restored(file, Vec::new(), HeldAgainst::Frames, None),
                Some(kept) => self.report.moved.push((file, kept)),
            }
        }
        let described = read_small(disk, &directory.description(), MAX_FILE_BYTES)?;
        let genesis = match read_genesis(disk, directory) {
            Ok(genesis) => genesis,
            // Told of in the end.
            Err(LogError::Damaged(_) | LogError::NoLog(_) | LogError::Unfinished(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        refresh_description(disk, directory, &genesis)?;
        if read_small(disk, &directory.description(), MAX_FILE_BYTES)? != described {
            self.restored("log.toml".to_owned(), Vec::new(), HeldAgainst::Frames, None);
        }
        Ok(())
    }

    /// Tells what is still damaged, each file once, and what the operator can do about it.
    fn refuse(&mut self, after: &Look) {
        // What was refused stays so where the rest verifies: a log that was cut off at a frame does.
        let refused = &mut self.report.refused;
        for finding in &after.findings {
            let told = refused.iter().any(|damage| damage.file == finding.file);
            if !told {
                refused.push(Damage { what: with_remedy(finding), ..finding.clone() });
            }
        }
    }
}

/// What is damaged, and what only the operator can do.
fn with_remedy(finding: &Damage) -> String {
    let remedy = match finding.file.as_str() {
        "hard-state" => {
            "it is never taken from a copy, which may hold an older vote; where this node alone writes the log, copy it \
             from the backup yourself"
        }
        "signing-state" => {
            "it is never taken from a copy, which may not know the last signature; where no checkpoint was signed since \
             the backup was made, copy it from there yourself"
        }
        "policy" | "keys/log" | "keys/cosigner" => "it is never taken from a copy; copy it from the backup yourself",
        "checkpoint" => "the copy has none that holds; move it away, and `stele checkpoint` makes one",
        _ => return finding.what.clone(),
    };
    format!("{}; {remedy}", finding.what)
}

/// Files whose finding may be about records at the end of the log.
fn is_head(file: &str) -> bool {
    matches!(file, "signing-state" | "checkpoint")
}

/// What tells that restored ranges are right, without a seal record. A signed root covers records: where one holds
/// none (a header, a ring, a membership), there are only the links.
fn held_against(file: SegmentFile, ranges: &[Restored], signed: Option<TreeSize>) -> HeldAgainst {
    let is_frames = matches!(file, SegmentFile::Frames(_));
    if is_frames && ranges.iter().all(|range| range.to <= FRAMES_START.get()) {
        return HeldAgainst::Settings;
    }
    let covers = |size: TreeSize| {
        ranges
            .iter()
            .filter(|range| !is_frames || range.to > FRAMES_START.get())
            .all(|range| !range.leaves.is_empty() && range.leaves.end.get() <= size.get())
    };
    match signed.filter(|size| covers(*size)) {
        Some(size) => HeldAgainst::LinksAndSigned(size),
        None => HeldAgainst::Links,
    }
}

/// Whether what the copy has at the end is this log's.
fn is_identified(run: &Run, segment: SegmentNumber, seen: &Look) -> bool {
    let signed = seen.evidence.signed.is_some_and(|size| size.get() >= run.end.get());
    run.same_end || signed || seen.evidence.recorded.contains(&segment)
}

/// Segments whose own frames are good by themselves and do not add up.
fn doubted(plan: &Plan, seen: &Look) -> BTreeSet<SegmentNumber> {
    let lost = plan.lost.iter();
    let mut doubted = BTreeSet::new();
    for damage in lost.chain(&seen.findings) {
        let Some(SegmentFile::Frames(segment)) = damage.file.strip_prefix("segments/").and_then(SegmentFile::parse)
        else {
            continue;
        };
        doubted.insert(segment);
        if damage.offset == FRAMES_START.get()
            && let Some(before) = segment.get().checked_sub(1)
        {
            doubted.insert(SegmentNumber::new(before));
        }
    }
    doubted
}

/// What only a backup of this node has.
fn missing(disk: &dyn Disk, directory: &LogDirectory) -> Result<Vec<String>, LogError> {
    let files = [directory.log_key(), directory.cosigner_key(), directory.policy()];
    let mut missing = Vec::new();
    for (name, path) in ["keys/log", "keys/cosigner", "policy"].into_iter().zip(files) {
        match disk.open(&path, Access::Read) {
            Err(error) if source::is_missing(&error) => missing.push(name.to_owned()),
            opened => drop(opened?),
        }
    }
    Ok(missing)
}

fn is_missing_directory(disk: &dyn Disk, directory: &LogDirectory) -> Result<bool, LogError> {
    match disk.list(&directory.segments()) {
        Err(error) if source::is_missing(&error) => Ok(true),
        listed => Ok(listed.map(|_| false)?),
    }
}

fn look(disk: &dyn Disk, directory: &LogDirectory, progress: &mut dyn FnMut(Progress)) -> Result<Look, LogError> {
    match audit(disk, directory, &VerifyOptions::default(), None, progress) {
        Ok((report, evidence)) => {
            let findings = report.findings.clone();
            Ok(Look { report: Some(report), evidence, findings })
        }
        Err(LogError::Damaged(damage)) => {
            Ok(Look { report: None, evidence: Evidence::default(), findings: vec![damage] })
        }
        Err(error) => Err(error),
    }
}
