//! What one core does in memory: canonical form, hashes, chains.

use std::hint::black_box;

use anyhow::anyhow;
use stele_proof::record::{Finished, Record, verify_chain, verify_records};

use super::records::{Draft, Maker, Records, filler_source};
use super::row::Row;
use super::sizes::Sizes;
use super::stopwatch::{Stopwatch, median};
use crate::exit::Failure;

/// Records that are verified together.
const GROUP: usize = 64;
const RECORD_BYTES: usize = 1024;
const CHAINS: usize = 64;

fn row(workload: &'static str, sizes: &Sizes, bytes: usize, seconds: &mut [f64]) -> Row {
    let rounds = seconds.len();
    let middle = median(seconds);
    Row::new(workload)
        .number("records_per_second_per_core", sizes.hash_records as f64 / middle)
        .count("records", sizes.hash_records as u64)
        .count("bytes", bytes as u64)
        .number("seconds", middle)
        .count("rounds", rounds as u64)
}

/// Builds, orders and normalises, hashes, links: from fields to a finished record.
pub(super) fn canonicalise(sizes: &Sizes) -> Result<Row, Failure> {
    let source = filler_source();
    let mut seconds = Vec::new();
    let mut bytes = 0;
    for _ in 0..sizes.rounds {
        let mut heads = vec![(0, None); CHAINS];
        let mut canonical = Vec::new();
        let mut finished = Vec::new();
        bytes = 0;
        let watch = Stopwatch::start();
        for number in 0..sizes.hash_records {
            let chain = number % CHAINS;
            let (seq, prev) = heads[chain];
            let draft = Draft::new(number as u64, chain, 684, &source)?;
            canonical.clear();
            finished.clear();
            let built = draft.builder().encode(seq + 1, prev.as_ref(), &mut canonical);
            let record = built.map_err(|error| anyhow!(error))?;
            let self_hash = record.self_hash();
            record.write_finished(&self_hash, &mut finished);
            bytes += record.canonical().len();
            heads[chain] = (seq + 1, Some(self_hash));
            black_box(&finished);
        }
        seconds.push(watch.seconds());
    }
    Ok(row("canonicalise_hash_chain", sizes, bytes, &mut seconds))
}

/// Parses finished records strictly and compares their hashes.
pub(super) fn self_hash(sizes: &Sizes) -> Result<Row, Failure> {
    let records = Records::make(&mut Maker::new(CHAINS, RECORD_BYTES), sizes.hash_records)?;
    let all: Vec<&[u8]> = records.iter().collect();
    let mut seconds = Vec::new();
    for _ in 0..sizes.rounds {
        let watch = Stopwatch::start();
        for group in all.chunks(GROUP) {
            for verified in verify_records(group) {
                black_box(verified.map_err(|error| anyhow!(error))?);
            }
        }
        seconds.push(watch.seconds());
    }
    Ok(row("verify_self_hash", sizes, sizes.hash_records * RECORD_BYTES, &mut seconds))
}

/// Parses the records of one chain strictly and follows it.
pub(super) fn chain(sizes: &Sizes) -> Result<Row, Failure> {
    let records = Records::make(&mut Maker::new(1, RECORD_BYTES), sizes.hash_records)?;
    let mut canonical = Vec::new();
    let mut ends = Vec::new();
    for finished in records.iter() {
        Finished::split(finished).ok_or_else(|| anyhow!("not finished"))?.write_canonical(&mut canonical);
        ends.push(canonical.len());
    }
    let mut seconds = Vec::new();
    for _ in 0..sizes.rounds {
        let watch = Stopwatch::start();
        let mut parsed = Vec::with_capacity(sizes.hash_records);
        let mut start = 0;
        for end in &ends {
            parsed.push(Record::parse(&canonical[start..*end]).map_err(|error| anyhow!(error))?);
            start = *end;
        }
        verify_chain(&parsed).map_err(|error| anyhow!(error))?;
        seconds.push(watch.seconds());
    }
    Ok(row("verify_chain", sizes, canonical.len(), &mut seconds))
}
