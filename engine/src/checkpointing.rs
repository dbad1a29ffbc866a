//! Signing checkpoints with this node's keys.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::cosignature::cosign;
use stele_proof::key::SigningKey;
use stele_proof::note::{Note, NoteError, SignatureLine, signature_line};
use stele_proof::policy::Policy;

use crate::directory::{Inventory, LogDirectory};
use crate::disk::{Access, Disk, Mode, read_small, replace};
use crate::environment::{Clock, Environment};
use crate::error::LogError;
use crate::local::take_lock;
use crate::number::SegmentNumber;
use crate::reader::LogReader;
use crate::reserved::Genesis;
use crate::segment::SegmentFile;
use crate::signing_state::{SignedHead, SigningStateFile};

/// Largest key, policy or checkpoint file that is read.
pub(crate) const MAX_FILE_BYTES: usize = 1 << 20;

/// The node's two signing keys.
pub struct NodeKeys {
    /// Signs checkpoints as the log (type 01).
    pub log: SigningKey,
    /// Cosigns them as a node of a site (type 04).
    pub cosigner: SigningKey,
}

impl NodeKeys {
    /// Reads both from the log's directory.
    ///
    /// # Errors
    /// [`LogError::File`] where one is missing or is no key.
    pub fn load(disk: &dyn Disk, directory: &LogDirectory) -> Result<Self, LogError> {
        let load = |name: &str, path| -> Result<SigningKey, LogError> {
            let wrong = |why: String| {
                let why = format!("{why}; put the log's own key back, from a backup of it");
                LogError::File { file: name.to_owned(), why }
            };
            let bytes = read_small(disk, path, MAX_FILE_BYTES)?
                .ok_or_else(|| wrong("the private key is missing".to_owned()))?;
            let text = String::from_utf8(bytes).map_err(|_reason| wrong("not a private key".to_owned()))?;
            SigningKey::parse(text.strip_suffix('\n').unwrap_or(&text)).map_err(|error| wrong(error.to_string()))
        };
        Ok(Self {
            log: load("keys/log", &directory.log_key())?,
            cosigner: load("keys/cosigner", &directory.cosigner_key())?,
        })
    }

    /// Whether they are the keys that the log was born with; the keys of a node that joined later are in no policy yet.
    ///
    /// # Errors
    /// [`LogError::File`] naming the one that is another's: nobody would accept what it signs.
    fn check(&self, genesis: &Genesis) -> Result<Known, LogError> {
        let wrong = |file: &str, key: &SigningKey| {
            let why = format!(
                "the key {} is not the one that the log {} was made with; put the log's own key back",
                key.verifier_key(),
                genesis.origin
            );
            LogError::File { file: file.to_owned(), why }
        };
        let policy = Policy::parse(genesis.policy.as_bytes()).map_err(|error| in_genesis(&error))?;
        let log_key = genesis.log_keys.contains(&self.log.verifier_key().to_string());
        let own = self.cosigner.verifier_key();
        // A cosigner's name says which node of which log it is.
        let of_this_log = own.name().as_str().starts_with(&format!("{}/site/", genesis.origin));
        if !log_key && of_this_log && policy.witnesses().all(|witness| witness.key().name() != own.name()) {
            return Ok(Known::Later);
        }
        if !log_key {
            return Err(wrong("keys/log", &self.log));
        }
        if policy.witnesses().all(|witness| witness.key() != own) {
            return Err(wrong("keys/cosigner", &self.cosigner));
        }
        Ok(Known::FromBirth)
    }
}

/// Since when a log knows the keys of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// They stand in its genesis record.
    FromBirth,
    /// Its node joined later; its policy does not name them.
    Later,
}

fn in_genesis(error: &dyn Display) -> LogError {
    LogError::File { file: "genesis".to_owned(), why: error.to_string() }
}

/// Signs the tree heads of one log, one at a time.
pub struct CheckpointSigner {
    keys: NodeKeys,
    origin: Origin,
    state: SigningStateFile,
    clock: Arc<dyn Clock>,
}

/// A tree head with the two signatures of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    /// The checkpoint, which is the text of the note.
    pub text: String,
    /// As the log (type 01).
    pub log: SignatureLine,
    /// As a node of a site (type 04).
    pub site: SignatureLine,
}

impl SignedCheckpoint {
    /// The note with both signatures.
    ///
    /// # Errors
    /// [`LogError::File`] where it is none.
    pub fn note(&self) -> Result<String, LogError> {
        let wrong = |error: NoteError| LogError::File { file: "checkpoint".to_owned(), why: error.to_string() };
        Ok(Note::new(&self.text, vec![self.log.clone(), self.site.clone()]).map_err(wrong)?.to_string())
    }
}

impl CheckpointSigner {
    /// Reads keys and signing state of the log in this directory.
    ///
    /// # Errors
    /// [`LogError::File`] for the keys, [`LogError::Generation`] for the state.
    pub fn open(environment: &Environment, directory: &LogDirectory, genesis: &Genesis) -> Result<Self, LogError> {
        Self::open_if_known(environment, directory, genesis)?.ok_or_else(|| {
            let why = "this node joined later than the log was made: its policy does not name these keys".to_owned();
            LogError::File { file: "keys/cosigner".to_owned(), why }
        })
    }

    /// As [`CheckpointSigner::open`]; `None` where the keys are those of a node that joined later, which the policy of
    /// the log does not name: what they sign counts for nobody.
    ///
    /// # Errors
    /// As [`CheckpointSigner::open`].
    pub fn open_if_known(
        environment: &Environment,
        directory: &LogDirectory,
        genesis: &Genesis,
    ) -> Result<Option<Self>, LogError> {
        let disk = environment.disk.as_ref();
        let origin = Origin::new(&genesis.origin).map_err(|error| in_genesis(&error))?;
        let keys = NodeKeys::load(disk, directory)?;
        if keys.check(genesis)? == Known::Later {
            return Ok(None);
        }
        let state = SigningStateFile::open(disk, &directory.signing_state())?;
        Ok(Some(Self { keys, origin, state, clock: Arc::clone(&environment.clock) }))
    }

    /// The head that was signed last.
    pub const fn last(&self) -> SignedHead {
        self.state.last()
    }

    /// Signs a tree head, which the caller knows to be durable here.
    ///
    /// The signing state is durable before a signature is made (I-SIGNING-1). Where the disk failed, nothing more may
    /// be signed with this: what the state says there is not known.
    ///
    /// # Errors
    /// [`LogError::Signing`] where it contradicts an earlier signature, or the disk fails.
    pub fn sign(&mut self, head: SignedHead) -> Result<SignedCheckpoint, LogError> {
        self.state.advance(head)?;
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: head.size, root: head.root };
        let text = checkpoint.to_string();
        let wrong = |file: &str, why: String| LogError::File { file: file.to_owned(), why };
        let log = signature_line(&text, &self.keys.log).map_err(|error| wrong("keys/log", error.to_string()))?;
        let site = cosign(&checkpoint, &self.keys.cosigner, self.clock.now().seconds());
        let site = site.map_err(|error| wrong("keys/cosigner", error.to_string()))?;
        Ok(SignedCheckpoint { text, log, site })
    }
}

/// Signs a tree head, which the caller knows to be durable here, and stores the checkpoint.
///
/// # Errors
/// [`LogError::Signing`] where it contradicts an earlier signature; [`LogError::File`] for the keys.
pub fn sign_checkpoint(
    environment: &Environment,
    directory: &LogDirectory,
    genesis: &Genesis,
    head: SignedHead,
) -> Result<String, LogError> {
    let note = CheckpointSigner::open(environment, directory, genesis)?.sign(head)?.note()?;
    store_checkpoint(environment.disk.as_ref(), directory, &note)?;
    Ok(note)
}

/// Stores a checkpoint in the place of the last one.
///
/// # Errors
/// [`LogError::Disk`].
pub fn store_checkpoint(disk: &dyn Disk, directory: &LogDirectory, note: &str) -> Result<(), LogError> {
    Ok(replace(disk, &directory.checkpoint(), note.as_bytes(), Mode::Public)?)
}

/// Signs the durable size of a log that nobody has open; appends nothing.
///
/// # Errors
/// [`LogError::Locked`] while somebody has it open; as [`sign_checkpoint`].
pub fn make_checkpoint(environment: &Environment, path: &Path) -> Result<String, LogError> {
    let disk = environment.disk.as_ref();
    let directory = LogDirectory::new(path);
    Inventory::take(disk, &directory)?;
    let _lock = take_lock(disk, &directory)?;
    let inventory = Inventory::take(disk, &directory)?;
    // A writer that was killed may have left frames in memory that are on no disk yet.
    for segment in (inventory.sealed.get()..=inventory.last.get()).map(SegmentNumber::new) {
        for part in inventory.payload_parts(segment) {
            disk.open(&directory.segment_file(SegmentFile::Payloads(segment, part)), Access::Read)?.sync()?;
        }
        disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?.sync()?;
    }
    let reader = LogReader::open_locked(environment, path)?;
    let head = SignedHead { size: reader.size(), root: reader.root_at(reader.size())? };
    sign_checkpoint(environment, &directory, reader.genesis(), head)
}

/// The checkpoint that was made last, where there is one, and the text it signs.
///
/// # Errors
/// [`LogError::File`] where the file holds something else.
pub fn stored_checkpoint(disk: &dyn Disk, directory: &LogDirectory) -> Result<Option<(String, Checkpoint)>, LogError> {
    let wrong = |why: String| LogError::File { file: "checkpoint".to_owned(), why };
    let Some(bytes) = read_small(disk, &directory.checkpoint(), MAX_FILE_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_reason| wrong("not a checkpoint".to_owned()))?;
    let checkpoint = Note::parse(text.as_bytes())
        .map_err(|error| wrong(error.to_string()))
        .and_then(|note| Checkpoint::parse(note.text()).map_err(|error| wrong(error.to_string())))?;
    Ok(Some((text, checkpoint)))
}
