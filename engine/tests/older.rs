//! Looking for many records by their hashes reads each table, and each frame that matters, once.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fixture;

use std::path::Path;
use std::sync::Arc;

use fixture::{ControlledDisk, Random, fixed_on};
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::index::hashes::PAGE_ROWS;
use stele_engine::index::older::{Bounds, FoundHashes, Whereabouts, find_hashes};
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::reader::{LogReader, Payloads};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject};
use stele_proof::{LeafIndex, UnixMillis};
use tempfile::TempDir;

/// Records of a block.
const BLOCK: u64 = 512;
/// Records of a batch.
const BATCH: u64 = 128;

const FREE: Bounds = Bounds { leaves: u64::MAX, pages: u64::MAX };

/// A closed log of this many records and its own, in batches.
fn made(records: u64) -> (TempDir, Vec<SelfHash>) {
    let place = tempfile::tempdir().unwrap();
    let environment = fixed_on(Arc::new(ControlledDisk::quick()));
    let options = CreateOptions {
        block_height: BlockHeight::new(9).unwrap(),
        frame_align: Alignment::WORD,
        ..CreateOptions::new(Origin::new("example.com/older").unwrap())
    };
    let mut log = LocalLog::create(&environment, &place.path().join("log"), &options).unwrap();
    for number in 0..records {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(1_000_000 + number),
            writer_id: "w",
            stream: "s",
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        log.push(&Submission::Draft { builder: &builder, payload: None }).unwrap();
        if number % BATCH == BATCH - 1 {
            log.flush().unwrap();
        }
    }
    log.close().unwrap();
    let mut hashes = Vec::new();
    let reader = LogReader::open(&environment, &place.path().join("log")).unwrap();
    reader
        .read::<LogError>(LeafIndex::new(0), LeafIndex::new(u64::MAX), Payloads::Leave, &mut |record| {
            hashes.push(SelfHash::of(&record.canonical));
            Ok(())
        })
        .unwrap();
    (place, hashes)
}

/// The answer, and how often a file of frames was opened for it: once for each frame that was read.
fn look(path: &Path, wanted: &[SelfHash], bounds: Bounds) -> (FoundHashes, u64) {
    let disk = ControlledDisk::quick();
    let environment: Environment = fixed_on(Arc::new(disk.clone()));
    let reader = LogReader::open(&environment, path).unwrap();
    let before = disk.opened(".seg");
    let found = find_hashes(&reader, wanted, bounds).unwrap();
    (found, disk.opened(".seg") - before)
}

fn absent(random: &mut Random) -> SelfHash {
    SelfHash::of(&random.bytes(32))
}

#[test]
fn a_whole_message_of_old_records_reads_each_table_and_frame_once() {
    let (place, hashes) = made(20 * BLOCK);
    let path = place.path().join("log");
    let (count, segments) = (hashes.len() as u64, 20);
    // All of them in any order, some twice, and as many that are in no log.
    let mut random = Random(5);
    let mut wanted: Vec<(SelfHash, Whereabouts)> =
        hashes.iter().zip(0..).map(|(hash, leaf)| (*hash, Whereabouts::At(LeafIndex::new(leaf)))).collect();
    wanted.extend((0..500).map(|_| (absent(&mut random), Whereabouts::Nowhere)));
    wanted.extend_from_within(..100);
    for place in (1..wanted.len()).rev() {
        wanted.swap(place, usize::try_from(random.below(place as u64 + 1)).unwrap());
    }
    let asked: Vec<SelfHash> = wanted.iter().map(|(hash, _)| *hash).collect();
    let (found, frames) = look(&path, &asked, FREE);
    let expected: Vec<Whereabouts> = wanted.iter().map(|(_, whereabouts)| *whereabouts).collect();
    assert_eq!(found.whereabouts, expected);
    // A batch and, at the seams, some of the log's own records; what is open has less than a block.
    let all_frames = count / BATCH + 6 * segments;
    assert!(frames <= all_frames, "{frames} frames were read of {all_frames}");
    let pages = segments * (BLOCK.div_ceil(PAGE_ROWS as u64) + 1) + all_frames;
    assert!(found.pages_read <= pages, "{} pages were read of {pages}", found.pages_read);
    assert!(found.leaves_read <= BLOCK, "{} leaves were read one by one", found.leaves_read);
}

#[test]
fn what_is_found_in_the_newest_segments_asks_no_older_one() {
    let (place, hashes) = made(20 * BLOCK);
    let path = place.path().join("log");
    let newest = &hashes[18 * 512 + 100..18 * 512 + 130];
    let (found, frames) = look(&path, newest, FREE);
    assert!(found.whereabouts.iter().all(|whereabouts| matches!(whereabouts, Whereabouts::At(_))));
    assert!(found.pages_read <= 12 && frames <= 6, "{found:?}, {frames} frames");
}

#[test]
fn behind_the_bound_one_hash_is_looked_for_to_the_end_and_the_others_are_not_known() {
    let (place, hashes) = made(20 * BLOCK);
    let path = place.path().join("log");
    let mut random = Random(7);
    // The first is in no log; of those found before the bound it is known where they are.
    let wanted: Vec<SelfHash> =
        [absent(&mut random), hashes[19 * 512], hashes[10], absent(&mut random), hashes[11]].into();
    let bounds = Bounds { pages: 6, ..FREE };
    let (found, _) = look(&path, &wanted, bounds);
    let at = |leaf| Whereabouts::At(LeafIndex::new(leaf));
    let unknown = Whereabouts::Unknown;
    assert_eq!(found.whereabouts, [Whereabouts::Nowhere, at(19 * 512), unknown, unknown, unknown]);
    assert!(found.pages_read <= 6 + 10 + 2 * 20, "{found:?}");
    // Asked for what is left, it tells one more each time, in any case.
    let (found, _) = look(&path, &wanted[2..], Bounds { pages: 0, ..FREE });
    assert_eq!(found.whereabouts, [at(10), unknown, unknown]);
    let (found, _) = look(&path, &wanted[3..], Bounds { pages: 0, ..FREE });
    assert_eq!(found.whereabouts, [Whereabouts::Nowhere, unknown]);
}

#[test]
fn a_segment_without_a_table_is_read_once_or_is_a_gap() {
    let (place, hashes) = made(4 * BLOCK);
    let path = place.path().join("log");
    let tables: Vec<_> = std::fs::read_dir(path.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hashes"))
        .collect();
    assert!(tables.len() >= 3);
    tables.iter().for_each(|table| std::fs::remove_file(table).unwrap());
    let mut wanted = hashes.clone();
    wanted.push(absent(&mut Random(9)));
    let all = |found: &FoundHashes| {
        let at = found.whereabouts.iter().zip(0..).take(hashes.len());
        at.filter(|(whereabouts, leaf)| **whereabouts == Whereabouts::At(LeafIndex::new(*leaf))).count()
    };
    let (found, frames) = look(&path, &wanted, FREE);
    assert_eq!((all(&found), found.whereabouts.last()), (hashes.len(), Some(&Whereabouts::Nowhere)));
    assert_eq!(found.leaves_read, hashes.len() as u64);
    assert!(frames <= hashes.len() as u64 / BATCH + 6 * 5, "{frames} frames were read");
    let (found, _) = look(&path, &wanted, Bounds { leaves: 600, ..FREE });
    assert!(found.leaves_read <= 600 + BLOCK && all(&found) >= 512, "{}", found.leaves_read);
    let rest = found.whereabouts.iter().filter(|whereabouts| !matches!(whereabouts, Whereabouts::At(_)));
    assert!(rest.clone().count() > 0 && rest.clone().all(|whereabouts| *whereabouts == Whereabouts::Unknown));
}
