//! Directory entries: what is seen, what is durable, and the changes between the two.
//!
//! I-NAMES-1: applying all pending changes in order to the durable entries gives the entries that are
//! seen, unless a flush of a directory has failed.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::random::SplitMix64;

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileNumber(pub(crate) u64);

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Directory,
    File(FileNumber),
}

#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Entry),
    /// Atomic: both names or neither.
    Rename(PathBuf, PathBuf, FileNumber),
    Remove(PathBuf, FileNumber),
}

impl Change {
    fn names(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Self::Add(path, _) | Self::Remove(path, _) => (path, None),
            Self::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(first.as_path()).chain(second.map(PathBuf::as_path))
    }

    fn apply(&self, entries: &mut BTreeMap<PathBuf, Entry>) {
        let is = |entries: &BTreeMap<PathBuf, Entry>, path: &Path, file: &FileNumber| {
            entries.get(path) == Some(&Entry::File(*file))
        };
        match self {
            Self::Add(path, entry) => {
                entries.insert(path.clone(), *entry);
            }
            Self::Rename(from, to, file) => {
                if is(entries, from, file) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), Entry::File(*file));
            }
            Self::Remove(path, file) => {
                if is(entries, path, file) {
                    entries.remove(path);
                }
            }
        }
    }
}

/// All names of a machine. `/` and the empty path are directories that always exist.
#[derive(Clone, Default)]
pub(crate) struct Names {
    current: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<Change>,
    /// Whether the flush of a directory has failed, so that names may be seen that never become durable.
    lost: bool,
}

/// A path without `.` components.
pub(crate) fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

fn is_root(path: &Path) -> bool {
    path == Path::new("") || path == Path::new("/")
}

impl Names {
    pub(crate) fn get(&self, path: &Path) -> Option<Entry> {
        if is_root(path) { Some(Entry::Directory) } else { self.current.get(path).copied() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Path, Entry)> {
        self.current.iter().map(|(path, entry)| (path.as_path(), *entry))
    }

    /// The names in a directory, sorted as paths are.
    pub(crate) fn children<'n>(&'n self, directory: &'n Path) -> impl Iterator<Item = &'n Path> {
        let inside = move |path: &&PathBuf| path.parent() == Some(directory);
        self.current.keys().filter(inside).filter_map(|path| path.file_name()).map(Path::new)
    }

    pub(crate) fn add(&mut self, path: &Path, entry: Entry) {
        self.change(Change::Add(path.to_owned(), entry));
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path, file: FileNumber) {
        if from != to {
            self.change(Change::Rename(from.to_owned(), to.to_owned(), file));
        }
    }

    pub(crate) fn remove(&mut self, path: &Path, file: FileNumber) {
        self.change(Change::Remove(path.to_owned(), file));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    /// A flush of a directory that succeeds.
    pub(crate) fn sync(&mut self, directory: &Path) {
        for change in self.take_pending(directory) {
            change.apply(&mut self.durable);
        }
    }

    /// A flush of a directory that fails: each change may have become durable, and none will later.
    pub(crate) fn lose(&mut self, directory: &Path, random: &mut SplitMix64) {
        self.lost = true;
        for change in self.take_pending(directory) {
            if random.percent(50) {
                change.apply(&mut self.durable);
            }
        }
    }

    /// Whether a crash would change nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.current == self.durable
    }

    pub(crate) const fn are_lost(&self) -> bool {
        self.lost
    }

    /// The pending changes of names in this directory, and the earlier ones they build on elsewhere.
    fn take_pending(&mut self, directory: &Path) -> Vec<Change> {
        let mut taken: Vec<Change> = Vec::new();
        let mut left = Vec::new();
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            let here = change.names().any(|name| name.parent() == Some(directory));
            let shared = change.names().any(|name| taken.iter().any(|later| later.names().any(|other| other == name)));
            if here || shared { taken.push(change) } else { left.push(change) }
        }
        left.reverse();
        self.pending = left;
        taken.reverse();
        taken
    }

    /// What is found after the power failed: every pending change survives or not, independently.
    pub(crate) fn crash(&self, random: &mut SplitMix64) -> Self {
        let keep_percent = *random.pick(&[0, 50, 50, 90, 100]);
        let mut entries = self.durable.clone();
        for change in &self.pending {
            if random.percent(keep_percent) {
                change.apply(&mut entries);
            }
        }
        let found = entries.iter().filter(|(path, _)| has_parents(&entries, path));
        let found: BTreeMap<_, _> = found.map(|(path, entry)| (path.clone(), *entry)).collect();
        Self { current: found.clone(), durable: found, pending: Vec::new(), lost: false }
    }

    /// Everything seen is durable.
    pub(crate) fn settle(&mut self) {
        self.durable = self.current.clone();
        self.pending.clear();
        self.lost = false;
    }
}

fn has_parents(entries: &BTreeMap<PathBuf, Entry>, path: &Path) -> bool {
    path.ancestors().skip(1).all(|parent| is_root(parent) || entries.get(parent) == Some(&Entry::Directory))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ONE: FileNumber = FileNumber(1);
    const TWO: FileNumber = FileNumber(2);

    /// The distinct sets of names that crashes leave.
    fn crashes(names: &Names) -> BTreeSet<String> {
        let left = |seed| {
            let found = names.crash(&mut SplitMix64::new(seed));
            let found: Vec<_> = found.all().map(|(path, entry)| format!("{}={entry:?}", path.display())).collect();
            found.join(" ")
        };
        (0..400).map(left).collect()
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn path(text: &str) -> PathBuf {
        PathBuf::from(text)
    }

    #[test]
    fn a_name_is_durable_once_its_directory_was_flushed() {
        let mut names = Names::default();
        names.add(&path("/a"), Entry::File(ONE));
        assert_eq!(crashes(&names), set(&["", "/a=File(FileNumber(1))"]));
        names.sync(&path("/"));
        assert_eq!(crashes(&names), set(&["/a=File(FileNumber(1))"]));
        names.remove(&path("/a"), ONE);
        assert_eq!(crashes(&names), set(&["", "/a=File(FileNumber(1))"]));
    }

    #[test]
    fn a_rename_that_replaces_leaves_the_old_or_the_new_and_never_nothing() {
        let mut names = Names::default();
        names.add(&path("/a"), Entry::File(ONE));
        names.sync(&path("/"));
        names.add(&path("/a.tmp"), Entry::File(TWO));
        names.rename(&path("/a.tmp"), &path("/a"), TWO);
        let old = "/a=File(FileNumber(1))";
        let beside = "/a=File(FileNumber(1)) /a.tmp=File(FileNumber(2))";
        let new = "/a=File(FileNumber(2))";
        assert_eq!(crashes(&names), set(&[old, beside, new]));
    }

    #[test]
    fn what_lies_in_a_directory_that_vanished_vanishes() {
        let mut names = Names::default();
        names.add(&path("/d"), Entry::Directory);
        names.add(&path("/d/a"), Entry::File(ONE));
        names.sync(&path("/d"));
        assert_eq!(crashes(&names), set(&["", "/d=Directory /d/a=File(FileNumber(1))"]));
    }

    #[test]
    fn renames_between_directories_become_durable_with_what_they_build_on() {
        let mut names = Names::default();
        names.add(&path("/b"), Entry::Directory);
        names.sync(&path("/"));
        names.add(&path("/b/x"), Entry::File(ONE));
        names.add(&path("/a"), Entry::File(TWO));
        names.rename(&path("/a"), &path("/b/x"), TWO);
        names.sync(&path("/"));
        assert_eq!(crashes(&names), set(&["/b=Directory /b/x=File(FileNumber(2))"]));
    }

    #[test]
    fn a_failed_flush_of_a_directory_is_not_made_good_by_the_next() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..50 {
            let mut names = Names::default();
            names.add(&path("/a"), Entry::File(ONE));
            names.lose(&path("/"), &mut SplitMix64::new(seed));
            names.sync(&path("/"));
            assert_eq!(names.get(&path("/a")), Some(Entry::File(ONE)));
            outcomes.extend(crashes(&names));
        }
        assert_eq!(outcomes, set(&["", "/a=File(FileNumber(1))"]));
    }
}
