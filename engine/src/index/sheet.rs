//! A sheet: what about a thousand leaves in a row hold, frame by frame. A row of the index, written once.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 32 | checksum | BLAKE3 of log id, sheet number (8 bytes) and the bytes from 32 on |
//! | 32 | 8 | first leaf | |
//! | 40 | 4 | frame count `f` | frames with leaves only, at least 1 |
//! | 44 | 4 | run count `r` | |
//! | 48 | 4 | chain count `c` | |
//! | 52 | 24 `f` | frames | leaf minus first leaf, 4; leaf count, 4; earliest and latest `ts_ms`, 8 each |
//! | .. | 24 `r` | runs | frame, 4; chain, 4; first and last seq, 8 each |
//! | .. | .. | chains | per chain: lengths of stream and writer, 2 bytes each, then both as records have them |
//!
//! Little-endian. Frames lie side by side; runs ascend by frame. Sheet 0 begins with leaf 0, a sheet ends with
//! the frame that brings it to [`SHEET_LEAVES`], and the next one goes on there: sheets are a function of the
//! log, and none is ever changed.

use std::collections::HashMap;
use std::ops::Range;

use stele_proof::record::Record;
use stele_proof::{LeafIndex, UnixMillis};

use crate::frame::{read_u32, read_u64};
use crate::reserved::LogId;
use crate::segment::LeafRange;

/// Leaves at which a sheet ends.
pub const SHEET_LEAVES: u64 = 1024;
/// Bytes before the frames.
const HEADER_BYTES: usize = 52;
/// Bytes of a frame, and of a run.
const ROW_BYTES: usize = 24;
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 32;

const _: () = assert!(HEADER_BYTES == 32 + 8 + 4 + 4 + 4);

/// A frame of a sheet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SheetFrame {
    pub(super) leaves: LeafRange,
    pub(super) earliest: UnixMillis,
    pub(super) latest: UnixMillis,
}

/// Consecutive records of one chain in one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) frame: u32,
    pub(super) chain: u32,
    pub(super) seqs: (u64, u64),
}

/// A chain's stream and writer, escaped as records have them.
pub(super) type ChainName = (String, String);

/// A sheet, being made or read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sheet {
    pub(super) first: LeafIndex,
    pub(super) frames: Vec<SheetFrame>,
    pub(super) runs: Vec<Run>,
    pub(super) chains: Vec<ChainName>,
    /// The last run of each chain; empty in a sheet that was read.
    last_runs: HashMap<String, usize>,
}

impl Sheet {
    /// An empty sheet that begins with this leaf.
    pub(super) fn new(first: LeafIndex) -> Self {
        Self { first, frames: Vec::new(), runs: Vec::new(), chains: Vec::new(), last_runs: HashMap::new() }
    }

    /// One past its last leaf.
    pub(super) fn end(&self) -> LeafIndex {
        self.frames.last().map_or(self.first, |frame| frame.leaves.end)
    }

    /// Whether no further frame belongs to it.
    pub(super) fn is_full(&self) -> bool {
        self.end().get() - self.first.get() >= SHEET_LEAVES
    }

    /// Takes the next record; one that is not of the frame of the record before it begins a frame.
    pub(super) fn record(&mut self, frame_first: LeafIndex, leaf: LeafIndex, record: &Record<'_>) {
        let ts = record.ts_ms();
        let end = LeafIndex::new(leaf.get() + 1);
        match self.frames.last_mut() {
            Some(frame) if frame.leaves.first == frame_first => {
                frame.leaves.end = end;
                frame.earliest = frame.earliest.min(ts);
                frame.latest = frame.latest.max(ts);
            }
            _ => {
                let leaves = LeafRange { first: frame_first, end };
                self.frames.push(SheetFrame { leaves, earliest: ts, latest: ts });
            }
        }
        let frame = to_u32(self.frames.len() - 1);
        let (stream, writer) = (record.stream().escaped(), record.writer_id().escaped());
        // Escaped text holds no line feed.
        let key = format!("{stream}\n{writer}");
        let run = self.runs.len();
        let chain = match self.last_runs.get_mut(&key) {
            Some(last) if self.runs[*last].frame == frame => {
                self.runs[*last].seqs.1 = record.seq();
                return;
            }
            Some(last) => self.runs[std::mem::replace(last, run)].chain,
            None => {
                self.last_runs.insert(key, run);
                self.chains.push((stream.to_owned(), writer.to_owned()));
                to_u32(self.chains.len() - 1)
            }
        };
        self.runs.push(Run { frame, chain, seqs: (record.seq(), record.seq()) });
    }

    /// The row.
    pub(super) fn encode(&self, log: &LogId, number: u64) -> Vec<u8> {
        let mut row = vec![0; CHECKED_FROM];
        row.extend_from_slice(&self.first.get().to_le_bytes());
        for count in [self.frames.len(), self.runs.len(), self.chains.len()] {
            row.extend_from_slice(&to_u32(count).to_le_bytes());
        }
        for frame in &self.frames {
            let at = u32::try_from(frame.leaves.first.get() - self.first.get()).unwrap_or(u32::MAX);
            let count = u32::try_from(frame.leaves.len()).unwrap_or(u32::MAX);
            row.extend_from_slice(&at.to_le_bytes());
            row.extend_from_slice(&count.to_le_bytes());
            row.extend_from_slice(&frame.earliest.get().to_le_bytes());
            row.extend_from_slice(&frame.latest.get().to_le_bytes());
        }
        for run in &self.runs {
            row.extend_from_slice(&run.frame.to_le_bytes());
            row.extend_from_slice(&run.chain.to_le_bytes());
            row.extend_from_slice(&run.seqs.0.to_le_bytes());
            row.extend_from_slice(&run.seqs.1.to_le_bytes());
        }
        for (stream, writer) in &self.chains {
            for text in [stream, writer] {
                row.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
            }
            row.extend_from_slice(stream.as_bytes());
            row.extend_from_slice(writer.as_bytes());
        }
        let checksum = checksum(&row, log, number);
        row[..CHECKED_FROM].copy_from_slice(&checksum);
        row
    }

    /// Reads a row; `None` for anything that is not this sheet of this log.
    pub(super) fn decode(row: &[u8], log: &LogId, number: u64) -> Option<Self> {
        let head = row.first_chunk::<HEADER_BYTES>()?;
        if head[..CHECKED_FROM] != checksum(row, log, number) {
            return None;
        }
        let first = LeafIndex::new(read_u64(head, 32));
        let (frames, runs, chains) = (read_u32(head, 40) as usize, read_u32(head, 44) as usize, read_u32(head, 48));
        let mut rows = row[HEADER_BYTES..].chunks_exact(ROW_BYTES);
        let mut sheet = Self::new(first);
        for row in rows.by_ref().take(frames) {
            let from = first.checked_add(u64::from(read_u32(row, 0)))?;
            let leaves = LeafRange { first: from, end: from.checked_add(u64::from(read_u32(row, 4)))? };
            let (earliest, latest) = (UnixMillis::new(read_u64(row, 8)), UnixMillis::new(read_u64(row, 16)));
            sheet.frames.push(SheetFrame { leaves, earliest, latest });
        }
        for row in rows.take(runs) {
            let seqs = (read_u64(row, 8), read_u64(row, 16));
            sheet.runs.push(Run { frame: read_u32(row, 0), chain: read_u32(row, 4), seqs });
        }
        let mut names = row.get(HEADER_BYTES + (frames + runs) * ROW_BYTES..)?;
        for _ in 0..chains {
            let (lens, rest) = names.split_first_chunk::<4>()?;
            let stream = usize::from(u16::from_le_bytes([lens[0], lens[1]]));
            let (stream, rest) = rest.split_at_checked(stream)?;
            let (writer, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([lens[2], lens[3]])))?;
            sheet.chains.push((String::from_utf8(stream.to_vec()).ok()?, String::from_utf8(writer.to_vec()).ok()?));
            names = rest;
        }
        names.is_empty().then_some(sheet)
    }

    /// The leaves of the frames that may hold what is asked for, ascending, neighbours joined.
    pub(super) fn matching(
        &self,
        chain: impl Fn(&ChainName) -> bool,
        times: &Range<Option<UnixMillis>>,
    ) -> Vec<LeafRange> {
        let wanted: Vec<bool> = self.chains.iter().map(chain).collect();
        let mut found = vec![false; self.frames.len()];
        for run in self.runs.iter().filter(|run| wanted.get(run.chain as usize) == Some(&true)) {
            if let Some(found) = found.get_mut(run.frame as usize) {
                *found = true;
            }
        }
        let in_time = |frame: &SheetFrame| {
            times.start.is_none_or(|since| frame.latest >= since)
                && times.end.is_none_or(|until| frame.earliest < until)
        };
        let mut ranges: Vec<LeafRange> = Vec::new();
        for (frame, _) in self.frames.iter().zip(found).filter(|(frame, found)| *found && in_time(frame)) {
            match ranges.last_mut() {
                Some(last) if last.end == frame.leaves.first => last.end = frame.leaves.end,
                _ => ranges.push(frame.leaves),
            }
        }
        ranges
    }
}

fn checksum(row: &[u8], log: &LogId, number: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(log.as_bytes()).update(&number.to_le_bytes()).update(&row[CHECKED_FROM..]);
    *hasher.finalize().as_bytes()
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let leaves = |first, end| LeafRange { first: LeafIndex::new(first), end: LeafIndex::new(end) };
        let frame = |first, end, earliest, latest| SheetFrame {
            leaves: leaves(first, end),
            earliest: UnixMillis::new(earliest),
            latest: UnixMillis::new(latest),
        };
        let mut sheet = Sheet::new(LeafIndex::new(0x0102));
        sheet.frames = vec![frame(0x0102, 0x0104, 7, 9), frame(0x0104, 0x0105, 8, 8)];
        sheet.runs = vec![Run { frame: 0, chain: 0, seqs: (5, 6) }, Run { frame: 1, chain: 1, seqs: (1, 1) }];
        sheet.chains = vec![("s".to_owned(), "w1".to_owned()), ("".to_owned(), "w".to_owned())];
        sheet
    }

    #[test]
    fn golden_bytes_both_ways() {
        let log = LogId::new([4; 32]);
        let body: Vec<u8> = [
            &[2, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0][..],
            &[0, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 2, 0],
            b"sw1",
            &[0, 0, 1, 0],
            b"w",
        ]
        .concat();
        let checked = [&[4; 32][..], &3u64.to_le_bytes(), &body].concat();
        let golden = [&blake3::hash(&checked).as_bytes()[..], &body].concat();
        assert_eq!(sheet().encode(&log, 3), golden);
        assert_eq!(Sheet::decode(&golden, &log, 3), Some(sheet()));
        assert_eq!(Sheet::decode(&golden, &log, 4), None);
        assert_eq!(Sheet::decode(&golden, &LogId::new([5; 32]), 3), None);
        for bit in 0..golden.len() * 8 {
            let mut flipped = golden.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sheet::decode(&flipped, &log, 3), None, "bit {bit}");
        }
    }

    #[test]
    fn frames_match_by_chain_and_time() {
        let at = UnixMillis::new;
        let matching = |stream: &str, since: Option<u64>, until: Option<u64>| -> Vec<(u64, u64)> {
            let found = sheet().matching(|(name, _)| stream == "*" || name == stream, &(since.map(at)..until.map(at)));
            found.iter().map(|leaves| (leaves.first.get(), leaves.end.get())).collect()
        };
        assert_eq!(matching("*", None, None), [(0x102, 0x105)]);
        assert_eq!(matching("s", None, None), [(0x102, 0x104)]);
        assert_eq!(matching("", None, None), [(0x104, 0x105)]);
        assert_eq!(matching("x", None, None), []);
        assert_eq!(matching("*", Some(9), None), [(0x102, 0x104)]);
        assert_eq!(matching("*", Some(10), None), []);
        assert_eq!(matching("*", None, Some(8)), [(0x102, 0x104)]);
        assert_eq!(matching("*", None, Some(7)), []);
    }
}
