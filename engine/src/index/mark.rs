//! How far the index got, and of which log: the one row that is replaced.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 32 | checksum | BLAKE3 of all bytes from 32 on |
//! | 32 | 4 | format version | 1 |
//! | 36 | 4 | zero | |
//! | 40 | 32 | log id | |
//! | 72 | 8 | leaf count | leaves in the sheets |
//! | 80 | 8 | sheet count | |
//! | 88 | 32 | root | of the log tree at that leaf count |
//!
//! Little-endian. Checksum and version keep their places in all versions.

use stele_proof::TreeSize;
use stele_proof::tree::Hash;

use crate::frame::{read_u32, read_u64};
use crate::reserved::LogId;

/// The version of the index and its rows.
const INDEX_VERSION: u32 = 1;
const BYTES: usize = 120;
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 32;

const _: () = assert!(BYTES == 32 + 4 + 4 + 32 + 8 + 8 + 32);

/// How far the index got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) log: LogId,
    pub(super) leaves: TreeSize,
    pub(super) sheets: u64,
    pub(super) root: Hash,
}

impl Mark {
    /// The row.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut row = vec![0; CHECKED_FROM];
        row.extend_from_slice(&INDEX_VERSION.to_le_bytes());
        row.extend_from_slice(&[0; 4]);
        row.extend_from_slice(self.log.as_bytes());
        row.extend_from_slice(&self.leaves.get().to_le_bytes());
        row.extend_from_slice(&self.sheets.to_le_bytes());
        row.extend_from_slice(self.root.as_bytes());
        let checksum = blake3::hash(&row[CHECKED_FROM..]);
        row[..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
        row
    }

    /// Reads the row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(row: &[u8]) -> Result<Self, String> {
        let damaged = || "the mark of the index is damaged".to_owned();
        if row.len() < CHECKED_FROM + 4 || row[..CHECKED_FROM] != *blake3::hash(&row[CHECKED_FROM..]).as_bytes() {
            return Err(damaged());
        }
        let version = read_u32(row, 32);
        if version != INDEX_VERSION {
            return Err(format!("the index has format version {version}, and this release writes {INDEX_VERSION}"));
        }
        let row: &[u8; BYTES] = row.try_into().map_err(|_other_length| damaged())?;
        let (_, rest) = row.split_at(40);
        let log = rest.first_chunk().ok_or_else(damaged)?;
        let root = row.last_chunk().ok_or_else(damaged)?;
        let (leaves, sheets) = (TreeSize::new(read_u64(row, 72)), read_u64(row, 80));
        let mark = Self { log: LogId::new(*log), leaves, sheets, root: Hash::new(*root) };
        if mark.encode() == row { Ok(mark) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_both_ways() {
        let mark =
            Mark { log: LogId::new([1; 32]), leaves: TreeSize::new(0x0203), sheets: 4, root: Hash::new([5; 32]) };
        let body: Vec<u8> =
            [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1; 32], &[3, 2, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0], &[5; 32]]
                .concat();
        let golden = [&blake3::hash(&body).as_bytes()[..], &body].concat();
        assert_eq!(mark.encode(), golden);
        assert_eq!(Mark::decode(&golden), Ok(mark));
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Mark::decode(&flipped).is_err(), "bit {bit}");
        }
        let mut newer = golden;
        newer[32] = 2;
        let checksum = *blake3::hash(&newer[32..]).as_bytes();
        newer[..32].copy_from_slice(&checksum);
        assert!(Mark::decode(&newer).unwrap_err().contains("version 2"));
    }
}
