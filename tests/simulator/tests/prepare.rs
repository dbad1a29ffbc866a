//! Space prepared for the next segment file: crashed, killed and failed at every call.
//!
//! Examined: the log opens and holds what was acknowledged, no temporary is left, and every sealed file
//! has the bytes it has where nothing is prepared. Not examined: how fast anything is.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, TEMPORARY};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, PushError, SealSettings};
use stele_engine::number::{BlockHeight, SegmentNumber};
use stele_engine::reader::LogReader;
use stele_engine::segment::SegmentFile;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::tree::Hash;
use stele_proof::{TreeSize, UnixMillis};
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;
use stele_simulator::source::environment;

const LOG: &str = "/log";
const FLAVOURS: [Flavour; 2] = [Flavour::Failed, Flavour::FailedButApplied];
/// A block of 2^8 leaves is to be sealed in this: as `stele_engine` reckons.
const LOW_WATER: u64 = 256 * (33 + 16 + 39) + (8 << 20);
/// A little more than is zeroed in one step.
const SEAL_BYTES: u64 = (1 << 20) + (64 << 10);

fn settings() -> SealSettings {
    SealSettings { bytes: SEAL_BYTES, ..SealSettings::default() }
}

fn open(disk: &FakeDisk) -> Result<LocalLog, LogError> {
    let mut log = LocalLog::open(&environment(disk), Path::new(LOG))?;
    log.set_seal_settings(settings());
    Ok(log)
}

/// A log whose making is over, so that no call of it is crashed here.
fn created() -> (FakeDisk, LocalLog) {
    let disk = FakeDisk::new(Media::TearsSectors, 1);
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    let mut log = LocalLog::create(&environment(&disk), Path::new(LOG), &options).unwrap();
    log.set_seal_settings(settings());
    (disk, log)
}

/// What this run has been promised.
#[derive(Clone, Copy, Default)]
struct Promised {
    size: u64,
}

/// Takes some records, and waits until they are durable.
fn add(log: &mut LocalLog, promised: &mut Promised, count: u64) -> Result<(), LogError> {
    add_large(log, promised, (count, 10))
}

fn add_large(log: &mut LocalLog, promised: &mut Promised, (count, len): (u64, usize)) -> Result<(), LogError> {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    let payload = vec![b'x'; len];
    for _ in 0..count {
        let submission = Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), &payload)) };
        match log.push(&submission) {
            Ok(_) => {}
            Err(PushError::Log(error)) => return Err(error),
            Err(refused) => panic!("a good record was refused: {refused}"),
        }
    }
    log.flush()?;
    promised.size = log.size().get();
    Ok(())
}

/// Whether the preparer takes its turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Preparing {
    Steps,
    Never,
}

/// What the rolls of a run found: how much longer than its frames a file was born.
type Born = Vec<u64>;

/// Rolls into what is ready, without anything ready, into what is ready by then, and closes while more is
/// being prepared.
fn run(
    (disk, mut log): (&FakeDisk, LocalLog),
    preparing: Preparing,
    promised: &mut Promised,
    born: &mut Born,
) -> Result<(), LogError> {
    let step = |log: &LocalLog, count: u32| {
        (0..count).filter(|_| preparing == Preparing::Steps).for_each(|_| log.prepare_step());
    };
    let roll = |log: &mut LocalLog, promised: &mut Promised, born: &mut Born| -> Result<(), LogError> {
        let ended = log.end_segment()?.unwrap();
        log.flush()?;
        if !disk.is_off() {
            born.push(disk.look(&file(ended.next())).map_or(0, |(bytes, _)| bytes.len() as u64));
        }
        log.seal_next();
        promised.size = log.size().get();
        Ok(())
    };
    add(&mut log, promised, 130)?;
    step(&log, 4);
    roll(&mut log, promised, born)?;
    add(&mut log, promised, 30)?;
    add(&mut log, promised, 40)?;
    step(&log, 1);
    roll(&mut log, promised, born)?;
    step(&log, 3);
    add(&mut log, promised, 20)?;
    roll(&mut log, promised, born)?;
    add(&mut log, promised, 20)?;
    step(&log, 2);
    log.close()?;
    promised.size = promised.size.max(size_of(disk));
    Ok(())
}

fn size_of(disk: &FakeDisk) -> u64 {
    LogReader::open(&environment(disk), Path::new(LOG)).map_or(0, |reader| reader.size().get())
}

fn file(segment: SegmentNumber) -> PathBuf {
    LogDirectory::new(LOG).segment_file(SegmentFile::Frames(segment))
}

fn temporaries(disk: &FakeDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(TEMPORARY)).collect()
}

fn sealed_files(disk: &FakeDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let look = |path: PathBuf| {
        let (bytes, mode) = disk.look(&path)?;
        (mode == Mode::Sealed).then_some((path, bytes))
    };
    disk.paths().into_iter().filter_map(look).collect()
}

/// The run in which nothing is prepared.
struct Plain {
    sealed: BTreeMap<PathBuf, Vec<u8>>,
    roots: Vec<Hash>,
}

impl Plain {
    fn make() -> Self {
        let (disk, log) = created();
        let mut born = Born::new();
        run((&disk, log), Preparing::Never, &mut Promised::default(), &mut born).unwrap();
        assert_eq!(born, [16_384; 3], "a plain file is born with its head only");
        let reader = LogReader::open(&environment(&disk), Path::new(LOG)).unwrap();
        let roots = (0..=reader.size().get()).map(|size| reader.root_at(TreeSize::new(size)).unwrap()).collect();
        Self { sealed: sealed_files(&disk), roots }
    }

    /// Opens what a crash or kill has left, and examines it.
    fn examine(&self, disk: &FakeDisk, promised: Promised, what: &str) {
        let log = open(disk).unwrap_or_else(|error| panic!("{what}: open: {error}"));
        let size = log.size().get();
        assert!(size >= promised.size, "{what}: {size} records, {} promised", promised.size);
        assert_eq!(temporaries(disk), [""; 0].map(PathBuf::from), "{what}");
        log.close().unwrap_or_else(|error| panic!("{what}: close: {error}"));
        assert_eq!(temporaries(disk), [""; 0].map(PathBuf::from), "{what}");
        for (path, bytes) in sealed_files(disk) {
            let plain = self.sealed.get(&path).unwrap_or_else(|| panic!("{what}: {} is sealed", path.display()));
            assert!(*plain == bytes, "{what}: {} has other bytes than without preparing", path.display());
        }
        let reader = LogReader::open(&environment(disk), Path::new(LOG)).unwrap();
        let promised = TreeSize::new(promised.size);
        let root = self.roots[usize::try_from(promised.get()).unwrap()];
        assert_eq!(reader.root_at(promised).unwrap(), root, "{what}");
    }

    /// Two outcomes of this moment.
    fn examine_moment(&self, disk: &FakeDisk, promised: Promised, what: &str) {
        let crashed = disk.crash(&mut SplitMix64::new(disk.calls()));
        self.examine(&crashed, promised, &format!("{what}, crash"));
        let report = verify_log(&crashed, &LogDirectory::new(LOG), &VerifyOptions::default(), &mut |_| ());
        assert_eq!(report.unwrap().findings, [], "{what}");
        self.examine(&disk.kill(), promised, &format!("{what}, kill"));
    }
}

#[test]
fn sealed_files_have_the_same_bytes_with_and_without_prepared_space() {
    let plain = Plain::make();
    let (disk, log) = created();
    let mut born = Born::new();
    let mut promised = Promised::default();
    run((&disk, log), Preparing::Steps, &mut promised, &mut born).unwrap();
    // The first as long as the bound, then none was ready, then what the first took and a quarter more.
    assert_eq!(born[..2], [SEAL_BYTES, 16_384]);
    let first = plain.sealed[&file(SegmentNumber::new(0))].len() as u64;
    assert_eq!(born[2], (first + first / 4).next_multiple_of(4096));
    assert_eq!(temporaries(&disk), [""; 0].map(PathBuf::from), "a clean close leaves none");
    assert!(sealed_files(&disk) == plain.sealed);
    plain.examine(&disk, promised, "closed");
}

#[test]
fn a_crash_or_kill_at_any_call_loses_nothing_and_leaves_no_temporary() {
    let plain = Plain::make();
    let mut seen_temporary = false;
    // A call that is done when the power fails is the moment before the next one: one flavour sees them all.
    for call in 1.. {
        let (disk, log) = created();
        disk.power_off_in(call, Flavour::Failed);
        let mut promised = Promised { size: 1 };
        let done = run((&disk, log), Preparing::Steps, &mut promised, &mut Born::new()).is_ok();
        seen_temporary |= !temporaries(&disk).is_empty();
        let over = !disk.is_off();
        plain.examine_moment(&disk, promised, &format!("call {call}"));
        if over {
            assert!(done && call > 100, "the run makes many calls");
            break;
        }
    }
    assert!(seen_temporary, "a crash left a temporary to be removed");
}

fn once(calls: Calls, nth: u64, (flavour, cause): (Flavour, Cause)) -> Fault {
    Fault { calls, nth, lasting: Lasting::Once, flavour, cause }
}

/// The kind of the call that was made to fail; `None` where none was.
fn failed_call(disk: &FakeDisk) -> Option<String> {
    let trace = disk.trace();
    let line = trace.lines().rev().find(|line| line.ends_with("made to fail"))?;
    line.split_whitespace().nth(1).map(str::to_owned)
}

#[test]
fn a_failed_call_of_the_preparer_stops_the_log_and_want_of_space_does_not() {
    let plain = Plain::make();
    let mut outcomes = BTreeMap::new();
    for kind in FLAVOURS.into_iter().flat_map(|flavour| [(flavour, Cause::Io), (flavour, Cause::NoSpace)]) {
        for nth in 1.. {
            let (disk, mut log) = created();
            let mut promised = Promised::default();
            add(&mut log, &mut promised, 130).unwrap();
            disk.inject(once(Calls::Any, nth, kind));
            (0..8).for_each(|_| log.prepare_step());
            disk.clear_faults();
            let Some(call) = failed_call(&disk) else { break };
            let what = format!("{call} failed, the {nth}-th call, {kind:?}");
            let gives_up = kind.1 == Cause::NoSpace && ["Create", "Write"].contains(&call.as_str());
            assert_eq!(log.preparing_refused().is_some(), gives_up, "{what}");
            // A file that is not there cannot be removed: that is the answer, and a good one.
            let goes_on = gives_up || (call == "Remove" && kind.0 == Flavour::FailedButApplied);
            let went_on = log.end_segment().is_ok() && add(&mut log, &mut promised, 1).is_ok();
            assert_eq!(went_on, goes_on, "{what}");
            if gives_up {
                assert_eq!(temporaries(&disk), [""; 0].map(PathBuf::from), "{what}");
            }
            assert_eq!(log.close().is_ok(), goes_on, "{what}: only a log that goes on is closed cleanly");
            outcomes.insert(call, goes_on);
            // One record more, behind another roll, than in the run without preparing.
            let promised = Promised { size: promised.size.min(131) };
            plain.examine_moment(&disk, promised, &what);
        }
    }
    let calls: Vec<&str> = outcomes.keys().map(String::as_str).collect();
    assert_eq!(calls, ["Create", "FreeBytes", "Open", "Remove", "Sync", "Write"]);
}

#[test]
fn a_failed_call_of_a_roll_into_prepared_space_stops_the_log() {
    let plain = Plain::make();
    let mut calls = Vec::new();
    for flavour in FLAVOURS {
        for nth in 1.. {
            let (disk, mut log) = created();
            let mut promised = Promised::default();
            add(&mut log, &mut promised, 130).unwrap();
            (0..8).for_each(|_| log.prepare_step());
            log.end_segment().unwrap();
            disk.inject(once(Calls::Any, nth, (flavour, Cause::Io)));
            log.write_queued();
            disk.clear_faults();
            let Some(call) = failed_call(&disk) else { break };
            let what = format!("{call} failed, the {nth}-th call, {flavour:?}");
            assert!(add(&mut log, &mut promised.clone(), 1).is_err(), "{what}");
            assert!(log.close().is_err(), "{what}");
            plain.examine_moment(&disk, promised, &what);
            calls.push(call);
        }
    }
    // The group that ends the segment, then head, flush, name, directory.
    let roll = ["Write", "Write", "Sync", "Open", "Write", "Sync", "Rename", "SyncDirectory", "Open", "Status"];
    assert_eq!(calls, [roll, roll].concat());
}

#[test]
fn where_space_is_short_nothing_is_prepared_and_records_are_taken() {
    let (disk, mut log) = created();
    let mut promised = Promised::default();
    disk.set_capacity(disk.used() + LOW_WATER + 2 * SEAL_BYTES, Flavour::Failed);
    add(&mut log, &mut promised, 130).unwrap();
    assert_eq!(log.preparing_refused(), None);
    (0..8).for_each(|_| log.prepare_step());
    let refused = log.preparing_refused().unwrap();
    assert_eq!(refused.needed, LOW_WATER + 2 * SEAL_BYTES);
    assert!(refused.free < refused.needed);
    assert_eq!(temporaries(&disk).len(), 0);
    // The next segment is asked for, too, and found to have no space; the first reason stays.
    log.end_segment().unwrap();
    add(&mut log, &mut promised, 70).unwrap();
    disk.set_capacity(disk.used() + LOW_WATER + (1 << 20), Flavour::Failed);
    (0..8).for_each(|_| log.prepare_step());
    assert_eq!(log.preparing_refused(), Some(refused));
    log.close().unwrap();
    disk.clear_capacity();
    assert_eq!(open(&disk).unwrap().preparing_refused(), None, "nothing is refused where there is space");
}

#[test]
fn prepared_space_is_given_back_before_a_record_is_refused() {
    for ready in [true, false] {
        let (disk, mut log) = created();
        let mut promised = Promised::default();
        add(&mut log, &mut promised, 130).unwrap();
        disk.set_capacity(disk.used() + LOW_WATER + 2 * SEAL_BYTES + (64 << 10), Flavour::Failed);
        (0..if ready { 8 } else { 2 }).for_each(|_| log.prepare_step());
        assert_eq!((temporaries(&disk).len(), log.preparing_refused()), (1, None));
        let before = log.size().get();
        let refused = (0..).find_map(|_| add_large(&mut log, &mut promised, (1, 100_000)).err());
        assert!(matches!(refused, Some(LogError::NoSpace { .. })), "{refused:?}");
        assert_eq!(temporaries(&disk).len(), 0);
        assert!(log.preparing_refused().is_some(), "and it is told");
        // All but what sealing needs and a look at the space apart was used.
        let free = 1_048_576 + SEAL_BYTES;
        assert!(log.size().get() - before >= (free - (1 << 20)) / 120_000, "{} records", log.size().get() - before);
        log.close().unwrap();
    }
}

#[test]
fn frames_go_into_the_prepared_space_of_the_open_file_where_no_more_is_free() {
    let (disk, mut log) = created();
    let mut promised = Promised::default();
    // Segments that are longer than what is left alone for a batch in the making.
    log.set_seal_settings(SealSettings { bytes: 8 << 20, ..settings() });
    add(&mut log, &mut promised, 130).unwrap();
    (0..20).for_each(|_| log.prepare_step());
    log.end_segment().unwrap();
    log.flush().unwrap();
    assert!(disk.look(&file(SegmentNumber::new(1))).unwrap().0.len() == 8 << 20);
    disk.set_capacity(disk.used() + LOW_WATER + (1 << 20) + 200, Flavour::Failed);
    let used = disk.used();
    for _ in 0..50 {
        push_bare(&mut log).unwrap();
        log.flush().unwrap();
    }
    assert_eq!(disk.used(), used, "no byte more was taken");
}

/// A record without a payload.
fn push_bare(log: &mut LocalLog) -> Result<(), PushError> {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "bare",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: None }).map(|_| ())
}

#[test]
fn a_short_run_prepares_nothing_wherever_the_segment_stands() {
    let (disk, mut log) = created();
    add(&mut log, &mut Promised::default(), 126).unwrap();
    log.close().unwrap();
    for _ in 0..20 {
        let mut log = open(&disk).unwrap();
        add(&mut log, &mut Promised::default(), 1).unwrap();
        let before = disk.calls();
        log.prepare_step();
        assert_eq!(disk.calls(), before);
        log.close().unwrap();
    }
}

#[test]
fn a_failed_removal_at_the_end_is_told_and_made_good_by_the_next_opening() {
    for flavour in FLAVOURS {
        let (disk, mut log) = created();
        let mut promised = Promised::default();
        add(&mut log, &mut promised, 130).unwrap();
        (0..3).for_each(|_| log.prepare_step());
        disk.inject(once(Calls::Only(Call::Remove), 1, (flavour, Cause::Io)));
        assert!(matches!(log.close(), Err(LogError::Disk(_))));
        disk.clear_faults();
        let log = open(&disk).unwrap();
        assert!(log.torn_tail().is_none() && temporaries(&disk).is_empty());
        assert!(log.size().get() >= promised.size);
    }
}
