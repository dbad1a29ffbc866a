//! The audit record: canonical bytes, hash, chain link, bounds and payload commitment.
//!
//! A record is canonical JSON of at most 4 KiB (DESIGN.md section 4): the keys [`FIELDS`] in that
//! order, nested objects sorted by UTF-16 code units (RFC 8785), integers only, strings in
//! normalization form C of Unicode 18.0.0, no white space. Bytes that are not canonical are
//! refused, never repaired; only [`RecordBuilder`] and [`canonicalize`] reorder and normalise.
//!
//! A *finished* record is the canonical record with `self_hash` appended as last key.

mod bounds;
mod build;
mod chain;
mod error;
mod hash;
mod json;
mod many;
mod payload;
mod scan;
mod text;
mod value;

pub use bounds::{Limits, check_assigned};
pub use build::{Actor, RecordBuilder, Subject};
pub use chain::{verify_chain, verify_link, verify_record, verify_records};
pub use error::{BoundsError, CanonError, Place, RecordError, VerifyError};
pub use hash::SelfHash;
pub use json::{canonicalize, parse_object};
pub use payload::{MAX_PAYLOAD_BYTES, PayloadCommitment, Salt};
pub use text::{Text, canonical_text};
pub use value::{Integer, Object, Value};

use crate::number::UnixMillis;
use crate::tree;

/// The top-level keys in their order; `self_hash` is never part of the canonical bytes.
pub const FIELDS: [&str; 11] =
    ["v", "ts_ms", "writer_id", "seq", "stream", "kind", "actor", "subject", "reason", "attrs", "prev"];
/// Largest canonical record, in bytes.
pub const MAX_RECORD_BYTES: usize = 4096;
/// Largest canonical `attrs`, in bytes.
pub const MAX_ATTRS_BYTES: usize = 1024;
/// Largest `writer_id` or `stream`, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// What `self_hash` adds to the canonical bytes: `,"self_hash":"` and `"` around the hash.
pub const FINISH_BYTES: usize = SelfHash::TEXT_LEN + 15;

/// A canonical record, borrowed from its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    ts_ms: UnixMillis,
    writer_id: Text<'a>,
    seq: u64,
    stream: Text<'a>,
    kind: &'a str,
    actor: &'a str,
    subject: &'a str,
    reason: &'a str,
    attrs: &'a str,
    prev: Option<SelfHash>,
    payload: Option<PayloadCommitment>,
}

impl<'a> Record<'a> {
    /// Reads canonical bytes, without `self_hash` and without a final newline.
    ///
    /// # Errors
    /// [`RecordError`] for anything that is not canonical or larger than the format allows.
    pub fn parse(canonical: &'a [u8]) -> Result<Self, RecordError> {
        scan::scan(canonical)
    }

    /// The canonical bytes.
    pub const fn canonical(&self) -> &'a [u8] {
        self.bytes
    }

    /// BLAKE3-256 of the canonical bytes. Computed at each call.
    pub fn self_hash(&self) -> SelfHash {
        SelfHash::of(self.bytes)
    }

    /// The key under which replays are recognised: the raw `self_hash` (`seeds/003`, IDB I-8).
    pub fn dedupe_key(&self) -> [u8; 32] {
        *self.self_hash().as_bytes()
    }

    /// The leaf of the log tree (RFC 6962 section 2.1). Computed at each call.
    pub fn leaf_hash(&self) -> tree::Hash {
        tree::leaf_hash(self.bytes)
    }

    /// When the writer says it happened; advisory.
    pub const fn ts_ms(&self) -> UnixMillis {
        self.ts_ms
    }

    /// Who wrote it.
    pub const fn writer_id(&self) -> Text<'a> {
        self.writer_id
    }

    /// The position in its chain, from 1.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The stream it belongs to.
    pub const fn stream(&self) -> Text<'a> {
        self.stream
    }

    /// What happened.
    pub const fn kind(&self) -> &'a str {
        self.kind
    }

    /// Who did it, as canonical JSON.
    pub const fn actor(&self) -> &'a str {
        self.actor
    }

    /// To what, as canonical JSON.
    pub const fn subject(&self) -> &'a str {
        self.subject
    }

    /// Why, as a label.
    pub const fn reason(&self) -> &'a str {
        self.reason
    }

    /// Further details, as canonical JSON.
    pub const fn attrs(&self) -> &'a str {
        self.attrs
    }

    /// The hash of the chain's previous record; `None` in the first one (`b3:0`).
    pub const fn prev(&self) -> Option<SelfHash> {
        self.prev
    }

    /// The commitment to a payload, where there is one.
    pub const fn payload(&self) -> Option<PayloadCommitment> {
        self.payload
    }

    /// Whether stream or writer belong to the log itself.
    pub fn is_reserved(&self) -> bool {
        self.stream.is_reserved() || self.writer_id.is_reserved()
    }

    /// Appends the finished form: the canonical bytes with `self_hash` as last key.
    pub fn write_finished(&self, self_hash: &SelfHash, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len() + FINISH_BYTES);
        out.extend_from_slice(&self.bytes[..self.bytes.len() - 1]);
        out.extend_from_slice(b",\"self_hash\":\"");
        out.extend_from_slice(&self_hash.text());
        out.extend_from_slice(b"\"}");
    }
}

/// A finished record, split into what is hashed and what it claims to hash to. Neither is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished<'a> {
    open: &'a [u8],
    self_hash: SelfHash,
}

impl<'a> Finished<'a> {
    /// Splits off a last key `self_hash`; `None` where the bytes do not end with one.
    pub fn split(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_suffix(b"\"}")?;
        let (rest, text) = rest.split_at_checked(rest.len().checked_sub(SelfHash::TEXT_LEN)?)?;
        let open = rest.strip_suffix(b",\"self_hash\":\"")?;
        Some(Self { open, self_hash: SelfHash::parse(text)? })
    }

    /// The hash that the record claims.
    pub const fn self_hash(&self) -> SelfHash {
        self.self_hash
    }

    /// Appends what should be the canonical bytes.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.open);
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests;
