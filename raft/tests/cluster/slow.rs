//! A disk whose flushes take a while, so that a power failure finds something that is not flushed; and that can hang.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use stele_engine::disk::{Access, Disk, DiskError, DiskFile, Locking, Mode, Status};
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::random::SplitMix64;

/// The longest flush.
const LONGEST: u64 = 8_000;

/// Lets the flushes of a disk wait, from when it begins to when it ends.
#[derive(Clone, Default)]
pub(crate) struct Hang(Arc<(Mutex<bool>, Condvar)>);

impl Hang {
    pub(crate) fn begin(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub(crate) fn end(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |hangs| *hangs).unwrap());
    }
}

pub(crate) struct SlowDisk {
    disk: FakeDisk,
    drawn: Arc<AtomicU64>,
    hang: Hang,
}

impl SlowDisk {
    pub(crate) fn new(disk: FakeDisk, seed: u64, hang: Hang) -> Self {
        Self { disk, drawn: Arc::new(AtomicU64::new(seed)), hang }
    }
}

struct SlowFile {
    file: Box<dyn DiskFile>,
    drawn: Arc<AtomicU64>,
    hang: Hang,
}

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.file.write_at(bytes, at)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_micros(SplitMix64::new(drawn).below(LONGEST)));
        self.hang.wait();
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len)
    }

    fn set_mode(&self, mode: Mode) -> Result<(), DiskError> {
        self.file.set_mode(mode)
    }

    fn status(&self) -> Result<Status, DiskError> {
        self.file.status()
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        let file = self.disk.open(path, access)?;
        Ok(Box::new(SlowFile { file, drawn: Arc::clone(&self.drawn), hang: self.hang.clone() }))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.sync_directory(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        self.disk.free_bytes(path)
    }

    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError> {
        self.disk.lock(path, note)
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        self.disk.is_locked(path)
    }
}
