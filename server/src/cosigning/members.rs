//! The copy that this node signs for, and the nodes that it asks.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::base::BoxFuture;
use stele_engine::number::NodeId;
use stele_engine::reserved::Genesis;
use stele_engine::signing_state::SignedHead;
use stele_proof::TreeSize;
use stele_proof::tree::Hash;
use stele_raft::peer::client::{PeerError, PeerFactory};
use stele_raft::peer::cosign::{CosignRequest, Cosigned};

use crate::reading::Readers;
use crate::serving::Raft;
use crate::view::View;

/// What an answer may take on its way, beyond what the node may wait.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// The node's own copy.
pub struct OwnCopy {
    /// The copy.
    pub view: View,
    /// For roots that are too old for memory.
    pub readers: Arc<Readers>,
}

impl super::LogCopy for OwnCopy {
    fn genesis(&self) -> Option<Genesis> {
        self.view.with(|replica| replica.genesis().cloned()).flatten()
    }

    fn head(&self) -> Option<SignedHead> {
        self.view.visible().map(|visible| SignedHead { size: visible.size(), root: visible.root() })
    }

    fn root_at(&self, size: TreeSize) -> BoxFuture<'_, Option<Hash>> {
        Box::pin(async move {
            if let Some(root) = self.view.with(|replica| replica.recent().root_at(size)).flatten() {
                return Some(root);
            }
            match self.readers.run(size, move |reader| reader.root_at(size)).await {
                Ok(root) => Some(root),
                Err(error) => {
                    tracing::warn!(%error, %size, "the root at a size cannot be read");
                    None
                }
            }
        })
    }
}

/// The members of the cluster.
pub struct Members {
    /// Who they are.
    pub raft: Raft,
    /// The way to them.
    pub factory: PeerFactory,
}

impl super::Others for Members {
    fn all(&self) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes().map(|(id, _)| *id);
        nodes.filter(|id| *id != metrics.id).map(NodeId::new).collect()
    }

    fn ask(&self, node: NodeId, request: CosignRequest) -> BoxFuture<'_, Result<Cosigned, PeerError>> {
        let peer = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_node(&node.get()).cloned()
        };
        Box::pin(async move {
            let peer = peer.ok_or_else(|| PeerError::Connect(format!("node {node} is no member any more")))?;
            self.factory.cosigner(node, &peer).cosign(request, ON_THE_WAY).await
        })
    }
}
