//! Records: the lenient reader, the strict scanner and the builder agree on one form.

use stele_proof::UnixMillis;
use stele_proof::record::{
    Actor, FINISH_BYTES, Finished, Limits, MAX_ATTRS_BYTES, MAX_NAME_BYTES, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES,
    Object, Record, RecordBuilder, SelfHash, Subject, Text, canonical_text, canonicalize, check_assigned, parse_object,
    verify_chain, verify_link, verify_record,
};

/// Largest input that the lenient reader looks at.
const MAX_INPUT_BYTES: usize = 256 * 1024;

/// The canonical form is a fixed point, and what is canonical already stays as it is.
pub(crate) fn canonicalizing(data: &[u8]) {
    if let Ok(canonical) = canonicalize(data) {
        assert!(canonical.len() <= MAX_RECORD_BYTES, "{} bytes", canonical.len());
        let record = Record::parse(&canonical).expect("what canonicalize writes is canonical");
        assert_eq!(canonicalize(&canonical).as_deref(), Ok(&canonical[..]), "a fixed point");
        let mut finished = Vec::new();
        record.write_finished(&record.self_hash(), &mut finished);
        assert_eq!(canonicalize(&finished).as_deref(), Ok(&canonical[..]), "a right self_hash changes nothing");
        let last = finished.len() - 3;
        finished[last] ^= 1;
        assert!(canonicalize(&finished).is_err(), "a wrong self_hash is refused");
    }
    if Record::parse(data).is_ok() {
        assert_eq!(canonicalize(data).as_deref(), Ok(data), "strict and lenient reader agree");
    }
    if let Ok(object) = parse_object(data) {
        let canonical = object.to_canonical();
        if canonical.len() <= MAX_INPUT_BYTES {
            let again = parse_object(&canonical).expect("canonical JSON is JSON");
            assert_eq!(again.to_canonical(), canonical, "RFC 8785 is a fixed point");
        }
    }
}

/// A record is exactly what its fields say, and its hash is bound to every byte.
pub(crate) fn parsing(data: &[u8]) {
    if let Ok(hash) = verify_record(data) {
        let split = Finished::split(data).expect("a finished record");
        assert_eq!(split.self_hash(), hash);
        let mut canonical = Vec::new();
        split.write_canonical(&mut canonical);
        assert_eq!(canonical.len() + FINISH_BYTES, data.len());
        parsing(&canonical);
    }
    let Ok(record) = Record::parse(data) else { return };
    assert!(data.len() <= MAX_RECORD_BYTES && record.attrs().len() <= MAX_ATTRS_BYTES);
    assert_eq!(record.canonical(), data);
    assert_eq!(from_fields(&record).as_bytes(), data, "the fields are the record");
    let large = record.payload().is_some_and(|payload| u64::from(payload.len()) > MAX_PAYLOAD_BYTES);
    assert_eq!(Limits::default().check(&record).is_err(), large, "the other default limits are the format's");
    for name in [record.writer_id(), record.stream()] {
        check_text(name);
        assert!((1..=MAX_NAME_BYTES).contains(&name.decode().len()));
    }
    assert!(record.seq() > 0 && record.prev().is_none() == (record.seq() == 1));
    drop(check_assigned(&record));
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    assert_eq!(finished.len(), data.len() + FINISH_BYTES);
    assert_eq!(verify_record(&finished), Ok(record.self_hash()));
    assert!(verify_link(&record, &record).is_err(), "no record follows itself");
}

fn from_fields(record: &Record<'_>) -> String {
    format!(
        "{{\"v\":1,\"ts_ms\":{},\"writer_id\":\"{}\",\"seq\":{},\"stream\":\"{}\",\"kind\":\"{}\",\"actor\":{},\
         \"subject\":{},\"reason\":\"{}\",\"attrs\":{},\"prev\":\"{}\"}}",
        record.ts_ms(),
        record.writer_id().escaped(),
        record.seq(),
        record.stream().escaped(),
        record.kind(),
        record.actor(),
        record.subject(),
        record.reason(),
        record.attrs(),
        record.prev().map_or("b3:0".to_owned(), |prev| prev.to_string()),
    )
}

fn check_text(text: Text<'_>) {
    assert_eq!(canonical_text(&text.decode()), text.escaped(), "a text has one escaped form");
    assert!(text.chars().eq(text.decode().chars()));
}

/// What the builder writes is canonical and says what was asked for. The input is lines: writer, stream,
/// kind, reason, a member of actor and of subject, and `attrs` as any JSON object.
pub(crate) fn building(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.splitn(7, '\n').collect();
    let line = |number: usize| lines.get(number).copied();
    let attrs = line(6).and_then(|json| parse_object(json.as_bytes()).ok()).unwrap_or_default();
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(data.len() as u64),
        writer_id: line(0).unwrap_or_default(),
        stream: line(1).unwrap_or_default(),
        kind: line(2).unwrap_or_default(),
        actor: Actor { anon: data.len().is_multiple_of(2), passport_id: line(4), ..Actor::default() },
        subject: Subject { name: line(5), ..Subject::default() },
        reason: line(3).unwrap_or_default(),
        attrs: &attrs,
        payload: None,
    };
    let mut first = Vec::new();
    let Ok(record) = builder.encode(1, None, &mut first) else { return };
    check_built(&builder, &record, &attrs);
    let head = record.self_hash();
    let mut second = vec![0; 3];
    // The second one is longer by its `prev` and can be too long.
    let Ok(record) = builder.encode(2, Some(&head), &mut second) else { return };
    let records = [Record::parse(&first).expect("it was built"), record];
    assert_eq!(verify_chain(&records), Ok(()));
    assert_eq!(records[1].prev(), Some(SelfHash::of(&first)));
}

fn check_built(builder: &RecordBuilder<'_>, record: &Record<'_>, attrs: &Object) {
    parsing(record.canonical());
    assert_eq!(record.writer_id().escaped(), canonical_text(builder.writer_id));
    assert_eq!(record.stream().escaped(), canonical_text(builder.stream));
    // A label is ASCII once it is normalised: U+212A becomes K.
    assert_eq!((record.kind(), record.reason()), (&*canonical_text(builder.kind), &*canonical_text(builder.reason)));
    assert_eq!(record.attrs().as_bytes(), attrs.to_canonical());
    assert_eq!(record.ts_ms(), builder.ts_ms);
    assert_eq!(canonicalize(record.canonical()).as_deref(), Ok(record.canonical()));
}
