//! `ringest check --online --send-test`: one marked record is posted as a gateway would post it, by
//! an ordinary socket, and what came back is told.

use super::checks::{Check, ok, warning};
use super::exit;
use super::handshake::{HandshakeError, Sealed, handshake};
use crate::config::{Authority, BatchForm, Deliver, Settings, Url};
use crate::delivery::route::{Reaction, reaction};
use crate::delivery::template::{Fields, Template};
use crate::delivery::{Answer, Said, token_at, why_no_token};
use crate::ground::decoding::Decoding;
use crate::ground::text::rfc3339;
use crate::ground::{KeptHeaders, RecordFlags};
use crate::http::client::{Event, MediaType, RequestHead, ResponseError, ResponseReader};
use crate::tls::TlsError;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant, SystemTime};

/// What the record's machine is called.
const SOURCE: &str = "ringest-test";
/// Of an answer's body, so much is read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] ResponseError),
    #[error("the connection ended before a whole answer")]
    Ended,
    #[error("no whole answer within {0:?}")]
    Late(Duration),
}

/// Sends it; the outcome is a warning where a gateway's record would not count as delivered.
pub(super) fn send_test(settings: &Settings) -> Check {
    let wall_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let key = format!("ringest-test-{wall_ns}");
    let data = format!("RINGEST TEST {}: sent by ringest check --send-test, no measurement", rfc3339(wall_ns));
    let deliver = &settings.deliver;
    let id = match ask_id(settings, &key) {
        Ok(id) => id,
        Err(check) => return *check,
    };
    let fields = Fields {
        id: id.as_deref(),
        source: SOURCE,
        source_name: SOURCE,
        peer: None,
        decoding: Decoding::default(),
        flags: RecordFlags::default(),
        data: data.as_bytes(),
        received_wall_ns: wall_ns,
        key: &key,
        machine_key: b"",
        headers: KeptHeaders::default(),
    };
    let template = Template::parse(&deliver.body, settings.sequence.is_some()).expect("settings are checked");
    let mut body = Vec::new();
    let around = match deliver.batch.as_ref().map(|batch| &batch.form) {
        Some(BatchForm::Array { before, behind }) => (format!("{before}["), format!("]{behind}")),
        Some(BatchForm::Ndjson) => (String::new(), "\n".to_owned()),
        None => Default::default(),
    };
    body.extend_from_slice(around.0.as_bytes());
    template.render(&fields, &mut body);
    body.extend_from_slice(around.1.as_bytes());
    match post(settings, &deliver.url, &deliver.content_type, (&key, ""), &body) {
        Ok((status, answer)) => judge(deliver, status, &answer, id.as_deref()),
        Err(fault) => unanswered("a test record", &deliver.url, &fault),
    }
}

/// The id step; no id where there is none.
fn ask_id(settings: &Settings, key: &str) -> Result<Option<String>, Box<Check>> {
    let Some(sequence) = &settings.sequence else { return Ok(None) };
    let body = if sequence.lease > 1 { "{\"count\": 1}" } else { "{}" };
    let answered = post(settings, &sequence.url, "application/json", (key, "-seq"), body.as_bytes());
    let (status, answer) = answered.map_err(|fault| Box::new(unanswered("the id step", &sequence.url, &fault)))?;
    if !matches!(status, 200..=299) {
        let found = format!("the id step answered {status}{}: no record was sent", Said::of(&answer));
        return Err(Box::new(failed(found, advice(status, "sequence"))));
    }
    token_at(&answer.body, &sequence.id_at).map(|id| Some(id.into())).ok_or_else(|| {
        let why = why_no_token(&answer.body, &sequence.id_at);
        let found = format!("the id step answered {status}{}, but {why}: no record was sent", Said::of(&answer));
        Box::new(failed(found, why.advice().to_owned()))
    })
}

fn judge(deliver: &Deliver, status: u16, answer: &Answer, id: Option<&str>) -> Check {
    let said = Said::of(answer);
    let found = format!("answered {status}{said}");
    match reaction(status, &deliver.success, &deliver.answers.given) {
        Reaction::Done => {
            let wanted = deliver.answer_type.as_ref();
            if let Some(wanted) = wanted.filter(|wanted| MediaType::parse(wanted.as_bytes()) != answer.media_type) {
                let remedy = format!("correct url, or answer_type = \"{wanted}\", in [deliver]");
                return failed(
                    format!("{found}, but its type is not {wanted}: it does not count as delivered"),
                    remedy,
                );
            }
            if let Some(pointer) = &deliver.answer_id_at
                && token_at(&answer.body, pointer).as_deref() != id
            {
                let found = format!("{found}, but the record's id is not at {pointer}: it does not count as delivered");
                return failed(found, "correct url, or answer_id_at, in [deliver]".to_owned());
            }
            ok("test record", format!("{found}: it counts as delivered. The service has a record of {SOURCE} now"))
        }
        Reaction::Unclear => {
            let mut list: Vec<u16> = deliver.success.iter().copied().chain([status]).collect();
            list.sort_unstable();
            let found = format!("{found}, which success does not have: it would be sent again for ever");
            failed(found, format!("if the record has arrived, write success = {list:?} in [deliver]"))
        }
        Reaction::Park => {
            let found = format!("{found}: the service refuses this record; a machine's would be kept aside");
            failed(found, "see what the answer asks for, and change body in [deliver]".to_owned())
        }
        Reaction::Confirm => failed(
            format!("{found}: the service would be asked whether it has the record"),
            "see to [deliver.confirm], or what the answer complains of".to_owned(),
        ),
        Reaction::Pause => failed(format!("{found}: all records would wait"), advice(status, "deliver")),
        Reaction::Retry => failed(
            format!("{found}: it would be sent again"),
            "see to the service: this is its own failure, or its way to say that it is busy".to_owned(),
        ),
    }
}

fn advice(status: u16, section: &str) -> String {
    match status {
        300..=399 => format!("a redirect is never followed: put the new address into url in [{section}]"),
        401 | 403 | 407 => "see to the credentials in [deliver.headers]".to_owned(),
        404 | 405 | 410 => format!("see whether url in [{section}] is the right one"),
        _ => "see to the service".to_owned(),
    }
}

fn failed(found: String, remedy: String) -> Check {
    Check { exit_code: exit::NOT_OK, ..warning("test record", found, remedy) }
}

fn unanswered(what: &str, url: &Url, fault: &Fault) -> Check {
    let Authority { host, port } = &url.authority;
    failed(
        format!("{what} for {host}:{port}: there is no answer: {fault}"),
        "start the service, correct the URL, or open the firewall".to_owned(),
    )
}

/// One POST on a connection of its own.
fn post(
    settings: &Settings,
    url: &Url,
    content_type: &str,
    (key, suffix): (&str, &str),
    body: &[u8],
) -> Result<(u16, Answer), Fault> {
    let deliver = &settings.deliver;
    let head = RequestHead::post(&url.target, &url.host_header, content_type, &deliver.headers);
    let mut request = Vec::new();
    head.expect("settings are checked").write(key, suffix, body, &mut request);
    let mut wire = Wire::connect(url, deliver)?;
    let until = Instant::now() + deliver.timeout;
    wire.send(&request)?;
    let mut reader = ResponseReader::new();
    let (mut status, mut answer) = (0, Answer::default());
    loop {
        let bytes = wire.receive(until).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::Late(deliver.timeout),
            _ => Fault::Io(error),
        })?;
        let is_over = bytes.is_empty();
        let mut input = &bytes[..];
        loop {
            let event = if is_over { reader.handle_eof()? } else { reader.next(&mut input)? };
            match event {
                Some(Event::Head(head)) => {
                    (status, answer.media_type) = (head.status, head.content_type);
                    answer.location = reader.location().to_vec();
                }
                Some(Event::Body(part)) => {
                    let room = BODY_BYTES_MAX - answer.body.len().min(BODY_BYTES_MAX);
                    answer.body.extend_from_slice(&part[..part.len().min(room)]);
                }
                Some(Event::End { .. }) => return Ok((status, answer)),
                None if is_over => return Err(Fault::Ended),
                None => break,
            }
        }
    }
}

/// A connection to the API that waits.
enum Wire {
    Plain(TcpStream),
    Sealed(Box<Sealed>),
}

impl Wire {
    fn connect(url: &Url, deliver: &Deliver) -> Result<Self, Fault> {
        let limit = deliver.connect_timeout;
        let mut last = io::Error::other("the name has no address");
        for address in (url.authority.host.as_str(), url.authority.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(limit))?;
                    let Some(tls) = deliver.tls.as_ref().filter(|_| url.secure) else { return Ok(Self::Plain(stream)) };
                    return Ok(Self::Sealed(Box::new(handshake(stream, &url.authority, tls, limit)?)));
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes)?,
            Self::Sealed(sealed) => {
                let mut out = Vec::new();
                sealed.session.send(bytes, &mut out)?;
                sealed.stream.write_all(&out)?;
            }
        }
        Ok(())
    }

    /// Some bytes; none at the end.
    fn receive(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            if let Self::Sealed(sealed) = self
                && !sealed.plain.is_empty()
            {
                return Ok(std::mem::take(&mut sealed.plain));
            }
            let stream = match self {
                Self::Plain(stream) => stream,
                Self::Sealed(sealed) => &mut sealed.stream,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into()); // it may send without an end
            }
            stream.set_read_timeout(Some(left))?;
            let count = match stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            match self {
                Self::Plain(_) => {
                    bytes.truncate(count);
                    return Ok(bytes);
                }
                Self::Sealed(_) if count == 0 => return Ok(Vec::new()),
                Self::Sealed(sealed) => {
                    let mut out = Vec::new();
                    let Sealed { session, plain, stream } = &mut **sealed;
                    session.receive(&mut bytes[..count], plain, &mut out).map_err(io::Error::other)?;
                    stream.write_all(&out)?;
                }
            }
        }
    }
}
