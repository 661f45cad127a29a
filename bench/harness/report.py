"""Medians, verdicts, tables, and the files of a run."""

import json
import statistics

# Figures that are medians of a case's repeats.
FIGURES = (
    "records_per_s", "cpu_us", "user_us", "system_us", "switches", "rss_bytes", "busy", "others_busy", "load_us", "receiver_us", "wakes", "turns", "enters",
    "completions", "journal_writes", "journal_bytes", "enobufs", "records_per_send", "bytes_per_connection",
    "cpu_ms_per_10s",
)


def medians(rows: list[dict]) -> dict:
    """The median of each figure that all good rows have, and of latencies."""
    good = [row for row in rows if not row["failed"]]
    result = {key: statistics.median(row[key] for row in good) for key in FIGURES if good and all(key in row for row in good)}
    for which, where in (("latency_us", "receiver"), ("accepted_us", "load")):
        found = [row[where][which] for row in good if row.get(where, {}).get(which, {}).get("count")]
        if found:
            result[which] = {key: statistics.median(one[key] for one in found) for key in ("p50", "p99", "p999", "max")}
    if good and "where_us" in good[-1]:
        result["where_us"] = good[-1]["where_us"]
    if good and "cpu_us" in good[0]:
        costs = [row["cpu_us"] for row in good]
        result["spread"] = (max(costs) - min(costs)) / statistics.median(costs)
    return result


def judge(target, rows: dict) -> dict:
    """The figure of a target beside what is to be reached. A ratio is taken between the medians of one run."""
    try:
        figure = target.figure(rows)
    except KeyError:
        return {"text": target.text, "figure": None, "verdict": "not measured"}
    reached = (target.most is None or figure <= target.most) and (target.least is None or figure >= target.least)
    return {"text": target.text, "figure": figure, "verdict": "reached" if reached else "MISSED"}


def number(value, digits: int = 2) -> str:
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown that is also readable as it stands."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def case_report(case, by_subject: dict[str, dict], verdicts: list[dict]) -> str:
    """What was measured of one case, as markdown."""
    text = []
    if case.idle:
        head = ["subject", "bytes a connection", "CPU ms in 10 s", "RSS MiB"]
        cells = [
            [name, number(row.get("bytes_per_connection"), 0), number(row.get("cpu_ms_per_10s")), mib(row)]
            for name, row in by_subject.items()
        ]
    else:
        head = ["subject", "records/s", "CPU µs", "user", "system", "× floor", "spread", "busy", "others busy", "load µs", "receiver µs", "switches", "RSS MiB"]
        floor = next((row.get("cpu_us") for name, row in by_subject.items() if name != "gateway"), None)
        cells = [
            [
                name, number(row.get("records_per_s")), number(row.get("cpu_us")), number(row.get("user_us")),
                number(row.get("system_us")), number(row["cpu_us"] / floor if floor and "cpu_us" in row else None),
                percent(row.get("spread")), percent(row.get("busy")), percent(row.get("others_busy")),
                number(row.get("load_us")), number(row.get("receiver_us")), number(row.get("switches"), 3), mib(row),
            ]
            for name, row in by_subject.items()
        ]
    text.append(table(head, cells))
    counted = [
        [name, *(number(row.get(key), 3) for key in ("records_per_send", "wakes", "turns", "enters", "completions", "journal_writes", "enobufs"))]
        for name, row in by_subject.items() if "wakes" in row
    ]
    if counted:
        text.append(table(["a record", "records a send", "wakes", "turns", "enters", "completions", "journal writes", "ENOBUFS"], counted))
    for which, what in (("latency_us", "schedule to arrival, µs"), ("accepted_us", "schedule to the machine's 201, µs")):
        late = [
            [name, *(number(row[which][key], 0) for key in ("p50", "p99", "p999", "max"))]
            for name, row in by_subject.items() if which in row and case.rate
        ]
        if late:
            text.append(table([what, "p50", "p99", "p99.9", "max"], late))
    profiled = {name: row["where_us"] for name, row in by_subject.items() if "where_us" in row}
    if profiled:
        labels = sorted({label for row in profiled.values() for label in row}, key=lambda label: -max(row.get(label, 0) for row in profiled.values()))
        cells = [[label, *(number(row.get(label, 0), 3) for row in profiled.values())] for label in labels]
        text.append(table(["CPU µs a record", *profiled], cells))
    if verdicts:
        text.append(verdict_table(verdicts))
    if case.not_built:
        text.append("Not built: " + "; ".join(case.not_built) + ".")
    return "\n\n".join(text)


def verdict_table(verdicts: list[dict]) -> str:
    return table(["figure to reach", "figure", ""], [[v["text"], number(v["figure"], 3), v["verdict"]] for v in verdicts])


def percent(value) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def mib(row: dict) -> str:
    return number(row["rss_bytes"] / (1 << 20), 1) if "rss_bytes" in row else "–"


def write_run(directory, machine: dict, rows: list[dict], summary: str) -> None:
    """The files of a run: machine, every single row, summary."""
    (directory / "machine.json").write_text(json.dumps(machine, indent=2, ensure_ascii=False) + "\n")
    with open(directory / "rows.jsonl", "w") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    (directory / "summary.md").write_text(summary)
