//! The hash table of a sealed segment: which of its records may have a hash. File `<16 hex digits>.hashes`,
//! derived from the segment file.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELHASH` |
//! | 8 | 32 | checksum | BLAKE3 of the bytes from 40 up to the first page |
//! | 40 | 2 | format version | 1 |
//! | 42 | 2 | zero | |
//! | 44 | 4 | row count `n` | |
//! | 48 | 8 | segment number | |
//! | 56 | 8 | first leaf | |
//! | 64 | 8 | leaf count | |
//! | 72 | 32 | tiles | the checksum of the segment's tile sidecar: what the table was made from |
//! | 104 | 12 `p` | fences | per page: the key of its first row, 8 bytes, and the CRC-32 of the page, 4 bytes |
//! | .. | 12 `n` | rows | pages of 341 rows, the last may be shorter: key, 8 bytes, and leaf minus first leaf, 4 bytes |
//!
//! Little-endian; replaced as a whole, never changed; mode 0444. Rows ascend by key, then by leaf, and none
//! stands twice. A record has a row for its `self_hash`, one for the hash of its payload commitment and one
//! for the `content_id` of its subject. A key is cut short ([`key_of`]): a row says where to look, and the
//! record itself says whether it is so. Magic, checksum and version keep their places in all versions.
//!
//! In memory a table is its fences, 12 bytes for 341 rows: a look-up reads one page.

use std::io;

use stele_proof::LeafIndex;
use stele_proof::record::{Record, SelfHash};

use crate::directory::LogDirectory;
use crate::disk::{Access, Disk, DiskError, DiskFile, Mode, read_up_to};
use crate::error::LogError;
use crate::frame::{Tail, read_u32, read_u64};
use crate::number::SegmentNumber;
use crate::replay::each_record;
use crate::segment::{FORMAT_VERSION, LeafRange, SegmentFile};
use crate::walk::walk_segment;

use super::remove;

/// Bytes before the fences.
pub const HEADER_BYTES: usize = 104;
/// Bytes of a fence, and of a row.
pub const ROW_BYTES: usize = 12;
/// Rows of a page.
pub const PAGE_ROWS: usize = 341;
/// Most rows: three for each leaf of the largest block.
const MAX_ROWS: usize = 3 << 20;
const MAGIC: [u8; 8] = *b"STELHASH";
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 40;

const _: () = assert!(HEADER_BYTES == 8 + 32 + 2 + 2 + 4 + 8 + 8 + 8 + 32);
const _: () = assert!(PAGE_ROWS * ROW_BYTES <= 4096);

/// Why a file is not the hash table of a segment. It is derived: it can be made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableFault {
    /// There is none.
    #[error("the hash table is missing")]
    Missing,
    /// Not what was written.
    #[error("the hash table is damaged")]
    Damaged,
    /// Something in its place, or in that of the tile sidecar beside it, that cannot be opened or read.
    #[error("the hash table cannot be read ({0})")]
    Unreadable(io::ErrorKind),
    /// A good file of a format this version does not know.
    #[error("the hash table has format version {0}, which is unknown to this version")]
    UnknownVersion(u16),
    /// A good file of something else than the segment as it is.
    #[error("the hash table is that of another segment")]
    Other,
}

impl From<DiskError> for TableFault {
    fn from(error: DiskError) -> Self {
        match error.source.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            kind => Self::Unreadable(kind),
        }
    }
}

/// What is looked for: a `self_hash`, a payload hash or a `content_id`, in its text form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedHash {
    text: String,
    key: u64,
}

impl WantedHash {
    /// Takes `b3:` and 1 to 64 lower-case hex digits; `None` for all else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("b3:")?;
        let good =
            (1..=64).contains(&digits.len()) && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self { text: text.to_owned(), key: key_of(text) })
    }

    /// Takes a `self_hash`, or the hash of a payload.
    pub fn of(hash: &SelfHash) -> Self {
        Self { text: hash.to_string(), key: read_u64(hash.as_bytes(), 0) }
    }

    /// Whether it is a hash of this record.
    pub fn is_of(&self, record: &Record<'_>) -> bool {
        let is = |hash: &SelfHash| hash.text() == self.text.as_bytes();
        content_id(record) == Some(self.text.as_str())
            || record.payload().is_some_and(|payload| is(payload.hash()))
            || is(&record.self_hash())
    }
}

/// The key of a hash in its text form: the first 8 bytes of a whole one, of a shorter `content_id` those of
/// the BLAKE3 of its text.
fn key_of(text: &str) -> u64 {
    let whole = SelfHash::parse(text.as_bytes());
    let hash = whole.map_or_else(|| *blake3::hash(text.as_bytes()).as_bytes(), |hash| *hash.as_bytes());
    read_u64(&hash, 0)
}

/// The `content_id` of a record's subject. Canonical: it is the first member, and has no escapes.
fn content_id<'a>(record: &Record<'a>) -> Option<&'a str> {
    record.subject().strip_prefix(r#"{"content_id":""#)?.split('"').next()
}

/// Collects the hashes of a segment's records.
#[derive(Default, Debug)]
pub struct TableBuilder {
    rows: Vec<(u64, LeafIndex)>,
}

impl TableBuilder {
    /// Takes the hashes of a record.
    pub fn record(&mut self, leaf: LeafIndex, record: &Record<'_>, self_hash: SelfHash) {
        self.rows.push((read_u64(self_hash.as_bytes(), 0), leaf));
        if let Some(payload) = record.payload() {
            self.rows.push((read_u64(payload.hash().as_bytes(), 0), leaf));
        }
        if let Some(id) = content_id(record) {
            self.rows.push((key_of(id), leaf));
        }
    }

    /// The file; `tiles` are the bytes of the segment's tile sidecar.
    pub fn finish(mut self, segment: SegmentNumber, leaves: LeafRange, tiles: &[u8]) -> Vec<u8> {
        self.rows.sort_unstable();
        self.rows.dedup();
        let count = self.rows.len();
        let pages = count.div_ceil(PAGE_ROWS);
        let mut file = vec![0; HEADER_BYTES];
        file[..8].copy_from_slice(&MAGIC);
        file[40..42].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        file[44..48].copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        file[48..56].copy_from_slice(&segment.get().to_le_bytes());
        file[56..64].copy_from_slice(&leaves.first.get().to_le_bytes());
        file[64..72].copy_from_slice(&leaves.len().to_le_bytes());
        file[72..104].copy_from_slice(tiles.get(8..40).unwrap_or(&[0; 32]));
        file.reserve((pages + count) * ROW_BYTES);
        let mut rows = Vec::with_capacity(count * ROW_BYTES);
        for (key, leaf) in &self.rows {
            let at = u32::try_from(leaf.get() - leaves.first.get()).unwrap_or(u32::MAX);
            rows.extend_from_slice(&key.to_le_bytes());
            rows.extend_from_slice(&at.to_le_bytes());
        }
        for page in rows.chunks(PAGE_ROWS * ROW_BYTES) {
            file.extend_from_slice(&page[..8]);
            file.extend_from_slice(&crc32fast::hash(page).to_le_bytes());
        }
        let checksum = blake3::hash(&file[CHECKED_FROM..]);
        file[8..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
        file.extend_from_slice(&rows);
        file
    }
}

/// The table of a sealed segment, open: its fences.
pub struct Table {
    file: Box<dyn DiskFile>,
    leaves: LeafRange,
    fences: Vec<(u64, u32)>,
    rows: usize,
}

impl Table {
    /// Opens the table of a segment and checks all of it but its rows.
    ///
    /// # Errors
    /// [`TableFault`] where there is no table to be used.
    pub fn open(disk: &dyn Disk, directory: &LogDirectory, segment: SegmentNumber) -> Result<Self, TableFault> {
        let tiles = disk.open(&directory.segment_file(SegmentFile::Tiles(segment)), Access::Read)?;
        let tiles = read_up_to(tiles.as_ref(), 0, CHECKED_FROM)?;
        Self::open_beside(disk, directory, segment, &tiles)
    }

    /// As [`Table::open`], where the bytes of the tile sidecar are known.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub(crate) fn open_beside(
        disk: &dyn Disk,
        directory: &LogDirectory,
        segment: SegmentNumber,
        tiles: &[u8],
    ) -> Result<Self, TableFault> {
        let file = disk.open(&directory.segment_file(SegmentFile::Hashes(segment)), Access::Read)?;
        let head = read_up_to(file.as_ref(), 0, HEADER_BYTES)?;
        let head = head.first_chunk::<HEADER_BYTES>().ok_or(TableFault::Damaged)?;
        let rows = read_u32(head, 44) as usize;
        if head[..8] != MAGIC || rows > MAX_ROWS {
            return Err(TableFault::Damaged);
        }
        let fences = read_up_to(file.as_ref(), HEADER_BYTES as u64, rows.div_ceil(PAGE_ROWS) * ROW_BYTES)?;
        let len = file.status()?.len;
        let (leaves, fences) = Self::decode(head, &fences, segment, tiles, len)?;
        Ok(Self { file, leaves, fences, rows })
    }

    fn decode(
        head: &[u8; HEADER_BYTES],
        fences: &[u8],
        segment: SegmentNumber,
        tiles: &[u8],
        len: u64,
    ) -> Result<(LeafRange, Vec<(u64, u32)>), TableFault> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&head[CHECKED_FROM..]).update(fences);
        if head[8..CHECKED_FROM] != *hasher.finalize().as_bytes() {
            return Err(TableFault::Damaged);
        }
        let version = u16::from_le_bytes([head[40], head[41]]);
        if version != FORMAT_VERSION {
            return Err(TableFault::UnknownVersion(version));
        }
        let first = LeafIndex::new(read_u64(head, 56));
        let end = first.checked_add(read_u64(head, 64)).ok_or(TableFault::Damaged)?;
        if head[42..44] != [0; 2] {
            return Err(TableFault::Damaged);
        }
        if read_u64(head, 48) != segment.get() || tiles.get(8..CHECKED_FROM) != Some(&head[72..104]) {
            return Err(TableFault::Other);
        }
        let rows = u64::from(read_u32(head, 44));
        if len != (HEADER_BYTES + fences.len()) as u64 + rows * ROW_BYTES as u64 {
            return Err(TableFault::Damaged);
        }
        let fences = fences.as_chunks::<ROW_BYTES>().0.iter();
        let fences: Vec<(u64, u32)> = fences.map(|fence| (read_u64(fence, 0), read_u32(fence, 8))).collect();
        if !fences.is_sorted_by_key(|(key, _)| *key) {
            return Err(TableFault::Damaged);
        }
        Ok((LeafRange { first, end }, fences))
    }

    /// The leaves of its segment.
    pub const fn leaves(&self) -> LeafRange {
        self.leaves
    }

    /// The records that may have this hash, ascending; no other has it.
    ///
    /// # Errors
    /// [`TableFault`] where a page is damaged or cannot be read.
    pub fn look_up(&self, wanted: &WantedHash) -> Result<Vec<LeafIndex>, TableFault> {
        self.look_up_all(std::iter::once(wanted.key), &mut 0)
    }

    /// The records that may have a hash with one of these keys, which ascend; `pages` grows by one for each page that is
    /// read, each at most once.
    ///
    /// # Errors
    /// As [`Table::look_up`].
    pub(crate) fn look_up_all(
        &self,
        keys: impl Iterator<Item = u64>,
        pages: &mut u64,
    ) -> Result<Vec<LeafIndex>, TableFault> {
        let mut leaves = Vec::new();
        let mut held: Option<(usize, Vec<u8>)> = None;
        for wanted in keys {
            // Rows of one key may begin in the page before the first one that begins with it.
            let first = self.fences.partition_point(|(key, _)| *key < wanted).saturating_sub(1);
            for page in first..self.fences.len() {
                if self.fences[page].0 > wanted {
                    break;
                }
                let rows = match &mut held {
                    Some((number, rows)) if *number == page => rows,
                    held => {
                        *pages += 1;
                        &mut held.insert((page, self.page(page)?)).1
                    }
                };
                let rows = rows.as_chunks::<ROW_BYTES>().0;
                let before = rows.partition_point(|row| read_u64(row, 0) < wanted);
                let same = rows[before..].iter().take_while(|row| read_u64(*row, 0) == wanted);
                leaves.extend(same.map(|row| LeafIndex::new(self.leaves.first.get() + u64::from(read_u32(row, 8)))));
            }
        }
        Ok(leaves)
    }

    /// Whether every row is what was written.
    ///
    /// # Errors
    /// [`TableFault`] where one is not, or cannot be read.
    pub fn check(&self) -> Result<(), TableFault> {
        (0..self.fences.len()).try_for_each(|page| self.page(page).map(drop))
    }

    /// The rows of a page.
    fn page(&self, page: usize) -> Result<Vec<u8>, TableFault> {
        let rows = PAGE_ROWS.min(self.rows - page * PAGE_ROWS);
        let at = HEADER_BYTES + self.fences.len() * ROW_BYTES + page * PAGE_ROWS * ROW_BYTES;
        let bytes = read_up_to(self.file.as_ref(), at as u64, rows * ROW_BYTES)?;
        let pairs = bytes.as_chunks::<ROW_BYTES>().0.iter().map(|row| (read_u64(row, 0), read_u32(row, 8)));
        let good = crc32fast::hash(&bytes) == self.fences[page].1
            && bytes.len() == rows * ROW_BYTES
            && pairs.clone().next().is_some_and(|(key, _)| key == self.fences[page].0)
            && pairs.clone().is_sorted_by(|one, next| one < next)
            && pairs.clone().all(|(_, leaf)| u64::from(leaf) < self.leaves.len());
        if good { Ok(bytes) } else { Err(TableFault::Damaged) }
    }
}

/// Computes the table of a segment from its frames; `start` is the tail before them, `tiles` the bytes of
/// its tile sidecar.
///
/// # Errors
/// [`LogError`].
pub(crate) fn compute(
    disk: &dyn Disk,
    directory: &LogDirectory,
    start: Tail,
    tiles: &[u8],
) -> Result<Vec<u8>, LogError> {
    let mut tail = start;
    let mut builder = TableBuilder::default();
    walk_segment(disk, directory, &mut tail, None, &mut |_, placed, body| {
        each_record(placed, body, &mut |leaf, record| builder.record(leaf, record, record.self_hash()))
    })?;
    let leaves = LeafRange { first: start.leaves.next_leaf(), end: tail.leaves.next_leaf() };
    Ok(builder.finish(start.segment, leaves, tiles))
}

/// Puts a table in place that was computed beside whoever seals: the same bytes, under a temporary name of
/// its own, so that neither takes the other's file away. A link or a directory that stands in its place goes.
pub(crate) fn put(
    disk: &dyn Disk,
    directory: &LogDirectory,
    segment: SegmentNumber,
    bytes: &[u8],
) -> Result<(), DiskError> {
    let path = directory.segment_file(SegmentFile::Hashes(segment));
    let temporary = path.with_extension(format!("hashes.again{}", crate::disk::TEMPORARY));
    match disk.remove(&temporary) {
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.open(&temporary, Access::Create)?;
    file.write_at(bytes, 0)?;
    file.set_mode(Mode::Sealed)?;
    file.sync()?;
    if std::fs::symlink_metadata(&path).is_ok_and(|status| status.is_dir()) {
        remove(&path)?;
    }
    disk.rename(&temporary, &path)?;
    disk.sync_directory(&directory.segments())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    fn builder(rows: u64) -> TableBuilder {
        // Every key stands for three leaves.
        TableBuilder { rows: (0..rows).map(|row| (row / 3 * 0x0123_4567, LeafIndex::new(5 + row))).collect() }
    }

    fn leaves(count: u64) -> LeafRange {
        LeafRange { first: LeafIndex::new(5), end: LeafIndex::new(5 + count) }
    }

    fn in_directory(bytes: &[u8], tiles: &[u8]) -> (tempfile::TempDir, LogDirectory) {
        let place = tempfile::tempdir().unwrap();
        let directory = LogDirectory::of_segment_files(place.path());
        let segment = SegmentNumber::new(7);
        for (file, bytes) in [(SegmentFile::Hashes(segment), bytes), (SegmentFile::Tiles(segment), tiles)] {
            let file = RealDisk.open(&directory.segment_file(file), Access::Create).unwrap();
            file.write_at(bytes, 0).unwrap();
        }
        (place, directory)
    }

    #[test]
    fn golden_bytes_both_ways() {
        let tiles: Vec<u8> = (0..100).collect();
        let rows = vec![(0x0807_0605_0403_0201, LeafIndex::new(6)), (3, LeafIndex::new(5)), (3, LeafIndex::new(5))];
        let bytes = TableBuilder { rows }.finish(SegmentNumber::new(7), leaves(2), &tiles);
        let golden: Vec<u8> = [
            &[1, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..],
            &tiles[8..40],
            &[3, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let rows = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0];
        let golden = [&golden[..], &crc32fast::hash(&rows).to_le_bytes()].concat();
        let golden = [&b"STELHASH"[..], blake3::hash(&golden).as_bytes(), &golden, &rows].concat();
        assert_eq!(bytes, golden);
        let (_place, directory) = in_directory(&golden, &tiles);
        let table = Table::open(&RealDisk, &directory, SegmentNumber::new(7)).unwrap();
        assert_eq!((table.leaves(), table.rows, table.fences.len()), (leaves(2), 2, 1));
        let wanted = |key| WantedHash { text: String::new(), key };
        assert_eq!(table.look_up(&wanted(3)).unwrap(), [LeafIndex::new(5)]);
        assert_eq!(table.look_up(&wanted(0x0807_0605_0403_0201)).unwrap(), [LeafIndex::new(6)]);
        assert_eq!(table.look_up(&wanted(4)).unwrap(), []);
    }

    #[test]
    fn rows_of_one_key_are_found_across_pages() {
        let tiles = [9; 40];
        for rows in [0, 1, 341, 342, 1000] {
            let (_place, directory) =
                in_directory(&builder(rows).finish(SegmentNumber::new(7), leaves(rows), &tiles), &tiles);
            let table = Table::open(&RealDisk, &directory, SegmentNumber::new(7)).unwrap();
            table.check().unwrap();
            for group in 0..rows.div_ceil(3) + 1 {
                let wanted = WantedHash { text: String::new(), key: group * 0x0123_4567 };
                let expected: Vec<_> =
                    (group * 3..rows.min(group * 3 + 3)).map(|row| LeafIndex::new(5 + row)).collect();
                assert_eq!(table.look_up(&wanted).unwrap(), expected, "{rows} rows, group {group}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let tiles = [9; 40];
        let bytes = builder(400).finish(SegmentNumber::new(7), leaves(400), &tiles);
        let (_place, directory) = in_directory(&bytes, &tiles);
        let path = directory.segment_file(SegmentFile::Hashes(SegmentNumber::new(7)));
        let file = RealDisk.open(&path, Access::Write).unwrap();
        for bit in 0..bytes.len() * 8 {
            let at = bit / 8;
            file.write_at(&[bytes[at] ^ (1 << (bit % 8))], at as u64).unwrap();
            let found = Table::open(&RealDisk, &directory, SegmentNumber::new(7)).and_then(|table| table.check());
            assert!(found.is_err(), "bit {bit}");
            file.write_at(&bytes[at..=at], at as u64).unwrap();
        }
        Table::open(&RealDisk, &directory, SegmentNumber::new(7)).unwrap().check().unwrap();
    }

    #[test]
    fn the_table_of_another_segment_or_version_is_not_used() {
        let tiles = [9; 40];
        let other = |segment, tiles: &[u8]| {
            let (_place, directory) = in_directory(&builder(4).finish(segment, leaves(4), tiles), &[9; 40]);
            Table::open(&RealDisk, &directory, SegmentNumber::new(7)).err()
        };
        assert_eq!(other(SegmentNumber::new(7), &tiles), None);
        assert_eq!(other(SegmentNumber::new(6), &tiles), Some(TableFault::Other));
        assert_eq!(other(SegmentNumber::new(7), &[8; 40]), Some(TableFault::Other));
        let mut newer = builder(0).finish(SegmentNumber::new(7), leaves(0), &tiles);
        newer[40] = 2;
        let checksum = *blake3::hash(&newer[40..]).as_bytes();
        newer[8..40].copy_from_slice(&checksum);
        let (_place, directory) = in_directory(&newer, &tiles);
        let found = Table::open(&RealDisk, &directory, SegmentNumber::new(7)).err();
        assert_eq!(found, Some(TableFault::UnknownVersion(2)));
    }
}
