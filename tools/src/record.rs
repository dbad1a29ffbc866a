//! `stele record`: one record on standard input.
//!
//! | command | reads | prints |
//! |---|---|---|
//! | `hash` | a canonical record, with or without `self_hash` | `b3:...` |
//! | `check` | the same, held against the limits at intake | `ok b3:...` |
//! | `canon` | any JSON object with the fields of a record | the canonical record, without `self_hash` |
//!
//! A `self_hash` that is there must be right. `hash` and `check` allow one final line feed and nothing else
//! around the record. Whatever is refused ends with exit code 3, and the field and the rule on standard error.

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use stele_proof::record::{
    FINISH_BYTES, Finished, Limits, MAX_RECORD_BYTES, Record, RecordError, VerifyError, canonicalize, check_assigned,
};

use crate::exit::{Exit, Failure};
use crate::stream::{Streams, read_bounded};

/// The most that `hash` and `check` read: the largest finished record and one line feed, in bytes.
const MAX_STRICT_BYTES: u64 = (MAX_RECORD_BYTES + FINISH_BYTES + 1) as u64;

/// The most that `canon` reads, in bytes: room for white space and for escapes that are not needed.
const MAX_LENIENT_BYTES: u64 = 256 * 1024;

/// What to do with the record.
#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
#[command(after_help = "\
The record comes on standard input. What is refused ends with exit code 3.

Examples:
  stele record canon < draft.json | stele record hash
  stele record check < record.json")]
pub enum Command {
    /// Print the hash of a canonical record, `b3:` and 64 hexadecimal digits.
    ///
    /// The record may carry its `self_hash`, which must be right then. One final line feed is allowed.
    Hash,
    /// Print the canonical form of a record given as JSON in any order, without `self_hash`.
    ///
    /// Strings are normalised (NFC), then keys sorted. Floats, duplicate, missing and unknown keys are refused.
    Canon,
    /// Check that a record is canonical, within the default limits and of assigned characters only.
    ///
    /// The record may carry its `self_hash`, which must be right then. One final line feed is allowed.
    /// Prints `ok` and the hash.
    Check,
}

/// Reads the record and prints what was asked.
///
/// # Errors
/// [`Failure`] with exit code 3 where the record is refused, 1 where it cannot be read.
pub fn run(command: Command, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Hash => {
            let canonical = read_canonical(streams)?;
            let record = parse(&canonical)?;
            streams.line(record.self_hash())
        }
        Command::Check => {
            let canonical = read_canonical(streams)?;
            let record = parse(&canonical)?;
            Limits::default().check(&record).map_err(refused)?;
            check_assigned(&record).map_err(refused)?;
            streams.line(format_args!("ok {}", record.self_hash()))
        }
        Command::Canon => {
            let json = read(streams, MAX_LENIENT_BYTES)?;
            let mut canonical = canonicalize(&json).map_err(refused)?;
            canonical.push(b'\n');
            streams.bytes(&canonical)
        }
    }
}

fn read_canonical(streams: &mut Streams<'_>) -> Result<Vec<u8>, Failure> {
    canonical_of(read(streams, MAX_STRICT_BYTES)?)
}

/// Takes a record with or without `self_hash` and with or without one final line feed, checks that hash, and
/// answers what should be canonical bytes.
///
/// # Errors
/// [`Failure`] with exit code 3 where there is more around the record, or its `self_hash` is wrong.
pub fn canonical_of(mut bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    bytes.pop_if(|last| *last == b'\n');
    if bytes.trim_ascii_end().len() < bytes.len() {
        return Err(refused(anyhow!("white space follows the record, of which one final line feed is allowed")));
    }
    let Some(finished) = Finished::split(&bytes) else {
        return Ok(bytes);
    };
    let mut canonical = Vec::with_capacity(bytes.len());
    finished.write_canonical(&mut canonical);
    let computed = parse(&canonical)?.self_hash();
    if computed != finished.self_hash() {
        return Err(refused(VerifyError::HashMismatch { claimed: finished.self_hash(), computed }));
    }
    Ok(canonical)
}

fn parse(canonical: &[u8]) -> Result<Record<'_>, Failure> {
    Record::parse(canonical).map_err(|error| match (&error, canonicalize(canonical)) {
        (RecordError::Canon(_), Ok(_)) => {
            refused(anyhow!("{error}; `stele record canon` would bring it into canonical form"))
        }
        _ => refused(error),
    })
}

fn read(streams: &mut Streams<'_>, limit: u64) -> Result<Vec<u8>, Failure> {
    let bytes = read_bounded(&mut *streams.input, limit).context("cannot read the record from standard input")?;
    bytes.ok_or_else(|| {
        refused(anyhow!(
            "standard input holds more than {limit} bytes, and a canonical record has at most {MAX_RECORD_BYTES}"
        ))
    })
}

fn refused(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Unverified, error.into().context("the record is refused"))
}
