//! This node's own signatures under tree heads.
//!
//! A signature says: this node has applied and flushed the log up to this size, by its own knowledge, and this is the
//! root that it computed. [`Standing::judge`] decides that, for what this node asks of itself as for what others ask.
//! The engine makes durable what is going to be signed before a signature is made (I-SIGNING-1), so sizes never go
//! back, also not over a restart; one signature is made at a time.
//!
//! A node that joined after the log was made is not in the policy of its genesis record: it judges as all others do and
//! says whether its root is the same, and signs nothing.

use std::path::Path;
use std::sync::Arc;

use stele_engine::checkpointing::{CheckpointSigner, SignedCheckpoint};
use stele_engine::directory::LogDirectory;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reserved::Genesis;
use stele_engine::signing_state::{SignedHead, SigningError};
use stele_proof::TreeSize;
use stele_proof::tree::{Hash, empty_root};
use tokio::sync::Mutex;

/// What this node can say about a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// min(applied, flushed here).
    pub visible: TreeSize,
    /// The root of its own tree at the size in question; `None` where it has not as much.
    pub root: Option<Hash>,
}

/// What a node stands for when it is asked to sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// What it shows.
    pub shown: Shown,
    /// What it signed last.
    pub last: SignedHead,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It signs.
    Sign,
    /// It has not applied and flushed as much.
    NotYet,
    /// It has signed a larger tree.
    Passed,
    /// It has another root, and has this one.
    Differs(Hash),
}

impl Standing {
    /// Whether a tree head is signed.
    pub fn judge(&self, asked: &SignedHead) -> Verdict {
        if asked.size < self.last.size {
            return Verdict::Passed;
        }
        let root = match self.shown.root {
            Some(root) if asked.size <= self.shown.visible => root,
            _ => return Verdict::NotYet,
        };
        if root != asked.root {
            return Verdict::Differs(root);
        }
        if asked.size == self.last.size && asked.root != self.last.root {
            return Verdict::Differs(self.last.root);
        }
        Verdict::Sign
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signing {
    /// Signatures.
    Signed(Box<SignedCheckpoint>),
    /// No signature, because the policy does not name this node's keys; it would sign.
    Same,
    /// Not yet.
    NotYet,
    /// A larger tree was signed, of this size.
    Passed(TreeSize),
    /// The root here is this one.
    Differs(Hash),
}

/// Signs.
pub struct Signer {
    environment: Environment,
    directory: LogDirectory,
    state: Arc<Mutex<State>>,
}

enum State {
    /// Keys were not needed yet, or could not be read.
    Closed,
    Open(Box<CheckpointSigner>),
    /// The policy of the log does not name the keys, and never will: it stands in the first record.
    Unnamed,
    /// The disk failed under the signing state: what it says there is not known, so nothing more is signed.
    Broken,
}

impl Signer {
    /// Signs for the log in this directory; its keys are read when they are needed.
    pub fn new(environment: &Environment, path: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::Closed));
        Self { environment: environment.clone(), directory: LogDirectory::new(path), state }
    }

    /// The log's directory.
    pub const fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// Signs a tree head, if it may be signed. Where the future is dropped, it may be signed all the same.
    ///
    /// # Errors
    /// [`LogError`]: the keys, or the disk.
    pub async fn sign(&self, genesis: &Genesis, asked: SignedHead, shown: Shown) -> Result<Signing, LogError> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        let (environment, directory, genesis) = (self.environment.clone(), self.directory.clone(), genesis.clone());
        let signing = move || {
            if matches!(*state, State::Closed) {
                *state = open(&environment, &directory, &genesis)?;
            }
            let last = match &*state {
                State::Open(signer) => signer.last(),
                // Nothing was ever signed.
                State::Unnamed => SignedHead { size: TreeSize::new(0), root: empty_root() },
                State::Closed | State::Broken => return Err(failed("the disk failed under it before")),
            };
            match (Standing { shown, last }).judge(&asked) {
                Verdict::NotYet => return Ok(Signing::NotYet),
                Verdict::Passed => return Ok(Signing::Passed(last.size)),
                Verdict::Differs(root) => return Ok(Signing::Differs(root)),
                Verdict::Sign => {}
            }
            let State::Open(signer) = &mut *state else { return Ok(Signing::Same) };
            let signed = signer.sign(asked);
            if matches!(signed, Err(LogError::Signing(SigningError::Disk(_)))) {
                *state = State::Broken;
            }
            Ok(Signing::Signed(Box::new(signed?)))
        };
        tokio::task::spawn_blocking(signing).await.unwrap_or_else(|died| Err(failed(&died.to_string())))
    }
}

/// Reads the keys.
fn open(environment: &Environment, directory: &LogDirectory, genesis: &Genesis) -> Result<State, LogError> {
    Ok(match CheckpointSigner::open_if_known(environment, directory, genesis)? {
        Some(signer) => State::Open(Box::new(signer)),
        None => {
            tracing::warn!(
                "this node joined after the log was made: it holds a copy and votes, but the policy of the log does not \
                 name its keys, so it signs no checkpoint, and no proof rests on it; that takes a rotation of keys, which \
                 a later release brings"
            );
            State::Unnamed
        }
    })
}

fn failed(why: &str) -> LogError {
    LogError::File { file: "signing-state".to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(number: u64) -> Hash {
        Hash::new([u8::try_from(number).unwrap(); 32])
    }

    fn head(size: u64, of: u64) -> SignedHead {
        SignedHead { size: TreeSize::new(size), root: root(of) }
    }

    #[test]
    fn nothing_is_signed_beyond_what_is_applied_and_flushed_nor_behind_or_against_what_was_signed() {
        let mut signed = 0;
        for (asked, claimed, visible, last) in
            (0..6).flat_map(|a| (0..2).flat_map(move |c| (0..6).flat_map(move |v| (0..6).map(move |l| (a, c, v, l)))))
        {
            for known in [true, false] {
                for last_root in [0, 1] {
                    // The true root of each size is 0; somebody may claim, or have signed, 1.
                    let shown = Shown { visible: TreeSize::new(visible), root: known.then(|| root(0)) };
                    let verdict = Standing { shown, last: head(last, last_root) }.judge(&head(asked, claimed));
                    let may = known && asked <= visible && asked >= last && claimed == 0;
                    let may = may && (asked > last || last_root == 0);
                    assert_eq!(verdict == Verdict::Sign, may, "{asked} {claimed} {visible} {last} {last_root}");
                    if asked > visible {
                        assert!(matches!(verdict, Verdict::NotYet | Verdict::Passed));
                    }
                    signed += u32::from(may);
                }
            }
        }
        assert!(signed > 20);
    }

    #[test]
    fn another_root_is_told() {
        let shown = Shown { visible: TreeSize::new(9), root: Some(root(0)) };
        let standing = Standing { shown, last: head(5, 0) };
        assert_eq!(standing.judge(&head(7, 1)), Verdict::Differs(root(0)));
        let changed = Standing { shown, last: head(7, 1) };
        assert_eq!(changed.judge(&head(7, 0)), Verdict::Differs(root(1)), "this log was changed since it was signed");
    }
}
