"""What machines sent, what they were told, what the receiver got; and whether the one follows from the other.

A *lane* here is one connection of one machine. Its records are numbered from 0 and can be built again from lane and number, so that
nothing but counts is kept of what was sent. Deliveries are judged as they come: acknowledged ⊆ delivered ⊆ sent, bytes equal,
in order and without holes, no key for two records. A record may come again right behind itself, and after a new start of the gateway
a lane may go back and come again from there, in order; each time with its own key and id.
"""

RECORD_BYTES = 64
# Of which a record's bytes behind its head are a piece, another one for each number.
FILLER = (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+" * 1100)
PERIOD = 63


def record(lane, number, length=RECORD_BYTES):
    """The bytes of a record; printable ASCII, so that they are the same in JSON."""
    head = b"R1 %s %d " % (lane.encode(), number)
    return head + FILLER[number % PERIOD:][:max(length - len(head), 1)]


class Lane:
    __slots__ = ("name", "kind", "length", "sent", "acknowledged", "next", "at", "start", "known", "source", "seen")

    def __init__(self, name, kind, length):
        self.name, self.kind, self.length = name, kind, length
        # Numbers below these were handed to the kernel, answered with 201, delivered.
        self.sent = self.acknowledged = self.next = 0
        # The number that is to come now, and the start of the gateway in which the last one came.
        self.at = self.start = 0
        # Key and id by number.
        self.known = []
        self.source = None
        # With damage: key by number of all deliveries.
        self.seen = None


class Ledger:
    """`lenient`: a disk was damaged on purpose. Lost records and late repetitions are counted, not found; all else stays."""

    def __init__(self, lenient=False):
        self.lenient = lenient
        self.lanes, self.keys, self.findings = {}, set(), []
        # `deepest`: how far a lane went back at most.
        self.deliveries = self.repeated = self.deepest = 0
        # Starts of the gateway.
        self.starts = 0
        # For whoever wants to see each: called with (lane, number, key, source).
        self.listener = None

    def lane(self, name, kind, length=RECORD_BYTES):
        assert name not in self.lanes, name
        lane = self.lanes[name] = Lane(name, kind, length)
        if self.lenient:
            lane.seen = {}
        return lane

    def find(self, text):
        self.findings.append(text)

    def deliver(self, key, record_id, source, data):
        """A record reached the receiver, which will answer it with 201."""
        self.deliveries += 1
        fields = data.split(b" ", 3)
        lane = self.lanes.get(fields[1].decode("ascii", "replace")) if len(fields) == 4 else None
        if lane is None or not fields[2].isdigit():
            return self.find(f"delivered and never sent: {data[:80]!r} from {source}")
        number = int(fields[2])
        where = f"record {number} of {lane.name}"
        if data != record(lane.name, number, lane.length):
            return self.find(f"{where} is altered: {data[:120]!r}")
        if number >= lane.sent:
            return self.find(f"{where} was never sent")
        if not self.is_from(lane, source):
            self.find(f"{where} came as from {source!r}, others as from {lane.source!r}")
        if self.listener:
            self.listener(lane, number, key, source)
        if self.lenient:
            self.deliver_leniently(lane, number, key, where)
        else:
            self.deliver_strictly(lane, number, key, record_id, where)
        return None

    def deliver_strictly(self, lane, number, key, record_id, where):
        is_new_start, lane.start = lane.start != self.starts, self.starts
        if number > lane.at:
            self.find(f"{where} came, but not record {lane.at}")
            lane.known += [(None, None)] * (number - lane.next)
        elif number < lane.at - 1 and not is_new_start:
            self.find(f"{where} came again behind record {lane.at - 1}")
        if number >= lane.next:
            if key is None or key in self.keys:
                self.find(f"{where} bears key {key}, which is missing or another record's")
            self.keys.add(key)
            lane.known.append((key, record_id))
            lane.next = number + 1
        else:
            self.repeated += 1
            self.deepest = max(self.deepest, lane.at - number)
            if (key, record_id) != lane.known[number]:
                self.find(f"{where} came again with key and id {(key, record_id)}, at first with {lane.known[number]}")
        lane.at = number + 1

    def deliver_leniently(self, lane, number, key, where):
        if number in lane.seen:
            self.repeated += 1
            if lane.seen[number] != key:
                self.find(f"{where} came again with key {key}, at first with {lane.seen[number]}")
            return
        if key is None or key in self.keys:
            self.find(f"{where} bears key {key}, which is missing or another record's")
        if number < lane.next:
            self.find(f"{where} came for the first time behind record {lane.next - 1}")
        self.keys.add(key)
        lane.seen[number] = key
        lane.next = max(lane.next, number + 1)

    @staticmethod
    def is_from(lane, source):
        """An HTTP record bears the name of its path, a TCP record that of its listener and connection."""
        if lane.kind == "http":
            lane.source = lane.name
        elif lane.source is None:
            lane.source = source if source.startswith("tcp@127.0.0.1:") else "tcp@127.0.0.1:PORT"
        return source == lane.source

    def missing(self):
        """Acknowledged records that were not delivered, as (lane, number)."""
        missing = []
        for lane in self.lanes.values():
            if lane.seen is None:
                missing += [(lane, number) for number in range(lane.next, lane.acknowledged)]
            else:
                missing += [(lane, number) for number in range(lane.acknowledged) if number not in lane.seen]
        return missing

    def delivered(self, kind, prefix=""):
        """Different records that were delivered of the lanes of a kind whose names begin so."""
        lanes = [lane for lane in self.lanes.values() if lane.kind == kind and lane.name.startswith(prefix)]
        return sum(lane.next if lane.seen is None else len(lane.seen) for lane in lanes)

    def outstanding(self):
        """Records sent and not delivered, those included that never got as far as the gateway."""
        return sum(lane.sent - lane.next for lane in self.lanes.values())

    def totals(self):
        """(sent, acknowledged, delivered)"""
        lanes = self.lanes.values()
        return sum(lane.sent for lane in lanes), sum(lane.acknowledged for lane in lanes), len(self.keys)

    def verdict(self):
        """All findings, missing records among them; empty if all is well."""
        missing = [] if self.lenient else [f"record {number} of {lane.name} was acknowledged and is lost" for lane, number in self.missing()]
        return self.findings + missing
