//! The first frame of a connection, and its answer.
//!
//! Hello, from the node that connects:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELPEER` |
//! | 8 | 2 | version of the protocol | 2 |
//! | 10 | 1 | class | 1 log, 2 control, 3 segments, 4 recovery |
//! | 11 | 32 | cluster id | |
//! | 43 | 8 | from | the node that connects |
//! | 51 | 8 | to | the node it means |
//! | 59 | 21 | shown | by the node that connects |
//!
//! Answer:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic | `STELPEER` |
//! | 8 | 2 | version of the protocol | 2 |
//! | 10 | 1 | verdict | 0 welcome, 1 version, 2 class, 3 cluster, 4 node, 5 certificate, 6 stale |
//! | 11 | 8 | node | the node that answers |
//! | 19 | 21 | shown | by the node that answers; with verdict 0 only |
//! | 19 | 17 | stale | what is remembered of the node that connects; with verdict 6 only |
//!
//! Parts:
//!
//! | part | bytes | fields |
//! |---|---|---|
//! | shown | 21 | phase 1 (0 starting, 1 running, 2 in doubt), incarnation 4, term of the vote 8, end of the log 8 |
//! | stale | 17 | 1, incarnation seen 8, incarnation shown 8; or 2, term 8 and index 8 that were acknowledged |
//!
//! A connection of class recovery carries requests where the node that connects is in doubt, whether the other runs or
//! starts. Else, where either node is not running, a connection carries nothing more but, from a node that finds the one
//! that answered stale, `stale` of [`super::message`].
//!
//! Little-endian. Magic, version and verdict keep their places in all versions; both messages have at most
//! 256 bytes in all versions. Whoever hears anything else closes the connection.

use stele_engine::number::NodeId;

use super::wire::{Fields, Frame, FrameWriter, MessageError};
use super::{Class, ClusterId};
use crate::standing::{Shown, Stale};

/// The version of the protocol between peers.
pub const VERSION: u16 = 2;
/// Most bytes of a hello or its answer, in any version.
pub(super) const MAX_HELLO_BYTES: usize = 256;

const MAGIC: [u8; 8] = *b"STELPEER";
const HELLO_BYTES: usize = 80;
const ANSWER_BYTES: usize = 40;
/// Bytes of what a node shows.
pub(super) const SHOWN_BYTES: usize = 21;
/// Bytes of what is remembered of a stale node.
pub(super) const STALE_BYTES: usize = 17;

const _: () = assert!(HELLO_BYTES == 8 + 2 + 1 + 32 + 8 + 8 + SHOWN_BYTES && HELLO_BYTES <= MAX_HELLO_BYTES);
const _: () = assert!(ANSWER_BYTES == 8 + 2 + 1 + 8 + SHOWN_BYTES && ANSWER_BYTES <= MAX_HELLO_BYTES);
const _: () = assert!(SHOWN_BYTES == 1 + 4 + 8 + 8 && STALE_BYTES == 1 + 8 + 8 && STALE_BYTES <= SHOWN_BYTES);

/// What a node that connects says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) class: Class,
    pub(super) cluster: ClusterId,
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) shown: Shown,
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
        frame.shown(&self.shown);
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
        let shown = fields.shown().map_err(garbage)?;
        fields.end().map_err(garbage)?;
        Ok(Self { class: Class::from_number(class).ok_or(HelloFault::Class)?, cluster, from, to, shown })
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
    /// It remembers more of this node than this node shows.
    #[error("it remembers more of this node than this node shows: {0}")]
    Stale(Stale),
}

/// What a node answers to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Greeting {
    pub(super) verdict: Result<Shown, Refusal>,
    pub(super) node: NodeId,
}

impl Greeting {
    pub(super) fn encode(&self) -> Frame {
        let verdict: u8 = match self.verdict {
            Ok(_) => 0,
            Err(Refusal::Version(_)) => 1,
            Err(Refusal::Class) => 2,
            Err(Refusal::Cluster) => 3,
            Err(Refusal::Node(_)) => 4,
            Err(Refusal::Certificate) => 5,
            Err(Refusal::Stale(_)) => 6,
        };
        let mut frame = FrameWriter::new();
        frame.put(&MAGIC);
        frame.put(&VERSION.to_le_bytes());
        frame.put(&[verdict]);
        frame.put(&self.node.get().to_le_bytes());
        match &self.verdict {
            Ok(shown) => frame.shown(shown),
            Err(Refusal::Stale(stale)) => frame.stale(stale),
            Err(_) => {}
        }
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
        let verdict = match verdict {
            0 => Ok(fields.shown()?),
            1 => Err(Refusal::Version(version)),
            2 => Err(Refusal::Class),
            3 => Err(Refusal::Cluster),
            4 => Err(Refusal::Node(node)),
            5 => Err(Refusal::Certificate),
            6 => Err(Refusal::Stale(fields.stale()?)),
            _ => return Err(MessageError::Field("verdict")),
        };
        fields.end()?;
        Ok(Self { verdict, node })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use stele_engine::number::{RaftIndex, Term};

    use super::super::wire::LENGTH_BYTES;
    use super::*;
    use crate::standing::Phase;

    const SHOWN: Shown =
        Shown { phase: Phase::Running, incarnation: 3, vote_term: Term::new(4), end: RaftIndex::new(5) };

    /// What stands in the frame behind its length.
    fn message(mut frame: Frame) -> Vec<u8> {
        let bytes = frame.copy_to_bytes(frame.remaining());
        assert_eq!(bytes[..LENGTH_BYTES], u32::try_from(bytes.len() - LENGTH_BYTES).unwrap().to_le_bytes());
        bytes[LENGTH_BYTES..].to_vec()
    }

    /// Zeros with these bytes at these places.
    fn golden(len: usize, places: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; len];
        bytes[..8].copy_from_slice(b"STELPEER");
        bytes[8] = 2;
        places.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        bytes
    }

    #[test]
    fn golden_bytes_of_a_hello_both_ways() {
        let mut bytes = golden(80, &[(10, 2), (43, 1), (51, 2), (59, 1), (60, 3), (64, 4), (72, 5)]);
        bytes[11..43].fill(7);
        let (cluster, from, to) = (ClusterId::new([7; 32]), NodeId::new(1), NodeId::new(2));
        let hello = Hello { class: Class::Control, cluster, from, to, shown: SHOWN };
        assert_eq!(message(hello.encode()), bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        let faults = [
            (0, HelloFault::Garbage),
            (8, HelloFault::Version),
            (10, HelloFault::Class),
            (50, HelloFault::Garbage),
            (59, HelloFault::Garbage),
            (71, HelloFault::Garbage),
        ];
        for (at, fault) in faults {
            let mut other = bytes.clone();
            other[at] = 0xff;
            assert_eq!(Hello::decode(&other), Err(fault), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..len]), Err(HelloFault::Garbage), "{len} bytes");
        }
    }

    #[test]
    fn golden_bytes_of_the_answers_both_ways() {
        let incarnation = Stale::Incarnation { seen: 8, shown: 9 };
        let acknowledged = Stale::Acknowledged { term: Term::new(8), index: RaftIndex::new(9) };
        let node = NodeId::new(6);
        let answers = [
            (Ok(SHOWN), golden(40, &[(11, 6), (19, 1), (20, 3), (24, 4), (32, 5)])),
            (Err(Refusal::Version(VERSION)), golden(19, &[(10, 1), (11, 6)])),
            (Err(Refusal::Class), golden(19, &[(10, 2), (11, 6)])),
            (Err(Refusal::Cluster), golden(19, &[(10, 3), (11, 6)])),
            (Err(Refusal::Node(node)), golden(19, &[(10, 4), (11, 6)])),
            (Err(Refusal::Certificate), golden(19, &[(10, 5), (11, 6)])),
            (Err(Refusal::Stale(incarnation)), golden(36, &[(10, 6), (11, 6), (19, 1), (20, 8), (28, 9)])),
            (Err(Refusal::Stale(acknowledged)), golden(36, &[(10, 6), (11, 6), (19, 2), (20, 8), (28, 9)])),
        ];
        for (verdict, bytes) in answers {
            let greeting = Greeting { verdict, node };
            assert_eq!(message(greeting.encode()), bytes);
            assert_eq!(Greeting::decode(&bytes), Ok(greeting));
            assert!(Greeting::decode(&bytes[..bytes.len() - 1]).is_err(), "{verdict:?} without its end");
            assert!(Greeting::decode(&[&bytes[..], &[0]].concat()).is_err(), "{verdict:?} and more");
        }
        let bytes = golden(36, &[(10, 6), (11, 6), (19, 1), (24, 1)]);
        assert!(Greeting::decode(&bytes).is_err(), "an incarnation beyond 32 bits");
        assert!(Greeting::decode(&golden(36, &[(10, 6), (19, 3)])).is_err());
        let newer = golden(60, &[(8, 3), (10, 9), (11, 6)]);
        assert_eq!(Greeting::decode(&newer), Ok(Greeting { verdict: Err(Refusal::Version(3)), node }));
    }
}
