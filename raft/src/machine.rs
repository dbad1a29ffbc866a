//! The state machine: what openraft commits goes to the replica, entry by entry.
//!
//! It keeps nothing of its own on disk. What is applied after a start is what segments and state files say, up to
//! what recovery knows to be committed; openraft applies the rest again.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use stele_engine::frame::EntryKind;
use stele_engine::number::{RaftIndex, Term};
use stele_engine::replica::{Opened, Replica};
use stele_proof::TreeSize;
use tokio::sync::{Notify, watch};

use crate::entry::{CommittedLeader, LogId, Outcome, Peer, StoredMembership, TypeConfig, decode_membership, log_id};

/// A replica that several tasks look at; held for moments, never across an await.
#[derive(Clone)]
pub struct SharedReplica {
    replica: Arc<Mutex<Replica>>,
    horizon: Horizon,
}

/// How far a copy shows what it holds, for those who wait for more.
#[derive(Clone)]
pub struct Horizon {
    visible: Arc<watch::Sender<TreeSize>>,
    lagging: Arc<Notify>,
}

impl Horizon {
    /// How many records are visible, told when they are applied, if they are durable here by then; else when
    /// [`SharedReplica::look`] finds them so.
    pub fn visible(&self) -> watch::Receiver<TreeSize> {
        self.visible.subscribe()
    }

    /// Waits until something was applied that is not durable here yet.
    pub async fn lagging(&self) {
        self.lagging.notified().await;
    }
}

/// Whether a copy shows all that it has applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shows {
    /// All of it.
    All,
    /// Some of it is not durable here yet.
    NotAll,
}

impl SharedReplica {
    fn new(mut replica: Replica) -> Self {
        let visible = Arc::new(watch::Sender::new(replica.visible().size()));
        let horizon = Horizon { visible, lagging: Arc::default() };
        Self { replica: Arc::new(Mutex::new(replica)), horizon }
    }

    /// The replica, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it shows; does not keep the replica.
    pub fn horizon(&self) -> Horizon {
        self.horizon.clone()
    }

    /// Looks what is durable meanwhile, and tells those who wait for it.
    pub fn look(&self) -> Shows {
        self.tell(&mut self.lock())
    }

    fn tell(&self, replica: &mut Replica) -> Shows {
        let (visible, applied) = (replica.visible().size(), replica.tail().leaves);
        self.horizon.visible.send_if_modified(|told| std::mem::replace(told, visible) != visible);
        if visible < applied { Shows::NotAll } else { Shows::All }
    }
}

/// openraft's state machine.
pub struct Machine {
    replica: SharedReplica,
    applied: Option<LogId>,
    membership: StoredMembership,
}

type Snapshot = openraft::storage::Snapshot<CommittedLeader, u64, Peer, ()>;

impl Machine {
    /// Takes over what was opened.
    pub fn new(opened: Opened) -> (Self, SharedReplica) {
        let tail = *opened.replica.tail();
        let applied = opened.applied.get().checked_sub(1).map(|index| log_id(tail.last_term, RaftIndex::new(index)));
        // Where exactly the last membership stands does not matter: at or before what is applied.
        let membership = decode_membership(&opened.membership)
            .map_or_else(StoredMembership::default, |membership| StoredMembership::new(applied, membership));
        let replica = SharedReplica::new(opened.replica);
        (Self { replica: replica.clone(), applied, membership }, replica)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let id = log_id(Term::new(entry.leader.term), entry.index);
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(Some(id), membership);
            }
            let (index, stored) = (entry.index, entry.into_stored());
            let applied = {
                let mut replica = self.replica.lock();
                let applied = replica.apply(index, &stored).map_err(io::Error::other)?;
                replica.take_sealed().map_err(io::Error::other)?;
                if self.replica.tell(&mut replica) == Shows::NotAll {
                    self.replica.horizon.lagging.notify_one();
                }
                applied
            };
            self.applied = Some(id);
            if let Some(responder) = responder {
                responder.send(match stored.kind {
                    EntryKind::Batch if applied.leaf_count == 0 => Outcome::Void,
                    EntryKind::Batch => Outcome::Leaves(applied.first_leaf),
                    EntryKind::Seal if !applied.ended_segment => Outcome::Void,
                    _ => Outcome::Done,
                });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::storage::SnapshotMeta<CommittedLeader, u64, Peer>,
        (): (),
    ) -> io::Result<()> {
        Err(io::Error::other(format!("a snapshot came in, {meta}; this log is copied by segments")))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(None)
    }
}

/// Nothing is ever purged, so openraft needs no snapshot: a node that is far behind copies sealed segments.
pub struct NoSnapshots;

impl RaftSnapshotBuilder<TypeConfig> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Err(io::Error::other("this log is copied by segments, not by snapshots"))
    }
}
