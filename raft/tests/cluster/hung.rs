//! A leader whose disk hangs.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use stele_simulator::fake_disk::{FakeDisk, Media};
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Writer, settings};

/// Less than any election that nobody asked for takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_hands_over_to_a_follower_that_answers() {
    // Without its disk the leader has no vote to give, so that three others must be well.
    for dead in [5, 2] {
        let disks: BTreeMap<u64, FakeDisk> = (1..=5).map(|id| (id, FakeDisk::new(Media::TearsSectors, id))).collect();
        let mut cluster = Cluster::start_with(5, settings(100, (60_000, 90_000)), disks).await;
        let leader = cluster.node(1).raft().clone();
        leader.trigger().elect(true).await.unwrap();
        let mut writer = Writer::new("w");
        writer.write(&cluster, 1, PATIENCE).await;
        assert!(leader.is_leader());

        cluster.hang(1).begin();
        // All others have all that there is when one of them dies: what they have does not tell which.
        writer.write(&cluster, 1, PATIENCE).await;
        until("all have it", || {
            let metrics = leader.metrics().borrow_watched().clone();
            let matched = metrics.replication.unwrap();
            [2, 3, 4, 5].iter().all(|node| matched[node].map(|id| id.index) == metrics.last_log_index)
        })
        .await;
        cluster.isolate(dead);
        let live = (2..=5).filter(|node| *node != dead);
        until("a live one leads", || live.clone().any(|node| cluster.node(node).raft().is_leader())).await;
        cluster.hang(1).end();
        cluster.heal();
        cluster.stop_all().await;
    }
}
