"""Records per CPU second of ringest, peers and floor: one SVG of horizontal bars, in light and dark; a PNG if a Chromium is there."""

import html
import shutil
import subprocess
import sys
from pathlib import Path

from .catalogue import SCENARIOS
from .figures import by_subject
from .machine import words
from .report import of_case
from .subject import Floor, Gateway

# Cases in which what is measured is work at saturation.
CASES = {
    "tcp-post": "1,000 TCP machines, a POST for each record",
    "tcp-post-pipelined": "the same, 8 requests on a connection",
    "tcp-two-step": "1,000 TCP machines, an id fetched before each POST",
    "tcp-batch": "16 records a write, POSTs of 100",
    "http-post": "1,000 HTTP machines, a POST for each record",
    "serial-post": "500 serial ports, a POST for each record",
}
WIDTH, LABELS, RIGHT, TOP = 880, 250, 110, 84
BAR, GAP, GROUP = 18, 6, 46
STYLE = """
  svg { background: #ffffff; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  text { fill: #3d4451; font-size: 13px; } .title { font-size: 18px; font-weight: 600; fill: #171a21; }
  .case { font-size: 14px; font-weight: 600; fill: #171a21; } .quiet { fill: #6b7280; font-size: 12px; }
  .value { font-variant-numeric: tabular-nums; } .strong { font-weight: 600; fill: #171a21; }
  .gateway { fill: #0f766e; } .levers { fill: #5ba8a0; } .peer { fill: #b9bfca; } .floor { fill: none; stroke: #6b7280; stroke-dasharray: 3 3; }
  .rule { stroke: #e3e6eb; }
  @media (prefers-color-scheme: dark) {
    svg { background: #14171d; } text { fill: #b6bdc9; } .title, .case, .strong { fill: #f1f3f6; } .quiet { fill: #8b93a1; }
    .gateway { fill: #2dd4bf; } .levers { fill: #1d7f74; } .peer { fill: #4b5361; } .floor { stroke: #8b93a1; } .rule { stroke: #2a2f39; }
  }
"""


def kind_of(case, name: str) -> str:
    for subject in case.subjects:
        if subject.name == name:
            return "floor" if isinstance(subject, Floor) else "gateway" if name == "gateway" else "levers" if isinstance(subject, Gateway) else "peer"
    return "peer"


def groups(rows: list[dict]) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """By case: (name, kind, records per CPU second), the most first."""
    found = []
    for case in (case for scenario in SCENARIOS for case in scenario.cases if case.name in CASES):
        measured = by_subject(of_case(rows, case))
        bars = [(name, kind_of(case, name), 1e6 / row["cpu_us"]) for name, row in measured.items() if row.get("cpu_us")]
        if bars:
            found.append((case.name, sorted(bars, key=lambda bar: -bar[2])))
    return found


def rounded(value: float) -> str:
    """Three digits, which is more than a run is good for."""
    digits = max(0, len(str(int(value))) - 3)
    return f"{round(value, -digits):,.0f}"


def label_of(name: str, kind: str) -> str:
    if kind == "floor":
        return f"floor: {name}"
    return name.replace("gateway", "ringest", 1) if kind in ("gateway", "levers") else name


def svg(machine: dict, rows: list[dict]) -> str:
    """The drawing; each case has a scale of its own, since they differ by a factor of a hundred."""
    body, at, room = [], TOP, WIDTH - LABELS - RIGHT
    for case, bars in groups(rows):
        most = max(value for _, _, value in bars)
        body.append(f'<line class="rule" x1="24" x2="{WIDTH - 24}" y1="{at - 8}" y2="{at - 8}"/>')
        body.append(f'<text class="case" x="24" y="{at + 12}">{case}</text>')
        body.append(f'<text class="quiet" x="{LABELS}" y="{at + 12}">{CASES[case]}</text>')
        at += 26
        for name, kind, value in bars:
            length = max(1.5, room * value / most)
            strong = " strong" if kind == "gateway" else ""
            body.append(f'<text class="{strong.strip()}" x="{LABELS - 12}" y="{at + 13}" text-anchor="end">{html.escape(label_of(name, kind))}</text>')
            inset = 0.5 if kind == "floor" else 0
            body.append(
                f'<rect class="{kind}" x="{LABELS + inset}" y="{at + inset}" width="{length - 2 * inset:.1f}" height="{BAR - 2 * inset}" rx="2"/>'
            )
            body.append(f'<text class="value{strong}" x="{LABELS + length + 8:.1f}" y="{at + 13}">{rounded(value)}</text>')
            at += BAR + GAP
        at += GROUP - 26
    height = at + 4
    head = (
        f'<text class="title" x="24" y="34">Records per CPU second</text>'
        f'<text class="quiet" x="24" y="56">What one second of CPU time of the program carries, from machines to a web service. '
        f"Each scenario has its own scale.</text>"
    )
    foot = (
        f'<text class="quiet" x="24" y="{height + 8}">{html.escape(words(machine))}, {machine["began"][:10]}. '
        f'Floor: a bare io_uring program that does this work and no more.</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 28}" width="{WIDTH}" height="{height + 28}" role="img" '
        f'aria-label="Records per CPU second of ringest, peers and floor"><style>{STYLE}</style>{head}{"".join(body)}{foot}</svg>\n'
    )


def write(out: Path, machine: dict, rows: list[dict]) -> None:
    """`plots/cpu.svg`, and `plots/cpu.png` where there is a Chromium."""
    if not groups(rows):
        return
    plots = out / "plots"
    plots.mkdir(exist_ok=True)
    text = svg(machine, rows)
    (plots / "cpu.svg").write_text(text)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        return
    height = text.split('height="', 1)[1].split('"', 1)[0]
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=2",
        f"--window-size={WIDTH},{height}", f"--screenshot={(plots / 'cpu.png').resolve()}", (plots / "cpu.svg").resolve().as_uri(),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"no PNG of the plot: {error}", file=sys.stderr)
