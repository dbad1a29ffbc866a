//! Every row of the recovery table, on bytes that give its evidence: what is opened is what it says.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fixture;
mod image;

use fixture::{Random, files, open_store, overwrite};
use image::{ALIGNMENTS, Image, image, newest, one, quick};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::RealDisk;
use stele_engine::error::LogError;
use stele_engine::number::{Alignment, RaftIndex};
use stele_engine::recovery::examine::{Extent, examine_directory};
use stele_engine::recovery::quarantine::{Standing, WithoutOffer};
use stele_engine::recovery::table::{BadEntry, Evidence, FirstBad, Mark, Newest, Outcome, TABLE};
use stele_engine::ring::Slot;

/// Bytes on disk, and the entry before which the first bad place lies, if there is one.
struct Case {
    image: Image,
    copy: LogDirectory,
    bad: Option<usize>,
}

/// Whether the log was closed after the crash, and the ring as it then is.
fn prepare(image: &mut Image, evidence: &Evidence) -> LogDirectory {
    let copy = image.copy();
    if evidence.mark == Mark::Matches {
        open_store(quick(), &copy).unwrap().0.close().unwrap();
    }
    copy
}

/// Builds the evidence.
fn build(alignment: Alignment, evidence: &Evidence) -> Case {
    let mut image = match (evidence.entry, evidence.mark) {
        (BadEntry::Committed, Mark::Differs) => {
            let last = vec![one(3, 3000), one(4, 1500)];
            Image::new(alignment, vec![one(0, 300), one(1, 2000), one(2, 70)], 5, last)
        }
        _ => image(alignment),
    };
    let copy = prepare(&mut image, evidence);
    let path = Image::file(&copy);
    if evidence.entry == BadEntry::Committed
        && (evidence.mark, evidence.first_bad) != (Mark::Differs, FirstBad::AtOrBehindStart)
    {
        // More is known to be committed than has come here.
        let slot = Slot { committed: RaftIndex::new(99), ..newest(&path) };
        overwrite(&path, Slot::place(slot.group), &slot.encode());
    }
    let at = |entry: usize| image.tail(entry).offset.get();
    let bad = match evidence.first_bad {
        FirstBad::Nowhere => None,
        FirstBad::BelowStart => Some(1),
        // A clean stop leaves start = end: only behind it is anything at or behind the start.
        FirstBad::AtOrBehindStart if evidence.mark == Mark::Matches => Some(5),
        FirstBad::AtOrBehindStart => Some(3),
    };
    match bad {
        None => {}
        Some(5) => overwrite(&path, at(5) + 4096, &[1]),
        Some(number) => overwrite(&path, at(number) + 70, &[0xff]),
    }
    if evidence.newest == Newest::NoSlot {
        overwrite(&path, 4096, &Random(5).bytes(3 * 4096));
    }
    Case { image, copy, bad }
}

fn all() -> impl Iterator<Item = Evidence> {
    let first_bad = [FirstBad::Nowhere, FirstBad::BelowStart, FirstBad::AtOrBehindStart];
    first_bad.into_iter().flat_map(|first_bad| {
        [Newest::Readable, Newest::NoSlot].into_iter().flat_map(move |newest| {
            [Mark::Matches, Mark::Differs].into_iter().flat_map(move |mark| {
                [BadEntry::Committed, BadEntry::Unknown].into_iter().map(move |entry| Evidence {
                    first_bad,
                    newest,
                    mark,
                    entry,
                })
            })
        })
    })
}

/// Where no slot can be read, the clean mark stands for the newest one, and without it nothing is known of
/// what a slot tells.
fn as_seen(evidence: Evidence) -> Evidence {
    match (evidence.newest, evidence.mark) {
        (Newest::Readable, _) => evidence,
        (Newest::NoSlot, Mark::Matches) => Evidence { newest: Newest::Readable, entry: BadEntry::Unknown, ..evidence },
        (Newest::NoSlot, Mark::Differs) => {
            let nowhere = evidence.first_bad == FirstBad::Nowhere;
            let first_bad = if nowhere { FirstBad::Nowhere } else { FirstBad::AtOrBehindStart };
            Evidence { first_bad, entry: BadEntry::Unknown, ..evidence }
        }
    }
}

#[test]
fn every_row_does_what_it_says() {
    for alignment in ALIGNMENTS {
        let mut seen = [0; TABLE.len()];
        for evidence in all() {
            let rows: Vec<usize> = (0..TABLE.len()).filter(|row| TABLE[*row].matches(&evidence)).collect();
            let [row] = rows[..] else { panic!("{evidence:?} is in {} rows", rows.len()) };
            let Case { image, copy, bad } = build(alignment, &evidence);
            let what = format!("{alignment:?}, {evidence:?}");
            let seen_as = as_seen(evidence);
            let row = TABLE.iter().position(|row| row.matches(&seen_as)).unwrap_or(row);
            let found = examine_directory(&RealDisk, &copy, Extent::Whole).unwrap();
            assert_eq!((found.evidence, found.outcome), (seen_as, TABLE[row].outcome), "{what}");
            let standing = match found.standing {
                Standing::MayVote => Outcome::EndsHere,
                Standing::MayNotVote(_) => Outcome::Rot,
                Standing::MustAsk { without_offer: WithoutOffer::Cut, .. } => Outcome::InDoubt,
                Standing::MustAsk { without_offer: WithoutOffer::Wait, .. } => Outcome::InDoubtCommitted,
            };
            assert_eq!(standing, TABLE[row].outcome, "{what}");
            let before = files(copy.path());
            let opened = open_store(quick(), &copy);
            match (TABLE[row].outcome, opened) {
                (Outcome::EndsHere, Ok((store, recovered))) => {
                    assert_eq!((recovered.tail, recovered.cut), (image.tail(5), None), "{what}");
                    store.close().unwrap();
                }
                (Outcome::InDoubt, Ok((store, recovered))) => {
                    let tail = image.tail(bad.unwrap());
                    assert_eq!(recovered.tail, tail, "{what}");
                    assert_eq!(recovered.cut.map(|cut| cut.offset), Some(tail.offset), "{what}");
                    store.close().unwrap();
                }
                (Outcome::Rot | Outcome::InDoubtCommitted, Err(LogError::Damaged(damage))) => {
                    assert_eq!(damage.offset, image.tail(bad.unwrap_or(5)).offset.get(), "{what}: {damage}");
                    assert!(files(copy.path()) == before, "{what}: a refused opening changes nothing");
                }
                (outcome, opened) => panic!("{what}: {outcome:?}, {:?}", opened.map(|(_, recovered)| recovered)),
            }
            seen[row] += 1;
        }
        assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    }
}
