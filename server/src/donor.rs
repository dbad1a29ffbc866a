//! What this node gives to one that joins: its sealed segments, and checkpoints that vouch for them.

use bytes::Bytes;
use stele_engine::number::SegmentNumber;
use stele_engine::segment::SegmentFile;
use stele_proof::TreeSize;
use stele_raft::peer::segments::{SealedFiles, SealedSegment, SegmentSource, SourceError, Vouched};
use tokio::runtime::Handle;

use crate::service::LogService;

/// The sealed segments of the log that is served here.
pub(crate) struct ServedSegments {
    files: SealedFiles,
    log: LogService,
    runtime: Handle,
}

impl ServedSegments {
    /// To be made on the runtime that serves.
    pub(crate) fn new(files: SealedFiles, log: LogService) -> Self {
        Self { files, log, runtime: Handle::current() }
    }
}

impl SegmentSource for ServedSegments {
    fn list(&self, from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError> {
        self.files.list(from)
    }

    fn read(&self, file: SegmentFile, offset: u64, len: usize) -> Result<Bytes, SourceError> {
        self.files.read(file, offset, len)
    }

    fn vouch(&self, size: TreeSize) -> Result<Vouched, SourceError> {
        // Called on threads that may block.
        self.runtime.block_on(async {
            let signed = self.log.checkpoint_of(size.get()).await.map_err(|status| {
                tracing::debug!(%size, why = status.message(), "nothing was signed for a node that joins");
                SourceError::NoCheckpoint
            })?;
            let whole = signed.size;
            let proof = self.log.0.readers.run(whole, move |reader| reader.prove_consistency(size, whole)).await;
            let proof = proof.map_err(|trouble| {
                tracing::warn!(%trouble, %size, "a checkpoint cannot be proved to a node that joins");
                SourceError::NoCheckpoint
            })?;
            Ok(Vouched { note: Bytes::copy_from_slice(signed.note.as_bytes()), proof })
        })
    }
}
