//! The arguments of `stele` as a whole, and the way from a command to its module.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use stele_engine::environment::Environment;

use crate::exit::{Exit, Failure};
use crate::stream::Streams;
use crate::{
    append, bench, cluster, completions, context, dev_certs, index, init, interop, keys, note, prove, quickstart, read,
    record, repair, scrub, segment, sites, tlog, verify,
};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed: input or output, no space, unknown format version, anything else
  2  usage
  3  verification failed: a refused record, damaged data, a proof or signature that does not hold
  4  not reachable, or not yet indexed
  5  refused by policy or rights
  6  not found: no such log, index beyond the end
  7  busy: locked directory, full queue

Examples:
  stele quickstart FILE
  stele init --log audit --origin example.com/audit
  stele append --log audit --stream app --writer host-1 --kind Line app.log
  stele prove --log audit 1 -o 1.tlog-proof
  stele verify log audit
  stele repair --log audit --from /mnt/backup/audit
  stele scrub --log audit --rate 10000000
  stele export interop --log audit --stream app --writer host-1 -o app-host-1
  stele record check < record.json
  stele keys generate --name example.com/log -o log.key
  stele note verify --key VKEY checkpoint
  stele completions bash > ~/.local/share/bash-completion/completions/stele";

/// Stele: an append-only transparency log for audit records.
#[derive(Parser, Debug)]
#[command(name = "stele", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Go once through everything: a log, its records, a proof, and how damage is found.
    Quickstart(quickstart::Arguments),
    /// Make a log.
    Init(init::Arguments),
    /// Append records to a log, acknowledged as they become durable.
    Append(append::Arguments),
    /// Print records of a log.
    Read(read::Arguments),
    /// Print the last records of a log.
    Tail(read::TailArguments),
    /// Print a signed checkpoint of everything durable.
    Checkpoint(prove::CheckpointArguments),
    /// Write a proof that a record is in the log.
    Prove(prove::ProveArguments),
    /// Prove that a log only grew between two sizes.
    Consistency(prove::ConsistencyArguments),
    /// List, inspect and seal the segments of a log.
    #[command(subcommand)]
    Segment(segment::Command),
    /// Show how far the index of a log got, or make it anew.
    #[command(subcommand)]
    Index(index::Command),
    /// Restore damaged files of a log from a copy of it.
    Repair(repair::Arguments),
    /// Read a log again at a set rate, and report what has rotted.
    Scrub(scrub::Arguments),
    /// Export records for programs that share no code with this one.
    #[command(subcommand)]
    Export(interop::ExportCommand),
    /// Import what was exported.
    #[command(subcommand)]
    Import(interop::ImportCommand),
    /// Verify a log, a segment file, a proof or an export, offline.
    #[command(subcommand)]
    Verify(verify::Command),
    /// Hash, check or bring into canonical form one record.
    #[command(subcommand)]
    Record(record::Command),
    /// Check inclusion and consistency proofs, given as JSON lines.
    #[command(subcommand)]
    Tlog(tlog::Command),
    /// Verify signed notes.
    #[command(subcommand)]
    Note(note::Command),
    /// Make private keys and print their vkeys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Measure what this build reaches on this machine.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Show a cluster, begin one, change who belongs to it.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Name clusters, and choose the one to use.
    #[command(subcommand)]
    Context(context::Command),
    /// Make certificates to try things out with.
    DevCerts(dev_certs::Arguments),
    /// For this program's own use: run a program that ends when its parent does.
    #[command(hide = true)]
    RunUntilParentEnds(sites::GuardArguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
}

impl Command {
    /// Does what was asked.
    ///
    /// # Errors
    /// [`Failure`]: the exit code and what to tell.
    pub fn run(self, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
        match self {
            Self::Quickstart(arguments) => quickstart::run(&arguments, environment, streams),
            Self::Init(arguments) => init::run(&arguments, environment, streams),
            Self::Append(arguments) => append::run(&arguments, environment, streams),
            Self::Read(arguments) => read::run(&arguments, environment, streams),
            Self::Tail(arguments) => read::run_tail(&arguments, environment, streams),
            Self::Checkpoint(arguments) => prove::run_checkpoint(&arguments, environment, streams),
            Self::Prove(arguments) => prove::run_prove(&arguments, environment, streams),
            Self::Consistency(arguments) => prove::run_consistency(&arguments, environment, streams),
            Self::Segment(command) => segment::run(&command, environment, streams),
            Self::Index(command) => index::run(&command, environment, streams),
            Self::Repair(arguments) => repair::run(&arguments, environment, streams),
            Self::Scrub(arguments) => scrub::run(&arguments, environment, streams),
            Self::Export(command) => interop::run_export(&command, environment, streams),
            Self::Import(command) => interop::run_import(&command, environment, streams),
            Self::Verify(command) => verify::run(&command, environment, streams),
            Self::Record(command) => record::run(command, streams),
            Self::Tlog(command) => tlog::run(command, streams),
            Self::Note(command) => note::run(command, streams),
            Self::Keys(command) => keys::run(command, streams),
            Self::Bench(command) => bench::run(&command, environment, streams),
            Self::Cluster(command) => cluster::run(&command, environment, streams),
            Self::Context(command) => context::run(&command, environment, streams),
            Self::DevCerts(arguments) => dev_certs::run(&arguments, environment, streams),
            Self::RunUntilParentEnds(arguments) => sites::run_guard(&arguments),
            Self::Completions(arguments) => completions::run(arguments, streams),
        }
    }
}

/// Reads the arguments, the first being the program's name, does what they ask, and tells what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>, streams: &mut Streams<'_>) -> Exit {
    main_in(&Environment::system(), arguments, streams)
}

/// As [`main`], with files, time and randomness from `environment`.
pub fn main_in(
    environment: &Environment,
    arguments: impl IntoIterator<Item = OsString>,
    streams: &mut Streams<'_>,
) -> Exit {
    let done = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command.run(environment, streams),
        Err(error) if error.use_stderr() => {
            streams.tell(usage(&error));
            return Exit::Usage;
        }
        Err(help) => streams.line(help.render().to_string().trim_end()),
    };
    match done.and_then(|()| streams.flush()) {
        Ok(()) => Exit::Done,
        Err(failure @ Failure::ReaderGone) => failure.exit(),
        Err(failure) => {
            streams.tell(format_args!("stele: {failure}"));
            failure.exit()
        }
    }
}

/// What to tell about wrong arguments.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.trim_end();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        format!("stele: the command is missing, choose one of these\n\n{text}")
    } else {
        format!("stele: {}", text.strip_prefix("error: ").unwrap_or(text))
    }
}
