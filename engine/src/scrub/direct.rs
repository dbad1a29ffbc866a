//! Files as they lie on the disk, not as the page cache shows them; nothing can be written through it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Access, Disk, DiskError, DiskFile, Locking, Mode, Status};
use crate::segment::PAGE_BYTES;

/// A disk that only reads, past the page cache where the file system can, and counts what it reads.
#[derive(Clone)]
pub(super) struct PastTheCache {
    disk: Arc<dyn Disk>,
    read: Arc<AtomicU64>,
}

impl PastTheCache {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, read: Arc::default() }
    }

    /// Bytes that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

fn refused(operation: &'static str, path: &Path) -> DiskError {
    let source = io::Error::new(io::ErrorKind::Unsupported, "a scrub writes nothing");
    DiskError { operation, path: path.to_owned(), source }
}

impl Disk for PastTheCache {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        match access {
            Access::Read | Access::ReadDirect => {
                let file = self.disk.open(path, Access::ReadDirect)?;
                Ok(Box::new(DirectFile { file, path: path.to_owned(), read: Arc::clone(&self.read) }))
            }
            Access::Write | Access::WriteDirect | Access::Create => Err(refused("open for writing", path)),
        }
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("create", path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, _to: &Path) -> Result<(), DiskError> {
        Err(refused("rename", from))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("remove", path))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        Err(refused("flush the directory", path))
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        self.disk.free_bytes(path)
    }

    fn lock(&self, path: &Path, _note: &str) -> Result<Locking, DiskError> {
        Err(refused("lock", path))
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        self.disk.is_locked(path)
    }
}

struct DirectFile {
    file: Box<dyn DiskFile>,
    path: std::path::PathBuf,
    read: Arc<AtomicU64>,
}

impl DirectFile {
    fn count(&self, read: usize) -> usize {
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        read
    }
}

impl DiskFile for DirectFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        let page = PAGE_BYTES as u64;
        if at.is_multiple_of(page)
            && buffer.len().is_multiple_of(PAGE_BYTES)
            && buffer.as_ptr().align_offset(PAGE_BYTES) == 0
        {
            return Ok(self.count(self.file.read_at(buffer, at)?));
        }
        let from = at / page * page;
        let skipped = usize::try_from(at - from).unwrap_or(0);
        let want = (skipped + buffer.len()).next_multiple_of(PAGE_BYTES);
        let mut whole = vec![0; want + PAGE_BYTES];
        let slack = whole.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let read = self.count(self.file.read_at(&mut whole[slack..slack + want], from)?);
        let found = &whole[slack + skipped.min(read)..slack + read];
        let len = found.len().min(buffer.len());
        buffer[..len].copy_from_slice(&found[..len]);
        Ok(len)
    }

    fn write_at(&self, _bytes: &[u8], _at: u64) -> Result<(), DiskError> {
        Err(refused("write", &self.path))
    }

    fn sync(&self) -> Result<(), DiskError> {
        Err(refused("flush", &self.path))
    }

    fn set_len(&self, _len: u64) -> Result<(), DiskError> {
        Err(refused("resize", &self.path))
    }

    fn set_mode(&self, _mode: Mode) -> Result<(), DiskError> {
        Err(refused("set the mode of", &self.path))
    }

    fn status(&self) -> Result<Status, DiskError> {
        self.file.status()
    }
}
