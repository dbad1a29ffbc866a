//! `stele bench read`: reading through the client, each record checked.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, value_parser};
use stele_client::{Assurance, ReadRange};
use stele_engine::environment::Environment;
use stele_proof::LeafIndex;
use tokio::time::Instant;

use crate::exit::{Exit, Failure};
use crate::remote::{Remote, block_on, call, connect};
use crate::stream::Streams;

/// The arguments of `stele bench read`.
#[derive(Args, Debug)]
#[command(after_help = "\
Reads the log from its beginning, again and again, until the time is over.

Example:
  stele bench read --endpoint a.example.com:7070 --seconds 8 --json")]
pub struct Arguments {
    /// The cluster.
    #[command(flatten)]
    pub remote: Remote,
    /// How long.
    #[arg(long, value_name = "S", default_value_t = 8, value_parser = value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments, _environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    block_on(async {
        let connected = connect(&arguments.remote.reach()?).await?;
        let start = Instant::now();
        let end = start + Duration::from_secs(arguments.seconds);
        let (mut records, mut bytes) = (0_u32, 0_u64);
        while Instant::now() < end {
            let range = ReadRange::from(LeafIndex::new(0));
            let mut reader = connected.client.read(range, Assurance::Canonical);
            let before = records;
            while let Some(record) = reader.next().await.map_err(call)? {
                records = records.saturating_add(1);
                bytes += record.canonical.len() as u64;
                if Instant::now() >= end {
                    break;
                }
            }
            if records == before {
                return Err(Failure::new(Exit::NotFound, anyhow!("the log has no record")));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = f64::from(records) / seconds;
        if arguments.json {
            let row = serde_json::json!({
                "bench": "read", "seconds": seconds, "records_per_second": rate, "records": records, "bytes": bytes,
            });
            return streams.line(row);
        }
        streams.line(format_args!("{rate:.0} records/s, {records} records and {bytes} bytes in {seconds:.1} s"))
    })
}
