//! `stele cluster join`: a new node, from nothing to a vote.
//!
//! Each step can be done again: keys and configuration that are there stay, a node that is known with the same
//! description stays, a process that runs stays, and a copy that was interrupted goes on.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use stele_api::v1::{NodeKeys, NodeStatus, StatusResponse};
use stele_client::cluster::{Cluster, NewNode, NodeNumber};
use stele_engine::checkpointing;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_engine::segment::SegmentFile;
use stele_proof::checkpoint::Origin;
use tokio::time::{Instant, sleep};

use super::status::{cluster_id, collect};
use super::{list, numbers, topology, voters};
use crate::context::Reach;
use crate::exit::{Exit, Failure};
use crate::remote::{Connected, Remote, block_on, call, connect};
use crate::sites::config::{Clients, Joined, NodeConfig, Security};
use crate::sites::{make_pair, steled};
use crate::stream::Streams;

/// Between two looks at a node that catches up.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The most that a new voter may lack; it catches up with the rest while it votes.
const CAUGHT_UP: u64 = 100;

/// The arguments of `stele cluster join`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the new node. It
  1. makes DIR with the node's keys (DIR/log/keys) and its configuration (DIR/steled.toml),
  2. asks the cluster to take the node in, without a vote,
  3. starts `steled --config DIR/steled.toml`, which copies all sealed segments from the other nodes, each checked against
     seal records and signed checkpoints, and then follows the log (what it says goes to DIR/steled.log),
  4. waits until the node has caught up,
  5. gives it a vote, and removes the node of --replace.
Interrupted, it can be given again with the same arguments, and goes on. Numbers of nodes are never used twice, also not
those of nodes that are gone. A set of voters that the loss of one site can stop is refused (exit code 5).

A cluster that was reached with --cert asks its clients for a certificate, and so does the new node. Who may do what, each
node's configuration says: --access takes the tables of another node's.

With --no-start nothing is started: start the node as a service, say by systemd, when step 2 is told, and the command
waits for it.

Examples:
  stele cluster join --endpoint a.example.com:7070 --ca ca.pem --dir /var/lib/stele --node 4 --site d \\
    --peer d.example.com:7071 --client d.example.com:7070 --certs certs --access a/steled.toml
  stele cluster join --endpoint 127.0.0.1:7070 --dir n4 --node 4 --site c --peer 127.0.0.1:7471 \\
    --client 127.0.0.1:7470 --insecure --replace 3")]
pub struct JoinArguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// The directory of the new node.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The number of the new node, never used before.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node: u64,
    /// Its site.
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Where peers reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: String,
    /// Where clients reach it.
    #[arg(long, value_name = "HOST:PORT")]
    pub client: String,
    /// Where its certificate is: node-N.pem, node-N-key.pem and ca.pem, as `stele dev-certs` names them.
    #[arg(long, value_name = "DIR", required_unless_present = "insecure", conflicts_with = "insecure")]
    pub certs: Option<PathBuf>,
    /// The configuration of another node: the new one gets its [[access]] tables.
    #[arg(long, value_name = "FILE")]
    pub access: Option<PathBuf>,
    /// No TLS; for addresses of this machine only.
    #[arg(long)]
    pub insecure: bool,
    /// Most bytes a second that it copies; 64MiB if not said.
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<String>,
    /// The voter whose place it takes; that one is removed.
    #[arg(long, value_name = "N")]
    pub replace: Option<u64>,
    /// Leave it without a vote.
    #[arg(long, conflicts_with = "replace")]
    pub learner: bool,
    /// Start nothing: the node is started in another way.
    #[arg(long)]
    pub no_start: bool,
    /// How long to wait until it has caught up, in seconds.
    #[arg(long, value_name = "S", default_value_t = 86_400)]
    pub timeout: u64,
    /// Accept a set of voters that the loss of one site can stop.
    #[arg(long)]
    pub allow_unsafe_topology: bool,
}

pub(super) fn run(
    arguments: &JoinArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    block_on(async {
        let reach = arguments.remote.reach()?;
        let connected = connect(&reach).await?;
        let joining = Joining { arguments, environment, connected: &connected, reach: &reach };
        joining.run(streams).await
    })
}

/// A join on its way.
struct Joining<'a> {
    arguments: &'a JoinArguments,
    environment: &'a Environment,
    connected: &'a Connected,
    reach: &'a Reach,
}

impl Joining<'_> {
    async fn run(&self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let JoinArguments { node, site, .. } = self.arguments;
        let cluster = self.connected.client.cluster();
        let before = collect(self.connected, self.reach).await?.status;
        self.check(&before)?;
        let access = access(&self.config(), self.arguments)?;
        if access.is_empty() && self.reach.token_file.is_some() {
            let why = "a cluster that was reached with --token-file has [[access]] tables, and without them the new node \
                       would let everybody do everything: give those of another node with --access FILE";
            return Err(Failure::new(Exit::Usage, anyhow!(why)));
        }
        let keys = self.keys()?;
        self.write_configuration((&before, &access), streams)?;
        if access.is_empty() && !self.arguments.insecure {
            self.warn(streams);
        }
        cluster.add_learner(self.new_node(&keys)).await.map_err(call)?;
        streams.line(format_args!("added       node {node} at site {site}, without a vote"))?;
        let mut process = self.start(streams)?;
        streams.flush()?;
        let copied = self.wait_caught_up(process.as_mut()).await?;
        streams.line(format_args!("caught up   node {node}, with {copied} sealed segments"))?;
        if self.arguments.learner {
            return Ok(());
        }
        self.promote(&cluster, streams).await
    }

    /// What would only be refused later.
    fn check(&self, before: &StatusResponse) -> Result<(), Failure> {
        if self.arguments.replace == Some(self.arguments.node) {
            let why = "--replace: a node is replaced by one with another number; numbers are never used twice";
            return Err(Failure::new(Exit::Usage, anyhow!(why)));
        }
        let missing = |number: u64| !before.nodes.iter().any(|node| node.node == number);
        if let Some(old) = self.arguments.replace.filter(|old| missing(*old)) {
            return Err(Failure::new(Exit::NotFound, anyhow!("--replace {old}: there is no node {old}")));
        }
        if self.connected.description.cluster.is_empty() {
            return Err(anyhow!("the node that answers does not say which cluster it is; it is too old").into());
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.arguments.dir.join("log")
    }

    /// The public keys, made where there are none.
    fn keys(&self) -> Result<[String; 2], Failure> {
        let directory = LogDirectory::new(self.log());
        let disk = self.environment.disk.as_ref();
        if directory.log_key().exists() && directory.cosigner_key().exists() {
            let keys = checkpointing::NodeKeys::load(disk, &directory).map_err(|error| anyhow!(error))?;
            return Ok([&keys.log, &keys.cosigner].map(|key| key.verifier_key().to_string()));
        }
        let origin = Origin::new(&self.connected.description.origin).map_err(|error| anyhow!(error))?;
        disk.create_directory(&directory.keys())?;
        let cosigner = format!("{}/site/{}/{}", origin.as_str(), self.arguments.site, self.arguments.node);
        make_pair(self.environment, &directory, &origin, &cosigner)
    }

    fn config(&self) -> PathBuf {
        self.arguments.dir.join("steled.toml")
    }

    /// Writes the configuration, unless there is one.
    fn write_configuration(
        &self,
        (before, access): (&StatusResponse, &[toml::Value]),
        streams: &mut Streams<'_>,
    ) -> Result<(), Failure> {
        let path = self.config();
        if path.exists() {
            return streams.line(format_args!("there       {} stays as it is", path.display()));
        }
        let arguments = self.arguments;
        let absolute = |path: &Path| path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
        let certs = arguments.certs.as_deref().map(absolute).transpose()?;
        let policy = self.reach.policy.as_deref().map(absolute).transpose()?;
        let (log, peers) = (absolute(&self.log())?, donors(&before.nodes, arguments));
        if peers.is_empty() {
            return Err(anyhow!("the cluster names no address of any node for peers").into());
        }
        let everywhere = |address: &str| match address.rsplit_once(':') {
            Some((_, port)) if !arguments.insecure => format!("0.0.0.0:{port}"),
            _ => address.to_owned(),
        };
        let description = &self.connected.description;
        let text = NodeConfig {
            data_dir: &log,
            node: arguments.node,
            site: &arguments.site,
            origin: &description.origin,
            token: "",
            listen_peer: &everywhere(&arguments.peer),
            listen_client: &everywhere(&arguments.client),
            security: certs.as_deref().map_or(Security::None, |certs| Security::Certificates(certs, self.clients())),
            extra: "",
            members: &[],
            joined: Some(Joined {
                peers: &peers,
                cluster: &cluster_id(self.connected),
                rate: arguments.rate.as_deref(),
                policy: policy.as_deref(),
                block_height: description.block_height,
                frame_align: description.frame_align,
            }),
            access,
        };
        replace(self.environment.disk.as_ref(), &path, text.to_toml().as_bytes(), Mode::Public)?;
        streams.line(format_args!("made        {} and the keys of node {}", path.display(), arguments.node))
    }

    /// Who may connect to the new node: as far as is known here, whoever may connect to the others.
    const fn clients(&self) -> Clients {
        if self.reach.cert.is_some() { Clients::Certified } else { Clients::Anyone }
    }

    /// What the new node does not know yet.
    fn warn(&self, streams: &mut Streams<'_>) {
        let who = match self.clients() {
            Clients::Certified => "whoever shows it a certificate of the authority in client_tls.ca",
            Clients::Anyone => "whoever reaches it",
        };
        let node = self.arguments.node;
        streams.tell(format_args!(
            "stele: warning: node {node} has no [[access]] tables: {who} may do everything there; give those of the other \
             nodes with --access"
        ));
    }

    fn new_node(&self, [log, cosigner]: &[String; 2]) -> NewNode {
        let arguments = self.arguments;
        let scheme = if arguments.insecure { "http" } else { "https" };
        NewNode {
            node: NodeNumber::new(arguments.node),
            site: arguments.site.clone(),
            addresses: vec![arguments.peer.clone()],
            client_address: format!("{scheme}://{}", arguments.client),
            keys: NodeKeys { log: log.clone(), cosigner: cosigner.clone(), manifest: String::new() },
        }
    }

    /// Starts the node, unless it runs; it stays when this program ends.
    fn start(&self, streams: &mut Streams<'_>) -> Result<Option<Child>, Failure> {
        let config = self.config();
        if self.environment.disk.is_locked(&LogDirectory::new(self.log()).lock()).unwrap_or(false) {
            streams.line(format_args!("runs        node {} already", self.arguments.node))?;
            return Ok(None);
        }
        if self.arguments.no_start {
            streams.line(format_args!("start it    steled --config {}", config.display()))?;
            return Ok(None);
        }
        let (program, said) = (steled()?, self.said());
        let output = File::options().create(true).append(true).open(&said);
        let output = output.with_context(|| format!("cannot write {}", said.display()))?;
        let mut command = Command::new(&program);
        // Interrupting this program is not to reach the node.
        command.arg("--config").arg(&config).process_group(0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STELE_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let (node, process) = (self.arguments.node, child.id());
        streams.line(format_args!("started     node {node}, process {process}; it says in {}", said.display()))?;
        Ok(Some(child))
    }

    fn said(&self) -> PathBuf {
        self.arguments.dir.join("steled.log")
    }

    /// Waits until the node has what is committed; answers how many segments are sealed there.
    async fn wait_caught_up(&self, mut process: Option<&mut Child>) -> Result<u64, Failure> {
        let give_up = Instant::now() + Duration::from_secs(self.arguments.timeout);
        let bar = bar()?;
        loop {
            if let Some(process) = process.as_deref_mut() {
                self.still_runs(process)?;
            }
            // A leader that changes is asked again.
            let status = collect(self.connected, self.reach).await.ok().map(|found| found.status);
            let far = status.as_ref().map(|status| Far::of(status, self.arguments.node)).unwrap_or_default();
            let sealed = sealed_at(&self.log());
            bar.set_length(far.sealed.unwrap_or(0).max(sealed));
            bar.set_position(sealed);
            bar.set_message(far.to_string());
            if far.has_caught_up() {
                bar.finish_and_clear();
                return Ok(sealed);
            }
            if Instant::now() >= give_up {
                bar.finish_and_clear();
                let why = anyhow!(
                    "node {} has not caught up ({far}); it stays without a vote, and the command can be given again",
                    self.arguments.node
                );
                return Err(Failure::new(Exit::Unreachable, why));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn still_runs(&self, process: &mut Child) -> Result<(), Failure> {
        let Some(ended) = process.try_wait().context("cannot look after the node")? else { return Ok(()) };
        let said = fs::read_to_string(self.said()).unwrap_or_default();
        let last = said.lines().last().unwrap_or("nothing");
        let why = anyhow!("node {} has ended ({ended}); its last words: {last}", self.arguments.node);
        Err(Failure::new(ended.code().and_then(exit_of).unwrap_or(Exit::Failed), why))
    }

    async fn promote(&self, cluster: &Cluster, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let JoinArguments { node, replace, allow_unsafe_topology, .. } = self.arguments;
        let mut now = voters(&collect(self.connected, self.reach).await?.status.nodes);
        now.retain(|voter| Some(*voter) != *replace && voter != node);
        now.push(*node);
        cluster.change_voters(&numbers(&now), topology(*allow_unsafe_topology)).await.map_err(call)?;
        streams.line(format_args!("voters      {}", list(&now)))?;
        if let Some(old) = replace {
            cluster.remove_node(NodeNumber::new(*old)).await.map_err(call)?;
            streams.line(format_args!("removed     node {old}; its number is never used again"))?;
        }
        Ok(())
    }
}

/// The tables `[[access]]` of the new node: those of the configuration that is there already, else those of another one.
fn access(config: &Path, arguments: &JoinArguments) -> Result<Vec<toml::Value>, Failure> {
    let given = arguments.access.as_deref().map(|path| Ok::<_, Failure>((path, tables(path)?))).transpose()?;
    if let Some((path, _)) = given.as_ref().filter(|(_, tables)| tables.is_empty()) {
        return Err(Failure::new(Exit::Usage, anyhow!("--access {}: there is no [[access]]", path.display())));
    }
    if !config.exists() {
        return Ok(given.map(|(_, tables)| tables).unwrap_or_default());
    }
    let there = tables(config)?;
    match given {
        Some((path, given)) if given != there => {
            let (config, path) = (config.display(), path.display());
            let why = anyhow!(
                "{config} is there and has other [[access]] tables than {path}; it stays as it is: put the tables into \
                 {config}, or remove that file, and try again"
            );
            Err(Failure::new(Exit::Usage, why))
        }
        _ => Ok(there),
    }
}

/// The tables `[[access]]` of a configuration.
fn tables(path: &Path) -> Result<Vec<toml::Value>, Failure> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is no configuration", path.display()))?;
    Ok(table.get("access").and_then(toml::Value::as_array).cloned().unwrap_or_default())
}

/// The nodes to copy from: all but the new one and the one that goes.
fn donors(nodes: &[NodeStatus], arguments: &JoinArguments) -> Vec<String> {
    let others = nodes.iter().filter(|node| node.node != arguments.node && Some(node.node) != arguments.replace);
    others.filter_map(|node| Some(format!("{}={}", node.node, node.addresses.first()?))).collect()
}

/// The exit codes of `steled` that say more than that it failed.
const fn exit_of(code: i32) -> Option<Exit> {
    match code {
        2 => Some(Exit::Usage),
        3 => Some(Exit::Unverified),
        5 => Some(Exit::Forbidden),
        7 => Some(Exit::Busy),
        _ => None,
    }
}

/// How far a node is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Far {
    committed: Option<u64>,
    durable: Option<u64>,
    /// Segments that are sealed at the leader.
    sealed: Option<u64>,
}

impl Far {
    fn of(status: &StatusResponse, node: u64) -> Self {
        let leader = status.leader.as_ref().map(|leader| leader.node);
        let of = |wanted: Option<u64>| status.nodes.iter().find(|node| Some(node.node) == wanted);
        let leads = of(leader);
        Self {
            committed: leads.and_then(|leads| leads.committed.or(leads.durable)),
            durable: of(Some(node)).and_then(|node| node.durable.or(node.last)),
            sealed: leads.and_then(|leads| leads.sealed_segments),
        }
    }

    fn has_caught_up(&self) -> bool {
        match (self.committed, self.durable) {
            (Some(committed), Some(durable)) => durable.saturating_add(CAUGHT_UP) >= committed,
            _ => false,
        }
    }
}

impl std::fmt::Display for Far {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.durable, self.committed) {
            (Some(durable), Some(committed)) => write!(f, "entry {durable} of {committed}"),
            (None, Some(committed)) => write!(f, "no entry of {committed} yet"),
            _ => f.write_str("no leader answers"),
        }
    }
}

/// Files of frames that are sealed in a log's directory, also in one that is only being copied.
fn sealed_at(log: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(LogDirectory::new(log).segments()) else { return 0 };
    let is_sealed = |entry: &fs::DirEntry| {
        let named = entry.file_name().to_str().and_then(SegmentFile::parse);
        matches!(named, Some(SegmentFile::Frames(_)))
            && entry.metadata().is_ok_and(|metadata| metadata.permissions().readonly())
    };
    entries.filter_map(Result::ok).filter(is_sealed).count() as u64
}

/// Hidden where standard error is no terminal.
fn bar() -> Result<ProgressBar, Failure> {
    let style = ProgressStyle::with_template("sealed segments {pos} of {len} {wide_bar} {msg}");
    Ok(ProgressBar::new(0).with_style(style.context("the form of the progress bar")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stele_api::v1::Leader;

    #[test]
    fn a_node_has_caught_up_only_with_what_the_leader_knows_to_be_committed() {
        let node = |node, durable, committed| NodeStatus { node, durable, committed, ..NodeStatus::default() };
        let status = |leader: Option<u64>, far| StatusResponse {
            leader: leader.map(|node| Leader { node, address: String::new() }),
            nodes: vec![node(1, Some(900), Some(1000)), node(2, far, Some(5000))],
            ..StatusResponse::default()
        };
        for (leader, far, caught_up) in [
            (Some(1), Some(1000), true),
            (Some(1), Some(900), true),
            (Some(1), Some(899), false),
            (Some(1), None, false),
            (None, Some(1000), false),
            (Some(2), Some(1000), false),
        ] {
            let told = Far::of(&status(leader, far), 2);
            assert_eq!(told.has_caught_up(), caught_up, "{leader:?} {far:?}: {told}");
        }
    }

    #[test]
    fn all_nodes_but_itself_and_the_one_that_goes_give_segments() {
        let node = |node| NodeStatus { node, addresses: vec![format!("h{node}:1")], ..NodeStatus::default() };
        let silent = NodeStatus { node: 5, ..NodeStatus::default() };
        let nodes = [node(1), node(2), node(3), node(4), silent];
        assert_eq!(donors(&nodes, &parsed(&["--replace", "3"])), ["1=h1:1", "2=h2:1"]);
    }

    fn parsed(more: &[&str]) -> JoinArguments {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            join: JoinArguments,
        }
        let words =
            ["x", "--dir", "d", "--node", "4", "--site", "s", "--peer", "h4:1", "--client", "h4:2", "--insecure"];
        let words = words.iter().chain(more);
        <Line as clap::Parser>::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).join
    }

    #[test]
    fn tables_that_are_given_are_those_of_the_node_or_refused_with_the_name_of_its_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let write = |name: &str, text: &str| {
            std::io::Write::write_all(&mut File::create(at(name)).unwrap(), text.as_bytes()).unwrap();
        };
        let (ours, theirs) = (
            "[[access]]\ncertificate = \"a\"\nroles = [\"reader\"]\n",
            "[[access]]\ncertificate = \"b\"\nroles = [\"reader\"]\n",
        );
        for (name, text) in [("given", ours), ("same", ours), ("other", theirs), ("bare", "[log]\n")] {
            write(name, text);
        }
        let with = |config: &str, given: Option<&str>| {
            let given = given.map(at);
            let words: Vec<&str> = given.iter().flat_map(|given| ["--access", given]).collect();
            access(Path::new(&at(config)), &parsed(&words))
        };
        for (config, given, tables) in [
            ("new", None, 0),
            ("new", Some("given"), 1),
            ("same", Some("given"), 1),
            ("same", None, 1),
            ("bare", None, 0),
        ] {
            let found = with(config, given).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!(found.len(), tables, "{config} {given:?}");
        }
        for (config, given, named) in
            [("other", "given", "other"), ("bare", "given", "bare"), ("new", "bare", "bare"), ("same", "bare", "bare")]
        {
            let refused = with(config, Some(given)).err().unwrap();
            assert_eq!(refused.exit(), Exit::Usage, "{config} {given}");
            assert!(refused.to_string().contains(&at(named)), "{refused}");
        }
    }
}
