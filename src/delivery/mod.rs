//! Records to the API: templates, connections, delays. The shard decides which record goes where and when.

pub mod backoff;
pub mod confirm;
mod connection;
pub mod route;
pub mod template;
mod token;

pub use connection::{Connection, InFlight, Step};
pub use token::token_at;
