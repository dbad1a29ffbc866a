//! What a damaged log lacks, that it is kept as it is, and that what is sound goes on being read.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;
mod image;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fixture::{ControlledDisk, Random, bare_log, copy, entry, files, open_store, overwrite, resize};
use image::{ALIGNMENTS, Image, check, environment, image, one, quick, tail_behind};
use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Access, Disk, Mode, RealDisk};
use stele_engine::error::LogError;
use stele_engine::frame::{EntryKind, FrameHeader, Tail};
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight, Offset, RaftIndex, SegmentNumber};
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::recovery::examine::{Extent, standing};
use stele_engine::recovery::quarantine::{IdentifiedBy, NeededRange, Standing, WithoutOffer};
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::store::Entry;
use stele_proof::LeafIndex;
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use tempfile::{TempDir, tempdir};

#[track_caller]
fn needed(directory: &LogDirectory) -> Vec<NeededRange> {
    match standing(&RealDisk, directory, Extent::Whole).unwrap() {
        Standing::MayNotVote(ranges) => ranges,
        other => panic!("{other:?}"),
    }
}

/// The range between the tails behind so many entries.
fn between(image: &Image, from: usize, to: usize, identified_by: IdentifiedBy) -> NeededRange {
    let (before, behind) = (image.tail(from), image.tail(to));
    NeededRange {
        segment: before.segment,
        from: before.offset,
        to: Some(behind.offset),
        first_index: before.next_index,
        end_index: Some(behind.next_index),
        first_leaf: before.leaves.next_leaf(),
        identified_by,
    }
}

/// Opening is refused with the first place, the number of places and bytes, and the remedy, and changes nothing.
#[track_caller]
fn is_refused(directory: &LogDirectory, ranges: &[NeededRange]) {
    let before = files(directory.path());
    let Err(LogError::Damaged(damage)) = open_store(quick(), directory) else { panic!("it was opened") };
    let first = ranges[0];
    let name = format!("segments/{}", SegmentFile::Frames(first.segment).name());
    assert_eq!((&damage.file, damage.offset, damage.leaf), (&name, first.from.get(), Some(first.first_leaf)));
    let places = if ranges.len() == 1 { "1 place".to_owned() } else { format!("{} places", ranges.len()) };
    let bytes: u64 = ranges.iter().filter_map(NeededRange::byte_len).sum();
    let at_least = if ranges.iter().all(|range| range.to.is_some()) { "" } else { "at least " };
    for part in [&*places, &format!("with {at_least}{bytes} bytes"), "`stele repair --from COPY` restores it"] {
        assert!(damage.what.contains(part), "{part}: {damage}");
    }
    assert!(files(directory.path()) == before, "a refused opening changes nothing");
}

#[test]
fn a_rotten_body_is_needed_exactly_and_told_by_its_own_header() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        for number in 0..3 {
            let copy = image.copy();
            overwrite(&Image::file(&copy), image.tail(number).offset.get() + 70, &[0xff]);
            let expected = [between(&image, number, number + 1, IdentifiedBy::OwnHeader)];
            assert_eq!(needed(&copy), expected, "frame {number}");
            is_refused(&copy, &expected);
        }
    }
}

#[test]
fn a_rotten_header_is_needed_up_to_the_next_good_one_which_tells_it() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        for (first, end) in [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 4)] {
            let copy = image.copy();
            for number in first..end {
                overwrite(&Image::file(&copy), image.tail(number).offset.get() + 20, &[0xff]);
            }
            let expected = [between(&image, first, end, IdentifiedBy::NextLink)];
            assert_eq!(needed(&copy), expected, "frames {first} up to {end}");
            is_refused(&copy, &expected);
        }
    }
}

/// Behind the first damage reading goes on, so that all of it is restored at once.
#[test]
fn every_damaged_place_is_needed() {
    for alignment in ALIGNMENTS {
        let before = (0..7).map(|number| one(number, 200)).collect();
        let mut image = Image::new(alignment, before, 0, vec![one(7, 200)]);
        let copy = image.copy();
        let path = Image::file(&copy);
        overwrite(&path, image.tail(1).offset.get() + 70, &[0xff]);
        overwrite(&path, image.tail(3).offset.get(), &[0; 64]);
        overwrite(&path, image.tail(5).offset.get() + 100, &[0xff]);
        let expected = [
            between(&image, 1, 2, IdentifiedBy::OwnHeader),
            between(&image, 3, 4, IdentifiedBy::NextLink),
            between(&image, 5, 6, IdentifiedBy::OwnHeader),
        ];
        assert_eq!(needed(&copy), expected);
        is_refused(&copy, &expected);
    }
}

/// What may be a torn group is asked for, and by the header of its frame where that is good.
#[test]
fn a_doubtful_group_is_asked_for() {
    for alignment in ALIGNMENTS {
        for committed in [0, 5] {
            let last = vec![one(3, 3000), one(4, 1500)];
            let mut image = Image::new(alignment, vec![one(0, 300), one(1, 2000), one(2, 70)], committed, last);
            for (at, to, end, identified_by) in [
                (70, image.tail(4).offset, Some(image.tail(4).next_index), IdentifiedBy::OwnHeader),
                (20, image.tail(5).offset, None, IdentifiedBy::Nothing),
            ] {
                let copy = image.copy();
                overwrite(&Image::file(&copy), image.tail(3).offset.get() + at, &[0xff]);
                let Standing::MustAsk { range, without_offer } = standing(&RealDisk, &copy, Extent::Unsealed).unwrap()
                else {
                    panic!("no doubt")
                };
                let expected = NeededRange { to: Some(to), end_index: end, ..between(&image, 3, 4, identified_by) };
                assert_eq!(range, expected);
                assert_eq!(without_offer, if committed == 0 { WithoutOffer::Cut } else { WithoutOffer::Wait });
            }
        }
    }
}

/// Three files of three entries each, the last of each a seal entry, and one open file; none is sealed.
struct Files {
    _temporary: TempDir,
    directory: LogDirectory,
    alignment: Alignment,
    entries: Vec<Entry>,
}

impl Files {
    fn new(alignment: Alignment) -> Self {
        let temporary = tempdir().unwrap();
        let directory = bare_log(&temporary.path().join("log"), alignment);
        let (store, _) = open_store(quick(), &directory).unwrap();
        let mut entries = Vec::new();
        for segment in 0..4_u64 {
            entries.push(one(segment * 2, 500));
            entries.push(one(segment * 2 + 1, 900));
            if segment < 3 {
                entries.push(entry(1, EntryKind::Seal, segment.to_le_bytes().to_vec()));
            }
        }
        for entry in &entries {
            store.append(entry.clone(), None).unwrap();
            store.flush().unwrap();
        }
        drop(store);
        Self { _temporary: temporary, directory, alignment, entries }
    }

    fn path(&self, segment: u64) -> std::path::PathBuf {
        self.directory.segment_file(SegmentFile::Frames(SegmentNumber::new(segment)))
    }

    fn tail(&self, count: usize) -> Tail {
        tail_behind(self.alignment, &self.entries[..count])
    }

    /// From a byte of segment 1 on, before which so many entries are.
    fn from(&self, from: u64, count: usize) -> NeededRange {
        let tail = self.tail(count);
        NeededRange {
            segment: SegmentNumber::new(1),
            from: Offset::new(from),
            to: None,
            first_index: tail.next_index,
            end_index: Some(RaftIndex::new(6)),
            first_leaf: tail.leaves.next_leaf(),
            identified_by: IdentifiedBy::NextLink,
        }
    }
}

/// FAULTS 5.
#[test]
fn a_missing_segment_file_is_needed_as_a_whole() {
    for alignment in ALIGNMENTS {
        let files_ = Files::new(alignment);
        fs::remove_file(files_.path(1)).unwrap();
        assert_eq!(needed(&files_.directory), [files_.from(0, 3)]);
        let before = files(files_.directory.path());
        let Err(LogError::Damaged(damage)) = open_store(quick(), &files_.directory) else { panic!("it was opened") };
        assert_eq!(damage.file, "segments/0000000000000001.seg");
        assert!(damage.what.contains("missing") && damage.what.contains("stele repair"), "{damage}");
        assert!(files(files_.directory.path()) == before);
        // Two in a row, and the second tells where the gap ends.
        fs::remove_file(files_.path(2)).unwrap();
        let ranges = needed(&files_.directory);
        assert_eq!(ranges.len(), 2);
        assert_eq!((ranges[1].end_index, ranges[1].identified_by), (Some(RaftIndex::new(9)), IdentifiedBy::NextLink));
    }
}

/// FAULTS 5.
#[test]
fn a_truncated_segment_file_is_needed_from_its_end_on() {
    for alignment in ALIGNMENTS {
        let log = Files::new(alignment);
        let second = log.tail(4).offset.get();
        resize(&log.path(1), second);
        let expected = [log.from(second, 4)];
        assert_eq!(needed(&log.directory), expected);
        is_refused(&log.directory, &expected);
        // Within a frame: that frame by its own header, and what followed.
        let log = Files::new(alignment);
        resize(&log.path(1), second + 100);
        let third = log.tail(5).offset.get();
        let body = NeededRange {
            to: Some(Offset::new(third)),
            end_index: Some(RaftIndex::new(5)),
            identified_by: IdentifiedBy::OwnHeader,
            ..log.from(second, 4)
        };
        let expected = [body, log.from(third, 5)];
        assert_eq!(needed(&log.directory), expected);
        is_refused(&log.directory, &expected);
    }
}

/// FAULTS 4: the header of a file.
#[test]
fn a_rotten_file_header_is_needed_and_nothing_else_of_its_file() {
    for alignment in ALIGNMENTS {
        for segment in 0..4 {
            let log = Files::new(alignment);
            overwrite(&log.path(segment), 20, &[0xff]);
            let count = usize::try_from(segment).unwrap() * 3;
            let expected = [NeededRange {
                segment: SegmentNumber::new(segment),
                to: Some(Offset::new(4096)),
                end_index: Some(log.tail(count).next_index),
                identified_by: IdentifiedBy::Settings,
                ..log.from(0, count)
            }];
            assert_eq!(needed(&log.directory), expected);
            is_refused(&log.directory, &expected);
        }
    }
}

/// FAULTS 5.
#[test]
fn swapped_segment_files_are_needed_both() {
    for alignment in ALIGNMENTS {
        let log = Files::new(alignment);
        let other = log.path(9);
        for (from, to) in [(log.path(1), other.clone()), (log.path(2), log.path(1)), (other, log.path(2))] {
            RealDisk.rename(&from, &to).unwrap();
        }
        let ranges = needed(&log.directory);
        assert_eq!(ranges.iter().map(|range| range.segment.get()).collect::<Vec<_>>(), [1, 2]);
        assert!(ranges.iter().all(|range| range.from.get() == 0));
        is_refused(&log.directory, &ranges);
    }
}

/// FAULTS 6: the bytes of one frame stand where another should.
#[test]
fn a_duplicated_or_misdirected_frame_is_rot_at_its_place() {
    for alignment in ALIGNMENTS {
        // Frames of one length, so that one covers the other whole.
        let before = (0..5).map(|number| one(number, 300)).collect();
        let mut image = Image::new(alignment, before, 0, vec![one(5, 300)]);
        let bytes = fs::read(Image::file(&image.directory)).unwrap();
        let place = |image: &Image, number| usize::try_from(image.tail(number).offset.get()).unwrap();
        for from in 0..5 {
            for to in (0..4).filter(|to| *to != from) {
                let copy = image.copy();
                let frame = &bytes[place(&image, from)..place(&image, from + 1)];
                overwrite(&Image::file(&copy), image.tail(to).offset.get(), frame);
                let expected = [between(&image, to, to + 1, IdentifiedBy::NextLink)];
                assert_eq!(needed(&copy), expected, "frame {from} over frame {to}");
                is_refused(&copy, &expected);
            }
        }
    }
}

/// FAULTS 5: a page as it was before a truncation, whose frame has a good header for its place.
#[test]
fn a_stale_frame_with_a_good_checksum_does_not_link() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let at = image.tail(1).offset;
        let bytes = fs::read(Image::file(&image.directory)).unwrap();
        let head = bytes[usize::try_from(at.get()).unwrap()..].first_chunk().unwrap();
        let segment = SegmentNumber::new(0);
        let mut stale = FrameHeader::decode(head, segment, at).unwrap();
        stale.link ^= 1;
        let copy = image.copy();
        overwrite(&Image::file(&copy), at.get(), &stale.encode(segment, at));
        let expected = [between(&image, 1, 2, IdentifiedBy::NextLink)];
        assert_eq!(needed(&copy), expected);
        is_refused(&copy, &expected);
    }
}

/// FAULTS 5: a page of zeros anywhere in what was durable.
#[test]
fn a_zeroed_page_is_rot_wherever_it_lies() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let durable = image.group().0;
        for page in 4..durable.div_ceil(4096) {
            let copy = image.copy();
            let end = ((page + 1) * 4096).min(durable);
            let len = usize::try_from(end - page * 4096).unwrap();
            overwrite(&Image::file(&copy), page * 4096, &vec![0; len]);
            let ranges = needed(&copy);
            let covers = |range: &NeededRange| range.from.get() < end && range.to.unwrap().get() > page * 4096;
            assert!(ranges.iter().any(covers), "page {page}: {ranges:?}");
            is_refused(&copy, &ranges);
        }
    }
}

fn push(log: &mut LocalLog, payload: &[u8]) {
    let builder = RecordBuilder {
        ts_ms: stele_proof::UnixMillis::new(1_000_000),
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

/// Records in frames of their own; a sealed segment where it is ended after so many.
fn lines(path: &Path, alignment: Alignment, count: u64, ended_after: Option<u64>) {
    let options = CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        frame_align: alignment,
        ..CreateOptions::new(Origin::new("example.com/test").unwrap())
    };
    let mut log = LocalLog::create(&environment(), path, &options).unwrap();
    for number in 0..count {
        push(&mut log, format!("line {number}").as_bytes());
        log.flush().unwrap();
        if ended_after == Some(number) {
            log.end_segment().unwrap();
        }
    }
    log.close().unwrap();
}

fn place_of(path: &Path, alignment: Alignment, segment: u64, text: &[u8]) -> u64 {
    let bytes = fs::read(path.join(format!("segments/{segment:016x}.seg"))).unwrap();
    let step = usize::try_from(alignment.get()).unwrap();
    let mut starts = (16384..bytes.len()).step_by(step).filter(|at| bytes[*at..].starts_with(b"SFRM"));
    let found = bytes.windows(text.len()).position(|window| window == text).unwrap();
    starts.rfind(|at| *at <= found).unwrap() as u64
}

fn read_one(reader: &LogReader, index: u64) -> Result<(), LogError> {
    let (first, end) = (LeafIndex::new(index), LeafIndex::new(index + 1));
    reader.read::<LogError>(first, end, Payloads::Read, &mut |record| {
        assert_eq!(record.index, first);
        Ok(())
    })
}

#[test]
fn what_is_sound_before_damage_is_read_and_what_was_durable_is_never_beyond_the_end() {
    for alignment in ALIGNMENTS {
        let temporary = tempdir().unwrap();
        let path = temporary.path().join("log");
        lines(&path, alignment, 20, None);
        let size = LogReader::open(&environment(), &path).unwrap().size().get();
        for (at, what) in [(70, "body"), (20, "header")] {
            let damaged = temporary.path().join(what);
            copy(&path, &damaged);
            // Record 11: genesis is record 0.
            let place = place_of(&damaged, alignment, 0, b"\"seq\":11,");
            overwrite(&damaged.join("segments/0000000000000000.seg"), place + at, &[0xff]);
            let before = files(&damaged);
            let reader = LogReader::open(&environment(), &damaged).unwrap();
            assert_eq!(reader.size().get(), 11, "{what}");
            for index in 0..11 {
                read_one(&reader, index).unwrap();
                reader.prove_inclusion(LeafIndex::new(index), reader.size()).unwrap();
            }
            for index in 11..size {
                assert!(matches!(read_one(&reader, index), Err(LogError::Damaged(_))), "{what}: record {index}");
            }
            assert!(matches!(read_one(&reader, size), Err(LogError::BeyondEnd { .. })), "{what}");
            // A range is clipped at the end, and stops at damage, after what is sound.
            let mut told = 0;
            let ended = reader.read::<LogError>(LeafIndex::new(5), LeafIndex::new(size), Payloads::Leave, &mut |_| {
                told += 1;
                Ok(())
            });
            assert!(matches!(ended, Err(LogError::Damaged(_))), "{what}");
            assert_eq!(told, 6, "{what}");
            drop(reader);
            assert!(matches!(LocalLog::open(&environment(), &damaged), Err(LogError::Damaged(_))));
            let mut after = files(&damaged);
            after.insert("lock".to_owned(), before["lock"].clone());
            assert!(after == before, "{what}: a refused opening changes nothing");
        }
    }
}

#[test]
fn in_a_sealed_segment_every_other_record_is_read() {
    for alignment in ALIGNMENTS {
        let temporary = tempdir().unwrap();
        let path = temporary.path().join("log");
        lines(&path, alignment, 30, Some(19));
        let size = LogReader::open(&environment(), &path).unwrap().size().get();
        let file = path.join("segments/0000000000000000.seg");
        assert!(fs::metadata(&file).unwrap().permissions().readonly());
        let place = usize::try_from(place_of(&path, alignment, 0, b"\"seq\":11,")).unwrap();
        // Rot asks for no permission.
        let handle = RealDisk.open(&file, Access::Read).unwrap();
        handle.set_mode(Mode::Private).unwrap();
        overwrite(&file, place as u64 + 70, &[0xff]);
        handle.set_mode(Mode::Sealed).unwrap();
        let reader = LogReader::open(&environment(), &path).unwrap();
        assert_eq!(reader.size().get(), size);
        for index in 0..size {
            let read = read_one(&reader, index);
            assert_eq!(matches!(read, Err(LogError::Damaged(_))), index == 11, "record {index}: {read:?}");
        }
        // An opening does not read what is sealed; the whole log has it as needed.
        let directory = LogDirectory::new(&path);
        assert_eq!(standing(&RealDisk, &directory, Extent::Unsealed).unwrap(), Standing::MayVote);
        let ranges = needed(&directory);
        assert_eq!(ranges.len(), 1);
        assert_eq!((ranges[0].from.get(), ranges[0].identified_by), (place as u64, IdentifiedBy::OwnHeader));
    }
}

/// Prepared space is not written again at each opening.
#[test]
fn opening_after_a_clean_stop_writes_a_slot_and_no_zeros() {
    for alignment in ALIGNMENTS {
        let temporary = tempdir().unwrap();
        let directory = bare_log(&temporary.path().join("log"), alignment);
        let path = directory.segment_file(SegmentFile::Frames(SegmentNumber::new(0)));
        let (store, _) = open_store(quick(), &directory).unwrap();
        let entries = vec![one(0, 300), one(1, 400)];
        for entry in &entries {
            store.append(entry.clone(), None).unwrap();
        }
        store.close().unwrap();
        let end = tail_behind(alignment, &entries).offset.get();
        resize(&path, 8 << 20);
        for _ in 0..3 {
            let disk = ControlledDisk::quick();
            let (store, recovered) = open_store(Arc::new(disk.clone()), &directory).unwrap();
            // The slot; the hard state has a page for each of two copies.
            assert_eq!((recovered.cut, disk.written(".seg")), (None, 4096));
            store.close().unwrap();
        }
        // After a kill the page cache is looked at, too, and not written either.
        drop(open_store(quick(), &directory).unwrap());
        let disk = ControlledDisk::quick();
        let (store, _) = open_store(Arc::new(disk.clone()), &directory).unwrap();
        assert_eq!(disk.written(".seg"), 4096);
        drop(store);
        // Garbage behind a torn end is gone afterwards, at the cost of the pages that it lies in.
        let junk = [(end + 64, 9), (3 << 20, 1), ((3 << 20) + 5000, 4096), ((8 << 20) - 1, 1)];
        for (at, len) in junk {
            overwrite(&path, at, &Random(at).bytes(len));
        }
        let disk = ControlledDisk::quick();
        let (store, recovered) = open_store(Arc::new(disk.clone()), &directory).unwrap();
        assert!(recovered.cut.is_some());
        assert!(disk.written(".seg") < 64 << 10, "{} bytes", disk.written(".seg"));
        check(&store, &entries, "behind garbage");
        drop(store);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 8 << 20);
        assert!(bytes[usize::try_from(end).unwrap()..].iter().all(|byte| *byte == 0));
        assert!(end > FRAMES_START.get());
    }
}

/// FAULTS 9: a crash at any call of a truncation over several files.
#[test]
fn a_truncation_over_several_files_interrupted_at_any_call_brings_no_old_entry_back() {
    for alignment in ALIGNMENTS {
        let log = Files::new(alignment);
        for calls in 0.. {
            let temporary = tempdir().unwrap();
            let directory = LogDirectory::new(temporary.path().join("log"));
            copy(log.directory.path(), directory.path());
            let disk = ControlledDisk::quick();
            let (store, _) = open_store(Arc::new(disk.clone()), &directory).unwrap();
            disk.die_after(calls);
            let truncated = store.truncate(RaftIndex::new(4));
            let finished = !disk.is_dead();
            assert_eq!(truncated.is_ok(), finished, "{calls} calls: {truncated:?}");
            drop(store);
            let (store, recovered) = open_store(quick(), &directory).unwrap_or_else(|e| panic!("{calls} calls: {e}"));
            // All or nothing, or, in between, what of the old entries still links.
            let kept = usize::try_from(recovered.tail.next_index.get()).unwrap();
            assert!((4..=log.entries.len()).contains(&kept) && (!finished || kept == 4), "{calls} calls: {kept}");
            check(&store, &log.entries[..kept], "after a truncation");
            store.truncate(RaftIndex::new(4)).unwrap();
            let mut expected = log.entries[..4].to_vec();
            // As long as the old ones, so that each ends where an old one begins.
            for leaf in 3..6 {
                let new = fixture::batch(2, leaf, &[(vec![b'n'; 900], Some(vec![b'm'; 900]))]);
                store.append(new.clone(), None).unwrap();
                store.flush().unwrap();
                expected.push(new);
            }
            drop(store);
            let (store, recovered) = open_store(quick(), &directory).unwrap();
            assert_eq!((recovered.tail, recovered.cut), (tail_behind(alignment, &expected), None), "{calls} calls");
            check(&store, &expected, "after the truncation");
            drop(store);
            if finished {
                assert!(calls > 10, "{calls} calls");
                break;
            }
        }
    }
}
