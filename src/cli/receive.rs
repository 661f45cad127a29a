//! `ringest receive`: the film API as a command.

use super::{Failure, exit};
use crate::receive::{self, Durability, Receiver, Totals};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Arguments of `ringest receive`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// SQLite database, made where there is none
    #[arg(long, value_name = "FILE", default_value = "films.sqlite3")]
    database: PathBuf,
    /// What an answered record survives
    #[arg(long, value_enum, default_value_t = Durability::Normal)]
    sync: Durability,
    /// Write the address to this file once requests are taken
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Runs the command until SIGTERM or Ctrl-C.
///
/// # Errors
/// [`exit::BUSY`] and [`exit::PERMISSION`] for the address; [`exit::FAILURE`] for the database.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    // One thread serves: with the database's writer there are two, which leaves the other cores to the gateway.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    // Before the ready file: who reads it may send a signal at once.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = tokio::net::TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| bind_failure(arguments.listen, &error))?;
    let address = listener.local_addr()?;
    let receiver = Receiver::open(&arguments.database, arguments.sync)?;
    let totals = receiver.totals();
    eprintln!("film API on http://{address}/ (POST /seq/, POST /films/), database {}", arguments.database.display());
    eprintln!("live page: http://{address}/");
    if let Some(path) = &arguments.ready_file {
        write_ready_file(path, address)
            .map_err(|error| Failure::new(exit::FAILURE, format!("cannot write {}: {error}", path.display())))?;
    }
    let counting = io::stderr().is_terminal().then(|| tokio::spawn(count(totals.clone())));
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let served = receive::serve(receiver, listener, shutdown).await;
    if let Some(counting) = counting {
        counting.abort();
        eprintln!();
    }
    served?;
    let films = totals.lock().map_or(0, |totals| totals.films);
    eprintln!("stopped; {films} films in {}", arguments.database.display());
    Ok(())
}

fn bind_failure(address: SocketAddr, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::AddrInUse => exit::BUSY,
        io::ErrorKind::PermissionDenied => exit::PERMISSION,
        _ => exit::FAILURE,
    };
    Failure::new(code, format!("cannot listen on {address}: {error}"))
}

/// Whole or not at all: a reader never sees half an address.
fn write_ready_file(path: &Path, address: SocketAddr) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    std::fs::write(&unfinished, format!("{address}\n"))?;
    std::fs::rename(&unfinished, path)
}

/// Shows the counts on one line of the terminal, once a second.
async fn count(totals: Arc<Mutex<Totals>>) {
    let counts = || totals.lock().map_or((0, 0), |totals| (totals.films, totals.machines.len()));
    let mut before = counts().0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    loop {
        tick.tick().await;
        let (films, machines) = counts();
        // A terminal that is gone is no reason to stop.
        let _ = write!(io::stderr(), "\r\x1b[K{films} films of {machines} machines, {}/s", films - before);
        before = films;
    }
}
