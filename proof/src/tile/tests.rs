//! Tiles against the `tlog_tiles` crate and against what no encoder writes.

use std::collections::HashMap;

use super::*;
use crate::tree::{leaf_hash, node_hash, root_at};

fn size(value: u64) -> TreeSize {
    TreeSize::new(value)
}

fn width(value: u16) -> TileWidth {
    TileWidth::new(value).unwrap()
}

fn tile(level: u8, index: u64, of: u16) -> TilePath {
    TilePath::Tile(TileId::new(level, index, width(of)).unwrap())
}

fn bundle(index: u64, of: u16) -> TilePath {
    TilePath::Bundle(BundleId::new(index, width(of)).unwrap())
}

/// The path of the same tile in golang.org/x/mod/sumdb/tlog, without the height.
fn their_path(theirs: &tlog_tiles::Tile) -> String {
    let path = theirs.path().replacen("tile/8/", "tile/", 1);
    path.replacen("tile/data/", "tile/entries/", 1)
}

/// Every complete node of a tree over `count` records.
fn nodes_of(count: u64) -> HashMap<Node, Hash> {
    let mut range = CompactRange::new();
    let mut nodes = HashMap::new();
    for position in 0..count {
        range.append_observed(leaf_hash(&position.to_be_bytes()), &mut |node, hash| {
            nodes.insert(node, hash);
        });
    }
    nodes
}

#[test]
fn paths_are_written_and_read_as_c2sp_does() {
    for (path, text) in [
        (tile(0, 0, 256), "tile/0/000"),
        (tile(0, 0, 1), "tile/0/000.p/1"),
        (tile(0, 999, 255), "tile/0/999.p/255"),
        (tile(0, 1000, 256), "tile/0/x001/000"),
        (tile(1, 1_234_067, 256), "tile/1/x001/x234/067"),
        (tile(2, 1_234_067, 17), "tile/2/x001/x234/067.p/17"),
        (tile(7, 0, 255), "tile/7/000.p/255"),
        (tile(0, (1 << 56) - 1, 255), "tile/0/x072/x057/x594/x037/x927/935.p/255"),
        (bundle(0, 256), "tile/entries/000"),
        (bundle(1_000_000, 9), "tile/entries/x001/x000/000.p/9"),
        (bundle((1 << 56) - 1, 255), "tile/entries/x072/x057/x594/x037/x927/935.p/255"),
    ] {
        assert_eq!(path.to_string(), text);
        assert_eq!(TilePath::parse(text), Ok(path), "{text}");
    }
}

#[test]
fn what_no_encoder_writes_is_refused() {
    use TilePathError::{Index, Level, Shape, Width};
    for (text, error) in [
        ("", Shape),
        ("tile", Shape),
        ("tile/", Shape),
        ("tile/0", Shape),
        ("/tile/0/000", Shape),
        ("Tile/0/000", Shape),
        ("checkpoint", Shape),
        ("tiles/0/000", Shape),
        ("tile//000", Level),
        ("tile/00/000", Level),
        ("tile/01/000", Level),
        ("tile/+1/000", Level),
        ("tile/-1/000", Level),
        ("tile/ 1/000", Level),
        ("tile/1 /000", Level),
        ("tile/0x1/000", Level),
        ("tile/64/000", Level),
        ("tile/100/000", Level),
        ("tile/256/000", Level),
        ("tile/1000/000", Level),
        ("tile/data/000", Level),
        ("tile/Entries/000", Level),
        ("tile/x001/000", Level),
        ("tile/\u{661}/000", Level),
        ("tile/0/", Index),
        ("tile/0/0", Index),
        ("tile/0/00", Index),
        ("tile/0/0000", Index),
        ("tile/0/x000", Index),
        ("tile/0/x001", Index),
        ("tile/0/001/", Index),
        ("tile/0//001", Index),
        ("tile/0/000/", Index),
        ("tile/0/x000/001", Index),
        ("tile/0/x000/x001/001", Index),
        ("tile/0/001/001", Index),
        ("tile/0/x001/x001", Index),
        ("tile/0/X001/001", Index),
        ("tile/0/xx01/001", Index),
        ("tile/0/x1/001", Index),
        ("tile/0/x0001/001", Index),
        ("tile/0/+01", Index),
        ("tile/0/-01", Index),
        ("tile/0/ 01", Index),
        ("tile/0/0a1", Index),
        ("tile/0/001\n", Index),
        ("tile/0/001.p", Index),
        ("tile/0/.p/1", Index),
        ("tile/0/../000", Index),
        ("tile/0/%30", Index),
        ("tile/0/001?", Index),
        ("tile/0/0\u{e9}", Index),
        ("tile/0/x018/x446/x744/x073/x709/x551/616", Index),
        ("tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999", Index),
        ("tile/0/001.p/", Width),
        ("tile/0/001.p/0", Width),
        ("tile/0/001.p/01", Width),
        ("tile/0/001.p/001", Width),
        ("tile/0/001.p/256", Width),
        ("tile/0/001.p/257", Width),
        ("tile/0/001.p/65537", Width),
        ("tile/0/001.p/+1", Width),
        ("tile/0/001.p/-1", Width),
        ("tile/0/001.p/1 ", Width),
        ("tile/0/001.p/1/", Width),
        ("tile/0/001.p/1.p/1", Width),
        ("tile/0/x001.p/1/001", Width),
        ("tile/entries/001.p/0", Width),
        ("tile/entries/1", Index),
    ] {
        assert_eq!(TilePath::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn coordinates_that_no_tree_has_are_refused() {
    let last = 1 << 56;
    for (level, index, of) in [
        (0, last - 1, 256),
        (0, last, 1),
        (0, u64::MAX, 1),
        (1, last >> 8, 1),
        (7, 0, 256),
        (7, 1, 1),
        (8, 0, 1),
        (63, 0, 1),
        (255, 0, 1),
    ] {
        assert_eq!(TileId::new(level, index, width(of)), None, "{level} {index} {of}");
    }
    assert_eq!(BundleId::new(last - 1, TileWidth::FULL), None);
    assert_eq!(BundleId::new(u64::MAX, width(1)), None);
    assert_eq!(
        TilePath::parse("tile/63/000"),
        Err(TilePathError::BeyondAnyTree { level: 63, index: 0, width: TileWidth::FULL })
    );
    assert_eq!(
        TilePath::parse("tile/8/000.p/1"),
        Err(TilePathError::BeyondAnyTree { level: 8, index: 0, width: width(1) })
    );
    assert_eq!(
        TilePath::parse("tile/entries/x072/x057/x594/x037/x927/935"),
        Err(TilePathError::BeyondAnyTree { level: 0, index: last - 1, width: TileWidth::FULL })
    );
    assert_eq!((TileWidth::new(0), TileWidth::new(257)), (None, None));
}

#[test]
fn tlog_tiles_names_the_same_tiles_of_every_size() {
    let mut sizes: Vec<u64> = (0..600).collect();
    sizes.extend([65_535, 65_536, 65_537, 70_000, 131_072, 131_329]);
    for count in sizes {
        let ours: Vec<TileId> = tiles(size(count)).collect();
        let theirs: Vec<String> = tlog_tiles::Tile::new_tiles(8, 0, count).iter().map(their_path).collect();
        let paths: Vec<String> = ours.iter().map(|tile| TilePath::Tile(*tile).to_string()).collect();
        assert_eq!(paths, theirs, "size {count}");
        for (tile, path) in ours.iter().zip(&paths) {
            assert_eq!(TilePath::parse(path), Ok(TilePath::Tile(*tile)));
            assert_eq!(TileId::new(tile.level(), tile.index(), tile.width()), Some(*tile));
            assert_eq!(TileId::at(tile.level(), tile.index(), tile.end()), Some(*tile));
            assert!(tile.end() <= size(count));
        }
        let bundles: Vec<String> = bundles(size(count)).map(|bundle| TilePath::Bundle(bundle).to_string()).collect();
        let lowest: Vec<String> = theirs
            .iter()
            .filter_map(|path| path.strip_prefix("tile/0/"))
            .map(|rest| format!("tile/entries/{rest}"))
            .collect();
        assert_eq!(bundles, lowest, "size {count}");
    }
}

#[test]
fn the_example_sizes_of_c2sp_have_the_tiles_it_lists() {
    let widths = |of: u64, level: u8| {
        let found = tiles(size(of)).filter(|tile| tile.level() == level);
        found.map(|tile| tile.width().get()).collect::<Vec<_>>()
    };
    assert_eq!(widths(256, 0), [256]);
    assert_eq!(widths(256, 1), [1]);
    assert_eq!(widths(256, 2), [0; 0]);
    let lowest = widths(70_000, 0);
    assert_eq!((lowest.len(), lowest[272], lowest[273]), (274, 256, 112));
    assert_eq!(widths(70_000, 1), [256, 17]);
    assert_eq!(widths(70_000, 2), [1]);
}

#[test]
fn tlog_tiles_writes_and_reads_the_same_paths() {
    let mut index = 1;
    while index < (1 << 56) / 7 {
        index = index * 7 + 3;
        for of in [1, 9, 10, 99, 100, 255, 256] {
            let theirs = tlog_tiles::Tile::new(8, 0, index, of.into(), false);
            assert_eq!(tile(0, index, of).to_string(), their_path(&theirs));
            let theirs = tlog_tiles::Tile::new(8, 0, index, of.into(), true);
            assert_eq!(bundle(index, of).to_string(), their_path(&theirs));
            let path = bundle(index, of).to_string();
            assert_eq!(TilePath::parse(&path), Ok(bundle(index, of)));
        }
    }
}

struct Indexed<'a>(&'a HashMap<Node, Hash>);

impl tlog_tiles::HashReader for Indexed<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hash = |index: &u64| {
            let (level, at) = tlog_tiles::split_stored_hash_index(*index);
            tlog_tiles::Hash(*self.0[&Node::new(level, at).unwrap()].as_bytes())
        };
        Ok(indexes.iter().map(hash).collect())
    }
}

#[test]
fn tlog_tiles_makes_the_same_bytes_and_the_same_hashes_of_them() {
    let count = 66_000;
    let nodes = nodes_of(count);
    let mut contents = HashMap::new();
    for tile in tiles(size(count)) {
        let hashes: Vec<Hash> = tile.nodes().map(|node| nodes[&node]).collect();
        let bytes = encode_tile(&hashes).unwrap();
        let theirs = tlog_tiles::Tile::new(8, tile.level(), tile.index(), tile.width().get().into(), false);
        assert_eq!(theirs.read_data(&Indexed(&nodes)).unwrap(), bytes);
        assert_eq!(decode_tile(tile.width(), &bytes), Ok(hashes.clone()));
        contents.insert(tile, (theirs, hashes, bytes));
    }
    for (node, hash) in &nodes {
        let slot = TileSlot::of(*node);
        let (theirs, hashes, bytes) = &contents[&slot.tile(size(count)).unwrap()];
        assert_eq!(slot.hash(hashes), Some(*hash), "{node}");
        let index = tlog_tiles::stored_hash_index(node.level(), node.index());
        assert_eq!(theirs.hash_at_index(bytes, index).unwrap().0, *hash.as_bytes(), "{node}");
        assert_eq!(slot.count() == 1, node.level() % 8 == 0);
    }
    for tile in tiles(size(count)).filter(|tile| tile.width().is_full()) {
        let above = Node::new((tile.level() + 1) * 8, tile.index()).unwrap();
        assert_eq!(subtree_hash(&contents[&tile].1), Some(nodes[&above]));
    }
}

#[test]
fn a_root_follows_from_tiles_alone() {
    struct Tiles(HashMap<TileId, Vec<Hash>>, TreeSize);
    impl crate::tree::NodeReader for Tiles {
        type Error = Node;
        fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<Hash>, Node> {
            let hash = |node: &Node| {
                let slot = TileSlot::of(*node);
                slot.hash(&self.0[&slot.tile(self.1)?])
            };
            nodes.iter().map(|node| hash(node).ok_or(*node)).collect()
        }
    }
    let nodes = nodes_of(700);
    let mut range = CompactRange::new();
    for count in 0..=700 {
        let of_size = tiles(size(count)).map(|tile| (tile, tile.nodes().map(|n| nodes[&n]).collect()));
        assert_eq!(root_at(size(count), &Tiles(of_size.collect(), size(count))), Ok(range.root()));
        range.append(leaf_hash(&u64::to_be_bytes(count)));
    }
}

#[test]
fn a_slot_is_in_the_tree_only_when_its_node_is_complete() {
    let slot = TileSlot::of(Node::new(10, 77).unwrap());
    assert_eq!((slot.level(), slot.index(), slot.offset(), slot.count()), (1, 1, 52, 4));
    let end = 78 << 10;
    assert_eq!(slot.tile(size(end - 1)), None);
    assert_eq!(slot.tile(size(end)), TileId::new(1, 1, width(56)));
    assert_eq!(slot.hash(&[leaf_hash(b""); 55]), None);

    let last = TileSlot::of(Node::new(0, u64::MAX - 1).unwrap());
    assert_eq!(last.tile(size(u64::MAX)), TileId::new(0, (1 << 56) - 1, width(255)));
    let highest = TileSlot::of(Node::new(63, 0).unwrap());
    assert_eq!((highest.level(), highest.offset(), highest.count()), (7, 0, 128));
    assert_eq!(highest.tile(size(u64::MAX)), TileId::new(7, 0, width(255)));
}

#[test]
fn the_largest_tree_has_tiles() {
    let all = size(u64::MAX);
    assert_eq!(tiles(all).next(), TileId::new(0, 0, TileWidth::FULL));
    assert_eq!(bundles(all).next(), BundleId::new(0, TileWidth::FULL));
    let last = TileId::at(0, (1 << 56) - 1, all).unwrap();
    assert_eq!((last.width().get(), last.end(), last.nodes().count()), (255, all, 255));
    for (level, index) in [(0, 1 << 56), (0, u64::MAX), (7, 1), (8, 0), (63, 0), (255, 0)] {
        assert_eq!(TileId::at(level, index, all), None);
    }
    assert_eq!(BundleId::at((1 << 56) - 1, all).map(BundleId::end), Some(all));
    assert_eq!(BundleId::at(1 << 56, all), None);
}

#[test]
fn a_bundle_holds_the_records_of_its_leaves() {
    let holding = |leaf, of| BundleId::holding(LeafIndex::new(leaf), size(of));
    let first = BundleId::new(0, TileWidth::FULL).unwrap();
    let second = BundleId::new(1, width(44)).unwrap();
    assert_eq!(holding(0, 300), Some((first, 0)));
    assert_eq!(holding(255, 300), Some((first, 255)));
    assert_eq!(holding(256, 300), Some((second, 0)));
    assert_eq!(holding(299, 300), Some((second, 43)));
    assert_eq!(holding(300, 300), None);
    assert_eq!(holding(0, 0), None);
    assert_eq!(holding(u64::MAX, u64::MAX), None);
    assert_eq!((second.first_leaf(), second.end()), (LeafIndex::new(256), size(300)));
}

#[test]
fn subtrees_are_joined_only_when_complete() {
    let hashes: Vec<Hash> = (0..=256_u16).map(|at| leaf_hash(&at.to_be_bytes())).collect();
    for count in 0..hashes.len() {
        let complete = count.is_power_of_two();
        assert_eq!(subtree_hash(&hashes[..count]).is_some(), complete, "{count}");
    }
    assert_eq!(subtree_hash(&hashes[..1]), Some(hashes[0]));
    assert_eq!(subtree_hash(&hashes[..2]), Some(node_hash(&hashes[0], &hashes[1])));
    assert_eq!(subtree_hash(&[hashes.clone(), hashes[..255].to_vec()].concat()), None);
}

#[test]
fn a_tile_has_exactly_its_width_of_hashes() {
    let hash = leaf_hash(b"");
    for count in [0, 257] {
        assert_eq!(encode_tile(&vec![hash; count]), Err(EncodeError::WrongCount { count }));
    }
    for (of, found) in [(1, 0), (1, 31), (1, 33), (1, 64), (2, 32), (256, 8191), (256, 8193)] {
        let expected = usize::from(of) * 32;
        assert_eq!(decode_tile(width(of), &vec![0; found]), Err(DecodeError::WrongLength { expected, found }));
    }
}

#[test]
fn a_bundle_is_its_records_each_after_its_length() {
    let records: [&[u8]; 4] = [b"one", b"", b"three", &[7; 65_535]];
    let bytes = encode_bundle(records).unwrap();
    assert_eq!(&bytes[..14], b"\x00\x03one\x00\x00\x00\x05three");
    let bundle = EntryBundle::decode(width(4), &bytes).unwrap();
    assert_eq!(bundle.width(), width(4));
    assert_eq!(bundle.iter().collect::<Vec<_>>(), records);
    assert_eq!((&bundle).into_iter().count(), 4);

    let full = encode_bundle((0..256_u16).map(u16::to_be_bytes)).unwrap();
    let bundle = EntryBundle::decode(TileWidth::FULL, &full).unwrap();
    assert!(bundle.iter().eq((0..256_u16).map(u16::to_be_bytes)));
}

#[test]
fn a_bundle_cut_or_extended_anywhere_is_refused() {
    let bytes = encode_bundle(["ab", "", "cde"]).unwrap();
    let starts = [0, 4, 6];
    for cut in 0..bytes.len() {
        let position = starts.iter().filter(|start| **start <= cut).count() - 1;
        // A cut in front of a record is in that record; the second record ends where the third starts.
        let offset = starts[position];
        assert_eq!(
            EntryBundle::decode(width(3), &bytes[..cut]),
            Err(DecodeError::Truncated { position, offset }),
            "{cut}"
        );
    }
    assert_eq!(EntryBundle::decode(width(2), &bytes), Err(DecodeError::TrailingBytes { count: 5 }));
    assert_eq!(EntryBundle::decode(width(4), &bytes), Err(DecodeError::Truncated { position: 3, offset: bytes.len() }));
    let extended = [&bytes[..], &[0]].concat();
    assert_eq!(EntryBundle::decode(width(3), &extended), Err(DecodeError::TrailingBytes { count: 1 }));
}

#[test]
fn a_bundle_of_no_or_too_many_or_too_long_records_is_not_written() {
    assert_eq!(encode_bundle([""; 0]), Err(EncodeError::WrongCount { count: 0 }));
    assert_eq!(encode_bundle([""; 257]), Err(EncodeError::WrongCount { count: 257 }));
    assert_eq!(encode_bundle([&[][..], &[0; 65_536]]), Err(EncodeError::RecordTooLong { position: 1, len: 65_536 }));
}
