//! Reads answers as they come in.

use super::head::{self, AnswerLine, AnswerLines, Head, RawHead};
use crate::http::chunked::{Chunk, ChunkFault, Decoder};
use crate::http::fields::{Framing, FramingFault, append_bounded};
use std::collections::VecDeque;

/// Longest head, in bytes, with its status line and empty line.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest body, in bytes.
const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Longest head that is compared with the next ones, in bytes.
const KNOWN_HEAD_BYTES_MAX: usize = 1024;
/// How many: one for each step of delivery.
const KNOWN_HEADS_MAX: usize = 3;
/// Interim answers (1xx) before one final answer.
const INTERIM_MAX: u8 = 16;

/// Why an answer cannot be read. The connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The bytes do not start with `HTTP/1.`
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    /// Not `HTTP/1.x NNN`, or a status that is none.
    #[error("the answer's status line is malformed")]
    StatusLine,
    /// A CR in the head that ends no line.
    #[error("a line of the answer's header holds a bare CR")]
    BareCr,
    /// A field's name or value is malformed.
    #[error("a header field of the answer is malformed")]
    Field,
    /// Too many fields.
    #[error("the answer has more than {max} header fields")]
    Fields {
        /// How many are allowed.
        max: usize,
    },
    /// Too many bytes before the empty line.
    #[error("the answer's header is over {max} bytes")]
    HeadBytes {
        /// How many are allowed.
        max: usize,
    },
    /// Too many bytes in the body.
    #[error("the answer's body is over {max} bytes")]
    BodyBytes {
        /// How many are allowed.
        max: u64,
    },
    /// The end of the answer cannot be told.
    #[error("the answer's end cannot be told: {0}")]
    Framing(#[from] FramingFault),
    /// A chunked body is malformed.
    #[error("the answer's body is malformed: {0}")]
    Chunks(#[from] ChunkFault),
    /// 101: nothing asked for another protocol.
    #[error("the answer switches protocols, which nothing asked for")]
    SwitchesProtocols,
    /// Too many 1xx.
    #[error("more than {max} interim answers")]
    Interim {
        /// How many are allowed.
        max: u8,
    },
    /// The connection ended before the final head was whole.
    #[error("the connection ended within the answer's header")]
    HeadCut,
    /// The connection ended before the body was whole.
    #[error("the connection ended within the answer's body")]
    BodyCut,
}

/// The next thing in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The final head is whole; interim answers are skipped.
    Head(Head),
    /// Bytes of the body, at least one.
    Body(&'a [u8]),
    /// The answer is over.
    End {
        /// Whether the next request may use the connection.
        reusable: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A head, or nothing yet.
    Head(AnswerLines),
    /// A body with so many bytes to come.
    Length { remaining: u64, reusable: bool },
    /// A chunked body.
    Chunked { decoder: Decoder, reusable: bool },
    /// A body that ends with the connection.
    UntilClose,
    /// After the last answer of the connection.
    Over,
    /// After an error, which stays.
    Failed(ResponseError),
}

/// A head, and what it says.
#[derive(Debug)]
struct KnownHead {
    bytes: Vec<u8>,
    raw: RawHead,
}

/// Reads the answers of one connection, one after the other.
///
/// Its owner gives it bytes until [`next`](Self::next) returns `None`, and knows which requests are unanswered: bytes that
/// come while it [`is_idle`](Self::is_idle) and none is, are no answer and end the connection.
#[derive(Debug)]
pub struct ResponseReader {
    /// A head that came in pieces.
    buffer: Vec<u8>,
    /// Heads that came in one: mostly, the next one is the same as one of them.
    known: VecDeque<KnownHead>,
    state: State,
    body_bytes: u64,
    interim: u8,
    /// Where the last answer leads, if it is a redirect.
    location: Vec<u8>,
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseReader {
    /// Before the first answer of a connection.
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            known: VecDeque::new(),
            state: State::Head(AnswerLines::default()),
            body_bytes: 0,
            interim: 0,
            location: Vec::new(),
        }
    }

    /// The Location of the last answer, if its status is one of 300 to 399: at most 2,000 bytes of it.
    pub fn location(&self) -> &[u8] {
        &self.location
    }

    /// Takes bytes from the front of `input` up to the next event; `None` when it needs more. Bytes behind an
    /// [`Event::End`] stay in `input`, for good if the connection is not reusable.
    ///
    /// # Errors
    /// If the bytes are no answer, or one without a certain end. The error stays.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, ResponseError> {
        let event = match self.state {
            State::Head(scan) => self.read_head(scan, input),
            State::Length { remaining, reusable } => self.read_length(remaining, reusable, input),
            State::Chunked { decoder, reusable } => self.read_chunks(decoder, reusable, input),
            State::UntilClose if input.is_empty() => Ok(None),
            State::UntilClose => self.take_body(std::mem::take(input)),
            State::Over => Ok(None),
            State::Failed(error) => Err(error),
        };
        event.inspect_err(|error| self.fail(*error))
    }

    /// The connection ended. An answer whose body runs to the close is over; one that is not whole is an error; between
    /// answers there is nothing to say.
    ///
    /// # Errors
    /// If a head or body is cut short.
    pub fn handle_eof(&mut self) -> Result<Option<Event<'static>>, ResponseError> {
        let error = match self.state {
            State::Head(_) if self.is_idle() => {
                self.state = State::Over;
                return Ok(None);
            }
            State::Over => return Ok(None),
            State::UntilClose => {
                self.state = State::Over;
                return Ok(Some(Event::End { reusable: false }));
            }
            State::Length { remaining: 0, .. } => {
                self.state = State::Over;
                return Ok(Some(Event::End { reusable: false }));
            }
            State::Head(_) => ResponseError::HeadCut,
            State::Length { .. } | State::Chunked { .. } => ResponseError::BodyCut,
            State::Failed(error) => error,
        };
        self.fail(error);
        Err(error)
    }

    /// Whether it stands between two answers, with nothing of the next one seen, not even an interim one.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head(_)) && self.buffer.is_empty() && self.interim == 0
    }

    /// Memory held beyond its own size, in bytes.
    pub fn held_bytes(&self) -> usize {
        let known: usize = self.known.iter().map(|known| known.bytes.capacity()).sum();
        self.buffer.capacity() + self.known.capacity() * size_of::<KnownHead>() + known
    }

    fn fail(&mut self, error: ResponseError) {
        self.buffer = Vec::new();
        self.known = VecDeque::new();
        self.state = State::Failed(error);
    }

    /// Reads heads until a final one is whole.
    fn read_head<'a>(
        &mut self,
        mut scan: AnswerLines,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ResponseError> {
        loop {
            let Some(raw) = self.take_raw_head(scan, input)? else { return Ok(None) };
            scan = AnswerLines::default();
            self.state = State::Head(scan);
            match raw.status {
                101 => return Err(ResponseError::SwitchesProtocols),
                100..=199 if self.interim == INTERIM_MAX => return Err(ResponseError::Interim { max: INTERIM_MAX }),
                100..=199 => self.interim += 1,
                _ => return self.start_answer(&raw).map(Some),
            }
        }
    }

    fn start_answer(&mut self, raw: &RawHead) -> Result<Event<'static>, ResponseError> {
        let (head, framing) = raw.resolve()?;
        let reusable = head.keep_alive;
        self.body_bytes = 0;
        self.state = match framing {
            Framing::Absent => State::UntilClose,
            Framing::Length(remaining) => State::Length { remaining, reusable },
            Framing::Chunked => State::Chunked { decoder: Decoder::new(), reusable },
        };
        Ok(Event::Head(head))
    }

    /// The next head, in place if it lies whole in `input`.
    fn take_raw_head(&mut self, scan: AnswerLines, input: &mut &[u8]) -> Result<Option<RawHead>, ResponseError> {
        if input.is_empty() {
            return Ok(None);
        }
        let held = self.buffer.len();
        let window = &input[..input.len().min(HEAD_BYTES_MAX - held)];
        if held == 0 {
            if let Some(known) = self.known.iter().find(|known| window.starts_with(&known.bytes)) {
                *input = &input[known.bytes.len()..];
                return Ok(Some(known.raw));
            }
            if let Some((raw, end)) = head::parse_fast(window) {
                self.learn(&window[..end], raw);
                *input = &input[end..];
                return Ok(Some(raw));
            }
            return match find_end(scan, window)? {
                HeadEnd::Whole { end } => {
                    let raw = head::parse_slow(&window[..end], &mut self.location)?;
                    *input = &input[end..];
                    Ok(Some(raw))
                }
                HeadEnd::More(scan) => {
                    append_bounded(&mut self.buffer, window, HEAD_BYTES_MAX);
                    *input = &[];
                    self.state = State::Head(scan);
                    Ok(None)
                }
            };
        }
        append_bounded(&mut self.buffer, window, HEAD_BYTES_MAX);
        match find_end(scan, &self.buffer)? {
            HeadEnd::Whole { end } => {
                let bytes = std::mem::take(&mut self.buffer);
                *input = &input[end - held..];
                head::parse_slow(&bytes[..end], &mut self.location).map(Some)
            }
            HeadEnd::More(scan) => {
                *input = &[];
                self.state = State::Head(scan);
                Ok(None)
            }
        }
    }

    /// Keeps a head in place of the oldest one.
    fn learn(&mut self, head: &[u8], raw: RawHead) {
        if head.len() > KNOWN_HEAD_BYTES_MAX || raw.status < 200 {
            return;
        }
        let oldest = if self.known.len() == KNOWN_HEADS_MAX { self.known.pop_front() } else { None };
        let mut bytes = oldest.map_or_else(Vec::new, |oldest| oldest.bytes);
        bytes.clear();
        bytes.extend_from_slice(head);
        self.known.push_back(KnownHead { bytes, raw });
    }

    fn read_length<'a>(
        &mut self,
        remaining: u64,
        reusable: bool,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ResponseError> {
        if remaining == 0 {
            return Ok(Some(self.end(reusable)));
        }
        if self.body_bytes + remaining > BODY_BYTES_MAX {
            return Err(ResponseError::BodyBytes { max: BODY_BYTES_MAX });
        }
        if input.is_empty() {
            return Ok(None);
        }
        let (body, rest) = input.split_at(input.len().min(remaining as usize));
        *input = rest;
        self.state = State::Length { remaining: remaining - body.len() as u64, reusable };
        self.take_body(body)
    }

    fn read_chunks<'a>(
        &mut self,
        mut decoder: Decoder,
        reusable: bool,
        input: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ResponseError> {
        let chunk = decoder.next(input)?;
        self.state = State::Chunked { decoder, reusable };
        match chunk {
            Chunk::More => Ok(None),
            Chunk::Data(body) => self.take_body(body),
            Chunk::End => Ok(Some(self.end(reusable))),
        }
    }

    /// Counts bytes of the body against its bound.
    fn take_body<'a>(&mut self, body: &'a [u8]) -> Result<Option<Event<'a>>, ResponseError> {
        self.body_bytes += body.len() as u64;
        if self.body_bytes > BODY_BYTES_MAX {
            return Err(ResponseError::BodyBytes { max: BODY_BYTES_MAX });
        }
        Ok(Some(Event::Body(body)))
    }

    fn end(&mut self, reusable: bool) -> Event<'static> {
        self.interim = 0;
        self.state = if reusable { State::Head(AnswerLines::default()) } else { State::Over };
        Event::End { reusable }
    }
}

/// Where a head ends.
enum HeadEnd {
    More(AnswerLines),
    Whole { end: usize },
}

/// Looks for a head's end in `window`, the first bytes of an answer, at most [`HEAD_BYTES_MAX`]. What is found wrong depends
/// on the bytes alone, not on the pieces they came in.
fn find_end(mut scan: AnswerLines, window: &[u8]) -> Result<HeadEnd, ResponseError> {
    if !head::may_start(window) {
        return Err(ResponseError::NotHttp);
    }
    loop {
        match scan.next(window) {
            AnswerLine::Whole { start: 0, end, .. } => {
                head::status_line(&window[..end])?;
            }
            AnswerLine::Whole { start, end, next } if start == end => return Ok(HeadEnd::Whole { end: next }),
            AnswerLine::Whole { .. } => {}
            AnswerLine::BareCr => return Err(ResponseError::BareCr),
            AnswerLine::More if window.len() >= HEAD_BYTES_MAX => {
                return Err(ResponseError::HeadBytes { max: HEAD_BYTES_MAX });
            }
            AnswerLine::More => return Ok(HeadEnd::More(scan)),
        }
    }
}
