//! What is wrong with the disk, and what that means for records: said once when it begins, changes
//! and ends.

use crate::ground::{CoreId, SegmentNumber};

/// What cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A block cannot be written.
    Write,
    /// A segment's file cannot be made.
    Make,
    /// Writes cannot be made durable (level `process`).
    Sync,
    /// What lies behind the window cannot be read.
    Read,
    /// The directory cannot be synced after a rewrite.
    Directory,
    /// The kernel takes no block, for want of something that comes and goes.
    Again,
    /// Some of what lies behind the window cannot be read, and the rest can.
    Unreadable,
}

/// Owns what is known to be wrong with the disk, and counts the errors.
#[derive(Debug)]
pub(super) struct Troubles {
    core: CoreId,
    /// Of each kind the last failure, while it lasts.
    last: [Option<Failure>; 7],
    /// Errors that were not counted into a snapshot yet.
    errors: u64,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    segment: SegmentNumber,
    errno: i32,
}

impl Trouble {
    fn words(self, segment: SegmentNumber, errno: i32) -> String {
        let error = describe(errno);
        match self {
            Self::Write => format!(
                "segment {segment} cannot be written: {error}. It is sealed, and what it did not take goes to another one; until \
                 that is written no record is taken, and deliveries go on"
            ),
            Self::Make => format!(
                "segment {segment} cannot be made: {error}. Until it can no record is taken, and deliveries go on"
            ),
            Self::Sync => format!(
                "segment {segment} cannot be synced: {error}. It is sealed, and what is in memory of it goes to another one"
            ),
            Self::Directory => format!(
                "the directory cannot be synced: {error}. No more segments are rewritten until the next start, so that the journal \
                 may become full earlier"
            ),
            Self::Again => format!(
                "the kernel takes no write to segment {segment}: {error}. It is tried again every 100 ms; nothing is lost"
            ),
            Self::Unreadable => format!(
                "segment {segment} cannot be read in places: {error}. The records in them wait for the next start, which tries again \
                 and tells what is missing; all others are delivered"
            ),
            Self::Read => {
                format!("segment {segment} cannot be read: {error}. The records in it wait, and it is tried again")
            }
        }
    }

    fn healed(self) -> &'static str {
        match self {
            Self::Write => "blocks are written again",
            Self::Make => "segments can be made again",
            Self::Sync => "segments are synced again",
            Self::Read => "segments can be read again",
            Self::Directory => "the directory is synced again",
            Self::Again => "the kernel takes writes again",
            Self::Unreadable => "all can be read again",
        }
    }
}

impl Troubles {
    /// None so far, in the journal of a core.
    pub(super) fn new(core: CoreId) -> Self {
        Self { core, last: [None; 7], errors: 0 }
    }

    /// Whether there is one of this kind.
    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.last[trouble as usize].is_some()
    }

    /// Whether no record may be taken.
    pub(super) fn stop_intake(&self) -> bool {
        self.has(Trouble::Write) || self.has(Trouble::Make)
    }

    /// The worst, in words.
    pub(super) fn describe(&self) -> Option<String> {
        use Trouble::{Again, Directory, Make, Read, Sync, Unreadable, Write};
        let all = [Write, Make, Sync, Again, Read, Unreadable, Directory];
        all.into_iter().find_map(|trouble| {
            let Failure { segment, errno } = self.last[trouble as usize]?;
            Some(trouble.words(segment, errno))
        })
    }

    /// An operation failed. It is logged unless the last one failed in the same way.
    pub(super) fn fail(&mut self, trouble: Trouble, segment: SegmentNumber, errno: i32) {
        self.errors += 1;
        let before = self.last[trouble as usize].replace(Failure { segment, errno });
        if before.is_none_or(|before| before.errno != errno) {
            tracing::error!("journal of core {}: {}", self.core, trouble.words(segment, errno));
        }
    }

    /// An operation succeeded.
    pub(super) fn heal(&mut self, trouble: Trouble) {
        if self.last[trouble as usize].take().is_some() {
            let taken = if self.stop_intake() { "" } else { "; records are taken" };
            tracing::info!("journal of core {}: {}{taken}", self.core, trouble.healed());
        }
    }

    /// An error that is no trouble that lasts.
    pub(super) fn count_error(&mut self) {
        self.errors += 1;
    }

    /// Errors since the last call.
    pub(super) fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }
}

/// An errno in words.
pub(super) fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
