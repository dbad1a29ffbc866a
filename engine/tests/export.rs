//! From a log to signed checkpoints and manifests, and back: whoever holds them finds every change.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::interop::{ExportOptions, export};
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::sink::AuditSink as _;
use stele_engine::sink::export::{Checkpoint, CheckpointSigner, ExportError, ExportSink, Exporter, Manifest};
use stele_engine::sink::wal::{WalConfig, WalSink};
use stele_proof::checkpoint::Origin;
use stele_proof::digest_tree::DigestTree;
use stele_proof::interop::SeqRange;
use stele_proof::key::{KeyKind, KeyName, SigningKey, VerifierKey};
use stele_proof::note::{Note, SignatureLine, signature_line};
use stele_proof::record::{Actor, Object, Record, RecordBuilder, SelfHash, Subject, VerifyError, verify_chain};
use stele_proof::{LeafIndex, UnixMillis};

const KEY_ID: &str = "ops-hsm-1";

/// A host with one key, which keeps what it is given.
struct Host {
    key: SigningKey,
    checkpoints: Mutex<Vec<Checkpoint>>,
    manifests: Mutex<Vec<Manifest>>,
    /// Every checkpoint that was handed over, kept or not.
    offered: Mutex<Vec<Checkpoint>>,
    fails: AtomicBool,
}

impl Host {
    fn new() -> Self {
        let key = SigningKey::from_seed(KeyName::new(KEY_ID).unwrap(), KeyKind::Ed25519, [5; 32]);
        Self {
            key,
            checkpoints: Mutex::default(),
            manifests: Mutex::default(),
            offered: Mutex::default(),
            fails: AtomicBool::new(false),
        }
    }

    fn works(&self) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) { Err(io::Error::other("the test broke it")) } else { Ok(()) }
    }
}

impl ExportSink for Host {
    fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        self.works()?;
        self.manifests.lock().unwrap().push(manifest.clone());
        Ok(())
    }

    fn write_checkpoint(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.offered.lock().unwrap().push(checkpoint.clone());
        self.works()?;
        self.checkpoints.lock().unwrap().push(checkpoint.clone());
        Ok(())
    }
}

impl CheckpointSigner for Host {
    fn signer_key_id(&self) -> &str {
        KEY_ID
    }

    fn alg(&self) -> &str {
        "ed25519"
    }

    fn sign(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let text = std::str::from_utf8(message).unwrap();
        Ok(signature_line(text, &self.key).unwrap().signature().to_vec())
    }
}

fn is_signed(checkpoint: &Checkpoint, key: &VerifierKey) -> bool {
    let text = checkpoint.signed_text();
    let line = SignatureLine::new(key.name().clone(), key.id(), checkpoint.sig.clone()).unwrap();
    checkpoint.alg == "ed25519"
        && checkpoint.signer_key_id == key.name().as_str()
        && Note::new(&text, vec![line]).unwrap().verify([key]).is_ok()
}

/// A log with so many records of one chain, and a few of others between them.
fn log_of(path: &Path, count: u64) {
    let options = CreateOptions::new(Origin::new("example.com/export").unwrap());
    let sink = WalSink::create(&Environment::system(), &WalConfig::new(path.to_owned()), &options).unwrap();
    let attrs = Object::default();
    for number in 0..count {
        let draft = RecordBuilder {
            ts_ms: UnixMillis::new(number),
            writer_id: "w",
            stream: "s",
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        sink.emit(&draft).unwrap();
        if number % 10 == 0 {
            sink.emit(&RecordBuilder { stream: "other", ..draft }).unwrap();
        }
    }
    sink.close().unwrap();
}

/// The chain's canonical records, from the log alone.
fn chain_of(path: &Path) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let reader = LogReader::open(&Environment::system(), path).unwrap();
    reader
        .read::<LogError>(LeafIndex::new(0), LeafIndex::new(u64::MAX), Payloads::Leave, &mut |read| {
            if Record::parse(&read.canonical).unwrap().stream().escaped() == "s" {
                records.push(read.canonical);
            }
            Ok(())
        })
        .unwrap();
    records
}

/// What somebody checks who has the records, the manifests and the key.
fn examine(records: &[Vec<u8>], manifests: &[Manifest], key: &VerifierKey) -> Result<(), String> {
    let parsed: Vec<_> = records
        .iter()
        .map(|bytes| Record::parse(bytes).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let mut next = 1;
    for checkpoint in manifests.iter().flat_map(|manifest| &manifest.checkpoints) {
        let range = checkpoint.range;
        if range.first() != next || !is_signed(checkpoint, key) {
            return Err(format!("the checkpoint from {} does not follow {next} or is not signed", range.first()));
        }
        let mut tree = DigestTree::new();
        let covered = parsed.iter().filter(|record| (range.first()..=range.last()).contains(&record.seq()));
        covered.for_each(|record| tree.push(*record.self_hash().as_bytes()));
        if tree.root() != Some(checkpoint.root) {
            return Err(format!("another root from {} to {}", range.first(), range.last()));
        }
        next = range.last() + 1;
    }
    if parsed.len() as u64 != next - 1 {
        return Err("records without checkpoint".to_owned());
    }
    verify_chain(&parsed).map_err(|error| error.to_string())
}

fn exported(records: &[Vec<u8>], host: &Host) -> Vec<Manifest> {
    let mut exporter = Exporter::new(host, host, 100).unwrap();
    for (number, canonical) in (1..).zip(records) {
        exporter.push(canonical).unwrap();
        if number % 150 == 0 {
            exporter.finish(UnixMillis::new(number)).unwrap();
        }
    }
    exporter.finish(UnixMillis::new(9)).unwrap();
    assert_eq!(exporter.finish(UnixMillis::new(9)).unwrap(), None, "nothing is new");
    std::mem::take(&mut *host.manifests.lock().unwrap())
}

#[test]
fn roots_are_built_again_signatures_hold_and_manifests_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log_of(&path, 320);
    let (records, host) = (chain_of(&path), Host::new());
    let manifests = exported(&records, &host);
    let key = host.key.verifier_key();
    examine(&records, &manifests, key).unwrap();
    let ranges: Vec<_> =
        manifests.iter().filter_map(Manifest::range).map(|range| (range.first(), range.last())).collect();
    assert_eq!(ranges, [(1, 150), (151, 300), (301, 320)]);
    let covered: Vec<_> = manifests.iter().flat_map(|it| &it.checkpoints).map(|it| it.range.last()).collect();
    assert_eq!(covered, [100, 150, 250, 300, 320]);
    assert_eq!(
        *host.checkpoints.lock().unwrap(),
        manifests.iter().flat_map(|it| it.checkpoints.clone()).collect::<Vec<_>>()
    );

    // Every part of a checkpoint is signed, and by this key only.
    let good = &manifests[0].checkpoints[0];
    let changes: [fn(&mut Checkpoint); 8] = [
        |it| it.stream.push('x'),
        |it| it.writer_id.push('x'),
        |it| it.range = SeqRange::new(it.range.first() + 1, it.range.last()).unwrap(),
        |it| it.range = SeqRange::new(it.range.first(), it.range.last() + 1).unwrap(),
        |it| it.root = stele_proof::digest_tree::Digest::of(b""),
        |it| it.signer_key_id.push('x'),
        |it| it.alg.push('x'),
        |it| it.sig[0] ^= 1,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(!is_signed(&changed, key), "change {number}");
    }
    let other = SigningKey::from_seed(KeyName::new(KEY_ID).unwrap(), KeyKind::Ed25519, [6; 32]);
    assert!(!is_signed(good, other.verifier_key()));
    let mut gap = manifests.clone();
    gap.remove(1);
    assert!(examine(&records, &gap, key).is_err(), "a missing manifest");
}

#[test]
fn from_log_and_manifests_alone_the_chain_is_rebuilt_and_a_changed_record_changes_a_root() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log_of(&path, 250);
    let host = Host::new();
    let manifests = exported(&chain_of(&path), &host);
    let key = host.key.verifier_key();
    let records = chain_of(&path);
    examine(&records, &manifests, key).unwrap();
    for at in [0, 99, 100, 249] {
        // The forger changes a record and mends the whole chain behind it.
        let mut forged = records.clone();
        forged[at] = String::from_utf8(forged[at].clone()).unwrap().replace("\"ok\"", "\"no\"").into_bytes();
        for next in at + 1..forged.len() {
            let (old, new) = (SelfHash::of(&records[next - 1]), SelfHash::of(&forged[next - 1]));
            forged[next] = String::from_utf8(forged[next].clone())
                .unwrap()
                .replace(&old.to_string(), &new.to_string())
                .into_bytes();
        }
        let parsed: Vec<_> = forged.iter().map(|bytes| Record::parse(bytes).unwrap()).collect();
        verify_chain(&parsed).unwrap();
        let told = examine(&forged, &manifests, key).unwrap_err();
        assert!(told.starts_with("another root"), "record {at}: {told}");
        let mut missing = records.clone();
        missing.remove(at);
        assert!(examine(&missing, &manifests, key).is_err(), "record {at} missing");
    }
}

#[test]
fn what_does_not_follow_is_refused_and_a_host_that_fails_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log_of(&path, 30);
    let (records, host) = (chain_of(&path), Host::new());
    let mut exporter = Exporter::new(&host, &host, 10).unwrap();
    exporter.push(&records[4]).unwrap();
    assert!(matches!(
        exporter.push(&records[6]),
        Err(ExportError::Chain(VerifyError::SeqMismatch { expected: 6, found: 7 }))
    ));
    let unlinked = String::from_utf8(records[5].clone()).unwrap();
    let unlinked = unlinked.replace(&SelfHash::of(&records[4]).to_string(), &SelfHash::of(b"").to_string());
    assert!(matches!(exporter.push(unlinked.as_bytes()), Err(ExportError::Chain(VerifyError::PrevMismatch { .. }))));
    let elsewhere = String::from_utf8(records[5].clone()).unwrap().replace("\"stream\":\"s\"", "\"stream\":\"t\"");
    assert!(matches!(exporter.push(elsewhere.as_bytes()), Err(ExportError::OtherChain)));
    assert!(matches!(exporter.push(b"{}"), Err(ExportError::Schema(_))));
    // The tenth record's checkpoint cannot be kept: it is handed over again, the same, however far the chain goes on.
    for record in &records[5..13] {
        exporter.push(record).unwrap();
    }
    host.fails.store(true, Ordering::Relaxed);
    assert!(matches!(exporter.push(&records[13]), Err(ExportError::Io(_))));
    assert!(matches!(exporter.finish(UnixMillis::new(1)), Err(ExportError::Io(_))));
    host.fails.store(false, Ordering::Relaxed);
    let before = host.offered.lock().unwrap().len();
    host.fails.store(true, Ordering::Relaxed);
    assert!(matches!(exporter.push(&records[14]), Err(ExportError::Io(_))));
    for record in &records[15..25] {
        assert!(matches!(exporter.push(record), Err(ExportError::Io(_))));
    }
    host.fails.store(false, Ordering::Relaxed);
    exporter.push(&records[25]).unwrap();
    let offered = host.offered.lock().unwrap().clone();
    assert_eq!(before, 2);
    assert!(offered[..14].iter().all(|again| *again == offered[0]), "{offered:?}");
    let manifest = exporter.finish(UnixMillis::new(2)).unwrap().unwrap();
    let ranges: Vec<_> = manifest.checkpoints.iter().map(|it| (it.range.first(), it.range.last())).collect();
    assert_eq!(ranges, [(5, 14), (15, 24), (25, 26)]);
    assert_eq!(*host.checkpoints.lock().unwrap(), manifest.checkpoints);
}

#[test]
fn a_checkpoint_is_the_one_that_an_export_of_the_same_records_has() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    log_of(&path, 250);
    let host = Host::new();
    let made: Vec<_> = {
        let mut exporter = Exporter::new(&host, &host, 100).unwrap();
        chain_of(&path).iter().for_each(|canonical| exporter.push(canonical).unwrap());
        exporter.finish(UnixMillis::new(9)).unwrap().unwrap().checkpoints
    };
    let options = ExportOptions {
        segment_records: 100.try_into().unwrap(),
        key: Some(&host.key),
        ..ExportOptions::of_chain("s", "w")
    };
    let manifest = export(&Environment::system(), &path, &directory.path().join("out"), &options, &mut |_| ()).unwrap();
    let made: Vec<_> = made.iter().map(|it| (it.range, it.root, &it.sig[..])).collect();
    let exported: Vec<_> = manifest.checkpoints.iter().map(|it| (it.range, it.root, &it.signature[..])).collect();
    assert_eq!(made, exported);
}
