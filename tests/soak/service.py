"""The service: it honours keys, grants ids that follow from them, and misbehaves when told to."""

import email.utils
import socket
import time

from faults.answers import RESET, Misbehaving

from .account import digest_of, id_of


class Service(Misbehaving):
    """`fault`: None or (what, value): `status` (a line, or a function that makes it; of both steps), `refuse` (of the record step only),
    `stuck` (500 for the first record that comes, and for no other), `unlisted` (a status of success that is not listed; nothing is done),
    `drip` (seconds a byte), `reset` (every so many answers)."""

    def answer(self, target, key, body):
        self.count += 1
        what, value = self.fault or (None, None)
        if what == "status":
            return answer(value() if callable(value) else value, b"{}")
        key = key.encode() if key else b""
        if target == b"/seq/":
            # The gateway asks under the record's key and this ending.
            return answer("201 Created", b'{"id": %d}' % id_of(digest_of(key.removesuffix(b"-seq"))))
        found = self.ledger.look(key, body)
        if found is None:
            return answer("422 Unprocessable Content", b"{}")
        lane, number, digest = found
        if what == "stuck" and value.setdefault("key", key) == key:
            return answer("500 Internal Server Error", b'{"detail": "this one always fails"}')
        if what == "unlisted":
            return answer(value, b"{}")
        if what == "refuse":
            self.ledger.refuse(lane, number)
            return answer(value, b'{"detail": "refused on purpose"}')
        self.ledger.accept(lane, number, digest)
        return answer("201 Created", b"{}")

    def serve(self, api):
        """Answers all whole requests, in their order."""
        while api in self.connections:
            request = self.take(api)
            if request is None:
                return
            said = self.answer(*request)
            what, value = self.fault or (None, None)
            if what == "reset" and self.count % value == 0:
                # What was done is done; nobody hears of it.
                api.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.close(api)
            elif what == "drip" or self.drips(api):
                self.dripping.append([api, said, time.monotonic()])
            else:
                self.send(api, said)

    def drips(self, api):
        return any(entry[0] is api for entry in self.dripping)

    def send(self, api, data):
        try:
            api.socket.send(data)
        except OSError:
            self.close(api)

    def tick(self, now):
        what, value = self.fault or (None, None)
        busy, left = set(), []
        for entry in self.dripping:
            api, rest, since = entry
            if api not in self.connections:
                continue
            if api in busy:
                # The answer before it is not whole yet.
                entry[2] = now
                left.append(entry)
                continue
            count = min(int((now - since) / value), len(rest)) if what == "drip" else len(rest)
            if count:
                self.send(api, rest[:count])
                entry[1], entry[2] = rest[count:], now
            if entry[1] and api in self.connections:
                busy.add(api)
                left.append(entry)
        self.dripping = left


def answer(status, body):
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def too_many_for_seconds(seconds):
    return f"429 Too Many Requests\r\nRetry-After: {seconds}"


def too_many_until(seconds):
    """The other form of Retry-After, a date."""
    def line():
        return f"429 Too Many Requests\r\nRetry-After: {email.utils.formatdate(time.time() + seconds, usegmt=True)}"

    return line
