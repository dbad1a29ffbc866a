//! What can go wrong, by who is to blame: the input, the network, or a server whose answers do not verify.

use std::sync::Arc;

use bytes::Bytes;
use stele_api::v1::{Refusal, RefusalCode};
use stele_proof::policy::PolicyError;
use stele_proof::record::{SelfHash, VerifyError};
use stele_proof::{LeafIndex, TreeSize};
use thiserror::Error;

use crate::dial::DialError;

/// What is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the address of a server.
    #[error("{text:?} is no address: http://host:port or https://host:port")]
    Address {
        /// What it is.
        text: String,
    },
    /// A bound is not within its own bounds.
    #[error("{rule}")]
    Bound {
        /// Which, and what holds for it.
        rule: &'static str,
    },
    /// The system gave no randomness.
    #[error("no randomness: {what}")]
    Randomness {
        /// Its own words.
        what: String,
    },
}

/// What is wrong with a record, before it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// It is not a finished canonical record.
    #[error(transparent)]
    Record(#[from] VerifyError),
    /// It commits to a payload that is not there.
    #[error("the record commits to a payload and comes without one")]
    PayloadMissing,
    /// It commits to no payload.
    #[error("the record commits to no payload and comes with one")]
    PayloadUnexpected,
    /// Payload and salt are not what it commits to.
    #[error("payload and salt are not what the record commits to")]
    PayloadMismatch,
    /// It is named like the log's own.
    #[error("streams and writers that begin with `stele/` belong to the log itself")]
    Reserved,
    /// The chain has no number left.
    #[error("the chain ends with number {seq}")]
    ChainFull {
        /// The last one.
        seq: u64,
    },
    /// The system gave no randomness for a salt.
    #[error("no randomness for a salt: {what}")]
    Randomness {
        /// Its own words.
        what: String,
    },
}

/// A refusal by a server.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{}: {text}", code.as_str_name())]
pub struct Refused {
    /// The reason.
    pub code: RefusalCode,
    /// The server's words.
    pub text: String,
    /// For `SeqGap`: the next number of the chain.
    pub expected_seq: Option<u64>,
    /// For `LinkMismatch`: the head of the chain; `None` at its beginning.
    pub expected_prev: Option<SelfHash>,
    /// For `Tamper`: where the other record is.
    pub index: Option<LeafIndex>,
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code(),
            text: refusal.text.clone(),
            expected_seq: refusal.expected_seq,
            expected_prev: hash(&refusal.expected_prev).map(SelfHash::new),
            index: refusal.index.map(LeafIndex::new),
        }
    }
}

/// Whether a record may be in the log although no receipt came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It never left the client, or every server that got it refused it for certain.
    NotAppended,
    /// It may be in the log, or get there. Sending the same finished record again tells.
    Unknown,
}

/// Why there is no receipt.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The server refused the record for good.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// An earlier record of its chain failed for good, so this one cannot follow it.
    #[error("record {failed} of the same chain was not appended, so this one cannot follow it")]
    ChainBroken {
        /// The number of the earlier record.
        failed: u64,
        /// What is known of this one.
        fate: Fate,
    },
    /// The time for one record was over.
    #[error("no receipt in time")]
    TimedOut {
        /// What is known of it.
        fate: Fate,
    },
    /// The server refused the whole stream, for a reason that time does not mend. Records that were in flight may be
    /// in the log.
    #[error("the stream was refused: {code:?}: {text}")]
    Stream {
        /// The code.
        code: tonic::Code,
        /// The server's words.
        text: String,
    },
    /// A draft whose answer was lost: sent again it might be there twice.
    #[error("the answer to a draft was lost; it may be in the log")]
    DraftUncertain,
    /// A server answered what it may not answer.
    #[error("the server broke its contract: {0}")]
    Violation(#[from] Arc<Violation>),
    /// The appender is gone.
    #[error("the appender is closed")]
    Closed,
    /// The record was not fit to be sent.
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
}

/// Why a call has no answer that counts.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nothing answered within the time for one call.
    #[error("no server answered in time: {last}")]
    Unavailable {
        /// What went wrong last.
        last: String,
    },
    /// Servers answered, and had no result within the time that they give a call.
    #[error("{text}")]
    DeadlineExceeded {
        /// What the last one said, and what to do.
        text: String,
    },
    /// The log, or the index, is not there.
    #[error("not found: {text}")]
    NotFound {
        /// The server's words.
        text: String,
    },
    /// The server refused the call.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The server refused the call with a plain status.
    #[error("{code:?}: {text}")]
    Status {
        /// The code.
        code: tonic::Code,
        /// The server's words.
        text: String,
    },
    /// The checkpoint lacks signatures that the policy asks for; a later one may have them.
    #[error("the checkpoint does not meet the policy")]
    PolicyNotMet(#[from] PolicyError),
    /// The log shows two histories. Both notes are there: they convince a third party.
    #[error("two checkpoints of the log contradict each other: it shows two histories")]
    Fork {
        /// The note that was known.
        old: String,
        /// The note that contradicts it.
        new: String,
    },
    /// No server gave a proof that one of two checkpoints contains the other: it has another history, or it has none. Both
    /// notes are there; ask again, also elsewhere, before believing either.
    #[error("no proof that one of two checkpoints of the log contains the other: {reason}")]
    NotConsistent {
        /// The note that was known.
        old: String,
        /// The note beside it.
        new: String,
        /// What is wrong with the proof.
        reason: String,
    },
    /// A server answered what it may not answer.
    #[error("the server broke its contract: {0}")]
    Violation(#[from] Violation),
    /// The configuration does not allow it.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<DialError> for CallError {
    fn from(error: DialError) -> Self {
        Self::Unavailable { last: error.to_string() }
    }
}

/// What a server answered and may not answer: a bug in it, or malice.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Violation {
    /// An answer that belongs to another record, or to none.
    #[error("answers for request {request}, from record {record}, where others are due")]
    AnswerOutOfOrder {
        /// The request it names.
        request: u64,
        /// The record it names.
        record: u32,
    },
    /// An answer without content.
    #[error("an answer without {what}")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// The receipt is for another record.
    #[error("the receipt is for a record that hashes to {received:02x?}")]
    WrongSelfHash {
        /// What it says.
        received: Bytes,
    },
    /// The indexes of a chain do not ascend with its numbers.
    #[error("index {second} beside {first} in one chain, against the order of their numbers")]
    IndexOrder {
        /// Of the record receipted before.
        first: LeafIndex,
        /// Of this one.
        second: LeafIndex,
    },
    /// A draft became something else.
    #[error("record {index}, which the leader made of a draft, has another {field}")]
    OtherDraft {
        /// Where.
        index: LeafIndex,
        /// The first field that differs.
        field: &'static str,
    },
    /// A record that is not canonical.
    #[error("record {index} is not canonical: {reason}")]
    Record {
        /// Where.
        index: LeafIndex,
        /// What is wrong.
        reason: String,
    },
    /// Another record than the next.
    #[error("record {found} where {expected} is due")]
    IndexGap {
        /// What is due.
        expected: LeafIndex,
        /// What came.
        found: LeafIndex,
    },
    /// A payload that is not what its record commits to.
    #[error("the payload of record {index} is not what it commits to")]
    Payload {
        /// Where.
        index: LeafIndex,
    },
    /// A proof that proves nothing.
    #[error("the proof does not hold: {reason}")]
    Proof {
        /// What is wrong.
        reason: String,
    },
    /// Records that are not, with all that was read before them, what a checkpoint is about.
    #[error("records {first} to {last}, as they were sent, are not in the log under its checkpoint of size {size}")]
    NotInLog {
        /// The first of them.
        first: LeafIndex,
        /// The last of them.
        last: LeafIndex,
        /// The size that the checkpoint states.
        size: TreeSize,
    },
    /// A range that ends although a checkpoint shows that more of it is there.
    #[error("the range ends before record {due}, which is in the log: it was proved to have {size} records")]
    EndedEarly {
        /// The record that is due.
        due: LeafIndex,
        /// The size of the checkpoint.
        size: TreeSize,
    },
    /// A checkpoint of another log, or smaller than asked for.
    #[error("a checkpoint of {origin:?}, size {size}, was not asked for")]
    OtherCheckpoint {
        /// Its origin.
        origin: String,
        /// Its size.
        size: TreeSize,
    },
    /// The leader that it names cannot be one.
    #[error("{address:?} is no address to send a client to")]
    LeaderAddress {
        /// What it names.
        address: String,
    },
}

/// A hash of 32 bytes, if it is one.
pub(crate) fn hash(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

/// Whether a status will be the same the next time.
pub(crate) const fn is_final(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated
    )
}
