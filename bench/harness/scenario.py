"""What a scenario is made of: cases, and the figures to reach."""

from dataclasses import dataclass

from .figures import paired
from .peer import Peer
from .subject import Gateway, Subject


@dataclass(frozen=True)
class Target:
    """A figure from the medians of a case by subject (or of a scenario, by case and subject): at most `most`, or at least `least`.

    A gate is a counter free of the machine's noise: to miss it is a fault, even in a smoke run."""

    text: str
    figure: object
    most: float | None = None
    least: float | None = None
    needs: tuple[str, ...] = ()  # subjects without which there is no figure
    gate: bool = False


# Requests a second of the machines that are timed beside others.
PROBES_PER_S = 1000


@dataclass(frozen=True)
class Share:
    """A rate that is this share of the throughput of a subject in an earlier case of the scenario."""

    case: str
    subject: str
    share: float


@dataclass(frozen=True)
class Case:
    """One load, and who is to carry it. A scenario has one or more."""

    name: str
    subjects: tuple[Subject, ...]
    peers: tuple[Peer, ...] = ()
    source: str | None = "tcp"  # tcp, http, ports; None: the subject makes records up
    machines: int = 1000
    window: int = 1  # records of a machine on their way
    batch: int = 1  # records a write
    rate: float | Share | None = None  # records a second on a schedule; None saturates
    connections: int = 64  # to the API
    depth: int = 1
    checked: bool = True  # the receiver looks into the records
    idle: bool = False  # nothing is sent
    waiting: int = 0  # records that wait for the receiver, which comes later; of how many machines says the subject
    rounds: int = 1  # times the repeats asked for, where a small difference is looked for
    commits: bool = False  # the bare commit loop runs in turn with it
    probes: int = 0  # HTTP machines beside the others, at PROBES_PER_S together, whose 201s are timed
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Scenario:
    name: str
    work: str
    cases: tuple[Case, ...] = ()
    targets: tuple[Target, ...] = ()  # over its cases


def ratio(over: str, under: str = "gateway", key: str = "cpu_us"):
    """`under` as a multiple of `over`, from neighbours in time."""
    return lambda rows: paired(rows[under], rows[over], key)


def of(subject: str, key: str):
    return lambda rows: rows[subject][key]


def flooded_p99(calm: str, flooded: str):
    """The p99 of the machines' 201 in a flood, without one turn of the core, as a multiple of that without it."""
    def figure(rows):
        turn_us = 1e6 / (rows[flooded]["turns"] * rows[flooded]["records_per_s"])
        return (rows[flooded]["accepted_us"]["p99"] - turn_us) / rows[calm]["accepted_us"]["p99"]
    return figure


def later_than(which: str, percentile: str, *peers: str):
    """A percentile as a multiple of the best of the peers'."""
    return lambda rows: rows["gateway"][which][percentile] / min(rows[peer][which][percentile] for peer in peers)


# A counter's greatest value a record: when the load saturates, and when each record comes alone. They leave room for a
# machine that is busy with other things; a wake or a call more for each record does not fit in.
MOST = {
    "wakes": ("wakes a record", 1.0, 3.0), "enters": ("system calls of the ring a record", 2.0, 4.5),
    # Ten thousand ports on a schedule after a pause of the machine: more than there are buffers.
    "journal_writes": ("journal writes a record", 0.05, 0.05), "enobufs": ("ENOBUFS a record", 0.05, 0.2),
}
# At `power` records wait for writes, so that these are as many as the disk does.
MOST_WRITES_AT_POWER = 1.0
RECORDS_A_SEND = 7


def gates(case: Case) -> tuple[Target, ...]:
    """The counters of a case that are judged whatever the machine does beside it."""
    if case.idle or case.waiting:
        return ()
    found = []
    for subject in case.subjects:
        if not isinstance(subject, Gateway) or subject.blind:
            continue
        prefix = f"{case.name}: " if subject.name == "gateway" else f"{case.name}, {subject.name}: "
        for key, (text, saturated, alone) in MOST.items():
            most = alone if case.rate else saturated
            if key == "journal_writes" and subject.durability == "power":
                most = MOST_WRITES_AT_POWER
            found.append(Target(f"{prefix}{text} ≤ {most:g}", of(subject.name, key), most=most, needs=(subject.name,), gate=True))
        if case.depth >= 8 and not case.rate:
            # With the levers it depends on when the machine's ACKs let the load send, so a miss is a result, not a fault.
            figure = of(subject.name, "records_per_send")
            text = f"{prefix}records a send ≥ {RECORDS_A_SEND}"
            found.append(Target(text, figure, least=RECORDS_A_SEND, needs=(subject.name,), gate=not subject.levers))
    return tuple(found)
