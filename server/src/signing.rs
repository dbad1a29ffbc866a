//! Checkpoints of what this node has applied and flushed.
//!
//! The engine makes durable what is going to be signed before a signature is made (I-SIGNING-1), so sizes never go
//! back, also not over a restart; one checkpoint is made at a time.

use std::path::Path;
use std::sync::Arc;

use stele_engine::checkpointing::{sign_checkpoint, stored_checkpoint};
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::replica::Visible;
use stele_engine::reserved::Genesis;
use stele_engine::signing_state::SignedHead;
use stele_proof::TreeSize;
use tokio::sync::Mutex;

/// A checkpoint that was signed here.
#[derive(Clone, Debug)]
pub struct Signed {
    /// How many records it covers.
    pub size: TreeSize,
    /// The signed note.
    pub note: Arc<str>,
}

/// Makes them.
pub struct Signer {
    environment: Environment,
    directory: LogDirectory,
    last: Mutex<Option<Signed>>,
}

impl Signer {
    /// Takes up where the last start ended.
    ///
    /// # Errors
    /// [`LogError::File`] where the stored checkpoint is none.
    pub fn new(environment: &Environment, path: &Path) -> Result<Self, LogError> {
        let directory = LogDirectory::new(path);
        let last = stored_checkpoint(environment.disk.as_ref(), &directory)?
            .map(|(note, checkpoint)| Signed { size: checkpoint.size, note: note.into() });
        Ok(Self { environment: environment.clone(), directory, last: Mutex::new(last) })
    }

    /// The last checkpoint, if it covers so many records.
    pub async fn covering(&self, size: TreeSize) -> Option<Signed> {
        self.last.lock().await.clone().filter(|last| last.size >= size)
    }

    /// A checkpoint of what is visible; the last one, where that was larger: a node that has just started may not
    /// have applied all of it again.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn sign(&self, genesis: Genesis, visible: &Visible) -> Result<Signed, LogError> {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.size >= visible.size()) {
            return Ok(last.clone());
        }
        let head = SignedHead { size: visible.size(), root: visible.root() };
        let (environment, directory) = (self.environment.clone(), self.directory.clone());
        let signing = move || sign_checkpoint(&environment, &directory, &genesis, head);
        let note = match tokio::task::spawn_blocking(signing).await {
            Ok(signed) => signed?,
            Err(died) => return Err(LogError::File { file: "checkpoint".to_owned(), why: died.to_string() }),
        };
        Ok(last.insert(Signed { size: head.size, note: note.into() }).clone())
    }
}
