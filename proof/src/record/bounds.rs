//! Limits at intake. They may be lower than the format's, never higher, and hold at intake only.

use super::error::{BoundsError, CanonError, Place};
use super::text::first_unassigned;
use super::{MAX_ATTRS_BYTES, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES, Record};

/// How large a record and its payload may be at intake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of canonical `attrs`.
    pub max_attrs_bytes: usize,
    /// Bytes of the canonical record.
    pub max_record_bytes: usize,
    /// Bytes of the payload.
    pub max_payload_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_attrs_bytes: MAX_ATTRS_BYTES,
            max_record_bytes: MAX_RECORD_BYTES,
            max_payload_bytes: MAX_PAYLOAD_BYTES,
        }
    }
}

impl Limits {
    /// Holds a record against the limits.
    ///
    /// # Errors
    /// [`BoundsError`] with what was found and what is allowed.
    pub fn check(&self, record: &Record<'_>) -> Result<(), BoundsError> {
        let attrs = record.attrs().len();
        if attrs > self.max_attrs_bytes {
            return Err(BoundsError::AttrsTooLarge { bytes: attrs, limit: self.max_attrs_bytes });
        }
        let bytes = record.canonical().len();
        if bytes > self.max_record_bytes {
            return Err(BoundsError::RecordTooLarge { bytes, limit: self.max_record_bytes });
        }
        match record.payload() {
            Some(payload) if u64::from(payload.len()) > self.max_payload_bytes => {
                Err(BoundsError::PayloadTooLarge { bytes: u64::from(payload.len()), limit: self.max_payload_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// Refuses code points that Unicode 18.0.0 leaves unassigned (noncharacters among them): a later
/// version could give them another normal form. For intake only; records in the log are not asked.
///
/// # Errors
/// [`CanonError::NonCanonicalInput`] with the character.
pub fn check_assigned(record: &Record<'_>) -> Result<(), CanonError> {
    // The scanner has seen to it that the bytes are UTF-8; ASCII, the usual case, costs one pass.
    let Ok(text) = core::str::from_utf8(record.canonical()) else {
        return Err(CanonError::Utf8Nfc { place: Place { field: "record", offset: 0 } });
    };
    match first_unassigned(text) {
        None => Ok(()),
        Some((offset, c)) => Err(CanonError::NonCanonicalInput {
            place: Place { field: "record", offset },
            rule: format!("U+{:04X} is not assigned in Unicode 18.0.0", u32::from(c)).into(),
        }),
    }
}
