//! Framing gives the same records however the stream is chunked, and its memory is bounded.

mod cases;
mod damage;
mod delimiter;
mod features;
mod kinds;
mod reference;
mod speed;
