//! Every bit of every file of a small log, flipped: what is guarded is found and named, what is derived is
//! found or makes no difference, no record is ever read wrong or left out, and no log is opened with fewer
//! records (`spoiled` is the oracle, with the table of a log's directory as data). Then larger damage:
//! pages, whole files, frames in the wrong place.
//!
//! `STELE_BITS=all` walks every bit; without it a selection is walked, another one for another
//! `STELE_SEED`. What fails is printed with file, byte and bit.
//!
//! A bit takes about 3 ms of processor time (built for release, on two busy cores), most of it for memory
//! that the engine's readers ask for; there are two million, so all of them should take about
//! an hour and a half (estimated from a part of them).

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;
mod spoiled;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use small_log::{LOG, create, environment, new_disk, open, push};
use spoiled::{Class, Files, Image, Part, Spoiled, Stopped, TABLE, class_of, files_of, row_of};
use stele_engine::directory::LogDirectory;
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::local::LocalLog;
use stele_engine::reader::LogReader;
use stele_engine::segment::{FRAMES_START, PAGE_BYTES};
use stele_engine::state::{self, StateKeeper};
use stele_proof::LeafIndex;
use stele_proof::record::Record;
use stele_proof::tree::CompactRange;
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::random::SplitMix64;

/// A log of three sealed segments and an open one with several groups, which is still open.
fn grow(disk: &FakeDisk, younger: &mut Vec<Files>) -> LocalLog {
    let mut log = create(disk).unwrap();
    for (segment, payload) in [&b"a payload"[..], b"", b"another one"].into_iter().enumerate() {
        for group in 0..2 {
            for number in 0..=group {
                push(&mut log, if number == 0 { "s" } else { "t" }, payload).unwrap();
            }
            log.flush().unwrap();
            younger.push(files_of(disk));
        }
        if segment == 1 {
            log.checkpoint().unwrap();
        }
        log.end_segment().unwrap();
    }
    log.close().unwrap();
    younger.push(files_of(disk));
    let mut log = open(disk).unwrap();
    for payload in [&b"in the open one"[..], b"", b"more"] {
        push(&mut log, "s", payload).unwrap();
        push(&mut log, "u", b"").unwrap();
        log.flush().unwrap();
        younger.push(files_of(disk));
    }
    log
}

fn closed() -> Image {
    let (disk, mut younger) = (new_disk(), Vec::new());
    let mut log = grow(&disk, &mut younger);
    log.checkpoint().unwrap();
    younger.push(files_of(&disk));
    log.close().unwrap();
    Image::new("closed", disk, Stopped::Closed, younger)
}

fn killed() -> Image {
    let (disk, mut younger) = (new_disk(), Vec::new());
    let mut log = grow(&disk, &mut younger);
    for payload in [&b"last"[..], b""] {
        push(&mut log, "s", payload).unwrap();
        log.cut(Box::new(|result| result.unwrap())).unwrap();
    }
    log.flush().unwrap();
    let disk = disk.kill();
    drop(log);
    Image::new("killed", disk, Stopped::Killed, younger)
}

/// The closed log with a state file, made by hand: one is due behind 64 MiB of frames only. `verify` tells
/// that none was due; opening uses it.
fn with_state() -> Image {
    let Image { disk, younger, .. } = closed();
    let directory = LogDirectory::new(LOG);
    let reader = LogReader::open(&environment(&disk), Path::new(LOG)).unwrap();
    let segment = reader.inventory().sealed;
    let mut keeper = StateKeeper::new(100);
    let mut tree = CompactRange::new();
    let start = Tail::start(reader.inventory().alignment, reader.inventory().height);
    let mut tail = start;
    let end = Tail { segment, offset: FRAMES_START, ..reader.end().tail };
    stele_engine::walk::walk(&disk, &directory, start, &end, &mut |before, placed, body| {
        tail = *before;
        tail.advance(placed);
        match placed.header.kind {
            EntryKind::Membership => keeper.membership = body.to_vec(),
            EntryKind::Batch => {
                for record in stele_engine::batch::Batch::parse(body).unwrap().records() {
                    let record = Record::parse(record.bytes).unwrap();
                    let leaf = LeafIndex::new(tree.size().get());
                    tree.append(record.leaf_hash());
                    keeper.chains.advance(&record, record.self_hash(), leaf).unwrap();
                }
            }
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    let bytes = state::encode(&tail, &tree, &keeper.chains, &keeper.membership);
    let last = stele_engine::number::SegmentNumber::new(segment.get() - 1);
    state::store(&disk, &directory, last, &bytes).unwrap();
    let loaded = state::load_newest(&disk, &directory, segment, 100).unwrap();
    assert_eq!(loaded.map(|state| state.tail), Some(tail), "the state file is used");
    Image::new("with a state file", disk, Stopped::Closed, younger)
}

fn judged(image: &Image, spoiled: &Spoiled) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| image.judge(spoiled))) {
        #[expect(clippy::print_stderr, reason = "what failed")]
        {
            eprintln!("{}; STELE_SEED={}", spoiled.what, seed());
        }
        resume_unwind(panic);
    }
}

fn seed() -> u64 {
    std::env::var("STELE_SEED").map_or(1, |text| text.parse().unwrap())
}

fn walks_all() -> bool {
    std::env::var("STELE_BITS").is_ok_and(|which| which == "all")
}

/// Bits to flip in a file: all of them, or a selection. One bit is taken of every byte at the head of the
/// units of the open segment and of a copy in each generation file, so that no field is left out; of every `STRIDE`th
/// byte near some that are not zero; and of one byte of each page.
fn bits(image: &Image, name: &str, random: &mut SplitMix64) -> Vec<(usize, u32)> {
    let bytes = &image.files[name];
    if walks_all() {
        return (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))).collect();
    }
    let mut taken = Vec::new();
    let any_bit = |random: &mut SplitMix64| u32::try_from(random.below(8)).unwrap();
    let is_open = name.starts_with("segments/0000000000000003.");
    if is_open || name.ends_with("-state") {
        let units = image.units[name].iter().take(if is_open { usize::MAX } else { 1 });
        let heads = units.flat_map(|unit| unit.bytes.clone().take(HEAD_BYTES));
        taken.extend(heads.filter(|byte| *byte < bytes.len()).map(|byte| (byte, any_bit(random))));
    }
    let mut phase = random.below(STRIDE);
    for (line, chunk) in bytes.chunks(LINE_BYTES).enumerate() {
        let is_zero = chunk.iter().all(|byte| *byte == 0);
        for at in 0..chunk.len() {
            phase += 1;
            if !is_zero && phase.is_multiple_of(STRIDE) {
                taken.push((line * LINE_BYTES + at, any_bit(random)));
            }
        }
    }
    for (page, chunk) in bytes.chunks(PAGE_BYTES).enumerate() {
        let at = usize::try_from(random.below(chunk.len() as u64)).unwrap();
        taken.push((page * PAGE_BYTES + at, any_bit(random)));
    }
    taken
}

const LINE_BYTES: usize = 32;
const STRIDE: u64 = 12;
const HEAD_BYTES: usize = 64;

#[test]
fn the_images_have_every_file_of_the_table() {
    let image = with_state();
    let rows: BTreeSet<usize> = image.files.keys().map(|name| row_of(name)).collect();
    assert_eq!(rows, (0..TABLE.len()).collect(), "{:?}", image.files.keys());
    let classes: BTreeSet<Class> = TABLE.iter().map(|(_, _, class)| *class).collect();
    assert_eq!(classes.len(), 5);
}

fn every_bit(image: &Image, files: &dyn Fn(&str) -> bool) {
    let mut random = SplitMix64::new(seed());
    for name in image.files.keys().filter(|name| files(name)) {
        for (byte, bit) in bits(image, name, &mut random) {
            judged(image, &image.flip(name, byte, bit));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_closed_log() {
    every_bit(&closed(), &|_| true);
}

#[test]
fn every_flipped_bit_of_a_killed_log() {
    every_bit(&killed(), &|name| name != "log.toml" && name != "policy");
}

#[test]
fn every_flipped_bit_of_a_state_file() {
    every_bit(&with_state(), &|name| name.starts_with("state/"));
}

/// Judges the log with these files in place of its own.
fn replaced(image: &Image, what: &str, changes: &[(&str, Option<&[u8]>)]) {
    if let Some(spoiled) = image.replace(what, changes) {
        judged(image, &spoiled);
    }
}

fn guarded(image: &Image) -> impl Iterator<Item = (&String, &Vec<u8>)> {
    image.files.iter().filter(|(name, _)| class_of(name) == Class::Guarded)
}

/// The bytes with others written over them.
fn over(bytes: &[u8], at: usize, others: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed.resize(bytes.len().max(at + others.len()), 0);
    changed[at..at + others.len()].copy_from_slice(others);
    changed
}

#[test]
fn every_zeroed_page_and_every_stale_page_is_found() {
    for image in [closed(), killed()] {
        for (name, bytes) in guarded(&image) {
            for (number, page) in bytes.chunks(PAGE_BYTES).enumerate() {
                let at = number * PAGE_BYTES;
                let zeroed = over(bytes, at, &vec![0; page.len()]);
                replaced(&image, &format!("{name}, page {number} zeroed"), &[(name, Some(&zeroed))]);
                for (age, files) in image.younger.iter().enumerate() {
                    let Some(old) = files.get(name).and_then(|old| old.chunks(PAGE_BYTES).nth(number)) else {
                        continue;
                    };
                    // What is behind the end of the older file was never written.
                    let mut old = old.to_vec();
                    old.resize(page.len(), 0);
                    let stale = over(bytes, at, &old);
                    let what = format!("{name}, page {number} as it was at age {age}");
                    replaced(&image, &what, &[(name, Some(&stale))]);
                }
            }
        }
    }
}

#[test]
fn every_truncated_or_missing_file_is_found() {
    let mut random = SplitMix64::new(seed());
    for image in [closed(), killed(), with_state()] {
        for (name, bytes) in image.files.iter().filter(|(name, _)| *name != "lock") {
            replaced(&image, &format!("{name} is missing"), &[(name, None)]);
            let mut lens: BTreeSet<usize> = [0, 1, bytes.len() / 2, bytes.len() - 1].into();
            lens.extend((0..bytes.len()).step_by(PAGE_BYTES));
            // Where a unit begins, and somewhere in it.
            for unit in &image.units[name] {
                let inside = random.below((unit.bytes.len() as u64).min(PAGE_BYTES as u64));
                lens.extend([unit.bytes.start, unit.bytes.start + usize::try_from(inside).unwrap()]);
            }
            for len in lens.into_iter().filter(|len| *len < bytes.len()) {
                replaced(&image, &format!("{name} cut to {len} bytes"), &[(name, Some(&bytes[..len]))]);
            }
        }
    }
}

#[test]
fn every_file_of_a_segment_in_the_place_of_another_is_found() {
    for image in [closed(), killed()] {
        for ending in [".seg", ".pay", ".tiles", ".hashes"] {
            let files: Vec<_> = image.files.iter().filter(|(name, _)| name.ends_with(ending)).collect();
            assert!(files.len() > 2);
            for (one, its) in &files {
                for (other, others) in files.iter().filter(|(other, _)| other != one) {
                    replaced(&image, &format!("{one} is a copy of {other}"), &[(one, Some(others))]);
                    let swapped: [(&str, Option<&[u8]>); 2] = [(one, Some(others)), (other, Some(its))];
                    replaced(&image, &format!("{one} and {other} are swapped"), &swapped);
                }
            }
        }
    }
}

/// A write that went to another place, in its own file or another, or to both.
#[test]
fn every_misdirected_or_duplicated_frame_is_found() {
    for image in [closed(), killed()] {
        for ending in [".seg", ".pay"] {
            let contents = |(name, bytes): (&'_ String, &'_ Vec<u8>)| -> Vec<(String, usize, Vec<u8>)> {
                let units = image.units[name].iter().filter(|unit| unit.part != Part::Whole && !unit.bytes.is_empty());
                let units = units.map(|unit| {
                    let end = unit.bytes.end.min(bytes.len());
                    (name.clone(), unit.bytes.start, bytes[unit.bytes.start..end].to_vec())
                });
                units.collect()
            };
            let places: Vec<_> =
                guarded(&image).filter(|(name, _)| name.ends_with(ending)).flat_map(contents).collect();
            let mut random = SplitMix64::new(seed());
            for (from, at, frame) in places.iter().filter(|(_, _, frame)| !frame.is_empty()) {
                for _ in 0..if walks_all() { places.len() } else { 4 } {
                    let (to, place, _) = random.pick(&places);
                    let changed = over(&image.files[to], *place, frame);
                    let what = format!("{from}, byte {at} written to {to}, byte {place}");
                    replaced(&image, &what, &[(to, Some(&changed))]);
                }
            }
        }
    }
}
