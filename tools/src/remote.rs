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
use stele_client::dial::{Dial as _, NetworkDial};
use stele_client::{Address, AppendError, CallError, Client, ClientConfig, ConfigError};
use stele_proof::checkpoint::Origin;
use stele_proof::policy::Policy;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::context::{self, Reach};
use crate::exit::{Exit, Failure};
use crate::stream::Streams;

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
    let Reach { endpoint: _, origin, policy, ca, cert, key } = flags.clone();
    Ok(Reach {
        endpoint: found.endpoint,
        origin: origin.or(found.origin),
        policy: policy.or(found.policy),
        ca: ca.or(found.ca),
        cert: cert.or(found.cert),
        key: key.or(found.key),
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
    let found = timeout(REACH, describe(&dial, &endpoints, &mut last)).await;
    let logs = found.map_err(|_elapsed| {
        Failure::new(Exit::Unreachable, anyhow!("no node answers at {}: {last}", reach.endpoint.join(", ")))
    })??;
    let description = choose(logs, reach.origin.as_deref())?;
    let origin = Origin::new(&description.origin).map_err(|error| Failure::new(Exit::Unverified, anyhow!(error)))?;
    let mut config = ClientConfig::new(origin, endpoints).map_err(|error| anyhow!(error))?;
    config.dial = Arc::new(dial);
    adjust(&mut config);
    let client = Client::new(config).map_err(|error| anyhow!(error))?;
    Ok(Connected { client, description, policy: reach.policy.clone() })
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

/// What the first node that answers serves.
async fn describe(
    dial: &NetworkDial,
    endpoints: &[Address],
    last: &mut String,
) -> Result<Vec<LogDescription>, Failure> {
    loop {
        for address in endpoints {
            let mut client = match log_client(dial, address).await {
                Ok(client) => client,
                Err(error) => {
                    *last = format!("{error:#}");
                    continue;
                }
            };
            match client.describe(DescribeRequest { log: String::new() }).await {
                Ok(response) => return Ok(response.into_inner().logs),
                Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => {
                    return Err(Failure::new(Exit::Forbidden, anyhow!("{address}: {}", status.message())));
                }
                Err(status) => *last = format!("{address}: {}", status.message()),
            }
        }
        sleep(PAUSE).await;
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

async fn log_client(dial: &NetworkDial, address: &Address) -> Result<LogClient<Channel>, anyhow::Error> {
    let channel = dial.dial(address).await?;
    Ok(LogClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

impl Connected {
    /// The policy that the user gave, else the server's own, of which the user is told.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn policy(&self, streams: &mut Streams<'_>) -> Result<Arc<Policy>, Failure> {
        match &self.policy {
            Some(path) => {
                let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let policy = Policy::parse(&bytes).with_context(|| format!("{} is no policy", path.display()))?;
                Ok(Arc::new(policy))
            }
            None => {
                streams.tell(
                    "stele: note: no --policy: that of the server is taken, so a server that lies is not found out",
                );
                self.own_policy()
            }
        }
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
        CallError::Unavailable { .. } => Exit::Unreachable,
        CallError::NotFound { .. } => Exit::NotFound,
        CallError::Refused(refused) => refusal(refused.code),
        CallError::Status { code, .. } => status(*code),
        CallError::PolicyNotMet(_) => Exit::Forbidden,
        CallError::Fork { .. } | CallError::Violation(_) => Exit::Unverified,
        _ => Exit::Failed,
    };
    Failure::new(exit, anyhow!(error))
}

/// What a plain status means.
pub const fn status(code: Code) -> Exit {
    match code {
        Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => Exit::Forbidden,
        Code::NotFound | Code::OutOfRange => Exit::NotFound,
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
