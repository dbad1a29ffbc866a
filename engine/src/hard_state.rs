//! Hard state: what a node must never forget (Raft 5.2, DESIGN.md section 6). File `hard-state`.
//!
//! Content of the generation file ([`crate::generation`]):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | vote: term |
//! | 8 | 8 | vote: node |
//! | 16 | 1 | vote: 1 if that node is known to lead the term |
//! | 17 | 1 | 1 if the clean-shutdown mark is set |
//! | 18 | 1 | number of peers |
//! | 19 | 1 | 1 if peers remember more of this node than lies here: it takes no part any more |
//! | 20 | 4 | incarnation, counted up when a start was let in by the peers |
//! | 24 | 8 | this node |
//! | 32 | 8 | how often the log was opened for writing |
//! | 40 | 8 | clean mark: group (zero where not set, as the next two) |
//! | 48 | 8 | clean mark: segment |
//! | 56 | 8 | clean mark: end of the log in it |
//! | 64 | 32 each | peers: node, incarnation, term, index |
//! | .. | 0 or 48 | doubt, where there is one |
//!
//! Doubt:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | 1 if the header of its first entry is known |
//! | 1 | 3 | zero |
//! | 4 | 4 | checksum of that header; zero where it is not known |
//! | 8 | 8 | first entry |
//! | 16 | 8 | one past the last entry known to be committed |
//! | 24 | 8 | segment |
//! | 32 | 8 | term of the leader it came from; zero where no leader was known |
//! | 40 | 8 | where its group ended in the segment, or could have ended at most |

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskError};
use crate::frame::{Tail, read_u32, read_u64};
use crate::generation::{GenerationError, GenerationFile, MAX_CONTENT_BYTES, read};
use crate::number::{Group, LIMIT, NodeId, Offset, RaftIndex, SegmentNumber, Term};

pub(crate) const MAGIC: [u8; 8] = *b"STELHARD";
const PEERS_START: usize = 64;
const PEER_BYTES: usize = 32;
const DOUBT_BYTES: usize = 48;
/// Most peers that are remembered.
pub const MAX_PEERS: usize = (MAX_CONTENT_BYTES - PEERS_START - DOUBT_BYTES) / PEER_BYTES;

const _: () = assert!(MAX_PEERS <= u8::MAX as usize);

/// A Raft vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// The term voted in.
    pub term: Term,
    /// For whom.
    pub node: NodeId,
    /// Whether that node is known to lead the term.
    pub committed: bool,
}

/// Where the log ended when it was closed; counts only if group and end match the flush ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanMark {
    /// The last flush group.
    pub group: Group,
    /// The open segment.
    pub segment: SegmentNumber,
    /// The end of the log in it.
    pub end: Offset,
}

/// The most that a peer has been seen to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerMark {
    /// Which peer.
    pub node: NodeId,
    /// Its highest incarnation seen.
    pub incarnation: u32,
    /// The leader's term of its highest acknowledgement seen.
    pub term: Term,
    /// And the index.
    pub index: RaftIndex,
}

/// A last group that was in doubt when it was cut, on a log that others hold, too: its flush may have returned, and
/// then this node has promised to hold it. Until the others have been asked for it the node does not take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doubt {
    /// The first entry that may be lost.
    pub first: RaftIndex,
    /// The checksum of its header, where that was still good: then only that entry can stand there.
    pub header: Option<u32>,
    /// One past the last entry that was known to be committed.
    pub committed: RaftIndex,
    /// The term of the leader that the node knew when the group was written; 0 where it knew none.
    pub leader: Term,
    /// The segment of the first entry.
    pub segment: SegmentNumber,
    /// Where the group ended in it, as the flush ring told, or could have ended at most.
    pub end: Offset,
}

impl Doubt {
    /// Whether a log that ends so holds again all that the group may have held. What was committed behind the group's
    /// end this node never wrote.
    pub fn is_over(&self, tail: &Tail) -> bool {
        (tail.segment, tail.offset) >= (self.segment, self.end)
    }

    /// Whether a log that ends so lacks an entry that is known to be committed.
    pub fn lacks_committed(&self, tail: &Tail) -> bool {
        tail.next_index < self.committed
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[u8::from(self.header.is_some()), 0, 0, 0]);
        bytes.extend_from_slice(&self.header.unwrap_or(0).to_le_bytes());
        for number in [self.first.get(), self.committed.get(), self.segment.get(), self.leader.get(), self.end.get()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(bytes: &[u8; DOUBT_BYTES]) -> Self {
        Self {
            header: (bytes[0] == 1).then_some(read_u32(bytes, 4)),
            first: RaftIndex::new(read_u64(bytes, 8)),
            committed: RaftIndex::new(read_u64(bytes, 16)),
            segment: SegmentNumber::new(read_u64(bytes, 24)),
            leader: Term::new(read_u64(bytes, 32)),
            end: Offset::new(read_u64(bytes, 40)),
        }
    }
}

/// How a node stands with its peers, as it is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnStanding {
    /// This start was let in; the incarnation it has now. Doubt is over.
    LetIn(u32),
    /// Peers remember more of this node than lies here.
    Stale,
}

/// The content of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HardState {
    /// The vote.
    pub vote: Vote,
    /// This node.
    pub node: NodeId,
    /// How often the log was opened for writing.
    pub starts: u64,
    /// How many of its starts were let in: each asked the peers first what they remember.
    pub incarnation: u32,
    /// Whether peers were found to remember more of this node than lies here. Never taken back.
    pub stale: bool,
    /// Set by a clean stop, cleared by a start.
    pub clean: Option<CleanMark>,
    /// What the peers are asked for before this node takes part.
    pub doubt: Option<Doubt>,
    /// At most [`MAX_PEERS`].
    pub peers: Vec<PeerMark>,
}

impl HardState {
    fn encode(&self) -> Vec<u8> {
        assert!(self.peers.len() <= MAX_PEERS, "{} peers", self.peers.len());
        let mut bytes = vec![0; PEERS_START];
        bytes[0..8].copy_from_slice(&self.vote.term.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.vote.node.get().to_le_bytes());
        bytes[16] = u8::from(self.vote.committed);
        bytes[17] = u8::from(self.clean.is_some());
        bytes[18] = u8::try_from(self.peers.len()).unwrap_or(u8::MAX);
        bytes[19] = u8::from(self.stale);
        bytes[20..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.node.get().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.starts.to_le_bytes());
        if let Some(clean) = self.clean {
            bytes[40..48].copy_from_slice(&clean.group.get().to_le_bytes());
            bytes[48..56].copy_from_slice(&clean.segment.get().to_le_bytes());
            bytes[56..64].copy_from_slice(&clean.end.get().to_le_bytes());
        }
        for peer in &self.peers {
            for number in [peer.node.get(), u64::from(peer.incarnation), peer.term.get(), peer.index.get()] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        if let Some(doubt) = &self.doubt {
            doubt.write(&mut bytes);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, peers) = bytes.split_at_checked(PEERS_START)?;
        let clean = CleanMark {
            group: Group::new(read_u64(head, 40)),
            segment: SegmentNumber::new(read_u64(head, 48)),
            end: Offset::new(read_u64(head, 56)),
        };
        let (peers, doubt) = peers.split_at_checked(usize::from(head[18]) * PEER_BYTES)?;
        let peer = |bytes: &[u8]| PeerMark {
            node: NodeId::new(read_u64(bytes, 0)),
            // What does not fit is not what was written.
            incarnation: u32::try_from(read_u64(bytes, 8)).unwrap_or(u32::MAX),
            term: Term::new(read_u64(bytes, 16)),
            index: RaftIndex::new(read_u64(bytes, 24)),
        };
        let state = Self {
            vote: Vote {
                term: Term::new(read_u64(head, 0)),
                node: NodeId::new(read_u64(head, 8)),
                committed: head[16] == 1,
            },
            node: NodeId::new(read_u64(head, 24)),
            starts: read_u64(head, 32),
            incarnation: read_u32(head, 20),
            stale: head[19] == 1,
            clean: (head[17] == 1).then_some(clean),
            doubt: doubt.first_chunk().map(Doubt::read),
            peers: peers.as_chunks::<PEER_BYTES>().0.iter().map(|bytes| peer(bytes)).collect(),
        };
        let possible = state.starts < LIMIT && state.vote.term.get() < LIMIT;
        (state.peers.len() <= MAX_PEERS && possible && state.encode() == bytes).then_some(state)
    }
}

/// The open file.
pub struct HardStateFile {
    file: GenerationFile,
    state: HardState,
}

impl HardStateFile {
    /// Creates the file.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn create(disk: &dyn Disk, path: &Path, state: HardState) -> Result<Self, DiskError> {
        Ok(Self { file: GenerationFile::create(disk, path, MAGIC, &state.encode())?, state })
    }

    /// Opens the file.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, GenerationError> {
        let (file, content) = GenerationFile::open(disk, path, MAGIC)?;
        let state = HardState::decode(&content).ok_or_else(|| GenerationError::Damaged(path.to_owned()))?;
        Ok(Self { file, state })
    }

    /// What was last saved.
    pub const fn state(&self) -> &HardState {
        &self.state
    }

    /// Makes a new state durable before it returns. A failure is final.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn save(&mut self, state: HardState) -> Result<(), DiskError> {
        self.file.save(&state.encode())?;
        self.state = state;
        Ok(())
    }
}

/// Reads the file without opening it for writing.
///
/// # Errors
/// [`GenerationError`].
pub fn read_hard_state(disk: &dyn Disk, path: &Path) -> Result<HardState, GenerationError> {
    let (_, content) = read(disk, path, MAGIC)?;
    HardState::decode(&content).ok_or_else(|| GenerationError::Damaged(path.to_owned()))
}

/// The mark of the last clean stop. A missing or damaged file proves nothing: opening the log for writing
/// tells of it.
///
/// # Errors
/// [`DiskError`] of a failed call.
pub(crate) fn read_clean_mark(disk: &dyn Disk, path: &Path) -> Result<Option<CleanMark>, DiskError> {
    match read_hard_state(disk, path) {
        Ok(state) => Ok(state.clean),
        Err(GenerationError::Disk(error)) if error.source.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_both_ways() {
        let state = HardState {
            vote: Vote { term: Term::new(1), node: NodeId::new(2), committed: true },
            node: NodeId::new(3),
            starts: 4,
            incarnation: 12,
            stale: true,
            clean: Some(CleanMark { group: Group::new(5), segment: SegmentNumber::new(6), end: Offset::new(7) }),
            doubt: Some(Doubt {
                first: RaftIndex::new(14),
                header: Some(13),
                committed: RaftIndex::new(15),
                leader: Term::new(18),
                segment: SegmentNumber::new(16),
                end: Offset::new(17),
            }),
            peers: vec![PeerMark {
                node: NodeId::new(8),
                incarnation: 9,
                term: Term::new(10),
                index: RaftIndex::new(11),
            }],
        };
        let mut golden = vec![0; 144];
        for (at, byte) in
            [(0, 1), (8, 2), (16, 1), (17, 1), (18, 1), (19, 1), (20, 12), (24, 3), (32, 4), (40, 5), (48, 6), (56, 7)]
        {
            golden[at] = byte;
        }
        for (at, byte) in [
            (64, 8),
            (72, 9),
            (80, 10),
            (88, 11),
            (96, 1),
            (100, 13),
            (104, 14),
            (112, 15),
            (120, 16),
            (128, 18),
            (136, 17),
        ] {
            golden[at] = byte;
        }
        assert_eq!(state.encode(), golden);
        assert_eq!(HardState::decode(&golden), Some(state));
    }

    #[test]
    fn only_what_is_written_is_read() {
        let state = HardState {
            vote: Vote { term: Term::new(1), node: NodeId::new(1), committed: false },
            node: NodeId::new(1),
            starts: 1,
            incarnation: 1,
            stale: false,
            clean: None,
            doubt: None,
            peers: Vec::new(),
        };
        let bytes = state.encode();
        for (at, byte) in [(16, 2), (17, 2), (18, 1), (19, 2), (40, 1)] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert_eq!(HardState::decode(&other), None, "byte {at}");
        }
        assert_eq!(HardState::decode(&bytes[..63]), None);
        let doubt = Doubt {
            first: RaftIndex::new(1),
            header: None,
            committed: RaftIndex::new(0),
            leader: Term::new(0),
            segment: SegmentNumber::new(0),
            end: Offset::new(1),
        };
        let state = HardState { doubt: Some(doubt), ..state };
        let bytes = state.encode();
        assert_eq!(HardState::decode(&bytes), Some(state));
        for at in [64, 65, 68] {
            let mut other = bytes.clone();
            other[at] = 2;
            assert_eq!(HardState::decode(&other), None, "byte {at}");
        }
        assert_eq!(HardState::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
