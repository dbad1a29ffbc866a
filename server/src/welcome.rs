//! Connections of clients, from the first byte on: bounded in number, and refused where they do not begin as the
//! protocol does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::counters::{Counters, Unwelcome};

/// How long a connection may take to say its first words.
pub const GREETING: Duration = Duration::from_secs(5);
/// How long to wait where no connection can be accepted, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that have been greeted and not taken yet.
const MAX_GREETED: usize = 16;
/// How HTTP/2 begins (RFC 9113 section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How TLS begins: a record of the handshake.
const TLS: &[u8] = &[0x16, 0x03];

/// How connections must begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greeting {
    /// HTTP/2.
    Plain,
    /// TLS.
    Tls,
}

/// A connection that began well.
pub struct Welcomed {
    stream: TcpStream,
    /// What was read of it.
    read: &'static [u8],
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
            let (expected, counters) = (self.expected(), Arc::clone(&self.counters));
            let greeted = self.greeted.clone();
            tokio::spawn(async move {
                match timeout(GREETING, greet(stream, expected)).await {
                    Err(_elapsed) => counters.unwelcome(Unwelcome::Late),
                    Ok(Err(_reason)) => counters.unwelcome(Unwelcome::Garbage),
                    // Where nobody takes it, the node stops.
                    Ok(Ok(stream)) => drop(greeted.send(Ok(Welcomed { stream, read: expected, _room: room })).await),
                }
            });
        }
    }

    const fn expected(&self) -> &'static [u8] {
        match self.greeting {
            Greeting::Plain => HTTP2,
            Greeting::Tls => TLS,
        }
    }
}

/// Reads the first words.
async fn greet(mut stream: TcpStream, expected: &[u8]) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    for byte in expected {
        if stream.read_u8().await? != *byte {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(stream)
}

impl Connected for Welcomed {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Welcomed {
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

impl AsyncWrite for Welcomed {
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
