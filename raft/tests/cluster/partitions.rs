//! Wires that are cut in one direction, that come and go, and a membership that changes meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use stele_simulator::random::SplitMix64;
use tokio::time::{Instant, sleep, timeout};

use crate::PATIENCE;
use crate::cluster::{Cluster, Writer, keep_word, settings};

/// Elections are over soon.
async fn start(count: u64) -> Cluster {
    Cluster::start_with(count, settings(50, (150, 300)), std::collections::BTreeMap::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_not_heard_or_does_not_hear_loses_nothing() {
    let mut cluster = start(3).await;
    let (mut writer, mut stranded) = (Writer::new("w"), Writer::new("stranded"));
    for round in 0..4 {
        writer.write(&cluster, 100, PATIENCE).await;
        let leader = cluster.leader(PATIENCE).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        for other in others {
            match round % 2 {
                // It says nothing any more; what it is asked, it does.
                0 => cluster.wires.cut(leader, other),
                // Its entries arrive, and nobody's answer does: the others keep it for their leader.
                _ => cluster.wires.cut(other, leader),
            }
        }
        let sent = cluster.send_to(leader, &mut stranded, 20);
        if round % 2 == 0 {
            // Its voice is gone, and the others go on.
            writer.write(&cluster, 100, PATIENCE).await;
        } else {
            sleep(Duration::from_millis(500)).await;
        }
        cluster.heal();
        let answers = timeout(PATIENCE, sent).await.unwrap().unwrap();
        let known = stranded.told.len();
        stranded.write(&cluster, 0, PATIENCE).await;
        keep_word(&answers, &stranded.told[known..]);
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer, stranded]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wires_that_come_and_go_leave_one_history() {
    let mut cluster = start(3).await;
    let mut random = SplitMix64::new(7);
    let mut writers: Vec<Writer> = (0..3).map(|number| Writer::new(&format!("w{number}"))).collect();
    for writer in &mut writers {
        writer.write(&cluster, 50, PATIENCE).await;
    }
    let wires = cluster.wires.clone();
    let flap = async {
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let (from, to) = (1 + random.below(3), 1 + random.below(3));
            wires.cut(from, to);
            if random.below(3) == 0 {
                wires.cut(to, from);
            }
            sleep(Duration::from_millis(random.below(150))).await;
            if random.below(2) == 0 {
                wires.mend(from, to);
            }
            if random.below(4) == 0 {
                wires.heal();
            }
        }
        wires.heal();
    };
    let [one, two, three] = &mut writers[..] else { unreachable!() };
    let load = async |writer: &mut Writer| {
        for _ in 0..30 {
            writer.write(&cluster, 10, PATIENCE).await;
        }
    };
    tokio::join!(flap, load(one), load(two), load(three));
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&writers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_that_changes_during_a_partition_leaves_one_history() {
    let mut cluster = start(5).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 200, PATIENCE).await;
    let old = cluster.leader(PATIENCE).await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let (friend, rest) = (others[0], &others[1..]);
    for one in [old, friend] {
        for other in rest {
            cluster.wires.cut(one, *other);
            cluster.wires.cut(*other, one);
        }
    }
    // The leader of the smaller part would like to go on with that part alone.
    let own: BTreeSet<u64> = [old, friend].into();
    let raft = cluster.node(old).raft().clone();
    let asked = tokio::spawn(async move { raft.change_membership(ChangeMembers::ReplaceAllVoters(own), true).await });
    // The larger part does so.
    writer.write(&cluster, 50, PATIENCE).await;
    let larger: BTreeSet<u64> = rest.iter().copied().collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leads = rest.iter().find(|id| cluster.node(**id).raft().is_leader());
        if let Some(leader) = leads {
            let change = ChangeMembers::ReplaceAllVoters(larger.clone());
            let changed = timeout(PATIENCE, cluster.node(*leader).raft().change_membership(change, true)).await;
            if changed.unwrap().is_ok() {
                break;
            }
        }
        assert!(Instant::now() < deadline, "the larger part does not change its membership");
        sleep(Duration::from_millis(20)).await;
    }
    writer.write(&cluster, 200, PATIENCE).await;
    cluster.heal();
    let refused = timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert!(refused.is_err(), "a minority changed the membership: {refused:?}");
    writer.write(&cluster, 50, PATIENCE).await;
    cluster.settle(PATIENCE).await;
    assert!(larger.contains(&cluster.leader(PATIENCE).await));
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_voters_that_a_lost_leader_began_is_finished_by_the_next() {
    let mut cluster = start(5).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 300, PATIENCE).await;
    let lost = cluster.leader(PATIENCE).await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != lost).collect();
    // Two of the three new voters hear nothing of it, so that the joint configuration is not committed.
    let new: BTreeSet<u64> = others[..3].iter().copied().collect();
    for deaf in &others[1..3] {
        cluster.wires.cut(lost, *deaf);
    }
    let raft = cluster.node(lost).raft().clone();
    let change = ChangeMembers::ReplaceAllVoters(new.clone());
    let asked = tokio::spawn(async move { raft.change_membership(change, true).await });
    wait_until("two others know of the change", || {
        [others[0], others[3]].iter().all(|id| halves(&cluster, *id).len() == 2)
    })
    .await;
    cluster.kill(lost).await;
    cluster.heal();
    drop(asked.await);
    wait_until("the new voters are the only ones", || new.iter().all(|id| halves(&cluster, *id) == [new.clone()]))
        .await;
    writer.write(&cluster, 50, PATIENCE).await;
    cluster.restart(lost).await;
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// The voters, as a node knows them: two sets in a joint configuration.
fn halves(cluster: &Cluster, id: u64) -> Vec<BTreeSet<u64>> {
    cluster.node(id).raft().metrics().borrow_watched().membership_config.membership().get_joint_config().clone()
}
