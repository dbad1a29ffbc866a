//! Whose records a caller may append. Judged by the leader's task beside the other rules of intake; what is in the log
//! already is never judged again.

use std::sync::Arc;

use stele_proof::record::{Record, canonical_text};

/// Names that a writer may use: one name, or all that begin alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Exactly this canonical text.
    Exact(String),
    /// Every canonical text that begins with this one.
    Prefix(String),
}

impl Pattern {
    /// Reads a name, or the beginning of names with `*` behind it; `None` where it is empty, or has a `*` elsewhere.
    pub fn new(text: &str) -> Option<Self> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if name.contains('*') || text.is_empty() {
            return None;
        }
        let name = canonical_text(name).into_owned();
        Some(if is_prefix { Self::Prefix(name) } else { Self::Exact(name) })
    }

    fn fits(&self, canonical: &str) -> bool {
        match self {
            Self::Exact(name) => name == canonical,
            Self::Prefix(beginning) => canonical.starts_with(beginning.as_str()),
        }
    }
}

/// What a writer is bound to: one of these writers, in one of these streams.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Binding {
    /// Its `writer_id`s.
    pub writers: Vec<Pattern>,
    /// Its streams.
    pub streams: Vec<Pattern>,
}

/// What a caller may append.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MayWrite {
    /// Everything but the log's own records.
    Everything,
    /// Only so much of it.
    Bound(Arc<Binding>),
}

impl MayWrite {
    /// Whether a record is among what may be appended. Allocates nothing.
    pub fn allows(&self, record: &Record<'_>) -> bool {
        self.fits(record.writer_id().escaped(), record.stream().escaped())
    }

    /// Whether these names are, in any form.
    pub fn allows_names(&self, names: &Names<'_>) -> bool {
        self.fits(&canonical_text(names.writer_id), &canonical_text(names.stream))
    }

    fn fits(&self, writer_id: &str, stream: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Bound(binding) => {
                binding.writers.iter().any(|pattern| pattern.fits(writer_id))
                    && binding.streams.iter().any(|pattern| pattern.fits(stream))
            }
        }
    }
}

/// The names of a chain, as somebody wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Names<'a> {
    /// Who writes.
    pub writer_id: &'a str,
    /// The stream.
    pub stream: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_a_pattern_that_is_the_same_or_its_beginning() {
        let binding = |writers: &[&str], streams: &[&str]| {
            let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
            MayWrite::Bound(Arc::new(Binding { writers: patterns(writers), streams: patterns(streams) }))
        };
        let may = binding(&["w", "app-*"], &["s", "e\u{301}*"]);
        let allows = |writer_id, stream| may.allows_names(&Names { writer_id, stream });
        assert!(allows("w", "s") && allows("app-", "s") && allows("app-7", "\u{e9}1"), "the same, or longer");
        assert!(!allows("w2", "s") && !allows("app", "s") && !allows("w", "s2") && !allows("s", "w"));
        assert!(!binding(&["w"], &[]).allows_names(&Names { writer_id: "w", stream: "s" }), "bound to no stream");
        assert!(binding(&["*"], &["*"]).allows_names(&Names { writer_id: "anything", stream: "" }));
        assert_eq!(["", "a*b", "**", "*a"].map(Pattern::new), [const { None }; 4]);
    }
}
