//! A flush that fails while others wait for the next one.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stele_engine::birth::CreateOptions;
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Access, Disk, DiskError, DiskFile, Locking, Mode, RealDisk, Status};
use stele_engine::environment::Environment;
use stele_engine::error::Poisoned;
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::local::LocalLog;
use stele_engine::store::{Entry, SegmentStore};
use stele_engine::writer::OnDurable;
use stele_proof::checkpoint::Origin;

/// The next flush of a file tells that it has begun, waits to be let go, and fails.
struct Gate {
    begun: SyncSender<()>,
    go: Receiver<()>,
}

type Gates = Arc<Mutex<Option<Gate>>>;

/// The real disk with a gate.
struct GatedDisk(Gates);

struct GatedFile(Box<dyn DiskFile>, Gates);

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        self.0.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.0.write_at(bytes, at)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let gate = self.1.lock().unwrap().take();
        let Some(gate) = gate else { return self.0.sync() };
        gate.begun.send(()).unwrap();
        gate.go.recv().unwrap();
        let source = io::Error::other("the medium failed");
        Err(DiskError { operation: "flush", path: "gated".into(), source })
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

impl Disk for GatedDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(Box::new(GatedFile(RealDisk.open(path, access)?, Arc::clone(&self.0))))
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

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        RealDisk.free_bytes(path)
    }
}

fn blank(store: &SegmentStore) -> Entry {
    Entry { term: store.tail().last_term, kind: EntryKind::Blank, body: Bytes::new(), payload: Bytes::new() }
}

fn callback() -> (OnDurable, Receiver<Result<(), Poisoned>>) {
    let (tell, told) = sync_channel(1);
    (Box::new(move |result| tell.try_send(result).unwrap()), told)
}

/// I-WRITER-3. The second append and the notice come while the flush of the first one is under way.
#[test]
fn everybody_who_queued_during_a_failing_flush_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let gates = Gates::default();
    let environment = Environment { disk: Arc::new(GatedDisk(Arc::clone(&gates))), ..Environment::system() };
    let options = CreateOptions::new(Origin::new("example.com/test").unwrap());
    LocalLog::create(&environment, &path, &options).unwrap().close().unwrap();

    let directory = LogDirectory::new(&path);
    let inventory = Inventory::take(environment.disk.as_ref(), &directory).unwrap();
    let start = Tail::start(inventory.alignment, inventory.height);
    let (store, _) = SegmentStore::open(&environment, &directory, &inventory, start).unwrap();
    let (begun, has_begun) = sync_channel(1);
    let (go, wait) = sync_channel(1);
    *gates.lock().unwrap() = Some(Gate { begun, go: wait });

    let (on_first, first) = callback();
    let (on_second, second) = callback();
    let (on_notice, notice) = callback();
    store.append(blank(&store), Some(on_first)).unwrap();
    has_begun.recv().unwrap();
    store.append(blank(&store), Some(on_second)).unwrap();
    store.notify(on_notice);
    go.send(()).unwrap();

    assert!(store.close().is_err());
    for (name, told) in [("first append", first), ("second append", second), ("notice", notice)] {
        assert!(matches!(told.try_recv(), Ok(Err(_))), "{name}");
    }
}
