//! The hash chain: `prev` of a record is the `self_hash` of the one before in its
//! (`writer_id`, `stream`) pair.

use super::error::VerifyError;
use super::{Finished, Record, SelfHash};

/// Checks a finished record: canonical, and hashing to its `self_hash`.
///
/// # Errors
/// [`VerifyError`]; `NotFinished` where `self_hash` is missing.
pub fn verify_record(finished: &[u8]) -> Result<SelfHash, VerifyError> {
    let split = Finished::split(finished).ok_or(VerifyError::NotFinished)?;
    let mut canonical = Vec::with_capacity(finished.len());
    split.write_canonical(&mut canonical);
    let record = Record::parse(&canonical)?;
    let computed = record.self_hash();
    if computed == split.self_hash() {
        Ok(computed)
    } else {
        Err(VerifyError::HashMismatch { claimed: split.self_hash(), computed })
    }
}

/// Checks that `next` directly follows `prev` in the same chain.
///
/// # Errors
/// [`VerifyError`] naming what does not fit.
pub fn verify_link(prev: &Record<'_>, next: &Record<'_>) -> Result<(), VerifyError> {
    link(prev, &prev.self_hash(), next)
}

/// Checks that each record directly follows the one before; hashes each once.
///
/// # Errors
/// [`VerifyError`] of the first pair that does not fit.
pub fn verify_chain<'r, 'a: 'r>(records: impl IntoIterator<Item = &'r Record<'a>>) -> Result<(), VerifyError> {
    let mut records = records.into_iter();
    let Some(mut prev) = records.next() else { return Ok(()) };
    for next in records {
        link(prev, &prev.self_hash(), next)?;
        prev = next;
    }
    Ok(())
}

fn link(prev: &Record<'_>, prev_hash: &SelfHash, next: &Record<'_>) -> Result<(), VerifyError> {
    if prev.writer_id() != next.writer_id() || prev.stream() != next.stream() {
        return Err(VerifyError::OtherChain);
    }
    let expected = prev.seq().saturating_add(1);
    if next.seq() != expected || next.seq() == prev.seq() {
        return Err(VerifyError::SeqMismatch { expected, found: next.seq() });
    }
    if next.prev().as_ref() != Some(prev_hash) {
        return Err(VerifyError::PrevMismatch { expected: *prev_hash });
    }
    Ok(())
}
