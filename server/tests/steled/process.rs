//! Real processes, and a writer that remembers what it was told.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use stele_api::v1::cluster_client::ClusterClient;
use stele_api::v1::log_client::LogClient;
use stele_api::v1::record_answer::Answer;
use stele_api::v1::{AppendRequest, ReadRequest, RecordAnswer, RefusalCode, Submission, submission};
use stele_proof::UnixMillis;
use stele_proof::record::{Actor, Object, RecordBuilder, SelfHash, Subject};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::transport::{Channel, Endpoint};

pub(crate) const ORIGIN: &str = "example.com/steled";
/// Time enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often something outside is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// More of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Extra<'a> {
    /// Lines with keys.
    pub(crate) keys: &'a str,
    /// How bytes to clients are protected.
    pub(crate) clients: &'a str,
    /// Tables.
    pub(crate) tables: &'a str,
}

impl Default for Extra<'_> {
    fn default() -> Self {
        Self { keys: "", clients: "insecure_clients = true", tables: "" }
    }
}

/// The nodes of a cluster, each a process.
pub(crate) struct Cluster {
    pub(crate) scratch: TempDir,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// So many nodes, each at a site of its own; all on ports of loopback that are free.
    pub(crate) fn new(count: usize) -> Self {
        Self::configured(count, Extra::default())
    }

    /// As [`Cluster::new`], with more in the configuration of each node.
    pub(crate) fn configured(count: usize, extra: Extra<'_>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        // Held together, so that no port is given twice.
        let held: Vec<TcpListener> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        drop(held);
        let mut cluster = String::new();
        for node in 1..=count {
            let keys = Self::keys(scratch.path(), node);
            let [peer, client] = [ports[2 * (node - 1)], ports[2 * node - 1]];
            cluster += &format!(
                "[[initial_cluster]]\nnode = {node}\nsite = \"site-{node}\"\npeer = \"127.0.0.1:{peer}\"\n\
                 client = \"127.0.0.1:{client}\"\nkeys = {keys:?}\n"
            );
        }
        for node in 1..=count {
            let [peer, client] = [ports[2 * (node - 1)], ports[2 * node - 1]];
            let text = format!(
                "data_dir = {:?}\nnode = {node}\ncluster_token = \"test\"\ninsecure_peers = true\n\
                 {}\nlog.origin = \"{ORIGIN}\"\nlog.block_height = 8\nlog_level = \"info\"\n\
                 listen.peer = \"127.0.0.1:{peer}\"\nlisten.client = \"127.0.0.1:{client}\"\n{}\n{cluster}{}",
                Self::data(scratch.path(), node),
                extra.clients,
                extra.keys,
                extra.tables
            );
            std::io::Write::write_all(
                &mut std::fs::File::create(Self::config(scratch.path(), node)).unwrap(),
                text.as_bytes(),
            )
            .unwrap();
        }
        Self { scratch, nodes: (0..count).map(|_| None).collect() }
    }

    fn data(scratch: &Path, node: usize) -> PathBuf {
        scratch.join(format!("node-{node}"))
    }

    fn config(scratch: &Path, node: usize) -> PathBuf {
        scratch.join(format!("{node}.toml"))
    }

    fn ready_file(&self, node: usize) -> PathBuf {
        self.scratch.path().join(format!("{node}.ready"))
    }

    pub(crate) fn directory(&self, node: usize) -> PathBuf {
        Self::data(self.scratch.path(), node)
    }

    pub(crate) fn log_of(&self, node: usize) -> String {
        std::fs::read_to_string(self.scratch.path().join(format!("{node}.log"))).unwrap_or_default()
    }

    /// Makes a node's keys, as an operator would.
    fn keys(scratch: &Path, node: usize) -> Vec<String> {
        let output = steled()
            .args(["keys", "--node", &node.to_string(), "--site", &format!("site-{node}"), "--log-origin", ORIGIN])
            .arg("--data-dir")
            .arg(Self::data(scratch, node))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Starts a node; returns once it takes part, so another one must run, or there is none.
    pub(crate) async fn start(&mut self, node: usize) {
        self.spawn(node);
        self.ready(node).await;
    }

    /// Starts all nodes; returns once they take part.
    pub(crate) async fn start_all(&mut self) {
        for node in 1..=self.nodes.len() {
            self.spawn(node);
        }
        for node in 1..=self.nodes.len() {
            self.ready(node).await;
        }
    }

    pub(crate) fn spawn(&mut self, node: usize) {
        let ready = self.ready_file(node);
        drop(std::fs::remove_file(&ready));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path().join(format!("{node}.log")))
            .unwrap();
        let child = steled()
            .arg("--config")
            .arg(Self::config(self.scratch.path(), node))
            .arg("--ready-file")
            .arg(&ready)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.nodes[node - 1] = Some(child);
    }

    pub(crate) fn is_ready(&self, node: usize) -> bool {
        self.ready_file(node).exists()
    }

    async fn ready(&mut self, node: usize) {
        let takes_part = async {
            while !self.is_ready(node) {
                if let Some(status) = self.nodes[node - 1].as_mut().unwrap().try_wait().unwrap() {
                    panic!("node {node} ended, {status}: {}", self.log_of(node));
                }
                sleep(LOOK).await;
            }
        };
        let told = timeout(PATIENCE, takes_part).await;
        assert!(told.is_ok(), "node {node}: {}", self.log_of(node));
    }

    /// Waits until what a node says has this in it.
    pub(crate) async fn says(&self, node: usize, words: &str) {
        let says = async {
            while !self.log_of(node).contains(words) {
                sleep(LOOK).await;
            }
        };
        assert!(timeout(PATIENCE, says).await.is_ok(), "`{words}` is not in: {}", self.log_of(node));
    }

    /// Waits until a node ends by itself.
    pub(crate) async fn ends(&mut self, node: usize) -> ExitStatus {
        let child = self.nodes[node - 1].take().unwrap();
        self.ended(node, child).await
    }

    async fn ended(&self, node: usize, mut child: Child) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status;
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("node {node}: {}", self.log_of(node)))
    }

    /// Kills a node as kill -9 does.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends a node as an operator does.
    pub(crate) async fn terminate(&mut self, node: usize) -> ExitStatus {
        let child = self.nodes[node - 1].take().unwrap();
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        self.ended(node, child).await
    }

    /// Where clients reach a node, as it says itself.
    pub(crate) fn address(&self, node: usize) -> String {
        let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(self.ready_file(node)).unwrap()).unwrap();
        ready["client"].as_str().unwrap().to_owned()
    }

    /// Where clients shall reach a node, by its configuration.
    pub(crate) fn configured_client(&self, node: usize) -> String {
        let config = std::fs::read_to_string(Self::config(self.scratch.path(), node)).unwrap();
        let line = config.lines().find_map(|line| line.strip_prefix("listen.client = "));
        line.unwrap().trim_matches('"').to_owned()
    }

    /// Empties a node's directory but for its keys.
    pub(crate) fn wipe(&self, node: usize) {
        for entry in std::fs::read_dir(self.directory(node)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() && entry.file_name() != "keys" {
                std::fs::remove_dir_all(entry.path()).unwrap();
            } else if entry.file_name() != "keys" {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    async fn channel(&self, node: usize) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address(node))).unwrap();
        endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
    }

    pub(crate) async fn log(&self, node: usize) -> LogClient<Channel> {
        LogClient::new(self.channel(node).await)
    }

    pub(crate) async fn admin(&self, node: usize) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel(node).await)
    }

    fn running(&self) -> Vec<usize> {
        (1..=self.nodes.len()).filter(|node| self.nodes[node - 1].is_some()).collect()
    }

    /// The node that leads, by its own word.
    pub(crate) async fn leader(&self) -> usize {
        let found = async {
            loop {
                for node in self.running() {
                    let status =
                        self.admin(node).await.status(stele_api::v1::StatusRequest { log: String::new() }).await;
                    let leader = status.ok().and_then(|status| status.into_inner().leader);
                    if leader.is_some_and(|leader| leader.node == node as u64) {
                        return node;
                    }
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, found).await.expect("nobody leads")
    }

    /// All records that a node shows.
    pub(crate) async fn read_all(&self, node: usize) -> Vec<Bytes> {
        let mut log = self.log(node).await;
        let request = ReadRequest { log: ORIGIN.to_owned(), ..ReadRequest::default() };
        let mut stream = log.read(request).await.unwrap().into_inner();
        let mut records = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            for record in piece.records {
                assert_eq!(record.index, records.len() as u64, "in order, without a gap");
                records.push(record.canonical);
            }
        }
        records
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub(crate) fn steled() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steled"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STELE_")) {
        command.env_remove(name);
    }
    command
}

/// Writes one chain, and goes back to what was not acknowledged.
pub(crate) struct Writer {
    name: String,
    kind: &'static str,
    made: Vec<(Bytes, Bytes, SelfHash)>,
    /// The index of each record that was acknowledged.
    pub(crate) acknowledged: Vec<u64>,
}

impl Writer {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), kind: "K", made: Vec::new(), acknowledged: Vec::new() }
    }

    /// Writes records of another kind, and so of other hashes.
    pub(crate) fn of_kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    fn make(&mut self) {
        let builder = RecordBuilder {
            ts_ms: UnixMillis::new(1),
            writer_id: &self.name,
            stream: "s",
            kind: self.kind,
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &Object::default(),
            payload: None,
        };
        let mut canonical = Vec::new();
        let prev = self.made.last().map(|(_, _, hash)| *hash);
        let record = builder.encode(self.made.len() as u64 + 1, prev.as_ref(), &mut canonical).unwrap();
        let hash = record.self_hash();
        let mut finished = Vec::new();
        record.write_finished(&hash, &mut finished);
        self.made.push((canonical.into(), finished.into(), hash));
    }

    /// The finished record of this number.
    pub(crate) fn finished(&mut self, number: usize) -> Bytes {
        while self.made.len() <= number {
            self.make();
        }
        self.made[number].1.clone()
    }

    /// Sends the next records in messages of 8, many under way; `false` where not all were acknowledged.
    pub(crate) async fn try_write(&mut self, log: &mut LogClient<Channel>, until: usize) -> bool {
        let first = self.acknowledged.len();
        let records: Vec<Bytes> = (first..until).map(|number| self.finished(number)).collect();
        let requests: Vec<AppendRequest> = records
            .chunks(8)
            .zip(0..)
            .map(|(chunk, request_id)| AppendRequest {
                log: ORIGIN.to_owned(),
                request_id,
                records: chunk.iter().map(submit).collect(),
                ack: 0,
            })
            .collect();
        let Ok(answers) = log.append(tokio_stream::iter(requests)).await else { return false };
        let mut answers = answers.into_inner();
        let mut next_request = 0;
        while let Ok(Some(response)) = answers.message().await {
            assert_eq!(response.request_id, next_request, "answers come in order");
            next_request += 1;
            for answer in response.answers {
                match answer.answer.unwrap() {
                    Answer::Receipt(receipt) => {
                        let made = &self.made[self.acknowledged.len()];
                        assert_eq!(&receipt.self_hash[..], made.2.as_bytes());
                        self.acknowledged.push(receipt.index);
                    }
                    Answer::Refusal(_) => return false,
                }
            }
        }
        self.acknowledged.len() == until
    }

    /// Writes until so many records are acknowledged, wherever the leader is.
    pub(crate) async fn write(&mut self, cluster: &Cluster, until: usize) {
        let written = async {
            loop {
                let leader = cluster.leader().await;
                let mut log = cluster.log(leader).await;
                if self.try_write(&mut log, until).await {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        assert!(timeout(PATIENCE, written).await.is_ok(), "{} were acknowledged", self.acknowledged.len());
    }

    /// Whether each acknowledged record is where it was said to be.
    pub(crate) fn check(&self, records: &[Bytes]) {
        for (number, index) in self.acknowledged.iter().enumerate() {
            let place = usize::try_from(*index).unwrap();
            assert_eq!(records[place], self.made[number].0, "record {number} at {index}");
        }
        let own = format!("\"writer_id\":\"{}\"", self.name);
        let there = records.iter().filter(|record| String::from_utf8_lossy(record).contains(&own)).count();
        assert!(there >= self.acknowledged.len() && there <= self.made.len());
    }
}

pub(crate) fn submit(record: &Bytes) -> Submission {
    Submission { record: Some(submission::Record::Finished(record.clone())), payload: None }
}

/// What a stream answers to one request.
pub(crate) async fn append_one<T>(log: &mut LogClient<T>, records: Vec<Submission>) -> Vec<RecordAnswer>
where
    T: GrpcService<
            Body,
            Error: Into<StdError>,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        >,
{
    let request = AppendRequest { log: ORIGIN.to_owned(), request_id: 7, records, ack: 0 };
    let mut answers = log.append(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.request_id, answer.first_record), (7, 0));
    assert!(answers.message().await.unwrap().is_none(), "the stream ends after what was sent is answered");
    answer.answers
}

pub(crate) fn code(answer: &RecordAnswer) -> RefusalCode {
    match answer.answer.as_ref().unwrap() {
        Answer::Refusal(refusal) => refusal.code(),
        Answer::Receipt(_) => RefusalCode::Unspecified,
    }
}
