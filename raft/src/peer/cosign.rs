//! What peers say to each other about tree heads: a node shows one, and the others sign it or say why not.

use std::time::Duration;

use openraft::base::BoxFuture;
use stele_engine::number::NodeId;
use stele_engine::signing_state::SignedHead;
use stele_proof::TreeSize;
use stele_proof::tree::Hash;

/// Longest time that a node may be asked to wait.
pub const MAX_COSIGN_WAIT: Duration = Duration::from_secs(60);
/// Most bytes of the signature lines of a node.
pub const MAX_LINES_BYTES: usize = 2048;
/// Most bytes of a signed note that is sent along.
pub const MAX_COSIGNED_NOTE_BYTES: usize = 32 << 10;

/// A tree head that shall be signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CosignRequest {
    /// What the asking node has applied and flushed.
    pub head: SignedHead,
    /// How long the asked node may wait until it has as much; at most [`MAX_COSIGN_WAIT`], whole milliseconds.
    pub wait: Duration,
}

/// What a node says to a tree head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cosigned {
    /// It has applied and flushed as much, and its root is the same: its signature lines, each with its line feed; at
    /// most [`MAX_LINES_BYTES`].
    Signed(String),
    /// It has applied and flushed as much, and its root is the same; it does not sign, because the policy of the log
    /// does not name its keys.
    Same,
    /// It shows only so many records.
    NotYet(TreeSize),
    /// It has another root for this size: the two copies differ.
    Differs(Hash),
    /// It has signed a larger tree before, and goes not back.
    Passed {
        /// How large.
        size: TreeSize,
        /// The newest checkpoint that it knows with the signatures of a quorum, at most [`MAX_COSIGNED_NOTE_BYTES`];
        /// empty where it knows none.
        note: String,
    },
}

/// A node that signs nothing: its keys cannot be used, or its disk has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this node cannot sign")]
pub struct CannotCosign;

/// Who signs what peers ask for.
pub trait Cosign: Send + Sync + 'static {
    /// Signs a tree head that this node has applied and flushed, on its own word and not the asker's, and only if it
    /// is larger than the last one signed or the same (I-SIGNING-1); waits for as much as is missing, for as long as
    /// the request says. May be dropped.
    fn cosign(&self, from: NodeId, request: CosignRequest) -> BoxFuture<'_, Result<Cosigned, CannotCosign>>;
}

/// Signs nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoCosigner;

impl Cosign for NoCosigner {
    fn cosign(&self, _: NodeId, _: CosignRequest) -> BoxFuture<'_, Result<Cosigned, CannotCosign>> {
        Box::pin(std::future::ready(Err(CannotCosign)))
    }
}
