//! `stele record hash|canon|check`.

use stele_proof::record::SelfHash;

use crate::stele::{Ended, stele};

const RECORD: &str = r#"{"v":1,"ts_ms":1730246400000,"writer_id":"svc-gateway@inst-1","seq":1,"stream":"ingress","kind":"GetServed","actor":{"anon":true},"subject":{},"reason":"ok","attrs":{},"prev":"b3:0"}"#;
const HASH: &str = "b3:0c1a9dc479041a90fc084e5090d29f743f179a895a73f31181110c02f65ee001";

fn record(verb: &str, input: impl AsRef<[u8]>) -> Ended {
    stele(&["record", verb], input)
}

fn finished(canonical: &str, hash: &str) -> String {
    format!(r#"{},"self_hash":"{hash}"}}"#, canonical.strip_suffix('}').expect("a record is an object"))
}

fn with_attrs(attrs: &str) -> String {
    RECORD.replace(r#""attrs":{}"#, &format!(r#""attrs":{attrs}"#))
}

#[test]
fn hash_and_check_take_both_forms_and_one_line_feed() {
    for form in [RECORD.to_owned(), finished(RECORD, HASH)] {
        for end in ["", "\n"] {
            assert_eq!(record("hash", format!("{form}{end}")).output(), format!("{HASH}\n"));
            assert_eq!(record("check", format!("{form}{end}")).output(), format!("ok {HASH}\n"));
        }
        for end in ["\n\n", " ", "\r\n", " \n"] {
            record("hash", format!("{form}{end}")).refused(3, &["refused", "white space", "one final line feed"]);
            record("check", format!("{form}{end}")).refused(3, &["refused", "white space", "one final line feed"]);
        }
    }
}

#[test]
fn a_wrong_self_hash_is_refused_with_both_hashes() {
    let wrong = HASH.replace("e001", "e002");
    for verb in ["hash", "check", "canon"] {
        record(verb, finished(RECORD, &wrong)).refused(3, &["`self_hash`", HASH]);
    }
    record("check", finished(&RECORD.replace("ok", "no"), HASH)).refused(3, &["`self_hash`", HASH]);
}

#[test]
fn refusals_name_the_field_and_the_rule() {
    let cases = [
        (RECORD.replace(r#""seq":1"#, r#""seq":0"#), "`seq`", "at least 1"),
        (RECORD.replace(r#"{"v":1"#, r#"{"v":2"#), "`v`", "must be 1"),
        (with_attrs(r#"{"n":0.5}"#), "`attrs`", "integer"),
        (with_attrs(r#"{"b":1,"a":1}"#), "`attrs`", "out of order"),
        (with_attrs(&format!(r#"{{"a":"{}"}}"#, "x".repeat(1017))), "`attrs` has 1025 bytes", "1024"),
        (RECORD.replace("ingress", "e\u{301}"), "`stream`", "normalization form C"),
        (with_attrs(&format!(r#"{{"a":"{}"}}"#, "x".repeat(3909))), "record has 4097 bytes", "4096"),
    ];
    for (input, field, rule) in cases {
        for verb in ["hash", "check"] {
            record(verb, &input).refused(3, &["the record is refused: ", field, rule]);
        }
    }
}

#[test]
fn only_where_canon_would_help_it_is_the_remedy() {
    let shuffled = with_attrs(r#"{"b":1,"a":1}"#);
    record("check", &shuffled).refused(3, &["`stele record canon`"]);
    record("check", record("canon", &shuffled).output()).output();
    let hopeless = with_attrs(r#"{"b":1,"a":1.5}"#);
    assert!(!record("check", &hopeless).errors.contains("canon`"));
    record("canon", &hopeless).refused(3, &["integer"]);
}

#[test]
fn the_largest_finished_record_is_read_and_nothing_larger() {
    let pad = 4096 - RECORD.len() - r#""name":"""#.len();
    let largest = RECORD.replace(r#""subject":{}"#, &format!(r#""subject":{{"name":"{}"}}"#, "x".repeat(pad)));
    assert_eq!(largest.len(), 4096);
    let hash = SelfHash::of(largest.as_bytes()).to_string();
    assert_eq!(record("check", finished(&largest, &hash) + "\n").output(), format!("ok {hash}\n"));
    record("check", vec![b'x'; 4180]).refused(3, &["4179", "4096"]);
    record("hash", vec![b' '; 1 << 20]).refused(3, &["4179", "4096"]);
    record("canon", vec![b' '; (256 << 10) + 1]).refused(3, &["262144"]);
}

#[test]
fn unassigned_characters_are_refused_at_intake_only() {
    let unassigned = RECORD.replace("ingress", "\u{378}");
    record("hash", &unassigned).output();
    record("canon", &unassigned).output();
    record("check", &unassigned).refused(3, &["U+0378", "not assigned"]);
}

#[test]
fn canon_reorders_normalises_and_drops_self_hash() {
    let loose = r#" { "prev":"b3:0", "attrs":{"b":"\u0041","a":1}, "reason":"ok", "subject":{}, "actor":{"anon":true},
        "kind":"GetServed", "stream":"e\u0301", "seq":1, "writer_id":"svc-gateway@inst-1", "ts_ms":1730246400000, "v":1 }
        "#;
    let canonical = with_attrs(r#"{"a":1,"b":"A"}"#).replace("ingress", "\u{e9}");
    assert_eq!(record("canon", loose).output(), format!("{canonical}\n"));
    assert_eq!(record("canon", finished(RECORD, HASH)).output(), format!("{RECORD}\n"));
}

#[test]
fn canon_refuses_what_no_order_can_mend() {
    let cases = [
        (with_attrs(r#"{"e\u0301":1,"\u00e9":2}"#), "occurs twice"),
        (with_attrs("{\"a\":1e3}"), "integer"),
        (RECORD.replace(r#""reason":"ok","#, ""), "`reason` is missing"),
        (RECORD.replace(r#""reason":"ok""#, r#""reason":"ok","more":1"#), "`more`"),
        (format!("{RECORD}{RECORD}"), "not JSON"),
        ("\u{feff}".to_owned() + RECORD, "not JSON"),
        (String::new(), "not JSON"),
        ("[".repeat(100_000), "record"),
    ];
    for (input, word) in cases {
        record("canon", input).refused(3, &["the record is refused", word]);
    }
}
