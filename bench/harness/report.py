"""The tables of a run, made from its rows alone, so that they can be made again from the files."""

import json

from .figures import by_subject, judge, paired
from .machine import commit_words, words
from .scenario import gates
from .subject import Floor

HEAD = (
    "subject", "records/s", "CPU µs", "user", "system", "a CPU second", "× floor", "spread", "busy", "others busy", "load µs", "receiver µs",
    "switches", "RSS MiB",
)
COUNTERS = ("records_per_send", "wakes", "turns", "enters", "completions", "journal_writes", "enobufs")
COUNTERS_HEAD = ("a record", "records a send", "wakes", "turns", "enters", "completions", "journal writes", "ENOBUFS")


def number(value, digits: int = 2) -> str:
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def percent(value) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def mib(row: dict) -> str:
    return number(row["rss_bytes"] / (1 << 20), 1) if "rss_bytes" in row else "–"


def table(head, rows: list[list[str]]) -> str:
    """Markdown that is also readable as it stands."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def verdict_table(verdicts: list[dict]) -> str:
    return table(["figure to reach", "figure", ""], [[v["text"], number(v["figure"], 3), v["verdict"]] for v in verdicts])


def of_case(rows: list[dict], case) -> list[dict]:
    return [row for row in rows if row["case"] == case.name]


def verdicts_of(scenario, rows: list[dict], missing: dict[str, str]) -> dict[str, list[dict]]:
    """The verdicts of each case that was run, and under the scenario's own name those over all cases."""
    cases = {case.name: by_subject(of_case(rows, case)) for case in scenario.cases if of_case(rows, case)}
    found = {
        case.name: [judge(target, cases[case.name], missing) for target in (*case.targets, *gates(case)) if _is_asked(target, missing, cases[case.name])]
        for case in scenario.cases if case.name in cases
    }
    across = [judge(target, cases, missing) for target in scenario.targets]
    if across:
        found[scenario.name] = found.get(scenario.name, []) + across
    return found


def _is_asked(target, missing: dict[str, str], subjects: dict) -> bool:
    """A gate of a subject that cannot run says nothing that the subject's own line does not."""
    return not (target.gate and any(name in missing or name not in subjects for name in target.needs))


def scenario_report(scenario, rows: list[dict], missing: dict[str, str]) -> str:
    """What was measured of one scenario, as markdown."""
    text = [f"## {scenario.name}", scenario.work[0].upper() + scenario.work[1:] + "."]
    verdicts = verdicts_of(scenario, rows, missing)
    for case in scenario.cases:
        if found := of_case(rows, case):
            text += [f"### {case.name}"] if len(scenario.cases) > 1 else []
            text.append(case_report(case, by_subject(found), missing))
            if case.name != scenario.name and verdicts[case.name]:
                text.append(verdict_table(verdicts[case.name]))
    if verdicts.get(scenario.name):
        text.append(verdict_table(verdicts[scenario.name]))
    return "\n\n".join(text)


def case_report(case, subjects: dict[str, dict], missing: dict[str, str]) -> str:
    commits = {name: row for name, row in subjects.items() if "cpu_us_per_commit" in row}
    measured = {name: row for name, row in subjects.items() if name not in commits}
    text = [_idle_table(measured) if case.idle else _load_table(case, measured)]
    if case.waiting:
        cells = [[name, number(row.get("bytes_per_waiting"), 0), number(row.get("shared_per_waiting"), 0)] for name, row in measured.items()]
        text.append(table(["subject", "bytes of its own a waiting record", "bytes of the window's file a waiting record"], cells))
    counted = [[name, *(number(row.get(key), 3) for key in COUNTERS)] for name, row in measured.items() if "wakes" in row]
    if counted:
        text.append(table(COUNTERS_HEAD, counted))
    for which, what in (("latency_us", "schedule to arrival, µs"), ("accepted_us", "schedule to the machine's 201, µs")):
        late = [
            [name, *(number(row[which][key], 0) for key in ("p50", "p99", "p999", "max"))]
            for name, row in measured.items() if which in row and case.rate
        ]
        if late:
            text.append(table([what, "p50", "p99", "p99.9", "max"], late))
    if commits:
        cells = [[name, *(number(row[key], 1) for key in ("p50_us", "p99_us", "cpu_us_per_commit"))] for name, row in commits.items()]
        text.append(table(["bare loop (O_DIRECT, O_DSYNC)", "p50 µs", "p99 µs", "CPU µs"], cells))
    profiled = {name: row["where_us"] for name, row in measured.items() if "where_us" in row}
    if profiled:
        labels = sorted({label for row in profiled.values() for label in row}, key=lambda label: -max(row.get(label, 0) for row in profiled.values()))
        cells = [[label, *(number(row.get(label, 0), 3) for row in profiled.values())] for label in labels]
        text.append(table(["CPU µs a record", *profiled], cells))
    notes = [f"- {name}: {remark}" for name, row in measured.items() for remark in row["remarks"]]
    notes += [f"- {subject.name}: {missing[subject.name]}" for subject in (*case.subjects, *case.peers) if subject.name in missing]
    return "\n\n".join([*text, *(["\n".join(notes)] if notes else [])])


def _idle_table(subjects: dict[str, dict]) -> str:
    cells = [
        [name, number(row.get("bytes_per_connection"), 0), number(row.get("cpu_ms_per_10s")), mib(row)] for name, row in subjects.items()
    ]
    return table(["subject", "bytes a connection", "CPU ms in 10 s", "RSS MiB"], cells)


def _load_table(case, subjects: dict[str, dict]) -> str:
    floor = next((subjects[one.name] for one in case.subjects if isinstance(one, Floor) and "cpu_us" in subjects.get(one.name, ())), None)
    cells = []
    for name, row in subjects.items():
        cpu_us = row.get("cpu_us")
        cells.append([
            name, number(row.get("records_per_s")), number(cpu_us), number(row.get("user_us")), number(row.get("system_us")),
            number(1e6 / cpu_us if cpu_us else None), number(paired(row, floor, "cpu_us") if floor and cpu_us else None),
            percent(row.get("spread")), percent(row.get("busy")), percent(row.get("others_busy")),
            number(row.get("load_us")), number(row.get("receiver_us")), number(row.get("switches"), 3), mib(row),
        ])
    return table(HEAD, cells)


def summary(machine: dict, scenarios, rows: list[dict]) -> str:
    """The whole of a run, as markdown."""
    failed = [row for row in rows if row.get("failed")]
    head = (
        f"# Bench run of {machine['began']}\n\n{words(machine)}, {commit_words(machine)}. Medians of {machine['repeats']} trials of {machine['seconds']:g} s; "
        f"spread is the widest difference of CPU a record. {len(failed)} trials failed.\n"
    )
    for row in failed:
        head += f"\n- {row['case']}, {row['subject']}: {'; '.join(row['failed'])}"
    ran = {row["scenario"] for row in rows}
    parts = [scenario_report(scenario, rows, machine["missing"]) for scenario in scenarios if scenario.name in ran]
    return "\n\n".join([head, *parts]) + "\n"


def begin_run(directory, machine: dict) -> None:
    """The files of a run of which nothing is measured yet."""
    (directory / "machine.json").write_text(json.dumps(machine, indent=2, ensure_ascii=False) + "\n")
    (directory / "rows.jsonl").write_text("")


def append_row(directory, row: dict) -> None:
    with open(directory / "rows.jsonl", "a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_run(directory) -> tuple[dict, list[dict]]:
    """Machine and rows of a recorded run."""
    machine = json.loads((directory / "machine.json").read_text())
    rows = [json.loads(line) for line in (directory / "rows.jsonl").read_text().splitlines()]
    return {"missing": {}, **machine}, rows
