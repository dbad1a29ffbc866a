//! `stele tlog`: proofs as JSON lines, for scripts and for comparison with other implementations.
//!
//! | command | a line of standard input, all keys needed and no others |
//! |---|---|
//! | `inclusion` | `{"index":..,"size":..,"leaf_hash":hex,"root":hex,"proof":[hex,..]}` |
//! | `consistency` | `{"old_size":..,"old_root":hex,"new_size":..,"new_root":hex,"proof":[hex,..]}` |
//!
//! Numbers are integers of 64 bits, hashes 64 lower-case hexadecimal digits, a line at most 64 KiB with its line
//! feed; that bounds the proof too, and the verifier looks at its length before anything else. Each line
//! is answered before the next is read, with `ok` or `bad: why`. A line that is no such case ends the command
//! with exit code 1 and the line's number: the arguments were right, the input was not.

use std::io::{self, BufRead, Read as _};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stele_proof::tree::{Hash, ProofError, verify_consistency, verify_inclusion};
use stele_proof::{LeafIndex, TreeSize};

use crate::exit::Failure;
use crate::stream::Streams;

/// The longest line with its line feed, in bytes.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What the lines are.
#[derive(Subcommand, Clone, Copy, PartialEq, Eq, Debug)]
#[command(after_help = "\
Cases come on standard input, one JSON object a line. Hashes are 64 lower-case hexadecimal digits.
Each line is answered with `ok` or `bad: why`. The exit code is 0 when all lines could be read, whatever
the answers, and 1 at the first line that could not.

Example:
  stele tlog inclusion < cases.jsonl | grep -n bad")]
pub enum Command {
    /// Check inclusion proofs (RFC 6962 2.1.1).
    ///
    /// A line: {"index":..,"size":..,"leaf_hash":"hex","root":"hex","proof":["hex",..]}
    Inclusion,
    /// Check consistency proofs (RFC 6962 2.1.2); an old size of 0 is bad.
    ///
    /// A line: {"old_size":..,"old_root":"hex","new_size":..,"new_root":"hex","proof":["hex",..]}
    Consistency,
}

/// Answers every line of standard input.
///
/// # Errors
/// [`Failure`] with exit code 1 at the first line that is no case, or cannot be read.
pub fn run(command: Command, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Inclusion => answer::<InclusionCase>(streams),
        Command::Consistency => answer::<ConsistencyCase>(streams),
    }
}

/// A line, read.
trait Case: DeserializeOwned {
    /// What a line looks like.
    const FORM: &str;

    fn verify(&self) -> Result<(), ProofError>;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InclusionCase {
    index: u64,
    size: u64,
    leaf_hash: HexHash,
    root: HexHash,
    proof: Vec<HexHash>,
}

impl Case for InclusionCase {
    const FORM: &str = r#"{"index":..,"size":..,"leaf_hash":"hex","root":"hex","proof":["hex",..]}"#;

    fn verify(&self) -> Result<(), ProofError> {
        let (index, size) = (LeafIndex::new(self.index), TreeSize::new(self.size));
        verify_inclusion(&self.leaf_hash.0, index, size, &hashes(&self.proof), &self.root.0)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsistencyCase {
    old_size: u64,
    old_root: HexHash,
    new_size: u64,
    new_root: HexHash,
    proof: Vec<HexHash>,
}

impl Case for ConsistencyCase {
    const FORM: &str = r#"{"old_size":..,"old_root":"hex","new_size":..,"new_root":"hex","proof":["hex",..]}"#;

    fn verify(&self) -> Result<(), ProofError> {
        let (old, new) = (TreeSize::new(self.old_size), TreeSize::new(self.new_size));
        verify_consistency(old, &self.old_root.0, new, &self.new_root.0, &hashes(&self.proof))
    }
}

/// A hash as JSON carries it: a string of 64 lower-case hexadecimal digits.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct HexHash(Hash);

impl TryFrom<String> for HexHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Hash::from_hex(&text).map(Self).ok_or("a hash is 64 lower-case hexadecimal digits")
    }
}

fn hashes(proof: &[HexHash]) -> Vec<Hash> {
    proof.iter().map(|hash| hash.0).collect()
}

fn answer<C: Case>(streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut line = Vec::new();
    let mut number: u64 = 0;
    loop {
        number += 1;
        let at = || format!("standard input, line {number}");
        match read_line(&mut *streams.input, &mut line).with_context(at)? {
            Line::End => return Ok(()),
            Line::TooLong => return Err(anyhow!("the line has more than {MAX_LINE_BYTES} bytes").context(at()).into()),
            Line::Read => {}
        }
        let case = parse::<C>(&line).with_context(at)?;
        match case.verify() {
            Ok(()) => streams.line("ok")?,
            Err(error) => streams.line(format_args!("bad: {error}"))?,
        }
    }
}

fn parse<C: Case>(line: &[u8]) -> anyhow::Result<C> {
    // A derived reader would take an array for a struct.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err(anyhow!("not a JSON object, expected {}", C::FORM));
    }
    serde_json::from_slice(line).map_err(|error| {
        // serde_json counts lines within the line.
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let text = text.strip_suffix(&place).unwrap_or(&text);
        anyhow!("column {}: {text}, expected {}", error.column(), C::FORM)
    })
}

/// What came of reading a line.
enum Line {
    /// The line is there.
    Read,
    /// The input has ended.
    End,
    /// The line is longer than allowed.
    TooLong,
}

fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut bounded = input.take(MAX_LINE_BYTES + 1);
    bounded.read_until(b'\n', line)?;
    Ok(match (line.is_empty(), bounded.limit()) {
        (true, _) => Line::End,
        (false, 0) => Line::TooLong,
        (false, _) => Line::Read,
    })
}
