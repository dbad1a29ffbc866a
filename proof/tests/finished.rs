//! Records that come with their hash, from anybody: many at once are judged as each alone.

#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::prelude::*;
use stele_proof::UnixMillis;
use stele_proof::record::{
    Actor, BoundsError, MAX_PAYLOAD_BYTES, Object, PayloadCommitment, RecordBuilder, RecordError, Salt, Subject,
    VerifyError, canonicalize, verify_record, verify_records,
};

/// A finished record of a chain's first place, with so many bytes in its reason.
fn finished(ts_ms: u64, reason_len: usize) -> Vec<u8> {
    let reason = "r".repeat(reason_len);
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(ts_ms),
        writer_id: "w",
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: &reason,
        attrs: &Object::default(),
        payload: None,
    };
    let mut canonical = Vec::new();
    let record = builder.encode(1, None, &mut canonical).unwrap();
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    finished
}

/// What may come: a good record, or one that is spoiled in one of the ways that have an error of their own.
fn any_input() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..6, 0_u64..1 << 40, 1_usize..60).prop_map(|(way, ts_ms, reason_len)| {
        let mut bytes = finished(ts_ms, reason_len);
        let hash_digit = bytes.len() - 3;
        match way {
            0 | 1 => {}
            2 => bytes[hash_digit] = if bytes[hash_digit] == b'0' { b'1' } else { b'0' },
            3 => bytes = String::from_utf8(bytes).unwrap().replacen("\"kind\":\"Line\"", "\"kind\":\"Lime\"", 1).into(),
            4 => bytes.insert(1, b' '),
            _ => bytes.truncate(hash_digit),
        }
        bytes
    })
}

proptest! {
    #[test]
    fn prop_many_finished_records_are_judged_as_each_alone(inputs in prop::collection::vec(any_input(), 0..40)) {
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let alone: Vec<_> = inputs.iter().map(|bytes| verify_record(bytes)).collect();
        prop_assert_eq!(verify_records(&inputs), alone);
    }
}

#[test]
fn a_spoiled_record_is_told_in_its_place_and_spoils_no_other() {
    let (first, last) = (finished(1, 5), finished(2, 6));
    let forged = String::from_utf8(finished(3, 7)).unwrap().replacen("\"ts_ms\":3", "\"ts_ms\":4", 1).into_bytes();
    let judged = verify_records(&[&first, b"{}", &forged, b"", &last]);
    let hash = |bytes: &[u8]| verify_record(bytes).unwrap();
    let claimed = hash(&finished(3, 7));
    assert_eq!(judged[0], Ok(hash(&first)));
    assert_eq!(judged[1], Err(VerifyError::NotFinished));
    assert_eq!(judged[2], Err(VerifyError::HashMismatch { claimed, computed: hash(&finished(4, 7)) }));
    assert_eq!(judged[3], Err(VerifyError::NotFinished));
    assert_eq!(judged[4], Ok(hash(&last)));
    assert_eq!(judged.len(), 5);
}

#[test]
fn what_is_too_large_is_refused_by_its_length() {
    // No JSON at all: where it were read before it is measured, that would be said instead.
    let limit = 256 * 1024;
    let too_long = vec![b'{'; limit + 1];
    let refused = canonicalize(&too_long);
    assert_eq!(refused, Err(RecordError::Bounds(BoundsError::RecordTooLarge { bytes: limit + 1, limit })));
    assert!(matches!(canonicalize(&too_long[1..]), Err(RecordError::Canon(_))));

    let most = usize::try_from(MAX_PAYLOAD_BYTES).unwrap();
    let payload = vec![7; most + 1];
    let salt = Salt::new([3; 32]);
    let too_large = BoundsError::PayloadTooLarge { bytes: MAX_PAYLOAD_BYTES + 1, limit: MAX_PAYLOAD_BYTES };
    assert_eq!(PayloadCommitment::commit(&salt, &payload), Err(too_large));
    let commitment = PayloadCommitment::commit(&salt, &payload[1..]).unwrap();
    assert!(commitment.opens_with(&salt, &payload[1..]));
    assert!(!commitment.opens_with(&salt, &payload));
}

#[test]
fn a_salt_shows_itself_in_no_message() {
    // Whoever has the salt can try payloads against the commitment, which is public.
    let shown = format!("{:?}", Salt::new([0xab; 32]));
    assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab"), "{shown}");
}
