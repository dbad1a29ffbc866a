//! The key-value store under the index: `sled`. Nothing else here knows its name.
//!
//! Rows are written once (again, and the same, by whoever goes on after a process that died before the mark
//! told of them) and stand under dense keys: whoever asks for a row knows that it must be there. An error, a
//! panic or a missing row is a [`StoreFault`], upon which whoever feeds throws the store away. Opening it
//! writes: it puts its files in order, and leaves a snapshot when it is closed.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::disk::DiskError;

/// What `sled` may keep in memory.
const CACHE_BYTES: u64 = 8 << 20;

/// Why the store, or the mark before it, cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreFault {
    /// It is not what was written, or failed.
    #[error("{0}")]
    Unusable(String),
    /// Nothing is known to be wrong with it: whoever runs this may not read or write it.
    #[error("{0}")]
    Refused(String),
}

/// Whether an error tells of rights, or of a file system that cannot be written.
pub(super) fn is_refused(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

impl From<DiskError> for StoreFault {
    fn from(error: DiskError) -> Self {
        let text = format!("cannot {} {}: {}", error.operation, error.path.display(), error.source);
        if is_refused(error.source.kind()) { Self::Refused(text) } else { Self::Unusable(text) }
    }
}

impl From<sled::Error> for StoreFault {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) if is_refused(error.kind()) => {
                Self::Refused(format!("its store cannot be written: {error}"))
            }
            sled::Error::Io(error) => Self::Unusable(format!("its store failed: {error}")),
            sled::Error::Corruption { .. } => Self::Unusable("its store is damaged".to_owned()),
            error => Self::Unusable(format!("its store is damaged ({error})")),
        }
    }
}

/// An open store.
pub(super) struct Store {
    db: Option<sled::Db>,
}

impl Store {
    /// Opens the store in a directory, which exists.
    pub(super) fn open(path: &Path) -> Result<Self, StoreFault> {
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        Ok(Self { db: Some(guarded(|| config.open())?) })
    }

    fn db(&self) -> Result<&sled::Db, StoreFault> {
        self.db.as_ref().ok_or_else(super::closed)
    }

    /// The row of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let db = self.db()?;
        guarded(|| Ok(db.get(key)?.map(|row| row.to_vec())))
    }

    /// Writes rows; durable when this returns.
    pub(super) fn put(&self, rows: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreFault> {
        let db = self.db()?;
        guarded(|| {
            for (key, row) in rows {
                db.insert(key, &row[..])?;
            }
            db.flush().map(drop)
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let db = self.db.take();
        // Everything was flushed, or is thrown away: what ending it meets changes nothing.
        drop(guarded(|| {
            drop(db);
            Ok(())
        }));
    }
}

/// The one place where a panic is caught: what panicked is thrown away as a whole.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreFault> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(StoreFault::Unusable(format!("its store panicked: {text}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_fault_and_goes_no_further() {
        let fault = guarded::<()>(|| panic!("assertion {} failed", 7)).unwrap_err();
        assert_eq!(fault, StoreFault::Unusable("its store panicked: assertion 7 failed".to_owned()));
        let fault = guarded::<()>(|| Err(sled::Error::Unsupported("xyz".to_owned()))).unwrap_err();
        assert!(matches!(&fault, StoreFault::Unusable(why) if why.contains("xyz")), "{fault}");
    }

    #[test]
    fn a_fault_says_whether_it_is_damage_or_a_matter_of_rights_and_shows_no_backtrace() {
        let io = |kind: io::ErrorKind| StoreFault::from(sled::Error::Io(kind.into()));
        assert!(matches!(io(io::ErrorKind::PermissionDenied), StoreFault::Refused(_)));
        assert!(matches!(io(io::ErrorKind::ReadOnlyFilesystem), StoreFault::Refused(_)));
        assert!(matches!(io(io::ErrorKind::UnexpectedEof), StoreFault::Unusable(_)));
        let damaged = StoreFault::from(sled::Error::Corruption { at: None, bt: () });
        assert_eq!(damaged.to_string(), "its store is damaged");
    }
}
