//! Signing state: the last tree head this node signed (DESIGN.md section 9). File `signing-state`.
//!
//! Content of the generation file ([`crate::generation`]): tree size, 8 bytes little-endian, and root,
//! 32 bytes.
//!
//! I-SIGNING-1: a signature leaves the node only over a size larger than the last one saved, or over
//! the same size and root.

use std::path::Path;

use stele_proof::{TreeSize, tree};

use crate::disk::{Disk, DiskError};
use crate::frame::read_u64;
use crate::generation::{GenerationError, GenerationFile, read};

pub(crate) const MAGIC: [u8; 8] = *b"STELSIGN";

/// A tree head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedHead {
    /// Size of the tree.
    pub size: TreeSize,
    /// Its root.
    pub root: tree::Hash,
}

impl SignedHead {
    fn encode(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.size.get().to_le_bytes());
        bytes[8..].copy_from_slice(self.root.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 40] = bytes.try_into().ok()?;
        let root = bytes.last_chunk::<32>()?;
        Some(Self { size: TreeSize::new(read_u64(bytes, 0)), root: tree::Hash::new(*root) })
    }
}

/// Why a tree head may not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// A larger tree has been signed: this log has lost records.
    #[error("a tree of {last} records has been signed before, this one has {asked}: records are missing; do not sign")]
    Backwards {
        /// The size signed last.
        last: TreeSize,
        /// The size asked for.
        asked: TreeSize,
    },
    /// Another root has been signed for this size: this log was changed.
    #[error("another root has been signed for {size} records: the log was changed; do not sign")]
    OtherRoot {
        /// The size.
        size: TreeSize,
    },
    /// A call failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The open file.
pub struct SigningStateFile {
    file: GenerationFile,
    last: SignedHead,
}

impl SigningStateFile {
    /// Creates the file for a log of which nothing was signed.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn create(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        let last = SignedHead { size: TreeSize::new(0), root: tree::empty_root() };
        Ok(Self { file: GenerationFile::create(disk, path, MAGIC, &last.encode())?, last })
    }

    /// Opens the file.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, GenerationError> {
        let (file, content) = GenerationFile::open(disk, path, MAGIC)?;
        let last = SignedHead::decode(&content).ok_or_else(|| GenerationError::Damaged(path.to_owned()))?;
        Ok(Self { file, last })
    }

    /// The head signed last.
    pub const fn last(&self) -> SignedHead {
        self.last
    }

    /// Makes durable that `head` is going to be signed; only then may the signature be made.
    ///
    /// # Errors
    /// [`SigningError`] where it contradicts what was signed before, or the disk fails.
    pub fn advance(&mut self, head: SignedHead) -> Result<(), SigningError> {
        if head.size < self.last.size {
            return Err(SigningError::Backwards { last: self.last.size, asked: head.size });
        }
        if head.size == self.last.size {
            return if head.root == self.last.root { Ok(()) } else { Err(SigningError::OtherRoot { size: head.size }) };
        }
        self.file.save(&head.encode())?;
        self.last = head;
        Ok(())
    }
}

/// Reads the last signed head without opening the file for writing.
///
/// # Errors
/// [`GenerationError`].
pub fn read_signed_head(disk: &dyn Disk, path: &Path) -> Result<SignedHead, GenerationError> {
    let (_, content) = read(disk, path, MAGIC)?;
    SignedHead::decode(&content).ok_or_else(|| GenerationError::Damaged(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn only_larger_or_equal_heads_may_be_signed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing-state");
        let head = |size, byte| SignedHead { size: TreeSize::new(size), root: tree::Hash::new([byte; 32]) };
        let mut file = SigningStateFile::create(&RealDisk, &path).unwrap();
        file.advance(head(5, 1)).unwrap();
        file.advance(head(5, 1)).unwrap();
        assert!(matches!(file.advance(head(5, 2)), Err(SigningError::OtherRoot { .. })));
        assert!(matches!(file.advance(head(4, 1)), Err(SigningError::Backwards { .. })));
        let mut file = SigningStateFile::open(&RealDisk, &path).unwrap();
        assert_eq!(file.last(), head(5, 1));
        assert!(file.advance(head(5, 2)).is_err());
        file.advance(head(6, 2)).unwrap();
        assert_eq!(read_signed_head(&RealDisk, &path).unwrap(), head(6, 2));
    }

    #[test]
    fn golden_bytes_both_ways() {
        let head = SignedHead { size: TreeSize::new(0x0102), root: tree::Hash::new([9; 32]) };
        let mut golden = [9; 40];
        golden[..8].copy_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(head.encode(), golden);
        assert_eq!(SignedHead::decode(&golden), Some(head));
        assert_eq!(SignedHead::decode(&golden[..39]), None);
    }
}
