//! Dispatch: parse the command line, run the command, turn its error into a message and an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringest::cli::main()
}
