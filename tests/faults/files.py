"""Files of the state directory that are deleted, or copied to another machine."""

import re
import shutil
import time

from e2e.child import Failure

from .cases import case
from .power import REBOOTED
from .space import RATE

# Files that are made ahead at most.
SEGMENTS_AHEAD = 4
# The gap as it must be told: the numbers of the first and the last entry that are missing.
RANGE = re.compile(r"(\d+) to (\d+)")


def backlog(site, wire, name, segments=6, **journal):
    """A killed gateway with some segments of records that nobody has taken yet."""
    gateway = site.gateway(wire, name, **journal)
    gateway.start()
    wire.start_machines(name, tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE, length=1000)
    # The last ones are made ahead: go on until so many hold records.
    gateway.wait_for("segments", lambda: len(segment_files(gateway)) >= segments + SEGMENTS_AHEAD)
    time.sleep(0.3)
    wire.pause_machines()
    gateway.wait_for("the last acknowledgements", lambda: wire.do(
        lambda: not any(machine.is_waiting() for machine in wire.machines)), 10)
    received = gateway.terms().received
    gateway.kill()
    wire.end_machines()
    return gateway, received


def segment_files(gateway):
    return sorted(gateway.state.glob("core-*/segment-*"))


def held_by(path):
    """(lane, number) of the records that a segment file holds: their bytes begin with their head."""
    return {(lane.decode(), int(number)) for lane, number in re.findall(rb"R1 (\S+) (\d+) ", path.read_bytes())}


def alarms(gateway):
    return [line for line in gateway.words().splitlines() if " ERROR " in line]


def deliver_all(gateway, wire, before=()):
    wire.receive("up")
    gateway.start(*before)
    terms = gateway.wait_settled()
    gateway.stop()
    wire.receive("down")
    return terms


def delivered(wire):
    return {(name, number) for name, lane in wire.ledger.lanes.items() for number in lane.seen}


def sent(wire):
    return {(name, number) for name, lane in wire.ledger.lanes.items() for number in range(lane.sent)}


@case("segments-deleted", "the oldest, a middle or the newest segment is deleted: the gap is reported, all else delivered")
def segments_deleted(site):
    figures = []
    for which in ("oldest", "middle", "newest"):
        wire = site.receiver(lenient=True)
        gateway, received = backlog(site, wire, which)
        files = [path for path in segment_files(gateway) if held_by(path)]
        if len(files) < 4:
            raise Failure(f"only {len(files)} segments hold records")
        victim = {"oldest": files[0], "middle": files[len(files) // 2], "newest": files[-1]}[which]
        gone, kept = held_by(victim), set().union(*(held_by(path) for path in files if path != victim))
        victim.unlink()
        terms = deliver_all(gateway, wire)
        missing = sent(wire) - delivered(wire)
        if kept - delivered(wire):
            raise Failure(f"{which}: {len(kept - delivered(wire))} records were lost that other segments hold")
        said = alarms(gateway)
        lost = len(gone - delivered(wire))
        if lost and not any(RANGE.search(line) for line in said):
            raise Failure(f"{which}: {lost} records are gone, and no alarm names their range: {said}")
        if lost and not any(victim.name.removeprefix("segment-").lstrip("0") in line or "number" in line or "entries" in line for line in said):
            raise Failure(f"{which}: {lost} records are gone, and the alarm does not say that entries are missing: {said}")
        figures.append(f"{which}: {terms.delivered} of {received} delivered, {lost} were in the file alone"
                       + (f" ({said[0].split('ERROR ')[1]})" if said else ", nothing said")
                       + f", {len(missing)} missing in all")
    return "; ".join(figures)


@case("state-deleted", "the epoch file is deleted: what was acknowledged is delivered, delivered records perhaps again")
def state_deleted(site):
    wire = site.receiver(lenient=True)
    gateway, _ = backlog(site, wire, "epoch", segments=3)
    for path in gateway.state.glob("core-*/epoch-*"):
        path.unlink()
    terms = deliver_all(gateway, wire)
    lost = [record for lane in wire.ledger.lanes.values() for record in
            ((lane.name, number) for number in range(lane.acknowledged)) if record not in delivered(wire)]
    if lost:
        raise Failure(f"{len(lost)} acknowledged records are lost with an epoch file: {lost[:5]}")
    said = alarms(gateway)
    if not said:
        raise Failure("an unclean start whose epoch file is gone is told as if nothing were amiss")
    return f"{terms.delivered} delivered, 0 acknowledged lost; said: {said[0].split('ERROR ')[1]}"


@case("block-file-deleted", "the block file of a killed gateway is deleted: an alarm, and at power nothing acknowledged is lost")
def block_file_deleted(site):
    figures = []
    for level in ("power", "process"):
        wire = site.receiver(lenient=level == "process")
        gateway, received = backlog(site, wire, level, segments=3, durability=level)
        traces = list(gateway.state.glob("core-*/blocks-*"))
        for trace in traces:
            (site.shared_memory / trace.name.removeprefix("blocks-")).unlink()
        terms = deliver_all(gateway, wire)
        said = [line for line in alarms(gateway) if "block file" in line]
        if not said:
            raise Failure(f"at {level}: no alarm says that the block file is gone")
        figures.append(f"{level}: {terms.delivered} of {received} delivered ({said[0].split('ERROR ')[1]})")
        if level == "process":
            # Promised is the process alone; but what was on the disk must come.
            lost = wire.ledger.missing()
            figures[-1] += f", {len(lost)} acknowledged lost with it"
            wire.ledger.findings += [] if terms.delivered > received // 2 else ["more than half is lost"]
            site.wires.remove(wire)
            if wire.ledger.findings:
                raise Failure("; ".join(wire.ledger.findings[:5]))
            wire.end()
    return "; ".join(figures)


@case("cloned-state", "the state directory is copied and both are used: no key for two records", tools=("unshare",))
def cloned_state(site):
    wire = site.receiver()
    original, _ = backlog(site, wire, "original", segments=3)
    clone = site.gateway(wire, "clone")
    shutil.copytree(original.state, clone.state)
    keys = {}
    boot_id = site.directory / "boot_id"
    boot_id.write_text("0d4c1f5e-5f0e-4b57-9d7e-0f4c5a8f2b11\n", encoding="ascii")
    wire.ledger.listener = lambda lane, number, key, _source: keys.setdefault((lane.name, number), set()).add(key)
    # One after the other, so that what both hold arrives as one record that is sent again.
    other = site.receiver(lenient=True)
    for lane in wire.ledger.lanes.values():
        copy = other.ledger.lane(lane.name, lane.kind, lane.length)
        copy.sent, copy.source = lane.sent, lane.source
    clone.api = other.receiver.address[1]
    other.ledger.listener = wire.ledger.listener
    wire.receive("up")
    other.receive("up")
    original.start()
    clone.start("unshare", "--mount", "sh", "-c", REBOOTED, boot_id)
    wire.start_machines("new-original", tcp=2, tcp_port=original.tcp, http=4, http_port=original.http, rate=RATE)
    other.start_machines("new-clone", tcp=2, tcp_port=clone.tcp, http=4, http_port=clone.http, rate=RATE)
    time.sleep(1)
    totals = []
    for gateway, its in ((original, wire), (clone, other)):
        its.pause_machines()
        totals.append(gateway.wait_settled().delivered)
        its.end_machines()
        gateway.stop()
    used = {}
    for record, its in keys.items():
        if len(its) > 1:
            raise Failure(f"{record} was sent with the keys {its}")
        for key in its:
            if used.setdefault(key, record) != record:
                raise Failure(f"key {key} was used for {record} and for {used[key]}")
    both = len(set(delivered(other)) & {(name, number) for name, lane in wire.ledger.lanes.items() for number in range(lane.next)})
    if both == 0:
        raise Failure("the clone held nothing of the original")
    if wire.ledger.verdict():
        raise Failure("; ".join(wire.ledger.verdict()[:5]))
    return (f"the original delivered {totals[0]}, the clone {totals[1]}; {both} records of both under the same key each, "
            f"{len(used)} keys in all, none for two records")
