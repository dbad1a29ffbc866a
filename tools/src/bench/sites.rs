//! What `bench append` and `bench read` measure: a cluster that is there, or sites that they make.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, value_parser};
use stele_engine::environment::Environment;

use crate::exit::{Exit, Failure};
use crate::remote::{Connected, Remote, connect};
use crate::sites::{Plan, Sites};

/// What is measured.
#[derive(Args, Debug)]
pub struct SitesArguments {
    /// A cluster that is there.
    #[command(flatten)]
    pub remote: Remote,
    /// Make, start and stop this many sites.
    #[arg(long, value_name = "N", conflicts_with_all = ["endpoint", "context"], value_parser = value_parser!(u64).range(1..=9))]
    pub sites: Option<u64>,
    /// What a round trip between the sites takes longer, say 40ms; half of it on each way.
    #[arg(long, value_name = "TIME", requires = "sites", value_parser = time)]
    pub delay: Option<Duration>,
    /// Make the sites in this directory, and leave them there.
    #[arg(long, value_name = "DIR", requires = "sites")]
    pub keep_data: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a whole number and `ms` or `s`, say 40ms".to_owned();
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?);
    let number: u64 = number.parse().map_err(|_error| wrong())?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(wrong()),
    }
}

/// What is measured, running.
pub(super) struct Bench {
    sites: Option<Sites>,
    connected: Connected,
    /// To be removed.
    directory: Option<Removed>,
}

/// A directory that goes with its owner.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // Nobody is left to tell.
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Bench {
    pub(super) async fn start(arguments: &SitesArguments, environment: &Environment) -> Result<Self, Failure> {
        let Some(count) = arguments.sites else {
            let connected = connect(&arguments.remote.reach()?).await?;
            return Ok(Self { sites: None, connected, directory: None });
        };
        let (directory, removed) = match &arguments.keep_data {
            Some(directory) => {
                if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
                    let why = anyhow!("{} is not empty; name a directory that is new", directory.display());
                    return Err(Failure::new(Exit::Failed, why));
                }
                (directory.clone(), None)
            }
            None => {
                let suffix: [u8; 6] = environment.random().context("the system gives no randomness")?;
                let suffix: String = suffix.iter().map(|byte| format!("{byte:02x}")).collect();
                let here = std::env::current_dir().context("there is no current directory")?;
                let directory = here.join(format!("stele-bench-{suffix}"));
                (directory.clone(), Some(Removed(directory)))
            }
        };
        // Configurations are read by processes that run elsewhere.
        let directory =
            std::path::absolute(&directory).with_context(|| format!("cannot use {}", directory.display()))?;
        let plan =
            Plan { directory: &directory, sites: count, extra: "log_level = \"warn\"\n", delay: arguments.delay };
        let mut sites = Sites::make(environment, &plan).await?;
        sites.start()?;
        let connected = sites.ready().await?;
        Ok(Self { sites: Some(sites), connected, directory: removed })
    }

    pub(super) const fn connected(&self) -> &Connected {
        &self.connected
    }

    /// Whether the sites are this bench's own.
    pub(super) const fn is_own(&self) -> bool {
        self.sites.is_some()
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        let Self { sites, connected, directory } = self;
        drop(connected);
        if let Some(sites) = sites {
            sites.stop().await?;
        }
        drop(directory);
        Ok(())
    }
}
