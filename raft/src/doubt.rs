//! A last group in doubt: the peers are asked for it before this node takes part (FAULTS.md, "Torn tail or rot").
//!
//! Recovery has cut the group, and left what it knew of it in hard state ([`Doubt`]). All peers are asked what stands
//! behind the last sound entry, each again and again until it answers; nodes that start, or are in doubt themselves,
//! answer, too. What is taken is
//!
//! | of the lost entry is known | taken is | where nobody offers it |
//! |---|---|---|
//! | its header | that entry, and nothing else | as below |
//! | that it was committed | what stands there in the log with the highest last (term, index) | the node waits |
//! | nothing | the same | nothing: it was not acknowledged, as far as anybody knows |
//!
//! up to where the group ended. The node's vote comes to the term of an entry before the entry does: to have taken it
//! is then as if the leader of that term had sent it late.

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
use crate::gate::gather;
use crate::node::StartError;
use crate::starting::durable;
use crate::stored::Offer;

/// Between two rounds of questions for what is committed and nobody has.
const AGAIN: Duration = Duration::from_secs(1);

/// A log that has lost its last group.
pub(crate) struct Doubtful<'l> {
    pub(crate) store: &'l Arc<SegmentStore>,
    pub(crate) doubt: Doubt,
    /// Whose log it is.
    pub(crate) own: NodeId,
    pub(crate) peers: &'l BTreeMap<NodeId, Peer>,
}

impl Doubtful<'_> {
    /// Asks until the doubt is over; answers the vote of the node, which may have come to a later term.
    ///
    /// # Errors
    /// [`StartError`] of a log that cannot be written.
    pub(crate) async fn settle<E: fmt::Display, F: Future<Output = Result<Offer, E>>>(
        &self,
        mut vote: Vote,
        ask: impl Fn(NodeId, Peer, LogId) -> F,
    ) -> Result<Vote, StartError> {
        loop {
            let tail = self.store.tail();
            let Some(before) = tail.next_index.get().checked_sub(1).filter(|_| !self.doubt.is_over(&tail)) else {
                return Ok(vote);
            };
            let before = log_id(tail.last_term, RaftIndex::new(before));
            let offers = gather(self.peers, |node, peer| ask(node, peer, before)).await;
            match choose(&self.doubt, &tail, offers) {
                Some((node, entries)) => {
                    tracing::info!(%node, first = %tail.next_index, "the last group was torn; a peer has it");
                    vote = self.take(vote, entries).await?;
                }
                None if self.doubt.lacks_committed(&tail) => {
                    let (first, end) = (tail.next_index, self.doubt.committed);
                    tracing::warn!(%first, %end, "committed entries are torn here, and no peer that answers has them");
                    sleep(AGAIN).await;
                }
                None => return Ok(vote),
            }
        }
    }

    /// Appends the entries up to where the group ended, and waits until they are durable.
    async fn take(&self, mut vote: Vote, entries: Vec<Entry>) -> Result<Vote, StartError> {
        let last_term = entries.last().map_or(vote.term, |last| Term::new(last.leader.term));
        if last_term > vote.term {
            vote = Vote { term: last_term, node: self.own, committed: false };
            durable(|told| self.store.save_vote(vote, told)).await?;
        }
        let (store, doubt) = (Arc::clone(self.store), self.doubt);
        let append = move || -> Result<(), StartError> {
            for entry in entries {
                if doubt.is_over(&store.tail()) {
                    break;
                }
                store.append(entry.into_stored(), None)?;
            }
            Ok(store.flush().map_err(LogError::from)?)
        };
        spawn_blocking(append).await.unwrap_or_else(|died| Err(Poisoned(died.to_string().into()).into()))?;
        Ok(vote)
    }
}

/// The offer that counts: of those that can stand behind the tail, that of the log with the highest last entry.
fn choose(doubt: &Doubt, tail: &Tail, offers: Vec<(NodeId, Offer)>) -> Option<(NodeId, Vec<Entry>)> {
    let header = doubt.header.filter(|_| tail.next_index == doubt.first);
    let stands = |offer: &Offer| {
        let first = offer.entries.first().map(|first| first.clone().into_stored());
        let placed = first.and_then(|first| tail.place(first.kind, first.term, &first.body, first.payload.len()).ok());
        placed.is_some_and(|placed| header.is_none_or(|header| header == stored_checksum(&placed.bytes)))
    };
    let offers = offers.into_iter().filter(|(_, offer)| stands(offer));
    let best = offers.max_by_key(|(_, offer)| offer.last.map(|last| (last.leader_id.term, last.index)));
    best.map(|(node, offer)| (node, offer.entries))
}
