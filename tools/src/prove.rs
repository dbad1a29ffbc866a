//! `stele checkpoint`, `stele prove` and `stele consistency`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use stele_engine::checkpointing::{make_checkpoint, stored_checkpoint};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_engine::reader::LogReader;
use stele_proof::checkpoint::Checkpoint;
use stele_proof::note::Note;
use stele_proof::proof_file::ProofFile;
use stele_proof::{LeafIndex, TreeSize};

use crate::cosigned;
use crate::exit::{Exit, Failure};
use crate::read::open;
use crate::remote::{Place, Target, block_on, connect};
use crate::stream::{Source, Streams};

/// The arguments of `stele checkpoint`.
#[derive(Args, Debug)]
#[command(after_help = "\
Signs the size and root of what is durable, stores the checkpoint in DIR/checkpoint and prints it. Where nothing is
new since the last one, that one is printed and nothing is signed.

Example:
  stele checkpoint --log audit")]
pub struct CheckpointArguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
}

/// The arguments of `stele prove`.
#[derive(Args, Debug)]
#[command(after_help = "\
Writes a C2SP .tlog-proof file under the stored checkpoint, or under a new one where that does not cover the record.
Check it with `stele verify proof`, which needs no log.

Example:
  stele prove --log audit 17 -o 17.tlog-proof")]
pub struct ProveArguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
    /// The record's index.
    #[arg(value_name = "INDEX")]
    pub index: u64,
    /// The file to write, or `-` for standard output.
    #[arg(short = 'o', value_name = "FILE")]
    pub output: Source,
}

/// The arguments of `stele consistency`.
#[derive(Args, Debug)]
#[command(after_help = "\
Prints the hashes of the proof (RFC 6962 2.1.2), one base64 line each, verified before they are printed. Equal sizes
need none.

Example:
  stele consistency --log audit 1000 2000")]
pub struct ConsistencyArguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The smaller size, at least 1.
    #[arg(value_name = "OLD")]
    pub old: u64,
    /// The larger size, at most that of the log.
    #[arg(value_name = "NEW")]
    pub new: u64,
}

/// Prints a checkpoint of everything durable.
///
/// # Errors
/// [`Failure`].
pub fn run_checkpoint(
    arguments: &CheckpointArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let directory = match arguments.target.place()? {
        Place::Directory(directory) => directory,
        Place::Cluster(reach) => {
            let text = block_on(async {
                let connected = connect(&reach).await?;
                let policy = connected.policy(streams)?;
                cosigned::checkpoint(&connected, &policy).await
            })?;
            return streams.bytes(text.as_bytes());
        }
    };
    let reader = open(environment, directory, streams)?;
    reader.whole()?;
    let text = match stored_checkpoint(environment.disk.as_ref(), &LogDirectory::new(directory)) {
        Ok(Some((text, checkpoint))) if checkpoint.size == reader.size() && fits(&checkpoint, &reader)? => text,
        _ => make_checkpoint(environment, directory)?,
    };
    streams.bytes(text.as_bytes())
}

/// Writes a proof of one record.
///
/// # Errors
/// [`Failure`].
pub fn run_prove(
    arguments: &ProveArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let index = LeafIndex::new(arguments.index);
    let proof = match arguments.target.place()? {
        Place::Directory(directory) => prove(environment, directory, index, streams)?,
        Place::Cluster(reach) => block_on(async {
            let connected = connect(&reach).await?;
            let policy = connected.policy(streams)?;
            Ok(cosigned::prove(&connected, index, &policy).await?.proof)
        })?,
    };
    let proof = proof.to_string();
    match &arguments.output {
        Source::StandardInput => streams.bytes(proof.as_bytes()),
        Source::File(path) => write_file(environment, path, proof.as_bytes()),
    }
}

/// Makes a proof of a record, under the stored checkpoint where that covers it.
///
/// # Errors
/// [`Failure`].
pub fn prove(
    environment: &Environment,
    log: &Path,
    index: LeafIndex,
    streams: &mut Streams<'_>,
) -> Result<ProofFile, Failure> {
    let mut reader = open(environment, log, streams)?;
    let covers = |size: TreeSize, readable: TreeSize| size.contains(index) && size <= readable;
    let stored = stored_checkpoint(environment.disk.as_ref(), &LogDirectory::new(log)).ok().flatten();
    let (text, size) = match stored {
        Some((text, checkpoint)) if covers(checkpoint.size, reader.size()) => {
            if !fits(&checkpoint, &reader)? {
                let why = anyhow!(
                    "the stored checkpoint has another origin or root than the log at {} records: look at the log with \
                     `stele verify log`, then put the right file in the place of {}",
                    checkpoint.size,
                    LogDirectory::new(log).checkpoint().display()
                );
                return Err(Failure::new(Exit::Unverified, why));
            }
            (text, checkpoint.size)
        }
        _ => {
            if !reader.size().contains(index) {
                return Err(reader.beyond_end(index).into());
            }
            let text = make_checkpoint(environment, log)?;
            let size = size_of(&text)?;
            reader = open(environment, log, streams)?;
            (text, size)
        }
    };
    let hashes = reader.prove_inclusion(index, size)?;
    ProofFile::new(None, index, hashes, text).map_err(|error| anyhow!(error).into())
}

/// Whether a checkpoint is about these records; it covers no more than can be read.
fn fits(checkpoint: &Checkpoint, reader: &LogReader) -> Result<bool, Failure> {
    let same_origin = checkpoint.origin.as_str() == reader.genesis().origin;
    Ok(same_origin && checkpoint.root == reader.root_at(checkpoint.size)?)
}

fn size_of(checkpoint: &str) -> Result<TreeSize, Failure> {
    let note = Note::parse(checkpoint.as_bytes()).context("the checkpoint just made is no note")?;
    Ok(Checkpoint::parse(note.text()).context("the checkpoint just made is none")?.size)
}

/// Writes a file as a whole, replacing what was there.
///
/// # Errors
/// [`Failure`].
pub fn write_file(environment: &Environment, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    // A bare file name has the empty path as its parent.
    let path = if path.parent().is_some_and(|parent| parent.as_os_str().is_empty()) {
        Path::new(".").join(path)
    } else {
        path.to_owned()
    };
    Ok(replace(environment.disk.as_ref(), &path, bytes, Mode::Public)?)
}

/// Prints a consistency proof.
///
/// # Errors
/// [`Failure`].
pub fn run_consistency(
    arguments: &ConsistencyArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    if arguments.old == 0 || arguments.old > arguments.new {
        return Err(Failure::new(Exit::Usage, anyhow!("OLD is at least 1 and at most NEW")));
    }
    let reader = open(environment, &arguments.log, streams)?;
    for hash in reader.prove_consistency(TreeSize::new(arguments.old), TreeSize::new(arguments.new))? {
        streams.line(hash.to_base64())?;
    }
    Ok(())
}
