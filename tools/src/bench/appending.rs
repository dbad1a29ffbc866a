//! Appending finished records of 1 KiB in 64 chains to a log on disk, through everything a record goes
//! through: parsed strictly, hashed, chain checked, leaf hashed, durable.
//!
//! What is timed begins with the first record of a segment whose file was prepared, and covers whole
//! segments: each zeroes the file of the one behind it and seals the one before it, as a log does that has
//! been running for a while.

use std::path::Path;
use std::sync::mpsc;

use anyhow::anyhow;
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, SealSettings};
use stele_proof::checkpoint::Origin;

use super::limit::{self, Load};
use super::records::Records;
use super::row::Row;
use super::sizes::{SMALL_BATCH, Sizes};
use super::stopwatch::{Stopwatch, median};
use crate::exit::{Exit, Failure};

/// Canonical bytes of each.
pub(super) const RECORD_BYTES: usize = 1024;
pub(super) const CHAINS: usize = 64;
/// Bytes of a page, a frame header, a batch header and a record's length.
const PAGE: usize = 4096;
const FRAME: usize = 64 + 24;
const LENGTH: usize = 2;

/// How records are grouped.
#[derive(Clone, Copy)]
struct Shape {
    /// Records a batch.
    batch: usize,
    warm: usize,
    timed: usize,
    seal_bytes: u64,
}

impl Shape {
    fn of(batch: usize, sizes: &Sizes) -> Self {
        let seal_bytes = SealSettings::default().bytes;
        // With two blocks behind it, which is what is not timed, a log prepares files of the right length.
        let timed = sizes.batched_records(batch);
        if batch < SMALL_BATCH {
            // Frames are a page at least: shorter segments, of as many frames.
            return Self { batch, warm: timed, timed, seal_bytes: 2 << 20 };
        }
        Self { batch, warm: timed, timed, seal_bytes }
    }

    /// What the limit writes: as many flushes of as many bytes, the slot of the flush ring among them.
    const fn load(self) -> Load {
        let frame = FRAME + self.batch * (RECORD_BYTES + LENGTH);
        Load { flushes: (self.timed / self.batch) as u64, flush_bytes: frame.next_multiple_of(PAGE) + PAGE }
    }
}

/// A workload of batches.
#[derive(Clone, Copy)]
pub(super) struct Batches {
    pub(super) workload: &'static str,
    /// Records each.
    pub(super) batch: usize,
}

/// Batches of `batch` records, each a frame, each frame a flush, the next batch taken in during the flush.
pub(super) fn batches(
    environment: &Environment,
    directory: &Path,
    records: &Records,
    sizes: &Sizes,
    Batches { batch, workload }: Batches,
) -> Result<Row, Failure> {
    let shape = Shape::of(batch, sizes);
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for round in 0..sizes.rounds {
        limits.push(limit::run(directory, shape.load())?);
        let path = directory.join(format!("append-{batch}-{round}"));
        let mut log = create(environment, &path, shape.seal_bytes)?;
        append_batches(&mut log, records, shape, 0..shape.warm)?;
        let watch = Stopwatch::start();
        append_batches(&mut log, records, shape, shape.warm..shape.warm + shape.timed)?;
        ours.push(watch.seconds());
        log.close()?;
        remove(&path)?;
    }
    let (seconds, limit_seconds) = (median(&mut ours), median(&mut limits));
    let load = shape.load();
    Ok(Row::new(workload)
        .number("ratio_to_limit", limit_seconds / seconds)
        .number("records_per_second", shape.timed as f64 / seconds)
        .number("limit_records_per_second", shape.timed as f64 / limit_seconds)
        .count("records", shape.timed as u64)
        .count("bytes", (shape.timed * RECORD_BYTES) as u64)
        .count("flushes", load.flushes)
        .count("bytes_a_flush", load.flush_bytes as u64)
        .number("seconds", seconds)
        .count("rounds", sizes.rounds as u64))
}

fn append_batches(
    log: &mut LocalLog,
    records: &Records,
    shape: Shape,
    range: std::ops::Range<usize>,
) -> Result<(), Failure> {
    let (tell, told) = mpsc::sync_channel(2);
    let mut in_flight = 0;
    for start in range.clone().step_by(shape.batch) {
        push_range(log, records, start..(start + shape.batch).min(range.end))?;
        if in_flight == 1 {
            wait(&told)?;
            in_flight = 0;
        }
        let tell = tell.clone();
        // Where nobody listens any more, the bench has failed already.
        log.cut(Box::new(move |durable| drop(tell.send(durable))))?;
        in_flight += 1;
    }
    if in_flight == 1 { wait(&told) } else { Ok(()) }
}

fn wait(told: &mpsc::Receiver<Result<(), stele_engine::error::Poisoned>>) -> Result<(), Failure> {
    let durable = told.recv().map_err(|_gone| anyhow!("the log has stopped"))?;
    durable.map_err(|poisoned| anyhow!(poisoned).into())
}

/// As many records as one process can, batches and flushes as they come.
pub(super) fn stream(
    environment: &Environment,
    directory: &Path,
    records: &Records,
    sizes: &Sizes,
) -> Result<Row, Failure> {
    let (warm, timed) = (sizes.append_records, sizes.streamed_records());
    let mut seconds = Vec::new();
    for round in 0..sizes.rounds {
        let path = stream_log(directory);
        if round > 0 {
            remove(&path)?;
        }
        let mut log = create(environment, &path, SealSettings::default().bytes)?;
        push_range(&mut log, records, 0..warm)?;
        log.flush()?;
        let watch = Stopwatch::start();
        push_range(&mut log, records, warm..warm + timed)?;
        log.flush()?;
        seconds.push(watch.seconds());
        log.close()?;
    }
    let middle = median(&mut seconds);
    Ok(Row::new("append_stream")
        .number("records_per_second", timed as f64 / middle)
        .count("records", timed as u64)
        .count("bytes", (timed * RECORD_BYTES) as u64)
        .number("seconds", middle)
        .count("rounds", sizes.rounds as u64))
}

/// Where the last round of [`stream`] leaves its log.
pub(super) fn stream_log(directory: &Path) -> std::path::PathBuf {
    directory.join("append-stream")
}

/// Makes an empty log.
pub(super) fn create(environment: &Environment, path: &Path, seal_bytes: u64) -> Result<LocalLog, Failure> {
    let origin = Origin::new("example.com/bench").map_err(|error| anyhow!(error))?;
    let mut log = LocalLog::create(environment, path, &CreateOptions::new(origin))?;
    log.set_seal_settings(SealSettings { bytes: seal_bytes, ..SealSettings::default() });
    Ok(log)
}

/// Records that are handed over in one call.
const MESSAGE: usize = 64;

fn push_range(log: &mut LocalLog, records: &Records, range: std::ops::Range<usize>) -> Result<(), Failure> {
    for start in range.clone().step_by(MESSAGE) {
        let message = start..(start + MESSAGE).min(range.end);
        push_all(log, message.map(|at| records.get(at)))?;
    }
    Ok(())
}

/// Hands finished records over.
pub(super) fn push_all<'r>(log: &mut LocalLog, finished: impl Iterator<Item = &'r [u8]>) -> Result<(), Failure> {
    let submissions: Vec<_> = finished.map(|bytes| Submission::Finished { bytes, payload: None }).collect();
    let mut refused = None;
    log.push_all(&submissions, &mut |answer| {
        if let Err(refusal) = answer {
            refused.get_or_insert(refusal);
        }
    })?;
    refused.map_or(Ok(()), |refusal| Err(Failure::new(Exit::Unverified, anyhow!(refusal))))
}

pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    use anyhow::Context as _;
    Ok(std::fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?)
}
