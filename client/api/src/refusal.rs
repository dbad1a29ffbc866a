//! A [`Refusal`] as the trailer of a failed call.
//!
//! Records of an append are refused inside the answer. A call that fails as a whole ends with a gRPC status; where a
//! refusal says more than the status does (who leads, say), it travels in the trailer [`TRAILER`].

use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::v1::{Refusal, RefusalCode};

/// The metadata key of the encoded [`Refusal`].
pub const TRAILER: &str = "stele-refusal-bin";

/// The status that a call which is refused as a whole ends with; the refusal is its trailer.
pub fn to_status(refusal: &Refusal) -> Status {
    let mut status = Status::new(code(refusal.code()), refusal.text.clone());
    let value = MetadataValue::from_bytes(&refusal.encode_to_vec());
    status.metadata_mut().insert_bin(TRAILER, value);
    status
}

/// The refusal that a status carries, if it carries one that can be read.
pub fn from_status(status: &Status) -> Option<Refusal> {
    let bytes = status.metadata().get_bin(TRAILER)?.to_bytes().ok()?;
    Refusal::decode(bytes).ok()
}

/// The status code of a call that ends with this refusal.
pub const fn code(code: RefusalCode) -> Code {
    match code {
        RefusalCode::Unspecified => Code::Unknown,
        RefusalCode::Schema | RefusalCode::SizeExceeded | RefusalCode::HashMismatch | RefusalCode::Payload => {
            Code::InvalidArgument
        }
        RefusalCode::Tamper | RefusalCode::LinkMismatch | RefusalCode::SeqGap => Code::FailedPrecondition,
        RefusalCode::Reserved | RefusalCode::Forbidden => Code::PermissionDenied,
        RefusalCode::TooManyChains | RefusalCode::Busy => Code::ResourceExhausted,
        RefusalCode::Unavailable | RefusalCode::NotLeader => Code::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Leader;

    #[test]
    fn a_refusal_survives_the_way_through_a_status() {
        let leader = Leader { node: 7, address: "https://[::1]:7070".into() };
        let refusal = Refusal {
            code: RefusalCode::NotLeader.into(),
            text: "node 7 leads".into(),
            leader: Some(leader),
            ..Refusal::default()
        };
        let status = to_status(&refusal);
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "node 7 leads"));
        assert_eq!(from_status(&status), Some(refusal));
        assert_eq!(from_status(&Status::unavailable("node 7 leads")), None);
    }
}
