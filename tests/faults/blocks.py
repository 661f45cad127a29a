"""The block files: /dev/shm that is read-only, tiny, taken by another user, gone with the process; disks on which none can be; orphans."""

import json
import os
import shutil
import subprocess
import time

from e2e.child import Failure, fetch

from .cases import case
from .files import alarms, backlog, deliver_all, delivered
from .space import HEAL_S, RATE, acknowledged, fill, finish, start_machines, wait_healed, wait_refused

# In a mount namespace of its own, before the gateway.
READ_ONLY = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
TINY = 'mount -t tmpfs -o size=1m none /dev/shm && exec "$@"'
NOW_READ_ONLY = 'mount -o remount,bind,ro /dev/shm && exec "$@"'
# It is the process's own, and ends with it.
OWN = 'mount -t tmpfs none /dev/shm && exec "$@"'
OTHER_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
OTHER_BOOT_READ_ONLY = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && mount -t tmpfs -o ro none /dev/shm && exec "$@"'
SOMEBODY = 65534


def under(script, zero="sh"):
    return ("unshare", "--mount", "sh", "-c", script, zero)


def block_files(gateway):
    """Those beside the segments."""
    return sorted(gateway.state.glob("core-*/ringest-*"))


def named(gateway):
    """The names of its block files, wherever those are."""
    return [trace.name.removeprefix("blocks-") for trace in gateway.state.glob("core-*/blocks-*")]


def lost(wire):
    """Acknowledged records that nobody got."""
    there = delivered(wire)
    return [(lane.name, number) for lane in wire.ledger.lanes.values() for number in range(lane.acknowledged)
            if (lane.name, number) not in there]


def other_boot(site):
    path = site.directory / "boot_id"
    path.write_text("0d4c1f5e-5f0e-4b57-9d7e-0f4c5a8f2b11\n", encoding="ascii")
    return path


def expect_quiet(gateway, what):
    said = alarms(gateway)
    quarantined = [str(path) for path in gateway.state.glob("core-*/quarantine/*")]
    if said or quarantined:
        raise Failure(f"{what}: it said {said} and set aside {quarantined}")


@case("shm-unusable", "/dev/shm is read-only, tiny, or turns read-only: it runs, loses nothing by a kill, and a clean stop ends with 0",
      tools=("unshare",), limit_s=180)
def shm_unusable(site):
    figures = []
    for name, script in (("read-only", READ_ONLY), ("tiny", TINY)):
        wire = site.receiver()
        gateway = site.gateway(wire, name, durability="process")
        # One that nothing is asked of ends as well.
        gateway.start(*under(script))
        if not block_files(gateway):
            raise Failure(f"{name}: the block file is not in the state directory")
        gateway.stop()
        if block_files(gateway) or named(gateway):
            raise Failure(f"{name}: a clean stop leaves {block_files(gateway)} and {named(gateway)}")
        gateway.start(*under(script))
        start_machines(gateway, wire, name)
        gateway.wait_for("records", lambda: gateway.terms().received > RATE)
        wire.pause_machines()
        gateway.wait_for("answers", lambda: wire.do(lambda: not any(machine.is_waiting() for machine in wire.machines)))
        received = gateway.terms().received
        gateway.kill()
        wire.end_machines()
        terms = deliver_all(gateway, wire, under(script))
        expect_quiet(gateway, name)
        if terms.recovered != received:
            raise Failure(f"{name}: {received} received, {terms.recovered} recovered")
        figures.append(f"{name}: {received} received and recovered")
    # What the last run left lies where nothing can be removed now.
    wire = site.receiver()
    gateway, received = backlog(site, wire, "turned", segments=2, durability="process")
    terms = deliver_all(gateway, wire, under(NOW_READ_ONLY))
    expect_quiet(gateway, "turned read-only")
    if terms.recovered != received or "cannot be removed" not in gateway.words():
        raise Failure(f"turned read-only: {received} received, {terms.recovered} recovered; it said {gateway.words()}")
    # The next one that can does remove it.
    gateway.start()
    gateway.stop()
    left = [path.name for path in site.shared_memory.iterdir() if path.name.startswith("ringest-")]
    if left:
        raise Failure(f"{left} stay in memory")
    return "; ".join(figures) + f"; turned read-only after a kill: {received} received and recovered, block file removed later"


def put_leftover(path, kind):
    """Something of another user under a block file's name."""
    path.unlink()
    if kind == "file":
        path.write_bytes(b"x" * (1 << 20))
    elif kind == "directory":
        path.mkdir()
        (path / "file").write_bytes(b"x")
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)


@case("shm-leftover", "a file, directory, link or FIFO of another user has the block file's name: a warning, and the start goes on",
      tools=("unshare",), limit_s=180)
def shm_leftover(site):
    figures = []
    for boot in ("same", "other"):
        for kind in ("file", "directory", "link", "FIFO"):
            wire = site.receiver(lenient=True)
            gateway, received = backlog(site, wire, f"{boot}-{kind}", segments=2)
            path = site.shared_memory / named(gateway)[0]
            put_leftover(path, kind)
            before = under(OTHER_BOOT, other_boot(site)) if boot == "other" else ()
            terms = deliver_all(gateway, wire, before)
            if lost(wire):
                raise Failure(f"{kind}: {len(lost(wire))} acknowledged records are lost")
            if boot == "other":
                expect_quiet(gateway, f"{kind}, another boot")
            elif "left alone" not in gateway.words() or not any("is gone" in line for line in alarms(gateway)):
                raise Failure(f"{kind}: it said {gateway.words()}")
            if not os.path.lexists(path):
                raise Failure(f"{kind}: what is not ours was removed")
            shutil.rmtree(path) if kind == "directory" else path.unlink()
            figures.append(f"{kind}, {boot} boot: {terms.delivered} of {received}")
    return "delivered: " + "; ".join(figures)


@case("block-file-reboot", "a block file beside the segments outlives a restart of the machine: dropped without an alarm", tools=("unshare",))
def block_file_reboot(site):
    wire = site.receiver(lenient=True)
    gateway = site.gateway(wire)
    gateway.start(*under(READ_ONLY))
    wire.start_machines("m", tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE)
    gateway.wait_for("records", lambda: gateway.terms().received > RATE)
    gateway.kill()
    wire.end_machines()
    old = block_files(gateway)
    if not old:
        raise Failure("the block file is not in the state directory")
    terms = deliver_all(gateway, wire, under(OTHER_BOOT_READ_ONLY, other_boot(site)))
    expect_quiet(gateway, "after the restart of the machine")
    if lost(wire):
        raise Failure(f"{len(lost(wire))} acknowledged records are lost")
    left = [path.name for path in old if path.exists()]
    if left:
        raise Failure(f"{left} stay")
    return f"{terms.delivered} delivered, 0 acknowledged lost; {old[0].name} dropped, nothing in quarantine"


def metric(gateway, name):
    text = fetch(f"http://127.0.0.1:{gateway.admin}/metrics", 5) or b""
    text = text.decode() if isinstance(text, bytes) else text
    return [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"ringest_{name}{{")]


def run_ringest(site, *words, before=(), **environment):
    """A command of ringest; (its exit code, what it said)."""
    command = [str(word) for word in (*before, site.options.ringest, *words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


@case("shm-gone", "/dev/shm goes with the process, or somebody removes the block file: told before, told while it runs, and how to avoid it",
      tools=("unshare",), limit_s=180)
def shm_gone(site):
    figures = []
    for blocks in (None, site.directory / "blocks"):
        name = "elsewhere" if blocks else "own"
        wire = site.receiver(lenient=not blocks)
        gateway = site.gateway(wire, name, durability="process", **({"blocks": blocks} if blocks else {}))
        if blocks:
            blocks.mkdir()
        # Before it runs: a container is known by this variable, and by an IPC namespace of its own.
        container = ("unshare", "--mount", "--ipc", "sh", "-c", OWN, "sh")
        for words in (("check", "--online", gateway.configure()), ("doctor", "--blocks", blocks or "/dev/shm")):
            _, said = run_ringest(site, *words, before=container, container="podman")
            if ("it belongs to this container" in said) == bool(blocks):
                raise Failure(f"{words[0]}, blocks {name}: {said}")
        gateway.start(*under(OWN))
        start_machines(gateway, wire, name)
        gateway.wait_for("records", lambda: gateway.terms().received > RATE)
        gateway.kill()
        wire.end_machines()
        terms = deliver_all(gateway, wire, under(OWN))
        gone = [line for line in alarms(gateway) if "is gone" in line]
        if bool(gone) == bool(blocks):
            raise Failure(f"blocks {name}: it said {alarms(gateway)}")
        if blocks:
            site.judge(wire)
        missing = 0 if blocks else len(lost(wire))
        figures.append(f"{name}: {terms.delivered} delivered, {missing} acknowledged lost")
        site.wires.remove(wire)
        wire.end()
    wire = site.receiver()
    gateway = site.gateway(wire, "removed", durability="process")
    gateway.start()
    start_machines(gateway, wire)
    gateway.wait_for("records", lambda: gateway.terms().received > RATE)
    if metric(gateway, "journal_block_file_lost") != ["0"]:
        raise Failure(f"the metric is {metric(gateway, 'journal_block_file_lost')} before anything has happened")
    (site.shared_memory / named(gateway)[0]).unlink()

    def problems():
        return [problem["text"] for problem in gateway.status()["problems"] if problem["area"] == "block_file"]

    begun = time.monotonic()
    text = gateway.wait_for("a problem in the status", problems, 5)[0]
    took = time.monotonic() - begun
    health = json.loads(fetch(f"http://127.0.0.1:{gateway.admin}/healthz", 5))
    if health["status"] != "degraded" or metric(gateway, "journal_block_file_lost") != ["1"]:
        raise Failure(f"health says {health}, the metric {metric(gateway, 'journal_block_file_lost')}")
    if not any("somebody has removed the block file" in line for line in alarms(gateway)):
        raise Failure(f"the log does not say so: {alarms(gateway)}")
    wire.receive("up")
    terms = finish_degraded(site, gateway, wire)
    return "; ".join(figures) + f"; removed: told within {took:.1f} s ({text}); {terms.received} received, stopped with 0, 0 lost"


def finish_degraded(site, gateway, wire):
    """As `finish`, where a problem stays."""
    wire.pause_machines()
    gateway.wait_for("the last acknowledgements", lambda: wire.do(
        lambda: not any(machine.is_waiting() for machine in wire.machines)), 20)
    terms = gateway.wait_settled(60)
    wire.end_machines()
    gateway.stop()
    site.judge(wire)
    return terms


@case("btrfs-full", "no /dev/shm, and the state directory on a full btrfs: blocks in memory, no SIGBUS, intake stops and heals",
      tools=("mkfs.btrfs", "losetup", "unshare"), limit_s=300)
def btrfs_full(site):
    figures = []
    for level in ("power", "process"):
        # The kill costs what was received and is acknowledged to nobody.
        wire = site.receiver(lenient=True)
        gateway = site.gateway(wire, level, durability=level)
        disk = site.disks.btrfs(f"disk-{level}", 160)
        gateway.state = disk.at / "state"
        _, said = run_ringest(site, "check", "--online", gateway.configure(), before=under(READ_ONLY))
        if "btrfs copies on write: a kill costs what is not yet written" not in said:
            raise Failure(f"check --online does not say what a kill costs: {said}")
        gateway.start(*under(READ_ONLY))
        if block_files(gateway) or "blocks are in memory of this process" not in gateway.words():
            raise Failure(f"{level}: block files {block_files(gateway)}; it said {gateway.words()}")
        start_machines(gateway, wire, level)
        gateway.wait_for("records", lambda: gateway.terms().received > RATE)
        ballast = fill(disk.at)
        text = wait_refused(gateway, wire, "No space left")
        before = acknowledged(wire)
        ballast.unlink()
        os.sync()
        took = wait_healed(gateway, wire, before)
        # A kill costs what was not written, and nothing that was answered.
        gateway.kill()
        wire.end_machines()
        wire.receive("up")
        gateway.start(*under(READ_ONLY))
        if not any("had its blocks in its own memory" in line for line in alarms(gateway)):
            raise Failure(f"{level}: after the kill it said {alarms(gateway)}")
        gateway.wait_settled()
        if lost(wire):
            raise Failure(f"{level}: {len(lost(wire))} acknowledged records are lost by the kill")
        gateway.stop()
        figures.append(f"{level}: refused ({text}), healed in {took:.1f} s; killed, {wire.ledger.totals()[1]} acknowledged, 0 of them lost")
        disk.unmount()
    return "; ".join(figures)


@case("orphans", "block files of killed gateways whose journal is gone: doctor lists them, and removes only those")
def orphans(site):
    gateways = {}
    for name in ("gone", "needed", "running"):
        wire = site.receiver()
        gateways[name] = (*backlog(site, wire, name, segments=2), wire)
    running, _, running_wire = gateways["running"]
    running.start()
    names = {name: named(gateway)[0] for name, (gateway, *_) in gateways.items()}
    gone, _, gone_wire = gateways["gone"]
    shutil.rmtree(gone.state)
    gone_wire.ledger.lenient = True
    # The state directory may only have been renamed: that is for an operator to know.
    code, said = run_ringest(site, "doctor", "--remove-orphans")
    if code != 0 or "if it was moved" not in said or not (site.shared_memory / names["gone"]).exists():
        raise Failure(f"doctor --remove-orphans without the state directory ended with {code} and said {said}")
    os.mkdir(gone.state)
    code, said = run_ringest(site, "doctor")
    told = [line for line in said.splitlines() if "orphan" in line and "takes" in line]
    if code != 0 or len(told) != 1 or names["gone"] not in told[0] or "MiB" not in told[0] or "is gone" not in told[0]:
        raise Failure(f"doctor ended with {code} and said {said}")
    document = json.loads(run_ringest(site, "doctor", "--json")[1])
    if [left["is_orphan"] for left in document["left_over"]] != [True] or document["left_over"][0]["bytes"] < 4 << 20:
        raise Failure(f"doctor --json says {document['left_over']}")
    if not (site.shared_memory / names["gone"]).exists():
        raise Failure("doctor removes what it was not asked to")
    code, said = run_ringest(site, "doctor", "--remove-orphans")
    there = {name for name, file in names.items() if (site.shared_memory / file).exists()}
    if code != 0 or there != {"needed", "running"} or "removed" not in said:
        raise Failure(f"doctor --remove-orphans ended with {code}, left the files of {there} and said {said}")
    running_wire.receive("up")
    running.wait_settled()
    running.stop()
    needed, received, wire = gateways["needed"]
    terms = deliver_all(needed, wire)
    expect_quiet(needed, "the one whose file was needed")
    if terms.recovered != received:
        raise Failure(f"{received} received, {terms.recovered} recovered")
    site.wires.remove(gone_wire)
    gone_wire.end()
    return f"{told[0].strip()}; removed; {received} received and recovered by the one that was killed and is needed"
