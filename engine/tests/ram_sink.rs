//! The sink in memory: bounds, canonical form, chains, retries, and what it keeps.

#![allow(clippy::unwrap_used, reason = "a test")]

use proptest::prelude::*;
use stele_engine::intake::Submission;
use stele_engine::sink::{AppendError, AuditSink as _, AuditStream as _, ChainName, Kept, RamSettings, RamSink};
use stele_proof::UnixMillis;
use stele_proof::record::{
    Actor, Limits, MAX_ATTRS_BYTES, MAX_RECORD_BYTES, Object, Record, RecordBuilder, Salt, SelfHash, Subject, Value,
    verify_chain,
};
use stele_proof::tree::{CompactRange, leaf_hash};

const CHAIN: ChainName<'_> = ChainName { stream: "s", writer_id: "w" };

fn draft<'a>(chain: ChainName<'a>, reason: &'a str, attrs: &'a Object) -> RecordBuilder<'a> {
    RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: chain.writer_id,
        stream: chain.stream,
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason,
        attrs,
        payload: None,
    }
}

/// The finished record of the chain with this number behind this head.
fn finished(reason: &str, seq: u64, prev: Option<&SelfHash>) -> Vec<u8> {
    let attrs = Object::default();
    let mut canonical = Vec::new();
    let record = draft(CHAIN, reason, &attrs).encode(seq, prev, &mut canonical).unwrap();
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    finished
}

fn attrs_of(text: String) -> Object {
    Object::new(vec![("k".to_owned(), Value::String(text))]).unwrap()
}

#[test]
fn what_is_held_is_a_chain_under_its_root_and_drained_records_count() {
    let sink = RamSink::new(RamSettings::default());
    let (attrs, salt) = (Object::default(), Salt::new([3; 32]));
    for number in 0..100_u8 {
        let builder = draft(CHAIN, "ok", &attrs);
        let payload = vec![number; usize::from(number)];
        let payload = (number % 3 == 0).then_some((&salt, &payload[..]));
        let done = sink.submit(&Submission::Draft { builder: &builder, payload }).unwrap();
        assert_eq!((done.index.get(), done.kept), (u64::from(number), Kept::InMemory));
        assert_eq!(sink.state(CHAIN).unwrap().head, Some(done.self_hash));
    }
    let mut held = sink.drain(40).unwrap();
    assert_eq!(sink.held().unwrap().len(), 60);
    held.extend(sink.drain(usize::MAX).unwrap());
    let records: Vec<_> = held.iter().map(|held| Record::parse(&held.canonical).unwrap()).collect();
    verify_chain(&records).unwrap();
    let mut tree = CompactRange::new();
    for (number, (held, record)) in (0..).zip(held.iter().zip(&records)) {
        assert_eq!((held.index.get(), held.self_hash), (number, record.self_hash()));
        match (record.payload(), &held.payload) {
            (Some(commitment), Some((salt, payload))) => assert!(commitment.opens_with(salt, payload)),
            (commitment, payload) => assert!(commitment.is_none() && payload.is_none()),
        }
        tree.append(leaf_hash(&held.canonical));
    }
    assert_eq!((sink.size().unwrap(), sink.root().unwrap()), (tree.size(), tree.root()));
    // The chain goes on behind what was drained, and what was drained is still recognised.
    let next = sink.emit(&draft(CHAIN, "ok", &attrs)).unwrap();
    assert_eq!((next.index.get(), sink.state(CHAIN).unwrap().seq), (100, 101));
    let mut again = Vec::new();
    records[99].write_finished(&held[99].self_hash, &mut again);
    let (_, payload) = held[99].payload.clone().unwrap();
    let retried = sink.submit(&Submission::Finished { bytes: &again, payload: Some((&salt, &payload)) }).unwrap();
    assert_eq!(retried.index.get(), 99);
}

#[test]
fn every_changed_bit_of_an_appended_record_is_refused_and_changes_nothing() {
    let sink = RamSink::new(RamSettings::default());
    let first = finished("ok", 1, None);
    let head = sink.append(&first).unwrap().self_hash;
    let last = finished("ok", 2, Some(&head));
    let second = sink.append(&last).unwrap();
    let (root, mut tampered) = (sink.root().unwrap(), 0);
    for bit in 0..last.len() * 8 {
        let mut changed = last.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        match sink.append(&changed) {
            Err(AppendError::Tamper(_)) => tampered += 1,
            Err(AppendError::Schema(_) | AppendError::SizeExceeded(_)) => {}
            other => panic!("bit {bit}: {other:?}"),
        }
        assert_eq!((sink.root().unwrap(), sink.state(CHAIN).unwrap().head), (root, Some(second.self_hash)));
    }
    assert!(tampered > 100, "{tampered}");
    // Changed with its hash, it contradicts the record that is there.
    assert!(matches!(sink.append(&finished("no", 2, Some(&head))), Err(AppendError::Tamper(_))));
    assert!(matches!(sink.append(&finished("no", 1, None)), Err(AppendError::Tamper(_))));
    assert_eq!(sink.append(&first).unwrap().index.get(), 0);
    assert_eq!((sink.root().unwrap(), sink.size().unwrap().get()), (root, 2));
}

#[test]
fn a_record_that_does_not_follow_is_told_why() {
    let sink = RamSink::new(RamSettings { max_chains: 1, ..RamSettings::default() });
    let other = SelfHash::new([1; 32]);
    assert!(matches!(
        sink.append(&finished("ok", 2, Some(&other))),
        Err(AppendError::SeqGap { expected: 1, found: 2 })
    ));
    let head = sink.append(&finished("ok", 1, None)).unwrap().self_hash;
    assert!(matches!(sink.append(&finished("ok", 3, Some(&head))), Err(AppendError::SeqGap { expected: 2, found: 3 })));
    let Err(AppendError::LinkMismatch { expected }) = sink.append(&finished("ok", 2, Some(&other))) else {
        panic!("linked to nothing")
    };
    assert_eq!(expected, head);
    let attrs = Object::default();
    let reserved = ChainName { stream: "stele/log", ..CHAIN };
    assert!(matches!(sink.emit(&draft(reserved, "ok", &attrs)), Err(AppendError::Schema(_))));
    let another = ChainName { stream: "t", ..CHAIN };
    assert!(matches!(sink.emit(&draft(another, "ok", &attrs)), Err(AppendError::TooManyChains { limit: 1 })));
    let payload = (&Salt::ZERO, &b"p"[..]);
    let stray = Submission::Finished { bytes: &finished("ok", 2, Some(&head)), payload: Some(payload) };
    assert!(matches!(sink.submit(&stray), Err(AppendError::Schema(_))));
    assert_eq!((sink.size().unwrap().get(), sink.counts().acknowledged, sink.counts().failed), (1, 1, 6));
}

/// A reader of this version meets records of others: a structural change is another `v`, details go into `attrs`.
#[test]
fn a_record_of_another_version_or_with_unknown_fields_is_refused_and_unknown_attrs_are_taken() {
    let sink = RamSink::new(RamSettings::default());
    let good = r#"{"v":1,"ts_ms":7,"writer_id":"w","seq":1,"stream":"s","kind":"K","actor":{"anon":true},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;
    let finish = |canonical: &str| {
        let hash = SelfHash::of(canonical.as_bytes());
        format!("{},\"self_hash\":\"{hash}\"}}", canonical.strip_suffix('}').unwrap())
    };
    for (from, to) in [
        (r#""v":1"#, r#""v":2"#),
        (r#""v":1"#, r#""v":0"#),
        (r#""v":1,"#, ""),
        (r#""reason""#, r#""node":"n","reason""#),
        (r#""subject":{}"#, r#""subject":{"shape":"round"}"#),
        (r#""actor":{"anon":true}"#, r#""actor":{"anon":true,"badge":"7"}"#),
        (r#""prev":"b3:0""#, r#""prev":"b3:0","prev2":"b3:0""#),
    ] {
        let changed = good.replace(from, to);
        assert_ne!(changed, good, "{from}");
        let refused = sink.append(finish(&changed).as_bytes());
        assert!(matches!(refused, Err(AppendError::Schema(_))), "{changed}: {refused:?}");
    }
    let minor = good.replace(r#""attrs":{}"#, r#""attrs":{"since_1_1":{"list":[1,null,"x"]}}"#);
    sink.append(finish(&minor).as_bytes()).unwrap();
}

#[test]
fn a_full_sink_sheds_new_records_counts_them_and_goes_on_when_it_was_drained() {
    let sink = RamSink::new(RamSettings { max_bytes: 4096, ..RamSettings::default() });
    let attrs = Object::default();
    let mut taken = 0;
    let (waiting, bound) = loop {
        match sink.emit(&draft(CHAIN, "ok", &attrs)) {
            Ok(_) => taken += 1,
            Err(AppendError::Busy { waiting, bound }) => break (waiting, bound),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(waiting <= bound && bound == 4096 && taken > 5, "{taken} records in {waiting} bytes");
    let before = sink.held().unwrap();
    assert!(matches!(sink.emit(&draft(CHAIN, "ok", &attrs)), Err(AppendError::Busy { .. })));
    assert_eq!(sink.held().unwrap(), before, "nothing that was acknowledged is dropped");
    // A retry of what is there needs no room.
    let mut again = Vec::new();
    let first = Record::parse(&before[0].canonical).unwrap();
    first.write_finished(&first.self_hash(), &mut again);
    assert_eq!(sink.append(&again).unwrap().index.get(), 0);
    assert_eq!((sink.counts().shed, sink.counts().acknowledged), (2, taken + 1));
    sink.drain(1).unwrap();
    assert_eq!(sink.emit(&draft(CHAIN, "ok", &attrs)).unwrap().index.get(), taken);
}

#[test]
fn a_retry_older_than_what_is_remembered_is_found_while_it_is_held_and_refused_after() {
    let sink = RamSink::new(RamSettings { max_bytes: 64 << 20, ..RamSettings::default() });
    let first = finished("ok", 1, None);
    sink.append(&first).unwrap();
    let attrs = Object::default();
    for _ in 0..stele_engine::chains::WINDOW {
        sink.emit(&draft(CHAIN, "ok", &attrs)).unwrap();
    }
    assert_eq!(sink.append(&first).unwrap().index.get(), 0);
    assert!(matches!(sink.append(&finished("no", 1, None)), Err(AppendError::Tamper(_))));
    sink.drain(1).unwrap();
    assert!(matches!(sink.append(&first), Err(AppendError::Forgotten { seq: 1 })));
}

#[test]
fn many_threads_on_one_stream_number_every_chain_without_gap_and_retries_add_nothing() {
    let sink = RamSink::new(RamSettings::default());
    let attrs = Object::default();
    let names: Vec<String> = (0..3).map(|number| format!("w{number}")).collect();
    std::thread::scope(|scope| {
        // Two threads a chain, and one that sends each of its records twice.
        for name in names.iter().chain(&names) {
            scope.spawn(|| {
                for _ in 0..200 {
                    sink.emit(&draft(ChainName { writer_id: name, ..CHAIN }, "ok", &attrs)).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let mut head = None;
            for seq in 1..=200 {
                let bytes = finished("ok", seq, head.as_ref());
                let once = sink.append(&bytes).unwrap();
                assert_eq!(sink.append(&bytes).unwrap(), once);
                head = Some(once.self_hash);
            }
        });
    });
    let held = sink.held().unwrap();
    assert_eq!(held.len(), 7 * 200);
    for (name, count) in names.iter().map(|name| (name.as_str(), 400)).chain([("w", 200)]) {
        let records: Vec<_> = held
            .iter()
            .map(|held| Record::parse(&held.canonical).unwrap())
            .filter(|record| record.writer_id().escaped() == name)
            .collect();
        assert_eq!((records.len(), records[0].seq()), (count, 1), "{name}");
        verify_chain(&records).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Of any sizes: what is too large says so, nothing panics, and what is held stays within its bound.
    #[test]
    fn prop_bounds_are_kept_for_records_of_any_size(
        sizes in prop::collection::vec((0..2 * MAX_ATTRS_BYTES, 0..MAX_RECORD_BYTES, 0..6000_usize), 1..40),
        max_bytes in 1..40_000_usize,
        max_attrs_bytes in 0..2 * MAX_ATTRS_BYTES,
    ) {
        let limits = Limits { max_attrs_bytes, max_payload_bytes: 3000, ..Limits::default() };
        let sink = RamSink::new(RamSettings { max_bytes, limits, ..RamSettings::default() });
        for (attr, reason, payload) in sizes {
            let (attrs, reason, payload) = (attrs_of("a".repeat(attr)), "r".repeat(reason), vec![1; payload]);
            let builder = draft(CHAIN, &reason, &attrs);
            let salt = Salt::new([9; 32]);
            let with_payload = payload.len() % 2 == 0;
            let submission =
                Submission::Draft { builder: &builder, payload: with_payload.then_some((&salt, &payload[..])) };
            let too_large = attrs.to_canonical().len() > max_attrs_bytes.min(MAX_ATTRS_BYTES)
                || reason.len() > MAX_RECORD_BYTES
                || (with_payload && payload.len() > 3000);
            match sink.submit(&submission) {
                Ok(_) => prop_assert!(!too_large),
                Err(AppendError::SizeExceeded(_)) => {}
                Err(AppendError::Busy { waiting, bound }) => prop_assert!(!too_large && waiting <= bound),
                // A reason is a short label: that is its form, not its size.
                Err(AppendError::Schema(refusal)) => prop_assert!(refusal.to_string().contains("reason"), "{refusal}"),
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            let held: usize = sink.held().unwrap().iter()
                .map(|held| held.canonical.len() + held.payload.as_ref().map_or(0, |(_, bytes)| bytes.len()))
                .sum();
            prop_assert!(held <= max_bytes);
        }
    }
}
