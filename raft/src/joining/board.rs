//! Which segment is fetched from whom.
//!
//! A segment is free, being fetched by one donor's task, being discarded, or whole. Whoever is free takes the first
//! free segment that its donor has, also one that another donor's transfer left unfinished.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use stele_engine::error::LogError;
use stele_engine::number::{NodeId, SegmentNumber};
use tokio::sync::watch;

use crate::peer::segments::SealedSegment;

/// Segments that are staged beyond the one that is examined next.
pub(super) const AHEAD: u64 = 8;

/// What is known of a donor.
enum Standing {
    /// It has not answered yet.
    Unknown,
    /// The last time it did not answer.
    Silent,
    /// What it has sealed.
    Listed(Vec<SealedSegment>),
    /// It gave what the log does not have.
    Liar(String),
}

#[derive(PartialEq, Eq)]
enum Doing {
    Free,
    Fetched(NodeId),
    Discarded,
    Whole,
}

/// A segment that somebody began to fetch.
struct Work {
    doing: Doing,
    described: SealedSegment,
    /// Who gave bytes of it.
    from: BTreeSet<NodeId>,
    /// It was refused once: what two donors gave together says nothing of either.
    alone: bool,
}

struct Inner {
    /// The first segment that is not installed.
    first: SegmentNumber,
    /// The one that is examined next.
    next: SegmentNumber,
    donors: BTreeMap<NodeId, Standing>,
    work: BTreeMap<SegmentNumber, Work>,
    failed: Option<LogError>,
    ended: bool,
}

pub(super) struct Board {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

/// What a donor's task does next.
pub(super) enum Claim {
    /// It asks what the donor has.
    List,
    /// It fetches a segment, and drops first what is staged of so many payload parts.
    Fetch(SealedSegment, Option<u32>),
    /// It waits for a change.
    Wait,
    /// It ends.
    End,
}

/// What is done with the next segment.
pub(super) enum Step {
    /// It is there, with so many payload parts.
    Examine(u32),
    /// No donor has it.
    End,
    /// Nobody is left.
    Hopeless(BTreeMap<NodeId, String>),
    /// The disk.
    Failed(LogError),
}

fn parts_of(segment: &SealedSegment) -> u32 {
    u32::try_from(segment.payload_bytes.len()).unwrap_or(u32::MAX)
}

impl Board {
    pub(super) fn new(donors: impl Iterator<Item = NodeId>, first: SegmentNumber) -> Self {
        let donors = donors.map(|donor| (donor, Standing::Unknown)).collect();
        let inner = Inner { first, next: first, donors, work: BTreeMap::new(), failed: None, ended: false };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.send_replace(());
    }

    /// Tells of changes from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A donor answered what it has sealed, ascending.
    pub(super) fn listed(&self, node: NodeId, segments: Vec<SealedSegment>) {
        self.change(|inner| inner.stands(node, Standing::Listed(segments)));
    }

    /// A donor does not answer.
    pub(super) fn silent(&self, node: NodeId) {
        self.change(|inner| {
            if matches!(inner.donors.get(&node), Some(Standing::Unknown)) {
                inner.stands(node, Standing::Silent);
            }
        });
    }

    /// What this donor's task does next.
    pub(super) fn claim(&self, node: NodeId) -> Claim {
        self.lock().claim(node)
    }

    /// A segment is whole.
    pub(super) fn fetched(&self, segment: SegmentNumber) {
        self.change(|inner| inner.does(segment, Doing::Whole));
    }

    /// A transfer was cut; what came is kept.
    pub(super) fn cut(&self, segment: SegmentNumber) {
        self.change(|inner| inner.does(segment, Doing::Free));
    }

    /// The disk failed.
    pub(super) fn fail(&self, error: LogError) {
        self.change(|inner| inner.failed = inner.failed.take().or(Some(error)));
    }

    /// A donor gave what the log does not have, and is not asked again.
    pub(super) fn blame(&self, node: NodeId, why: &str) {
        self.change(|inner| inner.blame(node, why));
    }

    /// Whether a donor is still believed.
    pub(super) fn is_believed(&self, node: NodeId) -> bool {
        !matches!(self.lock().donors.get(&node), Some(Standing::Liar(_)))
    }

    pub(super) fn liars(&self) -> BTreeMap<NodeId, String> {
        self.lock().liars()
    }

    /// Who gave a segment.
    pub(super) fn senders(&self, segment: SegmentNumber) -> BTreeSet<NodeId> {
        self.lock().work.get(&segment).map(|work| work.from.clone()).unwrap_or_default()
    }

    /// Waits until it is known what becomes of a segment.
    pub(super) async fn wait_for(&self, segment: SegmentNumber) -> Step {
        let mut changes = self.changes();
        self.change(|inner| inner.next = segment);
        loop {
            if let Some(step) = self.lock().step() {
                return step;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Everything before a segment is installed.
    pub(super) fn installed(&self, first: SegmentNumber) {
        self.change(|inner| {
            inner.first = first;
            inner.work = inner.work.split_off(&first);
        });
    }

    /// A segment was refused: it is to be fetched again from one donor alone. Answers what is to be discarded, before
    /// [`Board::discarded`] is told.
    pub(super) fn refuse(&self, segment: SegmentNumber, why: &str) -> Vec<(SegmentNumber, u32)> {
        let mut discarded = Vec::new();
        self.change(|inner| {
            let Some(work) = inner.work.get_mut(&segment) else { return };
            work.alone = true;
            let senders = std::mem::take(&mut work.from);
            work.doing = Doing::Discarded;
            discarded.push((segment, parts_of(&work.described)));
            if let Some(sender) = senders.first().filter(|_| senders.len() == 1) {
                inner.blame(*sender, why);
                // What else it gave alone or began is worth nothing either.
                let next = inner.next;
                for (other, work) in inner.work.range_mut(next..) {
                    let untouched = matches!(work.doing, Doing::Free | Doing::Whole);
                    if work.from.contains(sender) && untouched && *other != segment {
                        work.from.clear();
                        work.doing = Doing::Discarded;
                        discarded.push((*other, parts_of(&work.described)));
                    }
                }
            } else {
                tracing::warn!(%segment, why, ?senders, "what several nodes gave together is not what the log has");
            }
        });
        discarded
    }

    /// What was to be discarded is gone.
    pub(super) fn discarded(&self) {
        self.change(|inner| {
            inner
                .work
                .values_mut()
                .filter(|work| work.doing == Doing::Discarded)
                .for_each(|work| work.doing = Doing::Free);
        });
    }

    /// Nothing more is fetched.
    pub(super) fn end(&self) {
        self.change(|inner| inner.ended = true);
    }
}

impl Inner {
    fn stands(&mut self, node: NodeId, standing: Standing) {
        match self.donors.get_mut(&node) {
            Some(Standing::Liar(_)) | None => {}
            Some(known) => *known = standing,
        }
    }

    fn does(&mut self, segment: SegmentNumber, doing: Doing) {
        if let Some(work) = self.work.get_mut(&segment) {
            work.doing = doing;
        }
    }

    fn blame(&mut self, node: NodeId, why: &str) {
        if !matches!(self.donors.get(&node), Some(Standing::Liar(_))) {
            tracing::error!(%node, why, "a node gives what the log does not have; it is not asked again");
            self.stands(node, Standing::Liar(why.to_owned()));
        }
    }

    fn liars(&self) -> BTreeMap<NodeId, String> {
        let liar = |(node, standing): (&NodeId, &Standing)| match standing {
            Standing::Liar(why) => Some((*node, why.clone())),
            _ => None,
        };
        self.donors.iter().filter_map(liar).collect()
    }

    fn claim(&mut self, node: NodeId) -> Claim {
        if self.ended || self.failed.is_some() {
            return Claim::End;
        }
        let Self { donors, work, next, first, .. } = self;
        let segments = match donors.get(&node) {
            Some(Standing::Listed(segments)) => segments,
            Some(Standing::Unknown | Standing::Silent) => return Claim::List,
            Some(Standing::Liar(_)) | None => return Claim::End,
        };
        let from = segments.partition_point(|segment| segment.number < *first);
        let near = segments[from..].iter().take_while(|segment| segment.number.get() < next.get() + AHEAD);
        for described in near {
            let Some(begun) = work.get_mut(&described.number) else {
                let from = BTreeSet::from([node]);
                let begun = Work { doing: Doing::Fetched(node), described: described.clone(), from, alone: false };
                work.insert(described.number, begun);
                return Claim::Fetch(described.clone(), None);
            };
            if begun.doing != Doing::Free {
                continue;
            }
            let others = begun.from.iter().any(|other| *other != node);
            let discard = others && (begun.alone || begun.described != *described);
            let parts = parts_of(&begun.described);
            if discard {
                begun.from.clear();
            }
            begun.from.insert(node);
            begun.doing = Doing::Fetched(node);
            begun.described = described.clone();
            return Claim::Fetch(described.clone(), discard.then_some(parts));
        }
        Claim::Wait
    }

    fn step(&mut self) -> Option<Step> {
        if let Some(error) = self.failed.take() {
            return Some(Step::Failed(error));
        }
        if let Some(work) = self.work.get(&self.next).filter(|work| work.doing == Doing::Whole) {
            return Some(Step::Examine(parts_of(&work.described)));
        }
        let believed = |standing: &&Standing| !matches!(standing, Standing::Liar(_));
        if !self.donors.is_empty() && !self.donors.values().any(|standing| believed(&standing)) {
            return Some(Step::Hopeless(self.liars()));
        }
        let ends = self.donors.values().filter_map(|standing| match standing {
            Standing::Listed(segments) => Some(segments.last().map_or(0, |last| last.number.get() + 1)),
            _ => None,
        });
        let known = !self.donors.values().any(|standing| matches!(standing, Standing::Unknown));
        let end = ends.max();
        (known && end.is_some_and(|end| self.next.get() >= end)).then_some(Step::End)
    }
}
