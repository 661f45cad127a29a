//! Records to the API: templates, steps, connections, retries.

pub mod template;
