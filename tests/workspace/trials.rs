//! What befalls sites under load: kill -9, power loss at all of them, a process that is paused, leadership handed over.
//!
//! Each trial ends with the checks of [`crate::trial`]. `STELE_TRIAL_ROUNDS=20 cargo test -p stele-tests --test
//! workspace trials:: -- --nocapture` goes through the faults of each twenty times.

use std::time::Duration;

use stele_api::v1::ReadRequest;
use stele_api::v1::log_client::LogClient;
use stele_client::cluster::NodeNumber;
use stele_tools::sites::ORIGIN;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::history::{Moment, Read};
use crate::process::signal;
use crate::trial::{FAILOVER, PATIENCE, Trial, rounds, told, trial, until_done};

#[test]
fn a_leader_and_a_follower_killed_under_load_cost_nothing_that_was_acknowledged() {
    trial("killed", async |trial| {
        for _ in 0..rounds() {
            let (leader, from) = (trial.leader().await, trial.now());
            told(trial.sites.kill(leader));
            trial.more(300).await;
            let pause = trial.longest_pause(from);
            println!("leader killed: {} ms without an acknowledgement", pause.as_millis());
            assert!(pause < FAILOVER, "{pause:?}");
            trial.restart().await;

            let (follower, from) = (trial.follower().await, trial.now());
            told(trial.sites.kill(follower));
            trial.more(300).await;
            println!("follower killed: {} ms without an acknowledgement", trial.longest_pause(from).as_millis());
            trial.restart().await;
        }
    });
}

#[test]
fn all_sites_killed_at_once_under_load_hold_every_acknowledged_record_when_they_are_back() {
    trial("all killed", async |trial| {
        for _ in 0..rounds() {
            let nodes: Vec<u64> = trial.sites.all().iter().map(|site| site.node).collect();
            for node in nodes {
                told(trial.sites.kill(node));
            }
            trial.restart().await;
            trial.more(300).await;
        }
    });
}

/// The plain interface of a node, connected.
async fn plain(trial: &Trial, node: u64) -> LogClient<Channel> {
    let site = trial.sites.all().iter().find(|site| site.node == node).unwrap();
    let channel = Endpoint::new(format!("http://{}", site.client)).unwrap().connect().await.unwrap();
    let mut log = LogClient::new(channel);
    log.describe(stele_api::v1::DescribeRequest::default()).await.unwrap();
    log
}

/// Reads the last record linearizably, from this node and no other.
async fn read_at(mut log: LogClient<Channel>, start: u64) -> Result<u64, tonic::Status> {
    let request = ReadRequest { log: ORIGIN.to_owned(), start, linearizable: true, ..ReadRequest::default() };
    let mut size = 0;
    let mut pieces = log.read(request).await?.into_inner();
    while let Some(piece) = pieces.message().await? {
        size = piece.records.last().map_or(size, |record| record.index + 1);
    }
    Ok(size)
}

#[test]
fn a_leader_that_was_paused_answers_no_stale_read_and_loses_nothing() {
    trial("paused", async |trial| {
        for round in 0..rounds() {
            let leader = trial.leader().await;
            let log = plain(trial, leader).await;
            let before = trial.size() - 1;
            let process = trial.sites.all().iter().find(|site| site.node == leader).unwrap().process().unwrap();
            let from = trial.now();
            signal(process, "STOP");
            // The others elect a leader and go on, for longer than any lease and any election.
            trial.more(300).await;
            let paused = Duration::from_secs(2 + u64::from(round % 3));
            tokio::time::sleep(paused.saturating_sub(trial.now() - from)).await;
            println!("leader paused: {} ms without an acknowledgement", trial.longest_pause(from).as_millis());
            let asked: Vec<(Moment, _)> =
                (0..8).map(|_| (trial.now(), tokio::spawn(read_at(log.clone(), before)))).collect();
            // They lie in its socket.
            tokio::task::yield_now().await;
            trial.more(10).await;
            signal(process, "CONT");
            let mut refused = Vec::new();
            for (began, answered) in asked {
                match timeout(PATIENCE, answered).await.unwrap().unwrap() {
                    // It stands before the leader's first own word, or behind it: never before what was acknowledged.
                    Ok(size) => trial.reads.push(Read { began, ended: trial.now(), size, records: Vec::new() }),
                    Err(status) => refused.push(status.message().to_owned()),
                }
            }
            println!("of 8 linearizable reads of the paused leader {} were refused: {refused:?}", refused.len());
            let size = trial.size();
            told(trial.sites.caught_up_with(size).await);
        }
    });
}

#[test]
fn leadership_handed_over_under_load_costs_nothing_that_was_acknowledged() {
    trial("handed over", async |trial| {
        for _ in 0..3 * rounds() {
            let (to, from) = (trial.follower().await, trial.now());
            until_done("handing over", async || trial.client.cluster().transfer_leader(NodeNumber::new(to)).await)
                .await;
            trial.more(200).await;
            println!("handed over: {} ms without an acknowledgement", trial.longest_pause(from).as_millis());
        }
    });
}
