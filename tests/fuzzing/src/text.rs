//! The texts of C2SP: what is read is what is written, and what verifies is what was signed.

use stele_proof::LeafIndex;
use stele_proof::checkpoint::Checkpoint;
use stele_proof::key::{KeyName, SigningKey, VerifierKey};
use stele_proof::note::{MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError};
use stele_proof::policy::{MAX_POLICY_BYTES, MAX_POLICY_LINES, Policy};
use stele_proof::proof_file::{MAX_EXTRA_BYTES, MAX_HASHES, MAX_PROOF_FILE_BYTES, ProofFile};
use stele_proof::tile::TilePath;

use crate::fixture;

/// Keys in both text forms.
pub(crate) fn key(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = SigningKey::parse(text) {
        assert_eq!(key.to_private_text(), text);
        let public = key.verifier_key();
        assert_eq!(VerifierKey::parse(&public.to_string()).as_ref(), Ok(public), "every key pair has a vkey");
        assert!(!format!("{key:?}").contains(text), "Debug shows no secret");
    }
    if let Ok(name) = KeyName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.is_empty() && !text.contains(['+', ' ', '\n']));
    }
}

/// Notes, and the signatures of known keys on them.
pub(crate) fn note(data: &[u8]) {
    verified_checkpoint(data);
    let Ok(note) = Note::parse(data) else { return };
    assert_eq!(note.to_string().as_bytes(), data);
    assert!(data.len() <= MAX_NOTE_BYTES && (1..=MAX_SIGNATURES).contains(&note.signatures().len()));
    match Note::new(note.text(), note.signatures().to_vec()) {
        Ok(same) => assert_eq!(same, note),
        Err(error) => assert!(matches!(error, NoteError::Repeated { .. }), "{error}"),
    }
    let (log, cosigner) = (fixture::log_key(), fixture::cosigner_key(1));
    if let Ok(verified) = note.verify([log.verifier_key()]) {
        assert_eq!(verified.len(), 1);
        let signed = [fixture::PLAIN_TEXT.to_owned(), fixture::checkpoint().to_string()];
        assert!(signed.iter().any(|text| text == note.text()), "{:?} was never signed", note.text());
    }
    if let Ok(verified) = note.verify([cosigner.verifier_key()]) {
        assert_eq!(note.text(), fixture::checkpoint().to_string());
        assert_eq!(verified[0].time(), Some(fixture::TIME));
    }
}

fn verified_checkpoint(data: &[u8]) {
    let Ok(verified) = fixture::policy().verify_checkpoint(data) else { return };
    assert_eq!(*verified.checkpoint(), fixture::checkpoint());
    assert_eq!(verified.log_keys(), [fixture::log_key().verifier_key().id()]);
    assert!((1..=2).contains(&verified.cosignatures().len()), "one of two must have cosigned");
}

/// Checkpoints.
pub(crate) fn checkpoint(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let Ok(checkpoint) = Checkpoint::parse(text) else { return };
    assert_eq!(checkpoint.to_string(), text);
    assert_eq!(checkpoint.origin.as_str(), checkpoint.origin.key_name().as_str());
}

/// Policies.
pub(crate) fn policy(data: &[u8]) {
    let Ok(policy) = Policy::parse(data) else { return };
    let text = policy.to_string();
    assert!(data.len() <= MAX_POLICY_BYTES && text.len() <= MAX_POLICY_BYTES);
    assert!(text.lines().count() <= MAX_POLICY_LINES);
    assert_eq!(Policy::parse(text.as_bytes()).as_ref(), Ok(&policy));
    for cosigners in 0..=2 {
        let Ok(verified) = policy.verify_checkpoint(fixture::signed_checkpoint(cosigners).as_bytes()) else { continue };
        assert_eq!(*verified.checkpoint(), fixture::checkpoint());
        assert!(!verified.log_keys().is_empty());
        assert!(verified.cosignatures().len() <= usize::from(cosigners));
        let known = |name: &str| policy.witnesses().any(|witness| witness.name() == name);
        assert!(verified.cosignatures().iter().all(|cosignature| known(&cosignature.witness)));
        if let Some(quorum) = policy.quorum()
            && policy.witnesses().any(|witness| witness.name() == quorum)
        {
            assert!(verified.cosignatures().iter().any(|cosignature| cosignature.witness == quorum));
        }
    }
}

/// Proof files.
pub(crate) fn proof_file(data: &[u8]) {
    let Ok(proof) = ProofFile::parse(data) else { return };
    assert_eq!(proof.to_string().as_bytes(), data);
    assert!(data.len() <= MAX_PROOF_FILE_BYTES && proof.hashes().len() <= MAX_HASHES);
    assert!(proof.extra().is_none_or(|extra| (1..=MAX_EXTRA_BYTES).contains(&extra.len())));
    let (extra, hashes) = (proof.extra().map(<[u8]>::to_vec), proof.hashes().to_vec());
    let again = ProofFile::new(extra, proof.index(), hashes, proof.checkpoint().to_owned());
    assert_eq!(again.as_ref(), Ok(&proof));
    let policy = fixture::policy();
    for (index, leaf) in (0..).zip(fixture::leaves()) {
        if proof.verify(&leaf, &policy).is_ok() {
            assert_eq!(proof.index(), LeafIndex::new(index), "a proof of another place");
            assert!(fixture::proofs().iter().any(|known| known == proof.hashes()));
        }
    }
}

/// Paths of tiles.
pub(crate) fn tile_path(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let Ok(path) = TilePath::parse(text) else { return };
    assert_eq!(path.to_string(), text);
    assert!((1..=256).contains(&path.width().get()));
    let (end, last) = match path {
        TilePath::Tile(tile) => (tile.end(), tile.nodes().last().map(stele_proof::tree::Node::end)),
        TilePath::Bundle(bundle) => (bundle.end(), None),
    };
    assert!(end.get() > 0 && last.is_none_or(|last| last == end));
    let there = match path {
        TilePath::Tile(tile) => stele_proof::tile::TileId::at(tile.level(), tile.index(), end) == Some(tile),
        TilePath::Bundle(bundle) => stele_proof::tile::BundleId::at(bundle.index(), end) == Some(bundle),
    };
    assert!(there, "the tree of {end} leaves has it as wide");
}
