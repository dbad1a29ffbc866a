use super::*;
use crate::key::KeyId;
use crate::note::fixture::{
    CHECKPOINT, COSIGNATURE, SIGNED, TIME, checkpoint, cosigned, cosigner_key, key, log_key,
};
use crate::note::{Note, VerifyError};

/// A cosignature for any time, signed as it should be.
fn signature_at(seconds: u64) -> Vec<u8> {
    let signature = cosigner_key().sign(&message(CHECKPOINT, UnixSeconds::new(seconds)));
    [seconds.to_be_bytes().as_slice(), &signature].concat()
}

fn check(signature: &[u8]) -> Result<UnixSeconds, SignatureError> {
    verify(CHECKPOINT, cosigner_key().verifier_key(), signature)
}

#[test]
fn golden_cosignature_both_ways() {
    let line = cosign(&checkpoint(), &cosigner_key(), TIME).unwrap();
    assert_eq!(line.to_string(), COSIGNATURE);
    assert_eq!(SignatureLine::parse(COSIGNATURE).unwrap(), line);
    assert_eq!(COSIGNATURE.rsplit(' ').next().unwrap().len(), 104);

    let note = Note::parse(SIGNED.as_bytes())
        .unwrap()
        .with_signature(line)
        .unwrap();
    assert_eq!(note.to_string(), cosigned());
    let (log, cosigner) = (log_key(), cosigner_key());
    let verified = note
        .verify([cosigner.verifier_key(), log.verifier_key()])
        .unwrap();
    let times: Vec<_> = verified
        .iter()
        .map(|signature| (signature.key(), signature.time()))
        .collect();
    assert_eq!(
        times,
        [
            (log.verifier_key(), None),
            (cosigner.verifier_key(), Some(TIME))
        ]
    );
}

#[test]
fn times_end_at_2_to_the_63() {
    for seconds in [0, 1, MAX_TIME.get()] {
        assert_eq!(check(&signature_at(seconds)), Ok(UnixSeconds::new(seconds)));
        let line = cosign(&checkpoint(), &cosigner_key(), UnixSeconds::new(seconds)).unwrap();
        assert_eq!(line.signature(), signature_at(seconds));
    }
    for seconds in [MAX_TIME.get() + 1, u64::MAX] {
        assert_eq!(
            check(&signature_at(seconds)),
            Err(SignatureError::TimeTooLate { seconds })
        );
        let time = UnixSeconds::new(seconds);
        let error = CosignError::TimeTooLate { time };
        assert_eq!(cosign(&checkpoint(), &cosigner_key(), time), Err(error));
    }
}

#[test]
fn other_lengths_are_refused() {
    let good = signature_at(5);
    for found in (0..good.len()).chain([73, 76, 2428]) {
        let signature: Vec<u8> = good
            .iter()
            .copied()
            .chain([0].repeat(4096))
            .take(found)
            .collect();
        assert_eq!(
            check(&signature),
            Err(SignatureError::Length {
                expected: 72,
                found
            })
        );
    }
}

#[test]
fn time_text_and_key_are_signed() {
    let good = signature_at(5);
    let mut later = good.clone();
    later[7] = 6;
    assert_eq!(check(&later), Err(SignatureError::Invalid));
    let other_text = CHECKPOINT.replace("3", "4");
    let cosigner = cosigner_key();
    assert_eq!(
        verify(&other_text, cosigner.verifier_key(), &good),
        Err(SignatureError::Invalid)
    );
    let other = key("other", KeyKind::CosignatureEd25519, 9);
    assert_eq!(
        verify(CHECKPOINT, other.verifier_key(), &good),
        Err(SignatureError::Invalid)
    );
}

#[test]
fn a_log_key_does_not_cosign() {
    let log = log_key();
    let error = CosignError::NotACosigner {
        name: log.verifier_key().name().clone(),
    };
    assert_eq!(cosign(&checkpoint(), &log, TIME), Err(error));
}

/// One seed under both kinds: a signature of one kind is none of the other.
#[test]
fn the_kinds_are_apart() {
    let plain = key("example.com/log", KeyKind::Ed25519, 5);
    let timed = key("example.com/log", KeyKind::CosignatureEd25519, 5);
    let id = |key: &SigningKey| -> KeyId { key.verifier_key().id() };
    assert_ne!(id(&plain), id(&timed));
    let signature = plain.sign(CHECKPOINT.as_bytes());
    let time = 5_u64.to_be_bytes();
    let blob = [time.as_slice(), &signature].concat();
    assert_eq!(
        verify(CHECKPOINT, timed.verifier_key(), &blob),
        Err(SignatureError::Invalid)
    );

    let line = cosign(&checkpoint(), &timed, TIME).unwrap();
    let moved = SignatureLine::new(
        line.name().clone(),
        id(&plain),
        line.signature()[8..].to_vec(),
    )
    .unwrap();
    let note = Note::new(CHECKPOINT, vec![moved]).unwrap();
    let refused = note.verify([plain.verifier_key()]);
    assert!(matches!(
        refused,
        Err(VerifyError::Invalid {
            source: SignatureError::Invalid,
            ..
        })
    ));
}
