//! The built `stele` as a process of its own: run to its end, or fed, stopped and killed on the way.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads};
use stele_proof::LeafIndex;
use stele_proof::record::SelfHash;

/// What nothing here takes, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// What `append` is asked for each line.
const NAMES: [&str; 6] = ["--stream", "s", "--writer", "w", "--kind", "Line"];

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
}

impl Ended {
    /// Expects exit code 0, and answers standard output.
    #[track_caller]
    pub(crate) fn output(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.errors);
        self.output
    }

    /// Expects this code and one sentence with all these words.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.errors.starts_with("stele: ") && self.errors.matches('\n').count() == 1, "{}", self.errors);
        for word in words {
            assert!(self.errors.contains(word), "`{word}` is missing in: {}", self.errors);
        }
    }

    /// As [`Ended::failed`], and nothing on standard output.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        self.failed(code, words);
        assert_eq!(self.output, "");
    }

    /// The acknowledgements that `append --json` printed for these lines, the first of them.
    pub(crate) fn acknowledged(&self, lines: impl IntoIterator<Item = String>) -> Vec<Acknowledged> {
        self.output.lines().zip(lines).map(|(receipt, line)| Acknowledged::new(receipt, line)).collect()
    }
}

/// A record that was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) index: u64,
    self_hash: String,
    line: String,
}

impl Acknowledged {
    fn new(receipt: &str, line: String) -> Self {
        let receipt: serde_json::Value = serde_json::from_str(receipt).unwrap();
        Self {
            index: receipt["index"].as_u64().unwrap(),
            self_hash: receipt["self_hash"].as_str().unwrap().to_owned(),
            line,
        }
    }
}

/// The command line, built beside this test.
pub(crate) fn stele_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.ancestors().nth(2).unwrap();
    let binary = directory.join("stele");
    assert!(binary.exists(), "{} is missing; run the tests of the whole workspace", binary.display());
    binary
}

/// `stele`, with its three streams piped.
pub(crate) fn command(arguments: &[&OsStr]) -> Command {
    piped(Command::new(stele_binary()), arguments)
}

pub(crate) fn piped(mut command: Command, arguments: &[&OsStr]) -> Command {
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end with this standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command.spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // It may well end before it has read everything.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    ended(child)
}

/// Waits for the end.
pub(crate) fn ended(child: Child) -> Ended {
    let process = child.id();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    let output = told.recv_timeout(PATIENCE).unwrap_or_else(|error| {
        signal(process, "KILL");
        panic!("process {process} did not end: {error}");
    });
    let output = output.unwrap();
    Ended {
        code: output.status.code(),
        output: String::from_utf8(output.stdout).unwrap(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `stele WORDS --log LOG`.
pub(crate) fn on_log(words: &[&str], log: &Path) -> Ended {
    run(on_log_command(words, log), b"")
}

pub(crate) fn on_log_command(words: &[&str], log: &Path) -> Command {
    let words = words.iter().map(OsStr::new);
    command(&words.chain(["--log".as_ref(), log.as_os_str()]).collect::<Vec<_>>())
}

/// A new log of blocks of 256 records, so that segments end often.
pub(crate) fn init(log: &Path) -> Ended {
    on_log(&["init", "--origin", "example.com/real", "--segment-height", "8"], log)
}

pub(crate) fn append_command(log: &Path) -> Command {
    let mut arguments: Vec<&OsStr> = vec!["append".as_ref(), "--log".as_ref(), log.as_os_str()];
    arguments.extend(NAMES.map(OsStr::new));
    arguments.extend(["--json".as_ref(), OsStr::new("-")]);
    command(&arguments)
}

/// Appends these lines and expects all of them to be acknowledged.
#[track_caller]
pub(crate) fn append(log: &Path, lines: &[String]) -> Vec<Acknowledged> {
    let ended = run(append_command(log), text(lines).as_bytes());
    let acknowledged = ended.acknowledged(lines.to_vec());
    ended.output();
    assert_eq!(acknowledged.len(), lines.len());
    acknowledged
}

/// Lines that tell which they are.
pub(crate) fn lines(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name} {number}")).collect()
}

pub(crate) fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Verifies every byte of a log that nobody writes.
#[track_caller]
pub(crate) fn verify(log: &Path) {
    run(command(&["verify".as_ref(), "log".as_ref(), log.as_os_str()]), b"").output();
}

/// The payloads of the records that lines became, in the log's order, where everything acknowledged is there.
#[track_caller]
pub(crate) fn check_all_there(log: &Path, acknowledged: &[Acknowledged]) -> Vec<String> {
    let reader = LogReader::open(&Environment::system(), log).unwrap();
    let mut read = Vec::new();
    let (first, end) = (LeafIndex::new(0), LeafIndex::new(u64::MAX));
    reader
        .read::<LogError>(first, end, Payloads::Read, &mut |record| {
            let own = String::from_utf8_lossy(&record.canonical).contains("\"writer_id\":\"stele/log\"");
            let line = String::from_utf8(record.payload.unwrap().1).unwrap();
            read.push((SelfHash::of(&record.canonical).to_string(), line, own));
            Ok(())
        })
        .unwrap();
    for Acknowledged { index, self_hash, line } in acknowledged {
        let there = read.get(usize::try_from(*index).unwrap()).map(|(hash, line, _)| (hash, line));
        assert_eq!(there, Some((self_hash, line)), "record {index} was acknowledged");
    }
    read.into_iter().filter(|(_, _, own)| !own).map(|(_, line, _)| line).collect()
}

/// Sends a signal.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "signal {name} to {process}");
}

/// Looks until it is so, for a bounded time.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_micros() / LOOK_AGAIN.as_micros() {
        if is_so() {
            return;
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
    panic!("it never came to this: {what}");
}

/// `stele append --json` at work, its input and output open.
pub(crate) struct Writer {
    child: Child,
    input: Option<ChildStdin>,
    /// Whole lines of standard output; closed at its end.
    receipts: mpsc::Receiver<String>,
    errors: JoinHandle<String>,
    sent: Vec<String>,
    pub(crate) acknowledged: Vec<Acknowledged>,
}

impl Writer {
    pub(crate) fn start(log: &Path) -> Self {
        Self::start_as(append_command(log))
    }

    pub(crate) fn start_as(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (tell, receipts) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A line that a kill cut off was not received.
            while output.read_line(&mut line).is_ok() && line.ends_with('\n') {
                if tell.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut errors = String::new();
            stderr.read_to_string(&mut errors).unwrap();
            errors
        });
        let input = child.stdin.take();
        Self { child, input, receipts, errors, sent: Vec::new(), acknowledged: Vec::new() }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends lines that fit into the pipe, or that somebody reads.
    pub(crate) fn send(&mut self, lines: &[String]) {
        self.input.as_mut().unwrap().write_all(text(lines).as_bytes()).unwrap();
        self.sent.extend_from_slice(lines);
    }

    /// Sends lines from another thread, as fast as they are read, and then the end of the input.
    pub(crate) fn feed(&mut self, lines: &[String]) {
        let mut input = self.input.take().unwrap();
        let text = text(lines);
        // It may be killed before it has read everything.
        std::thread::spawn(move || drop(input.write_all(text.as_bytes())));
        self.sent.extend_from_slice(lines);
    }

    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits until this many lines are acknowledged, or until it ends; answers whether they are.
    pub(crate) fn wait_for(&mut self, count: usize) -> bool {
        while self.acknowledged.len() < count {
            match self.receipts.recv_timeout(PATIENCE) {
                Ok(receipt) => {
                    let line = self.sent[self.acknowledged.len()].clone();
                    self.acknowledged.push(Acknowledged::new(&receipt, line));
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(error @ RecvTimeoutError::Timeout) => {
                    signal(self.process(), "KILL");
                    panic!("{} of {count} lines were acknowledged: {error}", self.acknowledged.len());
                }
            }
        }
        true
    }

    /// Kills it; what it had printed before was acknowledged, too.
    pub(crate) fn kill(mut self) -> Vec<Acknowledged> {
        self.child.kill().unwrap();
        self.wait_for(usize::MAX);
        self.child.wait().unwrap();
        self.errors.join().unwrap();
        self.acknowledged
    }

    /// Ends its input, where that has not ended, and waits for its end.
    pub(crate) fn end(mut self) -> (Ended, Vec<Acknowledged>) {
        self.end_input();
        self.wait_for(usize::MAX);
        let errors = self.errors.join().unwrap();
        let mut ended = ended(self.child);
        ended.errors = errors;
        (ended, self.acknowledged)
    }
}
