//! A copy whose sealed file is not what the seal record says stops, in whatever order the two came about.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fixture::{ControlledDisk, fixed_on};
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{BlockHeight, SegmentNumber};
use stele_engine::replica::Replica;
use stele_engine::segment::RING_START;
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

const LOOK_AGAIN: Duration = Duration::from_millis(1);
const LOOKS: usize = 60_000;

fn environment() -> Environment {
    fixed_on(Arc::new(ControlledDisk::quick()))
}

fn push(log: &mut LocalLog) {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "K",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: None }).unwrap();
}

/// A log of three sealed segments, each with its seal record: the last one's is in the open segment, all others in sealed
/// ones. After `more`, the open one has records, too.
fn made(path: &Path, more: u64) {
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    let mut log = LocalLog::create(&environment(), path, &options).unwrap();
    for _ in 0..3 * 256 + more {
        push(&mut log);
    }
    log.close().unwrap();
}

fn segment_file(path: &Path, segment: u64) -> PathBuf {
    path.join("segments").join(format!("{:016x}.seg", SegmentNumber::new(segment).get()))
}

/// Another byte in a file that stays sealed, where no frame is: what opening reads of it is as it was.
fn change(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let mode = std::fs::metadata(file).unwrap().permissions();
    assert!(mode.readonly(), "it is sealed");
    bytes[usize::try_from(RING_START).unwrap()] ^= 1;
    std::fs::remove_file(file).unwrap();
    std::fs::File::create(file).and_then(|mut file| std::io::Write::write_all(&mut file, &bytes)).unwrap();
    std::fs::set_permissions(file, mode).unwrap();
}

/// Opens the copy and waits until it has looked at everything that it looks at.
fn open(path: &Path) -> Result<(), LogError> {
    let mut replica = Replica::open(&environment(), path)?.replica;
    for _ in 0..LOOKS {
        replica.take_sealed()?;
        if replica.sealing() == 0 {
            return replica.close();
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    panic!("it still looks");
}

#[test]
fn a_copy_that_sealed_other_bytes_stops_also_where_their_record_was_applied_before_a_restart() {
    for more in [0, 100] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        made(&path, more);
        open(&path).unwrap();
        // It was sealed and is not read when the log is opened; its record is.
        change(&segment_file(&path, 2));
        // Nor does another start heal it.
        for start in 0..2 {
            let stopped = open(&path).unwrap_err();
            let told = stopped.to_string();
            assert!(matches!(stopped, LogError::Damaged(_)), "{told}");
            assert!(told.contains("this copy differs from the log, and stops"), "start {start}, {more}: {told}");
        }
    }
}
