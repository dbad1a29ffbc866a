//! Offline verification, on real files: a good log is good, and whatever is changed is found.

#![allow(clippy::unwrap_used, reason = "a test")]

mod made;

use std::collections::BTreeSet;
use std::path::Path;

use made::{Made, Random, edit, verify};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::RealDisk;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::frame::{FrameHeader, HEADER_BYTES, stored_checksum};
use stele_engine::number::{Alignment, Offset, SegmentNumber};
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::verify::{CheckedAgainst, LogReport, VerifyOptions, verify_log, verify_segment};
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::cosignature::cosign;
use stele_proof::key::SigningKey;
use stele_proof::note::{Note, signature_line};
use stele_proof::policy::Policy;
use stele_proof::tree::leaf_hash;
use stele_proof::{LeafIndex, TreeSize, UnixSeconds};

fn files_of(report: &LogReport) -> BTreeSet<&str> {
    report.findings.iter().map(|finding| finding.file.as_str()).collect()
}

/// Records that a reader hands out must be the true ones.
fn no_altered_record(log: &Made, path: &Path, what: &str) {
    let Ok(reader) = LogReader::open(&Environment::system(), path) else { return };
    let (first, end) = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
    // Where it stops, it stops; only what it hands out counts.
    let _stopped = reader.read::<LogError>(first, end, Payloads::Read, &mut |record| {
        let truth = &log.truth[usize::try_from(record.index.get()).unwrap()];
        assert_eq!(&record, truth, "{what}");
        Ok(())
    });
}

#[test]
fn a_good_log_has_no_findings() {
    for align in [Alignment::PAGE, Alignment::WORD] {
        let log = Made::new(align);
        let report = verify(&log.path);
        assert_eq!((&report.findings, &report.notes), (&Vec::new(), &Vec::new()));
        assert_eq!(report.records.get(), log.truth.len() as u64);
        assert!(report.sealed >= 4 && report.segments == report.sealed + 1, "{report:?}");
        assert_eq!(report.chains, 5);
        assert_eq!(report.checked_against, CheckedAgainst::Itself);
        assert!(log.checkpoint.contains(&format!("\n{}\n{}\n", report.records, report.root.to_base64())));
    }
}

#[test]
fn every_flipped_bit_is_found_in_the_file_it_is_in() {
    for (align, seed) in [(Alignment::PAGE, 1), (Alignment::WORD, 2)] {
        let log = Made::new(align);
        let files = log.files();
        let mut random = Random(seed);
        for turn in 0..1000 {
            let name = &files[random.below(files.len() as u64)];
            let path = log.path.join(name);
            let len = std::fs::metadata(&path).unwrap().len();
            // Half of them where headers stand, which are few bytes among many.
            let (page, len) = (usize::try_from(align.get()).unwrap(), usize::try_from(len).unwrap());
            let at = match random.below(2) {
                0 => random.below(len as u64),
                _ => (random.below(len as u64) / page * page + random.below(64)).min(len - 1),
            };
            let bit = 1 << random.below(8);
            edit(&path, |bytes| bytes[at] ^= bit);
            let report = verify(&log.path);
            let what = format!("seed {seed}, turn {turn}: {name}, byte {at}, bit {bit}: {:?}", report.findings);
            if name == "log.toml" {
                assert!(report.findings.is_empty(), "{what}");
                assert!(report.notes.iter().any(|note| note.contains("log.toml")), "{what}");
            } else {
                assert_eq!(report.findings.len(), 1, "{what}");
                assert_eq!(&report.findings[0].file, name, "{what}");
            }
            if name.starts_with("segments/") {
                no_altered_record(&log, &log.path, &what);
            }
            edit(&path, |bytes| bytes[at] ^= bit);
        }
        assert_eq!(verify(&log.path).findings, []);
    }
}

/// What is done to the bytes of a file.
type Change<'c> = &'c dyn Fn(&mut Vec<u8>);

#[test]
fn what_is_cut_off_added_or_zeroed_is_found() {
    for align in [Alignment::PAGE, Alignment::WORD] {
        let log = Made::new(align);
        for name in log.files().iter().filter(|name| *name != "log.toml") {
            let path = log.path.join(name);
            let whole = std::fs::read(&path).unwrap();
            let changes: [(&str, Change<'_>); 5] = [
                ("two bytes less", &|bytes| bytes.truncate(bytes.len() - 2)),
                ("half", &|bytes| bytes.truncate(bytes.len() / 2)),
                ("empty", &Vec::clear),
                ("one byte more", &|bytes| bytes.push(1)),
                ("a page of zeros", &|bytes| {
                    let end = bytes.len().min(4096);
                    bytes[..end].fill(0);
                }),
            ];
            for (what, change) in changes {
                edit(&path, change);
                let report = verify(&log.path);
                let changed = std::fs::read(&path).unwrap() != whole;
                // Behind the payloads of the open segment a group may have been torn.
                let noted = report.notes.iter().any(|note| note.contains(name.as_str()));
                let told = noted || files_of(&report).contains(name.as_str());
                assert_eq!(told, changed, "{name}, {what}: {:?}", report.findings);
                no_altered_record(&log, &log.path, &format!("{name}, {what}"));
                edit(&path, |bytes| bytes.clone_from(&whole));
            }
        }
        assert_eq!(verify(&log.path).findings, []);
    }
}

#[test]
fn a_missing_or_swapped_file_is_found() {
    let log = Made::new(Alignment::WORD);
    let report = |change: &dyn Fn(&Path)| {
        let copy = log.copy();
        change(copy.path());
        verify(copy.path())
    };
    let segment = |number| format!("segments/{}", SegmentFile::Frames(SegmentNumber::new(number)).name());
    for name in log.files() {
        let found = report(&|path| std::fs::remove_file(path.join(&name)).unwrap());
        let derived = name.ends_with(".tiles") || name.ends_with(".hashes") || name == "log.toml";
        let noted = derived || name == "policy" || name == "checkpoint" || name.starts_with("keys/");
        assert_eq!(files_of(&found).contains(name.as_str()), !noted, "{name}: {:?}", found.findings);
        assert!(!noted || (!found.notes.is_empty() && found.findings.is_empty()), "{name}: {found:?}");
    }
    let swapped = report(&|path| {
        let (one, two, other) = (path.join(segment(1)), path.join(segment(2)), path.join("other"));
        edit(&one, |_| ());
        std::fs::hard_link(&one, &other).unwrap();
        for (from, to) in [(&two, &one), (&other, &two)] {
            std::fs::remove_file(to).unwrap();
            std::fs::hard_link(from, to).unwrap();
        }
    });
    assert!(files_of(&swapped).contains(&*segment(1)) && files_of(&swapped).contains(&*segment(2)), "{swapped:?}");
    for extra in
        ["0000000000000001.1.pay", "00000000000000ff.0.pay", "00000000000000ff.tiles", "00000000000000ff.hashes"]
    {
        let found = report(&|path| {
            std::fs::copy(path.join("segments/0000000000000001.0.pay"), path.join("segments").join(extra)).unwrap();
        });
        assert_eq!(files_of(&found), BTreeSet::from([&*format!("segments/{extra}")]));
    }
    let planted = report(&|path| {
        std::fs::create_dir(path.join("state")).unwrap();
        drop(std::fs::File::create_new(path.join("state/0000000000000001")).unwrap());
    });
    assert_eq!(files_of(&planted), BTreeSet::from(["state/0000000000000001"]));
    let foreign = report(&|path| drop(std::fs::File::create_new(path.join("segments/notes.txt")).unwrap()));
    assert_eq!(foreign.findings, []);
    assert!(foreign.notes.iter().any(|note| note.contains("notes.txt")), "{foreign:?}");
}

#[test]
fn damage_in_several_segments_is_told_for_each() {
    let log = Made::new(Alignment::WORD);
    let names = [0, 1, 3].map(|number| format!("segments/{}", SegmentFile::Frames(SegmentNumber::new(number)).name()));
    for name in &names {
        edit(&log.path.join(name), |bytes| bytes[20_000] ^= 1);
    }
    let report = verify(&log.path);
    assert_eq!(
        report.findings.iter().map(|finding| &finding.file).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    // The sidecars lead on: the size and root are those of the whole log.
    assert_eq!(report.records.get(), log.truth.len() as u64);
    std::fs::remove_file(log.path.join("segments/0000000000000001.tiles")).unwrap();
    let report = verify(&log.path);
    assert_eq!(report.findings.len(), 2);
    assert!(report.notes.iter().any(|note| note.contains("was not checked")), "{:?}", report.notes);
}

/// Computes every checksum and link again, as somebody would who knows the format.
fn relink(path: &Path, align: Alignment) {
    let mut link = 0;
    for number in (0..).map(SegmentNumber::new) {
        let file = path.join("segments").join(SegmentFile::Frames(number).name());
        if !file.exists() {
            return;
        }
        edit(&file, |bytes| {
            let mut at = usize::try_from(FRAMES_START.get()).unwrap();
            while at < bytes.len() {
                let offset = Offset::new(at as u64);
                let head = bytes[at..].first_chunk::<HEADER_BYTES>().unwrap();
                let mut header = FrameHeader::decode(head, number, offset).unwrap();
                header.link = link;
                header.body_checksum = crc32fast::hash(&bytes[at + HEADER_BYTES..][..header.body_len as usize]);
                let head = header.encode(number, offset);
                bytes[at..at + HEADER_BYTES].copy_from_slice(&head);
                link = stored_checksum(&head);
                at += usize::try_from(header.frame_len(align)).unwrap();
            }
        });
    }
}

#[test]
fn a_record_changed_with_all_checksums_is_found() {
    let log = Made::new(Alignment::WORD);
    relink(&log.path, Alignment::WORD);
    assert_eq!(verify(&log.path).findings, [], "nothing was changed");
    // A record that is the only one of its chain: no other names its hash.
    let name = "segments/0000000000000001.seg";
    edit(&log.path.join(name), |bytes| {
        let at = bytes.windows(6).position(|six| six == b"Single").unwrap();
        bytes[at..at + 6].copy_from_slice(b"Double");
    });
    relink(&log.path, Alignment::WORD);
    let report = verify(&log.path);
    let files = files_of(&report);
    for file in [name, "segments/0000000000000001.tiles", "checkpoint", "signing-state"] {
        assert!(files.contains(file), "{file}: {:?}", report.findings);
    }
    // Without anything that was signed or sealed since, and without sidecars, the seal record still tells.
    for file in ["checkpoint", "segments/0000000000000001.tiles"] {
        std::fs::remove_file(log.path.join(file)).unwrap();
    }
    assert!(files_of(&verify(&log.path)).contains(name));
}

#[test]
fn a_torn_group_is_a_note_and_rot_is_not() {
    let log = Made::new(Alignment::WORD);
    // As a kill leaves it: the log is open, so there is no clean mark.
    let copy = log.killed.path();
    let report = verify(copy);
    assert_eq!(report.findings, []);
    let last = format!("segments/{}", SegmentFile::Frames(SegmentNumber::new(report.segments - 1)).name());
    edit(&copy.join(&last), |bytes| bytes.extend_from_slice(b"SFRM and no more"));
    let torn = verify(copy);
    assert_eq!(torn.findings, []);
    assert_eq!((torn.records, torn.root), (report.records, report.root));
    assert!(torn.notes.iter().any(|note| note.contains(&last) && note.contains("not acknowledged")), "{torn:?}");
    // The same behind a clean stop is rot.
    let last = log.path.join("segments").join(SegmentFile::Frames(SegmentNumber::new(log.segments() - 1)).name());
    edit(&last, |bytes| bytes.extend_from_slice(b"SFRM and no more"));
    assert_eq!(verify(&log.path).findings.len(), 1);
}

#[test]
fn a_log_is_verified_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = made::create(&path, Alignment::WORD);
    for round in 0..40 {
        for number in 0..20 {
            made::push(&mut log, "s", "Line", format!("round {round} line {number}").as_bytes());
        }
        log.cut(Box::new(|result| result.unwrap())).unwrap();
        let report = verify(&path);
        assert_eq!(report.findings, [], "round {round}");
        assert!(report.records <= log.size());
    }
    log.checkpoint().unwrap();
    assert_eq!(verify(&path).findings, []);
    log.close().unwrap();
    assert_eq!(verify(&path).findings, []);
}

#[test]
fn a_checkpoint_and_a_policy_from_outside_are_held_against_the_log() {
    let log = Made::new(Alignment::WORD);
    let against = |policy: Option<&Policy>, checkpoint: Option<&str>| {
        let options = VerifyOptions {
            policy: policy.cloned(),
            checkpoint: checkpoint.map(|note| note.as_bytes().to_vec()),
            ..VerifyOptions::default()
        };
        let report = verify_log(&RealDisk, &LogDirectory::new(&log.path), &options, &mut |_| ()).unwrap();
        (report.checked_against, report.findings)
    };
    let own = Policy::parse(&std::fs::read(log.path.join("policy")).unwrap()).unwrap();
    let other = Made::new(Alignment::PAGE);
    let foreign = Policy::parse(&std::fs::read(other.path.join("policy")).unwrap()).unwrap();
    let (size, early) = (TreeSize::new(log.truth.len() as u64), &*log.early);
    let early_size = log.early_size;
    assert!(early_size < size);
    assert_eq!(against(Some(&own), None), (CheckedAgainst::Policy(size), vec![]));
    assert_eq!(against(None, Some(early)), (CheckedAgainst::Checkpoint(early_size), vec![]));
    assert_eq!(against(Some(&own), Some(early)), (CheckedAgainst::CheckpointAndPolicy(early_size), vec![]));
    for (policy, checkpoint) in [(Some(&foreign), None), (Some(&foreign), Some(early)), (None, Some(&*other.early))] {
        let (kind, findings) = against(policy, checkpoint);
        assert_eq!((kind, findings.len()), (CheckedAgainst::Itself, 1), "{findings:?}");
    }
    // Signed with the log's own keys, over what the log does not hold.
    let key = |name| {
        let text = std::fs::read_to_string(log.path.join("keys").join(name)).unwrap();
        SigningKey::parse(text.trim_end()).unwrap()
    };
    for (size, word) in [(early_size, "another root"), (TreeSize::new(1 << 20), "the log has")] {
        let checkpoint =
            Checkpoint { origin: Origin::new("example.com/test").unwrap(), size, root: leaf_hash(b"forged") };
        let text = checkpoint.to_string();
        let lines = vec![
            signature_line(&text, &key("log")).unwrap(),
            cosign(&checkpoint, &key("cosigner"), UnixSeconds::new(7)).unwrap(),
        ];
        let note = Note::new(&text, lines).unwrap().to_string();
        let (_, findings) = against(Some(&own), Some(&note));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains(word), "{findings:?}");
    }
}

#[test]
fn a_segment_file_is_verified_alone() {
    for align in [Alignment::PAGE, Alignment::WORD] {
        let log = Made::new(align);
        let alone = tempfile::tempdir().unwrap();
        for number in 0..log.segments() - 1 {
            let number = SegmentNumber::new(number);
            let whole = log.path.join("segments").join(SegmentFile::Frames(number).name());
            let report = verify_segment(&RealDisk, &whole).unwrap();
            assert_eq!((&report.findings, &report.notes), (&Vec::new(), &Vec::new()));
            let sealed = report.sealed.unwrap();
            assert_eq!(Some(&sealed), log.seal_record(number).as_ref());
            // Without its payload files and its mode.
            let path = alone.path().join(SegmentFile::Frames(number).name());
            std::fs::copy(&whole, &path).unwrap();
            edit(&path, |_| ());
            let report = verify_segment(&RealDisk, &path).unwrap();
            assert_eq!((report.findings.len(), report.sealed), (0, Some(sealed)));
            assert!(report.notes[0].contains("payload"), "{:?}", report.notes);
        }
        let mut random = Random(3);
        let name = SegmentFile::Frames(SegmentNumber::new(1)).name();
        for path in [alone.path().join(&name), log.path.join("segments").join(&name)] {
            let len = std::fs::metadata(&path).unwrap().len();
            for turn in 0..300 {
                let (at, bit) = (random.below(len), 1 << random.below(8));
                edit(&path, |bytes| bytes[at] ^= bit);
                let report = verify_segment(&RealDisk, &path).unwrap();
                assert_eq!((report.findings.len(), report.sealed), (1, None), "turn {turn}: byte {at}");
                edit(&path, |bytes| bytes[at] ^= bit);
            }
        }
        let open = log.path.join("segments").join(SegmentFile::Frames(SegmentNumber::new(log.segments() - 1)).name());
        let report = verify_segment(&RealDisk, &open).unwrap();
        assert_eq!((report.findings.len(), report.sealed), (0, None));
        assert!(report.notes.iter().any(|note| note.contains("not sealed")), "{:?}", report.notes);
    }
}

#[test]
fn what_is_no_log_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let options = VerifyOptions::default();
    let nothing = verify_log(&RealDisk, &LogDirectory::new(directory.path()), &options, &mut |_| ());
    assert!(matches!(nothing, Err(LogError::NoLog(_))), "{nothing:?}");
    let file = directory.path().join("a.seg");
    assert!(matches!(verify_segment(&RealDisk, &file), Err(LogError::File { .. })));
}

/// Proofs of some leaves, and the roots that they lead to.
fn proofs(path: &Path) -> Vec<(Vec<stele_proof::tree::Hash>, stele_proof::tree::Hash)> {
    let reader = LogReader::open(&Environment::system(), path).unwrap();
    let sizes = [reader.size(), TreeSize::new(257), TreeSize::new(511)];
    let of = |size: TreeSize| {
        let leaves = (0..size.get()).step_by(13).map(LeafIndex::new);
        leaves.map(|leaf| (reader.prove_inclusion(leaf, size).unwrap(), reader.root_at(size).unwrap())).collect()
    };
    sizes.into_iter().flat_map(|size| -> Vec<_> { of(size) }).collect()
}

#[test]
fn a_flipped_bit_in_any_level_of_a_sidecar_changes_no_proof() {
    let log = Made::new(Alignment::WORD);
    let good = proofs(&log.path);
    let sidecar = log.path.join("segments/0000000000000001.tiles");
    let len = std::fs::read(&sidecar).unwrap().len();
    // The frame table, the leaves, the nodes of level 4, the one of level 8.
    for at in [120, len / 2, len - 32 - 9 * 32, len - 1] {
        let mut before = 0;
        edit(&sidecar, |bytes| {
            before = bytes[at];
            bytes[at] ^= 4;
        });
        assert_eq!(proofs(&log.path), good, "byte {at} of {len}");
        assert!(files_of(&verify(&log.path)).contains("segments/0000000000000001.tiles"), "byte {at} of {len}");
        edit(&sidecar, |bytes| bytes[at] = before);
    }
    assert_eq!(verify(&log.path).findings, []);
}

#[test]
fn a_sidecar_of_an_older_format_counts_as_missing() {
    let log = Made::new(Alignment::WORD);
    let good = proofs(&log.path);
    let sidecar = log.path.join("segments/0000000000000001.tiles");
    let set_version = |version: u8| {
        edit(&sidecar, |bytes| {
            bytes[40] = version;
            let checksum = blake3::hash(&bytes[40..]);
            bytes[8..40].copy_from_slice(checksum.as_bytes());
        });
    };
    set_version(1);
    let report = verify(&log.path);
    assert_eq!(report.findings, []);
    let told = report.notes.iter().any(|note| note.starts_with("1 tile sidecars are missing or of an older format"));
    assert!(told, "{:?}", report.notes);
    assert_eq!(proofs(&log.path), good);
    // A newer one is none that this version can do without telling.
    set_version(3);
    assert!(files_of(&verify(&log.path)).contains("segments/0000000000000001.tiles"));
    assert_eq!(proofs(&log.path), good);
}
