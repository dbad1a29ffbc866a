//! The gRPC interface of a Stele log, package `stele.v1`: what client and server say to each other.
//!
//! `proto/stele/v1/stele.proto` is the reference: units, bounds, errors and what may be repeated stand there, and
//! here again as documentation of the generated types. The generated clients and servers work over any transport;
//! who uses this crate chooses one with the features of `tonic`.
//!
//! | module | what |
//! |---|---|
//! | [`v1`] | the generated types |
//! | [`refusal`] | a [`v1::Refusal`] as the trailer of a failed call, there and back |

pub mod refusal;

/// The types of package `stele.v1`, generated from `stele.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("stele.v1");
}

/// The encoded `FileDescriptorSet` of package `stele.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("stele_v1");

/// The largest message of this interface, in bytes, in either direction.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The most records in one message, in either direction.
pub const MAX_MESSAGE_RECORDS: usize = 8192;

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_request_names_its_log() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let file = set.file.iter().find(|file| file.package() == "stele.v1").unwrap();
        let mut requests = 0;
        for method in file.service.iter().flat_map(|service| &service.method) {
            let name = method.input_type().strip_prefix(".stele.v1.").unwrap();
            let message = file.message_type.iter().find(|message| message.name() == name).unwrap();
            let log = message.field.iter().find(|field| field.number() == 1).unwrap();
            assert_eq!(log.name(), "log", "the first field of {name}");
            requests += 1;
        }
        assert_eq!(requests, 14);
    }
}
