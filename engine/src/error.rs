//! What can go wrong with a log, by what the caller can do about it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use stele_proof::{LeafIndex, TreeSize};

use crate::disk::DiskError;
use crate::generation::GenerationError;
use crate::number::SegmentNumber;
use crate::segment::HeaderFault;
use crate::signing_state::SigningError;

/// Bytes on disk that are not what was written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// File name, relative to the log's directory.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// The first record concerned, where one is.
    pub leaf: Option<LeafIndex>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}", self.file, self.offset)?;
        if let Some(leaf) = self.leaf {
            write!(f, ", record {leaf}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The store met a failed write or flush; it acknowledges nothing any more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log stopped for good after a failure, nothing after it is acknowledged: {0}")]
pub struct Poisoned(pub Arc<str>);

/// Why a log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no log there.
    #[error("there is no log in {}; `stele init` makes one", .0.display())]
    NoLog(PathBuf),
    /// The making of the log was interrupted; it never held a record.
    #[error(
        "the making of the log in {} was interrupted before its first record; remove the directory and run `stele init` again",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// There is something there already.
    #[error("{} is not empty; give a directory that does not exist yet", .0.display())]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("{} is in use by process {holder}; wait for it to end or stop it", path.display())]
    Locked {
        /// The log's directory.
        path: PathBuf,
        /// What the holder left in the lock file.
        holder: String,
    },
    /// Others hold the log, too, and decide its order together.
    #[error("{} belongs to a node of a cluster, which `steled` writes; give --endpoint to append through it", .0.display())]
    Member(PathBuf),
    /// Written by a newer release.
    #[error("{file}: {fault}")]
    Version {
        /// The file.
        file: String,
        /// Which version.
        fault: HeaderFault,
    },
    /// Rot or tampering.
    #[error("{0}")]
    Damaged(Damage),
    /// Stopped for good.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// A call failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Too little room to append and still be able to seal.
    #[error("{} has {free} bytes free, and {needed} are kept for sealing; make room and run it again, nothing is lost", path.display())]
    NoSpace {
        /// The log's directory.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// What must be free to append.
        needed: u64,
    },
    /// A guarded file is damaged.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// A signature would contradict an earlier one.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// No such record.
    #[error("there is no record {index}: the log holds {size}")]
    BeyondEnd {
        /// The index asked for.
        index: LeafIndex,
        /// Records that can be read.
        size: TreeSize,
    },
    /// No such segment.
    #[error("there is no segment {segment}: the last one is {last}")]
    NoSegment {
        /// The segment asked for.
        segment: SegmentNumber,
        /// The last one.
        last: SegmentNumber,
    },
    /// A key, policy or checkpoint file cannot be used.
    #[error("{file}: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// The system has no randomness.
    #[error("the system gives no randomness: {0}")]
    Entropy(std::io::Error),
}

impl LogError {
    /// Damage at a place.
    pub(crate) fn damaged(
        file: impl Into<String>,
        offset: u64,
        leaf: Option<LeafIndex>,
        what: impl fmt::Display,
    ) -> Self {
        Self::Damaged(Damage { file: file.into(), offset, leaf, what: what.to_string() })
    }
}
