//! The network between nodes: length-delimited frames over TCP, with mutual TLS.
//!
//! | module | what |
//! |---|---|
//! | [`transport`] | sockets, TLS, who may speak for which node |
//! | `hello` | the first frame of a connection, and its answer |
//! | `connection` | a connection from the first byte on |
//! | [`message`] | what peers say to each other |
//! | [`client`] | openraft's network, and segments from a peer |
//! | [`server`] | what a node answers |
//! | [`entries`] | entries, as they cross the wire |
//! | [`cosign`] | signatures of a node under what another one shows |
//! | [`segments`] | sealed segments, as one node gives them to another |
//! | [`metrics`] | what is counted |
//!
//! A frame:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 4 | length of the message | little-endian; bounded by the class of the connection |
//! | 4 | .. | message | [`hello`](Refusal) first, then [`message`] |
//!
//! Bulk never delays a heartbeat: each [`Class`] has connections of its own. Bodies and payload slots are sent
//! from where they lie, and entries that arrive are slices of the frame that brought them.
//!
//! I-PEER-1: answers come in the order of the requests; at most [`client::PIPELINE`] are awaited.
//! I-PEER-2: what a peer sends is bounded before it is kept, and reaches openraft only if it speaks for itself and a log
//! can hold it.
//! I-PEER-3: a node that has let in enough reads no more from the log connection, and never blocks openraft.

use std::fmt;
use std::time::Duration;

use stele_engine::number::NodeId;

use crate::standing::Standing;

pub mod client;
mod connection;
pub mod cosign;
pub mod entries;
mod hello;
pub mod message;
pub mod metrics;
pub mod segments;
pub mod server;
pub mod transport;
mod wire;

pub use connection::ConnectError;
pub use hello::{Refusal, VERSION};
pub use wire::MessageError;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Entries.
    Log,
    /// Votes, heartbeats, leadership.
    Control,
    /// Sealed segments.
    Segments,
    /// What a node in doubt has lost; also of, and to, a node that starts.
    Recovery,
}

impl Class {
    const fn number(self) -> u8 {
        match self {
            Self::Log => 1,
            Self::Control => 2,
            Self::Segments => 3,
            Self::Recovery => 4,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Log),
            2 => Some(Self::Control),
            3 => Some(Self::Segments),
            4 => Some(Self::Recovery),
            _ => None,
        }
    }
}

/// The BLAKE3 hash of the body of a cluster's first frame: nodes that were born differently never meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterId([u8; 32]);

impl ClusterId {
    /// Wraps the hash.
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The node that this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number in it.
    pub node: NodeId,
}

/// The node that this process is, and how it stands with its peers.
#[derive(Clone)]
pub struct Own {
    /// Who it is.
    pub local: Local,
    /// What it shows and remembers.
    pub standing: Standing,
}

/// How long peers are waited for, and how many may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From the first byte of a connection to the end of the handshake.
    pub handshake: Duration,
    /// How long a log connection may move neither bytes nor answers while answers are awaited. At least what a
    /// flush of a slow disk takes.
    pub stall: Duration,
    /// How long a peer may take to accept an answer.
    pub write: Duration,
    /// Most connections that are served at once.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(5), stall: seconds(3), write: seconds(10), connections: 64 }
    }
}
