use super::*;
use crate::note::fixture::{
    COSIGNER_PRIVATE, COSIGNER_VKEY, LOG_PRIVATE, LOG_VKEY, bit_flips, cosigner_key, key, log_key,
};

/// A vkey text with a right id over whatever key material.
fn vkey(name: &str, typed_key: &[u8]) -> String {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update(b"\n")
        .chain_update(typed_key)
        .finalize();
    let id = KeyId([digest[0], digest[1], digest[2], digest[3]]);
    format!("{name}+{id}+{}", STANDARD.encode(typed_key))
}

fn typed(kind: u8, key: &[u8]) -> Vec<u8> {
    [&[kind], key].concat()
}

#[test]
fn golden_texts_both_ways() {
    for (key, public, private) in [
        (log_key(), LOG_VKEY, LOG_PRIVATE),
        (cosigner_key(), COSIGNER_VKEY, COSIGNER_PRIVATE),
    ] {
        assert_eq!(key.verifier_key().to_string(), public);
        assert_eq!(key.to_private_text(), private);
        assert_eq!(&VerifierKey::parse(public).unwrap(), key.verifier_key());
        let parsed = SigningKey::parse(private).unwrap();
        assert_eq!(parsed.verifier_key(), key.verifier_key());
        assert_eq!(parsed.to_private_text(), private);
    }
}

#[test]
fn the_example_of_the_specification_is_read() {
    let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let key: VerifierKey = text.parse().unwrap();
    assert_eq!(key.name().as_str(), "example.com/foo");
    assert_eq!(key.kind(), KeyKind::Ed25519);
    assert_eq!(key.id().bytes(), [0x53, 0x0d, 0x90, 0x3a]);
    assert_eq!(key.to_string(), text);
}

#[test]
fn base64_with_plus_is_not_split() {
    let keys = (0..=255).map(|seed| key("n", KeyKind::Ed25519, seed));
    let texts: Vec<String> = keys.map(|key| key.verifier_key().to_string()).collect();
    assert!(texts.iter().any(|text| text.matches('+').count() > 2));
    for text in texts {
        assert_eq!(VerifierKey::parse(&text).unwrap().to_string(), text);
    }
}

#[test]
fn one_key_has_another_id_for_each_kind_and_name() {
    let ids: Vec<KeyId> = [
        ("a", KeyKind::Ed25519),
        ("a", KeyKind::CosignatureEd25519),
        ("b", KeyKind::Ed25519),
    ]
    .map(|(name, kind)| key(name, kind, 7).verifier_key().id())
    .to_vec();
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
}

#[test]
fn names_follow_the_rules() {
    assert_eq!(KeyName::new(""), Err(KeyNameError::Empty));
    for character in [
        ' ', '+', '\t', '\n', '\0', '\u{7f}', '\u{85}', '\u{a0}', '\u{2003}', '\u{3000}',
    ] {
        let name = format!("ab{character}c");
        assert_eq!(
            KeyName::new(&name),
            Err(KeyNameError::Character { character, at: 2 })
        );
    }
    for name in ["a", "example.com/log", "\u{fc}ber", "a=b", "\u{2014}"] {
        assert_eq!(KeyName::new(name).unwrap().as_str(), name);
    }
}

#[test]
fn malformed_vkeys_are_refused() {
    let public_key = log_key().verifier_key().public_key();
    let base64 = STANDARD.encode(typed(1, &public_key));
    let wrong_id = KeyError::WrongId {
        expected: KeyId([0x9b, 0xe5, 0xd3, 0xc6]),
        found: KeyId([0x9b, 0xe5, 0xd3, 0xc7]),
    };
    let cases = [
        (String::new(), KeyError::Fields),
        ("example.com/log".to_owned(), KeyError::Fields),
        ("example.com/log+9be5d3c6".to_owned(), KeyError::Fields),
        (
            format!("+9be5d3c6+{base64}"),
            KeyError::Name(KeyNameError::Empty),
        ),
        (
            format!("a b+9be5d3c6+{base64}"),
            KeyError::Name(KeyNameError::Character {
                character: ' ',
                at: 1,
            }),
        ),
        (
            format!("example.com+log+9be5d3c6+{base64}"),
            KeyError::IdText,
        ),
        (
            format!("example.com/log+9BE5D3C6+{base64}"),
            KeyError::IdText,
        ),
        (
            format!("example.com/log+9be5d3c+{base64}"),
            KeyError::IdText,
        ),
        (
            format!("example.com/log+09be5d3c6+{base64}"),
            KeyError::IdText,
        ),
        (
            format!("example.com/log+9be5d3cg+{base64}"),
            KeyError::IdText,
        ),
        (format!("example.com/log+9be5d3c7+{base64}"), wrong_id),
        (format!("{LOG_VKEY}\n"), KeyError::Base64),
        (format!("{LOG_VKEY} "), KeyError::Base64),
        (
            LOG_VKEY.replace('/', "_").replace("com_log", "com/log"),
            KeyError::Base64,
        ),
        ("example.com/log+9be5d3c6+".to_owned(), KeyError::NoType),
        (
            vkey("n", &typed(0, &public_key)),
            KeyError::UnknownType { number: 0 },
        ),
        (
            vkey("n", &typed(2, &public_key)),
            KeyError::UnknownType { number: 2 },
        ),
        (
            vkey("n", &typed(6, &[0; 1312])),
            KeyError::UnknownType { number: 6 },
        ),
        (
            vkey("n", &typed(0xff, &public_key)),
            KeyError::UnknownType { number: 0xff },
        ),
        (vkey("n", &typed(1, &[])), KeyError::Length { found: 0 }),
        (
            vkey("n", &typed(1, &public_key[1..])),
            KeyError::Length { found: 31 },
        ),
        (
            vkey("n", &typed(4, &[3; 33])),
            KeyError::Length { found: 33 },
        ),
        (vkey("n", &typed(1, &[2; 32])), KeyError::NotAKey),
        (vkey("n", &typed(1, &identity())), KeyError::NotAKey),
        (vkey("n", &typed(4, &[0; 32])), KeyError::NotAKey),
    ];
    for (text, error) in cases {
        assert_eq!(VerifierKey::parse(&text), Err(error), "{text:?}");
    }
}

/// The 19 values of y from the prime to 2^255 - 1 are second forms of small ones.
#[test]
fn second_forms_of_a_point_are_refused() {
    let mut points = 0;
    for first in 0xed..=0xff {
        for last in [0x7f, 0xff] {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (first, last);
            let point = ed25519_dalek::VerifyingKey::from_bytes(&bytes);
            points += usize::from(point.is_ok_and(|point| !point.is_weak()));
            let key = VerifierKey::parse(&vkey("n", &typed(1, &bytes)));
            assert_eq!(key, Err(KeyError::NotAKey));
        }
    }
    assert!(
        points > 0,
        "nothing but the form is wrong with some of them"
    );
}

/// 33 bytes need no padding and leave no unused bits; 32 bytes do, and are refused for them before their length.
#[test]
fn non_canonical_base64_is_refused() {
    let text = vkey("n", &typed(1, &[9; 31]));
    assert_eq!(
        VerifierKey::parse(&text),
        Err(KeyError::Length { found: 31 })
    );
    let body = text.strip_suffix("k=").unwrap();
    for end in ["l=", "k", "k==", "k=="] {
        assert_eq!(
            VerifierKey::parse(&format!("{body}{end}")),
            Err(KeyError::Base64),
            "{end}"
        );
    }
}

#[test]
fn malformed_private_keys_are_refused_without_repeating_them() {
    let rest = LOG_PRIVATE.strip_prefix(PRIVATE_PREFIX).unwrap();
    let cases = [
        (LOG_VKEY.to_owned(), KeyError::NotPrivate),
        (rest.to_owned(), KeyError::NotPrivate),
        (format!("private+key+{rest}"), KeyError::NotPrivate),
        (format!("{LOG_PRIVATE}\n"), KeyError::Base64),
        (
            LOG_PRIVATE.replace("+AQ", "+BA"),
            KeyError::WrongId {
                expected: key("example.com/log", KeyKind::CosignatureEd25519, 1)
                    .verifier_key()
                    .id(),
                found: log_key().verifier_key().id(),
            },
        ),
        (
            LOG_PRIVATE.replace("+AQ", "+Ag"),
            KeyError::UnknownType { number: 2 },
        ),
        (LOG_PRIVATE.replace("+AQEB", "+AQ=="), KeyError::Base64),
        (
            LOG_PRIVATE.replace("+AQEBAQEB", "+AQEB"),
            KeyError::Length { found: 29 },
        ),
        (format!("{PRIVATE_PREFIX}AQEBAQEB"), KeyError::Fields),
    ];
    for (text, error) in cases {
        let found = SigningKey::parse(&text).unwrap_err();
        assert_eq!(found, error, "{text:?}");
        assert!(!found.to_string().contains("AQEB") && !format!("{found:?}").contains("AQEB"));
    }
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", key("n", KeyKind::Ed25519, 0xa7));
    assert!(shown.contains("verifier"));
    // The seed as hexadecimal, decimal or base64.
    assert!(!shown.contains("a7a7") && !shown.contains("167, 167") && !shown.contains("p6en"));
}

#[test]
fn every_bit_flip_of_a_vkey_is_refused() {
    for (bit, bytes) in bit_flips(COSIGNER_VKEY.as_bytes()) {
        if let Ok(text) = core::str::from_utf8(&bytes) {
            assert!(VerifierKey::parse(text).is_err(), "bit {bit}: {text:?}");
        }
    }
}

#[test]
fn texts_agree_with_signed_note() {
    use signed_note::{Signer as _, Verifier as _};
    for seed in 0..32 {
        let ours = key("example.com/key", KeyKind::Ed25519, seed);
        let verifier =
            signed_note::StandardVerifier::new(&ours.verifier_key().to_string()).unwrap();
        assert_eq!(
            verifier.key_id().to_be_bytes(),
            ours.verifier_key().id().bytes()
        );
        let signer = signed_note::StandardSigner::new(&ours.to_private_text()).unwrap();
        assert_eq!(signer.sign(b"message\n").unwrap(), ours.sign(b"message\n"));
    }
    let theirs = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    let ours = SigningKey::parse(theirs).unwrap();
    assert_eq!(ours.to_private_text(), theirs);
    assert_eq!(
        ours.verifier_key().to_string(),
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    );
}

/// Where `signed_note` 0.2 takes what is refused here; should it learn, this test says so.
#[test]
fn signed_note_accepts_keys_that_are_refused_here() {
    use signed_note::Verifier as _;
    let upper_case = LOG_VKEY.replace("9be5d3c6", "9BE5D3C6");
    assert!(signed_note::StandardVerifier::new(&upper_case).is_ok());
    assert_eq!(VerifierKey::parse(&upper_case), Err(KeyError::IdText));

    let control = vkey("a\u{7f}", &typed(1, &log_key().verifier_key().public_key()));
    assert!(signed_note::StandardVerifier::new(&control).is_ok());
    assert!(matches!(
        VerifierKey::parse(&control),
        Err(KeyError::Name(_))
    ));

    // Under the key of order 1, one signature fits every message.
    let weak = vkey("weak", &typed(1, &identity()));
    let verifier = signed_note::StandardVerifier::new(&weak).unwrap();
    let forged = [identity(), [0; 32]].concat();
    assert!(verifier.verify(b"whatever\n", &forged));
    assert_eq!(VerifierKey::parse(&weak), Err(KeyError::NotAKey));
}

/// The point of order 1: y = 1.
fn identity() -> [u8; 32] {
    let mut point = [0; 32];
    point[0] = 1;
    point
}
