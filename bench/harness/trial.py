"""One trial: load, subject and receiver as separate processes, a warm-up, a measured time, and then the accounts."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .board import ACCEPTED, ARRIVED, GO, PHASE, READY, SENT, Board
from .process import Failure, Process, between, cpu_times
from .scenario import PROBES_PER_S
from .subject import TARGET
from .where import shares


# A flood is more than the core delivers, by far: so many times as much.
FLOOD_TIMES = 5
# So much lower is the priority of a flood than that of load and receiver.
FLOOD_NICER = 10


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Trial:
    """The assembly around one subject, in a fresh directory."""

    def __init__(self, case, subject, options, repeat: int = 0):
        self.case, self.subject, self.options, self.repeat = case, subject, options, repeat
        cpus = sorted(os.sched_getaffinity(0))
        self.subject_cpus = set(cpus[: subject.cores])
        self.other_cpus = set(cpus[subject.cores :] or cpus[-1:])
        self.machines_at, self.receiver_at, self.admin_at, self.probes_at, self.flood_at = free_ports(5)
        self.probe_board = None
        self._processes: list[Process] = []

    def run(self) -> dict:
        """The row of this trial. `failed` in it says what was wrong, if anything was."""
        self.directory = Path(tempfile.mkdtemp(prefix="trial-", dir=self.options.scratch))
        self.state, self.ports = self.directory / "state", self.directory / "ports"
        self.ports.mkdir()
        self.board = Board(self.case.machines + self.case.probes + self.subject.flood)
        try:
            return self._run()
        except Failure as failure:
            return {"failed": [str(failure)]}
        finally:
            for process in reversed(self._processes):
                process.kill()
            self.board.close()
            if self.probe_board:
                self.probe_board.close()
            shutil.rmtree(self.directory)

    def _start(self, process: Process) -> Process:
        self._processes.append(process)
        return process

    def _run(self) -> dict:
        if self.case.source == "https":
            self._make_certificates()
        null = self._start_receiver() if self.subject.posts else None
        load = None
        if self.case.source == "ports":
            load = self._start_load()  # a port must be there before it is opened
        subject = self._start(self.subject.start(self))
        self.subject.wait_ready(self, subject)
        before_connections = subject.sample()
        if self.case.source in ("tcp", "http", "https"):
            begun = time.monotonic()
            load = self._start_load()
            # A connect is over when the kernel took it; whether it was accepted, the subject says.
            self.subject.wait_connected(self, subject)
            connect_s = time.monotonic() - begun
        probes = self._start_probes() if self.case.probes else None
        self.board[GO] = 0 if self.case.idle else 1
        flood = self._start_flood() if self.subject.flood else None
        row = self._measure(subject, before_connections)
        if self.case.idle:
            row["connect_s"] = round(connect_s, 3)
        if flood:
            row["flood"] = flood.stop()
        row["load"] = load.stop() if load else {}
        if probes:
            row["probes"] = probes.stop()
            row["load"]["accepted_us"] = row["probes"]["accepted_us"]
        row["receiver"] = {}
        stayed = self._stop_subject(row, subject)
        if null:
            row["receiver"] = null.stop()
        faults, unfit = self._faults(row) + stayed, self._unfit(row)
        row["failed"], row["remarks"] = (unfit, faults) if self.subject.is_peer else (faults + unfit, [])
        return row

    def _stop_subject(self, row: dict, subject: Process) -> list[str]:
        """What is wrong with the way in which it ended."""
        try:
            row["subject_end"] = subject.stop()
        except Failure as failure:
            return [str(failure)]
        return []

    def log_path(self, what: str) -> Path:
        """Where a histogram log of this trial is kept."""
        directory = self.options.out / "histograms"
        directory.mkdir(exist_ok=True)
        return directory / f"{self.case.name.replace('/', '-')}.{self.subject.file_name}.{self.repeat + 1}.{what}.hlog"

    def _make_certificates(self) -> None:
        """Those of a CA and of a server at 127.0.0.1; haproxy wants certificate and key in one file."""
        self.pki = self.directory / "pki"
        self.pki.mkdir()
        for words in (["ca", "bench"], ["server", "127.0.0.1"]):
            subprocess.run([str(TARGET / "ringest"), "cert", *words], cwd=self.pki, check=True, stdout=subprocess.DEVNULL)
        both = [self.pki / name for name in ("server.pem", "server.key")]
        (self.pki / "both.pem").write_text("".join(path.read_text() for path in both))

    def _start_receiver(self) -> Process:
        command = [str(TARGET / "bench-null"), "--listen", f"127.0.0.1:{self.receiver_at}", "--board", self.board.path]
        if not self.case.checked:
            command.append("--unchecked")
        if self.case.rate:
            command += ["--histogram-log", str(self.log_path("arrived"))]
        null = self._start(Process("receiver", command, self.other_cpus, self.directory, self.options.nice))
        null.wait_for_line()
        return null

    def _start_load(self) -> Process:
        case = self.case
        command = [str(TARGET / "bench-load"), "--board", self.board.path, "--machines", str(case.machines)]
        command += ["--window", str(case.window), "--batch", str(case.batch)]
        if case.rate:
            command += ["--rate", str(case.rate)]
            command += ["--histogram-log", str(self.log_path("accepted"))] if case.source == "http" else []
        if self.subject.line_feed:
            command.append("--line-feed")
        to = str(self.ports) if case.source == "ports" else f"127.0.0.1:{self.machines_at}"
        way = case.source
        if case.source == "https":
            way, command = "http", [*command, "--tls-ca", str(self.pki / "ca.pem")]
        load = self._start(Process("load", [*command, f"--{way}", to], self.other_cpus, self.directory, self.options.nice))
        load.wait_for(lambda: self.board[READY] == 1, "the connection of all machines", 60)
        return load

    def _start_probes(self) -> Process:
        """HTTP machines that have nothing to do with the others. What they are told stands on a board of their own.

        They are computers of their own, and never wait for a CPU that load, receiver and flood share.
        """
        first, count = self.case.machines, self.case.probes
        self.probe_board = Board(first + count, "-probes")
        command = [
            str(TARGET / "bench-load"), "--board", self.probe_board.path, "--machines", str(count), "--first-machine", str(first),
            "--rate", str(PROBES_PER_S), "--no-drain", "--http", f"127.0.0.1:{self.probes_at}",
            "--histogram-log", str(self.log_path("accepted")),
        ]
        probes = self._start(Process("probes", command, self.other_cpus, self.directory, self.options.nice))
        probes.go_before_all()
        probes.wait_for(lambda: self.probe_board[READY] == 1, "the connection of the machines that are timed", 60)
        self.probe_board[GO] = 1
        return probes

    def _start_flood(self) -> Process:
        """It has what the others leave of their CPU."""
        first = self.case.machines + self.case.probes
        command = [
            str(TARGET / "bench-flood"), "--tcp", f"127.0.0.1:{self.flood_at}", "--machines", str(self.subject.flood),
            "--first-machine", str(first),
        ]
        nice = self.options.nice + FLOOD_NICER
        flood = self._start(Process("flood", command, self.other_cpus, self.directory, nice))
        flood.wait_for_line()
        return flood

    def _set_phase(self, phase: int) -> None:
        for board in (self.board, self.probe_board):
            if board:
                board[PHASE] = phase

    def _measure(self, subject: Process, before_connections) -> dict:
        time.sleep(self.options.warm_up)
        counters_before = self.subject.counters(self)
        self._set_phase(1)
        others = [process for process in self._processes if process is not subject]
        others_before = [process.sample() for process in others]
        cpus_before, first, arrived_before = cpu_times(), subject.sample(), self.board[ARRIVED]
        sent_before, accepted_before = self.board[SENT], self.board[ACCEPTED]
        seconds = self.options.seconds if not self.case.idle else max(self.options.seconds, self.options.idle_seconds)
        if self.options.profile:
            recording = self._profile(subject, seconds)
        else:
            time.sleep(seconds)
        arrived, last, cpus_after = self.board[ARRIVED], subject.sample(), cpu_times()
        self._set_phase(2)
        cost = between(first, last)
        others_cost = [between(sample, process.sample()) for sample, process in zip(others_before, others)]
        records = arrived - arrived_before
        row = {
            "records": records, "seconds": round(cost.seconds, 4), "records_per_s": records / cost.seconds,
            "sent": self.board[SENT] - sent_before, "accepted": self.board[ACCEPTED] - accepted_before,
            "rss_bytes": cost.rss_bytes, "cpu_total_us": cost.cpu_us, "user_total_us": cost.user_us,
            "busy": cost.cpu_us / 1e6 / cost.seconds, "others_busy": sum(one.cpu_us / 1e6 / one.seconds for one in others_cost),
            "cpu_busy": {cpu: round((cpus_after[cpu][0] - b) / max(1, cpus_after[cpu][1] - t), 3) for cpu, (b, t) in cpus_before.items()},
        }
        if self.case.idle:
            memory = last.anonymous_bytes - before_connections.anonymous_bytes
            row["bytes_per_connection"] = memory / self.case.machines
            row["cpu_ms_per_10s"] = cost.cpu_us / 1e3 * 10 / cost.seconds
            row["open"] = self.subject.connections(self)
        elif records:
            row |= {
                "cpu_us": cost.cpu_us / records, "user_us": cost.user_us / records, "system_us": cost.system_us / records,
                "switches": (cost.voluntary + cost.involuntary) / records, "voluntary": cost.voluntary / records,
                **{f"{process.name}_us": one.cpu_us / records for process, one in zip(others, others_cost)},
                "by_thread_us": {tid: round(us / records, 3) for tid, us in cost.by_thread_us.items() if us > 0},
            }
            if self.options.profile:
                row["where_us"] = {label: share * row["cpu_us"] for label, share in shares(recording).items()}
            row |= per_record(counters_before, self.subject.counters(self))
        return row

    def _profile(self, subject: Process, seconds: float) -> Path:
        out = self.options.out / f"{self.case.name.replace('/', '-')}-{self.subject.file_name}.perf"
        record = ["perf", "record", "-q", "-g", "-F", "2999", "-o", str(out), "-p", str(subject.pid)]
        subprocess.run([*record, "--", "sleep", str(seconds)], check=True, stdout=subprocess.DEVNULL)
        return out

    def _faults(self, row: dict) -> list[str]:
        """What must not be, beyond any figure."""
        faults, load, receiver = [], row["load"], row["receiver"]
        if self.case.idle:
            gone = max(load["lost"], self.case.machines - row["open"])
            return [f"{gone} machines lost their connection"] if gone else []
        if row["records"] == 0:
            faults.append("no record arrived")
        if load and load["lost"]:
            faults.append(f"{load['lost']} machines lost their connection")
        if load and load["arrived"] < load["sent"] and not self.subject.flood:
            faults.append(f"{load['sent'] - load['arrived']} of {load['sent']} records did not arrive")
        # The last answers may not have been read when the load was ended.
        if self.case.source == "http" and self.case.rate and load["accepted"] + self.case.machines < load["sent"]:
            faults.append(f"{load['sent'] - load['accepted']} of {load['sent']} requests were not answered")
        if receiver and self.case.checked:
            for what in ("doubled", "corrupt", "missing", "malformed"):
                if receiver[what]:
                    faults.append(f"{receiver[what]} {what}")
            if self.subject.keeps_order and receiver["disordered"]:
                faults.append(f"{receiver['disordered']} out of order")
        return faults


    def _unfit(self, row: dict) -> list[str]:
        """Why the row says nothing of its subject: the load was not what it should be."""
        if self.options.smoke or self.case.idle or not row["records"]:
            return []
        if self.subject.flood:
            times = row["flood"]["sent"] / row["records"]
            return [] if times >= FLOOD_TIMES else [f"{times:.1f} times as much was sent as was delivered: that is no flood"]
        if self.case.rate and row["records_per_s"] < 0.95 * self.case.rate:
            return [f"{row['records_per_s']:.0f} records/s of {self.case.rate:.0f} that were due"]
        # What ports carry passes through a thread of the kernel, which belongs to neither.
        least = 0.35 if self.case.source == "ports" else 0.5
        if not self.case.rate and max(row["busy"], row["others_busy"]) < least:
            return [f"nobody was busy (subject {row['busy']:.0%}, others {row['others_busy']:.0%}): the CPUs had other work"]
        return []


def per_record(before: dict, after: dict) -> dict:
    """The gateway's own counters, which are free of the machine's noise."""
    delta = {name: value - before.get(name, 0) for name, value in after.items()}
    records = delta.get("records", 0)
    if records <= 0:
        return {}
    figures = {
        name: delta[counter] / records
        for name, counter in (
            ("wakes", "wakes"), ("turns", "turns"), ("enters", "enters"), ("completions", "completions"),
            ("journal_writes", "journal_writes"), ("journal_bytes", "journal_bytes"), ("enobufs", "buffers_exhausted"),
        )
        if counter in delta
    }
    if delta.get("api_sends"):
        figures["records_per_send"] = records / delta["api_sends"]
    figures["counted"] = {name: delta[name] for name in ("api_failures", "api_resent", "journal_read_backs", "rejected") if delta.get(name)}
    return figures
