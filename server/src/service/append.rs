//! A stream of appends: many requests under way, answers in their order.
//!
//! I-APPEND-1: answers come in the order of the records. I-APPEND-2: at most [`MAX_IN_FLIGHT`] requests of a stream
//! wait for their answer; more are not read. A client that does not take its answers is not read either, and after
//! the deadline of a call its stream ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesOrdered;
use futures_util::{StreamExt, poll};
use stele_api::MAX_MESSAGE_RECORDS;
use stele_api::v1::{AppendRequest, AppendResponse, RecordAnswer, Refusal};
use stele_raft::intake::Answered as Sequenced;
use stele_raft::rights::MayWrite;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::convert::{answer, incoming, refusal_answer};
use super::older::settle;
use crate::serving::Serving;

/// Requests of a stream that wait for their answers.
const MAX_IN_FLIGHT: usize = 1024;
/// Answers that wait for the client to take them.
const MAX_UNREAD: usize = 16;

/// What is known of a request that is under way.
struct Flown {
    request_id: u64,
    /// The records that never went to the sequencer.
    refused: Vec<(usize, Refusal)>,
    sequenced: Sequenced,
}

type Flight = Pin<Box<dyn Future<Output = Flown> + Send>>;
type Answered = Result<AppendResponse, Status>;

struct Appending {
    serving: Arc<Serving>,
    may_write: MayWrite,
    answers: Sender<Answered>,
    in_flight: FuturesOrdered<Flight>,
}

/// Takes a stream; answers what comes of it.
pub(super) fn append(
    serving: Arc<Serving>,
    may_write: MayWrite,
    requests: Streaming<AppendRequest>,
) -> tokio_stream::wrappers::ReceiverStream<Answered> {
    let (answers, answered) = channel(MAX_UNREAD);
    let appending = Appending { serving, may_write, answers, in_flight: FuturesOrdered::new() };
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
                request = requests.message(), if self.in_flight.len() < MAX_IN_FLIGHT => match request {
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

    /// Sends the records of a request to the sequencer, in their order.
    async fn take(&mut self, request: AppendRequest) -> Result<(), Status> {
        self.serving.log(&request.log)?;
        if !(1..=MAX_MESSAGE_RECORDS).contains(&request.records.len()) {
            let what = format!("a request has 1 to {MAX_MESSAGE_RECORDS} records, not {}", request.records.len());
            return Err(self.serving.fail(Status::invalid_argument(what)));
        }
        let mut records = Vec::with_capacity(request.records.len());
        let mut refused = Vec::new();
        for (place, submission) in request.records.into_iter().enumerate() {
            match incoming(&self.serving, submission) {
                Ok(record) => records.push(record),
                Err(refusal) => refused.push((place, refusal)),
            }
        }
        let (serving, may_write, request_id) = (Arc::clone(&self.serving), self.may_write.clone(), request.request_id);
        let mut flight: Flight = Box::pin(async move {
            if records.is_empty() {
                return Flown { request_id, refused, sequenced: Sequenced::default() };
            }
            let mut sequenced = serving.intake.append_any(records, may_write).await;
            settle(&serving, &mut sequenced.answers).await;
            Flown { request_id, refused, sequenced }
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
        let Flown { request_id, refused, sequenced: Sequenced { answers, made } } = flown;
        let serving = &self.serving;
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
                break;
            }
        }
        self.send(Ok(AppendResponse { request_id, first_record: 0, answers: all })).await
    }

    async fn send(&mut self, answered: Answered) -> bool {
        matches!(timeout(self.serving.limits.request_timeout, self.answers.send(answered)).await, Ok(Ok(())))
    }
}
