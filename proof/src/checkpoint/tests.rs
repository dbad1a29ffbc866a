use proptest::prelude::*;

use super::*;
use crate::note::fixture::{CHECKPOINT, SIGNED, bit_flips, checkpoint, log_key};

const ROOT: &str = "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=";

fn with_size(size: &str) -> String {
    format!("example.com/log\n{size}\n{ROOT}\n")
}

fn with_root(root: &str) -> String {
    format!("example.com/log\n3\n{root}\n")
}

#[test]
fn golden_checkpoint_both_ways() {
    assert_eq!(checkpoint().to_string(), CHECKPOINT);
    assert_eq!(Checkpoint::parse(CHECKPOINT).unwrap(), checkpoint());
    let signed = crate::note::sign(&checkpoint().to_string(), &[&log_key()]).unwrap();
    assert_eq!(signed, SIGNED);
}

#[test]
fn sizes_are_canonical() {
    for size in [0, 1, 10, u64::MAX >> 1, (u64::MAX >> 1) + 1, u64::MAX] {
        let parsed = Checkpoint::parse(&with_size(&size.to_string())).unwrap();
        assert_eq!(parsed.size.get(), size);
    }
    let bad = [
        "",
        "00",
        "01",
        "+1",
        "-1",
        "-0",
        " 1",
        "1 ",
        "1.",
        "0x1",
        "1_000",
        "1e3",
        "\u{ff11}",
        "18446744073709551616",
        "18446744073709551617",
        "99999999999999999999999999",
    ];
    for size in bad {
        assert_eq!(
            Checkpoint::parse(&with_size(size)),
            Err(CheckpointError::Size),
            "{size:?}"
        );
    }
}

#[test]
fn roots_are_canonical() {
    let bad = [
        "",
        "AAAA",
        // 31 and 33 bytes.
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        // Unused bits set, no padding, too much of it, other alphabet, space.
        "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsF=",
        "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE",
        "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE==",
        "NmQuc8JUCrEh46a_lUWwokmCzYMOsT080Z3jzmwCHsE=",
        " NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=",
        "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE= ",
        "NmQuc8JUCrEh46a/lUWwokmCzYMOsT080Z3jzmwCHsE=\r",
    ];
    for root in bad {
        assert_eq!(
            Checkpoint::parse(&with_root(root)),
            Err(CheckpointError::Root),
            "{root:?}"
        );
    }
}

#[test]
fn there_are_three_lines() {
    let missing = |line| CheckpointError::Missing { line };
    let cases = [
        (String::new(), missing(1)),
        ("example.com/log".to_owned(), missing(1)),
        ("example.com/log\n3".to_owned(), missing(2)),
        (format!("example.com/log\n3\n{ROOT}"), missing(3)),
        (format!("{CHECKPOINT}\n"), CheckpointError::Extension),
        (
            format!("{CHECKPOINT}extension\n"),
            CheckpointError::Extension,
        ),
        (format!("{CHECKPOINT}extension"), CheckpointError::Extension),
        (
            format!("\n3\n{ROOT}\n"),
            CheckpointError::Origin(KeyNameError::Empty),
        ),
        (
            CHECKPOINT.replace("/log", "+log"),
            CheckpointError::Origin(KeyNameError::Character {
                character: '+',
                at: 11,
            }),
        ),
        (
            CHECKPOINT.replace("/log", " log"),
            CheckpointError::Origin(KeyNameError::Character {
                character: ' ',
                at: 11,
            }),
        ),
        (
            CHECKPOINT.replace('\n', "\r\n"),
            CheckpointError::Origin(KeyNameError::Character {
                character: '\r',
                at: 15,
            }),
        ),
    ];
    for (text, error) in cases {
        assert_eq!(Checkpoint::parse(&text), Err(error), "{text:?}");
    }
}

#[test]
fn tlog_tiles_reads_what_we_write_and_refuses_no_more() {
    let theirs = tlog_tiles::Checkpoint::from_bytes(CHECKPOINT.as_bytes()).unwrap();
    assert_eq!(
        (theirs.origin(), theirs.size(), theirs.extension()),
        ("example.com/log", 3, "")
    );
    assert_eq!(theirs.hash().0, *checkpoint().root.as_bytes());
    assert_eq!(theirs.to_bytes(), CHECKPOINT.as_bytes());
    for (bit, bytes) in bit_flips(CHECKPOINT.as_bytes()) {
        let Ok(text) = core::str::from_utf8(&bytes) else {
            continue;
        };
        let theirs = tlog_tiles::Checkpoint::from_bytes(&bytes);
        if let Ok(ours) = Checkpoint::parse(text) {
            let theirs = theirs.unwrap_or_else(|_| panic!("bit {bit}: {text:?}"));
            assert_eq!(
                (theirs.origin(), theirs.size()),
                (ours.origin.as_str(), ours.size.get())
            );
            assert_eq!(theirs.hash().0, *ours.root.as_bytes());
        }
    }
    let extended = format!("{CHECKPOINT}extension\n");
    assert!(tlog_tiles::Checkpoint::from_bytes(extended.as_bytes()).is_ok());
    assert_eq!(
        Checkpoint::parse(&extended),
        Err(CheckpointError::Extension)
    );
}

proptest! {
    #[test]
    fn prop_checkpoint_round_trip(
        origin in "[^+\\s\\pC]{1,20}",
        size in any::<u64>(),
        root in any::<[u8; 32]>(),
    ) {
        let checkpoint = Checkpoint {
            origin: Origin::new(&origin).unwrap(),
            size: TreeSize::new(size),
            root: Hash::new(root),
        };
        let text = checkpoint.to_string();
        prop_assert_eq!(Checkpoint::parse(&text).unwrap(), checkpoint);
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).unwrap();
        prop_assert_eq!(theirs.to_bytes(), text.as_bytes());
    }

    /// Any text is refused or written back as it was.
    #[test]
    fn prop_parsing_is_exact(text in "[a+ ]{0,2}\n[0-2]{0,2}\n[A-C]{42}[A-Z]=\n{0,2}") {
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.to_string(), text);
        }
    }
}
