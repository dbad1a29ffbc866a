//! The bodies of the records that the log writes itself: names, fields, and their JSON.
//!
//! A body is the payload of its record, under a salt of zeros: one object of canonical JSON (RFC 8785,
//! integers only), every key present. It is read only as it is written.
//!
//! [`Genesis`], stream `stele/log`, leaf 0:
//!
//! | key | value |
//! |---|---|
//! | `block_height` | binary logarithm of a block's leaves, 8 to 20 |
//! | `format` | version of all files of the log, 1 |
//! | `frame_align` | frame alignment in bytes, 4096 or 8 |
//! | `log_id` | 64 lower-case hex digits, random |
//! | `log_keys` | verifier keys of the log, 1 to [`MAX_LOG_KEYS`] texts |
//! | `origin` | the origin of its checkpoints |
//! | `policy` | text of its first policy (C2SP tlog-policy) |
//!
//! [`SegmentSealed`], stream `stele/segments`:
//!
//! | key | value |
//! |---|---|
//! | `digest_root` | root of the segment's digest tree, `b3:` and hex; null without leaves |
//! | `file_bytes` | length of the segment file |
//! | `file_digest` | its BLAKE3, `b3:` and hex |
//! | `first_index`, `last_index` | raft indexes of its first and its last frame |
//! | `first_leaf`, `leaf_count` | its leaves |
//! | `nodes` | their [`covering_nodes`], each `{"hash":..,"index":..,"level":..}`, the hash in base64 |
//! | `payload_parts` | how many payload files it has |
//! | `segment` | its number |
//! | `state_digest` | BLAKE3 of the state file made at its end; null where none was due |

use core::fmt;

use stele_proof::LeafIndex;
use stele_proof::digest_tree::Digest;
use stele_proof::record::{Object, RecordError, Value, parse_object};
use stele_proof::tree::{self, Node};

use crate::number::{Alignment, BlockHeight, Offset, RaftIndex, SegmentNumber};
use crate::segment::{FORMAT_VERSION, FRAMES_START, LeafRange};
use crate::tiles::{is_frame, is_in_one_block};

/// The writer of all records that the log writes itself.
pub const WRITER: &str = "stele/log";
/// The stream of [`Genesis`].
pub const LOG_STREAM: &str = "stele/log";
/// The stream of [`SegmentSealed`].
pub const SEGMENTS_STREAM: &str = "stele/segments";
/// The stream of published checkpoints.
pub const CHECKPOINTS_STREAM: &str = "stele/checkpoints";
/// The stream of key rotations.
pub const KEYS_STREAM: &str = "stele/keys";
/// The stream of decisions about the log.
pub const GOVERNANCE_STREAM: &str = "stele/governance";
/// The kind of the record with [`Genesis`].
pub const GENESIS_KIND: &str = "Genesis";
/// The kind of the records with [`SegmentSealed`].
pub const SEGMENT_SEALED_KIND: &str = "SegmentSealed";
/// The kind of the records that keep published checkpoints.
pub const CHECKPOINT_PUBLISHED_KIND: &str = "CheckpointPublished";

/// Largest body.
pub const MAX_BODY_BYTES: usize = 128 << 10;
/// Largest policy.
pub const MAX_POLICY_BYTES: usize = 64 << 10;
/// Largest origin.
pub const MAX_ORIGIN_BYTES: usize = 255;
/// Most verifier keys in [`Genesis`].
pub const MAX_LOG_KEYS: usize = 16;
/// Largest verifier key.
pub const MAX_KEY_BYTES: usize = 4096;

/// Why bytes are not a body, or values cannot be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Larger than any body.
    #[error("the body has {0} bytes, at most {MAX_BODY_BYTES} are allowed")]
    TooLarge(usize),
    /// Not a JSON object.
    #[error("the body cannot be read: {0}")]
    Syntax(#[from] RecordError),
    /// Written for a later version.
    #[error("format version {0} is unknown to this version, which knows {FORMAT_VERSION}; use a newer release")]
    UnknownFormat(u64),
    /// A key is missing.
    #[error("the key `{0}` is missing")]
    Missing(&'static str),
    /// A key that no body of the kind has.
    #[error("the key `{0}` is unknown")]
    Unknown(String),
    /// A value breaks a rule.
    #[error("key `{key}`: {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// Not the canonical bytes of what it says.
    #[error("the body is not canonical JSON")]
    NotCanonical,
}

/// What tells a log from all others, drawn at random at its birth.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId([u8; 32]);

impl LogId {
    /// Wraps the plain bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The plain bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads exactly 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        // The text of a hash has the same form.
        tree::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first record of a log: what it is, and what is fixed for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// The version of all files of the log: [`FORMAT_VERSION`].
    pub format: u16,
    /// The origin of its checkpoints.
    pub origin: String,
    /// Its identity.
    pub log_id: LogId,
    /// Its block height.
    pub block_height: BlockHeight,
    /// Its frame alignment.
    pub frame_align: Alignment,
    /// Its verifier keys, as text; not parsed here.
    pub log_keys: Vec<String>,
    /// Its first policy, as text; not parsed here.
    pub policy: String,
}

impl Genesis {
    /// Whether [`Genesis::encode`] can write it: bounds, the form of the origin, and texts that are in
    /// normalization form C. For values that come from outside.
    ///
    /// # Errors
    /// [`BodyError`] naming the key.
    pub fn check(&self) -> Result<(), BodyError> {
        self.check_values()?;
        let read = Self::decode(&self.to_object().to_canonical())?;
        let kept = [
            ("origin", read.origin == self.origin),
            ("log_keys", read.log_keys == self.log_keys),
            ("policy", read.policy == self.policy),
        ];
        kept.iter().try_for_each(|(key, same)| require(*same, key, "must be in normalization form C"))
    }

    /// Writes the body.
    ///
    /// # Panics
    /// Where [`Genesis::check`] refuses it.
    pub fn encode(&self) -> Vec<u8> {
        let checked = self.check();
        assert!(checked.is_ok(), "{checked:?}");
        self.to_object().to_canonical()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BodyError`] for anything that [`Genesis::encode`] would not have written.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new(body)?;
        let format = reader.integer::<u64>("format")?;
        let format = u16::try_from(format)
            .ok()
            .filter(|format| *format == FORMAT_VERSION)
            .ok_or(BodyError::UnknownFormat(format))?;
        let genesis = Self {
            format,
            origin: reader.text("origin")?,
            log_id: reader.parsed("log_id", "must be 64 lower-case hex digits", LogId::from_hex)?,
            block_height: BlockHeight::new(reader.integer("block_height")?)
                .ok_or(BodyError::Value { key: "block_height", rule: "must be 8 to 20" })?,
            frame_align: Alignment::new(reader.integer("frame_align")?)
                .ok_or(BodyError::Value { key: "frame_align", rule: "must be 4096 or 8" })?,
            log_keys: reader.texts("log_keys")?,
            policy: reader.text("policy")?,
        };
        reader.finish()?;
        genesis.check_values()?;
        if genesis.to_object().to_canonical() == body { Ok(genesis) } else { Err(BodyError::NotCanonical) }
    }

    fn check_values(&self) -> Result<(), BodyError> {
        if self.format != FORMAT_VERSION {
            return Err(BodyError::UnknownFormat(u64::from(self.format)));
        }
        require((1..=MAX_ORIGIN_BYTES).contains(&self.origin.len()), "origin", "must have 1 to 255 bytes")?;
        let plain = |c: char| c != '+' && !c.is_whitespace() && !c.is_control();
        require(self.origin.chars().all(plain), "origin", "must have no space, plus sign or control character")?;
        require((1..=MAX_LOG_KEYS).contains(&self.log_keys.len()), "log_keys", "must be 1 to 16 keys")?;
        for key in &self.log_keys {
            require((1..=MAX_KEY_BYTES).contains(&key.len()), "log_keys", "a key has 1 to 4096 bytes")?;
        }
        require(self.policy.len() <= MAX_POLICY_BYTES, "policy", "must have at most 65536 bytes")
    }

    fn to_object(&self) -> Object {
        object(vec![
            ("format", integer(self.format)),
            ("origin", text(&self.origin)),
            ("log_id", text(&self.log_id)),
            ("block_height", integer(self.block_height.get())),
            ("frame_align", integer(self.frame_align.get())),
            ("log_keys", Value::Array(self.log_keys.iter().map(text).collect())),
            ("policy", text(&self.policy)),
        ])
    }
}

/// What a sealed segment is, for every site to compare with its own (DESIGN.md section 6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentSealed {
    /// Which segment.
    pub segment: SegmentNumber,
    /// Length of its file.
    pub file_bytes: u64,
    /// BLAKE3 of its file, as it is once sealed.
    pub file_digest: Digest,
    /// Its leaves.
    pub leaves: LeafRange,
    /// The raft index of its first frame.
    pub first_index: RaftIndex,
    /// The raft index of its last frame.
    pub last_index: RaftIndex,
    /// Root of the digest tree over its records; `None` without leaves.
    pub digest_root: Option<Digest>,
    /// The [`covering_nodes`] of its leaves, with their hashes.
    pub nodes: Vec<(Node, tree::Hash)>,
    /// BLAKE3 of the state file made at its end, where one was due.
    pub state_digest: Option<Digest>,
    /// How many payload files it has.
    pub payload_parts: u32,
}

impl SegmentSealed {
    /// Writes the body.
    ///
    /// # Panics
    /// Where the values are not those of a segment: our own bug.
    pub fn encode(&self) -> Vec<u8> {
        let checked = self.check_values();
        assert!(checked.is_ok(), "{checked:?}");
        self.to_object().to_canonical()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BodyError`] for anything that [`SegmentSealed::encode`] would not have written.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new(body)?;
        let first = LeafIndex::new(reader.integer("first_leaf")?);
        let end = first.checked_add(reader.integer("leaf_count")?).ok_or(LEAF_COUNT)?;
        let sealed = Self {
            segment: SegmentNumber::new(reader.integer("segment")?),
            file_bytes: reader.integer("file_bytes")?,
            file_digest: reader.parsed("file_digest", DIGEST_RULE, Digest::parse)?,
            leaves: LeafRange { first, end },
            first_index: RaftIndex::new(reader.integer("first_index")?),
            last_index: RaftIndex::new(reader.integer("last_index")?),
            digest_root: reader.digest_or_null("digest_root")?,
            nodes: reader.nodes("nodes")?,
            state_digest: reader.digest_or_null("state_digest")?,
            payload_parts: reader.integer("payload_parts")?,
        };
        reader.finish()?;
        sealed.check_values()?;
        if sealed.to_object().to_canonical() == body { Ok(sealed) } else { Err(BodyError::NotCanonical) }
    }

    fn check_values(&self) -> Result<(), BodyError> {
        if self.leaves.first > self.leaves.end || !is_in_one_block(self.leaves) {
            return Err(LEAF_COUNT);
        }
        let has_frames = is_frame(FRAMES_START, Offset::new(self.file_bytes));
        require(has_frames, "file_bytes", "must be the length of a segment file")?;
        require(self.first_index <= self.last_index, "last_index", "must not be before `first_index`")?;
        let rule = "must be null if and only if there are no leaves";
        require(self.digest_root.is_none() == self.leaves.is_empty(), "digest_root", rule)?;
        let nodes = self.nodes.iter().map(|(node, _)| *node);
        require(nodes.eq(covering_nodes(self.leaves)), "nodes", "must be the nodes that cover the leaves")
    }

    fn to_object(&self) -> Object {
        let digest_or_null = |digest: &Option<Digest>| digest.as_ref().map_or(Value::Null, text);
        let node = |(node, hash): &(Node, tree::Hash)| {
            Value::Object(object(vec![
                ("hash", text(&hash.to_base64())),
                ("index", integer(node.index())),
                ("level", integer(node.level())),
            ]))
        };
        object(vec![
            ("segment", integer(self.segment.get())),
            ("file_bytes", integer(self.file_bytes)),
            ("file_digest", text(&self.file_digest)),
            ("first_leaf", integer(self.leaves.first.get())),
            ("leaf_count", integer(self.leaves.len())),
            ("first_index", integer(self.first_index.get())),
            ("last_index", integer(self.last_index.get())),
            ("digest_root", digest_or_null(&self.digest_root)),
            ("nodes", Value::Array(self.nodes.iter().map(node).collect())),
            ("state_digest", digest_or_null(&self.state_digest)),
            ("payload_parts", integer(self.payload_parts)),
        ])
    }
}

/// The largest perfect subtrees of the log tree that together are the leaves, from left to right.
///
/// At most 2 * 64, of which a segment has at most two for each level below its block.
///
/// # Panics
/// Where the leaves end before they begin.
pub fn covering_nodes(leaves: LeafRange) -> Vec<Node> {
    assert!(leaves.first <= leaves.end, "leaves {} to {}", leaves.first, leaves.end);
    let mut nodes = Vec::new();
    let mut at = leaves.first.get();
    // Each turn takes the largest aligned node that fits: first growing, then shrinking.
    while let Some(highest) = (leaves.end.get() - at).checked_ilog2() {
        let level = at.trailing_zeros().min(highest);
        let node = u8::try_from(level).ok().and_then(|level| Node::new(level, at >> level));
        nodes.push(node.expect("a node inside a range of leaves ends at a size"));
        at += 1 << level;
    }
    nodes
}

const DIGEST_RULE: &str = "must be `b3:` and 64 lower-case hex digits";
const LEAF_COUNT: BodyError = BodyError::Value { key: "leaf_count", rule: "must stay in one block" };

fn require(good: bool, key: &'static str, rule: &'static str) -> Result<(), BodyError> {
    if good { Ok(()) } else { Err(BodyError::Value { key, rule }) }
}

fn integer(value: impl Into<u64>) -> Value {
    Value::Integer(value.into().into())
}

fn text(value: &(impl fmt::Display + ?Sized)) -> Value {
    Value::String(value.to_string())
}

fn object(members: Vec<(&'static str, Value)>) -> Object {
    let members = members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Object::new(members).expect("the keys differ")
}

/// Takes the members out of an object, one by one.
struct Reader(Object);

impl Reader {
    fn new(body: &[u8]) -> Result<Self, BodyError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge(body.len()));
        }
        Ok(Self(parse_object(body)?))
    }

    fn take(&mut self, key: &'static str) -> Result<Value, BodyError> {
        self.0.remove(key).ok_or(BodyError::Missing(key))
    }

    fn integer<N: TryFrom<i128>>(&mut self, key: &'static str) -> Result<N, BodyError> {
        let rule = "must be an integer in its range";
        match self.take(key)? {
            Value::Integer(value) => N::try_from(value.get()).map_err(|_beyond| BodyError::Value { key, rule }),
            _ => Err(BodyError::Value { key, rule }),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<String, BodyError> {
        match self.take(key)? {
            Value::String(text) => Ok(text),
            _ => Err(BodyError::Value { key, rule: "must be a string" }),
        }
    }

    fn parsed<T>(
        &mut self,
        key: &'static str,
        rule: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, BodyError> {
        parse(&self.text(key)?).ok_or(BodyError::Value { key, rule })
    }

    fn digest_or_null(&mut self, key: &'static str) -> Result<Option<Digest>, BodyError> {
        let digest = match self.take(key)? {
            Value::Null => return Ok(None),
            Value::String(text) => Digest::parse(&text),
            _ => None,
        };
        let rule = "must be null, or `b3:` and 64 lower-case hex digits";
        digest.map(Some).ok_or(BodyError::Value { key, rule })
    }

    fn items(&mut self, key: &'static str) -> Result<Vec<Value>, BodyError> {
        match self.take(key)? {
            Value::Array(items) => Ok(items),
            _ => Err(BodyError::Value { key, rule: "must be an array" }),
        }
    }

    fn texts(&mut self, key: &'static str) -> Result<Vec<String>, BodyError> {
        let text = |item| match item {
            Value::String(text) => Ok(text),
            _ => Err(BodyError::Value { key, rule: "must hold strings" }),
        };
        self.items(key)?.into_iter().map(text).collect()
    }

    fn nodes(&mut self, key: &'static str) -> Result<Vec<(Node, tree::Hash)>, BodyError> {
        let node = |item| match item {
            Value::Object(object) => Self(object).node(key),
            _ => Err(BodyError::Value { key, rule: "must hold objects" }),
        };
        self.items(key)?.into_iter().map(node).collect()
    }

    fn node(mut self, key: &'static str) -> Result<(Node, tree::Hash), BodyError> {
        let rule = "a hash is base64 of 32 bytes";
        let hash = self.parsed("hash", rule, tree::Hash::from_base64)?;
        let index = self.integer("index")?;
        let level = self.integer("level")?;
        self.finish()?;
        let node = Node::new(level, index).ok_or(BodyError::Value { key, rule: "no tree has such a node" })?;
        Ok((node, hash))
    }

    fn finish(self) -> Result<(), BodyError> {
        match self.0.members().first().map(|(key, _)| key.clone()) {
            None => Ok(()),
            Some(key) => Err(BodyError::Unknown(key)),
        }
    }
}

#[cfg(test)]
mod tests;
