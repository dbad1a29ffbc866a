//! The nodes, and a writer that remembers what it was told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stele_engine::batch::{BatchBuilder, HEADER_BYTES};
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Access, read_up_to};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::local::{Receipt, SealSettings};
use stele_engine::membership::{Membership, Node as Member};
use stele_engine::number::{Alignment, BlockHeight, NodeId, SegmentNumber, SiteName, Term};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::reserved::{Genesis, LogId};
use stele_engine::segment::SegmentFile;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::record::{Actor, Finished, Object, RecordBuilder, SelfHash, Subject};
use stele_proof::{TreeSize, UnixMillis};
use stele_raft::gate::LetIn;
use stele_raft::intake::{Answers, Refused, Submitted};
use stele_raft::node::{Begin, Birth, Node, NodeSettings};
use stele_raft::starting::Starting;
use stele_raft::stored::StoredEntries;
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::random::SplitMix64;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::slow::{Hang, SlowDisk};
use crate::wires::Wires;

const HEIGHT: u8 = 8;
const ORIGIN: &str = "example.com/cluster";

pub(crate) struct Cluster {
    directory: TempDir,
    pub(crate) wires: Wires,
    birth: Birth,
    settings: NodeSettings,
    nodes: BTreeMap<u64, Option<Node>>,
    /// What stands in for the disks of nodes that have no real one.
    disks: BTreeMap<u64, FakeDisk>,
    /// Starts that began with a torn last group.
    doubts: u64,
    /// What lets those wait.
    hangs: BTreeMap<u64, Hang>,
}

/// Timings of an election, and nothing is sealed by age.
pub(crate) fn settings(heartbeat: u64, election: (u64, u64)) -> NodeSettings {
    let millis = Duration::from_millis;
    let election = (millis(election.0), millis(election.1));
    let seal = SealSettings { after_ms: u64::MAX, ..SealSettings::default() };
    NodeSettings { heartbeat: millis(heartbeat), election, seal, ..NodeSettings::default() }
}

fn birth(count: u64) -> Birth {
    let node = |id| Member {
        id: NodeId::new(id),
        site: SiteName::new(&format!("site-{id}")).unwrap(),
        addresses: Vec::new(),
        keys: Vec::new(),
    };
    let membership = Membership {
        token: [7; 32],
        voters: vec![(1..=count).map(NodeId::new).collect()],
        nodes: (1..=count).map(node).collect(),
    };
    let key = SigningKey::from_seed(KeyName::new(ORIGIN).unwrap(), KeyKind::Ed25519, [1; 32]);
    let log_key = key.verifier_key().to_string();
    let genesis = Genesis {
        format: 1,
        origin: ORIGIN.to_owned(),
        log_id: LogId::new([9; 32]),
        block_height: BlockHeight::new(HEIGHT).unwrap(),
        frame_align: Alignment::PAGE,
        policy: format!("log {log_key}\nquorum none\n"),
        log_keys: vec![log_key],
    };
    Birth { membership, genesis }
}

impl Cluster {
    pub(crate) async fn start(count: u64) -> Self {
        let settings = NodeSettings { seal: settings(1, (1, 1)).seal, ..NodeSettings::default() };
        Self::start_with(count, settings, BTreeMap::new()).await
    }

    /// Nodes with these settings, on these disks where there are any.
    pub(crate) async fn start_with(count: u64, settings: NodeSettings, disks: BTreeMap<u64, FakeDisk>) -> Self {
        let (directory, wires) = (tempfile::tempdir().unwrap(), Wires::default());
        let hangs = disks.keys().map(|id| (*id, Hang::default())).collect();
        let birth = birth(count);
        let nodes = BTreeMap::new();
        let mut cluster = Self { directory, wires, birth, settings, nodes, disks, doubts: 0, hangs };
        for id in 1..=count {
            let options = MemberOptions {
                node: NodeId::new(id),
                block_height: BlockHeight::new(HEIGHT).unwrap(),
                frame_align: Alignment::PAGE,
            };
            create_member(&cluster.environment(id), &cluster.path(id), &options).unwrap();
            cluster.restart(id).await;
        }
        cluster
    }

    fn environment(&self, id: u64) -> Environment {
        match self.disks.get(&id) {
            Some(disk) => {
                let disk = SlowDisk::new(disk.clone(), id, self.hang(id).clone());
                Environment { disk: Arc::new(disk), ..Environment::system() }
            }
            None => Environment::system(),
        }
    }

    /// Lets the disk of a node wait.
    pub(crate) fn hang(&self, id: u64) -> &Hang {
        &self.hangs[&id]
    }

    pub(crate) fn disk(&self, id: u64) -> &FakeDisk {
        &self.disks[&id]
    }

    /// The power fails at all nodes, one right after the other, and comes back.
    pub(crate) async fn lose_power(&mut self, random: &mut SplitMix64) {
        let crashed: Vec<(u64, FakeDisk)> = self.disks.iter().map(|(id, disk)| (*id, disk.crash(random))).collect();
        for id in self.ids() {
            self.kill(id).await;
        }
        self.disks.extend(crashed);
        self.start_nodes(&self.ids()).await;
    }

    fn path(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, id: u64) -> &Node {
        self.nodes[&id].as_ref().unwrap()
    }

    pub(crate) async fn restart(&mut self, id: u64) {
        self.start_nodes(&[id]).await;
    }

    /// Starts nodes at the same time: those whose last group was torn ask the others for it, whether those run or start.
    async fn start_nodes(&mut self, ids: &[u64]) {
        let begin = Begin::Cluster(self.birth.clone());
        let mut starting = Vec::new();
        let mut entries = BTreeMap::new();
        for id in ids {
            let (environment, settings) = (self.environment(*id), self.settings.clone());
            let opened = Starting::open(&environment, &self.path(*id), settings, &begin).unwrap();
            self.doubts += u64::from(opened.is_in_doubt());
            entries.insert(*id, Arc::new(opened.entries()));
            starting.push((*id, opened));
        }
        for (id, node) in self.nodes.iter().filter_map(|(id, node)| Some((*id, node.as_ref()?))) {
            let replica = node.replica().lock();
            let (store, alignment) = (Arc::clone(replica.store()), replica.tail().alignment);
            let stored = StoredEntries::new(store, &self.environment(id).disk, replica.directory(), alignment);
            entries.insert(id, Arc::new(stored));
        }
        for (id, mut opened) in starting {
            let offer = |node: NodeId, _, (last, wanted)| {
                let entries = entries.get(&node.get()).cloned();
                async move {
                    let entries = entries.ok_or_else(|| format!("node {node} is down"))?;
                    entries.offer(&last, wanted).map_err(|error| error.to_string())
                }
            };
            opened.settle(offer).await.unwrap();
            let node = opened.begin(LetIn::unasked(), self.wires.of(id)).await.unwrap();
            self.wires.join(id, node.raft().clone());
            self.nodes.insert(id, Some(node));
        }
    }

    /// How many starts have begun with a torn last group.
    pub(crate) const fn doubts(&self) -> u64 {
        self.doubts
    }

    /// Stops a node without a clean mark, as a kill would: the store is dropped and not closed.
    pub(crate) async fn kill(&mut self, id: u64) {
        self.wires.leave(id);
        let node = self.nodes.get_mut(&id).unwrap().take().unwrap();
        node.abandon().await;
    }

    pub(crate) fn isolate(&self, id: u64) {
        let others: Vec<u64> = self.ids().into_iter().filter(|other| *other != id).collect();
        self.wires.isolate(id, &others);
    }

    pub(crate) fn heal(&self) {
        self.wires.heal();
    }

    pub(crate) async fn stop_all(&mut self) {
        for id in self.ids() {
            self.wires.leave(id);
            if let Some(node) = self.nodes.get_mut(&id).unwrap().take() {
                node.stop().await.unwrap();
            }
        }
    }

    /// The node that most nodes take for the leader, and that takes itself for it.
    pub(crate) async fn leader(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        loop {
            for node in self.nodes.values().flatten() {
                if node.raft().is_leader() {
                    return *node.raft().node_id();
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all nodes have applied and flushed the same, and every ended segment is sealed and has its record.
    pub(crate) async fn settle(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        loop {
            let mut seen = Vec::new();
            for node in self.nodes.values().flatten() {
                let mut replica = node.replica().lock();
                let (visible, root) = {
                    let visible = replica.visible();
                    (visible.tail, visible.root())
                };
                let store = replica.store().tail();
                let recorded = replica.chains().clone().head("stele/segments", "stele/log").map_or(0, |head| head.seq);
                seen.push((visible, root, store, recorded));
            }
            let (first, last) = (seen[0], seen[0].0);
            let same = seen.iter().all(|one| *one == first) && last == first.2 && first.3 == last.segment.get();
            // A node may know the record of a segment that its own thread is still sealing.
            if same && self.ids().iter().all(|id| self.sealed(*id) == last.segment.get()) {
                return last.leaves.get();
            }
            assert!(Instant::now() < deadline, "the nodes do not come to the same: {seen:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends records to one node, whoever leads; nobody retries them.
    pub(crate) fn send_to(&self, id: u64, writer: &mut Writer, count: u64) -> JoinHandle<Answers> {
        let records = writer.next_records(count);
        let intake = self.node(id).intake().clone();
        tokio::spawn(async move { intake.append(records).await })
    }

    /// Compares the stopped copies with each other and with what the writers were told.
    pub(crate) fn compare(&self, writers: &[Writer]) {
        let mut all: Vec<Vec<ReadRecord>> = Vec::new();
        for id in self.ids() {
            let reader = LogReader::open(&self.environment(id), &self.path(id)).unwrap();
            reader.whole().unwrap();
            let mut records = Vec::new();
            reader
                .read::<LogError>(
                    stele_proof::LeafIndex::new(0),
                    reader.size().next_leaf(),
                    Payloads::Leave,
                    &mut |record| {
                        records.push(record);
                        Ok(())
                    },
                )
                .unwrap();
            all.push(records);
        }
        for other in &all[1..] {
            let more: Vec<String> = all
                .iter()
                .flat_map(|copy| copy.iter().skip(all[0].len().min(other.len())))
                .map(|record| String::from_utf8_lossy(&record.canonical).into_owned())
                .collect();
            assert_eq!(all[0].len(), other.len(), "more: {more:#?}");
            assert!(all[0] == *other, "the copies hold other records");
        }
        for writer in writers {
            for (receipt, _) in &writer.told {
                let at = usize::try_from(receipt.index.get()).unwrap();
                assert_eq!(SelfHash::of(&all[0][at].canonical), receipt.self_hash, "at {}", receipt.index);
            }
            let mine = all[0].iter().filter(|record| {
                let record = stele_proof::record::Record::parse(&record.canonical).unwrap();
                record.writer_id().escaped() == writer.name
            });
            assert_eq!(mine.count(), writer.told.len(), "each acknowledged record stands there exactly once");
        }
        self.compare_segments();
    }

    /// Makes the sealed segments of a stopped node look as if they had only ended.
    pub(crate) fn unseal(&self, id: u64) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = LogDirectory::new(self.path(id));
        let sealed = self.sealed(id);
        assert!(sealed > 1, "{sealed} segments are sealed");
        for segment in (0..sealed).map(SegmentNumber::new) {
            let file = directory.segment_file(SegmentFile::Frames(segment));
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::remove_file(directory.segment_file(SegmentFile::Tiles(segment))).unwrap();
        }
        assert_eq!(self.sealed(id), 0);
    }

    /// How many segments of a node are sealed.
    fn sealed(&self, id: u64) -> u64 {
        let directory = LogDirectory::new(self.path(id));
        Inventory::take(self.environment(id).disk.as_ref(), &directory).unwrap().sealed.get()
    }

    fn compare_segments(&self) {
        let ids = self.ids();
        assert!(self.sealed(ids[0]) > 0, "nothing was sealed");
        for segment in (0..self.sealed(ids[0])).map(SegmentNumber::new) {
            let bytes = |id: u64| {
                let file = LogDirectory::new(self.path(id)).segment_file(SegmentFile::Frames(segment));
                let file = self.environment(id).disk.open(&file, Access::Read).unwrap();
                assert!(file.status().unwrap().read_only, "segment {segment} of node {id} is not sealed");
                let len = usize::try_from(file.status().unwrap().len).unwrap();
                read_up_to(file.as_ref(), 0, len).unwrap()
            };
            let first = bytes(ids[0]);
            for other in &ids[1..] {
                assert_eq!(self.sealed(*other), self.sealed(ids[0]), "sealed segments");
                assert!(first == bytes(*other), "segment {segment} differs");
            }
        }
    }
}

impl Drop for Cluster {
    /// A node cannot go while its disk waits.
    fn drop(&mut self) {
        self.hangs.values().for_each(Hang::end);
    }
}

/// What a node that led for a while answered to records that nobody sends again: where it gave them a place, they
/// have that place.
pub(crate) fn keep_word(answers: &Answers, told: &[(Receipt, SelfHash)]) {
    for (answer, (receipt, _)) in answers.iter().zip(told) {
        match answer {
            Ok(told) => assert_eq!(told, receipt, "a record has two places"),
            Err(Refused::Record(refusal)) => panic!("refused: {refusal}"),
            Err(_) => {}
        }
    }
}

/// Writes one chain, and goes back to what was refused.
pub(crate) struct Writer {
    name: String,
    /// Records that are made and not acknowledged, and those that are.
    made: Vec<(Bytes, SelfHash)>,
    pub(crate) told: Vec<(Receipt, SelfHash)>,
}

impl Writer {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), made: Vec::new(), told: Vec::new() }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.told.len() as u64
    }

    pub(crate) fn next_records(&mut self, count: u64) -> Vec<Submitted> {
        for _ in 0..count {
            let builder = RecordBuilder {
                ts_ms: UnixMillis::new(1),
                writer_id: &self.name,
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
        self.waiting()
    }

    /// The next record as a batch of its own, at this place and of this term, as a leader would propose it.
    pub(crate) fn next_batch(&mut self, term: u64, leaves: TreeSize) -> (Bytes, Bytes) {
        if self.made.len() == self.told.len() {
            self.next_records(1);
        }
        let finished = Finished::split(&self.made[self.told.len()].0).unwrap();
        let mut batch = BatchBuilder::default();
        finished.write_canonical(batch.buffer());
        batch.push(HEADER_BYTES, None);
        batch.cut(Term::new(term), leaves.next_leaf())
    }

    fn waiting(&self) -> Vec<Submitted> {
        let waiting = self.made[self.told.len()..].iter();
        waiting.map(|(record, _)| Submitted { record: record.clone(), payload: None }).collect()
    }

    /// Appends so many records, at whichever node leads, until all are acknowledged.
    pub(crate) async fn write(&mut self, cluster: &Cluster, count: u64, patience: Duration) {
        self.next_records(count);
        let deadline = Instant::now() + patience;
        while self.told.len() < self.made.len() {
            for node in cluster.nodes.values().flatten() {
                let Ok(answers) = timeout(Duration::from_secs(2), node.intake().append(self.waiting())).await else {
                    continue;
                };
                for answer in answers {
                    match answer {
                        Ok(receipt) => {
                            let expected = self.made[self.told.len()].1;
                            assert_eq!(receipt.self_hash, expected);
                            self.told.push((receipt, expected));
                        }
                        Err(Refused::Record(refusal)) => panic!("refused: {refusal}"),
                        Err(_) => break,
                    }
                }
            }
            assert!(Instant::now() < deadline, "{} of {} acknowledged", self.told.len(), self.made.len());
            sleep(Duration::from_millis(10)).await;
        }
    }
}
