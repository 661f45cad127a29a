//! What goes wrong with the TLS of machines: each fault is counted, told once a minute at most for each source, and certificates that
//! end soon are problems of their source.

use crate::ground::text::counted;
use crate::ground::{Now, SourceId};
use crate::observe::snapshot::SourceSnapshot;
use crate::shard::refusals::Refusal;
use crate::shard::timer::Timer;
use crate::shard::turn::Turn;
use crate::tls::{Fault, MachineCertificate, Reason, SOON};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A source's faults are told once in this time.
const SAY_NS: u64 = 60_000_000_000;
/// Machines of a source whose certificates are remembered as ending soon.
const MACHINES_MAX: usize = 256;
/// Of them so many are named.
const MACHINES_SHOWN_MAX: usize = 4;

/// Faults of one source that were not told.
#[derive(Debug, Default)]
struct Untold {
    /// Before this nothing is told.
    say_ns: u64,
    count: u64,
    last: String,
}

/// What is known of all sources.
#[derive(Debug, Default)]
pub(super) struct Faults {
    untold: BTreeMap<SourceId, Untold>,
    /// When certificates of machines end, by their names.
    ending: BTreeMap<(SourceId, String), i64>,
}

impl Faults {
    /// Counts a fault, and tells it unless one was told lately.
    pub fn note(&mut self, turn: &mut Turn<'_>, id: SourceId, peer: Option<SocketAddr>, fault: &Fault) {
        let counters = &mut *turn.counters;
        *match fault.reason {
            Reason::Plain | Reason::Proxy => &mut counters.tls_failed_plain,
            Reason::Offer => &mut counters.tls_failed_offer,
            Reason::Certificate => &mut counters.tls_failed_certificate,
            Reason::Untrusted => &mut counters.tls_failed_untrusted,
            Reason::Late => &mut counters.tls_failed_late,
            Reason::Left => &mut counters.tls_failed_left,
            Reason::Other => &mut counters.tls_failed_other,
        } += 1;
        turn.refuse(&Refusal {
            source: id,
            reason: fault.reason.label(),
            words: &fault.words,
            peer,
            machine: None,
            line: "",
        });
        let peer = peer.map_or("it".to_owned(), |peer| peer.to_string());
        self.tell(turn, id, format!("no TLS with {peer}: {fault}"));
    }

    /// A machine has begun TLS where none is spoken.
    pub fn note_hello(&mut self, turn: &mut Turn<'_>, id: SourceId, peer: SocketAddr) {
        turn.counters.tls_hellos_on_plain_ports += 1;
        let words = "it began TLS, and this source has none: give the source its tls, or the machine an http:// URL";
        let (reason, line) = ("tls_hello", "a TLS ClientHello");
        turn.refuse(&Refusal { source: id, reason, words, peer: Some(peer), machine: None, line });
        self.tell(turn, id, format!("a connection of {peer} was closed: {words}"));
    }

    fn tell(&mut self, turn: &mut Turn<'_>, id: SourceId, what: String) {
        let untold = self.untold.entry(id).or_default();
        if turn.now.mono_ns < untold.say_ns {
            (untold.count, untold.last) = (untold.count + 1, what);
            return;
        }
        tracing::warn!("source {}: {what}", turn.source(id).name);
        untold.say_ns = turn.now.mono_ns + SAY_NS;
        turn.timers.set(untold.say_ns, Timer::Tls);
    }

    /// Tells what was not told within the last minute.
    pub fn tell_rest(&mut self, turn: &mut Turn<'_>) {
        for (id, untold) in &mut self.untold {
            if untold.count == 0 || turn.now.mono_ns < untold.say_ns {
                continue;
            }
            let (count, last) = (std::mem::take(&mut untold.count), std::mem::take(&mut untold.last));
            let name = &turn.settings.sources[usize::from(id.0)].name;
            match count {
                1 => tracing::warn!("source {name}: {last}"),
                _ => tracing::warn!("source {name}: {count} more within the last minute, the last one: {last}"),
            }
            untold.say_ns = turn.now.mono_ns + SAY_NS;
            turn.timers.set(untold.say_ns, Timer::Tls);
        }
    }

    /// A certificate that a machine has shown.
    pub fn note_certificate(&mut self, turn: &Turn<'_>, id: SourceId, certificate: &MachineCertificate) {
        let key = (id, certificate.name.clone().unwrap_or_else(|| "without a name".to_owned()));
        let left_s = certificate.not_after_s - (turn.now.wall_ns / 1_000_000_000) as i64;
        if left_s > SOON.as_secs() as i64 {
            self.ending.remove(&key);
        } else if self.ending.len() < MACHINES_MAX || self.ending.contains_key(&key) {
            self.ending.insert(key, certificate.not_after_s);
        }
    }

    /// Adds what is to be known of a source's machines to its problem.
    pub fn add_to(&self, mut shown: SourceSnapshot, now: Now, id: SourceId) -> SourceSnapshot {
        if let Some(ending) = self.ending(now, id) {
            shown.problem = Some(shown.problem.map_or(ending.clone(), |problem| format!("{problem}; {ending}")));
        }
        shown
    }

    /// Certificates of a source's machines that end soon, or have ended, in words.
    fn ending(&self, now: Now, id: SourceId) -> Option<String> {
        let of_source = self.ending.iter().filter(|((other, _), _)| *other == id);
        let mut ending: Vec<(i64, &str)> = of_source.map(|((_, name), end_s)| (*end_s, name.as_str())).collect();
        ending.sort_unstable();
        let now_s = (now.wall_ns / 1_000_000_000) as i64;
        let words = ending.iter().take(MACHINES_SHOWN_MAX).map(|(end_s, name)| {
            let day = jiff::Timestamp::from_second(*end_s).map(|end| end.strftime("%Y-%m-%d").to_string());
            let day = day.unwrap_or_else(|_| "a day that no calendar has".to_owned());
            let name = name.escape_debug();
            match end_s - now_s {
                ..0 => format!("the certificate of {name} ended on {day}"),
                left_s => format!("the certificate of {name} ends on {day}, in {} days", left_s / 86_400),
            }
        });
        let words = words.collect::<Vec<_>>().join(", ");
        let more = ending.len().saturating_sub(MACHINES_SHOWN_MAX);
        match (words.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(words),
            (false, more) => Some(format!("{words}, and those of {} soon", counted(more as u64, "other machine"))),
        }
    }

    /// A source is gone.
    pub fn forget(&mut self, id: SourceId) {
        self.untold.remove(&id);
        self.ending.retain(|(other, _), _| *other != id);
    }
}
