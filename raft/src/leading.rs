//! The task that drives the leader's sequencer: group commit without a timer.
//!
//! It begins when an entry of the node's own term is applied, and proposes for that term only, in one ordered
//! stream. While proposals are under way, what arrives is packed into the next batch. After anything but the
//! expected answer it waits until every proposal has a final one and all that was appended is applied, then begins
//! again from the heads there; what was pending is answered as retriable. So is everything once no majority has
//! answered for as long as openraft's lease lasts: somebody else may lead by then, and whoever sends is to look there.
//!
//! I-LEADING-1: a receipt is handed out only for a leaf that is applied.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, RaftMetrics, ServerState};
use stele_engine::environment::Clock;
use stele_engine::frame::EntryKind;
use stele_engine::intake::{Refusal, Submission};
use stele_engine::local::SealSettings;
use stele_engine::number::{RaftIndex, SegmentNumber, Term};
use stele_engine::reserved::{self, Genesis};
use stele_engine::sequencer::{Proposed, Sequenced, Sequencer};
use stele_engine::store::MAX_UNFLUSHED_BYTES;
use stele_proof::{TreeSize, UnixMillis};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::draft::Draft;
use crate::entry::{Outcome, Proposal, TypeConfig};
use crate::heirs::heirs;
use crate::intake::{Answered, Asked, Ended as SegmentEnded, Incoming, Made, Message, Refused};
use crate::machine::{Machine, SharedReplica};
use crate::rights::MayWrite;

/// Proposals under way.
const MAX_IN_FLIGHT: usize = 8;
/// Bytes from which on a batch does not wait for the one before it.
const PIPELINE_BYTES: usize = 256 << 10;
/// How long a batch waits for the one before it, however small it is: where sites are far apart, a quorum's answer
/// takes longer than any flush.
const PATIENCE: Duration = Duration::from_millis(8);
/// A leader whose disk has not finished a flush for so long hands over.
const HUNG: Duration = Duration::from_secs(2);
/// How often a leader looks for a change of the voters that another one left half done.
const FINISH_AGAIN: Duration = Duration::from_secs(2);
/// How often a leader looks for work that nobody sent: sealing, seal records.
const TICK: Duration = Duration::from_millis(50);

type Raft = openraft::Raft<TypeConfig, Machine>;
type Written = Result<ClientWriteResponse<TypeConfig>, openraft::errors::ClientWriteError<TypeConfig>>;

const ABOUT_TO_LEAD: Refused = Refused::Unavailable("this node is about to lead");

/// Whether a majority has answered this leader within its lease.
fn hears_majority(metrics: &RaftMetrics<TypeConfig>, lease: Duration) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().eq([metrics.id]);
    alone || metrics.last_quorum_acked.is_some_and(|acked| acked.elapsed() < lease)
}

/// Finishes a change of the voters that a lost leader left half done: until then the halves of the joint
/// configuration must both agree to everything.
async fn finish_change(raft: &Raft) {
    let voters = {
        let server = raft.server_metrics();
        let server = server.borrow_watched();
        let stored = &server.membership_config;
        let begun = stored.log_id().as_ref().map(|id| id.leader_id.term);
        match &stored.membership().get_joint_config()[..] {
            [_, .., voters] if begun.is_some_and(|begun| begun < server.vote.leader_id.term) => voters.clone(),
            _ => return,
        }
    };
    tracing::info!(?voters, "finishing the change of the voters that another leader began");
    if let Err(error) = raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await {
        tracing::warn!(%error, "the change of the voters is not finished; it is tried again");
    }
}

/// The task's tools.
pub(crate) struct Leading {
    pub(crate) raft: Raft,
    pub(crate) replica: SharedReplica,
    pub(crate) messages: mpsc::Receiver<Asked>,
    pub(crate) clock: std::sync::Arc<dyn Clock>,
    pub(crate) settings: SealSettings,
    /// How long the word of a majority holds: openraft takes no proposals behind that.
    pub(crate) lease: Duration,
    /// Identities that are remembered, to answer what is sent again.
    pub(crate) remembered: usize,
    /// What the first leader of an empty log writes.
    pub(crate) genesis: Option<Genesis>,
}

/// A message that was taken.
struct Pending {
    answered: Answered,
    /// How many leaves must be applied before it is answered.
    needs: TreeSize,
    answer: oneshot::Sender<Answered>,
    _room: OwnedSemaphorePermit,
}

/// A segment that somebody had ended: answered when its seal entry is applied. At most one for each proposal under
/// way, and one that is due.
struct Ending {
    segment: SegmentNumber,
    /// Leaves before the seal entry: no two seal entries have the same.
    end: TreeSize,
    answer: oneshot::Sender<Result<SegmentEnded, Refused>>,
}

/// How leading ended.
enum Ended {
    /// Begin again.
    Broken,
    /// Nobody sends any more.
    Stopped,
}

/// A term of leading.
struct Reign {
    sequencer: Sequencer,
    in_flight: FuturesOrdered<Flight>,
    pending: VecDeque<Pending>,
    /// When the last batch was proposed.
    proposed: Instant,
    endings: VecDeque<Ending>,
    /// Leaves that are applied.
    applied: TreeSize,
    /// How far this node's own disk was, and since when.
    flushed: (RaftIndex, Instant),
    /// Since when a segment holds records of clients, by this node's clock. What writers say of the time ends none.
    aging: Option<(SegmentNumber, UnixMillis)>,
}

type Flight = std::pin::Pin<Box<dyn Future<Output = (Option<Written>, Flown)> + Send>>;

/// What is remembered of a proposal.
struct Flown {
    kind: EntryKind,
    first_leaf: stele_proof::LeafIndex,
    end: TreeSize,
}

impl Leading {
    /// Runs until the intake is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let Some(sequencer) = self.wait_for_lead().await else { return };
            tracing::info!(term = sequencer.term().get(), leaves = sequencer.leaves().get(), "leading");
            let applied = sequencer.leaves();
            let mut reign = Reign {
                sequencer,
                in_flight: FuturesOrdered::new(),
                pending: VecDeque::new(),
                proposed: Instant::now(),
                endings: VecDeque::new(),
                applied,
                flushed: (RaftIndex::new(0), Instant::now()),
                aging: None,
            };
            let ended = self.lead(&mut reign).await;
            // Only what is applied for sure was answered as such; the rest is retriable.
            reign.give_up();
            self.drain(&mut reign).await;
            if matches!(ended, Ended::Stopped) {
                return;
            }
        }
    }

    /// Waits for the final answer to every proposal, which a leader without a majority does not get before it has one
    /// again or another one leads.
    async fn drain(&mut self, reign: &mut Reign) {
        let mut open = true;
        while !reign.in_flight.is_empty() {
            tokio::select! {
                _ = reign.in_flight.next() => {}
                message = self.messages.recv(), if open => match message {
                    Some(message) => {
                        let hears = hears_majority(&self.raft.metrics().borrow_watched(), self.lease);
                        message.refuse(&if hears { ABOUT_TO_LEAD } else { Refused::NotLeader(None) });
                    }
                    None => open = false,
                },
            }
        }
    }

    /// Waits until this node leads and everything that was appended is applied; `None` where nobody sends any more.
    async fn wait_for_lead(&mut self) -> Option<Sequencer> {
        // Those of the server change with the leader only, the others with every entry.
        let (mut server, mut metrics) = (self.raft.server_metrics(), self.raft.metrics());
        loop {
            let is_leader = server.borrow_watched().state == ServerState::Leader;
            let (leads, leader) = {
                let now = metrics.borrow_watched();
                let hears = hears_majority(&now, self.lease);
                let last = now.last_applied.as_ref();
                let settled = last.is_some_and(|last| {
                    last.leader_id.term == now.current_term && Some(last.index) == now.last_log_index
                });
                let leads = now.state == ServerState::Leader && settled && hears;
                // Where nobody has answered this leader for a while, there may be another one.
                let leader = now.current_leader.filter(|leader| hears || *leader != now.id);
                (leads.then_some(Term::new(now.current_term)), leader)
            };
            if let Some(term) = leads {
                let replica = self.replica.lock();
                if replica.tail().last_term == term {
                    let mut chains = replica.chains().clone();
                    chains.remember(self.remembered);
                    return Some(Sequencer::new(term, replica.tail(), replica.segment_start(), chains));
                }
            }
            let refused = match leader {
                Some(node) if node == *self.raft.node_id() => ABOUT_TO_LEAD,
                leader => Refused::NotLeader(leader),
            };
            let changed = async { if is_leader { metrics.changed().await } else { server.changed().await } };
            tokio::select! {
                message = self.messages.recv() => message?.refuse(&refused),
                changed = changed => if changed.is_err() { self.refuse_all().await; return None },
                () = tokio::time::sleep(TICK) => self.take_sealed().await,
            }
        }
    }

    /// openraft has stopped: nothing more can be appended here.
    async fn refuse_all(&mut self) {
        while let Some(message) = self.messages.recv().await {
            message.refuse(&Refused::Unavailable("this node has stopped"));
        }
    }

    async fn lead(&mut self, reign: &mut Reign) -> Ended {
        if reign.sequencer.leaves().get() == 0
            && let Some(genesis) = &self.genesis
            && let Err(refusal) = reign.sequencer.take_own(
                reserved::LOG_STREAM,
                reserved::GENESIS_KIND,
                &genesis.encode(),
                self.clock.now(),
            )
        {
            tracing::error!(%refusal, "the genesis record was refused");
            return Ended::Broken;
        }
        let raft = self.raft.clone();
        let finishing = async move {
            loop {
                finish_change(&raft).await;
                tokio::time::sleep(FINISH_AGAIN).await;
            }
        };
        let mut finishing = std::pin::pin!(finishing);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while self.has_room()
                && let Some(proposed) = reign.due()
            {
                if !self.propose(reign, proposed).await {
                    return Ended::Broken;
                }
            }
            let may_overtake = self.has_room() && reign.may_overtake();
            tokio::select! {
                biased;
                // First: whatever the load is, a leader looks after its disk, its lease and its segments.
                _ = tick.tick() => {
                    self.take_sealed().await;
                    self.hand_over_if_hung(reign).await;
                    if !self.housekeeping(reign) {
                        return Ended::Broken;
                    }
                }
                Some((written, flown)) = reign.in_flight.next() => {
                    if !reign.landed(written, &flown) {
                        return Ended::Broken;
                    }
                }
                message = self.messages.recv(), if !reign.sequencer.has_ready() => {
                    let Some(message) = message else { return Ended::Stopped };
                    reign.asked(message);
                    while !reign.sequencer.has_ready() && let Ok(message) = self.messages.try_recv() {
                        reign.asked(message);
                    }
                }
                () = tokio::time::sleep_until(reign.proposed + PATIENCE), if may_overtake => {}
                () = &mut finishing => {}
            }
        }
    }

    /// Hands a proposal to openraft; `false` where it has stopped.
    async fn propose(&self, reign: &mut Reign, proposed: Proposed) -> bool {
        let Proposed { kind, body, payload, first_leaf, end } = proposed;
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = crate::entry::CommittedLeader::new(reign.sequencer.term().get());
        let write = self.raft.write(Proposal { kind, body, payload }).with_leader(leader).responder(responder);
        if let Err(error) = write.await {
            tracing::error!(%error, "openraft takes no more proposals");
            return false;
        }
        let flown = Flown { kind, first_leaf, end };
        reign.in_flight.push_back(Box::pin(async move { (answer.await.ok(), flown) }));
        reign.proposed = Instant::now();
        true
    }

    /// Whether more may be appended here: not while too many bytes are not flushed.
    fn has_room(&self) -> bool {
        self.replica.lock().store().unflushed_bytes() <= MAX_UNFLUSHED_BYTES as u64
    }

    /// Hands over to the live follower that has most, where this node's own disk has made no progress for [`HUNG`]:
    /// commits would go on without it, and its memory would not.
    async fn hand_over_if_hung(&self, reign: &mut Reign) {
        let (durable, waits) = {
            let replica = self.replica.lock();
            (replica.store().durable(), replica.store().unflushed_bytes() > 0)
        };
        let now = Instant::now();
        if durable > reign.flushed.0 || !waits {
            reign.flushed = (durable, now);
        }
        if now.duration_since(reign.flushed.1) < HUNG {
            return;
        }
        reign.flushed.1 = now;
        let to = { heirs(&self.raft.metrics().borrow_watched()).first().copied() };
        let Some(to) = to else { return };
        tracing::warn!(to, "the disk of this leader has finished no flush for a while: handing over");
        if let Err(error) = self.raft.trigger().transfer_leader(to).await {
            tracing::warn!(%error, "handing over failed");
        }
    }

    /// Takes what sealing has finished; where this copy differs from the log, or could not be sealed, the node stops.
    async fn take_sealed(&self) {
        let taken = self.replica.lock().take_sealed();
        if let Err(error) = taken {
            tracing::error!(%error, "this copy of the log cannot go on");
            // What comes back is a panic of openraft's own, which has been told where it happened.
            drop(self.raft.shutdown().await);
        }
    }

    /// Ends a segment that is old or large; writes seal records that are due. `false` where this node leads no more, or cannot
    /// know that it does.
    fn housekeeping(&self, reign: &mut Reign) -> bool {
        if !self.raft.is_leader() || !hears_majority(&self.raft.metrics().borrow_watched(), self.lease) {
            return false;
        }
        let replica = self.replica.lock();
        let tail = replica.tail();
        if tail.segment == reign.sequencer.segment() {
            let now = self.clock.now();
            if replica.aging_since().is_some()
                && (reign.age(tail.segment, now) >= self.settings.after_ms
                    || tail.stored_bytes() >= self.settings.bytes)
            {
                reign.sequencer.end_segment();
            }
        }
        let mut due = Vec::new();
        let mut next = reign.sequencer.next_seal_record();
        while let Some(found) = replica.found(next) {
            due.push(found.encode());
            next = next.next();
        }
        drop(replica);
        for body in due {
            let (stream, kind) = (reserved::SEGMENTS_STREAM, reserved::SEGMENT_SEALED_KIND);
            if let Err(refusal) = reign.sequencer.take_own(stream, kind, &body, self.clock.now()) {
                tracing::error!(%refusal, "a seal record was refused");
                return false;
            }
        }
        true
    }
}

impl Reign {
    /// For how many milliseconds this leader has known that the segment holds records of clients.
    fn age(&mut self, segment: SegmentNumber, now: UnixMillis) -> u64 {
        let known = self.aging.filter(|(known, _)| *known == segment);
        let (_, since) = *self.aging.insert(known.unwrap_or((segment, now)));
        now.get().saturating_sub(since.get())
    }

    /// The next proposal, where one may go now.
    fn due(&mut self) -> Option<Proposed> {
        let full = self.sequencer.has_ready() || self.sequencer.waiting_bytes() >= PIPELINE_BYTES;
        let waited = self.may_overtake() && self.proposed.elapsed() >= PATIENCE;
        let may_go = self.in_flight.is_empty() || (full && self.in_flight.len() < MAX_IN_FLIGHT) || waited;
        may_go.then(|| self.sequencer.next_proposal()).flatten()
    }

    /// Whether records wait that could be proposed beside what is under way.
    fn may_overtake(&self) -> bool {
        self.sequencer.waiting_bytes() > 0 && (1..MAX_IN_FLIGHT).contains(&self.in_flight.len())
    }

    fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Append(message) => self.take(message),
            Asked::EndSegment(answer) => self.end_segment(answer),
        }
    }

    /// Ends the open segment, where it holds records.
    fn end_segment(&mut self, answer: oneshot::Sender<Result<SegmentEnded, Refused>>) {
        let (segment, end) = (self.sequencer.segment(), self.sequencer.leaves());
        self.sequencer.end_segment();
        if self.sequencer.segment() == segment {
            return drop(answer.send(Ok(None)));
        }
        self.endings.push_back(Ending { segment, end, answer });
    }

    /// Takes the records of a message.
    fn take(&mut self, message: Message) {
        let Message { records, may_write, answer, room } = message;
        let mut answered = Answered { answers: Vec::with_capacity(records.len()), made: Vec::new() };
        let mut needs = TreeSize::new(0);
        for run in records.chunk_by(|one, next| one.finished().is_some() && next.finished().is_some()) {
            match run {
                [Incoming::Draft(draft)] => self.take_draft(draft, &may_write, &mut answered, &mut needs),
                _ => self.take_finished(run, &may_write, &mut answered, &mut needs),
            }
        }
        self.pending.push_back(Pending { answered, needs, answer, _room: room });
        self.answer();
    }

    fn take_finished(&mut self, run: &[Incoming], may_write: &MayWrite, answered: &mut Answered, needs: &mut TreeSize) {
        let records = run.iter().filter_map(Incoming::finished);
        let submissions: Vec<_> = records
            .clone()
            .map(|submitted| Submission::Finished {
                bytes: &submitted.record,
                payload: submitted.payload.as_ref().map(|(salt, bytes)| (salt, &bytes[..])),
            })
            .collect();
        let mut taken = records;
        self.sequencer.take(&submissions, &|record| may_write.allows(record), &mut |sequenced| {
            let record = taken.next();
            answered.answers.push(match sequenced {
                Ok(Sequenced::At(receipt)) => {
                    *needs = (*needs).max(TreeSize::new(receipt.index.get() + 1));
                    Ok(receipt)
                }
                Ok(Sequenced::Older(self_hash)) => {
                    let record = record.map(|submitted| submitted.record.clone()).unwrap_or_default();
                    Err(Refused::Older { record, self_hash })
                }
                Err(refusal) => Err(Refused::Record(refusal)),
            });
        });
    }

    fn take_draft(&mut self, draft: &Draft, may_write: &MayWrite, answered: &mut Answered, needs: &mut TreeSize) {
        if !may_write.allows_names(&draft.names()) {
            return answered.answers.push(Err(Refused::Record(Refusal::Forbidden)));
        }
        let payload = draft.payload().map(|(salt, bytes)| (salt, &bytes[..]));
        let fate = self.sequencer.take_draft(&draft.builder(), payload).map(|(receipt, record)| {
            *needs = (*needs).max(TreeSize::new(receipt.index.get() + 1));
            let salt = draft.payload().map(|(salt, _)| *salt);
            answered.made.push(Made { place: answered.answers.len(), record: record.into(), salt });
            receipt
        });
        answered.answers.push(fate.map_err(Refused::Record));
    }

    /// Notes the answer to the oldest proposal; `false` where it is not the expected one.
    fn landed(&mut self, written: Option<Written>, flown: &Flown) -> bool {
        let outcome = match written {
            Some(Ok(response)) => response.data,
            Some(Err(error)) => {
                tracing::info!(%error, "a proposal was not taken");
                return false;
            }
            None => return false,
        };
        let expected = match flown.kind {
            EntryKind::Batch => Outcome::Leaves(flown.first_leaf),
            _ => Outcome::Done,
        };
        if outcome != expected {
            tracing::info!(%outcome, %expected, "a proposal came to something else");
            return false;
        }
        self.applied = flown.end;
        if flown.kind == EntryKind::Seal
            && self.endings.front().is_some_and(|ending| ending.end == flown.end)
            && let Some(ended) = self.endings.pop_front()
        {
            // Where whoever asked is gone, nobody wants the answer.
            drop(ended.answer.send(Ok(Some(ended.segment))));
        }
        self.answer();
        true
    }

    /// Answers the messages all of whose records are applied or refused, in order.
    fn answer(&mut self) {
        while self.pending.front().is_some_and(|pending| pending.needs <= self.applied)
            && let Some(done) = self.pending.pop_front()
        {
            // Where the client is gone, nobody wants the answer.
            drop(done.answer.send(done.answered));
        }
    }

    /// Answers all messages: what is applied has its place, the rest is retriable.
    fn give_up(&mut self) {
        let changed = Refused::Unavailable("the leader changed, or its lease had expired");
        for Pending { mut answered, answer, .. } in self.pending.drain(..) {
            for fate in &mut answered.answers {
                if fate.as_ref().is_ok_and(|receipt| !self.applied.contains(receipt.index)) {
                    *fate = Err(changed.clone());
                }
            }
            answered.made.retain(|made| answered.answers.get(made.place).is_some_and(Result::is_ok));
            drop(answer.send(answered));
        }
        for ending in self.endings.drain(..) {
            drop(ending.answer.send(Err(changed.clone())));
        }
    }
}
