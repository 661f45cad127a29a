//! HTTP/1.1 (RFC 9110, RFC 9112), both sides, sans-IO: bytes and `now` in, requests, answers and bytes out. Nothing here
//! knows a socket, a clock or a thread.
//!
//! - [`server`] takes the requests of one machine's connection and writes their answers, in order.
//! - [`client`] writes the requests to the API and reads its answers.
//! - [`date`] holds the Date header's value and reads the one of Retry-After.
//!
//! Both sides look at the bytes before `httparse` does, since it takes a bare LF for the end of a line and an `HTTP/1.2`
//! for an error. Where RFC 9112 leaves a choice, the stricter reading is taken: what two parsers could read in two ways
//! is refused.

mod chunked;
pub mod client;
pub mod date;
mod fields;
mod gzip;
pub mod server;
