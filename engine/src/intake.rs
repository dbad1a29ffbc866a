//! What is asked of a record before it enters a batch: rights, bounds, canonical form, chain.

use stele_proof::LeafIndex;
use stele_proof::record::{
    BoundsError, CanonError, Finished, Limits, PayloadCommitment, Record, RecordBuilder, RecordError, Salt, SelfHash,
    canonical_text, check_assigned,
};

use crate::chains::{ChainError, Chains, Standing};

/// A record that somebody wants appended.
#[derive(Clone, Copy, Debug)]
pub enum Submission<'a> {
    /// Not yet in a chain: seq, prev and the payload commitment are made here.
    Draft {
        /// The fields; its `payload` is ignored.
        builder: &'a RecordBuilder<'a>,
        /// The payload and the salt that hides it.
        payload: Option<(&'a Salt, &'a [u8])>,
    },
    /// The canonical record with `self_hash`, made by the writer.
    Finished {
        /// The bytes.
        bytes: &'a [u8],
        /// The payload and its salt, where the record commits to one.
        payload: Option<(&'a Salt, &'a [u8])>,
    },
}

/// Why a record was refused. Nothing of it is in the log (names of DESIGN.md section 4).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not canonical.
    #[error("Schema: {0}")]
    Schema(#[from] CanonError),
    /// Too large.
    #[error("SizeExceeded: {0}")]
    SizeExceeded(#[from] BoundsError),
    /// The record does not end with `self_hash`.
    #[error("Schema: a finished record ends with the key `self_hash`")]
    NotFinished,
    /// `self_hash` is wrong.
    #[error("HashMismatch: field `self_hash` is {claimed}, the record hashes to {computed}")]
    HashMismatch {
        /// What it says.
        claimed: SelfHash,
        /// What it is.
        computed: SelfHash,
    },
    /// It does not fit its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Streams and writers that begin with `stele/` belong to the log.
    #[error("Reserved: streams and writers that begin with `stele/` belong to the log itself")]
    Reserved,
    /// The payload is not the one the record commits to.
    #[error("Payload: {0}")]
    Payload(&'static str),
    /// Whoever asks may not write it.
    #[error("Forbidden: the caller may not write as this writer into this stream")]
    Forbidden,
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Canon(error) => Self::Schema(error),
            RecordError::Bounds(error) => Self::SizeExceeded(error),
            other => Self::Schema(CanonError::NonCanonicalInput {
                place: stele_proof::record::Place { field: "record", offset: 0 },
                rule: other.to_string().into(),
            }),
        }
    }
}

/// What became of a record that fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admitted {
    /// It is the next of its chain, with this number, and [`Chains::take_next`] makes it the head; its
    /// canonical bytes stand at the end of the buffer.
    Next(SelfHash, u64),
    /// It is there already.
    Duplicate(SelfHash, LeafIndex),
    /// It may be there already, further back than is remembered.
    Older(SelfHash),
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asker {
    /// A client.
    Client,
    /// The log itself.
    Log,
}

/// Writes the record's canonical bytes behind `buffer` and decides. Where the answer is not
/// [`Admitted::Next`], the caller cuts the buffer back.
pub(crate) fn admit(
    submission: &Submission<'_>,
    asker: Asker,
    limits: &Limits,
    chains: &mut Chains,
    buffer: &mut Vec<u8>,
) -> Result<Admitted, Refusal> {
    match submission {
        Submission::Draft { builder, payload } => {
            let commitment = match payload {
                Some((salt, bytes)) => Some(PayloadCommitment::commit(salt, bytes)?),
                None => None,
            };
            let builder = RecordBuilder { payload: commitment, ..**builder };
            let head = chains.head(&canonical_text(builder.stream), &canonical_text(builder.writer_id));
            let record = match head {
                None => builder.encode(1, None, buffer)?,
                Some(head) => builder.encode(head.seq + 1, Some(&head.self_hash), buffer)?,
            };
            decide(&record, record.self_hash(), asker, limits, chains)
        }
        Submission::Finished { bytes, payload } => {
            let finished = Finished::split(bytes).ok_or(Refusal::NotFinished)?;
            let start = buffer.len();
            finished.write_canonical(buffer);
            let record = Record::parse(&buffer[start..])?;
            let computed = record.self_hash();
            if computed != finished.self_hash() {
                return Err(Refusal::HashMismatch { claimed: finished.self_hash(), computed });
            }
            check_payload(&record, *payload)?;
            decide(&record, computed, asker, limits, chains)
        }
    }
}

/// Decides about a record whose hash and payload are right.
pub(crate) fn decide(
    record: &Record<'_>,
    self_hash: SelfHash,
    asker: Asker,
    limits: &Limits,
    chains: &mut Chains,
) -> Result<Admitted, Refusal> {
    if asker == Asker::Client && record.is_reserved() {
        return Err(Refusal::Reserved);
    }
    limits.check(record)?;
    check_assigned(record)?;
    Ok(match chains.standing(record, &self_hash)? {
        Standing::Next => Admitted::Next(self_hash, record.seq()),
        Standing::Duplicate(at) => Admitted::Duplicate(self_hash, at),
        Standing::Older => Admitted::Older(self_hash),
    })
}

/// Finished records that are looked at together, at most.
pub(crate) const GROUP: usize = 64;

/// A finished record that is canonical and has the hash and the payload it says it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked<'b> {
    pub(crate) record: Record<'b>,
    pub(crate) self_hash: SelfHash,
}

/// Checks each submission by itself, those that are finished side by side; `None` for drafts, which
/// depend on the ones before. `buffer` takes the canonical bytes.
pub(crate) fn check_finished<'b>(
    submissions: &[Submission<'_>],
    buffer: &'b mut Vec<u8>,
) -> Vec<Option<Result<Checked<'b>, Refusal>>> {
    buffer.clear();
    let mut split = Vec::with_capacity(submissions.len());
    for submission in submissions {
        split.push(match submission {
            Submission::Draft { .. } => None,
            Submission::Finished { bytes, payload } => Some(match Finished::split(bytes) {
                None => Err(Refusal::NotFinished),
                Some(finished) => {
                    let start = buffer.len();
                    finished.write_canonical(buffer);
                    Ok((start..buffer.len(), finished.self_hash(), *payload))
                }
            }),
        });
    }
    let buffer: &'b [u8] = buffer;
    let parse = |split: Result<(std::ops::Range<usize>, SelfHash, _), Refusal>| {
        let (range, claimed, payload) = split?;
        Ok((Record::parse(&buffer[range])?, claimed, payload))
    };
    let parsed: Vec<_> = split.into_iter().map(|split| split.map(parse)).collect();
    let canonical = parsed.iter().flatten().flatten().map(|(record, ..)| record.canonical());
    let inputs: Vec<&[u8]> = canonical.collect();
    let mut hashes = Vec::new();
    SelfHash::of_many(&inputs, &mut hashes);
    let mut hashes = hashes.into_iter();
    let mut check = |parsed: Result<(Record<'b>, SelfHash, _), Refusal>| {
        let (record, claimed, payload) = parsed?;
        let computed = hashes.next().unwrap_or_else(|| record.self_hash());
        if computed != claimed {
            return Err(Refusal::HashMismatch { claimed, computed });
        }
        check_payload(&record, payload)?;
        Ok(Checked { record, self_hash: computed })
    };
    parsed.into_iter().map(|parsed| parsed.map(&mut check)).collect()
}

fn check_payload(record: &Record<'_>, payload: Option<(&Salt, &[u8])>) -> Result<(), Refusal> {
    match (record.payload(), payload) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::Payload("a payload came along that the record does not commit to")),
        (Some(_), None) => Err(Refusal::Payload("the payload that the record commits to did not come along")),
        (Some(commitment), Some((salt, bytes))) if commitment.opens_with(salt, bytes) => Ok(()),
        (Some(_), Some(_)) => Err(Refusal::Payload("the payload is not the one that the record commits to")),
    }
}
