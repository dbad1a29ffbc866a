//! The tables `[[access]]`: who may do what.

use std::collections::HashMap;
use std::sync::Arc;

use stele_raft::rights::{Binding, Pattern};
use toml::{Table, Value};

use super::Security;
use super::check::{Wrong, wrong};
use super::mistake::nearest;
use crate::access::{Access, Known, Rights, Role, TokenHash};

/// Keys of a table.
const KEYS: [&str; 6] = ["name", "certificate", "token", "roles", "writers", "streams"];
/// Most tables.
const MAX_TABLES: usize = 4096;

/// What is wrong, and where.
type Mistaken = (String, Wrong);

/// Reads all tables.
pub(super) fn access(given: &Value, clients: Option<&Security>) -> Result<Access, Vec<Mistaken>> {
    let whole = |what: String, remedy: &str| vec![("access".to_owned(), wrong(what, remedy))];
    let Value::Array(tables) = given else {
        return Err(whole("it is no array of tables".to_owned(), "write [[access]] before each caller"));
    };
    if tables.is_empty() || tables.len() > MAX_TABLES {
        let what = format!("it has {} tables", tables.len());
        return Err(whole(what, "give 1 to 4096, or leave it out: then everything is allowed"));
    }
    let mut reading = Reading { shows: shows_certificates(clients), known: Known::default(), mistakes: Vec::new() };
    for (place, table) in tables.iter().enumerate() {
        reading.table(&format!("access[{place}]"), table);
    }
    if reading.mistakes.is_empty() { Ok(Access::ByRole(Arc::new(reading.known))) } else { Err(reading.mistakes) }
}

/// Whether clients show certificates at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Certificates,
    Nothing,
}

const fn shows_certificates(clients: Option<&Security>) -> Shows {
    match clients {
        Some(Security::Tls(paths)) if paths.ca.is_none() => Shows::Nothing,
        Some(Security::None) => Shows::Nothing,
        // Where that is a mistake of its own, it is told once.
        _ => Shows::Certificates,
    }
}

struct Reading {
    shows: Shows,
    known: Known,
    mistakes: Vec<Mistaken>,
}

impl Reading {
    fn mistake(&mut self, key: String, wrong: Wrong) {
        self.mistakes.push((key, wrong));
    }

    fn table(&mut self, prefix: &str, value: &Value) {
        let Value::Table(table) = value else {
            return self.mistake(prefix.to_owned(), wrong("it is no table", "give certificate or token, and roles"));
        };
        for name in table.keys().filter(|name| !KEYS.contains(&name.as_str())) {
            let remedy = nearest(name, KEYS).map_or_else(String::new, |(near, _)| format!("did you mean `{near}`?"));
            self.mistake(format!("{prefix}.{name}"), wrong("there is no such key", remedy));
        }
        let roles = self.roles(prefix, table);
        let binding = Binding {
            writers: self.patterns(prefix, "writers", table, &roles),
            streams: self.patterns(prefix, "streams", table, &roles),
        };
        let [name, certificate, token] = ["name", "certificate", "token"].map(|key| self.text(prefix, key, table));
        if !table.contains_key("certificate") && !table.contains_key("token") {
            let remedy = "give the DNS name of its certificate, or the BLAKE3 of its token";
            self.mistake(prefix.to_owned(), wrong("it names nobody", remedy));
        }
        let name = name.or_else(|| certificate.clone()).unwrap_or_else(|| prefix.to_owned());
        let rights = Arc::new(Rights { name, roles, binding: Arc::new(binding) });
        if let Some(certificate) = certificate {
            self.certificate(&format!("{prefix}.certificate"), &certificate, &rights);
        }
        if let Some(token) = token {
            self.token(&format!("{prefix}.token"), &token, rights);
        }
    }

    fn certificate(&mut self, key: &str, name: &str, rights: &Arc<Rights>) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let remedy = "give a name that is among the alternative names of the certificate";
            return self.mistake(key.to_owned(), wrong(format!("`{name}` is no DNS name"), remedy));
        }
        if self.shows == Shows::Nothing {
            let remedy = "give client_tls.ca, or give the caller a token";
            self.mistake(key.to_owned(), wrong("clients show no certificates here", remedy));
        }
        if !insert(&mut self.known.certificates, name.to_ascii_lowercase(), Arc::clone(rights)) {
            self.mistake(key.to_owned(), wrong(format!("`{name}` has a table already"), "join the two"));
        }
    }

    fn token(&mut self, key: &str, text: &str, rights: Arc<Rights>) {
        let Some(hash) = TokenHash::parse(text) else {
            // It may be the token itself, which is not to be shown.
            let remedy = "give `b3:` and the 64 hex digits of the BLAKE3 of the token, never the token itself";
            return self.mistake(key.to_owned(), wrong("it is no hash", remedy));
        };
        if !insert(&mut self.known.tokens, hash, rights) {
            self.mistake(key.to_owned(), wrong("another table has the same token", "give each caller its own"));
        }
    }

    fn roles(&mut self, prefix: &str, table: &Table) -> Vec<Role> {
        let key = format!("{prefix}.roles");
        let names = Role::ALL.map(Role::name);
        let texts = match table.get("roles") {
            Some(Value::Array(texts)) if !texts.is_empty() => texts,
            _ => {
                let remedy = format!("give an array of {}", names.join(", "));
                self.mistake(key, wrong("it is missing or empty", remedy));
                return Vec::new();
            }
        };
        let mut roles = Vec::new();
        for text in texts {
            let role = Role::ALL.into_iter().find(|role| Some(role.name()) == text.as_str());
            match role {
                Some(role) => roles.push(role),
                None => {
                    let remedy = format!("the roles are {}", names.join(", "));
                    self.mistake(key.clone(), wrong(format!("{text} is no role"), remedy));
                }
            }
        }
        roles
    }

    fn patterns(&mut self, prefix: &str, name: &str, table: &Table, roles: &[Role]) -> Vec<Pattern> {
        let key = format!("{prefix}.{name}");
        let writes = roles.contains(&Role::Writer);
        let texts = match (table.get(name), writes) {
            (None, false) => return Vec::new(),
            (Some(_), false) if !roles.is_empty() => {
                self.mistake(key, wrong("only a writer is bound", "remove it, or give the role writer"));
                return Vec::new();
            }
            (Some(Value::Array(texts)), _) if !texts.is_empty() => texts,
            _ => {
                let remedy = "give an array of names, or of beginnings of names with `*` behind";
                self.mistake(key, wrong("it is missing or empty", remedy));
                return Vec::new();
            }
        };
        let mut patterns = Vec::new();
        for text in texts {
            match text.as_str().and_then(Pattern::new) {
                Some(pattern) => patterns.push(pattern),
                None => {
                    let remedy = "give a name, or the beginning of names with one `*` behind";
                    self.mistake(key.clone(), wrong(format!("{text} is no pattern"), remedy));
                }
            }
        }
        patterns
    }

    fn text(&mut self, prefix: &str, name: &str, table: &Table) -> Option<String> {
        match table.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => {
                let what = format!("it is a {} in TOML", other.type_str());
                self.mistake(format!("{prefix}.{name}"), wrong(what, "give a text"));
                None
            }
        }
    }
}

/// Whether the key was not there.
fn insert<K: Eq + std::hash::Hash>(map: &mut HashMap<K, Arc<Rights>>, key: K, rights: Arc<Rights>) -> bool {
    map.insert(key, rights).is_none()
}
