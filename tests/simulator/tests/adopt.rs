//! Taking over sealed segments: interrupted at any call it goes on, and what is not the log's is refused and named.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use stele_engine::adopt::{AdoptError, Adopted, Adoption, Begun, NewMember, is_under_way};
use stele_engine::birth::{CreateOptions, MemberOptions};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Access, Disk, Mode, read_up_to};
use stele_engine::error::LogError;
use stele_engine::frame::{EntryKind, FrameHeader, HEADER_BYTES, stored_checksum};
use stele_engine::hard_state::read_hard_state;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight, NodeId, Offset, RaftIndex, SegmentNumber, Term};
use stele_engine::replica::Replica;
use stele_engine::segment::{FRAMES_START, PayloadPart, SegmentFile};
use stele_engine::store::read_entry_at;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::digest_tree::Digest;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::Flavour;
use stele_simulator::random::SplitMix64;
use stele_simulator::source::environment;

const SEGMENTS: u64 = 4;
const NODE: NodeId = NodeId::new(9);

fn donor() -> LogDirectory {
    LogDirectory::new("/donor")
}

fn log() -> LogDirectory {
    LogDirectory::new("/site/log")
}

fn push(log: &mut LocalLog, payload: &[u8]) {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), payload)) }).unwrap();
}

/// A machine with a log of four sealed segments, the seal record of each in the next one, and an open one; `word` is in
/// every payload, so that two of them differ.
fn made(origin: &str, word: &str) -> FakeDisk {
    let disk = FakeDisk::new(Media::TearsSectors, 1);
    let options = CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        ..CreateOptions::new(Origin::new(origin).unwrap())
    };
    LocalLog::create(&environment(&disk), donor().path(), &options).unwrap().close().unwrap();
    for segment in 0..SEGMENTS {
        let mut open = LocalLog::open(&environment(&disk), donor().path()).unwrap();
        for number in 0..3 {
            push(&mut open, format!("{word} {segment} {number}").as_bytes());
            open.flush().unwrap();
        }
        open.end_segment().unwrap();
        // The seal record follows when the log is closed.
        open.close().unwrap();
    }
    disk
}

fn donors() -> FakeDisk {
    made("example.com/test", "same")
}

fn empty() -> FakeDisk {
    FakeDisk::new(Media::TearsSectors, 2)
}

fn member(donors: &FakeDisk) -> NewMember {
    let first = read_entry_at(donors, &donor(), SegmentNumber::new(0), FRAMES_START).unwrap();
    NewMember {
        options: MemberOptions { node: NODE, block_height: BlockHeight::new(8).unwrap(), frame_align: Alignment::PAGE },
        cluster: *Digest::of(&first.body).as_bytes(),
    }
}

fn begin(disk: &FakeDisk, donors: &FakeDisk) -> Result<Begun, AdoptError> {
    Adoption::begin(&environment(disk), log().path(), member(donors))
}

fn open(disk: &FakeDisk, donors: &FakeDisk) -> Adoption {
    match begin(disk, donors).unwrap() {
        Begun::Open(adoption) => *adoption,
        Begun::Done => panic!("done already"),
    }
}

/// Stages a segment's files as a donor has them; answers the number of payload parts.
fn stage(adoption: &Adoption, donors: &FakeDisk, segment: SegmentNumber) -> Result<u32, LogError> {
    let staging = adoption.staging();
    let parts = Inventory::take(donors, &donor()).unwrap().payload_parts(segment).count();
    let parts = u32::try_from(parts).unwrap();
    let payloads = (0..parts).map(|part| SegmentFile::Payloads(segment, PayloadPart::new(part)));
    for file in payloads.chain([SegmentFile::Frames(segment)]) {
        let mut staged = staging.open(file)?;
        let source = donors.open(&donor().segment_file(file), Access::Read)?;
        // In pieces, as a transfer brings them.
        loop {
            let bytes = read_up_to(source.as_ref(), staged.len(), 10_000)?;
            if bytes.is_empty() {
                break;
            }
            staged.append(&bytes)?;
        }
    }
    Ok(parts)
}

/// Takes over everything that the donor has sealed.
fn adopt(disk: &FakeDisk, donors: &FakeDisk) -> Result<Option<Adopted>, AdoptError> {
    let mut adoption = match begin(disk, donors)? {
        Begun::Open(adoption) => *adoption,
        Begun::Done => return Ok(None),
    };
    while adoption.next() < SegmentNumber::new(SEGMENTS) {
        let parts = stage(&adoption, donors, adoption.next())?;
        let examined = adoption.examine(parts)?;
        adoption.hold(examined)?;
    }
    Ok(Some(adoption.finish()?))
}

/// Bytes and modes of the sealed files of a log.
fn sealed(disk: &FakeDisk, directory: &LogDirectory) -> BTreeMap<String, (Vec<u8>, Mode)> {
    let names = disk.list(&directory.segments()).unwrap();
    let files = names.into_iter().map(|name| {
        let held = disk.look(&directory.segments().join(&name)).unwrap();
        (name, held)
    });
    files.filter(|(name, (_, mode))| *mode == Mode::Sealed && !name.ends_with(".tmp")).collect()
}

fn temporaries(disk: &FakeDisk) -> Vec<PathBuf> {
    let is_left = |path: &PathBuf| path.starts_with("/site") && path.to_string_lossy().ends_with(".tmp");
    disk.paths().into_iter().filter(is_left).collect()
}

/// What the directory must be, once all is done.
fn is_whole(disk: &FakeDisk, donors: &FakeDisk, what: &str) {
    assert_eq!(sealed(disk, &log()), sealed(donors, &donor()), "{what}");
    assert_eq!(temporaries(disk), Vec::<PathBuf>::new(), "{what}");
    assert!(!is_under_way(disk, &log()).unwrap(), "{what}");
    let verified = verify_log(disk, &log(), &VerifyOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(verified.findings, [], "{what}");
    let hard = read_hard_state(disk, &log().hard_state()).unwrap();
    assert_eq!((hard.node, hard.vote.term, hard.incarnation), (NODE, Term::new(0), 0), "{what}: a fresh node");
    assert!(hard.peers.is_empty(), "{what}");
    let copied = disk.snapshot();
    let opened = Replica::open(&environment(&copied), log().path()).unwrap();
    let first = read_entry_at(donors, &donor(), SegmentNumber::new(0), FRAMES_START).unwrap();
    assert_eq!(opened.membership, first.body, "{what}: the last membership of what was copied");
    assert_eq!(opened.applied, opened.replica.store().tail().next_index, "{what}: all of it is committed");
    assert!(opened.applied > RaftIndex::new(2 * SEGMENTS) && opened.replica.genesis().is_some(), "{what}");
}

#[test]
fn copied_segments_are_the_donors_byte_for_byte_and_the_node_is_fresh() {
    let (disk, donors) = (empty(), donors());
    let adopted = adopt(&disk, &donors).unwrap().unwrap();
    assert_eq!(adopted.segments, SEGMENTS);
    is_whole(&disk, &donors, "uninterrupted");
    assert!(matches!(begin(&disk, &donors), Err(AdoptError::Log(LogError::Exists(_)))), "a log is never taken over");
}

#[test]
fn segments_are_installed_once_their_seal_record_has_come_and_the_last_at_the_end() {
    let (disk, donors) = (empty(), donors());
    let mut adoption = open(&disk, &donors);
    for segment in (0..SEGMENTS).map(SegmentNumber::new) {
        let parts = stage(&adoption, &donors, segment).unwrap();
        let examined = adoption.examine(parts).unwrap();
        assert_eq!(adoption.hold(examined).unwrap(), u64::from(segment.get() > 0));
        assert_eq!(adoption.installed(), segment, "that of the last one stands in the next");
        assert_eq!(sealed(&disk, &log()).keys().filter(|name| name.ends_with(".seg")).count() as u64, segment.get());
    }
}

#[test]
fn it_can_be_interrupted_at_every_call_and_goes_on_with_what_was_installed() {
    let donors = donors();
    let mut resumed = 0;
    for call in 1.. {
        let flavour = if call % 2 == 0 { Flavour::Failed } else { Flavour::FailedButApplied };
        let disk = empty();
        disk.power_off_in(call, flavour);
        let done = adopt(&disk, &donors).is_ok();
        assert!(!done || !disk.is_off(), "call {call}: a failure was not told");
        for (kind, machine) in [("killed", disk.kill()), ("crashed", disk.crash(&mut SplitMix64::new(call)))] {
            let what = format!("{kind} at call {call}");
            let donated = sealed(&donors, &donor());
            let installed = sealed_where_any(&machine);
            for (name, held) in &installed {
                assert_eq!(donated.get(name), Some(held), "{what}: I-ADOPT-1, {name}");
            }
            resumed += usize::from(!done && installed.keys().any(|name| name.ends_with(".seg")));
            match adopt(&machine, &donors) {
                Ok(_) => {}
                // All but telling so was done.
                Err(AdoptError::Log(LogError::Exists(_))) => {}
                Err(error) => panic!("{what}: {error}"),
            }
            is_whole(&machine, &donors, &what);
        }
        if done {
            assert!(call > 300, "{call} calls are too few for what there was to do");
            break;
        }
    }
    assert!(resumed > 100, "{resumed} times something was there already");
}

fn sealed_where_any(disk: &FakeDisk) -> BTreeMap<String, (Vec<u8>, Mode)> {
    if disk.list(&log().segments()).is_ok() { sealed(disk, &log()) } else { BTreeMap::new() }
}

/// Every eighth bit of every file of a segment: what is flipped is refused before anything is installed, and the good
/// bytes are taken afterwards.
#[test]
fn a_flipped_bit_anywhere_in_what_was_given_is_refused_and_named() {
    let (disk, donors) = (empty(), donors());
    let (first, damaged) = (SegmentNumber::new(0), SegmentNumber::new(1));
    let mut adoption = open(&disk, &donors);
    let parts = stage(&adoption, &donors, first).unwrap();
    let examined = adoption.examine(parts).unwrap();
    adoption.hold(examined).unwrap();
    let parts = stage(&adoption, &donors, damaged).unwrap();
    assert!(parts > 0);
    for file in [SegmentFile::Frames(damaged), SegmentFile::Payloads(damaged, PayloadPart::FIRST)] {
        let path = PathBuf::from(format!("{}.tmp", log().segment_file(file).display()));
        let len = disk.look(&path).unwrap().0.len();
        for byte in (0..len).step_by(if len > 20_000 { 61 } else { 7 }) {
            let bit = u32::try_from(byte % 8).unwrap();
            disk.flip_bit(&path, byte, bit);
            match adoption.examine(parts) {
                Err(AdoptError::Refused { segment, .. }) => assert_eq!(segment, damaged, "byte {byte}"),
                Ok(_) => panic!("byte {byte} of {} was flipped, and it was taken", path.display()),
                Err(error) => panic!("byte {byte}: {error}"),
            }
            disk.flip_bit(&path, byte, bit);
        }
    }
    let examined = adoption.examine(parts).unwrap();
    assert_eq!(adoption.hold(examined).unwrap(), 1);
}

#[test]
fn segments_of_another_log_are_refused_by_the_first_entry_and_by_what_they_follow() {
    let (disk, donors) = (empty(), donors());
    let first = SegmentNumber::new(0);
    let elsewhere = made("example.com/other", "same");
    let mut adoption = open(&disk, &donors);
    let parts = stage(&adoption, &elsewhere, first).unwrap();
    let refused = adoption.examine(parts).map(|_| ());
    assert!(matches!(&refused, Err(AdoptError::Refused { why, .. }) if why.contains("another cluster")), "{refused:?}");
    adoption.staging().discard(first, parts).unwrap();
    drop(adoption);
    let begun = begin(&disk, &elsewhere).map(|_| ());
    assert!(matches!(begun, Err(AdoptError::Other { .. })), "{begun:?}");

    // Another history of this one: good by itself, and it does not follow.
    let forked = made("example.com/test", "else");
    adoption = open(&disk, &donors);
    let parts = stage(&adoption, &donors, first).unwrap();
    let examined = adoption.examine(parts).unwrap();
    adoption.hold(examined).unwrap();
    let parts = stage(&adoption, &forked, SegmentNumber::new(1)).unwrap();
    let refused = adoption.examine(parts).map(|_| ());
    assert!(matches!(refused, Err(AdoptError::Refused { segment, .. }) if segment.get() == 1), "{refused:?}");
}

/// Says another term for the leader's blank entry of a staged segment, and sets the checksums and links of its frames
/// right; answers the link to the next segment.
fn forge(disk: &FakeDisk, segment: SegmentNumber, link: u32) -> u32 {
    let path = PathBuf::from(format!("{}.tmp", log().segment_file(SegmentFile::Frames(segment)).display()));
    let mut bytes = disk.look(&path).unwrap().0;
    let (mut link, mut at) = (link, usize::try_from(FRAMES_START.get()).unwrap());
    while at < bytes.len() {
        let offset = Offset::new(at as u64);
        let mut header = FrameHeader::decode(bytes[at..].first_chunk().unwrap(), segment, offset).unwrap();
        header.link = link;
        if header.kind == EntryKind::Blank {
            header.term = Term::new(0);
        }
        let head = header.encode(segment, offset);
        bytes[at..at + HEADER_BYTES].copy_from_slice(&head);
        link = stored_checksum(&head);
        at += usize::try_from(header.frame_len(Alignment::PAGE)).unwrap();
    }
    disk.open(&path, Access::Write).unwrap().write_at(&bytes, 0).unwrap();
    link
}

/// What no record covers: the term of a blank entry. Only the seal record shows it.
#[test]
fn what_only_the_seal_record_covers_is_found_by_it_and_the_good_file_is_taken_then() {
    let (disk, donors) = (empty(), donors());
    let mut adoption = open(&disk, &donors);
    let first = SegmentNumber::new(0);
    let parts = stage(&adoption, &donors, first).unwrap();
    let link = forge(&disk, first, 0);
    let examined = adoption.examine(parts).unwrap();
    let digest = examined.file_digest();
    adoption.hold(examined).unwrap();
    // The next one links to the forged frames, so it is forged, too, and its records are the real ones.
    let second = SegmentNumber::new(1);
    let parts_of_second = stage(&adoption, &donors, second).unwrap();
    forge(&disk, second, link);
    let examined = adoption.examine(parts_of_second).unwrap();
    let refused = adoption.hold(examined).map(|_| ());
    match refused {
        Err(AdoptError::Refused { segment, why }) => {
            assert_eq!(segment, first);
            assert!(why.contains(&digest.to_string()), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((adoption.next(), adoption.installed()), (first, first), "nothing of it was installed");
    adoption.staging().discard(first, parts).unwrap();
    adoption.staging().discard(second, parts_of_second).unwrap();
    for segment in (0..SEGMENTS).map(SegmentNumber::new) {
        let parts = stage(&adoption, &donors, segment).unwrap();
        let examined = adoption.examine(parts).unwrap();
        adoption.hold(examined).unwrap();
    }
    adoption.finish().unwrap();
    is_whole(&disk, &donors, "after the forged one");
}
