//! `stele bench engine`: arguments, the order of the workloads, how a result is printed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use stele_engine::environment::Environment;

use super::records::{Maker, Records};
use super::{appending, hashing, reading};
use crate::exit::Failure;
use crate::stream::Streams;

/// The arguments of `stele bench engine`.
#[derive(Args, Debug)]
#[command(after_help = "\
Appending is measured beside its limit: the same number of bytes a flush, written to the same kind of file by nothing
but write and flush, in the same run, in turn, three rounds, the median. Needs about 1 GiB of memory and disk space, and
600 bytes more of disk space for each of --records.

Example:
  stele bench engine --dir /var/lib/stele --json")]
pub struct Arguments {
    /// Where to make files, on the disk to be measured; by default the current directory. They are removed.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object a workload.
    #[arg(long)]
    pub json: bool,
    /// Run only this workload; may be given more than once.
    #[arg(long, value_name = "WORKLOAD")]
    pub only: Vec<String>,
    /// How many records the log has that `prove`, `memory` and `disk` are measured on; the bars are about
    /// 10 million.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub records: u64,
    /// Open this log and print what memory the process takes.
    #[arg(long, value_name = "LOG", hide = true)]
    pub open: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, workloads: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| workloads.contains(&only.as_str()))
    }
}

/// What was measured of one workload.
pub(super) struct Row {
    workload: &'static str,
    /// The first one is what the bar is about.
    values: Vec<(&'static str, Measured)>,
}

enum Measured {
    Count(u64),
    Number(f64),
}

impl Row {
    pub(super) const fn new(workload: &'static str) -> Self {
        Self { workload, values: Vec::new() }
    }

    pub(super) fn count(mut self, name: &'static str, value: u64) -> Self {
        self.values.push((name, Measured::Count(value)));
        self
    }

    pub(super) fn number(mut self, name: &'static str, value: f64) -> Self {
        self.values.push((name, Measured::Number(value)));
        self
    }

    fn json(&self) -> String {
        let mut line = format!("{{\"workload\":\"{}\"", self.workload);
        for (name, value) in &self.values {
            // Writing to a string cannot fail.
            let _infallible = match value {
                Measured::Count(count) => write!(line, ",\"{name}\":{count}"),
                Measured::Number(number) => write!(line, ",\"{name}\":{number:.4}"),
            };
        }
        line.push('}');
        line
    }

    fn text(&self) -> String {
        let mut line = format!("{:<24}", self.workload);
        for (name, value) in &self.values {
            let _infallible = match value {
                Measured::Count(count) => write!(line, "  {name} {count}"),
                Measured::Number(number) if *number >= 1000.0 => write!(line, "  {name} {number:.0}"),
                Measured::Number(number) => write!(line, "  {name} {number:.3}"),
            };
        }
        line
    }
}

/// Runs the workloads and prints each result as soon as it is there.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if let Some(log) = &arguments.open {
        return streams.line(reading::open_and_weigh(environment, log)?);
    }
    let suffix: [u8; 6] = environment.random().context("the system gives no randomness")?;
    let suffix: String = suffix.iter().map(|byte| format!("{byte:02x}")).collect();
    let parent = arguments.dir.as_deref().unwrap_or(Path::new("."));
    let directory = parent.join(format!("stele-bench-{suffix}"));
    environment.disk.create_directory(&directory)?;
    let done = measure(arguments, environment, &directory, &mut |row| {
        streams.line(if arguments.json { row.json() } else { row.text() })?;
        streams.flush()
    });
    done.and(appending::remove(&directory))
}

fn measure(
    arguments: &Arguments,
    environment: &Environment,
    directory: &Path,
    print: &mut dyn FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if arguments.wants(&["canonicalise_hash_chain"]) {
        print(&hashing::canonicalise()?)?;
    }
    if arguments.wants(&["verify_self_hash"]) {
        print(&hashing::self_hash()?)?;
    }
    if arguments.wants(&["verify_chain"]) {
        print(&hashing::chain()?)?;
    }
    const BATCHES: [(usize, &str); 3] = [(1, "append_batch_1"), (64, "append_batch_64"), (1024, "append_batch_1024")];
    if arguments.wants(&["append_batch_1", "append_batch_64", "append_batch_1024", "append_stream", "verify_log"]) {
        let mut maker = Maker::new(appending::CHAINS, appending::RECORD_BYTES);
        let records = Records::make(&mut maker, appending::RECORDS)?;
        for (batch, workload) in BATCHES {
            if arguments.wants(&[workload]) {
                print(&appending::batches(environment, directory, &records, batch, workload)?)?;
            }
        }
        if arguments.wants(&["append_stream", "verify_log"]) {
            let row = appending::stream(environment, directory, &records)?;
            if arguments.wants(&["append_stream"]) {
                print(&row)?;
            }
            let log = appending::stream_log(directory);
            if arguments.wants(&["verify_log"]) {
                print(&reading::verify(environment, &log)?)?;
            }
            appending::remove(&log)?;
        }
    }
    if arguments.wants(&["prove", "memory", "disk"]) {
        let log = directory.join("large");
        reading::make_log(environment, &log, arguments.records)?;
        if arguments.wants(&["prove"]) {
            print(&reading::prove(environment, &log, arguments.records)?)?;
        }
        if arguments.wants(&["disk"]) {
            print(&reading::disk(&log, arguments.records)?)?;
        }
        if arguments.wants(&["memory"]) {
            print(&reading::memory(&log, arguments.records)?)?;
        }
    }
    Ok(())
}
