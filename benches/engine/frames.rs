//! Frames: a batch into one, and a file of them read back.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use stele_engine::batch::BatchBuilder;
use stele_engine::disk::{Access, Disk as _, DiskFile, RealDisk};
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::number::{Alignment, BlockHeight, Term};
use stele_engine::scan::{FrameScanner, Seen};
use stele_proof::LeafIndex;

use crate::made::{MESSAGE, Maker, RECORD_BYTES, canonical};

const FRAMES: usize = 64;
const TERM: Term = Term::new(1);

/// The body of a batch of these records, the first of them at that leaf.
fn body(records: &[Vec<u8>], first_leaf: LeafIndex) -> bytes::Bytes {
    let mut builder = BatchBuilder::default();
    for record in records {
        let start = builder.buffer().len();
        builder.buffer().extend_from_slice(record);
        builder.push(start, None);
    }
    builder.cut(TERM, first_leaf).0
}

/// Writes frames behind each other and answers where they begin.
fn fill(file: &dyn DiskFile, records: &[Vec<u8>]) -> Tail {
    let start = Tail::start(Alignment::PAGE, BlockHeight::DEFAULT);
    let mut tail = start;
    for _ in 0..FRAMES {
        let body = body(records, tail.leaves.next_leaf());
        let placed = tail.place(EntryKind::Batch, TERM, &body, 0).unwrap();
        let mut frame = [&placed.bytes[..], &body].concat();
        let padded = tail.alignment.round_up(frame.len() as u64);
        frame.resize(usize::try_from(padded).unwrap(), 0);
        file.write_at(&frame, placed.offset.get()).unwrap();
        tail.advance(&placed);
    }
    file.set_len(tail.offset.get()).unwrap();
    start
}

pub(crate) fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    let records: Vec<Vec<u8>> = Maker::new(1).message(MESSAGE).iter().map(|finished| canonical(finished)).collect();
    group.throughput(Throughput::Bytes((MESSAGE * RECORD_BYTES) as u64));
    let start = Tail::start(Alignment::PAGE, BlockHeight::DEFAULT);
    group.bench_function("encode_64", |bencher| {
        bencher.iter(|| {
            let body = body(black_box(&records), start.leaves.next_leaf());
            start.place(EntryKind::Batch, TERM, &body, 0).unwrap()
        });
    });

    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("frames");
    let file = RealDisk.open(&path, Access::Create).unwrap();
    let start = fill(file.as_ref(), &records);
    group.throughput(Throughput::Bytes((FRAMES * MESSAGE * RECORD_BYTES) as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let (mut scanner, mut tail, mut found) = (FrameScanner::new(file.as_ref()), start, 0);
            while let Seen::Frame(placed, _) = scanner.at(&tail).unwrap() {
                tail.advance(&placed);
                found += 1;
            }
            assert_eq!(found, FRAMES);
        });
    });
    group.finish();
}
