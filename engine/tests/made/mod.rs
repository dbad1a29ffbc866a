//! A log for tests to look at and to spoil.

use std::fs::{OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use stele_engine::birth::CreateOptions;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::RealDisk;
use stele_engine::environment::{Environment, Workers};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight, SegmentNumber};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::reserved::SegmentSealed;
use stele_engine::verify::{LogReport, VerifyOptions, verify_log};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::{LeafIndex, TreeSize};
use tempfile::TempDir;

/// A log of several sealed segments and an open one, closed cleanly.
pub(crate) struct Made {
    _directory: TempDir,
    pub(crate) path: PathBuf,
    /// Every record with its payload.
    pub(crate) truth: Vec<ReadRecord>,
    /// The stored checkpoint, which covers everything.
    pub(crate) checkpoint: String,
    /// A checkpoint of half of it.
    pub(crate) early: String,
    pub(crate) early_size: TreeSize,
    /// A copy from when it was open for writing.
    pub(crate) killed: TempDir,
}

/// A new log with blocks of 256 leaves.
pub(crate) fn create(path: &Path, align: Alignment) -> LocalLog {
    let options = CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        frame_align: align,
        ..CreateOptions::new(Origin::new("example.com/test").unwrap())
    };
    LocalLog::create(&Environment::system(), path, &options).unwrap()
}

/// Appends a record; an empty payload is none.
pub(crate) fn push(log: &mut LocalLog, stream: &str, kind: &str, payload: &[u8]) {
    let builder = RecordBuilder {
        // An open segment that holds old records is sealed when its log is opened.
        ts_ms: Environment::system().clock.now(),
        writer_id: "w",
        stream,
        kind,
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    let salt = Salt::new([3; 32]);
    let payload = Some((&salt, payload)).filter(|(_, payload)| !payload.is_empty());
    log.push(&Submission::Draft { builder: &builder, payload }).unwrap();
}

impl Made {
    pub(crate) fn new(align: Alignment) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = create(&path, align);
        let mut early = String::new();
        let mut early_size = TreeSize::new(0);
        let mut killed = None;
        for number in 0..900 {
            let payload = format!("line {number} {}", "abc".repeat(number % 30));
            push(
                &mut log,
                if number % 3 == 0 { "t" } else { "s" },
                "Line",
                if number % 5 == 0 { b"" } else { payload.as_bytes() },
            );
            if number % 40 == 0 {
                log.flush().unwrap();
            }
            match number {
                100 => drop(log.end_segment().unwrap()),
                120 => push(&mut log, "once", "Single", b""),
                350 => {
                    early = log.checkpoint().unwrap();
                    early_size = log.size();
                }
                600 => {
                    log.flush().unwrap();
                    killed = Some(copy(&path));
                }
                _ => {}
            }
        }
        log.close().unwrap();
        let mut log = LocalLog::open(&Environment::system(), &path).unwrap();
        let checkpoint = log.checkpoint().unwrap();
        log.close().unwrap();
        let mut truth = Vec::new();
        let reader = LogReader::open(&Environment::system(), &path).unwrap();
        let all = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
        let mut keep = |record| -> Result<(), LogError> {
            truth.push(record);
            Ok(())
        };
        reader.read(all.0, all.1, Payloads::Read, &mut keep).unwrap();
        let killed = killed.unwrap();
        Self { _directory: directory, path, truth, checkpoint, early, early_size, killed }
    }

    /// Every file but the lock, relative to the log's directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        for directory in ["", "segments", "keys"] {
            for entry in std::fs::read_dir(self.path.join(directory)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() && entry.file_name() != "lock" {
                    let path = Path::new(directory).join(entry.file_name());
                    names.push(path.to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names
    }

    pub(crate) fn segments(&self) -> u64 {
        self.files().iter().filter(|name| name.ends_with(".seg")).count() as u64
    }

    /// The body of a segment's seal record.
    pub(crate) fn seal_record(&self, segment: SegmentNumber) -> Option<SegmentSealed> {
        let bodies = self.truth.iter().filter_map(|record| SegmentSealed::decode(&record.payload.as_ref()?.1).ok());
        bodies.into_iter().find(|body| body.segment == segment)
    }

    /// A copy of the whole log, modes included.
    pub(crate) fn copy(&self) -> TempDir {
        copy(&self.path)
    }
}

fn copy(path: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for directory in ["", "segments", "keys"] {
        let to = copy.path().join(directory);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(path.join(directory)).unwrap() {
            let entry = entry.unwrap();
            // A log that is being written may take its temporary files away meanwhile.
            if entry.path().extension().is_none_or(|ending| ending != "tmp") && entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

/// Verifies a log with nothing from outside.
pub(crate) fn verify(path: &Path) -> LogReport {
    let verify = |workers| {
        let options = VerifyOptions { workers, ..VerifyOptions::default() };
        verify_log(&RealDisk, &LogDirectory::new(path), &options, &mut |_| ()).unwrap()
    };
    let report = verify(Workers::Inline);
    // Two threads find what one finds, in the same order.
    assert_eq!(report.findings, verify(Workers::Threads).findings);
    report
}

/// Changes the bytes of a file, whatever its mode.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    change(&mut bytes);
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    file.write_all(&bytes).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

/// Numbers that look random and come again with the seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end).unwrap()
    }
}
