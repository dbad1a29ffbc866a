//! A process that may open only a few files.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::process::{append, append_command, check_all_there, init, lines, on_log, piped, run, text, verify};

/// `append --json` where no more than this many files can be open at once.
fn limited(log: &Path, files: u32) -> Command {
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    let append = append_command(log);
    let mut arguments: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref(), append.get_program()];
    arguments.extend(append.get_args());
    piped(Command::new("bash"), &arguments)
}

#[test]
fn without_file_descriptors_a_command_says_so_and_nothing_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    // Segments roll on the way, so that files are opened at the start, in the middle and at the end.
    let mut all = append(&log, &lines("before", 300));
    let (mut refused, mut done) = (0, 0);
    for files in 4..32 {
        let sent = lines(&format!("limit {files}"), 150);
        let ended = run(limited(&log, files), text(&sent).as_bytes());
        all.extend(ended.acknowledged(sent));
        if ended.code == Some(0) {
            done += 1;
        } else if !ended.errors.starts_with("stele: ") {
            // So few that the program cannot even be loaded.
            assert_eq!((ended.code, ended.output.as_str()), (Some(127), ""), "{ended:?}");
        } else {
            ended.failed(1, &["Too many open files"]);
            refused += 1;
        }
        verify(&log);
        if done == 3 {
            break;
        }
    }
    assert!(refused > 2 && done == 3, "{refused} were refused, {done} went through");
    all.extend(append(&log, &lines("after", 300)));
    on_log(&["segment", "seal"], &log).output();
    check_all_there(&log, &all);
    verify(&log);
}
