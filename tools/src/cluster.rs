//! `stele cluster`: what operators do.

use std::path::Path;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use stele_api::v1::{NodeStatus, Role};
use stele_client::cluster::{NodeNumber, Topology};
use stele_engine::environment::Environment;

use crate::exit::{Exit, Failure};
use crate::remote::{Remote, block_on, call, connect};
use crate::stream::Streams;

mod init;
mod join;
mod status;

pub use init::InitArguments;
pub use join::JoinArguments;
pub use status::StatusArguments;

/// What to do with a cluster.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show all nodes: what they do, how far they are, what lags.
    Status(StatusArguments),
    /// Write keys and configurations for the nodes that a cluster begins with.
    Init(InitArguments),
    /// Make a node, add it to a cluster, wait until it has caught up, and give it a vote.
    Join(Box<JoinArguments>),
    /// Take a node's vote, and remove it.
    Remove(RemoveArguments),
    /// Hand leadership to a voter.
    Transfer(NodeArguments),
}

/// The arguments of `stele cluster remove`.
#[derive(Args, Debug)]
#[command(after_help = "\
The node loses its vote first, then its place; its process is not touched: stop it, and keep or delete its directory.
Its number is never used again. A set of voters that the loss of one site can stop is refused (exit code 5): join the
replacement before, say with `stele cluster join --replace`.

Example:
  stele cluster remove --endpoint a.example.com:7070 3")]
pub struct RemoveArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// The number of the node.
    #[arg(value_name = "NODE")]
    pub node: u64,
    /// Accept a set of voters that the loss of one site can stop.
    #[arg(long)]
    pub allow_unsafe_topology: bool,
}

/// The arguments of `stele cluster transfer`.
#[derive(Args, Debug)]
#[command(after_help = "\
The voter must be live and have caught up.

Example:
  stele cluster transfer --endpoint a.example.com:7070 2")]
pub struct NodeArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// The number of the node.
    #[arg(value_name = "NODE")]
    pub node: u64,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 4 where the cluster is not reached, 5 where it refuses.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Status(arguments) => status::run(arguments, streams),
        Command::Init(arguments) => init::run(arguments, environment, streams),
        Command::Join(arguments) => join::run(arguments, environment, streams),
        Command::Remove(arguments) => block_on(remove(arguments, streams)),
        Command::Transfer(arguments) => block_on(transfer(arguments, streams)),
    }
}

/// `--allow-unsafe-topology`, as the cluster is asked.
const fn topology(allow_unsafe: bool) -> Topology {
    if allow_unsafe { Topology::AllowUnsafe } else { Topology::Safe }
}

/// The numbers of those who have a vote.
fn voters(nodes: &[NodeStatus]) -> Vec<u64> {
    let votes = |node: &&NodeStatus| matches!(node.role(), Role::Leader | Role::Follower | Role::Candidate);
    nodes.iter().filter(votes).map(|node| node.node).collect()
}

fn numbers(nodes: &[u64]) -> Vec<NodeNumber> {
    nodes.iter().copied().map(NodeNumber::new).collect()
}

async fn remove(arguments: &RemoveArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let connected = connect(&arguments.remote.reach()?).await?;
    let cluster = connected.client.cluster();
    let status = cluster.status().await.map_err(call)?;
    if !status.nodes.iter().any(|node| node.node == arguments.node) {
        return Err(Failure::new(Exit::NotFound, anyhow!("there is no node {}", arguments.node)));
    }
    let before = voters(&status.nodes);
    if before.contains(&arguments.node) {
        let left: Vec<u64> = before.into_iter().filter(|voter| *voter != arguments.node).collect();
        cluster.change_voters(&numbers(&left), topology(arguments.allow_unsafe_topology)).await.map_err(call)?;
        streams.line(format_args!("voters      {}", list(&left)))?;
    }
    cluster.remove_node(NodeNumber::new(arguments.node)).await.map_err(call)?;
    streams.line(format_args!("removed     node {}", arguments.node))
}

async fn transfer(arguments: &NodeArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let connected = connect(&arguments.remote.reach()?).await?;
    let cluster = connected.client.cluster();
    let answer = cluster.transfer_leader(NodeNumber::new(arguments.node)).await.map_err(call)?;
    streams.line(format_args!("leads       node {} in term {}", arguments.node, answer.term))
}

fn list(nodes: &[u64]) -> String {
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Where a file goes that a command makes.
fn fresh(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        let why = anyhow!("{} is there already; nothing is overwritten here", path.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    Ok(())
}
