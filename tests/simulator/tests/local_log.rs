//! A log on one machine whose power fails, whose process is killed and whose disk answers with errors,
//! over and over, from one seed.
//!
//! A schedule is a few lives of one directory. In each, a process makes or opens the log, pushes
//! records, cuts, flushes, signs, seals and closes, until its steps are done or the planned call goes
//! wrong; then the moment is crashed or killed several times, each outcome is examined, and one of them
//! is the start of the next life.
//!
//! Examined: every acknowledged record is there with its bytes at its index; every record that is there
//! was pushed, and every chain is unbroken; the root is that of the records; what was signed is
//! remembered and is of this tree; sealed files keep every byte; the log opens, takes records, closes,
//! and opens again; every byte of it verifies. With no byte free, everything is read, and opening works
//! or is refused in words that say so. Not examined: that other failures are reported in the best words,
//! readers beside a writer, rot.
//!
//! `STELE_SEED` runs that schedule only; `STELE_SCHEDULES` sets how many are run, from seed 0 on, on all
//! cores ([`stele_simulator::schedules`]):
//! `STELE_SCHEDULES=100000 cargo test --release -p stele-simulator --test local_log no_crash`. The writer
//! and the sealer are driven by the schedule, so that a seed repeats every call; a few schedules run with
//! threads, whose seeds repeat the plan only. What fails is printed with the last calls.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stele_engine::birth::CreateOptions;
use stele_engine::checkpointing::stored_checkpoint;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, TEMPORARY};
use stele_engine::environment::{Environment, Workers};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, PushError, SealSettings};
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::signing_state::read_signed_head;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, Record, RecordBuilder, Salt, SelfHash, Subject};
use stele_proof::tree::{CompactRange, Hash, leaf_hash};
use stele_proof::{LeafIndex, UnixMillis};
use stele_simulator::fake_disk::{FakeDisk, Guard, Media};
use stele_simulator::fault::Flavour;
use stele_simulator::mishap::{How, plan};
use stele_simulator::random::SplitMix64;
use stele_simulator::schedules::{Seeds, Story};
use stele_simulator::source::Source;

/// Schedules where nobody asks for more.
const SCHEDULES: u64 = 400;
/// Schedules with threads, which are slower and less often new.
const THREADED_SCHEDULES: u64 = 30;
const LOG: &str = "/var/lib/log";

/// A record that was taken.
#[derive(Clone)]
struct Pushed {
    self_hash: SelfHash,
    payload: Vec<u8>,
}

/// What must be, and what may be, in the log.
#[derive(Clone, Default)]
struct Expected {
    /// Whether the making of the log was acknowledged.
    born: bool,
    /// Every record taken that may be there, by leaf index; the log's own are not listed.
    pushed: BTreeMap<u64, Pushed>,
    /// So many records have been acknowledged.
    acknowledged: u64,
    /// The largest size whose signature left the node.
    signed: u64,
    /// Sealed files.
    sealed: BTreeMap<PathBuf, Vec<u8>>,
}

/// Why a life ended.
#[derive(Debug)]
enum End {
    Done,
    Failed(LogError),
}

impl From<LogError> for End {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// What is the same in all lives of a schedule.
struct World {
    source: Arc<Source>,
    alignment: Alignment,
    workers: Workers,
}

impl World {
    fn environment(&self, disk: &FakeDisk) -> Environment {
        Environment {
            disk: Arc::new(disk.clone()),
            clock: Arc::<Source>::clone(&self.source),
            entropy: Arc::<Source>::clone(&self.source),
            workers: self.workers,
        }
    }

    fn create(&self, disk: &FakeDisk) -> Result<LocalLog, LogError> {
        let origin = Origin::new("example.com/test").unwrap();
        let options = CreateOptions {
            block_height: BlockHeight::new(8).unwrap(),
            frame_align: self.alignment,
            ..CreateOptions::new(origin)
        };
        LocalLog::create(&self.environment(disk), Path::new(LOG), &options)
    }

    fn open(&self, disk: &FakeDisk) -> Result<LocalLog, LogError> {
        LocalLog::open(&self.environment(disk), Path::new(LOG))
    }
}

/// A process at work.
struct Life<'w> {
    world: &'w World,
    disk: &'w FakeDisk,
    expected: &'w mut Expected,
    random: SplitMix64,
    /// Raised by callbacks, which may come until the writer has ended.
    acknowledged: Arc<AtomicU64>,
}

impl Life<'_> {
    fn acknowledge(&self, size: u64) {
        self.acknowledged.fetch_max(size, Ordering::Relaxed);
    }

    /// Makes or opens the log, works, and closes it or not.
    fn run(&mut self) -> End {
        let end = self.open().and_then(|log| self.work(log)).unwrap_or_else(End::Failed);
        self.expected.acknowledged = self.expected.acknowledged.max(self.acknowledged.load(Ordering::Relaxed));
        end
    }

    fn open(&mut self) -> Result<LocalLog, LogError> {
        let log = if self.expected.born { self.world.open(self.disk)? } else { self.world.create(self.disk)? };
        self.expected.born = true;
        self.opened(&log);
        Ok(log)
    }

    /// Segments of any length, so small that what is prepared for the next is small, too.
    fn set_seal_bytes(&mut self, log: &mut LocalLog) {
        let bytes = (32 << 10) << self.random.below(6);
        log.set_seal_settings(SealSettings { bytes, ..SealSettings::default() });
    }

    /// What recovery found is durable, and what it did not find is gone for good.
    fn opened(&mut self, log: &LocalLog) {
        let size = log.size().get();
        assert!(size >= self.expected.acknowledged, "{size} records, {} acknowledged", self.expected.acknowledged);
        self.expected.pushed.split_off(&size);
        self.acknowledge(size);
    }

    fn work(&mut self, mut log: LocalLog) -> Result<End, LogError> {
        self.set_seal_bytes(&mut log);
        for _ in 0..self.random.below(40) {
            self.let_others_work(&mut log);
            match self.random.below(100) {
                0..10 => {
                    let many = self.random.below(400);
                    self.push(&mut log, many)?;
                }
                10..65 => {
                    let some = self.random.below(12);
                    self.push(&mut log, some)?;
                    if self.random.percent(60) {
                        let (size, acknowledged) = (log.size().get(), Arc::clone(&self.acknowledged));
                        log.cut(Box::new(move |result| {
                            if result.is_ok() {
                                acknowledged.fetch_max(size, Ordering::Relaxed);
                            }
                        }))?;
                    }
                }
                65..75 => {
                    log.flush()?;
                    self.acknowledge(log.size().get());
                }
                75..85 => self.sign(&mut log)?,
                85..92 => {
                    log.end_segment()?;
                }
                92..96 => {
                    self.world.source.advance(self.random.below(3_600_000));
                }
                _ => {
                    if self.random.percent(50) {
                        let size = log.size().get();
                        log.close()?;
                        self.acknowledge(size);
                    } else {
                        drop(log);
                    }
                    // Nobody was left to be told of a failure: after that of a directory's flush, a log is
                    // opened on a machine that was started anew.
                    if self.disk.has_lost_names() {
                        return Ok(End::Done);
                    }
                    log = self.world.open(self.disk)?;
                    assert!(log.torn_tail().is_none(), "a tail is torn without a crash");
                    self.opened(&log);
                    self.set_seal_bytes(&mut log);
                }
            }
        }
        if self.random.percent(50) {
            let size = log.size().get();
            log.close()?;
            self.acknowledge(size);
        }
        Ok(End::Done)
    }

    /// Lets the writer and the sealer come to their turn, which threads find by themselves.
    fn let_others_work(&mut self, log: &mut LocalLog) {
        match self.random.below(8) {
            0..3 => log.write_queued(),
            3 => log.confirm_idle(),
            4 => log.seal_next(),
            5..7 => log.prepare_step(),
            _ => {}
        }
    }

    fn push(&mut self, log: &mut LocalLog, count: u64) -> Result<(), LogError> {
        for _ in 0..count {
            if self.random.percent(10) {
                self.let_others_work(log);
            }
            let mut payload = format!("{} ", self.random.next()).into_bytes();
            let most = *self.random.pick(&[10, 10, 10, 10, 10, 100, 100, 6000]);
            payload.resize(payload.len() + usize::try_from(self.random.below(most)).unwrap(), b'x');
            let stream = *self.random.pick(&["a", "b", "c"]);
            let receipt = match push(log, stream, &payload) {
                Ok(receipt) => receipt,
                Err(PushError::Log(error)) => return Err(error),
                Err(refused) => panic!("a good record was refused: {refused}"),
            };
            let known =
                self.expected.pushed.insert(receipt.index.get(), Pushed { self_hash: receipt.self_hash, payload });
            assert!(known.is_none(), "index {} was given twice", receipt.index);
        }
        Ok(())
    }

    /// Signs; a signature that failed may be asked for again, unless the log has stopped.
    fn sign(&mut self, log: &mut LocalLog) -> Result<(), LogError> {
        let again = self.random.percent(50);
        match log.checkpoint() {
            Err(LogError::Disk(_) | LogError::Signing(_)) if again => {
                log.checkpoint()?;
            }
            other => {
                other?;
            }
        }
        let size = log.size().get();
        self.acknowledge(size);
        self.expected.signed = self.expected.signed.max(size);
        Ok(())
    }
}

fn push(log: &mut LocalLog, stream: &str, payload: &[u8]) -> Result<stele_engine::local::Receipt, PushError> {
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

/// Unwraps what must not fail on a good machine.
fn good<T, E: Display + Debug>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Reads everything and compares; answers the leaves.
fn read_and_compare(world: &World, disk: &FakeDisk, expected: &Expected) -> Vec<Hash> {
    let reader = good("open a reader", LogReader::open(&world.environment(disk), Path::new(LOG)));
    let mut records: Vec<ReadRecord> = Vec::new();
    let all = reader.read::<LogError>(LeafIndex::new(0), LeafIndex::new(u64::MAX), Payloads::Read, &mut |record| {
        records.push(record);
        Ok(())
    });
    good("read", all);
    assert_eq!(records.len() as u64, reader.size().get());
    let size = reader.size().get();
    assert!(size >= expected.acknowledged, "{size} records read, {} acknowledged", expected.acknowledged);
    let mut heads: BTreeMap<(String, String), (u64, SelfHash)> = BTreeMap::new();
    let mut leaves = Vec::new();
    for (index, read) in (0..).zip(&records) {
        assert_eq!(read.index.get(), index);
        let record = Record::parse(&read.canonical).unwrap();
        let chain = (record.stream().decode().into_owned(), record.writer_id().decode().into_owned());
        let self_hash = record.self_hash();
        let before = heads.insert(chain, (record.seq(), self_hash));
        assert_eq!(record.seq(), before.map_or(1, |(seq, _)| seq + 1), "record {index}: its chain has a gap");
        assert_eq!(record.prev(), before.map(|(_, hash)| hash), "record {index}: its chain is broken");
        match expected.pushed.get(&index) {
            Some(pushed) => {
                assert_eq!(self_hash, pushed.self_hash, "record {index} is another");
                assert!(read.payload.as_ref().unwrap().1 == pushed.payload, "record {index} has another payload");
            }
            None => assert!(record.is_reserved(), "record {index} was never pushed"),
        }
        leaves.push(leaf_hash(&read.canonical));
    }
    assert_eq!(Some(good("compute the root", reader.root_at(reader.size()))), root_of(&leaves, size));
    leaves
}

/// The root over the first leaves; `None` where there are fewer.
fn root_of(leaves: &[Hash], size: u64) -> Option<Hash> {
    let mut tree = CompactRange::new();
    leaves.get(..usize::try_from(size).unwrap())?.iter().for_each(|leaf| tree.append(*leaf));
    Some(tree.root())
}

/// What was signed is remembered, and is of this tree.
fn compare_signatures(disk: &FakeDisk, expected: &Expected, leaves: &[Hash]) {
    let directory = LogDirectory::new(LOG);
    let head = good("read the signing state", read_signed_head(disk, &directory.signing_state()));
    let signed = head.size.get();
    assert!(signed >= expected.signed, "{} signed, and {signed} remembered", expected.signed);
    assert_eq!(root_of(leaves, signed), Some(head.root), "the head signed last, of size {signed}, is not of this tree");
    let stored = good("read the stored checkpoint", stored_checkpoint(disk, &directory));
    let stored = stored.map_or(0, |(_, checkpoint)| {
        let size = checkpoint.size.get();
        assert_eq!(root_of(leaves, size), Some(checkpoint.root));
        size
    });
    assert!(stored >= expected.signed, "a checkpoint of {} was answered, one of {stored} is stored", expected.signed);
}

/// Remembers what is sealed on a machine that has just come back, where everything seen is durable.
fn remember_sealed(disk: &FakeDisk, expected: &mut Expected) {
    for path in disk.paths().into_iter().filter(|path| !path.to_string_lossy().ends_with(TEMPORARY)) {
        let (bytes, mode) = disk.look(&path).unwrap();
        if mode == Mode::Sealed {
            expected.sealed.entry(path).or_insert(bytes);
        }
    }
}

/// Sealed files keep every byte.
fn compare_sealed(disk: &FakeDisk, expected: &Expected) {
    for (path, bytes) in &expected.sealed {
        let found = disk.look(path).unwrap_or_else(|| panic!("{} was sealed and is gone", path.display()));
        assert!(found.0 == *bytes, "{} was sealed and has changed", path.display());
    }
    assert_eq!(disk.violations(), [""; 0]);
}

/// Examines the outcome of a crash or kill: all that is promised, and that the log goes on.
fn examine(world: &World, (disk, how): (&FakeDisk, How), expected: &Expected, random: &mut SplitMix64) {
    let mut expected = expected.clone();
    if how == How::Crash {
        remember_sealed(disk, &mut expected);
    }
    compare_sealed(disk, &expected);
    if expected.born {
        let leaves = read_and_compare(world, disk, &expected);
        compare_signatures(disk, &expected, &leaves);
    }
    let born = expected.born;
    let acknowledged = Arc::default();
    let mut life = Life { world, disk, expected: &mut expected, random: random.split(), acknowledged };
    let mut log = match world.open(disk) {
        // Making it was interrupted: there is no log, and nobody was told that there is one.
        Err(LogError::NoLog(_) | LogError::Unfinished(_)) if !born => return,
        other => good("open", other),
    };
    life.opened(&log);
    for _ in 0..2 {
        let count = 1 + life.random.below(4);
        good("push", life.push(&mut log, count));
        good("sign", life.sign(&mut log));
    }
    life.acknowledge(log.size().get());
    good("close", log.close());
    let log = good("open again", world.open(disk));
    assert!(log.torn_tail().is_none(), "a tail is torn after a clean stop");
    good("close again", log.close());
    expected.acknowledged = expected.pushed.keys().last().map_or(0, |last| last + 1);
    let leaves = read_and_compare(world, disk, &expected);
    compare_signatures(disk, &expected, &leaves);
    compare_sealed(disk, &expected);
    let report = verify_log(disk, &LogDirectory::new(LOG), &VerifyOptions::default(), &mut |_| ());
    assert_eq!(good("verify", report).findings, []);
}

/// With no byte free everything can be read, and opening works or is refused for that reason.
fn examine_full(world: &World, disk: &FakeDisk, expected: &Expected, flavour: Flavour) {
    disk.set_capacity(disk.used(), flavour);
    if expected.born {
        read_and_compare(world, disk, expected);
    }
    match world.open(disk) {
        Ok(log) => drop(log),
        Err(LogError::Disk(error)) if error.source.kind() == std::io::ErrorKind::StorageFull => {}
        Err(LogError::NoLog(_) | LogError::Unfinished(_)) if !expected.born => {}
        Err(error) => panic!("opening without a free byte: {error}"),
    }
}

fn schedule(seed: u64, workers: Workers, story: &Story) {
    let tell = |line: String| story.tell(line);
    let mut random = SplitMix64::new(seed);
    let (media, alignment) = *random.pick(&[
        (Media::TearsSectors, Alignment::PAGE),
        (Media::WholeSectors, Alignment::PAGE),
        // Smaller frames share sectors, and need media that write them whole.
        (Media::WholeSectors, Alignment::WORD),
    ]);
    tell(format!("seed {seed}: {media:?}, {alignment:?}"));
    let source = Source::new(UnixMillis::new(1_000_000), random.split());
    let world = World { source: Arc::new(source), alignment, workers };
    let mut disk = FakeDisk::new(media, random.next());
    stele_engine::disk::Disk::create_directory(&disk, Path::new(LOG).parent().unwrap()).unwrap();
    disk.settle();
    disk.set_guard(Guard::Records);
    let mut expected = Expected::default();
    for life in 0..=1 + random.below(3) {
        if life > 0 || random.percent(25) {
            tell(format!("life {life}: {}", plan(&disk, &mut random)));
        }
        let acknowledged = Arc::default();
        let (world, mut own) = (&world, random.split());
        let end = Life { world, disk: &disk, expected: &mut expected, random: own.split(), acknowledged }.run();
        let trace = disk.trace();
        let acknowledged = expected.acknowledged;
        tell(format!("life {life}: {end:?} after call {}; {acknowledged} acknowledged\n{trace}", disk.calls()));
        let full = disk.clear_capacity();
        assert!(disk.failed() > 0 || full || matches!(end, End::Done), "nothing went wrong, and yet: {end:?}");
        assert!(!matches!(end, End::Failed(LogError::Damaged(_))), "a failed call was taken for rot: {end:?}");
        assert_eq!(disk.violations(), [""; 0]);
        // An outcome like one that was examined tells nothing new, and looking at it is most of the work.
        let mut examined: Vec<FakeDisk> = Vec::new();
        let mut examine_new = |outcome: (&FakeDisk, How), expected: &Expected, random: &mut SplitMix64| {
            if !examined.iter().any(|before| before.is_same_as(outcome.0)) {
                examined.push(outcome.0.snapshot());
                examine(world, outcome, expected, random);
            }
        };
        for copy in 0..2 {
            tell(format!("life {life}: crash {copy}"));
            examine_new((&disk.crash(&mut own), How::Crash), &expected, &mut own);
        }
        tell(format!("life {life}: kill, and no byte is free"));
        examine_full(world, &disk.kill(), &expected, *random.pick(&Flavour::ALL));
        // See `How::any`.
        if !disk.has_lost_names() {
            tell(format!("life {life}: kill"));
            examine_new((&disk.kill(), How::Kill), &expected, &mut own);
        }
        if !expected.born {
            return;
        }
        let how = How::any(&disk, &mut random);
        tell(format!("life {life}: then a {how:?}"));
        disk = how.end(&disk, &mut own);
        if how == How::Crash {
            remember_sealed(&disk, &mut expected);
        }
        compare_sealed(&disk, &expected);
    }
}

#[test]
fn no_crash_kill_or_failing_call_loses_or_invents_a_record() {
    Seeds::asked_or(SCHEDULES).run(|seed, story| schedule(seed, Workers::Inline, story));
}

#[test]
fn nor_with_threads() {
    let seeds = Seeds::asked_or(THREADED_SCHEDULES).at_most(THREADED_SCHEDULES);
    seeds.run(|seed, story| schedule(seed, Workers::Threads, story));
}

#[test]
fn a_seed_repeats_every_call() {
    for seed in 0..8 {
        let [one, two] = [(), ()].map(|()| {
            let story = Story::default();
            schedule(seed, Workers::Inline, &story);
            story.into_lines()
        });
        assert!(one == two, "seed {seed}");
    }
}
