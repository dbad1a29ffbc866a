//! What lies beside the segments: signed tree heads, policy, keys, hard state, the description.

use std::io;

use stele_proof::TreeSize;
use stele_proof::checkpoint::Checkpoint;
use stele_proof::key::{SigningKey, VerifierKey};
use stele_proof::note::Note;
use stele_proof::policy::{Policy, PolicyError, VerifiedCheckpoint};

use crate::birth::description;
use crate::checkpointing::MAX_FILE_BYTES;
use crate::directory::LogDirectory;
use crate::disk::{Disk, read_small};
use crate::error::{Damage, LogError};
use crate::generation::{GenerationError, damaged_pages};
use crate::hard_state::{self, read_hard_state};
use crate::membership::Membership;
use crate::signing_state::{self, SignedHead, read_signed_head};

use super::segments::Audit;
use super::{CheckedAgainst, VerifyOptions};

/// How findings name the files.
const HARD_STATE: &str = "hard-state";
const SIGNING_STATE: &str = "signing-state";
const POLICY: &str = "policy";
const CHECKPOINT: &str = "checkpoint";
const GIVEN: &str = "the given checkpoint";

/// A tree head that the log must have.
struct Claim {
    file: &'static str,
    head: SignedHead,
}

/// What was signed or given, and what is wrong with it.
pub(super) struct Heads<'a> {
    disk: &'a dyn Disk,
    directory: &'a LogDirectory,
    claims: Vec<Claim>,
    policy: Option<Policy>,
    policy_text: Option<Vec<u8>>,
    /// The origin that an accepted checkpoint names, and where.
    origins: Vec<(&'static str, String)>,
    /// Keys that the policy does not name, and their files: those of a node that joined later are in the membership.
    unnamed: Vec<(&'static str, VerifierKey)>,
    findings: Vec<Damage>,
    notes: Vec<String>,
    against: CheckedAgainst,
    /// The largest of the log's own heads that agreed.
    signed: Option<TreeSize>,
}

impl<'a> Heads<'a> {
    /// Reads the files beside the segments.
    ///
    /// # Errors
    /// [`LogError`] of a failed call.
    pub(super) fn read(
        disk: &'a dyn Disk,
        directory: &'a LogDirectory,
        options: &VerifyOptions,
    ) -> Result<Self, LogError> {
        let mut heads = Self {
            disk,
            directory,
            claims: Vec::new(),
            policy: None,
            policy_text: None,
            origins: Vec::new(),
            unnamed: Vec::new(),
            findings: Vec::new(),
            notes: Vec::new(),
            against: CheckedAgainst::Itself,
            signed: None,
        };
        heads.read_states()?;
        heads.read_policy()?;
        let stored = read_small(disk, &directory.checkpoint(), MAX_FILE_BYTES)?;
        heads.read_checkpoints(stored, options);
        Ok(heads)
    }

    /// The sizes whose roots will be compared.
    pub(super) fn sizes(&self) -> Vec<TreeSize> {
        self.claims.iter().map(|claim| claim.head.size).collect()
    }

    /// The largest of the log's own tree heads that it was found to have.
    pub(super) const fn signed(&self) -> Option<TreeSize> {
        self.signed
    }

    /// What from outside the tree was compared with.
    pub(super) const fn checked_against(&self) -> CheckedAgainst {
        self.against
    }

    /// Every copy in the guarded files, and the signed head.
    fn read_states(&mut self) -> Result<(), LogError> {
        let (disk, directory) = (self.disk, self.directory);
        let read = read_hard_state(disk, &directory.hard_state()).map(|_| ());
        let pages = damaged_pages(disk, &directory.hard_state(), hard_state::MAGIC);
        self.state(HARD_STATE, read, pages.map_err(GenerationError::from))?;
        let read = read_signed_head(disk, &directory.signing_state());
        let pages = damaged_pages(disk, &directory.signing_state(), signing_state::MAGIC);
        if let Ok(head) = &read {
            self.claims.push(Claim { file: SIGNING_STATE, head: *head });
        }
        self.state(SIGNING_STATE, read.map(|_| ()), pages.map_err(GenerationError::from))
    }

    fn state(
        &mut self,
        file: &'static str,
        read: Result<(), GenerationError>,
        pages: Result<Vec<u64>, GenerationError>,
    ) -> Result<(), LogError> {
        let pages = match pages {
            Err(GenerationError::Disk(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                self.find(file, 0, "the file is missing; restore it from a backup of this node");
                return Ok(());
            }
            pages => pages?,
        };
        for page in &pages {
            self.find(file, *page, "a copy is damaged; `stele repair` writes it anew from the good one");
        }
        match read {
            Ok(()) => Ok(()),
            Err(error @ GenerationError::Damaged(_)) => {
                let at = pages.first().copied().unwrap_or(0);
                self.find(file, at, &error.to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read_policy(&mut self) -> Result<(), LogError> {
        let Some(bytes) = read_small(self.disk, &self.directory.policy(), MAX_FILE_BYTES)? else {
            self.notes.push("there is no policy file, so nothing could be held against it".to_owned());
            return Ok(());
        };
        match Policy::parse(&bytes) {
            Ok(policy) => {
                self.read_keys(&policy)?;
                self.policy = Some(policy);
                self.policy_text = Some(bytes);
            }
            Err(error) => self.find(POLICY, 0, &chain(&error)),
        }
        Ok(())
    }

    /// The private keys, of which nothing but the name is ever told.
    fn read_keys(&mut self, policy: &Policy) -> Result<(), LogError> {
        let logs = policy.logs().iter().map(|log| log.key()).collect();
        let witnesses = policy.witnesses().map(|witness| witness.key()).collect();
        let paths = [self.directory.log_key(), self.directory.cosigner_key()];
        let known: [(&str, Vec<&VerifierKey>); 2] = [("keys/log", logs), ("keys/cosigner", witnesses)];
        for ((file, known), path) in known.into_iter().zip(paths) {
            let bytes = match read_small(self.disk, &path, MAX_FILE_BYTES) {
                Err(error) if error.source.kind() == io::ErrorKind::PermissionDenied => None,
                bytes => bytes?,
            };
            let Some(bytes) = bytes else {
                self.notes.push(format!("{file} is missing or not readable, and was not looked at"));
                continue;
            };
            let text = str::from_utf8(&bytes).unwrap_or_default();
            match SigningKey::parse(text.strip_suffix('\n').unwrap_or(text)) {
                Err(error) => self.find(file, 0, &error.to_string()),
                Ok(key) if !known.contains(&key.verifier_key()) => {
                    self.unnamed.push((file, key.verifier_key().clone()));
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The stored checkpoint under the log's own policy, and what was given from outside.
    fn read_checkpoints(&mut self, stored: Option<Vec<u8>>, options: &VerifyOptions) {
        let own = self.policy.clone();
        let signed = self.claims.iter().any(|claim| claim.head.size.get() > 0);
        match (&stored, &own) {
            (Some(note), Some(policy)) => self.accept_stored(note, policy),
            (Some(note), None) => {
                if let Err(why) = parse(note) {
                    self.find(CHECKPOINT, 0, &why);
                }
            }
            (None, _) if signed => self.notes.push("checkpoints were signed here, and none is stored".to_owned()),
            (None, _) => {}
        }
        let found = self.findings.len();
        let against = match (&options.checkpoint, &options.policy) {
            (None, None) => None,
            (Some(note), Some(policy)) => self.accept(GIVEN, note, policy).map(CheckedAgainst::CheckpointAndPolicy),
            (Some(note), None) => match &own {
                Some(policy) => self.accept(GIVEN, note, policy).map(CheckedAgainst::Checkpoint),
                None => {
                    self.find(GIVEN, 0, "the log has no readable policy to check it with; give one");
                    None
                }
            },
            (None, Some(policy)) => match &stored {
                Some(note) => self.accept(CHECKPOINT, note, policy).map(CheckedAgainst::Policy),
                None => {
                    self.find(
                        CHECKPOINT,
                        0,
                        "there is none to hold against the given policy; `stele checkpoint` makes one",
                    );
                    None
                }
            },
        };
        if found == self.findings.len() {
            self.against = against.unwrap_or(CheckedAgainst::Itself);
        }
    }

    /// The stored checkpoint has at least the signatures of the node that made it; those of other sites are collected
    /// elsewhere.
    fn accept_stored(&mut self, note: &[u8], policy: &Policy) {
        let (Err(PolicyError::QuorumNotMet { present, missing, .. }), Ok(checkpoint)) =
            (policy.verify_checkpoint(note), parse(note))
        else {
            self.accept(CHECKPOINT, note, policy);
            return;
        };
        if present.is_empty() {
            self.accept(CHECKPOINT, note, policy);
            return;
        }
        let (present, missing) = (present.join(", "), missing.join(", "));
        self.notes.push(format!("{CHECKPOINT} is cosigned by {present} and not by {missing}: it is this node's own"));
        self.origins.push((CHECKPOINT, checkpoint.origin.as_str().to_owned()));
        let head = SignedHead { size: checkpoint.size, root: checkpoint.root };
        self.claims.push(Claim { file: CHECKPOINT, head });
    }

    /// Verifies a checkpoint under a policy; then the log must have its root. Answers its size.
    fn accept(&mut self, file: &'static str, note: &[u8], policy: &Policy) -> Option<TreeSize> {
        let checkpoint = match policy.verify_checkpoint(note) {
            Ok(verified) => VerifiedCheckpoint::checkpoint(&verified).clone(),
            Err(error) => {
                self.find(file, 0, &chain(&error));
                return None;
            }
        };
        self.origins.push((file, checkpoint.origin.as_str().to_owned()));
        let head = SignedHead { size: checkpoint.size, root: checkpoint.root };
        self.claims.push(Claim { file, head });
        Some(checkpoint.size)
    }

    /// Holds everything against what was read of the segments.
    ///
    /// # Errors
    /// [`LogError`] of a failed call.
    pub(super) fn compare(&mut self, audit: &mut Audit<'_>) -> Result<(), LogError> {
        let records = audit.walked.tree.size();
        for Claim { file, head: SignedHead { size, root } } in std::mem::take(&mut self.claims) {
            match audit.root_at(size) {
                Some(found) if found == root && file != GIVEN => self.signed = self.signed.max(Some(size)),
                Some(found) if found == root => {}
                Some(_) => self.find(file, 0, &format!("it tells another root of {size} records than the log has")),
                None if audit.stopped => {
                    self.notes.push(format!("{file} was not compared: its {size} records could not all be read"));
                }
                None if audit.flushed.writer && file != GIVEN => {
                    let what = "are known to be durable while the log is being written";
                    self.notes.push(format!("{file} was not compared: it covers {size} records, {records} {what}"));
                }
                None => {
                    let what = "the last ones are missing; restore them from a copy of the log";
                    self.find(file, 0, &format!("it covers {size} records, and the log has {records}: {what}"));
                }
            }
        }
        let named =
            Membership::decode(&audit.membership).map_or_else(|_none| Vec::new(), |membership| membership.nodes);
        let named: Vec<String> = named.into_iter().flat_map(|node| node.keys).collect();
        for (file, key) in std::mem::take(&mut self.unnamed) {
            if !named.contains(&key.to_string()) {
                let (name, id) = (key.name(), key.id());
                self.find(file, 0, &format!("neither the policy nor the membership names the key {name}+{id}"));
            }
        }
        if let Some(genesis) = &audit.records.genesis {
            for (file, origin) in std::mem::take(&mut self.origins) {
                if origin != genesis.origin {
                    self.find(file, 0, &format!("it is that of {origin}, not of {}", genesis.origin));
                }
            }
            if self.policy_text.as_deref().is_some_and(|text| text != genesis.policy.as_bytes()) {
                self.notes.push("the policy file is not the policy of the genesis record".to_owned());
            }
            let text = description(genesis);
            let stored = read_small(self.disk, &self.directory.description(), text.len())?;
            if stored.as_deref() != Some(text.as_bytes()) {
                let what = "is not what the genesis record says; it is derived, and rebuilt when the log is opened";
                self.notes.push(format!("log.toml {what}"));
            }
        }
        audit.findings.append(&mut self.findings);
        audit.notes.append(&mut self.notes);
        Ok(())
    }

    fn find(&mut self, file: &str, offset: u64, what: &str) {
        let finding = Damage { file: file.to_owned(), offset, leaf: None, what: what.to_owned() };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Whether bytes are a checkpoint at all.
fn parse(note: &[u8]) -> Result<Checkpoint, String> {
    let note = Note::parse(note).map_err(|error| chain(&error))?;
    Checkpoint::parse(note.text()).map_err(|error| chain(&error))
}

/// An error and its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
