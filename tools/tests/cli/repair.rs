//! `stele repair`: what rots, is lost or is swapped comes back from a copy, and nothing else is touched.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::stele::{Ended, command, stele};

const SEALED: &str = "segments/0000000000000001.seg";
const FIRST: &str = "segments/0000000000000000.seg";
const OPEN: &str = "segments/0000000000000002.seg";
const PAYLOADS: &str = "segments/0000000000000001.0.pay";
const TILES: &str = "segments/0000000000000001.tiles";

/// A log of two sealed segments and an open one in `log`.
struct Made {
    directory: TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self { directory: tempdir().unwrap() };
        let log = made.path("log");
        stele(&["init", "--log", &log, "--origin", "example.com/repair", "--segment-height", "8"], "").output();
        for round in 0..6 {
            made.append(&(0..100).map(|line| format!("line {round} {line}\n")).collect::<String>());
        }
        made
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("log").join(name)
    }

    fn append(&self, lines: &str) {
        let names = ["--stream", "app", "--writer", "host", "--kind", "Line", "--lines", "-"];
        stele(&[&["append", "--log", &self.path("log")][..], &names].concat(), lines).output();
    }

    /// A log of one segment.
    fn small() -> Self {
        let made = Self { directory: tempdir().unwrap() };
        stele(&["init", "--log", &made.path("log"), "--origin", "example.com/repair"], "").output();
        made
    }

    /// Appends through a pipe, and kills the writer when the ring tells that all of it is durable.
    fn append_and_kill(&self, open: &str) {
        let log = self.path("log");
        let names = ["--stream", "app", "--writer", "host", "--kind", "Line", "--json", "--lines", "-"];
        let mut child = command(&[&["append", "--log", &log][..], &names].concat()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut receipts = BufReader::new(child.stdout.take().unwrap()).lines();
        for round in 0..4 {
            for line in 0..10 {
                writeln!(input, "killed {round} {line}").unwrap();
            }
            input.flush().unwrap();
            assert_eq!(receipts.by_ref().take(10).map(Result::unwrap).count(), 10);
        }
        while !is_confirmed(&self.file(open)) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A log like this one.
    fn again(&self) -> Self {
        let other = Self { directory: tempdir().unwrap() };
        for name in ["log", "copy"] {
            assert!(Command::new("cp").args(["-rp", &self.path(name), &other.path(name)]).status().unwrap().success());
        }
        other
    }

    /// Nothing of the open file is restored, and that is said as long as it is so.
    #[track_caller]
    fn keeps_what_nobody_knows(&self, open: &str) {
        let before = fs::read(self.file(open)).ok();
        for _ in 0..2 {
            let ended = self.repair("copy");
            assert_eq!(ended.code, Some(3), "{}{}", ended.output, ended.errors);
            assert!(!ended.output.contains("ok:"), "{}", ended.output);
            for words in ["nothing tells where it ended", "go on with the copy in place of this directory"] {
                assert!(ended.errors.contains(words), "{}", ended.errors);
            }
            assert_eq!(fs::read(self.file(open)).ok(), before);
            let left: Vec<_> =
                bytes_of(Path::new(&self.path("log"))).into_keys().filter(|path| is_temporary(path)).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
    }

    fn copy_to(&self, name: &str) -> String {
        let copy = self.path(name);
        assert!(Command::new("cp").args(["-r", &self.path("log"), &copy]).status().unwrap().success());
        copy
    }

    fn records(&self) -> String {
        stele(&["read", "--log", &self.path("log"), "--payload", "--json", "0..9999"], "").output()
    }

    fn repair(&self, from: &str) -> Ended {
        stele(&["repair", "--log", &self.path("log"), "--from", &self.path(from)], "")
    }

    /// Repairs, and the log is as it was: the same records, no finding, and it takes more.
    #[track_caller]
    fn heals(&self, from: &str, records: &str, words: &[&str]) -> String {
        let found = stele(&["verify", "log", &self.path("log")], "");
        assert_eq!(found.code, Some(3), "{}", found.errors);
        let ended = self.repair(from);
        assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
        for word in words {
            assert!(ended.output.contains(word), "`{word}` is missing in {}", ended.output);
        }
        let verified = stele(&["verify", "log", &self.path("log")], "");
        assert_eq!(verified.code, Some(0), "{}", verified.errors);
        assert_eq!(self.records(), records);
        self.append("one more\n");
        assert!(self.records().starts_with(records));
        assert_eq!(stele(&["verify", "log", &self.path("log")], "").code, Some(0));
        ended.output
    }
}

/// Gives a file or directory another name.
#[expect(clippy::disallowed_methods, reason = "a test damages files behind the engine's back")]
fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> std::io::Result<()> {
    fs::rename(from, to)
}

/// Changes a file, whatever its mode.
fn change(path: &Path, act: impl FnOnce(&File)) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    act(&OpenOptions::new().read(true).write(true).open(path).unwrap());
    fs::set_permissions(path, mode).unwrap();
}

fn flip(path: &Path, at: u64) {
    change(path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0] ^= 4;
        file.write_all_at(&byte, at).unwrap();
    });
}

fn zero(path: &Path, at: u64, len: usize) {
    change(path, |file| file.write_all_at(&vec![0; len], at).unwrap());
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "tmp")
}

/// Whether the newest slot of the flush ring says that nothing is on its way.
fn is_confirmed(path: &Path) -> bool {
    let bytes = fs::read(path).unwrap();
    let number = |page: usize, at: usize| u64::from_le_bytes(bytes[page + at..page + at + 8].try_into().unwrap());
    let newest = [4096, 8192, 12_288].into_iter().max_by_key(|page| number(*page, 24)).unwrap();
    number(newest, 32) == number(newest, 40)
}

type Harm<'h> = (&'h str, &'h dyn Fn(&Path));

/// What takes the flush ring of an open file.
const LOST_RINGS: [Harm<'static>; 7] = [
    ("emptied", &|path| change(path, |file| file.set_len(0).unwrap())),
    ("cut off in its ring", &|path| change(path, |file| file.set_len(4096).unwrap())),
    ("cut off behind a slot", &|path| change(path, |file| file.set_len(12_288).unwrap())),
    ("its ring zeroed", &|path| zero(path, 4096, 12_288)),
    ("its ring and first frame zeroed", &|path| zero(path, 4096, 16_384)),
    ("its head overwritten", &|path| change(path, |file| file.write_all_at(&[0x5a; 20_480], 0).unwrap())),
    ("deleted", &|path| fs::remove_file(path).unwrap()),
];

/// Every file with its bytes and mode, the lock left out.
fn bytes_of(path: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(bytes_of(&entry.path()));
        } else if entry.file_name() != "lock" {
            let mode = entry.metadata().unwrap().permissions().mode();
            files.insert(entry.path(), (fs::read(entry.path()).unwrap(), mode));
        }
    }
    files
}

#[test]
fn rot_in_any_guarded_file_is_restored_from_a_copy_made_after() {
    let log = Made::new();
    log.copy_to("copy");
    let records = log.records();
    type Harm<'h> = &'h dyn Fn(&Made);
    let harms: [(&str, Harm<'_>, &[&str]); 14] = [
        (
            "a body",
            &|log| flip(&log.file(SEALED), 16_500),
            &["restored segments/0000000000000001.seg bytes 16384..", "its seal record", "quarantine/"],
        ),
        ("a header", &|log| flip(&log.file(SEALED), 16_390), &["its seal record"]),
        ("the file header", &|log| flip(&log.file(FIRST), 20), &["bytes 0..4096", "its seal record"]),
        ("a ring that is not zero", &|log| flip(&log.file(FIRST), 5_000), &["bytes 4096..8192"]),
        ("the first segment", &|log| fs::remove_file(log.file(FIRST)).unwrap(), &["its seal record"]),
        ("a sealed segment", &|log| fs::remove_file(log.file(SEALED)).unwrap(), &["its seal record"]),
        (
            "a payload",
            &|log| flip(&log.file(PAYLOADS), 4_130),
            &["restored segments/0000000000000001.0.pay bytes 4096.."],
        ),
        ("a payload file", &|log| fs::remove_file(log.file(PAYLOADS)).unwrap(), &["0.pay bytes 0..4096"]),
        (
            "a sealed file too long",
            &|log| {
                change(&log.file(SEALED), |file| {
                    file.write_all_at(&[1; 100], file.metadata().unwrap().len()).unwrap();
                })
            },
            &["its seal record"],
        ),
        ("a sidecar", &|log| flip(&log.file(TILES), 300), &["computed segments/0000000000000001.tiles anew"]),
        ("a copy of hard state", &|log| flip(&log.file("hard-state"), 30), &["restored hard-state", "good copy"]),
        ("a copy of signing state", &|log| zero(&log.file("signing-state"), 4096, 4096), &["restored signing-state"]),
        (
            "a page of the open segment",
            &|log| zero(&log.file(OPEN), 16_384, 4096),
            &["restored segments/0000000000000002.seg"],
        ),
        (
            "swapped segments",
            &|log| {
                rename(log.file(FIRST), log.file("other")).unwrap();
                rename(log.file(SEALED), log.file(FIRST)).unwrap();
                rename(log.file("other"), log.file(SEALED)).unwrap();
            },
            &["0000000000000000.seg", "0000000000000001.seg", "its seal record"],
        ),
    ];
    for (what, harm, words) in harms {
        println!("{what}");
        // Each on a log of its own: the copy is that of the log before.
        let other = Made { directory: tempdir().unwrap() };
        for (from, to) in [("log", "log"), ("copy", "copy")] {
            assert!(Command::new("cp").args(["-rp", &log.path(from), &other.path(to)]).status().unwrap().success());
        }
        harm(&other);
        let copy = bytes_of(Path::new(&other.path("copy")));
        other.heals("copy", &records, words);
        assert_eq!(bytes_of(Path::new(&other.path("copy"))), copy, "the copy is only read");
    }
}

#[test]
fn the_open_segment_comes_back_from_an_older_and_from_a_newer_copy() {
    for newer in [false, true] {
        let log = Made::new();
        log.append("first\n");
        if !newer {
            log.copy_to("copy");
        }
        log.append("second\n");
        let records = log.records();
        if newer {
            log.copy_to("before");
            log.append("third\n");
            log.copy_to("copy");
            fs::remove_dir_all(log.path("log")).unwrap();
            rename(log.path("before"), log.path("log")).unwrap();
        }
        // Its frames begin with the last of the hundred lines.
        flip(&log.file(OPEN), 16_500);
        stele(
            &["append", "--log", &log.path("log"), "--lines", "-", "--stream", "s", "--writer", "w", "--kind", "K"],
            "x\n",
        )
        .refused(3, &["has rotted"]);
        let output = log.heals("copy", &records, &["restored segments/0000000000000002.seg bytes 16384.."]);
        assert!(output.contains("links only"), "no checkpoint was signed: {output}");
    }
}

#[test]
fn the_lost_end_comes_back_where_the_log_was_closed_cleanly_and_the_copy_ends_there() {
    let log = Made::new();
    log.copy_to("copy");
    let records = log.records();
    fs::remove_file(log.file(OPEN)).unwrap();
    log.heals("copy", &records, &["restored segments/0000000000000002.seg bytes 0.."]);

    let log = Made::new();
    log.copy_to("copy");
    let records = log.records();
    fs::remove_dir_all(log.file("segments")).unwrap();
    log.heals("copy", &records, &["0000000000000000.seg", OPEN, "0000000000000002.0.pay"]);
}

#[test]
fn the_lost_end_is_not_taken_from_a_copy_that_may_have_gone_another_way() {
    let log = Made::new();
    log.copy_to("fork");
    log.append("ours\n");
    let fork = Made { directory: tempdir().unwrap() };
    rename(log.path("fork"), fork.path("log")).unwrap();
    fork.append("their\n");
    fork.append("thei2\n");
    fork.copy_to("copy");
    rename(fork.path("copy"), log.path("copy")).unwrap();
    // The last frame but the slot's, header and all.
    let end = fs::metadata(log.file(OPEN)).unwrap().len();
    zero(&log.file(OPEN), end - 4096, 4096);
    let before = bytes_of(&log.file("segments"));
    let ended = log.repair("copy");
    assert_eq!(ended.code, Some(3), "{}{}", ended.output, ended.errors);
    assert!(ended.errors.contains("another way"), "{}", ended.errors);
    assert_eq!(bytes_of(&log.file("segments")), before);
}

#[test]
fn a_signed_root_identifies_the_end() {
    let log = Made::new();
    stele(&["checkpoint", "--log", &log.path("log")], "").output();
    log.copy_to("copy");
    let records = log.records();
    // Another start and stop, so that the two do not end alike.
    log.append("");
    let end = fs::metadata(log.file(OPEN)).unwrap().len();
    zero(&log.file(OPEN), end - 4096, 4096);
    log.heals("copy", &records, &["held against its links and the signed root of"]);
}

#[test]
fn what_is_damaged_in_both_at_the_same_place_is_left_and_the_rest_is_restored() {
    let log = Made::new();
    log.copy_to("copy");
    for root in ["log", "copy"] {
        flip(&PathBuf::from(log.path(root)).join(SEALED), 16_500);
    }
    flip(&log.file(FIRST), 16_500);
    let before = bytes_of(Path::new(&log.path("log")));
    let ended = log.repair("copy");
    assert_eq!(ended.code, Some(3), "{}{}", ended.output, ended.errors);
    assert!(ended.output.contains("restored segments/0000000000000000.seg"), "{}", ended.output);
    assert!(ended.errors.contains("not restored: segments/0000000000000001.seg, byte 16384"), "{}", ended.errors);
    assert!(ended.errors.contains("in the copy, too"), "{}", ended.errors);
    let after = bytes_of(Path::new(&log.path("log")));
    assert_eq!(before[&log.file(SEALED)], after[&log.file(SEALED)]);
    assert!(after.keys().all(|path| path.extension().is_none_or(|ending| ending != "tmp")));
    for (path, old) in before.iter().filter(|(path, _)| **path != log.file(FIRST)) {
        assert_eq!(after.get(path), Some(old), "{}", path.display());
    }
}

#[test]
fn two_logs_damaged_in_different_places_make_one_good_one() {
    let log = Made::new();
    log.copy_to("copy");
    let records = log.records();
    let copy = PathBuf::from(log.path("copy"));
    let len = fs::metadata(log.file(SEALED)).unwrap().len();
    flip(&log.file(SEALED), 16_500);
    flip(&copy.join(SEALED), len - 5_000);
    flip(&copy.join(FIRST), 16_500);
    flip(&log.file(PAYLOADS), 4_130);
    zero(&copy.join(PAYLOADS), 4096 + 100, 20);
    log.heals("copy", &records, &[SEALED, PAYLOADS]);
}

#[test]
fn a_log_that_is_good_is_not_touched() {
    let log = Made::new();
    log.copy_to("copy");
    let before = bytes_of(Path::new(&log.path("log")));
    let output = log.repair("copy").output();
    assert!(output.starts_with("ok: nothing is damaged: 60"), "{output}");
    assert_eq!(bytes_of(Path::new(&log.path("log"))), before);
}

#[test]
fn another_log_the_log_itself_and_no_log_are_refused() {
    let (log, other) = (Made::new(), Made::new());
    flip(&log.file(SEALED), 16_500);
    let before = bytes_of(Path::new(&log.path("log")));
    let repair = |from: &str| stele(&["repair", "--log", &log.path("log"), "--from", from], "");
    repair(&other.path("log")).refused(1, &["another log", "nothing was changed"]);
    repair(&log.path("log")).refused(1, &["the log itself"]);
    repair(&log.path("log/../log")).refused(1, &["the log itself"]);
    repair(&log.path("none")).refused(6, &["there is no log in"]);
    assert_eq!(bytes_of(Path::new(&log.path("log"))), before);
    stele(&["repair", "--log", &log.path("none"), "--from", &log.path("log")], "").refused(6, &["there is no log in"]);
    assert!(!Path::new(&log.path("none")).exists());
}

#[test]
fn keys_policy_and_a_lost_newest_generation_are_never_taken_from_the_copy() {
    let log = Made::new();
    stele(&["checkpoint", "--log", &log.path("log")], "").output();
    log.copy_to("copy");
    for page in 0..4 {
        flip(&log.file("hard-state"), page * 4096 + 30);
        flip(&log.file("signing-state"), page * 4096 + 30);
    }
    change(&log.file("keys/log"), |file| file.write_all_at(b"x", 3).unwrap());
    let before = bytes_of(Path::new(&log.path("log")));
    let ended = log.repair("copy");
    assert_eq!(ended.code, Some(3));
    for words in ["hard-state", "older vote", "signing-state", "the last signature", "keys/log", "yourself"] {
        assert!(ended.errors.contains(words), "{words}: {}", ended.errors);
    }
    assert_eq!(bytes_of(Path::new(&log.path("log"))), before);
}

#[test]
fn the_checkpoint_is_taken_where_the_log_has_its_root() {
    let log = Made::new();
    stele(&["checkpoint", "--log", &log.path("log")], "").output();
    log.copy_to("copy");
    let records = log.records();
    let kept = fs::read(log.file("checkpoint")).unwrap();
    flip(&log.file("checkpoint"), 40);
    log.heals("copy", &records, &["restored checkpoint", "the log's root and its policy"]);
    assert_eq!(fs::read(log.file("checkpoint")).unwrap(), kept);
}

#[test]
fn what_was_replaced_is_in_quarantine_and_the_object_says_where() {
    let log = Made::new();
    log.copy_to("copy");
    flip(&log.file(SEALED), 16_500);
    let damaged = fs::read(log.file(SEALED)).unwrap();
    let ended = stele(&["repair", "--json", "--log", &log.path("log"), "--from", &log.path("copy")], "");
    let object: Value = serde_json::from_str(&ended.output()).unwrap();
    assert_eq!(object["ok"], true);
    let restored = &object["restored"][0];
    assert_eq!((&restored["file"], &restored["held_against"]), (&Value::from(SEALED), &Value::from("its seal record")));
    assert_eq!(restored["ranges"][0]["from"], 16_384);
    assert_eq!(fs::read(log.file(restored["quarantined"].as_str().unwrap())).unwrap(), damaged);
    assert_eq!(fs::read(log.file(SEALED)).unwrap(), fs::read(Path::new(&log.path("copy")).join(SEALED)).unwrap());
    assert_eq!(fs::metadata(log.file(SEALED)).unwrap().permissions().mode() & 0o777, 0o444);
}

#[test]
fn a_missing_directory_of_segments_is_damage_and_a_read_only_copy_is_none() {
    let log = Made::new();
    let copy = log.copy_to("copy");
    assert!(Command::new("chmod").args(["-R", "a-w", &copy]).status().unwrap().success());
    let verified = stele(&["verify", "log", &copy], "").output();
    assert!(verified.contains("in 3 segments, 2 sealed"), "{verified}");
    assert!(Command::new("chmod").args(["-R", "u+w", &copy]).status().unwrap().success());
    fs::remove_file(log.file(OPEN)).unwrap();
    let ended = stele(&["verify", "log", &log.path("log")], "");
    assert_eq!(ended.code, Some(3));
    assert!(ended.errors.contains(&format!("{OPEN}, byte 0: the file is missing")), "{}", ended.errors);
    fs::remove_dir_all(log.file("segments")).unwrap();
    let ended = stele(&["verify", "log", &log.path("log")], "");
    assert_eq!(ended.code, Some(3), "{}", ended.errors);
    assert!(ended.errors.contains("segments, byte 0: the directory is missing"), "{}", ended.errors);
}

#[test]
fn where_nothing_tells_where_a_killed_log_ended_its_last_file_is_left() {
    let log = Made::new();
    log.append_and_kill(OPEN);
    log.copy_to("copy");
    for (what, harm) in LOST_RINGS {
        println!("{what}");
        let other = log.again();
        harm(&other.file(OPEN));
        flip(&other.file(FIRST), 16_500);
        let sound = fs::read(log.file(FIRST)).unwrap();
        other.keeps_what_nobody_knows(OPEN);
        assert_eq!(fs::read(other.file(FIRST)).unwrap(), sound, "what is known is restored");
    }
}

#[test]
fn where_the_only_file_of_a_killed_log_is_lost_it_is_not_taken_for_no_log() {
    let log = Made::small();
    log.append_and_kill(FIRST);
    log.copy_to("copy");
    for (what, harm) in LOST_RINGS {
        println!("{what}");
        let other = log.again();
        harm(&other.file(FIRST));
        other.keeps_what_nobody_knows(FIRST);
    }
    fs::remove_dir_all(log.file("segments")).unwrap();
    log.keeps_what_nobody_knows(FIRST);
    assert!(!log.file("segments").exists());
}

/// Whatever pages are gone: what comes back is all that was acknowledged, or it is refused.
#[test]
fn no_repair_of_a_killed_log_succeeds_with_fewer_records() {
    let log = Made::small();
    log.append_and_kill(FIRST);
    log.copy_to("copy");
    let records = log.records();
    let pages = usize::try_from(fs::metadata(log.file(FIRST)).unwrap().len()).unwrap() / 4096;
    let mut restored = 0;
    for from in 0..6 {
        for to in [from + 1, from + 2, 5, pages] {
            if to <= from {
                continue;
            }
            let other = log.again();
            zero(&other.file(FIRST), from as u64 * 4096, (to - from) * 4096);
            let ended = other.repair("copy");
            if ended.code == Some(0) {
                assert_eq!(other.records(), records, "pages {from}..{to}: {}{}", ended.output, ended.errors);
                restored += 1;
            } else {
                assert_eq!(ended.code, Some(3), "pages {from}..{to}: {}{}", ended.output, ended.errors);
                assert!(ended.errors.contains("in place of this directory"), "pages {from}..{to}: {}", ended.errors);
            }
        }
    }
    assert!(restored >= 6, "{restored}");
}

#[test]
fn what_is_told_of_evidence_is_true() {
    let log = Made::new();
    stele(&["checkpoint", "--log", &log.path("log")], "").output();
    log.append("more\n");
    log.copy_to("copy");
    flip(&log.file(OPEN), 20);
    let output = log.repair("copy").output();
    assert!(output.contains("computed segments/0000000000000002.seg bytes 0..4096 anew from the settings"), "{output}");
    assert!(!output.contains("signed root"), "{output}");
    flip(&log.file(SEALED), 16_500);
    let output = log.repair("copy").output();
    // Half-open, as `stele read` has it.
    assert!(output.contains("(records 256..3"), "{output}");
}

#[test]
fn files_that_the_engine_does_not_name_are_not_removed() {
    let log = Made::new();
    log.copy_to("copy");
    flip(&log.file(SEALED), 16_500);
    fs::create_dir(log.file("quarantine")).unwrap();
    let mine = ["backup.tmp", "segments/mine.tmp", "quarantine/mine.tmp", "quarantine/mine.0.tmp", "keys/old.tmp"];
    let ours = ["hard-state.tmp", "segments/0000000000000001.seg.tmp", "quarantine/0000000000000001.seg.0.tmp"];
    for name in mine.iter().chain(&ours) {
        crate::stele::write(&log.file(name), "x");
    }
    assert_eq!(log.repair("copy").code, Some(0));
    log.append("one more\n");
    assert!(mine.iter().all(|name| fs::read(log.file(name)).unwrap() == b"x"));
    assert!(ours.iter().all(|name| !log.file(name).exists()));
}

#[test]
fn keys_and_policy_that_are_missing_are_told() {
    let log = Made::new();
    log.copy_to("copy");
    for name in ["policy", "keys/log"] {
        fs::remove_file(log.file(name)).unwrap();
    }
    let ended = log.repair("copy");
    assert!(!ended.output.contains("nothing is damaged"), "{}", ended.output);
    for name in ["policy", "keys/log"] {
        let words = format!("{name} is missing, and is never taken from a copy: copy it from the backup yourself");
        assert!(ended.errors.contains(&words), "{}", ended.errors);
    }
}

#[test]
fn a_copy_that_is_none_or_cannot_be_read_is_told_as_the_copy() {
    let log = Made::new();
    log.copy_to("copy");
    flip(&log.file(SEALED), 16_500);
    let ended = log.repair("none");
    assert!(!ended.errors.contains("init"), "{}", ended.errors);
    ended.refused(6, &["there is no log in", "given as the copy"]);
    // A directory cannot be read as a file, whoever asks.
    let theirs = PathBuf::from(log.path("copy")).join(SEALED);
    fs::remove_file(&theirs).unwrap();
    fs::create_dir(&theirs).unwrap();
    let ended = log.repair("copy");
    assert_eq!(ended.code, Some(1), "{}{}", ended.output, ended.errors);
    assert!(ended.errors.contains("the copy cannot be read"), "{}", ended.errors);
    let left: Vec<_> = bytes_of(Path::new(&log.path("log"))).into_keys().filter(|path| is_temporary(path)).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "what was built is removed");
}

#[test]
fn a_directory_in_the_place_of_a_segment_is_moved_away_and_all_is_restored() {
    let log = Made::new();
    log.copy_to("copy");
    let records = log.records();
    fs::remove_file(log.file(SEALED)).unwrap();
    fs::create_dir(log.file(SEALED)).unwrap();
    fs::create_dir(log.file(SEALED).join("inside")).unwrap();
    flip(&log.file(FIRST), 16_500);
    crate::stele::write(&log.file("quarantine"), "x");
    log.repair("copy").refused(1, &["quarantine", "must be a directory", "nothing was changed"]);
    fs::remove_file(log.file("quarantine")).unwrap();
    let ended = log.repair("copy");
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    assert!(ended.output.contains("quarantine/0000000000000001.seg.0"), "{}", ended.output);
    assert!(log.file("quarantine/0000000000000001.seg.0/inside").exists());
    flip(&log.file(SEALED), 16_500);
    assert!(log.repair("copy").output().contains("quarantine/0000000000000001.seg.1"));
    assert_eq!(log.records(), records);
}
