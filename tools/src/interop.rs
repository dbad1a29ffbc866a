//! `stele export interop`, `stele import interop`, `stele verify interop`: one chain in the interchange form
//! that `docs/interop.md` describes.

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::json;
use stele_engine::environment::Environment;
use stele_engine::intake::Refusal;
use stele_engine::interop::{
    ExportOptions, ExportReport, Imported, InteropError, Progress, export, import, verify_export,
};
use stele_engine::reader::Payloads;
use stele_proof::UnixMillis;
use stele_proof::key::{SigningKey, VerifierKey};

use crate::exit::{Exit, Failure};
use crate::stream::{Source, Streams};
use crate::verify::{count, progress_bar};

/// The largest key file that is read, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// What is exported.
#[derive(Subcommand, Debug)]
pub enum ExportCommand {
    /// Export the records of one writer in one stream.
    Interop(ExportArguments),
}

/// What is imported.
#[derive(Subcommand, Debug)]
pub enum ImportCommand {
    /// Append the records of an export that the log does not have yet.
    Interop(ImportArguments),
}

/// The arguments of `stele export interop`.
#[derive(Args, Debug)]
#[command(after_help = "\
Writes segment files, the payloads beside them, and last manifest.json, which holds for each file the root over its
records; an export without manifest.json was interrupted. With --key each root is signed: use a key of its own, made
with `stele keys generate`. Takes no lock: what is durable is exported while the log is written.

Examples:
  stele export interop --log audit --stream app --writer host-1 -o app-host-1
  stele export interop --log audit --stream app --writer host-1 --first 100 --last 199 --key export.key -o part")]
pub struct ExportArguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The stream.
    #[arg(long, value_name = "S")]
    pub stream: String,
    /// The writer.
    #[arg(long, value_name = "W")]
    pub writer: String,
    /// The directory to write; it must not exist yet, or be empty.
    #[arg(short, long, value_name = "DIR2")]
    pub output: PathBuf,
    /// The first seq.
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    pub first: u64,
    /// The last seq; by default that of the chain's last record.
    #[arg(long, value_name = "SEQ")]
    pub last: Option<u64>,
    /// Records in a segment file.
    #[arg(long, value_name = "N", default_value_t = ExportOptions::SEGMENT_RECORDS)]
    pub segment_records: NonZeroU32,
    /// Leave the payloads out; such an export cannot be imported where records commit to payloads.
    #[arg(long)]
    pub without_payloads: bool,
    /// The time that the manifest tells, in milliseconds since 1970, instead of now: to make the same bytes again.
    #[arg(long, value_name = "MS")]
    pub created: Option<u64>,
    /// A private key file that signs a checkpoint for each segment file.
    #[arg(long, value_name = "FILE")]
    pub key: Option<Source>,
}

/// The arguments of `stele import interop`.
#[derive(Args, Debug)]
#[command(after_help = "\
The export is verified as a whole, and what the log has of the chain is compared with it, before anything is appended.
Records that the log has already keep their places. An export that does not begin with seq 1 continues a chain that the
log has up to there.

The exit code is 3 where the export or a record is refused, 5 for the log's own streams, 6 where there is no export or
no log.

Example:
  stele init --log copy --origin example.com/copy
  stele import interop app-host-1 --log copy")]
pub struct ImportArguments {
    /// The export's directory.
    #[arg(value_name = "DIR2")]
    pub directory: PathBuf,
    /// The log's directory.
    #[arg(long, value_name = "DIR3")]
    pub log: PathBuf,
    /// Print `{"seq":..,"index":..,"self_hash":..,"known":..}` for every record as it is durable.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `stele verify interop`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every record is parsed, hashed and held against the one before it, every payload against its record, every root against
the records. The first thing that does not hold is told with file, byte and seq; then the exit code is 3. Without --key
signatures are not looked at, and whoever may write the files can make another export.

Example:
  stele verify interop app-host-1 --key 'export+1a2b3c4d+A...'")]
pub struct VerifyArguments {
    /// The export's directory.
    #[arg(value_name = "DIR2")]
    pub directory: PathBuf,
    /// The vkey that must have signed a checkpoint over every record.
    #[arg(long, value_name = "VKEY")]
    pub key: Option<String>,
}

/// Writes the export.
///
/// # Errors
/// [`Failure`]: exit code 6 where there is no log or no such record.
pub fn run_export(
    command: &ExportCommand,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let ExportCommand::Interop(arguments) = command;
    let key = arguments.key.as_ref().map(|source| read_key(source, streams)).transpose()?;
    let options = ExportOptions {
        first: arguments.first,
        last: arguments.last.unwrap_or(u64::MAX),
        segment_records: arguments.segment_records,
        payloads: if arguments.without_payloads { Payloads::Leave } else { Payloads::Read },
        key: key.as_ref(),
        created: arguments.created.map(UnixMillis::new),
        ..ExportOptions::of_chain(&arguments.stream, &arguments.writer)
    };
    let bar = Bar::new("exporting")?;
    let done = export(environment, &arguments.log, &arguments.output, &options, &mut |progress| bar.show(progress));
    bar.end();
    let manifest = done.map_err(failure)?;
    let (range, files) = (manifest.range(), count(manifest.segments.len(), "segment file"));
    let records = range.last() - range.first() + 1;
    streams.line(format_args!(
        "exported {records} records, seq {} to {}, in {files}; {}",
        range.first(),
        range.last(),
        count(manifest.checkpoints.len(), "checkpoint")
    ))
}

/// Appends the export's records.
///
/// # Errors
/// [`Failure`]: exit code 3 where something is refused, 5 for the log's own streams, 6 where something is missing.
pub fn run_import(
    command: &ImportCommand,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let ImportCommand::Interop(arguments) = command;
    let bar = Bar::new("checking")?;
    let mut unprinted = None;
    let mut print = |seq: u64, imported: Imported| {
        if arguments.json && unprinted.is_none() {
            let (receipt, known) = match imported {
                Imported::Known(receipt) => (receipt, true),
                Imported::Appended(receipt) => (receipt, false),
            };
            let (index, self_hash) = (receipt.index, receipt.self_hash);
            let line = format!("{{\"seq\":{seq},\"index\":{index},\"self_hash\":\"{self_hash}\",\"known\":{known}}}");
            // What was promised is done first: nobody may be listening any more.
            unprinted = streams.line(line).err();
        }
        Ok(())
    };
    let done =
        import(environment, &arguments.directory, &arguments.log, &mut |progress| bar.show(progress), &mut print);
    bar.end();
    let report = done.map_err(failure)?;
    if let Some(unprinted) = unprinted {
        return Err(unprinted);
    }
    if arguments.json {
        return Ok(());
    }
    streams.line(format_args!("imported {} records, {} were there already", report.appended, report.known))
}

/// Verifies an export.
///
/// # Errors
/// [`Failure`]: exit code 3 where something does not hold, 6 where there is no export.
pub fn run_verify(
    arguments: &VerifyArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let key = arguments.key.as_deref().map(VerifierKey::parse).transpose();
    let key = key.context("--key is not a vkey").map_err(|error| Failure::new(Exit::Usage, error))?;
    let bar = Bar::new("verifying")?;
    let disk = environment.disk.as_ref();
    let done = verify_export(disk, &arguments.directory, key.as_ref(), &mut |progress| bar.show(progress));
    bar.end();
    let ExportReport { manifest, records, payloads, payloads_missing, checkpoints_verified } = done.map_err(failure)?;
    let (range, stream, writer) = (manifest.range(), json!(manifest.stream), json!(manifest.writer_id));
    streams.line(format_args!(
        "ok: {records} records, seq {} to {} of writer {writer} in stream {stream}; {} came along, {payloads_missing} \
         did not",
        range.first(),
        range.last(),
        count(usize::try_from(payloads).unwrap_or(usize::MAX), "payload"),
    ))?;
    for segment in &manifest.segments {
        streams.line(format_args!("{}  {}", segment.file(), segment.root))?;
    }
    if key.is_some() {
        return streams.line(format_args!("all of it signed: {}", count(checkpoints_verified, "checkpoint")));
    }
    streams.line("checked only against itself: --key takes the key that must have signed it")
}

fn read_key(source: &Source, streams: &mut Streams<'_>) -> Result<SigningKey, Failure> {
    let bytes = source.read(streams, MAX_KEY_FILE_BYTES)?;
    // The bytes hold a secret, so errors never repeat them.
    let text = std::str::from_utf8(&bytes).map_err(|_error| anyhow!("{source} is not a private key file"))?;
    let key = SigningKey::parse(text.strip_suffix('\n').unwrap_or(text));
    Ok(key.with_context(|| format!("{source} is not a private key file"))?)
}

fn failure(error: InteropError) -> Failure {
    let exit = match error {
        InteropError::Log(error) => return error.into(),
        InteropError::NoExport(_) | InteropError::Nothing { .. } => Exit::NotFound,
        InteropError::Refused { refusal: Refusal::Reserved, .. } => Exit::Forbidden,
        InteropError::Bad(_)
        | InteropError::Refused { .. }
        | InteropError::Checkpoint { .. }
        | InteropError::Uncovered(_) => Exit::Unverified,
        _ => Exit::Failed,
    };
    Failure::new(exit, anyhow!("{error}"))
}

/// Progress on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: &'static str) -> Result<Self, Failure> {
        let bar = progress_bar()?;
        if !bar.is_hidden() {
            let template = format!("{what} [{{bar:40}}] {{pos}} of {{len}} records, {{eta}} left");
            let style = indicatif::ProgressStyle::with_template(&template);
            bar.set_style(style.context("the progress bar has a bad template")?.progress_chars("=> "));
        }
        Ok(Self(bar))
    }

    fn show(&self, progress: Progress) {
        self.0.set_length(progress.total);
        self.0.set_position(progress.records);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
