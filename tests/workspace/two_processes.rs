//! Several processes on one directory (FAULTS.md line 21).

use std::process::Child;

use crate::process::{
    Ended, Writer, append, append_command, check_all_there, ended, init, lines, on_log, on_log_command, run, text,
    verify,
};

#[test]
fn the_second_process_refuses_and_names_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let mut writer = Writer::start(&log);
    writer.send(&lines("first", 1));
    assert!(writer.wait_for(1));
    let holder = format!("in use by process {};", writer.process());
    run(append_command(&log), b"second\n").refused(7, &[&holder]);
    init(&log).refused(7, &[&holder]);
    on_log(&["segment", "seal"], &log).refused(7, &[&holder]);
    on_log(&["checkpoint"], &log).refused(7, &[&holder]);
    on_log(&["prove", "1", "-o", "-"], &log).refused(7, &[&holder]);
    let (_, mut all) = writer.end();
    init(&log).refused(1, &["is not empty"]);
    all.extend(append(&log, &lines("second", 1)));
    on_log(&["segment", "seal"], &log).output();
    on_log(&["checkpoint"], &log).output();
    assert_eq!(check_all_there(&log, &all), ["first 0", "second 0"]);
    verify(&log);
}

#[test]
fn the_lock_file_of_a_killed_process_locks_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let mut writer = Writer::start(&log);
    writer.send(&lines("first", 1));
    assert!(writer.wait_for(1));
    let process = writer.process().to_string();
    let mut all = writer.kill();
    assert_eq!(std::fs::read_to_string(log.join("lock")).unwrap().trim(), process, "the killed process left its id");
    on_log(&["checkpoint"], &log).output();
    all.extend(append(&log, &lines("second", 1)));
    check_all_there(&log, &all);
}

#[test]
fn of_many_appends_at_once_one_works_at_a_time_and_each_loses_all_or_nothing() {
    const LINES: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let (mut all, mut done, mut refused) = (Vec::new(), Vec::new(), 0);
    for round in 0..3 {
        let names: Vec<String> = (0..8).map(|number| format!("{round}-{number}")).collect();
        let writers: Vec<Writer> = names
            .iter()
            .map(|name| {
                let mut writer = Writer::start(&log);
                writer.feed(&lines(name, LINES));
                writer
            })
            .collect();
        for (name, writer) in names.into_iter().zip(writers) {
            let (ended, acknowledged) = writer.end();
            if ended.code == Some(0) {
                assert_eq!(acknowledged.len(), LINES);
                all.extend(acknowledged);
                done.push(name);
            } else {
                assert!(acknowledged.is_empty());
                ended.failed(7, &["in use by process"]);
                refused += 1;
            }
        }
    }
    println!("{} wrote, {refused} were refused", done.len());
    let shown = check_all_there(&log, &all);
    assert!(done.len() >= 3, "in each round at least one gets the lock");
    assert_eq!(shown.len(), done.len() * LINES, "who was refused wrote nothing");
    for lines_of_one in shown.chunks(LINES) {
        let name = lines_of_one[0].split(' ').next().unwrap();
        assert_eq!(lines_of_one, lines(name, LINES), "nobody wrote in between");
    }
    verify(&log);
}

/// An `init` that waited for the lock of another one must not make its log over that one's.
#[test]
fn of_many_inits_at_once_one_makes_the_log_and_the_others_leave_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let log = directory.path().join(round.to_string());
        let spawn = |_| on_log_command(&["init", "--origin", "example.com/real"], &log).spawn().unwrap();
        let children: Vec<Child> = (0..6).map(spawn).collect();
        let all: Vec<Ended> = children.into_iter().map(ended).collect();
        let (made, others): (Vec<_>, Vec<_>) = all.iter().partition(|ended| ended.code == Some(0));
        assert_eq!(made.len(), 1, "round {round}: {all:?}");
        for other in others {
            let code = other.code.unwrap();
            assert!(code == 7 || code == 1, "{other:?}");
            other.refused(code, &[if code == 7 { "in use by process" } else { "is not empty" }]);
        }
        let key = made[0].output.lines().find_map(|line| line.strip_prefix("log key: ")).unwrap();
        let policy = std::fs::read_to_string(log.join("policy")).unwrap();
        assert!(policy.contains(key), "round {round}: the log is not the one that was made");
        run(append_command(&log), text(&lines("first", 1)).as_bytes()).output();
        on_log(&["checkpoint"], &log).output();
        verify(&log);
    }
}
