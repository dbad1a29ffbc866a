//! What peers say to each other once they have met.
//!
//! A request is answered by one answer; answers come in the order of the requests. The first byte is the type:
//!
//! | type | request | connection | type | answer |
//! |---|---|---|---|---|
//! | 1 | append | log; control without entries: a heartbeat | 0x81 | appended |
//! | 2 | vote | control | 0x82 | voted |
//! | 3 | pre-vote | control | 0x82 | voted |
//! | 4 | transfer leader | control | 0x84 | transferred |
//! | 5 | list segments | segments | 0x85 | segments |
//! | 6 | read segment | segments | 0x86 | bytes |
//! | 7 | stale | any | | none: the connection ends |
//! | 8 | cosign | control | 0x88 | cosigned |
//! | 9 | vouch | segments | 0x89 | vouched |
//! | 10 | offer | recovery | 0x8a | offered |
//! | | any | any | 0xff | failed |
//!
//! Parts of messages:
//!
//! | part | bytes | fields |
//! |---|---|---|
//! | vote | 17 | term 8, voted for 8, committed 1 (0 or 1) |
//! | log id | 17 | 1 there or 0 not, term 8, index 8; zeros where it is not there |
//!
//! Append:
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 1 | type | 1 |
//! | 1 | 17 | vote | the leader's |
//! | 18 | 17 | log id | of the entry before the first |
//! | 35 | 17 | log id | up to which the leader knows the log to be committed |
//! | 52 | 8 | flushed | one past the last entry that the leader's own disk has; 0: it does not say |
//! | 60 | .. | entries | [`super::entries`] |
//!
//! The vote of an append and of transfer leader is committed, that of vote and pre-vote is not, and each is the vote of
//! the peer that sends it.
//!
//! The others, field after field:
//!
//! | message | fields |
//! |---|---|
//! | vote, pre-vote | vote 17, log id 17 (the candidate's last), whether leadership is transferred 1 |
//! | transfer leader | vote 17 (the leader's), node 8 (the next), log id 17 (which it must have) |
//! | list segments | segment 8: the first that is asked for |
//! | read segment | file 1 (1 frames, 2 payloads, 3 tiles, 4 hashes), segment 8, part 4 (0 but in payloads), offset 8, length 4 (1 to [`MAX_READ_BYTES`]) |
//! | stale | stale 17 (as in an answer to a hello): what is remembered of the node that hears it |
//! | cosign | size 8, root 32, wait 4: milliseconds, at most [`MAX_COSIGN_WAIT`] |
//! | vouch | tree size 8, at least 1 |
//! | offer | log id 17: the last entry of the node that asks; wanted 1 (0 the position, 1 entries too) |
//! | appended | 0, log id 17 (the last that matches); or 1, log id 17 (the conflicting); or 2, vote 17 (a higher) |
//! | voted | vote 17, granted 1, log id 17 (the voter's last) |
//! | transferred | 0, zeros 34; or 1, votes 17 + 17 (expected, actual); or 2, log ids 17 + 17 (expected, actual) |
//! | segments | count 4, per segment: number 8 (ascending), frames' file bytes 8, part count 4, bytes 8 of each part from 0 on |
//! | bytes | what stands there; fewer than asked for only at the end of the file |
//! | cosigned | 0, signature lines (1 to [`MAX_LINES_BYTES`]); or 1, size 8 (visible); or 2, root 32 (another); or 3, size 8 (signed before), signed note (0 to [`MAX_COSIGNED_NOTE_BYTES`]); or 4 (the same, not signed) |
//! | vouched | hash count 4 (at most [`MAX_PROOF_HASHES`]), hashes 32 each: from the size that was asked for to that of the checkpoint; then the signed checkpoint, at most [`MAX_NOTE_BYTES`] |
//! | offered | log id 17 (the last of the node that answers), log id 17 (that of the request), 1 if its log holds that one, entries ([`super::entries`]) that come behind it |
//! | failed | 1 stopped, 2 not a sealed file, 3 not readable, 4 cannot sign, 5 no checkpoint of so many records |
//!
//! Little-endian. Numbers of 64 bits are below 2^62. Signature lines and notes are UTF-8; what they say is not looked at here.

use std::time::Duration;

use bytes::{Buf, Bytes};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use stele_engine::number::{NodeId, RaftIndex, SegmentNumber};
use stele_engine::segment::{PayloadPart, SegmentFile};
use stele_engine::signing_state::SignedHead;
use stele_proof::TreeSize;
use stele_proof::tree::Hash;

use super::Class;
use super::cosign::{CosignRequest, Cosigned, MAX_COSIGN_WAIT, MAX_COSIGNED_NOTE_BYTES, MAX_LINES_BYTES};
use super::entries;
use super::segments::{MAX_LIST_BYTES, MAX_NOTE_BYTES, MAX_PROOF_HASHES, MAX_READ_BYTES, SealedSegment, Vouched};
use super::wire::{Fields, Frame, FrameWriter, MessageError};
use crate::entry::{LogId, TypeConfig, Vote};
use crate::standing::Stale;
use crate::stored::{Holds, Offer, Wanted};

/// Bytes of an append before its entries.
const APPEND_BYTES: usize = 60;
/// Largest message that has no entries, is not about segments, and holds no signatures.
const SMALL_BYTES: usize = 64;

const _: () = assert!(APPEND_BYTES == 1 + 17 + 17 + 17 + 8 && APPEND_BYTES + entries::COUNT_BYTES <= SMALL_BYTES);
const _: () = assert!(MAX_LINES_BYTES <= MAX_COSIGNED_NOTE_BYTES);

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const PRE_VOTE: u8 = 3;
const TRANSFER: u8 = 4;
const LIST: u8 = 5;
const READ: u8 = 6;
const STALE: u8 = 7;
const COSIGN: u8 = 8;
const VOUCH: u8 = 9;
const OFFER: u8 = 10;
const APPENDED: u8 = 0x81;
const VOTED: u8 = 0x82;
const TRANSFERRED: u8 = 0x84;
const SEGMENTS: u8 = 0x85;
const BYTES: u8 = 0x86;
const COSIGNED: u8 = 0x88;
const VOUCHED: u8 = 0x89;
const OFFERED: u8 = 0x8a;
const FAILED: u8 = 0xff;

/// Most bytes of a request on a connection of this class.
pub(super) const fn max_request_bytes(class: Class) -> usize {
    match class {
        Class::Log => APPEND_BYTES + entries::MAX_BYTES,
        Class::Control | Class::Segments | Class::Recovery => SMALL_BYTES,
    }
}

/// Most bytes of an answer on a connection of this class.
pub(super) const fn max_answer_bytes(class: Class) -> usize {
    match class {
        Class::Log => SMALL_BYTES,
        Class::Control => SMALL_BYTES + MAX_COSIGNED_NOTE_BYTES,
        Class::Recovery => SMALL_BYTES + entries::MAX_BYTES,
        Class::Segments => SMALL_BYTES + if MAX_READ_BYTES > MAX_LIST_BYTES { MAX_READ_BYTES } else { MAX_LIST_BYTES },
    }
}

// What vouches for a copy fits, too.
const _: () = assert!(4 + MAX_PROOF_HASHES * 32 + MAX_NOTE_BYTES <= MAX_READ_BYTES);

/// What a leader sends: what openraft has it send, and how far its own disk is.
#[derive(Clone, Debug)]
pub(super) struct Append {
    pub(super) request: AppendEntriesRequest<TypeConfig>,
    /// One past the last entry that its disk had while it led in this term; 0 where it does not say.
    pub(super) flushed: RaftIndex,
}

/// What a node asks of another.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Append(Append),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    ListSegments {
        from: SegmentNumber,
    },
    ReadSegment {
        file: SegmentFile,
        offset: u64,
        len: u32,
    },
    Stale(Stale),
    Cosign(CosignRequest),
    Vouch {
        size: TreeSize,
    },
    /// What comes behind the last entry of the node that asks?
    Offer {
        last: LogId,
        wanted: Wanted,
    },
}

/// What it is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Appended(StreamAppendResult<TypeConfig>),
    Voted(VoteResponse<TypeConfig>),
    Transferred(TransferLeaderResponse<TypeConfig>),
    Segments(Vec<SealedSegment>),
    Bytes(Bytes),
    Cosigned(Cosigned),
    Vouched(Vouched),
    Offered(Offered),
    Failed(Failure),
}

/// What a peer has behind the last entry of the node that asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Offered {
    pub(super) before: LogId,
    pub(super) offer: Offer,
}

/// Why a peer could not do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its consensus has stopped.
    #[error("the node's consensus has stopped")]
    Stopped,
    /// The file is not there, or is not sealed yet.
    #[error("the node has no such sealed file")]
    NotSealed,
    /// The file cannot be read.
    #[error("the node cannot read the file")]
    Unreadable,
    /// It has no keys that count, or may not use them any more.
    #[error("the node cannot sign")]
    NoSigner,
    /// It has no signed checkpoint that covers so many records.
    #[error("the node has no checkpoint of so many records")]
    NoCheckpoint,
}

/// The id of the last entry of an append, or of the one before where it has none.
pub(super) fn last_log_id(append: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    append.entries.last().map_or(append.prev_log_id, |last| Some(LogId::new(last.leader, last.index.get())))
}

impl Request {
    /// Whether the peer speaks for itself: a leader of its own entries, a candidate for its own vote. openraft takes
    /// this for granted, and where its assertions are compiled in, it stops where it is not so.
    pub(super) fn is_of(&self, peer: NodeId) -> bool {
        let of = |vote: &Vote, committed| vote.leader_id.voted_for == peer.get() && vote.committed == committed;
        match self {
            Self::Append(append) => of(&append.request.vote, true),
            Self::Vote(vote) | Self::PreVote(vote) => of(&vote.vote, false),
            Self::TransferLeader(transfer) => of(transfer.from_leader(), true),
            Self::ListSegments { .. }
            | Self::ReadSegment { .. }
            | Self::Stale(_)
            | Self::Cosign(_)
            | Self::Vouch { .. }
            | Self::Offer { .. } => true,
        }
    }

    /// # Panics
    /// Where entries do not follow each other or are more than fit: the log storage read them.
    pub(super) fn encode(&self) -> Frame {
        match self {
            Self::Append(append) => encode_append(append),
            Self::Vote(vote) => encode_vote(VOTE, vote),
            Self::PreVote(vote) => encode_vote(PRE_VOTE, vote),
            Self::TransferLeader(transfer) => {
                let mut frame = FrameWriter::of_type(TRANSFER);
                frame.vote(transfer.from_leader());
                frame.put(&transfer.to_node_id().to_le_bytes());
                frame.log_id(transfer.last_log_id());
                frame.finish()
            }
            Self::ListSegments { from } => {
                let mut frame = FrameWriter::of_type(LIST);
                frame.put(&from.get().to_le_bytes());
                frame.finish()
            }
            Self::ReadSegment { file, offset, len } => {
                let (kind, segment, part) = match *file {
                    SegmentFile::Frames(segment) => (1, segment, 0),
                    SegmentFile::Payloads(segment, part) => (2, segment, part.get()),
                    SegmentFile::Tiles(segment) => (3, segment, 0),
                    SegmentFile::Hashes(segment) => (4, segment, 0),
                };
                let mut frame = FrameWriter::of_type(READ);
                frame.put(&[kind]);
                frame.put(&segment.get().to_le_bytes());
                frame.put(&part.to_le_bytes());
                frame.put(&offset.to_le_bytes());
                frame.put(&len.to_le_bytes());
                frame.finish()
            }
            Self::Stale(stale) => {
                let mut frame = FrameWriter::of_type(STALE);
                frame.stale(stale);
                frame.finish()
            }
            Self::Cosign(cosign) => encode_cosign(cosign),
            Self::Offer { last, wanted } => {
                let mut frame = FrameWriter::of_type(OFFER);
                frame.log_id(Some(last));
                frame.put(&[u8::from(*wanted == Wanted::Entries)]);
                frame.finish()
            }
            Self::Vouch { size } => {
                let mut frame = FrameWriter::of_type(VOUCH);
                frame.put(&size.get().to_le_bytes());
                frame.finish()
            }
        }
    }

    pub(super) fn decode(class: Class, mut message: Bytes) -> Result<Self, MessageError> {
        let mut fields = Fields::new(&message);
        let request = match (class, fields.u8()?) {
            (Class::Log | Class::Control, APPEND) => {
                message.advance(1);
                let append = decode_append(message)?;
                if class == Class::Control && !append.request.entries.is_empty() {
                    return Err(MessageError::Field("entries of a heartbeat"));
                }
                return Ok(Self::Append(append));
            }
            (Class::Control, VOTE) => Self::Vote(decode_vote(&mut fields)?),
            (Class::Control, PRE_VOTE) => Self::PreVote(decode_vote(&mut fields)?),
            (Class::Control, TRANSFER) => {
                let (from, to, last) = (fields.vote()?, fields.node()?, fields.log_id()?);
                Self::TransferLeader(TransferLeaderRequest::new(from, to.get(), last))
            }
            (Class::Control, COSIGN) => Self::Cosign(decode_cosign(&mut fields)?),
            (Class::Segments, LIST) => Self::ListSegments { from: fields.segment()? },
            (Class::Segments, READ) => decode_read(&mut fields)?,
            (Class::Recovery, OFFER) => {
                let last = fields.log_id()?.ok_or(MessageError::Field("log id"))?;
                let wanted = if fields.flag("wanted")? { Wanted::Entries } else { Wanted::Position };
                Self::Offer { last, wanted }
            }
            (_, STALE) => Self::Stale(fields.stale()?),
            (Class::Segments, VOUCH) => {
                let size = fields.u64("size")?;
                if size == 0 {
                    return Err(MessageError::Field("size"));
                }
                Self::Vouch { size: TreeSize::new(size) }
            }
            (_, other) => return Err(MessageError::Type(other)),
        };
        fields.end()?;
        Ok(request)
    }
}

fn encode_append(Append { request: append, flushed }: &Append) -> Frame {
    let mut frame = FrameWriter::of_type(APPEND);
    frame.vote(&append.vote);
    frame.log_id(append.prev_log_id.as_ref());
    frame.log_id(append.leader_commit.as_ref());
    frame.put(&flushed.get().to_le_bytes());
    entries::write(&mut frame, append.prev_log_id.as_ref(), &append.entries);
    frame.finish()
}

/// Reads an append behind its type.
fn decode_append(message: Bytes) -> Result<Append, MessageError> {
    let mut fields = Fields::new(&message);
    let (vote, prev_log_id, leader_commit) = (fields.vote()?, fields.log_id()?, fields.log_id()?);
    let flushed = RaftIndex::new(fields.u64("flushed")?);
    let entries = entries::read(fields, &message, prev_log_id.as_ref(), vote.leader_id.term)?;
    Ok(Append { request: AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, flushed })
}

fn encode_vote(message: u8, vote: &VoteRequest<TypeConfig>) -> Frame {
    let mut frame = FrameWriter::of_type(message);
    frame.vote(&vote.vote);
    frame.log_id(vote.last_log_id.as_ref());
    frame.put(&[u8::from(vote.leadership_transfer)]);
    frame.finish()
}

fn decode_vote(fields: &mut Fields<'_>) -> Result<VoteRequest<TypeConfig>, MessageError> {
    let mut vote = VoteRequest::new(fields.vote()?, fields.log_id()?);
    vote.leadership_transfer = fields.flag("leadership transfer")?;
    Ok(vote)
}

fn decode_read(fields: &mut Fields<'_>) -> Result<Request, MessageError> {
    let kind = fields.u8()?;
    let (segment, part) = (fields.segment()?, PayloadPart::new(fields.u32()?));
    let file = match kind {
        1 => SegmentFile::Frames(segment),
        2 => SegmentFile::Payloads(segment, part),
        3 => SegmentFile::Tiles(segment),
        4 => SegmentFile::Hashes(segment),
        _ => return Err(MessageError::Field("file")),
    };
    if kind != 2 && part != PayloadPart::FIRST {
        return Err(MessageError::Field("part"));
    }
    let (offset, len) = (fields.u64("offset")?, fields.u32()?);
    if len == 0 || usize::try_from(len).unwrap_or(usize::MAX) > MAX_READ_BYTES {
        return Err(MessageError::Field("length"));
    }
    Ok(Request::ReadSegment { file, offset, len })
}

fn encode_cosign(cosign: &CosignRequest) -> Frame {
    let CosignRequest { head, wait } = cosign;
    let mut frame = FrameWriter::of_type(COSIGN);
    frame.put(&head.size.get().to_le_bytes());
    frame.put(head.root.as_bytes());
    let wait = wait.min(&MAX_COSIGN_WAIT).as_millis();
    frame.put(&u32::try_from(wait).unwrap_or(u32::MAX).to_le_bytes());
    frame.finish()
}

fn decode_cosign(fields: &mut Fields<'_>) -> Result<CosignRequest, MessageError> {
    let head = SignedHead { size: TreeSize::new(fields.u64("size")?), root: Hash::new(fields.take()?) };
    let wait = Duration::from_millis(fields.u32()?.into());
    if wait > MAX_COSIGN_WAIT {
        return Err(MessageError::Field("wait"));
    }
    Ok(CosignRequest { head, wait })
}

impl Answer {
    pub(super) fn encode(&self) -> Frame {
        match self {
            Self::Appended(appended) => {
                let mut frame = FrameWriter::of_type(APPENDED);
                match appended {
                    Ok(matching) => {
                        frame.put(&[0]);
                        frame.log_id(matching.as_ref());
                    }
                    Err(StreamAppendError::Conflict(conflict)) => {
                        frame.put(&[1]);
                        frame.log_id(Some(conflict));
                    }
                    Err(StreamAppendError::HigherVote(vote)) => {
                        frame.put(&[2]);
                        frame.vote(vote);
                    }
                }
                frame.finish()
            }
            Self::Voted(voted) => {
                let mut frame = FrameWriter::of_type(VOTED);
                frame.vote(&voted.vote);
                frame.put(&[u8::from(voted.vote_granted)]);
                frame.log_id(voted.last_log_id.as_ref());
                frame.finish()
            }
            Self::Transferred(transferred) => encode_transferred(transferred),
            Self::Segments(segments) => {
                let mut frame = FrameWriter::of_type(SEGMENTS);
                SealedSegment::write_list(segments, &mut frame);
                frame.finish()
            }
            Self::Bytes(bytes) => {
                let mut frame = FrameWriter::of_type(BYTES);
                frame.put_bytes(bytes);
                frame.finish()
            }
            Self::Cosigned(cosigned) => encode_cosigned(cosigned),
            Self::Vouched(vouched) => {
                let mut frame = FrameWriter::of_type(VOUCHED);
                vouched.write(&mut frame);
                frame.finish()
            }
            Self::Offered(Offered { before, offer }) => {
                let mut frame = FrameWriter::of_type(OFFERED);
                frame.log_id(offer.last.as_ref());
                frame.log_id(Some(before));
                frame.put(&[u8::from(offer.holds == Holds::It)]);
                entries::write(&mut frame, Some(before), &offer.entries);
                frame.finish()
            }
            Self::Failed(failure) => {
                let mut frame = FrameWriter::of_type(FAILED);
                frame.put(&[match failure {
                    Failure::Stopped => 1,
                    Failure::NotSealed => 2,
                    Failure::Unreadable => 3,
                    Failure::NoSigner => 4,
                    Failure::NoCheckpoint => 5,
                }]);
                frame.finish()
            }
        }
    }

    pub(super) fn decode(mut message: Bytes) -> Result<Self, MessageError> {
        let mut fields = Fields::new(&message);
        let answer = match fields.u8()? {
            APPENDED => Self::Appended(match fields.u8()? {
                0 => Ok(fields.log_id()?),
                1 => Err(StreamAppendError::Conflict(fields.log_id()?.ok_or(MessageError::Field("conflict"))?)),
                2 => Err(StreamAppendError::HigherVote(fields.vote()?)),
                _ => return Err(MessageError::Field("appended")),
            }),
            VOTED => {
                let (vote, granted, last) = (fields.vote()?, fields.flag("granted")?, fields.log_id()?);
                Self::Voted(VoteResponse::new(vote, last, granted))
            }
            TRANSFERRED => Self::Transferred(decode_transferred(&mut fields)?),
            SEGMENTS => Self::Segments(SealedSegment::read_list(&mut fields)?),
            BYTES => {
                message.advance(1);
                return Ok(Self::Bytes(message));
            }
            COSIGNED => return decode_cosigned(fields, &message).map(Self::Cosigned),
            VOUCHED => {
                message.advance(1);
                return Ok(Self::Vouched(Vouched::read(message)?));
            }
            OFFERED => {
                let last = fields.log_id()?;
                let before = fields.log_id()?.ok_or(MessageError::Field("log id"))?;
                let holds = if fields.flag("holds")? { Holds::It } else { Holds::Not };
                let max_term = last.map_or(0, |last| last.leader_id.term);
                let entries = entries::read(fields, &message, Some(&before), max_term)?;
                if holds == Holds::Not && !entries.is_empty() {
                    return Err(MessageError::Field("entries"));
                }
                return Ok(Self::Offered(Offered { before, offer: Offer { last, holds, entries } }));
            }
            FAILED => Self::Failed(match fields.u8()? {
                1 => Failure::Stopped,
                2 => Failure::NotSealed,
                3 => Failure::Unreadable,
                4 => Failure::NoSigner,
                5 => Failure::NoCheckpoint,
                _ => return Err(MessageError::Field("failed")),
            }),
            other => return Err(MessageError::Type(other)),
        };
        fields.end()?;
        Ok(answer)
    }
}

fn encode_cosigned(cosigned: &Cosigned) -> Frame {
    let mut frame = FrameWriter::of_type(COSIGNED);
    match cosigned {
        Cosigned::Signed(lines) => {
            frame.put(&[0]);
            frame.put(lines.as_bytes());
        }
        Cosigned::NotYet(visible) => {
            frame.put(&[1]);
            frame.put(&visible.get().to_le_bytes());
        }
        Cosigned::Differs(root) => {
            frame.put(&[2]);
            frame.put(root.as_bytes());
        }
        Cosigned::Passed { size, note } => {
            frame.put(&[3]);
            frame.put(&size.get().to_le_bytes());
            frame.put(note.as_bytes());
        }
        Cosigned::Same => frame.put(&[4]),
    }
    frame.finish()
}

/// Reads what a node says to a tree head, behind the type, to the end of the message.
fn decode_cosigned(mut fields: Fields<'_>, message: &Bytes) -> Result<Cosigned, MessageError> {
    let text = |fields: Fields<'_>, most: usize, name: &'static str| {
        let rest = &message[message.len() - fields.left()..];
        let text = (rest.len() <= most).then(|| std::str::from_utf8(rest).ok()).flatten();
        text.map(str::to_owned).ok_or(MessageError::Field(name))
    };
    let cosigned = match fields.u8()? {
        0 if fields.left() == 0 => return Err(MessageError::Field("signature lines")),
        0 => return Ok(Cosigned::Signed(text(fields, MAX_LINES_BYTES, "signature lines")?)),
        1 => Cosigned::NotYet(TreeSize::new(fields.u64("visible")?)),
        2 => Cosigned::Differs(Hash::new(fields.take()?)),
        3 => {
            let size = TreeSize::new(fields.u64("signed")?);
            return Ok(Cosigned::Passed { size, note: text(fields, MAX_COSIGNED_NOTE_BYTES, "note")? });
        }
        4 => Cosigned::Same,
        _ => return Err(MessageError::Field("cosigned")),
    };
    fields.end()?;
    Ok(cosigned)
}

/// openraft does not export the name of this type.
type TransferError = <TransferLeaderResponse<TypeConfig> as Fallible>::Error;

/// Names the error of a result.
trait Fallible {
    type Error;
}

impl<T, E> Fallible for Result<T, E> {
    type Error = E;
}

fn encode_transferred(transferred: &TransferLeaderResponse<TypeConfig>) -> Frame {
    let mut frame = FrameWriter::of_type(TRANSFERRED);
    match transferred {
        Ok(()) => frame.put(&[0; 1 + 34]),
        Err(TransferError::VoteChanged { expected, actual }) => {
            frame.put(&[1]);
            frame.vote(expected);
            frame.vote(actual);
        }
        Err(TransferError::LogNotFlushed { expected, actual }) => {
            frame.put(&[2]);
            frame.log_id(expected.as_ref());
            frame.log_id(actual.as_ref());
        }
    }
    frame.finish()
}

fn decode_transferred(fields: &mut Fields<'_>) -> Result<TransferLeaderResponse<TypeConfig>, MessageError> {
    Ok(match fields.u8()? {
        0 => {
            fields.zeros::<34>()?;
            Ok(())
        }
        1 => Err(TransferError::VoteChanged { expected: fields.vote()?, actual: fields.vote()? }),
        2 => Err(TransferError::LogNotFlushed { expected: fields.log_id()?, actual: fields.log_id()? }),
        _ => return Err(MessageError::Field("transferred")),
    })
}

#[cfg(test)]
mod tests;
