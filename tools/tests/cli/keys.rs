//! `stele keys generate|vkey`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stele_proof::key::{KeyKind, SigningKey, VerifierKey};
use tempfile::tempdir;

use crate::stele::{Ended, stele, write};

fn generate(name: &str, path: &Path) -> Ended {
    stele(&["keys", "generate", "--name", name, "-o", path.to_str().expect("the path is UTF-8")], "")
}

fn vkey(path: &Path) -> Ended {
    stele(&["keys", "vkey", path.to_str().expect("the path is UTF-8")], "")
}

#[test]
fn a_generated_key_is_private_and_its_vkey_is_printed() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log.key");
    let printed = generate("example.com/log", &path).output();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let text = fs::read_to_string(&path).unwrap();
    let key = SigningKey::parse(text.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(printed, format!("{}\n", key.verifier_key()));
    assert_eq!(key.verifier_key().kind(), KeyKind::Ed25519);
    assert_eq!(key.verifier_key().name().as_str(), "example.com/log");
    assert_eq!(vkey(&path).output(), printed);
    assert_eq!(stele(&["keys", "vkey", "-"], &text).output(), printed);
    assert_eq!(stele(&["keys", "vkey", "-"], text.trim_end()).output(), printed);
}

#[test]
fn two_keys_differ() {
    let directory = tempdir().unwrap();
    let first = generate("a", &directory.path().join("1")).output();
    assert_ne!(first, generate("a", &directory.path().join("2")).output());
}

#[test]
fn a_cosigner_has_a_key_of_type_04() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("cosigner.key");
    let arguments = ["keys", "generate", "--name", "n", "--type", "cosigner", "-o", path.to_str().unwrap()];
    let printed = stele(&arguments, "").output();
    let key = VerifierKey::parse(printed.trim_end()).unwrap();
    assert_eq!(key.kind(), KeyKind::CosignatureEd25519);
    assert_eq!(vkey(&path).output(), printed);
}

#[test]
fn a_key_is_never_overwritten() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log.key");
    write(&path, "precious");
    generate("a", &path).refused(1, &["log.key", "exists already", "choose another file"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), &link).unwrap();
    generate("a", &link).refused(1, &["link", "exists already"]);
    assert!(!directory.path().join("elsewhere").exists());
}

#[test]
fn a_refused_name_leaves_no_file() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log.key");
    for (name, word) in [("", "empty"), ("a b", "' '"), ("a+b", "'+'"), ("a\nb", "'\\n'"), ("a\u{3000}b", "byte 1")] {
        generate(name, &path).refused(2, &["--name", word]);
    }
    generate(&"n".repeat(1025), &path).refused(2, &["--name", "1024"]);
    assert!(!path.exists());
    stele(&["keys", "generate", "--name", "a", "-o", "-"], "").refused(2, &["-o", "standard output"]);
    generate("a", &directory.path().join("no/where")).refused(1, &["cannot create", "no/where"]);
}

#[test]
fn the_longest_name_makes_a_key_that_can_be_read() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log.key");
    let printed = generate(&"n".repeat(1024), &path).output();
    assert_eq!(vkey(&path).output(), printed);
}

#[test]
fn errors_never_repeat_a_private_key() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log.key");
    generate("example.com/log", &path).output();
    let text = fs::read_to_string(&path).unwrap();
    // Base64 may hold a `+` itself.
    let secret = text.trim_end().splitn(5, '+').nth(4).unwrap();

    let two = format!("{text}{text}");
    let renamed = text.replace("example.com", "example.net");
    let cut = text.replace("PRIVATE+KEY+", "PRIVATE+");
    for (input, word) in [(two, "base64"), (renamed, "id"), (cut, "PRIVATE+KEY+"), (format!("{text}\n"), "base64")] {
        let ended = stele(&["keys", "vkey", "-"], &input);
        assert!(!ended.errors.contains(secret), "{}", ended.errors);
        ended.refused(1, &["standard input is not a private key file", word]);
    }
    stele(&["keys", "vkey", "-"], b"\xff").refused(1, &["standard input", "utf-8"]);
    stele(&["keys", "vkey", "-"], vec![b'x'; 4097]).refused(1, &["4096"]);
    vkey(&directory.path().join("missing")).refused(1, &["missing", "No such file"]);
    vkey(directory.path()).refused(1, &["cannot read", "directory"]);
}
