//! The tables that say which test shows what name tests that exist.
//!
//! A row is `| line | what | tests |`: the tests' names in backticks, with commas between them, or `none yet: why`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The tables, and how many rows each has where that is fixed elsewhere.
const TABLES: [(&str, Option<usize>); 2] = [("docs/gates.md", Some(13)), ("docs/faults.md", None)];
const NONE_YET: &str = "none yet: ";

/// A row of a table.
#[derive(PartialEq, Eq, Debug)]
struct Row {
    line: String,
    tests: Vec<String>,
}

/// The rows of the first table of a page.
fn rows(page: &str) -> Result<Vec<Row>, String> {
    let table =
        page.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    table.map(row).collect()
}

fn row(text: &str) -> Result<Row, String> {
    let cells =
        text.strip_prefix('|').and_then(|text| text.strip_suffix('|')).map(|text| text.split('|').map(str::trim));
    let cells: Vec<_> = cells.ok_or_else(|| format!("no row: {text}"))?.collect();
    let [line, what, tests] = cells[..] else { return Err(format!("a row has three cells: {text}")) };
    if line.is_empty() || what.is_empty() {
        return Err(format!("an empty cell: {text}"));
    }
    let row = |tests| Row { line: line.to_owned(), tests };
    if tests.starts_with(NONE_YET) {
        return Ok(row(Vec::new()));
    }
    let name = |cell: &str| {
        let name = cell.trim().strip_prefix('`')?.strip_suffix('`')?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        is_name.then(|| name.to_owned())
    };
    let names: Option<Vec<_>> = tests.split(',').map(name).collect();
    names.map(row).ok_or_else(|| format!("the third cell names tests, or says `{NONE_YET}` and why: {text}"))
}

/// The names of all tests in a source: functions behind `#[test]` or `#[tokio::test]`, with other attributes between.
fn tests_in(source: &str) -> BTreeSet<String> {
    let (mut found, mut is_test) = (BTreeSet::new(), false);
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(function) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            if is_test {
                found.extend(function.split(['(', '<']).next().map(str::to_owned));
            }
            is_test = false;
        }
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_a_table_names_exists() {
    let mut paths = Vec::new();
    sources(Path::new(ROOT), &mut paths);
    let known: BTreeSet<String> =
        paths.iter().flat_map(|path| tests_in(&std::fs::read_to_string(path).unwrap())).collect();
    let own = "every_test_that_a_table_names_exists";
    assert!(known.contains(own) && known.len() > 400, "{} tests were found", known.len());
    for (table, count) in TABLES {
        let path = Path::new(ROOT).join(table);
        if !path.exists() {
            continue;
        }
        let rows = rows(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("{table}: {error}"));
        assert!(!rows.is_empty() && count.is_none_or(|count| rows.len() == count), "{table} has {} rows", rows.len());
        let lines: BTreeSet<_> = rows.iter().map(|row| &row.line).collect();
        assert_eq!(lines.len(), rows.len(), "{table} has a line twice");
        for row in &rows {
            for test in &row.tests {
                assert!(known.contains(test), "{table}, {}: there is no test `{test}`", row.line);
            }
        }
    }
}

#[test]
fn a_row_without_tests_says_why_and_a_function_that_is_no_test_shows_nothing() {
    let page =
        "text\n\n| a | b | c |\n|---|---|---|\n| 1 | x | `one`, `two` |\n| 2 | y | none yet: z |\n\n| 3 | w | w |\n";
    let row = |line: &str, tests: &[&str]| Row {
        line: line.to_owned(),
        tests: tests.iter().map(|test| (*test).to_owned()).collect(),
    };
    assert_eq!(rows(page).unwrap(), [row("1", &["one", "two"]), row("2", &[])]);
    for bad in [
        "| 1 | x |  |",
        "| 1 | x | one |",
        "| 1 | x | `one` `two` |",
        "| 1 | x |",
        "| 1 | x | none |",
        "|  | x | `a` |",
    ] {
        assert!(rows(&page.replace("| 2 | y | none yet: z |", bad)).is_err(), "{bad}");
    }
    let source = "fn helper() {}\n#[test]\n#[ignore]\nfn shown() {}\nfn other() {}\n    #[test]\n    fn prop_inner(a in 0..1) {}";
    assert_eq!(tests_in(source).into_iter().collect::<Vec<_>>(), ["prop_inner", "shown"]);
}
