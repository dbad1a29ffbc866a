//! The one seam through which the engine touches the world's files.
//!
//! Contract, which [`RealDisk`] keeps and every other implementation must:
//! - a write is readable at once and durable only after [`DiskFile::sync`] of that file returned;
//! - a new, renamed or removed name is durable only after [`Disk::sync_directory`] of its directory
//!   returned;
//! - after a failed `sync` nothing is known about what was written since the last good one, and the
//!   caller never asks again;
//! - positions are explicit: there is no shared cursor, so files may be used from several threads.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A failed call, with what was tried and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}{}", path.display(), remedy(source))]
pub struct DiskError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on the file system and run it again",
        io::ErrorKind::FileTooLarge => "; raise the limit on the size of files and run it again",
        io::ErrorKind::PermissionDenied => "; run it as the user that owns the log",
        _ => "",
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Existing file, read only.
    Read,
    /// Existing file, read only, past the page cache where the file system can.
    ReadDirect,
    /// Existing file, read and write.
    Write,
    /// Existing file, read and write, past the page cache where the file system can.
    WriteDirect,
    /// New file (an existing one is an error), read and write, mode 0600.
    Create,
}

impl Access {
    /// Whether reads and writes must suit direct I/O: whole sectors, in the file and in memory.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::ReadDirect | Self::WriteDirect)
    }
}

/// Whether a file may still be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// 0600.
    Private,
    /// 0444.
    Sealed,
    /// 0644.
    Public,
}

impl Mode {
    const fn bits(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Sealed => 0o444,
            Self::Public => 0o644,
        }
    }
}

/// Size and mode of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Length in bytes.
    pub len: u64,
    /// Whether nobody may write it: the mark of a sealed file.
    pub read_only: bool,
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at a position; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError>;

    /// Writes all bytes at a position.
    ///
    /// # Errors
    /// [`DiskError`]; how much was written is then unknown.
    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError>;

    /// Makes content and length durable. A failure is final.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn sync(&self) -> Result<(), DiskError>;

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn set_len(&self, len: u64) -> Result<(), DiskError>;

    /// Sets who may read and write; durable with the next [`DiskFile::sync`] of this handle.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn set_mode(&self, mode: Mode) -> Result<(), DiskError>;

    /// Length and mode.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn status(&self) -> Result<Status, DiskError>;
}

/// A lock that is given back when dropped.
pub trait DiskLock: Send + Sync {}

/// Who holds a lock.
pub enum Locking {
    /// Now we do.
    Taken(Box<dyn DiskLock>),
    /// Somebody else, who left this text in the file.
    HeldBy(String),
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens or creates a file.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError>;

    /// Creates a directory with mode 0700 and its missing parents.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn create_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError>;

    /// Gives a file another name in the same file system, replacing what had it.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn remove(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes the names in a directory durable. A failure is final.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn sync_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Bytes that may still be written to the file system of a directory.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError>;

    /// Takes an exclusive advisory lock on a file, created where missing, and leaves `note` in it.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError>;

    /// Whether somebody holds the exclusive lock; takes none itself.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    fn is_locked(&self, path: &Path) -> Result<bool, DiskError>;
}

/// Reads exactly `len` bytes at a position, or fewer at the end of the file.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub fn read_up_to(file: &dyn DiskFile, at: u64, len: usize) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, at)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads a whole small file; `None` where there is none or it is larger than `limit`.
///
/// # Errors
/// [`DiskError`] of a failed call other than "not found".
pub fn read_small(disk: &dyn Disk, path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DiskError> {
    let file = match disk.open(path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = read_up_to(file.as_ref(), 0, limit + 1)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// Replaces a file as a whole: temporary name, flush, rename, directory flush.
///
/// # Errors
/// [`DiskError`] of the failed call; the old content is then still there.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: Mode) -> Result<(), DiskError> {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    let temporary = PathBuf::from(name);
    match disk.remove(&temporary) {
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, Access::Create)?;
    file.write_at(bytes, 0)?;
    file.set_mode(mode)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => disk.sync_directory(directory),
        None => Ok(()),
    }
}

/// The ending of a file that is not yet what its name will say; deleted when a log is opened.
pub const TEMPORARY: &str = ".tmp";

/// The operating system's files.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

struct RealFile {
    file: fs::File,
    path: PathBuf,
    access: Access,
    /// Whether the mode was set since the last flush.
    mode_is_set: AtomicBool,
}

impl RealFile {
    fn fail(&self, operation: &'static str) -> impl FnOnce(io::Error) -> DiskError {
        fail(operation, &self.path)
    }
}

fn fail(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError { operation, path, source }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                // Direct I/O cannot go on from the odd place where the file ends.
                Ok(read) if self.access.is_direct() && read % SECTOR_BYTES != 0 => {
                    done += read;
                    break;
                }
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail("read")(error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, at).map_err(self.fail("write"))
    }

    fn sync(&self) -> Result<(), DiskError> {
        // `fdatasync` leaves the mode out (fdatasync(2)).
        let flushed =
            if self.mode_is_set.swap(false, Ordering::AcqRel) { self.file.sync_all() } else { self.file.sync_data() };
        flushed.map_err(self.fail("flush"))
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).map_err(self.fail("resize"))
    }

    fn set_mode(&self, mode: Mode) -> Result<(), DiskError> {
        self.file.set_permissions(fs::Permissions::from_mode(mode.bits())).map_err(self.fail("set the mode of"))?;
        self.mode_is_set.store(true, Ordering::Release);
        Ok(())
    }

    fn status(&self) -> Result<Status, DiskError> {
        let metadata = self.file.metadata().map_err(self.fail("look at"))?;
        Ok(Status { len: metadata.len(), read_only: metadata.mode() & 0o222 == 0 })
    }
}

struct RealLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] fs::File);

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        let mut options = fs::OpenOptions::new();
        // Not blocking: what stands in a log's place may be a pipe, whose opening would never end.
        options.read(true).custom_flags(NONBLOCK);
        // A file system without direct I/O refuses the flag; then the page cache must do.
        let past_the_cache = |options: &fs::OpenOptions| {
            options.clone().custom_flags(DIRECT | NONBLOCK).open(path).or_else(|error| match error.kind() {
                io::ErrorKind::InvalidInput => options.open(path),
                _ => Err(error),
            })
        };
        let opened = match access {
            Access::Read => options.open(path),
            Access::ReadDirect => past_the_cache(&options),
            Access::Write => options.write(true).open(path),
            Access::WriteDirect => past_the_cache(options.write(true)),
            Access::Create => options.write(true).create_new(true).mode(0o600).open(path),
        };
        let operation = if access == Access::Create { "create" } else { "open" };
        let file = opened.map_err(fail(operation, path))?;
        if !file.metadata().map_err(fail(operation, path))?.is_file() {
            return Err(fail(operation, path)(io::Error::other("it is not a regular file")));
        }
        Ok(Box::new(RealFile { file, path: path.to_owned(), access, mode_is_set: AtomicBool::new(false) }))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail("create", path))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(fail("list", path))? {
            let entry = entry.map_err(fail("list", path))?;
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        #[expect(clippy::disallowed_methods, reason = "this module wraps it")]
        fs::rename(from, to).map_err(fail("rename", from))
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_file(path).map_err(fail("remove", path))
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        fs::File::open(path).and_then(|directory| directory.sync_all()).map_err(fail("flush the directory", path))
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        let space = rustix::fs::statvfs(path).map_err(|error| fail("look at the space of", path)(error.into()))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Nothing is written through a link that stands in the lock's place.
            .custom_flags(NOFOLLOW)
            .open(path)
            .map_err(fail("open", path))?;
        // `is_locked` holds the shared lock for a moment: a refusal counts only when it lasts.
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => {
                    // Written over, not cut and written: a full disk must not keep a log from opening.
                    file.write_all_at(format!("{note:<NOTE_BYTES$}\n").as_bytes(), 0).map_err(fail("write", path))?;
                    return Ok(Locking::Taken(Box::new(RealLock(file))));
                }
                Err(fs::TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_PAUSE),
                Err(fs::TryLockError::Error(error)) => return Err(fail("lock", path)(error)),
            }
        }
        let holder = fs::read_to_string(path).map_err(fail("read", path))?;
        Ok(Locking::HeldBy(holder.trim().to_owned()))
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(fail("open", path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(fail("look at the lock", path)(error)),
        }
    }
}

/// The flag for direct I/O, which has another number on every architecture.
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits().cast_signed();
/// The flag for refusing a symbolic link.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
/// The flag for opening without waiting; it changes nothing for regular files.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
/// The smallest piece that direct I/O reads.
const SECTOR_BYTES: usize = 512;
/// What a note in a lock file is padded to.
const NOTE_BYTES: usize = 20;
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
