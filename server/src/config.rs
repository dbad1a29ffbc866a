//! The configuration: one TOML file, the environment, flags. Everything is checked before anything starts, and all
//! mistakes are told at once.
//!
//! | module | what |
//! |---|---|
//! | `access` | who may do what |
//! | `keys` | the table of keys |
//! | `gather` | flags over environment over file over defaults |
//! | `check` | from texts to a [`Config`] |
//! | `mistake` | what is wrong, and what to do about it |

use std::path::PathBuf;
use std::time::Duration;

use stele_engine::membership::{Membership, Node};
use stele_engine::number::{Alignment, BlockHeight, NodeId, SiteName};
use stele_proof::checkpoint::Origin;
use stele_proof::key::VerifierKey;
use stele_raft::peer::ClusterId;

use crate::access::Access;

mod access;
mod check;
mod gather;
mod keys;
mod mistake;

pub use gather::Sources;
pub use keys::{KEYS, Key, Kind};
pub use mistake::{Mistake, Mistakes, Source};

/// How a node runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The log's directory.
    pub data_dir: PathBuf,
    /// This node; without an initial cluster, the directory says it.
    pub node: Option<NodeId>,
    /// Its site, where it is said.
    pub site: Option<SiteName>,
    /// What is fixed when the log is made.
    pub log: LogConfig,
    /// The nodes a new log begins with.
    pub cluster: Option<InitialCluster>,
    /// The cluster that a new node joins; of no meaning once there is a log.
    pub join: Option<Join>,
    /// Where others come in.
    pub listen: Listen,
    /// How bytes between nodes are protected.
    pub peers: Security,
    /// How bytes to clients are protected.
    pub clients: Security,
    /// Which clients may do what.
    pub access: Access,
    /// When open segments are ended.
    pub seal: Seal,
    /// Times of consensus.
    pub raft: RaftTimes,
    /// What clients may ask for.
    pub limits: Limits,
    /// How long a checkpoint that a quorum of sites has signed is waited for.
    pub proof_timeout: Duration,
    /// The form of the trace events.
    pub log_format: LogFormat,
    /// The least level of trace events.
    pub log_level: tracing::Level,
}

/// What is fixed when the log is made.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The name of the log; there where a cluster is.
    pub origin: Option<Origin>,
    /// Leaves of a block.
    pub block_height: BlockHeight,
    /// What frames are padded to.
    pub frame_align: Alignment,
}

/// The nodes a new log begins with.
#[derive(Clone, Debug)]
pub struct InitialCluster {
    /// The name of the log.
    pub origin: Origin,
    /// Tells clusters with the same nodes apart.
    pub token: String,
    /// By ascending number; at least one.
    pub members: Vec<Member>,
}

/// The cluster that a new node joins.
#[derive(Clone, Debug)]
pub struct Join {
    /// Nodes that give segments, and where peers reach them; at least one.
    pub peers: Vec<(NodeId, String)>,
    /// Which cluster.
    pub cluster: ClusterId,
    /// Most bytes a second.
    pub rate: u64,
    /// A policy from outside.
    pub policy: Option<PathBuf>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Its site.
    pub site: SiteName,
    /// Where peers reach it, `host:port`.
    pub peer: String,
    /// Where clients reach it, a URI.
    pub client: String,
    /// Its log key.
    pub log_key: VerifierKey,
    /// Its cosigner key.
    pub cosigner: VerifierKey,
}

/// Where others come in, `host:port`.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Nodes.
    pub peer: String,
    /// Clients.
    pub client: String,
}

/// How bytes are protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all; loopback only.
    None,
    /// By TLS.
    Tls(TlsPaths),
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsPaths {
    /// The node's certificate, and those between it and a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Roots that vouch for the other side; between peers always there.
    pub ca: Option<PathBuf>,
}

/// When open segments are ended.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// Age.
    pub after: Duration,
    /// Size.
    pub bytes: u64,
}

/// Times of consensus.
#[derive(Clone, Copy, Debug)]
pub struct RaftTimes {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// The shortest silence before an election.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
}

/// What clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Calls at once on a connection.
    pub streams: u32,
    /// Connections at once.
    pub connections: usize,
    /// Time of a call.
    pub request_timeout: Duration,
    /// Threads that read.
    pub readers: usize,
    /// How long a stop waits.
    pub drain: Duration,
    /// Identities that a leader remembers.
    pub remembered: usize,
}

/// The form of trace events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// A configuration, and what was said about it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What was left out.
    pub warnings: Vec<String>,
    /// All values as they hold, as TOML.
    pub effective: String,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Mistakes`]: all of them.
    pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
        let gathered = gather::gather(sources);
        let effective = effective(&gathered);
        let mut warnings = gathered.warnings.clone();
        let config = check::check(gathered)?;
        if config.access == Access::Open && !check::is_loopback(&config.listen.client) {
            let listen = &config.listen.client;
            warnings.push(format!("there is no [[access]]: whoever can connect to {listen} may do everything"));
        }
        Ok(Loaded { config, warnings, effective })
    }

    /// What making keys needs, of a configuration that may miss everything else.
    ///
    /// # Errors
    /// [`Mistakes`]: those of `data_dir`, `node`, `site` and `log.origin`.
    pub fn load_for_keys(sources: &Sources) -> Result<(PathBuf, NodeId, SiteName, Origin), Mistakes> {
        check::check_for_keys(gather::gather(sources))
    }
}

impl InitialCluster {
    /// The first entry of the log: the same bytes at every node.
    pub fn membership(&self) -> Membership {
        let node = |member: &Member| Node {
            id: member.node,
            site: member.site.clone(),
            addresses: vec![member.peer.clone(), member.client.clone()],
            keys: vec![member.log_key.to_string(), member.cosigner.to_string()],
        };
        Membership {
            token: *blake3::hash(self.token.as_bytes()).as_bytes(),
            voters: vec![self.members.iter().map(|member| member.node).collect()],
            nodes: self.members.iter().map(node).collect(),
        }
    }
}

/// All values as they hold, each with its source.
fn effective(gathered: &gather::Gathered) -> String {
    let line = |(name, given): (&&str, &gather::Given)| format!("{name} = {} # {}\n", given.value, given.source);
    gathered.values.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
