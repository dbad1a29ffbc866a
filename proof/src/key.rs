//! Keys of signed notes: their names, ids and text forms (C2SP signed-note).
//!
//! | text | form | type byte |
//! |---|---|---|
//! | verifier key (vkey) | `name+id+base64(type, public key)` | 01 or 04 |
//! | signing key | `PRIVATE+KEY+name+id+base64(type, seed)` | 01 or 04 |
//!
//! The id is the first four bytes of SHA-256(name, 0x0A, type, public key), written as eight lower-case
//! hexadecimal digits; a text whose id is another one is refused. Only the first two `+` after the prefix
//! separate fields: base64 may contain more.

use core::fmt;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Length of an Ed25519 public key and of a seed, in bytes.
const KEY_BYTES: usize = 32;

/// Length of an Ed25519 signature, in bytes.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// What a signing key's text starts with.
const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

/// The name of a key: not empty, no Unicode space, no `+`, no control character.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyName(String);

impl KeyName {
    /// Checks the rules for names.
    ///
    /// # Errors
    ///
    /// [`KeyNameError`] says which rule the text breaks.
    pub fn new(name: &str) -> Result<Self, KeyNameError> {
        if name.is_empty() {
            return Err(KeyNameError::Empty);
        }
        let forbidden = |c: char| c == '+' || c.is_whitespace() || c.is_control();
        match name.char_indices().find(|(_, c)| forbidden(*c)) {
            Some((at, character)) => Err(KeyNameError::Character { character, at }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a key name.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum KeyNameError {
    /// The text is empty.
    #[error("the name is empty")]
    Empty,
    /// The text holds a space, a `+` or a control character.
    #[error(
        "the name holds {character:?} at byte {at}; spaces, '+' and control characters are refused"
    )]
    Character {
        /// The first such character.
        character: char,
        /// Its offset in bytes.
        at: usize,
    },
}

/// The short id of a key; together with the name it identifies the key and its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// Wraps the four bytes, big-endian.
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The id that the recommended rule gives: SHA-256(name, 0x0A, type, public key), cut to four bytes.
    fn compute(name: &KeyName, kind: KeyKind, public_key: &[u8; KEY_BYTES]) -> Self {
        let digest = Sha256::new()
            .chain_update(name.as_str())
            .chain_update([b'\n', kind.byte()])
            .chain_update(public_key)
            .finalize();
        Self([digest[0], digest[1], digest[2], digest[3]])
    }

    /// The four bytes, big-endian.
    pub const fn bytes(self) -> [u8; 4] {
        self.0
    }
}

impl fmt::Display for KeyId {
    /// Eight lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// What a key signs, and how: the signature type byte of C2SP signed-note.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum KeyKind {
    /// Type 01: Ed25519 over the text of the note.
    Ed25519,
    /// Type 04: Ed25519 over a time and the text of a checkpoint (C2SP tlog-cosignature).
    CosignatureEd25519,
}

impl KeyKind {
    /// The type byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::CosignatureEd25519 => 0x04,
        }
    }

    /// The kind with this type byte, or `None` if there is none here.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Ed25519),
            0x04 => Some(Self::CosignatureEd25519),
            _ => None,
        }
    }
}

impl fmt::Display for KeyKind {
    /// Two hexadecimal digits, as the specifications write types.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.byte())
    }
}

/// A public key with its name: what verifies one signer's signatures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifierKey {
    name: KeyName,
    kind: KeyKind,
    id: KeyId,
    public_key: ed25519_dalek::VerifyingKey,
}

impl VerifierKey {
    /// Names a public key.
    ///
    /// # Errors
    ///
    /// [`KeyError::NotAKey`] if the bytes are not the canonical form of a point of full order.
    pub fn new(name: KeyName, kind: KeyKind, public_key: [u8; 32]) -> Result<Self, KeyError> {
        let id = KeyId::compute(&name, kind, &public_key);
        match ed25519_dalek::VerifyingKey::from_bytes(&public_key) {
            Ok(point) if is_canonical(&public_key) && !point.is_weak() => Ok(Self {
                name,
                kind,
                id,
                public_key: point,
            }),
            _ => Err(KeyError::NotAKey),
        }
    }

    /// Reads a vkey: exactly the text that `Display` writes.
    ///
    /// # Errors
    ///
    /// [`KeyError`] says which field is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let fields = KeyFields::parse(text)?;
        let key = Self::new(fields.name, fields.kind, fields.key)?;
        if key.id == fields.id {
            Ok(key)
        } else {
            Err(KeyError::WrongId {
                expected: key.id,
                found: fields.id,
            })
        }
    }

    /// The name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// What the key signs.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The id of the key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key.to_bytes()
    }

    /// Checks an Ed25519 signature over exactly these bytes, refusing keys and points of small order.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let Ok(signature) = <&[u8; SIGNATURE_BYTES]>::try_from(signature) else {
            return Err(SignatureError::Length {
                expected: SIGNATURE_BYTES,
                found: signature.len(),
            });
        };
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        match self.public_key.verify_strict(message, &signature) {
            Ok(()) => Ok(()),
            Err(_) => Err(SignatureError::Invalid),
        }
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

impl fmt::Display for VerifierKey {
    /// The vkey.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = encode_key(self.kind, self.public_key.as_bytes());
        write!(f, "{}+{}+{key}", self.name, self.id)
    }
}

/// A private key with its name.
///
/// `Debug` shows the public half only. The seed in here is erased on drop; the text or bytes that it was read
/// from are not.
pub struct SigningKey {
    secret: ed25519_dalek::SigningKey,
    verifier: VerifierKey,
}

impl SigningKey {
    /// The key that a seed gives (RFC 8032: the seed is the private key).
    pub fn from_seed(name: KeyName, kind: KeyKind, seed: [u8; 32]) -> Self {
        let secret = ed25519_dalek::SigningKey::from_bytes(&seed);
        let public_key = secret.verifying_key();
        let id = KeyId::compute(&name, kind, public_key.as_bytes());
        Self {
            secret,
            verifier: VerifierKey {
                name,
                kind,
                id,
                public_key,
            },
        }
    }

    /// Reads a private key text: exactly what [`SigningKey::to_private_text`] writes.
    ///
    /// # Errors
    ///
    /// [`KeyError`] says which field is wrong, and never repeats the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text
            .strip_prefix(PRIVATE_PREFIX)
            .ok_or(KeyError::NotPrivate)?;
        let fields = KeyFields::parse(rest)?;
        let key = Self::from_seed(fields.name, fields.kind, fields.key);
        if key.verifier.id == fields.id {
            Ok(key)
        } else {
            Err(KeyError::WrongId {
                expected: key.verifier.id,
                found: fields.id,
            })
        }
    }

    /// The private key text. It holds the secret: the caller keeps it from logs and other readers.
    pub fn to_private_text(&self) -> String {
        let key = encode_key(self.verifier.kind, self.secret.as_bytes());
        format!(
            "{PRIVATE_PREFIX}{}+{}+{key}",
            self.verifier.name, self.verifier.id
        )
    }

    /// The public half.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs exactly these bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

/// Why a text or some bytes are not a key.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text does not start as a private key does.
    #[error("a private key starts with \"PRIVATE+KEY+\"")]
    NotPrivate,
    /// There are fewer than three fields.
    #[error("a key has the form name+id+base64")]
    Fields,
    /// The first field is not a key name.
    #[error("the key's name is refused")]
    Name(#[from] KeyNameError),
    /// The second field is not a key id.
    #[error("the key's id is not eight lower-case hexadecimal digits")]
    IdText,
    /// The third field is not base64.
    #[error("the key's last field is not canonical base64")]
    Base64,
    /// The third field is too short to hold a type.
    #[error("the key's last field is empty")]
    NoType,
    /// The type is none that is known here.
    #[error("the key has the unknown signature type {number:#04x}")]
    UnknownType {
        /// The type byte.
        number: u8,
    },
    /// The key after the type byte is not 32 bytes long.
    #[error("the key is {found} bytes long, not 32")]
    Length {
        /// Bytes after the type.
        found: usize,
    },
    /// The id does not belong to this name and key.
    #[error("the key's id is {found}, but its name and public key give {expected}")]
    WrongId {
        /// What the name and the key give.
        expected: KeyId,
        /// What the text says.
        found: KeyId,
    },
    /// The bytes are no Ed25519 public key, a weak one, or not written in the canonical way.
    #[error("the bytes are no canonical Ed25519 public key of full order")]
    NotAKey,
}

/// Why a signature does not count for a key.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The bytes are too short or too long for the kind of the key.
    #[error("it is {found} bytes long, not {expected}")]
    Length {
        /// What this kind of signature takes.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// A cosignature's time is past what the format allows.
    #[error("its time, {seconds} s, is past 2^63 - 1")]
    TimeTooLate {
        /// Seconds since 1970.
        seconds: u64,
    },
    /// The signature is not by this key over this message.
    #[error("it was not made by this key over this text")]
    Invalid,
}

/// The fields that both text forms share.
struct KeyFields {
    name: KeyName,
    id: KeyId,
    kind: KeyKind,
    key: [u8; KEY_BYTES],
}

impl KeyFields {
    fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, rest) = text.split_once('+').ok_or(KeyError::Fields)?;
        let (id, key) = rest.split_once('+').ok_or(KeyError::Fields)?;
        let name = KeyName::new(name)?;
        let id = parse_id(id).ok_or(KeyError::IdText)?;
        let Ok(bytes) = STANDARD.decode(key) else {
            return Err(KeyError::Base64);
        };
        let (number, key) = bytes.split_first().ok_or(KeyError::NoType)?;
        let kind = KeyKind::from_byte(*number).ok_or(KeyError::UnknownType { number: *number })?;
        match <[u8; KEY_BYTES]>::try_from(key) {
            Ok(key) => Ok(Self {
                name,
                id,
                kind,
                key,
            }),
            Err(_) => Err(KeyError::Length { found: key.len() }),
        }
    }
}

/// Whether the coordinate y, little-endian under the sign bit, is below the prime 2^255 - 19 (RFC 8032 5.1.3).
fn is_canonical(point: &[u8; KEY_BYTES]) -> bool {
    let [first, middle @ .., last] = point;
    *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || last & 0x7f != 0x7f
}

/// Eight lower-case hexadecimal digits.
fn parse_id(text: &str) -> Option<KeyId> {
    if text.len() != 8 {
        return None;
    }
    let mut value = 0_u32;
    for digit in text.bytes() {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u32::from(nibble);
    }
    Some(KeyId(value.to_be_bytes()))
}

/// The last field of both text forms.
fn encode_key(kind: KeyKind, key: &[u8; KEY_BYTES]) -> String {
    let mut bytes = [0; KEY_BYTES + 1];
    bytes[0] = kind.byte();
    bytes[1..].copy_from_slice(key);
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
