//! A node joins a cluster of real processes by one command, and takes the place of one that was lost.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use stele_tools::sites::steled;

use crate::process::{Acknowledged, Ended, check_all_there, command, lines, piped, run, signal, text, until, verify};

fn stele(words: &[&str]) -> Ended {
    run(words_command(words), b"")
}

fn words_command(words: &[&str]) -> Command {
    command(&words.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// Kills a process that another one started, with the test.
pub(crate) struct Detached(u32);

impl Detached {
    /// The process that `cluster join` says it started.
    pub(crate) fn named_in(output: &str) -> Self {
        let (_, rest) = output.split_once("process ").unwrap_or_else(|| panic!("{output}"));
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Self(number.parse().unwrap())
    }

    pub(crate) fn process(&self) -> u32 {
        self.0
    }

    pub(crate) fn is_there(&self) -> bool {
        // One that has ended is a zombie until this process, to which it fell, waits for it; nobody does.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if self.is_there() {
            signal(self.0, "KILL");
        }
    }
}

/// Three nodes that are killed with the test.
struct Three {
    directory: tempfile::TempDir,
    ports: Vec<u16>,
    running: BTreeMap<usize, Child>,
}

impl Three {
    /// Three sites with blocks of 256 records, so that segments end often.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listeners: Vec<TcpListener> = (0..10).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let mut three = Self { directory, ports, running: BTreeMap::new() };
        let out = three.at("nodes");
        let mut words = vec!["cluster", "init", "-o", &out, "--origin", "example.com/join", "--insecure"];
        let nodes: Vec<String> = ["a", "b", "c"]
            .iter()
            .zip(1..)
            .map(|(site, node)| format!("{site}=127.0.0.1:{}/{}", three.peer(node), three.client(node)))
            .collect();
        words.extend(nodes.iter().flat_map(|node| ["--node", node]));
        stele(&words).output();
        for node in 1..=3 {
            let config = three.node(node).join("steled.toml");
            let text = std::fs::read_to_string(&config).unwrap().replace("[log]\n", "[log]\nblock_height = 8\n");
            std::io::Write::write_all(&mut File::create(&config).unwrap(), text.as_bytes()).unwrap();
            three.run(node);
        }
        until("the three elect a leader", || {
            let told = three.status();
            told.is_some_and(|told| told["leader"].as_u64().is_some())
        });
        three
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn node(&self, node: usize) -> PathBuf {
        self.directory.path().join("nodes").join(format!("node-{node}"))
    }

    fn log(&self, node: usize) -> PathBuf {
        self.node(node).join("log")
    }

    fn peer(&self, node: usize) -> u16 {
        self.ports[2 * node - 2]
    }

    fn client(&self, node: usize) -> u16 {
        self.ports[2 * node - 1]
    }

    fn endpoint(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| format!("127.0.0.1:{}", self.client(*node))).collect::<Vec<_>>().join(",")
    }

    fn run(&mut self, node: usize) {
        let directory = self.node(node);
        let output = File::options().create(true).append(true).open(directory.join("output")).unwrap();
        let program = steled().unwrap_or_else(|failure| panic!("{failure}"));
        let mut command = piped(Command::new(program), &["--config".as_ref(), "steled.toml".as_ref()]);
        command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        self.running.insert(node, command.spawn().unwrap());
    }

    fn kill(&mut self, node: usize) {
        let mut process = self.running.remove(&node).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn status(&self) -> Option<serde_json::Value> {
        let told = stele(&["cluster", "status", "--endpoint", &self.endpoint(&[1, 2]), "--json"]);
        (told.code == Some(0)).then(|| serde_json::from_str(&told.output).unwrap())
    }

    /// Appends lines and expects all of them to be acknowledged.
    #[track_caller]
    fn append(&self, endpoint: &str, sent: &[String]) -> Vec<Acknowledged> {
        let words =
            ["append", "--endpoint", endpoint, "--stream", "s", "--writer", "w", "--kind", "Line", "--json", "-"];
        let ended = run(words_command(&words), text(sent).as_bytes());
        let acknowledged = ended.acknowledged(sent.to_vec());
        ended.output();
        assert_eq!(acknowledged.len(), sent.len());
        acknowledged
    }

    /// The words of `cluster join` for node 4 or 5.
    fn join(&self, node: usize, more: &[&str]) -> Vec<String> {
        let (peer, client) = (self.peer(node), self.client(node));
        let text = format!(
            "cluster join --endpoint {} --node {node} --peer 127.0.0.1:{peer} --client 127.0.0.1:{client} --insecure --dir",
            self.endpoint(&[1, 2])
        );
        let words = text.split(' ').map(str::to_owned);
        let directory = self.node(node).to_str().unwrap().to_owned();
        words.chain([directory]).chain(more.iter().map(|word| (*word).to_owned())).collect()
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        for process in self.running.values_mut() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

/// Frames and payloads of the sealed segments of a log.
fn sealed(log: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(log.join("segments")).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o222 == 0))
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "seg" || extension == "pay"))
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect()
}

fn segments(sealed: &BTreeMap<String, Vec<u8>>) -> usize {
    sealed.keys().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn a_node_joins_by_one_command_and_replaces_one_that_was_killed() {
    let mut three = Three::start();
    let (before, after) = (lines("before", 1500), lines("after", 300));
    let mut acknowledged = three.append(&three.endpoint(&[1, 2, 3]), &before);
    until("five segments are sealed at the first two", || {
        [1, 2].iter().all(|node| segments(&sealed(&three.log(*node))) >= 5)
    });
    three.kill(3);

    let output = stele(&words(&three.join(4, &["--site", "c", "--replace", "3"]))).output();
    let joined = Detached::named_in(&output);
    let steps = [
        "made",
        "added       node 4 at site c",
        "started",
        "caught up   node 4",
        "voters      1, 2, 4",
        "removed     node 3",
    ];
    let mut rest = output.as_str();
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} is missing, or not in its place: {output}"));
        rest = &rest[at..];
    }
    let said = std::fs::read_to_string(three.node(4).join("steled.log")).unwrap();
    let copied = said.lines().find(|line| line.contains("copied; what follows")).unwrap_or_else(|| panic!("{said}"));
    let (_, number) = copied.split_once("segments=").unwrap();
    let number: usize = number.split(' ').next().unwrap().parse().unwrap();
    assert!(number >= 5, "segments were copied, not replicated: {copied}");

    let status = three.status().unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let roles: BTreeMap<u64, &str> =
        nodes.iter().map(|node| (node["node"].as_u64().unwrap(), node["role"].as_str().unwrap())).collect();
    assert_eq!(roles.keys().copied().collect::<Vec<_>>(), [1, 2, 4], "{status}");
    assert!(roles[&4] != "learner", "{status}");

    proves(&three, acknowledged.last().unwrap().index);

    // It votes: with one of the two that knew it killed, the log goes on only with it.
    three.kill(1);
    acknowledged.extend(three.append(&three.endpoint(&[2, 4]), &after));
    let all: Vec<String> = before.iter().chain(&after).cloned().collect();
    let (own, other) = (three.endpoint(&[4]), three.endpoint(&[2]));
    until("it has what the other one has", || {
        let read = |endpoint: &str| stele(&["read", "--endpoint", endpoint, "0..5000", "--json", "--payload"]);
        let (own, other) = (read(&own), read(&other));
        own.code == Some(0) && own.output == other.output && own.output.lines().count() >= all.len()
    });
    until("both have sealed the same", || {
        let (own, other) = (sealed(&three.log(4)), sealed(&three.log(2)));
        segments(&own) >= 6 && own == other
    });

    signal(joined.0, "TERM");
    until("it stops", || !joined.is_there());
    let said = std::fs::read_to_string(three.node(4).join("steled.log")).unwrap();
    assert_eq!(
        said.matches("joined after the log was made").count(),
        1,
        "what its copy counts for is said once: {said}"
    );
    verify(&three.log(4));
    assert_eq!(check_all_there(&three.log(4), &acknowledged), all);
    let vote = std::fs::metadata(three.log(4).join("joining"));
    assert!(vote.is_err(), "the mark of a copy that is under way is gone");
}

/// A proof that the new node gives holds under the policy that the log was born with, of which it is no part: others sign
/// for it.
fn proves(three: &Three, index: u64) {
    let (index, policy) = (index.to_string(), three.log(2).join("policy"));
    let (proof, record, policy) = (three.at("proof"), three.at("record"), policy.to_str().unwrap());
    let own = three.endpoint(&[4]);
    stele(&["prove", "--endpoint", &own, "--policy", policy, &index, "-o", &proof]).output();
    let finished = stele(&["read", "--endpoint", &own, &index]).output();
    std::io::Write::write_all(&mut File::create(&record).unwrap(), finished.as_bytes()).unwrap();
    stele(&["verify", "proof", &proof, "--record", &record, "--policy", policy]).output();
}

#[test]
fn what_cannot_be_joined_or_removed_is_refused_with_its_reason() {
    let three = Three::start();
    three.append(&three.endpoint(&[1, 2, 3]), &lines("line", 10));
    let refused = |node: usize, more: &[&str], code: i32, reasons: &[&str]| {
        stele(&words(&three.join(node, more))).failed(code, reasons);
    };
    refused(4, &["--site", "d", "--replace", "9"], 6, &["no node 9"]);
    refused(4, &["--site", "d", "--replace", "4"], 2, &["never used twice"]);
    // Nothing was made so far.
    assert!(!three.node(4).exists());
    let endpoint = three.endpoint(&[1, 2]);
    stele(&["cluster", "remove", "--endpoint", &endpoint, "9"]).refused(6, &["no node 9"]);
    stele(&["cluster", "remove", "--endpoint", &endpoint, "3"]).refused(5, &["site"]);
    stele(&["cluster", "remove", "--endpoint", &endpoint, "3", "--allow-unsafe-topology"]).output();
    let nodes = three.status().unwrap()["nodes"].as_array().unwrap().len();
    assert_eq!(nodes, 2);

    // A cluster without a sealed segment is joined, too: everything comes from the leader.
    let output = stele(&words(&three.join(4, &["--site", "d", "--learner"]))).output();
    let joined = Detached::named_in(&output);
    assert!(output.contains("caught up   node 4, with 0 sealed segments"), "{output}");
    let again = stele(&words(&three.join(4, &["--site", "d", "--learner"]))).output();
    assert!(again.contains("stays as it is") && again.contains("runs        node 4 already"), "{again}");
    refused(4, &["--site", "e", "--learner"], 1, &["never used twice"]);
    stele(&words(&three.join(4, &["--site", "d"]))).output();
    drop(joined);
}
