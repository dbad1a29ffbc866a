//! The index: finding records by stream, writer, time and hash without reading the whole log.
//!
//! It is derived, it is never the source of anything, and it is no part of the log: it says *where to look*,
//! and what is found there is read from the log and compared with what was asked for. Two parts:
//!
//! - [`hashes`]: beside each sealed segment a sorted table of its hashes, made when the segment is sealed and
//!   made again by [`Index::catch_up`] where it is missing or damaged. Whoever reads can use it, without a
//!   lock; the open segment, and one without a good table, is read instead.
//! - *sheets* (the format is in `index/sheet.rs`): per frame, the chains with their sequence numbers and
//!   the earliest and latest `ts_ms`, about a thousand leaves a row, in a key-value store (`index/store.rs`) in
//!   the log's directory `index/`. Sheets are a function of the log, are written once and are numbered
//!   without gap, so that a row that was lost or is stale is always noticed; the last thousand leaves or so
//!   have no sheet yet and are read instead. A query without a hash looks at every sheet, and of the log reads
//!   only the frames that may hold what it asks for.
//!
//! **Who feeds it.** Nobody who appends: `LocalLog` knows nothing of sheets. [`Index::open`] and
//! [`Index::catch_up`] bring it up to the durable end of the log; `stele read` with a filter and
//! `stele index rebuild` do that, and a program that embeds the log may start a [`feeder::Feeder`]. Only one
//! process at a time has it open (`index.lock`): [`IndexError::InUse`] to all others, who answer by [`scan`].
//!
//! **When it is thrown away.** It says its format version, which log it is of, how far it got and the root
//! there. Another version, another log, more leaves than the log has, another root, a row that is missing or
//! damaged, an error or a panic of the store: then `index/` is moved to `index.bad-N` (the newest
//! [`KEPT_BAD`] are kept, for whoever wants to know why) and it is made anew from the log. No file of the log
//! is ever changed.
//!
//! I-INDEX-1: what a query answers through the index is what reading the whole log answers.
//! I-INDEX-2: sheets <= durable end of the log.

pub mod feeder;
pub mod hashes;
mod mark;
mod query;
mod sheet;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_proof::{LeafIndex, TreeSize};

use crate::directory::{Inventory, LogDirectory};
use crate::disk::{Disk, DiskError, DiskLock, Locking};
use crate::environment::Environment;
use crate::error::LogError;
use crate::frame::Tail;
use crate::number::SegmentNumber;
use crate::reader::{LogReader, ReadRecord};
use crate::replay::each_record;

use hashes::Table;
use mark::Mark;
use sheet::Sheet;
use store::Store;

pub use query::{Filter, Query, scan};
pub use sheet::SHEET_LEAVES;
pub use store::StoreFault;

/// How many indexes that were moved aside are kept.
pub const KEPT_BAD: u32 = 3;
/// Sheets that are written and flushed together.
const BATCH_SHEETS: usize = 256;
/// The key of the mark. Sheets have the keys `s` and their number, big-endian.
const MARK_KEY: &[u8] = b"m";

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Another process has it open.
    #[error("the index in {} is in use by process {holder}", path.display())]
    InUse {
        /// The index.
        path: PathBuf,
        /// What the holder left in the lock file.
        holder: String,
    },
    /// The log itself cannot be read, or a file beside it not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed, and failed again when it was made anew.
    #[error("the index cannot be kept: {0}")]
    Store(#[from] StoreFault),
}

impl From<DiskError> for IndexError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// How far the index got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexStatus {
    /// Leaves that have sheets.
    pub indexed: TreeSize,
    /// Leaves of the log that were durable when it was last looked at.
    pub durable: TreeSize,
    /// Sealed segments.
    pub sealed: u64,
    /// Of these, how many have a hash table that can be used.
    pub tables: u64,
    /// Why an index was moved aside since it was opened, the last time that was so.
    pub moved_aside: Option<String>,
}

/// What is called as the index grows: leaves that have sheets, and leaves of the log.
pub type Progress<'p> = dyn FnMut(TreeSize, TreeSize) + 'p;

/// The index, open. No other process has it.
pub struct Index {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    reader: LogReader,
    /// `None` only while it is being made anew.
    store: Option<Store>,
    mark: Mark,
    /// Where feeding goes on, and the sheet being made; `None` where that must be looked up.
    position: Option<(Tail, Sheet)>,
    moved_aside: Option<String>,
    /// Given back last.
    _lock: Box<dyn DiskLock>,
}

impl Index {
    /// Opens the index of a log, empty where there is none or where what there is cannot be used.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let directory = LogDirectory::new(path);
        let lock = take_lock(environment.disk.as_ref(), &directory)?;
        // Opened behind the lock: the index cannot have got further than what this reader sees.
        let reader = LogReader::open(environment, path)?;
        let mark = empty_mark(&reader);
        let disk = Arc::clone(&environment.disk);
        let mut index =
            Self { disk, directory, reader, store: None, mark, position: None, moved_aside: None, _lock: lock };
        match index.load() {
            Err(IndexError::Store(fault)) => index.start_anew(&fault)?,
            loaded => loaded?,
        }
        Ok(index)
    }

    /// Makes the index of a log anew, its hash tables too where they are not what was written.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn rebuild(environment: &Environment, path: &Path, progress: &mut Progress<'_>) -> Result<Self, IndexError> {
        let directory = LogDirectory::new(path);
        let lock = take_lock(environment.disk.as_ref(), &directory)?;
        remove(&directory.index())?;
        drop(lock);
        let mut index = Self::open(environment, path)?;
        for segment in index.sealed() {
            let table = Table::open(index.disk.as_ref(), &index.directory, segment)?;
            if table.map_or(Ok(Ok(())), |table| table.check())?.is_err() {
                index.make_table(segment)?;
            }
        }
        index.catch_up(progress)?;
        Ok(index)
    }

    /// Reads the mark and holds it against the log.
    fn load(&mut self) -> Result<(), IndexError> {
        self.disk.create_directory(&self.directory.index())?;
        let store = Store::open(&self.directory.index())?;
        if let Some(row) = store.get(MARK_KEY)? {
            let mark = Mark::decode(&row).map_err(StoreFault)?;
            let size = self.reader.size();
            if mark.log != self.reader.genesis().log_id {
                return Err(StoreFault(format!("the index is that of the log {}", mark.log)).into());
            }
            if mark.leaves > size {
                return Err(StoreFault(format!("the index holds {} records, the log {size}", mark.leaves)).into());
            }
            if mark.root != self.reader.root_at(mark.leaves)? {
                return Err(StoreFault("the index is that of a log with another history".to_owned()).into());
            }
            self.mark = mark;
        }
        self.store = Some(store);
        Ok(())
    }

    /// Moves the index aside and begins an empty one.
    fn start_anew(&mut self, fault: &StoreFault) -> Result<(), IndexError> {
        self.store = None;
        self.moved_aside = Some(fault.to_string());
        self.position = None;
        self.mark = empty_mark(&self.reader);
        let (index, bad) = (self.directory.index(), |number| self.directory.bad_index(number));
        if (1..=KEPT_BAD).all(|number| bad(number).exists()) {
            remove(&bad(1))?;
            for number in 2..=KEPT_BAD {
                self.disk.rename(&bad(number), &bad(number - 1))?;
            }
        }
        let free = (1..KEPT_BAD).find(|number| !bad(*number).exists()).unwrap_or(KEPT_BAD);
        if index.exists() {
            self.disk.rename(&index, &bad(free))?;
        }
        self.disk.create_directory(&index)?;
        self.store = Some(Store::open(&index)?);
        Ok(())
    }

    /// Does something with the store; where that fails, once more with a new one that has caught up.
    fn with_store<T>(
        &mut self,
        progress: &mut Progress<'_>,
        mut work: impl FnMut(&mut Self, &mut Progress<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        match work(self, progress) {
            Err(IndexError::Store(fault)) => {
                self.start_anew(&fault)?;
                self.feed(progress)?;
                work(self, progress)
            }
            done => done,
        }
    }

    /// Brings the index up to what is durable now.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn catch_up(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        self.reader.advance()?;
        for segment in self.sealed() {
            if Table::open(self.disk.as_ref(), &self.directory, segment)?.is_err() {
                self.make_table(segment)?;
            }
        }
        self.with_store(progress, Self::feed)
    }

    fn sealed(&self) -> impl Iterator<Item = SegmentNumber> + use<> {
        (0..self.reader.inventory().sealed.get()).map(SegmentNumber::new)
    }

    fn make_table(&self, segment: SegmentNumber) -> Result<(), IndexError> {
        let (start, tiles) = self.reader.sidecar(segment)?;
        let bytes = hashes::compute(self.disk.as_ref(), &self.directory, start, &tiles)?;
        Ok(hashes::put(self.disk.as_ref(), &self.directory, segment, &bytes)?)
    }

    /// Writes the sheets of what the reader sees.
    fn feed(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        let first = self.mark.leaves.next_leaf();
        let (start, mut sheet) = match self.position.take() {
            Some(position) => position,
            None => (self.reader.tail_before(first)?, Sheet::new(first)),
        };
        let size = self.reader.size();
        let mut full = Vec::new();
        let mut fault = None;
        let (reader, store, mark) = (&self.reader, &self.store, &mut self.mark);
        let mut write = |full: &mut Vec<Sheet>| -> Result<(), IndexError> {
            let Some(store) = store else { return Err(StoreFault("the store is closed".to_owned()).into()) };
            write_sheets(store, reader, mark, full)?;
            progress(mark.leaves, size);
            Ok(())
        };
        reader.walk_from(start, &mut |_, placed, body| {
            if fault.is_some() || placed.header.first_leaf < sheet.end() {
                return Ok(());
            }
            each_record(placed, body, &mut |leaf, record| sheet.record(placed.header.first_leaf, leaf, record))?;
            if sheet.is_full() {
                let next = Sheet::new(sheet.end());
                full.push(std::mem::replace(&mut sheet, next));
                if full.len() >= BATCH_SHEETS {
                    fault = write(&mut full).err();
                }
            }
            Ok(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if !full.is_empty() {
            write(&mut full)?;
        }
        self.position = Some((self.reader.end().tail, sheet));
        Ok(())
    }

    /// Hands out what a query asks for, in the order of the log: by sheets, or by hash tables where a hash is
    /// asked for; what has no sheet or table yet is read.
    ///
    /// # Errors
    /// As [`scan`], and [`IndexError`].
    pub fn find<E: From<LogError> + From<IndexError>>(
        &mut self,
        query: &Query,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut next = LeafIndex::new(0);
        if query.filter.needs_sheets() {
            let mut number = 0;
            while number < self.mark.sheets && next < query.leaves.end {
                let sheet = self.with_store(&mut |_, _| (), |index, _| index.sheet(number, next))?;
                next = sheet.end();
                number += 1;
                for range in sheet.matching(|chain| query.filter.is_chain(chain), query.filter.times()) {
                    query.read(&self.reader, range, each)?;
                }
            }
            return query.read_rest(&self.reader, next, each);
        }
        scan(&self.reader, query, each)
    }

    /// A sheet, which begins with this leaf.
    fn sheet(&self, number: u64, first: LeafIndex) -> Result<Sheet, IndexError> {
        let row = match &self.store {
            Some(store) => store.get(&sheet_key(number))?,
            None => None,
        };
        let Some(row) = row else { return Err(StoreFault(format!("sheet {number} is missing")).into()) };
        let sheet = Sheet::decode(&row, &self.mark.log, number).filter(|sheet| sheet.first == first);
        Ok(sheet.ok_or_else(|| StoreFault(format!("sheet {number} is damaged")))?)
    }

    /// Reads every sheet; one that is missing or damaged has the index made anew.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn check(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        let mut next = LeafIndex::new(0);
        for number in 0..self.mark.sheets {
            next = self.with_store(progress, |index, _| index.sheet(number, next))?.end();
        }
        Ok(())
    }

    /// The log as the index sees it.
    pub const fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// How far it got.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn status(&self) -> Result<IndexStatus, IndexError> {
        let mut tables = 0;
        for segment in self.sealed() {
            tables += u64::from(Table::open(self.disk.as_ref(), &self.directory, segment)?.is_ok());
        }
        Ok(IndexStatus {
            indexed: self.mark.leaves,
            durable: self.reader.size(),
            sealed: self.reader.inventory().sealed.get(),
            tables,
            moved_aside: self.moved_aside.clone(),
        })
    }
}

/// Writes sheets, makes them durable, and only then says so in the mark.
fn write_sheets(store: &Store, reader: &LogReader, mark: &mut Mark, full: &mut Vec<Sheet>) -> Result<(), IndexError> {
    let mut rows = Vec::with_capacity(full.len());
    let mut next = *mark;
    for sheet in full.drain(..) {
        rows.push((sheet_key(next.sheets), sheet.encode(&next.log, next.sheets)));
        next.sheets += 1;
        next.leaves = TreeSize::new(sheet.end().get());
    }
    // I-INDEX-2.
    assert!(next.leaves <= reader.size(), "the index holds {} records of {}", next.leaves, reader.size());
    next.root = reader.root_at(next.leaves)?;
    store.put(&rows)?;
    store.put(&[(MARK_KEY.to_vec(), next.encode())])?;
    *mark = next;
    Ok(())
}

fn sheet_key(number: u64) -> Vec<u8> {
    [&b"s"[..], &number.to_be_bytes()].concat()
}

fn empty_mark(reader: &LogReader) -> Mark {
    Mark { log: reader.genesis().log_id, leaves: TreeSize::new(0), sheets: 0, root: stele_proof::tree::empty_root() }
}

fn take_lock(disk: &dyn Disk, directory: &LogDirectory) -> Result<Box<dyn DiskLock>, IndexError> {
    // Nothing is left where there is no log.
    Inventory::take(disk, directory)?;
    match disk.lock(&directory.index_lock(), &std::process::id().to_string())? {
        Locking::Taken(lock) => Ok(lock),
        Locking::HeldBy(holder) => Err(IndexError::InUse { path: directory.index(), holder }),
    }
}

/// Removes a directory of the store, which keeps its files without [`Disk`].
fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DiskError { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
