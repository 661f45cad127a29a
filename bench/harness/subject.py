"""What is measured: the gateway, or a floor; peers are in peer.py. Each takes records at `trial.machines_at` and posts them to
`trial.receiver_at`; the rest of the harness does not know which it is."""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .process import Process

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "release"


class Subject:
    """Base of all; `command` and what else differs is overridden."""

    name = ""
    cores = 1  # CPUs that it has
    keeps_order = False
    posts = True
    is_peer = False  # what a peer loses is a result, not a fault of the bench
    line_feed = False  # records end with LF rather than CR
    flood = 0  # machines that flood it

    def command(self, trial) -> list[str]:
        raise NotImplementedError

    def start(self, trial) -> Process:
        return Process(self.file_name, self.command(trial), trial.subject_cpus, trial.directory, trial.options.nice)

    def wait_ready(self, trial, process: Process) -> None:
        """Until machines may connect (and, for ports, until they are open)."""

    def wait_connected(self, trial, process: Process) -> None:
        """Until it has accepted all machines, where it says so."""

    def connections(self, trial) -> int:
        """Machines whose connections or ports are open, where it says so."""
        return trial.case.machines

    def counters(self, trial) -> dict[str, int]:
        """Event counts so far, `records` among them."""
        return {}

    def missing(self) -> str:
        """What it needs and what is not there; empty if it can run."""
        return ""

    @property
    def file_name(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


class Floor(Subject):
    """A bare io_uring program: bench-floor pass."""

    def __init__(self, name: str, source: str | None, post: bool, depth: int = 1, extra: tuple[str, ...] = ()):
        self.name, self.source, self.posts, self.depth, self.extra = name, source, post, depth, extra

    def command(self, trial) -> list[str]:
        command = [str(TARGET / "bench-floor"), "pass", "--board", trial.board.path]
        if self.source in ("tcp", "http", "https"):
            command += [f"--{self.source.removesuffix('s')}", f"127.0.0.1:{trial.machines_at}"]
        if self.source == "https":
            command += ["--tls", str(trial.pki / "server.pem"), str(trial.pki / "server.key")]
        if self.source == "ports":
            command += ["--ports", str(trial.ports), "--machines", str(trial.case.machines)]
        if self.posts:
            command += ["--post", f"127.0.0.1:{trial.receiver_at}", "--depth", str(self.depth)]
            command += ["--connections", str(trial.case.connections)]
        return command + list(self.extra)

    def wait_ready(self, trial, process: Process) -> None:
        process.wait_for_line()


@dataclass(frozen=True)
class Waiting:
    """Of records that wait: how many machines sent them, one after the other on connections of their own; whether the gateway is
    started anew meanwhile."""

    machines: int
    restarted: bool = False


class Gateway(Subject):
    """`ringest run` with nothing turned off, unless `blind`: then with histograms and counters compiled out."""

    keeps_order = True

    def __init__(
        self, name: str = "gateway", *, cores: int = 1, ids: bool = False, lease: int = 1, batch: int = 0,
        durability: str = "process", levers: bool = False, blind: bool = False, waiting: Waiting | None = None, flood: int = 0,
    ):
        # Machines that send beside the others as fast as their connections take it.
        self.flood = flood
        self.name, self.cores, self.ids, self.lease, self.batch = name, cores, ids, lease, batch
        self.durability, self.levers, self.blind, self.waiting = durability, levers, blind, waiting

    def command(self, trial) -> list[str]:
        config = trial.directory / "gateway.toml"
        config.write_text(self.config(trial))
        command = [str(TARGET / ("bench-blind" if self.blind else "ringest")), "run", str(config)]
        if trial.case.rate and not self.blind:
            command += ["--histogram-log", str(trial.log_path("stages"))]
        return command

    def config(self, trial) -> str:
        case, quoted = trial.case, lambda path: json.dumps(str(path))
        receiver = f"http://127.0.0.1:{trial.receiver_at}"
        lines = [
            "[gateway]", 'name = "bench"', f"cores = {sorted(trial.subject_cpus)}", f"state_dir = {quoted(trial.state)}",
            f'admin = "127.0.0.1:{trial.admin_at}"', 'min_wait = "250us"' if self.levers else "", "",
            "[journal]", f'durability = "{self.durability}"', 'max_size = "8GiB"' if case.probes else "", "",
        ]
        if case.probes:
            lines += ["[[source]]", 'name = "probes"', 'kind = "http"', f'listen = "127.0.0.1:{trial.probes_at}"', ""]
            lines += ["[[source]]", 'name = "flood"', 'kind = "tcp_listen"', f'listen = "127.0.0.1:{trial.flood_at}"', 'lane = "connection"', ""]
        if case.source == "ports":
            for index in range(case.machines):
                path = quoted(trial.ports / f"machine-{index:04}")
                lines += ["[[source]]", f'name = "machine-{index:04}"', 'kind = "serial"', f"path = {path}"]
                lines += ['line = "115200 8N1"', 'first = "keep"', ""]
        else:
            kind = {"tcp": "tcp_listen", "http": "http", "https": "http"}[case.source]
            lines += ["[[source]]", 'name = "machines"', f'kind = "{kind}"', f'listen = "127.0.0.1:{trial.machines_at}"']
            lines += ['lane = "connection"'] if case.source == "tcp" else []
            if case.source == "https":
                lines += [f"tls = {{ certificate = {quoted(trial.pki / 'server.pem')}, key = {quoted(trial.pki / 'server.key')} }}"]
            lines += ["quick_ack = false", ""] if self.levers and case.source == "tcp" else [""]
        fields = '"machine": {{source|json}}, "data": {{data|json}}'
        if self.ids:
            lines += ["[sequence]", f'url = "{receiver}/seq/"', 'id_at = "/id"']
            lines += [f"lease = {self.lease}", 'count_at = "/count"'] if self.lease > 1 else []
            fields = '"id": {{id}}, ' + fields
        lines += ["", "[deliver]", f'url = "{receiver}/films/"', f"body = '{{{fields}}}'", "success = [201]"]
        lines += [f"connections = {case.connections}", f"pipeline = {case.depth}"]
        # What a flood has left is not waited for.
        lines += ['drain = "1s"'] if self.waiting else ['drain = "100ms"'] if case.probes else []
        lines += [""]
        if self.batch:
            lines += ["[deliver.batch]", 'form = "ndjson"', f"records = {self.batch}", 'wait = "5ms"', ""]
        return "\n".join(lines)

    def wait_ready(self, trial, process: Process) -> None:
        process.wait_for(lambda: self._get(trial, "/readyz") is not None, "readiness")
        if trial.case.source == "ports":
            self.wait_connected(trial, process)

    def wait_connected(self, trial, process: Process) -> None:
        process.wait_for(lambda: self.connections(trial) >= trial.case.machines, "the opening of all ports or connections", 60)

    def connections(self, trial) -> int:
        return trial.case.machines if self.blind else sum(source["open"] for source in self.status(trial)["sources"])

    def _get(self, trial, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{trial.admin_at}{path}", timeout=5) as answer:
                return answer.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def status(self, trial) -> dict:
        answer = self._get(trial, "/api/status")
        return json.loads(answer) if answer else {"counters": {}, "terms": {}, "sources": []}

    def counters(self, trial) -> dict[str, int]:
        if self.blind:
            return {}
        status = self.status(trial)
        return {**status["counters"], **status["terms"], "records": status["terms"].get("delivered", 0)}
