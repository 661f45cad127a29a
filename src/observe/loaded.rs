//! What became of the last attempt to read the configuration.

use super::report::{Area, Problem};
use crate::config::Settings;
use crate::ground::text::rfc3339;
use crate::tls::{Expiry, expiries, server_expiries};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last attempts, shared by those who read the configuration and those who show it. A start counts as a first success.
#[derive(Debug, Clone)]
pub struct Loaded(Arc<Mutex<Attempts>>);

#[derive(Debug)]
struct Attempts {
    /// When the present configuration was read, in nanoseconds since 1970.
    success_wall_ns: u64,
    /// Attempts since then: when the last one failed, and why.
    failure: Option<(u64, String)>,
    /// Why a file of secrets cannot be used: the earlier secret is in force.
    secret_fault: Option<String>,
    /// Of the configuration in force.
    certificates: Vec<Expiry>,
}

impl Loaded {
    /// The configuration was read at `wall_ns` nanoseconds after 1970.
    pub fn at(wall_ns: u64) -> Self {
        Self(Arc::new(Mutex::new(Attempts {
            success_wall_ns: wall_ns,
            failure: None,
            secret_fault: None,
            certificates: Vec::new(),
        })))
    }

    /// Another configuration is in force, since `wall_ns` nanoseconds after 1970.
    pub fn succeed(&self, wall_ns: u64) {
        let mut attempts = self.attempts();
        (attempts.success_wall_ns, attempts.failure) = (wall_ns, None);
    }

    /// When the certificates end that the configuration in force names.
    pub fn certificates(&self) -> Vec<Expiry> {
        self.attempts().certificates.clone()
    }

    /// Those of the configuration that is in force from now on.
    pub fn set_certificates(&self, settings: &Settings) {
        let of_sources = settings.sources.iter().filter_map(|source| source.tls.as_ref());
        let of_sources = of_sources.flat_map(|tls| server_expiries(&tls.server));
        let ours = settings.sources.iter().filter_map(|source| source.connect_tls.as_deref());
        let ours = settings.deliver.tls.iter().chain(ours).flat_map(expiries);
        let mut ends: Vec<Expiry> = ours.chain(of_sources).collect();
        // Sources may share their files, and a metric stands there once.
        ends.sort_unstable();
        ends.dedup_by(|later, first| later.of == first.of && later.subject == first.subject);
        self.attempts().certificates = ends;
    }

    /// An attempt failed at `wall_ns` nanoseconds after 1970; the configuration is what it was.
    pub fn fail(&self, why: &str, wall_ns: u64) {
        self.attempts().failure = Some((wall_ns, why.to_owned()));
    }

    /// Why a file of secrets cannot be used, if it is so; whether that is news.
    pub fn set_secret_fault(&self, fault: Option<String>) -> bool {
        let mut attempts = self.attempts();
        let is_news = fault.is_some() && attempts.secret_fault != fault;
        attempts.secret_fault = fault;
        is_news
    }

    /// Whether the last attempt was a success.
    pub fn is_successful(&self) -> bool {
        self.attempts().failure.is_none()
    }

    /// When the present configuration was read, in seconds since 1970.
    pub fn success_s(&self) -> f64 {
        self.attempts().success_wall_ns as f64 / 1e9
    }

    /// `config` of `/api/status`.
    pub fn status(&self) -> Value {
        let attempts = self.attempts();
        let failure = attempts.failure.as_ref();
        json!({
            "loaded_at": rfc3339(attempts.success_wall_ns),
            "last_reload_successful": failure.is_none(),
            "failed_at": failure.map(|(wall_ns, _)| rfc3339(*wall_ns)),
            "error": failure.map(|(_, why)| why),
        })
    }

    /// Failures as something that an operator should know.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let attempts = self.attempts();
        let reload = attempts.failure.as_ref().map(|(wall_ns, why)| {
            let at = rfc3339(*wall_ns);
            ("configuration", format!("last reload failed at {at}; the earlier configuration is in force: {why}"))
        });
        let secret = attempts
            .secret_fault
            .as_ref()
            .map(|why| ("secrets", format!("a file of secrets cannot be used; the earlier secret is in force: {why}")));
        let problem = |(name, text): (&str, String)| Problem { area: Area::Config, name: name.to_owned(), text };
        reload.into_iter().chain(secret).map(problem).collect::<Vec<_>>().into_iter()
    }

    /// Also after a panic elsewhere: what is there is whole at any time.
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_until_the_next_success() {
        let loaded = Loaded::at(1_800_000_000_000_000_000);
        assert!(loaded.is_successful() && loaded.problems().next().is_none());
        let begun_s = loaded.success_s();
        loaded.fail("no such file", 1_800_000_001_000_000_000);
        assert!(!loaded.is_successful());
        assert_eq!(loaded.success_s(), begun_s);
        assert_eq!(loaded.status()["error"], "no such file");
        let problem = loaded.problems().next().expect("it failed");
        assert!(
            problem.text.contains("no such file") && problem.text.starts_with("last reload failed at 20"),
            "{problem:?}"
        );
        loaded.succeed(1_800_000_002_000_000_000);
        assert!(loaded.is_successful() && loaded.success_s() > begun_s);
        assert_eq!(loaded.status()["failed_at"], Value::Null);
        let fault = || Some("token.txt: it is empty".to_owned());
        assert!(loaded.set_secret_fault(fault()) && !loaded.set_secret_fault(fault()));
        assert!(loaded.problems().next().expect("it is told").text.contains("token.txt: it is empty"));
        loaded.set_secret_fault(None);
        assert!(loaded.problems().next().is_none());
    }
}
