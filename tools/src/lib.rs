//! The command line of Stele, as a library: `main` passes arguments and streams on, tests can do the same.
//!
//! A command is one variant of [`cli::Command`] and one module, which owns its arguments, its help and
//! what it does: `run(.., &mut Streams) -> Result<(), Failure>`.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the arguments as a whole, usage errors, the way from a command to its module |
//! | [`exit`] | the exit codes, and [`Failure`]: an exit code with one sentence |
//! | [`stream`] | the standard streams, `FILE` or `-`, bounded reading |
//! | [`quickstart`] | `stele quickstart`: the main job once through |
//! | [`init`] | `stele init`: makes a log |
//! | [`append`] | `stele append`: records into a log |
//! | [`read`] | `stele read`, `stele tail`: records out of a log |
//! | [`index`] | `stele index`: how far the index got, and making it anew |
//! | [`prove`] | `stele checkpoint`, `stele prove`, `stele consistency` |
//! | [`segment`] | `stele segment`: the files of a log |
//! | [`repair`] | `stele repair`: damaged files of a log from a copy of it |
//! | [`verify`] | `stele verify`: logs, segment files and proofs, offline |
//! | [`mod@bench`] | `stele bench`: what this build reaches on this machine |
//! | [`completions`] | `stele completions` |
//! | [`remote`] | a cluster instead of a directory: connection, errors |
//! | [`context`] | `stele context`: clusters by name |
//! | [`cosigned`] | checkpoints and proofs of a cluster that meet the user's policy |
//! | [`dev_certs`] | `stele dev-certs` |
//! | [`cluster`] | `stele cluster`: what operators do |
//! | [`sites`] | sites on this machine: configurations, keys, processes |
//! | [`interop`] | `stele export`, `stele import`, `stele verify interop`: one chain for other programs |
//! | [`keys`] | `stele keys`: private key files and their vkeys |
//! | [`note`] | `stele note`: signed notes |
//! | [`record`] | `stele record`: one record on standard input |
//! | [`tlog`] | `stele tlog`: proofs given as JSON lines |

pub mod append;
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod completions;
pub mod context;
pub mod cosigned;
pub mod dev_certs;
pub mod exit;
pub mod index;
pub mod init;
pub mod interop;
pub mod keys;
pub mod note;
pub mod prove;
pub mod quickstart;
pub mod read;
pub mod record;
pub mod remote;
pub mod repair;
pub mod scrub;
pub mod segment;
pub mod sites;
pub mod stream;
pub mod tlog;
pub mod verify;

pub use exit::{Exit, Failure};
pub use stream::Streams;
