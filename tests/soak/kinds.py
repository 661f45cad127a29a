"""The faults. Each does its worst to the line, undoes it, and returns what it did in words."""

import os
import signal
import time

from e2e.child import Failure
from faults.answers import queue

from .line import BASE, PENDING_REST
from .service import too_many_for_seconds, too_many_until

DOWN_S = 5
BURST_S = (2, 5)
# A flood fills what is left of the journal in some seconds.
FLOODS, FLOOD_RATE, FLOOD_BYTES = 8, 75, 3900
FULL_S, STAYS_FULL_S = 40, 2
DEAD_NAMES = 80
CHANGES = {"connections": (4, 8, 16), "pipeline": (1, 2, 4), "retry_max": ("300ms", "500ms", "1s"), "extra": (False, True)}


class Faults:
    """`line`: what they are done to. `rng`: draws their particulars. `idle(s)` waits."""

    def __init__(self, line, rng, idle):
        self.line, self.rng, self.idle = line, rng, idle

    def do(self, kind):
        return getattr(self, "do_" + kind.replace("-", "_"))()

    def burst_s(self):
        return self.rng.uniform(*BURST_S)

    def misbehave(self, what, value):
        """For some seconds; how many."""
        seconds = self.burst_s()
        self.line.fault((what, value))
        try:
            self.idle(seconds)
        finally:
            self.line.fault(None)
        return seconds

    # ---- the service

    def do_down(self):
        self.line.receive("down")
        self.idle(DOWN_S)
        self.line.receive("up")
        return f"service down for {DOWN_S} s"

    def do_503(self):
        return f"503 for {self.misbehave('status', '503 Service Unavailable'):.1f} s"

    def do_400(self):
        line, before = self.line, self.line.gateway.status()["counters"]["parked_records"]
        seconds = self.misbehave("refuse", "400 Bad Request")
        # What was refused less often than it may be is accepted now.
        line.wait_for("refused records to be settled", lambda: line.gateway.terms().pending <= PENDING_REST)
        self.idle(0.5)
        parked = line.gateway.status()["counters"]["parked_records"] - before
        if parked == 0:
            raise Failure(f"nothing was parked by 400 for {seconds:.1f} s")

        def retried():
            if line.gateway.terms().parked:
                queue(line.site, line.gateway, "retry", "--all")
            return line.gateway.terms().parked == 0

        line.wait_for("no record to be parked any more", retried)
        return f"400 for {seconds:.1f} s, {parked} parked and retried"

    def do_429(self):
        seconds = self.rng.choice([1, 2, 3])
        form, value = self.rng.choice([("seconds", too_many_for_seconds(seconds)), ("a date", too_many_until(seconds))])
        lasted = self.misbehave("status", value)
        return f"429 with Retry-After of {seconds} s as {form} for {lasted:.1f} s"

    def do_reset(self):
        every = self.rng.choice([2, 10])
        return f"reset instead of each {every}. answer for {self.misbehave('reset', every):.1f} s"

    def do_drip(self):
        a_byte = self.rng.choice([0.002, 0.01, 0.05])
        return f"answers of a byte every {1000 * a_byte:.0f} ms for {self.misbehave('drip', a_byte):.1f} s"

    def do_stuck(self):
        line = self.line
        line.fault(("stuck", {}))
        try:
            line.wait_for("the stuck record to be told", lambda: line.gateway.status()["lanes_stuck"] == 1)
            self.idle(1)
            found = next(record for record in line.gateway.status()["failing"] if record["stuck"])
        finally:
            line.fault(None)
        queue(line.site, line.gateway, "retry", "--now")
        return f"record {found['record']} of {found['name']} answered {found['status']} {found['attempts']} times, {found['behind']} behind it"

    def do_200(self):
        """A status of success that is not listed: told, and not asked again and again."""
        line, count = self.line, self.line.wire.receiver.count
        line.fault(("unlisted", "200 OK"))
        try:
            seconds = self.burst_s()
            self.idle(seconds)
            status = line.gateway.status()
            pending, asked = status["terms"]["pending"], line.wire.receiver.count - count
        finally:
            line.fault(None)
        if not any("success = [200, 201]" in problem["text"] for problem in status["problems"]):
            raise Failure(f"the line to write is not told: {status['problems']}")
        queue(line.site, line.gateway, "retry", "--now")
        return f"200 for {seconds:.1f} s: {asked} requests, {pending} pending"

    def do_retry_after(self):
        line = self.line
        lasted = self.misbehave("status", "503 Service Unavailable\r\nRetry-After: 3600")
        self.idle(1)
        waits = [route["waits_s"] for route in line.gateway.status()["routes"] if route["waits_s"]]
        if not waits or max(waits) > 300:
            raise Failure(f"a Retry-After of an hour makes it wait {waits} s")
        queue(line.site, line.gateway, "retry", "--now")
        return f"503 with Retry-After of 3600 s for {lasted:.1f} s: it waited {max(waits):.0f} s more when an operator ended that"

    # ---- the gateway

    def backlog(self):
        """At times there is more on its way than at rest when the gateway ends."""
        if self.rng.random() < 0.5:
            return "at rest"
        self.line.receive("down")
        self.idle(self.rng.uniform(0.5, 3))
        return f"{self.line.gateway.terms().pending} pending"

    def do_kill(self):
        line = self.line
        when = self.backlog()
        line.before_end()
        line.gateway.kill()
        self.idle(self.rng.uniform(0, 1))
        line.receive("up")
        return f"SIGKILL, {when}; started in {line.start():.2f} s, {line.gateway.terms().recovered} recovered"

    def do_stop(self):
        line = self.line
        when = self.backlog()
        line.before_end()
        begun = time.monotonic()
        line.gateway.stop()
        took = time.monotonic() - begun
        line.receive("up")
        return f"SIGTERM, {when}; ended in {took:.1f} s, started in {line.start():.2f} s, {line.gateway.terms().recovered} recovered"

    def hang_up(self):
        """SIGHUP; what became of it, and how many connections and ports were lost meanwhile."""
        line, lost = self.line, self.lost()
        before = line.gateway.status()["config"]

        def shown():
            now = line.gateway.status()["config"]
            return now if (now["loaded_at"], now["failed_at"]) != (before["loaded_at"], before["failed_at"]) else None

        os.kill(line.pid, signal.SIGHUP)
        became = line.wait_for("the configuration to be read", shown)
        self.idle(1)
        if self.lost() != lost:
            raise Failure(f"a reload closed {self.lost() - lost} connections or ports that it did not concern")
        return became

    def lost(self):
        return self.line.do(lambda: sum(machine.lost for machine in self.line.machines))

    def expect_reloaded(self):
        became = self.hang_up()
        if not became["last_reload_successful"]:
            raise Failure(f"a good configuration was refused: {became['error']}")

    def do_reload(self):
        self.expect_reloaded()
        return "SIGHUP, nothing changed"

    def do_reload_changed(self):
        gateway = self.line.gateway
        before = dict(gateway.settings)
        for key in self.rng.sample(list(CHANGES), self.rng.choice([1, 2])):
            gateway.settings[key] = self.rng.choice([value for value in CHANGES[key] if value != before[key]])
        gateway.configure()
        self.expect_reloaded()
        changes = [f"{key} {before[key]} to {value}" for key, value in gateway.settings.items() if value != before[key]]
        return f"SIGHUP, {', '.join(changes)}"

    def do_reload_broken(self):
        gateway = self.line.gateway
        text = gateway.configure().read_text(encoding="utf-8")
        broken = self.rng.choice([text + "\n[[source]]\nname = ", text.replace("connections", "conections"), text.replace('"16MiB"', '"32MiB"')])
        gateway.path.write_text(broken, encoding="utf-8")
        became = self.hang_up()
        if became["last_reload_successful"]:
            raise Failure("a broken configuration was taken")
        gateway.configure()
        self.expect_reloaded()
        return "SIGHUP, a file that cannot be used, then a good one"

    def restore(self):
        """The configuration of the beginning."""
        if self.line.gateway.settings != BASE:
            self.line.gateway.settings = dict(BASE)
            self.line.gateway.configure()
            self.expect_reloaded()

    # ---- machines

    def do_machine(self):
        line = self.line
        machine = self.rng.choice(line.of("tcp") + line.of("http"))
        reset = self.rng.random() < 0.5
        line.rejects_allowed += 1
        line.do(lambda: machine.cut(reset))
        return f"{machine.name} left in the middle of a record, {'by a reset' if reset else 'in order'}"

    def do_unplug(self):
        line = self.line
        machine = self.rng.choice(line.of("serial"))
        line.rejects_allowed += 1
        line.do(machine.unplug)
        line.wait_for(f"{machine.name} to be unplugged", lambda: machine.master is None, 20)
        line.wait_for(f"{machine.name} to be open again", machine.is_connected, 20)
        return f"{machine.name} was unplugged in the middle of a record and came back"

    def do_dead_names(self):
        """Machines whose names nobody resolves; meanwhile a line is plugged in again and read."""
        gateway, line = self.line.gateway, self.line
        gateway.settings["dead"] = DEAD_NAMES
        gateway.configure()
        try:
            self.expect_reloaded()
            begun = time.monotonic()
            machine = self.rng.choice(line.of("serial"))
            line.rejects_allowed += 1
            line.do(machine.unplug)
            line.wait_for(f"{machine.name} to be unplugged", lambda: machine.master is None, 20)
            line.wait_for(f"{machine.name} to be open again", machine.is_connected, 20)
            took = time.monotonic() - begun
            self.idle(self.burst_s())
        finally:
            gateway.settings["dead"] = 0
            gateway.configure()
            self.expect_reloaded()
        return f"{DEAD_NAMES} names that nobody resolves; {machine.name} was unplugged and read again after {took:.1f} s"

    def do_flood(self):
        line, before = self.line, self.line.account.accepted()
        seconds = self.burst_s()
        line.flood(FLOODS, FLOOD_RATE, FLOOD_BYTES)
        try:
            self.idle(seconds)
        finally:
            line.ebb()
        return f"{FLOODS} machines with {FLOODS * FLOOD_RATE * FLOOD_BYTES / 1e6:.1f} MB/s for {seconds:.1f} s; {line.account.accepted() - before} delivered"

    # ---- the journal

    def do_full(self):
        line = self.line
        unavailable = self.unavailable()
        line.receive("down")
        line.flood(FLOODS, FLOOD_RATE, FLOOD_BYTES)
        begun = time.monotonic()
        try:
            line.wait_for("the journal to be full", lambda: "journal is full" in line.gateway.problem(), FULL_S)
            took = time.monotonic() - begun
            line.ebb()
            self.idle(STAYS_FULL_S)
            line.wait_for("503 for a machine", lambda: self.unavailable() > unavailable)
            held = line.do(lambda: sum(machine.held for machine in line.of("serial")))
        finally:
            line.ebb()
            line.receive("up")
        return (f"journal full after {took:.1f} s, {self.unavailable() - unavailable} times 503, {held} XOFF so far; "
                f"{line.gateway.terms().pending} pending at the service's return")

    def unavailable(self):
        return self.line.do(lambda: sum(machine.unavailable for machine in self.line.of("http")))
