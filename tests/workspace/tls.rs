//! Three sites that trust nobody without a certificate, and the command line beside them.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crate::cluster::{Node, stele, words_command};
use crate::process::{Ended, lines, run, text, until, verify};

/// Less than a node that does not answer is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A cluster whose clients must show a certificate.
struct Secured {
    directory: tempfile::TempDir,
    endpoint: String,
    nodes: Vec<Node>,
}

impl Secured {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["ours", "theirs"] {
            stele(&["dev-certs", "-o", &at(name), "--nodes", "3"]).output();
        }
        let listeners: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let sites = ["a", "b", "c"];
        let nodes: Vec<String> = (sites.iter().zip(ports.chunks(2)))
            .map(|(site, ports)| format!("{site}=127.0.0.1:{}/{}", ports[0], ports[1]))
            .collect();
        let out = at("nodes");
        let mut words = vec!["cluster", "init", "-o", &out, "--origin", "example.com/tls"];
        words.extend(nodes.iter().flat_map(|node| ["--node", node]));
        stele(&words).output();
        let endpoint: Vec<String> = ports.chunks(2).map(|ports| format!("127.0.0.1:{}", ports[1])).collect();
        let started = |number: u64| {
            let home = directory.path().join("nodes").join(format!("node-{number}"));
            std::os::unix::fs::symlink(at("ours"), home.join("certs")).unwrap();
            let config = home.join("steled.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            let text = text.replace("[client_tls]\n", "[client_tls]\nca = \"certs/ca.pem\"\n");
            File::create(config).unwrap().write_all(text.as_bytes()).unwrap();
            Node::start(&home)
        };
        let nodes = (1..=3).map(started).collect();
        Self { endpoint: endpoint.join(","), nodes, directory }
    }

    fn file(&self, authority: &str, name: &str) -> String {
        self.directory.path().join(authority).join(name).to_str().unwrap().to_owned()
    }

    /// `stele WORDS` with the certificate of this authority's client.
    fn ask_as(&self, authority: &str, words: &[&str], input: &str) -> Ended {
        let (ca, cert, key) =
            (self.file("ours", "ca.pem"), self.file(authority, "client.pem"), self.file(authority, "client-key.pem"));
        let with = ["--endpoint", &self.endpoint, "--ca", &ca, "--cert", &cert, "--key", &key];
        run(words_command(&[words, &with].concat()), input.as_bytes())
    }

    fn ask(&self, words: &[&str]) -> Ended {
        self.ask_as("ours", words, "")
    }
}

#[test]
fn over_tls_the_command_line_does_what_it_does_without_and_nobody_comes_in_without_a_certificate() {
    let cluster = Secured::start();
    let status = || {
        let status = cluster.ask(&["cluster", "status", "--json"]);
        serde_json::from_str::<serde_json::Value>(&status.output).unwrap_or_default()
    };
    until("the three elect a leader", || status()["leader"].as_u64().is_some());
    let sent = lines("line", 30);
    let words = ["append", "--stream", "s", "--writer", "w", "--kind", "Line", "--json", "-"];
    let appended = cluster.ask_as("ours", &words, &text(&sent));
    let last = appended.acknowledged(sent).pop().unwrap().index.to_string();
    appended.output();
    assert!(cluster.ask(&["read", &last]).output().contains("\"writer_id\":\"w\""));
    let policy = cluster.directory.path().join("nodes/node-1/log/policy");
    let policy = policy.to_str().unwrap();
    until("the node has its policy", || Path::new(policy).exists());
    let (proof, record) = (cluster.file("", "proof"), cluster.file("", "record"));
    cluster.ask(&["prove", "--policy", policy, &last, "-o", &proof]).output();
    let finished = cluster.ask(&["read", &last]).output();
    File::create(&record).unwrap().write_all(finished.as_bytes()).unwrap();
    stele(&["verify", "proof", &proof, "--record", &record, "--policy", policy]).output();

    // Whoever shows no certificate, that of a stranger, or speaks without TLS.
    let ca = cluster.file("ours", "ca.pem");
    let began = tokio::time::Instant::now();
    let without = stele(&["cluster", "status", "--endpoint", &cluster.endpoint, "--ca", &ca]);
    without.refused(4, &["no node answers", "certificate", "--cert and --key"]);
    assert!(began.elapsed() < AT_ONCE, "it asked for {:?}", began.elapsed());
    cluster.ask_as("theirs", &["cluster", "status"], "").refused(4, &["no node answers"]);
    let plain = stele(&["cluster", "status", "--endpoint", &cluster.endpoint]);
    plain.refused(4, &["no node answers", "--ca"]);
    let wrong = cluster.file("theirs", "ca.pem");
    let wrong = stele(&["cluster", "status", "--endpoint", &cluster.endpoint, "--ca", &wrong]);
    wrong.refused(4, &["no node answers", "certificate"]);

    // Nobody was disturbed by that.
    let words = ["append", "--stream", "s", "--writer", "v", "--kind", "Line", "--json", "-"];
    cluster.ask_as("ours", &words, &text(&lines("more", 5))).output();
    let told = status();
    let nodes = told["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["tree_size"].as_u64() >= Some(36)), "{told}");
    assert!(cluster.nodes.iter().all(|node| !node.said().contains("panicked")));
    let logs: Vec<_> =
        (1..=3).map(|number| cluster.directory.path().join(format!("nodes/node-{number}/log"))).collect();
    let Secured { nodes, directory, .. } = cluster;
    drop(nodes);
    logs.iter().for_each(|log| verify(log));
    drop(directory);
}
