//! The index: finding records by stream, writer, time, identity and hash without reading the whole log.
//!
//! It is derived, it is never the source of anything, and it is no part of the log: it says *where to look*,
//! and what is found there is read from the log and compared with what was asked for. Two parts:
//!
//! - [`hashes`]: beside each sealed segment a sorted table of its hashes, made when the segment is sealed.
//!   Made again where it is missing or cannot be opened by [`Index::catch_up`], which looks at each head once,
//!   and where its rows are damaged by [`Index::mend_tables`], which reads them. Whoever reads can use it,
//!   without a lock; the open segment, and one without a good table, is read instead.
//! - *sheets* ([`sheet`]): for each 8,192 leaves in a row, where the records of each stream, writer and chain
//!   lie and which sequence numbers they have, and the earliest and latest `ts_ms` of each 64 leaves. They are
//!   rows of a key-value store (`index/store.rs`), a few dozen large ones a sheet. Sheets are a function of the
//!   log, are written once and have numbers without gap, so that a row that was lost or is stale is always
//!   noticed.
//!
//! | path in the log's directory | what |
//! |---|---|
//! | `segments/<16 hex digits>.hashes` | hash table of a sealed segment |
//! | `index/mark` | which log, format version, how far the sheets reach and the root there ([`mark`]) |
//! | `index/store/` | the sheets |
//! | `index.lock` | the lock of whoever has the sheets open |
//! | `index.bad-1` .. `index.bad-3` | indexes that were moved aside, the newest last |
//!
//! All of it can be deleted at any time when no process uses it.
//!
//! **Who feeds it.** Nobody who appends: `LocalLog` knows nothing of sheets. [`Index::open`] and
//! [`Index::catch_up`] bring it up to the durable end of the log; `stele index update` and `stele index
//! rebuild` do that, and a program that embeds the log may start a [`feeder::Feeder`].
//!
//! **Who reads it.** Only one process at a time has the store open (`index.lock`): [`IndexError::InUse`] to all
//! others, who answer by [`scan`]. Whoever only reads ([`IndexReader`]) feeds nothing, makes nothing, moves
//! nothing aside, and goes on by reading the log where the index fails; but the store writes into its own files
//! whenever it is open, so that whoever may not write there cannot use it ([`IndexError::is_refused`]).
//! [`status`] takes no lock.
//!
//! **Not yet indexed.** The newest leaves, fewer than a sheet where somebody feeds, have no sheet. They are
//! read, if there are not too many ([`Unindexed`]); else the answer says which leaves were not looked at.
//!
//! **When it is thrown away.** Another version, another log, more leaves than the log has, another root, a row
//! that is missing or damaged, a file that cannot be read, an error or a panic of the store: then `index/` is
//! moved to `index.bad-N` (the newest [`KEPT_BAD`] are kept, for whoever wants to know why) and it is made anew
//! from the log. No file of the log is ever changed.
//!
//! I-INDEX-1: what a query answers through the index is what reading the whole log answers, up to the leaves
//! that it says were not looked at.
//! I-INDEX-2: leaves with sheets <= durable end of the log.

pub mod feeder;
pub mod hashes;
mod look_up;
pub mod mark;
pub mod older;
mod query;
pub mod sheet;
mod store;

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_proof::{LeafIndex, TreeSize};

use crate::directory::{Inventory, LogDirectory};
use crate::disk::{Disk, DiskError, DiskLock, Locking, TEMPORARY};
use crate::environment::Environment;
use crate::error::LogError;
use crate::frame::Tail;
use crate::number::SegmentNumber;
use crate::reader::{LogReader, ReadRecord};
use crate::replay::each_record;
use crate::segment::LeafRange;

use hashes::Table;
use look_up::Sheets;
use mark::{Mark, Seen};
use sheet::{Row, Sheet};
use store::Store;

pub use look_up::{Identity, Known};
pub use query::{Filter, Places, Query, Unindexed, scan};
pub use sheet::SHEET_LEAVES;
pub use store::StoreFault;

/// How many indexes that were moved aside are kept.
pub const KEPT_BAD: u32 = 3;
/// Sheets that are written and flushed together.
const BATCH_SHEETS: u64 = 16;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// There is none.
    #[error("the log has no index")]
    Absent,
    /// Another process has it open.
    #[error("the index in {} is in use by process {holder}", path.display())]
    InUse {
        /// The index.
        path: PathBuf,
        /// What the holder left in the lock file.
        holder: String,
    },
    /// The lock of the index cannot be had, which is no matter of who holds it.
    #[error("cannot {operation} {}, the lock of the index: {source}{}", path.display(), lock_remedy(path, source))]
    Lock {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The lock.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The log itself cannot be read, or a file beside it not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The index cannot be used; where it was made anew, it failed again.
    #[error("the index cannot be used: {0}")]
    Store(#[from] StoreFault),
}

impl From<DiskError> for IndexError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

impl IndexError {
    fn lock(error: DiskError) -> Self {
        let DiskError { operation, path, source } = error;
        Self::Lock { operation, path, source }
    }

    /// Whether nothing is wrong with the index, but whoever runs this may not use it: it belongs to another
    /// user, or lies on a file system that cannot be written.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Lock { source, .. } => store::is_refused(source.kind()),
            Self::Store(fault) => matches!(fault, StoreFault::Refused(_)),
            Self::Absent | Self::InUse { .. } | Self::Log(_) => false,
        }
    }
}

/// What to do about a lock that cannot be had.
fn lock_remedy(path: &Path, error: &io::Error) -> &'static str {
    match std::fs::symlink_metadata(path) {
        Ok(status) if !status.is_file() => "; no file stands in its place: remove that",
        Ok(_) if error.kind() == io::ErrorKind::PermissionDenied => {
            "; where another user made it than owns the log, remove it or give it to the owner"
        }
        _ => "",
    }
}

/// How far the index got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexStatus {
    /// Leaves that have sheets.
    pub indexed: TreeSize,
    /// Leaves of the log that were durable when it was looked at.
    pub durable: TreeSize,
    /// Sealed segments.
    pub sealed: u64,
    /// Of these, how many have a hash table whose head and fences are good; no rows are read.
    pub tables: u64,
    /// Whether some process has the sheets open.
    pub in_use: bool,
    /// Why what is there cannot be used, as far as its mark and its lock tell.
    pub unusable: Option<StoreFault>,
    /// How many indexes that were moved aside lie there.
    pub moved_aside: u32,
}

/// Looks at the index of a log. Takes no lock and writes nothing, and opens no store: whether its rows are
/// good shows when they are used.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub fn status(environment: &Environment, path: &Path) -> Result<IndexStatus, LogError> {
    let (disk, directory) = (environment.disk.as_ref(), LogDirectory::new(path));
    // Before the log: the index may grow in between, the log too.
    let seen = Mark::look(disk, &directory);
    let reader = LogReader::open(environment, path)?;
    let (indexed, unusable) = match seen {
        Seen::Nothing if is_there(&directory.index()) => (TreeSize::new(0), Some(no_mark())),
        Seen::Nothing => (TreeSize::new(0), None),
        Seen::Bad(fault) => (TreeSize::new(0), Some(fault)),
        Seen::Mark(mark) => match mark.judge(&reader)? {
            Ok(()) => (mark.leaves, None),
            Err(why) => (TreeSize::new(0), Some(StoreFault::Unusable(why))),
        },
    };
    let (in_use, unusable) = match disk.is_locked(&directory.index_lock()) {
        Ok(in_use) => (in_use, unusable),
        // It says itself what to do.
        Err(error) => (false, Some(StoreFault::Refused(IndexError::lock(error).to_string()))),
    };
    let mut tables = 0;
    for segment in sealed(&reader) {
        tables += u64::from(Table::open(disk, &directory, segment).is_ok());
    }
    let kept = (1..=KEPT_BAD).filter(|number| is_there(&directory.bad_index(*number)));
    Ok(IndexStatus {
        indexed,
        durable: reader.size(),
        sealed: reader.inventory().sealed.get(),
        tables,
        in_use,
        unusable,
        moved_aside: u32::try_from(kept.count()).unwrap_or(u32::MAX),
    })
}

fn no_mark() -> StoreFault {
    StoreFault::Unusable("the index has no mark".to_owned())
}

fn no_store() -> StoreFault {
    StoreFault::Unusable("the store of the index is missing".to_owned())
}

/// Whether anything stands there; a link that leads nowhere does.
fn is_there(path: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn sealed(reader: &LogReader) -> impl Iterator<Item = SegmentNumber> + use<> {
    (0..reader.inventory().sealed.get()).map(SegmentNumber::new)
}

/// What is called as the index grows: leaves that have sheets, and leaves of the log. `Break` ends feeding; it
/// goes on there the next time.
pub type Progress<'p> = dyn FnMut(TreeSize, TreeSize) -> ControlFlow<()> + 'p;

/// Goes on, and tells nobody.
pub const fn quiet(_indexed: TreeSize, _durable: TreeSize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// What a query through the index came to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answered {
    /// Leaves that were asked for and not looked at: they are not yet indexed.
    pub not_looked_at: Option<LeafRange>,
    /// Why the index was of no further use, and the log was read instead.
    pub without: Option<String>,
}

/// The index, open to whoever only reads: it stays as it is. Hold it as briefly as can be: nobody else can
/// use it meanwhile. Whoever is slow to take the records asks [`IndexReader::look_up`], then
/// [`IndexReader::close`], and then reads.
pub struct IndexReader {
    reader: LogReader,
    sheets: Sheets,
    /// Given back last.
    lock: Box<dyn DiskLock>,
}

impl IndexReader {
    /// Opens the index of a log as far as it got. Nothing of it is made, fed or moved aside; but the lock is
    /// taken, and the store puts its own files in order, so that whoever opens it must be able to write there.
    ///
    /// # Errors
    /// [`IndexError`]: all but [`IndexError::Log`] say that the log is to be read without it.
    pub fn open(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let (disk, directory) = (environment.disk.as_ref(), LogDirectory::new(path));
        match Mark::look(disk, &directory) {
            Seen::Nothing if is_there(&directory.index()) => return Err(no_mark().into()),
            Seen::Nothing => return Err(IndexError::Absent),
            Seen::Bad(fault) => return Err(fault.into()),
            Seen::Mark(_) => {}
        }
        let lock = take_lock(disk, &directory)?;
        let reader = LogReader::open(environment, path)?;
        let Seen::Mark(mark) = Mark::look(disk, &directory) else { return Err(no_mark().into()) };
        mark.judge(&reader)?.map_err(StoreFault::Unusable)?;
        if !directory.index_store().exists() {
            return Err(no_store().into());
        }
        let sheets = Sheets { store: Store::open(&directory.index_store())?, mark };
        Ok(Self { reader, sheets, lock })
    }

    /// Looks up where the log may hold what a query asks for, and reads nothing of the log.
    pub fn look_up(&self, query: &Query) -> Places {
        let mut places = Places::begin(query);
        let sheets = if query.filter.has_hash() { 0 } else { self.sheets.mark.sheets() };
        for number in 0..sheets {
            match self.sheets.candidates(number, query) {
                Ok(ranges) => places.add(ranges, sheet::first_leaf(number + 1)),
                Err(fault) => return places.without(&fault),
            }
        }
        places
    }

    /// Gives the index back, and goes on with the log as the index sees it.
    pub fn close(self) -> LogReader {
        let Self { reader, sheets, lock } = self;
        drop(sheets);
        drop(lock);
        reader
    }

    /// Hands out what a query asks for, in the order of the log. Where the index fails on the way, the rest is
    /// read.
    ///
    /// # Errors
    /// As [`scan`].
    pub fn find<E: From<LogError>>(
        &self,
        query: &Query,
        unindexed: Unindexed,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<Answered, E> {
        self.look_up(query).read(&self.reader, unindexed, each)
    }
}

/// The index, open to whoever feeds it. No other process has it.
pub struct Index {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    reader: LogReader,
    /// `None` only while it is being made anew.
    sheets: Option<Sheets>,
    /// Where feeding goes on, and the sheet being made; `None` where that must be looked up.
    position: Option<(Tail, Sheet)>,
    moved_aside: Option<String>,
    /// How many of the first segments have a hash table that was looked at.
    seen_tables: u64,
    /// Given back last.
    _lock: Box<dyn DiskLock>,
}

impl Index {
    /// Opens the index of a log, empty where there is none or where what there is cannot be used.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let mut index = Self::lock(environment, path)?;
        index.load_or_start_anew()?;
        Ok(index)
    }

    /// Makes the index of a log anew, its hash tables too where they are not what was written.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn rebuild(environment: &Environment, path: &Path, progress: &mut Progress<'_>) -> Result<Self, IndexError> {
        let mut index = Self::lock(environment, path)?;
        remove(&index.directory.index())?;
        index.load_or_start_anew()?;
        index.catch_up(progress)?;
        index.mend_tables()?;
        Ok(index)
    }

    /// Takes the lock, and leaves what is there as it is.
    fn lock(environment: &Environment, path: &Path) -> Result<Self, IndexError> {
        let directory = LogDirectory::new(path);
        let lock = take_lock(environment.disk.as_ref(), &directory)?;
        // Opened behind the lock: the index cannot have got further than what this reader sees.
        let reader = LogReader::open(environment, path)?;
        let (disk, sheets, position) = (Arc::clone(&environment.disk), None, None);
        Ok(Self { disk, directory, reader, sheets, position, moved_aside: None, seen_tables: 0, _lock: lock })
    }

    fn load_or_start_anew(&mut self) -> Result<(), IndexError> {
        match self.load() {
            Err(IndexError::Store(fault)) => self.start_anew(&fault),
            loaded => loaded,
        }
    }

    /// Holds what is there against the log; begins where there is nothing.
    fn load(&mut self) -> Result<(), IndexError> {
        let (disk, directory) = (self.disk.as_ref(), &self.directory);
        let mark = match Mark::look(disk, directory) {
            Seen::Mark(mark) => mark,
            Seen::Bad(fault) => return Err(fault.into()),
            Seen::Nothing if is_there(&directory.index()) => {
                // A process that died at the start of this leaves an empty directory, or one with a mark that
                // does not have its name yet.
                let names = disk.list(&directory.index()).map_err(|_no_directory| no_mark())?;
                let unnamed = format!("mark{TEMPORARY}");
                return if names.iter().all(|name| *name == unnamed) { self.begin() } else { Err(no_mark().into()) };
            }
            Seen::Nothing => return self.begin(),
        };
        mark.judge(&self.reader)?.map_err(StoreFault::Unusable)?;
        if mark.leaves.get() > 0 && !directory.index_store().exists() {
            return Err(no_store().into());
        }
        self.sheets = Some(Sheets { store: Store::open(&directory.index_store())?, mark });
        Ok(())
    }

    /// Begins an empty index where there is none.
    fn begin(&mut self) -> Result<(), IndexError> {
        let mark = Mark::empty(self.reader.genesis().log_id);
        self.disk.create_directory(&self.directory.index())?;
        mark.save(self.disk.as_ref(), &self.directory)?;
        self.sheets = Some(Sheets { store: Store::open(&self.directory.index_store())?, mark });
        Ok(())
    }

    /// Moves the index aside and begins an empty one.
    fn start_anew(&mut self, fault: &StoreFault) -> Result<(), IndexError> {
        self.sheets = None;
        self.position = None;
        self.moved_aside = Some(fault.to_string());
        let (index, bad) = (self.directory.index(), |number| self.directory.bad_index(number));
        if (1..=KEPT_BAD).all(|number| is_there(&bad(number))) {
            remove(&bad(1))?;
            for number in 2..=KEPT_BAD {
                self.disk.rename(&bad(number), &bad(number - 1))?;
            }
        }
        let free = (1..KEPT_BAD).find(|number| !is_there(&bad(*number))).unwrap_or(KEPT_BAD);
        if is_there(&index) {
            self.disk.rename(&index, &bad(free))?;
        }
        self.begin()
    }

    /// Does something with the sheets; where that fails, once more with new ones that have caught up.
    fn with_sheets<T>(
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

    fn sheets(&self) -> Result<&Sheets, StoreFault> {
        self.sheets.as_ref().ok_or_else(closed)
    }

    /// Brings the index up to what is durable now, and makes the hash tables that are missing, or whose head
    /// or fences are damaged. It looks at each of them once: a call that finds nothing new opens none.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn catch_up(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        self.reader.advance()?;
        for segment in self.seen_tables..self.reader.inventory().sealed.get() {
            let segment = SegmentNumber::new(segment);
            if Table::open(self.disk.as_ref(), &self.directory, segment).is_err() {
                self.make_table(segment)?;
            }
            self.seen_tables = segment.get() + 1;
        }
        self.with_sheets(progress, Self::feed)
    }

    /// Reads all of the hash table of every sealed segment, and makes those anew that are missing or damaged.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn mend_tables(&self) -> Result<(), IndexError> {
        for segment in sealed(&self.reader) {
            let table = Table::open(self.disk.as_ref(), &self.directory, segment);
            if table.and_then(|table| table.check()).is_err() {
                self.make_table(segment)?;
            }
        }
        Ok(())
    }

    fn make_table(&self, segment: SegmentNumber) -> Result<(), IndexError> {
        let (start, tiles) = self.reader.sidecar(segment)?;
        let bytes = hashes::compute(self.disk.as_ref(), &self.directory, start, &tiles)?;
        Ok(hashes::put(self.disk.as_ref(), &self.directory, segment, &bytes)?)
    }

    /// Writes the sheets of what the reader sees.
    fn feed(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        let mark = self.sheets()?.mark;
        let (start, sheet) = match self.position.take() {
            Some(position) => position,
            None => (self.reader.tail_before(mark.leaves.next_leaf())?, Sheet::new(mark.sheets())),
        };
        let mut feeding = Feeding { log: mark.log, sheet, rows: Vec::new(), ended: None };
        let (disk, directory, reader) = (self.disk.as_ref(), &self.directory, &self.reader);
        let sheets = self.sheets.as_mut().ok_or_else(closed)?;
        let mut write = |feeding: &mut Feeding| -> Result<ControlFlow<()>, IndexError> {
            write_rows(disk, directory, reader, sheets, feeding)?;
            Ok(progress(sheets.mark.leaves, reader.size()))
        };
        let batch = BATCH_SHEETS * SHEET_LEAVES;
        let mut from = mark.leaves.get();
        let walked = reader.walk_from(start, &mut |_, placed, body| {
            each_record(placed, body, &mut |leaf, record| feeding.record(leaf, record))?;
            let done = sheet::first_leaf(feeding.sheet.number()).get();
            if done >= from + batch {
                from = done;
                feeding.ended = match write(&mut feeding) {
                    Ok(ControlFlow::Continue(())) => return Ok(()),
                    ended => Some(ended.map(drop)),
                };
                // Any error will do: it is not looked at.
                return Err(LogError::NoLog(PathBuf::new()));
            }
            Ok(())
        });
        if let Some(ended) = feeding.ended {
            return ended;
        }
        walked?;
        if !feeding.rows.is_empty() {
            let (ControlFlow::Continue(()) | ControlFlow::Break(())) = write(&mut feeding)?;
        }
        self.position = Some((self.reader.end().tail, feeding.sheet));
        Ok(())
    }

    /// Hands out what a query asks for, in the order of the log: by sheets, or by hash tables where a hash is
    /// asked for. Answers which leaves were not looked at.
    ///
    /// # Errors
    /// As [`scan`], and [`IndexError`].
    pub fn find<E: From<LogError> + From<IndexError>>(
        &mut self,
        query: &Query,
        unindexed: Unindexed,
        each: &mut dyn FnMut(ReadRecord) -> Result<(), E>,
    ) -> Result<Answered, E> {
        if query.filter.has_hash() {
            scan(&self.reader, query, each)?;
            return Ok(Answered::default());
        }
        let mut number = 0;
        while number < self.sheets().map_err(IndexError::from)?.mark.sheets() {
            let ranges = self.with_sheets(&mut quiet, |index, _| Ok(index.sheets()?.candidates(number, query)?))?;
            for range in ranges {
                query.read(&self.reader, range, each)?;
            }
            number += 1;
        }
        let not_looked_at = query.read_unindexed(&self.reader, sheet::first_leaf(number), unindexed, each)?;
        Ok(Answered { not_looked_at, without: None })
    }

    /// Looks for the record that has an identity. For intake, whose memory reaches back a bounded number of
    /// identities: what is older, and no longer remembered, has a sheet unless the index is behind.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn find_identity(&mut self, identity: &Identity<'_>) -> Result<Known, IndexError> {
        self.with_sheets(&mut quiet, |index, _| index.sheets()?.find_identity(&index.reader, identity))
    }

    /// Reads every row; one that is missing or damaged has the index made anew.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn check(&mut self, progress: &mut Progress<'_>) -> Result<(), IndexError> {
        for number in 0..self.sheets()?.mark.sheets() {
            self.with_sheets(progress, |index, _| Ok(index.sheets()?.check(number)?))?;
        }
        Ok(())
    }

    /// The log as the index sees it.
    pub const fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// Leaves that have sheets.
    pub fn indexed(&self) -> TreeSize {
        self.sheets.as_ref().map_or(TreeSize::new(0), |sheets| sheets.mark.leaves)
    }

    /// Why an index was moved aside since this one was opened, the last time that was so.
    pub fn moved_aside(&self) -> Option<&str> {
        self.moved_aside.as_deref()
    }
}

fn closed() -> StoreFault {
    StoreFault::Unusable("the store is closed".to_owned())
}

/// What feeding has made of the log and not written yet.
struct Feeding {
    log: crate::reserved::LogId,
    sheet: Sheet,
    rows: Vec<Row>,
    /// What ended it before the end of the log.
    ended: Option<Result<(), IndexError>>,
}

impl Feeding {
    fn record(&mut self, leaf: LeafIndex, record: &stele_proof::record::Record<'_>) {
        // The walk begins with the segment, not with the sheet.
        if leaf < self.sheet.next() {
            return;
        }
        assert!(leaf == self.sheet.next(), "record {leaf} follows {}", self.sheet.next());
        self.sheet.record(record);
        if self.sheet.is_full() {
            let next = Sheet::new(self.sheet.number() + 1);
            self.rows.extend(std::mem::replace(&mut self.sheet, next).rows(&self.log));
        }
    }
}

/// Writes the rows of full sheets, makes them durable, and only then says so in the mark.
fn write_rows(
    disk: &dyn Disk,
    directory: &LogDirectory,
    reader: &LogReader,
    sheets: &mut Sheets,
    feeding: &mut Feeding,
) -> Result<(), IndexError> {
    let leaves = TreeSize::new(sheet::first_leaf(feeding.sheet.number()).get());
    // I-INDEX-2.
    assert!(leaves <= reader.size(), "the index holds {leaves} records of {}", reader.size());
    let mark = Mark { leaves, root: reader.root_at(leaves)?, ..sheets.mark };
    sheets.store.put(&std::mem::take(&mut feeding.rows))?;
    mark.save(disk, directory)?;
    sheets.mark = mark;
    Ok(())
}

fn take_lock(disk: &dyn Disk, directory: &LogDirectory) -> Result<Box<dyn DiskLock>, IndexError> {
    // Nothing is left where there is no log.
    Inventory::take(disk, directory)?;
    match disk.lock(&directory.index_lock(), &std::process::id().to_string()).map_err(IndexError::lock)? {
        Locking::Taken(lock) => Ok(lock),
        Locking::HeldBy(holder) => Err(IndexError::InUse { path: directory.index(), holder }),
    }
}

/// Removes a directory of the store, which keeps its files without [`Disk`], or what stands in its place.
fn remove(path: &Path) -> Result<(), DiskError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(status) if status.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DiskError { operation: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
