//! Opening a log from a state file that does not belong to it, on real files.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::{ControlledDisk, fixed_on};
use stele_engine::birth::CreateOptions;
use stele_engine::chains::{Chains, MAX_CHAINS};
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{BlockHeight, RaftIndex, SegmentNumber, Term};
use stele_engine::segment::PAYLOADS_START;
use stele_engine::state::{self, State};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject, Value};
use stele_proof::tree::{CompactRange, Hash};
use stele_proof::{TreeSize, UnixMillis};

/// A log that has one state file, and which. Its segment was ended early, so that chains go on behind it before
/// its seal record, which comes at the end of the block.
fn log_with_state_file(environment: &Environment, path: &Path) -> PathBuf {
    let origin = Origin::new("example.com/test").unwrap();
    let options = CreateOptions { block_height: BlockHeight::new(8).unwrap(), ..CreateOptions::new(origin) };
    let mut log = LocalLog::create(environment, path, &options).unwrap();
    let attrs = Object::new(vec![("a".to_owned(), Value::String("x".repeat(900)))]).unwrap();
    let push = |log: &mut LocalLog, number: usize| {
        let writer_id = format!("w{}", number % 3);
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(7),
            writer_id: &writer_id,
            stream: "s",
            kind: "K",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        log.push(&Submission::Draft { builder: &builder, payload: None }).unwrap();
        log.cut(Box::new(drop)).unwrap();
    };
    // A frame of 4 KiB for every record and every early end: a state file is due once there are more than 16,384.
    for number in 0..100 {
        push(&mut log, number);
        log.end_segment().unwrap();
    }
    while log.size() < TreeSize::new(16_320) {
        push(&mut log, 1);
    }
    log.end_segment().unwrap();
    for number in 0..1000 {
        push(&mut log, number);
    }
    log.close().unwrap();
    let files: Vec<_> = std::fs::read_dir(path.join("state")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

/// What is changed in a state file.
type Forgery<'f> = &'f dyn Fn(&mut State);

/// Puts other content into a state file, under a digest that is right.
fn forge(file: &Path, good: &[u8], change: Forgery<'_>) {
    let number = u64::from_str_radix(file.file_name().unwrap().to_str().unwrap(), 16).unwrap();
    let segment = SegmentNumber::new(number);
    let mut state = state::decode(good, segment, MAX_CHAINS).map_err(|fault| fault.to_string()).ok().unwrap();
    change(&mut state);
    let forged = state::encode(&state.tail, &state.tree, &state.chains, &state.membership);
    assert!(forged != good && state::decode(&forged, segment, MAX_CHAINS).is_ok(), "a forgery that can be read");
    std::fs::remove_file(file).unwrap();
    std::fs::File::create(file).and_then(|mut file| std::io::Write::write_all(&mut file, &forged)).unwrap();
}

/// Changes the head of one chain.
fn with_other_head(chains: &Chains, name: &str) -> Chains {
    let mut other = Chains::new(MAX_CHAINS);
    for (key, mut head, leaf) in chains.sorted() {
        if key == name {
            head.self_hash = SelfHash::new([7; 32]);
        }
        other.load(key, head, leaf).unwrap();
    }
    other
}

/// I-REPLAY-1: whatever a state file says that the log does not say, the log opens as if it were not there,
/// and makes it again.
#[test]
fn a_forged_state_file_is_dropped_and_made_again() {
    let environment = fixed_on(Arc::new(ControlledDisk::quick()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = log_with_state_file(&environment, &path);
    let good = std::fs::read(&file).unwrap();
    let mut log = LocalLog::open(&environment, &path).unwrap();
    let (size, checkpoint) = (log.size(), log.checkpoint().unwrap());
    log.close().unwrap();

    let forgeries: [(&str, Forgery<'_>); 8] = [
        ("a peak", &|state| {
            let mut peaks = state.tree.peaks().to_vec();
            peaks[0] = Hash::new([9; 32]);
            state.tree = CompactRange::from_peaks(state.tree.size(), peaks).unwrap();
        }),
        ("membership", &|state| state.membership.push(0)),
        ("the head of a chain that goes on", &|state| state.chains = with_other_head(&state.chains, "s\nw1")),
        ("the head of a chain that ended", &|state| {
            state.chains = with_other_head(&state.chains, "stele/log\nstele/log");
        }),
        ("link", &|state| state.tail.link ^= 1),
        ("next index", &|state| state.tail.next_index = RaftIndex::new(state.tail.next_index.get() + 1)),
        ("last term", &|state| state.tail.last_term = Term::new(0)),
        ("size", &|state| {
            state.tail.leaves = TreeSize::new(256);
            state.tree = CompactRange::from_peaks(state.tail.leaves, vec![Hash::new([9; 32])]).unwrap();
        }),
    ];
    for (what, change) in forgeries {
        forge(&file, &good, change);
        let mut log = LocalLog::open(&environment, &path).unwrap();
        assert_eq!((log.size(), log.checkpoint().unwrap()), (size, checkpoint.clone()), "{what}");
        assert!(log.torn_tail().is_none(), "{what}");
        log.close().unwrap();
        assert!(std::fs::read(&file).unwrap() == good, "{what}: made again");
    }
}

/// A state file is believed only where its seal record can be read.
#[test]
fn a_state_file_whose_seal_record_cannot_be_read_is_not_taken() {
    let environment = fixed_on(Arc::new(ControlledDisk::quick()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = log_with_state_file(&environment, &path);
    let good = std::fs::read(&file).unwrap();
    let mut log = LocalLog::open(&environment, &path).unwrap();
    let (size, checkpoint) = (log.size(), log.checkpoint().unwrap());
    log.close().unwrap();

    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let mut damaged = 0;
    for entry in std::fs::read_dir(path.join("segments")).unwrap() {
        let payloads = entry.unwrap().path();
        let of = payloads.file_name().unwrap().to_str().unwrap().to_owned();
        if of.ends_with(".pay") && of > name {
            let mut bytes = std::fs::read(&payloads).unwrap();
            let at = usize::try_from(PAYLOADS_START).unwrap() + 40;
            bytes[at] ^= 1;
            std::fs::remove_file(&payloads).unwrap();
            std::fs::File::create(&payloads).and_then(|mut file| std::io::Write::write_all(&mut file, &bytes)).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    forge(&file, &good, &|state| {
        let mut peaks = state.tree.peaks().to_vec();
        peaks[0] = Hash::new([9; 32]);
        state.tree = CompactRange::from_peaks(state.tree.size(), peaks).unwrap();
    });
    let mut log = LocalLog::open(&environment, &path).unwrap();
    assert_eq!((log.size(), log.checkpoint().unwrap()), (size, checkpoint));
    log.close().unwrap();
}

/// The store goes on from the tail of a state file before anything behind it is read: with nothing behind it
/// that could contradict, too.
#[test]
fn a_foreign_state_file_of_the_last_sealed_segment_does_not_move_the_end() {
    let environment = fixed_on(Arc::new(ControlledDisk::quick()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = log_with_state_file(&environment, &path);
    let good = std::fs::read(&file).unwrap();
    let mut log = LocalLog::open(&environment, &path).unwrap();
    let last = log.end_segment().unwrap().unwrap();
    log.close().unwrap();
    let log = LocalLog::open(&environment, &path).unwrap();
    let size = log.size();
    log.close().unwrap();

    // The file of an earlier segment under the name of the last one.
    let foreign = path.join("state").join(format!("{:016x}", last.get()));
    std::fs::copy(&file, &foreign).unwrap();
    forge(&foreign, &good_for(&good, last), &|state| state.tail.link ^= 1);
    let mut log = LocalLog::open(&environment, &path).unwrap();
    assert_eq!(log.size(), size);
    assert!(log.torn_tail().is_none());
    log.checkpoint().unwrap();
    log.close().unwrap();
}

/// The bytes of a state file, said to be of another segment.
fn good_for(good: &[u8], segment: SegmentNumber) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[48..56].copy_from_slice(&segment.get().to_le_bytes());
    let digest = *stele_proof::digest_tree::Digest::of(&bytes[40..]).as_bytes();
    bytes[8..40].copy_from_slice(&digest);
    bytes
}
