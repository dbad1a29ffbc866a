//! Finished records, payloads and receipts.

use std::sync::Arc;

use bytes::Bytes;
use stele_api::v1;
use stele_proof::LeafIndex;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::{Finished, Record, Salt, SelfHash, VerifyError, verify_record};

use crate::error::InvalidRecord;

/// A payload and the salt that hides it in its record's commitment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    /// The salt.
    pub salt: Salt,
    /// The bytes.
    pub bytes: Bytes,
}

impl Payload {
    pub(crate) fn to_wire(&self) -> v1::Payload {
        v1::Payload { salt: Bytes::copy_from_slice(self.salt.as_bytes()), bytes: self.bytes.clone() }
    }
}

/// Which chain a record belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChainName {
    /// Who writes.
    pub writer_id: String,
    /// The stream.
    pub stream: String,
}

/// A finished record that fits its hash and its payload: what may be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishedRecord {
    bytes: Bytes,
    chain: Arc<ChainName>,
    seq: u64,
    self_hash: SelfHash,
    payload: Option<Payload>,
}

impl FinishedRecord {
    /// Reads a finished record and holds it against its payload.
    ///
    /// # Errors
    /// [`InvalidRecord`]: a server would refuse it.
    pub fn parse(finished: Bytes, payload: Option<Payload>) -> Result<Self, InvalidRecord> {
        let self_hash = verify_record(&finished)?;
        let split = Finished::split(&finished).ok_or(VerifyError::NotFinished)?;
        let mut canonical = Vec::with_capacity(finished.len());
        split.write_canonical(&mut canonical);
        let record = Record::parse(&canonical).map_err(VerifyError::from)?;
        let (chain, seq) = Self::check(&record, payload.as_ref())?;
        Ok(Self { bytes: finished, chain: Arc::new(chain), seq, self_hash, payload })
    }

    /// Finishes a record that was just built.
    pub(crate) fn finish(
        record: &Record<'_>,
        chain: &Arc<ChainName>,
        payload: Option<Payload>,
    ) -> Result<Self, InvalidRecord> {
        let (_, seq) = Self::check(record, payload.as_ref())?;
        let self_hash = record.self_hash();
        let mut bytes = Vec::new();
        record.write_finished(&self_hash, &mut bytes);
        Ok(Self { bytes: bytes.into(), chain: Arc::clone(chain), seq, self_hash, payload })
    }

    fn check(record: &Record<'_>, payload: Option<&Payload>) -> Result<(ChainName, u64), InvalidRecord> {
        if record.is_reserved() {
            return Err(InvalidRecord::Reserved);
        }
        match (record.payload(), payload) {
            (None, None) => {}
            (None, Some(_)) => return Err(InvalidRecord::PayloadUnexpected),
            (Some(_), None) => return Err(InvalidRecord::PayloadMissing),
            (Some(commitment), Some(payload)) => {
                if !commitment.opens_with(&payload.salt, &payload.bytes) {
                    return Err(InvalidRecord::PayloadMismatch);
                }
            }
        }
        let (writer_id, stream) = (record.writer_id().decode(), record.stream().decode());
        Ok((ChainName { writer_id: writer_id.into_owned(), stream: stream.into_owned() }, record.seq()))
    }

    /// The finished record.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The chain it belongs to.
    pub fn chain(&self) -> &ChainName {
        &self.chain
    }

    /// Its number in the chain.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Its hash.
    pub const fn self_hash(&self) -> SelfHash {
        self.self_hash
    }

    pub(crate) fn shared_chain(&self) -> Arc<ChainName> {
        Arc::clone(&self.chain)
    }

    pub(crate) fn submission(&self) -> v1::Submission {
        v1::Submission {
            record: Some(v1::submission::Record::Finished(self.bytes.clone())),
            payload: self.payload.as_ref().map(Payload::to_wire),
        }
    }
}

/// A record is in the log, durable at a quorum of sites.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Where.
    pub index: LeafIndex,
    /// Its hash: for a finished record the one that was sent, for a draft that of [`Receipt::draft`].
    pub self_hash: SelfHash,
    /// What the leader made of a draft.
    pub draft: Option<FinishedDraft>,
    /// The proof, where it was asked for, came in time and meets the policy: it is verified.
    pub proof: Option<ProofFile>,
}

impl Receipt {
    /// How far the record got before the receipt was given out.
    pub const fn reached(&self) -> Reached<'_> {
        match &self.proof {
            None => Reached::Committed,
            Some(proof) => Reached::Proven(proof),
        }
    }
}

/// How far a record got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached<'a> {
    /// It is durable at a quorum of sites; a proof was not asked for, or is pending: [`Client::prove`] gets it later.
    ///
    /// [`Client::prove`]: crate::Client::prove
    Committed,
    /// It has a proof, which was verified, under a checkpoint that meets the caller's policy.
    Proven(&'a ProofFile),
}

/// What the leader made of a draft.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinishedDraft {
    /// The canonical record.
    pub canonical: Bytes,
    /// The salt of its payload.
    pub salt: Option<Salt>,
}
