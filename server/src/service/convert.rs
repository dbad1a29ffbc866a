//! Between the words of the interface and those of the log.

use bytes::Bytes;
use stele_api::v1::{self, RecordAnswer, RefusalCode, record_answer::Answer, submission};
use stele_engine::chains::ChainError;
use stele_engine::environment::Environment;
use stele_engine::intake::Refusal;
use stele_engine::local::Receipt;
use stele_engine::reader::ReadRecord;
use stele_proof::UnixMillis;
use stele_proof::record::Salt;
use stele_raft::draft::{Draft, Json, Labels};
use stele_raft::intake::{Incoming, Made, Refused, Submitted};

use crate::serving::Serving;

/// A record of a client, as the sequencer takes it.
#[expect(clippy::result_large_err, reason = "a message as it goes to the client, made once a refused record")]
pub(super) fn incoming(serving: &Serving, submission: v1::Submission) -> Result<Incoming, v1::Refusal> {
    match submission.record {
        Some(submission::Record::Finished(record)) => {
            let payload = submission.payload.map(salted).transpose()?;
            Ok(Incoming::Finished(Submitted { record, payload }))
        }
        Some(submission::Record::Draft(draft)) => {
            let draft = drafted(&serving.environment, draft, submission.payload)?;
            Ok(Incoming::Draft(Box::new(draft)))
        }
        None => Err(refuse(RefusalCode::Schema, "the submission holds no record")),
    }
}

fn refuse(code: RefusalCode, text: impl Into<String>) -> v1::Refusal {
    v1::Refusal { code: code.into(), text: brief(text.into()), ..v1::Refusal::default() }
}

/// Most bytes of the text of a refusal, which may say again what a client has sent.
const MAX_TEXT_BYTES: usize = 400;

fn brief(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

#[expect(clippy::result_large_err, reason = "as above")]
fn salted(payload: v1::Payload) -> Result<(Salt, Bytes), v1::Refusal> {
    match <[u8; Salt::LEN]>::try_from(&payload.salt[..]) {
        Ok(salt) => Ok((Salt::new(salt), payload.bytes)),
        Err(_) => Err(refuse(RefusalCode::Payload, "the salt of a payload has 32 bytes")),
    }
}

#[expect(clippy::result_large_err, reason = "as above")]
fn drafted(environment: &Environment, draft: v1::Draft, payload: Option<v1::Payload>) -> Result<Draft, v1::Refusal> {
    let salted = |payload: v1::Payload| {
        if !payload.salt.is_empty() {
            return Err(refuse(RefusalCode::Payload, "the payload of a draft has no salt: the leader draws it"));
        }
        let salt = environment.random().map_err(|error| {
            tracing::error!(%error, "no randomness for a salt");
            refuse(RefusalCode::Unavailable, "no randomness for a salt")
        })?;
        Ok((Salt::new(salt), payload.bytes))
    };
    let payload = payload.map(salted).transpose()?;
    let ts_ms = draft.ts_ms.map_or_else(|| environment.clock.now(), UnixMillis::new);
    let v1::Draft { writer_id, stream, kind, reason, .. } = draft;
    let json = Json { actor: draft.actor.as_deref(), subject: draft.subject.as_deref(), attrs: draft.attrs.as_deref() };
    let made = Draft::new(ts_ms, Labels { writer_id, stream, kind, reason }, json, payload);
    made.map_err(|refusal| refuse(RefusalCode::Schema, refusal.to_string()))
}

fn receipt(receipt: &Receipt, made: Option<Made>) -> RecordAnswer {
    let salt = |salt: Salt| Bytes::copy_from_slice(salt.as_bytes());
    let receipt = v1::Receipt {
        index: receipt.index.get(),
        self_hash: Bytes::copy_from_slice(receipt.self_hash.as_bytes()),
        finished: made.map(|made| v1::Finished { record: made.record, salt: made.salt.map(salt).unwrap_or_default() }),
        ..v1::Receipt::default()
    };
    RecordAnswer { answer: Some(Answer::Receipt(receipt)) }
}

/// An answer to a record, with what the leader made of it where it was a draft; refusals are counted.
pub(super) fn answer(serving: &Serving, fate: &Result<Receipt, Refused>, made: Option<Made>) -> RecordAnswer {
    match fate {
        Ok(found) => receipt(found, made),
        Err(refused) => refusal_answer(serving, refusal(serving, refused)),
    }
}

pub(super) fn refusal_answer(serving: &Serving, refusal: v1::Refusal) -> RecordAnswer {
    serving.counters.refused(refusal.code());
    RecordAnswer { answer: Some(Answer::Refusal(refusal)) }
}

/// What a refusal of the leader's task is to a client.
pub(super) fn refusal(serving: &Serving, refused: &Refused) -> v1::Refusal {
    let mut found = v1::Refusal { text: brief(refused.to_string()), ..v1::Refusal::default() };
    let code = match refused {
        Refused::Record(Refusal::Schema(_) | Refusal::NotFinished) => RefusalCode::Schema,
        Refused::Record(Refusal::SizeExceeded(_)) => RefusalCode::SizeExceeded,
        Refused::Record(Refusal::HashMismatch { .. }) => RefusalCode::HashMismatch,
        Refused::Record(Refusal::Reserved) => RefusalCode::Reserved,
        Refused::Record(Refusal::Payload(_)) => RefusalCode::Payload,
        Refused::Record(Refusal::Forbidden) => RefusalCode::Forbidden,
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
        Refused::Tamper => RefusalCode::Tamper,
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
