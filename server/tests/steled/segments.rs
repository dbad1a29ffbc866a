//! Segments that an operator has ended.

use stele_api::refusal::from_status;
use stele_api::v1::{RefusalCode, SealSegmentRequest, StatusRequest};
use stele_engine::directory::LogDirectory;
use stele_engine::number::SegmentNumber;
use stele_engine::segment::SegmentFile;
use tokio::time::{sleep, timeout};

use crate::process::{Cluster, LOOK, ORIGIN, PATIENCE, Writer};

fn request() -> SealSegmentRequest {
    SealSegmentRequest { log: ORIGIN.to_owned() }
}

#[tokio::test]
async fn all_copies_end_the_same_segment_where_an_operator_asks_for_it() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 20).await;
    // The leader may change on a busy machine; only it ends segments.
    let ended = async {
        loop {
            let leader = cluster.leader().await;
            match cluster.admin(leader).await.seal_segment(request()).await {
                Ok(answer) => return (leader, answer.into_inner().segment),
                Err(_) => sleep(LOOK).await,
            }
        }
    };
    let (leader, segment) = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(segment, Some(0), "the genesis record and 20 others are in segment 0");
    let follower = if leader == 1 { 2 } else { 1 };
    let refused = cluster.admin(follower).await.seal_segment(request()).await.unwrap_err();
    assert_eq!(from_status(&refused).unwrap().code(), RefusalCode::NotLeader);
    writer.write(&cluster, 30).await;
    let mut files = Vec::new();
    for node in 1..=3 {
        let sealed = async {
            loop {
                let status = cluster.admin(node).await.status(StatusRequest { log: ORIGIN.to_owned() }).await.unwrap();
                let own = status.into_inner().nodes.into_iter().find(|found| found.node == node as u64).unwrap();
                if own.sealed_segments >= Some(1) {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        assert!(timeout(PATIENCE, sealed).await.is_ok(), "node {node}: {}", cluster.log_of(node));
        let path = LogDirectory::new(cluster.directory(node)).segment_file(SegmentFile::Frames(SegmentNumber::new(0)));
        files.push(std::fs::read(path).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]), "the sealed copies differ");
    writer.check(&cluster.read_all(leader).await);
}
