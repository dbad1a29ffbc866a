//! What a node answers to its peers.
//!
//! Each connection is one task, owned by [`PeerServer::serve`], which ends when told to and then ends them all. A
//! connection is closed at the first frame that is no message of its class.
//!
//! A node that starts answers who asks what it remembers ([`PeerServer::starting`]); requests are answered once it is
//! running. A node that was found stale answers none any more.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::Raft;
use openraft::base::{BoxFuture, BoxStream};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::RaftStateMachine;
use stele_engine::number::{NodeId, RaftIndex, Term};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Accepted, Accepting, Connection, Purpose};
use super::cosign::Cosign;
use super::message::{Answer, Append, Failure, Offered, Request, last_log_id};
use super::metrics::{PeerMetrics, Refused};
use super::segments::{SegmentSource, SourceError};
use super::transport::{BoxSocket, Listen, Transport};
use super::wire::MessageError;
use super::{Class, Limits, Own};
use crate::entry::TypeConfig;
use crate::standing::{Stale, Told};
use crate::stored::{StoredEntries, StoredError, Wanted};

/// Appends that were read and are not with openraft yet.
const READ_AHEAD: usize = 4;
/// How long to wait where no connection can be accepted, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Consensus has stopped on this node.
#[derive(Debug, thiserror::Error)]
#[error("consensus has stopped: {0}")]
pub struct Stopped(String);

/// What peers ask of this node's consensus.
pub trait RaftHandle: Clone + Send + Sync + 'static {
    /// Appends one after the other; answers in order, none behind the first that is not `Ok`.
    fn stream_append(
        &self,
        appends: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Stopped>>;

    /// A heartbeat: an append without entries.
    fn heartbeat(
        &self,
        heartbeat: AppendEntriesRequest<TypeConfig>,
    ) -> impl Future<Output = Result<AppendEntriesResponse<TypeConfig>, Stopped>> + Send;

    /// A vote.
    fn vote(
        &self,
        vote: VoteRequest<TypeConfig>,
    ) -> impl Future<Output = Result<VoteResponse<TypeConfig>, Stopped>> + Send;

    /// Whether a vote would be given.
    fn pre_vote(
        &self,
        vote: VoteRequest<TypeConfig>,
    ) -> impl Future<Output = Result<VoteResponse<TypeConfig>, Stopped>> + Send;

    /// To become the leader.
    fn transfer_leader(
        &self,
        transfer: TransferLeaderRequest<TypeConfig>,
    ) -> impl Future<Output = Result<TransferLeaderResponse<TypeConfig>, Stopped>> + Send;
}

fn stopped(error: impl std::fmt::Display) -> Stopped {
    Stopped(error.to_string())
}

impl<SM: RaftStateMachine<TypeConfig>> RaftHandle for Raft<TypeConfig, SM> {
    fn stream_append(
        &self,
        appends: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Stopped>> {
        Box::pin(Self::stream_append(self, appends).map(|answer| answer.map_err(stopped)))
    }

    async fn heartbeat(
        &self,
        heartbeat: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Stopped> {
        self.append_entries(heartbeat).await.map_err(stopped)
    }

    async fn vote(&self, vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
        Self::vote(self, vote).await.map_err(stopped)
    }

    async fn pre_vote(&self, vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
        Self::pre_vote(self, vote).await.map_err(stopped)
    }

    async fn transfer_leader(
        &self,
        transfer: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Stopped> {
        self.handle_transfer_leader(transfer).await.map_err(stopped)
    }
}

/// When the next append may go to openraft.
pub trait Admission: Send + Sync + 'static {
    /// Ready when there is room. Asked before each append with entries; may be dropped and asked again.
    fn admit(&self) -> BoxFuture<'_, ()>;
}

/// Lets everything in.
#[derive(Clone, Copy, Debug)]
pub struct Unbounded;

impl Admission for Unbounded {
    fn admit(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the peer does not take its answers")]
    Unread,
    #[error("this node's disk takes no more entries")]
    NoRoom,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("a read of segments died: {0}")]
    Died(#[from] JoinError),
}

/// Answers the peers of a node.
pub struct PeerServer<R> {
    serving: Arc<Serving<R>>,
}

struct Serving<R> {
    accepting: Accepting,
    /// What is offered to nodes in doubt, from the first phase of a start on.
    entries: Option<Arc<StoredEntries>>,
    /// Held while entries are offered.
    offering: tokio::sync::Mutex<()>,
    /// `None` while the node starts.
    served: watch::Receiver<Option<Arc<Served<R>>>>,
}

/// What a server answers from.
pub struct Served<R> {
    /// Consensus.
    pub raft: R,
    /// When entries may come in.
    pub admission: Arc<dyn Admission>,
    /// Where segments are taken from.
    pub segments: Arc<dyn SegmentSource>,
    /// Who signs tree heads.
    pub cosigner: Arc<dyn Cosign>,
}

/// Gives a server what it answers from, once there is something.
pub struct Giver<R>(watch::Sender<Option<Arc<Served<R>>>>);

impl<R> Giver<R> {
    /// From now on requests are answered.
    pub fn give(self, served: Served<R>) {
        self.0.send_replace(Some(Arc::new(served)));
    }
}

impl<R: RaftHandle> PeerServer<R> {
    /// A server of a running node, which offers nothing to nodes in doubt.
    pub fn new(own: Own, transport: Transport, served: Served<R>, limits: Limits, metrics: Arc<PeerMetrics>) -> Self {
        let (server, giver) = Self::starting(own, transport, None, limits, metrics);
        giver.give(served);
        server
    }

    /// A server of a node that starts, and the way to give it what it answers from.
    pub fn starting(
        own: Own,
        transport: Transport,
        entries: Option<Arc<StoredEntries>>,
        limits: Limits,
        metrics: Arc<PeerMetrics>,
    ) -> (Self, Giver<R>) {
        let (giver, served) = watch::channel(None);
        let accepting = Accepting { own, transport, limits, metrics };
        (
            Self { serving: Arc::new(Serving { accepting, entries, offering: tokio::sync::Mutex::default(), served }) },
            Giver(giver),
        )
    }

    /// Serves whoever connects, until told to stop; then every connection is closed.
    pub async fn serve(self, mut listener: impl Listen, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => self.ended(ended),
                accepted = listener.accept() => match accepted {
                    Ok(socket) => self.begin(socket, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "no connection can be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        connections.abort_all();
        while let Some(ended) = connections.join_next().await {
            self.ended(ended);
        }
    }

    fn begin(&self, socket: BoxSocket, connections: &mut JoinSet<()>) {
        let metrics = &self.serving.accepting.metrics;
        if connections.len() >= self.serving.accepting.limits.connections {
            return metrics.count_refused(Refused::Full);
        }
        metrics.opened();
        let serving = Arc::clone(&self.serving);
        connections.spawn(async move { serving.serve(socket).await });
    }

    fn ended(&self, ended: Result<(), JoinError>) {
        self.serving.accepting.metrics.closed();
        if let Err(error) = ended
            && error.is_panic()
        {
            self.serving.accepting.metrics.count_broken();
            tracing::error!(%error, "the task of a connection died");
        }
    }
}

impl<R: RaftHandle> Serving<R> {
    async fn serve(&self, socket: BoxSocket) {
        let Some(Accepted { connection, class, from, purpose }) = self.accepting.accept(socket).await else { return };
        let served = match purpose {
            Purpose::Acquaintance => self.hear_out(from, class, connection).await,
            Purpose::Recovery => self.offer(from, class, connection).await,
            Purpose::Requests => match self.served().await {
                Some(served) => Conversation { serving: self, served: &served, from }.hold(class, connection).await,
                None => Ok(()),
            },
        };
        if let Err(error) = served {
            self.accepting.metrics.count_broken();
            tracing::info!(%error, node = %from, ?class, "the connection of a peer ended");
        }
    }

    /// What is answered from; a running node has it in a moment. `None` where the node gave up its start.
    async fn served(&self) -> Option<Arc<Served<R>>> {
        let mut served = self.served.clone();
        let given = served.wait_for(Option::is_some).await;
        given.ok().and_then(|given| given.clone())
    }

    /// Offers what stands here behind the last entry of a node in doubt, as often as it asks. Entries are in memory for
    /// one node at a time.
    async fn offer(&self, from: NodeId, class: Class, mut connection: Connection) -> Result<(), Ended> {
        loop {
            let (mut receiver, _) = connection.halves();
            let Some(frame) = receiver.next().await? else { return Ok(()) };
            let (before, wanted) = match decode(class, from, frame)? {
                Request::Offer { last, wanted } => (last, wanted),
                Request::Stale(stale) => {
                    self.accepting.own.standing.tell(Told { by: from, stale });
                    return Ok(());
                }
                _ => return Err(MessageError::Type(0).into()),
            };
            let Some(entries) = self.entries.clone() else {
                self.send(&mut connection, &Answer::Failed(Failure::Stopped)).await?;
                continue;
            };
            let _turn = match wanted {
                Wanted::Position => None,
                Wanted::Entries => Some(self.offering.lock().await),
            };
            let answer = match tokio::task::spawn_blocking(move || entries.offer(&before, wanted)).await? {
                Ok(offer) => Answer::Offered(Offered { before, offer }),
                Err(StoredError::Truncated) => Answer::Failed(Failure::Unreadable),
                Err(error) => {
                    tracing::error!(%error, "a node in doubt asked for entries that cannot be read");
                    Answer::Failed(Failure::Unreadable)
                }
            };
            self.send(&mut connection, &answer).await?;
        }
    }

    /// Sends an answer; that consensus has stopped where this node was found stale meanwhile.
    async fn send(&self, connection: &mut Connection, answer: &Answer) -> Result<(), Ended> {
        let frame = match self.accepting.own.standing.told() {
            None => answer.encode(),
            Some(_) => Answer::Failed(Failure::Stopped).encode(),
        };
        let sent = timeout(self.accepting.limits.write, connection.send(frame)).await;
        Ok(sent.map_err(|_elapsed| Ended::Unread)??)
    }

    /// What a peer says that was greeted while one of the two was starting: nothing, or that this node is stale.
    async fn hear_out(&self, from: NodeId, class: Class, mut connection: Connection) -> Result<(), Ended> {
        let (mut receiver, _) = connection.halves();
        let heard = timeout(self.accepting.limits.handshake, receiver.next()).await;
        let Ok(Ok(Some(frame))) = heard else { return Ok(()) };
        match Request::decode(class, frame)? {
            Request::Stale(stale) => self.accepting.own.standing.tell(Told { by: from, stale }),
            other => tracing::debug!(?other, node = %from, "a request to a node that is starting"),
        }
        Ok(())
    }
}

/// A connection on which requests come.
struct Conversation<'a, R> {
    serving: &'a Serving<R>,
    served: &'a Served<R>,
    from: NodeId,
}

impl<R: RaftHandle> Conversation<'_, R> {
    async fn hold(&self, class: Class, connection: Connection) -> Result<(), Ended> {
        match class {
            Class::Log => self.serve_log(connection).await,
            Class::Control | Class::Segments | Class::Recovery => self.serve_questions(class, connection).await,
        }
    }

    /// Remembers how far the disk of a leader is, whatever comes of what it sends: that it says so is enough.
    fn heard(&self, Append { request, flushed }: Append) -> AppendEntriesRequest<TypeConfig> {
        if let Some(last) = flushed.get().checked_sub(1) {
            let term = Term::new(request.vote.leader_id.term);
            self.serving.accepting.own.standing.marks().flushed(self.from, term, RaftIndex::new(last));
        }
        request
    }

    /// The peer finds this node stale.
    fn told(&self, stale: Stale) {
        self.serving.accepting.own.standing.tell(Told { by: self.from, stale });
    }

    /// One question after the other.
    async fn serve_questions(&self, class: Class, mut connection: Connection) -> Result<(), Ended> {
        loop {
            let (mut receiver, _) = connection.halves();
            let Some(frame) = receiver.next().await? else { return Ok(()) };
            let answer = match self.answer(decode(class, self.from, frame)?).await {
                Err(Ended::Stopped(_)) => Answer::Failed(Failure::Stopped),
                other => other?,
            };
            self.serving.send(&mut connection, &answer).await?;
        }
    }

    async fn answer(&self, request: Request) -> Result<Answer, Ended> {
        Ok(match request {
            Request::Append(heartbeat) => {
                let heartbeat = self.heard(heartbeat);
                let (before, last) = (heartbeat.prev_log_id, last_log_id(&heartbeat));
                let appended = match (self.served.raft.heartbeat(heartbeat).await?, before) {
                    (AppendEntriesResponse::Success, _) => Ok(last),
                    (AppendEntriesResponse::PartialSuccess(matching), _) => Ok(matching),
                    (AppendEntriesResponse::Conflict, Some(before)) => Err(StreamAppendError::Conflict(before)),
                    (AppendEntriesResponse::Conflict, None) => {
                        return Err(stopped("the beginning of the log conflicts").into());
                    }
                    (AppendEntriesResponse::HigherVote(vote), _) => Err(StreamAppendError::HigherVote(vote)),
                };
                Answer::Appended(appended)
            }
            Request::Vote(vote) => Answer::Voted(self.served.raft.vote(vote).await?),
            Request::PreVote(vote) => Answer::Voted(self.served.raft.pre_vote(vote).await?),
            Request::TransferLeader(transfer) => Answer::Transferred(self.served.raft.transfer_leader(transfer).await?),
            Request::Cosign(cosign) => {
                let cosigned = self.served.cosigner.cosign(self.from, cosign).await;
                cosigned.map_or(Answer::Failed(Failure::NoSigner), Answer::Cosigned)
            }
            Request::ListSegments { from } => {
                let list = self.ask_source(move |source| source.list(from)).await?;
                list.map_or_else(Answer::Failed, Answer::Segments)
            }
            Request::ReadSegment { file, offset, len } => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let bytes = self.ask_source(move |source| source.read(file, offset, len)).await?;
                bytes.map_or_else(Answer::Failed, Answer::Bytes)
            }
            Request::Vouch { size } => {
                let vouched = self.ask_source(move |source| source.vouch(size)).await?;
                vouched.map_or_else(Answer::Failed, Answer::Vouched)
            }
            Request::Stale(stale) => {
                self.told(stale);
                Answer::Failed(Failure::Stopped)
            }
            // Of a connection for recovery, which is not held here.
            Request::Offer { .. } => return Err(MessageError::Type(0).into()),
        })
    }

    async fn ask_source<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn SegmentSource) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<Result<T, Failure>, JoinError> {
        let source = Arc::clone(&self.served.segments);
        let asked = tokio::task::spawn_blocking(move || ask(source.as_ref())).await?;
        Ok(asked.map_err(|error| match error {
            SourceError::NotSealed => Failure::NotSealed,
            SourceError::NoCheckpoint => Failure::NoCheckpoint,
            error => {
                tracing::error!(%error, "a peer asked for a segment that cannot be read");
                Failure::Unreadable
            }
        }))
    }

    /// Appends, as many as openraft takes, and answers as they come.
    async fn serve_log(&self, mut connection: Connection) -> Result<(), Ended> {
        let mut appends = Appends::start(&self.served.raft);
        // The peer has given up by then, and comes again on another connection.
        let patience = self.serving.accepting.limits.stall * 2;
        loop {
            let (mut receiver, _) = connection.halves();
            // What waits for room is sent on before more is read (I-PEER-3).
            tokio::select! {
                answered = appends.answers.next() => {
                    let answer = match answered {
                        Some(Ok(appended)) => Answer::Appended(appended),
                        Some(Err(_)) | None => Answer::Failed(Failure::Stopped),
                    };
                    if matches!(answer, Answer::Appended(Err(_))) {
                        // openraft answers nothing behind this. What the peer sends when it has the answer is another
                        // stream; where it has sent more already, it closes the connection.
                        appends = Appends::start(&self.served.raft);
                    }
                    self.serving.send(&mut connection, &answer).await?;
                    if answer == Answer::Failed(Failure::Stopped) {
                        return Ok(());
                    }
                }
                frame = receiver.next(), if appends.waiting.is_none() => {
                    let Some(frame) = frame? else { return Ok(()) };
                    match decode(Class::Log, self.from, frame)? {
                        Request::Append(append) => appends.waiting = Some(self.heard(append)),
                        Request::Stale(stale) => {
                            self.told(stale);
                            return Ok(());
                        }
                        _ => return Err(MessageError::Type(0).into()),
                    }
                }
                passed = timeout(patience, pass_on(&appends.input, &mut appends.waiting, self.served.admission.as_ref())),
                    if appends.waiting.is_some() => passed.map_err(|_elapsed| Ended::NoRoom)?,
            }
        }
    }
}

fn decode(class: Class, from: NodeId, frame: Bytes) -> Result<Request, MessageError> {
    let request = Request::decode(class, frame)?;
    if request.is_of(from) { Ok(request) } else { Err(MessageError::Field("vote of the sender")) }
}

/// A stream of appends on its way into openraft.
struct Appends {
    input: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    answers: BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Stopped>>,
    /// Read, and not let in yet.
    waiting: Option<AppendEntriesRequest<TypeConfig>>,
}

impl Appends {
    fn start(raft: &impl RaftHandle) -> Self {
        let (input, output) = mpsc::channel(READ_AHEAD);
        let appends = futures_util::stream::unfold(output, |mut output: mpsc::Receiver<_>| async move {
            output.recv().await.map(|append| (append, output))
        });
        Self { input, answers: raft.stream_append(appends), waiting: None }
    }
}

/// Lets an append in when there is room. Nothing is lost where the future is dropped.
async fn pass_on(
    input: &mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    waiting: &mut Option<AppendEntriesRequest<TypeConfig>>,
    admission: &dyn Admission,
) {
    admission.admit().await;
    match input.reserve().await {
        Ok(room) => {
            if let Some(append) = waiting.take() {
                room.send(append);
            }
        }
        // openraft has stopped, and its answers will say so.
        Err(_closed) => std::future::pending().await,
    }
}
