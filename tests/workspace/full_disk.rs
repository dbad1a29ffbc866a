//! A file system that is full: a real one of 64 MiB, mounted by the test (FAULTS.md line 15).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{
    Acknowledged, Ended, Writer, append, append_command, check_all_there, init, lines, on_log, run, text, verify,
};

/// A mounted file system, unmounted when dropped.
struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None`, and a message, where this process may not mount.
    fn new(options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(directory.path().join("mnt")).unwrap();
        let mounted = Self { directory };
        let mount_point = mounted.path();
        let mut make: Vec<&OsStr> = vec!["mkfs.ext4".as_ref(), "-q".as_ref()];
        make.extend(options.iter().map(OsStr::new));
        make.push(image.as_os_str());
        let mount: Vec<&OsStr> =
            vec!["mount".as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str(), mount_point.as_os_str()];
        for step in [make, mount] {
            let done = Command::new(step[0]).args(&step[1..]).output();
            if !done.as_ref().is_ok_and(|output| output.status.success()) {
                let skipped = format!("SKIPPED: {step:?} is not allowed here, no real full file system ({done:?})\n");
                // Past the harness, which shows what a test prints only where it fails.
                std::io::stderr().write_all(skipped.as_bytes()).unwrap();
                return None;
            }
        }
        Some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// Fills the file system to the last block but these.
    fn fill(&self, blocks_left: u64) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for step in [1 << 20, 4096] {
            let bytes = vec![1; step];
            while file.write_all(&bytes).is_ok() {}
        }
        file.sync_all().unwrap();
        let len = file.metadata().unwrap().len();
        file.set_len(len.next_multiple_of(4096) - blocks_left * 4096).unwrap();
        file.sync_all().unwrap();
        path
    }

    /// Takes every inode; answers the files.
    fn take_inodes(&self) -> Vec<PathBuf> {
        (0..)
            .map(|number| self.path().join(format!("inode-{number}")))
            .take_while(|path| File::create(path).is_ok())
            .collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Where it was never mounted this fails, and that is fine.
        drop(Command::new("umount").arg(self.path()).stderr(Stdio::null()).status());
    }
}

/// No space: one sentence, and what to do.
#[track_caller]
fn told_to_make_room(ended: &Ended) {
    ended.failed(1, &["make room"]);
}

fn long_lines(name: &str, count: usize) -> Vec<String> {
    let padding = "x".repeat(2000);
    lines(name, count).into_iter().map(|line| format!("{line} {padding}")).collect()
}

fn append_until_full(log: &Path, sent: &[String]) -> (Ended, Vec<Acknowledged>) {
    let filled = run(append_command(log), text(sent).as_bytes());
    let acknowledged = filled.acknowledged(sent.to_vec());
    (filled, acknowledged)
}

#[test]
fn a_full_disk_refuses_clearly_loses_nothing_and_goes_on_when_there_is_room() {
    let Some(mounted) = Mounted::new(&[]) else { return };
    let log = mounted.path().join("log");
    on_log(&["init", "--origin", "example.com/full"], &log).output();
    let spare = mounted.path().join("spare");
    File::create(&spare).and_then(|mut file| file.write_all(&vec![1; 16 << 20])).unwrap();
    let (filled, mut all) = append_until_full(&log, &long_lines("first", 40_000));
    told_to_make_room(&filled);
    assert!(all.len() > 5000, "only {} records before the disk was full", all.len());
    check_all_there(&log, &all);

    // Not one byte free: opening and reading still work, appending is refused.
    let filler = mounted.fill(0);
    let refused = run(append_command(&log), b"one\n");
    told_to_make_room(&refused);
    assert_eq!(refused.output, "");
    check_all_there(&log, &all);

    // With room again it goes on where it was.
    std::fs::remove_file(&filler).unwrap();
    verify(&log);
    let sealed = on_log(&["segment", "seal"], &log);
    assert_eq!(sealed.code, Some(0), "the low-water mark left room to seal: {sealed:?}");
    std::fs::remove_file(&spare).unwrap();
    all.extend(append(&log, &lines("more", 1)));
    check_all_there(&log, &all);
    verify(&log);
}

/// What is queued and not yet written counts as taken: however slow the disk, the low-water mark is what stops a log,
/// and leaves room to seal and to sign.
#[test]
fn the_low_water_mark_holds_for_what_is_queued_too() {
    let Some(mounted) = Mounted::new(&[]) else { return };
    let log = mounted.path().join("log");
    init(&log).output();
    let padding = "x".repeat(500_000);
    let sent: Vec<String> = lines("large", 160).into_iter().map(|line| format!("{line} {padding}")).collect();
    let (filled, all) = append_until_full(&log, &sent);
    told_to_make_room(&filled);
    assert!(filled.errors.contains("kept for sealing"), "it ran into the end of the disk: {}", filled.errors);
    check_all_there(&log, &all);
    on_log(&["segment", "seal"], &log).output();
    on_log(&["checkpoint"], &log).output();
    verify(&log);
}

/// The clean mark and the incarnation are written over what is there, so that they need no room.
#[test]
fn a_log_closes_opens_and_signs_without_a_free_byte() {
    let Some(mounted) = Mounted::new(&[]) else { return };
    let log = mounted.path().join("log");
    init(&log).output();
    let mut writer = Writer::start(&log);
    writer.send(&lines("first", 10));
    assert!(writer.wait_for(10));
    let filler = mounted.fill(0);
    let (closed, mut all) = writer.end();
    assert_eq!((closed.code, closed.errors.as_str()), (Some(0), ""), "closing cleanly needs no room");
    for _ in 0..3 {
        assert_eq!(run(append_command(&log), b"").code, Some(0), "opening and closing needs no room");
        let refused = run(append_command(&log), b"one\n");
        told_to_make_room(&refused);
        assert_eq!(refused.output, "");
    }
    check_all_there(&log, &all);
    verify(&log);
    told_to_make_room(&on_log(&["checkpoint"], &log));
    std::fs::remove_file(&filler).unwrap();
    on_log(&["checkpoint"], &log).output();
    all.extend(append(&log, &lines("more", 300)));
    check_all_there(&log, &all);
    verify(&log);
}

/// Somebody else fills the disk while the log is written, so that the low-water mark cannot help: the write of a
/// frame fails, or the creation of the next segment's file, or sealing.
#[test]
fn a_disk_that_fills_up_under_a_writer_stops_it_and_loses_nothing() {
    let Some(mounted) = Mounted::new(&[]) else { return };
    let log = mounted.path().join("log");
    init(&log).output();
    let mut all = Vec::new();
    for blocks_left in [0, 2, 4, 5, 6, 8, 10, 12] {
        // Close to the end of a block, so that it is completed between two looks of the writer at the free space.
        let to_roll = 256 - size(&log) % 256;
        let lead = if to_roll > 40 { to_roll - 30 } else { to_roll + 226 };
        all.extend(append(&log, &lines(&format!("lead-{blocks_left}"), lead)));
        let sent = lines(&format!("left-{blocks_left}"), 80);
        let mut writer = Writer::start(&log);
        writer.send(&sent[..2]);
        assert!(writer.wait_for(2));
        let filler = mounted.fill(blocks_left);
        writer.send(&sent[2..]);
        let (ended, acknowledged) = writer.end();
        told_to_make_room(&ended);
        println!("{blocks_left} blocks left, {} acknowledged: {}", acknowledged.len(), ended.errors);
        all.extend(acknowledged);
        // Readable and good as it lies there, and opened without a free byte or refused with what to do.
        check_all_there(&log, &all);
        verify(&log);
        let opened = run(append_command(&log), b"");
        assert!(opened.code == Some(0) || opened.errors.contains("make room"), "{opened:?}");
        check_all_there(&log, &all);
        verify(&log);
        std::fs::remove_file(&filler).unwrap();
        all.extend(append(&log, &lines(&format!("room-{blocks_left}"), 2)));
    }
    on_log(&["segment", "seal"], &log).output();
    check_all_there(&log, &all);
    verify(&log);
}

/// How many records a log holds.
fn size(log: &Path) -> usize {
    let last = on_log(&["tail", "-n", "1", "--json"], log).output();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    1 + usize::try_from(last["index"].as_u64().unwrap()).unwrap()
}

/// Room for bytes, and none for one more file: everything that makes a file meets it.
#[test]
fn a_file_system_without_inodes_stops_a_log_at_its_next_file_and_not_before() {
    let Some(mounted) = Mounted::new(&["-N", "128"]) else { return };
    let log = mounted.path().join("log");
    init(&log).output();
    let mut all = append(&log, &lines("first", 10));
    let taken = mounted.take_inodes();
    assert!(!taken.is_empty());

    // Frames go into the file that is there; the one behind it cannot be made.
    let sent = lines("second", 400);
    let (stopped, acknowledged) = append_until_full(&log, &sent);
    told_to_make_room(&stopped);
    assert!(stopped.errors.contains("0000000000000001.seg"), "{}", stopped.errors);
    all.extend(acknowledged);
    assert_eq!(check_all_there(&log, &all).len(), 255, "the whole block is there, acknowledged or not");
    verify(&log);

    // Nothing that needs a file works; all of it says so, again and again.
    for _ in 0..2 {
        told_to_make_room(&run(append_command(&log), b"third\n"));
        told_to_make_room(&on_log(&["segment", "seal"], &log));
        told_to_make_room(&on_log(&["checkpoint"], &log));
        check_all_there(&log, &all);
        verify(&log);
    }

    // One file at a time becomes free: the log gets further each time, and never back.
    let mut refused = 0;
    for path in &taken {
        std::fs::remove_file(path).unwrap();
        let tried = run(append_command(&log), b"third\n");
        all.extend(tried.acknowledged(["third".to_owned()]));
        check_all_there(&log, &all);
        verify(&log);
        if tried.code == Some(0) {
            break;
        }
        told_to_make_room(&Ended { errors: last_line(&tried.errors), ..tried });
        refused += 1;
    }
    assert!(refused < taken.len());
    println!("{refused} files were not enough");
    // Some are gone already.
    taken.iter().for_each(|path| drop(std::fs::remove_file(path)));
    all.extend(append(&log, &lines("fourth", 300)));
    on_log(&["checkpoint"], &log).output();
    check_all_there(&log, &all);
    verify(&log);
}

fn last_line(text: &str) -> String {
    text.lines().last().map(|line| format!("{line}\n")).unwrap_or_default()
}

#[test]
fn a_log_is_not_begun_where_there_is_no_room_for_it() {
    let Some(mounted) = Mounted::new(&["-N", "128"]) else { return };
    let log = mounted.path().join("a/log");
    for blocks_left in [0, 1, 3, 10, 60] {
        let filler = mounted.fill(blocks_left);
        let refused = init(&log);
        told_to_make_room(&refused);
        assert_eq!(refused.output, "");
        assert!(!mounted.path().join("a").exists(), "nothing was begun");
        std::fs::remove_file(&filler).unwrap();
    }
    // Without inodes it cannot be known beforehand: it says what to do, and afterwards what to do with the rest.
    let mut taken = mounted.take_inodes();
    for _ in 0..14 {
        let ended = init(&log);
        if ended.code == Some(0) {
            break;
        }
        told_to_make_room(&ended);
        std::fs::remove_file(taken.pop().unwrap()).unwrap();
        if let Err(error) = std::fs::remove_dir_all(&log) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
    }
    append(&log, &lines("first", 3));
    std::fs::remove_file(taken.pop().unwrap()).unwrap();
    on_log(&["checkpoint"], &log).output();
    verify(&log);
}
