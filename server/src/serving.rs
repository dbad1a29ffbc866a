//! What the services answer from.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use stele_api::refusal::to_status;
use stele_api::v1::{Leader, Refusal, RefusalCode};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::replica::Visible;
use stele_engine::reserved::Genesis;
use stele_proof::TreeSize;
use stele_raft::entry::{Peer, TypeConfig};
use stele_raft::intake::Intake;
use stele_raft::machine::{Horizon, Machine, Shows};
use stele_raft::peer::ClusterId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::access::{Access, Caller, Denied, Role};
use crate::config::Limits;
use crate::cosigning::Cosigning;
use crate::counters::Counters;
use crate::lag::Lately;
use crate::reading::{ReadTrouble, Readers};
use crate::view::View;

/// openraft.
pub type Raft = openraft::Raft<TypeConfig, Machine>;

/// What the services answer from; shared by all calls.
pub struct Serving {
    /// Consensus.
    pub raft: Raft,
    /// The way in for records.
    pub intake: Intake,
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// The copy of the log.
    pub view: View,
    /// How many records are visible, for those who wait for more.
    pub visible: watch::Receiver<TreeSize>,
    /// The genesis record, once it is applied; it never changes.
    pub known: OnceLock<Genesis>,
    /// What was applied lately.
    pub lately: Lately,
    /// Reading threads.
    pub readers: Arc<Readers>,
    /// Looks for records that are older than what is remembered.
    pub looks: Readers,
    /// Checkpoints.
    pub cosigning: Arc<Cosigning>,
    /// The system.
    pub environment: Environment,
    /// The log's directory.
    pub path: PathBuf,
    /// Where clients reach this node: a URI.
    pub own_address: String,
    /// What clients may ask for.
    pub limits: Limits,
    /// Who may do what.
    pub access: Access,
    /// What was refused.
    pub counters: Arc<Counters>,
    /// Told when the node is about to stop.
    pub stopping: CancellationToken,
}

impl Serving {
    /// The genesis record, if this is the log that was asked for.
    ///
    /// # Errors
    /// NOT_FOUND, or UNAVAILABLE while there is no log yet.
    pub fn log(&self, origin: &str) -> Result<&Genesis, Status> {
        let genesis = self.genesis()?;
        if genesis.origin == origin {
            return Ok(genesis);
        }
        // It may be of any length, and a status is short.
        let origin: String = origin.chars().take(256).collect();
        Err(self.fail(Status::not_found(format!("no log {origin:?} is served here, but {:?}", genesis.origin))))
    }

    /// The genesis record.
    ///
    /// # Errors
    /// UNAVAILABLE while there is no log yet.
    pub fn genesis(&self) -> Result<&Genesis, Status> {
        if let Some(genesis) = self.known.get() {
            return Ok(genesis);
        }
        let genesis = self.view.with(|replica| replica.genesis().cloned()).ok_or_else(|| self.stopping())?;
        let genesis = genesis.ok_or_else(|| self.refuse(RefusalCode::Unavailable, "the log has no record yet"))?;
        Ok(self.known.get_or_init(|| genesis))
    }

    /// What is visible.
    ///
    /// # Errors
    /// UNAVAILABLE once the node stops.
    pub fn visible(&self) -> Result<Visible, Status> {
        self.view.visible().ok_or_else(|| self.stopping())
    }

    /// Where clients reach a node: as the membership says, but this one with the port that was really given.
    pub fn client_address(&self, node: u64, peer: Option<&Peer>) -> String {
        let said = peer.and_then(Peer::client_address);
        match said.filter(|said| node != *self.raft.node_id() || !said.ends_with(":0")) {
            Some(said) => said.to_owned(),
            None if node == *self.raft.node_id() => self.own_address.clone(),
            None => String::new(),
        }
    }

    /// A node that leads, with its address.
    pub fn leader(&self, node: u64) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let address = self.client_address(node, metrics.membership_config.membership().get_node(&node));
        Leader { node, address }
    }

    /// Who leads, as far as is known here.
    pub fn current_leader(&self) -> Option<Leader> {
        let leader = self.raft.metrics().borrow_watched().current_leader;
        leader.map(|node| self.leader(node))
    }

    /// Who calls, if they have any of these roles.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED.
    pub fn allow<T>(&self, request: &Request<T>, needed: &'static [Role]) -> Result<Caller, Status> {
        let caller = self.access.identify(request).map_err(|denied| self.deny(denied))?;
        caller.has(needed).map_err(|denied| self.deny(denied))?;
        Ok(caller)
    }

    /// The status of a call that is denied.
    pub fn deny(&self, denied: Denied) -> Status {
        match denied.code() {
            Code::PermissionDenied => self.refuse(RefusalCode::Forbidden, denied.to_string()),
            _ => {
                self.counters.unauthenticated();
                self.fail(denied.into())
            }
        }
    }

    /// The refusal of a call that only the leader answers.
    pub fn not_leader(&self, leader: Option<u64>) -> Status {
        let text = leader.map_or_else(|| "no leader is known".to_owned(), |node| format!("node {node} leads"));
        let leader = leader.map(|node| self.leader(node));
        self.counters.refused(RefusalCode::NotLeader);
        to_status(&Refusal { code: RefusalCode::NotLeader.into(), text, leader, ..Refusal::default() })
    }

    /// A refusal of a whole call.
    pub fn refuse(&self, code: RefusalCode, text: impl Into<String>) -> Status {
        self.refused(Refusal { code: code.into(), text: text.into(), ..Refusal::default() })
    }

    /// A refusal of a whole call, with what the client needs to go on.
    pub fn refused(&self, refusal: Refusal) -> Status {
        self.counters.refused(refusal.code());
        to_status(&refusal)
    }

    /// Counts a call that fails.
    pub fn fail(&self, status: Status) -> Status {
        self.counters.failed();
        status
    }

    /// This node stops.
    pub fn stopping(&self) -> Status {
        self.refuse(RefusalCode::Unavailable, "this node is stopping")
    }

    /// What a failed read is to a client.
    pub fn read_failed(&self, trouble: ReadTrouble) -> Status {
        let text = trouble.to_string();
        match trouble {
            ReadTrouble::Busy => self.refuse(RefusalCode::Busy, text),
            ReadTrouble::Stopping | ReadTrouble::Empty => self.refuse(RefusalCode::Unavailable, text),
            ReadTrouble::Fault => self.fail(Status::internal(text)),
            ReadTrouble::Log(error) => self.log_failed(&error),
        }
    }

    /// What a failed log is to a client.
    pub fn log_failed(&self, error: &LogError) -> Status {
        self.fail(match error {
            LogError::BeyondEnd { .. } => Status::not_found(error.to_string()),
            LogError::Damaged(_) | LogError::Generation(_) => {
                tracing::error!(%error, "damaged");
                Status::data_loss(error.to_string())
            }
            _ => {
                tracing::error!(%error, "the log cannot be read");
                Status::internal(error.to_string())
            }
        })
    }

    /// Waits until everything that was acknowledged before is visible here.
    ///
    /// # Errors
    /// NOT_LEADER; UNAVAILABLE without a quorum; DEADLINE_EXCEEDED.
    pub async fn linearize(&self) -> Result<(), Status> {
        let deadline = self.limits.request_timeout;
        let waited = tokio::time::timeout(deadline, self.ask_quorum()).await;
        waited.unwrap_or_else(|_elapsed| Err(self.late(deadline)))
    }

    async fn ask_quorum(&self) -> Result<(), Status> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => {}
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(self.not_leader(forward.leader_id));
            }
            Err(error) => return Err(self.refuse(RefusalCode::Unavailable, error.to_string())),
        }
        // What is applied now may not be flushed here yet.
        let applied = self.view.with(|replica| replica.tail().leaves).ok_or_else(|| self.stopping())?;
        self.wait_visible(applied).await.map(drop)
    }

    /// Waits until so many records are visible; how many are.
    ///
    /// # Errors
    /// UNAVAILABLE once the node stops.
    pub async fn wait_visible(&self, size: TreeSize) -> Result<TreeSize, Status> {
        let visible = self.visible()?.size();
        if visible >= size {
            return Ok(visible);
        }
        let mut visible = self.visible.clone();
        tokio::select! {
            reached = visible.wait_for(|visible| *visible >= size) => match reached {
                Ok(visible) => Ok(*visible),
                Err(_gone) => Err(self.stopping()),
            },
            () = self.stopping.cancelled() => Err(self.stopping()),
        }
    }

    /// A call took too long.
    pub fn late(&self, deadline: Duration) -> Status {
        self.fail(crate::deadline::late(deadline))
    }
}

/// How often it is looked whether a flush made more visible.
const LOOK: Duration = Duration::from_millis(1);

/// Tells how many records are visible, whenever there are more. Applying tells it itself where that is durable here
/// already; what is not is looked after here.
pub fn watch_visible(horizon: Horizon, view: &View, stopping: &CancellationToken) -> watch::Receiver<TreeSize> {
    let visible = horizon.visible();
    let (view, stopping) = (view.clone(), stopping.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = horizon.lagging() => {}
                () = stopping.cancelled() => return,
            }
            while view.look() == Some(Shows::NotAll) && !stopping.is_cancelled() {
                tokio::time::sleep(LOOK).await;
            }
        }
    });
    visible
}
