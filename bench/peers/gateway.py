#!/usr/bin/env python3
"""The gateway that ringest replaces, written for the bench as well as its design allows: readers put records into a queue,
consumers take them out and post them; anything but 201 goes back into the queue. Needs aiohttp, and uses uvloop if it is there.

bench/run tcp-post --peer 'python=python3 {peers}/gateway.py --listen {machines} --api http://127.0.0.1:{receiver} --consumers 64'
"""

import argparse
import asyncio

import aiohttp

RECORD_BYTES_MAX = 4096
RETRY_S = 0.5


async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, queue: asyncio.Queue) -> None:
    """One machine: its records, cut at CR, under its address."""
    address, port = writer.get_extra_info("peername")[:2]
    machine = f"machines@{address}:{port}"
    try:
        while True:
            record = await reader.readuntil(b"\r")
            await queue.put((machine, record[:-1].decode(errors="replace")))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def deliver(session: aiohttp.ClientSession, queue: asyncio.Queue, id_step: bool) -> None:
    """One consumer: an id, then the record under it."""
    while True:
        machine, data = await queue.get()
        body = {"machine": machine, "data": data}
        try:
            if id_step:
                async with session.post("/seq/", json={}) as answer:
                    body = {"id": (await answer.json())["id"], **body}
            async with session.post("/films/", json=body) as answer:
                delivered = answer.status == 201
        except (aiohttp.ClientError, asyncio.TimeoutError, KeyError):
            delivered = False
        if not delivered:
            await asyncio.sleep(RETRY_S)
            await queue.put((machine, data))


async def run(options: argparse.Namespace) -> None:
    queue: asyncio.Queue = asyncio.Queue(options.queue)
    server = await asyncio.start_server(
        lambda reader, writer: read(reader, writer, queue), "127.0.0.1", options.listen,
        limit=RECORD_BYTES_MAX, backlog=16_384,
    )
    connector = aiohttp.TCPConnector(limit=0)
    async with server, aiohttp.ClientSession(options.api, connector=connector) as session:
        async with asyncio.TaskGroup() as group:
            for _ in range(options.consumers):
                group.create_task(deliver(session, queue, options.id_step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listen", type=int, required=True, metavar="PORT", help="where TCP machines connect")
    parser.add_argument("--api", required=True, metavar="URL", help="the API, without a path")
    parser.add_argument("--consumers", type=int, default=64, help="requests at a time (default 64)")
    parser.add_argument("--id-step", action="store_true", help="fetch an id before each record")
    parser.add_argument("--queue", type=int, default=100_000, help="records in memory (default 100,000)")
    options = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        asyncio.run(run(options))
    else:
        uvloop.run(run(options))


if __name__ == "__main__":
    main()
