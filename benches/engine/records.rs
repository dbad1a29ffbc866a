//! What one record costs in memory.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use stele_proof::record::{Record, SelfHash, canonicalize, verify_chain, verify_records};

use crate::made::{MESSAGE, Maker, attrs, builder, canonical};

pub(crate) fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("records");
    let attrs = attrs();
    let mut buffer = Vec::new();
    let finished = Maker::new(1).message(MESSAGE);
    let canonical: Vec<Vec<u8>> = finished.iter().map(|finished| canonical(finished)).collect();

    group.throughput(Throughput::Elements(1));
    group.bench_function("canonicalise_fields", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            builder("host-0000", &attrs).encode(1, None, &mut buffer).unwrap().canonical().len()
        });
    });
    // Canonical form is JSON, too.
    group.bench_function("canonicalise_json", |bencher| bencher.iter(|| canonicalize(&canonical[0]).unwrap()));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| black_box(Record::parse(black_box(&canonical[0])).unwrap()));
    });
    group.bench_function("self_hash", |bencher| bencher.iter(|| SelfHash::of(black_box(&canonical[0]))));

    group.throughput(Throughput::Elements(MESSAGE as u64));
    let inputs: Vec<&[u8]> = canonical.iter().map(Vec::as_slice).collect();
    let mut hashes = Vec::new();
    group.bench_function("self_hash_64", |bencher| {
        bencher.iter(|| {
            hashes.clear();
            SelfHash::of_many(black_box(&inputs), &mut hashes);
        });
    });
    let message: Vec<&[u8]> = finished.iter().map(Vec::as_slice).collect();
    group.bench_function("verify_records_64", |bencher| bencher.iter(|| verify_records(black_box(&message))));
    let parsed: Vec<Record<'_>> = canonical.iter().map(|bytes| Record::parse(bytes).unwrap()).collect();
    group.bench_function("verify_chain_64", |bencher| bencher.iter(|| verify_chain(black_box(&parsed)).unwrap()));
    group.finish();
}
