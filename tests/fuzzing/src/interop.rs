//! Manifest and files of exports.

use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::interop::{
    BatchCheck, Content, Frame, HEADER_BYTES, MAX_FRAME_BYTES, Manifest, ManifestSegment, SLOT_HEAD_BYTES, SeqRange,
    Slot, decode_header, encode_header,
};
use stele_proof::record::{MAX_PAYLOAD_BYTES, Record, SelfHash};

use crate::fixture;

/// A manifest that is read is written to bytes that are read as the same, and no signature of a key holds
/// that never signed.
pub(crate) fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::decode(data) else { return };
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    let range = manifest.range();
    assert!(range.first() >= 1 && range.first() <= range.last());
    let records: u64 = manifest.segments.iter().map(|segment| u64::from(segment.range.count())).sum();
    assert_eq!(records, range.last() - range.first() + 1);
    for segment in &manifest.segments {
        for name in [segment.file(), segment.payload_file()] {
            assert!(name.starts_with("wal-") && !name.contains(['/', '\\']), "{name} leaves the directory");
        }
    }
    for checkpoint in &manifest.checkpoints {
        assert!(manifest.check_signature(checkpoint, fixture::stranger_key().verifier_key()).is_err());
    }
}

/// A file of frames or of slots.
pub(crate) fn file(data: &[u8]) {
    for content in [Content::Records, Content::Payloads] {
        if let Ok(count) = decode_header(content, data) {
            assert!(count > 0);
            assert_eq!(encode_header(content, count), data[..HEADER_BYTES]);
        }
    }
    let body = data.get(HEADER_BYTES..).unwrap_or_default();
    frames(body);
    let mut rest = body;
    while let Ok(Some((slot, len))) = Slot::decode(rest) {
        let mut again = Vec::new();
        slot.write(&mut again);
        assert_eq!(again, rest[..len]);
        rest = &rest[len..];
    }
    assert!(!matches!(Slot::decode(rest), Ok(None)) || rest.len() < SLOT_HEAD_BYTES + most_payload());
}

fn most_payload() -> usize {
    usize::try_from(MAX_PAYLOAD_BYTES).expect("it fits")
}

/// Frames decode to what encodes to them, and a chain that is accepted is one.
fn frames(body: &[u8]) {
    let mut rest = body;
    let mut check = None;
    let mut accepted: Vec<(u64, SelfHash)> = Vec::new();
    let mut tree = DigestTree::new();
    while let Ok(Some((frame, len))) = Frame::decode(rest) {
        let mut again = Vec::new();
        frame.write(&mut again);
        assert_eq!(again, rest[..len]);
        rest = &rest[len..];
        let Ok(record) = Record::parse(frame.canonical) else { break };
        let check = check.get_or_insert_with(|| BatchCheck::new(&around(&record)));
        let Ok(record) = check.accept(&frame) else { break };
        let self_hash = SelfHash::of(frame.canonical);
        assert_eq!(frame.self_hash, self_hash);
        if let Some((seq, last)) = accepted.last() {
            assert_eq!((record.seq(), record.prev()), (seq + 1, Some(*last)));
        }
        accepted.push((record.seq(), self_hash));
        tree.push(*self_hash.as_bytes());
    }
    if let Some(mut check) = check {
        assert_eq!(check.take_root(), tree.root());
    }
    assert!(!matches!(Frame::decode(rest), Ok(None)) || rest.len() < MAX_FRAME_BYTES);
}

/// A manifest that begins with this record.
fn around(record: &Record<'_>) -> Manifest {
    let range = SeqRange::new(record.seq(), record.seq()).expect("a record has a seq from 1");
    Manifest {
        stream: record.stream().decode().into_owned(),
        writer_id: record.writer_id().decode().into_owned(),
        segments: vec![ManifestSegment { number: 0, range, root: Digest::of(b"") }],
        checkpoints: Vec::new(),
        created: stele_proof::UnixMillis::new(0),
    }
}
