//! What clients send on its way to the leader's sequencer: bounded in bytes, refused at once where it is full.

use std::sync::Arc;

use bytes::Bytes;
use stele_engine::intake::Refusal;
use stele_engine::local::Receipt;
use stele_proof::record::Salt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Bytes of records and payloads that are sent in and not answered.
pub const MAX_WAITING_BYTES: usize = 32 << 20;
/// Messages that wait for the sequencer.
pub const MAX_WAITING_MESSAGES: usize = 1024;

/// A record that a client wants appended.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The finished record: canonical, with `self_hash`.
    pub record: Bytes,
    /// Its payload, and the salt that hides it.
    pub payload: Option<(Salt, Bytes)>,
}

impl Submitted {
    fn weight(&self) -> usize {
        self.record.len() + self.payload.as_ref().map_or(0, |(_, bytes)| Salt::LEN + bytes.len())
    }
}

/// Why a record was not appended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The record itself.
    #[error(transparent)]
    Record(#[from] Refusal),
    /// Too much waits already.
    #[error("Busy: too many bytes wait to be appended; send again")]
    Busy,
    /// Another node leads, if one is known.
    #[error("NotLeader: {}", .0.map_or_else(|| "no leader is known".to_owned(), |node| format!("node {node} leads")))]
    NotLeader(Option<u64>),
    /// The record may or may not be appended: send it again, the answer will be the same place.
    #[error("Unavailable: {0}; send again")]
    Unavailable(&'static str),
}

/// The fate of each record of a message, in order.
pub type Answers = Vec<Result<Receipt, Refused>>;

/// A message on its way.
pub(crate) struct Message {
    pub(crate) records: Vec<Submitted>,
    pub(crate) answer: oneshot::Sender<Answers>,
    /// Given back when the message is answered.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Message {
    /// Answers all records alike.
    pub(crate) fn refuse(self, refused: &Refused) {
        let answers = self.records.iter().map(|_| Err(refused.clone())).collect();
        // Where the client is gone, nobody wants the answer.
        drop(self.answer.send(answers));
    }
}

/// The way in.
#[derive(Clone)]
pub struct Intake {
    messages: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
}

impl Intake {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (messages, received) = mpsc::channel(MAX_WAITING_MESSAGES);
        (Self { messages, room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)) }, received)
    }

    /// Sends a message of records to the sequencer; waits for the answers only. A message is not atomic: each record
    /// has its own fate.
    pub async fn append(&self, records: Vec<Submitted>) -> Answers {
        let count = records.len();
        let all = |refused: Refused| (0..count).map(|_| Err(refused.clone())).collect();
        let weight = records.iter().map(Submitted::weight).sum::<usize>().max(1);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(weight) else { return all(Refused::Busy) };
        let (answer, answered) = oneshot::channel();
        if let Err(error) = self.messages.try_send(Message { records, answer, room }) {
            return all(match error {
                mpsc::error::TrySendError::Full(_) => Refused::Busy,
                mpsc::error::TrySendError::Closed(_) => Refused::Unavailable("this node is stopping"),
            });
        }
        answered.await.unwrap_or_else(|_gone| all(Refused::Unavailable("this node is stopping")))
    }
}
