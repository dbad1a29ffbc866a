//! `stele init`: makes a log.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::local::LocalLog;
use stele_engine::number::{Alignment, BlockHeight, NodeId, SiteName};
use stele_engine::reserved::MAX_ORIGIN_BYTES;
use stele_proof::checkpoint::Origin;

use crate::exit::{Exit, Failure};
use crate::stream::Streams;

/// The arguments of `stele init`.
#[derive(Args, Debug)]
#[command(after_help = "\
The directory must not exist yet, or be empty. Keys are made in DIR/keys and never leave it; DIR/policy is what
others need to check proofs of this log.

Example:
  stele init --log audit --origin example.com/audit")]
pub struct Arguments {
    /// The directory of the new log.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The name of the log, which stands in every checkpoint: without spaces and without `+`.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub origin: Origin,
    /// The site this node stands in.
    #[arg(long, value_name = "S", default_value = "local", value_parser = site)]
    pub site: SiteName,
    /// The number of this node, never used twice in a cluster.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub node: u64,
    /// The binary logarithm of a block's records, 8 to 20, fixed for ever.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub segment_height: u8,
    /// What frames are padded to, 4096 or 8 bytes, fixed for ever; 8 only on media that write a sector whole
    /// or not at all.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub frame_align: u32,
}

fn origin(text: &str) -> Result<Origin, String> {
    if text.len() > MAX_ORIGIN_BYTES {
        return Err(format!("an origin has at most {MAX_ORIGIN_BYTES} bytes"));
    }
    Origin::new(text).map_err(|error| error.to_string())
}

fn site(text: &str) -> Result<SiteName, String> {
    SiteName::new(text).ok_or_else(|| "a site is 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
}

impl Arguments {
    fn options(&self) -> Result<CreateOptions, Failure> {
        let usage = |text: &str| Failure::new(Exit::Usage, anyhow!("{text}"));
        Ok(CreateOptions {
            origin: self.origin.clone(),
            site: self.site.clone(),
            node: NodeId::new(self.node),
            block_height: BlockHeight::new(self.segment_height).ok_or_else(|| usage("--segment-height is 8 to 20"))?,
            frame_align: Alignment::new(self.frame_align).ok_or_else(|| usage("--frame-align is 4096 or 8"))?,
        })
    }
}

/// Makes the log and prints what others need to know of it.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let log = LocalLog::create(environment, &arguments.log, &arguments.options()?)?;
    let genesis = log.genesis().clone();
    log.close()?;
    streams.line(format_args!("made the log {} in {}", genesis.origin, arguments.log.display()))?;
    for key in &genesis.log_keys {
        streams.line(format_args!("log key: {key}"))?;
    }
    streams.line(format_args!("give {} to those who will check proofs", policy_path(&arguments.log).display()))
}

/// Where a log keeps its policy.
pub fn policy_path(log: &Path) -> PathBuf {
    log.join("policy")
}
