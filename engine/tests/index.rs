//! The index says what reading the whole log says, whatever became of its files; and it touches no file of
//! the log.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fixture;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fixture::{ControlledDisk, Random, copy, files, fixed_on, overwrite};
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::index::feeder::{Feeder, Unavailable};
use stele_engine::index::hashes::WantedHash;
use stele_engine::index::{
    Filter, Identity, Index, IndexError, IndexReader, KEPT_BAD, Known, Query, SHEET_LEAVES, Unindexed, quiet, scan,
    status,
};
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::segment::LeafRange;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, Record, RecordBuilder, Salt, Subject};
use stele_proof::{LeafIndex, UnixMillis};
use tempfile::TempDir;

const STREAMS: [&str; 4] = ["app", "app2", "\"quoted\" back\\slash", ""];
const WRITERS: [&str; 3] = ["w", "w2", "host-\u{e4}"];

#[derive(Debug)]
enum Failed {
    Log(#[expect(dead_code, reason = "shown by `unwrap`")] LogError),
    Index(#[expect(dead_code, reason = "shown by `unwrap`")] IndexError),
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for Failed {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

fn environment() -> Environment {
    let (_, clock) = fixture::fixed();
    clock.now.store(1_000_000, Ordering::Relaxed);
    fixed_on(Arc::new(ControlledDisk::quick()))
}

fn create(path: &Path) -> LocalLog {
    let options = CreateOptions {
        block_height: BlockHeight::new(9).unwrap(),
        frame_align: Alignment::WORD,
        ..CreateOptions::new(Origin::new("example.com/index").unwrap())
    };
    LocalLog::create(&environment(), path, &options).unwrap()
}

/// Appends records in batches of any size.
fn append(log: &mut LocalLog, random: &mut Random, records: u64) {
    let mut left = 0;
    for number in 0..records {
        if left == 0 {
            log.flush().unwrap();
            left = [1, 3, 64, 700][usize::try_from(random.below(4)).unwrap()];
        }
        left -= 1;
        let pick = |random: &mut Random, names: &[&'static str]| -> &'static str {
            names[usize::try_from(random.below(names.len() as u64)).unwrap()]
        };
        let id = format!("b3:{:x}", random.below(50));
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(1_000_000 + number * 10 + random.below(500)),
            writer_id: pick(random, &WRITERS),
            stream: pick(random, &STREAMS[..3]),
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject { content_id: (number % 3 == 0).then_some(&*id), ..Subject::default() },
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let salt = Salt::new([3; 32]);
        let bytes = number.to_le_bytes();
        let payload = Some((&salt, &bytes[..])).filter(|_| number % 2 == 0);
        log.push(&Submission::Draft { builder: &builder, payload }).unwrap();
    }
    log.flush().unwrap();
}

/// A closed log of this many records and some.
fn made(seed: u64, records: u64) -> (TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let mut log = create(&path);
    append(&mut log, &mut Random(seed), records);
    log.close().unwrap();
    (place, path)
}

fn everything() -> LeafRange {
    LeafRange { first: LeafIndex::new(0), end: LeafIndex::new(u64::MAX) }
}

fn truth(path: &Path) -> Vec<ReadRecord> {
    let mut records = Vec::new();
    let query = Query { filter: Filter::default(), leaves: everything(), payloads: Payloads::Leave };
    let reader = LogReader::open(&environment(), path).unwrap();
    scan::<LogError>(&reader, &query, &mut |read| {
        records.push(read);
        Ok(())
    })
    .unwrap();
    assert_eq!(records.len() as u64, reader.size().get());
    records
}

fn queries(random: &mut Random, truth: &[ReadRecord]) -> Vec<Query> {
    some_queries(random, truth, 40)
}

fn some_queries(random: &mut Random, truth: &[ReadRecord], count: usize) -> Vec<Query> {
    let mut queries = Vec::new();
    for _ in 0..count {
        let any = &truth[usize::try_from(random.below(truth.len() as u64)).unwrap()];
        let record = Record::parse(&any.canonical).unwrap();
        let mut filter = Filter::default();
        let bits = random.below(32);
        if bits & 1 != 0 {
            filter = filter.stream(STREAMS[usize::try_from(random.below(4)).unwrap()]);
        }
        if bits & 2 != 0 {
            filter = filter.writer(WRITERS[usize::try_from(random.below(3)).unwrap()]);
        }
        if bits & 4 != 0 {
            filter = filter.since(record.ts_ms());
        }
        if bits & 8 != 0 {
            filter = filter.until(UnixMillis::new(record.ts_ms().get() + random.below(2000)));
        }
        if bits & 16 != 0 {
            let text = match random.below(4) {
                0 => record.self_hash().to_string(),
                1 => record.payload().map_or("b3:ffff".to_owned(), |payload| payload.hash().to_string()),
                2 => format!("b3:{:x}", random.below(60)),
                _ => format!("b3:{:064x}", random.next()),
            };
            filter = filter.hash(WantedHash::parse(&text).unwrap());
        }
        let mut leaves = everything();
        if random.below(3) == 0 {
            leaves.first = any.index;
            leaves.end = LeafIndex::new(any.index.get() + random.below(2 * SHEET_LEAVES));
        }
        queries.push(Query { filter, leaves, payloads: Payloads::Leave });
    }
    queries
}

fn expected(truth: &[ReadRecord], query: &Query) -> Vec<LeafIndex> {
    let matches = |read: &&ReadRecord| {
        query.leaves.contains(read.index) && query.filter.matches(&Record::parse(&read.canonical).unwrap())
    };
    truth.iter().filter(matches).map(|read| read.index).collect()
}

fn found(index: &mut Index, query: &Query) -> Vec<LeafIndex> {
    let mut found = Vec::new();
    index
        .find::<Failed>(query, Unindexed::Read, &mut |read| {
            found.push(read.index);
            Ok(())
        })
        .unwrap();
    found
}

/// As whoever only reads finds it, and why not through the index alone.
fn found_by_reader(index: &IndexReader, query: &Query) -> (Vec<LeafIndex>, Option<String>) {
    let mut found = Vec::new();
    let answered = index
        .find::<LogError>(query, Unindexed::Read, &mut |read| {
            found.push(read.index);
            Ok(())
        })
        .unwrap();
    assert_eq!(answered.not_looked_at, None);
    (found, answered.without)
}

/// The index for whoever only reads; `None` where it says that it cannot be used.
fn opened(path: &Path) -> Option<IndexReader> {
    match IndexReader::open(&environment(), path) {
        Ok(index) => Some(index),
        Err(IndexError::Absent | IndexError::Store(_) | IndexError::Lock { .. } | IndexError::InUse { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

/// The hash of a record, and where it is, by what names its append.
fn known(index: &mut Index, record: &Record<'_>) -> Known {
    let (stream, writer) = (unescaped(record.stream().escaped()), unescaped(record.writer_id().escaped()));
    index.find_identity(&Identity { stream: &stream, writer: &writer, seq: record.seq() }).unwrap()
}

fn unescaped(text: &str) -> String {
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

fn scanned(path: &Path, query: &Query) -> Vec<LeafIndex> {
    let mut found = Vec::new();
    let reader = LogReader::open(&environment(), path).unwrap();
    scan::<LogError>(&reader, query, &mut |read| {
        found.push(read.index);
        Ok(())
    })
    .unwrap();
    found
}

#[track_caller]
fn agrees(index: &mut Index, truth: &[ReadRecord], seed: u64) {
    for query in queries(&mut Random(seed), truth) {
        assert_eq!(found(index, &query), expected(truth, &query), "{query:?}");
    }
}

fn caught_up(path: &Path) -> Index {
    let mut index = Index::open(&environment(), path).unwrap();
    index.catch_up(&mut quiet).unwrap();
    index
}

/// The files of the log, without those of the index and the lock.
fn log_files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(path);
    files.retain(|name, _| !name.starts_with("index") && name != "lock");
    files
}

#[test]
fn queries_answer_what_reading_everything_answers() {
    for seed in 1..4 {
        let (_place, path) = made(seed, 20_000);
        let before = log_files(&path);
        assert!(before.keys().any(|name| name.ends_with(".hashes")));
        let truth = truth(&path);
        let mut index = caught_up(&path);
        let status = status(&environment(), &path).unwrap();
        assert!(status.indexed.get() + SHEET_LEAVES > truth.len() as u64, "{status:?}");
        assert!(status.indexed.get() == 2 * SHEET_LEAVES && status.tables == status.sealed && status.sealed > 3);
        assert!(status.in_use && status.unusable.is_none() && status.moved_aside == 0);
        agrees(&mut index, &truth, seed * 100);
        for query in queries(&mut Random(seed * 200), &truth) {
            assert_eq!(scanned(&path, &query), expected(&truth, &query), "{query:?}");
        }
        drop(index);
        assert_eq!(log_files(&path), before);
    }
}

#[test]
fn an_index_that_is_behind_goes_on_where_it_stood() {
    let (_place, path) = made(5, 9000);
    drop(caught_up(&path));
    let mut log = LocalLog::open(&environment(), &path).unwrap();
    append(&mut log, &mut Random(6), 9000);
    log.close().unwrap();
    let truth = truth(&path);
    // What has no sheet yet is read.
    let mut index = Index::open(&environment(), &path).unwrap();
    assert!(index.indexed().get() == SHEET_LEAVES && index.moved_aside().is_none());
    agrees(&mut index, &truth, 7);
    index.catch_up(&mut quiet).unwrap();
    assert!(index.indexed().get() == 2 * SHEET_LEAVES && index.moved_aside().is_none());
    agrees(&mut index, &truth, 8);
}

#[test]
fn an_index_that_is_ahead_or_of_another_history_is_made_anew() {
    let (_place, path) = made(9, 20_000);
    let (_other_place, other) = made(10, 9000);
    drop(caught_up(&path));
    drop(caught_up(&other));
    let short = tempfile::tempdir().unwrap();
    let mut log = create(&short.path().join("log"));
    append(&mut log, &mut Random(9), 9000);
    log.close().unwrap();
    for (from, to, word) in [(&path, &short.path().join("log"), "holds"), (&other, &path, "history")] {
        let before = log_files(to);
        std::fs::remove_dir_all(to.join("index")).ok();
        copy(&from.join("index"), &to.join("index"));
        let truth = truth(to);
        let mut index = Index::open(&environment(), to).unwrap();
        let why = index.moved_aside().unwrap().to_owned();
        assert!(why.contains(word), "{why}");
        index.catch_up(&mut quiet).unwrap();
        agrees(&mut index, &truth, 11);
        assert!(to.join("index.bad-1").is_dir());
        assert_eq!(log_files(to), before);
    }
}

#[test]
fn no_more_than_some_bad_indexes_are_kept() {
    let (_place, path) = made(12, 1500);
    for round in 0..=u64::from(KEPT_BAD) + 1 {
        drop(caught_up(&path));
        std::fs::remove_dir_all(path.join("index")).unwrap();
        std::fs::create_dir(path.join("index")).unwrap();
        std::fs::File::create_new(path.join("index/db")).unwrap().set_len(1000 + round).unwrap();
        overwrite(&path.join("index/db"), 0, &[0xa5; 1000]);
        std::fs::File::create_new(path.join("index/conf")).unwrap().set_len(10).unwrap();
    }
    let mut index = caught_up(&path);
    assert!(index.moved_aside().is_some());
    agrees(&mut index, &truth(&path), 13);
    let bad = std::fs::read_dir(&path).unwrap();
    let bad = bad.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("index.bad-"));
    assert_eq!(bad.count(), KEPT_BAD as usize);
}

#[test]
fn a_changed_bit_in_the_index_changes_no_answer_and_no_log() {
    let (_place, path) = made(14, 9000);
    drop(caught_up(&path));
    let truth = truth(&path);
    let before = log_files(&path);
    let good = tempfile::tempdir().unwrap();
    copy(&path.join("index"), good.path());
    let names: Vec<(String, u64)> = files(good.path())
        .into_iter()
        .map(|(name, bytes)| (name, bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64))
        .collect();
    let mut random = Random(15);
    let (mut anew, mut noticed) = (0, 0);
    for round in 0..120 {
        let (name, last) = &names[usize::try_from(random.below(names.len() as u64)).unwrap()];
        let at = random.below(last + 1);
        let mut bytes = std::fs::read(good.path().join(name)).unwrap();
        let Some(byte) = bytes.get_mut(usize::try_from(at).unwrap()) else { continue };
        *byte ^= 1 << random.below(8);
        std::fs::remove_dir_all(path.join("index")).unwrap();
        copy(good.path(), &path.join("index"));
        overwrite(&path.join("index").join(name), at, &[bytes[usize::try_from(at).unwrap()]]);
        // Whoever only reads goes on without it.
        if let Some(reader) = opened(&path) {
            for query in some_queries(&mut Random(round), &truth, 4) {
                let (found, without) = found_by_reader(&reader, &query);
                assert_eq!(found, expected(&truth, &query), "{name} {at}: {query:?}");
                noticed += u64::from(without.is_some());
            }
        }
        let mut index = Index::open(&environment(), &path).unwrap_or_else(|error| panic!("{name} {at}: {error}"));
        for query in some_queries(&mut Random(round), &truth, 8) {
            assert_eq!(found(&mut index, &query), expected(&truth, &query), "{name} {at}: {query:?}");
        }
        index.catch_up(&mut quiet).unwrap();
        anew += u64::from(index.moved_aside().is_some());
    }
    assert!(anew > 0 && noticed > 0, "no change was noticed");
    assert_eq!(log_files(&path), before);
}

#[test]
fn a_hash_table_that_is_missing_or_damaged_is_made_anew() {
    let (_place, path) = made(16, 3000);
    let (before, truth) = (log_files(&path), truth(&path));
    let tables: Vec<&String> = before.keys().filter(|name| name.ends_with(".hashes")).collect();
    assert!(tables.len() > 3);
    std::fs::remove_file(path.join(tables[0])).unwrap();
    let spoil = |name: &String, at: usize| {
        let file = path.join(name);
        std::fs::remove_file(&file).unwrap();
        let mut bytes = before[name].clone();
        bytes[at] ^= 4;
        std::io::Write::write_all(&mut std::fs::File::create_new(&file).unwrap(), &bytes).unwrap();
    };
    spoil(tables[1], 110);
    spoil(tables[2], before[tables[2]].len() - 5);
    for query in queries(&mut Random(17), &truth) {
        assert_eq!(scanned(&path, &query), expected(&truth, &query), "{query:?}");
    }
    let mut index = Index::rebuild(&environment(), &path, &mut quiet).unwrap();
    agrees(&mut index, &truth, 18);
    assert_eq!(log_files(&path), before);
}

/// What may stand in the place of a hash table.
const IN_A_TABLES_PLACE: &[fn(&Path)] = &[
    |path| std::fs::create_dir(path).unwrap(),
    |path| {
        std::fs::create_dir(path).unwrap();
        std::fs::File::create_new(path.join("file")).unwrap();
    },
    |path| std::os::unix::fs::symlink(path, path).unwrap(),
    |path| std::os::unix::fs::symlink("nothing", path).unwrap(),
    |path| {
        let file = std::fs::File::create_new(path).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    },
];

#[test]
fn a_hash_table_that_cannot_be_read_is_read_around_and_made_anew() {
    let (_place, path) = made(38, 3000);
    let (before, truth) = (log_files(&path), truth(&path));
    let tables: Vec<&String> = before.keys().filter(|name| name.ends_with(".hashes")).collect();
    for (number, put) in IN_A_TABLES_PLACE.iter().enumerate() {
        let table = path.join(tables[1]);
        std::fs::remove_file(&table).unwrap();
        put(&table);
        for query in queries(&mut Random(39), &truth) {
            assert_eq!(scanned(&path, &query), expected(&truth, &query), "{number}: {query:?}");
        }
        let said = status(&environment(), &path).unwrap();
        assert_eq!((said.tables + 1, said.unusable), (said.sealed, None), "{number}");
        drop(caught_up(&path));
        assert_eq!(log_files(&path), before, "{number}");
    }
}

#[test]
fn a_look_with_nothing_new_opens_no_hash_table() {
    let (_place, path) = made(40, 3000);
    let disk = ControlledDisk::quick();
    let mut index = Index::open(&fixed_on(Arc::new(disk.clone())), &path).unwrap();
    index.catch_up(&mut quiet).unwrap();
    let once = disk.opened(".hashes");
    assert!(once > 3);
    index.catch_up(&mut quiet).unwrap();
    assert_eq!(disk.opened(".hashes"), once);
    // What is sealed later is looked at, once.
    let mut log = LocalLog::open(&environment(), &path).unwrap();
    append(&mut log, &mut Random(41), 1500);
    let sealed = status(&environment(), &path).unwrap().sealed;
    index.catch_up(&mut quiet).unwrap();
    assert_eq!(disk.opened(".hashes"), sealed);
    log.close().unwrap();
}

#[test]
fn one_has_the_index_and_the_others_read_without_it() {
    let (_place, path) = made(19, 1500);
    let index = caught_up(&path);
    assert!(matches!(Index::open(&environment(), &path), Err(IndexError::InUse { .. })));
    drop(index);
    assert!(Index::open(&environment(), &path).is_ok());
}

#[test]
fn a_feeder_follows_a_log_that_is_written() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let mut log = create(&path);
    append(&mut log, &mut Random(20), 700);
    let feeder = Feeder::start(&environment(), &path).unwrap();
    append(&mut log, &mut Random(21), 10_000);
    let size = log.size().get();
    // What is durable is shown once a later group, or an idle writer, has said so.
    while feeder.lag().indexed.get() + SHEET_LEAVES + 700 <= size {
        assert_eq!(feeder.lag().stopped, None);
        feeder.look();
        std::thread::yield_now();
    }
    drop(feeder);
    log.close().unwrap();
    let mut index = Index::open(&environment(), &path).unwrap();
    assert!(index.moved_aside().is_none());
    agrees(&mut index, &truth(&path), 22);
}

#[test]
fn a_reader_that_follows_sees_every_record_once() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let mut log = create(&path);
    append(&mut log, &mut Random(23), 100);
    let mut reader = LogReader::open(&environment(), &path).unwrap();
    let mut seen = Vec::new();
    let first = reader.size().next_leaf();
    for round in 0..20 {
        append(&mut log, &mut Random(24 + round), 150);
        reader
            .follow::<LogError>(Payloads::Read, &mut |read| {
                seen.push(read);
                Ok(())
            })
            .unwrap();
    }
    log.close().unwrap();
    reader
        .follow::<LogError>(Payloads::Read, &mut |read| {
            seen.push(read);
            Ok(())
        })
        .unwrap();
    let mut all = Vec::new();
    let whole = LogReader::open(&environment(), &path).unwrap();
    whole
        .read::<LogError>(first, LeafIndex::new(u64::MAX), Payloads::Read, &mut |read| {
            all.push(read);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, all);
    // What it has moved on to can be read and proved, too.
    assert_eq!(reader.root_at(reader.size()).unwrap(), whole.root_at(whole.size()).unwrap());
}

#[test]
fn whoever_only_reads_agrees_and_changes_nothing() {
    let (_place, path) = made(30, 10_000);
    let before = files(&path);
    assert!(matches!(IndexReader::open(&environment(), &path), Err(IndexError::Absent)));
    let nothing = status(&environment(), &path).unwrap();
    assert!(nothing.indexed.get() == 0 && nothing.unusable.is_none() && !nothing.in_use);
    assert_eq!(files(&path), before);
    drop(caught_up(&path));
    let truth = truth(&path);
    let indexed = files(&path);
    let index = opened(&path).unwrap();
    for query in queries(&mut Random(31), &truth) {
        assert_eq!(found_by_reader(&index, &query), (expected(&truth, &query), None), "{query:?}");
    }
    drop(index);
    let mut after = files(&path);
    // The store may put its own files in order.
    after.retain(|name, _| !name.starts_with("index/store"));
    for (name, bytes) in &after {
        assert_eq!(Some(bytes), indexed.get(name), "{name}");
    }
    assert_eq!(status(&environment(), &path).unwrap().indexed.get(), SHEET_LEAVES);
}

#[test]
fn what_has_no_sheet_is_read_or_said_not_to_be_indexed() {
    let (_place, path) = made(32, 10_000);
    drop(caught_up(&path));
    let truth = truth(&path);
    let index = opened(&path).unwrap();
    let left = truth.len() as u64 - SHEET_LEAVES;
    let stream = Filter::default().stream(STREAMS[0]);
    let mut query = Query { filter: stream, leaves: everything(), payloads: Payloads::Leave };
    let ask = |query: &Query, unindexed| {
        let mut found = Vec::new();
        let answered = index.find::<LogError>(query, unindexed, &mut |read| {
            found.push(read.index);
            Ok(())
        });
        (found, answered.unwrap().not_looked_at)
    };
    let all = expected(&truth, &query);
    assert_eq!(ask(&query, Unindexed::Read), (all.clone(), None));
    assert_eq!(ask(&query, Unindexed::ReadAtMost(left)), (all.clone(), None));
    let behind = LeafRange { first: LeafIndex::new(SHEET_LEAVES), end: LeafIndex::new(SHEET_LEAVES + left) };
    let among: Vec<_> = all.iter().copied().filter(|leaf| leaf.get() < SHEET_LEAVES).collect();
    assert_eq!(ask(&query, Unindexed::ReadAtMost(left - 1)), (among, Some(behind)));
    // Only what was asked for is said not to have been looked at.
    query.leaves.end = LeafIndex::new(SHEET_LEAVES + 3);
    let behind = LeafRange { end: query.leaves.end, ..behind };
    assert_eq!(ask(&query, Unindexed::ReadAtMost(2)).1, Some(behind));
    query.leaves.end = LeafIndex::new(SHEET_LEAVES);
    assert_eq!(ask(&query, Unindexed::ReadAtMost(0)).1, None);
}

#[test]
fn an_identity_is_found_where_its_record_is_or_not_at_all() {
    let (_place, path) = made(33, 20_000);
    let truth = truth(&path);
    let mut index = caught_up(&path);
    let indexed = index.indexed();
    for read in truth.iter().step_by(41).chain(&truth[truth.len() - 3..]) {
        let record = Record::parse(&read.canonical).unwrap();
        let at = Known::At(read.index, record.self_hash());
        let expected = if indexed.contains(read.index) { at } else { Known::NotAmong(indexed) };
        assert_eq!(known(&mut index, &record), expected, "{}", read.index);
    }
    let absent = Identity { stream: STREAMS[0], writer: WRITERS[0], seq: 1 << 40 };
    assert_eq!(index.find_identity(&absent).unwrap(), Known::NotAmong(indexed));
    let absent = Identity { stream: "nobody", writer: WRITERS[0], seq: 1 };
    assert_eq!(index.find_identity(&absent).unwrap(), Known::NotAmong(indexed));
}

/// What may become of an index, and what is said of it.
type Fault = (&'static str, fn(&Path));

const FAULTS: &[Fault] = &[
    ("has no mark", |path| std::fs::remove_file(path.join("index/mark")).unwrap()),
    ("store of the index is missing", |path| std::fs::remove_dir_all(path.join("index/store")).unwrap()),
    ("damaged", |path| overwrite(&path.join("index/mark"), 50, &[0xa5; 4])),
    ("format version 77", |path| {
        let mut mark = std::fs::read(path.join("index/mark")).unwrap();
        mark[32] = 77;
        let checksum = *blake3::hash(&mark[32..]).as_bytes();
        overwrite(&path.join("index/mark"), 0, &[&checksum, &mark[32..]].concat());
    }),
    ("index", |path| {
        std::fs::remove_dir_all(path.join("index")).unwrap();
        std::fs::File::create_new(path.join("index")).unwrap();
    }),
    ("", |path| {
        std::fs::remove_dir_all(path.join("index/store")).unwrap();
        std::fs::File::create_new(path.join("index/store")).unwrap();
    }),
    ("index", |path| {
        std::fs::remove_file(path.join("index/mark")).unwrap();
        std::fs::create_dir(path.join("index/mark")).unwrap();
    }),
    ("has no mark", |path| {
        std::fs::remove_dir_all(path.join("index")).unwrap();
        std::os::unix::fs::symlink("nothing", path.join("index")).unwrap();
    }),
    ("symbolic links", |path| {
        std::fs::remove_dir_all(path.join("index")).unwrap();
        std::os::unix::fs::symlink("index", path.join("index")).unwrap();
    }),
    ("damaged", |path| {
        std::fs::remove_file(path.join("index/mark")).unwrap();
        std::os::unix::fs::symlink("nothing", path.join("index/mark")).unwrap();
    }),
    ("sheet 0 is missing", |path| {
        std::fs::remove_dir_all(path.join("index/store")).unwrap();
        std::fs::create_dir(path.join("index/store")).unwrap();
    }),
    ("", |path| {
        for (name, bytes) in files(&path.join("index/store")) {
            overwrite(&path.join("index/store").join(name), 0, &vec![0xa5; bytes.len()]);
        }
    }),
    ("", |path| {
        for name in files(&path.join("index/store")).into_keys() {
            let file = std::fs::OpenOptions::new().write(true).open(path.join("index/store").join(name)).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    }),
];

#[test]
fn whatever_became_of_the_index_answers_are_those_of_a_rebuild() {
    let (_place, path) = made(34, 9000);
    drop(Index::rebuild(&environment(), &path, &mut quiet).unwrap());
    let (truth, before) = (truth(&path), log_files(&path));
    let rebuilt = std::fs::read(path.join("index/mark")).unwrap();
    for (number, (word, spoil)) in FAULTS.iter().enumerate() {
        spoil(&path);
        let spoilt = files(&path);
        let said = status(&environment(), &path).unwrap();
        if let Some(index) = opened(&path) {
            for query in some_queries(&mut Random(35), &truth, 8) {
                assert_eq!(found_by_reader(&index, &query).0, expected(&truth, &query), "{number}: {query:?}");
            }
        } else {
            // A look changes nothing, not even what is of no use.
            let outside_store = |files: BTreeMap<String, Vec<u8>>| -> Vec<(String, Vec<u8>)> {
                files.into_iter().filter(|(name, _)| !name.starts_with("index/store") && name != "index.lock").collect()
            };
            assert_eq!(outside_store(files(&path)), outside_store(spoilt), "{number}");
        }
        let mut index = Index::open(&environment(), &path).unwrap();
        index.catch_up(&mut quiet).unwrap();
        index.check(&mut quiet).unwrap();
        agrees(&mut index, &truth, 36);
        let why = index.moved_aside().unwrap_or_else(|| panic!("{number} was not noticed")).to_owned();
        assert!(why.contains(word), "{number}: {why}");
        assert!(said.unusable.is_none_or(|said| said.to_string() == why), "{number}: {why}");
        drop(index);
        assert_eq!(std::fs::read(path.join("index/mark")).unwrap(), rebuilt, "{number}");
        assert_eq!(log_files(&path), before, "{number}");
    }
    assert_eq!(status(&environment(), &path).unwrap().moved_aside, KEPT_BAD);
}

#[test]
fn what_a_process_leaves_that_died_while_it_began_is_no_bad_index() {
    let (_place, path) = made(42, 1500);
    for names in [&[][..], &["mark.tmp"]] {
        std::fs::remove_dir_all(path.join("index")).ok();
        std::fs::create_dir(path.join("index")).unwrap();
        for name in names {
            std::fs::File::create_new(path.join("index").join(name)).unwrap();
        }
        assert_eq!(caught_up(&path).moved_aside(), None, "{names:?}");
    }
}

#[test]
fn where_the_lock_cannot_be_had_the_log_is_read_and_the_error_names_the_lock() {
    let (_place, path) = made(43, 1500);
    drop(caught_up(&path));
    let lock = path.join("index.lock");
    for kind in [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::ReadOnlyFilesystem] {
        let disk = ControlledDisk::quick();
        disk.refuse_locks(kind);
        let environment = fixed_on(Arc::new(disk));
        let error = IndexReader::open(&environment, &path).err().unwrap();
        assert!(error.is_refused() && error.to_string().contains(lock.to_str().unwrap()), "{error}");
        let of_another_user = error.to_string().contains("remove it or give it to the owner");
        assert_eq!(of_another_user, kind == std::io::ErrorKind::PermissionDenied, "{error}");
        assert_eq!(Index::open(&environment, &path).err().unwrap().to_string(), error.to_string());
    }
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let error = Index::open(&environment(), &path).err().unwrap();
    assert!(!error.is_refused() && error.to_string().contains("no file stands in its place"), "{error}");
    assert!(opened(&path).is_none());
}

#[test]
fn what_was_looked_up_is_read_when_the_index_is_given_back() {
    let (_place, path) = made(44, 10_000);
    drop(caught_up(&path));
    let truth = truth(&path);
    for query in queries(&mut Random(45), &truth) {
        let index = opened(&path).unwrap();
        let places = index.look_up(&query);
        let reader = index.close();
        drop(caught_up(&path));
        let mut found = Vec::new();
        let answered = places.read::<LogError>(&reader, Unindexed::Read, &mut |read| {
            found.push(read.index);
            Ok(())
        });
        assert_eq!((found, answered.unwrap().without), (expected(&truth, &query), None), "{query:?}");
    }
}

#[test]
fn a_feeder_waits_for_whoever_reads_and_answers_intake() {
    let (_place, path) = made(37, 10_000);
    drop(caught_up(&path));
    let truth = truth(&path);
    let record = Record::parse(&truth[1000].canonical).unwrap();
    let (stream, writer) = (unescaped(record.stream().escaped()), unescaped(record.writer_id().escaped()));
    let identity = Identity { stream: &stream, writer: &writer, seq: record.seq() };
    let reader = opened(&path).unwrap();
    let feeder = Feeder::start(&environment(), &path).unwrap();
    assert!(feeder.lag().waits_for.is_some());
    assert_eq!(feeder.find_identity(&identity), Err(Unavailable::Busy));
    drop(reader);
    while feeder.lag().waits_for.is_some() {
        feeder.look();
        std::thread::yield_now();
    }
    assert_eq!(feeder.find_identity(&identity), Ok(Known::At(truth[1000].index, record.self_hash())));
}
