//! Proofs under checkpoints that a quorum of sites has signed.

use std::time::Duration;

use bytes::Bytes;
use stele_api::v1::log_client::LogClient;
use stele_api::v1::record_answer::Answer;
use stele_api::v1::{Ack, AppendRequest, CheckpointRequest, DescribeRequest, ProveRequest, Receipt};
use stele_proof::policy::{Policy, VerifiedCheckpoint};
use stele_proof::proof_file::ProofFile;
use stele_proof::record::Record;
use stele_proof::{LeafIndex, tree};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::process::{Cluster, ORIGIN, PATIENCE, Writer, submit};

/// What a stream answers to requests of one record after the other, each with its own `ack`.
async fn append(log: &mut LogClient<Channel>, requests: Vec<(Vec<Bytes>, Ack)>) -> Vec<Vec<Receipt>> {
    let counts: Vec<usize> = requests.iter().map(|(records, _)| records.len()).collect();
    let requests: Vec<AppendRequest> = requests
        .iter()
        .zip(0..)
        .map(|((records, ack), request_id)| AppendRequest {
            log: ORIGIN.to_owned(),
            request_id,
            records: records.iter().map(submit).collect(),
            ack: (*ack).into(),
        })
        .collect();
    let mut answers = log.append(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut receipts: Vec<Vec<Receipt>> = vec![Vec::new()];
    while let Some(response) = answers.message().await.unwrap() {
        if receipts.last().unwrap().len() == counts[receipts.len() - 1] {
            receipts.push(Vec::new());
        }
        let place = receipts.len() - 1;
        assert_eq!(response.request_id, place as u64, "answers come in the order of requests");
        let of_request = &mut receipts[place];
        assert_eq!(response.first_record as usize, of_request.len(), "and of records");
        for answer in response.answers {
            let Some(Answer::Receipt(receipt)) = answer.answer else { panic!("{answer:?}") };
            of_request.push(receipt);
        }
    }
    assert_eq!(receipts.iter().map(Vec::len).collect::<Vec<_>>(), counts);
    receipts
}

/// Checks the proof of a finished record as a stranger would.
fn verify(finished: &Bytes, receipt: &Receipt, policy: &Policy) -> VerifiedCheckpoint {
    let mut canonical = Vec::new();
    stele_proof::record::Finished::split(finished).unwrap().write_canonical(&mut canonical);
    let proof = ProofFile::parse(receipt.proof.as_bytes()).unwrap();
    assert_eq!(proof.index(), LeafIndex::new(receipt.index));
    proof.verify(&tree::leaf_hash(&canonical), policy).unwrap()
}

async fn policy(cluster: &Cluster, node: usize) -> Policy {
    let described = cluster.log(node).await.describe(DescribeRequest::default()).await.unwrap().into_inner();
    let policy = Policy::parse(described.logs[0].policy.as_bytes()).unwrap();
    assert_eq!(policy.quorum(), Some("sites"));
    policy
}

#[tokio::test]
async fn a_record_is_proven_by_a_quorum_of_sites_also_without_one_of_them() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 3).await;
    let leader = cluster.leader().await;
    let policy = policy(&cluster, leader).await;
    let mut log = cluster.log(leader).await;

    // More records than answers with proofs fit a message, and requests that wait for less in between.
    let mut finished = |range: std::ops::Range<usize>| range.map(|number| writer.finished(number)).collect::<Vec<_>>();
    let records = [finished(3..4), finished(4..6), finished(6..600), finished(600..601)];
    let acks = [Ack::Proven, Ack::Committed, Ack::Proven, Ack::Proven];
    let receipts = append(&mut log, records.iter().cloned().zip(acks).collect()).await;
    for ((records, receipts), ack) in records.iter().zip(&receipts).zip(acks) {
        for (record, receipt) in records.iter().zip(receipts) {
            match ack {
                Ack::Proven => assert!(verify(record, receipt, &policy).cosignatures().len() >= 2),
                _ => assert!(receipt.proof.is_empty(), "nobody asked for it"),
            }
        }
    }
    // Again, which is no new record: its first place, proven again.
    let again = append(&mut log, vec![(records[0].clone(), Ack::Proven)]).await;
    assert_eq!(again[0][0].index, receipts[0][0].index);
    verify(&records[0][0], &again[0][0], &policy);

    // Any node proves, and gives a checkpoint of at least what was asked for.
    let size = receipts[3][0].index + 1;
    for node in 1..=3 {
        let mut log = cluster.log(node).await;
        let proved = async {
            loop {
                // A follower may have to hear first that it is committed.
                let request = ProveRequest { log: ORIGIN.to_owned(), index: 2, size: Some(size) };
                match log.prove(request).await {
                    Ok(proved) => return proved.into_inner(),
                    Err(status) if status.code() == tonic::Code::NotFound => sleep(Duration::from_millis(20)).await,
                    Err(status) => panic!("{status}"),
                }
            }
        };
        let proved = timeout(PATIENCE, proved).await.unwrap();
        let proof = ProofFile::parse(proved.proof.as_bytes()).unwrap();
        let verified = proof.verify(&Record::parse(&proved.record).unwrap().leaf_hash(), &policy).unwrap();
        assert!(verified.checkpoint().size.get() >= size, "node {node}");
        let request = CheckpointRequest { log: ORIGIN.to_owned() };
        let note = log.checkpoint(request).await.unwrap().into_inner().note;
        assert!(policy.verify_checkpoint(note.as_bytes()).unwrap().checkpoint().size.get() >= size);
    }

    // Two of three sites are enough.
    let gone = if leader == 1 { 2 } else { 1 };
    cluster.kill(gone);
    let records = finished(601..620);
    let receipts = append(&mut log, vec![(records.clone(), Ack::Proven)]).await;
    for (record, receipt) in records.iter().zip(&receipts[0]) {
        assert_eq!(verify(record, receipt, &policy).cosignatures().len(), 2);
    }
    // One is not: what was proven stays proven, and nothing more is acknowledged.
    let last = 6 - leader - gone;
    cluster.kill(last);
    let request = CheckpointRequest { log: ORIGIN.to_owned() };
    let note = log.checkpoint(request).await.unwrap().into_inner().note;
    let newest = policy.verify_checkpoint(note.as_bytes()).unwrap();
    assert!(newest.checkpoint().size.contains(LeafIndex::new(receipts[0][18].index)));
    let more = finished(620..621);
    let request = || AppendRequest {
        log: ORIGIN.to_owned(),
        request_id: 1,
        records: vec![submit(&more[0])],
        ack: Ack::Proven.into(),
    };
    let alone = async { log.append(tokio_stream::iter([request()])).await?.into_inner().message().await };
    // No answer, or that it is to be sent again.
    if let Ok(Ok(Some(response))) = timeout(Duration::from_secs(3), alone).await {
        let receipt = response.answers.iter().find(|answer| matches!(answer.answer, Some(Answer::Receipt(_))));
        assert_eq!(receipt, None, "a record was acknowledged by one site");
    }

    // All are there again: the last one gets its place and its proof.
    for node in [gone, last] {
        cluster.start(node).await;
    }
    let proven = async {
        loop {
            let leader = cluster.leader().await;
            let mut log = cluster.log(leader).await;
            let Ok(answers) = log.append(tokio_stream::iter([request()])).await else { continue };
            let answer = answers.into_inner().message().await;
            let answer = answer.ok().flatten().and_then(|mut response| response.answers.pop()?.answer);
            match answer {
                Some(Answer::Receipt(receipt)) if !receipt.proof.is_empty() => return receipt,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let receipt = timeout(PATIENCE, proven).await.unwrap_or_else(|_| panic!("{}", cluster.log_of(leader)));
    verify(&more[0], &receipt, &policy);
    for node in 1..=3 {
        let told = cluster.log_of(node);
        assert!(!told.contains("panicked") && !told.contains("another root"), "{told}");
    }
}
