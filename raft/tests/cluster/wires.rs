//! A network inside one process, whose wires can be cut, one way or both.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use stele_raft::entry::{CommittedLeader, Peer, TypeConfig, Vote};
use stele_raft::machine::Machine;

type Raft = openraft::Raft<TypeConfig, Machine>;

/// Who can be reached, and which ways are cut.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Raft>,
    cut: BTreeSet<(u64, u64)>,
}

impl Wires {
    pub(crate) fn join(&self, id: u64, raft: Raft) {
        self.0.lock().unwrap().nodes.insert(id, raft);
    }

    pub(crate) fn leave(&self, id: u64) {
        self.0.lock().unwrap().nodes.remove(&id);
    }

    /// Cuts a node off from all others, both ways.
    pub(crate) fn isolate(&self, id: u64, others: &[u64]) {
        let mut state = self.0.lock().unwrap();
        for other in others {
            state.cut.extend([(id, *other), (*other, id)]);
        }
    }

    /// Cuts one direction: what `from` says does not reach `to`.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.0.lock().unwrap().cut.insert((from, to));
    }

    /// Mends one direction.
    pub(crate) fn mend(&self, from: u64, to: u64) {
        self.0.lock().unwrap().cut.remove(&(from, to));
    }

    pub(crate) fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }

    fn way(&self, from: u64, to: u64) -> Option<Raft> {
        let state = self.0.lock().unwrap();
        if state.cut.contains(&(from, to)) { None } else { state.nodes.get(&to).cloned() }
    }

    pub(crate) fn of(&self, from: u64) -> Ends {
        Ends { from, wires: self.clone() }
    }
}

/// The ends of all wires at one node.
pub(crate) struct Ends {
    from: u64,
    wires: Wires,
}

impl RaftNetworkFactory<TypeConfig> for Ends {
    type Network = Wire;

    async fn new_client(&mut self, target: u64, _: &Peer) -> Wire {
        Wire { from: self.from, to: target, wires: self.wires.clone() }
    }
}

pub(crate) struct Wire {
    from: u64,
    to: u64,
    wires: Wires,
}

impl Wire {
    fn unreachable() -> RPCError<TypeConfig> {
        RPCError::Unreachable(Unreachable::from_string("the wire is cut"))
    }

    /// Asks, where the way there and the way back are whole.
    async fn ask<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        ask: impl FnOnce(Raft) -> F,
    ) -> Result<T, RPCError<TypeConfig>> {
        let raft = self.wires.way(self.from, self.to).ok_or_else(Self::unreachable)?;
        let answer =
            ask(raft).await.map_err(|error| RPCError::Unreachable(Unreachable::from_string(error.to_string())))?;
        self.wires.way(self.to, self.from).ok_or_else(Self::unreachable)?;
        Ok(answer)
    }
}

impl RaftNetworkV2<TypeConfig> for Wire {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(|raft| async move { raft.append_entries(rpc).await }).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(|raft| async move { raft.vote(rpc).await }).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(|raft| async move { raft.pre_vote(rpc).await }).await
    }

    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot<CommittedLeader, u64, Peer, ()>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        panic!("nothing is ever purged, so no snapshot is sent");
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(|raft| async move { raft.handle_transfer_leader(request).await }).await
    }
}
