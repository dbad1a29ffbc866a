//! A node that was let in: its copy of the log, openraft, and the tasks beside it.
//!
//! What is remembered of its peers is saved once a second where it has changed, and when the node stops; what a crash
//! forgets of it only makes the node less of a witness. A node that is told that it is stale stops consensus at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::network::RaftNetworkFactory;
use openraft::{Config, SnapshotPolicy};
use stele_engine::chains::WINDOW;
use stele_engine::disk::DiskError;
use stele_engine::environment::Environment;
use stele_engine::error::{LogError, Poisoned};
use stele_engine::local::SealSettings;
use stele_engine::membership::Membership;
use stele_engine::number::NodeId;
use stele_engine::replica::Opened;
use stele_engine::reserved::Genesis;
use stele_engine::store::{AppendError, SegmentStore};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use crate::entry::TypeConfig;
use crate::gate::LetIn;
use crate::intake::Intake;
use crate::leading::Leading;
use crate::machine::{Machine, SharedReplica};
use crate::raft_log::RaftLog;
use crate::standing::Standing;
use crate::starting::{StaleNode, Starting, durable, keep_stale};

/// How often what is remembered of peers is saved, where it has changed.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How a node is run.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// How often a leader tells that it is there.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a time between these asks for votes.
    pub election: (Duration, Duration),
    /// When open segments are ended early.
    pub seal: SealSettings,
    /// Identities that a leader remembers beside the heads of the chains, at most [`WINDOW`]: a record that is sent
    /// again is answered from memory, and an older one by looking into the log.
    pub remembered: usize,
}

impl Default for NodeSettings {
    /// For sites a few milliseconds apart: failover within two seconds.
    fn default() -> Self {
        let election = (Duration::from_millis(400), Duration::from_millis(700));
        Self { heartbeat: Duration::from_millis(150), election, seal: SealSettings::default(), remembered: WINDOW }
    }
}

/// What a log is born with, where this node may be the first to lead it.
#[derive(Clone, Debug)]
pub struct Birth {
    /// The first entry: the nodes as they were agreed on outside, the same bytes everywhere.
    pub membership: Membership,
    /// What the first leader writes into leaf 0.
    pub genesis: Genesis,
}

/// What an empty log begins with. A log that holds entries goes on with those, whatever is said here.
#[derive(Clone, Debug)]
pub enum Begin {
    /// With the others of a new cluster, each by itself.
    Cluster(Birth),
    /// With what a cluster sends that has taken this node in as a learner.
    Join,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its copy of the log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log was born with other nodes.
    #[error("the log in this directory began with another initial cluster or token; give it its own directory")]
    OtherCluster,
    /// The first entry could not be appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// openraft refuses what it was given.
    #[error("consensus did not start: {0}")]
    Consensus(String),
    /// Its last group was torn, and its peers were not asked for it.
    #[error(
        "the last entries of the log were torn by a crash, and peers are to be asked for them before this node begins"
    )]
    InDoubt,
    /// A peer remembers more of this node than lies in its directory.
    #[error(transparent)]
    Stale(#[from] StaleNode),
}

impl From<Poisoned> for StartError {
    fn from(error: Poisoned) -> Self {
        Self::Log(error.into())
    }
}

impl From<DiskError> for StartError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// A running node.
pub struct Node {
    raft: openraft::Raft<TypeConfig, Machine>,
    replica: SharedReplica,
    intake: Intake,
    leading: JoinHandle<()>,
    standing: Standing,
    remembering: JoinHandle<()>,
}

impl Node {
    /// Opens the log in `path` and begins consensus without asking any peer: where nobody can be asked.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start<N>(
        environment: &Environment,
        path: &Path,
        settings: NodeSettings,
        begin: &Begin,
        network: N,
    ) -> Result<Self, StartError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: openraft::network::NetSnapshot<TypeConfig, SnapshotData = ()>,
    {
        Starting::open(environment, path, settings, begin)?.begin(LetIn::unasked(), network).await
    }

    /// Begins consensus over a log that is open.
    pub(crate) async fn begin<N>(
        environment: &Environment,
        settings: NodeSettings,
        begin: &Begin,
        opened: Opened,
        standing: Standing,
        network: N,
    ) -> Result<Self, StartError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: openraft::network::NetSnapshot<TypeConfig, SnapshotData = ()>,
    {
        let id = opened.hard_state.node.get();
        let store = Arc::clone(opened.replica.store());
        let directory = opened.replica.directory().clone();
        let alignment = opened.replica.tail().alignment;
        let committed = opened.applied;
        let log = RaftLog::new(Arc::clone(&store), &environment.disk, &directory, alignment, opened.hard_state.vote);
        log.recovered(committed).await.map_err(|error| StartError::Consensus(error.to_string()))?;
        standing.follow(log.durable());
        let (machine, replica) = Machine::new(opened);
        let config = config(&settings).map_err(|error| StartError::Consensus(error.to_string()))?;
        let raft = openraft::Raft::new(id, Arc::new(config), network, log, machine)
            .await
            .map_err(|error| StartError::Consensus(error.to_string()))?;
        let (intake, messages) = Intake::new();
        let leading = Leading {
            raft: raft.clone(),
            replica: replica.clone(),
            messages,
            clock: Arc::clone(&environment.clock),
            settings: settings.seal,
            lease: settings.election.1,
            remembered: settings.remembered,
            genesis: match begin {
                Begin::Cluster(birth) => Some(birth.genesis.clone()),
                Begin::Join => None,
            },
        };
        let leading = tokio::spawn(leading.run());
        let remembering = tokio::spawn(remember(standing.clone(), store, raft.clone()));
        Ok(Self { raft, replica, intake, leading, standing, remembering })
    }

    /// openraft.
    pub const fn raft(&self) -> &openraft::Raft<TypeConfig, Machine> {
        &self.raft
    }

    /// This node's copy of the log.
    pub const fn replica(&self) -> &SharedReplica {
        &self.replica
    }

    /// The way in for records.
    pub const fn intake(&self) -> &Intake {
        &self.intake
    }

    /// What a peer said, where one found this node stale: then consensus stops here, for good.
    pub fn stale(&self) -> Option<StaleNode> {
        let told = Some(self.standing.told()?);
        Some(StaleNode { node: NodeId::new(*self.raft.node_id()), told })
    }

    /// Whether the tasks beside consensus still run: without them it would go on and serve nobody.
    pub fn is_whole(&self) -> bool {
        !self.leading.is_finished() && !self.remembering.is_finished()
    }

    /// Stops as a kill would stop it, as far as one process can: openraft and the tasks end, and the log is not closed.
    pub async fn abandon(self) {
        let Self { raft, replica, intake, leading, standing, remembering } = self;
        leading.abort();
        end(remembering, &standing).await;
        drop((intake, leading.await, raft.shutdown().await, raft));
        drop(replica);
    }

    /// Stops: no more intake, openraft ends, the log is closed cleanly.
    ///
    /// # Errors
    /// [`LogError`]: what made the store stop before.
    pub async fn stop(self) -> Result<(), LogError> {
        let Self { raft, replica, intake, leading, standing, remembering } = self;
        drop(intake);
        // A task of openraft that died of a panic has told so; the log is closed all the same.
        drop(raft.shutdown().await);
        leading.abort();
        drop(leading.await);
        end(remembering, &standing).await;
        drop(raft);
        // Whoever still looks at the copy goes on looking; nothing is appended to it any more.
        let store = Arc::clone(replica.lock().store());
        save_marks(&standing, &store).await?;
        spawn_blocking(move || store.close()).await.unwrap_or_else(|died| Err(Poisoned(died.to_string().into()).into()))
    }
}

/// Saves what is remembered of peers as it changes; stops consensus where one of them finds this node stale.
async fn remember(standing: Standing, store: Arc<SegmentStore>, raft: openraft::Raft<TypeConfig, Machine>) {
    loop {
        let told = tokio::select! {
            told = standing.wait_told() => told,
            () = sleep(SAVE_EVERY) => match save_marks(&standing, &store).await {
                Ok(()) => continue,
                // Whoever appends or votes learns why, too.
                Err(error) => return tracing::error!(%error, "what is remembered of peers cannot be saved"),
            },
        };
        tracing::error!(by = %told.by, stale = %told.stale, "this node is stale; consensus stops here");
        // Both at once: neither a disk that hangs nor a task of openraft that does keeps the other waiting.
        let (stopped, kept) = tokio::join!(raft.shutdown(), keep_stale(&store));
        if stopped.is_err() || kept.is_err() {
            tracing::error!(?stopped, ?kept, "a stale node did not stop well");
        }
        return;
    }
}

/// Ends the task that remembers; one that keeps that the node is stale ends by itself.
async fn end(remembering: JoinHandle<()>, standing: &Standing) {
    if standing.told().is_none() {
        remembering.abort();
    }
    drop(remembering.await);
}

async fn save_marks(standing: &Standing, store: &SegmentStore) -> Result<(), Poisoned> {
    match standing.marks().save_changed(|marks| durable(|told| store.save_peers(marks, told))) {
        Some(saved) => saved.await,
        None => Ok(()),
    }
}

fn config(settings: &NodeSettings) -> Result<Config, openraft::ConfigError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "stele".to_owned(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election.0),
        election_timeout_max: millis(settings.election.1),
        // Nothing is purged, so nothing needs a snapshot.
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate()
}
