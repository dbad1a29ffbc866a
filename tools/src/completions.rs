//! `stele completions`: what a shell needs to complete commands and options.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;
use crate::stream::Streams;

/// The arguments of `stele completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  stele completions bash > ~/.local/share/bash-completion/completions/stele
  stele completions fish > ~/.config/fish/completions/stele.fish")]
pub struct Arguments {
    /// The shell to write for.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// [`Failure`] where standard output fails.
pub fn run(arguments: Arguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    // The generator panics where its writer fails; a vector does not.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "stele", &mut script);
    streams.bytes(&script)
}
