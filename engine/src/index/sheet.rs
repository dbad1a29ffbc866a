//! A sheet: where the records of each stream, writer and chain lie among 8,192 leaves, and when they are of.
//! Sheet `n` tells of the leaves from 8,192 `n` on: sheets are a function of the log, and none is ever changed.
//!
//! A sheet is a head and some pages, each a row of the store.
//!
//! Head; its key is `h` and the sheet's number, 8 bytes, big-endian:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 32 | checksum | BLAKE3 of log id, key and the bytes from 32 on |
//! | 32 | 2,048 | spans | per 64 leaves: earliest and latest `ts_ms`, 8 bytes each |
//! | 2,080 | 8 `p` | fences | per page the key of its first list |
//!
//! Page; its key is `p`, the sheet's number, 8 bytes, and the page's, 4 bytes, both big-endian:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 32 | checksum | BLAKE3 of log id, key and the bytes from 32 on |
//! | 32 | .. | lists | ascending by key: key, 8; lowest and highest seq, 8 each; leaf count `n`, 2; leaves, 2 `n` |
//!
//! Little-endian where nothing else is said. A leaf is told by its distance from the first leaf of the sheet,
//! ascending; a page ends with the list that brings its lists to 4,096 bytes. A record stands in three lists:
//! that of its stream, of its writer, and of its chain. A key is cut short ([`ListKey`]): a list says where to
//! look, and the record itself says whether it is so.

use std::collections::BTreeMap;

use stele_proof::record::Record;
use stele_proof::{LeafIndex, UnixMillis};

use crate::frame::read_u64;
use crate::reserved::LogId;
use crate::segment::LeafRange;

/// Leaves of a sheet.
pub const SHEET_LEAVES: u64 = 8192;
/// Leaves of which the earliest and the latest time are told.
const SPAN_STEP: usize = 64;
const SPAN_LEAVES: u64 = SPAN_STEP as u64;
const SPANS: usize = 128;
/// Bytes of a span.
const SPAN_BYTES: usize = 16;
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 32;
const HEAD_BYTES: usize = CHECKED_FROM + SPANS * SPAN_BYTES;
const FENCE_BYTES: usize = 8;
/// Bytes of a list without its leaves.
const LIST_BYTES: usize = 8 + 8 + 8 + 2;
/// Bytes of lists at which a page ends.
const PAGE_BYTES: usize = 4096;

const _: () = assert!(SPANS as u64 * SPAN_LEAVES == SHEET_LEAVES);
const _: () = assert!(SHEET_LEAVES - 1 <= u16::MAX as u64);
const _: () = assert!(HEAD_BYTES == 2080);

/// A key and a row of the store.
pub type Row = (Vec<u8>, Vec<u8>);

/// The key of a list: the first 8 bytes of the BLAKE3 of what it is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListKey(u64);

impl ListKey {
    // Escaped text holds no line feed.
    fn of(kind: u8, parts: [&str; 2]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]).update(parts[0].as_bytes()).update(b"\n").update(parts[1].as_bytes());
        Self(read_u64(hasher.finalize().as_bytes(), 0))
    }

    /// That of a stream, escaped as records have it.
    pub(super) fn stream(stream: &str) -> Self {
        Self::of(b's', [stream, ""])
    }

    /// That of a writer, escaped as records have it.
    pub(super) fn writer(writer: &str) -> Self {
        Self::of(b'w', [writer, ""])
    }

    /// That of a chain: stream and writer, in this order.
    pub(super) fn chain([stream, writer]: [&str; 2]) -> Self {
        Self::of(b'c', [stream, writer])
    }
}

/// The leaves of a stream, a writer or a chain in a sheet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// The lowest and the highest sequence number.
    pub seqs: (u64, u64),
    /// Distances from the first leaf of the sheet, ascending, at least one.
    pub leaves: Vec<u16>,
}

/// The first leaf of a sheet.
pub(super) const fn first_leaf(number: u64) -> LeafIndex {
    LeafIndex::new(number * SHEET_LEAVES)
}

/// A sheet that is being made.
pub(super) struct Sheet {
    number: u64,
    spans: Vec<Span>,
    lists: BTreeMap<ListKey, List>,
    /// How many leaves it has.
    taken: u16,
}

/// The times of some leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The least `ts_ms`.
    pub earliest: UnixMillis,
    /// The greatest `ts_ms`.
    pub latest: UnixMillis,
}

impl Sheet {
    /// An empty sheet.
    pub(super) const fn new(number: u64) -> Self {
        Self { number, spans: Vec::new(), lists: BTreeMap::new(), taken: 0 }
    }

    /// The leaf that it takes next.
    pub(super) fn next(&self) -> LeafIndex {
        LeafIndex::new(first_leaf(self.number).get() + u64::from(self.taken))
    }

    /// Its number.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has all its leaves.
    pub(super) fn is_full(&self) -> bool {
        u64::from(self.taken) >= SHEET_LEAVES
    }

    /// Takes the record of the next leaf.
    pub(super) fn record(&mut self, record: &Record<'_>) {
        assert!(!self.is_full(), "sheet {} has all its leaves", self.number);
        let (at, ts) = (self.taken, record.ts_ms());
        if u64::from(at).is_multiple_of(SPAN_LEAVES) {
            self.spans.push(Span { earliest: ts, latest: ts });
        } else if let Some(span) = self.spans.last_mut() {
            (span.earliest, span.latest) = (span.earliest.min(ts), span.latest.max(ts));
        }
        let (stream, writer, seq) = (record.stream().escaped(), record.writer_id().escaped(), record.seq());
        for key in [ListKey::stream(stream), ListKey::writer(writer), ListKey::chain([stream, writer])] {
            let list = self.lists.entry(key).or_insert_with(|| List { seqs: (seq, seq), leaves: Vec::new() });
            list.seqs = (list.seqs.0.min(seq), list.seqs.1.max(seq));
            // Two of its keys may be equal.
            if list.leaves.last() != Some(&at) {
                list.leaves.push(at);
            }
        }
        self.taken += 1;
    }

    /// The rows of a sheet that has all its leaves.
    pub(super) fn rows(self, log: &LogId) -> Vec<Row> {
        assert!(self.is_full(), "sheet {} has not all its leaves", self.number);
        let mut head = Head { spans: self.spans, fences: Vec::new() };
        let mut rows = Vec::new();
        let mut lists = self.lists.into_iter().peekable();
        let mut number = 0;
        while let Some((first, _)) = lists.peek() {
            head.fences.push(*first);
            let mut page = Page { lists: Vec::new() };
            let mut bytes = 0;
            while bytes < PAGE_BYTES
                && let Some((key, list)) = lists.next()
            {
                bytes += LIST_BYTES + 2 * list.leaves.len();
                page.lists.push((key, list));
            }
            let key = page_key(self.number, number);
            let row = page.encode(log, &key);
            rows.push((key, row));
            number += 1;
        }
        let key = head_key(self.number);
        let row = head.encode(log, &key);
        rows.push((key, row));
        rows
    }
}

/// The key of a head.
pub fn head_key(number: u64) -> Vec<u8> {
    [&b"h"[..], &number.to_be_bytes()].concat()
}

/// The key of a page of a sheet.
pub fn page_key(number: u64, page: u32) -> Vec<u8> {
    [&b"p"[..], &number.to_be_bytes(), &page.to_be_bytes()].concat()
}

/// The head of a sheet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// One for each 64 leaves.
    spans: Vec<Span>,
    /// The key of the first list of each page.
    fences: Vec<ListKey>,
}

impl Head {
    /// The row of this key.
    pub fn encode(&self, log: &LogId, key: &[u8]) -> Vec<u8> {
        let mut row = vec![0; CHECKED_FROM];
        for span in &self.spans {
            row.extend_from_slice(&span.earliest.get().to_le_bytes());
            row.extend_from_slice(&span.latest.get().to_le_bytes());
        }
        for fence in &self.fences {
            row.extend_from_slice(&fence.0.to_le_bytes());
        }
        with_checksum(row, log, key)
    }

    /// Reads a row; `None` for anything that is not the head of this key and log.
    pub fn decode(row: &[u8], log: &LogId, key: &[u8]) -> Option<Self> {
        let body = checked(row, log, key)?;
        let (spans, fences) = body.split_at_checked(HEAD_BYTES - CHECKED_FROM)?;
        let millis = |bytes, at| UnixMillis::new(read_u64(bytes, at));
        let spans = spans.as_chunks::<SPAN_BYTES>().0.iter();
        let spans: Vec<Span> = spans.map(|s| Span { earliest: millis(s, 0), latest: millis(s, 8) }).collect();
        let (fences, []) = fences.as_chunks::<FENCE_BYTES>() else { return None };
        let fences: Vec<ListKey> = fences.iter().map(|fence| ListKey(read_u64(fence, 0))).collect();
        let good = spans.iter().all(|span| span.earliest <= span.latest)
            && !fences.is_empty()
            && fences.is_sorted_by(|one, next| one < next);
        good.then_some(Self { spans, fences })
    }

    /// The numbers of its pages.
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.fences).map(|(page, _)| page)
    }

    /// The page that has the list of this key, if there is one.
    pub(super) fn page_of(&self, key: ListKey) -> Option<u32> {
        u32::try_from(self.fences.partition_point(|first| *first <= key).checked_sub(1)?).ok()
    }

    /// The key of the first list of a page.
    pub(super) fn fence(&self, page: u32) -> Option<ListKey> {
        self.fences.get(page as usize).copied()
    }

    /// The times of the leaves that a distance from the first leaf is among.
    pub(super) fn span_of(&self, at: u16) -> Option<Span> {
        self.spans.get(usize::from(at) / SPAN_STEP).copied()
    }

    /// The leaves whose times may be wanted, neighbours joined.
    pub(super) fn spans_where(&self, number: u64, wanted: impl Fn(Span) -> bool) -> Vec<LeafRange> {
        let mut ranges: Vec<LeafRange> = Vec::new();
        let firsts = (first_leaf(number).get()..).step_by(SPAN_STEP);
        for (first, _) in firsts.zip(&self.spans).filter(|(_, span)| wanted(**span)) {
            let leaves = LeafRange { first: LeafIndex::new(first), end: LeafIndex::new(first + SPAN_LEAVES) };
            match ranges.last_mut() {
                Some(last) if last.end == leaves.first => last.end = leaves.end,
                _ => ranges.push(leaves),
            }
        }
        ranges
    }
}

/// A page of a sheet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Ascending by key.
    lists: Vec<(ListKey, List)>,
}

impl Page {
    /// The row of this key.
    pub fn encode(&self, log: &LogId, key: &[u8]) -> Vec<u8> {
        let mut row = vec![0; CHECKED_FROM];
        for (list_key, list) in &self.lists {
            row.extend_from_slice(&list_key.0.to_le_bytes());
            row.extend_from_slice(&list.seqs.0.to_le_bytes());
            row.extend_from_slice(&list.seqs.1.to_le_bytes());
            row.extend_from_slice(&u16::try_from(list.leaves.len()).unwrap_or(u16::MAX).to_le_bytes());
            for leaf in &list.leaves {
                row.extend_from_slice(&leaf.to_le_bytes());
            }
        }
        with_checksum(row, log, key)
    }

    /// Reads a row; `None` for anything that is not the page of this key and log.
    pub fn decode(row: &[u8], log: &LogId, key: &[u8]) -> Option<Self> {
        let mut rest = checked(row, log, key)?;
        let mut page = Self { lists: Vec::new() };
        let mut bytes = 0;
        while !rest.is_empty() {
            let (head, behind) = rest.split_first_chunk::<LIST_BYTES>()?;
            let (list_key, seqs) = (ListKey(read_u64(head, 0)), (read_u64(head, 8), read_u64(head, 16)));
            let count = usize::from(u16::from_le_bytes([head[24], head[25]]));
            let (leaves, behind) = behind.split_at_checked(2 * count)?;
            let leaves: Vec<u16> = leaves.as_chunks::<2>().0.iter().map(|leaf| u16::from_le_bytes(*leaf)).collect();
            let good = bytes < PAGE_BYTES
                && page.lists.last().is_none_or(|(before, _)| *before < list_key)
                && seqs.0 <= seqs.1
                && leaves.is_sorted_by(|one, next| one < next)
                && leaves.last().is_some_and(|last| u64::from(*last) < SHEET_LEAVES);
            if !good {
                return None;
            }
            bytes += LIST_BYTES + 2 * count;
            page.lists.push((list_key, List { seqs, leaves }));
            rest = behind;
        }
        (!page.lists.is_empty()).then_some(page)
    }

    /// The key of its first list.
    pub(super) fn first(&self) -> Option<ListKey> {
        self.lists.first().map(|(key, _)| *key)
    }

    /// The list of a key.
    pub(super) fn list(mut self, key: ListKey) -> Option<List> {
        let at = self.lists.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.lists.swap_remove(at).1)
    }
}

fn with_checksum(mut row: Vec<u8>, log: &LogId, key: &[u8]) -> Vec<u8> {
    let checksum = checksum(&row[CHECKED_FROM..], log, key);
    row[..CHECKED_FROM].copy_from_slice(&checksum);
    row
}

/// The bytes behind a checksum that is right.
fn checked<'r>(row: &'r [u8], log: &LogId, key: &[u8]) -> Option<&'r [u8]> {
    let (stored, body) = row.split_first_chunk::<CHECKED_FROM>()?;
    (*stored == checksum(body, log, key)).then_some(body)
}

/// The checksum of a row: what it says, of which log, and under which key.
fn checksum(body: &[u8], log: &LogId, key: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(log.as_bytes()).update(key).update(body).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId::new([4; 32]);

    fn list(seqs: (u64, u64), leaves: &[u16]) -> List {
        List { seqs, leaves: leaves.to_vec() }
    }

    fn checked_bytes(key: &[u8], body: &[u8]) -> Vec<u8> {
        [&blake3::hash(&[&[4; 32][..], key, body].concat()).as_bytes()[..], body].concat()
    }

    #[test]
    fn golden_bytes_of_a_page_both_ways() {
        let page = Page {
            lists: vec![(ListKey(0x0102), list((5, 0x0706), &[0, 0x1fff])), (ListKey(0x0103), list((9, 9), &[7]))],
        };
        let key = page_key(3, 0x0a0b);
        assert_eq!(key, *b"p\0\0\0\0\0\0\0\x03\0\0\x0a\x0b");
        let body: Vec<u8> = [
            &[2, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 7, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0xff, 0x1f][..],
            &[3, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 7, 0],
        ]
        .concat();
        let golden = checked_bytes(&key, &body);
        assert_eq!(page.encode(&LOG, &key), golden);
        assert_eq!(Page::decode(&golden, &LOG, &key), Some(page.clone()));
        assert_eq!(Page::decode(&golden, &LOG, &page_key(3, 0x0a0c)), None);
        assert_eq!(Page::decode(&golden, &LOG, &page_key(4, 0x0a0b)), None);
        assert_eq!(Page::decode(&golden, &LogId::new([5; 32]), &key), None);
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Page::decode(&flipped, &LOG, &key), None, "bit {bit}");
        }
        // What is never written: nothing, keys or leaves that do not ascend, no leaf, one that is no sheet's.
        assert_eq!(Page::decode(&checked_bytes(&key, &[]), &LOG, &key), None);
        for (at, byte) in [(30, 1), (24, 0), (29, 0x20), (28, 0), (8, 0xff), (24, 1), (24, 3)] {
            let mut other = body.clone();
            other[at] = byte;
            if (at, byte) == (28, 0) {
                other[29] = 0;
            }
            if (at, byte) == (8, 0xff) {
                other[9] = 0xff;
            }
            assert_eq!(Page::decode(&checked_bytes(&key, &other), &LOG, &key), None, "{byte} at {at}");
        }
        assert_eq!(page.clone().list(ListKey(0x0103)), Some(list((9, 9), &[7])));
        assert_eq!(page.list(ListKey(0x0104)), None);
    }

    #[test]
    fn golden_bytes_of_a_head_both_ways() {
        let span = |earliest, latest| Span { earliest: UnixMillis::new(earliest), latest: UnixMillis::new(latest) };
        let mut head = Head { spans: vec![span(7, 7); SPANS], fences: vec![ListKey(2), ListKey(0x0901)] };
        head.spans[1] = span(5, 0x0c0b);
        let key = head_key(3);
        assert_eq!(key, *b"h\0\0\0\0\0\0\0\x03");
        let seven = [7, 0, 0, 0, 0, 0, 0, 0];
        let mut body = [&seven[..], &seven, &[5, 0, 0, 0, 0, 0, 0, 0], &[0x0b, 0x0c, 0, 0, 0, 0, 0, 0]].concat();
        body.extend(seven.repeat(2 * (SPANS - 2)));
        body.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 0]);
        let golden = checked_bytes(&key, &body);
        assert_eq!(head.encode(&LOG, &key), golden);
        assert_eq!(Head::decode(&golden, &LOG, &key), Some(head.clone()));
        assert_eq!(Head::decode(&golden, &LOG, &head_key(4)), None);
        for bit in (0..golden.len() * 8).step_by(7) {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&flipped, &LOG, &key), None, "bit {bit}");
        }
        assert_eq!(Head::decode(&checked_bytes(&key, &body[..2048]), &LOG, &key), None);
        assert_eq!(Head::decode(&checked_bytes(&key, &body[..2060]), &LOG, &key), None);
        assert_eq!(
            [1, 2, 0x0900, 0x0901, u64::MAX].map(|key| head.page_of(ListKey(key))),
            [None, Some(0), Some(0), Some(1), Some(1)]
        );
        let at = |from: u64| -> Vec<(u64, u64)> {
            let ranges = head.spans_where(1, |span| span.latest >= UnixMillis::new(from));
            ranges.iter().map(|leaves| (leaves.first.get(), leaves.end.get())).collect()
        };
        assert_eq!(at(7), [(8192, 16384)]);
        assert_eq!(at(8), [(8256, 8320)]);
        assert_eq!(at(0x0c0c), []);
        assert_eq!((head.span_of(63), head.span_of(64)), (Some(span(7, 7)), Some(span(5, 0x0c0b))));
    }
}
