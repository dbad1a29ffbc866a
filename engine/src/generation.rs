//! A small guarded file of two generations with two copies each, in four pages.
//!
//! Generation `g` lies in pages `2 (g mod 2)` and `2 (g mod 2) + 1`. A save writes and flushes the
//! first copy, then writes and flushes the second: so a crash damages at most one copy, and two bad
//! copies in one pair are rot, never an interrupted save. With both copies under one flush a power
//! loss could tear both, and a node, or all of them, would have to refuse to start. The file is born
//! with generations 1 and 2, so a page of zeros is damage like any other.
//!
//! | offset in the page | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | tells hard state and signing state apart |
//! | 8 | 4 | checksum | CRC-32 of bytes 12..4,096 |
//! | 12 | 4 | content length | |
//! | 16 | 8 | generation | from 1, below 2^63 |
//! | 24 | .. | content | |
//! | .. | .. | zero | |
//!
//! I-GENERATION-1: what was read is never older than what the last returned save wrote, and nothing
//! older is read later, crash or not, where it was read by [`GenerationFile::open`].

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Access, Disk, DiskError, DiskFile, Mode, read_up_to, replace};
use crate::frame::{read_u32, read_u64};
use crate::segment::PAGE_BYTES;

const PAGES: usize = 4;
const CONTENT_START: usize = 24;
/// No file is saved so often: there is always a next generation.
const LAST_GENERATION: u64 = u64::MAX >> 1;
/// Most bytes of content.
pub const MAX_CONTENT_BYTES: usize = PAGE_BYTES - CONTENT_START;

/// Why a generation file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// A call failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Both copies of a generation that may be the newest are damaged: the older one would be a lie.
    #[error("{} is damaged in both copies of a generation, and an older one must not be used", .0.display())]
    Damaged(PathBuf),
    /// The file is gone, and with it what must never be forgotten.
    #[error(
        "{} is missing: without it a vote or a signature could be given twice; restore it from a backup made after the log was last used",
        .0.display()
    )]
    Missing(PathBuf),
}

/// An open generation file.
pub struct GenerationFile {
    file: Box<dyn DiskFile>,
    magic: [u8; 8],
    generation: u64,
}

impl GenerationFile {
    /// Creates the file with its first content.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn create(disk: &dyn Disk, path: &Path, magic: [u8; 8], content: &[u8]) -> Result<Self, DiskError> {
        let [first, second] = [1, 2].map(|generation| encode(magic, generation, content));
        replace(disk, path, &[second, second, first, first].concat(), Mode::Private)?;
        Ok(Self { file: disk.open(path, Access::Write)?, magic, generation: 2 })
    }

    /// Opens the file and reads the newest content that is durable.
    ///
    /// After a kill the newest copy may be in the page cache only, and after a failed flush it may
    /// never reach the disk: so the file is flushed first and then read past the cache. An interrupted
    /// save is brought to its end: both copies are there again before the next save.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn open(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<(Self, Vec<u8>), GenerationError> {
        let file = disk.open(path, Access::Write).map_err(|error| match error.source.kind() {
            io::ErrorKind::NotFound => GenerationError::Missing(path.to_owned()),
            _ => error.into(),
        })?;
        file.sync()?;
        let mut buffer = vec![0; (PAGES + 2) * PAGE_BYTES];
        let aligned = buffer.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let window = &mut buffer[aligned..aligned + (PAGES + 1) * PAGE_BYTES];
        let read = disk.open(path, Access::ReadDirect)?.read_at(window, 0)?;
        let (generation, content) =
            newest(&window[..read], magic).ok_or_else(|| GenerationError::Damaged(path.to_owned()))?;
        let second = second_copy(generation);
        let page = encode(magic, generation, &content);
        if window[second..second + PAGE_BYTES] != page {
            file.write_at(&page, second as u64)?;
            file.sync()?;
        }
        Ok((Self { file, magic, generation }, content))
    }

    /// Makes new content durable: two writes, two flushes. A failure is final.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    ///
    /// # Panics
    /// Where the content is longer than [`MAX_CONTENT_BYTES`].
    pub fn save(&mut self, content: &[u8]) -> Result<(), DiskError> {
        let generation = self.generation + 1;
        let page = encode(self.magic, generation, content);
        let first = generation % 2 * 2 * PAGE_BYTES as u64;
        for at in [first, first + PAGE_BYTES as u64] {
            self.file.write_at(&page, at)?;
            self.file.sync()?;
        }
        self.generation = generation;
        Ok(())
    }
}

/// Where the copy begins that a save writes last.
const fn second_copy(generation: u64) -> usize {
    let pair = if generation.is_multiple_of(2) { 0 } else { 2 };
    (pair + 1) * PAGE_BYTES
}

/// Reads the newest content without opening the file for writing.
///
/// # Errors
/// [`GenerationError`].
pub fn read(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<(u64, Vec<u8>), GenerationError> {
    let file = disk.open(path, Access::Read)?;
    let bytes = read_up_to(file.as_ref(), 0, PAGES * PAGE_BYTES + 1)?;
    newest(&bytes, magic).ok_or_else(|| GenerationError::Damaged(path.to_owned()))
}

/// Where the damaged pages of the file begin, those of the older generation and of spare copies
/// included; the place where the file ends if it has a wrong length.
///
/// A copy that is still older beside a good one is what an interrupted save leaves.
///
/// # Errors
/// [`DiskError`] of a failed call.
pub(crate) fn damaged_pages(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<Vec<u64>, DiskError> {
    let file = disk.open(path, Access::Read)?;
    let bytes = read_up_to(file.as_ref(), 0, PAGES * PAGE_BYTES + 1)?;
    if bytes.len() != PAGES * PAGE_BYTES {
        return Ok(vec![bytes.len().min(PAGES * PAGE_BYTES) as u64]);
    }
    let pages: Vec<Page> = bytes.chunks(PAGE_BYTES).map(|page| decode(page, magic)).collect();
    let mut damaged = Vec::new();
    for (parity, (pair, at)) in (0..).zip(pages.chunks(2).zip((0..).step_by(2 * PAGE_BYTES))) {
        let [first, second] = [&pair[0], &pair[1]].map(|page| page.check(parity));
        let behind = |older, newer: u64| newer.checked_sub(2) == Some(older);
        let bad = match (first, second) {
            (Some(first), Some(second)) if first == second => [false, pair[0] != pair[1]],
            (Some(first), Some(second)) => [first < second, second < first && !behind(second, first)],
            _ => [first.is_none(), second.is_none()],
        };
        let places = [at, at + PAGE_BYTES as u64];
        damaged.extend(places.into_iter().zip(bad).filter(|(_, bad)| *bad).map(|(place, _)| place));
    }
    Ok(damaged)
}

/// Writes damaged copies anew from the good ones beside them, the file as a whole; answers where the damaged
/// ones began, nothing where there were none.
///
/// What is newest afterwards is what was newest before (I-GENERATION-1): of a generation without a good copy
/// nothing is known, and the file is left alone.
///
/// # Errors
/// [`GenerationError`].
pub(crate) fn restore_copies(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<Vec<u64>, GenerationError> {
    let damaged = damaged_pages(disk, path, magic)?;
    let bytes = read_up_to(disk.open(path, Access::Read)?.as_ref(), 0, PAGES * PAGE_BYTES + 1)?;
    if newest(&bytes, magic).is_none() {
        return Err(GenerationError::Damaged(path.to_owned()));
    }
    if damaged.is_empty() {
        return Ok(damaged);
    }
    let mut whole = Vec::with_capacity(PAGES * PAGE_BYTES);
    for (parity, pair) in (0..).zip(bytes.chunks(2 * PAGE_BYTES)) {
        let copies =
            pair.chunks(PAGE_BYTES).filter_map(|page| decode(page, magic).check(parity).map(|own| (own, page)));
        let (_, page) = copies.max_by_key(|(own, _)| *own).ok_or_else(|| GenerationError::Damaged(path.to_owned()))?;
        whole.extend_from_slice(page);
        whole.extend_from_slice(page);
    }
    replace(disk, path, &whole, Mode::Private)?;
    Ok(damaged)
}

/// What a page holds.
#[derive(PartialEq)]
enum Page {
    Bad,
    Good(u64, Vec<u8>),
}

impl Page {
    /// Its generation, or `None` where it is damaged or belongs into the other pair.
    fn check(&self, parity: u64) -> Option<u64> {
        match self {
            Self::Good(generation, _) if generation % 2 == parity => Some(*generation),
            Self::Bad | Self::Good(..) => None,
        }
    }
}

fn newest(bytes: &[u8], magic: [u8; 8]) -> Option<(u64, Vec<u8>)> {
    if bytes.len() != PAGES * PAGE_BYTES {
        return None;
    }
    let mut newest: Option<(u64, Vec<u8>)> = None;
    for (parity, pair) in (0..).zip(bytes.chunks(2 * PAGE_BYTES)) {
        let mut bad = 0;
        for page in pair.chunks(PAGE_BYTES) {
            match decode(page, magic) {
                Page::Good(generation, content) if generation % 2 == parity => {
                    if newest.as_ref().is_none_or(|(best, _)| *best < generation) {
                        newest = Some((generation, content));
                    }
                }
                Page::Bad | Page::Good(..) => bad += 1,
            }
        }
        if bad == 2 {
            return None;
        }
    }
    newest
}

fn encode(magic: [u8; 8], generation: u64, content: &[u8]) -> [u8; PAGE_BYTES] {
    assert!(content.len() <= MAX_CONTENT_BYTES, "content of {} bytes", content.len());
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(&magic);
    page[12..16].copy_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    page[16..24].copy_from_slice(&generation.to_le_bytes());
    page[CONTENT_START..CONTENT_START + content.len()].copy_from_slice(content);
    let checksum = crc32fast::hash(&page[12..]);
    page[8..12].copy_from_slice(&checksum.to_le_bytes());
    page
}

fn decode(page: &[u8], magic: [u8; 8]) -> Page {
    let len = read_u32(page, 12) as usize;
    if page[..8] != magic || read_u32(page, 8) != crc32fast::hash(&page[12..]) || len > MAX_CONTENT_BYTES {
        return Page::Bad;
    }
    let (content, rest) = page[CONTENT_START..].split_at(len);
    let generation = read_u64(page, 16);
    if !(1..=LAST_GENERATION).contains(&generation) || rest.iter().any(|byte| *byte != 0) {
        return Page::Bad;
    }
    Page::Good(generation, content.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    const MAGIC: [u8; 8] = *b"STELTEST";

    /// A file saved that often, counting its birth; its newest generation is one more.
    fn saved(times: u8) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = GenerationFile::create(&RealDisk, &path, MAGIC, &[1]).unwrap();
        for content in 2..=times {
            file.save(&[content]).unwrap();
        }
        (directory, path)
    }

    fn pages(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    #[test]
    fn the_last_save_is_read_back() {
        for times in 1..=5 {
            let (_directory, path) = saved(times);
            let (_, content) = GenerationFile::open(&RealDisk, &path, MAGIC).unwrap();
            assert_eq!(content, [times]);
        }
    }

    /// A save of generation 5 stopped anywhere leaves 4 or 5; its pages are 2 and 3.
    #[test]
    fn an_interrupted_save_leaves_the_old_or_the_new_content() {
        let before = pages(&saved(3).1);
        let (directory, path) = saved(3);
        drop(directory);
        assert!(!path.exists());
        let new = encode(MAGIC, 5, &[4]);
        let pair = 2 * PAGE_BYTES;
        for torn in [0, 1, 100, PAGE_BYTES - 1] {
            for (copy, expected) in [(0, 3), (1, 4)] {
                let mut bytes = before.clone();
                if copy == 1 {
                    bytes[pair..][..PAGE_BYTES].copy_from_slice(&new);
                }
                bytes[pair + copy * PAGE_BYTES..][..PAGE_BYTES].fill(0xa5);
                bytes[pair + copy * PAGE_BYTES..][..torn].copy_from_slice(&new[..torn]);
                assert_eq!(newest(&bytes, MAGIC).unwrap().1, [expected], "copy {copy} torn at {torn}");
            }
        }
    }

    /// A log that is killed each time before it is closed: every second save is interrupted, always in the same pair.
    #[test]
    fn opening_brings_an_interrupted_save_to_its_end() {
        let (_directory, path) = saved(3);
        for round in 0..3 {
            let (mut file, content) = GenerationFile::open(&RealDisk, &path, MAGIC).unwrap();
            assert_eq!(damaged_pages(&RealDisk, &path, MAGIC).unwrap(), Vec::<u64>::new(), "round {round}");
            let bytes = pages(&path);
            let pair = second_copy(file.generation);
            assert_eq!(bytes[pair - PAGE_BYTES..pair], bytes[pair..pair + PAGE_BYTES], "round {round}");
            file.save(&[content[0] + 1]).unwrap();
            let next = file.generation + 1;
            let first = second_copy(next) as u64 - PAGE_BYTES as u64;
            let page = encode(MAGIC, next, &[content[0] + 2]);
            RealDisk.open(&path, Access::Write).unwrap().write_at(&page, first).unwrap();
            assert_eq!(damaged_pages(&RealDisk, &path, MAGIC).unwrap(), Vec::<u64>::new(), "round {round}");
        }
        let (_, content) = GenerationFile::open(&RealDisk, &path, MAGIC).unwrap();
        assert_eq!(content, [9]);
    }

    #[test]
    fn every_damaged_copy_is_told_and_an_interrupted_save_is_not() {
        let told = |path: &Path, bytes: &[u8]| {
            let file = RealDisk.open(path, Access::Write).unwrap();
            file.set_len(0).unwrap();
            file.write_at(bytes, 0).unwrap();
            damaged_pages(&RealDisk, path, MAGIC).unwrap()
        };
        for times in 1..=5 {
            let (_directory, path) = saved(times);
            let good = pages(&path);
            assert_eq!(told(&path, &good), Vec::<u64>::new(), "{times} saves");
            for at in (0..good.len()).step_by(97) {
                let mut bytes = good.clone();
                bytes[at] ^= 0x10;
                assert_eq!(told(&path, &bytes), [(at / PAGE_BYTES * PAGE_BYTES) as u64], "{times} saves, byte {at}");
            }
            let mut interrupted = good.clone();
            let next = u64::from(times) + 2;
            let first = usize::from(times) % 2 * 2 * PAGE_BYTES;
            interrupted[first..][..PAGE_BYTES].copy_from_slice(&encode(MAGIC, next, &[9]));
            assert_eq!(told(&path, &interrupted), Vec::<u64>::new(), "{times} saves");
            for page in 0..PAGES {
                let mut zeroed = good.clone();
                zeroed[page * PAGE_BYTES..][..PAGE_BYTES].fill(0);
                assert_eq!(told(&path, &zeroed), [(page * PAGE_BYTES) as u64], "{times} saves, page {page}");
            }
            assert_eq!(told(&path, &good[..100]), [100]);
        }
    }

    #[test]
    fn rot_of_one_copy_is_survived_and_of_both_is_refused() {
        for times in [3, 4] {
            let good = pages(&saved(times).1);
            let first = usize::from(times + 1) % 2 * 2 * PAGE_BYTES;
            for at in [0, 8, 12, 16, 24, 4095] {
                let mut bytes = good.clone();
                bytes[first + at] ^= 4;
                assert_eq!(newest(&bytes, MAGIC).unwrap().1, [times]);
                bytes[first + PAGE_BYTES + at] ^= 4;
                assert!(newest(&bytes, MAGIC).is_none(), "byte {at}: an older generation must not come back");
            }
        }
    }
}
