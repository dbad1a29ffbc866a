//! `stele cluster status`.

use std::fmt::Display;

use bytesize::ByteSize;
use clap::Args;
use stele_api::v1::{NodeStatus, Role, StatusResponse};

use crate::context::Reach;
use crate::exit::Failure;
use crate::remote::{Connected, Remote, block_on, call, connect};
use crate::stream::Streams;

/// The arguments of `stele cluster status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every node is asked for what only it knows; a node that does not answer is shown as the leader sees it. `-` is not
known. Lag is that behind the leader: records not applied yet, and for how long.

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

const COLUMNS: [&str; 16] = [
    "SITE",
    "NODE",
    "ROLE",
    "TERM",
    "LAST",
    "DURABLE",
    "COMMITTED",
    "APPLIED",
    "RECORDS",
    "LAG",
    "LAG s",
    "DISK FREE",
    "FLUSH p50 us",
    "p99 us",
    "SEALED",
    "AGREED",
];

pub(super) fn run(arguments: &StatusArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (status, cluster) = block_on(async {
        let reach = arguments.remote.reach()?;
        let connected = connect(&reach).await?;
        Ok((collect(&connected, &reach).await?, cluster_id(&connected)))
    })?;
    if arguments.json {
        return streams.line(json(&status, &cluster));
    }
    let rows: Vec<[String; 16]> =
        std::iter::once(COLUMNS.map(str::to_owned)).chain(status.nodes.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 | 2 => format!("{cell:<width$}", width = width(column)),
            _ => format!("{cell:>width$}", width = width(column)),
        });
        streams.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    streams.line(format_args!("cluster {cluster}"))
}

/// The id of the cluster, as configurations name it.
pub(super) fn cluster_id(connected: &Connected) -> String {
    connected.description.cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one node says about all, with what each says about itself.
pub(super) async fn collect(connected: &Connected, reach: &Reach) -> Result<StatusResponse, Failure> {
    let mut status = connected.client.cluster().status().await.map_err(call)?;
    // Only the leader knows how far the others are.
    let leader =
        status.leader.as_ref().filter(|leader| leader.node != status.node).map(|leader| leader.address.clone());
    if let Some(address) = leader.filter(|address| !address.is_empty())
        && let Some(better) = ask(reach, &address).await
    {
        status = better;
    }
    let own = status.node;
    for node in status.nodes.iter_mut().filter(|node| node.node != own && !node.client_address.is_empty()) {
        let said = ask(reach, &node.client_address).await;
        let said = said.and_then(|said| said.nodes.into_iter().find(|found| found.node == node.node));
        if let Some(said) = said {
            merge(node, said);
        }
    }
    fill_lag(&mut status);
    Ok(status)
}

async fn ask(reach: &Reach, address: &str) -> Option<StatusResponse> {
    let one = Reach { endpoint: vec![address.to_owned()], ..reach.clone() };
    let asked = async {
        let connected = connect(&one).await?;
        connected.client.cluster().status().await.map_err(call)
    };
    tokio::time::timeout(std::time::Duration::from_secs(2), asked).await.ok()?.ok()
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

fn row(node: &NodeStatus) -> [String; 16] {
    [
        node.site.clone(),
        node.node.to_string(),
        role(node.role()).to_owned(),
        known(node.term),
        known(node.last),
        known(node.durable),
        known(node.committed),
        known(node.applied),
        known(node.tree_size),
        known(node.lag_records),
        known(node.lag_ms.map(|ms| format!("{}.{:03}", ms / 1000, ms % 1000))),
        known(node.free_bytes.map(ByteSize)),
        known(node.flush_p50_us),
        known(node.flush_p99_us),
        known(node.sealed_segments),
        known(node.agreed_size),
    ]
}

fn json(status: &StatusResponse, cluster: &str) -> serde_json::Value {
    let nodes: Vec<serde_json::Value> = status
        .nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "site": node.site, "node": node.node, "role": role(node.role()), "addresses": node.addresses,
                "client_address": node.client_address, "term": node.term, "last": node.last, "durable": node.durable,
                "committed": node.committed, "applied": node.applied, "tree_size": node.tree_size,
                "lag_records": node.lag_records, "lag_ms": node.lag_ms, "free_bytes": node.free_bytes,
                "flush_p50_us": node.flush_p50_us, "flush_p99_us": node.flush_p99_us,
                "sealed_segments": node.sealed_segments, "agreed_size": node.agreed_size,
            })
        })
        .collect();
    let leader = status.leader.as_ref().map(|leader| leader.node);
    serde_json::json!({ "asked": status.node, "leader": leader, "cluster": cluster, "nodes": nodes })
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
        let row = row(&status.nodes[1]);
        assert_eq!(row[..10], ["b", "2", "follower", "-", "9", "-", "-", "-", "4", "2"].map(str::to_owned));
        assert_eq!(row[10..], ["-"; 6].map(str::to_owned));
    }
}
