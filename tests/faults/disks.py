"""File systems of a case's own: on loop devices, on block servers that fail when told to. All are in the mount namespace of this
program and go with it at the latest."""

import os
import signal
import subprocess

from e2e.child import Failure, wait_until


def command(*words, seconds=30):
    """Runs a command; its output."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(words)}: not within {seconds} s") from None
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)} failed with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


class Disk:
    """A file system in a file, on a loop device. The file may be one that a block server shows."""

    def __init__(self, disks, image, at, kind="ext4"):
        self.disks, self.image, self.at, self.kind, self.device = disks, image, at, kind, None

    def mount(self, *options):
        """Attaches and mounts it; the file system recovers if it has to."""
        self.at.mkdir(exist_ok=True)
        self.device = command("losetup", "--find", "--show", self.image)
        command("mount", "-t", self.kind, "-o", ",".join(("noatime", *options)), self.device, self.at)
        self.disks.mounted.append(self)

    def unmount(self):
        def is_done():
            try:
                return command("umount", self.at) or True
            except Failure as failure:
                if "busy" not in str(failure):
                    raise
                return False

        # The kernel ends the rings of a killed process a moment after it, and they hold its files.
        wait_until(f"{self.at} is no longer in use", is_done, 10)
        command("losetup", "-d", self.device)
        self.disks.mounted.remove(self)
        self.device = None

    def free_bytes(self):
        found = os.statvfs(self.at)
        return found.f_bavail * found.f_frsize

    def sysfs(self, name):
        """A file of the mounted file system in /sys."""
        return f"/sys/fs/ext4/{os.path.basename(self.device)}/{name}"


class Disks:
    def __init__(self, site):
        self.site, self.mounted, self.tmpfs, self.stopped = site, [], [], []

    def image(self, name, mib):
        """An empty ext4 file system in a file. No block is kept back for root."""
        path = self.site.directory / name
        with open(path, "wb") as file:
            file.truncate(mib << 20)
        # Without lazy initialisation nothing writes later of itself.
        command("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
        return path

    def ext4(self, name, mib, *options):
        disk = Disk(self, self.image(f"{name}.img", mib), self.site.directory / name)
        disk.mount(*options)
        return disk

    def btrfs(self, name, mib):
        """One that copies on write."""
        path = self.site.directory / f"{name}.img"
        with open(path, "wb") as file:
            file.truncate(mib << 20)
        command("mkfs.btrfs", "-q", "-f", "--mixed", path)
        disk = Disk(self, path, self.site.directory / name, "btrfs")
        disk.mount()
        return disk

    def memory(self, name, mib):
        """A tmpfs."""
        at = self.site.directory / name
        at.mkdir()
        command("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "ringest-faults", at)
        self.tmpfs.append(at)
        return at

    def served(self, name, mib, *filters, parameters=()):
        """An ext4 file system on a file that nbdkit serves and nbdfuse shows; (disk, the server)."""
        image = self.image(f"{name}.img", mib)
        server, shown = self.serve(name, [*filters, "file", image, *parameters])
        return Disk(self, shown, self.site.directory / name), server

    def serve(self, name, arguments):
        """Starts nbdkit with a plugin's arguments, and nbdfuse; (the server, the file that shows its bytes)."""
        directory = self.site.directory
        address = directory / f"{name}.sock"
        shown = directory / f"{name}.nbd"
        shown.touch()
        start = self.site.children.start
        server = start("nbdkit", ["nbdkit", "--foreground", "--unix", address, *arguments], directory / "nbdkit.log")
        wait_until("nbdkit listens", address.exists, 10, server)
        fuse = start("nbdfuse", ["nbdfuse", shown, "--unix", address], directory / "nbdfuse.log", stop=signal.SIGTERM)
        wait_until("nbdfuse shows the disk", lambda: shown.stat().st_size > 0, 10, server, fuse)
        return server, shown

    def hold(self, server):
        """Stops a block server: what is asked of it from now on has no answer."""
        self.stopped.append(server)
        server.process.send_signal(signal.SIGSTOP)

    def release(self):
        """Lets all of them go on."""
        for server in self.stopped:
            if server.is_running():
                server.process.send_signal(signal.SIGCONT)
        self.stopped.clear()

    def close(self):
        for disk in reversed(list(self.mounted)):
            subprocess.run(["umount", "-l", disk.at], capture_output=True, check=False)
            if disk.device:
                subprocess.run(["losetup", "-d", disk.device], capture_output=True, check=False)
        for at in self.tmpfs:
            subprocess.run(["umount", "-l", at], capture_output=True, check=False)
