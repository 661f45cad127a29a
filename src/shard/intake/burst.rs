//! What befalls many sources in one moment, such as a hub that is unplugged, is one line of the log with a count.

use crate::ground::Now;

/// So long the first waits for others.
pub(super) const WAIT_NS: u64 = 100_000_000;

/// Sources that a line names.
const NAMES_MAX: usize = 5;

/// Different things that are told apart.
const KINDS_MAX: usize = 8;

/// Sources that the same has befallen.
#[derive(Debug)]
struct Befallen {
    what: String,
    count: u64,
    /// The first of them.
    names: Vec<String>,
}

/// What has befallen sources since the last line.
#[derive(Debug, Default)]
pub(super) struct Burst(Vec<Befallen>);

impl Burst {
    /// One more; when to say it, if it is the first.
    pub fn note(&mut self, now: Now, name: &str, what: &str) -> Option<u64> {
        let is_first = self.0.is_empty();
        let known = self.0.iter().position(|befallen| befallen.what == what);
        let place = match known {
            Some(place) => place,
            None if self.0.len() < KINDS_MAX => {
                self.0.push(Befallen { what: what.to_owned(), count: 0, names: Vec::new() });
                self.0.len() - 1
            }
            // Told with the last one; the status has each source's own words.
            None => KINDS_MAX - 1,
        };
        let befallen = &mut self.0[place];
        befallen.count += 1;
        if befallen.names.len() < NAMES_MAX {
            befallen.names.push(name.to_owned());
        }
        is_first.then_some(now.mono_ns + WAIT_NS)
    }

    /// The lines, one for all that the same has befallen.
    pub fn take(&mut self) -> impl Iterator<Item = String> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|Befallen { what, count, names }| {
            let named = names.join(", ");
            match count - names.len() as u64 {
                0 if count == 1 => format!("source {named}: {what}"),
                0 => format!("{count} sources ({named}): {what}"),
                left => format!("{count} sources ({named} and {left} more): {what}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_lost_ports_are_one_line_with_a_count() {
        let now = Now { mono_ns: 7, wall_ns: 0 };
        let mut burst = Burst::default();
        let lines = |burst: &mut Burst| burst.take().collect::<Vec<_>>();
        assert!(lines(&mut burst).is_empty());
        assert_eq!(burst.note(now, "scale", "it hung up"), Some(7 + WAIT_NS));
        assert_eq!(burst.note(now, "gauge", "no such port"), None);
        assert_eq!(lines(&mut burst), ["source scale: it hung up", "source gauge: no such port"]);
        for index in 0..500 {
            assert_eq!(burst.note(now, &format!("p{index}"), "it hung up").is_some(), index == 0);
        }
        assert_eq!(lines(&mut burst), ["500 sources (p0, p1, p2, p3, p4 and 495 more): it hung up"]);
        for index in 0..100 {
            burst.note(now, "many", &format!("reason {index}"));
        }
        assert_eq!(lines(&mut burst).len(), KINDS_MAX);
    }
}
