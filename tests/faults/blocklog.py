"""A block device whose writes and flushes are logged, and what was on it at any flush: the device after a loss of power.

The log is that of the Linux device-mapper target log-writes (Documentation/admin-guide/device-mapper/log-writes.rst), as
qemu-storage-daemon's driver blklogwrites writes it: a superblock, then entries of a header and its data, each in whole log
sectors, little-endian.
"""

import dataclasses
import json
import os
import random
import struct

from e2e.child import Failure, wait_until

MAGIC = 0x6A736677736872
SUPERBLOCK = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512


@dataclasses.dataclass(frozen=True)
class Entry:
    """`at` and `bytes`: on the device; `data_at`: in the log; `end`: of the entry in the log."""

    at: int
    bytes: int
    flags: int
    data_at: int
    end: int


class LoggedDevice:
    """A file that behaves like a device of `mib` MiB; its writes go to the file `image` and, in order, to the file `log`."""

    def __init__(self, site, image):
        self.site, self.image, self.log = site, image, site.directory / "blocks.log"
        self.shown = site.directory / "blocks.device"
        self.log.touch()
        self.shown.touch()
        # What was on it before anything was logged.
        self.original = image.read_bytes()
        blocks = [
            {"driver": "file", "node-name": "image", "filename": str(image)},
            {"driver": "file", "node-name": "log", "filename": str(self.log)},
            {"driver": "blklogwrites", "node-name": "logged", "file": "image", "log": "log", "log-sector-size": SECTOR},
        ]
        export = {"type": "fuse", "id": "device", "node-name": "logged", "mountpoint": str(self.shown), "writable": True}
        command = ["qemu-storage-daemon"]
        for block in blocks:
            command += ["--blockdev", json.dumps(block)]
        self.daemon = site.children.start("qemu-storage-daemon", [*command, "--export", json.dumps(export)], site.directory / "qemu.log")
        size = len(self.original)
        wait_until("the device is there", lambda: self.shown.stat().st_size == size, 10, self.daemon)

    def position(self):
        """Everything that was completed until now is in the log below it."""
        return os.stat(self.log).st_size

    def entries(self):
        """All entries, once nothing is written any more."""
        with open(self.log, "rb") as file:
            magic, version, _count, sector = SUPERBLOCK.unpack(file.read(SUPERBLOCK.size))
            if (magic, version) != (MAGIC, 1):
                raise Failure("this is no log of writes")
            size, at, found = self.position(), sector, []
            while at + ENTRY.size <= size:
                file.seek(at)
                start, sectors, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
                if sectors == 0 and flags == 0:
                    raise Failure(f"a hole in the log at {at} of {size}")
                stored = 0 if flags & DISCARD else sectors * sector
                at += sector + stored
                found.append(Entry(start * sector, sectors * sector, flags, at - stored, at))
            return found


class Replay:
    """The device's contents, followed along the log."""

    def __init__(self, device, entries):
        self.device, self.entries, self.done = device, entries, 0
        self.bytes = bytearray(device.original)
        self.log = open(device.log, "rb")

    def apply(self, entry, to=None, pieces=None):
        """`pieces`: which pieces of 512 bytes arrive; all without it."""
        to = self.bytes if to is None else to
        if entry.flags & DISCARD or entry.bytes == 0:
            return
        self.log.seek(entry.data_at)
        data = self.log.read(entry.bytes)
        if pieces is None:
            to[entry.at:entry.at + len(data)] = data
            return
        for start in range(0, len(data), SECTOR):
            if pieces():
                to[entry.at + start:entry.at + start + SECTOR] = data[start:start + SECTOR]

    def advance(self, index):
        """Up to and with the entry at `index`."""
        while self.done <= index:
            self.apply(self.entries[self.done])
            self.done += 1

    def image(self, path, disorder):
        """Writes what a machine finds that lost its power here. With `disorder` some of what was written after this flush and before
        the next one has arrived all the same, in parts."""
        found, late = self.bytes, 0
        if disorder:
            found = bytearray(self.bytes)
            for entry in self.entries[self.done:]:
                if entry.flags & FLUSH:
                    break
                # Not at all, whole, or torn.
                share = random.choice([0.0, 0.5, 1.0])
                self.apply(entry, found, lambda share=share: random.random() < share)
                late += share > 0
        with open(path, "wb") as file:
            file.write(found)
        return late
