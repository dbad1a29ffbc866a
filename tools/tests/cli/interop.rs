//! `stele export interop`, `stele verify interop`, `stele import interop` and `stele scrub`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{OpenOptions, Permissions, set_permissions};
use std::ops::Add as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use crate::stele::{Ended, stele, write};

/// A directory with a log of three records, an export of them, and its key's vkey.
fn made() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    stele(&["init", "--log", &at("log"), "--origin", "example.com/log"], "").output();
    let append = ["append", "--log", &at("log"), "--stream", "s", "--writer", "w", "--kind", "Line", "-"];
    stele(&append, "one\ntwo\nthree\n").output();
    stele(&["segment", "seal", "--log", &at("log")], "").output();
    let vkey = stele(&["keys", "generate", "--name", "export", "-o", &at("key")], "").output();
    let export = ["export", "interop", "--log", &at("log"), "--stream", "s", "--writer", "w", "-o", &at("out")];
    stele(&[&export[..], &["--key", &at("key")]].concat(), "").output();
    (directory, vkey.trim().to_owned())
}

fn flip(path: &Path, at: u64) {
    set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_export_is_verified_imported_once_and_refused_when_a_byte_is_flipped() {
    let (directory, vkey) = made();
    let [out, other] = ["out", "other"].map(|name| directory.path().join(name));
    let verified = stele(&["verify", "interop", text(&out), "--key", &vkey], "").output();
    assert!(verified.starts_with("ok: 3 records, seq 1 to 3") && verified.contains("all of it signed"), "{verified}");
    stele(&["import", "interop", text(&out), "--log", text(&other)], "").refused(6, &["there is no log"]);
    stele(&["init", "--log", text(&other), "--origin", "example.com/other"], "").output();
    let import = ["import", "interop", text(&out), "--log", text(&other)];
    assert_eq!(stele(&import, "").output(), "imported 3 records, 0 were there already\n");
    assert_eq!(stele(&import, "").output(), "imported 0 records, 3 were there already\n");
    let told = stele(&[&import[..], &["--json"]].concat(), "").output();
    assert!(told.lines().all(|line| line.ends_with("\"known\":true}")), "{told}");
    assert_eq!(told.lines().count(), 3, "{told}");

    flip(&out.join("wal-000000.seg"), 63);
    let words = ["wal-000000.seg", "byte 32", "seq 1", "HashMismatch"];
    stele(&["verify", "interop", text(&out)], "").refused(3, &words);
    stele(&import, "").refused(3, &words);
    std::fs::remove_file(out.join("manifest.json")).unwrap();
    stele(&["verify", "interop", text(&out)], "").refused(6, &["no export", "manifest.json"]);
}

#[test]
fn a_scrub_tells_of_a_flipped_bit_and_ends_with_3() {
    let (directory, _) = made();
    let log = directory.path().join("log");
    let scrub = ["scrub", "--log", text(&log), "--rate", "100000000"];
    assert!(stele(&scrub, "").output().starts_with("ok: "));
    let segment = log.join("segments/0000000000000000.seg");
    flip(&segment, std::fs::metadata(&segment).unwrap().len() / 2 + 200);
    let ended = stele(&[&scrub[..], &["--json"]].concat(), "");
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.output.contains("\"ok\":false") && ended.output.contains("\"segment\":0"), "{ended:?}");
    assert!(ended.errors.contains("0000000000000000.seg, byte "), "{ended:?}");
    stele(&["scrub", "--log", text(&directory.path().join("none"))], "").refused(6, &["there is no log"]);
}

#[test]
fn a_rate_is_a_number_of_bytes_with_or_without_a_unit_and_nothing_else() {
    let (directory, _) = made();
    let log = directory.path().join("log");
    for rate in ["100000000", "100MB", "10MiB", "1 GiB", "18446744073709551614"] {
        assert!(stele(&["scrub", "--log", text(&log), "--rate", rate], "").output().starts_with("ok: "), "{rate}");
    }
    for rate in ["0", "0MiB", "", "fast", "-1", "1.5MiB", "1e6", "inf", "nan", "10XB", "99999999999999999999", "10EiB0"]
    {
        let ended = stele(&["scrub", "--log", text(&log), &format!("--rate={rate}")], "");
        assert_eq!(ended.code, Some(2), "{rate}: {ended:?}");
        assert!(ended.errors.contains("--rate"), "{rate}: {ended:?}");
    }
}

#[test]
fn a_scrub_finds_another_root_in_the_stored_checkpoint() {
    let (directory, _) = made();
    let log = directory.path().join("log");
    stele(&["checkpoint", "--log", text(&log)], "").output();
    let scrub = ["scrub", "--log", text(&log)];
    let found = |ended: &Ended, words: &[&str]| {
        assert!(ended.code == Some(3) && words.iter().all(|word| ended.errors.contains(word)), "{ended:?}");
    };
    assert!(stele(&scrub, "").output().contains("held against itself only"));
    let path = log.join("checkpoint");
    let note = std::fs::read_to_string(&path).unwrap();
    let root = note.lines().nth(2).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(&path, note.replacen(root, &"A".repeat(43).add("="), 1));
    found(&stele(&scrub, ""), &["checkpoint, byte 0", "another root"]);
    std::fs::remove_file(&path).unwrap();
    write(&path, "nothing");
    found(&stele(&scrub, ""), &["checkpoint, byte 0", "no checkpoint"]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test damages files behind the engine's back")]
fn a_scrub_goes_on_behind_what_is_no_file_and_a_segment_that_is_not_there_is_not_found() {
    let (directory, _) = made();
    let log = directory.path().join("log");
    for name in ["0000000000000000.tiles", "0000000000000000.hashes", "0000000000000000.0.pay"] {
        let file = log.join("segments").join(name);
        let aside = directory.path().join("aside");
        std::fs::rename(&file, &aside).unwrap();
        std::fs::create_dir(&file).unwrap();
        let ended = stele(&["scrub", "--log", text(&log), "--json"], "");
        let told: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
        let found = told["findings"].as_array().unwrap();
        assert_eq!(found[0]["file"], format!("segments/{name}"), "{told}");
        assert_eq!(told["segments"], 1, "it goes on: {told}");
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(ended.errors.contains("stele repair"), "{ended:?}");
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&aside, &file).unwrap();
    }
    stele(&["scrub", "--log", text(&log), "--from", "99999"], "").refused(6, &["there is no segment 99999"]);
}
