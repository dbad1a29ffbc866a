//! A small guarded file of two generations with two copies each, in four pages.
//!
//! Generation `g` lies in pages `2 (g mod 2)` and `2 (g mod 2) + 1`. A save writes and flushes the
//! first copy, then writes and flushes the second: so a crash damages at most one copy, and two bad
//! copies in one pair are rot, never an interrupted save. With both copies under one flush a power
//! loss could tear both, and a node, or all of them, would have to refuse to start.
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
//! I-GENERATION-1: what was read is never older than what the last returned save wrote.

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
        let page = encode(magic, 1, content);
        let mut bytes = vec![0; PAGES * PAGE_BYTES];
        bytes[2 * PAGE_BYTES..3 * PAGE_BYTES].copy_from_slice(&page);
        bytes[3 * PAGE_BYTES..].copy_from_slice(&page);
        replace(disk, path, &bytes, Mode::Private)?;
        Ok(Self { file: disk.open(path, Access::Write)?, magic, generation: 1 })
    }

    /// Opens the file and reads the newest content.
    ///
    /// # Errors
    /// [`GenerationError`].
    pub fn open(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<(Self, Vec<u8>), GenerationError> {
        let (generation, content) = read(disk, path, magic)?;
        Ok((Self { file: disk.open(path, Access::Write)?, magic, generation }, content))
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

/// Reads the newest content without opening the file for writing.
///
/// # Errors
/// [`GenerationError`].
pub fn read(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Result<(u64, Vec<u8>), GenerationError> {
    let file = disk.open(path, Access::Read)?;
    let bytes = read_up_to(file.as_ref(), 0, PAGES * PAGE_BYTES + 1)?;
    newest(&bytes, magic).ok_or_else(|| GenerationError::Damaged(path.to_owned()))
}

/// What a page holds.
enum Page {
    Zero,
    Bad,
    Good(u64, Vec<u8>),
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
                Page::Zero => {}
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
    if page.iter().all(|byte| *byte == 0) {
        return Page::Zero;
    }
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

    /// A save of generation 4 stopped anywhere leaves 3 or 4; its pages are 0 and 1.
    #[test]
    fn an_interrupted_save_leaves_the_old_or_the_new_content() {
        let before = pages(&saved(3).1);
        let (directory, path) = saved(3);
        drop(directory);
        assert!(!path.exists());
        let new = encode(MAGIC, 4, &[4]);
        for torn in [0, 1, 100, PAGE_BYTES - 1] {
            for (copy, expected) in [(0, 3), (1, 4)] {
                let mut bytes = before.clone();
                if copy == 1 {
                    bytes[..PAGE_BYTES].copy_from_slice(&new);
                }
                bytes[copy * PAGE_BYTES..][..PAGE_BYTES].fill(0xa5);
                bytes[copy * PAGE_BYTES..][..torn].copy_from_slice(&new[..torn]);
                assert_eq!(newest(&bytes, MAGIC).unwrap().1, [expected], "copy {copy} torn at {torn}");
            }
        }
    }

    #[test]
    fn rot_of_one_copy_is_survived_and_of_both_is_refused() {
        for times in [3, 4] {
            let good = pages(&saved(times).1);
            let first = usize::from(times) % 2 * 2 * PAGE_BYTES;
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
