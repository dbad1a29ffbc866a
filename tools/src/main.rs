//! `stele`, the command line.

use std::env;
use std::io;
use std::process::ExitCode;

use stele_tools::{Streams, cli};

fn main() -> ExitCode {
    // Standard error is not held: a thread that panics must be able to say so.
    let (mut input, mut output, mut errors) = (io::stdin().lock(), io::stdout().lock(), io::stderr());
    let mut streams = Streams::new(&mut input, &mut output, &mut errors);
    ExitCode::from(cli::main(env::args_os(), &mut streams).code())
}
