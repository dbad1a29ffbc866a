//! Records that the leader finishes: a client gives the fields, and not the place in a chain.
//!
//! Strings and JSON are normalised; floats, duplicate and unknown keys are refused. A draft has no identity: sent
//! again, it may be in the log twice.

use bytes::Bytes;
use stele_engine::intake::Refusal;
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, CanonError, Object, Place, RecordBuilder, Salt, Subject, Value, parse_object};

use crate::rights::Names;

/// The fields of a record, but for its place in a chain.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    ts_ms: UnixMillis,
    labels: Labels,
    actor: Object,
    subject: Object,
    attrs: Object,
    payload: Option<(Salt, Bytes)>,
}

/// The texts of a draft.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Labels {
    /// Who writes.
    pub writer_id: String,
    /// The stream.
    pub stream: String,
    /// What happened.
    pub kind: String,
    /// Why; empty: `ok`.
    pub reason: String,
}

/// The JSON objects of a draft, each as the client wrote it.
#[derive(Clone, Copy, Default, Debug)]
pub struct Json<'a> {
    /// Who did it; absent: `{"anon":true}`.
    pub actor: Option<&'a [u8]>,
    /// To what; absent: `{}`.
    pub subject: Option<&'a [u8]>,
    /// Details, without the reserved key `payload`; absent: `{}`.
    pub attrs: Option<&'a [u8]>,
}

const ACTOR: [&str; 3] = ["cap_id", "key_fpr", "passport_id"];
const SUBJECT: [&str; 3] = ["content_id", "ledger_txid", "name"];

impl Draft {
    /// Reads the objects of a draft. What else may be wrong with it shows when the leader finishes it.
    ///
    /// # Errors
    /// [`Refusal::Schema`].
    pub fn new(
        ts_ms: UnixMillis,
        labels: Labels,
        json: Json<'_>,
        payload: Option<(Salt, Bytes)>,
    ) -> Result<Self, Refusal> {
        let actor = match json.actor {
            Some(bytes) => object("actor", bytes)?,
            None => Object::new(vec![("anon".to_owned(), Value::Bool(true))])?,
        };
        let subject = json.subject.map_or_else(|| Ok(Object::default()), |bytes| object("subject", bytes))?;
        let attrs = json.attrs.map_or_else(|| Ok(Object::default()), |bytes| object("attrs", bytes))?;
        check_members("actor", &actor, ACTOR)?;
        check_members("subject", &subject, SUBJECT)?;
        if attrs.get("payload").is_some() {
            return Err(wrong("attrs", "the key `payload` is reserved: send the payload itself"));
        }
        let labels = if labels.reason.is_empty() { Labels { reason: "ok".to_owned(), ..labels } } else { labels };
        Ok(Self { ts_ms, labels, actor, subject, attrs, payload })
    }

    /// What the leader makes the record from; its payload comes beside it.
    pub(crate) fn builder(&self) -> RecordBuilder<'_> {
        let [cap_id, key_fpr, passport_id] = ACTOR.map(|name| text(&self.actor, name));
        let [content_id, ledger_txid, name] = SUBJECT.map(|name| text(&self.subject, name));
        RecordBuilder {
            ts_ms: self.ts_ms,
            writer_id: &self.labels.writer_id,
            stream: &self.labels.stream,
            kind: &self.labels.kind,
            actor: Actor { anon: self.actor.get("anon").is_some(), cap_id, key_fpr, passport_id },
            subject: Subject { content_id, ledger_txid, name },
            reason: &self.labels.reason,
            attrs: &self.attrs,
            payload: None,
        }
    }

    /// Whose it is.
    pub(crate) fn names(&self) -> Names<'_> {
        Names { writer_id: &self.labels.writer_id, stream: &self.labels.stream }
    }

    /// The payload, and the salt that hides it.
    pub const fn payload(&self) -> Option<&(Salt, Bytes)> {
        self.payload.as_ref()
    }

    /// Bytes that it holds in memory, about: its objects were bounded when they were read.
    pub(crate) fn weight(&self) -> usize {
        let Labels { writer_id, stream, kind, reason } = &self.labels;
        let texts = [writer_id, stream, kind, reason].map(String::len).iter().sum::<usize>();
        let objects = [&self.actor, &self.subject, &self.attrs].map(|object| object.to_canonical().len());
        let payload = self.payload.as_ref().map_or(0, |(_, bytes)| Salt::LEN + bytes.len());
        texts + objects.iter().sum::<usize>() + payload
    }
}

fn wrong(field: &'static str, rule: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::Schema(CanonError::NonCanonicalInput { place: Place { field, offset: 0 }, rule: rule.into() })
}

fn object(field: &'static str, bytes: &[u8]) -> Result<Object, Refusal> {
    // The reader of objects does not know which field it reads.
    parse_object(bytes).map_err(|error| wrong(field, error.to_string()))
}

/// Whether an object holds texts under these names, and nothing else but `"anon":true` in `actor`.
fn check_members(field: &'static str, object: &Object, names: [&str; 3]) -> Result<(), Refusal> {
    for (name, value) in object.members() {
        match value {
            Value::String(_) if names.contains(&name.as_str()) => {}
            Value::Bool(true) if field == "actor" && name == "anon" => {}
            _ if field == "actor" && name == "anon" => return Err(wrong(field, "`anon` is `true` or absent")),
            _ if names.contains(&name.as_str()) => return Err(wrong(field, format!("`{name}` must be a string"))),
            _ => return Err(wrong(field, format!("unknown key `{name}`"))),
        }
    }
    Ok(())
}

fn text<'o>(object: &'o Object, name: &str) -> Option<&'o str> {
    match object.get(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(json: Json<'_>) -> Result<Draft, Refusal> {
        let labels =
            Labels { writer_id: "w".to_owned(), stream: "s".to_owned(), kind: "K".to_owned(), reason: String::new() };
        Draft::new(UnixMillis::new(7), labels, json, None)
    }

    fn finished(json: Json<'_>) -> String {
        let mut bytes = Vec::new();
        draft(json).unwrap().builder().encode(1, None, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_absent_is_filled_in_and_what_is_there_is_normalised() {
        let bare = finished(Json::default());
        assert!(bare.contains(r#""actor":{"anon":true},"subject":{},"reason":"ok","attrs":{}"#), "{bare}");
        let json = Json {
            actor: Some(br#" { "passport_id" : "p" } "#),
            subject: Some("{\"name\":\"e\u{301}\"}".as_bytes()),
            attrs: Some(br#"{"z":1,"a":[true,null]}"#),
        };
        let whole = finished(json);
        let wanted = "\"actor\":{\"passport_id\":\"p\"},\"subject\":{\"name\":\"\u{e9}\"},\"reason\":\"ok\",\
                      \"attrs\":{\"a\":[true,null],\"z\":1}";
        assert!(whole.contains(wanted), "{whole}");
    }

    #[test]
    fn what_cannot_be_normalised_is_refused_as_schema() {
        let attrs = |bytes| Json { attrs: Some(bytes), ..Json::default() };
        let actor = |bytes| Json { actor: Some(bytes), ..Json::default() };
        let subject = |bytes| Json { subject: Some(bytes), ..Json::default() };
        let bad = [
            attrs(br#"{"a":1.5}"#.as_slice()),
            attrs(br#"{"a":1,"a":2}"#),
            attrs("{\"e\u{301}\":1,\"\u{e9}\":2}".as_bytes()),
            attrs(br#"{"payload":{}}"#),
            attrs(b"[]"),
            attrs(b""),
            actor(br#"{"anon":false}"#),
            actor(br#"{"name":"n"}"#),
            subject(br#"{"name":3}"#),
            subject(br#"{"anon":true}"#),
        ];
        for json in bad {
            assert!(matches!(draft(json), Err(Refusal::Schema(_))), "{json:?}");
        }
    }
}
