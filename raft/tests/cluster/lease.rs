//! A leader whose lease expires: openraft refuses its proposals and takes them again in the same term, so that what
//! it had packed has a gap. What comes behind the gap is void (DESIGN.md section 7), and nothing is lost.

use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver};
use stele_engine::frame::EntryKind;
use stele_proof::TreeSize;
use stele_raft::entry::{Outcome, Proposal};
use stele_raft::intake::{Answers, Refused};
use tokio::time::{Instant, sleep, timeout};

use crate::PATIENCE;
use crate::cluster::{Cluster, Writer, keep_word, settings};

/// openraft's lease is the longest time to an election.
const LEASE: Duration = Duration::from_millis(1100);
/// More than a block, so that a proposal does not wait for the one before it.
const MUCH: u64 = 300;

/// Nobody asks for votes for about a second after the lease has expired.
async fn start() -> Cluster {
    Cluster::start_with(3, settings(100, (1000, 1100)), std::collections::BTreeMap::new()).await
}

fn term(cluster: &Cluster, node: u64) -> u64 {
    cluster.node(node).raft().metrics().borrow_watched().current_term
}

async fn lease_expires(cluster: &Cluster, leader: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let acked = cluster.node(leader).raft().metrics().borrow_watched().last_quorum_acked;
        if acked.is_some_and(|acked| acked.elapsed() > LEASE) {
            return;
        }
        assert!(Instant::now() < deadline, "the lease does not expire");
        sleep(Duration::from_millis(5)).await;
    }
}

#[track_caller]
fn assert_retriable(answers: &Answers) {
    let retriable =
        |answer: &&Result<_, Refused>| matches!(answer, Err(Refused::Unavailable(_) | Refused::NotLeader(None)));
    assert_eq!(answers.iter().find(|answer| !retriable(answer)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_lets_nobody_wait_and_names_no_leader() {
    let mut cluster = start().await;
    let (mut writer, mut stranded) = (Writer::new("w"), Writer::new("stranded"));
    writer.write(&cluster, 300, PATIENCE).await;
    let leader = cluster.leader(PATIENCE).await;
    cluster.isolate(leader);
    // It is appended, and will neither be committed nor refused as long as the wires are cut.
    let waiting = cluster.send_to(leader, &mut stranded, 1);
    assert_retriable(&timeout(PATIENCE, waiting).await.unwrap().unwrap());
    let later = timeout(PATIENCE, cluster.send_to(leader, &mut stranded, 1)).await.unwrap().unwrap();
    assert!(later.iter().all(|answer| *answer == Err(Refused::NotLeader(None))), "{later:?}");
    // Whoever looks elsewhere is served.
    writer.write(&cluster, 100, PATIENCE).await;
    cluster.heal();
    stranded.write(&cluster, 0, PATIENCE).await;
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer, stranded]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_lease_expired_refuses_and_goes_on_in_the_same_term_without_a_gap() {
    let mut cluster = start().await;
    let mut writer = Writer::new("w");
    let mut same_terms = 0;
    for _ in 0..3 {
        writer.write(&cluster, 100, PATIENCE).await;
        let leader = cluster.leader(PATIENCE).await;
        let before = term(&cluster, leader);
        cluster.isolate(leader);
        lease_expires(&cluster, leader).await;
        let refused = cluster.send_to(leader, &mut writer, MUCH);
        assert_retriable(&timeout(PATIENCE, refused).await.unwrap().unwrap());
        cluster.heal();
        writer.write(&cluster, 0, PATIENCE).await;
        same_terms += u64::from(cluster.node(leader).raft().is_leader() && term(&cluster, leader) == before);
    }
    assert!(same_terms > 0, "every leader was replaced: the lease was never gone on from");
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_on_both_sides_of_an_expired_lease_keep_every_word_that_was_given() {
    let mut cluster = start().await;
    let mut writers: Vec<Writer> = (0..6).map(|number| Writer::new(&format!("w{number}"))).collect();
    for round in 0..6 {
        for writer in &mut writers {
            writer.write(&cluster, 3, PATIENCE).await;
        }
        let leader = cluster.leader(PATIENCE).await;
        cluster.isolate(leader);
        let [first, refused @ .., last] = &mut writers[..] else { unreachable!() };
        // Appended, and on its way to a quorum as long as it is cut off; others are refused behind it.
        let mut answers = vec![cluster.send_to(leader, first, 1 + round % 2 * MUCH)];
        lease_expires(&cluster, leader).await;
        answers.extend(refused.iter_mut().map(|writer| cluster.send_to(leader, writer, MUCH)));
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        } else {
            // They have reached openraft.
            sleep(Duration::from_millis(30)).await;
        }
        cluster.heal();
        answers.push(cluster.send_to(leader, last, MUCH));
        let mut told = Vec::new();
        for answer in answers {
            told.push(answer.await.unwrap());
        }
        for (writer, answers) in writers.iter_mut().zip(&told) {
            let known = writer.told.len();
            writer.write(&cluster, 0, PATIENCE).await;
            keep_word(answers, &writer.told[known..]);
        }
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&writers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_does_not_follow_is_void_everywhere_and_the_leader_finds_its_place_again() {
    let mut cluster = Cluster::start(3).await;
    let (mut writer, mut other) = (Writer::new("w"), Writer::new("other"));
    writer.write(&cluster, 10, PATIENCE).await;
    for round in 0..5 {
        let leader = cluster.leader(PATIENCE).await;
        let leaves = cluster.node(leader).replica().lock().tail().leaves;
        // One that leaves a gap is void; one that fits, past the leader's own sequencer, makes the leader's next void.
        let gap = TreeSize::new(leaves.get() + 1 + round);
        let (body, payload) = other.next_batch(term(&cluster, leader), gap);
        let proposal = Proposal { kind: EntryKind::Batch, body, payload };
        let written = cluster.node(leader).raft().client_write(proposal).await.unwrap();
        assert_eq!(written.data, Outcome::Void);
        // The leader may have recorded a sealed segment meanwhile: then that has the place.
        loop {
            let leaves = cluster.node(leader).replica().lock().tail().leaves;
            let (body, payload) = other.next_batch(term(&cluster, leader), leaves);
            let proposal = Proposal { kind: EntryKind::Batch, body, payload };
            let written = cluster.node(leader).raft().client_write(proposal).await.unwrap();
            if written.data == Outcome::Leaves(leaves.next_leaf()) {
                break;
            }
            assert_eq!(written.data, Outcome::Void);
            assert!(cluster.node(leader).replica().lock().tail().leaves > leaves, "void, and nothing came before it");
        }
        let stale = cluster.send_to(leader, &mut writer, 7).await.unwrap();
        assert!(stale.iter().all(|answer| matches!(answer, Err(Refused::Unavailable(_)))), "{stale:?}");
        writer.write(&cluster, 300, PATIENCE).await;
        // What was appended past it is known to be there.
        other.write(&cluster, 0, PATIENCE).await;
    }
    cluster.settle(PATIENCE).await;
    cluster.stop_all().await;
    cluster.compare(&[writer, other]);
}
