//! What stands at the path of a serial source on this machine. The configuration touches no port: whoever may look hands in
//! a function that does.

use std::path::{Path, PathBuf};

/// What is seen at a path, without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or nothing that can be looked at: it may come.
    Nothing,
    /// A tty.
    Tty {
        /// Its device number, the same by whatever name it is found.
        device: u64,
        /// A name of it that stays when it is plugged in again, if there is one.
        stable: Option<PathBuf>,
    },
    /// Something that cannot be a serial port, such as "a directory".
    NoTty(&'static str),
}

/// Looks at a path.
pub type Look<'l> = &'l dyn Fn(&Path) -> Seen;

/// Nobody looks: the configuration may be for another machine.
pub fn look_at_nothing(_: &Path) -> Seen {
    Seen::Nothing
}
