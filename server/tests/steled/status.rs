//! What the nodes say of themselves and each other.

use stele_api::v1::{NodeStatus, StatusRequest};
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
