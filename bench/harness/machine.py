"""What the figures of a run depend on."""

import datetime
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

from .subject import ROOT


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def words(machine: dict) -> str:
    """The machine of a run, as it stands above what is made of it."""
    return f"{machine['cpu']}, {machine['cpus']} CPUs{' (virtual)' if machine['virtual'] else ''}, Linux {machine['kernel']}"


def commit_words(machine: dict) -> str:
    return f"commit {machine['commit'][:12]}{' with changes' if machine['changed'] else ''}"


def describe(options, missing: dict[str, str]) -> dict:
    fields = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    cpuinfo = {key.strip(): value.strip() for key, value in fields.items()}
    memory = Path("/proc/meminfo").read_text().splitlines()[0].split()[1]
    return {
        "host": socket.gethostname(), "cpu": cpuinfo.get("model name"), "cpus": os.cpu_count(),
        "memory_gib": round(int(memory) / (1 << 20), 1), "kernel": platform.release(),
        "virtual": "hypervisor" in cpuinfo.get("flags", ""), "rustc": output_of("rustc", "--version"),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "changed": bool(output_of("git", "status", "--porcelain", "--untracked-files=no")),
        "load_average": os.getloadavg(), "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "file_system": output_of("stat", "-f", "-c", "%T", str(options.scratch)),
        "seconds": options.seconds, "repeats": options.repeats, "arguments": sys.argv[1:], "missing": missing,
    }
