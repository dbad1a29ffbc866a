//! Standard streams that are closed or full while a log is written.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{append, append_command, check_all_there, init, lines, on_log_command, piped, run, text, verify};

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// `append --json` with some of its streams closed by the shell.
fn redirected(log: &Path, redirection: &str) -> Command {
    let script = format!("exec \"$0\" \"$@\" {redirection}");
    let append = append_command(log);
    let mut arguments: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref(), append.get_program()];
    arguments.extend(append.get_args());
    piped(Command::new("bash"), &arguments)
}

#[test]
fn acknowledgements_that_cannot_be_printed_end_appending_and_the_log_stays_good() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let mut command = append_command(&log);
    command.stdout(full());
    run(command, text(&lines("unheard", 10)).as_bytes()).failed(1, &["cannot write to standard output"]);
    let unheard = check_all_there(&log, &[]);
    assert!(lines("unheard", 10).starts_with(&unheard), "{unheard:?}");
    let all = append(&log, &lines("heard", 1));
    let mut read = on_log_command(&["read", "0..100"], &log);
    read.stdout(full());
    run(read, b"").failed(1, &["cannot write to standard output"]);
    let mut checkpoint = on_log_command(&["checkpoint"], &log);
    checkpoint.stdout(full());
    run(checkpoint, b"").failed(1, &["cannot write to standard output"]);
    check_all_there(&log, &all);
    verify(&log);
}

/// The first file that a process opens gets the lowest free number: it must not be that of a standard stream.
#[test]
fn closed_standard_streams_never_become_files_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let closed_input = run(redirected(&log, "<&-"), b"");
    assert_eq!((closed_input.code, closed_input.output.as_str(), closed_input.errors.as_str()), (Some(0), "", ""));
    let sent = lines("line", 20);
    assert_eq!(run(redirected(&log, ">&- 2>&-"), text(&sent).as_bytes()).code, Some(0));
    assert_eq!(run(redirected(&log, "<&- >&- 2>&-"), b"").code, Some(0));
    assert_eq!(check_all_there(&log, &[]), sent);
    verify(&log);
}
