//! `stele quickstart`: the main job once through, on one machine, with a few lines that say what happened.
//!
//! | module | what |
//! |---|---|
//! | `cluster` | three sites, one of which is killed |
//! | `local` | one directory, without servers |

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use stele_engine::environment::Environment;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;

use crate::append;
use crate::exit::{Exit, Failure};
use crate::remote::Target;
use crate::stream::{Source, Streams};

mod cluster;
mod local;

/// The arguments of `stele quickstart`.
#[derive(Args, Debug)]
#[command(after_help = "\
Starts three sites on this machine, appends every line of the files, proves the last line's record and verifies it
offline, kills one site while the log goes on, starts it again, and shows that all three hold the same. Then everything
is stopped. Nothing outside the directory is touched; remove it when done.

With --local there are no servers: a log in one directory, and one flipped bit in a copy of it that is found.

Examples:
  stele quickstart Cargo.lock
  stele quickstart Cargo.lock --dir try --keep")]
pub struct Arguments {
    /// The files whose lines become records.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The directory to make; by default a new one in the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the three sites running, and tell how to use and to stop them.
    #[arg(long, conflicts_with = "local")]
    pub keep: bool,
    /// One directory, no servers.
    #[arg(long)]
    pub local: bool,
}

/// Goes once through everything.
///
/// # Errors
/// [`Failure`] of the first step that does not do what it should.
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    for file in &arguments.files {
        File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    let directory = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => {
            let suffix: [u8; 6] = environment.random().context("the system gives no randomness")?;
            let suffix: String = suffix.iter().map(|byte| format!("{byte:02x}")).collect();
            std::env::temp_dir().join(format!("stele-quickstart-{suffix}"))
        }
    };
    if arguments.local {
        return local::run(arguments, &directory, environment, streams);
    }
    // Configurations are read again by whoever starts a node from elsewhere.
    let directory = std::path::absolute(&directory).with_context(|| format!("cannot use {}", directory.display()))?;
    cluster::run(arguments, &directory, environment, streams)
}

/// What appends the lines of a file.
fn lines_of(file: &Path) -> append::Arguments {
    append::Arguments {
        target: Target::default(),
        stream: Some("quickstart".to_owned()),
        writer: Some("quickstart".to_owned()),
        kind: Some("Line".to_owned()),
        lines: true,
        jsonl: false,
        ack: append::AckArgument::Committed,
        json: false,
        file: Source::File(file.to_owned()),
    }
}

fn no_line() -> Failure {
    Failure::new(Exit::Failed, anyhow!("the files hold no line; give one that does"))
}

fn record_path(directory: &Path) -> PathBuf {
    directory.join("last.json")
}

fn proof_path(directory: &Path) -> PathBuf {
    directory.join("last.tlog-proof")
}

/// Checks the proof as a stranger would: from the files written, without the log.
fn verify_offline(
    directory: &Path,
    policy: &Path,
    proof: &ProofFile,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let read = |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let policy = Policy::parse(&read(policy.to_owned())?).map_err(|error| anyhow!(error))?;
    let record = crate::record::canonical_of(read(record_path(directory))?)?;
    let written = ProofFile::parse(&read(proof_path(directory))?).map_err(|error| anyhow!(error))?;
    if written.to_string() != proof.to_string() {
        return Err(Failure::new(Exit::Unverified, anyhow!("the proof on disk is not the one that was made")));
    }
    let leaf = stele_proof::tree::leaf_hash(&record);
    written.verify(&leaf, &policy).map_err(|error| Failure::new(Exit::Unverified, anyhow!(error)))?;
    streams.line("verified    the proof, from the record, the proof file and the policy alone")
}
