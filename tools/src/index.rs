//! `stele index`: how far the index of a log got, bringing it up to the end of the log, and making it anew.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use stele_engine::environment::Environment;
use stele_engine::index::{Index, IndexStatus, StoreFault, status};

use crate::exit::Failure;
use crate::read::find::{progress_bar, show};
use crate::stream::Streams;

/// What to do with the index.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show how many records the index holds. Takes no lock, writes nothing, and looks at the heads of hash
    /// tables only.
    Status(Arguments),
    /// Add to the index what the log holds and it does not. One that cannot be used is moved aside, to
    /// `index.bad-N`, and made anew. Reads all hash tables, and makes those anew that are missing or damaged.
    Update(Arguments),
    /// Make the index anew from the log, which is never changed.
    Rebuild(Arguments),
}

/// The arguments of all of them.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Print one JSON object: `indexed`, `durable`, `not_yet_indexed` (records), `sealed_segments`,
    /// `hash_tables` (of these, whose head is good), `in_use` (by some process), `unusable` (why, or null),
    /// `moved_aside` (why one was thrown away just now, or null), `kept_aside` (how many lie there).
    #[arg(long)]
    pub json: bool,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 7 where another process has the index open, but for `status`.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (arguments, moved_aside) = match command {
        Command::Status(arguments) => (arguments, None),
        Command::Update(arguments) => {
            let work = |bar: &ProgressBar| {
                let mut index = Index::open(environment, &arguments.log)?;
                index.catch_up(&mut |indexed, durable| show(bar, indexed, durable))?;
                index.mend_tables()?;
                Ok(index)
            };
            (arguments, feed(work)?)
        }
        Command::Rebuild(arguments) => {
            let work = |bar: &ProgressBar| {
                Index::rebuild(environment, &arguments.log, &mut |indexed, durable| show(bar, indexed, durable))
            };
            (arguments, feed(work)?)
        }
    };
    tell(&status(environment, &arguments.log)?, moved_aside, arguments, streams)
}

/// Feeds behind a bar, and answers why an index was moved aside.
fn feed(
    work: impl FnOnce(&ProgressBar) -> Result<Index, stele_engine::index::IndexError>,
) -> Result<Option<String>, Failure> {
    let bar = progress_bar()?;
    let index = work(&bar);
    bar.finish_and_clear();
    Ok(index?.moved_aside().map(str::to_owned))
}

fn tell(
    status: &IndexStatus,
    moved_aside: Option<String>,
    arguments: &Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let behind = status.durable.get().saturating_sub(status.indexed.get());
    if arguments.json {
        let json = serde_json::json!({
            "indexed": status.indexed.get(),
            "durable": status.durable.get(),
            "not_yet_indexed": behind,
            "sealed_segments": status.sealed,
            "hash_tables": status.tables,
            "in_use": status.in_use,
            "unusable": status.unusable.as_ref().map(ToString::to_string),
            "moved_aside": moved_aside,
            "kept_aside": status.moved_aside,
        });
        return streams.line(json);
    }
    if let Some(why) = moved_aside {
        streams.tell(format_args!("stele: note: the index was moved aside and made anew: {why}"));
    }
    if let Some(why) = &status.unusable {
        let remedy = if matches!(why, StoreFault::Refused(_)) { "" } else { "; `stele index update` makes it anew" };
        streams.tell(format_args!("stele: note: {why}{remedy}"));
    }
    streams.line(format_args!(
        "{} of {} records are indexed, {behind} not yet; {} of {} sealed segments have a hash table",
        status.indexed, status.durable, status.tables, status.sealed
    ))
}
