//! Connections over TLS that come to nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::access::certificates;
use crate::process::{Cluster, Extra, PATIENCE};

/// Much less than it takes a client to give up.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Shakes hands, with this certificate if any.
async fn shake(address: &str, root: &str, identity: Option<&(String, String)>) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// What a client hears that says something behind its handshake.
async fn heard(mut stream: TlsStream<TcpStream>, says: &[u8]) -> io::Result<usize> {
    // It may be closed before all is said.
    drop(stream.write_all(says).await);
    drop(stream.flush().await);
    let mut heard = [0; 256];
    stream.read(&mut heard).await
}

#[tokio::test]
async fn over_tls_who_says_nothing_is_closed_and_who_is_refused_hears_why_at_once() {
    let (root, issued) = certificates(&["localhost", "client.example.com"]);
    let (_, strangers) = certificates(&["client.example.com"]);
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
        path
    };
    let (ca, cert, key) = (write("ca", &root), write("cert", &issued[0].0), write("key", &issued[0].1));
    let clients = format!("client_tls.ca = {ca:?}\nclient_tls.cert = {cert:?}\nclient_tls.key = {key:?}");
    let mut cluster = Cluster::configured(1, Extra { clients: &clients, ..Extra::default() });
    cluster.start(1).await;
    let address = cluster.address(1);

    // Nothing at all, and half of what HTTP/2 begins with.
    for says in [&b""[..], b"PRI * HTTP"] {
        let silent = shake(&address, &root, Some(&issued[1])).await.unwrap();
        let heard = timeout(PATIENCE, heard(silent, says)).await;
        assert!(!matches!(heard.expect("it is closed"), Ok(1..)));
    }
    // Something else.
    let other = shake(&address, &root, Some(&issued[1])).await.unwrap();
    assert!(!matches!(timeout(AT_ONCE, heard(other, b"GET / HTTP/1.1\r\n\r\n")).await.unwrap(), Ok(1..)));
    // No certificate, and that of a stranger; who has said more already hears why all the same.
    for identity in [None, Some(&strangers[0])] {
        let refused = async { heard(shake(&address, &root, identity).await?, &[b'x'; 20_000]).await };
        let why = timeout(AT_ONCE, refused).await.expect("at once").unwrap_err().to_string().to_lowercase();
        assert!(why.contains("alert"), "{why}");
    }
    assert!(cluster.terminate(1).await.success());
    let told = cluster.log_of(1);
    for counter in ["(\"CONNECTION_Late\", 2)", "(\"CONNECTION_Garbage\", 1)", "(\"CONNECTION_Tls\", 2)"] {
        assert!(told.contains(counter), "no {counter} in: {told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}
