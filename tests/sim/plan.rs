//! What a seed stands for: the configuration, the machines, the weather and the faults of one world.

use super::context::{MS, S, US};
use super::crowd::{crowd, crowding_faults, leaves_the_reserve};
use super::disk::{DiskTrouble, DiskWork, EAGAIN};
use super::forms::{Forms, cuts, is_by_source};
use super::machines::{Kind, MachinePlan};
use super::net::{EIO, Weather};
use super::payload::{Alphabet, Body, decoding_of};
use super::receiver::{Contract, SequenceContract};
use ringest::config::{
    Answers, Authority, Batch, BatchForm, Confirm, Deliver, DeliverKey, Durability, First, Flow, Gateway, Journal,
    LaneKey, Limits, Line, MachineKeys, OnLineError, OnMissing, Parity, Sequence, Serial, Settings, Source, SourceKind,
    Stuck, Url, WhenFull,
};
use ringest::delivery::confirm::{ConfirmPath, ShownAt};
use ringest::delivery::route::Reaction;
use ringest::framing::{
    Checksum, ChecksumKind, CrcName, Framing, FramingKind, Idle, LengthCounts, LengthField, NumberForm, OnIdle,
    Oversized,
};
use ringest::ground::CoreId;
use ringest::http::server;
use ringest::journal::Options;
use ringest::shard::{Readable, SourceId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Memory,
    Process,
    /// The default of the configuration.
    Power,
}

/// Where in the shard's turn a kill falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Between two turns.
    Now,
    /// After the first completion of a turn.
    AfterFirstCompletion,
    /// After all completions of a turn, before its end.
    BeforeTurn,
    /// After the turn, with none of its operations begun.
    BeforeOperations,
    /// With some of its operations begun.
    AmongOperations,
    /// As an operation on the disk is asked for.
    OnDiskOperation,
    /// As a send to the API is asked for.
    OnApiSend,
    /// As a segment is read back.
    OnReadBack,
    /// As a step of a rewrite is asked for.
    OnRewrite,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The API's connections are reset; new ones are refused, or never answered.
    Outage {
        swallows: bool,
    },
    /// Every answer is this status.
    Status(u16),
    /// So often, in a hundred, a record is refused with this status.
    Refusals(u16, u32),
    /// Some records make the service fail, in whatever request they are: with this status, or 0 for no answer at all.
    Poison(u16),
    /// A few records are answered by this status for long, whoever else gets through.
    Stuck(u16),
    SlowAnswers(u64),
    LostAnswers(u32),
    GarbledAnswers(u32),
    HangUp {
        machine: usize,
        errno: Option<i32>,
    },
    /// So often, in a hundred, an open connection is torn down.
    Reset(u32),
    /// A machine sends very many short records as fast as it can.
    Flood {
        machine: usize,
    },
    /// So often, in a hundred, a direction of an open connection stands still.
    Stall(u32),
    SlowDisk(u64),
    /// Operations of the disk fail.
    Disk(DiskTrouble),
    /// No segment can be made; on a file system that writes elsewhere, no block can be written either.
    DiskFull {
        commits: bool,
    },
    /// The disk does nothing for a while.
    HungDisk,
    /// The process is killed, and what it left changes.
    Tamper(Tampering),
    Kill(CrashPoint),
    /// The machine goes down: its memory is lost, and so is what the disk was not told to make durable.
    PowerCut,
    CleanRestart,
    /// Where and how records are delivered changes, while the shard runs.
    Reload,
}

impl FaultKind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Outage { swallows: false } => "receiver outage (refused)",
            Self::Outage { swallows: true } => "receiver outage (no answer)",
            Self::Status(500) => "burst of 500",
            Self::Status(503) => "burst of 503",
            Self::Status(_) => "burst of another status",
            Self::Refusals(..) => "refusals",
            Self::Poison(_) => "poison records",
            Self::Stuck(_) => "stuck records",
            Self::SlowAnswers(_) => "slow answers",
            Self::LostAnswers(_) => "lost answers",
            Self::GarbledAnswers(_) => "garbled answers",
            Self::HangUp { .. } => "hang-up",
            Self::Reset(_) => "connections reset",
            Self::Flood { .. } => "flood",
            Self::Stall(_) => "stall",
            Self::SlowDisk(_) => "slow disk",
            Self::Disk(DiskTrouble { work, .. }) => match work {
                DiskWork::Commit => "commits fail",
                DiskWork::Prepare => "preparing segments fails",
                DiskWork::Sync => "syncs fail",
                DiskWork::Free => "freeing segments fails",
                DiskWork::ReadBack => "reading back fails",
                DiskWork::Rewrite => "rewrites fail",
                DiskWork::Call => "calls at start and stop fail",
            },
            Self::DiskFull { commits: false } => "disk full",
            Self::DiskFull { commits: true } => "disk full, also for blocks",
            Self::HungDisk => "disk hangs",
            Self::Tamper(Tampering::FlipSegments(_)) => "bits of segments flip",
            Self::Tamper(Tampering::HideBlocks(_)) => "blocks of segments cannot be read",
            Self::Tamper(Tampering::FlipEpoch { .. }) => "epoch file damaged",
            Self::Tamper(Tampering::LoseBlockFile) => "block file removed",
            Self::Kill(_) => "kill",
            Self::PowerCut => "power cut",
            Self::CleanRestart => "clean restart",
            Self::Reload => "reload",
        }
    }

    /// Whether it is one of those of which every world has three.
    pub fn is_outer(&self) -> bool {
        !matches!(self, Self::Kill(_) | Self::Tamper(_) | Self::PowerCut | Self::CleanRestart | Self::Reload)
    }
}

/// What happens to files while nobody uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tampering {
    /// So many bits of segments flip.
    FlipSegments(u32),
    /// So many physical blocks of segments cannot be read.
    HideBlocks(u32),
    /// A bit of the epoch file, or one in both of its copies.
    FlipEpoch {
        both: bool,
    },
    LoseBlockFile,
}

#[derive(Debug, Clone)]
pub struct Fault {
    pub at_ns: u64,
    pub lasts_ns: u64,
    pub kind: FaultKind,
}

/// One world.
pub struct Plan {
    pub seed: u64,
    pub level: Level,
    pub settings: Arc<Settings>,
    pub contract: Contract,
    pub body: Body,
    pub machines: Vec<MachinePlan>,
    pub forms: Forms,
    pub faults: Vec<Fault>,
    pub weather: Weather,
    pub physical: u32,
    pub block_bytes: u32,
    /// The first start works in the directory of another core, which later ones adopt.
    pub adopts: bool,
    /// So often, in a thousand, an accept fails for want of descriptors.
    pub accept_fails: u32,
    pub closes_idle: u32,
    pub service_ns: u64,
    pub disk_delay_ns: u64,
    /// The port is not there at start.
    pub missing_at_start: Vec<bool>,
    /// What a Retry-After tells is obeyed for up to an hour, unless an operator ends that.
    pub waits_long: bool,
    /// Machines that can wait fill the journal beside a line that cannot: it loses nothing.
    pub is_crowded: bool,
}

const HOST: &str = "api.example";

/// The process, of which a world has none.
fn gateway() -> Gateway {
    Gateway {
        file: "world".into(),
        name: "sim".into(),
        cores: vec![0],
        state_dir: "/nowhere".into(),
        admin: ([127, 0, 0, 1], 9600).into(),
        min_wait: Duration::ZERO,
        core_dumps: false,
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed_b0a7);
        let rng = &mut rng;
        let level = match seed % 8 {
            0..=4 => Level::Power,
            5 | 6 => Level::Process,
            _ => Level::Memory,
        };
        let body = *rng.choice(&[Body::Json, Body::Hex, Body::Base64, Body::Raw]).expect("some");
        let (mut sources, mut machines) = machines(rng, body, level);
        let (mut deliver, sequence, mut contract) = delivery(rng, body);
        let mut block_bytes = *rng.choice(&[8192, 16_384]).expect("some");
        let mut physical = *rng.choice(&[512, 4096]).expect("some");
        let mut journal = journal(rng, level, block_bytes, physical);
        let keyed = is_keyed(seed);
        let has_lots = has_lots(seed);
        if has_lots {
            keep_lots(&mut sources, &mut deliver, &mut contract);
        }
        if has_lanes_of_sources(seed) {
            order_by_source(&mut sources);
        }
        journal.machine_keys.count = if keyed { 1_000 } else { 0 };
        let missing_at_start = machines.iter().map(|m| m.kind == Kind::Serial && rng.u8(..10) == 0).collect();
        let mut faults = faults(rng, level, matches!(seed % 8, 1 | 3 | 5), &machines);
        faults.extend(reloads(seed));
        let (more, waits_long) = patience(seed, &mut deliver);
        faults.extend(more);
        let is_crowded = level != Level::Memory && seed % 9 == 4;
        if is_crowded {
            (physical, block_bytes) = (512, 8192);
            crowd(seed, block_bytes + physical, &mut journal, &mut machines);
            faults.retain(|fault| leaves_the_reserve(&fault.kind));
            faults.extend(crowding_faults(seed));
        }
        let forms = Forms::of(seed, block_bytes, is_by_source(&sources));
        // What is kept for lines is measured for records that come alone.
        let forms = if is_crowded { Forms::PLAIN } else { forms };
        if forms.is_batched() && level == Level::Power {
            faults.extend(cuts(seed));
        }
        forms.tell(&mut sources, &mut deliver, &mut contract);
        let limits = Limits {
            read_buffer_bytes: *rng.choice(&[256, 1024, 4096]).expect("some"),
            http: server::Limits {
                header_timeout: Duration::from_secs(120),
                body_timeout: Duration::from_secs(120),
                ..server::Limits::default()
            },
            ..Limits::default()
        };
        let deliver = Deliver { max_connection_age: connection_age(seed), ..deliver };
        let gateway = gateway();
        Self {
            seed,
            level,
            settings: Arc::new(Settings { gateway, journal, sources, sequence, deliver, limits, names: [].into() }),
            contract,
            body,
            machines: machines
                .into_iter()
                .map(|machine| {
                    forms.given_to(MachinePlan { keyed, has_lots, fickle: fickle(seed, &machine), ..machine })
                })
                .collect(),
            forms,
            faults,
            weather: weather(rng),
            physical,
            block_bytes,
            adopts: level != Level::Memory && rng.u8(..5) == 0,
            accept_fails: *rng.choice(&[0, 50]).expect("some"),
            closes_idle: *rng.choice(&[0, 30]).expect("some"),
            service_ns: *rng.choice(&[MS, 5 * MS, 30 * MS]).expect("some"),
            disk_delay_ns: (*rng.choice(&[MS, 20 * MS]).expect("some")).max(forms.disk_delay_ns()),
            missing_at_start,
            waits_long,
            is_crowded,
        }
    }

    pub fn has_disk(&self) -> bool {
        self.level != Level::Memory
    }

    /// When the last fault is over.
    pub fn calm_ns(&self) -> u64 {
        self.faults.iter().map(|fault| fault.at_ns + fault.lasts_ns).max().unwrap_or(0)
    }

    pub fn options(&self, core: u32) -> Options {
        Options { block_bytes: self.block_bytes, ..Options::new(&self.settings.journal, CoreId(core as u16), 1) }
    }
}

/// Whether machines' keys are remembered, and machines repeat under them; drawn apart, so that the other worlds are what they were.
fn is_keyed(seed: u64) -> bool {
    fastrand::Rng::with_seed(seed ^ 0x6b65_7973).u8(..3) > 0
}

/// Whether machines give a lot with their records, in a header that is kept; drawn apart, so that the other worlds are what they were.
fn has_lots(seed: u64) -> bool {
    fastrand::Rng::with_seed(seed ^ 0x6c6f_7473).u8(..4) == 0
}

/// Whether lanes of HTTP machines are those of their SOURCEs; drawn apart, so that the other worlds are what they were.
fn has_lanes_of_sources(seed: u64) -> bool {
    fastrand::Rng::with_seed(seed ^ 0x6c61_6e65).bool()
}

fn order_by_source(sources: &mut [Source]) {
    for source in sources {
        if let SourceKind::Http { lane, .. } = &mut source.kind {
            *lane = LaneKey::Source;
        }
    }
}

fn keep_lots(sources: &mut [Source], deliver: &mut Deliver, contract: &mut Contract) {
    for source in sources.iter_mut().filter(|source| matches!(source.kind, SourceKind::Http { .. })) {
        let mut keeps = server::Keeps::default();
        keeps.add("X-Lot");
        source.forms.keeps = Some(Arc::new(keeps));
    }
    deliver.body = contract.body.with_lot(&deliver.body);
    contract.has_lots = true;
}

/// How often, in a thousand, a machine leaves. In every third world those that connect stay for a few records each, so that there are
/// many more lanes than connections. Drawn apart, so that the other worlds are what they were.
fn fickle(seed: u64, machine: &MachinePlan) -> u32 {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x7669_7369);
    match rng.u8(..3) == 0 && matches!(machine.kind, Kind::TcpOut | Kind::Http) {
        true => *rng.choice(&[100, 300, 500]).expect("some"),
        false => machine.fickle,
    }
}

/// How old connections become; drawn apart, so that all else of a world is what it was.
fn connection_age(seed: u64) -> Duration {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x0061_6765);
    Duration::from_millis(*rng.choice(&[100, 700, 300_000]).expect("some"))
}

/// In every third world some; drawn apart, so that all else of a world is what it was without them.
fn reloads(seed: u64) -> Vec<Fault> {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x0051_6855);
    let count = if seed.is_multiple_of(3) { rng.usize(1..=6) } else { 0 };
    let reload = |_| Fault { at_ns: S + rng.u64(..2 * S), lasts_ns: 0, kind: FaultKind::Reload };
    (0..count).map(reload).collect()
}

/// How long is waited for the service, when a record that stands still is parked, in every third world some that do, and in every
/// sixth a service that is away for long; drawn apart.
fn patience(seed: u64, deliver: &mut Deliver) -> (Vec<Fault>, bool) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x7374_7563);
    let waits_long = rng.u8(..4) == 0;
    deliver.retry_max = Duration::from_secs(*rng.choice(&[1, 1, 10]).expect("some"));
    deliver.retry_after_max = Duration::from_secs(if waits_long { 3_600 } else { 5 });
    deliver.answers.stuck = rng.bool().then(|| Stuck {
        attempts: rng.u32(2..=5),
        after: Duration::from_millis(*rng.choice(&[0, 300, 1_000]).expect("some")),
    });
    let kind = FaultKind::Stuck(*rng.choice(&[500, 503, 200, 202]).expect("some"));
    let stuck = Fault { at_ns: S + rng.u64(50 * MS..500 * MS), lasts_ns: rng.u64(2 * S..8 * S), kind };
    let stuck = (rng.u8(..3) == 0).then_some(stuck);
    let kind = FaultKind::Outage { swallows: false };
    let away = Fault { at_ns: S + rng.u64(500 * MS..1_500 * MS), lasts_ns: rng.u64(8 * S..20 * S), kind };
    let away = (rng.u8(..6) == 0).then_some(away);
    (stuck.into_iter().chain(away).collect(), waits_long)
}

fn machines(rng: &mut fastrand::Rng, body: Body, level: Level) -> (Vec<Source>, Vec<MachinePlan>) {
    let mut sources = Vec::new();
    let mut machines = Vec::new();
    // One of each kind, then any.
    let mut kinds = vec![Kind::Serial, Kind::TcpOut, Kind::Http];
    for _ in 0..rng.usize(1..=4) {
        kinds.push(*rng.choice(&[Kind::Serial, Kind::TcpOut, Kind::TcpServer, Kind::Http]).expect("some"));
    }
    let quota = 240 / kinds.len() as u64 + rng.u64(1..20);
    let bytes_max = *rng.choice(&[200, 800, 3000]).expect("some");
    let depth = if rng.u8(..4) == 0 { 3 } else { 1 };
    for kind in kinds {
        let source = SourceId(sources.len() as u16);
        let framing = framing(rng, body, level);
        let fixed_bytes = match framing.kind {
            FramingKind::Fixed { bytes } => Some(bytes),
            _ => None,
        };
        // Without a start nothing ever tells where a record begins again.
        let strong = framing.checksum.as_ref().is_some_and(|checksum| checksum.bits() >= 16);
        let checked = strong && !framing.starts.is_empty();
        machines.push(MachinePlan {
            kind,
            source,
            quota,
            gap_ns: *rng.choice(&[3 * MS, 20 * MS, 60 * MS]).expect("some"),
            bytes_max,
            alphabet: match body {
                Body::Json if fixed_bytes.is_none() && rng.bool() => Alphabet::Text,
                _ if framing.trim => Alphabet::Ascii,
                _ => Alphabet::Bytes,
            },
            fixed_bytes,
            silence_ns: framing.idle.map_or(0, |idle| 3 * idle.gap.as_nanos() as u64),
            junk: if checked && rng.bool() { 5 } else { 0 },
            framing: framing.clone(),
            fickle: *rng.choice(&[0, 30]).expect("some"),
            depth,
            talks_to_the_wall: rng.u8(..3) == 0,
            leaves: rng.bool(),
            one_at_a_time: false,
            is_joined: false,
            keyed: false,
            has_lots: false,
            forms: Forms::PLAIN,
        });
        sources.push(source_of(rng, kind, source, framing));
        // Drawn aside, so that the rest of a world is the same with and without.
        let may_join = matches!(kind, Kind::Serial | Kind::TcpServer) && is_plain(&sources[sources.len() - 1].framing);
        if may_join && rng.clone().bool() {
            machines.last_mut().expect("pushed above").is_joined = true;
            sources.last_mut().expect("pushed above").first = First::Discard;
        }
        machines.last_mut().expect("pushed above").one_at_a_time =
            matches!(sources[sources.len() - 1].kind, SourceKind::TcpListen { lane: LaneKey::Address, .. });
        // Many machines on one listener.
        if matches!(kind, Kind::TcpOut | Kind::Http) && rng.bool() {
            let twin = machines.last().expect("pushed above").clone();
            machines.push(twin);
        }
    }
    (sources, machines)
}

/// Whether nothing but an end tells where a record begins.
fn is_plain(framing: &Framing) -> bool {
    let is_delimited = matches!(framing.kind, FramingKind::Delimiter { .. });
    is_delimited && framing.starts.is_empty() && framing.checksum.is_none() && framing.idle.is_none()
}

/// Every second TCP source has its ACKs late.
fn is_quick(id: SourceId) -> bool {
    id.0.is_multiple_of(2)
}

/// How a connection of a source is read.
pub fn socket_of(kind: Kind, id: SourceId) -> Readable {
    let is_late = matches!(kind, Kind::TcpOut | Kind::TcpServer) && !is_quick(id);
    if is_late { Readable::SocketLateAcks } else { Readable::Socket }
}

fn source_of(rng: &mut fastrand::Rng, kind: Kind, id: SourceId, framing: Framing) -> Source {
    let listen = ([127, 0, 0, 1], 4000 + id.0).into();
    let (name, kind) = match kind {
        Kind::Serial => {
            let line = Line { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 };
            let path = format!("/dev/serial/by-id/gauge-{}", id.0).into();
            let serial = Serial {
                path,
                line,
                flow: Flow::None,
                on_missing: OnMissing::Wait,
                on_line_error: OnLineError::Deliver,
            };
            (format!("p-{}", id.0), SourceKind::Serial(serial))
        }
        Kind::TcpOut => {
            let lane = if rng.u8(..3) == 0 { LaneKey::Address } else { LaneKey::Connection };
            (
                format!("t-{}", id.0),
                SourceKind::TcpListen { listen, lane, quick_ack: is_quick(id), names: BTreeMap::new() },
            )
        }
        Kind::TcpServer => {
            let connect = Authority { host: "10.9.0.1".into(), port: 4001 + id.0 };
            (format!("c-{}", id.0), SourceKind::TcpConnect { connect, quick_ack: is_quick(id) })
        }
        Kind::Http => (format!("w-{}", id.0), SourceKind::Http { listen, lane: LaneKey::Connection }),
    };
    let silence_alarm = rng.bool().then_some(Duration::from_millis(700));
    Source { silence_alarm, decoding: decoding_of(&name), first: First::Keep, ..Source::new(&name, kind, framing) }
}

fn framing(rng: &mut fastrand::Rng, body: Body, level: Level) -> Framing {
    match rng.u8(..6) {
        0 => checked_framing(rng),
        1 => counted_framing(rng),
        // Where reading pauses the gaps between bytes are not those of the line, and no model says what becomes of them.
        2 if level == Level::Memory => silent_framing(rng),
        _ => delimited_framing(rng, body),
    }
}

/// Start and end bytes, and a checksum behind.
fn checked_framing(rng: &mut fastrand::Rng) -> Framing {
    use ChecksumKind::*;
    let kinds = [Sum8, Xor8, Crc(CrcName::Crc16Modbus), Crc(CrcName::Crc32IsoHdlc)];
    let checksum = rng.choice(kinds).map(Checksum::short);
    let kind = FramingKind::Delimiter { ends: vec![vec![3]] };
    Framing { kind, starts: vec![vec![2]], checksum, trim: false, max_bytes: 4096, ..Framing::default() }
}

/// A length in front, or always the same one.
fn counted_framing(rng: &mut fastrand::Rng) -> Framing {
    use LengthCounts::*;
    let start = if rng.bool() { vec![0xAA, 0x55] } else { Vec::new() };
    let kind = if rng.bool() {
        FramingKind::Fixed { bytes: *rng.choice(&[8, 32, 180]).expect("some") }
    } else {
        FramingKind::Length(LengthField::plain(
            start.len() + rng.usize(..3),
            *rng.choice(&[2, 4]).expect("some"),
            if rng.bool() { NumberForm::Big } else { NumberForm::Little },
            *rng.choice(&[Payload, Rest, Message]).expect("some"),
            false,
        ))
    };
    let checksum = rng.bool().then(|| Checksum::short(ChecksumKind::Crc(CrcName::Crc16Modbus)));
    let starts = if start.is_empty() { Vec::new() } else { vec![start] };
    Framing { kind, starts, checksum, trim: false, max_bytes: 4096, ..Framing::default() }
}

/// A silence ends a record.
fn silent_framing(rng: &mut fastrand::Rng) -> Framing {
    let policy = if rng.bool() { OnIdle::Emit } else { OnIdle::Discard };
    let idle = Some(Idle { gap: Duration::from_millis(40), policy });
    let kind = if rng.bool() { FramingKind::IdleGap } else { FramingKind::Delimiter { ends: vec![vec![3]] } };
    Framing { kind, idle, trim: false, max_bytes: 4096, ..Framing::default() }
}

fn delimited_framing(rng: &mut fastrand::Rng, body: Body) -> Framing {
    let ends: [&[u8]; 5] = [b"\r", b"\n", b"\r\n", b"\0", b"END\x1e"];
    let end = rng.choice(&ends).expect("some").to_vec();
    // Where records are trimmed, white space must not be at their ends; text may have it anywhere.
    let trim = body != Body::Json && rng.bool();
    let max_bytes = if trim { 4096 } else { *rng.choice(&[150, 4096, 4096]).expect("some") };
    let oversized = if rng.bool() { Oversized::Cut } else { Oversized::Drop };
    Framing { kind: FramingKind::Delimiter { ends: vec![end] }, trim, max_bytes, oversized, ..Framing::default() }
}

fn delivery(rng: &mut fastrand::Rng, body: Body) -> (Deliver, Option<Sequence>, Contract) {
    let two_steps = rng.u8(..3) > 0;
    let url = |target: &str, port: u16| Url {
        secure: false,
        authority: Authority { host: HOST.into(), port },
        host_header: format!("{HOST}:{port}"),
        target: target.into(),
    };
    let port = 8000;
    let sequence_port = if rng.u8(..3) == 0 { 8001 } else { port };
    let nested = rng.bool();
    // Drawn aside, so that the rest of a world is the same with and without.
    let mut aside = rng.clone();
    let lease = if two_steps && aside.u8(..4) == 0 { aside.u32(2..=40) } else { 1 };
    let sequence = two_steps.then(|| Sequence {
        url: url("/seq/?kind=film", sequence_port),
        id_at: if nested { "/data/0/seq" } else { "/id" }.into(),
        lease,
        count_at: "/count".into(),
    });
    let confirms = rng.bool();
    let batch = (body != Body::Raw && aside.u8(..4) == 0).then(|| Batch {
        form: match aside.u8(..3) {
            0 => BatchForm::Ndjson,
            1 => BatchForm::Array { before: String::new(), behind: String::new() },
            _ => BatchForm::Array { before: r#"{"films": "#.into(), behind: r#", "n": 1}"#.into() },
        },
        records: aside.usize(2..=30),
        bytes: *aside.choice(&[1_024, 16_384]).expect("some"),
        wait: Duration::from_millis(*aside.choice(&[0, 5]).expect("some")),
        failures: aside.u32(1..=4),
    });
    let template = if batch.is_some() { body.template_with_key(two_steps) } else { body.template(two_steps) };
    let deliver = Deliver {
        answers: Answers { attempts: *rng.choice(&[1, 2, 3]).expect("some"), ..answers(confirms, two_steps, body) },
        batch: batch.clone(),
        url: url("/films/", port),
        shows_text: body == Body::Json,
        body: template,
        content_type: if body == Body::Raw { "application/octet-stream" } else { "application/json" }.into(),
        tls: None,
        headers: vec![("X-Plant".into(), "3".into())],
        header_files: Vec::new(),
        success: vec![201],
        answer_type: None,
        answer_id_at: None,
        key: DeliverKey::Record,
        connections: *rng.choice(&[1, 2, 8]).expect("some"),
        pipeline: *rng.choice(&[1, 8]).expect("some"),
        timeout: Duration::from_millis(*rng.choice(&[400, 2000]).expect("some")),
        connect_timeout: Duration::from_millis(500),
        idle: Duration::from_millis(*rng.choice(&[20, 1500]).expect("some")),
        max_connection_age: Duration::from_secs(300),
        retry_first: Duration::from_millis(50),
        retry_max: Duration::from_secs(1),
        retry_after_max: Duration::from_secs(5),
        drain: Duration::from_millis(*rng.choice(&[10, 3000]).expect("some")),
    };
    let contract = Contract {
        hosts: vec![deliver.url.host_header.clone()],
        films_target: "/films/".into(),
        batch,
        confirms,
        sequence: two_steps.then(|| SequenceContract {
            hosts: vec![format!("{HOST}:{sequence_port}")],
            target: "/seq/?kind=film".into(),
            answer: match (nested, lease) {
                (true, 1) => r#"{"data": [{"seq": ID}, {"seq": 7}]}"#,
                (true, _) => r#"{"data": [{"seq": ID}, {"seq": 7}], "count": COUNT}"#,
                (false, 1) => r#"{"id": ID}"#,
                (false, _) => r#"{"count": COUNT, "id": ID}"#,
            }
            .into(),
            lease,
            text_ids: rng.bool() && lease == 1,
            honours_keys: rng.bool(),
        }),
        content_type: deliver.content_type.clone(),
        has_lots: false,
        has_addresses: false,
        body,
        pipeline: deliver.pipeline,
        timeout_ns: deliver.timeout.as_nanos() as u64,
    };
    (deliver, sequence, contract)
}

/// Whether the service is asked what it has after a 409.
fn answers(confirms: bool, two_steps: bool, body: Body) -> Answers {
    if !confirms {
        return Answers::default();
    }
    let path = ConfirmPath::parse("/films/{{key}}/", two_steps).expect("a path");
    let source = (body != Body::Raw).then(|| "/machine".into());
    let confirm = Some(Confirm { path, shown_at: ShownAt { data: "/data".into(), source } });
    Answers { given: vec![(409, Reaction::Confirm)], confirm, ..Answers::default() }
}

fn journal(rng: &mut fastrand::Rng, level: Level, block_bytes: u32, physical: u32) -> Journal {
    let segment_bytes = u64::from(physical + block_bytes * rng.u32(2..=4));
    Journal {
        durability: match level {
            Level::Memory => Durability::Memory,
            Level::Process => Durability::Process,
            Level::Power => Durability::Power,
        },
        commit_every: Duration::from_millis(5),
        segment_bytes: segment_bytes.next_multiple_of(4096),
        // Room for all that the machines send, but for every fourth world.
        max_bytes: if level == Level::Memory || rng.u8(..4) > 0 { 8 << 20 } else { segment_bytes * rng.u64(5..10) },
        window_bytes: block_bytes as usize * rng.usize(8..=16),
        blocks: "/dev/shm".into(),
        when_full: if rng.u8(..4) == 0 { WhenFull::Reject } else { WhenFull::Pause },
        machine_keys: MachineKeys { count: 0, age: Duration::from_secs(3_600) },
    }
}

fn weather(rng: &mut fastrand::Rng) -> Weather {
    Weather {
        delay_ns: *rng.choice(&[100 * US, MS, 5 * MS]).expect("some"),
        small_chunks: *rng.choice(&[2, 20, 60]).expect("some"),
        late: *rng.choice(&[0, 10]).expect("some"),
        late_ns: 200 * MS,
    }
}

fn faults(rng: &mut fastrand::Rng, level: Level, power_cut: bool, machines: &[MachinePlan]) -> Vec<Fault> {
    let ports: Vec<usize> = (0..machines.len()).filter(|&index| machines[index].kind == Kind::Serial).collect();
    let mut kinds = vec![
        FaultKind::Outage { swallows: rng.bool() },
        FaultKind::Status(*rng.choice(&[500, 503, 503, 502, 429, 404, 200, 400, 409]).expect("some")),
        FaultKind::Refusals(
            *rng.choice(&[400, 409, 409, 413, 422]).expect("some"),
            *rng.choice(&[3, 20, 100]).expect("some"),
        ),
        FaultKind::SlowAnswers(rng.u64(50 * MS..3 * S)),
        FaultKind::LostAnswers(rng.u32(10..60)),
        FaultKind::GarbledAnswers(rng.u32(10..60)),
        FaultKind::HangUp { machine: *rng.choice(&ports).expect("one at least"), errno: rng.bool().then_some(EIO) },
        FaultKind::Reset(rng.u32(20..100)),
        FaultKind::Flood { machine: rng.usize(..machines.len()) },
        FaultKind::Stall(rng.u32(20..100)),
    ];
    if level != Level::Memory {
        kinds.extend(disk_faults(rng));
    }
    kinds.push(FaultKind::Poison(*rng.choice(&[500, 502, 503, 0]).expect("some")));
    rng.shuffle(&mut kinds);
    kinds.truncate(rng.usize(4..=7));
    // A settled segment is given up without a word where nothing can be written: if its file stays as well, all in it is
    // delivered again.
    let refuses = |kind: &FaultKind| match kind {
        FaultKind::DiskFull { commits } => *commits,
        FaultKind::Disk(trouble) => trouble.work == DiskWork::Commit,
        _ => false,
    };
    if kinds.iter().any(refuses) {
        kinds.retain(|kind| !matches!(kind, FaultKind::Disk(DiskTrouble { work: DiskWork::Free, .. })));
    }
    if level == Level::Memory {
        kinds.push(FaultKind::Kill(CrashPoint::Now));
    } else {
        if rng.u8(..4) == 0 {
            kinds.push(FaultKind::Tamper(match rng.u8(..7) {
                0..=2 => Tampering::FlipSegments(rng.u32(1..=3)),
                3..=4 => Tampering::HideBlocks(rng.u32(1..=2)),
                5 => Tampering::FlipEpoch { both: rng.u8(..4) == 0 },
                _ => Tampering::LoseBlockFile,
            }));
        }
        for _ in 0..*rng.choice(&[1, 1, 2, 3]).expect("some") {
            kinds.push(FaultKind::Kill(crash_point(rng)));
        }
        if power_cut {
            kinds.push(FaultKind::PowerCut);
        }
        if rng.u8(..4) == 0 {
            kinds.push(FaultKind::CleanRestart);
        }
    }
    let at = |rng: &mut fastrand::Rng, kind: &FaultKind| match kind {
        // From the first start on.
        FaultKind::Disk(_) | FaultKind::DiskFull { .. } if rng.u8(..5) == 0 => S,
        _ => S + rng.u64(50 * MS..1500 * MS),
    };
    kinds
        .into_iter()
        .map(|kind| Fault {
            at_ns: at(rng, &kind),
            lasts_ns: if kind.is_outer() { rng.u64(50 * MS..2 * S) } else { 0 },
            kind,
        })
        .collect()
}

fn disk_faults(rng: &mut fastrand::Rng) -> Vec<FaultKind> {
    let mut kinds = vec![FaultKind::SlowDisk(rng.u64(50 * MS..S)), FaultKind::HungDisk];
    for _ in 0..2 {
        use DiskWork::*;
        let work = *rng.choice(&[Commit, Commit, Prepare, Sync, Free, ReadBack, Rewrite, Call]).expect("some");
        // One error, a burst, or errors for as long as it lasts.
        let (percent, left) = *rng.choice(&[(100, 1), (100, 4), (30, u32::MAX), (100, u32::MAX)]).expect("some");
        let errno = if work == Commit && rng.u8(..3) == 0 { EAGAIN } else { EIO };
        kinds.push(FaultKind::Disk(DiskTrouble { work, errno, percent, left }));
    }
    kinds.push(FaultKind::DiskFull { commits: rng.u8(..3) == 0 });
    kinds
}

fn crash_point(rng: &mut fastrand::Rng) -> CrashPoint {
    use CrashPoint::*;
    *rng.choice(&[
        Now,
        AfterFirstCompletion,
        BeforeTurn,
        BeforeOperations,
        AmongOperations,
        OnDiskOperation,
        OnApiSend,
        OnReadBack,
        OnRewrite,
    ])
    .expect("some")
}
