//! Copying a directory from one disk to another: a log of the real file system into a fake disk, and
//! what a crash left out of it to be looked at.

use std::io;
use std::path::Path;

use stele_engine::disk::{Access, Disk, DiskError, Mode, RealDisk, read_up_to};

use crate::fake_disk::{FakeDisk, Media};

/// Copies a directory and everything in it; sealed files stay sealed, all others become private.
///
/// # Errors
/// [`DiskError`] of the failed call; a file that exists already is one.
pub fn copy(from: &dyn Disk, from_path: &Path, to: &dyn Disk, to_path: &Path) -> Result<(), DiskError> {
    to.create_directory(to_path)?;
    for name in from.list(from_path)? {
        let (source, target) = (from_path.join(&name), to_path.join(&name));
        match from.list(&source) {
            Ok(_) => copy(from, &source, to, &target)?,
            Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => {
                copy_file(from, &source, to, &target)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_file(from: &dyn Disk, source: &Path, to: &dyn Disk, target: &Path) -> Result<(), DiskError> {
    let file = from.open(source, Access::Read)?;
    let status = file.status()?;
    let bytes = read_up_to(file.as_ref(), 0, usize::try_from(status.len).unwrap_or(usize::MAX))?;
    let copy = to.open(target, Access::Create)?;
    copy.write_at(&bytes, 0)?;
    if status.read_only {
        copy.set_mode(Mode::Sealed)?;
    }
    Ok(())
}

/// A fake disk that holds, durable, a directory of the real file system, at the same path.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub fn load(path: &Path, media: Media, seed: u64) -> Result<FakeDisk, DiskError> {
    let disk = FakeDisk::new(media, seed);
    copy(&RealDisk, path, &disk, path)?;
    disk.settle();
    Ok(disk.snapshot())
}

/// Writes what a fake disk shows of a directory into a new one of the real file system, whatever fails
/// on the fake disk.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub fn dump(disk: &FakeDisk, path: &Path, real: &Path) -> Result<(), DiskError> {
    copy(&disk.snapshot(), path, &RealDisk, real)
}
