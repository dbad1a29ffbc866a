//! Canonical JSON strings: escapes of RFC 8785, normalization form C, order by UTF-16 code units.

use std::borrow::Cow;
use std::cmp::Ordering;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The content of a canonical JSON string, still escaped, borrowed from the record.
///
/// Canonical escapes are unique, so equal texts have equal bytes: identities may be compared and
/// hashed without decoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Wraps the inside of a JSON string that the scanner found canonical.
    pub(super) const fn from_scanned(escaped: &'a str) -> Self {
        Self(escaped)
    }

    /// The escaped content, without the quotes.
    pub const fn escaped(self) -> &'a str {
        self.0
    }

    /// The text itself.
    pub fn decode(self) -> Cow<'a, str> {
        if self.0.contains('\\') { Cow::Owned(self.chars().collect()) } else { Cow::Borrowed(self.0) }
    }

    /// The characters of the text itself.
    pub fn chars(self) -> impl Iterator<Item = char> + 'a {
        Unescape(self.0.chars())
    }

    /// Whether the name belongs to the log itself (DESIGN.md section 4).
    pub fn is_reserved(self) -> bool {
        self.0.starts_with("stele/")
    }
}

/// Decodes canonical escapes; the scanner has already refused all others.
struct Unescape<'a>(core::str::Chars<'a>);

impl Iterator for Unescape<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.0.next()?;
        if c != '\\' {
            return Some(c);
        }
        match self.0.next()? {
            'b' => Some('\u{8}'),
            't' => Some('\t'),
            'n' => Some('\n'),
            'f' => Some('\u{c}'),
            'r' => Some('\r'),
            'u' => {
                let mut code = 0;
                for _ in 0..4 {
                    code = code * 16 + self.0.next()?.to_digit(16)?;
                }
                char::from_u32(code)
            }
            other => Some(other),
        }
    }
}

/// Whether the characters are in normalization form C.
pub(super) fn is_nfc(text: Text<'_>) -> bool {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => true,
        IsNormalized::No => false,
        IsNormalized::Maybe => text.chars().eq(text.chars().nfc()),
    }
}

/// The text in normalization form C; borrowed where it already is.
pub(super) fn to_nfc(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// The escaped content of the canonical JSON string for `text`, as [`Text::escaped`] gives it.
pub fn canonical_text(text: &str) -> Cow<'_, str> {
    let normal = to_nfc(text);
    if normal.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        return normal;
    }
    let mut quoted = Vec::with_capacity(normal.len() + 8);
    write_string(&normal, &mut quoted);
    Cow::Owned(String::from_utf8_lossy(&quoted[1..quoted.len() - 1]).into_owned())
}

/// The first character that the Unicode version of `v = 1` leaves unassigned.
pub(super) fn first_unassigned(text: &str) -> Option<(usize, char)> {
    if text.is_ascii() {
        return None;
    }
    text.char_indices().find(|(_, c)| !c.is_ascii() && c.general_category() == GeneralCategory::Unassigned)
}

/// Orders keys by UTF-16 code units (RFC 8785 section 3.2.3): U+E000 sorts after U+10000.
pub(super) fn compare_utf16(a: Text<'_>, b: Text<'_>) -> Ordering {
    if a.0.is_ascii() && b.0.is_ascii() && !a.0.contains('\\') && !b.0.contains('\\') {
        return a.0.cmp(b.0);
    }
    let mut left = a.chars();
    let mut right = b.chars();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(l), Some(r)) if l == r => {}
            (Some(l), Some(r)) => return first_unit(l).cmp(&first_unit(r)).then(l.cmp(&r)),
        }
    }
}

/// [`compare_utf16`] for texts that are not escaped.
pub(super) fn compare_utf16_plain(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// The first UTF-16 code unit of a character.
fn first_unit(c: char) -> u16 {
    let mut units = [0; 2];
    c.encode_utf16(&mut units)[0]
}

/// Appends the canonical JSON string for `text`, quotes included.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            control => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(control >> 4)]);
                out.push(DIGITS[usize::from(control & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}
