//! Three sites as real processes: one order, a copy at each, whoever is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use stele_engine::environment::Environment;
use stele_tools::Failure;
use stele_tools::remote::{Connected, call, runtime};
use stele_tools::sites::{Plan, Sites, steled};

use crate::process::{Ended, Writer, check_all_there, command, lines, on_log, piped, run, text, until, verify};
use crate::trial::sealed_files;

/// `stele WORDS`.
pub(crate) fn stele(words: &[&str]) -> Ended {
    run(words_command(words), b"")
}

pub(crate) fn words_command(words: &[&str]) -> Command {
    command(&words.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// The processes that have this path in their command line.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let texts = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    texts.filter(|line| line.contains(name) && line.contains("steled")).collect()
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/verify_proof.py");

#[test]
fn quickstart_goes_through_three_sites_and_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let (path, file) = (directory.path().join("q"), directory.path().join("lines"));
    std::io::Write::write_all(&mut File::create(&file).unwrap(), text(&lines("line", 500)).as_bytes()).unwrap();
    let output = stele(&["quickstart", file.to_str().unwrap(), "--dir", path.to_str().unwrap()]).output();
    let steps = [
        "made",
        "started",
        "appended    500 lines",
        "proved",
        "verified",
        "killed",
        "appended    100 more",
        "restarted",
        "sealed",
        "the same    root",
        "stopped",
    ];
    let mut rest = output.as_str();
    for step in steps {
        let at = rest.find(step).unwrap_or_else(|| panic!("{step} is missing, or not in its place: {output}"));
        rest = &rest[at..];
    }
    assert_eq!(processes_of(&path), Vec::<String>::new());
    for site in ["a", "b", "c"] {
        verify(&path.join(site).join("log"));
    }
    let (record, proof, policy) = (path.join("last.json"), path.join("last.tlog-proof"), path.join("policy"));
    let [record, proof, policy] = [&record, &proof, &policy].map(|path| path.to_str().unwrap());
    stele(&["verify", "proof", proof, "--record", record, "--policy", policy]).output();
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: python3 is not installed, the proof was not checked by the script");
        return;
    }
    let checked = Command::new("python3").args([SCRIPT, record, proof]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn quickstart_refuses_a_directory_in_use_and_a_file_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    let there = directory.path().to_str().unwrap();
    stele(&["quickstart", file.to_str().unwrap()]).refused(1, &["cannot read"]);
    File::create(&file).unwrap();
    stele(&["quickstart", file.to_str().unwrap(), "--dir", there]).refused(1, &["is not empty"]);
}

pub(crate) fn told<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

pub(crate) fn append_to(endpoint: &str) -> Command {
    words_command(&[
        "append",
        "--endpoint",
        endpoint,
        "--stream",
        "s",
        "--writer",
        "w",
        "--kind",
        "Line",
        "--json",
        "-",
    ])
}

/// Who leads, as soon as the node that is asked knows it.
pub(crate) async fn who_leads(connected: &Connected) -> u64 {
    let known = async {
        loop {
            let status = told(connected.client.cluster().status().await.map_err(call));
            if let Some(leader) = status.leader {
                return leader.node;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), known).await.expect("nobody leads")
}

#[test]
fn whoever_is_killed_under_load_every_acknowledged_record_is_there_once_and_sealed_segments_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment::system();
    let all = lines("line", 6000);
    let acknowledged = runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let plan = Plan { directory: directory.path(), sites: 3, extra: "seal.after = \"1s\"\n", delay: None };
        let mut sites = told(Sites::make(&environment, &plan).await);
        told(sites.start());
        let connected = told(sites.ready().await);
        let mut writer = Writer::start_as(append_to(&sites.reach().endpoint.join(",")));
        writer.feed(&all);
        assert!(writer.wait_for(1000));

        let leader = who_leads(&connected).await;
        told(sites.kill(leader));
        assert!(writer.wait_for(2500), "two of three go on without the leader");
        told(sites.start());
        told(sites.caught_up_with(1000).await);

        let leader = who_leads(&connected).await;
        let follower = sites.all().iter().map(|site| site.node).find(|node| *node != leader).unwrap();
        told(sites.kill(follower));
        assert!(writer.wait_for(all.len()), "two of three go on without a follower");
        told(sites.start());
        let (ended, acknowledged) = writer.end();
        assert_eq!(ended.code, Some(0), "{}", ended.errors);

        told(sites.ready().await);
        told(sites.caught_up().await);
        told(sites.sealed(1).await);
        told(sites.caught_up().await);
        told(sites.stop().await);
        acknowledged
    });
    assert_eq!(acknowledged.len(), all.len());
    let logs: Vec<PathBuf> = ["a", "b", "c"].iter().map(|site| directory.path().join(site).join("log")).collect();
    let first = sealed_files(&logs[0]);
    assert!(!first.is_empty());
    for log in &logs {
        assert_eq!(check_all_there(log, &acknowledged), all, "every line once, in order");
        verify(log);
        assert!(sealed_files(log) == first, "sealed files of {} differ from those of another site", log.display());
    }
    assert_eq!(processes_of(directory.path()), Vec::<String>::new());
}

#[test]
fn commands_say_the_same_of_a_cluster_as_of_its_directories() {
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment::system();
    runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let plan = Plan { directory: directory.path(), sites: 3, extra: "", delay: None };
        let mut sites = told(Sites::make(&environment, &plan).await);
        told(sites.start());
        told(sites.ready().await);
        let endpoint = sites.reach().endpoint.join(",");
        let sent = lines("line", 20);
        let appended = run(append_to(&endpoint), text(&sent).as_bytes());
        let acknowledged = appended.acknowledged(sent);
        appended.output();
        assert_eq!(acknowledged.len(), 20);
        let last = acknowledged[19].index.to_string();

        told(sites.caught_up().await);
        let read = stele(&["read", "--endpoint", &endpoint, "0..1000", "--json", "--payload"]).output();
        let log = sites.all()[0].log();
        until("the site's files show what it has applied", || {
            on_log(&["read", "0..1000", "--json", "--payload"], &log).output() == read
        });
        let tail = stele(&["tail", "--endpoint", &endpoint, "-n", "2", "--json", "--payload"]).output();
        assert!(read.ends_with(&tail) && tail.lines().count() == 2);
        stele(&["read", "--endpoint", &endpoint, "5000"]).refused(6, &["5000"]);
        let ended = stele(&["segment", "seal", "--endpoint", &endpoint]).output();
        assert!(ended.starts_with("ended segment 0"), "{ended}");

        let policy = log.join("policy");
        let policy = policy.to_str().unwrap();
        let (proof, record) = (directory.path().join("proof"), directory.path().join("record"));
        let (proof, record) = (proof.to_str().unwrap(), record.to_str().unwrap());
        stele(&["prove", "--endpoint", &endpoint, "--policy", policy, &last, "-o", proof]).output();
        let finished = stele(&["read", "--endpoint", &endpoint, &last]).output();
        std::io::Write::write_all(&mut File::create(record).unwrap(), finished.as_bytes()).unwrap();
        stele(&["verify", "proof", proof, "--record", record, "--policy", policy]).output();
        let checkpoint = stele(&["checkpoint", "--endpoint", &endpoint, "--policy", policy]).output();
        assert!(checkpoint.starts_with("example.com/quickstart\n"), "{checkpoint}");

        // Proven by all that it takes, and told so; a directory has nobody else who signs.
        let words =
            ["append", "--endpoint", &endpoint, "--policy", policy, "--ack", "proven", "--json", "--jsonl", "-"];
        let drafts = "{\"writer_id\":\"p\",\"stream\":\"s\",\"kind\":\"K\"}\n".repeat(300);
        let told_of = run(words_command(&words), drafts.as_bytes()).output();
        assert_eq!((told_of.lines().count(), told_of.matches("\"proven\":true").count()), (300, 300), "{told_of}");
        on_log(&["append", "--ack", "proven", "--jsonl", "-"], &log).refused(2, &["cluster"]);
        let bench = ["bench", "append", "--endpoint", &endpoint, "--policy", policy, "--ack", "proven", "--json"];
        let row = stele(&[&bench[..], &["--in-flight", "40", "--seconds", "1"]].concat()).output();
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        let count = |name: &str| row[name].as_u64().unwrap();
        assert!(count("proven") > 0 && count("proven") + count("proof_pending") == count("acked"), "{row}");

        let status = stele(&["cluster", "status", "--endpoint", &endpoint, "--json"]).output();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let nodes = status["nodes"].as_array().unwrap();
        assert_eq!(nodes.iter().filter(|node| node["role"] == "leader").count(), 1, "{status}");
        assert!(nodes.iter().all(|node| node["tree_size"] == nodes[0]["tree_size"]), "{status}");
        let leader = status["leader"].as_u64().unwrap();
        let other = sites.all().iter().map(|site| site.node).find(|node| *node != leader).unwrap().to_string();
        stele(&["cluster", "transfer", "--endpoint", &endpoint, &other]).output();
        stele(&["cluster", "remove", "--endpoint", &endpoint, &other]).refused(5, &["site"]);
        told(sites.stop().await);
    });
}

#[test]
fn what_is_not_there_is_not_reachable_and_what_is_not_named_is_a_usage_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    stele(&["read", "--endpoint", &address, "0"]).refused(4, &["no node answers", &address]);
    let directory = tempfile::tempdir().unwrap();
    let contexts = directory.path().join("contexts.toml");
    let with_contexts = |words: &[&str]| {
        let mut command = words_command(words);
        command.env("STELE_CONTEXTS", &contexts);
        run(command, b"")
    };
    with_contexts(&["read", "0"]).refused(2, &["--log", "--endpoint", "--context"]);
    with_contexts(&["context", "use", "audit"]).refused(6, &["audit"]);
    with_contexts(&["context", "set", "audit", "--endpoint", &address, "--origin", "example.com/a"]).output();
    with_contexts(&["context", "set", "other", "--endpoint", "h:1,h:2"]).output();
    let listed = with_contexts(&["context", "list"]).output();
    assert_eq!(listed, format!("* audit  example.com/a  {address}\n  other  -  h:1,h:2\n"));
    with_contexts(&["read", "0"]).refused(4, &["no node answers", &address]);
    with_contexts(&["context", "use", "other"]).output();
    with_contexts(&["context", "remove", "audit"]).output();
    assert_eq!(with_contexts(&["context", "list"]).output(), "* other  -  h:1,h:2\n");
}

#[test]
fn development_certificates_are_never_overwritten_and_their_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let certs = directory.path().join("certs");
    let words = ["dev-certs", "-o", certs.to_str().unwrap(), "--nodes", "2"];
    let made = stele(&words);
    assert!(made.errors.contains("for development"), "{made:?}");
    made.output();
    let mode = |name: &str| std::fs::metadata(certs.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["ca-key.pem", "node-1-key.pem", "node-2-key.pem", "client-key.pem"].map(mode), [0o600; 4]);
    assert_eq!(["ca.pem", "node-1.pem", "node-2.pem", "client.pem"].map(mode), [0o644; 4]);
    let before = std::fs::read(certs.join("ca-key.pem")).unwrap();
    stele(&words).refused(1, &["is not empty"]);
    assert_eq!(std::fs::read(certs.join("ca-key.pem")).unwrap(), before);
}

/// A `steled` that is killed with the test.
pub(crate) struct Node {
    child: Child,
    output: PathBuf,
}

impl Node {
    pub(crate) fn start(directory: &Path) -> Self {
        let output = directory.join("output");
        let program = steled().unwrap_or_else(|failure| panic!("{failure}"));
        let mut command = piped(Command::new(program), &["--config".as_ref(), "steled.toml".as_ref()]);
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&output).unwrap());
        Self { child: command.spawn().unwrap(), output }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_peer_with_a_certificate_of_another_authority_is_refused_and_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["ours", "theirs"] {
        stele(&["dev-certs", "-o", &at(name), "--nodes", "3"]).output();
    }
    let listeners: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    drop(listeners);
    let node = |site: &str, at: usize| format!("{site}=127.0.0.1:{}/{}", ports[2 * at], ports[2 * at + 1]);
    let nodes = [node("a", 0), node("b", 1), node("c", 2)];
    let mut words = vec!["cluster", "init", "-o", "", "--origin", "example.com/tls", "--any-client"];
    let out = at("nodes");
    words[3] = &out;
    words.extend(nodes.iter().flat_map(|node| ["--node", node]));
    assert!(stele(&words).output().contains("open: whoever reaches 127.0.0.1:"));
    let of = |number: usize| directory.path().join("nodes").join(format!("node-{number}"));
    for (number, authority) in [(1, "ours"), (2, "ours"), (3, "theirs")] {
        std::os::unix::fs::symlink(at(authority), of(number).join("certs")).unwrap();
    }
    let running = [1, 2, 3].map(|number| Node::start(&of(number)));

    let endpoint = format!("127.0.0.1:{},127.0.0.1:{}", ports[1], ports[3]);
    let (ca, wrong) = (format!("{}/ca.pem", at("ours")), format!("{}/ca.pem", at("theirs")));
    let status = |ca: &str| stele(&["cluster", "status", "--endpoint", &endpoint, "--ca", ca, "--json"]);
    until("two nodes elect a leader", || {
        let told = status(&ca);
        told.code == Some(0)
            && serde_json::from_str::<serde_json::Value>(&told.output).unwrap()["leader"].as_u64().is_some()
    });
    let append =
        ["append", "--endpoint", &endpoint, "--ca", &ca, "--stream", "s", "--writer", "w", "--kind", "Line", "-"];
    run(words_command(&append), text(&lines("line", 10)).as_bytes()).output();
    status(&wrong).refused(4, &["no node answers"]);
    let refused = |node: &Node| node.said().contains("certificate");
    until("both sides say that the certificate is refused", || refused(&running[0]) || refused(&running[1]));
    until("the third says it, too", || refused(&running[2]));
    let told: serde_json::Value = serde_json::from_str(&status(&ca).output()).unwrap();
    let third = told["nodes"].as_array().unwrap().iter().find(|node| node["node"] == 3).unwrap().clone();
    assert!(third["last"].is_null() && third["tree_size"].is_null(), "{third}");
}
