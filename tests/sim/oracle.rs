//! What must be true: which records the shard was handed, lane by lane, and which of them the receiver may and must hold.
//!
//! A record is *fresh* from its last byte until a snapshot counts it, then it is *sure*: it must arrive. If the shard is
//! killed while it is fresh it may arrive or not; but if it does not, then none does that came after it in its lane
//! before the kill. Where the shard's counters say that it turned some away, it is not known which until a machine is told: those *may*
//! arrive, one by one. A record that was refused (503) must not. Within a lane, the rows of the receiver, in the order in
//! which it first accepted them, must be the expected records in their order, each once.

use super::aside::Aside;
use super::batches::Batches;
use super::event::ConnId;
use super::payload::{Body, Frame, Frames, HEAD_BYTES, inspect};
use ringest::framing::Framing;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The name that a record is given whose sender is lost.
const UNKNOWN: &str = "unknown";
/// A lane whose records are not UTF-8.
const BIG5_LANE: &str = "p-1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Fresh,
    Sure,
    /// Fresh when the shard was killed for the nth time.
    Unsure(u32),
    Maybe,
    Refused,
}

pub struct Expected {
    pub shown: Vec<u8>,
    /// What it looks like where the note of who sent it is lost, and its encoding with it.
    unnamed: Option<Vec<u8>>,
    pub state: State,
    /// When the counters first accounted for it; `u64::MAX` until then.
    counted_ns: u64,
    /// A machine was told that it is safe, at level `power`: it survives whatever comes.
    promised: bool,
    /// Its bytes on the disk changed: nobody can keep what was promised.
    damaged: bool,
}

impl Expected {
    fn new(body: Body, lane: &str, record: &[u8]) -> Self {
        let (shown, unnamed) = (body.shown(lane, record), body.shown(UNKNOWN, record));
        let unnamed = (unnamed != shown).then_some(unnamed);
        Self::of(shown, unnamed)
    }

    fn of(shown: Vec<u8>, unnamed: Option<Vec<u8>>) -> Self {
        Self { shown, unnamed, state: State::Fresh, counted_ns: u64::MAX, promised: false, damaged: false }
    }

    /// Whether a loss of power must leave it, if all that was counted up to `safe_ns` is durable.
    pub fn survives(&self, safe_ns: u64) -> bool {
        self.state == State::Sure && (self.promised || self.counted_ns <= safe_ns)
    }
}

pub struct Lane {
    pub name: String,
    pub expected: Vec<Expected>,
    /// How many of `expected` may be behind us: more than one answer where records look alike.
    pub positions: BTreeSet<usize>,
    rows: usize,
    /// All rows of an HTTP machine.
    pub arrived: BTreeSet<Vec<u8>>,
    /// What an operator has deleted.
    pub discarded: BTreeSet<Vec<u8>>,
    pub http: bool,
    /// What was sent again under its key, by another connection: it arrives once, in no order. Whether a machine was told that it is
    /// safe.
    pub repeated: BTreeMap<Vec<u8>, bool>,
    /// The power was cut: an acknowledgement still on its way means nothing any more.
    cut: bool,
    /// Longer records are cut here, and their checksum is wrong then.
    bytes_max: usize,
    /// The machine's number of the record that was handed over last.
    sequence: u64,
}

enum Intake {
    /// With what is left of a mark, on a tty (PARMRK, termios(3)).
    Stream(Frames, Option<Marks>),
    /// Requests.
    Http(VecDeque<Request>),
}

struct Request {
    /// Where it ends in the connection's bytes.
    end: u64,
    lane: usize,
    /// Its records.
    shown: Vec<Vec<u8>>,
    again: bool,
}

/// A tty's bytes under PARMRK (termios(3)).
#[derive(Default)]
struct Marks(Vec<u8>);

impl Marks {
    /// Data 0xFF comes as `ff ff`, a byte with an error as `ff 00` and the byte, a break as `ff 00 00`.
    fn decode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.0.push(byte);
            match self.0[..] {
                [0xFF] | [0xFF, 0] => continue,
                [0xFF, 0, 0] => {}
                _ => out.push(byte),
            }
            self.0.clear();
        }
        out
    }
}

/// What was handed in since the shard's last start, as its counters should have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Handed {
    pub stream_records: u64,
    pub http_records: u64,
    pub rejected: u64,
}

pub struct Oracle {
    body: Body,
    /// An acknowledgement means that the record survives a loss of power.
    power: bool,
    pub lanes: Vec<Lane>,
    pub names: BTreeMap<String, usize>,
    /// Records that were parked once, by key.
    pub asides: BTreeMap<String, Aside>,
    intakes: BTreeMap<ConnId, (usize, Intake)>,
    /// By lane and place in it, with the connection that each came by.
    fresh: Vec<(usize, usize, ConnId)>,
    /// The connections of repeated requests that are not accounted for.
    fresh_repeats: Vec<ConnId>,
    lives: u32,
    pub batches: Batches,
    /// The power was cut, or bytes were damaged.
    pub was_cut: bool,
    /// Rows of records that no other looks like, by lane.
    seen: BTreeSet<(usize, Vec<u8>)>,
    /// Rows out of order after a power cut, by what they show.
    strays: BTreeMap<Vec<u8>, usize>,
    pub handed: Handed,
    /// Some of the fresh records of streams were turned away.
    pub rejecting: bool,
    /// A record was handed over behind one that its machine sent later.
    pub disorder: Option<String>,
    /// Rows at the receiver.
    pub rows: u64,
}

impl Oracle {
    pub fn new(body: Body, power: bool) -> Self {
        Self {
            body,
            power,
            lanes: Vec::new(),
            names: BTreeMap::new(),
            asides: BTreeMap::new(),
            intakes: BTreeMap::new(),
            fresh: Vec::new(),
            fresh_repeats: Vec::new(),
            lives: 0,
            batches: Batches::default(),
            was_cut: false,
            seen: BTreeSet::new(),
            strays: BTreeMap::new(),
            handed: Handed::default(),
            rejecting: false,
            disorder: None,
            rows: 0,
        }
    }

    fn lane(&mut self, name: &str, http: bool, bytes_max: usize) -> usize {
        if let Some(&lane) = self.names.get(name) {
            return lane;
        }
        let positions = BTreeSet::from([0]);
        self.lanes.push(Lane {
            name: name.to_owned(),
            expected: Vec::new(),
            positions,
            rows: 0,
            arrived: BTreeSet::new(),
            discarded: BTreeSet::new(),
            repeated: BTreeMap::new(),
            http,
            cut: false,
            bytes_max,
            sequence: 0,
        });
        self.names.insert(name.to_owned(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    /// A connection or port whose bytes are framed, and the name that the receiver will see. Whether it is a tty, and whether its
    /// machine is in the middle of a record: what precedes its first end is rejected then.
    pub fn open_stream(&mut self, conn: ConnId, name: &str, framing: &Framing, (tty, is_joined): (bool, bool)) {
        // What a silence has cut may begin or end anywhere.
        let bytes_max = if framing.idle.is_some() { 0 } else { framing.max_bytes };
        let lane = self.lane(name, false, bytes_max);
        self.intakes.insert(conn, (lane, Intake::Stream(Frames::new(framing, is_joined), tty.then(Marks::default))));
    }

    /// A connection with HTTP requests.
    pub fn open_http(&mut self, conn: ConnId, name: &str) {
        let lane = self.lane(name, true, usize::MAX);
        self.intakes.insert(conn, (lane, Intake::Http(VecDeque::new())));
    }

    /// A machine wrote a request that ends after the connection's `end`th byte. `again`: it was sent by another connection before, and
    /// its key is known if the record was taken.
    pub fn http_request(&mut self, conn: ConnId, end: u64, (name, records): (&str, &[Vec<u8>]), again: bool) {
        let lane = self.names[name];
        if let Some((_, Intake::Http(requests))) = self.intakes.get_mut(&conn) {
            let shown = records.iter().map(|record| self.body.shown(name, record)).collect();
            requests.push_back(Request { end, lane, shown, again });
        }
    }

    /// The shard was handed bytes of a connection, `total` so far. Returns how many frames or requests they made whole, and how many
    /// records of those are to be kept.
    pub fn hand(&mut self, now_ns: u64, conn: ConnId, bytes: &[u8], total: u64) -> (u64, u64) {
        let Some((lane, intake)) = self.intakes.get_mut(&conn) else { return (0, 0) };
        let mut whole = 0;
        let Lane { name, expected, repeated: known, sequence, .. } = &mut self.lanes[*lane];
        let before = expected.len();
        match intake {
            Intake::Stream(framer, marks) => {
                let body = self.body;
                let bytes = marks.as_mut().map_or_else(|| bytes.to_vec(), |marks| marks.decode(bytes));
                framer.push(now_ns, &bytes, |frame| {
                    self.handed.stream_records += 1;
                    whole += 1;
                    match frame {
                        Frame::Record(record) => {
                            if !follows(sequence, &record) {
                                self.disorder = Some(format!("{name}: {} is read too late", shorten(&record)));
                            }
                            expected.push(Expected::new(body, name, &record));
                        }
                        Frame::Rejected => self.handed.rejected += 1,
                    }
                });
            }
            Intake::Http(requests) => {
                let mut repeated = Vec::new();
                while let Some(request) = requests.pop_front_if(|request| request.end <= total) {
                    self.handed.http_records += request.shown.len() as u64;
                    whole += 1;
                    self.batches.add(request.lane, &request.shown);
                    // What stood still on the way may come behind its own repeat.
                    match request.again || request.shown.iter().all(|shown| known.contains_key(shown)) {
                        true => repeated.push((request.lane, request.shown)),
                        false => expected.extend(request.shown.into_iter().map(|shown| Expected::of(shown, None))),
                    }
                }
                for (lane, shown) in repeated {
                    self.fresh_repeats.extend(shown.iter().map(|_| conn));
                    shown.into_iter().for_each(|shown| self.lanes[lane].repeat(shown));
                }
            }
        }
        let lane = *lane;
        let after = self.lanes[lane].expected.len();
        self.fresh.extend((before..after).map(|index| (lane, index, conn)));
        (whole, (after - before) as u64)
    }

    /// Time has passed: silences end records. The connections whose records it ended, with how many.
    pub fn advance(&mut self, now_ns: u64) -> Vec<(ConnId, (u64, u64))> {
        let silent = |intake: &Intake| {
            matches!(intake, Intake::Stream(Frames::Own(framing, framer), _)
                if framer.deadline_ns(framing).is_some_and(|at_ns| at_ns <= now_ns))
        };
        let due: Vec<ConnId> =
            self.intakes.iter().filter(|(_, (_, intake))| silent(intake)).map(|(&conn, _)| conn).collect();
        due.into_iter().map(|conn| (conn, self.hand(now_ns, conn, &[], 0))).collect()
    }

    /// A connection ended for the shard, by its peer, the network or the shard.
    pub fn end(&mut self, conn: ConnId) {
        let Some((lane, Intake::Stream(mut framer, _))) = self.intakes.remove(&conn) else { return };
        for last in framer.finish() {
            self.handed.stream_records += 1;
            match last {
                Frame::Record(record) => {
                    let Lane { name, expected, .. } = &mut self.lanes[lane];
                    expected.push(Expected::new(self.body, name, &record));
                    self.fresh.push((lane, expected.len() - 1, conn));
                }
                Frame::Rejected => self.handed.rejected += 1,
            }
        }
    }

    /// Requests whose connection ended before the counters accounted for them: of those that were refused, the answer
    /// was never written and is not counted. One that was held back until its connection ended may have come again meanwhile, and
    /// is a maybe since.
    pub fn unanswered(&self) -> u64 {
        let is_over = |conn: &ConnId| !self.intakes.contains_key(conn);
        let ended = |&&(lane, index, conn): &&(usize, usize, ConnId)| {
            let lane = &self.lanes[lane];
            lane.http && is_over(&conn) && matches!(lane.expected[index].state, State::Fresh | State::Maybe)
        };
        let repeats = self.fresh_repeats.iter().filter(|conn| is_over(conn)).count();
        (self.fresh.iter().filter(ended).count() + repeats) as u64
    }

    /// The shard's counters account for all that was handed in; since they last did, it turned some records away: of
    /// HTTP machines, of streams.
    pub fn counted(&mut self, now_ns: u64, refused_http: bool, rejected_streams: bool) {
        self.fresh_repeats.clear();
        for (lane, index, _) in std::mem::take(&mut self.fresh) {
            let lane = &mut self.lanes[lane];
            let unknown = if lane.http { refused_http } else { rejected_streams };
            let entry = &mut lane.expected[index];
            entry.counted_ns = now_ns;
            if entry.state == State::Fresh {
                entry.state = if unknown { State::Maybe } else { State::Sure };
            }
        }
    }

    /// Of the streams' records that are not accounted for, the shard turned some away: which is not known.
    pub fn doubted(&mut self) {
        for &(lane, index, _) in &self.fresh {
            let lane = &mut self.lanes[lane];
            if !lane.http && lane.expected[index].state == State::Fresh {
                lane.expected[index].state = State::Maybe;
            }
        }
    }

    /// The shard is gone, killed or stopped, perhaps after it turned some records away.
    pub fn gone(&mut self, refused_http: bool, rejected_streams: bool) {
        self.lives += 1;
        for (lane, index, _) in std::mem::take(&mut self.fresh) {
            let lane = &mut self.lanes[lane];
            // At level `power` a refusal may have waited behind the answers of requests that came before it.
            let unknown = if lane.http { refused_http || self.power } else { rejected_streams };
            let entry = &mut lane.expected[index];
            if entry.state == State::Fresh {
                entry.state = if unknown { State::Maybe } else { State::Unsure(self.lives) };
            }
        }
        self.intakes.clear();
        self.fresh_repeats.clear();
        self.handed = Handed::default();
    }

    /// The memory of the machine is lost: of what was not delivered, what was not durable need not arrive any more, but may.
    /// All that was counted up to `safe_ns` was durable.
    pub fn power_cut(&mut self, safe_ns: u64) {
        self.was_cut = true;
        self.asides_cut(safe_ns);
        if !self.power {
            self.batches.excuse_incomplete(&self.lanes);
        }
        for lane in &mut self.lanes {
            lane.cut = lane.http && !self.power;
            if !self.power {
                lane.repeated.values_mut().for_each(|promised| *promised = false);
            }
            let done = lane.positions.first().copied().unwrap_or(0);
            for (index, entry) in lane.expected.iter_mut().enumerate() {
                let delivered = index < done && (!lane.http || lane.arrived.contains(&entry.shown));
                if !delivered && entry.state != State::Refused && !entry.survives(safe_ns) {
                    entry.state = State::Maybe;
                }
            }
        }
    }

    /// A record's bytes on the disk changed: it may be lost, or come from nobody.
    pub fn damaged(&mut self, name: &str, record: &[u8]) {
        self.was_cut = true;
        // Without its name it can be anybody's, in any encoding.
        let names: &[&str] = if name.is_empty() { &[UNKNOWN, BIG5_LANE] } else { &[name] };
        for name in names {
            self.asides_damaged(Some(&self.body.shown(name, record)));
        }
        let lanes = self.lanes.iter_mut().filter(|lane| lane.name == name || name.is_empty());
        for lane in lanes {
            let shown = self.body.shown(&lane.name, record);
            self.batches.excuse(&shown);
            let done = lane.positions.first().copied().unwrap_or(0);
            if let Some(promised) = lane.repeated.get_mut(&shown) {
                *promised = false;
            }
            for entry in lane.expected[done..].iter_mut().filter(|entry| entry.shown == shown) {
                if entry.state != State::Refused {
                    entry.state = State::Maybe;
                    entry.damaged = true;
                }
            }
        }
    }

    /// Whether such a record's bytes on the disk changed before it arrived.
    pub fn is_damaged(&self, name: &str, data: &[u8]) -> bool {
        let lane = self.names.get(name).map(|index| &self.lanes[*index]);
        lane.is_some_and(|lane| lane.expected.iter().any(|entry| entry.damaged && entry.shown == data))
    }

    /// Records that must arrive and have not.
    pub fn due(&self) -> u64 {
        let due = |lane: &Lane| {
            let done = lane.positions.last().copied().unwrap_or(0);
            lane.expected[done..].iter().filter(|entry| entry.state == State::Sure).count() as u64
        };
        self.lanes.iter().map(due).sum::<u64>() + self.asides_due()
    }

    /// All records that may arrive, in all lives.
    pub fn possible(&self) -> u64 {
        let possible = |lane: &Lane| lane.expected.iter().filter(|entry| entry.state != State::Refused).count();
        self.lanes.iter().map(|lane| (possible(lane) + lane.repeated.len()) as u64).sum()
    }

    /// An HTTP machine got its 201: the lane's record that looks so must arrive.
    ///
    /// # Errors
    /// If the shard was never handed it.
    pub fn acknowledged(&mut self, name: &str, record: &[u8], again: bool) -> Result<(), String> {
        let shown = self.body.shown(name, record);
        let lane = self.lane(name, true, usize::MAX);
        if self.lanes[lane].cut {
            return Ok(());
        }
        if again {
            let promised = self.lanes[lane].repeated.get_mut(&shown);
            *promised.ok_or_else(|| format!("{name}: 201 for a repeat that was not handed over"))? = true;
            return Ok(());
        }
        let entry = self.lanes[lane].expected.iter_mut().rev().find(|entry| entry.shown == shown);
        let entry = entry.ok_or_else(|| format!("{name}: 201 for a record that was not handed over"))?;
        if entry.state == State::Refused {
            return Err(format!("{name}: 201 after a refusal"));
        }
        if entry.damaged {
            return Ok(());
        }
        entry.state = State::Sure;
        entry.promised = self.power;
        Ok(())
    }

    /// An HTTP machine got a 503: the record must not arrive from this request.
    ///
    /// # Errors
    /// If it has arrived.
    pub fn refused(&mut self, name: &str, record: &[u8], again: bool) -> Result<(), String> {
        let shown = self.body.shown(name, record);
        let lane = self.lane(name, true, usize::MAX);
        let lane = &mut self.lanes[lane];
        if again {
            let is_known = lane.repeated.get(&shown) == Some(&true) || lane.arrived.contains(&shown);
            return match is_known && shown.len() > HEAD_BYTES && !lane.cut {
                true => Err(format!("{name}: 503 for a key that is known")),
                false => Ok(()),
            };
        }
        let Some(index) = lane.expected.iter().rposition(|entry| entry.shown == shown) else { return Ok(()) };
        if shown.len() > HEAD_BYTES && lane.arrived.contains(&shown) {
            return Err(format!("{name}: 503 for a record that was delivered"));
        }
        if lane.expected[index].state == State::Sure {
            return Err(format!("{name}: 503 for a record that was counted"));
        }
        lane.expected[index].state = State::Refused;
        Ok(())
    }

    /// The receiver accepted a row that it did not have.
    ///
    /// # Errors
    /// In words, if the row is not what the lane has next.
    pub fn row(&mut self, name: &str, data: &[u8]) -> Result<(), String> {
        if name == UNKNOWN && self.was_cut {
            return self.stray(data);
        }
        let index = *self.names.get(name).ok_or_else(|| format!("a row of a lane that never was: {name}"))?;
        self.once(index, data)?;
        let rejecting = self.rejecting;
        let lane = &mut self.lanes[index];
        let whole = inspect(data).is_none_or(|(_, _, whole)| whole);
        if self.body != Body::Json && data.len() < lane.bytes_max && !whole {
            return Err(format!("{name}: a row whose checksum is wrong: {}", shorten(data)));
        }
        let next = lane.next(data, rejecting);
        if lane.repeated.contains_key(data) {
            // It may be what came again, on another connection: that has no order with what came on the first.
            lane.positions.extend(next);
        } else if next.is_empty() {
            return Err(lane.mismatch(data));
        } else {
            lane.positions = next;
        }
        lane.rows += 1;
        if lane.http {
            lane.arrived.insert(data.to_vec());
        }
        self.rows += 1;
        Ok(())
    }

    /// A record that can be told from all others has one row, whatever its key.
    pub fn once(&mut self, lane: usize, data: &[u8]) -> Result<(), String> {
        let fresh = inspect(data).is_none() || self.seen.insert((lane, data.to_vec()));
        fresh.then_some(()).ok_or_else(|| format!("{}: a second row of {}", self.lanes[lane].name, shorten(data)))
    }

    /// A row of a request that was sent before a power cut and lands after it.
    ///
    /// # Errors
    /// If it must not arrive.
    pub fn late_row(&mut self, name: &str, data: &[u8]) -> Result<(), String> {
        let Some(&index) = self.names.get(name) else { return self.stray(data) };
        self.once(index, data)?;
        let rejecting = self.rejecting;
        let lane = &mut self.lanes[index];
        // The shard knows nothing of this row. If it still has the record, the row is the lane's next and nothing stands for it
        // later; if it has not, the row is out of order.
        let next = lane.next(data, rejecting);
        if next.is_empty() && !lane.repeated.contains_key(data) {
            return self.stray(data);
        }
        lane.positions.extend(next);
        lane.rows += 1;
        if lane.http {
            lane.arrived.insert(data.to_vec());
        }
        self.rows += 1;
        Ok(())
    }

    /// A row out of order, after a power cut. The note of who sent a record may be lost though the record is not: it then
    /// comes from nobody. And a request that was sent before the cut may land when the shard knows nothing of it any more.
    /// It must be a record that may arrive.
    ///
    /// # Errors
    /// If it is not.
    pub fn stray(&mut self, data: &[u8]) -> Result<(), String> {
        self.batches.excuse(data);
        let same = |entry: &&Expected| {
            entry.state == State::Maybe && (entry.shown == data || entry.unnamed.as_deref() == Some(data))
        };
        let sent = self.lanes.iter().flat_map(|lane| lane.expected.iter()).filter(same).count();
        // Or one that its machine has sent again: it has arrived then, whoever it comes from.
        let again = self.lanes.iter_mut().filter(|lane| lane.repeated.contains_key(data));
        let sent = sent + again.map(|lane| lane.arrived.insert(data.to_vec())).count();
        let strays = self.strays.entry(data.to_vec()).or_default();
        *strays += 1;
        if *strays > sent {
            return Err(format!("a stray row that must not arrive: {}", shorten(data)));
        }
        self.rows += 1;
        Ok(())
    }

    /// At the end: nothing that must arrive is missing.
    ///
    /// # Errors
    /// Which lane misses what.
    pub fn complete(&self) -> Result<(), String> {
        self.asides_complete()?;
        for lane in &self.lanes {
            let missing = |entry: &&Expected| {
                let gone = lane.arrived.contains(&entry.shown) || lane.discarded.contains(&entry.shown);
                entry.state == State::Sure && !gone
            };
            if lane.http
                && let Some(entry) = lane.expected.iter().find(missing)
            {
                return Err(format!("{}: {} did not arrive", lane.name, shorten(&entry.shown)));
            }
            // It may have arrived from nobody before its machine sent it again.
            let has_strayed = |shown: &Vec<u8>| self.strays.contains_key(shown);
            let is_gone =
                |shown: &Vec<u8>| lane.arrived.contains(shown) || lane.discarded.contains(shown) || has_strayed(shown);
            if let Some((shown, _)) = lane.repeated.iter().find(|(shown, promised)| **promised && !is_gone(shown)) {
                return Err(format!("{}: {} was sent again and did not arrive", lane.name, shorten(shown)));
            }
            let all = lane.expected.len();
            let done = lane.positions.iter().any(|&from| lane.reachable(from, false).contains(&all));
            if !done {
                let from = lane.positions.iter().next_back().copied().unwrap_or(0);
                let entry = &lane.expected[from];
                return Err(format!(
                    "{}: {} of {all} arrived; missing from number {from}, {:?}: {}",
                    lane.name,
                    lane.rows,
                    entry.state,
                    shorten(&entry.shown)
                ));
            }
        }
        Ok(())
    }
}

impl Lane {
    /// A record is handed over once more. It has arrived, is on its way, or was lost on the way here: what it was first is not known
    /// any more, unless it was counted.
    fn repeat(&mut self, shown: Vec<u8>) {
        for entry in self.expected.iter_mut().filter(|entry| entry.shown == shown) {
            if entry.state != State::Sure && entry.state != State::Refused {
                entry.state = State::Maybe;
            }
        }
        self.repeated.entry(shown).or_insert(false);
    }

    /// Positions behind a record that may be next and looks so.
    pub fn next(&self, data: &[u8], rejecting: bool) -> BTreeSet<usize> {
        let reachable = self.positions.iter().flat_map(|&from| self.reachable(from, rejecting));
        let matches = |at: &usize| self.expected.get(*at).is_some_and(|e| e.state != State::Refused && e.shown == data);
        reachable.filter(matches).map(|at| at + 1).collect()
    }

    /// Positions that can be reached from one without a row: past refused records, and past the rest of those that were
    /// fresh at a kill.
    fn reachable(&self, from: usize, rejecting: bool) -> Vec<usize> {
        let mut reached = vec![from];
        let mut at = from;
        while let Some(entry) = self.expected.get(at) {
            match entry.state {
                State::Refused | State::Maybe => at += 1,
                State::Unsure(kill) => {
                    let same =
                        |e: &Expected| matches!(e.state, State::Unsure(k) if k == kill) || e.state == State::Refused;
                    at += self.expected[at..].iter().take_while(|e| same(e)).count();
                }
                // It may turn out to have been refused; if not, it is missed at the end.
                State::Fresh if self.http || rejecting => at += 1,
                State::Fresh | State::Sure => break,
            }
            reached.push(at);
        }
        reached
    }

    pub fn mismatch(&self, data: &[u8]) -> String {
        let at: Vec<usize> =
            self.expected.iter().enumerate().filter(|(_, e)| e.shown == data).map(|(i, _)| i).collect();
        let next = self.positions.iter().next_back().copied().unwrap_or(0);
        let expected = self.expected.get(next).map(|e| format!("{:?} {}", e.state, shorten(&e.shown)));
        format!(
            "{}: row {} is {}, which is expected at {at:?}; but next is {next} of {}: {}",
            self.name,
            self.rows,
            shorten(data),
            self.expected.len(),
            expected.as_deref().unwrap_or("nothing"),
        )
    }
}

/// Whether a record has a higher number than that of the `last` one, which is its own from then on. What has no number follows.
fn follows(last: &mut u64, record: &[u8]) -> bool {
    inspect(record).is_none_or(|(_, number, _)| std::mem::replace(last, number) < number)
}

/// The start of a record, for a message.
pub fn shorten(data: &[u8]) -> String {
    format!("{} B {:?}", data.len(), String::from_utf8_lossy(&data[..data.len().min(30)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle(records: &[&str]) -> Oracle {
        let mut oracle = Oracle::new(Body::Raw, true);
        oracle.open_stream(0, "lane", &Framing { trim: false, ..Framing::default() }, (false, false));
        hand(&mut oracle, records);
        oracle
    }

    fn hand(oracle: &mut Oracle, records: &[&str]) {
        for record in records {
            oracle.hand(0, 0, format!("{record}\r").as_bytes(), 0);
        }
    }

    fn judge(oracle: &mut Oracle, rows: &[&str]) -> Result<(), String> {
        rows.iter().try_for_each(|row| oracle.row("lane", row.as_bytes()))?;
        oracle.complete()
    }

    #[test]
    fn rows_in_order_pass_and_a_hole_a_swap_a_double_and_an_invention_do_not() {
        for (rows, good) in [
            (&["a", "b", "c"][..], true),
            (&["a", "b"], false),
            (&["a", "c"], false),
            (&["b", "a", "c"], false),
            (&["a", "b", "b", "c"], false),
            (&["a", "b", "c", "d"], false),
            (&["a", "b", "c", "c"], false),
        ] {
            let mut oracle = oracle(&["a", "b", "c"]);
            oracle.counted(0, false, false);
            assert_eq!(judge(&mut oracle, rows).is_ok(), good, "{rows:?}");
        }
    }

    #[test]
    fn of_what_was_not_counted_before_a_kill_a_prefix_may_arrive() {
        for (rows, good) in [
            (&["a", "x"][..], true),
            (&["a", "b", "x"], true),
            (&["a", "b", "c", "x"], true),
            (&["a", "c", "x"], false),
            (&["x"], false),
            (&["a", "b"], false),
        ] {
            let mut oracle = oracle(&["a"]);
            oracle.counted(0, false, false);
            hand(&mut oracle, &["b", "c"]);
            oracle.gone(false, false);
            oracle.open_stream(0, "lane", &Framing { trim: false, ..Framing::default() }, (false, false));
            hand(&mut oracle, &["x"]);
            oracle.counted(0, false, false);
            assert_eq!(judge(&mut oracle, rows).is_ok(), good, "{rows:?}");
        }
    }

    #[test]
    fn records_that_look_alike_are_counted() {
        let mut oracle = oracle(&["1", "1"]);
        oracle.counted(0, false, false);
        hand(&mut oracle, &["1", "1"]);
        oracle.gone(false, false);
        assert!(judge(&mut oracle, &["1"]).is_err());
        assert!(judge(&mut oracle, &["1"]).is_ok());
        assert!(judge(&mut oracle, &["1"]).is_ok());
        assert!(judge(&mut oracle, &["1"]).is_ok());
        assert!(judge(&mut oracle, &["1"]).is_err());
    }

    #[test]
    fn a_refused_record_must_not_arrive() {
        let mut oracle = Oracle::new(Body::Raw, true);
        oracle.open_http(3, "h-1");
        oracle.http_request(3, 10, ("h-1", &[b"a".to_vec()]), false);
        oracle.http_request(3, 20, ("h-1", &[b"b".to_vec()]), false);
        assert_eq!(oracle.hand(0, 3, &[0; 9], 9), (0, 0));
        assert_eq!(oracle.hand(0, 3, &[0; 11], 20), (2, 2));
        oracle.refused("h-1", b"a", false).unwrap();
        oracle.acknowledged("h-1", b"b", false).unwrap();
        assert!(oracle.acknowledged("h-1", b"c", false).is_err());
        assert!(oracle.row("h-1", b"a").is_err());
        oracle.row("h-1", b"b").unwrap();
        oracle.complete().unwrap();
    }
}
