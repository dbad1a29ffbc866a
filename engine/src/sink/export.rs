//! Checkpoints over the records of one chain, signed by the host and handed to it.
//!
//! Ranges, roots and what is signed are those of an export ([`stele_proof::interop`], `docs/interop.md`): a checkpoint
//! that is made here while a program runs, with `alg` ed25519, is the one that `stele export interop` makes of the same
//! records later. What is signed names the chain, so one chain's checkpoint cannot be shown for another's; `seeds/003`
//! (API, INTEROP) leaves that open. This crate holds no key for it: the host signs.
//!
//! Ranges follow each other without gap, and so do the checkpoints of one manifest and of the next, so who holds all
//! manifests knows that no record is missing between them.

use std::collections::VecDeque;
use std::io;

use stele_proof::UnixMillis;
use stele_proof::digest_tree::Digest;
use stele_proof::interop::{BatchCheck, ChainName, SeqRange};
use stele_proof::record::{Record, RecordError, VerifyError};

/// Most records of a checkpoint.
const MAX_RECORDS: u64 = 1 << 31;

/// What a host signed about a range of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The chain's stream.
    pub stream: String,
    /// The chain's writer.
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
        ChainName { stream: &self.stream, writer_id: &self.writer_id }.signed_text(self.range, &self.root)
    }
}

/// What one export holds: checkpoints of one chain, without gap.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this manifest: 1.
    pub version: u32,
    /// The chain's stream.
    pub stream: String,
    /// The chain's writer.
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
        SeqRange::new(first.range.first(), last.range.last())
    }
}

/// Where a host keeps what is exported. What could not be kept stays with the exporter, which hands it over again with
/// the next [`Exporter::push`] or [`Exporter::finish`].
pub trait ExportSink: Send + Sync {
    /// Keeps a manifest. After an error the next [`Exporter::finish`] makes it anew: with its own time, and with the
    /// checkpoints that were made meanwhile behind the same ones.
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
    Chain(VerifyError),
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
    check: Option<BatchCheck>,
    /// What the host has not kept yet, in order.
    pending: VecDeque<Pending>,
    manifest: Vec<Checkpoint>,
}

/// A checkpoint on its way to the host: what it covers changes no more.
struct Pending {
    range: SeqRange,
    root: Digest,
    /// Once the host has signed it.
    signed: Option<Checkpoint>,
}

impl<'h> Exporter<'h> {
    /// An exporter that makes a checkpoint after so many records (at least 1, at most 2^31).
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
        Ok(Self {
            sink,
            signer,
            checkpoint_every: checkpoint_every.clamp(1, MAX_RECORDS),
            check: None,
            pending: VecDeque::new(),
            manifest: Vec::new(),
        })
    }

    /// Takes the next record of the chain. The first one may have any number.
    ///
    /// # Errors
    /// [`ExportError`]. With [`ExportError::Io`] the record was taken all the same, and a checkpoint could not be signed
    /// or kept: it is handed over again, unchanged, with the next record or [`Exporter::finish`].
    pub fn push(&mut self, canonical: &[u8]) -> Result<(), ExportError> {
        let record = Record::parse(canonical)?;
        let check = match &mut self.check {
            Some(check) => check,
            none => {
                let (stream, writer_id) = (record.stream().decode(), record.writer_id().decode());
                none.insert(BatchCheck::of_chain(ChainName { stream: &stream, writer_id: &writer_id }, record.seq()))
            }
        };
        check.follow(&record, record.self_hash()).map_err(|error| match error {
            VerifyError::OtherChain => ExportError::OtherChain,
            error => ExportError::Chain(error),
        })?;
        if check.batch_records() >= self.checkpoint_every {
            self.end_batch()?;
        }
        self.hand_over()
    }

    /// Settles what the next checkpoint covers: the records since the last one, where there are any.
    fn end_batch(&mut self) -> Result<(), ExportError> {
        let Some(check) = &mut self.check else { return Ok(()) };
        let (records, Some(root)) = (check.batch_records(), check.root()) else { return Ok(()) };
        let next = check.next_seq();
        let Some(range) = SeqRange::new(next - records, next - 1) else {
            return Err(io::Error::other("more than 2^32 - 1 records are under no checkpoint").into());
        };
        self.pending.push_back(Pending { range, root, signed: None });
        check.take_root();
        Ok(())
    }

    /// Has what is pending signed and kept, in order.
    fn hand_over(&mut self) -> Result<(), ExportError> {
        let Some(check) = &self.check else { return Ok(()) };
        let ChainName { stream, writer_id } = check.chain();
        while let Some(Pending { range, root, signed }) = self.pending.front_mut() {
            let checkpoint = match signed {
                Some(checkpoint) => checkpoint,
                none => {
                    let mut checkpoint = Checkpoint {
                        stream: stream.to_owned(),
                        writer_id: writer_id.to_owned(),
                        range: *range,
                        root: *root,
                        signer_key_id: self.signer.signer_key_id().to_owned(),
                        alg: self.signer.alg().to_owned(),
                        sig: Vec::new(),
                    };
                    checkpoint.sig = self.signer.sign(checkpoint.signed_text().as_bytes())?;
                    none.insert(checkpoint)
                }
            };
            self.sink.write_checkpoint(checkpoint)?;
            self.manifest.extend(self.pending.pop_front().and_then(|kept| kept.signed));
        }
        Ok(())
    }

    /// Makes the last checkpoint and the manifest over all since the last manifest; the chain goes on behind it.
    ///
    /// # Errors
    /// [`ExportError::Io`].
    pub fn finish(&mut self, created_ts_ms: UnixMillis) -> Result<Option<Manifest>, ExportError> {
        self.end_batch()?;
        self.hand_over()?;
        let (Some(check), false) = (&self.check, self.manifest.is_empty()) else { return Ok(None) };
        let ChainName { stream, writer_id } = check.chain();
        let manifest = Manifest {
            version: 1,
            stream: stream.to_owned(),
            writer_id: writer_id.to_owned(),
            checkpoints: self.manifest.clone(),
            created_ts_ms,
        };
        self.sink.write_manifest(&manifest)?;
        self.manifest.clear();
        Ok(Some(manifest))
    }
}
