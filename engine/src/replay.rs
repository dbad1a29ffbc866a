//! Following a log from its newest state file to its end: what opening a log for writing reads.

use std::collections::VecDeque;

use stele_proof::record::Record;
use stele_proof::tree::CompactRange;
use stele_proof::{LeafIndex, UnixMillis};

use crate::batch::Batch;
use crate::chains::MAX_CHAINS;
use crate::directory::{Inventory, LogDirectory};
use crate::disk::Disk;
use crate::error::LogError;
use crate::frame::{EntryKind, Placed, Tail};
use crate::number::SegmentNumber;
use crate::read_back::SegmentStart;
use crate::reserved;
use crate::segment::SegmentFile;
use crate::state::{self, State, StateKeeper};

/// Calls `each` for every record of a valid batch.
pub(crate) fn each_record(
    placed: &Placed,
    body: &[u8],
    each: &mut dyn FnMut(LeafIndex, &Record<'_>),
) -> Result<(), LogError> {
    if placed.header.kind != EntryKind::Batch || placed.header.leaf_count == 0 {
        return Ok(());
    }
    let name = crate::directory::relative(SegmentFile::Frames(placed.segment));
    let damaged = |leaf, what: String| LogError::damaged(name.clone(), placed.offset.get(), leaf, what);
    let batch = Batch::parse(body).map_err(|error| damaged(None, error.to_string()))?;
    for (leaf, record) in (placed.header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()) {
        let record = Record::parse(record.bytes).map_err(|error| damaged(Some(leaf), error.to_string()))?;
        each(leaf, &record);
    }
    Ok(())
}

/// What the frames read so far add up to.
pub(crate) struct Applied {
    /// The first segment that was read and not taken from a state file.
    pub(crate) first: SegmentNumber,
    pub(crate) tail: Tail,
    pub(crate) tree: CompactRange,
    pub(crate) keeper: StateKeeper,
    /// Where the segments began that have no seal record as far as is known, the open one last, and
    /// what the log added up to there.
    pub(crate) starts: VecDeque<(SegmentStart, StateKeeper)>,
    /// Time of the open segment's first record outside `stele/`.
    pub(crate) aging_since: Option<UnixMillis>,
}

impl Applied {
    /// Reads the log up to its sealed end: the newest state file of a segment before `before`, and the
    /// segments behind it.
    pub(crate) fn up_to_sealed(
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
        before: SegmentNumber,
    ) -> Result<Self, LogError> {
        let mut applied = Self::behind(inventory, state::load_newest(disk, directory, before, MAX_CHAINS)?);
        while applied.tail.segment < inventory.sealed {
            applied.walk_segment(disk, directory, None)?;
        }
        Ok(applied)
    }

    /// Reads on, up to the end of the log.
    pub(crate) fn walk_to(&mut self, disk: &dyn Disk, directory: &LogDirectory, end: &Tail) -> Result<(), LogError> {
        while (self.tail.segment, self.tail.offset) < (end.segment, end.offset) {
            self.walk_segment(disk, directory, Some(end))?;
        }
        self.begin_segment();
        Ok(())
    }

    fn behind(inventory: &Inventory, state: Option<State>) -> Self {
        let (tail, tree, keeper) = match state {
            Some(state) => (state.tail, state.tree.clone(), StateKeeper::behind(state)),
            None => {
                let tail = Tail::start(inventory.alignment, inventory.height);
                (tail, CompactRange::new(), StateKeeper::new(MAX_CHAINS))
            }
        };
        Self { first: tail.segment, tail, tree, keeper, starts: VecDeque::new(), aging_since: None }
    }

    /// The first segment that has no seal record: they stand in the order of segments, without a gap.
    pub(crate) fn recorded(&mut self) -> SegmentNumber {
        let head = self.keeper.chains.head(reserved::SEGMENTS_STREAM, reserved::WRITER);
        SegmentNumber::new(head.map_or(0, |head| head.seq))
    }

    /// Notes where a segment begins, and forgets those that have their seal record.
    fn begin_segment(&mut self) {
        let recorded = self.recorded();
        self.starts.retain(|(start, _)| start.tail.segment >= recorded);
        if self.starts.back().is_none_or(|(start, _)| start.tail.segment < self.tail.segment) {
            self.starts.push_back((SegmentStart { tail: self.tail, tree: self.tree.clone() }, self.keeper.clone()));
            self.aging_since = None;
        }
    }

    fn walk_segment(&mut self, disk: &dyn Disk, directory: &LogDirectory, end: Option<&Tail>) -> Result<(), LogError> {
        self.begin_segment();
        let mut tail = self.tail;
        let (tree, keeper, aging) = (&mut self.tree, &mut self.keeper, &mut self.aging_since);
        let mut broken = None;
        let mut file_bytes = 0;
        crate::walk::walk_segment(disk, directory, &mut tail, end, &mut |before, placed, body| {
            file_bytes = placed.offset.get() + placed.header.frame_len(before.alignment);
            if placed.header.kind == EntryKind::Membership {
                keeper.membership = body.to_vec();
            }
            each_record(placed, body, &mut |leaf, record| {
                tree.append(record.leaf_hash());
                if !record.is_reserved() && aging.is_none() {
                    *aging = Some(record.ts_ms());
                }
                if let (None, Err(error)) = (&broken, keeper.chains.advance(record, record.self_hash(), leaf)) {
                    broken = Some((placed.segment, placed.offset, leaf, error));
                }
            })
        })?;
        if let Some((segment, offset, leaf, error)) = broken {
            let name = crate::directory::relative(SegmentFile::Frames(segment));
            return Err(LogError::damaged(name, offset.get(), Some(leaf), error));
        }
        let segment = self.tail.segment;
        self.tail = tail;
        if tail.segment > segment
            && let Some(bytes) = self.keeper.end_segment(file_bytes, &tail, &self.tree)
            && end.is_none()
        {
            state::store(disk, directory, segment, &bytes)?;
        }
        Ok(())
    }
}
