//! Three nodes with logs on disk, over TCP and TLS.

#![allow(clippy::unwrap_used, reason = "a test")]

mod peer_fixture;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use openraft::{Config, Raft, RaftLogReader, ServerState, SnapshotPolicy};
use peer_fixture::{Authority, LONG, Machine, batch, local, no_segments, own, peer};
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::environment::Environment;
use stele_engine::frame::Tail;
use stele_engine::hard_state::read_hard_state;
use stele_engine::number::{Alignment, BlockHeight, NodeId};
use stele_engine::store::SegmentStore;
use stele_raft::entry::{Entry, Peer, Proposal, TypeConfig};
use stele_raft::peer::Limits;
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::metrics::PeerMetrics;
use stele_raft::peer::server::{PeerServer, Served, Unbounded};
use stele_raft::peer::transport::{PeerTls, Tcp, Transport};
use stele_raft::raft_log::RaftLog;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What of a node outlives its process.
struct Home {
    node: u64,
    path: PathBuf,
    address: SocketAddr,
    tls: PeerTls,
}

struct Node {
    raft: Raft<TypeConfig, Machine>,
    log: RaftLog,
    metrics: Arc<PeerMetrics>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Home {
    async fn start(&self) -> Node {
        let environment = Environment::system();
        let directory = LogDirectory::new(&self.path);
        let inventory = Inventory::take(environment.disk.as_ref(), &directory).unwrap();
        let vote = read_hard_state(environment.disk.as_ref(), &directory.hard_state()).unwrap().vote;
        let start = Tail::start(inventory.alignment, inventory.height);
        let (store, recovered) = SegmentStore::open(&environment, &directory, &inventory, start).unwrap();
        let log = RaftLog::new(Arc::new(store), &environment.disk, &directory, inventory.alignment, vote);
        log.recovered(recovered.committed).await.unwrap();
        let config = Config {
            heartbeat_interval: 200,
            election_timeout_min: 800,
            election_timeout_max: 1500,
            snapshot_policy: SnapshotPolicy::Never,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let (own, limits, metrics) = (own(local(self.node)), Limits::default(), Arc::new(PeerMetrics::default()));
        let transport = Transport::Tls(self.tls.clone());
        let network = PeerFactory::new(own.clone(), transport.clone(), Arc::new(Tcp), limits, Arc::clone(&metrics));
        let config = Arc::new(config.validate().unwrap());
        let raft = Raft::new(self.node, config, network, log.clone(), Machine::default()).await.unwrap();
        let served = Served { raft: raft.clone(), admission: Arc::new(Unbounded), segments: no_segments() };
        let server = PeerServer::new(own, transport, served, limits, Arc::clone(&metrics));
        let listener = TcpListener::bind(self.address).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, stop.clone()));
        Node { raft, log, metrics, stop, serving }
    }
}

impl Node {
    async fn kill(self) {
        self.stop.cancel();
        self.raft.shutdown().await.unwrap();
        self.serving.await.unwrap();
        assert_eq!(self.metrics.connections(), 0);
    }
}

/// The node that leads, as soon as one does.
async fn leader(nodes: &BTreeMap<u64, Node>) -> u64 {
    let leads = |node: &Node| {
        let raft = node.raft.clone();
        Box::pin(async move {
            raft.wait(Some(LONG)).state(ServerState::Leader, "a leader").await.unwrap();
            raft.node_id().to_owned()
        })
    };
    futures_util::future::select_all(nodes.values().map(leads)).await.0
}

/// Writes to whoever leads, many at a time; what is refused, because nobody leads just then, again.
async fn write(nodes: &BTreeMap<u64, Node>, mut proposals: Vec<Proposal>) {
    while !proposals.is_empty() {
        let raft = &nodes[&leader(nodes).await].raft;
        let writes = proposals.into_iter().map(|proposal| async move {
            let written = raft.client_write(proposal.clone()).await;
            written.is_err().then_some(proposal)
        });
        proposals = futures_util::future::join_all(writes).await.into_iter().flatten().collect();
    }
}

async fn entries(node: &Node) -> Vec<Entry> {
    node.log.clone().try_get_log_entries(..).await.unwrap()
}

fn homes(path: &Path, addresses: &[SocketAddr]) -> BTreeMap<u64, Home> {
    let authority = Authority::new();
    let home = |(address, node): (&SocketAddr, u64)| {
        let path = path.join(node.to_string());
        let options =
            MemberOptions { node: NodeId::new(node), block_height: BlockHeight::DEFAULT, frame_align: Alignment::PAGE };
        create_member(&Environment::system(), &path, &options).unwrap();
        (node, Home { node, path, address: *address, tls: authority.tls(node) })
    };
    addresses.iter().zip(1..).map(home).collect()
}

/// Addresses that nobody else listens at.
async fn addresses() -> Vec<SocketAddr> {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_go_on_without_their_leader_and_it_catches_up() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = addresses().await;
    let homes = homes(directory.path(), &addresses);
    let mut nodes = BTreeMap::new();
    for (node, home) in &homes {
        nodes.insert(*node, home.start().await);
    }
    let members: BTreeMap<u64, Peer> = homes.values().map(|home| (home.node, peer(home.address))).collect();
    nodes[&1].raft.initialize(members).await.unwrap();
    let mut proposals: Vec<Proposal> = (0..200).map(|size| batch(1, 1 + size % 3, 20 * (size + 1))).collect();
    // More than what is read at a time.
    proposals.push(batch(1, 900, 4000));
    write(&nodes, proposals).await;

    let lost = leader(&nodes).await;
    nodes.remove(&lost).unwrap().kill().await;
    write(&nodes, (0..50).map(|size| batch(2, 1, 80 * (size + 1))).collect()).await;

    nodes.insert(lost, homes[&lost].start().await);
    let leading = leader(&nodes).await;
    let last = nodes[&leading].raft.metrics().borrow_watched().last_log_index;
    assert!(last >= Some(252), "{last:?}");
    for node in nodes.values() {
        node.raft.wait(Some(LONG)).applied_index_at_least(last, "everything everywhere").await.unwrap();
    }
    let reference = entries(&nodes[&leading]).await;
    for (id, node) in &nodes {
        let held = entries(node).await;
        assert_eq!(held.len(), reference.len(), "node {id}");
        assert!(held == reference, "the entries of node {id} are those of node {leading}");
    }
    let total: u64 = nodes.values().map(|node| node.metrics.bytes_in()).sum();
    assert!(total > 3_600_000, "{total} bytes crossed the wire");
    for node in nodes.into_values() {
        node.kill().await;
    }
}
