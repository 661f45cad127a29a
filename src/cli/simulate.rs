//! `ringest simulate`.

use super::Failure;

/// Arguments of `ringest simulate`.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// Runs the command.
pub fn main(_arguments: Arguments) -> Result<(), Failure> {
    Err(Failure::new(super::exit::FAILURE, "not built yet"))
}
