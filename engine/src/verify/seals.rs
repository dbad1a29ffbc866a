//! Seal records, held against the segments they are about.
//!
//! A seal record stands in a later segment than the one it is about, in the order of segments.

use std::collections::{BTreeMap, BTreeSet};

use stele_proof::LeafIndex;

use crate::error::Damage;
use crate::number::{BlockHeight, SegmentNumber};
use crate::reserved::SegmentSealed;
use crate::segment::SegmentFile;

use super::files::damage;

/// What a segment that has ended turned out to be.
enum Ended {
    /// All of it is good: this is what its seal record must say.
    Good(Box<SegmentSealed>),
    /// Something was found; one finding is enough.
    Damaged,
}

/// Segments that have ended, and their seal records.
#[derive(Default)]
pub(crate) struct Seals {
    waiting: BTreeMap<SegmentNumber, Ended>,
    /// Records could not all be read: seal records may be missing.
    broken: bool,
    /// Segments that are what their seal records say.
    agreed: BTreeSet<SegmentNumber>,
}

impl Seals {
    /// A segment has ended, and its files are good.
    pub(crate) fn good(&mut self, body: SegmentSealed) {
        self.waiting.insert(body.segment, Ended::Good(Box::new(body)));
    }

    /// A segment is damaged.
    pub(crate) fn damaged(&mut self, segment: SegmentNumber) {
        self.waiting.insert(segment, Ended::Damaged);
        self.broken = true;
    }

    /// A seal record could not be read: which segment it is about is not known.
    pub(crate) const fn lost(&mut self) {
        self.broken = true;
    }

    /// Whether something was found in a segment.
    pub(crate) fn is_damaged(&self, segment: SegmentNumber) -> bool {
        matches!(self.waiting.get(&segment), Some(Ended::Damaged))
    }

    /// Holds a seal record against its segment; what does not agree is damage in that segment's file.
    pub(crate) fn recorded(&mut self, leaf: LeafIndex, record: &SegmentSealed) -> Option<Damage> {
        match self.waiting.remove(&record.segment) {
            Some(Ended::Good(found)) => {
                // What a state file adds up is not known where records are missing.
                let same_state = self.broken || found.state_digest == record.state_digest;
                let field = difference(&found, record).or((!same_state).then_some("state file"));
                let Some(field) = field else {
                    self.agreed.insert(record.segment);
                    return None;
                };
                let what = format!(
                    "the segment is not what its seal record, record {leaf}, says: {field}; restore it from a copy"
                );
                let leaf = Some(found.leaves.first);
                Some(Damage { leaf, ..damage(SegmentFile::Frames(record.segment), 0, &what) })
            }
            Some(Ended::Damaged) => None,
            None => {
                let what = format!("record {leaf} is the seal record of a segment that had not ended before it");
                Some(Damage { leaf: Some(leaf), ..damage(SegmentFile::Frames(record.segment), 0, &what) })
            }
        }
    }

    /// Segments that are what their seal records say.
    pub(crate) fn agreed(&mut self) -> BTreeSet<SegmentNumber> {
        std::mem::take(&mut self.agreed)
    }

    /// The first segment that waits for its seal record.
    pub(crate) fn oldest_waiting(&self) -> Option<SegmentNumber> {
        self.waiting.iter().find(|(_, ended)| matches!(ended, Ended::Good(_))).map(|(segment, _)| *segment)
    }

    /// Segments without a seal record: missing where their time is over, else a note.
    ///
    /// A block is not completed before the segments that ended before it have their seal records, save
    /// those whose records do not fit into it any more.
    pub(crate) fn finish(
        self,
        end: LeafIndex,
        height: BlockHeight,
        findings: &mut Vec<Damage>,
        notes: &mut Vec<String>,
    ) {
        for (segment, ended) in self.waiting {
            let Ended::Good(found) = ended else { continue };
            let late = end.get() - found.leaves.end.get() > 2 * height.leaves();
            let name = SegmentFile::Frames(segment);
            if self.broken || !late {
                let name = crate::directory::relative(name);
                let why = if self.broken { "has no seal record among those read" } else { "has no seal record yet" };
                notes.push(format!("{name} {why}, so its digest was compared with nothing"));
            } else {
                let what = "the segment has no seal record, though two more blocks were filled since";
                findings.push(Damage { leaf: Some(found.leaves.first), ..damage(name, 0, what) });
            }
        }
    }
}

/// The first thing in which a seal record differs.
fn difference(found: &SegmentSealed, record: &SegmentSealed) -> Option<&'static str> {
    let same = [
        ("file length", found.file_bytes == record.file_bytes),
        ("leaves", found.leaves == record.leaves),
        ("raft indexes", (found.first_index, found.last_index) == (record.first_index, record.last_index)),
        ("tree nodes", found.nodes == record.nodes),
        ("digest tree", found.digest_root == record.digest_root),
        ("payload parts", found.payload_parts == record.payload_parts),
        ("file digest", found.file_digest == record.file_digest),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}

#[cfg(test)]
mod tests {
    use stele_proof::digest_tree::Digest;

    use super::*;
    use crate::number::RaftIndex;
    use crate::segment::LeafRange;

    const HEIGHT: u8 = 8;

    /// What a seal record says otherwise.
    type Change<'c> = &'c dyn Fn(&mut SegmentSealed);

    fn body(segment: u64, end: u64) -> SegmentSealed {
        SegmentSealed {
            segment: SegmentNumber::new(segment),
            file_bytes: 20_480,
            file_digest: Digest::of(b"file"),
            leaves: LeafRange { first: LeafIndex::new(0), end: LeafIndex::new(end) },
            first_index: RaftIndex::new(0),
            last_index: RaftIndex::new(3),
            digest_root: None,
            nodes: Vec::new(),
            state_digest: None,
            payload_parts: 0,
        }
    }

    fn finish(seals: Seals, end: u64) -> (Vec<Damage>, Vec<String>) {
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        seals.finish(LeafIndex::new(end), BlockHeight::new(HEIGHT).unwrap(), &mut findings, &mut notes);
        (findings, notes)
    }

    #[test]
    fn a_seal_record_is_missing_once_two_blocks_were_filled_since() {
        for (end, late) in [(256, false), (768, false), (769, true)] {
            let mut seals = Seals::default();
            seals.good(body(0, 256));
            let (findings, notes) = finish(seals, end);
            assert_eq!((findings.len(), notes.len()), (usize::from(late), usize::from(!late)), "{end} leaves");
        }
        let mut seals = Seals::default();
        seals.good(body(0, 256));
        seals.damaged(SegmentNumber::new(1));
        assert!(finish(seals, 10_000).0.is_empty(), "its record may have been in the damaged segment");
    }

    #[test]
    fn every_difference_is_told_and_damage_only_once() {
        let leaf = LeafIndex::new(300);
        let recorded = |change: Change<'_>| {
            let mut seals = Seals::default();
            seals.good(body(0, 256));
            let mut record = body(0, 256);
            change(&mut record);
            seals.recorded(leaf, &record).map(|damage| damage.what)
        };
        assert_eq!(recorded(&|_| ()), None);
        let changes: [(&str, Change<'_>); 5] = [
            ("file length", &|record| record.file_bytes += 8),
            ("file digest", &|record| record.file_digest = Digest::of(b"other")),
            ("raft indexes", &|record| record.last_index = record.last_index.next()),
            ("payload parts", &|record| record.payload_parts += 1),
            ("state file", &|record| record.state_digest = Some(Digest::of(b"state"))),
        ];
        for (field, change) in changes {
            assert!(recorded(change).is_some_and(|what| what.contains(&format!(": {field};"))), "{field}");
        }
        let mut seals = Seals::default();
        assert!(seals.recorded(leaf, &body(0, 256)).is_some(), "no such segment has ended");
        seals.damaged(SegmentNumber::new(0));
        assert!(seals.recorded(leaf, &body(0, 1)).is_none());
    }
}
