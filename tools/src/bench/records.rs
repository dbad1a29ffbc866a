//! Records for the workloads: finished, in chains, of a set length; the same at every run.

use anyhow::anyhow;
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject, Value};

use crate::exit::Failure;

/// When the first record says it was written.
const FIRST_MS: u64 = 1_700_000_000_000;
/// What stands in `attrs` beside the text that fills a record up.
const TEXT: &str = "The connection was accepted after the certificate of the peer had been checked against the list. ";

/// The fields of one record, but for its place in the chain.
pub(super) struct Draft {
    pub(super) writer_id: String,
    pub(super) attrs: Object,
    pub(super) ts_ms: UnixMillis,
}

impl Draft {
    /// The record of that number, with `filler` bytes of text.
    pub(super) fn new(number: u64, chain: usize, filler: usize, source: &str) -> Result<Self, Failure> {
        let skip = usize::try_from(number % TEXT.len() as u64).unwrap_or(0);
        let members = vec![
            ("status".to_owned(), Value::Integer((200 + number % 7).into())),
            ("text".to_owned(), Value::String(source[skip..skip + filler].to_owned())),
        ];
        let attrs = Object::new(members).map_err(|error| anyhow!(error))?;
        Ok(Self { writer_id: format!("host-{chain:04}"), attrs, ts_ms: UnixMillis::new(FIRST_MS + number) })
    }

    /// Ready to be encoded.
    pub(super) fn builder(&self) -> RecordBuilder<'_> {
        RecordBuilder {
            ts_ms: self.ts_ms,
            writer_id: &self.writer_id,
            stream: "app/access",
            kind: "Access",
            actor: Actor { key_fpr: Some("ed25519:5f0c9a"), ..Actor::default() },
            subject: Subject { name: Some("/v1/accounts/4711"), ..Subject::default() },
            reason: "ok",
            attrs: &self.attrs,
            payload: None,
        }
    }
}

/// Text that drafts take their filler from.
pub(super) fn filler_source() -> String {
    TEXT.repeat(45)
}

/// Makes finished records, one chain after the other in turn.
pub(super) struct Maker {
    heads: Vec<(u64, Option<SelfHash>)>,
    record_bytes: usize,
    source: String,
    canonical: Vec<u8>,
    made: u64,
}

impl Maker {
    /// Records whose canonical form has `record_bytes` bytes, in so many chains.
    pub(super) fn new(chains: usize, record_bytes: usize) -> Self {
        let heads = vec![(0, None); chains];
        Self { heads, record_bytes, source: filler_source(), canonical: Vec::new(), made: 0 }
    }

    /// Appends the next finished record to `out`.
    pub(super) fn make(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        let chain = usize::try_from(self.made % self.heads.len() as u64).unwrap_or(0);
        let (seq, prev) = self.heads[chain];
        let shorter = Draft::new(self.made, chain, 0, &self.source)?;
        self.canonical.clear();
        let len = shorter.builder().encode(seq + 1, prev.as_ref(), &mut self.canonical).map_err(|e| anyhow!(e))?;
        let filler = self.record_bytes.saturating_sub(len.canonical().len());
        let draft = Draft::new(self.made, chain, filler, &self.source)?;
        self.canonical.clear();
        let record = draft.builder().encode(seq + 1, prev.as_ref(), &mut self.canonical).map_err(|e| anyhow!(e))?;
        let self_hash = record.self_hash();
        record.write_finished(&self_hash, out);
        self.heads[chain] = (seq + 1, Some(self_hash));
        self.made += 1;
        Ok(())
    }
}

/// Finished records in memory.
pub(super) struct Records {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Records {
    /// Makes `count` records.
    pub(super) fn make(maker: &mut Maker, count: usize) -> Result<Self, Failure> {
        let mut records = Self { bytes: Vec::new(), ends: Vec::with_capacity(count) };
        for _ in 0..count {
            maker.make(&mut records.bytes)?;
            records.ends.push(records.bytes.len());
        }
        Ok(records)
    }

    /// How many.
    pub(super) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// The finished record at a place.
    pub(super) fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|at| self.get(at))
    }
}
