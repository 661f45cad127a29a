//! What a record's bytes are, judged before the record is kept: text of its source's encoding, JSON
//! where that was promised, and received without an error of the line.

use crate::config::{DataIs, OnLineError, Settings, Source, SourceKind};
use crate::ground::decoding::OnUndecodable;
use crate::ground::{Now, RecordFlags};
use crate::observe::snapshot::Refused;

/// A source is told to have undecodable records until so long after the last one.
const TOLD_FOR_NS: u64 = 3_600_000_000_000;

/// The flags that a record is kept with, or why it is not kept.
pub(super) fn judge(
    settings: &Settings,
    source: &Source,
    bytes: &[u8],
    flags: RecordFlags,
) -> Result<RecordFlags, Refused> {
    let is_damaged = flags.contains(RecordFlags::LINE_ERROR) || flags.contains(RecordFlags::BREAK);
    if is_damaged
        && let SourceKind::Serial(port) = &source.kind
        && port.on_line_error == OnLineError::Reject
    {
        return Err(Refused::LineError);
    }
    if source.data_is == DataIs::Json && !is_json(bytes) {
        return Err(Refused::NotJson);
    }
    if settings.deliver.shows_text && !source.decoding.decodes(bytes) {
        return match source.decoding.on_undecodable {
            OnUndecodable::Reject => Err(Refused::Undecodable),
            OnUndecodable::Replace | OnUndecodable::Hex => Ok(flags | RecordFlags::UNDECODABLE),
        };
    }
    Ok(flags)
}

/// RFC 8259: UTF-8, which a parser that ignores what it reads does not look for in strings.
fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// Records of one source that were no text in its encoding.
#[derive(Debug, Default)]
pub(super) struct Undecodable {
    count: u64,
    last_ns: u64,
}

impl Undecodable {
    /// One more came. The first is told at once.
    pub fn count(&mut self, now: Now, source: &Source) {
        self.count += 1;
        self.last_ns = now.mono_ns;
        if self.count == 1 {
            tracing::warn!("source {}: {}", source.name, self.text(source));
        }
    }

    /// What an operator must know, for an hour after the last one.
    pub fn problem(&self, now: Now, source: &Source) -> Option<String> {
        let is_recent = self.count > 0 && now.mono_ns - self.last_ns < TOLD_FOR_NS;
        is_recent.then(|| self.text(source))
    }

    /// Goes on with the count of an earlier source of the same name.
    pub fn inherit(&mut self, earlier: &Self) {
        self.count += earlier.count;
        self.last_ns = self.last_ns.max(earlier.last_ns);
    }

    fn text(&self, source: &Source) -> String {
        let (records, were) = if self.count == 1 { ("record", "was") } else { ("records", "were") };
        let done = match source.decoding.on_undecodable {
            OnUndecodable::Replace => "bytes that are no text are delivered as U+FFFD",
            OnUndecodable::Reject => "they are rejected",
            OnUndecodable::Hex => "they are delivered as hexadecimal digits",
        };
        let name = source.decoding.encoding.name();
        format!(
            "{} {records} {were} not text in {name}, and {done}: set the machine's encoding in this source, such as \
             encoding = \"big5\" or \"windows-1252\"",
            self.count
        )
    }
}
