//! The pages that name the test of every line name tests that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Pages whose tables have the tests in their last column.
const PAGES: [&str; 1] = ["docs/faults.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all tests of the workspace.
fn tests(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            tests(&path, found);
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.lines().map(str::trim);
            while lines.any(|line| line == "#[test]") {
                let function = lines.find_map(|line| line.strip_prefix("fn "));
                found.extend(function.and_then(|rest| rest.split('(').next()).map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut existing = BTreeSet::new();
    tests(&root(), &mut existing);
    assert!(existing.contains("every_test_that_a_page_names_exists"));
    for page in PAGES {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert!(rows.len() > 10, "{page} has {} rows", rows.len());
        for row in rows {
            let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
            let names: Vec<&str> = cell.split(", ").map(|name| name.trim_matches('`')).collect();
            for name in names {
                assert!(existing.contains(name), "{page}: there is no test `{name}`, named in: {row}");
            }
        }
    }
}
