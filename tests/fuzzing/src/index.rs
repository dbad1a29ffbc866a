//! The index: its mark, the rows of its sheets, the hash tables beside segments.

use std::path::Path;

use stele_engine::directory::LogDirectory;
use stele_engine::index::SHEET_LEAVES;
use stele_engine::index::hashes::{HEADER_BYTES, PAGE_ROWS, ROW_BYTES, Table, WantedHash};
use stele_engine::index::mark::Mark;
use stele_engine::index::sheet::{Head, Page, head_key, page_key};
use stele_engine::number::SegmentNumber;
use stele_engine::reserved::LogId;
use stele_engine::segment::SegmentFile;

use crate::disk::MemoryDisk;

const LOG: LogId = LogId::new([4; 32]);
/// Bytes of a checksum at the start.
const CHECKSUM_BYTES: usize = 32;
/// Where the bytes of a hash table begin that its checksum covers.
const TABLE_CHECKED_FROM: usize = 40;

/// The mark.
pub(crate) fn mark(data: &[u8]) {
    check_mark(data);
    let body = data.get(CHECKSUM_BYTES..).unwrap_or_default();
    check_mark(&[blake3::hash(body).as_bytes(), body].concat());
}

fn check_mark(file: &[u8]) {
    if let Ok(mark) = Mark::decode(file) {
        assert_eq!(mark.encode(), file);
        assert_eq!(mark.sheets() * SHEET_LEAVES, mark.leaves.get());
    }
}

/// The head and the pages of a sheet.
pub(crate) fn sheet(data: &[u8]) {
    let body = data.get(CHECKSUM_BYTES..).unwrap_or_default();
    for key in [head_key(3), page_key(3, 1)] {
        let checksum = *blake3::Hasher::new().update(LOG.as_bytes()).update(&key).update(body).finalize().as_bytes();
        for row in [data.to_vec(), [&checksum, body].concat()] {
            if let Some(head) = Head::decode(&row, &LOG, &key) {
                assert_eq!(head.encode(&LOG, &key), row);
                assert!(head.pages().next().is_some());
            }
            if let Some(page) = Page::decode(&row, &LOG, &key) {
                assert_eq!(page.encode(&LOG, &key), row);
            }
            for other in [head_key(4), page_key(3, 2)] {
                assert_eq!(Head::decode(&row, &LOG, &other), None, "a row of another key");
                assert_eq!(Page::decode(&row, &LOG, &other), None, "a row of another key");
            }
        }
    }
}

/// Hash tables.
pub(crate) fn hash_table(data: &[u8]) {
    check_table(data);
    check_table(&completed(data));
}

fn number(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Where the rows of a table begin, if they are all there.
fn rows_of(data: &[u8]) -> Option<usize> {
    let rows = usize::try_from(number(data, 44) & 0xffff_ffff).ok()?;
    let start = HEADER_BYTES + rows.div_ceil(PAGE_ROWS) * ROW_BYTES;
    (data.len() == start + rows * ROW_BYTES).then_some(start)
}

/// The table with fences and checksum made right.
fn completed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let Some(start) = rows_of(data) else { return bytes };
    let (head, rows) = bytes.split_at_mut(start);
    for (page, fence) in rows.chunks(PAGE_ROWS * ROW_BYTES).zip(head[HEADER_BYTES..].chunks_mut(ROW_BYTES)) {
        fence[..8].copy_from_slice(&page[..8]);
        fence[8..].copy_from_slice(&crc32fast::hash(page).to_le_bytes());
    }
    let checksum = *blake3::hash(&head[TABLE_CHECKED_FROM..]).as_bytes();
    head[8..TABLE_CHECKED_FROM].copy_from_slice(&checksum);
    bytes
}

fn check_table(bytes: &[u8]) {
    let segment = SegmentNumber::new(number(bytes, 48));
    let (disk, directory) = (MemoryDisk::default(), LogDirectory::of_segment_files(Path::new("/log")));
    let mut tiles = vec![0; TABLE_CHECKED_FROM];
    if let Some(of) = bytes.get(72..HEADER_BYTES) {
        tiles[8..].copy_from_slice(of);
    }
    disk.put(&directory.segment_file(SegmentFile::Tiles(segment)), tiles);
    disk.put(&directory.segment_file(SegmentFile::Hashes(segment)), bytes.to_vec());
    let Ok(table) = Table::open(&disk, &directory, segment) else { return };
    let start = rows_of(bytes).expect("a table has all its rows");
    let is_good = table.check().is_ok();
    for row in bytes[start..].chunks(ROW_BYTES).take(1000) {
        let digits: String = row[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = WantedHash::parse(&format!("b3:{digits}{}", "0".repeat(48))).expect("a whole hash");
        let Ok(found) = table.look_up(&wanted) else { continue };
        assert!(found.is_sorted() && found.iter().all(|leaf| table.leaves().contains(*leaf)));
        let leaf = table.leaves().first.checked_add(number(&[&row[8..], &[0; 4]].concat(), 0));
        assert!(!is_good || leaf.is_some_and(|leaf| found.contains(&leaf)), "what is in it is found");
    }
}
