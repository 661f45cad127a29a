//! `ringest check`: every problem of a configuration, or what it would run. Opens no port and no address; with `--online` it looks at them.

use super::checks::{Check, render, verdict};
use super::{Failure, exit, online, send_test};
use crate::config::{
    self, Checked, Durability, Flow, LaneKey, Problems, Settings, Source, SourceKind, Url, WhenFull, show_duration,
    show_framing, show_line, show_size,
};
use crate::delivery::template::{Fields, Template};
use crate::ground::decoding::Decoding;
use crate::ground::{KeptHeaders, RecordFlags};
use crate::source::serial;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Arguments of `ringest check`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// The configuration file
    config: PathBuf,
    /// Look at this machine, too: io_uring, state directory, lock, addresses, ports, API. Disturbs nothing: no port is opened, no
    /// address listened on, the API is connected to and asked nothing
    #[arg(long)]
    online: bool,
    /// Post one record of a machine called ringest-test to the API as well, marked as a test, and say what came back
    #[arg(long, requires = "online")]
    send_test: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Exit codes: 0, the configuration can be used; 3, it cannot. With --online, if there is a problem, the code that `ringest run` would \
end with: 4 io_uring, 6 in use, 7 permission, 8 missing, 1 anything else. With warnings only it runs, and the code is 0: a port or an \
API that is not there is waited for, and another gateway on the state directory is taken for the one to be replaced. With --send-test \
the code is 10 if the test record would not count as delivered.";

/// Runs the command.
///
/// # Errors
/// [`exit::CONFIG`] if the file has problems; with `--online`, the code of the first problem found.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    match config::check_here(&arguments.config, &serial::look) {
        Ok(checked) => {
            let mut checks = arguments.online.then(|| online::checks(&checked.settings));
            if let Some(checks) = checks.as_mut().filter(|_| arguments.send_test) {
                checks.push(send_test::send_test(&checked.settings));
            }
            print(&if arguments.json {
                format!("{}\n", good_json(&arguments.config, &checked, checks.as_deref()))
            } else {
                good_text(&arguments.config, &checked, std::io::stdout().is_terminal())
                    + &online_text(checks.as_deref())
            })?;
            match checks.as_deref().and_then(online::first_problem) {
                None => Ok(()),
                Some(Check { what, found, remedy, exit_code, .. }) => {
                    let remedy = remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
                    Err(Failure::new(*exit_code, format!("{what}: {found}{remedy}")))
                }
            }
        }
        Err(problems) => {
            if arguments.json {
                print(&format!("{}\n", bad_json(&problems)))?;
                let count = problems.list.len();
                return Err(Failure::new(exit::CONFIG, format!("{count} problem(s) in {}", problems.file)));
            }
            Err(Failure::new(exit::CONFIG, problems.to_string()))
        }
    }
}

/// Writes to standard output; a reader that has seen enough is no error.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn bad_json(problems: &Problems) -> serde_json::Value {
    json!({ "ok": false, "file": problems.file, "problems": problems.list })
}

/// The table of `--online`, below the settings.
fn online_text(checks: Option<&[Check]>) -> String {
    let Some(checks) = checks else { return String::new() };
    let (can, cannot) = ("ringest run would start", "ringest run would not start");
    format!("\n{}\n{}", render(checks, std::io::stdout().is_terminal()), verdict(checks, can, cannot))
}

fn good_json(file: &Path, checked: &Checked, checks: Option<&[Check]>) -> serde_json::Value {
    let Settings { gateway, journal, sources, sequence, deliver, limits: _, names: _ } = &checked.settings;
    let sources: Vec<_> = sources
        .iter()
        .map(|source| {
            let (kind, from) = origin(source);
            json!({ "name": source.name, "kind": kind, "from": from, "records": records(source) })
        })
        .collect();
    let exit_code = checks.and_then(online::first_problem).map_or(0, |problem| problem.exit_code);
    let mut report = json!({
        "ok": exit_code == 0,
        "file": file.display().to_string(),
        "name": gateway.name,
        "cores": gateway.cores,
        "state_dir": gateway.state_dir.display().to_string(),
        "admin": format!("http://{}/", gateway.admin),
        "durability": durability(journal.durability).0,
        "max_bytes": journal.max_bytes,
        "sources": sources,
        "sequence_url": sequence.as_ref().map(|sequence| show_url(&sequence.url)),
        "deliver_url": show_url(&deliver.url),
        "success": deliver.success,
        "example_body": example_body(&checked.settings),
        "notes": checked.notes,
    });
    if let Some(checks) = checks {
        report["online"] = json!({ "exit_code": exit_code, "checks": checks });
    }
    report
}

/// The settings as a short table, and the notes below it.
fn good_text(file: &Path, checked: &Checked, is_terminal: bool) -> String {
    let Settings { gateway, journal, sources, sequence, deliver, limits: _, names: _ } = &checked.settings;
    let cores: Vec<String> = gateway.cores.iter().map(usize::to_string).collect();
    let (level, survives) = durability(journal.durability);
    let when_full = match journal.when_full {
        WhenFull::Pause => "pauses intake when full",
        WhenFull::Reject => "rejects records when full",
    };
    let mut text = String::new();
    let mut line = |text_line: std::fmt::Arguments<'_>| writeln!(text, "{text_line}").expect("a string takes any text");
    line(format_args!("{} can be used\n", file.display()));
    line(format_args!("gateway      {}, CPU {}", gateway.name, cores.join(" ")));
    line(format_args!("state        {}", gateway.state_dir.display()));
    line(format_args!("admin        http://{}/", gateway.admin));
    line(format_args!("durability   {level}: {survives}"));
    let (most, window) = (show_size(journal.max_bytes), show_size(journal.window_bytes as u64));
    line(format_args!("journal      at most {most}, {window} a core in memory; {when_full}"));
    match sequence {
        Some(sequence) => {
            line(format_args!("id step      POST {} (id at {:?})", show_url(&sequence.url), sequence.id_at))
        }
        None => line(format_args!("id step      none")),
    }
    line(format_args!(
        "record step  POST {} (delivered at {})",
        show_url(&deliver.url),
        show_statuses(&deliver.success)
    ));
    line(format_args!("             {} connections a core, {} deep", deliver.connections, deliver.pipeline));
    line(format_args!("body         {}\n", example_body(&checked.settings)));

    let mut rows = vec![["SOURCE", "KIND", "FROM", "RECORDS"].map(str::to_owned)];
    rows.extend(sources.iter().map(|source| {
        let (kind, from) = origin(source);
        [source.name.clone(), kind.to_owned(), from, records(source)]
    }));
    text.push_str(&if is_terminal { narrow_table(rows) } else { table(&rows) });
    for note in &checked.notes {
        let place = note.place.map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
        write!(text, "\nnote: {}{place}: {note}", file.display()).expect("a string takes any text");
    }
    if !checked.notes.is_empty() {
        text.push('\n');
    }
    text
}

/// `201, 2xx`: all of a hundred have one name.
fn show_statuses(statuses: &[u16]) -> String {
    let is_whole = |hundred: u16| (hundred..hundred + 100).all(|status| statuses.contains(&status));
    let mut names: Vec<String> = Vec::new();
    for status in statuses {
        let hundred = status / 100 * 100;
        let name = if is_whole(hundred) { format!("{}xx", hundred / 100) } else { status.to_string() };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// Columns two blanks apart; the last one is not padded.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The same; where it is wider than 80 columns, the last column has a line of its own.
fn narrow_table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let whole = table(&rows);
    if whole.lines().all(|line| line.chars().count() <= 80) {
        return whole;
    }
    let (mut first, mut last) = (rows.clone(), rows);
    for row in &mut first {
        row[N - 1].clear();
    }
    for row in &mut last {
        row[..N - 1].iter_mut().for_each(String::clear);
    }
    let lines = table(&first);
    lines.lines().zip(last).map(|(line, row)| format!("{line}\n    {}\n", row[N - 1])).collect()
}

fn durability(level: Durability) -> (&'static str, &'static str) {
    match level {
        Durability::Memory => ("memory", "records are lost with the process"),
        Durability::Process => ("process", "accepted records survive kill -9, not a loss of power"),
        Durability::Power => ("power", "accepted records survive a loss of power"),
    }
}

/// Without its query, which may hold a secret.
fn show_url(url: &Url) -> String {
    let (path, query) = url.target.split_once('?').map_or((url.target.as_str(), ""), |(path, _)| (path, "?…"));
    format!("{}://{}{path}{query}", if url.secure { "https" } else { "http" }, url.host_header)
}

/// The kind's name and where the bytes come from.
fn origin(source: &Source) -> (&'static str, String) {
    match &source.kind {
        SourceKind::Serial(serial) => {
            let flow = match serial.flow {
                Flow::None => "",
                Flow::RtsCts => " rtscts",
                Flow::XonXoff => " xonxoff",
            };
            ("serial", format!("{} {}{flow}", serial.path.display(), show_line(serial.line)))
        }
        SourceKind::TcpListen { listen, lane, .. } => {
            let tls = if source.tls.is_some() { "TLS, " } else { "" };
            ("tcp_listen", format!("{listen} ({tls}order kept by {})", lane.word()))
        }
        SourceKind::TcpConnect { connect, .. } => {
            let tls = if source.connect_tls.is_some() { " (TLS)" } else { "" };
            let host = if connect.host.contains(':') { format!("[{}]", connect.host) } else { connect.host.clone() };
            ("tcp_connect", format!("{host}:{}{tls}", connect.port))
        }
        SourceKind::Http { listen, lane } => {
            let scheme = if source.tls.is_some() { "https" } else { "http" };
            let order = match lane {
                LaneKey::Source => String::new(),
                LaneKey::Connection | LaneKey::Address => format!(" (order kept by {})", lane.word()),
            };
            ("http", format!("{scheme}://{listen}/v1/records/SOURCE{order}"))
        }
    }
}

/// How the bytes become records, and the alarm.
fn records(source: &Source) -> String {
    let mut text = match &source.kind {
        SourceKind::Http { .. } => "one a body".to_owned(),
        _ => show_framing(&source.framing),
    };
    if let Some(silence) = source.silence_alarm {
        write!(text, ", alarm after {}", show_duration(silence)).expect("a string takes any text");
    }
    text
}

/// The body of an example record from the first source.
fn example_body(settings: &Settings) -> String {
    let first = settings.sources.first().expect("checked settings have a source");
    let source = match &first.kind {
        SourceKind::TcpListen { lane, names, .. } => {
            config::machine_name(&first.name, *lane, names, ([10, 0, 4, 20], 51_234).into())
        }
        SourceKind::Http { .. } => "SOURCE".to_owned(),
        SourceKind::Serial(_) | SourceKind::TcpConnect { .. } => first.name.clone(),
    };
    let template = Template::parse(&settings.deliver.body, settings.sequence.is_some()).expect("checked settings");
    let headers = KeptHeaders::encode(template.headers().map(|name| (name, &b"EXAMPLE"[..])));
    let fields = Fields {
        id: settings.sequence.is_some().then_some("1"),
        source: &source,
        source_name: &first.name,
        peer: source.contains('@').then_some(SocketAddr::from(([10, 0, 4, 20], 51_234))),
        decoding: Decoding::default(),
        flags: RecordFlags::default(),
        data: b"12.345 mm",
        received_wall_ns: 1_767_323_045_123_456_000,
        key: "EXAMPLE-KEY",
        machine_key: b"EXAMPLE-MACHINE-KEY",
        headers: KeptHeaders::of(&headers),
    };
    let mut body = Vec::new();
    template.render(&fields, &mut body);
    String::from_utf8(body).expect("text filled into text")
}
