//! The configuration of a node, as `steled` reads it.

use std::path::Path;

use toml::{Table, Value};

/// A node of a cluster that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number.
    pub node: u64,
    /// Its site.
    pub site: String,
    /// Where peers reach it: `host:port`.
    pub peer: String,
    /// Where clients reach it: `host:port`.
    pub client: String,
    /// Its log key and its cosigner key.
    pub keys: [String; 2],
}

/// How bytes are protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security<'a> {
    /// Not at all: loopback only.
    None,
    /// By certificates in this directory, named as `stele dev-certs` names them.
    Certificates(&'a Path, Clients),
}

/// Which clients may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clients {
    /// Those that show a certificate of the authority that the nodes have theirs from.
    Certified,
    /// Whoever reaches the port.
    Anyone,
}

/// What a node joins.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// Nodes that give segments, and where peers reach them: `NODE=HOST:PORT`.
    pub peers: &'a [String],
    /// The id of the cluster.
    pub cluster: &'a str,
    /// Most bytes a second, with a unit.
    pub rate: Option<&'a str>,
    /// A policy from outside.
    pub policy: Option<&'a Path>,
    /// Leaves of a block, as a power of two.
    pub block_height: u32,
    /// What frames are padded to.
    pub frame_align: u32,
}

/// The configuration of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig<'a> {
    /// The log's directory.
    pub data_dir: &'a Path,
    /// Its number.
    pub node: u64,
    /// Its site.
    pub site: &'a str,
    /// The log.
    pub origin: &'a str,
    /// Tells clusters apart that begin.
    pub token: &'a str,
    /// Where it waits for peers.
    pub listen_peer: &'a str,
    /// Where it waits for clients.
    pub listen_client: &'a str,
    /// How bytes are protected.
    pub security: Security<'a>,
    /// Lines that are added, all of them top-level.
    pub extra: &'a str,
    /// All nodes; none for one that joins.
    pub members: &'a [Member],
    /// What it joins.
    pub joined: Option<Joined<'a>>,
    /// The tables `[[access]]`; none where whoever can connect may do everything.
    pub access: &'a [Value],
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

impl NodeConfig<'_> {
    /// The file.
    pub fn to_toml(&self) -> String {
        let number = |node: u64| Value::Integer(i64::try_from(node).unwrap_or(i64::MAX));
        let mut table = Table::new();
        let mut set = |key: &str, value: Value| drop(table.insert(key.to_owned(), value));
        set("data_dir", text(self.data_dir.to_string_lossy()));
        set("node", number(self.node));
        set("site", text(self.site));
        let mut log = Table::from_iter([("origin".to_owned(), text(self.origin))]);
        match &self.joined {
            None => set("cluster_token", text(self.token)),
            Some(joined) => {
                log.insert("block_height".to_owned(), Value::Integer(joined.block_height.into()));
                log.insert("frame_align".to_owned(), Value::Integer(joined.frame_align.into()));
                set("join", Value::Table(join(joined)));
            }
        }
        set("log", Value::Table(log));
        let listen = [("peer".to_owned(), text(self.listen_peer)), ("client".to_owned(), text(self.listen_client))];
        set("listen", Value::Table(Table::from_iter(listen)));
        match self.security {
            Security::None => {
                set("insecure_peers", Value::Boolean(true));
                set("insecure_clients", Value::Boolean(true));
            }
            Security::Certificates(directory, clients) => {
                let file = |name: String| text(directory.join(name).to_string_lossy());
                let files = |ca: Option<&str>| {
                    let pair = [
                        ("cert".to_owned(), file(format!("node-{}.pem", self.node))),
                        ("key".to_owned(), file(format!("node-{}-key.pem", self.node))),
                    ];
                    let ca = ca.map(|name| ("ca".to_owned(), file(name.to_owned())));
                    Value::Table(pair.into_iter().chain(ca).collect())
                };
                set("peer_tls", files(Some("ca.pem")));
                set("client_tls", files((clients == Clients::Certified).then_some("ca.pem")));
            }
        }
        if !self.members.is_empty() {
            set("initial_cluster", Value::Array(self.members.iter().map(member).collect()));
        }
        if !self.access.is_empty() {
            set("access", Value::Array(self.access.to_vec()));
        }
        // Before the first table, where keys belong to the file as a whole.
        format!("{}{table}", self.extra)
    }
}

fn join(joined: &Joined<'_>) -> Table {
    let peers = Value::Array(joined.peers.iter().map(text).collect());
    let mut table = Table::from_iter([("peers".to_owned(), peers), ("cluster".to_owned(), text(joined.cluster))]);
    if let Some(rate) = joined.rate {
        table.insert("rate".to_owned(), text(rate));
    }
    if let Some(policy) = joined.policy {
        table.insert("policy".to_owned(), text(policy.to_string_lossy()));
    }
    table
}

fn member(member: &Member) -> Value {
    let fields = [
        ("node".to_owned(), Value::Integer(i64::try_from(member.node).unwrap_or(i64::MAX))),
        ("site".to_owned(), text(&member.site)),
        ("peer".to_owned(), text(&member.peer)),
        ("client".to_owned(), text(&member.client)),
        ("keys".to_owned(), Value::Array(member.keys.iter().map(text).collect())),
    ];
    Value::Table(Table::from_iter(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_stays_at_the_top_and_the_whole_is_toml() {
        let keys = ["log+key".to_owned(), "co\"signer".to_owned()];
        let members = [Member { node: 1, site: "a".into(), peer: "p:1".into(), client: "c:1".into(), keys }];
        let access = [Value::Table("roles = ['reader']".parse().unwrap())];
        for (clients, ca) in [(Clients::Anyone, None), (Clients::Certified, Some("/certs/ca.pem"))] {
            let config = NodeConfig {
                data_dir: Path::new("/d"),
                node: 1,
                site: "a",
                origin: "example.com/log",
                token: "t",
                listen_peer: "p:1",
                listen_client: "c:1",
                security: Security::Certificates(Path::new("/certs"), clients),
                extra: "seal.after = \"3s\"\n",
                members: &members,
                joined: None,
                access: &access,
            };
            let table: Table = config.to_toml().parse().unwrap();
            assert_eq!(table["seal"]["after"].as_str(), Some("3s"));
            assert_eq!(table["initial_cluster"][0]["keys"][1].as_str(), Some("co\"signer"));
            assert_eq!(table["access"].as_array().unwrap()[..], access);
            assert_eq!(table["peer_tls"]["ca"].as_str(), Some("/certs/ca.pem"));
            assert_eq!(table["client_tls"].get("ca").and_then(Value::as_str), ca);
        }
    }
}
