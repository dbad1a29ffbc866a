//! Every byte of a small log made with fixed time, randomness and keys.
//!
//! A value that changes here is a change of the format, which is a commit of its own. The only bytes that
//! depend on when a thread ran are the flush ring of the open segment and the clean mark, which counts
//! groups: how appends shared flushes. So every append here waits for its flush, and what an idle writer
//! confirms is masked: the ring of the open segment, group and checksum of the clean mark, and the process
//! id in the lock.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::path::Path;

use fixture::{files, fixed};
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::reader::LogReader;
use stele_proof::checkpoint::Origin;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject, Value};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};

/// Two segments: records with and without payload, a seal by hand, records after it; then a checkpoint.
fn make(environment: &Environment, path: &Path, frame_align: Alignment) -> String {
    let block_height = BlockHeight::new(8).unwrap();
    let origin = Origin::new("example.com/golden").unwrap();
    let options = CreateOptions { block_height, frame_align, ..CreateOptions::new(origin) };
    let mut log = LocalLog::create(environment, path, &options).unwrap();
    let attrs = Object::new(vec![("n".to_owned(), Value::Bool(true))]).unwrap();
    let push = |log: &mut LocalLog, number: u64, payload: Option<&[u8]>| {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(1_000_000 + number),
            writer_id: if number.is_multiple_of(3) { "w" } else { "v" },
            stream: "s",
            kind: "Golden",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject { name: Some("thing"), ..Subject::default() },
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        let salt = Salt::new(environment.random().unwrap());
        let draft = Submission::Draft { builder: &builder, payload: payload.map(|bytes| (&salt, bytes)) };
        log.push(&draft).unwrap();
    };
    for number in 0..10 {
        let payload = format!("payload {number}");
        push(&mut log, number, (number != 4).then_some(payload.as_bytes()));
        if number % 4 == 3 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
    log.end_segment().unwrap();
    for number in 10..13 {
        push(&mut log, number, None);
        log.flush().unwrap();
    }
    log.close().unwrap();
    stele_engine::checkpointing::make_checkpoint(environment, path).unwrap()
}

/// Name and BLAKE3 of every file, what depends on threads masked.
fn digests(path: &Path) -> Vec<String> {
    let mut found = files(path);
    let masked: [(&str, &[(usize, usize)]); 3] = [
        // The ring.
        ("segments/0000000000000001.seg", &[(4096, 16384)]),
        // Checksum, and the group of the clean mark, in each of the four copies.
        (
            "hard-state",
            &[
                (8, 12),
                (64, 72),
                (4104, 4108),
                (4160, 4168),
                (8200, 8204),
                (8256, 8264),
                (12296, 12300),
                (12352, 12360),
            ],
        ),
        ("lock", &[(0, 21)]),
    ];
    for (name, ranges) in masked {
        let bytes = found.get_mut(name).unwrap();
        for (start, end) in ranges {
            bytes[*start..*end].fill(0);
        }
    }
    found.iter().map(|(name, bytes)| format!("{name} {} {}", bytes.len(), blake3::hash(bytes).to_hex())).collect()
}

#[track_caller]
fn is_golden(alignment: Alignment, golden: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    make(&fixed().0, &path, alignment);
    let found = digests(&path).join("\n");
    assert_eq!(found, golden.trim(), "\n{found}\n");
}

#[test]
fn every_file_of_a_log_on_pages() {
    is_golden(Alignment::PAGE, PAGE_FILES);
}

#[test]
fn every_file_of_a_log_on_words() {
    is_golden(Alignment::WORD, WORD_FILES);
}

/// The leaves do not depend on how frames are laid out; the keys and the log id are those of `fixed`.
#[test]
fn the_checkpoint_and_the_proof_of_a_record() {
    let directory = tempfile::tempdir().unwrap();
    for (name, alignment) in [("page", Alignment::PAGE), ("word", Alignment::WORD)] {
        let path = directory.path().join(name);
        let environment = fixed().0;
        let checkpoint = make(&environment, &path, alignment);
        let reader = LogReader::open(&environment, &path).unwrap();
        let (index, size) = (LeafIndex::new(5), TreeSize::new(15));
        assert_eq!(reader.size(), size);
        let proof = ProofFile::new(None, index, reader.prove_inclusion(index, size).unwrap(), checkpoint.clone());
        let proof = proof.unwrap();
        let mut leaf = None;
        reader
            .read::<stele_engine::error::LogError>(
                index,
                LeafIndex::new(6),
                stele_engine::reader::Payloads::Leave,
                &mut |record| {
                    leaf = Some(stele_proof::tree::leaf_hash(&record.canonical));
                    Ok(())
                },
            )
            .unwrap();
        let policy = Policy::parse(&std::fs::read(path.join("policy")).unwrap()).unwrap();
        proof.verify(&leaf.unwrap(), &policy).unwrap();
        if alignment == Alignment::PAGE {
            assert_eq!(checkpoint, CHECKPOINT, "\n{checkpoint}");
            assert_eq!(proof.to_string(), PROOF, "\n{proof}");
        } else {
            // Genesis says the alignment, and so does the first seal record: another tree.
            assert_ne!(checkpoint, CHECKPOINT);
        }
    }
}

const PAGE_FILES: &str = "
checkpoint 325 01e758a976f3a31deb69cd76b19cff094a907ae081baa47255c1d556bb8affea
hard-state 16384 3e25eaab9e1abb53ff0eeb6496b26f11f990e874382100944299428f50892046
keys/cosigner 98 42cdcdc4eb5038c7221f3c51c63014b9eb0d9bd6035a84c73647ca3af25f8f44
keys/log 85 60a3376224cd472fb3c3d5515301c26bea86e1fe2d6cbe1006910d0690a0312f
lock 21 a07a347ec1b10d5a09447ff17eaac2ecd30d982fd0811c6d34e6db7c22ca5abe
log.toml 224 27f6ce44e59897421269567c85f557943e42143a2f55903f3e571cff4656f7c5
policy 238 e83b31aff8ee5446b3a67ad8c1a35e031eec61a79095f64f6f60d8f35b487d5a
segments/0000000000000000.0.pay 20480 e4dc39806900878fd3f6e5e6bdcc1c51b1ff721640115c5780ad64445596e49b
segments/0000000000000000.hashes 368 e597488a069c61b8e0d789c88b88d8869d74e4db5d26530032fc810e8c121d96
segments/0000000000000000.seg 45056 0462c2de82aac262f3a26aa075775710dfb5f64f17af85fe213da0b8ee8c2284
segments/0000000000000000.tiles 568 2de589774ed5c92c2b388fd167c5615bf890112c9a793fc536cd32cbaf86ee29
segments/0000000000000001.0.pay 8192 c3e9a48b0b063a8f1946505720f06524338fd250e121d411a596d30bcf0822ff
segments/0000000000000001.seg 32768 f7c21af9d7d141dd551ef48ade1d61e49ac0f7775f8a6108af7d13216b7b3e99
signing-state 16384 ed81b166467bf9c2cbbf2d7e15f6272c06760362900848916cea55939ef85d46
";

const WORD_FILES: &str = "
checkpoint 325 c64289563677edc99e1f8196889785283a97f2d1f54984e0e2053c0194473a33
hard-state 16384 31633a35e220f9e04adabd3bf845a2f7bd1638480b48e7718bef2174f8132bfa
keys/cosigner 98 42cdcdc4eb5038c7221f3c51c63014b9eb0d9bd6035a84c73647ca3af25f8f44
keys/log 85 60a3376224cd472fb3c3d5515301c26bea86e1fe2d6cbe1006910d0690a0312f
lock 21 a07a347ec1b10d5a09447ff17eaac2ecd30d982fd0811c6d34e6db7c22ca5abe
log.toml 221 a0a132835e252b620e070c985120d0b5d79977e2e7d761a01266b3d6f17b6c4c
policy 238 e83b31aff8ee5446b3a67ad8c1a35e031eec61a79095f64f6f60d8f35b487d5a
segments/0000000000000000.0.pay 5008 67b6a756f4218fb8d1f58fbe8c39ba2396240592c14bb06115a8e7d713a9341b
segments/0000000000000000.hashes 368 f52773824cd3a3e6bdd633f71866ddd25b0f4d9e8b5422b88ebf944f31e584c6
segments/0000000000000000.seg 20608 fe5a2f4b6ce391deccf244c384939bda3ec20c0b4c3db8b7338136fd58d326aa
segments/0000000000000000.tiles 568 fb059b16caad3cda67ffb97f9fe35826267b90b0c8a2b45ad178965c3f20975b
segments/0000000000000001.0.pay 4672 814e564db51982d078b23b92d6f5eddc37688ba54e792beeda42cbd11a72a80f
segments/0000000000000001.seg 17744 c235a5d6aa4b6ccaef6d367cd4240ce3d1c4f25868bb9f5c7a0f39dc6639888c
signing-state 16384 72bd8cd2ad38861938db8b9e5a0da7d9666cbed6c2823f3cf7911f15d0e8bd5d
";

const CHECKPOINT: &str = "\
example.com/golden
15
a1PM7yd82ebkgaXwoxI8rdOM4z8D5yQAEUPxXDI6pzY=

\u{2014} example.com/golden zOTwCbTaiWLE5C6jT7uD33su2aMwf3CBSiFjTGmdq9Z3qtJ58ImYb3N2c+MBt6S8c/XY8sYED5BJ2vuFYFYL4KHejQk=
\u{2014} example.com/golden/site/local/1 +8Q5VwAAAAAAAAPoP0hYkm8UlTlORdAyLNj8ZVAC3Bwz5Zm+rFzhf3RNDpWtZpsn1/j3YtQyN95HWVQQJyoK19hkfGeWIpqkvKVTCQ==
";

const PROOF: &str = "\
c2sp.org/tlog-proof@v1
index 5
MbJ7UAGK+VgNpm7daHWzgr1GR1wENPazd5c1+W5WDUY=
fjr5nPKla5XQXor50UMLG2yh9Ne+be3TinX6A7XujwM=
kf5NhzlTaobohVzQFBsAW48aaRvHP3XlZ0fVM+7NOCs=
whG2LyyJXJgHuralEQhUclPFSQ6tQzmUh1zNO5GynvE=

example.com/golden
15
a1PM7yd82ebkgaXwoxI8rdOM4z8D5yQAEUPxXDI6pzY=

\u{2014} example.com/golden zOTwCbTaiWLE5C6jT7uD33su2aMwf3CBSiFjTGmdq9Z3qtJ58ImYb3N2c+MBt6S8c/XY8sYED5BJ2vuFYFYL4KHejQk=
\u{2014} example.com/golden/site/local/1 +8Q5VwAAAAAAAAPoP0hYkm8UlTlORdAyLNj8ZVAC3Bwz5Zm+rFzhf3RNDpWtZpsn1/j3YtQyN95HWVQQJyoK19hkfGeWIpqkvKVTCQ==
";
