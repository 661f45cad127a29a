"""A case's own directory, gateway, receiver and machines."""

import json
import os
import pathlib
import re
import shutil
import signal
import time

from e2e.child import Children, Failure, fetch, tail, wait_until
from e2e.service import free_port

from .disks import Disks
from .ledger import Ledger
from .wire import Wire

PATIENCE_S = 30

CONFIGURATION = """[gateway]
name = "faults"
cores = {cores}
state_dir = {state}
admin = "127.0.0.1:{admin}"

[journal]
{journal}

[[source]]
name = "tcp"
kind = "tcp_listen"
listen = "127.0.0.1:{tcp}"
lane = "connection"
first = "keep"
{listener}

[[source]]
name = "http"
kind = "http"
listen = "127.0.0.1:{http}"
{listener}

{sequence}[deliver]
url = "http://127.0.0.1:{api}/films/"
body = '{body}'
retry = {{ first = "20ms", max = "200ms" }}
drain = "3s"
{deliver}
"""
# Small segments, so that records go through many of them.
JOURNAL = {"durability": "power", "segment_size": "1MiB", "max_size": "256MiB", "window": "4MiB"}


class Terms(dict):
    """The identity's terms."""

    def __getattr__(self, name):
        return self[name]

    def balance(self):
        return self.received + self.recovered == self.delivered + self.pending + self.parked + self.rejected + self.discarded


class Gateway:
    """One state directory, and the process that works on it: `ringest run`, under changing circumstances."""

    def __init__(self, site, name, api, **journal):
        self.site, self.name, self.api = site, name, api
        self.directory = site.directory / name
        self.directory.mkdir()
        self.state = self.directory / "state"
        self.tcp, self.http, self.admin = site.port(), site.port(), site.port()
        self.journal = {**JOURNAL, **journal}
        self.cores, self.sequence = "[0]", False
        # More keys of [deliver], as in the file.
        self.deliver = {}
        # More keys of both sources, as in the file.
        self.listener = ""
        self.child, self.starts, self.log, self.said = None, 0, self.directory / "ringest.log", 0
        self.ready = None

    def configure(self):
        path = self.directory / "ringest.toml"
        sequence = f'[sequence]\nurl = "http://127.0.0.1:{self.api}/seq/"\nid_at = "/id"\n\n' if self.sequence else ""
        fields = '"id": {{id}}, ' if self.sequence else ""
        path.write_text(CONFIGURATION.format(
            cores=self.cores, state=json.dumps(str(self.state)), admin=self.admin, tcp=self.tcp, http=self.http, api=self.api,
            listener=self.listener,
            journal="\n".join(f'{key} = "{value}"' for key, value in self.journal.items()), sequence=sequence,
            deliver="\n".join(f"{key} = {value}" for key, value in self.deliver.items()),
            body="{" + fields + '"machine": {{source|json}}, "data": {{data|json}}}',
        ), encoding="utf-8")
        return path

    def spawn(self, *before, environment=None, user=None):
        """Starts it, under the command `before`, and does not wait."""
        assert self.child is None, "it runs"
        self.starts += 1
        for wire in self.site.wires:
            wire.ledger.starts += 1
        self.ready = self.directory / f"ready-{self.starts}"
        self.said = self.log.stat().st_size if self.log.exists() else 0
        command = [*before, self.site.options.ringest, "run", self.configure(), "--ready-file", self.ready]
        self.child = self.site.children.start(self.name, command, self.log, environment=environment, user=user)

    def start(self, *before, seconds=PATIENCE_S, **options):
        """Starts it and waits until it takes records; seconds that this took."""
        begun = time.monotonic()
        self.spawn(*before, **options)
        self.wait_ready(seconds)
        return time.monotonic() - begun

    def wait_ready(self, seconds=PATIENCE_S):
        until = time.monotonic() + seconds
        while not self.ready.exists():
            self.child.expect_running()
            if time.monotonic() > until:
                raise Failure(f"{self.name} is not ready within {seconds} s; it said:\n{tail(self.log)}")
            time.sleep(0.002)

    def is_ready(self):
        return self.ready.exists()

    def words(self):
        """What it said since its last start."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.said)
            return re.sub(r"\x1b\[[0-9;]*m", "", file.read())

    def pid(self):
        """That of ringest itself, whatever it was started by."""
        return int((self.state / "lock").read_text(encoding="ascii"))

    def kill(self):
        self.child.kill()
        self.site.children.all.remove(self.child)
        self.child = None

    def wait_end(self, seconds=10):
        """Its exit status once it has ended of itself."""
        code = self.child.wait(seconds)
        self.kill()
        return code

    def stop(self, seconds=15):
        """As an operator stops it; it must end well."""
        os.kill(self.pid(), signal.SIGTERM)
        code = self.child.wait(seconds)
        self.kill()
        if code != 0:
            raise Failure(f"{self.name} ended with {code} after SIGTERM; it said:\n{tail(self.log)}")

    def try_status(self, seconds=5):
        body = fetch(f"http://127.0.0.1:{self.admin}/api/status", seconds)
        return json.loads(body) if body else None

    def status(self):
        status = wait_until(f"{self.name} tells its status", self.try_status, PATIENCE_S, self.child)
        terms = Terms(status["terms"])
        if not (status["balanced"] and terms.balance()):
            raise Failure(f"the accounting of {self.name} does not balance: {terms}")
        return status

    def terms(self):
        return Terms(self.status()["terms"])

    def received(self, source):
        """Records of a source, by the gateway's own count."""
        return sum(found["received"] - found["rejected"] for found in self.status()["sources"] if found["name"] == source)

    def problem(self):
        """What the journals say is wrong."""
        return "; ".join(found["text"] for found in self.status()["problems"] if found["area"] == "journal")

    def wait_for(self, what, is_so, seconds=PATIENCE_S):
        return wait_until(what, is_so, seconds, self.child)

    def wait_settled(self, seconds=PATIENCE_S):
        """Until nothing is pending; the terms then."""
        def settled():
            terms = self.terms()
            return terms if terms.pending == 0 else None

        terms = self.wait_for(f"{self.name} has delivered everything", settled, seconds)
        if terms.parked or terms.rejected or terms.discarded:
            raise Failure(f"nothing was to be parked, rejected or discarded: {terms}")
        return terms

    def rss_mib(self):
        return self.status()["process"]["rss_bytes"] / 1048576

    def recovery(self):
        """What the last start found, added up over its journals: the fields of its line."""
        found = {}
        for line in self.words().splitlines():
            if " was read" in line:
                for name, value in re.findall(r"(\w+)=(\d+)", line):
                    found[name] = found.get(name, 0) + int(value)
        return found


class Site:
    """All of a case. `options.ringest` is the program; `options.seed` makes its choices."""

    def __init__(self, options, directory):
        self.options, self.directory = options, pathlib.Path(directory)
        # Where block files are; a fresh tmpfs of this program's own.
        self.shared_memory = pathlib.Path("/dev/shm")
        self.children = Children()
        self.disks = Disks(self)
        self.wires, self.ports = [], set()

    def port(self):
        """One that is free now and was not given away before."""
        while (port := free_port()) in self.ports:
            pass
        self.ports.add(port)
        return port

    def receiver(self, lenient=False):
        """A receiver (down for now) with its ledger and machines."""
        wire = Wire(Ledger(lenient), self.port(), self.options.seed)
        self.wires.append(wire)
        return wire

    def gateway(self, wire, name="gateway", **journal):
        return Gateway(self, name, wire.receiver.address[1], **journal)

    def judge(self, *wires):
        """Raises what the ledgers found."""
        findings = [finding for wire in wires or self.wires for finding in wire.ledger.verdict()]
        if findings:
            more = f"\n  … and {len(findings) - 10} more" if len(findings) > 10 else ""
            raise Failure("\n  ".join([f"{len(findings)} findings", *findings[:10]]) + more)

    def close(self):
        """Ends whatever is left, the most dependent first."""
        for wire in self.wires:
            wire.is_over = True
            wire.join(5)
        # A stopped block server would keep everything above it from ending.
        self.disks.release()
        self.children.end_all()
        self.disks.close()
        # What killed gateways left is nothing to the next case.
        for path in self.shared_memory.glob("ringest-*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
