//! The segment store as a Raft log store, against a plain vector; its queue, its callbacks, its death.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{ControlledDisk, Random, bare_log, batch, entry, open_store, start_of};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Disk, RealDisk};
use stele_engine::environment::{Environment, Workers};
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::hard_state::{Vote, read_hard_state};
use stele_engine::number::{Alignment, NodeId, RaftIndex, SegmentNumber, Term};
use stele_engine::segment::SegmentFile;
use stele_engine::store::{AppendError, Entry, MAX_UNFLUSHED_BYTES, SegmentStore, TruncateError, read_entry_at};
use stele_engine::walk::walk;
use stele_engine::writer::OnDurable;
use tempfile::tempdir;

/// Longer than anything here takes: a callback that has not come by then is lost.
const LOST: Duration = Duration::from_secs(20);

/// What the log must be.
struct Model {
    seed: u64,
    alignment: Alignment,
    entries: Vec<Entry>,
    committed: u64,
    vote: Vote,
    /// Numbers of the callbacks handed over since the store was opened, and of those that came.
    asked: u64,
    told: Arc<Mutex<Vec<u64>>>,
}

impl Model {
    fn new(seed: u64, alignment: Alignment) -> Self {
        let vote = Vote { term: Term::new(0), node: NodeId::new(1), committed: false };
        Self { seed, alignment, entries: Vec::new(), committed: 0, vote, asked: 0, told: Arc::default() }
    }

    fn tail(&self) -> Tail {
        let mut tail = start_of(self.alignment);
        for entry in &self.entries {
            let placed = tail.place(entry.kind, entry.term, &entry.body, entry.payload.len()).unwrap();
            tail.advance(&placed);
        }
        tail
    }

    fn callback(&mut self) -> OnDurable {
        let (number, told) = (self.asked, Arc::clone(&self.told));
        self.asked += 1;
        Box::new(move |result| {
            result.unwrap();
            told.lock().unwrap().push(number);
        })
    }

    /// A random entry; some are void, some carry payloads, some end the segment.
    fn random_entry(&self, random: &mut Random) -> Entry {
        let tail = self.tail();
        let term = tail.last_term.get() + u64::from(random.below(8) == 0);
        match random.below(12) {
            0 => entry(term, EntryKind::Blank, Vec::new()),
            1 => {
                let len = 1 + random.below(9000);
                entry(term, EntryKind::Membership, random.bytes(len))
            }
            2 => entry(term, EntryKind::Seal, tail.segment.get().to_le_bytes().to_vec()),
            3 => entry(term, EntryKind::Seal, (tail.segment.get() + 1).to_le_bytes().to_vec()),
            kind => {
                let first = tail.leaves.get() + u64::from(kind == 4);
                let proposed = if kind == 5 { term + 1 } else { term };
                let room = tail.room_in_block();
                let count = if kind == 6 { room + u64::from(random.below(2) == 0) } else { 1 + random.below(60) };
                let records: Vec<_> = (0..count)
                    .map(|_| {
                        let len = 1 + random.below(if kind == 7 { 4096 } else { 40 });
                        let payload_len = random.below(if kind == 8 { 9000 } else { 50 });
                        let payload = (random.below(3) == 0).then(|| random.bytes(payload_len));
                        (random.bytes(len), payload)
                    })
                    .collect();
                Entry { term: Term::new(term), ..batch(proposed, first, &records) }
            }
        }
    }

    fn append(&mut self, store: &SegmentStore, random: &mut Random) {
        let new = self.random_entry(random);
        let place = self.tail();
        let on_durable = (random.below(3) > 0).then(|| self.callback());
        let placed = store.append(new.clone(), on_durable).unwrap();
        assert_eq!((placed.segment, placed.offset), (place.segment, place.offset), "seed {}", self.seed);
        self.entries.push(new);
    }

    /// Entries that no log holds change nothing.
    fn refuse(&self, store: &SegmentStore, random: &mut Random) {
        let tail = self.tail();
        let term = tail.last_term.get();
        let wrong = match random.below(5) {
            0 if term > 0 => entry(term - 1, EntryKind::Blank, Vec::new()),
            1 => entry(term, EntryKind::Trim, vec![1]),
            2 => entry(term, EntryKind::Seal, vec![1; 7]),
            3 => entry(term, EntryKind::Batch, random.bytes(30)),
            _ => Entry { payload: vec![0; 3].into(), ..entry(term, EntryKind::Blank, Vec::new()) },
        };
        assert!(matches!(store.append(wrong, None), Err(AppendError::Place(_))), "seed {}", self.seed);
    }

    fn truncate(&mut self, store: &SegmentStore, random: &mut Random) {
        let from = random.below(self.entries.len() as u64 + 2);
        match store.truncate(RaftIndex::new(from)) {
            Ok(()) => {
                assert!(from >= self.committed, "seed {}: {from} is committed", self.seed);
                self.entries.truncate(usize::try_from(from).unwrap());
            }
            Err(TruncateError::Committed { .. }) => {
                assert!(from < self.committed, "seed {}: {from} is not committed", self.seed);
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn check(&self, store: &SegmentStore) {
        assert_eq!(store.tail(), self.tail(), "seed {}", self.seed);
        for (index, entry) in (0..).zip(&self.entries) {
            let read = store.read_entry(RaftIndex::new(index)).unwrap();
            assert_eq!(read.as_ref(), Some(entry), "seed {}, entry {index}", self.seed);
        }
        let end = RaftIndex::new(self.entries.len() as u64);
        assert_eq!(store.read_entry(end).unwrap(), None, "seed {}", self.seed);
    }

    /// What is durable is on disk, and nothing else.
    fn check_flushed(&mut self, store: &SegmentStore, directory: &LogDirectory) {
        store.flush().unwrap();
        self.check(store);
        assert_eq!(store.durable(), self.tail().next_index, "seed {}", self.seed);
        let told = self.told.lock().unwrap().clone();
        assert_eq!(told, (0..self.asked).collect::<Vec<_>>(), "seed {}: callbacks in order, each once", self.seed);
        self.check_files(directory);
    }

    fn check_files(&self, directory: &LogDirectory) {
        let tail = self.tail();
        let mut found = Vec::new();
        walk(&RealDisk, directory, start_of(self.alignment), &tail, &mut |_, placed, _| {
            found.push(read_entry_at(&RealDisk, directory, placed.segment, placed.offset)?);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, self.entries, "seed {}", self.seed);
        let inventory = Inventory::take(&RealDisk, directory).unwrap();
        assert_eq!(inventory.last, tail.segment, "seed {}: no file behind the end", self.seed);
        let bytes = std::fs::read(directory.segment_file(SegmentFile::Frames(tail.segment))).unwrap();
        let end = usize::try_from(tail.offset.get()).unwrap();
        assert!(bytes[end..].iter().all(|byte| *byte == 0), "seed {}: nothing behind the end", self.seed);
    }

    fn reopen(&mut self, directory: &LogDirectory) -> SegmentStore {
        let (store, recovered) = open_store(Arc::new(ControlledDisk::quick()), directory).unwrap();
        assert_eq!(recovered.tail, self.tail(), "seed {}", self.seed);
        assert_eq!(recovered.cut, None, "seed {}", self.seed);
        assert!(recovered.committed.get() <= self.committed, "seed {}", self.seed);
        assert_eq!(read_hard_state(&RealDisk, &directory.hard_state()).unwrap().vote, self.vote);
        self.committed = recovered.committed.get();
        self.asked = 0;
        self.told = Arc::default();
        store
    }
}

fn run_model(seed: u64, path: &Path) {
    let mut random = Random(seed);
    let alignment = if seed.is_multiple_of(2) { Alignment::PAGE } else { Alignment::WORD };
    let directory = bare_log(path, alignment);
    let mut model = Model::new(seed, alignment);
    let mut store = model.reopen(&directory);
    for _ in 0..60 {
        match random.below(16) {
            0..8 => {
                for _ in 0..=random.below(4) {
                    model.append(&store, &mut random);
                }
            }
            8 => model.refuse(&store, &mut random),
            9 => model.truncate(&store, &mut random),
            10 => {
                let durable = store.durable().get();
                model.committed = model.committed.max(random.below(durable + 1));
                store.progress().set_committed(RaftIndex::new(model.committed));
            }
            11 => {
                let on_durable = model.callback();
                store.notify(on_durable);
            }
            12 => {
                let term = model.vote.term.get() + random.below(3);
                model.vote = Vote { term: Term::new(term), node: NodeId::new(random.below(5)), committed: false };
                let on_durable = model.callback();
                store.save_vote(model.vote, on_durable);
            }
            13 => model.check_flushed(&store, &directory),
            14 => {
                model.check_flushed(&store, &directory);
                let asked = model.callback();
                store.notify(asked);
                store.close().unwrap();
                assert_eq!(model.told.lock().unwrap().len() as u64, model.asked, "seed {seed}");
                let state = read_hard_state(&RealDisk, &directory.hard_state()).unwrap();
                assert!(state.clean.is_some(), "seed {seed}: a clean stop is marked");
                store = model.reopen(&directory);
            }
            _ => {
                model.check_flushed(&store, &directory);
                drop(store);
                let state = read_hard_state(&RealDisk, &directory.hard_state()).unwrap();
                assert_eq!(state.clean, None, "seed {seed}: a drop is no clean stop");
                store = model.reopen(&directory);
            }
        }
        model.check(&store);
    }
    model.check_flushed(&store, &directory);
    store.close().unwrap();
    model.reopen(&directory).close().unwrap();
    model.check_files(&directory);
}

#[test]
fn any_sequence_of_calls_leaves_what_a_vector_would_hold() {
    for seed in 0..40 {
        let directory = tempdir().unwrap();
        run_model(seed, &directory.path().join("log"));
    }
}

/// A store on a disk that obeys, with one entry that is durable.
fn controlled() -> (tempfile::TempDir, LogDirectory, ControlledDisk, SegmentStore) {
    let temporary = tempdir().unwrap();
    let directory = bare_log(&temporary.path().join("log"), Alignment::PAGE);
    let disk = ControlledDisk::default();
    let (store, _) = open_store(Arc::new(disk.clone()), &directory).unwrap();
    store.append(entry(1, EntryKind::Blank, Vec::new()), None).unwrap();
    store.flush().unwrap();
    (temporary, directory, disk, store)
}

fn membership(byte: u8, len: usize) -> Entry {
    entry(1, EntryKind::Membership, vec![byte; len])
}

#[test]
fn a_full_queue_answers_busy_and_loses_nothing() {
    let (_temporary, directory, disk, store) = controlled();
    disk.hold(".seg");
    let told = Arc::new(Mutex::new(Vec::new()));
    let callback = |number: u8| -> OnDurable {
        let told = Arc::clone(&told);
        Box::new(move |result| told.lock().unwrap().push((number, result.is_ok())))
    };
    let mut taken = 0;
    loop {
        match store.try_append(membership(taken, 1 << 20), Some(callback(taken))) {
            Ok(_) => taken += 1,
            Err(AppendError::Busy) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(usize::from(taken) >= (MAX_UNFLUSHED_BYTES >> 20) - 1, "{taken} MiB");
    assert!(usize::from(taken) <= MAX_UNFLUSHED_BYTES >> 20, "{taken} MiB");
    assert!(matches!(store.try_append(membership(0, 1 << 20), Some(callback(255))), Err(AppendError::Busy)));
    for index in 0..taken {
        let read = store.read_entry(RaftIndex::new(u64::from(index) + 1)).unwrap().unwrap();
        assert_eq!(read.body[0], index, "what is not durable can be read");
    }
    disk.release();
    store.flush().unwrap();
    assert_eq!(*told.lock().unwrap(), (0..taken).map(|number| (number, true)).collect::<Vec<_>>());
    store.try_append(membership(taken, 1), None).unwrap();
    store.close().unwrap();
    let (store, recovered) = open_store(Arc::new(RealDisk), &directory).unwrap();
    assert_eq!(recovered.tail.next_index.get(), u64::from(taken) + 2);
    store.close().unwrap();
}

#[test]
fn an_append_waits_for_room() {
    let (_temporary, _directory, disk, store) = controlled();
    disk.hold(".seg");
    while store.try_append(membership(1, 4 << 20), None).is_ok() {}
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.append(membership(2, 4 << 20), None));
        disk.release();
        waiting.join().unwrap().unwrap();
    });
    store.close().unwrap();
}

type Told = Receiver<(&'static str, bool)>;

fn tell(name: &'static str, tell: &Sender<(&'static str, bool)>) -> OnDurable {
    let tell = tell.clone();
    Box::new(move |result| tell.send((name, result.is_ok())).unwrap())
}

fn next(told: &Told) -> (&'static str, bool) {
    told.recv_timeout(LOST).expect("every callback is told")
}

/// What happens while a flush fails, and after it.
fn a_failed_flush_poisons(ending: &'static str, start: impl Fn(&SegmentStore, OnDurable)) {
    let (_temporary, directory, disk, store) = controlled();
    let (sender, told) = mpsc::channel();
    disk.hold(ending);
    start(&store, tell("first", &sender));
    disk.until_held();
    disk.fail(ending);
    // All of this waits behind the flush that is going to fail.
    store.append(membership(2, 10), Some(tell("append", &sender))).unwrap();
    store.notify(tell("notice", &sender));
    let vote = Vote { term: Term::new(9), node: NodeId::new(9), committed: true };
    store.save_vote(vote, tell("vote", &sender));
    std::thread::scope(|scope| {
        let (store, done) = (&store, sender.clone());
        scope.spawn(move || done.send(("flush", store.flush().is_ok())).unwrap());
        disk.release();
        for _ in 0..5 {
            let (name, good) = next(&told);
            assert!(!good, "{ending}: {name} was acknowledged");
        }
    });
    assert_eq!(disk.failed(), 1, "{ending}: a failed flush is not tried again");
    disk.stop_failing();
    assert!(matches!(store.append(membership(3, 10), None), Err(AppendError::Poisoned(_))));
    assert!(matches!(store.try_append(membership(3, 10), None), Err(AppendError::Poisoned(_))));
    assert!(store.flush().is_err());
    assert!(matches!(store.truncate(RaftIndex::new(1)), Err(TruncateError::Poisoned(_))));
    store.save_vote(vote, tell("late vote", &sender));
    assert_eq!(next(&told), ("late vote", false));
    assert!(store.close().is_err());
    assert!(told.try_recv().is_err(), "{ending}: each callback is told once");

    let state = read_hard_state(&RealDisk, &directory.hard_state()).unwrap();
    assert_eq!(state.clean, None, "{ending}: no clean mark after a failure");
    assert_ne!(state.vote, vote);
    let (store, recovered) = open_store(Arc::new(RealDisk), &directory).unwrap();
    assert!((1..=2).contains(&recovered.tail.next_index.get()), "{ending}: nothing after the failure was written");
    store.close().unwrap();
}

#[test]
fn a_failed_flush_of_frames_poisons_the_store() {
    a_failed_flush_poisons(".seg", |store, told| {
        store.append(membership(1, 10), Some(told)).unwrap();
    });
}

#[test]
fn a_failed_flush_of_payloads_poisons_the_store() {
    a_failed_flush_poisons(".pay", |store, told| {
        store.append(batch(1, 0, &[(vec![1], Some(vec![2]))]), Some(told)).unwrap();
    });
}

#[test]
fn a_failed_flush_of_a_vote_poisons_the_store() {
    a_failed_flush_poisons("hard-state", |store, told| {
        store.save_vote(Vote { term: Term::new(2), node: NodeId::new(2), committed: false }, told);
    });
}

#[test]
fn a_callback_of_an_entry_comes_before_those_behind_it_also_with_an_error() {
    let (_temporary, _directory, disk, store) = controlled();
    let (sender, told) = mpsc::channel();
    disk.hold(".seg");
    store.append(membership(1, 10), Some(tell("0", &sender))).unwrap();
    disk.until_held();
    disk.fail(".seg");
    for name in ["1", "2", "3"] {
        store.append(membership(1, 10), Some(tell(name, &sender))).unwrap();
        store.notify(tell("notice", &sender));
    }
    disk.release();
    let order: Vec<_> = (0..7).map(|_| next(&told)).collect();
    assert_eq!(order, ["0", "1", "notice", "2", "notice", "3", "notice"].map(|name| (name, false)));
    drop(store);
}

#[test]
fn a_store_that_fails_while_it_truncates_says_so() {
    let (_temporary, directory, disk, store) = controlled();
    store.append(membership(1, 10), None).unwrap();
    store.flush().unwrap();
    disk.fail(".seg");
    assert!(matches!(store.truncate(RaftIndex::new(1)), Err(TruncateError::Poisoned(_))));
    assert!(matches!(store.append(membership(2, 10), None), Err(AppendError::Poisoned(_))));
    drop(store);
    // The truncation was not answered: the entry may be there or not, but nothing else.
    let (store, recovered) = open_store(Arc::new(RealDisk), &directory).unwrap();
    assert!((1..=2).contains(&recovered.tail.next_index.get()));
    store.close().unwrap();
}

#[test]
fn votes_are_durable_in_order_with_the_entries() {
    let (_temporary, directory, disk, store) = controlled();
    let (sender, told) = mpsc::channel();
    let vote = |term| Vote { term: Term::new(term), node: NodeId::new(term), committed: term > 2 };
    disk.hold(".seg");
    store.append(membership(1, 10), Some(tell("entry of term 1", &sender))).unwrap();
    store.save_vote(vote(2), tell("vote 2", &sender));
    store.append(entry(2, EntryKind::Blank, Vec::new()), Some(tell("entry of term 2", &sender))).unwrap();
    store.save_vote(vote(3), tell("vote 3", &sender));
    disk.until_held();
    let before = read_hard_state(&RealDisk, &directory.hard_state()).unwrap().vote;
    assert_eq!(before.term.get(), 0, "a vote does not overtake");
    disk.release();
    let order: Vec<_> = (0..4).map(|_| next(&told)).collect();
    assert_eq!(order, ["entry of term 1", "vote 2", "entry of term 2", "vote 3"].map(|name| (name, true)));
    assert_eq!(read_hard_state(&RealDisk, &directory.hard_state()).unwrap().vote, vote(3));
    drop(store);
    assert_eq!(read_hard_state(&RealDisk, &directory.hard_state()).unwrap().vote, vote(3));
}

#[test]
fn entries_of_a_sealed_segment_are_not_truncated() {
    let temporary = tempdir().unwrap();
    let directory = bare_log(&temporary.path().join("log"), Alignment::PAGE);
    let (store, _) = open_store(Arc::new(RealDisk), &directory).unwrap();
    store.append(batch(1, 0, &[(vec![1], None)]), None).unwrap();
    store.append(entry(1, EntryKind::Seal, vec![0; 8]), None).unwrap();
    let end = store.tail();
    store.append(batch(1, 1, &[(vec![2], None)]), None).unwrap();
    store.close().unwrap();
    let first = RealDisk
        .open(&directory.segment_file(SegmentFile::Frames(SegmentNumber::new(0))), stele_engine::disk::Access::Write)
        .unwrap();
    first.set_mode(stele_engine::disk::Mode::Sealed).unwrap();

    let inventory = Inventory::take(&RealDisk, &directory).unwrap();
    assert_eq!(inventory.sealed.get(), 1);
    let environment = fixture::fixed().0;
    let (store, recovered) = SegmentStore::open(&environment, &directory, &inventory, end).unwrap();
    assert_eq!(recovered.tail.next_index.get(), 3);
    let before = fixture::files(&directory.segments());
    assert!(matches!(store.truncate(RaftIndex::new(1)), Err(TruncateError::Committed { .. })));
    assert_eq!(fixture::files(&directory.segments()), before);
    assert_eq!(store.read_entry(RaftIndex::new(1)).unwrap(), None, "it lies in a sealed segment");
    store.truncate(RaftIndex::new(2)).unwrap();
    assert_eq!(store.tail(), end);
    store.close().unwrap();
}

#[test]
fn whoever_reads_while_a_truncation_waits_for_the_disk_does_not_wait() {
    let (_temporary, _directory, disk, store) = controlled();
    store.keep_recent(1 << 20);
    for byte in 0..4 {
        store.append(membership(byte, 5000), None).unwrap();
    }
    store.flush().unwrap();
    let (kept, dropped) = (store.recent_entry(RaftIndex::new(1)), RaftIndex::new(2));
    disk.hold(".seg");
    std::thread::scope(|scope| {
        let truncation = scope.spawn(|| store.truncate(dropped));
        disk.until_held();
        let (tell, told) = mpsc::channel();
        scope.spawn(|| {
            let end = (store.tail().next_index, store.durable());
            let entries = (store.read_entry(RaftIndex::new(1)).unwrap(), store.recent_entry(dropped));
            // What is appended now follows what is kept, and is written behind the truncation.
            let placed = store.append_beyond(membership(9, 5000), None).unwrap();
            let tell = tell;
            tell.send((end, entries, placed.header.index)).unwrap();
        });
        let told = told.recv_timeout(LOST);
        // First of all, so that nothing waits for ever where this fails.
        disk.release();
        let (end, entries, placed) = told.expect("an answer while the disk hangs");
        assert_eq!((end, placed), ((dropped, dropped), dropped));
        assert_eq!(entries, (kept, None));
        truncation.join().unwrap().unwrap();
    });
    store.flush().unwrap();
    store.keep_recent(0);
    assert_eq!(store.read_entry(dropped).unwrap(), Some(membership(9, 5000)));
    assert_eq!(store.tail().next_index.get(), 3);
    store.close().unwrap();
}

#[test]
fn a_refused_truncation_changes_nothing() {
    let (_temporary, directory, _disk, store) = controlled();
    for byte in 0..4 {
        store.append(membership(byte, 5000), None).unwrap();
    }
    store.flush().unwrap();
    store.progress().set_committed(RaftIndex::new(3));
    let tail = store.tail();
    store.close().unwrap();
    let (store, recovered) = open_store(Arc::new(RealDisk), &directory).unwrap();
    assert_eq!(recovered.committed.get(), 3, "the clean stop's slot says what was committed");
    let before = fixture::files(&directory.segments());
    for from in 0..3 {
        let refused = store.truncate(RaftIndex::new(from));
        assert!(matches!(refused, Err(TruncateError::Committed { .. })), "{from}");
    }
    assert_eq!(fixture::files(&directory.segments()), before);
    assert_eq!(store.tail(), tail);
    store.truncate(RaftIndex::new(3)).unwrap();
    assert_eq!(store.tail().next_index.get(), 3);
    drop(store);
    assert!(RealDisk.is_locked(&directory.lock()).is_ok_and(|locked| !locked));
}

#[test]
fn a_truncation_may_remove_the_file_whose_length_the_preparer_was_to_look_at() {
    let temporary = tempdir().unwrap();
    let directory = bare_log(&temporary.path().join("log"), Alignment::PAGE);
    let environment = Environment { workers: Workers::Inline, ..fixture::fixed().0 };
    let open = || {
        let inventory = Inventory::take(&RealDisk, &directory).unwrap();
        let start = Tail::start(inventory.alignment, inventory.height);
        let (store, _) = SegmentStore::open(&environment, &directory, &inventory, start).unwrap();
        store.set_seal_bytes(64 << 10);
        store
    };
    let store = open();
    for segment in 0_u64..2 {
        store.append(entry(1, EntryKind::Membership, vec![1; 100]), None).unwrap();
        store.append(entry(1, EntryKind::Seal, segment.to_le_bytes().to_vec()), None).unwrap();
    }
    store.flush().unwrap();
    drop(store);

    // Opened again, it has not seen how long segment 1 was; half of segment 2 is filled, so a file is wanted.
    let store = open();
    for _ in 0..8 {
        store.append(entry(1, EntryKind::Membership, vec![2; 8000]), None).unwrap();
    }
    store.flush().unwrap();
    store.truncate(RaftIndex::new(1)).unwrap();
    assert!(!directory.segment_file(SegmentFile::Frames(SegmentNumber::new(1))).exists());
    store.prepare_step();
    assert!(directory.prepared().exists(), "it is prepared all the same");
    store.append(entry(1, EntryKind::Membership, vec![3; 100]), None).unwrap();
    store.flush().unwrap();
    store.close().unwrap();
}
