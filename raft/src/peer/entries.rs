//! Entries, as they cross the wire: in an append, and in an offer.
//!
//! | bytes | field | value |
//! |---|---|---|
//! | 4 | entry count `n` | at most [`MAX_ENTRIES`] |
//! | 17 `n` | per entry | kind 1, term 8, body length 4, payload slots' length 4 |
//! | .. | per entry | body, then payload slots: the bytes that will lie in the files |
//!
//! The entries follow the one before, so their indexes are not said. Bodies and slots together are at most
//! [`MAX_ENTRIES_BYTES`].

use bytes::Bytes;
use stele_engine::batch::{Batch, MAX_PAYLOAD_BYTES};
use stele_engine::frame::{EntryKind, MAX_BODY_BYTES};
use stele_engine::number::RaftIndex;

use super::wire::{Fields, FrameWriter, MessageError};
use crate::entry::{CommittedLeader, Entry, LogId, Payload, decode_membership};
use crate::raft_log::READ_BYTES;

/// Most entries of one message.
pub const MAX_ENTRIES: usize = 1 << 16;
/// Most bytes of bodies and payload slots of one message: what is read at a time, and one entry of the largest.
pub const MAX_ENTRIES_BYTES: usize = READ_BYTES + MAX_BODY_BYTES + MAX_PAYLOAD_BYTES;

/// Bytes of the count.
pub(super) const COUNT_BYTES: usize = 4;
const ENTRY_BYTES: usize = 17;

/// Most bytes of entries in a message.
pub(super) const MAX_BYTES: usize = COUNT_BYTES + MAX_ENTRIES * ENTRY_BYTES + MAX_ENTRIES_BYTES;

const _: () = assert!(ENTRY_BYTES == 1 + 8 + 4 + 4);

/// How many of the entries fit one message; at least one, where there is one.
pub(super) fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.payload.body.len() + entry.payload.slots.len();
        bytes <= MAX_ENTRIES_BYTES
    };
    entries.iter().take(MAX_ENTRIES).take_while(fits).count()
}

/// # Panics
/// Where the entries do not follow each other and the one before, or are more than fit: the log storage read them.
pub(super) fn write(frame: &mut FrameWriter, before: Option<&LogId>, entries: &[Entry]) {
    let count = entries.len();
    let follow = entries.iter().zip(first_behind(before).get()..).all(|(entry, index)| entry.index.get() == index);
    assert!(fitting(entries) == count && follow, "{count} entries that are no message");
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    frame.put(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    for entry in entries {
        frame.put(&[entry.payload.kind.number()]);
        frame.put(&entry.leader.term.to_le_bytes());
        frame.put(&length(&entry.payload.body));
        frame.put(&length(&entry.payload.slots));
    }
    for entry in entries {
        frame.put_bytes(&entry.payload.body);
        frame.put_bytes(&entry.payload.slots);
    }
}

/// Reads entries to the end of the message; none has a term beyond `max_term`.
pub(super) fn read(
    mut fields: Fields<'_>,
    message: &Bytes,
    before: Option<&LogId>,
    max_term: u64,
) -> Result<Vec<Entry>, MessageError> {
    let count = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
    if count > MAX_ENTRIES {
        return Err(MessageError::Field("entry count"));
    }
    let headers = count * ENTRY_BYTES;
    let mut at = message.len() - fields.left() + headers;
    if headers > fields.left() {
        return Err(MessageError::Length(message.len()));
    }
    if message.len() - at > MAX_ENTRIES_BYTES {
        return Err(MessageError::Field("entries"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut index = first_behind(before);
    let mut last_term = before.map_or(0, |before| before.leader_id.term);
    for _ in 0..count {
        let kind = EntryKind::from_number(fields.u8()?).ok_or(MessageError::Field("entry kind"))?;
        let term = fields.u64("term")?;
        if term < last_term || term > max_term {
            return Err(MessageError::Entry(index));
        }
        let mut slice = |len: u32| {
            let end = at.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
            let bytes = (end <= message.len()).then(|| message.slice(at..end));
            at = end;
            bytes.ok_or(MessageError::Length(message.len()))
        };
        let (body_len, slots_len) = (fields.u32()?, fields.u32()?);
        let payload = Payload { kind, body: slice(body_len)?, slots: slice(slots_len)? };
        if !can_stand(&payload) {
            return Err(MessageError::Entry(index));
        }
        entries.push(Entry { leader: CommittedLeader::new(term), index, payload });
        (index, last_term) = (index.next(), term);
    }
    if at != message.len() {
        return Err(MessageError::Length(message.len()));
    }
    Ok(entries)
}

fn first_behind(before: Option<&LogId>) -> RaftIndex {
    RaftIndex::new(before.map_or(0, |before| before.index + 1))
}

/// Whether a log takes such an entry. openraft stops a node whose log refuses one, so nobody may send it.
fn can_stand(payload: &Payload) -> bool {
    let Payload { kind, body, slots } = payload;
    let slots_len = match kind {
        EntryKind::Blank if body.is_empty() => 0,
        EntryKind::Membership if decode_membership(body).is_some() => 0,
        EntryKind::Seal if body.len() == 8 => 0,
        EntryKind::Batch => match Batch::parse(body) {
            Ok(batch) => batch.payload_len(),
            Err(_) => return false,
        },
        _ => return false,
    };
    body.len() <= MAX_BODY_BYTES && u32::try_from(slots.len()) == Ok(slots_len)
}
