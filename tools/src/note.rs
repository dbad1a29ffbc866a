//! `stele note`: signed notes (C2SP signed-note).

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use stele_proof::key::VerifierKey;
use stele_proof::note::{MAX_NOTE_BYTES, Note, VerifyError};

use crate::exit::{Exit, Failure};
use crate::stream::{Source, Streams};

/// The most signers of a note that an error names.
const MAX_SIGNERS_NAMED: usize = 4;

/// The most characters of a signer's name that an error shows.
const MAX_NAME_SHOWN: usize = 80;

/// What to do with the note.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Print the text of a signed note, if the key has signed it.
    ///
    /// Signatures by other keys are ignored. Where the key has not signed, or its signature does not hold,
    /// nothing is printed and the exit code is 3.
    Verify(Verify),
}

/// The arguments of `stele note verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  stele note verify --key example.com/log+530d903a+AekyeR... checkpoint")]
pub struct Verify {
    /// The vkey of the signer, `name+id+base64`, as `stele keys vkey` prints it.
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The note; `-` is standard input.
    #[arg(value_name = "FILE")]
    source: Source,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`] with exit code 3 where the note does not verify, 2 where the key is none.
pub fn run(command: Command, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Verify(arguments) => verify(&arguments, streams),
    }
}

fn verify(arguments: &Verify, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let Verify { key, source } = arguments;
    let key = parse_vkey(key)?;
    let bytes = source.read(streams, MAX_NOTE_BYTES as u64)?;
    let unverified = |error: anyhow::Error| {
        Failure::new(Exit::Unverified, error.context(format!("the note in {source} does not verify")))
    };
    let note = Note::parse(&bytes).map_err(|error| unverified(error.into()))?;
    match note.verify([&key]) {
        Ok(_) => streams.bytes(note.text().as_bytes()),
        Err(VerifyError::NoKnownKey) => {
            Err(unverified(anyhow!("it is signed by {}, not by {}+{}", signers(&note), key.name(), key.id())))
        }
        Err(error) => Err(unverified(error.into())),
    }
}

/// Reads a vkey argument. The text is not repeated: it might be a private key, given by mistake.
fn parse_vkey(text: &str) -> Result<VerifierKey, Failure> {
    if text.starts_with("PRIVATE+KEY+") {
        let error = anyhow!("--key takes a vkey and was given a private key: `stele keys vkey FILE` prints its vkey");
        return Err(Failure::new(Exit::Usage, error));
    }
    VerifierKey::parse(text)
        .context("--key takes a vkey, as `stele keys vkey FILE` prints it")
        .map_err(|error| Failure::new(Exit::Usage, error))
}

/// Who claims to have signed. The names are whatever the note says, so only a part of them is shown.
fn signers(note: &Note<'_>) -> String {
    let named = note.signatures().iter().take(MAX_SIGNERS_NAMED).map(|line| {
        let name: String = line.name().as_str().chars().take(MAX_NAME_SHOWN).collect();
        format!("{name}+{}", line.key_id())
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    let more = note.signatures().len().saturating_sub(MAX_SIGNERS_NAMED);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
