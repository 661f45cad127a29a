"""A receiver that misbehaves at 2,000 records a second; and what 10,000 parked records cost those that come."""

import hashlib
import json
import os
import socket
import statistics
import struct
import subprocess
import time

from e2e.child import Failure

from .cases import case
from .ledger import Ledger
from .speed import MEASURED_S, Load
from .wire import Receiver, Wire, value_of

RATE, MACHINES = 2000, 40
WARM_S, AFTER_S = 1.0, 1.0
RESET = struct.pack("ii", 1, 0)
PARKED, LIST_S, RATIO = 10_000, 1.0, 0.95
ROUNDS = 5


class FirstAcceptances(Ledger):
    """Rows of a receiver that honours keys: each record has one, in the order of its lane but for those that were refused."""

    def __init__(self):
        super().__init__()
        self.rows, self.bodies, self.refused, self.last = {}, {}, set(), {}

    def look(self, key, body):
        """Every request of a key has the same bytes."""
        digest = hashlib.blake2b(body, digest_size=12).digest()
        if self.bodies.setdefault(key, digest) != digest:
            self.find(f"key {key} came again with other bytes: {body[:120]!r}")

    def deliver_strictly(self, lane, number, key, record_id, where):
        if key in self.rows:
            self.repeated += 1
            if self.rows[key] != (lane.name, number):
                self.find(f"{where} bears the key of {self.rows[key]}")
            return
        if key is None:
            self.find(f"{where} has no key")
        self.rows[key] = (lane.name, number)
        lane.next += 1
        if key not in self.refused:
            if number < self.last.get(lane.name, 0):
                self.find(f"{where} was first accepted behind record {self.last[lane.name]}")
            self.last[lane.name] = number

    def verdict(self):
        """Once all is delivered: no record is missing, none came under two keys."""
        rows = sorted(self.rows.values())
        sent = sorted((lane.name, number) for lane in self.lanes.values() for number in range(lane.sent))
        if len(set(rows)) != len(rows):
            self.find(f"{len(rows) - len(set(rows))} records are doubled")
        if set(rows) != set(sent):
            self.find(f"{len(set(sent) - set(rows))} records are lost")
        return self.findings


class Misbehaving(Receiver):
    """`fault`: None, or what it does: `("status", line)`, `("drip", seconds a byte)`, `("reset", every)`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.fault, self.count, self.dripping = None, 0, []

    def answer(self, target, key, body):
        self.ledger.look(key, target + body)
        self.count += 1
        kind, value = self.fault or (None, None)
        if kind == "status":
            if value.startswith("4") and not value.startswith("429"):
                self.ledger.refused.add(key)
            return f"HTTP/1.1 {value}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        return super().answer(target, key, body)

    def serve(self, api):
        kind, value = self.fault or (None, None)
        if kind not in ("drip", "reset"):
            return super().serve(api)
        whole = self.take(api)
        if whole is None:
            return None
        answer = self.answer(*whole)
        if kind == "drip":
            self.dripping.append([api, answer, time.monotonic()])
        elif self.count % value == 0:
            api.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close(api)
        else:
            api.socket.send(answer)
        return None

    def take(self, api):
        """The request that is there, as `answer` takes it."""
        end = api.data.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = api.data[:end]
        length = int(value_of(head.lower(), b"content-length:") or 0)
        if len(api.data) < end + 4 + length:
            return None
        body, api.data = api.data[end + 4:end + 4 + length], api.data[end + 4 + length:]
        key = value_of(head, b"Idempotency-Key:")
        return head[5:head.find(b" ", 5)].lower(), key.decode() if key else None, body

    def tick(self, now):
        super().tick(now)
        kind, value = self.fault or (None, 0)
        for entry in list(self.dripping):
            api, rest, since = entry
            if api not in self.connections:
                self.dripping.remove(entry)
                continue
            count = len(rest) if kind != "drip" else min(int((now - since) / value), len(rest))
            if count:
                try:
                    api.socket.send(rest[:count])
                except OSError:
                    self.close(api)
                    count = len(rest)
                entry[1], entry[2] = rest[count:], now
            if not entry[1]:
                self.dripping.remove(entry)


def misbehaving(site):
    wire = Wire(FirstAcceptances(), site.port(), site.options.seed)
    wire.do(lambda: setattr(wire, "receiver", Misbehaving(wire, wire.ledger, wire.receiver.address[1], wire.receiver.rng)))
    site.wires.append(wire)
    return wire


def fault(wire, what):
    wire.do(lambda: setattr(wire.receiver, "fault", what))


def queue(site, gateway, *arguments):
    """What `ringest queue` says, and how long it took."""
    begun = time.monotonic()
    command = [site.options.ringest, "queue", arguments[0], gateway.directory / "ringest.toml", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise Failure(f"ringest queue {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout, time.monotonic() - begun


def misbehave(site, act, **deliver):
    """2,000 records a second before, while and after `act(wire, gateway)`; then all of them are there, once and in order."""
    wire = misbehaving(site)
    gateway = site.gateway(wire)
    gateway.deliver = deliver
    wire.receive("up")
    gateway.start()
    wire.start_machines("m", tcp=MACHINES - 10, tcp_port=gateway.tcp, http=10, http_port=gateway.http, rate=RATE)
    begun = time.monotonic()
    time.sleep(WARM_S)
    act(wire, gateway)
    fault(wire, None)
    time.sleep(AFTER_S)
    wire.pause_machines()
    rate = wire.ledger.totals()[0] / (time.monotonic() - begun)
    gateway.wait_for("nothing to be pending", lambda: gateway.terms().pending == 0, 60)
    parked = gateway.terms().parked
    if parked:
        queue(site, gateway, "retry", "--all")
    terms = gateway.wait_settled(60)
    sent = wire.ledger.totals()[0]
    if (terms.received, terms.delivered, terms.recovered) != (sent, sent, 0) or len(wire.ledger.rows) != sent:
        raise Failure(f"{sent} were sent, {len(wire.ledger.rows)} have rows, and the gateway says {terms}")
    counters = gateway.status()["counters"]
    if rate < 0.9 * RATE:
        raise Failure(f"only {rate:.0f} records/s were sent")
    gateway.stop()
    site.judge(wire)
    return (f"{sent} records at {rate:.0f}/s: 0 lost, 0 doubled, 0 reordered; {parked} parked and retried, {wire.ledger.repeated} told by "
            f"their key, {counters['api_failures']} failed requests, {counters['api_holds']} times held back")


def for_seconds(what, seconds):
    def act(wire, _gateway):
        fault(wire, what)
        time.sleep(seconds)

    return act


@case("answer-503", "503 for 2 s at 2,000 records/s")
def answer_503(site):
    return misbehave(site, for_seconds(("status", "503 Service Unavailable"), 2))


@case("answer-400", "400 for 2 s at 2,000 records/s: parked, then delivered by `queue retry`")
def answer_400(site):
    text = misbehave(site, for_seconds(("status", "400 Bad Request"), 2))
    if "; 0 parked" in text:
        raise Failure(f"nothing was parked: {text}")
    return text


@case("answer-429", "429 with Retry-After for 2 s at 2,000 records/s")
def answer_429(site):
    return misbehave(site, for_seconds(("status", "429 Too Many Requests\r\nRetry-After: 1"), 2))


@case("answer-down", "a receiver that is away for 5 s at 2,000 records/s")
def answer_down(site):
    def act(wire, _gateway):
        wire.receive("down")
        time.sleep(5)
        wire.receive("up")

    return misbehave(site, act)


@case("answer-drip", "answers that drip, some of them past the deadline, at 2,000 records/s")
def answer_drip(site):
    def act(wire, _gateway):
        for a_byte in (0.002, 0.05):
            fault(wire, ("drip", a_byte))
            time.sleep(2)

    return misbehave(site, act, timeout='"500ms"')


@case("answer-reset", "a reset instead of every tenth answer at 2,000 records/s")
def answer_reset(site):
    return misbehave(site, for_seconds(("reset", 10), 5))


def park_many(site, wire, gateway):
    """As many records as PARKED, refused by a receiver of its own."""
    wire.receive("up")
    fault(wire, ("status", "400 Bad Request"))
    wire.start_machines("p", tcp=MACHINES, tcp_port=gateway.tcp, rate=RATE * 2)
    gateway.wait_for("as many to be parked", lambda: gateway.terms().parked >= PARKED, 60)
    wire.pause_machines()
    gateway.wait_for("nothing to be pending", lambda: gateway.terms().pending == 0, 60)
    wire.end_machines()
    wire.receive("down")
    return gateway.terms().parked


@case("parked-10000", "with 10,000 parked records the gateway is as fast as without, and lists them within a second", needs_bench=True, limit_s=240)
def parked_10000(site):
    os.setpriority(os.PRIO_PROCESS, 0, -19)
    wires = [misbehaving(site) for _ in range(2)]
    gateways = [site.gateway(wire, f"gateway-{index}", durability="process", segment_size="16MiB", max_size="1GiB", window="32MiB")
                for index, wire in enumerate(wires)]
    for gateway in gateways:
        gateway.deliver = {"answers": "{ attempts = 1 }"}
        gateway.start()
    parked = park_many(site, wires[1], gateways[1])
    at_first = list_all(site, gateways[1], parked)
    rates, busy = [[], []], [[], []]
    for turn in range(ROUNDS):
        # Each goes first in its turn: the machine may have other work.
        for index in (0, 1) if turn % 2 else (1, 0):
            gateway = gateways[index]
            load = Load(site, MACHINES, f"{index}-{turn}")
            load.receive(gateway.api)
            before, begun = cpu_s(gateway), gateway.terms().delivered
            said = load.measure(gateway.http, "--window", "8")
            gateway.wait_for("nothing to be pending", lambda gateway=gateway: gateway.terms().pending == 0)
            busy[index].append((cpu_s(gateway) - before) / (gateway.terms().delivered - begun) * 1e6)
            rates[index].append(said["arrived"] / MEASURED_S)
            load.end()
    ratio = statistics.median(with_parked / without for without, with_parked in zip(*rates))
    later = list_all(site, gateways[1], parked)
    held = sum(shard["journal"]["bytes"] for shard in gateways[1].status()["shards"]) / (1 << 20)
    with_parked, without = (statistics.median(of) for of in reversed(rates))
    cpu_with, cpu_without = (statistics.median(of) for of in reversed(busy))
    text = (f"{parked} parked: {with_parked:.0f} records/s against {without:.0f} without, ratio {ratio:.3f} (median of {ROUNDS}), "
            f"{cpu_with:.1f} against {cpu_without:.1f} us of CPU a record; listed in {at_first[0]:.2f} s (median; {at_first[1]:.2f} s at "
            f"most), later in {later[0]:.2f} s ({later[1]:.2f} s) with {held:.0f} MiB of journal")
    if ratio < RATIO or max(at_first[0], later[0]) > LIST_S:
        raise Failure(f"{text}; expected are {RATIO} and {LIST_S} s")
    queue(site, gateways[1], "discard", "--all", "--yes")
    gateways[1].wait_for("all to be discarded", lambda: gateways[1].terms().discarded == parked)
    for gateway in gateways:
        gateway.stop()
    # What was parked was refused on purpose.
    site.wires.clear()
    for wire in wires:
        wire.end()
    return text


def list_all(site, gateway, parked):
    """Lists what is parked, again and again; the median of the times that this took, and the longest."""
    times = []
    for arguments in ([], ["--parked"], ["--parked", "--json"]) * 3:
        text, took = queue(site, gateway, "list", *arguments)
        times.append(took)
    total = json.loads(text)["parked"]
    if total != parked or gateway.terms().parked != parked:
        raise Failure(f"{parked} were parked, {total} are listed, {gateway.terms()}")
    return statistics.median(times), max(times)


def cpu_s(gateway):
    fields = open(f"/proc/{gateway.pid()}/stat", encoding="ascii").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
