//! Writes that are cut short and then fail, by a limit on the size of files (FAULTS.md line 13).
//!
//! No signal interrupts a call of `stele` with an error: it installs no handler. What a signal can do is stop
//! and continue it, which `stopped` shows.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::process::{Writer, append, append_command, check_all_there, init, lines, on_log, piped, run, text, verify};

/// `append --json` where no file can grow beyond this many KiB.
fn limited(log: &Path, kibibytes: u32) -> Command {
    let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
    let append = append_command(log);
    let mut arguments: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref(), append.get_program()];
    arguments.extend(append.get_args());
    piped(Command::new("bash"), &arguments)
}

#[test]
fn a_write_that_is_cut_short_stops_the_log_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    // Neither limit lies where a frame or a page ends, so a write is cut short before the next one fails.
    for (name, padding, kibibytes, file) in [("frames", 1, 81, ".seg"), ("payloads", 9000, 101, ".pay")] {
        let log = directory.path().join(name);
        init(&log).output();
        let mut all = append(&log, &lines("before", 2));
        let sent: Vec<String> =
            lines("cut", 250).into_iter().map(|line| format!("{line} {}", "x".repeat(padding))).collect();
        let mut writer = Writer::start_as(limited(&log, kibibytes));
        // One at a time, so that many groups are durable before the one that fails.
        for (number, line) in sent.iter().enumerate() {
            writer.send(std::slice::from_ref(line));
            if !writer.wait_for(number + 1) {
                break;
            }
        }
        let (ended, acknowledged) = writer.end();
        ended.failed(1, &["stopped for good", "cannot write", file, "raise the limit"]);
        assert!((3..250).contains(&acknowledged.len()), "{} were acknowledged", acknowledged.len());
        all.extend(acknowledged);
        assert_eq!(check_all_there(&log, &all).len(), all.len(), "what was refused is not there");
        verify(&log);

        // Where the limit still stands it ends in the same way; without it the log goes on.
        let again = run(limited(&log, kibibytes), text(&sent).as_bytes());
        assert!(again.code == Some(1) && again.errors.contains("raise the limit"), "{again:?}");
        all.extend(again.acknowledged(sent));
        verify(&log);
        all.extend(append(&log, &lines("after", 300)));
        on_log(&["segment", "seal"], &log).output();
        check_all_there(&log, &all);
        verify(&log);
    }
}

/// A limit below the 16 KiB that a segment file is born with.
#[test]
fn a_log_that_cannot_be_made_or_rolled_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let sent = lines("line", 300);
    // The signing and hard state are 16 KiB, too: both can be written, a new segment can be begun, and no frame fits.
    let mut all = append(&log, &sent[..10]);
    let refused = run(limited(&log, 15), b"one\n");
    refused.refused(1, &["raise the limit"]);
    verify(&log);
    all.extend(append(&log, &sent[10..]));
    assert_eq!(check_all_there(&log, &all), sent);
    verify(&log);
}
