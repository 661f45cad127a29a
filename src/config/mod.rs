//! A configuration file becomes checked [`Settings`].

mod nearest;
mod settings;

pub(crate) use nearest::nearest;
pub use settings::*;
