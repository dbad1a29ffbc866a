//! A node: its copy of the log, openraft, and the tasks beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::network::RaftNetworkFactory;
use openraft::{Config, SnapshotPolicy};
use stele_engine::chains::WINDOW;
use stele_engine::disk::DiskError;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::EntryKind;
use stele_engine::local::SealSettings;
use stele_engine::membership::Membership;
use stele_engine::number::{RaftIndex, Term};
use stele_engine::replica::Replica;
use stele_engine::reserved::Genesis;
use stele_engine::store::{AppendError, Entry, SegmentStore};
use tokio::task::JoinHandle;

use crate::entry::TypeConfig;
use crate::intake::Intake;
use crate::leading::Leading;
use crate::machine::{Machine, SharedReplica};
use crate::raft_log::RaftLog;

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
}

impl Node {
    /// Opens the log in `path` and starts consensus.
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
        let opened = Replica::open(environment, path)?;
        let id = opened.hard_state.node.get();
        let store = Arc::clone(opened.replica.store());
        store.set_seal_bytes(settings.seal.bytes);
        if let Begin::Cluster(birth) = begin {
            begin_with(&store, birth)?;
        }
        let directory = opened.replica.directory().clone();
        let alignment = opened.replica.tail().alignment;
        let committed = opened.applied;
        let log = RaftLog::new(store, &environment.disk, &directory, alignment, opened.hard_state.vote);
        log.recovered(committed).await.map_err(|error| StartError::Consensus(error.to_string()))?;
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
        Ok(Self { raft, replica, intake, leading })
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

    /// Stops as a kill would stop it, as far as one process can: openraft and the tasks end, and the log is not closed.
    pub async fn abandon(self) {
        let Self { raft, replica, intake, leading } = self;
        leading.abort();
        drop((intake, leading.await, raft.shutdown().await, raft));
        drop(replica);
    }

    /// Stops: no more intake, openraft ends, the log is closed cleanly.
    ///
    /// # Errors
    /// [`LogError`]: what made the store stop before.
    pub async fn stop(self) -> Result<(), LogError> {
        let Self { raft, replica, intake, leading } = self;
        drop(intake);
        // A task of openraft that died of a panic has told so; the log is closed all the same.
        drop(raft.shutdown().await);
        leading.abort();
        drop(leading.await);
        drop(raft);
        match replica.into_inner() {
            Some(replica) => replica.close(),
            None => Ok(()),
        }
    }
}

/// Appends the first entry where there is none; else it must be the same.
fn begin_with(store: &SegmentStore, birth: &Birth) -> Result<(), StartError> {
    if store.tail().next_index > RaftIndex::new(0) {
        // One that is sealed cannot be read here, and was compared when its peers were met.
        let first = store.read_entry(RaftIndex::new(0))?;
        let same =
            first.is_none_or(|first| first.kind != EntryKind::Membership || first.body == birth.membership.encode());
        return if same { Ok(()) } else { Err(StartError::OtherCluster) };
    }
    let body = birth.membership.encode().into();
    let entry = Entry { term: Term::new(0), kind: EntryKind::Membership, body, payload: bytes::Bytes::new() };
    store.append(entry, None)?;
    Ok(store.flush().map_err(LogError::from)?)
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
