//! Sockets between peers.
//!
//! A node's certificate names it: a DNS name `node-<id>.stele` among the subject's alternative names. Whoever
//! connects checks that the name is that of the node it means, whoever is connected to checks that it is that of
//! the node in the hello; both ask for a chain to the configured roots. TLS 1.3 only, no resumption: a certificate
//! is looked at each time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::base::BoxFuture;
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use stele_engine::number::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bytes to and from a peer.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Any socket.
pub type BoxSocket = Box<dyn Socket>;

/// How peers are reached.
pub trait Dial: Send + Sync + 'static {
    /// Connects to an address of the form `host:port`.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxSocket>>;
}

/// How peers come in.
pub trait Listen: Send + 'static {
    /// The next one. May be dropped before it is done.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxSocket>>;
}

/// Reaches peers by TCP; names are resolved.
#[derive(Clone, Copy, Debug)]
pub struct Tcp;

impl Dial for Tcp {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxSocket>> {
        Box::pin(async move { tune(TcpStream::connect(address).await?) })
    }
}

impl Listen for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<BoxSocket>> {
        Box::pin(async move { tune(Self::accept(self).await?.0) })
    }
}

/// Small frames leave at once, and a peer that vanished without a word is noticed within half a minute.
fn tune(stream: TcpStream) -> io::Result<BoxSocket> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(&stream, 3)?;
    Ok(Box::new(stream))
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is no PEM file of what it should hold.
    #[error("cannot take {what} from {}: {source}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What was found.
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The key and the certificates do not fit each other or the protocol.
    #[error("the certificates for peers cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The roots cannot vouch for peers.
    #[error("the roots for peers cannot be used: {0}")]
    Roots(#[from] rustls::server::VerifierBuilderError),
    /// The certificate names another node, or none.
    #[error("the certificate does not name `{0}`")]
    NotThisNode(String),
}

/// Mutual TLS between peers.
#[derive(Clone)]
pub struct PeerTls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Where a node's certificates lie, in PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The node's certificate, and those between it and a root.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots that vouch for peers.
    pub roots: PathBuf,
}

impl PeerTls {
    /// Reads the certificates of this node.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_files(node: NodeId, files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.chain)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
            what: "a private key",
            path: files.key.clone(),
            source,
        })?;
        let roots = certificates(&files.roots)?;
        Self::new(node, chain, key, roots)
    }

    /// Takes the certificates of this node: its own first.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        node: NodeId,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        if !chain.first().is_some_and(|certificate| names(certificate, node)) {
            return Err(TlsError::NotThisNode(node_name(node)));
        }
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root)?;
        }
        let store = Arc::new(store);
        let provider = Arc::new(ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(Arc::clone(&store))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![ALPN.to_vec()];
        let verifier = WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&provider)).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// What peers speak inside TLS.
const ALPN: &[u8] = b"stele-peer";

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let pem = |source| TlsError::Pem { what: "certificates", path: path.to_owned(), source };
    let certificates = read.map_err(pem)?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

/// The DNS name that a node's certificate holds.
pub fn node_name(node: NodeId) -> String {
    format!("node-{node}.stele")
}

fn server_name(node: NodeId) -> ServerName<'static> {
    ServerName::try_from(node_name(node)).expect("letters, digits, a hyphen and a dot are a DNS name")
}

/// Whether a certificate names a node.
fn names(certificate: &CertificateDer<'_>, node: NodeId) -> bool {
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &server_name(node)).is_ok())
}

/// Whether and how bytes between peers are protected.
#[derive(Clone)]
pub enum Transport {
    /// Not at all: whoever reaches the port is whatever node it says. For one machine.
    Plain,
    /// By mutual TLS.
    Tls(PeerTls),
}

/// Who is at the other end of a connection that was accepted.
pub(super) enum Identity {
    /// Whoever it says.
    Unproven,
    /// The holder of this certificate.
    Certified(CertificateDer<'static>),
}

impl Identity {
    /// Whether the other end may speak for a node.
    pub(super) fn is(&self, node: NodeId) -> bool {
        match self {
            Self::Unproven => true,
            Self::Certified(certificate) => names(certificate, node),
        }
    }
}

impl Transport {
    /// Makes sure that the other end is the node that was meant.
    pub(super) async fn secure_outgoing(&self, socket: BoxSocket, to: NodeId) -> io::Result<BoxSocket> {
        match self {
            Self::Plain => Ok(socket),
            Self::Tls(tls) => {
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                Ok(Box::new(connector.connect(server_name(to), socket).await?))
            }
        }
    }

    /// Asks the other end for a certificate.
    pub(super) async fn secure_incoming(&self, socket: BoxSocket) -> io::Result<(BoxSocket, Identity)> {
        match self {
            Self::Plain => Ok((socket, Identity::Unproven)),
            Self::Tls(tls) => {
                let stream = TlsAcceptor::from(Arc::clone(&tls.server)).accept(socket).await?;
                let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let Some(certificate) = certificates.first() else {
                    return Err(io::Error::other("the peer showed no certificate"));
                };
                let identity = Identity::Certified(certificate.clone().into_owned());
                Ok((Box::new(stream), identity))
            }
        }
    }
}
