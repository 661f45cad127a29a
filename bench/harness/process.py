"""Processes of a trial: started pinned, sampled through /proc, ended by their own id."""

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
STOP_PATIENCE_S = 30
AUTOGROUP = Path("/proc/self/autogroup")


class Failure(Exception):
    """A trial cannot go on; the text says why."""


@dataclass
class Sample:
    """What a process has cost since it started, all threads together."""

    at_s: float
    cpu_ns: dict[int, int]  # by thread, from schedstat: exact
    user_ticks: int  # from stat: the split is sampled by the kernel's tick
    system_ticks: int
    switches: dict[int, tuple[int, int]]  # by thread: voluntary, involuntary
    rss_bytes: int
    anonymous_bytes: int


@dataclass
class Cost:
    """What a process cost between two samples."""

    seconds: float
    cpu_us: float
    user_us: float
    system_us: float
    voluntary: int
    involuntary: int
    rss_bytes: int
    by_thread_us: dict[int, float] = field(default_factory=dict)


def between(first: Sample, last: Sample) -> Cost:
    """Threads that ended in between are missing; the gateway's do not."""
    by_thread = {tid: (ns - first.cpu_ns.get(tid, 0)) / 1e3 for tid, ns in last.cpu_ns.items()}
    cpu_us = sum(by_thread.values())
    user, system = last.user_ticks - first.user_ticks, last.system_ticks - first.system_ticks
    user_us = cpu_us * user / (user + system) if user + system else 0.0
    switched = [sum(s[i] - first.switches.get(tid, (0, 0))[i] for tid, s in last.switches.items()) for i in (0, 1)]
    return Cost(last.at_s - first.at_s, cpu_us, user_us, cpu_us - user_us, *switched, last.rss_bytes, by_thread)


class Process:
    """A child on given CPUs. What it prints goes to a file, from which lines of JSON are read."""

    def __init__(self, name: str, command: list[str], cpus: set[int], directory: Path, nice: int = 0):
        self.name = name
        self.command = command
        self.output = directory / f"{name}.out"
        self._errors = directory / f"{name}.err"

        def before() -> None:
            os.sched_setaffinity(0, cpus)
            if nice:
                os.setpriority(os.PRIO_PROCESS, 0, nice)
                # Where sessions are scheduled as groups, the priority counts only within its group.
                if AUTOGROUP.exists():
                    AUTOGROUP.write_text(str(nice))

        with open(self.output, "wb") as out, open(self._errors, "wb") as err:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                preexec_fn=before,
            )
        self.pid = self._child.pid

    def go_before_all(self) -> None:
        """Whenever it has something to do it has the CPU at once (sched(7), SCHED_FIFO)."""
        try:
            os.sched_setscheduler(self.pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError as error:
            raise Failure(f"{self.name}: only root, or who has CAP_SYS_NICE, can give it the CPU at once") from error

    def check(self) -> None:
        """Raises if it has ended."""
        if self._child.poll() is not None:
            raise Failure(f"{self.name} ended with status {self._child.returncode}: {self.last_words()}")

    def has_ended(self) -> bool:
        return self._child.poll() is not None

    def last_words(self) -> str:
        text = self._errors.read_text(errors="replace").strip()
        return text[-600:] or self.output.read_text(errors="replace").strip()[-600:] or "it said nothing"

    def wait_for(self, condition, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: {what} did not come within {seconds:.0f} s: {self.last_words()}")
            time.sleep(0.01)

    def wait_for_line(self, seconds: float = 30) -> None:
        self.wait_for(lambda: b"\n" in self.output.read_bytes(), "its first line", seconds)

    def stop(self) -> dict:
        """SIGTERM; the last line of JSON that it printed, or {}."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} did not end within {STOP_PATIENCE_S} s of SIGTERM") from None
        if self._child.returncode not in (0, -signal.SIGTERM, 143):
            raise Failure(f"{self.name} ended with status {self._child.returncode}: {self.last_words()}")
        for line in reversed(self.output.read_text(errors="replace").splitlines()):
            if line.startswith("{"):
                return json.loads(line)
        return {}

    def kill(self) -> None:
        """Ends it, and with it all that it started: it leads a session of its own."""
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()

    def pids(self) -> list[int]:
        """The process and its descendants: a peer may have workers."""
        found, queue = [], [self.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    queue += [int(child) for child in task.read_text().split()]
                except OSError:
                    continue
        return found

    def sample(self) -> Sample:
        self.check()
        sample = Sample(time.monotonic(), {}, 0, 0, {}, 0, 0)
        for pid in self.pids():
            try:
                _add(sample, Path(f"/proc/{pid}"))
            except (FileNotFoundError, ProcessLookupError, KeyError):
                if pid == self.pid:
                    raise Failure(f"{self.name} has just ended: {self.last_words()}") from None
                continue  # a child that has just ended
        return sample


def _add(sample: Sample, proc: Path) -> None:
    for task in (proc / "task").iterdir():
        try:
            tid = int(task.name)
            sample.cpu_ns[tid] = int((task / "schedstat").read_text().split()[0])
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
            sample.switches[tid] = (
                int(status["voluntary_ctxt_switches"]), int(status["nonvoluntary_ctxt_switches"]),
            )
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    fields = (proc / "stat").read_text().rsplit(")", 1)[1].split()
    sample.user_ticks += int(fields[11])
    sample.system_ticks += int(fields[12])
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    sample.rss_bytes += int(status["VmRSS"].split()[0]) * 1024
    sample.anonymous_bytes += int(status["RssAnon"].split()[0]) * 1024


def cpu_times() -> dict[int, tuple[int, int]]:
    """Busy and all ticks of each CPU."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *rest = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(tick) for tick in rest[:8]]
            times[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return times
