//! A log on one machine, from birth to proof, on real files.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stele_engine::birth::CreateOptions;
use stele_engine::environment::{Clock, Entropy, Environment};
use stele_engine::error::LogError;
use stele_engine::intake::{Refusal, Submission};
use stele_engine::local::{LocalLog, PushError, Receipt, SealSettings};
use stele_engine::number::BlockHeight;
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::segment::FRAMES_START;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, Record, RecordBuilder, Salt, Subject, Value};
use stele_proof::tree::{CompactRange, leaf_hash, verify_consistency, verify_inclusion};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};

/// A clock that a test moves, and randomness that counts.
struct Fixed {
    now: AtomicU64,
    next: AtomicU64,
}

impl Clock for Fixed {
    fn now(&self) -> UnixMillis {
        UnixMillis::new(self.now.load(Ordering::Relaxed))
    }
}

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        for chunk in out.chunks_mut(8) {
            let number = self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
        Ok(())
    }
}

fn fixed() -> (Environment, Arc<Fixed>) {
    let source = Arc::new(Fixed { now: AtomicU64::new(1_000_000), next: AtomicU64::new(1) });
    let environment = Environment { clock: source.clone(), entropy: source.clone(), ..Environment::system() };
    (environment, source)
}

fn create(environment: &Environment, path: &Path) -> LocalLog {
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    LocalLog::create(environment, path, &options).unwrap()
}

fn line(log: &mut LocalLog, stream: &str, payload: &[u8]) -> Result<Receipt, PushError> {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream,
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), payload)) })
}

fn read_all(reader: &LogReader) -> Vec<ReadRecord> {
    read(reader, 0, u64::MAX)
}

fn read(reader: &LogReader, first: u64, end: u64) -> Vec<ReadRecord> {
    let mut records = Vec::new();
    reader
        .read::<LogError>(LeafIndex::new(first), LeafIndex::new(end), Payloads::Read, &mut |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
    records
}

#[test]
fn records_survive_close_and_open_and_every_proof_holds() {
    let (environment, _) = fixed();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = create(&environment, &path);
    let mut receipts = Vec::new();
    for round in 0..3 {
        for number in 0..300 {
            let payload = format!("round {round} line {number}");
            receipts.push((line(&mut log, "s", payload.as_bytes()).unwrap(), payload));
            if number % 7 == 0 {
                log.flush().unwrap();
            }
        }
        log.close().unwrap();
        log = LocalLog::open(&environment, &path).unwrap();
        assert!(log.torn_tail().is_none());
    }
    let checkpoint = log.checkpoint().unwrap();
    log.close().unwrap();

    let reader = LogReader::open(&environment, &path).unwrap();
    assert_eq!(reader.end().note, None);
    let records = read_all(&reader);
    assert_eq!(records.len() as u64, reader.size().get());
    for (receipt, payload) in &receipts {
        let record = &records[usize::try_from(receipt.index.get()).unwrap()];
        assert_eq!(record.index, receipt.index);
        assert_eq!(Record::parse(&record.canonical).unwrap().self_hash(), receipt.self_hash);
        assert_eq!(record.payload.as_ref().unwrap().1, payload.as_bytes());
    }
    let size = reader.size();
    let mut tree = CompactRange::new();
    let mut roots = vec![tree.root()];
    for record in &records {
        tree.append(leaf_hash(&record.canonical));
        roots.push(tree.root());
    }
    assert_eq!(reader.root_at(size).unwrap(), tree.root());
    assert!(checkpoint.contains(&format!("\n{size}\n{}\n", tree.root().to_base64())));
    for (record, index) in records.iter().zip(0..) {
        let index = LeafIndex::new(index);
        let proof = reader.prove_inclusion(index, size).unwrap();
        verify_inclusion(&leaf_hash(&record.canonical), index, size, &proof, &tree.root()).unwrap();
    }
    for old in (1..=size.get()).step_by(13) {
        let proof = reader.prove_consistency(TreeSize::new(old), size).unwrap();
        let root = &roots[usize::try_from(old).unwrap()];
        verify_consistency(TreeSize::new(old), root, size, &tree.root(), &proof).unwrap();
    }
}

#[test]
fn the_same_calls_clock_and_randomness_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut logs = Vec::new();
    for name in ["a", "b"] {
        let (environment, _) = fixed();
        let path = directory.path().join(name);
        let mut log = create(&environment, &path);
        for number in 0..2000 {
            line(&mut log, "s", format!("line {number}").as_bytes()).unwrap();
            if number % 50 == 0 {
                log.cut(Box::new(|result| result.unwrap())).unwrap();
            }
        }
        log.close().unwrap();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path.join("segments")).unwrap() {
            let entry = entry.unwrap();
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if !entry.metadata().unwrap().permissions().readonly() && entry.path().extension().unwrap() == "seg" {
                // The ring of the open segment tells flushes, which are this node's own.
                bytes[4096..16384].fill(0);
            }
            files.push((entry.file_name(), bytes));
        }
        files.sort();
        logs.push(files);
    }
    assert!(logs[0].len() > 20);
    assert_eq!(logs[0], logs[1]);
}

#[test]
fn retries_are_answered_and_contradictions_refused() {
    let (environment, _) = fixed();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = create(&environment, &path);
    let mut finished = Vec::new();
    for number in 0..5 {
        let receipt = line(&mut log, "s", format!("{number}").as_bytes()).unwrap();
        finished.push(receipt);
    }
    log.close().unwrap();
    let mut log = LocalLog::open(&environment, &path).unwrap();
    let reader = LogReader::open(&environment, &path).unwrap();
    let first = &read_all(&reader)[1];
    let (salt, payload) = first.payload.clone().unwrap();
    let mut bytes = Vec::new();
    let record = Record::parse(&first.canonical).unwrap();
    record.write_finished(&record.self_hash(), &mut bytes);
    let again = Submission::Finished { bytes: &bytes, payload: Some((&salt, &payload)) };
    assert_eq!(log.push(&again).unwrap(), finished[0]);
    let bare = Submission::Finished { bytes: &bytes, payload: None };
    assert!(matches!(log.push(&bare), Err(PushError::Refused(Refusal::Payload(_)))));
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "stele/log",
        kind: "K",
        actor: Actor::default(),
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    let reserved = Submission::Draft { builder: &builder, payload: None };
    assert!(matches!(log.push(&reserved), Err(PushError::Refused(Refusal::Reserved))));
    let size = log.size();
    assert!(matches!(LocalLog::open(&environment, &path), Err(LogError::Locked { .. })));
    log.close().unwrap();
    assert_eq!(LocalLog::open(&environment, &path).unwrap().size(), size);
    assert!(matches!(
        LocalLog::create(&environment, &path, &CreateOptions::new(Origin::new("o").unwrap())),
        Err(LogError::Exists(_))
    ));
}

#[test]
fn a_quiet_segment_is_sealed_by_age() {
    let (environment, source) = fixed();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = create(&environment, &path);
    log.set_seal_settings(SealSettings { after_ms: 1000, ..SealSettings::default() });
    source.now.fetch_add(5000, Ordering::Relaxed);
    line(&mut log, "s", b"one").unwrap();
    log.cut(Box::new(|result| result.unwrap())).unwrap();
    assert_eq!(std::fs::read_dir(path.join("segments")).unwrap().filter(is_seg).count(), 1);
    source.now.fetch_add(1000, Ordering::Relaxed);
    line(&mut log, "s", b"two").unwrap();
    log.cut(Box::new(|result| result.unwrap())).unwrap();
    log.close().unwrap();
    assert_eq!(std::fs::read_dir(path.join("segments")).unwrap().filter(is_seg).count(), 2);
    // Seal records alone never make a segment due.
    source.now.fetch_add(1_000_000, Ordering::Relaxed);
    let log = LocalLog::open(&environment, &path).unwrap();
    let size = log.size();
    log.close().unwrap();
    assert_eq!(LocalLog::open(&environment, &path).unwrap().size(), size);
}

fn is_seg(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "seg")
}

/// I-STATE-1, and that state files are derived: missing or damaged ones are made again, byte for byte.
#[test]
fn state_files_are_made_used_and_made_again() {
    let (environment, _) = fixed();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = create(&environment, &path);
    let filler = "x".repeat(900);
    let attrs = Object::new(vec![("a".to_owned(), Value::String(filler))]).unwrap();
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "K",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &attrs,
        payload: None,
    };
    let draft = Submission::Draft { builder: &builder, payload: None };
    let mut first = None;
    while std::fs::read_dir(path.join("state")).map_or(0, Iterator::count) == 0 {
        for _ in 0..1000 {
            let receipt = log.push(&draft).unwrap();
            first.get_or_insert(receipt);
        }
        log.flush().unwrap();
    }
    log.close().unwrap();
    let state = std::fs::read_dir(path.join("state")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&state).unwrap();

    // Taken up from the state file, the log goes on and still knows its oldest record.
    let mut log = LocalLog::open(&environment, &path).unwrap();
    let reader = LogReader::open(&environment, &path).unwrap();
    let oldest = &read(&reader, 1, 2)[0];
    let record = Record::parse(&oldest.canonical).unwrap();
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    assert_eq!(log.push(&Submission::Finished { bytes: &finished, payload: None }).unwrap(), first.unwrap());
    let next = log.push(&draft).unwrap();
    let size = log.size();
    let checkpoint = log.checkpoint().unwrap();
    log.close().unwrap();

    // Without it, the same.
    std::fs::remove_file(&state).unwrap();
    let mut log = LocalLog::open(&environment, &path).unwrap();
    assert_eq!(log.size(), size);
    assert_eq!(log.checkpoint().unwrap(), checkpoint);
    assert_eq!(std::fs::read(&state).unwrap(), bytes, "made again");
    let after = log.push(&draft).unwrap();
    assert_eq!(after.index.get(), next.index.get() + 1);
    log.close().unwrap();

    // Damaged, it is passed over and made again.
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    std::fs::remove_file(&state).unwrap();
    std::fs::File::create(&state).and_then(|mut file| std::io::Write::write_all(&mut file, &damaged)).unwrap();
    LocalLog::open(&environment, &path).unwrap().close().unwrap();
    assert_eq!(std::fs::read(&state).unwrap(), bytes);
}

/// Finished records of some chains, drawn from a seed, some of them spoiled in every way that is refused,
/// some twice.
fn some_good_some_bad(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut at = seed;
    let mut draw = |bound: u64| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (at >> 33) % bound
    };
    let mut heads = [const { (0, None) }; 5];
    let mut all = Vec::new();
    while all.len() < count {
        let chain = usize::try_from(draw(5)).unwrap();
        let text = "x".repeat(usize::try_from(draw(900)).unwrap());
        let attrs = Object::new(vec![("text".to_owned(), Value::String(text))]).unwrap();
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(draw(1000)),
            writer_id: if draw(30) == 0 { "stele/log" } else { ["a", "b", "c", "d", "e"][chain] },
            stream: "s",
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        let (seq, prev) = &heads[chain];
        let mut canonical = Vec::new();
        let record = builder.encode(seq + 1, prev.as_ref(), &mut canonical).unwrap();
        let self_hash = record.self_hash();
        let mut finished = Vec::new();
        record.write_finished(&self_hash, &mut finished);
        let len = finished.len();
        let is_good = match draw(12) {
            0 => {
                finished[len / 2] ^= 1;
                false
            }
            1 => {
                finished.truncate(len - 1);
                false
            }
            2 => {
                finished[len - 3] ^= 1;
                false
            }
            3 => {
                finished.insert(1, b' ');
                false
            }
            // Twice.
            4 => {
                all.push(finished.clone());
                true
            }
            _ => true,
        };
        if is_good && !record.is_reserved() {
            heads[chain] = (seq + 1, Some(self_hash));
        }
        all.push(finished);
        if draw(40) == 0 {
            // Another first record of a chain that has one contradicts it.
            let mut canonical = Vec::new();
            let record = builder.encode(1, None, &mut canonical).unwrap();
            let mut finished = Vec::new();
            record.write_finished(&record.self_hash(), &mut finished);
            all.push(finished);
        }
    }
    all
}

#[test]
fn a_message_of_records_is_taken_and_answered_as_its_records_one_by_one() {
    for seed in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let records = some_good_some_bad(seed, 700);
        let submissions: Vec<_> = records.iter().map(|bytes| Submission::Finished { bytes, payload: None }).collect();
        let one_by_one = {
            let mut log = create(&fixed().0, &directory.path().join("one"));
            let answer = |submission| match log.push(submission) {
                Ok(receipt) => Ok(receipt),
                Err(PushError::Refused(refusal)) => Err(refusal),
                Err(other) => panic!("{other}"),
            };
            let answers: Vec<_> = submissions.iter().map(answer).collect();
            log.close().unwrap();
            answers
        };
        let mut together = Vec::new();
        let mut log = create(&fixed().0, &directory.path().join("all"));
        for message in submissions.chunks(150) {
            log.push_all(message, &mut |answer| together.push(answer)).unwrap();
        }
        log.close().unwrap();
        assert_eq!(one_by_one, together, "seed {seed}");
        assert!(together.iter().filter(|answer| answer.is_ok()).count() > 100, "seed {seed}");
        assert!(together.iter().filter(|answer| answer.is_err()).count() > 100, "seed {seed}");
        for entry in std::fs::read_dir(directory.path().join("one/segments")).unwrap() {
            let name = entry.unwrap().file_name();
            let bytes = |log: &str| std::fs::read(directory.path().join(log).join("segments").join(&name)).unwrap();
            // The flush ring of the open file tells of groups, which threads make.
            let is_segment = Path::new(&name).extension().is_some_and(|end| end == "seg");
            let skipped = if is_segment { usize::try_from(FRAMES_START.get()).unwrap() } else { 0 };
            let frames = |log: &str| bytes(log).split_off(skipped);
            assert!(frames("one") == frames("all"), "seed {seed}: {} differs", name.to_string_lossy());
        }
    }
}
