//! Sites on this machine: configurations, keys, processes.
//!
//! Every site has one node, a `steled` process of its own on loopback ports, without TLS. The processes end when the
//! [`Sites`] are dropped, and (told by the kernel) when this process dies in any other way.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use stele_api::v1::NodeStatus;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_proof::checkpoint::Origin;
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use tokio::time::{Instant, sleep};

use crate::context::Reach;
use crate::exit::{Exit, Failure};
use crate::remote::{Connected, call, connect};

pub mod config;
pub mod proxy;

use config::{Member, NodeConfig};

/// How long nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that was told to stop may take.
const STOP: Duration = Duration::from_secs(15);
/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Ports below those that the system hands out by itself: none is taken while its node is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The origin of a log on this machine.
pub const ORIGIN: &str = "example.com/quickstart";

/// What sites are made like.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The directory to make them in.
    pub directory: &'a Path,
    /// How many.
    pub sites: u64,
    /// Lines that are added to every configuration.
    pub extra: &'a str,
    /// What lies between the nodes.
    pub delay: Option<Duration>,
}

/// One site.
pub struct Site {
    /// The number of its node.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Where clients reach it: `host:port`.
    pub client: String,
    process: Option<Child>,
}

/// What becomes of the processes when nobody holds them any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AtEnd {
    Kill,
    Leave,
}

/// Sites on this machine.
pub struct Sites {
    sites: Vec<Site>,
    program: PathBuf,
    at_end: AtEnd,
}

impl Site {
    /// The log's directory.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.directory.join("steled.toml")
    }

    /// What it said.
    pub fn output(&self) -> PathBuf {
        self.directory.join("steled.log")
    }

    /// The number of its process.
    pub fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// How it is reached, and nobody else.
    pub fn reach(&self) -> Reach {
        Reach { endpoint: vec![self.client.clone()], ..Reach::default() }
    }

    /// The last lines that it said.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.output()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

/// `steled`, beside this program, else wherever programs are.
///
/// # Errors
/// [`Failure`] that says how to get it.
pub fn steled() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    // Tests lie one directory deeper.
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("steled"));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let elsewhere = std::env::split_paths(&paths).map(|directory| directory.join("steled"));
    beside.chain(elsewhere).find(|path| path.is_file()).ok_or_else(|| {
        let why = anyhow!(
            "there is no `steled`, neither beside {} nor in PATH; from the sources it is built by `cargo build -p \
             stele-server`",
            own.display()
        );
        Failure::new(Exit::Failed, why)
    })
}

impl Sites {
    /// Makes the directories, keys and configurations; nothing runs yet.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn make(environment: &Environment, plan: &Plan<'_>) -> Result<Self, Failure> {
        let program = steled()?;
        fs::create_dir_all(plan.directory).with_context(|| format!("cannot make {}", plan.directory.display()))?;
        let seed: [u8; 8] = environment.random().context("the system gives no randomness")?;
        let count = usize::try_from(plan.sites).map_err(|error| anyhow!(error))?;
        let ports = free_ports(count * 2, u64::from_le_bytes(seed))?;
        let host = |port: u16| format!("127.0.0.1:{port}");
        let (mut members, mut sites, mut listens) = (Vec::new(), Vec::new(), Vec::new());
        for (node, ports) in (1..=plan.sites).zip(ports.chunks(2)) {
            let name = site_name(node);
            let directory = plan.directory.join(&name);
            let keys = make_keys(environment, &directory.join("log"), &format!("{ORIGIN}/site/{name}/{node}"))?;
            let (peer, client) = (host(ports[0]), host(ports[1]));
            listens.push(peer.clone());
            let advertised = match plan.delay {
                None => peer,
                Some(delay) => proxy::start(peer, delay).await.context("cannot delay")?,
            };
            members.push(Member { node, site: name.clone(), peer: advertised, client: client.clone(), keys });
            sites.push(Site { node, name, directory, client, process: None });
        }
        let token = format!("sites-{:016x}", u64::from_be_bytes(seed));
        for (site, listen) in sites.iter().zip(listens) {
            let text = NodeConfig {
                data_dir: &site.log(),
                node: site.node,
                site: &site.name,
                origin: ORIGIN,
                token: &token,
                listen_peer: &listen,
                listen_client: &site.client,
                security: config::Security::None,
                extra: plan.extra,
                members: &members,
                joined: None,
                access: &[],
            };
            replace(environment.disk.as_ref(), &site.config(), text.to_toml().as_bytes(), Mode::Public)?;
        }
        Ok(Self { sites, program, at_end: AtEnd::Kill })
    }

    /// All of them.
    pub fn all(&self) -> &[Site] {
        &self.sites
    }

    /// How the cluster is reached.
    pub fn reach(&self) -> Reach {
        Reach { endpoint: self.sites.iter().map(|site| site.client.clone()).collect(), ..Reach::default() }
    }

    /// The processes stay when nobody holds this any more; to be said before they start.
    pub const fn keep(&mut self) {
        self.at_end = AtEnd::Leave;
    }

    /// Starts all nodes that do not run.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn start(&mut self) -> Result<(), Failure> {
        let guard = guard(&self.program, self.at_end);
        for site in self.sites.iter_mut().filter(|site| site.process.is_none()) {
            let output = File::options().create(true).append(true).open(site.output());
            let output = output.with_context(|| format!("cannot write {}", site.output().display()))?;
            let mut command = match &guard {
                Some(own) => {
                    let mut command = Command::new(own);
                    command.arg("run-until-parent-ends").arg(&self.program);
                    command
                }
                None => {
                    let mut command = Command::new(&self.program);
                    // Interrupting this program is not to reach those that stay.
                    command.process_group(0);
                    command
                }
            };
            for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STELE_")) {
                command.env_remove(name);
            }
            command.arg("--config").arg(site.config());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
            let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
            site.process = Some(child);
        }
        Ok(())
    }

    /// Waits until every node answers and knows the same leader, and answers the client of all.
    ///
    /// # Errors
    /// [`Failure`]: exit code 4 where that does not come about.
    pub async fn ready(&mut self) -> Result<Connected, Failure> {
        let give_up = Instant::now() + PATIENCE;
        let mut leaders: Vec<Option<u64>> = Vec::new();
        while leaders.is_empty() || leaders.iter().any(|leader| leader.is_none() || *leader != leaders[0]) {
            self.alive()?;
            leaders.clear();
            for site in self.sites.iter().filter(|site| site.process.is_some()) {
                leaders.push(leader_known_to(site).await);
            }
            self.rest(give_up, "the nodes do not agree on a leader").await?;
        }
        connect(&self.reach()).await
    }

    async fn rest(&self, give_up: Instant, what: &str) -> Result<(), Failure> {
        if Instant::now() >= give_up {
            let words: Vec<String> =
                self.sites.iter().map(|site| format!("site {}: {}", site.name, site.last_words())).collect();
            return Err(Failure::new(Exit::Unreachable, anyhow!("{what}: {}", words.join("; "))));
        }
        sleep(LOOK_AGAIN).await;
        Ok(())
    }

    /// Whether all processes that should run do.
    fn alive(&mut self) -> Result<(), Failure> {
        for site in &mut self.sites {
            let Some(process) = &mut site.process else { continue };
            if let Some(status) = process.try_wait().context("cannot look after a node")? {
                site.process = None;
                let why = anyhow!("the node of site {} has ended ({status}): {}", site.name, site.last_words());
                return Err(Failure::new(Exit::Failed, why));
            }
        }
        Ok(())
    }

    fn site(&mut self, node: u64) -> Result<&mut Site, Failure> {
        let site = self.sites.iter_mut().find(|site| site.node == node);
        site.ok_or_else(|| anyhow!("there is no node {node}").into())
    }

    /// Kills a node as `kill -9` does.
    ///
    /// # Errors
    /// [`Failure`] where it does not run.
    pub fn kill(&mut self, node: u64) -> Result<(), Failure> {
        let mut process = self.site(node)?.process.take().ok_or_else(|| anyhow!("node {node} does not run"))?;
        process.kill().and_then(|()| process.wait()).with_context(|| format!("cannot kill node {node}"))?;
        Ok(())
    }

    /// Waits until every node has applied what the others have, and answers how much that is.
    ///
    /// # Errors
    /// [`Failure`]: exit code 4 where that does not come about.
    pub async fn caught_up(&mut self) -> Result<u64, Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.alive()?;
            let mut seen = Vec::new();
            for site in &self.sites {
                seen.push(own_status(site).await.map(|own| (own.applied, own.last, own.tree_size)));
            }
            if let Some((applied, last, Some(size))) = seen[0]
                && applied == last
                && seen.iter().all(|other| *other == seen[0])
            {
                return Ok(size);
            }
            self.rest(give_up, "the nodes do not come to the same state").await?;
        }
    }

    /// Waits until every node has applied at least so many records, while more may come.
    ///
    /// # Errors
    /// [`Failure`]: exit code 4 where that does not come about.
    pub async fn caught_up_with(&mut self, size: u64) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.alive()?;
            let mut all = true;
            for site in &self.sites {
                let own = own_status(site).await.and_then(|own| own.tree_size);
                all &= own.is_some_and(|own| own >= size);
            }
            if all {
                return Ok(());
            }
            self.rest(give_up, "a node does not catch up").await?;
        }
    }

    /// Waits until every site has as many sealed segments, at least this many.
    ///
    /// # Errors
    /// [`Failure`]: exit code 4 where that does not come about.
    pub async fn sealed(&mut self, least: u64) -> Result<u64, Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.alive()?;
            let mut counts = Vec::new();
            for site in &self.sites {
                counts.push(own_status(site).await.and_then(|own| own.sealed_segments));
            }
            if let Some(count) = counts[0].filter(|count| *count >= least)
                && counts.iter().all(|other| *other == Some(count))
            {
                return Ok(count);
            }
            self.rest(give_up, "the sites do not have the same sealed segments").await?;
        }
    }

    /// Stops all nodes, and waits until they have ended.
    ///
    /// # Errors
    /// [`Failure`] where one did not end well.
    pub async fn stop(mut self) -> Result<(), Failure> {
        for process in self.sites.iter().filter_map(|site| site.process.as_ref()) {
            terminate(process)?;
        }
        let give_up = Instant::now() + STOP;
        let mut bad = Vec::new();
        for site in &mut self.sites {
            let Some(mut process) = site.process.take() else { continue };
            match ended(&mut process, give_up).await? {
                Some(status) if status.success() => {}
                Some(status) => bad.push(format!("site {}: {status}: {}", site.name, site.last_words())),
                None => bad.push(format!("site {}: it did not stop within {} s", site.name, STOP.as_secs())),
            }
        }
        if bad.is_empty() { Ok(()) } else { Err(anyhow!("a node did not stop well: {}", bad.join("; ")).into()) }
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        if self.at_end == AtEnd::Leave {
            return;
        }
        for process in self.sites.iter_mut().filter_map(|site| site.process.as_mut()) {
            // Nobody is left to tell; what has ended already cannot be killed.
            drop(process.kill().and_then(|()| process.wait()));
        }
    }
}

fn terminate(process: &Child) -> Result<(), Failure> {
    let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| anyhow!("{} is no process", process.id()))?;
    match kill_process(id, Signal::TERM) {
        // It has ended by itself; how, its status tells.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(anyhow!(error).context("cannot stop a node").into()),
    }
}

/// How a process ended; killed where it does not.
async fn ended(process: &mut Child, give_up: Instant) -> Result<Option<ExitStatus>, Failure> {
    loop {
        if let Some(status) = process.try_wait().context("cannot look after a node")? {
            return Ok(Some(status));
        }
        if Instant::now() >= give_up {
            process.kill().and_then(|()| process.wait()).context("cannot kill a node")?;
            return Ok(None);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The command line, which can stand between a node and this program (which may be another one).
fn guard(program: &Path, at_end: AtEnd) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().filter(|own| own.file_name().is_some_and(|name| name == "stele"));
    let guard = own.or_else(|| Some(program.with_file_name("stele")).filter(|path| path.is_file()));
    guard.filter(|_guard| at_end == AtEnd::Kill)
}

/// The arguments of `stele run-until-parent-ends`, which is for this program's own use.
#[derive(Args, Debug)]
pub struct GuardArguments {
    /// The program and its arguments.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub program: Vec<std::ffi::OsString>,
}

/// Becomes the program, which the kernel will kill once whoever started it has died.
///
/// # Errors
/// [`Failure`] where that cannot be had.
pub fn run_guard(arguments: &GuardArguments) -> Result<(), Failure> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to be killed")?;
    if getppid() != parent {
        return Err(anyhow!("whoever started this has died").into());
    }
    let Some((program, rest)) = arguments.program.split_first() else { return Ok(()) };
    let error = Command::new(program).args(rest).exec();
    Err(anyhow!(error).context(format!("cannot start {}", Path::new(program).display())).into())
}

async fn leader_known_to(site: &Site) -> Option<u64> {
    let connected = within(connect(&site.reach())).await?;
    let status = within(async { connected.client.cluster().status().await.map_err(call) }).await?;
    status.leader.map(|leader| leader.node)
}

/// What a node knows about itself; `None` where it does not answer.
pub async fn own_status(site: &Site) -> Option<NodeStatus> {
    let connected = within(connect(&site.reach())).await?;
    let status = within(async { connected.client.cluster().status().await.map_err(call) }).await?;
    status.nodes.into_iter().find(|node| node.node == site.node)
}

/// Somebody who does not answer soon is asked again later.
async fn within<T>(ask: impl Future<Output = Result<T, Failure>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(2), ask).await.ok()?.ok()
}

/// `a`, `b`, ... and after 26 of them numbers.
fn site_name(node: u64) -> String {
    match u8::try_from(node) {
        Ok(node @ 1..=26) => char::from(b'a' + node - 1).to_string(),
        _ => format!("site-{node}"),
    }
}

/// Ports on which nobody listens, beginning somewhere.
fn free_ports(count: usize, seed: u64) -> Result<Vec<u16>, Failure> {
    let span = u64::from(PORTS.end - PORTS.start);
    let first = u16::try_from(seed % span).unwrap_or(0);
    let order = (PORTS.start + first..PORTS.end).chain(PORTS.start..PORTS.start + first);
    let free: Vec<u16> =
        order.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).take(count).collect();
    if free.len() < count {
        return Err(anyhow!("no {count} ports are free on this machine").into());
    }
    Ok(free)
}

/// Makes the keys of a node; answers their public halves.
///
/// # Errors
/// [`Failure`] where there are any already.
pub fn make_keys(environment: &Environment, log: &Path, cosigner: &str) -> Result<[String; 2], Failure> {
    let directory = LogDirectory::new(log);
    let keys = directory.keys();
    if keys.exists() {
        let why = anyhow!("{} holds keys already; name another directory", keys.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    let disk = environment.disk.as_ref();
    fs::create_dir_all(log).with_context(|| format!("cannot make {}", log.display()))?;
    disk.create_directory(&keys)?;
    let origin = Origin::new(ORIGIN).map_err(|error| anyhow!(error))?;
    make_pair(environment, &directory, &origin, cosigner)
}

/// Makes a log key and a cosigner key in a directory that is there.
///
/// # Errors
/// [`Failure`].
pub fn make_pair(
    environment: &Environment,
    directory: &LogDirectory,
    origin: &Origin,
    cosigner: &str,
) -> Result<[String; 2], Failure> {
    let cosigner = KeyName::new(cosigner).map_err(|error| anyhow!(error))?;
    let make = |path: &Path, name: KeyName, kind: KeyKind| -> Result<String, Failure> {
        let seed = environment.random().context("the system gives no randomness")?;
        let key = SigningKey::from_seed(name, kind, seed);
        let text = format!("{}\n", key.to_private_text());
        replace(environment.disk.as_ref(), path, text.as_bytes(), Mode::Private)?;
        Ok(key.verifier_key().to_string())
    };
    Ok([
        make(&directory.log_key(), origin.key_name().clone(), KeyKind::Ed25519)?,
        make(&directory.cosigner_key(), cosigner, KeyKind::CosignatureEd25519)?,
    ])
}
