//! `stele append`: records into a log, acknowledged in order as they become durable.
//!
//! One thread reads, the engine's writes; this one builds records, hands over batches and prints.
//! From a regular file every chunk becomes a batch, so that the same file gives the same log; from a
//! pipe a batch is what arrived while the one before was being flushed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use stele_engine::environment::Environment;
use stele_engine::error::{LogError, Poisoned};
use stele_engine::intake::Refusal;
use stele_engine::local::{LocalLog, Receipt};
use stele_engine::prepare::PreparingRefused;
use stele_proof::record::MAX_PAYLOAD_BYTES;

use crate::exit::{Exit, Failure};
use crate::remote::{Place, Target};
use crate::stream::{Source, Streams};

mod draft;
mod flags;
mod remote;

pub use remote::append as append_to;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that may wait to be worked on.
const CHUNKS: usize = 2;
/// Longest line of `--jsonl`: a record, and a payload in base64.
const MAX_JSON_LINE: usize = 2 << 20;

/// The arguments of `stele append`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --lines every line becomes a record whose payload is the line; with --jsonl a line is a draft (a JSON object
of record fields without v, seq, prev and self_hash, `payload` in base64) or a finished record (with self_hash).
A refused line ends the command with exit code 3; what came before it stays.

Examples:
  stele append --log audit --stream app --writer host-1 --kind Line app.log
  tail -F app.log | stele append --log audit --stream app --writer host-1 --kind Line --json -
  stele append --endpoint a.example.com:7070 --stream app --writer host-1 --kind Line app.log
  stele append --endpoint a.example.com:7070 --policy policy --ack proven --jsonl events.jsonl")]
pub struct Arguments {
    /// The log.
    #[command(flatten)]
    pub target: Target,
    /// The stream that the records go to.
    #[arg(long, value_name = "S", value_parser = flags::stream, required_unless_present = "jsonl")]
    pub stream: Option<String>,
    /// Who writes them.
    #[arg(long, value_name = "W", value_parser = flags::writer, required_unless_present = "jsonl")]
    pub writer: Option<String>,
    /// What they tell of: a letter and up to 63 letters, digits, `_`, `.` or `-`.
    #[arg(long, value_name = "K", value_parser = flags::kind, required_unless_present = "jsonl")]
    pub kind: Option<String>,
    /// Make a record of every line (the default).
    #[arg(long, conflicts_with = "jsonl")]
    pub lines: bool,
    /// Read a draft or a finished record from every line.
    #[arg(long)]
    pub jsonl: bool,
    /// What is waited for, of a cluster: that a record is durable at a quorum of sites, or that it also has a proof
    /// under a checkpoint that they have signed and that meets the policy.
    #[arg(long, value_enum, default_value_t = AckArgument::Committed)]
    pub ack: AckArgument,
    /// Print `{"index":..,"self_hash":..}` for every record as it becomes durable.
    #[arg(long)]
    pub json: bool,
    /// The file to read, or `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: Source,
}

/// What a record waits for.
#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum, Debug)]
pub enum AckArgument {
    /// Durable at a quorum of sites.
    #[default]
    Committed,
    /// Also proven under a checkpoint that meets the policy.
    Proven,
}

/// Why a line was not taken.
pub(crate) enum LineError {
    /// The line is wrong.
    Refused(String),
    /// The record is refused.
    Intake(Refusal),
    /// The log cannot go on.
    Log(LogError),
}

impl LineError {
    fn at(self, line: u64) -> Failure {
        match self {
            Self::Refused(why) => Failure::new(Exit::Unverified, anyhow!("line {line}: {why}")),
            Self::Intake(refusal @ Refusal::Reserved) => {
                Failure::new(Exit::Forbidden, anyhow!("line {line}: {refusal}"))
            }
            Self::Intake(refusal) => Failure::new(Exit::Unverified, anyhow!("line {line}: {refusal}")),
            Self::Log(error) => error.into(),
        }
    }
}

/// What was appended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Appended {
    /// How many records, retries counted.
    pub count: u64,
    /// The last one.
    pub last: Option<Receipt>,
    /// Those among them whose proof was asked for and is pending.
    pub pending: u64,
}

/// Appends what the file holds and closes the log.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let appended = match arguments.target.place()? {
        Place::Directory(_) if arguments.ack == AckArgument::Proven => {
            let why = anyhow!("--ack proven is for a cluster; a directory has no other sites that sign");
            return Err(Failure::new(Exit::Usage, why));
        }
        Place::Directory(directory) => append_here(arguments, directory, environment, streams)?,
        Place::Cluster(reach) => remote::run(arguments, &reach, environment, streams)?,
    };
    if appended.pending > 0 {
        streams.tell(format_args!(
            "stele: note: {} records are committed and their proofs pending: too few sites signed in time; `stele prove` \
             gets them later",
            appended.pending
        ));
    }
    if arguments.json {
        return Ok(());
    }
    match appended.last {
        None => streams.line("nothing to append"),
        Some(last) => {
            let records = if appended.count == 1 { "record" } else { "records" };
            streams.line(format_args!("appended {} {records}, the last at index {}", appended.count, last.index))
        }
    }
}

fn append_here(
    arguments: &Arguments,
    directory: &Path,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Appended, Failure> {
    let mut log = LocalLog::open(environment, directory)?;
    tell_torn(&log, streams);
    let done = append(arguments, &mut log, environment, streams);
    let closed = log.close();
    let appended = done?;
    closed?;
    Ok(appended)
}

/// Tells of a tail that was cut when the log was opened.
pub fn tell_torn(log: &LocalLog, streams: &mut Streams<'_>) {
    if let Some(torn) = log.torn_tail() {
        streams.tell(format_args!(
            "stele: cut a last group that was never acknowledged (segment {}, from byte {})",
            torn.segment, torn.offset
        ));
    }
}

/// Tells that space for the next segment file is not prepared.
fn tell_unprepared(PreparingRefused { free, needed }: PreparingRefused, streams: &mut Streams<'_>) {
    streams.tell(format_args!(
        "stele: note: space is short, so none is prepared for the next segment file and appending goes on more slowly \
         ({free} bytes are free, {needed} would be needed)"
    ));
}

/// What the main loop waits for.
enum Event {
    Chunk(Vec<u8>),
    End,
    Failed(io::Error),
    Durable(Result<(), Poisoned>),
}

/// Appends what the file holds; everything taken is durable when this returns, also with an error.
///
/// # Errors
/// [`Failure`] of the first line that is refused, or of the log.
pub fn append(
    arguments: &Arguments,
    log: &mut LocalLog,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Appended, Failure> {
    let (events, incoming) = mpsc::channel();
    let (empty, buffers) = mpsc::sync_channel(CHUNKS);
    for _ in 0..CHUNKS {
        // There is room for all of them.
        drop(empty.try_send(Vec::new()));
    }
    let steady = start_reading(&arguments.file, streams, events.clone(), buffers)?;
    let mut feed = Feed {
        arguments,
        environment,
        events,
        partial: Vec::new(),
        line: 0,
        receipts: Vec::new(),
        in_flight: VecDeque::new(),
        appended: Appended::default(),
    };
    let mut failure = None;
    let mut reading = true;
    let mut told = false;
    while reading || !feed.in_flight.is_empty() || !feed.receipts.is_empty() {
        if !feed.receipts.is_empty() && (steady || !reading || feed.in_flight.is_empty()) {
            feed.cut(log)?;
        }
        let Ok(event) = incoming.recv() else { break };
        if let (false, Some(refused)) = (told, log.preparing_refused()) {
            told = true;
            tell_unprepared(refused, streams);
        }
        let result = match event {
            Event::Durable(durable) => {
                durable.map_err(LogError::from)?;
                feed.acknowledge(streams)
            }
            Event::Chunk(chunk) if reading => {
                let result = feed.take(log, &chunk);
                drop(empty.try_send(chunk));
                result
            }
            Event::End if reading => {
                reading = false;
                feed.take_last(log)
            }
            Event::Failed(error) if reading => {
                Err(anyhow!(error).context(format!("cannot read {}", arguments.file)).into())
            }
            Event::Chunk(_) | Event::End | Event::Failed(_) => Ok(()),
        };
        if let Err(error) = result {
            // What was taken before is still made durable and acknowledged.
            reading = false;
            failure.get_or_insert(error);
        }
    }
    match failure {
        // Fine for a reader; whoever appends must know that not everything was.
        Some(Failure::ReaderGone) => {
            let count = feed.appended.count;
            let why = anyhow!("standard output was closed: stopped after {count} records, all of them durable");
            Err(Failure::new(Exit::Failed, why))
        }
        Some(failure) => Err(failure),
        None => Ok(feed.appended),
    }
}

/// Starts the reading thread; answers whether the chunks depend on the content alone.
fn start_reading(
    source: &Source,
    streams: &mut Streams<'_>,
    events: mpsc::Sender<Event>,
    buffers: mpsc::Receiver<Vec<u8>>,
) -> Result<bool, Failure> {
    let (input, steady): (Box<dyn Read + Send>, bool) = match source {
        Source::StandardInput => (Box::new(streams.take_input()), false),
        Source::File(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {source}"))?;
            let steady = file.metadata().with_context(|| format!("cannot read {source}"))?.is_file();
            (Box::new(file), steady)
        }
    };
    // Not joined: where the command ends early it may wait for input for ever.
    std::thread::spawn(move || read_chunks(input, steady, &events, &buffers));
    Ok(steady)
}

fn read_chunks(mut input: impl Read, fill: bool, events: &mpsc::Sender<Event>, buffers: &mpsc::Receiver<Vec<u8>>) {
    // Either channel is closed once nobody listens any more.
    while let Ok(mut chunk) = buffers.recv() {
        chunk.resize(CHUNK_BYTES, 0);
        let mut len = 0;
        let event = loop {
            match input.read(&mut chunk[len..]) {
                Ok(0) => break if len == 0 { Event::End } else { Event::Chunk(Vec::new()) },
                Ok(read) => {
                    len += read;
                    if !fill || len == CHUNK_BYTES {
                        break Event::Chunk(Vec::new());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Event::Failed(error),
            }
        };
        chunk.truncate(len);
        let last = !matches!(event, Event::Chunk(_));
        let event = if last { event } else { Event::Chunk(chunk) };
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// The lines on their way into the log.
struct Feed<'a> {
    arguments: &'a Arguments,
    environment: &'a Environment,
    events: mpsc::Sender<Event>,
    /// A line whose end has not come yet.
    partial: Vec<u8>,
    /// Number of the last whole line, from 1.
    line: u64,
    /// Records taken and not handed over.
    receipts: Vec<Receipt>,
    /// Records handed over and not durable.
    in_flight: VecDeque<Vec<Receipt>>,
    appended: Appended,
}

impl Feed<'_> {
    fn take(&mut self, log: &mut LocalLog, chunk: &[u8]) -> Result<(), Failure> {
        let limit =
            if self.arguments.jsonl { MAX_JSON_LINE } else { usize::try_from(MAX_PAYLOAD_BYTES).unwrap_or(usize::MAX) };
        let mut rest = chunk;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..at], &rest[at + 1..]);
            if self.partial.is_empty() {
                self.push(log, line, limit)?;
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.push(log, &whole, limit)?;
            }
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > limit {
            return Err(self.too_long(limit));
        }
        Ok(())
    }

    fn take_last(&mut self, log: &mut LocalLog) -> Result<(), Failure> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.partial);
        self.push(log, &line, usize::MAX)
    }

    fn too_long(&self, limit: usize) -> Failure {
        Failure::new(Exit::Unverified, anyhow!("line {}: is longer than {limit} bytes", self.line + 1))
    }

    fn push(&mut self, log: &mut LocalLog, line: &[u8], limit: usize) -> Result<(), Failure> {
        if line.len() > limit {
            return Err(self.too_long(limit));
        }
        self.line += 1;
        let receipt = if self.arguments.jsonl {
            draft::push_json(log, self.environment, self.arguments, line)
        } else {
            draft::push_line(log, self.environment, self.arguments, line)
        };
        self.receipts.push(receipt.map_err(|error| error.at(self.line))?);
        Ok(())
    }

    fn cut(&mut self, log: &mut LocalLog) -> Result<(), Failure> {
        let events = self.events.clone();
        self.in_flight.push_back(std::mem::take(&mut self.receipts));
        log.cut(Box::new(move |durable| {
            // Nobody listens once the command has given up.
            drop(events.send(Event::Durable(durable)));
        }))?;
        Ok(())
    }

    /// The oldest records handed over are durable.
    fn acknowledge(&mut self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let receipts = self.in_flight.pop_front().unwrap_or_default();
        self.appended.count += receipts.len() as u64;
        self.appended.last = receipts.last().copied().or(self.appended.last);
        if !self.arguments.json {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(receipts.len() * 112);
        for Receipt { index, self_hash } in &receipts {
            lines.extend_from_slice(format!("{{\"index\":{index},\"self_hash\":\"{self_hash}\"}}\n").as_bytes());
        }
        streams.bytes(&lines)?;
        streams.flush()
    }
}
