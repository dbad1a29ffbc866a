//! The keys of the configuration: one table for file, environment, flags, help and checks.

/// What a key's value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A path.
    Path,
    /// A text with a rule of its own.
    Text,
    /// A whole number.
    Number,
    /// A time with its unit.
    Duration,
    /// A number of bytes, with or without a unit.
    Bytes,
    /// `true` or `false`.
    Switch,
    /// An array of texts, or one text with commas.
    List,
    /// An array of tables.
    Cluster,
}

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Its name in the file, dots between tables.
    pub name: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// What holds where nobody says anything.
    pub default: Option<&'static str>,
    /// One line for `--help`.
    pub help: &'static str,
}

impl Key {
    /// The name of its environment variable.
    pub fn variable(&self) -> String {
        format!("STELE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The key of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}

const fn key(
    name: &'static str,
    flag: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Key {
    Key { name, flag, kind, default, help }
}

/// All keys.
pub const KEYS: [Key; 38] = [
    key("data_dir", "data-dir", Kind::Path, None, "the log's directory at this node"),
    key("node", "node", Kind::Number, None, "the number of this node, never used twice"),
    key("site", "site", Kind::Text, None, "the site (failure domain) of this node"),
    key("log.origin", "log-origin", Kind::Text, None, "the name of the log, in every checkpoint"),
    key("log.block_height", "log-block-height", Kind::Number, Some("16"), "a block has 2^N leaves, for ever: 8 to 20"),
    key(
        "log.frame_align",
        "log-frame-align",
        Kind::Number,
        Some("4096"),
        "what frames are padded to, for ever: 4096 or 8",
    ),
    key("initial_cluster", "initial-cluster", Kind::Cluster, None, "the nodes a new log begins with, the same at each"),
    key("cluster_token", "cluster-token", Kind::Text, None, "tells clusters with the same nodes apart"),
    key(
        "join.peers",
        "join-peers",
        Kind::List,
        None,
        "nodes of a cluster, as NODE=HOST:PORT, from which a new node takes its copy",
    ),
    key(
        "join.cluster",
        "join-cluster",
        Kind::Text,
        None,
        "the id of that cluster, as `stele cluster status` prints it",
    ),
    key("join.rate", "join-rate", Kind::Bytes, Some("64MiB"), "most bytes a second that are copied, from all together"),
    key(
        "join.policy",
        "join-policy",
        Kind::Path,
        None,
        "what signatures the copy must meet, if not the genesis record's",
    ),
    key("listen.peer", "listen-peer", Kind::Text, Some("127.0.0.1:7071"), "where other nodes are awaited"),
    key("listen.client", "listen-client", Kind::Text, Some("127.0.0.1:7070"), "where clients are awaited"),
    key("peer_tls.cert", "peer-tls-cert", Kind::Path, None, "this node's certificate for peers, PEM"),
    key("peer_tls.key", "peer-tls-key", Kind::Path, None, "its private key, PEM"),
    key("peer_tls.ca", "peer-tls-ca", Kind::Path, None, "the roots that vouch for peers, PEM"),
    key(
        "insecure_peers",
        "insecure-peers",
        Kind::Switch,
        Some("false"),
        "no TLS between nodes; loopback addresses only",
    ),
    key("client_tls.cert", "client-tls-cert", Kind::Path, None, "this node's certificate for clients, PEM"),
    key("client_tls.key", "client-tls-key", Kind::Path, None, "its private key, PEM"),
    key("client_tls.ca", "client-tls-ca", Kind::Path, None, "roots; clients must then show a certificate"),
    key(
        "insecure_clients",
        "insecure-clients",
        Kind::Switch,
        Some("false"),
        "no TLS to clients; loopback addresses only",
    ),
    key("access", "access", Kind::Cluster, None, "who may do what; without it everybody may do everything"),
    key("seal.after", "seal-after", Kind::Duration, Some("1h"), "an open segment that is older is ended"),
    key("seal.bytes", "seal-bytes", Kind::Bytes, Some("256MiB"), "an open segment that is larger is ended"),
    key(
        "raft.heartbeat",
        "raft-heartbeat",
        Kind::Duration,
        Some("150ms"),
        "how often the leader says that it is there",
    ),
    key(
        "raft.election_min",
        "raft-election-min",
        Kind::Duration,
        Some("400ms"),
        "the shortest silence before an election",
    ),
    key(
        "raft.election_max",
        "raft-election-max",
        Kind::Duration,
        Some("700ms"),
        "the longest silence before an election",
    ),
    key("limits.message_bytes", "limits-message-bytes", Kind::Bytes, Some("4MiB"), "the largest message of a client"),
    key("limits.streams", "limits-streams", Kind::Number, Some("256"), "calls at once on one connection"),
    key("limits.connections", "limits-connections", Kind::Number, Some("1024"), "connections of clients at once"),
    key("limits.request_timeout", "limits-request-timeout", Kind::Duration, Some("10s"), "how long one call may take"),
    key("limits.readers", "limits-readers", Kind::Number, Some("2"), "threads that read records and proofs"),
    key("limits.drain", "limits-drain", Kind::Duration, Some("5s"), "how long a stop waits for calls under way"),
    key(
        "limits.remembered",
        "limits-remembered",
        Kind::Number,
        Some("65536"),
        "identities that a leader remembers; older ones are looked up in the log",
    ),
    key(
        "proof.timeout",
        "proof-timeout",
        Kind::Duration,
        Some("2s"),
        "how long signatures of a quorum of sites are waited for",
    ),
    key("log_format", "log-format", Kind::Text, Some("text"), "text or json, on standard error"),
    key("log_level", "log-level", Kind::Text, Some("info"), "error, warn, info, debug or trace"),
];
