#!/usr/bin/env python3
"""The gateway that is usually written first: a reader, a queue in memory, an HTTP client. To compare with.

Each port is read by asyncio and cut at the delimiter; records go into one asyncio.Queue; consumers take them, POST for an id
and POST id and data. 201 is success; a record that got anything else goes back into the queue, at its end. No journal, no key,
no order through retries: a killed process forgets its queue, a lost answer makes a double, and a port that is gone is not
opened again.

It is given its fair best: uvloop, aiohttp with kept-alive connections, no copy of a record that is not needed, no log line per
record, a pause after a failure so that an outage does not spin, and on SIGTERM or Ctrl-C it empties its queue before it ends.

    gateway.py --serial aoi-07=/dev/ttyUSB0 --seq http://127.0.0.1:8000/seq/ --films http://127.0.0.1:8000/films/

Ends with one line of JSON: received, delivered, requeued, pending. Without --seq there is no id step.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import termios
import tty

import aiohttp
import uvloop

READ_BYTES = 65536
# As ringest's default.
TIMEOUT_S = 15


class Gateway:
    """The queue and what is counted. A record is (machine, bytes)."""

    def __init__(self, options):
        self.options = options
        self.end = options.end.encode().decode("unicode_escape").encode("latin-1")
        self.queue = asyncio.Queue()
        self.received = self.delivered = self.requeued = self.under_way = 0

    def pending(self):
        return self.queue.qsize() + self.under_way

    def cut(self, machine, rest, data):
        """Puts the whole records of `rest + data` into the queue and returns what is unfinished."""
        *records, rest = (rest + data).split(self.end)
        for record in records:
            if record := record.strip():
                self.received += 1
                self.queue.put_nowait((machine, record))
        return rest

    async def consume(self, session):
        """Delivers one record after the other, for ever."""
        while True:
            machine, record = await self.queue.get()
            self.under_way += 1
            delivered = False
            try:
                delivered = await self.deliver(session, machine, record)
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
                pass
            if delivered:
                self.delivered += 1
            else:
                self.requeued += 1
                self.queue.put_nowait((machine, record))
            self.under_way -= 1
            if not delivered:
                await asyncio.sleep(self.options.pause)

    async def deliver(self, session, machine, record):
        """Whether the service answered 201. Raises what the client raises, or ValueError for an answer that holds no id."""
        film = {"machine": machine, "data": record.decode("utf-8", "replace")}
        if self.options.seq:
            async with session.post(self.options.seq, json={}) as answer:
                if answer.status not in (200, 201):
                    await answer.read()
                    return False
                body = await answer.json()
            if "id" not in body:
                raise ValueError("no id")
            film = {"id": body["id"], **film}
        async with session.post(self.options.films, json=film) as answer:
            await answer.read()
            return answer.status == 201


class Port:
    """A serial port in raw mode. What waits in it from before is kept."""

    def __init__(self, gateway, machine, path):
        self.gateway, self.machine, self.path, self.rest = gateway, machine, path, b""
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        tty.setraw(self.fd, termios.TCSANOW)
        asyncio.get_running_loop().add_reader(self.fd, self.readable)

    def readable(self):
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.rest = self.gateway.cut(self.machine, self.rest, data)
        else:
            print(f"{self.path} is gone", file=sys.stderr)
            asyncio.get_running_loop().remove_reader(self.fd)


class Connection(asyncio.Protocol):
    """A machine, or a device server, that connected by TCP."""

    def __init__(self, gateway):
        self.gateway, self.machine, self.rest = gateway, "tcp", b""

    def connection_made(self, transport):
        host, port, *_ = transport.get_extra_info("peername")
        self.machine = f"tcp@{host}:{port}"

    def data_received(self, data):
        self.rest = self.gateway.cut(self.machine, self.rest, data)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serial", metavar="NAME=PATH", action="append", default=[], help="a serial port; again for more")
    parser.add_argument("--listen", metavar="HOST:PORT", help="take TCP connections")
    parser.add_argument("--seq", metavar="URL", help="the id step")
    parser.add_argument("--films", metavar="URL", required=True, help="the record step")
    parser.add_argument("--consumers", metavar="N", type=int, default=1, help="requests at a time (default 1)")
    parser.add_argument("--end", metavar="BYTES", default="\\r", help="delimiter (default \\r)")
    parser.add_argument("--pause", metavar="SECONDS", type=float, default=0.1, help="after a failure (default 0.1)")
    parser.add_argument("--drain", metavar="SECONDS", type=float, default=10, help="to empty the queue at the end (default 10)")
    parser.add_argument("--ready-file", metavar="FILE", help="written once records are taken")
    return parser.parse_args()


async def run(options):
    gateway, loop, stop = Gateway(options), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connector = aiohttp.TCPConnector(limit=options.consumers)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        consumers = [loop.create_task(gateway.consume(session)) for _ in range(options.consumers)]
        ports = [Port(gateway, *serial.split("=", 1)) for serial in options.serial]
        server = None
        if options.listen:
            host, port = options.listen.rsplit(":", 1)
            server = await loop.create_server(lambda: Connection(gateway), host, int(port), backlog=4096)
        if options.ready_file:
            with open(options.ready_file, "w", encoding="ascii"):
                pass
        # A consumer never ends of itself; if one does, it is a defect, and its exception must be seen.
        stopped = loop.create_task(stop.wait())
        await asyncio.wait([stopped, *consumers], return_when=asyncio.FIRST_COMPLETED)
        until = loop.time() + options.drain
        while gateway.pending() and loop.time() < until and not any(task.done() for task in consumers):
            await asyncio.sleep(0.02)
        for port in ports:
            loop.remove_reader(port.fd)
        if server:
            server.close()
        failed = [task.exception() for task in consumers if task.done()]
        for task in [stopped, *consumers]:
            task.cancel()
    pending = gateway.pending()
    print(json.dumps({
        "received": gateway.received, "delivered": gateway.delivered, "requeued": gateway.requeued, "pending": pending,
    }), flush=True)
    if failed:
        raise failed[0]


if __name__ == "__main__":
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(arguments()))
    else:
        uvloop.install()
        asyncio.run(run(arguments()))
