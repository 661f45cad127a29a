"""The command: which scenarios, how long, how often."""

import argparse
import datetime
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from . import peer, plot, readme, report
from .catalogue import SCENARIOS
from .machine import describe
from .run import run_scenario
from .subject import ROOT, TARGET

# Long enough for counters a record to settle: records a send at depth 8 are below 7 in a third of the trials of half a second.
SMOKE = {"seconds": 2, "warm_up": 1, "idle_seconds": 1, "repeats": 1, "waiting": 20_000}
BUILDS = (
    ("cargo", "build", "--release"),
    ("cargo", "build", "--release", "-p", "ringest-bench"),
    ("cargo", "build", "--release", "-p", "ringest-bench", "--features", "blind", "--bin", "bench-blind"),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures ringest against the floor of this machine and against peers.")
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="by name, or `all`; see --list")
    parser.add_argument("--seconds", type=float, default=5, help="measured time of a trial (default 5)")
    parser.add_argument("--warm-up", type=float, default=1.5, help="seconds before it (default 1.5)")
    parser.add_argument("--idle-seconds", type=float, default=10, help="measured time of idle scenarios (default 10)")
    parser.add_argument("--waiting", type=int, help="records that wait in scenarios of waiting records (default: what the scenario says)")
    parser.add_argument("--repeats", type=int, default=3, help="trials of each subject, in turn (default 3)")
    parser.add_argument("--smoke", action="store_true", help="one short trial of each: are the accounts and the counters right?")
    parser.add_argument("--no-peers", action="store_true", help="leave out nginx, haproxy, syslog-ng and the Python gateway")
    parser.add_argument("--install-peers", action="store_true", help="install them (apt-get, and a virtual environment), and end")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND",
                        help="measure this program too; {machines} and {receiver} are ports, {url} is the receiver's, "
                             "{ports} and {directory} are directories")
    parser.add_argument("--profile", action="store_true", help="record each trial with perf, into the run's directory")
    parser.add_argument("--out", type=Path, help="where the run is written (default bench/runs/DATE-HOST)")
    parser.add_argument("--scratch", type=Path, help="where journals lie (default: target/bench)")
    parser.add_argument("--nice", type=int, default=0, help="priority of all processes of a trial, where the machine is not idle")
    parser.add_argument("--no-build", action="store_true", help="measure what is built already")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--table", metavar="RUN", type=Path, help="make tables and plots of a recorded run again, also those in README.md, and end")
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
    for command in BUILDS:
        print("$", shlex.join(command), file=sys.stderr)
        subprocess.run(command, cwd=ROOT, check=True)


def lacking(scenarios, options) -> dict[str, str]:
    """What is not there, by subject. Ends the command if that is a peer that was asked for."""
    cases = [case for scenario in scenarios for case in scenario.cases]
    if options.no_peers:
        return {one.name: "left out" for case in cases for one in case.peers}
    peers = {name: f"missing: {what}" for name, what in peer.missing_peers(cases).items()}
    if peers and not options.smoke:
        sys.exit(
            "bench/run: peers are missing:\n" + "".join(f"  {name:<28} {what}\n" for name, what in peers.items())
            + "`bench/run --install-peers` installs them; `--no-peers` leaves them out."
        )
    return peers


def hdr_reports(out: Path) -> list[str]:
    """Percentile tables and plots of the histogram logs, by `ringest report`; of each subject the second trial, or the only one.
    What could not be made."""
    logs = sorted((out / "histograms").glob("*.hlog")) if (out / "histograms").exists() else []
    failures = []
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for log in logs:
        case, subject, _, what, _ = log.name.split(".")
        found = groups.setdefault((case, what), {})
        if subject not in found or log.name.split(".")[2] == "2":
            found[subject] = log
    for (case, what), found in groups.items():
        command = [str(TARGET / "ringest"), "report", "--out", str(out / "reports" / f"{case}-{what}")]
        command += [f"{subject}={log}" for subject, log in found.items()]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            failures.append(f"report of {case}, {what}: {result.stderr.strip()[-400:]}")
    return failures


def write(out: Path, machine: dict, rows: list[dict]) -> tuple[str, list[str]]:
    """What is made of a run's rows: the summary, and what of them could not be made."""
    text = report.summary(machine, SCENARIOS, rows)
    (out / "summary.md").write_text(text)
    plot.write(out, machine, rows)
    return text, hdr_reports(out)


def stop(number: int, _) -> None:
    """As Ctrl-C: processes are ended and what was changed is put back on the way out."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<20} {scenario.work}")
        return 0
    named = {subject.name for scenario in SCENARIOS for case in scenario.cases for subject in (*case.subjects, *case.peers)}
    for one in options.peer:
        name, separator, command = one.partition("=")
        if not (name and separator and command) or name in named:
            sys.exit(f"bench/run: --peer {one}: NAME=COMMAND is wanted, with a name that no other subject has")
    if options.install_peers:
        peer.install()
        return 0
    if options.table:
        machine, rows = report.read_run(options.table)
        (options.table / "summary.md").write_text(report.summary(machine, SCENARIOS, rows))
        plot.write(options.table, machine, rows)
        readme.update(ROOT, options.table, machine, rows, SCENARIOS)
        return 0
    scenarios = chosen(options.scenarios)
    if options.smoke:
        vars(options).update(SMOKE)
    if not options.no_build:
        build()
    missing = lacking(scenarios, options)
    options.scratch = (options.scratch or TARGET.parent / "bench").absolute()
    options.scratch.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.datetime.now():%Y-%m-%dT%H%M%S}-{socket.gethostname()}"
    options.out = (options.out or (options.scratch / "smoke" if options.smoke else ROOT / "bench" / "runs" / name)).absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    # Logs are appended to.
    shutil.rmtree(options.out / "histograms", ignore_errors=True)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    machine, rows = describe(options, missing), []
    report.begin_run(options.out, machine)
    try:
        for scenario in scenarios:
            run_scenario(scenario, options, rows, missing)
    except KeyboardInterrupt:
        print(f"\nbench/run: interrupted; what it had started is ended; its {len(rows)} trials are in {options.out}", file=sys.stderr)
        return 130
    return finish(options, machine, rows, scenarios)


def finish(options, machine: dict, rows: list[dict], scenarios) -> int:
    """Writes the files, prints the verdicts; 1 if a trial failed or a gate was missed."""
    failed = [row for row in rows if row.get("failed")]
    verdicts = [
        one for scenario in scenarios for found in report.verdicts_of(scenario, rows, machine["missing"]).values() for one in found
    ]
    missed = [one for one in verdicts if one["gate"] and one["verdict"] != "reached"]
    text, unmade = write(options.out, machine, rows)
    if options.smoke:
        print(f"\n{len(rows)} trials, {sum(one['gate'] for one in verdicts)} counters judged")
    else:
        print("\n" + text + "\n" + report.verdict_table(verdicts))
    for row in failed:
        print(f"FAILED: {row['case']}, {row['subject']}: {'; '.join(row['failed'])}")
    for one in missed:
        print(f"MISSED: {one['text']}: {report.number(one['figure'], 3)} {one['verdict']}")
    for one in unmade:
        print(f"FAILED: {one}")
    print(f"\nwritten to {options.out}")
    return 1 if failed or missed or unmade else 0
