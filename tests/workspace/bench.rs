//! `stele bench engine`: what it prints, in a run of a few records, whose figures say nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use crate::process::{Ended, command, run};

/// A run that is over soon.
const SHORT: [&str; 8] = ["--hash-records", "200", "--append-records", "1024", "--rounds", "1", "--records", "700"];
/// Each workload and what its figure is called, as the issue "The engine in depth" names them.
const FIGURES: [(&str, &str); 11] = [
    ("canonicalise_hash_chain", "records_per_second_per_core"),
    ("verify_self_hash", "records_per_second_per_core"),
    ("verify_chain", "records_per_second_per_core"),
    ("append_batch_1", "ratio_to_limit"),
    ("append_batch_64", "ratio_to_limit"),
    ("append_batch_1024", "ratio_to_limit"),
    ("append_stream", "records_per_second"),
    ("verify_log", "mib_per_second"),
    ("prove", "p99_us"),
    ("disk", "ratio"),
    ("memory", "mib"),
];

type Row = BTreeMap<String, serde_json::Value>;

fn bench(directory: &Path, words: &[&str]) -> Ended {
    let mut arguments: Vec<&OsStr> = ["bench", "engine", "--dir"].map(OsStr::new).to_vec();
    arguments.push(directory.as_os_str());
    arguments.extend(words.iter().map(OsStr::new));
    run(command(&arguments), b"")
}

fn number(row: &Row, key: &str) -> f64 {
    let value = row.get(key).unwrap_or_else(|| panic!("`{key}` is missing in {row:?}"));
    let value = value.as_f64().unwrap_or_else(|| panic!("`{key}` is no number in {row:?}"));
    assert!(value.is_finite() && value > 0.0, "`{key}` of {row:?}");
    value
}

/// Whether a figure is the other, but for the digits that are printed.
#[track_caller]
fn same(row: &Row, printed: f64, computed: f64) {
    // Four digits behind the point, of seconds that may be a few thousandths.
    let allowed = 0.06 * computed.abs() + 0.0001;
    assert!((printed - computed).abs() <= allowed, "{printed} is not {computed}: {row:?}");
}

fn check_rates(row: &Row) {
    let (records, seconds) = (number(row, "records"), row["seconds"].as_f64().unwrap());
    assert!(number(row, "bytes") >= records && number(row, "rounds") >= 1.0, "{row:?}");
    for rate in ["records_per_second", "records_per_second_per_core"] {
        // What took less than the last digit of `seconds` cannot be computed again.
        if row.contains_key(rate) && seconds >= 0.001 {
            same(row, number(row, rate), records / seconds);
        }
    }
    if row.contains_key("mib_per_second") && seconds >= 0.001 {
        same(row, number(row, "mib_per_second"), number(row, "bytes") / f64::from(1 << 20) / seconds);
    }
}

#[test]
fn every_workload_has_its_figure_and_its_figures_agree() {
    let scratch = tempfile::tempdir().unwrap();
    let output = bench(scratch.path(), &[&["--json"], &SHORT[..]].concat()).output();
    let rows: Vec<Row> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<&str> = rows.iter().map(|row| row["workload"].as_str().unwrap()).collect();
    assert_eq!(found, FIGURES.map(|(workload, _)| workload));
    for (row, (workload, key)) in rows.iter().zip(FIGURES) {
        number(row, key);
        check_rates(row);
        if key == "ratio_to_limit" {
            let ratio = number(row, "records_per_second") / number(row, "limit_records_per_second");
            same(row, number(row, key), ratio);
            let batch: f64 = workload.rsplit('_').next().unwrap().parse().unwrap();
            assert_eq!(number(row, "records"), number(row, "flushes") * batch, "{row:?}");
            assert!(number(row, "bytes_a_flush") >= 1024.0 * batch, "{row:?}");
        }
    }
    let of = |workload: &str| &rows[found.iter().position(|found| *found == workload).unwrap()];
    let prove = of("prove");
    assert!(number(prove, "p50_us") <= number(prove, "p99_us"), "{prove:?}");
    let disk = of("disk");
    same(disk, number(disk, "ratio"), number(disk, "disk_bytes") / number(disk, "bytes"));
    for workload in ["prove", "disk", "memory"] {
        assert_eq!(number(of(workload), "records"), 700.0, "{workload}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "its files are removed");
}

#[test]
fn for_people_there_is_a_line_a_workload_in_columns() {
    let scratch = tempfile::tempdir().unwrap();
    let only = ["--only", "verify_self_hash", "--only", "append_batch_64", "--only", "append_stream"];
    let output = bench(scratch.path(), &[&only, &SHORT[..]].concat()).output();
    let lines: Vec<&str> = output.lines().collect();
    let [heading, rows @ ..] = &lines[..] else { panic!("{output}") };
    let unit_column = heading.find("unit").unwrap();
    let expected = [
        ("verify_self_hash", "records/s on one core", "200 records in "),
        ("append_batch_64", "of the limit", "limit "),
        ("append_stream", "records/s", "1536 records in "),
    ];
    assert_eq!(rows.len(), expected.len(), "{output}");
    for (row, (workload, unit, beside)) in rows.iter().zip(expected) {
        let (left, right) = row.split_at(unit_column);
        let value = left.strip_prefix(workload).unwrap().trim();
        assert!(value.parse::<f64>().unwrap() > 0.0, "{row}");
        assert!(right.starts_with(unit) && right.contains(beside), "{row}");
        assert_eq!(right.rfind(beside), heading.find("beside").map(|at| at - unit_column), "{row}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    bench(&missing, &[]).refused(2, &["--dir", "is not a directory"]);
    let refused: [(&[&str], &str); 5] = [
        (&["--only", "nothing"], "nothing"),
        (&["--records", "0"], "--records"),
        (&["--hash-records", "0"], "--hash-records"),
        (&["--append-records", "1023"], "--append-records"),
        (&["--rounds", "0"], "--rounds"),
    ];
    for (words, named) in refused {
        let ended = bench(scratch.path(), words);
        assert_eq!((ended.code, ended.output.as_str()), (Some(2), ""), "{words:?}: {}", ended.errors);
        assert!(ended.errors.contains(named), "{words:?}: {}", ended.errors);
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
