//! The heads of all chains, and a bounded window of recent identities for idempotent retries.
//!
//! (`writer_id`, `stream`, `seq`) is the identity of an append. Equal canonical strings have equal
//! bytes, so chains are told apart by the escaped texts.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use stele_proof::LeafIndex;
use stele_proof::record::{Record, SelfHash};

/// Most chains of a log by default.
pub const MAX_CHAINS: usize = 1_000_000;
/// Identities that are remembered beside the heads, over all chains.
pub const WINDOW: usize = 65_536;

/// Where a record stands to its chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is the next one.
    Next,
    /// It is in the log already.
    Duplicate(LeafIndex),
    /// Its number is older than the window reaches.
    Older,
}

/// Why a record does not fit its chain (names of `seeds/003` and DESIGN.md section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Other bytes are known under this identity.
    #[error("Tamper: record {at} already has this writer, stream and seq, with other bytes")]
    Tamper {
        /// The record that is there.
        at: LeafIndex,
    },
    /// The number leaves a gap.
    #[error("SeqGap: seq {found} does not follow, the chain's next is {expected}")]
    SeqGap {
        /// The chain's next number.
        expected: u64,
        /// The record's.
        found: u64,
    },
    /// `prev` is not the head.
    #[error("LinkMismatch: prev does not name the chain's last record, {expected}")]
    LinkMismatch {
        /// The head.
        expected: SelfHash,
    },
    /// The log has as many chains as it may.
    #[error("the log has {0} chains already, a new one is refused")]
    TooManyChains(usize),
}

/// The last record of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub self_hash: SelfHash,
}

#[derive(Clone)]
struct Chain {
    head: Head,
    /// Where the head is.
    leaf: LeafIndex,
    /// The last records, oldest first; the last one is the head.
    recent: VecDeque<(SelfHash, LeafIndex)>,
    /// Its last record in the frame at hand, while nothing has told its hash: a place in `unhashed`.
    unhashed: Option<usize>,
}

/// A record of the frame at hand whose hash is not known yet.
struct Unhashed<'r> {
    chain: usize,
    seq: u64,
    leaf: LeafIndex,
    canonical: &'r [u8],
}

/// All chains of a log. A clone goes on by itself.
#[derive(Clone)]
pub struct Chains {
    /// Shared by those that stand at different places of one log, until one of them meets a new chain.
    numbers: Arc<HashMap<Box<str>, usize>>,
    chains: Vec<Chain>,
    /// The chain of each remembered identity, oldest first.
    order: VecDeque<usize>,
    /// How many identities are remembered.
    window: usize,
    limit: usize,
    /// The key that was looked up last.
    key: String,
    /// The chain that [`Chains::standing`] was asked about last, where there is one of that key.
    met: Option<usize>,
    key_bytes: usize,
}

impl Chains {
    /// No chains yet, and room for `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            numbers: Arc::default(),
            chains: Vec::new(),
            order: VecDeque::new(),
            window: WINDOW,
            limit,
            key: String::new(),
            met: None,
            key_bytes: 0,
        }
    }

    /// The same heads, without a memory of recent identities: for following a log, not for intake.
    #[must_use]
    pub fn heads_only(&self) -> Self {
        let head = |chain: &Chain| Chain { recent: VecDeque::new(), ..*chain };
        Self {
            numbers: Arc::clone(&self.numbers),
            chains: self.chains.iter().map(head).collect(),
            order: VecDeque::new(),
            window: 0,
            limit: self.limit,
            key: String::new(),
            met: None,
            key_bytes: self.key_bytes,
        }
    }

    /// Remembers so many identities from here on, and forgets the oldest beyond that.
    pub fn remember(&mut self, window: usize) {
        self.window = window;
        while self.order.len() > self.window
            && let Some(oldest) = self.order.pop_front()
        {
            self.chains[oldest].recent.pop_front();
        }
    }

    /// Makes room for so many more chains, as far as there may be so many.
    pub fn reserve(&mut self, more: usize) {
        let more = more.min(self.limit.saturating_sub(self.chains.len()));
        self.chains.reserve(more);
        Arc::make_mut(&mut self.numbers).reserve(more);
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Bytes of all keys: stream, LF, writer.
    pub const fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Every chain by ascending key, with its head and that record's leaf.
    pub fn sorted(&self) -> Vec<(&str, Head, LeafIndex)> {
        let mut sorted: Vec<_> = self
            .numbers
            .iter()
            .map(|(key, number)| {
                let chain = &self.chains[*number];
                (&**key, chain.head, chain.leaf)
            })
            .collect();
        sorted.sort_unstable_by_key(|(key, ..)| *key);
        sorted
    }

    /// Takes up a chain from a state file; `None` where the key is no key, known, or one too many: then
    /// these chains are good for nothing.
    pub fn load(&mut self, key: &str, head: Head, leaf: LeafIndex) -> Option<()> {
        if self.chains.len() >= self.limit || key.bytes().filter(|byte| *byte == b'\n').count() != 1 {
            return None;
        }
        let known = Arc::make_mut(&mut self.numbers).insert(key.into(), self.chains.len());
        self.key_bytes += key.len();
        self.chains.push(Chain { head, leaf, recent: VecDeque::new(), unhashed: None });
        known.is_none().then_some(())
    }

    /// The head of a chain, named by its escaped texts.
    pub fn head(&mut self, stream: &str, writer_id: &str) -> Option<Head> {
        self.number(stream, writer_id).map(|number| self.chains[number].head)
    }

    /// The head of a chain by its canonical texts, and where it is.
    pub fn head_at(&self, stream: &str, writer_id: &str) -> Option<(Head, LeafIndex)> {
        let number = *self.numbers.get(format!("{stream}\n{writer_id}").as_str())?;
        let chain = &self.chains[number];
        Some((chain.head, chain.leaf))
    }

    fn number(&mut self, stream: &str, writer_id: &str) -> Option<usize> {
        self.key.clear();
        self.key.push_str(stream);
        // No canonical string holds a raw line feed.
        self.key.push('\n');
        self.key.push_str(writer_id);
        self.numbers.get(self.key.as_str()).copied()
    }

    /// Where a record stands.
    ///
    /// # Errors
    /// [`ChainError`] where it can never be appended as it is.
    pub fn standing(&mut self, record: &Record<'_>, self_hash: &SelfHash) -> Result<Standing, ChainError> {
        self.met = self.number(record.stream().escaped(), record.writer_id().escaped());
        let Some(number) = self.met else {
            return match record.seq() {
                1 if self.chains.len() < self.limit => Ok(Standing::Next),
                1 => Err(ChainError::TooManyChains(self.limit)),
                found => Err(ChainError::SeqGap { expected: 1, found }),
            };
        };
        let chain = &self.chains[number];
        let (seq, head) = (record.seq(), chain.head);
        if seq == head.seq + 1 {
            return if record.prev() == Some(head.self_hash) {
                Ok(Standing::Next)
            } else {
                Err(ChainError::LinkMismatch { expected: head.self_hash })
            };
        }
        if seq > head.seq {
            return Err(ChainError::SeqGap { expected: head.seq + 1, found: seq });
        }
        // A chain that was loaded from a state file remembers its head, and nothing before it.
        if seq == head.seq {
            return if head.self_hash == *self_hash {
                Ok(Standing::Duplicate(chain.leaf))
            } else {
                Err(ChainError::Tamper { at: chain.leaf })
            };
        }
        let back = usize::try_from(head.seq - seq).unwrap_or(usize::MAX);
        match chain.recent.iter().rev().nth(back) {
            Some((known, at)) if known == self_hash => Ok(Standing::Duplicate(*at)),
            Some((_, at)) => Err(ChainError::Tamper { at: *at }),
            None => Ok(Standing::Older),
        }
    }

    /// Makes the record the head of its chain that [`Chains::standing`] was asked about last and found to be
    /// the next one: its chain is not looked up again.
    pub(crate) fn take_next(&mut self, seq: u64, self_hash: SelfHash, leaf: LeafIndex) {
        self.set(self.met, seq, self_hash, leaf);
    }

    /// Makes a record the head of its chain.
    ///
    /// # Errors
    /// The number and hash that were expected, where it is not the next one.
    pub fn advance(&mut self, record: &Record<'_>, self_hash: SelfHash, leaf: LeafIndex) -> Result<(), ChainError> {
        let number = self.number(record.stream().escaped(), record.writer_id().escaped());
        let head = number.map(|number| self.chains[number].head);
        check_next(record, head.map_or(0, |head| head.seq), head.map(|head| head.self_hash))?;
        self.set(number, record.seq(), self_hash, leaf);
        Ok(())
    }

    /// Makes the records of one frame the heads of their chains, hashing only the last of each chain: what
    /// the hash of any other is, the next one of its chain tells, and it is taken at its word. (A new
    /// chain's first record is hashed, too.) Whoever verifies uses [`Chains::advance`].
    ///
    /// # Errors
    /// As [`Chains::advance`], with the record; then these chains are good for nothing.
    pub fn advance_frame<'r>(
        &mut self,
        records: impl Iterator<Item = (LeafIndex, Record<'r>)>,
    ) -> Result<(), (LeafIndex, ChainError)> {
        let mut unhashed: Vec<Unhashed<'r>> = Vec::new();
        for (leaf, record) in records {
            let number = self.number(record.stream().escaped(), record.writer_id().escaped());
            let Some(number) = number else {
                self.advance(&record, record.self_hash(), leaf).map_err(|error| (leaf, error))?;
                continue;
            };
            let next = Unhashed { chain: number, seq: record.seq(), leaf, canonical: record.canonical() };
            match self.chains[number].unhashed.and_then(|at| unhashed.get_mut(at)) {
                None => {
                    let head = self.chains[number].head;
                    check_next(&record, head.seq, Some(head.self_hash)).map_err(|error| (leaf, error))?;
                    self.chains[number].unhashed = Some(unhashed.len());
                    unhashed.push(next);
                }
                Some(before) => {
                    check_next(&record, before.seq, record.prev()).map_err(|error| (leaf, error))?;
                    let before = std::mem::replace(before, next);
                    if let Some(told) = record.prev() {
                        self.set(Some(number), before.seq, told, before.leaf);
                    }
                }
            }
        }
        for last in unhashed {
            self.chains[last.chain].unhashed = None;
            self.set(Some(last.chain), last.seq, SelfHash::of(last.canonical), last.leaf);
        }
        Ok(())
    }

    /// Makes a record the head of its chain whatever came before: for going on behind damage.
    pub fn restart(&mut self, record: &Record<'_>, self_hash: SelfHash, leaf: LeafIndex) {
        let number = self.number(record.stream().escaped(), record.writer_id().escaped());
        self.set(number, record.seq(), self_hash, leaf);
    }

    fn set(&mut self, number: Option<usize>, seq: u64, self_hash: SelfHash, leaf: LeafIndex) {
        let head = Head { seq, self_hash };
        let number = match number {
            Some(number) => number,
            None => {
                self.key_bytes += self.key.len();
                self.chains.push(Chain { head, leaf, recent: VecDeque::new(), unhashed: None });
                Arc::make_mut(&mut self.numbers).insert(self.key.as_str().into(), self.chains.len() - 1);
                self.chains.len() - 1
            }
        };
        let chain = &mut self.chains[number];
        chain.head = head;
        chain.leaf = leaf;
        if self.window == 0 {
            return;
        }
        chain.recent.push_back((self_hash, leaf));
        self.order.push_back(number);
        if self.order.len() > self.window
            && let Some(oldest) = self.order.pop_front()
        {
            self.chains[oldest].recent.pop_front();
        }
    }
}

/// Whether a record is the one behind number `last` (0 before a chain's first), whose hash is `hash`.
fn check_next(record: &Record<'_>, last: u64, hash: Option<SelfHash>) -> Result<(), ChainError> {
    let expected = last + 1;
    if record.seq() != expected {
        return Err(ChainError::SeqGap { expected, found: record.seq() });
    }
    match hash {
        Some(hash) if record.prev() != Some(hash) => Err(ChainError::LinkMismatch { expected: hash }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stele_proof::UnixMillis;
    use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

    fn bytes(writer_id: &str, seq: u64, prev: Option<&SelfHash>, ts_ms: u64) -> Vec<u8> {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(ts_ms),
            writer_id,
            stream: "s",
            kind: "K",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let mut out = Vec::new();
        builder.encode(seq, prev, &mut out).unwrap();
        out
    }

    fn standing(chains: &mut Chains, bytes: &[u8]) -> Result<Standing, ChainError> {
        chains.standing(&Record::parse(bytes).unwrap(), &SelfHash::of(bytes))
    }

    fn advance(chains: &mut Chains, bytes: &[u8], leaf: u64) {
        chains.advance(&Record::parse(bytes).unwrap(), SelfHash::of(bytes), LeafIndex::new(leaf)).unwrap();
    }

    #[test]
    fn answers_follow_the_design() {
        let mut chains = Chains::new(2);
        let first = bytes("w", 1, None, 0);
        let first_hash = SelfHash::of(&first);
        assert_eq!(standing(&mut chains, &first), Ok(Standing::Next));
        advance(&mut chains, &first, 10);
        assert_eq!(standing(&mut chains, &first), Ok(Standing::Duplicate(LeafIndex::new(10))));
        let other = bytes("w", 1, None, 1);
        assert_eq!(standing(&mut chains, &other), Err(ChainError::Tamper { at: LeafIndex::new(10) }));
        let second = bytes("w", 2, Some(&first_hash), 0);
        assert_eq!(standing(&mut chains, &second), Ok(Standing::Next));
        let unlinked = bytes("w", 2, Some(&SelfHash::new([1; 32])), 0);
        assert_eq!(standing(&mut chains, &unlinked), Err(ChainError::LinkMismatch { expected: first_hash }));
        let far = bytes("w", 3, Some(&first_hash), 0);
        assert_eq!(standing(&mut chains, &far), Err(ChainError::SeqGap { expected: 2, found: 3 }));
        assert_eq!(
            standing(&mut chains, &bytes("x", 2, Some(&first_hash), 0)),
            Err(ChainError::SeqGap { expected: 1, found: 2 })
        );
        advance(&mut chains, &second, 11);
        assert_eq!(standing(&mut chains, &first), Ok(Standing::Duplicate(LeafIndex::new(10))));
        advance(&mut chains, &bytes("x", 1, None, 0), 12);
        assert_eq!(standing(&mut chains, &bytes("y", 1, None, 0)), Err(ChainError::TooManyChains(2)));
        assert_eq!(chains.head("s", "w"), Some(Head { seq: 2, self_hash: SelfHash::of(&second) }));
    }

    /// Frames of records of some chains, drawn from a seed: at least one record each.
    fn frames(mut seed: u64) -> Vec<Vec<(LeafIndex, Vec<u8>)>> {
        let mut draw = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let mut heads: HashMap<String, (u64, SelfHash)> = HashMap::new();
        let mut leaf = 0;
        let mut frames = Vec::new();
        for _ in 0..20 {
            let mut frame = Vec::new();
            for _ in 0..=draw(12) {
                let writer = format!("w{}", draw(4));
                let head = heads.get(&writer).copied();
                let seq = head.map_or(0, |(seq, _)| seq) + 1;
                let record = bytes(&writer, seq, head.map(|(_, hash)| hash).as_ref(), draw(1000));
                heads.insert(writer, (seq, SelfHash::of(&record)));
                frame.push((LeafIndex::new(leaf), record));
                leaf += 1;
            }
            frames.push(frame);
        }
        frames
    }

    fn advance_frame(chains: &mut Chains, frame: &[(LeafIndex, Vec<u8>)]) -> Result<(), (LeafIndex, ChainError)> {
        chains.advance_frame(frame.iter().map(|(leaf, bytes)| (*leaf, Record::parse(bytes).unwrap())))
    }

    #[test]
    fn following_frame_by_frame_knows_what_following_record_by_record_knows() {
        for seed in 0..50 {
            let frames = frames(seed);
            let (mut by_frame, mut by_record) = (Chains::new(10), Chains::new(10));
            for frame in &frames {
                advance_frame(&mut by_frame, frame).unwrap();
                for (leaf, record) in frame {
                    advance(&mut by_record, record, leaf.get());
                }
                assert_eq!(by_frame.sorted(), by_record.sorted(), "seed {seed}");
            }
            for (leaf, record) in frames.iter().flatten() {
                assert_eq!(standing(&mut by_frame, record), Ok(Standing::Duplicate(*leaf)), "seed {seed}");
            }
            assert_eq!(by_frame.order.len(), by_record.order.len());
        }
    }

    #[test]
    fn a_gap_or_a_wrong_link_to_the_frame_before_is_found_by_frame() {
        let first = bytes("w", 1, None, 0);
        let second = bytes("w", 2, Some(&SelfHash::of(&first)), 0);
        let third = bytes("w", 3, Some(&SelfHash::of(&second)), 0);
        let unlinked = bytes("w", 3, Some(&SelfHash::new([1; 32])), 0);
        let at = |leaf: u64, bytes: &[u8]| (LeafIndex::new(leaf), bytes.to_vec());
        let start = || {
            let mut chains = Chains::new(10);
            advance_frame(&mut chains, &[at(0, &first), at(1, &second)]).unwrap();
            chains
        };
        let gap = ChainError::SeqGap { expected: 3, found: 2 };
        assert_eq!(advance_frame(&mut start(), &[at(2, &second)]), Err((LeafIndex::new(2), gap)));
        let link = ChainError::LinkMismatch { expected: SelfHash::of(&second) };
        assert_eq!(advance_frame(&mut start(), &[at(2, &unlinked)]), Err((LeafIndex::new(2), link)));
        let gap = ChainError::SeqGap { expected: 4, found: 3 };
        assert_eq!(advance_frame(&mut start(), &[at(2, &third), at(3, &third)]), Err((LeafIndex::new(3), gap)));
        let gap = ChainError::SeqGap { expected: 1, found: 3 };
        assert_eq!(advance_frame(&mut Chains::new(10), &[at(0, &third)]), Err((LeafIndex::new(0), gap)));
    }

    #[test]
    fn those_that_share_their_names_meet_new_chains_by_themselves() {
        let mut chains = Chains::new(10);
        advance(&mut chains, &bytes("a", 1, None, 0), 0);
        let mut heads = chains.heads_only();
        advance(&mut heads, &bytes("b", 1, None, 0), 1);
        advance(&mut chains, &bytes("c", 1, None, 0), 1);
        assert_eq!((chains.head("s", "b"), heads.head("s", "c")), (None, None));
        assert_eq!(chains.head("s", "a"), heads.head("s", "a"));
        assert_eq!((chains.len(), heads.len()), (2, 2));
        assert_eq!((heads.order.len(), chains.order.len()), (0, 2));
    }

    #[test]
    fn the_window_is_bounded_over_all_chains() {
        let mut chains = Chains::new(10);
        let mut prev = None;
        let first = bytes("w", 1, None, 0);
        for seq in 1..=WINDOW as u64 + 1 {
            let next = bytes("w", seq, prev.as_ref(), 0);
            prev = Some(SelfHash::of(&next));
            advance(&mut chains, &next, seq);
        }
        assert_eq!(standing(&mut chains, &first), Ok(Standing::Older));
        assert_eq!(chains.order.len(), WINDOW);
        assert_eq!(chains.chains[0].recent.len(), WINDOW);
    }
}
