//! A node's start, phase by phase.
//!
//! | phase | what | who |
//! |---|---|---|
//! | open | the log is recovered, its first entry written where there is none | [`Starting::open`] |
//! | listen | peers that ask are answered with what is remembered of them | [`PeerServer::starting`] |
//! | ask | the peers give what they have of a last group in doubt, and say what they remember of this node | [`Starting::ask`], [`crate::gate`] |
//! | begin | the start is counted, consensus begins | [`Starting::begin`] |
//! | serve | requests of peers are answered | [`Giver::give`] |
//!
//! A node whose log was found stale stays stale: it says so in its hard state, and does not come past the first phase.
//!
//! [`PeerServer::starting`]: crate::peer::server::PeerServer::starting
//! [`Giver::give`]: crate::peer::server::Giver::give

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use openraft::network::RaftNetworkFactory;
use stele_engine::environment::Environment;
use stele_engine::error::{LogError, Poisoned};
use stele_engine::frame::EntryKind;
use stele_engine::hard_state::OwnStanding;
use stele_engine::number::{NodeId, RaftIndex, Term};
use stele_engine::replica::{Opened, Replica};
use stele_engine::store::{Entry, OnDurable, SegmentStore};
use tokio::sync::oneshot;

use crate::doubt::Doubtful;
use crate::entry::{LogId, Membership, Peer, TypeConfig, decode_membership};
use crate::gate::{self, LetIn};
use crate::node::{Begin, Birth, Node, NodeSettings, StartError};
use crate::peer::client::PeerFactory;
use crate::standing::{Marks, Phase, Shown, Standing, Told};
use crate::stored::{Offer, StoredEntries, Wanted};

/// A node that must not take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "node {node} must not take part any more: {}. Remove it from the cluster (`stele cluster remove {node}`), then \
     start it with an empty directory and a number that was never used, and let it in with `stele cluster join`",
    why(.told.as_ref())
)]
pub struct StaleNode {
    /// Which.
    pub node: NodeId,
    /// What a peer said; `None` where one said it before this start.
    pub told: Option<Told>,
}

fn why(told: Option<&Told>) -> String {
    let before = || "a peer remembered more of it than lies in its directory".to_owned();
    told.map_or_else(before, Told::to_string)
}

/// A node whose log is open, and that takes no part yet.
pub struct Starting {
    environment: Environment,
    settings: NodeSettings,
    begin: Begin,
    opened: Opened,
    standing: Standing,
    peers: BTreeMap<NodeId, Peer>,
}

impl Starting {
    /// Opens the log in `path`, and writes its first entry where there is none.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(
        environment: &Environment,
        path: &Path,
        settings: NodeSettings,
        begin: &Begin,
    ) -> Result<Self, StartError> {
        let opened = Replica::open(environment, path)?;
        let state = &opened.hard_state;
        if state.stale {
            let stale = StaleNode { node: state.node, told: None };
            opened.replica.close()?;
            return Err(stale.into());
        }
        let store = opened.replica.store();
        store.set_seal_bytes(settings.seal.bytes);
        if let Begin::Cluster(birth) = begin {
            begin_with(store, birth)?;
        }
        let shown = Shown {
            phase: if state.doubt.is_some() { Phase::InDoubt } else { Phase::Starting },
            incarnation: state.incarnation,
            vote_term: state.vote.term,
            end: store.tail().next_index,
        };
        let standing = Standing::new(shown, Marks::of(state));
        let peers = peers(&opened)?;
        Ok(Self { environment: environment.clone(), settings, begin: begin.clone(), opened, standing, peers })
    }

    /// What the node shows its peers, and what it remembers of them.
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Its copy of the log, in which nothing happens before consensus begins.
    pub const fn replica(&self) -> &Replica {
        &self.opened.replica
    }

    /// Whom it asks: nobody where no other node votes.
    pub const fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// What it offers to nodes in doubt.
    pub fn entries(&self) -> StoredEntries {
        let replica = &self.opened.replica;
        let alignment = replica.tail().alignment;
        StoredEntries::new(Arc::clone(replica.store()), &self.environment.disk, replica.directory(), alignment)
    }

    /// Whether its last group was torn, so that its peers are to be asked for it.
    pub fn is_in_doubt(&self) -> bool {
        self.standing.shown().phase == Phase::InDoubt
    }

    /// Waits until the peers have given what they have of a last group in doubt, and let the node in. Where the future is
    /// dropped, the log is closed and opened anew before they are asked again.
    ///
    /// # Errors
    /// [`StartError::Stale`]; from then on the directory stays refused. The others of a log that cannot be written.
    pub async fn ask(&mut self, network: &PeerFactory) -> Result<LetIn, StartError> {
        let standing = self.standing.clone();
        let offer = |node, peer, question| {
            let network = network.clone();
            async move { network.offer(node, &peer, question).await }
        };
        let settled = tokio::select! {
            settled = self.settle(offer) => settled.map(|()| None),
            told = standing.wait_told() => Ok(Some(told)),
        };
        let ask = |node, peer| {
            let network = network.clone();
            async move { network.ask(node, &peer).await }
        };
        let passed = match settled? {
            Some(told) => Err(told),
            None => gate::pass(&self.standing, &self.peers, ask).await,
        };
        match passed {
            Ok(let_in) => Ok(let_in),
            Err(told) => {
                keep_stale(self.opened.replica.store()).await?;
                Err(StaleNode { node: self.opened.hard_state.node, told: Some(told) }.into())
            }
        }
    }

    /// Waits until nothing of the last group is in doubt any more: it has been got from the peers, or none of them has
    /// it and nobody knows it to be committed. Where the future is dropped, the log is closed and opened anew.
    ///
    /// # Errors
    /// [`StartError`] of a log that cannot be written.
    pub async fn settle<E: fmt::Display, F: Future<Output = Result<Offer, E>>>(
        &mut self,
        ask: impl Fn(NodeId, Peer, (LogId, Wanted)) -> F,
    ) -> Result<(), StartError> {
        let Opened { replica, hard_state, .. } = &mut self.opened;
        if let (Some(doubt), Phase::InDoubt) = (hard_state.doubt, self.standing.shown().phase) {
            let store = replica.store();
            let (own, vote) = (hard_state.node, &mut hard_state.vote);
            Doubtful { store, doubt, own, peers: &self.peers, vote }.settle(ask).await?;
            self.standing.settled(hard_state.vote.term, store.tail().next_index);
        }
        Ok(())
    }

    /// Counts the start and begins consensus.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn begin<N>(self, LetIn { .. }: LetIn, network: N) -> Result<Node, StartError>
    where
        N: RaftNetworkFactory<TypeConfig>,
        N::Network: openraft::network::NetSnapshot<TypeConfig, SnapshotData = ()>,
    {
        if self.is_in_doubt() {
            return Err(StartError::InDoubt);
        }
        let Self { environment, settings, begin, opened, standing, .. } = self;
        let incarnation = opened.hard_state.incarnation.saturating_add(1);
        let store = opened.replica.store();
        durable(|told| store.save_standing(OwnStanding::LetIn(incarnation), told)).await?;
        // Shown from here on, for it is durable (I-STANDING-3).
        standing.let_in(incarnation);
        Node::begin(&environment, settings, &begin, opened, standing, network).await
    }

    /// Gives the start up; the log is closed cleanly.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn close(self) -> Result<(), LogError> {
        self.opened.replica.close()
    }
}

/// Keeps for ever that this directory is stale.
pub(crate) async fn keep_stale(store: &SegmentStore) -> Result<(), Poisoned> {
    durable(|told| store.save_standing(OwnStanding::Stale, told)).await
}

/// Saves at once, and waits for what is told when it is durable.
pub(crate) fn durable(save: impl FnOnce(OnDurable)) -> impl Future<Output = Result<(), Poisoned>> {
    let (tell, told) = oneshot::channel();
    // Nobody is told where whoever waits is gone.
    save(Box::new(move |result| drop(tell.send(result))));
    async move { told.await.unwrap_or_else(|_gone| Err(Poisoned("the log was closed".into()))) }
}

/// The other nodes of the last membership that is applied and of those behind it, where one of them votes.
fn peers(opened: &Opened) -> Result<BTreeMap<NodeId, Peer>, LogError> {
    let store = opened.replica.store();
    let mut memberships: Vec<Membership> = decode_membership(&opened.membership).into_iter().collect();
    // What is not applied yet lies in unsealed segments.
    for index in (opened.applied.get()..store.tail().next_index.get()).map(RaftIndex::new) {
        let entry = store.read_entry(index)?.filter(|entry| entry.kind == EntryKind::Membership);
        memberships.extend(entry.and_then(|entry| decode_membership(&entry.body)));
    }
    let own = opened.hard_state.node.get();
    if memberships.iter().all(|membership| membership.voter_ids().all(|voter| voter == own)) {
        return Ok(BTreeMap::new());
    }
    let nodes = memberships.iter().flat_map(|membership| membership.nodes()).filter(|(node, _)| **node != own);
    // Of a node that has moved, the last address counts.
    Ok(nodes.map(|(node, peer)| (NodeId::new(*node), peer.clone())).collect())
}

/// Appends the first entry where there is none; else it must be the same.
fn begin_with(store: &SegmentStore, birth: &Birth) -> Result<(), StartError> {
    if store.tail().next_index > RaftIndex::new(0) {
        // One that is sealed cannot be read here, and was compared when its peers were met.
        let first = store.read_entry(RaftIndex::new(0))?;
        let same =
            first.is_none_or(|first| first.kind != EntryKind::Membership || first.body == birth.membership.encode());
        return if same { Ok(()) } else { Err(StartError::OtherCluster) };
    }
    let body = birth.membership.encode().into();
    let entry = Entry { term: Term::new(0), kind: EntryKind::Membership, body, payload: bytes::Bytes::new() };
    store.append(entry, None)?;
    Ok(store.flush().map_err(LogError::from)?)
}
