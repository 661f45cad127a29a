//! A model of the web service: ids on one path, rows on the other, one row a key, and every way to go wrong that a
//! service behind a network has.

use super::answers::Heard;
use super::context::{Context, MS, US};
use super::event::{ConnId, Event};
use super::http::{self, Request};
use super::net::Net;
use super::oracle::{Oracle, shorten};
use super::payload::{Body, Film};
use crate::say;
use ringest::config::{Batch, BatchForm, Settings, Url};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the service expects of its client.
#[derive(Debug, Clone)]
pub struct Contract {
    /// Where records are posted now, and where they were.
    pub hosts: Vec<String>,
    pub films_target: String,
    /// Records come in batches, and are known by the keys in them.
    pub batch: Option<Batch>,
    /// What it has under a key is asked for below `films_target`.
    pub confirms: bool,
    /// `None`: one step.
    pub sequence: Option<SequenceContract>,
    pub content_type: String,
    /// Machines give a lot with their records, and bodies show it.
    pub has_lots: bool,
    /// Bodies show the addresses of machines.
    pub has_addresses: bool,
    pub body: Body,
    pub pipeline: usize,
    /// How long the client waits for a whole answer.
    pub timeout_ns: u64,
}

/// How much later than it should a client may give up waiting: turns come a little late, and clocks are read once a turn.
const LATE_NS: u64 = 10 * MS;

#[derive(Debug, Clone)]
pub struct SequenceContract {
    pub hosts: Vec<String>,
    pub target: String,
    /// The answer, with `ID` where the id stands.
    pub answer: String,
    /// Ids that are asked for at a time.
    pub lease: u32,
    /// Ids are strings.
    pub text_ids: bool,
    /// The same key gets the same id again.
    pub honours_keys: bool,
}

/// Faults in force.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// Connects are refused.
    pub refuses: bool,
    /// Connects are never answered.
    pub swallows: bool,
    /// Answers are this status.
    pub status: Option<u16>,
    /// Status with which it fails by a poison record; 0: without an answer.
    pub poison: Option<u16>,
    /// Status by which a few records are answered again and again.
    pub stuck: Option<u16>,
    /// So often, in a hundred, a record is refused with this status.
    pub refuses_records: Option<(u16, u32)>,
    /// Answers take up to this long.
    pub slow_ns: u64,
    /// So often, in a hundred, an answer gets lost, with its connection.
    pub lost: u32,
    /// So often, in a hundred, an answer is cut short, or is no HTTP.
    pub garbled: u32,
}

#[derive(Default)]
struct Session {
    /// Power cuts before it was opened.
    cuts: u32,
    /// Host and port that the client connected to.
    host: String,
    input: Vec<u8>,
    /// With the time at which each was whole.
    requests: VecDeque<(Request, u64)>,
    answered: u32,
    closed: bool,
}

pub struct Receiver {
    contract: Contract,
    pub trouble: Trouble,
    pub heard: Heard,
    /// How long is waited at least before a record goes again whose answer another attempt would get, too.
    pub long_wait_ns: u64,
    /// How often, in a hundred, an idle connection is closed soon.
    pub closes_idle: u32,
    pub service_ns: u64,
    sessions: BTreeMap<ConnId, Session>,
    /// Every request by key, with the time at which it first came; after a power cut those alone that it must not change.
    requests: BTreeMap<String, (Vec<u8>, u64)>,
    /// Where and how to deliver has changed: the bodies alone stay.
    reloaded: bool,
    cuts: u32,
    cut_ns: u64,
    rows: BTreeMap<String, u64>,
    /// The records of all requests by key, and when they last came, counted.
    sent: BTreeMap<String, (u64, Film)>,
    came: u64,
    /// Records answered 201, those that it had already included.
    pub accepted: u64,
    /// The key for which each id was made, and the ids of a key.
    made_for: BTreeMap<String, String>,
    ids: BTreeMap<String, Vec<String>>,
    used_ids: BTreeSet<String>,
}

/// An answer's way out.
enum Fate {
    Whole,
    /// Nothing of it arrives.
    Lost,
    /// The head ends in the middle, then the connection.
    HeadCut,
    /// The body does.
    BodyCut,
    Garbage,
}

impl Receiver {
    pub fn new(contract: Contract) -> Self {
        Self {
            contract,
            trouble: Trouble::default(),
            heard: Heard::default(),
            long_wait_ns: 0,
            closes_idle: 0,
            service_ns: MS,
            sessions: BTreeMap::new(),
            requests: BTreeMap::new(),
            reloaded: false,
            cuts: 0,
            cut_ns: 0,
            rows: BTreeMap::new(),
            sent: BTreeMap::new(),
            came: 0,
            accepted: 0,
            made_for: BTreeMap::new(),
            ids: BTreeMap::new(),
            used_ids: BTreeSet::new(),
        }
    }

    /// Records are delivered by other settings from now on; what is under way may still come by the earlier ones.
    pub fn reload(&mut self, settings: &Settings) {
        let add = |hosts: &mut Vec<String>, url: &Url| {
            if !hosts.contains(&url.host_header) {
                hosts.push(url.host_header.clone());
            }
        };
        let contract = &mut self.contract;
        add(&mut contract.hosts, &settings.deliver.url);
        if let (Some(contract), Some(sequence)) = (&mut contract.sequence, &settings.sequence) {
            add(&mut contract.hosts, &sequence.url);
        }
        contract.pipeline = contract.pipeline.max(settings.deliver.pipeline);
        contract.timeout_ns = contract.timeout_ns.max(settings.deliver.timeout.as_nanos() as u64);
        if !std::mem::replace(&mut self.reloaded, true) {
            for (bytes, _) in self.requests.values_mut() {
                let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole request");
                bytes.drain(..head + 4);
            }
        }
    }

    pub fn accept(&mut self, conn: ConnId, host: String) {
        self.sessions.insert(conn, Session { host, cuts: self.cuts, ..Session::default() });
    }

    /// Connections that the service still serves, oldest first.
    pub fn open_conns(&self) -> Vec<ConnId> {
        self.sessions.iter().filter(|(_, session)| !session.closed).map(|(&conn, _)| conn).collect()
    }

    /// Something arrived on a connection.
    ///
    /// # Errors
    /// In words, if the client breaks HTTP or the contract.
    pub fn look(&mut self, cx: &mut Context, net: &mut Net, conn: ConnId) -> Result<(), String> {
        let seen = net.look(cx, conn);
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        if session.closed {
            return Ok(());
        }
        let idle = session.requests.is_empty();
        session.input.extend(&seen.bytes);
        while let Some(request) = http::request(&session.input).map_err(|error| format!("conn {conn}: {error}"))? {
            let bytes: Vec<u8> = session.input.drain(..request.bytes).collect();
            let bytes = if self.reloaded { request.body.clone() } else { bytes };
            check(&self.contract, &session.host, &request)?;
            check_identity(
                &mut self.requests,
                &request,
                bytes,
                (session.cuts != self.cuts).then_some(self.cut_ns),
                cx.now_ns,
            )?;
            session.requests.push_back((request, cx.now_ns));
            if session.requests.len() > self.contract.pipeline {
                return Err(format!("conn {conn}: {} requests in flight", session.requests.len()));
            }
        }
        if idle && !session.requests.is_empty() {
            let delay = self.service_delay(cx);
            cx.after(delay, Event::Answer { conn });
        }
        let session = self.sessions.get_mut(&conn).expect("it is there");
        if seen.reset || seen.fin {
            say!(cx, "receiver: conn {conn} {} by the client", if seen.reset { "reset" } else { "closed" });
            session.closed = true;
            net.close_peer(cx, conn);
            if cx.rng.bool() {
                session.requests.clear(); // else the service carries them out all the same
            }
        }
        Ok(())
    }

    fn service_delay(&self, cx: &mut Context) -> u64 {
        cx.rng.u64(20 * US..=self.service_ns.max(self.trouble.slow_ns))
    }

    /// [`Event::Answer`].
    ///
    /// # Errors
    /// In words, if the request breaks the contract or the oracle.
    pub fn answer(&mut self, cx: &mut Context, net: &mut Net, oracle: &mut Oracle, conn: ConnId) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(()) };
        let Some((request, whole_ns)) = session.requests.pop_front() else { return Ok(()) };
        let waited = cx.now_ns - whole_ns;
        if waited > self.contract.timeout_ns + LATE_NS && net.conns[conn].shard_open {
            return Err(format!("conn {conn}: waits for an answer for {} ms", waited / MS));
        }
        session.answered += 1;
        let late = session.cuts != self.cuts;
        let stale = !net.conns[conn].shard_open;
        let is_record = !request.get && request.target == self.contract.films_target;
        if is_record {
            for (key, film) in films(&self.contract, &request)? {
                self.came += 1;
                self.sent.insert(key, (self.came, film));
            }
        }
        let alone = if is_record { alone(&self.contract, &request)? } else { None };
        if let Some(key) = &alone {
            self.heard.asked(whole_ns, net, key, self.long_wait_ns)?;
        }
        let refused = self.trouble.refuses_records.filter(|_| is_record).filter(|(_, percent)| cx.chance(*percent));
        // Of 64 records one stands still, and of 16 one is poison.
        let (status, share) = match (self.trouble.stuck, self.trouble.poison) {
            (Some(status), _) => (Some(status), 64),
            (None, status) => (status, 16),
        };
        let poisoned = match status {
            Some(status) if is_record => {
                let films = films(&self.contract, &request)?;
                let sum = |film: &Film| film.data.iter().map(|byte| u32::from(*byte)).sum::<u32>();
                let found = films.iter().any(|(_, film)| sum(film) % share == 7);
                match (found, films.len()) {
                    (true, 1) => cx.stats.count("poison record alone"),
                    (true, _) => cx.stats.count("batch with a poison record"),
                    (false, _) => {}
                }
                found.then_some(status)
            }
            _ => None,
        };
        let (status, body) = match self.trouble.status {
            Some(status) => (status, "{\"detail\": \"try again\"}".to_owned()),
            None if poisoned.is_some() => (poisoned.expect("looked at"), String::new()),
            None if request.get => self.show(cx, &request),
            None if refused.is_some() => {
                let (status, _) = refused.expect("looked at");
                cx.stats.count("record refused");
                if status == 409 && cx.rng.bool() {
                    cx.stats.count("a conflict that was none");
                    self.apply(cx, oracle, &request, late, stale)?;
                    self.accepted -= films(&self.contract, &request)?.len() as u64;
                }
                (status, "{\"detail\": \"never\"}".to_owned())
            }
            None if cx.chance(self.trouble.lost) && cx.rng.bool() => (0, String::new()), // dies before it acts
            None => self.apply(cx, oracle, &request, late, stale)?,
        };
        let key = request.header("idempotency-key").unwrap_or("GET");
        say!(cx, "receiver: conn {conn} {} {key} -> {status}", request.target);
        let fate = self.fate(cx, status);
        self.reply(cx, net, conn, status, &body, &fate);
        if let Some(key) = alone {
            let whole = matches!(fate, Fate::Whole) && !self.sessions[&conn].closed && !stale && !late;
            self.heard.answered(cx.now_ns, conn, &key, (status, self.accepted), whole);
        }
        let session = self.sessions.get_mut(&conn).expect("it is there");
        if !session.requests.is_empty() {
            let delay = self.service_delay(cx);
            cx.after(delay, Event::Answer { conn });
        } else if !session.closed && cx.chance(self.closes_idle) {
            let served = self.sessions[&conn].answered;
            let delay = cx.rng.u64(10 * US..20 * MS);
            cx.after(delay, Event::IdleClose { conn, served });
        }
        Ok(())
    }

    fn fate(&self, cx: &mut Context, status: u16) -> Fate {
        if status == 0 || cx.chance(self.trouble.lost) {
            cx.stats.count(if status == 201 { "answer lost after the row was stored" } else { "answer lost" });
            return Fate::Lost;
        }
        if cx.chance(self.trouble.garbled) {
            cx.stats.count("answer garbled");
            return match cx.rng.u8(..3) {
                0 => Fate::HeadCut,
                1 => Fate::BodyCut,
                _ => Fate::Garbage,
            };
        }
        Fate::Whole
    }

    fn store(
        &mut self,
        cx: &mut Context,
        oracle: &mut Oracle,
        key: &str,
        film: &Film,
        late: bool,
        stale: bool,
    ) -> Result<(), String> {
        self.accepted += 1;
        if self.rows.contains_key(key) {
            cx.stats.count("row recognised by its key");
            return Ok(());
        }
        self.check_id(key, film)?;
        match oracle.row_aside(key, &film.data, late || stale) {
            Some(row) => row,
            // The shard may have lost it since it sent it, and has gone on with those behind it.
            None if late || stale && oracle.is_damaged(&film.source, &film.data) => {
                oracle.late_row(&film.source, &film.data)
            }
            None => oracle.row(&film.source, &film.data),
        }?;
        say!(cx, "receiver: row {} of {}: {}", self.rows.len(), film.source, shorten(&film.data));
        self.rows.insert(key.to_owned(), self.rows.len() as u64);
        cx.stats.delivered += 1;
        Ok(())
    }

    /// Does what the request asks for. `late`: it was sent before a power cut. Status and body.
    fn apply(
        &mut self,
        cx: &mut Context,
        oracle: &mut Oracle,
        request: &Request,
        late: bool,
        stale: bool,
    ) -> Result<(u16, String), String> {
        let key = request.header("idempotency-key")?;
        if let Some(sequence) = &self.contract.sequence
            && sequence.target == request.target
        {
            let known = self.ids.entry(key.to_owned()).or_default();
            if !sequence.honours_keys || known.is_empty() {
                let number = self.made_for.len() + 1000;
                let id = if sequence.text_ids { format!("\"f-{number}\"") } else { number.to_string() };
                self.made_for.insert(id.clone(), key.to_owned());
                // Not all that are asked for are granted.
                for more in 1..granted(number, sequence.lease) {
                    self.made_for.insert((number + more).to_string(), key.to_owned());
                }
                known.push(id);
            }
            let id = known.last().expect("made above");
            let count = id.parse().map_or(1, |number| granted(number, sequence.lease));
            let answer = sequence.answer.replace("ID", id).replace("COUNT", &count.to_string());
            return Ok((*cx.rng.choice(&[200, 201]).expect("two"), answer));
        }
        let films = films(&self.contract, request)?;
        if films.len() > 1 {
            cx.stats.count("batch taken");
        }
        for (key, film) in films {
            self.store(cx, oracle, &key, &film, late, stale).map_err(|error| format!("{key}: {error}"))?;
        }
        Ok((201, "{\"ok\": true}".into()))
    }

    /// What stands under a key.
    fn show(&mut self, cx: &mut Context, request: &Request) -> (u16, String) {
        let key = request.target.trim_start_matches(&self.contract.films_target).trim_end_matches('/');
        if !self.rows.contains_key(key) {
            return (404, "{}".to_owned());
        }
        let film = &self.sent[key].1;
        let data = String::from_utf8_lossy(&film.data);
        if cx.chance(10) {
            return (200, "{\"data\": \"another\"}".to_owned());
        }
        if self.contract.body != Body::Raw && cx.chance(10) {
            cx.stats.count("equal data of another machine");
            return (200, serde_json::json!({ "key": key, "machine": "another", "data": data }).to_string());
        }
        self.accepted += 1;
        (200, serde_json::json!({ "key": key, "machine": film.source, "data": data }).to_string())
    }

    /// A parked record, by its name (core and number): key, source, data, and whether there is a row of it.
    pub fn refused(&self, name: &str) -> Option<(String, String, Vec<u8>, bool)> {
        let end = format!("-{name}");
        let named = self.sent.iter().filter(|(key, _)| key.ends_with(&end));
        let (key, (_, film)) = named.max_by_key(|(_, (count, _))| *count)?;
        Some((key.clone(), film.source.clone(), film.data.clone(), self.rows.contains_key(key)))
    }

    fn check_id(&mut self, key: &str, film: &Film) -> Result<(), String> {
        match (&film.id, &self.contract.sequence) {
            (None, None) => Ok(()),
            (Some(id), Some(sequence))
                if self.made_for.get(id).is_some_and(|made_for| {
                    *made_for == format!("{key}-seq") || sequence.lease > 1 && made_for.contains("-lease-")
                }) =>
            {
                let fresh = self.used_ids.insert(id.clone());
                fresh.then_some(()).ok_or_else(|| format!("{key}: id {id} is used for a second row"))
            }
            (id, _) => Err(format!("{key}: id {id:?} was not made for it")),
        }
    }

    fn reply(&mut self, cx: &mut Context, net: &mut Net, conn: ConnId, status: u16, body: &str, fate: &Fate) {
        let session = self.sessions.get_mut(&conn).expect("it is there");
        if session.closed {
            return; // the client has gone
        }
        if matches!(fate, Fate::Lost) {
            session.closed = true;
            session.requests.clear();
            if cx.rng.bool() {
                net.tear(cx, conn);
            } else {
                net.close_peer(cx, conn);
            }
            return;
        }
        let (mut bytes, mut closes) = render(cx, status, body);
        match fate {
            Fate::HeadCut => bytes.truncate(cx.rng.usize(1..20)),
            Fate::BodyCut => bytes.truncate(bytes.len() - body.len().min(1)),
            Fate::Garbage => bytes = b"HTTP/1.1 OK\r\n\r\n<html>".to_vec(),
            Fate::Whole | Fate::Lost => {}
        }
        closes |= !matches!(fate, Fate::Whole);
        net.write(cx, conn, &bytes);
        if closes {
            session.closed = true;
            session.requests.clear();
            net.close_peer(cx, conn);
        }
    }

    /// [`Event::IdleClose`].
    pub fn idle_close(&mut self, cx: &mut Context, net: &mut Net, conn: ConnId, served: u32) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        if !session.closed && session.answered == served && session.requests.is_empty() && session.input.is_empty() {
            session.closed = true;
            cx.stats.count("idle connection closed by the receiver");
            say!(cx, "receiver: conn {conn} closed, idle");
            net.close_peer(cx, conn);
        }
    }

    /// The id or the sender of these records may be lost: their requests may change. What the dead process has sent may come
    /// later still.
    pub fn excuse(&mut self, now_ns: u64, keys: &[String]) {
        self.cuts += 1;
        self.cut_ns = now_ns;
        for key in keys {
            self.requests.remove(key);
        }
        // And those of batches that they may be in.
        self.requests.retain(|key, _| !key.contains("-b"));
    }

    /// The shard may have forgotten ids that it had used, and who sent a record: requests may now differ from earlier ones of
    /// the same key, but for those that first came while all was durable, up to `safe_ns`.
    pub fn power_cut(&mut self, now_ns: u64, safe_ns: u64) {
        self.cuts += 1;
        self.cut_ns = now_ns;
        self.requests.retain(|key, (_, first_ns)| *first_ns <= safe_ns || key.ends_with("-seq"));
    }

    /// The service goes down: all its connections go with it.
    pub fn down(&mut self, cx: &mut Context, net: &mut Net) {
        for conn in self.open_conns() {
            let session = self.sessions.get_mut(&conn).expect("listed");
            session.closed = true;
            session.requests.clear();
            net.tear(cx, conn);
        }
    }
}

/// The records of a request, each with its key.
pub fn films(contract: &Contract, request: &Request) -> Result<Vec<(String, Film)>, String> {
    let key = request.header("idempotency-key")?;
    let read = |bytes: &[u8]| match contract.body.read(bytes) {
        Err(error) => Err(format!("{key}: body: {error}")),
        Ok(film) if contract.has_lots && !film.has_its_lot() => {
            Err(format!("{key}: a record of {} with the lot {:?}", film.source, film.lot))
        }
        Ok(film) if contract.has_addresses && !film.has_its_address() => {
            Err(format!("{key}: a record of {} with the address {:?}", film.source, film.address))
        }
        Ok(film) => Ok(film),
    };
    let Some(batch) = &contract.batch else { return Ok(vec![(key.to_owned(), read(&request.body)?)]) };
    let text = std::str::from_utf8(&request.body).map_err(|error| format!("{key}: body: {error}"))?;
    let array = match &batch.form {
        BatchForm::Ndjson if text.ends_with('\n') => format!("[{}]", text.trim_end().replace('\n', ",")),
        BatchForm::Ndjson => return Err(format!("{key}: the last line has no end")),
        BatchForm::Array { before, behind } => {
            let array = text.strip_prefix(before.as_str()).and_then(|text| text.strip_suffix(behind.as_str()));
            array.ok_or_else(|| format!("{key}: not what should stand around an array: {text}"))?.to_owned()
        }
    };
    let values: Vec<serde_json::Value> =
        serde_json::from_str(&array).map_err(|error| format!("{key}: body: {error}: {text}"))?;
    let mut films = Vec::new();
    for value in &values {
        let of_record = value["key"].as_str().ok_or_else(|| format!("{key}: a record without its key"))?;
        films.push((of_record.to_owned(), read(value.to_string().as_bytes())?));
    }
    let first = films.first().map_or("", |(key, _)| key);
    let right = match films.len() {
        0 => false,
        1 => key == first,
        records => key.starts_with(&format!("{first}-b{records}-")),
    };
    let fits = films.len() <= batch.records && (films.len() == 1 || request.body.len() <= batch.bytes + 64);
    if right && fits { Ok(films) } else { Err(format!("{key}: a batch of {} records, {} B", films.len(), text.len())) }
}

/// The key of a record that comes alone.
fn alone(contract: &Contract, request: &Request) -> Result<Option<String>, String> {
    let films = films(contract, request)?;
    Ok(if let [(key, _)] = films.as_slice() { Some(key.clone()) } else { None })
}

/// How many of the ids that are asked for are given from this one on.
fn granted(number: usize, lease: u32) -> usize {
    1 + number % lease as usize
}

/// What every request must have, also one that will be refused.
fn check(contract: &Contract, host: &str, request: &Request) -> Result<(), String> {
    if request.get {
        let asks = contract.confirms && request.target.starts_with(&contract.films_target);
        let right = asks && contract.hosts.iter().any(|known| known == host) && request.header("host")? == host;
        return right.then_some(()).ok_or_else(|| format!("GET {} from {host}", request.target));
    }
    let key = request.header("idempotency-key")?;
    if key.is_empty() || key.len() > 255 {
        return Err(format!("key {key:?}"));
    }
    let is_id_step = contract.sequence.as_ref().is_some_and(|sequence| sequence.target == request.target);
    if !is_id_step && request.target != contract.films_target {
        return Err(format!("{key}: target {}", request.target));
    }
    if is_id_step != key.ends_with("-seq") {
        return Err(format!("key {key} for {}", request.target));
    }
    let lease = contract.sequence.as_ref().map_or(1, |sequence| sequence.lease);
    let asks = if lease > 1 { format!("{{\"count\": {lease}}}") } else { "{}".to_owned() };
    if is_id_step && request.body != asks.as_bytes() {
        return Err(format!("{key}: the id step posts {:?}", String::from_utf8_lossy(&request.body)));
    }
    let expected = match &contract.sequence {
        Some(sequence) if is_id_step => &sequence.hosts,
        _ => &contract.hosts,
    };
    if request.header("host")? != host || !expected.iter().any(|expected| expected == host) {
        return Err(format!("{key}: Host {:?} on a connection to {host}", request.header("host")));
    }
    if !is_id_step && request.header("content-type")? != contract.content_type {
        return Err(format!("{key}: Content-Type {:?}", request.header("content-type")));
    }
    Ok(())
}

/// Every request of a key has the same bytes. One that was sent before a power cut (`late` is its time) knows nothing of those
/// that first came after it.
fn check_identity(
    known: &mut BTreeMap<String, (Vec<u8>, u64)>,
    request: &Request,
    bytes: Vec<u8>,
    late: Option<u64>,
    now_ns: u64,
) -> Result<(), String> {
    if request.get {
        return Ok(());
    }
    let key = request.header("idempotency-key")?;
    match known.get(key) {
        Some((before, first_ns)) if *before != bytes && late.is_none_or(|cut_ns| *first_ns <= cut_ns) => Err(format!(
            "{key}: sent again with other bytes:\n{}\n{}",
            String::from_utf8_lossy(before),
            String::from_utf8_lossy(&bytes)
        )),
        Some(_) => Ok(()),
        None if late.is_some() => Ok(()),
        None => {
            known.insert(key.to_owned(), (bytes, now_ns));
            Ok(())
        }
    }
}

/// An answer in one of the shapes that HTTP/1.1 allows; true if the connection closes after it.
fn render(cx: &mut Context, status: u16, body: &str) -> (Vec<u8>, bool) {
    let mut out = String::new();
    if cx.rng.u8(..20) == 0 {
        out += "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    }
    out += &format!("HTTP/1.1 {status} Whatever\r\nServer: model\r\n");
    if matches!(status, 429 | 503) && cx.rng.bool() {
        let second = (super::driver::WALL_OFFSET_NS + cx.now_ns) / super::context::S;
        let date = jiff::Timestamp::from_second(second as i64 + cx.rng.i64(-5..3)).expect("a moment");
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let told = *cx.rng.choice(&["1", "1", "0", "2", "3600", "soon", "-1", "1.5", &date, &date]).expect("some");
        out += &format!("Retry-After: {told}\r\n");
    }
    let mut closes = cx.rng.u8(..30) == 0;
    if closes {
        out += "Connection: close\r\n";
    }
    match cx.rng.u8(..8) {
        0 => {
            closes = true;
            out += &format!("\r\n{body}");
        }
        1 | 2 => {
            out += "Transfer-Encoding: chunked\r\n\r\n";
            let (first, second) = body.split_at(body.floor_char_boundary(body.len() / 2));
            for part in [first, second].iter().filter(|part| !part.is_empty()) {
                out += &format!("{:x}\r\n{part}\r\n", part.len());
            }
            out += "0\r\n\r\n";
        }
        _ => out += &format!("Content-Length: {}\r\n\r\n{body}", body.len()),
    }
    (out.into_bytes(), closes)
}
