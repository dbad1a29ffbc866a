use proptest::prelude::*;
use stele_proof::tree::{CompactRange, leaf_hash, node_hash};

use super::*;

fn node(level: u8, index: u64) -> Node {
    Node::new(level, index).unwrap()
}

/// Three frames, the first without leaves; leaf 255 completes node 15 of level 4 and node 0 of level 8.
fn sample() -> Vec<u8> {
    let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(254), RaftIndex::new(7));
    builder.frame(Offset::new(0x4000), LeafIndex::new(254));
    builder.frame(Offset::new(0x5000), LeafIndex::new(254));
    builder.observe(node(0, 254), Hash::new([1; 32]));
    builder.observe(node(0, 255), Hash::new([2; 32]));
    builder.observe(node(1, 127), Hash::new([0xee; 32]));
    builder.observe(node(4, 15), Hash::new([8; 32]));
    builder.observe(node(7, 1), Hash::new([0xee; 32]));
    builder.observe(node(8, 0), Hash::new([9; 32]));
    builder.frame(Offset::new(0x6000), LeafIndex::new(256));
    builder.observe(node(0, 256), Hash::new([3; 32]));
    builder.finish(0x0a0b_0c0d, Term::new(5), Offset::new(0x7000))
}

fn decode(bytes: &[u8]) -> Result<Tiles, TilesFault> {
    Tiles::decode(bytes.to_vec(), SegmentNumber::new(2))
}

#[test]
fn golden_bytes_both_ways() {
    let golden = [
        b"STELTILE",
        &[0x1d, 0x53, 0x94, 0x12, 0xd9, 0x0f, 0x34, 0x90, 0x82, 0xc6, 0x1d, 0x07, 0xab, 0x6f, 0x51, 0x73][..],
        &[0xdf, 0x1f, 0xeb, 0x0b, 0xb2, 0x3b, 0xe9, 0x16, 0xe7, 0xdc, 0x4d, 0xbc, 0x9f, 0xbe, 0xba, 0x29],
        &[2, 0, 0, 0, 3, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0, 0],
        &[0, 0x40, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x50, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x60, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        &[1; 32],
        &[2; 32],
        &[3; 32],
        &[8; 32],
        &[9; 32],
    ]
    .concat();
    assert_eq!(sample(), golden);

    let tiles = decode(&golden).unwrap();
    assert_eq!(tiles.as_bytes(), golden);
    assert_eq!(tiles.segment(), SegmentNumber::new(2));
    assert_eq!(tiles.leaves(), LeafRange { first: LeafIndex::new(254), end: LeafIndex::new(257) });
    assert_eq!((tiles.first_index(), tiles.last_index()), (RaftIndex::new(7), RaftIndex::new(9)));
    assert_eq!((tiles.frame_count(), tiles.last_link(), tiles.last_term()), (3, 0x0a0b_0c0d, Term::new(5)));
    assert_eq!(tiles.end(), Offset::new(0x7000));
    let byte = |hash: Option<Hash>| hash.map(|hash| hash.as_bytes()[0]);
    let leaves = [253, 254, 255, 256, 257].map(|leaf| byte(tiles.leaf_hash(LeafIndex::new(leaf))));
    assert_eq!(leaves, [None, Some(1), Some(2), Some(3), None]);
    assert_eq!([14, 15, 16].map(|index| byte(tiles.stored_hash(node(4, index)))), [None, Some(8), None]);
    assert_eq!([0, 1].map(|index| byte(tiles.stored_hash(node(8, index)))), [Some(9), None]);
    assert_eq!([7, 12, 60, 63].map(|level| byte(tiles.stored_hash(node(level, 0)))), [None; 4]);
}

#[test]
fn frames_are_found_by_index_and_by_leaf() {
    let tiles = decode(&sample()).unwrap();
    let frame = |index, offset, first_leaf| FramePlace {
        index: RaftIndex::new(index),
        offset: Offset::new(offset),
        end: Offset::new(offset + 0x1000),
        first_leaf: LeafIndex::new(first_leaf),
    };
    let frames = [frame(7, 0x4000, 254), frame(8, 0x5000, 254), frame(9, 0x6000, 256)];
    assert_eq!(tiles.frames().collect::<Vec<_>>(), frames);
    let by_index = [6, 7, 8, 9, 10].map(|index| tiles.frame(RaftIndex::new(index)));
    assert_eq!(by_index, [None, Some(frames[0]), Some(frames[1]), Some(frames[2]), None]);
    let by_leaf = [253, 254, 255, 256, 257].map(|leaf| tiles.frame_of_leaf(LeafIndex::new(leaf)));
    assert_eq!(by_leaf, [None, Some(frames[1]), Some(frames[1]), Some(frames[2]), None], "never the blank frame");
}

#[test]
fn every_flipped_bit_cut_and_added_byte_is_damage() {
    let bytes = sample();
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert_eq!(decode(&flipped), Err(TilesFault::Damaged), "bit {at}");
    }
    for len in 0..bytes.len() {
        assert_eq!(decode(&bytes[..len]), Err(TilesFault::Damaged), "cut to {len}");
    }
    assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(TilesFault::Damaged));
}

/// The sample with other bytes at a place, under a good checksum.
fn forged(at: usize, bytes: &[u8]) -> Result<Tiles, TilesFault> {
    let mut file = sample();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = blake3::hash(&file[CHECKED_FROM..]);
    file[8..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
    decode(&file)
}

#[test]
fn what_is_never_written_is_refused_under_a_good_checksum() {
    assert!(forged(0, &[]).is_ok());
    assert_eq!(forged(40, &[0]), Err(TilesFault::OlderVersion(0)));
    assert_eq!(forged(40, &[1]), Err(TilesFault::OlderVersion(1)));
    assert_eq!(forged(40, &[3]), Err(TilesFault::UnknownVersion(3)));
    assert_eq!(forged(48, &[3]), Err(TilesFault::OtherSegment(SegmentNumber::new(3))));
    let far = u64::MAX.to_le_bytes();
    let cases: &[(usize, &[u8], &'static str)] = &[
        (42, &[1], "reserved byte"),
        (100, &[1], "reserved byte"),
        (44, &[0], "frame count"),
        (72, &far, "frame count"),
        (44, &[2], "length"),
        (44, &[0xff; 4], "length"),
        (64, &[2], "length"),
        (64, &far, "leaf count"),
        (64, &[4, 0xff, 0x0f], "leaf count"),
        (105, &[0x30], "frame offset"),
        (105, &[0x48], "frame offset"),
        (120, &[4], "frame offset"),
        (121, &[0x40], "frame offset"),
        (120, &[0x38, 0x40], "frame offset"),
        (121, &[0x61], "frame offset"),
        (89, &[0x5f], "frame offset"),
        (88, &[1], "frame offset"),
        (112, &[253], "first leaf of a frame"),
        (112, &[255], "first leaf of a frame"),
        (128, &[253], "first leaf of a frame"),
        (144, &[2], "first leaf of a frame"),
    ];
    for (at, bytes, field) in cases {
        assert_eq!(forged(*at, bytes), Err(TilesFault::Field(field)), "{bytes:?} at {at}");
    }
}

#[test]
fn a_segment_without_leaves_has_frames_only() {
    let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(512), RaftIndex::new(0));
    builder.frame(FRAMES_START, LeafIndex::new(512));
    let bytes = builder.finish(1, Term::new(1), Offset::new(FRAMES_START.get() + 72));
    assert_eq!(bytes.len(), HEADER_BYTES + FRAME_ROW_BYTES);
    let tiles = decode(&bytes).unwrap();
    assert!(tiles.leaves().is_empty());
    assert_eq!(tiles.frame_of_leaf(LeafIndex::new(512)), None);
    assert_eq!(tiles.stored_hash(node(8, 1)), None);
}

#[test]
#[should_panic(expected = "I-TILES-1")]
fn a_missing_node_is_our_own_bug() {
    let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(255), RaftIndex::new(0));
    builder.frame(FRAMES_START, LeafIndex::new(255));
    builder.observe(Node::new(0, 255).unwrap(), Hash::new([1; 32]));
    builder.finish(1, Term::new(1), Offset::new(FRAMES_START.get() + 72));
}

#[test]
#[should_panic(expected = "I-TILES-2")]
fn a_frame_that_does_not_follow_is_our_own_bug() {
    let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(0), RaftIndex::new(0));
    builder.frame(FRAMES_START, LeafIndex::new(0));
    builder.frame(Offset::new(FRAMES_START.get() + 56), LeafIndex::new(0));
}

#[test]
fn a_node_is_a_row_of_a_stored_level() {
    let row = |level, index| stored_row(node(level, index)).collect::<Vec<_>>();
    assert_eq!(row(0, 300), [node(0, 300)]);
    assert_eq!(row(3, 3), (24..32).map(|index| node(0, index)).collect::<Vec<_>>());
    assert_eq!(row(7, 3), (24..32).map(|index| node(4, index)).collect::<Vec<_>>());
    assert_eq!(row(8, 3), [node(8, 3)]);
    assert_eq!(row(17, 5), [node(16, 10), node(16, 11)]);
    assert_eq!(row(63, 0), (0..8).map(|index| node(60, index)).collect::<Vec<_>>());
    assert_eq!(completing_leaf(node(0, 7)), LeafIndex::new(7));
    assert_eq!(completing_leaf(node(16, 1)), LeafIndex::new(131_071));
    assert_eq!(completing_leaf(node(0, u64::MAX - 1)), LeafIndex::new(u64::MAX - 1));
}

/// The hashes of all perfect subtrees, level by level.
fn brute_force(leaves: u64) -> Vec<Vec<Hash>> {
    let mut levels = vec![(0..leaves).map(|leaf| leaf_hash(&leaf.to_le_bytes())).collect::<Vec<_>>()];
    while let Some(below) = levels.last().filter(|below| below.len() > 1) {
        let level = below.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
        levels.push(level);
    }
    levels
}

/// Sidecars of segments with these frames; a frame is its number of leaves.
fn sidecars(segments: &[Vec<u64>]) -> Vec<Tiles> {
    let mut range = CompactRange::new();
    let mut index = 0;
    let mut sidecars = Vec::new();
    for (number, frames) in (0..).map(SegmentNumber::new).zip(segments) {
        let mut builder = TilesBuilder::new(number, range.size().next_leaf(), RaftIndex::new(index));
        let mut offset = FRAMES_START.get();
        for leaves in frames {
            builder.frame(Offset::new(offset), range.size().next_leaf());
            for _ in 0..*leaves {
                let leaf = leaf_hash(&range.size().get().to_le_bytes());
                range.append_observed(leaf, &mut |node, hash| builder.observe(node, hash));
            }
            offset += 64 + 8 * leaves;
            index += 1;
        }
        let bytes = builder.finish(0, Term::new(1), Offset::new(offset));
        sidecars.push(Tiles::decode(bytes, number).unwrap());
    }
    sidecars
}

/// Up to 12 segments of up to 250 leaves or so, in up to 6 frames each.
fn segments() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let frame = prop_oneof![Just(0), Just(1), 0..60u64, Just(256)];
    prop::collection::vec(prop::collection::vec(frame, 1..6), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// I-TILES-1.
    #[test]
    fn every_stored_hash_is_in_exactly_one_segment(segments in segments()) {
        let sidecars = sidecars(&segments);
        let levels = brute_force(segments.iter().flatten().sum());
        for (level, hashes) in (0..).zip(&levels).step_by(4) {
            for (index, expected) in (0..).zip(hashes) {
                let node = node(level, index);
                let holders: Vec<_> = sidecars.iter().filter(|tiles| tiles.stored_hash(node).is_some()).collect();
                prop_assert_eq!(holders.len(), 1, "{}", node);
                prop_assert_eq!(holders[0].stored_hash(node), Some(*expected));
                prop_assert!(holders[0].leaves().contains(completing_leaf(node)));
            }
        }
    }

    #[test]
    fn every_node_comes_from_the_sidecars(segments in segments()) {
        let sidecars = sidecars(&segments);
        let levels = brute_force(segments.iter().flatten().sum());
        let stored = |node| sidecars.iter().find_map(|tiles| tiles.stored_hash(node)).ok_or(node);
        for (level, hashes) in (0..).zip(&levels) {
            for (index, expected) in (0..).zip(hashes) {
                let node = node(level, index);
                let mut asked = 0;
                let found = node_hash_from(node, |node| {
                    asked += 1;
                    stored(node)
                });
                prop_assert_eq!(found, Ok(*expected), "{}", node);
                prop_assert!(asked <= 8, "{} takes {} stored hashes", node, asked);
            }
            let beyond = node(level, hashes.len() as u64);
            prop_assert!(node_hash_from(beyond, stored).is_err(), "{} is not complete", beyond);
        }
    }

    #[test]
    fn every_leaf_and_entry_has_its_frame(segments in segments()) {
        let sidecars = sidecars(&segments);
        let mut leaf = 0;
        let mut index = 0;
        for (tiles, frames) in sidecars.iter().zip(&segments) {
            prop_assert_eq!(tiles.frames().count(), frames.len());
            for leaves in frames {
                let frame = tiles.frame(RaftIndex::new(index)).unwrap();
                prop_assert_eq!((frame.index.get(), frame.first_leaf.get()), (index, leaf));
                prop_assert_eq!(frame.end.get() - frame.offset.get(), 64 + 8 * leaves);
                for _ in 0..*leaves {
                    prop_assert_eq!(tiles.frame_of_leaf(LeafIndex::new(leaf)), Some(frame));
                    leaf += 1;
                }
                index += 1;
            }
        }
    }
}
