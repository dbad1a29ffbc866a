//! The low-water mark on a disk whose flush takes long.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::{Arc, RwLock};

use stele_engine::birth::CreateOptions;
use stele_engine::disk::{Access, Disk, DiskError, DiskFile, Locking, Mode, RealDisk, Status};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, PushError};
use stele_engine::number::BlockHeight;
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};

/// What the disk says is free: what is kept for sealing, and room for some records of 1 MiB.
const FREE_BYTES: u64 = (8 << 20) + 256 * (49 + 39) + ROOM_BYTES;
const ROOM_BYTES: u64 = 12 << 20;
/// More than there is room for, and less than may wait for a flush.
const RECORDS: u64 = 24;

/// The real disk, with little room, whose flushes end only while nobody holds the lock for writing.
struct SlowDisk(Arc<RwLock<()>>);

struct SlowFile(Box<dyn DiskFile>, Arc<RwLock<()>>);

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        self.0.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.0.write_at(bytes, at)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let _goes_on = self.1.read().unwrap();
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.0.set_len(len)
    }

    fn set_mode(&self, mode: Mode) -> Result<(), DiskError> {
        self.0.set_mode(mode)
    }

    fn status(&self) -> Result<Status, DiskError> {
        self.0.status()
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(Box::new(SlowFile(RealDisk.open(path, access)?, Arc::clone(&self.0))))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        RealDisk.create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        RealDisk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        RealDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        RealDisk.sync_directory(path)
    }

    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError> {
        RealDisk.lock(path, note)
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        RealDisk.is_locked(path)
    }

    fn free_bytes(&self, _: &Path) -> Result<u64, DiskError> {
        Ok(FREE_BYTES)
    }
}

/// Nothing that is queued has reached the disk, so its free space is that of the beginning: what waits must be
/// counted, too, or the writer meets the end of the disk with nothing left to seal.
#[test]
fn what_waits_for_a_flush_counts_as_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let flushes = Arc::new(RwLock::new(()));
    let environment = Environment { disk: Arc::new(SlowDisk(Arc::clone(&flushes))), ..Environment::system() };
    let mut options = CreateOptions::new(Origin::new("example.com/test").unwrap());
    options.block_height = BlockHeight::new(8).unwrap();
    let mut log = LocalLog::create(&environment, &path, &options).unwrap();

    let held_up = flushes.write().unwrap();
    let salt = Salt::new([7; 32]);
    let bytes = vec![1; 1 << 20];
    let refused = (0..RECORDS).find_map(|number| {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(number),
            writer_id: "w",
            stream: "s",
            kind: "K",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        log.push(&Submission::Draft { builder: &builder, payload: Some((&salt, &bytes)) }).err()
    });
    drop(held_up);
    assert!(matches!(refused, Some(PushError::Log(LogError::NoSpace { .. }))), "{refused:?}");
    log.close().unwrap();
}
