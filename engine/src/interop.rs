//! Exports of one chain for programs that share no code with this one, and their way back into a log: the
//! files around the formats of [`stele_proof::interop`].
//!
//! An export is written front to back, and its manifest last: what was interrupted has none, and is no
//! export. Everything is read and written a piece at a time; the memory used depends on the number of segment
//! files, not of records.

mod export;
mod import;
mod read;

use std::fmt;
use std::path::{Path, PathBuf};

use stele_proof::interop::{Manifest, SignatureFault};
use stele_proof::key::VerifierKey;

use crate::disk::{Disk, DiskError};
use crate::error::LogError;
use crate::intake::Refusal;

pub use export::{ExportOptions, export};
pub use import::{ImportReport, Imported, import};
pub use read::{ExportReader, Item};

/// How far an export, an import or a verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Records that have been looked at.
    pub records: u64,
    /// Records that will have been looked at.
    pub total: u64,
}

/// Something in an export that is not what it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file's name in the export.
    pub file: String,
    /// Where in it the header, frame or slot begins.
    pub offset: u64,
    /// The position in its chain of the record concerned, where one is.
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", self.file, self.offset)?;
        if let Some(seq) = self.seq {
            write!(f, ", seq {seq}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Why a chain cannot be exported, verified or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InteropError {
    /// The log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is something in the way.
    #[error("{} is not empty; give a directory that does not exist yet", .0.display())]
    Exists(PathBuf),
    /// There is no export, or one that was interrupted.
    #[error("there is no export in {}: it has no manifest.json, which is written last", .0.display())]
    NoExport(PathBuf),
    /// The log has none of the records.
    #[error("the log has no record of writer `{writer_id}` in stream `{stream}` with such a seq")]
    Nothing {
        /// The stream that was asked for.
        stream: String,
        /// The writer.
        writer_id: String,
    },
    /// An export would have more files than a manifest may name.
    #[error("the export would have more than {0} segment files; take more records a segment")]
    TooManySegments(usize),
    /// A file of the export is not what it must be.
    #[error("{0}")]
    Bad(Finding),
    /// The log refuses a record; nothing of it and behind it was appended.
    #[error("seq {seq}: {refusal}")]
    Refused {
        /// The record's position in its chain.
        seq: u64,
        /// Why.
        refusal: Refusal,
    },
    /// A checkpoint counts for nothing.
    #[error("checkpoint {number}: {fault}")]
    Checkpoint {
        /// Which, from 0.
        number: usize,
        /// Why.
        fault: SignatureFault,
    },
    /// A key was given, and these records are under no checkpoint.
    #[error("the records from seq {0} on are under no checkpoint, and a key was given")]
    Uncovered(u64),
    /// A checkpoint cannot be signed.
    #[error("the export cannot be signed: {0}")]
    Key(SignatureFault),
}

impl From<DiskError> for InteropError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// What a good export holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportReport {
    /// Its manifest.
    pub manifest: Manifest,
    /// Records.
    pub records: u64,
    /// Payloads that came along.
    pub payloads: u64,
    /// Payloads that records commit to and that did not.
    pub payloads_missing: u64,
    /// Checkpoints whose signatures hold under the given key; none without one.
    pub checkpoints_verified: usize,
}

/// Verifies an export by itself: every byte of the files that the manifest names.
///
/// Given a key, all records must be under its checkpoints. Without one, signatures are not looked at, and
/// whoever may write the files can make another export.
///
/// # Errors
/// [`InteropError`] of the first thing that does not hold.
pub fn verify_export(
    disk: &dyn Disk,
    directory: &Path,
    key: Option<&VerifierKey>,
    progress: &mut dyn FnMut(Progress),
) -> Result<ExportReport, InteropError> {
    let mut reader = ExportReader::open(disk, directory)?;
    let checkpoints_verified = match key {
        Some(key) => check_checkpoints(reader.manifest(), key)?,
        None => 0,
    };
    let total = reader.total();
    let (mut records, mut payloads, mut payloads_missing) = (0, 0, 0);
    while let Some(item) = reader.next_item()? {
        records += 1;
        match (item.record.payload(), item.payload) {
            (Some(_), Some(_)) => payloads += 1,
            (Some(_), None) => payloads_missing += 1,
            (None, _) => {}
        }
        progress(Progress { records, total });
    }
    let manifest = reader.manifest().clone();
    Ok(ExportReport { manifest, records, payloads, payloads_missing, checkpoints_verified })
}

fn check_checkpoints(manifest: &Manifest, key: &VerifierKey) -> Result<usize, InteropError> {
    for (number, checkpoint) in manifest.checkpoints.iter().enumerate() {
        let checked = manifest.check_signature(checkpoint, key);
        checked.map_err(|fault| InteropError::Checkpoint { number, fault })?;
    }
    // Checkpoints ascend, and each has the range of a segment.
    let mut covered = manifest.checkpoints.iter().map(|checkpoint| checkpoint.range);
    for segment in &manifest.segments {
        if covered.next() != Some(segment.range) {
            return Err(InteropError::Uncovered(segment.range.first()));
        }
    }
    Ok(manifest.checkpoints.len())
}
