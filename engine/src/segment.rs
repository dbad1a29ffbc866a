//! Segment and payload files: names, headers, and where things lie in them.
//!
//! Segment file `<16 hex digits>.seg`:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4,096 | header |
//! | 4,096 | 3 x 4,096 | flush ring ([`crate::ring`]); zero once sealed |
//! | 16,384 | .. | frames ([`crate::frame`]) |
//!
//! Payload file `<16 hex digits>.<part>.pay`, parts of at most 256 MiB:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4,096 | header |
//! | 4,096 | .. | per frame: its payload slots, then zeros up to the log's frame alignment |
//!
//! Header of both:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELESEG` or `STELEPAY` |
//! | 8 | 4 | checksum | CRC-32 of bytes 12..4,096 |
//! | 12 | 2 | format version | 1 |
//! | 14 | 1 | block height | |
//! | 15 | 1 | zero | |
//! | 16 | 8 | segment number | |
//! | 24 | 4 | frame alignment | 4,096 or 8 |
//! | 28 | 4 | part | 0 in a segment file |
//! | 32 | .. | zero | |
//!
//! Little-endian; written when the file is created, never again. Magic, checksum and version keep
//! their places in all versions: a bad checksum is damage, a good one with another version is a
//! newer format.

use stele_proof::LeafIndex;

use crate::frame::{read_u32, read_u64};
use crate::number::{Alignment, BlockHeight, Offset, SegmentNumber};

/// Bytes of a page: a header, a slot of the flush ring.
pub const PAGE_BYTES: usize = 4096;
/// Slots of the flush ring.
pub const RING_SLOTS: u64 = 3;
/// Where the flush ring begins.
pub const RING_START: u64 = PAGE_BYTES as u64;
/// Where the frames of a segment file begin.
pub const FRAMES_START: Offset = Offset::new(RING_START + RING_SLOTS * PAGE_BYTES as u64);
/// Where the payloads of a payload file begin.
pub const PAYLOADS_START: u32 = 4096;
/// Largest payload file.
pub const MAX_PART_BYTES: u32 = 256 << 20;
/// The version of all files of a log.
pub const FORMAT_VERSION: u16 = 1;

const _: () = assert!(FRAMES_START.get() == 16_384);
const _: () = assert!(PAYLOADS_START as usize == PAGE_BYTES);
// The largest payload of a batch fits into an empty part.
const _: () = assert!(crate::batch::MAX_PAYLOAD_BYTES + PAGE_BYTES <= MAX_PART_BYTES as usize);

/// The number of a payload file within its segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PayloadPart(u32);

impl PayloadPart {
    /// The first part.
    pub const FIRST: Self = Self(0);

    /// Wraps the number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Where the payload slots of a frame lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadPlace {
    /// In which part.
    pub part: PayloadPart,
    /// Where in it.
    pub offset: u32,
    /// How many bytes, padding not counted.
    pub len: u32,
}

impl PayloadPlace {
    /// The first aligned place behind the payloads so far; `None` where there is nothing to place.
    pub fn after(part: PayloadPart, end: u32, len: u32, alignment: Alignment) -> Option<Self> {
        if len == 0 {
            return None;
        }
        let offset = alignment.round_up(u64::from(end));
        match u32::try_from(offset) {
            Ok(offset) if u64::from(offset) + u64::from(len) <= u64::from(MAX_PART_BYTES) => {
                Some(Self { part, offset, len })
            }
            _ => Some(Self { part: PayloadPart(part.0 + 1), offset: PAYLOADS_START, len }),
        }
    }

    /// Where the payload ends, padding not counted.
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.len as u64
    }
}

/// A file of the `segments` directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SegmentFile {
    /// Frames.
    Frames(SegmentNumber),
    /// Payloads.
    Payloads(SegmentNumber, PayloadPart),
    /// The tile sidecar.
    Tiles(SegmentNumber),
    /// The hash table.
    Hashes(SegmentNumber),
}

impl SegmentFile {
    /// The file's name.
    pub fn name(self) -> String {
        match self {
            Self::Frames(segment) => format!("{:016x}.seg", segment.get()),
            Self::Payloads(segment, part) => format!("{:016x}.{}.pay", segment.get(), part.get()),
            Self::Tiles(segment) => format!("{:016x}.tiles", segment.get()),
            Self::Hashes(segment) => format!("{:016x}.hashes", segment.get()),
        }
    }

    /// The file of that name; `None` for names that are never given.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, rest) = name.split_at_checked(16)?;
        let segment = SegmentNumber::new(u64::from_str_radix(digits, 16).ok()?);
        let file = match rest {
            ".seg" => Self::Frames(segment),
            ".tiles" => Self::Tiles(segment),
            ".hashes" => Self::Hashes(segment),
            _ => {
                let part = rest.strip_prefix('.')?.strip_suffix(".pay")?;
                Self::Payloads(segment, PayloadPart(part.parse().ok()?))
            }
        };
        (file.name() == name).then_some(file)
    }
}

/// What the header of a segment or payload file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// Which segment.
    pub segment: SegmentNumber,
    /// Which part; `None` in a segment file.
    pub part: Option<PayloadPart>,
    /// The log's frame alignment.
    pub alignment: Alignment,
    /// The log's block height.
    pub height: BlockHeight,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Not what was written.
    #[error("the file header is damaged")]
    Damaged,
    /// A good header of a format this version does not know.
    #[error("format version {0} is unknown to this version, which knows {FORMAT_VERSION}; use a newer release")]
    UnknownVersion(u16),
}

const SEGMENT_MAGIC: [u8; 8] = *b"STELESEG";
const PAYLOAD_MAGIC: [u8; 8] = *b"STELEPAY";

impl FileHeader {
    /// Writes the header page.
    pub fn encode(&self) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(if self.part.is_some() { &PAYLOAD_MAGIC } else { &SEGMENT_MAGIC });
        page[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page[14] = self.height.get();
        page[16..24].copy_from_slice(&self.segment.get().to_le_bytes());
        page[24..28].copy_from_slice(&self.alignment.get().to_le_bytes());
        page[28..32].copy_from_slice(&self.part.map_or(0, PayloadPart::get).to_le_bytes());
        let checksum = crc32fast::hash(&page[12..]);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Reads a header page.
    ///
    /// # Errors
    /// [`HeaderFault`]; anything the encoder would not have written is damage.
    pub fn decode(page: &[u8]) -> Result<Self, HeaderFault> {
        if page.len() != PAGE_BYTES {
            return Err(HeaderFault::Damaged);
        }
        let payload = page[..8] == PAYLOAD_MAGIC;
        if !(payload || page[..8] == SEGMENT_MAGIC) || read_u32(page, 8) != crc32fast::hash(&page[12..]) {
            return Err(HeaderFault::Damaged);
        }
        let version = u16::from_le_bytes([page[12], page[13]]);
        if version != FORMAT_VERSION {
            return Err(HeaderFault::UnknownVersion(version));
        }
        let header = Self {
            segment: SegmentNumber::new(read_u64(page, 16)),
            part: payload.then(|| PayloadPart(read_u32(page, 28))),
            alignment: Alignment::new(read_u32(page, 24)).ok_or(HeaderFault::Damaged)?,
            height: BlockHeight::new(page[14]).ok_or(HeaderFault::Damaged)?,
        };
        if header.encode() == page { Ok(header) } else { Err(HeaderFault::Damaged) }
    }
}

/// The leaves of a segment, without gap to its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafRange {
    /// The first leaf.
    pub first: LeafIndex,
    /// One past the last.
    pub end: LeafIndex,
}

impl LeafRange {
    /// How many leaves.
    pub const fn len(&self) -> u64 {
        self.end.get() - self.first.get()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.end.get() == self.first.get()
    }

    /// Whether the leaf is one of them.
    pub fn contains(&self, leaf: LeafIndex) -> bool {
        self.first <= leaf && leaf < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_golden_bytes_both_ways() {
        let header = FileHeader {
            segment: SegmentNumber::new(0x0102),
            part: None,
            alignment: Alignment::PAGE,
            height: BlockHeight::DEFAULT,
        };
        let page = header.encode();
        let mut golden = [0; PAGE_BYTES];
        golden[..8].copy_from_slice(b"STELESEG");
        golden[8..32]
            .copy_from_slice(&[0x91, 0x96, 0x51, 0x13, 1, 0, 16, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page[..32], golden[..32]);
        assert_eq!(page, golden);
        assert_eq!(FileHeader::decode(&golden), Ok(header));
        let payload = FileHeader { part: Some(PayloadPart::new(7)), ..header };
        assert_eq!(FileHeader::decode(&payload.encode()), Ok(payload));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_damage() {
        let header = FileHeader {
            segment: SegmentNumber::new(3),
            part: Some(PayloadPart::new(1)),
            alignment: Alignment::WORD,
            height: BlockHeight::DEFAULT,
        };
        let page = header.encode();
        for at in 0..PAGE_BYTES * 8 {
            let mut flipped = page;
            flipped[at / 8] ^= 1 << (at % 8);
            assert_eq!(FileHeader::decode(&flipped), Err(HeaderFault::Damaged), "bit {at}");
        }
    }

    #[test]
    fn a_good_header_of_another_version_is_unknown_not_damaged() {
        let header = FileHeader {
            segment: SegmentNumber::new(3),
            part: None,
            alignment: Alignment::PAGE,
            height: BlockHeight::DEFAULT,
        };
        let mut page = header.encode();
        page[12] = 2;
        let checksum = crc32fast::hash(&page[12..]);
        page[8..12].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(FileHeader::decode(&page), Err(HeaderFault::UnknownVersion(2)));
    }

    #[test]
    fn names_are_read_only_as_written() {
        for file in [
            SegmentFile::Frames(SegmentNumber::new(0xabc)),
            SegmentFile::Payloads(SegmentNumber::new(1), PayloadPart::new(12)),
            SegmentFile::Tiles(SegmentNumber::new(u64::MAX)),
            SegmentFile::Hashes(SegmentNumber::new(0x12)),
        ] {
            assert_eq!(SegmentFile::parse(&file.name()), Some(file));
        }
        assert_eq!(SegmentFile::Frames(SegmentNumber::new(0xabc)).name(), "0000000000000abc.seg");
        for name in ["0000000000000ABC.seg", "abc.seg", "0000000000000abc.seg.tmp", "0000000000000abc.01.pay", "x"] {
            assert_eq!(SegmentFile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn payloads_are_placed_aligned_and_never_across_parts() {
        let place = |end, len| PayloadPlace::after(PayloadPart::FIRST, end, len, Alignment::PAGE);
        assert_eq!(place(4096, 0), None);
        assert_eq!(place(4096, 5), Some(PayloadPlace { part: PayloadPart::FIRST, offset: 4096, len: 5 }));
        assert_eq!(place(4097, 5), Some(PayloadPlace { part: PayloadPart::FIRST, offset: 8192, len: 5 }));
        let exact = MAX_PART_BYTES - 4096;
        assert_eq!(place(exact, 4096), Some(PayloadPlace { part: PayloadPart::FIRST, offset: exact, len: 4096 }));
        let next = PayloadPlace { part: PayloadPart::new(1), offset: 4096, len: 4097 };
        assert_eq!(place(exact, 4097), Some(next));
    }
}
