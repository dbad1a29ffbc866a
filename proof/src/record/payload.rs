//! The payload commitment: a record binds its payload, the payload can be erased later.

use core::fmt;

use super::error::BoundsError;
use super::hash::SelfHash;

/// Largest payload by default, in bytes.
pub const MAX_PAYLOAD_BYTES: u64 = 1 << 20;

/// The random key that hides a payload in its commitment; stored in front of the payload.
///
/// Without it a short payload could be guessed from its hash, so it is erased with the payload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Salt([u8; 32]);

impl Salt {
    /// Bytes of a salt.
    pub const LEN: usize = 32;
    /// The salt of records that the log writes itself: there is nothing to hide.
    pub const ZERO: Self = Self([0; 32]);

    /// Wraps 32 bytes that nobody can guess.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// What `attrs.payload` says: `{"hash":"b3:...","len":n}`, the hash keyed with the salt
/// (BLAKE3 keyed mode).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadCommitment {
    hash: SelfHash,
    len: u32,
}

impl PayloadCommitment {
    /// Commits to a payload.
    ///
    /// # Errors
    /// [`BoundsError::PayloadTooLarge`] past [`MAX_PAYLOAD_BYTES`].
    pub fn commit(salt: &Salt, payload: &[u8]) -> Result<Self, BoundsError> {
        let bytes = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        match u32::try_from(payload.len()) {
            Ok(len) if bytes <= MAX_PAYLOAD_BYTES => {
                let hash = blake3::keyed_hash(salt.as_bytes(), payload);
                Ok(Self { hash: SelfHash::new(*hash.as_bytes()), len })
            }
            _ => Err(BoundsError::PayloadTooLarge { bytes, limit: MAX_PAYLOAD_BYTES }),
        }
    }

    /// Puts together what the scanner read.
    pub(super) const fn from_parts(hash: SelfHash, len: u32) -> Self {
        Self { hash, len }
    }

    /// Whether this salt and payload are what was committed to.
    pub fn opens_with(&self, salt: &Salt, payload: &[u8]) -> bool {
        u32::try_from(payload.len()) == Ok(self.len)
            && blake3::keyed_hash(salt.as_bytes(), payload) == blake3::Hash::from_bytes(*self.hash.as_bytes())
    }

    /// The keyed hash.
    pub const fn hash(&self) -> &SelfHash {
        &self.hash
    }

    /// Bytes of the payload, without its salt.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether the payload has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the value of `attrs.payload`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"hash\":\"");
        out.extend_from_slice(&self.hash.text());
        out.extend_from_slice(b"\",\"len\":");
        super::value::write_integer(i128::from(self.len), out);
        out.push(b'}');
    }
}
