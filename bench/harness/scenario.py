"""The scenarios by name: what they send, what is compared, and the figure to reach."""

from dataclasses import dataclass, field

from .subject import Floor, Gateway, Subject


@dataclass(frozen=True)
class Target:
    """`measure(rows)` gives the figure from the medians of a case by subject; it must be at most `most`, or at least `least`."""

    text: str
    figure: object
    most: float | None = None
    least: float | None = None


@dataclass(frozen=True)
class Case:
    """One load, and who is to carry it. A scenario has one or more."""

    name: str
    subjects: tuple[Subject, ...]
    source: str | None = "tcp"  # tcp, http, ports; None: the subject makes records up
    machines: int = 1000
    window: int = 1  # records of a machine on their way
    batch: int = 1  # records a write
    rate: float | None = None  # records a second on a schedule; None saturates
    connections: int = 64  # to the API
    depth: int = 1
    two_step: bool = False
    durability: str = "process"
    checked: bool = True  # the receiver looks into the records
    idle: bool = False  # nothing is sent
    spread: int = 1  # CPUs of the subject
    targets: tuple[Target, ...] = ()
    not_built: tuple[str, ...] = ()  # parts of the scenario that need what does not exist yet


@dataclass(frozen=True)
class Scenario:
    name: str
    work: str
    cases: tuple[Case, ...] = ()
    not_built: str = ""  # why none of it can run yet
    notes: tuple[str, ...] = field(default=())


def ratio(over: str, under: str = "gateway", key: str = "cpu_us"):
    return lambda rows: rows[under][key] / rows[over][key]


def of_gateway(key: str):
    return lambda rows: rows["gateway"][key]


RECV_POST = Floor("recv + POST", "tcp", True)
RECV_POST_8 = Floor("recv + POST by 8", "tcp", True, 8)
RECV_POST_2 = Floor("recv + 2 POST", "tcp", True, 1, ("--id-step",))
LEVERS = (
    ("late ACKs", ("--no-quickack",)),
    ("250 µs of waiting", ("--min-wait-us", "250")),
    ("both", ("--no-quickack", "--min-wait-us", "250")),
)
IN_OUT = Floor("POST in + POST out", "http", True)
PTY_POST = Floor("pty read + POST", "ports", True)
GATEWAY = Gateway()

USER_US = Target("user CPU µs a record ≤ 0.8", of_gateway("user_us"), most=0.8)
PEERS_LATER = "peers: syslog-ng, Python gateway"

SCENARIOS = (
    Scenario(
        "floors", "what the machine itself costs: bare io_uring programs, one kind of work each",
        (
            Case("recv", (Floor("recv", "tcp", False),)),
            Case("post", (Floor("POST client", None, True),), source=None, checked=False),
            Case("post-by-8", (Floor("POST client by 8", None, True, 8),), source=None, checked=False, depth=8),
            Case("serve", (Floor("POST server", "http", False),), source="http"),
            Case(
                "levers", (RECV_POST_8, *(Floor(f"{RECV_POST_8.name}, {name}", "tcp", True, 8, extra) for name, extra in LEVERS)),
                window=2, depth=8,
            ),
            Case("pty", (Floor("pty read", "ports", False),), source="ports", machines=500),
        ),
    ),
    Scenario(
        "tcp-post", "1,000 TCP connections, 64-byte records, one POST a record, 64 API connections, depth 1, no id step",
        (
            Case(
                "tcp-post", (RECV_POST, GATEWAY),
                targets=(Target("CPU ≤ 1.10 × floor (recv + POST)", ratio("recv + POST"), most=1.10), USER_US),
                not_built=(PEERS_LATER, "wake and ACK levers"),
            ),
        ),
    ),
    Scenario(
        "tcp-post-pipelined", "the same, depth 8",
        (
            Case(
                "tcp-post-pipelined", (RECV_POST_8, GATEWAY), window=2, depth=8,
                targets=(
                    Target("CPU ≤ 1.05 × floor (recv + POST by 8)", ratio("recv + POST by 8"), most=1.05),
                    Target("records a send ≥ 7", of_gateway("records_per_send"), least=7), USER_US,
                ),
                not_built=("wake and ACK levers",),
            ),
        ),
    ),
    Scenario(
        "tcp-two-step", "tcp-post with the id step",
        (
            Case(
                "tcp-two-step", (RECV_POST_2, GATEWAY), two_step=True,
                targets=(Target("CPU ≤ 1.25 × floor (recv + 2 POST)", ratio("recv + 2 POST"), most=1.25),),
                not_built=("lease = 100", "peer: Python gateway"),
            ),
        ),
    ),
    Scenario("tcp-batch", "16 records a write, NDJSON batches of 100", not_built="NDJSON batches to the API"),
    Scenario(
        "http-post", "1,000 kept-alive HTTP machines, one POST out a record",
        (
            Case(
                "http-post", (IN_OUT, GATEWAY), source="http",
                targets=(Target("CPU ≤ 1.20 × floor (POST in + POST out)", ratio("POST in + POST out"), most=1.20),),
                not_built=("peer: nginx",),
            ),
        ),
    ),
    Scenario(
        "serial-post", "500 ptys, one record at a time, one POST a record",
        (
            Case(
                "serial-post", (PTY_POST, GATEWAY), source="ports", machines=500,
                targets=(Target("CPU ≤ 1.20 × floor (pty read + POST)", ratio("pty read + POST"), most=1.20),),
            ),
        ),
    ),
    Scenario(
        "serial-10k", "all the ptys that the kernel gives, 1 record/s each; beside them 500 at the same rate each",
        (
            Case("serial-500", (GATEWAY,), source="ports", machines=500, rate=500),
            Case("serial-10k", (GATEWAY,), source="ports", machines=10_000, rate=10_000),
        ),
    ),
    Scenario(
        "idle-10k", "10,000 connections without a record, TCP and HTTP",
        tuple(
            Case(
                f"idle-10k/{source}", (GATEWAY,), source=source, machines=10_000, idle=True,
                targets=(
                    Target("user memory a connection ≤ 512 B", of_gateway("bytes_per_connection"), most=512),
                    Target("CPU ms in 10 s: none", of_gateway("cpu_ms_per_10s"), most=5),
                ),
            )
            for source in ("tcp", "http")
        ),
    ),
    Scenario(
        "latency", "50 machines, 2,000 records/s, open loop, TCP and HTTP; scheduled time to arrival",
        (
            Case("latency/tcp", (RECV_POST, GATEWAY), machines=50, rate=2000),
            Case("latency/http", (IN_OUT, GATEWAY), source="http", machines=50, rate=2000, not_built=("peers: nginx, haproxy",)),
        ),
    ),
    Scenario("durable", "http-post and tcp-post at `power`", not_built="durability = \"power\""),
    Scenario(
        "cores", "tcp-post with 1 and 2 shards",
        (
            Case("cores/1", (GATEWAY,)),
            Case("cores/2", (Gateway(cores=2),), spread=2),
        ),
    ),
    Scenario("observe", "tcp-post with and without histograms and metrics", not_built="a build without them"),
)

# Figures that compare two cases of a scenario: (text, first, second, most).
ACROSS = {
    "serial-10k": Target(
        "CPU a record ≤ 1.25 × that at 500", lambda cases: cases["serial-10k"]["cpu_us"] / cases["serial-500"]["cpu_us"], most=1.25
    ),
    "cores": Target(
        "CPU a record within 1.1 ×", lambda cases: cases["cores/2"]["cpu_us"] / cases["cores/1"]["cpu_us"], most=1.1
    ),
}
