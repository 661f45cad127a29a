"""A line that cannot be held back, beside machines that can wait and fill the journal."""

import json
import os
import pty
import threading
import time
import tty

from e2e.child import Failure

from .cases import case
from .ledger import RECORD_BYTES, record
from .site import Gateway

LINE = """
[[source]]
name = "line"
kind = "serial"
path = {path}
line = "115200 8N1"
flow = "none"
first = "keep"
"""
# All that the line can carry.
LINE_PER_S = 170
# What others send, as fast as it is taken.
LENGTH, RATE = 4000, 1_000_000
FULL_S, SLOW_S, SLOW_PER_S = 8, 8, 300


class Line(threading.Thread):
    """A machine on a pty: it sends on schedule, whether the gateway reads or not."""

    def __init__(self, wire):
        super().__init__(daemon=True)
        self.wire, self.is_over, self.overrun = wire, False, 0
        # Each of its records is to arrive, as one that was answered 201.
        self.lane = wire.ledger.lane("line", "http", RECORD_BYTES)
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.path = os.ttyname(self.slave)

    def run(self):
        begun = time.monotonic()
        while not self.is_over:
            while self.lane.sent < int((time.monotonic() - begun) * LINE_PER_S):
                line = record(self.lane.name, self.lane.sent, self.lane.length) + b"\r"
                # Known before it can arrive.
                self.lane.sent += 1
                self.lane.acknowledged = self.lane.sent
                try:
                    self.overrun += os.write(self.master, line) != len(line)
                except BlockingIOError:
                    self.overrun += 1
            time.sleep(0.002)

    def end(self):
        self.is_over = True
        self.join(5)

    def close(self):
        os.close(self.master)
        os.close(self.slave)


class Crowded(Gateway):
    line = None

    def configure(self):
        path = super().configure()
        with open(path, "a", encoding="utf-8") as file:
            file.write(LINE.format(path=json.dumps(self.line.path)))
        return path

    def rejected(self):
        return next(found["rejected"] for found in self.status()["sources"] if found["name"] == "line")


@case("reserve", "a line without flow control beside TCP and HTTP machines that fill a small journal: none of its records is lost", limit_s=180)
def reserve(site):
    wire = site.receiver()
    gateway = Crowded(site, "gateway", wire.receiver.address[1], segment_size="1MiB", max_size="160MiB", window="4MiB")
    gateway.line = line = Line(wire)
    gateway.start()
    line.start()
    try:
        wire.start_machines("m", tcp=4, tcp_port=gateway.tcp, http=2, http_port=gateway.http, rate=RATE, length=LENGTH)
        gateway.wait_for("the journal to be full for machines that can wait", lambda: wire.do(lambda: is_full(wire)), 60)
        time.sleep(FULL_S)
        wire.receive("slow", SLOW_PER_S)
        time.sleep(SLOW_S)
        slow = wire.ledger.deliveries
        wire.pause_machines()
        wire.receive("up")
        line.end()
        gateway.wait_for("all is delivered", lambda: wire.ledger.outstanding() == 0, 90)
        sent, lost = line.lane.sent, gateway.rejected() + line.overrun
        if lost:
            raise Failure(f"{lost} of the {sent} records of the line are lost ({line.overrun} of them before they could be read)")
        wire.end_machines()
        gateway.stop()
    finally:
        line.end()
        line.close()
    others = sum(lane.sent for lane in wire.ledger.lanes.values()) - sent
    return f"{sent} records of the line, 0 lost, beside {others} of machines that waited; {slow} were delivered while the service was slow"


def is_full(wire):
    """Whether nobody who can wait gets rid of what it has, and somebody has been told so."""
    told = any(machine.kind == "http" and machine.unavailable > 3 for machine in wire.machines)
    return told and all(machine.is_waiting() for machine in wire.machines)
