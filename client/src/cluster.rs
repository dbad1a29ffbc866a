//! What operators do. Every call goes to the leader by itself, and may be repeated.

use core::fmt;
use core::future::Future;

use stele_api::MAX_MESSAGE_BYTES;
use stele_api::v1;
use stele_api::v1::cluster_client::ClusterClient;
use tonic::{Response, Status};

use crate::client::Client;
use crate::credentials::Wire;
use crate::error::CallError;

/// The number of a node in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNumber(u64);

impl NodeNumber {
    /// Wraps the plain number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a membership is refused that the loss of one site can stop.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Topology {
    /// It is refused.
    #[default]
    Safe,
    /// It is accepted: for a laptop.
    AllowUnsafe,
}

/// A node to be added.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNode {
    /// Its number, never used before.
    pub node: NodeNumber,
    /// Its site.
    pub site: String,
    /// Where peers reach it: `host:port`.
    pub addresses: Vec<String>,
    /// Where clients reach it: a URI.
    pub client_address: String,
    /// Its public keys.
    pub keys: v1::NodeKeys,
}

/// The calls of operators.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// What the nodes know about themselves and each other.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn status(&self) -> Result<v1::StatusResponse, CallError> {
        let request = v1::StatusRequest { log: self.log() };
        self.call(|mut cluster, request| async move { cluster.status(request).await }, request).await
    }

    /// Adds a node that follows without a vote.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn add_learner(&self, new: NewNode) -> Result<v1::AddLearnerResponse, CallError> {
        let NewNode { node, site, addresses, client_address, keys } = new;
        let (log, node, keys) = (self.log(), node.get(), Some(keys));
        let request = v1::AddLearnerRequest { log, node, site, addresses, client_address, keys };
        self.call(|mut cluster, request| async move { cluster.add_learner(request).await }, request).await
    }

    /// Makes exactly these nodes the voters.
    ///
    /// # Errors
    /// [`CallError`]; `Status` with `FailedPrecondition` for a membership that is not safe.
    pub async fn change_voters(
        &self,
        voters: &[NodeNumber],
        topology: Topology,
    ) -> Result<v1::ChangeVotersResponse, CallError> {
        let voters = voters.iter().copied().map(NodeNumber::get).collect();
        let allow_unsafe = topology == Topology::AllowUnsafe;
        let request = v1::ChangeVotersRequest { log: self.log(), voters, allow_unsafe };
        self.call(|mut cluster, request| async move { cluster.change_voters(request).await }, request).await
    }

    /// Removes a node that has no vote.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn remove_node(&self, node: NodeNumber) -> Result<v1::RemoveNodeResponse, CallError> {
        let request = v1::RemoveNodeRequest { log: self.log(), node: node.get() };
        self.call(|mut cluster, request| async move { cluster.remove_node(request).await }, request).await
    }

    /// Hands leadership to a voter.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn transfer_leader(&self, to: NodeNumber) -> Result<v1::TransferLeaderResponse, CallError> {
        let request = v1::TransferLeaderRequest { log: self.log(), to: to.get() };
        self.call(|mut cluster, request| async move { cluster.transfer_leader(request).await }, request).await
    }

    /// Ends the open segment.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn seal_segment(&self) -> Result<v1::SealSegmentResponse, CallError> {
        let request = v1::SealSegmentRequest { log: self.log() };
        self.call(|mut cluster, request| async move { cluster.seal_segment(request).await }, request).await
    }

    fn log(&self) -> String {
        self.client.log().as_str().to_owned()
    }

    async fn call<Q: Clone, A, F>(&self, ask: impl Fn(ClusterClient<Wire>, Q) -> F, request: Q) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let bounded = |channel| ClusterClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(self.client.ask(|channel| ask(bounded(channel), request.clone())).await?.into_inner())
    }
}
