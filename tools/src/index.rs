//! `stele index`: how far the index of a log got, and making it anew.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stele_engine::environment::Environment;
use stele_engine::index::Index;

use crate::exit::Failure;
use crate::read::find::{progress_bar, show};
use crate::stream::Streams;

/// What to do with the index.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show how many records the index holds. What is not yet indexed is read by whoever looks for it.
    Status(Arguments),
    /// Make the index anew from the log, which is never changed.
    Rebuild(Arguments),
}

/// The arguments of both.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Print one JSON object: `indexed`, `durable`, `not_yet_indexed`, `sealed_segments`, `hash_tables`,
    /// `moved_aside` (why an index was thrown away just now, or null).
    #[arg(long)]
    pub json: bool,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 7 where another process has the index open.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (arguments, index) = match command {
        Command::Status(arguments) => (arguments, Index::open(environment, &arguments.log)?),
        Command::Rebuild(arguments) => {
            let bar = progress_bar()?;
            let mut progress = |indexed, durable| show(&bar, indexed, durable);
            let index = Index::rebuild(environment, &arguments.log, &mut progress);
            bar.finish_and_clear();
            (arguments, index?)
        }
    };
    let status = index.status()?;
    let behind = status.durable.get() - status.indexed.get();
    if arguments.json {
        let json = serde_json::json!({
            "indexed": status.indexed.get(),
            "durable": status.durable.get(),
            "not_yet_indexed": behind,
            "sealed_segments": status.sealed,
            "hash_tables": status.tables,
            "moved_aside": status.moved_aside,
        });
        return streams.line(json);
    }
    if let Some(why) = &status.moved_aside {
        streams.tell(format_args!("stele: note: the index was moved aside: {why}"));
    }
    streams.line(format_args!(
        "{} of {} records are indexed, {behind} not yet; {} of {} sealed segments have a hash table",
        status.indexed, status.durable, status.tables, status.sealed
    ))
}
