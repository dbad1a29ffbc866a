//! `stele note verify`.

use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::cosignature::cosign;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::{Note, sign, signature_line};
use stele_proof::tree::leaf_hash;
use stele_proof::{TreeSize, UnixSeconds};
use tempfile::tempdir;

use crate::stele::{Ended, stele, write};

fn key(name: &str, kind: KeyKind, seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyName::new(name).expect("the name is one"), kind, [seed; 32])
}

fn verify(key: &str, note: impl AsRef<[u8]>) -> Ended {
    stele(&["note", "verify", "--key", key, "-"], note)
}

const TEXT: &str = "first\n\nthird\n";

#[test]
fn the_text_of_a_signed_note_is_printed_as_it_is() {
    let signer = key("example.com/log", KeyKind::Ed25519, 1);
    let note = sign(TEXT, &[&signer]).unwrap();
    let vkey = signer.verifier_key().to_string();
    assert_eq!(verify(&vkey, &note).output(), TEXT);

    let directory = tempdir().unwrap();
    let path = directory.path().join("checkpoint");
    write(&path, &note);
    assert_eq!(stele(&["note", "verify", "--key", &vkey, path.to_str().unwrap()], "").output(), TEXT);
}

#[test]
fn signatures_of_others_do_not_matter() {
    let (one, two) = (key("one", KeyKind::Ed25519, 1), key("two", KeyKind::Ed25519, 2));
    let note = sign(TEXT, &[&one, &two]).unwrap();
    for signer in [&one, &two] {
        assert_eq!(verify(&signer.verifier_key().to_string(), &note).output(), TEXT);
    }
    let spoilt = note.replace("two ", "tow ");
    assert_eq!(verify(&one.verifier_key().to_string(), &spoilt).output(), TEXT);
}

#[test]
fn a_cosignature_verifies_a_checkpoint() {
    let (log, witness) = (key("log", KeyKind::Ed25519, 1), key("witness", KeyKind::CosignatureEd25519, 2));
    let checkpoint =
        Checkpoint { origin: Origin::new("log").unwrap(), size: TreeSize::new(1), root: leaf_hash(b"leaf") };
    let text = checkpoint.to_string();
    let signatures =
        vec![signature_line(&text, &log).unwrap(), cosign(&checkpoint, &witness, UnixSeconds::new(7)).unwrap()];
    let note = Note::new(&text, signatures).unwrap().to_string();
    for signer in [&log, &witness] {
        assert_eq!(verify(&signer.verifier_key().to_string(), &note).output(), text);
    }
    let moved = note.replacen("\n1\n", "\n2\n", 1);
    verify(&witness.verifier_key().to_string(), moved).refused(3, &["does not verify", "witness"]);
}

#[test]
fn another_text_does_not_verify() {
    let signer = key("example.com/log", KeyKind::Ed25519, 1);
    let note = sign(TEXT, &[&signer]).unwrap();
    let vkey = signer.verifier_key().to_string();
    verify(&vkey, note.replace("first", "First")).refused(3, &["standard input does not verify", "example.com/log"]);
}

#[test]
fn the_wrong_key_is_told_with_the_right_one() {
    let (signer, other) = (key("one", KeyKind::Ed25519, 1), key("one", KeyKind::Ed25519, 2));
    let note = sign(TEXT, &[&signer]).unwrap();
    let (right, wrong) = (signer.verifier_key().id().to_string(), other.verifier_key().id().to_string());
    let words = [&*format!("signed by one+{right}"), &*format!("not by one+{wrong}")];
    verify(&other.verifier_key().to_string(), &note).refused(3, &words);
}

#[test]
fn many_long_names_of_signers_are_cut() {
    let signers: Vec<SigningKey> =
        (1..=9).map(|seed| key(&format!("{seed}{}", "n".repeat(5000)), KeyKind::Ed25519, seed)).collect();
    let note = sign(TEXT, &signers.iter().collect::<Vec<_>>()).unwrap();
    let ended = verify(&key("other", KeyKind::Ed25519, 1).verifier_key().to_string(), note);
    assert!(ended.errors.len() < 1000, "{}", ended.errors);
    ended.refused(3, &["and 5 more"]);
}

#[test]
fn what_is_no_note_does_not_verify() {
    let signer = key("n", KeyKind::Ed25519, 1);
    let vkey = signer.verifier_key().to_string();
    let note = sign(TEXT, &[&signer]).unwrap();
    for (input, word) in [
        (String::new(), "line feed"),
        ("text\n".to_owned(), "empty line"),
        ("text\n\n".to_owned(), "signature"),
        (note.trim_end().to_owned(), "line feed"),
        (note.clone() + "\n", "signature"),
        (note.replace("\u{2014}", "-"), "line 5"),
        (note.replace('\n', "\r\n"), "control character"),
        (note.replace("third", "\x1b[2J"), "control character"),
    ] {
        verify(&vkey, input).refused(3, &["standard input does not verify", word]);
    }
    verify(&vkey, b"\xff\n\n").refused(3, &["UTF-8"]);
    verify(&vkey, vec![b'x'; (1 << 20) + 1]).refused(1, &["1048576"]);
}

#[test]
fn a_bad_key_is_a_usage_error_and_is_not_repeated() {
    let signer = key("n", KeyKind::Ed25519, 1);
    let secret = signer.to_private_text();
    for (text, word) in [("n", "name+id"), ("n+00000000+AQ==", "32"), (secret.as_str(), "private key")] {
        let ended = verify(text, "");
        assert!(text == "n" || !ended.errors.contains(text), "{}", ended.errors);
        ended.refused(2, &["--key", word]);
    }
}
