//! State files: what the log up to the end of a segment adds up to, so that opening need not read it all.
//!
//! A state file is a pure function of the log: its digest stands in the seal record of its segment.
//! File `state/<16 hex digits>`, little-endian:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELSTAT` |
//! | 8 | 32 | digest | BLAKE3 of bytes 40.. |
//! | 40 | 2 | format version | 1 |
//! | 42 | 1 | block height | |
//! | 43 | 1 | zero | |
//! | 44 | 4 | frame alignment | |
//! | 48 | 8 | segment | the last one that is added up |
//! | 56 | 8 | next raft index | behind its last frame |
//! | 64 | 8 | last term | |
//! | 72 | 4 | link | header checksum of its last frame |
//! | 76 | 4 | membership length | |
//! | 80 | 8 | tree size | |
//! | 88 | 8 | number of chains | |
//! | 96 | 32 each | peaks | one for every bit of the tree size, largest subtree first |
//! | .. | .. | membership | the body of the last membership entry |
//! | .. | .. | chains | by ascending key: 2 bytes length, stream, LF, writer (escaped); seq 8, self hash 32, leaf 8 |
//!
//! One is due at the end of a segment once the frames since the last one exceed [`DUE_BYTES`] and four
//! times its own size.
//!
//! I-STATE-1: loading a state file and reading the frames behind it gives what reading all frames gives.

use stele_proof::digest_tree::Digest;
use stele_proof::record::SelfHash;
use stele_proof::tree::{self, CompactRange};
use stele_proof::{LeafIndex, TreeSize};

use crate::chains::{Chains, Head};
use crate::directory::LogDirectory;
use crate::disk::{Disk, DiskError, Mode, read_small, replace};
use crate::frame::{Tail, read_u32, read_u64};
use crate::number::{Alignment, BlockHeight, LIMIT, RaftIndex, SegmentNumber, Term};
use crate::segment::{FORMAT_VERSION, FRAMES_START, PAYLOADS_START, PayloadPart};

const MAGIC: [u8; 8] = *b"STELSTAT";
const HEADER_BYTES: usize = 96;
/// What a chain takes beside its key.
const CHAIN_BYTES: usize = 2 + 8 + 32 + 8;
/// Frames that must have come since the last state file.
pub const DUE_BYTES: u64 = 64 << 20;
/// Largest state file that is read: a million chains with the longest names.
pub const MAX_STATE_BYTES: usize = 768 << 20;

const _: () = assert!(HEADER_BYTES == 8 + 32 + 2 + 1 + 1 + 4 + 8 + 8 + 8 + 4 + 4 + 8 + 8);

/// What the log up to the end of a segment adds up to.
pub struct State {
    /// The tail behind its last frame, at the start of the next segment.
    pub tail: Tail,
    /// The tree behind its last leaf.
    pub tree: CompactRange,
    /// The head of every chain.
    pub chains: Chains,
    /// The body of the last membership entry.
    pub membership: Vec<u8>,
    /// BLAKE3 of the whole file, as the seal record of its segment tells it.
    pub digest: Digest,
}

/// Follows the log segment by segment and makes the state files that are due.
pub struct StateKeeper {
    /// The head of every chain.
    pub chains: Chains,
    /// The body of the last membership entry.
    pub membership: Vec<u8>,
    /// Bytes of frames since the last state file.
    frame_bytes: u64,
}

impl StateKeeper {
    /// Before the first frame of a log, with room for `max_chains` chains.
    pub fn new(max_chains: usize) -> Self {
        Self { chains: Chains::new(max_chains), membership: Vec::new(), frame_bytes: 0 }
    }

    /// Behind the segment of a state file.
    pub fn behind(state: State) -> Self {
        Self { chains: state.chains, membership: state.membership, frame_bytes: 0 }
    }

    /// One that goes on from here by itself, without a memory of recent identities.
    #[must_use]
    pub fn heads_only(&self) -> Self {
        Self { chains: self.chains.heads_only(), membership: self.membership.clone(), frame_bytes: self.frame_bytes }
    }

    /// Takes note that a segment of this length has ended at `tail`; answers the state file, where one is
    /// due.
    pub fn end_segment(&mut self, file_bytes: u64, tail: &Tail, tree: &CompactRange) -> Option<Vec<u8>> {
        self.frame_bytes += file_bytes.saturating_sub(FRAMES_START.get());
        if !is_due(self.frame_bytes, encoded_len(tree.size(), &self.chains, self.membership.len())) {
            return None;
        }
        self.frame_bytes = 0;
        Some(encode(tail, tree, &self.chains, &self.membership))
    }
}

/// The newest good state file of a sealed segment before `end`.
///
/// # Errors
/// [`DiskError`] of a failed call; damaged files are passed over.
pub fn load_newest(
    disk: &dyn Disk,
    directory: &LogDirectory,
    end: SegmentNumber,
    max_chains: usize,
) -> Result<Option<State>, DiskError> {
    let names = match disk.list(&directory.states()) {
        Ok(names) => names,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for name in names.iter().rev() {
        let number = u64::from_str_radix(name, 16).map(SegmentNumber::new);
        let Ok(segment) = number else { continue };
        if segment >= end || directory.state(segment).file_name().is_none_or(|own| own != name.as_str()) {
            continue;
        }
        if let Some(bytes) = read_small(disk, &directory.state(segment), MAX_STATE_BYTES)?
            && let Ok(state) = decode(&bytes, segment, max_chains)
        {
            return Ok(Some(state));
        }
    }
    Ok(None)
}

/// Writes a state file where it is missing or is not what it should be.
///
/// # Errors
/// [`DiskError`] of the failed call.
pub fn store(disk: &dyn Disk, directory: &LogDirectory, segment: SegmentNumber, bytes: &[u8]) -> Result<(), DiskError> {
    let path = directory.state(segment);
    if read_small(disk, &path, bytes.len())?.as_deref() == Some(bytes) {
        return Ok(());
    }
    disk.create_directory(&directory.states())?;
    disk.sync_directory(directory.path())?;
    replace(disk, &path, bytes, Mode::Sealed)
}

/// Why bytes are not a state file. It is derived: whatever is wrong, it is made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateFault {
    /// Not what was written.
    #[error("the state file is damaged")]
    Damaged,
    /// Of a format this version does not know.
    #[error("the state file has format version {0}, which is unknown to this version")]
    UnknownVersion(u16),
}

/// The length that the state file of these chains has.
pub const fn encoded_len(tree_size: TreeSize, chains: &Chains, membership_len: usize) -> u64 {
    let peaks = tree_size.get().count_ones() as usize * tree::Hash::LEN;
    (HEADER_BYTES + peaks + membership_len + chains.len() * CHAIN_BYTES + chains.key_bytes()) as u64
}

/// Whether a state file is due at the end of a segment, given the bytes of frames since the last one.
pub(crate) const fn is_due(frame_bytes: u64, encoded_len: u64) -> bool {
    frame_bytes > DUE_BYTES && frame_bytes > encoded_len.saturating_mul(4)
}

/// Writes the state file.
///
/// # Panics
/// Where the tail is not at the start of a segment other than the first: state files stand at seals.
pub fn encode(tail: &Tail, tree: &CompactRange, chains: &Chains, membership: &[u8]) -> Vec<u8> {
    assert!(tail.segment_is_empty() && tail.segment.get() > 0, "I-STATE-1");
    let mut out = vec![0; HEADER_BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[40..42].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[42] = tail.height.get();
    out[44..48].copy_from_slice(&tail.alignment.get().to_le_bytes());
    out[48..56].copy_from_slice(&(tail.segment.get() - 1).to_le_bytes());
    out[56..64].copy_from_slice(&tail.next_index.get().to_le_bytes());
    out[64..72].copy_from_slice(&tail.last_term.get().to_le_bytes());
    out[72..76].copy_from_slice(&tail.link.to_le_bytes());
    out[76..80].copy_from_slice(&u32::try_from(membership.len()).unwrap_or(u32::MAX).to_le_bytes());
    out[80..88].copy_from_slice(&tree.size().get().to_le_bytes());
    out[88..96].copy_from_slice(&(chains.len() as u64).to_le_bytes());
    for peak in tree.peaks() {
        out.extend_from_slice(peak.as_bytes());
    }
    out.extend_from_slice(membership);
    for (key, head, leaf) in chains.sorted() {
        out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&head.seq.to_le_bytes());
        out.extend_from_slice(head.self_hash.as_bytes());
        out.extend_from_slice(&leaf.get().to_le_bytes());
    }
    let digest = *blake3::hash(&out[40..]).as_bytes();
    out[8..40].copy_from_slice(&digest);
    out
}

/// Reads the state file of a segment; room is left for `max_chains` chains.
///
/// # Errors
/// [`StateFault`] for anything the encoder would not have written.
pub fn decode(bytes: &[u8], segment: SegmentNumber, max_chains: usize) -> Result<State, StateFault> {
    let (head, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(StateFault::Damaged)?;
    if head[..8] != MAGIC || head[8..40] != *blake3::hash(&bytes[40..]).as_bytes() {
        return Err(StateFault::Damaged);
    }
    let version = u16::from_le_bytes([head[40], head[41]]);
    if version != FORMAT_VERSION {
        return Err(StateFault::UnknownVersion(version));
    }
    read(bytes, head, rest, segment, max_chains).ok_or(StateFault::Damaged)
}

/// Reads what the digest vouches for. Fields stand in one form only, and chains in one order only, so what
/// is read is what the encoder writes.
fn read(file: &[u8], head: &[u8], mut rest: &[u8], segment: SegmentNumber, max_chains: usize) -> Option<State> {
    if head[43] != 0 || read_u64(head, 48) != segment.get() {
        return None;
    }
    let leaves = TreeSize::new(read_u64(head, 80));
    let tail = Tail {
        alignment: Alignment::new(read_u32(head, 44))?,
        height: BlockHeight::new(head[42])?,
        segment: SegmentNumber::new(segment.get().checked_add(1)?),
        offset: FRAMES_START,
        payload_part: PayloadPart::FIRST,
        payload_offset: PAYLOADS_START,
        next_index: RaftIndex::new(read_u64(head, 56)),
        last_term: Term::new(read_u64(head, 64)),
        link: read_u32(head, 72),
        leaves,
    };
    let positions = [segment.get(), leaves.get(), tail.next_index.get(), tail.last_term.get()];
    if positions.iter().any(|position| *position >= LIMIT) {
        return None;
    }
    let mut peaks = Vec::new();
    for _ in 0..leaves.get().count_ones() {
        peaks.push(tree::Hash::new(take(&mut rest)?));
    }
    let tree = CompactRange::from_peaks(leaves, peaks).ok()?;
    let (membership, mut rest) = rest.split_at_checked(read_u32(head, 76) as usize)?;
    let mut chains = Chains::new(max_chains);
    let count = usize::try_from(read_u64(head, 88)).ok().filter(|count| *count <= rest.len() / CHAIN_BYTES)?;
    chains.reserve(count);
    let mut last: Option<&[u8]> = None;
    for _ in 0..count {
        let len = u16::from_le_bytes(take(&mut rest)?);
        let (key, after) = rest.split_at_checked(usize::from(len))?;
        rest = after;
        if last.is_some_and(|last| last >= key) {
            return None;
        }
        last = Some(key);
        let seq = Some(u64::from_le_bytes(take(&mut rest)?)).filter(|seq| *seq < LIMIT)?;
        let self_hash = SelfHash::new(take(&mut rest)?);
        let leaf = LeafIndex::new(u64::from_le_bytes(take(&mut rest)?));
        chains.load(core::str::from_utf8(key).ok()?, Head { seq, self_hash }, leaf)?;
    }
    rest.is_empty().then(|| State { tail, tree, chains, membership: membership.to_vec(), digest: Digest::of(file) })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut tail = Tail::start(Alignment::PAGE, BlockHeight::DEFAULT);
        tail.segment = SegmentNumber::new(4);
        tail.next_index = RaftIndex::new(9);
        tail.last_term = Term::new(2);
        tail.link = 0x0102_0304;
        tail.leaves = TreeSize::new(5);
        let peaks = vec![tree::Hash::new([1; 32]), tree::Hash::new([2; 32])];
        let tree = CompactRange::from_peaks(tail.leaves, peaks).unwrap();
        let mut chains = Chains::new(10);
        let head = |seq| Head { seq, self_hash: SelfHash::new([7; 32]) };
        chains.load("a\nw", head(3), LeafIndex::new(4)).unwrap();
        chains.load("b\nw", head(1), LeafIndex::new(2)).unwrap();
        let bytes = encode(&tail, &tree, &chains, b"member");
        assert_eq!(bytes.len() as u64, encoded_len(tail.leaves, &chains, 6));
        bytes
    }

    #[test]
    fn golden_bytes_both_ways() {
        let bytes = sample();
        let golden = [
            &[1, 0, 16, 0, 0, 16, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..],
            &[4, 3, 2, 1, 6, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[1; 32],
            &[2; 32],
            b"member",
            b"\x03\0a\nw\x03\0\0\0\0\0\0\0",
            &[7; 32],
            b"\x04\0\0\0\0\0\0\0",
            b"\x03\0b\nw\x01\0\0\0\0\0\0\0",
            &[7; 32],
            b"\x02\0\0\0\0\0\0\0",
        ]
        .concat();
        assert_eq!(bytes[40..], golden);
        let state = decode(&bytes, SegmentNumber::new(3), 10).map_err(|fault| fault.to_string());
        let mut state = state.unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(state.tail.leaves.get(), 5);
        assert_eq!(state.membership, b"member");
        assert_eq!(state.chains.head("a", "w").map(|head| head.seq), Some(3));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let bytes = sample();
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode(&flipped, SegmentNumber::new(3), 10).is_err(), "bit {at}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], SegmentNumber::new(3), 10).is_err(), "cut to {len}");
        }
        assert!(decode(&bytes, SegmentNumber::new(2), 10).is_err());
        assert!(decode(&bytes, SegmentNumber::new(3), 1).is_err(), "more chains than there is room for");
    }

    /// The digest says only that the bytes are what somebody wrote.
    #[test]
    fn whatever_is_read_is_what_the_encoder_writes() {
        let bytes = sample();
        let mut read = 0;
        for at in 40 * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let digest = *blake3::hash(&flipped[40..]).as_bytes();
            flipped[8..40].copy_from_slice(&digest);
            if let Ok(state) = decode(&flipped, SegmentNumber::new(3), 10) {
                assert_eq!(encode(&state.tail, &state.tree, &state.chains, &state.membership), flipped, "bit {at}");
                assert_eq!(state.digest, Digest::of(&flipped));
                read += 1;
            }
        }
        assert!(read > 32 * 8, "hashes may have any bits, and {read} flips could be read");
    }

    #[test]
    fn due_by_frames_and_by_its_own_size() {
        assert!(!is_due(DUE_BYTES, 0));
        assert!(is_due(DUE_BYTES + 1, 0));
        assert!(!is_due(DUE_BYTES * 2, DUE_BYTES));
        assert!(is_due(DUE_BYTES * 4 + 1, DUE_BYTES));
    }
}
