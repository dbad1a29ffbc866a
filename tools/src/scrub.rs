//! `stele scrub`: a log read again from the disk, at a set rate, to find what has rotted.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytesize::ByteSize;
use clap::Args;
use indicatif::ProgressStyle;
use serde_json::{Value, json};
use stele_engine::environment::Environment;
use stele_engine::number::SegmentNumber;
use stele_engine::scrub::{Outcome, Pace, ScrubFinding, ScrubPosition, ScrubTotals, Scrubber};

use crate::exit::{Exit, Failure};
use crate::stream::Streams;
use crate::verify::{count, progress_bar};

/// Bytes that are read at a time where there is no rate.
const STEP_BYTES: u64 = 4 << 20;

/// The arguments of `stele scrub`.
#[derive(Args, Debug)]
#[command(after_help = "\
Reads frames, payloads, tile sidecars, hash tables, hard-state and signing-state from the disk, past the page cache
where the file system can, and compares them with checksums, leaves, chains, seal records, payload commitments and the
tree heads that this node signed last. A file that cannot be read is a finding, too.
Each finding is a line on standard error with file, byte and record; then the exit code is 3. Takes no lock and writes
nothing: a log can be scrubbed while it is written, and is then read as far as it is known to be durable.

A scrub holds a log against itself. Who edits a sealed segment and sets right its checksums is found; who makes the whole
log anew with its keys is found only by a checkpoint from elsewhere: `stele verify log DIR --checkpoint FILE`. That looks
at signatures, keys and the policy, too. Neither looks at the index.

A scrub with --rate may take days. Each line `stele: --from SEGMENT` on standard error, one a segment that was read, tells
where to go on should it be interrupted; without --rate there are none.

Examples:
  stele scrub --log audit
  stele scrub --log audit --rate 10MiB --json
  stele scrub --log audit --rate 10MiB --from 17")]
pub struct Arguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Read at most so many bytes a second, as in 500kB or 10MiB; by default as fast as the disk can.
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub rate: Option<NonZeroU64>,
    /// Begin at this segment; at an unsealed one, the first of those is the beginning.
    #[arg(long, value_name = "SEGMENT", default_value_t = 0)]
    pub from: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Whole numbers of a unit: a rate is exact.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let is_whole = text.starts_with(|first: char| first.is_ascii_digit()) && !text.contains('.');
    let size = text.parse::<ByteSize>().ok().filter(|size| is_whole && *size < ByteSize(u64::MAX));
    let size = size.ok_or("give a number of bytes, as in 500kB or 10MiB")?;
    NonZeroU64::new(size.as_u64()).ok_or_else(|| "at no bytes a second it would never end".to_owned())
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 3 where something was found, 6 where there is no log.
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let from = Some(ScrubPosition { segment: SegmentNumber::new(arguments.from) });
    let mut scrubber = Scrubber::start(environment, &arguments.log, from)?;
    let mut position = scrubber.position();
    let pace = arguments.rate.map(Pace::new);
    let bar = progress_bar()?;
    if !bar.is_hidden() {
        let style = ProgressStyle::with_template("scrubbing [{bar:40}] {bytes} of {total_bytes}, {eta} left");
        bar.set_style(style.context("the progress bar has a bad template")?.progress_chars("=> "));
    }
    let (mut read, mut findings, mut notes) = (0, Vec::new(), Vec::new());
    let scrubbed = loop {
        let before = environment.clock.now();
        let step = match scrubber.step(pace.map_or(STEP_BYTES, Pace::step_bytes)) {
            Ok(step) => step,
            Err(error) => break Err(error),
        };
        read += step.bytes;
        // They are told at once: the end may be hours away.
        for finding in &step.findings {
            bar.suspend(|| streams.tell(format_args!("stele: {}", finding.damage)));
        }
        for note in &step.notes {
            bar.suspend(|| streams.tell(format_args!("stele: note: {note}")));
        }
        findings.extend(step.findings);
        notes.extend(step.notes);
        let totals = scrubber.totals();
        if scrubber.position() != position && step.outcome == Outcome::GoesOn {
            position = scrubber.position();
            if pace.is_some() {
                bar.suspend(|| streams.tell(format_args!("stele: --from {}", position.segment)));
            }
        }
        bar.set_length(totals.of_bytes);
        bar.set_position(totals.bytes.min(totals.of_bytes));
        if step.outcome == Outcome::Done {
            break Ok(());
        }
        if let Some(pace) = pace {
            let took = environment.clock.now().get().saturating_sub(before.get());
            std::thread::park_timeout(pace.wait_after(step.bytes, Duration::from_millis(took)));
        }
    };
    bar.finish_and_clear();
    let totals = scrubber.totals();
    let mut told = object(totals, read, &findings, &notes);
    if let Err(error) = scrubbed {
        told["ok"] = json!(false);
        told["error"] = json!(error.to_string());
        told["from"] = json!(scrubber.position().segment.get());
        if arguments.json {
            streams.line(told)?;
        }
        return Err(error.into());
    }
    if arguments.json {
        streams.line(told)?;
    }
    if !findings.is_empty() {
        let (log, found) = (arguments.log.display(), count(findings.len(), "finding"));
        let what =
            format!("{log} has rotted: {found}; `stele repair --log {log} --from COPY` mends it from a good copy");
        return Err(Failure::new(Exit::Unverified, anyhow!(what)));
    }
    if arguments.json {
        return Ok(());
    }
    let ScrubTotals { records, segments, .. } = totals;
    streams.line(format_args!("ok: {records} records in {segments} whole segments; {read} bytes read"))?;
    streams.line("held against itself only: `stele verify log --checkpoint` takes a checkpoint from elsewhere")
}

fn object(totals: ScrubTotals, read: u64, findings: &[ScrubFinding], notes: &[String]) -> Value {
    let finding = |finding: &ScrubFinding| {
        let damage = &finding.damage;
        json!({
            "segment": finding.segment.map(SegmentNumber::get), "file": damage.file, "offset": damage.offset,
            "record": damage.leaf.map(|leaf| leaf.get()), "what": damage.what,
        })
    };
    json!({
        "ok": findings.is_empty(), "records": totals.records, "segments": totals.segments, "bytes_read": read,
        "findings": findings.iter().map(finding).collect::<Vec<_>>(), "notes": notes,
    })
}
