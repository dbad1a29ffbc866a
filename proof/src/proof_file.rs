//! Proof files (C2SP tlog-proof, `*.tlog-proof`): that a leaf is in a log, checkable offline.
//!
//! | line | field |
//! |---|---|
//! | 1 | `c2sp.org/tlog-proof@v1` |
//! | optional | `extra `, base64 of 1 to [`MAX_EXTRA_BYTES`] bytes that nothing authenticates |
//! | next | `index `, the leaf's index, decimal, no leading zero |
//! | 0 to [`MAX_HASHES`] | base64 of 32 bytes: the inclusion proof (RFC 6962 2.1.1), the leaf's sibling first |
//! | empty | |
//! | to the end | the signed checkpoint, byte for byte |
//!
//! Every line ends in a line feed. The leaf is not in the file: who verifies computes it from the record.

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::note::{MAX_NOTE_BYTES, Note, NoteError};
use crate::number::LeafIndex;
use crate::policy::{Policy, PolicyError, VerifiedCheckpoint};
use crate::tree::{Hash, ProofError, verify_inclusion};

/// The most extra data that a proof file may carry, in bytes.
pub const MAX_EXTRA_BYTES: usize = 1 << 16;

/// The most hashes of an inclusion proof: a tree of fewer than 2^63 leaves needs no more.
pub const MAX_HASHES: usize = 63;

/// The largest proof file that is read, in bytes: every part at its largest.
pub const MAX_PROOF_FILE_BYTES: usize = HEADER.len()
    + EXTRA.len()
    + MAX_EXTRA_BYTES.div_ceil(3) * 4
    + 1
    + INDEX.len()
    + 20
    + 1
    + MAX_HASHES * 45
    + 1
    + MAX_NOTE_BYTES;

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1\n";

/// What the optional second line starts with.
const EXTRA: &str = "extra ";

/// What the next line starts with.
const INDEX: &str = "index ";

/// A leaf's index, its inclusion proof and the checkpoint it leads to; well-formed but not verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProofFile {
    extra: Option<Vec<u8>>,
    index: LeafIndex,
    hashes: Vec<Hash>,
    checkpoint: String,
}

impl ProofFile {
    /// Puts a proof file together; the checkpoint is the whole signed note.
    ///
    /// # Errors
    ///
    /// [`ProofFileError`] if the extra data is empty or too long, there are too many hashes, or the
    /// checkpoint is not one.
    pub fn new(
        extra: Option<Vec<u8>>,
        index: LeafIndex,
        hashes: Vec<Hash>,
        checkpoint: String,
    ) -> Result<Self, ProofFileError> {
        if let Some(extra) = &extra
            && !(1..=MAX_EXTRA_BYTES).contains(&extra.len())
        {
            return Err(ProofFileError::ExtraLength {
                found: extra.len(),
                limit: MAX_EXTRA_BYTES,
            });
        }
        if hashes.len() > MAX_HASHES {
            return Err(ProofFileError::TooManyHashes { limit: MAX_HASHES });
        }
        let note = Note::parse(checkpoint.as_bytes())?;
        Checkpoint::parse(note.text())?;
        Ok(Self {
            extra,
            index,
            hashes,
            checkpoint,
        })
    }

    /// Reads a proof file: exactly what `Display` writes.
    ///
    /// # Errors
    ///
    /// [`ProofFileError`] says what is wrong, and on which line.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofFileError> {
        if bytes.len() > MAX_PROOF_FILE_BYTES {
            let (found, limit) = (bytes.len(), MAX_PROOF_FILE_BYTES);
            return Err(ProofFileError::TooLong { found, limit });
        }
        let text = core::str::from_utf8(bytes).map_err(|error| ProofFileError::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        let rest = text.strip_prefix(HEADER).ok_or(ProofFileError::Header)?;
        let (extra, rest, number) = match rest.strip_prefix(EXTRA) {
            Some(rest) => {
                let (extra, rest) = line(rest, 2)?;
                let Ok(extra) = STANDARD.decode(extra) else {
                    return Err(ProofFileError::ExtraText);
                };
                (Some(extra), rest, 3)
            }
            None => (None, rest, 2),
        };
        let (index, mut rest) = line(rest, number)?;
        let index = index
            .strip_prefix(INDEX)
            .and_then(parse_decimal)
            .map(LeafIndex::new);
        let index = index.ok_or(ProofFileError::Index { line: number })?;
        let mut hashes = Vec::new();
        loop {
            let number = number + 1 + hashes.len();
            let (hash, after) = line(rest, number)?;
            rest = after;
            if hash.is_empty() {
                return Self::new(extra, index, hashes, rest.to_owned());
            }
            if hashes.len() == MAX_HASHES {
                return Err(ProofFileError::TooManyHashes { limit: MAX_HASHES });
            }
            hashes.push(Hash::from_base64(hash).ok_or(ProofFileError::Hash { line: number })?);
        }
    }

    /// Data that came with the proof and that nothing authenticates.
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// Where the leaf is said to be.
    pub fn index(&self) -> LeafIndex {
        self.index
    }

    /// The inclusion proof, the leaf's sibling first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// The signed checkpoint, byte for byte.
    pub fn checkpoint(&self) -> &str {
        &self.checkpoint
    }

    /// Checks that the policy accepts the checkpoint, and that the leaf is at the index in its tree.
    ///
    /// # Errors
    ///
    /// [`ProofFileError::Policy`] and [`ProofFileError::Inclusion`] tell which of the two fails.
    pub fn verify(
        &self,
        leaf: &Hash,
        policy: &Policy,
    ) -> Result<VerifiedCheckpoint, ProofFileError> {
        let verified = policy.verify_checkpoint(self.checkpoint.as_bytes())?;
        let Checkpoint { size, root, .. } = verified.checkpoint();
        verify_inclusion(leaf, self.index, *size, &self.hashes, root)?;
        Ok(verified)
    }
}

impl fmt::Display for ProofFile {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        if let Some(extra) = &self.extra {
            writeln!(f, "{EXTRA}{}", STANDARD.encode(extra))?;
        }
        writeln!(f, "{INDEX}{}", self.index)?;
        self.hashes
            .iter()
            .try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Why a proof file is malformed, or proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProofFileError {
    /// The file is larger than [`MAX_PROOF_FILE_BYTES`].
    #[error("the proof file is {found} bytes long, more than {limit}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// The bytes are not UTF-8.
    #[error("the proof file is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// The first line is another one.
    #[error("line 1 of the proof file is not \"c2sp.org/tlog-proof@v1\"")]
    Header,
    /// A line is missing or not ended.
    #[error("line {line} of the proof file is missing or not ended by a line feed")]
    Missing {
        /// Line, from 1.
        line: usize,
    },
    /// The extra data is not base64.
    #[error("line 2 of the proof file: the extra data is not canonical base64")]
    ExtraText,
    /// The extra data is empty or too long.
    #[error("the extra data of the proof file is {found} bytes long, not 1 to {limit}")]
    ExtraLength {
        /// Its length in bytes.
        found: usize,
        /// The bound.
        limit: usize,
    },
    /// There is no index where it belongs.
    #[error(
        "line {line} of the proof file is not \"index\" and a decimal number without leading zeros"
    )]
    Index {
        /// Line, from 1.
        line: usize,
    },
    /// A hash of the inclusion proof is malformed.
    #[error("line {line} of the proof file is no hash: canonical base64 of 32 bytes")]
    Hash {
        /// Line, from 1.
        line: usize,
    },
    /// The inclusion proof is too long.
    #[error("the proof file has more than {limit} hashes")]
    TooManyHashes {
        /// The bound.
        limit: usize,
    },
    /// What follows the empty line is not a signed note.
    #[error("the proof file ends in a malformed note")]
    Note(#[from] NoteError),
    /// The note is not a checkpoint.
    #[error("the proof file ends in a malformed checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The policy does not accept the checkpoint.
    #[error("the policy does not accept the checkpoint of the proof file")]
    Policy(#[from] PolicyError),
    /// The leaf is not where the file says.
    #[error("the proof file does not prove that the leaf is in the tree")]
    Inclusion(#[from] ProofError),
}

/// Takes a line off a text.
fn line(text: &str, line: usize) -> Result<(&str, &str), ProofFileError> {
    text.split_once('\n')
        .ok_or(ProofFileError::Missing { line })
}

#[cfg(test)]
mod tests;
