//! How far the others are behind, by the leader's count: in records, and in time.
//!
//! Every [`EVERY`] it is noted how much is committed and applied here, and kept for [`KEPT`] looks (100 s). A node is
//! behind since the first look at which more was committed than it has now; it lacks the records that came since the
//! last look at which no more was. So both are told up to one look too much, and 0 where nothing is missing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stele_engine::number::RaftIndex;
use stele_proof::TreeSize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::view::View;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// Looks that are kept.
const KEPT: usize = 1000;

/// What was applied at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    at: Instant,
    /// One past the last applied entry.
    end: RaftIndex,
    leaves: TreeSize,
}

/// How far somebody is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// Records that are applied here and that it lacks; `None` where it lacks more than is remembered.
    pub records: Option<u64>,
    /// For how long it has lacked any; at least that, where it lacks more than is remembered.
    pub time: Duration,
}

/// What was applied lately.
#[derive(Clone, Default)]
pub struct Lately(Arc<Mutex<VecDeque<Look>>>);

impl Lately {
    /// Looks until the node stops.
    pub fn watch(view: &View, stopping: &CancellationToken) -> Self {
        let lately = Self::default();
        let (noted, view, stopping) = (lately.clone(), view.clone(), stopping.clone());
        tokio::spawn(async move {
            let mut every = tokio::time::interval(EVERY);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    at = every.tick() => {
                        let Some((end, leaves)) = view.with(|replica| (replica.tail().next_index, replica.tail().leaves))
                        else {
                            return;
                        };
                        noted.note(Look { at, end, leaves });
                    }
                }
            }
        });
        lately
    }

    fn note(&self, look: Look) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= KEPT {
            looks.pop_front();
        }
        looks.push_back(look);
    }

    /// How far a node is behind that has everything before `end`.
    pub fn behind(&self, end: RaftIndex, now: Instant) -> Behind {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // They ascend.
        let had = looks.partition_point(|look| look.end <= end);
        let Some(first) = looks.get(had) else { return Behind { records: Some(0), time: Duration::ZERO } };
        let newest = looks.back().map_or(first.leaves, |newest| newest.leaves);
        let last = had.checked_sub(1).and_then(|last| looks.get(last));
        let records = last.map(|last| newest.get().saturating_sub(last.leaves.get()));
        Behind { records, time: now.saturating_duration_since(first.at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lacks_something_is_behind_since_it_was_there() {
        let (lately, start) = (Lately::default(), Instant::now());
        for number in 0..10 {
            let at = start + Duration::from_secs(number);
            lately.note(Look { at, end: RaftIndex::new(10 + number), leaves: TreeSize::new(100 * number) });
        }
        let now = start + Duration::from_secs(20);
        let behind = |end| lately.behind(RaftIndex::new(end), now);
        assert_eq!(behind(19), Behind { records: Some(0), time: Duration::ZERO });
        assert_eq!(behind(30), Behind { records: Some(0), time: Duration::ZERO }, "it has what is not applied yet");
        assert_eq!(behind(18), Behind { records: Some(100), time: Duration::from_secs(11) });
        assert_eq!(behind(10), Behind { records: Some(900), time: Duration::from_secs(19) });
        assert_eq!(behind(3), Behind { records: None, time: Duration::from_secs(20) });
        for number in 0..=KEPT as u64 {
            let at = now + Duration::from_secs(number);
            lately.note(Look { at, end: RaftIndex::new(100 + number), leaves: TreeSize::new(5000) });
        }
        assert_eq!(lately.0.lock().unwrap().len(), KEPT);
        assert_eq!(lately.behind(RaftIndex::new(19), now).records, None, "more than is remembered");
    }
}
