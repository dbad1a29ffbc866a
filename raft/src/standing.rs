//! What nodes remember of each other, so that a disk that was lost, wiped or brought back from an old copy is
//! found before it votes.
//!
//! A log that was restored from a backup is consistent in itself: only others can tell. Each node remembers of each
//! peer the highest incarnation it has seen, and the highest position (the leader's term, the index) that the
//! peer's disk is known to have had: what a follower acknowledged to this node when it led, and what a leader, which
//! acknowledges to nobody, said of its own disk with each append and heartbeat. A node that starts shows what it has
//! ([`crate::gate`]); a peer that remembers more answers that it is stale, and then it neither votes nor
//! acknowledges, then or later.
//!
//! A position (term, index) says: while the node's vote was of that term, its disk had the entries up to that index.
//! Within a term a node's log only grows, as the leader's and as that of a follower which has acknowledged: whoever
//! shows the same term and less, or a lower term, shows an older disk. A later term says nothing of the index.
//!
//! The incarnation counts the starts that were let in, not all: a wiped disk that is started again and again in front
//! of a closed gate never comes to what was seen of the one before.
//!
//! A node whose last group was torn may have acknowledged that: it is judged once it has asked for it (`doubt`).
//!
//! I-STANDING-1: marks never go back. I-STANDING-2: a truncation that a later leader asked for is not stale: the
//! node's vote has that leader's term, which is beyond the mark's. I-STANDING-3: an incarnation is durable before a
//! peer is shown it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use stele_engine::hard_state::{HardState, MAX_PEERS, PeerMark};
use stele_engine::membership::MAX_NODES;
use stele_engine::number::{NodeId, RaftIndex, Term};
use tokio::sync::watch;

/// How far a node is with its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Its log is open, it answers who asks what it remembers, and it asks; nothing else.
    Starting,
    /// It was let in.
    Running,
    /// Its last group was torn, and it asks its peers for it: what it shows is less than what it will have.
    InDoubt,
}

/// What a node has when it starts, and shows whom it meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// How far its start is.
    pub phase: Phase,
    /// How many of its starts were let in: a running one counts itself.
    pub incarnation: u32,
    /// The term of its vote: when it started, where it connects; now, where it answers.
    pub vote_term: Term,
    /// One past its last entry, then or now.
    pub end: RaftIndex,
}

impl Shown {
    /// Whether the node of this mark no longer has what it acknowledged.
    fn lacks(&self, mark: &PeerMark) -> bool {
        // No leader has term 0: that is a mark of a node that has acknowledged nothing.
        if self.phase == Phase::InDoubt {
            return false;
        }
        let lost = mark.term > self.vote_term || (mark.term == self.vote_term && mark.index >= self.end);
        mark.term > Term::new(0) && lost
    }
}

/// What a peer remembers that a node no longer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stale {
    /// More of its starts were let in than it shows.
    #[error("{seen} starts of it were let in, and it shows {shown}: its disk is not the one it had")]
    Incarnation {
        /// What was seen.
        seen: u32,
        /// What it shows.
        shown: u32,
    },
    /// It has acknowledged entries, or counted them itself as a leader, that it no longer has.
    #[error(
        "it acknowledged entries up to {index} in term {term} and no longer has them: its disk is not the one it had"
    )]
    Acknowledged {
        /// The leader's term.
        term: Term,
        /// The index.
        index: RaftIndex,
    },
}

/// What a peer said of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("node {by} remembers more of it: {stale}")]
pub struct Told {
    /// Which peer.
    pub by: NodeId,
    /// What it remembers.
    pub stale: Stale,
}

/// The term of a node's vote and one past its last entry, both durable. The end is looked at first: a truncation comes
/// behind the vote for who asked for it.
type Now = Box<dyn Fn() -> (Term, RaftIndex) + Send + Sync>;

/// How a node stands with its peers: what it shows, what it remembers of them, and what one of them said of it.
#[derive(Clone)]
pub struct Standing(Arc<Shared>);

struct Shared {
    shown: Mutex<Shown>,
    now: OnceLock<Now>,
    marks: Marks,
    told: watch::Sender<Option<Told>>,
}

impl Standing {
    /// Of a node that nobody has said anything of.
    pub fn new(shown: Shown, marks: Marks) -> Self {
        Self(Arc::new(Shared { shown: Mutex::new(shown), now: OnceLock::new(), marks, told: watch::Sender::new(None) }))
    }

    /// What the node shows whom it connects to.
    pub fn shown(&self) -> Shown {
        *self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shows who connects to it.
    pub fn shown_now(&self) -> Shown {
        let shown = self.shown();
        let (vote_term, end) = self.0.now.get().map_or((shown.vote_term, shown.end), |now| now());
        Shown { vote_term, end, ..shown }
    }

    /// One past the last durable entry of a leader of this term, which it tells who follows it; 0 where it may be
    /// another's by now: whoever votes in a later term may truncate.
    pub(crate) fn flushed_in(&self, term: Term) -> RaftIndex {
        let now = self.0.now.get().map(|now| now());
        now.filter(|(vote_term, _)| *vote_term == term).map_or(RaftIndex::new(0), |(_, end)| end)
    }

    /// What it has from now on changes.
    pub(crate) fn follow(&self, now: impl Fn() -> (Term, RaftIndex) + Send + Sync + 'static) {
        // A node begins once.
        drop(self.0.now.set(Box::new(now)));
    }

    /// What it remembers.
    pub fn marks(&self) -> &Marks {
        &self.0.marks
    }

    /// Its last group is no longer in doubt: what it has now is what it starts with.
    pub(crate) fn settled(&self, vote_term: Term, end: RaftIndex) {
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = Shown { phase: Phase::Starting, vote_term, end, ..*shown };
    }

    /// From now on this is a running node's, and its incarnation, which is durable (I-STANDING-3).
    pub(crate) fn let_in(&self, incarnation: u32) {
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        (shown.phase, shown.incarnation) = (Phase::Running, incarnation);
    }

    /// Keeps what a peer said; the first stays.
    pub(crate) fn tell(&self, told: Told) {
        self.0.told.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(told);
            first
        });
    }

    /// What a peer said, where one finds this node stale: then it takes no part any more.
    pub fn told(&self) -> Option<Told> {
        *self.0.told.borrow()
    }

    /// Waits until a peer finds this node stale.
    pub async fn wait_told(&self) -> Told {
        let mut told = self.0.told.subscribe();
        let found = told.wait_for(Option::is_some).await.ok().and_then(|told| *told);
        match found {
            Some(told) => told,
            // The sender lives as long as this.
            None => std::future::pending().await,
        }
    }
}

/// What this node remembers of its peers.
#[derive(Clone, Default)]
pub struct Marks(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    marks: BTreeMap<NodeId, PeerMark>,
    /// Something was noted since the marks were taken to be saved.
    changed: bool,
}

impl Marks {
    /// What hard state holds.
    pub fn of(state: &HardState) -> Self {
        let marks = state.peers.iter().map(|mark| (mark.node, *mark)).collect();
        Self(Arc::new(Mutex::new(State { marks, changed: false })))
    }

    /// Judges what a peer shows that connects, and remembers its incarnation where it is not stale. A running node
    /// shows what it started with, again and again: what it has now would be older than what it acknowledges meanwhile.
    ///
    /// # Errors
    /// [`Stale`].
    pub fn meet(&self, node: NodeId, shown: &Shown) -> Result<(), Stale> {
        self.change(node, |mark| {
            // Only a new start can have lost anything: a running node acknowledges more than it showed.
            let begins = shown.phase == Phase::Starting || shown.incarnation > mark.incarnation;
            if begins && shown.incarnation >= mark.incarnation && shown.lacks(mark) {
                return Err(Stale::Acknowledged { term: mark.term, index: mark.index });
            }
            see(mark, shown.incarnation)
        })
    }

    /// What is remembered of a peer.
    pub fn of_peer(&self, node: NodeId) -> PeerMark {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.marks.get(&node).copied().unwrap_or_else(|| unknown(node))
    }

    /// Judges what a peer shows that answers: what it has now, which is at least what it had acknowledged before it was
    /// spoken to. So `before` is what was remembered then. Remembers its incarnation where it is not stale.
    ///
    /// # Errors
    /// [`Stale`].
    pub fn meet_answer(&self, shown: &Shown, before: &PeerMark) -> Result<(), Stale> {
        if shown.incarnation >= before.incarnation && shown.lacks(before) {
            return Err(Stale::Acknowledged { term: before.term, index: before.index });
        }
        self.change(before.node, |mark| see(mark, shown.incarnation))
    }

    /// Remembers that a peer had entries up to `index` on its disk while its vote was of `term`: it acknowledged them
    /// to the leader of that term, or led itself and said so.
    pub fn flushed(&self, node: NodeId, term: Term, index: RaftIndex) {
        self.change(node, |mark| {
            if (term, index) > (mark.term, mark.index) {
                (mark.term, mark.index) = (term, index);
            }
        });
    }

    fn change<T>(&self, node: NodeId, change: impl FnOnce(&mut PeerMark) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { marks, changed } = &mut *state;
        let known = marks.get(&node).copied();
        let mut mark = known.unwrap_or_else(|| unknown(node));
        let answer = change(&mut mark);
        // Without certificates anybody may come with any number.
        if known.is_some() || marks.len() < MAX_NODES {
            *changed |= known != Some(mark);
            marks.insert(node, mark);
        }
        answer
    }

    /// Has what is remembered saved, where something was noted since the last time; of too many peers those with the
    /// highest numbers. `save` puts it in a queue and does not wait: nothing is noted meanwhile, so what is queued
    /// behind it is newer, whoever else saves (I-STANDING-1).
    pub fn save_changed<T>(&self, save: impl FnOnce(Vec<PeerMark>) -> T) -> Option<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = std::mem::take(&mut state.changed);
        changed.then(|| save(state.marks.values().rev().take(MAX_PEERS).copied().collect()))
    }
}

/// Remembers an incarnation, unless a later one was seen.
fn see(mark: &mut PeerMark, incarnation: u32) -> Result<(), Stale> {
    if incarnation < mark.incarnation {
        return Err(Stale::Incarnation { seen: mark.incarnation, shown: incarnation });
    }
    mark.incarnation = incarnation;
    Ok(())
}

const fn unknown(node: NodeId) -> PeerMark {
    PeerMark { node, incarnation: 0, term: Term::new(0), index: RaftIndex::new(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(2);

    fn starting(incarnation: u32, vote_term: u64, end: u64) -> Shown {
        Shown { phase: Phase::Starting, incarnation, vote_term: Term::new(vote_term), end: RaftIndex::new(end) }
    }

    fn running(incarnation: u32, vote_term: u64, end: u64) -> Shown {
        Shown { phase: Phase::Running, ..starting(incarnation, vote_term, end) }
    }

    /// Of a node that was let in three times, began the last with 100 entries and acknowledged 50 more.
    fn marks() -> Marks {
        let marks = Marks::default();
        marks.meet(NODE, &running(3, 5, 100)).unwrap();
        marks.flushed(NODE, Term::new(5), RaftIndex::new(149));
        marks
    }

    #[test]
    fn a_wiped_disk_is_stale_however_often_it_is_started() {
        let marks = marks();
        for _ in 0..5 {
            // Nobody lets it in, so it counts nothing.
            let judged = marks.meet(NODE, &starting(0, 0, 1));
            assert_eq!(judged, Err(Stale::Incarnation { seen: 3, shown: 0 }));
        }
        // The node itself is not to blame, say for a disk that was not mounted.
        assert_eq!(marks.meet(NODE, &starting(3, 5, 150)), Ok(()));
    }

    #[test]
    fn a_copy_from_before_the_last_start_is_stale_whatever_it_holds() {
        let judged = marks().meet(NODE, &starting(2, 9, 1000));
        assert_eq!(judged, Err(Stale::Incarnation { seen: 3, shown: 2 }));
    }

    #[test]
    fn a_copy_of_the_running_node_is_stale_where_it_lacks_what_was_acknowledged() {
        let lacks = Err(Stale::Acknowledged { term: Term::new(5), index: RaftIndex::new(149) });
        assert_eq!(marks().meet(NODE, &starting(3, 5, 120)), lacks);
        assert_eq!(marks().meet(NODE, &starting(3, 5, 149)), lacks, "its last entry is 148");
        assert_eq!(marks().meet(NODE, &starting(3, 4, 200)), lacks, "whoever acknowledged in term 5 voted in it");
        assert_eq!(marks().meet(NODE, &running(4, 5, 120)), lacks, "somebody else let it in");
        assert_eq!(marks().meet(NODE, &starting(3, 5, 150)), Ok(()));
    }

    #[test]
    fn a_new_node_is_not_stale() {
        assert_eq!(Marks::default().meet(NODE, &starting(0, 0, 0)), Ok(()));
    }

    #[test]
    fn what_a_later_leader_truncated_is_not_stale() {
        assert_eq!(marks().meet(NODE, &starting(3, 6, 120)), Ok(()));
    }

    #[test]
    fn a_running_node_connects_again_with_what_it_started_with() {
        assert_eq!(marks().meet(NODE, &running(3, 5, 100)), Ok(()));
    }

    #[test]
    fn a_node_that_answers_is_judged_by_what_it_has_now_and_by_what_was_acknowledged_before() {
        let marks = marks();
        let before = marks.of_peer(NODE);
        // It was wiped in its last incarnation, and came to the same by its number.
        let lacks = Err(Stale::Acknowledged { term: Term::new(5), index: RaftIndex::new(149) });
        assert_eq!(marks.meet_answer(&running(3, 0, 0), &before), lacks);
        assert_eq!(marks.meet_answer(&running(3, 6, 10), &before), Ok(()), "a later leader truncated it");
        // What it acknowledges on another connection, while it is spoken to, is not held against it.
        marks.flushed(NODE, Term::new(5), RaftIndex::new(180));
        assert_eq!(marks.meet_answer(&running(3, 5, 150), &before), Ok(()));
        assert_eq!(marks.meet_answer(&running(2, 9, 999), &before), Err(Stale::Incarnation { seen: 3, shown: 2 }));
    }

    #[test]
    fn marks_never_go_back_and_are_saved_once() {
        let marks = marks();
        let take_changed = || marks.save_changed(|saved| saved);
        let saved = take_changed().unwrap();
        assert_eq!(take_changed(), None);
        marks.flushed(NODE, Term::new(5), RaftIndex::new(140));
        marks.flushed(NODE, Term::new(4), RaftIndex::new(900));
        assert_eq!(take_changed(), None);
        marks.flushed(NODE, Term::new(6), RaftIndex::new(10));
        let after = take_changed().unwrap();
        assert_eq!((saved[0].index, after[0].index), (RaftIndex::new(149), RaftIndex::new(10)));
    }

    #[test]
    fn what_is_saved_later_is_newer_whoever_saves() {
        let (marks, saved) = (Marks::default(), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for index in 0..20_000 {
                        marks.flushed(NODE, Term::new(1), RaftIndex::new(index));
                        marks.save_changed(|now| saved.lock().unwrap().push(now[0].index));
                    }
                });
            }
        });
        assert!(saved.into_inner().unwrap().is_sorted());
    }

    #[test]
    fn strangers_do_not_fill_the_memory() {
        let marks = Marks::default();
        for node in 0..2 * MAX_NODES as u64 {
            assert_eq!(marks.meet(NodeId::new(node), &running(1, 0, 0)), Ok(()));
        }
        assert_eq!(marks.0.lock().unwrap().marks.len(), MAX_NODES);
        assert_eq!(marks.save_changed(|saved| saved.len()), Some(MAX_PEERS));
    }
}
