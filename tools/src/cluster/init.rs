//! `stele cluster init`: keys and configurations for the nodes that a cluster begins with.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use stele_engine::directory::LogDirectory;
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;
use stele_proof::checkpoint::Origin;

use super::fresh;
use crate::dev_certs;
use crate::exit::{Exit, Failure};
use crate::sites::config::{Clients, Member, NodeConfig, Security};
use crate::sites::make_pair;
use crate::stream::Streams;

/// Certificates that are made beyond those of the first nodes, for nodes that join.
const SPARE: usize = 3;

/// The arguments of `stele cluster init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Writes DIR/node-<N>/steled.toml and DIR/node-<N>/log/keys for each node, numbered from 1 in the order given. Take each
directory to its machine, put the certificates where the configuration says (certs/node-<N>.pem, node-<N>-key.pem and
ca.pem beside it), and start `steled --config steled.toml` there. Private keys are in those directories: move them, do
not copy them.

Clients must show a certificate of the same authority (client_tls.ca); with one, they may do everything until [[access]]
tables say who may do what. With --any-client they need none.

With --dev-certs the certificates are made, too, and put where the configurations say: for development, the key of the
authority lies in DIR/certs. There are a client's, and those of three nodes more, which may join.

Examples:
  stele cluster init -o nodes --origin example.com/audit \\
    --node a=a.example.com:7071/7070 --node b=b.example.com:7071/7070 --node c=c.example.com:7071/7070
  stele cluster init -o try --origin example.com/try --dev-certs \\
    --node a=localhost:7171/7170 --node b=localhost:7271/7270 --node c=localhost:7371/7370")]
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
    /// Make certificates for development, too.
    #[arg(long, conflicts_with = "insecure")]
    pub dev_certs: bool,
    /// Ask clients for no certificate: whoever reaches their ports may do everything.
    #[arg(long, conflicts_with = "insecure")]
    pub any_client: bool,
    /// No TLS; for addresses of this machine only.
    #[arg(long)]
    pub insecure: bool,
}

impl InitArguments {
    fn security<'a>(&self, certificates: &'a Path) -> Security<'a> {
        match (self.insecure, self.any_client) {
            (true, _) => Security::None,
            (false, true) => Security::Certificates(certificates, Clients::Anyone),
            (false, false) => Security::Certificates(certificates, Clients::Certified),
        }
    }
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
    // First of all: a host that no certificate can name is to leave nothing behind.
    if arguments.dev_certs {
        let hosts: Vec<Option<&str>> = arguments.nodes.iter().map(|at| Some(at.host.as_str())).collect();
        dev_certs::make(environment, &arguments.out.join("certs"), &[hosts, vec![None; SPARE]].concat())?;
    }
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
            security: arguments.security(&certificates),
            extra: "",
            members: &members,
            joined: None,
            access: &[],
        };
        let path = arguments.out.join(format!("node-{}", member.node)).join("steled.toml");
        replace(disk, &path, text.to_toml().as_bytes(), Mode::Public)?;
        streams.line(format_args!("node {} at site {}: {}", member.node, member.site, path.display()))?;
    }
    if arguments.dev_certs {
        place_certificates(arguments, streams)?;
    }
    tell_who_may_come(arguments, streams)?;
    streams.line("start each in its directory: steled --config steled.toml")
}

/// Puts certificates for development in the place of all that are asked for.
fn place_certificates(arguments: &InitArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let certs = arguments.out.join("certs");
    for node in 1..=arguments.nodes.len() {
        let own = arguments.out.join(format!("node-{node}")).join("certs");
        std::fs::create_dir(&own).with_context(|| format!("cannot make {}", own.display()))?;
        for name in ["ca.pem".to_owned(), format!("node-{node}.pem"), format!("node-{node}-key.pem")] {
            // With the mode, which a private key has.
            let copied = std::fs::copy(certs.join(&name), own.join(&name));
            copied.with_context(|| format!("cannot make {}", own.join(&name).display()))?;
        }
    }
    streams.tell(format_args!(
        "stele: warning: the certificates are for development: the authority's key lies in {}, unencrypted",
        certs.display()
    ));
    let certs = certs.display();
    streams.line(format_args!(
        "clients reach it with --ca {certs}/ca.pem --cert {certs}/client.pem --key {certs}/client-key.pem"
    ))
}

/// Says who can do what once the nodes run, where that is not said by anything else yet.
fn tell_who_may_come(arguments: &InitArguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let ports: Vec<String> = arguments.nodes.iter().map(|at| format!("{}:{}", at.host, at.client)).collect();
    let ports = ports.join(", ");
    let until = "until [[access]] in the configurations says who may do what";
    match arguments.security(Path::new("")) {
        Security::None => {
            let peers: Vec<String> = arguments.nodes.iter().map(|at| format!("{}:{}", at.host, at.peer)).collect();
            streams.line(format_args!(
                "open: there is no TLS. Whoever reaches {ports} may append, read and change the cluster, and whoever \
                 reaches {} may be a node",
                peers.join(", ")
            ))
        }
        Security::Certificates(_, Clients::Anyone) => {
            streams.line(format_args!("open: whoever reaches {ports} may append, read and change the cluster, {until}"))
        }
        Security::Certificates(_, Clients::Certified) => streams.line(format_args!(
            "closed: clients must show a certificate of the authority in certs/ca.pem, and may then append, read and \
             change the cluster, {until}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_no_certificate_can_name_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let made = |name: &str, host: &str| {
            let out = directory.path().join(name);
            let arguments = InitArguments {
                out: out.clone(),
                origin: "example.com/log".to_owned(),
                nodes: vec![node("a=localhost:7171/7170").unwrap(), node(&format!("b={host}:7271/7270")).unwrap()],
                dev_certs: true,
                any_client: false,
                insecure: false,
            };
            let (mut said, mut told) = (Vec::new(), Vec::new());
            let mut streams = Streams::new(Box::new(std::io::empty()), &mut said, &mut told);
            (run(&arguments, &Environment::system(), &mut streams), out)
        };
        let (good, out) = made("good", "b.example.com");
        good.unwrap_or_else(|failure| panic!("{failure}"));
        for name in ["certs/node-5-key.pem", "node-2/certs/node-2-key.pem", "node-2/certs/ca.pem", "node-2/steled.toml"]
        {
            assert!(out.join(name).exists(), "{name}");
        }
        let (refused, out) = made("bad", "b\u{e9}.example.com");
        assert!(refused.is_err() && !out.exists());
    }
}
