//! HTTP/1.1, both sides, sans-IO.
