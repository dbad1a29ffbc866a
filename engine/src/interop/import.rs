//! Taking an export into a log.

use std::path::Path;

use stele_proof::LeafIndex;
use stele_proof::record::{FINISH_BYTES, Limits, MAX_RECORD_BYTES, Record, SelfHash, canonical_text, check_assigned};

use crate::chains::{ChainError, Head};
use crate::environment::Environment;
use crate::error::LogError;
use crate::index::hashes::WantedHash;
use crate::index::{Filter, Query, scan};
use crate::intake::{Refusal, Submission};
use crate::local::{LocalLog, PushError, Receipt};
use crate::reader::{LogReader, Payloads};
use crate::replay::Applied;
use crate::segment::LeafRange;
use crate::sink::ChainName;

use super::read::{ExportReader, Item};
use super::{InteropError, Progress};

/// Records that are made durable together.
const BATCH_RECORDS: usize = 1024;

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Imported {
    /// It was there already, at this place.
    Known(Receipt),
    /// It was appended there, and is durable.
    Appended(Receipt),
}

/// What an import did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportReport {
    /// Records that were there already.
    pub known: u64,
    /// Records that were appended; all of them are durable.
    pub appended: u64,
}

/// Appends the records of an export that the log does not have yet.
///
/// Everything is checked before anything is appended: the export as [`super::verify_export`] does, what the log
/// asks of every record, and that what it has already of the chain is the same. `each` is told of every record
/// in the order of the chain, when it is durable.
///
/// # Errors
/// [`InteropError::Bad`], [`InteropError::Refused`]: nothing was appended, unless somebody changed the export or
/// appended to the chain meanwhile. [`InteropError::Log`].
pub fn import(
    environment: &Environment,
    directory: &Path,
    log: &Path,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(u64, Imported) -> Result<(), InteropError>,
) -> Result<ImportReport, InteropError> {
    let disk = environment.disk.as_ref();
    let mut first_pass = ExportReader::open(disk, directory)?;
    let total = first_pass.total();
    let (mut checked, mut start) = (0, None);
    while let Some(item) = first_pass.next_item()? {
        let seq = item.record.seq();
        would_be_taken(&item).map_err(|refusal| InteropError::Refused { seq, refusal })?;
        start.get_or_insert(Start { prev: item.record.prev(), self_hash: item.self_hash });
        checked += 1;
        progress(Progress { records: checked, total });
    }
    // The same files are read again, by the same rules: what was checked is not trusted to be still there.
    let mut export = ExportReader::open(disk, directory)?;
    let mut report = ImportReport { known: 0, appended: 0 };
    if let Some(start) = start {
        skip_known(environment, log, &start, &mut export, &mut report, each)?;
    }
    if report.known < total {
        append_rest(environment, log, &mut export, &mut report, each)?;
    }
    Ok(report)
}

/// The first record of an export.
struct Start {
    prev: Option<SelfHash>,
    self_hash: SelfHash,
}

/// What intake asks of a record, but for its chain.
fn would_be_taken(item: &Item<'_>) -> Result<(), Refusal> {
    if item.record.is_reserved() {
        return Err(Refusal::Reserved);
    }
    Limits::default().check(&item.record)?;
    check_assigned(&item.record)?;
    if item.record.payload().is_some() && item.payload.is_none() {
        return Err(Refusal::Payload("the payload that the record commits to did not come along"));
    }
    Ok(())
}

/// Compares what the log has of the chain with the export. The log is read from the first record on that both have, and
/// not at all where the export continues the chain: so to import a chain in parts is not to read the log once for each.
fn skip_known(
    environment: &Environment,
    log: &Path,
    start: &Start,
    export: &mut ExportReader<'_>,
    report: &mut ImportReport,
    each: &mut dyn FnMut(u64, Imported) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let reader = LogReader::open(environment, log)?;
    reader.whole()?;
    let range = export.manifest().range();
    let (stream, writer_id) = (export.manifest().stream.clone(), export.manifest().writer_id.clone());
    let head = head_of(environment, &reader, ChainName { stream: &stream, writer_id: &writer_id })?;
    let have = head.map_or(0, |head| head.seq);
    // The log refuses these by itself, but only after it was opened and its open segment perhaps sealed.
    if have.checked_add(1).is_some_and(|next| next < range.first()) {
        return Err(refused(range.first(), ChainError::SeqGap { expected: have + 1, found: range.first() }));
    }
    if have < range.first() {
        return match head {
            Some(head) if start.prev != Some(head.self_hash) => {
                Err(refused(range.first(), ChainError::LinkMismatch { expected: head.self_hash }))
            }
            _ => Ok(()),
        };
    }
    let last = have.min(range.last());
    let chain = Filter::default().stream(&stream).writer(&writer_id);
    let first = place_of(&reader, &chain, start)?.unwrap_or(LeafIndex::new(0));
    let end = reader.size().next_leaf();
    let read = reader.read::<Halt>(first, end, Payloads::Leave, &mut |read| {
        let record = Record::parse(&read.canonical)
            .map_err(|error| LogError::damaged("segments", 0, Some(read.index), error))?;
        let seq = record.seq();
        if !chain.matches(&record) || seq < range.first() {
            return Ok(());
        }
        match export.next_item()? {
            Some(item) if item.record.canonical() == record.canonical() => {
                report.known += 1;
                each(seq, Imported::Known(Receipt { index: read.index, self_hash: item.self_hash }))?;
            }
            _ => return Err(refused(seq, ChainError::Tamper { at: read.index }).into()),
        }
        if seq == last { Err(Halt::Done) } else { Ok(()) }
    });
    match read {
        Err(Halt::Done) => Ok(()),
        Err(Halt::Error(error)) => Err(error),
        Ok(()) => {
            let what = format!("its chain goes on to seq {have}, and seq {last} is not there");
            Err(LogError::damaged("segments", 0, None, what).into())
        }
    }
}

/// Why reading ended early.
enum Halt {
    Done,
    Error(InteropError),
}

impl From<InteropError> for Halt {
    fn from(error: InteropError) -> Self {
        Self::Error(error)
    }
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        Self::Error(error.into())
    }
}

/// The last record of a chain, by the newest state file and the frames behind it.
fn head_of(environment: &Environment, reader: &LogReader, chain: ChainName<'_>) -> Result<Option<Head>, LogError> {
    let (disk, directory, inventory) = (environment.disk.as_ref(), reader.directory(), reader.inventory());
    let applied = Applied::up_to_sealed(disk, directory, inventory)?;
    let mut applied = applied.up_to(disk, directory, inventory, &reader.end().tail)?;
    Ok(applied.keeper.chains.head(&canonical_text(chain.stream), &canonical_text(chain.writer_id)))
}

/// Where the export's first record lies in the log, by the tables of hashes; `None` where it is not there: then another
/// one is, under its number.
fn place_of(reader: &LogReader, chain: &Filter, start: &Start) -> Result<Option<LeafIndex>, InteropError> {
    let Some(hash) = WantedHash::parse(&start.self_hash.to_string()) else { return Ok(None) };
    let leaves = LeafRange { first: LeafIndex::new(0), end: reader.size().next_leaf() };
    let query = Query { filter: chain.clone().hash(hash), leaves, payloads: Payloads::Leave };
    let mut place = None;
    let scanned = scan::<Halt>(reader, &query, &mut |read| {
        // A record may also name this hash as its `content_id`.
        if SelfHash::of(&read.canonical) != start.self_hash {
            return Ok(());
        }
        place = Some(read.index);
        Err(Halt::Done)
    });
    match scanned {
        Err(Halt::Error(error)) => Err(error),
        Ok(()) | Err(Halt::Done) => Ok(place),
    }
}

fn refused(seq: u64, error: ChainError) -> InteropError {
    InteropError::Refused { seq, refusal: Refusal::Chain(error) }
}

fn append_rest(
    environment: &Environment,
    log: &Path,
    export: &mut ExportReader<'_>,
    report: &mut ImportReport,
    each: &mut dyn FnMut(u64, Imported) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let mut log = LocalLog::open(environment, log)?;
    let mut waiting = Vec::with_capacity(BATCH_RECORDS);
    let mut bytes = Vec::with_capacity(MAX_RECORD_BYTES + FINISH_BYTES);
    let mut append = || -> Result<(), InteropError> {
        loop {
            let item = export.next_item()?;
            if let Some(item) = &item {
                bytes.clear();
                item.record.write_finished(&item.self_hash, &mut bytes);
                let payload = item.payload.as_ref().map(|(salt, bytes)| (salt, *bytes));
                let seq = item.record.seq();
                let receipt = log.push(&Submission::Finished { bytes: &bytes, payload });
                waiting.push((
                    seq,
                    receipt.map_err(|error| match error {
                        PushError::Refused(refusal) => InteropError::Refused { seq, refusal },
                        PushError::Log(error) => InteropError::Log(error),
                    })?,
                ));
            }
            let is_last = item.is_none();
            if is_last || waiting.len() == BATCH_RECORDS {
                tell(&mut log, &mut waiting, report, each)?;
            }
            if is_last {
                return Ok(());
            }
        }
    };
    let appended = append();
    // What was pushed before a refusal becomes durable, too, and is told of.
    let rest =
        if matches!(appended, Err(InteropError::Log(_))) { Ok(()) } else { tell(&mut log, &mut waiting, report, each) };
    let closed = log.close().map_err(InteropError::from);
    match appended {
        Err(error @ InteropError::Log(_)) => Err(error),
        // A log that failed is told of before a refusal, which comes again.
        appended => closed.and(rest).and(appended),
    }
}

/// Makes what was pushed durable, and tells of it.
fn tell(
    log: &mut LocalLog,
    waiting: &mut Vec<(u64, Receipt)>,
    report: &mut ImportReport,
    each: &mut dyn FnMut(u64, Imported) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    log.flush()?;
    for (seq, receipt) in waiting.drain(..) {
        report.appended += 1;
        each(seq, Imported::Appended(receipt))?;
    }
    Ok(())
}
