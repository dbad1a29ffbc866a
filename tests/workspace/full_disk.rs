//! A file system that is full: a real one of 64 MiB, mounted by the test (FAULTS.md line 15).

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads};
use stele_proof::LeafIndex;

/// A mounted file system, unmounted when dropped.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None`, and a message, where this process may not mount.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        let mounted = Self { directory };
        let mount_point = mounted.path();
        let steps: [&[&OsStr]; 2] = [
            &["mkfs.ext4".as_ref(), "-q".as_ref(), image.as_os_str()],
            &["mount".as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount_point.as_os_str()],
        ];
        for step in steps {
            let done = Command::new(step[0]).args(&step[1..]).output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                println!("skipped: {step:?} is not allowed here, a real full file system was not tried ({done:?})");
                return None;
            }
        }
        Some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Where it was never mounted this fails, and that is fine.
        drop(Command::new("umount").arg(self.path()).stderr(Stdio::null()).status());
    }
}

fn stele(arguments: &[&OsStr], input: &[u8]) -> Output {
    let program = stele_binary();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

/// The command line, built beside this test.
fn stele_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.ancestors().nth(2).unwrap();
    let binary = directory.join("stele");
    assert!(binary.exists(), "{} is missing; run the tests of the whole workspace", binary.display());
    binary
}

fn append(log: &Path, input: &[u8]) -> Output {
    let mut arguments: Vec<&OsStr> = vec!["append".as_ref(), "--log".as_ref(), log.as_os_str()];
    arguments.extend(["--stream", "s", "--writer", "w", "--kind", "Line", "--json", "-"].map(OsStr::new));
    stele(&arguments, input)
}

fn acknowledged(output: &Output) -> Vec<(u64, String)> {
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    lines
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["index"].as_u64().unwrap(), line["self_hash"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn check_all_there(log: &Path, acknowledged: &[(u64, String)]) {
    let reader = LogReader::open(&Environment::system(), log).unwrap();
    let mut hashes = Vec::new();
    let (first, end) = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
    reader
        .read::<LogError>(first, end, Payloads::Read, &mut |record| {
            hashes.push(stele_proof::record::SelfHash::of(&record.canonical).to_string());
            Ok(())
        })
        .unwrap();
    for (index, hash) in acknowledged {
        assert_eq!(&hashes[usize::try_from(*index).unwrap()], hash, "record {index} was acknowledged");
    }
}

#[test]
fn a_full_disk_refuses_clearly_loses_nothing_and_goes_on_when_there_is_room() {
    let Some(mounted) = Mounted::new() else { return };
    let log = mounted.path().join("log");
    let made = stele(
        &["init".as_ref(), "--log".as_ref(), log.as_os_str(), "--origin".as_ref(), "example.com/full".as_ref()],
        b"",
    );
    assert!(made.status.success(), "{made:?}");
    let line = format!("{}\n", "x".repeat(2000));
    let filled = append(&log, line.repeat(40_000).as_bytes());
    assert_eq!(filled.status.code(), Some(1));
    let errors = String::from_utf8(filled.stderr.clone()).unwrap();
    assert!(errors.contains("make room") && errors.matches('\n').count() == 1, "{errors}");
    let mut all = acknowledged(&filled);
    assert!(all.len() > 5000, "only {} records before the disk was full", all.len());
    check_all_there(&log, &all);

    // Not one byte free: opening and reading still work, appending is refused.
    let filler = mounted.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let refused = append(&log, b"one\n");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("make room"));
    assert!(refused.stdout.is_empty());
    check_all_there(&log, &all);

    // With room again it goes on where it was.
    std::fs::remove_file(&filler).unwrap();
    let verified = stele(&["verify".as_ref(), "log".as_ref(), log.as_os_str()], b"");
    assert!(verified.status.success(), "{verified:?}");
    let sealed = stele(&["segment".as_ref(), "seal".as_ref(), "--log".as_ref(), log.as_os_str()], b"");
    assert!(sealed.status.success(), "the low-water mark left room to seal: {sealed:?}");
    // Room is made by moving the first sealed payload file away for the moment.
    let payload = log.join("segments").join("0000000000000000.0.pay");
    let aside = mounted.directory.path().join("aside.pay");
    std::fs::copy(&payload, &aside).unwrap();
    std::fs::remove_file(&payload).unwrap();
    let more = append(&log, b"more\n");
    assert!(more.status.success(), "{more:?}");
    std::fs::copy(&aside, &payload).unwrap();
    all.extend(acknowledged(&more));
    check_all_there(&log, &all);
}
