//! Building records: the one place, with `canonicalize`, that orders and normalises.

use super::error::{CanonError, Place, RecordError};
use super::payload::PayloadCommitment;
use super::text::{compare_utf16_plain, to_nfc, write_string};
use super::value::{Object, Value, write_integer};
use super::{FIELDS, Record, SelfHash};
use crate::number::UnixMillis;

/// Who did it; absent members are left out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Actor<'a> {
    /// Nobody that is known.
    pub anon: bool,
    /// A capability.
    pub cap_id: Option<&'a str>,
    /// The fingerprint of a key.
    pub key_fpr: Option<&'a str>,
    /// A passport.
    pub passport_id: Option<&'a str>,
}

/// To what it was done; absent members are left out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Subject<'a> {
    /// `b3:` and 1 to 64 lower-case hex digits: the writer's own reference.
    pub content_id: Option<&'a str>,
    /// A ledger transaction.
    pub ledger_txid: Option<&'a str>,
    /// A name.
    pub name: Option<&'a str>,
}

/// A record before it has its place in a chain. Strings are normalised when it is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordBuilder<'a> {
    /// When it happened.
    pub ts_ms: UnixMillis,
    /// Who writes it.
    pub writer_id: &'a str,
    /// The stream it goes to.
    pub stream: &'a str,
    /// What happened.
    pub kind: &'a str,
    /// Who did it.
    pub actor: Actor<'a>,
    /// To what.
    pub subject: Subject<'a>,
    /// Why, as a label.
    pub reason: &'a str,
    /// Further details, without the reserved key `payload`.
    pub attrs: &'a Object,
    /// The commitment to the payload; becomes `attrs.payload`.
    pub payload: Option<PayloadCommitment>,
}

impl RecordBuilder<'_> {
    /// Appends the canonical bytes with this place in the chain and answers the record in them.
    /// After an error the caller cuts `out` back to the length it had.
    ///
    /// # Errors
    /// [`RecordError`]: what was built goes through the strict scanner.
    pub fn encode<'o>(
        &self,
        seq: u64,
        prev: Option<&SelfHash>,
        out: &'o mut Vec<u8>,
    ) -> Result<Record<'o>, RecordError> {
        let start = out.len();
        self.write(seq, prev, out)?;
        Record::parse(&out[start..])
    }

    fn write(&self, seq: u64, prev: Option<&SelfHash>, out: &mut Vec<u8>) -> Result<(), RecordError> {
        out.extend_from_slice(b"{\"v\":1,\"ts_ms\":");
        write_integer(i128::from(self.ts_ms.get()), out);
        self.text(2, self.writer_id, out);
        key(3, out);
        write_integer(i128::from(seq), out);
        self.text(4, self.stream, out);
        self.text(5, self.kind, out);
        key(6, out);
        let actor =
            [("cap_id", self.actor.cap_id), ("key_fpr", self.actor.key_fpr), ("passport_id", self.actor.passport_id)];
        write_members(if self.actor.anon { "\"anon\":true" } else { "" }, &actor, out);
        key(7, out);
        let subject = [
            ("content_id", self.subject.content_id),
            ("ledger_txid", self.subject.ledger_txid),
            ("name", self.subject.name),
        ];
        write_members("", &subject, out);
        self.text(8, self.reason, out);
        key(9, out);
        self.write_attrs(out)?;
        key(10, out);
        match prev {
            None => out.extend_from_slice(b"\"b3:0\"}"),
            Some(prev) => {
                out.push(b'"');
                out.extend_from_slice(&prev.text());
                out.extend_from_slice(b"\"}");
            }
        }
        Ok(())
    }

    fn text(&self, field: usize, text: &str, out: &mut Vec<u8>) {
        key(field, out);
        write_string(&to_nfc(text), out);
    }

    fn write_attrs(&self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let Some(payload) = &self.payload else {
            self.attrs.write(out);
            return Ok(());
        };
        let members = self.attrs.members();
        let at = members.partition_point(|(name, _)| compare_utf16_plain(name, "payload").is_lt());
        if members.get(at).is_some_and(|(name, _)| name == "payload") {
            let place = Place { field: "attrs", offset: out.len() };
            return Err(CanonError::KeyOrder { place, rule: "the key `payload` is reserved".into() }.into());
        }
        out.push(b'{');
        for (name, value) in &members[..at] {
            write_member(name, value, out);
            out.push(b',');
        }
        out.extend_from_slice(b"\"payload\":");
        payload.write(out);
        for (name, value) in &members[at..] {
            out.push(b',');
            write_member(name, value, out);
        }
        out.push(b'}');
        Ok(())
    }
}

fn key(field: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(FIELDS[field].as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_member(name: &str, value: &Value, out: &mut Vec<u8>) {
    write_string(name, out);
    out.push(b':');
    value.write(out);
}

/// Writes an object of string members, after `first`, a member already written out.
fn write_members(first: &str, members: &[(&str, Option<&str>)], out: &mut Vec<u8>) {
    out.push(b'{');
    out.extend_from_slice(first.as_bytes());
    let mut empty = first.is_empty();
    for (name, value) in members {
        if let Some(value) = value {
            if !empty {
                out.push(b',');
            }
            empty = false;
            write_string(name, out);
            out.push(b':');
            write_string(&to_nfc(value), out);
        }
    }
    out.push(b'}');
}
