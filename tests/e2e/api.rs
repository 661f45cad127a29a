//! A film API that remembers every request, doubles too, and misbehaves as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request of the record step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Film {
    pub key: String,
    /// The whole body, of a batch the record's part.
    pub body: String,
    /// `data` of it.
    pub data: String,
}

/// How it answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behaviour {
    /// Between a request and its answer.
    pub delay: Duration,
    /// After so many answers a connection is closed without a word; 0 is never.
    pub answers_per_connection: usize,
    /// A connection's request of this number (2 or more) is read and remembered, and the connection closed without an
    /// answer; 0 is never.
    pub drop_every: usize,
    /// Each record step of this number, counted over all connections, is answered 500 and forgotten; 0 is never.
    pub refuse_every: usize,
    /// A record step whose data has this in it is answered 422 and forgotten, until [`Api::relent`].
    pub refuse_data: Option<&'static str>,
    /// A record step whose data has this in it is remembered by nobody: answered with this status (200, 404, else 500), or 0
    /// for a reset.
    pub fail_data: Option<(&'static str, u16)>,
    /// A record step whose data has this in it is answered with so many bytes more.
    pub long: Option<(&'static str, usize)>,
    /// The first record step of each id is answered 409, and what stands under the id is:
    pub conflict: Option<Conflict>,
}

/// What a GET of the id finds after a 409.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The record itself: it was stored.
    Stored,
    /// Another record.
    Other,
    /// Nothing.
    Missing,
}

#[derive(Default)]
struct Memory {
    films: Vec<Film>,
    /// Record steps that were refused as [`Api::refuse`] says.
    refused: Vec<Film>,
    ids: HashMap<String, usize>,
    next_id: usize,
    connections: usize,
    /// Ids that were answered 409, with what was sent.
    conflicts: HashMap<usize, String>,
    /// Ids that were asked for.
    asked: Vec<usize>,
    /// Records in each request that was taken.
    batches: Vec<usize>,
    /// The values of Authorization that came, each once.
    authorizations: Vec<String>,
    /// When each record step came, the refused ones too.
    steps: Vec<Instant>,
    /// Status and header fields with which every record step is refused.
    refusal: Option<&'static str>,
    relented: bool,
    /// The body with which every id step is answered.
    odd_id: Option<&'static str>,
    /// Id steps that came.
    ids_asked: usize,
}

/// Serves until the test ends, one thread a connection.
pub struct Api {
    memory: Arc<Mutex<Memory>>,
}

impl Api {
    pub fn start(address: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).expect("a free address");
        let memory = Arc::new(Mutex::new(Memory::default()));
        let shared = memory.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, memory) = (stream.expect("a connection"), shared.clone());
                memory.lock().expect("no thread panics with it").connections += 1;
                std::thread::spawn(move || serve(stream, &memory, behaviour));
            }
        });
        Self { memory }
    }

    /// The record steps in the order in which they came.
    pub fn films(&self) -> Vec<Film> {
        self.memory.lock().expect("no thread panics with it").films.clone()
    }

    /// The record steps that [`Api::refuse`] had refused, in the order in which they came.
    pub fn refused(&self) -> Vec<Film> {
        self.memory.lock().expect("no thread panics with it").refused.clone()
    }

    /// From now on every record step is answered with this status line and header fields (`401 Unauthorized`), or taken.
    pub fn refuse(&self, refusal: Option<&'static str>) {
        self.memory.lock().expect("no thread panics with it").refusal = refusal;
    }

    /// From now on every id step is answered 201 with this body, which has no id of this API, or given an id.
    pub fn answer_ids(&self, body: Option<&'static str>) {
        self.memory.lock().expect("no thread panics with it").odd_id = body;
    }

    /// How often an id was asked for, ever.
    pub fn ids_asked(&self) -> usize {
        self.memory.lock().expect("no thread panics with it").ids_asked
    }

    /// From now on no data is refused for what it is.
    pub fn relent(&self) {
        self.memory.lock().expect("no thread panics with it").relented = true;
    }

    /// When the record steps came, the refused ones too.
    pub fn steps(&self) -> Vec<Instant> {
        self.memory.lock().expect("no thread panics with it").steps.clone()
    }

    /// The values of Authorization that came.
    pub fn authorizations(&self) -> Vec<String> {
        self.memory.lock().expect("no thread panics with it").authorizations.clone()
    }

    /// The ids that were asked for by GET, in their order.
    pub fn asked(&self) -> Vec<usize> {
        self.memory.lock().expect("no thread panics with it").asked.clone()
    }

    /// How many records were in each request that was taken.
    pub fn batches(&self) -> Vec<usize> {
        self.memory.lock().expect("no thread panics with it").batches.clone()
    }

    /// Connections accepted.
    pub fn connections(&self) -> usize {
        self.memory.lock().expect("no thread panics with it").connections
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: TcpStream, memory: &Mutex<Memory>, behaviour: Behaviour) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    let mut answers = 0;
    while let Some((path, key, body, authorization)) = request(&mut stream) {
        if !authorization.is_empty() {
            let mut memory = memory.lock().expect("no thread panics with it");
            if !memory.authorizations.contains(&authorization) {
                memory.authorizations.push(authorization);
            }
        }
        std::thread::sleep(behaviour.delay);
        let mut status = "201 Created\r\nContent-Type: application/json; charset=utf-8";
        let mut shown = None;
        let mut fails = false;
        let mut padding = 0;
        let id = {
            let mut memory = memory.lock().expect("no thread panics with it");
            if path == "/films/" {
                let values = records(&body);
                let value = &values[0];
                let data: String = values.iter().map(|value| value["data"].as_str().expect("data")).collect();
                let mut taken = 0;
                padding = behaviour.long.filter(|(part, _)| data.contains(part)).map_or(0, |(_, bytes)| bytes);
                memory.steps.push(Instant::now());
                if behaviour.refuse_every > 0 && memory.steps.len().is_multiple_of(behaviour.refuse_every) {
                    status = "500 Internal Server Error";
                } else if let Some((_, failure)) = behaviour.fail_data.filter(|(part, _)| data.contains(part)) {
                    fails = failure == 0;
                    status = match failure {
                        200 => "200 OK\r\nContent-Type: application/json",
                        404 => "404 Not Found",
                        _ => "500 Internal Server Error",
                    };
                } else if behaviour.refuse_data.is_some_and(|part| !memory.relented && data.contains(part)) {
                    status = "422 Unprocessable Content";
                } else if let Some(refusal) = memory.refusal {
                    status = refusal;
                    memory.refused.push(Film { key, body, data });
                } else {
                    memory.batches.push(values.len());
                    for value in &values {
                        let body = if values.len() == 1 { body.clone() } else { value.to_string() };
                        let (body, data) = (body, value["data"].as_str().expect("data").to_owned());
                        memory.films.push(Film { key: key.clone(), body, data });
                    }
                    taken = value["id"].as_u64().unwrap_or(0) as usize;
                }
                let id = value["id"].as_u64().unwrap_or(0) as usize;
                if let Some(conflict) = behaviour.conflict.filter(|_| !memory.conflicts.contains_key(&id)) {
                    status = "409 Conflict";
                    let film = memory.films.pop().expect("taken above");
                    memory.conflicts.insert(id, film.data.clone());
                    if conflict == Conflict::Stored {
                        memory.films.push(film);
                    }
                }
                taken
            } else if let Some(id) = path.strip_prefix("/films/") {
                let id: usize = id.trim_end_matches('/').parse().expect("an id");
                memory.asked.push(id);
                let data = match behaviour.conflict {
                    Some(Conflict::Stored) => memory.conflicts[&id].clone(),
                    _ => "another record".to_owned(),
                };
                let missing = behaviour.conflict == Some(Conflict::Missing);
                status = if missing { "404 Not Found" } else { "200 OK\r\nContent-Type: application/json" };
                shown = Some(serde_json::json!({ "id": id, "machine": "x", "data": data }).to_string());
                id
            } else {
                assert_eq!(path, "/seq/");
                memory.ids_asked += 1;
                let asked: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                let count = asked["count"].as_u64();
                let next = memory.next_id + 1;
                let id = *memory.ids.entry(key).or_insert(next);
                if id == next {
                    memory.next_id += count.unwrap_or(1) as usize;
                }
                shown = count.map(|count| serde_json::json!({ "id": id, "count": count }).to_string());
                shown = memory.odd_id.map(str::to_owned).or(shown);
                id
            }
        };
        if fails || answers + 1 == behaviour.drop_every {
            return;
        }
        let body = shown.unwrap_or_else(|| format!("{{\"id\": {id}}}")) + &" ".repeat(padding);
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        // The gateway may be gone.
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
        answers += 1;
        if answers == behaviour.answers_per_connection {
            // What was pipelined is read and dropped: closed with it, the connection would be reset, and its answers with it.
            let _ = stream.get_ref().shutdown(std::net::Shutdown::Write);
            while request(&mut stream).is_some() {}
            return;
        }
    }
}

/// The records of a body: one, one a line, or an array, also one in an object.
fn records(body: &str) -> Vec<serde_json::Value> {
    let lines = serde_json::Deserializer::from_str(body).into_iter().collect::<Result<Vec<serde_json::Value>, _>>();
    let mut values = lines.expect("JSON");
    if let [serde_json::Value::Object(object)] = &mut values[..]
        && let Some(films) = object.remove("films")
    {
        values = vec![films];
    }
    match values.pop().expect("a value") {
        serde_json::Value::Array(records) => records,
        last => {
            values.push(last);
            values
        }
    }
}

/// Path, key, body and Authorization, or nothing at the end of the stream.
fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String, String, String)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut key, mut authorization, mut length) = (String::new(), String::new(), 0);
    loop {
        line.clear();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => value.trim().clone_into(&mut key),
            "authorization" => value.trim().clone_into(&mut authorization),
            "content-length" => length = value.trim().parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((path, key, String::from_utf8(body).expect("text"), authorization))
}
