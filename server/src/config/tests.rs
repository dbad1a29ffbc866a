use super::*;

/// What a node of a cluster of three is given; `{1}` to `{3}` stand for the keys of the nodes.
const THREE: &str = r#"
data_dir = "/var/lib/stele"
node = 2
cluster_token = "first"
insecure_peers = true
insecure_clients = true
log.origin = "example.com/audit"

[[initial_cluster]]
node = 1
site = "a"
peer = "127.0.0.1:7101"
client = "127.0.0.1:7001"
keys = [{1}]

[[initial_cluster]]
node = 3
site = "c"
peer = "127.0.0.1:7103"
client = "127.0.0.1:7003"
keys = [{3}]

[[initial_cluster]]
node = 2
site = "b"
peer = "127.0.0.1:7102"
client = "127.0.0.1:7002"
keys = [{2}]
"#;

fn keys(node: u8, site: &str) -> String {
    use stele_proof::key::{KeyKind, KeyName, SigningKey};
    let key = |name: &str, kind, seed: u8| {
        SigningKey::from_seed(KeyName::new(name).unwrap(), kind, [seed; 32]).verifier_key().to_string()
    };
    let cosigner = format!("example.com/audit/site/{site}/{node}");
    let log = key("example.com/audit", KeyKind::Ed25519, node);
    format!("\"{log}\", \"{}\"", key(&cosigner, KeyKind::CosignatureEd25519, 100 + node))
}

fn three() -> String {
    [(1, "a"), (2, "b"), (3, "c")]
        .iter()
        .fold(THREE.to_owned(), |text, (node, site)| text.replace(&format!("{{{node}}}"), &keys(*node, site)))
}

fn load(file: &str) -> Result<Loaded, Mistakes> {
    Config::load(&Sources { file: Some(file.to_owned()), ..Sources::default() })
}

fn mistakes(file: &str) -> Vec<String> {
    load(file).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_cluster_is_read_and_gives_the_same_first_entry_in_any_order() {
    let cluster = load(&three()).unwrap().config.cluster.unwrap();
    let nodes: Vec<u64> = cluster.members.iter().map(|member| member.node.get()).collect();
    assert_eq!(nodes, [1, 2, 3]);
    let bytes = cluster.membership().encode();
    assert!(stele_engine::membership::Membership::decode(&bytes).is_ok(), "the engine reads it");
    let mut parts: Vec<&str> = THREE.split("[[initial_cluster]]").collect();
    parts.swap(1, 3);
    let turned = parts.join("[[initial_cluster]]");
    let turned = [(1, "a"), (2, "b"), (3, "c")]
        .iter()
        .fold(turned, |text, (node, site)| text.replace(&format!("{{{node}}}"), &keys(*node, site)));
    assert_eq!(load(&turned).unwrap().config.cluster.unwrap().membership().encode(), bytes);
    let other = three().replace("first", "second");
    assert_ne!(load(&other).unwrap().config.cluster.unwrap().membership().encode(), bytes, "the token tells apart");
}

#[test]
fn every_mistake_is_told_at_once_with_key_and_remedy() {
    let file = "data_dir = \"\"\nnode = 0\nsite = \"a b\"\nseal.after = 5\nseal.bytes = \"1KiB\"\n\
                raft.heartbeat = \"1s\"\nlimits.stream = 4\nlog_format = \"xml\"\nlog_level = \"3\"\n\
                insecure_peers = true\nlisten.peer = \"0.0.0.0:1\"\nlisten.client = \"nowhere\"\n";
    let found = mistakes(file);
    let expected = [
        "limits.stream (file): there is no such key; did you mean `limits.streams`?",
        "data_dir (file): it is empty; give a path",
        "node (file): `0` is no node number; give a whole number from 1 on",
        "site (file): `a b` is no site name; give 1 to 64 letters, digits, `-`, `_` or `.`",
        "listen.client (file): `nowhere` is no address; give host:port",
        "insecure_peers (file): without TLS, 0.0.0.0:1 would be open to whoever reaches it; \
         listen on 127.0.0.1 or [::1], or give [peer_tls]",
        "client_tls.cert: it is missing; give client_tls.cert and client_tls.key, or on one machine \
         `insecure_clients = true`",
        "seal.after (file): 5 has no unit; give a text, say \"5s\" or \"5ms\"",
        "seal.bytes (file): `1KiB` does not fit; give a size from 1.0 MiB to 1.0 TiB",
        "raft.election_min (default): 400ms is less than two heartbeats; give more, or make raft.heartbeat shorter",
        "log_format (file): `xml` is no format; give `text` or `json`",
        "log_level (file): `3` is no level; give error, warn, info, debug or trace",
    ];
    for line in expected {
        assert!(found.contains(&line.to_owned()), "{line}\nis not among\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
}

#[test]
fn each_mistake_in_a_cluster_has_its_place() {
    let table = [
        ("site = \"c\"", "site = \"a\"", "initial_cluster (file): 2 of the 3 voters (1, 2, 3) stand at site a"),
        ("node = 3", "node = 1", "initial_cluster[1].keys (file): there must be one key of type 04 named"),
        ("peer = \"127.0.0.1:7103\"", "peer = \"127.0.0.1:7101\"", "two nodes have the peer 127.0.0.1:7101"),
        ("peer = \"127.0.0.1:7103\"", "peer = \"10.0.0.3:7103\"", "insecure_peers (file): without TLS, node 3 at"),
        ("client = \"127.0.0.1:7003\"", "", "initial_cluster[1].client (file): it is missing"),
        (
            "site = \"c\"",
            "sitte = \"c\"",
            "initial_cluster[1].sitte (file): there is no such key; did you mean `site`?",
        ),
        ("node = 2\ncluster", "node = 4\ncluster", "node (file): node 4 is not in initial_cluster"),
        ("cluster_token = \"first\"", "", "cluster_token: it is missing"),
        ("log.origin = \"example.com/audit\"", "", "log.origin: it is missing"),
        ("log.origin", "site = \"c\"\nlog.origin", "site (file): it is c, and initial_cluster says b"),
        ("log.origin", "log.origing", "log.origing (file): there is no such key; did you mean `log.origin`?"),
        ("log.origin", "[[[", "(file) (file): line 7 is no TOML"),
    ];
    for (from, to, expected) in table {
        let file = three();
        assert!(file.contains(from), "{from}");
        // The key line of node 3 differs once its site does.
        let changed = file
            .replacen(from, to, 1)
            .replace(&keys(3, "c"), &if to == "site = \"a\"" { keys(3, "a") } else { keys(3, "c") });
        let found = mistakes(&changed);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}\nis not among\n{}", found.join("\n"));
    }
}

#[test]
fn flags_over_environment_over_file_over_defaults() {
    let flag = |name: &str| KEYS.iter().find(|key| key.name == name).unwrap();
    let mut sources = Sources {
        file: Some("data_dir = \"/f\"\ninsecure_peers = true\ninsecure_clients = true\nseal.after = \"2h\"\nlimits.streams = 3".into()),
        environment: vec![
            ("STELE_SEAL_AFTER".into(), "3h".into()),
            ("STELE_DATA_DIR".into(), "/e".into()),
            ("STELE_CONTEXTS".into(), "/home/me/contexts.toml".into()),
            ("STELE_PORT_7070_TCP_ADDR".into(), "10.0.0.1".into()),
        ],
        flags: vec![(flag("seal.after"), "4h".into())],
    };
    let loaded = Config::load(&sources).unwrap();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(loaded.config.seal.after, hours(4));
    assert_eq!(loaded.config.data_dir, PathBuf::from("/e"));
    assert_eq!(loaded.config.limits.streams, 3);
    assert_eq!(loaded.config.limits.connections, 1024);
    assert_eq!(loaded.warnings, ["the environment variable STELE_PORT_7070_TCP_ADDR is no key and was left out"]);
    assert!(loaded.effective.contains("seal.after = \"4h\" # --seal-after\n"), "{}", loaded.effective);
    sources.environment.push(("STELE_SEAL_AFTR".into(), "1h".into()));
    let refused = Config::load(&sources).unwrap_err().to_string();
    assert!(
        refused.contains("STELE_SEAL_AFTR (STELE_SEAL_AFTR): there is no such key; did you mean `STELE_SEAL_AFTER`?")
    );
}

#[test]
fn the_effective_configuration_can_be_used_again() {
    let first = load(&three()).unwrap();
    let again = load(&first.effective).unwrap();
    assert_eq!(format!("{:?}", again.config), format!("{:?}", first.config));
}

#[test]
fn no_two_keys_share_a_flag_or_a_variable() {
    let flags: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.flag).collect();
    let variables: std::collections::BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
    assert_eq!((flags.len(), variables.len()), (KEYS.len(), KEYS.len()));
}

#[test]
fn access_is_read_and_each_mistake_in_it_has_its_place() {
    use crate::access::{Access, Role, TokenHash};

    let with = |tables: &str| format!("{}\n{tables}", three());
    let hash = format!("b3:{}", blake3::hash(b"secret"));
    let good = format!(
        "[[access]]\nname = \"app\"\ntoken = \"{hash}\"\nroles = [\"writer\", \"reader\"]\nwriters = [\"a-*\"]\n\
         streams = [\"s\"]\n"
    );
    let Access::ByRole(known) = load(&with(&good)).unwrap().config.access else { panic!("open") };
    let rights = &known.tokens[&TokenHash::of(b"secret")];
    assert_eq!((rights.name.as_str(), &rights.roles[..]), ("app", &[Role::Writer, Role::Reader][..]));
    assert_eq!((rights.binding.writers.len(), known.certificates.len()), (1, 0));
    assert_eq!(load(&three()).unwrap().config.access, Access::Open);

    let table = [
        ("roles = [\"reader\"]", "access[1] (file): it names nobody"),
        ("token = \"secret\"\nroles = [\"reader\"]", "access[1].token (file): it is no hash"),
        ("token = \"{}\"\nroles = [\"reader\"]", "access[1].token (file): another table has the same token"),
        (
            "certificate = \"c\"\nroles = [\"reader\"]",
            "access[1].certificate (file): clients show no certificates here",
        ),
        ("token = \"{0}\"", "access[1].roles (file): it is missing or empty"),
        ("token = \"{0}\"\nroles = [\"root\"]", "access[1].roles (file): \"root\" is no role; the roles are writer"),
        ("token = \"{0}\"\nroles = [\"writer\"]\nstreams = [\"s\"]", "access[1].writers (file): it is missing"),
        (
            "token = \"{0}\"\nroles = [\"writer\"]\nstreams = [\"s\"]\nwriters = [\"a*b\"]",
            "access[1].writers (file): \"a*b\" is no pattern",
        ),
        (
            "token = \"{0}\"\nroles = [\"reader\"]\nstreams = [\"s\"]",
            "access[1].streams (file): only a writer is bound",
        ),
        ("tokn = \"x\"\nroles = [\"reader\"]", "access[1].tokn (file): there is no such key; did you mean `token`?"),
    ];
    let other = format!("b3:{}", blake3::hash(b"another"));
    for (bad, told) in table {
        let bad = bad.replace("{0}", &other).replace("{}", &hash);
        let found = mistakes(&with(&format!("{good}[[access]]\n{bad}\n")));
        assert!(found.iter().any(|line| line.contains(told)), "{told}\nis not among\n{}", found.join("\n"));
        assert!(!found.iter().any(|line| line.contains("secret")), "a token is not shown");
    }
}
const JOIN: &str = r#"
data_dir = "/var/lib/stele"
node = 4
site = "d"
insecure_peers = true
insecure_clients = true
log.origin = "example.com/audit"
"#;

#[test]
fn a_node_that_joins_says_whom_it_asks_as_an_array_or_as_one_text() {
    let id = "0f".repeat(32);
    let array = r#"["2=127.0.0.1:7102", "1=127.0.0.1:7101"]"#;
    for peers in [array, r#""1=127.0.0.1:7101, 2=127.0.0.1:7102""#] {
        let file = format!("{JOIN}join.peers = {peers}\njoin.cluster = \"{id}\"\n");
        let config = load(&file).unwrap().config;
        let join = config.join.unwrap();
        assert!(config.cluster.is_none());
        let peers: Vec<(u64, &str)> = join.peers.iter().map(|(node, at)| (node.get(), at.as_str())).collect();
        assert_eq!(peers, [(1, "127.0.0.1:7101"), (2, "127.0.0.1:7102")]);
        assert_eq!(join.cluster.as_bytes(), &[0x0f; 32]);
        assert_eq!((join.rate, join.policy), (64 << 20, None));
    }
}

#[test]
fn what_a_node_that_joins_lacks_or_says_twice_is_told_at_once() {
    let told = mistakes("data_dir = \"d\"\ninsecure_peers = true\ninsecure_clients = true\njoin.peers = \"a:1\"\n");
    for key in ["join.peers", "join.cluster", "node", "site", "log.origin"] {
        assert!(told.iter().any(|mistake| mistake.starts_with(key)), "{key}: {told:?}");
    }
    let id = "0f".repeat(32);
    let twice = format!("join.peers = \"1=127.0.0.1:1\"\njoin.cluster = \"{id}\"\n{}", three());
    let told = mistakes(&twice);
    assert!(told.iter().any(|mistake| mistake.contains("initial_cluster is given, too")), "{told:?}");
    let far = format!("{JOIN}join.peers = \"1=a.example.com:1,1=b:2\"\njoin.cluster = \"0f\"\njoin.rate = \"1\"\n");
    let told = mistakes(&far);
    for word in ["names node 1 twice", "no cluster id", "64.0 KiB"] {
        assert!(told.iter().any(|mistake| mistake.contains(word)), "{word}: {told:?}");
    }
    let far = format!("{JOIN}join.peers = \"1=a.example.com:1\"\njoin.cluster = \"{id}\"\n");
    assert!(mistakes(&far).iter().any(|mistake| mistake.contains("could be anybody")));
}
