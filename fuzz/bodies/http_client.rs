//! Any bytes as the API's answers: any pieces give the same answers and errors as the whole, nothing grows beyond its limit,
//! every answer that is taken ends where a strict reader says it ends, and written anew it is the same.

use super::http_reference::{Side, message};
use super::input::{Input, Seen, pieces};
use ringest::http::client::{Event, Head, ResponseError, ResponseReader};

/// Longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest body, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Streams up to here are also read byte by byte.
const BYTEWISE_BYTES_MAX: usize = 70_000;

#[derive(Clone, PartialEq, Eq)]
struct Answer {
    head: Head,
    body: Vec<u8>,
    /// Where it ended, and whether the connection can be used again; `None` as long as it is not over.
    end: Option<(usize, bool)>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { head, body, end } = self;
        let shown = body[..body.len().min(100)].escape_ascii();
        write!(f, "{head:?} with {} B of body: \"{shown}\", end: {end:?}", body.len())
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    answers: Vec<Answer>,
    error: Option<ResponseError>,
    idle: bool,
}

impl Outcome {
    fn fail(&mut self, error: ResponseError) {
        self.error = Some(error);
        // Of a body that is refused for its size, as much is passed on as came before the piece that was too much.
        if let (Some(last), ResponseError::BodyBytes { .. }) = (self.answers.last_mut(), error) {
            last.body.clear();
        }
    }

    fn take(&mut self, event: Event<'_>, at: usize) {
        match event {
            Event::Head(head) => {
                assert!(self.answers.last().is_none_or(|last| last.end.is_some_and(|(_, reusable)| reusable)));
                assert!((200..600).contains(&head.status));
                self.answers.push(Answer { head, body: Vec::new(), end: None });
            }
            Event::Body(bytes) => {
                let body = &mut self.answers.last_mut().expect("a head came first").body;
                assert!(!bytes.is_empty());
                body.extend_from_slice(bytes);
                assert!(body.len() <= BODY_BYTES_MAX);
            }
            Event::End { reusable } => {
                let answer = self.answers.last_mut().expect("a head came first");
                assert!(answer.end.replace((at, reusable)).is_none(), "an answer ends once");
            }
        }
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, eof: bool) -> Outcome {
    let mut reader = ResponseReader::new();
    let mut outcome = Outcome::default();
    let mut before = 0;
    'pieces: for piece in pieces {
        let mut input = piece;
        loop {
            match reader.next(&mut input) {
                Ok(Some(event)) => outcome.take(event, before + piece.len() - input.len()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.next(&mut b"HTTP/1.1 ".as_slice()), Err(error), "an error stays");
                    assert_eq!((reader.handle_eof(), reader.held_bytes()), (Err(error), 0));
                    outcome.fail(error);
                    break 'pieces;
                }
            }
            // A head that comes in pieces, and three short ones to compare with.
            assert!(reader.held_bytes() <= HEAD_BYTES_MAX + 4096, "{} bytes held", reader.held_bytes());
        }
        let over = outcome.answers.last().and_then(|last| last.end).is_some_and(|(_, reusable)| !reusable);
        assert!(input.is_empty() || over, "all is taken but what is behind the last answer");
        before += piece.len();
    }
    outcome.idle = reader.is_idle();
    if eof && outcome.error.is_none() {
        match reader.handle_eof() {
            Ok(event) => event.into_iter().for_each(|event| outcome.take(event, before)),
            Err(error) => outcome.fail(error),
        }
    }
    outcome
}

/// Each answer ends where the strict reader says that one ends, and is that one.
fn check_boundaries(stream: &[u8], answers: &[Answer]) {
    let mut at = 0;
    for answer in answers {
        let Some((end, reusable)) = answer.end else { return };
        let message = loop {
            let message = message(stream, at, Side::Answers).expect("only what has one reading is taken");
            at = message.end;
            if message.line[9] != b'1' {
                break message;
            }
        };
        assert_eq!((message.end, &message.body), (end, &answer.body));
        assert_eq!(&message.line[9..12], answer.head.status.to_string().as_bytes());
        assert!(!(reusable && (message.until_close || asks_to_close(&message.all("connection")))));
        assert!(!reusable || answer.head.keep_alive);
    }
}

fn asks_to_close(connection: &[&[u8]]) -> bool {
    let mut options = connection.iter().flat_map(|value| value.split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// The same answer in its plainest form.
fn encode(answer: &Answer) -> Vec<u8> {
    let head = format!("HTTP/1.1 {} \r\nContent-Length: {}\r\n\r\n", answer.head.status, answer.body.len());
    [head.as_bytes(), &answer.body].concat()
}

/// Bits (0 expand, 1 the connection ends), cuts, the stream.
pub fn run(data: &[u8], seen: &mut Seen) {
    let mut input = Input::new(data);
    let bits = input.byte();
    let cuts = input.cuts();
    let stream = input.stream(bits & 1 != 0);
    let eof = bits & 2 != 0;

    let whole = read([&stream[..]], eof);
    assert_eq!(read(pieces(&stream, cuts), eof), whole, "in pieces of {cuts:?}");
    if stream.len() <= BYTEWISE_BYTES_MAX {
        assert_eq!(read(stream.chunks(1), eof), whole, "byte by byte");
    }
    check_boundaries(&stream, &whole.answers);

    let over = whole.answers.iter().filter(|answer| answer.end.is_some());
    let plain: Vec<&Answer> = over.filter(|answer| !matches!(answer.head.status, 204 | 304)).collect();
    let again = read([&plain.iter().flat_map(|answer| encode(answer)).collect::<Vec<u8>>()[..]], false);
    assert_eq!((again.answers.len(), again.error, again.idle), (plain.len(), None, true));
    for (again, before) in again.answers.iter().zip(&plain) {
        assert_eq!((again.head.status, &again.body), (before.head.status, &before.body));
    }

    for answer in &whole.answers {
        seen.count("answer", answer.end.is_some().into());
        seen.count("last answer", answer.end.is_some_and(|(_, reusable)| !reusable).into());
        seen.count("answer with a body", (!answer.body.is_empty()).into());
        seen.count("retry-after", answer.head.retry_after.is_some().into());
    }
    if let Some(error) = whole.error {
        seen.count(
            match error {
                ResponseError::NotHttp => "not HTTP",
                ResponseError::StatusLine => "status line",
                ResponseError::BareCr => "bare line end",
                ResponseError::Field => "field",
                ResponseError::Fields { .. } => "fields",
                ResponseError::HeadBytes { .. } => "head bytes",
                ResponseError::BodyBytes { .. } => "body bytes",
                ResponseError::Framing(_) => "framing",
                ResponseError::Chunks(_) => "chunks",
                ResponseError::SwitchesProtocols => "switches protocols",
                ResponseError::Interim { .. } => "interim",
                ResponseError::HeadCut => "head cut",
                ResponseError::BodyCut => "body cut",
            },
            1,
        );
    }
}
