//! A log of three records with its keys, so that targets can tell what was ever signed.

use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::cosignature::cosign;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::{Note, signature_line};
use stele_proof::policy::{Policy, PolicyBuilder, Threshold};
use stele_proof::tree::{Hash, leaf_hash, node_hash};
use stele_proof::{TreeSize, UnixSeconds};

pub(crate) const ORIGIN: &str = "example.com/log";
/// A plain text that the log key has signed, with an empty line in it.
pub(crate) const PLAIN_TEXT: &str = "an announcement\n\nwith two paragraphs\n";
pub(crate) const TIME: UnixSeconds = UnixSeconds::new(1_700_000_000);

fn key(name: &str, kind: KeyKind, seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyName::new(name).expect("a name"), kind, [seed; 32])
}

pub(crate) fn log_key() -> SigningKey {
    key(ORIGIN, KeyKind::Ed25519, 1)
}

pub(crate) fn cosigner_key(number: u8) -> SigningKey {
    key(&format!("{ORIGIN}/site/local/n{number}"), KeyKind::CosignatureEd25519, number + 1)
}

/// A key that no policy knows.
pub(crate) fn stranger_key() -> SigningKey {
    key("example.com/other", KeyKind::Ed25519, 9)
}

pub(crate) fn leaves() -> [Hash; 3] {
    [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")]
}

/// The inclusion proofs of the three leaves.
pub(crate) fn proofs() -> [Vec<Hash>; 3] {
    let [a, b, c] = leaves();
    [vec![b, c], vec![a, c], vec![node_hash(&a, &b)]]
}

/// The one checkpoint that was ever signed.
pub(crate) fn checkpoint() -> Checkpoint {
    let [a, b, c] = leaves();
    let root = node_hash(&node_hash(&a, &b), &c);
    Checkpoint { origin: Origin::new(ORIGIN).expect("an origin"), size: TreeSize::new(3), root }
}

/// The checkpoint signed by the log and by so many cosigners.
pub(crate) fn signed_checkpoint(cosigners: u8) -> String {
    let text = checkpoint().to_string();
    let line = signature_line(&text, &log_key()).expect("the log key signs notes");
    let mut note = Note::new(&text, vec![line]).expect("a note");
    for number in 1..=cosigners {
        let line = cosign(&checkpoint(), &cosigner_key(number), TIME).expect("a cosigner's key");
        note = note.with_signature(line).expect("another key");
    }
    note.to_string()
}

/// Two witnesses, of which one must have cosigned.
pub(crate) fn policy() -> Policy {
    let mut builder = PolicyBuilder::default();
    let mut build = || {
        builder.log(log_key().verifier_key().clone(), Some("https://log.example.com/"))?;
        builder.witness("n1", cosigner_key(1).verifier_key().clone(), None)?;
        builder.witness("n2", cosigner_key(2).verifier_key().clone(), None)?;
        builder.group("site-local", Threshold::Any, &["n1", "n2"])?;
        builder.group("sites", Threshold::All, &["site-local"])?;
        builder.quorum("sites")
    };
    build().expect("the lines of a policy");
    builder.finish().expect("a policy")
}
