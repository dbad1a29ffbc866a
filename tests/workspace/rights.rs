//! What the command line may do with which token.

use std::path::Path;

use stele_engine::environment::Environment;
use stele_tools::remote::runtime;
use stele_tools::sites::{Plan, Sites};

use crate::process::{Ended, command, run, until};

fn stele(words: &[&str], input: &[u8]) -> Ended {
    run(command(&words.iter().map(std::ffi::OsStr::new).collect::<Vec<_>>()), input)
}

/// Makes a token; its file, and its hash.
fn token(directory: &Path, name: &str) -> (String, String) {
    let path = directory.join(name).to_str().unwrap().to_owned();
    let hash = stele(&["keys", "token", "-o", &path], b"").output().trim_end().to_owned();
    (path, hash)
}

#[test]
fn a_token_gives_the_rights_of_its_table_and_whoever_lacks_them_ends_with_code_5() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, of_writer) = token(directory.path(), "writer");
    let (reader, of_reader) = token(directory.path(), "reader");
    let (operator, of_operator) = token(directory.path(), "operator");
    let (stranger, _) = token(directory.path(), "stranger");
    let extra = format!(
        "access = [{{ token = \"{of_writer}\", roles = [\"writer\"], writers = [\"w\"], streams = [\"s*\"] }}, \
         {{ token = \"{of_reader}\", roles = [\"reader\"] }}, {{ token = \"{of_operator}\", roles = [\"operator\"] }}]\n"
    );
    let sites = directory.path().join("sites");
    let plan = Plan { directory: &sites, sites: 1, extra: &extra, delay: None };
    // Its process ends with it.
    let sites = runtime().map_err(|failure| failure.to_string()).unwrap().block_on(async {
        let mut sites =
            Sites::make(&Environment::system(), &plan).await.map_err(|failure| failure.to_string()).unwrap();
        sites.start().map_err(|failure| failure.to_string()).unwrap();
        sites
    });
    let endpoint = sites.reach().endpoint.join(",");
    let with = |token: &str, words: &[&str], input: &str| {
        let mut words = words.to_vec();
        words.extend(["--endpoint", &endpoint, "--token-file", token]);
        stele(&words, input.as_bytes())
    };
    until("the log has its first record", || with(&reader, &["read", "0"], "").code == Some(0));

    let append = |writer: &'static str| ["append", "--stream", "s1", "--writer", writer, "--kind", "Line", "-"];
    // The second time it goes on behind a head, which it reads.
    for _ in 0..2 {
        with(&writer, &append("w"), "one\ntwo\n").output();
    }
    with(&writer, &append("v"), "one\n").refused(5, &[]);
    with(&reader, &append("w"), "one\n").refused(5, &["writer"]);
    with(&stranger, &append("w"), "one\n").refused(5, &["not known"]);
    stele(&["read", "--endpoint", &endpoint, "0"], b"").refused(5, &["not known"]);
    with(&writer, &["read", "0"], "").refused(5, &["reader"]);
    with(&reader, &["segment", "seal"], "").refused(5, &["operator"]);
    with(&operator, &["segment", "seal"], "").output();
    assert_eq!(with(&reader, &["read", "1..5"], "").output().lines().count(), 4);
    let measured = with(&reader, &["bench", "append", "--seconds", "1", "--in-flight", "4", "--json"], "");
    measured.failed(1, &["no record was acknowledged", "writer"]);
    assert!(measured.output.contains("\"acked\":0,"), "{}", measured.output);
}
