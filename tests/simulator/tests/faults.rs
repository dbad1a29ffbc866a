//! Faults of the list, one by one, each by the name of what must happen.

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use small_log::{LOG, create, environment, new_disk, open, push, read_all};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Access, Disk, DiskError, DiskFile, DiskLock, Locking, Mode, Status};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::hard_state::{Vote, read_hard_state};
use stele_engine::local::LocalLog;
use stele_engine::number::{NodeId, RaftIndex, Term};
use stele_engine::store::{Entry, SegmentStore};
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;

const SEGMENT: &str = "/log/segments/0000000000000000.seg";
const PAYLOADS: &str = "/log/segments/0000000000000000.0.pay";

fn once(call: Call, path: &str, flavour: Flavour) -> Fault {
    let calls = Calls::At(call, PathBuf::from(path));
    Fault { calls, nth: 1, lasting: Lasting::Once, flavour, cause: Cause::Io }
}

/// A log with a record that is durable.
fn started() -> (FakeDisk, LocalLog) {
    let disk = new_disk();
    let mut log = create(&disk).unwrap();
    push(&mut log, "s", b"durable").unwrap();
    log.flush().unwrap();
    (disk, log)
}

/// The disk is good again, and the log does nothing any more, and says so.
fn is_poisoned(disk: &FakeDisk, mut log: LocalLog, what: &str) {
    let calls = [Call::Write, Call::Sync, Call::SetLen, Call::Rename, Call::Create];
    let count = || calls.map(|call| disk.count(call));
    let before = count();
    for _ in 0..2 {
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        let late = push(&mut log, "s", b"late")
            .and_then(|_| log.cut(Box::new(move |result| *tell.lock().unwrap() = Some(result))));
        assert!(late.is_err() || !matches!(*told.lock().unwrap(), Some(Ok(()))), "{what}: acknowledged");
        assert!(matches!(log.flush(), Err(LogError::Poisoned(_))), "{what}");
        assert!(matches!(log.end_segment(), Err(LogError::Poisoned(_))), "{what}");
        assert!(matches!(log.checkpoint(), Err(LogError::Poisoned(_))), "{what}: nothing is signed");
    }
    assert!(log.close().is_err(), "{what}: no clean stop");
    assert_eq!(count(), before, "{what}: nothing is written or flushed after a failure");
    let state = read_hard_state(disk, &LogDirectory::new(LOG).hard_state()).unwrap();
    assert_eq!(state.clean, None, "{what}");
}

/// What was acknowledged is there, and the log goes on, after a crash and after a kill.
fn keeps_two_records(disk: &FakeDisk, what: &str) {
    for seed in 0..10 {
        for disk in [disk.snapshot().crash(&mut SplitMix64::new(seed)), disk.snapshot().kill()] {
            let mut log = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(log.size().get() >= 2, "{what}");
            push(&mut log, "s", b"again").unwrap();
            log.close().unwrap();
            assert_eq!(read_all(&disk).unwrap()[1].payload.as_ref().unwrap().1, b"durable", "{what}");
        }
    }
}

/// FAULTS line 12.
#[test]
fn a_flush_that_fails_once_and_then_works_poisons_the_log_for_good() {
    for path in [SEGMENT, PAYLOADS] {
        for flavour in [Flavour::Failed, Flavour::FailedButApplied] {
            let (disk, mut log) = started();
            // An idle writer may meet the fault with a slot of its own.
            push(&mut log, "s", b"lost").unwrap();
            disk.inject(once(Call::Sync, path, flavour));
            let what = format!("{path}, {flavour:?}");
            assert!(matches!(log.flush(), Err(LogError::Poisoned(_))), "{what}");
            is_poisoned(&disk, log, &what);
            keeps_two_records(&disk, &what);
        }
    }
}

/// FAULTS line 13: after it the position is not known, so the log is poisoned.
#[test]
fn a_write_that_fails_or_is_cut_short_poisons_the_log_and_leaves_what_was_durable() {
    for path in [SEGMENT, PAYLOADS] {
        for flavour in [Flavour::Failed, Flavour::FailedButApplied] {
            let (disk, mut log) = started();
            push(&mut log, "s", b"lost").unwrap();
            disk.inject(once(Call::Write, path, flavour));
            let what = format!("{path}, {flavour:?}");
            assert!(matches!(log.flush(), Err(LogError::Poisoned(_))), "{what}");
            is_poisoned(&disk, log, &what);
            keeps_two_records(&disk, &what);
        }
    }
    // As much as fits is written, here a part of the payload or of the frame.
    for room in [0, 1, 30, 60, 100, 300] {
        let (disk, mut log) = started();
        push(&mut log, "s", b"lost").unwrap();
        disk.set_capacity(disk.used() + room, Flavour::FailedButApplied);
        let what = format!("room for {room} bytes");
        assert!(matches!(log.flush(), Err(LogError::Poisoned(_))), "{what}");
        disk.set_capacity(1 << 40, Flavour::Failed);
        is_poisoned(&disk, log, &what);
        keeps_two_records(&disk, &what);
    }
}

/// A disk whose reads of segment and payload files end early, where it is told so: the n-th from now on.
struct Short {
    disk: FakeDisk,
    left: Arc<AtomicUsize>,
}

struct ShortFile(Box<dyn DiskFile>, Arc<AtomicUsize>);

impl DiskFile for ShortFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        let turn = self.1.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        let len = if turn == Ok(1) { buffer.len() / 2 } else { buffer.len() };
        self.0.read_at(&mut buffer[..len], at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.0.write_at(bytes, at)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.0.sync()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.0.set_len(len)
    }

    fn set_mode(&self, mode: Mode) -> Result<(), DiskError> {
        self.0.set_mode(mode)
    }

    fn status(&self) -> Result<Status, DiskError> {
        self.0.status()
    }
}

impl Disk for Short {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        Ok(Box::new(ShortFile(self.disk.open(path, access)?, Arc::clone(&self.left))))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.create_directory(path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.disk.sync_directory(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        self.disk.free_bytes(path)
    }

    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError> {
        self.disk.lock(path, note)
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        self.disk.is_locked(path)
    }
}

/// Opens the store of a log that was closed; it must be the only one.
fn store(environment: &Environment) -> (SegmentStore, Box<dyn DiskLock>) {
    let directory = LogDirectory::new(LOG);
    let Locking::Taken(lock) = environment.disk.lock(&directory.lock(), "test").unwrap() else { panic!("locked") };
    let inventory = Inventory::take(environment.disk.as_ref(), &directory).unwrap();
    let start = Tail::start(inventory.alignment, inventory.height);
    (SegmentStore::open(environment, &directory, &inventory, start).unwrap().0, lock)
}

/// FAULTS line 14: what is read for a follower is an entry of the log or an error.
#[test]
fn an_entry_that_cannot_be_read_is_an_error_and_never_a_shortened_one() {
    let (disk, log) = started();
    log.close().unwrap();
    let left = Arc::new(AtomicUsize::new(0));
    let short = Short { disk: disk.clone(), left: Arc::clone(&left) };
    let (store, _lock) = store(&Environment { disk: Arc::new(short), ..environment(&disk) });
    let end = store.tail().next_index.get();
    assert!(end >= 4, "membership, blank, genesis, a record");
    let entry = |index| store.read_entry(RaftIndex::new(index));
    let truth: Vec<_> = (0..end).map(|index| entry(index).unwrap().unwrap()).collect();
    assert!(truth.iter().any(|entry| !entry.payload.is_empty()));
    let mut cut = 0;
    for (index, truth) in (0..).zip(&truth) {
        let reads = disk.count(Call::Read);
        entry(index).unwrap();
        let reads = disk.count(Call::Read) - reads;
        assert!(reads >= 2, "header and body");
        for nth in 1..=reads {
            for flavour in [Flavour::Failed, Flavour::FailedButApplied] {
                let calls = Calls::Only(Call::Read);
                disk.inject(Fault { calls, nth, lasting: Lasting::Once, flavour, cause: Cause::Io });
                let read = entry(index);
                assert!(matches!(read, Err(LogError::Disk(_))), "entry {index}, read {nth}: {read:?}");
                disk.clear_faults();
            }
            left.store(usize::try_from(nth).unwrap(), Ordering::Release);
            match entry(index) {
                Ok(read) => assert_eq!(read.as_ref(), Some(truth), "entry {index}, read {nth} ended early"),
                Err(error) => {
                    cut += 1;
                    assert!(matches!(error, LogError::Damaged(_) | LogError::Disk(_)), "{error}");
                }
            }
            left.store(0, Ordering::Release);
        }
        assert_eq!(entry(index).unwrap().as_ref(), Some(truth), "the store goes on");
    }
    assert!(cut >= end, "reads were cut short");
}

/// What the store is asked, in order.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Vote(u64),
    Append(u64, u8),
    Truncate(u64),
}

const STREAM: [Asked; 8] = [
    Asked::Vote(2),
    Asked::Append(2, 1),
    Asked::Append(2, 2),
    Asked::Vote(3),
    Asked::Truncate(4),
    Asked::Append(3, 3),
    Asked::Append(3, 4),
    Asked::Vote(4),
];

/// Entries that the log has before.
const BEFORE: usize = 3;

/// The vote's term and the entries behind those of birth, after so many of [`STREAM`].
fn state_after(asked: usize) -> (u64, Vec<(u64, u8)>) {
    let (mut vote, mut entries) = (1, Vec::new());
    for asked in &STREAM[..asked] {
        match *asked {
            Asked::Vote(term) => vote = term,
            Asked::Append(term, byte) => entries.push((term, byte)),
            Asked::Truncate(from) => entries.truncate(usize::try_from(from).unwrap() - BEFORE),
        }
    }
    (vote, entries)
}

/// Asks everything without waiting more than it must; answers how much was acknowledged when the store ended.
fn ask_everything(disk: &FakeDisk) -> usize {
    let (store, _lock) = store(&environment(disk));
    assert_eq!(store.tail().next_index.get(), BEFORE as u64);
    let acknowledged = Arc::new(Mutex::new(0));
    for (number, asked) in STREAM.iter().enumerate() {
        let told = Arc::clone(&acknowledged);
        let tell = move |result: Result<(), _>| {
            if result.is_ok() {
                let mut told = told.lock().unwrap();
                assert!(*told <= number, "told in order");
                *told = number + 1;
            }
        };
        match *asked {
            Asked::Vote(term) => {
                let vote = Vote { term: Term::new(term), node: NodeId::new(1), committed: true };
                store.save_vote(vote, Box::new(tell));
            }
            Asked::Append(term, byte) => {
                let body = Bytes::from(vec![byte; 40]);
                let entry = Entry { term: Term::new(term), kind: EntryKind::Membership, body, payload: Bytes::new() };
                if store.append(entry, Some(Box::new(tell))).is_err() {
                    break;
                }
            }
            Asked::Truncate(from) => match store.truncate(RaftIndex::new(from)) {
                Ok(()) => tell(Ok(())),
                Err(_poisoned) => break,
            },
        }
    }
    drop(store);
    *acknowledged.lock().unwrap()
}

/// FAULTS line 10: whenever the power fails, what is on the disk is what some first part of the stream made,
/// and no later part of it came before an earlier one.
#[test]
fn votes_appends_and_truncations_reach_the_disk_in_the_order_given() {
    let born = new_disk();
    create(&born).unwrap().close().unwrap();
    let born = born.snapshot();
    let mut met = BTreeSet::new();
    // From the first call after opening on.
    let probe = born.snapshot();
    drop(store(&environment(&probe)));
    let opening = probe.calls();
    for call in 1.. {
        let disk = born.snapshot();
        disk.power_off_in(opening + call, if call % 2 == 0 { Flavour::Failed } else { Flavour::FailedButApplied });
        let acknowledged = ask_everything(&disk);
        let done = !disk.is_off();
        for seed in 0..4 {
            let crashed = disk.crash(&mut SplitMix64::new(call * 4 + seed));
            let vote = read_hard_state(&crashed, &LogDirectory::new(LOG).hard_state()).unwrap().vote.term.get();
            let (store, _lock) = store(&environment(&crashed));
            let end = store.tail().next_index.get();
            let entries: Vec<_> = (BEFORE as u64..end)
                .map(|index| store.read_entry(RaftIndex::new(index)).unwrap().unwrap())
                .map(|entry| (entry.term.get(), entry.body[0]))
                .collect();
            let found = (vote, entries);
            let part = (acknowledged..=STREAM.len()).find(|asked| state_after(*asked) == found);
            let part = part.unwrap_or_else(|| {
                panic!("call {call}: {found:?} after {acknowledged} of {STREAM:?}\n{}", disk.trace())
            });
            met.insert(part);
        }
        if done {
            assert_eq!(acknowledged, STREAM.len());
            break;
        }
    }
    assert_eq!(met.first(), Some(&0));
    assert_eq!(met.last(), Some(&STREAM.len()));
}
