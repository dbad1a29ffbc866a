//! Three sites that trust nobody without a certificate, and the command line beside them.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::{Node, stele, words_command};
use crate::join::Detached;
use crate::process::{Ended, lines, run, signal, text, until, verify};

/// Less than a node that does not answer is waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A cluster whose clients must show a certificate.
struct Secured {
    directory: tempfile::TempDir,
    endpoint: String,
    ports: Vec<u16>,
    nodes: Vec<Node>,
}

impl Secured {
    /// By one command, with certificates.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        stele(&["dev-certs", "-o", &at("theirs"), "--nodes", "4"]).output();
        let listeners: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(listeners);
        let sites = ["a", "b", "c"];
        let nodes: Vec<String> = (sites.iter().zip(ports.chunks(2)))
            .map(|(site, ports)| format!("{site}=127.0.0.1:{}/{}", ports[0], ports[1]))
            .collect();
        let out = at("nodes");
        let mut words = vec!["cluster", "init", "-o", &out, "--origin", "example.com/tls", "--dev-certs"];
        words.extend(nodes.iter().flat_map(|node| ["--node", node]));
        let told = stele(&words).output();
        assert!(told.contains("closed: clients must show a certificate"), "{told}");
        std::os::unix::fs::symlink(at("nodes/certs"), at("ours")).unwrap();
        let endpoint: Vec<String> = ports.chunks(2).take(3).map(|ports| format!("127.0.0.1:{}", ports[1])).collect();
        let started = |number: u64| {
            let home = directory.path().join("nodes").join(format!("node-{number}"));
            let config = home.join("steled.toml");
            // Blocks of 256 records, so that segments end often.
            let text = std::fs::read_to_string(&config).unwrap().replace("[log]\n", "[log]\nblock_height = 8\n");
            File::create(config).unwrap().write_all(text.as_bytes()).unwrap();
            Node::start(&home)
        };
        let nodes = (1..=3).map(started).collect();
        let secured = Self { endpoint: endpoint.join(","), nodes, ports, directory };
        until("the three elect a leader", || secured.status()["leader"].as_u64().is_some());
        secured
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask(&["cluster", "status", "--json"]).output).unwrap_or_default()
    }

    fn log(&self, node: u64) -> PathBuf {
        self.directory.path().join(format!("nodes/node-{node}/log"))
    }

    /// Appends lines and expects all of them to be acknowledged; the index of the last.
    fn append(&self, writer: &str, sent: Vec<String>) -> String {
        let words = ["append", "--stream", "s", "--writer", writer, "--kind", "Line", "--json", "-"];
        let appended = self.ask_as("ours", &words, &text(&sent));
        let acknowledged = appended.acknowledged(sent.clone());
        appended.output();
        assert_eq!(acknowledged.len(), sent.len());
        acknowledged.last().unwrap().index.to_string()
    }

    /// Proves a record at these nodes and verifies the proof with what is at hand.
    fn prove(&self, endpoint: &str, index: &str) {
        let policy = self.log(1).join("policy");
        let policy = policy.to_str().unwrap();
        until("the node has its policy", || Path::new(policy).exists());
        let (proof, record) = (self.file("", "proof"), self.file("", "record"));
        self.ask_at(endpoint, &["prove", "--policy", policy, index, "-o", &proof]).output();
        let finished = self.ask_at(endpoint, &["read", index]).output();
        File::create(&record).unwrap().write_all(finished.as_bytes()).unwrap();
        stele(&["verify", "proof", &proof, "--record", &record, "--policy", policy]).output();
    }

    fn file(&self, authority: &str, name: &str) -> String {
        self.directory.path().join(authority).join(name).to_str().unwrap().to_owned()
    }

    /// `stele WORDS` to these nodes with the certificate of this authority's client.
    fn command(&self, endpoint: &str, authority: &str, words: &[&str]) -> Command {
        let (ca, cert, key) =
            (self.file("ours", "ca.pem"), self.file(authority, "client.pem"), self.file(authority, "client-key.pem"));
        let with = ["--endpoint", endpoint, "--ca", &ca, "--cert", &cert, "--key", &key];
        words_command(&[words, &with].concat())
    }

    fn ask_as(&self, authority: &str, words: &[&str], input: &str) -> Ended {
        run(self.command(&self.endpoint, authority, words), input.as_bytes())
    }

    fn ask_at(&self, endpoint: &str, words: &[&str]) -> Ended {
        run(self.command(endpoint, "ours", words), b"")
    }

    fn ask(&self, words: &[&str]) -> Ended {
        self.ask_as("ours", words, "")
    }
}

#[test]
fn over_tls_the_command_line_does_what_it_does_without_and_nobody_comes_in_without_a_certificate() {
    let cluster = Secured::start();
    let last = cluster.append("w", lines("line", 30));
    assert!(cluster.ask(&["read", &last]).output().contains("\"writer_id\":\"w\""));
    cluster.prove(&cluster.endpoint, &last);

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
    cluster.append("v", lines("more", 5));
    let told = cluster.status();
    let nodes = told["nodes"].as_array().unwrap();
    assert!(nodes.iter().all(|node| node["tree_size"].as_u64() >= Some(36)), "{told}");
    assert!(cluster.nodes.iter().all(|node| !node.said().contains("panicked")));
    let logs: Vec<_> = (1..=3).map(|node| cluster.log(node)).collect();
    let Secured { nodes, directory, .. } = cluster;
    drop(nodes);
    logs.iter().for_each(|log| verify(log));
    drop(directory);
}

#[test]
fn over_tls_a_node_joins_by_one_command_and_takes_the_place_of_one_that_was_killed() {
    let mut cluster = Secured::start();
    cluster.append("w", lines("line", 1000));
    drop(cluster.nodes.pop().unwrap());
    let home = cluster.directory.path().join("nodes/node-4");
    let (peer, client) = (format!("127.0.0.1:{}", cluster.ports[6]), format!("127.0.0.1:{}", cluster.ports[7]));
    let [at, certs] = [&home, &cluster.directory.path().join("ours")].map(|path| path.to_str().unwrap().to_owned());
    let words = format!(
        "cluster join --dir {at} --node 4 --site c --peer {peer} --client {client} --certs {certs} --replace 3"
    );
    let output = cluster.ask(&words.split(' ').collect::<Vec<_>>()).output();
    let joined = Detached::named_in(&output);
    for step in ["started", "caught up   node 4", "voters      1, 2, 4", "removed     node 3"] {
        assert!(output.contains(step), "{step} is missing: {output}");
    }
    let said = std::fs::read_to_string(home.join("steled.log")).unwrap();
    assert!(said.contains("copied; what follows"), "{said}");

    // It asks its clients for a certificate as the others do, votes, and proves.
    let ca = cluster.file("ours", "ca.pem");
    stele(&["cluster", "status", "--endpoint", &client, "--ca", &ca])
        .refused(4, &["no node answers", "--cert and --key"]);
    drop(cluster.nodes.remove(0));
    cluster.endpoint = format!("127.0.0.1:{},{client}", cluster.ports[3]);
    let last = cluster.append("v", lines("more", 50));
    let told = cluster.status();
    let nodes = told["nodes"].as_array().unwrap();
    let of = |number: u64| nodes.iter().find(|node| node["node"].as_u64() == Some(number)).unwrap();
    assert_eq!(of(4)["client_address"], format!("https://{client}"), "{told}");
    until("the new node has it", || cluster.ask_at(&client, &["read", &last]).code == Some(0));
    assert!(cluster.ask_at(&client, &["read", &last]).output().contains("\"writer_id\":\"v\""));

    signal(joined.process(), "TERM");
    until("it stops", || !joined.is_there());
    verify(&cluster.log(4));
}
