//! What was asked of a store and what it has promised, in plain vectors.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use stele_engine::batch::BatchBuilder;
use stele_engine::frame::EntryKind;
use stele_engine::hard_state::Vote;
use stele_engine::number::{NodeId, Term};
use stele_engine::store::Entry;
use stele_proof::LeafIndex;
use stele_proof::record::Salt;
use stele_simulator::random::SplitMix64;

/// Leaves of a block; the smallest there is.
pub(crate) const BLOCK_LEAVES: u64 = 256;
/// Its binary logarithm.
pub(crate) const HEIGHT: u8 = 8;
/// This node.
pub(crate) const NODE: NodeId = NodeId::new(1);

/// An entry and what it does to the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) entry: Entry,
    /// Leaves that it adds.
    leaves: u64,
    /// Whether it ends its segment.
    pub(crate) ends: bool,
    /// The last vote asked for before it.
    vote: usize,
}

/// A vote that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AskedVote {
    pub(crate) vote: Vote,
    /// So many of the entries asked for before it have not been truncated since.
    entries: usize,
}

/// The log that was asked for. An outcome is a prefix of the entries and one of the votes.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) entries: Vec<Asked>,
    /// So many of them must be there.
    pub(crate) durable: usize,
    /// All votes since the one that the log was born with.
    pub(crate) votes: Vec<AskedVote>,
    /// The last one that must be there.
    pub(crate) vote: usize,
    /// So many entries were said to be committed.
    pub(crate) committed: usize,
    /// So many were known to be committed when the log was opened last.
    pub(crate) found_committed: usize,
    term: u64,
    /// What was truncated last, while nothing else took its place.
    cut: VecDeque<Asked>,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, durable, votes, vote, committed, .. } = self;
        let (entries, votes) = (entries.len(), votes.len());
        write!(f, "{durable} of {entries} entries durable, {committed} committed, vote {vote} of {votes}")
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        let vote = Vote { term: Term::new(0), node: NODE, committed: false };
        Self {
            entries: Vec::new(),
            durable: 0,
            votes: vec![AskedVote { vote, entries: 0 }],
            vote: 0,
            committed: 0,
            found_committed: 0,
            term: 1,
            cut: VecDeque::new(),
        }
    }

    /// Leaves of the first so many entries.
    pub(crate) fn leaves(&self, entries: usize) -> u64 {
        self.entries[..entries].iter().map(|asked| asked.leaves).sum()
    }

    /// The segment that is open behind the first so many entries.
    pub(crate) fn segment(&self, entries: usize) -> u64 {
        self.entries[..entries].iter().map(|asked| u64::from(asked.ends)).sum()
    }

    /// Notes an entry that was taken.
    pub(crate) fn append(&mut self, asked: Asked) {
        if self.cut.pop_front().is_none_or(|cut| cut.entry != asked.entry) {
            self.cut.clear();
        }
        self.entries.push(asked);
    }

    /// Notes a vote that was asked for; answers its number.
    pub(crate) fn ask_vote(&mut self, vote: Vote) -> usize {
        self.votes.push(AskedVote { vote, entries: self.entries.len() });
        self.votes.len() - 1
    }

    /// A truncation was asked for: what is behind the cut may vanish.
    pub(crate) fn begin_cut(&mut self, from: usize) {
        self.durable = self.durable.min(from);
        for vote in &mut self.votes {
            vote.entries = vote.entries.min(from);
        }
    }

    /// It was done: what is behind the cut is gone for good.
    pub(crate) fn end_cut(&mut self, from: usize) {
        self.cut = self.entries.split_off(from).into();
        self.durable = from;
        self.vote = self.votes.len() - 1;
    }

    /// So many entries and this vote were found when the log was opened: the one outcome from now on.
    pub(crate) fn found(&mut self, entries: usize, vote: usize) {
        assert!(entries >= self.durable, "{entries} entries are left; {self}");
        assert!(
            entries <= self.entries.len(),
            "{entries} entries, where some were truncated or never asked for; {self}"
        );
        assert!(vote >= self.vote, "vote {vote} was found; {self}");
        let behind = self.entries[..entries].last().map_or(0, |asked| asked.vote);
        assert!(vote >= behind, "entry {entries} became durable before vote {behind}, which was asked for earlier");
        let before = self.votes[vote].entries;
        assert!(entries >= before, "vote {vote} became durable before the {before} entries asked for earlier");
        self.entries.truncate(entries);
        self.votes.truncate(vote + 1);
        (self.durable, self.vote) = (entries, vote);
        self.cut.clear();
    }

    /// A vote that was never asked for.
    pub(crate) fn new_vote(&self, random: &mut SplitMix64) -> Vote {
        let last = self.votes.last().unwrap().vote;
        if !last.committed && random.percent(40) {
            return Vote { committed: true, ..last };
        }
        let term = Term::new(last.term.get() + 1 + random.below(3));
        Vote { term, node: NodeId::new(1 + random.below(3)), committed: random.percent(20) }
    }

    /// The entry that was truncated here, as it was, where nothing else has taken its place.
    pub(crate) fn again(&self) -> Option<Asked> {
        let cut = self.cut.front()?.clone();
        Some(Asked { vote: self.votes.len() - 1, ..cut })
    }

    /// Any entry that can follow.
    pub(crate) fn any_entry(&mut self, random: &mut SplitMix64) -> Asked {
        if random.percent(15) {
            self.term += 1 + random.below(2);
        }
        match random.below(100) {
            0..15 => self.plain(EntryKind::Blank, Vec::new()),
            15..30 => {
                let most = *random.pick(&[20, 500, 6000]);
                let len = 1 + random.below(most);
                self.plain(EntryKind::Membership, noise(random, len))
            }
            30..38 => self.seal(),
            38..42 => {
                let other = self.segment(self.entries.len()) ^ (1 + random.below(3));
                self.plain(EntryKind::Seal, other.to_le_bytes().to_vec())
            }
            42..55 => self.void_batch(random),
            _ => {
                let room = BLOCK_LEAVES - self.leaves(self.entries.len()) % BLOCK_LEAVES;
                let count = match random.below(10) {
                    0 => room,
                    1 => 1 + random.below(room),
                    _ => 1 + random.below(room.min(4)),
                };
                self.batch(count, random)
            }
        }
    }

    /// A seal entry that ends the open segment.
    pub(crate) fn seal(&self) -> Asked {
        let segment = self.segment(self.entries.len());
        Asked { ends: true, ..self.plain(EntryKind::Seal, segment.to_le_bytes().to_vec()) }
    }

    fn plain(&self, kind: EntryKind, body: Vec<u8>) -> Asked {
        let entry = Entry { term: Term::new(self.term), kind, body: body.into(), payload: Bytes::new() };
        Asked { entry, leaves: 0, ends: false, vote: self.votes.len() - 1 }
    }

    /// A batch whose records become leaves; at most as many as there is room for in the block.
    pub(crate) fn batch(&self, count: u64, random: &mut SplitMix64) -> Asked {
        let leaves = self.leaves(self.entries.len());
        let (body, payload) = batch(self.term, leaves, count, random);
        let ends = (leaves + count).is_multiple_of(BLOCK_LEAVES);
        let plain = self.plain(EntryKind::Batch, Vec::new());
        Asked { entry: Entry { body, payload, ..plain.entry }, leaves: count, ends, ..plain }
    }

    /// A batch for another term or place, or one that does not fit into the block.
    fn void_batch(&self, random: &mut SplitMix64) -> Asked {
        let leaves = self.leaves(self.entries.len());
        let room = BLOCK_LEAVES - leaves % BLOCK_LEAVES;
        let (body, payload) = match random.below(3) {
            0 => batch(self.term - 1, leaves, 1 + random.below(3), random),
            1 => batch(self.term, leaves + 1 + random.below(9), 1 + random.below(3), random),
            _ => batch(self.term, leaves, room + 1, random),
        };
        let plain = self.plain(EntryKind::Batch, Vec::new());
        Asked { entry: Entry { body, payload, ..plain.entry }, ..plain }
    }
}

fn batch(term: u64, first_leaf: u64, count: u64, random: &mut SplitMix64) -> (Bytes, Bytes) {
    let mut builder = BatchBuilder::default();
    let most = *random.pick(&[10, 10, 700]);
    let with_payload = random.percent(40);
    for _ in 0..count {
        let start = builder.buffer().len();
        let len = 1 + random.below(if count > 8 { 10 } else { most });
        builder.buffer().extend(noise(random, len));
        let payload = (with_payload && random.percent(60)).then(|| {
            let len = random.below(most * 8 / count.min(8));
            noise(random, len)
        });
        builder.push(start, payload.as_deref().map(|payload| (&Salt::ZERO, payload)));
    }
    builder.cut(Term::new(term), LeafIndex::new(first_leaf))
}

fn noise(random: &mut SplitMix64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    random.fill(&mut bytes);
    bytes
}
