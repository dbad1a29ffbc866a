//! Records for the benches: 1 KiB each, in chains; the same at every run.

use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Finished, Object, RecordBuilder, SelfHash, Subject, Value};

/// Records that are handed over or verified together.
pub(crate) const MESSAGE: usize = 64;
/// Canonical bytes of each record, to a few.
pub(crate) const RECORD_BYTES: usize = 1024;
/// What the keys and the other fields of a record take.
const FRAME_BYTES: usize = 334;

/// Details that fill a record up.
pub(crate) fn attrs() -> Object {
    let text = "The connection was accepted. ".repeat(RECORD_BYTES / 29);
    let text = text[..RECORD_BYTES - FRAME_BYTES].to_owned();
    let members = vec![("status".to_owned(), Value::Integer(200u64.into())), ("text".to_owned(), Value::String(text))];
    Object::new(members).unwrap()
}

/// A record of these details.
pub(crate) fn builder<'a>(writer_id: &'a str, attrs: &'a Object) -> RecordBuilder<'a> {
    RecordBuilder {
        ts_ms: UnixMillis::new(1_700_000_000_000),
        writer_id,
        stream: "app/access",
        kind: "Access",
        actor: Actor { key_fpr: Some("ed25519:5f0c9a"), ..Actor::default() },
        subject: Subject { name: Some("/v1/accounts/4711"), ..Subject::default() },
        reason: "ok",
        attrs,
        payload: None,
    }
}

/// Makes finished records, one chain after the other in turn, without an end.
pub(crate) struct Maker {
    attrs: Object,
    heads: Vec<(u64, Option<SelfHash>)>,
    next: usize,
}

impl Maker {
    pub(crate) fn new(chains: usize) -> Self {
        Self { attrs: attrs(), heads: vec![(0, None); chains], next: 0 }
    }

    pub(crate) fn make(&mut self) -> Vec<u8> {
        let chain = self.next % self.heads.len();
        let (seq, prev) = self.heads[chain];
        let writer_id = format!("host-{chain:04}");
        let (mut canonical, mut finished) = (Vec::new(), Vec::new());
        let record = builder(&writer_id, &self.attrs).encode(seq + 1, prev.as_ref(), &mut canonical).unwrap();
        let self_hash = record.self_hash();
        record.write_finished(&self_hash, &mut finished);
        self.heads[chain] = (seq + 1, Some(self_hash));
        self.next += 1;
        finished
    }

    pub(crate) fn message(&mut self, records: usize) -> Vec<Vec<u8>> {
        (0..records).map(|_| self.make()).collect()
    }
}

/// The canonical bytes of a finished record.
pub(crate) fn canonical(finished: &[u8]) -> Vec<u8> {
    let mut canonical = Vec::new();
    Finished::split(finished).unwrap().write_canonical(&mut canonical);
    canonical
}
