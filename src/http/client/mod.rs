//! The delivery side: requests to the API ([`RequestHead`]) and its answers ([`ResponseReader`]).
//!
//! It owns the bytes of an answer's head that is not whole yet, nothing else: no connection, no deadline, no decision about
//! what an answer means for a record.

mod head;
mod request;
mod response;

pub use super::chunked::ChunkFault;
pub use super::fields::FramingFault;
pub use head::{Head, MediaType, RetryAfter};
pub use request::{GetHead, RequestHead, RequestHeadError};
pub use response::{Event, ResponseError, ResponseReader};
