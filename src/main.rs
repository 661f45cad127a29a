//! Dispatch: parse the command line, run the command, turn its error into a message and an exit code.

use ringest::ground::secrets::Allocator;
use std::process::ExitCode;

/// Keys and tokens lie in memory that is in no core dump.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    ringest::cli::main()
}
