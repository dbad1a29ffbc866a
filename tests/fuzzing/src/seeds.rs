//! The seeds of the corpora: valid encodings, the edges of what is allowed, and hostile bytes.
//!
//! `cargo run -p stele-fuzzing --example seeds` writes them to `fuzz/corpus/`.

use std::collections::BTreeSet;

use stele_engine::batch::BatchBuilder;
use stele_engine::chains::{Chains, Head};
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::index::hashes::TableBuilder;
use stele_engine::index::mark::Mark;
use stele_engine::membership::{Membership, Node as Member};
use stele_engine::number::{Alignment, BlockHeight, Group, NodeId, Offset, RaftIndex, SegmentNumber, SiteName, Term};
use stele_engine::reserved::{Genesis, LogId, SegmentSealed, covering_nodes};
use stele_engine::ring::Slot;
use stele_engine::segment::{FORMAT_VERSION, FRAMES_START, FileHeader, LeafRange, PAYLOADS_START, PayloadPart};
use stele_engine::tiles::TilesBuilder;
use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::interop::{Content, Frame, Manifest, ManifestSegment, SeqRange, Slot as PayloadSlot, encode_header};
use stele_proof::note::sign;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::{MAX_ATTRS_BYTES, MAX_RECORD_BYTES, Record, Salt, SelfHash};
use stele_proof::tile::{encode_bundle, encode_tile};
use stele_proof::tree::{CompactRange, Hash, Node};
use stele_proof::{LeafIndex, TreeSize};

use crate::fixture;

/// One file of a corpus.
pub struct Seed {
    /// The target it is for.
    pub target: &'static str,
    /// The name of its file.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// All seeds. The same at every call.
pub fn all() -> Vec<Seed> {
    let mut seeds = Seeds(Vec::new());
    seeds.records();
    seeds.texts();
    seeds.trees();
    seeds.frames();
    seeds.small_files();
    seeds.derived_files();
    seeds.index();
    seeds.bodies();
    seeds.interop();
    seeds.0
}

const GENESIS: &str = r#"{"v":1,"ts_ms":1730246400000,"writer_id":"svc-gateway@inst-1","seq":1,"stream":"ingress","kind":"CapIssued","actor":{"anon":true},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;

/// [`GENESIS`] with other `attrs`.
fn with_attrs(attrs: &str) -> String {
    GENESIS.replace(r#""attrs":{}"#, &format!(r#""attrs":{attrs}"#))
}

fn nested(depth: usize) -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(depth - 1), "}".repeat(depth - 1))
}

/// `attrs` of exactly so many bytes.
fn attrs_of(bytes: usize) -> String {
    format!(r#"{{"k":"{}"}}"#, "x".repeat(bytes - 8))
}

struct Seeds(Vec<Seed>);

impl Seeds {
    fn add(&mut self, target: &'static str, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.push(Seed { target, name: name.to_owned(), bytes: bytes.into() });
    }

    fn records(&mut self) {
        let second =
            GENESIS.replace(r#""seq":1"#, r#""seq":2"#).replace("b3:0", &SelfHash::of(GENESIS.as_bytes()).to_string());
        let commitment = format!(r#"{{"payload":{{"hash":"b3:{}","len":4294967295}},"z":0}}"#, "0f".repeat(32));
        // Everything else at its longest, the rest in a member of `actor`.
        let full = with_attrs(&attrs_of(MAX_ATTRS_BYTES)).replace("svc-gateway@inst-1", &"w".repeat(128));
        let full = full.replace(r#"{"anon":true}"#, r#"{"anon":true,"cap_id":""}"#);
        let pad = "p".repeat(MAX_RECORD_BYTES - full.len());
        let full = full.replace(r#""cap_id":"""#, &format!(r#""cap_id":"{pad}""#));
        let canonical = [
            ("empty_attrs", GENESIS.to_owned()),
            ("second", second),
            ("max_attrs", with_attrs(&attrs_of(MAX_ATTRS_BYTES))),
            ("attrs_one_too_many", with_attrs(&attrs_of(MAX_ATTRS_BYTES + 1))),
            ("max_record", full.clone()),
            ("record_one_too_many", full.replace("pp\"", "ppp\"")),
            ("deepest", with_attrs(&nested(8))),
            ("too_deep", with_attrs(&nested(9))),
            ("integers", with_attrs(r#"{"a":[18446744073709551615,-9223372036854775808,0,-1,9223372036854775808]}"#)),
            ("payload", with_attrs(&commitment)),
            ("escapes", with_attrs(r#"{"":"\"\\\b\t\n\f\r\u0000\u001f/"}"#)),
            // U+1F600 sorts before U+E000 by UTF-16 code units; U+AC00 is a composed Hangul syllable.
            ("high_unicode", with_attrs("{\"\u{e9}\":\"\u{ac00}\u{10ffff}\",\"\u{1f600}\":1,\"\u{e000}\":2}")),
            ("combining", with_attrs(&format!("{{\"k\":\"a\u{301}{}\"}}", "\u{316}\u{301}".repeat(60)))),
        ];
        for (name, text) in canonical {
            self.add("canonicalize_fuzz", name, text.as_bytes());
            if let Ok(record) = Record::parse(text.as_bytes()) {
                let mut finished = Vec::new();
                record.write_finished(&record.self_hash(), &mut finished);
                self.add("record_parse_fuzz", &format!("{name}_finished"), finished);
            }
            self.add("record_parse_fuzz", name, text);
        }
        let lenient = [
            ("spaced", GENESIS.replace(',', " ,\n\t").replace(':', " : ").replace("b3 : 0", "b3:0")),
            ("reversed", r#"{"prev":"b3:0","attrs":{"b":1,"a":"e\u0301"},"reason":"ok","subject":{},"actor":{},"kind":"K","stream":"s","seq":1,"writer_id":"w","ts_ms":0,"v":1}"#.to_owned()),
            ("surrogates", with_attrs(r#"{"\ud83d\ude00":"\uD834\uDD1E","\u0041":1}"#)),
            ("lone_surrogate", with_attrs(r#"{"a":"\ud83d"}"#)),
            ("duplicate_after_nfc", with_attrs("{\"\u{e9}\":1,\"e\u{301}\":2}")),
            ("float", with_attrs(r#"{"a":1.0,"b":1e3,"c":-0}"#)),
            ("beyond_64_bits", with_attrs(r#"{"a":18446744073709551616}"#)),
            ("brackets", "[".repeat(300)),
            ("bom", format!("\u{feff}{GENESIS}")),
        ];
        for (name, text) in lenient {
            self.add("canonicalize_fuzz", name, text);
        }
        self.add("canonicalize_fuzz", "not_utf8", GENESIS.replace("ingress", "\u{7f}").into_bytes().repeat(1));
        let lines = "w\u{e9}\nstream \"1\"\nKind.a-b_c\nok\nu:abcd\nname\n{\"b\":[1,{\"a\":null}],\"a\":\"e\u{301}\"}";
        self.add("record_build_fuzz", "plain", lines);
        self.add("record_build_fuzz", "decomposed", "e\u{301}\n\u{1100}\u{1161}\nK\nok\n\u{212b}\n\\\n{}");
        self.add("record_build_fuzz", "reserved_key", "w\ns\nK\nok\na\nb\n{\"payload\":1}");
        self.add("record_build_fuzz", "kelvin", "w\ns\n\u{212a}\nok\na\nb\n{}");
        self.add("record_build_fuzz", "longest_names", format!("{0}\n{0}\nK\nok\n\n\n{{}}", "n".repeat(128)));
    }

    fn interop(&mut self) {
        let range = SeqRange::new(1, 2).expect("a range");
        let second = GENESIS.replace("\"seq\":1", "\"seq\":2");
        let second = second.replace("b3:0", &SelfHash::of(GENESIS.as_bytes()).to_string());
        let mut frames = encode_header(Content::Records, 2).to_vec();
        let mut tree = DigestTree::new();
        for (seq, text) in [(1, GENESIS), (2, &*second)] {
            let self_hash = SelfHash::of(text.as_bytes());
            tree.push(*self_hash.as_bytes());
            Frame { seq, canonical: text.as_bytes(), self_hash }.write(&mut frames);
        }
        self.add("interop_file_fuzz", "two_records", frames.clone());
        self.add("interop_file_fuzz", "cut", &frames[..frames.len() - 1]);
        let mut huge = frames;
        huge[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        self.add("interop_file_fuzz", "huge_record", huge);
        let mut slots = encode_header(Content::Payloads, 1).to_vec();
        PayloadSlot { seq: 1, salt: Salt::new([1; 32]), payload: b"payload" }.write(&mut slots);
        self.add("interop_file_fuzz", "payload", slots.clone());
        slots[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        self.add("interop_file_fuzz", "huge_payload", slots);

        let root = tree.root().expect("two leaves");
        let mut manifest = Manifest {
            stream: "ingress".to_owned(),
            writer_id: "svc-gateway@inst-1".to_owned(),
            segments: vec![ManifestSegment { number: 0, range, root }],
            checkpoints: Vec::new(),
            created: stele_proof::UnixMillis::new(1),
        };
        self.add("interop_manifest_fuzz", "unsigned", manifest.encode());
        manifest.sign(range, root, &fixture::log_key()).expect("a key of type 01");
        self.add("interop_manifest_fuzz", "signed", manifest.encode());
        let next = SeqRange::new(3, 3).expect("a range");
        manifest.segments.push(ManifestSegment { number: u64::MAX, range: next, root });
        let text = String::from_utf8(manifest.encode()).expect("it is JSON");
        self.add("interop_manifest_fuzz", "two_segments", &*text);
        self.add("interop_manifest_fuzz", "outside", text.replace("wal-000000", "../wal-000000"));
        self.add("interop_manifest_fuzz", "float", text.replace("\"offset\": 0", "\"offset\": 0.0"));
    }

    fn texts(&mut self) {
        for cosigners in 0..=2 {
            self.add("note_fuzz", &format!("checkpoint_{cosigners}_cosigners"), fixture::signed_checkpoint(cosigners));
        }
        let plain = sign(fixture::PLAIN_TEXT, &[&fixture::log_key(), &fixture::stranger_key()]).expect("two keys sign");
        self.add("note_fuzz", "two_paragraphs", plain);
        let line = "\u{2014} a AAAAAAA=\n";
        self.add("note_fuzz", "64_signatures", format!("t\n\n{}", line.repeat(64)));
        self.add("note_fuzz", "65_signatures", format!("t\n\n{}", line.repeat(65)));
        self.add("note_fuzz", "empty_lines_only", "\n\n\n\n");
        self.add("note_fuzz", "non_canonical_base64", "t\n\n\u{2014} a AAAAAAB=\n");

        let (log, cosigner) = (fixture::log_key(), fixture::cosigner_key(1));
        for (name, key) in [("log", &log), ("cosigner", &cosigner)] {
            self.add("key_fuzz", &format!("{name}_vkey"), key.verifier_key().to_string());
            self.add("key_fuzz", &format!("{name}_private"), key.to_private_text());
        }
        self.add("key_fuzz", "upper_case_id", log.verifier_key().to_string().replace("e5d3c6", "E5D3C6"));
        self.add("key_fuzz", "name_with_odd_space", "a\u{3000}b+00000000+AQ==");

        let checkpoint = fixture::checkpoint().to_string();
        self.add("checkpoint_fuzz", "three", checkpoint.clone());
        self.add("checkpoint_fuzz", "largest", checkpoint.replace("\n3\n", "\n18446744073709551615\n"));
        self.add("checkpoint_fuzz", "too_large", checkpoint.replace("\n3\n", "\n18446744073709551616\n"));
        self.add("checkpoint_fuzz", "leading_zero", checkpoint.replace("\n3\n", "\n03\n"));
        self.add("checkpoint_fuzz", "extension", format!("{checkpoint}more\n"));

        let policy = fixture::policy().to_string();
        self.add("policy_fuzz", "groups", policy.clone());
        self.add("policy_fuzz", "comments", format!("# who\n\n\t {}", policy.replace(' ', " \t ")));
        self.add("policy_fuzz", "no_quorum", policy.replace("quorum sites", "quorum none"));
        self.add("policy_fuzz", "one_witness", policy.replace("quorum sites", "quorum n2"));
        self.add("policy_fuzz", "two_of_two", policy.replace(" any ", " 2 "));
        self.add("policy_fuzz", "self_member", policy.replace("group sites all site-local", "group sites all sites"));
        self.add("policy_fuzz", "huge_threshold", policy.replace(" any ", " 18446744073709551615 "));

        for ((index, hashes), extra) in (0..).zip(fixture::proofs()).zip([None, Some(b"note".to_vec()), None]) {
            let file = ProofFile::new(extra, LeafIndex::new(index), hashes, fixture::signed_checkpoint(1));
            self.add("proof_file_fuzz", &format!("leaf_{index}"), file.expect("a proof file").to_string());
        }
        let hash = Hash::new([7; 32]);
        let longest = ProofFile::new(None, LeafIndex::new(u64::MAX), vec![hash; 63], fixture::signed_checkpoint(0));
        let longest = longest.expect("a proof file").to_string();
        let line = format!("{}\n", hash.to_base64());
        self.add("proof_file_fuzz", "63_hashes", longest.clone());
        self.add("proof_file_fuzz", "64_hashes", longest.replacen(&line, &line.repeat(2), 1));

        for (name, path) in [
            ("full", "tile/0/x001/x234/067"),
            ("partial", "tile/1/000.p/17"),
            ("bundle", "tile/entries/273.p/112"),
            ("highest", "tile/7/254"),
            ("beyond", "tile/7/255"),
            ("level_63", "tile/63/000"),
            ("last_leaf", "tile/0/x072/x057/x594/x037/x927/935.p/255"),
            ("overflow", "tile/0/x999/x999/x999/x999/x999/x999/999"),
            ("zero_width", "tile/0/000.p/0"),
            ("zero_group", "tile/0/x000/001"),
        ] {
            self.add("tile_path_fuzz", name, path);
        }
    }

    fn trees(&mut self) {
        let numbers = |index: u64, old: u64, size: u64| [index, old, size].map(u64::to_le_bytes).concat();
        let half = 1u64 << 63;
        for (name, index, old, size, hashes) in [
            ("three", 2, 2, 3, 1),
            ("empty", 0, 0, 0, 0),
            ("equal", 6, 7, 7, 0),
            ("around_2_63", half - 1, half, half + 1, 2),
            ("below_2_63", half - 2, half - 1, half, 63),
            ("largest", u64::MAX - 1, u64::MAX - 1, u64::MAX, 64),
            ("not_in_any_tree", u64::MAX, u64::MAX, u64::MAX, 64),
            ("old_half", 1, half, u64::MAX, 64),
        ] {
            let hashes: Vec<u8> = (0..hashes).flat_map(|number| [number; 32]).collect();
            self.add("tree_proof_fuzz", name, [numbers(index, old, size), vec![0xaa; 32], hashes].concat());
        }
        for leaves in [0usize, 1, 3, 16, 33] {
            let bytes: Vec<u8> = (0..leaves * 32).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
            self.add("digest_tree_fuzz", &format!("{leaves}_leaves"), bytes);
        }
        self.add("digest_tree_fuzz", "text", Digest::of(b"").to_string());

        let width = |width: u16| width.to_le_bytes().to_vec();
        let tile = encode_tile(&fixture::leaves()).expect("three hashes");
        self.add("tile_bytes_fuzz", "tile", [width(3), tile].concat());
        let bundle = encode_bundle([&b"a"[..], b"", GENESIS.as_bytes()]).expect("three records");
        self.add("tile_bytes_fuzz", "bundle", [width(3), bundle].concat());
        self.add("tile_bytes_fuzz", "full_bundle_of_nothing", [width(256), vec![0; 512]].concat());
        self.add("tile_bytes_fuzz", "too_long_a_length", [width(1), vec![0xff; 20]].concat());
        self.add("tile_bytes_fuzz", "wide", [width(257), vec![0; 514]].concat());
    }

    fn frames(&mut self) {
        let batch = |records: &[(&[u8], Option<&[u8]>)], term, first_leaf| {
            let mut builder = BatchBuilder::default();
            for (record, payload) in records {
                let start = builder.buffer().len();
                builder.buffer().extend_from_slice(record);
                builder.push(start, payload.map(|payload| (&Salt::ZERO, payload)));
            }
            builder.cut(Term::new(term), LeafIndex::new(first_leaf))
        };
        let one = batch(&[(GENESIS.as_bytes(), None)], 1, 0);
        let two = batch(&[(b"{a}", Some(b"payload")), (b"{b}", None)], 1, 1);
        let void = batch(&[(b"{c}", Some(b""))], 7, 99);
        let last = batch(&[(&b"r"[..], None); 253], 2, 3);
        for (name, (body, _)) in [("one", &one), ("payload", &two), ("empty_payload", &void), ("253", &last)] {
            self.add("batch_fuzz", name, body.to_vec());
        }
        let longest = vec![b'x'; MAX_RECORD_BYTES];
        self.add("batch_fuzz", "longest_record", batch(&[(&longest, None)], 1, 1).0.to_vec());
        let far = batch(&[(&b"r"[..], None)], u64::MAX, u64::MAX - 1);
        self.add("batch_fuzz", "last_leaf", far.0.to_vec());
        let mut many = far.0.to_vec();
        many[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        self.add("batch_fuzz", "too_many", many);

        let members = membership(3);
        self.add("membership_fuzz", "one", membership(1).encode());
        self.add("membership_fuzz", "three", members.encode());
        let mut joint = members.clone();
        joint.voters.push([NodeId::new(3)].into());
        self.add("membership_fuzz", "joint", joint.encode());
        joint.voters.push([NodeId::new(1)].into());
        self.add("membership_fuzz", "three_sets", joint.encode());
        let mut many = members.encode();
        many[34..36].copy_from_slice(&[0, 4]);
        self.add("membership_fuzz", "1024_voters_said", many);

        let entries: &[(EntryKind, u64, &[u8], usize)] = &[
            (EntryKind::Membership, 1, &members.encode(), 0),
            (EntryKind::Blank, 1, b"", 0),
            (EntryKind::Batch, 1, &one.0, one.1.len()),
            (EntryKind::Batch, 1, &two.0, two.1.len()),
            (EntryKind::Batch, 2, &void.0, void.1.len()),
            (EntryKind::Batch, 2, &last.0, last.1.len()),
        ];
        let seal = (EntryKind::Seal, 3, &[0; 8][..], 0);
        for (name, entries, alignment) in [
            ("block_filled", entries, Alignment::WORD),
            ("sealed", &[entries[2], entries[3], seal], Alignment::WORD),
            ("void_seal", &[(EntryKind::Seal, 3, &[1; 8][..], 0), entries[1].raised(3)], Alignment::WORD),
            ("pages", &entries[..3], Alignment::PAGE),
        ] {
            self.add("frame_fuzz", name, frames(entries, alignment));
        }
        let mut dirty = frames(&entries[1..3], Alignment::WORD);
        dirty.extend_from_slice(&[0; 200]);
        dirty.push(1);
        self.add("frame_fuzz", "dirt_behind_zeros", dirty);
        let cut = frames(&entries[..4], Alignment::WORD);
        self.add("frame_fuzz", "cut", &cut[..cut.len() - 30]);
    }

    fn small_files(&mut self) {
        let header = FileHeader {
            segment: SegmentNumber::new(3),
            part: None,
            alignment: Alignment::PAGE,
            height: BlockHeight::DEFAULT,
        };
        let payload = FileHeader { part: Some(PayloadPart::new(u32::MAX)), alignment: Alignment::WORD, ..header };
        self.add("file_header_fuzz", "segment", &header.encode()[..64]);
        self.add("file_header_fuzz", "payload", &payload.encode()[..64]);
        let mut newer = header.encode();
        newer[12] = 2;
        self.add("file_header_fuzz", "newer_version", &newer[..64]);
        for name in ["0000000000000abc.seg", "ffffffffffffffff.4294967295.pay", "+000000000000abc.tiles"] {
            self.add("file_header_fuzz", &format!("name_{name}"), name);
        }

        let slot = |group: u64, end: u64| {
            let start = FRAMES_START;
            let numbers = (SegmentNumber::new(1), Group::new(group), Offset::new(end), RaftIndex::new(9));
            Slot { segment: numbers.0, group: numbers.1, start, end: numbers.2, committed: numbers.3 }.encode()[..64]
                .to_vec()
        };
        self.add("ring_fuzz", "three_groups", [slot(6, 0x5000), slot(7, 0x6000), slot(5, 0x4000)].concat());
        self.add("ring_fuzz", "wrong_places", [slot(1, 0x5000), slot(1, 0x5000), slot(1, 0x5000)].concat());
        self.add("ring_fuzz", "last_group", [slot(u64::MAX, u64::MAX), vec![0; 128]].concat());
        self.add("ring_fuzz", "cleared", [0; 192]);

        let page = |generation: u64, content: &[u8]| {
            let mut page = [&b"STELTEST\0\0\0\0"[..], &[0; 4], &generation.to_le_bytes(), content].concat();
            page[12..16].copy_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
            page.resize(64, 0);
            page
        };
        self.add("generation_fuzz", "first", [vec![0; 128], page(1, b"a"), page(1, b"a")].concat());
        self.add("generation_fuzz", "fifth", [page(4, b"d"), page(4, b"d"), page(5, b"e"), page(5, b"e")].concat());
        self.add("generation_fuzz", "torn", [page(4, b"d"), page(2, b"b"), page(3, b"c"), page(3, b"c")].concat());
        self.add("generation_fuzz", "last", [vec![0; 128], page(u64::MAX, b"z"), page(u64::MAX, b"z")].concat());

        let hard = |clean: u8, peers: u8| {
            let mut bytes = vec![0; 64 + 32 * usize::from(peers)];
            (bytes[0], bytes[8], bytes[16], bytes[17], bytes[18]) = (7, 2, 1, clean, peers);
            (bytes[24], bytes[32]) = (2, 5);
            for peer in bytes[64..].as_chunks_mut::<32>().0 {
                peer.fill(3);
                peer[12..16].fill(0);
            }
            (bytes[19], bytes[20]) = (clean, 4);
            if clean == 1 {
                bytes[40..64].fill(1);
            }
            bytes
        };
        self.add("hard_state_fuzz", "running", hard(0, 0));
        self.add("hard_state_fuzz", "stopped", hard(1, 2));
        self.add("hard_state_fuzz", "most_peers", hard(1, 124));
        self.add("hard_state_fuzz", "too_many_peers", hard(0, 125));
        let in_doubt = |header: u8| {
            let mut doubt = [1; 48];
            doubt[..4].copy_from_slice(&[header, 0, 0, 0]);
            doubt[4..8].fill(header);
            [hard(0, 2), doubt.to_vec()].concat()
        };
        self.add("hard_state_fuzz", "in_doubt", in_doubt(0));
        self.add("hard_state_fuzz", "in_doubt_with_header", in_doubt(1));

        let head = |size: u64| [&size.to_le_bytes()[..], &[9; 32]].concat();
        self.add("signing_state_fuzz", "nothing", [&[0; 8][..], stele_proof::tree::empty_root().as_bytes()].concat());
        self.add("signing_state_fuzz", "some", head(258));
        self.add("signing_state_fuzz", "largest", head(u64::MAX));
        self.add("signing_state_fuzz", "short", &head(1)[..39]);
    }

    fn index(&mut self) {
        let mark = Mark { log: LogId::new([4; 32]), leaves: TreeSize::new(3 << 13), root: Hash::new([5; 32]) };
        self.add("index_mark_fuzz", "three_sheets", mark.encode());
        let mut other = mark.encode();
        other[32] = 3;
        self.add("index_mark_fuzz", "another_version", other);

        // The targets make the checksums right.
        let mut head = vec![0; 32];
        for span in 0..128u64 {
            head.extend_from_slice(&(1000 + span).to_le_bytes());
            head.extend_from_slice(&(2000 + span).to_le_bytes());
        }
        head.extend_from_slice(&3u64.to_le_bytes());
        head.extend_from_slice(&9u64.to_le_bytes());
        self.add("index_sheet_fuzz", "head", head);
        let mut page = vec![0; 32];
        for (key, leaves) in [(3u64, &[0u16, 8191][..]), (7, &[5])] {
            page.extend_from_slice(&key.to_le_bytes());
            page.extend_from_slice(&1u64.to_le_bytes());
            page.extend_from_slice(&2u64.to_le_bytes());
            page.extend_from_slice(&u16::try_from(leaves.len()).expect("few").to_le_bytes());
            leaves.iter().for_each(|leaf| page.extend_from_slice(&leaf.to_le_bytes()));
        }
        self.add("index_sheet_fuzz", "page", page);

        let record = Record::parse(GENESIS.as_bytes()).expect("a record");
        let leaves = |count| LeafRange { first: LeafIndex::new(5), end: LeafIndex::new(5 + count) };
        let table = |count: u64| {
            let mut builder = TableBuilder::default();
            for leaf in 0..count {
                let hash = SelfHash::new(*blake3::hash(&leaf.to_le_bytes()).as_bytes());
                builder.record(LeafIndex::new(5 + leaf), &record, hash);
            }
            builder.finish(SegmentNumber::new(2), leaves(count), &[9; 40])
        };
        self.add("hash_table_fuzz", "no_rows", table(0));
        self.add("hash_table_fuzz", "three_rows", table(3));
        self.add("hash_table_fuzz", "two_pages", table(350));
    }

    fn derived_files(&mut self) {
        // Leaf 255 completes node 15 of level 4 and node 0 of level 8; the first frame has no leaf.
        let hash = |byte: u8| Hash::new([byte; 32]);
        let node = |level, index| Node::new(level, index).expect("a node");
        let mut builder = TilesBuilder::new(SegmentNumber::new(2), LeafIndex::new(254), RaftIndex::new(7));
        builder.frame(FRAMES_START, LeafIndex::new(254));
        builder.frame(Offset::new(0x5000), LeafIndex::new(254));
        builder.observe(node(0, 254), hash(1));
        builder.observe(node(0, 255), hash(2));
        builder.observe(node(4, 15), hash(8));
        builder.observe(node(8, 0), hash(9));
        builder.frame(Offset::new(0x6000), LeafIndex::new(256));
        builder.observe(node(0, 256), hash(3));
        let sidecar = builder.finish(0x0a0b_0c0d, Term::new(5), Offset::new(0x7000));
        self.add("sidecar_fuzz", "three_frames", sidecar.clone());
        let mut builder = TilesBuilder::new(SegmentNumber::new(u64::MAX), LeafIndex::new(u64::MAX), RaftIndex::new(0));
        builder.frame(FRAMES_START, LeafIndex::new(u64::MAX));
        self.add("sidecar_fuzz", "no_leaves", builder.finish(0, Term::new(0), Offset::new(0x4040)));
        let mut huge = sidecar;
        huge[64..72].copy_from_slice(&(1u64 << 63).to_le_bytes());
        self.add("sidecar_fuzz", "huge_leaf_count", huge);

        let state = |segment: u64, leaves: u64, keys: &[&str], seq: u64| {
            let mut tail = Tail::start(Alignment::PAGE, BlockHeight::DEFAULT);
            tail.segment = SegmentNumber::new(segment + 1);
            (tail.next_index, tail.last_term, tail.link) = (RaftIndex::new(9), Term::new(2), 0x0102_0304);
            tail.leaves = TreeSize::new(leaves);
            let peaks = (0..leaves.count_ones()).map(|_| hash(4)).collect();
            let tree = CompactRange::from_peaks(tail.leaves, peaks).expect("one for each bit");
            let mut chains = Chains::new(100);
            for key in keys {
                let head = Head { seq, self_hash: SelfHash::new([7; 32]) };
                chains.load(key, head, LeafIndex::new(4)).expect("another chain");
            }
            stele_engine::state::encode(&tail, &tree, &chains, &membership(1).encode())
        };
        self.add("state_file_fuzz", "two_chains", state(3, 5, &["a\nw", "b\nw"], 3));
        self.add("state_file_fuzz", "no_chain", state(0, 0, &[], 0));
        self.add("state_file_fuzz", "64_peaks", state(u64::MAX - 1, u64::MAX, &["\u{e9}\n"], u64::MAX));
        let mut last = state(3, 5, &["a\nw"], 3);
        last[48..56].fill(0xff);
        self.add("state_file_fuzz", "last_segment", last);
        let mut many = state(3, 5, &["a\nw"], 3);
        many[88..96].fill(0xff);
        self.add("state_file_fuzz", "too_many_chains", many);
    }

    fn bodies(&mut self) {
        let genesis = Genesis {
            format: FORMAT_VERSION,
            origin: fixture::ORIGIN.to_owned(),
            log_id: LogId::new([0xab; 32]),
            block_height: BlockHeight::DEFAULT,
            frame_align: Alignment::PAGE,
            log_keys: vec![fixture::log_key().verifier_key().to_string()],
            policy: fixture::policy().to_string(),
        };
        let text = String::from_utf8_lossy(&genesis.encode()).into_owned();
        self.add("genesis_fuzz", "plain", text.clone());
        self.add("genesis_fuzz", "newer_format", text.replace("\"format\":1", "\"format\":2"));
        self.add("genesis_fuzz", "line_feed_in_origin", text.replace("com/log\"", "com\\n/log\""));
        let odd = Genesis { origin: "\"\\\u{e9}\u{2028}\u{feff}".replace('\u{2028}', ""), ..genesis };
        self.add("genesis_fuzz", "quotes_in_origin", odd.encode());

        let sealed = |first: u64, count: u64| {
            let leaves = LeafRange { first: LeafIndex::new(first), end: LeafIndex::new(first + count) };
            SegmentSealed {
                segment: SegmentNumber::new(4),
                file_bytes: 0x7000,
                file_digest: Digest::of(b"file"),
                leaves,
                first_index: RaftIndex::new(7),
                last_index: RaftIndex::new(9),
                digest_root: (count > 0).then(|| Digest::of(b"root")),
                nodes: covering_nodes(leaves).into_iter().map(|node| (node, Hash::new([5; 32]))).collect(),
                state_digest: None,
                payload_parts: 1,
            }
            .encode()
        };
        self.add("segment_sealed_fuzz", "three_leaves", sealed(254, 3));
        self.add("segment_sealed_fuzz", "no_leaves", sealed(u64::MAX, 0));
        self.add("segment_sealed_fuzz", "last_leaves", sealed(u64::MAX - 5, 5));
        self.add("segment_sealed_fuzz", "most_nodes", sealed((1 << 20) + 1, (1 << 20) - 2));
        let text = String::from_utf8_lossy(&sealed(254, 3)).into_owned();
        let count = |count: &str| text.replace("\"leaf_count\":3", &format!("\"leaf_count\":{count}"));
        self.add("segment_sealed_fuzz", "huge_leaf_count", count("9223372036854775807"));
        self.add("segment_sealed_fuzz", "negative_leaf_count", count("-1"));
    }
}

/// An entry of a seed, with another term.
trait Raised {
    fn raised(self, term: u64) -> Self;
}

impl Raised for (EntryKind, u64, &[u8], usize) {
    fn raised(self, term: u64) -> Self {
        (self.0, term, self.2, self.3)
    }
}

/// Frames as they follow one another from the start of a log.
fn frames(entries: &[(EntryKind, u64, &[u8], usize)], alignment: Alignment) -> Vec<u8> {
    let mut tail = Tail::start(alignment, BlockHeight::new(8).expect("the lowest block"));
    assert_eq!(tail.payload_offset, PAYLOADS_START);
    let mut bytes = Vec::new();
    for (kind, term, body, payload_len) in entries {
        let placed = tail.place(*kind, Term::new(*term), body, *payload_len).expect("an entry that can stand here");
        let start = bytes.len();
        bytes.extend_from_slice(&placed.bytes);
        bytes.extend_from_slice(body);
        let len = usize::try_from(placed.header.frame_len(alignment)).expect("a short frame");
        bytes.resize(start + len, 0);
        tail.advance(&placed);
    }
    bytes
}

fn membership(nodes: u64) -> Membership {
    let member = |id| Member {
        id: NodeId::new(id),
        site: SiteName::new("site-1.a_b").expect("a site name"),
        addresses: vec![format!("h{id}:1"), String::new()],
        keys: vec![fixture::log_key().verifier_key().to_string()],
    };
    let voters: BTreeSet<NodeId> = (1..=nodes).map(NodeId::new).collect();
    Membership { token: [7; 32], voters: vec![voters], nodes: (1..=nodes).map(member).collect() }
}
