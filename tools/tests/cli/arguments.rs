//! Help, usage errors and completions.

use clap::CommandFactory as _;

use crate::stele::stele;

const NONE: &[u8] = b"";

#[test]
fn help_names_every_command_and_exit_code() {
    let help = stele(&["--help"], NONE).output();
    for name in ["verify", "record", "tlog", "note", "keys", "completions"] {
        assert!(help.contains(&format!("\n  {name} ")), "{name} is missing in:\n{help}");
    }
    for code in 0..=7 {
        assert!(help.contains(&format!("\n  {code}  ")), "exit code {code} is missing in:\n{help}");
    }
    assert!(help.ends_with('\n') && !help.ends_with("\n\n"));
}

#[test]
fn every_command_and_argument_has_help() {
    fn visit(command: &clap::Command, path: &str) {
        assert!(command.get_about().is_some(), "{path} has no help");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
        for inner in command.get_subcommands() {
            visit(inner, &format!("{path} {}", inner.get_name()));
        }
    }
    visit(&stele_tools::cli::Cli::command(), "stele");
    stele_tools::cli::Cli::command().debug_assert();
}

#[test]
fn output_has_no_colors() {
    assert!(!stele(&["--help"], NONE).output().contains('\x1b'));
    assert!(!stele(&["record", "hush"], NONE).errors.contains('\x1b'));
}

#[test]
fn version_is_that_of_the_package() {
    assert_eq!(stele(&["--version"], NONE).output(), format!("stele {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_end_with_2_and_the_usage() {
    let long = "x".repeat(129);
    let cases: [(&[&str], &str); 12] = [
        (&[], "the command is missing"),
        (&["record"], "the command is missing"),
        (&["recrod"], "'recrod'"),
        (&["record", "hash", "file"], "'file'"),
        (&["tlog", "inclusion", "--fast"], "'--fast'"),
        (&["note", "verify", "checkpoint"], "--key"),
        (&["verify", "log"], "<DIR>"),
        (&["verify", "proof", "p", "--record", "r"], "--policy"),
        (&["keys", "generate", "--name", "a", "-o", "b", "--type", "witness"], "'witness'"),
        (&["append", "--log", "d", "--stream", &long, "--writer", "w", "--kind", "K", "-"], "--stream"),
        (&["append", "--log", "d", "--stream", "s", "--writer", "w\n", "--kind", "K", "-"], "--writer"),
        (&["append", "--log", "d", "--stream", "s", "--writer", "w", "--kind", "9", "-"], "up to 63 letters"),
    ];
    for (arguments, word) in cases {
        let ended = stele(arguments, NONE);
        assert_eq!((ended.code, ended.output.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.errors.starts_with("stele: "), "{arguments:?}: {}", ended.errors);
        let first = ended.errors.split("\n\n").next().unwrap();
        assert!(first.contains(word), "{arguments:?}: {first}");
        assert!(ended.errors.contains("--help"), "{arguments:?}: {}", ended.errors);
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stele(&["completions", shell], NONE).output();
        for name in ["record", "inclusion", "generate", "completions"] {
            assert!(script.contains(name), "{shell} does not know {name}");
        }
    }
}
