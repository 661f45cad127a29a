"""What machines sent, what they were told, what the service accepted: eight bytes a record, so that millions fit.

A *lane* is what keeps its order: one connection of a machine, or a serial line for the whole run. Its records are numbered from 0, and record,
id and request body can be built again from lane, number and key. So each request is compared byte for byte, and nothing is kept
but a digest of the key under which each record was first accepted.
"""

import array
import hashlib

from faults.ledger import RECORD_BYTES, record

# The gateway parks a record after so many refusals; from then on it may come behind later ones.
ATTEMPTS = 3
EXAMPLES = 8
# Records of a serial line that may have been in the gateway's hands, unframed, when it was ended: one, of the last few.
CUT_RECORDS = 64

DATA = b'"data": "R1 '


def digest_of(key):
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def id_of(digest):
    """The sequence id of a key: a service that honours keys gives the same one again, and this one need not remember it."""
    return (digest >> 11) + 1


class Lane:
    __slots__ = ("name", "kind", "source", "length", "sent", "acknowledged", "keys", "accepted", "last", "refusals", "is_cut", "cuts")

    def __init__(self, name, kind, source, length):
        self.name, self.kind, self.source, self.length = name, kind, source.encode(), length
        # Numbers below these were made, and answered with 201.
        self.sent = self.acknowledged = 0
        # Digest of the key of each number, 0 before it is accepted; how many are; the highest that was accepted in order.
        self.keys, self.accepted, self.last = array.array("Q"), 0, -1
        # Numbers that were answered with 400 and not accepted since: how often.
        self.refusals = {}
        # A connection that ended with records on their way: its last ones may be missing.
        self.is_cut = False
        # Of a serial line: ranges of numbers in each of which one record may be missing.
        self.cuts = []

    def missing(self):
        """Numbers that should have been accepted and were not."""
        if self.kind == "http":
            expected = self.acknowledged
        else:
            expected = len(self.keys) if self.is_cut else self.sent
        found = [number for number, key in enumerate(self.keys[:expected]) if key == 0]
        found += range(len(self.keys), expected)
        return found

    def split_missing(self):
        """(lost, halved): those that a cut does not explain, and those that it does, one for each."""
        missing, halved = self.missing(), []
        for low, high in self.cuts:
            within = [number for number in missing if low <= number <= high]
            if within:
                missing.remove(within[0])
                halved.append(within[0])
        return missing, halved


class Account:
    def __init__(self):
        self.lanes, self.findings, self.finding_count = {}, [], 0
        self.requests = self.repeated = self.refused = self.retried = 0
        self.doubled = self.reordered = 0
        # Records that the gateway said it had received and not rejected, in its lives that have ended; by kind.
        self.counted = {}
        # As faults.site expects it.
        self.starts = 0

    def lane(self, name, kind, source, length=RECORD_BYTES):
        assert name not in self.lanes, name
        lane = self.lanes[name] = Lane(name, kind, source, length)
        return lane

    def find(self, text):
        self.finding_count += 1
        if len(self.findings) < 100:
            self.findings.append(text)

    def look(self, key, body):
        """(lane, number, digest) of a request of the record step; None, and a finding, if it is not exactly what it must be."""
        self.requests += 1
        at = body.find(DATA)
        fields = body[at + len(DATA):].split(b" ", 2) if at >= 0 else []
        lane = self.lanes.get(fields[0].decode("ascii", "replace")) if len(fields) == 3 else None
        if lane is None or not fields[1].isdigit() or not key:
            self.find(f"delivered and never sent, or without a key: {body[:120]!r}")
            return None
        number, digest = int(fields[1]), digest_of(key)
        expected = b'{"id": %d, "machine": "%s", "data": "%s"}' % (id_of(digest), lane.source, record(lane.name, number, lane.length))
        if body != expected:
            self.find(f"record {number} of {lane.name} is altered: {body[:160]!r}, expected {expected[:160]!r}")
            return None
        if number >= lane.sent:
            self.find(f"record {number} of {lane.name} was never sent")
            return None
        return lane, number, digest

    def refuse(self, lane, number):
        """It is answered with 400."""
        if not self.is_accepted(lane, number):
            self.refused += 1
            lane.refusals[number] = lane.refusals.get(number, 0) + 1

    @staticmethod
    def is_accepted(lane, number):
        return number < len(lane.keys) and lane.keys[number] != 0

    def accept(self, lane, number, digest):
        """It is in the service's database from here on, once for each key."""
        if self.is_accepted(lane, number):
            self.repeated += 1
            if lane.keys[number] != digest:
                self.doubled += 1
                self.find(f"record {number} of {lane.name} was accepted under two keys")
            return
        was_parked = lane.refusals.pop(number, 0) >= ATTEMPTS
        self.retried += was_parked
        if number > lane.last:
            lane.last = number
        elif not was_parked:
            self.reordered += 1
            self.find(f"record {number} of {lane.name} was first accepted behind record {lane.last}")
        if number >= len(lane.keys):
            lane.keys.extend([0] * (number + 1 - len(lane.keys)))
        lane.keys[number] = digest
        lane.accepted += 1

    def count(self, sources):
        """What the gateway says it received in a life that ends now, by the `sources` of its status."""
        for source in sources:
            kind = kind_of(source["name"])
            self.counted[kind] = self.counted.get(kind, 0) + source["received"] - source["rejected"]

    def accepted(self, kind=None):
        # The list is made at once: lanes come in the other thread.
        return sum(lane.accepted for lane in list(self.lanes.values()) if kind in (None, lane.kind))

    def totals(self):
        """(sent, acknowledged, accepted)"""
        lanes = list(self.lanes.values())
        return sum(lane.sent for lane in lanes), sum(lane.acknowledged for lane in lanes), self.accepted()

    def verdict(self):
        """Once nothing is pending: counts of what went wrong, beside the findings."""
        lost = halved = 0
        for lane in list(self.lanes.values()):
            missing, explained = lane.split_missing()
            halved += len(explained)
            lost += len(missing)
            for number in missing[:EXAMPLES]:
                self.find(f"record {number} of {lane.name} is lost (sent {lane.sent}, acknowledged {lane.acknowledged}, accepted {lane.accepted})")
        short = {}
        for kind, counted in self.counted.items():
            if self.accepted(kind) < counted:
                short[kind] = counted - self.accepted(kind)
                self.find(f"the gateway counted {counted} records received over {kind}, {self.accepted(kind)} came to the service")
        return {"lost": max(lost, sum(short.values())), "doubled": self.doubled + self.shared_keys(), "reordered": self.reordered,
                "halved": halved}

    def shared_keys(self):
        """Keys that more than one record bears."""
        keys = array.array("Q")
        for lane in list(self.lanes.values()):
            keys.extend(lane.keys)
        ordered = sorted(key for key in keys if key)
        shared = sum(one == other for one, other in zip(ordered, ordered[1:]))
        if shared:
            self.find(f"{shared} keys are borne by more than one record")
        return shared


def kind_of(source):
    return "serial" if source.startswith("line") else source
