"""The command line of scripts/faults."""

import argparse
import ctypes
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from e2e.child import Failure

from . import CASES
from .site import Site

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Where each tool comes from on Debian.
PACKAGES = {
    "mkfs.ext4": "e2fsprogs", "mkfs.btrfs": "btrfs-progs", "losetup": "mount", "mount": "mount", "umount": "mount", "unshare": "util-linux",
    "nbdkit": "nbdkit", "nbdfuse": "libnbd-bin", "qemu-storage-daemon": "qemu-system-common", "strace": "strace",
    "faketime": "faketime", "haproxy": "haproxy", "nginx": "nginx", "ser2net": "ser2net", "e2fsck": "e2fsprogs", "setpriv": "util-linux",
    "h2load": "nghttp2-client", "slowhttptest": "slowhttptest", "curl": "curl", "wget": "wget", "wrk": "wrk", "chrt": "util-linux", "ab": "apache2-utils",
    "node": "nodejs", "java": "default-jdk-headless", "virtualenv": "virtualenv",
}
ALWAYS = ("mount", "umount")


def arguments(text):
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", metavar="CASE", nargs="*", help="names of cases")
    parser.add_argument("--all", action="store_true", help="run all cases")
    parser.add_argument("--but", metavar="CASE", action="append", default=[], help="with --all: leave this one out (again for more)")
    parser.add_argument("--list", action="store_true", help="list the cases")
    parser.add_argument("--packages", action="store_true", help="print the Debian packages that are missing for the cases (or all)")
    parser.add_argument("--ringest", metavar="FILE", type=pathlib.Path, help="the program (default: built by cargo, release)")
    parser.add_argument("--cycles", metavar="N", type=int, default=1000, help="kills of the case kill (default 1000)")
    parser.add_argument("--cuts", metavar="N", type=int, default=60, help="cuts of the case power-cut (default 60)")
    parser.add_argument("--joins", metavar="N", type=int, default=50, help="disturbances of the case joined-inside (default 50)")
    parser.add_argument("--seed", metavar="N", type=int, help="of what is drawn at random (default: by the clock; printed)")
    parser.add_argument("--scratch", metavar="DIR", type=pathlib.Path, help="where directories are made (default: TMPDIR)")
    parser.add_argument("--keep", action="store_true", help="leave the directories of cases that fail")
    options = parser.parse_args()
    names = [case.name for case in CASES]
    unknown = [name for name in options.cases + options.but if name not in names]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    options.chosen = [case for case in CASES if (case.name in options.cases or not options.cases) and case.name not in options.but]
    if not (options.cases or options.all or options.list or options.packages):
        parser.error("say which cases, or --all")
    if options.seed is None:
        options.seed = time.time_ns() % 1_000_000
    return options


def missing_tools(tools):
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [tool for tool in tools if shutil.which(tool, path=path) is None]


def packages(cases):
    tools = {tool for case in cases for tool in (*case.tools, *ALWAYS)}
    return sorted({PACKAGES[tool] for tool in missing_tools(tools)})


def build(options, root, target):
    """The programs: ringest, and the bench's where a case measures."""
    options.root, options.programs = root, target / "release"
    if options.ringest is None:
        print("building ringest", flush=True)
        options.ringest = options.programs / "ringest"
        if subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=root, check=False).returncode != 0:
            raise Failure("cargo could not build ringest")
    if any(case.needs_bench for case in options.chosen):
        build_bench = ["cargo", "build", "--release", "--quiet", "--package", "ringest-bench"]
        if subprocess.run(build_bench, cwd=root, check=False).returncode != 0:
            raise Failure("cargo could not build the bench")
    options.ringest = options.ringest.absolute()
    if not os.access(options.ringest, os.X_OK):
        raise Failure(f"{options.ringest} is no program")


def enter_namespace():
    """Mounts from here on are this process's own, and so is /dev/shm: block files of killed gateways go with it."""
    if os.geteuid() != 0:
        raise Failure("only root can mount file systems: run this as root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise Failure(f"no mount namespace of its own: {os.strerror(ctypes.get_errno())}")
    if libc.mount(b"ringest-faults", b"/dev/shm", b"tmpfs", 0, None) != 0:
        raise Failure(f"no /dev/shm of its own: {os.strerror(ctypes.get_errno())}")
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def run_case(case, options):
    """Runs one case; whether it held."""
    begun = time.monotonic()

    def line(word, text):
        print(f"{word} {case.name} ({time.monotonic() - begun:.1f} s): {text}", flush=True)

    missing = missing_tools((*case.tools, *ALWAYS))
    if missing:
        wanted = " ".join(sorted({PACKAGES[tool] for tool in missing}))
        line("FAIL", f"{', '.join(missing)} not found. On Debian: apt-get install --no-install-recommends {wanted}")
        return False
    random.seed(options.seed)
    directory = tempfile.mkdtemp(prefix=f"ringest-{case.name}-", dir=options.scratch)
    os.chmod(directory, 0o711)
    site, held = Site(options, directory), False
    signal.alarm(case.seconds(options))
    try:
        text = case.run(site)
        site.judge()
        held = True
        line("PASS", text)
    except Failure as failure:
        line("FAIL", failure)
    except Exception:  # noqa: BLE001 - a defect of the case is a failure of the case
        line("FAIL", traceback.format_exc())
    finally:
        signal.alarm(0)
        site.close()
        if held or not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"     kept in {directory}", flush=True)
    return held


def end_early(number, _frame):
    if number == signal.SIGALRM:
        raise Failure("it took longer than it may")
    sys.exit(128 + number)


def main(text, root, target):
    options = arguments(text)
    if options.list:
        for case in CASES:
            print(f"{case.name:20}{case.text}")
        return 0
    if options.packages:
        for package in packages(options.chosen):
            print(package)
        return 0
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, end_early)
    begun = time.monotonic()
    try:
        build(options, root, target.absolute())
        enter_namespace()
    except Failure as failure:
        print(f"failed: {failure}")
        return 1
    print(f"{len(options.chosen)} cases, seed {options.seed}", flush=True)
    held = [run_case(case, options) for case in options.chosen]
    failed = [case.name for case, is_so in zip(options.chosen, held) if not is_so]
    print(f"{sum(held)} of {len(held)} cases hold ({time.monotonic() - begun:.0f} s)"
          + (f"; failed: {', '.join(failed)}" if failed else ""), flush=True)
    return 1 if failed else 0
