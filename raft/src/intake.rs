//! What clients send on its way to the leader's sequencer: bounded in bytes, refused at once where it is full.

use std::sync::Arc;

use bytes::Bytes;
use stele_engine::intake::Refusal;
use stele_engine::local::Receipt;
use stele_engine::number::SegmentNumber;
use stele_proof::record::{Salt, SelfHash};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::draft::Draft;
use crate::rights::MayWrite;

/// Bytes of records and payloads that are sent in and not answered.
pub const MAX_WAITING_BYTES: usize = 32 << 20;
/// Messages that wait for the sequencer, requests to end a segment among them.
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

/// Something that a client wants appended.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A finished record.
    Finished(Submitted),
    /// A record that the leader finishes.
    Draft(Box<Draft>),
}

impl Incoming {
    pub(crate) const fn finished(&self) -> Option<&Submitted> {
        match self {
            Self::Finished(submitted) => Some(submitted),
            Self::Draft(_) => None,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Finished(submitted) => submitted.weight(),
            Self::Draft(draft) => draft.weight(),
        }
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
    /// It is in the log, or another record is under its identity, further back than is remembered. Whoever can look
    /// into the log can tell which.
    #[error("Unavailable: the record is older than what is remembered; send again")]
    Older {
        /// The finished record.
        record: Bytes,
        /// Its hash.
        self_hash: SelfHash,
    },
    /// The log holds another record under its identity, further back than is remembered: whoever looked into the log
    /// says so.
    #[error("Tamper: the log holds another record under this writer, stream and seq")]
    Tamper,
    /// The record may or may not be appended: send it again, the answer will be the same place.
    #[error("Unavailable: {0}; send again")]
    Unavailable(&'static str),
}

/// The fate of each record of a message, in order.
pub type Answers = Vec<Result<Receipt, Refused>>;

/// What came of a message.
#[derive(Clone, Default, Debug)]
pub struct Answered {
    /// The fate of each record.
    pub answers: Answers,
    /// What each draft that has a receipt became, in order.
    pub made: Vec<Made>,
}

/// What a draft became.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its place in the message.
    pub place: usize,
    /// The canonical record.
    pub record: Bytes,
    /// The salt of its payload.
    pub salt: Option<Salt>,
}

impl Answered {
    fn all(count: usize, refused: &Refused) -> Self {
        Self { answers: (0..count).map(|_| Err(refused.clone())).collect(), made: Vec::new() }
    }
}

/// The segment that was ended; `None` where the open one holds no record.
pub type Ended = Option<SegmentNumber>;

/// What is asked of the leader's task.
pub(crate) enum Asked {
    /// To append.
    Append(Message),
    /// To end the open segment.
    EndSegment(oneshot::Sender<Result<Ended, Refused>>),
}

impl Asked {
    pub(crate) fn refuse(self, refused: &Refused) {
        match self {
            Self::Append(message) => message.refuse(refused),
            // Where whoever asked is gone, nobody wants the answer.
            Self::EndSegment(answer) => drop(answer.send(Err(refused.clone()))),
        }
    }
}

/// A message on its way.
pub(crate) struct Message {
    pub(crate) records: Vec<Incoming>,
    pub(crate) may_write: MayWrite,
    pub(crate) answer: oneshot::Sender<Answered>,
    /// Given back when the message is answered.
    pub(crate) room: OwnedSemaphorePermit,
}

impl Message {
    /// Answers all records alike.
    pub(crate) fn refuse(self, refused: &Refused) {
        // Where the client is gone, nobody wants the answer.
        drop(self.answer.send(Answered::all(self.records.len(), refused)));
    }
}

/// The way in.
#[derive(Clone)]
pub struct Intake {
    asked: mpsc::Sender<Asked>,
    room: Arc<Semaphore>,
}

const STOPPING: Refused = Refused::Unavailable("this node is stopping");

impl Intake {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asked, received) = mpsc::channel(MAX_WAITING_MESSAGES);
        (Self { asked, room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)) }, received)
    }

    /// Sends a message of finished records to the sequencer; waits for the answers only. A message is not atomic: each
    /// record has its own fate.
    pub async fn append(&self, records: Vec<Submitted>) -> Answers {
        let records = records.into_iter().map(Incoming::Finished).collect();
        self.append_any(records, MayWrite::Everything).await.answers
    }

    /// As [`Intake::append`], with drafts among them, for a caller who may not write everything.
    pub async fn append_any(&self, records: Vec<Incoming>, may_write: MayWrite) -> Answered {
        let count = records.len();
        let weight = records.iter().map(Incoming::weight).sum::<usize>().max(1);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(weight) else {
            return Answered::all(count, &Refused::Busy);
        };
        let (answer, answered) = oneshot::channel();
        if let Err(refused) = self.ask(Asked::Append(Message { records, may_write, answer, room })) {
            return Answered::all(count, &refused);
        }
        answered.await.unwrap_or_else(|_gone| Answered::all(count, &STOPPING))
    }

    /// Ends the open segment, where it holds records: answers once the seal entry is applied.
    ///
    /// # Errors
    /// [`Refused`]; after [`Refused::Unavailable`] the segment may be ended or not.
    pub async fn end_segment(&self) -> Result<Ended, Refused> {
        let (answer, answered) = oneshot::channel();
        self.ask(Asked::EndSegment(answer))?;
        answered.await.unwrap_or(Err(STOPPING))
    }

    fn ask(&self, asked: Asked) -> Result<(), Refused> {
        self.asked.try_send(asked).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => STOPPING,
        })
    }
}
