//! Byte streams are cut into records.
