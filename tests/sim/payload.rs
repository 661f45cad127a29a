//! Records: how machines make them, how the model cuts a byte stream into them, and how the receiver reads them back
//! from the bodies that the shard rendered.

use super::forms::{is_of_batches, is_of_http};
use ringest::framing;
use ringest::framing::{Checksum, ChecksumKind, CrcName, Framing, FramingKind, LengthCounts, NumberForm, Oversized};
use ringest::ground::decoding::Decoding;

/// What a machine's records are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Every byte value but the last one of the delimiter.
    Bytes,
    /// Valid UTF-8 with control characters, quotes and characters of up to four bytes.
    Text,
    /// Printable ASCII.
    Ascii,
}

/// Longest head that [`make`] puts before the filling.
pub const HEAD_BYTES: usize = 24;

/// A record of exactly `bytes` bytes (fewer for [`Alphabet::Text`] where a character does not fit): machine, sequence and
/// a checksum, then filling. Shorter ones than the head are filling only.
pub fn make(
    rng: &mut fastrand::Rng,
    machine: usize,
    sequence: u64,
    bytes: usize,
    alphabet: Alphabet,
    end: Option<u8>,
) -> Vec<u8> {
    if bytes <= HEAD_BYTES {
        return (0..bytes).map(|_| rng.alphanumeric() as u8).collect();
    }
    let mut filling = Vec::with_capacity(bytes - HEAD_BYTES);
    while filling.len() < bytes - HEAD_BYTES - 1 {
        match alphabet {
            Alphabet::Bytes => {
                let byte = if rng.u8(..8) == 0 { 0xFF } else { rng.u8(..) };
                filling.push(if Some(byte) == end { b'.' } else { byte });
            }
            Alphabet::Ascii => filling.push(rng.u8(b' '..=b'~')),
            Alphabet::Text => {
                let char = *rng.choice(&['a', 'é', '"', '\\', '\u{1}', '\t', '€', '𝄞', '\u{7f}', '/']).expect("some");
                filling.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    filling.push(b'!'); // no white space at the end: trimming must not change the record
    let head = format!("{machine:03}:{sequence:08}:{:08x}:..", crc32c::crc32c(&filling));
    debug_assert_eq!(head.len(), HEAD_BYTES);
    let mut record = head.into_bytes();
    record.extend(filling);
    record
}

/// A record that is a string of JSON, as it stands in an array: the same between quotes, with what a
/// careless reader takes for its end.
pub fn make_string(rng: &mut fastrand::Rng, machine: usize, sequence: u64, bytes: usize) -> Vec<u8> {
    const PARTS: [&str; 12] = ["a", "é", "€", "𝄞", "/", " ", "],[", "},{", ":", "\\\"", "\\\\", "\\u00e9"];
    let mut filling = String::new();
    while HEAD_BYTES + filling.len() + 9 < bytes {
        filling.push_str(rng.choice(PARTS).expect("some"));
    }
    filling.push('!');
    let head = format!("{machine:03}:{sequence:08}:{:08x}:..", crc32c::crc32c(filling.as_bytes()));
    format!("\"{head}{filling}\"").into_bytes()
}

/// Machine, sequence and whether the checksum is right, of a record that has a head.
pub fn inspect(record: &[u8]) -> Option<(usize, u64, bool)> {
    let record = record.strip_prefix(b"\"").and_then(|record| record.strip_suffix(b"\"")).unwrap_or(record);
    let head = std::str::from_utf8(record.get(..HEAD_BYTES)?).ok()?;
    let mut parts = head.split(':');
    let machine = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    let sum = u32::from_str_radix(parts.next()?, 16).ok()?;
    (parts.next()? == "..").then(|| (machine, sequence, sum == crc32c::crc32c(&record[HEAD_BYTES..])))
}

/// A record as its machine sends it.
pub fn encode(framing: &Framing, record: &[u8]) -> Vec<u8> {
    let mut frame = framing.starts.concat();
    let start = frame.len();
    let sum_bytes = framing.checksum.as_ref().map_or(0, Checksum::bytes);
    if let FramingKind::Length(field) = &framing.kind {
        let more = match field.counts {
            LengthCounts::Payload => 0,
            LengthCounts::Rest => sum_bytes,
            LengthCounts::Message => field.offset + field.bytes + sum_bytes,
        };
        frame.resize(field.offset, b'h');
        let number = ((record.len() + more) as u32).to_be_bytes();
        let mut number = number[4 - field.bytes..].to_vec();
        if field.form == NumberForm::Little {
            number.reverse();
        }
        frame.extend(number);
    }
    frame.extend(record);
    let sum = sum(&framing.checksum, &frame[start..]);
    if let FramingKind::Delimiter { ends } = &framing.kind {
        frame.extend(&ends[0]);
    }
    frame.extend(sum);
    frame
}

/// A checksum as it is on the line, computed the plainest way.
fn sum(checksum: &Option<Checksum>, bytes: &[u8]) -> Vec<u8> {
    let crc = |start: u32, polynomial: u32| {
        bytes.iter().fold(start, |state, byte| {
            (0..8).fold(state ^ u32::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * polynomial))
        })
    };
    match checksum.as_ref().map(|checksum| checksum.kind) {
        None => Vec::new(),
        Some(ChecksumKind::Sum8) => vec![bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))],
        Some(ChecksumKind::Xor8) => vec![bytes.iter().fold(0, |sum, byte| sum ^ byte)],
        Some(ChecksumKind::Crc(CrcName::Crc16Modbus)) => (crc(0xFFFF, 0xA001) as u16).to_le_bytes().to_vec(),
        Some(ChecksumKind::Crc(CrcName::Crc32IsoHdlc)) => (!crc(u32::MAX, 0xEDB8_8320)).to_le_bytes().to_vec(),
        Some(kind) => panic!("no simulated machine sends {kind:?}"),
    }
}

/// What the shard is to make of a stream. Delimiters are modelled here; of other framings the crate's own framer says it, which
/// is held against a model elsewhere: here it is about what the shard does with it.
pub enum Frames {
    Model(Framer),
    Own(Box<Framing>, framing::Framer),
}

impl Frames {
    /// `is_joined`: it begins in the middle of a record.
    pub fn new(framing: &Framing, is_joined: bool) -> Self {
        let plain = framing.starts.is_empty() && framing.checksum.is_none() && framing.idle.is_none();
        match &framing.kind {
            FramingKind::Delimiter { .. } if plain => Self::Model(Framer { is_joined, ..Framer::new(framing) }),
            _ => {
                assert!(!is_joined, "machines that are joined inside end records by bytes");
                Self::Own(Box::new(framing.clone()), framing::Framer::new())
            }
        }
    }

    /// Adds bytes that came at `now_ns`; without any, time has passed. Calls `each` for each frame.
    pub fn push(&mut self, now_ns: u64, bytes: &[u8], mut each: impl FnMut(Frame)) {
        match self {
            Self::Model(framer) => framer.push(bytes, each),
            Self::Own(framing, framer) => {
                let mut input = bytes;
                while let Some(framed) = framer.next(framing, now_ns, &mut input) {
                    Frame::of(framed).into_iter().for_each(&mut each);
                }
            }
        }
    }

    /// The stream has ended: what becomes of an unfinished record, and of those that it hides.
    pub fn finish(&mut self) -> Vec<Frame> {
        match self {
            Self::Model(framer) => framer.is_unfinished().then_some(Frame::Rejected).into_iter().collect(),
            Self::Own(framing, framer) => {
                let mut frames = Vec::new();
                while let Some(framed) = framer.finish(framing) {
                    let framed = if framing.checksum.is_some() { framed } else { framed.cut_off() };
                    frames.extend(Frame::of(framed));
                }
                frames
            }
        }
    }
}

/// The model of framing by a delimiter: whole streams in memory, the plainest way.
pub struct Framer {
    end: Vec<u8>,
    trim: bool,
    max_bytes: usize,
    oversized: Oversized,
    unfinished: Vec<u8>,
    /// The frame was too long and is dealt with.
    done_with: bool,
    /// What ends next had begun before the stream did.
    is_joined: bool,
}

/// What the model makes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Record(Vec<u8>),
    /// Longer than allowed and dropped, unfinished, or with another checksum than its own.
    Rejected,
}

impl Frame {
    fn of(framed: framing::Framed<'_>) -> Option<Self> {
        match framed {
            framing::Framed::Record { bytes, .. } => Some(Self::Record(bytes.to_vec())),
            framing::Framed::Rejected { .. } => Some(Self::Rejected),
            framing::Framed::Empty | framing::Framed::Garbage { .. } => None,
        }
    }
}

impl Framer {
    pub fn new(framing: &Framing) -> Self {
        let FramingKind::Delimiter { ends } = &framing.kind else {
            panic!("the simulated machines end records by bytes")
        };
        Self {
            end: ends[0].clone(),
            trim: framing.trim,
            max_bytes: framing.max_bytes,
            oversized: framing.oversized,
            unfinished: Vec::new(),
            done_with: false,
            is_joined: false,
        }
    }

    /// Adds bytes; calls `each` for each frame that they end.
    pub fn push(&mut self, bytes: &[u8], mut tell: impl FnMut(Frame)) {
        let mut is_joined = std::mem::take(&mut self.is_joined);
        let mut each = |frame| tell(if std::mem::take(&mut is_joined) { Frame::Rejected } else { frame });
        for &byte in bytes {
            self.unfinished.push(byte);
            if self.unfinished.ends_with(&self.end) {
                let frame = &self.unfinished[..self.unfinished.len() - self.end.len()];
                if let Some(frame) = self.judge(frame).filter(|_| !self.done_with) {
                    each(frame);
                }
                self.unfinished.clear();
                self.done_with = false;
            } else if !self.trim && !self.done_with && self.unfinished.len() >= self.max_bytes + self.end.len() {
                // Too long whatever comes: its last bytes, fewer than the delimiter has, may still be the delimiter's.
                self.done_with = true;
                each(self.judge(&self.unfinished).expect("too long"));
            }
        }
        self.is_joined = is_joined;
    }

    /// Whether the stream ends inside a record that counts.
    pub fn is_unfinished(&self) -> bool {
        !self.done_with && self.judge(&self.unfinished).is_some()
    }

    fn judge(&self, frame: &[u8]) -> Option<Frame> {
        let mut frame = frame;
        if self.trim {
            frame = frame.strip_prefix(b"\n").unwrap_or(frame);
            frame = frame.trim_ascii_end();
        }
        if frame.len() > self.max_bytes {
            return Some(match self.oversized {
                Oversized::Cut => Frame::Record(frame[..self.max_bytes].to_vec()),
                Oversized::Drop => Frame::Rejected,
            });
        }
        (!frame.is_empty()).then(|| Frame::Record(frame.to_vec()))
    }
}

/// How the records of a lane, or of a source, become text: every third stream speaks Big5.
pub fn decoding_of(name: &str) -> Decoding {
    let (kind, rest) = name.split_once('-').unwrap_or(("", ""));
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    let is_big5 = ["p", "t", "c"].contains(&kind) && digits.parse().is_ok_and(|number: u32| number % 3 == 1);
    let label = if is_big5 { "big5" } else { "utf-8" };
    Decoding { encoding: Decoding::encoding_of(label).expect("a label"), ..Decoding::default() }
}

/// How a world's template shows a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Json,
    Hex,
    Base64,
    Raw,
}

/// A body, read back.
#[derive(Debug, PartialEq, Eq)]
pub struct Film {
    /// As JSON text; absent without an id step.
    pub id: Option<String>,
    pub source: String,
    pub data: Vec<u8>,
    /// What came with it in a header; absent where the template does not show it.
    pub lot: Option<String>,
    /// Of its machine; absent where the template does not show it.
    pub address: Option<String>,
}

impl Film {
    /// Whether it shows the lot that its machine gave: those of HTTP give one with most records, and one for all of a body. A record
    /// whose origin was damaged may be of any machine.
    pub fn has_its_lot(&self) -> bool {
        let lot = lots(&self.source, &self.data).join(", ");
        match (self.lot.as_deref(), self.source.as_str()) {
            (Some(told), source) if is_of_http(source) => told == lot,
            (Some(told), "unknown") => {
                let batched = inspect(&self.data).map(|(machine, ..)| lots(&format!("b-{machine}-"), &[]).join(", "));
                told.is_empty() || told == lot || batched.as_deref() == Some(told)
            }
            (told, _) => told == Some(""),
        }
    }
}

/// What HTTP machines say of a record in fields of a header. The beginning of a record tells it, which every body shows as it is; where
/// several come in a body, their machine does, by its name.
pub fn lots(name: &str, record: &[u8]) -> Vec<String> {
    let sum = match name.rsplit_once('-').filter(|_| is_of_batches(name)) {
        Some((machine, _)) => crc32c::crc32c(machine.as_bytes()),
        None => crc32c::crc32c(&record[..record.len().min(HEAD_BYTES)]),
    };
    match sum % 4 {
        0 => Vec::new(),
        1 => vec![format!("{:04x}", sum >> 16), format!("L\"{:04x}\"", sum & 0xFFFF)],
        _ => vec![format!("{sum:08x}")],
    }
}

impl Body {
    /// The template.
    pub fn template(self, with_id: bool) -> String {
        match (self, with_id) {
            (Self::Raw, true) => "{{id}}\n{{source|json}}\n{{key}} {{received_at}}\n{{data}}".into(),
            (Self::Raw, false) => "\n{{source|json}}\n{{key}} {{received_at}}\n{{data}}".into(),
            (_, true) => format!(r#"{{"id": {{{{id}}}}, "machine": {{{{source|json}}}}, "data": {}}}"#, self.data()),
            (_, false) => format!(r#"{{"machine": {{{{source|json}}}}, "data": {}}}"#, self.data()),
        }
    }

    /// The template of one record of a batch, which is known by the key in it.
    pub fn template_with_key(self, with_id: bool) -> String {
        self.template(with_id).replacen('{', r#"{"key": "{{key}}", "#, 1)
    }

    /// The same with the lot of each record.
    pub fn with_lot(self, template: &str) -> String {
        match self {
            Self::Raw => template.replacen("{{received_at}}", "{{received_at}} {{header.X-Lot}}", 1),
            _ => template.replacen('{', r#"{"lot": "{{header.x-lot}}", "#, 1),
        }
    }

    fn data(self) -> &'static str {
        match self {
            Self::Json => "{{data|json}}",
            Self::Raw => "{{data}}",
            Self::Hex => r#""{{data|hex}}""#,
            Self::Base64 => r#""{{data|base64}}""#,
        }
    }

    /// What the receiver gets to see of a record of this lane.
    pub fn shown(self, lane: &str, record: &[u8]) -> Vec<u8> {
        match self {
            Self::Json => decoding_of(lane).decode(record).0.into_owned().into_bytes(),
            _ => record.to_vec(),
        }
    }

    /// Reads a rendered body.
    ///
    /// # Errors
    /// In words, for a body that is not what the template makes.
    pub fn read(self, body: &[u8]) -> Result<Film, String> {
        if self == Self::Raw {
            let mut parts = body.splitn(4, |&byte| byte == b'\n');
            let mut line = || parts.next().ok_or_else(|| "too few lines".to_owned());
            let (id, source, key, data) = (line()?, line()?, line()?, line()?);
            let lot = key.splitn(3, |&byte| byte == b' ').nth(2).map(|lot| String::from_utf8_lossy(lot).into_owned());
            let address =
                key.split(|&byte| byte == b' ').next().and_then(|word| word.splitn(2, |&byte| byte == b'@').nth(1));
            let address = address.map(|address| String::from_utf8_lossy(address).into_owned());
            let id = String::from_utf8(id.to_vec()).map_err(|error| error.to_string())?;
            let source = serde_json::from_slice(source).map_err(|error| error.to_string())?;
            return Ok(Film { id: (!id.is_empty()).then_some(id), source, data: data.to_vec(), lot, address });
        }
        let value: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or_else(|| format!("no text at {name}"));
        let data = text("data")?;
        let data = match self {
            Self::Hex => from_hex(&data).ok_or("bad hex")?,
            Self::Base64 => from_base64(&data).ok_or("bad base64")?,
            _ => data.into_bytes(),
        };
        let [lot, address] = ["lot", "address"].map(|name| value[name].as_str().map(str::to_owned));
        Ok(Film { id: value.get("id").map(ToString::to_string), source: text("machine")?, data, lot, address })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// RFC 4648 section 4, padded.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for digit in digits.bytes() {
        bits = (bits << 6) | ALPHABET.iter().position(|&letter| letter == digit)? as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (padding <= 2 && padding == (3 - out.len() % 3) % 3 && bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_who_made_it_and_whether_a_byte_of_it_changed() {
        let mut rng = fastrand::Rng::with_seed(1);
        for alphabet in [Alphabet::Bytes, Alphabet::Text, Alphabet::Ascii] {
            let mut record = make(&mut rng, 7, 42, 300, alphabet, Some(b'\r'));
            assert!(alphabet != Alphabet::Bytes || !record.contains(&b'\r'));
            assert_eq!(inspect(&record), Some((7, 42, true)));
            record[100] ^= 1;
            assert_eq!(inspect(&record), Some((7, 42, false)));
        }
        assert_eq!(make(&mut rng, 7, 42, 3, Alphabet::Bytes, Some(b'\r')).len(), 3);
    }

    #[test]
    fn the_model_frames_the_same_at_every_split() {
        let stream = b"\na \r\n\r\r1234567\rxx";
        let framing = |trim, oversized| Framing {
            kind: FramingKind::Delimiter { ends: vec![b"\r".to_vec()] },
            trim,
            max_bytes: 5,
            oversized,
            ..Framing::default()
        };
        let record = |bytes: &[u8]| Frame::Record(bytes.to_vec());
        for (framing, expected) in [
            (framing(true, Oversized::Cut), vec![record(b"a"), record(b"12345")]),
            (framing(false, Oversized::Drop), vec![record(b"\na "), record(b"\n"), Frame::Rejected]),
        ] {
            for split in 0..=stream.len() {
                let mut framer = Framer::new(&framing);
                let mut frames = Vec::new();
                framer.push(&stream[..split], |frame| frames.push(frame));
                framer.push(&stream[split..], |frame| frames.push(frame));
                assert_eq!(frames, expected);
                assert!(framer.is_unfinished());
            }
        }
    }

    #[test]
    fn hex_and_base64_are_read_strictly() {
        assert_eq!(from_hex("00ff7F"), Some(vec![0, 255, 127]));
        assert_eq!(from_hex("0"), None);
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob")] {
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for bad in ["Zg", "Zg=", "Zh==", "Z===", "Zm9v====", "Zm-v"] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_body_that_the_template_does_not_make_is_an_error() {
        assert!(Body::Json.read(br#"{"id": 1, "machine": "m", "data": "x"}"#).is_ok());
        assert!(Body::Json.read(br#"{"id": 1, "machine": "m", "data": "x"},"#).is_err());
        assert!(Body::Hex.read(br#"{"machine": "m", "data": "0"}"#).is_err());
        assert!(Body::Raw.read(b"1\n\"m\"\nk").is_err());
    }
}
