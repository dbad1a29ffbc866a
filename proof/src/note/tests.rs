use proptest::prelude::*;

use super::fixture::{
    CHECKPOINT, COSIGNER_VKEY, LOG_PRIVATE, LOG_VKEY, ORIGIN, SIGNED, bit_flips, cosigned,
    cosigner_key, flip, key, log_key,
};
use super::*;

const TEXT: &str = "It is signed.\n\nThis line too.\n";

/// [`TEXT`], signed by the log key of the fixture with another implementation.
const TEXT_SIGNED: &str = "It is signed.

This line too.

\u{2014} example.com/log m+XTxvMiwDtCdvtEuTKCcntGKJLPlib6Z7N++zu8A0kL3tdKfxlQ9u3qYoc3mgWtAfov18fYVpF+DJQBDsWyHD7LvQE=
";

fn verifier(text: &str) -> VerifierKey {
    VerifierKey::parse(text).unwrap()
}

fn name(text: &str) -> KeyName {
    KeyName::new(text).unwrap()
}

/// A line by a key that nobody knows.
fn unknown_line(number: usize) -> SignatureLine {
    let id = KeyId::new(u32::try_from(number).unwrap().to_be_bytes());
    SignatureLine::new(name("elsewhere.example/key"), id, vec![7; 64]).unwrap()
}

fn signed_with(extra: impl IntoIterator<Item = SignatureLine>) -> String {
    let lines: String = extra.into_iter().map(|line| format!("{line}\n")).collect();
    format!("{TEXT_SIGNED}{lines}")
}

#[test]
fn golden_note_both_ways() {
    assert_eq!(sign(TEXT, &[&log_key()]).unwrap(), TEXT_SIGNED);
    let note = Note::parse(TEXT_SIGNED.as_bytes()).unwrap();
    assert_eq!(note.text(), TEXT);
    assert_eq!(note.to_string(), TEXT_SIGNED);
    let [line] = note.signatures() else {
        panic!("one line")
    };
    assert_eq!(
        (line.name().as_str(), line.key_id().to_string()),
        (ORIGIN, "9be5d3c6".to_owned())
    );
    assert_eq!(line.signature().len(), 64);

    let known = verifier(LOG_VKEY);
    let verified = note.verify([&known]).unwrap();
    assert_eq!(
        verified,
        [VerifiedSignature {
            key: &known,
            time: None
        }]
    );
}

#[test]
fn the_text_ends_at_the_last_empty_line() {
    for text in [
        "\n",
        "\n\n",
        "a\n\n",
        "\na\n",
        "a\n\n\nb\n",
        "\u{2014} a AAAAAAAA\n\n\u{2014} b\n",
    ] {
        let signed = sign(text, &[&log_key()]).unwrap();
        let note = Note::parse(signed.as_bytes()).unwrap();
        assert_eq!(note.text(), text);
        assert!(note.verify([&verifier(LOG_VKEY)]).is_ok());
    }
}

#[test]
fn malformed_notes_are_refused() {
    let line = &TEXT_SIGNED[TEXT.len() + 1..];
    let at = |line, source| NoteError::Line { line, source };
    let short = "\u{2014} a AAAAAA==\n";
    let cases = [
        (String::new(), NoteError::NoFinalLineFeed),
        (
            TEXT_SIGNED.trim_end().to_owned(),
            NoteError::NoFinalLineFeed,
        ),
        ("text\n".to_owned(), NoteError::NoEmptyLine),
        (format!("text\n{line}"), NoteError::NoEmptyLine),
        (format!("\n{line}"), NoteError::NoEmptyLine),
        (line.to_owned(), NoteError::NoEmptyLine),
        ("text\n\n".to_owned(), NoteError::NoSignature),
        (format!("{TEXT_SIGNED}\n"), NoteError::NoSignature),
        (format!("{TEXT_SIGNED}\n\n"), NoteError::NoSignature),
        (format!("{TEXT_SIGNED}more\n"), at(6, LineError::Prefix)),
        (
            TEXT_SIGNED.replace('\n', "\r\n"),
            NoteError::Control {
                line: 1,
                character: '\r',
            },
        ),
        (
            TEXT_SIGNED.replace("line", "li\tne"),
            NoteError::Control {
                line: 3,
                character: '\t',
            },
        ),
        (
            TEXT_SIGNED.replace("line", "li\0ne"),
            NoteError::Control {
                line: 3,
                character: '\0',
            },
        ),
        (
            TEXT_SIGNED.replace('\u{2014}', "-"),
            at(5, LineError::Prefix),
        ),
        (
            TEXT_SIGNED.replace('\u{2014}', " \u{2014}"),
            at(5, LineError::Prefix),
        ),
        ("t\n\n\u{2014} name\n".to_owned(), at(3, LineError::Fields)),
        (
            "t\n\n\u{2014}  AAAAAAAA\n".to_owned(),
            at(3, LineError::Name(KeyNameError::Empty)),
        ),
        (
            "t\n\n\u{2014} a+b AAAAAAAA\n".to_owned(),
            at(
                3,
                LineError::Name(KeyNameError::Character {
                    character: '+',
                    at: 1,
                }),
            ),
        ),
        (
            "t\n\n\u{2014} a\u{a0}b AAAAAAAA\n".to_owned(),
            at(
                3,
                LineError::Name(KeyNameError::Character {
                    character: '\u{a0}',
                    at: 1,
                }),
            ),
        ),
        (
            "t\n\n\u{2014} a  AAAAAAAA\n".to_owned(),
            at(3, LineError::Base64),
        ),
        (
            "t\n\n\u{2014} a AAAAAAAA \n".to_owned(),
            at(3, LineError::Base64),
        ),
        (
            "t\n\n\u{2014} a AAAAAAB=\n".to_owned(),
            at(3, LineError::Base64),
        ),
        (
            "t\n\n\u{2014} a AAAAAAA\n".to_owned(),
            at(3, LineError::Base64),
        ),
        (
            "t\n\n\u{2014} a AAAAAA__\n".to_owned(),
            at(3, LineError::Base64),
        ),
        (
            "t\n\n\u{2014} a \n".to_owned(),
            at(3, LineError::Short { found: 0 }),
        ),
        (
            "t\n\n\u{2014} a AAAA\n".to_owned(),
            at(3, LineError::Short { found: 3 }),
        ),
        (
            format!("t\n\n{short}"),
            at(3, LineError::Short { found: 4 }),
        ),
    ];
    for (text, error) in cases {
        assert_eq!(Note::parse(text.as_bytes()), Err(error), "{text:?}");
    }
    assert_eq!(Note::parse(b"t\xff\n\n"), Err(NoteError::NotUtf8 { at: 1 }));
}

#[test]
fn the_length_is_bounded_before_anything_is_read() {
    let huge = vec![0xff; MAX_NOTE_BYTES + 1];
    let error = NoteError::TooLong {
        found: MAX_NOTE_BYTES + 1,
        limit: MAX_NOTE_BYTES,
    };
    assert_eq!(Note::parse(&huge), Err(error));
    let line = signature_line("\n", &log_key()).unwrap();
    let text = format!(
        "{}\n",
        "x".repeat(MAX_NOTE_BYTES - 2 - format!("{line}\n").len())
    );
    let largest = sign(&text, &[&log_key()]).unwrap();
    assert_eq!(largest.len(), MAX_NOTE_BYTES);
    assert!(
        Note::parse(largest.as_bytes())
            .unwrap()
            .verify([&verifier(LOG_VKEY)])
            .is_ok()
    );
    assert!(matches!(
        sign(&format!("x{text}"), &[&log_key()]),
        Err(NoteError::TooLong { .. })
    ));
}

#[test]
fn the_number_of_signatures_is_bounded() {
    for count in [1, 16, MAX_SIGNATURES] {
        let text = signed_with((1..count).map(unknown_line));
        let note = Note::parse(text.as_bytes()).unwrap();
        assert_eq!(note.signatures().len(), count);
        assert_eq!(note.verify([&verifier(LOG_VKEY)]).unwrap().len(), 1);
    }
    let error = NoteError::TooManySignatures {
        limit: MAX_SIGNATURES,
    };
    let text = signed_with((0..MAX_SIGNATURES).map(unknown_line));
    assert_eq!(Note::parse(text.as_bytes()), Err(error.clone()));
    let lines = (0..=MAX_SIGNATURES).map(unknown_line).collect();
    assert_eq!(Note::new(TEXT, lines), Err(error));
}

#[test]
fn nothing_malformed_is_signed() {
    let log = log_key();
    assert_eq!(sign("", &[&log]), Err(NoteError::NoFinalLineFeed));
    assert_eq!(sign("text", &[&log]), Err(NoteError::NoFinalLineFeed));
    assert_eq!(
        sign("a\r\n", &[&log]),
        Err(NoteError::Control {
            line: 1,
            character: '\r'
        })
    );
    assert_eq!(sign(TEXT, &[]), Err(NoteError::NoSignature));
    let id = log.verifier_key().id();
    assert_eq!(
        sign(TEXT, &[&log, &log]),
        Err(NoteError::Repeated {
            name: name(ORIGIN),
            id
        })
    );
    let cosigner = cosigner_key();
    let error = NoteError::NeedsTime {
        name: cosigner.verifier_key().name().clone(),
    };
    assert_eq!(sign(TEXT, &[&log, &cosigner]), Err(error));
    assert!(SignatureLine::new(name("a"), id, Vec::new()).is_err());
}

#[test]
fn unknown_keys_are_ignored() {
    let log = verifier(LOG_VKEY);
    // Another name with the same id, the same name with another id, and a line of type 06.
    let same_id = SignatureLine::new(name("other"), log.id(), vec![0; 64]).unwrap();
    let same_name = SignatureLine::new(name(ORIGIN), KeyId::new([0; 4]), vec![0; 64]).unwrap();
    let ml_dsa = SignatureLine::new(name(ORIGIN), KeyId::new([6; 4]), vec![0; 8 + 2420]).unwrap();
    assert_eq!(ml_dsa.to_string().rsplit(' ').next().unwrap().len(), 3244);
    let text = signed_with([same_id, same_name, ml_dsa.clone(), ml_dsa]);
    let note = Note::parse(text.as_bytes()).unwrap();
    assert_eq!(note.to_string(), text);
    assert_eq!(
        note.verify([&log]).unwrap(),
        [VerifiedSignature {
            key: &log,
            time: None
        }]
    );
    assert_eq!(
        note.verify([&verifier(COSIGNER_VKEY)]),
        Err(VerifyError::NoKnownKey)
    );
    assert_eq!(note.verify([]), Err(VerifyError::NoKnownKey));
}

#[test]
fn a_known_key_that_fails_refuses_the_whole_note() {
    let (log, other) = (log_key(), key("other", KeyKind::Ed25519, 3));
    let known = [log.verifier_key(), other.verifier_key()];
    let good = sign(TEXT, &[&log, &other]).unwrap();
    let verified = Note::parse(good.as_bytes()).unwrap().verify(known).unwrap();
    assert_eq!(
        verified
            .iter()
            .map(VerifiedSignature::key)
            .collect::<Vec<_>>(),
        known
    );

    let invalid = |source| VerifyError::Invalid {
        name: name("other"),
        id: known[1].id(),
        source,
    };
    for (signature, source) in [
        (
            other.sign(b"another text\n").to_vec(),
            SignatureError::Invalid,
        ),
        (vec![0; 64], SignatureError::Invalid),
        (
            vec![0; 63],
            SignatureError::Length {
                expected: 64,
                found: 63,
            },
        ),
        (
            other.sign(TEXT.as_bytes())[..1].to_vec(),
            SignatureError::Length {
                expected: 64,
                found: 1,
            },
        ),
        (
            [&other.sign(TEXT.as_bytes())[..], &[0]].concat(),
            SignatureError::Length {
                expected: 64,
                found: 65,
            },
        ),
    ] {
        let line = SignatureLine::new(name("other"), known[1].id(), signature).unwrap();
        let text = signed_with([line]);
        let note = Note::parse(text.as_bytes()).unwrap();
        assert_eq!(note.verify(known), Err(invalid(source)));
        assert!(note.verify([known[0]]).is_ok());
    }
}

#[test]
fn a_known_key_signs_once() {
    let log = log_key();
    let text = signed_with([signature_line(TEXT, &log).unwrap()]);
    let note = Note::parse(text.as_bytes()).unwrap();
    let error = VerifyError::Repeated {
        name: name(ORIGIN),
        id: log.verifier_key().id(),
    };
    assert_eq!(note.verify([log.verifier_key()]), Err(error));
}

#[test]
fn known_keys_that_cannot_be_told_apart_are_refused() {
    let log = verifier(LOG_VKEY);
    let note = Note::parse(TEXT_SIGNED.as_bytes()).unwrap();
    let error = VerifyError::Ambiguous {
        name: name(ORIGIN),
        id: log.id(),
    };
    assert_eq!(note.verify([&log, &log]), Err(error));
}

#[test]
fn every_bit_flip_is_refused_or_changes_no_text() {
    let (log, cosigner) = (verifier(LOG_VKEY), verifier(COSIGNER_VKEY));
    for (bit, bytes) in bit_flips(SIGNED.as_bytes()) {
        if let Ok(note) = Note::parse(&bytes) {
            assert!(note.verify([&log, &cosigner]).is_err(), "bit {bit}");
        }
    }
    let mut harmless = 0;
    for (bit, bytes) in bit_flips(cosigned().as_bytes()) {
        let Ok(note) = Note::parse(&bytes) else {
            continue;
        };
        if let Ok(verified) = note.verify([&log, &cosigner]) {
            assert_eq!((note.text(), verified.len()), (CHECKPOINT, 1), "bit {bit}");
            harmless += 1;
        }
    }
    // Those that make one of the two keys an unknown one.
    assert!(harmless > 0);
}

#[test]
fn signed_note_and_we_verify_each_other() {
    let ours = sign(TEXT, &[&log_key(), &key("other", KeyKind::Ed25519, 3)]).unwrap();
    let theirs = signed_note::Note::from_bytes(ours.as_bytes()).unwrap();
    assert_eq!(theirs.text(), TEXT.as_bytes());
    assert_eq!(theirs.to_bytes(), ours.as_bytes());
    let (verified, unverified) = theirs.verify(&their_verifiers()).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 1));

    let signer = signed_note::StandardSigner::new(LOG_PRIVATE).unwrap();
    let mut theirs = signed_note::Note::new(TEXT.as_bytes(), &[]).unwrap();
    theirs.add_sigs(&[&signer]).unwrap();
    assert_eq!(theirs.to_bytes(), TEXT_SIGNED.as_bytes());
    let bytes = theirs.to_bytes();
    assert_eq!(
        Note::parse(&bytes)
            .unwrap()
            .verify([&verifier(LOG_VKEY)])
            .unwrap()
            .len(),
        1
    );

    // A cosignature is an unknown key to them, and their verifier does not fail over it.
    let theirs = signed_note::Note::from_bytes(cosigned().as_bytes()).unwrap();
    let (verified, unverified) = theirs.verify(&their_verifiers()).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 1));
}

/// Where `signed_note` 0.2 takes what is refused here; should it learn, this test says so.
#[test]
fn signed_note_passes_over_a_known_keys_second_signature() {
    let log = verifier(LOG_VKEY);
    let bad = SignatureLine::new(log.name().clone(), log.id(), vec![0; 64]).unwrap();
    let text = signed_with([bad]);
    let theirs = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
    assert!(theirs.verify(&their_verifiers()).is_ok());
    assert!(
        Note::parse(text.as_bytes())
            .unwrap()
            .verify([&log])
            .is_err()
    );

    assert!(signed_note::StandardVerifier::new(COSIGNER_VKEY).is_err());
}

/// Every note they refuse is refused here.
#[test]
fn flipped_notes_that_we_verify_are_verified_by_signed_note() {
    let (log, cosigner) = (verifier(LOG_VKEY), verifier(COSIGNER_VKEY));
    for (bit, bytes) in bit_flips(cosigned().as_bytes()) {
        let theirs = signed_note::Note::from_bytes(&bytes);
        let Ok(ours) = Note::parse(&bytes) else {
            continue;
        };
        let theirs = theirs.unwrap_or_else(|error| panic!("bit {bit}: {error}"));
        if let Ok(verified) = ours.verify([&log, &cosigner])
            && verified.iter().any(|signature| signature.key() == &log)
        {
            assert!(theirs.verify(&their_verifiers()).is_ok(), "bit {bit}");
        }
    }
}

fn their_verifiers() -> signed_note::VerifierList {
    signed_note::VerifierList::new(vec![Box::new(
        signed_note::StandardVerifier::new(LOG_VKEY).unwrap(),
    )])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A signed note verifies, and no bit of it can be another.
    #[test]
    fn prop_signature_valid(
        text in "(\\PC{0,40}\n){1,4}",
        seed in any::<[u8; 32]>(),
        bits in proptest::collection::vec(any::<proptest::sample::Index>(), 16),
    ) {
        let key = SigningKey::from_seed(name("example.com/any"), KeyKind::Ed25519, seed);
        let signed = sign(&text, &[&key]).unwrap();
        prop_assert_eq!(&signed, &sign(&text, &[&key]).unwrap());
        let note = Note::parse(signed.as_bytes()).unwrap();
        prop_assert_eq!(note.text(), &text);
        prop_assert_eq!(note.to_string(), &*signed);
        prop_assert!(note.verify([key.verifier_key()]).is_ok());
        for bit in bits {
            let flipped = flip(signed.as_bytes(), bit.index(signed.len() * 8));
            let verified = Note::parse(&flipped).map(|note| note.verify([key.verifier_key()]).is_ok());
            prop_assert!(!matches!(verified, Ok(true)));
        }
    }

    /// Any bytes are refused or written back as they were.
    #[test]
    fn prop_parsing_is_exact(bytes in "(\\PC{0,9}\n){0,3}\n(\u{2014} [a+ ]{1,2} [A-D=]{8}\n){0,2}") {
        if let Ok(note) = Note::parse(bytes.as_bytes()) {
            prop_assert_eq!(note.to_string(), bytes);
        }
    }
}
