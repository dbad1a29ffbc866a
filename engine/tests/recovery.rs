//! What is opened after a crash, after rot, and after an interruption at any call.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;
mod image;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fixture::{
    ControlledDisk, Random, bare_log, batch, copy, entry, files, fixed_on, open_store, overwrite, resize, start_of,
};
use image::{ALIGNMENTS, Image, check, environment, forget_slot, image, newest, one, places, quick, tail_behind};
use stele_engine::birth::CreateOptions;
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::disk::{Disk, RealDisk};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::hard_state::read_hard_state;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::membership::{Membership, Node};
use stele_engine::number::{Alignment, BlockHeight, NodeId, SegmentNumber, SiteName};
use stele_engine::reader::LogReader;
use stele_engine::recovery::{Holders, Recovered};
use stele_engine::ring::Slot;
use stele_engine::segment::FRAMES_START;
use stele_engine::store::{Entry, SegmentStore};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use tempfile::tempdir;

#[test]
fn a_last_group_cut_anywhere_leaves_what_was_acknowledged() {
    for alignment in ALIGNMENTS {
        let mut image = image::image(alignment);
        let (start, end) = image.group();
        let whole = image.goes_on(&image.directory.clone(), "undamaged");
        assert_eq!(whole, 5);
        image = image::image(alignment);
        for at in places(start, end) {
            for slot in [true, false] {
                let copy = image.copy();
                resize(&Image::file(&copy), at);
                if !slot {
                    forget_slot(&copy);
                }
                let second = image.tail(4).offset.get();
                let kept = image.goes_on(&copy, &format!("cut at {at}, slot kept: {slot}"));
                assert_eq!(kept, 3 + usize::from(at >= second), "cut at {at}");
                fs::remove_dir_all(copy.path()).unwrap();
            }
        }
    }
}

#[test]
fn a_last_group_zeroed_or_full_of_garbage_leaves_what_was_acknowledged() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let (start, end) = image.group();
        let len = usize::try_from(end - start).unwrap();
        let mut random = Random(1);
        for at in places(start, end) {
            for (what, bytes) in [("zeros", vec![0; len]), ("garbage", random.bytes(len as u64))] {
                let bytes = &bytes[usize::try_from(at - start).unwrap()..];
                for slot in [true, false] {
                    let copy = image.copy();
                    overwrite(&Image::file(&copy), at, bytes);
                    if !slot {
                        forget_slot(&copy);
                    }
                    let what = format!("{what} from {at}, slot kept: {slot}");
                    let kept = image.goes_on(&copy, &what);
                    assert!(kept < 5 || at >= end - 4096, "{what}");
                    fs::remove_dir_all(copy.path()).unwrap();
                }
            }
        }
    }
}

/// Two frames, one flush: the disk kept the second and not the first.
#[test]
fn a_second_frame_without_the_first_of_its_group_is_no_rot() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let (start, _) = image.group();
        let second = image.tail(4).offset.get();
        for what in ["zeros", "garbage", "header only", "body only"] {
            for slot in [true, false] {
                let copy = image.copy();
                let path = Image::file(&copy);
                let len = usize::try_from(second - start).unwrap();
                match what {
                    "zeros" => overwrite(&path, start, &vec![0; len]),
                    "garbage" => overwrite(&path, start, &Random(2).bytes(len as u64)),
                    "header only" => overwrite(&path, start + 64, &vec![0; len - 64]),
                    _ => overwrite(&path, start, &[0; 64]),
                }
                if !slot {
                    forget_slot(&copy);
                }
                let what = format!("{what}, slot kept: {slot}");
                let bytes = fs::read(&path).unwrap();
                assert_eq!(image.goes_on(&copy, &what), 3, "{what}");
                let after = fs::read(&path).unwrap();
                let start = usize::try_from(start).unwrap();
                assert_eq!(bytes[16384..start], after[16384..start], "{what}: no valid frame is rewritten");
                fs::remove_dir_all(copy.path()).unwrap();
            }
        }
    }
}

#[test]
fn the_same_damage_below_the_newest_slots_start_is_rot() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        for number in 0..3 {
            let (at, next) = (image.tail(number).offset.get(), image.tail(number + 1).offset.get());
            for (what, from, bytes) in [
                ("a flipped header", at + 20, vec![0xff]),
                ("a flipped length", at + 46, vec![0xff]),
                ("a flipped body", at + 70, vec![0xff]),
                ("garbage", at, Random(3).bytes(next - at)),
                ("zeros", at, vec![0; usize::try_from(next - at).unwrap()]),
                ("zeros up to the end", at, vec![0; usize::try_from(image.group().1 - at).unwrap()]),
            ] {
                let copy = image.copy();
                overwrite(&Image::file(&copy), from, &bytes);
                image.is_rot(&copy, at, "it was durable");
                let name = format!("{what} in frame {number}");
                resize(&Image::file(&copy), at + 1);
                image.is_rot(&copy, at, "it was durable");
                fs::remove_dir_all(copy.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[test]
fn after_a_clean_stop_every_bad_frame_is_rot() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let clean = image.copy();
        open_store(quick(), &clean).unwrap().0.close().unwrap();
        let (_, end) = image.group();
        for number in 0..5 {
            let at = image.tail(number).offset.get();
            let copy = LogDirectory::new(image.temporary.path().join("damaged"));
            fixture::copy(clean.path(), copy.path());
            overwrite(&Image::file(&copy), at + 70, &[0xff]);
            image.is_rot(&copy, at, "closed cleanly");
            resize(&Image::file(&copy), at);
            image.is_rot(&copy, at, "closed cleanly");
            fs::remove_dir_all(copy.path()).unwrap();
        }
        // And what stands behind the end, too: nothing was written there.
        overwrite(&Image::file(&clean), end + 4096, &[1]);
        image.is_rot(&clean, end, "closed cleanly");
    }
}

/// The mark was made behind the newest slot; where the slot has rotted, too, it still proves the end.
#[test]
fn a_clean_mark_proves_the_end_also_where_its_slot_cannot_be_read() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let clean = image.copy();
        open_store(quick(), &clean).unwrap().0.close().unwrap();
        for slots in 0..3 {
            forget_slot(&clean);
            let number = 4;
            let at = image.tail(number).offset.get();
            let copy = LogDirectory::new(image.temporary.path().join("damaged"));
            fixture::copy(clean.path(), copy.path());
            overwrite(&Image::file(&copy), at + 70, &[0xff]);
            image.is_rot(&copy, at, "closed cleanly");
            resize(&Image::file(&copy), at);
            image.is_rot(&copy, at, "closed cleanly");
            fs::remove_dir_all(copy.path()).unwrap();
            fixture::copy(clean.path(), copy.path());
            let (store, recovered) = open_store(quick(), &copy).unwrap();
            assert_eq!((recovered.tail, recovered.cut), (image.tail(5), None), "{slots}");
            store.close().unwrap();
            fs::remove_dir_all(copy.path()).unwrap();
        }
    }
}

#[test]
fn a_committed_frame_of_the_last_group_is_never_cut() {
    for alignment in ALIGNMENTS {
        let last = vec![one(3, 3000), one(4, 1500)];
        let mut image = Image::new(alignment, vec![one(0, 300), one(1, 2000), one(2, 70)], 4, last);
        let (first, second) = (image.group().0, image.tail(4).offset.get());
        let copy = image.copy();
        overwrite(&Image::file(&copy), first + 70, &[0xff]);
        image.is_rot(&copy, first, "it was committed");
        let copy = image.copy();
        overwrite(&Image::file(&copy), second + 70, &[0xff]);
        assert_eq!(image.goes_on(&copy, "the frame behind it"), 4);
    }
}

#[test]
fn stale_frames_behind_a_cut_do_not_come_back() {
    for alignment in ALIGNMENTS {
        let long: Vec<Entry> = (0..6).map(|number| one(1 + number, 3000)).collect();
        let mut image = Image::new(alignment, vec![one(0, 300)], 0, long);
        let copy = image.copy();
        overwrite(&Image::file(&copy), image.group().0, &[0; 64]);
        let (store, recovered) = open_store(quick(), &copy).unwrap();
        assert_eq!(recovered.tail.next_index.get(), 1);
        assert!(recovered.cut.is_some());
        let mut expected = image.entries[..1].to_vec();
        // Short frames, so that each ends where an old one could begin.
        for number in 0..3 {
            let new = batch(2, 1 + number, &[(vec![b's'; 10], Some(vec![b'q'; 10]))]);
            store.append(new.clone(), None).unwrap();
            store.flush().unwrap();
            expected.push(new);
        }
        drop(store);
        let (store, recovered) = open_store(quick(), &copy).unwrap();
        assert_eq!((recovered.tail, recovered.cut), (tail_behind(alignment, &expected), None));
        check(&store, &expected, "short frames");
        store.close().unwrap();
        let bytes = fs::read(Image::file(&copy)).unwrap();
        let end = usize::try_from(recovered.tail.offset.get()).unwrap();
        assert!(bytes[end..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn an_unreadable_slot_only_widens_the_doubt() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let path = Image::file(&image.directory);
        let newest = Slot::place(newest(&path).group);
        // Without the newest slot the group is still read, and a torn one still cut.
        let copy = image.copy();
        overwrite(&Image::file(&copy), newest + 100, &[1]);
        assert_eq!(image.goes_on(&copy, "newest slot unreadable"), 5);
        let copy = image.copy();
        overwrite(&Image::file(&copy), newest + 100, &[1]);
        overwrite(&Image::file(&copy), image.group().0 + 70, &[0xff]);
        assert_eq!(image.goes_on(&copy, "newest slot unreadable, torn group"), 3);
        // Then the group before the last is in doubt as well, but nothing before it.
        let copy = image.copy();
        overwrite(&Image::file(&copy), newest + 100, &[1]);
        overwrite(&Image::file(&copy), image.tail(1).offset.get() + 70, &[0xff]);
        image.is_rot(&copy, image.tail(1).offset.get(), "it was durable");
        // Without any slot nothing tells how much was durable: a file is born with a full ring.
        for damaged in [None, Some(1), Some(4)] {
            let copy = image.copy();
            overwrite(&Image::file(&copy), 4096, &Random(4).bytes(3 * 4096));
            if let Some(number) = damaged {
                overwrite(&Image::file(&copy), image.tail(number).offset.get() + 70, &[0xff]);
            }
            image.is_rot(&copy, image.tail(damaged.unwrap_or(5)).offset.get(), "holds no slot");
        }
    }
}

#[test]
fn recovery_is_idempotent() {
    for alignment in ALIGNMENTS {
        let mut image = image(alignment);
        let copy = image.copy();
        overwrite(&Image::file(&copy), image.group().0 + 70, &[0xff]);
        let recover = |copy: &LogDirectory| -> (Recovered, Vec<u8>) {
            let (store, recovered) = open_store(quick(), copy).unwrap();
            drop(store);
            (recovered, fs::read(Image::file(copy)).unwrap())
        };
        let (first, bytes) = recover(&copy);
        for _ in 0..4 {
            let (again, same) = recover(&copy);
            assert_eq!((again.tail, again.cut, again.committed), (first.tail, None, first.committed));
            assert!(again.group > first.group);
            assert!(bytes[16384..] == same[16384..] && bytes[..4096] == same[..4096]);
        }
    }
}

/// A group that was torn where others hold the log, too, is never gone without the doubt that asks them for it.
#[test]
fn a_torn_group_is_cut_only_behind_its_doubt() {
    let mut image = image(Alignment::PAGE);
    overwrite(&Image::file(&image.directory), image.group().0 + 70, &[0xff]);
    let (first, end) = (image.tail(3).next_index, image.tail(5).offset);
    let voters = |nodes: &[u64]| {
        let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId::new).collect();
        let node =
            |id: &NodeId| Node { id: *id, site: SiteName::new("s").unwrap(), addresses: Vec::new(), keys: Vec::new() };
        Membership {
            token: [0; 32],
            voters: vec![nodes.iter().copied().collect()],
            nodes: nodes.iter().map(node).collect(),
        }
        .encode()
    };
    let open = |disk: ControlledDisk, directory: &LogDirectory, membership: &[u8]| {
        let inventory = Inventory::take(&RealDisk, directory).unwrap();
        let holders = (start_of(Alignment::PAGE), Holders::Members(membership));
        SegmentStore::open_held(&fixed_on(Arc::new(disk)), directory, &inventory, holders).map(|_| ())
    };
    let doubt = |directory: &LogDirectory| read_hard_state(&RealDisk, &directory.hard_state()).unwrap().doubt;
    for others in [&[1_u64][..], &[]] {
        let copy = image.copy();
        let membership = if others.is_empty() { Vec::new() } else { voters(others) };
        open(ControlledDisk::quick(), &copy, &membership).unwrap();
        assert_eq!(doubt(&copy), None, "nobody can be asked");
    }
    for calls in 0.. {
        let copy = image.copy();
        let whole = fs::read(Image::file(&copy)).unwrap();
        let disk = ControlledDisk::quick();
        disk.die_after(calls);
        drop(open(disk.clone(), &copy, &voters(&[1, 2])));
        let finished = !disk.is_dead();
        if fs::read(Image::file(&copy)).unwrap() != whole {
            assert!(doubt(&copy).is_some(), "cut after {calls} calls");
        }
        for _ in 0..2 {
            open(ControlledDisk::quick(), &copy, &voters(&[1, 2])).unwrap();
            let kept = doubt(&copy).unwrap();
            assert_eq!((kept.first, kept.segment, kept.end), (first, SegmentNumber::new(0), end));
            assert!(!kept.is_over(&image.tail(4)) && kept.is_over(&image.tail(5)));
        }
        if finished {
            return;
        }
    }
}

/// Recovery that dies at any call, and starts again, ends in the same log.
#[test]
fn recovery_may_be_interrupted_at_any_call() {
    let mut image = image(Alignment::PAGE);
    overwrite(&Image::file(&image.directory), image.group().0 + 70, &[0xff]);
    for calls in 0.. {
        let copy = image.copy();
        let disk = ControlledDisk::quick();
        disk.die_after(calls);
        drop(open_store(Arc::new(disk.clone()), &copy));
        let finished = !disk.is_dead();
        assert_eq!(image.goes_on(&copy, &format!("after {calls} calls")), 3);
        fs::remove_dir_all(copy.path()).unwrap();
        if finished {
            assert!(calls > 10, "{calls} calls");
            return;
        }
    }
}

/// Segment 0 has ended; what of the next file is there differs.
#[test]
fn a_crash_while_rolling_leaves_the_same_log() {
    for alignment in ALIGNMENTS {
        let temporary = tempdir().unwrap();
        let running = bare_log(&temporary.path().join("running"), alignment);
        let (store, _) = open_store(quick(), &running).unwrap();
        let entries = vec![one(0, 300), entry(1, EntryKind::Seal, vec![0; 8])];
        for entry in &entries {
            store.append(entry.clone(), None).unwrap();
        }
        store.flush().unwrap();
        drop(store);
        let name = "segments/0000000000000001.seg";
        for (number, what) in
            ["successor missing", "only its temporary file", "successor without frames"].into_iter().enumerate()
        {
            let copy = LogDirectory::new(temporary.path().join(number.to_string()));
            fixture::copy(running.path(), copy.path());
            let (successor, leftover) = (copy.path().join(name), copy.path().join(format!("{name}.tmp")));
            match number {
                0 => fs::remove_file(&successor).unwrap(),
                1 => {
                    fs::remove_file(&successor).unwrap();
                    fs::File::create(&leftover).unwrap();
                    resize(&leftover, 100);
                }
                _ => {}
            }
            let (store, recovered) = open_store(quick(), &copy).unwrap();
            assert_eq!((recovered.tail, recovered.cut), (tail_behind(alignment, &entries), None), "{what}");
            check(&store, &entries, what);
            let next = one(1, 10);
            store.append(next.clone(), None).unwrap();
            drop(store);
            let (store, _) = open_store(quick(), &copy).unwrap();
            let expected = [entries.clone(), vec![next]].concat();
            check(&store, &expected, what);
            store.close().unwrap();
        }
    }
}

fn options(alignment: Alignment) -> CreateOptions {
    CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        frame_align: alignment,
        ..CreateOptions::new(Origin::new("example.com/test").unwrap())
    }
}

fn push(log: &mut LocalLog, payload: &[u8]) -> Result<(), String> {
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
    let draft = Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), payload)) };
    log.push(&draft).map(drop).map_err(|error| error.to_string())
}

/// A log of twenty records in three groups, closed.
fn unsealed(path: &Path, alignment: Alignment) {
    let mut log = LocalLog::create(&environment(), path, &options(alignment)).unwrap();
    for number in 0..20 {
        push(&mut log, format!("line {number}").as_bytes()).unwrap();
        if number % 7 == 6 {
            log.flush().unwrap();
        }
    }
    log.close().unwrap();
}

/// The files of the segments, the ring of the open one (which tells this node's flushes) left out.
fn segments(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = files(&path.join("segments"));
    let open = found.keys().rev().find(|name| name.ends_with(".seg")).unwrap().clone();
    let bytes = found.get_mut(&open).unwrap();
    bytes[4096..16384].fill(0);
    // Zeros behind the end are prepared space, of which a cut leaves some.
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    found
}

fn seal(environment: &Environment, path: &Path) -> Result<(), LogError> {
    let mut log = LocalLog::open(environment, path)?;
    if fs::metadata(path.join("segments/0000000000000001.seg")).is_err() {
        log.end_segment()?;
    }
    log.close()
}

#[test]
fn sealing_may_be_interrupted_at_any_call() {
    let temporary = tempdir().unwrap();
    let before = temporary.path().join("before");
    unsealed(&before, Alignment::PAGE);
    let undisturbed = temporary.path().join("undisturbed");
    copy(&before, &undisturbed);
    seal(&environment(), &undisturbed).unwrap();
    let expected = segments(&undisturbed);
    assert!(expected.contains_key("0000000000000000.tiles"));
    for calls in 0.. {
        let path = temporary.path().join("disturbed");
        copy(&before, &path);
        let disk = ControlledDisk::quick();
        disk.die_after(calls);
        let ended = seal(&fixed_on(Arc::new(disk.clone())), &path);
        let finished = !disk.is_dead();
        assert_eq!(ended.is_ok(), finished, "{calls} calls: {ended:?}");
        seal(&fixed_on(quick()), &path).unwrap_or_else(|e| panic!("{calls} calls: {e}"));
        assert!(segments(&path) == expected, "{calls} calls");
        for (name, _) in segments(&path) {
            let sealed = fs::metadata(path.join("segments").join(&name)).unwrap().permissions().readonly();
            assert_eq!(sealed, name.starts_with("0000000000000000."), "{calls} calls: {name}");
        }
        fs::remove_dir_all(&path).unwrap();
        if finished {
            assert!(calls > 40, "{calls} calls");
            return;
        }
    }
}

/// Space that was prepared and not used is cut off, also when it was sealing that was interrupted.
#[test]
fn a_segment_that_ended_with_prepared_space_behind_it_is_sealed_to_the_same_bytes() {
    let temporary = tempdir().unwrap();
    let (one, two) = (temporary.path().join("one"), temporary.path().join("two"));
    unsealed(&one, Alignment::WORD);
    copy(&one, &two);
    seal(&environment(), &one).unwrap();
    // Ended and rolled, nothing of it sealed: the seal entry alone, through the store.
    let directory = LogDirectory::new(&two);
    let (store, _) = open_store(quick(), &directory).unwrap();
    store.append(entry(1, EntryKind::Seal, vec![0; 8]), None).unwrap();
    store.close().unwrap();
    for name in ["0000000000000000.seg", "0000000000000000.0.pay"] {
        let file = two.join("segments").join(name);
        resize(&file, fs::metadata(&file).unwrap().len() + 12_345);
    }
    fs::File::create(two.join("segments/0000000000000000.tiles.tmp")).unwrap();
    fs::File::create(two.join("checkpoint.tmp")).unwrap();
    LocalLog::open(&environment(), &two).unwrap().close().unwrap();
    assert!(segments(&two) == segments(&one));
    assert!(!files(&two).keys().any(|name| name.ends_with(".tmp")), "temporaries are deleted");
}

/// The thread that seals is gone before the lock is given back.
#[test]
fn a_log_that_is_dropped_can_be_opened_at_once() {
    let temporary = tempdir().unwrap();
    let path = temporary.path().join("log");
    unsealed(&path, Alignment::PAGE);
    for round in 0..5 {
        let mut log = LocalLog::open(&fixed_on(quick()), &path).unwrap();
        for number in 0..100 {
            push(&mut log, format!("{round} {number}").as_bytes()).unwrap();
        }
        log.end_segment().unwrap();
        drop(log);
        assert!(!RealDisk.is_locked(&path.join("lock")).unwrap());
    }
    let log = LocalLog::open(&environment(), &path).unwrap();
    log.close().unwrap();
    let reader = LogReader::open(&environment(), &path).unwrap();
    assert!(reader.size().get() > 500);
    assert_eq!(reader.inventory().sealed.get(), 5 + (reader.size().get() / 256));
}

#[test]
fn a_sealed_segment_whose_successor_is_missing_is_named() {
    let temporary = tempdir().unwrap();
    let path = temporary.path().join("log");
    unsealed(&path, Alignment::PAGE);
    seal(&environment(), &path).unwrap();
    let missing = "segments/0000000000000001.seg";
    fs::remove_file(path.join(missing)).unwrap();
    let before = files(&path);
    for error in
        [LocalLog::open(&environment(), &path).err().unwrap(), LogReader::open(&environment(), &path).err().unwrap()]
    {
        let LogError::Damaged(damage) = error else { panic!("{error}") };
        assert_eq!(damage.file, missing);
    }
    assert!(files(&path) == before);
}

/// Zeros where frames were flushed are damage to a reader as well, never the end of the log.
#[test]
fn a_reader_tells_rot_from_a_torn_tail() {
    for alignment in ALIGNMENTS {
        let temporary = tempdir().unwrap();
        let path = temporary.path().join("log");
        unsealed(&path, alignment);
        let file = path.join("segments/0000000000000000.seg");
        let good = fs::read(&file).unwrap();
        let size = LogReader::open(&environment(), &path).unwrap().size();
        let mut starts = Vec::new();
        let directory = LogDirectory::new(&path);
        let mut tail = start_of(alignment);
        let file_end = good.len() as u64;
        stele_engine::walk::walk(
            &RealDisk,
            &directory,
            tail,
            &Tail { offset: stele_engine::number::Offset::new(file_end), ..tail },
            &mut |before, placed, _| {
                starts.push(before.offset.get());
                tail = *before;
                tail.advance(placed);
                Ok(())
            },
        )
        .unwrap();
        assert!(starts.len() > 4);
        for at in &starts {
            for bytes in [vec![0; 64], vec![0; usize::try_from(file_end - at).unwrap()], vec![0xff]] {
                overwrite(&file, *at, &bytes);
                // Without the frames up to genesis nothing can be read.
                let damage = match LogReader::open(&environment(), &path) {
                    Ok(reader) => reader.end().damage.clone().unwrap_or_else(|| panic!("zeros at {at}")),
                    Err(LogError::Damaged(damage)) => damage,
                    Err(error) => panic!("zeros at {at}: {error}"),
                };
                assert_eq!(damage.offset, *at, "{damage}");
                overwrite(&file, FRAMES_START.get(), &good[16384..]);
            }
        }
        // The same behind everything that was flushed is a torn tail, told in a note.
        fs::remove_file(path.join("hard-state")).unwrap();
        overwrite(&file, file_end, &[0; 100]);
        overwrite(&file, file_end + 100, &[1]);
        let reader = LogReader::open(&environment(), &path).unwrap();
        assert_eq!(reader.size(), size);
        assert!(reader.end().note.as_ref().unwrap().contains("left out"));
    }
}

#[test]
fn an_interrupted_making_of_a_log_says_what_to_do() {
    let temporary = tempdir().unwrap();
    let mut unfinished = 0;
    for calls in 0.. {
        let path = temporary.path().join("log");
        let disk = ControlledDisk::quick();
        disk.die_after(calls);
        drop(LocalLog::create(&fixed_on(Arc::new(disk.clone())), &path, &options(Alignment::PAGE)));
        let finished = !disk.is_dead();
        // Reading says the same as opening, and opening twice the same as once.
        let read = LogReader::open(&environment(), &path).map(|reader| reader.size().get());
        let opened = LocalLog::open(&environment(), &path).map(|log| log.size().get());
        let again = LocalLog::open(&environment(), &path).map(|log| log.size().get());
        match (read, opened, again) {
            (Ok(read), Ok(1), Ok(1)) => assert_eq!(read, 1, "{calls} calls"),
            (Err(LogError::Unfinished(_)), Err(LogError::Unfinished(_)), Err(error @ LogError::Unfinished(_))) => {
                unfinished += 1;
                let text = error.to_string();
                assert!(text.contains("remove the directory and run `stele init` again"), "{calls} calls: {text}");
            }
            (Err(LogError::NoLog(_)), Err(LogError::NoLog(_)), Err(LogError::NoLog(_))) => {
                // Nothing but perhaps an empty directory: then `stele init` does.
                LocalLog::create(&environment(), &path, &options(Alignment::PAGE)).unwrap().close().unwrap();
            }
            (read, opened, again) => panic!(
                "{calls} calls: {:?}, {:?}, {:?}",
                read.map_err(|e| e.to_string()),
                opened.map_err(|e| e.to_string()),
                again.map_err(|e| e.to_string())
            ),
        }
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        if finished {
            break;
        }
    }
    assert!(unfinished > 20);
}
