//! Files that cannot be read, and files beside the segments.

use std::io;

use stele_proof::LeafIndex;

use crate::directory::{LogDirectory, relative};
use crate::disk::{Disk, DiskError};
use crate::error::{Damage, LogError};
use crate::generation::{GenerationError, damaged_pages};
use crate::hard_state::{self, read_hard_state};
use crate::index::hashes::{Table, TableFault};
use crate::number::SegmentNumber;
use crate::segment::SegmentFile;
use crate::signing_state::{self, read_signed_head};
use crate::verify::survey::is_of_the_file;

const HARD_STATE: &str = "hard-state";
const SIGNING_STATE: &str = "signing-state";
/// Looks at a guarded file that a writer may just be saving.
const LOOKS: usize = 3;

/// What a failed call tells of the log: that the file is missing, or not one that can be read.
///
/// # Errors
/// The call's, where it tells of this process and not of the file.
pub(super) fn unreadable(
    directory: &LogDirectory,
    error: DiskError,
    leaf: Option<LeafIndex>,
) -> Result<Damage, LogError> {
    if !is_of_the_file(&error) {
        return Err(error.into());
    }
    let DiskError { operation, path, source } = error;
    let file = path.strip_prefix(directory.path()).unwrap_or(&path).display().to_string();
    let is_derived = file.ends_with(".tiles") || file.ends_with(".hashes") || file.starts_with("state/");
    let what = match source.kind() {
        io::ErrorKind::NotFound => "the file is missing; restore it from a copy".to_owned(),
        io::ErrorKind::PermissionDenied => format!("cannot {operation} it: {source}; run it as the log's owner"),
        _ if is_derived => {
            format!("cannot {operation} it: {source}; it is derived: move it away, `stele repair` computes it anew")
        }
        _ => format!("cannot {operation} it: {source}; restore it from a copy"),
    };
    Ok(Damage { file, offset: 0, leaf, what })
}

/// Whether a hash table is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TableState {
    There,
    Missing,
}

/// Reads the whole hash table of a sealed segment; `tiles` are the bytes of its tile sidecar, where they are known: it
/// names them.
pub(super) fn check_table(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segment: SegmentNumber,
    tiles: Option<&[u8]>,
    damage: &mut Vec<Damage>,
) -> TableState {
    let checked =
        Table::open_beside(disk, directory, segment, tiles.unwrap_or_default()).and_then(|table| table.check());
    match checked {
        Ok(()) => {}
        Err(TableFault::Missing) => return TableState::Missing,
        Err(TableFault::Other) if tiles.is_none() => {}
        Err(fault) => {
            let what = format!("{fault}; it is derived: `stele repair` computes it anew");
            damage.push(Damage { file: relative(SegmentFile::Hashes(segment)), offset: 0, leaf: None, what });
        }
    }
    TableState::There
}

/// Every copy of every generation in the guarded files. A save beside this may be half done: what is damage stays.
///
/// # Errors
/// As [`unreadable`].
pub(super) fn check_states(disk: &dyn Disk, directory: &LogDirectory) -> Result<Vec<Damage>, LogError> {
    let mut damage = look_at_states(disk, directory)?;
    for _ in 1..LOOKS {
        if damage.is_empty() {
            break;
        }
        let again = look_at_states(disk, directory)?;
        damage.retain(|found| again.contains(found));
    }
    Ok(damage)
}

fn look_at_states(disk: &dyn Disk, directory: &LogDirectory) -> Result<Vec<Damage>, LogError> {
    let mut damage = Vec::new();
    let path = directory.hard_state();
    let pages = damaged_pages(disk, &path, hard_state::MAGIC);
    copies(directory, HARD_STATE, pages, read_hard_state(disk, &path).map(|_| ()), &mut damage)?;
    let path = directory.signing_state();
    let pages = damaged_pages(disk, &path, signing_state::MAGIC);
    copies(directory, SIGNING_STATE, pages, read_signed_head(disk, &path).map(|_| ()), &mut damage)?;
    Ok(damage)
}

fn copies(
    directory: &LogDirectory,
    file: &str,
    pages: Result<Vec<u64>, DiskError>,
    read: Result<(), GenerationError>,
    damage: &mut Vec<Damage>,
) -> Result<(), LogError> {
    let found = |offset, what: String| Damage { file: file.to_owned(), offset, leaf: None, what };
    let pages = match pages {
        Ok(pages) => pages,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
            damage.push(found(0, "the file is missing; restore it from a backup of this node".to_owned()));
            return Ok(());
        }
        Err(error) => {
            damage.push(unreadable(directory, error, None)?);
            return Ok(());
        }
    };
    match read {
        Ok(()) => {
            let what = "a copy is damaged; `stele repair` writes it anew from the good one";
            damage.extend(pages.iter().map(|page| found(*page, what.to_owned())));
        }
        Err(GenerationError::Disk(error)) => damage.push(unreadable(directory, error, None)?),
        Err(_) => {
            let what = "both copies of a generation are damaged, and an older one must not be used; restore the file \
                        from a backup made after the log was last used";
            damage.push(found(pages.first().copied().unwrap_or(0), what.to_owned()));
        }
    }
    Ok(())
}
