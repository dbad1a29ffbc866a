//! Before a new node follows the log: it takes sealed segments from the nodes that it was told of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stele_engine::adopt::NewMember;
use stele_engine::environment::Environment;
use stele_engine::number::{NodeId, RaftIndex, SiteName, Term};
use stele_proof::policy::{Policy, PolicyTextError};
use stele_raft::entry::Peer;
use stele_raft::joining::{CopyError, CopySettings, Donor, copy_segments};
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::metrics::PeerMetrics;
use stele_raft::peer::transport::{Tcp, Transport};
use stele_raft::peer::{Limits, Local, Own};
use stele_raft::standing::{Marks, Phase, Shown, Standing, Told};

use crate::config::{Config, Join};

/// How long one answer of a donor may take: it may have to read a megabyte from a slow disk.
const ANSWER: Duration = Duration::from_secs(20);
/// How long nodes are waited for without which the policy is not met.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTrouble {
    /// The copy itself.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The number is that of another node, or of another disk.
    #[error("node {node} was there before ({told}); numbers are never used twice: join with another one")]
    UsedBefore {
        /// The number.
        node: NodeId,
        /// What a peer said.
        told: Told,
    },
    /// The policy that was given cannot be read.
    #[error("join.policy, {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The policy that was given is none.
    #[error("join.policy, {}: {source}", path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PolicyTextError,
    },
}

/// Copies what the cluster has sealed; the directory is a node's then.
///
/// # Errors
/// [`JoinTrouble`]; what was installed stays, and the next start goes on.
pub async fn copy(
    environment: &Environment,
    config: &Config,
    member: NewMember,
    (local, transport): (Local, Transport),
) -> Result<(), JoinTrouble> {
    let Some(join) = &config.join else { return Ok(()) };
    let policy = policy(join)?;
    let metrics = Arc::new(PeerMetrics::default());
    // No start of it was let in, and there is no log yet. It is not starting either: it asks for segments, and neither
    // votes nor acknowledges.
    let (vote_term, end) = (Term::new(0), RaftIndex::new(0));
    let nothing = Shown { phase: Phase::Running, incarnation: 0, vote_term, end };
    let standing = Standing::new(nothing, Marks::default());
    let own = Own { local, standing: standing.clone() };
    let factory = PeerFactory::new(own, transport, Arc::new(Tcp), Limits::default(), metrics);
    let donor = |(node, address): &(_, String)| {
        let peer = Peer { addresses: vec![address.clone()], ..Peer::default() };
        Donor { node: *node, segments: factory.segments(*node, &peer) }
    };
    let donors: Vec<Donor> = join.peers.iter().filter(|(node, _)| *node != local.node).map(donor).collect();
    let settings = CopySettings { rate: join.rate, wait: ANSWER, patience: PATIENCE, policy };
    let from = join.peers.iter().map(|(node, _)| node.to_string()).collect::<Vec<_>>().join(", ");
    let site = config.site.as_ref().map(SiteName::as_str);
    tracing::info!(node = %local.node, site, from, rate = join.rate, "copying sealed segments");
    let copied = tokio::select! {
        copied = copy_segments(environment, &config.data_dir, member, donors, &settings) => copied?,
        told = standing.wait_told() => return Err(JoinTrouble::UsedBefore { node: local.node, told }),
    };
    match copied.adopted {
        Some(adopted) => tracing::info!(
            segments = adopted.segments,
            records = adopted.size.get(),
            entries = adopted.next_index.get(),
            "copied; what follows comes from the leader"
        ),
        None => tracing::info!("all segments were copied before"),
    }
    Ok(())
}

fn policy(join: &Join) -> Result<Option<Policy>, JoinTrouble> {
    let Some(path) = &join.policy else { return Ok(None) };
    let bytes = std::fs::read(path).map_err(|source| JoinTrouble::File { path: path.clone(), source })?;
    let policy = Policy::parse(&bytes).map_err(|source| JoinTrouble::Policy { path: path.clone(), source })?;
    Ok(Some(policy))
}
