//! Signed notes (C2SP signed-note v1.0.0): a text and the lines that sign it.
//!
//! | part | bytes |
//! |---|---|
//! | text | UTF-8, no control character below U+0020 but LF; ends in LF; may hold empty lines |
//! | empty line | LF; the last one of the note separates text and signatures |
//! | 1 to 64 signature lines | U+2014, space, key name, space, base64(key id, signature), LF |
//!
//! A note is at most [`MAX_NOTE_BYTES`] long. Signatures by unknown keys are ignored, whatever their type;
//! a known key's signature that fails, or a second line by it, makes the whole note refused.
//!
//! Why not the `signed_note` crate: version 0.2 has no cosignatures (type 04), and the tests here show that
//! it takes key ids in upper case, keys of small order (under which anybody can sign) and a failing second
//! signature by a known key; so it is what the tests compare with.

use core::fmt;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::cosignature;
use crate::key::{KeyId, KeyKind, KeyName, KeyNameError, SignatureError, SigningKey, VerifierKey};
use crate::number::UnixSeconds;

/// The largest note that is read or written, in bytes.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// The most signature lines that a note may have.
pub const MAX_SIGNATURES: usize = 64;

/// What a signature line starts with: an em dash and a space.
const LINE_PREFIX: &str = "\u{2014} ";

/// Length of the key id in front of a signature, in bytes.
const ID_BYTES: usize = 4;

/// A text with its signature lines, well-formed but not verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<SignatureLine>,
}

impl<'a> Note<'a> {
    /// Puts a note together.
    ///
    /// # Errors
    ///
    /// [`NoteError`] if the text or the number of lines breaks a rule, if two lines are by one key, or if the
    /// whole would be too long.
    pub fn new(text: &'a str, signatures: Vec<SignatureLine>) -> Result<Self, NoteError> {
        check_text(text)?;
        if signatures.is_empty() {
            return Err(NoteError::NoSignature);
        }
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures {
                limit: MAX_SIGNATURES,
            });
        }
        for (position, line) in signatures.iter().enumerate() {
            if signatures[..position]
                .iter()
                .any(|other| other.key() == line.key())
            {
                return Err(NoteError::Repeated {
                    name: line.name.clone(),
                    id: line.key_id,
                });
            }
        }
        let note = Self { text, signatures };
        check_length(note.to_string().len())?;
        Ok(note)
    }

    /// Reads a note: exactly what `Display` writes, and also repeated lines of one key, which may be unknown
    /// to the reader and must then be ignored.
    ///
    /// # Errors
    ///
    /// [`NoteError`] says which rule the bytes break, and on which line.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoteError> {
        check_length(bytes.len())?;
        let whole = core::str::from_utf8(bytes).map_err(|error| NoteError::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        check_text(whole)?;
        let split = whole.rfind("\n\n").ok_or(NoteError::NoEmptyLine)?;
        let (text, rest) = (&whole[..=split], &whole[split + 2..]);
        if rest.is_empty() {
            return Err(NoteError::NoSignature);
        }
        let first_line = text.bytes().filter(|byte| *byte == b'\n').count() + 2;
        let mut signatures = Vec::new();
        for (position, line) in rest.split_terminator('\n').enumerate() {
            if position == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures {
                    limit: MAX_SIGNATURES,
                });
            }
            let parsed = SignatureLine::parse(line).map_err(|source| NoteError::Line {
                line: first_line + position,
                source,
            })?;
            signatures.push(parsed);
        }
        Ok(Self { text, signatures })
    }

    /// The text, with its final line feed.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The signature lines, in the order of the note.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// This note with one more signature line at the end.
    ///
    /// # Errors
    ///
    /// As for [`Note::new`].
    pub fn with_signature(mut self, line: SignatureLine) -> Result<Self, NoteError> {
        self.signatures.push(line);
        Self::new(self.text, self.signatures)
    }

    /// Checks every signature by a known key and tells which keys signed, in the order of the note.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] if a known key's signature fails or occurs twice, if no known key signed, or if two of
    /// the known keys share name and id.
    pub fn verify<'k>(
        &self,
        known: impl IntoIterator<Item = &'k VerifierKey>,
    ) -> Result<Vec<VerifiedSignature<'k>>, VerifyError> {
        let mut keys = BTreeMap::new();
        for key in known {
            if keys.insert((key.name(), key.id()), key).is_some() {
                return Err(VerifyError::Ambiguous {
                    name: key.name().clone(),
                    id: key.id(),
                });
            }
        }
        let mut verified: Vec<VerifiedSignature<'k>> = Vec::new();
        for line in &self.signatures {
            let Some(key) = keys.get(&line.key()).copied() else {
                continue;
            };
            let (name, id) = (line.name.clone(), line.key_id);
            if verified
                .iter()
                .any(|other| (other.key.name(), other.key.id()) == line.key())
            {
                return Err(VerifyError::Repeated { name, id });
            }
            let time = verify_line(self.text, line, key)
                .map_err(|source| VerifyError::Invalid { name, id, source })?;
            verified.push(VerifiedSignature { key, time });
        }
        if verified.is_empty() {
            return Err(VerifyError::NoKnownKey);
        }
        Ok(verified)
    }
}

impl fmt::Display for Note<'_> {
    /// The bytes of the note.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// One signature line: who claims to have signed, and the bytes that claim it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureLine {
    name: KeyName,
    key_id: KeyId,
    signature: Vec<u8>,
}

impl SignatureLine {
    /// Puts a line together; the signature is what follows the key id (for type 04, the time and the rest).
    ///
    /// # Errors
    ///
    /// [`LineError::Short`] if the signature is empty.
    pub fn new(name: KeyName, key_id: KeyId, signature: Vec<u8>) -> Result<Self, LineError> {
        if signature.is_empty() {
            return Err(LineError::Short { found: ID_BYTES });
        }
        Ok(Self {
            name,
            key_id,
            signature,
        })
    }

    /// The line of a key that is known to have made the signature.
    pub(crate) fn by(key: &VerifierKey, signature: Vec<u8>) -> Self {
        Self {
            name: key.name().clone(),
            key_id: key.id(),
            signature,
        }
    }

    /// Reads a line, without its line feed.
    ///
    /// # Errors
    ///
    /// [`LineError`] says what is wrong.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        let rest = line.strip_prefix(LINE_PREFIX).ok_or(LineError::Prefix)?;
        let (name, blob) = rest.split_once(' ').ok_or(LineError::Fields)?;
        let name = KeyName::new(name)?;
        let Ok(blob) = STANDARD.decode(blob) else {
            return Err(LineError::Base64);
        };
        let (id, signature) = blob
            .split_first_chunk::<ID_BYTES>()
            .ok_or(LineError::Short { found: blob.len() })?;
        Self::new(name, KeyId::new(*id), signature.to_vec())
    }

    /// The name of the key.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id of the key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The bytes after the key id.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// What identifies the key.
    fn key(&self) -> (&KeyName, KeyId) {
        (&self.name, self.key_id)
    }
}

impl fmt::Display for SignatureLine {
    /// The line, without a line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [&self.key_id.bytes(), self.signature.as_slice()].concat();
        write!(f, "{LINE_PREFIX}{} {}", self.name, STANDARD.encode(blob))
    }
}

/// A signature that was checked and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifiedSignature<'k> {
    key: &'k VerifierKey,
    time: Option<UnixSeconds>,
}

impl<'k> VerifiedSignature<'k> {
    /// The key that signed.
    pub fn key(&self) -> &'k VerifierKey {
        self.key
    }

    /// When, by the signer's clock: only a cosignature (type 04) tells.
    pub fn time(&self) -> Option<UnixSeconds> {
        self.time
    }
}

/// Signs a text with keys of type 01, in this order, and returns the note.
///
/// # Errors
///
/// [`NoteError`] as for [`Note::new`], and [`NoteError::NeedsTime`] for a key of type 04, which signs
/// checkpoints only ([`cosignature::cosign`]).
pub fn sign(text: &str, keys: &[&SigningKey]) -> Result<String, NoteError> {
    let lines = keys
        .iter()
        .map(|key| signature_line(text, key))
        .collect::<Result<_, _>>()?;
    Ok(Note::new(text, lines)?.to_string())
}

/// The line with which a key of type 01 signs a text.
///
/// # Errors
///
/// [`NoteError`] if the text breaks a rule of notes, or if the key is of type 04.
pub fn signature_line(text: &str, key: &SigningKey) -> Result<SignatureLine, NoteError> {
    check_text(text)?;
    let verifier = key.verifier_key();
    match verifier.kind() {
        KeyKind::Ed25519 => Ok(SignatureLine::by(
            verifier,
            key.sign(text.as_bytes()).to_vec(),
        )),
        KeyKind::CosignatureEd25519 => Err(NoteError::NeedsTime {
            name: verifier.name().clone(),
        }),
    }
}

/// Why bytes are not a note, or a note cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is larger than [`MAX_NOTE_BYTES`].
    #[error("the note is {found} bytes long, more than {limit}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// The bytes are not UTF-8.
    #[error("the note is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// There is a control character other than the line feed.
    #[error("line {line} of the note holds the control character {character:?}")]
    Control {
        /// Line, from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// The last line is not ended.
    #[error("the note does not end in a line feed")]
    NoFinalLineFeed,
    /// Nothing separates a text from signatures.
    #[error("no empty line separates text and signatures")]
    NoEmptyLine,
    /// There is no signature line.
    #[error("no signature line follows the last empty line")]
    NoSignature,
    /// There are too many signature lines.
    #[error("the note has more than {limit} signature lines")]
    TooManySignatures {
        /// The bound.
        limit: usize,
    },
    /// A signature line is malformed.
    #[error("line {line} of the note is no signature line")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// Two lines would be by one key.
    #[error("two signature lines would be by the key {name}+{id}")]
    Repeated {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
    },
    /// A key of type 04 was asked to sign a plain note.
    #[error("the key {name} signs checkpoints with a time, not plain notes")]
    NeedsTime {
        /// The key's name.
        name: KeyName,
    },
}

/// Why a line is not a signature line.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum LineError {
    /// The line starts with something else.
    #[error("it does not start with an em dash and a space")]
    Prefix,
    /// There is no space after the name.
    #[error("it has no space between name and signature")]
    Fields,
    /// The name breaks a rule.
    #[error("the key's name is refused")]
    Name(#[from] KeyNameError),
    /// The signature is not base64.
    #[error("the signature is not canonical base64")]
    Base64,
    /// The signature is shorter than a key id and one byte.
    #[error("key id and signature are {found} bytes long, fewer than 5")]
    Short {
        /// Bytes that are there.
        found: usize,
    },
}

/// Why a well-formed note is not to be believed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Two of the reader's keys cannot be told apart.
    #[error("two known keys are named {name}+{id}")]
    Ambiguous {
        /// The name of both.
        name: KeyName,
        /// The id of both.
        id: KeyId,
    },
    /// A known key has signed twice.
    #[error("the note has two signature lines by {name}+{id}")]
    Repeated {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
    },
    /// A known key's signature does not hold.
    #[error("the signature by {name}+{id} does not hold")]
    Invalid {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
        /// Why.
        source: SignatureError,
    },
    /// No signature is by a known key.
    #[error("no known key has signed the note")]
    NoKnownKey,
}

/// Checks one line by its key.
fn verify_line(
    text: &str,
    line: &SignatureLine,
    key: &VerifierKey,
) -> Result<Option<UnixSeconds>, SignatureError> {
    match key.kind() {
        KeyKind::Ed25519 => key.verify(text.as_bytes(), &line.signature).map(|()| None),
        KeyKind::CosignatureEd25519 => cosignature::verify(text, key, &line.signature).map(Some),
    }
}

fn check_length(found: usize) -> Result<(), NoteError> {
    if found > MAX_NOTE_BYTES {
        return Err(NoteError::TooLong {
            found,
            limit: MAX_NOTE_BYTES,
        });
    }
    Ok(())
}

/// The rules that hold for a text and for a whole note alike.
fn check_text(text: &str) -> Result<(), NoteError> {
    let mut line = 1;
    for character in text.chars() {
        match character {
            '\n' => line += 1,
            '\0'..='\u{1f}' => return Err(NoteError::Control { line, character }),
            _ => {}
        }
    }
    if text.ends_with('\n') {
        Ok(())
    } else {
        Err(NoteError::NoFinalLineFeed)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
