//! Where the servers are, what is waited for, and every bound.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use stele_api::{MAX_MESSAGE_BYTES, MAX_MESSAGE_RECORDS};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{FINISH_BYTES, MAX_PAYLOAD_BYTES, MAX_RECORD_BYTES};
use tonic::transport::Uri;

use crate::credentials::Token;
use crate::dial::{Dial, NetworkDial};
use crate::error::ConfigError;

/// The address of a server: `http://host:port` or `https://host:port`, and nothing behind it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address(String);

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`ConfigError::Address`] where it is anything else.
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        let uri: Option<Uri> = text.parse().ok();
        let fits = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.port_u16().is_some()
                && uri.path() == "/"
                && uri.query().is_none()
                && !text.ends_with('/')
        });
        if fits { Ok(Self(text.to_owned())) } else { Err(ConfigError::Address { text: text.to_owned() }) }
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether connections to it are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Whether nobody between here and there can read what is sent.
    pub fn is_private(&self) -> bool {
        let uri: Option<Uri> = self.0.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.parse::<core::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        self.is_encrypted() || loopback || host == "localhost"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long what is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// To make a connection.
    pub connect: Duration,
    /// For one call, all attempts together.
    pub call: Duration,
    /// For one record, from `push` to its answer, all attempts together.
    pub append: Duration,
    /// For the oldest record on a connection, before the connection is given up; when a range is read, for each message.
    pub answer: Duration,
}

/// What waits between attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    /// Before the second attempt; doubled each time.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

/// What an appender holds, sent or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// Records.
    pub records: u32,
    /// Bytes of records and payloads.
    pub bytes: u32,
}

/// What goes into one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Records.
    pub records: usize,
    /// Bytes of records and payloads; one record may be larger and then goes alone.
    pub bytes: usize,
}

/// The most bytes that one record brings with it: finished record, salt, payload and framing.
pub const MAX_SUBMISSION_BYTES: u64 = (MAX_RECORD_BYTES + FINISH_BYTES + 64) as u64 + MAX_PAYLOAD_BYTES;

/// Everything a client needs to know.
#[derive(Clone)]
pub struct ClientConfig {
    /// The log.
    pub log: Origin,
    /// Servers to begin with, any of the cluster, at least one. Where one of them is encrypted, so must be every
    /// leader that a server names.
    pub endpoints: Vec<Address>,
    /// How long what is waited for.
    pub timeouts: Timeouts,
    /// What waits between attempts.
    pub retry: Retry,
    /// What an appender holds.
    pub in_flight: InFlight,
    /// What goes into one message.
    pub batch: Batch,
    /// What chance is drawn from: the waits between attempts, nothing secret. One value, one order of waits.
    pub jitter_seed: u64,
    /// What the client shows with each call, where the servers ask for it. Then every address is `https`, or on this
    /// machine.
    pub token: Option<Token>,
    /// How connections are made.
    pub dial: Arc<dyn Dial>,
}

impl ClientConfig {
    /// The defaults, without TLS keys: `https` addresses are then refused when they are dialled.
    ///
    /// # Errors
    /// [`ConfigError::Randomness`] where the system gives none for the jitter.
    pub fn new(log: Origin, endpoints: Vec<Address>) -> Result<Self, ConfigError> {
        let connect = Duration::from_secs(5);
        Ok(Self {
            log,
            endpoints,
            timeouts: Timeouts {
                connect,
                call: Duration::from_secs(20),
                append: Duration::from_secs(60),
                answer: Duration::from_secs(15),
            },
            // A leader is elected within a second or two: whoever waits longer than this between attempts doubles that.
            retry: Retry { base: Duration::from_millis(20), cap: Duration::from_millis(250) },
            in_flight: InFlight { records: 16_384, bytes: 64 << 20 },
            batch: Batch { records: 1024, bytes: 1 << 20 },
            jitter_seed: getrandom::u64().map_err(|error| ConfigError::Randomness { what: error.to_string() })?,
            token: None,
            dial: Arc::new(NetworkDial::new(connect)),
        })
    }

    /// Checks every bound.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            (!self.endpoints.is_empty(), "there is no endpoint"),
            ((1..=MAX_MESSAGE_RECORDS).contains(&self.batch.records), "batch.records is not 1 to 8192"),
            ((1..=MAX_MESSAGE_BYTES / 2).contains(&self.batch.bytes), "batch.bytes is not 1 to 2 MiB"),
            (self.in_flight.records >= 1, "in_flight.records is 0"),
            (
                u64::from(self.in_flight.bytes) >= MAX_SUBMISSION_BYTES,
                "in_flight.bytes does not hold one record of the largest size",
            ),
            (
                self.token.is_none() || self.endpoints.iter().all(Address::is_private),
                "a token is sent to https addresses and to this machine only",
            ),
            (!self.retry.base.is_zero() && self.retry.base <= self.retry.cap, "retry.base is not within 0 and cap"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(ConfigError::Bound { rule }),
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("log", &self.log)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
