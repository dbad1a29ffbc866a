//! openraft's network, and segments from a peer.
//!
//! Connections are made when something is to be sent, kept while they are good, and made again on the next call
//! otherwise. Every call has a deadline. One that waits for a connection gives up at its own; the connection goes
//! on being made, and serves a later call.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use stele_engine::number::{NodeId, RaftIndex, SegmentNumber, Term};
use stele_engine::segment::SegmentFile;
use stele_proof::TreeSize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{ConnectError, Connection, Dialing};
use super::cosign::{CosignRequest, Cosigned};
use super::entries::fitting;
use super::message::{Answer, Append, Failure, Request, last_log_id};
use super::metrics::PeerMetrics;
use super::segments::{SealedSegment, Vouched};
use super::transport::{Dial, Transport};
use super::wire::{Frame, MessageError};
use super::{Class, Limits, Own};
use crate::entry::{CommittedLeader, LogId, Peer, TypeConfig, Vote};
use crate::standing::Told;
use crate::stored::{Offer, Wanted};

/// Appends that are on their way before the first of them is answered.
pub const PIPELINE: usize = 8;
/// How long entries for a node in doubt may be on their way: a few MiB, at most the largest entry.
const OFFER_WAIT: Duration = Duration::from_secs(60);
/// How long openraft waits after each failure to reach a node, the last for ever.
const BACKOFF_MILLIS: [u64; 4] = [100, 200, 500, 1000];

/// Why a peer was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// There is no connection, for this reason.
    #[error("{0}")]
    Connect(String),
    /// The peer is silent.
    #[error("node {0} did not answer within {1:?}")]
    Silent(NodeId, Duration),
    /// The connection broke.
    #[error("the connection to node {0} broke: {1}")]
    Broken(NodeId, io::Error),
    /// The peer's answer is no message.
    #[error("node {0} answers what is no message: {1}")]
    Message(NodeId, MessageError),
    /// The peer's answer is to another question.
    #[error("node {0} answers what it was not asked")]
    Mismatch(NodeId),
    /// The peer acknowledges other entries than it was sent.
    #[error("node {node} acknowledges {acknowledged:?} and was sent {sent:?}")]
    Acknowledgement {
        /// Who.
        node: NodeId,
        /// What it said.
        acknowledged: Option<LogId>,
        /// What it was told.
        sent: Option<LogId>,
    },
    /// This node takes no part any more.
    #[error("this node is stale: {0}")]
    Stale(Told),
    /// The peer cannot do it.
    #[error("node {0}: {1}")]
    Failed(NodeId, Failure),
}

impl From<PeerError> for RPCError<TypeConfig> {
    /// A connection that broke is made again at once; otherwise openraft waits a little.
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Broken(..) | PeerError::Message(..) | PeerError::Mismatch(_) => {
                Self::Network(NetworkError::new(&error))
            }
            _ => Self::Unreachable(Unreachable::new(&error)),
        }
    }
}

/// Connections to one node for one purpose. At most one is kept while nobody uses it.
struct Route {
    dialing: Arc<Dialing>,
    peer: NodeId,
    addresses: Vec<String>,
    class: Class,
    state: Mutex<RouteState>,
    changed: Notify,
}

#[derive(Default)]
struct RouteState {
    idle: Option<Connection>,
    connecting: bool,
    /// How many attempts have failed, and why the last did.
    failures: u64,
    last_failure: String,
}

/// Ends an attempt to connect, also where its task dies.
struct Attempt {
    route: Arc<Route>,
    outcome: Option<Result<Connection, ConnectError>>,
}

impl Attempt {
    fn came_to(&mut self, outcome: Result<Connection, ConnectError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.route.lock();
        state.connecting = false;
        match self.outcome.take() {
            Some(Ok(connection)) => state.idle = Some(connection),
            Some(Err(error)) => (state.failures, state.last_failure) = (state.failures + 1, error.to_string()),
            None => (state.failures, state.last_failure) = (state.failures + 1, "connecting was given up".to_owned()),
        }
        drop(state);
        self.route.changed.notify_waiters();
    }
}

impl Route {
    fn lock(&self) -> std::sync::MutexGuard<'_, RouteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that nobody else uses.
    async fn take(self: &Arc<Self>, wait: Duration) -> Result<Connection, PeerError> {
        let taken = timeout(wait, self.take_in_time()).await;
        let late = |_elapsed| PeerError::Connect(format!("node {} was not reached within {wait:?}", self.peer));
        taken.map_err(late)?
    }

    async fn take_in_time(self: &Arc<Self>) -> Result<Connection, PeerError> {
        if let Some(told) = self.dialing.own.standing.told() {
            return Err(PeerError::Stale(told));
        }
        let failures = self.lock().failures;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let begins = {
                let mut state = self.lock();
                if let Some(mut connection) = state.idle.take()
                    && connection.is_quiet()
                {
                    return Ok(connection);
                }
                if state.failures != failures {
                    return Err(PeerError::Connect(state.last_failure.clone()));
                }
                !std::mem::replace(&mut state.connecting, true)
            };
            if begins {
                // Without the lock: a runtime that is going away drops the attempt here, which takes it.
                self.connect();
            }
            changed.await;
        }
    }

    /// Starts connecting. Nobody waits for the task itself: it ends in time, and says how in the route's state.
    fn connect(self: &Arc<Self>) {
        let mut attempt = Attempt { route: Arc::clone(self), outcome: None };
        tokio::spawn(async move {
            let route = Arc::clone(&attempt.route);
            let outcome = route.dialing.connect(route.peer, &route.addresses, route.class).await;
            attempt.came_to(outcome);
        });
    }

    /// Keeps a connection on which no answer is awaited.
    fn put(&self, connection: Connection) {
        self.lock().idle = Some(connection);
        self.changed.notify_waiters();
    }

    /// Asks once. The connection is given up where the answer does not come in time.
    async fn ask(self: &Arc<Self>, request: &Request, wait: Duration) -> Result<Answer, PeerError> {
        let asked = async {
            let mut connection = self.take_in_time().await?;
            let broken = |error| PeerError::Broken(self.peer, error);
            connection.send(request.encode()).await.map_err(broken)?;
            let (mut receiver, _) = connection.halves();
            let frame = receiver.next().await.and_then(|frame| frame.ok_or(io::ErrorKind::UnexpectedEof.into()));
            let answer = Answer::decode(frame.map_err(broken)?);
            let answer = answer.map_err(|error| PeerError::Message(self.peer, error))?;
            self.put(connection);
            match answer {
                Answer::Failed(failure) => Err(PeerError::Failed(self.peer, failure)),
                answer => Ok(answer),
            }
        };
        let answered = timeout(wait, asked).await;
        let answered = answered.unwrap_or(Err(PeerError::Silent(self.peer, wait)));
        if answered.is_err() {
            self.dialing.metrics.count_rpc_error();
        }
        answered
    }
}

type Routes = BTreeMap<(NodeId, Class), Arc<Route>>;

/// Makes openraft's connections to other nodes, and everybody else's.
#[derive(Clone)]
pub struct PeerFactory {
    dialing: Arc<Dialing>,
    routes: Arc<Mutex<Routes>>,
    /// Those of cosignatures, which may wait at the peer while votes go on.
    cosigning: Arc<Mutex<Routes>>,
}

impl PeerFactory {
    /// The network of this node. Connections are made later, on the runtime that uses them.
    pub fn new(own: Own, transport: Transport, dial: Arc<dyn Dial>, limits: Limits, metrics: Arc<PeerMetrics>) -> Self {
        let dialing = Dialing { own, transport, dial, limits, metrics };
        Self { dialing: Arc::new(dialing), routes: Arc::default(), cosigning: Arc::default() }
    }

    /// Asks a node whether it remembers more of this one than this one shows: where it does, that is known to the
    /// standing ([`crate::standing::Standing::told`]) before this returns.
    ///
    /// # Errors
    /// [`ConnectError`]: no answer that counts.
    pub async fn ask(&self, node: NodeId, peer: &Peer) -> Result<(), ConnectError> {
        let addresses: Vec<String> = peer.peer_addresses().map(str::to_owned).collect();
        self.dialing.ask(node, &addresses).await
    }

    /// Segments of another node.
    pub fn segments(&self, node: NodeId, peer: &Peer) -> SegmentClient {
        SegmentClient { route: self.route(node, peer, Class::Segments) }
    }

    /// Asks a node, which may be starting, what its log holds behind `named`: for a node in doubt.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn offer(&self, node: NodeId, peer: &Peer, (named, wanted): (LogId, Wanted)) -> Result<Offer, PeerError> {
        let route = self.route(node, peer, Class::Recovery);
        let wait = match wanted {
            Wanted::Position => self.dialing.limits.handshake + self.dialing.limits.stall,
            Wanted::Entries => OFFER_WAIT,
        };
        match route.ask(&Request::Offer { last: named, wanted }, wait).await? {
            Answer::Offered(offered) if offered.before == named => Ok(offered.offer),
            _ => Err(PeerError::Mismatch(node)),
        }
    }

    /// Signatures of another node, on a connection of their own.
    pub fn cosigner(&self, node: NodeId, peer: &Peer) -> CosignClient {
        CosignClient { route: self.route_among(&self.cosigning, node, peer, Class::Control) }
    }

    fn route(&self, node: NodeId, peer: &Peer, class: Class) -> Arc<Route> {
        self.route_among(&self.routes, node, peer, class)
    }

    /// The way to a node: the one there is, unless the node has moved.
    fn route_among(&self, routes: &Mutex<Routes>, node: NodeId, peer: &Peer, class: Class) -> Arc<Route> {
        let mut routes = routes.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses: Vec<String> = peer.peer_addresses().map(str::to_owned).collect();
        let known = routes.get(&(node, class)).filter(|route| route.addresses == addresses);
        if let Some(route) = known {
            return Arc::clone(route);
        }
        let route = Arc::new(Route {
            dialing: Arc::clone(&self.dialing),
            peer: node,
            addresses,
            class,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        routes.insert((node, class), Arc::clone(&route));
        route
    }

    fn client(&self, node: NodeId, peer: &Peer, stream: Class) -> PeerClient {
        let control = self.route(node, peer, Class::Control);
        PeerClient { stream: self.route(node, peer, stream), control }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerFactory {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        self.client(NodeId::new(target), node, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> PeerClient {
        self.client(NodeId::new(target), node, Class::Control)
    }
}

/// openraft's way to one node.
pub struct PeerClient {
    control: Arc<Route>,
    /// Where appends go: with entries by the log connection, heartbeats by the control connection.
    stream: Arc<Route>,
}

impl PeerClient {
    async fn control(&self, request: &Request, option: &RPCOption) -> Result<Answer, PeerError> {
        self.control.ask(request, option.soft_ttl()).await
    }

    async fn ask_vote(&self, request: &Request, option: &RPCOption) -> Result<VoteResponse<TypeConfig>, PeerError> {
        match self.control(request, option).await? {
            Answer::Voted(voted) => Ok(voted),
            _ => Err(PeerError::Mismatch(self.control.peer)),
        }
    }

    /// How long a stream may stand still while answers are awaited: a follower answers after its flush, so entries
    /// have more time than openraft gives a heartbeat.
    fn stream_wait(&self, option: &RPCOption) -> Duration {
        match self.stream.class {
            Class::Log => option.soft_ttl().max(self.stream.dialing.limits.stall),
            Class::Control | Class::Segments | Class::Recovery => option.soft_ttl(),
        }
    }
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        let [.., last] = BACKOFF_MILLIS;
        Some(Backoff::new(BACKOFF_MILLIS.into_iter().chain(std::iter::repeat(last)).map(Duration::from_millis)))
    }
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.ask_vote(&Request::Vote(rpc), &option).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.ask_vote(&Request::PreVote(rpc), &option).await?)
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.control(&Request::TransferLeader(req), &option).await? {
            Answer::Transferred(transferred) => Ok(transferred),
            _ => Err(PeerError::Mismatch(self.control.peer).into()),
        }
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = ();

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<CommittedLeader, u64, Peer, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let why = "snapshots are sealed segments: a node that lacks them copies them itself";
        Err(StreamingError::Unreachable(Unreachable::from_string(why)))
    }
}

impl NetAppend<TypeConfig> for PeerClient {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let (last, node) = (last_log_id(&rpc), self.stream.peer);
        let input = futures_util::stream::iter([rpc]);
        let mut answers = self.stream_append(input, option).await?;
        match answers.next().await.transpose()? {
            Some(Ok(matching)) if matching != last => Ok(AppendEntriesResponse::PartialSuccess(matching)),
            Some(result) => Ok(result.into()),
            None => Err(PeerError::Mismatch(node).into()),
        }
    }
}

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits between attempts where its stream is asked for the first append, and nowhere else.
            let Some(first) = input.next().await else {
                let none: BoxStream<'s, _> = Box::pin(futures_util::stream::empty());
                return Ok(none);
            };
            let connection = self.stream.take(option.soft_ttl()).await;
            let connection = connection.inspect_err(|_error| self.stream.dialing.metrics.count_rpc_error())?;
            let wait = self.stream_wait(&option);
            let mut stream = AppendStream {
                route: Arc::clone(&self.stream),
                connection,
                input: Some(input),
                sending: None,
                awaited: VecDeque::with_capacity(PIPELINE),
                wait,
                give_up: Instant::now() + wait,
            };
            stream.begin(first);
            let answers = futures_util::stream::unfold(Some(stream), |stream| async move { stream?.next().await });
            let answers: BoxStream<'s, _> = Box::pin(answers);
            Ok(answers)
        })
    }
}

/// What an append that is on its way said.
struct Awaited {
    /// The leader's.
    term: Term,
    before: Option<LogId>,
    last: Option<LogId>,
}

/// Appends on their way, and their answers in order (I-PEER-1).
struct AppendStream<S> {
    route: Arc<Route>,
    connection: Connection,
    /// `None` once nothing more is to be sent.
    input: Option<S>,
    sending: Option<Frame>,
    awaited: VecDeque<Awaited>,
    wait: Duration,
    /// When the peer is taken for gone, while answers are awaited.
    give_up: Instant,
}

type Answered = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// What happened on a stream.
enum Event {
    Input(Option<AppendEntriesRequest<TypeConfig>>),
    Sent(io::Result<()>),
    Received(io::Result<Option<Bytes>>),
    Silence,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> AppendStream<S> {
    /// The next answer, and the stream where there can be another.
    async fn next(mut self) -> Option<(Answered, Option<Self>)> {
        loop {
            if self.input.is_none() && self.awaited.is_empty() {
                self.route.put(self.connection);
                return None;
            }
            match self.event().await {
                Event::Input(None) => self.input = None,
                Event::Input(Some(append)) => self.begin(append),
                Event::Sent(Ok(())) => self.give_up = Instant::now() + self.wait,
                Event::Received(Ok(Some(frame))) => {
                    return match self.answered(frame) {
                        Ok(Ok(matching)) => Some((Ok(Ok(matching)), Some(self))),
                        // What was sent behind a refused append is answered too, but nobody listens any more.
                        Ok(Err(refused)) => {
                            if self.awaited.is_empty() && self.sending.is_none() {
                                self.route.put(self.connection);
                            }
                            Some((Ok(Err(refused)), None))
                        }
                        Err(error) => self.fail(error),
                    };
                }
                Event::Received(Ok(None)) => {
                    let closed = io::ErrorKind::UnexpectedEof.into();
                    let error = PeerError::Broken(self.route.peer, closed);
                    return self.fail(error);
                }
                Event::Sent(Err(error)) | Event::Received(Err(error)) => {
                    let error = PeerError::Broken(self.route.peer, error);
                    return self.fail(error);
                }
                Event::Silence => {
                    let error = PeerError::Silent(self.route.peer, self.wait);
                    return self.fail(error);
                }
            }
        }
    }

    async fn event(&mut self) -> Event {
        let Self { connection, input, sending, awaited, give_up, .. } = self;
        let (mut receiver, mut sender) = connection.halves();
        let (is_sending, is_awaiting) = (sending.is_some(), !awaited.is_empty());
        let may_send = !is_sending && awaited.len() < PIPELINE && input.is_some();
        let next_input = async {
            match input {
                Some(input) => input.next().await,
                None => None,
            }
        };
        tokio::select! {
            received = receiver.next() => Event::Received(received),
            sent = sender.send_some(sending), if is_sending => Event::Sent(sent),
            append = next_input, if may_send => Event::Input(append),
            () = sleep_until(*give_up), if is_awaiting => Event::Silence,
        }
    }

    /// Begins to send an append: as many of its entries as fit, and nothing behind it where these are not all.
    fn begin(&mut self, mut append: AppendEntriesRequest<TypeConfig>) {
        let fit = fitting(&append.entries);
        if fit < append.entries.len() {
            append.entries.truncate(fit);
            self.input = None;
        }
        if self.awaited.is_empty() {
            self.give_up = Instant::now() + self.wait;
        }
        let term = Term::new(append.vote.leader_id.term);
        self.awaited.push_back(Awaited { term, before: append.prev_log_id, last: last_log_id(&append) });
        let flushed = self.route.dialing.own.standing.flushed_in(term);
        self.sending = Some(Request::Append(Append { request: append, flushed }).encode());
    }

    fn answered(&mut self, frame: Bytes) -> Result<StreamAppendResult<TypeConfig>, PeerError> {
        let node = self.route.peer;
        let answer = Answer::decode(frame).map_err(|error| PeerError::Message(node, error))?;
        let awaited = self.awaited.pop_front().ok_or(PeerError::Mismatch(node))?;
        self.give_up = Instant::now() + self.wait;
        match answer {
            Answer::Appended(Ok(matching)) if matching != awaited.last => {
                Err(PeerError::Acknowledgement { node, acknowledged: matching, sent: awaited.last })
            }
            Answer::Appended(Err(StreamAppendError::Conflict(conflict))) if Some(conflict) != awaited.before => {
                Err(PeerError::Mismatch(node))
            }
            Answer::Appended(appended) => {
                if let Ok(Some(matching)) = &appended {
                    // It answers behind its flush, of its vote for this term, too.
                    let marks = self.route.dialing.own.standing.marks();
                    marks.flushed(node, awaited.term, RaftIndex::new(matching.index));
                }
                Ok(appended)
            }
            Answer::Failed(failure) => Err(PeerError::Failed(node, failure)),
            _ => Err(PeerError::Mismatch(node)),
        }
    }

    fn fail(self, error: PeerError) -> Option<(Answered, Option<Self>)> {
        self.route.dialing.metrics.count_rpc_error();
        Some((Err(error.into()), None))
    }
}

/// Sealed segments of another node.
#[derive(Clone)]
pub struct SegmentClient {
    route: Arc<Route>,
}

impl SegmentClient {
    /// Sealed segments from this one on, ascending, as many as one answer takes; none behind the last.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn list(&self, from: SegmentNumber, wait: Duration) -> Result<Vec<SealedSegment>, PeerError> {
        match self.route.ask(&Request::ListSegments { from }, wait).await? {
            Answer::Segments(segments) if segments.first().is_none_or(|first| first.number >= from) => Ok(segments),
            _ => Err(PeerError::Mismatch(self.route.peer)),
        }
    }

    /// A checkpoint that the node has signed or got, and the proof that its tree extends that of so many records.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn vouch(&self, size: TreeSize, wait: Duration) -> Result<Vouched, PeerError> {
        match self.route.ask(&Request::Vouch { size }, wait).await? {
            Answer::Vouched(vouched) => Ok(vouched),
            _ => Err(PeerError::Mismatch(self.route.peer)),
        }
    }

    /// Bytes of a sealed file: `len` of them, fewer only at its end. At most [`MAX_READ_BYTES`] are asked for.
    ///
    /// [`MAX_READ_BYTES`]: super::segments::MAX_READ_BYTES
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn read(&self, file: SegmentFile, place: Place, wait: Duration) -> Result<Bytes, PeerError> {
        let Place { offset, len } = place;
        match self.route.ask(&Request::ReadSegment { file, offset, len }, wait).await? {
            Answer::Bytes(bytes) if bytes.len() <= usize::try_from(len).unwrap_or(usize::MAX) => Ok(bytes),
            _ => Err(PeerError::Mismatch(self.route.peer)),
        }
    }
}

/// Signatures of another node.
pub struct CosignClient {
    route: Arc<Route>,
}

impl CosignClient {
    /// Asks for a signature; waits for the answer as long as the node may wait, and `more`.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn cosign(&self, request: CosignRequest, more: Duration) -> Result<Cosigned, PeerError> {
        match self.route.ask(&Request::Cosign(request), request.wait + more).await? {
            Answer::Cosigned(cosigned) => Ok(cosigned),
            _ => Err(PeerError::Mismatch(self.route.peer)),
        }
    }
}

/// A place in a file of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The first byte.
    pub offset: u64,
    /// How many, 1 to [`MAX_READ_BYTES`](super::segments::MAX_READ_BYTES).
    pub len: u32,
}
