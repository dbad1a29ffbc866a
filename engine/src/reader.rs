//! Reading a log without its lock: records by index, proofs by tile.
//!
//! What is shown is durable: with a writer at work, everything before the newest slot's `start`;
//! without one, also the valid linked frames behind it. Nothing is written. Every record is hashed
//! again and compared with its leaf before it is handed out.
//!
//! Damage hides nothing that is sound: in sealed segments every other frame can be read, and in those
//! that are not sealed every frame before the first damaged one. A record that was durable and cannot be
//! read is damaged, never "beyond the end".

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use stele_proof::record::{Record, Salt};
use stele_proof::tree::{self, CompactRange, Node, NodeReader, ProveError};
use stele_proof::{LeafIndex, TreeSize};

use crate::batch::Batch;
use crate::birth::read_genesis;
use crate::directory::{Inventory, LogDirectory, open_payloads, relative};
use crate::disk::{Access, Disk, read_small, read_up_to};
use crate::environment::Environment;
use crate::error::{Damage, LogError};
use crate::frame::{FrameHeader, Tail};
use crate::hard_state::read_clean_mark;
use crate::number::{Offset, SegmentNumber};
use crate::read_back::{Depth, SegmentStart, check_payload, read_back};
use crate::recovery::examine::{Examination, examine};
use crate::recovery::table::Outcome;
use crate::reserved::Genesis;
use crate::ring::{Slot, read_ring};
use crate::segment::{FRAMES_START, PAYLOADS_START, PayloadPart, PayloadPlace, SegmentFile};
use crate::tiles::{Tiles, completing_leaf, node_hash_from};
use crate::walk::walk;

mod follow;

/// Largest tile sidecar that is read: a block of 2^20 leaves, each in a frame of its own.
pub(crate) const MAX_TILES_BYTES: usize = 128 << 20;
/// Sidecars that are kept in memory: about 2.2 MiB each, those of 16 million records.
const KEPT_SIDECARS: usize = 256;
/// The level of the tree from which on nodes are kept in memory: one for every 256 records, and as many again
/// above.
const LOWEST_KEPT_LEVEL: u8 = 8;
/// Nodes that are kept in memory.
const KEPT_NODES: usize = 1 << 18;

/// Where the readable log ends, and why it may not be the end of the files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VisibleEnd {
    /// The end.
    pub tail: Tail,
    /// Something to tell: bytes of a torn last group behind the end.
    pub note: Option<String>,
    /// Where the first unsealed frame that was durable and cannot be read lies; then the log goes on
    /// behind the end.
    pub damage: Option<Damage>,
}

/// A record as it was read, with its payload slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadRecord {
    /// Its leaf index.
    pub index: LeafIndex,
    /// Its canonical bytes, checked against the leaf.
    pub canonical: Vec<u8>,
    /// Salt and payload, where they were asked for and the record has them; checked against the
    /// commitment.
    pub payload: Option<(Salt, Vec<u8>)>,
}

/// Whether payloads are read along.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payloads {
    /// Only records.
    Leave,
    /// Payloads, too.
    Read,
}

/// How far a log is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upto {
    /// What the flush ring proves durable: somebody is writing.
    Confirmed,
    /// All valid linked frames: nobody is writing.
    LastFrame,
}

/// An open log, read only.
pub struct LogReader {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    inventory: Inventory,
    genesis: Genesis,
    end: VisibleEnd,
    /// How many records were durable, where damage hides some and that is known.
    durable: Option<TreeSize>,
    /// Tiles of the segments that have no usable sidecar, the open one among them.
    rebuilt: RefCell<BTreeMap<SegmentNumber, Rc<Tiles>>>,
    sidecars: RefCell<BTreeMap<SegmentNumber, Rc<Tiles>>>,
    nodes: RefCell<HashMap<Node, tree::Hash>>,
}

impl LogReader {
    /// Opens a log for reading; takes no lock and writes nothing.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(environment: &Environment, path: &Path) -> Result<Self, LogError> {
        let lock = LogDirectory::new(path).lock();
        if environment.disk.is_locked(&lock)? {
            return Self::open_up_to(environment, path, Upto::Confirmed);
        }
        let opened = Self::open_up_to(environment, path, Upto::LastFrame);
        let damaged = match &opened {
            Ok(reader) => reader.end.damage.is_some(),
            Err(error) => matches!(error, LogError::Damaged(_)),
        };
        // Somebody began to write meanwhile: then what looks damaged may be half written.
        if damaged && environment.disk.is_locked(&lock)? {
            return Self::open_up_to(environment, path, Upto::Confirmed);
        }
        opened
    }

    /// As [`LogReader::open`], for somebody who holds the lock, so that nobody writes, and who needs
    /// everything that is durable.
    pub(crate) fn open_locked(environment: &Environment, path: &Path) -> Result<Self, LogError> {
        let reader = Self::open_up_to(environment, path, Upto::LastFrame)?;
        reader.whole()?;
        Ok(reader)
    }

    /// Opens a log beside a writer in the same process that says itself how far it may be read: up to `end`, whose
    /// frames are durable and will not be truncated ([`crate::replica::Replica::visible`]).
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open_at(environment: &Environment, path: &Path, end: &Tail) -> Result<Self, LogError> {
        let disk = Arc::clone(&environment.disk);
        let directory = LogDirectory::new(path);
        let inventory = Inventory::take(disk.as_ref(), &directory)?;
        Self::new(disk, directory, inventory, *end)
    }

    fn open_up_to(environment: &Environment, path: &Path, upto: Upto) -> Result<Self, LogError> {
        let disk = Arc::clone(&environment.disk);
        let directory = LogDirectory::new(path);
        let (inventory, slots) = look(disk.as_ref(), &directory)?;
        let start = Tail::start(inventory.alignment, inventory.height);
        let mut reader = Self::new(disk, directory, inventory, start)?;
        reader.find_end(upto, slots)?;
        Ok(reader)
    }

    fn new(disk: Arc<dyn Disk>, directory: LogDirectory, inventory: Inventory, tail: Tail) -> Result<Self, LogError> {
        let genesis = read_genesis(disk.as_ref(), &directory)?;
        Ok(Self {
            disk,
            directory,
            inventory,
            genesis,
            end: VisibleEnd { tail, note: None, damage: None },
            durable: None,
            rebuilt: RefCell::default(),
            sidecars: RefCell::default(),
            nodes: RefCell::default(),
        })
    }

    /// What genesis says.
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// How many records can be read.
    pub const fn size(&self) -> TreeSize {
        self.end.tail.leaves
    }

    /// Answers the damage that hides the rest of the log, if any does.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    pub fn whole(&self) -> Result<(), LogError> {
        self.end.damage.clone().map_or(Ok(()), |damage| Err(LogError::Damaged(damage)))
    }

    /// Why a record cannot be read that lies behind the readable end.
    pub fn beyond_end(&self, index: LeafIndex) -> LogError {
        match &self.end.damage {
            Some(damage) if self.durable.is_none_or(|durable| durable.contains(index)) => {
                LogError::Damaged(damage.clone())
            }
            _ => LogError::BeyondEnd { index, size: self.durable.unwrap_or(self.size()) },
        }
    }

    /// Where the readable log ends.
    pub const fn end(&self) -> &VisibleEnd {
        &self.end
    }

    /// Segments, all before the returned number sealed.
    pub const fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The log's directory.
    pub const fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// Finds the end of what is shown; the rule for what is bad is that of recovery.
    fn find_end(&mut self, upto: Upto, slots: Vec<Slot>) -> Result<(), LogError> {
        let start = self.start_of(self.inventory.sealed)?;
        let newest = slots.iter().max_by_key(|slot| slot.group).copied();
        self.end = match upto {
            Upto::Confirmed => self.confirmed(start, newest.as_ref())?,
            Upto::LastFrame => {
                let clean = read_clean_mark(self.disk.as_ref(), &self.directory.hard_state())?;
                let found = examine(self.disk.as_ref(), &self.directory, &self.inventory, start, (slots, clean))?;
                let end = torn_or_rotten(&found);
                // Only the last file's own ring, or a clean mark, tells how much that file held.
                let told = found.newest.is_some_and(|slot| slot.segment >= self.inventory.last);
                self.durable = end.damage.as_ref().and(found.needed.size()).filter(|_size| told);
                end
            }
        };
        Ok(())
    }

    /// The tail at the newest slot's start: what lies before it is durable, so all of it must be good.
    fn confirmed(&self, start: Tail, newest: Option<&Slot>) -> Result<VisibleEnd, LogError> {
        let (segment, offset) = newest.map_or((start.segment, start.offset), |slot| (slot.segment, slot.start));
        let mut tail = start;
        let end = Tail { segment, offset, ..start };
        let walked = walk(self.disk.as_ref(), &self.directory, start, &end, &mut |before, placed, _| {
            tail = *before;
            tail.advance(placed);
            Ok(())
        });
        match walked {
            Ok(()) => Ok(VisibleEnd { tail, note: None, damage: None }),
            Err(LogError::Damaged(damage)) => Ok(VisibleEnd { tail, note: None, damage: Some(damage) }),
            Err(other) => Err(other),
        }
    }

    /// The tail at the start of a segment whose predecessors are sealed.
    fn start_of(&self, segment: SegmentNumber) -> Result<Tail, LogError> {
        let Some(before) = segment.get().checked_sub(1).map(SegmentNumber::new) else {
            return Ok(Tail::start(self.inventory.alignment, self.inventory.height));
        };
        Ok(tail_behind(&self.inventory, &*self.tiles(before)?))
    }

    /// The tiles of a segment: its sidecar where that is good, else recomputed from the frames.
    fn tiles(&self, segment: SegmentNumber) -> Result<Rc<Tiles>, LogError> {
        if let Some(tiles) = self.rebuilt.borrow().get(&segment).or(self.sidecars.borrow().get(&segment)) {
            return Ok(Rc::clone(tiles));
        }
        if let Some(tiles) = self.load_sidecar(segment)? {
            return Ok(tiles);
        }
        // The nearest good sidecar before it, then everything from there on.
        let mut first = segment;
        while let Some(before) = first.get().checked_sub(1).map(SegmentNumber::new) {
            if self.rebuilt.borrow().contains_key(&before) || self.load_sidecar(before)?.is_some() {
                break;
            }
            first = before;
        }
        let mut tiles = None;
        for number in first.get()..=segment.get() {
            tiles = Some(self.rebuild(SegmentNumber::new(number))?);
        }
        tiles.ok_or_else(|| LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, None, "cannot be rebuilt"))
    }

    fn load_sidecar(&self, segment: SegmentNumber) -> Result<Option<Rc<Tiles>>, LogError> {
        if segment >= self.inventory.sealed {
            return Ok(None);
        }
        let path = self.directory.segment_file(SegmentFile::Tiles(segment));
        let Some(mut bytes) = read_small(self.disk.as_ref(), &path, MAX_TILES_BYTES)? else { return Ok(None) };
        // It was read into room for the largest one.
        bytes.shrink_to_fit();
        let Ok(tiles) = Tiles::decode(bytes, segment) else { return Ok(None) };
        let tiles = Rc::new(tiles);
        let mut kept = self.sidecars.borrow_mut();
        if kept.len() >= KEPT_SIDECARS {
            kept.pop_first();
        }
        kept.insert(segment, Rc::clone(&tiles));
        Ok(Some(tiles))
    }

    /// Tail and tree at the start of a segment whose predecessors are sealed.
    ///
    /// # Errors
    /// [`LogError`].
    pub(crate) fn segment_start(&self, segment: SegmentNumber) -> Result<SegmentStart, LogError> {
        let tail = self.start_of(segment)?;
        // What is being rebuilt is never asked for.
        let peaks = match segment.get().checked_sub(1).map(SegmentNumber::new) {
            Some(last) => tree::peaks_at(tail.leaves, &NodesUpTo { reader: self, last }).map_err(flatten)?,
            None => Vec::new(),
        };
        let tree = CompactRange::from_peaks(tail.leaves, peaks)
            .map_err(|error| LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, None, error))?;
        Ok(SegmentStart { tail, tree })
    }

    fn rebuild(&self, segment: SegmentNumber) -> Result<Rc<Tiles>, LogError> {
        let start = self.segment_start(segment)?;
        let tail = start.tail;
        if segment >= self.inventory.sealed && tail == self.end.tail {
            return Err(LogError::damaged(
                relative(SegmentFile::Frames(segment)),
                0,
                None,
                "the segment holds no frame",
            ));
        }
        let end = (segment >= self.inventory.sealed).then_some(&self.end.tail);
        let reading =
            read_back(self.disk.as_ref(), &self.directory, &start, end, Depth::Leaves, &mut |_, _, _, _| Ok(()))?;
        let tiles = Tiles::decode(reading.tiles, segment)
            .map_err(|fault| LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, None, fault))?;
        let tiles = Rc::new(tiles);
        self.rebuilt.borrow_mut().insert(segment, Rc::clone(&tiles));
        Ok(tiles)
    }

    /// The hash of a node. High ones, which most proofs need, are kept: a complete node never changes.
    fn node_hash(
        &self,
        node: Node,
        stored_hash: &mut dyn FnMut(Node) -> Result<tree::Hash, LogError>,
    ) -> Result<tree::Hash, LogError> {
        if node.level() < LOWEST_KEPT_LEVEL {
            return node_hash_from(node, stored_hash);
        }
        if let Some(hash) = self.nodes.borrow().get(&node) {
            return Ok(*hash);
        }
        let hash = node_hash_from(node, stored_hash)?;
        let mut kept = self.nodes.borrow_mut();
        if kept.len() >= KEPT_NODES {
            kept.clear();
        }
        kept.insert(node, hash);
        Ok(hash)
    }

    /// The segment that holds a leaf below the size.
    fn segment_of(&self, leaf: LeafIndex) -> Result<Rc<Tiles>, LogError> {
        self.segment_up_to(leaf, self.end.tail.segment.min(self.inventory.last))
    }

    /// The segment that holds a leaf, which is not behind `last`.
    fn segment_up_to(&self, leaf: LeafIndex, last: SegmentNumber) -> Result<Rc<Tiles>, LogError> {
        let (mut low, mut high) = (0, last.get());
        loop {
            let middle = low + (high - low) / 2;
            let tiles = self.tiles(SegmentNumber::new(middle))?;
            let leaves = tiles.leaves();
            if leaves.contains(leaf) {
                return Ok(tiles);
            }
            if low >= high {
                return Err(self.beyond_end(leaf));
            }
            if leaf < leaves.first {
                high = middle.saturating_sub(1).max(low);
            } else {
                low = middle + 1;
            }
        }
    }

    /// Hands out the records from `first` up to, not with, `end` or the end of the log.
    ///
    /// # Errors
    /// [`LogError::BeyondEnd`] where there is none of them; [`LogError::Damaged`] at the first damaged
    /// record, after those before it were handed out; whatever `each` answers.
    pub fn read<E: From<LogError>>(
        &self,
        first: LeafIndex,
        end: LeafIndex,
        payloads: Payloads,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let asked = end;
        let end = end.min(self.size().next_leaf());
        if first >= end {
            return Err(self.beyond_end(first).into());
        }
        let mut next = first;
        while next < end {
            let tiles = self.segment_of(next)?;
            while next < end && tiles.leaves().contains(next) {
                next = self.read_frame(&tiles, next, end, payloads, each)?;
            }
        }
        // What is asked for is clipped at the end of the log, never at damage.
        if next < asked { Ok(self.whole()?) } else { Ok(()) }
    }

    /// Hands out the records of the frame that holds `first`, from there up to `end`; answers the next.
    fn read_frame<E: From<LogError>>(
        &self,
        tiles: &Tiles,
        first: LeafIndex,
        end: LeafIndex,
        payloads: Payloads,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<LeafIndex, E> {
        let segment = tiles.segment();
        let name = relative(SegmentFile::Frames(segment));
        let frame = tiles.frame_of_leaf(first).ok_or_else(|| {
            LogError::damaged(relative(SegmentFile::Tiles(segment)), 0, Some(first), "no frame holds it")
        })?;
        let damaged =
            |leaf, what: &dyn std::fmt::Display| LogError::damaged(&*name, frame.offset.get(), Some(leaf), what);
        let (header, body) = self.frame_at(segment, frame.offset, first)?;
        let batch = Batch::parse(&body).map_err(|error| damaged(first, &error))?;
        let mut next = first;
        for (index, stored) in (header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()) {
            if index != next || index >= end {
                continue;
            }
            if tiles.leaf_hash(index) != Some(tree::leaf_hash(stored.bytes)) {
                return Err(damaged(index, &"the record does not hash to its leaf").into());
            }
            let payload = match (payloads, header.payload) {
                (Payloads::Read, Some(place)) if stored.slot.1 > 0 => {
                    Some(self.payload(segment, place, stored.slot, index, stored.bytes)?)
                }
                _ => None,
            };
            each(ReadRecord { index, canonical: stored.bytes.to_vec(), payload })?;
            next = LeafIndex::new(index.get() + 1);
        }
        if next == first {
            return Err(damaged(first, &"the frame does not hold the record that it should").into());
        }
        Ok(next)
    }

    fn frame_at(
        &self,
        segment: SegmentNumber,
        offset: Offset,
        leaf: LeafIndex,
    ) -> Result<(FrameHeader, Vec<u8>), LogError> {
        crate::store::read_frame_at(self.disk.as_ref(), &self.directory, segment, offset).map_err(|error| match error {
            LogError::Damaged(mut damage) => {
                damage.leaf = Some(leaf);
                LogError::Damaged(damage)
            }
            other => other,
        })
    }

    fn payload(
        &self,
        segment: SegmentNumber,
        place: PayloadPlace,
        slot: (u32, u32),
        leaf: LeafIndex,
        canonical: &[u8],
    ) -> Result<(Salt, Vec<u8>), LogError> {
        let name = SegmentFile::Payloads(segment, place.part);
        let at = u64::from(place.offset) + u64::from(slot.0);
        let damaged = |what: &dyn std::fmt::Display| LogError::damaged(relative(name), at, Some(leaf), what);
        let file = open_payloads(self.disk.as_ref(), &self.directory, name, Some(leaf))?;
        let bytes = read_up_to(file.as_ref(), at, slot.1 as usize)?;
        let record = Record::parse(canonical).map_err(|error| damaged(&error))?;
        check_payload(&record, &bytes, slot.1 as usize).map_err(|what| damaged(&what))?;
        match bytes.split_first_chunk::<{ Salt::LEN }>() {
            Some((salt, payload)) => Ok((Salt::new(*salt), payload.to_vec())),
            None => Err(damaged(&"the payload slot is too short")),
        }
    }

    /// The root of the tree at a size that can be read.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn root_at(&self, size: TreeSize) -> Result<tree::Hash, LogError> {
        tree::root_at(size, self).map_err(flatten)
    }

    /// An inclusion proof of a record in the tree of that size; verified before it is answered.
    ///
    /// # Errors
    /// [`LogError::BeyondEnd`], [`LogError::Damaged`].
    pub fn prove_inclusion(&self, leaf: LeafIndex, size: TreeSize) -> Result<Vec<tree::Hash>, LogError> {
        if size > self.size() {
            return Err(self.beyond_end(LeafIndex::new(size.get() - 1)));
        }
        if !size.contains(leaf) {
            return Err(LogError::BeyondEnd { index: leaf, size });
        }
        let proof = tree::prove_inclusion(leaf, size, self).map_err(flatten)?;
        let hash = self.read_nodes(&Node::leaf(leaf).into_iter().collect::<Vec<_>>())?;
        let root = self.root_at(size)?;
        let wrong = |what: &dyn std::fmt::Display| LogError::damaged("segments", 0, Some(leaf), what);
        let hash = hash.first().ok_or_else(|| wrong(&"its leaf hash is missing"))?;
        tree::verify_inclusion(hash, leaf, size, &proof, &root).map_err(|error| wrong(&error))?;
        Ok(proof)
    }

    /// A consistency proof between two sizes that can be read; verified before it is answered.
    ///
    /// # Errors
    /// [`LogError::BeyondEnd`], [`LogError::Damaged`].
    pub fn prove_consistency(&self, old: TreeSize, new: TreeSize) -> Result<Vec<tree::Hash>, LogError> {
        if new > self.size() {
            return Err(self.beyond_end(LeafIndex::new(new.get() - 1)));
        }
        let proof = tree::prove_consistency(old, new, self).map_err(flatten)?;
        let (old_root, new_root) = (self.root_at(old)?, self.root_at(new)?);
        tree::verify_consistency(old, &old_root, new, &new_root, &proof)
            .map_err(|error| LogError::damaged("segments", 0, None, error))?;
        Ok(proof)
    }

    /// The tiles of a segment, for listings.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn segment(&self, segment: SegmentNumber) -> Result<Rc<Tiles>, LogError> {
        self.tiles(segment)
    }
}

impl NodeReader for LogReader {
    type Error = LogError;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<tree::Hash>, LogError> {
        NodesUpTo { reader: self, last: self.end.tail.segment.min(self.inventory.last) }.read_nodes(nodes)
    }
}

/// The nodes that segments up to one complete.
struct NodesUpTo<'r> {
    reader: &'r LogReader,
    last: SegmentNumber,
}

impl NodeReader for NodesUpTo<'_> {
    type Error = LogError;

    fn read_nodes(&self, nodes: &[Node]) -> Result<Vec<tree::Hash>, LogError> {
        // Neighbours lie in one segment, which need not be searched for again.
        let mut last: Option<Rc<Tiles>> = None;
        let mut stored_hash = |node: Node| {
            let beyond = || LogError::damaged("segments", 0, None, format!("no segment holds {node}"));
            let leaf = completing_leaf(node);
            let tiles = match last.take().filter(|tiles| tiles.leaves().contains(leaf)) {
                Some(tiles) => tiles,
                None => self.reader.segment_up_to(leaf, self.last)?,
            };
            last.insert(tiles).stored_hash(node).ok_or_else(beyond)
        };
        let node_hash = |node: &Node| self.reader.node_hash(*node, &mut stored_hash);
        nodes.iter().map(node_hash).collect()
    }
}

/// The end, and a note where what is bad is a torn last group.
fn torn_or_rotten(found: &Examination) -> VisibleEnd {
    let tail = found.tail;
    let (note, damage) = match found.outcome {
        Outcome::EndsHere => (None, None),
        Outcome::Rot | Outcome::InDoubtCommitted => (None, Some(found.damage())),
        Outcome::InDoubt => {
            let name = relative(SegmentFile::Frames(tail.segment));
            let what = found.fault.map_or_else(|| "a frame is missing".to_owned(), |fault| fault.to_string());
            let what =
                format!("{name}, byte {}: {what}; a last group that was not acknowledged is left out", tail.offset);
            (Some(what), None)
        }
    };
    VisibleEnd { tail, note, damage }
}

/// Takes stock of the files and reads their slots.
fn look(disk: &dyn Disk, directory: &LogDirectory) -> Result<(Inventory, Vec<Slot>), LogError> {
    loop {
        let inventory = Inventory::take(disk, directory)?;
        let mut slots = Vec::new();
        for segment in (inventory.sealed.get()..=inventory.last.get()).map(SegmentNumber::new) {
            let file = disk.open(&directory.segment_file(SegmentFile::Frames(segment)), Access::Read)?;
            slots.extend(read_ring(file.as_ref(), segment)?.0);
        }
        // A writer may have rolled on and sealed all of these files since they were listed; again only
        // where it did.
        if !slots.is_empty() || Inventory::take(disk, directory)?.last == inventory.last {
            return Ok((inventory, slots));
        }
    }
}

fn flatten(error: ProveError<LogError>) -> LogError {
    match error {
        ProveError::Read(error) => error,
        other => LogError::damaged("segments", 0, None, other),
    }
}

/// The tail behind the last frame of a segment that ended there.
pub fn tail_behind(inventory: &Inventory, tiles: &Tiles) -> Tail {
    Tail {
        alignment: inventory.alignment,
        height: inventory.height,
        segment: tiles.segment().next(),
        offset: FRAMES_START,
        payload_part: PayloadPart::FIRST,
        payload_offset: PAYLOADS_START,
        next_index: tiles.last_index().next(),
        last_term: tiles.last_term(),
        link: tiles.last_link(),
        leaves: TreeSize::new(tiles.leaves().end.get()),
    }
}
