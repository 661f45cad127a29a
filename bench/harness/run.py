"""Runs scenarios: each case's subjects in turn, again and again, so that a ratio is between neighbours in time."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile

from .figures import by_subject, judge
from .peer import CommandPeer
from .ptys import Ptys
from .report import append_row, of_case
from .scenario import Case, Share, gates
from .subject import TARGET
from .trial import Trial
from .waiting import WaitingTrial

COMMIT_BYTES = (4096, 16_384)
# Trials of a case in a smoke run if its first one has a counter out of bounds: how requests fall into sends can stay odd for a trial.
TRIALS_OF_A_MISS = 5


def carriers(case: Case, options, missing: dict[str, str]) -> list:
    """Who carries the case's load: what is there of its subjects and peers, and the user's."""
    own = [subject for subject in (*case.subjects, *(() if options.no_peers else case.peers)) if subject.name not in missing]
    takes_peers = case.source in ("tcp", "http", "https") and not case.idle and not case.waiting
    return own + ([CommandPeer(*peer.split("=", 1)) for peer in options.peer] if takes_peers else [])


def resolved(case: Case, rows: list[dict]) -> Case:
    """The case with the rate that an earlier one gives."""
    if not isinstance(case.rate, Share):
        return case
    measured = by_subject([row for row in rows if row["case"] == case.rate.case]).get(case.rate.subject, {})
    rate = case.rate.share * measured.get("records_per_s", 0)
    return dataclasses.replace(case, rate=max(1.0, round(rate)))


def fitted(case: Case, most: int) -> Case:
    """The case with as many machines as there are ptys, each at its own rate."""
    if case.source != "ports" or case.machines <= most:
        return case
    return dataclasses.replace(case, machines=most, rate=case.rate and case.rate * most / case.machines)


def run_scenario(scenario, options, rows: list[dict], missing: dict[str, str]) -> None:
    print(f"\n{scenario.name}: {scenario.work}", file=sys.stderr)
    for case in scenario.cases:
        with Ptys(case.machines) if case.source == "ports" else contextlib.nullcontext(0) as most:
            fit = fitted(resolved(case, rows), most)
            remarks = [f"{fit.machines} ports, the kernel has no more"] if fit.machines < case.machines else []
            run_case(scenario, fit, options, rows, missing, remarks)


def run_case(scenario, case: Case, options, rows: list[dict], missing: dict[str, str], remarks: list[str]) -> None:
    named = {"scenario": scenario.name, "case": case.name}
    subjects = carriers(case, options, missing)
    for subject in (*case.subjects, *case.peers):
        if subject.name in missing:
            print(f"  {case.name:<20} {subject.name:<24} {missing[subject.name]}", file=sys.stderr)
    for repeat in range(max(options.repeats * case.rounds, TRIALS_OF_A_MISS)):
        if repeat >= options.repeats * (1 if options.smoke else case.rounds) and not (options.smoke and misses_a_gate(case, rows)):
            break
        for subject in subjects:
            trial = (WaitingTrial if case.waiting else Trial)(case, subject, options, repeat)
            row = {**named, "subject": subject.name, "repeat": repeat, **trial.run()}
            row["remarks"] = remarks + row.get("remarks", [])
            keep(row, options, rows)
            say(row)
        for size in COMMIT_BYTES if case.commits else ():
            keep({**named, "repeat": repeat, **commit(size, options)}, options, rows)


def misses_a_gate(case: Case, rows: list[dict]) -> bool:
    """Whether the medians so far are out of a counter's bounds."""
    subjects = by_subject(of_case(rows, case))
    return any(judge(gate, subjects, {})["verdict"] == "MISSED" for gate in gates(case))


def keep(row: dict, options, rows: list[dict]) -> None:
    """Also on disk at once, so that a run that is ended early leaves what it has."""
    rows.append(row)
    append_row(options.out, row)


def commit(size: int, options) -> dict:
    """The bare commit loop, on the file system of the journals."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        command = [str(TARGET / "bench-floor"), "commit", "--file", f"{directory}/blocks", "--bytes", str(size)]
        command += ["--seconds", str(min(options.seconds, 2))]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"subject": f"commit of {size >> 10} KiB", "failed": [], **json.loads(result.stdout)}


def say(row: dict) -> None:
    """One line a trial."""
    text = f"  {row['case']:<20} {row['subject']:<24}"
    if "cpu_us" in row:
        text += f" {row['records_per_s']:>10,.0f}/s  {row['cpu_us']:6.2f} µs (user {row['user_us']:.2f})  busy {row['busy']:.0%}, others {row['others_busy']:.0%}"
        text += f", {row['bytes_per_waiting']:.0f} B a waiting record" if "bytes_per_waiting" in row else ""
    elif "bytes_per_connection" in row:
        text += f" {row['bytes_per_connection']:.0f} B a connection, {row['cpu_ms_per_10s']:.1f} ms in 10 s"
    if row["failed"]:
        text += "  FAILED: " + "; ".join(row["failed"])
    if row.get("remarks"):
        text += "  " + "; ".join(row["remarks"])
    print(text, file=sys.stderr, flush=True)
