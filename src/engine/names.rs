//! Names of the API and of device servers become addresses.
//!
//! getaddrinfo(3) asks whatever this machine is configured to ask (nsswitch.conf(5)), and can wait for half a minute. So each
//! look-up has a thread, at most one at a time a name, and those of the API have threads that no device's name can take.
//! The last good addresses of a name are kept. They are used where a look-up fails, or has not answered within
//! [`GOOD_ENOUGH_AFTER`]: connects go on while the name server is away.

use super::control::locked;
use super::waiting::Waiting;
use crate::config::Authority;
use crate::observe::snapshot::{RouteSnapshot, Snapshot};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// Look-ups at once of the API's names: the present ones, and those of configurations before.
const API_THREADS: usize = 8;

/// Look-ups at once of device servers' names.
const DEVICE_THREADS: usize = 256;

/// How long a look-up is waited for where there are good addresses of before (RFC 8767 section 5 has 1.8 s).
const GOOD_ENOUGH_AFTER: Duration = Duration::from_secs(1);

/// Whose name it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameOf {
    /// The API's.
    Api,
    /// A device server's, of a `tcp_connect` source.
    Device,
}

/// What a look-up has found, or the system's words.
type Found = Result<Vec<IpAddr>, String>;

/// Looks a host up; may wait for long.
type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

#[derive(Debug, Default)]
struct Name {
    /// The look-up under way, and since when.
    running: Option<(Instant, watch::Receiver<Option<Found>>)>,
    /// What the last good look-up has found.
    good: Vec<IpAddr>,
    /// Why `good` is used without a look-up, once that was said.
    outdated: Option<String>,
}

type Known = HashMap<(NameOf, String), Name>;

/// All names that were asked for.
pub(super) struct Names {
    known: Arc<Mutex<Known>>,
    api: Waiting,
    devices: Waiting,
    look_up: LookUp,
}

impl Names {
    /// # Errors
    /// Threads cannot be made ready.
    pub(super) fn new() -> io::Result<Self> {
        Self::by(Arc::new(|host| Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())))
    }

    fn by(look_up: LookUp) -> io::Result<Self> {
        let (api, devices) = (Waiting::new("api-names", API_THREADS)?, Waiting::new("names", DEVICE_THREADS)?);
        Ok(Self { known: Arc::default(), api, devices, look_up })
    }

    /// Answers with the addresses of a name, sooner or later. It must be called in a tokio runtime with a clock.
    pub(super) fn find(&self, of: NameOf, to: Authority, mut answer: oneshot::Sender<Result<Vec<SocketAddr>, String>>) {
        let key = (of, to.host);
        let mut known = locked(&self.known);
        let name = known.entry(key.clone()).or_default();
        let is_known = !name.good.is_empty();
        let (since, mut running) = match &name.running {
            Some(running) => running.clone(),
            None => name.running.insert((Instant::now(), self.begin(key.clone()))).clone(),
        };
        drop(known);
        let known = Arc::clone(&self.known);
        tokio::spawn(async move {
            let found = tokio::select! {
                found = running.wait_for(Option::is_some) => match found {
                    Ok(found) => found.clone().expect("waited for"),
                    Err(_) => Err("the gateway is stopping".to_owned()),
                },
                () = tokio::time::sleep_until(since + GOOD_ENOUGH_AFTER), if is_known => {
                    Err(format!("the name server has not answered within {GOOD_ENOUGH_AFTER:?}"))
                }
                // Whoever asked has given up.
                () = answer.closed() => return,
            };
            let found = found.or_else(|why| good_of(&known, &key, why));
            let _ = answer.send(found.map(|ips| ips.into_iter().map(|ip| SocketAddr::new(ip, to.port)).collect()));
        });
    }

    /// Begins the one look-up of a name.
    fn begin(&self, key: (NameOf, String)) -> watch::Receiver<Option<Found>> {
        let (tell, hear) = watch::channel(None);
        let threads = if key.0 == NameOf::Api { &self.api } else { &self.devices };
        let (look_up, known) = (Arc::clone(&self.look_up), Arc::clone(&self.known));
        // Its end is told by the channel. It is not waited for at the end of the gateway.
        drop(threads.handle().spawn_blocking(move || {
            let found = look_up(&key.1).map_err(|error| error.to_string());
            if let Some(name) = locked(&known).get_mut(&key) {
                name.running = None;
                if let Ok(ips) = &found {
                    name.good.clone_from(ips);
                    if name.outdated.take().is_some() {
                        info!("the name {} is looked up again", key.1);
                    }
                }
            }
            tell.send_replace(Some(found));
        }));
        hear
    }

    /// Keeps only these names, and those that are being looked up.
    pub(super) fn keep(&self, hosts: &HashSet<(NameOf, &str)>) {
        locked(&self.known).retain(|(of, host), name| name.running.is_some() || hosts.contains(&(*of, host.as_str())));
    }

    /// Puts what is wrong with names of the API into what the cores show. What is wrong with a connect itself goes before.
    pub(super) fn show(&self, snapshots: &mut [Snapshot]) {
        let known = locked(&self.known);
        for ((_, host), name) in known.iter().filter(|((of, _), _)| *of == NameOf::Api) {
            let Some(why) = &name.outdated else { continue };
            let routes = snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.routes);
            let is_own = |route: &&mut RouteSnapshot| {
                route.authority.rsplit_once(':').is_some_and(|(own, _)| own == host) && route.problem.is_none()
            };
            for route in routes.filter(is_own) {
                route.problem = Some(words(host, why));
            }
        }
    }
}

fn words(host: &str, why: &str) -> String {
    format!("the name {host} cannot be looked up ({why}): connects go to the addresses that it had before")
}

/// The good addresses of before, or why there are none. That they are used is logged once, until a look-up is good again.
fn good_of(known: &Mutex<Known>, key: &(NameOf, String), why: String) -> Found {
    let mut known = locked(known);
    let Some(name) = known.get_mut(key).filter(|name| !name.good.is_empty()) else { return Err(why) };
    if name.outdated.is_none() {
        warn!("{}", words(&key.1, &why));
    }
    name.outdated = Some(why);
    Ok(name.good.clone())
}

/// The addresses of a host that needs no look-up: an address, or the name of this machine's loopback (RFC 6761 section 6.3).
pub(super) fn known_without_look_up(to: &Authority) -> Option<Vec<SocketAddr>> {
    let host = to.host.strip_suffix('.').unwrap_or(&to.host);
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) if is_localhost(host) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        Err(_) => return None,
    };
    Some(ips.into_iter().map(|ip| SocketAddr::new(ip, to.port)).collect())
}

fn is_localhost(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Far beyond what anything here takes on a loaded machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn to(host: &str) -> Authority {
        Authority { host: host.to_owned(), port: 8000 }
    }

    async fn find(names: &Names, of: NameOf, host: &str) -> Result<Vec<SocketAddr>, String> {
        let (answer, answered) = oneshot::channel();
        names.find(of, to(host), answer);
        tokio::time::timeout(PATIENCE, answered).await.expect("in time").expect("an answer")
    }

    /// Names that begin with `dead` are not answered for until this is dropped.
    struct Server {
        asked: AtomicUsize,
        stopped: Mutex<bool>,
        stop: Condvar,
    }

    impl Server {
        fn start() -> (Arc<Self>, Names) {
            let server =
                Arc::new(Self { asked: AtomicUsize::new(0), stopped: Mutex::new(false), stop: Condvar::new() });
            let asked = Arc::clone(&server);
            let names = Names::by(Arc::new(move |host| asked.answer(host)));
            (server, names.expect("threads"))
        }

        fn answer(&self, host: &str) -> io::Result<Vec<IpAddr>> {
            let count = self.asked.fetch_add(1, Ordering::SeqCst);
            if host.starts_with("dead") || (host.starts_with("once") && count > 0) {
                let stopped = self.stopped.lock().expect("fine");
                drop(self.stop.wait_while(stopped, |stopped| !*stopped).expect("fine"));
                return Err(io::Error::other("no answer"));
            }
            if host.starts_with("wrong") && count > 0 {
                return Err(io::Error::other("no such name"));
            }
            Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()])
        }

        fn stop(&self) {
            *self.stopped.lock().expect("fine") = true;
            self.stop.notify_all();
        }
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_keep_no_other_name_waiting() {
        let (server, names) = Server::start();
        let dead: Vec<_> = (0..DEVICE_THREADS + 50)
            .map(|index| {
                let (answer, answered) = oneshot::channel();
                names.find(NameOf::Device, to(&format!("dead-{index}")), answer);
                answered
            })
            .collect();
        let begun = Instant::now();
        assert_eq!(find(&names, NameOf::Api, "api").await, Ok(vec![SocketAddr::from(([192, 0, 2, 1], 8000))]));
        assert!(begun.elapsed() < PATIENCE && !server.stopped.lock().is_ok_and(|stopped| *stopped));
        server.stop();
        for answered in dead {
            assert_eq!(answered.await.expect("an answer"), Err("no answer".to_owned()));
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_at_a_time_however_many_ask() {
        let (server, names) = Server::start();
        let asked: Vec<_> = (0..20)
            .map(|_| {
                let (answer, answered) = oneshot::channel();
                names.find(NameOf::Device, to("dead"), answer);
                answered
            })
            .collect();
        server.stop();
        // Some have given up.
        for answered in asked.into_iter().skip(10) {
            assert!(answered.await.expect("an answer").is_err());
        }
        assert_eq!(server.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_last_good_addresses_are_used_where_a_look_up_fails_or_is_not_answered() {
        for host in ["wrong", "once"] {
            let (server, names) = Server::start();
            let good = find(&names, NameOf::Api, host).await;
            let shown = || {
                let route = RouteSnapshot { authority: format!("{host}:8000"), ..RouteSnapshot::default() };
                let mut snapshots = [Snapshot { routes: vec![route], ..Snapshot::default() }];
                names.show(&mut snapshots);
                snapshots[0].routes[0].problem.take()
            };
            assert!(good.is_ok() && shown().is_none());
            assert_eq!(find(&names, NameOf::Api, host).await, good);
            let told = shown().expect("it is told");
            assert!(told.contains(&format!("the name {host} cannot be looked up (")), "{told}");
            names.keep(&HashSet::from([(NameOf::Api, host)]));
            assert_eq!(find(&names, NameOf::Api, host).await, good);
            server.stop();
        }
    }

    #[test]
    fn addresses_and_the_loopback_s_names_need_no_look_up() {
        for (host, count) in [("192.0.2.1", 1), ("::1", 1), ("localhost", 2), ("LocalHost.", 2), ("a.localhost", 2)] {
            assert_eq!(known_without_look_up(&to(host)).map(|found| found.len()), Some(count), "{host}");
        }
        for host in ["api.plant", "localhost.plant", "notlocalhost"] {
            assert_eq!(known_without_look_up(&to(host)), None, "{host}");
        }
    }
}
