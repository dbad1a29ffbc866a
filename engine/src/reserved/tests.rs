use super::*;

const GENESIS: &str = concat!(
    r#"{"block_height":16,"format":1,"frame_align":4096,"#,
    r#""log_id":"0707070707070707070707070707070707070707070707070707070707070707","#,
    r#""log_keys":["example.org/log+9a2f1c04+AQ=="],"origin":"example.org/log","policy":"log k\nquorum none\n"}"#,
);

const SEALED: &str = concat!(
    r#"{"digest_root":"b3:0202020202020202020202020202020202020202020202020202020202020202","#,
    r#""file_bytes":28672,"#,
    r#""file_digest":"b3:0101010101010101010101010101010101010101010101010101010101010101","#,
    r#""first_index":7,"first_leaf":254,"last_index":9,"leaf_count":3,"#,
    r#""nodes":[{"hash":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","index":127,"level":1},"#,
    r#"{"hash":"BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=","index":256,"level":0}],"#,
    r#""payload_parts":1,"segment":2,"state_digest":null}"#,
);

fn genesis() -> Genesis {
    Genesis {
        format: 1,
        origin: "example.org/log".to_owned(),
        log_id: LogId::new([7; 32]),
        block_height: BlockHeight::DEFAULT,
        frame_align: Alignment::PAGE,
        log_keys: vec!["example.org/log+9a2f1c04+AQ==".to_owned()],
        policy: "log k\nquorum none\n".to_owned(),
    }
}

fn range(first: u64, end: u64) -> LeafRange {
    LeafRange { first: LeafIndex::new(first), end: LeafIndex::new(end) }
}

fn sealed() -> SegmentSealed {
    let node = |level, index| Node::new(level, index).unwrap();
    SegmentSealed {
        segment: SegmentNumber::new(2),
        file_bytes: 28_672,
        file_digest: Digest::new([1; 32]),
        leaves: range(254, 257),
        first_index: RaftIndex::new(7),
        last_index: RaftIndex::new(9),
        digest_root: Some(Digest::new([2; 32])),
        nodes: vec![(node(1, 127), tree::Hash::new([3; 32])), (node(0, 256), tree::Hash::new([4; 32]))],
        state_digest: None,
        payload_parts: 1,
    }
}

#[test]
fn golden_bytes_both_ways() {
    assert_eq!(core::str::from_utf8(&genesis().encode()).unwrap(), GENESIS);
    assert_eq!(Genesis::decode(GENESIS.as_bytes()), Ok(genesis()));
    assert_eq!(core::str::from_utf8(&sealed().encode()).unwrap(), SEALED);
    assert_eq!(SegmentSealed::decode(SEALED.as_bytes()), Ok(sealed()));
}

#[test]
fn what_may_be_null_or_empty() {
    let leafless = SegmentSealed { leaves: range(254, 254), digest_root: None, nodes: Vec::new(), ..sealed() };
    let body = leafless.encode();
    assert!(body.starts_with(br#"{"digest_root":null,"#), "{}", String::from_utf8_lossy(&body));
    assert_eq!(SegmentSealed::decode(&body), Ok(leafless));
    let with_state = SegmentSealed { state_digest: Some(Digest::of(b"state")), ..sealed() };
    assert_eq!(SegmentSealed::decode(&with_state.encode()), Ok(with_state));
    let bare = Genesis { policy: String::new(), frame_align: Alignment::WORD, ..genesis() };
    assert_eq!(Genesis::decode(&bare.encode()), Ok(bare));
}

/// The golden body with one text replaced by another.
fn changed(golden: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(golden.matches(from).count(), 1, "{from}");
    golden.replacen(from, to, 1).into_bytes()
}

fn value(key: &'static str) -> impl Fn(&BodyError) -> bool {
    move |error| matches!(error, BodyError::Value { key: found, .. } if *found == key)
}

fn assert_refused<T: core::fmt::Debug>(
    golden: &str,
    cases: &[(&str, &str, &'static str)],
    decode: impl Fn(&[u8]) -> Result<T, BodyError>,
) {
    for (from, to, key) in cases {
        let error = decode(&changed(golden, from, to)).unwrap_err();
        assert!(value(key)(&error), "{from} -> {to}: {error}");
        assert!(error.to_string().contains(&format!("`{key}`")), "{error}");
    }
}

#[test]
fn every_rule_of_genesis_is_kept() {
    let long_origin = format!("\"origin\":\"{}\"", "o".repeat(MAX_ORIGIN_BYTES + 1));
    let long_key = format!("[\"{}\"]", "k".repeat(MAX_KEY_BYTES + 1));
    let many_keys = format!("[{}\"k\"]", "\"k\",".repeat(MAX_LOG_KEYS));
    let long_policy = format!("\"policy\":\"{}\"", "p".repeat(MAX_POLICY_BYTES + 1));
    let keys = r#"["example.org/log+9a2f1c04+AQ=="]"#;
    let origin = r#""origin":"example.org/log""#;
    let policy = r#""policy":"log k\nquorum none\n""#;
    let cases = [
        ("\"block_height\":16", "\"block_height\":7", "block_height"),
        ("\"block_height\":16", "\"block_height\":21", "block_height"),
        ("\"block_height\":16", "\"block_height\":272", "block_height"),
        ("\"block_height\":16", "\"block_height\":\"16\"", "block_height"),
        ("\"format\":1", "\"format\":-1", "format"),
        ("\"format\":1", "\"format\":true", "format"),
        (":4096", ":512", "frame_align"),
        (":4096", ":null", "frame_align"),
        (r#""0707"#, r#""070"#, "log_id"),
        (r#""0707"#, r#""A707"#, "log_id"),
        (r#""0707"#, r#""070707"#, "log_id"),
        (keys, "[]", "log_keys"),
        (keys, "[\"\"]", "log_keys"),
        (keys, "[1]", "log_keys"),
        (keys, "\"k\"", "log_keys"),
        (keys, &long_key, "log_keys"),
        (keys, &many_keys, "log_keys"),
        (origin, r#""origin":"""#, "origin"),
        (origin, r#""origin":7"#, "origin"),
        (origin, r#""origin":"a b""#, "origin"),
        (origin, r#""origin":"a+b""#, "origin"),
        (origin, r#""origin":"a\nb""#, "origin"),
        (origin, r#""origin":"a\u007fb""#, "origin"),
        (origin, &long_origin, "origin"),
        (policy, r#""policy":[]"#, "policy"),
        (policy, &long_policy, "policy"),
    ];
    assert_refused(GENESIS, &cases, Genesis::decode);
    let later = Genesis::decode(&changed(GENESIS, "\"format\":1", "\"format\":2"));
    assert_eq!(later, Err(BodyError::UnknownFormat(2)));
}

#[test]
fn every_rule_of_a_sealed_segment_is_kept() {
    let root = r#""b3:0202020202020202020202020202020202020202020202020202020202020202""#;
    let file = r#""b3:0101010101010101010101010101010101010101010101010101010101010101""#;
    let hash = r#""AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=""#;
    let first_node = r#"{"hash":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=","index":127,"level":1},"#;
    let cases = [
        (root, "null", "digest_root"),
        (root, "1", "digest_root"),
        (root, "\"b3:0\"", "digest_root"),
        (":28672", ":16384", "file_bytes"),
        (":28672", ":16440", "file_bytes"),
        (":28672", ":28676", "file_bytes"),
        (":28672", ":-1", "file_bytes"),
        (file, "null", "file_digest"),
        (file, "\"b3:01\"", "file_digest"),
        (":7,", ":10,", "last_index"),
        (":7,", ":[],", "first_index"),
        (":9,", ":null,", "last_index"),
        (":254,", ":-254,", "first_leaf"),
        (":254,", ":253,", "nodes"),
        ("\"leaf_count\":3", "\"leaf_count\":4", "nodes"),
        ("\"leaf_count\":3", "\"leaf_count\":0", "digest_root"),
        ("\"leaf_count\":3", "\"leaf_count\":1048324", "leaf_count"),
        ("\"leaf_count\":3", "\"leaf_count\":18446744073709551615", "leaf_count"),
        (first_node, "", "nodes"),
        (first_node, "1,", "nodes"),
        (hash, "\"AwMD\"", "hash"),
        (hash, "0", "hash"),
        (":127", ":126", "nodes"),
        (":127", ":18446744073709551615", "nodes"),
        ("\"level\":1", "\"level\":2", "nodes"),
        ("\"level\":1", "\"level\":64", "nodes"),
        ("\"level\":1", "\"level\":256", "level"),
        ("\"payload_parts\":1", "\"payload_parts\":4294967296", "payload_parts"),
        ("\"segment\":2", "\"segment\":null", "segment"),
        ("\"state_digest\":null", "\"state_digest\":0", "state_digest"),
    ];
    assert_refused(SEALED, &cases, SegmentSealed::decode);
    let beyond = SegmentSealed::decode(&changed(SEALED, "\"segment\":2", "\"segment\":18446744073709551616"));
    assert!(matches!(beyond, Err(BodyError::Syntax(_))), "{beyond:?}");
}

/// All members of an object but one, and all with one more.
fn each_member_missing<T: PartialEq + core::fmt::Debug>(
    golden: &str,
    decode: impl Fn(&[u8]) -> Result<T, BodyError>,
) -> usize {
    let object = parse_object(golden.as_bytes()).unwrap();
    for (key, _) in object.members() {
        let mut less = object.clone();
        less.remove(key);
        match decode(&less.to_canonical()) {
            Err(BodyError::Missing(missing)) => assert_eq!(missing, key),
            other => panic!("without {key}: {other:?}"),
        }
    }
    let mut more = object.members().to_vec();
    more.push(("extra".to_owned(), Value::Null));
    let more = Object::new(more).unwrap().to_canonical();
    assert_eq!(decode(&more), Err(BodyError::Unknown("extra".to_owned())));
    object.members().len()
}

#[test]
fn every_key_is_needed_and_no_other_is_taken() {
    assert_eq!(each_member_missing(GENESIS, Genesis::decode), 7);
    assert_eq!(each_member_missing(SEALED, SegmentSealed::decode), 11);
    let missing = |from, to| SegmentSealed::decode(&changed(SEALED, from, to));
    assert_eq!(missing("\"index\":127,", ""), Err(BodyError::Missing("index")));
    assert_eq!(missing("\"index\":127,", "\"index\":127,\"k\":0,"), Err(BodyError::Unknown("k".to_owned())));
}

#[test]
fn only_canonical_bytes_are_read() {
    for (golden, decode) in [
        (GENESIS, (|body| Genesis::decode(body).map(|_| ())) as fn(&[u8]) -> Result<(), BodyError>),
        (SEALED, |body| SegmentSealed::decode(body).map(|_| ())),
    ] {
        for spaced in [golden.replacen(':', ": ", 1), format!("{golden}\n"), golden.replacen("\"f", "\"\\u0066", 1)] {
            assert_eq!(decode(spaced.as_bytes()), Err(BodyError::NotCanonical), "{spaced}");
        }
        let (first, rest) = golden[1..golden.len() - 1].split_once(',').unwrap();
        let moved = format!("{{{rest},{first}}}");
        assert_eq!(decode(moved.as_bytes()), Err(BodyError::NotCanonical), "{moved}");
        let twice = format!("{{{first},{}", &golden[1..]);
        for broken in ["", "[]", "null", &golden[1..], &golden[..golden.len() - 1], &twice, "{\"format\":1.0}"] {
            assert!(matches!(decode(broken.as_bytes()), Err(BodyError::Syntax(_))), "{broken}");
        }
        let large = vec![b' '; MAX_BODY_BYTES + 1];
        assert_eq!(decode(&large), Err(BodyError::TooLarge(MAX_BODY_BYTES + 1)));
    }
    let decomposed = changed(GENESIS, "quorum none", "# e\\u0301");
    assert_eq!(Genesis::decode(&decomposed), Err(BodyError::NotCanonical));
}

#[test]
fn genesis_from_outside_is_checked_before_it_is_written() {
    assert_eq!(genesis().check(), Ok(()));
    let refused = |genesis: Genesis, key| {
        let error = genesis.check().unwrap_err();
        assert!(value(key)(&error), "{error}");
    };
    refused(Genesis { policy: "# e\u{301}".to_owned(), ..genesis() }, "policy");
    refused(Genesis { origin: "e\u{301}".to_owned(), ..genesis() }, "origin");
    refused(Genesis { log_keys: vec!["e\u{301}".to_owned()], ..genesis() }, "log_keys");
    refused(Genesis { origin: "a b".to_owned(), ..genesis() }, "origin");
    let control = Genesis { policy: "\u{1}".repeat(MAX_POLICY_BYTES), ..genesis() };
    assert!(matches!(control.check(), Err(BodyError::TooLarge(_))));
    let later = Genesis { format: 2, ..genesis() };
    assert_eq!(later.check(), Err(BodyError::UnknownFormat(2)));
    let lines = Genesis { policy: "\n".repeat(MAX_POLICY_BYTES / 2), ..genesis() };
    assert_eq!(Genesis::decode(&lines.encode()), Ok(lines));
}

#[test]
#[should_panic(expected = "nodes")]
fn a_seal_record_with_other_nodes_is_our_own_bug() {
    SegmentSealed { nodes: Vec::new(), ..sealed() }.encode();
}

#[test]
fn covering_nodes_are_the_fewest_without_gap() {
    for first in 0..70 {
        for end in first..=70 {
            let nodes = covering_nodes(range(first, end));
            let mut at = first;
            for node in &nodes {
                assert_eq!(node.first_leaf().get(), at, "{first}..{end}");
                at = node.end().get();
                let parent = node.parent().unwrap();
                let inside = first <= parent.first_leaf().get() && parent.end().get() <= end;
                assert!(!inside, "{first}..{end}: {node} is not maximal");
            }
            assert_eq!(at, end);
        }
    }
    let block: Vec<_> = covering_nodes(range(3 << 16, 4 << 16));
    assert_eq!(block, [Node::new(16, 3).unwrap()]);
    assert_eq!(covering_nodes(range(1, u64::MAX)).len(), 126, "the widest range with the most nodes");
    assert_eq!(covering_nodes(range(u64::MAX, u64::MAX)), []);
}

#[test]
fn a_log_id_is_read_only_as_it_is_written() {
    let id = LogId::new([0xab; 32]);
    assert_eq!(id.to_string(), "ab".repeat(32));
    assert_eq!(format!("{id:?}"), id.to_string());
    assert_eq!(LogId::from_hex(&id.to_string()), Some(id));
    for wrong in ["", "ab", &"AB".repeat(32), &"ab".repeat(33)] {
        assert_eq!(LogId::from_hex(wrong), None, "{wrong}");
    }
}

#[test]
fn the_smallest_segment_file_has_one_frame() {
    let smallest = FRAMES_START.get() + 64;
    let sealed = SegmentSealed { file_bytes: smallest, ..sealed() };
    assert_eq!(SegmentSealed::decode(&sealed.encode()), Ok(sealed));
}
