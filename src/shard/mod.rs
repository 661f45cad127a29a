//! The sans-IO owner of all that one core does.

mod op;

pub use op::*;
