//! Whoever may write every file of a site changes one record of a sealed segment and sets right whatever
//! he can, step by step further: FAULTS line 32. What he cannot reach is what was signed before and is
//! kept elsewhere.

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;

use small_log::{LOG, bytes_of, create, names, new_disk, push, put};
use stele_engine::directory::LogDirectory;
use stele_engine::frame::{FrameHeader, HEADER_BYTES, stored_checksum};
use stele_engine::number::{Alignment, Offset, SegmentNumber};
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::verify::{CheckedAgainst, LogReport, VerifyOptions, verify_log};
use stele_simulator::fake_disk::FakeDisk;

/// The stream of the record that is changed; its chain has no other record.
const TRUE: &str = "true";
const FALSE: &str = "fals";

/// A log, and its checkpoint from when only the segment with the record was there.
struct Made {
    disk: FakeDisk,
    early: String,
}

/// Three sealed segments and an open one; the record is in the second. Clock and randomness are the same
/// for all of them, and so are the keys.
fn make(stream: &str) -> Made {
    let disk = new_disk();
    let mut log = create(&disk).unwrap();
    let mut early = String::new();
    for segment in 0..3 {
        push(&mut log, "s", b"a payload").unwrap();
        log.flush().unwrap();
        if segment == 1 {
            push(&mut log, stream, b"what was done").unwrap();
        }
        push(&mut log, "t", b"").unwrap();
        log.flush().unwrap();
        if segment == 1 {
            early = log.checkpoint().unwrap();
        }
        log.end_segment().unwrap();
    }
    push(&mut log, "s", b"").unwrap();
    log.checkpoint().unwrap();
    log.close().unwrap();
    disk.settle();
    Made { disk, early }
}

fn frames(number: u64) -> String {
    format!("segments/{}", SegmentFile::Frames(SegmentNumber::new(number)).name())
}

fn tiles(number: u64) -> String {
    format!("segments/{}", SegmentFile::Tiles(SegmentNumber::new(number)).name())
}

/// Computes the checksums and links of a segment's frames again; answers the link to the next segment.
fn relink(disk: &FakeDisk, number: u64, link: u32) -> u32 {
    let (mut link, segment) = (link, SegmentNumber::new(number));
    let mut bytes = bytes_of(disk, &frames(number)).unwrap();
    let mut at = usize::try_from(FRAMES_START.get()).unwrap();
    while at < bytes.len() {
        let offset = Offset::new(at as u64);
        // The header is still the old one, and good.
        let mut header = FrameHeader::decode(bytes[at..].first_chunk().unwrap(), segment, offset).unwrap();
        header.link = link;
        header.body_checksum = crc(&bytes[at + HEADER_BYTES..][..header.body_len as usize]);
        let head = header.encode(segment, offset);
        bytes[at..at + HEADER_BYTES].copy_from_slice(&head);
        link = stored_checksum(&head);
        at += usize::try_from(header.frame_len(Alignment::WORD)).unwrap();
    }
    put(disk, &frames(number), Some(&bytes));
    link
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn verify(disk: &FakeDisk, checkpoint: Option<&str>) -> LogReport {
    let checkpoint = checkpoint.map(|text| text.as_bytes().to_vec());
    let options = VerifyOptions { checkpoint, ..VerifyOptions::default() };
    verify_log(disk, &LogDirectory::new(LOG), &options, &mut |_| ()).unwrap()
}

fn blames(report: &LogReport, name: &str) -> bool {
    report.findings.iter().any(|finding| finding.file == name)
}

/// The true log with the record's stream changed, and nothing set right.
fn edited(log: &Made) -> FakeDisk {
    let disk = log.disk.snapshot();
    let mut bytes = bytes_of(&disk, &frames(1)).unwrap();
    let word = format!("\"stream\":\"{TRUE}\"");
    let at = bytes.windows(word.len()).position(|window| window == word.as_bytes()).unwrap();
    let changed = format!("\"stream\":\"{FALSE}\"");
    bytes[at..at + word.len()].copy_from_slice(changed.as_bytes());
    put(&disk, &frames(1), Some(&bytes));
    disk
}

/// The early checkpoint, kept by somebody else, holds against the true log and against no other.
fn found_by_a_client(log: &Made, disk: &FakeDisk, what: &str) {
    let honest = verify(&log.disk, Some(&log.early));
    assert!(
        honest.findings.is_empty() && matches!(honest.checked_against, CheckedAgainst::Checkpoint(_)),
        "{honest:?}"
    );
    let report = verify(disk, Some(&log.early));
    assert!(!report.findings.is_empty(), "{what}: a client with a checkpoint is deceived");
}

#[test]
fn a_record_of_a_sealed_segment_that_is_changed_with_its_checksums_is_found() {
    let log = make(TRUE);
    let forged = make(FALSE);
    // The forger's own tools are right: what is not changed verifies after them.
    let same = log.disk.snapshot();
    (0..4).fold(0, |link, number| relink(&same, number, link));
    assert_eq!(verify(&same, Some(&log.early)).findings, []);

    let disk = edited(&log);
    assert!(blames(&verify(&disk, None), &frames(1)), "only the record");
    found_by_a_client(&log, &disk, "only the record");

    // Its frame, those behind it in the file, and those of all later files.
    for last in 1..4 {
        let disk = edited(&log);
        let first_link = relink(&log.disk.snapshot(), 0, 0);
        (1..=last).fold(first_link, |link, number| relink(&disk, number, link));
        let what = format!("links up to segment {last}");
        assert!(!verify(&disk, None).findings.is_empty(), "{what}");
        found_by_a_client(&log, &disk, &what);
        // And the sidecars, the one of the segment as it would be.
        put(&disk, &tiles(1), bytes_of(&forged.disk, &tiles(1)).as_deref());
        put(&disk, &tiles(2), None);
        let report = verify(&disk, None);
        assert!(blames(&report, &frames(if last == 3 { 1 } else { last + 1 })), "{what}, sidecars: {report:?}");
        found_by_a_client(&log, &disk, &what);
    }

    // Segments, payloads with the seal records in them, and sidecars, all as if it had never been otherwise.
    let disk = forged.disk.snapshot();
    for name in ["checkpoint", "signing-state"] {
        put(&disk, name, bytes_of(&log.disk, name).as_deref());
    }
    let report = verify(&disk, None);
    assert!(blames(&report, "checkpoint") && blames(&report, "signing-state"), "{report:?}");
    found_by_a_client(&log, &disk, "all but what was signed");
}

#[test]
fn a_log_made_anew_with_the_same_keys_is_found_by_whoever_holds_an_older_checkpoint() {
    let (log, forged) = (make(TRUE), make(FALSE));
    for name in ["keys/log", "keys/cosigner", "policy", "log.toml"] {
        assert_eq!(bytes_of(&log.disk, name), bytes_of(&forged.disk, name), "{name}");
    }
    assert_eq!(names(&log.disk), names(&forged.disk));
    // It agrees with itself, and `verify` says that it knows no more.
    let report = verify(&forged.disk, None);
    assert_eq!((report.findings, report.checked_against), (vec![], CheckedAgainst::Itself));
    let report = verify(&forged.disk, Some(&log.early));
    assert_eq!(report.checked_against, CheckedAgainst::Checkpoint(verify_size(&log)));
    let [finding] = &report.findings[..] else { panic!("{report:?}") };
    assert!(finding.what.contains("another root"), "{finding}");
    // The forger's own early checkpoint is of his log, and not of the true one.
    assert_eq!(verify(&forged.disk, Some(&forged.early)).findings, []);
    assert!(!verify(&log.disk, Some(&forged.early)).findings.is_empty());
}

/// The size that the early checkpoint covers.
fn verify_size(log: &Made) -> stele_proof::TreeSize {
    match verify(&log.disk, Some(&log.early)).checked_against {
        CheckedAgainst::Checkpoint(size) => size,
        other => panic!("{other:?}"),
    }
}
