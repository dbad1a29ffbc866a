//! A repair that is interrupted at any call, or of which any call fails, leaves each guarded file as it was or as
//! it must be, and the next one completes it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Access, Disk, Mode};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::repair::{RepairError, RepairReport, repair};
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;
use stele_simulator::source::environment;
use stele_simulator::tree::copy;

fn push(log: &mut LocalLog) {
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
    log.push(&Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), b"payload")) }).unwrap();
}

fn log() -> &'static Path {
    Path::new("/log")
}

fn segment(name: &str) -> PathBuf {
    log().join("segments").join(name)
}

/// A log of three sealed segments and an open one, and a copy of it at `/copy`.
fn made() -> FakeDisk {
    let disk = FakeDisk::new(Media::TearsSectors, 1);
    let options = CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        ..CreateOptions::new(Origin::new("example.com/test").unwrap())
    };
    let mut open = LocalLog::create(&environment(&disk), log(), &options).unwrap();
    for _ in 0..3 {
        for _ in 0..3 {
            push(&mut open);
            open.flush().unwrap();
        }
        open.end_segment().unwrap();
    }
    for _ in 0..3 {
        push(&mut open);
        open.flush().unwrap();
    }
    open.checkpoint().unwrap();
    open.close().unwrap();
    copy(&disk, log(), &disk, Path::new("/copy")).unwrap();
    disk.settle();
    disk.snapshot()
}

/// Damages something of every kind.
fn damage(disk: &FakeDisk) {
    disk.flip_bit(&segment("0000000000000000.seg"), 16_500, 2);
    disk.flip_bit(&segment("0000000000000001.0.pay"), 4_120, 2);
    disk.remove(&segment("0000000000000002.seg")).unwrap();
    disk.flip_bit(&segment("0000000000000003.seg"), 16_500, 2);
    disk.flip_bit(&segment("0000000000000001.tiles"), 60, 1);
    disk.flip_bit(&log().join("hard-state"), 30, 1);
    disk.flip_bit(&log().join("log.toml"), 3, 1);
    disk.settle();
}

fn run(disk: &FakeDisk) -> Result<RepairReport, RepairError> {
    repair(disk, log(), Path::new("/copy"), &mut |_| ())
}

/// Bytes and modes of the guarded files.
fn guarded(disk: &FakeDisk) -> BTreeMap<PathBuf, (Vec<u8>, Mode)> {
    let is_guarded = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.starts_with(log())
            && (name == "hard-state"
                || path.parent() == Some(&log().join("segments")) && (name.ends_with(".seg") || name.ends_with(".pay")))
    };
    disk.paths().into_iter().filter(is_guarded).map(|path| (path.clone(), disk.look(&path).unwrap())).collect()
}

/// Runs the repair to its end and checks that the log is what it was.
fn completes(disk: &FakeDisk, whole: &BTreeMap<PathBuf, (Vec<u8>, Mode)>, what: &str) {
    let report = run(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.is_whole(), "{what}: {:?}", report.refused);
    assert_eq!(guarded(disk), *whole, "{what}");
    let verified = verify_log(disk, &LogDirectory::new(log()), &VerifyOptions::default(), &mut |_| ()).unwrap();
    assert!(verified.findings.is_empty() && verified.notes.is_empty(), "{what}: {verified:?}");
    let left: Vec<_> = disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// Damaged and whole, and what a repair of the one must give.
fn damaged_and_whole() -> (FakeDisk, BTreeMap<PathBuf, (Vec<u8>, Mode)>) {
    let good = made();
    let whole = guarded(&good);
    damage(&good);
    let damaged = good.snapshot();
    completes(&damaged.snapshot(), &whole, "uninterrupted");
    (damaged, whole)
}

/// I-REPAIR-1.
fn is_old_or_whole(disk: &FakeDisk, damaged: &FakeDisk, whole: &BTreeMap<PathBuf, (Vec<u8>, Mode)>, what: &str) {
    let (old, now) = (guarded(damaged), guarded(disk));
    for (path, good) in whole {
        let is = now.get(path);
        assert!(is == Some(good) || is == old.get(path), "{what}: {} is neither", path.display());
    }
}

#[test]
fn a_repair_can_be_interrupted_at_every_call() {
    let (damaged, whole) = damaged_and_whole();
    for call in 1.. {
        let flavour = if call % 2 == 0 { Flavour::Failed } else { Flavour::FailedButApplied };
        let disk = damaged.snapshot();
        disk.power_off_in(call, flavour);
        let done = run(&disk).is_ok();
        assert!(!done || !disk.is_off(), "call {call}: a failure was not told");
        for (kind, machine) in [("killed", disk.kill()), ("crashed", disk.crash(&mut SplitMix64::new(call)))] {
            let what = format!("{kind} at call {call}");
            is_old_or_whole(&machine, &damaged, &whole, &what);
            completes(&machine, &whole, &what);
        }
        if done {
            assert!(call > 300, "{call} calls are too few for what there was to do");
            break;
        }
    }
}

#[test]
fn a_call_that_fails_once_leaves_nothing_worse() {
    let (damaged, whole) = damaged_and_whole();
    for nth in 1.. {
        let flavour = if nth % 2 == 0 { Flavour::Failed } else { Flavour::FailedButApplied };
        let disk = damaged.snapshot();
        disk.inject(Fault { calls: Calls::Any, nth, lasting: Lasting::Once, flavour, cause: Cause::Io });
        let told = run(&disk).is_err();
        let reached = disk.failed() > 0;
        // Opening what is not there answers the same with and without the fault.
        let alike = reached && flavour == Flavour::FailedButApplied;
        assert!(told == reached || alike, "call {nth} failed, and nobody was told\n{}", {
            let again = damaged.snapshot();
            again.power_off_in(nth, flavour);
            drop(run(&again));
            again.trace()
        });
        disk.clear_faults();
        is_old_or_whole(&disk, &damaged, &whole, &format!("call {nth} failed"));
        // A disk that was full has room again.
        let left: Vec<_> = disk.paths().into_iter().filter(|path| path.to_string_lossy().ends_with(".tmp")).collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "call {nth} failed");
        completes(&disk, &whole, &format!("after call {nth} failed"));
        if !reached {
            break;
        }
    }
}

#[test]
fn a_repaired_log_takes_records_again_and_what_was_replaced_is_kept() {
    let (disk, _) = damaged_and_whole();
    let old = disk.look(&segment("0000000000000000.seg")).unwrap().0;
    run(&disk).unwrap();
    let kept = disk.look(&log().join("quarantine/0000000000000000.seg.0")).unwrap().0;
    assert_eq!(kept, old);
    let copied = disk.look(Path::new("/copy/segments/0000000000000000.seg")).unwrap();
    assert_eq!(disk.look(&segment("0000000000000000.seg")).unwrap(), copied);
    let mut open = LocalLog::open(&environment(&disk), log()).unwrap();
    push(&mut open);
    open.close().unwrap();
    let verified = verify_log(&disk, &LogDirectory::new(log()), &VerifyOptions::default(), &mut |_| ()).unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
    assert!(disk.open(&log().join("quarantine/hard-state.0"), Access::Read).is_ok());
}

/// Frames that share a sector, on media that tear sectors, can lose what was durable (FAULTS line 2). It is
/// found, and comes back from a copy, where the group before was confirmed.
#[test]
fn at_alignment_8_a_tear_in_a_durable_sector_is_found_and_repaired_from_a_copy() {
    let mut torn = 0;
    for seed in 0..64 {
        let disk = FakeDisk::new(Media::TearsSectors, seed);
        let options = CreateOptions {
            block_height: BlockHeight::new(8).unwrap(),
            frame_align: Alignment::WORD,
            ..CreateOptions::new(Origin::new("example.com/test").unwrap())
        };
        let mut open = LocalLog::create(&environment(&disk), log(), &options).unwrap();
        push(&mut open);
        open.flush().unwrap();
        open.confirm_idle();
        let durable = open.size();
        disk.settle();
        let copied = disk.snapshot();
        push(&mut open);
        // The frame is written into the sector of the one before, and its flush does not come back.
        disk.inject(Fault {
            calls: Calls::Only(Call::Sync),
            nth: 2,
            lasting: Lasting::FromThenOn,
            flavour: Flavour::Failed,
            cause: Cause::Io,
        });
        open.flush().unwrap_err();
        drop(open);
        let crashed = disk.crash(&mut SplitMix64::new(seed));
        copy(&copied, log(), &crashed, Path::new("/copy")).unwrap();
        crashed.settle();
        let opened = match LocalLog::open(&environment(&crashed), log()) {
            Ok(opened) => opened,
            Err(LogError::Damaged(damage)) => {
                assert_eq!(damage.file, "segments/0000000000000000.seg");
                assert!(run(&crashed).unwrap().is_whole(), "seed {seed}");
                torn += 1;
                LocalLog::open(&environment(&crashed), log()).unwrap()
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        assert!(opened.size() >= durable, "seed {seed}");
        opened.close().unwrap();
        let report = verify_log(&crashed, &LogDirectory::new(log()), &VerifyOptions::default(), &mut |_| ()).unwrap();
        assert_eq!(report.findings, [], "seed {seed}");
    }
    assert!(torn > 0, "no sector was torn");
}

/// At alignment 4,096 it cannot happen: nothing is written to a page that holds a durable frame.
#[test]
fn at_alignment_4096_no_crash_tears_a_durable_sector() {
    for seed in 0..64 {
        let disk = FakeDisk::new(Media::TearsSectors, seed);
        let options = CreateOptions::new(Origin::new("example.com/test").unwrap());
        let mut open = LocalLog::create(&environment(&disk), log(), &options).unwrap();
        push(&mut open);
        open.flush().unwrap();
        open.confirm_idle();
        let durable = open.size();
        push(&mut open);
        disk.inject(Fault {
            calls: Calls::Only(Call::Sync),
            nth: 2,
            lasting: Lasting::FromThenOn,
            flavour: Flavour::Failed,
            cause: Cause::Io,
        });
        open.flush().unwrap_err();
        drop(open);
        let crashed = disk.crash(&mut SplitMix64::new(seed));
        let opened =
            LocalLog::open(&environment(&crashed), log()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(opened.size() >= durable, "seed {seed}");
    }
}
