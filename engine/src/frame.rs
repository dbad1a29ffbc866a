//! The frame: one Raft entry in a segment file.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 4 | magic | `SFRM` |
//! | 4 | 4 | header checksum | CRC-32 of bytes 8..64, the segment number and the file offset |
//! | 8 | 1 | kind | [`EntryKind`] |
//! | 9 | 3 | zero | |
//! | 12 | 4 | link | the header checksum of the frame before; 0 in the first frame of a log |
//! | 16 | 8 | raft index | |
//! | 24 | 8 | term | |
//! | 32 | 8 | first leaf | the number of leaves before this frame |
//! | 40 | 4 | leaf count | 0 unless the frame is a valid batch |
//! | 44 | 4 | body length | at most [`MAX_BODY_BYTES`] |
//! | 48 | 4 | body checksum | CRC-32 of the body |
//! | 52 | 4 | payload part | 0 where there is no payload |
//! | 56 | 4 | payload offset | in that part; 0 where there is no payload |
//! | 60 | 4 | payload length | bytes of the batch's payload slots |
//! | 64 | .. | body | |
//! | .. | .. | zero | up to the log's frame alignment |
//!
//! Little-endian. Immutable once committed. A frame is a pure function of the entry and of the
//! frames before it ([`Tail`]): no clock, no node, no flush boundary. So a frame read back is good if
//! and only if it is, byte for byte, what [`Tail::place`] writes for its content.
//!
//! I-FRAME-1: link = header checksum of the frame at raft index - 1.
//! I-FRAME-2: first leaf = sum of the leaf counts of all frames before.
//! I-FRAME-3: a segment's frames lie in one block; the frame that completes the block, or a valid
//! seal entry, is its last.

use stele_proof::{LeafIndex, TreeSize};

use crate::batch::{Batch, BatchError, MAX_PAYLOAD_BYTES, MAX_RECORDS};
use crate::number::{Alignment, BlockHeight, LIMIT, Offset, RaftIndex, SegmentNumber, Term};
use crate::segment::{FRAMES_START, FileHeader, MAX_PART_BYTES, PAYLOADS_START, PayloadPart, PayloadPlace};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 64;
/// Largest body of a frame.
pub const MAX_BODY_BYTES: usize = 16 << 20;
const MAGIC: [u8; 4] = *b"SFRM";

const _: () = assert!(HEADER_BYTES == 4 + 4 + 1 + 3 + 4 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 4 + 4);

/// What kind of Raft entry a frame holds. The numbers are for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A leader's first entry of its term; no body.
    Blank,
    /// A membership ([`crate::membership`]).
    Membership,
    /// Records ([`crate::batch`]).
    Batch,
    /// Ends the open segment early; the body is that segment's number, 8 bytes.
    Seal,
    /// Allows old segments to be dropped. Reserved: this version neither writes nor accepts it.
    Trim,
}

impl EntryKind {
    /// The number in the frame.
    pub const fn number(self) -> u8 {
        match self {
            Self::Blank => 1,
            Self::Membership => 2,
            Self::Batch => 3,
            Self::Seal => 4,
            Self::Trim => 5,
        }
    }

    /// The kind of that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Blank),
            2 => Some(Self::Membership),
            3 => Some(Self::Batch),
            4 => Some(Self::Seal),
            5 => Some(Self::Trim),
            _ => None,
        }
    }
}

/// The fields of a frame header that the checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// What the frame holds.
    pub kind: EntryKind,
    /// Header checksum of the frame before.
    pub link: u32,
    /// Position in the Raft log.
    pub index: RaftIndex,
    /// The entry's term.
    pub term: Term,
    /// Leaves before this frame.
    pub first_leaf: LeafIndex,
    /// Leaves of this frame.
    pub leaf_count: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-32 of the body.
    pub body_checksum: u32,
    /// Where its payload slots lie.
    pub payload: Option<PayloadPlace>,
}

/// Why bytes are not a good frame at their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// No frame begins here.
    #[error("no frame begins here")]
    Magic,
    /// The header checksum does not match: damaged, or from another place.
    #[error("the frame header does not match its checksum")]
    HeaderChecksum,
    /// A field holds what is never written.
    #[error("the frame header holds an impossible {0}")]
    Field(&'static str),
    /// The file ends inside the frame.
    #[error("the file ends inside the frame")]
    Cut,
    /// The body checksum does not match.
    #[error("the frame body does not match its checksum")]
    BodyChecksum,
    /// The bytes up to the next frame are not zero.
    #[error("the padding behind the frame is not zero")]
    Padding,
    /// It is not the frame that follows the one before.
    #[error("the frame does not follow the one before it")]
    Link,
    /// The entry cannot stand here.
    #[error("{0}")]
    Place(#[from] PlaceError),
}

/// Why an entry cannot follow the log's tail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The body is not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The body is too large.
    #[error("the body has {0} bytes, at most {MAX_BODY_BYTES} are allowed")]
    BodyTooLarge(usize),
    /// The body is not what this kind of entry holds.
    #[error("the body does not fit a {0:?} entry")]
    Body(EntryKind),
    /// The payload does not have the length that the batch says.
    #[error("the payload has {found} bytes, the entry says {expected}")]
    PayloadLength {
        /// What the batch says.
        expected: u32,
        /// What came.
        found: usize,
    },
    /// The term is lower than that of the entry before.
    #[error("term {found} follows term {last}")]
    TermBackwards {
        /// The term before.
        last: Term,
        /// The entry's.
        found: Term,
    },
    /// This version does not know what to do with the kind.
    #[error("{0:?} entries are not supported by this version")]
    Unsupported(EntryKind),
}

impl FrameHeader {
    /// Bytes of the whole frame, padding included.
    pub fn frame_len(&self, alignment: Alignment) -> u64 {
        alignment.round_up(HEADER_BYTES as u64 + u64::from(self.body_len))
    }

    /// Writes the header for its place.
    pub fn encode(&self, segment: SegmentNumber, offset: Offset) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[8] = self.kind.number();
        bytes[12..16].copy_from_slice(&self.link.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.index.get().to_le_bytes());
        bytes[24..32].copy_from_slice(&self.term.get().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_leaf.get().to_le_bytes());
        bytes[40..44].copy_from_slice(&self.leaf_count.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.body_checksum.to_le_bytes());
        if let Some(place) = self.payload {
            bytes[52..56].copy_from_slice(&place.part.get().to_le_bytes());
            bytes[56..60].copy_from_slice(&place.offset.to_le_bytes());
            bytes[60..64].copy_from_slice(&place.len.to_le_bytes());
        }
        let checksum = header_checksum(&bytes, segment, offset);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header at its place.
    ///
    /// # Errors
    /// [`FrameFault`]; lengths are bounded when this returns.
    pub fn decode(bytes: &[u8; HEADER_BYTES], segment: SegmentNumber, offset: Offset) -> Result<Self, FrameFault> {
        if bytes[0..4] != MAGIC {
            return Err(FrameFault::Magic);
        }
        if read_u32(bytes, 4) != header_checksum(bytes, segment, offset) {
            return Err(FrameFault::HeaderChecksum);
        }
        let kind = EntryKind::from_number(bytes[8]).ok_or(FrameFault::Field("kind"))?;
        if bytes[9..12] != [0; 3] {
            return Err(FrameFault::Field("reserved byte"));
        }
        let place = PayloadPlace {
            part: PayloadPart::new(read_u32(bytes, 52)),
            offset: read_u32(bytes, 56),
            len: read_u32(bytes, 60),
        };
        let payload = match place.len {
            0 if place.part.get() != 0 || place.offset != 0 => return Err(FrameFault::Field("payload place")),
            0 => None,
            _ if !is_placed(&place) => return Err(FrameFault::Field("payload place")),
            _ => Some(place),
        };
        let header = Self {
            kind,
            link: read_u32(bytes, 12),
            index: RaftIndex::new(read_u64(bytes, 16)),
            term: Term::new(read_u64(bytes, 24)),
            first_leaf: LeafIndex::new(read_u64(bytes, 32)),
            leaf_count: read_u32(bytes, 40),
            body_len: read_u32(bytes, 44),
            body_checksum: read_u32(bytes, 48),
            payload,
        };
        if header.body_len as usize > MAX_BODY_BYTES {
            return Err(FrameFault::Field("body length"));
        }
        let leaves = u64::from(header.leaf_count);
        if header.leaf_count as usize > MAX_RECORDS || header.first_leaf.checked_add(leaves).is_none() {
            return Err(FrameFault::Field("leaf count"));
        }
        if header.index.get() >= LIMIT || header.term.get() >= LIMIT || header.first_leaf.get() >= LIMIT {
            return Err(FrameFault::Field("index, term or first leaf"));
        }
        Ok(header)
    }

    /// Leaves after this frame.
    pub fn leaves_after(&self) -> TreeSize {
        TreeSize::new(self.first_leaf.get() + u64::from(self.leaf_count))
    }
}

/// Whether payload slots can lie there in any log.
fn is_placed(place: &PayloadPlace) -> bool {
    place.offset >= PAYLOADS_START
        && place.len as usize <= MAX_PAYLOAD_BYTES
        && place.end() <= u64::from(MAX_PART_BYTES)
}

/// The checksum of an encoded header.
pub fn stored_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    read_u32(header, 4)
}

fn header_checksum(bytes: &[u8; HEADER_BYTES], segment: SegmentNumber, offset: Offset) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[8..]);
    hasher.update(&segment.get().to_le_bytes());
    hasher.update(&offset.get().to_le_bytes());
    hasher.finalize()
}

/// Reads four little-endian bytes.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// Reads eight little-endian bytes.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Where the next frame goes and what it links to: everything about the frames before that a frame
/// depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tail {
    /// The log's frame alignment.
    pub alignment: Alignment,
    /// The log's block height.
    pub height: BlockHeight,
    /// The open segment.
    pub segment: SegmentNumber,
    /// Where in it the next frame begins.
    pub offset: Offset,
    /// Where its next payload may begin.
    pub payload_part: PayloadPart,
    /// Where in that part.
    pub payload_offset: u32,
    /// The next entry's index.
    pub next_index: RaftIndex,
    /// The last entry's term.
    pub last_term: Term,
    /// The last frame's header checksum.
    pub link: u32,
    /// Leaves so far.
    pub leaves: TreeSize,
}

/// An entry that has its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The header.
    pub header: FrameHeader,
    /// The header as it is written.
    pub bytes: [u8; HEADER_BYTES],
    /// Where the frame lies.
    pub segment: SegmentNumber,
    /// Where in the segment file.
    pub offset: Offset,
    /// Whether it is the last frame of its segment.
    pub ends_segment: bool,
}

impl Tail {
    /// The tail of an empty log.
    pub const fn start(alignment: Alignment, height: BlockHeight) -> Self {
        Self {
            alignment,
            height,
            segment: SegmentNumber::new(0),
            offset: FRAMES_START,
            payload_part: PayloadPart::FIRST,
            payload_offset: PAYLOADS_START,
            next_index: RaftIndex::new(0),
            last_term: Term::new(0),
            link: 0,
            leaves: TreeSize::new(0),
        }
    }

    /// The tail before the first frame of a segment, taken from that frame: what it says about the frames
    /// before it is on trust. `None` where no log has such a frame.
    pub fn before_first(file: &FileHeader, first: &FrameHeader) -> Option<Self> {
        let possible = first.index.get() < LIMIT && first.first_leaf.get() < LIMIT;
        possible.then_some(Self {
            segment: file.segment,
            next_index: first.index,
            last_term: first.term,
            link: first.link,
            leaves: TreeSize::new(first.first_leaf.get()),
            ..Self::start(file.alignment, file.height)
        })
    }

    /// Gives an entry its place behind this tail.
    ///
    /// # Errors
    /// [`PlaceError`] where the entry can stand nowhere or not here.
    pub fn place(&self, kind: EntryKind, term: Term, body: &[u8], payload_len: usize) -> Result<Placed, PlaceError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(PlaceError::BodyTooLarge(body.len()));
        }
        if term < self.last_term {
            return Err(PlaceError::TermBackwards { last: self.last_term, found: term });
        }
        let mut leaf_count = 0;
        let mut expected = 0;
        let mut ends_segment = false;
        match kind {
            EntryKind::Blank if body.is_empty() => {}
            EntryKind::Membership if !body.is_empty() => {}
            EntryKind::Batch => {
                let batch = Batch::parse(body)?;
                expected = batch.payload_len();
                let count = batch.count() as u64;
                let valid = batch.term() == term
                    && batch.first_leaf() == self.leaves.next_leaf()
                    && count <= self.room_in_block();
                if valid {
                    leaf_count = u32::try_from(count).map_err(|_over| BatchError::Bounds)?;
                    ends_segment = count == self.room_in_block();
                }
            }
            EntryKind::Seal if body.len() == 8 => ends_segment = read_u64(body, 0) == self.segment.get(),
            EntryKind::Trim => return Err(PlaceError::Unsupported(kind)),
            _ => return Err(PlaceError::Body(kind)),
        }
        if u32::try_from(payload_len) != Ok(expected) {
            return Err(PlaceError::PayloadLength { expected, found: payload_len });
        }
        let header = FrameHeader {
            kind,
            link: self.link,
            index: self.next_index,
            term,
            first_leaf: self.leaves.next_leaf(),
            leaf_count,
            body_len: u32::try_from(body.len()).map_err(|_over| PlaceError::BodyTooLarge(body.len()))?,
            body_checksum: crc32fast::hash(body),
            payload: PayloadPlace::after(self.payload_part, self.payload_offset, expected, self.alignment),
        };
        let bytes = header.encode(self.segment, self.offset);
        Ok(Placed { header, bytes, segment: self.segment, offset: self.offset, ends_segment })
    }

    /// Leaves until the open segment's block is complete.
    pub const fn room_in_block(&self) -> u64 {
        self.height.leaves() - self.leaves.get() % self.height.leaves()
    }

    /// Whether the open segment holds no frame yet.
    pub fn segment_is_empty(&self) -> bool {
        self.offset == FRAMES_START
    }

    /// Moves behind a frame that was placed here.
    ///
    /// # Panics
    /// Where the frame was placed behind another tail (I-FRAME-1).
    pub fn advance(&mut self, placed: &Placed) {
        assert_eq!((placed.segment, placed.offset), (self.segment, self.offset), "I-FRAME-1");
        assert_eq!((placed.header.index, placed.header.link), (self.next_index, self.link), "I-FRAME-1");
        self.next_index = self.next_index.next();
        self.last_term = placed.header.term;
        self.link = stored_checksum(&placed.bytes);
        self.leaves = placed.header.leaves_after();
        if placed.ends_segment {
            self.segment = self.segment.next();
            self.offset = FRAMES_START;
            self.payload_part = PayloadPart::FIRST;
            self.payload_offset = PAYLOADS_START;
            return;
        }
        self.offset = Offset::new(self.offset.get() + placed.header.frame_len(self.alignment));
        if let Some(place) = placed.header.payload {
            self.payload_part = place.part;
            self.payload_offset = place.offset + place.len;
        }
    }

    /// Bytes of the open segment's frames and payloads so far.
    pub fn stored_bytes(&self) -> u64 {
        let parts = u64::from(self.payload_part.get()) * u64::from(MAX_PART_BYTES);
        self.offset.get() + parts + u64::from(self.payload_offset)
    }

    /// Checks what was read at this place: it must be what [`Tail::place`] writes for its content.
    ///
    /// # Errors
    /// [`FrameFault`] naming what is wrong.
    pub fn check(&self, bytes: &[u8; HEADER_BYTES], header: &FrameHeader, body: &[u8]) -> Result<Placed, FrameFault> {
        if crc32fast::hash(body) != header.body_checksum {
            return Err(FrameFault::BodyChecksum);
        }
        if header.link != self.link || header.index != self.next_index {
            return Err(FrameFault::Link);
        }
        let payload_len = header.payload.map_or(0, |place| place.len as usize);
        let placed = self.place(header.kind, header.term, body, payload_len)?;
        if placed.bytes == *bytes { Ok(placed) } else { Err(FrameFault::Field("place or leaf count")) }
    }
}

#[cfg(test)]
mod tests;
