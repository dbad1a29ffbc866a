//! Looking things up in the sheets: which leaves may be what is asked for. The log says whether they are.

use stele_proof::record::{Record, SelfHash, canonical_text};
use stele_proof::{LeafIndex, TreeSize};

use crate::error::LogError;
use crate::reader::{LogReader, Payloads};
use crate::segment::LeafRange;

use super::IndexError;
use super::mark::Mark;
use super::query::Query;
use super::sheet::{Head, List, ListKey, Page, first_leaf, head_key, page_key};
use super::store::{Store, StoreFault};

/// Leaves closer to each other than this are read together: reading over a few hundred that are not wanted
/// costs about what reading a large frame once more does.
const JOINED_LEAVES: u64 = 256;

/// The sheets that a mark tells of.
pub(super) struct Sheets {
    pub(super) store: Store,
    pub(super) mark: Mark,
}

/// What names an append: no two records of a log have the same one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity<'i> {
    /// The stream.
    pub stream: &'i str,
    /// The writer.
    pub writer: &'i str,
    /// The sequence number.
    pub seq: u64,
}

/// What the index knows of an identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// This record has it; it was read and hashed.
    At(LeafIndex, SelfHash),
    /// None of the first records has it. Those behind have no sheet yet and were not looked at.
    NotAmong(TreeSize),
}

impl Sheets {
    fn head(&self, number: u64) -> Result<Head, StoreFault> {
        let key = head_key(number);
        let row = self.store.get(&key)?.ok_or_else(|| StoreFault::Unusable(format!("sheet {number} is missing")))?;
        Head::decode(&row, &self.mark.log, &key)
            .ok_or_else(|| StoreFault::Unusable(format!("sheet {number} is damaged")))
    }

    fn page(&self, number: u64, page: u32, head: &Head) -> Result<Page, StoreFault> {
        let key = page_key(number, page);
        let missing = || StoreFault::Unusable(format!("page {page} of sheet {number} is missing"));
        let row = self.store.get(&key)?.ok_or_else(missing)?;
        Page::decode(&row, &self.mark.log, &key)
            .filter(|found| found.first() == head.fence(page))
            .ok_or_else(|| StoreFault::Unusable(format!("page {page} of sheet {number} is damaged")))
    }

    fn list(&self, number: u64, head: &Head, key: ListKey) -> Result<Option<List>, StoreFault> {
        let Some(page) = head.page_of(key) else { return Ok(None) };
        Ok(self.page(number, page, head)?.list(key))
    }

    /// Reads all of a sheet.
    pub(super) fn check(&self, number: u64) -> Result<(), StoreFault> {
        let head = self.head(number)?;
        head.pages().try_for_each(|page| self.page(number, page, &head).map(drop))
    }

    /// The leaves of a sheet that may be what a query asks for, ascending.
    pub(super) fn candidates(&self, number: u64, query: &Query) -> Result<Vec<LeafRange>, StoreFault> {
        let (first, end) = (first_leaf(number), first_leaf(number + 1));
        if end <= query.leaves.first || first >= query.leaves.end {
            return Ok(Vec::new());
        }
        let head = self.head(number)?;
        let Some(key) = query.filter.list_key() else {
            return Ok(head.spans_where(number, |span| query.filter.may_be_in(span)));
        };
        let Some(list) = self.list(number, &head, key)? else { return Ok(Vec::new()) };
        let mut ranges: Vec<LeafRange> = Vec::new();
        for at in list.leaves {
            let leaf = LeafIndex::new(first.get() + u64::from(at));
            let in_time = head.span_of(at).is_none_or(|span| query.filter.may_be_in(span));
            if !in_time || !query.leaves.contains(leaf) {
                continue;
            }
            let end = LeafIndex::new(leaf.get() + 1);
            match ranges.last_mut() {
                Some(last) if leaf.get() - last.end.get() < JOINED_LEAVES => last.end = end,
                _ => ranges.push(LeafRange { first: leaf, end }),
            }
        }
        Ok(ranges)
    }

    /// The record that has an identity.
    pub(super) fn find_identity(&self, reader: &LogReader, identity: &Identity<'_>) -> Result<Known, IndexError> {
        let (stream, writer) = (canonical_text(identity.stream), canonical_text(identity.writer));
        let is = |record: &Record<'_>| {
            record.seq() == identity.seq
                && record.stream().escaped() == stream
                && record.writer_id().escaped() == writer
        };
        let key = ListKey::chain([&stream, &writer]);
        if let Some((number, list)) = self.halve(key, identity.seq)?
            && let Some(found) = among(reader, number, &list, identity.seq, &is)?
        {
            return Ok(found);
        }
        // Where two chains share a key their numbers do not ascend together: then every sheet is looked at.
        for number in (0..self.mark.sheets()).rev() {
            let Some(list) = self.list(number, &self.head(number)?, key)? else { continue };
            if (list.seqs.0..=list.seqs.1).contains(&identity.seq)
                && let Some(found) = among(reader, number, &list, identity.seq, &is)?
            {
                return Ok(found);
            }
        }
        Ok(Known::NotAmong(self.mark.leaves))
    }

    /// The list that a chain has a number in, if its numbers ascend: by halving, past sheets without it.
    fn halve(&self, key: ListKey, seq: u64) -> Result<Option<(u64, List)>, StoreFault> {
        let (mut low, mut high) = (0, self.mark.sheets());
        while low < high {
            let middle = low.midpoint(high);
            let mut there = None;
            for number in (low..=middle).rev() {
                if let Some(list) = self.list(number, &self.head(number)?, key)? {
                    there = Some((number, list));
                    break;
                }
            }
            match there {
                Some((number, list)) if seq < list.seqs.0 => high = number,
                Some((number, list)) if seq <= list.seqs.1 => return Ok(Some((number, list))),
                _ => low = middle + 1,
            }
        }
        Ok(None)
    }
}

/// The record of a list that is asked for.
fn among(
    reader: &LogReader,
    number: u64,
    list: &List,
    seq: u64,
    is: &dyn Fn(&Record<'_>) -> bool,
) -> Result<Option<Known>, LogError> {
    // A chain counts without gaps; only where two of them share a key are the others looked at.
    let guess = usize::try_from(seq - list.seqs.0).ok().and_then(|at| list.leaves.get(at));
    for at in guess.into_iter().chain(&list.leaves) {
        let leaf = LeafIndex::new(first_leaf(number).get() + u64::from(*at));
        if let Some(hash) = hash_if(reader, leaf, is)? {
            return Ok(Some(Known::At(leaf, hash)));
        }
    }
    Ok(None)
}

/// The hash of the record at a leaf, if it is what is asked for.
fn hash_if(
    reader: &LogReader,
    leaf: LeafIndex,
    is: &dyn Fn(&Record<'_>) -> bool,
) -> Result<Option<SelfHash>, LogError> {
    let mut found = None;
    let end = LeafIndex::new(leaf.get() + 1);
    reader.read::<LogError>(leaf, end, Payloads::Leave, &mut |read| {
        let record = Record::parse(&read.canonical)
            .map_err(|error| LogError::damaged("segments", 0, Some(read.index), error))?;
        if is(&record) {
            found = Some(record.self_hash());
        }
        Ok(())
    })?;
    Ok(found)
}
