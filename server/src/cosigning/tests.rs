use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use stele_engine::birth::{PolicyNode, cluster_policy};
use stele_engine::checkpointing::NodeKeys;
use stele_engine::directory::LogDirectory;
use stele_engine::number::{Alignment, BlockHeight, SiteName};
use stele_engine::reserved::LogId;
use stele_engine::signing_state::{SigningStateFile, read_signed_head};
use stele_proof::note::Note;
use tempfile::TempDir;

use super::*;
use crate::keys::make_or_load;

const TIMEOUT: Duration = Duration::from_secs(2);
const ORIGIN: &str = "example.com/log";

/// A copy whose root at a size says the size.
struct TestCopy {
    genesis: Genesis,
    visible: watch::Receiver<TreeSize>,
    /// What its roots begin with.
    kind: u8,
}

fn root(size: TreeSize, kind: u8) -> Hash {
    let mut bytes = [kind; 32];
    bytes[..8].copy_from_slice(&size.get().to_le_bytes());
    Hash::new(bytes)
}

impl LogCopy for TestCopy {
    fn genesis(&self) -> Option<Genesis> {
        Some(self.genesis.clone())
    }

    fn head(&self) -> Option<SignedHead> {
        let size = *self.visible.borrow();
        Some(SignedHead { size, root: root(size, self.kind) })
    }

    fn root_at(&self, size: TreeSize) -> BoxFuture<'_, Option<Hash>> {
        Box::pin(std::future::ready(Some(root(size, self.kind))))
    }
}

/// The way between the nodes.
struct Net {
    nodes: OnceLock<Vec<Arc<Cosigning>>>,
    silent: Mutex<BTreeSet<u64>>,
    /// Questions wait while it is closed.
    open: watch::Sender<bool>,
    asked: watch::Sender<Vec<(u64, u64)>>,
    /// Questions under way to each node, and the most there were.
    under_way: Mutex<(BTreeMap<u64, usize>, usize)>,
    /// What is answered instead of what nodes say.
    lie: Mutex<Option<Cosigned>>,
}

struct From {
    net: Arc<Net>,
    node: u64,
}

impl Others for From {
    fn all(&self) -> Vec<NodeId> {
        let count = self.net.nodes.get().unwrap().len() as u64;
        (1..=count).filter(|node| *node != self.node).map(NodeId::new).collect()
    }

    fn ask(&self, node: NodeId, request: CosignRequest) -> BoxFuture<'_, Result<Cosigned, PeerError>> {
        Box::pin(async move {
            let net = &self.net;
            net.asked.send_modify(|asked| asked.push((node.get(), request.head.size.get())));
            {
                let mut under_way = lock(&net.under_way);
                let now = under_way.0.entry(node.get()).or_default();
                *now += 1;
                let now = *now;
                under_way.1 = under_way.1.max(now);
            }
            net.open.subscribe().wait_for(|open| *open).await.unwrap();
            let silent = lock(&net.silent).contains(&node.get());
            let lie = lock(&net.lie).clone();
            let said = match lie {
                _ if silent => {
                    sleep(request.wait).await;
                    Err(PeerError::Silent(node, request.wait))
                }
                Some(lie) => Ok(lie),
                None => {
                    let place = usize::try_from(node.get()).unwrap() - 1;
                    let said = net.nodes.get().unwrap()[place].cosign(NodeId::new(self.node), request).await;
                    said.map_err(|_error| PeerError::Connect("it cannot sign".to_owned()))
                }
            };
            *lock(&net.under_way).0.get_mut(&node.get()).unwrap() -= 1;
            said
        })
    }
}

struct Cluster {
    scratch: TempDir,
    net: Arc<Net>,
    visible: Vec<watch::Sender<TreeSize>>,
    genesis: Genesis,
    tasks: Vec<Owned>,
}

fn environment() -> Environment {
    Environment::system()
}

impl Cluster {
    /// Nodes 1, 2, .. at these sites; the roots of those named are others than the true ones.
    fn new(sites: &[&str], tampered: &[u64]) -> Self {
        Self::with_late(sites, tampered, &[])
    }

    /// As [`Cluster::new`]; the log was made before the last nodes were there.
    fn with_late(sites: &[&str], tampered: &[u64], late: &[u64]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let origin = Origin::new(ORIGIN).unwrap();
        let sites: Vec<SiteName> = sites.iter().map(|site| SiteName::new(site).unwrap()).collect();
        let keys: Vec<NodeKeys> = (1..)
            .zip(&sites)
            .map(|(node, site)| {
                let directory = LogDirectory::new(scratch.path().join(node.to_string()));
                let keys = make_or_load(&environment(), directory.path(), (NodeId::new(node), site), &origin).unwrap();
                let state = directory.signing_state();
                drop(SigningStateFile::create(environment().disk.as_ref(), &state).unwrap());
                keys
            })
            .collect();
        let nodes: Vec<PolicyNode<'_>> = (1..)
            .zip(sites.iter().zip(&keys))
            .filter(|(node, _)| !late.contains(node))
            .map(|(node, (site, keys))| PolicyNode {
                id: NodeId::new(node),
                site,
                log_key: keys.log.verifier_key(),
                cosigner: keys.cosigner.verifier_key(),
            })
            .collect();
        let genesis = Genesis {
            format: stele_engine::segment::FORMAT_VERSION,
            origin: ORIGIN.to_owned(),
            log_id: LogId::new([7; 32]),
            block_height: BlockHeight::new(8).unwrap(),
            frame_align: Alignment::new(8).unwrap(),
            log_keys: nodes.iter().map(|node| node.log_key.to_string()).collect(),
            policy: cluster_policy(&nodes).unwrap().to_string(),
        };
        let net = Arc::new(Net {
            nodes: OnceLock::new(),
            silent: Mutex::default(),
            open: watch::Sender::new(true),
            asked: watch::Sender::default(),
            under_way: Mutex::default(),
            lie: Mutex::default(),
        });
        let mut cluster = Self { scratch, net, visible: Vec::new(), genesis, tasks: Vec::new() };
        let made = (1..=sites.len() as u64).map(|node| cluster.node(node, tampered.contains(&node))).collect();
        assert!(cluster.net.nodes.set(made).is_ok());
        for node in 1..=sites.len() {
            let task = tokio::spawn(Arc::clone(cluster.at(node)).run(CancellationToken::new()));
            cluster.tasks.push(Owned(task));
        }
        cluster
    }

    fn directory(&self, node: u64) -> LogDirectory {
        LogDirectory::new(self.scratch.path().join(node.to_string()))
    }

    fn node(&mut self, node: u64, tampered: bool) -> Arc<Cosigning> {
        let (tell, visible) = watch::channel(TreeSize::new(0));
        self.visible.push(tell);
        let copy = TestCopy { genesis: self.genesis.clone(), visible: visible.clone(), kind: u8::from(tampered) };
        Arc::new(Cosigning::new(Parts {
            environment: environment(),
            copy: Arc::new(copy),
            others: Arc::new(From { net: Arc::clone(&self.net), node }),
            signer: Signer::new(&environment(), self.directory(node).path()),
            visible,
            timeout: TIMEOUT,
            counters: Arc::default(),
        }))
    }

    fn at(&self, node: usize) -> &Arc<Cosigning> {
        &self.net.nodes.get().unwrap()[node - 1]
    }

    /// So many records are applied and flushed at each of these nodes.
    fn show(&self, nodes: std::ops::RangeInclusive<usize>, size: u64) {
        for node in nodes {
            self.visible[node - 1].send_replace(TreeSize::new(size));
        }
    }

    fn silence(&self, nodes: &[u64]) {
        *lock(&self.net.silent) = nodes.iter().copied().collect();
    }

    fn policy(&self) -> Policy {
        Policy::parse(self.genesis.policy.as_bytes()).unwrap()
    }

    fn counted(&self, node: usize, name: &str) -> u64 {
        let all = self.at(node).parts.counters.all();
        all.into_iter().find(|(counter, _)| counter == name).map_or(0, |(_, count)| count)
    }

    /// Waits until a checkpoint of this size is kept.
    async fn kept(&self, node: u64, signed: &Signed) {
        let disk = environment().disk;
        let stored = || stored_checkpoint(disk.as_ref(), &self.directory(node)).unwrap();
        let kept = async {
            while stored().is_none_or(|(_, checkpoint)| checkpoint.size != signed.size) {
                sleep(PAUSE).await;
            }
        };
        timeout(Duration::from_secs(60), kept).await.unwrap();
    }

    /// Whether a checkpoint meets the policy, and has the true root.
    fn check(&self, signed: &Signed) {
        let verified = self.policy().verify_checkpoint(signed.note.as_bytes()).unwrap();
        let checkpoint = verified.checkpoint();
        assert_eq!((checkpoint.size, checkpoint.root), (signed.size, root(signed.size, 0)));
    }
}

fn size(size: u64) -> TreeSize {
    TreeSize::new(size)
}

fn cosignatures(signed: &Signed) -> usize {
    Note::parse(signed.note.as_bytes()).unwrap().signatures().len() - 1
}

#[tokio::test(start_paused = true)]
async fn the_fastest_sites_that_meet_the_policy_are_enough() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.silence(&[3]);
    cluster.show(1..=3, 5);
    let signed = cluster.at(1).covering(size(4)).await.unwrap();
    cluster.check(&signed);
    assert_eq!((signed.size, cosignatures(&signed)), (size(5), 2));
    assert_eq!([2, 3].map(|node| cluster.at(1).agreed(NodeId::new(node))), [Some(size(5)), None]);
    cluster.kept(1, &signed).await;
    // The one that was slow is added when it answers; the question that it did not answer has come to its end.
    cluster.silence(&[]);
    sleep(Duration::from_secs(60)).await;
    cluster.show(1..=3, 6);
    let mut complete = cluster.at(1).complete.subscribe();
    cluster.check(&cluster.at(1).covering(size(6)).await.unwrap());
    let all = complete.wait_for(|newest| newest.as_ref().is_some_and(|newest| cosignatures(newest) == 3));
    cluster.check(timeout(Duration::from_secs(60), all).await.unwrap().unwrap().as_ref().unwrap());
}

#[tokio::test(start_paused = true)]
async fn nodes_of_one_site_count_as_one() {
    let cluster = Cluster::new(&["a", "a", "b", "c"], &[]);
    cluster.silence(&[3, 4]);
    cluster.show(1..=4, 5);
    assert_eq!(cluster.at(1).covering(size(5)).await, None);
    let partial = cluster.at(1).partial(size(5));
    assert_eq!(partial.map(|partial| cosignatures(&partial)), Some(2), "both nodes of site a have signed");
    cluster.silence(&[3]);
    let signed = cluster.at(1).covering(size(5)).await.unwrap();
    cluster.check(&signed);
}

#[tokio::test(start_paused = true)]
async fn one_exchange_is_in_flight_and_the_newest_size_serves_all_who_wait() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.net.open.send_replace(false);
    cluster.show(1..=3, 3);
    let node = cluster.at(1);
    let first = tokio::spawn({
        let node = Arc::clone(node);
        async move { node.covering(size(3)).await }
    });
    cluster.net.asked.subscribe().wait_for(|asked| asked.len() == 2).await.unwrap();
    let mut waiting = Vec::new();
    for more in 4..=10 {
        cluster.show(1..=3, more);
        let node = Arc::clone(node);
        waiting.push(tokio::spawn(async move { node.covering(size(more)).await }));
        tokio::task::yield_now().await;
    }
    cluster.net.open.send_replace(true);
    assert_eq!(first.await.unwrap().unwrap().size, size(3));
    for waiter in waiting {
        let signed = waiter.await.unwrap().unwrap();
        cluster.check(&signed);
        assert_eq!(signed.size, size(10));
    }
    let asked: BTreeSet<u64> = cluster.net.asked.borrow().iter().map(|(_, size)| *size).collect();
    assert_eq!(asked, [3, 10].into());
    assert_eq!(lock(&cluster.net.under_way).1, 1, "no node is asked twice at a time");
    assert!(lock(&node.waiting).is_empty(), "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_nobody_waits() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.show(1..=3, 3);
    sleep(Duration::from_secs(60)).await;
    assert!(cluster.net.asked.borrow().is_empty());
    assert_eq!(cluster.at(1).newest(), None);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_waited_long_enough_goes_without_and_the_next_is_served() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.silence(&[2, 3]);
    cluster.show(1..=3, 5);
    let began = Instant::now();
    assert_eq!(cluster.at(1).covering(size(5)).await, None);
    assert_eq!(began.elapsed(), TIMEOUT);
    assert!(lock(&cluster.at(1).waiting).is_empty());
    assert_eq!(cluster.at(1).newest().map(|partial| cosignatures(&partial)), Some(1), "its own");
    cluster.silence(&[3]);
    cluster.check(&cluster.at(1).covering(size(5)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_node_with_another_root_does_not_sign_and_both_tell() {
    let cluster = Cluster::new(&["a", "b", "c"], &[2]);
    cluster.silence(&[3]);
    cluster.show(1..=3, 5);
    assert_eq!(cluster.at(1).covering(size(5)).await, None);
    for node in [1, 2] {
        assert_eq!(cluster.counted(node, "COSIGNING_OtherRoot"), 1, "node {node}");
    }
    let signed = read_signed_head(environment().disk.as_ref(), &cluster.directory(2).signing_state()).unwrap();
    assert_eq!(signed.size, size(0), "it has signed nothing");
    // The other two agree, and then the odd one learns that it is odd.
    cluster.silence(&[]);
    let signed = cluster.at(1).covering(size(5)).await.unwrap();
    cluster.check(&signed);
    cluster.show(1..=3, 4);
    cluster.visible[1].send_replace(size(5));
    assert_eq!(cluster.at(2).covering(size(4)).await, None);
    assert!(cluster.counted(2, "COSIGNING_OtherRoot") > 1);
    assert_eq!(cluster.at(2).complete.borrow().clone(), None);
}

#[tokio::test(start_paused = true)]
async fn a_node_signs_when_it_has_as_much_and_not_before() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.show(1..=1, 5);
    cluster.show(2..=2, 4);
    let ask = |wait| {
        let request = CosignRequest { head: SignedHead { size: size(5), root: root(size(5), 0) }, wait };
        cluster.at(2).cosign(NodeId::new(1), request)
    };
    assert_eq!(ask(Duration::from_secs(9)).await, Ok(Cosigned::NotYet(size(4))));
    let mut waits = ask(Duration::from_secs(9));
    assert!(waits.as_mut().now_or_never().is_none());
    cluster.show(2..=2, 6);
    assert!(matches!(waits.await, Ok(Cosigned::Signed(_))));
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_takes_the_newer_checkpoint_when_it_has_as_much() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.show(1..=2, 9);
    cluster.show(3..=3, 7);
    cluster.silence(&[3]);
    let newer = cluster.at(1).covering(size(9)).await.unwrap();
    let behind = tokio::spawn({
        let node = Arc::clone(cluster.at(3));
        async move { node.covering(size(7)).await }
    });
    cluster.net.asked.subscribe().wait_for(|asked| asked.iter().any(|(_, size)| *size == 7)).await.unwrap();
    cluster.show(3..=3, 9);
    let taken = behind.await.unwrap().unwrap();
    cluster.check(&taken);
    assert_eq!(taken.size, newer.size);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_good_again_after_a_start_where_the_root_still_is() {
    let mut cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.show(1..=3, 5);
    let signed = cluster.at(1).covering(size(5)).await.unwrap();
    cluster.kept(1, &signed).await;
    cluster.tasks.clear();
    for (tampered, good) in [(false, true), (true, false)] {
        let again = cluster.node(1, tampered);
        cluster.visible.last().unwrap().send_replace(size(6));
        let _task = Owned(tokio::spawn(Arc::clone(&again).run(CancellationToken::new())));
        let taken = timeout(TIMEOUT, again.complete.subscribe().wait_for(Option::is_some)).await.is_ok();
        assert_eq!(taken, good);
    }
    assert_eq!(cluster.net.asked.borrow().len(), 2, "nobody was asked again");
}

#[tokio::test(start_paused = true)]
async fn signatures_that_do_not_hold_are_left_out_and_counted() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    cluster.show(1..=3, 5);
    // A node's signatures under another size, and under another root.
    let signer = Signer::new(&environment(), cluster.directory(2).path());
    let other = async |of: u64, kind: u8| {
        let head = SignedHead { size: size(of), root: root(size(of), kind) };
        let shown = Shown { visible: head.size, root: Some(head.root) };
        let Signing::Signed(signed) = signer.sign(&cluster.genesis, head, shown).await.unwrap() else { panic!() };
        lines(&signed)
    };
    let lies = [other(4, 0).await, other(5, 9).await, "no line\n".to_owned()];
    for (lie, count) in lies.into_iter().zip([2, 4, 6]) {
        *lock(&cluster.net.lie) = Some(Cosigned::Signed(lie));
        assert_eq!(cluster.at(1).covering(size(5)).await, None);
        assert_eq!(cluster.counted(1, "COSIGNING_BadSignature"), count);
    }
    *lock(&cluster.net.lie) = Some(Cosigned::Passed { size: size(6), note: "no note".to_owned() });
    assert_eq!(cluster.at(1).covering(size(5)).await, None);
    assert!(cluster.counted(1, "COSIGNING_BadSignature") > 6);
    assert_eq!(cluster.at(1).complete.borrow().clone(), None);
}

/// How often a node was asked.
fn asked(cluster: &Cluster, node: u64) -> usize {
    cluster.net.asked.borrow().iter().filter(|(asked, _)| *asked == node).count()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joined_later_compares_its_root_and_is_asked_once_for_each_checkpoint() {
    let cluster = Cluster::with_late(&["a", "b", "c", "d"], &[], &[4]);
    cluster.show(1..=4, 5);
    cluster.check(&cluster.at(1).covering(size(5)).await.unwrap());
    sleep(Duration::from_secs(60)).await;
    assert_eq!((asked(&cluster, 4), cluster.at(1).agreed(NodeId::new(4))), (1, Some(size(5))));
    assert_eq!(cluster.counted(4, "COSIGNING_Unsigned"), 1);
    assert_eq!(cluster.counted(1, "COSIGNING_BadSignature"), 0);
    // It knows once and for all, and has no use for its keys.
    std::fs::remove_dir_all(cluster.directory(4).keys()).unwrap();
    for more in 6..=8 {
        cluster.show(1..=4, more);
        cluster.check(&cluster.at(1).covering(size(more)).await.unwrap());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(cluster.at(1).agreed(NodeId::new(4)), Some(size(more)));
    }
    assert_eq!((asked(&cluster, 4), cluster.counted(4, "COSIGNING_Unsigned")), (4, 4));
    // What it hands out itself is signed by the others, who learn that they agree.
    cluster.show(1..=4, 9);
    cluster.check(&cluster.at(4).covering(size(9)).await.unwrap());
    sleep(Duration::from_secs(60)).await;
    assert_eq!([1, 2, 3].map(|node| cluster.at(node).agreed(NodeId::new(4))), [Some(size(9)); 3]);
    assert_eq!([1, 2, 3].map(|node| cluster.at(4).agreed(NodeId::new(node))), [Some(size(9)); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joined_later_with_another_root_is_told_from_one_with_the_same() {
    let cluster = Cluster::with_late(&["a", "b", "c", "d"], &[4], &[4]);
    cluster.show(1..=4, 5);
    cluster.check(&cluster.at(1).covering(size(5)).await.unwrap());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.at(1).agreed(NodeId::new(4)), None);
    for node in [1, 4] {
        assert_eq!(cluster.counted(node, "COSIGNING_OtherRoot"), 1, "node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_the_key_of_another_is_no_node_that_joined_later() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    let (own, other) = (cluster.directory(3), cluster.directory(2));
    std::fs::copy(other.log_key(), own.log_key()).unwrap();
    std::fs::remove_file(own.cosigner_key()).unwrap();
    let site = SiteName::new("c").unwrap();
    let origin = Origin::new(ORIGIN).unwrap();
    // One of the same name: this node's, but not the one that the log was made with.
    make_or_load(&environment(), own.path(), (NodeId::new(3), &site), &origin).unwrap();
    cluster.show(1..=3, 5);
    let request = CosignRequest { head: SignedHead { size: size(5), root: root(size(5), 0) }, wait: TIMEOUT };
    assert_eq!(cluster.at(3).cosign(NodeId::new(1), request).await, Err(CannotCosign));
    assert_eq!(cluster.counted(3, "COSIGNING_Unsigned"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_answer_is_asked_less_and_less_often_and_again_when_it_can() {
    let cluster = Cluster::new(&["a", "b", "c"], &[]);
    let (key, aside) = (cluster.directory(3).cosigner_key(), cluster.scratch.path().join("aside"));
    std::fs::copy(&key, &aside).unwrap();
    std::fs::remove_file(&key).unwrap();
    // Something newer all the time.
    for more in 1..=100 {
        cluster.show(1..=3, more);
        cluster.check(&cluster.at(1).covering(size(more)).await.unwrap());
        sleep(Duration::from_millis(100)).await;
    }
    let times = asked(&cluster, 3);
    assert!((5..=20).contains(&times), "asked {times} times within 10 s");
    std::fs::copy(&aside, &key).unwrap();
    let heard = async {
        for more in 101.. {
            if cluster.at(1).agreed(NodeId::new(3)).is_some() {
                return;
            }
            cluster.show(1..=3, more);
            cluster.check(&cluster.at(1).covering(size(more)).await.unwrap());
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(10), heard).await.expect("it is not asked again");
}
