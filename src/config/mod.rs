//! A configuration file becomes checked [`Settings`].

mod settings;

pub use settings::*;
