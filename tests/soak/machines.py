"""Machines that live as long as the soak: each comes back whenever its connection, its port or the gateway was away."""

import os
import select
import socket
import struct
import time
import tty

from faults.ledger import RECORD_BYTES, record
from faults.wire import connect, value_of

from .account import CUT_RECORDS

RECONNECT_S, RETRY_S = 0.25, 0.2
# A port that was just opened may still be set up.
SETTLE_S, LOOK_S = 0.05, 0.02
AWAY_S = 1.5
# Records that a machine which is late makes at once; later than that, it leaves them out.
BURST = 20
RESET = struct.pack("ii", 1, 0)
XON, XOFF = 0x11, 0x13
STX, ETX = b"\x02", b"\x03"


class Schedule:
    """When records are due: so many a second, and none while it rests."""

    def __init__(self, per_second, phase):
        self.period = 1 / per_second
        self.rest(False, phase)

    def rest(self, rests, phase=0.0):
        """Begins to rest, or to send, in that phase of its period."""
        self.rests, self.next_at = rests, time.monotonic() + phase * self.period

    def due(self, now, most=BURST):
        """How many to make now."""
        if self.rests or now < self.next_at:
            return 0
        count = int((now - self.next_at) / self.period) + 1
        self.next_at += count * self.period
        return min(count, most)


class Connecting:
    """A machine with a socket; each connection is a lane of its own. It has an account, and runs in the wire's thread."""

    def __init__(self, wire, name, port, per_second, length=RECORD_BYTES):
        self.wire, self.name, self.port, self.length = wire, name, port, length
        self.schedule = Schedule(per_second, wire.receiver.rng.random())
        self.socket, self.lane, self.again_at, self.generation, self.lost = None, None, 0.0, 0, 0

    def is_connected(self):
        return self.socket is not None

    def tick(self, now):
        if self.socket is None:
            if now < self.again_at:
                return
            try:
                self.socket = connect(self.port)
            except OSError:
                self.again_at = now + RECONNECT_S
                return
            self.generation += 1
            self.begin(f"{self.name}.{self.generation}")
            self.wire.watch(self.socket, self.readable)
        self.send(now)

    def lose(self, away_s=RECONNECT_S):
        """The connection ends, and with it the lane. What was on its way may have arrived or not."""
        if self.socket is not None:
            self.lane.is_cut = True
            self.hang_up(away_s)
            self.lost += 1

    def hang_up(self, away_s):
        self.wire.forget(self.socket)
        self.socket, self.again_at = None, time.monotonic() + away_s

    def unfinished(self):
        """The front of a record's bytes on the wire."""
        whole = record(self.lane.name, self.lane.sent, self.length)
        return whole[:len(whole) // 2]

    def cut(self, reset):
        """Hangs up in the middle of a record; whether all whole ones before it were sent."""
        if self.socket is None:
            return False
        is_whole = self.is_at_rest()
        try:
            self.socket.send(self.unfinished())
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        except OSError:
            is_whole = False
        # A reset may overtake what was sent before it.
        self.lane.is_cut |= reset or not is_whole
        self.hang_up(AWAY_S)
        return is_whole


class TcpMachine(Connecting):
    kind = "tcp"

    def begin(self, name):
        self.rest = b""
        source = f"tcp@127.0.0.1:{self.socket.getsockname()[1]}"
        self.lane = self.wire.ledger.lane(name, self.kind, source, self.length)

    def readable(self):
        """A gateway says nothing on these: what comes is its end."""
        try:
            if self.socket.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.lose()

    def is_at_rest(self):
        return not self.rest

    def send(self, now):
        lane = self.lane
        if not self.rest:
            count = self.schedule.due(now)
            if count == 0:
                return
            self.rest = b"".join(record(lane.name, lane.sent + i, self.length) + b"\r" for i in range(count))
            lane.sent += count
        try:
            self.rest = self.rest[self.socket.send(self.rest):]
        except BlockingIOError:
            pass
        except OSError:
            self.lose()


class Flood(TcpMachine):
    """One connection, which ends in order once its schedule rests and all that was made is out."""

    is_over = False

    def tick(self, now):
        if self.is_over:
            return
        super().tick(now)
        if self.schedule.rests and self.socket is not None and not self.rest:
            self.hang_up(0)
        self.is_over = self.generation > 0 and self.socket is None


class HttpMachine(Connecting):
    """One request at a time; after a 503 the same again."""

    kind = "http"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.unavailable = 0

    def begin(self, name):
        self.data, self.asks, self.repeat_at = b"", False, None
        self.lane = self.wire.ledger.lane(name, self.kind, name, self.length)
        self.head = f"POST /v1/records/{name} HTTP/1.1\r\nHost: ringest\r\nContent-Length: ".encode()

    def is_at_rest(self):
        return not self.asks and self.repeat_at is None

    def unfinished(self):
        whole = record(self.lane.name, self.lane.sent, self.length)
        return self.head + b"%d\r\n\r\n%s" % (len(whole), whole[:len(whole) // 2])

    def readable(self):
        try:
            data = self.socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.lose()
            return
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.data[:end].lower()
        length = int(value_of(head, b"content-length:") or 0)
        if len(self.data) < end + 4 + length:
            return
        self.data = self.data[end + 4 + length:]
        self.asks = False
        status = head[9:12]
        if status == b"201":
            self.lane.acknowledged = self.lane.sent
        elif status == b"503" and b"\r\nretry-after:" in head:
            self.unavailable += 1
            self.repeat_at = time.monotonic() + RETRY_S
        else:
            self.wire.complain(f"{self.lane.name} was answered {head[:60]!r}")

    def send(self, now):
        lane = self.lane
        if self.asks:
            return
        if self.repeat_at is not None:
            if now < self.repeat_at:
                return
        elif self.schedule.due(now, 1):
            lane.sent += 1
        else:
            return
        self.asks, self.repeat_at = True, None
        body = record(lane.name, lane.sent - 1, self.length)
        try:
            self.socket.send(self.head + b"%d\r\n\r\n%s" % (len(body), body))
        except OSError:
            self.lose()


class SerialMachine:
    """A pty with a name that stays; one lane for the whole run. It heeds XOFF, and waits while nobody has its port open."""

    kind = "serial"

    def __init__(self, wire, name, link, per_second):
        self.wire, self.name, self.link = wire, name, link
        self.schedule = Schedule(per_second, wire.receiver.rng.random())
        self.lane = wire.ledger.lane(name, self.kind, name, RECORD_BYTES)
        self.master, self.again_at, self.look_at, self.ready_at, self.lost = None, 0.0, 0.0, None, 0
        self.rest, self.is_held, self.held = b"", False, 0
        self.leave_at = None

    def is_connected(self):
        return self.master is not None and self.ready_at is not None

    def is_at_rest(self):
        return not self.rest

    def open(self):
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        tty.setraw(slave)
        name = os.ttyname(slave)
        os.close(slave)
        self.rest, self.is_held, self.ready_at = b"", False, None
        # By rename, so that the name never leads nowhere while it is there.
        unfinished = self.link.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(name)
        unfinished.rename(self.link)

    def close(self):
        """Unplugs it. The name goes first: the kernel may give the same slave to another."""
        if self.master is not None:
            self.link.unlink(missing_ok=True)
            os.close(self.master)
            self.master, self.ready_at, self.again_at = None, None, time.monotonic() + AWAY_S

    def expect_cut(self):
        """The gateway is about to be ended: of the records of this moment one may be half read, and lost with it."""
        self.lane.cuts.append((self.lane.sent - CUT_RECORDS, self.lane.sent + CUT_RECORDS))

    def unplug(self):
        """Hangs up in the middle of a record, once the last whole one was delivered, so that none is in the tty: the half one is sent again,
        whole. By number, not by count: one that was half read when a gateway was ended never comes."""
        self.leave_at = 0.0

    def tick(self, now):
        if self.master is None:
            if now >= self.again_at:
                self.open()
            return
        if now >= self.look_at:
            self.look_at = now + LOOK_S
            self.look(now)
        if self.ready_at is None or now < self.ready_at or self.is_held:
            return
        if self.leave_at is not None:
            self.leave(now)
        else:
            self.send(now)

    def look(self, now):
        """Whether somebody has the port open, and what was said."""
        poll = select.poll()
        poll.register(self.master, select.POLLIN)
        found = poll.poll(0)
        if found and found[0][1] & select.POLLHUP:
            if self.ready_at is not None:
                self.ready_at = None
                self.lost += 1
            return
        if self.ready_at is None:
            self.ready_at = now + SETTLE_S
        if found and found[0][1] & select.POLLIN:
            self.hear()

    def hear(self):
        try:
            said = os.read(self.master, 256)
        except OSError:
            return
        for byte in said:
            if byte in (XON, XOFF):
                self.held += byte == XOFF and not self.is_held
                self.is_held = byte == XOFF

    def send(self, now):
        lane = self.lane
        if not self.rest:
            count = self.schedule.due(now)
            if count == 0:
                return
            self.rest = b"".join(STX + record(lane.name, lane.sent + i, lane.length) + ETX for i in range(count))
            lane.sent += count
        self.write()

    def write(self):
        try:
            self.rest = self.rest[os.write(self.master, self.rest):]
        except BlockingIOError:
            pass
        except OSError:
            # Nobody has it open any more: it is sent to whoever does next.
            self.ready_at = None

    def leave(self, now):
        if self.rest:
            self.write()
        elif self.leave_at == 0.0 and self.lane.last == self.lane.sent - 1:
            self.rest = (STX + record(self.lane.name, self.lane.sent, self.lane.length))[:30]
            self.write()
            self.leave_at = now + 0.1
        elif self.leave_at and now >= self.leave_at:
            self.leave_at = None
            self.close()
