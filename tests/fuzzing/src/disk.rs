//! Files in memory, for decoders that read through the engine's [`Disk`]. Nothing here fails or crashes:
//! the subject is what the bytes say.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stele_engine::disk::{Access, Disk, DiskError, DiskFile, Locking, Mode, Status};

type Content = Arc<Mutex<Vec<u8>>>;

/// A flat file system: names without directories.
#[derive(Default)]
pub(crate) struct MemoryDisk(Mutex<BTreeMap<PathBuf, Content>>);

/// An open file.
pub(crate) struct MemoryFile(Content);

impl MemoryFile {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }
}

impl MemoryDisk {
    /// Puts a file there, whatever was there before.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        hold(&self.0).insert(path.to_owned(), Arc::new(Mutex::new(bytes)));
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(operation: &'static str, path: &Path) -> DiskError {
    DiskError { operation, path: path.to_owned(), source: io::ErrorKind::NotFound.into() }
}

/// A position or length of a file that fits memory.
fn position(at: u64) -> usize {
    usize::try_from(at).expect("a file in memory")
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        let bytes = hold(&self.0);
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, new: &[u8], at: u64) -> Result<(), DiskError> {
        let mut bytes = hold(&self.0);
        let end = position(at) + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[end - new.len()..end].copy_from_slice(new);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        hold(&self.0).resize(position(len), 0);
        Ok(())
    }

    fn set_mode(&self, _: Mode) -> Result<(), DiskError> {
        Ok(())
    }

    fn status(&self) -> Result<Status, DiskError> {
        Ok(Status { len: hold(&self.0).len() as u64, read_only: false })
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut files = hold(&self.0);
        if access == Access::Create {
            files.insert(path.to_owned(), Content::default());
        }
        let content = files.get(path).ok_or_else(|| missing("open", path))?;
        Ok(Box::new(MemoryFile(Arc::clone(content))))
    }

    fn create_directory(&self, _: &Path) -> Result<(), DiskError> {
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let files = hold(&self.0);
        let names = files.keys().filter(|file| file.parent() == Some(path)).filter_map(|file| file.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut files = hold(&self.0);
        let content = files.remove(from).ok_or_else(|| missing("rename", from))?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        hold(&self.0).remove(path).map(drop).ok_or_else(|| missing("remove", path))
    }

    fn sync_directory(&self, _: &Path) -> Result<(), DiskError> {
        Ok(())
    }

    fn free_bytes(&self, _: &Path) -> Result<u64, DiskError> {
        Ok(u64::MAX)
    }

    fn lock(&self, path: &Path, _: &str) -> Result<Locking, DiskError> {
        Err(missing("lock", path))
    }

    fn is_locked(&self, _: &Path) -> Result<bool, DiskError> {
        Ok(false)
    }
}
