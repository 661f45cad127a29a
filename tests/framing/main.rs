//! Framing gives the same records however the stream is chunked, and its memory is bounded.

mod delimiter;
mod kinds;
mod reference;
