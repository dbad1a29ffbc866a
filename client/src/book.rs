//! What an appender knows about its records: a plain state machine, without connection, task or clock.
//!
//! A record *waits* or is *sent*. Per chain (writer, stream):
//!
//! | event | what follows |
//! |---|---|
//! | a receipt | answered; the next attempt of this chain starts from the shortest wait |
//! | `Busy`, `Unavailable`, `NotLeader` | it waits again, the chain *drains*: nothing of it is sent before all that is in flight has its answer; then it rests, and goes on from the first record that waits |
//! | `SeqGap` while the chain drains | the consequence of the refusal before: it waits again, behind that record |
//! | any other refusal; `SeqGap` of its own; the end of its time | answered with an error; what waits behind it fails; what is in flight behind it gets its receipt if there is one, else fails, too |
//! | the connection breaks | all that is sent waits again; a draft that may not be there twice fails |
//! | an answer that breaks the contract | all that is sent fails: nobody knows which answer was whose |
//!
//! I-CLIENT-1: every record is answered once. I-CLIENT-2: within a chain and a connection, a record is sent only when
//! every earlier one has its receipt, or is in flight on the same connection with no refusal between them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use core::time::Duration;
use stele_api::v1::{self, RefusalCode, record_answer::Answer};
use stele_proof::LeafIndex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::config::Batch;
use crate::error::{AppendError, Fate, Refused, Violation};
use crate::record::{ChainName, Receipt};

/// What is kept of a record to check its receipt.
pub(crate) trait Check: Send {
    /// Turns a receipt into what the caller gets, or says what is wrong with it.
    fn check(&self, submission: &v1::Submission, receipt: &v1::Receipt) -> Result<Receipt, Violation>;
}

/// The place of a record in its chain; a draft has none, since the leader gives it one.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) chain: Arc<ChainName>,
    pub(crate) seq: u64,
}

/// Where the answer goes.
pub(crate) type Answerer = oneshot::Sender<Result<Receipt, AppendError>>;

/// A record that was pushed.
pub(crate) struct Item {
    pub(crate) identity: Option<Identity>,
    pub(crate) submission: v1::Submission,
    pub(crate) bytes: usize,
    pub(crate) check: Box<dyn Check>,
    pub(crate) deadline: Instant,
    pub(crate) answerer: Answerer,
    /// Its share of the bounds; comes back when it is answered.
    pub(crate) share: Option<[OwnedSemaphorePermit; 2]>,
}

/// The position in the order of pushes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Ticket(u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Waits,
    Sent,
}

struct Entry {
    item: Item,
    place: Place,
    fate: Fate,
    /// Set when an earlier record of its chain, with this number, failed while this one was in flight.
    behind: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Flows,
    /// Nothing is sent before what is in flight is answered; then it rests, or not.
    Drains(Rest),
    Rests(Instant),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rest {
    Needed,
    Skipped,
}

struct Chain {
    queue: VecDeque<Ticket>,
    in_flight: usize,
    flow: Flow,
    failed: u32,
    /// Number and index of the receipted record with the highest number.
    last: Option<(u64, LeafIndex)>,
}

/// One record on the connection, in the order of the stream.
struct Flight {
    ticket: Ticket,
    identity: Option<Identity>,
    request: u64,
    record: u32,
    since: Instant,
}

/// Whether a draft is sent again after its answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DraftRetry {
    /// No: its fate is told as [`AppendError::DraftUncertain`].
    #[default]
    Never,
    /// Yes: it may be in the log twice.
    MayDuplicate,
}

/// What the answers ask of the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    Stay,
    /// This node does not lead.
    Move(Option<v1::Leader>),
}

pub(crate) struct Book {
    entries: BTreeMap<Ticket, Entry>,
    chains: HashMap<Arc<ChainName>, Chain>,
    /// What waits and may be sent now.
    ready: BTreeSet<Ticket>,
    flights: VecDeque<Flight>,
    /// Chains that rest, and until when.
    resting: BTreeSet<(Instant, Arc<ChainName>)>,
    draft_rest: BTreeSet<(Instant, Ticket)>,
    next_ticket: u64,
    next_request: u64,
    backoff: Backoff,
    drafts: DraftRetry,
}

impl Book {
    pub(crate) fn new(backoff: Backoff, drafts: DraftRetry) -> Self {
        Self {
            entries: BTreeMap::new(),
            chains: HashMap::new(),
            ready: BTreeSet::new(),
            flights: VecDeque::new(),
            resting: BTreeSet::new(),
            draft_rest: BTreeSet::new(),
            next_ticket: 0,
            next_request: 0,
            backoff,
            drafts,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn has_flights(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Takes a record in.
    pub(crate) fn admit(&mut self, item: Item) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let flows = match &item.identity {
            None => true,
            Some(identity) => {
                let chain = self.chains.entry(Arc::clone(&identity.chain)).or_insert_with(|| Chain {
                    queue: VecDeque::new(),
                    in_flight: 0,
                    flow: Flow::Flows,
                    failed: 0,
                    last: None,
                });
                chain.queue.push_back(ticket);
                chain.flow == Flow::Flows
            }
        };
        if flows {
            self.ready.insert(ticket);
        }
        self.entries.insert(ticket, Entry { item, place: Place::Waits, fate: Fate::NotAppended, behind: None });
    }

    /// The next message: what waits and may be sent, in the order of pushes, within the bounds.
    pub(crate) fn next_message(&mut self, now: Instant, bounds: Batch) -> Option<(u64, Vec<v1::Submission>)> {
        let (mut records, mut bytes) = (Vec::new(), 0_usize);
        let request = self.next_request;
        while let Some(&ticket) = self.ready.first() {
            let entry = self.entries.get_mut(&ticket).expect("what is ready has its entry");
            let next = bytes.saturating_add(entry.item.bytes);
            if records.len() == bounds.records || (!records.is_empty() && next > bounds.bytes) {
                break;
            }
            bytes = next;
            self.ready.remove(&ticket);
            (entry.place, entry.fate) = (Place::Sent, Fate::Unknown);
            let identity = entry.item.identity.clone();
            if let Some(chain) = identity.as_ref().and_then(|identity| self.chains.get_mut(&identity.chain)) {
                chain.in_flight += 1;
            }
            let record = u32::try_from(records.len()).expect("a message has at most 8192 records");
            self.flights.push_back(Flight { ticket, identity, request, record, since: now });
            records.push(entry.item.submission.clone());
        }
        if records.is_empty() {
            return None;
        }
        self.next_request += 1;
        Some((request, records))
    }

    /// Takes a response in. After an error the connection is given up and [`Book::violated`] called.
    pub(crate) fn answers(&mut self, response: v1::AppendResponse, now: Instant) -> Result<Advice, Violation> {
        let mut advice = Advice::Stay;
        let mut record = response.first_record;
        if response.answers.is_empty() {
            return Err(Violation::Missing { what: "answers" });
        }
        for answer in response.answers {
            let due = self.flights.front();
            if due.is_none_or(|due| (due.request, due.record) != (response.request_id, record)) {
                return Err(Violation::AnswerOutOfOrder { request: response.request_id, record });
            }
            let answer = answer.answer.ok_or(Violation::Missing { what: "receipt or refusal" })?;
            if let Answer::Refusal(refusal) = &answer
                && refusal.code() == RefusalCode::NotLeader
            {
                advice = Advice::Move(refusal.leader.clone());
            }
            self.answer(answer, now)?;
            record = record.saturating_add(1);
        }
        Ok(advice)
    }

    /// The answer to the first record in flight.
    fn answer(&mut self, answer: Answer, now: Instant) -> Result<(), Violation> {
        let front = self.flights.front().expect("checked by the caller");
        // Checked before anything changes: a violation fails everything that is in flight.
        let answer = match answer {
            Answer::Receipt(receipt) => Ok(self.check_receipt(front, &receipt)?),
            Answer::Refusal(refusal) => Err(refusal),
        };
        let flight = self.flights.pop_front().expect("it was there");
        let ticket = flight.ticket;
        let seq = flight.identity.as_ref().map(|identity| identity.seq);
        let name = flight.identity.map(|identity| identity.chain);
        let mut chain = name.as_ref().and_then(|name| self.chains.get_mut(name));
        if let Some(chain) = &mut chain {
            chain.in_flight -= 1;
        }
        match answer {
            Ok((index, receipt)) => {
                if let (Some(chain), Some(seq)) = (chain, seq) {
                    chain.failed = 0;
                    chain.last = chain.last.max(Some((seq, index)));
                }
                if let Some(receipt) = receipt {
                    self.finish(ticket, Ok(receipt));
                }
            }
            // Where its time was over, it was answered before.
            Err(refusal) if self.entries.contains_key(&ticket) => self.refused(ticket, &refusal, now),
            Err(_) => {}
        }
        if let Some(name) = name {
            self.settle(&name, now);
        }
        Ok(())
    }

    /// What the caller gets, unless its time was over.
    fn check_receipt(&self, flight: &Flight, receipt: &v1::Receipt) -> Result<(LeafIndex, Option<Receipt>), Violation> {
        let second = LeafIndex::new(receipt.index);
        if let Some(identity) = &flight.identity
            && let Some((seq, first)) = self.chains.get(&identity.chain).and_then(|chain| chain.last)
            // After `Unavailable` a later record may have its receipt first.
            && identity.seq.cmp(&seq) != second.cmp(&first)
        {
            return Err(Violation::IndexOrder { first, second });
        }
        let entry = self.entries.get(&flight.ticket);
        Ok((second, entry.map(|entry| entry.item.check.check(&entry.item.submission, receipt)).transpose()?))
    }

    fn refused(&mut self, ticket: Ticket, refusal: &v1::Refusal, now: Instant) {
        let code = refusal.code();
        let entry = self.entries.get_mut(&ticket).expect("the caller found it");
        if code != RefusalCode::Unavailable {
            entry.fate = Fate::NotAppended;
        }
        let retriable = matches!(code, RefusalCode::Busy | RefusalCode::Unavailable | RefusalCode::NotLeader);
        if let Some(failed) = entry.behind
            && (retriable || code == RefusalCode::SeqGap)
        {
            let fate = entry.fate;
            return self.finish(ticket, Err(AppendError::ChainBroken { failed, fate }));
        }
        let Some(identity) = entry.item.identity.clone() else {
            return self.refused_draft(ticket, code, refusal, now);
        };
        let chain = self.chains.get_mut(&identity.chain).expect("a chain lives as long as its records");
        let before = chain.flow;
        match code {
            RefusalCode::Busy | RefusalCode::Unavailable => chain.flow = Flow::Drains(Rest::Needed),
            // The wait belongs to the connection, which is about to be left.
            RefusalCode::NotLeader if chain.flow == Flow::Flows => chain.flow = Flow::Drains(Rest::Skipped),
            RefusalCode::NotLeader => {}
            RefusalCode::SeqGap if matches!(chain.flow, Flow::Drains(_)) => {}
            _ => {
                self.finish(ticket, Err(Refused::from(refusal).into()));
                return self.break_chain(&identity);
            }
        }
        entry.place = Place::Waits;
        if before == Flow::Flows {
            for ticket in &chain.queue {
                self.ready.remove(ticket);
            }
        }
    }

    fn refused_draft(&mut self, ticket: Ticket, code: RefusalCode, refusal: &v1::Refusal, now: Instant) {
        let again = match code {
            RefusalCode::Busy | RefusalCode::NotLeader => true,
            RefusalCode::Unavailable => self.drafts == DraftRetry::MayDuplicate,
            _ => return self.finish(ticket, Err(Refused::from(refusal).into())),
        };
        if !again {
            return self.finish(ticket, Err(AppendError::DraftUncertain));
        }
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.place = Place::Waits;
        }
        if code == RefusalCode::NotLeader {
            self.ready.insert(ticket);
        } else {
            self.draft_rest.insert((now + self.backoff.delay(2), ticket));
        }
    }

    /// A record of the chain failed for good: what waits behind it fails, what is in flight is marked.
    fn break_chain(&mut self, failed: &Identity) {
        let Some(chain) = self.chains.get_mut(&failed.chain) else { return };
        chain.flow = Flow::Drains(Rest::Skipped);
        let queue: Vec<_> = chain.queue.iter().copied().collect();
        for ticket in queue {
            let Some(entry) = self.entries.get_mut(&ticket) else { continue };
            if entry.item.identity.as_ref().is_some_and(|identity| identity.seq <= failed.seq) {
                continue;
            }
            match entry.place {
                Place::Sent => entry.behind = Some(failed.seq),
                Place::Waits => {
                    let fate = entry.fate;
                    self.finish(ticket, Err(AppendError::ChainBroken { failed: failed.seq, fate }));
                }
            }
        }
    }

    /// Lets a chain rest or flow once nothing of it is in flight, and forgets it when it is empty.
    fn settle(&mut self, name: &Arc<ChainName>, now: Instant) {
        let Some(chain) = self.chains.get_mut(name) else { return };
        if chain.in_flight > 0 {
            return;
        }
        if chain.queue.is_empty() {
            if let Flow::Rests(until) = chain.flow {
                self.resting.remove(&(until, Arc::clone(name)));
            }
            self.chains.remove(name);
            return;
        }
        match chain.flow {
            Flow::Drains(Rest::Needed) => {
                let until = now + self.backoff.delay(chain.failed);
                chain.failed = chain.failed.saturating_add(1);
                chain.flow = Flow::Rests(until);
                self.resting.insert((until, Arc::clone(name)));
            }
            Flow::Drains(Rest::Skipped) => {
                chain.flow = Flow::Flows;
                self.ready.extend(chain.queue.iter().copied());
            }
            Flow::Flows | Flow::Rests(_) => {}
        }
    }

    /// The connection is gone: what was sent waits again.
    pub(crate) fn cut(&mut self, now: Instant) {
        let flights = core::mem::take(&mut self.flights);
        for flight in flights {
            let Some(entry) = self.entries.get_mut(&flight.ticket) else { continue };
            entry.place = Place::Waits;
            let fate = entry.fate;
            if let Some(failed) = entry.behind {
                self.finish(flight.ticket, Err(AppendError::ChainBroken { failed, fate }));
            } else if flight.identity.is_none() {
                match self.drafts {
                    DraftRetry::Never => self.finish(flight.ticket, Err(AppendError::DraftUncertain)),
                    DraftRetry::MayDuplicate => {
                        self.ready.insert(flight.ticket);
                    }
                }
            }
        }
        let names: Vec<_> = self.chains.keys().cloned().collect();
        for name in names {
            if let Some(chain) = self.chains.get_mut(&name) {
                chain.in_flight = 0;
                if !matches!(chain.flow, Flow::Rests(_)) {
                    chain.flow = Flow::Drains(Rest::Skipped);
                }
            }
            self.settle(&name, now);
        }
    }

    /// A server broke its contract: nobody knows which answer was whose.
    pub(crate) fn violated(&mut self, violation: &Arc<Violation>, now: Instant) {
        let sent: Vec<_> = self.flights.iter().map(|flight| (flight.ticket, flight.identity.clone())).collect();
        for (ticket, identity) in sent {
            if self.entries.contains_key(&ticket) {
                self.finish(ticket, Err(AppendError::Violation(Arc::clone(violation))));
                if let Some(identity) = identity {
                    self.break_waiting(&identity);
                }
            }
        }
        self.cut(now);
    }

    /// As [`Book::break_chain`], for a record whose later ones in flight get an error of their own.
    fn break_waiting(&mut self, failed: &Identity) {
        let Some(chain) = self.chains.get(&failed.chain) else { return };
        let queue: Vec<_> = chain.queue.iter().copied().collect();
        for ticket in queue {
            if let Some(entry) = self.entries.get(&ticket)
                && entry.place == Place::Waits
            {
                let fate = entry.fate;
                self.finish(ticket, Err(AppendError::ChainBroken { failed: failed.seq, fate }));
            }
        }
    }

    /// Lets go on what has rested, and answers what has run out of time.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some((until, name)) = self.resting.first().cloned() {
            if until > now {
                break;
            }
            self.resting.pop_first();
            match self.chains.get_mut(&name) {
                Some(chain) if chain.flow == Flow::Rests(until) => {
                    chain.flow = Flow::Flows;
                    self.ready.extend(chain.queue.iter().copied());
                }
                _ => {}
            }
        }
        while let Some(&(until, ticket)) = self.draft_rest.first() {
            if until > now {
                break;
            }
            self.draft_rest.pop_first();
            if self.entries.contains_key(&ticket) {
                self.ready.insert(ticket);
            }
        }
        while let Some((&ticket, entry)) = self.entries.first_key_value() {
            // All records have the same time, so the first one pushed is the first to run out.
            if entry.item.deadline > now {
                break;
            }
            let (fate, identity) = (entry.fate, entry.item.identity.clone());
            self.finish(ticket, Err(AppendError::TimedOut { fate }));
            if let Some(identity) = identity {
                self.break_chain(&identity);
                self.settle(&identity.chain, now);
            }
        }
    }

    /// When [`Book::wake`] has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let deadline = self.entries.first_key_value().map(|(_, entry)| entry.item.deadline);
        let chains = self.resting.first().map(|(until, _)| *until);
        let drafts = self.draft_rest.first().map(|(until, _)| *until);
        [deadline, chains, drafts].into_iter().flatten().min()
    }

    /// When the connection has owed its oldest answer for this long.
    pub(crate) fn answer_due(&self, patience: Duration) -> Option<Instant> {
        self.flights.front().map(|flight| flight.since + patience)
    }

    /// Answers everything with this error; what is in flight is still to be cut.
    pub(crate) fn fail_all(&mut self, error: &AppendError) {
        let tickets: Vec<_> = self.entries.keys().copied().collect();
        tickets.into_iter().for_each(|ticket| self.finish(ticket, Err(error.clone())));
        self.chains.retain(|_, chain| chain.in_flight > 0);
    }

    fn finish(&mut self, ticket: Ticket, answer: Result<Receipt, AppendError>) {
        let Some(entry) = self.entries.remove(&ticket) else { return };
        self.ready.remove(&ticket);
        if let Some(chain) = entry.item.identity.as_ref().and_then(|identity| self.chains.get_mut(&identity.chain)) {
            match chain.queue.front() {
                Some(front) if *front == ticket => {
                    chain.queue.pop_front();
                }
                _ => chain.queue.retain(|other| *other != ticket),
            }
        }
        drop(entry.item.share);
        // Whoever dropped the future does not want to know.
        drop(entry.item.answerer.send(answer));
    }
}
