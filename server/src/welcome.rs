//! Connections of clients, from the first byte on: bounded in number, and closed where they do not begin as the
//! protocol does, with TLS or without, within [`GREETING`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stele_raft::peer::transport::BoxSocket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::counters::{Counters, Unwelcome};

/// How long a connection may take to say its first words, and to agree on TLS before them.
pub const GREETING: Duration = Duration::from_secs(5);
/// How long to wait where no connection can be accepted, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that have been greeted and not taken yet.
const MAX_GREETED: usize = 16;
/// Bytes that are still read from a client that was refused, so that it hears why.
const MAX_LEFT: u64 = 64 << 10;
/// How HTTP/2 begins (RFC 9113 section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How TLS begins: a record of the handshake.
const TLS: &[u8] = &[0x16, 0x03];

/// How connections must begin.
#[derive(Clone)]
pub enum Greeting {
    /// With HTTP/2.
    Plain,
    /// With TLS, and HTTP/2 inside.
    Tls(Arc<ServerConfig>),
}

/// Who is at the other end of a connection.
#[derive(Clone, Default)]
pub struct Guest {
    certificates: Option<Arc<[CertificateDer<'static>]>>,
}

impl Guest {
    /// The certificate that it showed and that the roots vouch for.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.certificates.as_ref()?.first()
    }
}

/// A connection that began well.
pub type Welcomed = Replayed<BoxSocket, Place>;

/// What comes with a connection.
pub struct Place {
    guest: Guest,
    _room: OwnedSemaphorePermit,
}

/// Takes connections until told to stop.
pub fn welcome(
    listener: TcpListener,
    greeting: Greeting,
    most: usize,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Welcomed>> {
    let (greeted, welcomed) = channel(MAX_GREETED);
    let doorman = Doorman { greeting, room: Arc::new(Semaphore::new(most)), counters, greeted };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = doorman.run(listener) => {}
        }
    });
    ReceiverStream::new(welcomed)
}

struct Doorman {
    greeting: Greeting,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    greeted: Sender<io::Result<Welcomed>>,
}

impl Doorman {
    async fn run(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(room) = Arc::clone(&self.room).try_acquire_owned() else {
                self.counters.unwelcome(Unwelcome::Full);
                continue;
            };
            let (greeting, counters) = (self.greeting.clone(), Arc::clone(&self.counters));
            let greeted = self.greeted.clone();
            tokio::spawn(async move {
                match timeout(GREETING, greeting.greet(stream)).await {
                    Err(_elapsed) => counters.unwelcome(Unwelcome::Late),
                    Ok(Err(unwelcome)) => counters.unwelcome(unwelcome),
                    // Where nobody takes it, the node stops.
                    Ok(Ok((stream, guest))) => {
                        drop(greeted.send(Ok(stream.with(Place { guest, _room: room }))).await);
                    }
                }
            });
        }
    }
}

impl Greeting {
    /// Reads the first words.
    async fn greet(&self, stream: TcpStream) -> Result<(Replayed<BoxSocket>, Guest), Unwelcome> {
        let garbage = |_error: io::Error| Unwelcome::Garbage;
        stream.set_nodelay(true).map_err(garbage)?;
        match self {
            Self::Plain => {
                let stream: BoxSocket = Box::new(stream);
                Ok((begins_with(stream, HTTP2).await.map_err(garbage)?, Guest::default()))
            }
            Self::Tls(config) => {
                let stream = begins_with(stream, TLS).await.map_err(garbage)?;
                let accepted = TlsAcceptor::from(Arc::clone(config)).accept(stream).into_fallible().await;
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err((error, stream)) => {
                        tracing::debug!(%error, "no TLS with a client");
                        part(stream).await;
                        return Err(Unwelcome::Tls);
                    }
                };
                let certificates = stream.get_ref().1.peer_certificates();
                let guest = Guest {
                    certificates: certificates.map(|all| all.iter().map(|one| one.clone().into_owned()).collect()),
                };
                let stream: BoxSocket = Box::new(stream);
                Ok((begins_with(stream, HTTP2).await.map_err(garbage)?, guest))
            }
        }
    }
}

/// Reads words from the beginning of a stream, and gives it back with them.
async fn begins_with<S: AsyncRead + Unpin>(mut stream: S, words: &'static [u8]) -> io::Result<Replayed<S>> {
    for byte in words {
        if stream.read_u8().await? != *byte {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(Replayed { stream, read: words, with: () })
}

/// Closes a connection so that the other end hears what it was told: what it has sent already, and nobody wants, would
/// have the kernel drop that.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let parted = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(MAX_LEFT), &mut tokio::io::sink()).await
    };
    // Where it is gone already, it hears nothing.
    drop(parted.await);
}

impl Connected for Welcomed {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.with.guest.clone()
    }
}

/// A stream whose first words were read, and are read again.
pub struct Replayed<S, With = ()> {
    stream: S,
    read: &'static [u8],
    with: With,
}

impl<S> Replayed<S> {
    fn with<With>(self, with: With) -> Replayed<S, With> {
        Replayed { stream: self.stream, read: self.read, with }
    }
}

impl<S: AsyncRead + Unpin, With: Unpin> AsyncRead for Replayed<S, With> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let (now, later) = self.read.split_at(self.read.len().min(into.remaining()));
        into.put_slice(now);
        self.read = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, With: Unpin> AsyncWrite for Replayed<S, With> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
