//! `stele keys`: private key files and their vkeys; tokens and their hashes.
//!
//! A key file is one line, the private key text of Go's note package, `PRIVATE+KEY+name+id+base64`, and a
//! line feed (which may be missing). It is made with mode 0600, flushed before the vkey is
//! printed, and never overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand, ValueEnum};
use stele_proof::key::{KeyKind, KeyName, SigningKey};

use crate::exit::{Exit, Failure};
use crate::stream::{Source, Streams};

/// The largest key file that is read, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 4096;

/// The longest name that a key is generated for, in bytes: its file stays well below [`MAX_KEY_FILE_BYTES`].
const MAX_NAME_BYTES: usize = 1024;

/// What to do with keys.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a private key, write it to a new file, and print its vkey.
    Generate(Generate),
    /// Print the vkey of a private key: what others need to verify its signatures.
    Vkey(Vkey),
    /// Make a token for a client, write it to a new file, and print its hash: what `[[access]]` of a node takes.
    Token(Token),
}

/// The arguments of `stele keys token`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  stele keys token -o billing.token
  # in the configuration of every node:
  #   [[access]]
  #   token = \"b3:...\"
  #   roles = [\"writer\"]
  #   writers = [\"billing\"]
  #   streams = [\"invoices-*\"]
  stele append --token-file billing.token --endpoint a.example.com:7070 --ca ca.pem --jsonl FILE")]
pub struct Token {
    /// The file to write, with mode 0600; it must not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// The arguments of `stele keys generate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  stele keys generate --name example.com/log -o log.key
  stele keys generate --name example.com/log/site/paris/2 --type cosigner -o cosigner.key")]
pub struct Generate {
    /// The name of the key; a log's key has the log's origin as its name.
    #[arg(long)]
    name: String,
    /// What the key will sign.
    #[arg(long = "type", value_enum, default_value_t = Kind::Log)]
    kind: Kind,
    /// The file to write, with mode 0600; it must not exist yet.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// The arguments of `stele keys vkey`.
#[derive(Args, Debug)]
pub struct Vkey {
    /// The private key file; `-` is standard input.
    #[arg(value_name = "FILE")]
    source: Source,
}

/// What a key signs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Checkpoints of a log (type 01, Ed25519).
    Log,
    /// Checkpoints that it has seen, with the time (type 04, Ed25519).
    Cosigner,
}

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Log => Self::Ed25519,
            Kind::Cosigner => Self::CosignatureEd25519,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`] with exit code 2 where the name is none, 1 where a file cannot be read or written.
pub fn run(command: Command, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Generate(arguments) => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).context("the operating system gives no randomness")?;
            generate(&arguments, seed, streams)
        }
        Command::Vkey(arguments) => vkey(&arguments.source, streams),
        Command::Token(Token { output }) => {
            let mut token = [0; 32];
            getrandom::fill(&mut token).context("the operating system gives no randomness")?;
            let token = URL_SAFE_NO_PAD.encode(token);
            write_secret_file(&output, &token)?;
            streams.line(format_args!("b3:{}", blake3::hash(token.as_bytes())))
        }
    }
}

fn generate(arguments: &Generate, seed: [u8; 32], streams: &mut Streams<'_>) -> Result<(), Failure> {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let Generate { name, kind, output } = arguments;
    if name.len() > MAX_NAME_BYTES {
        return Err(usage(anyhow!("--name has {} bytes, more than {MAX_NAME_BYTES}", name.len())));
    }
    if output.as_os_str() == "-" {
        return Err(usage(anyhow!("a private key is not written to standard output: -o names a new file")));
    }
    let name = KeyName::new(name).context("--name is refused").map_err(usage)?;
    let key = SigningKey::from_seed(name, (*kind).into(), seed);
    write_secret_file(output, &key.to_private_text())?;
    streams.line(key.verifier_key())
}

fn vkey(source: &Source, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let bytes = source.read(streams, MAX_KEY_FILE_BYTES)?;
    // The bytes may hold a secret, so errors never repeat them.
    let text = core::str::from_utf8(&bytes).with_context(|| format!("{source} is not a private key file"))?;
    let key = SigningKey::parse(text.strip_suffix('\n').unwrap_or(text));
    let key = key.with_context(|| format!("{source} is not a private key file"))?;
    streams.line(key.verifier_key())
}

/// Writes a line to a new file. When this returns, file and name are durable; on an error there is no file.
fn write_secret_file(path: &Path, secret: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{} exists already, and a key is never overwritten: choose another file", path.display())
        }
        _ => anyhow::Error::new(error).context(format!("cannot create {}", path.display())),
    })?;
    let Err(error) = fill_file(file, path, secret) else {
        return Ok(());
    };
    let error = anyhow::Error::new(error).context(format!("cannot write {}", path.display()));
    match fs::remove_file(path) {
        Ok(()) => Err(error.into()),
        Err(remains) => Err(anyhow!("{error:#}; remove the unfinished file: {remains}").into()),
    }
}

fn fill_file(mut file: File, path: &Path, secret: &str) -> io::Result<()> {
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
