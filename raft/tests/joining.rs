//! A new node copies sealed segments from several others, of which some lie, fall silent or stop in the middle.

#![allow(clippy::unwrap_used, reason = "a test")]

mod peer_fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peer_fixture::{NoRaft, local, own, peer};
use stele_engine::adopt::{NewMember, is_under_way};
use stele_engine::birth::{CreateOptions, MemberOptions};
use stele_engine::checkpointing::NodeKeys;
use stele_engine::directory::{Inventory, LogDirectory};
use stele_engine::environment::Environment;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight, NodeId, SegmentNumber};
use stele_engine::reader::LogReader;
use stele_engine::replica::Replica;
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::store::read_entry_at;
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::cosignature::cosign;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::{Note, signature_line};
use stele_proof::policy::Policy;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::{TreeSize, UnixMillis, UnixSeconds};
use stele_raft::joining::{Copied, CopyError, CopySettings, Donor, copy_segments};
use stele_raft::peer::Limits;
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::cosign::NoCosigner;
use stele_raft::peer::segments::{SealedFiles, SealedSegment, SegmentSource, SourceError, Vouched};
use stele_raft::peer::server::{PeerServer, Served, Unbounded};
use stele_raft::peer::transport::{Tcp, Transport};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ORIGIN: &str = "example.com/joined";
const SEGMENTS: u64 = 12;
const NEW: NodeId = NodeId::new(9);

fn push(log: &mut LocalLog, payload: &[u8]) {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    log.push(&Submission::Draft { builder: &builder, payload: Some((&Salt::new([3; 32]), payload)) }).unwrap();
}

/// Appends until so many segments are sealed, the seal record of each in the next one.
fn append_segments(path: &Path, word: &str, segments: std::ops::Range<u64>) {
    for segment in segments {
        let mut log = LocalLog::open(&Environment::system(), path).unwrap();
        for number in 0..3 {
            push(&mut log, format!("{word} {segment} {number} {}", "x".repeat(5000)).as_bytes());
        }
        log.end_segment().unwrap();
        log.close().unwrap();
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            assert!(std::fs::copy(entry.path(), target).is_ok());
        }
    }
}

/// A log, and another one that begins with the same segments and goes on with other records.
struct Logs {
    _directory: TempDir,
    real: PathBuf,
    forked: PathBuf,
}

impl Logs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (real, forked) = (directory.path().join("real"), directory.path().join("forked"));
        let options = CreateOptions {
            block_height: BlockHeight::new(8).unwrap(),
            ..CreateOptions::new(Origin::new(ORIGIN).unwrap())
        };
        LocalLog::create(&Environment::system(), &real, &options).unwrap().close().unwrap();
        append_segments(&real, "same", 0..4);
        copy_directory(&real, &forked);
        append_segments(&real, "real", 4..SEGMENTS);
        append_segments(&forked, "forked", 4..SEGMENTS);
        Self { _directory: directory, real, forked }
    }

    fn member(&self) -> NewMember {
        let directory = LogDirectory::new(&self.real);
        let disk = Environment::system().disk;
        let first = read_entry_at(disk.as_ref(), &directory, SegmentNumber::new(0), FRAMES_START).unwrap();
        let (block_height, frame_align) = (BlockHeight::new(8).unwrap(), Alignment::PAGE);
        let cluster = *stele_proof::digest_tree::Digest::of(&first.body).as_bytes();
        NewMember { options: MemberOptions { node: NEW, block_height, frame_align }, cluster }
    }

    /// Two of three nodes must cosign.
    fn policy(&self) -> Policy {
        let keys = NodeKeys::load(Environment::system().disk.as_ref(), &LogDirectory::new(&self.real)).unwrap();
        let witness = |node| format!("witness n{node} {}\n", cosigner(node).verifier_key());
        let witnesses: String = (1..=3).map(witness).collect();
        let text = format!("log {}\n{witnesses}group sites 2 n1 n2 n3\nquorum sites\n", keys.log.verifier_key());
        Policy::parse(text.as_bytes()).unwrap()
    }
}

fn cosigner(node: u64) -> SigningKey {
    let name = KeyName::new(&format!("{ORIGIN}/site/s{node}/{node}")).unwrap();
    SigningKey::from_seed(name, KeyKind::CosignatureEd25519, [u8::try_from(node).unwrap(); 32])
}

/// What a donor does with what it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Honest,
    /// Flips a bit of every piece of frames or payloads.
    FlipsBits,
    /// Gives all that was asked for once, and nothing for a while whenever it has given so many pieces.
    CutsOff(u64),
    /// Sends everything, and never vouches.
    SaysNothing,
    /// Vouches for a tree of its own.
    SignsAnother,
    /// Says that files are longer than they are.
    Exaggerates,
}

/// A node that gives what lies in a log's directory.
struct Source {
    files: SealedFiles,
    path: PathBuf,
    node: u64,
    manner: Manner,
    pieces: AtomicU64,
    /// Who gave which files.
    given: Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>,
}

impl SegmentSource for Source {
    fn list(&self, from: SegmentNumber) -> Result<Vec<SealedSegment>, SourceError> {
        let mut list = self.files.list(from)?;
        if self.manner == Manner::Exaggerates {
            list.iter_mut().for_each(|segment| segment.frames_bytes += 1);
        }
        Ok(list)
    }

    fn read(&self, file: SegmentFile, offset: u64, len: usize) -> Result<Bytes, SourceError> {
        // In small pieces, so that transfers are cut inside files.
        let read = self.files.read(file, offset, len.min(4096))?;
        let piece = self.pieces.fetch_add(1, Ordering::Relaxed);
        if let Manner::CutsOff(after) = self.manner
            && piece % after == after - 1
        {
            return Err(SourceError::NotSealed);
        }
        self.given.lock().unwrap().entry(file.name()).or_default().insert(self.node);
        if self.manner == Manner::FlipsBits && !read.is_empty() {
            let mut bytes = read.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            return Ok(bytes.into());
        }
        Ok(read)
    }

    fn vouch(&self, size: TreeSize) -> Result<Vouched, SourceError> {
        if self.manner == Manner::SaysNothing {
            return Err(SourceError::NoCheckpoint);
        }
        let reader = LogReader::open(&Environment::system(), &self.path)?;
        let (whole, mut root) = (reader.size(), reader.root_at(reader.size())?);
        if size > whole {
            return Err(SourceError::NoCheckpoint);
        }
        if self.manner == Manner::SignsAnother {
            root = reader.root_at(TreeSize::new(1))?;
        }
        let checkpoint = Checkpoint { origin: Origin::new(ORIGIN).unwrap(), size: whole, root };
        let keys = NodeKeys::load(Environment::system().disk.as_ref(), &LogDirectory::new(&self.path))?;
        let text = checkpoint.to_string();
        let lines = vec![
            signature_line(&text, &keys.log).unwrap(),
            cosign(&checkpoint, &cosigner(self.node), UnixSeconds::new(7)).unwrap(),
        ];
        let note = Note::new(&text, lines).unwrap().to_string().into_bytes();
        Ok(Vouched { note: note.into(), proof: reader.prove_consistency(size, whole)? })
    }
}

/// Donors that listen, and a new node's directory.
struct Field {
    directory: TempDir,
    donors: Vec<Donor>,
    given: Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>,
    stop: CancellationToken,
}

impl Field {
    async fn new(donors: &[(&Path, Manner)]) -> Self {
        let given = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = CancellationToken::new();
        let limits = Limits::default();
        let factory = PeerFactory::new(own(local(NEW.get())), Transport::Plain, Arc::new(Tcp), limits, Arc::default());
        let mut list = Vec::new();
        for (node, (path, manner)) in (1..).zip(donors) {
            let files = SealedFiles::new(Environment::system().disk, LogDirectory::new(*path));
            let (manner, given) = (*manner, Arc::clone(&given));
            let source = Source { files, path: path.to_path_buf(), node, manner, pieces: AtomicU64::new(0), given };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = peer(listener.local_addr().unwrap());
            let served = Served {
                raft: NoRaft,
                admission: Arc::new(Unbounded),
                segments: Arc::new(source),
                cosigner: Arc::new(NoCosigner),
            };
            let server = PeerServer::new(own(local(node)), Transport::Plain, served, limits, Arc::default());
            tokio::spawn(server.serve(listener, stop.clone()));
            list.push(Donor { node: NodeId::new(node), segments: factory.segments(NodeId::new(node), &at) });
        }
        Self { directory: tempfile::tempdir().unwrap(), donors: list, given, stop }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    async fn copy(&self, logs: &Logs) -> Result<Copied, CopyError> {
        self.copy_with(logs, Duration::from_secs(60)).await
    }

    async fn copy_with(&self, logs: &Logs, patience: Duration) -> Result<Copied, CopyError> {
        let settings =
            CopySettings { rate: 1 << 40, wait: Duration::from_secs(20), patience, policy: Some(logs.policy()) };
        let environment = Environment::system();
        copy_segments(&environment, &self.path(), logs.member(), self.donors.clone(), &settings).await
    }

    fn liars(copied: &Copied) -> Vec<u64> {
        copied.liars.keys().map(|node| node.get()).collect()
    }

    fn sealed(&self) -> BTreeMap<String, Vec<u8>> {
        sealed(&self.path())
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The sealed files of a log.
fn sealed(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(path.join("segments")) else { return BTreeMap::new() };
    // What is being renamed may be gone when it is looked at.
    let is_sealed = |entry: &std::fs::DirEntry| {
        !entry.path().to_string_lossy().ends_with(".tmp")
            && entry.metadata().is_ok_and(|metadata| metadata.permissions().readonly())
    };
    let entries = entries.filter_map(Result::ok).filter(is_sealed);
    entries
        .filter_map(|entry| Some((entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).ok()?)))
        .collect()
}

/// The copy has what the real log has, and is a node's.
fn is_whole(field: &Field, logs: &Logs) {
    assert!(field.sealed() == sealed(&logs.real), "sealed files differ");
    let (environment, directory) = (Environment::system(), LogDirectory::new(field.path()));
    let report = verify_log(environment.disk.as_ref(), &directory, &VerifyOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(report.findings, []);
    let opened = Replica::open(&environment, &field.path()).unwrap();
    assert_eq!(opened.hard_state.node, NEW);
    assert_eq!(opened.applied, opened.replica.tail().next_index);
    assert_eq!(Inventory::take(environment.disk.as_ref(), &directory).unwrap().sealed.get(), SEGMENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_come_from_all_donors_and_are_the_same_bytes() {
    let logs = Logs::new();
    let field = Field::new(&[(&logs.real, Manner::Honest), (&logs.real, Manner::Honest)]).await;
    let copied = field.copy(&logs).await.unwrap();
    assert_eq!(copied.adopted.unwrap().segments, SEGMENTS);
    assert_eq!(Field::liars(&copied), Vec::<u64>::new());
    is_whole(&field, &logs);
    let given = field.given.lock().unwrap();
    let givers: BTreeSet<u64> = given.values().flatten().copied().collect();
    assert_eq!(givers, BTreeSet::from([1, 2]), "both gave something");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_corrupts_what_it_sends_is_named_and_others_give_it() {
    let logs = Logs::new();
    for liar in [Manner::FlipsBits, Manner::Exaggerates] {
        let donors = [(&*logs.real, Manner::Honest), (&*logs.real, liar), (&*logs.real, Manner::Honest)];
        let field = Field::new(&donors).await;
        let copied = field.copy(&logs).await.unwrap();
        assert_eq!(Field::liars(&copied), [2], "{liar:?}: {copied:?}");
        is_whole(&field, &logs);
    }
}

/// Good by itself, with records, chains, seal records and a signature: only other nodes can tell.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_another_history_is_named_by_what_two_others_signed() {
    let logs = Logs::new();
    let donors = [(&*logs.real, Manner::Honest), (&*logs.forked, Manner::Honest), (&*logs.real, Manner::Honest)];
    let field = Field::new(&donors).await;
    let copied = field.copy(&logs).await.unwrap();
    assert_eq!(Field::liars(&copied), [2], "{copied:?}");
    is_whole(&field, &logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_another_tree_than_the_others_is_named_and_the_quorum_counts() {
    let logs = Logs::new();
    let donors = [(&*logs.real, Manner::SignsAnother), (&*logs.real, Manner::Honest), (&*logs.real, Manner::Honest)];
    let field = Field::new(&donors).await;
    let copied = field.copy(&logs).await.unwrap();
    assert_eq!(Field::liars(&copied), [1], "{copied:?}");
    is_whole(&field, &logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_goes_on_with_whoever_is_free_and_nobody_is_blamed() {
    let logs = Logs::new();
    let donors =
        [(&*logs.real, Manner::CutsOff(7)), (&*logs.real, Manner::CutsOff(11)), (&*logs.real, Manner::CutsOff(13))];
    let field = Field::new(&donors).await;
    let copied = field.copy(&logs).await.unwrap();
    assert_eq!(Field::liars(&copied), Vec::<u64>::new(), "{copied:?}");
    is_whole(&field, &logs);
    let given = field.given.lock().unwrap();
    assert!(given.values().any(|givers| givers.len() > 1), "no file came from two donors: {given:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_installed_that_too_few_vouch_for() {
    let logs = Logs::new();
    // One of three vouches; the second is gone, the third cannot be reached at all.
    let field = Field::new(&[(&logs.real, Manner::Honest), (&logs.forked, Manner::SignsAnother)]).await;
    let refused = field.copy_with(&logs, Duration::ZERO).await;
    assert!(matches!(refused, Err(CopyError::NoDonor { .. } | CopyError::Unproven { .. })), "{refused:?}");
    assert!(field.sealed().keys().all(|name| !name.ends_with(".seg")), "{:?}", field.sealed().keys());
    assert!(is_under_way(Environment::system().disk.as_ref(), &LogDirectory::new(field.path())).unwrap());
    let alone = Field::new(&[(&logs.real, Manner::Honest)]).await;
    let refused = alone.copy_with(&logs, Duration::ZERO).await;
    assert!(matches!(&refused, Err(CopyError::Unproven { reasons, .. }) if reasons.len() == 1), "{refused:?}");
}

/// Too few have signed so many records: what is not vouched for is left to replication.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_others_do_not_have_yet_is_left_out() {
    let logs = Logs::new();
    let field = Field::new(&[(&logs.real, Manner::Honest), (&logs.real, Manner::SaysNothing)]).await;
    let copied = field.copy_with(&logs, Duration::ZERO).await.unwrap();
    assert_eq!(copied.adopted.unwrap().segments, 0, "{copied:?}");
    assert!(Replica::open(&Environment::system(), &field.path()).is_ok(), "an empty log, to which entries can come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_stopped_goes_on_with_what_is_not_installed() {
    let logs = Logs::new();
    let donors = [(&*logs.real, Manner::Honest), (&*logs.real, Manner::Honest)];
    let field = Field::new(&donors).await;
    {
        let copying = field.copy(&logs);
        tokio::pin!(copying);
        loop {
            tokio::select! {
                done = &mut copying => panic!("it was done before it could be stopped: {done:?}"),
                () = tokio::task::yield_now() => {}
            }
            if field.sealed().keys().filter(|name| name.ends_with(".seg")).count() >= 2 {
                break;
            }
        }
    }
    // A blocking step that was under way may still end.
    let lock = field.path();
    let begun = tokio::time::Instant::now();
    while field.copy(&logs).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} stays locked", lock.display());
    }
    is_whole(&field, &logs);
}
