//! TLS with clients: a certificate of this node, and one of each client where roots are given that vouch for them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::config::TlsPaths;

/// What is spoken inside TLS.
const ALPN: &[u8] = b"h2";

/// Why TLS with clients cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientTlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM file of what it should hold.
    #[error("cannot take {what} from {}: {source}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What was found.
        source: pem::Error,
    },
    /// The key and the certificate do not fit each other.
    #[error("the certificate for clients cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The roots cannot vouch for clients.
    #[error("the roots for clients cannot be used: {0}")]
    Roots(#[from] VerifierBuilderError),
}

/// Reads what clients are met with.
///
/// # Errors
/// [`ClientTlsError`].
pub fn client_tls(paths: &TlsPaths) -> Result<Arc<ServerConfig>, ClientTlsError> {
    let key = PrivateKeyDer::from_pem_slice(&read(&paths.key)?);
    let key = key.map_err(|source| ClientTlsError::Pem { what: "a private key", path: paths.key.clone(), source })?;
    let chain = certificates(&paths.cert)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match &paths.ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca)?);
            let provider = Arc::new(ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, ClientTlsError> {
    std::fs::read(path).map_err(|source| ClientTlsError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let read = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    read.map_err(|source| ClientTlsError::Pem { what: "certificates", path: path.to_owned(), source })
}
