//! The same trees and proofs by `ct-merkle`, `rs_merkle` and `tlog_tiles`.
//!
//! `rs_merkle` is given all leaves at once, and its own verification is never asked: it accepts what
//! it should not.

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof};
use sha2::Sha256;

use super::*;

const SIZES: u64 = 300;

#[derive(Clone)]
struct Rfc6962;

impl rs_merkle::Hasher for Rfc6962 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *leaf_hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        right.map_or(*left, |right| {
            use sha2::Digest as _;
            Sha256::digest([&[0x01][..], left, right].concat()).into()
        })
    }
}

fn concatenated(proof: &[Hash]) -> Vec<u8> {
    proof.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

#[test]
fn ct_merkle_makes_the_same_roots_and_proofs() {
    let stored = Stored::new(SIZES);
    let mut theirs = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    let mut roots = Vec::new();
    for count in 1..=SIZES {
        theirs.push(record(count - 1));
        let root = theirs.root();
        roots.push(root.clone());
        assert_eq!(root.as_bytes().as_slice(), stored.root(count).as_bytes());
        for at in 0..count {
            let ours = prove_inclusion(index(at), size(count), &stored).unwrap();
            let their_proof = theirs.prove_inclusion(usize::try_from(at).unwrap());
            assert_eq!(their_proof.as_bytes(), concatenated(&ours), "leaf {at} of {count}");
            let ours = InclusionProof::try_from_bytes(concatenated(&ours)).unwrap();
            root.verify_inclusion(&record(at), at, &ours).unwrap();
        }
        for old in 1..=count {
            let ours = prove_consistency(size(old), size(count), &stored).unwrap();
            let their_proof = theirs.prove_consistency(usize::try_from(count - old).unwrap());
            assert_eq!(their_proof.as_bytes(), concatenated(&ours), "{old} to {count}");
            let ours = ConsistencyProof::try_from_bytes(concatenated(&ours)).unwrap();
            root.verify_consistency(&roots[usize::try_from(old - 1).unwrap()], &ours).unwrap();
        }
    }
}

#[test]
fn rs_merkle_makes_the_same_roots_and_inclusion_proofs() {
    let stored = Stored::new(SIZES);
    let leaves: Vec<[u8; 32]> = stored.leaves.iter().map(|leaf| *leaf.as_bytes()).collect();
    for count in 1..=SIZES {
        let theirs = rs_merkle::MerkleTree::<Rfc6962>::from_leaves(&leaves[..usize::try_from(count).unwrap()]);
        assert_eq!(theirs.root().as_ref(), Some(stored.root(count).as_bytes()));
        // Asking rs_merkle for one proof copies its whole tree.
        for at in (0..count).step_by(if count < 70 { 1 } else { 7 }) {
            let ours = prove_inclusion(index(at), size(count), &stored).unwrap();
            let their_proof = theirs.proof(&[usize::try_from(at).unwrap()]);
            assert_eq!(their_proof.proof_hashes().concat(), concatenated(&ours), "{at} of {count}");
        }
    }
}

/// Our nodes, asked for by the stored hash index of golang.org/x/mod/sumdb/tlog.
struct Indexed<'a>(&'a Stored);

impl tlog_tiles::HashReader for Indexed<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes
            .iter()
            .map(|index| {
                let (level, at) = tlog_tiles::split_stored_hash_index(*index);
                tlog_tiles::Hash(*self.0.nodes[&Node::new(level, at).unwrap()].as_bytes())
            })
            .collect())
    }
}

#[test]
fn tlog_tiles_makes_the_same_roots_and_proofs_from_our_nodes() {
    let stored = Stored::new(SIZES);
    let reader = Indexed(&stored);
    let plain = |proof: Vec<tlog_tiles::Hash>| proof.into_iter().map(|h| Hash::new(h.0)).collect();
    for count in 1..=SIZES {
        let root = tlog_tiles::tree_hash(count, &reader).unwrap();
        assert_eq!(Hash::new(root.0), *stored.root(count));
        for at in 0..count {
            let theirs: Vec<Hash> = plain(tlog_tiles::prove_record(count, at, &reader).unwrap());
            assert_eq!(prove_inclusion(index(at), size(count), &stored), Ok(theirs));
            let theirs: Vec<Hash> = plain(tlog_tiles::prove_tree(count, at + 1, &reader).unwrap());
            assert_eq!(prove_consistency(size(at + 1), size(count), &stored), Ok(theirs));
        }
    }
}
