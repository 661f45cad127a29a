//! The films in SQLite: one thread writes, all that waits in one transaction; another connection reads.

use super::sequence::{BLOCK, Sequence};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Rows that may wait for the writer; a request beyond waits itself.
const WAITING_MAX: usize = 4_096;
/// Rows in one transaction.
const BATCH_MAX: usize = 1_024;
/// How long another process may hold the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Machines that are counted by name.
const MACHINES_MAX: usize = 20_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS films (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id INTEGER NOT NULL UNIQUE,
    machine TEXT NOT NULL,
    data TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    received_at_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS sequence (one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL);
INSERT OR IGNORE INTO sequence (one, next) VALUES (1, 1);";

/// What a 201 survives; SQLite's `synchronous` in WAL mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// Never sync: a loss of power can damage the database
    Off,
    /// Sync at checkpoints: rows survive a killed process; a loss of power can take the last ones
    Normal,
    /// Sync at every commit: rows survive a loss of power
    Full,
}

impl Durability {
    fn pragma(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Normal => "NORMAL",
            Self::Full => "FULL",
        }
    }
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened or prepared.
    #[error("the database {} cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The writer's thread cannot be started.
    #[error("the database's writer cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A row to be written.
#[derive(Debug)]
pub struct Film {
    /// Its number.
    pub id: i64,
    /// Whether the number came from the client; else the next free one is taken where it is used already.
    pub id_given: bool,
    /// What sent it.
    pub machine: String,
    /// The record.
    pub data: String,
    /// The request's key.
    pub key: Option<String>,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Stored.
    Created(i64),
    /// Stored before, under this id.
    Repeated(i64),
    /// The id belongs to another row.
    Conflict(String),
    /// Not stored, for now.
    Failed(String),
}

/// A row as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredFilm {
    /// Counts rows in the order of their arrival.
    pub position: i64,
    /// The film's number.
    pub id: i64,
    /// What sent it.
    pub machine: String,
    /// The record.
    pub data: String,
    /// Microseconds since 1970.
    pub received_at_us: i64,
}

/// What a machine sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineCount {
    /// Rows.
    pub films: u64,
    /// The last one, in microseconds since 1970.
    pub last_at_us: i64,
}

/// Counts for the page and the terminal.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Rows in the database.
    pub films: u64,
    /// Rows by machine; the first 20,000 machines.
    pub machines: HashMap<String, MachineCount>,
}

impl Totals {
    fn count(&mut self, machine: &str, films: u64, at_us: i64) {
        self.films += films;
        if !self.machines.contains_key(machine) {
            if self.machines.len() >= MACHINES_MAX {
                return;
            }
            self.machines.insert(machine.to_owned(), MachineCount::default());
        }
        let count = self.machines.get_mut(machine).expect("it is there");
        count.films += films;
        count.last_at_us = count.last_at_us.max(at_us);
    }
}

enum Job {
    Film(Film, oneshot::Sender<Outcome>),
    Reserve,
    Stop,
}

/// A handle on the writer's thread and the reading connection.
pub struct Store {
    jobs: mpsc::Sender<Job>,
    reader: Arc<Mutex<Connection>>,
    sequence: Arc<Sequence>,
    totals: Arc<Mutex<Totals>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the database and starts its writer.
    ///
    /// # Errors
    /// When the file is no database of films or cannot be written.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let mut connection = connect(path, durability).map_err(failed)?;
        let totals = count_all(&connection).map_err(failed)?;
        let first = reserve(&mut connection, durability).map_err(failed)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags).map_err(failed)?;
        reader.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;

        let sequence = Arc::new(Sequence::default());
        sequence.add(first);
        let totals = Arc::new(Mutex::new(totals));
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let writer =
            Writer { connection, durability, sequence: sequence.clone(), totals: totals.clone(), batch: Vec::new() };
        let writer = std::thread::Builder::new().name("films".to_owned()).spawn(move || writer.run(waiting))?;
        Ok(Self { jobs, reader: Arc::new(Mutex::new(reader)), sequence, totals, writer: Mutex::new(Some(writer)) })
    }

    /// Writes a row; answers after its commit.
    pub async fn write(&self, film: Film) -> Outcome {
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job::Film(film, answer)).await.is_err() {
            return Outcome::Failed("the database's writer has ended".to_owned());
        }
        answered.await.unwrap_or_else(|_| Outcome::Failed("the database's writer has ended".to_owned()))
    }

    /// The next id, or the one that `key` got before.
    ///
    /// # Errors
    /// Why none can be reserved.
    pub async fn take_ids(&self, key: Option<&str>, count: i64) -> Result<Range<i64>, String> {
        let ask = || {
            // On a task of its own: a request that is dropped while the queue is full must not take the reservation with it.
            let (jobs, sequence) = (self.jobs.clone(), self.sequence.clone());
            tokio::spawn(async move {
                if jobs.send(Job::Reserve).await.is_err() {
                    sequence.fail("the database's writer has ended".to_owned());
                }
            });
        };
        self.sequence.take(key, count, ask).await
    }

    /// Runs a query on a thread for blocking work.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let reader = self.reader.clone();
        let run = move || query(&reader.lock().expect("a query does not panic")).map_err(|error| error.to_string());
        tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// The film with this id.
    ///
    /// # Errors
    /// SQLite's words.
    pub async fn film(&self, id: i64) -> Result<Option<StoredFilm>, String> {
        self.read(move |connection| {
            let sql = "SELECT position, id, machine, data, received_at_us FROM films WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([id], stored).optional()
        })
        .await
    }

    /// Up to `limit` films behind `after`, in the order of their arrival.
    ///
    /// # Errors
    /// SQLite's words.
    pub async fn films_after(&self, after: i64, limit: u32) -> Result<Vec<StoredFilm>, String> {
        self.read(move |connection| {
            let sql = "SELECT position, id, machine, data, received_at_us FROM films
                       WHERE position > ?1 ORDER BY position LIMIT ?2";
            connection.prepare_cached(sql)?.query_map(params![after, limit], stored)?.collect()
        })
        .await
    }

    /// The last `limit` films, the newest first.
    ///
    /// # Errors
    /// SQLite's words.
    pub async fn newest(&self, limit: u32) -> Result<Vec<StoredFilm>, String> {
        self.read(move |connection| {
            let sql = "SELECT position, id, machine, data, received_at_us FROM films ORDER BY position DESC LIMIT ?1";
            connection.prepare_cached(sql)?.query_map([limit], stored)?.collect()
        })
        .await
    }

    /// The shared counts.
    pub fn totals(&self) -> Arc<Mutex<Totals>> {
        self.totals.clone()
    }

    /// Ends the writer after all that waits is committed; later rows are refused.
    pub async fn close(&self) {
        // An error means that it has ended already.
        let _ = self.jobs.send(Job::Stop).await;
        let writer = self.writer.lock().expect("never poisoned").take();
        if let Some(writer) = writer {
            // A panic of the writer was printed when it happened; all requests since were answered with 503.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<StoredFilm> {
    Ok(StoredFilm {
        position: row.get(0)?,
        id: row.get(1)?,
        machine: row.get(2)?,
        data: row.get(3)?,
        received_at_us: row.get(4)?,
    })
}

fn connect(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", durability.pragma())?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn count_all(connection: &Connection) -> rusqlite::Result<Totals> {
    let mut totals = Totals::default();
    let mut query = connection.prepare("SELECT machine, count(*), max(received_at_us) FROM films GROUP BY machine")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        totals.count(&row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?);
    }
    Ok(totals)
}

/// Reserves a block of ids in which there is no row yet, durably at any level but `Off`: an id must not come twice, not after
/// a loss of power either.
fn reserve(connection: &mut Connection, durability: Durability) -> rusqlite::Result<Range<i64>> {
    if durability != Durability::Off {
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    let reserved = reserve_in(connection);
    connection.pragma_update(None, "synchronous", durability.pragma())?;
    reserved
}

fn reserve_in(connection: &mut Connection) -> rusqlite::Result<Range<i64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut start: i64 = transaction.query_row("SELECT next FROM sequence", [], |row| row.get(0))?;
    // Rows with ids from elsewhere: go on behind the last one of each block that has some.
    while let Some(taken) = transaction.query_row(
        "SELECT max(id) FROM films WHERE id >= ?1 AND id < ?1 + ?2",
        params![start, BLOCK],
        |row| row.get::<_, Option<i64>>(0),
    )? {
        start = taken + 1;
    }
    transaction.execute("UPDATE sequence SET next = ?1", [start + BLOCK])?;
    transaction.commit()?;
    Ok(start..start + BLOCK)
}

struct Writer {
    connection: Connection,
    durability: Durability,
    sequence: Arc<Sequence>,
    totals: Arc<Mutex<Totals>>,
    batch: Vec<(Film, oneshot::Sender<Outcome>)>,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(job) = waiting.blocking_recv() {
            let (mut must_reserve, mut must_stop) = (false, false);
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Film(film, answer) => self.batch.push((film, answer)),
                    Job::Reserve => must_reserve = true,
                    Job::Stop => must_stop = true,
                }
                next = if self.batch.len() < BATCH_MAX && !must_stop { waiting.try_recv().ok() } else { None };
            }
            if !self.batch.is_empty() {
                self.commit();
            }
            if must_stop {
                break;
            }
            if must_reserve {
                match reserve(&mut self.connection, self.durability) {
                    Ok(range) => self.sequence.add(range),
                    Err(error) => self.sequence.fail(error.to_string()),
                }
            }
        }
        self.give_back();
    }

    /// Writes the batch in one transaction and answers after its commit; all of it fails together.
    fn commit(&mut self) {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let outcomes = write_all(&mut self.connection, &self.sequence, &self.batch, now_us);
        let mut totals = self.totals.lock().expect("never poisoned: counting does not panic");
        match outcomes {
            Ok(outcomes) => {
                for ((film, answer), outcome) in self.batch.drain(..).zip(outcomes) {
                    if let Outcome::Created(id) = outcome {
                        self.sequence.skip(id);
                        totals.count(&film.machine, 1, now_us);
                    }
                    // A client that went away asks again under its key.
                    let _ = answer.send(outcome);
                }
            }
            Err(error) => {
                let outcome = Outcome::Failed(error.to_string());
                for (_, answer) in self.batch.drain(..) {
                    let _ = answer.send(outcome.clone());
                }
            }
        }
    }

    /// At a clean end, ids that were reserved and not used are free again, unless another process reserved since.
    fn give_back(&mut self) {
        let Some(unused) = self.sequence.unused() else { return };
        let update = "UPDATE sequence SET next = ?1 WHERE next = ?2";
        // If it fails, some numbers are skipped, which they may be.
        let _ = self.connection.execute(update, [unused.start, unused.end]);
    }
}

fn write_all(
    connection: &mut Connection,
    sequence: &Sequence,
    batch: &[(Film, oneshot::Sender<Outcome>)],
    now_us: i64,
) -> rusqlite::Result<Vec<Outcome>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcomes =
        batch.iter().map(|(film, _)| write(&transaction, sequence, film, now_us)).collect::<Result<_, _>>()?;
    transaction.commit()?;
    Ok(outcomes)
}

fn write(transaction: &Transaction<'_>, sequence: &Sequence, film: &Film, now_us: i64) -> rusqlite::Result<Outcome> {
    let sql = "INSERT INTO films (id, machine, data, idempotency_key, received_at_us) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT DO NOTHING";
    let mut insert = transaction.prepare_cached(sql)?;
    let mut id = film.id;
    loop {
        if insert.execute(params![id, film.machine, film.data, film.key, now_us])? > 0 {
            return Ok(Outcome::Created(id));
        }
        if let Some(outcome) = explain(transaction, film, id)? {
            return Ok(outcome);
        }
        // A row with an id from elsewhere came between.
        match sequence.next() {
            Some(next) => id = next,
            None => return Ok(Outcome::Failed("no id is reserved at the moment".to_owned())),
        }
    }
}

/// Why a row was not inserted; `None` when its id is used and it may have another one.
fn explain(transaction: &Transaction<'_>, film: &Film, id: i64) -> rusqlite::Result<Option<Outcome>> {
    let by_key = "SELECT id FROM films WHERE idempotency_key = ?1";
    if let Some(stored) = transaction.prepare_cached(by_key)?.query_row([&film.key], |row| row.get(0)).optional()? {
        return Ok(Some(Outcome::Repeated(stored)));
    }
    if !film.id_given {
        return Ok(None);
    }
    let by_id = "SELECT machine = ?2 AND data = ?3, idempotency_key IS NULL FROM films WHERE id = ?1";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, bool>(0)?, row.get::<_, bool>(1)?));
    let (is_same, is_keyless) =
        transaction.prepare_cached(by_id)?.query_row(params![id, film.machine, film.data], row)?;
    // Two keys are two records; without them the same content is the same record sent again.
    Ok(Some(match (is_same, is_keyless || film.key.is_none()) {
        (true, true) => Outcome::Repeated(id),
        (true, false) => Outcome::Conflict(format!("id {id} was stored under another Idempotency-Key")),
        (false, _) => Outcome::Conflict(format!("id {id} belongs to a film with other content")),
    }))
}
