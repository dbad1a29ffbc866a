//! `stele read` and `stele tail`: records out of a log, each hashed again before it is printed.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::segment::LeafRange;
use stele_proof::LeafIndex;
use stele_proof::record::{FINISH_BYTES, Record};

use crate::exit::{Exit, Failure};
use crate::remote::{Place, Target};
use crate::stream::Streams;

pub mod find;
mod remote;
mod time;

use find::{Filters, Through};

/// Output is handed over in pieces of about this size.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Between two looks for new records.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);

/// How records are printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct Form {
    /// Add `payload` and `salt` in base64 behind the record, where it has them.
    #[arg(long)]
    pub payload: bool,
    /// Wrap each record as `{"index":..,"self_hash":..,"record":{..}}`.
    #[arg(long)]
    pub json: bool,
}

impl Form {
    const fn payloads(self) -> Payloads {
        if self.payload { Payloads::Read } else { Payloads::Leave }
    }
}

/// The arguments of `stele read`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the finished canonical record, one a line. A range is clipped at the end of the log; the first damaged
record ends the command with exit code 3. Takes no lock of the log: it can be read while it is written.

Filters combine; with them the range may be left out. A time is RFC 3339 or milliseconds since 1970. They go through
the index as it is (`stele index update` makes it and keeps it up); what it does not hold yet is read, up to
--unindexed records. Are there more, these are not looked at, the exit code is 4 and with --json the last line is
{\"not_yet_indexed\":{\"end\":B,\"first\":A}}. Looking things up takes the lock of the index for a moment, and its store
writes into its own files. Without an index, where another process has it open, and where this user or file system
does not let it be written, everything is read. Where nothing matches the exit code is 6.

From a cluster, with --policy (or one in the context), records are printed once they are proved to be in the log under
a checkpoint that meets it; any that is not ends the command with exit code 3, and so does a range that a node ends
before its end and that of the checkpoint. That there is no record in it at all, or none behind the checkpoint, is the
node's word. Without a policy, a note says that nothing is proved.

Examples:
  stele read --log audit 17
  stele read --log audit 0..100 --payload --json
  stele read --log audit --stream app --since 2026-01-31T08:00:00Z --until 2026-01-31T09:00:00Z
  stele read --log audit --hash b3:0a1b
  stele read --endpoint a.example.com:7070 --policy policy 0..100")]
pub struct Arguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
    /// An index, or a range without its end.
    #[arg(value_name = "INDEX|A..B", value_parser = range, required_unless_present = "filters")]
    pub range: Option<Range>,
    /// Which of them.
    #[command(flatten)]
    pub filters: Filters,
    /// How the index is used.
    #[command(flatten)]
    pub through: Through,
    /// How records are printed.
    #[command(flatten)]
    pub form: Form,
}

/// The arguments of `stele tail`.
#[derive(Args, Debug)]
#[command(after_help = "\
From a cluster, --policy proves the records as it does for `stele read`; which are the last is the node's word. Where it
sends fewer than it says it has, the exit code is 4.

Examples:
  stele tail --log audit -n 3
  stele tail --log audit -n 0 --follow
  stele tail --endpoint a.example.com:7070 --policy policy -n 3 --follow")]
pub struct TailArguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
    /// How many records.
    #[arg(short = 'n', long = "records", value_name = "N", default_value_t = 10)]
    pub records: u64,
    /// Go on with new records as they become durable, until interrupted, or until one finds that nobody reads the output.
    #[arg(short, long)]
    pub follow: bool,
    /// How records are printed.
    #[command(flatten)]
    pub form: Form,
}

/// From the first index up to, not with, the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    first: LeafIndex,
    end: LeafIndex,
}

impl Range {
    const ALL: Self = Self { first: LeafIndex::new(0), end: LeafIndex::new(u64::MAX) };
}

fn range(text: &str) -> Result<Range, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_reason| format!("`{text}` is not an index"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => {
            let index = number(text)?;
            (index, index.checked_add(1).ok_or_else(|| format!("`{text}` is not an index"))?)
        }
    };
    Ok(Range { first: LeafIndex::new(first), end: LeafIndex::new(end) })
}

/// Prints the records.
///
/// # Errors
/// [`Failure`]: exit code 6 where there are none, 3 at the first damaged one.
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let Range { first, end } = arguments.range.unwrap_or(Range::ALL);
    let directory = match arguments.target.place()? {
        Place::Directory(directory) => directory,
        Place::Cluster(_) if arguments.filters.is_any() => {
            let why = anyhow!("filters work on a directory: give --log DIR, or leave them out");
            return Err(Failure::new(Exit::Usage, why));
        }
        Place::Cluster(_) if first >= end => return Err(empty_range(first, end)),
        Place::Cluster(reach) => return remote::run(&reach, first, end, arguments.form, streams),
    };
    if arguments.filters.is_any() && first < end {
        return find::run(arguments, directory, LeafRange { first, end }, environment, streams);
    }
    let reader = open(environment, directory, streams)?;
    if first >= end {
        return Err(empty_range(first, end));
    }
    print(&reader, first, end, arguments.form, streams)
}

fn empty_range(first: LeafIndex, end: LeafIndex) -> Failure {
    let why = anyhow!("{first}..{end} is an empty range; the end stands second and is not included");
    Failure::new(Exit::NotFound, why)
}

/// Prints the last records.
///
/// # Errors
/// [`Failure`].
pub fn run_tail(
    arguments: &TailArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let directory = match arguments.target.place()? {
        Place::Directory(directory) => directory,
        Place::Cluster(reach) => return remote::run_tail(arguments, &reach, streams),
    };
    let mut reader = open(environment, directory, streams)?;
    let end = reader.size().next_leaf();
    let first = LeafIndex::new(end.get().saturating_sub(arguments.records));
    if first < end {
        print(&reader, first, end, arguments.form, streams)?;
    }
    reader.whole()?;
    if !arguments.follow {
        return Ok(());
    }
    loop {
        let payloads = arguments.form.payloads();
        let mut printer = Printer::new(arguments.form, streams);
        let done = reader.follow::<Failure>(payloads, &mut |read| printer.record(&read));
        printer.finish()?;
        done?;
        std::thread::park_timeout(FOLLOW_PAUSE);
    }
}

/// Opens a log for reading and tells of a torn tail.
///
/// # Errors
/// [`Failure`].
pub fn open(environment: &Environment, log: &Path, streams: &mut Streams<'_>) -> Result<LogReader, Failure> {
    let reader = LogReader::open(environment, log)?;
    if let Some(note) = &reader.end().note {
        streams.tell(format_args!("stele: note: {note}"));
    }
    Ok(reader)
}

fn print(
    reader: &LogReader,
    first: LeafIndex,
    end: LeafIndex,
    form: Form,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut printer = Printer::new(form, streams);
    let done = reader.read::<Failure>(first, end, form.payloads(), &mut |read| printer.record(&read));
    // What was read before a damaged record is good, and is handed out first.
    printer.finish()?;
    done
}

/// Prints records in pieces.
struct Printer<'p, 's> {
    form: Form,
    streams: &'p mut Streams<'s>,
    lines: Vec<u8>,
    printed: u64,
}

impl<'p, 's> Printer<'p, 's> {
    fn new(form: Form, streams: &'p mut Streams<'s>) -> Self {
        Self { form, streams, lines: Vec::new(), printed: 0 }
    }

    fn record(&mut self, read: &ReadRecord) -> Result<(), Failure> {
        write(read, self.form, &mut self.lines)?;
        self.printed += 1;
        if self.lines.len() >= OUTPUT_BYTES {
            self.streams.bytes(&self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }

    /// Hands out what is there.
    fn hand_out(&mut self) -> Result<(), Failure> {
        self.streams.bytes(&self.lines)?;
        self.lines.clear();
        self.streams.flush()
    }

    /// Hands out the rest, and answers how many records there were.
    fn finish(mut self) -> Result<u64, Failure> {
        self.hand_out()?;
        Ok(self.printed)
    }
}

fn write(read: &ReadRecord, form: Form, line: &mut Vec<u8>) -> Result<(), Failure> {
    let record = Record::parse(&read.canonical)
        .map_err(|error| LogError::File { file: format!("record {}", read.index), why: error.to_string() })?;
    let self_hash = record.self_hash();
    line.reserve(record.canonical().len() + FINISH_BYTES + 128);
    if form.json {
        line.extend_from_slice(
            format!("{{\"index\":{},\"self_hash\":\"{self_hash}\",\"record\":", read.index).as_bytes(),
        );
    }
    record.write_finished(&self_hash, line);
    if let Some((salt, payload)) = &read.payload {
        if !form.json {
            line.pop();
        }
        let (payload, salt) = (STANDARD.encode(payload), STANDARD.encode(salt.as_bytes()));
        line.extend_from_slice(format!(",\"payload\":\"{payload}\",\"salt\":\"{salt}\"").as_bytes());
        if !form.json {
            line.push(b'}');
        }
    }
    line.extend_from_slice(if form.json { b"}\n" } else { b"\n" });
    Ok(())
}
