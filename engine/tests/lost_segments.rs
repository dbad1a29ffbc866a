//! A log that has lost all its segments is a damaged log, and is never taken for a place without one: who made a new
//! log there would overwrite what a copy can still restore.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, reason = "each test binary uses its part")]
mod made;

use std::fs;
use std::path::Path;

use made::{create, edit, push};
use stele_engine::directory::LogDirectory;
use stele_engine::disk::RealDisk;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::local::LocalLog;
use stele_engine::number::Alignment;
use stele_engine::reader::LogReader;
use stele_engine::verify::{VerifyOptions, verify_log};

/// What verifying, reading and opening answer, in this order.
fn answers(path: &Path) -> [LogError; 3] {
    let verified = verify_log(&RealDisk, &LogDirectory::new(path), &VerifyOptions::default(), &mut |_| ());
    let read = LogReader::open(&Environment::system(), path).map(drop);
    let opened = LocalLog::open(&Environment::system(), path).map(drop);
    [verified.unwrap_err(), read.unwrap_err(), opened.unwrap_err()]
}

fn segment_files(path: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// What is done to a log.
type Loss<'l> = &'l dyn Fn(&Path);

#[test]
fn a_log_without_its_segments_is_damaged_and_not_absent() {
    let losses: [(&str, Loss<'_>); 5] = [
        ("no directory", &|path| fs::remove_dir_all(path.join("segments")).unwrap()),
        ("no file", &|path| segment_files(path).iter().for_each(|file| fs::remove_file(file).unwrap())),
        ("no file, and the hard-state rotten", &|path| {
            segment_files(path).iter().for_each(|file| fs::remove_file(file).unwrap());
            edit(&path.join("hard-state"), |bytes| bytes.fill(0xff));
        }),
        ("no header", &|path| {
            for file in segment_files(path) {
                edit(&file, |bytes| bytes[..64].fill(0xff));
            }
        }),
        ("no byte", &|path| segment_files(path).iter().for_each(|file| edit(file, Vec::clear))),
    ];
    for (what, lose) in losses {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = create(&path, Alignment::PAGE);
        push(&mut log, "s", "Line", b"a payload");
        log.close().unwrap();
        lose(&path);
        for (who, error) in ["verify", "read", "open"].iter().zip(answers(&path)) {
            let text = error.to_string();
            assert!(!matches!(error, LogError::NoLog(_) | LogError::Unfinished(_)), "{what}, {who}: {text}");
            // Without any segment it is the hard state that tells that there were some.
            let named = text.contains("segments") || what.contains("hard-state") && text.contains("hard-state");
            assert!(named, "{what}, {who}: {text}");
        }
    }
}
