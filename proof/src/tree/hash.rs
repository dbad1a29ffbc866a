//! A SHA-256 value and its two texts: lower-case hex, and the standard base64 of signed notes.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The hash of a leaf, of an interior node or of a whole log tree: 32 bytes of SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

/// The length of a hash in base64, padding included.
const BASE64_LEN: usize = 44;
/// What 44 characters of base64 hold when none of them is padding.
const BASE64_CAPACITY: usize = 33;

impl Hash {
    /// The length of a hash in bytes.
    pub const LEN: usize = 32;

    /// Wraps the plain bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The plain bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads exactly 64 lower-case hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        parse_lower_hex(text).map(Self)
    }

    /// The standard base64 with padding (RFC 4648 4), 44 characters, as C2SP tlog-checkpoint and
    /// tlog-proof write hashes.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Reads exactly what [`Hash::to_base64`] writes: padding present, no stray bits in the last digit.
    pub fn from_base64(text: &str) -> Option<Self> {
        if text.len() != BASE64_LEN {
            return None;
        }
        let mut decoded = [0; BASE64_CAPACITY];
        match STANDARD.decode_slice(text, &mut decoded) {
            Ok(Self::LEN) => decoded.first_chunk().copied().map(Self),
            Ok(_) | Err(_) => None,
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lower_hex(&self.0, f)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lower_hex(&self.0, f)
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn write_lower_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly two lower-case hexadecimal digits for each of `N` bytes.
pub(crate) fn parse_lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(bytes)
}

const fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}
