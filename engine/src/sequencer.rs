//! The sequencer of a leader: the only owner of the tentative heads of the chains. It checks what clients send,
//! links it to its chain and packs it into batches, ahead of what is committed.
//!
//! It works for one term, from a state in which everything that was appended is applied. Where any proposal of its
//! is not applied as it was made, its heads are wrong and a new one begins behind what was applied then.
//!
//! I-SEQUENCER-1: the leaves of its batches follow each other without a gap, from the leaves it began with.
//! I-SEQUENCER-2: no batch reaches over the end of a block.

use std::collections::VecDeque;

use bytes::Bytes;
use stele_proof::record::{Actor, Limits, Object, Record, RecordBuilder, Salt, SelfHash, Subject};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};

use crate::batch::BatchBuilder;
use crate::chains::Chains;
use crate::frame::{EntryKind, Tail};
use crate::intake::{Admitted, Asker, Checked, GROUP, Refusal, Submission, admit, check_finished, decide};
use crate::local::Receipt;
use crate::number::{BlockHeight, SegmentNumber, Term};
use crate::reserved;

/// Bytes of records, or of payloads, at which a batch is cut.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// What a leader proposes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposed {
    /// [`EntryKind::Batch`] or [`EntryKind::Seal`].
    pub kind: EntryKind,
    /// The body of the entry.
    pub body: Bytes,
    /// Its payload slots.
    pub payload: Bytes,
    /// The first leaf, if the entry counts.
    pub first_leaf: LeafIndex,
    /// Behind the last one.
    pub end: TreeSize,
}

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sequenced {
    /// It has this place once everything before `end` of it is applied: new, or a duplicate of a record that may
    /// still be pending.
    At(Receipt),
    /// It may be in the log already, further back than is remembered.
    Older(SelfHash),
}

/// A leader's sequencer for one term.
pub struct Sequencer {
    term: Term,
    height: BlockHeight,
    limits: Limits,
    chains: Chains,
    leaves: TreeSize,
    /// The open segment, and the leaves before it.
    segment: SegmentNumber,
    segment_start: TreeSize,
    batch: BatchBuilder,
    /// Canonical bytes of records that are being checked.
    checking: Vec<u8>,
    ready: VecDeque<Proposed>,
}

impl Sequencer {
    /// Begins behind `tail`: everything that was appended is applied, and `chains` are the heads there.
    /// `segment_start` is the number of leaves before the open segment.
    pub fn new(term: Term, tail: &Tail, segment_start: TreeSize, chains: Chains) -> Self {
        Self {
            term,
            height: tail.height,
            limits: Limits::default(),
            chains,
            leaves: tail.leaves,
            segment: tail.segment,
            segment_start,
            batch: BatchBuilder::default(),
            checking: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// The term it works for.
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Leaves, those of the batch at hand counted.
    pub const fn leaves(&self) -> TreeSize {
        self.leaves
    }

    /// The open segment, once all that was cut is appended.
    pub const fn segment(&self) -> SegmentNumber {
        self.segment
    }

    /// Bytes of the batch at hand, payloads counted; 0 where it is empty.
    pub const fn waiting_bytes(&self) -> usize {
        let (body, payload) = self.batch.byte_lens();
        if self.batch.count() == 0 { 0 } else { body + payload }
    }

    /// Checks finished records of a client and takes those that fit; answers each, in order. `may` says which records
    /// the client may write.
    pub fn take(
        &mut self,
        submissions: &[Submission<'_>],
        may: &dyn Fn(&Record<'_>) -> bool,
        answer: &mut dyn FnMut(Result<Sequenced, Refusal>),
    ) {
        let mut buffer = std::mem::take(&mut self.checking);
        for group in submissions.chunks(GROUP) {
            let checked = check_finished(group, &mut buffer);
            for (submission, checked) in group.iter().zip(checked) {
                answer(match checked {
                    None => self.take_one(submission, Asker::Client),
                    Some(Ok(checked)) if !may(&checked.record) => Err(Refusal::Forbidden),
                    Some(checked) => checked.and_then(|checked| self.take_checked(submission, &checked)),
                });
            }
        }
        self.checking = buffer;
    }

    /// Finishes a record of a client, as the next one of its chain; answers its place and its canonical bytes.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take_draft(
        &mut self,
        builder: &RecordBuilder<'_>,
        payload: Option<(&Salt, &[u8])>,
    ) -> Result<(Receipt, Vec<u8>), Refusal> {
        let submission = Submission::Draft { builder, payload };
        let start = self.batch.buffer().len();
        let admitted = admit(&submission, Asker::Client, &self.limits, &mut self.chains, self.batch.buffer());
        let canonical = self.batch.buffer()[start..].to_vec();
        match admitted {
            Ok(admitted @ Admitted::Next(..)) => match self.take_admitted(&submission, admitted, start) {
                Sequenced::At(receipt) => Ok((receipt, canonical)),
                Sequenced::Older(_) => unreachable!("a draft becomes the next record of its chain"),
            },
            Ok(_) => unreachable!("a draft becomes the next record of its chain"),
            Err(refusal) => {
                self.batch.buffer().truncate(start);
                Err(refusal)
            }
        }
    }

    /// Takes a record of the log itself; its body is the payload, with nothing to hide.
    ///
    /// # Errors
    /// [`Refusal`]: a bug, or a bound of the log.
    pub fn take_own(&mut self, stream: &str, kind: &str, body: &[u8], now: UnixMillis) -> Result<(), Refusal> {
        let builder = RecordBuilder {
            ts_ms: now,
            writer_id: reserved::WRITER,
            stream,
            kind,
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let submission = Submission::Draft { builder: &builder, payload: Some((&Salt::ZERO, body)) };
        self.take_one(&submission, Asker::Log).map(drop)
    }

    /// The number of the next seal record: that many segments have one, or have one under way.
    pub fn next_seal_record(&mut self) -> SegmentNumber {
        let head = self.chains.head(reserved::SEGMENTS_STREAM, reserved::WRITER);
        SegmentNumber::new(head.map_or(0, |head| head.seq))
    }

    /// Ends the open segment, where it holds records.
    pub fn end_segment(&mut self) {
        self.cut();
        if self.leaves > self.segment_start {
            let body = self.segment.get().to_le_bytes().to_vec().into();
            let first_leaf = self.leaves.next_leaf();
            let end = self.leaves;
            self.ready.push_back(Proposed { kind: EntryKind::Seal, body, payload: Bytes::new(), first_leaf, end });
            self.roll();
        }
    }

    /// The next entry to propose: what was cut before, else the batch at hand.
    pub fn next_proposal(&mut self) -> Option<Proposed> {
        if self.ready.is_empty() {
            self.cut();
        }
        self.ready.pop_front()
    }

    /// Whether an entry has been cut and waits for nothing but to be proposed.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn take_one(&mut self, submission: &Submission<'_>, asker: Asker) -> Result<Sequenced, Refusal> {
        let start = self.batch.buffer().len();
        let admitted = admit(submission, asker, &self.limits, &mut self.chains, self.batch.buffer());
        if !matches!(admitted, Ok(Admitted::Next(..))) {
            self.batch.buffer().truncate(start);
        }
        Ok(self.take_admitted(submission, admitted?, start))
    }

    fn take_checked(&mut self, submission: &Submission<'_>, checked: &Checked<'_>) -> Result<Sequenced, Refusal> {
        let Checked { record, self_hash } = checked;
        let admitted = decide(record, *self_hash, Asker::Client, &self.limits, &mut self.chains)?;
        let start = self.batch.buffer().len();
        if let Admitted::Next(..) = admitted {
            self.batch.buffer().extend_from_slice(record.canonical());
        }
        Ok(self.take_admitted(submission, admitted, start))
    }

    fn take_admitted(&mut self, submission: &Submission<'_>, admitted: Admitted, start: usize) -> Sequenced {
        let (self_hash, seq) = match admitted {
            Admitted::Next(self_hash, seq) => (self_hash, seq),
            Admitted::Duplicate(self_hash, index) => return Sequenced::At(Receipt { index, self_hash }),
            Admitted::Older(self_hash) => return Sequenced::Older(self_hash),
        };
        let index = self.leaves.next_leaf();
        self.chains.take_next(seq, self_hash, index);
        let (Submission::Draft { payload, .. } | Submission::Finished { payload, .. }) = submission;
        self.batch.push(start, *payload);
        self.leaves = TreeSize::new(self.leaves.get() + 1);
        let (body, payloads) = self.batch.byte_lens();
        let block_is_full = self.leaves.get().is_multiple_of(self.height.leaves());
        if block_is_full || body >= MAX_BATCH_BYTES || payloads >= MAX_BATCH_BYTES {
            self.cut();
        }
        if block_is_full {
            self.roll();
        }
        Sequenced::At(Receipt { index, self_hash })
    }

    fn cut(&mut self) {
        let count = self.batch.count() as u64;
        if count == 0 {
            return;
        }
        let first_leaf = LeafIndex::new(self.leaves.get() - count);
        let (body, payload) = self.batch.take().cut(self.term, first_leaf);
        self.ready.push_back(Proposed { kind: EntryKind::Batch, body, payload, first_leaf, end: self.leaves });
    }

    fn roll(&mut self) {
        self.segment = self.segment.next();
        self.segment_start = self.leaves;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::chains::{ChainError, MAX_CHAINS};
    use crate::number::Alignment;

    const HEIGHT: u8 = 8;

    fn sequencer() -> Sequencer {
        let tail = Tail::start(Alignment::PAGE, BlockHeight::new(HEIGHT).unwrap());
        Sequencer::new(Term::new(3), &tail, TreeSize::new(0), Chains::new(MAX_CHAINS))
    }

    fn finished(seq: u64, prev: Option<&SelfHash>) -> (Vec<u8>, SelfHash) {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(1),
            writer_id: "w",
            stream: "s",
            kind: "K",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let mut bytes = Vec::new();
        let record = builder.encode(seq, prev, &mut bytes).unwrap();
        let hash = record.self_hash();
        let mut whole = Vec::new();
        record.write_finished(&hash, &mut whole);
        (whole, hash)
    }

    fn chain(count: u64) -> Vec<(Vec<u8>, SelfHash)> {
        let mut records: Vec<(Vec<u8>, SelfHash)> = Vec::new();
        for seq in 1..=count {
            let prev = records.last().map(|(_, hash)| *hash);
            records.push(finished(seq, prev.as_ref()));
        }
        records
    }

    fn take(sequencer: &mut Sequencer, records: &[(Vec<u8>, SelfHash)]) -> Vec<Result<Sequenced, Refusal>> {
        let submissions: Vec<_> =
            records.iter().map(|(bytes, _)| Submission::Finished { bytes, payload: None }).collect();
        let mut answers = Vec::new();
        sequencer.take(&submissions, &|_| true, &mut |answer| answers.push(answer));
        answers
    }

    fn at(index: u64, self_hash: SelfHash) -> Result<Sequenced, Refusal> {
        Ok(Sequenced::At(Receipt { index: LeafIndex::new(index), self_hash }))
    }

    #[test]
    fn leaves_follow_each_other_and_a_duplicate_has_the_place_of_the_first() {
        let mut sequencer = sequencer();
        let records = chain(3);
        assert_eq!(take(&mut sequencer, &records[..2]), [at(0, records[0].1), at(1, records[1].1)]);
        let first = sequencer.next_proposal().unwrap();
        assert_eq!((first.first_leaf, first.end), (LeafIndex::new(0), TreeSize::new(2)));
        let again = take(&mut sequencer, &records);
        assert_eq!(again, [at(0, records[0].1), at(1, records[1].1), at(2, records[2].1)]);
        let second = sequencer.next_proposal().unwrap();
        let batch = Batch::parse(&second.body).unwrap();
        assert_eq!((batch.term(), batch.first_leaf(), batch.count()), (Term::new(3), LeafIndex::new(2), 1));
        assert_eq!(sequencer.next_proposal(), None);
    }

    #[test]
    fn a_refused_record_leaves_a_gap_for_those_behind_it() {
        let mut sequencer = sequencer();
        let records = chain(3);
        let answers = take(&mut sequencer, &[records[0].clone(), records[2].clone()]);
        assert_eq!(answers[1], Err(Refusal::Chain(ChainError::SeqGap { expected: 2, found: 3 })));
        assert_eq!(sequencer.leaves(), TreeSize::new(1));
    }

    #[test]
    fn batches_end_with_their_block_and_a_seal_entry_names_the_open_segment() {
        let mut sequencer = sequencer();
        let records = chain((1 << HEIGHT) + 1);
        take(&mut sequencer, &records);
        let first = sequencer.next_proposal().unwrap();
        assert_eq!((first.first_leaf, first.end), (LeafIndex::new(0), TreeSize::new(1 << HEIGHT)));
        sequencer.end_segment();
        let rest = sequencer.next_proposal().unwrap();
        assert_eq!((rest.first_leaf, rest.end), (LeafIndex::new(1 << HEIGHT), TreeSize::new((1 << HEIGHT) + 1)));
        let seal = sequencer.next_proposal().unwrap();
        assert_eq!((seal.kind, &seal.body[..]), (EntryKind::Seal, &1_u64.to_le_bytes()[..]));
        sequencer.end_segment();
        assert_eq!(sequencer.next_proposal(), None, "an open segment without records is not ended");
    }
}
