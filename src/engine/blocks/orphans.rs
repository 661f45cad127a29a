//! Block files that no gateway will read any more: those of killed gateways whose state directory is gone, or has gone on without
//! them. They are memory that nothing gives back until the machine is started again.
//!
//! A file is an orphan only if that is certain. It must say whose it is, no process may have it in use, and its directory must either be
//! there and not need it, or be gone from a state directory that is there. What lies in another container, or on a disk that is not
//! mounted, is nobody's business here.

use super::{Found, is_unused, look, mount_namespace};
use crate::engine::files::{FsStorage, read_epochs};
use crate::journal::{BlockOwner, Storage, block_file_owner, needed_block_files};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "ringest-";
/// What clean stops leave for one next start: empty files.
const TOKEN_PREFIX: &str = "ringest-left-";
/// As much of a block file as says whose it is.
const HEAD_BYTES: u64 = 4096;

/// A block file that no process has in use and no state directory is known to need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOver {
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether nobody needs it for certain.
    pub is_orphan: bool,
    /// Why, or why that is not certain.
    pub why: String,
}

/// What is left over in a directory for block files, by its name.
///
/// # Errors
/// Those of reading the directory.
pub fn left_over(blocks: &Path) -> io::Result<Vec<LeftOver>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(blocks)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX) && !name.starts_with(TOKEN_PREFIX))
        else {
            continue;
        };
        // What is of another user, or goes in this moment, is not looked at.
        let path = entry.path();
        let Ok(Found::Own(file, metadata)) = look(&path) else { continue };
        let judged = judge(name, file).unwrap_or_else(|error| Some((false, format!("it cannot be read ({error})"))));
        if let Some((is_orphan, why)) = judged {
            found.push(LeftOver { path, bytes: metadata.len(), is_orphan, why });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Removes one that nobody needs. It is looked at once more: a gateway may have come meanwhile.
///
/// # Errors
/// `NotFound` where it is needed now or gone, else those of unlink(2).
pub fn remove(orphan: &LeftOver) -> io::Result<()> {
    let name = orphan.path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::NotFound)?;
    let Found::Own(file, _) = look(&orphan.path)? else { return Err(io::ErrorKind::NotFound.into()) };
    match judge(name, file)? {
        Some((true, _)) => fs::remove_file(&orphan.path),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether a file is an orphan, and why; `None` where it is needed.
fn judge(name: &str, file: File) -> io::Result<Option<(bool, String)>> {
    let mut head = Vec::new();
    (&file).take(HEAD_BYTES).read_to_end(&mut head)?;
    if !is_unused(file) || is_mapped(name) {
        return Ok(None);
    }
    let Some(owner) = block_file_owner(&head) else {
        return Ok(Some((false, "it does not say whose it is".to_owned())));
    };
    let directory = PathBuf::from(OsStr::from_bytes(&owner.directory));
    let shown = directory.display();
    Ok(match standing(&directory, &owner) {
        Standing::Gone => Some((true, format!("{shown} is gone"))),
        Standing::Moved => {
            let state = directory.parent().unwrap_or(&directory).display();
            Some((false, format!("{state} is gone: if it was moved or is not mounted, a start there needs this")))
        }
        Standing::Elsewhere => Some((false, format!("{shown}, which it belongs to, is not to be seen from here"))),
        Standing::There => match needs(&directory, name) {
            Some(true) => None,
            Some(false) => Some((true, format!("{shown} has gone on without it"))),
            None => Some((false, format!("{shown} cannot be read, and may need it"))),
        },
    })
}

/// What has become of the directory that a block file belongs to.
enum Standing {
    There,
    Gone,
    /// The state directory is not where it was: removed, renamed, or not mounted.
    Moved,
    /// This process would not see it.
    Elsewhere,
}

fn standing(directory: &Path, owner: &BlockOwner) -> Standing {
    let is_same =
        |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()) == (owner.device, owner.inode));
    match is_same(directory) {
        Ok(true) => return Standing::There,
        // It may not be looked at.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Standing::Elsewhere,
        Ok(false) | Err(_) => {}
    }
    // It is gone if it would be seen here: by the same paths, with its file system mounted where it was.
    let above = directory.ancestors().skip(1).find_map(|path| fs::metadata(path).ok());
    let is_seen = mount_namespace() == Some(owner.namespace) && above.is_some_and(|found| found.dev() == owner.device);
    let has_state_directory = directory.parent().is_some_and(Path::is_dir);
    match (is_seen, has_state_directory) {
        (false, _) => Standing::Elsewhere,
        (true, true) => Standing::Gone,
        (true, false) => Standing::Moved,
    }
}

/// Whether a journal's directory needs a block file; `None` where it cannot be told.
fn needs(directory: &Path, name: &str) -> Option<bool> {
    let boot_id = FsStorage::look_at(directory).ok()?.boot_id();
    let needed = needed_block_files(&read_epochs(directory).ok()?, boot_id)?;
    Some(needed.iter().any(|needed| needed == name))
}

/// Whether a process that can be seen maps a file of this name: one of an earlier version locks none.
fn is_mapped(name: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let maps = processes.flatten().filter_map(|process| fs::read(process.path().join("maps")).ok());
    // A line ends with its path.
    let end = format!("/{name}\n").into_bytes();
    maps.into_iter().any(|maps| maps.windows(end.len()).any(|window| window == end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{self, Journal, Options};
    use std::os::unix::fs::DirBuilderExt;

    struct Site {
        directory: tempfile::TempDir,
    }

    impl Site {
        fn new() -> Self {
            let site = Self { directory: tempfile::tempdir().expect("a directory") };
            fs::DirBuilder::new().mode(0o700).create(site.blocks()).expect("made");
            site
        }

        fn blocks(&self) -> PathBuf {
            self.directory.path().join("blocks")
        }

        fn core(&self, name: &str) -> PathBuf {
            self.directory.path().join(name).join("core-0")
        }

        /// Starts a journal; whoever drops it kills it.
        fn start(&self, name: &str) -> (FsStorage, Journal) {
            let mut storage = FsStorage::open_with_blocks_in(&self.core(name), &self.blocks()).expect("opens");
            let options = Options::of_view(crate::ground::CoreId(0));
            let journal = journal::open(&mut storage, &options).expect("opens");
            (storage, journal)
        }

        fn found(&self) -> Vec<(bool, String)> {
            let found = left_over(&self.blocks()).expect("listed");
            found.into_iter().map(|left| (left.is_orphan, left.why)).collect()
        }
    }

    #[test]
    fn a_block_file_is_an_orphan_once_its_directory_is_gone_or_has_gone_on_without_it() {
        let site = Site::new();
        let running = site.start("state");
        assert_eq!(site.found(), [], "it is in use");
        drop(running);
        assert_eq!(site.found(), [], "the next start reads it");
        // An operator has put its epoch files aside.
        let epochs = site.core("state").join("epoch-00000001");
        let aside = site.directory.path().join("aside");
        fs::rename(&epochs, &aside).expect("renamed");
        let [(true, why)] = &site.found()[..] else { panic!("{:?}", site.found()) };
        assert!(why.contains("has gone on without it"), "{why}");
        fs::write(&epochs, b"damaged").expect("written");
        let [(false, why)] = &site.found()[..] else { panic!("{:?}", site.found()) };
        assert!(why.contains("may need it"), "{why}");
        fs::rename(&aside, &epochs).expect("renamed");
        assert_eq!(site.found(), []);
        let (state, renamed) = (site.directory.path().join("state"), site.directory.path().join("renamed"));
        fs::rename(&state, &renamed).expect("renamed");
        let [(false, why)] = &site.found()[..] else { panic!("{:?}", site.found()) };
        assert!(why.contains("if it was moved"), "{why}");
        fs::rename(&renamed, &state).expect("renamed");
        fs::remove_dir_all(site.core("state")).expect("removed");
        let [(true, why)] = &site.found()[..] else { panic!("{:?}", site.found()) };
        assert!(why.contains("is gone"), "{why}");
        // Another one in its place is not the one that needed it.
        fs::create_dir(site.core("state")).expect("made");
        assert!(site.found()[0].0);
        for orphan in left_over(&site.blocks()).expect("listed") {
            assert!(orphan.bytes > 1 << 20);
            remove(&orphan).expect("removed");
        }
        assert_eq!(fs::read_dir(site.blocks()).expect("listed").count(), 0);
    }

    #[test]
    fn what_came_to_be_needed_after_it_was_listed_stays() {
        let site = Site::new();
        drop(site.start("state"));
        let epochs = site.core("state").join("epoch-00000001");
        let aside = site.directory.path().join("aside");
        fs::rename(&epochs, &aside).expect("renamed");
        let listed = left_over(&site.blocks()).expect("listed");
        fs::rename(&aside, &epochs).expect("renamed");
        assert_eq!(remove(&listed[0]).expect_err("needed").kind(), io::ErrorKind::NotFound);
        assert!(listed[0].path.exists());
    }

    #[test]
    fn what_does_not_say_whose_it_is_and_what_lies_elsewhere_is_no_orphan() {
        let site = Site::new();
        fs::write(site.blocks().join("ringest-0"), vec![0; 8192]).expect("written");
        fs::write(site.blocks().join("ringest-left-0"), b"").expect("written");
        fs::write(site.blocks().join("other"), b"").expect("written");
        nix::unistd::mkfifo(&site.blocks().join("ringest-1"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert_eq!(site.found(), [(false, "it does not say whose it is".to_owned())]);
        let directory = site.core("state");
        let metadata = fs::metadata(site.directory.path()).expect("there");
        let namespace = mount_namespace().expect("linux");
        let owner = BlockOwner {
            directory: directory.as_os_str().as_bytes().to_vec(),
            device: metadata.dev(),
            inode: metadata.ino(),
            namespace,
        };
        assert!(matches!(standing(&directory, &owner), Standing::Moved));
        fs::create_dir(directory.parent().expect("a state directory")).expect("made");
        assert!(matches!(standing(&directory, &owner), Standing::Gone));
        for elsewhere in [
            BlockOwner { namespace: namespace + 1, ..owner.clone() },
            // Its file system is not mounted.
            BlockOwner { device: metadata.dev() + 1, ..owner },
        ] {
            assert!(matches!(standing(&directory, &elsewhere), Standing::Elsewhere), "{elsewhere:?}");
        }
    }
}
