"""The command: which scenarios, how long, how often."""

import argparse
import datetime
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from . import report
from .scenario import ACROSS, SCENARIOS
from .subject import ROOT, TARGET, Peer
from .trial import PTY_MAX_WANTED, Trial

PTY_MAX = Path("/proc/sys/kernel/pty/max")
PTY_RESERVE = Path("/proc/sys/kernel/pty/reserve")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures ringest against the floor of this machine.")
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="by name, or `all`; see --list")
    parser.add_argument("--seconds", type=float, default=5, help="measured time of a trial (default 5)")
    parser.add_argument("--warm-up", type=float, default=1.5, help="seconds before it (default 1.5)")
    parser.add_argument("--idle-seconds", type=float, default=10, help="measured time of idle scenarios (default 10)")
    parser.add_argument("--repeats", type=int, default=3, help="trials of each subject, in turn (default 3)")
    parser.add_argument("--smoke", action="store_true", help="one short trial of each: does it run and are the accounts right?")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="measure this program too; {machines} and {receiver} are ports, {url} is the receiver's, "
                             "{ports} and {directory} are directories")
    parser.add_argument("--profile", action="store_true", help="record each trial with perf, into the run's directory")
    parser.add_argument("--out", type=Path, help="where the run is written (default bench/runs/DATE-HOST)")
    parser.add_argument("--scratch", type=Path, help="where journals lie (default: target/bench)")
    parser.add_argument("--nice", type=int, default=0, help="priority of all processes of a trial, where the machine is not idle")
    parser.add_argument("--no-build", action="store_true", help="measure what is built already")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    return parser.parse_args()


def chosen(names: list[str]) -> list:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if names == ["all"]:
        return list(SCENARIOS)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        word = f"no such scenario: {', '.join(unknown)}" if unknown else "which scenario?"
        sys.exit(f"bench/run: {word} (known: all, {', '.join(known)})")
    return [known[name] for name in names]


def build() -> None:
    for command in (["cargo", "build", "--release"], ["cargo", "build", "--release", "-p", "ringest-bench"]):
        print("$", " ".join(command), file=sys.stderr)
        subprocess.run(command, cwd=ROOT, check=True)


def output_of(*command: str) -> str:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def machine(options) -> dict:
    """What the figures depend on."""
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
        "seconds": options.seconds, "repeats": options.repeats, "arguments": sys.argv[1:],
    }


class Ptys:
    """Raises the kernel's limit for a case that needs it, and puts it back."""

    def __init__(self, case):
        self._wanted = case.machines + 64 if case.source == "ports" else 0
        self._before = None

    def __enter__(self) -> int:
        """How many machines there may be."""
        if not self._wanted:
            return 1 << 30
        most, reserve = int(PTY_MAX.read_text()), int(PTY_RESERVE.read_text())
        in_use = int(Path("/proc/sys/kernel/pty/nr").read_text())
        if in_use + self._wanted > most - reserve:
            try:
                PTY_MAX.write_text(str(max(most, PTY_MAX_WANTED)))
                self._before, most = most, max(most, PTY_MAX_WANTED)
                print(f"kernel.pty.max raised from {self._before} to {most} for this case", file=sys.stderr)
            except PermissionError:
                print("kernel.pty.max cannot be raised without root; fewer ptys are used", file=sys.stderr)
        return most - reserve - in_use - 64

    def __exit__(self, *_) -> None:
        if self._before is not None:
            PTY_MAX.write_text(str(self._before))


def run_case(scenario, case, options, rows: list[dict]) -> dict[str, dict]:
    """All trials of a case, the subjects in turn; the medians by subject."""
    peers = [Peer(*peer.split("=", 1)) for peer in options.peer] if case.source in ("tcp", "http") and not case.idle else []
    of_case = []
    for repeat in range(options.repeats):
        for subject in [*case.subjects, *peers]:
            row = {"scenario": scenario.name, "case": case.name, "subject": subject.name, "repeat": repeat}
            row |= Trial(case, subject, options).run()
            of_case.append(row)
            say(row)
    rows += of_case
    names = [subject.name for subject in [*case.subjects, *peers]]
    return {name: report.medians([row for row in of_case if row["subject"] == name]) for name in names}


def say(row: dict) -> None:
    """One line a trial."""
    text = f"  {row['case']:<20} {row['subject']:<22}"
    if "cpu_us" in row:
        text += f" {row['records_per_s']:>10,.0f}/s  {row['cpu_us']:6.2f} µs (user {row['user_us']:.2f})  busy {row['busy']:.0%}, others {row['others_busy']:.0%}"
    elif "bytes_per_connection" in row:
        text += f" {row['bytes_per_connection']:.0f} B a connection, {row['cpu_ms_per_10s']:.1f} ms in 10 s"
    if row["failed"]:
        text += "  FAILED: " + "; ".join(row["failed"])
    print(text, file=sys.stderr, flush=True)


def run_commits(options, rows: list[dict]) -> str:
    """The commit loop, a floor without a load."""
    cells = []
    for size in (4096, 16_384):
        found = []
        for repeat in range(options.repeats):
            with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
                command = [str(TARGET / "bench-floor"), "commit", "--file", f"{directory}/blocks", "--bytes", str(size)]
                command += ["--seconds", str(min(options.seconds, 2))]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(json.loads(result.stdout))
            rows.append({"scenario": "floors", "case": f"commit-{size}", "subject": "commit", "repeat": repeat, **found[-1]})
        median = lambda key: sorted(one[key] for one in found)[len(found) // 2]
        cells.append([f"{size >> 10} KiB", *(report.number(median(key), 1) for key in ("p50_us", "p99_us", "cpu_us_per_commit"))])
    return report.table(["commit (O_DIRECT, O_DSYNC)", "p50 µs", "p99 µs", "CPU µs"], cells)


def run_scenario(scenario, options, rows: list[dict], verdicts: list[dict]) -> str:
    print(f"\n{scenario.name}: {scenario.work}", file=sys.stderr)
    text = [f"## {scenario.name}", scenario.work[0].upper() + scenario.work[1:] + "."]
    if scenario.not_built:
        verdicts.append({"text": scenario.name, "figure": None, "verdict": f"not built: {scenario.not_built}"})
        return "\n\n".join([*text, f"**Not built:** {scenario.not_built}."])
    by_case = {}
    for case in scenario.cases:
        with Ptys(case) as most:
            if case.machines > most:
                case = type(case)(**{**vars(case), "machines": most, "rate": case.rate and most})
            by_subject = run_case(scenario, case, options, rows)
        found = [report.judge(target, by_subject) for target in case.targets]
        verdicts += found
        text += [f"### {case.name}"] if len(scenario.cases) > 1 else []
        text.append(report.case_report(case, by_subject, found))
        by_case[case.name] = by_subject.get("gateway", {})
    if scenario.name in ACROSS:
        verdicts.append(report.judge(ACROSS[scenario.name], by_case))
        text.append(report.verdict_table(verdicts[-1:]))
    if scenario.name == "floors":
        text.append(run_commits(options, rows))
    return "\n\n".join(text)


def main() -> int:
    options = arguments()
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<20} {scenario.work}" + (f" [not built: {scenario.not_built}]" if scenario.not_built else ""))
        return 0
    scenarios = chosen(options.scenarios)
    if options.smoke:
        options.seconds, options.warm_up, options.idle_seconds, options.repeats = 0.5, 0.3, 1, 1
    if not options.no_build:
        build()
    options.scratch = options.scratch or TARGET.parent / "bench"
    options.scratch.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.datetime.now():%Y-%m-%dT%H%M%S}-{socket.gethostname()}"
    options.out = options.out or (options.scratch / "smoke" if options.smoke else ROOT / "bench" / "runs" / name)
    options.out.mkdir(parents=True, exist_ok=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    described, rows, verdicts = machine(options), [], []
    parts = [run_scenario(scenario, options, rows, verdicts) for scenario in scenarios]
    failed = [row for row in rows if row.get("failed")]
    head = (
        f"# Bench run of {described['began']}\n\n{described['cpu']}, {described['cpus']} CPUs"
        f"{' (virtual)' if described['virtual'] else ''}, Linux {described['kernel']}, commit {described['commit'][:12]}"
        f"{' with changes' if described['changed'] else ''}. Medians of {options.repeats} trials of {options.seconds:g} s; "
        f"spread is the widest difference of CPU a record. {len(failed)} trials failed.\n"
    )
    for row in failed:
        head += f"\n- {row['case']}, {row['subject']}: {'; '.join(row['failed'])}"
    summary = "\n\n".join([head, *parts]) + "\n"
    report.write_run(options.out, described, rows, summary)
    print("\n" + summary)
    if verdicts:
        print(report.verdict_table(verdicts))
    print(f"\nwritten to {options.out}")
    return 1 if failed else 0
