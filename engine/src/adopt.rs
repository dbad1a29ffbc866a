//! Taking over sealed segments that other nodes gave: what a new node does before it follows the log.
//!
//! Nothing that came is believed before all of it was recomputed here. A file of a segment is
//!
//! 1. staged: written under its name with [`TEMPORARY`](crate::disk::TEMPORARY) behind it, by whoever fetches it;
//! 2. examined: headers, frames and their links, records, chains, payloads against their commitments, lengths, the
//!    digest and the tree, all from the staged bytes ([`Adoption::examine`]). What the tree is, the caller holds against
//!    signed checkpoints;
//! 3. held, until the seal record of its segment has come, which stands in a later one: digest, length, leaves, nodes,
//!    the state file's digest must be what was computed ([`Adoption::hold`]);
//! 4. installed: flushed, read-only, renamed, the directory flushed, payloads and derived files before the frames.
//!
//! [`Adoption::finish`] installs what is still held (the last ones, whose seal records the node will get with the
//! entries that follow; it compares them then) and writes what makes the directory a node's: fresh hard state, without
//! a vote, signing state, and the next segment file, whose ring says that everything before it is committed.
//!
//! | a stop, or a crash | leaves | the next [`Adoption::begin`] |
//! |---|---|---|
//! | before the mark `joining` | directories | begins |
//! | while files are staged or held | the mark, installed segments, temporary files | reads the installed ones again, drops the rest |
//! | inside an installation | payload or derived files without their frames | they are replaced |
//! | after the next segment file | the mark, and a whole log | removes the mark |
//!
//! The mark is the text `node N`, line feed, `cluster` and 64 hexadecimal digits, line feed: whose directory this is going
//! to be. While it is there the directory is no log.
//!
//! I-ADOPT-1: the name of a segment file stands for bytes that were examined as a whole.
//! I-ADOPT-2: behind a segment that is not installed none is.
//! I-ADOPT-3: what differs from its seal record is not installed.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_proof::tree::{self, CompactRange};
use stele_proof::{TreeSize, digest_tree::Digest};

use crate::birth::{Keys, MemberOptions, begin, finish, fresh_state, refresh_description};
use crate::chains::MAX_CHAINS;
use crate::directory::{Inventory, LogDirectory, relative, remove_temporaries};
use crate::disk::{Access, Disk, DiskError, DiskFile, DiskLock, Mode, read_small, replace};
use crate::environment::Environment;
use crate::error::LogError;
use crate::frame::Tail;
use crate::local::take_lock;
use crate::number::{Group, RaftIndex, SegmentNumber};
use crate::read_back::SegmentStart;
use crate::repair::stage::{View, install, remove, temporary};
use crate::reserved::{Genesis, SegmentSealed};
use crate::ring::Slot;
use crate::seal::low_water;
use crate::segment::{FRAMES_START, PayloadPart, SegmentFile};
use crate::state::{self, StateKeeper};

mod examine;

use examine::{Found, read_segment};

/// Longest mark that is read.
const MAX_MARK_BYTES: usize = 256;

/// Why a segment is not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// What was given is not the segment. Whatever was held was dropped where it has to be; see
    /// [`Adoption::next`].
    #[error("segment {segment} is not what the log has: {why}")]
    Refused {
        /// Which segment.
        segment: SegmentNumber,
        /// What is wrong with it.
        why: String,
    },
    /// The directory belongs to another join.
    #[error("{} was begun for another node or cluster ({found}); give each node its own data_dir", path.display())]
    Other {
        /// The log's directory.
        path: PathBuf,
        /// What its mark says.
        found: String,
    },
    /// The directory, or what was installed before.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<DiskError> for AdoptError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

/// For whom segments are taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMember {
    /// The node, and what is fixed in the log.
    pub options: MemberOptions,
    /// BLAKE3 of the body of the log's first frame: the id of the cluster.
    pub cluster: [u8; 32],
}

impl NewMember {
    fn mark(&self) -> String {
        let digits: String = self.cluster.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("node {}\ncluster {digits}\n", self.options.node)
    }
}

/// Whether segments were being taken over here, and it did not come to its end.
///
/// # Errors
/// [`DiskError`] of a failed call.
pub fn is_under_way(disk: &dyn Disk, directory: &LogDirectory) -> Result<bool, DiskError> {
    Ok(read_small(disk, &directory.joining(), MAX_MARK_BYTES)?.is_some())
}

/// What [`Adoption::begin`] found.
pub enum Begun {
    /// Segments can come.
    Open(Box<Adoption>),
    /// All was done before, and only the mark was left.
    Done,
}

/// A directory that takes segments over.
pub struct Adoption {
    environment: Environment,
    directory: LogDirectory,
    member: NewMember,
    /// Behind the last installed segment.
    installed: SegmentStart,
    /// Behind the last one that is held.
    ahead: SegmentStart,
    keeper: StateKeeper,
    /// What the seal records of installed segments must say that have not come; only where a finish was interrupted.
    unrecorded: VecDeque<SegmentSealed>,
    held: VecDeque<Held>,
    genesis: Option<Genesis>,
    _lock: Box<dyn DiskLock>,
}

/// A segment that was examined and is not installed.
struct Held {
    sealed: SegmentSealed,
    /// Its state file, where one is due.
    state: Option<Vec<u8>>,
    /// What follows it.
    behind: SegmentStart,
}

/// A segment that holds by itself.
pub struct Examined {
    found: Found,
    keeper: StateKeeper,
}

impl Examined {
    /// Which segment.
    pub const fn segment(&self) -> SegmentNumber {
        self.found.sealed.segment
    }

    /// Records up to its end.
    pub fn size(&self) -> TreeSize {
        self.found.behind.tree.size()
    }

    /// The root over them.
    pub fn root(&self) -> tree::Hash {
        self.found.behind.tree.root()
    }

    /// The genesis record, where it stands in this segment.
    pub const fn genesis(&self) -> Option<&Genesis> {
        self.found.genesis.as_ref()
    }

    /// BLAKE3 of its file of frames.
    pub const fn file_digest(&self) -> Digest {
        self.found.sealed.file_digest
    }
}

/// What the directory holds now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// How many segments were taken over.
    pub segments: u64,
    /// One past the last entry: what is applied when the log is opened.
    pub next_index: RaftIndex,
    /// Records.
    pub size: TreeSize,
}

impl Adoption {
    /// Makes the directory, whose keys may lie there already, or goes on with one that was begun.
    ///
    /// Installed segments are read again from their first byte.
    ///
    /// # Errors
    /// [`AdoptError`]; [`LogError::Exists`] where there is a log, [`LogError::Damaged`] where an installed segment has
    /// rotted since.
    pub fn begin(environment: &Environment, path: &Path, member: NewMember) -> Result<Begun, AdoptError> {
        let directory = LogDirectory::new(path);
        let disk = environment.disk.as_ref();
        let lock = match read_small(disk, &directory.joining(), MAX_MARK_BYTES)? {
            Some(found) if found == member.mark().as_bytes() => take_lock(disk, &directory)?,
            Some(found) => {
                let found = String::from_utf8_lossy(&found).trim_end().replace('\n', ", ");
                return Err(AdoptError::Other { path: path.to_owned(), found });
            }
            None => {
                remove(disk, &temporary(&directory.joining()))?;
                let lock = begin(disk, &directory, Keys::Given)?;
                replace(disk, &directory.joining(), member.mark().as_bytes(), Mode::Public)?;
                lock
            }
        };
        if is_finished(disk, &directory)? {
            drop_mark(disk, &directory)?;
            return Ok(Begun::Done);
        }
        remove_temporaries(disk, &directory)?;
        let start = SegmentStart {
            tail: Tail::start(member.options.frame_align, member.options.block_height),
            tree: CompactRange::new(),
        };
        let mut adoption = Self {
            environment: environment.clone(),
            directory,
            member,
            installed: start.clone(),
            ahead: start,
            keeper: StateKeeper::new(MAX_CHAINS),
            unrecorded: VecDeque::new(),
            held: VecDeque::new(),
            genesis: None,
            _lock: lock,
        };
        adoption.read_installed()?;
        adoption.installed = adoption.ahead.clone();
        Ok(Begun::Open(Box::new(adoption)))
    }

    /// The segment that is to be examined next: the first that is neither installed nor held.
    pub const fn next(&self) -> SegmentNumber {
        self.ahead.tail.segment
    }

    /// The first segment that is not installed.
    pub const fn installed(&self) -> SegmentNumber {
        self.installed.tail.segment
    }

    /// The genesis record, once its segment is held.
    pub const fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// Where the bytes of segments go.
    pub fn staging(&self) -> Staging {
        let height = self.member.options.block_height;
        Staging {
            disk: Arc::clone(&self.environment.disk),
            directory: self.directory.clone(),
            spare: low_water(height),
        }
    }

    /// Recomputes the staged files of the next segment, of which so many are payload parts. Changes nothing.
    ///
    /// # Errors
    /// [`AdoptError::Refused`].
    pub fn examine(&self, parts: u32) -> Result<Examined, AdoptError> {
        let segment = self.next();
        let mut view = View::new(self.environment.disk.as_ref());
        let parts: Vec<PayloadPart> = (0..parts).map(PayloadPart::new).collect();
        let payloads = parts.iter().map(|part| SegmentFile::Payloads(segment, *part));
        for file in payloads.chain([SegmentFile::Frames(segment)]) {
            let path = self.directory.segment_file(file);
            view.staged.insert(path.clone(), temporary(&path));
        }
        let mut keeper = self.keeper.heads_only();
        let read = read_segment(&view, &self.directory, &self.member, &self.ahead, &mut keeper, &parts);
        let found = read.map_err(|error| refused(segment, error))?;
        Ok(Examined { found, keeper })
    }

    /// Keeps an examined segment, whose tree the caller has held against signed checkpoints, and installs those whose
    /// seal record it brings; answers how many.
    ///
    /// # Errors
    /// [`AdoptError::Refused`] names an earlier segment that is not what its seal record says: then all that is
    /// held is dropped, and [`Adoption::next`] is the first of them; what is staged stays.
    ///
    /// # Panics
    /// Where it is not the next one.
    pub fn hold(&mut self, examined: Examined) -> Result<u64, AdoptError> {
        let Examined { found, keeper } = examined;
        assert_eq!(found.sealed.segment, self.next(), "I-ADOPT-2: segments are held in order");
        let Found { sealed, told, tiles, hashes, state, behind, genesis } = found;
        let recorded = self.recorded(&told)?;
        for (file, bytes) in
            [(SegmentFile::Tiles(sealed.segment), tiles), (SegmentFile::Hashes(sealed.segment), hashes)]
        {
            self.stage_derived(file, &bytes)?;
        }
        self.ahead = behind.clone();
        self.keeper = keeper;
        self.genesis = genesis.or_else(|| self.genesis.take());
        self.held.push_back(Held { sealed, state, behind });
        for _ in 0..recorded {
            self.install_next()?;
        }
        Ok(recorded)
    }

    /// Compares seal records, which stand in the order of segments, without a gap, with what was found; how many held
    /// segments they are of.
    fn recorded(&mut self, told: &[SegmentSealed]) -> Result<u64, AdoptError> {
        let mut recorded = 0;
        for told in told {
            let installed = self.unrecorded.pop_front();
            let held = || self.held.get(usize::try_from(recorded).unwrap_or(usize::MAX)).map(|held| &held.sealed);
            match installed.as_ref().or_else(held) {
                Some(found) if found == told => recorded += u64::from(installed.is_none()),
                Some(found) if installed.is_some() => return Err(differs(found, told).into()),
                Some(found) => {
                    let (segment, why) = (found.segment, differs(found, told).to_string());
                    self.drop_held()?;
                    return Err(AdoptError::Refused { segment, why });
                }
                // Of a segment that was compared before, or that is none: replication will tell.
                None => {}
            }
        }
        Ok(recorded)
    }

    /// Installs what is held, and makes the directory that of a node that has applied all of it.
    ///
    /// # Errors
    /// [`LogError`]; it can be begun again.
    pub fn finish(mut self) -> Result<Adopted, LogError> {
        while !self.held.is_empty() {
            self.install_next()?;
        }
        let disk = self.environment.disk.as_ref();
        remove_temporaries(disk, &self.directory)?;
        if let Some(genesis) = &self.genesis {
            refresh_description(disk, &self.directory, genesis)?;
            replace(disk, &self.directory.policy(), genesis.policy.as_bytes(), Mode::Public)?;
        }
        let (tail, options) = (self.installed.tail, &self.member.options);
        let slot = Slot {
            segment: tail.segment,
            group: Group::new(0).born(),
            start: FRAMES_START,
            end: FRAMES_START,
            committed: tail.next_index,
        };
        let inventory = Inventory::of_new_log(options.frame_align, options.block_height);
        finish(disk, &self.directory, fresh_state(options.node), &inventory, &slot)?;
        drop_mark(disk, &self.directory)?;
        let size = self.installed.tree.size();
        Ok(Adopted { segments: tail.segment.get(), next_index: tail.next_index, size })
    }

    /// Writes a derived file under its temporary name; it is installed with its segment.
    fn stage_derived(&self, file: SegmentFile, bytes: &[u8]) -> Result<(), DiskError> {
        let disk = self.environment.disk.as_ref();
        let path = temporary(&self.directory.segment_file(file));
        remove(disk, &path)?;
        let staged = disk.open(&path, Access::Create)?;
        staged.write_at(bytes, 0)?;
        staged.set_mode(Mode::Sealed)?;
        staged.sync()
    }

    /// Installs the first held segment, the file of its frames last.
    fn install_next(&mut self) -> Result<(), LogError> {
        let Some(Held { sealed, state, behind }) = self.held.pop_front() else { return Ok(()) };
        let (disk, segment) = (self.environment.disk.as_ref(), sealed.segment);
        if let Some(state) = state {
            state::store(disk, &self.directory, segment, &state)?;
        }
        for derived in [SegmentFile::Tiles(segment), SegmentFile::Hashes(segment)] {
            disk.rename(&temporary(&self.directory.segment_file(derived)), &self.directory.segment_file(derived))?;
        }
        let parts = (0..sealed.payload_parts).map(|part| SegmentFile::Payloads(segment, PayloadPart::new(part)));
        for file in parts.chain([SegmentFile::Frames(segment)]) {
            let path = self.directory.segment_file(file);
            let staged = disk.open(&temporary(&path), Access::Read)?;
            staged.set_mode(Mode::Sealed)?;
            staged.sync()?;
            if file == SegmentFile::Frames(segment) {
                // Whoever finds the frames finds everything else of the segment (I-ADOPT-1).
                disk.sync_directory(&self.directory.segments())?;
            }
            install(disk, &path)?;
        }
        self.installed = behind;
        Ok(())
    }

    /// Forgets what is held; what is installed is read again.
    fn drop_held(&mut self) -> Result<(), AdoptError> {
        self.held.clear();
        self.ahead = SegmentStart {
            tail: Tail::start(self.member.options.frame_align, self.member.options.block_height),
            tree: CompactRange::new(),
        };
        self.keeper = StateKeeper::new(MAX_CHAINS);
        self.genesis = None;
        Ok(self.read_installed()?)
    }

    /// Reads the installed segments, from the first on.
    fn read_installed(&mut self) -> Result<(), LogError> {
        let disk = self.environment.disk.as_ref();
        let names = disk.list(&self.directory.segments())?;
        let files: Vec<SegmentFile> = names.iter().filter_map(|name| SegmentFile::parse(name)).collect();
        self.unrecorded.clear();
        while files.contains(&SegmentFile::Frames(self.ahead.tail.segment)) {
            let segment = self.ahead.tail.segment;
            let part = |file: &SegmentFile| match file {
                SegmentFile::Payloads(of, part) if *of == segment => Some(*part),
                _ => None,
            };
            let parts: Vec<PayloadPart> = files.iter().filter_map(part).collect();
            let found = read_segment(disk, &self.directory, &self.member, &self.ahead, &mut self.keeper, &parts)?;
            for told in &found.told {
                if let Some(installed) = self.unrecorded.pop_front()
                    && installed != *told
                {
                    return Err(differs(&installed, told));
                }
            }
            self.genesis = found.genesis.or_else(|| self.genesis.take());
            self.ahead = found.behind;
            self.unrecorded.push_back(found.sealed);
        }
        Ok(())
    }
}

/// Damage of staged files is a refusal of what was given.
fn refused(segment: SegmentNumber, error: LogError) -> AdoptError {
    match error {
        LogError::Damaged(damage) => AdoptError::Refused { segment, why: damage.to_string() },
        error @ LogError::Version { .. } => AdoptError::Refused { segment, why: error.to_string() },
        error => AdoptError::Log(error),
    }
}

/// A segment that is not what its seal record says (I-ADOPT-3).
fn differs(found: &SegmentSealed, told: &SegmentSealed) -> LogError {
    let name = relative(SegmentFile::Frames(found.segment));
    let what = format!(
        "its seal record says {} of segment {}, and it is {}",
        told.file_digest, told.segment, found.file_digest
    );
    LogError::damaged(name, 0, None, what)
}

/// Whether the file that is made last is there.
fn is_finished(disk: &dyn Disk, directory: &LogDirectory) -> Result<bool, LogError> {
    match Inventory::take(disk, directory) {
        Ok(inventory) => {
            let name = SegmentFile::Frames(inventory.last);
            Ok(!disk.open(&directory.segment_file(name), Access::Read)?.status()?.read_only)
        }
        Err(LogError::Damaged(_) | LogError::NoLog(_) | LogError::Unfinished(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn drop_mark(disk: &dyn Disk, directory: &LogDirectory) -> Result<(), DiskError> {
    remove(disk, &directory.joining())?;
    disk.sync_directory(directory.path())
}

/// Where the bytes of segments go until they were examined.
#[derive(Clone)]
pub struct Staging {
    disk: Arc<dyn Disk>,
    directory: LogDirectory,
    spare: u64,
}

impl Staging {
    /// Refuses to begin what there is no room for.
    ///
    /// # Errors
    /// [`LogError::NoSpace`].
    pub fn keep_room(&self, bytes: u64) -> Result<(), LogError> {
        let free = self.disk.free_bytes(&self.directory.segments())?;
        let needed = bytes.saturating_add(self.spare);
        if free < needed {
            return Err(LogError::NoSpace { path: self.directory.path().to_owned(), free, needed });
        }
        Ok(())
    }

    /// The staged file, made where there is none: what came before a transfer was cut is still in it.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn open(&self, file: SegmentFile) -> Result<StagedFile, DiskError> {
        let path = temporary(&self.directory.segment_file(file));
        let file = match self.disk.open(&path, Access::Write) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => self.disk.open(&path, Access::Create)?,
            opened => opened?,
        };
        let len = file.status()?.len;
        Ok(StagedFile { file, len })
    }

    /// Drops the staged files of a segment.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn discard(&self, segment: SegmentNumber, parts: u32) -> Result<(), DiskError> {
        let payloads = (0..parts).map(|part| SegmentFile::Payloads(segment, PayloadPart::new(part)));
        payloads
            .chain([SegmentFile::Frames(segment)])
            .try_for_each(|file| remove(self.disk.as_ref(), &temporary(&self.directory.segment_file(file))))
    }
}

/// A file that is coming in.
pub struct StagedFile {
    file: Box<dyn DiskFile>,
    len: u64,
}

impl StagedFile {
    /// Bytes that have come.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has come.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes the bytes that follow.
    ///
    /// # Errors
    /// [`DiskError`] of the failed call.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}
