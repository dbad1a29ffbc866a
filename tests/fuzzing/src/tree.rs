//! Proofs against the algorithms in the text of RFC 9162, the digest tree, and the bytes of tiles.

use core::convert::Infallible;

use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::tile::{EntryBundle, TileWidth, decode_tile, encode_bundle, encode_tile};
use stele_proof::tree::{
    CompactRange, Hash, Node, NodeReader, node_hash, prove_consistency, prove_inclusion, root_at, verify_consistency,
    verify_inclusion,
};
use stele_proof::{LeafIndex, TreeSize};

/// Most hashes that an input is taken for: more than any proof has.
const MAX_PROOF_HASHES: usize = 70;

/// Any sizes and hashes: the verifiers answer as RFC 9162 does. Three numbers (index, old size, size), a
/// leaf or old root, and a proof.
pub(crate) fn proofs(data: &[u8]) {
    let mut rest = data;
    let [index, old, size] = [(); 3].map(|()| u64::from_le_bytes(take(&mut rest)));
    let leaf = Hash::new(take(&mut rest));
    let hashes = rest.chunks(Hash::LEN).take(MAX_PROOF_HASHES).map(|mut chunk| Hash::new(take(&mut chunk)));
    let proof: Vec<Hash> = hashes.collect();
    let (index, old, size) = (LeafIndex::new(index), TreeSize::new(old), TreeSize::new(size));

    let verified = |root: &Hash| verify_inclusion(&leaf, index, size, &proof, root).is_ok();
    match rfc_inclusion(&leaf, index.get(), size.get(), &proof) {
        Some(root) => assert!(verified(&root) && !verified(&other(&root)), "inclusion of {index} in {size}"),
        None => assert!(!verified(&leaf), "inclusion of {index} in {size}"),
    }
    let verified = |first: &Hash, second: &Hash| verify_consistency(old, first, size, second, &proof).is_ok();
    match rfc_consistency(&leaf, old.get(), size.get(), &proof) {
        Some((first, second)) => {
            assert!(verified(&first, &second), "consistency of {old} and {size}");
            assert!(!verified(&other(&first), &second) && !verified(&first, &other(&second)));
        }
        None => assert!(!verified(&leaf, &leaf), "consistency of {old} and {size}"),
    }
    uniform(leaf, index, old, size);
}

/// A tree all of whose leaves are the same: of any size, its nodes are known by their level alone.
struct Uniform([Hash; 64]);

impl NodeReader for Uniform {
    type Error = Infallible;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Infallible> {
        assert!((1..=128).contains(&nodes.len()), "the contract of NodeReader");
        Ok(nodes.iter().map(|node| self.0[usize::from(node.level())]).collect())
    }
}

/// What is proved verifies, at any size.
fn uniform(leaf: Hash, index: LeafIndex, old: TreeSize, size: TreeSize) {
    let mut levels = [leaf; 64];
    for level in 1..levels.len() {
        levels[level] = node_hash(&levels[level - 1], &levels[level - 1]);
    }
    let reader = Uniform(levels);
    let [old_root, root] = [old, size].map(|size| root_at(size, &reader).expect("it cannot fail"));
    let proof = prove_inclusion(index, size, &reader);
    assert_eq!(proof.is_ok(), size.contains(index));
    if let Ok(proof) = proof {
        assert!(proof.len() <= 64);
        assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
    }
    let proof = prove_consistency(old, size, &reader);
    assert_eq!(proof.is_ok(), old.get() > 0 && old <= size);
    if let Ok(proof) = proof {
        assert!(proof.len() <= 65);
        assert_eq!(verify_consistency(old, &old_root, size, &root, &proof), Ok(()));
    }
    let peaks = stele_proof::tree::peaks_at(size, &reader).expect("it cannot fail");
    let range = CompactRange::from_peaks(size, peaks).expect("one for each bit");
    assert_eq!(range.root(), root);
}

/// The root that a proof leads to (RFC 9162 2.1.3.2); `None` where the algorithm fails before it compares.
fn rfc_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    let (mut at, mut last) = (index, size.checked_sub(1).filter(|last| index <= *last)?);
    let mut root = *leaf;
    for hash in proof {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            root = node_hash(hash, &root);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            root = node_hash(&root, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some(root)
}

/// The old and the new root that a proof leads to (RFC 9162 2.1.4.2), of which `given` is the old one where
/// the proof does not name it.
fn rfc_consistency(given: &Hash, old: u64, size: u64, proof: &[Hash]) -> Option<(Hash, Hash)> {
    if old == 0 || old > size {
        return None;
    }
    if old == size {
        return proof.is_empty().then_some((*given, *given));
    }
    let mut path = proof.to_vec();
    if path.is_empty() {
        return None;
    }
    if old.is_power_of_two() {
        path.insert(0, *given);
    }
    let (mut at, mut last) = (old - 1, size - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut first, mut second) = (path[0], path[0]);
    for hash in &path[1..] {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            first = node_hash(hash, &first);
            second = node_hash(hash, &second);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            second = node_hash(&second, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    (last == 0).then_some((first, second))
}

/// A hash that differs from this one.
fn other(hash: &Hash) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[31] ^= 1;
    Hash::new(bytes)
}

/// The next bytes, filled up with zeros.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (now, after) = rest.split_at(rest.len().min(N));
    bytes[..now.len()].copy_from_slice(now);
    *rest = after;
    bytes
}

/// The digest tree has the root that its definition gives, and a digest has one text.
pub(crate) fn digest_tree(data: &[u8]) {
    let mut tree = DigestTree::new();
    let leaves: Vec<[u8; 32]> = data.chunks(32).take(300).map(|mut chunk| take(&mut chunk)).collect();
    for leaf in &leaves {
        tree.push(*leaf);
    }
    assert_eq!(tree.leaves(), leaves.len() as u64);
    assert_eq!(tree.root().map(|root| *root.as_bytes()), level_by_level(leaves));
    if let Ok(text) = core::str::from_utf8(data)
        && let Some(digest) = Digest::parse(text)
    {
        assert_eq!(digest.to_string(), text);
    }
}

/// Neighbours are joined in pairs, an odd last one is carried up.
fn level_by_level(mut level: Vec<[u8; 32]>) -> Option<[u8; 32]> {
    while level.len() > 1 {
        let join = |pair: &[[u8; 32]]| match pair {
            [left, right] => *blake3::hash(&[&[1], &left[..], right].concat()).as_bytes(),
            rest => rest[0],
        };
        level = level.chunks(2).map(join).collect();
    }
    level.first().copied()
}

/// Hash tiles and entry bundles: two bytes of width, then the file.
pub(crate) fn tile_bytes(data: &[u8]) {
    let mut rest = data;
    let Some(width) = TileWidth::new(u16::from_le_bytes(take(&mut rest))) else { return };
    if let Ok(hashes) = decode_tile(width, rest) {
        assert_eq!(hashes.len(), usize::from(width.get()));
        assert_eq!(encode_tile(&hashes).as_deref(), Ok(rest));
    }
    if let Ok(bundle) = EntryBundle::decode(width, rest) {
        assert_eq!(bundle.iter().count(), usize::from(width.get()));
        assert_eq!(encode_bundle(&bundle).as_deref(), Ok(rest));
    }
}
