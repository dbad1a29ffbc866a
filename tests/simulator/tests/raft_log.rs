//! The segment store as the Raft log store of a node whose power fails, whose process is killed and
//! whose disk answers with errors, over and over, from one seed.
//!
//! A schedule is a few lives of one directory. In each, the log is opened and appended to with terms that
//! rise (blanks, memberships, batches valid and void, seals, payloads), truncated (also over several
//! segments, also again and again, also right behind a roll), votes are cast, entries become committed,
//! and the store is closed or dropped and opened again, until the steps are done or something goes wrong;
//! then the moment is crashed and killed several times, each outcome is examined, and one of them is the
//! start of the next life.
//!
//! Examined, against plain vectors that know nothing of the engine's bookkeeping:
//! - every entry that was told durable, and was not truncated afterwards, is there with its bytes;
//! - what is there is a prefix of what was asked: nothing that was truncated comes back, nothing is made up;
//! - the vote is the last one told durable or one asked for later, and neither vote nor entry is ahead of
//!   what was asked for before it (FAULTS line 10);
//! - frames link, indexes and terms ascend, segments roll where they must, zeros follow the end;
//! - what was found is found again after recovery was interrupted, over and over, and after another crash;
//! - no failed call is taken for rot, and with no byte free nothing is lost;
//! - callbacks come in order, each once, and the store goes on.
//!
//! Not examined: committed entries that are not durable here, as a follower can have them; sealed segments
//! (`local_log` has those); rot; a process that is started again, without its machine, after the flush of a
//! directory has failed.
//!
//! Seeds and their settings are described in [`stele_simulator::schedules`]:
//! `STELE_SCHEDULES=100000 cargo test --release -p stele-simulator --test raft_log no_schedule`.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "raft_log/model.rs"]
mod model;
#[path = "raft_log/moments.rs"]
mod moments;
#[path = "raft_log/node.rs"]
mod node;

use model::Model;
use node::{End, Node, World, born, examine, examine_full};
use stele_engine::number::Alignment;
use stele_simulator::fake_disk::Media;
use stele_simulator::fault::Flavour;
use stele_simulator::mishap::{How, plan};
use stele_simulator::random::SplitMix64;
use stele_simulator::schedules::{Seeds, Story};

/// Schedules where nobody asks for more.
const SCHEDULES: u64 = 2000;

fn schedule(seed: u64, story: &Story) {
    let mut random = SplitMix64::new(seed);
    let (media, alignment) = *random.pick(&[
        (Media::TearsSectors, Alignment::PAGE),
        (Media::WholeSectors, Alignment::PAGE),
        // Smaller frames share sectors, and need media that write them whole.
        (Media::WholeSectors, Alignment::WORD),
    ]);
    story.tell(format!("seed {seed}: {media:?}, {alignment:?}"));
    let world = World::new(random.split());
    let mut disk = born(alignment, media, random.next());
    let mut model = Model::new();
    for life in 0..=1 + random.below(3) {
        story.tell(format!("life {life}: {}", plan(&disk, &mut random)));
        let mut own = random.split();
        let end = Node::live(&world, &disk, &mut model, own.split(), story);
        story.tell(format!("life {life}: {end:?} after call {}; {model}\n{}", disk.calls(), disk.trace()));
        let full = disk.clear_capacity();
        assert!(disk.failed() > 0 || full || matches!(end, End::Done), "nothing went wrong, and yet: {end:?}");
        for copy in 0..3 {
            story.tell(format!("life {life}: crash {copy}"));
            examine(&world, &disk.crash(&mut own), &model, &mut own);
        }
        story.tell(format!("life {life}: kill, and no byte is free"));
        examine_full(&world, &disk.kill(), &model, *own.pick(&Flavour::ALL));
        // See `How::any`.
        if !disk.has_lost_names() {
            story.tell(format!("life {life}: kill"));
            examine(&world, &disk.kill(), &model, &mut own);
        }
        let how = How::any(&disk, &mut random);
        story.tell(format!("life {life}: then a {how:?}"));
        disk = how.end(&disk, &mut own);
    }
}

#[test]
fn no_schedule_loses_an_entry_or_brings_one_back() {
    Seeds::asked_or(SCHEDULES).run(schedule);
}

#[test]
fn a_seed_repeats_every_call() {
    for seed in 0..8 {
        let [one, two] = [(), ()].map(|()| {
            let story = Story::default();
            schedule(seed, &story);
            story.into_lines()
        });
        assert!(one == two, "seed {seed}");
    }
}
