//! What clients of a cluster saw, held against the log that is left in the end.
//!
//! Checked:
//! - every acknowledged record is in the log, once, at the index that was acknowledged, with its bytes;
//! - nothing is in the log that nobody sent, nothing twice, and every chain is unbroken;
//! - what was acknowledged before another record was sent stands before it (so records of a writer are in order);
//! - a linearizable read saw everything that was acknowledged, and everything that was read, before it began, and
//!   what it saw is what is left.
//!
//! Not checked: records that were sent and not acknowledged may or may not be there; reads that failed saw nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use stele_proof::record::{Record, SelfHash};

/// Time since a trial began.
pub(crate) type Moment = Duration;

/// A record that a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    pub(crate) self_hash: SelfHash,
    /// When it was handed to the client.
    pub(crate) began: Moment,
    /// When the receipt was seen, and the index that it names.
    pub(crate) acknowledged: Option<(Moment, u64)>,
}

/// A linearizable read of the end of the log that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    /// How many records there were.
    pub(crate) size: u64,
    /// Those that were read, with their indexes.
    pub(crate) records: Vec<(u64, SelfHash)>,
}

/// A linearizable read of the head of a chain that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeadRead {
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) self_hash: Option<SelfHash>,
    /// The writer of the chain; all chains are of one stream.
    pub(crate) writer: String,
}

/// What all clients saw.
#[derive(Clone, Default, Debug)]
pub(crate) struct History {
    pub(crate) sent: Vec<Sent>,
    pub(crate) reads: Vec<Read>,
    pub(crate) heads: Vec<HeadRead>,
}

/// A record of the log that is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Left {
    pub(crate) writer: String,
    pub(crate) stream: String,
    pub(crate) seq: u64,
    pub(crate) prev: Option<SelfHash>,
    pub(crate) self_hash: SelfHash,
}

impl Left {
    /// Reads a canonical record.
    pub(crate) fn parse(canonical: &[u8]) -> Self {
        let record = Record::parse(canonical).unwrap();
        Self {
            writer: record.writer_id().decode().into_owned(),
            stream: record.stream().decode().into_owned(),
            seq: record.seq(),
            prev: record.prev(),
            self_hash: record.self_hash(),
        }
    }

    fn is_own(&self) -> bool {
        self.stream.starts_with("stele/")
    }
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Objection {
    /// An acknowledged record is not at its index.
    NotThere { index: u64 },
    /// A record is there a second time.
    Twice { index: u64 },
    /// Nobody sent this record.
    Phantom { index: u64 },
    /// It does not follow the record before it in its chain.
    Unlinked { index: u64 },
    /// It stands before one that was acknowledged before it was sent.
    Overtook { index: u64, acknowledged: u64 },
    /// A read saw a record that is not the one that is left there, or none at all.
    Misread { index: u64 },
    /// A read did not see what was acknowledged or read before it began.
    Stale { size: u64, known: u64 },
    /// A head is older than what was acknowledged or read before it was asked for.
    StaleHead { writer: String, seq: u64, known: u64 },
}

/// Where each record of the log stands, by its hash.
type Places = HashMap<SelfHash, u64>;

impl History {
    /// Holds it against the log that is left.
    pub(crate) fn check(&self, log: &[Left]) -> Result<(), Objection> {
        let places = self.check_log(log)?;
        self.check_order(&places)?;
        self.check_reads(log)?;
        self.check_heads(log, &places)
    }

    fn check_log(&self, log: &[Left]) -> Result<Places, Objection> {
        let sent: BTreeSet<[u8; 32]> = self.sent.iter().map(|sent| *sent.self_hash.as_bytes()).collect();
        let (mut places, mut heads) = (Places::new(), BTreeMap::new());
        for (index, left) in (0..).zip(log) {
            if !left.is_own() && !sent.contains(left.self_hash.as_bytes()) {
                return Err(Objection::Phantom { index });
            }
            if places.insert(left.self_hash, index).is_some() {
                return Err(Objection::Twice { index });
            }
            let head = heads.entry((&left.writer, &left.stream)).or_insert((0, None));
            if (left.seq, left.prev) != (head.0 + 1, head.1) {
                return Err(Objection::Unlinked { index });
            }
            *head = (left.seq, Some(left.self_hash));
        }
        for sent in &self.sent {
            if let Some((_, index)) = sent.acknowledged
                && places.get(&sent.self_hash) != Some(&index)
            {
                return Err(Objection::NotThere { index });
            }
        }
        Ok(places)
    }

    /// What was acknowledged, by time: how large the log was at least.
    fn acknowledged(&self) -> Vec<(Moment, u64)> {
        self.sent.iter().filter_map(|sent| sent.acknowledged).map(|(at, index)| (at, index + 1)).collect()
    }

    fn check_order(&self, places: &Places) -> Result<(), Objection> {
        let placed = self.sent.iter().filter_map(|sent| Some((sent.began, *places.get(&sent.self_hash)?)));
        each_knowing(placed.collect(), self.acknowledged(), |index, known| {
            if index < known { Err(Objection::Overtook { index, acknowledged: known - 1 }) } else { Ok(()) }
        })
    }

    fn check_reads(&self, log: &[Left]) -> Result<(), Objection> {
        for (index, self_hash) in self.reads.iter().flat_map(|read| &read.records) {
            let left = usize::try_from(*index).ok().and_then(|index| log.get(index));
            if left.map(|left| left.self_hash) != Some(*self_hash) {
                return Err(Objection::Misread { index: *index });
            }
        }
        let known = self.acknowledged().into_iter().chain(self.reads.iter().map(|read| (read.ended, read.size)));
        let asked = self.reads.iter().map(|read| (read.began, read.size)).collect();
        each_knowing(
            asked,
            known.collect(),
            |size, known| {
                if size < known { Err(Objection::Stale { size, known }) } else { Ok(()) }
            },
        )
    }

    fn check_heads(&self, log: &[Left], places: &Places) -> Result<(), Objection> {
        let seq_of = |self_hash: &SelfHash| {
            let index = usize::try_from(*places.get(self_hash)?).ok()?;
            Some((log[index].writer.as_str(), log[index].seq))
        };
        let mut known: BTreeMap<&str, Vec<(Moment, u64)>> = BTreeMap::new();
        for sent in &self.sent {
            if let (Some((at, _)), Some((writer, seq))) = (sent.acknowledged, seq_of(&sent.self_hash)) {
                known.entry(writer).or_default().push((at, seq));
            }
        }
        let mut asked: BTreeMap<&str, Vec<(Moment, u64)>> = BTreeMap::new();
        for head in &self.heads {
            let seq = match &head.self_hash {
                None => 0,
                Some(self_hash) => match seq_of(self_hash) {
                    Some((writer, seq)) if writer == head.writer => seq,
                    _ => return Err(Objection::Misread { index: u64::MAX }),
                },
            };
            asked.entry(&head.writer).or_default().push((head.began, seq));
            known.entry(&head.writer).or_default().push((head.ended, seq));
        }
        for (writer, asked) in asked {
            each_knowing(asked, known.remove(writer).unwrap_or_default(), |seq, known| {
                let writer = writer.to_owned();
                if seq < known { Err(Objection::StaleHead { writer, seq, known }) } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}

/// Checks each thing that began at a moment against the largest that was known before that moment.
fn each_knowing(
    mut things: Vec<(Moment, u64)>,
    mut known: Vec<(Moment, u64)>,
    check: impl Fn(u64, u64) -> Result<(), Objection>,
) -> Result<(), Objection> {
    things.sort_unstable();
    known.sort_unstable();
    let (mut known, mut largest) = (known.into_iter().peekable(), 0);
    for (began, thing) in things {
        while let Some((_, value)) = known.next_if(|(at, _)| *at < began) {
            largest = largest.max(value);
        }
        check(thing, largest)?;
    }
    Ok(())
}

/// Histories that are wrong, and must be objected to.
mod proven {
    use super::*;

    fn hash(number: u8) -> SelfHash {
        SelfHash::new([number; 32])
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    /// A log of its own genesis and three records of `w`, and the history that belongs to it.
    fn good() -> (History, Vec<Left>) {
        let left = |writer: &str, stream: &str, seq: u64, number: u8| Left {
            writer: writer.to_owned(),
            stream: stream.to_owned(),
            seq,
            prev: (seq > 1).then(|| hash(number - 1)),
            self_hash: hash(number),
        };
        let log = vec![
            left("stele/log", "stele/log", 1, 0),
            left("w", "s", 1, 1),
            left("w", "s", 2, 2),
            left("w", "s", 3, 3),
        ];
        let sent = |number: u8| Sent {
            self_hash: hash(number),
            began: at(10 * u64::from(number)),
            acknowledged: Some((at(10 * u64::from(number) + 15), u64::from(number))),
        };
        let read = |began: u64, size: u8| Read {
            began: at(began),
            ended: at(began + 1),
            size: u64::from(size),
            records: vec![(u64::from(size) - 1, hash(size - 1))],
        };
        let head = |began: u64, number: Option<u8>| HeadRead {
            began: at(began),
            ended: at(began + 1),
            self_hash: number.map(hash),
            writer: "w".to_owned(),
        };
        let history = History {
            sent: vec![sent(1), sent(2), sent(3)],
            reads: vec![read(12, 2), read(30, 3), read(60, 4)],
            heads: vec![head(1, None), head(26, Some(1)), head(60, Some(3))],
        };
        (history, log)
    }

    #[track_caller]
    fn objects(change: impl FnOnce(&mut History, &mut Vec<Left>), objection: &Objection) {
        let (mut history, mut log) = good();
        assert_eq!(history.check(&log), Ok(()));
        change(&mut history, &mut log);
        assert_eq!(history.check(&log).as_ref(), Err(objection));
    }

    #[test]
    fn the_checker_objects_to_a_log_that_is_not_what_was_acknowledged() {
        objects(|_, log| drop(log.pop()), &Objection::NotThere { index: 3 });
        objects(|_, log| log.push(log[3].clone()), &Objection::Twice { index: 4 });
        objects(|_, log| log.swap(2, 3), &Objection::Unlinked { index: 2 });
        objects(|_, log| drop(log.remove(2)), &Objection::Unlinked { index: 2 });
        objects(|history, _| history.sent[1].acknowledged = Some((at(35), 3)), &Objection::NotThere { index: 3 });
        objects(|history, _| history.sent.retain(|sent| sent.self_hash != hash(2)), &Objection::Phantom { index: 2 });
        objects(|_, log| log[3].prev = Some(hash(9)), &Objection::Unlinked { index: 3 });
        let foreign = Left { writer: "x".to_owned(), stream: "s".to_owned(), seq: 1, prev: None, self_hash: hash(9) };
        objects(|_, log| log.push(foreign), &Objection::Phantom { index: 4 });
        let late = Sent { self_hash: hash(3), began: at(30), acknowledged: None };
        // Whether a record stays that was not acknowledged is nobody's promise.
        let (mut history, mut log) = good();
        history.sent[2] = late;
        history.reads.truncate(2);
        history.heads.truncate(2);
        assert_eq!(history.check(&log), Ok(()));
        log.pop();
        assert_eq!(history.check(&log), Ok(()));
    }

    #[test]
    fn the_checker_objects_to_a_record_that_overtook_one_that_was_acknowledged() {
        // `x` was sent after the second record of `w` was acknowledged, and stands before it.
        let overtaking = |history: &mut History, log: &mut Vec<Left>| {
            let x = Left { writer: "x".to_owned(), stream: "s".to_owned(), seq: 1, prev: None, self_hash: hash(9) };
            log.insert(2, x);
            history.reads.clear();
            history.heads.clear();
            history.sent[1].acknowledged = Some((at(35), 3));
            history.sent[2].acknowledged = Some((at(45), 4));
            history.sent.push(Sent { self_hash: hash(9), began: at(36), acknowledged: Some((at(50), 2)) });
        };
        objects(overtaking, &Objection::Overtook { index: 2, acknowledged: 3 });
    }

    #[test]
    fn the_checker_objects_to_reads_that_go_backward_or_miss_what_was_acknowledged() {
        objects(|history, _| history.reads[2].size = 3, &Objection::Stale { size: 3, known: 4 });
        objects(|history, _| history.reads[1].size = 1, &Objection::Stale { size: 1, known: 2 });
        // Two reads and no acknowledgement between them.
        let backward = |history: &mut History, _: &mut Vec<Left>| {
            history.sent[1].acknowledged = None;
            history.sent[2].acknowledged = None;
            history.reads[2].size = 2;
        };
        objects(backward, &Objection::Stale { size: 2, known: 3 });
        objects(|history, _| history.reads[0].records[0].1 = hash(9), &Objection::Misread { index: 1 });
        objects(|history, _| history.reads[0].records[0].0 = 7, &Objection::Misread { index: 7 });
        let stale = |seq, known| Objection::StaleHead { writer: "w".to_owned(), seq, known };
        objects(|history, _| history.heads[2].self_hash = Some(hash(2)), &stale(2, 3));
        objects(|history, _| history.heads[1].self_hash = None, &stale(0, 1));
        objects(|history, _| history.heads[1].self_hash = Some(hash(9)), &Objection::Misread { index: u64::MAX });
    }

    #[test]
    fn the_checker_lets_calls_that_overlap_come_in_either_order() {
        let (mut history, log) = good();
        // It began before the last record was acknowledged, and a larger read ended while it was under way.
        let slow = Read { began: at(40), ended: at(70), size: 3, records: Vec::new() };
        history.reads.push(slow);
        assert_eq!(history.check(&log), Ok(()));
    }
}
