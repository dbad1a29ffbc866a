//! A copy of a log whose order consensus decides: what is committed is applied, what has ended is sealed.
//!
//! Consensus appends to the store and truncates it; a replica learns of an entry when it is committed, and gives it
//! the same place that the store gave it, because a place is a pure function of the entries before. Applying never
//! refuses a batch that counts: a chain that does not hold, there, is damage or a bug, and stops the node.
//!
//! I-REPLICA-1: applied <= committed; what is visible is never beyond min(applied, durable here).
//! I-REPLICA-2: a segment is sealed here only once its last frame is applied, so no truncation reaches it.
//! I-REPLICA-3: a seal record says what sealing found here, or this copy stops. What was sealed last is compared again
//! after each start, as far as opening reads its record.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stele_proof::record::{Record, Salt};
use stele_proof::tree::{self, CompactRange};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};

use crate::birth::{read_genesis, refresh_description};
use crate::chains::Chains;
use crate::directory::{Inventory, LogDirectory, relative, remove_temporaries};
use crate::disk::{Access, Disk, DiskLock, Mode, read_small, replace};
use crate::environment::Environment;
use crate::error::LogError;
use crate::frame::{Placed, Tail};
use crate::hard_state::{HardState, read_hard_state};
use crate::local::take_lock;
use crate::number::{RaftIndex, SegmentNumber};
use crate::read_back::SegmentStart;
use crate::recent::RecentTree;
use crate::recovery::{Holders, TornTail};
use crate::replay::{Applied, each_stored};
use crate::reserved::{self, Genesis, SegmentSealed};
use crate::scan::{FrameScanner, Seen};
use crate::seal::SegmentEnd;
use crate::sealer::Sealer;
use crate::segment::SegmentFile;
use crate::store::{Entry, SegmentStore};

/// A copy of a log that follows what is committed.
pub struct Replica {
    environment: Environment,
    directory: LogDirectory,
    /// `None` until leaf 0 is applied.
    genesis: Option<Genesis>,
    /// Dropped before the sealer, which waits for it.
    store: Arc<SegmentStore>,
    /// Behind the last applied entry.
    tail: Tail,
    tree: CompactRange,
    /// The nodes that were applied last.
    recent: RecentTree,
    chains: Chains,
    /// Where the open segment began.
    start: SegmentStart,
    /// Time of the open segment's first record outside `stele/`.
    aging_since: Option<UnixMillis>,
    sealer: Sealer,
    /// What sealing found here, of segments whose seal record is not applied yet.
    found: BTreeMap<SegmentNumber, SegmentSealed>,
    /// What seal records say of segments that are not sealed here yet, or are being looked at again.
    told: BTreeMap<SegmentNumber, SegmentSealed>,
    /// Applied entries that are not durable here, as far as is known, with what the log added up to behind each.
    unconfirmed: VecDeque<Visible>,
    visible: Visible,
    /// Given back last.
    _lock: Box<dyn DiskLock>,
}

/// What a copy shows: applied, and durable here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visible {
    /// Behind the last entry that is shown.
    pub tail: Tail,
    /// The tree over all leaves that are shown.
    pub tree: CompactRange,
}

impl Visible {
    /// How many records are shown.
    pub const fn size(&self) -> TreeSize {
        self.tail.leaves
    }

    /// The root over them.
    pub fn root(&self) -> tree::Hash {
        self.tree.root()
    }
}

/// What opening a copy found.
pub struct Opened {
    /// The copy, applied up to what is known to be committed.
    pub replica: Replica,
    /// What hard state held, before this start was counted, with the doubt that recovery left.
    pub hard_state: HardState,
    /// One past the last entry that is applied.
    pub applied: RaftIndex,
    /// The body of the last membership entry that is applied; empty where there is none.
    pub membership: Vec<u8>,
    /// A torn tail that was cut. Where others hold the log, too, its doubt is in `hard_state`.
    pub torn: Option<TornTail>,
}

/// What applying an entry did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppliedEntry {
    /// Leaves it added; 0 for a batch that does not count.
    pub leaf_count: u32,
    /// The first of them.
    pub first_leaf: LeafIndex,
    /// Whether it ended a segment.
    pub ended_segment: bool,
}

impl Replica {
    /// Opens a node's directory: takes its lock, recovers it, and applies what is known to be committed.
    ///
    /// # Errors
    /// [`LogError::NoLog`], [`LogError::Locked`], [`LogError::Damaged`] and so on.
    pub fn open(environment: &Environment, path: &Path) -> Result<Opened, LogError> {
        let directory = LogDirectory::new(path);
        let disk = environment.disk.as_ref();
        Inventory::take(disk, &directory)?;
        let lock = take_lock(disk, &directory)?;
        let inventory = Inventory::take(disk, &directory)?;
        let before = read_hard_state(disk, &directory.hard_state())?;
        let state = Applied::of_copy_up_to_sealed(disk, &directory, &inventory)?;
        let behind = (state.tail, Holders::Members(&state.keeper.membership));
        let (store, recovered) = SegmentStore::open_held(environment, &directory, &inventory, behind)?;
        let doubt = read_hard_state(disk, &directory.hard_state())?.doubt;
        let hard_state = HardState { doubt, ..before };
        remove_temporaries(disk, &directory)?;
        // What is sealed is committed; the slot may lag behind it.
        let committed = committed_tail(disk, &directory, state.tail, &recovered.tail, recovered.committed)?;
        let mut state = state.up_to(disk, &directory, &inventory, &committed)?;
        let genesis = match committed.leaves.get() {
            0 => None,
            _ => Some(read_genesis(disk, &directory)?),
        };
        if let Some(genesis) = &genesis {
            refresh_description(disk, &directory, genesis)?;
        }
        let Some((start, keeper)) = state.starts.pop_front() else {
            unreachable!("the open segment has begun");
        };
        let membership = state.keeper.membership.clone();
        let store = Arc::new(store);
        store.progress().set_committed(committed.next_index);
        let sealer = Sealer::start(environment, &directory, store.progress(), keeper)?;
        let mut replica = Self {
            environment: environment.clone(),
            directory,
            genesis,
            store,
            tail: state.tail,
            chains: state.keeper.chains,
            start,
            aging_since: state.aging_since,
            sealer,
            found: BTreeMap::new(),
            told: state.told,
            unconfirmed: VecDeque::new(),
            visible: Visible { tail: state.tail, tree: state.tree.clone() },
            recent: RecentTree::behind(&state.tree),
            tree: state.tree,
            _lock: lock,
        };
        // Those that were sealed last may not have been compared, or were and differ, and this is another start.
        for told in replica.told.range(..inventory.sealed).map(|(_, told)| told.clone()).collect::<Vec<_>>() {
            replica.sealer.look_again(told);
        }
        // Ended segments that are not sealed here, or have no seal record, are sealed, oldest first.
        for (next, _) in state.starts {
            let end = SegmentEnd { tail: next.tail, root: next.tree.root() };
            replica.sealer.submit(std::mem::replace(&mut replica.start, next), end);
        }
        let applied = replica.tail.next_index;
        Ok(Opened { replica, hard_state, applied, membership, torn: recovered.cut })
    }

    /// Segments that are being sealed, or looked at again.
    pub const fn sealing(&self) -> usize {
        self.sealer.waiting()
    }

    /// The segment store, which consensus appends to.
    pub const fn store(&self) -> &Arc<SegmentStore> {
        &self.store
    }

    /// The log's directory.
    pub const fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// What genesis says; `None` before it is applied.
    pub const fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Behind the last applied entry.
    pub const fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The newest nodes of the tree, with those that are applied and not durable here yet.
    pub const fn recent(&self) -> &RecentTree {
        &self.recent
    }

    /// The chains behind the last applied entry.
    pub const fn chains(&self) -> &Chains {
        &self.chains
    }

    /// When the first record outside `stele/` came into the open segment, by its own time.
    pub const fn aging_since(&self) -> Option<UnixMillis> {
        self.aging_since
    }

    /// Leaves before the open segment.
    pub fn segment_start(&self) -> TreeSize {
        self.start.tree.size()
    }

    /// Applies the next committed entry.
    ///
    /// # Errors
    /// [`LogError::Damaged`] where it does not fit what was applied before: damage or a bug, and this node stops.
    ///
    /// # Panics
    /// Where it is not the next one.
    pub fn apply(&mut self, index: RaftIndex, entry: &Entry) -> Result<AppliedEntry, LogError> {
        assert_eq!(index, self.tail.next_index, "I-REPLICA-1: entries are applied in order, each once");
        let placed = match self.tail.place(entry.kind, entry.term, &entry.body, entry.payload.len()) {
            Ok(placed) => placed,
            Err(error) => return Err(self.damaged(&self.tail.offset.get(), None, &error)),
        };
        if placed.header.leaf_count > 0 {
            self.records(&placed, entry)?;
        }
        self.tail.advance(&placed);
        self.store.progress().set_committed(self.tail.next_index);
        if placed.ends_segment {
            let end = SegmentEnd { tail: self.tail, root: self.tree.root() };
            let next = SegmentStart { tail: self.tail, tree: self.tree.clone() };
            self.sealer.submit(std::mem::replace(&mut self.start, next), end);
            self.aging_since = None;
        }
        // What is durable meanwhile is let go: only what is not flushed yet is kept.
        self.visible();
        self.unconfirmed.push_back(Visible { tail: self.tail, tree: self.tree.clone() });
        Ok(AppliedEntry {
            leaf_count: placed.header.leaf_count,
            first_leaf: placed.header.first_leaf,
            ended_segment: placed.ends_segment,
        })
    }

    /// The records of a batch that counts.
    fn records(&mut self, placed: &Placed, entry: &Entry) -> Result<(), LogError> {
        let mut records = Vec::with_capacity(placed.header.leaf_count as usize);
        let mut told = Vec::new();
        each_stored(placed, &entry.body, &mut |leaf, record, stored| {
            self.recent.append(&mut self.tree, record.leaf_hash());
            if !record.is_reserved() {
                self.aging_since.get_or_insert(record.ts_ms());
            } else if let Some(body) = own_body(entry, stored.slot) {
                told.push((leaf, *record, body));
            }
            records.push((leaf, *record));
        })?;
        if let Err((leaf, error)) = self.chains.advance_frame(records.into_iter()) {
            return Err(self.damaged(&placed.offset.get(), Some(leaf), &error));
        }
        for (leaf, record, body) in told {
            self.own_record(placed, leaf, &record, &body)?;
        }
        Ok(())
    }

    /// A record that the log itself wrote.
    fn own_record(
        &mut self,
        placed: &Placed,
        leaf: LeafIndex,
        record: &Record<'_>,
        body: &[u8],
    ) -> Result<(), LogError> {
        if leaf.get() == 0 {
            let genesis =
                Genesis::decode(body).map_err(|error| self.damaged(&placed.offset.get(), Some(leaf), &error))?;
            self.born(genesis)?;
        } else if record.stream().escaped() == reserved::SEGMENTS_STREAM {
            let sealed =
                SegmentSealed::decode(body).map_err(|error| self.damaged(&placed.offset.get(), Some(leaf), &error))?;
            match self.found.remove(&sealed.segment) {
                Some(found) => self.compare(&found, &sealed)?,
                None => drop(self.told.insert(sealed.segment, sealed)),
            }
        }
        Ok(())
    }

    /// Writes what hangs on genesis: the description, and the policy where none was given.
    fn born(&mut self, genesis: Genesis) -> Result<(), LogError> {
        let disk = self.environment.disk.as_ref();
        refresh_description(disk, &self.directory, &genesis)?;
        let policy = self.directory.policy();
        if read_small(disk, &policy, genesis.policy.len())?.is_none() {
            replace(disk, &policy, genesis.policy.as_bytes(), Mode::Public)?;
        }
        self.genesis = Some(genesis);
        Ok(())
    }

    fn compare(&self, found: &SegmentSealed, told: &SegmentSealed) -> Result<(), LogError> {
        if found == told {
            return Ok(());
        }
        let name = relative(SegmentFile::Frames(told.segment));
        let what = format!(
            "its seal record says {}, and it is {} here: this copy differs from the log, and stops",
            told.file_digest, found.file_digest
        );
        Err(LogError::damaged(name, 0, None, what))
    }

    /// Takes what sealing has finished here since; compares it with the seal records that came before.
    ///
    /// # Errors
    /// [`LogError`]: a segment could not be sealed, or is not what its seal record says.
    pub fn take_sealed(&mut self) -> Result<(), LogError> {
        while let Some(found) = self.sealer.try_next()? {
            self.store.forget(found.segment);
            match self.told.remove(&found.segment) {
                Some(told) => self.compare(&found, &told)?,
                None => drop(self.found.insert(found.segment, found)),
            }
        }
        Ok(())
    }

    /// What the seal record of a segment has to say, where it is sealed here and the log has no record of it yet.
    pub fn found(&self, segment: SegmentNumber) -> Option<&SegmentSealed> {
        self.found.get(&segment)
    }

    /// What is applied and durable here.
    pub fn visible(&mut self) -> &Visible {
        let durable = self.store.durable();
        while let Some(next) = self.unconfirmed.front()
            && next.tail.next_index <= durable
            && let Some(next) = self.unconfirmed.pop_front()
        {
            self.visible = next;
        }
        &self.visible
    }

    fn damaged(&self, offset: &u64, leaf: Option<LeafIndex>, what: &dyn std::fmt::Display) -> LogError {
        LogError::damaged(relative(SegmentFile::Frames(self.tail.segment)), *offset, leaf, what)
    }

    /// Flushes what is queued and marks the clean stop.
    ///
    /// # Errors
    /// [`LogError`]: what made the writer stop.
    pub fn close(self) -> Result<(), LogError> {
        self.store.close()
    }
}

/// The body of a record of the log itself, out of the payload slots that came with its entry.
fn own_body(entry: &Entry, slot: (u32, u32)) -> Option<Bytes> {
    let start = usize::try_from(slot.0).ok()?.checked_add(Salt::LEN)?;
    let end = usize::try_from(slot.0).ok()?.checked_add(usize::try_from(slot.1).ok()?)?;
    (start < end && end <= entry.payload.len()).then(|| entry.payload.slice(start..end))
}

/// The tail behind the last entry that is known to be committed; at least `sealed`, at most `end`.
fn committed_tail(
    disk: &dyn Disk,
    directory: &LogDirectory,
    sealed: Tail,
    end: &Tail,
    committed: RaftIndex,
) -> Result<Tail, LogError> {
    let mut tail = sealed;
    while tail.next_index < committed.min(end.next_index) {
        let segment = tail.segment;
        let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
        let mut scanner = FrameScanner::new(file.as_ref());
        while tail.segment == segment && tail.next_index < committed.min(end.next_index) {
            let what = match scanner.at(&tail)? {
                Seen::Frame(placed, _) => {
                    tail.advance(&placed);
                    continue;
                }
                Seen::Nothing => "a frame is missing".to_owned(),
                Seen::Bad(fault) => fault.to_string(),
            };
            return Err(LogError::damaged(relative(SegmentFile::Frames(segment)), tail.offset.get(), None, what));
        }
    }
    Ok(tail)
}
