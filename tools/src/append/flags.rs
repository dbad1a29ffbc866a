//! What the flags of `stele append` may say: checked before a log is opened.

use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject, check_assigned};

/// What the flags say; each is checked beside good ones.
struct Names<'t> {
    writer: &'t str,
    stream: &'t str,
    kind: &'t str,
}

const GOOD: Names<'static> = Names { writer: "w", stream: "s", kind: "K" };

fn check(names: &Names<'_>, rule: &str) -> Result<(), String> {
    let probe = RecordBuilder {
        ts_ms: UnixMillis::new(0),
        writer_id: names.writer,
        stream: names.stream,
        kind: names.kind,
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    match probe.encode(1, None, &mut Vec::new()) {
        Ok(record) => check_assigned(&record).map_err(|_error| "it holds a character without a meaning".to_owned()),
        Err(_error) => Err(rule.to_owned()),
    }
}

const NAME_RULE: &str = "a name has 1 to 128 bytes and no control characters";

/// `--stream`.
pub(super) fn stream(text: &str) -> Result<String, String> {
    check(&Names { stream: text, ..GOOD }, NAME_RULE).map(|()| text.to_owned())
}

/// `--writer`.
pub(super) fn writer(text: &str) -> Result<String, String> {
    check(&Names { writer: text, ..GOOD }, NAME_RULE).map(|()| text.to_owned())
}

/// `--kind`.
pub(super) fn kind(text: &str) -> Result<String, String> {
    let rule = "a kind is a letter and up to 63 letters, digits, `_`, `.` or `-`";
    check(&Names { kind: text, ..GOOD }, rule).map(|()| text.to_owned())
}
