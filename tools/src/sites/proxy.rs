//! A TCP proxy that delays: what comes in goes out after a set time, in both directions, in order.
//!
//! Bytes under way are bounded: 256 pieces of at most 64 KiB a direction; whoever sends more waits.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The largest piece.
const PIECE: usize = 64 << 10;
/// Pieces under way in one direction.
const MAX_PIECES: usize = 256;

/// Starts a proxy to an address on the runtime of the caller, and answers where it listens: `host:port`. Half of the
/// delay lies on each way, so that a round trip takes the whole.
///
/// # Errors
/// Where no port is to be had.
pub async fn start(to: String, delay: Duration) -> io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?.to_string();
    let way = delay / 2;
    tokio::spawn(async move {
        while let Ok((inner, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                // A node that is down closes the connection, as it would without a proxy.
                if let Ok(outer) = TcpStream::connect(&to).await {
                    connect(inner, outer, way).await;
                }
            });
        }
    });
    Ok(address)
}

async fn connect(inner: TcpStream, outer: TcpStream, way: Duration) {
    if inner.set_nodelay(true).and_then(|()| outer.set_nodelay(true)).is_err() {
        return;
    }
    let ((from_inner, to_inner), (from_outer, to_outer)) = (inner.into_split(), outer.into_split());
    tokio::join!(direction(from_inner, to_outer, way), direction(from_outer, to_inner, way));
}

/// Passes bytes on until one side ends; then the other is told, after what is still under way.
async fn direction(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, way: Duration) {
    let (send, mut received) = mpsc::channel::<(Instant, Bytes)>(MAX_PIECES);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if send.send((Instant::now() + way, buffer.split().freeze())).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = received.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Who has gone already needs not be told.
        drop(to.shutdown().await);
    };
    tokio::join!(reading, writing);
}
