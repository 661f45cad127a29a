//! The admin address' connections. Any account of the machine can open some, so each has deadlines, and there are at most
//! [`CONNECTIONS_MAX`]. Beyond, the one that has sent no whole request for the longest time makes room: so whoever asks in earnest
//! is answered, however many others hold connections open.

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::engine::control::locked;
use crate::ground::secrets::scoped;

/// Connections at once. The gateway keeps descriptors for so many.
pub const CONNECTIONS_MAX: usize = 64;

/// Until a request's header is whole, from the accept or the answer before on: so long may a connection be idle, too.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// What was sent is to be taken within this time (tcp(7), TCP_USER_TIMEOUT).
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How soon is looked again for room, and for descriptors.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Requests still open so long after the shutdown began are cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of a connection.
struct Open {
    task: AbortHandle,
    /// Since when it has sent no whole request; `None` while one is answered.
    quiet: Arc<Mutex<Option<Instant>>>,
}

/// All connections.
struct Doors {
    router: Router,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    closing: watch::Sender<bool>,
}

/// Serves `router` on `listener` until `shutdown`, then for [`CLOSE_TIMEOUT`] at most.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let mut doors = Doors { router, tasks: JoinSet::new(), open: HashMap::new(), closing: watch::channel(false).0 };
    let mut shutdown = pin!(shutdown);
    loop {
        let has_room = doors.has_room();
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = doors.tasks.join_next_with_id() => doors.ended(ended),
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => doors.enter(stream),
                // Without descriptors, as without room, the others wait for their turn.
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            },
            () = tokio::time::sleep(LOOK_AGAIN), if !has_room => {}
        }
    }
    drop(listener);
    doors.closing.send_replace(true);
    // Those that are left are cut with the set.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, async { while doors.tasks.join_next().await.is_some() {} }).await;
}

impl Doors {
    /// Whether another connection can be taken: there are few, or one can be closed for it.
    fn has_room(&self) -> bool {
        self.open.len() < CONNECTIONS_MAX || self.quietest().is_some()
    }

    /// The connection that has sent no whole request for the longest time.
    fn quietest(&self) -> Option<Id> {
        let quiet = self.open.iter().filter_map(|(id, open)| Some((*id, (*locked(&open.quiet))?)));
        quiet.min_by_key(|(_, since)| *since).map(|(id, _)| id)
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.open.remove(&id);
    }

    fn enter(&mut self, stream: TcpStream) {
        if self.open.len() >= CONNECTIONS_MAX
            && let Some(open) = self.quietest().and_then(|id| self.open.remove(&id))
        {
            open.task.abort();
        }
        // A kernel without it has its own, longer, limit.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(TAKE_TIMEOUT));
        let quiet = Arc::new(Mutex::new(Some(Instant::now())));
        // What is read of it may hold the admin token.
        let talk = talk(stream, self.router.clone(), Arc::clone(&quiet), self.closing.subscribe());
        let task = self.tasks.spawn(scoped(talk));
        self.open.insert(task.id(), Open { task, quiet });
    }
}

/// A connection's life. What goes wrong on it concerns its peer alone, which sees it closed.
async fn talk(
    stream: TcpStream,
    router: Router,
    quiet: Arc<Mutex<Option<Instant>>>,
    mut closing: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let answer = service_fn(move |request| {
        *locked(&quiet) = None;
        let (answered, quiet) = (router.call(request), Arc::clone(&quiet));
        async move {
            let answer = answered.await;
            *locked(&quiet) = Some(Instant::now());
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}
