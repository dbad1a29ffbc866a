//! `stele init|append|read|tail|checkpoint|prove|consistency|segment` on a log in a directory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;
use stele_proof::checkpoint::Checkpoint;
use stele_proof::note::Note;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::Record;
use stele_proof::tree::{Hash, leaf_hash, verify_consistency};
use stele_proof::{LeafIndex, TreeSize};
use tempfile::{TempDir, tempdir};

use crate::stele::{Ended, command, stele, write};

/// A new log of small blocks, and its path.
fn new_log() -> (TempDir, String) {
    let directory = tempdir().unwrap();
    let path = directory.path().join("log").to_str().unwrap().to_owned();
    let printed = stele(&["init", "--log", &path, "--origin", "example.com/cli", "--segment-height", "8"], "").output();
    assert!(printed.contains("made the log example.com/cli") && printed.contains("log key: "), "{printed}");
    (directory, path)
}

const NAMES: [&str; 6] = ["--stream", "app", "--writer", "host", "--kind", "Line"];

fn append(log: &str, more: &[&str], input: impl AsRef<[u8]>) -> Ended {
    stele(&[&["append", "--log", log][..], more, &["-"]].concat(), input)
}

fn lines(log: &str, input: impl AsRef<[u8]>) -> Vec<Value> {
    objects(&append(log, &[&NAMES[..], &["--lines", "--json"]].concat(), input).output())
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn read(log: &str, range: &str, more: &[&str]) -> Ended {
    stele(&[&["read", "--log", log, range][..], more].concat(), "")
}

fn payloads(log: &str, range: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let records = objects(&read(log, range, &["--payload", "--json"]).output());
    let decode = |text: &Value| base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
    records.iter().map(|record| decode(&record["payload"])).collect()
}

fn indexes(objects: &[Value]) -> Vec<u64> {
    objects.iter().map(|object| object["index"].as_u64().unwrap()).collect()
}

/// How many records a log shows.
fn size(log: &str) -> u64 {
    objects(&stele(&["tail", "--log", log, "-n", "1", "--json"], "").output())[0]["index"].as_u64().unwrap() + 1
}

fn first_segment(log: &str) -> PathBuf {
    Path::new(log).join("segments/0000000000000000.seg")
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_line_is_the_bytes_up_to_the_line_feed() {
    let (_directory, log) = new_log();
    let receipts = lines(&log, b"one\n\ntwo\r\n\xff\x00\nlast");
    assert_eq!(indexes(&receipts), [1, 2, 3, 4, 5], "leaf 0 is genesis");
    assert_eq!(payloads(&log, "1..6"), [&b"one"[..], b"", b"two\r", b"\xff\x00", b"last"]);
    assert_eq!(lines(&log, "").len(), 0);
    assert_eq!(indexes(&lines(&log, "\n")), [6]);
    let records = read(&log, "1..7", &[]).output();
    for (line, seq) in records.lines().zip(1..) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["seq"], &record["reason"]), (&Value::from(seq), &Value::from("ok")), "one chain");
        assert_eq!(record["actor"], serde_json::json!({"anon": true}));
        assert_eq!(record["subject"], serde_json::json!({}));
    }
    for (receipt, line) in receipts.iter().zip(records.lines()) {
        assert!(line.ends_with(&format!(",\"self_hash\":{}}}", receipt["self_hash"])), "{line}");
    }
    let said = append(&log, &NAMES, "a\nb\n").output();
    assert_eq!(said, "appended 2 records, the last at index 8\n");
    assert_eq!(append(&log, &NAMES, "").output(), "nothing to append\n");
}

#[test]
fn a_line_over_the_bound_ends_the_command_and_what_came_before_stays() {
    let (_directory, log) = new_log();
    let long = vec![b'x'; (1 << 20) + 1];
    let fits = &long[1..];
    let ended = append(&log, &[&NAMES[..], &["--json"]].concat(), [b"a\n", fits, b"\n", &long, b"\nb\n"].concat());
    assert_eq!((ended.code, indexes(&objects(&ended.output))), (Some(3), vec![1, 2]));
    ended.says(&["line 3", "longer than 1048576 bytes"]);
    // The same without a line feed, and where the excess is in the next chunk.
    let ended = append(&log, &[&NAMES[..], &["--json"]].concat(), [b"c\n", &long[..]].concat());
    assert_eq!((ended.code, indexes(&objects(&ended.output))), (Some(3), vec![3]));
    ended.says(&["line 2", "longer than 1048576 bytes"]);
    assert_eq!(size(&log), 4);
    assert_eq!(payloads(&log, "2"), [fits]);
}

#[test]
fn drafts_are_finished_by_the_log_and_flags_fill_what_they_leave_out() {
    let (_directory, log) = new_log();
    let drafts = concat!(
        r#"{"kind":"Login"}"#,
        "\n",
        r#"{"kind":"Login","stream":"other","writer_id":"me","ts_ms":5,"reason":"why","actor":{"key_fpr":"k"},"#,
        r#""subject":{"name":"n"},"attrs":{"b":1,"a":[true,null]},"payload":"aGk="}"#,
    );
    let receipts = append(&log, &["--jsonl", "--json", "--stream", "app", "--writer", "w"], drafts);
    // The second line contradicts the flags.
    assert_eq!((receipts.code, indexes(&objects(&receipts.output))), (Some(3), vec![1]));
    receipts.says(&["line 2", "`stream`", "other", "app"]);
    let draft = drafts.lines().nth(1).unwrap();
    append(&log, &["--jsonl"], draft).output();
    let found: Value = serde_json::from_str(&read(&log, "2", &["--payload"]).output()).unwrap();
    assert_eq!(found["attrs"]["a"], serde_json::json!([true, null]));
    assert_eq!((&found["payload"], &found["ts_ms"], &found["seq"]), (&"aGk=".into(), &5.into(), &1.into()));
    for (line, words) in [
        (r#"{"kind":"K","stream":"s"}"#, &["`writer_id`", "missing"][..]),
        (r#"{"stream":"s","writer_id":"w"}"#, &["`kind`", "missing"]),
        (r#"{"kind":"K","stream":"s","writer_id":"w","seq":4}"#, &["`seq`", "made here"]),
        (r#"{"kind":"K","stream":"s","writer_id":"w","salt":"AA=="}"#, &["`salt`"]),
        (r#"{"kind":"K","stream":"s","writer_id":"w","more":1}"#, &["`more`", "unknown"]),
        (r#"{"kind":"K","stream":"s","writer_id":"w","payload":"?"}"#, &["`payload`", "base64"]),
        (r#"{"kind":"4K","stream":"s","writer_id":"w"}"#, &["kind"]),
        (r#"{"kind":"K","stream":"s","writer_id":"w","attrs":{"a":1.5}}"#, &["decimal integer"]),
        ("", &[]),
        ("[]", &[]),
    ] {
        let ended = append(&log, &["--jsonl"], format!("{line}\n"));
        assert_eq!(ended.code, Some(3), "{line}: {}", ended.errors);
        ended.says(words);
        ended.says(&["line 1"]);
    }
    assert_eq!(size(&log), 3);
}

#[test]
fn what_read_prints_can_be_appended_again_and_is_known() {
    let (_directory, log) = new_log();
    let receipts = lines(&log, (0..300).map(|number| format!("line {number}\n")).collect::<String>());
    let client: Vec<u64> = indexes(&receipts);
    let printed = read(&log, "0..1000", &["--payload"]).output();
    let mine: String =
        printed.lines().filter(|line| line.contains("\"stream\":\"app\"")).map(|line| format!("{line}\n")).collect();
    let before = size(&log);
    let again = objects(&append(&log, &["--jsonl", "--json"], &mine).output());
    assert_eq!(indexes(&again), client);
    assert_eq!(again, receipts);
    assert_eq!(size(&log), before, "nothing was appended");

    // In another log they are the same records in another place.
    let (_other_directory, other) = new_log();
    let moved = objects(&append(&other, &["--jsonl", "--json"], &mine).output());
    let hashes = |receipts: &[Value]| receipts.iter().map(|receipt| receipt["self_hash"].clone()).collect::<Vec<_>>();
    assert_eq!(hashes(&moved), hashes(&receipts));
    assert_eq!(payloads(&other, "1..3"), payloads(&log, "1..3"));
}

#[test]
fn a_finished_record_that_does_not_fit_is_refused_by_name() {
    let (_directory, log) = new_log();
    let draft = r#"{"kind":"K","stream":"s","writer_id":"w"}"#;
    append(&log, &["--jsonl"], format!("{draft}\n{draft}\n{draft}\n")).output();
    let printed = read(&log, "1..4", &[]).output();
    let finished: Vec<&str> = printed.lines().collect();
    let finish = |line: &str, change: &dyn Fn(&str) -> String| {
        let end = line.rfind(",\"self_hash\"").unwrap();
        let canonical = change(&format!("{}}}", &line[..end]));
        let mut out = Vec::new();
        let record = Record::parse(canonical.as_bytes()).unwrap();
        record.write_finished(&record.self_hash(), &mut out);
        String::from_utf8(out).unwrap()
    };
    let other = finish(finished[1], &|record| record.replace("\"reason\":\"ok\"", "\"reason\":\"changed\""));
    let gap = finish(finished[2], &|record| record.replace("\"seq\":3", "\"seq\":9"));
    let unlinked = {
        let hash = finished[2].rsplit("b3:").next().unwrap().trim_end_matches("\"}");
        let prev = finished[2].split("\"prev\":\"b3:").nth(1).unwrap()[..64].to_owned();
        assert_ne!(prev, hash);
        finish(finished[2], &|record| record.replace("\"seq\":3", "\"seq\":4"))
    };
    let last = if finished[2].ends_with("0\"}") { '1' } else { '0' };
    let wrong_hash = format!("{}{last}\"}}", &finished[2][..finished[2].len() - 3]);
    let reordered = finished[0].replace("{\"v\":1,", "{").replace(",\"self_hash\"", ",\"v\":1,\"self_hash\"");
    let more = format!("{},\"extra\":1}}", finished[0].strip_suffix('}').unwrap());
    let payload = format!("{},\"payload\":\"aGk=\"}}", finished[0].strip_suffix('}').unwrap());
    for (line, words) in [
        (&other, &["line 2", "Tamper: record 2"][..]),
        (&gap, &["line 2", "SeqGap", "seq 9", "next is 4"]),
        (&unlinked, &["line 2", "LinkMismatch"]),
        (&wrong_hash, &["line 2", "HashMismatch", "self_hash"]),
        (&reordered, &["line 2"]),
        (&more, &["line 2", "extra"]),
        (&payload, &["line 2", "`payload` and `salt`"]),
    ] {
        let ended = append(&log, &["--jsonl", "--json"], format!("{}\n{line}\n{}\n", finished[0], finished[2]));
        assert_eq!((ended.code, ended.output.lines().count()), (Some(3), 1), "{line}: {}", ended.errors);
        ended.says(words);
    }
    assert_eq!(size(&log), 4);
}

#[test]
fn the_logs_own_names_are_refused_and_what_came_before_stays() {
    let (_directory, log) = new_log();
    let own = "{\"kind\":\"K\",\"stream\":\"a\",\"writer_id\":\"w\"}\n{\"kind\":\"K\",\"stream\":\"stele/log\",\"writer_id\":\"w\"}";
    let ended = append(&log, &["--jsonl", "--json"], own);
    assert_eq!((ended.code, indexes(&objects(&ended.output))), (Some(5), vec![1]));
    ended.says(&["line 2", "Reserved", "stele/"]);
    for names in [["stele/x", "w"], ["s", "stele/log"]] {
        let arguments = ["--stream", names[0], "--writer", names[1], "--kind", "K"];
        append(&log, &arguments, "a\n").refused(5, &["line 1", "Reserved"]);
    }
    assert_eq!(size(&log), 2);
}

#[test]
fn ranges_are_clipped_and_what_is_not_there_is_not_found() {
    let (_directory, log) = new_log();
    lines(&log, "a\nb\nc\n");
    assert_eq!(read(&log, "2..100", &[]).output().lines().count(), 2);
    assert_eq!(read(&log, "0..4", &[]).output().lines().count(), 4);
    assert_eq!(objects(&stele(&["tail", "--log", &log, "-n", "2", "--json"], "").output())[0]["index"], 2);
    assert_eq!(stele(&["tail", "--log", &log, "-n", "100"], "").output().lines().count(), 4);
    assert_eq!(stele(&["tail", "--log", &log, "-n", "0"], "").output(), "");
    read(&log, "4", &[]).refused(6, &["no record 4", "holds 4"]);
    read(&log, "4..9", &[]).refused(6, &["no record 4"]);
    read(&log, "2..2", &[]).refused(6, &["empty range"]);
    read(&log, "3..2", &[]).refused(6, &["empty range"]);
    assert_eq!(read(&log, "x", &[]).code, Some(2));
    stele(&["prove", "--log", &log, "4", "-o", "-"], "").refused(6, &["no record 4"]);
    stele(&["consistency", "--log", &log, "1", "5"], "").refused(6, &["holds 4"]);
    stele(&["consistency", "--log", &log, "0", "4"], "").refused(2, &["OLD"]);
    stele(&["segment", "inspect", "--log", &log, "7"], "").refused(6, &["no segment 7"]);
}

#[test]
fn where_there_is_no_log_every_command_says_how_to_make_one() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("nothing").to_str().unwrap().to_owned();
    let empty = directory.path().to_str().unwrap();
    for log in [&path[..], empty] {
        for command in [
            &["read", "--log", log, "0"][..],
            &["tail", "--log", log],
            &["checkpoint", "--log", log],
            &["prove", "--log", log, "0", "-o", "-"],
            &["consistency", "--log", log, "1", "1"],
            &["segment", "list", "--log", log],
            &["segment", "seal", "--log", log],
        ] {
            stele(command, "").refused(6, &["there is no log in", log, "stele init"]);
        }
        append(log, &NAMES, "a\n").refused(6, &["there is no log in", log, "stele init"]);
    }
    assert!(!Path::new(&path).exists() && fs::read_dir(empty).unwrap().next().is_none(), "nothing was made");
    let (_directory, log) = new_log();
    stele(&["init", "--log", &log, "--origin", "o"], "").refused(1, &["is not empty"]);
    fs::remove_file(first_segment(&log)).unwrap();
    read(&log, "0", &[]).refused(3, &["segments/0000000000000000.seg", "missing", "restore"]);
}

/// `stele append` with open pipes, which has the log open once it has acknowledged a first line.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(log: &str) -> Self {
        let arguments = [&["append", "--log", log, "--json"][..], &NAMES, &["-"]].concat();
        let mut child = command(&arguments).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, output };
        running.send("first\n");
        running.receipt().unwrap();
        running
    }

    fn send(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn receipt(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        // A line that was cut off by a kill was not received.
        line.ends_with('\n').then(|| serde_json::from_str(&line).unwrap())
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn a_log_in_use_is_busy_and_can_be_read() {
    let (_directory, log) = new_log();
    let running = Running::start(&log);
    let process = running.child.id().to_string();
    append(&log, &NAMES, "a\n").refused(7, &["in use by process", &process]);
    stele(&["segment", "seal", "--log", &log], "").refused(7, &["in use"]);
    assert!(read(&log, "0", &[]).output().contains("Genesis"));
    running.end();
    append(&log, &NAMES, "a\n").output();
}

/// I-READ: beside a writer only durable records are shown, none that is missing later, and no error.
#[test]
fn reading_beside_a_writer_shows_a_growing_prefix() {
    let (_directory, log) = new_log();
    let mut running = Running::start(&log);
    let mut before = Vec::new();
    for round in 0..12 {
        running.send(&(0..100).map(|number| format!("{round} {number}\n")).collect::<String>());
        let ended = read(&log, "0..100000", &["--json"]);
        let shown: Vec<String> = ended.output().lines().map(str::to_owned).collect();
        assert!(shown.starts_with(&before), "round {round}: {} and before {}", shown.len(), before.len());
        before = shown;
        for _ in 0..100 {
            running.receipt().unwrap();
        }
    }
    running.end();
    let shown: Vec<String> = read(&log, "0..100000", &["--json"]).output().lines().map(str::to_owned).collect();
    assert!(shown.starts_with(&before));
    assert_eq!(shown.len() as u64, size(&log));
    assert!(shown.len() > 1201);
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there() {
    let (_directory, log) = new_log();
    let mut acknowledged: Vec<(u64, Value)> = Vec::new();
    for round in 0..5_u32 {
        let mut running = Running::start(&log);
        let mut input = running.child.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            // Until it is killed, or has more than it can have answered.
            for number in 0..3000 {
                if input.write_all(format!("{round} {number}\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        for _ in 0..100 * (round + 1) {
            let receipt = running.receipt().unwrap();
            acknowledged.push((receipt["index"].as_u64().unwrap(), receipt["self_hash"].clone()));
        }
        running.child.kill().unwrap();
        // What it had printed before it died was acknowledged, too.
        while let Some(receipt) = running.receipt() {
            acknowledged.push((receipt["index"].as_u64().unwrap(), receipt["self_hash"].clone()));
        }
        running.child.wait().unwrap();
        feeding.join().unwrap();
        let ended = read(&log, "0..1000000", &["--json"]);
        assert_eq!(ended.code, Some(0), "{}", ended.errors);
        let shown = objects(&ended.output);
        for (index, self_hash) in &acknowledged {
            let record = &shown[usize::try_from(*index).unwrap()];
            assert_eq!((&record["index"], &record["self_hash"]), (&Value::from(*index), self_hash), "round {round}");
        }
    }
    append(&log, &NAMES, "after\n").code.map(|code| assert_eq!(code, 0)).unwrap();
    stele(&["checkpoint", "--log", &log], "").output();
}

#[test]
fn proofs_hold_without_the_log() {
    let (_directory, log) = new_log();
    lines(&log, (0..600).map(|number| format!("{number}\n")).collect::<String>());
    let note = stele(&["checkpoint", "--log", &log], "").output();
    assert_eq!(fs::read_to_string(Path::new(&log).join("checkpoint")).unwrap(), note);
    assert_eq!(stele(&["checkpoint", "--log", &log], "").output(), note, "nothing new, nothing signed");
    let checkpoint = Checkpoint::parse(Note::parse(note.as_bytes()).unwrap().text()).unwrap();
    assert_eq!(checkpoint.size.get(), size(&log));
    let policy = Policy::parse(&fs::read(Path::new(&log).join("policy")).unwrap()).unwrap();
    let printed = read(&log, "0..1000", &[]).output();
    let leaves: Vec<Hash> = printed
        .lines()
        .map(|line| {
            let end = line.rfind(",\"self_hash\"").unwrap();
            leaf_hash(format!("{}}}", &line[..end]).as_bytes())
        })
        .collect();
    for index in [0, 1, 255, 256, 300, 511, 512, 600] {
        let file = Path::new(&log).parent().unwrap().join(format!("{index}.tlog-proof"));
        let text = stele(&["prove", "--log", &log, &index.to_string(), "-o", "-"], "").output();
        stele(&["prove", "--log", &log, &index.to_string(), "-o", file.to_str().unwrap()], "").output();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let proof = ProofFile::parse(text.as_bytes()).unwrap();
        assert_eq!((proof.index(), proof.checkpoint()), (LeafIndex::new(index), &note[..]));
        proof.verify(&leaves[usize::try_from(index).unwrap()], &policy).unwrap();
    }
    let root = |size: u64| {
        let mut tree = stele_proof::tree::CompactRange::new();
        leaves[..usize::try_from(size).unwrap()].iter().for_each(|leaf| tree.append(*leaf));
        tree.root()
    };
    for (old, new) in [(1, 1), (1, 600), (256, 512), (300, 603), (603, 603)] {
        let printed = stele(&["consistency", "--log", &log, &old.to_string(), &new.to_string()], "").output();
        let hashes: Vec<Hash> = printed.lines().map(|line| Hash::from_base64(line).unwrap()).collect();
        verify_consistency(TreeSize::new(old), &root(old), TreeSize::new(new), &root(new), &hashes).unwrap();
    }
}

/// A checkpoint file that is not about this log's records must not get into a proof.
#[test]
fn a_proof_is_never_made_under_a_checkpoint_that_it_does_not_fit() {
    let (_directory, log) = new_log();
    let (_other_directory, other) = new_log();
    lines(&log, "a\nb\n");
    lines(&other, "c\nd\n");
    let foreign = stele(&["checkpoint", "--log", &other], "").output();
    write(&Path::new(&log).join("checkpoint"), foreign);
    stele(&["prove", "--log", &log, "1", "-o", "-"], "").refused(3, &["checkpoint", "root"]);
}

/// Two logs of one origin have keys of the same name.
#[test]
fn another_logs_key_of_the_same_name_signs_nothing() {
    for name in ["log", "cosigner"] {
        let (_directory, log) = new_log();
        let (_other_directory, other) = new_log();
        lines(&log, "a\n");
        fs::copy(Path::new(&other).join("keys").join(name), Path::new(&log).join("keys").join(name)).unwrap();
        stele(&["checkpoint", "--log", &log], "").refused(1, &[&format!("keys/{name}"), "put the log's own key back"]);
        assert!(!Path::new(&log).join("checkpoint").exists());
    }
}

#[test]
fn segments_are_listed_sealed_and_inspected() {
    let (_directory, log) = new_log();
    lines(&log, (0..300).map(|number| format!("{number}\n")).collect::<String>());
    let listed = objects(&stele(&["segment", "list", "--log", &log, "--json"], "").output());
    let states: Vec<&str> = listed.iter().map(|segment| segment["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sealed", "active"]);
    assert_eq!(stele(&["segment", "seal", "--log", &log], "").output(), "sealed segment 1\n");
    let listed = objects(&stele(&["segment", "list", "--log", &log, "--json"], "").output());
    assert_eq!(listed.len(), 3);
    assert_eq!((&listed[0]["state"], &listed[1]["state"]), (&"sealed".into(), &"sealed".into()));
    // The open segment holds the seal record of the one before.
    assert_eq!(stele(&["segment", "seal", "--log", &log], "").output(), "sealed segment 2\n");
    let inspected = stele(&["segment", "inspect", "--log", &log, "0", "--json"], "").output();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["bytes"].as_u64().unwrap(), fs::metadata(first_segment(&log)).unwrap().len());
    let digest = inspected["digest"].as_str().unwrap().to_owned();
    let records = read(&log, "0..1000", &["--payload"]).output();
    let sealed = records.lines().find(|line| line.contains("SegmentSealed")).unwrap();
    let body: Value = serde_json::from_str(sealed).unwrap();
    let body = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(body["payload"].as_str().unwrap()).unwrap()
    };
    assert!(String::from_utf8(body).unwrap().contains(&digest));
}

#[test]
fn damage_is_named_with_its_file_and_what_came_before_is_printed() {
    let (_directory, log) = new_log();
    lines(&log, (0..300).map(|number| format!("{number}\n")).collect::<String>());
    let path = first_segment(&log);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(9).position(|window| window == b"\"seq\":200").unwrap();
    patch(&path, at as u64, b"\"seq\":201");
    let ended = read(&log, "0..1000", &[]);
    assert_eq!(ended.code, Some(3), "{}", ended.output);
    ended.says(&["segments/0000000000000000.seg"]);
    assert!(ended.output.lines().count() > 0 || ended.errors.contains("record"), "{}", ended.errors);
    bytes[12] = 2;
    let checksum = crc32(&bytes[12..4096]);
    patch(&path, 8, &[&checksum.to_le_bytes()[..], &2_u16.to_le_bytes()].concat());
    for ended in [read(&log, "0", &[]), append(&log, &NAMES, "a\n")] {
        ended.refused(1, &["0000000000000000.seg", "format version 2 is unknown", "use a newer release"]);
    }
    patch(&path, 8, &[0; 4]);
    read(&log, "0", &[]).refused(3, &["0000000000000000.seg, byte 0", "header is damaged"]);
}

/// CRC-32 (IEEE), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// A file system of 40 MiB, gone with the value; `None` where the test may not mount one.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|ended| ended.status.success()).then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn no_space_is_said_and_nothing_is_lost() {
    let Some(disk) = SmallDisk::mount() else {
        std::io::stderr().write_all(b"SKIPPED: a small file system cannot be mounted here\n").unwrap();
        return;
    };
    let log = disk.0.path().join("log").to_str().unwrap().to_owned();
    stele(&["init", "--log", &log, "--origin", "example.com/full", "--segment-height", "8"], "").output();
    let line = format!("{}\n", "x".repeat(100_000));
    let mut ended = append(&log, &[&NAMES[..], &["--json"]].concat(), line.repeat(600));
    assert_eq!(ended.code, Some(1), "{}", ended.errors);
    // Before there is too little room for records, there may be too little to prepare a file.
    if let Some((note, rest)) = ended.errors.split_once('\n')
        && note.starts_with("stele: note: space is short")
    {
        ended.errors = rest.to_owned();
    }
    ended.says(&["make room"]);
    let acknowledged = objects(&ended.output);
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    let shown = objects(&read(&log, "0..10000", &["--json"]).output());
    for receipt in &acknowledged {
        let index = usize::try_from(receipt["index"].as_u64().unwrap()).unwrap();
        assert_eq!(shown[index]["self_hash"], receipt["self_hash"]);
    }
    // Full to the last byte, it is still read, and appending still says what to do.
    let fill = disk.0.path().join("fill");
    let mut file = fs::File::create(&fill).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    assert_eq!(read(&log, "0..10000", &["--json"]).output().lines().count(), shown.len());
    let ended = append(&log, &NAMES, "a\n");
    assert_eq!(ended.code, Some(1), "{}", ended.errors);
    ended.says(&["make room"]);
    fs::remove_file(&fill).unwrap();
    stele(&["segment", "seal", "--log", &log], "").output();
    stele(&["checkpoint", "--log", &log], "").output();
    assert!(size(&log) > acknowledged.len() as u64);
}

#[test]
fn quickstart_without_its_file_leaves_nothing_behind() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("q");
    stele(&["quickstart", "no such file", "--dir", path.to_str().unwrap()], "").refused(1, &["no such file"]);
    assert!(!path.exists());
}

/// Damage, not a failure of the machine: exit code 3, and a word on what to do.
#[test]
fn a_missing_payload_file_or_state_is_damage_and_a_refused_log_is_left_as_it_is() {
    for name in ["segments/0000000000000000.0.pay", "hard-state"] {
        let (_directory, log) = new_log();
        lines(&log, "a\n");
        fs::remove_file(Path::new(&log).join(name)).unwrap();
        let bytes = |name: &str| fs::read(Path::new(&log).join(name)).ok();
        let before = ["hard-state", "segments/0000000000000000.seg"].map(bytes);
        append(&log, &NAMES, "b\n").refused(3, &[name.rsplit('/').next().unwrap(), "missing", "restore"]);
        assert_eq!(["hard-state", "segments/0000000000000000.seg"].map(bytes), before, "{name}");
    }
}

#[test]
fn a_link_in_the_locks_place_is_not_written_through() {
    let (directory, log) = new_log();
    let victim = directory.path().join("victim");
    write(&victim, "precious");
    fs::remove_file(Path::new(&log).join("lock")).unwrap();
    std::os::unix::fs::symlink(&victim, Path::new(&log).join("lock")).unwrap();
    append(&log, &NAMES, "a\n").refused(1, &["lock"]);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}
