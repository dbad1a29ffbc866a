//! BLAKE3 of many records side by side: one lane of the processor's vectors for each.
//!
//! BLAKE3 hashes the chunks of one long input side by side, but a record is one chunk or a few, so one after
//! the other they leave most lanes empty (1.25 us for 1 KiB where 16 lanes take 0.2 us). Here chunks of
//! *different* records share the lanes. They must have as many whole blocks and the same number in their
//! record; the last, shorter block of each is compressed by itself.
//!
//! The lanes are those of `blake3::platform`, which its crate keeps public for benchmarks and does not
//! promise: the version is pinned, and a test holds every length against `blake3::hash`.

use blake3::IncrementCounter;
use blake3::platform::{Platform, le_bytes_from_words_32, words_from_le_bytes_32};

use super::{MAX_RECORD_BYTES, SelfHash};

const BLOCK: usize = 64;
const CHUNK: usize = 1024;
/// Most chunks that go side by side.
const LANES: usize = 16;
/// Records that are looked at together.
const GROUP: usize = 64;
/// The initial chaining value (BLAKE3 paper, table 1: that of SHA-256).
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Domain flags (BLAKE3 paper, table 3).
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

/// A chunk on its way.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    bytes: &'a [u8],
    /// Its number in its record.
    number: u8,
    /// Whether it is all of its record.
    is_root: bool,
    /// Where its chaining value goes.
    place: usize,
}

impl Chunk<'_> {
    /// Blocks that are compressed side by side: all, where the last one is whole, too.
    const fn blocks(&self) -> usize {
        self.bytes.len() / BLOCK
    }

    const fn is_whole(&self) -> bool {
        self.bytes.len().is_multiple_of(BLOCK) && !self.bytes.is_empty()
    }

    const fn last_flags(&self) -> u8 {
        if self.is_root { CHUNK_END | ROOT } else { CHUNK_END }
    }

    /// Chunks of one key may go side by side.
    const fn key(&self) -> (usize, bool, u8, bool) {
        (self.blocks(), self.is_whole(), self.number, self.is_root)
    }
}

/// Hashes each of the records, in order, behind what is in `out`.
pub(super) fn hash_many(records: &[&[u8]], out: &mut Vec<SelfHash>) {
    out.reserve(records.len());
    let platform = Platform::detect();
    for group in records.chunks(GROUP) {
        if platform.simd_degree() == 1 || group.len() == 1 || group.iter().any(|bytes| bytes.len() > MAX_RECORD_BYTES) {
            out.extend(group.iter().map(|bytes| SelfHash::of(bytes)));
        } else {
            hash_group(platform, group, out);
        }
    }
}

fn hash_group(platform: Platform, records: &[&[u8]], out: &mut Vec<SelfHash>) {
    const EMPTY: Chunk<'_> = Chunk { bytes: &[], number: 0, is_root: true, place: 0 };
    let mut chunks = [EMPTY; GROUP * MAX_RECORD_BYTES / CHUNK];
    let mut count = 0;
    for record in records {
        let is_root = record.len() <= CHUNK;
        for (number, bytes) in (0..).zip(record.chunks(CHUNK).chain(record.is_empty().then_some(&[][..]))) {
            chunks[count] = Chunk { bytes, number, is_root, place: count };
            count += 1;
        }
    }
    let chunks = &mut chunks[..count];
    chunks.sort_unstable_by_key(Chunk::key);
    let mut values = [[0; 32]; GROUP * MAX_RECORD_BYTES / CHUNK];
    for same in chunks.chunk_by(|a, b| a.key() == b.key()) {
        for lanes in same.chunks(LANES) {
            compress_side_by_side(platform, lanes, &mut values);
        }
    }
    let mut at = 0;
    for record in records {
        let chunks = record.len().div_ceil(CHUNK).max(1);
        out.push(SelfHash::new(join(platform, &values[at..at + chunks])));
        at += chunks;
    }
}

/// Compresses up to [`LANES`] chunks of one key.
fn compress_side_by_side(platform: Platform, chunks: &[Chunk<'_>], values: &mut [[u8; 32]]) {
    let Some(first) = chunks.first() else { return };
    let mut out = [0; LANES * 32];
    match first.blocks() {
        0 => {}
        1 => prefixes::<{ BLOCK }>(platform, chunks, &mut out),
        2 => prefixes::<{ 2 * BLOCK }>(platform, chunks, &mut out),
        3 => prefixes::<{ 3 * BLOCK }>(platform, chunks, &mut out),
        4 => prefixes::<{ 4 * BLOCK }>(platform, chunks, &mut out),
        5 => prefixes::<{ 5 * BLOCK }>(platform, chunks, &mut out),
        6 => prefixes::<{ 6 * BLOCK }>(platform, chunks, &mut out),
        7 => prefixes::<{ 7 * BLOCK }>(platform, chunks, &mut out),
        8 => prefixes::<{ 8 * BLOCK }>(platform, chunks, &mut out),
        9 => prefixes::<{ 9 * BLOCK }>(platform, chunks, &mut out),
        10 => prefixes::<{ 10 * BLOCK }>(platform, chunks, &mut out),
        11 => prefixes::<{ 11 * BLOCK }>(platform, chunks, &mut out),
        12 => prefixes::<{ 12 * BLOCK }>(platform, chunks, &mut out),
        13 => prefixes::<{ 13 * BLOCK }>(platform, chunks, &mut out),
        14 => prefixes::<{ 14 * BLOCK }>(platform, chunks, &mut out),
        15 => prefixes::<{ 15 * BLOCK }>(platform, chunks, &mut out),
        _ => prefixes::<{ CHUNK }>(platform, chunks, &mut out),
    }
    for (chunk, value) in chunks.iter().zip(out.as_chunks::<32>().0) {
        values[chunk.place] = if chunk.is_whole() { *value } else { end_of(platform, chunk, value) };
    }
}

/// The whole blocks of each chunk, `N` bytes.
fn prefixes<const N: usize>(platform: Platform, chunks: &[Chunk<'_>], out: &mut [u8]) {
    let Some(first) = chunks.first() else { return };
    let mut inputs = [&[0; N]; LANES];
    for (input, chunk) in inputs.iter_mut().zip(chunks) {
        if let Some(bytes) = chunk.bytes.first_chunk() {
            *input = bytes;
        }
    }
    let end = if first.is_whole() { first.last_flags() } else { 0 };
    let (inputs, number) = (&inputs[..chunks.len()], u64::from(first.number));
    platform.hash_many(inputs, &IV, number, IncrementCounter::No, 0, CHUNK_START, end, out);
}

/// The last block of a chunk, which is not whole, behind the value of those before it.
fn end_of(platform: Platform, chunk: &Chunk<'_>, before: &[u8; 32]) -> [u8; 32] {
    let rest = &chunk.bytes[chunk.blocks() * BLOCK..];
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    let is_first = chunk.blocks() == 0;
    let mut value = if is_first { IV } else { words_from_le_bytes_32(before) };
    let flags = chunk.last_flags() | if is_first { CHUNK_START } else { 0 };
    let len = u8::try_from(rest.len()).unwrap_or(0);
    platform.compress_in_place(&mut value, &block, len, u64::from(chunk.number), flags);
    le_bytes_from_words_32(&value)
}

/// The root over the chunks of a record: the left subtree holds the largest power of two of them.
fn join(platform: Platform, values: &[[u8; 32]]) -> [u8; 32] {
    let parent = |left: &[u8; 32], right: &[u8; 32], flags| {
        let mut block = [0; BLOCK];
        block[..32].copy_from_slice(left);
        block[32..].copy_from_slice(right);
        let mut value = IV;
        platform.compress_in_place(&mut value, &block, 64, 0, flags);
        le_bytes_from_words_32(&value)
    };
    match values {
        [a, b] => parent(a, b, PARENT | ROOT),
        [a, b, c] => parent(&parent(a, b, PARENT), c, PARENT | ROOT),
        [a, b, c, d] => parent(&parent(a, b, PARENT), &parent(c, d, PARENT), PARENT | ROOT),
        [one, ..] => *one,
        [] => [0; 32],
    }
}

const _: () = assert!(MAX_RECORD_BYTES == 4 * CHUNK);

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from((at * 31 + seed * 7 + at / 251) % 251).unwrap()).collect()
    }

    fn holds(records: &[Vec<u8>]) {
        let inputs: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let mut out = vec![SelfHash::new([7; 32])];
        hash_many(&inputs, &mut out);
        assert_eq!(out.len(), records.len() + 1);
        for (record, hash) in records.iter().zip(&out[1..]) {
            assert_eq!(*hash.as_bytes(), *blake3::hash(record).as_bytes(), "{} bytes", record.len());
        }
    }

    #[test]
    fn every_length_hashes_as_by_itself_among_others_of_its_length_and_of_others() {
        for len in 0..=MAX_RECORD_BYTES {
            holds(&[bytes(len, 1), bytes(len, 2), bytes(len / 2, 3)]);
        }
        let mut seed = 1usize;
        for count in [1, 2, 15, 16, 17, 63, 64, 65, 200] {
            let mut draw = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes((seed >> 33) % (MAX_RECORD_BYTES + 1), seed >> 50)
            };
            holds(&(0..count).map(|_| draw()).collect::<Vec<_>>());
            holds(&vec![bytes(1024, count); count]);
        }
        holds(&[bytes(MAX_RECORD_BYTES + 1, 1), bytes(10, 2)]);
    }
}
