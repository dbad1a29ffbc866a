//! Processes that are stopped in the middle, and continued (FAULTS.md line 17): a writer on one machine, and a leader.

use std::path::Path;
use std::time::Duration;

use stele_engine::environment::Environment;
use stele_tools::remote::{call, runtime};
use stele_tools::sites::{Plan, Sites};
use tokio::time::Instant;

use crate::cluster::{append_to, told, who_leads};
use crate::process::{
    Writer, append, append_command, check_all_there, init, lines, on_log, run, signal, until, verify,
};

/// What a client has by default.
const PATIENCE_FOR_AN_ANSWER: Duration = Duration::from_secs(15);

fn state(process: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn stop(process: u32) {
    signal(process, "STOP");
    until("the process is stopped", || state(process) == 'T');
}

fn refuses_others(log: &Path, process: u32) {
    let process = format!("process {process};");
    run(append_command(log), b"other\n").refused(7, &["in use by", &process]);
    on_log(&["segment", "seal"], log).refused(7, &["in use by", &process]);
}

fn shown(log: &Path) -> Vec<String> {
    on_log(&["read", "0..1000000", "--json"], log).output().lines().map(str::to_owned).collect()
}

#[test]
fn a_stopped_writer_keeps_others_out_and_readers_wait_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let mut all = append(&log, &lines("before", 3));
    let checkpoint = on_log(&["checkpoint"], &log).output();

    // Stopped as soon as it has the lock, maybe while it opens.
    let mut writer = Writer::start(&log);
    let holder = writer.process().to_string();
    until("the writer has the lock", || std::fs::read_to_string(log.join("lock")).unwrap().trim() == holder);
    stop(writer.process());
    refuses_others(&log, writer.process());
    assert_eq!(shown(&log).len(), 4);
    assert_eq!(on_log(&["checkpoint"], &log).output(), checkpoint, "nothing is new, so nothing is signed or locked");
    verify(&log);
    signal(writer.process(), "CONT");

    // Stopped while it is idle: what was acknowledged is confirmed and shown.
    let idle = lines("idle", 300);
    writer.send(&idle);
    assert!(writer.wait_for(idle.len()));
    until("the flush ring confirms what was acknowledged", || shown(&log).len() >= 4 + idle.len());
    stop(writer.process());
    let before = shown(&log);
    assert_eq!(before.len(), 4 + idle.len());
    refuses_others(&log, writer.process());
    on_log(&["checkpoint"], &log).refused(7, &["in use by process"]);
    verify(&log);
    signal(writer.process(), "CONT");

    // Stopped in the middle, over and over.
    let busy = lines("busy", 3000);
    for (round, chunk) in busy.chunks(300).enumerate() {
        writer.send(chunk);
        assert!(writer.wait_for(idle.len() + round * 300 + 1));
        stop(writer.process());
        let now = shown(&log);
        assert!(now.starts_with(&before), "{} records, {} before", now.len(), before.len());
        let tail = on_log(&["tail", "-n", "5", "--json"], &log).output();
        assert_eq!(tail.lines().collect::<Vec<_>>(), now[now.len() - 5..]);
        if round % 5 == 0 {
            refuses_others(&log, writer.process());
            verify(&log);
        }
        signal(writer.process(), "CONT");
    }
    let (ended, acknowledged) = writer.end();
    assert_eq!((ended.code, ended.errors.as_str()), (Some(0), ""));
    assert_eq!(acknowledged.len(), idle.len() + busy.len());
    all.extend(acknowledged);
    assert_eq!(check_all_there(&log, &all), [lines("before", 3), idle, busy].concat());
    verify(&log);
}

/// A client notices by its probes that nobody is there: else it would wait as long as for a slow answer.
#[test]
fn a_leader_that_is_stopped_costs_a_client_less_than_its_patience_for_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let plan = Plan { directory: directory.path(), sites: 3, extra: "", delay: None };
    runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let mut sites = told(Sites::make(&Environment::system(), &plan).await);
        told(sites.start());
        let connected = told(sites.ready().await);
        let mut writer = Writer::start_as(append_to(&sites.reach().endpoint.join(",")));
        writer.send(&lines("before", 20));
        assert!(writer.wait_for(20));

        let leader = who_leads(&connected).await;
        let process = sites.all().iter().find(|site| site.node == leader).unwrap().process().unwrap();
        stop(process);
        let stopped = Instant::now();
        writer.send(&lines("after", 20));
        assert!(writer.wait_for(40), "two of three go on, and so does their client");
        let took = stopped.elapsed();
        println!("a stopped leader cost {} ms", took.as_millis());
        // What an election takes in a build for development on a busy machine comes on top of the probe.
        assert!(took < PATIENCE_FOR_AN_ANSWER - Duration::from_secs(3), "{took:?}");
        signal(process, "CONT");
        let (ended, acknowledged) = writer.end();
        assert_eq!((ended.code, acknowledged.len()), (Some(0), 40), "{}", ended.errors);
        told(sites.caught_up().await);
        let size = told(connected.client.describe().await.map_err(call)).size;
        assert!(size >= 41, "{size} records");
        let logs: Vec<_> = sites.all().iter().map(stele_tools::sites::Site::log).collect();
        told(sites.stop().await);
        logs.iter().for_each(|log| verify(log));
    });
}
