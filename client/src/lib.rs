//! The thin client of a Stele log: append, read, prove, follow checkpoints, operate a cluster.
//!
//! It believes a server nothing that it can check: receipts must carry the hash of the record that was sent, records
//! must be canonical and open their payloads' commitments, proofs and checkpoints must meet the caller's policy. An
//! answer that does not verify is an error of its own ([`Violation`]), never a record.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | where the servers are, what is waited for, and every bound |
//! | [`client`] | [`Client`]: calls with one answer |
//! | [`appender`] | [`Appender`]: many appends in flight, in order per chain, each acknowledged once |
//! | [`chain_writer`] | [`ChainWriter`]: builds the records of one chain, and resumes it |
//! | [`credentials`] | the token that a client shows |
//! | [`reader`] | [`Reader`]: records in order, checked before they are handed out |
//! | [`cluster`] | [`Cluster`]: what operators do |
//! | [`record`] | finished records, payloads and receipts |
//! | [`dial`] | how a connection is made: the seam for tests and other transports |
//! | [`error`] | what can go wrong, by who is to blame |
//!
//! # Bounds
//!
//! | what | bound |
//! |---|---|
//! | records and bytes that an [`Appender`] holds, sent or not | [`config::InFlight`]: 16,384 and 64 MiB; `push` waits beyond |
//! | records and bytes of a message | [`config::Batch`]: 1,024 and 1 MiB (one record may be larger) |
//! | time of one record, all attempts together | [`config::Timeouts::append`] |
//! | time of one call, all attempts together | [`config::Timeouts::call`] |
//! | records that a [`Reader`] holds back until they are proved | 4,096, or 4 MiB and one record |
//! | a message from a server | [`stele_api::MAX_MESSAGE_BYTES`] |
//! | wait between attempts | [`config::Retry`]: doubled up to a cap, the upper half of it by chance |
//! | connections kept | the configured endpoints, and at most 16 leaders that they named |

pub mod appender;
mod backoff;
mod book;
pub mod chain_writer;
pub mod client;
pub mod cluster;
pub mod config;
pub mod credentials;
pub mod dial;
mod draft;
pub mod error;
pub mod reader;
pub mod record;
mod router;

pub use appender::{Ack, Appender, AppenderOptions, DraftRetry, Pending};
pub use chain_writer::{ChainHead, ChainWriter, Event};
pub use client::{Client, SignedCheckpoint};
pub use cluster::Cluster;
pub use config::{Address, ClientConfig};
pub use credentials::Token;
pub use error::{AppendError, CallError, ConfigError, InvalidRecord, Refused, Violation};
pub use reader::{Assurance, PayloadState, ReadRange, Reader, VerifiedRecord};
pub use record::{FinishedRecord, Payload, Reached, Receipt};
pub use stele_api::v1::Draft;
