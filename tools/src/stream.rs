//! What a command reads and writes: the standard streams, and `FILE` or `-`.

use core::fmt;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use crate::exit::Failure;

/// The three standard streams, or what a test gives in their place.
pub struct Streams<'s> {
    /// Standard input.
    pub input: Box<dyn BufRead + Send>,
    output: &'s mut dyn Write,
    errors: &'s mut dyn Write,
}

impl<'s> Streams<'s> {
    /// Standard input, standard output and standard error.
    pub fn new(input: Box<dyn BufRead + Send>, output: &'s mut dyn Write, errors: &'s mut dyn Write) -> Self {
        Self { input, output, errors }
    }

    /// Gives standard input away, to be read on another thread.
    pub fn take_input(&mut self) -> Box<dyn BufRead + Send> {
        std::mem::replace(&mut self.input, Box::new(io::empty()))
    }

    /// Writes one line to standard output.
    ///
    /// # Errors
    /// [`Failure::output`].
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.output, "{line}").map_err(Failure::output)
    }

    /// Writes these bytes to standard output.
    ///
    /// # Errors
    /// [`Failure::output`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.output.write_all(bytes).map_err(Failure::output)
    }

    /// Sends on what standard output still holds back.
    ///
    /// # Errors
    /// [`Failure::output`].
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush().map_err(Failure::output)
    }

    /// Tells a person something, on standard error.
    pub fn tell(&mut self, text: impl fmt::Display) {
        match writeln!(self.errors, "{text}") {
            // Where standard error itself fails, nobody is left to tell; the exit code still says it.
            Ok(()) | Err(_) => {}
        }
    }
}

/// A file to read, or `-` for standard input.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// `-`.
    StandardInput,
    /// A path.
    File(PathBuf),
}

impl Source {
    /// Reads all of it, at most `limit` bytes.
    ///
    /// # Errors
    /// [`Failure`] where it cannot be opened or read, or holds more.
    pub fn read(&self, streams: &mut Streams<'_>, limit: u64) -> Result<Vec<u8>, Failure> {
        let read = match self {
            Self::StandardInput => read_bounded(&mut *streams.input, limit),
            Self::File(path) => File::open(path).and_then(|file| read_bounded(file, limit)),
        };
        let bytes = read.with_context(|| format!("cannot read {self}"))?;
        bytes.ok_or_else(|| anyhow!("{self} holds more than {limit} bytes, the most that is read here").into())
    }
}

impl From<OsString> for Source {
    fn from(argument: OsString) -> Self {
        if argument == "-" { Self::StandardInput } else { Self::File(argument.into()) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Reads to the end; `None` where there are more than `limit` bytes.
///
/// # Errors
/// What the reader answers.
pub fn read_bounded(reader: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut bounded = reader.take(limit.saturating_add(1));
    bounded.read_to_end(&mut bytes)?;
    Ok((bounded.limit() > 0).then_some(bytes))
}
