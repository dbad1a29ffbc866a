//! Which crate may depend on which (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate may depend on, of the crates here, and what a crate that an auditor links may use at all.
const ARROWS: [(&str, &[&str]); 11] = [
    ("stele-proof", &[]),
    ("stele-engine", &["stele-proof"]),
    ("stele-raft", &["stele-proof", "stele-engine"]),
    ("stele-api", &[]),
    ("stele-server", &["stele-proof", "stele-engine", "stele-raft", "stele-api"]),
    ("stele-client", &["stele-proof", "stele-api"]),
    ("stele-tools", &["stele-proof", "stele-engine", "stele-api", "stele-client"]),
    ("stele-tests", &[]),
    ("stele-benches", &[]),
    ("stele-fuzzing", &["stele-proof", "stele-engine"]),
    ("stele-simulator", &["stele-proof", "stele-engine"]),
];
const PROOF_MAY_USE: [&str; 9] = [
    "base64",
    "blake3",
    "ed25519-dalek",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "unicode-normalization",
    "unicode-properties",
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let normal = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), normal(package))).collect()
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let dependencies = dependencies();
    let known: BTreeSet<_> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(dependencies.keys().cloned().collect::<BTreeSet<_>>(), known, "a crate without an arrow");
    for (name, allowed) in ARROWS {
        let ours = dependencies[name].iter().filter(|dependency| dependency.starts_with("stele-"));
        for dependency in ours {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn what_an_auditor_links_stays_small() {
    for dependency in &dependencies()["stele-proof"] {
        assert!(PROOF_MAY_USE.contains(&dependency.as_str()), "stele-proof uses {dependency}");
    }
}
