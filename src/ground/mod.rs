//! What all else stands on: moments, ids and numbers, text, counts, the PROXY header. It knows nothing of
//! the modules above it.

pub mod calendar;
pub mod count;
pub mod decoding;
mod flags;
mod id;
mod kept_headers;
mod moment;
mod now;
pub mod proxy;
pub mod secrets;
pub mod text;

pub use flags::{FlagCounts, RecordFlags};
pub use id::{
    ApiId, CoreId, Fd, JournalId, LaneId, LaneNumber, LinkId, RecordName, RecordNumber, SegmentNumber, SourceId,
};
pub use kept_headers::{KEPT_NAME_BYTES_MAX, KEPT_NAMES_MAX, KEPT_VALUES_BYTES_MAX, KeptHeaders};
pub use moment::Moment;
pub use now::Now;
