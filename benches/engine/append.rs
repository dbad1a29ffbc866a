//! Batches of finished records, each made durable before the next is handed over.

use criterion::{BatchSize, Criterion, Throughput};
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_proof::checkpoint::Origin;

use crate::made::Maker;

const CHAINS: usize = 64;

pub(crate) fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    // Flushes take as long as they take: few samples.
    group.sample_size(10);
    for batch in [1, 64, 1024] {
        let scratch = tempfile::tempdir().unwrap();
        let options = CreateOptions::new(Origin::new("example.com/bench").unwrap());
        let mut log = LocalLog::create(&Environment::system(), &scratch.path().join("log"), &options).unwrap();
        let mut maker = Maker::new(CHAINS);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("batch_{batch}"), |bencher| {
            // Every record is new: it follows the one before in its chain.
            bencher.iter_batched(
                || maker.message(batch),
                |message| {
                    let submissions: Vec<Submission<'_>> =
                        message.iter().map(|bytes| Submission::Finished { bytes, payload: None }).collect();
                    log.push_all(&submissions, &mut |answer| assert!(answer.is_ok())).unwrap();
                    log.flush().unwrap();
                },
                BatchSize::PerIteration,
            );
        });
        log.close().unwrap();
    }
    group.finish();
}
