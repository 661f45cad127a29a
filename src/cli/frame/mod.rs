//! `ringest frame`: a framing tried on captured bytes.

mod options;
mod report;

use super::check::print;
use super::{Failure, exit};
use crate::config::{self, show_framing};
use crate::framing::{Framer, Framing, Hints, Look};
use crate::ground::decoding::Decoding;
use encoding_rs::Encoding;
use options::{INLINE, Inline};
use report::{Shown, Summary, bytes_of, text};
use serde_json::json;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A silence that is longer than any idle gap.
const SILENCE_NS: u64 = 7_200_000_000_000;

/// Arguments of `ringest frame`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Captured bytes, "-" for standard input; between two files there is a silence
    #[arg(required = true)]
    captures: Vec<PathBuf>,
    /// Name of a [framing.NAME] section; without it, the framing is made of the options below
    #[arg(long, value_name = "NAME", conflicts_with_all = INLINE)]
    framing: Option<String>,
    /// The configuration file of --framing
    #[arg(long, value_name = "FILE", default_value = "/etc/ringest.toml", requires = "framing")]
    config: PathBuf,
    /// A silence lies before the byte at this offset in all captures together; more than once for several
    #[arg(long, value_name = "OFFSET")]
    gap_at: Vec<usize>,
    /// The encoding of the records' text, such as big5, by its label in the WHATWG Encoding Standard
    #[arg(long, value_name = "LABEL")]
    encoding: Option<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    inline: Inline,
}

/// Runs the command.
///
/// # Errors
/// [`exit::CONFIG`] if the framing cannot be used; [`exit::NOT_OK`] if there is no record in the captures.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let mut framing = match &arguments.framing {
        Some(name) => configured(&arguments.config, name)?,
        None => arguments.inline.framing()?,
    };
    let encoding = arguments.encoding.as_deref().map(encoding_of).transpose()?;
    if let Some(encoding) = encoding {
        framing.unit_bytes = Decoding { encoding, ..Decoding::default() }.unit_bytes();
    }
    let captures = arguments.captures.iter().map(|path| read(path)).collect::<Result<Vec<_>, Failure>>()?;
    let bytes: usize = captures.iter().map(Vec::len).sum();
    if let Some(offset) = arguments.gap_at.iter().find(|offset| **offset >= bytes) {
        return Err(Failure::new(
            exit::USAGE,
            format!("--gap-at {offset}: there are only {bytes} bytes, counted from 0"),
        ));
    }
    let mut trial = Trial::new(&framing, encoding, arguments.gap_at);
    for capture in captures {
        trial.run(capture);
    }
    trial.finish();
    let summary = Summary::of(&trial);
    print(&if arguments.json {
        let Trial { frames, hints, .. } = &trial;
        let report = json!({ "framing": show_framing(&framing), "frames": frames, "summary": summary, "hints": hints });
        format!("{report}\n")
    } else {
        text(&framing, &trial.frames, &summary, &trial.hints)
    })?;
    if summary.records == 0 {
        return Err(Failure::new(exit::NOT_OK, "there is no record in these bytes"));
    }
    Ok(())
}

fn encoding_of(label: &str) -> Result<&'static Encoding, Failure> {
    Encoding::for_label_no_replacement(label.as_bytes()).ok_or_else(|| {
        let what = format!("--encoding {label:?}: there is no encoding of this label");
        let remedy = "a label of the WHATWG Encoding Standard, such as utf-8, big5, gbk, gb18030, shift_jis, euc-kr, \
                      windows-1252 or utf-16le";
        Failure::new(exit::USAGE, format!("{what}\n    {remedy}"))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let result = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    result.map_err(|error| Failure::new(exit::FAILURE, format!("{}: {error}", path.display())))
}

fn configured(path: &Path, name: &str) -> Result<Framing, Failure> {
    let refuse = |problems: config::Problems| Failure::new(exit::CONFIG, problems.to_string());
    let text = config::read(path).map_err(refuse)?;
    let mut framings = config::parse_framings(&text, &path.display().to_string()).map_err(refuse)?;
    framings.remove(name).or_else(|| config::preset(name)).ok_or_else(|| {
        let known: Vec<&str> = framings.keys().map(String::as_str).collect();
        let near = config::nearest(name, known.iter().copied());
        let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
        let known =
            if known.is_empty() { "this file has none".to_owned() } else { format!("known: {}", known.join(", ")) };
        Failure::new(
            exit::CONFIG,
            format!(
                "{}: there is no section [framing.{name}], and no preset of this name{near}\n    {known}",
                path.display()
            ),
        )
    })
}

/// A framing at work.
struct Trial<'f> {
    framing: &'f Framing,
    encoding: Option<&'static Encoding>,
    framer: Framer,
    frames: Vec<Shown>,
    /// Offsets in all captures before which there is a silence.
    gaps: Vec<usize>,
    now_ns: u64,
    /// Of all captures so far.
    bytes: usize,
    /// Where the last frame ended.
    begin: usize,
    /// What the first bytes say, until that is said or settled.
    looking: Option<Hints>,
    hints: Vec<String>,
}

impl<'f> Trial<'f> {
    fn new(framing: &'f Framing, encoding: Option<&'static Encoding>, mut gaps: Vec<usize>) -> Self {
        gaps.sort_unstable();
        gaps.dedup();
        let mut hints = Vec::new();
        if framing.idle.is_none() && !gaps.is_empty() {
            hints.push("this framing has no idle_gap, so that --gap-at changes nothing".to_owned());
        }
        Self {
            framing,
            encoding,
            framer: Framer::new(),
            frames: Vec::new(),
            gaps,
            now_ns: 0,
            bytes: 0,
            begin: 0,
            looking: Some(Hints::new()),
            hints,
        }
    }

    /// One capture. It comes as one chunk, or with silences in it as several.
    fn run(&mut self, mut capture: Vec<u8>) {
        self.framing.prepare(&mut capture);
        self.look(&capture);
        let (before, after) = (self.bytes, self.bytes + capture.len());
        let gaps = self.gaps.iter().filter(|gap| (before + 1..after).contains(*gap)).map(|gap| gap - before);
        let ends: Vec<usize> = gaps.chain([capture.len()]).collect();
        let mut from = 0;
        for to in ends {
            self.run_piece(&capture, from, to);
            self.now_ns += SILENCE_NS;
            from = to;
        }
        self.bytes = after;
    }

    fn run_piece(&mut self, capture: &[u8], from: usize, to: usize) {
        let (framing, before) = (self.framing, self.bytes);
        let mut framer = std::mem::take(&mut self.framer);
        let mut input = &capture[from..to];
        while let Some(framed) = framer.next(framing, self.now_ns, &mut input) {
            // A slice of the capture tells its place; what was kept from earlier begins where the frame before ended.
            let offset = bytes_of(&framed)
                .and_then(|bytes| (bytes.as_ptr() as usize).checked_sub(capture.as_ptr() as usize))
                .filter(|offset| *offset < capture.len());
            let offset = offset.map_or(self.begin, |offset| before + offset);
            self.frames.push(Shown::new(offset, &framed, self.encoding));
            self.begin = before + to - input.len();
        }
        self.framer = framer;
    }

    /// The captures are over.
    fn finish(&mut self) {
        let (framing, begin) = (self.framing, self.begin);
        while let Some(framed) = self.framer.finish(framing) {
            self.frames.push(Shown::new(begin, &framed, self.encoding));
        }
        let hint = self.looking.take().and_then(|hints| hints.finish(framing));
        self.hints.extend(hint.map(|hint| hint.words(None)));
    }

    fn look(&mut self, bytes: &[u8]) {
        let Some(hints) = &mut self.looking else { return };
        match hints.look(self.framing, true, bytes) {
            Look::More => return,
            Look::Settled => {}
            Look::Hint(hint) => self.hints.push(hint.words(None)),
        }
        self.looking = None;
    }
}
