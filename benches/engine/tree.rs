//! The log tree: leaves in, proofs out.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use stele_proof::tree::{CompactRange, Hash, Node, NodeReader, leaf_hash, prove_inclusion};
use stele_proof::{LeafIndex, TreeSize};

use crate::made::{Maker, canonical};

const LEAVES: u64 = 1 << 14;

/// The nodes of a tree, in memory.
#[derive(Default)]
struct Nodes(HashMap<Node, Hash>);

impl NodeReader for Nodes {
    type Error = Infallible;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
        Ok(nodes.iter().map(|node| self.0[node]).collect())
    }
}

pub(crate) fn run(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tree");
    let record = canonical(&Maker::new(1).make());
    let mut tree = CompactRange::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("append_leaf", |bencher| bencher.iter(|| tree.append(leaf_hash(black_box(&record)))));

    let (mut tree, mut nodes) = (CompactRange::new(), Nodes::default());
    for number in 0..LEAVES {
        let leaf = leaf_hash(&number.to_le_bytes());
        tree.append_observed(leaf, &mut |node, hash| {
            nodes.0.insert(node, hash);
        });
    }
    let size = TreeSize::new(LEAVES);
    let mut index = 0;
    group.bench_function("prove_inclusion", |bencher| {
        bencher.iter(|| {
            index = (index + 7919) % LEAVES;
            prove_inclusion(LeafIndex::new(index), size, &nodes).unwrap()
        });
    });
    group.finish();
}
