//! The process from start to stop.
//!
//! A start: the log is opened, peers are listened to and asked whether this node may take part ([`Starting`]); then
//! consensus begins, clients are served, and whoever started the process is told that it is ready.
//!
//! A stop: the health service says so, nothing more is taken in, calls under way are answered (for `limits.drain`),
//! leadership goes to a voter that is live and has caught up, then consensus ends and the log is closed cleanly.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use stele_api::MAX_MESSAGE_BYTES;
use stele_api::v1::cluster_server::ClusterServer;
use stele_api::v1::log_server::LogServer;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::local::SealSettings;
use stele_engine::number::NodeId;
use stele_proof::TreeSize;
use stele_raft::gate::LetIn;
use stele_raft::heirs::heirs;
use stele_raft::node::{Node, NodeSettings, StartError};
use stele_raft::peer::client::PeerFactory;
use stele_raft::peer::metrics::PeerMetrics;
use stele_raft::peer::segments::SealedFiles;
use stele_raft::peer::server::{Giver, PeerServer, Served};
use stele_raft::peer::transport::{PeerTls, Tcp, TlsError, TlsFiles, Transport};
use stele_raft::peer::{Limits as PeerLimits, Local, Own};
use stele_raft::starting::Starting;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::birth::{BirthTrouble, Start, prepare};
use crate::client_tls::{ClientTlsError, client_tls};
use crate::config::{Config, Security, TlsPaths};
use crate::cosigning::{Cosigning, Members, OwnCopy, Parts};
use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::donor::ServedSegments;
use crate::joining::{self, JoinTrouble};
use crate::lag::Lately;
use crate::reading::Readers;
use crate::service::{ClusterService, LogService, hand_over};
use crate::serving::{Raft, Serving, watch_visible};
use crate::signing::Signer;
use crate::view::View;
use crate::welcome::{Greeting, welcome};

/// A client that does not answer for so long is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Bytes that a client may send on one stream before it is read.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes that a client may send on one connection before it is read.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// How often it is told that a node waits for its peers.
const TELL_WAITING: Duration = Duration::from_secs(10);
/// How long systemd gives a start that copies, before it is told again.
const STARTING: Duration = Duration::from_secs(60);
/// Bytes of the headers of a call.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Threads that look for records that are older than what is remembered.
const LOOKING_THREADS: usize = 1;

/// Why the process ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunTrouble {
    /// There is nothing to start from.
    #[error(transparent)]
    Birth(#[from] BirthTrouble),
    /// The node has no copy to start from.
    #[error(transparent)]
    Join(#[from] JoinTrouble),
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The certificates for peers.
    #[error(transparent)]
    PeerTls(#[from] TlsError),
    /// The certificates for clients.
    #[error(transparent)]
    ClientTls(#[from] ClientTlsError),
    /// The server for clients did not start, or died.
    #[error("the server for clients: {0}")]
    Serve(String),
    /// The system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Consensus, or the log under it, stopped for good.
    #[error("this node stopped for good: {0}")]
    Stopped(String),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Where a node is reached.
#[derive(Clone, Copy, Debug)]
struct Bound {
    peer: SocketAddr,
    client: SocketAddr,
}

/// Runs a node until a signal ends it. Where `ready` is given, a file there says where the node is reached.
///
/// # Errors
/// [`RunTrouble`].
pub async fn run(config: &Config, ready: Option<&Path>) -> Result<(), RunTrouble> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let environment = Environment::system();
    let mut start = prepare(&environment, config)?;
    if let Some(member) = start.copy.take() {
        let local = Local { cluster: start.cluster, node: start.node };
        let transport = transport(config, start.node)?;
        tokio::select! {
            copied = joining::copy(&environment, config, member, (local, transport)) => copied?,
            // What was installed stays; the next start goes on.
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = still_starting() => {}
        }
    }
    let mut waiting = Waiting::start(&environment, config, start).await?;
    let asked = tokio::select! {
        asked = waiting.starting.ask(&waiting.network) => asked,
        never = tell_waiting() => match never {},
        _ = terminate.recv() => return waiting.stop().await,
        _ = interrupt.recv() => return waiting.stop().await,
    };
    let let_in = match asked {
        Ok(let_in) => let_in,
        Err(error) => {
            waiting.stop().await?;
            return Err(error.into());
        }
    };
    let mut running = Running::start(&environment, config, waiting, let_in, ready).await?;
    tokio::select! {
        reason = stopped(&running.node) => {
            tracing::error!(%reason, "this node stopped for good");
            let stale = running.node.stale();
            running.abandon().await;
            Err(stale.map_or(RunTrouble::Stopped(reason), |stale| StartError::from(stale).into()))
        }
        died = death(&mut running.clients, &mut running.peers, &mut running.cosigns) => {
            tracing::error!(%died, "this node cannot go on");
            running.abandon().await;
            Err(RunTrouble::Serve(died))
        }
        _ = terminate.recv() => running.stop().await,
        _ = interrupt.recv() => running.stop().await,
    }
}

/// Waits until one of the tasks ends that a node is nothing without; which, and how.
async fn death(
    clients: &mut JoinHandle<Result<(), tonic::transport::Error>>,
    peers: &mut JoinHandle<()>,
    cosigns: &mut JoinHandle<()>,
) -> String {
    tokio::select! {
        ended = clients => format!("the server for clients ended: {ended:?}"),
        ended = peers => format!("the server for peers ended: {ended:?}"),
        ended = cosigns => format!("making checkpoints ended: {ended:?}"),
    }
}

/// How often it is looked whether consensus still runs. It is not waited for: what tells it tells every entry, too.
const PULSE: Duration = Duration::from_millis(100);

/// Waits until consensus has stopped; why.
async fn stopped(node: &Node) -> String {
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        pulse.tick().await;
        if let Err(reason) = &node.raft().metrics().borrow_watched().running_state {
            return reason.to_string();
        }
        if !node.is_whole() {
            return "a task of this node has ended".to_owned();
        }
    }
}

/// A node that asks its peers whether it may take part, and answers those that ask the same.
struct Waiting {
    local: Local,
    starting: Starting,
    network: PeerFactory,
    giver: Giver<Raft>,
    client_tls: Option<Arc<ServerConfig>>,
    peer_metrics: Arc<PeerMetrics>,
    peer_address: SocketAddr,
    peers: JoinHandle<()>,
    peers_stop: CancellationToken,
}

impl Waiting {
    async fn start(environment: &Environment, config: &Config, start: Start) -> Result<Self, RunTrouble> {
        let local = Local { cluster: start.cluster, node: start.node };
        let transport = transport(config, start.node)?;
        let client_tls = match &config.clients {
            Security::None => None,
            Security::Tls(paths) => Some(client_tls(paths)?),
        };
        let listener = listen(&config.listen.peer).await?;
        let peer_address = listener.local_addr()?;
        // Listened on later, so that clients do not wait for a node that waits itself.
        drop(listen(&config.listen.client).await?);

        let (opening, path, settings) = (environment.clone(), config.data_dir.clone(), settings(config));
        let open = move || Starting::open(&opening, &path, settings, &start.begin);
        let starting = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;
        let own = Own { local, standing: starting.standing().clone() };
        let (limits, metrics) = (PeerLimits::default(), Arc::new(PeerMetrics::default()));
        let (server, giver) = PeerServer::starting(
            own.clone(),
            transport.clone(),
            Some(Arc::new(starting.entries())),
            limits,
            Arc::clone(&metrics),
        );
        let network = PeerFactory::new(own, transport, Arc::new(Tcp), limits, Arc::clone(&metrics));
        let peers_stop = CancellationToken::new();
        let peers = tokio::spawn(server.serve(listener, peers_stop.clone()));
        let peer_metrics = metrics;
        Ok(Self { local, starting, network, giver, client_tls, peer_metrics, peer_address, peers, peers_stop })
    }

    /// Gives up; the log is closed cleanly.
    async fn stop(self) -> Result<(), RunTrouble> {
        tracing::info!("stopping before this node takes part");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.peers_stop.cancel();
        if let Err(error) = self.peers.await {
            tracing::error!(%error, "the server for peers died");
        }
        Ok(self.starting.close()?)
    }
}

/// A node with everything beside it.
struct Running {
    node: Node,
    serving: Arc<Serving>,
    clients: JoinHandle<Result<(), tonic::transport::Error>>,
    cosigns: JoinHandle<()>,
    /// Told when calls under way are answered: until then they may wait for a proof.
    closing: CancellationToken,
    peers: JoinHandle<()>,
    peers_stop: CancellationToken,
    peer_metrics: Arc<PeerMetrics>,
    health: tonic_health::server::HealthReporter,
}

impl Running {
    async fn start(
        environment: &Environment,
        config: &Config,
        waiting: Waiting,
        let_in: LetIn,
        ready: Option<&Path>,
    ) -> Result<Self, RunTrouble> {
        let Waiting { local, starting, network, giver, client_tls, peer_metrics, peer_address, peers, peers_stop } =
            waiting;
        let client_listener = listen(&config.listen.client).await?;
        let bound = Bound { peer: peer_address, client: client_listener.local_addr()? };
        let node = starting.begin(let_in, network.clone()).await?;
        let view = View::new(node.replica().clone());
        let stopping = CancellationToken::new();
        let closing = CancellationToken::new();
        let visible = watch_visible(node.replica().horizon(), &view, &closing);
        let readers = Arc::new(Readers::start(environment, &config.data_dir, &view, config.limits.readers)?);
        let counters = Arc::new(Counters::default());
        let cosigning = Arc::new(Cosigning::new(Parts {
            environment: environment.clone(),
            copy: Arc::new(OwnCopy { view: view.clone(), readers: Arc::clone(&readers) }),
            others: Arc::new(Members { raft: node.raft().clone(), factory: network }),
            signer: Signer::new(environment, &config.data_dir),
            visible: visible.clone(),
            timeout: config.proof_timeout,
            counters: Arc::clone(&counters),
        }));
        let cosigns = tokio::spawn(Arc::clone(&cosigning).run(closing.clone()));
        let serving = Arc::new(Serving {
            raft: node.raft().clone(),
            intake: node.intake().clone(),
            visible,
            lately: Lately::watch(&view, &stopping),
            readers,
            looks: Readers::start(environment, &config.data_dir, &view, LOOKING_THREADS)?,
            cosigning: Arc::clone(&cosigning),
            cluster: local.cluster,
            view: view.clone(),
            known: OnceLock::new(),
            environment: environment.clone(),
            path: config.data_dir.clone(),
            own_address: own_address(config, bound),
            limits: config.limits,
            access: config.access.clone(),
            counters,
            stopping: stopping.clone(),
        });

        let directory = stele_engine::directory::LogDirectory::new(&config.data_dir);
        let files = SealedFiles::new(Arc::clone(&environment.disk), directory);
        let segments = Arc::new(ServedSegments::new(files, LogService(Arc::clone(&serving))));
        giver.give(Served { raft: node.raft().clone(), admission: Arc::new(view), segments, cosigner: cosigning });

        let (health, clients) = serve_clients(&serving, client_listener, client_tls)?;
        tell_ready(environment, &local, bound, ready)?;
        Ok(Self { node, serving, clients, cosigns, closing, peers, peers_stop, peer_metrics, health })
    }

    /// Stops cleanly.
    async fn stop(self) -> Result<(), RunTrouble> {
        tracing::info!("stopping");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.health.set_not_serving::<LogServer<LogService>>().await;
        let drain = self.serving.limits.drain;
        self.serving.stopping.cancel();
        let mut clients = self.clients;
        let served = match timeout(drain, &mut clients).await {
            Ok(Ok(served)) => served.map_err(|error| RunTrouble::Serve(error.to_string())),
            Ok(Err(died)) => Err(RunTrouble::Serve(died.to_string())),
            Err(_elapsed) => {
                tracing::warn!("calls were under way after {}; they are cut off", humantime::format_duration(drain));
                clients.abort();
                Ok(())
            }
        };
        self.closing.cancel();
        if let Err(error) = self.cosigns.await {
            tracing::error!(%error, "making checkpoints died");
        }
        give_away(&self.serving).await;
        self.peers_stop.cancel();
        if let Err(error) = self.peers.await {
            tracing::error!(%error, "the server for peers died");
        }
        close_readers(&self.serving).await;
        self.node.stop().await?;
        let counters: Vec<_> = self.serving.counters.all().into_iter().chain(self.peer_metrics.troubles()).collect();
        tracing::info!(?counters, "stopped");
        served
    }

    /// Stops as a kill would: the log is not marked as closed cleanly.
    async fn abandon(self) {
        self.serving.stopping.cancel();
        self.closing.cancel();
        self.clients.abort();
        self.cosigns.abort();
        self.peers_stop.cancel();
        if let Err(error) = self.peers.await {
            tracing::error!(%error, "the server for peers died");
        }
        close_readers(&self.serving).await;
        self.node.abandon().await;
    }
}

/// How bytes to and from peers are protected.
fn transport(config: &Config, node: NodeId) -> Result<Transport, TlsError> {
    Ok(match &config.peers {
        Security::None => Transport::Plain,
        Security::Tls(paths) => Transport::Tls(PeerTls::from_files(node, &tls_files(paths))?),
    })
}

/// Tells systemd again and again that the start takes its time; never ends.
async fn still_starting() {
    loop {
        notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(STARTING.as_micros().try_into().unwrap_or(u32::MAX))]);
        sleep(STARTING / 3).await;
    }
}

/// Hands leadership over, where this node has it and somebody can take it.
async fn give_away(serving: &Serving) {
    if !serving.raft.is_leader() {
        return;
    }
    let heir = { heirs(&serving.raft.metrics().borrow_watched()).first().copied() };
    let Some(heir) = heir else { return };
    match hand_over(serving, heir).await {
        Some(term) => tracing::info!(heir, term, "leadership was handed over"),
        None => tracing::warn!(heir, "leadership was not taken over in time"),
    }
}

async fn close_readers(serving: &Arc<Serving>) {
    serving.view.close();
    let readers = Arc::clone(serving);
    let stop = move || {
        readers.readers.stop();
        readers.looks.stop();
    };
    if let Err(error) = tokio::task::spawn_blocking(stop).await {
        tracing::error!(%error, "the reading threads did not end well");
    }
}

fn settings(config: &Config) -> NodeSettings {
    let after_ms = u64::try_from(config.seal.after.as_millis()).unwrap_or(u64::MAX);
    NodeSettings {
        heartbeat: config.raft.heartbeat,
        election: (config.raft.election_min, config.raft.election_max),
        seal: SealSettings { after_ms, bytes: config.seal.bytes },
        remembered: config.limits.remembered,
    }
}

async fn listen(address: &str) -> Result<TcpListener, RunTrouble> {
    let listen = |source| RunTrouble::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(listen)
}

/// Where clients reach this node: as the cluster says, but with the port that was really given.
fn own_address(config: &Config, bound: Bound) -> String {
    let members = config.cluster.iter().flat_map(|cluster| &cluster.members);
    let said = members.filter(|member| Some(member.node) == config.node).map(|member| member.client.clone()).next();
    let scheme = match config.clients {
        Security::None => "http",
        Security::Tls(_) => "https",
    };
    match said {
        Some(said) if !said.ends_with(":0") => said,
        _ => format!("{scheme}://{}", bound.client),
    }
}

fn tls_files(paths: &TlsPaths) -> TlsFiles {
    TlsFiles { chain: paths.cert.clone(), key: paths.key.clone(), roots: paths.ca.clone().unwrap_or_default() }
}

type Clients = (tonic_health::server::HealthReporter, JoinHandle<Result<(), tonic::transport::Error>>);

/// Serves clients until the node stops.
fn serve_clients(
    serving: &Arc<Serving>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
) -> Result<Clients, RunTrouble> {
    let limits = serving.limits;
    let log = LogServer::new(LogService(Arc::clone(serving)))
        .max_decoding_message_size(limits.message_bytes)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let cluster =
        ClusterServer::new(ClusterService::new(Arc::clone(serving))).max_decoding_message_size(limits.message_bytes);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(stele_api::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| RunTrouble::Serve(error.to_string()))?;
    let (health, health_server) = tonic_health::server::health_reporter();
    tokio::spawn(tell_health(health.clone(), Arc::clone(serving)));

    let greeting = tls.map_or(Greeting::Plain, Greeting::Tls);
    let mut server = Server::builder()
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(MAX_HEADER_BYTES);
    let counters = Arc::clone(&serving.counters);
    let incoming = welcome(listener, greeting, limits.connections, counters, serving.stopping.clone());
    let stopping = serving.stopping.clone();
    let (limit, counters) = (limits.request_timeout, &serving.counters);
    let router = server
        .add_service(Deadline::new(log, limit, Arc::clone(counters)))
        .add_service(Deadline::new(cluster, limit, Arc::clone(counters)))
        .add_service(Deadline::new(health_server, limit, Arc::clone(counters)))
        .add_service(Deadline::new(reflection, limit, Arc::clone(counters)));
    let served = router.serve_with_incoming_shutdown(incoming, stopping.cancelled_owned());
    Ok((health, tokio::spawn(served)))
}

/// The log is served once it has its first record, until the node stops; whether somebody leads, it does not say.
async fn tell_health(health: tonic_health::server::HealthReporter, serving: Arc<Serving>) {
    health.set_not_serving::<LogServer<LogService>>().await;
    if serving.wait_visible(TreeSize::new(1)).await.is_ok() {
        health.set_serving::<LogServer<LogService>>().await;
    }
}

/// Tells whoever started the process that it is there.
fn tell_ready(environment: &Environment, local: &Local, bound: Bound, ready: Option<&Path>) -> Result<(), RunTrouble> {
    tracing::info!(node = local.node.get(), client = %bound.client, peer = %bound.peer, "ready");
    if let Some(path) = ready {
        let text = serde_json::json!({
            "node": local.node.get(),
            "client": bound.client.to_string(),
            "peer": bound.peer.to_string(),
            "pid": std::process::id(),
        });
        replace(environment.disk.as_ref(), path, format!("{text}\n").as_bytes(), Mode::Public)
            .map_err(LogError::from)?;
    }
    notify(&[sd_notify::NotifyState::Status("takes part"), sd_notify::NotifyState::Ready]);
    Ok(())
}

/// Tells whoever started the process, as long as it is asked for, that it waits and is not lost.
async fn tell_waiting() -> Infallible {
    let longer = u32::try_from(3 * TELL_WAITING.as_micros()).unwrap_or(u32::MAX);
    loop {
        let waits = sd_notify::NotifyState::Status("waiting for a peer that says whether this node may take part");
        notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(longer), waits]);
        sleep(TELL_WAITING).await;
    }
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
