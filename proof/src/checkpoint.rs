//! Checkpoints (C2SP tlog-checkpoint): the text by which a log states its size and root.
//!
//! | line | field |
//! |---|---|
//! | 1 | origin: the log's name, which is also the name of its keys |
//! | 2 | tree size, decimal, no leading zero |
//! | 3 | root of the tree (RFC 6962 2.1), base64 of 32 bytes |
//!
//! Every line ends in a line feed. The specification allows extension lines after these and recommends
//! against them; the encoder writes none, so the decoder refuses them. A checkpoint counts only as the text
//! of a note that was verified ([`crate::policy::Policy::verify_checkpoint`]).

use core::fmt;

use thiserror::Error;

use crate::key::{KeyName, KeyNameError};
use crate::number::TreeSize;
use crate::tree::Hash;

/// The name of a log: not empty, no Unicode space, no `+`, no control character, as for [`KeyName`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin(KeyName);

impl Origin {
    /// Checks the rules for names.
    ///
    /// # Errors
    ///
    /// [`KeyNameError`] says which rule the text breaks.
    pub fn new(origin: &str) -> Result<Self, KeyNameError> {
        KeyName::new(origin).map(Self)
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The name that every log key of this origin has.
    pub fn key_name(&self) -> &KeyName {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size and root of one log's tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// How many leaves its tree has.
    pub size: TreeSize,
    /// The root of that tree.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a checkpoint: exactly the text that `Display` writes.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let (origin, rest) = line(text, 1)?;
        let (size, rest) = line(rest, 2)?;
        let (root, rest) = line(rest, 3)?;
        if !rest.is_empty() {
            return Err(CheckpointError::Extension);
        }
        Ok(Self {
            origin: Origin::new(origin)?,
            size: parse_decimal(size)
                .map(TreeSize::new)
                .ok_or(CheckpointError::Size)?,
            root: Hash::from_base64(root).ok_or(CheckpointError::Root)?,
        })
    }
}

impl fmt::Display for Checkpoint {
    /// The text of the note: three lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\n{}\n{}",
            self.origin,
            self.size,
            self.root.to_base64()
        )
    }
}

/// Why a text is not a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A line is missing or not ended.
    #[error("line {line} of the checkpoint is missing or not ended by a line feed")]
    Missing {
        /// Line, from 1.
        line: usize,
    },
    /// Line 1 is not an origin.
    #[error("line 1 of the checkpoint is no origin")]
    Origin(#[from] KeyNameError),
    /// Line 2 is not a tree size.
    #[error("line 2 of the checkpoint is no tree size: decimal, below 2^64, no leading zero")]
    Size,
    /// Line 3 is not a root.
    #[error("line 3 of the checkpoint is no root: canonical base64 of 32 bytes")]
    Root,
    /// Something follows the root.
    #[error("line 4 of the checkpoint: lines after the root are refused")]
    Extension,
}

/// Takes a line off a text.
fn line(text: &str, line: usize) -> Result<(&str, &str), CheckpointError> {
    text.split_once('\n')
        .ok_or(CheckpointError::Missing { line })
}

/// Reads what the `Display` of a `u64` writes, and nothing else.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0'))
    {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests;
