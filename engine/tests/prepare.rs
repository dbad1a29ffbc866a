//! Space prepared for the next segment file, on real files and with threads.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Access, Disk, RealDisk};
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, SealSettings};
use stele_engine::number::{BlockHeight, SegmentNumber};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::{LeafIndex, UnixMillis};

mod fixture;
use fixture::{ControlledDisk, fixed, fixed_on};

/// What is prepared at most.
const SEAL_BYTES: u64 = 3 << 20;

fn create(environment: &Environment, path: &Path) -> LocalLog {
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    let mut log = LocalLog::create(environment, path, &options).unwrap();
    log.set_seal_settings(SealSettings { bytes: SEAL_BYTES, ..SealSettings::default() });
    log
}

fn add(log: &mut LocalLog, count: u32) {
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
    for _ in 0..count {
        let payload = Some((&Salt::new([3; 32]), &b"payload"[..]));
        log.push(&Submission::Draft { builder: &builder, payload }).unwrap();
    }
    log.flush().unwrap();
}

fn segment(path: &Path, number: u64) -> PathBuf {
    LogDirectory::new(path).segment_file(SegmentFile::Frames(SegmentNumber::new(number)))
}

fn len(path: &Path, number: u64) -> u64 {
    fs::metadata(segment(path, number)).unwrap().len()
}

fn prepared_exists(path: &Path) -> bool {
    LogDirectory::new(path).prepared().exists()
}

fn read_all(path: &Path) -> Vec<ReadRecord> {
    let reader = LogReader::open(&fixed().0, path).unwrap();
    let mut records = Vec::new();
    reader
        .read::<stele_engine::error::LogError>(
            LeafIndex::new(0),
            LeafIndex::new(u64::MAX),
            Payloads::Read,
            &mut |record| {
                records.push(record);
                Ok(())
            },
        )
        .unwrap();
    records
}

/// Ends half-full segments until a file is born longer than its frames; answers its number.
fn roll_into_prepared(log: &mut LocalLog, path: &Path) -> u64 {
    for _ in 0..2000 {
        add(log, 100);
        add(log, 40);
        if let Some(ended) = log.end_segment().unwrap() {
            log.flush().unwrap();
            if len(path, ended.get() + 1) > FRAMES_START.get() {
                return ended.get() + 1;
            }
        }
    }
    panic!("no file was ever ready");
}

#[test]
fn segments_roll_through_prepared_files_and_sealed_ones_have_their_exact_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (environment, _) = fixed();
    let mut log = create(&environment, &path);
    let mut born = Vec::new();
    for _ in 0..2 {
        let number = roll_into_prepared(&mut log, &path);
        born.push((number, len(&path, number)));
        add(&mut log, 1);
        log.end_segment().unwrap();
    }
    // One with room for everything that is still to come.
    let last =
        std::iter::repeat_with(|| roll_into_prepared(&mut log, &path)).find(|number| len(&path, *number) > 1 << 16);
    let (last, long) = last.map(|last| (last, len(&path, last))).unwrap();
    assert_eq!(born[0].1 % 4096, 0);
    let size = log.size();
    drop(log);
    // The open one keeps its zeros, and they are nobody's damage.
    assert_eq!(len(&path, last), long);
    let report = verify_log(&RealDisk, &LogDirectory::new(&path), &VerifyOptions::default(), &mut |_| ());
    assert_eq!(report.unwrap().findings, []);
    let mut log = LocalLog::open(&environment, &path).unwrap();
    assert!(log.torn_tail().is_none());
    assert_eq!(log.size(), size);
    add(&mut log, 1);
    assert_eq!(len(&path, last), long, "frames go on in the prepared space");
    log.close().unwrap();
    assert!(!prepared_exists(&path), "a clean close leaves none");
    assert!(len(&path, last) < long, "nor zeros behind the end");
    // Cut when they were sealed: nothing is left of the zeros.
    for (number, born) in &born {
        let bytes = fs::read(segment(&path, *number)).unwrap();
        assert!((bytes.len() as u64) < *born && bytes.len().is_multiple_of(4096));
        assert!(bytes[bytes.len() - 4096..].iter().any(|byte| *byte != 0), "the last frame is the end");
    }
    let report = verify_log(&RealDisk, &LogDirectory::new(&path), &VerifyOptions::default(), &mut |_| ());
    assert_eq!(report.unwrap().findings, []);
    assert!(read_all(&path).len() as u64 > size.get());
}

/// What went past the page cache, what went through it, and what a reader sees of both are the same.
#[test]
fn what_is_written_over_zeros_that_went_past_the_page_cache_is_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = create(&fixed().0, &path);
    let number = roll_into_prepared(&mut log, &path);
    for _ in 0..20 {
        add(&mut log, 1);
        let cached = fs::read(segment(&path, number)).unwrap();
        let mut direct = vec![1; cached.len() + 4096];
        let slack = direct.as_ptr().align_offset(4096);
        let file = RealDisk.open(&segment(&path, number), Access::ReadDirect).unwrap();
        assert_eq!(file.read_at(&mut direct[slack..slack + cached.len()], 0).unwrap(), cached.len());
        assert!(direct[slack..slack + cached.len()] == cached);
    }
    let size = log.size().get();
    drop(log);
    assert_eq!(read_all(&path).len() as u64, size);
}

#[test]
fn a_roll_does_not_wait_for_what_is_being_prepared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let disk = ControlledDisk::default();
    let mut log = create(&fixed_on(Arc::new(disk.clone())), &path);
    disk.hold("prepared.tmp");
    add(&mut log, 140);
    disk.until_held();
    let ended = log.end_segment().unwrap().unwrap().get();
    add(&mut log, 100);
    let plain = len(&path, ended + 1);
    assert!(plain > FRAMES_START.get() && plain < 1 << 20, "{plain}: as long as its frames");
    disk.release();
    roll_into_prepared(&mut log, &path);
    log.close().unwrap();
    assert!(!prepared_exists(&path));
}

#[test]
fn a_failed_flush_of_prepared_space_stops_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let disk = ControlledDisk::default();
    let environment = fixed_on(Arc::new(disk.clone()));
    let mut log = create(&environment, &path);
    disk.hold("prepared.tmp");
    disk.fail("prepared.tmp");
    add(&mut log, 140);
    disk.until_held();
    let size = log.size();
    disk.release();
    let error = (0..).find_map(|_| log.flush().err().or_else(|| log.end_segment().err())).unwrap();
    assert!(error.to_string().contains("prepared.tmp"), "{error}");
    assert!(log.close().is_err());
    disk.stop_failing();
    let log = LocalLog::open(&environment, &path).unwrap();
    assert!(log.size() >= size);
    assert!(!prepared_exists(&path), "a leftover is deleted");
}

#[test]
fn a_log_that_is_dropped_touches_no_prepared_file_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    for _ in 0..20 {
        fs::remove_dir_all(&path).unwrap_or_default();
        let mut log = create(&fixed().0, &path);
        add(&mut log, 140);
        drop(log);
        // A preparer that lived on would lose its file here, or make one beside this log's own.
        let log = LocalLog::open(&fixed().0, &path).unwrap();
        assert!(!prepared_exists(&path));
        log.close().unwrap();
    }
}
