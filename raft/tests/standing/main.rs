//! Disks that are lost, wiped or brought back from an old copy never vote; honest ones always come back.

#![allow(clippy::unwrap_used, reason = "a test")]

mod sites;

use std::time::Duration;

use sites::{PATIENCE, Sites, until};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::Tail;
use stele_engine::local::LocalLog;
use stele_engine::number::{NodeId, RaftIndex};
use stele_raft::node::StartError;
use stele_raft::standing::{Stale, Told};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_all_stopped_start_again_together() {
    let mut sites = Sites::running(3).await;
    sites.stop(&[1, 2, 3]).await;
    sites.start(&[1, 2, 3]).await;
    sites.write(20).await;
    sites.kill(&[1, 2, 3]).await;
    sites.start(&[1, 2, 3]).await;
    sites.write(20).await;
    sites.settle().await;
    sites.stop(&[1, 2, 3]).await;
    for node in 1..=3 {
        assert_eq!(sites.hard_state(node).incarnation, 3, "each start was let in, and counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_somebody_still_looks_at_stops_cleanly() {
    let mut sites = Sites::running(3).await;
    let looks: Vec<_> = (1..=3).map(|node| sites.running[&node].node.replica().clone()).collect();
    sites.stop(&[1, 2, 3]).await;
    for (node, replica) in (1..=3).zip(looks) {
        assert!(sites.hard_state(node).clean.is_some(), "node {node}");
        let mut replica = replica.lock();
        let shown = replica.visible().tail;
        assert_eq!(shown, replica.store().tail());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_waits_and_does_not_vote() {
    let mut sites = Sites::running(3).await;
    sites.stop(&[1, 2, 3]).await;
    let before = sites.hard_state(1);
    let mut waiting = sites.open(1).await.unwrap();
    // Twice what an election takes.
    let asked = timeout(Duration::from_millis(1500), waiting.starting.ask(&waiting.network)).await;
    assert!(asked.is_err(), "it was let in by nobody");
    waiting.close().await;
    let after = sites.hard_state(1);
    assert_eq!((before.vote, before.incarnation), (after.vote, after.incarnation));
    assert!(after.clean.is_some(), "it stopped cleanly");

    // One that waits answers, so two are enough.
    sites.start(&[1, 2]).await;
    sites.write(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_is_refused_for_good_and_the_real_one_is_not() {
    let mut sites = Sites::running(3).await;
    sites.stop(&[3]).await;
    let real = sites.back_up(3);
    sites.wipe(3);
    let told = sites.refused(3).await.unwrap();
    assert_eq!(told.stale, Stale::Incarnation { seen: 1, shown: 0 });
    assert!(sites.found_stale() >= 1, "a counter says so");
    // It has written down that it is stale, and asks nobody.
    assert_eq!(sites.refused(3).await, None);
    assert!(sites.hard_state(3).stale);
    let error = sites.open(3).await.err().unwrap();
    assert!(matches!(error, StartError::Stale(_)));
    let text = error.to_string();
    for remedy in ["stele cluster remove 3", "empty directory", "never used", "stele cluster join"] {
        assert!(text.contains(remedy), "{remedy} is not in: {text}");
    }
    // However often somebody makes a new one.
    for _ in 0..3 {
        sites.wipe(3);
        assert!(sites.refused(3).await.is_some());
    }
    sites.write(20).await;
    // It was not mounted: that is not held against it.
    sites.restore(3, &real);
    sites.start(&[3]).await;
    sites.write(20).await;
    sites.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_from_before_the_last_start_is_refused() {
    let mut sites = Sites::running(3).await;
    sites.stop(&[3]).await;
    let copy = sites.back_up(3);
    sites.start(&[3]).await;
    sites.write(20).await;
    sites.settle().await;
    sites.kill(&[3]).await;
    sites.restore(3, &copy);
    assert_eq!(sites.refused(3).await.unwrap().stale, Stale::Incarnation { seen: 2, shown: 1 });
    sites.write(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_group_that_rotted_behind_its_acknowledgement_comes_back_from_the_peers() {
    let mut sites = Sites::running(3).await;
    // It is known to be committed, or not.
    for committed in [true, false] {
        // Those that run offer it, and those that start.
        for others in [&[][..], &[1, 2]] {
            sites.settle().await;
            let from = sites.tail(3);
            sites.write(20).await;
            sites.settle().await;
            let to = sites.tail(3);
            let whole = sites.bytes(1, (&from, &to));
            sites.kill(&[&[3], others].concat()).await;
            let committed = if committed { to.next_index } else { from.next_index };
            sites.rot_last_group(3, (&from, &to), committed);
            assert_ne!(sites.bytes(3, (&from, &to)), whole);
            sites.start(&[&[3], others].concat()).await;
            sites.settle().await;
            assert_eq!(sites.bytes(3, (&from, &to)), whole, "{committed}, {others:?} started with it");
            let kept = sites.path(3).join("quarantine");
            let kept = kept.exists().then(|| std::fs::read_dir(kept).unwrap().count());
            assert!(committed == from.next_index || kept > Some(0), "what was committed is kept before it is cut");
            assert_eq!(sites.hard_state(3).doubt, None);
        }
    }
    sites.write(20).await;
    sites.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_its_node_writes_a_directory_of_a_cluster() {
    let mut sites = Sites::running(3).await;
    sites.settle().await;
    let (from, environment) = (sites.tail(3), Environment::system());
    sites.write(20).await;
    sites.settle().await;
    let to = sites.tail(3);
    sites.kill(&[1, 2, 3]).await;
    let refused = |sites: &Sites| match LocalLog::open(&environment, &sites.path(3)) {
        Err(LogError::Member(path)) => assert_eq!(path, sites.path(3)),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a member's log was opened for writing"),
    };
    refused(&sites);
    // Also where its last group is torn: that stays in doubt.
    sites.rot_last_group(3, (&from, &to), from.next_index);
    refused(&sites);
    refused(&sites);
    sites.start(&[1, 2, 3]).await;
    sites.settle().await;
    assert!(sites.tail(3).next_index >= to.next_index);
}

/// Three stopped nodes: the first has the whole log, the second lacks the last group, that of the third has rotted.
async fn with_one_holder(is_committed: impl Fn(&Tail, &Tail) -> RaftIndex) -> (Sites, Tail, Tail) {
    let mut sites = Sites::running(3).await;
    sites.settle().await;
    let (from, copy) = (sites.tail(3), sites.back_up(2));
    sites.write(20).await;
    sites.settle().await;
    let to = sites.tail(3);
    sites.kill(&[1, 2, 3]).await;
    sites.restore(2, &copy);
    sites.rot_last_group(3, (&from, &to), is_committed(&from, &to));
    (sites, from, to)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_group_that_is_committed_is_waited_for() {
    let (sites, _, to) = with_one_holder(|_, to| to.next_index).await;
    let (lacking, mut waiting) = (sites.open(2).await.unwrap(), sites.open(3).await.unwrap());
    let asked = timeout(Duration::from_secs(4), waiting.starting.ask(&waiting.network)).await;
    assert!(asked.is_err(), "it went on without what is committed");
    // Also behind another start.
    waiting.close().await;
    assert!(sites.hard_state(3).doubt.is_some());
    let mut waiting = sites.open(3).await.unwrap();
    assert!(waiting.starting.is_in_doubt());
    let holding = sites.open(1).await.unwrap();
    timeout(PATIENCE, waiting.starting.ask(&waiting.network)).await.unwrap().unwrap();
    assert_eq!(waiting.starting.replica().store().tail(), to);
    for node in [lacking, waiting, holding] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_group_that_nobody_offers_or_knows_to_be_committed_is_cut() {
    let (sites, from, _) = with_one_holder(|from, _| from.next_index).await;
    let (lacking, mut waiting) = (sites.open(2).await.unwrap(), sites.open(3).await.unwrap());
    timeout(PATIENCE, waiting.starting.ask(&waiting.network)).await.unwrap().unwrap();
    assert_eq!(waiting.starting.replica().store().tail(), from);
    for node in [lacking, waiting] {
        node.close().await;
    }
}

/// A copy of a follower that was made while it ran, and that lacks what it acknowledged since.
async fn with_old_copy() -> (Sites, u64, u64) {
    let mut sites = Sites::running(3).await;
    sites.settle().await;
    let leader = sites.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    let copy = sites.back_up(follower);
    sites.write(20).await;
    sites.settle().await;
    assert_eq!(sites.leader().await, leader);
    sites.kill(&[follower]).await;
    sites.restore(follower, &copy);
    (sites, leader, follower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_running_node_is_refused_by_who_led_it() {
    let (mut sites, leader, follower) = with_old_copy().await;
    let told = sites.refused(follower).await.unwrap();
    assert_eq!(told.by, NodeId::new(leader));
    assert!(matches!(told.stale, Stale::Acknowledged { .. }), "{told}");
    sites.write(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_remembers_outlives_its_process() {
    let (mut sites, leader, follower) = with_old_copy().await;
    sites.stop(&[leader]).await;
    sites.start(&[leader]).await;
    let told = sites.refused(follower).await.unwrap();
    assert_eq!(told.by, NodeId::new(leader));
    assert!(matches!(told.stale, Stale::Acknowledged { .. }), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_node_that_runs_stops_when_it_meets_who_remembers() {
    let (mut sites, leader, follower) = with_old_copy().await;
    sites.stop(&[leader]).await;
    // The third remembers nothing of it, and is all that answers.
    sites.start(&[follower]).await;
    assert_eq!(sites.running[&follower].node.stale(), None);
    sites.start(&[leader]).await;
    until("the stale node is told", || sites.running[&follower].node.stale().is_some()).await;
    let stale = sites.running[&follower].node.stale().unwrap();
    assert_eq!((stale.node.get(), stale.told.unwrap().by.get()), (follower, leader));
    let raft = sites.running[&follower].node.raft().clone();
    let leader_id = openraft::impls::leader_id_std::LeaderId { term: 0, voted_for: 0 };
    let vote = openraft::raft::VoteRequest::new(openraft::vote::RaftVote::from_leader_id(leader_id, false), None);
    let stopped = async { while raft.vote(vote.clone()).await.is_ok() {} };
    timeout(PATIENCE, stopped).await.expect("its consensus stops");
    sites.kill(&[follower]).await;
    assert_eq!(sites.refused(follower).await, None, "and it does not start again");
    sites.write(20).await;
}

/// Whether a node has saved that another's disk had entries up to this one.
fn remembers(sites: &Sites, node: u64, other: u64, index: RaftIndex) -> bool {
    let marks = sites.hard_state(node).peers;
    marks.iter().any(|mark| mark.node.get() == other && mark.index >= index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_running_leader_is_refused_by_who_followed_it() {
    let mut sites = Sites::running(3).await;
    sites.settle().await;
    let leader = sites.leader().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let (follower, lagging) = (others[0], others[1]);
    sites.stop(&[lagging]).await;
    let copy = sites.back_up(leader);
    sites.write(20).await;
    sites.settle().await;
    assert_eq!(sites.leader().await, leader);
    let last = RaftIndex::new(sites.end(leader).get() - 1);
    // What the last append could not say yet, a heartbeat does.
    until("the follower remembers", || remembers(&sites, follower, leader, last)).await;
    sites.kill(&[leader]).await;
    sites.restore(leader, &copy);

    // The third lacks what the two acknowledged, and would let in what lacks it, too.
    let third = sites.open(lagging).await.unwrap();
    let refuses = |told: &Told| matches!(told.stale, Stale::Acknowledged { index, .. } if index >= last);
    let told = sites.refused(leader).await.unwrap();
    assert!(told.by.get() == follower && refuses(&told), "{told}");
    // What it remembers outlives its process.
    sites.kill(&[follower]).await;
    sites.restore(leader, &copy);
    let second = sites.open(follower).await.unwrap();
    let told = sites.refused(leader).await.unwrap();
    assert!(told.by.get() == follower && refuses(&told), "{told}");
    third.close().await;
    second.close().await;
    sites.start(&[follower, lagging]).await;
    sites.write(20).await;
    sites.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_leader_truncated_does_not_make_a_node_stale() {
    let mut sites = Sites::running(5).await;
    sites.settle().await;
    let leader = sites.leader().await;
    let others: Vec<u64> = (1..=5).filter(|node| *node != leader).collect();
    let (follower, rest) = (others[0], &others[1..]);
    sites.kill(rest).await;
    // Two of five: the follower acknowledges what never is committed.
    let (end, stranded) = (sites.end(leader), sites.strand(leader));
    until("the follower has them", || sites.end(follower) > end && sites.end(leader) == sites.end(follower)).await;
    until("the leader remembers that it has them", || remembers(&sites, leader, follower, end)).await;
    until("it remembers that the leader has them", || remembers(&sites, follower, leader, end)).await;
    sites.kill(&[leader, follower]).await;
    stranded.await.unwrap();

    sites.start(rest).await;
    sites.write(20).await;
    sites.start(&[follower]).await;
    sites.settle().await;
    sites.kill(&[follower]).await;
    sites.start(&[leader]).await;
    sites.settle().await;
    assert!(remembers(&sites, leader, follower, end));
    sites.start(&[follower]).await;
    sites.write(20).await;
    sites.settle().await;
    // The other way round: what it counted itself when it led is gone, too.
    sites.kill(&[leader]).await;
    sites.start(&[leader]).await;
    sites.write(20).await;
    sites.settle().await;
    assert_eq!(sites.found_stale(), 0);
}
