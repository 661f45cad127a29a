"""Medians of trials, and verdicts on targets. No input, no output."""

import statistics

# Figures that are medians of a case's repeats.
FIGURES = (
    "records_per_s", "cpu_us", "user_us", "system_us", "switches", "rss_bytes", "busy", "others_busy", "load_us", "receiver_us", "wakes", "turns", "enters",
    "completions", "journal_writes", "journal_bytes", "enobufs", "records_per_send", "bytes_per_connection",
    "bytes_per_waiting", "shared_per_waiting", "cpu_ms_per_10s", "connect_s", "p50_us", "p99_us", "cpu_us_per_commit",
)


def medians(rows: list[dict]) -> dict:
    """The median of each figure that all good rows have, and of latencies; in `each` the single figures."""
    good = [row for row in rows if not row.get("failed")]
    result = {key: statistics.median(row[key] for row in good) for key in FIGURES if good and all(key in row for row in good)}
    for which, where in (("latency_us", "receiver"), ("accepted_us", "load")):
        found = [row[where][which] for row in good if row.get(where, {}).get(which, {}).get("count")]
        if found:
            result[which] = {key: statistics.median(one[key] for one in found) for key in ("p50", "p99", "p999", "max")}
    if good and "where_us" in good[-1]:
        result["where_us"] = good[-1]["where_us"]
    if "cpu_us" in result:
        costs = [row["cpu_us"] for row in good]
        result["spread"] = (max(costs) - min(costs)) / statistics.median(costs)
        result["each"] = {key: {row["repeat"]: row[key] for row in good if key in row} for key in ("cpu_us", "records_per_s")}
    result["remarks"] = sorted({remark for row in rows for remark in row.get("remarks", ())})
    return result


def paired(one: dict, other: dict, key: str) -> float | None:
    """The median of `one` as a multiple of `other`, each taken between trials that ran one after the other: a machine that turns slow
    for half a minute does so for both. `None` without such a pair."""
    one, other = one["each"][key], other["each"][key]
    ratios = [one[repeat] / other[repeat] for repeat in one if repeat in other]
    return statistics.median(ratios) if ratios else None


def by_subject(rows: list[dict]) -> dict[str, dict]:
    """The medians of a case, by subject, in the order in which they ran."""
    subjects = dict.fromkeys(row["subject"] for row in rows)
    return {name: medians([row for row in rows if row["subject"] == name]) for name in subjects}


def judge(target, rows: dict, missing: dict[str, str]) -> dict:
    """The figure of a target beside what is to be reached."""
    lacking = sorted({missing[name] for name in target.needs if name in missing})
    verdict = {"text": target.text, "figure": None, "gate": target.gate}
    if lacking:
        return {**verdict, "verdict": "; ".join(lacking)}
    try:
        figure = target.figure(rows)
    except (KeyError, ValueError, ZeroDivisionError, IndexError):
        figure = None
    if figure is None:
        return {**verdict, "verdict": "not measured"}
    reached = (target.most is None or figure <= target.most) and (target.least is None or figure >= target.least)
    return {**verdict, "figure": figure, "verdict": "reached" if reached else "MISSED"}
