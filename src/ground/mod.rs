//! What all else stands on: the moment, ids and numbers, text, counts. It knows nothing of the modules above it.

pub mod calendar;
pub mod count;
mod id;
mod now;
pub mod text;

pub use id::{ApiId, CoreId, Fd, JournalId, LaneId, LaneNumber, LinkId, RecordNumber, SegmentNumber, SourceId};
pub use now::Now;
