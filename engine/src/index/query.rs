//! What is looked for, and reading it: the index only says where to look.

use std::ops::Range;

use stele_proof::record::{Record, canonical_text};
use stele_proof::{LeafIndex, UnixMillis};

use crate::error::LogError;
use crate::number::SegmentNumber;
use crate::reader::{LogReader, Payloads, ReadRecord};
use crate::segment::LeafRange;

use super::hashes::{Table, WantedHash};
use super::sheet::{ListKey, Span};
use super::{Answered, StoreFault};

/// What records must be like; all of it together.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    /// Escaped, as records have it.
    stream: Option<String>,
    writer: Option<String>,
    times: Range<Option<UnixMillis>>,
    hash: Option<WantedHash>,
}

impl Filter {
    /// Only records of this stream.
    #[must_use]
    pub fn stream(self, name: &str) -> Self {
        Self { stream: Some(canonical_text(name).into_owned()), ..self }
    }

    /// Only records of this writer.
    #[must_use]
    pub fn writer(self, name: &str) -> Self {
        Self { writer: Some(canonical_text(name).into_owned()), ..self }
    }

    /// Only records whose `ts_ms` is not before this.
    #[must_use]
    pub fn since(self, time: UnixMillis) -> Self {
        Self { times: Some(time)..self.times.end, ..self }
    }

    /// Only records whose `ts_ms` is before this.
    #[must_use]
    pub fn until(self, time: UnixMillis) -> Self {
        Self { times: self.times.start..Some(time), ..self }
    }

    /// Only records with this `self_hash`, payload hash or `content_id`.
    #[must_use]
    pub fn hash(self, hash: WantedHash) -> Self {
        Self { hash: Some(hash), ..self }
    }

    /// Whether a hash is asked for: then the hash tables narrow it down, not the sheets.
    pub(super) const fn has_hash(&self) -> bool {
        self.hash.is_some()
    }

    /// The key of the shortest list that holds all that is asked for; `None` where times alone tell.
    pub(super) fn list_key(&self) -> Option<ListKey> {
        match (&self.stream, &self.writer) {
            (Some(stream), Some(writer)) => Some(ListKey::chain([stream, writer])),
            (Some(stream), None) => Some(ListKey::stream(stream)),
            (None, Some(writer)) => Some(ListKey::writer(writer)),
            (None, None) => None,
        }
    }

    /// Whether a record among some of these times can be in time.
    pub(super) fn may_be_in(&self, span: Span) -> bool {
        self.times.start.is_none_or(|since| span.latest >= since)
            && self.times.end.is_none_or(|until| span.earliest < until)
    }

    /// Whether a record is like that.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let ts = record.ts_ms();
        self.stream.as_ref().is_none_or(|wanted| wanted == record.stream().escaped())
            && self.writer.as_ref().is_none_or(|wanted| wanted == record.writer_id().escaped())
            && self.times.start.is_none_or(|since| ts >= since)
            && self.times.end.is_none_or(|until| ts < until)
            && self.hash.as_ref().is_none_or(|wanted| wanted.is_of(record))
    }
}

/// What becomes of records that are asked for and have no sheet yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unindexed {
    /// They are read, however many there are.
    Read,
    /// They are read where there are no more than this, else said not to be indexed yet.
    ReadAtMost(u64),
}

/// What is asked for: records of a range that are like the filter, with payloads or not.
#[derive(Clone, Debug)]
pub struct Query {
    /// What they must be like.
    pub filter: Filter,
    /// Where they lie; clipped at the end of the log.
    pub leaves: LeafRange,
    /// Whether payloads are read along.
    pub payloads: Payloads,
}

impl Query {
    /// The part of a range that is asked for.
    fn clip(&self, range: LeafRange) -> Option<LeafRange> {
        let clipped = LeafRange { first: range.first.max(self.leaves.first), end: range.end.min(self.leaves.end) };
        (clipped.first < clipped.end).then_some(clipped)
    }

    /// Hands out what is like the filter in a range of leaves that can be read, and reads all of the range.
    pub(super) fn read<E: From<LogError>>(
        &self,
        reader: &LogReader,
        range: LeafRange,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(range) = self.clip(range) else { return Ok(()) };
        reader.read::<E>(range.first, range.end, self.payloads, &mut |read| {
            let record = Record::parse(&read.canonical)
                .map_err(|error| LogError::damaged("segments", 0, Some(read.index), error))?;
            if self.filter.matches(&record) { each(read) } else { Ok(()) }
        })
    }

    /// Reads what has no sheet yet, or tells what of it was asked for and not looked at.
    pub(super) fn read_unindexed<E: From<LogError>>(
        &self,
        reader: &LogReader,
        first: LeafIndex,
        unindexed: Unindexed,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<Option<LeafRange>, E> {
        match (self.clip(LeafRange { first, end: reader.size().next_leaf() }), unindexed) {
            (Some(left), Unindexed::ReadAtMost(bound)) if left.len() > bound => Ok(Some(left)),
            _ => self.read_rest(reader, first, each).map(|()| None),
        }
    }

    /// Reads what lies behind a leaf, up to the end of the log; damage that hides its end is told.
    pub(super) fn read_rest<E: From<LogError>>(
        &self,
        reader: &LogReader,
        first: LeafIndex,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = reader.size().next_leaf();
        self.read(reader, LeafRange { first, end: size }, each)?;
        if self.leaves.end > size { Ok(reader.whole()?) } else { Ok(()) }
    }
}

/// Where the log may hold what a query asks for, as far as the index got. The index is needed no more.
#[derive(Clone, Debug)]
pub struct Places {
    query: Query,
    /// Ascending; none touches the next.
    ranges: Vec<LeafRange>,
    /// What lies from here on was not looked up.
    next: LeafIndex,
    /// Why not, where it has sheets.
    without: Option<String>,
}

impl Places {
    pub(super) fn begin(query: &Query) -> Self {
        Self { query: query.clone(), ranges: Vec::new(), next: LeafIndex::new(0), without: None }
    }

    /// Adds those of the next sheet, which ends before a leaf.
    pub(super) fn add(&mut self, ranges: Vec<LeafRange>, next: LeafIndex) {
        for range in ranges {
            match self.ranges.last_mut() {
                Some(last) if last.end == range.first => last.end = range.end,
                _ => self.ranges.push(range),
            }
        }
        self.next = next;
    }

    pub(super) fn without(self, fault: &StoreFault) -> Self {
        Self { without: Some(fault.to_string()), ..self }
    }

    /// Hands out what the query asks for, in the order of the log. Where the index failed, the rest is read.
    ///
    /// # Errors
    /// As [`scan`].
    pub fn read<E: From<LogError>>(
        &self,
        reader: &LogReader,
        unindexed: Unindexed,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<Answered, E> {
        if self.query.filter.has_hash() {
            return scan(reader, &self.query, each).map(|()| Answered::default());
        }
        for range in &self.ranges {
            self.query.read(reader, *range, each)?;
        }
        if self.without.is_some() {
            self.query.read_rest(reader, self.next, each)?;
            return Ok(Answered { without: self.without.clone(), not_looked_at: None });
        }
        let not_looked_at = self.query.read_unindexed(reader, self.next, unindexed, each)?;
        Ok(Answered { not_looked_at, without: None })
    }
}

/// Answers a query without the index: where a hash is asked for by the tables beside the sealed segments,
/// else by reading everything.
///
/// # Errors
/// [`LogError`] as [`LogReader::read`], but for a range behind the end; whatever `each` answers.
pub fn scan<E: From<LogError>>(
    reader: &LogReader,
    query: &Query,
    each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
) -> Result<(), E> {
    let start = LeafIndex::new(0);
    match &query.filter.hash {
        None => query.read_rest(reader, start, each),
        Some(hash) => by_hash(reader, query, hash, each),
    }
}

fn by_hash<E: From<LogError>>(
    reader: &LogReader,
    query: &Query,
    hash: &WantedHash,
    each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
) -> Result<(), E> {
    let mut next = LeafIndex::new(0);
    for segment in (0..reader.inventory().sealed.get()).map(SegmentNumber::new) {
        let table = Table::open(reader.disk(), reader.directory(), segment);
        match table.and_then(|table| Ok((table.leaves(), table.look_up(hash)?))) {
            Ok((leaves, found)) => {
                for first in found {
                    let end = LeafIndex::new(first.get() + 1);
                    query.read(reader, LeafRange { first, end }, each)?;
                }
                next = leaves.end;
            }
            // Without a table the segment is read, whatever the fault: the table is only derived.
            Err(_fault) => {
                let leaves = reader.segment(segment)?.leaves();
                query.read(reader, leaves, each)?;
                next = leaves.end;
            }
        }
    }
    query.read_rest(reader, next, each)
}
