//! What all else stands on: the moment, ids and numbers. It knows nothing of the modules above it.

mod id;
mod now;

pub use id::{ApiId, CoreId, Fd, JournalId, LaneId, LaneNumber, LinkId, RecordNumber, SegmentNumber, SourceId};
pub use now::Now;
