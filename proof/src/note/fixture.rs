//! Keys and notes that the tests of several modules share. The bytes were made by another implementation
//! (Python's `cryptography`) from the seeds and values below.

use std::collections::BTreeMap;

use crate::checkpoint::{Checkpoint, Origin};
use crate::key::{KeyKind, KeyName, SigningKey};
use crate::number::{TreeSize, UnixSeconds};
use crate::tree::{leaf_hash, node_hash};

pub(crate) const ORIGIN: &str = "example.com/log";
pub(crate) const TIME: UnixSeconds = UnixSeconds::new(1_700_000_000);

pub(crate) const LOG_VKEY: &str =
    "example.com/log+9be5d3c6+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
pub(crate) const LOG_PRIVATE: &str =
    "PRIVATE+KEY+example.com/log+9be5d3c6+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
pub(crate) const COSIGNER_VKEY: &str =
    "example.com/log/site/local/n1+01e994e8+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";
pub(crate) const COSIGNER_PRIVATE: &str = "PRIVATE+KEY+example.com/log/site/local/n1+01e994e8+BAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";

/// The tree over the records `a`, `b`, `c`.
pub(crate) const CHECKPOINT: &str =
    "example.com/log\n3\nNmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\n";
pub(crate) const SIGNED: &str = "example.com/log
3
NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=

\u{2014} example.com/log m+XTxhos17CrPy7WVMie6JwAfofnklGFM07uLnKTApi/1s31NHvvx9llf+ueHqgoIPP62xjL1pUpGf2an2QB04hG4wA=
";
pub(crate) const COSIGNATURE: &str = "\u{2014} example.com/log/site/local/n1 AemU6AAAAABlU/EAKcTq1V8Qf/uNVGAYCIakcxayXXmRxRp5HAnUWHMjvHzAqGrbFxi8Bb4Ym2p+vUaDHTiOTFw8waGBv1jgzturAA==";
pub(crate) const POLICY: &str =
    "log example.com/log+9be5d3c6+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c
witness n1 example.com/log/site/local/n1+01e994e8+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU
group site-local any n1
group sites all site-local
quorum sites
";

/// [`SIGNED`] with the line [`COSIGNATURE`].
pub(crate) fn cosigned() -> String {
    format!("{SIGNED}{COSIGNATURE}\n")
}

pub(crate) fn key(name: &str, kind: KeyKind, seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyName::new(name).unwrap(), kind, [seed; 32])
}

pub(crate) fn log_key() -> SigningKey {
    key(ORIGIN, KeyKind::Ed25519, 1)
}

pub(crate) fn cosigner_key() -> SigningKey {
    key(
        "example.com/log/site/local/n1",
        KeyKind::CosignatureEd25519,
        2,
    )
}

pub(crate) fn checkpoint() -> Checkpoint {
    let pair = node_hash(&leaf_hash(b"a"), &leaf_hash(b"b"));
    Checkpoint {
        origin: Origin::new(ORIGIN).unwrap(),
        size: TreeSize::new(3),
        root: node_hash(&pair, &leaf_hash(b"c")),
    }
}

/// Every copy of these bytes in which one bit is another, by the number of the bit.
pub(crate) fn bit_flips(bytes: &[u8]) -> BTreeMap<usize, Vec<u8>> {
    (0..bytes.len() * 8)
        .map(|bit| (bit, flip(bytes, bit)))
        .collect()
}

pub(crate) fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}
