//! Where values come from: flags over environment over file over defaults.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::keys::{KEYS, Key, Kind};
use super::mistake::{Mistake, Source, distance, nearest, unknown};

/// A value that somebody gave.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) source: Source,
}

/// The values of all keys that have one.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Gathered {
    pub(super) values: BTreeMap<&'static str, Given>,
    pub(super) mistakes: Vec<Mistake>,
    /// To be told, not to be refused.
    pub(super) warnings: Vec<String>,
}

/// Variables of the environment that belong to others: the command line `stele`, and this program itself.
const OTHERS: [&str; 3] = ["STELE_CONFIG", "STELE_CONTEXT", "STELE_CONTEXTS"];
/// A variable whose name differs by so many letters from that of a key was meant for it.
const SLIP: usize = 2;

/// What the sources say.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The content of the file, where there is one.
    pub file: Option<String>,
    /// The variables of the environment.
    pub environment: Vec<(String, String)>,
    /// Flags by key.
    pub flags: Vec<(&'static Key, String)>,
}

pub(super) fn gather(sources: &Sources) -> Gathered {
    let mut gathered = Gathered::default();
    for key in &KEYS {
        if let Some(default) = key.default {
            gathered.set(key, Value::String(default.to_owned()), Source::Default);
        }
    }
    gathered.file(sources.file.as_deref().unwrap_or_default());
    for (name, text) in &sources.environment {
        gathered.variable(name, text);
    }
    for (key, text) in &sources.flags {
        gathered.text(key, text, Source::Flag(key.flag.to_owned()));
    }
    gathered
}

impl Gathered {
    fn set(&mut self, key: &'static Key, value: Value, source: Source) {
        self.values.insert(key.name, Given { value, source });
    }

    fn mistake(&mut self, key: &str, source: Option<Source>, what: impl Into<String>, remedy: impl Into<String>) {
        self.mistakes.push(Mistake { key: key.to_owned(), source, what: what.into(), remedy: remedy.into() });
    }

    fn file(&mut self, text: &str) {
        match text.parse::<Table>() {
            Ok(table) => self.table("", table),
            Err(error) => {
                let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
                let what = format!("line {line} is no TOML: {}", error.message());
                self.mistake("(file)", Some(Source::File), what, "mend the line");
            }
        }
    }

    fn table(&mut self, prefix: &str, table: Table) {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match (Key::named(&name), value) {
                (Some(key), value) => self.set(key, value, Source::File),
                (None, Value::Table(inner)) if !inner.is_empty() => self.table(&format!("{name}."), inner),
                (None, _) => self.mistake(&name, Some(Source::File), "there is no such key", unknown(&name)),
            }
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        if !name.starts_with("STELE_") || OTHERS.contains(&name) {
            return;
        }
        if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
            return self.text(key, text, Source::Environment(name.to_owned()));
        }
        let names: Vec<String> = KEYS.iter().map(Key::variable).collect();
        let meant = nearest(name, names.iter().map(String::as_str)).filter(|(near, _)| distance(name, near) <= SLIP);
        match meant {
            Some((near, _)) => {
                let remedy = format!("did you mean `{near}`?");
                self.mistake(name, Some(Source::Environment(name.to_owned())), "there is no such key", remedy);
            }
            // Whoever runs containers sets such variables for every service of that name.
            None => self.warnings.push(format!("the environment variable {name} is no key and was left out")),
        }
    }

    /// A value as text: of an array, it is TOML.
    fn text(&mut self, key: &'static Key, text: &str, source: Source) {
        if key.kind != Kind::Cluster {
            return self.set(key, Value::String(text.to_owned()), source);
        }
        let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        match parsed {
            Some(value) => self.set(key, value, source),
            None => self.mistake(key.name, Some(source), "this is no TOML", "give an array of tables, as in the file"),
        }
    }
}
