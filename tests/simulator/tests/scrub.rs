//! A scrub finds what rots, on a disk in memory: FAULTS lines 3, 5, 6 and 32, each by its name.

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;

use std::path::Path;

use small_log::{LOG, bytes_of, create, environment, names, new_disk, push, put};
use stele_engine::frame::{FrameHeader, HEADER_BYTES, stored_checksum};
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, Offset, SegmentNumber};
use stele_engine::scrub::{Outcome, ScrubFinding, ScrubPosition, Scrubber};
use stele_engine::segment::{FRAMES_START, PayloadPart, RING_START, SegmentFile};
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::fault::Call;

/// What a scrub told.
#[derive(Debug)]
struct Scrubbed {
    findings: Vec<ScrubFinding>,
    notes: Vec<String>,
    records: u64,
}

fn scrub(disk: &FakeDisk) -> Scrubbed {
    scrub_by(disk, 1 << 20, None)
}

/// Scrubs by steps of so many bytes.
fn scrub_by(disk: &FakeDisk, step_bytes: u64, from: Option<ScrubPosition>) -> Scrubbed {
    let mut scrubber = Scrubber::start(&environment(disk), Path::new(LOG), from).unwrap();
    let mut scrubbed = Scrubbed { findings: Vec::new(), notes: Vec::new(), records: 0 };
    for _ in 0..100_000 {
        let step = scrubber.step(step_bytes).unwrap();
        scrubbed.findings.extend(step.findings);
        scrubbed.notes.extend(step.notes);
        scrubbed.records = scrubber.totals().records;
        if step.outcome == Outcome::Done {
            return scrubbed;
        }
    }
    panic!("it does not end: {scrubbed:?}");
}

fn frames(number: u64) -> String {
    format!("segments/{}", SegmentFile::Frames(SegmentNumber::new(number)).name())
}

fn tiles(number: u64) -> String {
    format!("segments/{}", SegmentFile::Tiles(SegmentNumber::new(number)).name())
}

fn payloads(number: u64) -> String {
    format!("segments/{}", SegmentFile::Payloads(SegmentNumber::new(number), PayloadPart::FIRST).name())
}

/// Three sealed segments and one that is not; the second holds a record of the stream.
fn written(stream: &str) -> (FakeDisk, LocalLog) {
    let disk = new_disk();
    let mut log = create(&disk).unwrap();
    for segment in 0..3 {
        push(&mut log, "s", b"a payload").unwrap();
        log.flush().unwrap();
        if segment == 1 {
            push(&mut log, stream, b"what was done").unwrap();
        }
        push(&mut log, "t", b"").unwrap();
        log.flush().unwrap();
        log.end_segment().unwrap();
    }
    push(&mut log, "s", b"in the open segment").unwrap();
    log.flush().unwrap();
    (disk, log)
}

fn closed(stream: &str) -> FakeDisk {
    let (disk, log) = written(stream);
    log.close().unwrap();
    disk.settle();
    disk
}

/// Where the frames of a segment begin, with their headers.
fn headers(disk: &FakeDisk, number: u64) -> Vec<(usize, FrameHeader)> {
    let bytes = bytes_of(disk, &frames(number)).unwrap();
    let (mut found, mut at) = (Vec::new(), usize::try_from(FRAMES_START.get()).unwrap());
    while at + HEADER_BYTES <= bytes.len() {
        let offset = Offset::new(at as u64);
        let head = bytes[at..].first_chunk().unwrap();
        let Ok(header) = FrameHeader::decode(head, SegmentNumber::new(number), offset) else { break };
        found.push((at, header));
        at += usize::try_from(header.frame_len(Alignment::WORD)).unwrap();
    }
    found
}

fn changed(disk: &FakeDisk, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> FakeDisk {
    let disk = disk.snapshot();
    let mut bytes = bytes_of(&disk, name).unwrap();
    change(&mut bytes);
    put(&disk, name, Some(&bytes));
    disk
}

/// The first finding, with the segment and the name of its file.
fn first(scrubbed: &Scrubbed) -> &ScrubFinding {
    scrubbed.findings.first().unwrap_or_else(|| panic!("nothing was found: {scrubbed:?}"))
}

#[test]
fn a_good_log_has_no_findings_by_steps_of_any_size_and_every_record_is_read() {
    let disk = closed("true");
    let before: Vec<_> = names(&disk).iter().map(|name| (name.clone(), bytes_of(&disk, name))).collect();
    let calls = [Call::Write, Call::Sync, Call::SetLen, Call::Rename, Call::Create];
    let made = calls.map(|call| disk.count(call));
    let size = small_log::read_all(&disk).unwrap().len() as u64;
    for step_bytes in [1, 4096, 1 << 16, 1 << 30] {
        let scrubbed = scrub_by(&disk, step_bytes, None);
        assert_eq!((&scrubbed.findings[..], scrubbed.records), (&[][..], size), "{step_bytes}: {:?}", scrubbed.notes);
    }
    assert_eq!(calls.map(|call| disk.count(call)), made, "a scrub writes nothing");
    let after: Vec<_> = names(&disk).iter().map(|name| (name.clone(), bytes_of(&disk, name))).collect();
    assert_eq!(before, after);
}

#[test]
fn a_scrub_beside_a_writer_reads_what_is_proven_durable_and_waits_for_nobody() {
    let (disk, log) = written("true");
    let scrubbed = scrub(&disk);
    assert_eq!(scrubbed.findings, [], "{:?}", scrubbed.notes);
    let before = scrubbed.records;
    log.confirm_idle();
    let confirmed = scrub(&disk).records;
    assert!(confirmed > before, "{before}, then {confirmed}");
    // A segment that rots beside the writer is found all the same.
    let (at, _) = headers(&disk, 1)[1];
    let name = frames(1);
    let mut bytes = bytes_of(&disk, &name).unwrap();
    bytes[at + HEADER_BYTES + 40] ^= 4;
    put(&disk, &name, Some(&bytes));
    assert_eq!(first(&scrub(&disk)).damage.offset, at as u64);
    drop(log);
}

#[test]
fn scrub_line_3_a_bit_flip_in_a_body_is_found_with_segment_offset_and_record() {
    let disk = closed("true");
    for number in 0..4 {
        for (at, header) in headers(&disk, number) {
            if header.body_len == 0 {
                continue;
            }
            let place = at + HEADER_BYTES + header.body_len as usize / 2;
            let scrubbed = scrub(&changed(&disk, &frames(number), |bytes| bytes[place] ^= 1));
            let finding = first(&scrubbed);
            assert_eq!(finding.segment, Some(SegmentNumber::new(number)), "{finding:?}");
            let damage = &finding.damage;
            assert_eq!((&*damage.file, damage.offset), (&*frames(number), at as u64), "{damage}");
            assert_eq!(damage.leaf, Some(header.first_leaf), "{damage}");
            // What is sound behind it is read.
            if header.leaf_count > 0 && number < 3 {
                let all = scrub(&disk).records;
                assert_eq!(scrubbed.records, all - u64::from(header.leaf_count), "{damage}");
                assert_eq!(scrubbed.findings.len(), 1, "{scrubbed:?}");
            }
        }
    }
}

#[test]
fn scrub_line_3_a_bit_flip_in_a_payload_is_found_with_the_record_that_commits_to_it() {
    let disk = closed("true");
    let (at, header) = headers(&disk, 1).into_iter().find(|(_, header)| header.payload.is_some()).unwrap();
    let place = header.payload.unwrap();
    let flipped = usize::try_from(place.offset).unwrap() + 33;
    let scrubbed = scrub(&changed(&disk, &payloads(1), |bytes| bytes[flipped] ^= 0x80));
    let [finding] = &scrubbed.findings[..] else { panic!("{at}: {scrubbed:?}") };
    assert_eq!(finding.damage.file, payloads(1));
    assert_eq!((finding.damage.offset, finding.damage.leaf), (u64::from(place.offset), Some(header.first_leaf)));
}

/// A log so long that the first segment's seal record is two blocks behind.
fn long() -> FakeDisk {
    let disk = new_disk();
    let mut log = create(&disk).unwrap();
    for _ in 0..1100 {
        push(&mut log, "s", b"a payload").unwrap();
        if log.size().get().is_multiple_of(64) {
            log.flush().unwrap();
        }
    }
    log.close().unwrap();
    disk.settle();
    disk
}

#[test]
fn damaged_payloads_of_a_seal_record_are_not_blamed_on_the_segment_that_it_seals() {
    let disk = long();
    assert_eq!(scrub(&disk).findings, []);
    let len = bytes_of(&disk, &payloads(1)).unwrap().len();
    let mut lost = 0;
    for at in (0..len).step_by(61) {
        let scrubbed = scrub(&changed(&disk, &payloads(1), |bytes| bytes[at] ^= 1));
        for finding in &scrubbed.findings {
            assert_eq!(finding.damage.file, payloads(1), "byte {at}: {finding:?}");
        }
        lost += usize::from(scrubbed.notes.iter().any(|note| note.contains("has no seal record among those read")));
    }
    assert!(lost > 0, "no seal record was hit");
}

#[test]
fn scrub_line_5_a_stale_or_zeroed_page_is_found() {
    let disk = closed("true");
    let start = usize::try_from(FRAMES_START.get()).unwrap();
    for number in 0..4 {
        let zeroed = changed(&disk, &frames(number), |bytes| {
            let end = bytes.len().min(start + 4096);
            bytes[start..end].fill(0);
        });
        let finding = first(&scrub(&zeroed)).clone();
        let place = (finding.segment, finding.damage.offset);
        assert_eq!(place, (Some(SegmentNumber::new(number)), FRAMES_START.get()), "{finding:?}");
        // What the next segment holds at this place is what a stale page may hold.
        let other = bytes_of(&disk, &frames((number + 1) % 4)).unwrap();
        let stale = changed(&disk, &frames(number), |bytes| {
            let end = bytes.len().min(other.len()).min(start + 4096);
            bytes[start..end].copy_from_slice(&other[start..end]);
        });
        let finding = first(&scrub(&stale)).clone();
        assert_eq!((finding.segment, finding.damage.offset), place, "{finding:?}");
    }
}

#[test]
fn scrub_line_5_swapped_and_missing_segments_are_found_and_named() {
    let disk = closed("true");
    let swapped = disk.snapshot();
    let [one, two] = [1, 2].map(|number| bytes_of(&disk, &frames(number)));
    put(&swapped, &frames(1), two.as_deref());
    put(&swapped, &frames(2), one.as_deref());
    let scrubbed = scrub(&swapped);
    let files: Vec<_> = scrubbed.findings.iter().map(|finding| finding.damage.file.clone()).collect();
    assert_eq!(files, [frames(1), frames(2)], "{scrubbed:?}");
    assert!(scrubbed.findings.iter().all(|finding| finding.damage.what.contains("swapped")), "{scrubbed:?}");

    let missing = disk.snapshot();
    put(&missing, &frames(1), None);
    let scrubbed = scrub(&missing);
    assert_eq!(first(&scrubbed).damage.file, frames(1));
    assert!(first(&scrubbed).damage.what.contains("missing"), "{scrubbed:?}");
}

#[test]
fn scrub_line_6_a_duplicated_or_misdirected_frame_is_found() {
    let disk = closed("true");
    let places = headers(&disk, 1);
    let len = |at: usize| usize::try_from(places[at].1.frame_len(Alignment::WORD)).unwrap();
    for (from, to) in [(0, 1), (1, 0), (1, 2)] {
        let misdirected = changed(&disk, &frames(1), |bytes| {
            let frame = bytes[places[from].0..][..len(from).min(len(to))].to_vec();
            bytes[places[to].0..][..frame.len()].copy_from_slice(&frame);
        });
        let scrubbed = scrub(&misdirected);
        assert_eq!(first(&scrubbed).damage.offset, places[to].0 as u64, "{from} over {to}: {scrubbed:?}");
    }
}

/// CRC-32 (IEEE 802.3), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Computes checksums and links of all frames again.
fn relink(disk: &FakeDisk) {
    let mut link = 0;
    for number in 0..4 {
        let segment = SegmentNumber::new(number);
        let mut bytes = bytes_of(disk, &frames(number)).unwrap();
        for (at, mut header) in headers(disk, number) {
            header.link = link;
            header.body_checksum = crc(&bytes[at + HEADER_BYTES..][..header.body_len as usize]);
            let head = header.encode(segment, Offset::new(at as u64));
            bytes[at..at + HEADER_BYTES].copy_from_slice(&head);
            link = stored_checksum(&head);
        }
        put(disk, &frames(number), Some(&bytes));
    }
}

#[test]
fn scrub_line_32_a_record_of_a_sealed_segment_that_was_edited_with_all_checksums_is_found() {
    let (disk, forged) = (closed("true"), closed("fals"));
    // The forger's tools are right.
    let same = disk.snapshot();
    relink(&same);
    assert_eq!(scrub(&same).findings, []);

    let edited = changed(&disk, &frames(1), |bytes| {
        let word = b"\"stream\":\"true\"";
        let at = bytes.windows(word.len()).position(|window| window == word).unwrap();
        bytes[at..at + word.len()].copy_from_slice(b"\"stream\":\"fals\"");
    });
    relink(&edited);
    let scrubbed = scrub(&edited);
    let finding = first(&scrubbed);
    assert_eq!((finding.segment, &*finding.damage.file), (Some(SegmentNumber::new(1)), &*frames(1)));
    let (at, header) = headers(&disk, 1)[1];
    assert_eq!(finding.damage.offset, at as u64, "{scrubbed:?}");
    assert_eq!(finding.damage.leaf, Some(header.first_leaf), "{scrubbed:?}");

    // And the sidecars as they would be: the seal record is what is left.
    put(&edited, &tiles(1), bytes_of(&forged, &tiles(1)).as_deref());
    put(&edited, &tiles(2), None);
    let scrubbed = scrub(&edited);
    let found = scrubbed
        .findings
        .iter()
        .any(|finding| finding.damage.file == frames(1) && finding.damage.what.contains("seal record"));
    assert!(found, "{scrubbed:?}");
}

#[test]
fn a_damaged_sidecar_is_found_and_no_record_is_blamed() {
    let disk = closed("true");
    for number in 0..3 {
        let len = bytes_of(&disk, &tiles(number)).unwrap().len();
        for at in [0, 20, len / 2, len - 1] {
            let scrubbed = scrub(&changed(&disk, &tiles(number), |bytes| bytes[at] ^= 2));
            let [finding] = &scrubbed.findings[..] else { panic!("byte {at}: {scrubbed:?}") };
            assert_eq!(finding.damage.file, tiles(number), "{finding:?}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_segment_file_is_found() {
    let disk = closed("true");
    for number in 0..3 {
        for name in [frames(number), payloads(number)] {
            let len = bytes_of(&disk, &name).unwrap().len();
            for at in (0..len).step_by(7) {
                let scrubbed = scrub(&changed(&disk, &name, |bytes| bytes[at] ^= 1 << (at % 8)));
                assert!(scrubbed.findings.iter().any(|finding| finding.damage.file == name), "{name}, byte {at}");
            }
        }
    }
}

#[test]
fn an_interrupted_scrub_goes_on_at_its_position_and_misses_nothing() {
    let disk = closed("true");
    let (at, _) = headers(&disk, 2)[0];
    let rotten = changed(&disk, &frames(2), |bytes| bytes[at + HEADER_BYTES + 30] ^= 1);
    for stop_after in 0..200 {
        let mut scrubber = Scrubber::start(&environment(&rotten), Path::new(LOG), None).unwrap();
        let mut found = Vec::new();
        let mut ended = false;
        for _ in 0..stop_after {
            let step = scrubber.step(1).unwrap();
            found.extend(step.findings);
            if step.outcome == Outcome::Done {
                ended = true;
                break;
            }
        }
        let position = scrubber.position();
        drop(scrubber);
        if !ended {
            found.extend(scrub_by(&rotten, 1, Some(position)).findings);
        }
        assert!(found.iter().any(|finding| finding.damage.offset == at as u64), "{stop_after}: {position:?}");
        assert!(found.iter().all(|finding| finding.damage.file == frames(2)), "{stop_after}: {found:?}");
    }
    let resumed = scrub_by(&disk, 1, Some(ScrubPosition { segment: SegmentNumber::new(2) }));
    assert_eq!(resumed.findings, [], "{:?}", resumed.notes);
    assert!(resumed.records < scrub(&disk).records);
}

/// The log, with a checkpoint over all of it and another word in the segment, all checksums set right.
fn edited_under_a_checkpoint(number: u64, word: &[u8], other: &[u8]) -> FakeDisk {
    let (disk, mut log) = written("true");
    log.checkpoint().unwrap();
    log.close().unwrap();
    disk.settle();
    assert_eq!(scrub(&disk).findings, []);
    let edited = changed(&disk, &frames(number), |bytes| {
        let at = bytes.windows(word.len()).rposition(|window| window == word).unwrap();
        bytes[at..at + word.len()].copy_from_slice(other);
    });
    relink(&edited);
    edited
}

#[test]
fn a_record_that_does_not_follow_the_one_in_an_earlier_segment_is_found_where_nothing_else_tells() {
    // No signed head, and the segment is not sealed.
    let edited = changed(&closed("true"), &frames(3), |bytes| {
        let place = |word: &[u8], from: usize| {
            from + bytes[from..].windows(word.len()).position(|window| window == word).unwrap() + word.len()
        };
        let at = place(b"\"prev\":\"b3:", place(b"\"stream\":\"s\"", 0));
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    });
    relink(&edited);
    let scrubbed = scrub(&edited);
    let [finding] = &scrubbed.findings[..] else { panic!("{scrubbed:?}") };
    assert_eq!((finding.segment, &*finding.damage.file), (Some(SegmentNumber::new(3)), &*frames(3)));
    assert!(finding.damage.leaf.is_some() && finding.damage.what.contains("chain"), "{finding:?}");
    // A scrub that begins there has not read the other record.
    let from = Some(ScrubPosition { segment: SegmentNumber::new(3) });
    assert_eq!(scrub_by(&edited, 1 << 20, from).findings, []);
}

#[test]
fn the_stored_checkpoint_and_the_signed_head_are_held_against_the_tree() {
    let word = br#""stream":"s","kind":"Line","actor":{"anon":true},"subject":{},"reason":"ok""#;
    let edited = edited_under_a_checkpoint(3, word, &[&word[..word.len() - 3], b"no\""].concat());
    let scrubbed = scrub(&edited);
    let files: Vec<_> = scrubbed.findings.iter().map(|finding| &*finding.damage.file).collect();
    assert!(!files.is_empty() && files.iter().all(|file| ["checkpoint", "signing-state"].contains(file)), "{files:?}");
    // They cover more than a log that lost its end.
    let (disk, mut log) = written("true");
    let short = disk.snapshot();
    push(&mut log, "s", b"").unwrap();
    log.checkpoint().unwrap();
    log.close().unwrap();
    put(&short, "checkpoint", bytes_of(&disk, "checkpoint").as_deref());
    let scrubbed = scrub(&short.kill());
    assert!(first(&scrubbed).damage.what.contains("the last ones are missing"), "{scrubbed:?}");
}

#[test]
fn beside_a_writer_nothing_behind_what_the_ring_proves_is_judged() {
    let (disk, log) = written("true");
    let (at, _) = *headers(&disk, 3).last().unwrap();
    disk.flip_bit(&Path::new(LOG).join(frames(3)), at + HEADER_BYTES + 20, 0);
    let scrubbed = scrub(&disk);
    assert_eq!(scrubbed.findings, [], "it may be half written: {:?}", scrubbed.notes);
    log.confirm_idle();
    assert_eq!(first(&scrub(&disk)).damage.offset, at as u64, "now it is proven");

    // Without a ring nothing of the unsealed segments is proven.
    let [ring, start] = [RING_START, FRAMES_START.get()].map(|at| usize::try_from(at).unwrap());
    for number in 0..4 {
        let mut bytes = bytes_of(&disk, &frames(number)).unwrap();
        if bytes[ring..start].iter().any(|byte| *byte != 0) {
            bytes[ring..start].fill(0);
            put(&disk, &frames(number), Some(&bytes));
        }
    }
    let scrubbed = scrub(&disk);
    assert_eq!(scrubbed.findings, [], "{:?}", scrubbed.notes);
    assert!(scrubbed.notes.iter().any(|note| note.contains("nothing there is known durable")), "{:?}", scrubbed.notes);
    drop(log);
}

#[test]
fn what_is_read_to_find_a_later_start_is_told_as_read() {
    let disk = closed("true");
    let all = Scrubber::start(&environment(&disk), Path::new(LOG), None).unwrap().totals().of_bytes;
    let begin = |disk: &FakeDisk| {
        let from = Some(ScrubPosition { segment: SegmentNumber::new(2) });
        let mut scrubber = Scrubber::start(&environment(disk), Path::new(LOG), from).unwrap();
        let (first, of_bytes) = (scrubber.step(1).unwrap(), scrubber.totals().of_bytes);
        assert!(of_bytes < all, "the bar ends where the scrub does: {of_bytes} of {all}");
        while scrubber.step(1 << 20).unwrap().outcome != Outcome::Done {}
        assert!(scrubber.totals().bytes <= of_bytes);
        first.bytes
    };
    let quick = begin(&disk);
    let slow = disk.snapshot();
    [0, 1].iter().for_each(|number| put(&slow, &tiles(*number), None));
    let read = [0, 1].map(|number| bytes_of(&disk, &frames(number)).unwrap().len() as u64 - FRAMES_START.get());
    assert!(begin(&slow) >= quick + read[0] + read[1], "sidecars were made anew from the frames");
}

#[test]
fn a_damaged_header_of_a_payload_file_is_one_finding() {
    let disk = long();
    let scrubbed = scrub(&changed(&disk, &payloads(1), |bytes| bytes[20] ^= 1));
    let [finding] = &scrubbed.findings[..] else { panic!("{:#?}", scrubbed.findings) };
    assert_eq!(finding.damage.file, payloads(1));
    assert_eq!(scrubbed.records, scrub(&disk).records, "the records are read all the same");
}

#[test]
fn a_flipped_bit_in_a_hash_table_or_in_any_copy_of_a_guarded_file_is_found() {
    let disk = closed("true");
    let table = format!("segments/{}", SegmentFile::Hashes(SegmentNumber::new(1)).name());
    for (name, stride) in [(&*table, 5), ("hard-state", 509), ("signing-state", 509)] {
        let len = bytes_of(&disk, name).unwrap().len();
        for at in (0..len).step_by(stride) {
            let scrubbed = scrub(&changed(&disk, name, |bytes| bytes[at] ^= 1 << (at % 8)));
            assert!(!scrubbed.findings.is_empty(), "{name}, byte {at}");
            assert!(scrubbed.findings.iter().all(|finding| finding.damage.file == name), "{at}: {scrubbed:?}");
        }
    }
    for name in ["hard-state", "signing-state"] {
        let gone = disk.snapshot();
        put(&gone, name, None);
        assert_eq!(first(&scrub(&gone)).damage.file, name);
    }
    // A table that was never made is no damage.
    let without = disk.snapshot();
    put(&without, &table, None);
    let scrubbed = scrub(&without);
    assert_eq!(scrubbed.findings, []);
    assert!(scrubbed.notes.iter().any(|note| note.starts_with("1 hash tables are missing")), "{scrubbed:?}");
}
