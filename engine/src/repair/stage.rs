//! Building files beside those they replace, looking at a log as if they were in place, and putting them there.
//!
//! Steps for each file, each safe to be interrupted and to be done again:
//! 1. the good file is built under its name with [`TEMPORARY`] behind it, gets its mode and is flushed;
//! 2. what it replaces is copied into `quarantine/`, flushed, and gets a name there that nothing has;
//! 3. the good file is given its name, which takes the damaged one away, and the directory is flushed.
//!
//! The damaged file is copied and not moved: so its name always stands for the old file or for the new one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::{LogDirectory, is_own_name, relative};
use crate::disk::{Access, Disk, DiskError, DiskFile, DiskLock, Locking, Mode, TEMPORARY, read_up_to};
use crate::seal::digest_of;
use crate::segment::SegmentFile;

use super::plan::{Fill, Rebuild};
use super::source::{Source, is_missing};

/// Bytes that are copied at a time.
const STEP: u64 = 1 << 20;

/// The log as it will be: files that were built stand in the place of those they replace. Nobody writes,
/// whoever asks, because the one who looks holds the lock.
pub(crate) struct View<'a> {
    disk: &'a dyn Disk,
    /// Where what is asked for at a path lies.
    pub(crate) staged: BTreeMap<PathBuf, PathBuf>,
}

impl<'a> View<'a> {
    pub(crate) const fn new(disk: &'a dyn Disk) -> Self {
        Self { disk, staged: BTreeMap::new() }
    }

    fn path<'p>(&'p self, path: &'p Path) -> &'p Path {
        self.staged.get(path).map_or(path, PathBuf::as_path)
    }
}

impl Disk for View<'_> {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        self.disk.open(self.path(path), access)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let mut names = self.disk.list(path)?;
        let staged = self.staged.keys().filter(|staged| staged.parent() == Some(path));
        names.extend(staged.filter_map(|staged| Some(staged.file_name()?.to_str()?.to_owned())));
        names.sort_unstable();
        names.dedup();
        Ok(names)
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

    fn is_locked(&self, _path: &Path) -> Result<bool, DiskError> {
        Ok(false)
    }
}

/// Keeps the lock as long as it lives.
pub(super) struct Held(#[expect(dead_code, reason = "given back when dropped")] pub(super) Box<dyn DiskLock>);

/// The path with the ending of what is not finished.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}

/// Removes a file that may not be there.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    match disk.remove(path) {
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Builds a file beside the one that it will replace; answers its path.
pub(super) fn build(
    own: &Source<'_>,
    copy: &Source<'_>,
    name: SegmentFile,
    rebuild: &Rebuild,
) -> Result<PathBuf, crate::error::LogError> {
    let path = temporary(&own.directory.segment_file(name));
    remove(own.disk, &path)?;
    let file = own.disk.open(&path, Access::Create)?;
    if let Some(old) = own.open(name)? {
        let len = old.status()?.len.min(rebuild.len);
        copy_range(old.as_ref(), file.as_ref(), 0, len)?;
    }
    file.set_len(rebuild.len)?;
    let theirs = copy.open(name)?;
    for patch in &rebuild.patches {
        match (&patch.fill, &theirs) {
            (Fill::Copy(len), Some(theirs)) => copy_range(theirs.as_ref(), file.as_ref(), patch.at, *len)?,
            // What it held when it was looked at is gone; the file that is built will not verify.
            (Fill::Copy(_), None) => {}
            (Fill::Zeros(len), _) => {
                file.write_at(&vec![0; usize::try_from(*len).unwrap_or(0)], patch.at)?;
            }
            (Fill::Bytes(bytes), _) => file.write_at(bytes, patch.at)?,
        }
    }
    file.set_mode(rebuild.mode)?;
    file.sync()?;
    Ok(path)
}

/// Copies bytes from one file to the same place of another, up to the end of the first.
fn copy_range(from: &dyn DiskFile, to: &dyn DiskFile, at: u64, len: u64) -> Result<(), DiskError> {
    let (mut at, end) = (at, at.saturating_add(len));
    while at < end {
        let step = usize::try_from((end - at).min(STEP)).unwrap_or(0);
        let bytes = read_up_to(from, at, step)?;
        if bytes.is_empty() {
            break;
        }
        to.write_at(&bytes, at)?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Copies a file into quarantine, unless it is there; answers under which name, relative to the log's
/// directory, or `None` where there is no such file.
pub(super) fn quarantine(disk: &dyn Disk, directory: &LogDirectory, path: &Path) -> Result<Option<String>, DiskError> {
    let file = match disk.open(path, Access::Read) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let place = directory.quarantine();
    disk.create_directory(&place)?;
    disk.sync_directory(directory.path())?;
    let base = path.file_name().and_then(|name| name.to_str()).unwrap_or("file").to_owned();
    let digest = digest_of(file.as_ref())?;
    let names = disk.list(&place)?;
    let mut number = 0_u64;
    let name = loop {
        let name = format!("{base}.{number}");
        if !names.contains(&name) {
            break name;
        }
        // A repair that was interrupted has copied it already.
        if !is_directory(disk, &place.join(&name))?
            && digest_of(disk.open(&place.join(&name), Access::Read)?.as_ref())? == digest
        {
            return Ok(Some(format!("quarantine/{name}")));
        }
        number += 1;
    };
    let kept = place.join(&name);
    let unfinished = temporary(&kept);
    remove(disk, &unfinished)?;
    let copy = disk.open(&unfinished, Access::Create)?;
    copy_range(file.as_ref(), copy.as_ref(), 0, file.status()?.len)?;
    copy.set_mode(Mode::Private)?;
    copy.sync()?;
    disk.rename(&unfinished, &kept)?;
    disk.sync_directory(&place)?;
    Ok(Some(format!("quarantine/{name}")))
}

/// Whether a directory stands there.
pub(super) fn is_directory(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    match disk.list(path) {
        Err(error) if is_missing(&error) => Ok(false),
        listed => listed.map(|_| true),
    }
}

/// Whether something else stands where a directory belongs.
pub(super) fn is_no_directory(disk: &dyn Disk, path: &Path) -> Result<bool, DiskError> {
    match disk.list(path) {
        Err(error) if is_missing(&error) => Ok(error.source.kind() == io::ErrorKind::NotADirectory),
        listed => listed.map(|_| false),
    }
}

/// Moves directories that stand in the place of segment or payload files into quarantine; answers which, and
/// where to.
pub(super) fn move_directories(
    disk: &dyn Disk,
    directory: &LogDirectory,
) -> Result<Vec<(String, String)>, crate::error::LogError> {
    let mut moved = Vec::new();
    for file in Source::look(disk, directory)?.files {
        let path = directory.segment_file(file);
        if !is_directory(disk, &path)? {
            continue;
        }
        let place = directory.quarantine();
        disk.create_directory(&place)?;
        disk.sync_directory(directory.path())?;
        let names = disk.list(&place)?;
        let free = (0_u64..).map(|number| format!("{}.{number}", file.name())).find(|name| !names.contains(name));
        let Some(name) = free else { continue };
        disk.rename(&path, &place.join(&name))?;
        disk.sync_directory(&place)?;
        disk.sync_directory(&directory.segments())?;
        moved.push((relative(file), format!("quarantine/{name}")));
    }
    Ok(moved)
}

/// Whether [`quarantine`] gives this name to a copy that is not complete.
pub(super) fn is_unfinished_copy(name: &str) -> bool {
    let parts = name.strip_suffix(TEMPORARY).and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(base, number)| number.parse::<u64>().is_ok() && is_own_name(base))
}

/// Gives a file that was built its name; what had it is in quarantine.
pub(crate) fn install(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    disk.rename(&temporary(path), path)?;
    path.parent().map_or(Ok(()), |directory| disk.sync_directory(directory))
}
