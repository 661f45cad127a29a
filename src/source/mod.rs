//! Where bytes come from.

pub mod serial;
