//! Checkpoints over the records of one chain, signed by the host and handed to it.
//!
//! The root is that of the digest tree (`stele_proof::digest_tree`) over the `self_hash`es of the records from
//! [`SeqRange::first`] to [`SeqRange::last`]. Ranges follow each other without gap, and so do the checkpoints of one
//! manifest and of the next, so who holds all manifests knows that no record is missing between them.
//!
//! What is signed ([`Checkpoint::signed_text`]), each line ended by a line feed:
//!
//! | line | holds |
//! |---|---|
//! | 1 | `stele-export/v1` |
//! | 2, 3 | stream and writer, escaped as in the record |
//! | 4 | first and last `seq`, decimal, one space between them |
//! | 5 | the root: `b3:` and 64 hexadecimal digits |
//! | 6, 7 | `signer_key_id`, `alg` |
//!
//! `seeds/003` (API, INTEROP) leaves open what is signed, and its checkpoint does not name its chain; here it does, so
//! that one chain's checkpoint cannot be shown for another's. This crate holds no key for it: the host signs.

use std::io;

use stele_proof::UnixMillis;
use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::record::{Record, RecordError, SelfHash};

use crate::chains::ChainError;

/// Numbers of a chain, both ends included. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SeqRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// What a host signed about a range of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The chain's stream, escaped as in the record.
    pub stream: String,
    /// The chain's writer, escaped as in the record.
    pub writer_id: String,
    /// Which records.
    pub range: SeqRange,
    /// The root over their hashes.
    pub root: Digest,
    /// Whose key signed.
    pub signer_key_id: String,
    /// How.
    pub alg: String,
    /// The signature of [`Checkpoint::signed_text`].
    pub sig: Vec<u8>,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn signed_text(&self) -> String {
        let Self { stream, writer_id, range: SeqRange { first, last }, root, signer_key_id, alg, sig: _ } = self;
        format!("stele-export/v1\n{stream}\n{writer_id}\n{first} {last}\n{root}\n{signer_key_id}\n{alg}\n")
    }
}

/// What one export holds: checkpoints of one chain, without gap.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this manifest: 1.
    pub version: u32,
    /// The chain's stream, escaped as in the record.
    pub stream: String,
    /// The chain's writer, escaped as in the record.
    pub writer_id: String,
    /// The checkpoints in order.
    pub checkpoints: Vec<Checkpoint>,
    /// When it was made.
    pub created_ts_ms: UnixMillis,
}

impl Manifest {
    /// All records of the export.
    pub fn range(&self) -> Option<SeqRange> {
        let (first, last) = (self.checkpoints.first()?, self.checkpoints.last()?);
        Some(SeqRange { first: first.range.first, last: last.range.last })
    }
}

/// Where a host keeps what is exported. An error leaves the exporter where it was: the same call is made again.
pub trait ExportSink: Send + Sync {
    /// Keeps a manifest.
    ///
    /// # Errors
    /// What went wrong.
    fn write_manifest(&self, manifest: &Manifest) -> io::Result<()>;

    /// Keeps a checkpoint. It may be handed over again after an error of anybody, and is then the same.
    ///
    /// # Errors
    /// What went wrong.
    fn write_checkpoint(&self, checkpoint: &Checkpoint) -> io::Result<()>;
}

/// A host's key.
pub trait CheckpointSigner: Send + Sync {
    /// Its name; one line.
    fn signer_key_id(&self) -> &str;

    /// How it signs; one line.
    fn alg(&self) -> &str;

    /// Signs.
    ///
    /// # Errors
    /// What went wrong.
    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>>;
}

/// Why a record was not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The bytes are no record.
    #[error("Schema: {0}")]
    Schema(#[from] RecordError),
    /// The record belongs to another chain than those before it.
    #[error("the record belongs to another chain than the exporter's")]
    OtherChain,
    /// The record does not follow the one before it.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The signer's name or algorithm is empty or has several lines.
    #[error("signer_key_id and alg must be one line each")]
    Signer,
    /// The host could not sign or keep what it was given.
    #[error("Io: {0}")]
    Io(#[from] io::Error),
}

/// Turns the records of one chain, in order, into checkpoints; memory does not grow with their number but with that of
/// the checkpoints of one manifest.
pub struct Exporter<'h> {
    sink: &'h dyn ExportSink,
    signer: &'h dyn CheckpointSigner,
    checkpoint_every: u64,
    chain: Option<Chain>,
    manifest: Vec<Checkpoint>,
}

struct Chain {
    stream: String,
    writer_id: String,
    seq: u64,
    head: SelfHash,
    /// The first record that no checkpoint covers yet.
    first: u64,
    tree: DigestTree,
}

impl<'h> Exporter<'h> {
    /// An exporter that makes a checkpoint after so many records (at least 1).
    ///
    /// # Errors
    /// [`ExportError::Signer`].
    pub fn new(
        sink: &'h dyn ExportSink,
        signer: &'h dyn CheckpointSigner,
        checkpoint_every: u64,
    ) -> Result<Self, ExportError> {
        let is_line = |text: &str| !text.is_empty() && !text.contains(['\n', '\r']);
        if !is_line(signer.signer_key_id()) || !is_line(signer.alg()) {
            return Err(ExportError::Signer);
        }
        Ok(Self { sink, signer, checkpoint_every: checkpoint_every.max(1), chain: None, manifest: Vec::new() })
    }

    /// Takes the next record of the chain. The first one may have any number.
    ///
    /// # Errors
    /// [`ExportError`]. Where a checkpoint could not be signed or kept, the record was taken and the checkpoint is made
    /// with the next record or [`Exporter::finish`].
    pub fn push(&mut self, canonical: &[u8]) -> Result<(), ExportError> {
        let record = Record::parse(canonical)?;
        let self_hash = record.self_hash();
        let (stream, writer_id) = (record.stream().escaped(), record.writer_id().escaped());
        let seq = record.seq();
        let chain = match &mut self.chain {
            Some(chain) => chain,
            none => none.insert(Chain {
                stream: stream.to_owned(),
                writer_id: writer_id.to_owned(),
                seq: seq - 1,
                head: record.prev().unwrap_or(self_hash),
                first: seq,
                tree: DigestTree::new(),
            }),
        };
        if chain.stream != stream || chain.writer_id != writer_id {
            return Err(ExportError::OtherChain);
        }
        if seq != chain.seq + 1 {
            return Err(ChainError::SeqGap { expected: chain.seq + 1, found: seq }.into());
        }
        if record.prev().is_some_and(|prev| prev != chain.head) {
            return Err(ChainError::LinkMismatch { expected: chain.head }.into());
        }
        (chain.seq, chain.head) = (seq, self_hash);
        chain.tree.push(*self_hash.as_bytes());
        if chain.tree.leaves() >= self.checkpoint_every { self.checkpoint() } else { Ok(()) }
    }

    /// Makes a checkpoint over the records since the last one, where there are any.
    fn checkpoint(&mut self) -> Result<(), ExportError> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let Some(root) = chain.tree.root() else { return Ok(()) };
        let mut checkpoint = Checkpoint {
            stream: chain.stream.clone(),
            writer_id: chain.writer_id.clone(),
            range: SeqRange { first: chain.first, last: chain.seq },
            root,
            signer_key_id: self.signer.signer_key_id().to_owned(),
            alg: self.signer.alg().to_owned(),
            sig: Vec::new(),
        };
        checkpoint.sig = self.signer.sign(checkpoint.signed_text().as_bytes())?;
        self.sink.write_checkpoint(&checkpoint)?;
        self.manifest.push(checkpoint);
        chain.first = chain.seq + 1;
        chain.tree = DigestTree::new();
        Ok(())
    }

    /// Makes the last checkpoint and the manifest over all since the last manifest; the chain goes on behind it.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn finish(&mut self, created_ts_ms: UnixMillis) -> Result<Option<Manifest>, ExportError> {
        self.checkpoint()?;
        let (Some(chain), false) = (&self.chain, self.manifest.is_empty()) else { return Ok(None) };
        let manifest = Manifest {
            version: 1,
            stream: chain.stream.clone(),
            writer_id: chain.writer_id.clone(),
            checkpoints: self.manifest.clone(),
            created_ts_ms,
        };
        self.sink.write_manifest(&manifest)?;
        self.manifest.clear();
        Ok(Some(manifest))
    }
}
