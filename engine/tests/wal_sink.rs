//! The sink into a log: what an acknowledgement means, a full queue, retries, closing, and a disk that fails.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fixture::{ControlledDisk, fixed, fixed_on};
use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::environment::{Environment, Workers};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::number::BlockHeight;
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::sink::wal::{FsyncPolicy, MAX_QUEUE_BYTES, MIN_ROTATE_BYTES, OpenError, Profile, WalConfig, WalSink};
use stele_engine::sink::{AppendError, AuditSink as _, AuditStream as _, ChainName, Kept};
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, Record, RecordBuilder, Salt, SelfHash, Subject, parse_object, verify_chain};
use stele_proof::{LeafIndex, UnixMillis};

const CHAIN: ChainName<'_> = ChainName { stream: "s", writer_id: "w" };

fn draft<'a>(writer_id: &'a str, attrs: &'a Object) -> RecordBuilder<'a> {
    RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id,
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs,
        payload: None,
    }
}

fn emit(sink: &WalSink, writer_id: &str) -> Result<(LeafIndex, Kept), AppendError> {
    sink.emit(&draft(writer_id, &Object::default())).map(|done| (done.index, done.kept))
}

fn finished(seq: u64, prev: Option<&SelfHash>) -> Vec<u8> {
    let (attrs, mut canonical, mut finished) = (Object::default(), Vec::new(), Vec::new());
    let record = draft("w", &attrs).encode(seq, prev, &mut canonical).unwrap();
    record.write_finished(&record.self_hash(), &mut finished);
    finished
}

fn config(path: &Path, fsync: FsyncPolicy) -> WalConfig {
    WalConfig { fsync, profile: Profile::Test, ..WalConfig::new(path.to_owned()) }
}

fn create(environment: &Environment, config: &WalConfig) -> WalSink {
    let origin = Origin::new("example.com/sink").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    WalSink::create(environment, config, &options).unwrap()
}

/// The canonical records of one writer, of a log in which nothing is damaged.
fn records_of(environment: &Environment, path: &Path, writer_id: &str) -> Vec<(LeafIndex, Vec<u8>)> {
    let report =
        verify_log(environment.disk.as_ref(), &LogDirectory::new(path), &VerifyOptions::default(), &mut |_| {})
            .unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mut records = Vec::new();
    let reader = LogReader::open(environment, path).unwrap();
    reader
        .read::<LogError>(LeafIndex::new(0), LeafIndex::new(u64::MAX), Payloads::Read, &mut |read| {
            if Record::parse(&read.canonical).unwrap().writer_id().escaped() == writer_id {
                records.push((read.index, read.canonical));
            }
            Ok(())
        })
        .unwrap();
    records
}

/// Holds up flushes of frames, until it is told to go on or a test fails: a sink that goes away waits for its disk.
struct Holding<'d>(&'d ControlledDisk);

impl<'d> Holding<'d> {
    fn flushes_of(disk: &'d ControlledDisk) -> Self {
        disk.hold(".seg");
        Self(disk)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Looks until the chain has so many records.
fn until_taken(sink: &WalSink, seq: u64) {
    for _ in 0..100_000 {
        if sink.state(CHAIN).unwrap().seq == seq {
            return;
        }
        std::thread::park_timeout(Duration::from_micros(100));
    }
    panic!("record {seq} was not taken");
}

#[test]
fn what_cannot_be_asked_for_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let options = CreateOptions::new(Origin::new("example.com/sink").unwrap());
    let good = WalConfig::new(path.clone());
    let refused = |config: &WalConfig| {
        let (environment, _) = fixed();
        let refused = WalSink::create(&environment, config, &options).err().unwrap();
        assert!(!path.exists());
        refused
    };
    let never = WalConfig { fsync: FsyncPolicy::Never, ..good.clone() };
    assert!(matches!(refused(&never), OpenError::NeverOutsideTests));
    assert!(matches!(WalSink::open(&fixed().0, &never), Err(OpenError::NeverOutsideTests)));
    let tiny = WalConfig { rotate_bytes: MIN_ROTATE_BYTES - 1, ..good.clone() };
    assert!(matches!(refused(&tiny), OpenError::RotateTooSmall { .. }));
    for queue_bytes in [0, MAX_QUEUE_BYTES + 1] {
        assert!(matches!(refused(&WalConfig { queue_bytes, ..good.clone() }), OpenError::Queue { .. }));
    }
    assert!(matches!(WalSink::open(&fixed().0, &good), Err(OpenError::Log(LogError::NoLog(_)))));
}

#[test]
fn an_acknowledgement_is_durable_or_says_that_it_is_not() {
    let directory = tempfile::tempdir().unwrap();
    for (fsync, kept) in [
        (FsyncPolicy::Always, Kept::Durable),
        (FsyncPolicy::OnCheckpoint, Kept::Appended),
        (FsyncPolicy::Never, Kept::Appended),
    ] {
        let disk = ControlledDisk::quick();
        let environment = fixed_on(Arc::new(disk.clone()));
        let path = directory.path().join(format!("{fsync:?}"));
        let deadline = Duration::from_millis(if fsync == FsyncPolicy::Always { 20 } else { 20_000 });
        let sink = create(&environment, &WalConfig { deadline, ..config(&path, fsync) });
        let first = finished(1, None);
        let holding = Holding::flushes_of(&disk);
        let answer = sink.append(&first);
        if fsync == FsyncPolicy::Always {
            // The record was taken: sent again, it is found, and durable when that is said.
            assert!(matches!(answer, Err(AppendError::Timeout { .. })), "{answer:?}");
            assert!(matches!(sink.flush(), Err(AppendError::Timeout { .. })));
        } else {
            assert_eq!(answer.unwrap().kept, kept);
        }
        if fsync == FsyncPolicy::Never {
            sink.flush().unwrap();
        }
        disk.until_held();
        drop(holding);
        // However slow the machine is: a retry of what was taken changes nothing.
        let again = loop {
            match sink.append(&first) {
                Err(AppendError::Timeout { .. }) => {}
                answer => break answer.unwrap(),
            }
        };
        assert_eq!((again.index.get(), again.kept), (1, kept), "{fsync:?}");
        sink.close().unwrap();
        assert_eq!(records_of(&environment, &path, "w").len(), 1);
    }
}

#[test]
fn a_flush_and_a_checkpoint_make_durable_what_was_only_appended() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    let path = directory.path().join("log");
    let deadline = Duration::from_millis(20);
    let sink = create(&environment, &WalConfig { deadline, ..config(&path, FsyncPolicy::OnCheckpoint) });
    let holding = Holding::flushes_of(&disk);
    emit(&sink, "w").unwrap();
    assert!(matches!(sink.flush(), Err(AppendError::Timeout { .. })));
    assert!(matches!(sink.checkpoint(), Err(AppendError::Timeout { .. })));
    assert!(!path.join("checkpoint").exists(), "no checkpoint over what may be lost");
    disk.until_held();
    drop(holding);
    let checkpoint = loop {
        match sink.checkpoint() {
            Err(AppendError::Timeout { .. }) => {}
            checkpoint => break checkpoint.unwrap(),
        }
    };
    assert!(checkpoint.starts_with("example.com/sink\n2\n"), "{checkpoint}");
    // A kill loses nothing of it.
    drop(sink);
    assert_eq!(records_of(&environment, &path, "w").len(), 1);
}

#[test]
fn a_full_queue_sheds_at_once_and_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    let path = directory.path().join("log");
    let bounded = WalConfig { queue_bytes: 100_000, ..config(&path, FsyncPolicy::OnCheckpoint) };
    let sink = create(&environment, &bounded);
    // No flush ends until it is released, which happens only after `Busy`: so `Busy` waited for none.
    let holding = Holding::flushes_of(&disk);
    let mut taken = 0;
    let (waiting, bound) = loop {
        match emit(&sink, "w") {
            Ok(_) => taken += 1,
            Err(AppendError::Busy { waiting, bound }) => break (waiting, bound),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(waiting <= bound && bound == 100_000, "{waiting} of {bound}");
    assert!((2..100).contains(&taken), "{taken}");
    for _ in 0..10 {
        assert!(matches!(emit(&sink, "w"), Err(AppendError::Busy { .. })));
    }
    let large = vec![7; 90_000];
    let attrs = Object::default();
    let builder = draft("w", &attrs);
    let payload = Some((&Salt::ZERO, &large[..]));
    assert!(matches!(sink.submit(&Submission::Draft { builder: &builder, payload }), Err(AppendError::Busy { .. })));
    assert_eq!((sink.counts().acknowledged, sink.counts().shed, sink.counts().failed), (taken, 12, 0));
    assert_eq!(sink.state(CHAIN).unwrap().seq, taken, "what was shed left no gap");
    disk.until_held();
    drop(holding);
    sink.flush().unwrap();
    emit(&sink, "w").unwrap();
    sink.close().unwrap();
    assert_eq!(records_of(&environment, &path, "w").len() as u64, taken + 1);
}

#[test]
fn chains_go_on_across_restarts_and_a_retry_over_one_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (environment, _) = fixed();
    let config = config(&directory.path().join("log"), FsyncPolicy::Always);
    let mut sink = create(&environment, &config);
    let (mut head, mut all) = (None, Vec::new());
    for seq in 1..=40 {
        let bytes = finished(seq, head.as_ref());
        let done = sink.append(&bytes).unwrap();
        head = Some(done.self_hash);
        all.push((done.index, bytes));
        if seq % 10 == 0 {
            // Every other time as a kill leaves it.
            if seq % 20 == 0 {
                sink.close().unwrap();
            }
            drop(sink);
            sink = WalSink::open(&environment, &config).unwrap();
            let state = sink.state(CHAIN).unwrap();
            assert_eq!((state.head, state.seq), (head, seq));
            for (index, bytes) in &all {
                assert_eq!(sink.append(bytes).unwrap().index, *index);
            }
        }
    }
    sink.close().unwrap();
    let records = records_of(&environment, &config.dir, "w");
    let parsed: Vec<_> = records.iter().map(|(_, bytes)| Record::parse(bytes).unwrap()).collect();
    verify_chain(&parsed).unwrap();
    assert_eq!(parsed.len(), 40, "no retry was appended again");
}

#[test]
fn many_threads_share_flushes_and_every_chain_is_without_gap() {
    let directory = tempfile::tempdir().unwrap();
    let environment = fixed_on(Arc::new(ControlledDisk::quick()));
    let config = config(&directory.path().join("log"), FsyncPolicy::Always);
    let sink = create(&environment, &config);
    let names = ["w", "x"];
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let sink = &sink;
            scope.spawn(move || {
                for _ in 0..100 {
                    assert_eq!(emit(sink, names[thread % 2]).unwrap().1, Kept::Durable);
                }
            });
        }
    });
    assert_eq!(sink.counts().acknowledged, 600);
    sink.close().unwrap();
    for name in names {
        let records = records_of(&environment, &config.dir, name);
        let parsed: Vec<_> = records.iter().map(|(_, bytes)| Record::parse(bytes).unwrap()).collect();
        assert_eq!((parsed.len(), parsed[0].seq()), (300, 1));
        verify_chain(&parsed).unwrap();
    }
}

#[test]
fn closing_answers_everybody_who_waits_and_lets_nothing_in_after() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    let config = config(&directory.path().join("log"), FsyncPolicy::Always);
    let sink = create(&environment, &config);
    std::thread::scope(|scope| {
        let holding = Holding::flushes_of(&disk);
        let waiting: Vec<_> = (1..=3)
            .map(|seq| {
                let waiting = scope.spawn(|| emit(&sink, "w"));
                until_taken(&sink, seq);
                waiting
            })
            .collect();
        let closing = scope.spawn(|| sink.close());
        disk.until_held();
        drop(holding);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap().unwrap().1, Kept::Durable);
        }
        closing.join().unwrap().unwrap();
    });
    assert!(matches!(emit(&sink, "w"), Err(AppendError::Closed)));
    assert!(matches!(sink.state(CHAIN), Err(AppendError::Closed)));
    assert!(matches!(sink.flush(), Err(AppendError::Closed)));
    sink.close().unwrap();
    assert_eq!(records_of(&environment, &config.dir, "w").len(), 3);
}

#[test]
fn aborting_cancels_who_waits_behind_the_flush_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    let config = config(&directory.path().join("log"), FsyncPolicy::Always);
    let sink = create(&environment, &config);
    let first = std::thread::scope(|scope| {
        let holding = Holding::flushes_of(&disk);
        let first = scope.spawn(|| emit(&sink, "w"));
        disk.until_held();
        until_taken(&sink, 1);
        let second = scope.spawn(|| emit(&sink, "w"));
        until_taken(&sink, 2);
        let aborting = scope.spawn(|| sink.abort());
        // The flush is still held: nobody had to wait for it.
        assert!(matches!(second.join().unwrap(), Err(AppendError::Canceled)));
        drop(holding);
        aborting.join().unwrap();
        first.join().unwrap()
    });
    assert!(matches!(emit(&sink, "w"), Err(AppendError::Closed)));
    sink.close().unwrap();
    let sink = WalSink::open(&environment, &config).unwrap();
    let found = sink.state(CHAIN).unwrap().seq;
    assert!(found >= u64::from(first.is_ok()), "an acknowledged record is gone: {first:?}");
}

#[test]
fn after_a_failed_flush_everybody_is_told_and_nothing_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    for fsync in [FsyncPolicy::Always, FsyncPolicy::OnCheckpoint] {
        let config = config(&directory.path().join(format!("{fsync:?}")), fsync);
        let sink = create(&environment, &config);
        let before = emit(&sink, "w").unwrap();
        sink.flush().unwrap();
        std::thread::scope(|scope| {
            let holding = Holding::flushes_of(&disk);
            let waiting: Vec<_> = (2..=4)
                .map(|seq| {
                    let waiting = scope.spawn(|| emit(&sink, "w").and_then(|_| sink.flush()));
                    until_taken(&sink, seq);
                    waiting
                })
                .collect();
            disk.until_held();
            disk.fail(".seg");
            drop(holding);
            for waiting in waiting {
                assert!(matches!(waiting.join().unwrap(), Err(AppendError::Io(_))));
            }
        });
        disk.stop_failing();
        assert!(matches!(emit(&sink, "w"), Err(AppendError::Io(_))));
        assert!(matches!(sink.flush(), Err(AppendError::Io(_))));
        drop(sink);
        assert_eq!(records_of(&environment, &config.dir, "w")[0].0, before.0);
    }
}

#[test]
fn without_threads_the_caller_does_the_work_and_the_same_calls_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let segments: Vec<_> = ["a", "b"]
        .map(|name| {
            let environment = Environment { workers: Workers::Inline, ..fixed().0 };
            let config = config(&directory.path().join(name), FsyncPolicy::Always);
            let sink = create(&environment, &config);
            for _ in 0..300 {
                assert_eq!(emit(&sink, "w").unwrap().1, Kept::Durable);
            }
            sink.close().unwrap();
            assert_eq!(records_of(&environment, &config.dir, "w").len(), 300);
            std::fs::read(config.dir.join("segments/0000000000000000.seg")).unwrap()
        })
        .into();
    assert_eq!(segments[0], segments[1]);
}

#[test]
fn what_is_refused_is_told_by_its_name_and_nothing_of_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let (environment, _) = fixed();
    let config = config(&directory.path().join("log"), FsyncPolicy::Always);
    let sink = create(&environment, &config);
    let first = sink.append(&finished(1, None)).unwrap();
    let (attrs, mut canonical, mut forged) = (Object::default(), Vec::new(), Vec::new());
    let record = RecordBuilder { reason: "no", ..draft("w", &attrs) }.encode(1, None, &mut canonical).unwrap();
    record.write_finished(&record.self_hash(), &mut forged);
    let mut rotten = finished(2, Some(&first.self_hash));
    let at = rotten.windows(4).position(|window| window == b"Line").unwrap();
    rotten[at] = b'M';
    let large = parse_object(format!(r#"{{"x":"{}"}}"#, "x".repeat(2000)).as_bytes()).unwrap();
    let refused = |answer: Result<_, AppendError>, name: &str| {
        let error = answer.unwrap_err();
        assert!(format!("{error:?}").starts_with(name), "{name}: {error:?}");
        assert_eq!(sink.state(CHAIN).unwrap().seq, 1, "{name}");
    };
    refused(sink.append(&forged), "Tamper");
    refused(sink.append(&rotten), "Tamper");
    refused(sink.append(&finished(3, Some(&first.self_hash))), "SeqGap");
    refused(sink.append(&finished(2, Some(&SelfHash::of(b"another")))), "LinkMismatch");
    refused(sink.append(b"{}"), "Schema");
    refused(sink.append(&canonical), "Schema");
    refused(sink.emit(&RecordBuilder { stream: "stele/log", ..draft("w", &attrs) }), "Schema");
    refused(sink.emit(&draft("w", &large)), "SizeExceeded");
    let payload = vec![7; (1 << 20) + 1];
    let builder = draft("w", &attrs);
    let payload = Some((&Salt::ZERO, &payload[..]));
    refused(sink.submit(&Submission::Draft { builder: &builder, payload }), "SizeExceeded");
    assert_eq!(sink.counts().failed, 9);
    assert_eq!(sink.append(&finished(1, None)).unwrap().index, first.index, "and it goes on");
    emit(&sink, "w").unwrap();
    sink.close().unwrap();
    assert_eq!(records_of(&environment, &config.dir, "w").len(), 2);
}

#[test]
fn a_drop_beside_a_disk_that_hangs_waits_no_longer_than_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ControlledDisk::quick();
    let environment = fixed_on(Arc::new(disk.clone()));
    let path = directory.path().join("log");
    let deadline = Duration::from_millis(20);
    let config = WalConfig { deadline, ..config(&path, FsyncPolicy::OnCheckpoint) };
    let sink = create(&environment, &config);
    let holding = Holding::flushes_of(&disk);
    emit(&sink, "w").unwrap();
    disk.until_held();
    // The flush is released only after the drop has returned.
    drop(sink);
    assert!(matches!(WalSink::open(&environment, &config), Err(OpenError::Log(LogError::Locked { .. }))));
    drop(holding);
    for _ in 0..100_000 {
        match WalSink::open(&environment, &config) {
            Err(OpenError::Log(LogError::Locked { .. })) => std::thread::park_timeout(Duration::from_micros(100)),
            opened => {
                assert!(opened.unwrap().state(CHAIN).unwrap().seq <= 1);
                return;
            }
        }
    }
    panic!("the log stays locked");
}
