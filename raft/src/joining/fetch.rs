//! One donor's task: it asks what the donor has, and fetches what nobody else does.

use std::sync::Arc;
use std::time::Duration;

use stele_engine::adopt::Staging;
use stele_engine::disk::DiskError;
use stele_engine::error::LogError;
use stele_engine::number::SegmentNumber;
use stele_engine::segment::{PayloadPart, SegmentFile};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;

use super::Donor;
use super::board::{Board, Claim};
use super::pace::Pace;
use crate::peer::client::{PeerError, Place};
use crate::peer::segments::{MAX_READ_BYTES, SealedSegment};

/// How long a donor rests that did not answer.
const REST: Duration = Duration::from_secs(1);
/// Most segments that a donor may say it has.
const MAX_SEGMENTS: usize = 1 << 22;

/// What fetching takes.
#[derive(Clone)]
pub(super) struct Fetching {
    pub(super) board: Arc<Board>,
    pub(super) staging: Staging,
    pub(super) pace: Arc<Pace>,
    pub(super) wait: Duration,
}

/// Why a segment did not come.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("its file {0} ends before it said it would")]
    Short(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Died(#[from] JoinError),
}

impl From<DiskError> for FetchError {
    fn from(error: DiskError) -> Self {
        Self::Log(error.into())
    }
}

impl Fetching {
    /// Fetches from one donor until there is nothing more to do.
    pub(super) async fn serve(&self, donor: &Donor) {
        let node = donor.node;
        let mut changes = self.board.changes();
        loop {
            changes.borrow_and_update();
            match self.board.claim(node) {
                Claim::List => match self.list(donor).await {
                    Ok(segments) => self.board.listed(node, segments),
                    Err(error) => {
                        tracing::warn!(%node, %error, "a node does not say which segments it has");
                        self.board.silent(node);
                        sleep(REST).await;
                    }
                },
                Claim::Fetch(segment, discard) => {
                    let number = segment.number;
                    match self.fetch(donor, segment, discard).await {
                        Ok(()) => self.board.fetched(number),
                        Err(FetchError::Peer(error)) => {
                            tracing::warn!(%node, segment = %number, %error, "a transfer was cut");
                            self.board.cut(number);
                            sleep(REST).await;
                        }
                        Err(error @ FetchError::Short(_)) => {
                            self.board.blame(node, &error.to_string());
                            self.board.cut(number);
                        }
                        Err(FetchError::Log(error)) => self.board.fail(error),
                        Err(FetchError::Died(error)) => std::panic::resume_unwind(error.into_panic()),
                    }
                }
                Claim::Wait => {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
                Claim::End => return,
            }
        }
    }

    /// What the donor has sealed.
    async fn list(&self, donor: &Donor) -> Result<Vec<SealedSegment>, PeerError> {
        let mut all: Vec<SealedSegment> = Vec::new();
        while all.len() < MAX_SEGMENTS {
            let from = all.last().map_or(SegmentNumber::new(0), |last| last.number.next());
            let more = donor.segments.list(from, self.wait).await?;
            if more.is_empty() {
                break;
            }
            all.extend(more);
        }
        Ok(all)
    }

    /// Fetches the files of a segment, each from where it ended before.
    async fn fetch(&self, donor: &Donor, segment: SealedSegment, discard: Option<u32>) -> Result<(), FetchError> {
        let staging = self.staging.clone();
        let (number, bytes) = (segment.number, segment.frames_bytes);
        let all = segment.payload_bytes.iter().fold(bytes, |sum, part| sum.saturating_add(*part));
        let prepare = move || -> Result<(), LogError> {
            if let Some(parts) = discard {
                staging.discard(number, parts)?;
            }
            staging.keep_room(all)
        };
        spawn_blocking(prepare).await??;
        let parts = (0..).map(|part| SegmentFile::Payloads(number, PayloadPart::new(part))).zip(segment.payload_bytes);
        for (file, len) in parts.chain([(SegmentFile::Frames(number), bytes)]) {
            self.fetch_file(donor, file, len).await?;
        }
        Ok(())
    }

    async fn fetch_file(&self, donor: &Donor, file: SegmentFile, len: u64) -> Result<(), FetchError> {
        let staging = self.staging.clone();
        let mut staged = spawn_blocking(move || staging.open(file)).await??;
        while staged.len() < len {
            let want = u32::try_from((len - staged.len()).min(MAX_READ_BYTES as u64)).unwrap_or(u32::MAX);
            self.pace.take(u64::from(want)).await;
            let place = Place { offset: staged.len(), len: want };
            let bytes = donor.segments.read(file, place, self.wait).await?;
            if bytes.is_empty() {
                return Err(FetchError::Short(file.name()));
            }
            staged = spawn_blocking(move || staged.append(&bytes).map(|()| staged)).await??;
        }
        Ok(())
    }
}
