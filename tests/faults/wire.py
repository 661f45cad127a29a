"""The network of a case, in one thread: the receiver and the machines. Orders come from the main thread by `do`."""

import functools
import json
import queue
import random
import selectors
import socket
import threading
import time

from e2e.child import Failure

from .ledger import RECORD_BYTES, record

TICK_S = 0.002
BACKLOG = 512
# What a TCP machine writes at once at most.
BURST = 200


class Receiver:
    """The API. `mode`: `up`, `down` (nobody listens), `slow` (`per_second` answers)."""

    def __init__(self, wire, ledger, port, rng):
        self.wire, self.ledger, self.address, self.rng = wire, ledger, ("127.0.0.1", port), rng
        self.mode, self.per_second, self.lose_answers = "down", 300, 0.0
        self.listener, self.connections, self.waiting, self.tokens, self.refilled = None, set(), [], 0.0, 0.0
        self.ids, self.next_id = {}, 1
        self.answered = 0

    def set(self, mode):
        if mode == "down":
            if self.listener:
                self.wire.forget(self.listener)
                self.listener = None
            for connection in list(self.connections):
                self.close(connection)
        elif self.listener is None:
            self.listener = socket.create_server(self.address, backlog=BACKLOG)
            self.listener.setblocking(False)
            self.wire.watch(self.listener, self.accept)
        self.mode = mode
        if mode == "up":
            for connection in list(self.waiting):
                self.serve(connection)
            self.waiting.clear()

    def accept(self):
        while self.listener:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            api = ApiConnection(connection)
            self.connections.add(api)
            self.wire.watch(connection, functools.partial(self.readable, api))

    def readable(self, api):
        try:
            data = api.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(api)
            return
        api.data += data
        if self.mode == "slow":
            if api not in self.waiting:
                self.waiting.append(api)
        else:
            self.serve(api)

    def tick(self, now):
        if self.mode != "slow":
            return
        self.tokens = min(self.tokens + (now - self.refilled) * self.per_second, 20.0)
        self.refilled = now
        while self.tokens >= 1 and self.waiting:
            self.tokens -= 1
            self.serve(self.waiting.pop(0))

    def serve(self, api):
        """Answers all whole requests."""
        while api in self.connections:
            end = api.data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = api.data[:end].lower()
            length = int(value_of(head, b"content-length:") or 0)
            if len(api.data) < end + 4 + length:
                return
            body = api.data[end + 4:end + 4 + length]
            key = value_of(api.data[:end], b"Idempotency-Key:")
            target = head[5:head.find(b" ", 5)]
            api.data = api.data[end + 4 + length:]
            answer = self.answer(target, key.decode() if key else None, body)
            if answer is None:
                self.close(api)
            else:
                try:
                    # Loopback buffers hold far more than one answer a request.
                    api.socket.send(answer)
                except OSError:
                    self.close(api)

    def answer(self, target, key, body):
        if target == b"/seq/":
            # The same request gets the same id again, as the service does it.
            record_id = self.ids.get(key)
            if record_id is None:
                record_id = self.ids[key] = self.next_id
                self.next_id += 1
            text = b'{"id": %d}' % record_id
        else:
            document = json.loads(body)
            self.ledger.deliver(key, document.get("id"), document["machine"], document["data"].encode())
            self.answered += 1
            text = b"{}"
        if self.lose_answers and self.rng.random() < self.lose_answers:
            return None
        return b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)

    def close(self, api):
        self.wire.forget(api.socket)
        self.connections.discard(api)
        if api in self.waiting:
            self.waiting.remove(api)


class ApiConnection:
    __slots__ = ("socket", "data")

    def __init__(self, connected):
        self.socket, self.data = connected, b""


def value_of(head, name):
    """The value of a header field, written as `name` is."""
    at = head.find(b"\r\n" + name)
    if at < 0:
        return None
    end = head.find(b"\r\n", at + 2)
    return head[at + 2 + len(name):end if end >= 0 else len(head)].strip()


class TcpMachine:
    """Sends records on schedule, many in one write if it is late. It stops when the gateway is gone."""

    kind = "tcp"

    def __init__(self, wire, lane, port, per_second):
        self.wire, self.lane, self.per_second = wire, lane, per_second
        self.socket, self.rest, self.is_lost, self.begun = connect(port), b"", False, time.monotonic()
        wire.watch(self.socket, self.readable)

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

    def lose(self):
        if not self.is_lost:
            self.is_lost = True
            self.wire.forget(self.socket)

    def tick(self, now):
        if self.is_lost:
            return
        if not self.rest:
            lane = self.lane
            count = min(int((now - self.begun) * self.per_second) - lane.sent, BURST)
            if count <= 0:
                return
            self.rest = b"".join(record(lane.name, lane.sent + i, lane.length) + b"\r" for i in range(count))
            lane.sent += count
        try:
            self.rest = self.rest[self.socket.send(self.rest):]
        except BlockingIOError:
            # Nothing is made meanwhile that would all come at once later.
            self.begun = now - self.lane.sent / self.per_second if self.per_second else now
        except OSError:
            self.lose()

    def is_waiting(self):
        """Whether the gateway does not take what is due."""
        return bool(self.rest)


class HttpMachine:
    """One request at a time, on schedule; after a 503 the same again. It stops when the gateway is gone."""

    kind = "http"

    def __init__(self, wire, lane, port, per_second):
        self.wire, self.lane, self.per_second = wire, lane, per_second
        self.socket, self.is_lost, self.begun, self.data = connect(port), False, time.monotonic(), b""
        self.asked_at, self.again_at, self.unavailable, self.date = None, None, 0, None
        self.head = f"POST /v1/records/{lane.name} HTTP/1.1\r\nHost: ringest\r\nContent-Length: ".encode()
        wire.watch(self.socket, self.readable)

    lose = TcpMachine.lose

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
        status = head[9:12]
        now = time.monotonic()
        self.date = value_of(head, b"date:")
        if status == b"201":
            self.lane.acknowledged = self.lane.sent
        elif status == b"503" and b"\r\nretry-after:" in head:
            self.unavailable += 1
            self.again_at = now + 0.1
        else:
            self.wire.complain(f"{self.lane.name} was answered {head[:60]!r}")
        self.asked_at = None

    def tick(self, now):
        lane = self.lane
        if self.is_lost or self.asked_at is not None:
            return
        if self.again_at is not None:
            if now < self.again_at:
                return
            number = lane.sent - 1
        elif lane.sent < int((now - self.begun) * self.per_second):
            number = lane.sent
            lane.sent += 1
        else:
            return
        self.asked_at, self.again_at = now, None
        body = record(lane.name, number, lane.length)
        try:
            self.socket.send(self.head + b"%d\r\n\r\n%s" % (len(body), body))
        except OSError:
            self.lose()

    def is_waiting(self):
        """Whether a record was sent and not acknowledged."""
        return self.lane.acknowledged < self.lane.sent


def connect(port):
    connected = socket.create_connection(("127.0.0.1", port), timeout=5)
    # What waits in the kernel is neither here nor there.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


class Wire(threading.Thread):
    """The thread."""

    def __init__(self, ledger, port, seed=0):
        super().__init__(daemon=True)
        self.ledger, self.selector, self.orders, self.machines = ledger, selectors.DefaultSelector(), queue.SimpleQueue(), []
        self.receiver = Receiver(self, ledger, port, random.Random(seed))
        self.failed, self.is_over, self.prefixes = None, False, 0
        self.start()

    def run(self):
        try:
            while not self.is_over:
                for key, _ in self.selector.select(TICK_S):
                    # One event may have closed another's socket.
                    if key.fd in self.selector.get_map():
                        key.data()
                now = time.monotonic()
                while not self.orders.empty():
                    action, answer = self.orders.get()
                    try:
                        answer.put((action(), None))
                    except Exception as error:  # noqa: BLE001 - it is raised where it was ordered
                        answer.put((None, error))
                self.receiver.tick(now)
                for machine in self.machines:
                    machine.tick(now)
        except Exception as error:  # noqa: BLE001 - told by `do`
            self.failed = error
            raise

    def do(self, action, seconds=20):
        """Runs `action` between two events; its result."""
        answer = queue.SimpleQueue()
        self.orders.put((action, answer))
        until = time.monotonic() + seconds
        while True:
            try:
                result, error = answer.get(timeout=0.2)
                break
            except queue.Empty:
                if self.failed or time.monotonic() > until:
                    raise Failure(f"the network thread does not answer: {self.failed!r}") from self.failed
        if error:
            raise error
        return result

    def watch(self, watched, action):
        self.selector.register(watched, selectors.EVENT_READ, action)

    def forget(self, watched):
        try:
            self.selector.unregister(watched)
        except (KeyError, ValueError):
            pass
        watched.close()

    def complain(self, text):
        self.ledger.find(text)

    def receive(self, mode, per_second=300, lose_answers=0.0):
        """What the receiver does from now on."""
        def change():
            self.receiver.per_second, self.receiver.lose_answers = per_second, lose_answers
            self.receiver.refilled = time.monotonic()
            self.receiver.set(mode)

        self.do(change)

    def start_machines(self, prefix, *, tcp=0, tcp_port=None, http=0, http_port=None, rate=2000, length=RECORD_BYTES):
        """New machines, `rate` records a second together, with lanes PREFIXtN and PREFIXhN."""
        each = rate / (tcp + http)

        def begin():
            started = []
            for kind, count, port in [(TcpMachine, tcp, tcp_port), (HttpMachine, http, http_port)]:
                for index in range(count):
                    lane = self.ledger.lane(f"{prefix}{kind.kind[0]}{index}", kind.kind, length)
                    started.append(kind(self, lane, port, each))
            self.machines += started
            return started

        return self.do(begin)

    def end_machines(self):
        """All machines hang up, wherever they are."""
        def end():
            for machine in self.machines:
                machine.lose()
            self.machines.clear()

        self.do(end)

    def next_prefix(self):
        """One that no lane has."""
        self.prefixes += 1
        return f"x{self.prefixes}"

    def pause_machines(self):
        """Machines send nothing new; what waits for its answer goes on."""
        def pause():
            for machine in self.machines:
                machine.per_second = 0

        self.do(pause)

    def end(self):
        if self.is_alive():
            self.do(self.end_all)
            self.join(5)

    def end_all(self):
        for machine in self.machines:
            machine.lose()
        self.receiver.set("down")
        self.is_over = True
