//! The birth of a log: its directory, keys, policy, first segment, and the genesis record.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use stele_proof::UnixMillis;
use stele_proof::checkpoint::Origin;
use stele_proof::key::{KeyKind, KeyName, SigningKey, VerifierKey};
use stele_proof::policy::{Policy, PolicyBuilder, PolicyRuleError, Threshold};

use crate::directory::{Inventory, LogDirectory, relative};
use crate::disk::{Access, Disk, DiskError, DiskLock, Mode, read_small, replace};
use crate::environment::Environment;
use crate::error::LogError;
use crate::frame::{EntryKind, Tail};
use crate::hard_state::{HardState, HardStateFile, Vote, read_clean_mark};
use crate::local::{LOCAL_TERM, take_lock};
use crate::membership::{Membership, Node};
use crate::number::{Alignment, BlockHeight, Group, NodeId, RaftIndex, SegmentNumber, SiteName, Term};
use crate::recovery::create_segment;
use crate::recovery::examine::REMEDY;
use crate::replay::each_record;
use crate::reserved::{Genesis, LogId};
use crate::ring::{Slot, read_ring};
use crate::scan::{FrameScanner, Seen};
use crate::segment::{FORMAT_VERSION, FRAMES_START, SegmentFile};
use crate::signing_state::SigningStateFile;
use crate::store::read_entry_at;

/// Free space that making a log takes, with room to spare.
const BIRTH_BYTES: u64 = 1 << 20;

/// What the ring of a new log's first file says.
const FIRST_SLOT: Slot = Slot {
    segment: SegmentNumber::new(0),
    group: Group::new(0).born(),
    start: FRAMES_START,
    end: FRAMES_START,
    committed: RaftIndex::new(0),
};

/// What is fixed when a log is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateOptions {
    /// The name of the log, in every checkpoint.
    pub origin: Origin,
    /// The site of this node.
    pub site: SiteName,
    /// The number of this node.
    pub node: NodeId,
    /// Leaves of a block, for ever.
    pub block_height: BlockHeight,
    /// What frames are padded to, for ever.
    pub frame_align: Alignment,
}

impl CreateOptions {
    /// Site `local`, node 1, blocks of 65,536 leaves, frames on 4,096 bytes.
    ///
    /// # Panics
    /// Never: `local` is a site name.
    pub fn new(origin: Origin) -> Self {
        let site = SiteName::new("local").expect("`local` is a site name");
        Self { origin, site, node: NodeId::new(1), block_height: BlockHeight::DEFAULT, frame_align: Alignment::PAGE }
    }
}

/// What the first entries say.
pub(crate) struct Newborn {
    pub(crate) genesis: Genesis,
    pub(crate) membership: Membership,
}

/// What is fixed when a node of a cluster gets its directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberOptions {
    /// The number of this node.
    pub node: NodeId,
    /// Leaves of a block, for ever.
    pub block_height: BlockHeight,
    /// What frames are padded to, for ever.
    pub frame_align: Alignment,
}

/// Makes the directory of a node whose log is empty, and gets its entries from consensus. Its keys, which the others
/// know from the first entry on, lie there already; description and policy follow with the genesis record.
///
/// # Errors
/// [`LogError::Exists`], [`LogError::Unfinished`], [`LogError::NoSpace`], [`LogError::Disk`].
pub fn create_member(environment: &Environment, path: &Path, options: &MemberOptions) -> Result<(), LogError> {
    let directory = LogDirectory::new(path);
    let disk = environment.disk.as_ref();
    let _lock = begin(disk, &directory, Keys::Given)?;
    let inventory = Inventory::of_new_log(options.frame_align, options.block_height);
    finish(disk, &directory, fresh_state(options.node), &inventory, &FIRST_SLOT)
}

/// The hard state of a node that has never voted.
pub(crate) const fn fresh_state(node: NodeId) -> HardState {
    let vote = Vote { term: Term::new(0), node: NodeId::new(0), committed: false };
    HardState { vote, node, starts: 0, incarnation: 0, stale: false, clean: None, doubt: None, peers: Vec::new() }
}

/// Whether a log is made together with its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    Made,
    Given,
}

/// Makes the directories, where nothing lies there yet, and takes the lock.
pub(crate) fn begin(disk: &dyn Disk, directory: &LogDirectory, keys: Keys) -> Result<Box<dyn DiskLock>, LogError> {
    if !is_vacant(disk, directory, keys)? {
        return Err(occupied(disk, directory)?);
    }
    keep_room(disk, directory)?;
    make_directories(disk, directory)?;
    let lock = take_lock(disk, directory)?;
    // Whoever had the lock before may have made a log.
    if is_vacant(disk, directory, keys)? { Ok(lock) } else { Err(LogError::Exists(directory.path().to_owned())) }
}

/// Writes what holds a node's state, and the first segment file that will be written, which is born with this slot:
/// without it there is no log.
pub(crate) fn finish(
    disk: &dyn Disk,
    directory: &LogDirectory,
    state: HardState,
    log: &Inventory,
    slot: &Slot,
) -> Result<(), LogError> {
    SigningStateFile::create(disk, &directory.signing_state())?;
    HardStateFile::create(disk, &directory.hard_state(), state)?;
    create_segment(disk, directory, log, slot)
}

/// Makes everything but the first entries. The segment file comes last: without it there is no log.
pub(crate) fn create(
    environment: &Environment,
    directory: &LogDirectory,
    options: &CreateOptions,
) -> Result<(Box<dyn DiskLock>, Newborn), LogError> {
    let disk = environment.disk.as_ref();
    let lock = begin(disk, directory, Keys::Made)?;
    let cosigner_name = format!("{}/site/{}/{}", options.origin.as_str(), options.site, options.node);
    let cosigner_name = KeyName::new(&cosigner_name).map_err(|error| unusable("origin", error))?;
    let key = |name: &KeyName, kind, path: std::path::PathBuf| -> Result<SigningKey, LogError> {
        let seed = environment.random().map_err(LogError::Entropy)?;
        let key = SigningKey::from_seed(name.clone(), kind, seed);
        replace(disk, &path, format!("{}\n", key.to_private_text()).as_bytes(), Mode::Private)?;
        Ok(key)
    };
    let log_key = key(options.origin.key_name(), KeyKind::Ed25519, directory.log_key())?;
    let cosigner = key(&cosigner_name, KeyKind::CosignatureEd25519, directory.cosigner_key())?;
    let policy = policy(options, &log_key, &cosigner).map_err(|error| unusable("policy", error))?.to_string();
    replace(disk, &directory.policy(), policy.as_bytes(), Mode::Public)?;

    let log_id: [u8; 32] = environment.random().map_err(LogError::Entropy)?;
    let vkey = |key: &SigningKey| key.verifier_key().to_string();
    let genesis = Genesis {
        format: FORMAT_VERSION,
        origin: options.origin.as_str().to_owned(),
        log_id: LogId::new(log_id),
        block_height: options.block_height,
        frame_align: options.frame_align,
        log_keys: vec![vkey(&log_key)],
        policy,
    };
    genesis.check().map_err(|error| unusable("genesis", error))?;
    refresh_description(disk, directory, &genesis)?;
    let vote = Vote { term: LOCAL_TERM, node: options.node, committed: true };
    let state = HardState {
        vote,
        node: options.node,
        starts: 0,
        incarnation: 0,
        stale: false,
        clean: None,
        doubt: None,
        peers: Vec::new(),
    };
    finish(disk, directory, state, &Inventory::of_new_log(options.frame_align, options.block_height), &FIRST_SLOT)?;
    let node = Node {
        id: options.node,
        site: options.site.clone(),
        addresses: Vec::new(),
        keys: vec![vkey(&log_key), vkey(&cosigner)],
    };
    let membership = Membership { token: log_id, voters: vec![[options.node].into()], nodes: vec![node] };
    Ok((lock, Newborn { genesis, membership }))
}

/// Whether nothing lies there but what [`make_directories`] and the lock leave.
fn is_vacant(disk: &dyn Disk, directory: &LogDirectory, keys: Keys) -> Result<bool, DiskError> {
    let list = |path: &Path| match disk.list(path) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    };
    let ours = [directory.segments(), directory.keys(), directory.lock()];
    let names = list(directory.path())?;
    if names.iter().any(|name| !ours.contains(&directory.path().join(name))) {
        return Ok(false);
    }
    let no_keys = keys == Keys::Given || list(&directory.keys())?.is_empty();
    Ok(no_keys && list(&directory.segments())?.is_empty())
}

/// Why no log can be made in a directory that is not vacant.
fn occupied(disk: &dyn Disk, directory: &LogDirectory) -> Result<LogError, LogError> {
    if disk.is_locked(&directory.lock())? {
        take_lock(disk, directory)?;
    }
    match read_genesis(disk, directory) {
        Err(unfinished @ LogError::Unfinished(_)) => Ok(unfinished),
        _ => Ok(LogError::Exists(directory.path().to_owned())),
    }
}

/// Refuses to begin what could not be finished, while nothing lies there yet.
fn keep_room(disk: &dyn Disk, directory: &LogDirectory) -> Result<(), LogError> {
    for path in directory.path().ancestors() {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match disk.free_bytes(path) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(free) if free < BIRTH_BYTES => {
                return Err(LogError::NoSpace { path: directory.path().to_owned(), free, needed: BIRTH_BYTES });
            }
            Ok(_) => break,
        }
    }
    Ok(())
}

/// Makes the directories and flushes each one outside the log that got a new name.
fn make_directories(disk: &dyn Disk, directory: &LogDirectory) -> Result<(), DiskError> {
    let mut changed = Vec::new();
    for path in directory.path().ancestors() {
        let Some(parent) = path.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        changed.push(parent);
        match disk.list(parent) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    disk.create_directory(&directory.segments())?;
    disk.create_directory(&directory.keys())?;
    changed.into_iter().try_for_each(|parent| disk.sync_directory(parent))
}

fn unusable(what: &str, error: impl ToString) -> LogError {
    LogError::File { file: what.to_owned(), why: error.to_string() }
}

/// One site, whose one node must cosign.
fn policy(options: &CreateOptions, log: &SigningKey, cosigner: &SigningKey) -> Result<Policy, PolicyRuleError> {
    let witness = format!("n{}", options.node);
    let site = format!("site-{}", options.site);
    let mut builder = PolicyBuilder::default();
    builder.log(log.verifier_key().clone(), None)?;
    builder.witness(&witness, cosigner.verifier_key().clone(), None)?;
    builder.group(&site, Threshold::Any, &[&witness])?;
    builder.group("sites", Threshold::All, &[&site])?;
    builder.quorum("sites")?;
    builder.finish()
}

/// A node as a policy knows it.
#[derive(Clone, Debug)]
pub struct PolicyNode<'a> {
    /// Its number.
    pub id: NodeId,
    /// Its site.
    pub site: &'a SiteName,
    /// What it signs checkpoints with, as the log.
    pub log_key: &'a VerifierKey,
    /// What it cosigns them with.
    pub cosigner: &'a VerifierKey,
}

/// The policy of a cluster: a majority of its sites must cosign, at each any of its nodes.
///
/// # Errors
/// [`PolicyRuleError`] where two nodes share a number or a key, or there is none.
pub fn cluster_policy(nodes: &[PolicyNode<'_>]) -> Result<Policy, PolicyRuleError> {
    let mut builder = PolicyBuilder::default();
    let mut sites: BTreeMap<&SiteName, Vec<String>> = BTreeMap::new();
    for node in nodes {
        builder.log(node.log_key.clone(), None)?;
        let witness = format!("n{}", node.id);
        builder.witness(&witness, node.cosigner.clone(), None)?;
        sites.entry(node.site).or_default().push(witness);
    }
    let mut groups = Vec::new();
    for (site, witnesses) in &sites {
        let group = format!("site-{site}");
        let witnesses: Vec<&str> = witnesses.iter().map(String::as_str).collect();
        builder.group(&group, Threshold::Any, &witnesses)?;
        groups.push(group);
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let majority = match groups.len() {
        0 | 1 => Threshold::All,
        sites => Threshold::AtLeast(sites / 2 + 1),
    };
    builder.group("sites", majority, &groups)?;
    builder.quorum("sites")?;
    builder.finish()
}

/// Writes `log.toml` where it is missing or does not say what genesis says.
pub(crate) fn refresh_description(
    disk: &dyn Disk,
    directory: &LogDirectory,
    genesis: &Genesis,
) -> Result<(), LogError> {
    let text = description(genesis);
    let path = directory.description();
    if read_small(disk, &path, text.len())?.as_deref() != Some(text.as_bytes()) {
        replace(disk, &path, text.as_bytes(), Mode::Public)?;
    }
    Ok(())
}

/// The content of `log.toml`.
pub fn description(genesis: &Genesis) -> String {
    // Origins hold no control characters; quotes and backslashes are escaped alike in JSON and TOML.
    let origin = serde_json::Value::String(genesis.origin.clone());
    format!(
        "# A copy of what the genesis record says. Changing it changes nothing.\n\
         format = {}\norigin = {origin}\nlog_id = \"{}\"\nblock_height = {}\nframe_align = {}\n",
        genesis.format,
        genesis.log_id,
        genesis.block_height.get(),
        genesis.frame_align.get()
    )
}

/// Reads the body of the genesis record, leaf 0, and when it was made.
///
/// # Errors
/// [`LogError::Damaged`]; [`LogError::Unfinished`] where the making of the log was interrupted before it.
pub fn read_genesis(disk: &dyn Disk, directory: &LogDirectory) -> Result<Genesis, LogError> {
    read_genesis_record(disk, directory).map(|(genesis, _)| genesis)
}

fn read_genesis_record(disk: &dyn Disk, directory: &LogDirectory) -> Result<(Genesis, UnixMillis), LogError> {
    let inventory = Inventory::take(disk, directory)?;
    let name = SegmentFile::Frames(SegmentNumber::new(0));
    let file = disk.open(&directory.segment_file(name), Access::Read)?;
    let mut scanner = FrameScanner::new(file.as_ref());
    let mut tail = Tail::start(inventory.alignment, inventory.height);
    // Whether something behind the tail was flushed once, so that what is not there is lost. A ring without a
    // slot has rotted (I-RING-3), and proves nothing of a log that was never finished.
    let is_durable = |tail: &Tail| -> Result<bool, LogError> {
        let (slots, _) = read_ring(file.as_ref(), tail.segment)?;
        let closed = read_clean_mark(disk, &directory.hard_state())?.is_some();
        let flushed = slots.is_empty() || slots.iter().any(|slot| slot.start > tail.offset);
        Ok(inventory.last > tail.segment || closed || flushed)
    };
    loop {
        let placed = match scanner.at(&tail)? {
            Seen::Nothing | Seen::Bad(_) if !is_durable(&tail)? => {
                return Err(LogError::Unfinished(directory.path().to_owned()));
            }
            Seen::Nothing => {
                let what = format!("a frame is missing; {REMEDY}");
                return Err(LogError::damaged(relative(name), tail.offset.get(), None, what));
            }
            Seen::Bad(fault) => {
                return Err(LogError::damaged(relative(name), tail.offset.get(), None, format!("{fault}; {REMEDY}")));
            }
            Seen::Frame(placed, body) if placed.header.kind == EntryKind::Batch => {
                let mut made = UnixMillis::default();
                each_record(&placed, body, &mut |leaf, record| {
                    if leaf.get() == 0 {
                        made = record.ts_ms();
                    }
                })?;
                let entry = read_entry_at(disk, directory, placed.segment, placed.offset)?;
                let body = entry.payload.get(stele_proof::record::Salt::LEN..).unwrap_or_default();
                let genesis = Genesis::decode(body).map_err(|error| {
                    LogError::damaged(relative(name), tail.offset.get(), None, format!("the genesis record: {error}"))
                })?;
                return Ok((genesis, made));
            }
            Seen::Frame(placed, _) => placed,
        };
        tail.advance(&placed);
    }
}
