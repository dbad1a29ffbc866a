//! The heads of all chains, and a bounded window of recent identities for idempotent retries.
//!
//! (`writer_id`, `stream`, `seq`) is the identity of an append. Equal canonical strings have equal
//! bytes, so chains are told apart by the escaped texts.

use std::collections::{HashMap, VecDeque};

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
}

/// All chains of a log.
#[derive(Clone)]
pub struct Chains {
    numbers: HashMap<Box<str>, usize>,
    chains: Vec<Chain>,
    /// The chain of each remembered identity, oldest first.
    order: VecDeque<usize>,
    limit: usize,
    key: String,
    key_bytes: usize,
}

impl Chains {
    /// No chains yet, and room for `limit`.
    pub fn new(limit: usize) -> Self {
        Self {
            numbers: HashMap::new(),
            chains: Vec::new(),
            order: VecDeque::new(),
            limit,
            key: String::new(),
            key_bytes: 0,
        }
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

    /// Takes up a chain from a state file; `None` where the key is no key, known, or one too many.
    pub fn load(&mut self, key: &str, head: Head, leaf: LeafIndex) -> Option<()> {
        if self.chains.len() >= self.limit || key.matches('\n').count() != 1 || self.numbers.contains_key(key) {
            return None;
        }
        self.key_bytes += key.len();
        self.numbers.insert(key.into(), self.chains.len());
        self.chains.push(Chain { head, leaf, recent: VecDeque::new() });
        Some(())
    }

    /// The head of a chain, named by its escaped texts.
    pub fn head(&mut self, stream: &str, writer_id: &str) -> Option<Head> {
        self.number(stream, writer_id).map(|number| self.chains[number].head)
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
        let Some(number) = self.number(record.stream().escaped(), record.writer_id().escaped()) else {
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

    /// Makes a record the head of its chain.
    ///
    /// # Errors
    /// The number and hash that were expected, where it is not the next one.
    pub fn advance(&mut self, record: &Record<'_>, self_hash: SelfHash, leaf: LeafIndex) -> Result<(), ChainError> {
        let number = self.number(record.stream().escaped(), record.writer_id().escaped());
        let (expected, prev) = number.map_or((1, None), |number| {
            let head = self.chains[number].head;
            (head.seq + 1, Some(head.self_hash))
        });
        if record.seq() != expected {
            return Err(ChainError::SeqGap { expected, found: record.seq() });
        }
        if let (Some(prev), true) = (prev, record.prev() != prev) {
            return Err(ChainError::LinkMismatch { expected: prev });
        }
        self.set(number, record.seq(), self_hash, leaf);
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
                self.chains.push(Chain { head, leaf, recent: VecDeque::new() });
                self.numbers.insert(self.key.as_str().into(), self.chains.len() - 1);
                self.chains.len() - 1
            }
        };
        let chain = &mut self.chains[number];
        chain.head = head;
        chain.leaf = leaf;
        chain.recent.push_back((self_hash, leaf));
        self.order.push_back(number);
        if self.order.len() > WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.chains[oldest].recent.pop_front();
        }
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
