//! `ringest queue verify --reread`: bytes that a start could not read are read again. Records that it told as missing, and that are
//! whole now, get a journal directory of their own, `core-N-returned`, which the next start goes on with.
//!
//! Nothing is done twice, whenever this is cut short: the directory is made under another name, then its records are taken off the
//! lists of what is missing and off the losses, and only then it has its name. What a kill left at that a start ends.

use super::files::{
    CoreDirectory, QUARANTINE, core_directories, create_private_directory, epoch_path, is_unreadable, open_file,
    segment_path, sync_directory, write_synced,
};
use super::parking::{Decision, decisions_left, leave_decision};
use super::view::open_views;
use crate::ground::CoreId;
use crate::journal::{Numbers, Returned, returned};
use crate::observe::losses::LossSnapshot;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Files are read in pieces of so many bytes, so that one bad sector costs no more.
const PIECE_BYTES: usize = 4096;
/// The directory while it is made.
const UNFINISHED_SUFFIX: &str = "-returning";

/// What came of one core's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameBack {
    /// The core.
    pub core: u16,
    /// Files in its quarantine that no start could read to their ends.
    pub files: usize,
    /// Records that are there again.
    pub records: u64,
    /// Records that may still be missing.
    pub missing: u64,
    /// What came back before still waits for a start: nothing was read now.
    pub waits: bool,
}

/// Reads the files again that were kept of each core. The caller holds the lock of the state directory.
///
/// # Errors
/// Those of the file system, but for bytes that cannot be read.
pub fn reread(state_directory: &Path) -> io::Result<Vec<CameBack>> {
    // A journal in another format is not touched.
    let views = open_views(state_directory).map_err(io::Error::other)?;
    let losses: Vec<LossSnapshot> = views.iter().flat_map(|view| view.losses()).collect();
    let all = core_directories(state_directory)?;
    let own = all.iter().filter(|directory| !directory.is_returned);
    let mut found = Vec::new();
    for directory in own {
        found.extend(reread_core(state_directory, *directory, &losses)?);
    }
    Ok(found)
}

fn reread_core(
    state_directory: &Path,
    directory: CoreDirectory,
    losses: &[LossSnapshot],
) -> io::Result<Option<CameBack>> {
    let core = directory.core;
    let quarantine = directory.path(state_directory).join(QUARANTINE);
    let unfinished = unfinished_path(state_directory, core);
    let files = kept_files(&quarantine)?;
    let mut came_back = CameBack { core, files: files.len(), records: 0, missing: 0, waits: false };
    if let Some(numbers) = finished_before(&unfinished)? {
        came_back.records = finish(state_directory, directory, &unfinished, &numbers, losses)?;
    } else if (CoreDirectory { is_returned: true, ..directory }).path(state_directory).exists() {
        came_back.waits = true;
    } else {
        let missing = union(&lists(&quarantine)?);
        let mut kept = Vec::new();
        for file in files.iter().filter(|_| missing.count() > 0) {
            kept.push(read_in_pieces(file)?);
        }
        let random = super::random()?;
        if let Some(found) = returned(&kept, &missing, CoreId(core), random) {
            make(&unfinished, &found)?;
            came_back.records = finish(state_directory, directory, &unfinished, &found.numbers, losses)?;
        }
    }
    came_back.missing = union(&lists(&quarantine)?).count();
    Ok((came_back.files > 0 || came_back.records > 0).then_some(came_back))
}

/// Makes the directory, durably: its epoch file comes last.
fn make(
    unfinished: &Path,
    Returned { segment: (number, bytes), epoch: (epoch, record), .. }: &Returned,
) -> io::Result<()> {
    create_private_directory(unfinished)?;
    write_synced(&segment_path(unfinished, *number), bytes)?;
    sync_directory(unfinished)?;
    let path = epoch_path(unfinished, *epoch);
    let new = path.with_extension("new");
    write_synced(&new, record)?;
    fs::rename(new, path)?;
    sync_directory(unfinished)
}

/// The records of a directory that was made, and not given its name; one that was not made to its end is removed.
fn finished_before(unfinished: &Path) -> io::Result<Option<Numbers>> {
    if !unfinished.exists() {
        return Ok(None);
    }
    let numbers = match fs::read(epoch_path(unfinished, 1)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        bytes => Numbers::of_epoch(&bytes?),
    };
    if numbers.is_none() {
        fs::remove_dir_all(unfinished)?;
    }
    Ok(numbers)
}

/// Takes records off the lists and gives the directory its name; how many those are.
fn finish(
    state_directory: &Path,
    of: CoreDirectory,
    unfinished: &Path,
    numbers: &Numbers,
    losses: &[LossSnapshot],
) -> io::Result<u64> {
    for (path, list) in lists(&of.path(state_directory).join(QUARANTINE))? {
        let rest = list.without(numbers);
        if rest != list {
            let new = path.with_extension("new");
            write_synced(&new, &rest.encode())?;
            fs::rename(new, &path)?;
            sync_directory(path.parent().expect("a file lies in a directory"))?;
        }
    }
    let losses = losses.iter().filter(|loss| loss.core == of.core).cloned().collect();
    leave_decision(state_directory, &Decision::Returned { core: of.core, returned: numbers.0.clone(), losses })?;
    give_name(state_directory, of, unfinished)?;
    Ok(numbers.count())
}

fn give_name(state_directory: &Path, of: CoreDirectory, unfinished: &Path) -> io::Result<()> {
    fs::rename(unfinished, CoreDirectory { is_returned: true, ..of }.path(state_directory))?;
    sync_directory(state_directory)
}

/// A start must not tell that records are there again whose directory a kill kept from having its name.
///
/// # Errors
/// Those of the file system.
pub(super) fn end_begun(state_directory: &Path) -> io::Result<()> {
    for decision in decisions_left(state_directory)? {
        let Decision::Returned { core, returned, .. } = decision else { continue };
        let unfinished = unfinished_path(state_directory, core);
        let is_there = CoreDirectory { core, is_returned: true }.path(state_directory).exists();
        if !is_there && finished_before(&unfinished)?.is_some_and(|numbers| numbers.0 == returned) {
            give_name(state_directory, CoreDirectory::own(core), &unfinished)?;
        }
    }
    Ok(())
}

fn unfinished_path(state_directory: &Path, core: u16) -> PathBuf {
    state_directory.join(format!("core-{core}{UNFINISHED_SUFFIX}"))
}

/// The names in a directory that begin so; none where it is missing.
fn named(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Segments' files that were kept whole, and not the bytes of one that were copied.
fn kept_files(quarantine: &Path) -> io::Result<Vec<PathBuf>> {
    let is_copy = |path: &PathBuf| path.to_string_lossy().contains("-at-");
    Ok(named(quarantine, "segment-")?.into_iter().filter(|path| !is_copy(path)).collect())
}

/// What starts have listed as missing.
fn lists(quarantine: &Path) -> io::Result<Vec<(PathBuf, Numbers)>> {
    let mut lists = Vec::new();
    for path in named(quarantine, "missing-")? {
        let mut bytes = Vec::new();
        open_file(&path)?.read_to_end(&mut bytes)?;
        match Numbers::decode(&bytes) {
            Some(numbers) => lists.push((path, numbers)),
            None => warn!(
                "{} is damaged, or of another version: what it lists as missing is not looked for",
                path.display()
            ),
        }
    }
    Ok(lists)
}

fn union(lists: &[(PathBuf, Numbers)]) -> Numbers {
    let mut runs: Vec<(u64, u64)> = lists.iter().flat_map(|(_, numbers)| numbers.0.iter().copied()).collect();
    runs.sort_unstable();
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (first, end) in runs {
        match all.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => all.push((first, end)),
        }
    }
    Numbers(all)
}

/// A file's bytes; zero where they cannot be read.
fn read_in_pieces(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_file(path)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    let mut at = 0;
    for piece in bytes.chunks_mut(PIECE_BYTES) {
        match file.read_exact_at(piece, at) {
            Err(error) if is_unreadable(&error) => piece.fill(0),
            read => read?,
        }
        at += piece.len() as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::files::FsStorage;
    use crate::journal::{self, Options};

    /// A kill at each step of [`finish`], and a start or another reread behind it: the directory has its name in the end, and the loss is
    /// decided.
    #[test]
    fn a_kill_before_the_directory_has_its_name_is_made_good_by_a_start() {
        let state = tempfile::tempdir().expect("a directory");
        let unfinished = unfinished_path(state.path(), 0);
        let blocks = tempfile::tempdir().expect("a directory");
        let mut storage = FsStorage::open_with_blocks_in(&unfinished, blocks.path()).expect("opens");
        drop(journal::open(&mut storage, &Options::of_view(CoreId(0))).expect("opens"));
        let named = CoreDirectory { core: 0, is_returned: true }.path(state.path());
        end_begun(state.path()).expect("nothing to end");
        assert!(unfinished.exists() && !named.exists(), "nobody has taken it off the losses yet");
        let decision = Decision::Returned { core: 0, returned: Vec::new(), losses: Vec::new() };
        leave_decision(state.path(), &decision).expect("left");
        end_begun(state.path()).expect("ended");
        assert!(!unfinished.exists() && named.exists());
        end_begun(state.path()).expect("nothing is left");
        assert!(named.exists());
    }

    #[test]
    fn lists_that_overlap_are_one() {
        let list = |runs: &[(u64, u64)]| (PathBuf::new(), Numbers(runs.to_vec()));
        let all = union(&[list(&[(10, 20), (30, 31)]), list(&[(1, 3), (15, 25), (31, 33)])]);
        assert_eq!(all, Numbers(vec![(1, 3), (10, 25), (30, 33)]));
    }
}
