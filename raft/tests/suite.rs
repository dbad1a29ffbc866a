//! openraft's own tests of a log storage, all of them, over the segment store.
//!
//! They ask for what this log refuses: logs whose first entries were purged, or never existed. [`Purging`] gives
//! them that, from memory, around a [`RaftLog`] that is used as it is. Their state machine claims entries that no
//! log holds, so it is a small one in memory; the real one is tested with logs.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder, StorageError};
use stele_engine::birth::{MemberOptions, create_member};
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::environment::Environment;
use stele_engine::frame::Tail;
use stele_engine::hard_state::read_hard_state;
use stele_engine::number::{Alignment, BlockHeight, NodeId, RaftIndex};
use stele_engine::store::SegmentStore;
use stele_raft::entry::{CommittedLeader, Entry, LogId, Outcome, Peer, StoredMembership, TypeConfig, Vote};
use stele_raft::raft_log::RaftLog;
use tempfile::TempDir;

/// A log whose first entries can be gone.
#[derive(Clone)]
struct Purging {
    log: RaftLog,
    gone: Arc<Mutex<Gone>>,
}

#[derive(Default)]
struct Gone {
    purged: Option<LogId>,
    /// Entries below are not there, as far as anybody can see.
    before: u64,
}

impl RaftLogReader<TypeConfig> for Purging {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let mut entries = self.log.try_get_log_entries(range).await?;
        let before = self.gone.lock().unwrap().before;
        entries.retain(|entry| entry.index.get() >= before);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Purging {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.get_log_state().await?;
        let gone = self.gone.lock().unwrap();
        let last = state.last_log_id.filter(|last| last.index >= gone.before);
        Ok(LogState { last_purged_log_id: gone.purged, last_log_id: last.or(gone.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        let next = self.log.get_log_state().await?.last_log_id.map_or(0, |last| last.index + 1);
        let first = entries.first().map_or(next, |entry| entry.index.get());
        if first > next {
            // Blanks in the place of what is gone, of the term of the last entry that is really there.
            let last = self.log.get_log_state().await?.last_log_id;
            let term = last.map_or(CommittedLeader::new(0), |last| last.leader_id);
            let blank = |index| Entry::new_blank(LogId::new(term, index));
            entries.splice(..0, (next..first).map(blank));
            self.gone.lock().unwrap().before = first;
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut gone = self.gone.lock().unwrap();
        gone.purged = Some(log_id);
        gone.before = gone.before.max(log_id.index + 1);
        Ok(())
    }
}

/// A state machine in memory.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<Mutex<Option<Kept>>>,
}

type Kept = Snapshot<CommittedLeader, u64, Peer, ()>;

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Kept> {
        let meta =
            openraft::storage::SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let snapshot = Snapshot { meta, snapshot: () };
        *self.snapshot.lock().unwrap() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.applied = Some(entry.log_id());
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(self.applied, membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcome::Done);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::storage::SnapshotMeta<CommittedLeader, u64, Peer>,
        (): (),
    ) -> io::Result<()> {
        (self.applied, self.membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.snapshot.lock().unwrap() = Some(Snapshot { meta: meta.clone(), snapshot: () });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Kept>> {
        Ok(self.snapshot.lock().unwrap().clone())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, Purging, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Purging, Machine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let environment = Environment::system();
        let options =
            MemberOptions { node: NodeId::new(1), block_height: BlockHeight::DEFAULT, frame_align: Alignment::PAGE };
        create_member(&environment, &path, &options).unwrap();
        let log = LogDirectory::new(&path);
        let inventory = Inventory::take(environment.disk.as_ref(), &log).unwrap();
        let vote = read_hard_state(environment.disk.as_ref(), &log.hard_state()).unwrap().vote;
        let start = Tail::start(inventory.alignment, inventory.height);
        let (store, recovered) = SegmentStore::open(&environment, &log, &inventory, start).unwrap();
        assert_eq!(recovered.committed, RaftIndex::new(0));
        let log = RaftLog::new(Arc::new(store), &environment.disk, &log, inventory.alignment, vote);
        Ok((directory, Purging { log, gone: Arc::default() }, Machine::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_of_openraft_passes_whole() {
    Suite::test_all(Builder).await.unwrap();
}
