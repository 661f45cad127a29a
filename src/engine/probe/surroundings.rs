//! What takes memory away that should outlive the process: the container that it belongs to, or a session manager that cleans up.

use nix::unistd::{Uid, User, geteuid};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the first IPC namespace of a machine (include/linux/proc_ns.h): who is in that shares the machine's /dev/shm.
const FIRST_IPC_NAMESPACE: &str = "ipc:[4026531839]";
/// The largest UID of system users, whose files logind leaves alone.
const SYSTEM_UID_MAX: u32 = 999;
/// The users that systemd makes for a service, and whose files it removes with it (systemd.exec(5), DynamicUser=).
const DYNAMIC_UIDS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// What takes files of a directory before the machine is started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndsWith {
    /// They go with this container.
    Container,
    /// logind removes them when this user has logged out (RemoveIPC=).
    Login {
        /// The user's name.
        user: String,
    },
    /// systemd removes them when the service stops (DynamicUser=).
    Service,
}

/// What this process runs in.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    is_container: bool,
    shares_ipc: bool,
    uid: u32,
    user: String,
    /// logind runs, and removes what a user leaves.
    removes_ipc: bool,
    /// The user stays logged in for ever.
    lingers: bool,
}

impl Surroundings {
    pub(super) fn now() -> Self {
        let uid = geteuid().as_raw();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let ipc = fs::read_link("/proc/self/ns/ipc");
        Self {
            is_container: is_container(Path::new("/")) || std::env::var_os("container").is_some(),
            shares_ipc: ipc.is_ok_and(|ipc| ipc == Path::new(FIRST_IPC_NAMESPACE)),
            uid,
            removes_ipc: removes_ipc(Path::new("/")),
            lingers: Path::new("/var/lib/systemd/linger").join(&user).exists(),
            user,
        }
    }

    /// What takes files of a directory away.
    pub(super) fn end(&self, directory: &Path, file_system: Option<&str>) -> Option<EndsWith> {
        let is_shared_memory = directory.starts_with("/dev/shm");
        let is_private = matches!(file_system, Some("tmpfs" | "ramfs" | "overlay"));
        let is_machines = is_shared_memory && self.shares_ipc;
        if self.is_container && is_private && !is_machines {
            return Some(EndsWith::Container);
        }
        if is_shared_memory && DYNAMIC_UIDS.contains(&self.uid) {
            return Some(EndsWith::Service);
        }
        let is_cleaned_up = self.removes_ipc && self.uid > SYSTEM_UID_MAX && !self.lingers;
        (is_shared_memory && is_cleaned_up).then(|| EndsWith::Login { user: self.user.clone() })
    }
}

/// What container managers leave for those inside.
fn is_container(root: &Path) -> bool {
    ["run/.containerenv", ".dockerenv", "run/systemd/container"].iter().any(|mark| root.join(mark).exists())
}

/// Whether logind runs and is not told to leave files alone: logind.conf(5), the last word counts, and those of drop-ins after it.
fn removes_ipc(root: &Path) -> bool {
    if !root.join("run/systemd/seats").exists() {
        return false;
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for directory in ["usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd"] {
        let dropped = fs::read_dir(root.join(directory).join("logind.conf.d"));
        files.extend(dropped.into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    let main = ["usr/lib/systemd/logind.conf", "etc/systemd/logind.conf"].map(|path| root.join(path));
    let texts = main.iter().chain(&files).filter_map(|path| fs::read_to_string(path).ok());
    let value_of = |line: &str| {
        let value = line.trim().strip_prefix("RemoveIPC")?.trim_start().strip_prefix('=')?;
        Some(value.trim().to_ascii_lowercase())
    };
    let values: Vec<String> = texts.flat_map(|text| text.lines().filter_map(value_of).collect::<Vec<_>>()).collect();
    values.last().is_none_or(|value| !["no", "n", "false", "f", "off", "0"].contains(&value.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED_MEMORY: &str = "/dev/shm";

    fn user(uid: u32) -> Surroundings {
        Surroundings {
            is_container: false,
            shares_ipc: true,
            uid,
            user: "press".to_owned(),
            removes_ipc: true,
            lingers: false,
        }
    }

    fn end(of: &Surroundings, directory: &str, file_system: &str) -> Option<EndsWith> {
        of.end(Path::new(directory), Some(file_system))
    }

    #[test]
    fn what_a_user_leaves_in_shared_memory_goes_with_the_login_unless_it_is_a_system_user_or_lingers() {
        for uid in [0, 104, 999] {
            assert_eq!(end(&user(uid), SHARED_MEMORY, "tmpfs"), None, "{uid}");
        }
        for uid in [1_000, 60_000] {
            let expected = Some(EndsWith::Login { user: "press".to_owned() });
            assert_eq!(end(&user(uid), SHARED_MEMORY, "tmpfs"), expected, "{uid}");
            assert_eq!(end(&user(uid), "/run/user/1000", "tmpfs"), None, "logind removes nothing there by this");
            assert_eq!(end(&Surroundings { lingers: true, ..user(uid) }, SHARED_MEMORY, "tmpfs"), None);
            assert_eq!(end(&Surroundings { removes_ipc: false, ..user(uid) }, SHARED_MEMORY, "tmpfs"), None);
        }
        let dynamic = Surroundings { removes_ipc: false, ..user(61_184) };
        assert_eq!(end(&dynamic, SHARED_MEMORY, "tmpfs"), Some(EndsWith::Service), "logind has no part in it");
    }

    #[test]
    fn a_containers_own_memory_goes_with_it_and_a_volume_does_not() {
        let container = Surroundings { is_container: true, shares_ipc: false, removes_ipc: false, ..user(0) };
        assert_eq!(end(&container, SHARED_MEMORY, "tmpfs"), Some(EndsWith::Container));
        assert_eq!(end(&container, "/run/ringest", "tmpfs"), Some(EndsWith::Container));
        assert_eq!(end(&container, "/var/lib/blocks", "overlay"), Some(EndsWith::Container));
        assert_eq!(end(&container, "/blocks", "ext4"), None);
        let shared = Surroundings { shares_ipc: true, ..container };
        assert_eq!(end(&shared, SHARED_MEMORY, "tmpfs"), None, "--ipc=host");
        assert_eq!(end(&shared, "/run/ringest", "tmpfs"), Some(EndsWith::Container));
    }

    #[test]
    fn logind_removes_what_users_leave_unless_its_last_word_is_no() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("one")).and_then(|()| fs::write(path, text)).expect("written");
        };
        assert!(!removes_ipc(root.path()), "no logind");
        write("run/systemd/seats/seat0", "");
        assert!(removes_ipc(root.path()), "its default");
        write("etc/systemd/logind.conf", "[Login]\n#RemoveIPC=yes\nRemoveIPC = no\n");
        assert!(!removes_ipc(root.path()));
        write("etc/systemd/logind.conf.d/90-site.conf", "[Login]\nRemoveIPC=yes\n");
        assert!(removes_ipc(root.path()));
        write("run/systemd/logind.conf.d/95-later.conf", "[Login]\nRemoveIPC=off\n");
        write("run/systemd/logind.conf.d/99-no.txt", "[Login]\nRemoveIPC=yes\n");
        assert!(!removes_ipc(root.path()));
    }

    #[test]
    fn container_managers_are_known_by_what_they_leave() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(!is_container(root.path()));
        fs::write(root.path().join(".dockerenv"), "").expect("written");
        assert!(is_container(root.path()));
    }
}
