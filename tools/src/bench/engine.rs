//! `stele bench engine`: arguments, the order of the workloads.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::builder::PossibleValuesParser;
use clap::{Args, value_parser};
use stele_engine::environment::Environment;

use super::appending::Batches;
use super::records::{Maker, Records};
pub(super) use super::row::Row;
use super::sizes::Sizes;
use super::{appending, hashing, reading, row};
use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// All workloads, in the order in which they run.
const WORKLOADS: [&str; 11] = [
    "canonicalise_hash_chain",
    "verify_self_hash",
    "verify_chain",
    "append_batch_1",
    "append_batch_64",
    "append_batch_1024",
    "append_stream",
    "verify_log",
    "prove",
    "disk",
    "memory",
];
const BATCHES: [Batches; 3] = [
    Batches { workload: "append_batch_1", batch: 1 },
    Batches { workload: "append_batch_64", batch: 64 },
    Batches { workload: "append_batch_1024", batch: 1024 },
];
/// More than that no disk here holds.
const MAX_RECORDS: u64 = 1_000_000_000;

/// The arguments of `stele bench engine`.
#[derive(Args, Debug)]
#[command(after_help = "\
Appending is measured beside its limit: the same number of bytes a flush, written to the same kind of file by nothing
but write and flush, in the same run, in turn, --rounds times, the median. Needs about 1 GiB of memory and disk space, and
600 bytes more of disk space for each of --records.

Example:
  stele bench engine --dir /var/lib/stele --json")]
pub struct Arguments {
    /// Where to make files, on the disk to be measured; by default the current directory. They are removed at the
    /// end; what an interrupted run leaves lies in `stele-bench-*`.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print one JSON object a workload.
    #[arg(long)]
    pub json: bool,
    /// Run only this workload; may be given more than once.
    #[arg(long, value_name = "WORKLOAD", value_parser = PossibleValuesParser::new(WORKLOADS), hide_possible_values = true)]
    pub only: Vec<String>,
    /// How many records the log has that `prove`, `memory` and `disk` are measured on; the bars are about
    /// 10 million.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1..=MAX_RECORDS))]
    pub records: u64,
    /// How much the other workloads do.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Open this log and print what memory the process takes.
    #[arg(long, value_name = "LOG", hide = true)]
    pub open: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, workloads: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| workloads.contains(&only.as_str()))
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
    if !parent.is_dir() {
        return Err(Failure::new(Exit::Usage, anyhow!("--dir {}: is not a directory", parent.display())));
    }
    environment.disk.create_directory(&directory)?;
    if !arguments.json {
        streams.line(row::HEADING)?;
    }
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
    let sizes = &arguments.sizes;
    if arguments.wants(&["canonicalise_hash_chain"]) {
        print(&hashing::canonicalise(sizes)?)?;
    }
    if arguments.wants(&["verify_self_hash"]) {
        print(&hashing::self_hash(sizes)?)?;
    }
    if arguments.wants(&["verify_chain"]) {
        print(&hashing::chain(sizes)?)?;
    }
    if arguments.wants(&["append_batch_1", "append_batch_64", "append_batch_1024", "append_stream", "verify_log"]) {
        let mut maker = Maker::new(appending::CHAINS, appending::RECORD_BYTES);
        let records = Records::make(&mut maker, sizes.needed_records())?;
        for batches in BATCHES {
            if arguments.wants(&[batches.workload]) {
                print(&appending::batches(environment, directory, &records, sizes, batches)?)?;
            }
        }
        if arguments.wants(&["append_stream", "verify_log"]) {
            let row = appending::stream(environment, directory, &records, sizes)?;
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
            print(&reading::disk(environment, &log, arguments.records)?)?;
        }
        if arguments.wants(&["memory"]) {
            print(&reading::memory(&log, arguments.records)?)?;
        }
    }
    Ok(())
}
