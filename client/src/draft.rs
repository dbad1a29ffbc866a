//! What a leader may make of a draft: the record that says what the draft says, normalised, and what the draft left open.

use bytes::Bytes;
use stele_api::v1;
use stele_proof::record::{Object, Record, Salt, canonical_text, parse_object};

/// The first field in which a record differs from the draft that it was made of; `None` where it fits.
///
/// Its place in the chain is the leader's, and so are the time that the draft left open and the salt of the payload.
pub(crate) fn difference(
    record: &Record<'_>,
    draft: &v1::Draft,
    payload: Option<&Bytes>,
    salt: Option<&Salt>,
) -> Option<&'static str> {
    let text = |escaped: &str, asked: &str| *escaped == *canonical_text(asked);
    let reason = if draft.reason.is_empty() { "ok" } else { &draft.reason };
    let opens = match (payload, record.payload(), salt) {
        (None, None, _) => true,
        (Some(payload), Some(commitment), Some(salt)) => commitment.opens_with(salt, payload),
        _ => false,
    };
    let fields = [
        ("ts_ms", draft.ts_ms.is_none_or(|ts_ms| record.ts_ms().get() == ts_ms)),
        ("writer_id", text(record.writer_id().escaped(), &draft.writer_id)),
        ("stream", text(record.stream().escaped(), &draft.stream)),
        ("kind", record.kind() == draft.kind),
        ("actor", is_object(record.actor(), draft.actor.as_ref(), "{\"anon\":true}")),
        ("subject", is_object(record.subject(), draft.subject.as_ref(), "{}")),
        ("reason", record.reason() == reason),
        ("attrs", are_attrs(record, draft.attrs.as_ref())),
        ("payload", opens),
    ];
    fields.into_iter().find(|(_, fits)| !fits).map(|(field, _)| field)
}

/// Whether these canonical bytes are the object that was asked for, or what stands for none.
fn is_object(canonical: &str, asked: Option<&Bytes>, absent: &str) -> bool {
    match asked {
        None => canonical == absent,
        // What is no object is refused; whoever takes it makes something else of it.
        Some(asked) => parse_object(asked).is_ok_and(|asked| asked.to_canonical() == canonical.as_bytes()),
    }
}

/// Whether the details are those that were asked for, beside the commitment to the payload.
fn are_attrs(record: &Record<'_>, asked: Option<&Bytes>) -> bool {
    let asked = asked.map_or_else(|| Ok(Object::default()), |asked| parse_object(asked));
    let (Ok(asked), Ok(mut found)) = (asked, parse_object(record.attrs().as_bytes())) else { return false };
    if record.payload().is_some() {
        found.remove("payload");
    }
    found == asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use stele_proof::record::PayloadCommitment;

    /// All fields set, as a client may write them: not normalised.
    fn draft() -> v1::Draft {
        v1::Draft {
            ts_ms: Some(7),
            writer_id: "w\"e\u{301}".to_owned(),
            stream: "s\\".to_owned(),
            kind: "K".to_owned(),
            actor: Some(Bytes::from_static(br#" { "passport_id" : "p", "cap_id":"c" } "#)),
            subject: Some(Bytes::from("{\"name\":\"e\u{301}\"}")),
            reason: "why".to_owned(),
            attrs: Some(Bytes::from_static(br#"{"z":1,"a":[true,null]}"#)),
        }
    }

    fn canonical(commitment: &str) -> String {
        format!(
            "{{\"v\":1,\"ts_ms\":7,\"writer_id\":\"w\\\"\u{e9}\",\"seq\":1,\"stream\":\"s\\\\\",\"kind\":\"K\",\"actor\":\
             {{\"cap_id\":\"c\",\"passport_id\":\"p\"}},\"subject\":{{\"name\":\"\u{e9}\"}},\"reason\":\"why\",\"attrs\":\
             {{\"a\":[true,null],{commitment}\"z\":1}},\"prev\":\"b3:0\"}}"
        )
    }

    fn differs(canonical: &str, draft: &v1::Draft) -> Option<&'static str> {
        difference(&Record::parse(canonical.as_bytes()).unwrap(), draft, None, None)
    }

    #[test]
    fn what_the_leader_may_make_of_a_draft_fits_and_any_other_word_is_named() {
        let whole = canonical("");
        assert_eq!(differs(&whole, &draft()), None);
        let words = [
            ("ts_ms", "\"ts_ms\":7", "\"ts_ms\":8"),
            ("writer_id", "w\\\"", "v\\\""),
            ("stream", "s\\\\", "s"),
            ("kind", "\"K\"", "\"L\""),
            ("actor", "\"passport_id\":\"p\"", "\"passport_id\":\"q\""),
            ("actor", "\"cap_id\":\"c\",", ""),
            ("subject", "{\"name\":\"\u{e9}\"}", "{}"),
            ("reason", "\"why\"", "\"ok\""),
            ("attrs", "[true,null]", "[true]"),
            ("attrs", "\"z\":1", "\"y\":0,\"z\":1"),
        ];
        for (field, from, to) in words {
            assert!(whole.contains(from), "{from}");
            assert_eq!(differs(&whole.replace(from, to), &draft()), Some(field), "{from} became {to}");
        }
        let later = whole.replace("\"seq\":1", "\"seq\":9").replace("b3:0", &format!("b3:{}", "1".repeat(64)));
        assert_eq!(differs(&later, &draft()), None, "the place in the chain is the leader's");
        assert_eq!(differs(&whole.replace("ts_ms\":7", "ts_ms\":8"), &v1::Draft { ts_ms: None, ..draft() }), None);
    }

    #[test]
    fn what_a_draft_leaves_open_has_one_value() {
        let bare = v1::Draft { actor: None, subject: None, attrs: None, reason: String::new(), ts_ms: None, ..draft() };
        let anonymous = canonical("")
            .replace("{\"cap_id\":\"c\",\"passport_id\":\"p\"}", "{\"anon\":true}")
            .replace("{\"name\":\"\u{e9}\"}", "{}")
            .replace("\"why\"", "\"ok\"")
            .replace("{\"a\":[true,null],\"z\":1}", "{}");
        assert_eq!(differs(&anonymous, &bare), None);
        for (field, from, to) in [
            ("actor", "{\"anon\":true}", "{}"),
            ("subject", "\"subject\":{}", "\"subject\":{\"name\":\"n\"}"),
            ("reason", "\"ok\"", "\"no\""),
            ("attrs", "\"attrs\":{}", "\"attrs\":{\"a\":1}"),
        ] {
            assert_eq!(differs(&anonymous.replace(from, to), &bare), Some(field));
        }
    }

    #[test]
    fn a_payload_is_committed_to_where_there_is_one_and_nowhere_else() {
        let (salt, payload) = (Salt::new([3; 32]), Bytes::from_static(b"payload"));
        let commitment = PayloadCommitment::commit(&salt, &payload).unwrap();
        let committed = canonical(&format!("\"payload\":{{\"hash\":\"{}\",\"len\":7}},", commitment.hash()));
        let record = Record::parse(committed.as_bytes()).unwrap();
        assert_eq!(difference(&record, &draft(), Some(&payload), Some(&salt)), None);
        let other = Bytes::from_static(b"paylord");
        assert_eq!(difference(&record, &draft(), Some(&other), Some(&salt)), Some("payload"));
        assert_eq!(difference(&record, &draft(), Some(&payload), None), Some("payload"));
        assert_eq!(difference(&record, &draft(), None, None), Some("payload"));
        assert_eq!(
            difference(&Record::parse(canonical("").as_bytes()).unwrap(), &draft(), Some(&payload), Some(&salt)),
            Some("payload")
        );
    }
}
