//! What is wrong with a configuration.

use std::fmt;

use super::keys::KEYS;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The file.
    File,
    /// This environment variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File => f.write_str("file"),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The key.
    pub key: String,
    /// Where its value came from; `None` where there is none.
    pub source: Option<Source>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}; {}", self.what, self.remedy)
    }
}

/// All mistakes of a configuration, at least one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the configuration cannot be used:{}", .0.iter().map(|mistake| format!("\n  {mistake}")).collect::<String>())]
pub struct Mistakes(pub Vec<Mistake>);

/// The name that is written most like this one, and how many letters differ.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<(&'n str, usize)> {
    known.into_iter().map(|known| (known, distance(name, known))).min_by_key(|(_, distance)| *distance)
}

/// What to do about a key that nobody knows.
pub(super) fn unknown(name: &str) -> String {
    // A key in the wrong table is meant more often than one that is written alike.
    let last = name.rsplit('.').next().unwrap_or(name);
    let elsewhere = KEYS.iter().map(|key| key.name).find(|key| key.rsplit('.').next() == Some(last));
    match elsewhere.or_else(|| nearest(name, KEYS.iter().map(|key| key.name)).map(|(key, _)| key)) {
        Some(key) => format!("did you mean `{key}`?"),
        None => "remove it".to_owned(),
    }
}

/// How many letters must be put in, taken out or changed (Levenshtein).
pub(super) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (place, letter) in left.chars().enumerate() {
        let mut corner = row[0];
        row[0] = place + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = corner + usize::from(letter != *other);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
