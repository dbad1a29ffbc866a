//! What nodes remember of each other, so that a disk that was lost, wiped or brought back from an old copy is
//! found before it votes.
//!
//! A log that was restored from a backup is consistent in itself: only others can tell. Each node remembers of each
//! peer the highest incarnation it has seen, and the highest position (the leader's term, the index) that the
//! peer has acknowledged as durable. A node that starts shows what it has; a peer that remembers more answers
//! that it is stale, and then it neither votes nor acknowledges.
//!
//! I-STANDING-1: marks never go back. I-STANDING-2: a truncation that a later leader asked for is not stale: the
//! node's vote has that leader's term, which is beyond the mark's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use stele_engine::hard_state::{HardState, MAX_PEERS, PeerMark};
use stele_engine::number::{NodeId, RaftIndex, Term};

/// What a node has when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    /// How often it has started, this start counted.
    pub incarnation: u64,
    /// The term of its vote.
    pub vote_term: Term,
    /// One past its last entry.
    pub end: RaftIndex,
}

/// What a peer remembers that a node no longer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stale {
    /// It has started more often than it shows.
    #[error("this node was seen in its start {seen} and shows start {shown}: its disk is not the one it had")]
    Incarnation {
        /// What was seen.
        seen: u64,
        /// What it shows.
        shown: u64,
    },
    /// It has acknowledged entries that it no longer has.
    #[error(
        "this node has acknowledged entries up to {index} in term {term} and no longer has them: its disk is not the one it had"
    )]
    Acknowledged {
        /// The leader's term.
        term: Term,
        /// The index.
        index: RaftIndex,
    },
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

    /// Judges what a peer shows when it is met, and remembers its incarnation where it is not stale. A connection of a
    /// running node shows what the node started with, again and again.
    ///
    /// # Errors
    /// [`Stale`].
    pub fn meet(&self, node: NodeId, shown: &Shown) -> Result<(), Stale> {
        self.change(node, |mark| {
            if shown.incarnation < mark.incarnation {
                return Err(Stale::Incarnation { seen: mark.incarnation, shown: shown.incarnation });
            }
            // Only a new start can have lost anything: a running node acknowledges more than it showed.
            // No leader has term 0: that is a mark of a node that has acknowledged nothing.
            let lost = mark.term > shown.vote_term || (mark.term == shown.vote_term && mark.index >= shown.end);
            if shown.incarnation > mark.incarnation && mark.term > Term::new(0) && lost {
                return Err(Stale::Acknowledged { term: mark.term, index: mark.index });
            }
            mark.incarnation = shown.incarnation;
            Ok(())
        })
    }

    /// Remembers that a peer acknowledged entries up to `index` to the leader of `term`.
    pub fn acknowledged(&self, node: NodeId, term: Term, index: RaftIndex) {
        self.change(node, |mark| {
            if (term, index) > (mark.term, mark.index) {
                (mark.term, mark.index) = (term, index);
            }
        });
    }

    fn change<T>(&self, node: NodeId, change: impl FnOnce(&mut PeerMark) -> T) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { marks, changed } = &mut *state;
        let unknown = PeerMark { node, incarnation: 0, term: Term::new(0), index: RaftIndex::new(0) };
        let mark = marks.entry(node).or_insert(unknown);
        let before = *mark;
        let answer = change(mark);
        *changed |= *mark != before;
        answer
    }

    /// What is to be saved, where something was noted since the last time; of too many peers those seen last by
    /// number.
    pub fn take_changed(&self) -> Option<Vec<PeerMark>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.changed).then(|| state.marks.values().rev().take(MAX_PEERS).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(2);

    fn shown(incarnation: u64, vote_term: u64, end: u64) -> Shown {
        Shown { incarnation, vote_term: Term::new(vote_term), end: RaftIndex::new(end) }
    }

    fn marks() -> Marks {
        let marks = Marks::default();
        marks.meet(NODE, &shown(3, 5, 100)).unwrap();
        marks.acknowledged(NODE, Term::new(5), RaftIndex::new(150));
        marks
    }

    #[test]
    fn a_disk_that_started_less_often_is_stale() {
        let seen = Stale::Incarnation { seen: 3, shown: 1 };
        assert_eq!(marks().meet(NODE, &shown(1, 0, 0)), Err(seen), "wiped");
    }

    #[test]
    fn a_copy_that_was_started_again_is_stale_where_it_lacks_what_was_acknowledged() {
        let lacks = Err(Stale::Acknowledged { term: Term::new(5), index: RaftIndex::new(150) });
        assert_eq!(marks().meet(NODE, &shown(4, 5, 120)), lacks);
        assert_eq!(marks().meet(NODE, &shown(4, 5, 150)), lacks, "its last entry is 149");
        assert_eq!(marks().meet(NODE, &shown(4, 4, 200)), lacks, "whoever acknowledged in term 5 voted in it");
        assert_eq!(marks().meet(NODE, &shown(4, 5, 151)), Ok(()));
    }

    #[test]
    fn a_new_node_is_not_stale() {
        assert_eq!(Marks::default().meet(NODE, &shown(1, 0, 0)), Ok(()));
    }

    #[test]
    fn what_a_later_leader_truncated_is_not_stale() {
        assert_eq!(marks().meet(NODE, &shown(4, 6, 120)), Ok(()));
    }

    #[test]
    fn a_running_node_connects_again_with_what_it_started_with() {
        assert_eq!(marks().meet(NODE, &shown(3, 5, 100)), Ok(()));
    }

    #[test]
    fn marks_never_go_back_and_are_saved_once() {
        let marks = marks();
        let saved = marks.take_changed().unwrap();
        assert_eq!(marks.take_changed(), None);
        marks.acknowledged(NODE, Term::new(5), RaftIndex::new(140));
        marks.acknowledged(NODE, Term::new(4), RaftIndex::new(900));
        assert_eq!(marks.take_changed(), None);
        marks.acknowledged(NODE, Term::new(6), RaftIndex::new(10));
        let after = marks.take_changed().unwrap();
        assert_eq!((saved[0].index, after[0].index), (RaftIndex::new(150), RaftIndex::new(10)));
    }
}
