"""Block devices that fail, hang, and file systems that turn read-only under a running gateway."""

import os
import pwd
import re
import time

from e2e.child import Failure

from .cases import case
from .disks import command
from .site import PATIENCE_S
from .space import HEAL_S, RATE, acknowledged, finish, start_machines, wait_healed, wait_refused

# That pass by themselves, and those after which the file system has to be repaired.
MOMENTS, REPAIRS_MOST = 3, 8
NBD = ("nbdkit", "nbdfuse", "mkfs.ext4", "losetup")


def check_disk(image):
    """Repairs an ext4 file system as a machine does when it starts."""
    done = command_code("e2fsck", "-f", "-y", image)
    if done > 1:
        raise Failure(f"e2fsck could not repair {image}: {done}")


def command_code(*words):
    import subprocess

    return subprocess.run([str(word) for word in words], capture_output=True, timeout=60, check=False).returncode


def fail_for_a_moment(gateway, trigger):
    """All writes of the device fail until the journal says so: as briefly as that can be seen, for ext4 gives up for good when one of its
    own fails."""
    said, until = gateway.log.stat().st_size, time.monotonic() + PATIENCE_S
    trigger.touch()
    with open(gateway.log, encoding="utf-8", errors="replace") as log:
        log.seek(said)
        while "Input/output error" not in log.read():
            if time.monotonic() > until:
                raise Failure(f"no write has failed within {PATIENCE_S} s")
            time.sleep(0.0005)
    trigger.unlink()


def is_read_only(gateway):
    return "Read-only file system" in gateway.problem()


@case("eio", "the block device fails writes, for a moment and for good", tools=(*NBD, "e2fsck"), limit_s=180)
def eio(site):
    """For a moment: data writes fail, the file system stays. For good: its own journal fails, and it turns read-only."""
    wire = site.receiver()
    gateway = site.gateway(wire)
    trigger = site.directory / "inject"
    disk, server = site.disks.served("disk", 128, "--filter=error", parameters=("error-pwrite-rate=100%", f"error-pwrite-file={trigger}"))
    disk.mount("commit=300")
    gateway.state = disk.at / "state"
    wire.receive("slow", per_second=200)
    gateway.start()

    def repair():
        # As it would be after the machine was repaired, with a new boot or without one.
        gateway.kill()
        wire.end_machines()
        disk.unmount()
        check_disk(site.directory / "disk.img")
        disk.mount("commit=300")

    def send():
        wire.start_machines(wire.next_prefix(), tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE / 4)
        gateway.wait_for("records", lambda: gateway.terms().received > 100)

    send()
    healed = repaired = 0
    while healed < MOMENTS:
        fail_for_a_moment(gateway, trigger)
        before = acknowledged(wire)
        gateway.wait_for("acknowledgements again, or a file system that has given up", lambda: acknowledged(wire) > before
                         or is_read_only(gateway), HEAL_S)
        if not is_read_only(gateway):
            wait_healed(gateway, wire, before)
            healed += 1
            continue
        # The moment was too long, and what failed was a write of ext4's own.
        repaired += 1
        if repaired > REPAIRS_MOST:
            raise Failure(f"the file system has turned read-only {repaired} times, and only {healed} moments passed without")
        repair()
        gateway.start()
        send()

    # For good: intake stops, delivery goes on.
    trigger.touch()
    gateway.wait_for("a problem of the journal", lambda: gateway.problem())
    time.sleep(1)
    before, delivered = acknowledged(wire), gateway.terms().delivered
    # A record of an HTTP machine that no disk has is delivered once one has it.
    waiting = wire.do(lambda: sum(machine.is_waiting() for machine in wire.machines if machine.kind == "http"))
    deliverable = gateway.terms().pending - waiting
    wire.receive("up")
    gateway.wait_for(f"deliveries of {deliverable}", lambda: gateway.terms().delivered >= delivered + min(deliverable, 200), HEAL_S)
    if acknowledged(wire) != before:
        raise Failure("records were acknowledged that no disk has")
    trigger.unlink()
    repair()
    gateway.start()
    gateway.wait_settled(60)
    gateway.stop()
    site.judge(wire)
    return (f"{healed} moments of EIO healed, after {repaired} more the file system had to be repaired; for good: no acknowledgement, "
            f"deliveries go on; after repair 0 of {wire.ledger.totals()[1]} acknowledged lost, {wire.ledger.repeated} repeated")


@case("stall", "the block device of one core's journal does not answer; the other core goes on", tools=NBD, limit_s=150)
def stall(site):
    wire = site.receiver()
    gateway = site.gateway(wire, window="2MiB")
    gateway.cores = "[0, 1]"
    disk, server = site.disks.served("disk", 64)
    (gateway.state / "core-1").mkdir(parents=True)
    disk.at = gateway.state / "core-1"
    disk.mount()
    command("chmod", "700", disk.at)
    wire.receive("up")
    gateway.start()
    wire.start_machines("m", http=32, http_port=gateway.http, rate=RATE / 2)
    wire.start_machines("t", tcp=16, tcp_port=gateway.tcp, rate=RATE, length=2000)

    def by_core():
        return {shard["core"]: shard["terms"]["received"] for shard in gateway.status()["shards"]}

    gateway.wait_for("records on both cores", lambda: len(by_core()) == 2 and min(by_core().values()) > 200)
    wire.receive("slow", per_second=20)
    rss_mib = gateway.rss_mib()
    site.disks.hold(server)
    time.sleep(2)

    def waiting():
        now = time.monotonic()
        return wire.do(lambda: {m.lane.name for m in wire.machines if m.kind == "http" and m.asked_at and now - m.asked_at > 1})

    stuck, before = waiting(), by_core()
    if not stuck:
        raise Failure("no machine waits for the disk that does not answer")
    time.sleep(4)
    lanes = {name: wire.ledger.lanes[name].acknowledged for name in stuck}
    still = waiting()
    after = by_core()
    if after[0] < before[0] + RATE / 4:
        raise Failure(f"the other core does not go on: {before} and 4 s later {after}")
    if any(wire.ledger.lanes[name].acknowledged > lanes[name] for name in stuck & still):
        raise Failure("acknowledged what the disk has not taken")
    grown = gateway.rss_mib() - rss_mib
    if grown > 24:
        raise Failure(f"memory grew by {grown:.0f} MiB while the disk was stopped")
    said = gateway.problem()
    if not said:
        raise Failure("the status says nothing of a journal whose disk does not answer for 6 s")
    site.disks.release()
    gateway.wait_for("acknowledgements for those that waited", lambda: wire.do(
        lambda: all(wire.ledger.lanes[name].acknowledged > lanes[name] for name in stuck)), HEAL_S)
    gateway.wait_for("the problem to be gone", lambda: not gateway.problem(), HEAL_S)
    wire.receive("up")
    finish(site, gateway, wire)
    return (f"{len(stuck)} of 32 machines waited, the other core took {after[0] - before[0]} records meanwhile, memory grew by {grown:.1f} MiB; "
            f"said: {said}; all healed, 0 of {wire.ledger.totals()[1]} acknowledged lost")


@case("read-only", "the file system turns read-only under the gateway, after an error of its own", tools=("mkfs.ext4", "losetup"))
def read_only(site):
    wire = site.receiver()
    gateway = site.gateway(wire)
    disk = site.disks.ext4("disk", 64, "errors=remount-ro")
    gateway.state = disk.at / "state"
    gateway.start()
    start_machines(gateway, wire)
    gateway.wait_for("records", lambda: gateway.terms().received > 500)
    with open(disk.sysfs("trigger_fs_error"), "w", encoding="ascii") as file:
        file.write("set by a test")
    said = wait_refused(gateway, wire, "Read-only file system")
    before, pending = acknowledged(wire), gateway.terms().pending
    wire.receive("up")
    # A record of an HTTP machine that no disk has is delivered once one has it.
    waiting = wire.do(lambda: sum(machine.is_waiting() for machine in wire.machines if machine.kind == "http"))
    gateway.wait_for("delivery of all that is kept", lambda: wire.ledger.deliveries >= pending - waiting)
    if acknowledged(wire) != before:
        raise Failure("acknowledged on a read-only file system")
    gateway.kill()
    wire.end_machines()
    disk.unmount()
    check_disk(disk.image)
    disk.mount()
    gateway.start()
    gateway.wait_settled()
    gateway.stop()
    return f"refused ({said}), {pending} pending then, delivered all the same; after repair 0 of {before} acknowledged lost, {wire.ledger.repeated} repeated"


@case("permission", "the state directory may no longer be written, as another user than root", tools=("setpriv",))
def permission(site):
    wire = site.receiver()
    gateway = site.gateway(wire)
    nobody = pwd.getpwnam("nobody")
    os.chmod(site.directory, 0o755)
    os.chown(gateway.directory, nobody.pw_uid, nobody.pw_gid)
    wire.receive("slow", per_second=50)
    gateway.start(user="nobody")
    start_machines(gateway, wire)
    gateway.wait_for("records", lambda: gateway.terms().received > 200)
    core = gateway.state / "core-0"
    os.chmod(core, 0o500)
    said = wait_refused(gateway, wire, "Permission denied")
    delivered = gateway.terms().delivered
    gateway.wait_for("deliveries", lambda: gateway.terms().delivered > delivered + 20)
    before = acknowledged(wire)
    os.chmod(core, 0o700)
    took = wait_healed(gateway, wire, before)
    wire.receive("up")
    terms = finish(site, gateway, wire)
    # One that cannot even begin says so, with the exit code for it.
    os.chmod(gateway.state, 0o500)
    os.chmod(gateway.state / "lock", 0o400)
    gateway.spawn(user="nobody")
    code, last = gateway.wait_end(), gateway.words().strip().splitlines()[-1]
    if code != 7 or not re.search("[Pp]ermission denied", last):
        raise Failure(f"without permission at start it ended with {code}, not 7, and said: {last}")
    return f"refused ({said}), deliveries went on, healed in {took:.1f} s; {terms.received} received, 0 lost; at start: {last}"
