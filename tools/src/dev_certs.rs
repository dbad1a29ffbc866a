//! `stele dev-certs`: certificates to try things out with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use stele_engine::disk::{Mode, replace};
use stele_engine::environment::Environment;

use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// The most nodes that certificates are made for at once.
const MAX_NODES: u64 = 64;
/// Seconds of a mean year.
const YEAR: u64 = 31_556_952;

/// The arguments of `stele dev-certs`.
#[derive(Args, Debug)]
#[command(after_help = "\
Makes an authority, a certificate for each node (for node-<id>.stele, localhost, 127.0.0.1 and ::1) and one for a
client, as PEM files:

  ca.pem ca-key.pem  node-1.pem node-1-key.pem ..  client.pem client-key.pem

They are for development: the key of the authority lies beside them, and whoever reads it can be any node.

Example:
  stele dev-certs -o certs --nodes 3")]
pub struct Arguments {
    /// The directory to make.
    #[arg(short = 'o', long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// How many nodes, numbered from 1.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=MAX_NODES))]
    pub nodes: u64,
}

/// Makes the files.
///
/// # Errors
/// [`Failure`]; nothing is overwritten.
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    make(environment, &arguments.out, &vec![None; usize::try_from(arguments.nodes).unwrap_or(usize::MAX)])?;
    let out = arguments.out.display();
    streams.line(format_args!(
        "made {out}: an authority, certificates of {} {}, and one of a client",
        arguments.nodes,
        if arguments.nodes == 1 { "node" } else { "nodes" }
    ))?;
    streams.tell(
        "stele: warning: these certificates are for development: the authority's key lies beside them, unencrypted",
    );
    streams.line(format_args!("node 1: peer_tls.ca = \"{out}/ca.pem\", peer_tls.cert = \"{out}/node-1.pem\", peer_tls.key = \"{out}/node-1-key.pem\""))
}

/// Makes the directory and what is in it: for each node, where it is known, with the host that clients reach it by.
///
/// # Errors
/// [`Failure`] where there is anything already.
pub fn make(environment: &Environment, out: &Path, nodes: &[Option<&str>]) -> Result<(), Failure> {
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let why = anyhow!("{} is not empty; name a directory that is new: nothing is overwritten here", out.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    let year = i32::try_from(1970 + environment.clock.now().get() / 1000 / YEAR).unwrap_or(2026);
    // A host that no certificate can name is refused before there is anything.
    let nodes = (1_u64..).zip(nodes).map(|(node, host)| node_parameters((node, year), *host));
    let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let files = Files { environment, out };
    let authority_key = key()?;
    let mut authority = parameters("Stele development authority", Vec::new(), year)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&authority_key).map_err(cannot)?;
    files.write("ca", &certificate.pem(), &authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    for (name, parameters) in nodes {
        files.issue(&issuer, &name, parameters)?;
    }
    files.issue(&issuer, "client", parameters("client", vec!["client.stele".into()], year)?)
}

/// The name of a node's certificate, and what is to be in it.
fn node_parameters((node, year): (u64, i32), host: Option<&str>) -> Result<(String, CertificateParams), Failure> {
    let name = format!("node-{node}");
    let mut names = vec![format!("{name}.stele"), "localhost".into(), "127.0.0.1".into(), "::1".into()];
    let host = host.map(|host| host.trim_matches(['[', ']']).to_owned());
    names.extend(host.filter(|host| !names.contains(host)));
    let parameters = parameters(&name, names, year)?;
    Ok((name, parameters))
}

fn key() -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(cannot)
}

fn cannot(error: rcgen::Error) -> Failure {
    anyhow!("cannot make a certificate: {error}").into()
}

fn parameters(name: &str, names: Vec<String>, year: i32) -> Result<CertificateParams, Failure> {
    let mut parameters = CertificateParams::new(names).map_err(cannot)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.not_before, parameters.not_after) = (date_time_ymd(year - 1, 1, 1), date_time_ymd(year + 3, 1, 1));
    Ok(parameters)
}

/// Where the files go.
struct Files<'a> {
    environment: &'a Environment,
    out: &'a Path,
}

impl Files<'_> {
    /// Signs a certificate for a new key, and writes both.
    fn issue(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        name: &str,
        mut parameters: CertificateParams,
    ) -> Result<(), Failure> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = key()?;
        let certificate = parameters.signed_by(&key, issuer).map_err(cannot)?;
        self.write(name, &certificate.pem(), &key)
    }

    fn write(&self, name: &str, certificate: &str, key: &KeyPair) -> Result<(), Failure> {
        let disk = self.environment.disk.as_ref();
        let file = |suffix: &str| self.out.join(format!("{name}{suffix}.pem"));
        replace(disk, &file("-key"), key.serialize_pem().as_bytes(), Mode::Private)?;
        Ok(replace(disk, &file(""), certificate.as_bytes(), Mode::Public)?)
    }
}
