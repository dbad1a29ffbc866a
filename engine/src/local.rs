//! A log on one machine: a one-voter Raft log whose committed index is the durable one.
//!
//! It owns the chain heads and the tree, packs records into batches, ends and seals segments and
//! appends their seal records. What it acknowledges is durable.
//!
//! The bytes of the log are a function of the calls made, the clock and the randomness: a seal record
//! is appended at the latest before the leaf that completes the next block, else when the log is
//! closed, and never when a thread happens to be done.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use stele_proof::record::{
    Actor, Limits, MAX_RECORD_BYTES, Object, Record, RecordBuilder, Salt, SelfHash, Subject, canonical_text,
};
use stele_proof::tree::{self, CompactRange};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};

use crate::batch::BatchBuilder;
use crate::birth::{self, CreateOptions};
use crate::chains::{Chains, Head, MAX_CHAINS};
use crate::checkpointing::sign_checkpoint;
use crate::directory::{Inventory, LogDirectory, remove_temporaries};
use crate::disk::{Disk, DiskLock, Locking};
use crate::environment::Environment;
use crate::error::{LogError, Poisoned};
use crate::frame::{EntryKind, Placed, Tail};
use crate::hard_state::read_hard_state;
use crate::intake::{Admitted, Asker, Checked, GROUP, Refusal, Submission, admit, check_finished, decide};
use crate::number::{SegmentNumber, Term};
use crate::prepare::PreparingRefused;
use crate::read_back::SegmentStart;
use crate::recovery::{Holders, TornTail, lets_others_vote};
use crate::replay::{Applied, each_record};
use crate::reserved::{self, Genesis, SegmentSealed};
use crate::seal::{SegmentEnd, low_water};
use crate::sealer::Sealer;
use crate::signing_state::SignedHead;
use crate::sink::ChainName;
use crate::state::StateKeeper;
use crate::store::{AppendError, DEFAULT_SEAL_BYTES, Entry, SegmentStore};
use crate::walk::walk;
use crate::writer::OnDurable;

/// The only term of a log that one machine writes alone.
pub(crate) const LOCAL_TERM: Term = Term::new(1);
/// A batch is cut when its body or its payloads reach this many bytes.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Bytes that may be appended between two looks at the free space.
const SPACE_LOOK_BYTES: u64 = 1 << 20;

/// When an open segment that holds records is ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealSettings {
    /// Milliseconds since its first record outside the log's own streams.
    pub after_ms: u64,
    /// Bytes of its frames and payloads.
    pub bytes: u64,
}

impl Default for SealSettings {
    fn default() -> Self {
        Self { after_ms: 60 * 60 * 1000, bytes: DEFAULT_SEAL_BYTES }
    }
}

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Its leaf index.
    pub index: LeafIndex,
    /// Its hash.
    pub self_hash: SelfHash,
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The record is refused; the log goes on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot go on.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// An open log.
pub struct LocalLog {
    environment: Environment,
    directory: LogDirectory,
    genesis: Genesis,
    limits: Limits,
    settings: SealSettings,
    /// Dropped before the sealer, which waits for it.
    store: SegmentStore,
    chains: Chains,
    /// The tree over every record taken, durable or not.
    tree: CompactRange,
    batch: BatchBuilder,
    /// Canonical bytes of records that are being checked.
    checking: Vec<u8>,
    /// Where the open segment began.
    start: SegmentStart,
    /// When the first record outside `stele/` came into the open segment.
    aging_since: Option<UnixMillis>,
    /// Bytes that may be taken before the free space is looked at again.
    space_left: u64,
    sealer: Sealer,
    torn: Option<TornTail>,
    /// Given back last.
    _lock: Box<dyn DiskLock>,
}

impl LocalLog {
    /// Makes a new log in a directory that does not exist yet or is empty.
    ///
    /// # Errors
    /// [`LogError::Exists`], [`LogError::Disk`].
    pub fn create(environment: &Environment, path: &Path, options: &CreateOptions) -> Result<Self, LogError> {
        let directory = LogDirectory::new(path);
        let (lock, newborn) = birth::create(environment, &directory, options)?;
        let inventory = Inventory::take(environment.disk.as_ref(), &directory)?;
        let start =
            SegmentStart { tail: Tail::start(inventory.alignment, inventory.height), tree: CompactRange::new() };
        let (store, recovered) = SegmentStore::open(environment, &directory, &inventory, start.tail)?;
        let keeper = StateKeeper::new(MAX_CHAINS);
        let sealer = Sealer::start(environment, &directory, store.progress(), keeper)?;
        let mut log = Self {
            environment: environment.clone(),
            directory,
            genesis: newborn.genesis.clone(),
            limits: Limits::default(),
            settings: SealSettings::default(),
            store,
            chains: Chains::new(MAX_CHAINS),
            tree: CompactRange::new(),
            batch: BatchBuilder::default(),
            checking: Vec::new(),
            start,
            aging_since: None,
            space_left: 0,
            sealer,
            torn: recovered.cut,
            _lock: lock,
        };
        let entry = |term, kind, body: Vec<u8>| Entry { term, kind, body: body.into(), payload: Bytes::new() };
        log.append(entry(Term::new(0), EntryKind::Membership, newborn.membership.encode()))?;
        log.append(entry(LOCAL_TERM, EntryKind::Blank, Vec::new()))?;
        let body = newborn.genesis.encode();
        log.push_own(reserved::LOG_STREAM, reserved::GENESIS_KIND, &body)?;
        log.flush()?;
        Ok(log)
    }

    /// Opens a log for writing: takes its lock, recovers it, reads it once.
    ///
    /// # Errors
    /// [`LogError::NoLog`], [`LogError::Locked`], [`LogError::Damaged`] and so on.
    pub fn open(environment: &Environment, path: &Path) -> Result<Self, LogError> {
        let directory = LogDirectory::new(path);
        let disk = environment.disk.as_ref();
        Inventory::take(disk, &directory)?;
        let lock = take_lock(disk, &directory)?;
        let inventory = Inventory::take(disk, &directory)?;
        let state = Applied::up_to_sealed(disk, &directory, &inventory)?;
        let behind = (state.tail, Holders::Members(&state.keeper.membership));
        let (store, recovered) = SegmentStore::open_held(environment, &directory, &inventory, behind)?;
        // A log that is refused keeps every file as it is.
        remove_temporaries(disk, &directory)?;
        let mut state = state.up_to(disk, &directory, &inventory, &recovered.tail)?;
        let hard_state = read_hard_state(disk, &directory.hard_state())?;
        if hard_state.doubt.is_some() || lets_others_vote(hard_state.node, &state.keeper.membership) {
            return Err(LogError::Member(path.to_owned()));
        }
        let genesis = birth::read_genesis(disk, &directory)?;
        birth::refresh_description(disk, &directory, &genesis)?;
        let Some((start, keeper)) = state.starts.pop_front() else {
            unreachable!("the open segment has begun");
        };
        let sealer = Sealer::start(environment, &directory, store.progress(), keeper)?;
        let mut log = Self {
            environment: environment.clone(),
            directory,
            genesis,
            limits: Limits::default(),
            settings: SealSettings::default(),
            store,
            start,
            chains: state.keeper.chains,
            tree: state.tree,
            batch: BatchBuilder::default(),
            checking: Vec::new(),
            aging_since: state.aging_since,
            space_left: 0,
            sealer,
            torn: recovered.cut,
            _lock: lock,
        };
        // Ended segments without a seal record get theirs, oldest first.
        for (next, _) in state.starts {
            let end = SegmentEnd { tail: next.tail, root: next.tree.root() };
            log.sealer.submit(std::mem::replace(&mut log.start, next), end);
        }
        log.seal_if_due()?;
        Ok(log)
    }

    /// Sets when open segments are ended early.
    pub fn set_seal_settings(&mut self, settings: SealSettings) {
        self.store.set_seal_bytes(settings.bytes);
        self.settings = settings;
    }

    /// What genesis says.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// A torn tail that was cut when the log was opened; none of it had been acknowledged.
    pub const fn torn_tail(&self) -> Option<TornTail> {
        self.torn
    }

    /// How many records the log holds, those not yet durable included.
    pub const fn size(&self) -> TreeSize {
        self.tree.size()
    }

    /// The last record of a chain, those not yet durable included.
    pub fn head(&mut self, chain: ChainName<'_>) -> Option<Head> {
        self.chains.head(&canonical_text(chain.stream), &canonical_text(chain.writer_id))
    }

    /// Takes a record into the batch at hand. It is durable once a later [`LocalLog::cut`] says so.
    ///
    /// # Errors
    /// [`PushError::Refused`]: nothing of it was taken. [`PushError::Log`]: the log has stopped.
    pub fn push(&mut self, submission: &Submission<'_>) -> Result<Receipt, PushError> {
        self.keep_low_water(submission)?;
        self.make_room()?;
        let receipt = self.push_into_batch(submission, Asker::Client)?;
        if self.aging_since.is_none() {
            self.aging_since = Some(self.environment.clock.now());
        }
        Ok(receipt)
    }

    /// As [`LocalLog::push`] for each, in order, and `answer` is told of each in turn. Finished records are
    /// parsed and hashed side by side, which takes a fraction of the time. Behind a refusal the others are
    /// still taken, as far as their chains allow.
    ///
    /// # Errors
    /// [`LogError`]: the log has stopped; the submissions that were not answered were not taken.
    pub fn push_all(
        &mut self,
        submissions: &[Submission<'_>],
        answer: &mut dyn FnMut(Result<Receipt, Refusal>),
    ) -> Result<(), LogError> {
        let mut buffer = std::mem::take(&mut self.checking);
        for group in submissions.chunks(GROUP) {
            let checked = check_finished(group, &mut buffer);
            for (submission, checked) in group.iter().zip(checked) {
                match self.push_one(submission, checked) {
                    Ok(receipt) => answer(Ok(receipt)),
                    Err(PushError::Refused(refusal)) => answer(Err(refusal)),
                    Err(PushError::Log(error)) => return Err(error),
                }
            }
        }
        self.checking = buffer;
        Ok(())
    }

    fn push_one(
        &mut self,
        submission: &Submission<'_>,
        checked: Option<Result<Checked<'_>, Refusal>>,
    ) -> Result<Receipt, PushError> {
        let Some(checked) = checked else { return self.push(submission) };
        self.keep_low_water(submission)?;
        self.make_room()?;
        let receipt = self.push_checked(submission, &checked?)?;
        if self.aging_since.is_none() {
            self.aging_since = Some(self.environment.clock.now());
        }
        Ok(receipt)
    }

    /// Refuses a record that could leave no room to seal; what was taken before is not affected.
    fn keep_low_water(&mut self, submission: &Submission<'_>) -> Result<(), LogError> {
        let (Submission::Draft { payload, .. } | Submission::Finished { payload, .. }) = submission;
        // A record may end up in a frame of its own, and its payload likewise.
        let frame = u64::from(self.genesis.frame_align.get()) * 2 + MAX_RECORD_BYTES as u64;
        let takes = frame + payload.map_or(0, |(_, bytes)| bytes.len() as u64);
        if let Some(left) = self.space_left.checked_sub(takes) {
            self.space_left = left;
            return Ok(());
        }
        // What waits to be written is looked at first: what is written meanwhile counts twice, never not at all.
        let (body, payloads) = self.batch.byte_lens();
        let waiting = self.store.unflushed_bytes() + body as u64 + payloads as u64;
        let disk = Arc::clone(&self.environment.disk);
        let path = self.directory.path().to_owned();
        let look = || disk.free_bytes(&path).map(|free| free.saturating_sub(waiting));
        let needed = low_water(self.genesis.block_height) + SPACE_LOOK_BYTES + takes;
        let mut free = look()?;
        if free < needed && self.store.give_back_prepared(PreparingRefused { free, needed }) {
            free = look()?;
        }
        if free >= needed {
            self.space_left = SPACE_LOOK_BYTES;
            return Ok(());
        }
        // Space that was prepared is no longer free: where the frame finds its place in it, it takes none.
        let has_place = self.store.prepared_left() >= MAX_BATCH_BYTES as u64 + 2 * frame;
        if has_place && free >= needed - frame {
            return Ok(());
        }
        Err(LogError::NoSpace { path, free, needed })
    }

    /// Sees to it that the next record can be any record: the last leaf of a block waits until every
    /// ended segment has its seal record.
    fn make_room(&mut self) -> Result<(), LogError> {
        while self.sealer.is_busy() && self.room() == 1 {
            self.submit_batch()?;
            self.append_seal_records()?;
        }
        Ok(())
    }

    /// Leaves until the block is complete, the batch at hand counted.
    fn room(&self) -> u64 {
        let leaves = self.genesis.block_height.leaves();
        leaves - self.tree.size().get() % leaves
    }

    fn push_into_batch(&mut self, submission: &Submission<'_>, asker: Asker) -> Result<Receipt, PushError> {
        let start = self.batch.buffer().len();
        let admitted = admit(submission, asker, &self.limits, &mut self.chains, self.batch.buffer());
        if !matches!(admitted, Ok(Admitted::Next(..))) {
            self.batch.buffer().truncate(start);
        }
        self.take_admitted(submission, admitted?, start)
    }

    /// As [`LocalLog::push_into_batch`], for a client's record that was checked by itself.
    fn push_checked(&mut self, submission: &Submission<'_>, checked: &Checked<'_>) -> Result<Receipt, PushError> {
        let Checked { record, self_hash } = checked;
        let admitted = decide(record, *self_hash, Asker::Client, &self.limits, &mut self.chains)?;
        let start = self.batch.buffer().len();
        if let Admitted::Next(..) = admitted {
            self.batch.buffer().extend_from_slice(record.canonical());
        }
        self.take_admitted(submission, admitted, start)
    }

    /// Takes the record whose canonical bytes stand behind `start`, where it is the next of its chain.
    fn take_admitted(
        &mut self,
        submission: &Submission<'_>,
        admitted: Admitted,
        start: usize,
    ) -> Result<Receipt, PushError> {
        let (self_hash, seq) = match admitted {
            Admitted::Next(self_hash, seq) => (self_hash, seq),
            Admitted::Duplicate(self_hash, index) => return Ok(Receipt { index, self_hash }),
            Admitted::Older(self_hash) => return self.look_up(submission, self_hash),
        };
        let index = self.tree.size().next_leaf();
        self.tree.append(tree::leaf_hash(&self.batch.buffer()[start..]));
        self.chains.take_next(seq, self_hash, index);
        let (Submission::Draft { payload, .. } | Submission::Finished { payload, .. }) = submission;
        self.batch.push(start, *payload);
        let (body, payloads) = self.batch.byte_lens();
        let block_is_full = self.tree.size().get().is_multiple_of(self.genesis.block_height.leaves());
        if block_is_full || body >= MAX_BATCH_BYTES || payloads >= MAX_BATCH_BYTES {
            self.submit_batch()?;
        }
        Ok(Receipt { index, self_hash })
    }

    /// Finds an identity that is older than the window: by reading the log, until there is an index.
    fn look_up(&mut self, submission: &Submission<'_>, self_hash: SelfHash) -> Result<Receipt, PushError> {
        let Submission::Finished { bytes, .. } = submission else {
            unreachable!("a draft is always the next of its chain");
        };
        let Some(finished) = stele_proof::record::Finished::split(bytes) else {
            return Err(Refusal::NotFinished.into());
        };
        let mut canonical = Vec::new();
        finished.write_canonical(&mut canonical);
        let wanted = Record::parse(&canonical).map_err(Refusal::from)?;
        self.submit_batch()?;
        self.store.flush().map_err(LogError::from)?;
        let mut found = None;
        let disk = self.environment.disk.as_ref();
        let start = Tail::start(self.genesis.frame_align, self.genesis.block_height);
        walk(disk, &self.directory, start, &self.store.tail(), &mut |_, placed, body| {
            each_record(placed, body, &mut |leaf, record| {
                if record.seq() == wanted.seq()
                    && record.stream() == wanted.stream()
                    && record.writer_id() == wanted.writer_id()
                {
                    found = Some((leaf, record.self_hash()));
                }
            })
        })?;
        match found {
            Some((index, known)) if known == self_hash => Ok(Receipt { index, self_hash }),
            Some((at, _)) => Err(Refusal::Chain(crate::chains::ChainError::Tamper { at }).into()),
            None => {
                Err(LogError::damaged("segments", 0, None, "a chain's head is known and its older record is not")
                    .into())
            }
        }
    }

    /// Appends the batch at hand and tells `on_durable` when everything pushed so far is durable.
    ///
    /// # Errors
    /// [`LogError`]; `on_durable` is then told, or dropped.
    pub fn cut(&mut self, on_durable: OnDurable) -> Result<(), LogError> {
        self.submit_batch()?;
        self.store.notify(on_durable);
        self.seal_if_due()
    }

    /// As [`LocalLog::cut`], and waits.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.submit_batch()?;
        self.store.flush()?;
        Ok(())
    }

    fn submit_batch(&mut self) -> Result<(), LogError> {
        let count = self.batch.count() as u64;
        if count == 0 {
            return Ok(());
        }
        let first_leaf = LeafIndex::new(self.tree.size().get() - count);
        let (body, payload) = self.batch.take().cut(LOCAL_TERM, first_leaf);
        let placed = self.append(Entry { term: LOCAL_TERM, kind: EntryKind::Batch, body, payload })?;
        assert_eq!(u64::from(placed.header.leaf_count), count, "I-LOCAL-1: one writer makes no void batch");
        Ok(())
    }

    /// Appends one entry; where it ends a segment, hands that to the sealer.
    fn append(&mut self, entry: Entry) -> Result<Placed, LogError> {
        let progress = self.store.progress();
        let end = self.store.tail().next_index.next();
        let committed: OnDurable = Box::new(move |result| {
            if result.is_ok() {
                progress.set_committed(end);
            }
        });
        let placed = self.store.append(entry, Some(committed)).map_err(|error| match error {
            AppendError::Poisoned(poisoned) => LogError::Poisoned(poisoned),
            other => LogError::Poisoned(Poisoned(other.to_string().into())),
        })?;
        if placed.ends_segment {
            let tail = self.store.tail();
            let end = SegmentEnd { tail, root: self.tree.root() };
            let next = SegmentStart { tail, tree: self.tree.clone() };
            self.sealer.submit(std::mem::replace(&mut self.start, next), end);
            self.aging_since = None;
        }
        Ok(placed)
    }

    /// Appends the seal record of every segment that has ended, waiting for the sealer; not of those that
    /// the seal records themselves end, which have the next block's time.
    fn append_seal_records(&mut self) -> Result<(), LogError> {
        for _ in 0..self.sealer.waiting() {
            let Some(body) = self.next_sealed()? else { break };
            self.store.forget(body.segment);
            self.push_own(reserved::SEGMENTS_STREAM, reserved::SEGMENT_SEALED_KIND, &body.encode())?;
            self.submit_batch()?;
        }
        Ok(())
    }

    fn next_sealed(&mut self) -> Result<Option<SegmentSealed>, LogError> {
        if self.sealer.is_busy() {
            self.store.write_queued();
        }
        self.sealer.wait_next()
    }

    /// Without threads ([`crate::environment::Workers::Inline`]): writes what was appended.
    pub fn write_queued(&self) {
        self.store.write_queued();
    }

    /// Without threads: writes what was appended or, where nothing was, what a writer writes that has
    /// been idle for a while.
    pub fn confirm_idle(&self) {
        self.store.confirm_idle();
    }

    /// Without threads: does the next step of preparing space, where one is due.
    pub fn prepare_step(&self) {
        self.store.prepare_step();
    }

    /// Why space for the next segment file was not prepared, the first time that was so; appending goes on.
    pub fn preparing_refused(&self) -> Option<PreparingRefused> {
        self.store.preparing_refused()
    }

    /// Without threads: seals the next segment that has ended, where there is one.
    pub fn seal_next(&mut self) {
        if self.sealer.is_busy() {
            self.store.write_queued();
            self.sealer.seal_next();
        }
    }

    /// Appends a record of the log itself; its body is the payload, with nothing to hide.
    fn push_own(&mut self, stream: &str, kind: &str, body: &[u8]) -> Result<Receipt, LogError> {
        let builder = RecordBuilder {
            ts_ms: self.environment.clock.now(),
            writer_id: reserved::WRITER,
            stream,
            kind,
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let submission = Submission::Draft { builder: &builder, payload: Some((&Salt::ZERO, body)) };
        match self.push_into_batch(&submission, Asker::Log) {
            Ok(receipt) => Ok(receipt),
            Err(PushError::Log(error)) => Err(error),
            Err(PushError::Refused(refusal)) => panic!("the log's own record was refused: {refusal}"),
        }
    }

    /// Ends the open segment where it is old or large enough.
    fn seal_if_due(&mut self) -> Result<(), LogError> {
        let Some(since) = self.aging_since else { return Ok(()) };
        let age = self.environment.clock.now().get().saturating_sub(since.get());
        let tail = self.store.tail();
        if age >= self.settings.after_ms || tail.stored_bytes() >= self.settings.bytes {
            self.end_segment()?;
        }
        Ok(())
    }

    /// Ends the open segment by a seal entry; answers its number, or `None` where it holds no records.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn end_segment(&mut self) -> Result<Option<SegmentNumber>, LogError> {
        self.submit_batch()?;
        if self.start.tree.size() == self.tree.size() {
            return Ok(None);
        }
        let segment = self.store.tail().segment;
        let body = segment.get().to_le_bytes().to_vec().into();
        let placed = self.append(Entry { term: LOCAL_TERM, kind: EntryKind::Seal, body, payload: Bytes::new() })?;
        assert!(placed.ends_segment, "I-LOCAL-2: one writer makes no void seal entry");
        Ok(Some(segment))
    }

    /// Signs the durable size, stores the checkpoint and answers it.
    ///
    /// # Errors
    /// [`LogError::Signing`], [`LogError::File`] for the keys, [`LogError::Poisoned`].
    pub fn checkpoint(&mut self) -> Result<String, LogError> {
        self.flush()?;
        let head = SignedHead { size: self.tree.size(), root: self.tree.root() };
        sign_checkpoint(&self.environment, &self.directory, &self.genesis, head)
    }

    /// Flushes, seals every ended segment, appends their seal records, and marks the clean stop.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.submit_batch()?;
        while self.sealer.is_busy() {
            self.append_seal_records()?;
            self.submit_batch()?;
        }
        self.store.flush()?;
        self.store.close()
    }
}

/// Takes the directory's lock.
pub(crate) fn take_lock(disk: &dyn Disk, directory: &LogDirectory) -> Result<Box<dyn DiskLock>, LogError> {
    match disk.lock(&directory.lock(), &std::process::id().to_string())? {
        Locking::Taken(lock) => Ok(lock),
        Locking::HeldBy(holder) => Err(LogError::Locked { path: directory.path().to_owned(), holder }),
    }
}
