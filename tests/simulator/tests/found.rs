//! What the crash schedules, or a reading with the fake disk in mind, have found: each failing sequence,
//! to stay.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use stele_engine::birth::CreateOptions;
use stele_engine::disk::{Access, Disk};
use stele_engine::environment::{Environment, Workers};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::BlockHeight;
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::signing_state::{SignedHead, SigningStateFile, read_signed_head};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::tree::Hash;
use stele_proof::{LeafIndex, TreeSize, UnixMillis};
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;

fn environment(disk: &FakeDisk) -> Environment {
    Environment { workers: Workers::Threads, ..stele_simulator::source::environment(disk) }
}

fn create(disk: &FakeDisk, path: &Path) -> LocalLog {
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    LocalLog::create(&environment(disk), path, &options).unwrap()
}

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

fn disk() -> FakeDisk {
    FakeDisk::new(Media::TearsSectors, 1)
}

fn once(calls: Calls, nth: u64) -> Fault {
    Fault { calls, nth, lasting: Lasting::Once, flavour: Flavour::Failed, cause: Cause::Io }
}

/// The process was killed, or a flush failed, between the write and the flush of the signing state. The
/// head was then read back from the page cache, found to be signed already, and signed without having
/// been saved.
#[test]
fn a_signature_is_remembered_after_a_crash_also_where_saving_it_was_interrupted() {
    let path = Path::new("/signing-state");
    let head = |size| SignedHead { size: TreeSize::new(size), root: Hash::new([1; 32]) };
    let started = || {
        let disk = disk();
        SigningStateFile::create(&disk, path).unwrap().advance(head(5)).unwrap();
        disk
    };
    let signs_again = |disk: &FakeDisk, what: &str| {
        SigningStateFile::open(disk, path).unwrap().advance(head(9)).unwrap();
        for seed in 0..100 {
            let found = read_signed_head(&disk.crash(&mut SplitMix64::new(seed)), path).unwrap();
            assert_eq!(found, head(9), "{what}");
        }
    };
    for call in 1.. {
        let disk = started();
        let mut file = SigningStateFile::open(&disk, path).unwrap();
        disk.power_off_in(call, Flavour::FailedButApplied);
        let done = file.advance(head(9)).is_ok();
        signs_again(&disk.kill(), &format!("killed after call {call}"));
        if done {
            break;
        }
    }
    for nth in 1..=2 {
        let disk = started();
        let mut file = SigningStateFile::open(&disk, path).unwrap();
        disk.inject(once(Calls::Only(Call::Sync), nth));
        assert!(file.advance(head(9)).is_err());
        signs_again(&disk, &format!("flush {nth} failed"));
    }
}

/// Only the parent of the log's directory was flushed, and that of a relative name not at all.
#[test]
fn a_log_that_was_made_is_there_after_a_crash_wherever_it_was_made() {
    for path in ["log", "./log", "new/log", "/log", "/some/new/place/log"] {
        let path = Path::new(path);
        let disk = disk();
        disk.create_directory(Path::new("/some")).unwrap();
        disk.settle();
        drop(create(&disk, path));
        for seed in 0..50 {
            let crashed = disk.crash(&mut SplitMix64::new(seed));
            assert!(LocalLog::open(&environment(&crashed), path).is_ok(), "{}", path.display());
        }
    }
}

/// Payload files were sealed before the segment file, and opened for writing when sealing was resumed,
/// which is denied to everybody but root.
#[test]
fn a_close_that_seals_can_be_interrupted_at_every_call() {
    let path = Path::new("/log");
    for call in 1.. {
        let disk = disk();
        let mut log = create(&disk, path);
        push(&mut log);
        log.flush().unwrap();
        disk.power_off_in(call, Flavour::FailedButApplied);
        let done = log.end_segment().and_then(|_| log.close()).is_ok();
        for machine in [disk.kill(), disk.crash(&mut SplitMix64::new(call))] {
            let log = LocalLog::open(&environment(&machine), path)
                .unwrap_or_else(|error| panic!("call {call}: {error}\n{}", disk.trace()));
            log.close().unwrap();
        }
        if done {
            break;
        }
    }
}

/// Several segments had ended and none was sealed: to rebuild the tiles of one, a reader looked for the
/// nodes before it in that one, until its stack was full.
#[test]
fn a_reader_rebuilds_many_segments_that_were_not_sealed() {
    let path = Path::new("/log");
    let disk = disk();
    drop(create(&disk, path));
    // Nobody seals who is not asked to.
    let mut log = LocalLog::open(&stele_simulator::source::environment(&disk), path).unwrap();
    for _ in 0..7 {
        push(&mut log);
        log.end_segment().unwrap();
    }
    log.flush().unwrap();
    drop(log);
    let disk = disk.kill();
    let reader = LogReader::open(&environment(&disk), path).unwrap();
    assert_eq!(reader.inventory().sealed.get(), 0);
    let mut read = 0;
    let all = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
    reader
        .read::<LogError>(all.0, all.1, Payloads::Read, &mut |_| {
            read += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(read, 8);
}

/// The thread that seals outlived the log, and with it the lock.
#[test]
fn a_log_that_is_dropped_touches_no_file_any_more() {
    let path = Path::new("/log");
    for _ in 0..20 {
        let disk = disk();
        let mut log = create(&disk, path);
        for _ in 0..3 {
            push(&mut log);
            log.end_segment().unwrap();
        }
        drop(log);
        let calls = disk.calls();
        let log = LocalLog::open(&environment(&disk.snapshot()), path).unwrap();
        log.close().unwrap();
        assert_eq!(disk.calls(), calls);
    }
}

/// The end of a log's life in the page cache: what is seen after a kill can be read past it, too.
#[test]
fn recovery_after_a_failed_flush_takes_nothing_that_is_not_on_the_disk() {
    let path = Path::new("/log");
    for seed in 0..20 {
        let disk = FakeDisk::new(Media::WholeSectors, seed);
        let mut log = create(&disk, path);
        push(&mut log);
        log.flush().unwrap();
        let acknowledged = log.size();
        let segment = path.join("segments/0000000000000000.seg");
        disk.inject(once(Calls::At(Call::Sync, segment.clone()), 1));
        push(&mut log);
        assert!(log.flush().is_err());
        drop(log);
        let disk = disk.kill();
        let log = LocalLog::open(&environment(&disk), path).unwrap();
        let size = log.size();
        assert!(size >= acknowledged);
        drop(log);
        for crash in 0..10 {
            let crashed = disk.crash(&mut SplitMix64::new(crash));
            assert!(crashed.open(&segment, Access::Read).is_ok());
            assert_eq!(LocalLog::open(&environment(&crashed), path).unwrap().size(), size);
        }
    }
}
