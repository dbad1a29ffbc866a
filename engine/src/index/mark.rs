//! How far the index got, and of which log: the file `index/mark`, which is replaced as a whole.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 32 | checksum | BLAKE3 of all bytes from 32 on |
//! | 32 | 4 | format version | 2, of the mark and of all rows |
//! | 36 | 4 | leaves of a sheet | 8,192 |
//! | 40 | 32 | log id | |
//! | 72 | 8 | leaf count | leaves in the sheets, whole sheets |
//! | 80 | 32 | root | of the log tree at that leaf count |
//!
//! Little-endian. Checksum and version keep their places in all versions. It is a file of its own, so that
//! whoever wants to know how far the index got need not open the store, which only one process can. It exists
//! before the store does, and is replaced after the rows that it tells of are durable.

use stele_proof::TreeSize;
use stele_proof::tree::{Hash, empty_root};

use crate::directory::LogDirectory;
use crate::disk::{Disk, DiskError, Mode, read_small, replace};
use crate::error::LogError;
use crate::frame::{read_u32, read_u64};
use crate::reader::LogReader;
use crate::reserved::LogId;

use super::{SHEET_LEAVES, StoreFault, is_there};

/// The version of the index and its rows.
const INDEX_VERSION: u32 = 2;
const BYTES: usize = 112;
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 32;
/// Most bytes of a mark of any version.
const MOST_BYTES: usize = 4096;

const _: () = assert!(BYTES == 32 + 4 + 4 + 32 + 8 + 32);

/// How far the index got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The log.
    pub log: LogId,
    /// Leaves in the sheets.
    pub leaves: TreeSize,
    /// The root of the log there.
    pub root: Hash,
}

/// What stands in the place of a mark.
pub(super) enum Seen {
    /// Nothing.
    Nothing,
    /// A good mark.
    Mark(Mark),
    /// Something else: what is wrong with it.
    Bad(StoreFault),
}

impl Mark {
    /// That of an index that holds nothing.
    pub(super) fn empty(log: LogId) -> Self {
        Self { log, leaves: TreeSize::new(0), root: empty_root() }
    }

    /// How many sheets there are.
    pub const fn sheets(&self) -> u64 {
        self.leaves.get() / SHEET_LEAVES
    }

    /// The file.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0; CHECKED_FROM];
        file.extend_from_slice(&INDEX_VERSION.to_le_bytes());
        file.extend_from_slice(&u32::try_from(SHEET_LEAVES).unwrap_or(u32::MAX).to_le_bytes());
        file.extend_from_slice(self.log.as_bytes());
        file.extend_from_slice(&self.leaves.get().to_le_bytes());
        file.extend_from_slice(self.root.as_bytes());
        let checksum = blake3::hash(&file[CHECKED_FROM..]);
        file[..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
        file
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(file: &[u8]) -> Result<Self, String> {
        let damaged = || "the mark of the index is damaged".to_owned();
        if file.len() < CHECKED_FROM + 4 || file[..CHECKED_FROM] != *blake3::hash(&file[CHECKED_FROM..]).as_bytes() {
            return Err(damaged());
        }
        let version = read_u32(file, 32);
        if version != INDEX_VERSION {
            return Err(format!("the index has format version {version}, and this release writes {INDEX_VERSION}"));
        }
        let file: &[u8; BYTES] = file.try_into().map_err(|_other_length| damaged())?;
        let (_, rest) = file.split_at(40);
        let log = rest.first_chunk().ok_or_else(damaged)?;
        let root = file.last_chunk().ok_or_else(damaged)?;
        let mark = Self { log: LogId::new(*log), leaves: TreeSize::new(read_u64(file, 72)), root: Hash::new(*root) };
        let whole_sheets = mark.leaves.get().is_multiple_of(SHEET_LEAVES);
        if whole_sheets && mark.encode() == file { Ok(mark) } else { Err(damaged()) }
    }

    /// Looks at what there is; only reads.
    pub(super) fn look(disk: &dyn Disk, directory: &LogDirectory) -> Seen {
        match read_small(disk, &directory.index_mark(), MOST_BYTES) {
            Ok(Some(file)) => match Self::decode(&file) {
                Ok(mark) => Seen::Mark(mark),
                Err(why) => Seen::Bad(StoreFault::Unusable(why)),
            },
            Ok(None) if !is_there(&directory.index_mark()) => Seen::Nothing,
            Ok(None) => Seen::Bad(StoreFault::Unusable("the mark of the index is damaged".to_owned())),
            Err(error) => Seen::Bad(error.into()),
        }
    }

    /// Makes it what is there; durable when this returns.
    pub(super) fn save(&self, disk: &dyn Disk, directory: &LogDirectory) -> Result<(), DiskError> {
        replace(disk, &directory.index_mark(), &self.encode(), Mode::Private)
    }

    /// Holds it against the log; the inner error is what does not fit.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be read.
    pub(super) fn judge(&self, reader: &LogReader) -> Result<Result<(), String>, LogError> {
        let size = reader.size();
        if self.log != reader.genesis().log_id {
            return Ok(Err(format!("the index is that of the log {}", self.log)));
        }
        if self.leaves > size {
            return Ok(Err(format!("the index holds {} records, the log {size}", self.leaves)));
        }
        let root = if self.leaves.get() == 0 { empty_root() } else { reader.root_at(self.leaves)? };
        if self.root != root {
            return Ok(Err("the index is that of a log with another history".to_owned()));
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_both_ways() {
        let mark = Mark { log: LogId::new([1; 32]), leaves: TreeSize::new(0x0003_4000), root: Hash::new([5; 32]) };
        assert_eq!(mark.sheets(), 26);
        let body: Vec<u8> =
            [&[2, 0, 0, 0, 0, 0x20, 0, 0][..], &[1; 32], &[0, 0x40, 3, 0, 0, 0, 0, 0], &[5; 32]].concat();
        let golden = [&blake3::hash(&body).as_bytes()[..], &body].concat();
        assert_eq!(mark.encode(), golden);
        assert_eq!(Mark::decode(&golden), Ok(mark));
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Mark::decode(&flipped).is_err(), "bit {bit}");
        }
        let with = |at: usize, byte: u8| {
            let mut other = golden.clone();
            other[at] = byte;
            let checksum = *blake3::hash(&other[32..]).as_bytes();
            other[..32].copy_from_slice(&checksum);
            Mark::decode(&other).unwrap_err()
        };
        assert!(with(32, 3).contains("version 3"));
        // Sheets of another size, and a sheet that is not whole.
        assert!(with(37, 0x10).contains("damaged"));
        assert!(with(72, 1).contains("damaged"));
    }
}
