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

/// As [`verify_record`] for each, in order, and several times as fast for many.
pub fn verify_records(finished: &[&[u8]]) -> Vec<Result<SelfHash, VerifyError>> {
    let mut canonical = Vec::with_capacity(finished.iter().map(|bytes| bytes.len()).sum());
    let split: Vec<_> = finished
        .iter()
        .map(|bytes| {
            let split = Finished::split(bytes)?;
            let start = canonical.len();
            split.write_canonical(&mut canonical);
            Some((split.self_hash(), start..canonical.len()))
        })
        .collect();
    let parsed: Vec<_> = split
        .into_iter()
        .map(|split| {
            let (claimed, range) = split.ok_or(VerifyError::NotFinished)?;
            let record = Record::parse(&canonical[range])?;
            Ok((claimed, record.canonical()))
        })
        .collect();
    let inputs: Vec<&[u8]> = parsed.iter().flatten().map(|(_, bytes)| *bytes).collect();
    let mut hashes = Vec::new();
    SelfHash::of_many(&inputs, &mut hashes);
    let mut hashes = hashes.into_iter();
    let check = |parsed: Result<(SelfHash, &[u8]), VerifyError>| {
        let (claimed, bytes) = parsed?;
        let computed = hashes.next().unwrap_or_else(|| SelfHash::of(bytes));
        if computed == claimed { Ok(computed) } else { Err(VerifyError::HashMismatch { claimed, computed }) }
    };
    parsed.into_iter().map(check).collect()
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
    const GROUP: usize = 64;
    let mut records = records.into_iter().peekable();
    let mut group: Vec<&Record<'a>> = Vec::with_capacity(GROUP);
    let (mut inputs, mut hashes) = (Vec::with_capacity(GROUP), Vec::with_capacity(GROUP));
    while let Some(first) = records.next() {
        group.clear();
        group.push(first);
        group.extend(records.by_ref().take(GROUP - 1));
        inputs.clear();
        inputs.extend(group.iter().map(|record| record.canonical()));
        hashes.clear();
        SelfHash::of_many(&inputs, &mut hashes);
        for ((prev, hash), next) in
            group.iter().zip(&hashes).zip(group[1..].iter().copied().chain(records.peek().copied()))
        {
            link(prev, hash, next)?;
        }
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
