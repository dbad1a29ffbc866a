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
//! | [`completions`] | `stele completions` |
//! | [`keys`] | `stele keys`: private key files and their vkeys |
//! | [`note`] | `stele note`: signed notes |
//! | [`record`] | `stele record`: one record on standard input |
//! | [`tlog`] | `stele tlog`: proofs given as JSON lines |

pub mod cli;
pub mod completions;
pub mod exit;
pub mod keys;
pub mod note;
pub mod record;
pub mod stream;
pub mod tlog;

pub use exit::{Exit, Failure};
pub use stream::Streams;
