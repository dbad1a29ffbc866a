//! A last group in doubt: the peers are asked for it before this node takes part (FAULTS.md, "Torn tail or rot").
//!
//! Recovery has cut the group, and left what it knew of it in hard state ([`Doubt`]). All peers are asked how far they go
//! behind the last sound entry, each again and again until it answers; nodes that start, or are in doubt themselves,
//! answer, too. When all have answered, or [`REST`] is over, the entries of the log with the highest last (term, index)
//! are fetched, or of the next one that gives any, up to where the group ended:
//!
//! | of the lost entry is known | taken is | where nobody has it |
//! |---|---|---|
//! | its header | that entry, and nothing else in its place | as below |
//! | that it was committed | what stands there | the node waits |
//! | nothing | what stands there | nothing: it was not acknowledged, as far as anybody knows |
//!
//! The group came from the leader that the node's vote names as such ([`Doubt::leader`]). A log that has nothing of that
//! leader's term counts only for what is known to be committed, and after those that have: a node that took what stood
//! there before would hold other entries than it acknowledged to that leader, whose mark could not tell any more.
//!
//! The node's vote comes to the term of an entry before the entry does: to have taken it is then as if the leader of that
//! term had sent it late. A question is asked once: whoever drops it in the middle must open the log anew.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use stele_engine::error::{LogError, Poisoned};
use stele_engine::frame::{Tail, stored_checksum};
use stele_engine::hard_state::{Doubt, Vote};
use stele_engine::number::{NodeId, RaftIndex, Term};
use stele_engine::store::SegmentStore;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::entry::{Entry, LogId, Peer, log_id};
use crate::gate::{Asking, gather};
use crate::node::StartError;
use crate::starting::durable;
use crate::stored::{Offer, Wanted};

/// How long the others have once one has answered: some may still be starting.
pub(crate) const REST: Duration = Duration::from_secs(5);
/// Between two rounds of questions for what is committed and nobody has.
const AGAIN: Duration = Duration::from_secs(5);

/// A log that has lost its last group.
pub(crate) struct Doubtful<'l> {
    pub(crate) store: &'l Arc<SegmentStore>,
    pub(crate) doubt: Doubt,
    /// Whose log it is.
    pub(crate) own: NodeId,
    pub(crate) peers: &'l BTreeMap<NodeId, Peer>,
    /// The node's, which may come to a later term.
    pub(crate) vote: &'l mut Vote,
}

impl Doubtful<'_> {
    /// Asks until the doubt is over.
    ///
    /// # Errors
    /// [`StartError`] of a log that cannot be written.
    pub(crate) async fn settle<E: fmt::Display, F: Future<Output = Result<Offer, E>>>(
        mut self,
        ask: impl Fn(NodeId, Peer, (LogId, Wanted)) -> F,
    ) -> Result<(), StartError> {
        loop {
            let tail = self.store.tail();
            let Some(last) = tail.next_index.get().checked_sub(1).filter(|_| !self.doubt.is_over(&tail)) else {
                return Ok(());
            };
            let last = log_id(tail.last_term, RaftIndex::new(last));
            let asking = Asking { rest: REST, what: "waiting for a peer that says what comes behind this node's log" };
            let offers = gather(self.peers, |node, peer| ask(node, peer, (last, Wanted::Position)), asking).await;
            let (mut taken, mut failed) = (false, false);
            for node in in_order(&self.doubt, &last, &offers) {
                let Some(peer) = self.peers.get(&node) else { continue };
                match ask(node, peer.clone(), (last, Wanted::Entries)).await {
                    Ok(offer) => {
                        let entries = self.fitting(tail, offer.entries);
                        taken = !entries.is_empty();
                        self.take(entries).await?;
                    }
                    Err(error) => {
                        failed = true;
                        tracing::warn!(%node, %error, "a peer does not give what it has; it is asked again");
                    }
                }
                if taken {
                    let (first, end) = (tail.next_index, self.store.tail().next_index);
                    tracing::info!(%node, %first, %end, "the last group was torn; a peer has it");
                    break;
                }
            }
            // Who is gone for good gives no position either, the next time.
            if !taken && failed {
                sleep(AGAIN).await;
                continue;
            }
            if !taken && !self.doubt.lacks_committed(&tail) {
                return Ok(());
            }
            if !taken {
                tracing::warn!(
                    first = %tail.next_index, end = %self.doubt.committed,
                    "committed entries are torn here, and no peer that answers has them: this node waits for one; where \
                     none is left, replace it (`stele cluster join --replace`)"
                );
                sleep(AGAIN).await;
            }
        }
    }

    /// The entries that can stand behind the tail, up to where the group ended.
    fn fitting(&self, mut tail: Tail, offered: Vec<Entry>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for entry in offered {
            let stored = entry.clone().into_stored();
            let Ok(placed) = tail.place(stored.kind, stored.term, &stored.body, stored.payload.len()) else { break };
            let lost = self.doubt.header.filter(|_| tail.next_index == self.doubt.first);
            if self.doubt.is_over(&tail) || lost.is_some_and(|lost| lost != stored_checksum(&placed.bytes)) {
                break;
            }
            tail.advance(&placed);
            entries.push(entry);
        }
        entries
    }

    /// Appends entries, and waits until they are durable.
    async fn take(&mut self, entries: Vec<Entry>) -> Result<(), StartError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let term = Term::new(last.leader.term);
        if term > self.vote.term {
            let vote = Vote { term, node: self.own, committed: false };
            durable(|told| self.store.save_vote(vote, told)).await?;
            *self.vote = vote;
        }
        let store = Arc::clone(self.store);
        let append = move || -> Result<(), StartError> {
            for entry in entries {
                store.append(entry.into_stored(), None)?;
            }
            Ok(store.flush().map_err(LogError::from)?)
        };
        spawn_blocking(append).await.unwrap_or_else(|died| Err(Poisoned(died.to_string().into()).into()))
    }
}

/// The peers that may give what was lost, the best first: those that have heard of the leader that the group came from;
/// where there is none and something is known to be committed, the others.
fn in_order(doubt: &Doubt, last: &LogId, offers: &[(NodeId, Offer)]) -> Vec<NodeId> {
    let mut best: Vec<_> = offers.iter().filter(|(_, offer)| offer.goes_on(last)).collect();
    best.sort_by_key(|(_, offer)| std::cmp::Reverse(offer.last.map(|last| (last.leader_id.term, last.index))));
    let is_late = |offer: &Offer| offer.last.map_or(0, |last| last.leader_id.term) >= doubt.leader.get();
    if doubt.committed.get() <= last.index + 1 || best.iter().any(|(_, offer)| is_late(offer)) {
        best.retain(|(_, offer)| is_late(offer));
    }
    best.into_iter().map(|(node, _)| *node).collect()
}

#[cfg(test)]
mod tests {
    use stele_engine::number::{Offset, SegmentNumber};

    use super::*;
    use crate::stored::Holds;

    fn offer(holds: Holds, last: Option<(u64, u64)>) -> Offer {
        let last = last.map(|(term, index)| log_id(Term::new(term), RaftIndex::new(index)));
        Offer { last, holds, entries: Vec::new() }
    }

    #[test]
    fn the_log_with_the_highest_last_entry_is_asked_first_and_one_before_the_own_leader_not_at_all() {
        let own_last = log_id(Term::new(3), RaftIndex::new(10));
        let offers = [
            (1, offer(Holds::It, Some((3, 40)))),
            (2, offer(Holds::It, Some((4, 12)))),
            (3, offer(Holds::It, Some((4, 20)))),
            (4, offer(Holds::It, Some((4, 10)))),
            (5, offer(Holds::Not, Some((9, 90)))),
            (6, offer(Holds::Not, None)),
        ];
        let offers = offers.map(|(node, offer)| (NodeId::new(node), offer));
        let order = |leader, committed, offers: &[(NodeId, Offer)]| {
            let doubt = Doubt {
                first: RaftIndex::new(11),
                header: None,
                committed: RaftIndex::new(committed),
                leader: Term::new(leader),
                segment: SegmentNumber::new(0),
                end: Offset::new(0x5000),
            };
            in_order(&doubt, &own_last, offers).into_iter().map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(order(0, 0, &offers), [3, 2, 1], "who goes on behind the own last entry");
        assert_eq!(order(4, 0, &offers), [3, 2], "and has heard of the leader of term 4");
        assert_eq!(order(4, 12, &offers), [3, 2]);
        assert_eq!(order(5, 0, &offers), [0; 0]);
        assert_eq!(order(5, 11, &offers), [0; 0], "what is committed lies before");
        assert_eq!(order(5, 12, &offers), [3, 2, 1], "what is committed cannot be done without");
    }
}
