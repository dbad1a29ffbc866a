//! `stele cluster`: what operators do.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use stele_api::v1::{NodeKeys, NodeStatus, Role};
use stele_client::cluster::{NewNode, NodeNumber, Topology};
use stele_engine::environment::Environment;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::remote::{Remote, block_on, call, connect};
use crate::stream::Streams;

mod init;
mod status;

pub use init::InitArguments;
pub use status::StatusArguments;

/// Between two looks at a node that catches up.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What to do with a cluster.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show all nodes: what they do, how far they are, what lags.
    Status(StatusArguments),
    /// Write keys and configurations for the nodes that a cluster begins with.
    Init(InitArguments),
    /// Add a node, wait until it has caught up, and give it a vote.
    Join(JoinArguments),
    /// Take a node's vote, and remove it.
    Remove(NodeArguments),
    /// Hand leadership to a voter.
    Transfer(NodeArguments),
}

/// The arguments of `stele cluster join`.
#[derive(Args, Debug)]
#[command(after_help = "\
Start the new node first; its public keys are printed by `steled keys`. It follows without a vote until it has caught
up; interrupted, the command can be given again. A membership that the loss of one site can stop is refused.

Example:
  stele cluster join --endpoint a:7070 --node 4 --site d --peer d:7071 --client d:7070 --log-key K --cosigner-key K")]
pub struct JoinArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// The number of the new node, never used before.
    #[arg(long, value_name = "N")]
    pub node: u64,
    /// Its site.
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Where peers reach it.
    #[arg(long, value_name = "HOST:PORT", required = true, value_delimiter = ',')]
    pub peer: Vec<String>,
    /// Where clients reach it; without a scheme, that of the other nodes.
    #[arg(long, value_name = "HOST:PORT")]
    pub client: String,
    /// Its log key, a vkey.
    #[arg(long, value_name = "VKEY")]
    pub log_key: String,
    /// Its cosigner key, a vkey.
    #[arg(long, value_name = "VKEY")]
    pub cosigner_key: String,
    /// The voter whose place it takes; that one is removed.
    #[arg(long, value_name = "N")]
    pub replace: Option<u64>,
    /// Leave it without a vote.
    #[arg(long, conflicts_with = "replace")]
    pub learner: bool,
    /// How long to wait until it has caught up, in seconds.
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub timeout: u64,
    /// Accept a membership that the loss of one site can stop.
    #[arg(long)]
    pub allow_unsafe: bool,
}

/// The arguments of `stele cluster remove` and `stele cluster transfer`.
#[derive(Args, Debug)]
pub struct NodeArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// The number of the node.
    #[arg(value_name = "NODE")]
    pub node: u64,
    /// Accept a membership that the loss of one site can stop.
    #[arg(long)]
    pub allow_unsafe: bool,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 4 where the cluster is not reached, 5 where it refuses.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Status(arguments) => status::run(arguments, streams),
        Command::Init(arguments) => init::run(arguments, environment, streams),
        Command::Join(arguments) => block_on(join(arguments, streams)),
        Command::Remove(arguments) => block_on(remove(arguments, streams)),
        Command::Transfer(arguments) => block_on(transfer(arguments, streams)),
    }
}

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

async fn join(arguments: &JoinArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let connected = connect(&arguments.remote.reach()?).await?;
    let cluster = connected.client.cluster();
    let before = cluster.status().await.map_err(call)?;
    let scheme = match before.nodes.iter().any(|node| node.client_address.starts_with("https:")) {
        true => "https",
        false => "http",
    };
    let client = &arguments.client;
    let client_address = if client.contains("://") { client.clone() } else { format!("{scheme}://{client}") };
    let (log, cosigner) = (arguments.log_key.clone(), arguments.cosigner_key.clone());
    let new = NewNode {
        node: NodeNumber::new(arguments.node),
        site: arguments.site.clone(),
        addresses: arguments.peer.clone(),
        client_address,
        keys: NodeKeys { log, cosigner, manifest: String::new() },
    };
    cluster.add_learner(new).await.map_err(call)?;
    streams.line(format_args!("added       node {} at site {}, without a vote", arguments.node, arguments.site))?;
    streams.flush()?;
    wait_caught_up(&cluster, arguments).await?;
    streams.line(format_args!("caught up   node {}", arguments.node))?;
    if arguments.learner {
        return Ok(());
    }
    let mut now = voters(&cluster.status().await.map_err(call)?.nodes);
    now.retain(|voter| Some(*voter) != arguments.replace && *voter != arguments.node);
    now.push(arguments.node);
    cluster.change_voters(&numbers(&now), topology(arguments.allow_unsafe)).await.map_err(call)?;
    streams.line(format_args!("voters      {}", list(&now)))?;
    if let Some(old) = arguments.replace {
        cluster.remove_node(NodeNumber::new(old)).await.map_err(call)?;
        streams.line(format_args!("removed     node {old}"))?;
    }
    Ok(())
}

async fn wait_caught_up(cluster: &stele_client::Cluster, arguments: &JoinArguments) -> Result<(), Failure> {
    let give_up = Instant::now() + Duration::from_secs(arguments.timeout);
    loop {
        let status = cluster.status().await.map_err(call)?;
        let leader = status.leader.as_ref().map(|leader| leader.node);
        let of = |wanted: Option<u64>| status.nodes.iter().find(|node| Some(node.node) == wanted);
        let committed = of(leader).and_then(|leader| leader.committed.or(leader.durable));
        let durable = of(Some(arguments.node)).and_then(|node| node.durable.or(node.last));
        if let (Some(committed), Some(durable)) = (committed, durable)
            && durable >= committed
        {
            return Ok(());
        }
        if Instant::now() >= give_up {
            let far = durable.map_or_else(|| "nothing".to_owned(), |durable| format!("entries up to {durable}"));
            let why = anyhow!(
                "node {} has not caught up: it has {far}; it stays without a vote, and the command can be given again",
                arguments.node
            );
            return Err(Failure::new(Exit::Unreachable, why));
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn remove(arguments: &NodeArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let connected = connect(&arguments.remote.reach()?).await?;
    let cluster = connected.client.cluster();
    let status = cluster.status().await.map_err(call)?;
    if !status.nodes.iter().any(|node| node.node == arguments.node) {
        return Err(Failure::new(Exit::NotFound, anyhow!("there is no node {}", arguments.node)));
    }
    let before = voters(&status.nodes);
    if before.contains(&arguments.node) {
        let left: Vec<u64> = before.into_iter().filter(|voter| *voter != arguments.node).collect();
        cluster.change_voters(&numbers(&left), topology(arguments.allow_unsafe)).await.map_err(call)?;
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
