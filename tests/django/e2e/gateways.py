"""ringest and the usual Python gateway, each with simulated machines of its own."""

import json
import pathlib

from .child import Failure, fetch, tail, wait_until
from .service import PATIENCE_S, free_port

ROOT = pathlib.Path(__file__).resolve().parents[3]
PYTHON_GATEWAY = ROOT / "bench" / "peers" / "gateway.py"
# They are ended when the last fault is over.
SEND_AT_MOST = "180s"

CONFIGURATION = """
[gateway]
name = "e2e-django"
state_dir = {state}
admin = "127.0.0.1:{admin}"

[journal]
durability = "process"

{sources}
[sequence]
url = "{url}/seq/"
id_at = "/id"

[deliver]
url = "{url}/films/"
body = '{{"id": {{{{id}}}}, "machine": {{{{source|json}}}}, "data": {{{{data|json}}}}}}'
success = [201]
retry = {{ first = "200ms", max = "2s" }}
"""
SOURCE = """[[source]]
name = "{name}"
kind = "serial"
path = {path}
line = "115200 8N1"
first = "keep"
"""


class Line:
    """Machines on ptys, and a gateway that reads them. In the table its records bear PREFIX.MACHINE."""

    prefix = ""

    def __init__(self, children, options, directory, url):
        self.children, self.options, self.url = children, options, url
        self.directory = directory / self.prefix
        self.directory.mkdir()
        self.names = [f"machine-{index:04}" for index in range(options.machines)]
        self.starts, self.child = 0, None
        ready, self.ledger = self.directory / "simulate.ready", self.directory / "ledger.csv"
        with open(self.directory / "simulate.json", "wb") as output:
            self.machines = self.start_machines(ready, output)
        wait_until("all ptys are open", ready.exists, PATIENCE_S, self.machines)

    def start_machines(self, ready, output):
        options = self.options
        return self.children.start(f"simulate for {self.prefix}", [
            options.ringest, "simulate", "--ptys", str(options.machines), "--dir", self.directory / "ports",
            "--rate", str(options.rate), "--for", SEND_AT_MOST, "--jitter", "0.5", "--ledger", self.ledger,
            "--ready-file", ready, "--json",
        ], self.directory / "simulate.log", stdout=output)

    def ports(self):
        return [(f"{self.prefix}.{name}", self.directory / "ports" / name) for name in self.names]

    def start(self):
        """Starts the gateway, for the first time or again, and waits until it takes records."""
        self.starts += 1
        ready = self.directory / f"ready-{self.starts}"
        self.child = self.start_gateway(ready)
        wait_until(f"{self.prefix} is ready", ready.exists, PATIENCE_S, self.child)

    def end_machines(self):
        """Ends the machines, once their gateway has read what they sent. Until now they must have sent."""
        self.machines.expect_running()
        code = self.machines.end(seconds=10)
        summary = json.loads((self.directory / "simulate.json").read_text(encoding="ascii"))
        if code != 0 or summary["unread_ports"] != 0:
            raise Failure(f"{self.machines.name} ended with {code}, {summary['unread_ports']} ports were not read to their end")

    def kill(self):
        self.child.kill()


class Ringest(Line):
    prefix = "ringest"

    def start_gateway(self, ready):
        configuration = self.directory / "ringest.toml"
        if not configuration.exists():
            self.admin = free_port()
            sources = "\n".join(SOURCE.format(name=name, path=json.dumps(str(path))) for name, path in self.ports())
            configuration.write_text(CONFIGURATION.format(
                state=json.dumps(str(self.directory / "state")), admin=self.admin, sources=sources, url=self.url,
            ), encoding="utf-8")
        command = [self.options.ringest, "run", configuration, "--ready-file", ready]
        return self.children.start("ringest", command, self.directory / "ringest.log")

    def status(self):
        """The document of /api/status, or None while it cannot be had."""
        body = fetch(f"http://127.0.0.1:{self.admin}/api/status")
        return json.loads(body) if body else None

    def settle(self, seconds):
        """Waits until nothing is pending, stops it, and returns its last status."""
        def settled():
            status = self.status()
            return status if status and status["terms"]["pending"] == 0 else None

        wait_until("ringest has delivered everything", settled, seconds, self.child)
        last = self.status()
        code = self.child.end()
        if code != 0:
            raise Failure(f"ringest ended with {code} after SIGTERM; it said:\n{tail(self.child.log)}")
        return last


class Python(Line):
    prefix = "python"

    def start_gateway(self, ready):
        command = [self.options.python, PYTHON_GATEWAY, "--seq", f"{self.url}/seq/", "--films", f"{self.url}/films/",
                   "--drain", "30", "--ready-file", ready]
        for name, path in self.ports():
            command += ["--serial", f"{name}={path}"]
        with open(self.directory / "python.json", "wb") as output:
            return self.children.start("the Python gateway", command, self.directory / "python.log", stdout=output)

    def settle(self, _seconds):
        """Ends it; it empties its queue first. Returns its own counts since its last start."""
        self.child.end(seconds=60)
        return json.loads((self.directory / "python.json").read_text(encoding="ascii"))
