//! The first frame of a connection, and its answer.
//!
//! Hello, from the node that connects:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELPEER` |
//! | 8 | 2 | version of the protocol | 1 |
//! | 10 | 1 | class | 1 log, 2 control, 3 segments |
//! | 11 | 32 | cluster id | |
//! | 43 | 8 | from | the node that connects |
//! | 51 | 8 | to | the node it means |
//!
//! Answer:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELPEER` |
//! | 8 | 2 | version of the protocol | 1 |
//! | 10 | 1 | verdict | 0 welcome, 1 version, 2 class, 3 cluster, 4 node, 5 certificate |
//! | 11 | 8 | node | the node that answers |
//!
//! Little-endian. Magic, version and verdict keep their places in all versions; both messages have at most
//! 256 bytes in all versions. Whoever hears anything else closes the connection.

use stele_engine::number::NodeId;

use super::wire::{Fields, Frame, FrameWriter, MessageError};
use super::{Class, ClusterId};

/// The version of the protocol between peers.
pub const VERSION: u16 = 1;
/// Most bytes of a hello or its answer, in any version.
pub(super) const MAX_HELLO_BYTES: usize = 256;

const MAGIC: [u8; 8] = *b"STELPEER";
const HELLO_BYTES: usize = 59;
const ANSWER_BYTES: usize = 19;

const _: () = assert!(HELLO_BYTES == 8 + 2 + 1 + 32 + 8 + 8);
const _: () = assert!(ANSWER_BYTES == 8 + 2 + 1 + 8);

/// What a node that connects says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) class: Class,
    pub(super) cluster: ClusterId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
}

/// What is wrong with a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HelloFault {
    /// Somebody else's protocol.
    Garbage,
    /// A peer of another version.
    Version,
    /// A peer of this version that asks for what is not there.
    Class,
}

impl Hello {
    pub(super) fn encode(&self) -> Frame {
        let mut frame = FrameWriter::new();
        frame.put(&MAGIC);
        frame.put(&VERSION.to_le_bytes());
        frame.put(&[self.class.number()]);
        frame.put(self.cluster.as_bytes());
        frame.put(&self.from.get().to_le_bytes());
        frame.put(&self.to.get().to_le_bytes());
        frame.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HelloFault> {
        let garbage = |_: MessageError| HelloFault::Garbage;
        let mut fields = Fields::new(bytes);
        if fields.take() != Ok(MAGIC) {
            return Err(HelloFault::Garbage);
        }
        if fields.u16().map_err(garbage)? != VERSION {
            return Err(HelloFault::Version);
        }
        let class = fields.u8().map_err(garbage)?;
        let cluster = ClusterId::new(fields.take().map_err(garbage)?);
        let (from, to) = (fields.node().map_err(garbage)?, fields.node().map_err(garbage)?);
        fields.end().map_err(garbage)?;
        Ok(Self { class: Class::from_number(class).ok_or(HelloFault::Class)?, cluster, from, to })
    }
}

/// Why a node refuses another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It speaks another version.
    #[error("it speaks version {0} of the protocol, this node {VERSION}")]
    Version(u16),
    /// It does not know the class of the connection.
    #[error("it does not know this class of connections")]
    Class,
    /// It belongs to another cluster.
    #[error("it belongs to another cluster")]
    Cluster,
    /// Another node has this address.
    #[error("it is node {0}")]
    Node(NodeId),
    /// The certificate of this node is another node's.
    #[error("the certificate shown to it is not this node's")]
    Certificate,
}

/// What a node answers to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    pub(super) verdict: Result<(), Refusal>,
    pub(super) node: NodeId,
}

impl Greeting {
    pub(super) fn encode(&self) -> Frame {
        let verdict: u8 = match self.verdict {
            Ok(()) => 0,
            Err(Refusal::Version(_)) => 1,
            Err(Refusal::Class) => 2,
            Err(Refusal::Cluster) => 3,
            Err(Refusal::Node(_)) => 4,
            Err(Refusal::Certificate) => 5,
        };
        let mut frame = FrameWriter::new();
        frame.put(&MAGIC);
        frame.put(&VERSION.to_le_bytes());
        frame.put(&[verdict]);
        frame.put(&self.node.get().to_le_bytes());
        frame.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::new(bytes);
        if fields.take()? != MAGIC {
            return Err(MessageError::Field("magic"));
        }
        let version = fields.u16()?;
        let verdict = fields.u8()?;
        let node = fields.node()?;
        if version != VERSION {
            return Ok(Self { verdict: Err(Refusal::Version(version)), node });
        }
        fields.end()?;
        let verdict = match verdict {
            0 => Ok(()),
            1 => Err(Refusal::Version(version)),
            2 => Err(Refusal::Class),
            3 => Err(Refusal::Cluster),
            4 => Err(Refusal::Node(node)),
            5 => Err(Refusal::Certificate),
            _ => return Err(MessageError::Field("verdict")),
        };
        Ok(Self { verdict, node })
    }
}
