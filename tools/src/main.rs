//! `stele`, the command line.

use std::env;
use std::io;
use std::process::ExitCode;

use stele_tools::{Streams, cli};

fn main() -> ExitCode {
    let (mut input, mut output, mut errors) = (io::stdin().lock(), io::stdout().lock(), io::stderr().lock());
    let mut streams = Streams::new(&mut input, &mut output, &mut errors);
    ExitCode::from(cli::main(env::args_os(), &mut streams).code())
}
