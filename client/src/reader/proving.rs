//! Records that are held back until they are proved, all of them with the proof of the last.
//!
//! An inclusion proof also holds the tree of everything before its leaf ([`verify_prefix`]). So the records that are held
//! are hashed into the tree that stands before the first of them, which the proof before gave; where that comes to the
//! tree before the last, each of them is in the log, at its index, under the checkpoint of that proof. The first row
//! takes two proofs, every further one takes one, however many records it has.

use std::sync::Arc;

use bytes::Bytes;
use stele_proof::TreeSize;
use stele_proof::policy::{Policy, VerifiedCheckpoint};
use stele_proof::tree::{CompactRange, Hash, leaf_hash, verify_prefix};

use super::{PayloadState, VerifiedRecord};
use crate::client::{Client, SignedCheckpoint};
use crate::error::{CallError, Violation};

/// Records from which on a row is proved.
const ROW_RECORDS: usize = 4096;
/// Bytes of records and payloads from which on a row is proved.
const ROW_BYTES: usize = 4 << 20;

/// The records that are held back.
pub(super) struct Proving {
    policy: Arc<Policy>,
    held: Vec<(VerifiedRecord, Hash)>,
    bytes: usize,
    /// The tree of everything before the first that is held, once something was proved, and what it was proved under.
    before: Option<(CompactRange, SignedCheckpoint)>,
}

/// What the proof of one record says.
struct Proved {
    /// The tree of everything before the record.
    before: CompactRange,
    checkpoint: SignedCheckpoint,
}

impl Proving {
    pub(super) const fn new(policy: Arc<Policy>) -> Self {
        Self { policy, held: Vec::new(), bytes: 0, before: None }
    }

    /// How many records are held.
    pub(super) const fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no more records should be taken in before these are proved.
    pub(super) const fn is_full(&self) -> bool {
        self.held.len() >= ROW_RECORDS || self.bytes >= ROW_BYTES
    }

    /// The size of the checkpoint that records were proved under last.
    pub(super) fn size(&self) -> Option<TreeSize> {
        self.before.as_ref().map(|(_, checkpoint)| checkpoint.checkpoint().size)
    }

    /// Takes in the next record.
    pub(super) fn push(&mut self, mut record: VerifiedRecord) {
        // A piece of a message would keep the whole of it, beyond what is counted here.
        record.canonical = Bytes::copy_from_slice(&record.canonical);
        let payload = match &mut record.payload {
            PayloadState::Present(payload) => {
                payload.bytes = Bytes::copy_from_slice(&payload.bytes);
                payload.bytes.len()
            }
            PayloadState::None | PayloadState::Absent(_) => 0,
        };
        self.bytes += record.canonical.len() + payload;
        let leaf = leaf_hash(&record.canonical);
        self.held.push((record, leaf));
    }

    /// Forgets what is held.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.bytes = 0;
    }

    /// Proves what is held, and hands it out. After an error it is still held.
    pub(super) async fn prove(&mut self, client: &Client) -> Result<Vec<VerifiedRecord>, CallError> {
        let Some((last, others)) = self.held.split_last() else { return Ok(Vec::new()) };
        let mut hashed = match (&self.before, others.first()) {
            (Some((before, _)), _) => Some(before.clone()),
            (None, Some(first)) => Some(self.ask(client, first).await?.before),
            // What stands before a record alone is what its own proof says.
            (None, None) => None,
        };
        if let Some(hashed) = &mut hashed {
            others.iter().for_each(|(_, leaf)| hashed.append(*leaf));
        }
        let Proved { mut before, checkpoint } = self.ask(client, last).await?;
        if hashed.is_some_and(|hashed| hashed != before) {
            return Err(self.differs(client, &checkpoint).await);
        }
        before.append(last.1);
        let verified: Arc<VerifiedCheckpoint> = Arc::new(checkpoint.verified().clone());
        self.before = Some((before, checkpoint));
        self.bytes = 0;
        let proven = |(record, _)| VerifiedRecord { proven: Some(Arc::clone(&verified)), ..record };
        Ok(self.held.drain(..).map(proven).collect())
    }

    async fn ask(&self, client: &Client, (record, leaf): &(VerifiedRecord, Hash)) -> Result<Proved, CallError> {
        let proven = client.prove(record.index, None, &self.policy).await?;
        if proven.canonical != record.canonical {
            let (first, last) = (record.index, record.index);
            let size = proven.checkpoint.checkpoint().size;
            return Err(Violation::NotInLog { first, last, size }.into());
        }
        let stated = proven.checkpoint.checkpoint();
        let before = verify_prefix(leaf, record.index, stated.size, proven.proof.hashes(), &stated.root)
            .map_err(|error| Violation::Proof { reason: error.to_string() })?;
        let note = proven.proof.checkpoint().to_owned();
        Ok(Proved { before, checkpoint: SignedCheckpoint::new(note, proven.checkpoint) })
    }

    /// Why the records that are held are not what the checkpoint is about: another history than that of the checkpoint
    /// before, or other records.
    async fn differs(&self, client: &Client, checkpoint: &SignedCheckpoint) -> CallError {
        if let Some((_, known)) = &self.before
            && let Err(error @ (CallError::Fork { .. } | CallError::NotConsistent { .. })) =
                client.consistency(known, checkpoint).await
        {
            return error;
        }
        let (first, last) = (self.held[0].0.index, self.held[self.held.len() - 1].0.index);
        Violation::NotInLog { first, last, size: checkpoint.checkpoint().size }.into()
    }
}
