//! What a node starts from: its log, or what the configuration says of a cluster that begins (the same first entry at
//! every node) or that is joined.

use std::path::Path;

use stele_engine::adopt::{NewMember, is_under_way};
use stele_engine::birth::{MemberOptions, PolicyNode, cluster_policy, create_member};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::EntryKind;
use stele_engine::hard_state::read_hard_state;
use stele_engine::membership::Membership;
use stele_engine::number::{NodeId, SegmentNumber};
use stele_engine::reserved::{Genesis, LogId};
use stele_engine::segment::{FORMAT_VERSION, FRAMES_START};
use stele_engine::store::read_entry_at;
use stele_raft::node::{Begin, Birth};
use stele_raft::peer::ClusterId;

use crate::config::{Config, InitialCluster};
use crate::keys::{KeyTrouble, check, make_or_load};

/// Why a node has nothing to start from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BirthTrouble {
    /// The directory.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyTrouble),
    /// There is no log, and nothing says what to begin with.
    #[error(
        "there is no log in {0}, and nothing says how to begin one; give initial_cluster, or join.peers and join.cluster \
         (`stele cluster join` writes them), or a directory that `stele init` made"
    )]
    Nothing(String),
    /// Segments were being copied, and nothing says from where.
    #[error("{0} holds the beginning of a copy; give join.peers and join.cluster again, and it goes on")]
    Begun(String),
    /// The directory is another node's.
    #[error(
        "{directory} belongs to node {found}, and the configuration says node {asked}; give each node its own data_dir"
    )]
    OtherNode {
        /// The log's directory.
        directory: String,
        /// Whose it is.
        found: NodeId,
        /// Who asks.
        asked: NodeId,
    },
    /// What a new log would begin with cannot be written.
    #[error("no log can begin with this configuration: {0}")]
    Unusable(String),
}

/// What a node starts from.
#[derive(Debug)]
pub struct Start {
    /// Its number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What the log begins with, where the configuration says it.
    pub begin: Begin,
    /// There is no log yet: segments are copied first, for this node.
    pub copy: Option<NewMember>,
}

/// Makes the directory where there is none.
///
/// # Errors
/// [`BirthTrouble`].
pub fn prepare(environment: &Environment, config: &Config) -> Result<Start, BirthTrouble> {
    let directory = LogDirectory::new(&config.data_dir);
    let disk = environment.disk.as_ref();
    if let Some(start) = joining(environment, config, &directory)? {
        return Ok(start);
    }
    let exists = match Inventory::take(disk, &directory) {
        Ok(_) => true,
        Err(LogError::NoLog(_)) => false,
        Err(other) => return Err(other.into()),
    };
    let birth = match &config.cluster {
        Some(cluster) => Some(birth(environment, config, cluster)?),
        None if exists => None,
        None => return Err(BirthTrouble::Nothing(config.data_dir.display().to_string())),
    };
    if let (false, Some(node)) = (exists, config.node) {
        let (block_height, frame_align) = (config.log.block_height, config.log.frame_align);
        create_member(environment, &config.data_dir, &MemberOptions { node, block_height, frame_align })?;
    }
    let node = read_hard_state(disk, &directory.hard_state()).map_err(LogError::from)?.node;
    if let Some(asked) = config.node.filter(|asked| *asked != node) {
        let directory = config.data_dir.display().to_string();
        return Err(BirthTrouble::OtherNode { directory, found: node, asked });
    }
    let first = first_entry(environment, &directory).or_else(|| birth.as_ref().map(|birth| birth.membership.encode()));
    let cluster = first.map(|first| ClusterId::new(*blake3::hash(&first).as_bytes()));
    // One that has joined a cluster without a sealed segment has nothing before the leader reaches it.
    let cluster = cluster.or(config.join.as_ref().map(|join| join.cluster));
    let cluster = cluster.ok_or_else(|| BirthTrouble::Nothing(config.data_dir.display().to_string()))?;
    // Without a cluster there is a log already, which goes on with what it holds.
    let begin = birth.map_or(Begin::Join, Begin::Cluster);
    Ok(Start { node, cluster, begin, copy: None })
}

/// What a node starts from that joins a cluster, or began to.
fn joining(
    environment: &Environment,
    config: &Config,
    directory: &LogDirectory,
) -> Result<Option<Start>, BirthTrouble> {
    let disk = environment.disk.as_ref();
    let begun = is_under_way(disk, directory).map_err(LogError::from)?;
    let (Some(join), Some(node), Some(site), Some(origin)) =
        (&config.join, config.node, &config.site, &config.log.origin)
    else {
        return if begun { Err(BirthTrouble::Begun(config.data_dir.display().to_string())) } else { Ok(None) };
    };
    if !begun {
        match Inventory::take(disk, directory) {
            // Whether nothing but directories lies there is for the copy to say.
            Err(LogError::NoLog(_) | LogError::Unfinished(_)) => {}
            Ok(_) => return Ok(None),
            Err(other) => return Err(other.into()),
        }
    }
    make_or_load(environment, &config.data_dir, (node, site), origin)?;
    let (block_height, frame_align) = (config.log.block_height, config.log.frame_align);
    let options = MemberOptions { node, block_height, frame_align };
    let copy = Some(NewMember { options, cluster: *join.cluster.as_bytes() });
    Ok(Some(Start { node, cluster: join.cluster, begin: Begin::Join, copy }))
}

/// The body of the first entry, where it was written; whether it is damaged is for recovery to say.
fn first_entry(environment: &Environment, directory: &LogDirectory) -> Option<Vec<u8>> {
    let entry = read_entry_at(environment.disk.as_ref(), directory, SegmentNumber::new(0), FRAMES_START).ok()?;
    let is_membership = entry.kind == EntryKind::Membership && Membership::decode(&entry.body).is_ok();
    is_membership.then(|| entry.body.to_vec())
}

fn birth(environment: &Environment, config: &Config, cluster: &InitialCluster) -> Result<Birth, BirthTrouble> {
    let member = cluster.members.iter().find(|member| Some(member.node) == config.node);
    let member = member.ok_or_else(|| BirthTrouble::Unusable("this node is not in initial_cluster".to_owned()))?;
    own_keys(environment, &config.data_dir, cluster, member)?;
    let nodes: Vec<PolicyNode<'_>> = cluster
        .members
        .iter()
        .map(|member| PolicyNode {
            id: member.node,
            site: &member.site,
            log_key: &member.log_key,
            cosigner: &member.cosigner,
        })
        .collect();
    let unusable = |error: &dyn std::fmt::Display| BirthTrouble::Unusable(error.to_string());
    let policy = cluster_policy(&nodes).map_err(|error| unusable(&error))?.to_string();
    let genesis = Genesis {
        format: FORMAT_VERSION,
        origin: cluster.origin.as_str().to_owned(),
        log_id: LogId::new(environment.random().map_err(LogError::Entropy)?),
        block_height: config.log.block_height,
        frame_align: config.log.frame_align,
        log_keys: cluster.members.iter().map(|member| member.log_key.to_string()).collect(),
        policy,
    };
    genesis.check().map_err(|error| unusable(&error))?;
    Ok(Birth { membership: cluster.membership(), genesis })
}

/// Makes the keys where there are none; then the cluster does not know them yet, and the refusal prints them.
fn own_keys(
    environment: &Environment,
    data_dir: &Path,
    cluster: &InitialCluster,
    member: &crate::config::Member,
) -> Result<(), BirthTrouble> {
    let keys = make_or_load(environment, data_dir, (member.node, &member.site), &cluster.origin)?;
    Ok(check(&keys, member, data_dir)?)
}
