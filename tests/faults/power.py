"""Loss of power: what was acknowledged at level `power` is on the disk at every flush behind it."""

import os
import random
import time
import uuid

from e2e.child import Failure

from .blocklog import FLUSH, LoggedDevice, Replay
from .cases import case
from .disks import Disk

MIB = 64
RATE = 600
SECONDS = 6
# Fewer would be no test.
FLUSHES_LEAST = 50
# In a mount namespace of its own: shared memory is empty and the boot another, as after a loss of power.
REBOOTED = "mount -t tmpfs none /dev/shm && mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\""


class Watch:
    """Notes how far the log had come when the 201 of a record was read, and when the record was delivered."""

    def __init__(self, wire, device):
        self.wire, self.device, self.noted, self.positions, self.delivered = wire, device, {}, [], {}
        wire.ledger.listener = self.deliver

    def deliver(self, lane, number, _key, _source):
        self.delivered.setdefault((lane.name, number), self.device.position())

    def tick(self, _now):
        """In the network thread, after it has read answers and before it sends anything new."""
        position = None
        for machine in self.wire.machines:
            if machine is self:
                continue
            lane = machine.lane
            if lane.kind != "http":
                continue
            noted = self.noted.get(lane, 0)
            if lane.acknowledged > noted:
                position = position or self.device.position()
                self.positions += [(lane, number, position) for number in range(noted, lane.acknowledged)]
                self.noted[lane] = lane.acknowledged

    def lose(self):
        """It is no machine."""


def record_run(site, wire):
    """Machines and a gateway on the logged device, for some seconds, with deliveries in between; (device, watch, counters)."""
    image = site.disks.image("device.img", MIB)
    device = LoggedDevice(site, image)
    disk = Disk(site.disks, device.shown, site.directory / "disk")
    disk.mount()
    gateway = site.gateway(wire, "before", max_size="16MiB")
    gateway.state = disk.at / "state"
    wire.receive("slow", per_second=150)
    gateway.start()
    watch = Watch(wire, device)
    # Alone: each request is committed by itself, so that there are many flushes.
    wire.start_machines("a", http=1, http_port=gateway.http, rate=100)
    wire.do(lambda: wire.machines.append(watch))
    time.sleep(SECONDS / 3)
    wire.start_machines("b", tcp=2, tcp_port=gateway.tcp, http=8, http_port=gateway.http, rate=RATE, length=2000)
    time.sleep(SECONDS / 3)
    # Segments become settled and are freed and reused.
    wire.receive("up")
    time.sleep(SECONDS / 3)
    wire.receive("slow", per_second=150)
    time.sleep(SECONDS / 6)
    # The machine stands still from here on: what was logged is all there is.
    counters = gateway.status()["counters"]
    gateway.kill()
    wire.end_machines()
    disk.unmount()
    device.daemon.end()
    return device, watch, counters


def start_after(site, image, name, lanes):
    """Starts a gateway on what the cut left, as on a machine that boots again; what it delivers, and what it said."""
    wire = site.receiver(lenient=True)
    for lane in lanes:
        copy = wire.ledger.lane(lane.name, lane.kind, lane.length)
        copy.sent, copy.acknowledged, copy.source = lane.sent, 0, lane.source
    disk = Disk(site.disks, image, site.directory / name)
    disk.mount()
    gateway = site.gateway(wire, f"{name}-gateway", max_size="16MiB")
    gateway.state = disk.at / "state"
    boot_id = site.directory / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
    wire.receive("up")
    gateway.start("unshare", "--mount", "sh", "-c", REBOOTED, boot_id)
    terms = gateway.wait_settled(20)
    said = gateway.words()
    gateway.stop()
    disk.unmount()
    wire.end()
    site.wires.remove(wire)
    return wire.ledger, terms, said


@case("power-cut", "the power goes at a flush of the block device: replayed from its log of writes, HTTP machines, level power",
      tools=("qemu-storage-daemon", "mkfs.ext4", "losetup", "unshare"), limit_s=lambda options: 120 + 3 * options.cuts)
def power_cut(site):
    wire = site.receiver()
    device, watch, counters = record_run(site, wire)
    positions = watch.positions
    # What it did not get is not lost: it is looked for below.
    site.wires.remove(wire)
    if wire.ledger.findings:
        raise Failure("; ".join(wire.ledger.findings[:5]))
    wire.end()
    entries = device.entries()
    flushes = [index for index, entry in enumerate(entries) if entry.flags & FLUSH]
    acknowledged = len(positions)
    if acknowledged < RATE or len(flushes) < FLUSHES_LEAST:
        raise Failure(f"too little happened: {acknowledged} acknowledged, {len(flushes)} flushes")
    count = min(site.options.cuts, len(flushes))
    chosen = sorted(random.sample(flushes[:-1], count - 1)) + flushes[-1:]
    replay, checked, late, recovered, alarms = Replay(device, entries), 0, 0, 0, []
    for cut, index in enumerate(chosen):
        replay.advance(index)
        image = site.directory / "cut.img"
        late += replay.image(image, disorder=cut % 2 == 1) > 0
        # A 201 that was read before the next flush is owed to this one or to one before it. And what was not delivered by then
        # had no mark that could have arrived.
        horizon = next((entries[later].end for later in flushes if later > index), device.position() + 1)
        delivered = {record for record, position in watch.delivered.items() if position < horizon}
        required = [(lane, number) for lane, number, position in positions if position < horizon]
        try:
            ledger, terms, said = start_after(site, image, f"cut-{cut}", wire.ledger.lanes.values())
            recovered += terms.recovered
            found = {(name, number) for name, lane in ledger.lanes.items() for number in lane.seen}
            lost = [(lane.name, number) for lane, number in required if (lane.name, number) not in found | delivered]
            problems = ledger.findings + [f"record {number} of {name} was acknowledged and is lost" for name, number in lost]
            if problems:
                raise Failure(f"{len(problems)} findings: " + "; ".join(problems[:5]) + f"\n{said}")
        except Failure as failure:
            raise Failure(f"cut {cut} of {count}, behind entry {index} of {len(entries)} (seed {site.options.seed}"
                          f"{', disorder' if cut % 2 else ''}): {failure}") from None
        alarms += [f"cut {cut}: {line.split(' ERROR ')[1]}" for line in said.splitlines() if " ERROR " in line]
        checked += len({(lane.name, number) for lane, number in required} - delivered)
        os.unlink(image)
    if alarms:
        raise Failure("a loss of power is no damage, but it is told as such: " + "; ".join(alarms[:10]))
    return (f"{len(entries)} writes and {len(flushes)} flushes logged, {acknowledged} records acknowledged, {counters['journal_freed']} segments freed; "
            f"{count} cuts, {late} of them with later writes arrived in part; {recovered} records recovered, "
            f"{checked} acknowledged ones looked for, 0 lost")
