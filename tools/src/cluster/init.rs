//! `stele cluster init`: keys and configurations for the nodes that a cluster begins with.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_proof::checkpoint::Origin;

use super::fresh;
use crate::exit::{Exit, Failure};
use crate::sites::config::{Member, NodeConfig, Security};
use crate::sites::make_pair;
use crate::stream::Streams;

/// The arguments of `stele cluster init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Writes DIR/node-<N>/steled.toml and DIR/node-<N>/log/keys for each node, numbered from 1 in the order given. Take each
directory to its machine, put the certificates where the configuration says (certs/node-<N>.pem, node-<N>-key.pem and
ca.pem beside it), and start `steled --config steled.toml` there. Private keys are in those directories: move them, do
not copy them.

Example:
  stele cluster init -o nodes --origin example.com/audit \\
    --node a=a.example.com:7071/7070 --node b=b.example.com:7071/7070 --node c=c.example.com:7071/7070")]
pub struct InitArguments {
    /// The directory to make.
    #[arg(short = 'o', long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// The name of the log.
    #[arg(long, value_name = "ORIGIN")]
    pub origin: String,
    /// A node: its site, its host, its port for peers and its port for clients.
    #[arg(long = "node", value_name = "SITE=HOST:PEER/CLIENT", required = true, value_parser = node)]
    pub nodes: Vec<NodeAt>,
    /// No TLS; for addresses of this machine only.
    #[arg(long)]
    pub insecure: bool,
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAt {
    site: String,
    host: String,
    peer: u16,
    client: u16,
}

fn node(text: &str) -> Result<NodeAt, String> {
    let parse = || {
        let (site, address) = text.split_once('=')?;
        let (host, ports) = address.rsplit_once(':')?;
        let (peer, client) = ports.split_once('/')?;
        let fits = !site.is_empty() && !host.is_empty();
        let (peer, client) = (peer.parse().ok()?, client.parse().ok()?);
        fits.then(|| NodeAt { site: site.to_owned(), host: host.to_owned(), peer, client })
    };
    parse().ok_or_else(|| "a node is SITE=HOST:PEERPORT/CLIENTPORT, say a=a.example.com:7071/7070".to_owned())
}

pub(super) fn run(
    arguments: &InitArguments,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let origin = Origin::new(&arguments.origin)
        .map_err(|error| Failure::new(Exit::Usage, anyhow!("--origin {}: {error}", arguments.origin)))?;
    fresh(&arguments.out)?;
    let disk = environment.disk.as_ref();
    let mut members = Vec::new();
    for (node, at) in (1..).zip(&arguments.nodes) {
        let log = arguments.out.join(format!("node-{node}")).join("log");
        std::fs::create_dir_all(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let directory = LogDirectory::new(log);
        disk.create_directory(&directory.keys())?;
        let cosigner = format!("{}/site/{}/{node}", origin.as_str(), at.site);
        let keys = make_pair(environment, &directory, &origin, &cosigner)?;
        let (peer, client) = (format!("{}:{}", at.host, at.peer), format!("{}:{}", at.host, at.client));
        members.push(Member { node, site: at.site.clone(), peer, client, keys });
    }
    let token: [u8; 16] = environment.random().context("the system gives no randomness")?;
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let certificates = PathBuf::from("certs");
    for (member, at) in members.iter().zip(&arguments.nodes) {
        let everywhere =
            |port: u16| if arguments.insecure { format!("{}:{port}", at.host) } else { format!("0.0.0.0:{port}") };
        let text = NodeConfig {
            data_dir: &PathBuf::from("log"),
            node: member.node,
            site: &member.site,
            origin: origin.as_str(),
            token: &token,
            listen_peer: &everywhere(at.peer),
            listen_client: &everywhere(at.client),
            security: if arguments.insecure { Security::None } else { Security::Certificates(&certificates) },
            extra: "",
            members: &members,
            joined: None,
        };
        let path = arguments.out.join(format!("node-{}", member.node)).join("steled.toml");
        replace(disk, &path, text.to_toml().as_bytes(), Mode::Public)?;
        streams.line(format_args!("node {} at site {}: {}", member.node, member.site, path.display()))?;
    }
    streams.line("start each in its directory: steled --config steled.toml")
}
