//! The ledger: what the machines sent, so that a verifier can compare it with what arrived.
//!
//! CSV with a header line; one line a record or frame of garbage, in the order in which a machine sent them:
//! `machine,sequence,scheduled_ns,sent_ns,acknowledged_ns,bytes,status`. Times are nanoseconds since 1970, `acknowledged_ns` is 0
//! but for HTTP, `bytes` is the length without the delimiter. The content of a record follows from these ([`super::record`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// The first line of a ledger.
pub const HEADER: &str = "machine,sequence,scheduled_ns,sent_ns,acknowledged_ns,bytes,status";

/// What became of a record, as far as its machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Written whole, delimiter included, to a port with a reader.
    Sent,
    /// Answered with 2xx (HTTP).
    Acknowledged,
    /// Cut off, or joined to the cut-off record before it: it must not arrive as a valid record unless it was joined to nothing.
    Damaged,
    /// Refused for good with a 4xx (HTTP).
    Refused,
    /// Sent, but the run ended before an answer came (HTTP): it may have arrived.
    Unanswered,
    /// No record but a frame of garbage, sent before the record of this sequence.
    Garbage,
}

impl Status {
    /// The word in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Garbage => "garbage",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Sent, Self::Acknowledged, Self::Damaged, Self::Refused, Self::Unanswered, Self::Garbage]
            .into_iter()
            .find(|status| status.name() == name)
    }

    /// Whether the record has to be in the database, once.
    pub fn must_arrive(self) -> bool {
        matches!(self, Self::Sent | Self::Acknowledged)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the machine.
    pub machine: String,
    /// Of the record.
    pub sequence: u64,
    /// When it was due.
    pub scheduled_ns: u64,
    /// When its last byte was taken by the kernel; 0 if it never was.
    pub sent_ns: u64,
    /// When the answer came; 0 without one.
    pub acknowledged_ns: u64,
    /// Length without delimiter.
    pub bytes: u64,
    /// What became of it.
    pub status: Status,
}

/// Why a ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file.
    #[error("the ledger cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line.
    #[error("line {line} of the ledger is no entry: {text:?}")]
    Line {
        /// From 1.
        line: usize,
        /// What stands there.
        text: String,
    },
}

/// Reads a whole ledger.
pub fn read(path: &Path) -> Result<Vec<Entry>, ReadError> {
    let mut entries = Vec::new();
    for (index, text) in BufReader::new(File::open(path)?).lines().enumerate() {
        let text = text?;
        match parse_line(&text) {
            Some(entry) => entries.push(entry),
            None if index == 0 && text == HEADER => {}
            None => return Err(ReadError::Line { line: index + 1, text }),
        }
    }
    Ok(entries)
}

fn parse_line(text: &str) -> Option<Entry> {
    let mut fields = text.split(',');
    let machine = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (sequence, scheduled_ns, sent_ns, acknowledged_ns, bytes) =
        (number()?, number()?, number()?, number()?, number()?);
    let status = Status::parse(fields.next()?)?;
    fields.next().is_none().then_some(Entry {
        machine,
        sequence,
        scheduled_ns,
        sent_ns,
        acknowledged_ns,
        bytes,
        status,
    })
}

/// Appends entries through a buffer; without a file it does nothing.
#[derive(Debug)]
pub(super) struct Writer {
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Writer {
    /// Makes the file anew, or a writer that keeps nothing.
    pub(super) fn create(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?;
        let mut writer = Self { file, buffer: Vec::new() };
        writer.buffer.extend_from_slice(HEADER.as_bytes());
        writer.buffer.push(b'\n');
        writer.flush()?;
        Ok(writer)
    }

    /// Appends to the buffer, which goes to the file at [`FLUSH_BYTES`].
    #[allow(clippy::too_many_arguments, reason = "the fields of a line, borrowed")]
    pub(super) fn append(
        &mut self,
        machine: &str,
        sequence: u64,
        scheduled_ns: u64,
        sent_ns: u64,
        acknowledged_ns: u64,
        bytes: usize,
        status: Status,
    ) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let status = status.name();
        writeln!(self.buffer, "{machine},{sequence},{scheduled_ns},{sent_ns},{acknowledged_ns},{bytes},{status}")?;
        if self.buffer.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Gives all lines to the kernel.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
        }
        self.buffer.clear();
        Ok(())
    }
}

const FLUSH_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.csv");
        let mut writer = Writer::create(Some(&path)).unwrap();
        writer.append("machine-0001", 3, 10, 12, 0, 64, Status::Sent).unwrap();
        writer.append("machine-0002", 4, 20, 22, 25, 64, Status::Acknowledged).unwrap();
        writer.flush().unwrap();
        let entries = read(&path).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[1],
            Entry {
                machine: "machine-0002".into(),
                sequence: 4,
                scheduled_ns: 20,
                sent_ns: 22,
                acknowledged_ns: 25,
                bytes: 64,
                status: Status::Acknowledged
            }
        );
        std::fs::write(&path, "machine,1,2\n").unwrap();
        assert!(matches!(read(&path), Err(ReadError::Line { line: 1, .. })));
    }
}
