//! Many appends in flight, in order per chain, each acknowledged once.
//!
//! A task of its own owns the connection and the book of what is sent (see `book`). What arrives while a message is
//! on its way goes into the next one: groups without a timer. `push` waits where the bounds of
//! [`InFlight`](crate::config::InFlight) are reached; after that the record has its place, and the future that `push`
//! returns ends with the receipt, or with the reason why there is none, within
//! [`Timeouts::append`](crate::config::Timeouts::append).
//!
//! Finished records are sent again after `Busy`, `Unavailable`, `NotLeader` and lost connections, however often it
//! takes: the server knows them by (writer, stream, seq). They are appended in the order of their pushes within their
//! chain. Drafts have no such identity: they may change places among each other when they are sent again, and one
//! whose answer was lost is sent again only with [`DraftRetry::MayDuplicate`].
//!
//! One chain belongs to one appender at a time. Two that push into the same chain get `SeqGap` from each other.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use futures_util::future::BoxFuture;
use futures_util::stream;
use stele_api::v1;
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::policy::{Policy, PolicyError, VerifiedCheckpoint};
use stele_proof::proof_file::{ProofFile, ProofFileError};
use stele_proof::record::{Record, Salt, SelfHash};
use stele_proof::tree::verify_inclusion;
use stele_proof::{LeafIndex, tree};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::book::{Advice, Book, Check, Identity, Item};
use crate::config::{Address, Batch};
use crate::draft::difference;
use crate::error::{AppendError, ConfigError, InvalidRecord, Violation, hash, is_final};
use crate::record::{FinishedDraft, FinishedRecord, Receipt};
use crate::router::{Router, log_client};

pub use crate::book::DraftRetry;

/// How long an append waits.
#[derive(Clone, Default, Debug)]
pub enum Ack {
    /// Until the record is durable at a quorum of sites.
    #[default]
    Committed,
    /// Until it also has a proof under a checkpoint that meets this policy. Where that takes too long, the receipt
    /// comes without one.
    Proven(Arc<Policy>),
}

/// What an appender does beyond the configuration of its client.
#[derive(Clone, Default, Debug)]
pub struct AppenderOptions {
    /// How long an append waits.
    pub ack: Ack,
    /// What happens to a draft whose answer was lost.
    pub drafts: DraftRetry,
}

/// Appends records. Clones share one connection and its bounds; the last one to go closes it, and what is pushed is
/// still sent and answered.
#[derive(Clone)]
pub struct Appender {
    items: mpsc::Sender<Item>,
    room: Arc<[Arc<Semaphore>; 2]>,
    router: Arc<Router>,
    ack: Ack,
    believed: Believed,
}

/// The checkpoint that was verified last: many records are proven under one.
type Believed = Arc<Mutex<Option<(String, VerifiedCheckpoint)>>>;

/// The answer to one record that was pushed.
#[derive(Debug)]
#[must_use = "the receipt tells whether the record is in the log"]
pub struct Pending(oneshot::Receiver<Result<Receipt, AppendError>>);

impl Future for Pending {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(AppendError::Closed)))
    }
}

impl Appender {
    /// Starts the task on the runtime of the caller.
    pub(crate) fn start(router: Arc<Router>, options: AppenderOptions) -> Result<Self, ConfigError> {
        let bounds = router.config().in_flight;
        let (Ok(records), Ok(bytes)) = (usize::try_from(bounds.records), usize::try_from(bounds.bytes)) else {
            return Err(ConfigError::Bound { rule: "in_flight does not fit this machine" });
        };
        let (items, incoming) = mpsc::channel(records.min(Semaphore::MAX_PERMITS));
        let room = Arc::new([Arc::new(Semaphore::new(records)), Arc::new(Semaphore::new(bytes))]);
        let book = Book::new(router.backoff(), options.drafts);
        let ack = options.ack.clone();
        let worker = Worker {
            backoff: router.backoff(),
            incoming: Some(incoming),
            book,
            link: Link::Idle,
            failures: 0,
            broken: 0,
            ack: match ack {
                Ack::Committed => v1::Ack::Committed,
                Ack::Proven(_) => v1::Ack::Proven,
            },
            router: Arc::clone(&router),
        };
        // Its end is seen by every `Pending` and by `push`: both get `Closed`.
        drop(tokio::spawn(worker.run()));
        Ok(Self { items, room, router, ack, believed: Believed::default() })
    }

    /// Takes a finished record; waits for room where the bounds are reached.
    ///
    /// The order of calls is the order of the chain. Dropping the future before it is ready pushes nothing.
    ///
    /// # Errors
    /// [`AppendError::Closed`]; everything else is told by the future inside.
    pub async fn push(&self, record: &FinishedRecord) -> Result<Pending, AppendError> {
        let identity = Identity { chain: record.shared_chain(), seq: record.seq() };
        let check = FinishedCheck { self_hash: record.self_hash(), proof: self.proof_check() };
        self.send(Some(identity), record.submission(), Box::new(check)).await
    }

    /// Takes a draft, which the leader finishes; waits for room where the bounds are reached.
    ///
    /// # Errors
    /// [`AppendError::Closed`], [`AppendError::Invalid`] for a payload beyond its bound; everything else is told by
    /// the future inside.
    pub async fn push_draft(&self, draft: v1::Draft, payload: Option<Bytes>) -> Result<Pending, AppendError> {
        let limit = stele_proof::record::MAX_PAYLOAD_BYTES;
        let bytes = payload.as_ref().map_or(0, |payload| u64::try_from(payload.len()).unwrap_or(u64::MAX));
        if bytes > limit {
            let error = stele_proof::record::BoundsError::PayloadTooLarge { bytes, limit };
            return Err(InvalidRecord::Record(error.into()).into());
        }
        let check = DraftCheck { draft: draft.clone(), payload: payload.clone(), proof: self.proof_check() };
        let payload = payload.map(|bytes| v1::Payload { salt: Bytes::new(), bytes });
        let submission = v1::Submission { record: Some(v1::submission::Record::Draft(draft)), payload };
        self.send(None, submission, Box::new(check)).await
    }

    fn proof_check(&self) -> Option<ProofCheck> {
        match &self.ack {
            Ack::Committed => None,
            Ack::Proven(policy) => {
                let (policy, believed) = (Arc::clone(policy), Arc::clone(&self.believed));
                Some(ProofCheck { policy, log: self.router.config().log.clone(), believed })
            }
        }
    }

    async fn send(
        &self,
        identity: Option<Identity>,
        submission: v1::Submission,
        check: Box<dyn Check>,
    ) -> Result<Pending, AppendError> {
        let bytes = prost_len(&submission);
        let [records, room] = &*self.room;
        let closed = |_| AppendError::Closed;
        let of_records = Arc::clone(records).acquire_owned().await.map_err(closed)?;
        // A share beyond the bound can never be had; the configuration sees to it that one record fits.
        let share = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.router.config().in_flight.bytes);
        let of_bytes = Arc::clone(room).acquire_many_owned(share).await.map_err(closed)?;
        let (answerer, answer) = oneshot::channel();
        let deadline = Instant::now() + self.router.config().timeouts.append;
        let share = Some([of_records, of_bytes]);
        let item = Item { identity, submission, bytes, check, deadline, answerer, share };
        match self.items.send(item).await {
            Ok(()) => Ok(Pending(answer)),
            Err(_) => Err(AppendError::Closed),
        }
    }
}

/// Bytes of a submission, but for a few of framing.
fn prost_len(submission: &v1::Submission) -> usize {
    let record = match &submission.record {
        Some(v1::submission::Record::Finished(bytes)) => bytes.len(),
        Some(v1::submission::Record::Draft(draft)) => {
            let json = [&draft.actor, &draft.subject, &draft.attrs];
            let texts = [&draft.writer_id, &draft.stream, &draft.kind, &draft.reason];
            json.iter().map(|json| json.as_ref().map_or(0, Bytes::len)).sum::<usize>()
                + texts.iter().map(|text| text.len()).sum::<usize>()
        }
        None => 0,
    };
    record + submission.payload.as_ref().map_or(0, |payload| payload.salt.len() + payload.bytes.len()) + 16
}

/// The records of one proof check: whose checkpoints count, and which log they are of.
#[derive(Clone)]
struct ProofCheck {
    policy: Arc<Policy>,
    log: Origin,
    believed: Believed,
}

impl ProofCheck {
    /// The proof of a receipt; `None` while it is pending, for this server or for this policy.
    fn check(&self, text: &str, index: LeafIndex, leaf: &tree::Hash) -> Result<Option<ProofFile>, Violation> {
        if text.is_empty() {
            return Ok(None);
        }
        let violation = |error: ProofFileError| Violation::Proof { reason: error.to_string() };
        let proof = ProofFile::parse(text.as_bytes()).map_err(violation)?;
        if proof.index() != index {
            return Err(Violation::IndexGap { expected: index, found: proof.index() });
        }
        let verified = match self.checkpoint(proof.checkpoint()) {
            Ok(verified) => verified,
            Err(PolicyError::QuorumNotMet { .. } | PolicyError::NoLogSignature { .. }) => return Ok(None),
            Err(error) => return Err(violation(error.into())),
        };
        let Checkpoint { origin, size, root } = verified.checkpoint();
        if *origin != self.log {
            return Err(Violation::OtherCheckpoint { origin: origin.as_str().to_owned(), size: *size });
        }
        let included = verify_inclusion(leaf, index, *size, proof.hashes(), root);
        included.map_err(|error| violation(error.into()))?;
        Ok(Some(proof))
    }

    /// Verifies a checkpoint, unless it is the last one that was verified.
    fn checkpoint(&self, note: &str) -> Result<VerifiedCheckpoint, PolicyError> {
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*believed {
            Some((known, verified)) if known == note => Ok(verified.clone()),
            _ => {
                let verified = self.policy.verify_checkpoint(note.as_bytes())?;
                Ok(believed.insert((note.to_owned(), verified)).1.clone())
            }
        }
    }
}

struct FinishedCheck {
    self_hash: SelfHash,
    /// With the leaf that it is about computed only where a proof comes.
    proof: Option<ProofCheck>,
}

struct DraftCheck {
    draft: v1::Draft,
    payload: Option<Bytes>,
    proof: Option<ProofCheck>,
}

fn self_hash(receipt: &v1::Receipt) -> Result<SelfHash, Violation> {
    let wrong = || Violation::WrongSelfHash { received: receipt.self_hash.clone() };
    hash(&receipt.self_hash).map(SelfHash::new).ok_or_else(wrong)
}

impl Check for FinishedCheck {
    fn check(&self, submission: &v1::Submission, receipt: &v1::Receipt) -> Result<Receipt, Violation> {
        let (index, received) = (LeafIndex::new(receipt.index), self_hash(receipt)?);
        if received != self.self_hash {
            return Err(Violation::WrongSelfHash { received: receipt.self_hash.clone() });
        }
        let proof = match (&self.proof, &submission.record) {
            (Some(check), Some(v1::submission::Record::Finished(finished))) => {
                let mut canonical = Vec::new();
                if let Some(split) = stele_proof::record::Finished::split(finished) {
                    split.write_canonical(&mut canonical);
                }
                check.check(&receipt.proof, index, &tree::leaf_hash(&canonical))?
            }
            _ => None,
        };
        Ok(Receipt { index, self_hash: received, draft: None, proof })
    }
}

impl Check for DraftCheck {
    fn check(&self, _: &v1::Submission, receipt: &v1::Receipt) -> Result<Receipt, Violation> {
        let (index, received) = (LeafIndex::new(receipt.index), self_hash(receipt)?);
        let finished = receipt.finished.as_ref().ok_or(Violation::Missing { what: "the finished draft" })?;
        let record =
            Record::parse(&finished.record).map_err(|error| Violation::Record { index, reason: error.to_string() })?;
        if record.self_hash() != received {
            return Err(Violation::WrongSelfHash { received: receipt.self_hash.clone() });
        }
        let salt = hash(&finished.salt).map(Salt::new);
        if let Some(field) = difference(&record, &self.draft, self.payload.as_ref(), salt.as_ref()) {
            return Err(Violation::OtherDraft { index, field });
        }
        let check = self.proof.as_ref();
        let proof = check.map(|check| check.check(&receipt.proof, index, &record.leaf_hash())).transpose()?.flatten();
        let draft = FinishedDraft { canonical: finished.record.clone(), salt };
        Ok(Receipt { index, self_hash: received, draft: Some(draft), proof })
    }
}

/// One stream of appends.
struct Session {
    address: Address,
    /// `None` once nothing more is sent on it.
    requests: Option<mpsc::Sender<v1::AppendRequest>>,
    answers: Streaming<v1::AppendResponse>,
    /// Who leads instead, once the server said that it does not.
    moved: Option<Option<v1::Leader>>,
}

/// Why there is no stream: who was asked, and what it said, if it said anything.
type NoSession = (Address, Option<Status>);

type Opening = BoxFuture<'static, Result<Session, NoSession>>;

enum Link {
    Idle,
    Rests(Instant),
    Opens(Opening),
    Open(Box<Session>),
}

enum LinkEvent {
    Rested,
    Opened(Box<Result<Session, NoSession>>),
    Answered(Box<v1::AppendResponse>),
    Ended(Option<Status>),
}

impl Link {
    /// What happens next; may be dropped and asked again.
    async fn event(&mut self) -> LinkEvent {
        match self {
            Self::Idle => core::future::pending().await,
            Self::Rests(until) => {
                sleep_until(*until).await;
                LinkEvent::Rested
            }
            Self::Opens(opening) => LinkEvent::Opened(Box::new(opening.await)),
            Self::Open(session) => match session.answers.message().await {
                Ok(Some(response)) => LinkEvent::Answered(Box::new(response)),
                Ok(None) => LinkEvent::Ended(None),
                Err(status) => LinkEvent::Ended(Some(status)),
            },
        }
    }
}

struct Worker {
    router: Arc<Router>,
    ack: v1::Ack,
    incoming: Option<mpsc::Receiver<Item>>,
    book: Book,
    link: Link,
    backoff: Backoff,
    /// Connections in a row that brought nothing.
    failures: u32,
    /// Those of them that were open and broke: a server that names another one says nothing of the line.
    broken: u32,
}

/// How often messages are halved at most.
const MAX_HALVINGS: u32 = 4;
/// How many records are taken in at once.
const GULP: usize = 1024;

impl Worker {
    async fn run(mut self) {
        let mut gulp = Vec::with_capacity(GULP);
        loop {
            let now = Instant::now();
            self.book.wake(now);
            if self.book.answer_due(self.router.config().timeouts.answer).is_some_and(|due| due <= now) {
                self.lost();
            }
            self.send();
            if self.book.is_empty() && self.incoming.is_none() {
                return;
            }
            if matches!(self.link, Link::Idle) && self.book.has_ready() {
                self.open();
            }
            let due = self.book.answer_due(self.router.config().timeouts.answer);
            let wake = [self.book.next_wake(), due].into_iter().flatten().min();
            let waits = self.book.has_ready() && matches!(&self.link, Link::Open(open) if open.requests.is_some());
            let Self { link, incoming, .. } = &mut self;
            let requests = match link {
                Link::Open(session) if waits => session.requests.clone(),
                _ => None,
            };
            tokio::select! {
                biased;
                event = link.event() => self.linked(event),
                count = receive(incoming, &mut gulp) => {
                    if count == 0 {
                        self.incoming = None;
                    }
                    gulp.drain(..).for_each(|item| self.book.admit(item));
                }
                () = room(requests), if waits => {}
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Sends what waits, as far as there is room.
    fn send(&mut self) {
        let bounds = self.bounds();
        let Link::Open(session) = &mut self.link else { return };
        while self.book.has_ready()
            && let Some(requests) = &session.requests
            && let Ok(room) = requests.try_reserve()
        {
            let Some((request_id, records)) = self.book.next_message(Instant::now(), bounds) else { return };
            let log = self.router.config().log.as_str().to_owned();
            room.send(v1::AppendRequest { log, request_id, records, ack: self.ack.into() });
        }
    }

    /// The bounds of a message: smaller after connections that broke and brought nothing, since a line may be too thin to carry a
    /// whole one before the connection counts as dead.
    fn bounds(&self) -> Batch {
        let batch = self.router.config().batch;
        Batch { bytes: batch.bytes >> self.broken.min(MAX_HALVINGS), ..batch }
    }

    fn open(&mut self) {
        let router = Arc::clone(&self.router);
        self.link = Link::Opens(Box::pin(async move {
            let address = router.target();
            match timeout(router.config().timeouts.connect, open(&router, &address)).await {
                Ok(Ok(session)) => Ok(session),
                Ok(Err(status)) => Err((address, status)),
                Err(_) => Err((address, None)),
            }
        }));
    }

    fn linked(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Rested => self.link = Link::Idle,
            LinkEvent::Opened(opened) => match *opened {
                Ok(session) => self.link = Link::Open(Box::new(session)),
                Err((address, status)) => {
                    self.router.failed(&address);
                    self.refused(status);
                    self.rest();
                }
            },
            LinkEvent::Answered(response) => self.answered(*response),
            LinkEvent::Ended(status) => {
                self.refused(status);
                self.lost();
            }
        }
    }

    fn answered(&mut self, response: v1::AppendResponse) {
        let now = Instant::now();
        match self.book.answers(response, now) {
            Ok(Advice::Stay) => (self.failures, self.broken) = (0, 0),
            Ok(Advice::Move(leader)) => {
                if let Link::Open(session) = &mut self.link {
                    session.requests = None;
                    session.moved = Some(leader);
                }
            }
            Err(violation) => {
                self.book.violated(&Arc::new(violation), now);
                self.lost();
            }
        }
        let done = !self.book.has_flights();
        if matches!(&self.link, Link::Open(session) if session.moved.is_some()) && done {
            self.lost();
        }
    }

    /// A stream that was refused for a reason that time does not mend fails everything.
    fn refused(&mut self, status: Option<Status>) {
        if let Some(status) = status.filter(|status| is_final(status.code())) {
            self.book.fail_all(&AppendError::Stream { code: status.code(), text: status.message().to_owned() });
        }
    }

    /// The connection is over: broken, hung, misbehaving, or left for the leader.
    fn lost(&mut self) {
        self.book.cut(Instant::now());
        let Link::Open(session) = core::mem::replace(&mut self.link, Link::Idle) else { return };
        let Some(leader) = session.moved else {
            self.broken = self.broken.saturating_add(1);
            self.router.failed(&session.address);
            return self.rest();
        };
        let named = leader.as_ref().is_some_and(|leader| !leader.address.is_empty());
        let followed = self.router.redirected(&session.address, leader.as_ref());
        if followed.is_err() {
            self.router.failed(&session.address);
        }
        // The first redirection is followed at once; two servers that name each other are not.
        if named && followed.is_ok() && self.failures == 0 {
            self.failures = 1;
        } else {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.link = Link::Rests(Instant::now() + self.backoff.delay(self.failures));
        self.failures = self.failures.saturating_add(1);
    }
}

/// Takes in what has arrived; 0 once nobody can push any more.
async fn receive(incoming: &mut Option<mpsc::Receiver<Item>>, gulp: &mut Vec<Item>) -> usize {
    match incoming {
        Some(incoming) => incoming.recv_many(gulp, GULP).await,
        None => core::future::pending().await,
    }
}

/// Waits for a place for one more message.
async fn room(requests: Option<mpsc::Sender<v1::AppendRequest>>) {
    match requests {
        // Where it is closed, the answers end, too, and that is what counts.
        Some(requests) => match requests.reserve().await {
            Ok(room) => drop(room),
            Err(_) => core::future::pending().await,
        },
        None => core::future::pending().await,
    }
}

async fn open(router: &Router, address: &Address) -> Result<Session, Option<Status>> {
    // Why does not matter: another one is asked.
    let Ok(channel) = router.channel(address).await else { return Err(None) };
    let (requests, mut outgoing) = mpsc::channel(1);
    let stream = stream::poll_fn(move |context| outgoing.poll_recv(context));
    let answers = log_client(channel).append(stream).await.map_err(Some)?.into_inner();
    Ok(Session { address: address.clone(), requests: Some(requests), answers, moved: None })
}
