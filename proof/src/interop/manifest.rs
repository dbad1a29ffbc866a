//! The manifest of an export: JSON, the fields of `seeds/003` INTEROP 2.2 and 2.3.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::UnixMillis;
use crate::digest_tree::Digest;
use crate::key::{KeyKind, SigningKey, VerifierKey};
use crate::record::MAX_NAME_BYTES;

use super::{ChainName, SeqRange};

/// The name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Most segments, and most checkpoints, of an export.
pub const MAX_SEGMENTS: usize = 65_536;
/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// The version of manifest and files.
const VERSION: u32 = 1;
/// The only algorithm of signatures.
const ALGORITHM: &str = "ed25519";
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;
/// What names of segment files begin and end with.
const FILE_PREFIX: &str = "wal-";
const FILE_SUFFIX: &str = ".seg";
const PAYLOAD_SUFFIX: &str = ".pay";

/// What an export holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The stream of all of its records.
    pub stream: String,
    /// Their writer.
    pub writer_id: String,
    /// The files in order, at least one, without a gap.
    pub segments: Vec<ManifestSegment>,
    /// Signed roots, ascending; each is that of a segment.
    pub checkpoints: Vec<RangeCheckpoint>,
    /// When the export was made.
    pub created: UnixMillis,
}

/// One segment file of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestSegment {
    /// The number in its name.
    pub number: u64,
    /// Its records.
    pub range: SeqRange,
    /// The root of the digest tree over their hashes.
    pub root: Digest,
}

impl ManifestSegment {
    /// The name of the file with the records.
    pub fn file(&self) -> String {
        format!("{FILE_PREFIX}{:06}{FILE_SUFFIX}", self.number)
    }

    /// The name of the file with the payloads.
    pub fn payload_file(&self) -> String {
        format!("{FILE_PREFIX}{:06}{PAYLOAD_SUFFIX}", self.number)
    }
}

/// A root over consecutive records, signed by whoever made the export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeCheckpoint {
    /// The records.
    pub range: SeqRange,
    /// The root of the digest tree over their hashes.
    pub root: Digest,
    /// Which key: its name, `+`, and its id in 8 hexadecimal digits.
    pub signer_key_id: String,
    /// The Ed25519 signature over [`Manifest::signed_text`].
    pub signature: [u8; SIGNATURE_BYTES],
}

/// Why bytes are not a manifest.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or other fields than a manifest has.
    #[error("not a manifest: {0}")]
    Json(String),
    /// A field has a value that it cannot have.
    #[error("the field `{field}` of {place} {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Of what.
        place: String,
        /// What it must be.
        rule: &'static str,
    },
}

/// Why a checkpoint's signature counts for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SignatureFault {
    /// Another key signed.
    #[error("another key signed it")]
    OtherKey,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Invalid,
    /// The key is of a type that signs no checkpoints of exports.
    #[error("the key is not of type 01 (Ed25519)")]
    KeyKind,
}

impl Manifest {
    /// From the first to the last record.
    ///
    /// # Panics
    /// Where there is no segment.
    pub fn range(&self) -> SeqRange {
        let (first, last) = self.segments.first().zip(self.segments.last()).expect("a manifest has a segment");
        SeqRange { first: first.range.first, last: last.range.last }
    }

    /// What is signed for a range: text that is neither a checkpoint of a log nor any other note.
    pub fn signed_text(&self, range: SeqRange, root: &Digest) -> String {
        self.chain().signed_text(range, root)
    }

    /// Which chain it is about.
    pub fn chain(&self) -> ChainName<'_> {
        ChainName { stream: &self.stream, writer_id: &self.writer_id }
    }

    /// Adds a checkpoint behind the others.
    ///
    /// # Errors
    /// [`SignatureFault::KeyKind`].
    pub fn sign(&mut self, range: SeqRange, root: Digest, key: &SigningKey) -> Result<(), SignatureFault> {
        let verifier = key.verifier_key();
        if verifier.kind() != KeyKind::Ed25519 {
            return Err(SignatureFault::KeyKind);
        }
        let signature = key.sign(self.signed_text(range, &root).as_bytes());
        self.checkpoints.push(RangeCheckpoint { range, root, signer_key_id: key_id(verifier), signature });
        Ok(())
    }

    /// Checks the signature of one of the checkpoints.
    ///
    /// # Errors
    /// [`SignatureFault`].
    pub fn check_signature(&self, checkpoint: &RangeCheckpoint, key: &VerifierKey) -> Result<(), SignatureFault> {
        if key.kind() != KeyKind::Ed25519 {
            return Err(SignatureFault::KeyKind);
        }
        if checkpoint.signer_key_id != key_id(key) {
            return Err(SignatureFault::OtherKey);
        }
        let text = self.signed_text(checkpoint.range, &checkpoint.root);
        let checked = key.verify(text.as_bytes(), &checkpoint.signature);
        checked.map_err(|_reason| SignatureFault::Invalid)
    }

    /// The bytes of the file.
    ///
    /// # Panics
    /// Never: text and numbers are always JSON.
    pub fn encode(&self) -> Vec<u8> {
        let raw = Raw {
            version: VERSION,
            stream: self.stream.clone(),
            writer_id: self.writer_id.clone(),
            segments: self.segments.iter().map(RawSegment::of).collect(),
            checkpoints: self.checkpoints.iter().map(RawCheckpoint::of).collect(),
            created_ts_ms: self.created.get(),
        };
        let mut bytes = serde_json::to_vec_pretty(&raw).expect("text and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Reads a manifest: any order of fields and any white space, but no other fields and no gaps.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Json(format!("it has more than {MAX_MANIFEST_BYTES} bytes")));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        let wrong = |field, rule| ManifestError::Field { field, place: "the manifest".to_owned(), rule };
        if raw.version != VERSION {
            return Err(wrong("version", "must be 1"));
        }
        for (field, name) in [("stream", &raw.stream), ("writer_id", &raw.writer_id)] {
            if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
                return Err(wrong(field, "must have 1 to 128 bytes and no control characters"));
            }
        }
        if raw.segments.is_empty() || raw.segments.len() > MAX_SEGMENTS {
            return Err(wrong("segments", "must have 1 to 65,536 members"));
        }
        if raw.checkpoints.len() > MAX_SEGMENTS {
            return Err(wrong("checkpoints", "must have at most 65,536 members"));
        }
        let segments = raw.segments.iter().enumerate().map(|(at, segment)| segment.check(at));
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        for (at, pair) in segments.windows(2).enumerate() {
            let wrong = |field, rule| ManifestError::Field { field, place: format!("segment {}", at + 1), rule };
            if pair[1].number <= pair[0].number {
                return Err(wrong("file", "must have a higher number than the one before"));
            }
            if pair[0].range.last.checked_add(1) != Some(pair[1].range.first) {
                return Err(wrong("range", "must follow the one before"));
            }
        }
        let checkpoints = raw.checkpoints.iter().enumerate().map(|(at, checkpoint)| checkpoint.check(at, &segments));
        let checkpoints = checkpoints.collect::<Result<Vec<_>, _>>()?;
        if let Some(at) = checkpoints.windows(2).position(|pair| pair[1].range.first <= pair[0].range.last) {
            let place = format!("checkpoint {}", at + 1);
            return Err(ManifestError::Field { field: "range", place, rule: "must begin behind the one before" });
        }
        let created = UnixMillis::new(raw.created_ts_ms);
        Ok(Self { stream: raw.stream, writer_id: raw.writer_id, segments, checkpoints, created })
    }
}

impl ChainName<'_> {
    /// What is signed for a range of the chain: text that is neither a checkpoint of a log nor any other note.
    pub fn signed_text(&self, range: SeqRange, root: &Digest) -> String {
        let (SeqRange { first, last }, Self { stream, writer_id }) = (range, self);
        format!(
            "stele-interop-checkpoint/v1\nrange {first} {last}\nroot {root}\nstream {stream}\nwriter_id {writer_id}\n"
        )
    }
}

fn key_id(key: &VerifierKey) -> String {
    let hex: String = key.id().bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}+{hex}", key.name())
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    stream: String,
    writer_id: String,
    segments: Vec<RawSegment>,
    checkpoints: Vec<RawCheckpoint>,
    created_ts_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSegment {
    file: String,
    offset: u64,
    count: u32,
    range: [u64; 2],
    root: String,
}

impl RawSegment {
    fn of(segment: &ManifestSegment) -> Self {
        let SeqRange { first, last } = segment.range;
        let (count, root) = (segment.range.count(), segment.root.to_string());
        Self { file: segment.file(), offset: 0, count, range: [first, last], root }
    }

    fn check(&self, at: usize) -> Result<ManifestSegment, ManifestError> {
        let wrong = |field, rule| ManifestError::Field { field, place: format!("segment {at}"), rule };
        let number = self.file.strip_prefix(FILE_PREFIX).and_then(|name| name.strip_suffix(FILE_SUFFIX));
        let number = number.and_then(|digits| digits.parse().ok());
        let range = SeqRange::new(self.range[0], self.range[1]);
        let range = range.ok_or_else(|| wrong("range", "must be the first and the last seq, from 1"))?;
        let root = Digest::parse(&self.root).ok_or_else(|| wrong("root", "must be b3: and 64 hexadecimal digits"))?;
        let number = number.ok_or_else(|| wrong("file", "must be wal-NNNNNN.seg"))?;
        let segment = ManifestSegment { number, range, root };
        if segment.file() != self.file {
            return Err(wrong("file", "must be wal-NNNNNN.seg"));
        }
        if self.offset != 0 {
            return Err(wrong("offset", "must be 0: the range begins with the file's first record"));
        }
        if self.count != range.count() {
            return Err(wrong("count", "must be the number of records of the range"));
        }
        Ok(segment)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheckpoint {
    range: [u64; 2],
    root: String,
    signer_key_id: String,
    alg: String,
    sig: String,
}

impl RawCheckpoint {
    fn of(checkpoint: &RangeCheckpoint) -> Self {
        let SeqRange { first, last } = checkpoint.range;
        Self {
            range: [first, last],
            root: checkpoint.root.to_string(),
            signer_key_id: checkpoint.signer_key_id.clone(),
            alg: ALGORITHM.to_owned(),
            sig: STANDARD.encode(checkpoint.signature),
        }
    }

    fn check(&self, at: usize, segments: &[ManifestSegment]) -> Result<RangeCheckpoint, ManifestError> {
        let wrong = |field, rule| ManifestError::Field { field, place: format!("checkpoint {at}"), rule };
        let range = SeqRange::new(self.range[0], self.range[1]);
        let range = range.ok_or_else(|| wrong("range", "must be the first and the last seq, from 1"))?;
        let place = segments.partition_point(|segment| segment.range.first < range.first);
        let segment = segments.get(place).filter(|segment| segment.range == range);
        let segment = segment.ok_or_else(|| wrong("range", "must be that of a segment"))?;
        if self.root != segment.root.to_string() {
            return Err(wrong("root", "must be that of its segment"));
        }
        if self.alg != ALGORITHM {
            return Err(wrong("alg", "must be ed25519"));
        }
        let signature = STANDARD.decode(&self.sig).ok().and_then(|bytes| bytes.try_into().ok());
        let signature = signature.ok_or_else(|| wrong("sig", "must be 64 bytes in base64"))?;
        Ok(RangeCheckpoint { range, root: segment.root, signer_key_id: self.signer_key_id.clone(), signature })
    }
}
