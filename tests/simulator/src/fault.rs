//! Which call fails, and how.

use std::io;
use std::path::PathBuf;

/// A call of the disk or of an open file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "named as the methods of the seam; `Create` is an open that makes the file")]
pub enum Call {
    Open,
    Create,
    Read,
    Write,
    Sync,
    SetLen,
    SetMode,
    Status,
    CreateDirectory,
    List,
    Rename,
    Remove,
    SyncDirectory,
    FreeBytes,
    Lock,
    IsLocked,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::SetLen,
        Self::SetMode,
        Self::Status,
        Self::CreateDirectory,
        Self::List,
        Self::Rename,
        Self::Remove,
        Self::SyncDirectory,
        Self::FreeBytes,
        Self::Lock,
        Self::IsLocked,
    ];

    /// As error messages name it.
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Create | Self::CreateDirectory => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "flush",
            Self::SetLen => "resize",
            Self::SetMode => "set the mode of",
            Self::Status => "look at",
            Self::List => "list",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDirectory => "flush the directory",
            Self::FreeBytes => "look at the space of",
            Self::Lock => "lock",
            Self::IsLocked => "look at the lock",
        }
    }
}

/// Calls that a fault is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Calls {
    /// Every call.
    Any,
    /// Calls of one kind.
    Only(Call),
    /// Calls of one kind on one path.
    At(Call, PathBuf),
}

/// What a call that answers with an error has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Nothing. A flush: any part may have become durable, and the rest never will, although it can
    /// still be read: the system takes the pages for clean (ext4, XFS; Rebello et al., ATC'20).
    Failed,
    /// All of it; a flush: everything is durable.
    FailedButApplied,
}

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Failed, Self::FailedButApplied];
}

/// Whether a fault passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lasting {
    /// One call.
    Once,
    /// That call and every later one.
    FromThenOn,
}

/// What the caller is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// EIO.
    Io,
    /// ENOSPC.
    NoSpace,
}

impl Cause {
    pub(crate) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => EIO,
            Self::NoSpace => ENOSPC,
        })
    }
}

/// Numbers of Linux's `errno.h`, the same on all its architectures this project builds for.
pub(crate) const EIO: i32 = 5;
pub(crate) const EBADF: i32 = 9;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;

/// A call that is to fail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which calls are counted.
    pub calls: Calls,
    /// Which of them fails, from 1, counted from when the fault was set.
    pub nth: u64,
    /// Whether later ones fail, too.
    pub lasting: Lasting,
    /// What the failed call does.
    pub flavour: Flavour,
    /// What it answers.
    pub cause: Cause,
}
