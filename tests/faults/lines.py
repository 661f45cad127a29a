"""Lines that are joined inside of a record, and device servers that hang up."""

import collections
import http.server
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
import tty

from e2e.child import Failure, fetch

from .cases import case
from .site import Gateway

# Bytes that a machine sends at once, and how often: as a scale on a line, without pause.
PIECE_BYTES = 5
PIECE_S = 0.002
# A pause of a machine that comes near to the 100 ms in which a stream can be told to be joined inside.
STALL_S = 0.04
RECORD = re.compile(r"\+\d{7}[0-9a-f]{2}")

JOINING = """[gateway]
state_dir = {state}
admin = "127.0.0.1:{admin}"
cores = [0]

[journal]
durability = "process"

[framing.scale]
end = "\\r"
max = "{max}B"

[[source]]
name = "pty"
kind = "serial"
path = {path}
line = "115200 8N1"
framing = "scale"
silence_alarm = "{alarm}"

[[source]]
name = "called"
kind = "tcp_connect"
connect = "127.0.0.1:{served}"
framing = "scale"
silence_alarm = "{alarm}"

[[source]]
name = "calling"
kind = "tcp_listen"
listen = "127.0.0.1:{tcp}"
framing = "scale"
first = "discard"
silence_alarm = "{alarm}"

[deliver]
url = "http://127.0.0.1:{api}/"
body = '{{"machine": {{{{source_name|json}}}}, "data": {{{{data|json}}}}}}'
retry = {{ first = "20ms", max = "200ms" }}
drain = "3s"
"""


class Service:
    """An API that keeps what it gets, by machine."""

    def __init__(self, port):
        self.films = collections.defaultdict(list)
        films = self.films

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                film = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                films[film["machine"]].append(film["data"])
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):
                """A gateway that is killed resets its connections."""

        self.server = Server(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def record(number):
    text = f"+{number:07d}"
    return f"{text}{sum(map(ord, text)) * 7 % 256:02x}"


class Machine(threading.Thread):
    """Sends records one after the other for as long as it lives, whether somebody listens or not."""

    def __init__(self):
        super().__init__(daemon=True)
        self.number, self.rest, self.is_over = 0, b"", False
        # Tails that it left unsent for so long that what follows may look like a beginning: its own fault, on a busy machine.
        self.stalled, self.wrote = set(), time.monotonic()

    def piece(self):
        while len(self.rest) < PIECE_BYTES:
            self.rest += record(self.number).encode() + b"\r"
            self.number += 1
        piece, self.rest = self.rest[:PIECE_BYTES], self.rest[PIECE_BYTES:]
        return piece

    def run(self):
        while not self.is_over:
            if time.monotonic() > self.wrote + STALL_S:
                self.stalled.add(self.rest.decode().strip("\r"))
            self.wrote = time.monotonic()
            self.write(self.piece())
            time.sleep(PIECE_S)


class Scale(Machine):
    """On a pty under a name that stays; `unplug` gives it another pty."""

    def __init__(self, path):
        super().__init__()
        self.path, self.master = path, None
        self.plug()

    def plug(self):
        master, slave = pty.openpty()
        tty.setraw(slave)
        # What nobody reads is lost, as on a wire.
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        os.close(slave)
        temporary = self.path.with_suffix(".new")
        temporary.symlink_to(name)
        temporary.rename(self.path)
        self.master = master

    def unplug(self):
        old, self.master = self.master, None
        time.sleep(PIECE_S * 2)
        os.close(old)
        time.sleep(random.uniform(0, 0.1))
        self.plug()

    def write(self, piece):
        if (master := self.master) is not None:
            try:
                os.write(master, piece)
            except OSError:
                pass


class Connected(Machine):
    """On a connection that `drop` ends, and that is made anew."""

    def __init__(self, connect):
        super().__init__()
        self.connect, self.connection = connect, None

    def write(self, piece):
        if self.connection is None:
            self.connection = self.connect()
            if self.connection is not None:
                # As a device server does it: what it has goes at once.
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.connection is not None:
            try:
                self.connection.sendall(piece)
            except OSError:
                self.connection = None

    def drop(self):
        if (connection := self.connection) is not None:
            try:
                connection.shutdown(random.choice([socket.SHUT_WR, socket.SHUT_RDWR]))
            except OSError:
                pass
            connection.close()
            self.connection = None


class Lines(Gateway):
    """A gateway with three machines that send without pause."""

    def __init__(self, site):
        super().__init__(site, "gateway", site.port())
        self.path, self.served = self.directory / "tty", site.port()
        self.alarm, self.max_bytes = 60, 64
        self.listener = socket.create_server(("127.0.0.1", self.served))
        self.listener.setblocking(False)
        self.service = Service(self.api)
        self.scale = Scale(self.path)
        self.called, self.calling = Connected(self.accept), Connected(self.call)

    def configure(self):
        path = self.directory / "ringest.toml"
        path.write_text(JOINING.format(
            state=json.dumps(str(self.state)), admin=self.admin, path=json.dumps(str(self.path)), served=self.served,
            tcp=self.tcp, api=self.api, alarm=f"{self.alarm}s", max=self.max_bytes,
        ), encoding="utf-8")
        return path

    def accept(self):
        try:
            return self.listener.accept()[0]
        except BlockingIOError:
            return None

    def call(self):
        try:
            return socket.create_connection(("127.0.0.1", self.tcp), timeout=1)
        except OSError:
            return None

    def reload(self):
        self.configure()
        loaded = self.metric("config_last_reload_success_timestamp_seconds")
        os.kill(self.pid(), signal.SIGHUP)
        self.wait_for(
            "the configuration is taken over",
            lambda: self.metric("config_last_reload_success_timestamp_seconds") > loaded,
        )

    def metric(self, name):
        text = fetch(f"http://127.0.0.1:{self.admin}/metrics", 5) or b""
        found = re.search(rf"^ringest_{name}(?:{{[^}}]*}})? ([0-9.]+)$", text.decode(), re.MULTILINE)
        if not found:
            raise Failure(f"there is no metric ringest_{name}")
        return float(found[1])

    def both_are_open(self):
        return all(source["open"] == 1 for source in self.status()["sources"] if source["name"] in ("pty", "called"))

    def wait_at_rest(self):
        """Until both are open, and nothing was opened for longer than a connection takes to leave."""
        until = time.monotonic() + 30
        opened, since = None, time.monotonic()
        while time.monotonic() < since + 1.5 or not self.both_are_open():
            if (now := self.metric("opened_sources_total")) != opened:
                opened, since = now, time.monotonic()
            if time.monotonic() > until:
                raise Failure("port and device server are not at rest within 30 s")
            time.sleep(0.05)

    def machines(self):
        return {"pty": self.scale, "called": self.called, "calling": self.calling}


def disturb(lines, kind):
    """One thing that happens at a random moment of the streams."""
    time.sleep(random.uniform(0.02, 0.12))
    if kind == "kill":
        lines.kill()
        lines.start()
    elif kind == "restart":
        lines.stop()
        lines.start()
    elif kind == "unplug":
        lines.scale.unplug()
    elif kind == "drop":
        random.choice([lines.called, lines.calling]).drop()
    elif kind == "reload":
        # Neither line nor framing: nothing is opened anew, nothing is cut. What was cut before is open again by then.
        lines.wait_at_rest()
        opened, lost = lines.metric("opened_sources_total"), lines.metric("lost_sources_total")
        lines.alarm = 60 + (lines.alarm + 1) % 60
        lines.reload()
        if (lines.metric("opened_sources_total"), lines.metric("lost_sources_total")) != (opened, lost):
            raise Failure("a reload that changes only an alarm has opened a source anew")
    else:
        lines.max_bytes = 64 + (lines.max_bytes + 1) % 64
        lines.reload()


def judge_films(lines):
    """Each record that came is one that was sent, once in its order but for those that a kill had delivered already."""
    total = 0
    for name, machine in lines.machines().items():
        films = [film for film in lines.service.films[name] if film not in machine.stalled]
        for film in films:
            if not RECORD.fullmatch(film) or film != record(int(film[1:8])):
                raise Failure(f"{name} never sent {film!r}")
            if int(film[1:8]) > machine.number:
                raise Failure(f"{name} has not sent {film!r} yet")
        total += len(films)
        if len(films) < 20:
            raise Failure(f"only {len(films)} records of {name} came: this proves nothing")
    return total


def judge_rejected(lines):
    """What became no record is a piece of one, and not a whole one."""
    sources = json.loads(fetch(f"http://127.0.0.1:{lines.admin}/api/sources", 5) or b"[]")
    sources = sources["sources"] if isinstance(sources, dict) else sources
    reasons = collections.Counter()
    for source in sources:
        for sample in source["samples"]:
            reasons[sample["reason"]] += 1
            # A disturbance can cut a record just before its end: then nobody can know that it was whole.
            is_whole = RECORD.fullmatch(sample["text"].removesuffix("\\r")) and sample["reason"] not in ("joined", "unfinished")
            if is_whole or sample["reason"] == "unfinished" and sample["text"].endswith("\\r"):
                raise Failure(f"{source['name']}: a whole record was rejected as {sample['reason']}: {sample['text']}")
    return reasons


@case("joined-inside", "kills, restarts, reloads, unplugged ports and lost connections in streams without pause", limit_s=1800)
def joined_inside(site):
    lines = Lines(site)
    lines.start()
    for machine in lines.machines().values():
        machine.start()
    kinds = collections.Counter()
    try:
        time.sleep(0.5)
        for _ in range(site.options.joins):
            kind = random.choice(["kill", "restart", "unplug", "unplug", "drop", "drop", "drop", "reload", "reframe"])
            disturb(lines, kind)
            kinds[kind] += 1
        # The last records are whole before the machines end.
        time.sleep(0.3)
        rejected = judge_rejected(lines)
        lines.wait_for("all is delivered", lambda: lines.terms().pending == 0)
        total = judge_films(lines)
        lines.stop()
    finally:
        for machine in lines.machines().values():
            machine.is_over = True
        lines.service.close()
        lines.listener.close()
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{what}: {total} records delivered, each as it was sent; last samples {dict(rejected)}"


SERVERS = """[gateway]
state_dir = {state}
admin = "127.0.0.1:{admin}"
cores = [0]

[[source]]
name = "taken"
kind = "tcp_connect"
connect = "127.0.0.1:{taken}"

[[source]]
name = "closes"
kind = "tcp_connect"
connect = "127.0.0.1:{closes}"

[[source]]
name = "telnet"
kind = "tcp_connect"
connect = "127.0.0.1:{telnet}"

[deliver]
url = "http://127.0.0.1:{api}/"
body = '{{"machine": {{{{source_name|json}}}}, "data": {{{{data|json}}}}}}'
"""
MINUTE_S = 60
CONNECTS_MAX = 20
LINES_MAX = 2


class Answering(threading.Thread):
    """Accepts, says its words, and closes or not; counts how often it was called."""

    def __init__(self, port, words, closes):
        super().__init__(daemon=True)
        self.server, self.words, self.closes = socket.create_server(("127.0.0.1", port)), words, closes
        self.calls, self.kept = 0, []

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.calls += 1
            try:
                connection.sendall(self.words)
            except OSError:
                pass
            if self.closes:
                connection.close()
            else:
                self.kept.append(connection)


class Relay(threading.Thread):
    """Passes connections on to a server, and counts them."""

    def __init__(self, port, to):
        super().__init__(daemon=True)
        self.server, self.to, self.calls = socket.create_server(("127.0.0.1", port)), to, 0

    def run(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            self.calls += 1
            threading.Thread(target=self.carry, args=(connection,), daemon=True).start()

    def carry(self, near):
        try:
            far = socket.create_connection(("127.0.0.1", self.to), timeout=2)
            far.settimeout(None)
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    data = ready.recv(4096)
                    if not data:
                        return
                    (far if ready is near else near).sendall(data)
        except OSError:
            pass
        finally:
            near.close()


class Servers(Gateway):
    def configure(self):
        path = self.directory / "ringest.toml"
        path.write_text(SERVERS.format(
            state=json.dumps(str(self.state)), admin=self.admin, api=self.api, **self.calls_to
        ), encoding="utf-8")
        return path


@case("device-servers", "ser2net whose port is taken, a server that closes, a telnet server: calls and log lines in a minute",
      tools=("ser2net",))
def device_servers(site):
    gateway = Servers(site, "gateway", site.port())
    gateway.calls_to = {"taken": site.port(), "closes": site.port(), "telnet": site.port()}
    service = Service(gateway.api)
    master, slave = pty.openpty()
    ser2net_port = site.port()
    settings = gateway.directory / "ser2net.yaml"
    settings.write_text(
        f"connection: &one\n  accepter: tcp,127.0.0.1,{ser2net_port}\n  connector: serialdev,{os.ttyname(slave)},9600n81,local\n",
        encoding="utf-8",
    )
    program = shutil.which("ser2net", path=os.environ["PATH"] + ":/usr/sbin")
    ser2net = subprocess.Popen([program, "-n", "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    servers = {
        "taken": Relay(gateway.calls_to["taken"], ser2net_port),
        "closes": Answering(gateway.calls_to["closes"], b"Port already in use\r\n", True),
        "telnet": Answering(gateway.calls_to["telnet"], b"\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18login: ", False),
    }
    try:
        # Somebody else has the port of ser2net.
        holder = None
        until = time.monotonic() + 10
        while holder is None:
            try:
                holder = socket.create_connection(("127.0.0.1", ser2net_port), timeout=1)
            except OSError:
                if time.monotonic() > until:
                    raise Failure("ser2net does not listen") from None
                time.sleep(0.05)
        for server in servers.values():
            server.start()
        gateway.start()
        time.sleep(MINUTE_S)
        found = {}
        for name, server in servers.items():
            lines = [line for line in gateway.words().splitlines() if f"source {name}:" in line]
            found[name] = (server.calls, len(lines))
            if server.calls > CONNECTS_MAX or len(lines) > LINES_MAX:
                raise Failure(f"{name}: {server.calls} calls and {len(lines)} log lines in a minute: {lines[:4]}")
        if not any("telnet" in line for line in gateway.words().splitlines()):
            raise Failure("nobody says that one of them speaks telnet")
        if service.films:
            raise Failure(f"the service was sent what no machine has sent: {dict(service.films)}")
        gateway.stop()
    finally:
        ser2net.kill()
        ser2net.wait()
        for server in servers.values():
            server.server.close()
        service.close()
        os.close(master)
        os.close(slave)
    return "calls and log lines in a minute: " + ", ".join(f"{name} {calls} and {lines}" for name, (calls, lines) in found.items())
