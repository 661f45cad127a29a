"""One address that floods, thousands that are slow, and ten thousand that shake hands at once: the others keep their rate."""

import asyncio
import json
import os
import resource
import ssl
import statistics
import subprocess
import threading
import time

from e2e.child import Failure, fetch, tail, wait_until

from .cases import case
from .speed import Load

MACHINES = 100
# Requests a second of each.
RATE = 5.0
WINDOW_S, WARM_UP_S = 8.0, 2.0
# Of the rate without.
FLOOD_LEAST, SLOW_LEAST = 0.90, 0.95
PAIRS = 2
FLOOD_RATE = 20_000
# So many connections a second are a flood of them.
FLOOD_CONNECTIONS = 2_000
SLOW_CONNECTIONS = 1000
HERD, HERD_S = 10_000, 30.0
# p99 of those connected; it was 0.4 to 2.4 ms before, and 2.2 to 5.7 meanwhile.
HERD_MS = 60.0
# The gateway has the first CPU to itself: machines are other computers.
APART = ("taskset", "-c", f"1-{max(1, os.cpu_count() - 1)}")


class Good:
    """Machines at addresses of their own that send a record now and then, and count what was answered 201 in time."""

    def __init__(self, port, context=None):
        self.port, self.context = port, context
        self.loop = asyncio.new_event_loop()
        self.counts, self.times, self.failures, self.is_over = 0, [], [], False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.gather(*(self.machine(index) for index in range(MACHINES))))

    async def machine(self, index):
        address = f"127.0.1.{index + 1}"
        while not self.is_over:
            try:
                await self.talk(index, address)
            except (OSError, asyncio.IncompleteReadError) as failure:
                self.failures.append(f"{address}: {failure!r}")
                await asyncio.sleep(0.05)

    async def talk(self, index, address):
        name = None if self.context is None else "127.0.0.1"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address, 0), ssl=self.context, server_hostname=name)
        body = b"x" * 200
        head = f"POST /v1/records/good-{index} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
        due = time.monotonic() + index / MACHINES / RATE
        while not self.is_over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            begun = time.monotonic()
            # What is missed is not made up for.
            due = max(due + 1 / RATE, begun)
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if answer.startswith(b"HTTP/1.1 201"):
                self.counts += 1
                self.times.append(time.monotonic() - begun)
        writer.close()

    def measure(self, seconds=WINDOW_S):
        """Answers a second, and the p99 of their times in ms."""
        self.times.clear()
        before, begun = self.counts, time.monotonic()
        time.sleep(seconds)
        took, times = time.monotonic() - begun, sorted(self.times)
        return (self.counts - before) / took, times[int(len(times) * 0.99)] * 1000 if times else float("inf")

    def end(self):
        self.is_over = True
        self.thread.join(10)


def allow_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def certificates(site):
    """A CA, a server's certificate, and a context that trusts it."""
    directory = site.directory / "pki"
    directory.mkdir()
    for words in (["ca", "Plant"], ["server", "127.0.0.1", "localhost"]):
        subprocess.run([site.options.ringest, "cert", *words], cwd=directory, check=True, capture_output=True)
    return directory, ssl.create_default_context(cafile=directory / "ca.pem")


def flood(site, port, seconds=WARM_UP_S + WINDOW_S + 2):
    """20,000 requests/s of one address, on 100 connections."""
    body = site.directory / "flood.body"
    body.write_bytes(b"f" * 1000)
    return site.children.start("flood", [
        "h2load", "--h1", "-c", "100", "-D", str(int(seconds)), "--rps", "200", "-d", body,
        # Of one SOURCE they would be one lane, and wait for its deliveries.
        *(f"http://127.0.0.1:{port}/v1/records/flood-{index}" for index in range(50)),
    ], site.directory / "flood.log")


def flood_of_connections(site, port, seconds=WARM_UP_S + WINDOW_S + 2):
    """As many connections as one address gets, 100 at a time, each for one request."""
    body = site.directory / "flood.body"
    body.write_bytes(b"f" * 1000)
    return site.children.start("flood", [
        "ab", "-q", "-t", str(int(seconds)), "-n", "100000000", "-c", "100", "-p", body, f"http://127.0.0.1:{port}/v1/records/flood",
    ], site.directory / "flood.log")


def compare(good, gateway, least, attack, end, is_under_way):
    """Pairs without and with an attack: rates, and what of the rate is left. `is_under_way` raises where the attack is none."""
    pairs = []
    for _ in range(PAIRS):
        calm, _ = good.measure()
        child = attack()
        time.sleep(WARM_UP_S)
        attacked, _ = good.measure(WINDOW_S / 2)
        is_under_way(WINDOW_S / 2)
        end(child)
        pairs.append((calm, attacked))
        gateway.child.expect_running()
    due = MACHINES * RATE
    if min(calm for calm, _ in pairs) < 0.9 * due:
        raise Failure(f"without anybody else they reach {pairs} of {due} requests/s: {good.failures[-3:]}")
    share = statistics.median(attacked / calm for calm, attacked in pairs)
    if share < least:
        raise Failure(f"{share:.2f} of the rate is left, {least} are due: {pairs}, {good.failures[-3:]}")
    return share


@case("flood-address", "one address sends 20,000 requests/s, with room in the journal and without, or a connection for each: the others keep 90 % of their rate",
      tools=("h2load", "ab"), needs_bench=True, limit_s=300)
def flood_address(site):
    allow_files()
    shares = {
        "room": flood_with_room(site, "room", flood, FLOOD_RATE / 2),
        "no room": flood_without_room(site),
        "a connection a request": flood_with_room(site, "connections", flood_of_connections, FLOOD_CONNECTIONS),
    }
    return "of the others' rate is left: " + ", ".join(f"{name}: {share:.2f}" for name, share in shares.items())


def end_attack(site):
    def end(child):
        status = child.wait(60)
        site.children.all.remove(child)
        if status != 0:
            raise Failure(f"the attack ended with {status}; it said:\n{tail(child.log)}")

    return end


def flood_with_room(site, name, attack, least):
    """The service takes all."""
    wire = site.receiver()
    gateway = site.gateway(wire, f"gateway-{name}", durability="process")
    null = Load(site, 1, f"flood-{name}")
    null.receive(gateway.api)
    gateway.start()
    good = Good(gateway.http)

    def is_flooded(seconds):
        before, begun = gateway.status()["counters"]["http_accepted"], time.monotonic()
        time.sleep(seconds)
        rate = (gateway.status()["counters"]["http_accepted"] - before) / (time.monotonic() - begun)
        if rate < least:
            raise Failure(f"only {rate:.0f} requests/s were taken: that is no flood")

    try:
        share = compare(good, gateway, FLOOD_LEAST, lambda: attack(site, gateway.http), end_attack(site), is_flooded)
    finally:
        good.end()
    gateway.wait_settled(60)
    gateway.stop()
    null.end()
    site.wires.clear()
    wire.end()
    return share


def flood_without_room(site):
    """The service takes three times what the others send, and the flood has filled the journal."""
    wire = site.receiver(lenient=True)
    wire.do(lambda: setattr(wire.receiver, "per_second", 3 * MACHINES * RATE))
    wire.receive("slow")
    gateway = site.gateway(wire, "gateway-full", durability="process", max_size="32MiB")
    gateway.start()
    good = Good(gateway.http)
    try:
        calm = good.measure(4.0)[0]
        if calm < 0.9 * MACHINES * RATE:
            raise Failure(f"without anybody else they reach {calm:.0f} requests/s")
        child = flood(site, gateway.http, seconds=30)
        gateway.wait_for("a full journal", lambda: refusals(gateway, "no_room"), 25)
        shares = [good.measure(5.0)[0] / calm for _ in range(3)]
        refused = refusals(gateway, "no_room")
        child.kill()
        site.children.all.remove(child)
    finally:
        good.end()
    if refused < 1000 or statistics.median(shares) < FLOOD_LEAST:
        raise Failure(f"{shares} of the rate is left, {FLOOD_LEAST} are due; {refused} requests were refused: {good.failures[-3:]}")
    gateway.kill()
    site.wires.clear()
    wire.end()
    return statistics.median(shares)


def refusals(gateway, reason):
    return sum(source["refused"].get(reason, 0) for source in gateway.status()["sources"])


SLOW = {"headers": ["-H", "-i", "5", "-x", "24"], "body": ["-B", "-i", "5", "-s", "8192", "-x", "10", "-f", "text/plain"],
        "read": ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "8", "-k", "3"]}


@case("slow-clients", "slowhttptest with 1,000 connections (headers, body, read), plain and TLS: the others keep 95 % of their rate",
      tools=("slowhttptest",), limit_s=600)
def slow_clients(site):
    allow_files()
    directory, context = certificates(site)
    shares = {}
    for scheme in ("http", "https"):
        wire = site.receiver(lenient=True)
        wire.receive("up")
        gateway = site.gateway(wire, f"gateway-{scheme}", durability="process")
        if scheme == "https":
            gateway.listener = f'tls = {{ certificate = "{directory}/server.pem", key = "{directory}/server.key" }}'
        gateway.start()
        good = Good(gateway.http, context if scheme == "https" else None)
        try:
            for kind, options in SLOW.items():
                def attack(kind=kind, options=options):
                    seconds = str(int(WARM_UP_S + WINDOW_S + 3))
                    return site.children.start(f"slow-{kind}", [
                        "slowhttptest", "-c", str(SLOW_CONNECTIONS), "-r", "1000", "-l", seconds, "-p", "5", *options,
                        "-t", "POST" if kind == "body" else "GET", "-u", f"{scheme}://127.0.0.1:{gateway.http}/v1/records/slow",
                    ], site.directory / f"slow-{scheme}-{kind}.log")

                def is_crowded(_seconds, kind=kind):
                    found = next(source["open"] for source in gateway.status()["sources"] if source["name"] == "http")
                    if found < MACHINES + SLOW_CONNECTIONS * 0.7:
                        raise Failure(f"{found} connections are open during {kind}: the attack is none")

                shares[f"{scheme} {kind}"] = compare(good, gateway, SLOW_LEAST, attack, end_attack(site), is_crowded)
        finally:
            good.end()
        wire.pause_machines()
        gateway.wait_settled(60)
        gateway.stop()
        site.wires.clear()
        wire.end()
    return ", ".join(f"{name}: {share:.2f}" for name, share in shares.items())


# Machines that are connected already, timed by a program that goes before all others: they are computers of their own.
TIMED, TIMED_RATE = 8, 400


def timed(site, gateway, ca, name, meanwhile=None):
    """The p99 of the times to their 201, in ms, while something happens."""
    load = Load(site, 2 * TIMED, name, "-timed")
    out = site.directory / f"timed-{name}.json"
    with open(out, "wb") as file:
        child = site.children.start(f"timed-{name}", [
            *APART, "chrt", "-f", "50", site.options.programs / "bench-load", "--board", load.board.path, "--machines", str(TIMED), "--no-drain",
            "--first-machine", str(TIMED if meanwhile else 0), "--rate", str(TIMED_RATE), "--http", f"127.0.0.1:{gateway.http}", "--tls-ca", ca,
        ], site.directory / f"timed-{name}.log", stdout=file)
    wait_until("the timed machines are connected", lambda: load.board[load.words["ready"]] == 1, 20, child)
    load.board[load.words["go"]] = 1
    time.sleep(1.0)
    load.board[load.words["phase"]] = 1
    if meanwhile:
        meanwhile()
    else:
        time.sleep(5.0)
    load.board[load.words["phase"]] = 2
    if child.end(seconds=20) != 0:
        raise Failure(f"bench-load failed; it said:\n{tail(child.log)}")
    load.board.close()
    said = json.loads(out.read_text(encoding="ascii").splitlines()[-1])
    if said["lost"] or said["refused"]:
        refused = fetch(f"http://127.0.0.1:{gateway.admin}/api/refused", 5)
        raise Failure(f"timed machines were lost or refused: {said}, {refused}")
    return said["accepted_us"]["p99"] / 1000


@case("herd", "10,000 machines shake hands at once: all are in within 30 s, and those connected are answered within 60 ms", tools=("h2load", "chrt"), needs_bench=True,
      limit_s=300)
def herd(site):
    allow_files()
    directory, _ = certificates(site)
    wire = site.receiver()
    gateway = site.gateway(wire, durability="process")
    gateway.listener = f'tls = {{ certificate = "{directory}/server.pem", key = "{directory}/server.key" }}'
    null = Load(site, 2 * TIMED, "herd")
    null.receive(gateway.api)
    gateway.start()
    body = site.directory / "herd.body"
    body.write_bytes(b"h" * 64)
    took = []

    def come():
        begun = time.monotonic()
        child = site.children.start("herd", [
            *APART, "h2load", "--h1", "-c", str(HERD), "-n", str(HERD), "-d", body, f"https://127.0.0.1:{gateway.http}/v1/records/herd",
        ], site.directory / "herd.log")
        child.wait(HERD_S + 60)
        took.append(time.monotonic() - begun)
        site.children.all.remove(child)
        said = tail(child.log)
        if f"{HERD} succeeded" not in said:
            raise Failure(f"not all of the herd were answered 201:\n{said}")

    calm_ms = timed(site, gateway, directory / "ca.pem", "calm")
    herd_ms = timed(site, gateway, directory / "ca.pem", "meanwhile", come)
    gateway.wait_settled(60)
    gateway.stop()
    null.end()
    words = f"{HERD} handshakes and records in {took[0]:.1f} s; p99 of those connected {calm_ms:.2f} ms before, {herd_ms:.2f} ms meanwhile"
    if took[0] > HERD_S or herd_ms > HERD_MS:
        raise Failure(words)
    return words
