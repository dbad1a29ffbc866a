//! The parts of a segment's files that no frame answers for: header, ring, length, further files.

use std::io;
use std::path::Path;

use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, read_up_to};
use crate::error::{Damage, LogError};
use crate::read_back::SegmentReading;
use crate::segment::{PAGE_BYTES, PayloadPart, RING_START, SegmentFile};

use super::flush::RING_BYTES;

/// What a reading is worth: what was read, or what is damaged.
///
/// # Errors
/// Whatever is no damage of the segment.
pub(super) fn or_damage<T>(reading: Result<T, LogError>, file: SegmentFile) -> Result<Result<T, Damage>, LogError> {
    match reading {
        Ok(reading) => Ok(Ok(reading)),
        Err(LogError::Damaged(damage)) => Ok(Err(damage)),
        Err(LogError::Disk(error)) if error.source.kind() == io::ErrorKind::NotFound => {
            Ok(Err(damage(file, 0, "the file is missing; restore it from a copy")))
        }
        Err(error) => Err(error),
    }
}

/// Damage that concerns no record.
pub(super) fn damage(file: SegmentFile, offset: u64, what: &str) -> Damage {
    Damage { file: relative(file), offset, leaf: None, what: what.to_owned() }
}

/// What is wrong with the headers of the files that were read: they must be those of this log.
///
/// # Errors
/// [`LogError`] of a failed call.
pub(crate) fn check_headers(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    reading: &SegmentReading,
) -> Result<Option<Damage>, LogError> {
    let segment = reading.segment;
    let parts = reading.payloads.keys().map(|part| (SegmentFile::Payloads(segment, *part), Some(*part)));
    for (name, part) in parts.chain([(SegmentFile::Frames(segment), None)]) {
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        if read_file_header(file.as_ref(), name)? != inventory.header(segment, part) {
            return Ok(Some(damage(name, 0, "the file header is that of another log; restore the file from a copy")));
        }
    }
    Ok(None)
}

/// What is wrong with a sealed segment's files beside frames and payloads.
///
/// # Errors
/// [`LogError`] of a failed call.
pub(crate) fn check_sealed(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    reading: &SegmentReading,
) -> Result<Option<Damage>, LogError> {
    let segment = reading.segment;
    let name = SegmentFile::Frames(segment);
    let file = disk.open(&directory.segment_file(name), Access::Read)?;
    let ring = read_up_to(file.as_ref(), RING_START, RING_BYTES)?;
    if let Some(at) = ring.iter().position(|byte| *byte != 0) {
        let what = "the flush ring of a sealed segment is not zero; restore the file from a copy";
        return Ok(Some(damage(name, RING_START + at as u64, what)));
    }
    if file.status()?.len != reading.file_bytes {
        return Ok(Some(damage(name, reading.file_bytes, "bytes follow the last frame; restore the file from a copy")));
    }
    for (part, len) in &reading.payloads {
        let name = SegmentFile::Payloads(segment, *part);
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        if file.status()?.len != *len {
            return Ok(Some(damage(name, *len, "bytes follow the last payload; restore the file from a copy")));
        }
    }
    Ok(unnamed_parts(inventory, reading).next().map(|part| {
        let what = "no frame has a payload in this file; move it away";
        damage(SegmentFile::Payloads(segment, part), 0, what)
    }))
}

/// What lies behind the payloads of a segment that is not sealed.
///
/// # Errors
/// [`LogError`] of a failed call.
pub(super) fn payload_tails(
    disk: &dyn Disk,
    directory: &LogDirectory,
    inventory: &Inventory,
    reading: &SegmentReading,
) -> Result<Vec<String>, LogError> {
    let segment = reading.segment;
    let mut notes = Vec::new();
    for (part, len) in &reading.payloads {
        let name = SegmentFile::Payloads(segment, *part);
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        if read_up_to(file.as_ref(), *len, PAGE_BYTES)?.iter().any(|byte| *byte != 0) {
            notes.push(format!("{}, byte {len}: payloads of a group that was not finished", relative(name)));
        }
    }
    for part in unnamed_parts(inventory, reading) {
        let name = relative(SegmentFile::Payloads(segment, part));
        notes.push(format!("{name}: payloads of a group that was not finished"));
    }
    Ok(notes)
}

/// How a derived file stands to what it is derived from.
pub(super) enum Derived {
    /// Byte for byte the same.
    Good,
    /// There is none.
    Missing,
    /// It differs.
    Damaged(Damage),
}

/// Compares a stored derived file with what it must be; `file` is how findings name it.
///
/// # Errors
/// [`LogError`] of a failed call.
pub(super) fn check_derived(disk: &dyn Disk, path: &Path, file: String, computed: &[u8]) -> Result<Derived, LogError> {
    let stored = match disk.open(path, Access::Read) {
        Ok(stored) => read_up_to(stored.as_ref(), 0, computed.len() + 1)?,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(Derived::Missing),
        Err(error) => return Err(error.into()),
    };
    if stored == computed {
        return Ok(Derived::Good);
    }
    let same = stored.iter().zip(computed).take_while(|(stored, computed)| stored == computed).count();
    let what = "the file is not what the frames give; it is derived: `stele repair` computes it anew".to_owned();
    Ok(Derived::Damaged(Damage { file, offset: same as u64, leaf: None, what }))
}

/// Payload files that exist and that no frame names.
fn unnamed_parts<'i>(inventory: &'i Inventory, reading: &'i SegmentReading) -> impl Iterator<Item = PayloadPart> + 'i {
    inventory.payload_parts(reading.segment).filter(|part| !reading.payloads.contains_key(part))
}
