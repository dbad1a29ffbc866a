//! The power fails at all sites at once, on disks that keep any part of what was not flushed.
//!
//! `STELE_POWER_SEEDS=100` goes through so many schedules (4 where nobody says), `STELE_POWER_SEED=7` through one.

use std::collections::BTreeMap;
use std::time::Duration;

use stele_simulator::fake_disk::{FakeDisk, Guard, Media};
use stele_simulator::random::SplitMix64;
use tokio::time::sleep;

use crate::PATIENCE;
use crate::cluster::{Cluster, Writer, settings};

const WRITERS: usize = 3;

fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Writes, in pieces, until it is dropped.
async fn write(cluster: &Cluster, writer: &mut Writer, random: &mut SplitMix64) {
    loop {
        writer.write(cluster, 1 + random.below(40), PATIENCE).await;
    }
}

/// Some calls from now, at one of the disks.
async fn some_calls_later(cluster: &Cluster, random: &mut SplitMix64) {
    let disk = cluster.disk(1 + random.below(3));
    let calls = disk.calls() + 50 + random.below(500);
    while disk.calls() < calls {
        sleep(Duration::from_micros(random.below(300))).await;
    }
}

/// How many starts began with a torn last group.
async fn schedule(seed: u64) -> u64 {
    let mut random = SplitMix64::new(seed);
    let media = *random.pick(&[Media::TearsSectors, Media::WholeSectors]);
    let disk = |id: u64| (id, FakeDisk::new(media, seed.wrapping_add(id)));
    let disks: BTreeMap<u64, FakeDisk> = (1..=3).map(disk).collect();
    let mut cluster = Cluster::start_with(3, settings(50, (200, 350)), disks).await;
    for id in cluster.ids() {
        cluster.disk(id).set_guard(Guard::Records);
    }
    let mut writers: Vec<Writer> = (0..WRITERS).map(|number| Writer::new(&format!("w{number}"))).collect();
    for writer in &mut writers {
        writer.write(&cluster, 30, PATIENCE).await;
    }
    for _ in 0..1 + random.below(3) {
        let [mut own, mut two, mut three] = [random.split(), random.split(), random.split()];
        let [first, second, third] = &mut writers[..] else { unreachable!() };
        tokio::select! {
            () = write(&cluster, first, &mut own) => {}
            () = write(&cluster, second, &mut two) => {}
            () = write(&cluster, third, &mut three) => {}
            () = some_calls_later(&cluster, &mut random) => {}
        }
        // What was told until here must be there afterwards.
        cluster.lose_power(&mut random).await;
        for writer in &mut writers {
            writer.write(&cluster, 5, PATIENCE).await;
        }
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&writers);
    for id in cluster.ids() {
        assert_eq!(cluster.disk(id).violations(), Vec::<String>::new(), "sealed files of node {id} were changed");
    }
    cluster.doubts()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_power_everywhere_holds_every_acknowledged_record() {
    let seeds = match asked("STELE_POWER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("STELE_POWER_SEEDS").unwrap_or(4),
    };
    let mut doubts = 0;
    for seed in seeds.clone() {
        println!("STELE_POWER_SEED={seed}");
        doubts += schedule(seed).await;
    }
    println!("{doubts} starts began with a torn last group");
    assert!(doubts > 0 || seeds.count() < 4, "a power loss tears groups");
}
