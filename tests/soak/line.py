"""The line that is soaked: one gateway at level power, the service, and machines of every kind."""

import json
import os
import pathlib
import socket
import time

from e2e.child import Failure, wait_until
from faults.site import Gateway, Site, Terms
from faults.wire import Wire

from .account import Account
from .machines import Flood, HttpMachine, SerialMachine, TcpMachine
from .service import Service

# Of 500 records a second: so many machines of a kind, with so many records a second each.
TCP, TCP_RATE = 8, 30
HTTP, HTTP_RATE = 8, 20
SERIAL, SERIAL_RATE = 4, 25
RATE = TCP * TCP_RATE + HTTP * HTTP_RATE + SERIAL * SERIAL_RATE
# At rest no more than these are on their way.
PENDING_REST = 100
REST_S, REST_EVERY_S, REST_LOOKS = 60, 0.5, 3

CONFIGURATION = """[gateway]
name = "soak"
cores = {cores}
state_dir = {state}
admin = "127.0.0.1:{admin}"

[journal]
durability = "power"
segment_size = "1MiB"
max_size = "16MiB"
window = "2MiB"

[framing.serial]
start = "0x02"
end = "0x03"

[[source]]
name = "tcp"
kind = "tcp_listen"
listen = "127.0.0.1:{tcp}"
lane = "connection"

[[source]]
name = "http"
kind = "http"
listen = "127.0.0.1:{http}"
{more}
[sequence]
url = "http://127.0.0.1:{api}/seq/"
id_at = "/id"

[deliver]
url = "http://127.0.0.1:{api}/films/"
connections = {connections}
pipeline = {pipeline}
timeout = "3s"
retry = {{ first = "50ms", max = "{retry_max}" }}
drain = "2s"

[deliver.answers]
attempts = 3
"""
SERIAL_SOURCE = """
[[source]]
name = "line-{index}"
kind = "serial"
path = {path}
line = "115200 8N1"
framing = "serial"
flow = "{flow}"
first = "keep"
"""
EXTRA_SOURCE = """
[[source]]
name = "extra"
kind = "tcp_listen"
listen = "127.0.0.1:{extra}"
lane = "connection"
"""
DEAD_SOURCE = """
[[source]]
name = "dead-{index}"
kind = "tcp_connect"
connect = "dead-{index}.example:7000"
"""
# Without an answer from any name server.
NAMELESS = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
NAME_SERVER = "127.0.0.53"
DESCRIPTORS = (("socket:", "socket"), ("anon_inode:", "anonymous"), ("/dev/pts/", "tty"), ("pipe:", "pipe"))
# What SIGHUP changes.
BASE = {"connections": 8, "pipeline": 1, "retry_max": "500ms", "extra": False, "dead": 0}


class SoakGateway(Gateway):
    """With its own configuration, of which `settings` may be changed."""

    def __init__(self, site, name, api, cores):
        super().__init__(site, name, api)
        self.cores = json.dumps(list(range(cores)))
        self.extra, self.settings = site.port(), dict(BASE)
        self.path = self.directory / "ringest.toml"

    def port_link(self, index):
        return self.directory / f"line-{index}"

    def configure(self):
        more = "".join(SERIAL_SOURCE.format(index=index, path=json.dumps(str(self.port_link(index))), flow=("none", "xonxoff")[index % 2])
                       for index in range(SERIAL))
        if self.settings["extra"]:
            more += EXTRA_SOURCE.format(extra=self.extra)
        more += "".join(DEAD_SOURCE.format(index=index) for index in range(self.settings["dead"]))
        self.path.write_text(CONFIGURATION.format(cores=self.cores, state=json.dumps(str(self.state)), admin=self.admin, tcp=self.tcp,
                                                  http=self.http, api=self.api, more=more, **self.settings), encoding="utf-8")
        return self.path

    def forget_memory(self):
        """Removes block files that a killed one left in shared memory."""
        for trace in self.state.glob("core-*/blocks-*"):
            (self.site.shared_memory / trace.name.removeprefix("blocks-")).unlink(missing_ok=True)


class Line:
    """All of it. `options`: as of the command line."""

    def __init__(self, options, directory):
        self.site = Site(options, directory)
        self.account = Account()
        self.wire = Wire(self.account, self.site.port(), options.seed)
        self.site.wires.append(self.wire)
        old = self.wire.receiver
        self.wire.do(lambda: setattr(self.wire, "receiver", Service(self.wire, self.account, old.address[1], old.rng)))
        self.gateway = SoakGateway(self.site, "gateway", old.address[1], options.cores)
        self.machines, self.floods = [], []
        # It takes questions and answers none.
        self.name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.name_server.bind((NAME_SERVER, 53))
        self.resolver = pathlib.Path(directory) / "resolv.conf"
        self.resolver.write_text(f"nameserver {NAME_SERVER}\n", encoding="utf-8")
        # Lane and records delivered of each machine when it was last looked at.
        self.seen = {}
        # Records that were cut on purpose in the gateway's present life.
        self.rejects_allowed = 0
        # Of the gateway while it lives, for the meter.
        self.pid = None

    # ---- what others ask for

    def do(self, action):
        return self.wire.do(action)

    def fault(self, what):
        self.do(lambda: setattr(self.wire.receiver, "fault", what))

    def receive(self, mode):
        self.wire.receive(mode)

    def begin(self):
        self.receive("up")
        self.start()

        def make():
            wire, gateway = self.wire, self.gateway
            self.machines += [TcpMachine(wire, f"t{index}", gateway.tcp, TCP_RATE) for index in range(TCP)]
            self.machines += [HttpMachine(wire, f"h{index}", gateway.http, HTTP_RATE) for index in range(HTTP)]
            self.machines += [SerialMachine(wire, f"line-{index}", gateway.port_link(index), SERIAL_RATE) for index in range(SERIAL)]
            wire.machines += self.machines

        self.do(make)

    def of(self, kind):
        return [machine for machine in self.machines if machine.kind == kind]

    def start(self):
        took = self.gateway.start("unshare", "--mount", "sh", "-c", NAMELESS, self.resolver)
        self.pid = self.gateway.pid()
        return took

    def before_end(self):
        """The gateway will be ended: what it has counted must come to the service."""
        self.do(lambda: [machine.expect_cut() for machine in self.of("serial")])
        self.count_life()
        self.pid = None

    def count_life(self):
        """Enters what the gateway says of its life."""
        status = self.gateway.status()
        terms = Terms(status["terms"])
        self.account.count(status["sources"])
        if terms.rejected > self.rejects_allowed or terms.discarded:
            self.account.find(f"{terms.rejected} records were rejected, {self.rejects_allowed} were cut on purpose; {terms.discarded} discarded")
        self.rejects_allowed = 0

    def flood(self, count, per_second, length):
        def make():
            self.floods = [Flood(self.wire, f"f{self.gateway.starts}-{time.monotonic_ns()}-{index}", self.gateway.tcp, per_second, length)
                           for index in range(count)]
            self.wire.machines += self.floods

        self.do(make)

    def ebb(self):
        """The floods end once they are through."""
        self.do(lambda: [setattr(flood.schedule, "rests", True) for flood in self.floods])

    def rest_machines(self, rests):
        def change():
            for machine in self.machines:
                machine.schedule.rest(rests, self.wire.receiver.rng.random())

        self.do(change)

    # ---- rest

    def unrest(self):
        """What is not as it is when nothing is wrong, in words; empty at rest."""
        status = self.gateway.status()
        terms, found = Terms(status["terms"]), []
        if terms.pending > PENDING_REST:
            found.append(f"{terms.pending} records are pending")
        if terms.parked:
            found.append(f"{terms.parked} are parked")
        found += [f"{problem['area']} {problem['name']}: {problem['text']}" for problem in status["problems"]]
        found += self.do(lambda: [words for machine in self.machines if (words := self.standstill(machine))])
        if self.floods:
            self.do(self.forget_floods)
            if self.floods:
                found.append(f"{len(self.floods)} floods are not through")
        return found

    def standstill(self, machine):
        """What is wrong with a machine of which nothing was delivered since the last look."""
        lane = machine.lane
        now = (lane.name, lane.accepted) if lane else None
        before, self.seen[machine.name] = self.seen.get(machine.name), now
        if not machine.is_connected():
            return f"{machine.name} is not connected"
        return f"nothing of {lane.name} was delivered in {REST_EVERY_S} s" if now == before else None

    def forget_floods(self):
        over = [flood for flood in self.floods if flood.is_over]
        self.floods = [flood for flood in self.floods if not flood.is_over]
        self.wire.machines = [machine for machine in self.wire.machines if machine not in over]

    def wait_rest(self, idle, seconds=REST_S):
        """Until it is at rest; how long that took. `idle(s)` waits."""
        begun, quiet, found = time.monotonic(), 0, []
        while quiet < REST_LOOKS:
            if time.monotonic() - begun > seconds:
                raise Failure(f"not at rest within {seconds} s: {'; '.join(found)}")
            found = self.unrest()
            quiet = 0 if found else quiet + 1
            idle(REST_EVERY_S)
        return time.monotonic() - begun - REST_LOOKS * REST_EVERY_S

    def wait_for(self, what, is_so, seconds=30):
        return wait_until(what, is_so, seconds, self.gateway.child)

    def settle(self):
        """Machines rest, and all is delivered; the terms then."""
        self.rest_machines(True)
        self.wait_for("machines to be through", lambda: self.do(lambda: all(
            machine.is_at_rest() and machine.is_connected() for machine in self.machines)), REST_S)

        def is_through():
            terms = self.gateway.terms()
            waiting = self.do(lambda: sum(lane.sent - lane.accepted for lane in self.open_lanes()))
            return terms if terms.pending == 0 and (waiting == 0 or time.monotonic() > until) else None

        # What is lost is for the account to find.
        until = time.monotonic() + 5
        return self.wait_for("all to be delivered", is_through, REST_S)

    def open_lanes(self):
        return [machine.lane for machine in self.machines]

    def descriptors(self):
        return descriptors(self.pid)

    def quiet_descriptors(self, seconds=4):
        """By kind, while machines rest and the connections to the service have been closed for want of use."""
        time.sleep(seconds)
        return self.descriptors()

    def close(self):
        def unplug():
            for machine in self.of("serial"):
                machine.close()

        gateway = self.gateway
        try:
            if gateway.child is not None and gateway.child.is_running():
                gateway.child.process.terminate()
                gateway.child.process.wait(10)
        except Exception:  # noqa: BLE001 - it is killed then
            pass
        finally:
            if self.wire.is_alive():
                self.wire.do(unplug)
            self.site.close()
            self.name_server.close()
            gateway.forget_memory()


def descriptors(pid):
    """Open descriptors of a process, by kind: socket, tty, anonymous, file."""
    kinds = {}
    directory = f"/proc/{pid}/fd"
    for name in os.listdir(directory):
        try:
            target = os.readlink(f"{directory}/{name}")
        except OSError:
            continue
        kind = next((kind for prefix, kind in DESCRIPTORS if target.startswith(prefix)), "file")
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


