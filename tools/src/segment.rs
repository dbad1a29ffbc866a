//! `stele segment`: the files of a log.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::Access;
use stele_engine::environment::Environment;
use stele_engine::local::LocalLog;
use stele_engine::number::SegmentNumber;
use stele_engine::reader::LogReader;
use stele_engine::seal::digest_of;
use stele_engine::segment::{LeafRange, SegmentFile};

use crate::append::tell_torn;
use crate::context::Reach;
use crate::exit::{Exit, Failure};
use crate::read::open;
use crate::remote::{Place, Target, block_on, call, connect};
use crate::stream::Streams;

/// What to do with segments.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// List the segments of a log: number, state, records, bytes.
    List(ListArguments),
    /// Show one segment: its files, entries, records and digest.
    Inspect(InspectArguments),
    /// End the open segment and seal it.
    ///
    /// Appends a seal entry and, in the next segment, the seal record with the digests of the sealed file.
    Seal(SealArguments),
}

/// The arguments of `stele segment list`.
#[derive(Args, Debug)]
pub struct ListArguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Print a JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `stele segment inspect`.
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The segment's number.
    #[arg(value_name = "SEGMENT")]
    pub segment: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `stele segment seal`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --endpoint or --context the leader ends the segment at all nodes; each seals its own copy, and the log gets the
seal record once the leader has.

Examples:
  stele segment seal --log /var/lib/stele/audit
  stele segment seal --endpoint a.example.com:7070")]
pub struct SealArguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(arguments, environment, streams),
        Command::Inspect(arguments) => inspect(arguments, environment, streams),
        Command::Seal(arguments) => seal(arguments, environment, streams),
    }
}

/// One segment as it is listed.
struct Listed {
    number: SegmentNumber,
    state: &'static str,
    first_leaf: u64,
    records: u64,
    bytes: u64,
}

fn look_at(reader: &LogReader, environment: &Environment, number: SegmentNumber) -> Result<Listed, Failure> {
    let inventory = reader.inventory();
    let path = reader.directory().segment_file(SegmentFile::Frames(number));
    let status = environment.disk.open(&path, Access::Read).and_then(|file| file.status());
    let end = &reader.end().tail;
    // The open segment may not hold a frame yet, and then there is nothing to compute.
    let leaves = if number == end.segment && end.segment_is_empty() {
        LeafRange { first: end.leaves.next_leaf(), end: end.leaves.next_leaf() }
    } else {
        reader.segment(number)?.leaves()
    };
    let state = if number < inventory.sealed {
        "sealed"
    } else if number < reader.end().tail.segment {
        "ended"
    } else {
        "active"
    };
    Ok(Listed { number, state, first_leaf: leaves.first.get(), records: leaves.len(), bytes: status?.len })
}

fn list(arguments: &ListArguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let reader = open(environment, &arguments.log, streams)?;
    reader.whole()?;
    if !arguments.json {
        streams.line("segment  state   first record     records         bytes")?;
    }
    for number in (0..=reader.inventory().last.get()).map(SegmentNumber::new) {
        let Listed { number, state, first_leaf, records, bytes } = look_at(&reader, environment, number)?;
        let number = number.get();
        if arguments.json {
            streams.line(serde_json::json!({
                "segment": number, "state": state, "first_leaf": first_leaf, "records": records, "bytes": bytes,
            }))?;
        } else {
            streams.line(format_args!("{number:>7}  {state:<6}  {first_leaf:>12}  {records:>10}  {bytes:>12}"))?;
        }
    }
    Ok(())
}

fn inspect(arguments: &InspectArguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let reader = open(environment, &arguments.log, streams)?;
    reader.whole()?;
    let number = SegmentNumber::new(arguments.segment);
    if number > reader.inventory().last {
        let why = format!("there is no segment {number}: the last is {}", reader.inventory().last);
        return Err(Failure::new(Exit::NotFound, anyhow!(why)));
    }
    let Listed { state, first_leaf, records, bytes, .. } = look_at(&reader, environment, number)?;
    let end = &reader.end().tail;
    let (first_index, entries) = if number == end.segment && end.segment_is_empty() {
        (end.next_index.get(), 0)
    } else {
        let tiles = reader.segment(number)?;
        (tiles.first_index().get(), u64::from(tiles.frame_count()))
    };
    let directory = LogDirectory::new(&arguments.log);
    let path = directory.segment_file(SegmentFile::Frames(number));
    let digest = if state == "sealed" {
        let file = environment.disk.open(&path, Access::Read)?;
        Some(digest_of(file.as_ref())?.to_string())
    } else {
        None
    };
    let payloads: Vec<String> =
        reader.inventory().payload_parts(number).map(|part| SegmentFile::Payloads(number, part).name()).collect();
    if arguments.json {
        return streams.line(serde_json::json!({
            "segment": number.get(), "state": state, "file": SegmentFile::Frames(number).name(), "bytes": bytes,
            "digest": digest, "first_leaf": first_leaf, "records": records, "first_entry": first_index,
            "entries": entries, "payload_files": payloads,
        }));
    }
    streams.line(format_args!("segment       {number} ({state})"))?;
    streams.line(format_args!("file          {} ({bytes} bytes)", SegmentFile::Frames(number).name()))?;
    if let Some(digest) = digest {
        streams.line(format_args!("digest        {digest}"))?;
    }
    streams.line(format_args!("records       {records}, from index {first_leaf}"))?;
    streams.line(format_args!("entries       {entries}, from raft index {first_index}"))?;
    streams.line(format_args!(
        "payload files {}",
        if payloads.is_empty() { "none".to_owned() } else { payloads.join(" ") }
    ))
}

fn seal(arguments: &SealArguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let directory = match arguments.target.place()? {
        Place::Directory(directory) => directory,
        Place::Cluster(reach) => return seal_remote(&reach, streams),
    };
    let mut log = LocalLog::open(environment, directory)?;
    tell_torn(&log, streams);
    let ended = log.end_segment();
    let closed = log.close();
    let ended = ended?;
    closed?;
    match ended {
        Some(segment) => streams.line(format_args!("sealed segment {segment}")),
        None => streams.line(NOTHING),
    }
}

const NOTHING: &str = "nothing to seal: the open segment holds no records";

fn seal_remote(reach: &Reach, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let answer = block_on(async { connect(reach).await?.client.cluster().seal_segment().await.map_err(call) })?;
    match answer.segment {
        Some(segment) => streams.line(format_args!("ended segment {segment}; each node seals its own copy")),
        None => streams.line(NOTHING),
    }
}
