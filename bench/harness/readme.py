"""The tables in bench/README.md and README.md, made from a recorded run between two markers."""

from pathlib import Path

from .figures import by_subject
from .machine import commit_words, words
from .plot import CASES, kind_of, label_of
from .report import number, of_case, table, verdicts_of

BEGIN = "<!-- table: bench/run --table RUN writes what is between these lines -->"
END = "<!-- end of table -->"
# What README.md shows of the plot's cases beside the gateway as it is: a variant of it, and how it differs.
VARIANTS = {
    "tcp-post-pipelined": ("gateway, levers", "with `quick_ack = false` and `min_wait`"),
    "tcp-two-step": ("gateway, lease 100", "ids leased by 100"),
}


def figures_table(machine: dict, rows: list[dict], scenarios) -> str:
    """A line for each figure to reach, with throughput and cost of the gateway at the first of each case."""
    cells = []
    for scenario in scenarios:
        if not any(row["scenario"] == scenario.name for row in rows):
            continue
        verdicts = verdicts_of(scenario, rows, machine["missing"])
        first = scenario.name
        for one in (one for found in verdicts.values() for one in found if not one["gate"]):
            cells.append([f"`{first}`" if first else "", one["text"], number(one["figure"], 2), one["verdict"]])
            first = ""
    return table(["Scenario", "Figure to reach", "Measured", ""], cells)


def throughput_table(rows: list[dict], scenarios) -> str:
    """What each subject did, saturated."""
    cells = []
    for scenario in scenarios:
        for case in scenario.cases:
            if case.rate or case.idle or not of_case(rows, case) or scenario.name == "floors":
                continue
            first = case.name
            for name, row in by_subject(of_case(rows, case)).items():
                if "cpu_us" not in row:
                    continue
                figures = [row.get("records_per_s"), row["cpu_us"], row["user_us"], 1e6 / row["cpu_us"]]
                cells.append([f"`{first}`" if first else "", name, *(number(figure) for figure in figures), "; ".join(row["remarks"])])
                first = ""
    return table(["Case", "", "Records/s", "CPU µs a record", "of it user", "Records a CPU second", ""], cells)


def section(run: Path, machine: dict, rows: list[dict], scenarios) -> str:
    return "\n\n".join([
        f"From `bench/runs/{run.resolve().name}`: {words(machine)}, {commit_words(machine)}, "
        f"medians of {machine['repeats']} trials of {machine['seconds']:g} s{noted(machine)}.",
        figures_table(machine, rows, scenarios),
        f"![Records per CPU second of ringest, peers and floor](runs/{run.resolve().name}/plots/cpu.svg)",
        throughput_table(rows, scenarios),
    ])


def noted(machine: dict) -> str:
    """What whoever recorded the run has written into `machine.json`, as `note`."""
    return f" ({machine['note']})" if machine.get("note") else ""


def headline(run: Path, machine: dict, rows: list[dict], scenarios) -> str:
    """What one core carries, beside the others that did the same work in the same run."""
    cases = {case.name: case for scenario in scenarios for case in scenario.cases}
    cells = []
    for name, work in CASES.items():
        measured = {one: row for one, row in by_subject(of_case(rows, cases[name])).items() if "cpu_us" in row}
        kinds = {one: kind_of(cases[name], one) for one in measured}
        beside = [f"{label_of(one, kind)} {measured[one]['cpu_us']:.3g}" for one, kind in kinds.items() if kind in ("floor", "peer")]
        variant, differs = VARIANTS.get(name, ("", ""))
        for subject, text, others in (("gateway", work, "; ".join(beside)), (variant, f"the same, {differs}", "")):
            if row := measured.get(subject):
                cells.append([text, number(row["records_per_s"]), number(row["cpu_us"]), others])
    return "\n\n".join([
        table(["64-byte records, one core", "records/s", "CPU µs a record", "CPU µs a record of others that do the same work"], cells),
        f"{words(machine)}, {machine['began'][:10]}; medians of {machine['repeats']} trials{noted(machine)}.",
        f"![Records per CPU second of ringest, peers and floor](bench/runs/{run.resolve().name}/plots/cpu.svg)",
    ])


def update(root: Path, run: Path, machine: dict, rows: list[dict], scenarios) -> None:
    """Writes the sections anew; what stands around them stays."""
    for path, text in (("bench/README.md", section), ("README.md", headline)):
        (root / path).write_text(replaced((root / path).read_text(), text(run, machine, rows, scenarios)))


def replaced(text: str, between: str) -> str:
    """Raises `ValueError` if a marker is missing."""
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:before]}\n\n{between}\n\n{text[after:]}"
