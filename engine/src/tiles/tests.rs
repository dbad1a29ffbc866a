use proptest::prelude::*;
use stele_proof::tree::{leaf_hash, node_hash};

use super::*;

/// Three frames, the first without leaves; leaf 255 completes node 0 of tile level 1.
fn sample() -> Vec<u8> {
    let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(254), RaftIndex::new(7));
    let node = |level, index| Node::new(level, index).unwrap();
    builder.frame(Offset::new(0x4000), LeafIndex::new(254));
    builder.frame(Offset::new(0x5000), LeafIndex::new(254));
    builder.observe(node(0, 254), Hash::new([1; 32]));
    builder.observe(node(0, 255), Hash::new([2; 32]));
    builder.observe(node(1, 127), Hash::new([0xee; 32]));
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
        &[0x7f, 0xa2, 0x58, 0x08, 0x38, 0x13, 0xd1, 0x1a, 0xca, 0x98, 0x81, 0x44, 0x94, 0xa9, 0x11, 0xff][..],
        &[0x00, 0x28, 0x5f, 0xe3, 0xc8, 0xb3, 0x24, 0x14, 0x81, 0xe6, 0x40, 0x1a, 0xbf, 0xb0, 0x17, 0xf1],
        &[1, 0, 0, 0, 3, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0, 0],
        &[0, 0x40, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x50, 0, 0, 0, 0, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x60, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        &[1; 32],
        &[2; 32],
        &[3; 32],
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
    assert_eq!([0, 1].map(|index| byte(tiles.tile_hash(1, index))), [Some(9), None]);
    assert_eq!([2, 7, 8, 255].map(|level| byte(tiles.tile_hash(level, 0))), [None; 4]);
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
    assert_eq!(forged(40, &[2]), Err(TilesFault::UnknownVersion(2)));
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
    assert_eq!(tiles.tile_hash(1, 1), None);
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
fn a_node_is_a_row_of_one_tile() {
    let run = |level, index| TileRun::of(Node::new(level, index).unwrap());
    assert_eq!(run(0, 300), TileRun { level: 0, indexes: 300..301 });
    assert_eq!(run(7, 3), TileRun { level: 0, indexes: 384..512 });
    assert_eq!(run(8, 3), TileRun { level: 1, indexes: 3..4 });
    assert_eq!(run(17, 5), TileRun { level: 2, indexes: 10..12 });
    assert_eq!(run(63, 0), TileRun { level: 7, indexes: 0..128 });
    assert_eq!(completing_leaf(0, 7), Some(LeafIndex::new(7)));
    assert_eq!(completing_leaf(2, 1), Some(LeafIndex::new(131_071)));
    assert_eq!(completing_leaf(8, 0), None);
    assert_eq!(completing_leaf(255, 0), None);
    assert_eq!(completing_leaf(0, u64::MAX), None);
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
    fn every_tile_hash_is_in_exactly_one_segment(segments in segments()) {
        let sidecars = sidecars(&segments);
        let levels = brute_force(segments.iter().flatten().sum());
        for (level, hashes) in (0..).zip(levels.iter().step_by(8)) {
            for (index, expected) in (0..).zip(hashes) {
                let holders: Vec<_> = sidecars.iter().filter(|tiles| tiles.tile_hash(level, index).is_some()).collect();
                prop_assert_eq!(holders.len(), 1, "level {} index {}", level, index);
                prop_assert_eq!(holders[0].tile_hash(level, index), Some(*expected));
                prop_assert!(holders[0].leaves().contains(completing_leaf(level, index).unwrap()));
            }
        }
    }

    #[test]
    fn every_node_comes_from_the_sidecars(segments in segments()) {
        let sidecars = sidecars(&segments);
        let levels = brute_force(segments.iter().flatten().sum());
        for (level, hashes) in (0..).zip(&levels) {
            for (index, expected) in (0..).zip(hashes) {
                let node = Node::new(level, index).unwrap();
                let found = node_hash_from(node, |level, index| {
                    let hash = sidecars.iter().find_map(|tiles| tiles.tile_hash(level, index));
                    hash.ok_or((level, index))
                });
                prop_assert_eq!(found, Ok(*expected), "{}", node);
            }
            let beyond = Node::new(level, hashes.len() as u64).unwrap();
            let missing = node_hash_from(beyond, |level, index| {
                sidecars.iter().find_map(|tiles| tiles.tile_hash(level, index)).ok_or(())
            });
            prop_assert_eq!(missing, Err(()), "{} is not complete", beyond);
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
