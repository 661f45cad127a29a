//! One machine, as one core sees it.

use crate::ground::RecordFlags;
use std::sync::Arc;

/// So much of its last record is kept.
pub const SAMPLE_BYTES_MAX: usize = 64;

/// What a machine has sent since the core started, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineState {
    /// The configured source.
    pub source: Arc<str>,
    /// What `{{source}}` shows.
    pub name: Arc<str>,
    /// Records received, rejected ones included.
    pub received: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Records that were rejected.
    pub rejected: u64,
    /// Parked records that were deleted.
    pub discarded: u64,
    /// Bytes of the records that were kept.
    pub bytes: u64,
    /// Records that wait to be delivered, those of earlier starts included.
    pub pending: u64,
    /// Records that are kept aside, likewise.
    pub parked: u64,
    /// When the last record was kept, in nanoseconds since 1970; 0 if there was none. So below.
    pub last_record_wall_ns: u64,
    /// When something was last rejected.
    pub last_rejected_wall_ns: u64,
    /// When a record was last delivered.
    pub last_delivered_wall_ns: u64,
    /// The length of the last record, in bytes.
    pub last_bytes: u32,
    /// What is known about the last record.
    pub flags: RecordFlags,
    /// The status of the answer that parked a record last; 0 if there was none.
    pub parked_status: u16,
    /// The beginning of the last record, see [`MachineState::sample`].
    pub sample: [u8; SAMPLE_BYTES_MAX],
}

impl MachineState {
    /// One that has sent nothing.
    pub fn new(source: Arc<str>, name: Arc<str>) -> Self {
        Self {
            source,
            name,
            received: 0,
            delivered: 0,
            rejected: 0,
            discarded: 0,
            bytes: 0,
            pending: 0,
            parked: 0,
            last_record_wall_ns: 0,
            last_rejected_wall_ns: 0,
            last_delivered_wall_ns: 0,
            last_bytes: 0,
            flags: RecordFlags::default(),
            parked_status: 0,
            sample: [0; SAMPLE_BYTES_MAX],
        }
    }

    /// The beginning of the last record.
    pub fn sample(&self) -> &[u8] {
        &self.sample[..(self.last_bytes as usize).min(SAMPLE_BYTES_MAX)]
    }
}
