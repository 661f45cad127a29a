//! What befalls many sources in one moment, such as a hub that is unplugged, is one line of the log with a count. Each source's own
//! words are in the status.

use crate::ground::Now;

/// So long the first waits for others.
pub(super) const WAIT_NS: u64 = 100_000_000;

/// Sources that are named.
const NAMES_MAX: usize = 5;

/// Sources that the same has befallen since the last line.
#[derive(Debug, Default)]
pub(super) struct Burst {
    count: u64,
    /// The first of them.
    names: Vec<String>,
    /// What has befallen the first one.
    first: String,
}

impl Burst {
    /// One more; when to say it, if it is the first.
    pub fn note(&mut self, now: Now, name: &str, what: &str) -> Option<u64> {
        self.count += 1;
        if self.names.len() < NAMES_MAX {
            self.names.push(name.to_owned());
        }
        if self.count > 1 {
            return None;
        }
        what.clone_into(&mut self.first);
        Some(now.mono_ns + WAIT_NS)
    }

    /// The line, if there is anything to say; `all`: what has befallen them, in the plural.
    pub fn take(&mut self, all: &str) -> Option<String> {
        let Self { count, names, first } = std::mem::take(self);
        match count {
            0 => None,
            1 => Some(format!("source {}: {first}", names[0])),
            _ => {
                let left = count - names.len() as u64;
                let more = if left == 0 { String::new() } else { format!(" and {left} more") };
                Some(format!("{count} sources {all}: {}{more}; the first: {first}", names.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_lost_ports_are_one_line_with_a_count() {
        let now = Now { mono_ns: 7, wall_ns: 0 };
        let mut burst = Burst::default();
        assert_eq!(burst.take("are lost"), None);
        assert_eq!(burst.note(now, "scale", "it hung up"), Some(7 + WAIT_NS));
        assert_eq!(burst.take("are lost").as_deref(), Some("source scale: it hung up"));
        for index in 0..500 {
            assert_eq!(burst.note(now, &format!("p{index}"), "it hung up").is_some(), index == 0);
        }
        let line = burst.take("are lost").expect("there are some");
        assert_eq!(line, "500 sources are lost: p0, p1, p2, p3, p4 and 495 more; the first: it hung up");
        assert_eq!(burst.take("are lost"), None);
    }
}
