//! Three real sites under load, with a history of what their clients saw, and the checks of what is left.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use stele_client::config::Timeouts;
use stele_client::reader::{Freshness, Payloads as Wanted};
use stele_client::record::ChainName;
use stele_client::{AppenderOptions, Assurance, CallError, ChainWriter, Client, Event, Pending, ReadRange};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads};
use stele_proof::record::{Actor, Object, Subject};
use stele_proof::{LeafIndex, UnixMillis};
use stele_tools::Failure;
use stele_tools::remote::{call, connect_with, runtime};
use stele_tools::sites::{Plan, Sites};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::history::{HeadRead, History, Left, Moment, Read, Sent};
use crate::process::{command, run};

/// What nothing here takes, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Writers, each with a chain and a connection of its own.
const WRITERS: usize = 4;
/// Records of a writer that are not acknowledged yet.
const IN_FLIGHT: usize = 16;
/// One leader is followed by the next within this; what it takes in a build for development on a busy machine is no
/// figure of the product.
pub(crate) const FAILOVER: Duration =
    if cfg!(debug_assertions) { Duration::from_secs(30) } else { Duration::from_secs(3) };

/// Trials take turns: together they would measure each other.
static TURN: Mutex<()> = Mutex::new(());

/// How often the faults of a trial are gone through: `STELE_TRIAL_ROUNDS`, 1 where nobody says.
pub(crate) fn rounds() -> u32 {
    let asked = std::env::var("STELE_TRIAL_ROUNDS").ok();
    asked.map_or(1, |asked| asked.parse().unwrap_or_else(|error| panic!("STELE_TRIAL_ROUNDS={asked}: {error}")))
}

#[track_caller]
pub(crate) fn told<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

/// What all clients of a trial share.
struct Shared {
    began: Instant,
    stop: AtomicBool,
    /// When each receipt was seen.
    acknowledged: Mutex<Vec<Moment>>,
    /// How many there are, and one past the largest index.
    count: watch::Sender<(u64, u64)>,
}

impl Shared {
    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn acknowledge(&self, index: u64) -> Moment {
        let now = self.now();
        self.acknowledged.lock().unwrap().push(now);
        self.count.send_modify(|(count, size)| (*count, *size) = (*count + 1, (*size).max(index + 1)));
        now
    }
}

/// Sites under load.
pub(crate) struct Trial {
    directory: TempDir,
    pub(crate) sites: Sites,
    /// For what operators do.
    pub(crate) client: Client,
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Vec<Sent>>>,
    reader: JoinHandle<(Vec<Read>, Vec<HeadRead>)>,
    /// What the trial itself has read.
    pub(crate) reads: Vec<Read>,
}

/// Runs a trial on a runtime of its own, and checks what is left.
pub(crate) fn trial(name: &str, faults: impl AsyncFnOnce(&mut Trial)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let mut trial = Trial::start().await;
        trial.more(300).await;
        faults(&mut trial).await;
        trial.more(300).await;
        trial.end().await
    });
    ended.check(name);
}

impl Trial {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan { directory: directory.path(), sites: 3, extra: "", delay: None };
        let mut sites = told(Sites::make(&Environment::system(), &plan).await);
        for config in sites.all().iter().map(stele_tools::sites::Site::config) {
            // Small blocks, so that segments are sealed all the time.
            let text = std::fs::read_to_string(&config).unwrap().replace("[log]\n", "[log]\nblock_height = 8\n");
            File::create(config).unwrap().write_all(text.as_bytes()).unwrap();
        }
        told(sites.start());
        let client = told(sites.ready().await).client;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            count: watch::Sender::new((0, 0)),
        });
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let appender = connected(&sites).await.appender(AppenderOptions::default()).unwrap();
            let chain = ChainName { writer_id: writer_name(number), stream: "s".to_owned() };
            writers.push(tokio::spawn(write(ChainWriter::new(appender, chain, None), Arc::clone(&shared))));
        }
        let reader = tokio::spawn(read(connected(&sites).await, Arc::clone(&shared)));
        Self { directory, sites, client, shared, writers, reader, reads: Vec::new() }
    }

    pub(crate) fn now(&self) -> Moment {
        self.shared.now()
    }

    /// Waits until so many more records are acknowledged.
    #[track_caller]
    pub(crate) fn more(&self, count: u64) -> impl Future<Output = ()> {
        let mut seen = self.shared.count.subscribe();
        let target = seen.borrow().0 + count;
        let (said, caller) = (self.said(), std::panic::Location::caller());
        async move {
            let waited = timeout(PATIENCE, seen.wait_for(|(count, _)| *count >= target)).await;
            assert!(waited.is_ok(), "{caller}: {count} more records were not acknowledged; {}", said.concat());
        }
    }

    /// What the nodes write to.
    fn said(&self) -> Vec<String> {
        self.sites.all().iter().map(|site| format!("{} ", site.output().display())).collect()
    }

    /// How many records there are at least.
    pub(crate) fn size(&self) -> u64 {
        self.shared.count.borrow().1
    }

    /// Who leads, by the word of whoever answers first.
    pub(crate) async fn leader(&self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = self.client.cluster().status().await
                && let Some(leader) = status.leader
            {
                return leader.node;
            }
            assert!(Instant::now() < deadline, "nobody knows a leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A node that does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.sites.all().iter().map(|site| site.node).find(|node| *node != leader).unwrap()
    }

    /// The longest time in which nothing was acknowledged, from a moment on.
    pub(crate) fn longest_pause(&self, from: Moment) -> Duration {
        let acknowledged = self.shared.acknowledged.lock().unwrap();
        let after = acknowledged.iter().copied().filter(|at| *at >= from);
        let mut last = from;
        after.map(|at| at - std::mem::replace(&mut last, at)).max().unwrap_or_default()
    }

    /// Starts what does not run, and waits until it has everything that is acknowledged by now.
    pub(crate) async fn restart(&mut self) {
        let size = self.size();
        told(self.sites.start());
        told(self.sites.caught_up_with(size).await);
    }

    async fn end(mut self) -> Ended {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = History { reads: self.reads, ..History::default() };
        for writer in self.writers {
            history.sent.extend(timeout(PATIENCE, writer).await.unwrap().unwrap());
        }
        let (reads, heads) = timeout(PATIENCE, self.reader).await.unwrap().unwrap();
        history.reads.extend(reads);
        history.heads = heads;
        told(self.sites.ready().await);
        // Sealing, and the record about it, come after the append that ended a block.
        let about = ChainName { writer_id: "stele/log".to_owned(), stream: "stele/segments".to_owned() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (size, sealed) = (told(self.sites.caught_up().await), told(self.sites.sealed(1).await));
            let recorded = self.client.head(&about).await.unwrap().map_or(0, |head| head.seq);
            if recorded == sealed && told(self.sites.caught_up().await) == size {
                break;
            }
            assert!(Instant::now() < deadline, "{sealed} sealed, {recorded} recorded, {size} records");
        }
        let logs = self.sites.all().iter().map(stele_tools::sites::Site::log).collect();
        told(self.sites.stop().await);
        Ended { _directory: self.directory, logs, history }
    }
}

fn writer_name(number: usize) -> String {
    format!("w{number}")
}

async fn connected(sites: &Sites) -> Client {
    let second = Duration::from_secs(1);
    let adjust = |config: &mut stele_client::ClientConfig| {
        // A node that is stopped answers nothing, and its connections stay.
        config.timeouts = Timeouts { connect: second, call: 5 * second, append: PATIENCE, answer: 2 * second };
    };
    told(connect_with(&sites.reach(), adjust).await).client
}

/// Appends until told to stop, and remembers what it was told.
async fn write(mut writer: ChainWriter, shared: Arc<Shared>) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    let mut waiting: VecDeque<(usize, Pending)> = VecDeque::new();
    let attrs = Object::default();
    while !shared.stopped() || !waiting.is_empty() {
        if !shared.stopped() && waiting.len() < IN_FLIGHT {
            let event = Event {
                ts_ms: UnixMillis::new(sent.len() as u64),
                kind: "K",
                actor: Actor { anon: true, ..Actor::default() },
                subject: Subject::default(),
                reason: "ok",
                attrs: &attrs,
            };
            let began = shared.now();
            // Every fifth brings a payload.
            let pushed = match sent.len() % 5 {
                0 => writer.append_with_payload(&event, Bytes::from(format!("payload {}", sent.len()))).await,
                _ => writer.append(&event).await,
            };
            waiting.push_back((sent.len(), pushed.unwrap()));
            sent.push(Sent { self_hash: writer.head().unwrap().self_hash, began, acknowledged: None });
            continue;
        }
        let Some((place, pending)) = waiting.pop_front() else { continue };
        let receipt = pending.await.unwrap_or_else(|error| panic!("{}: {error}", writer.chain().writer_id));
        assert_eq!(receipt.self_hash, sent[place].self_hash);
        let index = receipt.index.get();
        sent[place].acknowledged = Some((shared.acknowledge(index), index));
    }
    sent
}

/// Reads the end of the log and heads of chains, linearizably, one after the other, until told to stop.
async fn read(client: Client, shared: Arc<Shared>) -> (Vec<Read>, Vec<HeadRead>) {
    let (mut reads, mut heads) = (Vec::new(), Vec::new());
    let (mut start, mut turn) = (0, 0);
    while !shared.stopped() {
        reads.extend(read_end(&client, start, &shared).await);
        start = reads.iter().map(|read: &Read| read.size - 1).max().unwrap_or(0);
        let writer = writer_name(turn % WRITERS);
        turn += 1;
        let chain = ChainName { writer_id: writer.clone(), stream: "s".to_owned() };
        let began = shared.now();
        match client.head(&chain).await {
            Ok(head) => {
                let self_hash = head.map(|head| head.self_hash);
                heads.push(HeadRead { began, ended: shared.now(), self_hash, writer });
            }
            Err(CallError::Unavailable { .. } | CallError::Refused(_) | CallError::Status { .. }) => {}
            Err(error) => panic!("the head of {writer}: {error}"),
        }
    }
    assert!(reads.len() > 3 && heads.len() > 3, "{} reads and {} heads", reads.len(), heads.len());
    (reads, heads)
}

/// Reads from an index on that was there before; `None` where the read failed.
async fn read_end(client: &Client, start: u64, shared: &Shared) -> Option<Read> {
    let range = ReadRange {
        start: LeafIndex::new(start),
        end: None,
        payloads: Wanted::Without,
        freshness: Freshness::Linearizable,
    };
    let began = shared.now();
    let mut reader = client.read(range, Assurance::Canonical);
    let mut records = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(record)) => records.push((record.index.get(), record.self_hash)),
            Ok(None) => break,
            // What was there is not there: the checker is told.
            Err(CallError::NotFound { .. }) if records.is_empty() => break,
            Err(CallError::Violation(violation)) => panic!("{violation}"),
            Err(_) => return None,
        }
    }
    let size = records.last().map_or(start, |(index, _)| index + 1);
    Some(Read { began, ended: shared.now(), size, records })
}

/// What a trial leaves.
struct Ended {
    _directory: TempDir,
    logs: Vec<PathBuf>,
    history: History,
}

impl Ended {
    fn check(&self, name: &str) {
        let logs: Vec<Vec<Left>> = self.logs.iter().map(|log| left(log)).collect();
        for log in &logs {
            self.history.check(log).unwrap_or_else(|objection| panic!("{name}: {objection:?}"));
            assert!(*log == logs[0], "the sites hold other records");
        }
        let sealed = sealed_files(&self.logs[0]);
        assert!(sealed.iter().any(|(name, _)| name.ends_with(".pay")), "no payloads were sealed");
        let verified: Vec<String> = self.logs.iter().map(|log| verified(log)).collect();
        for (log, said) in self.logs.iter().zip(&verified) {
            let there = sealed_files(log);
            let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&there), names(&sealed), "sealed files of {}", log.display());
            assert!(there == sealed, "sealed files of {} differ from those of another site", log.display());
            assert_eq!(*said, verified[0], "what `stele verify log` says, the root in it");
        }
        let History { sent, reads, heads } = &self.history;
        println!(
            "{name}: {} records acknowledged, {} reads and {} heads, {} sealed files",
            sent.iter().filter(|sent| sent.acknowledged.is_some()).count(),
            reads.len(),
            heads.len(),
            sealed.len()
        );
    }
}

/// What `stele verify log` says of records, segments and the root.
fn verified(log: &Path) -> String {
    let output = run(command(&["verify".as_ref(), "log".as_ref(), log.as_os_str()]), b"").output();
    let line = output.lines().find(|line| line.contains("root ")).unwrap_or_else(|| panic!("{output}"));
    line.to_owned()
}

fn left(log: &Path) -> Vec<Left> {
    let reader = LogReader::open(&Environment::system(), log).unwrap();
    let mut records = Vec::new();
    let (first, end) = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
    reader
        .read::<LogError>(first, end, Payloads::Read, &mut |record| {
            records.push(Left::parse(&record.canonical));
            Ok(())
        })
        .unwrap();
    records
}

/// Sealed segment and payload files, by name.
pub(crate) fn sealed_files(log: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(log.join("segments"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.metadata().unwrap().permissions().readonly())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "seg" || extension == "pay"))
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Waits for an answer that an operator's call may need several attempts for.
pub(crate) async fn until_done<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, CallError>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(Instant::now() < deadline, "{what}: {}", call(error));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
