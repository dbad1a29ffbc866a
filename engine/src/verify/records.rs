//! What is asked of records beside their own form: chains, the log's own streams, genesis.

use stele_proof::LeafIndex;
use stele_proof::record::{Record, Salt, SelfHash};

use crate::chains::MAX_CHAINS;
use crate::number::{Alignment, BlockHeight};
use crate::read_back::SegmentReading;
use crate::reserved::{
    CHECKPOINT_PUBLISHED_KIND, CHECKPOINTS_STREAM, GENESIS_KIND, Genesis, LOG_STREAM, SEGMENT_SEALED_KIND,
    SEGMENTS_STREAM, SegmentSealed, WRITER,
};
use crate::state::StateKeeper;

/// Follows the records of a log.
pub(super) struct RecordAudit {
    alignment: Alignment,
    height: BlockHeight,
    keeper: StateKeeper,
    /// Whether records are missing before, so that a chain may begin anywhere.
    broken: bool,
    /// What genesis says, once it was seen.
    pub(super) genesis: Option<Genesis>,
    /// Bodies of seal records that have not been compared yet.
    pub(super) sealed: Vec<(LeafIndex, SegmentSealed)>,
}

impl RecordAudit {
    /// Before the first record of a log.
    pub(super) fn new(alignment: Alignment, height: BlockHeight) -> Self {
        let keeper = StateKeeper::new(MAX_CHAINS);
        Self { alignment, height, keeper, broken: false, genesis: None, sealed: Vec::new() }
    }

    /// How many chains were seen.
    pub(super) const fn chains(&self) -> u64 {
        self.keeper.chains.len() as u64
    }

    /// Goes on behind records that are missing.
    pub(super) fn skip(&mut self) {
        self.keeper = StateKeeper::new(MAX_CHAINS);
        self.broken = true;
    }

    /// Takes note that a segment has ended; answers its state file where one is due, and `None` where none
    /// is or that is not known, because records are missing before.
    pub(super) fn end_segment(&mut self, reading: &SegmentReading) -> Option<Vec<u8>> {
        if let Some(membership) = &reading.membership {
            self.keeper.membership.clone_from(membership);
        }
        let state = self.keeper.end_segment(reading.file_bytes, &reading.end, &reading.tree);
        state.filter(|_| !self.broken)
    }

    /// Whether records are missing before.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the next record, and its payload slot where payloads are read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn record(
        &mut self,
        leaf: LeafIndex,
        record: &Record<'_>,
        self_hash: SelfHash,
        slot: &[u8],
    ) -> Result<(), String> {
        if leaf.get() == 0 || record.is_reserved() {
            self.reserved(leaf, record, slot.get(Salt::LEN..).unwrap_or_default())?;
        }
        let chains = &mut self.keeper.chains;
        if self.broken && chains.head(record.stream().escaped(), record.writer_id().escaped()).is_none() {
            chains.restart(record, self_hash, leaf);
            return Ok(());
        }
        chains.advance(record, self_hash, leaf).map_err(|error| error.to_string())
    }

    fn reserved(&mut self, leaf: LeafIndex, record: &Record<'_>, body: &[u8]) -> Result<(), String> {
        let stream = record.stream().escaped();
        let is_genesis = stream == LOG_STREAM && record.kind() == GENESIS_KIND;
        if is_genesis != (leaf.get() == 0) {
            return Err("leaf 0, and no other, is the genesis record".to_owned());
        }
        if record.writer_id().escaped() != WRITER || !record.stream().is_reserved() {
            return Err(format!("only the writer {WRITER} writes the streams of the log itself, and no others"));
        }
        let kind = match stream {
            SEGMENTS_STREAM => SEGMENT_SEALED_KIND,
            CHECKPOINTS_STREAM => CHECKPOINT_PUBLISHED_KIND,
            LOG_STREAM => GENESIS_KIND,
            _ => return Ok(()),
        };
        if record.kind() != kind {
            return Err(format!("the stream {stream} holds {kind} records only"));
        }
        if body.is_empty() {
            return Ok(());
        }
        if is_genesis {
            return self.genesis(body);
        }
        if stream == SEGMENTS_STREAM {
            let sealed = SegmentSealed::decode(body).map_err(|error| format!("the seal record: {error}"))?;
            if sealed.segment.get() + 1 != record.seq() {
                return Err(format!("seal record {} is that of segment {}", record.seq(), sealed.segment));
            }
            self.sealed.push((leaf, sealed));
        }
        Ok(())
    }

    fn genesis(&mut self, body: &[u8]) -> Result<(), String> {
        let genesis = Genesis::decode(body).map_err(|error| format!("the genesis record: {error}"))?;
        if (genesis.frame_align, genesis.block_height) != (self.alignment, self.height) {
            return Err("the genesis record and the file headers disagree about alignment or block height".to_owned());
        }
        self.genesis = Some(genesis);
        Ok(())
    }
}
