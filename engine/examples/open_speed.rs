//! How fast a log is made, and how fast it is opened: after a clean stop, and after its writer was killed.
//!
//! ```text
//! cargo run --release -p stele-engine --example open_speed -- DIR [RECORDS [CHAINS]]
//! ```
//!
//! Makes a log of 10,000,000 small records in 64 chains in DIR, which must not exist, and opens it some
//! times; where DIR holds a log, that one is opened. DIR must be on a real disk, and is left behind (about
//! 2.3 GB). The writer is killed (SIGKILL, in a process of its own) in the middle of appending, once in every
//! round, so the rounds see state files of all ages. Pages that the kernel keeps in memory stay there: drop
//! them between two runs on the same DIR to see a cold start, and give 1 for ROUNDS:
//!
//! ```text
//! cargo run --release -p stele-engine --example open_speed -- --open DIR [ROUNDS]
//! ```

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::reader::LogReader;
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Records that are made durable together.
const GROUP: u64 = 1024;
/// Records that a writer appends in each round before it is killed, at the least.
const BEFORE_KILL: u64 = 150_000;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--append", dir, chains] => append_until_killed(Path::new(dir), chains.parse()?),
        ["--open", dir] => open(Path::new(dir), 3),
        ["--open", dir, rounds] => open(Path::new(dir), rounds.parse()?),
        [dir] => run(Path::new(dir), 10_000_000, 64),
        [dir, records] => run(Path::new(dir), records.parse()?, 64),
        [dir, records, chains] => run(Path::new(dir), records.parse()?, chains.parse()?),
        _ => Err("usage: open_speed DIR [RECORDS [CHAINS]] | --open DIR [ROUNDS]".into()),
    }
}

fn run(dir: &Path, records: u64, chains: u64) -> Outcome<()> {
    if !dir.exists() {
        let (log, took) = timed(|| make(dir, records, chains))?;
        let rate = records as f64 / took.as_secs_f64();
        tell(&format!(
            "made        {:>8.3} s  {records} records, {chains} chains, {rate:.0} records/s",
            took.as_secs_f64()
        ))?;
        log.close()?;
    }
    open(dir, 3)?;
    for _ in 0..6 {
        kill_a_writer(dir, chains)?;
        open_once(dir, "after kill")?;
    }
    Ok(())
}

fn open(dir: &Path, rounds: u32) -> Outcome<()> {
    for _ in 0..rounds {
        open_once(dir, "as it is")?;
        let (reader, took) = timed(|| Ok(LogReader::open(&Environment::system(), dir)?))?;
        tell(&format!("to read     {:>8.3} s  {} records", took.as_secs_f64(), reader.size()))?;
    }
    Ok(())
}

/// Opens a log and closes it again, so that it was stopped cleanly afterwards.
fn open_once(dir: &Path, how: &str) -> Outcome<()> {
    let (log, took) = timed(|| Ok(LocalLog::open(&Environment::system(), dir)?))?;
    let torn = if log.torn_tail().is_some() { ", a torn tail was cut" } else { "" };
    tell(&format!("{how:<11} {:>8.3} s  {} records{torn}", took.as_secs_f64(), log.size()))?;
    log.close()?;
    Ok(())
}

fn make(dir: &Path, records: u64, chains: u64) -> Outcome<LocalLog> {
    let origin = Origin::new("example.com/open-speed")?;
    let mut log = LocalLog::create(&Environment::system(), dir, &CreateOptions::new(origin))?;
    for number in 0..records {
        push(&mut log, number, chains)?;
    }
    log.flush()?;
    Ok(log)
}

/// A record of about 230 bytes, of the next chain in turn.
fn push(log: &mut LocalLog, number: u64, chains: u64) -> Outcome<()> {
    let writer_id = format!("host-{}.example.com", number % chains);
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(1_700_000_000_000 + number),
        writer_id: &writer_id,
        stream: "app",
        kind: "Opened",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: None })?;
    if number % GROUP == GROUP - 1 {
        log.cut(Box::new(drop))?;
    }
    Ok(())
}

/// Appends for ever, and says when it has appended so much that it may be killed.
fn append_until_killed(dir: &Path, chains: u64) -> Outcome<()> {
    let mut log = LocalLog::open(&Environment::system(), dir)?;
    for number in 0.. {
        push(&mut log, number, chains)?;
        if number == BEFORE_KILL {
            tell("go")?;
        }
    }
    Ok(())
}

fn kill_a_writer(dir: &Path, chains: u64) -> Outcome<()> {
    let mut writer = Command::new(std::env::current_exe()?)
        .arg("--append")
        .arg(dir)
        .arg(chains.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut said) = writer.stdout.take() {
        // Ends early where the writer has failed.
        said.read_exact(&mut [0; 3])?;
    }
    writer.kill()?;
    writer.wait()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}

fn tell(line: &str) -> Outcome<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
