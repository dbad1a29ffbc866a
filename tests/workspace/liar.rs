//! A node that lies, between the command line and a real one: it changes a record into another one that is as good.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use stele_api::v1::log_client::LogClient;
use stele_api::v1::log_server::{Log, LogServer};
use stele_api::v1::{self, ReadResponse};
use stele_engine::environment::Environment;
use stele_proof::record::Record;
use stele_tools::remote::runtime;
use stele_tools::sites::{Plan, Sites};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{stele, words_command};
use crate::process::{Ended, lines, run, text, until};

/// It lies about no record.
const HONEST: u64 = u64::MAX;
const NOTE: &str = "stele: note: not proved: without --policy";

/// Passes calls on, and changes one record on its way back.
struct Liar {
    node: LogClient<Channel>,
    /// The index of the record that it changes.
    about: Arc<AtomicU64>,
}

type Answered<T> = Result<Response<T>, Status>;
type Pieces = BoxStream<'static, Result<ReadResponse, Status>>;

/// Another record, canonical and with a hash of its own.
fn changed(canonical: &[u8]) -> Bytes {
    let other = std::str::from_utf8(canonical).unwrap().replacen("\"reason\":\"ok\"", "\"reason\":\"no\"", 1);
    assert_ne!(other.as_bytes(), canonical);
    Record::parse(other.as_bytes()).unwrap();
    other.into()
}

impl Liar {
    fn changed(&self, records: Streaming<ReadResponse>) -> Pieces {
        let about = Arc::clone(&self.about);
        Box::pin(records.map(move |piece| {
            let mut piece = piece?;
            for record in piece.records.iter_mut().filter(|record| record.index == about.load(Ordering::Relaxed)) {
                record.canonical = changed(&record.canonical);
            }
            Ok(piece)
        }))
    }
}

#[tonic::async_trait]
impl Log for Liar {
    type AppendStream = BoxStream<'static, Result<v1::AppendResponse, Status>>;
    type ReadStream = Pieces;
    type TailStream = Pieces;

    async fn append(&self, _: Request<Streaming<v1::AppendRequest>>) -> Answered<Self::AppendStream> {
        Err(Status::unimplemented("it is read only"))
    }

    async fn head(&self, request: Request<v1::HeadRequest>) -> Answered<v1::HeadResponse> {
        self.node.clone().head(request).await
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Answered<Pieces> {
        Ok(Response::new(self.changed(self.node.clone().read(request).await?.into_inner())))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Answered<Pieces> {
        Ok(Response::new(self.changed(self.node.clone().tail(request).await?.into_inner())))
    }

    async fn prove(&self, request: Request<v1::ProveRequest>) -> Answered<v1::ProveResponse> {
        let index = request.get_ref().index;
        let mut answer = self.node.clone().prove(request).await?;
        if index == self.about.load(Ordering::Relaxed) {
            // It sticks to its story.
            answer.get_mut().record = changed(&answer.get_ref().record);
        }
        Ok(answer)
    }

    async fn consistency(&self, request: Request<v1::ConsistencyRequest>) -> Answered<v1::ConsistencyResponse> {
        self.node.clone().consistency(request).await
    }

    async fn checkpoint(&self, request: Request<v1::CheckpointRequest>) -> Answered<v1::CheckpointResponse> {
        self.node.clone().checkpoint(request).await
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Answered<v1::DescribeResponse> {
        self.node.clone().describe(request).await
    }
}

/// A liar at work, on a thread of its own, until it is dropped.
struct Lying {
    address: String,
    about: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lying {
    fn before(node: &str) -> Self {
        let (about, (stop, stopped)) = (Arc::new(AtomicU64::new(HONEST)), oneshot::channel());
        let node = Endpoint::from_shared(format!("http://{node}")).unwrap();
        let (told, address) = std::sync::mpsc::channel();
        let lies = Arc::clone(&about);
        let thread = std::thread::spawn(move || {
            runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
                let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
                told.send(incoming.local_addr().unwrap()).unwrap();
                let liar = Liar { node: LogClient::new(node.connect_lazy()), about: lies };
                let served = Server::builder().add_service(LogServer::new(liar));
                // Streams that are open do not keep it.
                let served = served.serve_with_incoming(incoming);
                tokio::select! {
                    served = served => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let address = address.recv().unwrap().to_string();
        Self { address, about, stop: Some(stop), thread: Some(thread) }
    }

    fn lie_about(&self, index: u64) {
        self.about.store(index, Ordering::Relaxed);
    }
}

impl Drop for Lying {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the liar died");
        }
    }
}

fn append(endpoint: &str, writer: &str, count: usize) -> Ended {
    let words =
        ["append", "--endpoint", endpoint, "--stream", "s", "--writer", writer, "--kind", "Line", "--json", "-"];
    run(words_command(&words), text(&lines("line", count)).as_bytes())
}

/// One site, a few records, and a liar before it.
fn site(directory: &Path) -> (Sites, Lying, String) {
    let plan = Plan { directory, sites: 1, extra: "", delay: None };
    let sites = runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let told = |failure: stele_tools::Failure| panic!("{failure}");
        let mut sites = Sites::make(&Environment::system(), &plan).await.unwrap_or_else(told);
        sites.start().unwrap_or_else(|failure| panic!("{failure}"));
        drop(sites.ready().await.unwrap_or_else(|failure| panic!("{failure}")));
        sites
    });
    append(&sites.reach().endpoint[0], "w", 20).output();
    let liar = Lying::before(&sites.reach().endpoint[0]);
    let policy = sites.all()[0].log().join("policy").to_str().unwrap().to_owned();
    (sites, liar, policy)
}

#[test]
fn a_node_that_changes_a_record_is_found_out_under_a_policy_and_without_one_the_user_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (sites, liar, policy) = site(&directory.path().join("sites"));
    let (honest, lying) = (sites.reach().endpoint.join(","), liar.address.clone());
    let at = |endpoint: &str, words: &[&str]| stele(&[words, &["--endpoint", endpoint]].concat());
    let proved = |words: &[&str]| stele(&[words, &["--endpoint", &lying, "--policy", &policy]].concat());
    let (all, tail): (&[&str], &[&str]) = (&["read", "0..100", "--payload", "--json"], &["tail", "-n", "3"]);

    // As long as it tells the truth it is believed; what is proved is said without a note.
    let truth = at(&honest, all);
    assert!(truth.errors.starts_with(NOTE) && truth.errors.lines().count() == 1, "{}", truth.errors);
    for words in [all, tail] {
        let told = proved(words);
        assert_eq!(told.errors, "");
        assert_eq!(told.output(), at(&honest, words).output());
    }

    // Wherever the lie is, under the policy nothing of it is printed.
    for index in [1, 7, 20] {
        liar.lie_about(index);
        // Of the last, it has to show a proof.
        let found_by =
            if index == 20 { "proof does not hold" } else { "records 0 to 20, as they were sent, are not in" };
        proved(all).refused(3, &[found_by]);
        proved(&["read", &index.to_string()]).refused(3, &["proof does not hold"]);
        let range = format!("{index}..{}", index + 1);
        proved(&["read", &range]).refused(3, &["proof does not hold"]);
        assert_eq!(proved(&["read", "2..6"]).output().lines().count(), 4, "what it does not lie about is read");
        let believed = at(&lying, all);
        assert!(believed.errors.starts_with(NOTE) && believed.errors.lines().count() == 1, "{}", believed.errors);
        assert_eq!(believed.output.matches("\"reason\":\"no\"").count(), 1);
        assert_ne!(believed.output(), truth.output);
    }
    proved(tail).refused(3, &["proof does not hold"]);
    let believed = at(&lying, tail);
    assert!(believed.errors.starts_with(NOTE), "{}", believed.errors);
    assert!(believed.output().contains("\"reason\":\"no\""));

    // The policy of a context counts as that of the flag.
    let contexts = directory.path().join("contexts.toml");
    let with_context = |words: &[&str]| {
        let mut command: Command = words_command(words);
        command.env("STELE_CONTEXTS", &contexts);
        run(command, b"")
    };
    with_context(&["context", "set", "audit", "--endpoint", &lying, "--policy", &policy]).output();
    with_context(&["read", "--context", "audit", "0..100"]).refused(3, &["proof does not hold"]);

    // A directory has nobody else who signs, and says so instead of ignoring the policy.
    let log = sites.all()[0].log();
    stele(&["read", "--log", log.to_str().unwrap(), "--policy", &policy, "0"]).refused(2, &["stele verify log"]);
}

#[test]
fn following_under_a_policy_prints_what_is_proved_as_it_comes_and_ends_at_the_first_lie() {
    let directory = tempfile::tempdir().unwrap();
    let (sites, liar, policy) = site(&directory.path().join("sites"));
    let honest = sites.reach().endpoint.join(",");
    liar.lie_about(35);
    let output = directory.path().join("output");
    let words = ["tail", "-n", "5", "--follow", "--json", "--endpoint", &liar.address, "--policy", &policy];
    let mut command = words_command(&words);
    command.stdout(std::fs::File::create(&output).unwrap());
    let child = command.spawn().unwrap();
    let printed = || -> Vec<u64> {
        let text = std::fs::read_to_string(&output).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        whole.map(|line| line["index"].as_u64().unwrap()).collect()
    };
    until("the last records are printed", || printed().len() == 5);
    append(&honest, "v", 10).output();
    until("what was appended is printed", || printed().len() == 15);
    append(&honest, "u", 10).output();
    let ended = crate::process::ended(child);
    assert_eq!(ended.code, Some(3), "{}", ended.errors);
    assert_eq!(ended.errors.lines().count(), 1, "{}", ended.errors);
    let printed = printed();
    let first = printed[0];
    assert_eq!(printed, (first..first + u64::try_from(printed.len()).unwrap()).collect::<Vec<_>>());
    assert!(!printed.contains(&35) && printed.len() >= 15, "{printed:?}");
}
