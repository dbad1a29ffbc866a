//! The bound of a sink in memory, as the system counts it: a process of its own, in which nothing else runs.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_os = "linux")]

use stele_engine::sink::{AppendError, AuditSink as _, RamSettings, RamSink};
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn a_full_sink_takes_little_more_than_its_bound_and_does_not_grow() {
    const BOUND: usize = 32 << 20;
    let sink = RamSink::new(RamSettings { max_bytes: BOUND, ..RamSettings::default() });
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
    let before = resident();
    // Small records: what each takes beside its bytes weighs most.
    let fill = || loop {
        match sink.emit(&draft) {
            Ok(_) => {}
            Err(AppendError::Busy { waiting, bound }) => {
                assert!(waiting <= bound && bound == BOUND);
                return;
            }
            Err(error) => panic!("{error}"),
        }
    };
    fill();
    let full = resident() - before;
    // 65,536 identities are remembered beside the records, and a queue has room to grow.
    assert!(full > BOUND / 2 && full < 2 * BOUND, "{full} bytes for a bound of {BOUND}");
    for _ in 0..3 {
        for _ in 0..10_000 {
            assert!(matches!(sink.emit(&draft), Err(AppendError::Busy { .. })));
        }
        drop(sink.drain(20_000).unwrap());
        fill();
    }
    let later = resident() - before;
    assert!(later < full + full / 4, "{full} bytes, then {later}");
}
