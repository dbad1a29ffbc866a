//! Checkpoints that a quorum of sites has signed, made on demand.
//!
//! As soon as something that is committed waits for a checkpoint, this node shows the others the size and root of what
//! it has applied and flushed, and signs them itself; each of the others signs if it has the same. The newest visible
//! size is shown, and whoever waits for a smaller one is served by it. When the signatures meet the policy of the log
//! (the fastest that do), all of them stand under one note, which is handed out and kept as `checkpoint`; later ones of
//! the same size are added. Whoever has waited for `proof.timeout` goes without.
//!
//! Any node may ask, at the same time as others. A node that has signed a larger size goes not back: it answers with
//! the newest note that it knows to meet the policy, which is as good, once this node has as much itself and found the
//! same root.
//!
//! I-COSIGNING-1: one exchange is in flight, and at most one question to each node. I-COSIGNING-2: what is handed out
//! meets the policy, and its root is the one that this node computed. I-COSIGNING-3: whoever waits is answered, or goes
//! without, within `proof.timeout`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use openraft::base::BoxFuture;
use stele_engine::checkpointing::{store_checkpoint, stored_checkpoint};
use stele_engine::environment::Environment;
use stele_engine::number::NodeId;
use stele_engine::reserved::Genesis;
use stele_engine::signing_state::SignedHead;
use stele_proof::TreeSize;
use stele_proof::checkpoint::Origin;
use stele_proof::policy::Policy;
use stele_proof::tree::Hash;
use stele_raft::peer::client::PeerError;
use stele_raft::peer::cosign::{
    CannotCosign, Cosign, CosignRequest, Cosigned, MAX_COSIGN_WAIT, MAX_COSIGNED_NOTE_BYTES,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Distrust};
use crate::signing::{Shown, Signer, Signing};

mod assembly;
mod members;

use assembly::{Assembly, judge_note};
pub use members::{Members, OwnCopy};

/// Answers of other nodes that wait to be looked at.
const MAX_ANSWERS: usize = 64;
/// From one question to the next to a node that could not answer, longer after each time; before one is asked again that
/// has not as much.
const PAUSE: Duration = Duration::from_millis(50);
/// Where that ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A checkpoint with its signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// How many records it covers.
    pub size: TreeSize,
    /// Their root.
    pub root: Hash,
    /// The signed note.
    pub note: Arc<str>,
}

/// This node's copy of the log, as far as it is signed for.
pub trait LogCopy: Send + Sync + 'static {
    /// The genesis record, once it is applied.
    fn genesis(&self) -> Option<Genesis>;

    /// What is applied and flushed here; `None` once the node stops.
    fn head(&self) -> Option<SignedHead>;

    /// The root at a size that is applied and flushed here; `None` where it cannot be told.
    fn root_at(&self, size: TreeSize) -> BoxFuture<'_, Option<Hash>>;
}

/// The other nodes.
pub trait Others: Send + Sync + 'static {
    /// Who they are now.
    fn all(&self) -> Vec<NodeId>;

    /// Asks one. Ends a little after the time that the request says, at the latest.
    fn ask(&self, node: NodeId, request: CosignRequest) -> BoxFuture<'_, Result<Cosigned, PeerError>>;
}

/// What checkpoints are made of.
pub struct Parts {
    /// The system.
    pub environment: Environment,
    /// This node's copy.
    pub copy: Arc<dyn LogCopy>,
    /// The other nodes.
    pub others: Arc<dyn Others>,
    /// This node's keys.
    pub signer: Signer,
    /// How much is applied and flushed here.
    pub visible: watch::Receiver<TreeSize>,
    /// How long a checkpoint is waited for.
    pub timeout: Duration,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// Makes checkpoints, and signs those of others.
pub struct Cosigning {
    parts: Parts,
    log: OnceLock<Log>,
    /// For which sizes somebody waits, and how many do.
    waiting: Mutex<BTreeMap<TreeSize, usize>>,
    wanted: Notify,
    /// The newest that meets the policy.
    complete: watch::Sender<Option<Signed>>,
    /// What the last exchange has got, or had when it ended, short of the policy.
    partial: Mutex<Option<Signed>>,
    /// The largest size at which each node was seen to have the root of this one.
    agreed: Mutex<BTreeMap<NodeId, TreeSize>>,
}

/// What never changes of a log.
struct Log {
    genesis: Genesis,
    origin: Origin,
    policy: Arc<Policy>,
}

/// A tree head that is shown to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    head: SignedHead,
    until: Instant,
}

/// What a node said.
struct Answered {
    node: NodeId,
    head: SignedHead,
    said: Result<Cosigned, PeerError>,
}

/// What others have that is newer.
#[derive(Default)]
struct Ahead {
    /// What was signed.
    passed: Option<TreeSize>,
    /// The newest note that meets the policy.
    offer: Option<Signed>,
    /// A note had another root than this node: no other is taken, and the time is waited out.
    refused: bool,
}

/// Counts somebody who waits, until dropped.
struct Waiter<'a> {
    cosigning: &'a Cosigning,
    size: TreeSize,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.cosigning.waiting);
        if let Some(count) = waiting.get_mut(&self.size) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.size);
            }
        }
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cosigning {
    /// Makes nothing until [`Cosigning::run`].
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            log: OnceLock::new(),
            waiting: Mutex::default(),
            wanted: Notify::new(),
            complete: watch::Sender::new(None),
            partial: Mutex::default(),
            agreed: Mutex::default(),
        }
    }

    /// A checkpoint of at least so many records that meets the policy of the log; `None` where none came about in
    /// time.
    pub async fn covering(&self, size: TreeSize) -> Option<Signed> {
        let covers = |newest: &Option<Signed>| newest.as_ref().is_some_and(|newest| newest.size >= size);
        let mut complete = self.complete.subscribe();
        if !covers(&complete.borrow()) {
            *lock(&self.waiting).entry(size).or_default() += 1;
            let _waiter = Waiter { cosigning: self, size };
            self.wanted.notify_one();
            timeout(self.parts.timeout, complete.wait_for(covers)).await.ok()?.ok()?;
        }
        complete.borrow().clone()
    }

    /// The newest checkpoint that meets the policy; else one with fewer signatures.
    pub fn newest(&self) -> Option<Signed> {
        let complete = self.complete.borrow().clone();
        complete.or_else(|| lock(&self.partial).clone())
    }

    /// A checkpoint of at least so many records with the signatures that came, short of the policy.
    pub fn partial(&self, size: TreeSize) -> Option<Signed> {
        lock(&self.partial).clone().filter(|partial| partial.size >= size)
    }

    /// The largest size at which a node was seen to have the root of this one, since this one was started.
    pub fn agreed(&self, node: NodeId) -> Option<TreeSize> {
        lock(&self.agreed).get(&node).copied()
    }

    /// The size of the newest checkpoint that meets the policy, the root of which is that of this node.
    pub fn complete(&self) -> Option<TreeSize> {
        self.complete.borrow().as_ref().map(|newest| newest.size)
    }

    /// Makes checkpoints until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            tokio::join!(self.work(), self.keep());
        };
        stop.run_until_cancelled(work).await;
    }

    /// Stores what is complete, the newest only.
    async fn keep(&self) {
        let mut complete = self.complete.subscribe();
        while complete.changed().await.is_ok() {
            let Some(newest) = complete.borrow_and_update().clone() else { continue };
            let (disk, directory) = (Arc::clone(&self.parts.environment.disk), self.parts.signer.directory().clone());
            let store = move || store_checkpoint(disk.as_ref(), &directory, &newest.note);
            match tokio::task::spawn_blocking(store).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the checkpoint cannot be kept"),
                Err(error) => tracing::error!(%error, "keeping the checkpoint died"),
            }
        }
    }

    async fn work(&self) {
        let log = self.wait_for_log().await;
        self.take_up_stored(log).await;
        let (tell, mut answers) = mpsc::channel(MAX_ANSWERS);
        let target = watch::Sender::new(None);
        let mut asking = BTreeMap::new();
        let mut last: Option<Assembly> = None;
        loop {
            let head = loop {
                tokio::select! {
                    Some(answered) = answers.recv() => self.late(last.as_mut(), &answered),
                    head = self.due() => break head,
                }
            };
            self.ask_all(&mut asking, &target, &tell);
            last = Some(self.exchange(log, head, &target, &mut answers).await);
        }
    }

    /// What is known of the log, once it has its first record.
    fn log(&self) -> Option<&Log> {
        if let Some(log) = self.log.get() {
            return Some(log);
        }
        let genesis = self.parts.copy.genesis()?;
        let (Ok(origin), Ok(policy)) = (Origin::new(&genesis.origin), Policy::parse(genesis.policy.as_bytes())) else {
            tracing::error!("the genesis record has no policy that can be read: nothing is signed");
            return None;
        };
        Some(self.log.get_or_init(|| Log { genesis, origin, policy: Arc::new(policy) }))
    }

    async fn wait_for_log(&self) -> &Log {
        let mut visible = self.parts.visible.clone();
        loop {
            if let Some(log) = self.log() {
                return log;
            }
            if visible.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Begins with what was kept, where it is still good.
    async fn take_up_stored(&self, log: &Log) {
        let (disk, directory) = (Arc::clone(&self.parts.environment.disk), self.parts.signer.directory().clone());
        let read = tokio::task::spawn_blocking(move || stored_checkpoint(disk.as_ref(), &directory)).await;
        let stored = match read {
            Ok(Ok(stored)) => stored.and_then(|(note, _)| judge_note(&note, &log.origin, &log.policy)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the stored checkpoint is left out");
                None
            }
            Err(error) => {
                tracing::error!(%error, "reading the stored checkpoint died");
                None
            }
        };
        if let Some(stored) = stored.filter(|stored| *self.parts.visible.borrow() >= stored.size) {
            self.adopt(&stored).await;
        }
    }

    /// Waits until somebody waits for a checkpoint that can be made; what it is of.
    async fn due(&self) -> SignedHead {
        let mut visible = self.parts.visible.clone();
        loop {
            visible.mark_unchanged();
            let made = self.complete.borrow().as_ref().map_or(TreeSize::new(0), |newest| newest.size);
            let shown = *self.parts.visible.borrow();
            let waits = lock(&self.waiting).range(..=shown).next_back().is_some_and(|(size, _)| *size > made);
            if waits && let Some(head) = self.parts.copy.head() {
                return head;
            }
            tokio::select! {
                () = self.wanted.notified() => {}
                changed = visible.changed() => if changed.is_err() { std::future::pending().await },
            }
        }
    }

    /// A task for each of the others, which asks it for what is newest, one question at a time (I-COSIGNING-1).
    fn ask_all(
        &self,
        asking: &mut BTreeMap<NodeId, Owned>,
        target: &watch::Sender<Option<Target>>,
        tell: &mpsc::Sender<Answered>,
    ) {
        let now = self.parts.others.all();
        asking.retain(|node, task| {
            if task.0.is_finished() {
                tracing::error!(node = node.get(), "the task that asks for cosignatures died");
            }
            now.contains(node) && !task.0.is_finished()
        });
        for node in now {
            asking.entry(node).or_insert_with(|| {
                let others = Arc::clone(&self.parts.others);
                Owned(tokio::spawn(ask_one(others, node, target.subscribe(), tell.clone())))
            });
        }
    }

    /// Shows a tree head to all, and ends when the policy is met, when others are known to have something newer that
    /// this node has too, or when the time is over.
    async fn exchange(
        &self,
        log: &Log,
        head: SignedHead,
        target: &watch::Sender<Option<Target>>,
        answers: &mut mpsc::Receiver<Answered>,
    ) -> Assembly {
        let until = Instant::now() + self.parts.timeout;
        target.send_replace(Some(Target { head, until }));
        let mut assembly = Assembly::new(&log.origin, head, Arc::clone(&log.policy));
        let mut ahead = Ahead::default();
        let mut visible = self.parts.visible.clone();
        let shown = Shown { visible: head.size, root: Some(head.root) };
        let mut own = std::pin::pin!(self.parts.signer.sign(&log.genesis, head, shown));
        let mut own_is_out = true;
        loop {
            let newer = ahead.offer.as_ref().map(|offer| offer.size).or(ahead.passed);
            tokio::select! {
                signed = &mut own, if own_is_out => {
                    own_is_out = false;
                    self.own(signed, &mut assembly, &mut ahead);
                }
                Some(answered) = answers.recv() => self.answered(log, answered, &mut assembly, &mut ahead),
                true = reached(&mut visible, newer), if newer.is_some() => {
                    match ahead.offer.take() {
                        Some(offer) if !self.adopt(&offer).await => ahead = Ahead { refused: true, ..Ahead::default() },
                        _ => return assembly,
                    }
                }
                () = sleep_until(until) => {
                    tracing::info!(size = %head.size, "a checkpoint was not signed by a quorum of sites in time");
                    return assembly;
                }
            }
            if let Some(complete) = assembly.complete() {
                self.publish(complete);
                return assembly;
            }
            if let Some(signed) = assembly.signed() {
                *lock(&self.partial) = Some(signed);
            }
        }
    }

    /// What this node itself made of a tree head.
    fn own(&self, signed: Result<Signing, stele_engine::error::LogError>, assembly: &mut Assembly, ahead: &mut Ahead) {
        match signed {
            Ok(Signing::Signed(signed)) => {
                if let Err(error) = assembly.add(&lines(&signed)) {
                    tracing::error!(%error, "this node's own signature does not hold");
                }
            }
            // It was just started, and has not applied again all that it signed.
            Ok(Signing::Passed(size)) => ahead.passed = ahead.passed.max(Some(size)),
            Ok(Signing::Differs(root)) => {
                self.parts.counters.distrusted(Distrust::OtherRoot);
                let SignedHead { size, root: now } = assembly.head();
                tracing::error!(%size, ?now, signed = ?root, "this node signed another root for this size: its log was changed");
            }
            Ok(Signing::Same) => self.parts.counters.unsigned(),
            Ok(Signing::NotYet) => {}
            Err(error) => tracing::warn!(%error, "this node does not sign"),
        }
    }

    /// A node has the root of this one.
    fn agree(&self, node: NodeId, size: TreeSize) {
        let mut agreed = lock(&self.agreed);
        let agreed = agreed.entry(node).or_insert(size);
        *agreed = size.max(*agreed);
    }

    /// What another node said.
    fn answered(&self, log: &Log, answered: Answered, assembly: &mut Assembly, ahead: &mut Ahead) {
        let node = answered.node.get();
        if answered.head != *assembly.head() {
            return;
        }
        match &answered.said {
            Ok(Cosigned::Passed { size, note }) => {
                if ahead.refused || *size <= answered.head.size {
                    return;
                }
                ahead.passed = ahead.passed.max(Some(*size));
                if note.is_empty() {
                    return;
                }
                let made = self.complete.borrow().as_ref().map(|newest| newest.size);
                match judge_note(note, &log.origin, &log.policy) {
                    Some(offer) if Some(offer.size) > made.max(ahead.offer.as_ref().map(|offer| offer.size)) => {
                        ahead.offer = Some(offer);
                    }
                    Some(_) => {}
                    None => {
                        self.parts.counters.distrusted(Distrust::BadSignature);
                        tracing::warn!(node, "a node sent a checkpoint that does not meet the policy");
                    }
                }
            }
            _ => {
                self.signatures(&answered, assembly);
            }
        }
    }

    /// An answer that came after the exchange: its signature is added, where the checkpoint is still the newest.
    fn late(&self, last: Option<&mut Assembly>, answered: &Answered) {
        let Some(assembly) = last.filter(|assembly| *assembly.head() == answered.head) else { return };
        let newest = self.complete.borrow().as_ref().is_some_and(|newest| newest.size == answered.head.size);
        if self.signatures(answered, assembly)
            && newest
            && let Some(complete) = assembly.complete()
        {
            self.publish(complete);
        }
    }

    /// Takes the signatures of an answer; whether there are new ones.
    fn signatures(&self, answered: &Answered, assembly: &mut Assembly) -> bool {
        let (node, size) = (answered.node, answered.head.size);
        match &answered.said {
            Ok(Cosigned::Signed(lines)) => match assembly.add(lines) {
                Ok(new) => {
                    self.agree(node, size);
                    return new;
                }
                Err(error) => {
                    self.parts.counters.distrusted(Distrust::BadSignature);
                    tracing::warn!(%error, node = node.get(), "a node sent a signature that does not hold");
                }
            },
            Ok(Cosigned::Same) => self.agree(node, size),
            Ok(Cosigned::Differs(root)) => {
                self.parts.counters.distrusted(Distrust::OtherRoot);
                let here = answered.head.root;
                tracing::error!(
                    node = node.get(), %size, ?here, there = ?root,
                    "another node has another root for this size: one of the two copies differs from the log"
                );
            }
            Ok(Cosigned::NotYet(visible)) => {
                tracing::debug!(node = node.get(), %size, %visible, "a node has not as much yet");
            }
            Ok(Cosigned::Passed { .. }) => {}
            Err(error) => tracing::debug!(%error, node = node.get(), "a node was not asked"),
        }
        false
    }

    /// Takes a checkpoint that others made, of a size that is visible here, if the root is the same (I-COSIGNING-2).
    async fn adopt(&self, offer: &Signed) -> bool {
        match self.parts.copy.root_at(offer.size).await {
            Some(root) if root == offer.root => {
                self.publish(offer.clone());
                return true;
            }
            Some(root) => {
                self.parts.counters.distrusted(Distrust::OtherRoot);
                tracing::error!(
                    size = %offer.size, here = ?root, signed = ?offer.root,
                    "a quorum of sites signed another root than this node has: this copy differs from the log"
                );
            }
            None => tracing::debug!(size = %offer.size, "the root at the size of a checkpoint cannot be told"),
        }
        false
    }

    fn publish(&self, complete: Signed) {
        self.complete.send_if_modified(|newest| {
            let newer = newest.as_ref().is_none_or(|newest| newest.size <= complete.size);
            if newer {
                *newest = Some(complete);
            }
            newer
        });
    }

    /// Signs what another node shows, or says why not.
    async fn answer(&self, from: NodeId, request: CosignRequest) -> Result<Cosigned, CannotCosign> {
        let CosignRequest { head, wait } = request;
        let mut visible = self.parts.visible.clone();
        let until = Instant::now() + wait.min(MAX_COSIGN_WAIT);
        // Where it is not reached in time, or the node stops, that is the answer.
        drop(timeout_at(until, visible.wait_for(|visible| *visible >= head.size)).await);
        let now = *self.parts.visible.borrow();
        let Some(log) = self.log() else { return Ok(Cosigned::NotYet(now)) };
        let root = if head.size <= now { self.parts.copy.root_at(head.size).await } else { None };
        let signing = self.parts.signer.sign(&log.genesis, head, Shown { visible: now, root }).await;
        match signing {
            Ok(Signing::Signed(signed)) => {
                self.agree(from, head.size);
                Ok(Cosigned::Signed(lines(&signed)))
            }
            Ok(Signing::Same) => {
                self.parts.counters.unsigned();
                self.agree(from, head.size);
                Ok(Cosigned::Same)
            }
            Ok(Signing::NotYet) => Ok(Cosigned::NotYet(now)),
            Ok(Signing::Passed(size)) => {
                let newest = self.complete.borrow().clone();
                let note = newest.filter(|newest| newest.note.len() <= MAX_COSIGNED_NOTE_BYTES);
                Ok(Cosigned::Passed { size, note: note.map_or_else(String::new, |newest| newest.note.to_string()) })
            }
            Ok(Signing::Differs(root)) => {
                self.parts.counters.distrusted(Distrust::OtherRoot);
                tracing::error!(
                    node = from.get(), size = %head.size, here = ?root, there = ?head.root,
                    "another node shows another root for this size: one of the two copies differs from the log"
                );
                Ok(Cosigned::Differs(root))
            }
            Err(error) => {
                tracing::warn!(%error, "this node does not sign");
                Err(CannotCosign)
            }
        }
    }
}

impl Cosign for Cosigning {
    fn cosign(&self, from: NodeId, request: CosignRequest) -> BoxFuture<'_, Result<Cosigned, CannotCosign>> {
        Box::pin(self.answer(from, request))
    }
}

/// The signature lines of this node, as they stand in a note.
fn lines(signed: &stele_engine::checkpointing::SignedCheckpoint) -> String {
    format!("{}\n{}\n", signed.log, signed.site)
}

/// Waits until so many records are visible; `false` once the node stops.
async fn reached(visible: &mut watch::Receiver<TreeSize>, size: Option<TreeSize>) -> bool {
    visible.wait_for(|visible| size.is_some_and(|size| *visible >= size)).await.is_ok()
}

/// Asks one node for what is newest, again and again; ends when nobody wants answers.
async fn ask_one(
    others: Arc<dyn Others>,
    node: NodeId,
    mut target: watch::Receiver<Option<Target>>,
    answers: mpsc::Sender<Answered>,
) {
    let mut pause = PAUSE;
    loop {
        let shown = *target.borrow_and_update();
        let wait = shown.map(|shown| (shown.head, shown.until.saturating_duration_since(Instant::now())));
        if let Some((head, wait)) = wait.filter(|(_, wait)| wait.as_millis() > 0) {
            let began = Instant::now();
            let said = others.ask(node, CosignRequest { head, wait: wait.min(MAX_COSIGN_WAIT) }).await;
            let (failed, not_yet) = (said.is_err(), matches!(said, Ok(Cosigned::NotYet(_))));
            if answers.send(Answered { node, head, said }).await.is_err() {
                return;
            }
            if failed {
                // Also where there is something newer: under load there always is.
                sleep_until(began + pause).await;
                pause = LONGEST_PAUSE.min(2 * pause);
                continue;
            }
            pause = PAUSE;
            if not_yet {
                tokio::select! {
                    changed = target.changed() => if changed.is_err() { return },
                    () = sleep(PAUSE) => {}
                }
                continue;
            }
        }
        if target.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
