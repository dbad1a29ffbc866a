//! Sealing: an ended segment is read back, recomputed, cut to its length and made immutable.
//!
//! Steps, each safe to be interrupted and to be done again:
//! 1. the segment is durable and its successor carries a slot ([`crate::store::StoreProgress::wait_ended`]);
//! 2. read back everything from disk and compare with the running tree;
//! 3. build the digest tree a second time, with `rs_merkle`, from what was read, and compare;
//! 4. cut the files to their exact length, clear the flush ring, flush files and directory;
//! 5. write the tile sidecar, the hash table and, where one is due, the state file; 6. set mode 0444. A segment counts as sealed from step 6 on.
//!
//! I-SEAL-1: nothing in a sealed file depends on this node or on the time.

use std::path::Path;

use rs_merkle::MerkleTree;
use stele_proof::digest_tree::Digest;
use stele_proof::tree;

use crate::directory::{LogDirectory, relative};
use crate::disk::{Access, Disk, DiskError, DiskFile, Mode, replace};
use crate::error::LogError;
use crate::frame::Tail;
use crate::index::hashes::TableBuilder;
use crate::number::{BlockHeight, RaftIndex};
use crate::read_back::{Depth, SegmentReading, SegmentStart, read_back};
use crate::reserved::{SegmentSealed, covering_nodes};
use crate::segment::{PAGE_BYTES, RING_SLOTS, RING_START, SegmentFile};
use crate::state::{self, StateKeeper};
use crate::tiles::{Tiles, node_hash_from};

/// Free space that is left alone, so that what is open can be sealed: the sidecar of a block, with a frame
/// for every leaf, its hash table, a seal record, a state file of moderate size, and what is being flushed.
pub(crate) const fn low_water(height: BlockHeight) -> u64 {
    height.leaves() * (33 + 16 + 3 * 13) + (8 << 20)
}

/// Where an ended segment must end, as the running state saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEnd {
    /// The tail behind its last frame.
    pub tail: Tail,
    /// The root behind its last leaf.
    pub root: tree::Hash,
}

/// Seals a segment, or does again what an interruption may have left undone; answers the body of its
/// seal record. `keeper` has followed the log up to `start`, and has followed it to `end` afterwards.
///
/// # Errors
/// [`LogError::Damaged`] where what lies on disk is not what was appended; the file stays as it is.
pub fn seal_segment(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: &SegmentStart,
    end: &SegmentEnd,
    keeper: &mut StateKeeper,
) -> Result<SegmentSealed, LogError> {
    let chains = &mut keeper.chains;
    let mut hashes = TableBuilder::default();
    let reading = read_back(disk, directory, start, None, Depth::Everything, &mut |leaf, record, self_hash, _| {
        hashes.record(leaf, record, self_hash);
        chains.advance(record, self_hash, leaf).map_err(|error| error.to_string())
    })?;
    let segment = start.tail.segment;
    let name = SegmentFile::Frames(segment);
    if reading.end != end.tail || reading.tree.root() != end.root {
        let what = "what lies on disk is not what was appended; the segment is not sealed";
        return Err(LogError::damaged(relative(name), 0, Some(reading.leaves.first), what));
    }
    if second_root(&reading.self_hashes) != reading.digest_root {
        let what = "two implementations of the digest tree disagree; the segment is not sealed";
        return Err(LogError::damaged(relative(name), 0, Some(reading.leaves.first), what));
    }
    let path = directory.segment_file(name);
    let status = disk.open(&path, Access::Read)?.status()?;
    if !status.read_only {
        cut(disk, directory, start, &reading)?;
    }
    let mut body = describe(disk, directory, start, &reading)?;
    keeper.membership = reading.membership.unwrap_or_else(|| std::mem::take(&mut keeper.membership));
    if let Some(state) = keeper.end_segment(reading.file_bytes, &reading.end, &reading.tree) {
        state::store(disk, directory, segment, &state)?;
        body.state_digest = Some(Digest::of(&state));
    }
    let tiles = directory.segment_file(SegmentFile::Tiles(segment));
    replace(disk, &tiles, &reading.tiles, Mode::Sealed)?;
    let table = directory.segment_file(SegmentFile::Hashes(segment));
    replace(disk, &table, &hashes.finish(segment, reading.leaves, &reading.tiles), Mode::Sealed)?;
    for part in reading.payloads.keys() {
        close_for_good(disk, &directory.segment_file(SegmentFile::Payloads(segment, *part)))?;
    }
    close_for_good(disk, &path)?;
    disk.sync_directory(&directory.segments())?;
    Ok(body)
}

/// Sets the mode, again where an interrupted sealing has set it and may not have flushed it.
fn close_for_good(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    let file = disk.open(path, Access::Read)?;
    file.set_mode(Mode::Sealed)?;
    file.sync()
}

/// Cuts the files to what their frames say and clears the ring.
fn cut(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: &SegmentStart,
    reading: &SegmentReading,
) -> Result<(), DiskError> {
    let segment = start.tail.segment;
    for (part, len) in &reading.payloads {
        let path = directory.segment_file(SegmentFile::Payloads(segment, *part));
        // Cut before its mode was set, and no longer to be opened for writing.
        if disk.open(&path, Access::Read)?.status()?.read_only {
            continue;
        }
        let file = disk.open(&path, Access::Write)?;
        file.set_len(*len)?;
        file.sync()?;
    }
    let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Write)?;
    file.set_len(reading.file_bytes)?;
    let ring = vec![0; PAGE_BYTES * usize::try_from(RING_SLOTS).unwrap_or(3)];
    file.write_at(&ring, RING_START)?;
    file.sync()?;
    disk.sync_directory(&directory.segments())
}

/// The body of the seal record, from the file as it now lies on disk.
///
/// # Errors
/// [`LogError::Disk`]; [`LogError::Damaged`] where the sidecar does not hold what was just computed.
pub fn describe(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: &SegmentStart,
    reading: &SegmentReading,
) -> Result<SegmentSealed, LogError> {
    let digest = match reading.file_digest {
        Some(digest) => digest,
        None => {
            let path = directory.segment_file(SegmentFile::Frames(start.tail.segment));
            digest_of(disk.open(&path, Access::Read)?.as_ref())?
        }
    };
    describe_as(reading, digest)
}

/// The body of the seal record of a segment whose file has this digest.
///
/// # Errors
/// [`LogError::Damaged`] where the sidecar does not hold what was just computed.
pub(crate) fn describe_as(reading: &SegmentReading, file_digest: Digest) -> Result<SegmentSealed, LogError> {
    let segment = reading.segment;
    let tiles = Tiles::decode(reading.tiles.clone(), segment)
        .map_err(|fault| LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, None, fault))?;
    let mut nodes = Vec::new();
    for node in covering_nodes(reading.leaves) {
        let missing = || {
            LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, Some(node.first_leaf()), "a node is missing")
        };
        let hash = node_hash_from(node, |stored| tiles.stored_hash(stored).ok_or_else(missing))?;
        nodes.push((node, hash));
    }
    Ok(SegmentSealed {
        segment,
        file_bytes: reading.file_bytes,
        file_digest,
        leaves: reading.leaves,
        first_index: reading.first_index,
        last_index: RaftIndex::new(reading.end.next_index.get() - 1),
        digest_root: reading.digest_root,
        nodes,
        state_digest: None,
        payload_parts: u32::try_from(reading.payloads.len()).unwrap_or(u32::MAX),
    })
}

/// BLAKE3 of a whole file.
///
/// # Errors
/// [`DiskError`] of a failed read.
pub fn digest_of(file: &dyn DiskFile) -> Result<Digest, DiskError> {
    const STEP: usize = 1 << 20;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    let mut bytes = vec![0; STEP];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        hasher.update(&bytes[..read]);
        at += read as u64;
        if read < STEP {
            return Ok(Digest::new(*hasher.finalize().as_bytes()));
        }
    }
}

/// The hash function of the digest tree for `rs_merkle`: an odd node is carried up.
#[derive(Clone)]
struct DigestNode;

impl rs_merkle::Hasher for DigestNode {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        *blake3::hash(data).as_bytes()
    }

    fn concat_and_hash(left: &[u8; 32], right: Option<&[u8; 32]>) -> [u8; 32] {
        match right {
            None => *left,
            Some(right) => {
                let mut node = [1; 65];
                node[1..33].copy_from_slice(left);
                node[33..].copy_from_slice(right);
                *blake3::hash(&node).as_bytes()
            }
        }
    }
}

/// The digest tree's root by the second implementation.
fn second_root(self_hashes: &[[u8; 32]]) -> Option<Digest> {
    MerkleTree::<DigestNode>::from_leaves(self_hashes).root().map(Digest::new)
}
