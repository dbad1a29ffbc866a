//! A connection between peers: the handshake of both ends, then frames.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, StreamExt};
use stele_engine::number::NodeId;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::hello::{Greeting, Hello, HelloFault, MAX_HELLO_BYTES, Refusal, VERSION};
use super::message::{Request, max_answer_bytes, max_request_bytes};
use super::metrics::{PeerMetrics, Refused};
use super::transport::{BoxSocket, Dial, Transport};
use super::wire::{Frame, LENGTH_BYTES, MessageError};
use super::{Class, Limits, Own};
use crate::standing::{Phase, Shown, Stale, Told};

/// A connection whose two ends know each other.
pub(super) struct Connection {
    reader: FrameReader,
    writer: WriteHalf<BoxSocket>,
    metrics: Arc<PeerMetrics>,
}

type FrameReader = FramedRead<ReadHalf<BoxSocket>, LengthDelimitedCodec>;

impl Connection {
    fn new(socket: BoxSocket, metrics: Arc<PeerMetrics>) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .length_field_type::<u32>()
            .max_frame_length(MAX_HELLO_BYTES)
            .new_codec();
        Self { reader: FramedRead::new(reader, codec), writer, metrics }
    }

    fn allow(&mut self, max_bytes: usize) {
        self.reader.decoder_mut().set_max_frame_length(max_bytes);
    }

    /// The two directions.
    pub(super) fn halves(&mut self) -> (Receiver<'_>, Sender<'_>) {
        let Self { reader, writer, metrics } = self;
        (Receiver { reader, metrics }, Sender { writer, metrics })
    }

    /// Sends a frame whole.
    pub(super) async fn send(&mut self, frame: Frame) -> io::Result<()> {
        let mut frame = Some(frame);
        let (_, mut sender) = self.halves();
        while frame.is_some() {
            sender.send_some(&mut frame).await?;
        }
        Ok(())
    }

    /// Whether nothing was heard since the last answer: what an idle connection says is that it is gone.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.reader.next().now_or_never().is_none()
    }

    /// Says that nothing more comes, as TLS wants it said.
    async fn close(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }
}

/// The direction from the peer.
pub(super) struct Receiver<'a> {
    reader: &'a mut FrameReader,
    metrics: &'a PeerMetrics,
}

impl Receiver<'_> {
    /// The next frame; `None` where the peer closed the connection between two. Nothing is lost where the future
    /// is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(frame) = self.reader.next().await.transpose()? else { return Ok(None) };
        self.metrics.count_in(LENGTH_BYTES + frame.len());
        Ok(Some(frame.freeze()))
    }
}

/// The direction to the peer.
pub(super) struct Sender<'a> {
    writer: &'a mut WriteHalf<BoxSocket>,
    metrics: &'a PeerMetrics,
}

impl Sender<'_> {
    /// Moves a frame on by what the socket takes; it is `None` when all of it has left. Nothing is lost where
    /// the future is dropped.
    pub(super) async fn send_some(&mut self, frame: &mut Option<Frame>) -> io::Result<()> {
        if let Some(rest) = frame
            && rest.has_remaining()
        {
            let sent = self.writer.write_buf(rest).await?;
            self.metrics.count_out(sent);
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            return Ok(());
        }
        self.writer.flush().await?;
        *frame = None;
        Ok(())
    }
}

/// Why there is no connection to a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The node has no address.
    #[error("node {0} has no address")]
    NoAddress(NodeId),
    /// Nobody answers there, or not with a certificate that counts.
    #[error("node {node} cannot be reached at {address}: {source}")]
    Io {
        /// The node that was meant.
        node: NodeId,
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// It took too long.
    #[error("node {node} did not greet in time at {address}")]
    Late {
        /// The node that was meant.
        node: NodeId,
        /// Where it was looked for.
        address: String,
    },
    /// Who answers there is no peer.
    #[error("who answers at {address} for node {node} is no peer: {source}")]
    NoPeer {
        /// The node that was meant.
        node: NodeId,
        /// Where it was looked for.
        address: String,
        /// What its answer is.
        source: MessageError,
    },
    /// It does not want this node.
    #[error("node {node} at {address} refuses: {refusal}")]
    Refused {
        /// The node that was meant.
        node: NodeId,
        /// Where it was looked for.
        address: String,
        /// Why.
        refusal: Refusal,
    },
    /// It does not take part yet.
    #[error("node {0} is starting")]
    Starting(NodeId),
    /// It is not what it was.
    #[error("node {node} is stale and was told so: {stale}")]
    Stale {
        /// The node that was meant.
        node: NodeId,
        /// What is remembered of it here.
        stale: Stale,
    },
}

/// What connecting takes.
pub(super) struct Dialing {
    pub(super) own: Own,
    pub(super) transport: Transport,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<PeerMetrics>,
}

impl Dialing {
    /// Connects to a running node; for recovery to any.
    pub(super) async fn connect(
        &self,
        node: NodeId,
        addresses: &[String],
        class: Class,
    ) -> Result<Connection, ConnectError> {
        let (connection, shown) = self.meet(node, addresses, class).await?;
        // What is greeted by a starting node carries no requests: its incarnation is not counted yet.
        match (self.own.standing.shown().phase, shown.phase) {
            (Phase::Running, Phase::Running) => Ok(connection),
            _ if class == Class::Recovery => Ok(connection),
            _ => Err(ConnectError::Starting(node)),
        }
    }

    /// Asks a node whether it remembers more of this one than this one shows. What it answers is known to
    /// the standing before this returns.
    pub(super) async fn ask(&self, node: NodeId, addresses: &[String]) -> Result<(), ConnectError> {
        let (mut connection, _) = self.meet(node, addresses, Class::Control).await?;
        if let Err(error) = connection.close().await {
            tracing::debug!(%error, %node, "a peer that answered was gone before it was left");
        }
        Ok(())
    }

    /// Meets a node at the first of its addresses where it answers. Each has an equal share of the time.
    async fn meet(
        &self,
        node: NodeId,
        addresses: &[String],
        class: Class,
    ) -> Result<(Connection, Shown), ConnectError> {
        let share = self.limits.handshake / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut failure = ConnectError::NoAddress(node);
        for address in addresses {
            let late = |_elapsed| ConnectError::Late { node, address: address.clone() };
            let connected = timeout(share, self.meet_at(node, address, class)).await.map_err(late);
            match connected.and_then(|connected| connected) {
                Ok(met) => return Ok(met),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn meet_at(&self, node: NodeId, address: &str, class: Class) -> Result<(Connection, Shown), ConnectError> {
        let io = |source| ConnectError::Io { node, address: address.to_owned(), source };
        let socket = self.dial.dial(address).await.map_err(io)?;
        let socket = self.transport.secure_outgoing(socket, node).await.map_err(io)?;
        let mut connection = Connection::new(socket, Arc::clone(&self.metrics));
        let Own { local, standing } = &self.own;
        let before = standing.marks().of_peer(node);
        let hello = Hello { class, cluster: local.cluster, from: local.node, to: node, shown: standing.shown() };
        connection.send(hello.encode()).await.map_err(io)?;
        let (mut receiver, _) = connection.halves();
        let frame = receiver.next().await.and_then(|frame| frame.ok_or(io::ErrorKind::UnexpectedEof.into()));
        let greeting = Greeting::decode(&frame.map_err(io)?).map_err(|source| ConnectError::NoPeer {
            node,
            address: address.to_owned(),
            source,
        })?;
        let shown = greeting.verdict.map_err(|refusal| {
            if let Refusal::Stale(stale) = refusal {
                standing.tell(Told { by: node, stale });
            }
            ConnectError::Refused { node, address: address.to_owned(), refusal }
        })?;
        if let Err(stale) = standing.marks().meet_answer(&shown, &before) {
            self.metrics.count_refused(Refused::Stale);
            tracing::warn!(%node, %stale, "a node is stale, and is told so");
            connection.send(Request::Stale(stale).encode()).await.map_err(io)?;
            connection.close().await.map_err(io)?;
            return Err(ConnectError::Stale { node, stale });
        }
        connection.allow(max_answer_bytes(class));
        Ok((connection, shown))
    }
}

/// What accepting takes.
pub(super) struct Accepting {
    pub(super) own: Own,
    pub(super) transport: Transport,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<PeerMetrics>,
}

/// A peer that was let in.
pub(super) struct Accepted {
    pub(super) connection: Connection,
    pub(super) class: Class,
    pub(super) from: NodeId,
    pub(super) purpose: Purpose,
}

/// What comes behind the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Requests.
    Requests,
    /// Nothing, or what the peer remembers: one of the two is starting.
    Acquaintance,
    /// What this node has stored.
    Recovery,
}

impl Accepting {
    /// Lets a peer in, or says why not; the reason is counted.
    pub(super) async fn accept(&self, socket: BoxSocket) -> Option<Accepted> {
        let met = timeout(self.limits.handshake, self.meet(socket)).await;
        let refused = match met {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(refused)) => refused,
            Err(_elapsed) => Refused::Late,
        };
        self.metrics.count_refused(refused);
        tracing::debug!(?refused, "a connection was refused");
        None
    }

    async fn meet(&self, socket: BoxSocket) -> Result<Accepted, Refused> {
        let secured = self.transport.secure_incoming(socket).await;
        let (socket, identity) = secured.map_err(|error| {
            tracing::debug!(%error, "no TLS with whoever connected");
            Refused::Tls
        })?;
        let mut connection = Connection::new(socket, Arc::clone(&self.metrics));
        let (mut receiver, _) = connection.halves();
        let Ok(Some(frame)) = receiver.next().await else { return Err(Refused::Garbage) };
        let Own { local, standing } = &self.own;
        let (refusal, refused) = match Hello::decode(&frame) {
            Err(HelloFault::Garbage) => return Err(Refused::Garbage),
            Err(HelloFault::Version) => (Refusal::Version(VERSION), Refused::Version),
            Err(HelloFault::Class) => (Refusal::Class, Refused::Class),
            Ok(hello) if !identity.is(hello.from) => (Refusal::Certificate, Refused::Certificate),
            Ok(hello) if hello.cluster != local.cluster => (Refusal::Cluster, Refused::Cluster),
            Ok(hello) if hello.to != local.node => (Refusal::Node(local.node), Refused::Node),
            Ok(Hello { class, from, shown, .. }) => match standing.marks().meet(from, &shown) {
                Err(stale) => {
                    tracing::warn!(node = %from, %stale, "a node is stale, and is told so");
                    (Refusal::Stale(stale), Refused::Stale)
                }
                Ok(()) => {
                    let own = standing.shown_now();
                    let welcome = Greeting { verdict: Ok(own), node: local.node };
                    connection.send(welcome.encode()).await.map_err(|_gone| Refused::Garbage)?;
                    connection.allow(max_request_bytes(class));
                    let purpose = match (own.phase, shown.phase) {
                        (_, Phase::InDoubt) if class == Class::Recovery => Purpose::Recovery,
                        (Phase::Running, Phase::Running) => Purpose::Requests,
                        _ => Purpose::Acquaintance,
                    };
                    return Ok(Accepted { connection, class, from, purpose });
                }
            },
        };
        let greeting = Greeting { verdict: Err(refusal), node: local.node };
        if connection.send(greeting.encode()).await.is_ok() && connection.close().await.is_err() {
            tracing::debug!("a refused peer was gone before it was told");
        }
        Err(refused)
    }
}
