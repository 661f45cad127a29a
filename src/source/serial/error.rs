//! Why a port is not ours.

/// Why a serial port could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No such path.
    #[error("no such port")]
    Missing,
    /// Another process holds it.
    #[error("the port is in use{}", holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    Busy {
        /// Name and PID, where they can be seen.
        holder: Option<String>,
    },
    /// File mode or group.
    #[error("permission denied: {remedy}")]
    Permission {
        /// What to do about it, such as which group to join.
        remedy: String,
    },
    /// Something else stands at the path, such as a directory.
    #[error("{path} is not a serial port (not a tty): `ringest ports` shows those that there are")]
    NoTty {
        /// The path.
        path: String,
    },
    /// Anything else, with the system's words.
    #[error("{0}")]
    Other(String),
}
