//! Seal records, held against the segments they are about.
//!
//! A seal record stands in a later segment than the one it is about, in the order of segments.

use std::collections::BTreeMap;

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
pub(super) struct Seals {
    waiting: BTreeMap<SegmentNumber, Ended>,
    /// A segment whose records could not all be read: seal records may be missing.
    broken: bool,
}

impl Seals {
    /// A segment has ended, and its files are good.
    pub(super) fn good(&mut self, body: SegmentSealed) {
        self.waiting.insert(body.segment, Ended::Good(Box::new(body)));
    }

    /// A segment is damaged.
    pub(super) fn damaged(&mut self, segment: SegmentNumber) {
        self.waiting.insert(segment, Ended::Damaged);
        self.broken = true;
    }

    /// Whether something was found in a segment.
    pub(super) fn is_damaged(&self, segment: SegmentNumber) -> bool {
        matches!(self.waiting.get(&segment), Some(Ended::Damaged))
    }

    /// Holds a seal record against its segment; what does not agree is damage in that segment's file.
    pub(super) fn recorded(&mut self, leaf: LeafIndex, record: &SegmentSealed) -> Option<Damage> {
        match self.waiting.remove(&record.segment) {
            Some(Ended::Good(found)) => {
                let field = difference(&found, record).or_else(|| {
                    // What a state file adds up is not known where records are missing.
                    let same = self.broken || found.state_digest == record.state_digest;
                    (!same).then_some("state file")
                })?;
                let what = format!("the segment is not what its seal record, record {leaf}, says: {field}");
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

    /// Segments without a seal record: missing where their time is over, else a note.
    ///
    /// A block is not completed before the segments that ended before it have their seal records, save
    /// those whose records do not fit into it any more.
    pub(super) fn finish(
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
                notes.push(format!("{name} has no seal record yet, so its digest was compared with nothing"));
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
