//! The real program: processes, sockets, signals, kill -9.

#![allow(clippy::unwrap_used, reason = "a test")]

mod access;
mod drafts;
mod greeting;
mod older;
mod process;
mod proven;
mod segments;
mod status;
mod streams;

use std::time::Duration;

use process::{Cluster, ORIGIN, PATIENCE, Writer, append_one, code, steled, submit};
use stele_api::v1::{
    CheckpointRequest, ConsistencyRequest, DescribeRequest, HeadRequest, ProveRequest, ReadRequest, RefusalCode,
    StatusRequest, Submission, TailRequest,
};
use stele_engine::environment::Environment;
use stele_engine::hard_state::read_hard_state;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::Record;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::Code;

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill_and_can_be_proved() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 700).await;
    cluster.kill(1);
    cluster.start(1).await;
    writer.write(&cluster, 750).await;
    let records = cluster.read_all(1).await;
    writer.check(&records);

    let mut log = cluster.log(1).await;
    let described = log.describe(DescribeRequest::default()).await.unwrap().into_inner();
    let description = &described.logs[0];
    assert_eq!((description.origin.as_str(), description.size >= 751), (ORIGIN, true));
    let policy = Policy::parse(description.policy.as_bytes()).unwrap();
    for index in [0, 1, 300, 700] {
        let request = ProveRequest { log: ORIGIN.to_owned(), index, size: None };
        let proved = log.prove(request).await.unwrap().into_inner();
        assert_eq!(proved.record, records[usize::try_from(index).unwrap()]);
        let proof = ProofFile::parse(proved.proof.as_bytes()).unwrap();
        let leaf = Record::parse(&proved.record).unwrap().leaf_hash();
        proof.verify(&leaf, &policy).unwrap();
    }
    let request = ConsistencyRequest { log: ORIGIN.to_owned(), old: 3, new: 700 };
    assert!(!log.consistency(request).await.unwrap().into_inner().hashes.is_empty());
    let note = log.checkpoint(CheckpointRequest { log: ORIGIN.to_owned() }).await.unwrap().into_inner().note;
    policy.verify_checkpoint(note.as_bytes()).unwrap();
    let request = HeadRequest { log: ORIGIN.to_owned(), writer_id: "w".to_owned(), stream: "s".to_owned() };
    let head = log.head(request).await.unwrap().into_inner().head.unwrap();
    assert_eq!((head.seq, Some(&head.index)), (750, writer.acknowledged.last()));
}

#[tokio::test]
async fn a_stop_ends_streams_and_marks_the_log_as_closed() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 20).await;
    // A reader that follows, and a connection that says nothing, do not hold the stop up.
    let mut log = cluster.log(1).await;
    let tail = TailRequest { log: ORIGIN.to_owned(), from: 5, with_payload: false };
    let mut tail = log.tail(tail).await.unwrap().into_inner();
    assert_eq!(tail.message().await.unwrap().unwrap().records[0].index, 5);
    let _silent = TcpStream::connect(cluster.address(1)).await.unwrap();
    let path = cluster.directory(1).join("hard-state");
    let mark = || read_hard_state(Environment::system().disk.as_ref(), &path).unwrap().clean;
    assert!(mark().is_none(), "a running node has no mark");
    assert!(cluster.terminate(1).await.success(), "{}", cluster.log_of(1));
    assert!(mark().is_some(), "{}", cluster.log_of(1));
    while let Ok(Some(_)) = tail.message().await {}
    cluster.start(1).await;
    writer.write(&cluster, 40).await;
    writer.check(&cluster.read_all(1).await);
}

#[tokio::test]
async fn bad_input_gets_a_typed_refusal_and_harms_nobody() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 3).await;
    let mut log = cluster.log(1).await;

    // Records.
    let fourth = writer.finished(3);
    let mut forged = fourth.to_vec();
    let place = forged.windows(3).position(|window| window == b"\"K\"").unwrap();
    forged[place + 1] = b'L';
    let answers = append_one(
        &mut log,
        vec![
            Submission::default(),
            submit(&forged.into()),
            submit(&writer.finished(5)),
            submit(&b"{}".as_slice().into()),
            submit(&vec![b'x'; 5000].into()),
            submit(&fourth),
            submit(&writer.finished(1)),
        ],
    )
    .await;
    let codes: Vec<RefusalCode> = answers.iter().map(code).collect();
    let good = RefusalCode::Unspecified;
    assert_eq!(
        codes,
        [
            RefusalCode::Schema,
            RefusalCode::HashMismatch,
            RefusalCode::SeqGap,
            RefusalCode::Schema,
            RefusalCode::Schema,
            good,
            good
        ]
    );

    // Calls.
    let code = |status: tonic::Status| status.code();
    let elsewhere = ReadRequest { log: "example.com/other".to_owned(), ..ReadRequest::default() };
    assert_eq!(log.read(elsewhere).await.map(drop).map_err(code), Err(Code::NotFound));
    let beyond = ReadRequest { log: ORIGIN.to_owned(), start: 1000, ..ReadRequest::default() };
    assert_eq!(log.read(beyond).await.map(drop).map_err(code), Err(Code::NotFound));
    let backwards = ConsistencyRequest { log: ORIGIN.to_owned(), old: 3, new: 2 };
    assert_eq!(log.consistency(backwards).await.map(drop).map_err(code), Err(Code::InvalidArgument));
    let unproved = ProveRequest { log: ORIGIN.to_owned(), index: u64::MAX, size: None };
    assert_eq!(log.prove(unproved).await.map(drop).map_err(code), Err(Code::NotFound));

    // A message beyond the bound.
    let large = vec![submit(&vec![b'x'; 5 << 20].into())];
    let request = stele_api::v1::AppendRequest { log: ORIGIN.to_owned(), request_id: 1, records: large, ack: 0 };
    let mut answers = log.append(tokio_stream::iter([request])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.map(drop).map_err(code), Err(Code::OutOfRange));

    // Garbage on the port is closed, not waited for.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut socket = TcpStream::connect(cluster.address(1)).await.unwrap();
        // It may be closed before all of it is written.
        drop(socket.write_all(garbage).await);
        let mut answer = Vec::new();
        let closed = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(closed.is_ok() && answer.is_empty(), "{answer:?}");
    }
    writer.write(&cluster, 10).await;
    writer.check(&cluster.read_all(1).await);
    assert!(cluster.terminate(1).await.success());
    let told = cluster.log_of(1);
    assert!(told.contains("(\"CONNECTION_Garbage\", 3)"), "{told}");
    assert!(told.contains("(\"REFUSAL_CODE_SEQ_GAP\", 1)"), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[tokio::test]
async fn three_nodes_go_on_without_the_one_that_led() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 400).await;
    let first = cluster.leader().await;
    // A follower says who leads.
    let follower = if first == 1 { 2 } else { 1 };
    let mut log = cluster.log(follower).await;
    let answers = append_one(&mut log, vec![submit(&writer.finished(400))]).await;
    let Some(stele_api::v1::record_answer::Answer::Refusal(refusal)) = &answers[0].answer else { panic!() };
    assert_eq!(refusal.code(), RefusalCode::NotLeader);
    let leader = refusal.leader.as_ref().unwrap();
    assert_eq!((leader.node, leader.address.clone()), (first as u64, format!("http://{}", cluster.address(first))));

    cluster.kill(first);
    writer.write(&cluster, 600).await;
    cluster.start(first).await;
    // An operator stops the next leader: it hands over first.
    let second = cluster.leader().await;
    writer.write(&cluster, 700).await;
    let second = if cluster.leader().await == second { second } else { cluster.leader().await };
    assert!(cluster.terminate(second).await.success());
    assert!(cluster.log_of(second).contains("leadership was handed over"), "{}", cluster.log_of(second));
    writer.write(&cluster, 800).await;
    cluster.start(second).await;
    let size = cluster.read_all(cluster.leader().await).await.len();
    for node in 1..=3 {
        let caught_up = async {
            while cluster.read_all(node).await.len() < size {
                sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(PATIENCE, caught_up).await.is_ok(), "node {node}: {}", cluster.log_of(node));
        writer.check(&cluster.read_all(node).await);
        let status = cluster.admin(node).await.status(StatusRequest { log: ORIGIN.to_owned() }).await.unwrap();
        assert_eq!(status.into_inner().nodes.len(), 3);
    }
}

#[tokio::test]
async fn a_node_that_waits_for_its_peers_is_not_ready_and_stops_when_asked() {
    let mut cluster = Cluster::new(3);
    cluster.spawn(1);
    cluster.says(1, "waiting for a peer that says whether this node may take part").await;
    assert!(!cluster.is_ready(1));
    assert!(TcpStream::connect(cluster.configured_client(1)).await.is_err(), "clients go to others");
    assert!(cluster.terminate(1).await.success(), "{}", cluster.log_of(1));
    assert!(!cluster.is_ready(1));
    let path = cluster.directory(1).join("hard-state");
    let state = read_hard_state(Environment::system().disk.as_ref(), &path).unwrap();
    assert!(state.clean.is_some() && state.incarnation == 0 && state.vote.term.get() == 0, "{state:?}");
    cluster.start_all().await;
    Writer::new("w").write(&cluster, 10).await;
}

#[tokio::test]
async fn a_site_with_a_wiped_directory_is_told_what_to_do_and_the_others_go_on() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 100).await;
    // The keys are kept, as somebody might who knows that they are needed.
    cluster.kill(3);
    cluster.wipe(3);
    cluster.spawn(3);
    let status = cluster.ends(3).await;
    assert_eq!(status.code(), Some(3), "{}", cluster.log_of(3));
    assert!(!cluster.is_ready(3));
    let told = cluster.log_of(3);
    for words in [
        "steled: node 3 must not take part any more",
        "starts of it were let in, and it shows 0",
        "`stele cluster remove 3`",
        "`stele cluster join`",
    ] {
        assert!(told.contains(words), "`{words}` is not in {told}");
    }
    // A supervisor that starts it again changes nothing.
    for _ in 0..3 {
        cluster.spawn(3);
        assert_eq!(cluster.ends(3).await.code(), Some(3), "{}", cluster.log_of(3));
    }
    writer.write(&cluster, 200).await;
    writer.check(&cluster.read_all(cluster.leader().await).await);
    assert!(cluster.log_of(1).contains("a node is stale") || cluster.log_of(2).contains("a node is stale"));
}

#[test]
fn mistakes_end_the_start_at_once_with_exit_code_2() {
    let output = steled().args(["check-config", "--limits-streams", "none", "--node", "0"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    for part in ["limits.streams (--limits-streams):", "node (--node):", "data_dir: it is missing", "peer_tls.cert:"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}
