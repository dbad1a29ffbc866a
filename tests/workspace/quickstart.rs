//! The README's first command.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stele_engine::environment::{Clock, Entropy, Environment};
use stele_proof::UnixMillis;
use stele_tools::{Exit, Streams, cli};

const LOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/verify_proof.py");

/// A clock that stands still and randomness that counts.
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> UnixMillis {
        UnixMillis::new(1_700_000_000_000)
    }
}

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        for chunk in out.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

fn fixed() -> Environment {
    let source = Arc::new(Fixed(AtomicU64::new(1)));
    Environment { clock: source.clone(), entropy: source, ..Environment::system() }
}

fn stele(environment: &Environment, arguments: &[&str]) -> (Exit, String) {
    let arguments = ["stele"].iter().chain(arguments).map(OsString::from);
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut streams = Streams::new(Box::new(std::io::empty()), &mut output, &mut errors);
    let exit = cli::main_in(environment, arguments, &mut streams);
    assert_eq!(String::from_utf8(errors).unwrap(), "");
    (exit, String::from_utf8(output).unwrap())
}

fn segments(directory: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory.join("log/segments"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mut bytes = std::fs::read(entry.path()).unwrap();
            let open = !entry.metadata().unwrap().permissions().readonly();
            if open && entry.path().extension().unwrap() == "seg" {
                // The flush ring of the open segment tells flushes, which are this node's own.
                bytes[4096..16384].fill(0);
            }
            (entry.file_name(), bytes)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn quickstart_goes_through_and_its_proof_holds_without_this_software() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("q");
    let (exit, output) =
        stele(&Environment::system(), &["quickstart", "--local", LOCK, "--dir", path.to_str().unwrap()]);
    assert_eq!(exit, Exit::Done, "{output}");
    for word in ["made", "appended", "sealed", "checkpoint", "proved", "verified", "flipped", "found"] {
        assert!(output.contains(word), "{word} is missing in: {output}");
    }
    assert!(!path.join("copy").exists());
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed, the proof was not checked by the script");
        return;
    }
    let checked = Command::new("python3")
        .arg(SCRIPT)
        .args([path.join("last.json"), path.join("last.tlog-proof")])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(String::from_utf8(checked.stdout).unwrap().starts_with("verified"));
}

#[test]
fn two_quickstarts_with_fixed_clock_and_randomness_write_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for name in ["a", "b"] {
        let path = directory.path().join(name);
        let (exit, output) = stele(&fixed(), &["quickstart", "--local", LOCK, "--dir", path.to_str().unwrap()]);
        assert_eq!(exit, Exit::Done, "{output}");
        seen.push(segments(&path));
    }
    assert!(seen[0].len() >= 3);
    assert_eq!(seen[0], seen[1]);
}
