//! Records to the API: templates, steps, connections, retries.
