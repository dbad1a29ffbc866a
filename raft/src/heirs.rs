//! To whom a leader may hand over: a node that is dead, or far behind, would leave nobody to write to until the next
//! election.

use std::cmp::Reverse;
use std::time::Duration;

use openraft::RaftMetrics;
use openraft::async_runtime::Instant as _;

use crate::entry::TypeConfig;

/// A node that is at most so many entries behind has caught up.
const CAUGHT_UP: u64 = 1000;
/// How long a node may not have answered to count as live.
const LIVE: Duration = Duration::from_secs(2);

type Metrics = RaftMetrics<TypeConfig>;

fn matched(metrics: &Metrics, node: u64) -> Option<u64> {
    let matched = metrics.replication.as_ref().and_then(|all| all.get(&node).copied().flatten());
    matched.map(|id| id.index)
}

/// Whether a node has what the leader has, or nearly; judged by the leader's metrics.
pub fn has_caught_up(metrics: &Metrics, node: u64) -> bool {
    let last = metrics.last_log_index.unwrap_or_default();
    node == metrics.id || matched(metrics, node).is_some_and(|index| index + CAUGHT_UP >= last)
}

/// The voters to whom leadership may go: those that answer and have caught up; who has most first, and of those the one
/// that was heard of last.
pub fn heirs(metrics: &Metrics) -> Vec<u64> {
    let silent = |node: u64| {
        let heard = metrics.heartbeat.as_ref().and_then(|all| all.get(&node).copied().flatten())?;
        Some(heard.elapsed()).filter(|silent| *silent < LIVE)
    };
    let voters = metrics.membership_config.membership().voter_ids();
    let others = voters.filter(|node| *node != metrics.id && has_caught_up(metrics, *node));
    let mut heirs: Vec<(u64, Duration)> = others.filter_map(|node| Some((node, silent(node)?))).collect();
    heirs.sort_by_key(|(node, silent)| (Reverse(matched(metrics, *node)), *silent));
    heirs.into_iter().map(|(node, _)| node).collect()
}
