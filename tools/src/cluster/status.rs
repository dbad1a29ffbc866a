//! `stele cluster status`.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use stele_api::v1::{CheckpointRequest, ConsistencyRequest, NodeStatus, Role, StatusResponse};
use stele_proof::checkpoint::Checkpoint;
use stele_proof::note::Note;
use stele_proof::tree;

use crate::context::Reach;
use crate::exit::Failure;
use crate::remote::{Connected, Remote, block_on, call, connect};
use crate::stream::Streams;

/// How long one node is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The arguments of `stele cluster status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every node is asked for what only it knows; one that does not answer is shown as the leader sees it, and named below.
`-` is not known. LAG is what the leader has applied and the node has not flushed: records, and seconds since it has
lacked any. AGREED is the last agreement across sites: the largest size at which the node's root was found to be that of
the leader, by the two when they made a checkpoint, or just now by a proof (which takes the role auditor beside operator);
in the leader's line, what it shares with any other, and the newest checkpoint that a quorum of sites has signed.

With --json: {\"asked\", \"leader\", \"nodes\": [{\"site\", \"node\", \"role\", \"answered\", \"addresses\", \"client_address\",
\"term\", \"last\", \"durable\", \"committed\", \"applied\", \"tree_size\", \"lag_records\", \"lag_ms\", \"free_bytes\",
\"flush_p50_us\", \"flush_p99_us\", \"sealed_segments\", \"agreed_size\"}]}; what is not known is null.

Example:
  stele cluster status --endpoint a.example.com:7070")]
pub struct StatusArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Where each node stands in the Raft log.
const POSITIONS: [&str; 10] =
    ["SITE", "NODE", "ROLE", "TERM", "LAST", "DURABLE", "COMMITTED", "APPLIED", "LAG records", "LAG s"];
/// What each node holds, and on what.
const COPIES: [&str; 8] = ["SITE", "NODE", "RECORDS", "SEALED", "AGREED", "DISK FREE", "FLUSH p50 us", "p99 us"];

/// What was found out.
pub(super) struct Found {
    pub(super) status: StatusResponse,
    /// The nodes that answered for themselves.
    answered: BTreeSet<u64>,
}

pub(super) fn run(arguments: &StatusArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (found, cluster) = block_on(async {
        let reach = arguments.remote.reach()?;
        let connected = connect(&reach).await?;
        Ok((collect(&connected, &reach).await?, cluster_id(&connected)))
    })?;
    if arguments.json {
        return streams.line(json(&found, &cluster));
    }
    let nodes = &found.status.nodes;
    table(POSITIONS, nodes.iter().map(position).collect(), streams)?;
    streams.line("")?;
    table(COPIES, nodes.iter().map(copy).collect(), streams)?;
    let silent = nodes.iter().filter(|node| !found.answered.contains(&node.node));
    for (place, node) in silent.enumerate() {
        if place == 0 {
            streams.line("")?;
        }
        let at = if node.client_address.is_empty() { "it has no address" } else { &node.client_address };
        streams.line(format_args!("no answer from node {} ({at}): shown as the others see it", node.node))?;
    }
    streams.line(format_args!("cluster {cluster}"))
}

fn table<const N: usize>(columns: [&str; N], rows: Vec<[String; N]>, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let rows: Vec<[String; N]> = std::iter::once(columns.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match columns[column] {
            "SITE" | "ROLE" => format!("{cell:<width$}", width = width(column)),
            _ => format!("{cell:>width$}", width = width(column)),
        });
        streams.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// The id of the cluster, as configurations name it.
pub(super) fn cluster_id(connected: &Connected) -> String {
    connected.description.cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one node says about all, with what each says about itself.
pub(super) async fn collect(connected: &Connected, reach: &Reach) -> Result<Found, Failure> {
    let mut status = connected.client.cluster().status().await.map_err(call)?;
    let mut answered = BTreeSet::from([status.node]);
    // Only the leader knows how far the others are.
    let leader =
        status.leader.as_ref().filter(|leader| leader.node != status.node).map(|leader| leader.address.clone());
    if let Some(address) = leader.filter(|address| !address.is_empty())
        && let Some(better) = ask(reach, &address).await
    {
        answered.insert(better.node);
        let first = std::mem::replace(&mut status, better);
        // Who was asked first has answered for itself, too.
        let own = first.nodes.into_iter().find(|node| node.node == first.node);
        if let Some((node, said)) = status.nodes.iter_mut().find(|node| node.node == first.node).zip(own) {
            merge(node, said);
        }
    }
    for node in status.nodes.iter_mut().filter(|node| !node.client_address.is_empty()) {
        if answered.contains(&node.node) {
            continue;
        }
        let said = ask(reach, &node.client_address).await;
        let said = said.and_then(|said| said.nodes.into_iter().find(|found| found.node == node.node));
        if let Some(said) = said {
            answered.insert(node.node);
            merge(node, said);
        }
    }
    fill_lag(&mut status);
    fill_agreed(connected, &mut status, &answered).await;
    Ok(Found { status, answered })
}

async fn ask(reach: &Reach, address: &str) -> Option<StatusResponse> {
    let one = Reach { endpoint: vec![address.to_owned()], ..reach.clone() };
    let asked = async {
        let connected = connect(&one).await?;
        connected.client.cluster().status().await.map_err(call)
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()
}

/// The size and root that a node tells. Who signed it does not matter here: it is held against the leader's.
async fn tree_of(connected: &Connected, address: &str) -> Option<Checkpoint> {
    let log = connected.client.log().as_str().to_owned();
    let asked = async {
        let mut node = connected.node(address).await.ok()?;
        let note = node.checkpoint(CheckpointRequest { log }).await.ok()?.into_inner().note;
        Checkpoint::parse(Note::parse(note.as_bytes()).ok()?.text()).ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

/// Proves the roots of the others to be those of the leader's tree at their sizes.
async fn fill_agreed(connected: &Connected, status: &mut StatusResponse, answered: &BTreeSet<u64>) {
    let Some(leader) = status.leader.as_ref().filter(|leader| answered.contains(&leader.node)).cloned() else { return };
    let mut trees = Vec::new();
    for node in status.nodes.iter().filter(|node| answered.contains(&node.node) && node.node != leader.node) {
        trees.extend(tree_of(connected, &node.client_address).await.map(|tree| (node.node, tree)));
    }
    // Last, so that it is the largest.
    let Some(whole) = tree_of(connected, &leader.address).await else { return };
    let mut agreed = Vec::new();
    for (node, tree) in trees {
        if leads_to(connected, &leader.address, &tree, &whole).await == Some(()) {
            agreed.push((node, tree.size));
        }
    }
    // With whom it agrees, agrees with it.
    agreed.extend(agreed.iter().map(|(_, size)| *size).max().map(|size| (leader.node, size)));
    for (number, size) in agreed {
        if let Some(node) = status.nodes.iter_mut().find(|node| node.node == number) {
            node.agreed_size = node.agreed_size.max(Some(size.get()));
        }
    }
}

async fn leads_to(connected: &Connected, address: &str, old: &Checkpoint, new: &Checkpoint) -> Option<()> {
    if old.size == new.size {
        return (old.root == new.root).then_some(());
    }
    let log = connected.client.log().as_str().to_owned();
    let request = ConsistencyRequest { log, old: old.size.get(), new: new.size.get() };
    let asked = async { connected.node(address).await.ok()?.consistency(request).await.ok() };
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok()??.into_inner();
    let hash = |bytes: &bytes::Bytes| <[u8; 32]>::try_from(&bytes[..]).ok().map(tree::Hash::new);
    let hashes: Vec<tree::Hash> = answer.hashes.iter().map(hash).collect::<Option<_>>()?;
    tree::verify_consistency(old.size, &old.root, new.size, &new.root, &hashes).ok()
}

/// A node knows itself best; what it does not tell is left as another saw it.
fn merge(node: &mut NodeStatus, said: NodeStatus) {
    if said.role() != Role::Unspecified {
        node.role = said.role;
    }
    node.term = said.term.or(node.term);
    node.last = said.last.or(node.last);
    node.durable = said.durable.or(node.durable);
    node.committed = said.committed.or(node.committed);
    node.applied = said.applied.or(node.applied);
    node.tree_size = said.tree_size.or(node.tree_size);
    node.sealed_segments = said.sealed_segments.or(node.sealed_segments);
    node.flush_p50_us = said.flush_p50_us.or(node.flush_p50_us);
    node.flush_p99_us = said.flush_p99_us.or(node.flush_p99_us);
    node.free_bytes = said.free_bytes.or(node.free_bytes);
    node.lag_records = node.lag_records.or(said.lag_records);
    node.lag_ms = node.lag_ms.or(said.lag_ms);
    node.agreed_size = node.agreed_size.or(said.agreed_size);
}

/// Where the server does not tell the lag in records, the trees tell it.
fn fill_lag(status: &mut StatusResponse) {
    let leader = status.leader.as_ref().map(|leader| leader.node);
    let size = status.nodes.iter().find(|node| Some(node.node) == leader).and_then(|leader| leader.tree_size);
    for node in &mut status.nodes {
        if node.lag_records.is_none()
            && let (Some(size), Some(own)) = (size, node.tree_size)
        {
            node.lag_records = Some(size.saturating_sub(own));
        }
    }
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "-",
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
    }
}

fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn position(node: &NodeStatus) -> [String; 10] {
    [
        node.site.clone(),
        node.node.to_string(),
        role(node.role()).to_owned(),
        known(node.term),
        known(node.last),
        known(node.durable),
        known(node.committed),
        known(node.applied),
        known(node.lag_records),
        known(node.lag_ms.map(|ms| format!("{}.{:03}", ms / 1000, ms % 1000))),
    ]
}

fn copy(node: &NodeStatus) -> [String; 8] {
    [
        node.site.clone(),
        node.node.to_string(),
        known(node.tree_size),
        known(node.sealed_segments),
        known(node.agreed_size),
        known(node.free_bytes.map(ByteSize)),
        known(node.flush_p50_us),
        known(node.flush_p99_us),
    ]
}

fn json(found: &Found, cluster: &str) -> serde_json::Value {
    let node = |node: &NodeStatus| {
        serde_json::json!({
            "site": node.site, "node": node.node, "role": role(node.role()),
            "answered": found.answered.contains(&node.node), "addresses": node.addresses,
            "client_address": node.client_address, "term": node.term, "last": node.last, "durable": node.durable,
            "committed": node.committed, "applied": node.applied, "tree_size": node.tree_size,
            "lag_records": node.lag_records, "lag_ms": node.lag_ms, "free_bytes": node.free_bytes,
            "flush_p50_us": node.flush_p50_us, "flush_p99_us": node.flush_p99_us,
            "sealed_segments": node.sealed_segments, "agreed_size": node.agreed_size,
        })
    };
    let nodes: Vec<serde_json::Value> = found.status.nodes.iter().map(node).collect();
    let leader = found.status.leader.as_ref().map(|leader| leader.node);
    serde_json::json!({ "asked": found.status.node, "leader": leader, "cluster": cluster, "nodes": nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_tells_is_a_dash_and_what_a_node_says_of_itself_counts_more() {
        let mut node = NodeStatus {
            node: 2,
            site: "b".into(),
            last: Some(7),
            role: Role::Follower.into(),
            ..NodeStatus::default()
        };
        merge(&mut node, NodeStatus { last: Some(9), tree_size: Some(4), ..NodeStatus::default() });
        let leader = Some(stele_api::v1::Leader { node: 1, address: String::new() });
        let first = NodeStatus { node: 1, tree_size: Some(6), ..NodeStatus::default() };
        let mut status = StatusResponse { node: 1, leader, nodes: vec![first, node] };
        fill_lag(&mut status);
        let (position, copy) = (position(&status.nodes[1]), copy(&status.nodes[1]));
        assert_eq!(position, ["b", "2", "follower", "-", "9", "-", "-", "-", "2", "-"].map(str::to_owned));
        assert_eq!(copy, ["b", "2", "4", "-", "-", "-", "-", "-"].map(str::to_owned));
    }
}
