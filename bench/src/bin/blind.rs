//! `ringest` with histograms and counters compiled out, to measure what they cost. It has a name and a feature of its own, so
//! that it is never taken for the gateway.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringest::cli::main()
}
