//! The embedded film API.
