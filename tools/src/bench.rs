//! `stele bench`: what this build reaches on this machine.
//!
//! | module | owns |
//! |---|---|
//! | [`engine`] | `stele bench engine`: its arguments, which workloads run |
//! | [`sizes`] | how much each workload does |
//! | `row` | what was measured, and how it is printed |
//! | `records` | the records that the workloads take |
//! | `limit` | what the disk alone can do: the same bytes a flush, and nothing else |
//! | `hashing` | canonical form, hashes, chains, on one core |
//! | `appending` | appending, beside its limit |
//! | `reading` | verification, proofs, memory and disk space of a log |
//! | `stopwatch` | time |
//! | [`append`], [`read`] | `stele bench append` and `read`: through the client |
//! | [`sites`] | what these two measure |

pub mod append;
mod appending;
pub mod engine;
mod hashing;
mod limit;
pub mod read;
mod reading;
mod records;
mod row;
pub mod sites;
pub mod sizes;
mod stopwatch;

use clap::Subcommand;
use stele_engine::environment::Environment;

use crate::exit::Failure;
use crate::stream::Streams;

/// What is measured.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure the engine: hashing, appending, verifying, proving, memory and disk space.
    Engine(engine::Arguments),
    /// Measure appending to a cluster.
    Append(append::Arguments),
    /// Measure reading from a cluster.
    Read(read::Arguments),
}

/// Measures.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &Command, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match command {
        Command::Engine(arguments) => engine::run(arguments, environment, streams),
        Command::Append(arguments) => append::run(arguments, environment, streams),
        Command::Read(arguments) => read::run(arguments, environment, streams),
    }
}
