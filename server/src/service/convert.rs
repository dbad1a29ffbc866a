//! Between the words of the interface and those of the log.

use bytes::Bytes;
use stele_api::v1::{self, RecordAnswer, RefusalCode, record_answer::Answer, submission};
use stele_engine::chains::ChainError;
use stele_engine::intake::Refusal;
use stele_engine::local::Receipt;
use stele_engine::reader::ReadRecord;
use stele_proof::record::Salt;
use stele_raft::intake::{Refused, Submitted};

use crate::serving::Serving;

/// A record of a client, as the sequencer takes it.
#[expect(clippy::result_large_err, reason = "a message as it goes to the client, made once a refused record")]
pub(super) fn submitted(submission: v1::Submission) -> Result<Submitted, v1::Refusal> {
    let refuse = |code: RefusalCode, text: &str| v1::Refusal {
        code: code.into(),
        text: text.to_owned(),
        ..v1::Refusal::default()
    };
    let record = match submission.record {
        Some(submission::Record::Finished(record)) => record,
        Some(submission::Record::Draft(_)) => {
            return Err(refuse(RefusalCode::Schema, "this node takes finished records only, no drafts"));
        }
        None => return Err(refuse(RefusalCode::Schema, "the submission holds no record")),
    };
    let payload = match submission.payload {
        None => None,
        Some(v1::Payload { salt, bytes }) => match <[u8; Salt::LEN]>::try_from(&salt[..]) {
            Ok(salt) => Some((Salt::new(salt), bytes)),
            Err(_) => return Err(refuse(RefusalCode::Payload, "the salt of a payload has 32 bytes")),
        },
    };
    Ok(Submitted { record, payload })
}

pub(super) fn receipt(receipt: &Receipt) -> RecordAnswer {
    let receipt = v1::Receipt {
        index: receipt.index.get(),
        self_hash: Bytes::copy_from_slice(receipt.self_hash.as_bytes()),
        ..v1::Receipt::default()
    };
    RecordAnswer { answer: Some(Answer::Receipt(receipt)) }
}

/// An answer to a record; refusals are counted.
pub(super) fn answer(serving: &Serving, fate: &Result<Receipt, Refused>) -> RecordAnswer {
    match fate {
        Ok(found) => receipt(found),
        Err(refused) => refusal_answer(serving, refusal(serving, refused)),
    }
}

pub(super) fn refusal_answer(serving: &Serving, refusal: v1::Refusal) -> RecordAnswer {
    serving.counters.refused(refusal.code());
    RecordAnswer { answer: Some(Answer::Refusal(refusal)) }
}

fn refusal(serving: &Serving, refused: &Refused) -> v1::Refusal {
    let mut found = v1::Refusal { text: refused.to_string(), ..v1::Refusal::default() };
    let code = match refused {
        Refused::Record(Refusal::Schema(_) | Refusal::NotFinished) => RefusalCode::Schema,
        Refused::Record(Refusal::SizeExceeded(_)) => RefusalCode::SizeExceeded,
        Refused::Record(Refusal::HashMismatch { .. }) => RefusalCode::HashMismatch,
        Refused::Record(Refusal::Reserved) => RefusalCode::Reserved,
        Refused::Record(Refusal::Payload(_)) => RefusalCode::Payload,
        Refused::Record(Refusal::Chain(chain)) => match chain {
            ChainError::Tamper { at } => {
                found.index = Some(at.get());
                RefusalCode::Tamper
            }
            ChainError::SeqGap { expected, .. } => {
                found.expected_seq = Some(*expected);
                RefusalCode::SeqGap
            }
            ChainError::LinkMismatch { expected } => {
                found.expected_prev = Bytes::copy_from_slice(expected.as_bytes());
                RefusalCode::LinkMismatch
            }
            ChainError::TooManyChains(_) => RefusalCode::TooManyChains,
            _ => RefusalCode::Schema,
        },
        Refused::Busy => RefusalCode::Busy,
        Refused::NotLeader(leader) => {
            found.leader = leader.map(|node| serving.leader(node));
            RefusalCode::NotLeader
        }
        // Whatever else there may be, sending the record again is right.
        _ => RefusalCode::Unavailable,
    };
    found.code = code.into();
    found
}

pub(super) fn record(read: ReadRecord) -> v1::Record {
    let payload = read
        .payload
        .map(|(salt, bytes)| v1::Payload { salt: Bytes::copy_from_slice(salt.as_bytes()), bytes: bytes.into() });
    v1::Record { index: read.index.get(), canonical: read.canonical.into(), payload }
}
