//! Nothing that was not checked is handed out.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use core::time::Duration;
use std::sync::Arc;

use stele_client::error::Violation;
use stele_client::reader::Payloads;
use stele_client::record::ChainName;
use stele_client::{AppenderOptions, Assurance, CallError, Client, PayloadState, ReadRange};
use stele_proof::{LeafIndex, TreeSize};
use support::{Cluster, Fault, PROVE, READ, address, all, filled, filled_at, policy, strict_policy};

#[tokio::test(start_paused = true)]
async fn a_range_is_read_in_order_with_payloads_that_open_their_commitments() {
    let (_cluster, _, client) = filled(7).await;
    let mut reader = client.read(all(Payloads::With), Assurance::Canonical);
    for at in 0..7 {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(record.index.get(), at);
        match record.payload {
            PayloadState::None => assert_eq!(at % 2, 0),
            PayloadState::Present(payload) => assert_eq!(payload.bytes, format!("payload {at}")),
            PayloadState::Absent(_) => panic!("the payload of {at} is missing"),
        }
    }
    assert!(reader.next().await.unwrap().is_none());
    let mut reader = client.read(all(Payloads::Without), Assurance::Canonical);
    reader.next().await.unwrap();
    assert!(matches!(reader.next().await.unwrap().unwrap().payload, PayloadState::Absent(_)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_on_with_the_next_record_after_its_stream_broke() {
    let (_cluster, node, client) = filled(6).await;
    for at in [0, 3, 4] {
        node.lock().unwrap().faults.insert(READ + at, Fault::CutBefore);
    }
    let mut reader = client.read(all(Payloads::With), Assurance::Canonical);
    for at in 0..6 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_range_ends_where_the_log_ends_although_the_end_of_its_stream_was_lost() {
    for end in [None, Some(TreeSize::new(9))] {
        let (_cluster, node, client) = filled(4).await;
        node.lock().unwrap().faults.insert(READ + 4, Fault::CutBefore);
        let mut reader = client.read(ReadRange { end, ..all(Payloads::Without) }, Assurance::Canonical);
        for at in 0..4 {
            assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
        }
        assert!(reader.next().await.unwrap().is_none());
        // Without a record before it, the end is none.
        let beyond = client.read(ReadRange { end, ..ReadRange::from(LeafIndex::new(4)) }, Assurance::Canonical);
        assert!(matches!({ beyond }.next().await, Err(CallError::NotFound { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_behind_what_was_read_is_not_the_end_of_the_log() {
    let (_cluster, node, client) = filled(6).await;
    let cut_and_lag = |reads| {
        node.lock().unwrap().faults.insert(READ + 4, Fault::CutBefore);
        node.lock().unwrap().lags = None;
        let mut reader = client.read(all(Payloads::Without), Assurance::Canonical);
        let node = Arc::clone(&node);
        async move {
            for at in 0..4 {
                assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
            }
            node.lock().unwrap().lags = Some((2, reads));
            reader
        }
    };
    let mut reader = cut_and_lag(5).await;
    for at in 4..6 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
    assert!(reader.next().await.unwrap().is_none());
    let mut reader = cut_and_lag(1000).await;
    let lagging = reader.next().await;
    assert!(matches!(lagging, Err(CallError::Unavailable { .. })), "{lagging:?}");
}

#[tokio::test(start_paused = true)]
async fn a_range_goes_on_where_its_stream_falls_silent() {
    let (_cluster, node, client) = filled(6).await;
    let long = Duration::from_secs(600);
    for at in [0, 3, 5] {
        node.lock().unwrap().faults.insert(READ + at, Fault::Silent);
    }
    let mut reader = client.read(all(Payloads::Without), Assurance::Canonical);
    for at in 0..6 {
        let next = tokio::time::timeout(long, reader.next()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().index.get(), at);
    }
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_record_ends_a_range_and_a_tail() {
    let (_cluster, node, client) = filled(4).await;
    let range = client.read(all(Payloads::Without), Assurance::Canonical);
    let tail = client.tail(LeafIndex::new(0), Payloads::Without, Assurance::Canonical);
    for mut reader in [range, tail] {
        node.lock().unwrap().faults.insert(READ + 2, Fault::Empty);
        for at in 0..2 {
            assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
        }
        let empty = reader.next().await;
        assert!(matches!(empty, Err(CallError::Violation(Violation::Missing { what: "records" }))), "{empty:?}");
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), 2, "the reader stands where it stood");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_is_left_for_one_that_does_not() {
    let (_cluster, [first, _], client) = filled_at([1, 2], 6).await;
    first.lock().unwrap().faults.insert(READ + 4, Fault::CutBefore);
    let mut reader = client.read(all(Payloads::Without), Assurance::Canonical);
    for at in 0..4 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
    first.lock().unwrap().lags = Some((2, u32::MAX));
    for at in 4..6 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_does_not_verify_is_not_handed_out() {
    for fault in [Fault::OldIndex, Fault::WrongHash, Fault::Hang] {
        let (_cluster, node, client) = filled(4).await;
        node.lock().unwrap().faults.insert(READ + 2, fault);
        let mut reader = client.read(all(Payloads::With), Assurance::Canonical);
        assert!(reader.next().await.unwrap().is_some() && reader.next().await.unwrap().is_some());
        let violation = match reader.next().await {
            Err(CallError::Violation(violation)) => violation,
            other => panic!("{fault:?}: {other:?}"),
        };
        let named = match fault {
            Fault::OldIndex => matches!(violation, Violation::IndexGap { .. }),
            Fault::WrongHash => matches!(violation, Violation::Record { .. }),
            _ => matches!(violation, Violation::Payload { .. }),
        };
        assert!(named, "{fault:?}: {violation}");
        assert_eq!(reader.position().get(), 2);
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), 2, "the reader stands where it stood");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_sees_what_is_appended_after_it_began() {
    let (cluster, _, client) = filled(2).await;
    let mut reader = client.tail(LeafIndex::new(1), Payloads::Without, Assurance::Canonical);
    assert_eq!(reader.next().await.unwrap().unwrap().index.get(), 1);
    let draft =
        stele_client::Draft { writer_id: "d".into(), stream: "s".into(), kind: "K".into(), ..Default::default() };
    let appender = client.appender(AppenderOptions::default()).unwrap();
    appender.push_draft(draft, None).await.unwrap().await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().index.get(), 2);
    cluster.check();
}

#[tokio::test(start_paused = true)]
async fn a_proof_holds_under_the_policy_or_is_an_error() {
    let (_cluster, node, client) = filled(5).await;
    let policy = policy();
    for at in 0..5 {
        let proven = client.prove(LeafIndex::new(at), Some(TreeSize::new(5)), &policy).await.unwrap();
        assert_eq!(proven.checkpoint.checkpoint().size.get(), 5);
    }
    node.lock().unwrap().faults.insert(PROVE + 3, Fault::WrongHash);
    let broken = client.prove(LeafIndex::new(3), None, &policy).await;
    assert!(matches!(broken, Err(CallError::Violation(Violation::Proof { .. }))), "{broken:?}");
    let unmet = client.prove(LeafIndex::new(3), None, &strict_policy()).await;
    assert!(matches!(unmet, Err(CallError::PolicyNotMet(_))), "{unmet:?}");
    let small = client.prove(LeafIndex::new(3), Some(TreeSize::new(6)), &policy).await;
    assert!(matches!(small, Err(CallError::Violation(Violation::OtherCheckpoint { .. }))), "{small:?}");
    let beyond = client.prove(LeafIndex::new(5), None, &policy).await;
    assert!(matches!(beyond, Err(CallError::NotFound { .. })), "{beyond:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_follows_a_follower_to_the_leader_and_gives_up_in_time() {
    let cluster = Cluster::default();
    cluster.node(1).lock().unwrap().follows = Some(address(2).as_str().to_owned());
    let chain = ChainName { writer_id: "w".into(), stream: "s".into() };
    let client = Client::connect(cluster.config(&[1])).await.unwrap();
    let nobody = client.head(&chain).await;
    assert!(matches!(nobody, Err(CallError::Unavailable { .. })), "{nobody:?}");
    cluster.node(2);
    assert_eq!(client.head(&chain).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn calls_can_be_made_from_any_task() {
    let (_cluster, _, client) = filled(1).await;
    let task = tokio::spawn(async move {
        client.describe().await.unwrap();
        client.prove(LeafIndex::new(0), None, &policy()).await.unwrap();
        let mut reader = client.read(all(Payloads::With), Assurance::Canonical);
        reader.next().await.unwrap().unwrap().index
    });
    assert_eq!(task.await.unwrap().get(), 0);
}
