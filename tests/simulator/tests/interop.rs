//! Exports of a chain and their way back (`docs/interop.md`), on a disk in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

mod small_log;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use small_log::{LOG, create, environment, new_disk, open};
use stele_engine::chains::ChainError;
use stele_engine::disk::{Access, Disk as _};
use stele_engine::intake::{Refusal, Submission};
use stele_engine::interop::{
    ExportOptions, ExportReport, ImportReport, Imported, InteropError, export, import, verify_export,
};
use stele_engine::local::{LocalLog, Receipt};
use stele_engine::reader::Payloads;
use stele_proof::UnixMillis;
use stele_proof::digest_tree::DigestTree;
use stele_proof::interop::{Frame, HEADER_BYTES, Manifest};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, SelfHash, Subject, parse_object};
use stele_simulator::fake_disk::FakeDisk;
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};

const OUT: &str = "/out";
const STREAM: &str = "ingress";
const WRITER: &str = "svc-gateway@inst-1";

fn key() -> SigningKey {
    SigningKey::from_seed(KeyName::new("export").unwrap(), KeyKind::Ed25519, [7; 32])
}

fn push(log: &mut LocalLog, stream: &str, number: u64) -> Receipt {
    let attrs = parse_object(format!(r#"{{"n":{number},"name":"\u00e9 {number}"}}"#).as_bytes()).unwrap();
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(1_730_246_400_000 + number),
        writer_id: WRITER,
        stream,
        kind: "GetServed",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: if number.is_multiple_of(3) { &attrs } else { &Object::default() },
        payload: None,
    };
    let payload = "payload ".repeat(usize::try_from(number).unwrap());
    let salt = Salt::new([3; 32]);
    let payload = number.is_multiple_of(10).then_some((&salt, payload.as_bytes()));
    log.push(&Submission::Draft { builder: &builder, payload }).unwrap()
}

/// A log of two chains, the exported one with so many records.
fn made(records: u64) -> FakeDisk {
    let disk = new_disk();
    let mut log = create(&disk).unwrap();
    for number in 1..=records {
        push(&mut log, STREAM, number);
        if number % 4 == 0 {
            push(&mut log, "other", number);
        }
        if number % 50 == 0 {
            log.flush().unwrap();
        }
    }
    log.close().unwrap();
    disk
}

fn part(first: u64, last: u64) -> ExportOptions<'static> {
    ExportOptions { first, last, ..ExportOptions::of_chain(STREAM, WRITER) }
}

fn exported(disk: &FakeDisk, options: &ExportOptions<'_>) -> Result<Manifest, InteropError> {
    export(&environment(disk), Path::new(LOG), Path::new(OUT), options, &mut |_| ())
}

fn verified(disk: &FakeDisk) -> Result<ExportReport, InteropError> {
    verify_export(disk, Path::new(OUT), Some(key().verifier_key()), &mut |_| ())
}

/// Imports what lies on one disk into the log on the same disk.
fn imported(disk: &FakeDisk) -> (Result<ImportReport, InteropError>, Vec<(u64, Imported)>) {
    let mut all = Vec::new();
    let report = import(&environment(disk), Path::new(OUT), Path::new(LOG), &mut |_| (), &mut |seq, imported| {
        all.push((seq, imported));
        Ok(())
    });
    (report, all)
}

fn files(disk: &FakeDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = disk.paths().into_iter().filter(|path| path.starts_with(OUT));
    paths.map(|path| (path.clone(), disk.look(&path).unwrap().0)).collect()
}

fn put(disk: &FakeDisk, path: &Path, bytes: &[u8]) {
    if disk.look(path).is_some() {
        disk.remove(path).unwrap();
    }
    disk.create_directory(path.parent().unwrap()).unwrap();
    disk.open(path, Access::Create).unwrap().write_at(bytes, 0).unwrap();
}

/// A new log beside the files of an export.
fn beside(files: &[(PathBuf, Vec<u8>)], records: u64) -> FakeDisk {
    let disk = made(records);
    for (path, bytes) in files {
        put(&disk, path, bytes);
    }
    disk
}

fn records_of(segment: &[u8]) -> Vec<Vec<u8>> {
    let (mut records, mut at) = (Vec::new(), HEADER_BYTES);
    while let Some((frame, len)) = Frame::decode(&segment[at..]).unwrap() {
        records.push(frame.canonical.to_vec());
        at += len;
    }
    assert_eq!(at, segment.len());
    records
}

/// INTEROP 5.4; `STELE_WRITE_VECTOR=1` writes it.
#[test]
fn the_vector_of_seq_100_to_199_is_what_an_export_writes() {
    let disk = made(230);
    let key = key();
    let manifest = exported(&disk, &ExportOptions { key: Some(&key), ..part(100, 199) }).unwrap();
    let report = verified(&disk).unwrap();
    assert_eq!(
        (report.records, report.payloads, report.payloads_missing, report.checkpoints_verified),
        (100, 10, 0, 1)
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let vector = root.join("tests/vectors/interop");
    for (path, bytes) in files(&disk) {
        let path = vector.join(path.file_name().unwrap());
        if std::env::var_os("STELE_WRITE_VECTOR").is_some() {
            std::fs::create_dir_all(&vector).unwrap();
            File::create(&path).and_then(|mut file| file.write_all(&bytes)).unwrap();
        }
        let mut stored = Vec::new();
        File::open(&path).and_then(|mut file| file.read_to_end(&mut stored)).unwrap();
        assert!(stored == bytes, "{}", path.display());
    }
    let page = std::fs::read_to_string(root.join("docs/interop.md")).unwrap();
    for text in [key.verifier_key().to_string(), manifest.segments[0].root.to_string()] {
        assert!(page.contains(&format!("\n    {text}\n")), "docs/interop.md lacks {text}");
    }
}

/// INTEROP 5.4: the tampered case.
#[test]
fn one_flipped_byte_in_one_record_of_seq_100_to_199_gives_another_root_and_is_found() {
    let disk = made(230);
    let key = key();
    let manifest = exported(&disk, &ExportOptions { key: Some(&key), ..part(100, 199) }).unwrap();
    let (path, good) = files(&disk).into_iter().find(|(path, _)| path.ends_with("wal-000000.seg")).unwrap();
    let records = records_of(&good);
    let root = |records: &[Vec<u8>]| {
        let mut tree = DigestTree::new();
        records.iter().for_each(|record| tree.push(*SelfHash::of(record).as_bytes()));
        tree.root().unwrap()
    };
    assert_eq!(root(&records), manifest.segments[0].root);
    for number in [0, 1, 50, 99] {
        let mut changed = records.clone();
        changed[number][10] ^= 1;
        assert_ne!(root(&changed), manifest.segments[0].root, "record {number}");
        // Its frame with the old hash, and with the new one.
        for self_hash in [SelfHash::of(&records[number]), SelfHash::of(&changed[number])] {
            let mut bytes = good[..HEADER_BYTES].to_vec();
            for (seq, (record, old)) in (100..).zip(changed.iter().zip(&records)) {
                let self_hash = if record == old { SelfHash::of(old) } else { self_hash };
                Frame { seq, canonical: record, self_hash }.write(&mut bytes);
            }
            put(&disk, &path, &bytes);
            let Err(InteropError::Bad(finding)) = verified(&disk) else { panic!("record {number} is accepted") };
            assert!(finding.seq.is_none_or(|seq| seq >= 100 + number as u64), "{finding}");
            assert_eq!(finding.file, "wal-000000.seg", "{finding}");
        }
    }
    put(&disk, &path, &good);
    assert!(verified(&disk).is_ok());
}

#[test]
fn a_flipped_bit_in_any_file_is_found_and_nothing_of_it_is_imported() {
    let source = made(40);
    let key = key();
    let segment_records = std::num::NonZeroU32::new(15).unwrap();
    exported(&source, &ExportOptions { key: Some(&key), segment_records, ..part(1, 40) }).unwrap();
    let all = files(&source);
    assert_eq!(all.len(), 7, "three segments with payloads, and the manifest");
    let target = beside(&all, 0);
    assert!(verified(&target).is_ok());
    let size = open(&target).unwrap().size();
    for (path, good) in &all {
        for at in (0..good.len()).step_by(11) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            if path.ends_with("manifest.json") && Manifest::decode(&bytes).is_ok_and(|changed| is_same(&changed, good))
            {
                continue;
            }
            put(&target, path, &bytes);
            assert!(verified(&target).is_err(), "{}, byte {at}", path.display());
            if !path.ends_with("manifest.json") {
                let (report, told) = imported(&target);
                assert!(matches!(report, Err(InteropError::Bad(_))), "{}, byte {at}: {report:?}", path.display());
                assert!(told.is_empty());
            }
        }
        put(&target, path, good);
    }
    assert_eq!(open(&target).unwrap().size(), size);
}

/// White space, and the time, which nothing covers.
fn is_same(changed: &Manifest, good: &[u8]) -> bool {
    let good = Manifest::decode(good).unwrap();
    Manifest { created: good.created, ..changed.clone() } == good
}

#[test]
fn an_imported_chain_is_exported_to_the_same_bytes_and_imported_again_keeps_its_places() {
    let source = made(1100);
    exported(&source, &part(1, u64::MAX)).unwrap();
    let all = files(&source);
    let target = beside(&all, 0);
    let (report, first) = imported(&target);
    assert_eq!(report.unwrap(), ImportReport { known: 0, appended: 1100 });
    let seqs: Vec<u64> = first.iter().map(|(seq, _)| *seq).collect();
    assert!(seqs.iter().copied().eq(1..=1100));

    let calls = [Call::Write, Call::Sync, Call::Create].map(|call| target.count(call));
    let (report, again) = imported(&target);
    assert_eq!(report.unwrap(), ImportReport { known: 1100, appended: 0 });
    assert_eq!([Call::Write, Call::Sync, Call::Create].map(|call| target.count(call)), calls, "nothing is written");
    for ((_, first), (_, again)) in first.iter().zip(&again) {
        let (Imported::Appended(first), Imported::Known(again)) = (first, again) else {
            panic!("{first:?}, {again:?}")
        };
        assert_eq!(first, again);
    }
    for (path, _) in &all {
        target.remove(path).unwrap();
    }
    exported(&target, &part(1, u64::MAX)).unwrap();
    assert_eq!(files(&target), all);
}

#[test]
fn a_part_continues_its_chain_and_nothing_else_and_a_refused_import_appends_nothing() {
    let source = made(60);
    exported(&source, &part(21, 60)).unwrap();
    let all = files(&source);
    // The logs are made alike, so their chains agree as far as both go.
    for (records, known) in [(20, 0), (21, 1), (35, 15), (60, 40)] {
        let target = beside(&all, records);
        let (report, _) = imported(&target);
        assert_eq!(report.unwrap(), ImportReport { known, appended: 40 - known }, "{records}");
    }
    for records in [0, 5, 19] {
        let target = beside(&all, records);
        let before = open(&target).unwrap().size();
        let (report, told) = imported(&target);
        let Err(InteropError::Refused { seq: 21, refusal: Refusal::Chain(ChainError::SeqGap { expected, .. }) }) =
            report
        else {
            panic!("{records}: {report:?}");
        };
        assert_eq!((expected, told.len()), (records + 1, 0));
        assert_eq!(open(&target).unwrap().size(), before);
    }
    // Another chain of the same name: it differs at once, or only before the part.
    for (records, same) in [(30, "Tamper"), (20, "LinkMismatch")] {
        let target = new_disk();
        let mut log = create(&target).unwrap();
        for number in 1..=records {
            push(&mut log, STREAM, number + 1000);
        }
        let before = log.size();
        log.close().unwrap();
        for (path, bytes) in &all {
            put(&target, path, bytes);
        }
        let (report, _) = imported(&target);
        assert!(report.as_ref().is_err_and(|error| error.to_string().contains(same)), "{report:?}");
        assert_eq!(open(&target).unwrap().size(), before);
    }
}

#[test]
fn what_a_log_would_refuse_is_refused_before_anything_is_appended() {
    let source = made(30);
    exported(&source, &ExportOptions { payloads: Payloads::Leave, ..part(1, 30) }).unwrap();
    let report = verify_export(&source, Path::new(OUT), None, &mut |_| ()).unwrap();
    assert_eq!((report.payloads, report.payloads_missing), (0, 3));
    assert!(matches!(verified(&source), Err(InteropError::Uncovered(1))), "no checkpoint, and a key was given");
    let target = beside(&files(&source), 0);
    let before = open(&target).unwrap().size();
    let (report, told) = imported(&target);
    assert!(matches!(report, Err(InteropError::Refused { seq: 10, refusal: Refusal::Payload(_) })), "{report:?}");
    assert!(told.is_empty());

    for (path, _) in files(&target) {
        target.remove(&path).unwrap();
    }
    let own = ExportOptions::of_chain("stele/log", "stele/log");
    exported(&target, &own).unwrap();
    let (report, _) = imported(&target);
    assert!(matches!(report, Err(InteropError::Refused { seq: 1, refusal: Refusal::Reserved })), "{report:?}");
    assert_eq!(open(&target).unwrap().size(), before);
}

#[test]
fn an_export_that_was_interrupted_is_no_export() {
    let source = made(30);
    for call in [Call::Write, Call::Sync, Call::Create, Call::Rename] {
        for nth in 1..50 {
            let disk = source.snapshot();
            let calls = Calls::Only(call);
            disk.inject(Fault { calls, nth, lasting: Lasting::Once, flavour: Flavour::Failed, cause: Cause::Io });
            if exported(&disk, &part(1, 30)).is_ok() {
                assert!(nth > 1, "{call:?} is never made");
                break;
            }
            let verified = verify_export(&disk, Path::new(OUT), None, &mut |_| ());
            assert!(matches!(verified, Err(InteropError::NoExport(_))), "{call:?} {nth}: {verified:?}");
        }
    }
    assert!(matches!(exported(&source, &part(31, 40)), Err(InteropError::Nothing { .. })));
    exported(&source, &part(1, 30)).unwrap();
    assert!(matches!(exported(&source, &part(1, 30)), Err(InteropError::Exists(_))));
}

#[test]
fn an_export_made_again_later_is_the_same_bytes_but_for_the_time_that_it_tells() {
    let source = made(130);
    let options = ExportOptions { segment_records: 30.try_into().unwrap(), ..part(11, 100) };
    exported(&source, &options).unwrap();
    let first = files(&source);
    let removed = |disk: &FakeDisk| files(disk).iter().for_each(|(path, _)| disk.remove(path).unwrap());
    removed(&source);
    let mut log = open(&source).unwrap();
    for number in 131..=300 {
        push(&mut log, STREAM, number);
    }
    log.close().unwrap();
    let created = Some(UnixMillis::new(77));
    exported(&source, &ExportOptions { created, ..options }).unwrap();
    let later = files(&source);
    assert_eq!(first.len(), later.len());
    for ((path, bytes), (_, later)) in first.iter().zip(&later) {
        if path.ends_with("manifest.json") {
            let (old, new) = (Manifest::decode(bytes).unwrap(), Manifest::decode(later).unwrap());
            assert_eq!(Manifest { created: new.created, ..old }, new);
            assert_eq!(new.created, UnixMillis::new(77));
        } else {
            assert_eq!(bytes, later, "{}", path.display());
        }
    }
    removed(&source);
    exported(&source, &ExportOptions { created, ..options }).unwrap();
    assert_eq!(files(&source), later);
}

#[test]
fn a_range_without_records_is_no_export_and_leaves_no_file() {
    let source = made(30);
    for (first, last) in [(31, 40), (5, 4), (0, 0), (u64::MAX, u64::MAX)] {
        let refused = exported(&source, &part(first, last));
        assert!(matches!(refused, Err(InteropError::Nothing { .. })), "{first} to {last}: {refused:?}");
        assert_eq!(files(&source), [], "{first} to {last}");
    }
    // What lies only partly in the chain is cut at its end.
    assert_eq!(exported(&source, &part(0, 7)).unwrap().range().to_string(), "1..=7");
}

#[test]
fn a_file_that_is_cut_anywhere_or_goes_on_is_found() {
    let source = made(30);
    let key = key();
    let segment_records = 12.try_into().unwrap();
    exported(&source, &ExportOptions { key: Some(&key), segment_records, ..part(1, 30) }).unwrap();
    for (path, bytes) in files(&source) {
        let is_manifest = path.ends_with("manifest.json");
        for len in (0..bytes.len()).step_by(3).chain([bytes.len() - 1]) {
            // The manifest ends with white space.
            if is_manifest && bytes[len..].trim_ascii().is_empty() {
                continue;
            }
            let disk = source.snapshot();
            put(&disk, &path, &bytes[..len]);
            let found = verified(&disk);
            assert!(matches!(found, Err(InteropError::Bad(_))), "{} of {len} bytes: {found:?}", path.display());
        }
        let disk = source.snapshot();
        put(&disk, &path, &[&bytes[..], b"{"].concat());
        assert!(matches!(verified(&disk), Err(InteropError::Bad(_))), "{} goes on", path.display());
    }
}

#[test]
fn files_of_another_chain_or_of_another_part_do_not_pass() {
    let source = made(40);
    let of = |options: &ExportOptions<'_>| {
        let disk = source.snapshot();
        exported(&disk, options).unwrap();
        files(&disk)
    };
    let (one, next) = (of(&part(1, 10)), of(&part(11, 20)));
    let other = of(&ExportOptions { first: 1, last: 10, ..ExportOptions::of_chain("other", WRITER) });
    let named = |files: &[(PathBuf, Vec<u8>)], name: &str| {
        files.iter().find(|(path, _)| path.ends_with(name)).unwrap().1.clone()
    };
    for (foreign, told) in [(&next, "SeqMismatch"), (&other, "another stream or writer")] {
        for name in ["manifest.json", "wal-000000.seg"] {
            let disk = source.snapshot();
            one.iter().for_each(|(path, bytes)| put(&disk, path, bytes));
            put(&disk, &Path::new(OUT).join(name), &named(foreign, name));
            let found = verify_export(&disk, Path::new(OUT), None, &mut |_| ());
            let Err(InteropError::Bad(finding)) = found else { panic!("{name} {told}: {found:?}") };
            let told = [told, "OtherChain", "Schema", "SeqMismatch"];
            assert!(told.iter().any(|word| finding.what.contains(word)), "{name}: {finding}");
        }
    }
}
