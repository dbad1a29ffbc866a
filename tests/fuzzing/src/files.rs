//! The engine's files: headers, flush ring, generation files, sidecars and state files.

use std::path::Path;

use stele_engine::generation::{GenerationFile, MAX_CONTENT_BYTES, read};
use stele_engine::hard_state::{HardStateFile, MAX_PEERS, read_hard_state};
use stele_engine::number::SegmentNumber;
use stele_engine::ring::{RingState, Slot, read_ring};
use stele_engine::segment::{FileHeader, PAGE_BYTES, RING_SLOTS, SegmentFile};
use stele_engine::signing_state::{SigningStateFile, read_signed_head};
use stele_engine::state;
use stele_engine::tiles::{STORED_STEP, Tiles, TilesBuilder};
use stele_proof::LeafIndex;
use stele_proof::tree::Node;

use crate::disk::{MemoryDisk, MemoryFile};

/// Pages of the flush ring.
const RING_PAGES: usize = 3;
const _: () = assert!(RING_PAGES as u64 == RING_SLOTS);
const PATH: &str = "/file";
const MAGIC: [u8; 8] = *b"STELTEST";
/// The last generation that is read.
const LAST_GENERATION: u64 = u64::MAX >> 1;
/// Room for chains in a state file.
const MAX_CHAINS: usize = 100;

/// Headers of segment and payload files, and the files' names.
pub(crate) fn file_header(data: &[u8]) {
    assert!(data.len() == PAGE_BYTES || FileHeader::decode(data).is_err(), "a header is one page");
    let [page] = pages(data);
    for page in [sealed(&page), page] {
        if let Ok(header) = FileHeader::decode(&page) {
            assert_eq!(header.encode()[..], page);
        }
    }
    if let Ok(name) = core::str::from_utf8(data)
        && let Some(file) = SegmentFile::parse(name)
    {
        assert_eq!(file.name(), name);
    }
}

/// The flush ring: three pages, each a third of the input filled up with zeros.
pub(crate) fn ring(data: &[u8]) {
    let pages: [Vec<u8>; RING_PAGES] = pages(data);
    let segment = SegmentNumber::new(number(data, 16));
    for pages in [pages.each_ref().map(|page| sealed(page)), pages] {
        let file = MemoryFile::new([vec![0; PAGE_BYTES], pages.concat()].concat());
        let (slots, state) = read_ring(&file, segment).expect("a file in memory");
        let all_zero = pages.iter().flatten().all(|byte| *byte == 0);
        assert_eq!(state == RingState::Cleared, all_zero);
        assert!(slots.len() <= pages.len() && (slots.is_empty() || !all_zero));
        for slot in slots {
            let page = usize::try_from(Slot::place(slot.group)).expect("in the ring") / PAGE_BYTES - 1;
            assert_eq!(slot.encode()[..], pages[page]);
            assert!(slot.segment == segment && slot.start <= slot.end);
        }
    }
}

/// Generation files: four pages, each a quarter of the input filled up with zeros.
pub(crate) fn generation(data: &[u8]) {
    let pages: [Vec<u8>; 4] = pages(data);
    for pages in [pages.each_ref().map(|page| sealed(page)), pages] {
        let disk = MemoryDisk::default();
        let path = Path::new(PATH);
        disk.put(path, pages.concat());
        let Ok((generation, content)) = read(&disk, path, MAGIC) else { continue };
        assert!(content.len() <= MAX_CONTENT_BYTES);
        let (mut file, same) = GenerationFile::open(&disk, path, MAGIC).expect("it could be read");
        assert_eq!(same, content);
        assert!((1..=LAST_GENERATION).contains(&generation));
        file.save(b"next").expect("a file in memory");
        if generation == LAST_GENERATION {
            continue;
        }
        let (next, content) = read(&disk, path, MAGIC).expect("I-GENERATION-1");
        assert_eq!((next, &content[..]), (generation + 1, &b"next"[..]), "I-GENERATION-1");
    }
    let disk = MemoryDisk::default();
    disk.put(Path::new(PATH), data.to_vec());
    drop(read(&disk, Path::new(PATH), MAGIC));
}

/// A disk with a generation file of this content.
fn with_content(magic: [u8; 8], data: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let content = &data[..data.len().min(MAX_CONTENT_BYTES)];
    drop(GenerationFile::create(&disk, Path::new(PATH), magic, content).expect("a file in memory"));
    disk
}

/// The content of the hard state.
pub(crate) fn hard_state(data: &[u8]) {
    const MAGIC: [u8; 8] = *b"STELHARD";
    // What is longer is no content of a file; the most peers fill one to its last byte.
    let data = &data[..data.len().min(MAX_CONTENT_BYTES)];
    let disk = with_content(MAGIC, data);
    let Ok(state) = read_hard_state(&disk, Path::new(PATH)) else { return };
    assert!(state.peers.len() <= MAX_PEERS);
    drop(HardStateFile::create(&disk, Path::new(PATH), state).expect("a file in memory"));
    let (_, content) = read(&disk, Path::new(PATH), MAGIC).expect("it was just written");
    assert_eq!(content, data);
}

/// The content of the signing state.
pub(crate) fn signing_state(data: &[u8]) {
    const MAGIC: [u8; 8] = *b"STELSIGN";
    let disk = with_content(MAGIC, data);
    let path = Path::new(PATH);
    let Ok(head) = read_signed_head(&disk, path) else { return };
    let mut file = SigningStateFile::open(&disk, path).expect("it could be read");
    assert_eq!(file.last(), head);
    assert!(file.advance(head).is_ok(), "the same head again");
    let (_, content) = read(&disk, path, MAGIC).expect("it could be read");
    assert_eq!(content, data, "nothing is written for the same head");
    if let Some(smaller) = head.size.get().checked_sub(1) {
        let head = stele_engine::signing_state::SignedHead { size: stele_proof::TreeSize::new(smaller), ..head };
        assert!(file.advance(head).is_err(), "I-SIGNING-1");
    }
}

/// Tile sidecars.
pub(crate) fn sidecar(data: &[u8]) {
    check_sidecar(data.to_vec());
    check_sidecar(digested(data));
}

fn check_sidecar(bytes: Vec<u8>) {
    let segment = SegmentNumber::new(number(&bytes, 48));
    let Ok(tiles) = Tiles::decode(bytes.clone(), segment) else { return };
    let leaves = tiles.leaves();
    let mut builder = TilesBuilder::new(segment, leaves.first, tiles.first_index());
    let mut leaf = leaves.first;
    let mut observe_until = |builder: &mut TilesBuilder, end: LeafIndex| {
        while leaf < end {
            let hash = tiles.leaf_hash(leaf).expect("a leaf of the segment");
            builder.observe(Node::leaf(leaf).expect("a leaf of a tree"), hash);
            leaf = leaf.checked_add(1).expect("it is below the end");
        }
    };
    for frame in tiles.frames() {
        observe_until(&mut builder, frame.first_leaf);
        builder.frame(frame.offset, frame.first_leaf);
        assert_eq!(tiles.frame(frame.index), Some(frame));
        if let Some(found) = tiles.frame_of_leaf(frame.first_leaf) {
            assert_eq!(found.first_leaf, frame.first_leaf);
        }
    }
    observe_until(&mut builder, leaves.end);
    for level in (STORED_STEP..=Node::MAX_LEVEL).step_by(usize::from(STORED_STEP)) {
        let (first, end) = (leaves.first.get() >> level, leaves.end.get() >> level);
        for index in first..end {
            let node = Node::new(level, index).expect("I-TILES-1");
            let hash = tiles.stored_hash(node).expect("I-TILES-1");
            builder.observe(node, hash);
        }
        assert_eq!(Node::new(level, end).and_then(|node| tiles.stored_hash(node)), None, "I-TILES-1");
    }
    assert_eq!(tiles.frame(stele_engine::number::RaftIndex::new(u64::MAX)), None);
    assert_eq!(builder.finish(tiles.last_link(), tiles.last_term(), tiles.end()), bytes);
}

/// State files.
pub(crate) fn state_file(data: &[u8]) {
    check_state(data);
    check_state(&digested(data));
}

fn check_state(bytes: &[u8]) {
    let segment = SegmentNumber::new(number(bytes, 48));
    let Ok(state) = state::decode(bytes, segment, MAX_CHAINS) else { return };
    assert!(state.chains.len() <= MAX_CHAINS);
    let encoded = state::encode(&state.tail, &state.tree, &state.chains, &state.membership);
    assert_eq!(encoded, bytes);
    let len = state::encoded_len(state.tail.leaves, &state.chains, state.membership.len());
    assert_eq!(len, bytes.len() as u64);
    assert_eq!(state.tail.leaves, state.tree.size());
    assert_eq!(state.tail.segment, segment.next());
}

/// The input cut into `N` parts of equal length, each filled up to a page.
fn pages<const N: usize>(data: &[u8]) -> [Vec<u8>; N] {
    let part = data.len().div_ceil(N).max(1);
    let mut parts = data.chunks(part);
    [(); N].map(|()| {
        let mut page = parts.next().unwrap_or_default().to_vec();
        page.resize(PAGE_BYTES, 0);
        page
    })
}

/// A page with its checksum made right, unless it is all zero.
fn sealed(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    if page.iter().any(|byte| *byte != 0) {
        let checksum = crc32fast::hash(&page[12..]);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
    }
    page
}

/// A file whose bytes 8..40 are the BLAKE3 of the rest.
fn digested(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if let Some((head, rest)) = bytes.split_at_mut_checked(40) {
        head[8..].copy_from_slice(blake3::hash(rest).as_bytes());
    }
    bytes
}

/// Eight little-endian bytes, or zero where there are fewer.
fn number(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
