//! A checkpoint on its way to a quorum: the signatures that came so far, each checked.

use std::sync::Arc;

use stele_engine::signing_state::SignedHead;
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::note::{LineError, Note, NoteError, SignatureLine, VerifyError};
use stele_proof::policy::Policy;

use super::Signed;

/// Why a signature was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refused {
    /// No signature line.
    #[error(transparent)]
    Line(#[from] LineError),
    /// No line of a note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// By a key that the policy does not know, or not of this text.
    #[error(transparent)]
    Signature(#[from] VerifyError),
}

/// The signatures under one tree head.
pub(crate) struct Assembly {
    head: SignedHead,
    text: String,
    /// As the log; one is enough.
    log: Option<SignatureLine>,
    /// As nodes of sites, in the order in which they came.
    sites: Vec<SignatureLine>,
    policy: Arc<Policy>,
}

impl Assembly {
    pub(crate) fn new(origin: &Origin, head: SignedHead, policy: Arc<Policy>) -> Self {
        let text = Checkpoint { origin: origin.clone(), size: head.size, root: head.root }.to_string();
        Self { head, text, log: None, sites: Vec::new(), policy }
    }

    pub(crate) const fn head(&self) -> &SignedHead {
        &self.head
    }

    /// Takes the signature lines of a node, all that hold; whether one of a site is new.
    ///
    /// # Errors
    /// [`Refused`]: the first that does not hold; what came before it was taken.
    pub(crate) fn add(&mut self, lines: &str) -> Result<bool, Refused> {
        let before = self.sites.len();
        for line in lines.lines() {
            let line = SignatureLine::parse(line)?;
            let note = Note::new(&self.text, vec![line.clone()])?;
            let keys = self.policy.logs().iter().map(|log| log.key());
            let verified = note.verify(keys.chain(self.policy.witnesses().map(|witness| witness.key())))?;
            let same = |other: &SignatureLine| (other.name(), other.key_id()) == (line.name(), line.key_id());
            match verified.first().and_then(|verified| verified.time()) {
                None => drop(self.log.get_or_insert(line)),
                Some(_) if self.sites.iter().any(same) => {}
                Some(_) => self.sites.push(line),
            }
        }
        Ok(self.sites.len() > before)
    }

    /// The note with all signatures; `None` while nobody has signed as the log.
    pub(crate) fn signed(&self) -> Option<Signed> {
        let lines = std::iter::once(self.log.clone()?).chain(self.sites.iter().cloned()).collect();
        // More signatures than a note takes would be those of more nodes than a policy has.
        let note = Note::new(&self.text, lines).ok()?.to_string();
        Some(Signed { size: self.head.size, root: self.head.root, note: note.into() })
    }

    /// The note, where the policy is met.
    pub(crate) fn complete(&self) -> Option<Signed> {
        self.signed().filter(|signed| self.policy.verify_checkpoint(signed.note.as_bytes()).is_ok())
    }
}

/// A note of somebody else, if the policy is met.
pub(crate) fn judge_note(note: &str, origin: &Origin, policy: &Policy) -> Option<Signed> {
    let verified = policy.verify_checkpoint(note.as_bytes()).ok()?;
    let Checkpoint { origin: found, size, root } = verified.checkpoint();
    (found == origin).then(|| Signed { size: *size, root: *root, note: note.into() })
}
