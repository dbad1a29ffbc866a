//! `stele read` with filters: through the index where nobody else has it, else without.

use std::io::{IsTerminal as _, stderr};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use stele_engine::environment::Environment;
use stele_engine::index::hashes::WantedHash;
use stele_engine::index::{Filter, Index, IndexError, Query, scan};
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
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,
    /// Only records of this writer.
    #[arg(long, value_name = "WRITER")]
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
            error @ IndexError::InUse { .. } => Self::new(Exit::Busy, anyhow!("{error}")),
            error => Self::new(Exit::Failed, anyhow!("{error}")),
        }
    }
}

/// Prints the records that are like the filters.
///
/// # Errors
/// [`Failure`]: exit code 6 where there are none.
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
    let index = if arguments.filters.hash.is_some() { None } else { caught_up(directory, environment, streams)? };
    let mut printer = Printer::new(arguments.form, streams);
    let done = match index {
        Some(mut index) => index.find::<Failure>(&query, &mut |read| printer.record(&read)),
        None => scan::<Failure>(&reader, &query, &mut |read| printer.record(&read)),
    };
    let printed = printer.finish()?;
    done?;
    if printed == 0 {
        return Err(Failure::new(Exit::NotFound, anyhow!("no record of the log is like that")));
    }
    Ok(())
}

/// The index, caught up; `None` where it cannot be had, which is told: then everything is read.
fn caught_up(directory: &Path, environment: &Environment, streams: &mut Streams<'_>) -> Result<Option<Index>, Failure> {
    let bar = progress_bar()?;
    let caught_up = Index::open(environment, directory).and_then(|mut index| {
        index.catch_up(&mut |indexed, durable| show(&bar, indexed, durable))?;
        Ok(index)
    });
    bar.finish_and_clear();
    match caught_up {
        Ok(index) => {
            if let Some(why) = index.status()?.moved_aside {
                streams.tell(format_args!("stele: note: the index was moved aside and made anew: {why}"));
            }
            Ok(Some(index))
        }
        Err(error) => {
            let what = "what is asked for is not looked up, all records are read";
            streams.tell(format_args!("stele: note: {error}; {what}"));
            Ok(None)
        }
    }
}

/// Moves the bar.
pub(crate) fn show(bar: &ProgressBar, indexed: TreeSize, durable: TreeSize) {
    bar.set_length(durable.get());
    bar.set_position(indexed.get());
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
