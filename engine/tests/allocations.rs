//! How often the paths that every record takes ask for memory.
//!
//! The counting allocator of `allocation_counter` counts what its own thread asks for, so that tests may run
//! beside each other; growing counts as asking anew. The logs here have no threads of their own, so that what
//! their writer and their sealer ask for counts, too. The same calls ask as often on every machine, which is
//! why the bounds are close.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it counted")]

use std::path::Path;

use stele_engine::birth::CreateOptions;
use stele_engine::environment::{Environment, Workers};
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{
    Actor, Finished, Object, Record, RecordBuilder, SelfHash, Subject, Value, canonicalize, verify_chain,
    verify_records,
};

const RECORDS: usize = 2048;
const RECORD_BYTES: usize = 1024;
const CHAINS: usize = 64;
/// Records that are handed over together.
const MESSAGE: usize = 64;
/// The bar of the issue "The engine in depth".
const BAR: f64 = 8.0;
/// Of JSON in any order, where every key and every text is a string of its own on the way; the bar is not about it.
const JSON_BOUND: f64 = 31.0;

/// Allocations of this thread for each of the records, told beside what they may be.
fn per_record(what: &str, at_most: f64, work: impl FnOnce()) -> f64 {
    let counted = allocation_counter::measure(work).count_total as f64 / RECORDS as f64;
    println!("{what}: {counted:.3} allocations a record, at most {at_most}");
    assert!(counted <= at_most, "{what}: {counted:.3} allocations a record, at most {at_most}");
    counted
}

/// The details of a record of 1 KiB.
fn attrs(number: usize) -> Object {
    Object::new(vec![
        ("status".to_owned(), Value::Integer((200 + number as u64 % 7).into())),
        ("text".to_owned(), Value::String("x".repeat(RECORD_BYTES - 340))),
    ])
    .unwrap()
}

fn builder<'a>(number: usize, writer_id: &'a str, attrs: &'a Object) -> RecordBuilder<'a> {
    RecordBuilder {
        ts_ms: UnixMillis::new(1_700_000_000_000 + number as u64),
        writer_id,
        stream: "app/access",
        kind: "Access",
        actor: Actor { key_fpr: Some("ed25519:5f0c9a"), ..Actor::default() },
        subject: Subject { name: Some("/v1/accounts/4711"), ..Subject::default() },
        reason: "ok",
        attrs,
        payload: None,
    }
}

/// Builds, orders and normalises, hashes and links records from their fields; each finished one goes to `take`.
fn canonicalise(chains: usize, take: &mut dyn FnMut(&[u8])) {
    let mut heads: Vec<(u64, Option<SelfHash>)> = vec![(0, None); chains];
    let (mut canonical, mut finished) = (Vec::new(), Vec::new());
    for number in 0..RECORDS {
        let chain = number % chains;
        let (seq, prev) = heads[chain];
        let writer_id = format!("host-{chain:04}");
        let attrs = attrs(number);
        canonical.clear();
        finished.clear();
        let record = builder(number, &writer_id, &attrs).encode(seq + 1, prev.as_ref(), &mut canonical).unwrap();
        let self_hash = record.self_hash();
        record.write_finished(&self_hash, &mut finished);
        heads[chain] = (seq + 1, Some(self_hash));
        take(&finished);
    }
}

fn finished(chains: usize) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    canonicalise(chains, &mut |finished| records.push(finished.to_vec()));
    records
}

fn canonical(finished: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Finished::split(finished).unwrap().write_canonical(&mut out);
    out
}

#[test]
fn a_record_of_fields_is_made_canonical_hashed_and_linked_within_the_bar() {
    // The fields are counted, too: the writer, the vector of the members, two keys, one text.
    let counted = per_record("fields, canonical form, hash, chain", BAR, || canonicalise(CHAINS, &mut |_| ()));
    assert!(counted >= 1.0, "what the fields themselves need is counted: {counted}");
    let (mut canonical, attrs) = (Vec::new(), attrs(0));
    per_record("canonical form, hash", 0.01, || {
        for number in 0..RECORDS {
            canonical.clear();
            let record = builder(number, "host-0000", &attrs).encode(1, None, &mut canonical).unwrap();
            std::hint::black_box(record.self_hash());
        }
    });
}

#[test]
fn a_finished_record_is_parsed_hashed_and_linked_without_allocating() {
    let records = finished(1);
    let mut buffer = Vec::with_capacity(2 * RECORD_BYTES);
    per_record("finished record, parsed and hashed", 0.0, || {
        for finished in &records {
            let split = Finished::split(finished).unwrap();
            buffer.clear();
            split.write_canonical(&mut buffer);
            assert_eq!(Record::parse(&buffer).unwrap().self_hash(), split.self_hash());
        }
    });
    let messages: Vec<Vec<&[u8]>> =
        records.chunks(MESSAGE).map(|message| message.iter().map(Vec::as_slice).collect()).collect();
    per_record("verify_records, 64 together", 0.25, || {
        for message in &messages {
            assert!(verify_records(message).iter().all(Result::is_ok));
        }
    });
    let bytes: Vec<Vec<u8>> = records.iter().map(|finished| canonical(finished)).collect();
    let parsed: Vec<Record<'_>> = bytes.iter().map(|bytes| Record::parse(bytes).unwrap()).collect();
    per_record("verify_chain", 0.01, || verify_chain(&parsed).unwrap());
}

#[test]
fn a_record_of_json_in_any_order_is_made_canonical_and_hashed_within_its_bound() {
    let inputs: Vec<Vec<u8>> = finished(CHAINS).iter().map(|finished| shuffled(&canonical(finished))).collect();
    per_record("JSON in any order, canonical form, hash", JSON_BOUND, || {
        for input in &inputs {
            std::hint::black_box(SelfHash::of(&canonicalize(input).unwrap()));
        }
    });
}

/// The same object with its keys in another order, and white space.
fn shuffled(canonical: &[u8]) -> Vec<u8> {
    let object: serde_json::Value = serde_json::from_slice(canonical).unwrap();
    let members: Vec<String> =
        object.as_object().unwrap().iter().rev().map(|(key, value)| format!("\"{key}\" : {value}")).collect();
    let shuffled = format!("{{ {} }}", members.join(", ")).into_bytes();
    assert_eq!(canonicalize(&shuffled).unwrap(), canonical);
    shuffled
}

/// A log whose writer and sealer work on this thread.
fn log(path: &Path) -> LocalLog {
    let environment = Environment { workers: Workers::Inline, ..Environment::system() };
    LocalLog::create(&environment, path, &CreateOptions::new(Origin::new("example.com/count").unwrap())).unwrap()
}

/// Cuts a batch, writes it and waits for it.
fn settle(log: &mut LocalLog) {
    log.cut(Box::new(|durable| durable.unwrap())).unwrap();
    log.write_queued();
}

#[test]
fn a_log_takes_finished_records_within_its_bounds() {
    let scratch = tempfile::tempdir().unwrap();
    let records = finished(CHAINS);
    let submissions: Vec<Submission<'_>> =
        records.iter().map(|bytes| Submission::Finished { bytes, payload: None }).collect();

    let mut one_by_one = log(&scratch.path().join("push"));
    per_record("LocalLog::push, a flush for each 64", 0.6, || {
        for message in submissions.chunks(MESSAGE) {
            for submission in message {
                one_by_one.push(submission).unwrap();
            }
            settle(&mut one_by_one);
        }
    });
    let mut together = log(&scratch.path().join("push-all"));
    per_record("LocalLog::push_all, a flush for each 64", 0.75, || {
        for message in submissions.chunks(MESSAGE) {
            together.push_all(message, &mut |answer| assert!(answer.is_ok())).unwrap();
            settle(&mut together);
        }
    });
    assert_eq!(one_by_one.size(), together.size());
    one_by_one.close().unwrap();
    together.close().unwrap();
}
