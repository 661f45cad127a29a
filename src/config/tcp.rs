//! When a TCP connection on which nothing comes is over: `keepalive`, `user_timeout`, `idle`, `reconnect_after`.

use super::problem::Refusal;
use super::settings::Tcp;
use super::walk::Section;
use std::ops::RangeInclusive;
use std::time::Duration;

/// TCP_KEEPIDLE may be 32,767 s at most; two hours are what the kernel waits by itself.
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7_200);
const USER_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7_200);
/// A connection that lives less than 3 s is taken for one that has failed.
const IDLE: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(30 * 86_400);

/// Of a source that connects or is connected to; `idle`: what its limit of silence is called.
pub(super) fn tcp(section: &Section<'_, '_>, idle: &'static str) -> Tcp {
    let defaults = Tcp::default();
    let keepalive = section.duration("keepalive", defaults.keepalive, KEEPALIVE);
    if keepalive.subsec_nanos() != 0 {
        let remedy = "\"1s\" to \"2h\", in whole seconds";
        section.refuse("keepalive", Refusal::new("the kernel counts this time in seconds", remedy));
    }
    Tcp {
        keepalive,
        user_timeout: section.duration("user_timeout", defaults.user_timeout, USER_TIMEOUT),
        idle: section.duration_if_given(idle, IDLE),
    }
}
