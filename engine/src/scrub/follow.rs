//! What goes on from segment to segment: chains, and the tree heads that this node signed.

use stele_proof::checkpoint::Checkpoint;
use stele_proof::note::Note;
use stele_proof::record::{Record, SelfHash};
use stele_proof::tree::CompactRange;
use stele_proof::{LeafIndex, TreeSize};

use crate::chains::{Chains, MAX_CHAINS};
use crate::checkpointing::MAX_FILE_BYTES;
use crate::directory::LogDirectory;
use crate::disk::{Disk, read_small};
use crate::error::{Damage, LogError};
use crate::signing_state::{SignedHead, read_signed_head};

use super::beside::unreadable;

const CHECKPOINT: &str = "checkpoint";
const SIGNING_STATE: &str = "signing-state";

/// A tree head that the log must have.
struct Claim {
    file: &'static str,
    head: SignedHead,
}

/// Follows the records of a log.
pub(super) struct Follow {
    chains: Chains,
    /// Whether records are missing before, so that a chain may be met anywhere.
    broken: bool,
    /// What was not compared yet.
    claims: Vec<Claim>,
}

impl Follow {
    /// Before the first record of a log.
    pub(super) fn new() -> Self {
        Self { chains: Chains::new(MAX_CHAINS).heads_only(), broken: false, claims: Vec::new() }
    }

    /// Reads the stored checkpoint and the head that was signed last.
    ///
    /// # Errors
    /// [`LogError::Disk`].
    pub(super) fn read_heads(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        findings: &mut Vec<Damage>,
    ) -> Result<(), LogError> {
        let damage = |file: &str, what: String| Damage { file: file.to_owned(), offset: 0, leaf: None, what };
        let stored = match read_small(disk, &directory.checkpoint(), MAX_FILE_BYTES) {
            Ok(stored) => stored,
            Err(error) => {
                findings.push(unreadable(directory, error, None)?);
                None
            }
        };
        if let Some(bytes) = stored {
            let note = Note::parse(&bytes).ok();
            match note.and_then(|note| Checkpoint::parse(note.text()).ok()) {
                Some(Checkpoint { size, root, .. }) => {
                    self.claims.push(Claim { file: CHECKPOINT, head: SignedHead { size, root } });
                }
                None => {
                    let what = "it is no checkpoint; `stele checkpoint` makes one".to_owned();
                    findings.push(damage(CHECKPOINT, what));
                }
            }
        }
        // What is wrong with the file itself is told with its copies.
        if let Ok(head) = read_signed_head(disk, &directory.signing_state()) {
            self.claims.push(Claim { file: SIGNING_STATE, head });
        }
        Ok(())
    }

    /// Goes on where records are missing before.
    pub(super) fn skip(&mut self) {
        self.chains = Chains::new(MAX_CHAINS).heads_only();
        self.broken = true;
    }

    /// Takes the next record; answers what does not hold of its chain, once.
    pub(super) fn record(&mut self, leaf: LeafIndex, record: &Record<'_>, self_hash: SelfHash) -> Option<String> {
        let unknown = self.chains.head(record.stream().escaped(), record.writer_id().escaped()).is_none();
        if self.broken && unknown {
            self.chains.restart(record, self_hash, leaf);
            return None;
        }
        let error = self.chains.advance(record, self_hash, leaf).err()?;
        self.chains.restart(record, self_hash, leaf);
        Some(format!("its chain: {error}"))
    }

    /// Holds the heads of this size against the tree.
    pub(super) fn compare(&mut self, tree: &CompactRange) -> Option<Damage> {
        let size = tree.size();
        if self.claims.iter().all(|claim| claim.head.size != size) {
            return None;
        }
        let root = tree.root();
        let mut wrong = None;
        self.claims.retain(|Claim { file, head }| {
            if head.size == size && head.root != root {
                let what = format!("it tells another root of {size} records than the log has");
                wrong = Some(Damage { file: (*file).to_owned(), offset: 0, leaf: None, what });
            }
            head.size != size
        });
        wrong
    }

    /// Tells of the heads that the scrub did not meet: its records are those from `first` to `end`.
    pub(super) fn finish(
        &mut self,
        first: TreeSize,
        end: TreeSize,
        whole: Whole,
        findings: &mut Vec<Damage>,
        notes: &mut Vec<String>,
    ) {
        for Claim { file, head: SignedHead { size, .. } } in std::mem::take(&mut self.claims) {
            if size > end && whole == Whole::ToTheEnd {
                let what = format!(
                    "it covers {size} records, and the log has {end}: the last ones are missing; restore them from a \
                     copy of the log"
                );
                findings.push(Damage { file: file.to_owned(), offset: 0, leaf: None, what });
            } else if size >= first {
                notes.push(format!("{file} was not compared: not all of its {size} records could be read"));
            }
        }
    }
}

/// How far the log was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whole {
    /// To its end, and nobody writes.
    ToTheEnd,
    /// What could be read, or what is known to be durable beside a writer.
    InPart,
}
