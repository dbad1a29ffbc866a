//! Following a log that is being written: only what is new is read.

use stele_proof::LeafIndex;
use stele_proof::record::Salt;

use crate::directory::Inventory;
use crate::disk::Disk;
use crate::error::LogError;
use crate::frame::{Placed, Tail};
use crate::number::SegmentNumber;
use crate::replay::each_stored;
use crate::walk::{Visit, walk};

use super::{LogReader, Payloads, ReadRecord, VisibleEnd, look};

impl LogReader {
    /// The tail before the frames of the segment that holds a leaf which can be read, or behind the last
    /// frame where the leaf is the next one.
    pub(crate) fn tail_before(&self, leaf: LeafIndex) -> Result<Tail, LogError> {
        if leaf >= self.size().next_leaf() {
            return Ok(self.end.tail);
        }
        // A sealed segment is found by its sidecar; the open one is read from its start anyway.
        let start = self.start_of(self.inventory.sealed)?;
        if leaf >= start.leaves.next_leaf() {
            return Ok(start);
        }
        self.start_of(self.segment_of(leaf)?.segment())
    }

    /// Visits the frames from a tail to the readable end; each follows the one before it.
    pub(crate) fn walk_from(&self, start: Tail, visit: &mut Visit<'_>) -> Result<(), LogError> {
        walk(self.disk.as_ref(), &self.directory, start, &self.end.tail, visit)
    }

    /// Looks for what became durable since, and moves the end. Without a writer at work the end stays: then
    /// what lies behind it was never confirmed, and only [`LogReader::open`] judges it.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn advance(&mut self) -> Result<(), LogError> {
        let (inventory, slots) = look(self.disk.as_ref(), &self.directory)?;
        let newest = slots.iter().max_by_key(|slot| slot.group).copied();
        let before = self.end.tail;
        let Some(newest) = newest.filter(|slot| (slot.segment, slot.start) > (before.segment, before.offset)) else {
            return Ok(());
        };
        let end = self.confirmed(before, Some(&newest))?;
        self.moved(before, inventory, end);
        self.whole()
    }

    /// Moves the end to where a writer in the same process says that it may be read ([`LogReader::open_at`]).
    ///
    /// # Errors
    /// [`LogError`].
    pub fn advance_to(&mut self, end: &Tail) -> Result<(), LogError> {
        let before = self.end.tail;
        if end.next_index <= before.next_index {
            return Ok(());
        }
        let inventory = Inventory::take(self.disk.as_ref(), &self.directory)?;
        self.moved(before, inventory, VisibleEnd { tail: *end, note: None, damage: None });
        Ok(())
    }

    fn moved(&mut self, before: Tail, inventory: Inventory, end: VisibleEnd) {
        // The tiles of what was open are no longer all of them.
        self.rebuilt.borrow_mut().retain(|segment, _| *segment < before.segment.min(self.inventory.sealed));
        (self.inventory, self.end) = (inventory, end);
    }

    /// As [`LogReader::advance`], and hands out the records that are new.
    ///
    /// # Errors
    /// [`LogError`]; whatever `each` answers.
    pub fn follow<E: From<LogError>>(
        &mut self,
        payloads: Payloads,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.end.tail;
        self.advance()?;
        let mut stopped = None;
        let walked = self.walk_from(before, &mut |_, placed, body| {
            if stopped.is_none() {
                stopped = self.hand_out(placed, body, payloads, each)?.err();
            }
            Ok(())
        });
        match stopped {
            Some(error) => Err(error),
            None => Ok(walked?),
        }
    }

    fn hand_out<E>(
        &self,
        placed: &Placed,
        body: &[u8],
        payloads: Payloads,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<Result<(), E>, LogError> {
        let mut stored = Vec::new();
        each_stored(placed, body, &mut |leaf, record, slot| stored.push((leaf, record.canonical(), slot.slot)))?;
        for (index, canonical, slot) in stored {
            let payload: Option<(Salt, Vec<u8>)> = match (payloads, placed.header.payload) {
                (Payloads::Read, Some(place)) if slot.1 > 0 => {
                    Some(self.payload(placed.segment, place, slot, index, canonical)?)
                }
                _ => None,
            };
            if let Err(error) = each(ReadRecord { index, canonical: canonical.to_vec(), payload }) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// The tail before a segment's frames, and the bytes of its tile sidecar, recomputed
    /// where it has no good one.
    pub(crate) fn sidecar(&self, segment: SegmentNumber) -> Result<(Tail, Vec<u8>), LogError> {
        Ok((self.start_of(segment)?, self.tiles(segment)?.as_bytes().to_vec()))
    }
}
