use proptest::prelude::*;

use super::*;
use crate::note::fixture::{COSIGNATURE, POLICY, SIGNED, bit_flips, cosigned};
use crate::number::TreeSize;
use crate::tree::leaf_hash;

const HEAD: &str = "c2sp.org/tlog-proof@v1
extra aGVsbG8=
index 1
Aippeebat6pa5MPl5F9+l3ESp+Y1k4INvsHsc4ok+Tw=
WX/LMSgtNGVMIA00GPylcFxkjr8ybsc9jd7xGEH4dtg=

";

/// The golden file: record `b` of the records `a`, `b`, `c`.
fn golden() -> String {
    format!("{HEAD}{SIGNED}{COSIGNATURE}\n")
}

fn proof_file() -> ProofFile {
    let hashes = vec![leaf_hash(b"a"), leaf_hash(b"c")];
    ProofFile::new(
        Some(b"hello".to_vec()),
        LeafIndex::new(1),
        hashes,
        cosigned(),
    )
    .unwrap()
}

fn policy() -> Policy {
    Policy::parse(POLICY.as_bytes()).unwrap()
}

#[test]
fn golden_file_both_ways() {
    assert_eq!(proof_file().to_string(), golden());
    let parsed = ProofFile::parse(golden().as_bytes()).unwrap();
    assert_eq!(parsed, proof_file());
    assert_eq!(parsed.extra(), Some(b"hello".as_slice()));
    assert_eq!(parsed.index(), LeafIndex::new(1));
    assert_eq!(parsed.hashes(), [leaf_hash(b"a"), leaf_hash(b"c")]);
    assert_eq!(parsed.checkpoint(), cosigned());

    let without = golden().replace("extra aGVsbG8=\n", "");
    let parsed = ProofFile::parse(without.as_bytes()).unwrap();
    assert_eq!((parsed.extra(), parsed.to_string()), (None, without));
}

#[test]
fn a_leaf_is_proven_at_its_index_only() {
    let verified = proof_file().verify(&leaf_hash(b"b"), &policy()).unwrap();
    assert_eq!(verified.checkpoint().size, TreeSize::new(3));
    for leaf in [b"a", b"c", b"d"] {
        let refused = proof_file().verify(&leaf_hash(leaf), &policy());
        assert!(matches!(
            refused,
            Err(ProofFileError::Inclusion(ProofError::RootMismatch { .. }))
        ));
    }
    for index in [0, 2, 3, u64::MAX - 1, u64::MAX] {
        let moved = ProofFile {
            index: LeafIndex::new(index),
            ..proof_file()
        };
        let refused = moved.verify(&leaf_hash(b"b"), &policy());
        assert!(
            matches!(refused, Err(ProofFileError::Inclusion(_))),
            "{index}"
        );
    }
    for hashes in [
        vec![],
        vec![leaf_hash(b"a")],
        vec![leaf_hash(b"a"); MAX_HASHES],
    ] {
        let other = ProofFile {
            hashes,
            ..proof_file()
        };
        let refused = other.verify(&leaf_hash(b"b"), &policy());
        assert!(matches!(
            refused,
            Err(ProofFileError::Inclusion(ProofError::WrongLength { .. }))
        ));
    }
}

#[test]
fn the_policy_decides_first() {
    let unsigned = ProofFile {
        checkpoint: SIGNED.to_owned(),
        ..proof_file()
    };
    let refused = unsigned.verify(&leaf_hash(b"b"), &policy());
    assert!(matches!(
        refused,
        Err(ProofFileError::Policy(PolicyError::QuorumNotMet { .. }))
    ));
    let nobody = Policy::parse(b"quorum none\n").unwrap();
    let refused = proof_file().verify(&leaf_hash(b"b"), &nobody);
    assert!(matches!(
        refused,
        Err(ProofFileError::Policy(PolicyError::NoLogSignature { .. }))
    ));
}

/// Only the extra data, which nothing authenticates, may be another.
#[test]
fn every_bit_flip_is_refused_or_in_the_extra_data() {
    let policy = policy();
    for (bit, bytes) in bit_flips(golden().as_bytes()) {
        let Ok(parsed) = ProofFile::parse(&bytes) else {
            continue;
        };
        if parsed.verify(&leaf_hash(b"b"), &policy).is_ok() {
            assert_ne!(parsed.extra(), Some(b"hello".as_slice()), "bit {bit}");
            assert_eq!(
                ProofFile {
                    extra: proof_file().extra,
                    ..parsed
                },
                proof_file(),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn malformed_files_are_refused() {
    let good = golden();
    let no_extra = good.replace("extra aGVsbG8=\n", "");
    let hash = "WX/LMSgtNGVMIA00GPylcFxkjr8ybsc9jd7xGEH4dtg=";
    let index = |line| ProofFileError::Index { line };
    let missing = |line| ProofFileError::Missing { line };
    let cases = [
        (String::new(), ProofFileError::Header),
        (format!("\n{good}"), ProofFileError::Header),
        (good.replace("@v1", "@v2"), ProofFileError::Header),
        (good.replace('\n', "\r\n"), ProofFileError::Header),
        (HEADER.to_owned(), missing(2)),
        (format!("{HEADER}extra aGVsbG8="), missing(2)),
        (format!("{HEADER}index 1"), missing(2)),
        (format!("{HEADER}extra aGVsbG8=\nindex 1"), missing(3)),
        (HEAD.trim_end().to_owned(), missing(5)),
        (
            good.replace("aGVsbG8=", "aGVsbG9="),
            ProofFileError::ExtraText,
        ),
        (
            good.replace("aGVsbG8=", "aGVsbG8"),
            ProofFileError::ExtraText,
        ),
        (
            good.replace("aGVsbG8=", " aGVsbG8="),
            ProofFileError::ExtraText,
        ),
        (
            good.replace("aGVsbG8=", ""),
            ProofFileError::ExtraLength {
                found: 0,
                limit: MAX_EXTRA_BYTES,
            },
        ),
        (good.replace("index 1", "extra aGVsbG8=\nindex 1"), index(3)),
        (good.replace("extra", "Extra"), index(2)),
        (good.replace("index 1", "index"), index(3)),
        (good.replace("index 1", "index "), index(3)),
        (good.replace("index 1", "index 01"), index(3)),
        (good.replace("index 1", "index +1"), index(3)),
        (good.replace("index 1", "index -1"), index(3)),
        (good.replace("index 1", "index  1"), index(3)),
        (good.replace("index 1", "index 1 "), index(3)),
        (
            no_extra.replace("index 1", "index 18446744073709551616"),
            index(2),
        ),
        (no_extra.replace("index 1\n", ""), index(2)),
        (
            good.replace(hash, &hash[1..]),
            ProofFileError::Hash { line: 5 },
        ),
        (
            good.replace(hash, &hash.replace("g=", "h=")),
            ProofFileError::Hash { line: 5 },
        ),
        (
            good.replace(hash, &format!("{hash} ")),
            ProofFileError::Hash { line: 5 },
        ),
        (good.replace(hash, "AAAA"), ProofFileError::Hash { line: 5 }),
        // Without the empty line the checkpoint is read as hashes.
        (
            good.replace("dtg=\n\n", "dtg=\n"),
            ProofFileError::Hash { line: 6 },
        ),
        // With one too many, or with lines after it, it is no checkpoint.
        (
            good.replace("dtg=\n\n", "dtg=\n\n\n"),
            ProofFileError::Checkpoint(CheckpointError::Extension),
        ),
        (
            format!("{good}\n"),
            ProofFileError::Note(NoteError::NoSignature),
        ),
        (
            HEAD.to_owned(),
            ProofFileError::Note(NoteError::NoFinalLineFeed),
        ),
    ];
    for (text, error) in cases {
        assert_eq!(ProofFile::parse(text.as_bytes()), Err(error), "{text}");
    }
    let not_utf8 = [HEADER.as_bytes(), &[0xff]].concat();
    let error = ProofFileError::NotUtf8 { at: HEADER.len() };
    assert_eq!(ProofFile::parse(&not_utf8), Err(error));
}

#[test]
fn lengths_are_bounded() {
    let huge = vec![b'\n'; MAX_PROOF_FILE_BYTES + 1];
    assert!(matches!(
        ProofFile::parse(&huge),
        Err(ProofFileError::TooLong { .. })
    ));
    let with = |extra, hashes| ProofFile::new(extra, LeafIndex::new(1), hashes, cosigned());
    let hashes = |count| vec![leaf_hash(b"a"); count];
    let error = ProofFileError::TooManyHashes { limit: MAX_HASHES };
    assert_eq!(with(None, hashes(MAX_HASHES + 1)), Err(error.clone()));
    let full = with(Some(vec![7; MAX_EXTRA_BYTES]), hashes(MAX_HASHES)).unwrap();
    assert_eq!(ProofFile::parse(full.to_string().as_bytes()).unwrap(), full);
    let one_more = full
        .to_string()
        .replace("\n\n", &format!("\n{}\n\n", leaf_hash(b"a").to_base64()));
    assert_eq!(ProofFile::parse(one_more.as_bytes()), Err(error));
    for found in [0, MAX_EXTRA_BYTES + 1] {
        let error = ProofFileError::ExtraLength {
            found,
            limit: MAX_EXTRA_BYTES,
        };
        assert_eq!(with(Some(vec![7; found]), hashes(1)), Err(error));
    }
}

proptest! {
    #[test]
    fn prop_proof_file_round_trip(
        extra in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..100)),
        index in any::<u64>(),
        hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..=MAX_HASHES),
    ) {
        let hashes = hashes.into_iter().map(Hash::new).collect();
        let file = ProofFile::new(extra, LeafIndex::new(index), hashes, cosigned()).unwrap();
        let text = file.to_string();
        prop_assert_eq!(ProofFile::parse(text.as_bytes()).unwrap(), file);
    }
}
