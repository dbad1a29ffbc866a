//! Running the built `stele`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
}

impl Ended {
    /// Expects exit code 0 and silence on standard error, and answers standard output.
    pub(crate) fn output(self) -> String {
        assert_eq!((self.code, self.errors.as_str()), (Some(0), ""), "output: {}", self.output);
        self.output
    }

    /// Expects this code, nothing on standard output, and one sentence with all these words.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.output.as_str()), (Some(code), ""), "errors: {}", self.errors);
        self.says(words);
    }

    /// Expects one line on standard error, which begins with `stele: ` and has all these words.
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) {
        assert!(self.errors.starts_with("stele: "), "{}", self.errors);
        assert_eq!(self.errors.matches('\n').count(), 1, "{}", self.errors);
        for word in words {
            assert!(self.errors.contains(word), "`{word}` is missing in: {}", self.errors);
        }
    }
}

/// The command, with its three streams piped.
pub(crate) fn command(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stele"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end with this standard input.
pub(crate) fn stele(arguments: &[impl AsRef<OsStr>], input: impl AsRef<[u8]>) -> Ended {
    let input = input.as_ref();
    let mut child = command(arguments).spawn().expect("stele starts");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            // It may well end before it has read everything.
            if let Err(error) = stdin.write_all(input) {
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            }
        });
        child.wait_with_output().expect("stele ends")
    });
    Ended {
        code: output.status.code(),
        output: String::from_utf8(output.stdout).expect("output is UTF-8"),
        errors: String::from_utf8(output.stderr).expect("errors are UTF-8"),
    }
}

/// Writes a new file.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    File::create_new(path).and_then(|mut file| file.write_all(bytes.as_ref())).expect("the file is written");
}
