//! Peers that meet, and those that must not; streams of appends, and what holds them up.

#![allow(clippy::unwrap_used, reason = "a test")]

mod peer_fixture;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::RaftNetworkFactory;
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::network::{NetStreamAppend, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::vote::RaftVote;
use peer_fixture::{Authority, CLUSTER, LONG, batch, local, no_segments, own, peer};
use stele_engine::number::{NodeId, RaftIndex, Term};
use stele_raft::entry::{CommittedLeader, Entry, LogId, Payload, Peer, TypeConfig, Vote, log_id};
use stele_raft::peer::client::{PIPELINE, PeerClient, PeerFactory};
use stele_raft::peer::cosign::NoCosigner;
use stele_raft::peer::entries::MAX_ENTRIES;
use stele_raft::peer::metrics::{PeerMetrics, Refused};
use stele_raft::peer::server::{Admission, PeerServer, RaftHandle, Served, Stopped, Unbounded};
use stele_raft::peer::transport::{BoxSocket, Dial, Listen, PeerTls, Tcp, TlsError, Transport};
use stele_raft::peer::{ClusterId, Limits, Local};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// What a test can make a node do.
#[derive(Clone)]
struct Script {
    /// One permit for every append that is answered.
    answers: Arc<Semaphore>,
    /// The append at this index conflicts.
    conflict: Option<u64>,
    /// So many entries too many are acknowledged.
    beyond: u64,
    received: Arc<Mutex<Vec<u64>>>,
    running: Arc<AtomicUsize>,
}

impl Default for Script {
    fn default() -> Self {
        let answers = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { answers, conflict: None, beyond: 0, received: Arc::default(), running: Arc::default() }
    }
}

fn last(append: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    append.entries.last().map_or(append.prev_log_id, |last| Some(LogId::new(last.leader, last.index.get())))
}

impl RaftHandle for Script {
    fn stream_append(
        &self,
        appends: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Stopped>> {
        let script = self.clone();
        script.running.fetch_add(1, Ordering::Relaxed);
        Box::pin(appends.then(move |append| {
            let script = script.clone();
            async move {
                script.received.lock().unwrap().push(last(&append).unwrap().index);
                script.answers.acquire().await.unwrap().forget();
                Ok(match append.prev_log_id {
                    Some(before) if Some(before.index + 1) == script.conflict => {
                        Err(StreamAppendError::Conflict(before))
                    }
                    _ => Ok(last(&append).map(|id| LogId::new(id.leader_id, id.index + script.beyond))),
                })
            }
        }))
    }

    async fn heartbeat(
        &self,
        _heartbeat: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Stopped> {
        Ok(AppendEntriesResponse::Success)
    }

    async fn vote(&self, vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
        Ok(VoteResponse::new(vote.vote, None, true))
    }

    async fn pre_vote(&self, vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
        Ok(VoteResponse::new(vote.vote, None, false))
    }

    async fn transfer_leader(
        &self,
        _transfer: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Stopped> {
        Ok(Ok(()))
    }
}

/// Connections within the process: with it, time is the test's.
struct Pipe(mpsc::UnboundedSender<DuplexStream>);

struct PipeEnd(mpsc::UnboundedReceiver<DuplexStream>);

fn pipe() -> (Arc<Pipe>, PipeEnd) {
    let (near, far) = mpsc::unbounded_channel();
    (Arc::new(Pipe(near)), PipeEnd(far))
}

impl Pipe {
    fn open(&self) -> DuplexStream {
        let (near, far) = duplex(1 << 16);
        self.0.send(far).unwrap();
        near
    }
}

impl Dial for Pipe {
    fn dial<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<BoxSocket>> {
        Box::pin(async move { Ok(Box::new(self.open()) as BoxSocket) })
    }
}

impl Listen for PipeEnd {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxSocket>> {
        Box::pin(async move {
            match self.0.recv().await {
                Some(socket) => Ok(Box::new(socket) as BoxSocket),
                None => std::future::pending().await,
            }
        })
    }
}

/// Node 2, which is being served.
struct Serving {
    metrics: Arc<PeerMetrics>,
    script: Script,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    fn start(listener: impl Listen, transport: Transport, script: Script, admission: Arc<dyn Admission>) -> Self {
        let metrics = Arc::new(PeerMetrics::default());
        let served =
            Served { raft: script.clone(), admission, segments: no_segments(), cosigner: Arc::new(NoCosigner) };
        let server = PeerServer::new(own(local(2)), transport, served, limits(), Arc::clone(&metrics));
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(listener, stop.clone()));
        Self { metrics, script, stop, task }
    }

    fn plain(listener: impl Listen, script: Script) -> Self {
        Self::start(listener, Transport::Plain, script, Arc::new(Unbounded))
    }

    /// Waits until so many were refused for this reason.
    async fn refused(&self, reason: Refused, count: u64) {
        until(|| self.metrics.refused(reason) == count, &format!("{reason:?} is counted")).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        assert_eq!(self.metrics.connections(), 0);
    }
}

/// Waits for what other tasks do, where nothing else tells of it.
async fn until(condition: impl Fn() -> bool, what: &str) {
    for _ in 0..20_000_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

fn limits() -> Limits {
    Limits { connections: 4, ..Limits::default() }
}

fn option() -> RPCOption {
    RPCOption::new(LONG)
}

fn factory(local: Local, transport: Transport, dial: Arc<dyn Dial>) -> PeerFactory {
    PeerFactory::new(own(local), transport, dial, limits(), Arc::new(PeerMetrics::default()))
}

fn vote(node: u64) -> Vote {
    Vote::from_leader_id(openraft::impls::leader_id_std::LeaderId { term: 3, voted_for: node }, true)
}

/// What a candidate asks votes with.
fn ballot(node: u64) -> Vote {
    Vote { committed: false, ..vote(node) }
}

/// Asks node 2 for a vote.
async fn ask(local: Local, transport: Transport, dial: Arc<dyn Dial>, at: &Peer) -> Result<(), String> {
    let mut client = factory(local, transport, dial).new_client(2, at).await;
    let voted = client.vote(VoteRequest::new(ballot(local.node.get()), None), option()).await;
    let voted = voted.map_err(|error| error.to_string())?;
    assert!(voted.vote_granted);
    let before = client.pre_vote(VoteRequest::new(ballot(local.node.get()), None), option()).await.unwrap();
    assert!(!before.vote_granted, "a pre-vote is not granted where the node does not grant it");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_or_for_another_node_is_refused_and_told_why() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script::default());
    ask(local(1), Transport::Plain, dial.clone(), &peer("here")).await.unwrap();

    let stranger = Local { cluster: ClusterId::new([8; 32]), ..local(1) };
    let error = ask(stranger, Transport::Plain, dial.clone(), &peer("here")).await.unwrap_err();
    assert!(error.contains("it belongs to another cluster"), "{error}");
    serving.refused(Refused::Cluster, 1).await;

    let mut client = factory(local(1), Transport::Plain, dial).new_client(3, &peer("here")).await;
    let error = client.vote(VoteRequest::new(ballot(1), None), option()).await.unwrap_err().to_string();
    assert!(error.contains("node 3 at here refuses: it is node 2"), "{error}");
    serving.refused(Refused::Node, 1).await;
    serving.stop().await;
}

async fn tls_server(authority: &Authority, node: u64) -> (Serving, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = peer(listener.local_addr().unwrap());
    let transport = Transport::Tls(authority.tls(node));
    (Serving::start(listener, transport, Script::default(), Arc::new(Unbounded)), address)
}

async fn ask_tls(tls: PeerTls, at: &Peer) -> Result<(), String> {
    ask(local(1), Transport::Tls(tls), Arc::new(Tcp), at).await
}

#[tokio::test]
async fn nodes_meet_by_the_certificates_of_their_names_only() {
    let authority = Authority::new();
    let (serving, at) = tls_server(&authority, 2).await;
    ask_tls(authority.tls(1), &at).await.unwrap();

    // It says it is node 1, and its certificate says node 3.
    let error = ask_tls(authority.tls(3), &at).await.unwrap_err();
    assert!(error.contains("the certificate shown to it is not this node's"), "{error}");
    serving.refused(Refused::Certificate, 1).await;

    // Nobody here vouches for it, and it vouches for nobody here.
    ask_tls(Authority::new().tls(1), &at).await.unwrap_err();
    serving.refused(Refused::Tls, 1).await;
    serving.stop().await;

    // Who answers for node 2 has the certificate of node 3.
    let (impostor, at) = tls_server(&authority, 3).await;
    let error = ask_tls(authority.tls(1), &at).await.unwrap_err();
    assert!(error.contains("node-2.stele"), "{error}");
    impostor.refused(Refused::Tls, 1).await;
    impostor.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_node_is_not_taken_for_ones_own() {
    let (authority, directory) = (Authority::new(), tempfile::tempdir().unwrap());
    let files = authority.files(1, directory.path());
    assert!(matches!(PeerTls::from_files(NodeId::new(2), &files), Err(TlsError::NotThisNode(_))));
    assert!(PeerTls::from_files(NodeId::new(1), &files).is_ok());
}

#[tokio::test]
async fn plain_and_tls_do_not_mix() {
    let authority = Authority::new();
    let (serving, at) = tls_server(&authority, 2).await;
    ask(local(1), Transport::Plain, Arc::new(Tcp), &at).await.unwrap_err();
    serving.refused(Refused::Tls, 1).await;
    serving.stop().await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = peer(listener.local_addr().unwrap());
    let serving = Serving::plain(listener, Script::default());
    ask_tls(authority.tls(1), &at).await.unwrap_err();
    serving.refused(Refused::Garbage, 1).await;
    serving.stop().await;
}

#[tokio::test]
async fn the_next_address_is_tried_where_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let open = listener.local_addr().unwrap();
    let at = Peer { addresses: vec![closed.to_string(), format!("localhost:{}", open.port())], ..Peer::default() };
    let serving = Serving::plain(listener, Script::default());
    ask(local(1), Transport::Plain, Arc::new(Tcp), &at).await.unwrap();
    serving.stop().await;
}

/// A hello of node 1 to node 2, as it crosses the wire.
fn hello(class: u8) -> Vec<u8> {
    let mut hello = b"\x50\0\0\0STELPEER\x02\0".to_vec();
    hello.push(class);
    hello.extend(CLUSTER.as_bytes());
    hello.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    // Running, in its third incarnation, with a vote of term 2 and five entries.
    hello.extend([1, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    hello
}

/// Says this, and hears until the other end closes.
async fn say(pipe: &Pipe, bytes: &[u8]) -> Vec<u8> {
    let mut socket = pipe.open();
    // It may be closed before it has heard all.
    let said = socket.write_all(bytes).await;
    let mut heard = Vec::new();
    with_timeout(socket.read_to_end(&mut heard)).await.unwrap();
    drop(said);
    heard
}

#[tokio::test(start_paused = true)]
async fn garbage_is_closed_and_counted_and_disturbs_nobody() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script::default());
    let mut version = hello(1);
    version[12] = 9;
    let samples: [(&[u8], Refused, usize); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", Refused::Garbage, 0),
        (&u32::MAX.to_le_bytes(), Refused::Garbage, 0),
        (&[0; 4], Refused::Garbage, 0),
        (b"", Refused::Late, 0),
        (&hello(7), Refused::Class, 23),
        (&version, Refused::Version, 23),
    ];
    let mut garbage = 0;
    for (bytes, reason, answer) in samples {
        assert_eq!(say(&dial, bytes).await.len(), answer, "{bytes:?}");
        garbage += u64::from(reason == Refused::Garbage);
        serving.refused(reason, if reason == Refused::Garbage { garbage } else { 1 }).await;
    }
    // Half a hello, and then nothing.
    say(&dial, &hello(1)[..30]).await;
    serving.refused(Refused::Late, 2).await;
    ask(local(1), Transport::Plain, dial, &peer("here")).await.unwrap();
    assert_eq!(serving.metrics.broken(), 0);
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script::default());
    // Each is larger than its connection allows, or no message of it.
    let samples: [(u8, &[u8]); 5] = [
        (1, &[0xff; 8]),
        (2, &65u32.to_le_bytes()),
        (3, &65u32.to_le_bytes()),
        (1, b"\x01\0\0\0\x02"),
        (2, b"\0\0\0\0"),
    ];
    for ((class, bytes), broken) in samples.into_iter().zip(1..) {
        assert_eq!(say(&dial, &[&hello(class)[..], bytes].concat()).await.len(), 44);
        until(|| serving.metrics.broken() == broken, "a broken connection is counted").await;
    }
    ask(local(1), Transport::Plain, dial, &peer("here")).await.unwrap();
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_connections_than_may_be_are_closed() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script::default());
    let mut held: Vec<DuplexStream> = Vec::new();
    for _ in 0..limits().connections {
        let mut socket = dial.open();
        socket.write_all(&hello(2)).await.unwrap();
        socket.read_exact(&mut [0; 44]).await.unwrap();
        held.push(socket);
    }
    assert_eq!(say(&dial, b"").await.len(), 0);
    serving.refused(Refused::Full, 1).await;
    held.pop();
    let room = limits().connections as u64 - 1;
    until(|| serving.metrics.connections() == room, "one has ended").await;
    ask(local(1), Transport::Plain, dial, &peer("here")).await.unwrap();
    serving.stop().await;
}

/// Appends of one entry each, behind the entry before `first`.
fn appends(first: u64, count: u64) -> Vec<AppendEntriesRequest<TypeConfig>> {
    let append = |index: u64| {
        let proposal = batch(3, 2, 1000);
        let payload = Payload::blank().with_normal(proposal);
        AppendEntriesRequest {
            vote: vote(1),
            prev_log_id: Some(log_id(Term::new(3), RaftIndex::new(index - 1))),
            entries: vec![Entry { leader: CommittedLeader::new(3), index: RaftIndex::new(index), payload }],
            leader_commit: None,
        }
    };
    (first..first + count).map(append).collect()
}

/// What is answered to these appends, by index; an error ends it.
async fn stream(client: &mut PeerClient, appends: Vec<AppendEntriesRequest<TypeConfig>>) -> Vec<Result<u64, String>> {
    let answers = client.stream_append(futures_util::stream::iter(appends), option()).await.unwrap();
    let told = |answer: Result<StreamAppendResult<TypeConfig>, openraft::errors::RPCError<TypeConfig>>| match answer {
        Ok(Ok(matching)) => Ok(matching.unwrap().index),
        Ok(Err(refused)) => Err(refused.to_string()),
        Err(error) => Err(error.to_string()),
    };
    answers.map(told).collect().await
}

async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn appends_are_answered_in_order_and_so_many_are_on_their_way_at_once() {
    let (dial, listener) = pipe();
    let script = Script { answers: Arc::new(Semaphore::new(0)), ..Script::default() };
    let serving = Serving::plain(listener, script);
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let input = futures_util::stream::iter(appends(5, 30)).inspect(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let mut answers = client.stream_append(input, option()).await.unwrap();
    // As far as it goes without an answer, and long before the peer is taken for gone.
    assert!(tokio::time::timeout(Duration::from_millis(10), answers.next()).await.is_err());
    assert_eq!(taken.load(Ordering::Relaxed), PIPELINE);
    serving.script.answers.add_permits(30);
    for index in 5..35 {
        assert_eq!(answers.next().await.unwrap().unwrap().unwrap().unwrap().index, index);
    }
    assert!(answers.next().await.is_none());
    assert_eq!(*serving.script.received.lock().unwrap(), (5..35).collect::<Vec<u64>>());
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_after_a_conflict_on_the_connection_it_had() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script { conflict: Some(9), ..Script::default() });
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    let conflict = stream(&mut client, appends(9, 1)).await;
    assert_eq!(conflict, [Err("Conflict(3.8)".to_owned())]);
    assert_eq!(stream(&mut client, appends(6, 2)).await, [Ok(6), Ok(7)]);
    assert_eq!(serving.metrics.connections(), 1);
    // Two streams: one ended by the conflict, one behind it.
    assert_eq!(serving.script.running.load(Ordering::Relaxed), 2);
    // What is on its way behind a conflict is given up with the connection.
    assert_eq!(stream(&mut client, appends(8, 5)).await, [Ok(8), Err("Conflict(3.8)".to_owned())]);
    assert_eq!(stream(&mut client, appends(10, 1)).await, [Ok(10)]);
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_of_more_than_was_sent_is_none() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script { beyond: 1, ..Script::default() });
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    let answered = stream(&mut client, appends(5, 3)).await;
    assert!(matches!(&answered[..], [Err(error)] if error.contains("acknowledges")), "{answered:?}");
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_an_append_that_is_too_long_the_beginning_is_sent_and_nothing_behind_it() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script::default());
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    let mut long = appends(5, 2);
    let blank = |index| Entry::new(LogId::new(CommittedLeader::new(3), index), Payload::blank());
    long[0].entries = (5..6 + MAX_ENTRIES as u64).map(blank).collect();
    assert_eq!(stream(&mut client, long).await, [Ok(4 + MAX_ENTRIES as u64)]);
    assert_eq!(stream(&mut client, appends(5, 1)).await, [Ok(5)]);
    assert_eq!(serving.metrics.connections(), 1);
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_noticed_while_answers_are_awaited_and_not_before() {
    let (dial, listener) = pipe();
    let serving = Serving::plain(listener, Script { answers: Arc::new(Semaphore::new(1)), ..Script::default() });
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    // Nothing to say for an hour, then an append that is answered, then one that is not.
    let mut appends = appends(5, 2).into_iter();
    let input = futures_util::stream::unfold(appends.next().zip(appends.next()), |pair| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        pair.map(|(first, second)| (first, Some((second.clone(), second))))
    });
    let input = Box::pin(input.take(2));
    let option = RPCOption::new(Duration::from_millis(200));
    let mut answers = client.stream_append(input, option).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().unwrap().unwrap().index, 5);
    let began = tokio::time::Instant::now();
    let error = answers.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("did not answer within"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 3600 + limits().stall.as_secs());
    assert!(answers.next().await.is_none());
    serving.stop().await;
}

/// Lets in as many as it is told.
struct Gate(Semaphore);

impl Admission for Gate {
    fn admit(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.0.acquire().await.unwrap().forget() })
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_without_room_reads_no_more_and_still_answers_heartbeats() {
    let (dial, listener) = pipe();
    let gate = Arc::new(Gate(Semaphore::new(1)));
    let serving = Serving::start(listener, Transport::Plain, Script::default(), gate.clone());
    let mut network = factory(local(1), Transport::Plain, dial);
    let mut client = network.new_client(2, &peer("here")).await;
    let mut heartbeats = network.new_heartbeat_client(2, &peer("here")).await;
    let mut answers = client.stream_append(futures_util::stream::iter(appends(5, 20)), option()).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().unwrap().unwrap().index, 5);
    let read_on = tokio::time::timeout(Duration::from_millis(10), answers.next()).await;
    assert!(read_on.is_err());
    assert_eq!(*serving.script.received.lock().unwrap(), [5]);
    let read = serving.metrics.bytes_in();
    let heartbeat = AppendEntriesRequest { entries: Vec::new(), ..appends(6, 1).remove(0) };
    assert_eq!(stream(&mut heartbeats, vec![heartbeat]).await, [Ok(5)]);
    // Of the eight on their way, the first was let in and the second is held: no other was read.
    assert!(read < 3 * 2500, "{read} bytes were read");
    gate.0.add_permits(100);
    for index in 6..25 {
        assert_eq!(with_timeout(answers.next()).await.unwrap().unwrap().unwrap().unwrap().index, index);
    }
    drop(answers);
    serving.stop().await;
}

#[tokio::test]
async fn a_node_that_went_away_and_came_back_is_reached_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Serving::plain(listener, Script::default());
    let mut network = factory(local(1), Transport::Plain, Arc::new(Tcp));
    let mut client = network.new_client(2, &peer(address)).await;
    let request = || VoteRequest::new(ballot(1), None);
    client.vote(request(), option()).await.unwrap();
    serving.stop().await;
    // Nobody is there; the connection that was kept is not mistaken for one.
    let error = client.vote(request(), option()).await.unwrap_err();
    assert!(matches!(error, openraft::errors::RPCError::Unreachable(_)), "{error}");
    let serving = Serving::plain(TcpListener::bind(address).await.unwrap(), Script::default());
    client.vote(request(), option()).await.unwrap();
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_gives_up_in_time_where_nobody_greets() {
    let (dial, _listener) = pipe();
    let mut client = factory(local(1), Transport::Plain, dial).new_client(2, &peer("here")).await;
    let began = tokio::time::Instant::now();
    let option = RPCOption::new(Duration::from_millis(200));
    client.vote(VoteRequest::new(ballot(1), None), option).await.unwrap_err();
    assert_eq!(began.elapsed().as_millis(), 150);
}

#[tokio::test]
async fn a_certificate_is_asked_for_before_anything_is_said() {
    let authority = Authority::new();
    let (serving, at) = tls_server(&authority, 2).await;
    let mut socket = TcpStream::connect(&at.addresses[0]).await.unwrap();
    socket.write_all(&hello(1)).await.unwrap();
    let mut heard = Vec::new();
    // A TLS alert, or a reset.
    if socket.read_to_end(&mut heard).await.is_ok() {
        assert!(!heard.windows(8).any(|window| window == b"STELPEER"));
    }
    serving.refused(Refused::Tls, 1).await;
    serving.stop().await;
}
