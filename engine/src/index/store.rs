//! The key-value store under the index: `sled`. Nothing else here knows its name.
//!
//! Rows are written once, but for one, and stand under dense keys: whoever asks for a row knows that it must
//! be there. An error, a panic or a missing row is a [`StoreFault`], upon which the caller throws the store
//! away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// What `sled` may keep in memory.
const CACHE_BYTES: u64 = 8 << 20;

/// Why the store cannot be used any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub(super) String);

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
        self.db.as_ref().ok_or_else(|| StoreFault("the store is closed".to_owned()))
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
        Ok(Err(error)) => Err(StoreFault(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(StoreFault(format!("the store panicked: {text}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_fault_and_goes_no_further() {
        let fault = guarded::<()>(|| panic!("assertion {} failed", 7)).unwrap_err();
        assert_eq!(fault, StoreFault("the store panicked: assertion 7 failed".to_owned()));
        let fault = guarded::<()>(|| Err(sled::Error::Unsupported("x".to_owned()))).unwrap_err();
        assert!(fault.0.contains('x'), "{fault}");
    }
}
