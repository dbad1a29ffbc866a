//! `stele verify`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::BlockHeight;
use stele_engine::reader::{LogReader, Payloads};
use stele_proof::LeafIndex;
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::Note;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::{Actor, Object, Record, RecordBuilder, Salt, Subject};
use tempfile::TempDir;

use crate::stele::{Ended, command, stele, write};

/// A log of two sealed segments and an open one, in `log` of the directory.
struct Made {
    directory: TempDir,
    checkpoint: String,
}

impl Made {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::system();
        let options = CreateOptions {
            block_height: BlockHeight::new(8).unwrap(),
            ..CreateOptions::new(Origin::new("example.com/log").unwrap())
        };
        let mut log = LocalLog::create(&environment, &directory.path().join("log"), &options).unwrap();
        for number in 0..520 {
            let builder = RecordBuilder {
                ts_ms: environment.clock.now(),
                writer_id: "w",
                stream: "s",
                kind: "Line",
                actor: Actor { anon: true, ..Actor::default() },
                subject: Subject::default(),
                reason: "ok",
                attrs: &Object::default(),
                payload: None,
            };
            let payload = format!("line {number}");
            let payload = Some((&Salt::ZERO, payload.as_bytes()));
            log.push(&Submission::Draft { builder: &builder, payload }).unwrap();
        }
        let checkpoint = log.checkpoint().unwrap();
        log.close().unwrap();
        Self { directory, checkpoint }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn verify(&self, arguments: &[&str]) -> Ended {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.strip_prefix('@') {
                Some(name) => self.path(name).to_str().unwrap().to_owned(),
                None => (*argument).to_owned(),
            })
            .collect();
        stele(&[&["verify".to_owned()], &arguments[..]].concat(), "")
    }

    /// Writes the proof and the record of an index, the finished record with a line feed.
    fn prove(&self, index: u64) {
        let index = LeafIndex::new(index);
        let reader = LogReader::open(&Environment::system(), &self.path("log")).unwrap();
        let note = Note::parse(self.checkpoint.as_bytes()).unwrap();
        let size = Checkpoint::parse(note.text()).unwrap().size;
        let hashes = reader.prove_inclusion(index, size).unwrap();
        let proof = ProofFile::new(None, index, hashes, self.checkpoint.clone()).unwrap();
        write(&self.path("proof"), proof.to_string());
        let end = LeafIndex::new(index.get() + 1);
        let mut keep = |read: stele_engine::reader::ReadRecord| -> Result<(), LogError> {
            let record = Record::parse(&read.canonical).unwrap();
            let mut finished = Vec::new();
            record.write_finished(&record.self_hash(), &mut finished);
            finished.push(b'\n');
            write(&self.path("finished"), finished);
            write(&self.path("canonical"), &read.canonical);
            Ok(())
        };
        reader.read(index, end, Payloads::Leave, &mut keep).unwrap();
    }
}

/// Flips a bit, whatever the mode of the file.
fn flip(path: &Path, at: u64) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 4;
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&byte, at).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_good_log_is_ok_and_what_it_was_checked_against_is_said() {
    let log = Made::new();
    write(&log.path("kept"), &log.checkpoint);
    let cases: [(&[&str], &str); 4] = [
        (&["log", "@log"], "checked only against itself"),
        (&["log", "@log", "--policy", "@log/policy"], "its stored checkpoint of 5"),
        (&["log", "@log", "--checkpoint", "@kept"], "the log's own policy"),
        (&["log", "@log", "--checkpoint", "@kept", "--policy", "@log/policy"], "meets the given policy"),
    ];
    for (arguments, words) in cases {
        let output = log.verify(arguments).output();
        assert!(output.starts_with("ok: 523 records in 3 segments, 2 sealed; 3 chains; root "), "{output}");
        assert!(output.lines().nth(1).unwrap().contains(words), "{output}");
        assert_eq!(output.lines().count(), 2);
    }
}

#[test]
fn damage_ends_with_3_and_says_where() {
    let log = Made::new();
    let name = "segments/0000000000000001.seg";
    flip(&log.path("log").join(name), 16_500);
    let ended = log.verify(&["log", "@log"]);
    assert_eq!((ended.code, ended.output.as_str()), (Some(3), ""));
    let lines: Vec<&str> = ended.errors.lines().collect();
    // The seal record of segment 0 lies behind the damage.
    assert!(lines[0].starts_with("stele: note: segments/0000000000000000.seg has no seal record"), "{lines:?}");
    assert!(lines[1].starts_with(&format!("stele: {name}, byte 16384, record 256: ")), "{lines:?}");
    assert!(lines[2].ends_with("does not verify: 1 finding") && lines.len() == 3, "{lines:?}");
    let ended = log.verify(&["segment", &format!("@log/{name}")]);
    assert_eq!((ended.code, ended.output.as_str()), (Some(3), ""));
    assert!(ended.errors.contains(name), "{}", ended.errors);
}

#[test]
fn another_policy_or_checkpoint_ends_with_3() {
    let (log, other) = (Made::new(), Made::new());
    write(&log.path("other"), &other.checkpoint);
    write(&log.path("foreign"), std::fs::read(other.path("log/policy")).unwrap());
    for arguments in [["log", "@log", "--checkpoint", "@other"], ["log", "@log", "--policy", "@foreign"]] {
        let ended = log.verify(&arguments);
        assert_eq!((ended.code, ended.output.as_str()), (Some(3), ""), "{}", ended.errors);
        assert!(ended.errors.contains("checkpoint, byte 0: "), "{}", ended.errors);
    }
    log.verify(&["log", "@log", "--policy", "@other"]).refused(1, &["is no policy"]);
}

#[test]
fn no_log_and_no_file_have_their_codes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let path = path.to_str().unwrap();
    stele(&["verify", "log", path], "").refused(6, &["there is no log in", "stele init"]);
    stele(&["verify", "segment", path], "").refused(1, &["16 hexadecimal digits"]);
    stele(&["verify", "segment", &format!("{path}/0000000000000000.seg")], "").refused(1, &["cannot open"]);
    stele(&["verify", "proof", path, "--record", path, "--policy", path], "").refused(1, &["cannot read"]);
}

#[test]
fn a_segment_prints_what_its_seal_record_says() {
    let log = Made::new();
    let output = log.verify(&["segment", "@log/segments/0000000000000001.seg"]).output();
    for line in ["ok: segment 1, 256 records from index 256\n", "\nleaves         256..512\n", "\nfile digest    b3:"] {
        assert!(output.contains(line), "{output}");
    }
    assert!(output.contains("\ntree node      level 8 index 1 "), "{output}");
}

#[test]
fn a_proof_is_verified_with_either_form_of_the_record() {
    let log = Made::new();
    log.prove(300);
    for record in ["@finished", "@canonical"] {
        let output = log.verify(&["proof", "@proof", "--record", record, "--policy", "@log/policy"]).output();
        assert!(output.starts_with("ok: the record is number 300 of the 52"), "{output}");
        assert!(output.contains("example.com/log\ncosigned by n1 at "), "{output}");
    }
}

#[test]
fn what_does_not_hold_ends_with_3_and_a_missing_quorum_with_5() {
    let log = Made::new();
    log.prove(300);
    let verify =
        |proof: &str, record: &str, policy: &str| log.verify(&["proof", proof, "--record", record, "--policy", policy]);
    let proof = std::fs::read_to_string(log.path("proof")).unwrap();
    write(&log.path("moved"), proof.replace("index 300\n", "index 301\n"));
    verify("@moved", "@finished", "@log/policy").refused(3, &["does not verify"]);
    write(&log.path("cut"), &proof[..proof.len() - 1]);
    verify("@cut", "@finished", "@log/policy").refused(3, &["does not verify"]);
    let record = std::fs::read_to_string(log.path("canonical")).unwrap();
    write(&log.path("changed"), record.replace("\"Line\"", "\"Lime\""));
    verify("@proof", "@changed", "@log/policy").refused(3, &["does not prove"]);
    write(&log.path("spoilt"), std::fs::read_to_string(log.path("finished")).unwrap().replace("Line", "Lime"));
    verify("@proof", "@spoilt", "@log/policy").refused(3, &["record is refused"]);
    write(&log.path("foreign"), std::fs::read(Made::new().path("log/policy")).unwrap());
    verify("@proof", "@finished", "@foreign").refused(3, &["no log key"]);
    let own = std::fs::read_to_string(log.path("log/policy")).unwrap();
    let log_line = own.lines().next().unwrap();
    let name = KeyName::new("witness").unwrap();
    let witness = SigningKey::from_seed(name, KeyKind::CosignatureEd25519, [9; 32]);
    let policy = format!("{log_line}\nwitness w {}\nquorum w\n", witness.verifier_key());
    write(&log.path("strict"), policy);
    verify("@proof", "@finished", "@strict").refused(5, &["quorum", "not met"]);
}

#[test]
fn a_closed_pipe_is_quiet() {
    let log = Made::new();
    let path = log.path("log");
    let mut child = command(&["verify", "log", path.to_str().unwrap()]).spawn().unwrap();
    drop((child.stdin.take(), child.stdout.take()));
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}
