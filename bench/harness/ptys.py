"""The kernel's limit of pseudo-terminals: raised for a case that needs it, and put back."""

import sys
from pathlib import Path

PTY = Path("/proc/sys/kernel/pty")
# Beyond it the kernel's own share of ptys is left alone.
WANTED_MAX = 12_000
# Left for everyone else.
SPARE = 64


class Ptys:
    """`with Ptys(machines) as most`: how many ptys there may be, at most. `files` is where the kernel's numbers are."""

    def __init__(self, machines: int, files: Path = PTY):
        self._wanted, self._files = machines + SPARE, files
        self._before = None

    def _read(self, name: str) -> int:
        return int((self._files / name).read_text())

    def __enter__(self) -> int:
        most, reserve, in_use = self._read("max"), self._read("reserve"), self._read("nr")
        if in_use + self._wanted > most - reserve and most < WANTED_MAX:
            try:
                (self._files / "max").write_text(str(WANTED_MAX))
                self._before, most = most, WANTED_MAX
                print(f"kernel.pty.max raised from {self._before} to {most} for this case", file=sys.stderr)
            except OSError as error:
                print(f"kernel.pty.max cannot be raised ({error.strerror}); fewer ptys are used", file=sys.stderr)
        return max(0, most - reserve - in_use - SPARE)

    def __exit__(self, *_) -> None:
        if self._before is not None:
            (self._files / "max").write_text(str(self._before))
