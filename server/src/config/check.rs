//! From texts to a configuration. Nothing stops at the first mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use stele_api::MAX_MESSAGE_BYTES;
use stele_engine::chains::WINDOW;
use stele_engine::number::{Alignment, BlockHeight, NodeId, SiteName};
use stele_proof::checkpoint::Origin;
use stele_proof::key::{KeyKind, VerifierKey};
use stele_raft::peer::ClusterId;
use stele_raft::sites::{Topology, check_voters};
use toml::{Table, Value};

use super::access;
use super::gather::{Gathered, Given};
use super::keys::{Key, Kind};
use super::mistake::{Mistake, Mistakes, nearest};
use super::{
    Config, InitialCluster, Join, Limits, Listen, LogConfig, LogFormat, Member, RaftTimes, Seal, Security, TlsPaths,
};
use crate::access::Access;

/// What is wrong with a value, and what to do.
pub(super) type Wrong = (String, String);

const MIB: u64 = 1 << 20;
/// Keys of a node of the initial cluster.
const MEMBER_KEYS: [&str; 5] = ["node", "site", "peer", "client", "keys"];
/// Largest cluster that a new log may begin with: the genesis record takes as many log keys.
const MAX_MEMBERS: usize = 16;

pub(super) fn wrong(what: impl Display, remedy: impl Display) -> Wrong {
    (what.to_string(), remedy.to_string())
}

struct Checker {
    values: BTreeMap<&'static str, Given>,
    mistakes: Vec<Mistake>,
}

pub(super) fn check(gathered: Gathered) -> Result<Config, Mistakes> {
    let mut checker = Checker { values: gathered.values, mistakes: gathered.mistakes };
    let config = checker.config();
    match config {
        Some(config) if checker.mistakes.is_empty() => Ok(config),
        _ => Err(Mistakes(checker.mistakes)),
    }
}

pub(super) fn check_for_keys(gathered: Gathered) -> Result<(PathBuf, NodeId, SiteName, Origin), Mistakes> {
    let mut checker = Checker { values: gathered.values, mistakes: Vec::new() };
    let found = (
        checker.required("data_dir", path),
        checker.required("node", node),
        checker.required("site", site),
        checker.required("log.origin", origin),
    );
    match found {
        (Some(data_dir), Some(node), Some(site), Some(origin)) => Ok((data_dir, node, site, origin)),
        _ => Err(Mistakes(checker.mistakes)),
    }
}

impl Checker {
    fn mistake(&mut self, key: &str, (what, remedy): Wrong) {
        let source = self.values.get(key).map(|given| given.source.clone());
        self.mistakes.push(Mistake { key: key.to_owned(), source, what, remedy });
    }

    /// The value of a key, where there is one that can be used.
    fn take<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        let given = self.values.get(name)?;
        let parsed = text_of(name, &given.value).and_then(|text| parse(&text));
        parsed.map_err(|wrong| self.mistake(name, wrong)).ok()
    }

    fn required<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
        if !self.values.contains_key(name) {
            let variable = Key::named(name).map(Key::variable).unwrap_or_default();
            self.mistake(name, wrong("it is missing", format!("set it in the file, or as {variable}")));
        }
        self.take(name, parse)
    }

    fn config(&mut self) -> Option<Config> {
        let data_dir = self.required("data_dir", path);
        let (node, site) = (self.take("node", node), self.take("site", site));
        let origin = self.take("log.origin", origin);
        let block_height = self.take("log.block_height", |text| {
            let height = text.parse().ok().and_then(BlockHeight::new);
            height.ok_or_else(|| wrong(format!("`{text}` is no block height"), "give a number from 8 to 20"))
        });
        let frame_align = self.take("log.frame_align", |text| {
            let bytes = text.parse().ok().and_then(Alignment::new);
            bytes.ok_or_else(|| wrong(format!("`{text}` is no alignment"), "give 4096 or 8"))
        });
        let listen_peer = self.take("listen.peer", address);
        let listen_client = self.take("listen.client", address);
        let peers = self.security("peer_tls", "insecure_peers", listen_peer.as_deref());
        let clients = self.security("client_tls", "insecure_clients", listen_client.as_deref());
        let cluster = self.cluster(origin.as_ref(), clients.as_ref());
        self.agreement(cluster.as_ref(), node, site.as_ref(), peers.as_ref());
        let access = self.access(clients.as_ref());
        let join = self.join(peers.as_ref());
        let seal = (
            self.take("seal.after", |text| duration(text, (Duration::from_secs(1), Duration::from_secs(366 * 86_400)))),
            self.take("seal.bytes", |text| bytes(text, (MIB, 1 << 40))),
        );
        let raft = self.raft();
        let limits = self.limits();
        let proof_timeout = self.proof_timeout(limits.as_ref());
        let log_format = self.take("log_format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(wrong(format!("`{other}` is no format"), "give `text` or `json`")),
        });
        let log_level = self.take("log_level", |text| {
            let level = text.parse::<tracing::Level>().ok().filter(|_level| text.parse::<u8>().is_err());
            level.ok_or_else(|| wrong(format!("`{text}` is no level"), "give error, warn, info, debug or trace"))
        });
        Some(Config {
            data_dir: data_dir?,
            node,
            site,
            log: LogConfig { origin, block_height: block_height?, frame_align: frame_align? },
            cluster,
            join,
            listen: Listen { peer: listen_peer?, client: listen_client? },
            peers: peers?,
            clients: clients?,
            access: access?,
            seal: Seal { after: seal.0?, bytes: seal.1? },
            raft: raft?,
            limits: limits?,
            proof_timeout: proof_timeout?,
            log_format: log_format?,
            log_level: log_level?,
        })
    }

    fn access(&mut self, clients: Option<&Security>) -> Option<Access> {
        let Some(given) = self.values.get("access") else { return Some(Access::Open) };
        let source = given.source.clone();
        match access::access(&given.value, clients) {
            Ok(access) => Some(access),
            Err(mistakes) => {
                self.mistakes.extend(mistakes.into_iter().map(|(key, (what, remedy))| Mistake {
                    key,
                    source: Some(source.clone()),
                    what,
                    remedy,
                }));
                None
            }
        }
    }

    /// What a new node joins, where it is said.
    fn join(&mut self, security: Option<&Security>) -> Option<Join> {
        let rate = self.take("join.rate", |text| bytes(text, (64 << 10, 1 << 40)));
        let policy = self.take("join.policy", path);
        let peers = self.take("join.peers", join_peers);
        let cluster = self.take("join.cluster", |text| {
            let id = stele_proof::tree::Hash::from_hex(text).map(|hash| ClusterId::new(*hash.as_bytes()));
            id.ok_or_else(|| {
                wrong(format!("`{text}` is no cluster id"), "give the 64 digits that `stele cluster status` prints")
            })
        });
        let there = |name: &str| self.values.contains_key(name);
        let given = ["join.peers", "join.cluster"].map(there);
        if given == [false; 2] {
            return None;
        }
        let needed: [(&'static str, &str); 5] = [
            ("join.peers", "name nodes of the cluster, say [\"1=a.example.com:7071\"]"),
            ("join.cluster", "`stele cluster status` prints the id of the cluster"),
            ("node", "give the number under which the cluster knows this node"),
            ("site", "give the site under which the cluster knows this node"),
            ("log.origin", "give the name of the log"),
        ];
        let missing: Vec<_> = needed.into_iter().filter(|(name, _)| !there(name)).collect();
        for (name, remedy) in missing {
            self.mistake(name, wrong("it is missing, and this node is to join a cluster", remedy));
        }
        if self.values.contains_key("initial_cluster") {
            let what = "initial_cluster is given, too: a cluster that begins is not one that is joined";
            self.mistake("join.peers", wrong(what, "remove one of the two"));
        }
        if let (Some(Security::None), Some(peers)) = (security, &peers) {
            for (node, address) in peers.iter().filter(|(_, address)| !is_loopback(address)) {
                let what = format!("without TLS, node {node} at {address} could be anybody");
                self.mistake("insecure_peers", wrong(what, "give [peer_tls]"));
            }
        }
        Some(Join { peers: peers?, cluster: cluster?, rate: rate?, policy })
    }

    fn raft(&mut self) -> Option<RaftTimes> {
        let bounds = (Duration::from_millis(10), Duration::from_secs(60));
        let heartbeat = self.take("raft.heartbeat", |text| duration(text, bounds));
        let election_min = self.take("raft.election_min", |text| duration(text, bounds));
        let election_max = self.take("raft.election_max", |text| duration(text, bounds));
        let times = RaftTimes { heartbeat: heartbeat?, election_min: election_min?, election_max: election_max? };
        if times.election_min < times.heartbeat * 2 {
            let what =
                format!("{text} is less than two heartbeats", text = humantime::format_duration(times.election_min));
            self.mistake("raft.election_min", wrong(what, "give more, or make raft.heartbeat shorter"));
        }
        if times.election_max <= times.election_min {
            let what = "it is not above raft.election_min, so that elections would collide";
            self.mistake("raft.election_max", wrong(what, "give more"));
        }
        Some(times)
    }

    fn limits(&mut self) -> Option<Limits> {
        let seconds = Duration::from_secs;
        let message_bytes = self.take("limits.message_bytes", |text| bytes(text, (64 << 10, MAX_MESSAGE_BYTES as u64)));
        let streams = self.take("limits.streams", |text| number(text, (1, 65_536)));
        let connections = self.take("limits.connections", |text| number(text, (1, 65_536)));
        let request_timeout =
            self.take("limits.request_timeout", |text| duration(text, (Duration::from_millis(100), seconds(600))));
        let readers = self.take("limits.readers", |text| number(text, (1, 64)));
        let drain = self.take("limits.drain", |text| duration(text, (Duration::from_millis(100), seconds(60))));
        let remembered = self.take("limits.remembered", |text| number(text, (1, WINDOW as u64)));
        Some(Limits {
            message_bytes: usize::try_from(message_bytes?).ok()?,
            streams: u32::try_from(streams?).ok()?,
            connections: usize::try_from(connections?).ok()?,
            request_timeout: request_timeout?,
            readers: usize::try_from(readers?).ok()?,
            drain: drain?,
            remembered: usize::try_from(remembered?).ok()?,
        })
    }

    fn proof_timeout(&mut self, limits: Option<&Limits>) -> Option<Duration> {
        let bounds = (Duration::from_millis(10), Duration::from_secs(60));
        let timeout = self.take("proof.timeout", |text| duration(text, bounds))?;
        if limits.is_some_and(|limits| timeout >= limits.request_timeout) {
            let what = format!("{} is no less than limits.request_timeout", humantime::format_duration(timeout));
            self.mistake("proof.timeout", wrong(what, "give less, or make limits.request_timeout longer"));
        }
        Some(timeout)
    }

    /// TLS, or the word that there shall be none.
    fn security(&mut self, tls: &str, insecure: &'static str, listen: Option<&str>) -> Option<Security> {
        let names: [&'static str; 3] = match tls {
            "peer_tls" => ["peer_tls.cert", "peer_tls.key", "peer_tls.ca"],
            _ => ["client_tls.cert", "client_tls.key", "client_tls.ca"],
        };
        let plain = self.take(insecure, switch)?;
        let [cert, key, ca] = names.map(|name| self.take(name, path));
        let given = names.map(|name| self.values.contains_key(name));
        if plain {
            if given.contains(&true) {
                self.mistake(insecure, wrong(format!("[{tls}] is given, too"), "remove one of the two"));
            }
            if let Some(listen) = listen.filter(|listen| !is_loopback(listen)) {
                let what = format!("without TLS, {listen} would be open to whoever reaches it");
                self.mistake(insecure, wrong(what, format!("listen on 127.0.0.1 or [::1], or give [{tls}]")));
            }
            return Some(Security::None);
        }
        if given == [false; 3] {
            let remedy = format!("give {tls}.cert and {tls}.key, or on one machine `{insecure} = true`");
            self.mistake(names[0], wrong("it is missing", remedy));
            return None;
        }
        let needs_ca = tls == "peer_tls";
        for (name, (there, needed)) in names.into_iter().zip(given.into_iter().zip([true, true, needs_ca])) {
            if needed && !there {
                self.mistake(name, wrong("it is missing", format!("[{tls}] needs it beside the others")));
            }
        }
        Some(Security::Tls(TlsPaths { cert: cert?, key: key?, ca }))
    }

    fn cluster(&mut self, origin: Option<&Origin>, clients: Option<&Security>) -> Option<InitialCluster> {
        let token = self.take("cluster_token", |text| match text.len() {
            1..=128 => Ok(text.to_owned()),
            _ => Err(wrong("it has no or too many letters", "give 1 to 128")),
        });
        let given = self.values.get("initial_cluster")?.value.clone();
        let Value::Array(tables) = given else {
            let remedy = "write [[initial_cluster]] before each node";
            self.mistake("initial_cluster", wrong("it is no array of tables", remedy));
            return None;
        };
        if !(1..=MAX_MEMBERS).contains(&tables.len()) {
            let what = format!("it has {} nodes", tables.len());
            self.mistake("initial_cluster", wrong(what, format!("name 1 to {MAX_MEMBERS}; more can join later")));
        }
        if !self.values.contains_key("log.origin") {
            self.mistake("log.origin", wrong("it is missing", "a new cluster needs the name of its log"));
        }
        if !self.values.contains_key("cluster_token") {
            let remedy = "give any text that no other cluster has, the same at all nodes";
            self.mistake("cluster_token", wrong("it is missing", remedy));
        }
        if !self.values.contains_key("node") {
            self.mistake("node", wrong("it is missing", "say which node of initial_cluster this is"));
        }
        let scheme = match clients {
            Some(Security::None) => "http",
            _ => "https",
        };
        let mut members: Vec<Member> = Vec::new();
        let count = tables.len();
        for (place, table) in tables.into_iter().enumerate() {
            members.extend(self.member(place, table, origin, scheme));
        }
        // Only a whole list is judged.
        if members.len() < count || members.is_empty() {
            return None;
        }
        members.sort_by_key(|member| member.node);
        self.members(&members);
        Some(InitialCluster { origin: origin?.clone(), token: token?, members })
    }

    fn member(&mut self, place: usize, value: Value, origin: Option<&Origin>, scheme: &str) -> Option<Member> {
        let prefix = format!("initial_cluster[{place}]");
        let Value::Table(table) = value else {
            self.in_cluster(&prefix, wrong("it is no table", "give node, site, peer, client and keys"));
            return None;
        };
        for name in table.keys().filter(|name| !MEMBER_KEYS.contains(&name.as_str())) {
            let remedy =
                nearest(name, MEMBER_KEYS).map_or_else(String::new, |(near, _)| format!("did you mean `{near}`?"));
            self.in_cluster(&format!("{prefix}.{name}"), wrong("there is no such key", remedy));
        }
        let mut field = |name: &str, kind: Kind| -> Option<String> {
            let key = format!("{prefix}.{name}");
            match table.get(name) {
                None => {
                    self.in_cluster(&key, wrong("it is missing", "every node of the cluster needs it"));
                    None
                }
                Some(value) => plain_text(kind, value).map_err(|wrong| self.in_cluster(&key, wrong)).ok(),
            }
        };
        let texts = [
            field("node", Kind::Number),
            field("site", Kind::Text),
            field("peer", Kind::Text),
            field("client", Kind::Text),
        ];
        let [id, name, peer, client] = texts;
        let mut parsed = |name: &str, wrong: Wrong| self.in_cluster(&format!("{prefix}.{name}"), wrong);
        let id = id.and_then(|text| node(&text).map_err(|wrong| parsed("node", wrong)).ok());
        let name = name.and_then(|text| site(&text).map_err(|wrong| parsed("site", wrong)).ok());
        let peer = peer.and_then(|text| address(&text).map_err(|wrong| parsed("peer", wrong)).ok());
        let client = client.and_then(|text| address(&text).map_err(|wrong| parsed("client", wrong)).ok());
        let keys = match (&id, &name, origin) {
            (Some(id), Some(name), Some(origin)) => {
                member_keys(&table, *id, name, origin).map_err(|wrong| parsed("keys", wrong)).ok()
            }
            _ => None,
        };
        let (log_key, cosigner) = keys?;
        Some(Member {
            node: id?,
            site: name?,
            peer: peer?,
            client: format!("{scheme}://{}", client?),
            log_key,
            cosigner,
        })
    }

    /// What must hold among the nodes.
    fn members(&mut self, members: &[Member]) {
        let twice = |texts: Vec<String>| -> Option<String> {
            let mut seen = BTreeSet::new();
            texts.into_iter().find(|text| !seen.insert(text.clone()))
        };
        let of = |field: &dyn Fn(&Member) -> String| members.iter().map(field).collect::<Vec<String>>();
        let checks = [
            ("node", of(&|member| member.node.to_string())),
            ("peer", of(&|member| member.peer.clone())),
            ("client", of(&|member| member.client.clone())),
            ("log key", of(&|member| member.log_key.to_string())),
            ("cosigner key", of(&|member| member.cosigner.to_string())),
        ];
        for (name, texts) in checks {
            if let Some(text) = twice(texts) {
                let what = format!("two nodes have the {name} {text}");
                self.mistake("initial_cluster", wrong(what, "give each node its own"));
            }
        }
        // A log on one node is for a laptop and says so itself; several nodes are meant to outlive a site.
        if members.len() > 1 {
            let sites = members.iter().map(|member| (member.node.get(), member.site.clone())).collect();
            let voters = members.iter().map(|member| member.node.get()).collect();
            if let Err(refused) = check_voters(&voters, &sites, Topology::SurvivesLossOfASite) {
                self.mistake("initial_cluster", wrong(refused, "three nodes at three sites are the least"));
            }
        }
    }

    /// What this node must have in common with the cluster.
    fn agreement(
        &mut self,
        cluster: Option<&InitialCluster>,
        node: Option<NodeId>,
        site: Option<&SiteName>,
        peers: Option<&Security>,
    ) {
        let Some(cluster) = cluster else { return };
        if matches!(peers, Some(Security::None)) {
            for member in cluster.members.iter().filter(|member| !is_loopback(&member.peer)) {
                let what = format!("without TLS, node {} at {} could be anybody", member.node, member.peer);
                self.mistake("insecure_peers", wrong(what, "give [peer_tls]"));
            }
        }
        let Some(node) = node else { return };
        match cluster.members.iter().find(|member| member.node == node) {
            None => self.mistake("node", wrong(format!("node {node} is not in initial_cluster"), "add it there")),
            Some(member) => {
                if let Some(site) = site.filter(|site| **site != member.site) {
                    let what = format!("it is {site}, and initial_cluster says {}", member.site);
                    self.mistake("site", wrong(what, "let them agree"));
                }
            }
        }
    }

    fn in_cluster(&mut self, key: &str, (what, remedy): Wrong) {
        let source = self.values.get("initial_cluster").map(|given| given.source.clone());
        self.mistakes.push(Mistake { key: key.to_owned(), source, what, remedy });
    }
}

/// `NODE=HOST:PORT`, with commas between.
fn join_peers(text: &str) -> Result<Vec<(NodeId, String)>, Wrong> {
    let remedy = "give NODE=HOST:PORT for each, say \"1=a.example.com:7071\"";
    let mut peers: BTreeMap<NodeId, String> = BTreeMap::new();
    for each in text.split(',').map(str::trim).filter(|each| !each.is_empty()) {
        let (number, at) = each.split_once('=').ok_or_else(|| wrong(format!("`{each}` names no node"), remedy))?;
        let (number, at) = (node(number)?, address(at)?);
        if peers.insert(number, at).is_some() {
            return Err(wrong(format!("it names node {number} twice"), remedy));
        }
    }
    if peers.is_empty() {
        return Err(wrong("it names nobody", remedy));
    }
    Ok(peers.into_iter().collect())
}

/// The log key and the cosigner key of a node.
fn member_keys(
    table: &Table,
    node: NodeId,
    site: &SiteName,
    origin: &Origin,
) -> Result<(VerifierKey, VerifierKey), Wrong> {
    let remedy = format!("`steled keys` at node {node} prints both");
    let Some(Value::Array(given)) = table.get("keys") else {
        return Err(wrong("they are missing", remedy));
    };
    let mut keys = Vec::new();
    for value in given {
        let text = value.as_str().ok_or_else(|| wrong(format!("{value} is no text"), &remedy))?;
        keys.push(VerifierKey::parse(text).map_err(|error| wrong(format!("`{text}` is no key: {error}"), &remedy))?);
    }
    let cosigner_name = crate::keys::cosigner_name(origin, site, node);
    let one = |kind: KeyKind, name: &str| {
        let mut fit = keys.iter().filter(|key| key.kind() == kind && key.name().as_str() == name);
        match (fit.next(), fit.next()) {
            (Some(key), None) => Ok(key.clone()),
            _ => Err(wrong(format!("there must be one key of type {:02} named {name}", kind.byte()), &remedy)),
        }
    };
    let pair = (one(KeyKind::Ed25519, origin.as_str())?, one(KeyKind::CosignatureEd25519, &cosigner_name)?);
    if keys.len() == 2 { Ok(pair) } else { Err(wrong(format!("there are {} keys", keys.len()), remedy)) }
}

/// A value of the file, of the type that its key asks for, as text.
fn text_of(name: &str, value: &Value) -> Result<String, Wrong> {
    plain_text(Key::named(name).map_or(Kind::Text, |key| key.kind), value)
}

fn plain_text(kind: Kind, value: &Value) -> Result<String, Wrong> {
    match (kind, value) {
        (_, Value::String(text)) => Ok(text.clone()),
        (Kind::Number | Kind::Bytes, Value::Integer(number)) => Ok(number.to_string()),
        (Kind::Switch, Value::Boolean(switch)) => Ok(switch.to_string()),
        (Kind::Duration, Value::Integer(number)) => {
            Err(wrong(format!("{number} has no unit"), format!("give a text, say \"{number}s\" or \"{number}ms\"")))
        }
        (Kind::List, Value::Array(values)) if values.iter().all(Value::is_str) => {
            Ok(values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
        }
        (kind, value) => {
            let expected = match kind {
                Kind::Number | Kind::Bytes => "a number",
                Kind::Switch => "true or false",
                Kind::Path | Kind::Text | Kind::Duration => "a text",
                Kind::List => "an array of texts",
                Kind::Cluster => "an array of tables",
            };
            Err(wrong(format!("it is a {} in TOML", value.type_str()), format!("give {expected}")))
        }
    }
}

fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() { Err(wrong("it is empty", "give a path")) } else { Ok(PathBuf::from(text)) }
}

fn node(text: &str) -> Result<NodeId, Wrong> {
    let node = text.parse::<u64>().ok().filter(|node| *node > 0).map(NodeId::new);
    node.ok_or_else(|| wrong(format!("`{text}` is no node number"), "give a whole number from 1 on"))
}

fn site(text: &str) -> Result<SiteName, Wrong> {
    SiteName::new(text)
        .ok_or_else(|| wrong(format!("`{text}` is no site name"), "give 1 to 64 letters, digits, `-`, `_` or `.`"))
}

fn origin(text: &str) -> Result<Origin, Wrong> {
    Origin::new(text).map_err(|error| wrong(format!("`{text}`: {error}"), "give a name such as example.com/audit"))
}

fn switch(text: &str) -> Result<bool, Wrong> {
    text.parse().map_err(|_error| wrong(format!("`{text}` is neither"), "give true or false"))
}

fn number(text: &str, (least, most): (u64, u64)) -> Result<u64, Wrong> {
    let number = text.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| wrong(format!("`{text}` does not fit"), format!("give a number from {least} to {most}")))
}

fn bytes(text: &str, (least, most): (u64, u64)) -> Result<u64, Wrong> {
    let size = text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64());
    let size = size.filter(|size| (least..=most).contains(size));
    let shown = |bytes| bytesize::ByteSize::b(bytes).to_string();
    size.ok_or_else(|| {
        wrong(format!("`{text}` does not fit"), format!("give a size from {} to {}", shown(least), shown(most)))
    })
}

fn duration(text: &str, (least, most): (Duration, Duration)) -> Result<Duration, Wrong> {
    let time = humantime::parse_duration(text).ok().filter(|time| (least..=most).contains(time));
    let shown = humantime::format_duration;
    time.ok_or_else(|| {
        wrong(
            format!("`{text}` does not fit"),
            format!("give a time with its unit, from {} to {}", shown(least), shown(most)),
        )
    })
}

/// `host:port`.
fn address(text: &str) -> Result<String, Wrong> {
    let good = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
        let host = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        host && port.parse::<u16>().is_ok()
    });
    if good { Ok(text.to_owned()) } else { Err(wrong(format!("`{text}` is no address"), "give host:port")) }
}

/// Whether an address is only reached from this machine.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
