//! One segment, frame by frame.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use stele_proof::LeafIndex;
use stele_proof::digest_tree::{Digest, DigestTree};
use stele_proof::record::Record;
use stele_proof::tree::{CompactRange, leaf_hash};

use crate::batch::Batch;
use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk, DiskFile, read_up_to};
use crate::error::{Damage, LogError};
use crate::frame::{EntryKind, FrameHeader, HEADER_BYTES, Placed, Tail};
use crate::number::{Offset, RaftIndex, SegmentNumber};
use crate::read_back::{SegmentReading, check_payload};
use crate::reader::MAX_TILES_BYTES;
use crate::reserved::{SEGMENT_SEALED_KIND, SEGMENTS_STREAM, SegmentSealed, WRITER};
use crate::seal::describe_as;
use crate::segment::{FRAMES_START, LeafRange, PayloadPart, PayloadPlace, RING_START, SegmentFile};
use crate::tiles::{Tiles, TilesBuilder, TilesFault};

use super::beside::{TableState, check_table, unreadable};
use super::follow::Follow;

/// Whether a segment is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Sealed,
    Open,
}

/// A segment that is being read.
pub(super) struct SegmentWork {
    pub(super) standing: Standing,
    /// Behind what was read.
    pub(super) tail: Tail,
    /// The tree there; `None` behind records that could not be read.
    pub(super) tree: Option<CompactRange>,
    /// What lies beside it, where that is good.
    pub(super) sidecar: Option<Tiles>,
    /// Whether anything was found in it.
    pub(super) is_told: bool,
    /// Whether its other frames cannot be found.
    pub(super) given_up: bool,
    segment: SegmentNumber,
    first_leaf: LeafIndex,
    first_index: RaftIndex,
    /// What its frames add up to; `None` once one of them was damaged.
    whole: Option<Whole>,
    payloads: BTreeMap<PayloadPart, u64>,
    payload_file: Option<(PayloadPart, Box<dyn DiskFile>)>,
    /// Payload files that were told of: one finding is enough.
    told_parts: BTreeSet<PayloadPart>,
    file_bytes: u64,
}

struct Whole {
    tiles: TilesBuilder,
    digests: DigestTree,
    hasher: blake3::Hasher,
}

/// What a look at a segment's other files told.
pub(super) struct Told {
    pub(super) is_missing: bool,
    pub(super) damage: Option<Damage>,
}

/// What a frame held.
#[derive(Default)]
pub(super) struct FrameFound {
    pub(super) damage: Vec<Damage>,
    pub(super) sealed: Vec<(LeafIndex, SegmentSealed)>,
    /// Whether a seal record in it could not be read.
    pub(super) lost_seal: bool,
}

/// What a segment turned out to be.
pub(super) struct Ended {
    pub(super) damage: Vec<Damage>,
    /// What its seal record must say, but for the state file.
    pub(super) body: Option<Box<SegmentSealed>>,
    /// Of a sealed segment, whether its hash table is there.
    pub(super) table: Option<TableState>,
}

impl SegmentWork {
    /// A segment that begins here.
    pub(super) fn new(tail: Tail, tree: Option<CompactRange>, standing: Standing) -> Self {
        let (first_leaf, first_index) = (tail.leaves.next_leaf(), tail.next_index);
        let whole = Whole {
            tiles: TilesBuilder::new(tail.segment, first_leaf, first_index),
            digests: DigestTree::new(),
            hasher: blake3::Hasher::new(),
        };
        Self {
            standing,
            tail,
            whole: tree.is_some().then_some(whole),
            tree,
            sidecar: None,
            is_told: false,
            given_up: false,
            segment: tail.segment,
            first_leaf,
            first_index,
            payloads: BTreeMap::new(),
            payload_file: None,
            told_parts: BTreeSet::new(),
            file_bytes: FRAMES_START.get(),
        }
    }

    /// Reads header and ring, and of a sealed segment the sidecar.
    pub(super) fn open(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
    ) -> Result<Option<Told>, LogError> {
        let segment = self.tail.segment;
        let sidecar = if self.standing == Standing::Sealed { Some(self.read_sidecar(disk, directory)?) } else { None };
        let name = SegmentFile::Frames(segment);
        let file = disk.open(&directory.segment_file(name), Access::Read)?;
        if read_file_header(file.as_ref(), name)? != inventory.header(segment, None) {
            let what = "the file header is that of another log; restore the file from a copy";
            return Err(LogError::damaged(relative(name), 0, None, what));
        }
        let head_bytes = usize::try_from(FRAMES_START.get()).unwrap_or(usize::MAX);
        let ring_at = usize::try_from(RING_START).unwrap_or(0);
        let mut head = read_up_to(file.as_ref(), 0, head_bytes)?;
        let dirt = head.iter().skip(ring_at).position(|byte| *byte != 0);
        head[ring_at..].fill(0);
        if let Some(whole) = &mut self.whole {
            // As it is once sealed: without what the flush ring holds.
            whole.hasher.update(&head);
        }
        match (self.standing, dirt) {
            (Standing::Sealed, Some(at)) => {
                let what = "the flush ring of a sealed segment is not zero; restore the file from a copy".to_owned();
                let damage = Damage { file: relative(name), offset: RING_START + at as u64, leaf: None, what };
                let is_missing = sidecar.is_some_and(|told| told.is_missing);
                Ok(Some(Told { is_missing, damage: Some(damage) }))
            }
            _ => Ok(sidecar),
        }
    }

    fn read_sidecar(&mut self, disk: &dyn Disk, directory: &LogDirectory) -> Result<Told, LogError> {
        let name = SegmentFile::Tiles(self.tail.segment);
        let read = match disk.open(&directory.segment_file(name), Access::Read) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                return Ok(Told { is_missing: true, damage: None });
            }
            opened => opened.and_then(|file| {
                let len = usize::try_from(file.status()?.len).unwrap_or(usize::MAX).min(MAX_TILES_BYTES);
                read_up_to(file.as_ref(), 0, len)
            }),
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                return Ok(Told { is_missing: false, damage: Some(unreadable(directory, error, None)?) });
            }
        };
        let decoded = Tiles::decode(bytes, self.tail.segment);
        let begins_here =
            |tiles: &Tiles| (tiles.leaves().first, tiles.first_index()) == (self.first_leaf, self.first_index);
        let fault = match decoded {
            Ok(tiles) if begins_here(&tiles) => {
                self.sidecar = Some(tiles);
                return Ok(Told { is_missing: false, damage: None });
            }
            // As in a verification, one of an older format counts as missing.
            Err(TilesFault::OlderVersion(_)) => return Ok(Told { is_missing: true, damage: None }),
            Ok(_) => "it is that of other records".to_owned(),
            Err(fault) => fault.to_string(),
        };
        let what = format!("{fault}; the file is derived: `stele repair` computes it anew");
        Ok(Told { is_missing: false, damage: Some(Damage { file: relative(name), offset: 0, leaf: None, what }) })
    }

    /// Takes the next frame, and answers what is wrong with its records and payloads.
    pub(super) fn frame(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        placed: &Placed,
        body: &[u8],
        follow: &mut Follow,
    ) -> Result<FrameFound, LogError> {
        let header = &placed.header;
        let mut found = FrameFound::default();
        if let Some(whole) = &mut self.whole {
            whole.tiles.frame(placed.offset, header.first_leaf);
            let padding = header.frame_len(self.tail.alignment) - (HEADER_BYTES + body.len()) as u64;
            whole.hasher.update(&placed.bytes).update(body);
            whole.hasher.update(&vec![0; usize::try_from(padding).unwrap_or(0)]);
        }
        let payload = match header.payload {
            Some(place) => match self.payload(disk, directory, placed, place, &mut found) {
                Ok(bytes) => bytes,
                Err(LogError::Damaged(damage)) => {
                    found.damage.push(damage);
                    None
                }
                Err(error) => return Err(error),
            },
            None => Some(Vec::new()),
        };
        if header.kind == EntryKind::Batch && header.leaf_count > 0 {
            self.records(placed, body, payload.as_deref(), follow, &mut found)?;
        }
        self.file_bytes = placed.offset.get() + header.frame_len(self.tail.alignment);
        self.tail.advance(placed);
        Ok(found)
    }

    fn records(
        &mut self,
        placed: &Placed,
        body: &[u8],
        payload: Option<&[u8]>,
        follow: &mut Follow,
        found: &mut FrameFound,
    ) -> Result<(), LogError> {
        let file = relative(SegmentFile::Frames(placed.segment));
        let damaged = |leaf, what: String| Damage { file: file.clone(), offset: placed.offset.get(), leaf, what };
        let batch = match Batch::parse(body) {
            Ok(batch) => batch,
            Err(error) => return Err(LogError::Damaged(damaged(Some(placed.header.first_leaf), error.to_string()))),
        };
        for (leaf, stored) in (placed.header.first_leaf.get()..).map(LeafIndex::new).zip(batch.records()) {
            let hash = leaf_hash(stored.bytes);
            if self.sidecar.as_ref().is_some_and(|tiles| tiles.leaf_hash(leaf) != Some(hash)) {
                let what = "the record does not hash to its leaf in the tile sidecar".to_owned();
                found.damage.push(damaged(Some(leaf), what));
            }
            if let Some(tree) = &mut self.tree {
                let tiles = self.whole.as_mut().map(|whole| &mut whole.tiles);
                match tiles {
                    Some(tiles) => tree.append_observed(hash, &mut |node, hash| tiles.observe(node, hash)),
                    None => tree.append(hash),
                }
                found.damage.extend(follow.compare(tree));
            }
            let record = match Record::parse(stored.bytes) {
                Ok(record) => record,
                Err(error) => {
                    found.damage.push(damaged(Some(leaf), error.to_string()));
                    self.whole = None;
                    follow.skip();
                    continue;
                }
            };
            let self_hash = record.self_hash();
            if let Some(whole) = &mut self.whole {
                whole.digests.push(*self_hash.as_bytes());
            }
            if let Some(what) = follow.record(leaf, &record, self_hash) {
                found.damage.push(damaged(Some(leaf), what));
            }
            let is_seal = record.stream().escaped() == SEGMENTS_STREAM
                && record.kind() == SEGMENT_SEALED_KIND
                && record.writer_id().escaped() == WRITER;
            let Some(payload) = payload else {
                found.lost_seal |= is_seal;
                continue;
            };
            let (at, len) = (stored.slot.0 as usize, stored.slot.1 as usize);
            let slot = payload.get(at..at + len).unwrap_or_default();
            if let Err(what) = check_payload(&record, slot, len) {
                let place = placed.header.payload;
                let (file, offset) = match place {
                    Some(place) => {
                        let name = relative(SegmentFile::Payloads(placed.segment, place.part));
                        (name, u64::from(place.offset) + at as u64)
                    }
                    None => (file.clone(), placed.offset.get()),
                };
                found.damage.push(Damage { file, offset, leaf: Some(leaf), what: what.to_owned() });
                found.lost_seal |= is_seal;
                continue;
            }
            if let Some(body) = slot.get(stele_proof::record::Salt::LEN..).filter(|_| is_seal) {
                match SegmentSealed::decode(body) {
                    Ok(sealed) => found.sealed.push((leaf, sealed)),
                    Err(error) => {
                        found.damage.push(damaged(Some(leaf), format!("the seal record: {error}")));
                        found.lost_seal = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the payload file and looks at its header; what is wrong with them is told once.
    fn open_payloads(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        part: PayloadPart,
        found: &mut FrameFound,
    ) -> Result<(), LogError> {
        if self.payload_file.as_ref().is_some_and(|(open, _)| *open == part) {
            return Ok(());
        }
        self.payload_file = None;
        let name = SegmentFile::Payloads(self.segment, part);
        let leaf = Some(self.tail.leaves.next_leaf());
        let header = disk.open(&directory.segment_file(name), Access::Read).map_err(LogError::from);
        let header = header.and_then(|file| {
            let header = read_file_header(file.as_ref(), name);
            Ok((file, header?))
        });
        let damage = match header {
            Ok((file, header)) if (header.alignment, header.height) == (self.tail.alignment, self.tail.height) => {
                self.payload_file = Some((part, file));
                return Ok(());
            }
            Ok(_) => {
                let what = "the file header is that of another log; restore the file from a copy".to_owned();
                Damage { file: relative(name), offset: 0, leaf, what }
            }
            Err(LogError::Damaged(damage)) => Damage { leaf, ..damage },
            Err(LogError::Disk(error)) => unreadable(directory, error, leaf)?,
            Err(error) => return Err(error),
        };
        if self.told_parts.insert(part) {
            found.damage.push(damage);
        }
        Ok(())
    }

    /// The payload slots of a frame; the padding behind them must be zero. `None` where the file as a whole is told of.
    fn payload(
        &mut self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        placed: &Placed,
        place: PayloadPlace,
        found: &mut FrameFound,
    ) -> Result<Option<Vec<u8>>, LogError> {
        let name = SegmentFile::Payloads(placed.segment, place.part);
        let leaf = Some(placed.header.first_leaf);
        self.payloads.insert(place.part, self.tail.alignment.round_up(place.end()));
        self.open_payloads(disk, directory, place.part, found)?;
        let padded = self.tail.alignment.round_up(place.end()) - u64::from(place.offset);
        let padded = usize::try_from(padded).unwrap_or(usize::MAX);
        let mut bytes = match &self.payload_file {
            Some((_, file)) => read_up_to(file.as_ref(), u64::from(place.offset), padded)
                .map_err(|error| LogError::damaged(relative(name), u64::from(place.offset), leaf, error))?,
            None => return Ok(None),
        };
        if bytes.len() < padded {
            let what = "the payload file ends too early";
            return Err(LogError::damaged(relative(name), u64::from(place.offset), leaf, what));
        }
        let len = place.len as usize;
        if let Some(at) = bytes[len..].iter().position(|byte| *byte != 0) {
            let what = "the padding behind the payloads is not zero";
            return Err(LogError::damaged(relative(name), place.end() + at as u64, leaf, what));
        }
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    /// Goes behind a frame whose header is good and whose body is not; answers whether it could.
    pub(super) fn skip(&mut self, header: &FrameHeader, bytes: &[u8; HEADER_BYTES]) -> bool {
        let tail = &self.tail;
        let follows = header.link == tail.link
            && header.index == tail.next_index
            && header.first_leaf == tail.leaves.next_leaf()
            && u64::from(header.leaf_count) <= tail.room_in_block();
        if !follows || header.kind != EntryKind::Batch || header.leaf_count == 0 {
            return false;
        }
        self.whole = None;
        let leaves = header.first_leaf.get()..header.leaves_after().get();
        for leaf in leaves.map(LeafIndex::new) {
            match (&mut self.tree, self.sidecar.as_ref().and_then(|tiles| tiles.leaf_hash(leaf))) {
                (Some(tree), Some(hash)) => tree.append(hash),
                _ => self.tree = None,
            }
        }
        if let Some(place) = header.payload {
            self.payloads.insert(place.part, tail.alignment.round_up(place.end()));
        }
        let ends_segment = u64::from(header.leaf_count) == tail.room_in_block();
        let (segment, offset) = (tail.segment, tail.offset);
        self.file_bytes = offset.get() + header.frame_len(tail.alignment);
        self.tail.advance(&Placed { header: *header, bytes: *bytes, segment, offset, ends_segment });
        true
    }

    /// Compares what only the whole segment tells.
    pub(super) fn end(
        &self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        inventory: &Inventory,
    ) -> Result<Ended, LogError> {
        let mut damage = Vec::new();
        let before = self.segment;
        if self.standing == Standing::Sealed {
            // What was told of as a whole is not measured.
            let parts = self.payloads.iter().filter(|(part, _)| !self.told_parts.contains(part));
            let parts = parts.map(|(part, len)| (SegmentFile::Payloads(before, *part), *len));
            for (name, len) in parts.chain([(SegmentFile::Frames(before), self.file_bytes)]) {
                let status = disk.open(&directory.segment_file(name), Access::Read).and_then(|file| file.status());
                let what = match status {
                    Ok(status) if status.len == len => continue,
                    Ok(_) => "the file is not as long as its frames say; restore it from a copy",
                    // It was told of with the first payload in it.
                    Err(error) if error.source.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        damage.push(unreadable(directory, error, None)?);
                        continue;
                    }
                };
                damage.push(Damage { file: relative(name), offset: len, leaf: None, what: what.to_owned() });
            }
            for part in inventory.payload_parts(before).filter(|part| !self.payloads.contains_key(part)) {
                let what = "no frame has a payload in this file; move it away".to_owned();
                damage.push(Damage {
                    file: relative(SegmentFile::Payloads(before, part)),
                    offset: 0,
                    leaf: None,
                    what,
                });
            }
        }
        let Some((whole, tree)) = self.whole.as_ref().zip(self.tree.as_ref()) else {
            let table = self.check_table(disk, directory, self.sidecar.as_ref().map(Tiles::as_bytes), &mut damage);
            return Ok(Ended { damage, body: None, table });
        };
        let leaves = LeafRange { first: self.first_leaf, end: self.tail.leaves.next_leaf() };
        let reading = SegmentReading {
            segment: before,
            leaves,
            first_index: self.first_index,
            end: self.tail,
            tree: tree.clone(),
            file_bytes: self.file_bytes,
            tiles: whole.tiles.clone().finish(self.tail.link, self.tail.last_term, Offset::new(self.file_bytes)),
            self_hashes: Vec::new(),
            file_digest: None,
            digest_root: whole.digests.root(),
            payloads: self.payloads.clone(),
            membership: None,
        };
        if let Some(sidecar) = &self.sidecar
            && sidecar.as_bytes() != reading.tiles
            && !self.is_told
        {
            let what =
                "the file is not what the frames give; it is derived: `stele repair` computes it anew".to_owned();
            damage.push(Damage { file: relative(SegmentFile::Tiles(before)), offset: 0, leaf: None, what });
        }
        // One that names an older sidecar, or one that was told of, is told with that.
        let tiles = self.sidecar.as_ref().map(|_| &reading.tiles[..]);
        let table = self.check_table(disk, directory, tiles, &mut damage);
        let body = describe_as(&reading, Digest::new(*whole.hasher.finalize().as_bytes()))?;
        Ok(Ended { damage, body: Some(Box::new(body)), table })
    }

    fn check_table(
        &self,
        disk: &dyn Disk,
        directory: &LogDirectory,
        tiles: Option<&[u8]>,
        damage: &mut Vec<Damage>,
    ) -> Option<TableState> {
        match self.standing {
            Standing::Sealed => Some(check_table(disk, directory, self.segment, tiles, damage)),
            Standing::Open => None,
        }
    }
}
