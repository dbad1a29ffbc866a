//! Logs as they lie in files at the moment of a crash, to be damaged by hand, and what must come of it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Access, Disk, RealDisk};
use stele_engine::environment::Environment;
use stele_engine::error::{Damage, LogError};
use stele_engine::frame::{EntryKind, Tail};
use stele_engine::number::{Alignment, RaftIndex, SegmentNumber};
use stele_engine::ring::{Slot, read_ring};
use stele_engine::segment::SegmentFile;
use stele_engine::store::{Entry, SegmentStore};
use tempfile::{TempDir, tempdir};

use crate::fixture::{ControlledDisk, bare_log, batch, copy, entry, files, fixed_on, open_store, overwrite, start_of};

/// Nothing here loses what was not flushed: damage is made by hand.
pub(crate) fn quick() -> Arc<dyn Disk> {
    Arc::new(ControlledDisk::quick())
}

pub(crate) fn environment() -> Environment {
    fixed_on(quick())
}

pub(crate) const ALIGNMENTS: [Alignment; 2] = [Alignment::PAGE, Alignment::WORD];

/// A log as it lies in files at the moment its last group has been written and not yet been flushed.
pub(crate) struct Image {
    pub(crate) temporary: TempDir,
    pub(crate) directory: LogDirectory,
    pub(crate) alignment: Alignment,
    pub(crate) entries: Vec<Entry>,
    /// How many of them were acknowledged; the others are the last group.
    pub(crate) acknowledged: usize,
    pub(crate) copies: u32,
}

impl Image {
    /// Writes `before` in a group each, and `last` in one.
    pub(crate) fn new(alignment: Alignment, before: Vec<Entry>, committed: u64, last: Vec<Entry>) -> Self {
        let temporary = tempdir().unwrap();
        let running = bare_log(&temporary.path().join("running"), alignment);
        let disk = ControlledDisk::default();
        let (store, _) = open_store(Arc::new(disk.clone()), &running).unwrap();
        for entry in &before {
            store.append(entry.clone(), None).unwrap();
            store.flush().unwrap();
        }
        store.progress().set_committed(RaftIndex::new(committed));
        // Something for the writer to wait at, so that all that follows is one group.
        disk.hold("hard-state");
        store.save_vote(
            stele_engine::hard_state::Vote {
                term: stele_engine::number::Term::new(1),
                node: stele_engine::number::NodeId::new(1),
                committed: true,
            },
            Box::new(|_| {}),
        );
        disk.until_held();
        for entry in &last {
            store.append(entry.clone(), None).unwrap();
        }
        disk.hold(".seg");
        disk.until_held();
        let directory = LogDirectory::new(temporary.path().join("image"));
        copy(running.path(), directory.path());
        disk.release();
        drop(store);
        let acknowledged = before.len();
        let entries = before.into_iter().chain(last).collect();
        Self { temporary, directory, alignment, entries, acknowledged, copies: 0 }
    }

    /// A fresh copy to damage.
    pub(crate) fn copy(&mut self) -> LogDirectory {
        self.copies += 1;
        let path = self.temporary.path().join(self.copies.to_string());
        copy(self.directory.path(), &path);
        LogDirectory::new(path)
    }

    /// The tail behind so many entries.
    pub(crate) fn tail(&self, count: usize) -> Tail {
        tail_behind(self.alignment, &self.entries[..count])
    }

    /// The file that all entries lie in.
    pub(crate) fn file(directory: &LogDirectory) -> PathBuf {
        directory.segment_file(SegmentFile::Frames(SegmentNumber::new(0)))
    }

    /// First and one past the last byte of the last group.
    pub(crate) fn group(&self) -> (u64, u64) {
        (self.tail(self.acknowledged).offset.get(), self.tail(self.entries.len()).offset.get())
    }

    /// Opens a damaged copy, which must hold everything acknowledged and whole entries of the last group,
    /// goes on, and opens it again; answers how many entries had survived.
    #[track_caller]
    pub(crate) fn goes_on(&self, directory: &LogDirectory, what: &str) -> usize {
        let (store, recovered) = open_store(quick(), directory).unwrap_or_else(|e| panic!("{what}: {e}"));
        let kept = usize::try_from(recovered.tail.next_index.get()).unwrap();
        assert!((self.acknowledged..=self.entries.len()).contains(&kept), "{what}: kept {kept}");
        let mut expected = self.entries[..kept].to_vec();
        assert_eq!(recovered.tail, self.tail(kept), "{what}");
        check(&store, &expected, what);
        let next = entry(7, EntryKind::Membership, vec![7; 5]);
        store.append(next.clone(), None).unwrap();
        store.flush().unwrap();
        drop(store);
        expected.push(next);
        let (store, recovered) = open_store(quick(), directory).unwrap();
        assert_eq!((recovered.tail, recovered.cut), (tail_behind(self.alignment, &expected), None), "{what}");
        check(&store, &expected, what);
        store.close().unwrap();
        kept
    }

    /// Opening a damaged copy is refused with this place, and changes nothing.
    #[track_caller]
    pub(crate) fn is_rot(&self, directory: &LogDirectory, at: u64, word: &str) {
        let before = files(directory.path());
        let Err(LogError::Damaged(damage)) = open_store(quick(), directory) else {
            panic!("rot at {at} was not refused");
        };
        let Damage { file, offset, what, .. } = damage;
        assert_eq!((file.as_str(), offset), ("segments/0000000000000000.seg", at), "{what}");
        assert!(what.contains(word), "{what}");
        assert!(files(directory.path()) == before, "rot is kept as it is");
    }
}

pub(crate) fn tail_behind(alignment: Alignment, entries: &[Entry]) -> Tail {
    let mut tail = start_of(alignment);
    for entry in entries {
        tail.advance(&tail.place(entry.kind, entry.term, &entry.body, entry.payload.len()).unwrap());
    }
    tail
}

#[track_caller]
pub(crate) fn check(store: &SegmentStore, expected: &[Entry], what: &str) {
    for (index, entry) in (0..).zip(expected) {
        let read = store.read_entry(RaftIndex::new(index)).unwrap();
        assert_eq!(read.as_ref(), Some(entry), "{what}: entry {index}");
    }
    assert_eq!(store.tail().next_index.get(), expected.len() as u64, "{what}");
}

/// A record of so many bytes, with a payload.
pub(crate) fn one(first_leaf: u64, len: usize) -> Entry {
    batch(1, first_leaf, &[(vec![b'r'; len], Some(vec![b'p'; len]))])
}

/// Three groups, and a last one of two frames.
pub(crate) fn image(alignment: Alignment) -> Image {
    Image::new(alignment, vec![one(0, 300), one(1, 2000), one(2, 70)], 0, vec![one(3, 3000), one(4, 1500)])
}

/// Places in a range where a cut could differ: its ends, sectors, pages, headers, and odd ones.
pub(crate) fn places(start: u64, end: u64) -> Vec<u64> {
    let mut places: Vec<u64> = [0, 1, 7, 8, 63, 64, 65, 511, 512, 513, 1000, 4095, 4096, 4097]
        .iter()
        .map(|step| start + step)
        .chain((start / 512..=end / 512).map(|sector| sector * 512))
        .chain([end - 1, end - 8, end - 513])
        .filter(|at| (start..end).contains(at))
        .collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Makes the newest slot what it was before the last group.
pub(crate) fn forget_slot(directory: &LogDirectory) {
    let path = Image::file(directory);
    overwrite(&path, Slot::place(newest(&path).group), &[0; 4096]);
}

pub(crate) fn newest(path: &Path) -> Slot {
    let file = RealDisk.open(path, Access::Read).unwrap();
    let (slots, _) = read_ring(file.as_ref(), SegmentNumber::new(0)).unwrap();
    slots.into_iter().max_by_key(|slot| slot.group).unwrap()
}
