"""No room on the disk: intake stops and says so, delivery goes on, and it heals by itself."""

import os
import resource
import time

from e2e.child import Failure

from .cases import case

LENGTH = 4000
RATE = 2000
REFUSED_S, HEAL_S = 60, 30
# So often a full file system may turn out to have had room.
FULL_AGAIN = 6


def fill(at, keep_bytes=0):
    """Takes all space of a file system but `keep_bytes`; the file to remove."""
    path = at / "ballast"
    with open(path, "wb", buffering=0) as file:
        for chunk in (1 << 20, 4096):
            while (found := os.statvfs(at)).f_bavail * found.f_frsize > keep_bytes:
                try:
                    file.write(b"b" * chunk)
                except OSError:
                    break
        os.fsync(file.fileno())
    return path


def acknowledged(wire):
    return wire.do(lambda: sum(lane.acknowledged for lane in wire.ledger.lanes.values()))


def is_refused(wire):
    """Whether no machine gets rid of what it has: 503 or no answer over HTTP, no room over TCP."""
    return wire.do(lambda: all(machine.is_waiting() for machine in wire.machines))


def wait_refused(gateway, wire, words):
    """Until intake has stopped and stays so: no acknowledgement, 503 for who asks now, backpressure, the reason in the status.
    Returns that."""
    gateway.wait_for("a journal problem in the status", lambda: words in gateway.problem(), REFUSED_S)
    # One whose record is in a block that cannot be written waits for its answer; one that comes now must not.
    newcomers = wire.start_machines(f"{wire.next_prefix()}n", http=1, http_port=gateway.http, rate=50)
    gateway.wait_for("503 for an HTTP machine that comes now", lambda: wire.do(
        lambda: newcomers[0].unavailable > 1 and newcomers[0].is_waiting()), REFUSED_S)
    # A file system that says that it is full may have some room a moment later: btrfs does. What goes on then is to stop again.
    for _ in range(FULL_AGAIN):
        gateway.wait_for("refusals or backpressure for all machines", lambda: is_refused(wire), REFUSED_S)
        time.sleep(0.3)
        before, taken = acknowledged(wire), gateway.terms().received
        time.sleep(1)
        if acknowledged(wire) == before and gateway.terms().received == taken:
            return gateway.problem()
    raise Failure(f"intake goes on though {gateway.problem()!r}")


def wait_healed(gateway, wire, before):
    """Until intake goes on of itself, over HTTP and TCP; seconds that it took."""
    begun, taken = time.monotonic(), gateway.received("tcp")
    gateway.wait_for("acknowledgements again", lambda: acknowledged(wire) > before, HEAL_S)
    gateway.wait_for("TCP records again", lambda: gateway.received("tcp") > taken, HEAL_S)
    return time.monotonic() - begun


def start_machines(gateway, wire, prefix="m"):
    # TCP machines say no end of their connection here, so that theirs is the backpressure.
    wire.start_machines(prefix, tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE, length=LENGTH)


def finish(site, gateway, wire):
    """No new records; all is delivered, and nothing is said to be wrong any more; the account; a clean stop."""
    wire.pause_machines()
    gateway.wait_for("the last acknowledgements", lambda: wire.do(
        lambda: not any(machine.is_waiting() for machine in wire.machines)), 20)
    terms = gateway.wait_settled(60)
    gateway.wait_for("the problem to be gone", lambda: not gateway.problem(), HEAL_S)
    wire.end_machines()
    gateway.stop()
    site.judge(wire)
    return terms


def run_out(site, at):
    """Fills the file system `at` by records that nobody takes, twice: freed by delivery, and by somebody who makes room."""
    wire = site.receiver()
    gateway = site.gateway(wire)
    gateway.state = at / "state"
    ballast = at / "ballast"
    ballast.write_bytes(b"b" * (8 << 20))
    gateway.start()
    start_machines(gateway, wire)
    said = wait_refused(gateway, wire, "No space left")
    before, rss_mib = acknowledged(wire), gateway.rss_mib()
    wire.receive("up")
    by_delivery_s = wait_healed(gateway, wire, before)
    wire.receive("down")
    wait_refused(gateway, wire, "No space left")
    begun, taken = time.monotonic(), gateway.terms().received
    ballast.unlink()
    # What waits in the kernel for the TCP machines can fill all of this at once, before an HTTP machine asks again.
    gateway.wait_for("records again", lambda: gateway.terms().received > taken, HEAL_S)
    by_room_s = time.monotonic() - begun
    wire.receive("up")
    terms = finish(site, gateway, wire)
    return (f"refused ({said}; {rss_mib:.0f} MiB resident), healed by delivery in {by_delivery_s:.1f} s, by room made in {by_room_s:.1f} s; "
            f"{terms.received} received, {wire.ledger.totals()[1]} acknowledged, 0 lost")


@case("enospc-tmpfs", "the journal fills a small tmpfs", tools=("mount",), limit_s=240)
def enospc_tmpfs(site):
    return run_out(site, site.disks.memory("small", 24))


@case("enospc-ext4", "the journal fills a small ext4 on a loop device", tools=("mkfs.ext4", "losetup"), limit_s=240)
def enospc_ext4(site):
    return run_out(site, site.disks.ext4("small", 32).at)


@case("full-at-start", "the disk is full when the gateway starts: the backlog is delivered, intake refused", tools=("mkfs.ext4", "losetup"))
def full_at_start(site):
    figures = []
    for how in ("stopped", "killed"):
        wire = site.receiver()
        gateway = site.gateway(wire, how)
        disk = site.disks.ext4(f"full-{how}", 32)
        gateway.state = disk.at / "state"
        gateway.start()
        wire.start_machines(f"{how}-a", tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE)
        gateway.wait_for("a backlog", lambda: gateway.terms().received >= RATE)
        wire.pause_machines()
        wire.end_machines()
        pending = gateway.terms().pending
        (gateway.stop if how == "stopped" else gateway.kill)()
        ballast = fill(disk.at)
        gateway.spawn()
        gateway.status()
        wire.start_machines(f"{how}-b", tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE, length=LENGTH)
        # A segment that was made before the disk was full may still be filled.
        gateway.wait_for("the reason in the status", lambda: "No space left" in gateway.problem())
        gateway.wait_for("refusals or backpressure for all machines", lambda: is_refused(wire))
        time.sleep(0.5)
        before, taken, said = acknowledged(wire), gateway.terms().received, gateway.problem()
        time.sleep(1.5)
        if acknowledged(wire) != before or gateway.terms().received != taken:
            raise Failure(f"intake goes on with a full disk; it says {gateway.problem()!r}")
        wire.receive("up")
        gateway.wait_for("the backlog to be delivered", lambda: wire.do(lambda: wire.ledger.deliveries) >= pending)
        ballast.unlink()
        took = wait_healed(gateway, wire, before)
        finish(site, gateway, wire)
        figures.append(f"{how} before: {pending} delivered from a full disk ({said}), intake {took:.1f} s after room was made")
        disk.unmount()
    return "; ".join(figures)


@case("efbig", "files may not grow (ulimit -f), at start and later")
def efbig(site):
    wire = site.receiver()
    gateway = site.gateway(wire)
    # Below a segment and below the block file: it cannot run at all, says so and ends with the journal's exit code.
    gateway.spawn("prlimit", f"--fsize={256 << 10}")
    code = gateway.wait_end()
    said = gateway.words().strip().splitlines()[-1:]
    if code != 9 or "File too large" not in "".join(said):
        raise Failure(f"with ulimit -f it ended with {code} and said {said}; expected are 9 and a line with \"File too large\"")
    gateway.start()
    start_machines(gateway, wire)
    gateway.wait_for("records", lambda: gateway.terms().received > 100)
    # Not even what a segment has already may be written again (nor what it says, to its log).
    resource.prlimit(gateway.pid(), resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    problem = wait_refused(gateway, wire, "File too large")
    before = acknowledged(wire)
    resource.prlimit(gateway.pid(), resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    took = wait_healed(gateway, wire, before)
    wire.receive("up")
    terms = finish(site, gateway, wire)
    return f"at start: {said[0]}; later refused ({problem}), healed in {took:.1f} s; {terms.received} received, 0 lost"
