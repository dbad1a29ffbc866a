//! The nodes, and a writer that remembers what it was told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::local::{Receipt, SealSettings};
use stele_engine::membership::{Membership, Node as Member};
use stele_engine::number::{Alignment, BlockHeight, NodeId, SegmentNumber, SiteName};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::reserved::{Genesis, LogId};
use stele_engine::segment::SegmentFile;
use stele_proof::UnixMillis;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject};
use stele_raft::intake::{Answers, Refused, Submitted};
use stele_raft::node::{Begin, Birth, Node, NodeSettings};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::wires::Wires;

const HEIGHT: u8 = 8;
const ORIGIN: &str = "example.com/cluster";

pub(crate) struct Cluster {
    directory: TempDir,
    wires: Wires,
    birth: Birth,
    nodes: BTreeMap<u64, Option<Node>>,
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
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self { directory, wires: Wires::default(), birth: birth(count), nodes: BTreeMap::new() };
        for id in 1..=count {
            let options = MemberOptions {
                node: NodeId::new(id),
                block_height: BlockHeight::new(HEIGHT).unwrap(),
                frame_align: Alignment::PAGE,
            };
            create_member(&Environment::system(), &cluster.path(id), &options).unwrap();
            cluster.restart(id).await;
        }
        cluster
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
        let settings = NodeSettings {
            seal: SealSettings { after_ms: u64::MAX, ..SealSettings::default() },
            ..NodeSettings::default()
        };
        let (path, birth, ends) = (self.path(id), self.birth.clone(), self.wires.of(id));
        let node = Node::start(&Environment::system(), &path, settings, &Begin::Cluster(birth), ends).await.unwrap();
        self.wires.join(id, node.raft().clone());
        self.nodes.insert(id, Some(node));
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
            if seen.iter().all(|one| *one == first) && last == first.2 && first.3 == last.segment.get() {
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
            let reader = LogReader::open(&Environment::system(), &self.path(id)).unwrap();
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
            assert_eq!(all[0].len(), other.len());
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

    fn compare_segments(&self) {
        let directories: Vec<LogDirectory> = self.ids().iter().map(|id| LogDirectory::new(self.path(*id))).collect();
        let environment = Environment::system();
        let sealed = Inventory::take(environment.disk.as_ref(), &directories[0]).unwrap().sealed.get();
        assert!(sealed > 0, "nothing was sealed");
        for segment in (0..sealed).map(SegmentNumber::new) {
            let bytes =
                |directory: &LogDirectory| std::fs::read(directory.segment_file(SegmentFile::Frames(segment))).unwrap();
            let first = bytes(&directories[0]);
            for other in &directories[1..] {
                assert!(first == bytes(other), "segment {segment} differs");
            }
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
