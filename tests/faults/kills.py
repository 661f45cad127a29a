"""kill -9: at random times, and after an outage of the receiver."""

import collections
import os
import random
import signal
import time

from e2e.child import Failure

from .cases import case

RATE = 2000
# A series is one state directory through many kills.
CYCLES_PER_SERIES = 125
BACKLOG_MOST = 4000
PENDING_WANTED = 100


class Series:
    """One state directory, killed again and again; what was counted and acknowledged on the way."""

    def __init__(self, site, index):
        self.site, self.index = site, index
        self.wire = site.receiver()
        self.gateway = site.gateway(self.wire, f"series-{index}", durability=("process", "power")[index % 2])
        self.gateway.sequence = index // 2 % 2 == 1
        # Of all TCP and HTTP machines of a cycle: records received when they were last counted, by prefix.
        self.scraped = {}
        self.struck = collections.Counter()
        # When it was last counted.
        self.pending = 0
        self.start_s = 0.0
        self.pending_enough = self.unfinished = 0
        self.slowest_start_s = 0.0

    def choose_receiver(self):
        """Mostly away or slow, so that records are pending; then it takes more than comes, and at times all."""
        if self.pending > BACKLOG_MOST:
            mode, per_second = "slow", 2 * RATE
        else:
            many = self.pending > BACKLOG_MOST // 2
            mode, per_second = random.choices(["down", "slow", "up"], [5, 4, many])[0], random.choice([100, 400])
        self.wire.receive(mode, per_second=per_second, lose_answers=0.01)

    def cycle(self, number):
        """One life of the gateway, ended by SIGKILL."""
        gateway, wire = self.gateway, self.wire
        # Fewer and more cores than last time, too.
        gateway.cores = random.choice(["[0]", "[0]", "[0, 1]"])
        self.choose_receiver()
        when = random.choices(["start", "run", "stop"], [20, 65, 15])[0]
        begun = time.monotonic()
        gateway.spawn()
        if when == "start":
            time.sleep(random.uniform(0, 1.2) * max(self.start_s, 0.02))
            gateway.kill()
            self.note_start()
            return
        gateway.wait_ready()
        self.start_s = time.monotonic() - begun
        self.slowest_start_s = max(self.slowest_start_s, self.start_s)
        self.note_recovery()
        prefix = f"s{self.index}c{number}"
        wire.start_machines(prefix, tcp=4, tcp_port=gateway.tcp, http=6, http_port=gateway.http, rate=RATE)
        time.sleep(random.uniform(0.02, 0.35))
        self.scrape(prefix)
        self.pending_enough += self.pending >= PENDING_WANTED
        if when == "stop":
            os.kill(gateway.child.process.pid, signal.SIGTERM)
            time.sleep(random.uniform(0, 0.1))
            ended = gateway.child.process.poll() is not None
            where = "stopped before it" if ended else "stopping"
        else:
            time.sleep(random.uniform(0, 0.02))
            where = f"running, {bucket(self.pending)} pending"
        gateway.kill()
        wire.end_machines()
        self.struck[where] += 1

    def scrape(self, prefix):
        """Notes what the gateway says that it received, and that is pending."""
        status = self.gateway.status()
        self.scraped[prefix] = {found["name"]: found["received"] - found["rejected"] for found in status["sources"]}
        self.pending = status["terms"]["pending"]

    def note_start(self):
        gateway = self.gateway
        if gateway.is_ready():
            where = "just started"
        elif " was read" in gateway.words():
            where = "starting, journals read"
            self.note_recovery()
        else:
            where = "starting, before or in recovery"
        self.struck[where] += 1
        self.pending_enough += self.pending >= PENDING_WANTED

    def note_recovery(self):
        """What the kill before left, as the journal found it."""
        found = self.gateway.recovery()
        self.unfinished += found.get("finished_blocks", 0) > 0
        if found.get("damaged", 0) or " ERROR " in self.gateway.words():
            raise Failure(f"a kill is no damage, but {self.gateway.name} says:\n{self.gateway.words()}")

    def run(self, cycles):
        for number in cycles:
            self.cycle(number)
            if self.wire.ledger.findings:
                break
        self.wire.receive("up")
        self.gateway.start()
        self.note_recovery()
        answered = self.wire.do(lambda: self.wire.receiver.answered)
        terms = self.gateway.wait_settled(60)
        answered = self.wire.do(lambda: self.wire.receiver.answered) - answered
        if terms.received != 0 or terms.recovered != terms.delivered or answered > terms.delivered:
            raise Failure(f"after the last start {answered} records were answered, and the gateway says {terms}")
        self.gateway.stop()
        self.judge()

    def judge(self):
        ledger = self.wire.ledger
        self.site.judge(self.wire)
        for prefix, sources in self.scraped.items():
            for kind, received in sources.items():
                delivered = ledger.delivered(kind, f"{prefix}{kind[0]}")
                if delivered < received:
                    raise Failure(f"{prefix}: {received} records were received over {kind}, {delivered} of them delivered")
        self.wire.end()


def bucket(pending):
    for least, most in ((0, 99), (100, 999), (1000, 9999)):
        if pending <= most:
            return f"{least} to {most}"
    return "10000 or more"


@case("kill", "SIGKILL at random times, at process and power, 2,000 records/s over TCP and HTTP", limit_s=lambda options: 60 + 2 * options.cycles)
def kill(site):
    cycles, series = site.options.cycles, []
    begun = time.monotonic()
    for index, first in enumerate(range(0, cycles, CYCLES_PER_SERIES)):
        one = Series(site, index)
        series.append(one)
        try:
            one.run(range(first, min(first + CYCLES_PER_SERIES, cycles)))
        except Failure as failure:
            raise Failure(f"series {index} ({one.gateway.journal['durability']}, cycles from {first}, seed {site.options.seed}): {failure}") from None
    struck = sum((one.struck for one in series), collections.Counter())
    enough = sum(one.pending_enough for one in series)
    for where, count in sorted(struck.items()):
        print(f"    {count:5}  {where}")
    print(f"    {sum(one.unfinished for one in series):5}  of them with blocks that were not on disk yet (finished from the block file)")
    if enough * 2 < cycles:
        raise Failure(f"only {enough} of {cycles} kills found {PENDING_WANTED} records pending")
    sent, acknowledged, delivered = (sum(one.wire.ledger.totals()[i] for one in series) for i in range(3))
    repeated = sum(one.wire.ledger.repeated for one in series)
    seconds = time.monotonic() - begun
    return (f"{cycles} kills, {enough} of them with {PENDING_WANTED} records pending or more, {seconds / cycles:.2f} s each; {sent} records sent, "
            f"{acknowledged} acknowledged by HTTP, {delivered} delivered, {repeated} of them again under the same key, of a "
            f"lane at most {max(one.wire.ledger.deepest for one in series)} at a time; 0 lost; "
            f"slowest start {max(one.slowest_start_s for one in series):.2f} s")


@case("outage-kill", "2,000 records/s over TCP and as many over HTTP, receiver away for 2 s, SIGKILL, restart", limit_s=150)
def outage_kill(site):
    figures = []
    for level in ("process", "power"):
        wire = site.receiver()
        gateway = site.gateway(wire, level, durability=level)
        gateway.sequence = True
        wire.receive("up")
        gateway.start()
        wire.start_machines(f"{level}-t", tcp=8, tcp_port=gateway.tcp, rate=RATE)
        wire.start_machines(f"{level}-h", http=8, http_port=gateway.http, rate=RATE / 4)
        gateway.wait_for("deliveries", lambda: gateway.terms().delivered >= RATE)
        wire.receive("down")
        time.sleep(2)
        status = gateway.status()
        gateway.kill()
        wire.end_machines()
        received = {found["name"]: found["received"] for found in status["sources"]}
        pending = status["terms"]["pending"]
        if pending < RATE:
            raise Failure(f"only {pending} records were pending at the kill: the machines did not keep their rate")
        wire.receive("up")
        took = gateway.start()
        terms = gateway.wait_settled(60)
        if terms.recovered < pending:
            raise Failure(f"{pending} records were pending, {terms.recovered} were recovered")
        gateway.stop()
        for kind, count in received.items():
            delivered = wire.ledger.delivered(kind)
            if delivered < count:
                raise Failure(f"at {level}: {count} records were received over {kind}, {delivered} of them delivered")
        figures.append(f"{level}: {sum(received.values())} received, {pending} pending at the kill, {terms.recovered} recovered, "
                       f"started in {took:.2f} s, {wire.ledger.repeated} repeated, 0 lost")
    return "; ".join(figures)
