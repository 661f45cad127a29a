"""Sectors that cannot be read: of segments and of epoch files. The rest is delivered, what is missing is told with its number, and the
file is kept."""

import json
import subprocess
import time

from e2e.child import Failure

from .blocks import metric
from .cases import case
from .files import delivered
from .space import RATE

# How long a start tries again to read.
RETRY_S = 30
UNIT = 4096


def ringest(site, *words):
    command = [str(word) for word in (site.options.ringest, *words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, done.stdout + done.stderr


def left_on_btrfs(site, name):
    """A gateway that was stopped in order with records that nobody took, on a file system that notices changed bytes."""
    disk = site.disks.btrfs(name, 256)
    wire = site.receiver(lenient=True)
    gateway = site.gateway(wire, f"{name}-gateway")
    gateway.state = disk.at / "state"
    gateway.start()
    wire.start_machines(name, tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE)
    gateway.wait_for("records", lambda: gateway.terms().received > 2 * RATE)
    wire.pause_machines()
    gateway.wait_for("answers", lambda: wire.do(lambda: not any(machine.is_waiting() for machine in wire.machines)))
    wire.end_machines()
    pending = gateway.terms().pending
    gateway.stop()
    return disk, wire, gateway, pending


def damage(disk, gateway, paths):
    """One block of each file changes below the file system, so that reading it is EIO; the places that changed."""
    pieces = []
    for path in paths:
        data = path.read_bytes()
        at = max(range(0, len(data), UNIT), key=lambda at: len(data[at:at + UNIT].strip(b"\0"))) if path.name.startswith("segment") else 0
        pieces.append((path, data[at:at + UNIT]))
    disk.unmount()
    image = disk.image.read_bytes()
    places = []
    for path, piece in pieces:
        piece = piece.ljust(UNIT, b"\0")
        at = image.find(piece)
        if at < 0:
            raise Failure(f"the bytes of {path.name} are not in the image")
        while at >= 0:
            places.append(at + 100)
            at = image.find(piece, at + 1)
    flip(disk, places)
    disk.mount()
    for path, _ in pieces:
        try:
            path.read_bytes()
        except OSError:
            continue
        raise Failure(f"{path.name} can be read: this proves nothing")
    return places


def flip(disk, places):
    """Flips all bits of 32 bytes at each place of a disk that is not mounted; twice makes them what they were."""
    with open(disk.image, "r+b") as file:
        for at in places:
            file.seek(at)
            piece = file.read(32)
            file.seek(at)
            file.write(bytes(byte ^ 0xFF for byte in piece))


@case("eio-read-segment", "a block of a segment cannot be read (btrfs checksum): the rest is delivered, the loss told exactly, the file kept",
      tools=("mkfs.btrfs", "losetup"), limit_s=240)
def eio_read_segment(site):
    disk, wire, gateway, pending = left_on_btrfs(site, "segment")
    segment = sorted(path for path in gateway.state.glob("core-0/segment-*") if path.read_bytes()[UNIT:].strip(b"\0"))[0]
    damage(disk, gateway, [segment])
    wire.receive("up")
    took = gateway.start(seconds=RETRY_S + 60)
    gateway.wait_for("deliveries", lambda: gateway.terms().pending == 0, 60)
    status = gateway.status()
    missing, recovered = status["missing"], gateway.terms().recovered
    if not 0 < missing["records"] == pending - recovered or not missing["exact"]:
        raise Failure(f"{pending} records waited, {recovered} were recovered, and it says {missing}")
    if len(delivered(wire)) != recovered or took < RETRY_S / 2:
        raise Failure(f"{len(delivered(wire))} of {recovered} delivered; it tried for {took:.0f} s")
    if [int(float(value)) for value in metric(gateway, "missing_records")] not in ([missing["records"]], []):
        raise Failure(f"the metric says {metric(gateway, 'missing_records')}")
    if not list(gateway.state.glob("core-0/quarantine/segment-*")):
        raise Failure("the file is not kept")
    gateway.stop()
    code, said = ringest(site, "queue", "verify", gateway.configure())
    if code == 0 or "queue acknowledge" not in said:
        raise Failure(f"verify ends with {code} and says {said}")
    gateway.start()
    code, said = ringest(site, "queue", "acknowledge", gateway.configure())
    if code != 0 or gateway.status()["missing"]["records"] != 0:
        raise Failure(f"acknowledge ends with {code} and says {said}")
    gateway.stop()
    if ringest(site, "queue", "verify", gateway.configure())[0] != 0:
        raise Failure("verify complains of what is acknowledged")
    return (f"{pending} waited, {recovered} delivered, {missing['records']} told as missing after {took:.0f} s; the file kept in quarantine; "
            "nothing more said once acknowledged")


@case("eio-reread", "a segment becomes readable after a start told its records as missing: verify --reread, and the next start delivers them",
      tools=("mkfs.btrfs", "losetup"), limit_s=300)
def eio_reread(site):
    disk, wire, gateway, pending = left_on_btrfs(site, "reread")
    segments = sorted(path for path in gateway.state.glob("core-0/segment-*") if path.read_bytes()[UNIT:].strip(b"\0"))
    places = damage(disk, gateway, segments[:2])
    wire.receive("up")
    gateway.start(seconds=RETRY_S + 60)
    gateway.wait_for("deliveries", lambda: gateway.terms().pending == 0, 60)
    missing = gateway.status()["missing"]["records"]
    gateway.stop()
    if not 0 < missing == pending - len(delivered(wire)):
        raise Failure(f"{pending} waited, {len(delivered(wire))} were delivered, and {missing} are told as missing")
    code, said = ringest(site, "queue", "verify", "--reread", gateway.configure())
    if code == 0 or f"at most {missing} still missing" not in said or "nothing more can be read" not in said:
        raise Failure(f"while nothing can be read again verify --reread ends with {code} and says {said}")
    # The disk comes back, for one file first.
    back = 0
    for place in places:
        disk.unmount()
        flip(disk, [place])
        disk.mount()
        code, said = ringest(site, "queue", "verify", "--reread", gateway.configure())
        now = int(said.split(" read again: ")[1].split(" record")[0])
        if now == 0:
            raise Failure(f"nothing of {place} came back: {said}")
        back += now
        if (code == 0) != (back == missing):
            raise Failure(f"{back} of {missing} are back, and verify ends with {code}: {said}")
        if "still waits" not in ringest(site, "queue", "verify", "--reread", gateway.configure())[1]:
            raise Failure("it reads again while what came back waits")
        gateway.start()
        gateway.wait_for("deliveries", lambda: gateway.terms().pending == 0, 60)
        gateway.wait_for("what is missing", lambda: gateway.status()["missing"]["records"] == missing - back)
        gateway.stop()
    if back != missing or list(gateway.state.glob("core-0-return*")):
        raise Failure(f"{back} of {missing} came back; {list(gateway.state.glob('core-0-*'))} are left")
    # What comes back is late, and nothing else is wrong.
    wire.ledger.findings[:] = [finding for finding in wire.ledger.findings if "came for the first time behind" not in finding]
    if len(delivered(wire)) != pending:
        raise Failure(f"{len(delivered(wire))} of {pending} delivered")
    return f"{pending} waited, {missing} told as missing, {back} brought back in {len(places)} steps and delivered, each once"


@case("eio-read-epoch", "a block of an epoch file cannot be read (btrfs checksum): its second copy is used, nothing is lost",
      tools=("mkfs.btrfs", "losetup"), limit_s=180)
def eio_read_epoch(site):
    disk, wire, gateway, pending = left_on_btrfs(site, "epoch")
    damage(disk, gateway, sorted(gateway.state.glob("core-0/epoch-*[0-9a-f]")))
    wire.receive("up")
    begun = time.monotonic()
    gateway.start(seconds=RETRY_S + 60)
    took = time.monotonic() - begun
    gateway.wait_for("deliveries", lambda: gateway.terms().pending == 0, 60)
    status, recovered = gateway.status(), gateway.terms().recovered
    if recovered != pending or status["missing"]["records"] or "is damaged" not in gateway.words():
        raise Failure(f"{pending} waited, {recovered} recovered, {json.dumps(status['missing'])}; it said {gateway.words()}")
    gateway.stop()
    site.judge(wire)
    return f"{pending} waited, {recovered} delivered after {took:.0f} s of trying, 0 lost"
