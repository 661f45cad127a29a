"""The table in bench/README.md, made from a recorded run between two markers."""

from pathlib import Path

from .figures import by_subject
from .report import number, of_case, table, verdicts_of

BEGIN = "<!-- table: bench/run --table RUN writes what is between these lines -->"
END = "<!-- end of table -->"


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
    changed = " with changes" if machine["changed"] else ""
    return "\n\n".join([
        f"From `bench/runs/{run.resolve().name}`: {machine['cpu']}, {machine['cpus']} CPUs{' (virtual)' if machine['virtual'] else ''}, "
        f"Linux {machine['kernel']}, commit {machine['commit'][:12]}{changed}, medians of {machine['repeats']} trials of {machine['seconds']:g} s.",
        figures_table(machine, rows, scenarios),
        f"![Records per CPU second of ringest, peers and floor](runs/{run.resolve().name}/plots/cpu.svg)",
        throughput_table(rows, scenarios),
    ])


def update(path: Path, run: Path, machine: dict, rows: list[dict], scenarios) -> None:
    """Writes the section anew; what stands around it stays."""
    path.write_text(replaced(path.read_text(), section(run, machine, rows, scenarios)))


def replaced(text: str, between: str) -> str:
    """Raises `ValueError` if a marker is missing."""
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:before]}\n\n{between}\n\n{text[after:]}"
