//! A sink in memory leaves nothing behind. Alone in its process, because it looks at the whole of it.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_os = "linux")]

use stele_engine::sink::{AuditSink as _, RamSettings, RamSink};
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

/// Bytes that this process has passed to calls that write, and the files it has open.
fn written_and_open() -> (String, usize) {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let written = io.lines().find(|line| line.starts_with("wchar:")).unwrap().to_owned();
    (written, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
fn a_sink_in_memory_writes_no_byte_and_opens_no_file() {
    let before = written_and_open();
    let sink = RamSink::new(RamSettings::default());
    let attrs = Object::default();
    let draft = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream: "s",
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &attrs,
        payload: None,
    };
    for _ in 0..2000 {
        sink.emit(&draft).unwrap();
    }
    sink.flush().unwrap();
    assert_eq!(sink.held().unwrap().len(), 2000);
    drop(sink);
    assert_eq!(written_and_open(), before);
}
