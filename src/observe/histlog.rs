//! The histogram log of `ringest run`: HdrHistogram's interval log, version 1.3, each histogram in V2 encoding, deflated, in base64.
//!
//! ```text
//! #[Histogram log format version 1.3]
//! #[Logged by ringest 0.1.0: nanoseconds, a tag for each stage of a record's way]
//! #[StartTime: 1760000000.000 (seconds since epoch)]
//! #[BaseTime: 1760000000.000 (seconds since epoch)]
//! "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//! Tag=frame,0.000,1.000,89087.000,HISTFAAA…
//! Tag=whole,0.000,1.000,901119.000,HISTFAAA…
//! ```
//!
//! Each interval is the difference of two cumulative snapshots. One that could not be written is part of the next that can be, and
//! an interval is written as a whole or not at all, so the counts of a log always add up. A file that is there already is
//! appended to, with a header of its own.
//!
//! Rotation: before each interval the path is looked at. A file that was renamed, deleted or emptied is begun anew, so that no
//! signal is needed. The log's lock (flock(2)) keeps a second gateway from the same file.

use crate::ground::count::{Stage, StageHistograms};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const LEGEND: &str = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// Bytes at the end of a file that are looked at for a line that a crash broke off; an interval's line is far shorter.
const TAIL_BYTES: u64 = 1 << 20;

/// Why a histogram log cannot be begun or written.
#[derive(Debug, thiserror::Error)]
pub enum HistogramLogError {
    /// The system refuses.
    #[error("the histogram log {}: {error}{}", path.display(), remedy(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is a file of another kind, which is left as it is.
    #[error("the histogram log {}: there is a file of another kind; give another name", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another process writes it.
    #[error("the histogram log {}: another process writes it; give another name", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ": its directory must be there",
        io::ErrorKind::PermissionDenied => ": a directory that the gateway's user may write to is needed",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": make room, or give a place on another disk",
        _ => "",
    }
}

/// The log, open for appending.
#[derive(Debug)]
pub struct HistogramLog {
    path: PathBuf,
    file: File,
    started: (SystemTime, Instant),
    /// All that was written so far, cumulative.
    written: StageHistograms,
    /// Where the next interval begins, since the start.
    since: Duration,
}

impl HistogramLog {
    /// Opens or makes the file and writes the header. What a crash broke off at the end of an earlier log is cut away.
    ///
    /// # Errors
    /// [`HistogramLogError`]; a file of another kind is not touched.
    pub fn open(path: PathBuf) -> Result<Self, HistogramLogError> {
        let started = (SystemTime::now(), Instant::now());
        let file = begin(&path, started.0)?;
        Ok(Self { path, file, started, written: StageHistograms::new(), since: Duration::ZERO })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the interval from the end of the last one to `at`, which is when `stages`, counted since the start, was taken. Stages
    /// without a record in it are left out.
    ///
    /// # Errors
    /// Those of the file. Then nothing of the interval is in it, and the next call covers this time, too.
    pub fn write(&mut self, at: Instant, stages: &StageHistograms) -> Result<(), HistogramLogError> {
        let until = at.saturating_duration_since(self.started.1);
        let lines = self.lines(until.saturating_sub(self.since), stages);
        if !lines.is_empty() {
            self.follow()?;
            append(&mut self.file, &lines).map_err(|error| HistogramLogError::Io { path: self.path.clone(), error })?;
            self.written = stages.clone();
        }
        self.since = until;
        Ok(())
    }

    fn lines(&self, length: Duration, stages: &StageHistograms) -> Vec<u8> {
        let (mut lines, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
        let mut log = IntervalLogWriterBuilder::new()
            .begin_log_with(&mut lines, &mut serializer)
            .expect("nothing is written, and a Vec takes all");
        for stage in Stage::ALL {
            let (now, before) = (stages.stage(stage), self.written.stage(stage));
            if now.len() == before.len() {
                continue;
            }
            let mut interval: Histogram<u64> = now.clone();
            interval.subtract(before).expect("counts only rise");
            log.write_histogram(&interval, self.since, length, Tag::new(stage.name()))
                .expect("a histogram of these bounds can be encoded, and a Vec takes all");
        }
        lines
    }

    /// Begins the file anew if it was renamed, deleted or emptied.
    fn follow(&mut self) -> Result<(), HistogramLogError> {
        let is_same = |file: &Metadata, path: &Metadata| (file.dev(), file.ino()) == (path.dev(), path.ino());
        let stays = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(file), Ok(path)) => is_same(&file, &path) && file.len() > 0,
            _ => false,
        };
        if !stays {
            // An emptied file is still locked by this process, through another descriptor.
            let _ = self.file.unlock();
            self.file = begin(&self.path, self.started.0)?;
        }
        Ok(())
    }
}

/// Opens the file, takes its lock and appends a header.
fn begin(path: &Path, started: SystemTime) -> Result<File, HistogramLogError> {
    let failed = |error| HistogramLogError::Io { path: path.to_owned(), error };
    // Opening a pipe would wait for whoever reads it.
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo() || found.is_dir()) {
        return Err(HistogramLogError::Foreign { path: path.to_owned() });
    }
    let mut file = File::options().create(true).read(true).append(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(HistogramLogError::Busy { path: path.to_owned() }),
        // Some network file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    if file.metadata().map_err(failed)?.is_file() {
        if !is_histogram_log(&file).map_err(failed)? {
            return Err(HistogramLogError::Foreign { path: path.to_owned() });
        }
        cut_broken_line(&mut file).map_err(failed)?;
    }
    append(&mut file, &header(started)).map_err(failed)?;
    Ok(file)
}

fn header(started: SystemTime) -> Vec<u8> {
    let (mut header, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let version = env!("CARGO_PKG_VERSION");
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[Logged by ringest {version}: nanoseconds, a tag for each stage of a record's way]"))
        .with_start_time(started)
        .with_base_time(started)
        .begin_log_with(&mut header, &mut serializer)
        .expect("a Vec takes all");
    header.extend_from_slice(LEGEND.as_bytes());
    header
}

/// Whether a file is empty or begins as a histogram log does.
fn is_histogram_log(file: &File) -> io::Result<bool> {
    let mut first = Vec::new();
    BufReader::new(file.take(256)).read_until(b'\n', &mut first)?;
    let begins = [&b"#[Histogram log"[..], b"#[StartTime:", b"#[BaseTime:", b"\"StartTimestamp\"", b"Tag="];
    Ok(first.is_empty() || begins.iter().any(|begin| first.starts_with(begin)))
}

/// A line without its end was broken off, and what is appended to it could not be read.
fn cut_broken_line(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    if let Some(end) = memchr::memrchr(b'\n', &tail) {
        let whole = from + end as u64 + 1;
        if whole < length {
            file.set_len(whole)?;
        }
    }
    Ok(())
}

/// Appends all of it or nothing.
fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let length = file.metadata()?.len();
    file.write_all(bytes).inspect_err(|_| {
        // What cannot be cut off is a broken line, which readers tell.
        let _ = file.set_len(length);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::fs;

    fn tags(text: &str) -> Vec<(String, Duration, Duration)> {
        let entries = IntervalLogIterator::new(text.as_bytes()).map(|entry| entry.expect("a valid line"));
        let intervals = entries.filter_map(|entry| match entry {
            LogEntry::Interval(interval) => {
                let tag = interval.tag().expect("a tag").to_string();
                Some((tag, interval.start_timestamp(), interval.duration()))
            }
            _ => None,
        });
        intervals.collect()
    }

    struct Rig {
        directory: tempfile::TempDir,
        path: PathBuf,
        log: HistogramLog,
        stages: StageHistograms,
        seconds: u64,
    }

    impl Rig {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("latency.hlog");
            let log = HistogramLog::open(path.clone()).expect("a new file");
            Self { directory, path, log, stages: StageHistograms::new(), seconds: 0 }
        }

        fn interval(&mut self, stages: &[Stage]) -> Result<(), HistogramLogError> {
            stages.iter().for_each(|stage| self.stages.record(*stage, 5_000));
            self.seconds += 1;
            self.log.write(self.log.started.1 + Duration::from_secs(self.seconds), &self.stages)
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).expect("the log")
        }
    }

    fn seconds(tag: &str, start: u64, length: u64) -> (String, Duration, Duration) {
        (tag.to_owned(), Duration::from_secs(start), Duration::from_secs(length))
    }

    #[test]
    fn an_interval_has_a_line_for_each_stage_with_a_record_in_it() {
        let mut rig = Rig::new();
        rig.interval(&[Stage::Frame, Stage::Whole]).expect("written");
        rig.interval(&[]).expect("written");
        rig.interval(&[Stage::Frame]).expect("written");
        assert_eq!(tags(&rig.text()), [seconds("frame", 0, 1), seconds("whole", 0, 1), seconds("frame", 2, 1)]);
        let first: Vec<&str> = rig.text().leak().lines().take(5).collect();
        assert_eq!(first[0], "#[Histogram log format version 1.3]");
        assert!(first[2].starts_with("#[StartTime: ") && first[3].starts_with("#[BaseTime: "), "{first:?}");
        assert_eq!(format!("{}\n", first[4]), LEGEND);
    }

    #[test]
    fn a_file_that_was_renamed_deleted_or_emptied_is_begun_anew() {
        let mut rig = Rig::new();
        rig.interval(&[Stage::Frame]).expect("written");
        let away = rig.directory.path().join("latency.hlog.1");
        fs::rename(&rig.path, &away).expect("renamed");
        rig.interval(&[Stage::Whole]).expect("written");
        assert_eq!(tags(&fs::read_to_string(away).expect("the old one")), [seconds("frame", 0, 1)]);
        assert_eq!(tags(&rig.text()), [seconds("whole", 1, 1)]);
        fs::remove_file(&rig.path).expect("deleted");
        rig.interval(&[Stage::Whole]).expect("written");
        assert!(rig.text().starts_with("#[Histogram log") && tags(&rig.text()) == [seconds("whole", 2, 1)]);
        File::options().write(true).truncate(true).open(&rig.path).expect("emptied");
        rig.interval(&[Stage::Whole]).expect("written");
        assert!(rig.text().starts_with("#[Histogram log") && tags(&rig.text()) == [seconds("whole", 3, 1)]);
    }

    #[test]
    fn an_interval_that_could_not_be_written_is_part_of_the_next() {
        let mut rig = Rig::new();
        rig.interval(&[Stage::Frame]).expect("written");
        let away = rig.directory.path().join("away");
        fs::rename(&rig.path, &away).expect("renamed");
        fs::create_dir(&rig.path).expect("in the way");
        assert!(rig.interval(&[Stage::Whole]).is_err());
        assert!(rig.interval(&[Stage::Frame]).is_err());
        fs::remove_dir(&rig.path).expect("out of the way");
        rig.interval(&[]).expect("written");
        assert_eq!(tags(&rig.text()), [seconds("frame", 1, 3), seconds("whole", 1, 3)]);
    }

    #[test]
    fn a_log_is_appended_to_behind_its_last_whole_line() {
        let mut rig = Rig::new();
        rig.interval(&[Stage::Frame]).expect("written");
        let whole = rig.text();
        assert!(matches!(HistogramLog::open(rig.path.clone()), Err(HistogramLogError::Busy { .. })));
        let Rig { directory, path, log, .. } = rig;
        drop(log);
        fs::write(&path, format!("{whole}Tag=whole,0.000,1.0")).expect("broken off");
        drop(HistogramLog::open(path.clone()).expect("a log"));
        let text = fs::read_to_string(&path).expect("the log");
        assert!(text.starts_with(&format!("{whole}#[Histogram log")), "{text}");
        drop(directory);
    }

    #[test]
    fn files_of_another_kind_are_refused_and_not_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notes");
        fs::write(&path, "do not touch").expect("written");
        let error = HistogramLog::open(path.clone()).expect_err("another kind");
        assert!(error.to_string().contains("another kind; give another name"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "do not touch");
        let error = HistogramLog::open(directory.path().join("no/such.hlog")).expect_err("no directory");
        assert!(error.to_string().contains("its directory must be there"), "{error}");
        let error = HistogramLog::open("/dev/full".into()).expect_err("full");
        assert!(error.to_string().contains("make room"), "{error}");
    }
}
