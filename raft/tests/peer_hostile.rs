//! A peer that has been let in and says what no node of this software says: it loses its connection, and whatever it
//! says, nobody panics, and the node goes on.
//!
//! Messages are made from the tables of `peer::message`, of fields that are right more often than not. Not tried: a leader
//! that lies about which entries there are (the id of an entry with a lower term and a higher index than one that is
//! there, other entries in the place of committed ones, batches whose records are none). Raft believes an elected leader; openraft's assertions, or the
//! store, stop a node that is told so, and what it holds stays as it is.
//!
//! `STELE_HOSTILE_MESSAGES=100000` sends so many.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it did")]

mod peer_fixture;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use peer_fixture::{CLUSTER, batch, local, own};
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::local::SealSettings;
use stele_engine::membership::{Membership, Node as Member};
use stele_engine::number::{Alignment, BlockHeight, NodeId, SiteName};
use stele_engine::reserved::{Genesis, LogId};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_raft::node::{Begin, Birth, Node, NodeSettings};
use stele_raft::peer::Limits;
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::cosign::NoCosigner;
use stele_raft::peer::metrics::PeerMetrics;
use stele_raft::peer::segments::SealedFiles;
use stele_raft::peer::server::{PeerServer, Served, Unbounded};
use stele_raft::peer::transport::{Tcp, Transport};
use stele_simulator::random::SplitMix64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const ORIGIN: &str = "example.com/hostile";
const PATIENCE: Duration = Duration::from_secs(30);
/// The node that is spoken to, and the one that speaks.
const NODE: u64 = 1;
const PEER: u64 = 2;

fn birth() -> Birth {
    let node = |id| Member {
        id: NodeId::new(id),
        site: SiteName::new(&format!("site-{id}")).unwrap(),
        // Nobody listens there: the node never leads.
        addresses: vec!["127.0.0.1:1".to_owned()],
        keys: Vec::new(),
    };
    let membership = Membership {
        token: [7; 32],
        voters: vec![(1..=3).map(NodeId::new).collect()],
        nodes: (1..=3).map(node).collect(),
    };
    let key = SigningKey::from_seed(KeyName::new(ORIGIN).unwrap(), KeyKind::Ed25519, [1; 32]);
    let log_key = key.verifier_key().to_string();
    let genesis = Genesis {
        format: 1,
        origin: ORIGIN.to_owned(),
        log_id: LogId::new([9; 32]),
        block_height: BlockHeight::new(8).unwrap(),
        frame_align: Alignment::PAGE,
        policy: format!("log {log_key}\nquorum none\n"),
        log_keys: vec![log_key],
    };
    Birth { membership, genesis }
}

/// A node and who serves its peers.
struct Target {
    node: Node,
    metrics: Arc<PeerMetrics>,
    address: SocketAddr,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let (directory, environment) = (tempfile::tempdir().unwrap(), Environment::system());
        let path = directory.path().join("log");
        let (block_height, frame_align) = (BlockHeight::new(8).unwrap(), Alignment::PAGE);
        let options = MemberOptions { node: NodeId::new(NODE), block_height, frame_align };
        create_member(&environment, &path, &options).unwrap();
        let (limits, metrics) = (Limits::default(), Arc::new(PeerMetrics::default()));
        let network = PeerFactory::new(own(local(NODE)), Transport::Plain, Arc::new(Tcp), limits, Arc::clone(&metrics));
        let settings = NodeSettings { seal: SealSettings::default(), ..NodeSettings::default() };
        let node = Node::start(&environment, &path, settings, &Begin::Cluster(birth()), network).await.unwrap();
        let segments = Arc::new(SealedFiles::new(Arc::clone(&environment.disk), LogDirectory::new(&path)));
        let served = Served {
            raft: node.raft().clone(),
            admission: Arc::new(Unbounded),
            segments,
            cosigner: Arc::new(NoCosigner),
        };
        let server = PeerServer::new(own(local(NODE)), Transport::Plain, served, limits, Arc::clone(&metrics));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(listener, stop.clone()));
        Self { node, metrics, address, stop, serving, _directory: directory }
    }

    async fn connect(&self, class: u8) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let mut hello = b"\x50\0\0\0STELPEER\x02\0".to_vec();
        hello.push(class);
        hello.extend(CLUSTER.as_bytes());
        hello.extend(PEER.to_le_bytes());
        hello.extend(NODE.to_le_bytes());
        // What it shows: it runs, in its first start, has voted in term 0 and holds nothing.
        hello.push(1);
        hello.extend(1_u32.to_le_bytes());
        hello.extend([0; 16]);
        socket.write_all(&hello).await.unwrap();
        let mut greeting = [0; 44];
        timeout(PATIENCE, socket.read_exact(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(greeting[14], 0, "welcome");
        socket
    }

    /// Says one thing; the type of the answer, or nothing where the connection was closed.
    async fn say(&self, class: u8, message: &[u8]) -> Option<u8> {
        let mut socket = self.connect(class).await;
        socket.write_all(&u32::try_from(message.len()).unwrap().to_le_bytes()).await.unwrap();
        // It may be closed before it has heard all.
        drop(socket.write_all(message).await);
        let mut head = [0; 5];
        let heard = timeout(PATIENCE, socket.read_exact(&mut head)).await;
        heard.unwrap_or_else(|_elapsed| panic!("no answer and no end: {message:02x?}")).ok().map(|_| head[4])
    }

    /// Term and index of its last entry.
    fn last(&self) -> (u64, u64) {
        let tail = self.node.replica().lock().store().tail();
        (tail.last_term.get(), tail.next_index.get() - 1)
    }

    #[track_caller]
    fn check(&self, after: &[u8]) {
        let state = self.node.raft().metrics().borrow_watched().running_state.clone();
        assert!(state.is_ok(), "{state:?} after {after:02x?}");
    }

    async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.node.stop().await.unwrap();
    }
}

fn vote(term: u64, node: u64, committed: u8) -> Vec<u8> {
    [&term.to_le_bytes()[..], &node.to_le_bytes(), &[committed]].concat()
}

fn log_id(id: Option<(u64, u64)>) -> Vec<u8> {
    let (term, index) = id.unwrap_or_default();
    [&[u8::from(id.is_some())][..], &term.to_le_bytes(), &index.to_le_bytes()].concat()
}

/// An append of these entries: kind, term, body, slots.
fn append(vote: &[u8], before: &[u8], commit: &[u8], entries: &[(u8, u64, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let flushed = 5_u64.to_le_bytes();
    let count = u32::try_from(entries.len()).unwrap().to_le_bytes();
    let mut message = [&[1][..], vote, before, commit, &flushed, &count].concat();
    for (kind, term, body, slots) in entries {
        message.push(*kind);
        message.extend(term.to_le_bytes());
        message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        message.extend(u32::try_from(slots.len()).unwrap().to_le_bytes());
    }
    for (_, _, body, slots) in entries {
        message.extend(body);
        message.extend(slots);
    }
    message
}

/// The answer of a node whose consensus has stopped; nothing else fails here.
const FAILED: u8 = 0xff;

/// A batch of the structure that a log takes. Its records are none, which is looked at when it is applied; there it is
/// void, for its first leaf is not the next one.
fn batch_body(term: u64) -> (Vec<u8>, Vec<u8>) {
    let proposal = batch(term, 2, 50);
    let mut body = proposal.body.to_vec();
    body[8..16].copy_from_slice(&7_u64.to_le_bytes());
    (body, proposal.payload.to_vec())
}

const BLANK: u8 = 1;

fn kinds() -> Vec<u8> {
    use stele_engine::frame::EntryKind;
    (0..=u8::MAX).filter(|kind| EntryKind::from_number(*kind).is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_speaks_for_others_or_sends_what_no_log_holds_loses_its_connection() {
    let target = Target::start().await;
    let (own, none) = (vote(9, PEER, 1), log_id(None));
    let before = log_id(Some((0, 0)));
    let blank = |term: u64| (BLANK, term, Vec::new(), Vec::new());
    let (body, slots) = batch_body(9);
    let batch_kind = stele_engine::frame::EntryKind::Batch.number();
    let torn = body[..body.len() - 1].to_vec();
    let refused: Vec<(u8, Vec<u8>)> = vec![
        // An uncommitted vote does not lead; nobody leads in another's name, or in the name of who is told.
        (1, append(&vote(9, PEER, 0), &before, &none, &[blank(9)])),
        (1, append(&vote(9, 3, 1), &before, &none, &[blank(9)])),
        (1, append(&vote(9, NODE, 1), &before, &none, &[blank(9)])),
        (2, append(&vote(9, NODE, 1), &before, &none, &[])),
        (2, append(&own, &before, &none, &[blank(9)])),
        (2, [&[2][..], &vote(9, PEER, 1), &none, &[0]].concat()),
        (2, [&[2][..], &vote(9, NODE, 0), &none, &[0]].concat()),
        (2, [&[3][..], &vote(9, 3, 0), &none, &[1]].concat()),
        (2, [&[4][..], &vote(9, 3, 1), &NODE.to_le_bytes(), &none].concat()),
        // Entries.
        (1, append(&own, &before, &none, &[blank(10)])),
        (1, append(&own, &log_id(Some((9, 5))), &none, &[blank(8)])),
        (1, append(&own, &before, &none, &[(batch_kind, 9, torn, slots.clone())])),
        (1, append(&own, &before, &none, &[(batch_kind, 9, body.clone(), slots[1..].to_vec())])),
        (1, append(&own, &before, &none, &[(batch_kind, 9, body.clone(), Vec::new())])),
        (1, append(&own, &before, &none, &[(BLANK, 9, vec![0], Vec::new())])),
        (1, append(&own, &before, &none, &[(0xee, 9, Vec::new(), Vec::new())])),
    ];
    for (broken, (class, message)) in (1..).zip(&refused) {
        assert_eq!(target.say(*class, message).await, None, "{message:02x?}");
        target.check(message);
        assert_eq!(target.metrics.broken(), broken, "a broken connection is counted: {message:02x?}");
    }
    // What a leader says is taken.
    assert_eq!(target.say(1, &append(&own, &before, &none, &[blank(9)])).await, Some(0x81));
    assert_eq!(target.node.raft().metrics().borrow_watched().current_leader, Some(PEER));
    target.stop().await;
}

/// Now and then.
fn rarely(random: &mut SplitMix64) -> bool {
    random.below(12) == 0
}

/// The id of the node's last entry, or of one that it does not have.
fn some_id(random: &mut SplitMix64, last: (u64, u64)) -> Vec<u8> {
    match random.below(12) {
        0 => log_id(Some((last.0 + random.below(3), last.1 + 1 + random.below(3)))),
        1 => log_id(Some((last.0 + 1, 1 << 61))),
        _ => log_id(Some(last)),
    }
}

fn entry(random: &mut SplitMix64, term: u64, kinds: &[u8]) -> (u8, u64, Vec<u8>, Vec<u8>) {
    use stele_engine::frame::EntryKind;
    let term = if rarely(random) { term + random.below(3) } else { term };
    let (kind, body, slots) = match random.below(4) {
        0 => (EntryKind::Blank, Vec::new(), Vec::new()),
        1 => (EntryKind::Seal, random.below(3).to_le_bytes().to_vec(), Vec::new()),
        2 => (EntryKind::Membership, birth().membership.encode(), Vec::new()),
        _ => {
            let (body, slots) = batch_body(term);
            (EntryKind::Batch, body, slots)
        }
    };
    let kind = if rarely(random) { *random.pick(kinds) } else { kind.number() };
    (kind, term, body, slots)
}

/// A message whose fields are often right.
fn hostile(random: &mut SplitMix64, kinds: &[u8], last: (u64, u64)) -> (u8, Vec<u8>) {
    // Mostly a leader that may be followed.
    let term = if rarely(random) { random.below(last.0 + 1) } else { last.0 + random.below(2) };
    let who = if rarely(random) { *random.pick(&[NODE, 3, 99]) } else { PEER };
    let leads = u8::from(!rarely(random));
    let (mut class, mut message) = match random.below(8) {
        0 => (2, [&[2][..], &vote(term, who, 1 - leads), &some_id(random, last), &[1 - leads]].concat()),
        1 => (2, [&[3][..], &vote(term, who, 1 - leads), &some_id(random, last), &[0]].concat()),
        2 => (
            2,
            [&[4][..], &vote(term, who, leads), &(1 + random.below(3)).to_le_bytes(), &some_id(random, last)].concat(),
        ),
        3 => (3, [&[5][..], &random.below(4).to_le_bytes()].concat()),
        4 => (2, append(&vote(term, who, leads), &some_id(random, last), &some_id(random, last), &[])),
        _ => {
            let (before, commit) = (some_id(random, last), some_id(random, last));
            let entries: Vec<_> = (0..random.below(3)).map(|_| entry(random, term, kinds)).collect();
            (1, append(&vote(term, who, leads), &before, &commit, &entries))
        }
    };
    if rarely(random) {
        class = 1 + u8::try_from(random.below(3)).unwrap();
    }
    // Behind the ids of entries.
    if rarely(random) && message.len() > 52 {
        let at = 52 + usize::try_from(random.below(message.len() as u64 - 52)).unwrap();
        message[at] ^= 1 << random.below(8);
    }
    (class, message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_of_a_peer_makes_a_node_panic_or_wait_for_ever() {
    let asked = std::env::var("STELE_HOSTILE_MESSAGES").map_or(200, |text| text.parse().unwrap());
    let (mut random, kinds) = (SplitMix64::new(11), kinds());
    let (target, mut answered, mut closed) = (Target::start().await, 0, 0);
    for _ in 0..asked {
        let (class, message) = hostile(&mut random, &kinds, target.last());
        match target.say(class, &message).await {
            Some(FAILED) => panic!("the node has stopped after {message:02x?}"),
            Some(_) => answered += 1,
            None => closed += 1,
        }
        target.check(&message);
    }
    println!("{answered} were answered, {closed} closed");
    assert!(answered > asked / 5 && closed > asked / 5, "{answered} answered, {closed} closed");
    target.stop().await;
}
