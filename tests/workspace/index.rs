//! The index of a log under the real `stele`: what only reads changes nothing, an index that another process
//! has open is left alone, what was not looked at is said, and kill -9 of whoever feeds it changes no answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use stele_engine::environment::Environment;
use stele_engine::index::{Index, SHEET_LEAVES};

use crate::process::{append, ended, init, lines, on_log, on_log_command};

const OF_STREAM: [&str; 3] = ["read", "--stream", "s"];
/// Enough for two sheets.
const LINES: usize = 17_000;
const KILLS: u32 = 25;

/// Names and content of everything there.
fn everything(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                files.insert(format!("{name}/"), Vec::new());
                left.push(path);
            } else {
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

fn of_the_log(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = everything(directory);
    files.retain(|name, _| !name.starts_with("index"));
    files
}

/// A log of this many lines of one stream.
fn made(place: &Path, count: usize) -> std::path::PathBuf {
    let log = place.join("log");
    init(&log).output();
    append(&log, &lines("made", count));
    log
}

#[test]
fn what_only_reads_makes_and_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let log = made(place.path(), 300);
    let before = everything(&log);
    assert_eq!(on_log(&OF_STREAM, &log).errors, "");
    let read = on_log(&[&OF_STREAM[..], &["--unindexed", "100"]].concat(), &log);
    assert_eq!(read.output.lines().count(), 300);
    assert!(read.errors.contains("the log has no index") && read.errors.contains("index update"), "{}", read.errors);
    assert!(on_log(&["index", "status"], &log).output().starts_with("0 of "));
    on_log(&["tail"], &log).output();
    assert_eq!(everything(&log), before);
    // One that cannot be used is left as it is, too.
    std::fs::create_dir(log.join("index")).unwrap();
    std::fs::File::create_new(log.join("index/mark")).unwrap();
    let before = everything(&log);
    let read = on_log(&OF_STREAM, &log);
    assert_eq!(read.output.lines().count(), 300);
    assert!(read.errors.contains("damaged"), "{}", read.errors);
    assert!(on_log(&["index", "status"], &log).errors.contains("damaged"));
    assert_eq!(everything(&log), before);
    on_log(&["index", "update"], &log).output();
    assert!(log.join("index.bad-1").exists());
    assert_eq!(on_log(&OF_STREAM, &log).errors, "");
}

#[test]
fn an_index_that_another_process_has_open_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let log = made(place.path(), 9000);
    on_log(&["index", "update"], &log).output();
    let mut held = Index::open(&Environment::system(), &log).unwrap();
    let before = everything(&log);
    let read = on_log(&OF_STREAM, &log);
    assert!(read.errors.contains("in use by process") && read.errors.contains("all records are read"), "{read:?}");
    assert_eq!(read.output().lines().count(), 9000);
    on_log(&["index", "update"], &log).refused(7, &["in use by process"]);
    on_log(&["index", "rebuild"], &log).refused(7, &["in use by process"]);
    let status: serde_json::Value =
        serde_json::from_str(&on_log(&["index", "status", "--json"], &log).output()).unwrap();
    assert_eq!((status["in_use"].as_bool(), status["indexed"].as_u64()), (Some(true), Some(SHEET_LEAVES)));
    assert_eq!(everything(&log), before);
    held.check(&mut stele_engine::index::quiet).unwrap();
    assert_eq!(held.moved_aside(), None);
}

#[test]
fn what_was_not_looked_at_is_said() {
    let place = tempfile::tempdir().unwrap();
    let log = made(place.path(), 9000);
    on_log(&["index", "update"], &log).output();
    let bounded = [&OF_STREAM[..], &["--json", "--unindexed", "100"]].concat();
    let read = on_log(&bounded, &log);
    let words = ["not yet indexed: records 8192..", "index update", "--scan"];
    read.failed(4, &words);
    let status: serde_json::Value =
        serde_json::from_str(&on_log(&["index", "status", "--json"], &log).output()).unwrap();
    let size = status["durable"].as_u64().unwrap();
    let last = read.output.lines().last().unwrap();
    assert_eq!(last, format!(r#"{{"not_yet_indexed":{{"end":{size},"first":8192}}}}"#));
    let scanned = on_log(&[&OF_STREAM[..], &["--json", "--scan"]].concat(), &log).output();
    let among = read.output.lines().count() - 1;
    assert!(among < 9000 && scanned.lines().take(among).eq(read.output.lines().take(among)));
    assert_eq!(scanned.lines().count(), 9000);
    // What is asked for lies before, or is little enough.
    on_log(&[&bounded[..], &["0..8192"]].concat(), &log).output();
    on_log(&[&bounded[..], &["0..8292"]].concat(), &log).output();
    on_log(&[&bounded[..], &["0..8293"]].concat(), &log).failed(4, &["8192..8293"]);
}

#[test]
fn kills_of_whoever_feeds_the_index_change_no_answer_and_no_log() {
    let place = tempfile::tempdir().unwrap();
    let log = made(place.path(), LINES);
    let before = of_the_log(&log);
    let scanned = on_log(&["read", "--stream", "s", "--scan"], &log).output();
    let step = Duration::from_millis(3);
    let mut partial = 0;
    for kill in 0..KILLS {
        let command = ["update", "rebuild"][usize::from(kill % 4 == 0)];
        let mut child = on_log_command(&["index", command], &log).spawn().unwrap();
        std::thread::park_timeout(step * kill.min(12) + Duration::from_micros(u64::from(kill) * 317));
        child.kill().unwrap();
        ended(child);
        let status = on_log(&["index", "status"], &log).output();
        partial += u32::from(!status.starts_with(&format!("{} of", 2 * SHEET_LEAVES)));
        let read = on_log(&OF_STREAM, &log);
        assert!(read.output == scanned, "kill {kill}: {status} {}", read.errors);
        if kill % 5 == 4 {
            on_log(&["index", "update"], &log).output();
            let read = on_log(&OF_STREAM, &log);
            assert!(read.errors.is_empty() && read.output == scanned, "kill {kill}: {}", read.errors);
        }
    }
    println!("{partial} of {KILLS} kills left less than the whole index");
    on_log(&["index", "update"], &log).output();
    let updated = std::fs::read(log.join("index/mark")).unwrap();
    on_log(&["index", "rebuild"], &log).output();
    assert_eq!(std::fs::read(log.join("index/mark")).unwrap(), updated);
    assert_eq!(of_the_log(&log), before);
}
