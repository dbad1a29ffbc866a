//! Timestamped cosignatures (C2SP tlog-cosignature, type 04: Ed25519).
//!
//! "As of this time, the largest consistent tree of this origin that I have seen has this root."
//!
//! | bytes of the signature after the key id | field |
//! |---|---|
//! | 0..8 | seconds since 1970, big-endian, at most 2^63 - 1 |
//! | 8..72 | Ed25519 over `cosignature/v1` LF `time <decimal>` LF and the text of the note |
//!
//! The message does not name the cosigner, so no two cosigners may share a public key. Lines of type 06
//! (ML-DSA-44) belong to keys that are unknown here, and are ignored as such.

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::key::{KeyKind, KeyName, SIGNATURE_BYTES, SignatureError, SigningKey, VerifierKey};
use crate::note::SignatureLine;
use crate::number::UnixSeconds;

/// The last time that a cosignature can carry.
pub const MAX_TIME: UnixSeconds = UnixSeconds::new(u64::MAX >> 1);

/// Length of the time in front of the Ed25519 signature, in bytes.
const TIME_BYTES: usize = 8;

/// Cosigns a checkpoint at a time.
///
/// The function keeps no memory: that a cosigner never signs inconsistent trees is its caller's duty.
///
/// # Errors
///
/// [`CosignError`] if the key is not of type 04 or the time is past [`MAX_TIME`].
pub fn cosign(
    checkpoint: &Checkpoint,
    key: &SigningKey,
    time: UnixSeconds,
) -> Result<SignatureLine, CosignError> {
    let verifier = key.verifier_key();
    if verifier.kind() != KeyKind::CosignatureEd25519 {
        return Err(CosignError::NotACosigner {
            name: verifier.name().clone(),
        });
    }
    if time > MAX_TIME {
        return Err(CosignError::TimeTooLate { time });
    }
    let signature = key.sign(&message(&checkpoint.to_string(), time));
    Ok(SignatureLine::by(
        verifier,
        [time.get().to_be_bytes().as_slice(), &signature].concat(),
    ))
}

/// Checks a cosignature (the bytes after the key id) over the text of a note and tells its time.
pub(crate) fn verify(
    text: &str,
    key: &VerifierKey,
    signature: &[u8],
) -> Result<UnixSeconds, SignatureError> {
    let length = SignatureError::Length {
        expected: TIME_BYTES + SIGNATURE_BYTES,
        found: signature.len(),
    };
    if signature.len() != TIME_BYTES + SIGNATURE_BYTES {
        return Err(length);
    }
    let (time, signature) = signature.split_first_chunk::<TIME_BYTES>().ok_or(length)?;
    let time = UnixSeconds::new(u64::from_be_bytes(*time));
    if time > MAX_TIME {
        return Err(SignatureError::TimeTooLate {
            seconds: time.get(),
        });
    }
    key.verify(&message(text, time), signature).map(|()| time)
}

/// What is signed.
fn message(text: &str, time: UnixSeconds) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

/// Why a key cannot cosign.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CosignError {
    /// The key is not of type 04.
    #[error("the key {name} is not a cosigner's: its type is not 04")]
    NotACosigner {
        /// The key's name.
        name: KeyName,
    },
    /// The time does not fit the format.
    #[error("the time {time} s is past 2^63 - 1")]
    TimeTooLate {
        /// The time.
        time: UnixSeconds,
    },
}

#[cfg(test)]
mod tests;
