//! Names of sources: each is in memory once, however many origins have it.

use super::Identity;
use crate::journal::format::OriginPayload;
use std::collections::HashSet;
use std::sync::Arc;

/// The names that are in use, and some that were.
#[derive(Debug, Default)]
pub(in crate::journal) struct SourceNames(HashSet<Arc<str>>);

impl SourceNames {
    /// The one copy of a name.
    pub fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(same) = self.0.get(name) {
            return Arc::clone(same);
        }
        if self.0.len().is_power_of_two() {
            self.0.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        name
    }

    /// Who is meant by what was written down.
    pub fn identity(&mut self, payload: &OriginPayload<'_>) -> Identity {
        let OriginPayload { peer, decoding, source, name, .. } = *payload;
        Identity { source: self.share(source), name: name.into(), peer, decoding }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_memory_once_and_goes_when_nobody_has_it() {
        let mut names = SourceNames::default();
        let (first, again) = (names.share("press"), names.share("press"));
        assert!(Arc::ptr_eq(&first, &again));
        for number in 0..1_000 {
            names.share(&format!("source {number}"));
        }
        assert!(names.0.len() <= 3 && names.0.contains("press"), "{names:?}");
    }
}
