"""What is measured: the gateway, a floor, or a peer. Each takes records at `trial.machines_at` and posts them to
`trial.receiver_at`; the rest of the harness does not know which it is."""

import json
import os
import shlex
import urllib.error
import urllib.request
from pathlib import Path

from .process import Process

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


class Subject:
    """Base of all; `command` and what else differs is overridden."""

    name = ""
    keeps_order = False
    posts = True

    def command(self, trial) -> list[str]:
        raise NotImplementedError

    def start(self, trial) -> Process:
        return Process(self.name.replace(" ", "-"), self.command(trial), trial.subject_cpus, trial.directory, trial.options.nice)

    def wait_ready(self, trial, process: Process) -> None:
        """Until machines may connect (and, for ports, until they are open)."""

    def counters(self, trial) -> dict[str, int]:
        """Event counts so far, `records` among them."""
        return {}


class Floor(Subject):
    """A bare io_uring program: bench-floor pass."""

    def __init__(self, name: str, source: str | None, post: bool, depth: int = 1, extra: tuple[str, ...] = ()):
        self.name, self.source, self.posts, self.depth, self.extra = name, source, post, depth, extra

    def command(self, trial) -> list[str]:
        command = [str(TARGET / "bench-floor"), "pass", "--board", trial.board.path]
        if self.source in ("tcp", "http"):
            command += [f"--{self.source}", f"127.0.0.1:{trial.machines_at}"]
        elif self.source == "ports":
            command += ["--ports", str(trial.ports), "--machines", str(trial.case.machines)]
        if self.posts:
            command += ["--post", f"127.0.0.1:{trial.receiver_at}", "--depth", str(self.depth)]
            command += ["--connections", str(trial.case.connections)]
        return command + list(self.extra)

    def wait_ready(self, trial, process: Process) -> None:
        process.wait_for_line()


class Gateway(Subject):
    """`ringest run` with nothing turned off."""

    keeps_order = True

    def __init__(self, name: str = "gateway", cores: int = 1):
        self.name, self.cores = name, cores

    def command(self, trial) -> list[str]:
        config = trial.directory / "gateway.toml"
        config.write_text(self.config(trial))
        return [str(TARGET / "ringest"), "run", str(config)]

    def config(self, trial) -> str:
        case, quoted = trial.case, lambda path: json.dumps(str(path))
        receiver = f"http://127.0.0.1:{trial.receiver_at}"
        cores = sorted(os.sched_getaffinity(0))[: self.cores]
        lines = [
            "[gateway]", 'name = "bench"', f"cores = {cores}", f"state_dir = {quoted(trial.state)}",
            f'admin = "127.0.0.1:{trial.admin_at}"', "", "[journal]", f'durability = "{case.durability}"', "",
        ]
        if case.source == "ports":
            for index in range(case.machines):
                path = quoted(trial.ports / f"machine-{index:04}")
                lines += ["[[source]]", f'name = "machine-{index:04}"', 'kind = "serial"', f"path = {path}"]
                lines += ['line = "115200 8N1"', ""]
        else:
            kind = {"tcp": "tcp_listen", "http": "http"}[case.source]
            lines += ["[[source]]", 'name = "machines"', f'kind = "{kind}"']
            lines += [f'listen = "127.0.0.1:{trial.machines_at}"', ""]
        fields = '"machine": {{source|json}}, "data": {{data|json}}'
        if case.two_step:
            lines += ["[sequence]", f'url = "{receiver}/seq/"', 'id_at = "/id"', ""]
            fields = '"id": {{id}}, ' + fields
        lines += ["[deliver]", f'url = "{receiver}/films/"', f"body = '{{{fields}}}'", "success = [201]"]
        lines += [f"connections = {case.connections}", f"pipeline = {case.depth}", ""]
        return "\n".join(lines)

    def wait_ready(self, trial, process: Process) -> None:
        process.wait_for(lambda: self._get(trial, "/readyz") is not None, "readiness")
        if trial.case.source == "ports":
            opened = lambda: sum(source["open"] for source in self.status(trial)["sources"]) >= trial.case.machines
            process.wait_for(opened, "the opening of all ports", 60)

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
        status = self.status(trial)
        return {**status["counters"], **status["terms"], "records": status["terms"].get("delivered", 0)}


class Peer(Subject):
    """Any other program, by a command with {machines}, {receiver} (ports), {url} and {directory} to be filled in."""

    def __init__(self, name: str, template: str):
        self.name, self.template = name, template

    def command(self, trial) -> list[str]:
        values = {
            "machines": str(trial.machines_at), "receiver": str(trial.receiver_at), "directory": str(trial.directory),
            "url": f"http://127.0.0.1:{trial.receiver_at}/films/", "ports": str(trial.ports),
            "peers": str(ROOT / "bench" / "peers"),
        }
        return [part.format(**values) for part in shlex.split(self.template)]
