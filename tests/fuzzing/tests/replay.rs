//! Every file of the corpora through its target, and so are seeded changes of it.
//!
//! `STELE_FUZZ_ROUNDS` is the number of changes tried per file; `STELE_FUZZ_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use stele_fuzzing::{TARGETS, run, seeds};

const DEFAULT_ROUNDS: u64 = 5000;
/// Changes of larger files are rarer: this many bytes count as one file.
const FULL_ROUNDS_BYTES: u64 = 1024;
/// What all files of the corpora may have together.
const MAX_CORPUS_BYTES: usize = 300 << 10;
/// Numbers that overflow, underflow or lose their sign.
const NUMBERS: [u64; 8] = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, 0xffff_ffff, 1 << 32];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The files of a target's corpus by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn variable(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

#[test]
fn every_target_has_a_fuzz_target_and_a_corpus_and_nothing_else_has() {
    let names = |under: &str| -> Vec<String> {
        let entries = fs::read_dir(fuzz().join(under)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let targets: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(targets.is_sorted());
    assert_eq!(names("corpus"), targets);
    let sources: Vec<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("fuzz_targets"), sources);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml lacks {target}");
    }
}

#[test]
fn the_corpora_hold_every_seed_and_stay_small() {
    for seed in seeds::all() {
        let path = fuzz().join("corpus").join(seed.target).join(&seed.name);
        let again = "run `cargo run -p stele-fuzzing --example seeds`";
        assert!(fs::read(&path).is_ok_and(|bytes| bytes == seed.bytes), "{}: {again}", path.display());
    }
    let bytes: usize = TARGETS.iter().flat_map(|(name, _)| corpus(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= MAX_CORPUS_BYTES, "{bytes} bytes");
}

#[test]
fn every_file_of_the_corpora_keeps_what_its_target_holds() {
    for (target, _) in TARGETS {
        for (name, bytes) in corpus(target) {
            with_context(&format!("corpus/{target}/{name}"), || run(target, &bytes));
        }
    }
}

#[test]
fn changed_files_of_the_corpora_keep_what_their_target_holds() {
    let rounds = variable("STELE_FUZZ_ROUNDS", DEFAULT_ROUNDS);
    let seed = variable("STELE_FUZZ_SEED", 1);
    for (target, _) in TARGETS {
        let files = corpus(target);
        for (number, (name, bytes)) in files.iter().enumerate() {
            let share = (bytes.len() as u64).div_ceil(FULL_ROUNDS_BYTES).max(1);
            for round in 0..rounds.div_ceil(share) {
                let mut random = Random(seed ^ round << 20 ^ (number as u64) << 52);
                let changed = change(bytes, &files, &mut random);
                let context = || {
                    format!("STELE_FUZZ_SEED={seed}, corpus/{target}/{name}, round {round}: {}", changed.escape_ascii())
                };
                let outcome = catch_unwind(AssertUnwindSafe(|| run(target, &changed)));
                if let Err(panic) = outcome {
                    with_context(&context(), || resume_unwind(panic));
                }
            }
        }
    }
}

fn with_context(context: &str, body: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        panic!("{context}: {}", message.unwrap_or_default());
    }
}

/// One to four changes, one after the other.
fn change(bytes: &[u8], others: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(9) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => {
                let end = at + random.below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            4 => {
                let end = at + random.below((bytes.len() - at).min(64) + 1);
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let other = &others[random.below(others.len())].1;
                let from = random.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            6 | 7 => {
                // Fields lie on multiples of four more often than not.
                let at = if random.below(2) == 0 { at / 4 * 4 } else { at };
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)];
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            _ => {
                let byte = u8::try_from(random.below(256)).unwrap();
                bytes.insert(at, byte);
            }
        }
    }
    bytes
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}
