//! `stele read` and `stele tail`: records out of a log, each hashed again before it is printed.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_proof::LeafIndex;
use stele_proof::record::{FINISH_BYTES, Record};

use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// Output is handed over in pieces of about this size.
const OUTPUT_BYTES: usize = 64 * 1024;

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

/// The arguments of `stele read`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the finished canonical record, one a line. A range is clipped at the end of the log; the first damaged
record ends the command with exit code 3. Takes no lock: a log can be read while it is written.

Examples:
  stele read --log audit 17
  stele read --log audit 0..100 --payload --json")]
pub struct Arguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// An index, or a range without its end.
    #[arg(value_name = "INDEX|A..B", value_parser = range)]
    pub range: Range,
    /// How records are printed.
    #[command(flatten)]
    pub form: Form,
}

/// The arguments of `stele tail`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  stele tail --log audit -n 3")]
pub struct TailArguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// How many records.
    #[arg(short = 'n', long = "records", value_name = "N", default_value_t = 10)]
    pub records: u64,
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
    let reader = open(environment, &arguments.log, streams)?;
    let Range { first, end } = arguments.range;
    if first >= end {
        return Err(Failure::new(
            Exit::NotFound,
            anyhow!("{first}..{end} is an empty range; the end stands second and is not included"),
        ));
    }
    print(&reader, first, end, arguments.form, streams)
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
    let reader = open(environment, &arguments.log, streams)?;
    let end = reader.size().next_leaf();
    let first = LeafIndex::new(end.get().saturating_sub(arguments.records));
    if first < end {
        print(&reader, first, end, arguments.form, streams)?;
    }
    Ok(reader.whole()?)
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
    let payloads = if form.payload { Payloads::Read } else { Payloads::Leave };
    let mut lines = Vec::new();
    let done = reader.read::<Failure>(first, end, payloads, &mut |read| {
        write(&read, form, &mut lines)?;
        if lines.len() >= OUTPUT_BYTES {
            streams.bytes(&lines)?;
            lines.clear();
        }
        Ok(())
    });
    // What was read before a damaged record is good, and is handed out first.
    streams.bytes(&lines)?;
    streams.flush()?;
    done
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
