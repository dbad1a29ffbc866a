//! The gate before consensus: what do the peers remember of this node?
//!
//! A node that starts asks all nodes of the memberships that its log holds, each again and again until it answers.
//! It is let in when one has answered, the others have had [`REST`] after that, and none of those that did remembers
//! more of it than it shows. While nobody answers it waits: alone it can neither vote nor be wanted. Nodes that start
//! answer, too, so that a cluster can start that lost power everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use stele_engine::number::NodeId;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use crate::entry::Peer;
use crate::standing::{Standing, Told};

/// How long the others have once one has answered.
pub const REST: Duration = Duration::from_secs(1);
/// Between two questions to a node that does not answer.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it is said who is waited for, and why.
const SAY: Duration = Duration::from_secs(5);

/// That a start was let in.
#[derive(Debug)]
pub struct LetIn(());

impl LetIn {
    /// Without asking anybody: for a network whose nodes do not tell what they remember.
    pub const fn unasked() -> Self {
        Self(())
    }
}

/// Asks until the gate opens. `ask` has told `standing` what a peer remembers when it returns. Nothing is lost where
/// the future is dropped.
///
/// # Errors
/// [`Told`]: a peer remembers more.
pub async fn pass<E: fmt::Display, F: Future<Output = Result<(), E>>>(
    standing: &Standing,
    peers: &BTreeMap<NodeId, Peer>,
    ask: impl Fn(NodeId, Peer) -> F,
) -> Result<LetIn, Told> {
    let asking = Asking { rest: REST, what: "waiting for a peer that says whether this node may take part" };
    tokio::select! {
        told = standing.wait_told() => Err(told),
        _answers = gather(peers, ask, asking) => standing.told().map_or(Ok(LetIn(())), Err),
    }
}

/// How peers are asked.
#[derive(Clone, Copy)]
pub(crate) struct Asking {
    /// How long the others have once one has answered.
    pub(crate) rest: Duration,
    /// What is said while nobody has.
    pub(crate) what: &'static str,
}

/// Asks all nodes, each again and again until it answers: all answers, or those that came until `rest` after the
/// first. Nothing is lost where the future is dropped.
pub(crate) async fn gather<T, E: fmt::Display, F: Future<Output = Result<T, E>>>(
    peers: &BTreeMap<NodeId, Peer>,
    ask: impl Fn(NodeId, Peer) -> F,
    Asking { rest: wait, what }: Asking,
) -> Vec<(NodeId, T)> {
    let silent: BTreeMap<NodeId, String> = peers.keys().map(|node| (*node, "it is being asked".to_owned())).collect();
    let silent = Mutex::new(silent);
    let still = || silent.lock().unwrap_or_else(PoisonError::into_inner);
    let (ask, told_why) = (&ask, &still);
    let mut asked: FuturesUnordered<_> = peers
        .iter()
        .map(|(node, peer)| async move {
            loop {
                match ask(*node, peer.clone()).await {
                    Ok(answer) => return (*node, answer),
                    Err(error) => {
                        told_why().insert(*node, error.to_string());
                        sleep(AGAIN).await;
                    }
                }
            }
        })
        .collect();
    let mut answers = Vec::new();
    let mut rest = None;
    let mut say = interval_at(Instant::now() + REST, SAY);
    say.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !still().is_empty() {
        let rest_is_over = async {
            match rest {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((node, answer)) = asked.next() => {
                still().remove(&node);
                answers.push((node, answer));
                rest.get_or_insert(Instant::now() + wait);
            }
            () = rest_is_over => break,
            _ = say.tick() => {
                let reasons: Vec<String> = still().values().cloned().collect();
                let reasons = reasons.join("; ");
                tracing::info!(%reasons, "{what}");
            }
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use stele_engine::number::{RaftIndex, Term};

    use super::*;
    use crate::standing::{Marks, Phase, Shown, Stale};

    fn standing() -> Standing {
        let (vote_term, end) = (Term::new(1), RaftIndex::new(1));
        Standing::new(Shown { phase: Phase::Starting, incarnation: 0, vote_term, end }, Marks::default())
    }

    fn peers(count: u64) -> BTreeMap<NodeId, Peer> {
        (1..=count).map(|node| (NodeId::new(node), Peer::default())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_answers_waits_and_asks_on() {
        let (standing, asked) = (standing(), Mutex::new(0));
        let ask = |_, _| async {
            *asked.lock().unwrap() += 1;
            Err("nobody")
        };
        let passed = tokio::time::timeout(Duration::from_secs(3600), pass(&standing, &peers(2), ask)).await;
        assert!(passed.is_err());
        let asked = asked.into_inner().unwrap();
        assert!((2 * 30_000..2 * 40_000).contains(&asked), "both were asked again and again, {asked} times in all");
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_opens_the_gate_when_the_others_have_had_their_time() {
        let (standing, began) = (standing(), Instant::now());
        let ask = |node: NodeId, _| async move {
            match node.get() {
                1 if began.elapsed() >= Duration::from_secs(20) => Ok(()),
                1 => Err("not yet"),
                _ => std::future::pending().await,
            }
        };
        pass(&standing, &peers(3), ask).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(20) + REST);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_when_all_have_answered() {
        let began = Instant::now();
        let ask = |_, _| async { Ok::<(), Infallible>(()) };
        pass(&standing(), &peers(3), ask).await.unwrap();
        pass(&standing(), &peers(0), ask).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_those_that_answer_in_time_can_still_close_it() {
        let standing = standing();
        let told = Told { by: NodeId::new(3), stale: Stale::Incarnation { seen: 4, shown: 0 } };
        let ask = |node: NodeId, _| {
            let standing = standing.clone();
            async move {
                if node == told.by {
                    sleep(REST - Duration::from_millis(1)).await;
                    standing.tell(told);
                    return Err("stale");
                }
                Ok(())
            }
        };
        assert_eq!(pass(&standing, &peers(3), ask).await.unwrap_err(), told);
    }
}
