//! Nothing that was not checked is handed out.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use std::sync::Mutex;
use stele_client::error::Violation;
use stele_client::reader::Payloads;
use stele_client::record::ChainName;
use stele_client::{
    AppenderOptions, Assurance, CallError, ChainWriter, Client, Event, PayloadState, ReadRange, SignedCheckpoint,
};
use stele_proof::record::{Actor, Object, Subject};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};
use support::{Cluster, Fault, Node, PROVE, READ, address, policy, strict_policy};

/// A log of `records` records, every second with a payload.
async fn filled(records: u64) -> (Cluster, Arc<Mutex<Node>>, Client) {
    let cluster = Cluster::default();
    let node = cluster.node(1);
    let client = Client::connect(cluster.config(&[1])).await.unwrap();
    let name = ChainName { writer_id: "w".into(), stream: "s".into() };
    let mut writer = ChainWriter::new(client.appender(AppenderOptions::default()).unwrap(), name, None);
    let attrs = Object::default();
    for at in 0..records {
        let (actor, subject) = (Actor { anon: true, ..Actor::default() }, Subject::default());
        let event = Event { ts_ms: UnixMillis::new(at), kind: "K", actor, subject, reason: "ok", attrs: &attrs };
        let pending = match at % 2 {
            0 => writer.append(&event).await,
            _ => writer.append_with_payload(&event, Bytes::from(format!("payload {at}"))).await,
        };
        pending.unwrap().await.unwrap();
    }
    (cluster, node, client)
}

fn all(payloads: Payloads) -> ReadRange {
    ReadRange { payloads, ..ReadRange::from(LeafIndex::new(0)) }
}

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
async fn a_record_is_read_under_proof_where_that_is_asked_for() {
    let (_cluster, node, client) = filled(3).await;
    node.lock().unwrap().faults.insert(PROVE + 1, Fault::WrongHash);
    let mut reader = client.read(all(Payloads::Without), Assurance::Proven(Arc::new(policy())));
    assert!(reader.next().await.unwrap().unwrap().proven.is_some());
    assert!(matches!(reader.next().await, Err(CallError::Violation(Violation::Proof { .. }))));
}

#[tokio::test(start_paused = true)]
async fn two_histories_of_one_size_are_a_fork_with_both_notes() {
    let (_cluster, _, client) = filled(3).await;
    let (other, _, _) = filled(3).await;
    let policy = policy();
    // The salts differ, so the same events make other records.
    let note = other.table.lock().unwrap().note();
    let known = SignedCheckpoint::verify(note.clone(), &policy).unwrap();
    match client.follow(&known, &policy).await {
        Err(CallError::Fork { old, new }) => assert!(old == note && new != note),
        other => panic!("{other:?}"),
    }
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
