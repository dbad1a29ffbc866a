//! `stele read` with filters: through the index where there is one that nobody else has open and that may be
//! written, else without. It feeds no index, makes none and moves none aside, and gives it back before it prints.

use std::io::{IsTerminal as _, stderr};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use stele_engine::environment::Environment;
use stele_engine::index::hashes::WantedHash;
use stele_engine::index::{Answered, Filter, IndexError, IndexReader, Query, Unindexed, scan};
use stele_engine::reader::LogReader;
use stele_engine::segment::LeafRange;
use stele_proof::{TreeSize, UnixMillis};

use super::time::time;
use super::{Arguments, Printer, open};
use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// What records must be like.
#[derive(Args, Debug)]
#[group(id = "filters", multiple = true)]
pub struct Filters {
    /// Only records of this stream.
    #[arg(long, value_name = "STREAM", value_parser = NonEmptyStringValueParser::new())]
    pub stream: Option<String>,
    /// Only records of this writer.
    #[arg(long, value_name = "WRITER", value_parser = NonEmptyStringValueParser::new())]
    pub writer: Option<String>,
    /// Only records whose `ts_ms` is not before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<UnixMillis>,
    /// Only records whose `ts_ms` is before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<UnixMillis>,
    /// Only records with this `self_hash`, payload hash or `content_id`: `b3:` and hex digits.
    #[arg(long, value_name = "HASH", value_parser = hash)]
    pub hash: Option<WantedHash>,
}

/// How the index is used.
#[derive(Args, Clone, Copy, Debug)]
pub struct Through {
    /// Use no index: read everything. A hash is still looked up in the tables beside the segments.
    #[arg(long, conflicts_with = "unindexed")]
    pub scan: bool,
    /// Read at most this many records that are asked for and that the index does not hold yet. Are there more,
    /// none of them is read, and the answer says so.
    #[arg(long, value_name = "N", default_value_t = UNINDEXED)]
    pub unindexed: u64,
}

/// What is read beside the index unless somebody asks for more: some tenths of a second.
const UNINDEXED: u64 = 262_144;

fn hash(text: &str) -> Result<WantedHash, String> {
    WantedHash::parse(text).ok_or_else(|| format!("`{text}` is no hash: give `b3:` and up to 64 lower-case hex digits"))
}

impl Filters {
    /// Whether any is given.
    pub const fn is_any(&self) -> bool {
        self.stream.is_some()
            || self.writer.is_some()
            || self.since.is_some()
            || self.until.is_some()
            || self.hash.is_some()
    }

    fn filter(&self) -> Filter {
        let mut filter = Filter::default();
        if let Some(stream) = &self.stream {
            filter = filter.stream(stream);
        }
        if let Some(writer) = &self.writer {
            filter = filter.writer(writer);
        }
        if let Some(since) = self.since {
            filter = filter.since(since);
        }
        if let Some(until) = self.until {
            filter = filter.until(until);
        }
        match &self.hash {
            Some(hash) => filter.hash(hash.clone()),
            None => filter,
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Log(error) => error.into(),
            error @ IndexError::InUse { .. } => Self::new(Exit::Busy, anyhow!("{error}; wait for it to end")),
            error => Self::new(Exit::Failed, anyhow!("{error}")),
        }
    }
}

/// Prints the records that are like the filters.
///
/// # Errors
/// [`Failure`]: exit code 4 where part of the log was not looked at, 6 where there are none.
pub(super) fn run(
    arguments: &Arguments,
    directory: &Path,
    leaves: LeafRange,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let reader = open(environment, directory, streams)?;
    let payloads = arguments.form.payloads();
    let query = Query { filter: arguments.filters.filter(), leaves, payloads };
    // The tables beside the segments answer for a hash; they need no index to be open.
    let without = arguments.through.scan || arguments.filters.hash.is_some();
    let index = if without { None } else { opened(arguments, &reader, environment, streams) };
    // Given back before anything is printed: whoever reads the output may take their time.
    let places = index.map(|index| (index.look_up(&query), index.close()));
    let mut printer = Printer::new(arguments.form, streams);
    let done = match &places {
        Some((places, reader)) => {
            let unindexed = Unindexed::ReadAtMost(arguments.through.unindexed);
            places.read::<Failure>(reader, unindexed, &mut |read| printer.record(&read))
        }
        None => scan::<Failure>(&reader, &query, &mut |read| printer.record(&read)).map(|()| Answered::default()),
    };
    let printed = printer.finish()?;
    let Answered { not_looked_at, without } = done?;
    if let Some(why) = without {
        let what = "the rest was read without it; `stele index update` makes it anew";
        streams.tell(format_args!("stele: note: the index cannot be used: {why}; {what}"));
    }
    if let Some(LeafRange { first, end }) = not_looked_at {
        if arguments.form.json {
            let range = serde_json::json!({"first": first.get(), "end": end.get()});
            streams.line(serde_json::json!({ "not_yet_indexed": range }))?;
        }
        let what = "`stele index update` indexes them, `--scan` reads them all";
        let why = anyhow!("not yet indexed: records {first}..{end} were not looked at; {what}");
        return Err(Failure::new(Exit::Unreachable, why));
    }
    if printed == 0 {
        return Err(Failure::new(Exit::NotFound, anyhow!("no record of the log is like that")));
    }
    Ok(())
}

/// The index as it is; `None` where it cannot be had, which is told: then everything is read.
fn opened(
    arguments: &Arguments,
    reader: &LogReader,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Option<IndexReader> {
    let error = match IndexReader::open(environment, reader.directory().path()) {
        Ok(index) => return Some(index),
        // A log that is quickly read needs none.
        Err(IndexError::Absent) if reader.size().get() <= arguments.through.unindexed => return None,
        Err(error) => error,
    };
    let remedy = match &error {
        IndexError::Absent => "; `stele index update` makes one",
        error if error.is_refused() => "; only who may write the index can use it",
        IndexError::Store(_) => "; `stele index update` makes it anew",
        _ => "",
    };
    streams.tell(format_args!("stele: note: {error}: all records are read{remedy}"));
    None
}

/// Moves the bar.
pub(crate) fn show(bar: &ProgressBar, indexed: TreeSize, durable: TreeSize) -> ControlFlow<()> {
    bar.set_length(durable.get());
    bar.set_position(indexed.get());
    ControlFlow::Continue(())
}

/// A bar on a terminal, else nothing.
///
/// # Errors
/// [`Failure`], which does not happen.
pub(crate) fn progress_bar() -> Result<ProgressBar, Failure> {
    if !stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("indexing [{bar:40}] {pos} of {len} records, {eta} left")
        .context("the progress bar has a bad template")?;
    Ok(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
}
