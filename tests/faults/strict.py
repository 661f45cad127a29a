"""Whatever comes: ringest takes no request that h11 refuses, a strict parser of HTTP/1.1, but for what stands here with its reason."""

import asyncio
import base64
import json
import random
import re
import subprocess

from e2e.child import Failure

from .cases import case
from .speed import Load

INPUTS, AT_ONCE = 20_000, 32
# In a process of its own, with the library: how many requests it finds whole before it refuses something, and why it does.
JUDGE = r"""
import base64, h11, json, sys
for line in sys.stdin:
    data, found, why = base64.b64decode(line), 0, ""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                if event is not h11.PAUSED:
                    break
                if connection.our_state is h11.SEND_RESPONSE:
                    connection.send(h11.Response(status_code=201, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            elif isinstance(event, h11.EndOfMessage):
                found += 1
    except h11.ProtocolError as error:
        why = str(error)
    print(json.dumps([found, why]), flush=True)
"""
# What is taken that h11 refuses: what it says, what the input has, and why it may be taken.
TAKEN = (
    ("no request line received", rb"\r\n", "one empty line before a request is ignored (RFC 9112 section 2.2)"),
    ("illegal chunk header", rb"\r\n[0-9A-Fa-f]+[ \t]+;", "blanks before a chunk extension are grammar (RFC 9112 section 7.1.1)"),
    ("", rb"(?i)\r\n0+[^\r\n]*\r\n(.*\r\n)*(transfer-encoding|content-length|host):", "a trailer never changes framing (RFC 9110 section 6.5.1)"),
    ("illegal", rb"[\x80-\xff]", "bytes above ASCII in a value are opaque (RFC 9110 section 5.5)"),
)
P = b"POST /v1/records/a HTTP/1.1\r\nHost: a\r\n"
SEEDS = (
    P + b"Content-Length: 5\r\n\r\nhello",
    P + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    P + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    P + b"Content-Length: 5\r\n\r\nhello" + P + b"Content-Length: 3\r\nConnection: close\r\n\r\nend",
    P + b"Content-Type: text/plain; charset=utf-8\r\nIdempotency-Key: k-1\r\nContent-Length: 2\r\n\r\nhi",
    b"POST http://a/v1/records/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    b"POST /v1/records/a HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    b"PUT /v1/records/a HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nContent-Length: 2\r\n\r\nhi",
)
PIECES = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\x85", b"0", b"1", b"5", b"+", b"-", b",", b";", b"_", b"x", b"\"",
    b"Content-Length: 5\r\n", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Host: b\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b" folded\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"5\r\nhello\r\n", b"0\r\n\r\n", b"GET ",
)


def changed(rng):
    """A request with up to four mistakes, or none."""
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at:at] = rng.choice(PIECES)
        elif kind == 1:
            del data[at:at + rng.randrange(1, 4)]
        elif kind == 2 and at < len(data):
            data[at] = rng.choice(rng.choice(PIECES))
        else:
            line = data.find(b"\r\n", at)
            if line >= 0:
                data[line + 2:line + 2] = rng.choice(PIECES)
    return bytes(data)


def judge(site, environment, inputs):
    script = site.directory / "judge.py"
    script.write_text(JUDGE, encoding="utf-8")
    asked = "".join(base64.b64encode(data).decode() + "\n" for data in inputs)
    done = subprocess.run([environment / "bin" / "python", script], input=asked, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise Failure(f"h11 ended with {done.returncode}: {done.stderr[-800:]}")
    judged = [json.loads(line) for line in done.stdout.splitlines()]
    if len(judged) != len(inputs):
        raise Failure(f"h11 has judged {len(judged)} of {len(inputs)} inputs")
    return judged


async def ask(port, data):
    """How many requests of these bytes the gateway answers 201."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        said = await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        said = b""
    finally:
        writer.close()
    return len(re.findall(rb"HTTP/1\.1 201 ", said))


async def ask_all(port, inputs):
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(data):
        async with limit:
            return await ask(port, data)

    return await asyncio.gather(*(one(data) for data in inputs))


def venv(site):
    """A virtual environment with the library, made once."""
    environment = site.options.programs.parent / "h11-venv"
    if not (environment / "ready").exists():
        for command in (["virtualenv", "-q", environment], [environment / "bin" / "pip", "install", "-q", "h11==0.16.0"]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                raise Failure(f"{command[0]} failed: {done.stderr[-800:]}")
        (environment / "ready").touch()
    return environment


@case("h11", "20,000 requests with mistakes: nothing is taken that h11 refuses, but for a list with reasons", tools=("virtualenv",), needs_bench=True, limit_s=300)
def h11(site):
    rng = random.Random(site.options.seed)
    environment = venv(site)
    inputs = [changed(rng) for _ in range(INPUTS)]
    judged = judge(site, environment, inputs)
    wire = site.receiver()
    gateway = site.gateway(wire, durability="process")
    null = Load(site, 1, "h11")
    null.receive(gateway.api)
    gateway.start()
    taken = asyncio.run(ask_all(gateway.http, inputs))
    findings, reasons = [], {}
    for data, count, (found, why) in zip(inputs, taken, judged):
        if count <= found:
            continue
        reason = next((reason for words, pattern, reason in TAKEN if words in why and re.search(pattern, data)), None)
        if reason is None:
            findings.append(f"{data!r}: {count} were taken, h11 has {found} and says {why!r}")
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    gateway.wait_settled(60)
    gateway.stop()
    null.end()
    if findings:
        raise Failure("\n  ".join([f"{len(findings)} findings, seed {site.options.seed}", *findings[:12]]))
    both = sum(1 for count, (found, _) in zip(taken, judged) if count and found)
    if both < INPUTS / 10:
        raise Failure(f"only {both} inputs were taken by both: the mistakes are too many")
    return f"{sum(taken)} requests taken of {INPUTS} inputs, {sum(found for found, _ in judged)} by h11; allowed: {reasons}"
