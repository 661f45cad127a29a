//! `ringest config`: prints a complete, commented configuration.

use super::Failure;
use super::check::print;

/// Arguments of `ringest config`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print a configuration in which every key appears, with its default and what it is for
    Example,
}

/// Runs the command.
///
/// # Errors
/// If standard output cannot be written.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Example => print(crate::config::EXAMPLE),
    }
}
