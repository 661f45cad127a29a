//! What all else stands on: moments, ids and numbers. It knows nothing of the modules above it.

mod id;
mod moment;
mod now;

pub use id::{ApiId, CoreId, Fd, JournalId, LaneId, LaneNumber, LinkId, RecordNumber, SegmentNumber, SourceId};
pub use moment::Moment;
pub use now::Now;
