//! A stream of appends: many requests under way, answers in their order.
//!
//! I-APPEND-1: answers come in the order of the records. I-APPEND-2: what waits for an answer is bounded: at most
//! [`MAX_IN_FLIGHT`] requests of a stream, and [`MAX_WAITING_BYTES`] of them and what is answered to them; more are not
//! read. A client that does not take its answers is not read either, and after the deadline of a call its stream ends.

use std::future::Future;
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesOrdered;
use futures_util::{StreamExt, poll};
use prost::Message as _;
use stele_api::v1::record_answer::Answer;
use stele_api::v1::{Ack, AppendRequest, AppendResponse, Receipt, RecordAnswer, Refusal};
use stele_api::{MAX_MESSAGE_BYTES, MAX_MESSAGE_RECORDS};
use stele_proof::LeafIndex;
use stele_raft::intake::Answered as Sequenced;
use stele_raft::rights::MayWrite;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::convert::{answer, incoming, refusal_answer};
use super::older::settle;
use crate::cosigning::Signed;
use crate::proving::proofs;
use crate::serving::Serving;

/// Requests of a stream that wait for their answers.
const MAX_IN_FLIGHT: usize = 1024;
/// Bytes of a stream's requests, and of their answers, from which on no other request is read before some are answered.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// What the answer to a record may take beside what the record took: a receipt and what the leader adds to a draft, or
/// a refusal.
const ANSWER_BYTES: usize = 512;
/// Answers that are proved at a time.
const PROVEN_ANSWERS: usize = 256;
/// Most bytes of answers in one message, unless the first of them takes more.
const MAX_RESPONSE_BYTES: usize = 512 << 10;
/// Messages of answers that wait for the client to take them.
const MAX_UNREAD: usize = 16;

const _: () = assert!(MAX_RESPONSE_BYTES * 4 < MAX_MESSAGE_BYTES);

/// What is known of a request that is under way.
struct Flown {
    request_id: u64,
    /// Of [`MAX_WAITING_BYTES`].
    weight: usize,
    /// The records that never went to the sequencer.
    refused: Vec<(usize, Refusal)>,
    sequenced: Sequenced,
    /// What its records are proved under, where they shall be and it came in time.
    checkpoint: Option<Signed>,
}

type Flight = Pin<Box<dyn Future<Output = Flown> + Send>>;
type Answered = Result<AppendResponse, Status>;

struct Appending {
    serving: Arc<Serving>,
    may_write: MayWrite,
    answers: Sender<Answered>,
    in_flight: FuturesOrdered<Flight>,
    /// What those weigh.
    waiting: usize,
}

/// Takes a stream; answers what comes of it.
pub(super) fn append(
    serving: Arc<Serving>,
    may_write: MayWrite,
    requests: Streaming<AppendRequest>,
) -> tokio_stream::wrappers::ReceiverStream<Answered> {
    let (answers, answered) = channel(MAX_UNREAD);
    let appending = Appending { serving, may_write, answers, in_flight: FuturesOrdered::new(), waiting: 0 };
    tokio::spawn(appending.run(requests));
    tokio_stream::wrappers::ReceiverStream::new(answered)
}

impl Appending {
    async fn run(mut self, mut requests: Streaming<AppendRequest>) {
        let stopping = self.serving.stopping.clone();
        let ended = loop {
            tokio::select! {
                biased;
                Some(flown) = self.in_flight.next() => {
                    if !self.answer(flown).await {
                        return;
                    }
                }
                () = stopping.cancelled() => break Some(self.serving.stopping()),
                request = requests.message(), if self.has_room() => match request {
                    Ok(Some(request)) => if let Err(status) = self.take(request).await {
                        break Some(status);
                    },
                    Ok(None) => break None,
                    Err(status) => break Some(self.serving.fail(status)),
                },
            }
        };
        // What was taken is answered, however the stream ends.
        while let Some(flown) = self.in_flight.next().await {
            if !self.answer(flown).await {
                return;
            }
        }
        if let Some(status) = ended {
            self.send(Err(status)).await;
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT && self.waiting < MAX_WAITING_BYTES
    }

    /// Sends the records of a request to the sequencer, in their order.
    async fn take(&mut self, request: AppendRequest) -> Result<(), Status> {
        self.serving.log(&request.log)?;
        if !(1..=MAX_MESSAGE_RECORDS).contains(&request.records.len()) {
            let what = format!("a request has 1 to {MAX_MESSAGE_RECORDS} records, not {}", request.records.len());
            return Err(self.serving.fail(Status::invalid_argument(what)));
        }
        let (request_id, ack) = (request.request_id, request.ack());
        let weight = request.encoded_len() + ANSWER_BYTES * request.records.len();
        self.waiting += weight;
        let mut records = Vec::with_capacity(request.records.len());
        let mut refused = Vec::new();
        for (place, submission) in request.records.into_iter().enumerate() {
            match incoming(&self.serving, submission) {
                Ok(record) => records.push(record),
                Err(refusal) => refused.push((place, refusal)),
            }
        }
        let (serving, may_write) = (Arc::clone(&self.serving), self.may_write.clone());
        let mut flight: Flight = Box::pin(async move {
            if records.is_empty() {
                return Flown { request_id, weight, refused, sequenced: Sequenced::default(), checkpoint: None };
            }
            let mut sequenced = serving.intake.append_any(records, may_write).await;
            settle(&serving, &mut sequenced.answers).await;
            let last = sequenced.answers.iter().flatten().map(|receipt| receipt.index).max();
            let checkpoint = match (ack, last.and_then(LeafIndex::size_with)) {
                (Ack::Proven, Some(size)) => serving.cosigning.covering(size).await,
                _ => None,
            };
            Flown { request_id, weight, refused, sequenced, checkpoint }
        });
        // Polled once, it has its place in the queue: requests of a stream keep their order.
        match poll!(flight.as_mut()) {
            std::task::Poll::Ready(flown) => self.in_flight.push_back(Box::pin(std::future::ready(flown))),
            std::task::Poll::Pending => self.in_flight.push_back(flight),
        }
        Ok(())
    }

    /// Answers a request; `false` where nobody takes answers any more.
    async fn answer(&mut self, flown: Flown) -> bool {
        let Flown { request_id, weight, refused, sequenced, checkpoint } = flown;
        let (mut all, mut first_record) = (self.all(refused, sequenced).into_iter(), 0);
        loop {
            let most = if checkpoint.is_some() { PROVEN_ANSWERS } else { usize::MAX };
            let mut answers: Vec<RecordAnswer> = all.by_ref().take(most).collect();
            if answers.is_empty() {
                // What was answered is with the client.
                self.waiting -= weight;
                return true;
            }
            if let Some(checkpoint) = &checkpoint {
                prove(&self.serving, &mut answers, checkpoint).await;
            }
            let mut answers = answers.into_iter().peekable();
            while let Some(answers) = fitting(&mut answers) {
                let Ok(count) = u32::try_from(answers.len()) else { return false };
                if !self.send(Ok(AppendResponse { request_id, first_record, answers })).await {
                    return false;
                }
                first_record += count;
            }
        }
    }

    /// The answers to all records of a request, in their order.
    fn all(&self, refused: Vec<(usize, Refusal)>, sequenced: Sequenced) -> Vec<RecordAnswer> {
        let (serving, Sequenced { answers, made }) = (&self.serving, sequenced);
        let mut all: Vec<RecordAnswer> = Vec::with_capacity(refused.len() + answers.len());
        let mut refused = refused.into_iter().peekable();
        let mut answers = answers.iter().enumerate();
        let mut made = made.into_iter().peekable();
        loop {
            if let Some((_, refusal)) = refused.next_if(|(place, _)| *place == all.len()) {
                all.push(refusal_answer(serving, refusal));
            } else if let Some((place, fate)) = answers.next() {
                all.push(answer(serving, fate, made.next_if(|made| made.place == place)));
            } else {
                return all;
            }
        }
    }

    async fn send(&mut self, answered: Answered) -> bool {
        matches!(timeout(self.serving.limits.request_timeout, self.answers.send(answered)).await, Ok(Ok(())))
    }
}

/// Takes as many answers as one message holds off the front, at least one; `None` where there are none.
fn fitting(answers: &mut Peekable<impl Iterator<Item = RecordAnswer>>) -> Option<Vec<RecordAnswer>> {
    let mut taken = vec![answers.next()?];
    let mut bytes = taken[0].encoded_len();
    while let Some(next) = answers.peek() {
        bytes += next.encoded_len();
        if bytes > MAX_RESPONSE_BYTES {
            break;
        }
        taken.extend(answers.next());
    }
    Some(taken)
}

/// Adds proofs to receipts; one that cannot be proved now is pending.
async fn prove(serving: &Serving, answers: &mut [RecordAnswer], checkpoint: &Signed) {
    let mut receipts: Vec<&mut Receipt> = answers
        .iter_mut()
        .filter_map(|answer| match &mut answer.answer {
            Some(Answer::Receipt(receipt)) => Some(receipt),
            _ => None,
        })
        .collect();
    let indexes: Vec<LeafIndex> = receipts.iter().map(|receipt| LeafIndex::new(receipt.index)).collect();
    let proofs = proofs(serving, &indexes, checkpoint).await;
    for (receipt, proof) in receipts.iter_mut().zip(proofs) {
        receipt.proof = proof.map_or_else(String::new, |proof| proof.to_string());
    }
}
