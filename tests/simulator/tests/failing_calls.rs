//! Every call that a small run makes of its disk, failed in turn: with and without its effect, as a broken
//! medium and as a full one.
//!
//! The calls are counted, not listed. Writer and sealer have threads of their own, so the n-th call is not
//! the same one in every run; together the runs meet them all. Judged after each: an error reached the
//! caller, unless the call stands in [`IGNORED`]; nothing more was acknowledged; nothing that had been
//! acknowledged is lost, whether the process goes on, is killed, or the power fails; the log opens again,
//! takes a record, closes and verifies.

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use small_log::{LOG, create, new_disk, open, push, read_all};
use stele_engine::directory::LogDirectory;
use stele_engine::error::{LogError, Poisoned};
use stele_engine::generation::GenerationError;
use stele_engine::local::LocalLog;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::record::SelfHash;
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;

/// Calls whose failure need not reach the caller: which call, of which file (`*` for its number), and why.
/// There is none.
const IGNORED: [(Call, &str, &str); 0] = [];

/// What the caller of a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Write,
    Checkpoint,
    Close,
    Open,
    Read,
    Verify,
}

/// A process and what it was told.
#[derive(Default)]
struct Run {
    /// Whether the making of the log was acknowledged.
    born: bool,
    /// Records that were taken, by index.
    taken: BTreeMap<u64, SelfHash>,
    /// So many were acknowledged.
    acknowledged: Arc<AtomicU64>,
    /// What each callback was told.
    told: Arc<Mutex<Vec<Result<(), Poisoned>>>>,
    /// How many callbacks were handed over.
    asked: usize,
}

impl Run {
    fn acknowledge(&self, size: u64) {
        self.acknowledged.fetch_max(size, Ordering::AcqRel);
    }

    fn push(&mut self, log: &mut LocalLog, payload: &[u8]) -> Result<(), LogError> {
        let receipt = push(log, "s", payload)?;
        self.taken.insert(receipt.index.get(), receipt.self_hash);
        Ok(())
    }

    fn cut(&mut self, log: &mut LocalLog) -> Result<(), LogError> {
        let (size, told, acknowledged) = (log.size().get(), Arc::clone(&self.told), Arc::clone(&self.acknowledged));
        log.cut(Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(size, Ordering::AcqRel);
            }
            told.lock().unwrap().push(result);
        }))?;
        self.asked += 1;
        Ok(())
    }

    fn flush(&self, log: &mut LocalLog) -> Result<(), LogError> {
        log.flush()?;
        self.acknowledge(log.size().get());
        Ok(())
    }

    fn write(&mut self, log: &mut LocalLog) -> Result<(), LogError> {
        self.push(log, b"a payload")?;
        self.push(log, b"")?;
        self.cut(log)?;
        self.push(log, b"another one")?;
        self.flush(log)?;
        log.end_segment()?;
        self.push(log, b"in the next segment")?;
        self.flush(log)
    }

    /// Does one thing with an open log; where it fails, nothing is acknowledged by that log any more.
    fn step(
        &mut self,
        step: Step,
        log: &mut LocalLog,
        act: impl FnOnce(&mut Self, &mut LocalLog) -> Result<(), LogError>,
    ) -> Result<(), (Step, LogError)> {
        let Err(error) = act(self, log) else { return Ok(()) };
        // A look at the free space refuses one record, and a signature that was not made one checkpoint;
        // the log itself has not failed.
        let refused_only = step == Step::Checkpoint || matches!(&error, LogError::Disk(_) | LogError::NoSpace { .. });
        if !refused_only {
            let before = self.acknowledged.load(Ordering::Acquire);
            let late = self.push(log, b"late").and_then(|()| self.flush(log));
            assert!(late.is_err(), "{step:?}: {error}; and then a record is acknowledged");
            assert!(self.cut(log).is_err() || self.told.lock().unwrap().last().is_none_or(Result::is_err), "{error}");
            assert!(log.end_segment().is_err(), "{step:?}: {error}; and then a segment ends");
            assert_eq!(self.acknowledged.load(Ordering::Acquire), before);
        }
        Err((step, error))
    }

    fn close(&mut self, log: LocalLog) -> Result<(), (Step, LogError)> {
        let size = log.size().get();
        log.close().map_err(|error| (Step::Close, error))?;
        self.acknowledge(size);
        Ok(())
    }

    fn all(&mut self, disk: &FakeDisk) -> Result<(), (Step, LogError)> {
        let mut log = create(disk).map_err(|error| (Step::Create, error))?;
        self.born = true;
        self.acknowledge(log.size().get());
        self.step(Step::Write, &mut log, Self::write)?;
        self.step(Step::Checkpoint, &mut log, |_, log| log.checkpoint().map(|_| ()))?;
        self.close(log)?;
        let mut log = open(disk).map_err(|error| (Step::Open, error))?;
        self.acknowledge(log.size().get());
        self.step(Step::Write, &mut log, |run, log| {
            run.push(log, b"after opening")?;
            run.flush(log)
        })?;
        self.close(log)?;
        let read = read_all(disk).map_err(|error| (Step::Read, error))?;
        assert!(read.len() as u64 >= self.acknowledged.load(Ordering::Acquire));
        verify(disk).map_err(|error| (Step::Verify, error))
    }

    /// What is promised holds on a machine on which no call fails any more.
    fn examine(&self, disk: &FakeDisk, what: &str) {
        if !self.born {
            match open(disk) {
                Ok(log) => drop(log),
                Err(LogError::NoLog(_) | LogError::Unfinished(_)) => return,
                Err(error) => panic!("{what}: open: {error}"),
            }
        }
        let mut log = open(disk).unwrap_or_else(|error| panic!("{what}: open: {error}"));
        let size = log.size().get();
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        assert!(size >= acknowledged, "{what}: {size} records, {acknowledged} acknowledged");
        push(&mut log, "s", b"again").unwrap_or_else(|error| panic!("{what}: push: {error}"));
        log.close().unwrap_or_else(|error| panic!("{what}: close: {error}"));
        let records = read_all(disk).unwrap_or_else(|error| panic!("{what}: read: {error}"));
        assert!(records.len() as u64 > size, "{what}");
        for record in &records[..usize::try_from(size).unwrap()] {
            let parsed = stele_proof::record::Record::parse(&record.canonical).unwrap();
            match self.taken.get(&record.index.get()) {
                Some(taken) => assert_eq!(parsed.self_hash(), *taken, "{what}: record {} is another", record.index),
                None => assert!(parsed.is_reserved(), "{what}: record {} was never taken", record.index),
            }
        }
        verify(disk).unwrap_or_else(|error| panic!("{what}: verify: {error}"));
    }
}

fn verify(disk: &FakeDisk) -> Result<(), LogError> {
    let report = verify_log(disk, &LogDirectory::new(LOG), &VerifyOptions::default(), &mut |_| ())?;
    assert_eq!(report.findings, [], "a failed call was taken for damage");
    Ok(())
}

/// A file of the log by its name, with `*` for its number.
fn pattern(path: &Path) -> String {
    let name = path.strip_prefix(LOG).unwrap_or(path).to_str().unwrap();
    name.replace("0000000000000000", "*").replace("0000000000000001", "*").replace("0000000000000002", "*")
}

/// One run whose n-th call fails; answers the call whose failure did not reach the caller, and whether
/// there was an n-th call.
fn fail(nth: u64, flavour: Flavour, cause: Cause) -> (Option<(Call, String)>, bool) {
    let disk = new_disk();
    disk.inject(Fault { calls: Calls::Any, nth, lasting: Lasting::Once, flavour, cause });
    let mut run = Run::default();
    let result = run.all(&disk);
    let failures = disk.failures();
    let Some((call, path)) = failures.first() else {
        assert!(result.is_ok(), "nothing failed, and yet: {result:?}");
        return (None, disk.failed() > 0);
    };
    let what = format!("call {nth}, {call:?} of {}, {flavour:?}, {cause:?}: {result:?}", path.display());
    let told = run.told.lock().unwrap().len();
    assert_eq!(told, run.asked, "{what}: {} callbacks, {told} of them told", run.asked);
    if let Err((step, error)) = &result {
        let damaged = matches!(error, LogError::Damaged(_) | LogError::Generation(GenerationError::Damaged(_)));
        assert!(!damaged, "{what}: {step:?}: a failed call is no damage");
    }
    run.examine(&disk.snapshot(), &format!("{what}; going on"));
    run.examine(&disk.kill(), &format!("{what}; killed"));
    let crashed = disk.crash(&mut SplitMix64::new(nth));
    run.examine(&crashed, &format!("{what}; crash"));
    (result.is_ok().then(|| (*call, pattern(path))), true)
}

/// Fails every call in turn; answers those whose failure did not reach the caller.
fn fail_each(flavour: Flavour, cause: Cause) -> BTreeSet<(Call, String)> {
    let mut ignored = BTreeSet::new();
    for nth in 1.. {
        let judged = catch_unwind(AssertUnwindSafe(|| fail(nth, flavour, cause)));
        let (unheard, met) = judged.unwrap_or_else(|panic| {
            #[expect(clippy::print_stderr, reason = "what failed")]
            {
                eprintln!("call {nth}, {flavour:?}, {cause:?}");
            }
            resume_unwind(panic)
        });
        ignored.extend(unheard);
        if !met {
            break;
        }
    }
    ignored
}

#[test]
fn every_failing_call_is_told_and_loses_nothing() {
    let kinds = [Flavour::Failed, Flavour::FailedButApplied]
        .map(|flavour| [Cause::Io, Cause::NoSpace].map(|cause| (flavour, cause)));
    let ignored: BTreeSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            kinds.as_flattened().iter().map(|(flavour, cause)| scope.spawn(|| fail_each(*flavour, *cause))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let listed: BTreeSet<_> = IGNORED.iter().map(|(call, name, _)| (*call, (*name).to_owned())).collect();
    assert_eq!(ignored, listed, "calls whose failure is ignored, and those of which that is known");
}
