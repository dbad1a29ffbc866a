//! The log tree against its definition, against other implementations, and against liars.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;

use super::*;
use crate::number::{LeafIndex, TreeSize};

/// Every tree up to this size, with every proof in it.
const EXHAUSTIVE: u64 = 300;

fn index(value: u64) -> LeafIndex {
    LeafIndex::new(value)
}

fn size(value: u64) -> TreeSize {
    TreeSize::new(value)
}

fn record(position: u64) -> [u8; 8] {
    position.to_be_bytes()
}

fn flipped(hash: &Hash) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[31] ^= 1;
    Hash::new(bytes)
}

/// Every complete node of a tree over `record(0), record(1), ...`, and its root at every size.
struct Stored {
    nodes: HashMap<Node, Hash>,
    roots: Vec<Hash>,
    leaves: Vec<Hash>,
    reads: Cell<usize>,
}

impl Stored {
    fn new(count: u64) -> Self {
        let mut range = CompactRange::new();
        let mut nodes = HashMap::new();
        let mut roots = vec![range.root()];
        let mut leaves = Vec::new();
        for position in 0..count {
            let leaf = leaf_hash(&record(position));
            range.append_observed(leaf, &mut |node, hash| {
                assert_eq!(nodes.insert(node, hash), None, "{node} is reported once");
            });
            roots.push(range.root());
            leaves.push(leaf);
        }
        Self { nodes, roots, leaves, reads: Cell::new(0) }
    }

    fn root(&self, size: u64) -> &Hash {
        &self.roots[usize::try_from(size).unwrap()]
    }

    fn leaf(&self, index: u64) -> &Hash {
        &self.leaves[usize::try_from(index).unwrap()]
    }
}

impl NodeReader for Stored {
    type Error = Node;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Node> {
        assert!(!nodes.is_empty() && nodes.len() <= 128);
        self.reads.set(self.reads.get() + 1);
        nodes.iter().map(|node| self.nodes.get(node).copied().ok_or(*node)).collect()
    }
}

/// The tree of any size over one leaf repeated: each level has one hash.
struct Repeated(Vec<Hash>);

impl Repeated {
    fn new(leaf: Hash) -> Self {
        let mut levels = vec![leaf];
        for level in 0..usize::from(Node::MAX_LEVEL) {
            levels.push(node_hash(&levels[level], &levels[level]));
        }
        Self(levels)
    }
}

impl NodeReader for Repeated {
    type Error = Infallible;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
        Ok(nodes.iter().map(|node| self.0[usize::from(node.level())]).collect())
    }
}

/// Answers with a fixed number of hashes.
struct Miscounting(usize);

impl NodeReader for Miscounting {
    type Error = Infallible;

    fn read_nodes(&self, _: &[Node]) -> Result<Vec<Hash>, Infallible> {
        Ok(vec![Hash::new([0; 32]); self.0])
    }
}

/// Every proof that differs from this one in one simple way.
fn forgeries(proof: &[Hash], salt: u64) -> Vec<Vec<Hash>> {
    let mut forged = vec![[proof, &[Hash::new([7; 32])]].concat()];
    if let [first, rest @ ..] = proof {
        forged.push(proof[..proof.len() - 1].to_vec());
        forged.push(rest.to_vec());
        forged.push(Vec::new());
        forged.push([proof, &[*first]].concat());
        let mut flip = proof.to_vec();
        let position = usize::try_from(salt).unwrap() % proof.len();
        flip[position] = flipped(&flip[position]);
        forged.push(flip);
        if proof.len() > 1 {
            let mut swapped = proof.to_vec();
            swapped.swap(position, (position + 1) % proof.len());
            forged.push(swapped);
        }
    }
    forged
}

/// RFC 6962 2.1, word for word.
fn root_by_definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root_by_definition(left), &root_by_definition(right))
        }
    }
}

#[test]
fn roots_of_the_certificate_transparency_test_tree() {
    let records: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut range = CompactRange::new();
    assert_eq!(range.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (record, root) in records.into_iter().zip(roots) {
        range.append(leaf_hash(record));
        assert_eq!(range.root().to_string(), root, "size {}", range.size());
    }
}

#[test]
fn roots_and_peaks_of_every_size_follow_the_definition() {
    let stored = Stored::new(EXHAUSTIVE);
    let mut range = CompactRange::new();
    for count in 0..=EXHAUSTIVE {
        let leaves = &stored.leaves[..usize::try_from(count).unwrap()];
        assert_eq!(root_by_definition(leaves), range.root(), "size {count}");
        assert_eq!(root_at(size(count), &stored), Ok(range.root()), "size {count}");
        assert_eq!(peaks_at(size(count), &stored).unwrap(), range.peaks(), "size {count}");
        assert_eq!(CompactRange::from_peaks(size(count), range.peaks().to_vec()).as_ref(), Ok(&range));
        for node in peak_nodes(size(count)) {
            assert!(node.end() <= size(count));
        }
        if let Some(leaf) = stored.leaves.get(usize::try_from(count).unwrap()) {
            range.append(*leaf);
        }
    }
}

#[test]
fn every_complete_node_is_reported_and_no_other() {
    let stored = Stored::new(EXHAUSTIVE);
    let mut expected = 0;
    for level in 0..=Node::MAX_LEVEL {
        for position in 0..EXHAUSTIVE >> level {
            let node = Node::new(level, position).unwrap();
            expected += 1;
            assert!(stored.nodes.contains_key(&node), "{node}");
            if let Some((left, right)) = node.children() {
                let joined = node_hash(&stored.nodes[&left], &stored.nodes[&right]);
                assert_eq!(stored.nodes[&node], joined);
            }
        }
    }
    assert_eq!(stored.nodes.len(), expected);
}

#[test]
fn every_inclusion_proof_verifies_and_no_forgery_does() {
    let stored = Stored::new(EXHAUSTIVE);
    for count in 1..=EXHAUSTIVE {
        let root = stored.root(count);
        for at in 0..count {
            let proof = prove_inclusion(index(at), size(count), &stored).unwrap();
            let leaf = stored.leaf(at);
            let verify = |leaf: &Hash, at: u64, proof: &[Hash], root: &Hash| {
                verify_inclusion(leaf, index(at), size(count), proof, root)
            };
            assert_eq!(verify(leaf, at, &proof, root), Ok(()), "leaf {at} of {count}");
            for forged in forgeries(&proof, at + count) {
                assert!(verify(leaf, at, &forged, root).is_err(), "leaf {at} of {count}");
            }
            for other in [at ^ 1, at + 1, count - 1 - at, count] {
                assert!(other == at || verify(leaf, other, &proof, root).is_err(), "leaf {at} as {other} of {count}");
            }
            assert!(verify(&flipped(leaf), at, &proof, root).is_err());
            assert!(verify(leaf, at, &proof, &flipped(root)).is_err());
        }
    }
}

#[test]
fn every_inclusion_proof_holds_the_tree_before_its_leaf_and_no_forgery_does() {
    let stored = Stored::new(EXHAUSTIVE);
    for count in 1..=EXHAUSTIVE {
        let root = stored.root(count);
        let mut before = CompactRange::new();
        for at in 0..count {
            let proof = prove_inclusion(index(at), size(count), &stored).unwrap();
            let leaf = stored.leaf(at);
            let prefix = |leaf: &Hash, proof: &[Hash]| verify_prefix(leaf, index(at), size(count), proof, root);
            assert_eq!(prefix(leaf, &proof).as_ref(), Ok(&before), "leaf {at} of {count}");
            assert!(forgeries(&proof, at + count).iter().all(|forged| prefix(leaf, forged).is_err()));
            assert!(prefix(&flipped(leaf), &proof).is_err());
            before.append(*leaf);
        }
    }
}

#[test]
fn every_consistency_proof_verifies_and_no_forgery_does() {
    let stored = Stored::new(EXHAUSTIVE);
    for new in 1..=EXHAUSTIVE {
        let new_root = stored.root(new);
        for old in 1..=new {
            let proof = prove_consistency(size(old), size(new), &stored).unwrap();
            let old_root = stored.root(old);
            let verify = |old: u64, old_root: &Hash, proof: &[Hash], new_root: &Hash| {
                verify_consistency(size(old), old_root, size(new), new_root, proof)
            };
            assert_eq!(verify(old, old_root, &proof, new_root), Ok(()), "{old} to {new}");
            for forged in forgeries(&proof, old + new) {
                assert!(verify(old, old_root, &forged, new_root).is_err(), "{old} to {new}");
            }
            for other in [0, old - 1, old + 1, new + 1] {
                assert!(verify(other, old_root, &proof, new_root).is_err(), "{old} as {other}");
            }
            assert!(verify(old, &flipped(old_root), &proof, new_root).is_err());
            assert!(verify(old, old_root, &proof, &flipped(new_root)).is_err());
            assert!(old == new || verify(old, new_root, &proof, old_root).is_err());
        }
    }
}

#[test]
fn a_proof_is_one_read_and_an_empty_proof_none() {
    let stored = Stored::new(20);
    prove_inclusion(index(3), size(20), &stored).unwrap();
    assert_eq!(stored.reads.get(), 1);
    prove_consistency(size(3), size(19), &stored).unwrap();
    assert_eq!(stored.reads.get(), 2);
    assert_eq!(prove_inclusion(index(0), size(1), &stored), Ok(Vec::new()));
    assert_eq!(prove_consistency(size(7), size(7), &stored), Ok(Vec::new()));
    assert_eq!(root_at(size(0), &stored), Ok(empty_root()));
    assert_eq!(stored.reads.get(), 2);
}

#[test]
fn plans_name_the_nodes_from_the_bottom_up() {
    let plan =
        |nodes: &[(u8, u64)]| Some(nodes.iter().map(|(level, at)| Node::new(*level, *at).unwrap()).collect::<Vec<_>>());
    // RFC 6962 2.1.3: the paths of leaves 0, 3, 4 and 6, and the proofs from 3, 4 and 6 to 7.
    let seven = size(7);
    assert_eq!(inclusion_nodes(index(0), seven), plan(&[(0, 1), (1, 1), (1, 2), (0, 6)]));
    assert_eq!(inclusion_nodes(index(3), seven), plan(&[(0, 2), (1, 0), (1, 2), (0, 6)]));
    assert_eq!(inclusion_nodes(index(4), seven), plan(&[(0, 5), (0, 6), (2, 0)]));
    assert_eq!(inclusion_nodes(index(6), seven), plan(&[(1, 2), (2, 0)]));
    assert_eq!(consistency_nodes(size(3), seven), plan(&[(0, 2), (0, 3), (1, 0), (1, 2), (0, 6)]));
    assert_eq!(consistency_nodes(size(4), seven), plan(&[(1, 2), (0, 6)]));
    assert_eq!(consistency_nodes(size(6), seven), plan(&[(1, 2), (0, 6), (2, 0)]));
    assert_eq!(inclusion_nodes(index(7), seven), None);
    assert_eq!(consistency_nodes(size(0), seven), None);
    assert_eq!(consistency_nodes(size(8), seven), None);
}

#[test]
fn a_prover_refuses_what_no_tree_has_and_a_reader_that_fails() {
    let stored = Stored::new(6);
    assert_eq!(
        prove_inclusion(index(5), size(5), &stored),
        Err(ProveError::LeafBeyondSize { index: index(5), size: size(5) })
    );
    for (old, new) in [(0, 5), (6, 5), (0, 0)] {
        assert_eq!(
            prove_consistency(size(old), size(new), &stored),
            Err(ProveError::BadSizes { old: size(old), new: size(new) })
        );
    }
    let missing = Node::new(0, 6).unwrap();
    assert_eq!(prove_inclusion(index(0), size(7), &stored), Err(ProveError::Read(missing)));
    for found in [0, 3, 5] {
        assert_eq!(
            prove_inclusion(index(0), size(7), &Miscounting(found)),
            Err(ProveError::WrongCount { expected: 4, found })
        );
    }
}

#[test]
fn each_refusal_says_why() {
    let stored = Stored::new(7);
    let (leaf, root) = (stored.leaf(2), stored.root(7));
    let proof = prove_inclusion(index(2), size(7), &stored).unwrap();
    let inclusion = |at: u64, of: u64, proof: &[Hash]| verify_inclusion(leaf, index(at), size(of), proof, root);
    assert_eq!(inclusion(7, 7, &proof), Err(ProofError::IndexBeyondSize { index: index(7), size: size(7) }));
    assert_eq!(inclusion(0, 0, &[]), Err(ProofError::IndexBeyondSize { index: index(0), size: size(0) }));
    assert_eq!(inclusion(2, 7, &proof[1..]), Err(ProofError::WrongLength { expected: 3, found: 2 }));
    assert!(matches!(inclusion(3, 7, &proof), Err(ProofError::RootMismatch { given, .. }) if given == *root));

    let old_root = stored.root(5);
    let proof = prove_consistency(size(5), size(7), &stored).unwrap();
    let consistency = |old: u64, old_root: &Hash, new: u64, proof: &[Hash]| {
        verify_consistency(size(old), old_root, size(new), root, proof)
    };
    assert_eq!(consistency(0, &empty_root(), 7, &[]), Err(ProofError::OldSizeZero));
    assert_eq!(consistency(0, &empty_root(), 0, &[]), Err(ProofError::OldSizeZero));
    assert_eq!(consistency(8, old_root, 7, &proof), Err(ProofError::SizesReversed { old: size(8), new: size(7) }));
    assert_eq!(consistency(7, root, 7, &proof), Err(ProofError::WrongLength { expected: 0, found: proof.len() }));
    assert_eq!(consistency(7, old_root, 7, &[]), Err(ProofError::RootMismatch { given: *root, computed: *old_root }));
    assert_eq!(consistency(5, root, 7, &proof), Err(ProofError::OldRootMismatch { given: *root, computed: *old_root }));
}

#[test]
fn the_largest_trees_are_proved_and_verified() {
    let leaf = leaf_hash(b"again");
    let reader = Repeated::new(leaf);
    let high = 1 << 63;
    let sizes = [1, 2, 3, high / 2 + 1, high - 2, high - 1, high, high + 1, high + 2, u64::MAX - 1, u64::MAX];
    for new in sizes {
        let new_root = root_at(size(new), &reader).unwrap();
        for at in sizes.into_iter().flat_map(|other| [other - 1, other]).filter(|at| *at < new) {
            let proof = prove_inclusion(index(at), size(new), &reader).unwrap();
            let verify = |proof: &[Hash]| verify_inclusion(&leaf, index(at), size(new), proof, &new_root);
            assert_eq!(verify(&proof), Ok(()), "leaf {at} of {new}");
            assert!(verify(&[&proof[..], &[leaf]].concat()).is_err());
            assert!(proof.is_empty() || verify(&proof[1..]).is_err());
            let before = verify_prefix(&leaf, index(at), size(new), &proof, &new_root).unwrap();
            assert_eq!((before.size(), before.root()), (size(at), root_at(size(at), &reader).unwrap()));
        }
        for old in sizes.into_iter().filter(|old| *old <= new) {
            let old_root = root_at(size(old), &reader).unwrap();
            let proof = prove_consistency(size(old), size(new), &reader).unwrap();
            let verify = |proof: &[Hash]| verify_consistency(size(old), &old_root, size(new), &new_root, proof);
            assert_eq!(verify(&proof), Ok(()), "{old} to {new}");
            assert!(verify(&[&proof[..], &[leaf]].concat()).is_err());
            assert!(proof.is_empty() || verify(&proof[1..]).is_err());
        }
    }
    let longest = prove_consistency(size(3), size(u64::MAX), &reader).unwrap();
    assert_eq!(longest.len(), 65);
}

#[test]
fn a_garbage_proof_of_any_length_between_any_sizes_is_refused() {
    let high = 1 << 63;
    let edges = [0, 1, 2, 3, high - 1, high, high + 1, u64::MAX - 1, u64::MAX];
    let garbage = [Hash::new([0x5a; 32]); 70];
    let (one, other) = (leaf_hash(b"one"), leaf_hash(b"other"));
    for length in 0..garbage.len() {
        let proof = &garbage[..length];
        for left in edges {
            for right in edges {
                assert!(verify_inclusion(&one, index(left), size(right), proof, &other).is_err());
                assert!(verify_consistency(size(left), &one, size(right), &other, proof).is_err());
            }
        }
    }
}

#[test]
fn a_range_grows_up_to_the_last_size() {
    let leaf = leaf_hash(b"again");
    let reader = Repeated::new(leaf);
    for start in [(1 << 63) - 2, u64::MAX - 2] {
        let mut range = CompactRange::from_peaks(size(start), peaks_at(size(start), &reader).unwrap()).unwrap();
        for grown in [start + 1, start + 2] {
            range.append_observed(leaf, &mut |node, hash| {
                assert_eq!(node.end(), size(grown));
                assert_eq!(hash, reader.0[usize::from(node.level())]);
            });
            assert_eq!(range.size(), size(grown));
            assert_eq!(root_at(size(grown), &reader), Ok(range.root()));
        }
    }
}

#[test]
#[should_panic(expected = "at most 2^64 - 1 leaves")]
fn a_range_does_not_grow_past_the_last_size() {
    let peaks = vec![Hash::new([0; 32]); 64];
    CompactRange::from_peaks(size(u64::MAX), peaks).unwrap().append(leaf_hash(b""));
}

#[test]
fn a_range_needs_one_peak_for_each_bit() {
    let hash = Hash::new([1; 32]);
    for (of, found, expected) in [(0, 1, 0), (5, 1, 2), (5, 3, 2), (u64::MAX, 65, 64)] {
        assert_eq!(
            CompactRange::from_peaks(size(of), vec![hash; found]),
            Err(WrongPeaks { size: size(of), expected, found })
        );
    }
}

#[test]
fn ranges_are_equal_by_size_and_peaks_only() {
    let mut grown = CompactRange::new();
    for position in 0..8 {
        grown.append(leaf_hash(&record(position)));
    }
    let fresh = CompactRange::from_peaks(grown.size(), grown.peaks().to_vec()).unwrap();
    assert_eq!(grown, fresh);
    assert_ne!(grown, CompactRange::new());
    assert_eq!(CompactRange::default(), CompactRange::new());
}

#[test]
fn nodes_end_at_a_size() {
    for (level, at) in [(64, 0), (255, 0), (63, 1), (62, 3), (1, u64::MAX >> 1), (0, u64::MAX)] {
        assert_eq!(Node::new(level, at), None, "node {at} of level {level}");
    }
    let last = Node::new(0, u64::MAX - 1).unwrap();
    assert_eq!(last.end(), size(u64::MAX));
    assert_eq!((last.sibling(), last.parent()), (None, None));
    let highest = Node::new(63, 0).unwrap();
    assert_eq!(highest.end(), size(1 << 63));
    assert_eq!((highest.sibling(), highest.parent()), (None, None));

    let node = Node::new(3, 5).unwrap();
    assert_eq!((node.first_leaf(), node.end()), (index(40), size(48)));
    let (left, right) = node.children().unwrap();
    assert_eq!((left.first_leaf(), left.end()), (index(40), size(44)));
    assert_eq!((right.first_leaf(), right.end()), (index(44), size(48)));
    assert_eq!((left.sibling(), right.sibling()), (Some(right), Some(left)));
    assert_eq!((left.parent(), right.parent()), (Some(node), Some(node)));
    assert_eq!(Node::leaf(index(9)).and_then(Node::children), None);
}

#[test]
fn hash_texts_are_read_only_as_they_are_written() {
    let hash = leaf_hash(b"text");
    let hex = hash.to_string();
    assert_eq!(format!("{hash:?}"), hex);
    assert_eq!(Hash::from_hex(&hex), Some(hash));
    for text in ["", &hex[1..], &format!("{hex}0"), &format!("{hex}00"), &hex.to_uppercase()] {
        assert_eq!(Hash::from_hex(text), None, "{text}");
    }
    assert_eq!(Hash::from_hex(&hex.replacen(|_: char| true, "g", 1)), None);
    assert_eq!(Hash::from_hex(&hex.replacen(|_: char| true, "+", 1)), None);

    let base64 = Hash::new([0xff; 32]).to_base64();
    assert_eq!(base64, "//////////////////////////////////////////8=");
    assert_eq!(Hash::from_base64(&base64), Some(Hash::new([0xff; 32])));
    for text in [
        "",
        "//////////////////////////////////////////8",
        "//////////////////////////////////////////9=",
        "__________________________________________8=",
        "//////////////////////////////////////////8=\n",
        "////////////////////////////////////////////",
        "/////////////////////////////////////////w==",
        " /////////////////////////////////////////8=",
    ] {
        assert_eq!(Hash::from_base64(text), None, "{text:?}");
    }
}

mod differential;
