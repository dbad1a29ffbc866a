use proptest::prelude::*;

use super::*;

const VECTORS: &str = include_str!("../../../tests/vectors/records.json");

fn vectors() -> serde_json::Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn vector(name: &str, key: &str) -> String {
    vectors()[name][key].as_str().unwrap().to_owned()
}

fn genesis() -> String {
    vector("genesis", "canonical")
}

fn with_attrs(body: &str) -> String {
    genesis().replace(r#""attrs":{}"#, &format!(r#""attrs":{body}"#))
}

fn nested(depth: usize) -> String {
    format!("{}{{}}{}", r#"{"a":"#.repeat(depth - 1), "}".repeat(depth - 1))
}

fn parse(text: &str) -> Result<Record<'_>, RecordError> {
    Record::parse(text.as_bytes())
}

#[test]
fn published_vectors_hash_to_their_values() {
    for name in ["genesis", "next"] {
        let canonical = vector(name, "canonical");
        let record = parse(&canonical).unwrap();
        assert_eq!(record.self_hash().to_string(), vector(name, "self_hash"));
        assert_eq!(record.leaf_hash().to_string(), vector(name, "leaf_hash"));
        assert_eq!(vectors()[name]["len"].as_u64(), Some(canonical.len() as u64));
    }
    let (first, second) = (genesis(), vector("next", "canonical"));
    verify_link(&parse(&first).unwrap(), &parse(&second).unwrap()).unwrap();
}

#[test]
fn fields_are_read_as_written() {
    let text = vector("next", "canonical");
    let record = parse(&text).unwrap();
    assert_eq!(record.ts_ms().get(), 1_730_246_400_100);
    assert_eq!(record.writer_id().escaped(), "svc-gateway@inst-1");
    assert_eq!(record.seq(), 2);
    assert_eq!(record.stream().escaped(), "ingress");
    assert_eq!(record.kind(), "QuotaReject");
    assert_eq!(record.actor(), r#"{"passport_id":"u:abcd"}"#);
    assert_eq!(record.subject(), r#"{"content_id":"b3:1111"}"#);
    assert_eq!(record.reason(), "audit_backpressure");
    assert_eq!(record.attrs(), r#"{"q":"work"}"#);
    assert_eq!(record.prev().unwrap().to_string(), vector("genesis", "self_hash"));
    assert_eq!(record.payload(), None);
}

#[test]
fn a_finished_record_splits_into_its_canonical_bytes() {
    let text = genesis();
    let record = parse(&text).unwrap();
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    assert_eq!(finished.len(), text.len() + FINISH_BYTES);
    assert_eq!(verify_record(&finished), Ok(record.self_hash()));
    let last = finished.len() - 3;
    finished[last] = if finished[last] == b'0' { b'1' } else { b'0' };
    assert!(matches!(verify_record(&finished), Err(VerifyError::HashMismatch { .. })));
    assert_eq!(verify_record(text.as_bytes()), Err(VerifyError::NotFinished));
}

#[test]
fn accepts_the_edges_of_the_grammar() {
    let commitment = format!(r#"{{"payload":{{"hash":"b3:{}","len":1}}}}"#, "0".repeat(64));
    for body in [
        r#"{"n":18446744073709551615}"#,
        r#"{"n":-9223372036854775808}"#,
        r#"{"n":0}"#,
        r#"{"a":[null,true,false,[],{}]}"#,
        "{\"\u{10000}\":1,\"\u{e000}\":2}",
        "{\"a\":\"\u{7f}\u{2028}\"}",
        r#"{"a":"\b\t\n\f\r\"\\\u0000\u001f"}"#,
        r#"{"":1}"#,
        &format!(r#"{{"a":"{}"}}"#, "x".repeat(1024 - 8)),
        &nested(8),
        &commitment,
    ] {
        parse(&with_attrs(body)).unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}

/// The evil vectors of seeds/003 INTEROP 5.3, and one input per rule of DESIGN.md section 4.
#[test]
fn refuses_what_is_not_canonical() {
    let g = genesis();
    let zeros = "0".repeat(64);
    let cases: Vec<(&str, String, &str)> = vec![
        ("float seq", g.replace(r#""seq":1"#, r#""seq":2.0"#), "without point"),
        ("exponent", g.replace(r#""seq":1"#, r#""seq":1e0"#), "without point"),
        ("float in attrs", with_attrs(r#"{"n":0.5}"#), "without point"),
        ("leading zero", g.replace(r#""seq":1"#, r#""seq":01"#), "leading zero"),
        ("seq 0", g.replace(r#""seq":1"#, r#""seq":0"#), "at least 1"),
        ("negative ts", g.replace("1730246400000", "-1"), "from 0"),
        ("seq 1 with prev", g.replace("b3:0", &format!("b3:{zeros}")), "exactly when"),
        ("seq 2 without prev", g.replace(r#""seq":1"#, r#""seq":2"#), "exactly when"),
        ("version 2", g.replace(r#"{"v":1"#, r#"{"v":2"#), "must be 1"),
        ("null reason", g.replace(r#""reason":"ok""#, r#""reason":null"#), "string"),
        ("null in actor", g.replace("true", "null"), "absent"),
        ("anon false", g.replace("true", "false"), "absent"),
        ("actor order", g.replace(r#"{"anon":true}"#, r#"{"cap_id":"a","anon":true}"#), "out of order"),
        ("actor comma", g.replace(r#"{"anon":true}"#, r#"{"anon":true,}"#), "string"),
        ("subject unknown", g.replace(r#""subject":{}"#, r#""subject":{"x":""}"#), "unknown key"),
        ("content_id case", g.replace(r#""subject":{}"#, r#""subject":{"content_id":"b3:A"}"#), "content_id"),
        ("minus zero", with_attrs(r#"{"n":-0}"#), "sign"),
        ("too big", with_attrs(r#"{"n":18446744073709551616}"#), "2^64"),
        ("too small", with_attrs(r#"{"n":-9223372036854775809}"#), "2^63"),
        ("white space", g.replace(r#"{"v":1"#, r#"{ "v":1"#), "record"),
        ("unknown key", format!("{},\"extra\":1}}", &g[..g.len() - 1]), "ends"),
        ("missing key", g.replace(r#""reason":"ok","#, ""), "missing"),
        ("duplicate key", with_attrs(r#"{"a":1,"a":1}"#), "twice"),
        ("unsorted", with_attrs(r#"{"b":1,"a":1}"#), "out of order"),
        ("UTF-8 order", with_attrs("{\"\u{e000}\":2,\"\u{10000}\":1}"), "out of order"),
        ("attrs array", with_attrs("[]"), "object"),
        ("attrs depth 9", with_attrs(&nested(9)), "8 deep"),
        ("attrs very deep", with_attrs(&("[".repeat(400) + &"]".repeat(400))), "object"),
        ("very deep value", with_attrs(&format!("{{\"a\":{}{}}}", "[".repeat(400), "]".repeat(400))), "8 deep"),
        ("NFD", g.replace("svc-gateway", "se\u{301}rver"), "normalization"),
        ("NFD key", with_attrs("{\"e\u{301}\":1}"), "normalization"),
        ("solidus", g.replace(r#""ok""#, r#""o\/k""#), "RFC 8785"),
        ("needless escape", g.replace(r#""ok""#, r#""\u006fk""#), "RFC 8785"),
        ("upper-case escape", with_attrs(r#"{"a":"\u001F"}"#), "RFC 8785"),
        ("long escape", with_attrs(r#"{"a":"\u000a"}"#), "shorter"),
        ("raw control", with_attrs("{\"a\":\"\u{1}\"}"), "escaped"),
        ("lone surrogate", with_attrs(r#"{"a":"\ud800"}"#), "RFC 8785"),
        ("control in name", g.replace("ingress", r"in\u0001gress"), "control"),
        ("C1 control in name", g.replace("ingress", "in\u{85}gress"), "control"),
        ("empty name", g.replace("ingress", ""), "1 to 128"),
        ("long name", g.replace("ingress", &"x".repeat(129)), "1 to 128"),
        ("kind with space", g.replace("GetServed", "Get Served"), "letter"),
        ("kind starting with a digit", g.replace("GetServed", "1Get"), "letter"),
        ("long kind", g.replace("GetServed", &"x".repeat(65)), "letter"),
        ("payload without len", with_attrs(&format!(r#"{{"payload":{{"hash":"b3:{zeros}"}}}}"#)), "reserved"),
        (
            "payload with more",
            with_attrs(&format!(r#"{{"payload":{{"hash":"b3:{zeros}","len":1,"x":1}}}}"#)),
            "reserved",
        ),
        ("payload string", with_attrs(r#"{"payload":"b3:0"}"#), "reserved"),
        ("trailing bytes", format!("{g}x"), "after the end"),
        ("byte order mark", format!("\u{feff}{g}"), "JSON object"),
        ("empty", String::new(), "JSON object"),
        ("cut", g[..100].to_owned(), "byte 100"),
    ];
    for (name, text, says) in cases {
        let error = parse(&text).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
    }
    assert!(matches!(
        Record::parse(b"{\"v\":\xff"),
        Err(RecordError::Canon(CanonError::Utf8Nfc { place: Place { offset: 5, .. } }))
    ));
}

#[test]
fn bounds_name_what_is_too_large() {
    let big = with_attrs(&format!(r#"{{"a":"{}"}}"#, "x".repeat(1025 - 8)));
    assert_eq!(parse(&big), Err(BoundsError::AttrsTooLarge { bytes: 1025, limit: 1024 }.into()));
    let huge = " ".repeat(MAX_RECORD_BYTES + 1);
    assert_eq!(parse(&huge), Err(BoundsError::RecordTooLarge { bytes: 4097, limit: 4096 }.into()));
    let text = with_attrs(r#"{"a":1}"#);
    let record = parse(&text).unwrap();
    let limits = Limits { max_attrs_bytes: 6, ..Limits::default() };
    assert_eq!(limits.check(&record), Err(BoundsError::AttrsTooLarge { bytes: 7, limit: 6 }));
    let limits = Limits { max_record_bytes: 100, ..Limits::default() };
    assert!(matches!(limits.check(&record), Err(BoundsError::RecordTooLarge { limit: 100, .. })));
    assert_eq!(Limits::default().check(&record), Ok(()));
}

/// `v = 1` is tied to one Unicode version; a dependency that moves on must fail here.
#[test]
fn unicode_is_version_18() {
    assert_eq!(unicode_normalization::UNICODE_VERSION, (18, 0, 0));
    assert_eq!(unicode_properties::UNICODE_VERSION, (18, 0, 0));
    let text = with_attrs("{\"a\":\"\u{e0080}\"}");
    let record = parse(&text).unwrap();
    assert!(check_assigned(&record).unwrap_err().to_string().contains("U+E0080"));
    let text = with_attrs("{\"a\":\"\u{e9}\u{4e00}\u{1f600}\u{e000}\"}");
    assert_eq!(check_assigned(&parse(&text).unwrap()), Ok(()));
}

#[test]
fn canonicalize_reorders_and_normalises() {
    let shuffled = r#" { "prev" : "b3:0", "attrs":{}, "reason":"\u006fk", "subject":{}, "actor":{"anon":true},
        "kind":"GetServed","stream":"ingress","seq":1,"writer_id":"svc-gateway@inst-1","ts_ms":1730246400000,"v":1 } "#;
    assert_eq!(canonicalize(shuffled.as_bytes()).unwrap(), genesis().into_bytes());
    let nfd = genesis().replace("svc-gateway", "se\u{301}rver");
    let nfc = genesis().replace("svc-gateway", "s\u{e9}rver");
    assert_eq!(canonicalize(nfd.as_bytes()).unwrap(), nfc.into_bytes());
}

#[test]
fn canonicalize_refuses_what_order_cannot_mend() {
    let g = genesis();
    for (text, says) in [
        (g.replace(r#""seq":1"#, r#""seq":2.0"#), "without point"),
        (with_attrs(r#"{"n":-0}"#), "without point"),
        (with_attrs(r#"{"a":1,"a":2}"#), "twice"),
        (with_attrs("{\"e\u{301}\":1,\"\u{e9}\":2}"), "twice"),
        (g.replace(r#""reason":"ok","#, ""), "missing"),
        (g.replace(r#""reason""#, r#""raison""#), "unknown key"),
        (format!("{g}{g}"), "not JSON"),
        (format!("{},\"self_hash\":\"b3:0\"}}", &g[..g.len() - 1]), "not the hash"),
        ("[".repeat(100_000), "not JSON"),
    ] {
        let error = canonicalize(text.as_bytes()).expect_err(says).to_string();
        assert!(error.contains(says), "{text:.200}: {error}");
    }
}

#[test]
fn the_builder_puts_the_payload_commitment_in_its_place() {
    let salt = Salt::new([7; 32]);
    let payload = PayloadCommitment::commit(&salt, b"hello").unwrap();
    assert!(payload.opens_with(&salt, b"hello"));
    assert!(!payload.opens_with(&Salt::ZERO, b"hello"));
    assert!(!payload.opens_with(&salt, b"hellO"));
    let attrs = Object::new(vec![
        ("z".to_owned(), Value::Null),
        ("a".to_owned(), Value::Array(vec![Value::Bool(true), Value::Integer((-5i64).into())])),
    ])
    .unwrap();
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(5),
        writer_id: "w",
        stream: "s",
        kind: "K",
        actor: Actor { anon: true, passport_id: Some("p\""), ..Actor::default() },
        subject: Subject { name: Some("e\u{301}"), ..Subject::default() },
        reason: "ok",
        attrs: &attrs,
        payload: Some(payload),
    };
    let mut out = Vec::new();
    let record = builder.encode(1, None, &mut out).unwrap();
    assert_eq!(record.payload(), Some(payload));
    assert_eq!(record.subject(), "{\"name\":\"\u{e9}\"}");
    let expected = format!(
        "{{\"v\":1,\"ts_ms\":5,\"writer_id\":\"w\",\"seq\":1,\"stream\":\"s\",\"kind\":\"K\",\
         \"actor\":{{\"anon\":true,\"passport_id\":\"p\\\"\"}},\"subject\":{{\"name\":\"\u{e9}\"}},\"reason\":\"ok\",\
         \"attrs\":{{\"a\":[true,-5],\"payload\":{{\"hash\":\"{}\",\"len\":5}},\"z\":null}},\"prev\":\"b3:0\"}}",
        payload.hash()
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);

    let taken = Object::new(vec![("payload".to_owned(), Value::Null)]).unwrap();
    let error = RecordBuilder { attrs: &taken, ..builder }.encode(1, None, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("reserved"));
}

#[test]
fn reserved_names_are_recognised() {
    for (stream, writer, reserved) in
        [("stele/log", "w", true), ("s", "stele/x", true), ("stele", "w", false), ("s", "xstele/", false)]
    {
        let text = genesis().replace("ingress", stream).replace("svc-gateway@inst-1", writer);
        assert_eq!(parse(&text).unwrap().is_reserved(), reserved, "{stream} {writer}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<u64>().prop_map(|n| Value::Integer(n.into())),
        any::<i64>().prop_map(|n| Value::Integer(n.into())),
        ".{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            object(inner).prop_map(Value::Object),
        ]
    })
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
    prop::collection::vec((".{0,8}", inner), 0..6)
        .prop_filter_map("unique keys", |members| Object::new(members).ok().filter(|o| o.get("payload").is_none()))
}

prop_compose! {
    fn attrs()(object in object(value())) -> Object { object }
}

fn encode(attrs: &Object, name: &str, seq: u64, prev: Option<&SelfHash>) -> Option<Vec<u8>> {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(seq),
        writer_id: name,
        stream: "s",
        kind: "K",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs,
        payload: None,
    };
    let mut out = Vec::new();
    builder.encode(seq, prev, &mut out).ok()?;
    Some(out)
}

proptest! {
    #[test]
    fn prop_canon_deterministic(attrs in attrs(), name in "[^\\p{Cc}]{1,20}") {
        let Some(bytes) = encode(&attrs, &name, 1, None) else { return Ok(()) };
        prop_assert_eq!(&canonicalize(&bytes).unwrap(), &bytes);
        // Somebody else's JSON reader sees the same value, in whatever order it prints it.
        let other: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let pretty = serde_json::to_string_pretty(&other).unwrap();
        prop_assert_eq!(&canonicalize(pretty.as_bytes()).unwrap(), &bytes);
    }

    #[test]
    fn prop_chain_continuity(bodies in prop::collection::vec(attrs(), 2..8), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut chain: Vec<Vec<u8>> = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            let prev = chain.last().map(|last| SelfHash::of(last));
            let Some(bytes) = encode(body, "w", number as u64 + 1, prev.as_ref()) else { return Ok(()) };
            chain.push(bytes);
        }
        let parsed = |chain: &[Vec<u8>]| -> Result<(), VerifyError> {
            let records = chain.iter().map(|bytes| Record::parse(bytes)).collect::<Result<Vec<_>, _>>()?;
            verify_chain(&records)
        };
        prop_assert_eq!(parsed(&chain), Ok(()));
        let heads = chain.last().map(|last| SelfHash::of(last));
        let victim = at.index(chain.len());
        if victim + 1 < chain.len() {
            let mut without = chain.clone();
            without.remove(victim);
            if victim > 0 || without.len() > 1 {
                prop_assert!(victim == 0 || parsed(&without).is_err());
            }
        }
        let mut flipped = chain.clone();
        let byte = at.index(flipped[victim].len());
        flipped[victim][byte] ^= 1 << bit;
        let head = flipped.last().map(|last| SelfHash::of(last));
        prop_assert!(parsed(&flipped).is_err() || head != heads);
    }

    #[test]
    fn prop_dedupe_stable(attrs in attrs(), bit in 0..8u8, at in any::<prop::sample::Index>()) {
        let Some(bytes) = encode(&attrs, "w", 1, None) else { return Ok(()) };
        let key = Record::parse(&bytes).unwrap().dedupe_key();
        let again = canonicalize(&bytes).unwrap();
        prop_assert_eq!(Record::parse(&again).unwrap().dedupe_key(), key);
        let mut other = bytes.clone();
        let byte = at.index(other.len());
        other[byte] ^= 1 << bit;
        if let Ok(record) = Record::parse(&other) {
            prop_assert_ne!(record.dedupe_key(), key);
        }
    }

    /// Whatever the strict scanner accepts is a fixed point of the lenient path.
    #[test]
    fn prop_strict_accepts_only_fixed_points(attrs in attrs(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let Some(mut bytes) = encode(&attrs, "w", 1, None) else { return Ok(()) };
        let byte = at.index(bytes.len());
        bytes[byte] = with;
        if Record::parse(&bytes).is_ok() {
            prop_assert_eq!(&canonicalize(&bytes).unwrap(), &bytes);
        }
    }

    #[test]
    fn prop_hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Record::parse(&bytes).is_err());
        prop_assert!(canonicalize(&bytes).is_err());
        prop_assert!(Finished::split(&bytes).is_none());
    }
}
