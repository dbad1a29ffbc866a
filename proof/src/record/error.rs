//! What can be wrong with a record, and where.

use core::fmt;
use std::borrow::Cow;

use super::SelfHash;

/// Where in a record something is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The top-level field, or `record` for the record as a whole.
    pub field: &'static str,
    /// Byte offset in the input.
    pub offset: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field == "record" {
            write!(f, "record, byte {}", self.offset)
        } else {
            write!(f, "field `{}`, byte {}", self.field, self.offset)
        }
    }
}

/// The input is not in canonical form (DESIGN.md section 4; names of `seeds/003`, API).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CanonError {
    /// A rule of the canonical form other than the ones below is broken.
    #[error("{place}: {rule}")]
    NonCanonicalInput {
        /// Where.
        place: Place,
        /// The rule that is broken.
        rule: Cow<'static, str>,
    },
    /// A number with a point or an exponent.
    #[error("{place}: a number must be a decimal integer without point or exponent")]
    FloatDisallowed {
        /// Where.
        place: Place,
    },
    /// Keys are missing, unknown, duplicate or out of order.
    #[error("{place}: {rule}")]
    KeyOrder {
        /// Where.
        place: Place,
        /// The rule that is broken.
        rule: Cow<'static, str>,
    },
    /// A string is not UTF-8 in normalization form C.
    #[error("{place}: strings must be UTF-8 in normalization form C of Unicode 18.0.0")]
    Utf8Nfc {
        /// Where.
        place: Place,
    },
}

/// A record or its payload is larger than allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// The canonical `attrs` object is too large.
    #[error("field `attrs` has {bytes} bytes, at most {limit} are allowed")]
    AttrsTooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The canonical record is too large.
    #[error("the record has {bytes} bytes, at most {limit} are allowed")]
    RecordTooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The payload is too large.
    #[error("the payload has {bytes} bytes, at most {limit} are allowed")]
    PayloadTooLarge {
        /// Bytes found.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

/// Why bytes are not a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not canonical.
    #[error(transparent)]
    Canon(#[from] CanonError),
    /// Too large.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

/// Why a record, or a pair of neighbours in a chain, does not hold (names of `seeds/003`, API).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// `self_hash` is not the hash of the canonical bytes.
    #[error("field `self_hash` is {claimed}, the record hashes to {computed}")]
    HashMismatch {
        /// The hash the record carries.
        claimed: SelfHash,
        /// The hash of its bytes.
        computed: SelfHash,
    },
    /// `prev` is not the hash of the record before.
    #[error("field `prev` does not name the record before: it should be {expected}")]
    PrevMismatch {
        /// The hash of the record before.
        expected: SelfHash,
    },
    /// `seq` is not one more than that of the record before.
    #[error("field `seq` is {found}, expected {expected}")]
    SeqMismatch {
        /// The next number of the chain.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The records belong to different (`writer_id`, `stream`) pairs.
    #[error("the records belong to different chains")]
    OtherChain,
    /// The record has no `self_hash`, and one was needed.
    #[error("the record has no `self_hash` as its last key")]
    NotFinished,
    /// Not canonical.
    #[error(transparent)]
    Canon(#[from] CanonError),
    /// Too large.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

impl From<RecordError> for VerifyError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Canon(error) => Self::Canon(error),
            RecordError::Bounds(error) => Self::Bounds(error),
        }
    }
}
