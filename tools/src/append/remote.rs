//! Lines into a cluster, through the client: records are built here, so that a lost answer is asked for again and no
//! record is there twice.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use futures_util::FutureExt as _;
use stele_client::record::ChainName;
use stele_client::{
    Ack, AppendError, Appender, AppenderOptions, ChainWriter, Client, Event, FinishedRecord, InvalidRecord, Payload,
    Pending, Reached,
};
use stele_engine::environment::Environment;
use stele_engine::local::Receipt;
use stele_proof::record::{Actor, MAX_PAYLOAD_BYTES, Object, Subject};
use tokio::sync::mpsc;

use super::draft::{JsonLine, read_json};
use super::{AckArgument, Appended, Arguments, LineError, MAX_JSON_LINE};
use crate::context::Reach;
use crate::exit::{Exit, Failure};
use crate::remote::{append_at, block_on, call, connect};
use crate::stream::{Source, Streams};

/// Lines that may wait to be worked on.
const MAX_READ: usize = 256;
/// Records whose answers may wait to be printed.
const MAX_PENDING: usize = 4096;
/// Chains that one input may write.
const MAX_CHAINS: usize = 4096;

/// Appends what the file holds.
pub(super) fn run(
    arguments: &Arguments,
    reach: &Reach,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Appended, Failure> {
    block_on(async {
        let connected = connect(reach).await?;
        let ack = match arguments.ack {
            AckArgument::Committed => Ack::Committed,
            AckArgument::Proven => Ack::Proven(connected.policy(streams)?),
        };
        append_with(arguments, (&connected.client, ack), environment, streams).await
    })
}

/// Appends what the file holds, by this client.
pub async fn append(
    arguments: &Arguments,
    client: &Client,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Appended, Failure> {
    append_with(arguments, (client, Ack::Committed), environment, streams).await
}

async fn append_with(
    arguments: &Arguments,
    (client, ack): (&Client, Ack),
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Appended, Failure> {
    let appender =
        client.appender(AppenderOptions { ack, ..AppenderOptions::default() }).map_err(|error| anyhow!(error))?;
    let mut lines = read_lines(arguments, streams)?;
    let mut feed = Feed {
        arguments,
        environment,
        client,
        appender,
        chains: HashMap::new(),
        pending: VecDeque::new(),
        line: 0,
        appended: Appended::default(),
    };
    let mut failure = None;
    let mut reading = true;
    while reading || !feed.pending.is_empty() {
        let step = tokio::select! {
            biased;
            // Answers first: they make room.
            answer = feed.front(), if !feed.pending.is_empty() => feed.acknowledge(answer, streams),
            line = lines.recv(), if reading && feed.pending.len() < MAX_PENDING => match line {
                Some(Ok(line)) => feed.push(&line).await,
                Some(Err(error)) => Err(error),
                None => {
                    reading = false;
                    Ok(())
                }
            },
        };
        if let Err(error) = step {
            // What was taken before is still answered.
            reading = false;
            failure.get_or_insert(error);
        }
    }
    match failure {
        Some(Failure::ReaderGone) => {
            let count = feed.appended.count;
            let why = anyhow!("standard output was closed: stopped after {count} records, all of them committed");
            Err(Failure::new(Exit::Failed, why))
        }
        Some(failure) => Err(failure),
        None => Ok(feed.appended),
    }
}

/// Lines, read on a thread of their own.
fn read_lines(
    arguments: &Arguments,
    streams: &mut Streams<'_>,
) -> Result<mpsc::Receiver<Result<Vec<u8>, Failure>>, Failure> {
    let mut input: Box<dyn BufRead + Send> = match &arguments.file {
        Source::StandardInput => streams.take_input(),
        Source::File(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", arguments.file))?;
            Box::new(BufReader::new(file))
        }
    };
    let limit = if arguments.jsonl { MAX_JSON_LINE } else { usize::try_from(MAX_PAYLOAD_BYTES).unwrap_or(usize::MAX) };
    let name = arguments.file.to_string();
    let (tell, told) = mpsc::channel(MAX_READ);
    // Not joined: where the command ends early it may wait for input for ever.
    std::thread::spawn(move || {
        let mut number = 0_u64;
        loop {
            number += 1;
            let line = match next_line(&mut input, limit) {
                Ok(Some(line)) if line.len() > limit => {
                    let why = anyhow!("line {number}: is longer than {limit} bytes");
                    Err(Failure::new(Exit::Unverified, why))
                }
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(anyhow!(error).context(format!("cannot read {name}")).into()),
            };
            let last = line.is_err();
            if tell.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    Ok(told)
}

/// The next line without its line feed, or what of it is one byte beyond the limit.
fn next_line(input: &mut dyn BufRead, limit: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if input.take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    line.pop_if(|last| *last == b'\n');
    Ok(Some(line))
}

/// The lines on their way into the log.
struct Feed<'a> {
    arguments: &'a Arguments,
    environment: &'a Environment,
    client: &'a Client,
    appender: Appender,
    chains: HashMap<ChainName, ChainWriter>,
    /// By line.
    pending: VecDeque<(u64, Pending)>,
    line: u64,
    appended: Appended,
}

impl Feed<'_> {
    /// The answer to the oldest record; may be dropped and asked again.
    async fn front(&mut self) -> Result<stele_client::Receipt, AppendError> {
        match self.pending.front_mut() {
            Some((_, pending)) => pending.await,
            None => std::future::pending().await,
        }
    }

    async fn push(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.line += 1;
        let pending = if self.arguments.jsonl { self.push_json(line).await } else { self.push_line(line).await }?;
        self.pending.push_back((self.line, pending));
        Ok(())
    }

    async fn push_line(&mut self, line: &[u8]) -> Result<Pending, Failure> {
        let given = |name: &Option<String>| name.clone().unwrap_or_default();
        let kind = given(&self.arguments.kind);
        let name = ChainName { writer_id: given(&self.arguments.writer), stream: given(&self.arguments.stream) };
        let attrs = Object::default();
        let event = Event {
            ts_ms: self.environment.clock.now(),
            kind: &kind,
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
        };
        self.push_event(name, &event, Some(Bytes::copy_from_slice(line))).await
    }

    async fn push_json(&mut self, line: &[u8]) -> Result<Pending, Failure> {
        let number = self.line;
        let at = |error: LineError| error.at(number);
        match read_json(self.environment, self.arguments, line).map_err(at)? {
            JsonLine::Finished { bytes, payload } => {
                let payload = payload.map(|(salt, bytes)| Payload { salt, bytes: bytes.into() });
                let record = FinishedRecord::parse(bytes.into(), payload).map_err(|error| self.invalid(error))?;
                self.appender.push(&record).await.map_err(|error| self.failed(self.line, error))
            }
            JsonLine::Draft { draft, payload } => {
                let event = Event {
                    ts_ms: draft.ts_ms,
                    kind: &draft.kind,
                    actor: draft.actor().map_err(at)?,
                    subject: draft.subject().map_err(at)?,
                    reason: &draft.reason,
                    attrs: &draft.attrs,
                };
                let name = ChainName { writer_id: draft.writer.clone(), stream: draft.stream.clone() };
                self.push_event(name, &event, payload.map(Bytes::from)).await
            }
        }
    }

    async fn push_event(
        &mut self,
        name: ChainName,
        event: &Event<'_>,
        payload: Option<Bytes>,
    ) -> Result<Pending, Failure> {
        if !self.chains.contains_key(&name) {
            if self.chains.len() == MAX_CHAINS {
                let why = anyhow!("line {}: more than {MAX_CHAINS} chains in one input", self.line);
                return Err(Failure::new(Exit::Failed, why));
            }
            let head = self.client.head(&name).await.map_err(call)?;
            self.chains.insert(name.clone(), ChainWriter::new(self.appender.clone(), name.clone(), head));
        }
        let line = self.line;
        let Some(writer) = self.chains.get_mut(&name) else {
            return Err(anyhow!("line {line}: its chain is not there").into());
        };
        let pushed = match payload {
            None => writer.append(event).await,
            Some(payload) => writer.append_with_payload(event, payload).await,
        };
        pushed.map_err(|error| self.failed(line, error))
    }

    fn invalid(&self, error: InvalidRecord) -> Failure {
        self.failed(self.line, error.into())
    }

    fn failed(&self, line: u64, error: AppendError) -> Failure {
        append_at(&format!("line {line}: "), error)
    }

    /// Tells of the oldest record and of those after it that have their answers, too.
    fn acknowledge(
        &mut self,
        first: Result<stele_client::Receipt, AppendError>,
        streams: &mut Streams<'_>,
    ) -> Result<(), Failure> {
        let mut lines = String::new();
        let mut answer = Some(first);
        let mut done = Ok(());
        while let Some(answered) = answer.take() {
            let line = self.pending.pop_front().map_or(0, |(line, _)| line);
            match answered {
                Ok(receipt) => {
                    let (index, self_hash) = (receipt.index, receipt.self_hash);
                    self.appended.count += 1;
                    self.appended.last = Some(Receipt { index, self_hash });
                    let proven = matches!(receipt.reached(), Reached::Proven(_));
                    let asked = self.arguments.ack == AckArgument::Proven;
                    self.appended.pending += u64::from(asked && !proven);
                    if self.arguments.json {
                        let proven = if asked { format!(",\"proven\":{proven}") } else { String::new() };
                        lines.push_str(&format!("{{\"index\":{index},\"self_hash\":\"{self_hash}\"{proven}}}\n"));
                    }
                }
                Err(error) => {
                    done = Err(self.failed(line, error));
                    break;
                }
            }
            answer = self.pending.front_mut().and_then(|(_, pending)| pending.now_or_never());
        }
        if !lines.is_empty() {
            streams.bytes(lines.as_bytes())?;
            streams.flush()?;
        }
        done
    }
}
