//! A node's life with its store, and the examination of what is left of it.

use std::sync::{Arc, Mutex};

use stele_engine::directory::{Inventory, LogDirectory, remove_temporaries};
use stele_engine::disk::{Access, Disk};
use stele_engine::environment::{Environment, Workers};
use stele_engine::error::{LogError, Poisoned};
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::generation::GenerationError;
use stele_engine::hard_state::{HardState, HardStateFile, read_hard_state};
use stele_engine::number::{Alignment, BlockHeight, Group, RaftIndex, SegmentNumber};
use stele_engine::recovery::Recovered;
use stele_engine::ring::Slot;
use stele_engine::segment::{FRAMES_START, FileHeader, PAGE_BYTES, SegmentFile};
use stele_engine::store::{AppendError, SegmentStore, TruncateError};
use stele_engine::writer::OnDurable;
use stele_proof::UnixMillis;
use stele_simulator::fake_disk::{FakeDisk, Guard, Media};
use stele_simulator::fault::Flavour;
use stele_simulator::mishap::How;
use stele_simulator::random::SplitMix64;
use stele_simulator::schedules::Story;
use stele_simulator::source::Source;

use crate::model::{Asked, HEIGHT, Model, NODE};

const LOG: &str = "/var/lib/log";

pub(crate) fn directory() -> LogDirectory {
    LogDirectory::new(LOG)
}

/// What is the same in all lives of a schedule.
pub(crate) struct World {
    source: Arc<Source>,
}

/// A log without an entry, durable.
pub(crate) fn born(alignment: Alignment, media: Media, seed: u64) -> FakeDisk {
    let disk = FakeDisk::new(media, seed);
    disk.create_directory(&directory().segments()).unwrap();
    let vote = Model::new().votes[0].vote;
    let state = HardState {
        vote,
        node: NODE,
        starts: 0,
        incarnation: 0,
        stale: false,
        clean: None,
        doubt: None,
        peers: Vec::new(),
    };
    HardStateFile::create(&disk, &directory().hard_state(), state).unwrap();
    let segment = SegmentNumber::new(0);
    let (start, end) = (FRAMES_START, FRAMES_START);
    let slot = Slot { segment, group: Group::new(1), start, end, committed: RaftIndex::new(0) };
    let header = FileHeader { segment, part: None, alignment, height: BlockHeight::new(HEIGHT).unwrap() };
    let file = disk.open(&directory().segment_file(SegmentFile::Frames(segment)), Access::Create).unwrap();
    file.set_len(FRAMES_START.get()).unwrap();
    file.write_at(&header.encode(), 0).unwrap();
    file.write_at(&slot.encode(), Slot::place(slot.group)).unwrap();
    disk.settle();
    disk.set_guard(Guard::Records);
    disk.snapshot()
}

impl World {
    pub(crate) fn new(random: SplitMix64) -> Self {
        Self { source: Arc::new(Source::new(UnixMillis::new(1_000_000), random)) }
    }

    pub(crate) fn open(&self, disk: &FakeDisk) -> Result<(SegmentStore, Recovered), LogError> {
        let environment = Environment {
            disk: Arc::new(disk.clone()),
            clock: Arc::<Source>::clone(&self.source),
            entropy: Arc::<Source>::clone(&self.source),
            workers: Workers::Inline,
        };
        remove_temporaries(disk, &directory())?;
        let inventory = Inventory::take(disk, &directory())?;
        let start = Tail::start(inventory.alignment, inventory.height);
        SegmentStore::open(&environment, &directory(), &inventory, start)
    }
}

/// Why a life ended.
#[derive(Debug)]
pub(crate) enum End {
    Done,
    Failed(#[expect(dead_code, reason = "printed")] String),
}

/// The node stops: its store met a failure.
struct Stopped(String);

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        let rot = matches!(error, LogError::Damaged(_) | LogError::Generation(GenerationError::Damaged(_)));
        assert!(!rot, "a failed call was taken for rot: {error}");
        Self(error.to_string())
    }
}

impl From<Poisoned> for Stopped {
    fn from(error: Poisoned) -> Self {
        Self(error.to_string())
    }
}

/// What is promised when a callback is told that all is well.
struct Promise {
    entries: usize,
    vote: usize,
}

/// A process at work.
pub(crate) struct Node<'w> {
    world: &'w World,
    disk: &'w FakeDisk,
    model: &'w mut Model,
    random: SplitMix64,
    story: &'w Story,
    /// Callbacks handed over, in order, since the store was opened; and what came of them.
    promises: Vec<Promise>,
    told: Arc<Mutex<Vec<(usize, bool)>>>,
    heard: usize,
}

impl<'w> Node<'w> {
    /// Opens the log and works until the steps are done or something goes wrong.
    pub(crate) fn live(
        world: &'w World,
        disk: &'w FakeDisk,
        model: &'w mut Model,
        random: SplitMix64,
        story: &'w Story,
    ) -> End {
        let (promises, told) = (Vec::new(), Arc::default());
        let mut node = Self { world, disk, model, random, story, promises, told, heard: 0 };
        let worked = node.open().and_then(|store| node.work(store));
        node.listen();
        match worked {
            Ok(()) => End::Done,
            Err(Stopped(why)) => End::Failed(why),
        }
    }

    fn open(&mut self) -> Result<SegmentStore, Stopped> {
        let (store, recovered) = self.world.open(self.disk)?;
        (self.heard, self.told) = (0, Arc::default());
        self.promises.clear();
        // Nothing fails while it is looked at: that is no part of what a node does.
        let snapshot = self.disk.snapshot();
        compare(&store, &recovered, &snapshot, self.model);
        Ok(store)
    }

    fn work(&mut self, mut store: SegmentStore) -> Result<(), Stopped> {
        for _ in 0..self.random.below(40) {
            match self.random.below(100) {
                0..45 => {
                    let count = 1 + self.random.below(4);
                    self.append(&store, count)?;
                }
                45..60 => self.truncate_often(&store)?,
                60..68 => self.vote(&store),
                68..76 => self.commit(&store),
                76..84 => store.confirm_idle(),
                84..90 => store.flush()?,
                90..96 => self.read(&store),
                _ => store = self.reopen(store)?,
            }
            if self.random.percent(50) {
                self.fail_soon(4, 8);
                store.write_queued();
            }
            self.listen();
        }
        if self.random.percent(50) {
            store.close()?;
            self.all_is_durable();
        }
        Ok(())
    }

    /// Lets the power fail within the next calls, in so many of a hundred cases.
    fn fail_soon(&mut self, percent: u64, calls: u64) {
        if self.random.percent(percent) {
            let (calls, flavour) = (1 + self.random.below(calls), *self.random.pick(&Flavour::ALL));
            self.disk.power_off_in(calls, flavour);
            self.story.tell(format!("the power fails {calls} calls after call {}, {flavour:?}", self.disk.calls()));
        }
    }

    fn promise(&mut self) -> OnDurable {
        let (number, told) = (self.promises.len(), Arc::clone(&self.told));
        self.promises.push(Promise { entries: self.model.entries.len(), vote: self.model.votes.len() - 1 });
        Box::new(move |result| told.lock().unwrap().push((number, result.is_ok())))
    }

    /// Takes note of what was told.
    fn listen(&mut self) {
        for (number, good) in std::mem::take(&mut *self.told.lock().unwrap()) {
            assert_eq!(number, self.heard, "callbacks come in order, each once");
            self.heard += 1;
            if good {
                let Promise { entries, vote } = self.promises[number];
                self.model.durable = self.model.durable.max(entries);
                self.model.vote = self.model.vote.max(vote);
            }
        }
    }

    fn all_is_durable(&mut self) {
        self.listen();
        assert_eq!(self.heard, self.promises.len(), "somebody was never told");
        self.model.durable = self.model.entries.len();
        self.model.vote = self.model.votes.len() - 1;
    }

    fn append(&mut self, store: &SegmentStore, count: u64) -> Result<(), Stopped> {
        for _ in 0..count {
            let again = self.model.again().filter(|_| self.random.percent(40));
            let asked = again.unwrap_or_else(|| self.model.any_entry(&mut self.random));
            self.append_one(store, asked)?;
        }
        Ok(())
    }

    fn append_one(&mut self, store: &SegmentStore, asked: Asked) -> Result<(), Stopped> {
        let place = self.model.entries.len();
        // The number is taken before the entry is in the model, and promises it with all before.
        let on_durable = self.random.percent(70).then(|| self.promise());
        if let (Some(_), Some(promise)) = (&on_durable, self.promises.last_mut()) {
            promise.entries = place + 1;
        }
        let told = on_durable.is_some();
        let placed = if self.random.percent(50) {
            store.append(asked.entry.clone(), on_durable)
        } else {
            store.try_append(asked.entry.clone(), on_durable)
        };
        match placed {
            Ok(placed) => {
                assert_eq!(placed.header.index.get(), place as u64);
                assert_eq!(placed.segment.get(), self.model.segment(place), "entry {place} is in another segment");
                assert_eq!(placed.header.first_leaf.get(), self.model.leaves(place));
                assert_eq!(placed.ends_segment, asked.ends, "entry {place}");
                self.model.append(asked);
                Ok(())
            }
            Err(AppendError::Poisoned(poisoned)) => {
                // The callback of an entry that was refused is dropped.
                self.promises.truncate(self.promises.len() - usize::from(told));
                Err(poisoned.into())
            }
            Err(error) => panic!("a good entry was refused: {error}"),
        }
    }

    fn vote(&mut self, store: &SegmentStore) {
        let vote = self.model.new_vote(&mut self.random);
        self.model.ask_vote(vote);
        let on_durable = self.promise();
        store.save_vote(vote, on_durable);
    }

    /// Something more is committed, which on a one-voter log is durable (I-STORE-1).
    fn commit(&mut self, store: &SegmentStore) {
        self.listen();
        let (least, most) = (self.model.committed, self.model.durable);
        let step = self.random.below((most - least.min(most)) as u64 + 1);
        self.model.committed = least.max((least + usize::try_from(step).unwrap()).min(most));
        store.progress().set_committed(RaftIndex::new(self.model.committed as u64));
    }

    fn truncate_often(&mut self, store: &SegmentStore) -> Result<(), Stopped> {
        loop {
            let len = self.model.entries.len() as u64;
            let back = match self.random.below(10) {
                0..6 => self.random.below(4),
                6..9 => self.random.below(len.saturating_sub(self.model.committed as u64) + 1),
                _ => self.random.below(len + 1),
            };
            let from = usize::try_from(len.saturating_sub(back)).unwrap() + usize::from(self.random.percent(3));
            self.fail_soon(15, 30);
            self.truncate(store, from)?;
            if self.random.percent(60) {
                self.append(store, 1)?;
            }
            if self.random.percent(60) {
                return Ok(());
            }
        }
    }

    fn truncate(&mut self, store: &SegmentStore, from: usize) -> Result<(), Stopped> {
        let asked = self.model.entries.len();
        let result = store.truncate(RaftIndex::new(from as u64));
        self.listen();
        match result {
            Err(TruncateError::Committed { .. }) => {
                assert!(from < self.model.committed, "a truncation from {from} was refused; {}", self.model);
            }
            Err(TruncateError::Poisoned(poisoned)) => {
                self.model.begin_cut(from);
                return Err(poisoned.into());
            }
            Ok(()) if from >= asked => {}
            Ok(()) => {
                assert!(from >= self.model.committed, "committed entries were truncated from {from}; {}", self.model);
                self.all_is_durable();
                self.model.begin_cut(from);
                self.model.end_cut(from);
            }
            Err(error) => panic!("truncate: {error}"),
        }
        Ok(())
    }

    fn read(&mut self, store: &SegmentStore) {
        let index = self.random.below(self.model.entries.len() as u64 + 2);
        let asked = self.model.entries.get(usize::try_from(index).unwrap());
        match store.read_entry(RaftIndex::new(index)) {
            Ok(read) => assert!(read.as_ref() == asked.map(|asked| &asked.entry), "entry {index} is another"),
            Err(LogError::Disk(_)) => {}
            Err(error) => panic!("entry {index}: {error}"),
        }
    }

    fn reopen(&mut self, store: SegmentStore) -> Result<SegmentStore, Stopped> {
        if self.random.percent(50) {
            store.close()?;
            self.all_is_durable();
        } else {
            drop(store);
            self.listen();
        }
        self.fail_soon(15, 40);
        self.open()
    }
}

/// Compares a store that was just opened, and what lies in its files, with what was promised; from then
/// on that is the one outcome.
pub(crate) fn compare(store: &SegmentStore, recovered: &Recovered, disk: &FakeDisk, model: &mut Model) {
    let state = read_hard_state(disk, &directory().hard_state()).unwrap();
    let vote = model.votes.iter().rposition(|asked| asked.vote == state.vote);
    let vote = vote.unwrap_or_else(|| panic!("{:?} was never asked for", state.vote));
    let entries = usize::try_from(recovered.tail.next_index.get()).unwrap();
    model.found(entries, vote);
    let committed = usize::try_from(recovered.committed.get()).unwrap();
    assert!(committed <= model.committed.min(entries), "{committed} are committed; {model}");
    assert!(committed >= model.found_committed, "{committed} are committed; it was {}", model.found_committed);
    (model.committed, model.found_committed) = (committed, committed);
    for (index, asked) in (0..).zip(&model.entries) {
        let read = match store.read_entry(RaftIndex::new(index)) {
            // The power may fail while the node's own store reads; its files are looked at below.
            Err(LogError::Disk(_)) => continue,
            other => other.unwrap_or_else(|error| panic!("entry {index}: {error}")),
        };
        assert!(read.as_ref() == Some(&asked.entry), "entry {index} is another; {model}");
    }
    assert_eq!(store.durable(), recovered.tail.next_index);
    assert_eq!(store.tail(), recovered.tail);
    compare_files(disk, &recovered.tail, model);
}

/// Reads the segment files without the engine: frames link and are as asked, zeros follow the end.
fn compare_files(disk: &FakeDisk, tail: &Tail, model: &Model) {
    let file = |segment: u64| {
        let path = directory().segment_file(SegmentFile::Frames(SegmentNumber::new(segment)));
        disk.look(&path).map(|(bytes, _)| bytes)
    };
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let start = 4 * PAGE_BYTES;
    let (mut segment, mut at, mut link, mut leaves) = (0, start, 0, 0);
    let mut bytes = file(segment).expect("a log has a first file");
    for (index, asked) in model.entries.iter().enumerate() {
        let frame = &bytes[at..];
        assert_eq!(&frame[..4], b"SFRM", "entry {index}");
        assert_eq!(EntryKind::from_number(frame[8]), Some(asked.entry.kind), "entry {index}");
        assert_eq!(u32_at(frame, 12), link, "entry {index} does not link");
        assert_eq!((u64_at(frame, 16), u64_at(frame, 24)), (index as u64, asked.entry.term.get()), "entry {index}");
        assert_eq!(u64_at(frame, 32), leaves, "entry {index}");
        leaves += u64::from(u32_at(frame, 40));
        assert_eq!(leaves, model.leaves(index + 1), "entry {index}");
        let len = usize::try_from(u32_at(frame, 44)).unwrap();
        assert!(frame[64..64 + len] == asked.entry.body, "entry {index} has another body");
        link = u32_at(frame, 4);
        at += usize::try_from(tail.alignment.round_up(64 + len as u64)).unwrap();
        if asked.ends {
            (segment, at) = (segment + 1, start);
            bytes = file(segment).unwrap_or_else(|| panic!("segment {segment} is missing behind entry {index}"));
        }
    }
    assert_eq!((segment, at as u64, link), (tail.segment.get(), tail.offset.get(), tail.link));
    assert!(bytes.iter().skip(at).all(|byte| *byte == 0), "something lies behind the end; {model}");
    assert!(file(segment + 1).is_none(), "a segment file lies behind the end; {model}");
}

/// Opens what must open.
fn opened(world: &World, disk: &FakeDisk, model: &mut Model) -> (SegmentStore, Recovered) {
    let (store, recovered) =
        world.open(disk).unwrap_or_else(|error| panic!("open: {error}; {model}\n{}", disk.trace()));
    compare(&store, &recovered, disk, model);
    (store, recovered)
}

/// Examines the outcome of a crash or kill: all that is promised, and that the log goes on.
pub(crate) fn examine(world: &World, disk: &FakeDisk, model: &Model, random: &mut SplitMix64) {
    recover_interrupted(world, disk.snapshot(), model.clone(), random);
    let mut model = model.clone();
    let (store, recovered) = opened(world, disk, &mut model);
    // What was found is there for good, whatever comes right afterwards.
    let found = model.entries.len();
    for again in [disk.snapshot().crash(random), disk.snapshot().kill()] {
        let mut model = model.clone();
        let (_store, second) = opened(world, &again, &mut model);
        assert_eq!((model.entries.len(), second.cut), (found, None), "recovery is idempotent");
        assert_eq!((second.tail, second.committed), (recovered.tail, recovered.committed));
    }
    go_on(world, disk, store, &mut model, random);
}

/// The node works, and stops cleanly.
fn go_on(world: &World, disk: &FakeDisk, store: SegmentStore, model: &mut Model, random: &mut SplitMix64) {
    for _ in 0..2 + random.below(3) {
        let asked = model.any_entry(random);
        store.append(asked.entry.clone(), None).unwrap();
        model.append(asked);
    }
    let from = model.entries.len() - 1;
    store.truncate(RaftIndex::new(from as u64)).unwrap();
    model.end_cut(from);
    let asked = model.any_entry(random);
    store.append(asked.entry.clone(), None).unwrap();
    model.append(asked);
    store.close().unwrap();
    model.durable = model.entries.len();
    let (store, recovered) = opened(world, disk, model);
    assert_eq!(recovered.cut, None, "a tail is torn after a clean stop");
    store.close().unwrap();
}

/// Recovery is cut short by crashes and kills, again and again (FAULTS line 30).
fn recover_interrupted(world: &World, mut disk: FakeDisk, mut model: Model, random: &mut SplitMix64) {
    for _ in 0..1 + random.below(3) {
        let most = *random.pick(&[12, 25, 60]);
        let calls = 1 + random.below(most);
        disk.power_off_in(calls, *random.pick(&Flavour::ALL));
        match world.open(&disk) {
            // What has been found once is the outcome.
            Ok((store, recovered)) => compare(&store, &recovered, &disk.snapshot(), &mut model),
            Err(LogError::Disk(_) | LogError::Generation(GenerationError::Disk(_))) => {}
            Err(error) => panic!("recovery, cut short: {error}; {model}"),
        }
        disk = random.pick(&[How::Crash, How::Kill]).end(&disk, random);
    }
    drop(opened(world, &disk, &mut model));
}

/// With no byte free, opening works or is refused for that reason, and nothing is lost.
pub(crate) fn examine_full(world: &World, disk: &FakeDisk, model: &Model, flavour: Flavour) {
    let mut model = model.clone();
    disk.set_capacity(disk.used(), flavour);
    match world.open(disk) {
        Ok((store, recovered)) => compare(&store, &recovered, disk, &mut model),
        Err(LogError::Disk(error)) if error.source.kind() == std::io::ErrorKind::StorageFull => {}
        Err(error) => panic!("opening without a free byte: {error}"),
    }
    disk.clear_capacity();
    drop(opened(world, disk, &mut model));
}
