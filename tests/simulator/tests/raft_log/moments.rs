//! Moments that are hit by chance too seldom: a torn group, a cut over three segments, the order of a queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stele_engine::hard_state::{Vote, read_hard_state};
use stele_engine::number::{Alignment, NodeId, RaftIndex, SegmentNumber, Term};
use stele_engine::segment::{FRAMES_START, PAGE_BYTES, SegmentFile};
use stele_engine::store::SegmentStore;
use stele_engine::writer::OnDurable;
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::Flavour;
use stele_simulator::random::SplitMix64;

use crate::model::{Asked, Model};
use crate::node::{World, born, compare, directory, examine};

const CASES: [(Media, Alignment); 2] = [(Media::TearsSectors, Alignment::PAGE), (Media::WholeSectors, Alignment::WORD)];

fn append(store: &SegmentStore, model: &mut Model, asked: Asked) {
    // Whether it is taken shows in what is found: here the power may be off.
    if store.append(asked.entry.clone(), None).is_ok() {
        model.append(asked);
    }
}

fn opened(world: &World, disk: &FakeDisk, model: &mut Model) -> SegmentStore {
    let (store, recovered) = world.open(disk).unwrap();
    compare(&store, &recovered, disk, model);
    store
}

#[test]
fn of_two_frames_under_one_flush_the_second_alone_is_no_entry() {
    let world = World::new(SplitMix64::new(1));
    let disk = born(Alignment::PAGE, Media::WholeSectors, 1);
    let (mut model, mut random) = (Model::new(), SplitMix64::new(2));
    let store = opened(&world, &disk, &mut model);
    let first = model.batch(1, &mut random);
    append(&store, &mut model, first);
    store.flush().unwrap();
    model.durable = 1;
    for _ in 0..2 {
        let next = model.batch(1, &mut random);
        append(&store, &mut model, next);
    }
    // The group is written, and the power fails at its flush: frames, slot, flush.
    disk.power_off_in(3, Flavour::Failed);
    store.write_queued();
    assert!(disk.is_off());
    let path = directory().segment_file(SegmentFile::Frames(SegmentNumber::new(0)));
    let page = |disk: &FakeDisk, entry: usize| {
        let at = usize::try_from(FRAMES_START.get()).unwrap() + entry * PAGE_BYTES;
        let (bytes, _) = disk.look(&path).unwrap();
        bytes.get(at..at + 512).unwrap_or(&[0; 512]).to_vec()
    };
    let written = page(&disk, 2);
    let mut seen = 0;
    for seed in 0..400 {
        let crashed = disk.crash(&mut SplitMix64::new(seed));
        if page(&crashed, 1) != [0; 512] || page(&crashed, 2) != written {
            continue;
        }
        seen += 1;
        let mut model = model.clone();
        let store = opened(&world, &crashed, &mut model);
        assert_eq!(model.entries.len(), 1);
        // Nor does it come back behind another entry of the same length.
        let other = model.batch(1, &mut random);
        append(&store, &mut model, other);
        store.flush().unwrap();
        model.durable = 2;
        examine(&world, &crashed.crash(&mut random), &model, &mut random);
    }
    assert!(seen > 3, "seen {seen} times");
}

/// Three segments and a bit, in groups of one to three entries, with payloads, all durable.
fn long_log(world: &World, disk: &FakeDisk) -> (SegmentStore, Model) {
    let (mut model, mut random) = (Model::new(), SplitMix64::new(3));
    let store = opened(world, disk, &mut model);
    for segment in 0..4 {
        for _ in 0..3 + segment {
            let next = model.batch(2, &mut random);
            append(&store, &mut model, next);
            if random.percent(50) {
                store.write_queued();
            }
        }
        if segment < 3 {
            let seal = model.seal();
            append(&store, &mut model, seal);
        }
        store.flush().unwrap();
    }
    model.durable = model.entries.len();
    (store, model)
}

#[test]
fn entries_behind_a_cut_over_three_segments_never_come_back() {
    const FROM: usize = 2;
    for (case, (media, alignment)) in (0..).zip(CASES) {
        for flavour in Flavour::ALL {
            let mut outcomes = BTreeSet::new();
            for call in 1.. {
                let world = World::new(SplitMix64::new(1));
                let disk = born(alignment, media, case);
                let (store, mut model) = long_log(&world, &disk);
                let mut random = SplitMix64::new(call);
                disk.power_off_in(call, flavour);
                // The truncation, and the entries that take the place of what was cut, first the same again.
                model.begin_cut(FROM);
                if store.truncate(RaftIndex::new(FROM as u64)).is_ok() {
                    model.end_cut(FROM);
                    for again in [true, false] {
                        let next = model.again().filter(|_| again);
                        let next = next.unwrap_or_else(|| model.batch(1, &mut random));
                        append(&store, &mut model, next);
                        if store.flush().is_ok() {
                            model.durable = model.entries.len();
                        }
                    }
                }
                let done = !disk.is_off();
                for _ in 0..4 {
                    let crashed = disk.crash(&mut random);
                    let mut found = model.clone();
                    drop(opened(&world, &crashed.snapshot(), &mut found));
                    outcomes.insert(found.entries.len());
                    examine(&world, &crashed, &model, &mut random);
                }
                examine(&world, &disk.kill(), &model, &mut random);
                if done {
                    break;
                }
            }
            assert!(outcomes.contains(&FROM) && outcomes.contains(&(FROM + 2)), "{outcomes:?}");
            assert!(
                outcomes.iter().any(|entries| *entries > FROM + 2),
                "none was crashed before the cut: {outcomes:?}"
            );
        }
    }
}

/// Asks for votes, entries and a truncation, one flush each, and answers how many of them were done.
fn ask_in_order(store: &SegmentStore, model: &mut Model) -> usize {
    let told = Arc::new(AtomicUsize::new(0));
    let tell = || -> OnDurable {
        let told = Arc::clone(&told);
        Box::new(move |result| {
            if result.is_ok() {
                told.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let vote = |term| Vote { term: Term::new(term), node: NodeId::new(1), committed: false };
    let mut random = SplitMix64::new(5);
    let mut entry = |model: &mut Model| {
        let next = model.batch(1, &mut random);
        if store.append(next.entry.clone(), Some(tell())).is_ok() {
            model.append(next);
        }
    };
    store.save_vote(vote(1), tell());
    entry(model);
    store.save_vote(vote(2), tell());
    entry(model);
    if store.truncate(RaftIndex::new(1)).is_ok() {
        model.end_cut(1);
        told.fetch_add(1, Ordering::Relaxed);
        store.save_vote(vote(3), tell());
        entry(model);
        store.write_queued();
    }
    told.load(Ordering::Relaxed)
}

#[test]
fn vote_append_and_truncate_reach_the_disk_in_the_order_asked() {
    // The last vote's term, and the entries, after each step; the second and the third entry differ.
    let states = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (2, 1), (3, 1), (3, 2)];
    let mut outcomes = BTreeSet::new();
    for (media, alignment) in CASES {
        for flavour in Flavour::ALL {
            for call in 1.. {
                let world = World::new(SplitMix64::new(1));
                let disk = born(alignment, media, 1);
                let (store, _) = world.open(&disk).unwrap();
                let mut model = Model::new();
                disk.power_off_in(call, flavour);
                let done = ask_in_order(&store, &mut model);
                let all = !disk.is_off();
                let mut random = SplitMix64::new(call);
                for _ in 0..8 {
                    let crashed = disk.crash(&mut random);
                    let (_store, recovered) = world.open(&crashed).unwrap();
                    let vote = read_hard_state(&crashed, &directory().hard_state()).unwrap().vote;
                    let found = (vote.term.get(), recovered.tail.next_index.get());
                    let next = states.iter().skip(done).take(2).any(|state| *state == found);
                    assert!(next, "{media:?}, {flavour:?}, call {call}: {found:?} after {done} steps");
                    outcomes.insert(found);
                }
                if all {
                    break;
                }
            }
        }
    }
    assert_eq!(outcomes, states.into());
}
