//! Every record that is acknowledged is in the log once, in the order of its chain, whatever servers do.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stele_api::v1::RefusalCode;
use stele_client::dial::{Dial as _, NetworkDial};
use stele_client::error::{Fate, Violation};
use stele_client::record::ChainName;
use stele_client::{
    Ack, Address, AppendError, Appender, AppenderOptions, ChainWriter, Client, ClientConfig, Draft, DraftRetry, Event,
    Pending, Reached, Receipt,
};
use stele_proof::record::{Actor, Object, Subject};
use stele_proof::{LeafIndex, UnixMillis};
use support::{Cluster, Fault, address, policy, strict_policy};

fn chain(number: usize) -> ChainName {
    ChainName { writer_id: format!("w{number}"), stream: "s".into() }
}

async fn push(writer: &mut ChainWriter, ts_ms: u64) -> Result<Pending, AppendError> {
    let (actor, attrs) = (Actor { anon: true, ..Actor::default() }, Object::default());
    let subject = Subject::default();
    let event = Event { ts_ms: UnixMillis::new(ts_ms), kind: "K", actor, subject, reason: "ok", attrs: &attrs };
    writer.append(&event).await
}

fn appender(config: ClientConfig, options: AppenderOptions) -> Appender {
    Client::new(config).unwrap().appender(options).unwrap()
}

/// Appends `records` to each of `chains`, pushed in turn, and waits for all answers, chain by chain.
async fn append(appender: &Appender, chains: usize, records: u64) -> Vec<Vec<Result<Receipt, AppendError>>> {
    let mut writers: Vec<_> = (0..chains).map(|at| ChainWriter::new(appender.clone(), chain(at), None)).collect();
    let mut pending: Vec<Vec<Pending>> = (0..chains).map(|_| Vec::new()).collect();
    for ts_ms in 0..records {
        for (writer, pending) in writers.iter_mut().zip(&mut pending) {
            pending.push(push(writer, ts_ms).await.unwrap());
        }
    }
    let mut answers = Vec::new();
    for pending in pending {
        answers.push(futures_util::future::join_all(pending).await);
    }
    answers
}

/// Every record has its receipt, indexes ascend within a chain, and the log holds exactly what was acknowledged.
fn assert_all_acknowledged(cluster: &Cluster, answers: &[Vec<Result<Receipt, AppendError>>], what: &str) {
    cluster.check();
    let mut indexes = BTreeSet::new();
    for answers in answers {
        let mut last = None;
        for answer in answers {
            let receipt = answer.as_ref().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(last < Some(receipt.index), "{what}");
            last = Some(receipt.index);
            assert!(indexes.insert(receipt.index), "{what}: two receipts for index {}", receipt.index);
        }
    }
    assert_eq!(indexes.len(), cluster.table.lock().unwrap().leaves.len(), "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_single_fault_at_any_record_is_survived() {
    let faults = [
        Fault::Busy,
        Fault::Unavailable,
        Fault::UnavailableButAppended,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Hang,
    ];
    for fault in faults {
        for nth in 0..12 {
            let cluster = Cluster::default();
            cluster.node(1).lock().unwrap().faults.insert(nth, fault);
            let appender = appender(cluster.config(&[1]), AppenderOptions::default());
            let answers = append(&appender, 3, 4).await;
            assert_all_acknowledged(&cluster, &answers, &format!("{fault:?} at record {nth}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_faults_at_two_nodes_that_take_turns_are_survived() {
    for seed in 0..60_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let cluster = Cluster::default();
        for number in [1, 2] {
            let node = cluster.node(number);
            let kinds = [
                Fault::Busy,
                Fault::Unavailable,
                Fault::UnavailableButAppended,
                Fault::CutBefore,
                Fault::CutAfter,
                Fault::Hang,
            ];
            for _ in 0..draw(25) {
                let kind = kinds[usize::try_from(draw(6)).unwrap()];
                node.lock().unwrap().faults.insert(draw(120), kind);
            }
        }
        *cluster.refused_dials.lock().unwrap() = u32::try_from(draw(4)).unwrap();
        let mut config = cluster.config(&[1, 2]);
        config.jitter_seed = seed;
        config.batch.records = usize::try_from(1 + draw(20)).unwrap();
        config.in_flight.records = u32::try_from(1 + draw(100)).unwrap();
        config.timeouts.append = Duration::from_secs(3600);
        let chains = usize::try_from(1 + draw(8)).unwrap();
        let appender = appender(config, AppenderOptions::default());
        let answers = append(&appender, chains, 20).await;
        assert_all_acknowledged(&cluster, &answers, &format!("seed {seed}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_sends_the_appender_to_the_leader() {
    let cluster = Cluster::default();
    let follower = cluster.node(1);
    cluster.node(2);
    follower.lock().unwrap().follows = Some(address(2).as_str().to_owned());
    // Node 2 is not configured: only node 1 can have named it.
    let appender = appender(cluster.config(&[1]), AppenderOptions::default());
    let answers = append(&appender, 2, 10).await;
    assert_all_acknowledged(&cluster, &answers, "after the redirection");
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_name_each_other_are_asked_with_waits_until_one_leads() {
    let cluster = Cluster::default();
    let (first, second) = (cluster.node(1), cluster.node(2));
    first.lock().unwrap().follows = Some(address(2).as_str().to_owned());
    second.lock().unwrap().follows = Some(address(1).as_str().to_owned());
    let appender = appender(cluster.config(&[1]), AppenderOptions::default());
    let mut writer = ChainWriter::new(appender, chain(0), None);
    let pending = push(&mut writer, 1).await.unwrap();
    tokio::time::advance(Duration::from_secs(10)).await;
    let elected = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        second.lock().unwrap().follows = None;
    });
    assert!(pending.await.is_ok());
    elected.await.unwrap();
    let streams = first.lock().unwrap().streams;
    assert!(streams < 60, "{streams} streams in half a minute");
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_fails_the_record_and_what_is_behind_it_in_its_chain_only() {
    for code in [RefusalCode::Schema, RefusalCode::Tamper, RefusalCode::LinkMismatch, RefusalCode::SeqGap] {
        let cluster = Cluster::default();
        // Records are pushed chain by chain in turn: number 2 is the second record of the first chain.
        cluster.node(1).lock().unwrap().faults.insert(2, Fault::Refuse(code));
        let appender = appender(cluster.config(&[1]), AppenderOptions::default());
        let answers = append(&appender, 2, 4).await;
        assert!(answers[0][0].is_ok());
        assert!(matches!(&answers[0][1], Err(AppendError::Refused(refused)) if refused.code == code), "{code:?}");
        for later in &answers[0][2..] {
            assert!(matches!(later, Err(AppendError::ChainBroken { failed: 2, .. })), "{code:?}: {later:?}");
        }
        assert!(answers[1].iter().all(Result::is_ok), "{code:?}");
        cluster.check();
        assert_eq!(cluster.table.lock().unwrap().leaves.len(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_a_writer_that_is_set_back_goes_on() {
    let cluster = Cluster::default();
    cluster.node(1).lock().unwrap().faults.insert(1, Fault::Refuse(RefusalCode::Forbidden));
    let client = Client::connect(cluster.config(&[1])).await.unwrap();
    let mut writer = ChainWriter::new(client.appender(AppenderOptions::default()).unwrap(), chain(0), None);
    assert!(push(&mut writer, 1).await.unwrap().await.is_ok());
    assert!(push(&mut writer, 2).await.unwrap().await.is_err());
    let head = client.head(&chain(0)).await.unwrap();
    assert_eq!(head.map(|head| head.seq), Some(1));
    writer.rewind(head);
    assert!(push(&mut writer, 3).await.unwrap().await.is_ok());
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn an_answer_out_of_contract_is_an_error_and_never_a_receipt() {
    let faults = [Fault::WrongHash, Fault::WrongPosition, Fault::WrongRequest, Fault::NoContent, Fault::OldIndex];
    for fault in faults {
        let cluster = Cluster::default();
        cluster.node(1).lock().unwrap().faults.insert(2, fault);
        let appender = appender(cluster.config(&[1]), AppenderOptions::default());
        let answers = append(&appender, 1, 4).await;
        assert!(answers[0][..2].iter().all(Result::is_ok), "{fault:?}");
        let Err(AppendError::Violation(violation)) = &answers[0][2] else { panic!("{fault:?}: {answers:?}") };
        let named = match fault {
            Fault::WrongHash => matches!(**violation, Violation::WrongSelfHash { .. }),
            Fault::NoContent => matches!(**violation, Violation::Missing { .. }),
            Fault::OldIndex => matches!(**violation, Violation::IndexOrder { .. }),
            _ => matches!(**violation, Violation::AnswerOutOfOrder { .. }),
        };
        assert!(named, "{fault:?}: {violation}");
        assert!(answers[0][3].is_err(), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_nobody_takes_ends_with_its_time() {
    let cluster = Cluster::default();
    let appender = appender(cluster.config(&[9]), AppenderOptions::default());
    let answers = append(&appender, 1, 2).await;
    assert!(matches!(answers[0][0], Err(AppendError::TimedOut { fate: Fate::NotAppended })), "{answers:?}");
    assert!(answers[0][1].is_err());
}

#[tokio::test(start_paused = true)]
async fn a_push_waits_where_the_bound_is_reached_and_goes_on_with_the_answers() {
    let cluster = Cluster::default();
    let mut config = cluster.config(&[9]);
    config.in_flight.records = 2;
    let appender = appender(config, AppenderOptions::default());
    let mut writer = ChainWriter::new(appender, chain(0), None);
    let first = [push(&mut writer, 1).await.unwrap(), push(&mut writer, 2).await.unwrap()];
    let third = tokio::time::timeout(Duration::from_secs(1), push(&mut writer, 3)).await;
    assert!(third.is_err(), "a third record was taken in");
    assert_eq!(writer.head().map(|head| head.seq), Some(2), "the writer moved without a push");
    cluster.node(9);
    assert!(push(&mut writer, 3).await.unwrap().await.is_ok());
    assert!(futures_util::future::join_all(first).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn what_arrives_while_a_message_is_on_its_way_goes_into_the_next_one() {
    let cluster = Cluster::default();
    let node = cluster.node(1);
    let mut config = cluster.config(&[1]);
    config.batch.records = 64;
    let answers = append(&appender(config, AppenderOptions::default()), 1, 1000).await;
    assert_all_acknowledged(&cluster, &answers, "grouped");
    let requests = node.lock().unwrap().requests.clone();
    assert!(requests.iter().all(|records| *records <= 64), "{requests:?}");
    assert!(requests.len() <= 100, "{} messages for 1000 records", requests.len());
}

fn draft(kind: &str) -> Draft {
    Draft { writer_id: "d".into(), stream: "s".into(), kind: kind.into(), ts_ms: Some(5), ..Draft::default() }
}

#[tokio::test(start_paused = true)]
async fn a_draft_whose_answer_was_lost_is_sent_again_only_where_that_was_asked_for() {
    for (drafts, records) in [(DraftRetry::Never, 1), (DraftRetry::MayDuplicate, 2)] {
        let cluster = Cluster::default();
        cluster.node(1).lock().unwrap().faults.insert(0, Fault::CutAfter);
        let options = AppenderOptions { drafts, ..AppenderOptions::default() };
        let appender = appender(cluster.config(&[1]), options);
        let answer = appender.push_draft(draft("K"), None).await.unwrap().await;
        match drafts {
            DraftRetry::Never => assert_eq!(answer, Err(AppendError::DraftUncertain)),
            DraftRetry::MayDuplicate => assert_eq!(answer.unwrap().index.get(), 1),
        }
        assert_eq!(cluster.table.lock().unwrap().leaves.len(), records);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_smaller_after_connections_that_brought_nothing_and_whole_after_an_answer() {
    let cluster = Cluster::default();
    let node = cluster.node(1);
    // Each time at its first record.
    node.lock().unwrap().faults.extend((0..7).map(|nth| (nth, Fault::CutBefore)));
    let mut config = cluster.config(&[1]);
    config.batch.bytes = 32 << 10;
    let whole = config.batch.bytes;
    let appender = appender(config, AppenderOptions::default());
    let answers = append(&appender, 1, 400).await;
    assert_all_acknowledged(&cluster, &answers, "seven connections that brought nothing");
    let record = 8 + whole / cluster.table.lock().unwrap().leaves.iter().map(|(leaf, _)| leaf.len()).max().unwrap();
    let requests = node.lock().unwrap().requests.clone();
    // What was pushed before the first one went out is all that it had.
    let again = &requests[1..8];
    assert!(again.windows(2).all(|pair| pair[1] <= pair[0]), "{requests:?}");
    assert!(again[6] >= 1 && again[6] <= record / 16, "{requests:?}");
    assert!(requests[8..].iter().any(|records| *records > record / 4), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_draft_of_which_the_leader_changed_a_word_gets_no_receipt() {
    let cluster = Cluster::default();
    cluster.node(1).lock().unwrap().faults.insert(1, Fault::OtherRecord);
    let appender = appender(cluster.config(&[1]), AppenderOptions::default());
    let whole = Draft { attrs: Some(Bytes::from_static(br#"{ "b":1, "a":null }"#)), ..draft("K") };
    appender.push_draft(whole.clone(), None).await.unwrap().await.unwrap();
    match appender.push_draft(whole, None).await.unwrap().await {
        Err(AppendError::Violation(violation)) => {
            assert_eq!(*violation, Violation::OtherDraft { index: LeafIndex::new(1), field: "reason" });
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_draft_that_was_refused_for_now_is_sent_again() {
    let cluster = Cluster::default();
    cluster.node(1).lock().unwrap().faults.insert(0, Fault::Busy);
    let appender = appender(cluster.config(&[1]), AppenderOptions::default());
    let receipt = appender.push_draft(draft("K"), None).await.unwrap().await.unwrap();
    assert_eq!((receipt.index.get(), receipt.draft.is_some()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_appender_still_answers_what_was_pushed() {
    let cluster = Cluster::default();
    cluster.node(1);
    let appender = appender(cluster.config(&[1]), AppenderOptions::default());
    let mut writer = ChainWriter::new(appender, chain(0), None);
    let pending = [push(&mut writer, 1).await.unwrap(), push(&mut writer, 2).await.unwrap()];
    drop(writer);
    assert!(futures_util::future::join_all(pending).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_comes_with_a_receipt_is_verified_and_one_below_the_policy_is_pending() {
    for (policy, met) in [(policy(), true), (strict_policy(), false)] {
        let cluster = Cluster::default();
        cluster.node(1);
        let ack = Ack::Proven(Arc::new(policy));
        let appender = appender(cluster.config(&[1]), AppenderOptions { ack, ..AppenderOptions::default() });
        let answers = append(&appender, 2, 3).await;
        let proven = |receipt: &Receipt| matches!(receipt.reached(), Reached::Proven(_));
        assert!(answers.iter().flatten().all(|answer| proven(answer.as_ref().unwrap()) == met));
        let receipt = appender.push_draft(draft("K"), None).await.unwrap().await.unwrap();
        assert_eq!(receipt.proof.is_some(), met);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_does_not_hold_is_an_error() {
    let cluster = Cluster::default();
    cluster.node(1).lock().unwrap().faults.insert(1, Fault::WrongProof);
    let ack = Ack::Proven(Arc::new(policy()));
    let appender = appender(cluster.config(&[1]), AppenderOptions { ack, ..AppenderOptions::default() });
    let answers = append(&appender, 1, 2).await;
    assert!(answers[0][0].is_ok());
    let Err(AppendError::Violation(violation)) = &answers[0][1] else { panic!("{answers:?}") };
    assert!(matches!(**violation, Violation::Proof { .. }), "{violation}");
}

#[tokio::test]
async fn the_network_dial_reaches_a_server_over_tcp_and_refuses_tls_without_keys() {
    let cluster = Cluster::default();
    let (address, node) = cluster.node_on_tcp().await;
    let connect = Duration::from_secs(5);
    let mut config = cluster.config(&[1]);
    (config.endpoints, config.dial) = (vec![address.clone()], Arc::new(NetworkDial::new(connect)));
    node.lock().unwrap().faults.insert(7, Fault::CutAfter);
    let appender = appender(config, AppenderOptions::default());
    let answers = append(&appender, 3, 10).await;
    assert_all_acknowledged(&cluster, &answers, "over TCP");
    let encrypted = Address::new(&address.as_str().replace("http:", "https:")).unwrap();
    assert!(NetworkDial::new(connect).dial(&encrypted).await.is_err());
}
