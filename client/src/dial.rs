//! How a connection is made: the seam for tests and other transports.

use core::time::Duration;

use futures_util::future::BoxFuture;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::config::Address;

/// Why no connection was made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("no connection to {address}: {reason}")]
pub struct DialError {
    /// Where to.
    pub address: Address,
    /// What went wrong, with its causes.
    pub reason: String,
}

/// Makes connections.
///
/// The future ends within a time of its own choice; it may be dropped before. A channel that it returns may connect
/// itself again after it broke. Calls for the same address are independent of each other.
pub trait Dial: Send + Sync + 'static {
    /// Connects to an address.
    ///
    /// # Errors
    /// [`DialError`]; the caller tries again, or elsewhere.
    fn dial(&self, address: &Address) -> BoxFuture<'static, Result<Channel, DialError>>;
}

/// A connection that owes something and has been silent for so long is probed.
///
/// A process that was stopped, and a machine that is gone, say nothing at all, so that only the time for an answer would
/// end the wait. A server that is merely slow answers a probe: that takes no disk and no peer.
const PROBE: Duration = Duration::from_secs(1);
/// A connection whose probe is not answered for so long is given up. On a thin line the probe may wait behind a record
/// (1 MiB takes 3 s at 2.8 Mbit/s), for which an appender then makes its messages smaller; a longer time would be added
/// to what a leader that was stopped costs.
const PROBE_ANSWER: Duration = Duration::from_secs(2);

/// Connections over TCP, with TLS where the address says so.
#[derive(Clone, Debug)]
pub struct NetworkDial {
    connect: Duration,
    #[cfg(feature = "tls")]
    tls: Option<tonic::transport::ClientTlsConfig>,
}

impl NetworkDial {
    /// Without TLS: `https` addresses are refused.
    pub const fn new(connect: Duration) -> Self {
        Self {
            connect,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// With the certificates of authorities to believe and, for mutual TLS, the client's own.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: tonic::transport::ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from_shared(address.as_str().to_owned()).map_err(|error| with_causes(&error))?;
        let endpoint = endpoint
            .connect_timeout(self.connect)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE_ANSWER)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        #[cfg(feature = "tls")]
        if let (true, Some(tls)) = (address.is_encrypted(), &self.tls) {
            return endpoint.tls_config(tls.clone()).map_err(|error| with_causes(&error));
        }
        if address.is_encrypted() { Err("TLS is not configured".into()) } else { Ok(endpoint) }
    }
}

impl Dial for NetworkDial {
    fn dial(&self, address: &Address) -> BoxFuture<'static, Result<Channel, DialError>> {
        let (endpoint, address) = (self.endpoint(address), address.clone());
        Box::pin(async move {
            let failed = |reason| DialError { address: address.clone(), reason };
            let endpoint = endpoint.map_err(failed)?;
            endpoint.connect().await.map_err(|error| failed(with_causes(&error)))
        })
    }
}

/// An error in one line, with its causes.
fn with_causes(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
