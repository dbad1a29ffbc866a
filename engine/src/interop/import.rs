//! Taking an export into a log.

use std::path::Path;

use stele_proof::LeafIndex;
use stele_proof::interop::Manifest;
use stele_proof::record::{FINISH_BYTES, Limits, MAX_RECORD_BYTES, Record, check_assigned};

use crate::chains::ChainError;
use crate::environment::Environment;
use crate::error::LogError;
use crate::intake::{Refusal, Submission};
use crate::local::{LocalLog, PushError, Receipt};
use crate::reader::{LogReader, Payloads, ReadRecord};

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
    let mut checked = 0;
    while let Some(item) = first_pass.next_item()? {
        let seq = item.record.seq();
        would_be_taken(&item).map_err(|refusal| InteropError::Refused { seq, refusal })?;
        checked += 1;
        progress(Progress { records: checked, total });
    }
    // The same files are read again, by the same rules: what was checked is not trusted to be still there.
    let mut export = ExportReader::open(disk, directory)?;
    let mut report = ImportReport { known: 0, appended: 0 };
    skip_known(environment, log, &mut export, &mut report, each)?;
    if report.known < total {
        append_rest(environment, log, &mut export, &mut report, each)?;
    }
    Ok(report)
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

/// Follows the chain through the log, in step with the export.
fn skip_known(
    environment: &Environment,
    log: &Path,
    export: &mut ExportReader<'_>,
    report: &mut ImportReport,
    each: &mut dyn FnMut(u64, Imported) -> Result<(), InteropError>,
) -> Result<(), InteropError> {
    let reader = LogReader::open(environment, log)?;
    reader.whole()?;
    let Manifest { stream, writer_id, .. } = export.manifest().clone();
    let range = export.manifest().range();
    let (mut head, mut link) = (0, None);
    let mut step = |read: &ReadRecord| -> Result<(), InteropError> {
        let record = Record::parse(&read.canonical)
            .map_err(|error| LogError::damaged("segments", 0, Some(read.index), error))?;
        let seq = record.seq();
        if record.stream().decode() != stream || record.writer_id().decode() != writer_id {
            return Ok(());
        }
        head = seq;
        if seq.checked_add(1) == Some(range.first()) {
            link = Some(record.self_hash());
        }
        if seq < range.first() || seq > range.last() {
            return Ok(());
        }
        match export.next_item()? {
            Some(item) if item.record.canonical() == record.canonical() => {
                report.known += 1;
                each(seq, Imported::Known(Receipt { index: read.index, self_hash: item.self_hash }))
            }
            _ => Err(refused(seq, ChainError::Tamper { at: read.index })),
        }
    };
    let end = reader.size().next_leaf();
    reader.read::<InteropError>(LeafIndex::new(0), end, Payloads::Leave, &mut |read| step(&read))?;
    if report.known > 0 {
        return Ok(());
    }
    // The log refuses these by itself, but only after it was opened and its open segment perhaps sealed.
    if head.checked_add(1) != Some(range.first()) {
        return Err(refused(range.first(), ChainError::SeqGap { expected: head + 1, found: range.first() }));
    }
    let mut probe = ExportReader::open(environment.disk.as_ref(), export.directory())?;
    match (probe.next_item()?, link) {
        (Some(item), Some(expected)) if item.record.prev() != link => {
            Err(refused(item.record.seq(), ChainError::LinkMismatch { expected }))
        }
        _ => Ok(()),
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
                log.flush()?;
                for (seq, receipt) in waiting.drain(..) {
                    report.appended += 1;
                    each(seq, Imported::Appended(receipt))?;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    };
    let appended = append();
    let closed = log.close();
    appended?;
    Ok(closed?)
}
