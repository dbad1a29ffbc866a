//! The interchange form of one chain (`seeds/003`, INTEROP; REQUIREMENTS X04, X05): what an export writes
//! and a program that shares no code with this one can read. `docs/interop.md` is the page for such a
//! program's author.
//!
//! All numbers are little-endian. The records of one (`writer_id`, `stream`) pair lie in files of
//! consecutive `seq`:
//!
//! | file | holds |
//! |---|---|
//! | `manifest.json` | which files, which records, which roots ([`Manifest`]) |
//! | `wal-NNNNNN.seg` | a header and a frame for each record |
//! | `wal-NNNNNN.pay` | a header and a slot for each payload; absent where its records have none |
//!
//! Header of both, 32 bytes:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `RON-AUD` 0x01, or `STELPAY` 0x01 |
//! | 8 | 2 | flags | 0 |
//! | 10 | 4 | count | frames or slots; 0 while the file is not complete |
//! | 14 | 18 | reserved | 0 |
//!
//! Frame: `len` (4), `v` = 1 (1), `seq` (8), the canonical record (`len` bytes), 67 (4), `self_hash` (67,
//! text). Slot: `seq` (8), `len` (4), salt (32), payload (`len` bytes).
//!
//! There are no checksums: `self_hash` covers each record, the record its payload, and the root of a
//! segment, the digest tree ([`crate::digest_tree`]) over its records' hashes, covers their order and number.

mod manifest;

use core::fmt;

use crate::digest_tree::{Digest, DigestTree};
use crate::record::{MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES, Record, Salt, SelfHash, VerifyError};

pub use manifest::{
    MANIFEST_FILE, MAX_MANIFEST_BYTES, MAX_SEGMENTS, Manifest, ManifestError, ManifestSegment, RangeCheckpoint,
    SignatureFault,
};

/// Bytes of a file's header.
pub const HEADER_BYTES: usize = 32;
/// Bytes of a frame before the record.
const FRAME_HEAD_BYTES: usize = 4 + 1 + 8;
/// Bytes of a frame behind the record.
const FRAME_FOOT_BYTES: usize = 4 + SelfHash::TEXT_LEN;
/// The longest frame.
pub const MAX_FRAME_BYTES: usize = FRAME_HEAD_BYTES + MAX_RECORD_BYTES + FRAME_FOOT_BYTES;
/// Bytes of a slot before the payload.
pub const SLOT_HEAD_BYTES: usize = 8 + 4 + Salt::LEN;
/// The only major version of a record.
const RECORD_VERSION: u8 = 1;

const _: () = assert!(HEADER_BYTES == 8 + 2 + 4 + 18 && SLOT_HEAD_BYTES == 44 && MAX_RECORD_BYTES < 1 << 32);

/// The name of a chain: records are numbered and linked per stream and writer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ChainName<'a> {
    /// The stream.
    pub stream: &'a str,
    /// Who writes.
    pub writer_id: &'a str,
}

/// The first and the last `seq` of consecutive records of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeqRange {
    first: u64,
    last: u64,
}

impl SeqRange {
    /// `None` unless `1 <= first <= last` and their number fits 32 bits.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        let more = last.checked_sub(first)?;
        (first > 0 && more < u64::from(u32::MAX)).then_some(Self { first, last })
    }

    /// The first one.
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The last one.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        u32::try_from(self.last - self.first + 1).expect("checked when it was made")
    }
}

impl fmt::Display for SeqRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.first, self.last)
    }
}

/// What a file of an export holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Frames.
    Records,
    /// Slots.
    Payloads,
}

impl Content {
    const fn magic(self) -> [u8; 8] {
        match self {
            Self::Records => *b"RON-AUD\x01",
            Self::Payloads => *b"STELPAY\x01",
        }
    }
}

/// Why bytes of an export's file are not what they must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatFault {
    /// The file does not begin as its kind does.
    #[error("the file does not begin with the magic of its kind and version")]
    Magic,
    /// A field has a value that it cannot have.
    #[error("the field `{0}` is out of its bounds")]
    Field(&'static str),
    /// Bytes are missing.
    #[error("the file ends too early")]
    Cut,
    /// Bytes are left over.
    #[error("bytes follow the last record or payload")]
    TooLong,
    /// The count is zero.
    #[error("the file was not completed: its count is 0")]
    Unfinished,
}

/// The header of a file that holds `count` frames or slots; 0 says that it is not complete.
pub fn encode_header(content: Content, count: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&content.magic());
    bytes[10..14].copy_from_slice(&count.to_le_bytes());
    bytes
}

/// Reads the header of a complete file; answers how many frames or slots follow.
///
/// # Errors
/// [`FormatFault`].
pub fn decode_header(content: Content, bytes: &[u8]) -> Result<u32, FormatFault> {
    let bytes = bytes.first_chunk::<HEADER_BYTES>().ok_or(FormatFault::Cut)?;
    if bytes[..8] != content.magic() {
        return Err(FormatFault::Magic);
    }
    let count = u32_at(bytes, 10);
    if *bytes != encode_header(content, count) {
        return Err(FormatFault::Field("flags or reserved bytes"));
    }
    if count == 0 { Err(FormatFault::Unfinished) } else { Ok(count) }
}

/// A record as a frame holds it. Neither record nor hash is checked: [`BatchCheck::accept`] does that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// The position that the frame gives.
    pub seq: u64,
    /// What should be the canonical record.
    pub canonical: &'a [u8],
    /// What it should hash to.
    pub self_hash: SelfHash,
}

impl<'a> Frame<'a> {
    /// The frame of a record.
    pub fn of(record: &Record<'a>, self_hash: SelfHash) -> Self {
        Self { seq: record.seq(), canonical: record.canonical(), self_hash }
    }

    /// Appends the bytes of the frame.
    ///
    /// # Panics
    /// Where the record is longer than a record can be.
    pub fn write(&self, out: &mut Vec<u8>) {
        assert!(self.canonical.len() <= MAX_RECORD_BYTES, "a record of {} bytes", self.canonical.len());
        let [len, hash_len] =
            [self.canonical.len(), SelfHash::TEXT_LEN].map(|len| u32::try_from(len).expect("at most 4,096"));
        out.extend_from_slice(&len.to_le_bytes());
        out.push(RECORD_VERSION);
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(self.canonical);
        out.extend_from_slice(&hash_len.to_le_bytes());
        out.extend_from_slice(&self.self_hash.text());
    }

    /// Reads the frame at the start of the bytes, and how long it is; `None` where more bytes are needed, at
    /// most [`MAX_FRAME_BYTES`] in all.
    ///
    /// # Errors
    /// [`FormatFault::Field`].
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FormatFault> {
        let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let len = u32_at(head, 0) as usize;
        if len > MAX_RECORD_BYTES {
            return Err(FormatFault::Field("len"));
        }
        if head[4] != RECORD_VERSION {
            return Err(FormatFault::Field("v"));
        }
        let total = FRAME_HEAD_BYTES + len + FRAME_FOOT_BYTES;
        let Some(frame) = bytes.get(..total) else { return Ok(None) };
        let (canonical, foot) = frame[FRAME_HEAD_BYTES..].split_at(len);
        if u32_at(foot, 0) as usize != SelfHash::TEXT_LEN {
            return Err(FormatFault::Field("self_hash_len"));
        }
        let self_hash = SelfHash::parse(&foot[4..]).ok_or(FormatFault::Field("self_hash"))?;
        Ok(Some((Self { seq: u64_at(head, 5), canonical, self_hash }, total)))
    }
}

/// A payload as a slot holds it; not yet held against its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot<'a> {
    /// The record's position in its chain.
    pub seq: u64,
    /// What hides the payload in the record's commitment.
    pub salt: Salt,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Slot<'a> {
    /// Appends the bytes of the slot.
    ///
    /// # Panics
    /// Where the payload is longer than a payload can be.
    pub fn write(&self, out: &mut Vec<u8>) {
        let len = u32::try_from(self.payload.len()).expect("a payload fits 32 bits");
        assert!(u64::from(len) <= MAX_PAYLOAD_BYTES, "a payload of {len} bytes");
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.salt.as_bytes());
        out.extend_from_slice(self.payload);
    }

    /// Reads the slot at the start of the bytes, and how long it is; `None` where more bytes are needed, at
    /// most [`MAX_PAYLOAD_BYTES`] and [`SLOT_HEAD_BYTES`].
    ///
    /// # Errors
    /// [`FormatFault::Field`].
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FormatFault> {
        let Some((head, rest)) = bytes.split_first_chunk::<SLOT_HEAD_BYTES>() else { return Ok(None) };
        let len = u32_at(head, 8);
        if u64::from(len) > MAX_PAYLOAD_BYTES {
            return Err(FormatFault::Field("len"));
        }
        let mut salt = [0; Salt::LEN];
        salt.copy_from_slice(&head[12..]);
        let Some(payload) = rest.get(..len as usize) else { return Ok(None) };
        Ok(Some((Self { seq: u64_at(head, 0), salt: Salt::new(salt), payload }, SLOT_HEAD_BYTES + payload.len())))
    }
}

/// Takes the records of an export in order, and checks all that can be checked of each.
///
/// The link of the very first record to the one before it is taken at its word, unless it is the first of its
/// chain.
#[derive(Clone, Debug)]
pub struct BatchCheck {
    stream: String,
    writer_id: String,
    next: u64,
    last: Option<SelfHash>,
    tree: DigestTree,
}

impl BatchCheck {
    /// Before the first record of the chain's part that the manifest is about.
    pub fn new(manifest: &Manifest) -> Self {
        Self::of_chain(manifest.chain(), manifest.range().first())
    }

    /// Before the record with this `seq` of a chain.
    pub fn of_chain(chain: ChainName<'_>, first: u64) -> Self {
        let (stream, writer_id) = (chain.stream.to_owned(), chain.writer_id.to_owned());
        Self { stream, writer_id, next: first, last: None, tree: DigestTree::new() }
    }

    /// The chain.
    pub fn chain(&self) -> ChainName<'_> {
        ChainName { stream: &self.stream, writer_id: &self.writer_id }
    }

    /// Takes the next record: canonical, hashing to what it claims, of this chain, following the last one.
    ///
    /// # Errors
    /// [`VerifyError`] naming what does not hold; nothing was taken.
    pub fn accept<'a>(&mut self, frame: &Frame<'a>) -> Result<Record<'a>, VerifyError> {
        let record = Record::parse(frame.canonical)?;
        let computed = record.self_hash();
        if computed != frame.self_hash {
            return Err(VerifyError::HashMismatch { claimed: frame.self_hash, computed });
        }
        if frame.seq != self.next {
            return Err(VerifyError::SeqMismatch { expected: self.next, found: frame.seq });
        }
        self.follow(&record, computed)?;
        Ok(record)
    }

    /// Takes the next record, whose hash the caller computed: of this chain, following the last one.
    ///
    /// # Errors
    /// [`VerifyError`] naming what does not hold; nothing was taken.
    pub fn follow(&mut self, record: &Record<'_>, self_hash: SelfHash) -> Result<(), VerifyError> {
        if record.stream().decode() != self.stream || record.writer_id().decode() != self.writer_id {
            return Err(VerifyError::OtherChain);
        }
        if record.seq() != self.next {
            return Err(VerifyError::SeqMismatch { expected: self.next, found: record.seq() });
        }
        if let Some(expected) = self.last
            && record.prev() != Some(expected)
        {
            return Err(VerifyError::PrevMismatch { expected });
        }
        self.next = self.next.wrapping_add(1);
        self.last = Some(self_hash);
        self.tree.push(*self_hash.as_bytes());
        Ok(())
    }

    /// The `seq` of the next record.
    pub const fn next_seq(&self) -> u64 {
        self.next
    }

    /// How many records were taken since [`BatchCheck::take_root`].
    pub const fn batch_records(&self) -> u64 {
        self.tree.leaves()
    }

    /// Their root, if there are any.
    pub fn root(&self) -> Option<Digest> {
        self.tree.root()
    }

    /// The root over the records taken since the last call, if there are any; begins a new batch.
    pub fn take_root(&mut self) -> Option<Digest> {
        std::mem::take(&mut self.tree).root()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
