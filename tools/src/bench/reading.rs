//! What a log costs that lies there: verifying it, proving out of it, keeping it open, its disk space.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, anyhow};
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::index::{Index, quiet};
use stele_engine::local::{LocalLog, SealSettings};
use stele_engine::reader::LogReader;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::LeafIndex;

use super::appending::{create, push_all};
use super::engine::Row;
use super::records::{Maker, Records};
use super::stopwatch::{Stopwatch, median};
use crate::exit::{Exit, Failure};

const ROUNDS: usize = 3;
const RECORD_BYTES: usize = 512;
const CHAINS: usize = 1000;
/// The size of log that the bars of `prove` and `memory` are about.
const FULL_RECORDS: u64 = 10_000_000;
const PROOFS: usize = 20_000;
const MIB: f64 = (1 << 20) as f64;

/// Verifies a whole log, which lies in the page cache.
pub(super) fn verify(environment: &Environment, log: &Path) -> Result<Row, Failure> {
    let directory = LogDirectory::new(log);
    let options = VerifyOptions { workers: environment.workers, ..VerifyOptions::default() };
    let mut seconds = Vec::new();
    let mut report = None;
    for _ in 0..ROUNDS {
        let watch = Stopwatch::start();
        let found = verify_log(environment.disk.as_ref(), &directory, &options, &mut |_| ())?;
        seconds.push(watch.seconds());
        report = Some(found);
    }
    let report = report.ok_or_else(|| anyhow!("no round was run"))?;
    if let Some(finding) = report.findings.first() {
        return Err(Failure::new(Exit::Unverified, anyhow!("the log of the bench is damaged: {finding:?}")));
    }
    let middle = median(&mut seconds);
    Ok(Row::new("verify_log")
        .number("mib_per_second", report.bytes as f64 / MIB / middle)
        .count("records", report.records.get())
        .count("bytes", report.bytes)
        .number("seconds", middle)
        .count("rounds", ROUNDS as u64))
}

/// A log of many short records in many chains, for the workloads below.
pub(super) fn make_log(environment: &Environment, path: &Path, records: u64) -> Result<(), Failure> {
    let mut log = create(environment, path, SealSettings::default().bytes)?;
    let mut maker = Maker::new(CHAINS, RECORD_BYTES);
    let mut left = records;
    while left > 0 {
        let count = left.min(1024);
        let made = Records::make(&mut maker, usize::try_from(count).unwrap_or(1024))?;
        push_all(&mut log, made.iter())?;
        left -= count;
    }
    Ok(log.close()?)
}

/// Inclusion proofs of records all over the log, after as many others: by then every sidecar is in memory. What
/// other work on the machine costs is in the 99th percentile, and not in the smallest time and the median.
pub(super) fn prove(environment: &Environment, log: &Path, records: u64) -> Result<Row, Failure> {
    let reader = LogReader::open(environment, log)?;
    let size = reader.size();
    let mut at = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        LeafIndex::new((at >> 20) % size.get())
    };
    for _ in 0..PROOFS {
        reader.prove_inclusion(draw(), size)?;
    }
    let mut micros = Vec::with_capacity(PROOFS);
    let all = Stopwatch::start();
    for _ in 0..PROOFS {
        let index = draw();
        let watch = Stopwatch::start();
        let proof = reader.prove_inclusion(index, size)?;
        micros.push(watch.elapsed().as_secs_f64() * 1e6);
        std::hint::black_box(proof);
    }
    let seconds = all.seconds();
    micros.sort_unstable_by(f64::total_cmp);
    Ok(Row::new("prove")
        .number("p99_us", micros[PROOFS * 99 / 100])
        .number("p50_us", micros[PROOFS / 2])
        .number("min_us", micros[0])
        .count("records", records)
        .count("records_of_the_bar", FULL_RECORDS)
        .count("proofs", PROOFS as u64)
        .count("bytes", records * RECORD_BYTES as u64)
        .number("seconds", seconds)
        .count("rounds", 1))
}

/// What a process of its own takes that has the log open for writing, all of it: resident memory (`VmRSS`), the
/// program's code included.
pub(super) fn memory(log: &Path, records: u64) -> Result<Row, Failure> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let watch = Stopwatch::start();
    let child = Command::new(program).args(["bench", "engine", "--open"]).arg(log).stderr(Stdio::inherit()).output();
    let seconds = watch.seconds();
    let output = child.context("cannot start this program again")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mib: f64 = text.trim().parse().map_err(|_no| anyhow!("the log could not be opened again"))?;
    Ok(Row::new("memory")
        .number("mib", mib)
        .count("records", records)
        .count("records_of_the_bar", FULL_RECORDS)
        .count("chains", CHAINS as u64)
        .count("bytes", records * RECORD_BYTES as u64)
        .number("seconds", seconds)
        .count("rounds", 1))
}

/// Opens a log and answers what the process then holds in memory, in MiB.
pub(super) fn open_and_weigh(environment: &Environment, log: &Path) -> Result<f64, Failure> {
    let log = LocalLog::open(environment, log)?;
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|rest| {
        let number = rest.trim().trim_end_matches("kB").trim();
        number.parse::<f64>().ok()
    });
    log.close()?;
    Ok(kib.ok_or_else(|| anyhow!("/proc/self/status does not tell VmRSS"))? / 1024.0)
}

/// Bytes of all files of the log over the canonical bytes of its records, without its index and with one.
pub(super) fn disk(environment: &Environment, log: &Path, records: u64) -> Result<Row, Failure> {
    let watch = Stopwatch::start();
    let index = log.join("index");
    let on_disk = bytes_below(log, &index)?;
    let bytes = records * RECORD_BYTES as u64;
    let seconds = watch.seconds();
    let watch = Stopwatch::start();
    drop(Index::rebuild(environment, log, &mut quiet)?);
    let index_seconds = watch.seconds();
    let index_bytes = bytes_below(&index, Path::new(""))?;
    Ok(Row::new("disk")
        .number("ratio", on_disk as f64 / bytes as f64)
        .number("ratio_with_index", (on_disk + index_bytes) as f64 / bytes as f64)
        .count("records", records)
        .count("bytes", bytes)
        .count("disk_bytes", on_disk)
        .count("index_bytes", index_bytes)
        .number("index_seconds", index_seconds)
        .number("seconds", seconds)
        .count("rounds", 1))
}

fn bytes_below(directory: &Path, except: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    let context = || format!("cannot look into {}", directory.display());
    for entry in fs::read_dir(directory).with_context(context)? {
        let entry = entry.with_context(context)?;
        let metadata = entry.metadata().with_context(context)?;
        if metadata.is_dir() {
            if entry.path() != except {
                bytes += bytes_below(&entry.path(), except)?;
            }
        } else {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
