//! Machines on ptys, over TCP and over HTTP.
