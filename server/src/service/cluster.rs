//! The service `stele.v1.Cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use stele_api::v1::{
    AddLearnerRequest, AddLearnerResponse, ChangeVotersRequest, ChangeVotersResponse, NodeStatus, RemoveNodeRequest,
    RemoveNodeResponse, Role, SealSegmentRequest, SealSegmentResponse, StatusRequest, StatusResponse,
    TransferLeaderRequest, TransferLeaderResponse, cluster_server,
};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::number::{NodeId, RaftIndex, SegmentNumber, SiteName};
use stele_proof::TreeSize;
use stele_raft::entry::{Membership, Peer, TypeConfig};
use stele_raft::heirs::{has_caught_up, heirs};
use stele_raft::sites::{Topology, check_change};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::convert::refusal;
use crate::access;
use crate::serving::Serving;

/// Who may change the cluster.
const OPERATOR: &[access::Role] = &[access::Role::Operator];
/// Who may look at it.
const LOOKS: &[access::Role] = &[access::Role::Operator, access::Role::Auditor];
/// How long a change of the membership may take.
const CHANGE: Duration = Duration::from_secs(60);

type Answered<T> = Result<Response<T>, Status>;
type Metrics = RaftMetrics<TypeConfig>;

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    serving: Arc<Serving>,
    /// One change at a time is judged and proposed.
    changing: Arc<Mutex<()>>,
}

impl ClusterService {
    /// Answers from this.
    pub fn new(serving: Arc<Serving>) -> Self {
        Self { serving, changing: Arc::default() }
    }

    fn metrics(&self) -> Metrics {
        self.serving.raft.metrics().borrow_watched().clone()
    }

    /// The metrics of the leader.
    fn leading(&self) -> Result<Metrics, Status> {
        let metrics = self.metrics();
        if metrics.state == ServerState::Leader {
            Ok(metrics)
        } else {
            Err(self.serving.not_leader(metrics.current_leader))
        }
    }

    /// Has a change made, and answers where it stands in the Raft log. It goes on where nobody waits for it any more:
    /// one that is given up half way leaves a joint configuration.
    async fn change(&self, members: ChangeMembers<u64, Peer>, one: OwnedMutexGuard<()>) -> Result<u64, Status> {
        let raft = self.serving.raft.clone();
        let changing = tokio::spawn(async move {
            let changed = raft.change_membership(members, true).await;
            drop(one);
            changed
        });
        let changed = timeout(CHANGE, changing).await.map_err(|_elapsed| self.serving.late(CHANGE))?;
        match changed.map_err(|died| self.serving.fail(Status::internal(died.to_string())))? {
            Ok(response) => Ok(response.log_id.index),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(self.serving.not_leader(forward.leader_id))
            }
            Err(error) => Err(self.serving.fail(Status::failed_precondition(error.to_string()))),
        }
    }

    fn standing(metrics: &Metrics) -> u64 {
        metrics.membership_config.log_id().as_ref().map_or(0, |id| id.index)
    }

    fn invalid(&self, what: impl Into<String>) -> Status {
        self.serving.fail(Status::invalid_argument(what))
    }

    fn unmet(&self, what: impl Into<String>) -> Status {
        self.serving.fail(Status::failed_precondition(what))
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn status(&self, request: Request<StatusRequest>) -> Answered<StatusResponse> {
        self.serving.allow(&request, LOOKS)?;
        let asked = request.into_inner().log;
        if !asked.is_empty() {
            self.serving.log(&asked)?;
        }
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership().clone();
        let mut nodes: Vec<NodeStatus> =
            membership.nodes().map(|(id, peer)| self.node_status(&metrics, &membership, *id, peer)).collect();
        if let Some(own) = nodes.iter_mut().find(|status| status.node == metrics.id) {
            self.fill_own(&metrics, own).await?;
        }
        let leader = metrics.current_leader.map(|node| self.serving.leader(node));
        Ok(Response::new(StatusResponse { node: metrics.id, leader, nodes }))
    }

    async fn add_learner(&self, request: Request<AddLearnerRequest>) -> Answered<AddLearnerResponse> {
        self.serving.allow(&request, OPERATOR)?;
        let AddLearnerRequest { log, node, site, addresses, client_address, keys } = request.into_inner();
        self.serving.log(&log)?;
        let site = SiteName::new(&site).ok_or_else(|| self.invalid(format!("{site:?} is no site name")))?;
        if !(1..=8).contains(&addresses.len()) || addresses.iter().any(|address| address.contains("://")) {
            return Err(self.invalid("addresses are 1 to 8 of host:port"));
        }
        if !client_address.contains("://") {
            return Err(self.invalid("client_address is a URI, http://host:port or https://host:port"));
        }
        let keys = keys.ok_or_else(|| self.invalid("keys are missing"))?;
        let keys = [keys.log, keys.cosigner, keys.manifest].into_iter().filter(|key| !key.is_empty()).collect();
        let addresses = addresses.into_iter().chain([client_address]).collect();
        let peer = Peer { site, addresses, keys };
        let one = Arc::clone(&self.changing).lock_owned().await;
        let metrics = self.leading()?;
        match metrics.membership_config.membership().get_node(&node) {
            Some(known) if *known == peer => {
                return Ok(Response::new(AddLearnerResponse { membership: Self::standing(&metrics) }));
            }
            Some(_) => {
                let what = format!("node {node} is another one already; node numbers are never used twice");
                return Err(self.serving.fail(Status::already_exists(what)));
            }
            None => {}
        }
        let membership = self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, peer)])), one).await?;
        Ok(Response::new(AddLearnerResponse { membership }))
    }

    async fn change_voters(&self, request: Request<ChangeVotersRequest>) -> Answered<ChangeVotersResponse> {
        self.serving.allow(&request, OPERATOR)?;
        let ChangeVotersRequest { log, voters, allow_unsafe } = request.into_inner();
        self.serving.log(&log)?;
        let voters: BTreeSet<u64> = voters.into_iter().collect();
        let topology = if allow_unsafe { Topology::Any } else { Topology::SurvivesLossOfASite };
        let one = Arc::clone(&self.changing).lock_owned().await;
        let metrics = self.leading()?;
        let now = metrics.membership_config.membership();
        check_change(now, &voters, topology).map_err(|refused| self.unmet(refused.to_string()))?;
        if matches!(now.get_joint_config().as_slice(), [only] if *only == voters) {
            return Ok(Response::new(ChangeVotersResponse { membership: Self::standing(&metrics) }));
        }
        if let Some(behind) = voters.iter().find(|voter| !has_caught_up(&metrics, **voter)) {
            return Err(self.unmet(format!("node {behind} has not caught up; wait until it has, then ask again")));
        }
        let membership = self.change(ChangeMembers::ReplaceAllVoters(voters), one).await?;
        Ok(Response::new(ChangeVotersResponse { membership }))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Answered<RemoveNodeResponse> {
        self.serving.allow(&request, OPERATOR)?;
        let RemoveNodeRequest { log, node } = request.into_inner();
        self.serving.log(&log)?;
        let one = Arc::clone(&self.changing).lock_owned().await;
        let metrics = self.leading()?;
        let membership = metrics.membership_config.membership();
        if membership.get_node(&node).is_none() {
            return Ok(Response::new(RemoveNodeResponse { membership: Self::standing(&metrics) }));
        }
        if membership.voter_ids().any(|voter| voter == node) {
            return Err(self.unmet(format!("node {node} has a vote; name the voters without it first")));
        }
        let membership = self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), one).await?;
        Ok(Response::new(RemoveNodeResponse { membership }))
    }

    async fn transfer_leader(&self, request: Request<TransferLeaderRequest>) -> Answered<TransferLeaderResponse> {
        self.serving.allow(&request, OPERATOR)?;
        let TransferLeaderRequest { log, to } = request.into_inner();
        self.serving.log(&log)?;
        let metrics = self.leading()?;
        if metrics.id == to {
            return Ok(Response::new(TransferLeaderResponse { term: metrics.current_term }));
        }
        if !heirs(&metrics).contains(&to) {
            return Err(self.unmet(format!("node {to} is no voter that answers and has caught up")));
        }
        match hand_over(&self.serving, to).await {
            Some(term) => Ok(Response::new(TransferLeaderResponse { term })),
            None => Err(self.serving.late(HAND_OVER)),
        }
    }

    async fn seal_segment(&self, request: Request<SealSegmentRequest>) -> Answered<SealSegmentResponse> {
        self.serving.allow(&request, OPERATOR)?;
        self.serving.log(&request.into_inner().log)?;
        let deadline = self.serving.limits.request_timeout;
        let ended = timeout(deadline, self.serving.intake.end_segment()).await;
        match ended.map_err(|_elapsed| self.serving.late(deadline))? {
            Ok(ended) => Ok(Response::new(SealSegmentResponse { segment: ended.map(SegmentNumber::get) })),
            Err(refused) => Err(self.serving.refused(refusal(&self.serving, &refused))),
        }
    }
}

impl ClusterService {
    fn node_status(&self, metrics: &Metrics, membership: &Membership, id: u64, peer: &Peer) -> NodeStatus {
        let votes = membership.voter_ids().any(|voter| voter == id);
        let role = match () {
            () if metrics.current_leader == Some(id) => Role::Leader,
            () if votes => Role::Follower,
            () => Role::Learner,
        };
        let replication = metrics.replication.as_ref().and_then(|all| all.get(&id).copied());
        let matched = replication.flatten();
        // Only the leader replicates, and only it knows how far the others are.
        let behind = replication.filter(|_| id != metrics.id).map(|matched| {
            let end = RaftIndex::new(matched.map_or(0, |matched| matched.index + 1));
            self.serving.lately.behind(end, Instant::now())
        });
        NodeStatus {
            node: id,
            site: peer.site.to_string(),
            addresses: peer.peer_addresses().map(str::to_owned).collect(),
            client_address: self.serving.client_address(id, Some(peer)),
            role: role.into(),
            last: matched.map(|id| id.index),
            // What a follower has acknowledged is flushed there.
            durable: matched.map(|id| id.index),
            lag_records: behind.and_then(|behind| behind.records),
            lag_ms: behind.map(|behind| millis(behind.time)),
            agreed_size: self.agreed(NodeId::new(id)),
            ..NodeStatus::default()
        }
    }

    /// The last agreement with a node; of this node itself, with a quorum of sites.
    fn agreed(&self, of: NodeId) -> Option<u64> {
        let cosigning = &self.serving.cosigning;
        let size = if of.get() == *self.serving.raft.node_id() { cosigning.complete() } else { cosigning.agreed(of) };
        size.map(TreeSize::get)
    }

    /// What only the node itself knows.
    async fn fill_own(&self, metrics: &Metrics, own: &mut NodeStatus) -> Result<(), Status> {
        let serving = &self.serving;
        let found = serving.view.with(|replica| {
            let (tail, store) = (*replica.tail(), replica.store());
            (
                tail.next_index.get(),
                tail.leaves.get(),
                store.tail().next_index.get(),
                store.durable().get(),
                store.flush_times(),
            )
        });
        let (applied, leaves, last, durable, flushes) = found.ok_or_else(|| serving.stopping())?;
        if metrics.state == ServerState::Candidate {
            own.role = Role::Candidate.into();
        }
        own.term = Some(metrics.current_term);
        own.last = last.checked_sub(1);
        own.durable = durable.checked_sub(1);
        own.committed = metrics.local_committed.map(|id| id.index);
        own.applied = applied.checked_sub(1);
        own.tree_size = Some(leaves);
        own.flush_p50_us = flushes.map(|flushes| flushes.p50_micros);
        own.flush_p99_us = flushes.map(|flushes| flushes.p99_micros);
        if metrics.state == ServerState::Leader {
            (own.lag_records, own.lag_ms) = (Some(0), Some(0));
        }
        let (environment, path) = (serving.environment.clone(), serving.path.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let disk = environment.disk.as_ref();
            let sealed = Inventory::take(disk, &LogDirectory::new(&path)).map(|inventory| inventory.sealed.get());
            (sealed.ok(), disk.free_bytes(&path).ok())
        });
        if let Ok((sealed, free)) = looked.await {
            own.sealed_segments = sealed;
            own.free_bytes = free;
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long handing over may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Hands leadership to a node that is live and has caught up; its term, once it leads.
pub(crate) async fn hand_over(serving: &Serving, to: u64) -> Option<u64> {
    let mut metrics = serving.raft.metrics();
    if let Err(error) = serving.raft.trigger().transfer_leader(to).await {
        tracing::warn!(%error, to, "leadership cannot be handed over");
        return None;
    }
    let leads = async {
        loop {
            let now = {
                let now = metrics.borrow_watched();
                (now.current_leader, now.current_term)
            };
            if now.0 == Some(to) {
                return Some(now.1);
            }
            metrics.changed().await.ok()?;
        }
    };
    timeout(HAND_OVER, leads).await.ok().flatten()
}
