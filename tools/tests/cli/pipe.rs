//! Standard output that is closed, or full.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};

use crate::stele::command;

/// Leaf 0 of a tree of one.
fn case() -> String {
    let hash = "0".repeat(64);
    format!(r#"{{"index":0,"size":1,"leaf_hash":"{hash}","root":"{hash}","proof":[]}}"#)
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for arguments in [&["tlog", "inclusion"][..], &["record", "canon"]] {
        let mut child = command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let mut input = child.stdin.take().unwrap();
        let record = r#"{"v":1,"ts_ms":0,"writer_id":"w","seq":1,"stream":"s","kind":"K","actor":{},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;
        let text = if arguments[0] == "tlog" { case() + "\n" } else { record.to_owned() };
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    for arguments in [&["completions", "bash"][..], &["--help"], &["--version"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = command(arguments).stdout(full).output().unwrap();
        let errors = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {errors}");
        assert!(errors.starts_with("stele: cannot write to standard output: "), "{errors}");
    }
}
