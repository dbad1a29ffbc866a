//! What a segment file holds behind its ring: frames and the bodies in them.

use stele_engine::batch::{Batch, BatchBuilder};
use stele_engine::frame::{FrameHeader, HEADER_BYTES, Tail};
use stele_engine::membership::{MAX_NODES, Membership};
use stele_engine::number::{Alignment, BlockHeight, Offset, SegmentNumber};
use stele_engine::scan::{FrameScanner, Seen};
use stele_engine::segment::FRAMES_START;
use stele_proof::record::{MAX_RECORD_BYTES, Salt};

use crate::disk::MemoryFile;

/// Payloads up to this size are built again; a batch may claim 64 MiB that are not part of its body.
const MAX_REBUILT_PAYLOAD_BYTES: u32 = 1 << 20;

/// The frames of a segment file from byte 16,384 on.
pub(crate) fn frame(data: &[u8]) {
    for alignment in [Alignment::WORD, Alignment::PAGE] {
        let tail = Tail::start(alignment, BlockHeight::new(8).expect("the lowest block"));
        scan(data, tail);
        scan(&repaired(data, tail), tail);
    }
    if let Some(header) = data.first_chunk::<HEADER_BYTES>() {
        let (segment, offset) = (SegmentNumber::new(u64::MAX), Offset::new(u64::MAX));
        let mut header = *header;
        seal_header(&mut header, segment, offset);
        if let Ok(read) = FrameHeader::decode(&header, segment, offset) {
            assert_eq!(read.encode(segment, offset), header);
            assert!(read.leaves_after().get() >= read.first_leaf.get());
        }
    }
}

/// Reads frames until one is bad; each must be what is written for its content.
fn scan(data: &[u8], mut tail: Tail) {
    let first = FRAMES_START.get();
    let mut bytes = vec![0; usize::try_from(first).expect("a small number")];
    bytes.extend_from_slice(data);
    let file = MemoryFile::new(bytes);
    let mut scanner = FrameScanner::new(&file);
    let segment = tail.segment;
    while tail.segment == segment {
        let at = usize::try_from(tail.offset.get() - first).expect("a place in the input");
        match scanner.at(&tail).expect("a file in memory") {
            Seen::Frame(placed, body) => {
                let len = usize::try_from(placed.header.frame_len(tail.alignment)).expect("it was read");
                let frame = &data[at..at + len];
                assert_eq!(frame[..HEADER_BYTES], placed.bytes);
                assert_eq!(frame[HEADER_BYTES..HEADER_BYTES + body.len()], *body);
                assert!(frame[HEADER_BYTES + body.len()..].iter().all(|byte| *byte == 0), "padding");
                assert_eq!(placed.header.encode(tail.segment, tail.offset), placed.bytes);
                let payload_len = placed.header.payload.map_or(0, |place| place.len as usize);
                let again = tail.place(placed.header.kind, placed.header.term, body, payload_len);
                assert_eq!(again, Ok(placed), "a frame is a function of its entry and of the frames before");
                assert_eq!(placed.header.first_leaf, tail.leaves.next_leaf(), "I-FRAME-2");
                let before = tail;
                tail.advance(&placed);
                let block = |leaves: u64| leaves / tail.height.leaves();
                assert!(tail.segment != segment || block(before.leaves.get()) == block(tail.leaves.get()), "I-FRAME-3");
            }
            Seen::Nothing => {
                let rest = data.get(at..).unwrap_or_default();
                assert!(rest.iter().take(HEADER_BYTES).all(|byte| *byte == 0));
                let expected = rest.iter().any(|byte| *byte != 0);
                assert_eq!(scanner.non_zero_from(tail.offset.get()).expect("a file in memory"), expected);
                return;
            }
            Seen::Bad(_) => return,
        }
    }
}

/// The input with magic, link, index, first leaf and checksums made right, frame by frame.
fn repaired(data: &[u8], mut tail: Tail) -> Vec<u8> {
    let mut data = data.to_vec();
    let segment = tail.segment;
    while tail.segment == segment {
        let at = usize::try_from(tail.offset.get() - FRAMES_START.get()).expect("a place in the input");
        let Some((header, rest)) = data.get_mut(at..).and_then(|rest| rest.split_first_chunk_mut::<HEADER_BYTES>())
        else {
            break;
        };
        let body_len = u32::from_le_bytes([header[44], header[45], header[46], header[47]]);
        let Some(body) = rest.get(..body_len as usize) else { break };
        header[..4].copy_from_slice(b"SFRM");
        header[12..16].copy_from_slice(&tail.link.to_le_bytes());
        header[16..24].copy_from_slice(&tail.next_index.get().to_le_bytes());
        header[32..40].copy_from_slice(&tail.leaves.get().to_le_bytes());
        header[48..52].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        seal_header(header, tail.segment, tail.offset);
        let Ok(decoded) = FrameHeader::decode(header, tail.segment, tail.offset) else { break };
        let Ok(placed) = tail.check(header, &decoded, body) else { break };
        tail.advance(&placed);
    }
    data
}

fn seal_header(header: &mut [u8; HEADER_BYTES], segment: SegmentNumber, offset: Offset) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[8..]);
    hasher.update(&segment.get().to_le_bytes());
    hasher.update(&offset.get().to_le_bytes());
    header[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// The body of a batch.
pub(crate) fn batch(data: &[u8]) {
    let Ok(batch) = Batch::parse(data) else { return };
    let records: Vec<_> = batch.records().collect();
    assert_eq!(records.len(), batch.count());
    assert!(records.iter().all(|record| (1..=MAX_RECORD_BYTES).contains(&record.bytes.len())));
    let mut slot_at = 0;
    for record in &records {
        assert_eq!(record.slot.0, slot_at, "slots follow one another");
        slot_at += record.slot.1;
    }
    assert_eq!(slot_at, batch.payload_len());
    if batch.payload_len() > MAX_REBUILT_PAYLOAD_BYTES {
        return;
    }
    let mut builder = BatchBuilder::default();
    let payload = vec![0; batch.payload_len() as usize];
    for record in records {
        let start = builder.buffer().len();
        builder.buffer().extend_from_slice(record.bytes);
        let slot = (record.slot.1 as usize).checked_sub(Salt::LEN).map(|len| (&Salt::ZERO, &payload[..len]));
        builder.push(start, slot);
    }
    let lens = builder.byte_lens();
    let (body, payload) = builder.cut(batch.term(), batch.first_leaf());
    assert_eq!(body, data);
    let slots = if payload.is_empty() { 4 * batch.count() } else { 0 };
    assert_eq!(lens, (body.len() + slots, payload.len()), "the size is known before the cut");
}

/// The body of a membership entry.
pub(crate) fn membership(data: &[u8]) {
    let Ok(membership) = Membership::decode(data) else { return };
    assert_eq!(membership.encode(), data);
    assert!((1..=2).contains(&membership.voters.len()) && membership.nodes.len() <= MAX_NODES);
    for voter in membership.voters.iter().flatten() {
        assert!(membership.nodes.iter().any(|node| node.id == *voter), "a voter is a node");
    }
}
