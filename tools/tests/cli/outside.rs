//! A proof made here and checked by the Python script in the repository's `tests/`, which shares no code.
//!
//! Where there is no `python3`, nothing is compared: the tests need a Rust toolchain and no more.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::sign;
use stele_proof::proof_file::ProofFile;
use stele_proof::tree::{leaf_hash, node_hash};
use stele_proof::{LeafIndex, TreeSize};
use tempfile::tempdir;

use crate::stele::write;

/// Runs the script; `None` without Python.
fn script(arguments: &[&OsStr]) -> Option<(Option<i32>, String, String)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/verify_proof.py");
    let ended = match Command::new("python3").arg(path).args(arguments).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        ended => ended.expect("python3 runs"),
    };
    let text = |bytes| String::from_utf8(bytes).expect("the script writes UTF-8");
    Some((ended.status.code(), text(ended.stdout), text(ended.stderr)))
}

#[test]
fn the_script_passes_its_own_test() {
    if let Some((code, output, errors)) = script(&["--self-test".as_ref()]) {
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{output}");
        assert!(output.ends_with(" 0 wrong\n"), "{output}");
    }
}

#[test]
fn the_script_believes_our_proofs_and_no_others() {
    let record = br#"{"v":1,"ts_ms":0,"writer_id":"w","seq":1,"stream":"s","kind":"K","actor":{},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;
    let leaves = [leaf_hash(b"0"), leaf_hash(b"1"), leaf_hash(record)];
    let left = node_hash(&leaves[0], &leaves[1]);
    let (origin, size) = (Origin::new("example.com/log").unwrap(), TreeSize::new(3));
    let checkpoint = Checkpoint { origin, size, root: node_hash(&left, &leaves[2]) };
    let key = |seed| SigningKey::from_seed(KeyName::new("example.com/log").unwrap(), KeyKind::Ed25519, [seed; 32]);
    let note = sign(&checkpoint.to_string(), &[&key(1)]).unwrap();
    let proof = ProofFile::new(None, LeafIndex::new(2), vec![left], note).unwrap();

    let directory = tempdir().unwrap();
    let [record_path, proof_path, other_path] = ["record", "proof", "other"].map(|name| directory.path().join(name));
    write(&record_path, record);
    write(&proof_path, proof.to_string());
    write(&other_path, br#"{"v":1,"ts_ms":1}"#);
    let vkey = key(1).verifier_key().to_string();
    let arguments = [record_path.as_os_str(), proof_path.as_os_str(), "--key".as_ref(), vkey.as_ref()];
    let Some((code, output, errors)) = script(&arguments) else { return };
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert_eq!(output, format!("verified index 2 of size 3, root {}\n", checkpoint.root.to_base64()));

    let wrong_key = key(2).verifier_key().to_string();
    for (record, vkey) in [(&other_path, &vkey), (&record_path, &wrong_key)] {
        let arguments = [record.as_os_str(), proof_path.as_os_str(), "--key".as_ref(), vkey.as_ref()];
        let (code, output, errors) = script(&arguments).unwrap();
        assert_eq!((code, output.as_str()), (Some(3), ""));
        assert!(errors.starts_with("verify_proof: ") && errors.matches('\n').count() == 1, "{errors}");
    }
}
