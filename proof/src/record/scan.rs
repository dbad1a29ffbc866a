//! The strict scanner: accepts canonical bytes and nothing else, allocates nothing.
//!
//! The grammar is DESIGN.md section 4. Recursion is bounded by [`MAX_DEPTH`].

use std::cmp::Ordering;

use super::error::{BoundsError, CanonError, Place, RecordError};
use super::hash::{SelfHash, nibble};
use super::payload::PayloadCommitment;
use super::text::{Text, compare_utf16, is_nfc};
use super::{FIELDS, MAX_ATTRS_BYTES, MAX_NAME_BYTES, MAX_RECORD_BYTES, Record};
use crate::number::UnixMillis;

/// `attrs` is depth 1.
pub(super) const MAX_DEPTH: u8 = 8;

/// Reads a canonical record; see [`Record::parse`].
pub(super) fn scan(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(BoundsError::RecordTooLarge { bytes: bytes.len(), limit: MAX_RECORD_BYTES }.into());
    }
    let text = core::str::from_utf8(bytes)
        .map_err(|error| CanonError::Utf8Nfc { place: Place { field: "record", offset: error.valid_up_to() } })?;
    let mut scanner = Scanner { text, at: 0, field: "record" };
    scanner.expect(b'{', "a record is a JSON object without white space")?;

    scanner.key(0)?;
    if scanner.unsigned()? != 1 {
        return Err(scanner.rule("must be 1").into());
    }
    scanner.key(1)?;
    let ts_ms = UnixMillis::new(scanner.unsigned()?);
    scanner.key(2)?;
    let writer_id = scanner.name()?;
    scanner.key(3)?;
    let seq = scanner.unsigned()?;
    if seq == 0 {
        return Err(scanner.rule("must be at least 1").into());
    }
    scanner.key(4)?;
    let stream = scanner.name()?;
    scanner.key(5)?;
    let kind = scanner.label()?;
    scanner.key(6)?;
    let actor = scanner.object_of(&ACTOR)?;
    scanner.key(7)?;
    let subject = scanner.object_of(&SUBJECT)?;
    scanner.key(8)?;
    let reason = scanner.label()?;
    scanner.key(9)?;
    let (attrs, payload) = scanner.attrs()?;
    scanner.key(10)?;
    let prev = scanner.prev(seq)?;
    scanner.field = "record";
    scanner.expect(b'}', "after `prev` the record ends")?;
    if scanner.at != bytes.len() {
        return Err(scanner.rule("there are bytes after the end of the record").into());
    }
    if attrs.len() > MAX_ATTRS_BYTES {
        return Err(BoundsError::AttrsTooLarge { bytes: attrs.len(), limit: MAX_ATTRS_BYTES }.into());
    }
    Ok(Record { bytes, ts_ms, writer_id, seq, stream, kind, actor, subject, reason, attrs, prev, payload })
}

/// What a member of `actor` or `subject` may be.
#[derive(Clone, Copy)]
enum Member {
    /// Only `true`.
    True,
    /// Any string.
    Text,
    /// `b3:` and 1 to 64 lower-case hex digits.
    ContentId,
}

const ACTOR: [(&str, Member); 4] =
    [("anon", Member::True), ("cap_id", Member::Text), ("key_fpr", Member::Text), ("passport_id", Member::Text)];
const SUBJECT: [(&str, Member); 3] =
    [("content_id", Member::ContentId), ("ledger_txid", Member::Text), ("name", Member::Text)];

/// A position in the bytes of one record.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    field: &'static str,
}

impl<'a> Scanner<'a> {
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes().get(self.at).copied()
    }

    fn place(&self) -> Place {
        Place { field: self.field, offset: self.at }
    }

    #[cold]
    fn rule(&self, rule: &'static str) -> CanonError {
        CanonError::NonCanonicalInput { place: self.place(), rule: rule.into() }
    }

    #[cold]
    fn order(&self, rule: String) -> CanonError {
        CanonError::KeyOrder { place: self.place(), rule: rule.into() }
    }

    fn expect(&mut self, byte: u8, rule: &'static str) -> Result<(), CanonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.rule(rule))
        }
    }

    fn take(&mut self, literal: &str) -> bool {
        let found = self.bytes()[self.at..].starts_with(literal.as_bytes());
        if found {
            self.at += literal.len();
        }
        found
    }

    /// The top-level key number `number`, with the comma before and the colon after.
    fn key(&mut self, number: usize) -> Result<(), CanonError> {
        let name = FIELDS[number];
        if number > 0 {
            self.expect(b',', "a comma and the next key must follow, without white space")?;
        }
        self.field = name;
        let rest = &self.bytes()[self.at..];
        let len = name.len();
        if rest.len() > len + 3
            && rest[0] == b'"'
            && &rest[1..=len] == name.as_bytes()
            && rest[len + 1] == b'"'
            && rest[len + 2] == b':'
        {
            self.at += len + 3;
            return Ok(());
        }
        self.field = "record";
        let found = self.string()?;
        Err(match FIELDS.iter().position(|field| *field == found.escaped()) {
            None => self.order(format!("expected the key `{name}`, found `{}`", found.escaped())),
            Some(at) if at < number => self.order(format!("the key `{}` occurs twice or too late", FIELDS[at])),
            Some(at) => self.order(format!("the key `{name}` is missing or comes after `{}`", FIELDS[at])),
        })
    }

    /// A decimal integer from 0 to 2^64-1.
    fn unsigned(&mut self) -> Result<u64, CanonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            return Err(self.rule("must be a decimal integer from 0 to 2^64-1"));
        }
        let value = self.integer()?;
        u64::try_from(value).map_err(|_beyond| CanonError::NonCanonicalInput {
            place: Place { field: self.field, offset: start },
            rule: "must be a decimal integer from 0 to 2^64-1".into(),
        })
    }

    /// A decimal integer from -2^63 to 2^64-1.
    fn integer(&mut self) -> Result<i128, CanonError> {
        let negative = self.peek() == Some(b'-');
        let start = self.at + usize::from(negative);
        let mut value: u64 = 0;
        let mut end = start;
        while let Some(digit @ b'0'..=b'9') = self.bytes().get(end) {
            value = value
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit - b'0')))
                .ok_or_else(|| self.rule("integers go from -2^63 to 2^64-1"))?;
            end += 1;
        }
        if matches!(self.bytes().get(end), Some(b'.' | b'e' | b'E')) && end > start {
            return Err(CanonError::FloatDisallowed { place: self.place() });
        }
        if end == start {
            return Err(self.rule("must be a decimal integer"));
        }
        if self.bytes()[start] == b'0' && (end - start > 1 || negative) {
            return Err(self.rule("an integer has no leading zero, and zero has no sign"));
        }
        if negative && value > 1 << 63 {
            return Err(self.rule("integers go from -2^63 to 2^64-1"));
        }
        self.at = end;
        Ok(if negative { -i128::from(value) } else { i128::from(value) })
    }

    /// A canonical string; the text is checked for escapes and normalization form.
    fn string(&mut self) -> Result<Text<'a>, CanonError> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let bytes = self.bytes();
        let mut ascii = true;
        let mut at = start;
        loop {
            at += plain_run(&bytes[at..]);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at = at;
                    at += self.escape(&bytes[at + 1..])?;
                }
                Some(0x80..) => {
                    ascii = false;
                    at += 1;
                }
                Some(_) => {
                    self.at = at;
                    return Err(self.rule("control characters must be escaped"));
                }
                None => {
                    self.at = at;
                    return Err(self.rule("the string does not end"));
                }
            }
        }
        let text = Text::from_scanned(&self.text[start..at]);
        if !ascii && !is_nfc(text) {
            return Err(CanonError::Utf8Nfc { place: Place { field: self.field, offset: start } });
        }
        self.at = at + 1;
        Ok(text)
    }

    /// Length of the escape whose backslash is at `self.at` and whose rest is `rest`.
    fn escape(&self, rest: &[u8]) -> Result<usize, CanonError> {
        match rest {
            [b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r', ..] => Ok(2),
            [b'u', b'0', b'0', high @ (b'0' | b'1'), low, ..] if let Some(low) = nibble(*low) => {
                match (high - b'0') << 4 | low {
                    0x08 | 0x09 | 0x0a | 0x0c | 0x0d => Err(self.rule("this character has a shorter escape")),
                    _ => Ok(6),
                }
            }
            _ => {
                Err(self.rule("only control characters, quotes and backslashes are escaped, in lower case (RFC 8785)"))
            }
        }
    }

    /// `writer_id` or `stream`: 1 to 128 bytes without control characters.
    fn name(&mut self) -> Result<Text<'a>, CanonError> {
        let place = self.place();
        let text = self.string()?;
        let escaped = text.escaped();
        let decoded_len = if escaped.contains('\\') { text.chars().map(char::len_utf8).sum() } else { escaped.len() };
        if decoded_len == 0 || decoded_len > MAX_NAME_BYTES {
            return Err(CanonError::NonCanonicalInput { place, rule: "must have 1 to 128 bytes".into() });
        }
        if escaped.bytes().any(|byte| byte == b'\\' || byte >= 0x7f) && text.chars().any(char::is_control) {
            return Err(CanonError::NonCanonicalInput { place, rule: "must not hold control characters".into() });
        }
        Ok(text)
    }

    /// `kind` or `reason`.
    fn label(&mut self) -> Result<&'a str, CanonError> {
        let place = self.place();
        let text = self.string()?.escaped();
        let mut bytes = text.bytes();
        let good = text.len() <= 64
            && bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        if good {
            Ok(text)
        } else {
            let rule = "must be a letter and up to 63 letters, digits, `_`, `.` or `-`";
            Err(CanonError::NonCanonicalInput { place, rule: rule.into() })
        }
    }

    /// `actor` or `subject`: known keys only, in order, each at most once.
    fn object_of(&mut self, members: &[(&'static str, Member)]) -> Result<&'a str, CanonError> {
        let start = self.at;
        self.expect(b'{', "must be an object")?;
        let mut allowed = members.iter();
        let mut first = true;
        while !(first && self.peek() == Some(b'}')) {
            let key_at = self.at;
            let key = self.string()?.escaped();
            let Some((_, member)) = allowed.find(|(name, _)| *name == key) else {
                self.at = key_at;
                return Err(if members.iter().any(|(name, _)| *name == key) {
                    self.order(format!("the key `{key}` occurs twice or out of order"))
                } else {
                    self.order(format!("unknown key `{key}`"))
                });
            };
            self.expect(b':', "a colon follows a key, without white space")?;
            self.member(*member)?;
            first = false;
            if self.peek() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.expect(b'}', "expected a comma or the end of the object, without white space")?;
        Ok(&self.text[start..self.at])
    }

    fn member(&mut self, member: Member) -> Result<(), CanonError> {
        let place = self.place();
        match member {
            Member::True => {
                if !self.take("true") {
                    return Err(self.rule("`anon` is `true` or absent"));
                }
            }
            Member::Text => {
                if self.peek() != Some(b'"') {
                    return Err(self.rule("must be a string, or absent"));
                }
                self.string()?;
            }
            Member::ContentId => {
                let text = self.string()?.escaped().as_bytes();
                let good = text.strip_prefix(b"b3:").is_some_and(|digits| {
                    (1..=64).contains(&digits.len()) && digits.iter().all(|digit| nibble(*digit).is_some())
                });
                if !good {
                    let rule = "`content_id` is `b3:` and 1 to 64 lower-case hex digits";
                    return Err(CanonError::NonCanonicalInput { place, rule: rule.into() });
                }
            }
        }
        Ok(())
    }

    /// The `attrs` object and the payload commitment in it.
    fn attrs(&mut self) -> Result<(&'a str, Option<PayloadCommitment>), CanonError> {
        if self.peek() != Some(b'{') {
            return Err(self.rule("must be an object"));
        }
        let start = self.at;
        let payload = self.object(1)?;
        let attrs = &self.text[start..self.at];
        let payload = match payload {
            Some(at) => Some(self.commitment(at)?),
            None => None,
        };
        Ok((attrs, payload))
    }

    /// The commitment at `at`, which the scan has already found to be a canonical value.
    fn commitment(&self, at: usize) -> Result<PayloadCommitment, CanonError> {
        let mut inner = Scanner { text: self.text, at, field: self.field };
        let wrong = || CanonError::NonCanonicalInput {
            place: Place { field: "attrs", offset: at },
            rule: "`payload` is reserved for {\"hash\":\"b3:<64 hex digits>\",\"len\":<bytes>}".into(),
        };
        if !inner.take("{\"hash\":") {
            return Err(wrong());
        }
        let hash = SelfHash::parse(inner.string()?.escaped().as_bytes()).ok_or_else(wrong)?;
        if !inner.take(",\"len\":") {
            return Err(wrong());
        }
        let len = u32::try_from(inner.integer()?).map_err(|_beyond| wrong())?;
        if !inner.take("}") {
            return Err(wrong());
        }
        Ok(PayloadCommitment::from_parts(hash, len))
    }

    /// An object; answers where the value of the member `payload` of the outermost one begins.
    fn object(&mut self, depth: u8) -> Result<Option<usize>, CanonError> {
        self.enter(depth)?;
        let mut payload = None;
        let mut last: Option<Text<'a>> = None;
        while !(last.is_none() && self.peek() == Some(b'}')) {
            let key_at = self.at;
            let key = self.string()?;
            match last.map(|last| compare_utf16(last, key)) {
                None | Some(Ordering::Less) => {}
                Some(order) => {
                    self.at = key_at;
                    let why =
                        if order == Ordering::Equal { "occurs twice" } else { "is out of order (UTF-16 code units)" };
                    return Err(self.order(format!("the key `{}` {why}", key.escaped())));
                }
            }
            last = Some(key);
            self.expect(b':', "a colon follows a key, without white space")?;
            if depth == 1 && key.escaped() == "payload" {
                payload = Some(self.at);
            }
            self.value(depth)?;
            if self.peek() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.expect(b'}', "expected a comma or the end of the object, without white space")?;
        Ok(payload)
    }

    fn array(&mut self, depth: u8) -> Result<(), CanonError> {
        self.enter(depth)?;
        if self.peek() != Some(b']') {
            self.value(depth)?;
            while self.peek() == Some(b',') {
                self.at += 1;
                self.value(depth)?;
            }
        }
        self.expect(b']', "expected a comma or the end of the array, without white space")
    }

    /// Steps into a container of that depth.
    fn enter(&mut self, depth: u8) -> Result<(), CanonError> {
        if depth > MAX_DEPTH {
            return Err(self.rule("`attrs` is at most 8 deep"));
        }
        self.at += 1;
        Ok(())
    }

    /// Any value inside a container of that depth.
    fn value(&mut self, depth: u8) -> Result<(), CanonError> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(depth + 1).map(drop),
            Some(b'[') => self.array(depth + 1),
            Some(b'-' | b'0'..=b'9') => self.integer().map(drop),
            _ if self.take("true") || self.take("false") || self.take("null") => Ok(()),
            _ => Err(self.rule("expected a value, without white space")),
        }
    }

    /// `prev`: `b3:0` exactly when `seq` is 1.
    fn prev(&mut self, seq: u64) -> Result<Option<SelfHash>, CanonError> {
        let place = self.place();
        let text = self.string()?.escaped().as_bytes();
        let prev = if text == b"b3:0" {
            None
        } else {
            Some(SelfHash::parse(text).ok_or_else(|| CanonError::NonCanonicalInput {
                place,
                rule: "must be `b3:` and 64 lower-case hex digits, or `b3:0` in the first record of a chain".into(),
            })?)
        };
        if prev.is_none() != (seq == 1) {
            let rule = "must be `b3:0` exactly when `seq` is 1";
            return Err(CanonError::NonCanonicalInput { place, rule: rule.into() });
        }
        Ok(prev)
    }
}

/// How many bytes at the front are ASCII and need no look: no control, quote or backslash.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut run = 0;
    for chunk in bytes.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*chunk);
        // Exact per byte where all bytes are ASCII; a byte of 0x80 or more sets its own bit anyway,
        // and a borrow can only reach bytes after one that already stops the run.
        let control = word.wrapping_sub(ONES * 0x20);
        let quote = (word ^ (ONES * 0x22)).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * 0x5c)).wrapping_sub(ONES);
        let stops = (control | quote | backslash | word) & HIGH;
        if stops != 0 {
            return run + usize::try_from(stops.trailing_zeros() / 8).unwrap_or(0);
        }
        run += 8;
    }
    run + bytes[run..].iter().take_while(|byte| matches!(byte, 0x20..=0x7f) && !matches!(byte, b'"' | b'\\')).count()
}

#[cfg(test)]
mod tests {
    use super::plain_run;

    #[test]
    fn plain_run_stops_exactly_at_the_first_special_byte() {
        for special in 0..=255u8 {
            for at in 0..20 {
                let mut bytes = [b'a'; 24];
                bytes[at] = special;
                let plain = matches!(special, 0x20..=0x7f) && special != b'"' && special != b'\\';
                assert_eq!(plain_run(&bytes), if plain { 24 } else { at }, "byte {special:#x} at {at}");
            }
        }
    }
}
