//! Records to the API: templates, connections, delays. The shard decides which record goes where and when.

pub mod backoff;
pub mod confirm;
mod connection;
pub mod route;
mod said;
pub mod template;
mod token;

pub use connection::{Connection, InFlight, Step};
pub use said::{Answer, Said, beginning};
pub use token::{NoToken, token_at, why_no_token};
