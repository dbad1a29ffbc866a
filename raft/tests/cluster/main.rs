//! Three nodes in one process, on real files: one order, the same bytes at each, nothing acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it did")]

mod cluster;
mod hung;
mod lease;
mod partitions;
mod power;
mod slow;
mod wires;

use cluster::{Cluster, Writer};
use std::time::Duration;

/// Time enough for any election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_on_one_order_and_seal_the_same_bytes() {
    let mut cluster = Cluster::start(3).await;
    let mut writers: Vec<Writer> = (0..5).map(|number| Writer::new(&format!("w{number}"))).collect();
    for round in 0..40 {
        for writer in &mut writers {
            writer.write(&cluster, 1 + round % 7, PATIENCE).await;
        }
    }
    let size = cluster.settle(PATIENCE).await;
    let written: u64 = writers.iter().map(Writer::acknowledged).sum();
    assert!(size >= written, "{size} leaves, {written} acknowledged");
    cluster.stop_all().await;
    cluster.compare(&writers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_is_replaced_and_catches_up_when_it_is_back() {
    let mut cluster = Cluster::start(3).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 300, PATIENCE).await;
    for _ in 0..3 {
        let leader = cluster.leader(PATIENCE).await;
        cluster.kill(leader).await;
        writer.write(&cluster, 200, PATIENCE).await;
        cluster.restart(leader).await;
        writer.write(&cluster, 100, PATIENCE).await;
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_loses_nothing_and_invents_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mut writer = Writer::new("w");
    for _ in 0..3 {
        writer.write(&cluster, 100, PATIENCE).await;
        let leader = cluster.leader(PATIENCE).await;
        cluster.isolate(leader);
        // The old leader takes records that never become committed there.
        let stranded = cluster.send_to(leader, &mut Writer::new("stranded"), 20);
        writer.write(&cluster, 100, PATIENCE).await;
        cluster.heal();
        for answer in stranded.await.unwrap() {
            assert!(answer.is_err(), "a record was acknowledged by a leader without a quorum");
        }
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_nodes_died_at_once_every_acknowledged_record_is_there() {
    let mut cluster = Cluster::start(3).await;
    let mut writer = Writer::new("w");
    for _ in 0..2 {
        writer.write(&cluster, 250, PATIENCE).await;
        for node in cluster.ids() {
            cluster.kill(node).await;
        }
        for node in cluster.ids() {
            cluster.restart(node).await;
        }
    }
    writer.write(&cluster, 10, PATIENCE).await;
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_writers_say_of_the_time_ends_no_segment() {
    let mut settings = cluster::settings(150, (400, 700));
    settings.seal.after_ms = 3_600_000;
    let mut cluster = Cluster::start_with(3, settings, std::collections::BTreeMap::new()).await;
    // Its records are more than fifty years old.
    let mut writer = Writer::new("w");
    for _ in 0..20 {
        writer.write(&cluster, 30, PATIENCE).await;
        let leaves = cluster.settle(PATIENCE).await;
        let segment = cluster.node(1).replica().lock().tail().segment.get();
        assert_eq!(segment, leaves / 256, "{leaves} leaves");
    }
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_have_recorded_as_sealed_is_sealed_here_when_a_node_is_back() {
    let mut cluster = Cluster::start(3).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 700, PATIENCE).await;
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    // As if it had been killed before it came to seal them; their seal records are there.
    cluster.unseal(2);
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    writer.write(&cluster, 300, PATIENCE).await;
    // It waits until as many are sealed everywhere as have ended.
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}
