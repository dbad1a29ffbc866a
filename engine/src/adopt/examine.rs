//! Everything that can be said of a segment that was given, from its bytes and what came before them.

use stele_proof::LeafIndex;
use stele_proof::digest_tree::Digest;
use stele_proof::key::VerifierKey;
use stele_proof::record::{Record, Salt};

use super::NewMember;
use crate::birth::{PolicyNode, cluster_policy};
use crate::directory::{Inventory, LogDirectory, read_file_header, relative};
use crate::disk::{Access, Disk};
use crate::error::LogError;
use crate::index::hashes::TableBuilder;
use crate::membership::Membership;
use crate::number::SegmentNumber;
use crate::read_back::{Depth, SegmentStart, read_back};
use crate::reserved::{self, Genesis, SegmentSealed};
use crate::seal::{describe_as, digest_of};
use crate::segment::{FRAMES_START, PayloadPart, SegmentFile};
use crate::state::StateKeeper;
use crate::store::read_entry_at;
use crate::verify::files::{check_headers, check_sealed};

/// What a segment is.
pub(super) struct Found {
    /// What its seal record must say.
    pub(super) sealed: SegmentSealed,
    /// The seal records that stand in it.
    pub(super) told: Vec<SegmentSealed>,
    /// The genesis record, in the first segment.
    pub(super) genesis: Option<Genesis>,
    /// Its tile sidecar.
    pub(super) tiles: Vec<u8>,
    /// Its hash table.
    pub(super) hashes: Vec<u8>,
    /// Its state file, where one is due.
    pub(super) state: Option<Vec<u8>>,
    /// What follows it.
    pub(super) behind: SegmentStart,
}

/// Recomputes a segment whose files are there to be read, with these payload parts; `keeper` follows to its end.
///
/// # Errors
/// [`LogError::Damaged`] where it is not a sealed segment of this log that follows `start`.
pub(super) fn read_segment(
    disk: &dyn Disk,
    directory: &LogDirectory,
    member: &NewMember,
    start: &SegmentStart,
    keeper: &mut StateKeeper,
    parts: &[PayloadPart],
) -> Result<Found, LogError> {
    let segment = start.tail.segment;
    let name = SegmentFile::Frames(segment);
    check_settings(disk, directory, member, segment)?;
    if segment == SegmentNumber::new(0) {
        check_cluster(disk, directory, member)?;
    }
    let (mut told, mut genesis, mut hashes) = (Vec::new(), None, TableBuilder::default());
    let chains = &mut keeper.chains;
    let reading = read_back(disk, directory, start, None, Depth::Everything, &mut |leaf, record, self_hash, slot| {
        hashes.record(leaf, record, self_hash);
        chains.advance(record, self_hash, leaf).map_err(|error| error.to_string())?;
        match own_record(leaf, record, slot)? {
            Some(OwnRecord::Genesis(found)) => genesis = Some(found),
            Some(OwnRecord::Sealed(found)) => told.push(found),
            None => {}
        }
        Ok(())
    })?;
    let options = &member.options;
    let named = parts.iter().map(|part| (segment, *part)).collect();
    let header = Inventory::of_new_log(options.frame_align, options.block_height).header(segment, None);
    let inventory = Inventory::of_findings(&header, segment, segment, named);
    let damaged = check_headers(disk, directory, &inventory, &reading)?;
    if let Some(damage) = damaged.or(check_sealed(disk, directory, &inventory, &reading)?) {
        return Err(LogError::Damaged(damage));
    }
    if let Some(genesis) = &genesis
        && (genesis.block_height, genesis.frame_align) != (options.block_height, options.frame_align)
    {
        let what = "the genesis record has another block height or frame alignment than the files";
        return Err(LogError::damaged(relative(name), 0, None, what));
    }
    if let Some(genesis) = &genesis {
        check_policy(disk, directory, genesis)?;
    }
    let digest = digest_of(disk.open(&directory.segment_file(name), Access::Read)?.as_ref())?;
    let mut sealed = describe_as(&reading, digest)?;
    if let Some(membership) = reading.membership {
        keeper.membership = membership;
    }
    let state = keeper.end_segment(reading.file_bytes, &reading.end, &reading.tree);
    sealed.state_digest = state.as_deref().map(Digest::of);
    let hashes = hashes.finish(segment, reading.leaves, &reading.tiles);
    let behind = SegmentStart { tail: reading.end, tree: reading.tree };
    Ok(Found { sealed, told, genesis, tiles: reading.tiles, hashes, state, behind })
}

/// A record of the log itself that matters here.
enum OwnRecord {
    Genesis(Genesis),
    Sealed(SegmentSealed),
}

fn own_record(leaf: LeafIndex, record: &Record<'_>, slot: &[u8]) -> Result<Option<OwnRecord>, String> {
    if record.writer_id().escaped() != reserved::WRITER {
        return Ok(None);
    }
    let body = slot.get(Salt::LEN..).unwrap_or_default();
    if leaf.get() == 0 {
        return Genesis::decode(body)
            .map(|genesis| Some(OwnRecord::Genesis(genesis)))
            .map_err(|error| error.to_string());
    }
    if record.stream().escaped() == reserved::SEGMENTS_STREAM {
        return SegmentSealed::decode(body)
            .map(|told| Some(OwnRecord::Sealed(told)))
            .map_err(|error| error.to_string());
    }
    Ok(None)
}

/// Whether the file has the geometry that this node was told.
fn check_settings(
    disk: &dyn Disk,
    directory: &LogDirectory,
    member: &NewMember,
    segment: SegmentNumber,
) -> Result<(), LogError> {
    let name = SegmentFile::Frames(segment);
    let header = read_file_header(disk.open(&directory.segment_file(name), Access::Read)?.as_ref(), name)?;
    let options = &member.options;
    if (header.height, header.alignment) == (options.block_height, options.frame_align) {
        return Ok(());
    }
    let what = format!(
        "it has blocks of 2^{} leaves and frames on {} bytes, and this node was told 2^{} (log.block_height) and {} \
         (log.frame_align)",
        header.height.get(),
        header.alignment.get(),
        options.block_height.get(),
        options.frame_align.get()
    );
    Err(LogError::damaged(relative(name), 0, None, what))
}

/// Whether the genesis record names the policy that follows from the nodes of the first entry, which the cluster id
/// vouches for. Nodes that were born without keys have none to compare with.
fn check_policy(disk: &dyn Disk, directory: &LogDirectory, genesis: &Genesis) -> Result<(), LogError> {
    let first = read_entry_at(disk, directory, SegmentNumber::new(0), FRAMES_START)?;
    let damaged = |what: &str| {
        let name = relative(SegmentFile::Frames(SegmentNumber::new(0)));
        LogError::damaged(name, FRAMES_START.get(), Some(LeafIndex::new(0)), what)
    };
    let first = Membership::decode(&first.body).map_err(|error| damaged(&error.to_string()))?;
    let mut keys = Vec::new();
    for node in &first.nodes {
        match node.keys.as_slice() {
            [] => {}
            [log, cosigner, ..] => {
                let parse = |text: &str| VerifierKey::parse(text).map_err(|error| damaged(&error.to_string()));
                keys.push((node, parse(log)?, parse(cosigner)?));
            }
            [_] => return Err(damaged("a node of the first entry has one key, and needs two")),
        }
    }
    if keys.len() < first.nodes.len() {
        return Ok(());
    }
    let nodes: Vec<PolicyNode<'_>> = keys
        .iter()
        .map(|(node, log_key, cosigner)| PolicyNode { id: node.id, site: &node.site, log_key, cosigner })
        .collect();
    let policy = cluster_policy(&nodes).map_err(|error| damaged(&error.to_string()))?;
    if policy.to_string() == genesis.policy {
        return Ok(());
    }
    Err(damaged("the policy of the genesis record is not that of the nodes that the log began with"))
}

/// Whether the log begins with the entry that the cluster is named after.
fn check_cluster(disk: &dyn Disk, directory: &LogDirectory, member: &NewMember) -> Result<(), LogError> {
    let first = read_entry_at(disk, directory, SegmentNumber::new(0), FRAMES_START)?;
    if blake3::hash(&first.body).as_bytes() == &member.cluster {
        return Ok(());
    }
    let name = relative(SegmentFile::Frames(SegmentNumber::new(0)));
    Err(LogError::damaged(name, FRAMES_START.get(), None, "the first entry is that of another cluster"))
}
