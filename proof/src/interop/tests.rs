//! Golden bytes of exports, both ways.

use super::*;
use crate::UnixMillis;

const GENESIS: &str = r#"{"v":1,"ts_ms":1730246400000,"writer_id":"svc-gateway@inst-1","seq":1,"stream":"ingress","kind":"GetServed","actor":{"anon":true},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;

#[test]
fn a_header_has_the_bytes_of_the_page() {
    let bytes = encode_header(Content::Records, 0x0102_0304);
    let mut expected = vec![0x52, 0x4f, 0x4e, 0x2d, 0x41, 0x55, 0x44, 0x01, 0, 0, 4, 3, 2, 1];
    expected.resize(32, 0);
    assert_eq!(bytes[..], expected);
    assert_eq!(decode_header(Content::Records, &bytes), Ok(0x0102_0304));
    assert_eq!(decode_header(Content::Payloads, &bytes), Err(FormatFault::Magic));
    assert_eq!(decode_header(Content::Records, &bytes[..31]), Err(FormatFault::Cut));
    assert_eq!(decode_header(Content::Records, &encode_header(Content::Records, 0)), Err(FormatFault::Unfinished));
    for at in (0..10).chain(14..32) {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert!(decode_header(Content::Records, &changed).is_err(), "byte {at}");
    }
}

#[test]
fn a_frame_and_a_slot_have_the_bytes_of_the_page_and_are_read_only_so() {
    let record = Record::parse(GENESIS.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    Frame::of(&record, record.self_hash()).write(&mut bytes);
    // The hash is that of INTEROP 5.1.
    let hash = "b3:0c1a9dc479041a90fc084e5090d29f743f179a895a73f31181110c02f65ee001";
    let expected =
        [&[182, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0], GENESIS.as_bytes(), &[67, 0, 0, 0], hash.as_bytes()].concat();
    assert_eq!(bytes, expected);
    let (frame, len) = Frame::decode(&bytes).unwrap().unwrap();
    assert_eq!((frame, len), (Frame::of(&record, record.self_hash()), bytes.len()));
    for cut in 0..bytes.len() {
        assert_eq!(Frame::decode(&bytes[..cut]), Ok(None), "{cut} bytes");
    }
    for (at, field) in [(2, "len"), (4, "v"), (13 + 182, "self_hash_len"), (bytes.len() - 1, "self_hash")] {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert_eq!(Frame::decode(&changed), Err(FormatFault::Field(field)), "byte {at}");
    }
    let mut bytes = Vec::new();
    let slot = Slot { seq: 258, salt: Salt::new([9; 32]), payload: b"abc" };
    slot.write(&mut bytes);
    assert_eq!(bytes, [&[2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], &[9; 32], b"abc"].concat());
    assert_eq!(Slot::decode(&bytes), Ok(Some((slot, 47))));
    bytes[10] = 0x11;
    assert_eq!(Slot::decode(&bytes), Err(FormatFault::Field("len")));
}

fn manifest() -> Manifest {
    let segment = |number, first, last| ManifestSegment {
        number,
        range: SeqRange::new(first, last).unwrap(),
        root: Digest::of(&[u8::try_from(number).unwrap()]),
    };
    Manifest {
        stream: "ingress".to_owned(),
        writer_id: "svc-gateway@inst-1".to_owned(),
        segments: vec![segment(0, 100, 149), segment(7, 150, 199)],
        checkpoints: Vec::new(),
        created: UnixMillis::new(5),
    }
}

#[test]
fn a_manifest_is_read_as_it_was_written_and_what_breaks_a_rule_is_refused() {
    let manifest = manifest();
    let text = String::from_utf8(manifest.encode()).unwrap();
    assert_eq!(Manifest::decode(text.as_bytes()), Ok(manifest.clone()));
    assert_eq!(manifest.range(), SeqRange::new(100, 199).unwrap());
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"version\": 1", "\"version\": 1.0"),
        ("\"version\": 1", "\"version\": 1, \"version\": 1"),
        ("\"version\": 1", "\"version\": 1, \"other\": 1"),
        ("\"stream\": \"ingress\",", ""),
        ("\"ingress\"", "\"in\\ngress\""),
        ("\"offset\": 0", "\"offset\": 32"),
        ("\"count\": 50", "\"count\": 51"),
        ("wal-000007.seg", "wal-000000.seg"),
        ("wal-000007.seg", "wal-0000007.seg"),
        ("wal-000007.seg", "wal-00007.seg"),
        ("wal-000007.seg", "../al-000007.seg"),
        ("wal-000007.seg", "wal-+00007.seg"),
        ("b3:", "B3:"),
        ("150,", "151,"),
        ("100,", "0,"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        assert!(Manifest::decode(changed.as_bytes()).is_err(), "{to}");
    }
}

#[test]
fn a_checkpoint_is_signed_over_chain_range_and_root_and_counts_for_its_key_alone() {
    use crate::key::{KeyKind, KeyName, SigningKey};
    let key = |seed| SigningKey::from_seed(KeyName::new("export").unwrap(), KeyKind::Ed25519, [seed; 32]);
    let mut signed = manifest();
    let ManifestSegment { range, root, .. } = signed.segments[0];
    signed.sign(range, root, &key(1)).unwrap();
    let text = format!(
        "stele-interop-checkpoint/v1\nrange 100 149\nroot {root}\nstream ingress\nwriter_id svc-gateway@inst-1\n"
    );
    assert_eq!(signed.signed_text(range, &root), text);
    let checkpoint = signed.checkpoints[0].clone();
    assert_eq!(signed.check_signature(&checkpoint, key(1).verifier_key()), Ok(()));
    assert_eq!(signed.check_signature(&checkpoint, key(2).verifier_key()), Err(SignatureFault::OtherKey));
    assert_eq!(Manifest::decode(&signed.encode()), Ok(signed.clone()));
    let others = [
        Manifest { stream: "other".to_owned(), ..signed.clone() },
        Manifest { writer_id: "other".to_owned(), ..signed.clone() },
    ];
    for other in others {
        let checked = other.check_signature(&checkpoint, key(1).verifier_key());
        assert_eq!(checked, Err(SignatureFault::Invalid));
    }
    let moved = RangeCheckpoint { range: SeqRange::new(101, 150).unwrap(), ..checkpoint.clone() };
    assert_eq!(signed.check_signature(&moved, key(1).verifier_key()), Err(SignatureFault::Invalid));
    let cosigner = SigningKey::from_seed(KeyName::new("c").unwrap(), KeyKind::CosignatureEd25519, [1; 32]);
    assert_eq!(signed.sign(range, root, &cosigner), Err(SignatureFault::KeyKind));
}
