//! The hash of a record.

use core::fmt;

/// BLAKE3-256 of a record's canonical bytes; written `b3:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SelfHash([u8; 32]);

impl SelfHash {
    /// Length of the text form in bytes.
    pub const TEXT_LEN: usize = 67;

    /// Wraps a hash.
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Hashes canonical bytes.
    pub fn of(canonical: &[u8]) -> Self {
        Self(*blake3::hash(canonical).as_bytes())
    }

    /// Hashes canonical bytes of many records, side by side, behind what is in `out`: several times as fast as
    /// one after the other.
    pub fn of_many(canonical: &[&[u8]], out: &mut Vec<Self>) {
        super::many::hash_many(canonical, out);
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text form, lower-case digits only; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: &[u8; 64] = text.strip_prefix(b"b3:")?.try_into().ok()?;
        let mut hash = [0; 32];
        // No branch for each digit: whatever is no digit leaves its mark in `wrong`.
        let mut wrong = 0;
        for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
            let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
            wrong |= high | low;
            *byte = high << 4 | low & 15;
        }
        (wrong < 16).then_some(Self(hash))
    }

    /// The text form.
    pub fn text(&self) -> [u8; Self::TEXT_LEN] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; Self::TEXT_LEN];
        text[..3].copy_from_slice(b"b3:");
        for (pair, byte) in text[3..].as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        text
    }
}

/// The value of each byte as a lower-case hex digit, [`NO_DIGIT`] where it is none.
const DIGITS: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};
const NO_DIGIT: u8 = 0x80;

/// The value of a lower-case hex digit.
pub(super) const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for SelfHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.text() {
            fmt::Write::write_char(f, char::from(byte))?;
        }
        Ok(())
    }
}

impl fmt::Debug for SelfHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
