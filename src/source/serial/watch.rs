//! Tells when a missing port may have come: inotify on the directories where its path is broken.
//!
//! A path is followed link by link, so both a by-id link that udev has yet to make and a link that points nowhere are
//! noticed. Where a directory itself is missing (`/dev/serial` without any adapter), the nearest existing one above it is
//! watched. This is a hint that saves time, not a promise: some file systems report nothing, so a port is also tried
//! again at intervals.

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Component, Path, PathBuf};
use tokio::io::unix::AsyncFd;

/// Most links that are followed, as in path_resolution(7).
const LINKS_MAX: usize = 40;
/// Room for about a hundred events a read.
const EVENTS_BYTES: usize = 4096;

/// Watches for missing ports. Its descriptor is non-blocking and readable when [`Watch::changed`] has something to say
/// ([`Watch::into_async`] for tokio).
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
    /// Watched paths, each with the places where it may come into being.
    paths: HashMap<PathBuf, BTreeSet<Place>>,
    /// The directories watched for them.
    directories: HashMap<PathBuf, WatchDescriptor>,
}

/// A name in an existing directory that is part of the way to a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    directory: PathBuf,
    name: OsString,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// EMFILE: no more inotify instances or descriptors (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init()?, paths: HashMap::new(), directories: HashMap::new() })
    }

    /// Registers the watch with tokio: await `readable_mut`, ask [`Watch::changed`], clear the readiness, again and again.
    ///
    /// # Errors
    /// EMFILE and the like. Panics outside of a runtime with I/O enabled.
    #[allow(
        deprecated,
        reason = "the new name is unsafe for types that could exchange their descriptor; this one cannot"
    )]
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        AsyncFd::with_interest(self, tokio::io::Interest::READABLE)
    }

    /// Watches for a port, named by its configured, absolute path. Try to open it once more after this: it may have come
    /// a moment before.
    ///
    /// # Errors
    /// ENOSPC: no more watches (`fs.inotify.max_user_watches`); EACCES: a directory may not be read.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        self.paths.insert(path.to_owned(), BTreeSet::new());
        self.arm(path)
    }

    /// Watches for a port no more.
    pub fn remove(&mut self, path: &Path) {
        self.paths.remove(path);
        self.forget_unused();
    }

    /// The watched paths to be tried again, each once; empty if nothing happened to them. Takes what has been reported so
    /// far and never waits. A path stays watched until it is removed.
    ///
    /// # Errors
    /// As [`Watch::add`]: the way to a port changed and cannot be watched.
    pub fn changed(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut changed = BTreeSet::new();
        let mut buffer = [0; EVENTS_BYTES];
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for event in events {
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    changed.extend(self.paths.keys().cloned());
                    continue;
                }
                // Two names of one directory share a watch.
                let named = self.directories.iter().filter(|(_, wd)| **wd == event.wd);
                for directory in named.map(|(directory, _)| directory.clone()).collect::<Vec<_>>() {
                    changed.extend(concerned(&self.paths, &directory, event.name));
                    if event.mask.contains(EventMask::IGNORED) {
                        self.directories.remove(&directory); // deleted or unmounted, and the watch went with it
                    }
                }
            }
        }
        for path in &changed {
            self.arm(path)?;
        }
        Ok(changed.into_iter().collect())
    }

    /// Watches all places on the way to a path, until they no longer change under our hands.
    fn arm(&mut self, path: &Path) -> io::Result<()> {
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::ATTRIB // permissions that udev sets a moment after it made the node
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for _ in 0..LINKS_MAX {
            let places = places_of(path);
            let settled = self.paths.get(path) == Some(&places);
            for place in &places {
                if !self.directories.contains_key(&place.directory) {
                    match self.inotify.watches().add(&place.directory, mask) {
                        Ok(wd) => drop(self.directories.insert(place.directory.clone(), wd)),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone meanwhile: look again
                        Err(error) => return Err(error),
                    }
                }
            }
            if settled {
                break;
            }
            self.paths.insert(path.to_owned(), places);
        }
        self.forget_unused();
        Ok(())
    }

    fn forget_unused(&mut self) {
        let used: BTreeSet<&Path> = self.paths.values().flatten().map(|place| place.directory.as_path()).collect();
        let unused: Vec<PathBuf> =
            self.directories.keys().filter(|directory| !used.contains(directory.as_path())).cloned().collect();
        for directory in unused {
            let Some(wd) = self.directories.remove(&directory) else { continue };
            // Fails if the directory is gone, and the watch with it.
            if !self.directories.values().any(|other| *other == wd) {
                let _ = self.inotify.watches().remove(wd);
            }
        }
    }
}

/// The paths that an event in `directory` concerns: `name` is the entry, or `None` for the directory itself.
fn concerned(paths: &HashMap<PathBuf, BTreeSet<Place>>, directory: &Path, name: Option<&OsStr>) -> Vec<PathBuf> {
    let at_place = |place: &Place| place.directory == directory && name.is_none_or(|name| place.name == name);
    paths.iter().filter(|(_, places)| places.iter().any(at_place)).map(|(path, _)| path.clone()).collect()
}

/// Where a path may come into being: its own place, and that of each link on its way; where a directory is missing, the
/// place of the first missing name.
fn places_of(path: &Path) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(place) = first_missing(&path) else { break };
        let entry = place.directory.join(&place.name);
        let target = std::fs::read_link(&entry);
        let rest = path.strip_prefix(&entry).map(Path::to_owned).unwrap_or_default();
        let next = target.map(|target| normal(&place.directory.join(target).join(rest)));
        places.insert(place);
        match next {
            Ok(next) => path = next,
            Err(_) => break,
        }
    }
    places
}

/// The first name on the way to a path that is not a directory to go on from; a dangling link is such a name.
fn first_missing(path: &Path) -> Option<Place> {
    let mut directory = path.parent()?;
    let mut name = path.file_name()?;
    while !directory.is_dir() {
        name = directory.file_name()?;
        directory = directory.parent()?;
    }
    Some(Place { directory: directory.to_owned(), name: name.to_owned() })
}

/// A path without `.` and `..`; good enough here, where a wrong guess costs a hint.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn place(directory: &Path, name: &str) -> Place {
        Place { directory: directory.to_owned(), name: name.into() }
    }

    #[test]
    fn the_places_of_a_path_are_those_where_it_is_broken() {
        let root = tempfile::tempdir().unwrap();
        let root = &root.path().canonicalize().unwrap();
        let link = root.join("by-id/scale");
        assert_eq!(places_of(&link), [place(root, "by-id")].into());
        fs::create_dir(root.join("by-id")).unwrap();
        let by_id = &root.join("by-id");
        assert_eq!(places_of(&link), [place(by_id, "scale")].into());
        symlink("../dev/tty7", &link).unwrap();
        assert_eq!(places_of(&link), [place(by_id, "scale"), place(root, "dev")].into());
        fs::create_dir(root.join("dev")).unwrap();
        assert_eq!(places_of(&link), [place(by_id, "scale"), place(&root.join("dev"), "tty7")].into());
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(places_of(&root.join("loop")), [place(root, "loop")].into());
    }

    #[test]
    fn a_path_is_reported_through_every_step_of_its_coming() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("serial/by-id/scale");
        let other = root.path().join("serial/by-id/other");
        let mut watch = Watch::new().unwrap();
        watch.add(&link).unwrap();
        watch.add(&other).unwrap();
        assert!(watch.changed().unwrap().is_empty());
        fs::write(root.path().join("unrelated"), "").unwrap();
        assert!(watch.changed().unwrap().is_empty());
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        assert_eq!(watch.changed().unwrap(), [other.clone(), link.clone()]);
        symlink("../../tty7", &link).unwrap();
        assert_eq!(watch.changed().unwrap(), std::slice::from_ref(&link));
        fs::write(root.path().join("tty7"), "").unwrap();
        assert_eq!(watch.changed().unwrap(), std::slice::from_ref(&link));
        fs::remove_dir_all(root.path().join("serial")).unwrap();
        let mut changed = watch.changed().unwrap();
        changed.retain(|path| *path == link);
        assert_eq!(changed, std::slice::from_ref(&link));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        assert!(watch.changed().unwrap().contains(&link));
        watch.remove(&link);
        symlink("../../tty7", &link).unwrap();
        assert!(watch.changed().unwrap().is_empty());
        watch.remove(&other);
        assert!(watch.directories.is_empty());
    }
}
