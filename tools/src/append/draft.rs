//! What one line of input asks to have appended.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, PushError, Receipt};
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject, Value, parse_object};

use super::{Arguments, LineError};

/// A line of `--lines`: the bytes are the payload.
pub(super) fn push_line(
    log: &mut LocalLog,
    environment: &Environment,
    arguments: &Arguments,
    line: &[u8],
) -> Result<Receipt, LineError> {
    let given = |name: &Option<String>| name.clone().unwrap_or_default();
    let (stream, writer, kind) = (given(&arguments.stream), given(&arguments.writer), given(&arguments.kind));
    let salt = salt(environment)?;
    let builder = RecordBuilder {
        ts_ms: environment.clock.now(),
        writer_id: &writer,
        stream: &stream,
        kind: &kind,
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    push(log, &Submission::Draft { builder: &builder, payload: Some((&salt, line)) })
}

/// A line of `--jsonl`: a finished record where it carries `self_hash`, else a draft.
pub(super) fn push_json(
    log: &mut LocalLog,
    environment: &Environment,
    arguments: &Arguments,
    line: &[u8],
) -> Result<Receipt, LineError> {
    match read_json(environment, arguments, line)? {
        JsonLine::Finished { bytes, payload } => {
            let payload = payload.as_ref().map(|(salt, bytes)| (salt, &**bytes));
            push(log, &Submission::Finished { bytes: &bytes, payload })
        }
        JsonLine::Draft { draft, payload } => {
            let salt = salt(environment)?;
            let builder = RecordBuilder {
                ts_ms: draft.ts_ms,
                writer_id: &draft.writer,
                stream: &draft.stream,
                kind: &draft.kind,
                actor: draft.actor()?,
                subject: draft.subject()?,
                reason: &draft.reason,
                attrs: &draft.attrs,
                payload: None,
            };
            push(log, &Submission::Draft { builder: &builder, payload: payload.as_deref().map(|bytes| (&salt, bytes)) })
        }
    }
}

/// What a line of `--jsonl` says.
pub(super) enum JsonLine {
    /// A finished record, with its payload and salt.
    Finished {
        /// The record.
        bytes: Vec<u8>,
        /// Salt and payload.
        payload: Option<(Salt, Vec<u8>)>,
    },
    /// A record without its place in a chain.
    Draft {
        /// Its fields.
        draft: Box<JsonDraft>,
        /// Its payload.
        payload: Option<Vec<u8>>,
    },
}

/// The fields of a draft, those that were absent filled in.
pub(super) struct JsonDraft {
    pub(super) ts_ms: UnixMillis,
    pub(super) stream: String,
    pub(super) writer: String,
    pub(super) kind: String,
    pub(super) reason: String,
    actor: Object,
    subject: Object,
    pub(super) attrs: Object,
}

impl JsonDraft {
    pub(super) fn actor(&self) -> Result<Actor<'_>, LineError> {
        let names = ["cap_id", "key_fpr", "passport_id"];
        let [cap_id, key_fpr, passport_id] = texts("actor", &self.actor, names, Some("anon"))?;
        let anon = match self.actor.get("anon") {
            None => false,
            Some(Value::Bool(true)) => true,
            Some(_) => return Err(LineError::Refused("field `actor`: `anon` is `true` or absent".to_owned())),
        };
        Ok(Actor { anon, cap_id, key_fpr, passport_id })
    }

    pub(super) fn subject(&self) -> Result<Subject<'_>, LineError> {
        let names = ["content_id", "ledger_txid", "name"];
        let [content_id, ledger_txid, name] = texts("subject", &self.subject, names, None)?;
        Ok(Subject { content_id, ledger_txid, name })
    }
}

/// Reads a line of `--jsonl`.
pub(super) fn read_json(environment: &Environment, arguments: &Arguments, line: &[u8]) -> Result<JsonLine, LineError> {
    let mut fields = parse_object(line).map_err(|error| LineError::Refused(error.to_string()))?;
    let payload = fields.remove("payload").map(|value| bytes("payload", &value)).transpose()?;
    let given_salt = fields.remove("salt").map(|value| bytes("salt", &value)).transpose()?;
    if fields.get("self_hash").is_some() {
        return read_finished(&fields, line, payload, given_salt);
    }
    if given_salt.is_some() {
        return Err(LineError::Refused("field `salt`: a draft has none, it is made here".to_owned()));
    }
    let draft = Box::new(read_draft(environment, arguments, fields)?);
    Ok(JsonLine::Draft { draft, payload })
}

fn read_finished(
    fields: &Object,
    line: &[u8],
    payload: Option<Vec<u8>>,
    salt: Option<Vec<u8>>,
) -> Result<JsonLine, LineError> {
    // The record's own bytes, up to `self_hash` and its value; what follows it are the siblings.
    let hash = text("self_hash", fields.get("self_hash"))?.unwrap_or_default();
    let last = format!(",\"self_hash\":\"{hash}\"");
    let end = line.windows(last.len()).rposition(|window| window == last.as_bytes());
    let Some(end) = end else {
        let why = "field `self_hash`: a finished record is canonical, with `self_hash` as its last key";
        return Err(LineError::Refused(why.to_owned()));
    };
    let (record, rest) = line.split_at(end + last.len());
    let siblings = [b"{", rest.strip_prefix(b",").unwrap_or(rest)].concat();
    let siblings = parse_object(&siblings).map_err(|error| LineError::Refused(error.to_string()))?;
    if let Some((name, _)) = siblings.members().iter().find(|(name, _)| name != "payload" && name != "salt") {
        let why = "only `payload` and `salt` may follow `self_hash`";
        return Err(LineError::Refused(format!("field `{name}`: {why}")));
    }
    let bytes = [record, b"}"].concat();
    let payload = match (payload, salt) {
        (None, None) => None,
        (Some(payload), Some(salt)) => {
            let wrong = |_bytes| LineError::Refused("field `salt`: must be 32 bytes".to_owned());
            Some((Salt::new(salt.try_into().map_err(wrong)?), payload))
        }
        _ => return Err(LineError::Refused("fields `payload` and `salt` come together".to_owned())),
    };
    Ok(JsonLine::Finished { bytes, payload })
}

fn read_draft(environment: &Environment, arguments: &Arguments, mut fields: Object) -> Result<JsonDraft, LineError> {
    let ts_ms = match fields.remove("ts_ms") {
        None => environment.clock.now(),
        Some(Value::Integer(value)) => UnixMillis::new(
            u64::try_from(value.get())
                .map_err(|_negative| LineError::Refused("field `ts_ms`: must be from 0 to 2^64-1".to_owned()))?,
        ),
        Some(_) => return Err(LineError::Refused("field `ts_ms`: must be an integer".to_owned())),
    };
    let stream = flagged("stream", fields.remove("stream").as_ref(), arguments.stream.as_deref())?;
    let writer = flagged("writer_id", fields.remove("writer_id").as_ref(), arguments.writer.as_deref())?;
    let kind = flagged("kind", fields.remove("kind").as_ref(), arguments.kind.as_deref())?;
    let reason = text("reason", fields.remove("reason").as_ref())?.unwrap_or_else(|| "ok".to_owned());
    let actor = object("actor", fields.remove("actor"))?;
    let subject = object("subject", fields.remove("subject"))?;
    let attrs = object("attrs", fields.remove("attrs"))?.unwrap_or_default();
    if let Some((name, _)) = fields.members().first() {
        let why = match name.as_str() {
            "v" | "seq" | "prev" => "a draft has none, it is made here",
            _ => "unknown key",
        };
        return Err(LineError::Refused(format!("field `{name}`: {why}")));
    }
    let actor = actor.unwrap_or(Object::new(vec![("anon".to_owned(), Value::Bool(true))]).unwrap_or_default());
    let draft = JsonDraft { ts_ms, stream, writer, kind, reason, actor, subject: subject.unwrap_or_default(), attrs };
    draft.actor()?;
    draft.subject()?;
    Ok(draft)
}

fn push(log: &mut LocalLog, submission: &Submission<'_>) -> Result<Receipt, LineError> {
    log.push(submission).map_err(|error| match error {
        PushError::Log(error) => LineError::Log(error),
        PushError::Refused(refusal) => LineError::Intake(refusal),
        other => LineError::Refused(other.to_string()),
    })
}

fn salt(environment: &Environment) -> Result<Salt, LineError> {
    environment.random().map(Salt::new).map_err(|error| LineError::Log(stele_engine::error::LogError::Entropy(error)))
}

fn text(field: &str, value: Option<&Value>) -> Result<Option<String>, LineError> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(LineError::Refused(format!("field `{field}`: must be a string"))),
    }
}

/// A field that a flag may fill, but not contradict.
fn flagged(field: &str, value: Option<&Value>, flag: Option<&str>) -> Result<String, LineError> {
    match (text(field, value)?, flag) {
        (Some(text), Some(flag)) if text != flag => {
            Err(LineError::Refused(format!("field `{field}`: the line says {text:?}, the flag says {flag:?}")))
        }
        (Some(text), _) => Ok(text),
        (None, Some(flag)) => Ok(flag.to_owned()),
        (None, None) => Err(LineError::Refused(format!("field `{field}`: is missing, and no flag gives it"))),
    }
}

fn object(field: &str, value: Option<Value>) -> Result<Option<Object>, LineError> {
    match value {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(LineError::Refused(format!("field `{field}`: must be an object"))),
    }
}

/// The string members of `actor` or `subject`.
fn texts<'o>(
    field: &str,
    object: &'o Object,
    names: [&str; 3],
    other: Option<&str>,
) -> Result<[Option<&'o str>; 3], LineError> {
    if let Some((name, _)) = object.members().iter().find(|(name, _)| !names.contains(&&**name) && other != Some(name))
    {
        return Err(LineError::Refused(format!("field `{field}`: unknown key `{name}`")));
    }
    let mut found = [None; 3];
    for (slot, name) in found.iter_mut().zip(names) {
        *slot = match object.get(name) {
            None => None,
            Some(Value::String(text)) => Some(text.as_str()),
            Some(_) => return Err(LineError::Refused(format!("field `{field}`: `{name}` must be a string"))),
        };
    }
    Ok(found)
}

fn bytes(field: &str, value: &Value) -> Result<Vec<u8>, LineError> {
    let wrong = || LineError::Refused(format!("field `{field}`: must be base64"));
    match value {
        Value::String(text) => STANDARD.decode(text).map_err(|_reason| wrong()),
        _ => Err(wrong()),
    }
}
