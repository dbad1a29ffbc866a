use super::*;
use crate::cosignature::cosign;
use crate::key::SigningKey;
use crate::note::fixture::{
    CHECKPOINT, COSIGNER_VKEY, LOG_VKEY, ORIGIN, POLICY, SIGNED, TIME, bit_flips, checkpoint, cosigned, cosigner_key,
    key, log_key,
};
use crate::note::{LineError, SignatureLine, sign, signature_line};
use crate::{key::SignatureError, number::TreeSize};

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap()
}

fn witness_key(seed: u8) -> SigningKey {
    key(&format!("w{seed}.example/witness"), KeyKind::CosignatureEd25519, seed)
}

/// The line of the witness `w<seed>`.
fn witness_line(seed: u8) -> String {
    format!("witness w{seed} {}\n", witness_key(seed).verifier_key())
}

/// The checkpoint, signed by the log and cosigned by these witnesses, each a second after the other.
fn cosigned_by(seeds: &[u8]) -> String {
    let mut lines = vec![signature_line(CHECKPOINT, &log_key()).unwrap()];
    for seed in seeds {
        let time = UnixSeconds::new(TIME.get() + u64::from(*seed));
        lines.push(cosign(&checkpoint(), &witness_key(*seed), time).unwrap());
    }
    Note::new(CHECKPOINT, lines).unwrap().to_string()
}

/// Two groups of three witnesses: two of the first, any of the second.
fn two_levels() -> String {
    let witnesses: String = (11..=16).map(witness_line).collect();
    format!(
        "log {LOG_VKEY}\n{witnesses}group x 2 w11 w12 w13\ngroup y any w14 w15 w16\n\
         group x-and-y all x y\nquorum x-and-y\n"
    )
}

#[test]
fn golden_policy_both_ways() {
    let parsed = policy(POLICY);
    assert_eq!(parsed.to_string(), POLICY);
    assert_eq!(parsed.logs()[0].key().to_string(), LOG_VKEY);
    let witnesses: Vec<_> = parsed.witnesses().map(|w| (w.name(), w.key().to_string())).collect();
    assert_eq!(witnesses, [("n1", COSIGNER_VKEY.to_owned())]);
    assert_eq!(parsed.quorum(), Some("sites"));

    let mut builder = PolicyBuilder::default();
    builder.log(log_key().verifier_key().clone(), None).unwrap();
    builder.witness("n1", cosigner_key().verifier_key().clone(), None).unwrap();
    builder.group("site-local", Threshold::Any, &["n1"]).unwrap();
    builder.group("sites", Threshold::All, &["site-local"]).unwrap();
    builder.quorum("sites").unwrap();
    assert_eq!(builder.finish().unwrap(), parsed);
}

#[test]
fn comments_blanks_tabs_urls_and_order_are_free() {
    let text = format!(
        "# comment\n\n \t \n  # another \u{e9}\n\tlog\t {LOG_VKEY}  https://log.example/ \n{}\
         group g 1 w11\nquorum g\n{}",
        witness_line(11),
        witness_line(12).replace('\n', " https://w.example/\n"),
    );
    let parsed = policy(&text);
    assert_eq!(parsed.logs()[0].url(), Some("https://log.example/"));
    assert_eq!(parsed.witnesses().map(PolicyWitness::url).collect::<Vec<_>>(), [None, Some("https://w.example/")]);
    assert_eq!(parsed.quorum(), Some("g"));
    let canonical = parsed.to_string();
    assert_eq!(policy(&canonical), parsed);
    assert_eq!(policy(&canonical).to_string(), canonical);
    assert_eq!(policy("quorum none\n").to_string(), "quorum none\n");
}

#[test]
fn names_are_compared_by_bytes() {
    let text = format!(
        "{}{}group g any K \u{212a}\nquorum g\n",
        witness_line(11).replace("w11 ", "K "),
        witness_line(12).replace("w12 ", "\u{212a} "),
    );
    assert_eq!(policy(&text).witnesses().count(), 2);
}

#[test]
fn a_checkpoint_that_meets_the_policy_is_verified() {
    let verified = policy(POLICY).verify_checkpoint(cosigned().as_bytes()).unwrap();
    assert_eq!(verified.checkpoint(), &checkpoint());
    assert_eq!(verified.log_keys(), [log_key().verifier_key().id()]);
    let expected = WitnessTime { witness: "n1".to_owned(), time: TIME };
    assert_eq!(verified.cosignatures(), [expected]);
    assert!(policy(&format!("log {LOG_VKEY}\nquorum none\n")).verify_checkpoint(SIGNED.as_bytes()).is_ok());
}

#[test]
fn every_bit_flip_of_a_cosigned_checkpoint_is_refused() {
    let strict = policy(POLICY);
    let lax = policy(&POLICY.replace("quorum sites", "quorum none"));
    for (bit, bytes) in bit_flips(cosigned().as_bytes()) {
        assert!(strict.verify_checkpoint(&bytes).is_err(), "bit {bit}");
        if let Ok(verified) = lax.verify_checkpoint(&bytes) {
            assert_eq!(verified.checkpoint(), &checkpoint(), "bit {bit}");
            assert!(verified.cosignatures().is_empty());
        }
    }
}

#[test]
fn a_quorum_that_is_not_met_names_the_witnesses() {
    let refused = policy(&two_levels()).verify_checkpoint(cosigned_by(&[11, 14, 16]).as_bytes());
    let names = |seeds: &[u8]| seeds.iter().map(|seed| format!("w{seed}")).collect::<Vec<_>>();
    let error = PolicyError::QuorumNotMet {
        quorum: "x-and-y".to_owned(),
        present: names(&[11, 14, 16]),
        missing: names(&[12, 13, 15]),
    };
    assert_eq!(refused, Err(error));
}

#[test]
fn every_subset_of_witnesses_meets_what_it_should() {
    let policy = policy(&two_levels());
    for subset in 0..64_u32 {
        let seeds: Vec<u8> = (11..=16).filter(|seed| subset >> (seed - 11) & 1 == 1).collect();
        let expected = (subset & 0b111).count_ones() >= 2 && subset >> 3 != 0;
        let verified = policy.verify_checkpoint(cosigned_by(&seeds).as_bytes());
        assert_eq!(verified.is_ok(), expected, "{seeds:?}");
        if let Ok(verified) = verified {
            let times = verified.cosignatures().iter().map(|c| (c.witness.clone(), c.time.get()));
            let expected = seeds.iter().map(|s| (format!("w{s}"), TIME.get() + u64::from(*s)));
            assert!(times.eq(expected));
        }
    }
}

#[test]
fn every_threshold_counts() {
    let witnesses: String = (11..=13).map(witness_line).collect();
    for (word, needed) in [("1", 1), ("2", 2), ("3", 3), ("any", 1), ("all", 3)] {
        let text = format!("log {LOG_VKEY}\n{witnesses}group g {word} w11 w12 w13\nquorum g\n");
        assert_eq!(policy(&text).to_string(), text);
        for present in 0..=3 {
            let verified = policy(&text).verify_checkpoint(cosigned_by(&[13, 11, 12][..present]).as_bytes());
            assert_eq!(verified.is_ok(), present >= needed, "{word} {present}");
        }
    }
    let alone = format!("log {LOG_VKEY}\n{witnesses}quorum w12\n");
    assert!(policy(&alone).verify_checkpoint(cosigned_by(&[12]).as_bytes()).is_ok());
    assert!(policy(&alone).verify_checkpoint(cosigned_by(&[11, 13]).as_bytes()).is_err());
}

#[test]
fn only_a_log_key_of_the_origin_makes_a_checkpoint() {
    let no_log = || PolicyError::NoLogSignature { origin: Origin::new(ORIGIN).unwrap() };
    let policy_with_two_logs = {
        let other = key("other.example/log", KeyKind::Ed25519, 21);
        policy(&format!("log {}\n{POLICY}", other.verifier_key()))
    };
    // Signed by a witness only, by nobody known, by another log of the policy, by an unknown key of the name.
    let witness_only = Note::new(CHECKPOINT, vec![cosign(&checkpoint(), &cosigner_key(), TIME).unwrap()]).unwrap();
    let unknown = sign(CHECKPOINT, &[&key(ORIGIN, KeyKind::Ed25519, 22)]).unwrap();
    let other = sign(CHECKPOINT, &[&key("other.example/log", KeyKind::Ed25519, 21)]).unwrap();
    for note in [witness_only.to_string(), unknown, other] {
        assert_eq!(policy_with_two_logs.verify_checkpoint(note.as_bytes()), Err(no_log()), "{note}");
    }
    assert!(policy_with_two_logs.verify_checkpoint(cosigned().as_bytes()).is_ok());
    assert_eq!(policy("quorum none\n").verify_checkpoint(SIGNED.as_bytes()), Err(no_log()));
}

#[test]
fn several_log_keys_of_one_origin_may_sign() {
    let next = key(ORIGIN, KeyKind::Ed25519, 23);
    let policy = policy(&format!("log {LOG_VKEY}\nlog {}\nquorum none\n", next.verifier_key()));
    let note = sign(CHECKPOINT, &[&next, &log_key()]).unwrap();
    let verified = policy.verify_checkpoint(note.as_bytes()).unwrap();
    assert_eq!(verified.log_keys(), [next.verifier_key().id(), log_key().verifier_key().id()]);
    let note = sign(CHECKPOINT, &[&next]).unwrap();
    assert!(policy.verify_checkpoint(note.as_bytes()).is_ok());
}

#[test]
fn bad_signatures_and_malformed_notes_are_told_apart() {
    let policy = policy(POLICY);
    let cosigner = cosigner_key();
    let late = SignatureLine::new(
        cosigner.verifier_key().name().clone(),
        cosigner.verifier_key().id(),
        [&(1_u64 << 63).to_be_bytes()[..], &[0; 64]].concat(),
    );
    let bad = format!("{SIGNED}{}\n", late.unwrap());
    let error = PolicyError::Signature(VerifyError::Invalid {
        name: cosigner.verifier_key().name().clone(),
        id: cosigner.verifier_key().id(),
        source: SignatureError::TimeTooLate { seconds: 1 << 63 },
    });
    assert_eq!(policy.verify_checkpoint(bad.as_bytes()), Err(error));

    let larger = Checkpoint { size: TreeSize::new(4), ..checkpoint() };
    let other_tree = cosigned().replace(CHECKPOINT, &larger.to_string());
    assert!(matches!(policy.verify_checkpoint(other_tree.as_bytes()), Err(PolicyError::Signature(_))));

    let repeated = format!("{}{}\n", cosigned(), cosigned().lines().last().unwrap());
    let refused = policy.verify_checkpoint(repeated.as_bytes());
    assert!(matches!(refused, Err(PolicyError::Signature(VerifyError::Repeated { .. }))));

    assert_eq!(policy.verify_checkpoint(b""), Err(PolicyError::Note(NoteError::NoFinalLineFeed)));
    let line = NoteError::Line { line: 3, source: LineError::Prefix };
    assert_eq!(policy.verify_checkpoint(b"a\n\nb\n"), Err(PolicyError::Note(line)));
    let extended = sign(&format!("{CHECKPOINT}extension\n"), &[&log_key()]).unwrap();
    let error = PolicyError::Checkpoint(CheckpointError::Extension);
    assert_eq!(policy.verify_checkpoint(extended.as_bytes()), Err(error));
}

#[test]
fn malformed_texts_are_refused() {
    let limit = MAX_POLICY_BYTES;
    let huge = vec![b'\n'; limit + 1];
    let error = PolicyTextError::TooLong { found: limit + 1, limit };
    assert_eq!(Policy::parse(&huge), Err(error));
    assert_eq!(Policy::parse(b"#\xff\n"), Err(PolicyTextError::NotUtf8 { at: 1 }));
    assert_eq!(Policy::parse(b""), Err(PolicyTextError::NoFinalLineFeed));
    assert_eq!(Policy::parse(b"quorum none"), Err(PolicyTextError::NoFinalLineFeed));
    for byte in [0, 0x0b, b'\r', 0x1f, 0x7f] {
        let text = [b"quorum none\n#".as_slice(), &[byte, b'\n']].concat();
        assert_eq!(Policy::parse(&text), Err(PolicyTextError::Control { line: 2, byte }));
    }
    let lines = |count: usize| format!("{}quorum none\n", "#\n".repeat(count - 1));
    assert!(Policy::parse(lines(MAX_POLICY_LINES).as_bytes()).is_ok());
    let error = PolicyTextError::TooManyLines { limit: MAX_POLICY_LINES };
    assert_eq!(Policy::parse(lines(MAX_POLICY_LINES + 1).as_bytes()), Err(error));
    let error = PolicyTextError::Whole(PolicyRuleError::NoQuorum);
    assert_eq!(Policy::parse(POLICY.replace("quorum sites\n", "").as_bytes()), Err(error));
}

/// What the third line of a policy is refused for, after two witnesses.
fn third_line(line: &str) -> PolicyRuleError {
    let text = format!("{}{}{line}\nquorum w11\n", witness_line(11), witness_line(12));
    match Policy::parse(text.as_bytes()) {
        Err(PolicyTextError::Line { line: 3, source }) => source,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn malformed_lines_are_refused() {
    let words = [
        "log",
        "log a b c",
        "witness",
        "witness a",
        "witness a b c d",
        "group",
        "group g",
        "quorum",
        "quorum a b",
        "Log x",
        "logs x",
        "w11",
    ];
    for line in words {
        let keyword = line.split(' ').next().unwrap().to_owned();
        assert_eq!(third_line(line), PolicyRuleError::Words { keyword }, "{line}");
    }
    assert_eq!(third_line("log x"), PolicyRuleError::Key(KeyError::Fields));
    assert_eq!(third_line("witness x y"), PolicyRuleError::Key(KeyError::Fields));
    let (log, cosignature) = (KeyKind::Ed25519, KeyKind::CosignatureEd25519);
    let wrong = |expected, found| PolicyRuleError::WrongKind { expected, found };
    assert_eq!(third_line(&format!("log {COSIGNER_VKEY}")), wrong(log, cosignature));
    assert_eq!(third_line(&format!("witness x {LOG_VKEY}")), wrong(cosignature, log));
    for word in ["k", "-1", "+1", "01", "1.5", "ALL", "18446744073709551616"] {
        let error = PolicyRuleError::ThresholdText { word: word.to_owned() };
        assert_eq!(third_line(&format!("group g {word} w11")), error);
    }
    let threshold = |threshold, members| PolicyRuleError::Threshold { threshold, members };
    assert_eq!(third_line("group g 0 w11"), threshold(Threshold::AtLeast(0), 1));
    assert_eq!(third_line("group g 3 w11 w12"), threshold(Threshold::AtLeast(3), 2));
    assert_eq!(third_line("group g 18446744073709551615 w11"), threshold(Threshold::AtLeast(usize::MAX), 1));
    assert_eq!(third_line("group g any"), threshold(Threshold::Any, 0));
    assert_eq!(third_line("group g all"), threshold(Threshold::All, 0));
    let unknown = |name: &str| PolicyRuleError::UnknownName { name: name.to_owned() };
    assert_eq!(third_line("group g all w11 nobody"), unknown("nobody"));
    assert_eq!(third_line("group g all w11 none"), unknown("none"));
    assert_eq!(third_line("group g all g"), unknown("g"));
    assert_eq!(third_line("quorum nobody"), unknown("nobody"));
    let taken = |name: &str| PolicyRuleError::NameTaken { name: name.to_owned() };
    assert_eq!(third_line("group w11 all w12"), taken("w11"));
    assert_eq!(third_line("group none all w12"), taken("none"));
    assert_eq!(third_line(&format!("witness w12 {COSIGNER_VKEY}")), taken("w12"));
    let twice = PolicyRuleError::MemberTwice { name: "w11".to_owned() };
    assert_eq!(third_line("group g any w11 w12 w11"), twice);
}

#[test]
fn names_are_members_once_and_groups_cannot_circle() {
    let line = |number, source| Err(PolicyTextError::Line { line: number, source });
    let witnesses = format!("{}{}", witness_line(11), witness_line(12));
    let text = format!("{witnesses}group g any w11\ngroup h all w11 w12\nquorum h\n");
    let twice = PolicyRuleError::MemberTwice { name: "w11".to_owned() };
    assert_eq!(Policy::parse(text.as_bytes()), line(4, twice));
    let text = format!("{witnesses}group g any h\ngroup h any g\nquorum g\n");
    assert_eq!(Policy::parse(text.as_bytes()), line(3, PolicyRuleError::UnknownName { name: "h".to_owned() }));
    let text = format!("{witnesses}quorum g\ngroup g any w11\n");
    assert_eq!(Policy::parse(text.as_bytes()), line(3, PolicyRuleError::UnknownName { name: "g".to_owned() }));
    let text = format!("{witnesses}quorum w11\nquorum w11\n");
    assert_eq!(Policy::parse(text.as_bytes()), line(4, PolicyRuleError::SecondQuorum));
    let text = "quorum none\nquorum none\n";
    assert_eq!(Policy::parse(text.as_bytes()), line(2, PolicyRuleError::SecondQuorum));
}

#[test]
fn a_public_key_occurs_once() {
    // The same line, the same key under another name, and a log's key as a witness's.
    for (first, second) in [
        (key("a", KeyKind::Ed25519, 9), key("a", KeyKind::Ed25519, 9)),
        (key("a", KeyKind::Ed25519, 9), key("b", KeyKind::Ed25519, 9)),
        (key("a", KeyKind::CosignatureEd25519, 9), key("b", KeyKind::CosignatureEd25519, 9)),
        (key("a", KeyKind::Ed25519, 9), key("a", KeyKind::CosignatureEd25519, 9)),
    ] {
        let line = |name, key: &SigningKey| match key.verifier_key().kind() {
            KeyKind::Ed25519 => format!("log {}\n", key.verifier_key()),
            KeyKind::CosignatureEd25519 => format!("witness {name} {}\n", key.verifier_key()),
        };
        let text = format!("{}{}quorum none\n", line("x", &first), line("y", &second));
        let source = PolicyRuleError::DuplicateKey {
            name: second.verifier_key().name().clone(),
            id: second.verifier_key().id(),
        };
        assert_eq!(Policy::parse(text.as_bytes()), Err(PolicyTextError::Line { line: 2, source }));
    }
}

#[test]
fn words_that_a_line_cannot_carry_are_refused() {
    let mut builder = PolicyBuilder::default();
    for word in ["", "a b", "a\tb", "a\n", "a\u{7f}"] {
        let error = Err(PolicyRuleError::NotAWord { word: word.to_owned() });
        assert_eq!(builder.witness(word, cosigner_key().verifier_key().clone(), None), error);
        assert_eq!(builder.witness("w", cosigner_key().verifier_key().clone(), Some(word)), error);
        assert_eq!(builder.log(log_key().verifier_key().clone(), Some(word)), error);
        assert_eq!(builder.group(word, Threshold::Any, &["w"]), error);
    }
    // Nothing of a refused call stays.
    assert!(builder.witness("w", cosigner_key().verifier_key().clone(), None).is_ok());
    assert!(builder.log(log_key().verifier_key().clone(), None).is_ok());
}

#[test]
fn groups_nest_as_deep_as_lines_allow() {
    let mut text = format!("log {LOG_VKEY}\n{}group g0 any w11\n", witness_line(11));
    let last = MAX_POLICY_LINES - 4;
    for depth in 1..=last {
        text.push_str(&format!("group g{depth} all g{}\n", depth - 1));
    }
    text.push_str(&format!("quorum g{last}\n"));
    assert_eq!(text.lines().count(), MAX_POLICY_LINES);
    let policy = policy(&text);
    assert_eq!(policy.to_string(), text);
    assert!(policy.verify_checkpoint(cosigned_by(&[11]).as_bytes()).is_ok());
    assert!(policy.verify_checkpoint(cosigned_by(&[]).as_bytes()).is_err());

    let mut builder = PolicyBuilder::default();
    builder.witness("w", witness_key(11).verifier_key().clone(), None).unwrap();
    for depth in 0..MAX_POLICY_LINES {
        let member = if depth == 0 { "w".to_owned() } else { format!("g{}", depth - 1) };
        builder.group(&format!("g{depth}"), Threshold::Any, &[&member]).unwrap();
    }
    builder.quorum("w").unwrap();
    assert_eq!(builder.finish(), Err(PolicyRuleError::TooLong));
}

/// All subsets of six witnesses: gathered from checkpoints that each lack the quorum, and cosigning one together.
#[test]
fn what_several_checkpoints_have_together_counts_as_if_one_had_it() {
    let policy = policy(&two_levels());
    for subset in 0_u8..1 << 6 {
        let seeds: Vec<u8> = (0..6).filter(|bit| subset >> bit & 1 == 1).map(|bit| 11 + bit).collect();
        let mut gathered = BTreeSet::new();
        for seed in &seeds {
            let read = policy.read_checkpoint(cosigned_by(&[*seed]).as_bytes()).unwrap();
            assert_eq!(read.checkpoint(), &checkpoint());
            assert_eq!(read.witnesses(), [format!("w{seed}")]);
            gathered.extend(read.witnesses().iter().cloned());
        }
        let together = policy.verify_checkpoint(cosigned_by(&seeds).as_bytes());
        assert_eq!(policy.is_met_by(&gathered), together.is_ok(), "{seeds:?}");
    }
    assert!(!policy.is_met_by(&BTreeSet::from(["stranger".to_owned()])));
    let unsigned = Note::new(CHECKPOINT, vec![cosign(&checkpoint(), &witness_key(11), TIME).unwrap()]).unwrap();
    let refused = policy.read_checkpoint(unsigned.to_string().as_bytes());
    assert!(matches!(refused, Err(PolicyError::NoLogSignature { .. })), "{refused:?}");
}
