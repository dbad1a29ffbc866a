//! The flush ring at the head of a segment file: what is known to be durable here.
//!
//! Three slots, each alone in its page; a flush group writes slot `group mod 3` under the flush that
//! makes the group durable. Node-local: never copied with the file, zero once it is sealed.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELRING` |
//! | 8 | 4 | checksum | CRC-32 of bytes 12..4,096 |
//! | 12 | 4 | zero | |
//! | 16 | 8 | segment number | |
//! | 24 | 8 | group | |
//! | 32 | 8 | start | first byte of the group: everything before it is durable |
//! | 40 | 8 | end | first byte behind the group |
//! | 48 | 8 | committed | one past the highest raft index known to be committed |
//! | 56 | .. | zero | |
//!
//! I-RING-1: one flush group is outstanding at a time, and none spans two files.
//! I-RING-2: groups count up by one from slot to slot written, over all files.
//! I-RING-3: every unsealed segment file has been born with three slots {start = end = 16,384}; since a group
//! under way is in one page, no crash leaves the file in which the log ends without a slot.

use crate::disk::{DiskError, DiskFile, read_up_to};
use crate::frame::{read_u32, read_u64};
use crate::number::{Group, LIMIT, Offset, RaftIndex, SegmentNumber};
use crate::segment::{PAGE_BYTES, RING_SLOTS, RING_START};

const MAGIC: [u8; 8] = *b"STELRING";

/// One slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The file it lies in.
    pub segment: SegmentNumber,
    /// The flush group that wrote it.
    pub group: Group,
    /// First byte of the group.
    pub start: Offset,
    /// First byte behind it.
    pub end: Offset,
    /// One past the highest committed raft index known when it was written.
    pub committed: RaftIndex,
}

impl Slot {
    /// Where in its file the slot of a group lies.
    pub const fn place(group: Group) -> u64 {
        RING_START + group.get() % RING_SLOTS * PAGE_BYTES as u64
    }

    /// Writes the page.
    pub fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        page[16..24].copy_from_slice(&self.segment.get().to_le_bytes());
        page[24..32].copy_from_slice(&self.group.get().to_le_bytes());
        page[32..40].copy_from_slice(&self.start.get().to_le_bytes());
        page[40..48].copy_from_slice(&self.end.get().to_le_bytes());
        page[48..56].copy_from_slice(&self.committed.get().to_le_bytes());
        let checksum = crc32fast::hash(&page[12..]);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a page; `None` for anything the encoder would not have written there.
    pub fn decode(page: &[u8], segment: SegmentNumber) -> Option<Self> {
        if page.len() != PAGE_BYTES || read_u32(page, 8) != crc32fast::hash(&page[12..]) {
            return None;
        }
        let slot = Self {
            segment: SegmentNumber::new(read_u64(page, 16)),
            group: Group::new(read_u64(page, 24)),
            start: Offset::new(read_u64(page, 32)),
            end: Offset::new(read_u64(page, 40)),
            committed: RaftIndex::new(read_u64(page, 48)),
        };
        let possible = slot.group.get() < LIMIT && slot.end.get() < LIMIT && slot.committed.get() < LIMIT;
        (slot.encode() == page && slot.segment == segment && slot.start <= slot.end && possible).then_some(slot)
    }
}

/// The valid slots of a file and whether the ring is all zero.
///
/// # Errors
/// [`DiskError`] of a failed read.
pub fn read_ring(file: &dyn DiskFile, segment: SegmentNumber) -> Result<(Vec<Slot>, RingState), DiskError> {
    let bytes = read_up_to(file, RING_START, PAGE_BYTES * usize::try_from(RING_SLOTS).unwrap_or(3))?;
    let mut slots = Vec::new();
    for (number, page) in (0..).zip(bytes.chunks(PAGE_BYTES)) {
        match Slot::decode(page, segment) {
            Some(slot) if slot.group.get() % RING_SLOTS == number => slots.push(slot),
            _ => {}
        }
    }
    let state = if bytes.iter().all(|byte| *byte == 0) { RingState::Cleared } else { RingState::Written };
    Ok((slots, state))
}

/// Whether a ring has been cleared, as it is in a sealed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingState {
    /// All zero.
    Cleared,
    /// Something is there.
    Written,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            segment: SegmentNumber::new(1),
            group: Group::new(7),
            start: Offset::new(0x4000),
            end: Offset::new(0x5000),
            committed: RaftIndex::new(9),
        }
    }

    #[test]
    fn golden_bytes_both_ways() {
        let page = slot().encode();
        let mut golden = [0; PAGE_BYTES];
        golden[..8].copy_from_slice(b"STELRING");
        golden[8..12].copy_from_slice(&[0xa1, 0xff, 0x24, 0xc9]);
        for (at, byte) in [(16, 1), (24, 7), (33, 0x40), (41, 0x50), (48, 9)] {
            golden[at] = byte;
        }
        assert_eq!(page[..64], golden[..64]);
        assert_eq!(page, golden);
        assert_eq!(Slot::decode(&golden, SegmentNumber::new(1)), Some(slot()));
        assert_eq!(Slot::decode(&golden, SegmentNumber::new(2)), None);
        assert_eq!(Slot::place(Group::new(7)), 8192);
    }

    #[test]
    fn every_flipped_bit_is_unreadable() {
        let page = slot().encode();
        for at in 0..PAGE_BYTES * 8 {
            let mut flipped = page;
            flipped[at / 8] ^= 1 << (at % 8);
            assert_eq!(Slot::decode(&flipped, SegmentNumber::new(1)), None, "bit {at}");
        }
    }
}
