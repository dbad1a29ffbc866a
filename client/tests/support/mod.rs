//! A cluster in memory: servers over one table of chains, with faults by script, and connections without a network,
//! so that time can stand still.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use stele_api::refusal::to_status;
use stele_api::v1::log_server::{Log, LogServer};
use stele_api::v1::{self, RefusalCode, record_answer::Answer};
use stele_client::dial::{Dial, DialError};
use stele_client::reader::Payloads;
use stele_client::record::ChainName;
use stele_client::{Address, AppenderOptions, ChainWriter, Client, ClientConfig, Event, ReadRange};
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::sign;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::{Actor, Finished, Object, Record, SelfHash, Subject};
use stele_proof::tree::{Hash, leaf_hash, node_hash};
use stele_proof::{LeafIndex, TreeSize, UnixMillis};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const LOG: &str = "example.com/log";

/// What a server does with the n-th record that it gets, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Busy,
    Unavailable,
    /// Appended, and answered as if nobody knew.
    UnavailableButAppended,
    /// The stream breaks; this record was not looked at.
    CutBefore,
    /// The stream breaks; this record was appended.
    CutAfter,
    /// Appended; no answer ever comes, on this stream.
    Hang,
    WrongHash,
    WrongPosition,
    WrongRequest,
    NoContent,
    OldIndex,
    /// With `ACK_PROVEN`: a proof that leads to another root.
    WrongProof,
    /// Another record in the place of the right one, as good as any: canonical, with its own hash.
    OtherRecord,
    /// Without the signatures that are asked for.
    Unsigned,
    /// As a node that does not have it yet.
    NotThere,
    /// The stream ends before this record, as if there were no more.
    EndBefore,
    /// Neither this record nor anything else comes, on this stream.
    Silent,
    /// A message without a record before this one.
    Empty,
    Refuse(RefusalCode),
}

/// The log: what is in it, and where each identity is.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) leaves: Vec<(Bytes, Option<v1::Payload>)>,
    pub(crate) heads: HashMap<ChainName, (u64, SelfHash)>,
    pub(crate) identities: HashMap<(ChainName, u64), (SelfHash, u64)>,
    /// The checkpoint that is shown instead of that of the leaves.
    pub(crate) shown: Option<String>,
}

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) seen: u64,
    pub(crate) faults: BTreeMap<u64, Fault>,
    /// Set at a node that does not lead: the address that it names.
    pub(crate) follows: Option<String>,
    pub(crate) requests: Vec<usize>,
    pub(crate) streams: u64,
    /// How many proofs were asked for.
    pub(crate) proofs: usize,
    /// Set at a node that lags: the records that it has, and for how many more reads it has no others.
    pub(crate) lags: Option<(u64, u32)>,
    /// Set at a node whose ranges end there, whatever else it shows.
    pub(crate) ends: Option<u64>,
    /// Set at a node that proves nothing beyond so many records.
    pub(crate) behind: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct FakeServer {
    pub(crate) table: Arc<Mutex<Table>>,
    pub(crate) node: Arc<Mutex<Node>>,
}

/// Servers by address; dialling goes through pipes in memory.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) table: Arc<Mutex<Table>>,
    nodes: Arc<Mutex<HashMap<Address, Listener>>>,
    /// So many connections are refused before one is made.
    pub(crate) refused_dials: Arc<Mutex<u32>>,
}

#[derive(Clone)]
struct Listener {
    node: Arc<Mutex<Node>>,
    incoming: mpsc::Sender<io::Result<DuplexStream>>,
}

pub(crate) fn address(number: u16) -> Address {
    Address::new(&format!("http://node:{number}")).unwrap()
}

impl Cluster {
    pub(crate) fn node(&self, number: u16) -> Arc<Mutex<Node>> {
        let node = Arc::new(Mutex::new(Node::default()));
        let (incoming, mut connections) = mpsc::channel(16);
        let server = FakeServer { table: Arc::clone(&self.table), node: Arc::clone(&node) };
        let connections = stream::poll_fn(move |context| connections.poll_recv(context));
        tokio::spawn(Server::builder().add_service(LogServer::new(server)).serve_with_incoming(connections));
        self.nodes.lock().unwrap().insert(address(number), Listener { node: Arc::clone(&node), incoming });
        node
    }

    /// A node that listens on a port of this machine.
    pub(crate) async fn node_on_tcp(&self) -> (Address, Arc<Mutex<Node>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let node = Arc::new(Mutex::new(Node::default()));
        let server = FakeServer { table: Arc::clone(&self.table), node: Arc::clone(&node) };
        let connections = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(LogServer::new(server)).serve_with_incoming(connections));
        (address, node)
    }

    pub(crate) fn config(&self, endpoints: &[u16]) -> ClientConfig {
        let endpoints = endpoints.iter().copied().map(address).collect();
        let mut config = ClientConfig::new(Origin::new(LOG).unwrap(), endpoints).unwrap();
        config.jitter_seed = 1;
        config.dial = Arc::new(self.clone());
        config
    }

    /// The oracle: every chain is 1, 2, 3, ... in the order of the log, and linked; no identity twice.
    pub(crate) fn check(&self) {
        let table = self.table.lock().unwrap();
        let mut heads: HashMap<(String, String), (u64, Option<SelfHash>)> = HashMap::new();
        for (canonical, _) in &table.leaves {
            let record = Record::parse(canonical).unwrap();
            let name = (record.writer_id().decode().into_owned(), record.stream().decode().into_owned());
            let (seq, prev) = heads.get(&name).copied().unwrap_or((0, None));
            assert_eq!((record.seq(), record.prev()), (seq + 1, prev), "{name:?}");
            heads.insert(name, (record.seq(), Some(record.self_hash())));
        }
    }
}

impl Dial for Cluster {
    fn dial(&self, address: &Address) -> BoxFuture<'static, Result<Channel, DialError>> {
        let (this, address) = (self.clone(), address.clone());
        Box::pin(async move {
            let failed = |reason: &str| DialError { address: address.clone(), reason: reason.into() };
            {
                let mut refused = this.refused_dials.lock().unwrap();
                if *refused > 0 {
                    *refused -= 1;
                    return Err(failed("refused by script"));
                }
            }
            let listener = this.nodes.lock().unwrap().get(&address).cloned();
            let incoming = listener.ok_or_else(|| failed("nobody listens"))?.incoming;
            let connector = tower::service_fn(move |_: http::Uri| {
                let incoming = incoming.clone();
                async move {
                    let (ours, theirs) = tokio::io::duplex(1 << 16);
                    incoming.send(Ok(theirs)).await.map_err(io::Error::other)?;
                    Ok::<_, io::Error>(TokioIo::new(ours))
                }
            });
            let endpoint = Endpoint::from_shared(address.as_str().to_owned()).unwrap();
            endpoint.connect_with_connector(connector).await.map_err(|error| failed(&error.to_string()))
        })
    }
}

/// A log of `records` records, every second with a payload.
pub(crate) async fn filled(records: u64) -> (Cluster, Arc<Mutex<Node>>, Client) {
    let (cluster, [node], client) = filled_at([1], records).await;
    (cluster, node, client)
}

/// As [`filled`], at several nodes, the first of which is asked first.
pub(crate) async fn filled_at<const N: usize>(
    numbers: [u16; N],
    records: u64,
) -> (Cluster, [Arc<Mutex<Node>>; N], Client) {
    let cluster = Cluster::default();
    let nodes = numbers.map(|number| cluster.node(number));
    let client = Client::connect(cluster.config(&numbers)).await.unwrap();
    append(&client, records).await;
    (cluster, nodes, client)
}

/// Appends records to a chain that goes on where it ended.
pub(crate) async fn append(client: &Client, records: u64) {
    let name = ChainName { writer_id: "w".into(), stream: "s".into() };
    let head = client.head(&name).await.unwrap();
    let mut writer = ChainWriter::new(client.appender(AppenderOptions::default()).unwrap(), name, head);
    let attrs = Object::default();
    for at in 0..records {
        let (actor, subject) = (Actor { anon: true, ..Actor::default() }, Subject::default());
        let event = Event { ts_ms: UnixMillis::new(at), kind: "K", actor, subject, reason: "ok", attrs: &attrs };
        let pending = match at % 2 {
            0 => writer.append(&event).await,
            _ => writer.append_with_payload(&event, Bytes::from(format!("payload {at}"))).await,
        };
        pending.unwrap().await.unwrap();
    }
}

/// The whole log.
pub(crate) fn all(payloads: Payloads) -> ReadRange {
    ReadRange { payloads, ..ReadRange::from(LeafIndex::new(0)) }
}

fn refusal(code: RefusalCode) -> v1::Refusal {
    v1::Refusal { code: code.into(), text: "by script".into(), ..v1::Refusal::default() }
}

impl Table {
    pub(crate) fn append(&mut self, submission: &v1::Submission) -> Answer {
        let (finished, draft) = match submission.record.as_ref().unwrap() {
            v1::submission::Record::Finished(finished) => (finished.clone(), false),
            v1::submission::Record::Draft(draft) => (self.finish(draft), true),
        };
        let split = Finished::split(&finished).unwrap();
        let mut canonical = Vec::new();
        split.write_canonical(&mut canonical);
        let canonical = Bytes::from(canonical);
        let record = Record::parse(&canonical).unwrap();
        let (writer_id, stream) = (record.writer_id().decode().into_owned(), record.stream().decode().into_owned());
        let (name, hash) = (ChainName { writer_id, stream }, record.self_hash());
        let receipt = |index| {
            let self_hash = Bytes::copy_from_slice(hash.as_bytes());
            let finished = draft.then(|| v1::Finished { record: canonical.clone(), salt: Bytes::new() });
            Answer::Receipt(v1::Receipt { index, self_hash, finished, ..v1::Receipt::default() })
        };
        if let Some((known, index)) = self.identities.get(&(name.clone(), record.seq())) {
            if *known == hash {
                return receipt(*index);
            }
            return Answer::Refusal(v1::Refusal { index: Some(*index), ..refusal(RefusalCode::Tamper) });
        }
        let head = self.heads.get(&name).copied();
        let expected = head.map_or(1, |(seq, _)| seq + 1);
        if record.seq() != expected {
            return Answer::Refusal(v1::Refusal { expected_seq: Some(expected), ..refusal(RefusalCode::SeqGap) });
        }
        if record.prev() != head.map(|(_, hash)| hash) {
            return Answer::Refusal(refusal(RefusalCode::LinkMismatch));
        }
        let index = u64::try_from(self.leaves.len()).unwrap();
        self.identities.insert((name.clone(), record.seq()), (hash, index));
        self.heads.insert(name, (record.seq(), hash));
        self.leaves.push((canonical.clone(), submission.payload.clone()));
        receipt(index)
    }

    fn finish(&self, draft: &v1::Draft) -> Bytes {
        let name = ChainName { writer_id: draft.writer_id.clone(), stream: draft.stream.clone() };
        let head = self.heads.get(&name).copied();
        let (mut canonical, mut out) = (Vec::new(), Vec::new());
        let attrs = draft.attrs.as_ref().map(|attrs| stele_proof::record::parse_object(attrs).unwrap());
        let attrs = attrs.unwrap_or_default();
        let builder = stele_proof::record::RecordBuilder {
            ts_ms: UnixMillis::new(draft.ts_ms.unwrap_or(7)),
            writer_id: &draft.writer_id,
            stream: &draft.stream,
            kind: &draft.kind,
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
            payload: None,
        };
        let (seq, prev) = (head.map_or(1, |(seq, _)| seq + 1), head.map(|(_, hash)| hash));
        let record = builder.encode(seq, prev.as_ref(), &mut canonical).unwrap();
        record.write_finished(&record.self_hash(), &mut out);
        out.into()
    }

    /// RFC 6962 2.1, word for word, and slowly: not the code that is tested.
    pub(crate) fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&Self::root(left), &Self::root(right))
            }
        }
    }

    /// RFC 6962 2.1.1, word for word.
    pub(crate) fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut path, sibling) = match index.checked_sub(left.len()) {
            None => (Self::path(left, index), right),
            Some(index) => (Self::path(right, index), left),
        };
        path.push(Self::root(sibling));
        path
    }

    fn proof(&self, index: u64, fault: Option<Fault>) -> String {
        let mut path = Self::path(&self.leaf_hashes(), usize::try_from(index).unwrap());
        if matches!(fault, Some(Fault::WrongHash | Fault::WrongProof)) {
            path[0] = leaf_hash(b"");
        }
        let key = if fault == Some(Fault::Unsigned) { stranger() } else { log_key() };
        ProofFile::new(None, LeafIndex::new(index), path, self.note_by(&key)).unwrap().to_string()
    }

    fn leaf_hashes(&self) -> Vec<Hash> {
        self.leaves.iter().map(|(canonical, _)| leaf_hash(canonical)).collect()
    }

    /// RFC 6962 2.1.2, word for word.
    fn consistency(leaves: &[Hash], old: usize, whole: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if whole { Vec::new() } else { vec![Self::root(leaves)] };
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        let (mut proof, sibling) = match old.checked_sub(left.len()) {
            None | Some(0) => (Self::consistency(left, old, whole), right),
            Some(old) => (Self::consistency(right, old, false), left),
        };
        proof.push(Self::root(sibling));
        proof
    }

    pub(crate) fn note(&self) -> String {
        self.note_by(&log_key())
    }

    fn note_by(&self, key: &SigningKey) -> String {
        let leaves = self.leaf_hashes();
        let size = TreeSize::new(u64::try_from(leaves.len()).unwrap());
        let checkpoint = Checkpoint { origin: Origin::new(LOG).unwrap(), size, root: Self::root(&leaves) };
        sign(&checkpoint.to_string(), &[key]).unwrap()
    }
}

pub(crate) fn log_key() -> SigningKey {
    SigningKey::from_seed(KeyName::new(LOG).unwrap(), KeyKind::Ed25519, [7; 32])
}

/// A key of the same name that no policy knows.
fn stranger() -> SigningKey {
    SigningKey::from_seed(KeyName::new(LOG).unwrap(), KeyKind::Ed25519, [9; 32])
}

/// Believes the log's own signature.
pub(crate) fn policy() -> Policy {
    Policy::parse(format!("log {}\nquorum none\n", log_key().verifier_key()).as_bytes()).unwrap()
}

/// Asks for a witness that never signs.
pub(crate) fn strict_policy() -> Policy {
    let witness = SigningKey::from_seed(KeyName::new("w").unwrap(), KeyKind::CosignatureEd25519, [8; 32]);
    let (log, witness) = (log_key().verifier_key().to_string(), witness.verifier_key().to_string());
    Policy::parse(format!("log {log}\nwitness w {witness}\nquorum w\n").as_bytes()).unwrap()
}

/// A record as good as this one: canonical, and with a hash of its own.
fn other(canonical: &[u8]) -> Bytes {
    let text = std::str::from_utf8(canonical).unwrap();
    let other = text.replacen("\"reason\":\"ok\"", "\"reason\":\"no\"", 1);
    assert_ne!(text, other);
    Record::parse(other.as_bytes()).unwrap();
    other.into()
}

/// A message for each record of a range, with the faults that are due; one is due behind the last record, too.
fn pieces(
    node: &mut Node,
    leaves: Vec<(Bytes, Option<v1::Payload>)>,
    request: &v1::ReadRequest,
) -> Answers<v1::ReadResponse> {
    let mut out = Vec::new();
    let size = u64::try_from(leaves.len()).unwrap();
    for (index, (canonical, payload)) in (0..).zip(leaves) {
        if index < request.start || request.end.is_some_and(|end| index >= end) {
            continue;
        }
        let payload = payload.filter(|_| request.with_payload);
        let mut record = v1::Record { index, canonical, payload };
        match node.faults.remove(&(READ + index)) {
            Some(Fault::CutBefore) => {
                out.push(Err(Status::unavailable("cut by script")));
                return Box::pin(stream::iter(out));
            }
            Some(Fault::EndBefore) => return Box::pin(stream::iter(out)),
            Some(Fault::Silent) => return Box::pin(stream::iter(out).chain(stream::pending())),
            Some(Fault::Empty) => out.push(Ok(v1::ReadResponse::default())),
            Some(Fault::OldIndex) => record.index = 0,
            Some(Fault::WrongHash) => record.canonical = Bytes::from_static(b"{}"),
            Some(Fault::OtherRecord) => record.canonical = other(&record.canonical),
            Some(_) => record.payload = Some(v1::Payload { salt: vec![0; 32].into(), bytes: Bytes::new() }),
            None => {}
        }
        out.push(Ok(v1::ReadResponse { records: vec![record] }));
    }
    if let Some(Fault::CutBefore) = node.faults.remove(&(READ + size)) {
        out.push(Err(Status::unavailable("cut by script")));
    }
    Box::pin(stream::iter(out))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeServer {
    fn lacks(&self, size: u64) -> bool {
        self.node.lock().unwrap().behind.is_some_and(|behind| behind < size)
    }

    /// One record; `Err` ends the stream, or hangs it.
    fn one(&self, submission: &v1::Submission) -> Result<(Answer, Option<Fault>), Fault> {
        let (mut node, mut table) = (self.node.lock().unwrap(), self.table.lock().unwrap());
        if let Some(leader) = &node.follows {
            let leader = Some(v1::Leader { node: 1, address: leader.clone() });
            return Ok((Answer::Refusal(v1::Refusal { leader, ..refusal(RefusalCode::NotLeader) }), None));
        }
        let nth = node.seen;
        node.seen += 1;
        let fault = node.faults.remove(&nth);
        match fault {
            None => Ok((table.append(submission), None)),
            Some(Fault::Busy) => Ok((Answer::Refusal(refusal(RefusalCode::Busy)), None)),
            Some(Fault::Unavailable) => Ok((Answer::Refusal(refusal(RefusalCode::Unavailable)), None)),
            Some(Fault::Refuse(code)) => Ok((Answer::Refusal(refusal(code)), None)),
            Some(Fault::UnavailableButAppended) => {
                table.append(submission);
                Ok((Answer::Refusal(refusal(RefusalCode::Unavailable)), None))
            }
            Some(Fault::CutBefore) => Err(Fault::CutBefore),
            Some(fault @ (Fault::CutAfter | Fault::Hang)) => {
                table.append(submission);
                Err(fault)
            }
            Some(fault) => {
                let mut answer = table.append(submission);
                if let Answer::Receipt(receipt) = &mut answer {
                    match fault {
                        Fault::WrongHash => receipt.self_hash = Bytes::from_static(&[1; 32]),
                        Fault::OldIndex => receipt.index = 0,
                        Fault::OtherRecord => {
                            let finished = receipt.finished.as_mut().unwrap();
                            finished.record = other(&finished.record);
                            let hash = Record::parse(&finished.record).unwrap().self_hash();
                            receipt.self_hash = Bytes::copy_from_slice(hash.as_bytes());
                        }
                        _ => {}
                    }
                }
                Ok((answer, Some(fault)))
            }
        }
    }

    async fn serve(
        self,
        mut requests: Streaming<v1::AppendRequest>,
        out: mpsc::Sender<Result<v1::AppendResponse, Status>>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            assert_eq!(request.log, LOG);
            self.node.lock().unwrap().requests.push(request.records.len());
            for (at, submission) in request.records.iter().enumerate() {
                let mut response = v1::AppendResponse {
                    request_id: request.request_id,
                    first_record: u32::try_from(at).unwrap(),
                    answers: Vec::new(),
                };
                match self.one(submission) {
                    Ok((mut answer, fault)) => {
                        if request.ack() == v1::Ack::Proven
                            && let Answer::Receipt(receipt) = &mut answer
                        {
                            receipt.proof = self.table.lock().unwrap().proof(receipt.index, fault);
                        }
                        let answer = (fault != Some(Fault::NoContent)).then_some(answer);
                        response.answers.push(v1::RecordAnswer { answer });
                        match fault {
                            Some(Fault::WrongPosition) => response.first_record += 1,
                            Some(Fault::WrongRequest) => response.request_id += 1,
                            _ => {}
                        }
                        if out.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                    Err(Fault::Hang) => return core::future::pending().await,
                    Err(_) => {
                        drop(out.send(Err(Status::unavailable("cut by script"))).await);
                        return;
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Log for FakeServer {
    type AppendStream = Answers<v1::AppendResponse>;
    type ReadStream = Answers<v1::ReadResponse>;
    type TailStream = Answers<v1::ReadResponse>;

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.node.lock().unwrap().streams += 1;
        let (out, mut answers) = mpsc::channel(4);
        tokio::spawn(self.clone().serve(request.into_inner(), out));
        Ok(Response::new(Box::pin(stream::poll_fn(move |context| answers.poll_recv(context)))))
    }

    async fn head(&self, request: Request<v1::HeadRequest>) -> Result<Response<v1::HeadResponse>, Status> {
        if let Some(leader) = &self.node.lock().unwrap().follows {
            let leader = Some(v1::Leader { node: 1, address: leader.clone() });
            return Err(to_status(&v1::Refusal { leader, ..refusal(RefusalCode::NotLeader) }));
        }
        let v1::HeadRequest { writer_id, stream, .. } = request.into_inner();
        let (table, name) = (self.table.lock().unwrap(), ChainName { writer_id, stream });
        let head = table.heads.get(&name).map(|(seq, hash)| {
            let index = table.identities[&(name.clone(), *seq)].1;
            v1::Head { seq: *seq, self_hash: Bytes::copy_from_slice(hash.as_bytes()), index }
        });
        Ok(Response::new(v1::HeadResponse { head }))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let mut node = self.node.lock().unwrap();
        let mut leaves = self.table.lock().unwrap().leaves.clone();
        if let Some((has, reads)) = node.lags {
            leaves.truncate(usize::try_from(has).unwrap());
            node.lags = reads.checked_sub(1).map(|reads| (has, reads));
        }
        let size = u64::try_from(leaves.len()).unwrap();
        if request.start > size || (request.start == size && request.end != Some(size)) {
            return Err(Status::not_found("there is no such record"));
        }
        leaves.truncate(node.ends.map_or(leaves.len(), |ends| usize::try_from(ends).unwrap()));
        Ok(Response::new(pieces(&mut node, leaves, &request)))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let v1::TailRequest { log, from, with_payload } = request.into_inner();
        let request = v1::ReadRequest { log, start: from, with_payload, ..v1::ReadRequest::default() };
        let leaves = self.table.lock().unwrap().leaves.clone();
        Ok(Response::new(pieces(&mut self.node.lock().unwrap(), leaves, &request)))
    }

    async fn prove(&self, request: Request<v1::ProveRequest>) -> Result<Response<v1::ProveResponse>, Status> {
        let (request, table) = (request.into_inner(), self.table.lock().unwrap());
        let fault = {
            let mut node = self.node.lock().unwrap();
            node.proofs += 1;
            node.faults.remove(&(PROVE + request.index))
        };
        if fault == Some(Fault::NotThere) || self.lacks(request.index + 1) {
            return Err(Status::not_found("not there yet"));
        }
        let index = usize::try_from(request.index).unwrap();
        let Some((record, _)) = table.leaves.get(index) else { return Err(Status::not_found("beyond the end")) };
        let proof = table.proof(request.index, fault);
        Ok(Response::new(v1::ProveResponse { proof, record: record.clone() }))
    }

    async fn consistency(
        &self,
        request: Request<v1::ConsistencyRequest>,
    ) -> Result<Response<v1::ConsistencyResponse>, Status> {
        let v1::ConsistencyRequest { old, new, .. } = request.into_inner();
        if self.lacks(new) {
            return Err(Status::not_found("not there yet"));
        }
        let leaves = self.table.lock().unwrap().leaf_hashes();
        let (old, new) = (usize::try_from(old).unwrap(), usize::try_from(new).unwrap());
        assert!(1 <= old && old <= new, "{old} to {new}");
        let Some(leaves) = leaves.get(..new) else { return Err(Status::not_found("beyond the end")) };
        let hashes = Table::consistency(leaves, old, true);
        let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(hash.as_bytes())).collect();
        Ok(Response::new(v1::ConsistencyResponse { hashes }))
    }

    async fn checkpoint(&self, _: Request<v1::CheckpointRequest>) -> Result<Response<v1::CheckpointResponse>, Status> {
        let table = self.table.lock().unwrap();
        let note = table.shown.clone().unwrap_or_else(|| table.note());
        Ok(Response::new(v1::CheckpointResponse { note }))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeResponse>, Status> {
        let description = v1::LogDescription { origin: LOG.into(), ..v1::LogDescription::default() };
        Ok(Response::new(v1::DescribeResponse { logs: vec![description] }))
    }
}

/// Faults of reading and proving are kept beside those of appending.
pub(crate) const READ: u64 = 1 << 40;
pub(crate) const PROVE: u64 = 1 << 41;
