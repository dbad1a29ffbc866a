//! The bytes of tiles: hashes one after the other; records, each after its length.

use crate::tree::Hash;

use super::TileWidth;

/// The bytes of the length in front of a record, u16 big-endian.
const LENGTH_LEN: usize = 2;

/// Why hashes or records cannot be a tile.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A tile holds 1 to 256 of them.
    #[error("a tile holds 1 to 256 hashes or records, not {count}")]
    WrongCount {
        /// How many were given; of more than 256 records, 257.
        count: usize,
    },
    /// A record is longer than a u16 can say.
    #[error("record {position} of the bundle has {len} bytes, more than 65535")]
    RecordTooLong {
        /// How many records are before it in the bundle.
        position: usize,
        /// The length of the record in bytes.
        len: usize,
    },
}

/// Why bytes are not a tile of the width.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A hash tile has 32 bytes for each hash.
    #[error("a tile of this width has {expected} bytes, not {found}")]
    WrongLength {
        /// The length of a tile of the width in bytes.
        expected: usize,
        /// The length found in bytes.
        found: usize,
    },
    /// An entry bundle ends within a record or before it.
    #[error("the bundle ends within record {position}, which starts at byte {offset}")]
    Truncated {
        /// How many records are before it in the bundle.
        position: usize,
        /// Where the length of the record should start, in bytes.
        offset: usize,
    },
    /// An entry bundle goes on after its last record.
    #[error("{count} bytes follow the last record of the bundle")]
    TrailingBytes {
        /// How many bytes are left over.
        count: usize,
    },
}

/// The bytes of a hash tile: 32 for each hash, in order.
///
/// # Errors
///
/// `WrongCount` of [`EncodeError`].
pub fn encode_tile(hashes: &[Hash]) -> Result<Vec<u8>, EncodeError> {
    if hashes.is_empty() || hashes.len() > usize::from(TileWidth::FULL.get()) {
        return Err(EncodeError::WrongCount { count: hashes.len() });
    }
    let mut bytes = Vec::with_capacity(hashes.len() * Hash::LEN);
    for hash in hashes {
        bytes.extend_from_slice(hash.as_bytes());
    }
    Ok(bytes)
}

/// The hashes of a hash tile of the width. They are not checked against any root.
///
/// # Errors
///
/// `WrongLength` of [`DecodeError`].
pub fn decode_tile(width: TileWidth, bytes: &[u8]) -> Result<Vec<Hash>, DecodeError> {
    let expected = usize::from(width.get()) * Hash::LEN;
    if bytes.len() != expected {
        return Err(DecodeError::WrongLength { expected, found: bytes.len() });
    }
    let (hashes, _) = bytes.as_chunks::<{ Hash::LEN }>();
    Ok(hashes.iter().copied().map(Hash::new).collect())
}

/// The bytes of an entry bundle: for each record its length, u16 big-endian, and its bytes.
///
/// # Errors
///
/// [`EncodeError`].
pub fn encode_bundle<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    let mut count = 0;
    for record in records {
        let record = record.as_ref();
        if count == usize::from(TileWidth::FULL.get()) {
            return Err(EncodeError::WrongCount { count: count + 1 });
        }
        let Ok(len) = u16::try_from(record.len()) else {
            return Err(EncodeError::RecordTooLong { position: count, len: record.len() });
        };
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(record);
        count += 1;
    }
    if count == 0 {
        return Err(EncodeError::WrongCount { count });
    }
    Ok(bytes)
}

/// The bytes of an entry bundle, known to hold exactly its width of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryBundle<'a> {
    width: TileWidth,
    bytes: &'a [u8],
}

impl<'a> EntryBundle<'a> {
    /// Checks that the bytes are `width` records and nothing else. The records are not looked at.
    ///
    /// # Errors
    ///
    /// `Truncated` and `TrailingBytes` of [`DecodeError`].
    pub fn decode(width: TileWidth, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut rest = bytes;
        for position in 0..usize::from(width.get()) {
            let offset = bytes.len() - rest.len();
            (_, rest) = split_record(rest).ok_or(DecodeError::Truncated { position, offset })?;
        }
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes { count: rest.len() });
        }
        Ok(Self { width, bytes })
    }

    /// The number of records.
    pub const fn width(&self) -> TileWidth {
        self.width
    }

    /// The records in order, as slices of the bundle's bytes.
    pub const fn iter(&self) -> Entries<'a> {
        Entries { rest: self.bytes }
    }
}

impl<'a> IntoIterator for &EntryBundle<'a> {
    type Item = &'a [u8];
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// The records of an [`EntryBundle`] in order, as slices of its bytes.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (record, rest) = split_record(self.rest)?;
        self.rest = rest;
        Some(record)
    }
}

/// The first record and what follows it; `None` if there is no whole record.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<LENGTH_LEN>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}
