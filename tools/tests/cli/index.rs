//! `stele read` with filters, `stele tail --follow`, `stele index`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::stele::{command, stele};

/// More than a sheet of the index.
const RECORDS: u64 = 9000;

/// A log with records of two streams, in sealed segments and an open one.
fn made() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("log");
    stele(
        &["init", "--log", path(&log), "--origin", "example.com/index", "--segment-height", "8", "--frame-align", "8"],
        "",
    )
    .output();
    let mut drafts = String::new();
    for number in 0..RECORDS {
        let (stream, ts) = (if number % 100 == 7 { "rare" } else { "app" }, 1_767_225_600_000 + number * 1000);
        drafts.push_str(&format!(
            "{{\"kind\":\"Line\",\"stream\":\"{stream}\",\"writer_id\":\"w{}\",\"ts_ms\":{ts},\"actor\":{{\"anon\":true}},\
             \"subject\":{{\"content_id\":\"b3:{number:x}\"}},\"reason\":\"ok\"}}\n",
            number % 3
        ));
    }
    let appended = stele(&["append", "--log", path(&log), "--jsonl", "-"], &drafts);
    assert_eq!(appended.code, Some(0), "{}", appended.errors);
    (place, log)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn read(log: &Path, filters: &[&str]) -> crate::stele::Ended {
    stele(&[&["read", "--log", path(log)], filters].concat(), "")
}

/// What reading everything gives, as seen by a condition on its lines.
fn lines(log: &Path, like: impl Fn(&str) -> bool) -> String {
    let all = read(log, &["0..1000000"]).output();
    all.lines().filter(|line| like(line)).map(|line| format!("{line}\n")).collect()
}

fn log_files(log: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for directory in ["", "segments", "state", "keys"] {
        for entry in std::fs::read_dir(log.join(directory)).into_iter().flatten() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(log).unwrap().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_file() && name != "lock" && name != "index.lock" {
                files.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

#[test]
fn filters_print_what_a_look_at_every_line_gives() {
    let (_place, log) = made();
    let rare = lines(&log, |line| line.contains("\"stream\":\"rare\""));
    assert_eq!(rare.lines().count() as u64, RECORDS / 100);
    assert_eq!(read(&log, &["--stream", "rare"]).output(), rare);
    stele(&["index", "update", "--log", path(&log)], "").output();
    assert_eq!(read(&log, &["--stream", "rare"]).output(), rare);
    let both = lines(&log, |line| line.contains("\"stream\":\"rare\"") && line.contains("\"writer_id\":\"w1\""));
    assert!(!both.is_empty());
    assert_eq!(read(&log, &["--stream", "rare", "--writer", "w1"]).output(), both);
    let in_time = lines(&log, |line| (10..20).any(|number| line.contains(&format!("\"ts_ms\":17672256{number}000,"))));
    assert_eq!(in_time.lines().count(), 10);
    let times = ["--since", "2026-01-01T00:00:10Z", "--until", "1767225620000"];
    assert_eq!(read(&log, &times).output(), in_time);
    let one = lines(&log, |line| line.contains("\"content_id\":\"b3:7d0\""));
    assert_eq!(one.lines().count(), 1);
    assert_eq!(read(&log, &["--hash", "b3:7d0"]).output(), one);
    let (_, hash) = one.split_once("\"self_hash\":\"").unwrap();
    assert_eq!(read(&log, &["--hash", &hash[..67]]).output(), one);
    read(&log, &["--hash", &hash[..67], "--stream", "rare"]).refused(6, &["no record"]);
    read(&log, &["--stream", "none"]).refused(6, &["no record"]);
    read(&log, &["3..3", "--stream", "app"]).refused(6, &["empty range"]);
    assert_eq!(read(&log, &["--hash", "b3:XY"]).code, Some(2));
    assert_eq!(read(&log, &["--since", "yesterday"]).code, Some(2));
    assert_eq!(read(&log, &["--stream", ""]).code, Some(2));
    assert_eq!(read(&log, &["--writer", ""]).code, Some(2));
    assert_eq!(read(&log, &[]).code, Some(2));
}

#[test]
fn the_status_tells_how_far_the_index_got() {
    let (_place, log) = made();
    let status = || {
        let text = stele(&["index", "status", "--log", path(&log), "--json"], "").output();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let number = |value: &serde_json::Value, key: &str| value[key].as_u64().unwrap();
    let before = status();
    assert_eq!((number(&before, "indexed"), number(&before, "not_yet_indexed")), (0, number(&before, "durable")));
    assert_eq!(number(&before, "hash_tables"), number(&before, "sealed_segments"));
    let files = log_files(&log);
    read(&log, &["--stream", "rare"]).output();
    assert_eq!(status(), before, "whoever reads feeds nothing");
    stele(&["index", "update", "--log", path(&log)], "").output();
    let after = status();
    assert_eq!(number(&after, "indexed"), 8192, "{after}");
    let said = stele(&["index", "rebuild", "--log", path(&log)], "").output();
    assert!(said.contains("records are indexed"), "{said}");
    assert_eq!(status(), after);
    assert_eq!(log_files(&log), files);
    stele(&["index", "status", "--log", "/nonexistent"], "").refused(6, &["no log"]);
}

#[test]
fn an_update_mends_a_hash_table_with_a_damaged_row_or_a_directory_in_its_place() {
    let (_place, log) = made();
    let files = log_files(&log);
    let tables: Vec<&String> = files.keys().filter(|name| name.ends_with(".hashes")).collect();
    let mut rotten = files[tables[1]].clone();
    let last = rotten.len() - 5;
    rotten[last] ^= 4;
    for command in ["update", "rebuild"] {
        for table in &tables[1..3] {
            std::fs::remove_file(log.join(table)).unwrap();
        }
        std::fs::File::create_new(log.join(tables[1])).unwrap().write_all(&rotten).unwrap();
        std::fs::create_dir(log.join(tables[2])).unwrap();
        assert_eq!(read(&log, &["--hash", "b3:1"]).output().lines().count(), 1);
        stele(&["index", "status", "--log", path(&log)], "").output();
        stele(&["index", command, "--log", path(&log)], "").output();
        assert_eq!(log_files(&log), files, "{command}");
    }
}

#[test]
fn whoever_is_slow_to_take_the_records_does_not_hold_the_index() {
    let (_place, log) = made();
    stele(&["index", "update", "--log", path(&log)], "").output();
    let app = lines(&log, |line| line.contains("\"stream\":\"app\""));
    let mut child = command(&["read", "--log", path(&log), "--stream", "app"]).spawn().unwrap();
    let mut printed = child.stdout.take().unwrap();
    let mut first = [0];
    std::io::Read::read_exact(&mut printed, &mut first).unwrap();
    // Far more is left than a pipe holds.
    assert!(app.len() > 1 << 20);
    stele(&["index", "update", "--log", path(&log)], "").output();
    assert!(child.try_wait().unwrap().is_none());
    let rest = std::io::read_to_string(printed).unwrap();
    assert_eq!((&app[..1], &app[1..]), (std::str::from_utf8(&first).unwrap(), &*rest));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_link_or_a_directory_in_the_place_of_the_index_or_its_lock_is_dealt_with_or_named() {
    let (_place, log) = made();
    let rare = lines(&log, |line| line.contains("\"stream\":\"rare\""));
    for (number, target) in ["nothing", "index"].into_iter().enumerate() {
        std::fs::remove_dir_all(log.join("index")).ok();
        std::os::unix::fs::symlink(target, log.join("index")).unwrap();
        let found = read(&log, &["--stream", "rare"]);
        assert_eq!((found.code, &found.output), (Some(0), &rare), "{}", found.errors);
        let update = stele(&["index", "update", "--log", path(&log)], "");
        assert_eq!(update.code, Some(0), "{}", update.errors);
        update.says(&["moved aside"]);
        assert!(log.join(format!("index.bad-{}", number + 1)).is_symlink());
        assert_eq!(read(&log, &["--stream", "rare"]).output(), rare);
    }
    std::fs::remove_file(log.join("index.lock")).unwrap();
    std::fs::create_dir(log.join("index.lock")).unwrap();
    stele(&["index", "update", "--log", path(&log)], "").refused(1, &["index.lock", "remove that"]);
    let found = read(&log, &["--stream", "rare"]);
    assert_eq!((found.code, &found.output), (Some(0), &rare));
    found.says(&["index.lock", "all records are read"]);
}

#[test]
fn an_index_whose_making_was_killed_answers_as_a_new_one() {
    let (_place, log) = made();
    let files = log_files(&log);
    let rare = lines(&log, |line| line.contains("\"stream\":\"rare\""));
    for round in 0..25u64 {
        let mut child = command(&["index", "rebuild", "--log", path(&log)]).stdout(Stdio::null()).spawn().unwrap();
        // Until its directory is there, and then for a while that differs.
        while !log.join("index/store/db").exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        for _ in 0..round * 40 {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let found = read(&log, &["--stream", "rare"]);
        assert_eq!((found.code, &found.output), (Some(0), &rare), "round {round}: {}", found.errors);
        assert_eq!(log_files(&log), files, "round {round}");
    }
}

#[test]
fn a_follower_prints_records_as_they_become_durable() {
    let (_place, log) = made();
    let mut tail = command(&["tail", "--log", path(&log), "-n", "1", "--follow", "--payload"]).spawn().unwrap();
    let mut printed = BufReader::new(tail.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        line
    };
    assert!(next().ends_with("}\n"));
    for round in 0..3 {
        let arguments =
            ["append", "--log", path(&log), "--lines", "--stream", "new", "--writer", "w", "--kind", "Line", "-"];
        stele(&arguments, format!("one {round}\ntwo {round}\n"));
        // Seal records come between.
        let mut payloads = Vec::new();
        while payloads.len() < 2 {
            let line = next();
            if line.contains("\"stream\":\"new\"") {
                payloads.push(line.split_once(",\"payload\":\"").unwrap().1[..8].to_owned());
            }
        }
        let expected = ["one", "two"].map(|word| STANDARD.encode(format!("{word} {round}")));
        assert_eq!(payloads, expected);
    }
    // It ends when nobody reads what it prints.
    drop(printed);
    let mut append =
        command(&["append", "--log", path(&log), "--lines", "--stream", "new", "--writer", "w", "--kind", "Line", "-"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
    append.stdin.take().unwrap().write_all(b"last\n").unwrap();
    assert!(append.wait().unwrap().success());
    assert_eq!(tail.wait().unwrap().code(), Some(0));
}
