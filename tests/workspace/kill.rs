//! kill -9 of the real process, at every step it can be caught in (FAULTS.md lines 7, 20 and 22).

use std::path::Path;
use std::time::Duration;

use crate::process::{Writer, append, check_all_there, ended, init, lines, on_log, on_log_command, until, verify};

/// Where `STELE_SEED` names none.
const SEED: u64 = 0x5e_ed;
/// Where `STELE_ROUNDS` asks for no more.
const ROUNDS: u64 = 24;
/// Lines that are fed in a round: some segments full.
const LINES: usize = 1500;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    fn count(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// Lets some time pass, so that the process is caught anywhere; nothing is waited for.
    fn linger(&mut self, at_most: Duration) {
        let micros = u64::try_from(at_most.as_micros()).unwrap();
        std::thread::park_timeout(Duration::from_micros(self.below(micros)));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Expects what is in the log to be, round by round, the first lines that were sent, each once and in order.
fn check_order(shown: &[String]) {
    let mut before = String::new();
    let mut expected = 0;
    for line in shown {
        let (round, number) = line.split_once(' ').unwrap();
        expected = if round == before { expected + 1 } else { 0 };
        assert_eq!(number.parse(), Ok(expected), "of round {round}");
        before = round.to_owned();
    }
}

#[test]
fn what_was_acknowledged_before_any_kill_is_there_and_the_log_goes_on() {
    let (seed, rounds) = (number("STELE_SEED", SEED), number("STELE_ROUNDS", ROUNDS));
    println!("STELE_SEED={seed} STELE_ROUNDS={rounds}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    init(&log).output();
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let action = random.below(5);
        println!("round {round}: action {action}");
        let sent = lines(&format!("r{round}"), LINES);
        match action {
            // While appending, and so while rolling and sealing: about every second time.
            0 | 1 => {
                let mut writer = Writer::start(&log);
                writer.feed(&sent);
                writer.wait_for(random.count(700));
                acknowledged.extend(writer.kill());
            }
            // While closing: sealing what ended, appending seal records, marking the clean stop.
            2 => {
                let mut writer = Writer::start(&log);
                writer.feed(&sent[..300 + random.count(300)]);
                random.linger(Duration::from_millis(60));
                writer.wait_for(300);
                random.linger(Duration::from_millis(30));
                acknowledged.extend(writer.kill());
            }
            // While opening, which recovers; while signing; while sealing by hand.
            3 => kill_soon(&["checkpoint"], &log, &mut random),
            _ => kill_soon(&["segment", "seal"], &log, &mut random),
        }
        check_order(&check_all_there(&log, &acknowledged));
        verify(&log);
    }
    acknowledged.extend(append(&log, &lines("after", 2)));
    on_log(&["segment", "seal"], &log).output();
    on_log(&["checkpoint"], &log).output();
    check_order(&check_all_there(&log, &acknowledged));
    verify(&log);
}

fn kill_soon(words: &[&str], log: &Path, random: &mut Random) {
    let mut child = on_log_command(words, log).spawn().unwrap();
    random.linger(Duration::from_millis(40));
    child.kill().unwrap();
    let ended = ended(child);
    assert!(ended.code.is_none_or(|code| code == 0), "{words:?}: {ended:?}");
}

/// What `init` makes, one after the other.
const BIRTH: [&str; 12] = [
    "segments",
    "keys",
    "lock",
    "keys/log.tmp",
    "keys/log",
    "keys/cosigner",
    "policy",
    "log.toml",
    "signing-state",
    "hard-state",
    "segments/0000000000000000.seg.tmp",
    "segments/0000000000000000.seg",
];

#[test]
fn an_init_that_was_killed_at_any_step_left_a_log_or_says_what_to_do() {
    let seed = number("STELE_SEED", SEED);
    println!("STELE_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let (mut unfinished, mut whole) = (0, 0);
    // At the last step it is caught more often: there the first entries are written.
    let steps = BIRTH.iter().chain([&BIRTH[BIRTH.len() - 1]; 6]).enumerate();
    for (step, name) in steps {
        println!("killed once {name} is there");
        let log = directory.path().join(step.to_string());
        let mut child =
            on_log_command(&["init", "--origin", "example.com/real", "--segment-height", "8"], &log).spawn().unwrap();
        until(name, || log.join(name).exists() || child.try_wait().unwrap().is_some());
        let after = u64::try_from(step.saturating_sub(BIRTH.len() - 2)).unwrap();
        random.linger(Duration::from_millis(1 + 4 * after));
        child.kill().unwrap();
        let init_ended = ended(child);
        assert!(init_ended.code.is_none_or(|code| code == 0), "{init_ended:?}");

        let first = crate::process::run(crate::process::append_command(&log), b"first\n");
        if first.code == Some(0) {
            whole += 1;
        } else {
            unfinished += 1;
            assert_ne!(init_ended.code, Some(0), "it had said that the log is made");
            first.refused(6, &["interrupted before its first record", "remove the directory", "stele init"]);
            on_log(&["read", "0"], &log).refused(6, &["interrupted"]);
            // Where nothing of it was kept yet, there is nothing to remove.
            let again = init(&log);
            if again.code != Some(0) {
                again.refused(6, &["interrupted before its first record", "remove the directory", "stele init"]);
                std::fs::remove_dir_all(&log).unwrap();
                init(&log).output();
            }
            append(&log, &lines("first", 1));
        }
        on_log(&["checkpoint"], &log).output();
        verify(&log);
    }
    println!("{unfinished} unfinished, {whole} whole");
    assert!(unfinished > 3, "most steps were missed: {unfinished} unfinished, {whole} whole");
}
