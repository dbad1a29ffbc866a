//! A cluster instead of a directory: which one is meant, the connection to it, and what its errors mean here.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use stele_api::MAX_MESSAGE_BYTES;
use stele_api::v1::log_client::LogClient;
use stele_api::v1::{DescribeRequest, LogDescription, RefusalCode};
use stele_client::credentials::{Credentials, Wire};
use stele_client::dial::{Dial as _, NetworkDial};
use stele_client::{Address, AppendError, CallError, Client, ClientConfig, ConfigError, Token};
use stele_proof::checkpoint::Origin;
use stele_proof::policy::Policy;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Code, Status};

use crate::context::{self, Reach};
use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// How long one node may take to say what it serves.
const ONE: Duration = Duration::from_secs(3);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long all endpoints together are tried before the cluster counts as not reachable.
const REACH: Duration = Duration::from_secs(10);
/// Between two rounds through the endpoints.
const PAUSE: Duration = Duration::from_millis(100);

/// A log: its directory here, or a cluster that serves it.
#[derive(Args, Clone, Default, Debug)]
pub struct Target {
    /// The log's directory.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["endpoint", "context"])]
    pub log: Option<PathBuf>,
    /// A cluster, by name: see `stele context`.
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    pub context: Option<String>,
    /// A cluster, by address.
    #[command(flatten)]
    pub reach: Reach,
}

/// A cluster that serves a log.
#[derive(Args, Clone, Default, Debug)]
pub struct Remote {
    /// The cluster, by name: see `stele context`.
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    pub context: Option<String>,
    /// The cluster, by address.
    #[command(flatten)]
    pub reach: Reach,
}

/// What a [`Target`] means.
#[derive(Debug)]
pub enum Place<'a> {
    /// A directory.
    Directory(&'a Path),
    /// A cluster.
    Cluster(Reach),
}

impl Target {
    /// A directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { log: Some(path.into()), ..Self::default() }
    }

    /// What was meant.
    ///
    /// # Errors
    /// [`Failure`] with exit code 2 where nothing says it.
    pub fn place(&self) -> Result<Place<'_>, Failure> {
        match &self.log {
            Some(_) if self.reach.policy.is_some() => {
                let why =
                    "--policy is what a cluster is held against; for a directory: `stele verify log DIR --policy FILE`";
                Err(Failure::new(Exit::Usage, anyhow!(why)))
            }
            Some(directory) => Ok(Place::Directory(directory)),
            None => resolve(self.context.as_deref(), &self.reach).map(Place::Cluster),
        }
    }
}

impl Remote {
    /// How it is reached.
    ///
    /// # Errors
    /// [`Failure`] with exit code 2 where nothing says it.
    pub fn reach(&self) -> Result<Reach, Failure> {
        resolve(self.context.as_deref(), &self.reach)
    }
}

fn resolve(name: Option<&str>, flags: &Reach) -> Result<Reach, Failure> {
    if !flags.endpoint.is_empty() {
        return Ok(flags.clone());
    }
    let Some(found) = context::reach(name)? else {
        let why = "which log? give --log DIR, --endpoint HOST:PORT or --context NAME";
        return Err(Failure::new(Exit::Usage, anyhow!(why)));
    };
    // Flags over the file.
    let Reach { endpoint: _, origin, policy, ca, cert, key, token_file } = flags.clone();
    Ok(Reach {
        endpoint: found.endpoint,
        origin: origin.or(found.origin),
        policy: policy.or(found.policy),
        ca: ca.or(found.ca),
        cert: cert.or(found.cert),
        key: key.or(found.key),
        token_file: token_file.or(found.token_file),
    })
}

/// One thread for everything asynchronous of a command.
///
/// # Errors
/// [`Failure`] where the system gives none.
pub fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?)
}

/// Waits for the end of a command's asynchronous part.
///
/// # Errors
/// Those of the future.
pub fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    runtime()?.block_on(future)
}

/// A cluster that was reached.
pub struct Connected {
    /// The client.
    pub client: Client,
    /// What the node that answered says of the log.
    pub description: LogDescription,
    dial: NetworkDial,
    credentials: Credentials,
    has_token: bool,
    policy: Option<PathBuf>,
}

/// Connects to the first node that answers.
///
/// # Errors
/// [`Failure`]: exit code 4 where nobody answers, 6 where the log is not served, 2 where it must be named.
pub async fn connect(reach: &Reach) -> Result<Connected, Failure> {
    connect_with(reach, |_| {}).await
}

/// As [`connect`], with other bounds.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(reach: &Reach, adjust: impl FnOnce(&mut ClientConfig)) -> Result<Connected, Failure> {
    let dial = dial(reach)?;
    let endpoints: Vec<Address> =
        reach.endpoint.iter().map(|text| address(text, reach)).collect::<Result<_, _>>().map_err(usage)?;
    let mut last = String::from("no address was tried");
    let token = token(reach)?;
    if let Some(open) = endpoints.iter().find(|address| token.is_some() && !address.is_private()) {
        let why = anyhow!("a token would be readable on its way to {open}: give --ca and an https address");
        return Err(Failure::new(Exit::Usage, why));
    }
    let credentials = Credentials::new(token.clone());
    let found = timeout(REACH, describe((&dial, &credentials), &endpoints, &mut last)).await;
    let logs = found.unwrap_or(Ok(None))?.ok_or_else(|| {
        let (at, hint) = (reach.endpoint.join(", "), hint(reach));
        Failure::new(Exit::Unreachable, anyhow!("no node answers at {at}: {last}{hint}"))
    })?;
    let description = choose(logs, reach.origin.as_deref())?;
    let origin = Origin::new(&description.origin).map_err(|error| Failure::new(Exit::Unverified, anyhow!(error)))?;
    let mut config = ClientConfig::new(origin, endpoints).map_err(|error| anyhow!(error))?;
    config.dial = Arc::new(dial.clone());
    let has_token = token.is_some();
    config.token = token;
    adjust(&mut config);
    let client = Client::new(config).map_err(|error| anyhow!(error))?;
    Ok(Connected { client, description, dial, credentials, has_token, policy: reach.policy.clone() })
}

fn usage(error: ConfigError) -> Failure {
    Failure::new(Exit::Usage, anyhow!(error))
}

/// `host:port` is https where there are roots to check it against.
fn address(text: &str, reach: &Reach) -> Result<Address, ConfigError> {
    match (text.contains("://"), &reach.ca) {
        (true, _) => Address::new(text),
        (false, Some(_)) => Address::new(&format!("https://{text}")),
        (false, None) => Address::new(&format!("http://{text}")),
    }
}

fn dial(reach: &Reach) -> Result<NetworkDial, Failure> {
    let dial = NetworkDial::new(CONNECT);
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let Some(ca) = &reach.ca else { return Ok(dial) };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let (Some(cert), Some(key)) = (&reach.cert, &reach.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(dial.with_tls(tls))
}

/// The token that a file holds, but for the end of its line.
fn token(reach: &Reach) -> Result<Option<Token>, Failure> {
    let Some(path) = &reach.token_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let token = Token::new(text.trim_end_matches(['\r', '\n']));
    token.map(Some).map_err(|error| Failure::new(Exit::Usage, anyhow!("{}: {error}", path.display())))
}

/// What the first node that answers serves; `None` where all of them refuse this client's TLS, which does not change by
/// asking again.
async fn describe(
    (dial, credentials): (&NetworkDial, &Credentials),
    endpoints: &[Address],
    last: &mut String,
) -> Result<Option<Vec<LogDescription>>, Failure> {
    loop {
        let mut refused = 0;
        for address in endpoints {
            let asked = timeout(ONE, async {
                let mut client = log_client(dial, credentials, address).await?;
                anyhow::Ok(client.describe(DescribeRequest { log: String::new() }).await)
            });
            let answered = match asked.await {
                Ok(Ok(answered)) => answered,
                Ok(Err(error)) => {
                    *last = format!("{error:#}");
                    continue;
                }
                // One that hangs does not keep the others from being asked.
                Err(_elapsed) => {
                    *last = format!("{address}: no answer within {} s", ONE.as_secs());
                    continue;
                }
            };
            match answered {
                Ok(response) => return Ok(Some(response.into_inner().logs)),
                Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => {
                    return Err(Failure::new(Exit::Forbidden, anyhow!("{address}: {}", status.message())));
                }
                Err(status) => {
                    refused += usize::from(is_refused_by_tls(&status));
                    *last = format!("{address}: {}", reasons(&status));
                }
            }
        }
        if refused == endpoints.len() {
            return Ok(None);
        }
        sleep(PAUSE).await;
    }
}

/// Whether what the other end sent ended TLS: rustls reports an alert as invalid data.
fn is_refused_by_tls(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind == Some(std::io::ErrorKind::InvalidData) {
            return true;
        }
        next = error.source();
    }
    false
}

/// What a status says, and what lies under it: that a certificate was refused is said there alone.
fn reasons(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        next = error.source();
    }
    text
}

/// What a server may want that was not given.
const fn hint(reach: &Reach) -> &'static str {
    match (&reach.ca, &reach.cert) {
        (None, _) => "; a cluster with TLS is reached with --ca",
        (Some(_), None) => "; a cluster that asks clients for a certificate is reached with --cert and --key",
        (Some(_), Some(_)) => "",
    }
}

fn choose(logs: Vec<LogDescription>, origin: Option<&str>) -> Result<LogDescription, Failure> {
    let names: Vec<String> = logs.iter().map(|log| log.origin.clone()).collect();
    let mut fit: Vec<LogDescription> =
        logs.into_iter().filter(|log| origin.is_none_or(|origin| origin == log.origin)).collect();
    match (fit.pop(), fit.is_empty(), origin) {
        (Some(log), true, _) => Ok(log),
        (Some(_), false, _) => {
            Err(Failure::new(Exit::Usage, anyhow!("which log? give --origin: {}", names.join(", "))))
        }
        (None, _, Some(origin)) => {
            let why = anyhow!("the log {origin} is not served there, but {}", names.join(", "));
            Err(Failure::new(Exit::NotFound, why))
        }
        (None, _, None) => Err(Failure::new(Exit::NotFound, anyhow!("no log is served there yet"))),
    }
}

async fn log_client(
    dial: &NetworkDial,
    credentials: &Credentials,
    address: &Address,
) -> Result<LogClient<Wire>, anyhow::Error> {
    let channel = dial.dial(address).await?;
    Ok(LogClient::new(credentials.wire(channel)).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

impl Connected {
    /// The plain interface of one node, for what must not go to another one.
    ///
    /// # Errors
    /// [`Failure`]: exit code 4.
    pub async fn node(&self, address: &str) -> Result<LogClient<Wire>, Failure> {
        let address = Address::new(address).map_err(usage)?;
        if self.has_token && !address.is_private() {
            let why = anyhow!("a token would be readable on its way to {address}, which a node named");
            return Err(Failure::new(Exit::Unreachable, why));
        }
        log_client(&self.dial, &self.credentials, &address)
            .await
            .map_err(|error| Failure::new(Exit::Unreachable, error))
    }

    /// The policy that the user gave, else the server's own, of which the user is told.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn policy(&self, streams: &mut Streams<'_>) -> Result<Arc<Policy>, Failure> {
        match self.given_policy()? {
            Some(policy) => Ok(policy),
            None => {
                streams.tell(
                    "stele: note: no --policy: that of the server is taken, so a server that lies is not found out",
                );
                self.own_policy()
            }
        }
    }

    /// The policy that the user gave.
    ///
    /// # Errors
    /// [`Failure`] where it cannot be read, or is none.
    pub fn given_policy(&self) -> Result<Option<Arc<Policy>>, Failure> {
        let Some(path) = &self.policy else { return Ok(None) };
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let policy = Policy::parse(&bytes).with_context(|| format!("{} is no policy", path.display()))?;
        Ok(Some(Arc::new(policy)))
    }

    /// The policy that the server names.
    ///
    /// # Errors
    /// [`Failure`] where it is none.
    pub fn own_policy(&self) -> Result<Arc<Policy>, Failure> {
        let policy = Policy::parse(self.description.policy.as_bytes()).context("the server's policy is none")?;
        Ok(Arc::new(policy))
    }
}

/// What a failed call means to whoever called the command.
pub fn call(error: CallError) -> Failure {
    let exit = match &error {
        CallError::Unavailable { .. } | CallError::DeadlineExceeded { .. } => Exit::Unreachable,
        CallError::NotFound { .. } => Exit::NotFound,
        CallError::Refused(refused) => refusal(refused.code),
        CallError::Status { code, .. } => status(*code),
        CallError::PolicyNotMet(_) => Exit::Forbidden,
        CallError::Fork { .. } | CallError::NotConsistent { .. } | CallError::Violation(_) => Exit::Unverified,
        _ => Exit::Failed,
    };
    let error = match error {
        // The sentence holds its cause already.
        CallError::Violation(_) => anyhow!("{error}"),
        _ => anyhow!(error),
    };
    Failure::new(exit, error)
}

/// What a plain status means. `OutOfRange` is no index beyond the end, but a message that is too large.
pub const fn status(code: Code) -> Exit {
    match code {
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => Exit::Forbidden,
        Code::NotFound => Exit::NotFound,
        Code::DataLoss => Exit::Unverified,
        Code::ResourceExhausted => Exit::Busy,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

const fn refusal(code: RefusalCode) -> Exit {
    match code {
        RefusalCode::Reserved | RefusalCode::Forbidden | RefusalCode::TooManyChains => Exit::Forbidden,
        RefusalCode::Busy => Exit::Busy,
        RefusalCode::Unavailable | RefusalCode::NotLeader => Exit::Unreachable,
        RefusalCode::Unspecified => Exit::Failed,
        _ => Exit::Unverified,
    }
}

/// What a record without a receipt means.
pub fn append(error: AppendError) -> Failure {
    append_at("", error)
}

/// As [`append`], with words before it.
pub fn append_at(place: &str, error: AppendError) -> Failure {
    let exit = match &error {
        AppendError::Refused(refused) => refusal(refused.code),
        AppendError::TimedOut { .. } | AppendError::Closed => Exit::Unreachable,
        AppendError::Stream { code, .. } => status(*code),
        AppendError::Invalid(stele_client::InvalidRecord::Reserved) => Exit::Forbidden,
        AppendError::Violation(_) | AppendError::Invalid(_) | AppendError::ChainBroken { .. } => Exit::Unverified,
        _ => Exit::Failed,
    };
    Failure::new(exit, anyhow!("{place}{error}"))
}
