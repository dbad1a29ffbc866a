//! Fields of messages, read and written; frames as they are sent.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftVote;
use stele_engine::number::{LIMIT, NodeId, RaftIndex, SegmentNumber, Term};

use crate::entry::{LogId, Vote, log_id};
use crate::standing::{Phase, Shown, Stale};

/// Bytes of a frame's length, which stands before it.
pub(super) const LENGTH_BYTES: usize = 4;
/// What is as short is copied next to its neighbours, so that it costs no write of its own.
const COALESCED_BYTES: usize = 1024;

/// Why the bytes of a frame are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message ends inside a field, or goes on behind its last.
    #[error("a message of {0} bytes ends inside a field or goes on behind the last")]
    Length(usize),
    /// Not a message of this connection.
    #[error("message type {0:#04x} is unknown here")]
    Type(u8),
    /// The value is never written.
    #[error("the field `{0}` holds a value that is never written")]
    Field(&'static str),
    /// An entry that no log can hold.
    #[error("entry {0} can stand in no log")]
    Entry(RaftIndex),
}

/// A frame with its length before it, as it goes out: in pieces, so that nothing large is copied.
#[derive(Debug)]
pub(super) struct Frame {
    chunks: VecDeque<Bytes>,
    remaining: usize,
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while let Some(first) = self.chunks.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.chunks.pop_front();
        }
    }
}

/// Writes a frame.
pub(super) struct FrameWriter {
    /// The first piece, which begins with the length.
    head: Option<BytesMut>,
    small: BytesMut,
    rest: VecDeque<Bytes>,
    len: usize,
}

impl FrameWriter {
    pub(super) fn new() -> Self {
        Self { head: None, small: BytesMut::zeroed(LENGTH_BYTES), rest: VecDeque::new(), len: 0 }
    }

    pub(super) fn of_type(message: u8) -> Self {
        let mut writer = Self::new();
        writer.put(&[message]);
        writer
    }

    /// Copies bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Takes bytes as they are.
    pub(super) fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() <= COALESCED_BYTES {
            return self.put(bytes);
        }
        self.end_small();
        self.rest.push_back(bytes.clone());
        self.len += bytes.len();
    }

    pub(super) fn vote(&mut self, vote: &Vote) {
        self.put(&vote.leader_id.term.to_le_bytes());
        self.put(&vote.leader_id.voted_for.to_le_bytes());
        self.put(&[u8::from(vote.committed)]);
    }

    pub(super) fn log_id(&mut self, id: Option<&LogId>) {
        let (term, index) = id.map_or((0, 0), |id| (id.leader_id.term, id.index));
        self.put(&[u8::from(id.is_some())]);
        self.put(&term.to_le_bytes());
        self.put(&index.to_le_bytes());
    }

    pub(super) fn shown(&mut self, shown: &Shown) {
        self.put(&[match shown.phase {
            Phase::Starting => 0,
            Phase::Running => 1,
            Phase::InDoubt => 2,
        }]);
        self.put(&shown.incarnation.to_le_bytes());
        self.put(&shown.vote_term.get().to_le_bytes());
        self.put(&shown.end.get().to_le_bytes());
    }

    pub(super) fn stale(&mut self, stale: &Stale) {
        let (kind, first, second) = match *stale {
            Stale::Incarnation { seen, shown } => (1, u64::from(seen), u64::from(shown)),
            Stale::Acknowledged { term, index } => (2, term.get(), index.get()),
        };
        self.put(&[kind]);
        self.put(&first.to_le_bytes());
        self.put(&second.to_le_bytes());
    }

    fn end_small(&mut self) {
        let small = std::mem::take(&mut self.small);
        if self.head.is_none() {
            self.head = Some(small);
        } else if !small.is_empty() {
            self.rest.push_back(small.freeze());
        }
    }

    pub(super) fn finish(mut self) -> Frame {
        self.end_small();
        let Self { head, rest: mut chunks, len, .. } = self;
        if let Some(mut head) = head {
            let length = u32::try_from(len).unwrap_or(u32::MAX);
            head[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            chunks.push_front(head.freeze());
        }
        Frame { chunks, remaining: LENGTH_BYTES + len }
    }
}

/// Reads the fields of a message.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    whole: usize,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, whole: bytes.len() }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (field, rest) = self.bytes.split_first_chunk::<N>().ok_or(MessageError::Length(self.whole))?;
        self.bytes = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MessageError> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageError> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, MessageError> {
        self.take().map(u32::from_le_bytes)
    }

    /// A number that can be gone on from without overflow.
    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        let number = self.take().map(u64::from_le_bytes)?;
        if number < LIMIT { Ok(number) } else { Err(MessageError::Field(field)) }
    }

    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, MessageError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MessageError::Field(field)),
        }
    }

    pub(super) fn node(&mut self) -> Result<NodeId, MessageError> {
        self.u64("node").map(NodeId::new)
    }

    pub(super) fn segment(&mut self) -> Result<SegmentNumber, MessageError> {
        self.u64("segment").map(SegmentNumber::new)
    }

    pub(super) fn vote(&mut self) -> Result<Vote, MessageError> {
        let leader = LeaderId { term: self.u64("vote")?, voted_for: self.u64("vote")? };
        Ok(Vote::from_leader_id(leader, self.flag("vote")?))
    }

    pub(super) fn log_id(&mut self) -> Result<Option<LogId>, MessageError> {
        let some = self.flag("log id")?;
        let (term, index) = (self.u64("log id")?, self.u64("log id")?);
        match (some, term, index) {
            (true, ..) => Ok(Some(log_id(Term::new(term), RaftIndex::new(index)))),
            (false, 0, 0) => Ok(None),
            (false, ..) => Err(MessageError::Field("log id")),
        }
    }

    pub(super) fn shown(&mut self) -> Result<Shown, MessageError> {
        let phase = match self.u8()? {
            0 => Phase::Starting,
            1 => Phase::Running,
            2 => Phase::InDoubt,
            _ => return Err(MessageError::Field("phase")),
        };
        let incarnation = self.u32()?;
        let (vote_term, end) = (Term::new(self.u64("vote term")?), RaftIndex::new(self.u64("end")?));
        Ok(Shown { phase, incarnation, vote_term, end })
    }

    pub(super) fn stale(&mut self) -> Result<Stale, MessageError> {
        let kind = self.u8()?;
        let (first, second) = (self.u64("stale")?, self.u64("stale")?);
        let incarnation = |number| u32::try_from(number).or(Err(MessageError::Field("incarnation")));
        match kind {
            1 => Ok(Stale::Incarnation { seen: incarnation(first)?, shown: incarnation(second)? }),
            2 => Ok(Stale::Acknowledged { term: Term::new(first), index: RaftIndex::new(second) }),
            _ => Err(MessageError::Field("stale")),
        }
    }

    pub(super) fn zeros<const N: usize>(&mut self) -> Result<(), MessageError> {
        if self.take::<N>()? == [0; N] { Ok(()) } else { Err(MessageError::Field("zero")) }
    }

    /// How many bytes are left.
    pub(super) const fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(super) const fn end(&self) -> Result<(), MessageError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(MessageError::Length(self.whole)) }
    }
}
