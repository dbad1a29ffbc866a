//! How a command ends: the exit codes that scripts rely on, and the sentence that a person reads.
//!
//! | code | when |
//! |---|---|
//! | 0 | done; also when whoever read standard output has closed it |
//! | 1 | failed: input or output, no space, unknown format version, anything else |
//! | 2 | usage |
//! | 3 | verification failed: a refused record, damaged data, a proof or signature that does not hold |
//! | 4 | not reachable, or not yet indexed: part of the log was not looked at |
//! | 5 | refused by policy or rights: quorum of signatures not met, reserved stream, unsafe membership |
//! | 6 | not found: no such log, index beyond the end |
//! | 7 | busy: locked directory, full queue |

use core::fmt;
use std::io;

use stele_engine::disk::DiskError;
use stele_engine::error::LogError;
use stele_engine::generation::GenerationError;
use stele_engine::signing_state::SigningError;

/// The exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The command did what it was asked.
    Done,
    /// Input or output failed, or anything that has no code of its own.
    Failed,
    /// The arguments are wrong.
    Usage,
    /// A record is refused, data is damaged, a proof or signature does not hold.
    Unverified,
    /// Nobody answers, or not for all of the log.
    Unreachable,
    /// Policy or rights forbid it.
    Forbidden,
    /// There is no such log, or no such index in it.
    NotFound,
    /// The directory is locked, or a queue is full.
    Busy,
}

impl Exit {
    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unverified => 3,
            Self::Unreachable => 4,
            Self::Forbidden => 5,
            Self::NotFound => 6,
            Self::Busy => 7,
        }
    }
}

/// Why a command ends before it is done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// Whoever read standard output has closed it: as with other Unix tools, that is no error.
    ReaderGone,
    /// Something a person is told: one sentence, with the remedy where there is one.
    Told {
        /// The code to end with.
        exit: Exit,
        /// The sentence; its causes follow behind colons.
        error: anyhow::Error,
    },
}

impl Failure {
    /// Ends with this code and this sentence.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self::Told { exit, error: error.into() }
    }

    /// What a failed write to standard output means.
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::new(Exit::Failed, anyhow::Error::new(error).context("cannot write to standard output"))
        }
    }

    /// The code to end with.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::ReaderGone => Exit::Done,
            Self::Told { exit, .. } => *exit,
        }
    }
}

impl From<anyhow::Error> for Failure {
    /// A failure without a code of its own.
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<LogError> for Failure {
    /// The code that tells what can be done about it.
    fn from(error: LogError) -> Self {
        let exit = match &error {
            LogError::NoLog(_) | LogError::Unfinished(_) | LogError::BeyondEnd { .. } | LogError::NoSegment { .. } => {
                Exit::NotFound
            }
            LogError::Locked { .. } => Exit::Busy,
            LogError::Member(_) => Exit::Forbidden,
            LogError::Damaged(_)
            | LogError::Generation(GenerationError::Damaged(_) | GenerationError::Missing(_))
            | LogError::Signing(SigningError::Backwards { .. } | SigningError::OtherRoot { .. }) => Exit::Unverified,
            _ => Exit::Failed,
        };
        // The sentence holds its causes already.
        Self::new(exit, anyhow::anyhow!("{error}"))
    }
}

impl From<DiskError> for Failure {
    /// A file that cannot be read or written.
    fn from(error: DiskError) -> Self {
        LogError::from(error).into()
    }
}

impl fmt::Display for Failure {
    /// The sentence with its causes, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReaderGone => f.write_str("standard output was closed"),
            Self::Told { error, .. } => write!(f, "{error:#}"),
        }
    }
}
