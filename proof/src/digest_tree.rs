//! The segment digest tree: BLAKE3 over the `self_hash`es of the records of a segment.
//!
//! | part | bytes |
//! |---|---|
//! | leaf | the 32-byte value itself, not hashed again |
//! | node | BLAKE3(0x01, left, right) |
//! | root | of one leaf, the leaf; of none, nothing |
//!
//! Level by level, neighbours are joined in pairs and an odd last node is carried up as it is: the
//! shape of the log tree of the same size (RFC 6962 2.1). A leaf and a node are both 32 bytes, and
//! nothing but the number of leaves tells them apart: a root means something only together with that
//! number.

use core::fmt;

use crate::record::SelfHash;
use crate::tree::{parse_lower_hex, write_lower_hex};

/// The first byte of what is hashed to a node.
const NODE_PREFIX: u8 = 0x01;
/// One peak for each bit of the number of leaves.
const MAX_PEAKS: usize = 64;
/// What the text of a digest starts with.
const TEXT_PREFIX: &str = "b3:";

/// 32 bytes of BLAKE3: of a record, of a file, or the root of a digest tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The length of a digest in bytes.
    pub const LEN: usize = 32;

    /// Wraps the plain bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The BLAKE3 of the bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The plain bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads exactly `b3:` and 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        parse_lower_hex(text.strip_prefix(TEXT_PREFIX)?).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TEXT_PREFIX)?;
        write_lower_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest tree over the leaves pushed so far, in space logarithmic in their number.
#[derive(Clone)]
pub struct DigestTree {
    leaves: u64,
    /// The roots of the perfect subtrees, the largest first, one for each 1 bit of `leaves`; the rest
    /// is left over.
    slots: [[u8; 32]; MAX_PEAKS],
}

impl DigestTree {
    /// The tree without leaves.
    pub const fn new() -> Self {
        Self { leaves: 0, slots: [[0; 32]; MAX_PEAKS] }
    }

    /// The number of leaves.
    pub const fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Adds a leaf on the right.
    pub fn push(&mut self, leaf: [u8; 32]) {
        let mut peaks = self.peaks().len();
        let mut node = leaf;
        for _ in 0..self.leaves.trailing_ones() {
            peaks -= 1;
            node = join(&self.slots[peaks], &node);
        }
        self.slots[peaks] = node;
        self.leaves += 1;
    }

    /// The root, or `None` without leaves.
    pub fn root(&self) -> Option<Digest> {
        let (last, larger) = self.peaks().split_last()?;
        Some(Digest(larger.iter().rev().fold(*last, |right, left| join(left, &right))))
    }

    fn peaks(&self) -> &[[u8; 32]] {
        let count = usize::try_from(self.leaves.count_ones()).expect("a u64 has 64 bits");
        &self.slots[..count]
    }
}

impl Default for DigestTree {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for DigestTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root();
        f.debug_struct("DigestTree").field("leaves", &self.leaves).field("root", &root).finish()
    }
}

/// The root over all leaves at once, its nodes hashed side by side; `None` without leaves.
pub fn root_of(leaves: &[[u8; 32]]) -> Option<Digest> {
    let mut level = leaves.to_vec();
    let mut hashes = Vec::new();
    while level.len() > 1 {
        let (pairs, odd) = level.as_chunks::<2>();
        hashes.clear();
        for pairs in pairs.chunks(64) {
            let nodes: Vec<[u8; 65]> = pairs.iter().map(|[left, right]| node(left, right)).collect();
            let inputs: Vec<&[u8]> = nodes.iter().map(<[u8; 65]>::as_slice).collect();
            SelfHash::of_many(&inputs, &mut hashes);
        }
        let odd = odd.first().copied();
        level = hashes.iter().map(|hash| *hash.as_bytes()).chain(odd).collect();
    }
    level.first().copied().map(Digest)
}

fn join(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    blake3::hash(&node(left, right)).into()
}

/// What is hashed to a node.
fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 65] {
    let mut bytes = [NODE_PREFIX; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Blake3;

    impl rs_merkle::Hasher for Blake3 {
        type Hash = [u8; 32];

        fn hash(data: &[u8]) -> [u8; 32] {
            blake3::hash(data).into()
        }

        fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
            right.map_or(*left, |right| Self::hash(&[&[0x01][..], left, right].concat()))
        }
    }

    fn leaf(position: u64) -> [u8; 32] {
        *Digest::of(&position.to_be_bytes()).as_bytes()
    }

    #[test]
    fn rs_merkle_makes_the_same_root_at_every_size() {
        let mut tree = DigestTree::new();
        let mut leaves = Vec::new();
        assert_eq!((tree.root(), root_of(&[])), (None, None));
        for position in 0..600 {
            tree.push(leaf(position));
            leaves.push(leaf(position));
            let theirs = rs_merkle::MerkleTree::<Blake3>::from_leaves(&leaves);
            assert_eq!(tree.root().map(|root| *root.as_bytes()), theirs.root(), "{position}");
            assert_eq!(tree.root(), root_of(&leaves), "{position}");
            assert_eq!(tree.leaves(), position + 1);
        }
    }

    #[test]
    fn leaves_are_used_as_they_are_and_odd_ones_carried_up() {
        let node = |left: &[u8; 32], right: &[u8; 32]| *Digest::of(&[&[0x01][..], left, right].concat()).as_bytes();
        let mut tree = DigestTree::default();
        tree.push(leaf(0));
        assert_eq!(tree.root(), Some(Digest::new(leaf(0))));
        tree.push(leaf(1));
        tree.push(leaf(2));
        assert_eq!(tree.root(), Some(Digest(node(&node(&leaf(0), &leaf(1)), &leaf(2)))));
    }

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(b"").to_string(), "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }

    #[test]
    fn a_digest_is_read_only_as_it_is_written() {
        let digest = Digest::of(b"text");
        let text = digest.to_string();
        assert_eq!(format!("{digest:?}"), text);
        assert_eq!(Digest::parse(&text), Some(digest));
        for wrong in [
            "",
            "b3:",
            "b3:0",
            &text[3..],
            &text[..66],
            &format!("{text}0"),
            &format!("{text}00"),
            &text.to_uppercase(),
            &text.replace("b3:", "B3:"),
            &text.replace("b3:", "b3: "),
            &format!("b3:{}", text[3..].to_uppercase()),
            &format!("b3:+{}", &text[4..]),
            &format!("b3:{text}"),
        ] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }
}
