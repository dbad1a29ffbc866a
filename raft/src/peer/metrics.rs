//! What the peer network counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection never came to its first request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refused {
    /// As many are connected as may be.
    Full,
    /// No TLS, or no certificate that the roots vouch for.
    Tls,
    /// The first frame is no hello, or there is none.
    Garbage,
    /// The handshake took too long.
    Late,
    /// A peer of another version.
    Version,
    /// A class that is not served.
    Class,
    /// A node of another cluster.
    Cluster,
    /// A node that meant another.
    Node,
    /// The certificate is not that of the node in the hello.
    Certificate,
    /// More is remembered of the node than it shows; met either way.
    Stale,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Full,
        Self::Tls,
        Self::Garbage,
        Self::Late,
        Self::Version,
        Self::Class,
        Self::Cluster,
        Self::Node,
        Self::Certificate,
        Self::Stale,
    ];
}

/// Counters of one node's peer network, of what it serves and of what it asks for. They only grow, but
/// [`PeerMetrics::connections`].
#[derive(Debug, Default)]
pub struct PeerMetrics {
    connections: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    rpc_errors: AtomicU64,
    broken: AtomicU64,
}

impl PeerMetrics {
    /// Connections that are being served now, in the handshake or behind it.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections refused for this reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Bytes of frames received.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes of frames sent.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Requests to peers that failed: no connection, no answer, or a bad one.
    pub fn rpc_errors(&self) -> u64 {
        self.rpc_errors.load(Ordering::Relaxed)
    }

    /// Served connections that ended otherwise than by the peer's closing them between two frames.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }

    /// Everything that went wrong, with its name, where there was any.
    pub fn troubles(&self) -> Vec<(String, u64)> {
        let refused = Refused::ALL.iter().map(|reason| (format!("PEER_{reason:?}"), self.refused(*reason)));
        let others = [("PEER_CONNECTIONS_BROKEN", self.broken()), ("PEER_CALLS_FAILED", self.rpc_errors())];
        let others = others.map(|(name, count)| (name.to_owned(), count));
        refused.chain(others).filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, reason: Refused) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_rpc_error(&self) {
        self.rpc_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_broken(&self) {
        self.broken.fetch_add(1, Ordering::Relaxed);
    }
}
