//! How much a listener takes of each.

/// How much one listener takes; `None`: as much as there is room for. Each core counts the connections that it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Connections in all.
    pub connections: Option<usize>,
    /// Connections of one address.
    pub connections_per_address: Option<u32>,
    /// Connections that show one token.
    pub connections_per_token: Option<u32>,
    /// Requests a second under one SOURCE.
    pub requests_per_second: Option<u32>,
    /// Bytes a second, of bodies, under one SOURCE.
    pub bytes_per_second: Option<u64>,
}
