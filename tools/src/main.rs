//! `stele`, the command line.

use std::env;
use std::io;
use std::process::ExitCode;

use stele_tools::{Streams, cli};

fn main() -> ExitCode {
    // Standard error is not held: a thread that panics must be able to say so.
    let input = Box::new(io::BufReader::new(io::stdin()));
    let (mut output, mut errors) = (io::stdout().lock(), io::stderr());
    let mut streams = Streams::new(input, &mut output, &mut errors);
    ExitCode::from(cli::main(env::args_os(), &mut streams).code())
}
