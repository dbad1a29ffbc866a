//! `steled`: reads its configuration, runs a node, ends with an exit code that says why.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use stele_engine::adopt::AdoptError;
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_raft::joining::CopyError;
use stele_raft::node::StartError;
use stele_server::birth::BirthTrouble;
use stele_server::config::{Config, KEYS, Kind, Loaded, LogFormat, Mistakes, Sources};
use stele_server::joining::JoinTrouble;
use stele_server::keys::{KeyTrouble, make_or_load};
use stele_server::run::{RunTrouble, run};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn command() -> Command {
    let mut command = Command::new("steled")
        .about("A node of a Stele log. Flags over STELE_* environment over file over defaults.")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(Command::new("check-config").about("Checks the configuration, tells all mistakes at once"))
        .subcommand(Command::new("keys").about("Prints this node's public keys; makes the keys where there are none"))
        .arg(path("config", "FILE", "the configuration, TOML; also STELE_CONFIG"))
        .arg(path("ready-file", "FILE", "written once the node takes part: JSON with its addresses"))
        .arg(switch("check", "as check-config"))
        .arg(switch("print-config", "prints the configuration as it holds, with the source of each value"));
    for key in &KEYS {
        let mut arg = Arg::new(key.name).long(key.flag).value_name("VALUE").help(key.help).global(true);
        if key.kind == Kind::Switch {
            arg = arg.num_args(0..=1).default_missing_value("true");
        }
        command = command.arg(arg);
    }
    command
}

fn path(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help).value_parser(value_parser!(PathBuf)).global(true)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    match execute(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Before tracing is set up, and for whoever reads only the last line.
            let told = writeln!(std::io::stderr(), "steled: {error:#}");
            drop(told);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn execute(matches: &ArgMatches) -> anyhow::Result<()> {
    let sources = sources(matches)?;
    if matches.subcommand_name() == Some("keys") {
        return print_keys(&sources);
    }
    let Loaded { config, warnings, effective } = Config::load(&sources)?;
    if matches.get_flag("print-config") {
        std::io::stdout().write_all(effective.as_bytes())?;
        return Ok(());
    }
    if matches.get_flag("check") || matches.subcommand_name() == Some("check-config") {
        for warning in warnings {
            writeln!(std::io::stderr(), "steled: {warning}")?;
        }
        return Ok(());
    }
    trace(&config);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let ready = matches.get_one::<PathBuf>("ready-file");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(run(&config, ready.map(PathBuf::as_path)))?)
}

fn sources(matches: &ArgMatches) -> anyhow::Result<Sources> {
    let named =
        matches.get_one::<PathBuf>("config").cloned().or_else(|| std::env::var_os("STELE_CONFIG").map(Into::into));
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))
    };
    let file = named.as_deref().map(read).transpose()?;
    let flags = KEYS.iter().filter_map(|key| Some((key, matches.get_one::<String>(key.name)?.clone()))).collect();
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.into_string()
            .ok()
            .filter(|name| name.starts_with("STELE_"))
            .map(|name| (name, value.to_string_lossy().into_owned()))
    };
    Ok(Sources { file, environment: std::env::vars_os().filter_map(text).collect(), flags })
}

fn print_keys(sources: &Sources) -> anyhow::Result<()> {
    let (data_dir, node, site, origin) = Config::load_for_keys(sources)?;
    let keys = make_or_load(&Environment::system(), &data_dir, (node, &site), &origin)?;
    for key in [&keys.log, &keys.cosigner] {
        writeln!(std::io::stdout(), "{}", key.verifier_key())?;
    }
    Ok(())
}

/// Consensus tells its own story at length; below `debug`, only what it warns of is told.
fn trace(config: &Config) {
    let consensus = if config.log_level >= Level::DEBUG { config.log_level } else { config.log_level.min(Level::WARN) };
    let told = Targets::new().with_default(config.log_level).with_target("openraft", consensus);
    let builder = tracing_subscriber::fmt().with_max_level(config.log_level).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(false).finish().with(told).init(),
        LogFormat::Json => builder.json().finish().with(told).init(),
    }
}

/// The exit codes of the command line, for a server.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Mistakes>() {
        return 2;
    }
    let log = match error.downcast_ref::<RunTrouble>() {
        Some(RunTrouble::Birth(BirthTrouble::Nothing(_))) => return 6,
        Some(RunTrouble::Join(JoinTrouble::Copy(error))) => match error {
            CopyError::NoDonor { .. } => return 3,
            CopyError::Unproven { .. } => return 5,
            CopyError::Adopt(AdoptError::Other { .. }) => return 2,
            CopyError::Adopt(AdoptError::Log(log)) => log,
            _ => return 1,
        },
        Some(RunTrouble::Join(JoinTrouble::UsedBefore { .. })) => return 2,
        Some(RunTrouble::Birth(
            BirthTrouble::Begun(_) | BirthTrouble::OtherNode { .. } | BirthTrouble::Keys(KeyTrouble::Other { .. }),
        )) => {
            return 2;
        }
        Some(RunTrouble::Birth(BirthTrouble::Log(log)) | RunTrouble::Log(log)) => log,
        Some(RunTrouble::Start(StartError::Log(log))) => log,
        // As what is damaged: the directory is not what it was.
        Some(RunTrouble::Start(StartError::Stale(_))) => return 3,
        _ => return 1,
    };
    match log {
        LogError::Damaged(_) | LogError::Generation(_) => 3,
        LogError::NoLog(_) => 6,
        LogError::Locked { .. } => 7,
        _ => 1,
    }
}
