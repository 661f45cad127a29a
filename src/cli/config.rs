//! `ringest config`: prints a complete, commented configuration, and the framings that have a name already.

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
    /// Print the framings that have a name already, each as the section that it stands for
    Presets,
}

/// Runs the command.
///
/// # Errors
/// If standard output cannot be written.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Example => print(crate::config::EXAMPLE),
        Command::Presets => print(crate::config::PRESETS),
    }
}
