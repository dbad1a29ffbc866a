//! `stele verify`: a log, one segment file, a proof, or an export, offline; nothing is written and no lock is taken.
//!
//! | command | what |
//! |---|---|
//! | `log` | every byte of a log; findings one a line on standard error, then exit code 3 |
//! | `segment` | one file by itself; prints what its seal record must say |
//! | `proof` | that a record is in a log; exit code 5 where the quorum of the policy is not met |
//! | `interop` | an export of one chain ([`crate::interop`]) |

use std::io::{IsTerminal as _, stderr};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::error::Damage;
use stele_engine::reserved::SegmentSealed;
use stele_engine::verify::{CheckedAgainst, LogReport, SegmentReport, VerifyOptions, verify_log, verify_segment};
use stele_proof::note::MAX_NOTE_BYTES;
use stele_proof::policy::{MAX_POLICY_BYTES, Policy, PolicyError};
use stele_proof::proof_file::{MAX_PROOF_FILE_BYTES, ProofFile, ProofFileError};
use stele_proof::record::{FINISH_BYTES, MAX_RECORD_BYTES, Record};

use crate::exit::{Exit, Failure};
use crate::interop;
use crate::record::canonical_of;
use crate::stream::{Source, Streams};

/// The largest finished record and one line feed, in bytes.
const MAX_FINISHED_BYTES: u64 = (MAX_RECORD_BYTES + FINISH_BYTES + 1) as u64;

/// What is verified.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Verify every byte of a log.
    Log(LogArguments),
    /// Verify one segment file by itself.
    Segment(SegmentArguments),
    /// Verify that a record is in a log.
    Proof(ProofArguments),
    /// Verify an export of one chain.
    Interop(interop::VerifyArguments),
}

/// The arguments of `stele verify log`.
#[derive(Args, Debug)]
#[command(after_help = "\
Each finding is a line on standard error with file, byte and record; then the exit code is 3. Takes no lock: a log can
be verified while it is written.

Without a checkpoint or policy from elsewhere a log can only be found to agree with itself: whoever may write its files
and holds its keys can make another one.

Example:
  stele verify log audit --policy trusted.policy --checkpoint seen-yesterday")]
pub struct LogArguments {
    /// The log's directory.
    #[arg(value_name = "DIR")]
    pub log: PathBuf,
    /// A policy from elsewhere (C2SP tlog-policy) that the checkpoint must meet.
    #[arg(long, value_name = "P")]
    pub policy: Option<Source>,
    /// A signed checkpoint from elsewhere that the log must contain; by default the stored one.
    #[arg(long, value_name = "F")]
    pub checkpoint: Option<Source>,
}

/// The arguments of `stele verify segment`.
#[derive(Args, Debug)]
#[command(after_help = "\
The file keeps its name; its payload files are looked at where they lie beside it. Prints digest, leaves and tree nodes:
compare them with the segment's seal record in the log.

Example:
  stele verify segment audit/segments/0000000000000000.seg")]
pub struct SegmentArguments {
    /// The segment file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// The arguments of `stele verify proof`.
#[derive(Args, Debug)]
#[command(after_help = "\
The exit code is 5 where the quorum of the policy is not met, and 3 where anything else does not hold.

Example:
  stele read --log audit 17 > 17.json
  stele verify proof 17.tlog-proof --record 17.json --policy trusted.policy")]
pub struct ProofArguments {
    /// The proof (C2SP tlog-proof), as `stele prove` writes it.
    #[arg(value_name = "F.tlog-proof")]
    pub proof: Source,
    /// The record, with or without `self_hash`; one final line feed is allowed.
    #[arg(long, value_name = "R.json")]
    pub record: Source,
    /// The policy (C2SP tlog-policy) that the checkpoint must meet.
    #[arg(long, value_name = "P")]
    pub policy: Source,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 3 where something does not hold, 5 where a quorum is not met, 6 where there is no log.
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Log(arguments) => log(arguments, environment, streams),
        Command::Segment(arguments) => segment(arguments, environment, streams),
        Command::Proof(arguments) => proof(arguments, streams),
        Command::Interop(arguments) => interop::run_verify(arguments, environment, streams),
    }
}

fn log(arguments: &LogArguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let policy = arguments.policy.as_ref().map(|source| read_policy(source, streams)).transpose()?;
    let checkpoint =
        arguments.checkpoint.as_ref().map(|source| source.read(streams, MAX_NOTE_BYTES as u64)).transpose()?;
    let bar = progress_bar()?;
    let directory = LogDirectory::new(&arguments.log);
    let options = VerifyOptions { policy, checkpoint, workers: environment.workers };
    let report = verify_log(environment.disk.as_ref(), &directory, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.bytes);
    });
    bar.finish_and_clear();
    let report = report?;
    tell(&report.findings, &report.notes, streams);
    if !report.findings.is_empty() {
        let what = format!("{} does not verify: {}", arguments.log.display(), count(report.findings.len(), "finding"));
        return Err(Failure::new(Exit::Unverified, anyhow!(what)));
    }
    let LogReport { records, root, segments, sealed, chains, .. } = &report;
    streams.line(format_args!(
        "ok: {records} records in {segments} segments, {sealed} sealed; {chains} chains; root {}",
        root.to_base64()
    ))?;
    streams.line(against(report.checked_against))
}

/// What a good log was checked against.
fn against(checked: CheckedAgainst) -> String {
    match checked {
        CheckedAgainst::Itself => {
            "checked only against itself: whoever may write its files and holds its keys can make \
                                   another; --checkpoint takes one that was kept elsewhere"
                .to_owned()
        }
        CheckedAgainst::Policy(size) => format!("its stored checkpoint of {size} records meets the given policy"),
        CheckedAgainst::Checkpoint(size) => format!(
            "it holds the {size} records of the given checkpoint, which meets the log's own policy; --policy takes one \
             from elsewhere"
        ),
        CheckedAgainst::CheckpointAndPolicy(size) => {
            format!("it holds the {size} records of the given checkpoint, which meets the given policy")
        }
    }
}

/// A bar on a terminal, else nothing.
pub(crate) fn progress_bar() -> Result<ProgressBar, Failure> {
    if !stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = ProgressStyle::with_template("verifying [{bar:40}] {bytes} of {total_bytes}, {eta} left")
        .context("the progress bar has a bad template")?;
    Ok(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
}

fn segment(arguments: &SegmentArguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let report = verify_segment(environment.disk.as_ref(), &arguments.file)?;
    tell(&report.findings, &report.notes, streams);
    if !report.findings.is_empty() {
        let what = format!("{} does not verify", arguments.file.display());
        return Err(Failure::new(Exit::Unverified, anyhow!(what)));
    }
    let SegmentReport { segment, first_leaf, records, .. } = &report;
    streams.line(format_args!("ok: segment {segment}, {records} records from index {first_leaf}"))?;
    match &report.sealed {
        Some(sealed) => print_sealed(sealed, streams),
        None => Ok(()),
    }
}

/// What the seal record must say.
fn print_sealed(sealed: &SegmentSealed, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let (first, last) = (sealed.first_index, sealed.last_index);
    streams.line(format_args!("file digest    {}", sealed.file_digest))?;
    streams.line(format_args!("file bytes     {}", sealed.file_bytes))?;
    streams.line(format_args!("payload files  {}", sealed.payload_parts))?;
    streams.line(format_args!("leaves         {}..{}", sealed.leaves.first, sealed.leaves.end))?;
    streams.line(format_args!("raft indexes   {first} to {last}"))?;
    if let Some(root) = &sealed.digest_root {
        streams.line(format_args!("digest root    {root}"))?;
    }
    for (node, hash) in &sealed.nodes {
        let (level, index) = (node.level(), node.index());
        streams.line(format_args!("tree node      level {level} index {index} {}", hash.to_base64()))?;
    }
    Ok(())
}

fn proof(arguments: &ProofArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let policy = read_policy(&arguments.policy, streams)?;
    let bytes = arguments.proof.read(streams, MAX_PROOF_FILE_BYTES as u64)?;
    let name = &arguments.proof;
    let proof = ProofFile::parse(&bytes).map_err(|error| unverified(error, name))?;
    let canonical = canonical_of(arguments.record.read(streams, MAX_FINISHED_BYTES)?)?;
    let record = Record::parse(&canonical).map_err(|error| unverified(error, &arguments.record))?;
    let verified = proof.verify(&record.leaf_hash(), &policy).map_err(|error| {
        let exit = match &error {
            ProofFileError::Policy(PolicyError::QuorumNotMet { .. }) => Exit::Forbidden,
            _ => Exit::Unverified,
        };
        Failure::new(exit, anyhow!(error).context(format!("{name} does not verify")))
    })?;
    let checkpoint = verified.checkpoint();
    let (index, size, origin) = (proof.index(), checkpoint.size, checkpoint.origin.as_str());
    streams.line(format_args!("ok: the record is number {index} of the {size} of {origin}"))?;
    for cosignature in verified.cosignatures() {
        streams.line(format_args!("cosigned by {} at {}", cosignature.witness, cosignature.time))?;
    }
    Ok(())
}

fn read_policy(source: &Source, streams: &mut Streams<'_>) -> Result<Policy, Failure> {
    let bytes = source.read(streams, MAX_POLICY_BYTES as u64)?;
    Ok(Policy::parse(&bytes).with_context(|| format!("{source} is no policy"))?)
}

fn unverified(error: impl Into<anyhow::Error>, name: &Source) -> Failure {
    Failure::new(Exit::Unverified, error.into().context(format!("{name} does not verify")))
}

/// Notes and findings, one a line.
fn tell(findings: &[Damage], notes: &[String], streams: &mut Streams<'_>) {
    for note in notes {
        streams.tell(format_args!("stele: note: {note}"));
    }
    for finding in findings {
        streams.tell(format_args!("stele: {finding}"));
    }
}

pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
