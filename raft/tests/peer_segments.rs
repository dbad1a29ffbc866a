//! Sealed segments from a peer.

#![allow(clippy::unwrap_used, reason = "a test")]

mod peer_fixture;

use std::path::Path;
use std::sync::Arc;

use peer_fixture::{LONG, NoRaft, local, own, peer};
use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{NodeId, SegmentNumber};
use stele_engine::segment::{PayloadPart, SegmentFile};
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_raft::peer::Limits;
use stele_raft::peer::client::{PeerError, PeerFactory, Place, SegmentClient};
use stele_raft::peer::cosign::NoCosigner;
use stele_raft::peer::message::Failure;
use stele_raft::peer::metrics::PeerMetrics;
use stele_raft::peer::segments::{SealedFiles, SegmentSource, SourceError};
use stele_raft::peer::server::{PeerServer, Served, Unbounded};
use stele_raft::peer::transport::{Tcp, Transport};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A log of two sealed segments and an open one, all with payloads.
fn log(path: &Path) {
    let environment = Environment::system();
    let mut log = LocalLog::create(&environment, path, &CreateOptions::new(Origin::new("o").unwrap())).unwrap();
    for byte in 0..3 {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(7),
            writer_id: "w",
            stream: "s",
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let (salt, payload) = (Salt::new([3; 32]), vec![byte; 700_000]);
        log.push(&Submission::Draft { builder: &builder, payload: Some((&salt, &payload)) }).unwrap();
        log.push(&Submission::Draft { builder: &builder, payload: Some((&salt, &payload)) }).unwrap();
        log.flush().unwrap();
        if byte < 2 {
            log.end_segment().unwrap();
        }
    }
    log.close().unwrap();
}

/// Reads a file of a segment whole, in pieces of a size that does not divide it.
async fn copy(client: &SegmentClient, file: SegmentFile) -> Vec<u8> {
    let mut copy = Vec::new();
    loop {
        let place = Place { offset: copy.len() as u64, len: 300_007 };
        let bytes = client.read(file, place, LONG).await.unwrap();
        if bytes.is_empty() {
            return copy;
        }
        copy.extend_from_slice(&bytes);
    }
}

#[tokio::test]
async fn a_sealed_segment_is_copied_byte_for_byte_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log(&path);
    let source = Arc::new(SealedFiles::new(Environment::system().disk, LogDirectory::new(&path)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = peer(listener.local_addr().unwrap());
    let served =
        Served { raft: NoRaft, admission: Arc::new(Unbounded), segments: source, cosigner: Arc::new(NoCosigner) };
    let server = PeerServer::new(own(local(2)), Transport::Plain, served, Limits::default(), Arc::default());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.serve(listener, stop.clone()));
    let metrics = Arc::new(PeerMetrics::default());
    let factory = PeerFactory::new(own(local(1)), Transport::Plain, Arc::new(Tcp), Limits::default(), metrics);
    let client = factory.segments(NodeId::new(2), &at);

    let sealed = client.list(SegmentNumber::new(0), LONG).await.unwrap();
    assert_eq!(sealed.iter().map(|sealed| sealed.number.get()).collect::<Vec<_>>(), [0, 1]);
    for segment in &sealed {
        let mut files = vec![(SegmentFile::Frames(segment.number), Some(segment.frames_bytes))];
        for (bytes, part) in segment.payload_bytes.iter().zip(0..) {
            files.push((SegmentFile::Payloads(segment.number, PayloadPart::new(part)), Some(*bytes)));
        }
        files.push((SegmentFile::Tiles(segment.number), None));
        assert_eq!(files.len(), 3);
        for (file, bytes) in files {
            let held = std::fs::read(path.join("segments").join(file.name())).unwrap();
            assert!(bytes.is_none_or(|bytes| bytes == held.len() as u64), "{file:?}");
            assert!(copy(&client, file).await == held, "{file:?}");
        }
    }
    assert_eq!(client.list(SegmentNumber::new(1), LONG).await.unwrap(), sealed[1..]);
    assert_eq!(client.list(SegmentNumber::new(2), LONG).await.unwrap(), []);
    let place = Place { offset: 0, len: 1 };
    for number in [2, 3].map(SegmentNumber::new) {
        for file in [SegmentFile::Frames(number), SegmentFile::Payloads(number, PayloadPart::FIRST)] {
            let refused = client.read(file, place, LONG).await;
            assert!(matches!(refused, Err(PeerError::Failed(_, Failure::NotSealed))), "{refused:?}");
        }
    }
    stop.cancel();
    serving.await.unwrap();
}

#[test]
fn a_sealed_segment_that_lost_a_part_is_not_offered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log(&path);
    let number = SegmentNumber::new(1);
    let lost = path.join("segments").join(SegmentFile::Payloads(number, PayloadPart::FIRST).name());
    std::fs::copy(&lost, lost.with_file_name(SegmentFile::Payloads(number, PayloadPart::new(1)).name())).unwrap();
    std::fs::remove_file(lost).unwrap();
    let source = SealedFiles::new(Environment::system().disk, LogDirectory::new(&path));
    let listed = source.list(SegmentNumber::new(0));
    assert!(matches!(listed, Err(SourceError::MissingPart(missing)) if missing == number), "{listed:?}");
}
