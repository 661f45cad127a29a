"""The memory that load, receiver and harness share; drawn in bench/src/board.rs."""

import mmap
import os
import struct

HEADER_BYTES = 4096
READY, GO, PHASE, SENT, ARRIVED, ACCEPTED = range(6)


class Board:
    """A file in /dev/shm, zeroed, with one word a machine."""

    def __init__(self, machines: int, name: str = ""):
        self.path = f"/dev/shm/ringest-bench-{os.getpid()}{name}"
        self._bytes = HEADER_BYTES + 8 * max(machines, 1)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, self._bytes)
            self._map = mmap.mmap(fd, self._bytes)
        finally:
            os.close(fd)

    def __getitem__(self, word: int) -> int:
        return struct.unpack_from("@Q", self._map, 8 * word)[0]

    def __setitem__(self, word: int, value: int) -> None:
        struct.pack_into("@Q", self._map, 8 * word, value)

    def close(self) -> None:
        self._map.close()
        os.unlink(self.path)
