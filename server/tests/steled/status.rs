//! What the nodes say of themselves and each other.

use stele_api::v1::{CheckpointRequest, NodeStatus, StatusRequest};
use tokio::time::{sleep, timeout};

use crate::process::{Cluster, LOOK, ORIGIN, PATIENCE, Writer};

/// What a node says of another one, or of itself.
async fn said(cluster: &Cluster, by: usize, of: usize) -> NodeStatus {
    let status = cluster.admin(by).await.status(StatusRequest { log: ORIGIN.to_owned() }).await.unwrap();
    status.into_inner().nodes.into_iter().find(|node| node.node == of as u64).unwrap()
}

#[tokio::test]
async fn a_node_tells_its_flushes_and_the_leader_who_is_behind_and_for_how_long() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 50).await;
    for node in 1..=3 {
        let own = said(&cluster, node, node).await;
        let (p50, p99) = (own.flush_p50_us.unwrap(), own.flush_p99_us.unwrap());
        assert!(0 < p50 && p50 <= p99 && p99 < 60_000_000, "node {node}: {p50} {p99}");
        assert!(own.free_bytes > Some(0) && own.tree_size >= Some(1), "{own:?}");
    }
    let leader = cluster.leader().await;
    let down = if leader == 1 { 2 } else { 1 };
    cluster.kill(down);
    writer.write(&cluster, 150).await;
    // On a busy machine another one may lead by now.
    let behind = async {
        loop {
            let leader = cluster.leader().await;
            let of = said(&cluster, leader, down).await;
            if of.lag_records >= Some(100) && of.lag_ms >= Some(300) {
                assert_eq!(said(&cluster, leader, leader).await.lag_ms, Some(0), "the leader itself");
                assert_eq!((of.flush_p50_us, of.sealed_segments), (None, None), "only the node itself knows");
                return;
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, behind).await.expect("the leader does not see that a node is behind");
    cluster.start(down).await;
    let caught_up = async {
        loop {
            let leader = cluster.leader().await;
            let of = said(&cluster, leader, down).await;
            if (of.lag_records, of.lag_ms) == (Some(0), Some(0)) {
                return;
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, caught_up).await.expect("the node does not catch up");
}

/// Waits until a node says this of the last agreement with another one, or of its own.
async fn agrees(cluster: &Cluster, by: usize, of: usize, expected: impl Fn(Option<u64>) -> bool) -> Option<u64> {
    let seen = async {
        loop {
            let size = said(cluster, by, of).await.agreed_size;
            if expected(size) {
                return size;
            }
            sleep(LOOK).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap_or_else(|_elapsed| panic!("node {by} never says so of node {of}"))
}

#[tokio::test]
async fn the_last_agreement_with_each_node_is_told_and_stays_when_that_is_gone() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 50).await;
    let asked = cluster.leader().await;
    let others: Vec<usize> = (1..=3).filter(|node| *node != asked).collect();
    assert_eq!(said(&cluster, asked, others[0]).await.agreed_size, None, "no checkpoint was made yet");
    cluster.log(asked).await.checkpoint(CheckpointRequest { log: ORIGIN.to_owned() }).await.unwrap();
    for node in 1..=3 {
        agrees(&cluster, asked, node, |size| size > Some(50)).await;
    }
    // Who was asked to sign has seen it, too.
    agrees(&cluster, others[0], asked, |size| size > Some(50)).await;

    let before = agrees(&cluster, asked, others[0], |size| size.is_some()).await;
    cluster.kill(others[0]);
    writer.write(&cluster, 100).await;
    cluster.log(asked).await.checkpoint(CheckpointRequest { log: ORIGIN.to_owned() }).await.unwrap();
    for node in [asked, others[1]] {
        agrees(&cluster, asked, node, |size| size > Some(100)).await;
    }
    assert_eq!(said(&cluster, asked, others[0]).await.agreed_size, before);
}
