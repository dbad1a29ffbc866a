use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::batch::BatchBuilder;

const SEGMENT: SegmentNumber = SegmentNumber::new(9);
const OFFSET: Offset = Offset::new(0x5000);

fn header() -> FrameHeader {
    FrameHeader {
        kind: EntryKind::Batch,
        link: 0x0102_0304,
        index: RaftIndex::new(0x1112_1314_1516_1718),
        term: Term::new(5),
        first_leaf: LeafIndex::new(0x0102),
        leaf_count: 2,
        body_len: 0x2b,
        body_checksum: 0x0a0b_0c0d,
        payload: Some(PayloadPlace { part: PayloadPart::new(1), offset: 0x2000, len: 0x23 }),
    }
}

/// An empty log with blocks of 256 leaves.
fn start() -> Tail {
    Tail::start(Alignment::PAGE, BlockHeight::new(8).unwrap())
}

/// A batch of records of two bytes, one with a payload of as many bytes where there are any.
fn batch(term: u64, first_leaf: u64, count: u64, payload: Option<usize>) -> (Bytes, usize) {
    let mut builder = BatchBuilder::default();
    let payload = payload.map(|len| vec![7; len]);
    for number in 0..count {
        let start = builder.buffer().len();
        builder.buffer().extend_from_slice(b"{}");
        let slot = payload.as_ref().filter(|_| number == 0);
        builder.push(start, slot.map(|bytes| (&stele_proof::record::Salt::ZERO, &bytes[..])));
    }
    let (body, payload) = builder.cut(Term::new(term), LeafIndex::new(first_leaf));
    (body, payload.len())
}

/// The body of a batch of one record whose payload slot has that length.
fn batch_with_slot(first_leaf: u64, slot: u32) -> Vec<u8> {
    let first_leaf = first_leaf.to_le_bytes();
    let slot = slot.to_le_bytes();
    [&[0; 8][..], &first_leaf, &[1, 0, 0, 0], &slot, b"{}", &slot, &[2, 0]].concat()
}

/// Places a batch of the tail's term behind the tail and moves on.
fn append_batch(tail: &mut Tail, count: u64, payload: Option<usize>) -> Placed {
    let (body, payload) = batch(tail.last_term.get(), tail.leaves.get(), count, payload);
    let placed = tail.place(EntryKind::Batch, tail.last_term, &body, payload).unwrap();
    tail.advance(&placed);
    placed
}

#[test]
fn header_golden_bytes_both_ways() {
    let golden = [
        &b"SFRM"[..],
        // CRC-32 of the 56 bytes that follow, then segment 9 and offset 0x5000 as 8 bytes each.
        &[0x2d, 0x76, 0x52, 0x07],
        &[3, 0, 0, 0, 4, 3, 2, 1],
        &[0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11],
        &[5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0x2b, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a],
        &[1, 0, 0, 0, 0, 0x20, 0, 0, 0x23, 0, 0, 0],
    ]
    .concat();
    let golden: [u8; HEADER_BYTES] = golden.try_into().unwrap();
    assert_eq!(header().encode(SEGMENT, OFFSET), golden);
    assert_eq!(FrameHeader::decode(&golden, SEGMENT, OFFSET), Ok(header()));
    assert_eq!(header().leaves_after(), TreeSize::new(0x0104));
    assert_eq!(header().frame_len(Alignment::PAGE), 4096);
    assert_eq!(header().frame_len(Alignment::WORD), 112);
}

#[test]
fn the_first_frames_of_a_log_golden_bytes() {
    let mut tail = start();
    let membership = tail.place(EntryKind::Membership, Term::new(0), b"membership", 0).unwrap();
    let mut golden = [0; HEADER_BYTES];
    golden[..4].copy_from_slice(b"SFRM");
    golden[4..8].copy_from_slice(&[0xe8, 0x48, 0xbd, 0x8c]);
    golden[8] = 2;
    golden[44] = 10;
    // CRC-32 of `membership`.
    golden[48..52].copy_from_slice(&[0x85, 0xd2, 0xff, 0x86]);
    assert_eq!(membership.bytes, golden);
    assert_eq!((membership.segment, membership.offset), (SegmentNumber::new(0), FRAMES_START));
    tail.advance(&membership);

    let blank = tail.place(EntryKind::Blank, Term::new(1), &[], 0).unwrap();
    let mut golden = [0; HEADER_BYTES];
    golden[..4].copy_from_slice(b"SFRM");
    golden[4..8].copy_from_slice(&[0x56, 0x15, 0xe1, 0xc2]);
    golden[8] = 1;
    golden[12..16].copy_from_slice(&membership.bytes[4..8]);
    golden[16] = 1;
    golden[24] = 1;
    assert_eq!(blank.bytes, golden);
    assert_eq!(blank.offset, OFFSET);
}

#[test]
fn every_flipped_bit_of_a_header_is_refused() {
    let bytes = header().encode(SEGMENT, OFFSET);
    for at in 0..HEADER_BYTES * 8 {
        let mut flipped = bytes;
        flipped[at / 8] ^= 1 << (at % 8);
        let expected = if at < 32 { FrameFault::Magic } else { FrameFault::HeaderChecksum };
        assert_eq!(FrameHeader::decode(&flipped, SEGMENT, OFFSET), Err(expected), "bit {at}");
    }
}

#[test]
fn a_header_of_another_place_is_refused() {
    let bytes = header().encode(SEGMENT, OFFSET);
    for bit in 0..64 {
        let offset = Offset::new(OFFSET.get() ^ 1 << bit);
        assert_eq!(FrameHeader::decode(&bytes, SEGMENT, offset), Err(FrameFault::HeaderChecksum), "{offset}");
        let segment = SegmentNumber::new(SEGMENT.get() ^ 1 << bit);
        assert_eq!(FrameHeader::decode(&bytes, segment, OFFSET), Err(FrameFault::HeaderChecksum), "{segment}");
    }
    assert_eq!(FrameHeader::decode(&[0; HEADER_BYTES], SEGMENT, OFFSET), Err(FrameFault::Magic));
}

/// The header with other bytes at a place, under a good checksum.
fn forged(at: usize, with: &[u8]) -> [u8; HEADER_BYTES] {
    let mut bytes = header().encode(SEGMENT, OFFSET);
    bytes[at..at + with.len()].copy_from_slice(with);
    let checksum = header_checksum(&bytes, SEGMENT, OFFSET);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn what_is_never_written_is_refused_under_a_good_checksum() {
    let cases: &[(usize, &[u8], &'static str)] = &[
        (8, &[0], "kind"),
        (8, &[6], "kind"),
        (9, &[1], "reserved byte"),
        (11, &[0x80], "reserved byte"),
        (32, &[0xff; 8], "leaf count"),
        (44, &[1, 0, 0, 1], "body length"),
        (44, &[0xff; 4], "body length"),
        (60, &[0, 0, 0, 0], "payload place"),
        (56, &[0, 0, 0, 0, 0, 0, 0, 0], "payload place"),
        (56, &[0xff, 0x0f], "payload place"),
        (56, &[0xde, 0xff, 0xff, 0x0f], "payload place"),
        (56, &[0xff; 4], "payload place"),
        (60, &[1, 0, 0, 4], "payload place"),
        (60, &[0xff; 4], "payload place"),
    ];
    for (at, with, field) in cases {
        let decoded = FrameHeader::decode(&forged(*at, with), SEGMENT, OFFSET);
        assert_eq!(decoded, Err(FrameFault::Field(field)), "{with:?} at {at}");
    }
    let last = forged(56, &[0xdd, 0xff, 0xff, 0x0f]);
    assert_eq!(FrameHeader::decode(&last, SEGMENT, OFFSET).unwrap().payload.unwrap().end(), u64::from(MAX_PART_BYTES));
}

#[test]
fn kinds_have_their_numbers_for_ever() {
    let kinds = [EntryKind::Blank, EntryKind::Membership, EntryKind::Batch, EntryKind::Seal, EntryKind::Trim];
    for (number, kind) in (1..).zip(kinds) {
        assert_eq!((kind.number(), EntryKind::from_number(number)), (number, Some(kind)));
    }
}

#[test]
fn a_valid_batch_takes_leaves_and_a_void_one_takes_none() {
    let mut tail = start();
    tail.last_term = Term::new(3);
    let placed = append_batch(&mut tail, 250, None);
    assert_eq!((placed.header.first_leaf.get(), placed.header.leaf_count), (0, 250));
    assert_eq!((tail.leaves.get(), tail.room_in_block()), (250, 6));

    // Wrong term, wrong first leaf on either side, and one record beyond the block.
    for (term, first_leaf, count) in [(2, 250, 1), (4, 250, 1), (3, 249, 1), (3, 251, 1), (3, 250, 7)] {
        let (body, payload) = batch(term, first_leaf, count, Some(1));
        let placed = tail.place(EntryKind::Batch, Term::new(3), &body, payload).unwrap();
        assert_eq!((placed.header.first_leaf.get(), placed.header.leaf_count), (250, 0), "{term} {first_leaf} {count}");
        assert!(placed.header.payload.is_some(), "the bytes of a void batch stay");
        assert!(!placed.ends_segment);
        let mut after = tail;
        after.advance(&placed);
        assert_eq!((after.leaves, after.segment), (tail.leaves, tail.segment));
    }
}

#[test]
fn the_frame_that_completes_a_block_ends_its_segment() {
    let mut tail = start();
    assert!(!append_batch(&mut tail, 255, Some(9)).ends_segment);
    let last = append_batch(&mut tail, 1, Some(9));
    assert!(last.ends_segment);
    assert_eq!((tail.segment, tail.offset), (SegmentNumber::new(1), FRAMES_START));
    assert_eq!((tail.payload_part, tail.payload_offset), (PayloadPart::FIRST, PAYLOADS_START));
    assert_eq!((tail.leaves.get(), tail.room_in_block(), tail.segment_is_empty()), (256, 256, true));
    let whole = append_batch(&mut tail, 256, None);
    assert!(whole.ends_segment, "one batch may be a whole block");
    assert_eq!(whole.header.link, stored_checksum(&last.bytes), "frames are linked across segments");
    assert_eq!(tail.segment, SegmentNumber::new(2));
}

#[test]
fn a_seal_entry_ends_only_the_segment_it_names() {
    let mut tail = start();
    append_batch(&mut tail, 3, None);
    for other in [1u64, u64::MAX] {
        let void = tail.place(EntryKind::Seal, Term::new(0), &other.to_le_bytes(), 0).unwrap();
        assert!(!void.ends_segment);
    }
    let valid = tail.place(EntryKind::Seal, Term::new(0), &0u64.to_le_bytes(), 0).unwrap();
    assert_eq!((valid.ends_segment, valid.header.leaf_count), (true, 0));
    tail.advance(&valid);
    assert_eq!((tail.segment, tail.offset), (SegmentNumber::new(1), FRAMES_START));
    let late = tail.place(EntryKind::Seal, Term::new(0), &0u64.to_le_bytes(), 0).unwrap();
    assert!(!late.ends_segment, "a second seal of a segment is void");
    assert_eq!(tail.room_in_block(), 253, "a block may lie in several segments");
}

#[test]
fn bodies_that_no_entry_of_the_kind_has_are_refused() {
    let place = |kind, body: &[u8]| start().place(kind, Term::new(0), body, 0).map(|placed| placed.header.kind);
    assert_eq!(place(EntryKind::Trim, &[]), Err(PlaceError::Unsupported(EntryKind::Trim)));
    assert_eq!(place(EntryKind::Blank, &[0]), Err(PlaceError::Body(EntryKind::Blank)));
    assert_eq!(place(EntryKind::Membership, &[]), Err(PlaceError::Body(EntryKind::Membership)));
    assert_eq!(place(EntryKind::Seal, &[0; 7]), Err(PlaceError::Body(EntryKind::Seal)));
    assert_eq!(place(EntryKind::Seal, &[0; 9]), Err(PlaceError::Body(EntryKind::Seal)));
    assert_eq!(place(EntryKind::Batch, &[]), Err(PlaceError::Batch(BatchError::Lengths)));
    let large = vec![1; MAX_BODY_BYTES + 1];
    assert_eq!(place(EntryKind::Membership, &large), Err(PlaceError::BodyTooLarge(MAX_BODY_BYTES + 1)));
    assert_eq!(place(EntryKind::Membership, &large[1..]), Ok(EntryKind::Membership));
}

#[test]
fn terms_never_go_back() {
    let mut tail = start();
    tail.last_term = Term::new(4);
    let place = |term| tail.place(EntryKind::Blank, Term::new(term), &[], 0).map(|placed| placed.header.term.get());
    assert_eq!(place(3), Err(PlaceError::TermBackwards { last: Term::new(4), found: Term::new(3) }));
    assert_eq!((place(4), place(9)), (Ok(4), Ok(9)));
}

#[test]
fn a_payload_has_the_length_that_its_batch_says() {
    let (body, payload) = batch(0, 0, 2, Some(5));
    assert_eq!(payload, 37, "salt and payload");
    for found in [0, 36, 38, usize::MAX] {
        let refused = start().place(EntryKind::Batch, Term::new(0), &body, found);
        assert_eq!(refused, Err(PlaceError::PayloadLength { expected: 37, found }));
    }
    let refused = start().place(EntryKind::Blank, Term::new(0), &[], 1);
    assert_eq!(refused, Err(PlaceError::PayloadLength { expected: 0, found: 1 }));
}

#[test]
fn payloads_follow_each_other_aligned() {
    let mut tail = start();
    let place = |part, offset, len| Some(PayloadPlace { part: PayloadPart::new(part), offset, len });
    assert_eq!(append_batch(&mut tail, 1, Some(1)).header.payload, place(0, 4096, 33));
    assert_eq!(append_batch(&mut tail, 1, None).header.payload, None);
    assert_eq!(append_batch(&mut tail, 1, Some(4064)).header.payload, place(0, 8192, 4096));
    assert_eq!(append_batch(&mut tail, 1, Some(0)).header.payload, place(0, 12_288, 32), "an empty payload has a salt");
    tail.alignment = Alignment::WORD;
    assert_eq!(append_batch(&mut tail, 1, Some(1)).header.payload, place(0, 12_320, 33));
    assert_eq!(append_batch(&mut tail, 1, Some(1)).header.payload, place(0, 12_360, 33));
}

#[test]
fn a_payload_that_does_not_fit_begins_the_next_part() {
    let mut tail = start();
    let largest = u32::try_from(MAX_PAYLOAD_BYTES).unwrap();
    let mut places = Vec::new();
    for leaf in 0..5 {
        let body = batch_with_slot(leaf, largest);
        let placed = tail.place(EntryKind::Batch, Term::new(0), &body, MAX_PAYLOAD_BYTES).unwrap();
        assert_eq!(FrameHeader::decode(&placed.bytes, placed.segment, placed.offset), Ok(placed.header));
        tail.advance(&placed);
        let place = placed.header.payload.unwrap();
        places.push((place.part.get(), place.offset));
    }
    let start = PAYLOADS_START;
    let expected = [(0, start), (0, start + largest), (0, start + 2 * largest), (1, start), (1, start + largest)];
    assert_eq!(places, expected);
}

#[test]
fn check_takes_exactly_what_place_wrote() {
    let mut tail = start();
    append_batch(&mut tail, 3, Some(4));
    let (body, payload) = batch(0, 3, 2, Some(4));
    let placed = tail.place(EntryKind::Batch, Term::new(0), &body, payload).unwrap();
    assert_eq!(tail.check(&placed.bytes, &placed.header, &body), Ok(placed));

    let mut rotten = body.to_vec();
    rotten[30] ^= 1;
    assert_eq!(tail.check(&placed.bytes, &placed.header, &rotten), Err(FrameFault::BodyChecksum));
    assert_eq!(tail.check(&placed.bytes, &placed.header, &body[..body.len() - 1]), Err(FrameFault::BodyChecksum));

    // Headers that check, but are not what is written behind this tail.
    let with = |change: fn(&mut FrameHeader)| {
        let mut header = placed.header;
        change(&mut header);
        let bytes = header.encode(placed.segment, placed.offset);
        tail.check(&bytes, &header, &body)
    };
    let field = Err(FrameFault::Field("place or leaf count"));
    assert_eq!(with(|header| header.link ^= 1), Err(FrameFault::Link));
    assert_eq!(with(|header| header.index = header.index.next()), Err(FrameFault::Link));
    assert_eq!(with(|header| header.leaf_count = 0), field);
    assert_eq!(with(|header| header.first_leaf = LeafIndex::new(4)), field);
    assert_eq!(with(|header| header.term = Term::new(1)), field, "void in another term, so without leaves");
    assert_eq!(with(|header| header.payload.as_mut().unwrap().offset += 4096), field);
    assert_eq!(with(|header| header.payload.as_mut().unwrap().part = PayloadPart::new(1)), field);
    let no_payload = PlaceError::PayloadLength { expected: 36, found: 0 };
    assert_eq!(with(|header| header.payload = None), Err(FrameFault::Place(no_payload)));
    assert_eq!(with(|header| header.kind = EntryKind::Blank), Err(PlaceError::Body(EntryKind::Blank).into()));
    assert_eq!(with(|header| header.kind = EntryKind::Trim), Err(PlaceError::Unsupported(EntryKind::Trim).into()));
}

#[test]
fn a_frame_behind_another_tail_does_not_link() {
    let mut tail = start();
    append_batch(&mut tail, 3, None);
    // Two entries for one place, as two leaders leave them; then the same entry behind each.
    let mut other = tail;
    append_batch(&mut tail, 1, None);
    other.last_term = Term::new(1);
    append_batch(&mut other, 1, None);
    assert_eq!((tail.offset, tail.next_index, tail.leaves), (other.offset, other.next_index, other.leaves));
    let stale = tail.place(EntryKind::Blank, Term::new(1), &[], 0).unwrap();
    assert_eq!(FrameHeader::decode(&stale.bytes, other.segment, other.offset), Ok(stale.header));
    assert_eq!(other.check(&stale.bytes, &stale.header, &[]), Err(FrameFault::Link));
    assert_eq!(tail.check(&stale.bytes, &stale.header, &[]), Ok(stale));
    let lower = FrameHeader { term: Term::new(0), link: other.link, ..stale.header };
    let refused = other.check(&lower.encode(other.segment, other.offset), &lower, &[]);
    assert_eq!(refused, Err(PlaceError::TermBackwards { last: Term::new(1), found: Term::new(0) }.into()));
}

#[test]
#[should_panic(expected = "I-FRAME-1")]
fn advancing_behind_another_tail_is_our_own_bug() {
    let mut tail = start();
    let placed = tail.place(EntryKind::Blank, Term::new(0), &[], 0).unwrap();
    tail.advance(&placed);
    tail.advance(&placed);
}

/// An entry, told by how it relates to the tail it comes to.
#[derive(Clone, Copy, Debug)]
enum Step {
    Blank,
    Membership(usize),
    Valid { count: u64, payload: Option<usize> },
    FillBlock,
    OtherTerm,
    OtherLeaf(u64),
    Crossing { beyond: u64, payload: Option<usize> },
    Seal { ahead: u64 },
}

impl Step {
    fn entry(self, tail: &Tail, term: Term) -> (EntryKind, Bytes, usize) {
        let (term, leaves, room) = (term.get(), tail.leaves.get(), tail.room_in_block());
        let batched = |(body, payload)| (EntryKind::Batch, body, payload);
        match self {
            Self::Blank => (EntryKind::Blank, Bytes::new(), 0),
            Self::Membership(len) => (EntryKind::Membership, vec![5; len].into(), 0),
            Self::Valid { count, payload } => batched(batch(term, leaves, count.min(room), payload)),
            Self::FillBlock => batched(batch(term, leaves, room, None)),
            Self::OtherTerm => batched(batch(term + 1, leaves, 1, None)),
            Self::OtherLeaf(ahead) => batched(batch(term, leaves + ahead, 1, None)),
            Self::Crossing { beyond, payload } => batched(batch(term, leaves, room + beyond, payload)),
            Self::Seal { ahead } => {
                let segment = tail.segment.get() + ahead;
                (EntryKind::Seal, segment.to_le_bytes().to_vec().into(), 0)
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let payload = || prop::option::of(0..9000usize);
    prop_oneof![
        Just(Step::Blank),
        (1..9000usize).prop_map(Step::Membership),
        (1..100u64, payload()).prop_map(|(count, payload)| Step::Valid { count, payload }),
        (1..100u64, payload()).prop_map(|(count, payload)| Step::Valid { count, payload }),
        Just(Step::FillBlock),
        Just(Step::OtherTerm),
        (1..3u64).prop_map(Step::OtherLeaf),
        (1..3u64, payload()).prop_map(|(beyond, payload)| Step::Crossing { beyond, payload }),
        (0..2u64).prop_map(|ahead| Step::Seal { ahead }),
    ]
}

proptest! {
    #[test]
    fn any_entries_give_frames_that_keep_the_invariants(
        steps in prop::collection::vec((step(), 0..2u64), 1..40),
        alignment in prop_oneof![Just(Alignment::PAGE), Just(Alignment::WORD)],
    ) {
        let mut tail = Tail { alignment, ..start() };
        let block = tail.height.leaves();
        let mut link = 0;
        let mut leaves = 0;
        let mut segment_first_leaf = 0;
        let mut end = FRAMES_START;
        let mut payload_end = (PayloadPart::FIRST, u64::from(PAYLOADS_START));
        for (step, terms) in steps {
            let term = Term::new(tail.last_term.get() + terms);
            let (kind, body, payload) = step.entry(&tail, term);
            let placed = tail.place(kind, term, &body, payload).unwrap();
            let header = FrameHeader::decode(&placed.bytes, placed.segment, placed.offset).unwrap();
            prop_assert_eq!(header, placed.header);
            prop_assert_eq!(tail.check(&placed.bytes, &header, &body), Ok(placed));
            prop_assert_eq!(header.link, link, "I-FRAME-1");
            prop_assert_eq!(header.first_leaf.get(), leaves, "I-FRAME-2");
            prop_assert_eq!(placed.offset, end, "frames lie without gap");
            prop_assert_eq!(header.payload.map_or(0, |place| place.len as usize), payload);
            if let Some(place) = header.payload {
                prop_assert!((place.part, u64::from(place.offset)) >= payload_end, "payloads do not overlap");
                prop_assert!(u64::from(place.offset).is_multiple_of(u64::from(alignment.get())));
                payload_end = (place.part, place.end());
            }
            link = stored_checksum(&placed.bytes);
            leaves += u64::from(header.leaf_count);
            prop_assert!(leaves <= (segment_first_leaf / block + 1) * block, "I-FRAME-3");
            let valid_seal = matches!(step, Step::Seal { ahead: 0 });
            let completes = header.leaf_count > 0 && leaves.is_multiple_of(block);
            prop_assert_eq!(placed.ends_segment, valid_seal || completes, "I-FRAME-3");
            let before = tail;
            tail.advance(&placed);
            end = Offset::new(end.get() + header.frame_len(alignment));
            if placed.ends_segment {
                segment_first_leaf = leaves;
                end = FRAMES_START;
                payload_end = (PayloadPart::FIRST, u64::from(PAYLOADS_START));
            }
            prop_assert_eq!(tail.segment.get(), before.segment.get() + u64::from(placed.ends_segment));
            prop_assert_eq!((tail.offset, tail.leaves.get(), tail.last_term), (end, leaves, term));
            prop_assert!(tail.check(&placed.bytes, &header, &body).is_err(), "no frame follows itself");
        }
    }
}
