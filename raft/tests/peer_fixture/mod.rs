//! What the tests of the peer network share: certificates, a cluster id, a state machine in memory.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use stele_engine::batch::BatchBuilder;
use stele_engine::frame::EntryKind;
use stele_engine::number::{NodeId, RaftIndex, SegmentNumber, Term};
use stele_engine::segment::SegmentFile;
use stele_proof::LeafIndex;
use stele_proof::record::Salt;
use stele_raft::entry::{CommittedLeader, LogId, Outcome, Peer, Proposal, StoredMembership, TypeConfig};
use stele_raft::peer::segments::{SealedSegment, SegmentSource, SourceError};
use stele_raft::peer::transport::{PeerTls, TlsFiles, node_name};
use stele_raft::peer::{ClusterId, Local, Own};
use stele_raft::standing::{Marks, Phase, Shown, Standing};

pub(crate) const CLUSTER: ClusterId = ClusterId::new([7; 32]);
/// Longer than anything takes that goes well.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn local(node: u64) -> Local {
    Local { cluster: CLUSTER, node: NodeId::new(node) }
}

/// A running node that remembers nobody, in its third incarnation; it shows more than a test makes it acknowledge.
pub(crate) fn own(local: Local) -> Own {
    let (vote_term, end) = (Term::new(1 << 40), RaftIndex::new(0));
    let shown = Shown { phase: Phase::Running, incarnation: 3, vote_term, end };
    Own { local, standing: Standing::new(shown, Marks::default()) }
}

pub(crate) fn peer(address: impl ToString) -> Peer {
    Peer { addresses: vec![address.to_string()], ..Peer::default() }
}

/// Somebody who vouches for nodes.
pub(crate) struct Authority {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// What a node needs, in files.
    pub(crate) fn files(&self, node: u64, directory: &Path) -> TlsFiles {
        let mut params = CertificateParams::new(vec![node_name(NodeId::new(node))]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = directory.join(format!("{node}.{name}"));
            std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
            path
        };
        TlsFiles {
            chain: write("chain", certificate.pem()),
            key: write("key", key.serialize_pem()),
            roots: write("roots", self.root.clone()),
        }
    }

    pub(crate) fn tls(&self, node: u64) -> PeerTls {
        let directory = tempfile::tempdir().unwrap();
        PeerTls::from_files(NodeId::new(node), &self.files(node, directory.path())).unwrap()
    }
}

/// A batch of records of this size; the store looks at its structure only.
pub(crate) fn batch(term: u64, records: usize, bytes: usize) -> Proposal {
    let mut builder = BatchBuilder::default();
    for _ in 0..records {
        let start = builder.buffer().len();
        builder.buffer().resize(start + bytes, b'r');
        builder.push(start, Some((&Salt::ZERO, &[b'p'; 100])));
    }
    let (body, payload) = builder.cut(Term::new(term), LeafIndex::new(0));
    Proposal { kind: EntryKind::Batch, body, payload }
}

/// Nothing is sealed here.
pub(crate) struct NoSegments;

impl SegmentSource for NoSegments {
    fn list(&self, _from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError> {
        Ok(Vec::new())
    }

    fn read(&self, _file: SegmentFile, _offset: u64, _len: usize) -> Result<Bytes, SourceError> {
        Err(SourceError::NotSealed)
    }
}

/// A state machine that remembers only how far it is.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    applied: Option<LogId>,
    membership: StoredMembership,
}

type Kept = Snapshot<CommittedLeader, u64, Peer, ()>;

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Kept> {
        Err(io::Error::other("no snapshots"))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.applied = Some(entry.log_id());
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembership::new(self.applied, membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcome::Done);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta<CommittedLeader, u64, Peer>, (): ()) -> io::Result<()> {
        Err(io::Error::other("no snapshots"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Kept>> {
        Ok(None)
    }
}

/// An arc of something that is asked for by trait.
pub(crate) fn no_segments() -> Arc<dyn SegmentSource> {
    Arc::new(NoSegments)
}

/// Nobody asks for consensus here.
#[derive(Clone)]
pub(crate) struct NoRaft;

mod no_raft {
    use futures_util::Stream;
    use openraft::base::BoxStream;
    use openraft::raft::{
        AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    };
    use stele_raft::entry::TypeConfig;
    use stele_raft::peer::server::{RaftHandle, Stopped};

    use super::NoRaft;

    impl RaftHandle for NoRaft {
        fn stream_append(
            &self,
            _appends: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
        ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Stopped>> {
            Box::pin(futures_util::stream::empty())
        }

        async fn heartbeat(
            &self,
            _heartbeat: AppendEntriesRequest<TypeConfig>,
        ) -> Result<AppendEntriesResponse<TypeConfig>, Stopped> {
            std::future::pending().await
        }

        async fn vote(&self, _vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
            std::future::pending().await
        }

        async fn pre_vote(&self, _vote: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, Stopped> {
            std::future::pending().await
        }

        async fn transfer_leader(
            &self,
            _transfer: TransferLeaderRequest<TypeConfig>,
        ) -> Result<TransferLeaderResponse<TypeConfig>, Stopped> {
            std::future::pending().await
        }
    }
}
