//! Nodes over TCP, started phase by phase, each with a directory that a test can wipe, copy and bring back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::Access;
use stele_engine::environment::Environment;
use stele_engine::frame::Tail;
use stele_engine::hard_state::{HardState, read_hard_state};
use stele_engine::local::SealSettings;
use stele_engine::membership::{Membership, Node as Member};
use stele_engine::number::{Alignment, BlockHeight, NodeId, RaftIndex, SegmentNumber, SiteName};
use stele_engine::reserved::{Genesis, LogId};
use stele_engine::ring::{Slot, read_ring};
use stele_engine::segment::SegmentFile;
use stele_proof::UnixMillis;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject};
use stele_raft::intake::{Refused as Refusal, Submitted};
use stele_raft::machine::Machine;
use stele_raft::node::{Begin, Birth, Node, NodeSettings, StartError};
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::cosign::NoCosigner;
use stele_raft::peer::metrics::{PeerMetrics, Refused};
use stele_raft::peer::segments::{SealedSegment, SegmentSource, SourceError};
use stele_raft::peer::server::{Giver, PeerServer, Served, Unbounded};
use stele_raft::peer::transport::{Tcp, Transport};
use stele_raft::peer::{ClusterId, Limits, Local, Own};
use stele_raft::standing::Told;
use stele_raft::starting::{StaleNode, Starting};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes that goes well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);
const ORIGIN: &str = "example.com/standing";

type Raft = openraft::Raft<stele_raft::entry::TypeConfig, Machine>;

/// Nothing is sealed here.
struct NoSegments;

impl SegmentSource for NoSegments {
    fn list(&self, _from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError> {
        Ok(Vec::new())
    }

    fn read(&self, _file: SegmentFile, _offset: u64, _len: usize) -> Result<Bytes, SourceError> {
        Err(SourceError::NotSealed)
    }
}

/// A node that waits to be let in.
pub(crate) struct Waiting {
    pub(crate) starting: Starting,
    pub(crate) network: PeerFactory,
    giver: Giver<Raft>,
    listening: Listening,
}

struct Listening {
    metrics: Arc<PeerMetrics>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Listening {
    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

impl Waiting {
    pub(crate) async fn close(self) {
        self.listening.end().await;
        self.starting.close().unwrap();
    }
}

pub(crate) struct Running {
    pub(crate) node: Node,
    listening: Listening,
}

pub(crate) struct Sites {
    scratch: TempDir,
    birth: Birth,
    addresses: BTreeMap<u64, SocketAddr>,
    pub(crate) running: BTreeMap<u64, Running>,
    writer: Writer,
}

impl Sites {
    /// Empty directories and addresses; nothing runs.
    pub(crate) async fn new(count: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses: BTreeMap<u64, SocketAddr> =
            (1..).zip(listeners.iter().map(|listener| listener.local_addr().unwrap())).collect();
        let birth = birth(&addresses);
        let sites = Self { scratch, birth, addresses, running: BTreeMap::new(), writer: Writer::default() };
        (1..=count).for_each(|node| sites.make(node));
        sites
    }

    /// All of them, and they have written something.
    pub(crate) async fn running(count: u64) -> Self {
        let mut sites = Self::new(count).await;
        sites.start(&(1..=count).collect::<Vec<_>>()).await;
        sites.write(20).await;
        sites
    }

    pub(crate) fn path(&self, node: u64) -> PathBuf {
        self.scratch.path().join(format!("node-{node}"))
    }

    fn make(&self, node: u64) {
        let options = MemberOptions {
            node: NodeId::new(node),
            block_height: BlockHeight::new(8).unwrap(),
            frame_align: Alignment::PAGE,
        };
        create_member(&Environment::system(), &self.path(node), &options).unwrap();
    }

    /// Gives a node an empty directory, as somebody does who replaces a disk and nothing else.
    pub(crate) fn wipe(&self, node: u64) {
        std::fs::remove_dir_all(self.path(node)).unwrap();
        self.make(node);
    }

    /// Copies the directory of a node.
    pub(crate) fn back_up(&self, node: u64) -> PathBuf {
        let copy = (0..).map(|number| self.scratch.path().join(format!("copy-{number}")));
        let copy = copy.into_iter().find(|copy| !copy.exists()).unwrap();
        copy_all(&self.path(node), &copy);
        copy
    }

    /// Brings a copy back.
    pub(crate) fn restore(&self, node: u64, copy: &Path) {
        std::fs::remove_dir_all(self.path(node)).unwrap();
        copy_all(copy, &self.path(node));
    }

    pub(crate) fn hard_state(&self, node: u64) -> HardState {
        let directory = LogDirectory::new(self.path(node));
        read_hard_state(Environment::system().disk.as_ref(), &directory.hard_state()).unwrap()
    }

    pub(crate) async fn open(&self, node: u64) -> Result<Waiting, StartError> {
        let settings = NodeSettings {
            seal: SealSettings { after_ms: u64::MAX, ..SealSettings::default() },
            ..NodeSettings::default()
        };
        let begin = Begin::Cluster(self.birth.clone());
        let starting = Starting::open(&Environment::system(), &self.path(node), settings, &begin)?;
        let local = Local { cluster: ClusterId::new([5; 32]), node: NodeId::new(node) };
        let own = Own { local, standing: starting.standing().clone() };
        let (limits, metrics) = (Limits::default(), Arc::new(PeerMetrics::default()));
        let (server, giver) = PeerServer::starting(
            own.clone(),
            Transport::Plain,
            Some(Arc::new(starting.entries())),
            limits,
            Arc::clone(&metrics),
        );
        let network = PeerFactory::new(own, Transport::Plain, Arc::new(Tcp), limits, Arc::clone(&metrics));
        let listener = TcpListener::bind(self.addresses[&node]).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(listener, stop.clone()));
        Ok(Waiting { starting, network, giver, listening: Listening { metrics, stop, serving } })
    }

    async fn try_start(&self, node: u64) -> Result<Running, StartError> {
        let mut waiting = self.open(node).await?;
        let asked = timeout(PATIENCE, waiting.starting.ask(&waiting.network)).await.unwrap();
        let Waiting { starting, network, giver, listening } = waiting;
        match asked {
            Ok(let_in) => {
                let node = starting.begin(let_in, network).await?;
                let served = Served {
                    raft: node.raft().clone(),
                    admission: Arc::new(Unbounded),
                    segments: Arc::new(NoSegments),
                    cosigner: Arc::new(NoCosigner),
                };
                giver.give(served);
                Ok(Running { node, listening })
            }
            Err(error) => {
                listening.end().await;
                starting.close().unwrap();
                Err(error)
            }
        }
    }

    /// Behind the last entry of a running node.
    pub(crate) fn tail(&self, node: u64) -> Tail {
        self.running[&node].node.replica().lock().store().tail()
    }

    /// Lets a stopped node's last group be what stands from one tail to another, with the flush that made it durable the
    /// last thing it did, and its first frame rot.
    pub(crate) fn rot_last_group(&self, node: u64, (from, to): (&Tail, &Tail), committed: RaftIndex) {
        assert_eq!(from.segment, to.segment);
        let path = LogDirectory::new(self.path(node)).segment_file(SegmentFile::Frames(from.segment));
        let disk = Environment::system().disk;
        let file = disk.open(&path, Access::Write).unwrap();
        let (slots, _) = read_ring(file.as_ref(), from.segment).unwrap();
        let newest = slots.iter().map(|slot| slot.group).max().unwrap();
        let (segment, group) = (from.segment, newest.next());
        let slot = Slot { segment, group, start: from.offset, end: to.offset, committed };
        file.write_at(&slot.encode(), Slot::place(group)).unwrap();
        file.write_at(&[0x55; 9], from.offset.get() + 70).unwrap();
        file.sync().unwrap();
    }

    /// The bytes of a node's segment from one tail to another.
    pub(crate) fn bytes(&self, node: u64, (from, to): (&Tail, &Tail)) -> Vec<u8> {
        let path = LogDirectory::new(self.path(node)).segment_file(SegmentFile::Frames(from.segment));
        let bytes = std::fs::read(path).unwrap();
        let [from, to] = [from, to].map(|tail| usize::try_from(tail.offset.get()).unwrap());
        bytes[from..to].to_vec()
    }

    /// Starts nodes, all at once.
    pub(crate) async fn start(&mut self, nodes: &[u64]) {
        let this = &*self;
        let started = join_all(nodes.iter().map(|node| async move { (*node, this.try_start(*node).await) })).await;
        self.running.extend(started.into_iter().map(|(node, started)| (node, started.unwrap())));
    }

    /// Starts a node that its peers, or its own directory, say is stale.
    pub(crate) async fn refused(&self, node: u64) -> Option<Told> {
        match self.try_start(node).await {
            Err(StartError::Stale(StaleNode { node: stale, told })) => {
                assert_eq!(stale.get(), node);
                told
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("node {node} was let in"),
        }
    }

    /// How many nodes the running ones found stale.
    pub(crate) fn found_stale(&self) -> u64 {
        self.running.values().map(|running| running.listening.metrics.refused(Refused::Stale)).sum()
    }

    pub(crate) async fn stop(&mut self, nodes: &[u64]) {
        for node in nodes {
            let Running { node, listening } = self.running.remove(node).unwrap();
            listening.end().await;
            node.stop().await.unwrap();
        }
    }

    /// Stops nodes without a clean mark, and without saving what they remember, as a kill would.
    pub(crate) async fn kill(&mut self, nodes: &[u64]) {
        for node in nodes {
            let Running { node, listening } = self.running.remove(node).unwrap();
            listening.end().await;
            node.abandon().await;
        }
    }

    /// The node that leads and others follow.
    pub(crate) async fn leader(&self) -> u64 {
        let mut found = None;
        until("somebody leads", || {
            let leading = self.running.values().find(|running| running.node.raft().is_leader());
            found = leading.map(|running| *running.node.raft().node_id());
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Appends records at whoever leads, until all are acknowledged.
    pub(crate) async fn write(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        self.writer.make(count);
        while self.writer.told < self.writer.made.len() {
            assert!(Instant::now() < deadline, "{} were acknowledged", self.writer.told);
            for running in self.running.values() {
                let waiting = self.writer.waiting();
                let Ok(answers) = timeout(Duration::from_secs(2), running.node.intake().append(waiting)).await else {
                    continue;
                };
                for answer in answers {
                    match answer {
                        Ok(receipt) => {
                            assert_eq!(receipt.self_hash, self.writer.made[self.writer.told].1);
                            self.writer.told += 1;
                        }
                        Err(Refusal::Record(refusal)) => panic!("refused: {refusal}"),
                        Err(_) => break,
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Sends records to one node that cannot have them committed.
    pub(crate) fn strand(&self, node: u64) -> JoinHandle<()> {
        let mut stranded = Writer { name: "stranded", ..Writer::default() };
        stranded.make(10);
        let intake = self.running[&node].node.intake().clone();
        tokio::spawn(async move {
            for answer in intake.append(stranded.waiting()).await {
                assert!(answer.is_err(), "a record was acknowledged by a minority");
            }
        })
    }

    /// One past the last entry of a running node.
    pub(crate) fn end(&self, node: u64) -> RaftIndex {
        self.running[&node].node.replica().lock().store().tail().next_index
    }

    /// Waits until all that run have applied and flushed the same.
    pub(crate) async fn settle(&self) {
        until("all nodes come to the same", || {
            let seen = self.running.values().map(|running| {
                let mut replica = running.node.replica().lock();
                let visible = replica.visible();
                let (tail, root) = (visible.tail, visible.root());
                (tail.next_index == replica.store().tail().next_index).then_some((tail, root))
            });
            let seen: Vec<_> = seen.collect();
            seen.iter().all(|one| one.is_some() && *one == seen[0])
        })
        .await;
    }
}

/// Looks until it is so, for a bounded time.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(LOOK).await;
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn birth(addresses: &BTreeMap<u64, SocketAddr>) -> Birth {
    let node = |(id, address): (&u64, &SocketAddr)| Member {
        id: NodeId::new(*id),
        site: SiteName::new(&format!("site-{id}")).unwrap(),
        addresses: vec![address.to_string()],
        keys: Vec::new(),
    };
    let membership = Membership {
        token: [7; 32],
        voters: vec![addresses.keys().copied().map(NodeId::new).collect()],
        nodes: addresses.iter().map(node).collect(),
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

/// Writes one chain, and goes back to what was not acknowledged.
struct Writer {
    name: &'static str,
    made: Vec<(Bytes, SelfHash)>,
    told: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { name: "w", made: Vec::new(), told: 0 }
    }
}

impl Writer {
    fn make(&mut self, count: usize) {
        for _ in 0..count {
            let builder = RecordBuilder {
                ts_ms: UnixMillis::new(1),
                writer_id: self.name,
                stream: "s",
                kind: "K",
                actor: Actor { anon: true, ..Actor::default() },
                subject: Subject::default(),
                reason: "ok",
                attrs: &Object::default(),
                payload: None,
            };
            let mut canonical = Vec::new();
            let prev = self.made.last().map(|(_, hash)| *hash);
            let record = builder.encode(self.made.len() as u64 + 1, prev.as_ref(), &mut canonical).unwrap();
            let hash = record.self_hash();
            let mut finished = Vec::new();
            record.write_finished(&hash, &mut finished);
            self.made.push((finished.into(), hash));
        }
    }

    fn waiting(&self) -> Vec<Submitted> {
        let waiting = self.made[self.told..].iter();
        waiting.map(|(record, _)| Submitted { record: record.clone(), payload: None }).collect()
    }
}
