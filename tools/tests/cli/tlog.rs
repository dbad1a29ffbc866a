//! `stele tlog inclusion|consistency`.

use std::io::{BufRead as _, BufReader, Write as _};

use stele_proof::tree::{leaf_hash, node_hash};

use crate::stele::{Ended, command, stele};

fn inclusion(input: impl AsRef<[u8]>) -> Ended {
    stele(&["tlog", "inclusion"], input)
}

fn consistency(input: impl AsRef<[u8]>) -> Ended {
    stele(&["tlog", "consistency"], input)
}

/// Leaf 0 in the tree of two leaves.
fn inclusion_case() -> String {
    let (left, right) = (leaf_hash(b"0"), leaf_hash(b"1"));
    let root = node_hash(&left, &right);
    format!(r#"{{"index":0,"size":2,"leaf_hash":"{left}","root":"{root}","proof":["{right}"]}}"#)
}

/// From the tree of one leaf to that of two.
fn consistency_case() -> String {
    let (left, right) = (leaf_hash(b"0"), leaf_hash(b"1"));
    let root = node_hash(&left, &right);
    format!(r#"{{"old_size":1,"old_root":"{left}","new_size":2,"new_root":"{root}","proof":["{right}"]}}"#)
}

#[test]
fn each_line_gets_one_answer_and_bad_proofs_are_no_error() {
    let good = inclusion_case();
    let bad = good.replace(r#""index":0"#, r#""index":1"#);
    let beyond = good.replace(r#""index":0"#, r#""index":2"#);
    let answers = inclusion(format!("{good}\n{bad}\n{good}\r\n{beyond}\n  {good}  ")).output();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 5, "{answers:?}");
    assert_eq!([answers[0], answers[2], answers[4]], ["ok"; 3]);
    assert!(answers[1].starts_with("bad: ") && answers[1].contains("root"), "{answers:?}");
    assert_eq!(answers[3], "bad: leaf 2 is not in a tree of size 2");
}

#[test]
fn consistency_from_nothing_is_bad() {
    let good = consistency_case();
    let cases = format!("{good}\n{}\n", good.replace(r#""old_size":1"#, r#""old_size":0"#));
    assert_eq!(consistency(cases).output(), "ok\nbad: the old tree of a consistency proof is empty\n");
}

#[test]
fn no_lines_need_no_answers() {
    assert_eq!(inclusion("").output(), "");
    assert_eq!(consistency("").output(), "");
}

#[test]
fn sizes_up_to_64_bits_end_at_once() {
    let hash = leaf_hash(b"");
    let proof = vec![format!("\"{hash}\""); 900].join(",");
    for (index, size) in [(0, u64::MAX), (u64::MAX - 1, u64::MAX), (1 << 63, u64::MAX), (u64::MAX, u64::MAX), (0, 0)] {
        for proof in ["", &proof] {
            let case =
                format!(r#"{{"index":{index},"size":{size},"leaf_hash":"{hash}","root":"{hash}","proof":[{proof}]}}"#);
            assert!(inclusion(case).output().starts_with("bad: "));
            let case = format!(
                r#"{{"old_size":{index},"old_root":"{hash}","new_size":{size},"new_root":"{hash}","proof":[{proof}]}}"#
            );
            let answer = consistency(case).output();
            // Equal sizes and roots with an empty proof are consistent.
            assert_eq!(answer.starts_with("ok"), index == size && size > 0 && proof.is_empty(), "{answer}");
        }
    }
}

#[test]
fn a_line_that_is_no_case_ends_with_its_number() {
    let good = inclusion_case();
    let hash = leaf_hash(b"1").to_string();
    let cases = [
        (String::new(), "not a JSON object"),
        ("[0,1]".to_owned(), "not a JSON object"),
        ("{".to_owned(), "EOF"),
        ("{}".to_owned(), "missing field `index`"),
        (consistency_case(), "unknown field `old_size`"),
        (good.replace(r#""size":2,"#, ""), "missing field `size`"),
        (good.replace(r#"{"index""#, r#"{"more":1,"index""#), "unknown field `more`"),
        (good.replace(r#"{"index""#, r#"{"index":0,"index""#), "duplicate field `index`"),
        (good.replace(r#""index":0"#, r#""index":-1"#), "-1"),
        (good.replace(r#""index":0"#, r#""index":0.0"#), "0.0"),
        (good.replace(r#""index":0"#, r#""index":18446744073709551616"#), "expected u64"),
        (good.replace(r#""index":0"#, r#""index":"0""#), "string"),
        (good.replace(&hash, &hash.to_uppercase()), "64 lower-case"),
        (good.replace(&hash, &hash[2..]), "64 lower-case"),
        (good.replace(&format!("[\"{hash}\"]"), "null"), "null"),
        (format!("{good}{good}"), "trailing"),
    ];
    for (line, word) in cases {
        let ended = inclusion(format!("{good}\n{line}\n{good}\n"));
        assert_eq!((ended.code, ended.output.as_str()), (Some(1), "ok\n"), "{line}: {}", ended.errors);
        ended.says(&["standard input, line 2", word]);
        assert!(!ended.errors.contains("at line 1"), "{}", ended.errors);
    }
    let mut raw = good.clone().into_bytes();
    raw[2] = 0xff;
    inclusion(raw).refused(1, &["line 1"]);
}

#[test]
fn a_line_has_at_most_64_kib() {
    let good = inclusion_case();
    let fill = " ".repeat(65_535 - good.len());
    assert_eq!(inclusion(format!("{good}{fill}\n{good}\n")).output(), "ok\nok\n");
    let ended = inclusion(format!("{good}\n{good}{fill} \n{good}\n"));
    assert_eq!((ended.code, ended.output.as_str()), (Some(1), "ok\n"));
    ended.says(&["line 2", "65536"]);
}

#[test]
fn an_answer_comes_before_the_next_line() {
    let mut child = command(&["tlog", "inclusion"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        writeln!(input, "{}", inclusion_case()).unwrap();
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}
