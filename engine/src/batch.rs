//! The body of a batch: records for consecutive leaves, as they cross the wire and lie in a frame.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | term | the term its leader proposed it in |
//! | 8 | 8 | first leaf | the leaf index of the first record |
//! | 16 | 4 | record count `n` | 1 to [`MAX_RECORDS`] |
//! | 20 | 4 | payload length | bytes of all payload slots together |
//! | 24 | .. | records | canonical bytes, one after the other |
//! | .. | 4 `n` | payload slot lengths | only where the payload length is not 0; 0 = none, else salt and payload |
//! | .. | 2 `n` | record lengths | up to the end of the body |
//!
//! Little-endian. Immutable once proposed. The lengths stand behind the records so that a batch is
//! built in place, without a copy. A payload slot is the 32-byte salt and then the payload.
//!
//! A batch is *valid* if its term is that of its entry, its first leaf is the number of leaves before
//! it, and it does not cross the end of a block; otherwise it is *void*: its bytes stay, it has no
//! leaves (DESIGN.md section 7).

use bytes::Bytes;
use stele_proof::LeafIndex;
use stele_proof::record::{MAX_RECORD_BYTES, Salt};

use crate::number::Term;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 24;
/// Most records in one batch: the largest block.
pub const MAX_RECORDS: usize = 1 << 20;
/// Most bytes of payload slots in one batch.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

const _: () = assert!(HEADER_BYTES == 8 + 8 + 4 + 4);

/// Why bytes are not a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The lengths do not add up to the body.
    #[error("the lengths in the batch do not add up to its body")]
    Lengths,
    /// A count or length is out of bounds.
    #[error("a count or length in the batch is out of bounds")]
    Bounds,
}

/// A batch as it lies in its bytes; the structure is checked, the records are not.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    term: Term,
    first_leaf: LeafIndex,
    records: &'a [u8],
    slots: &'a [[u8; 4]],
    lengths: &'a [[u8; 2]],
    payload_len: u32,
}

/// One record of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchRecord<'a> {
    /// Canonical bytes, unchecked.
    pub bytes: &'a [u8],
    /// Where its payload slot begins in the batch's payload, and how long it is; 0 = none.
    pub slot: (u32, u32),
}

impl<'a> Batch<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`BatchError`] for anything the [`BatchBuilder`] would not have written.
    pub fn parse(body: &'a [u8]) -> Result<Self, BatchError> {
        let (header, rest) = body.split_first_chunk::<HEADER_BYTES>().ok_or(BatchError::Lengths)?;
        let (term, header) = split_u64(header);
        let (first_leaf, header) = split_u64(header);
        let (count, header) = split_u32(header);
        let (payload_len, _) = split_u32(header);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0
            || count > MAX_RECORDS
            || usize::try_from(payload_len).unwrap_or(usize::MAX) > MAX_PAYLOAD_BYTES
            || first_leaf.checked_add(count as u64).is_none()
        {
            return Err(BatchError::Bounds);
        }
        let at = rest.len().checked_sub(count * 2).ok_or(BatchError::Lengths)?;
        let (rest, lengths) = rest.split_at(at);
        let slots_len = if payload_len == 0 { 0 } else { count * 4 };
        let at = rest.len().checked_sub(slots_len).ok_or(BatchError::Lengths)?;
        let (records, slots) = rest.split_at(at);
        let batch = Self {
            term: Term::new(term),
            first_leaf: LeafIndex::new(first_leaf),
            records,
            slots: slots.as_chunks().0,
            lengths: lengths.as_chunks().0,
            payload_len,
        };
        batch.check()?;
        Ok(batch)
    }

    fn check(&self) -> Result<(), BatchError> {
        let mut records = 0;
        for length in self.lengths {
            let length = usize::from(u16::from_le_bytes(*length));
            if length == 0 || length > MAX_RECORD_BYTES {
                return Err(BatchError::Bounds);
            }
            records += length;
        }
        let mut payload = 0u64;
        for slot in self.slots {
            let slot = u32::from_le_bytes(*slot);
            if slot != 0 && (slot as usize) < Salt::LEN {
                return Err(BatchError::Bounds);
            }
            payload += u64::from(slot);
        }
        if records != self.records.len() || payload != u64::from(self.payload_len) {
            return Err(BatchError::Lengths);
        }
        Ok(())
    }

    /// The term it was proposed in.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// The leaf index its leader gave its first record.
    pub const fn first_leaf(&self) -> LeafIndex {
        self.first_leaf
    }

    /// How many records it holds.
    pub const fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Bytes of its payload slots.
    pub const fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = BatchRecord<'a>> + use<'a> {
        let mut records = self.records;
        let mut slots = self.slots.iter();
        let mut slot_at = 0;
        self.lengths.iter().map(move |length| {
            let (bytes, rest) = records.split_at(usize::from(u16::from_le_bytes(*length)));
            records = rest;
            let slot_len = slots.next().map_or(0, |slot| u32::from_le_bytes(*slot));
            let slot = (slot_at, slot_len);
            slot_at += slot_len;
            BatchRecord { bytes, slot }
        })
    }
}

fn split_u64(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk::<8>() {
        Some((number, rest)) => (u64::from_le_bytes(*number), rest),
        None => (0, bytes),
    }
}

fn split_u32(bytes: &[u8]) -> (u32, &[u8]) {
    match bytes.split_first_chunk::<4>() {
        Some((number, rest)) => (u32::from_le_bytes(*number), rest),
        None => (0, bytes),
    }
}

/// Builds a batch in place.
#[derive(Debug)]
pub struct BatchBuilder {
    body: Vec<u8>,
    lengths: Vec<u8>,
    slots: Vec<u8>,
    payload: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self { body: vec![0; HEADER_BYTES], lengths: Vec::new(), slots: Vec::new(), payload: Vec::new() }
    }
}

impl BatchBuilder {
    /// Takes out what is in it; what is left is empty, and has room for as much again, so that it need not
    /// move while it grows.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let mut next = Self::default();
        next.body.reserve_exact(self.body.len() + self.lengths.len());
        std::mem::replace(self, next)
    }

    /// How many records are in it.
    pub const fn count(&self) -> usize {
        self.lengths.len() / 2
    }

    /// Bytes of the body and of the payload it would be cut with.
    pub const fn byte_lens(&self) -> (usize, usize) {
        (self.body.len() + self.lengths.len() + self.slots.len(), self.payload.len())
    }

    /// The buffer at whose end the next record is written; then call [`BatchBuilder::push`].
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    /// Takes what was written behind `start` in [`BatchBuilder::buffer`] as the next record, with its
    /// payload.
    ///
    /// # Panics
    /// Where the record is empty or longer than a record can be, or where the batch is full: the
    /// sequencer has checked all three.
    pub fn push(&mut self, start: usize, payload: Option<(&Salt, &[u8])>) {
        let len = self.body.len() - start;
        assert!((1..=MAX_RECORD_BYTES).contains(&len) && self.count() < MAX_RECORDS, "record of {len} bytes");
        self.lengths.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
        let before = self.payload.len();
        if let Some((salt, bytes)) = payload {
            self.payload.extend_from_slice(salt.as_bytes());
            self.payload.extend_from_slice(bytes);
        }
        let slot = self.payload.len() - before;
        assert!(self.payload.len() <= MAX_PAYLOAD_BYTES, "payloads of {} bytes in a batch", self.payload.len());
        self.slots.extend_from_slice(&u32::try_from(slot).unwrap_or(u32::MAX).to_le_bytes());
    }

    /// Finishes the batch: body and payload.
    pub fn cut(self, term: Term, first_leaf: LeafIndex) -> (Bytes, Bytes) {
        let Self { mut body, lengths, slots, payload } = self;
        let count = u32::try_from(lengths.len() / 2).unwrap_or(u32::MAX);
        let payload_len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        body[..8].copy_from_slice(&term.get().to_le_bytes());
        body[8..16].copy_from_slice(&first_leaf.get().to_le_bytes());
        body[16..20].copy_from_slice(&count.to_le_bytes());
        body[20..24].copy_from_slice(&payload_len.to_le_bytes());
        if payload_len > 0 {
            body.extend_from_slice(&slots);
        }
        body.extend_from_slice(&lengths);
        (body.into(), payload.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(records: &[(&[u8], Option<&[u8]>)]) -> (Bytes, Bytes) {
        let mut builder = BatchBuilder::default();
        for (record, payload) in records {
            let start = builder.buffer().len();
            builder.buffer().extend_from_slice(record);
            builder.push(start, payload.map(|payload| (&Salt::ZERO, payload)));
        }
        builder.cut(Term::new(3), LeafIndex::new(0x0102))
    }

    #[test]
    fn golden_bytes_both_ways() {
        let (body, payload) = build(&[(b"{a}", None), (b"{bc}", Some(b"xyz"))]);
        let golden = [
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 35, 0, 0, 0][..],
            b"{a}{bc}",
            &[0, 0, 0, 0, 35, 0, 0, 0, 3, 0, 4, 0],
        ]
        .concat();
        assert_eq!(body, golden);
        assert_eq!(payload, [&[0; 32][..], b"xyz"].concat());
        let batch = Batch::parse(&golden).unwrap();
        assert_eq!(
            (batch.term().get(), batch.first_leaf().get(), batch.count(), batch.payload_len()),
            (3, 0x102, 2, 35)
        );
        let records: Vec<_> = batch.records().collect();
        assert_eq!(records[0], BatchRecord { bytes: b"{a}", slot: (0, 0) });
        assert_eq!(records[1], BatchRecord { bytes: b"{bc}", slot: (0, 35) });

        let (body, payload) = build(&[(b"{a}", None)]);
        assert_eq!(body.len(), HEADER_BYTES + 3 + 2);
        assert!(payload.is_empty());
    }

    #[test]
    fn a_changed_length_or_count_is_refused() {
        let (body, _) = build(&[(b"{a}", None), (b"{bc}", Some(b"xyz"))]);
        for at in 16..body.len() {
            if (HEADER_BYTES..HEADER_BYTES + 7).contains(&at) {
                continue;
            }
            for bit in 0..8 {
                let mut flipped = body.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(Batch::parse(&flipped).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..body.len() {
            assert!(Batch::parse(&body[..len]).is_err(), "cut to {len}");
        }
        let mut far = body.to_vec();
        far[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Batch::parse(&far).unwrap_err(), BatchError::Bounds);
    }
}
