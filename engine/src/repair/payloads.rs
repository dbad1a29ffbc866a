//! What is wrong with the payload files of a segment, slot by slot.

use std::collections::BTreeMap;

use stele_proof::LeafIndex;
use stele_proof::record::Record;

use crate::batch::Batch;
use crate::directory::{read_file_header, relative};
use crate::disk::{DiskFile, read_up_to};
use crate::error::{Damage, LogError};
use crate::frame::{EntryKind, Placed};
use crate::number::{Alignment, SegmentNumber};
use crate::read_back::check_payload;
use crate::segment::{FileHeader, LeafRange, PAGE_BYTES, PAYLOADS_START, PayloadPart, SegmentFile};

use super::plan::{Fill, Patch, Restored};
use super::source::Source;

/// The payload files of the segment at hand.
pub(super) struct Payloads<'a> {
    own: &'a Source<'a>,
    copy: &'a Source<'a>,
    segment: SegmentNumber,
    alignment: Alignment,
    open: BTreeMap<PayloadPart, Part>,
}

/// One part.
pub(super) struct Part {
    own: Option<Box<dyn DiskFile>>,
    copy: Option<Box<dyn DiskFile>>,
    /// Where its last payload ends, padding included.
    pub(super) len: u64,
    pub(super) patches: Vec<Patch>,
    pub(super) restored: Vec<Restored>,
    /// What neither log has.
    pub(super) lost: Vec<Damage>,
}

impl Part {
    /// Whether the file is there.
    pub(super) const fn is_missing(&self) -> bool {
        self.own.is_none()
    }

    /// The length that the file has.
    pub(super) fn own_len(&self) -> Result<u64, LogError> {
        Ok(self.own.as_ref().map_or(Ok(0), |file| file.status().map(|status| status.len))?)
    }
}

impl<'a> Payloads<'a> {
    pub(super) const fn of(
        own: &'a Source<'a>,
        copy: &'a Source<'a>,
        segment: SegmentNumber,
        alignment: Alignment,
    ) -> Self {
        Self { own, copy, segment, alignment, open: BTreeMap::new() }
    }

    /// The parts that frames named.
    pub(super) fn finish(self) -> BTreeMap<PayloadPart, Part> {
        self.open
    }

    /// Looks at the payload slots of a frame.
    ///
    /// # Errors
    /// [`LogError`] of a failed call.
    pub(super) fn frame(&mut self, placed: &Placed, body: &[u8], header: &FileHeader) -> Result<(), LogError> {
        let Some(place) = placed.header.payload else { return Ok(()) };
        let name = SegmentFile::Payloads(self.segment, place.part);
        if !self.open.contains_key(&place.part) {
            let header = FileHeader { segment: self.segment, part: Some(place.part), ..*header };
            let part = self.open_part(name, &header)?;
            self.open.insert(place.part, part);
        }
        let Some(part) = self.open.get_mut(&place.part) else { return Ok(()) };
        let end = self.alignment.round_up(place.end());
        part.len = end;
        let len = usize::try_from(end - u64::from(place.offset)).unwrap_or(usize::MAX);
        let read = |file: Option<&dyn DiskFile>| -> Result<Vec<u8>, LogError> {
            Ok(match file {
                Some(file) => read_up_to(file, u64::from(place.offset), len)?,
                None => Vec::new(),
            })
        };
        let bytes = read(part.own.as_deref())?;
        let payload_len = place.len as usize;
        let mut theirs = None;
        for slot in slots(placed, body, payload_len) {
            let Range { at, end: slot_end } = slot.range;
            if bytes.get(at..slot_end).is_some_and(|bytes| slot.holds(bytes)) {
                continue;
            }
            if theirs.is_none() {
                theirs = Some(read(part.copy.as_deref())?);
            }
            let from = u64::from(place.offset) + at as u64;
            let to = u64::from(place.offset) + slot_end as u64;
            let good = theirs.as_ref().and_then(|theirs| theirs.get(at..slot_end)).filter(|bytes| slot.holds(bytes));
            if good.is_some() {
                part.patches.push(Patch { at: from, fill: Fill::Copy(to - from) });
                part.restored.push(Restored { from, to, leaves: slot.leaves });
            } else {
                let what = "the payload is not the one that the record commits to, here and in the copy".to_owned();
                part.lost.push(Damage { file: relative(name), offset: from, leaf: Some(slot.leaves.first), what });
            }
        }
        if bytes.len() < len || bytes[payload_len..].iter().any(|byte| *byte != 0) {
            part.patches.push(Patch { at: place.end(), fill: Fill::Zeros(end - place.end()) });
        }
        Ok(())
    }

    fn open_part(&self, name: SegmentFile, header: &FileHeader) -> Result<Part, LogError> {
        let (own, copy) = (self.own.open(name)?, self.copy.open(name)?);
        let mut patches = Vec::new();
        let good = match &own {
            Some(file) => match read_file_header(file.as_ref(), name) {
                Ok(found) => found == *header,
                Err(LogError::Damaged(_)) => false,
                Err(error) => return Err(error),
            },
            None => false,
        };
        let mut restored = Vec::new();
        if !good {
            patches.push(Patch { at: 0, fill: Fill::Bytes(header.encode().to_vec()) });
            restored.push(Restored::without_records(0, PAGE_BYTES as u64));
        }
        Ok(Part { own, copy, len: u64::from(PAYLOADS_START), patches, restored, lost: Vec::new() })
    }
}

/// Where in the payload of a frame.
struct Range {
    at: usize,
    end: usize,
}

/// A slot, and the record that commits to it; without one, the frame is void, and any bytes will do.
struct Slot<'b> {
    range: Range,
    leaves: LeafRange,
    record: Option<Record<'b>>,
}

impl Slot<'_> {
    fn holds(&self, bytes: &[u8]) -> bool {
        self.record.as_ref().is_none_or(|record| check_payload(record, bytes, bytes.len()).is_ok())
    }
}

fn slots<'b>(placed: &Placed, body: &'b [u8], len: usize) -> Vec<Slot<'b>> {
    let header = &placed.header;
    let first = header.first_leaf;
    let whole = || {
        vec![Slot {
            range: Range { at: 0, end: len },
            leaves: LeafRange { first, end: header.leaves_after().next_leaf() },
            record: None,
        }]
    };
    if header.kind != EntryKind::Batch || header.leaf_count == 0 {
        return whole();
    }
    let Ok(batch) = Batch::parse(body) else { return whole() };
    let mut slots = Vec::new();
    for (leaf, stored) in (first.get()..).zip(batch.records()) {
        let (at, len) = (stored.slot.0 as usize, stored.slot.1 as usize);
        if len > 0 {
            let leaves = LeafRange { first: LeafIndex::new(leaf), end: LeafIndex::new(leaf + 1) };
            slots.push(Slot { range: Range { at, end: at + len }, leaves, record: Record::parse(stored.bytes).ok() });
        }
    }
    slots
}
