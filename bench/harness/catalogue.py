"""The scenarios by name: what they send, what is compared, and the figure to reach."""

from .peer import Haproxy, Nginx, PythonGateway, SyslogNg
from .scenario import Case, Scenario, Share, Target, flooded_p99, later_than, of, ratio
from .subject import Floor, Gateway, Waiting

RECV_POST = Floor("recv + POST", "tcp", True)
RECV_POST_8 = Floor("recv + POST by 8", "tcp", True, 8)
RECV_POST_2 = Floor("recv + 2 POST", "tcp", True, 1, ("--id-step",))
LEVERS = (
    ("late ACKs", ("--no-quickack",)),
    ("250 µs of waiting", ("--min-wait-us", "250")),
    ("both", ("--no-quickack", "--min-wait-us", "250")),
)
IN_OUT = Floor("POST in + POST out", "http", True)
TLS_IN_OUT = Floor("POST in over TLS + POST out", "https", True)
PTY_POST = Floor("pty read + POST", "ports", True)
GATEWAY = Gateway()
LEVERED = Gateway("gateway, levers", levers=True)
LEASED = Gateway("gateway, lease 100", ids=True, lease=100)
ONE_STEP = Gateway("gateway, no id step")
TWO_SHARDS = Gateway("gateway, 2 shards", cores=2)
POWER = Gateway("gateway at power", durability="power")
# Records that wait while the service is away, of few machines and of one each.
FEW_LANES = Gateway("1,000 lanes", waiting=Waiting(1_000))
MANY_LANES = Gateway("a lane each", waiting=Waiting(400_000))
FOUND_LANES = Gateway("a lane each, restarted", waiting=Waiting(400_000, restarted=True))
WAITING_BYTES = 192
FLOODED = Gateway("gateway, flooded", flood=64)
POWER_FLOODED = Gateway("gateway at power, flooded", durability="power", flood=64)
BLIND = Gateway("without histograms and counters", blind=True)

PYTHONS = (PythonGateway(1), PythonGateway(64))
SYSLOGS = (SyslogNg(1), SyslogNg(1, disk=True))
SYSLOGS_100 = (SyslogNg(100), SyslogNg(100, disk=True))
PROXIES = (Nginx(), Haproxy())


def grown(few: str, many: str, floor: str):
    """What a record costs the gateway in the case `many` as a multiple of that in `few`, beside the same of the floor."""
    def times(cases, subject):
        return cases[many][subject]["cpu_us"] / cases[few][subject]["cpu_us"]

    return lambda cases: times(cases, "gateway") / times(cases, floor)


def names(peers) -> tuple[str, ...]:
    return tuple(peer.name for peer in peers)


def per_cpu_second(least: float, peers) -> tuple[Target, ...]:
    """Records per CPU second as a multiple of each peer's."""
    return tuple(
        Target(f"records per CPU second ≥ {least:g} × {name}", ratio("gateway", name), least=least, needs=(name,)) for name in names(peers)
    )


USER_US = Target("user CPU µs a record ≤ 0.8", of("gateway", "user_us"), most=0.8)
# How long a record waits for a commit at most: [journal] commit_every.
COMMIT_EVERY_US = 5_000

LATENCIES = tuple(
    Target(f"{shown} {text} ≤ {most:g} × the better proxy's", later_than(which, key, *names(PROXIES)), most=most, needs=names(PROXIES))
    for which, text in (("latency_us", "to arrival"), ("accepted_us", "to the machine's 201"))
    for key, shown, most in (("p50", "p50", 0.9), ("p99", "p99", 1.0), ("p999", "p99.9", 1.0))
)

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
            Case("pty", (Floor("pty read", "ports", False),), source="ports", machines=500, commits=True),
        ),
    ),
    Scenario(
        "tcp-post", "1,000 TCP connections, 64-byte records, one POST a record, 64 API connections, depth 1, no id step",
        (
            Case(
                "tcp-post", (RECV_POST, GATEWAY, LEVERED), (*SYSLOGS, *PYTHONS),
                targets=(
                    Target("CPU ≤ 1.10 × floor (recv + POST)", ratio("recv + POST"), most=1.10),
                    Target("CPU with the levers ≤ 0.95 × floor", ratio("recv + POST", LEVERED.name), most=0.95, needs=(LEVERED.name,)),
                    *per_cpu_second(6, SYSLOGS),
                    *per_cpu_second(9, PYTHONS),
                    USER_US,
                ),
            ),
        ),
    ),
    Scenario(
        "tcp-post-pipelined", "the same, depth 8",
        (
            Case(
                "tcp-post-pipelined", (RECV_POST_8, GATEWAY, LEVERED), window=2, depth=8,
                targets=(
                    Target("CPU ≤ 1.05 × floor (recv + POST by 8)", ratio("recv + POST by 8"), most=1.05),
                    Target(
                        "CPU with the levers ≤ 0.85 × floor", ratio("recv + POST by 8", LEVERED.name), most=0.85, needs=(LEVERED.name,)
                    ),
                    USER_US,
                ),
            ),
        ),
    ),
    Scenario(
        "tcp-two-step", "tcp-post with the id step; with ids leased by 100; beside it tcp-post itself",
        (
            Case(
                "tcp-two-step", (RECV_POST_2, Gateway(ids=True), LEASED, ONE_STEP), tuple(PythonGateway(n, ids=True) for n in (1, 64)),
                targets=(
                    Target("CPU ≤ 1.25 × floor (recv + 2 POST)", ratio("recv + 2 POST"), most=1.25),
                    Target("CPU with lease = 100 ≤ 1.1 × tcp-post", ratio(ONE_STEP.name, LEASED.name), most=1.1),
                    *per_cpu_second(14, PYTHONS),
                ),
            ),
        ),
    ),
    Scenario(
        "tcp-batch", "16 records a write, NDJSON batches of 100",
        (
            Case(
                "tcp-batch", (Gateway(batch=100),), SYSLOGS_100, window=32, batch=16,
                targets=(
                    Target("CPU µs a record ≤ 0.9", of("gateway", "cpu_us"), most=0.9),
                    *per_cpu_second(4, SYSLOGS_100),
                    USER_US,
                ),
            ),
        ),
    ),
    Scenario(
        "http-post", "1,000 kept-alive HTTP machines, one POST out a record",
        (
            Case(
                "http-post", (IN_OUT, GATEWAY), PROXIES, source="http",
                targets=(
                    Target("CPU ≤ 1.20 × floor (POST in + POST out)", ratio("POST in + POST out"), most=1.20),
                    *per_cpu_second(1.5, PROXIES[:1]),
                ),
            ),
        ),
    ),
    Scenario(
        "https-post", "http-post over TLS 1.3 with AES-128-GCM; the floor is a bare io_uring program with rustls",
        (
            Case(
                "https-post", (TLS_IN_OUT, GATEWAY), PROXIES, source="https",
                targets=(
                    Target("CPU ≤ 1.25 × floor (POST in over TLS + POST out)", ratio("POST in over TLS + POST out"), most=1.25),
                    *per_cpu_second(1.0, PROXIES),
                ),
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
        "serial-10k", "all the ptys that the kernel gives, 1 record/s each; beside them 500 at that rate each, and 500 with as many records",
        (
            Case("serial-500", (GATEWAY,), source="ports", machines=500, rate=500),
            Case("serial-500-as-many", (GATEWAY,), source="ports", machines=500, rate=10_000),
            Case("serial-10k", (GATEWAY,), source="ports", machines=10_000, rate=10_000),
        ),
        (
            Target(
                "CPU a record ≤ 1.25 × that at 500",
                lambda cases: cases["serial-10k"]["gateway"]["cpu_us"] / cases["serial-500"]["gateway"]["cpu_us"], most=1.25,
            ),
            # At a low rate a record costs a wake, which few share: the harder comparison is at the same rate of all together.
            Target(
                "CPU a record ≤ 1.25 × that at 500 with as many records",
                lambda cases: cases["serial-10k"]["gateway"]["cpu_us"] / cases["serial-500-as-many"]["gateway"]["cpu_us"], most=1.25,
            ),
        ),
    ),
    Scenario(
        "idle-10k", "10,000 connections without a record, TCP, HTTP and HTTPS",
        tuple(
            Case(
                f"idle-10k/{source}", (GATEWAY,), source=source, machines=10_000, idle=True,
                targets=(
                    Target(f"{source}: bytes of user memory a connection ≤ {most:,}", of("gateway", "bytes_per_connection"), most=most),
                    # The deadline of each handshake passes within the time that is measured.
                    *(() if source == "https" else (
                        Target(f"{source}: CPU ms in 10 s: none (≤ 5, its clock)", of("gateway", "cpu_ms_per_10s"), most=5),
                        Target(f"{source}: seconds until all are accepted ≤ 1", of("gateway", "connect_s"), most=1),
                    )),
                ),
            )
            for source, most in (("tcp", 512), ("http", 512), ("https", 12_288))
        ),
    ),
    Scenario(
        "c10k", "20,000 records/s of 10 and of 10,000 machines, TCP, HTTP and HTTPS, beside the floor at both",
        tuple(
            Case(f"c10k/{source}-{machines}", (floor, GATEWAY), source=source, machines=machines, rate=20_000)
            for source, floor in (("tcp", RECV_POST), ("http", IN_OUT), ("https", TLS_IN_OUT)) for machines in (10, 10_000)
        ),
        tuple(
            Target(
                f"{source}: CPU a record at 10,000 over that at 10 ≤ 1.1 × the floor's own ratio",
                grown(f"c10k/{source}-10", f"c10k/{source}-10000", floor.name), most=1.1,
            )
            for source, floor in (("tcp", RECV_POST), ("http", IN_OUT), ("https", TLS_IN_OUT))
        ),
    ),
    Scenario(
        "lanes-400k", "400,000 records wait for a service that is away, of 1,000 connections, of one each, and of one each over a restart; then it comes",
        (
            Case(
                "lanes-400k", (FEW_LANES, MANY_LANES, FOUND_LANES), machines=400_000, waiting=400_000,
                targets=tuple(
                    target for name in (MANY_LANES.name, FOUND_LANES.name) for target in (
                        Target(f"{name}: bytes a waiting record ≤ {WAITING_BYTES}", of(name, "bytes_per_waiting"), most=WAITING_BYTES, needs=(name,)),
                        Target(f"{name}: CPU a record ≤ 2 × that of 1,000 lanes", ratio(FEW_LANES.name, name), most=2, needs=(name,)),
                    )
                ),
            ),
        ),
    ),
    Scenario(
        "latency", "50 machines, 2,000 records/s, open loop, TCP and HTTP; from the scheduled time",
        (
            Case("latency/tcp", (RECV_POST, GATEWAY), machines=50, rate=2000),
            Case("latency/http", (IN_OUT, GATEWAY), PROXIES, source="http", machines=50, rate=2000, rounds=2, targets=LATENCIES),
        ),
    ),
    Scenario(
        "durable", "http-post and tcp-post at `power`; then HTTP at half of the throughput, beside the bare commit loop",
        (
            *(
                Case(
                    f"durable/{source}", (GATEWAY, POWER), source=source,
                    targets=(
                        Target(
                            f"{source}: throughput at power ≥ 0.9 × that at process", ratio("gateway", POWER.name, "records_per_s"), least=0.9
                        ),
                    ),
                )
                for source in ("tcp", "http")
            ),
            Case(
                "durable/ack", (POWER,), source="http", rate=Share("durable/http", POWER.name, 0.5), commits=True,
                targets=(
                    Target(
                        "201 p99 / (3 × p99 of a bare commit of 16 KiB + commit_every) ≤ 1",
                        lambda rows: rows[POWER.name]["accepted_us"]["p99"] / (3 * rows["commit of 16 KiB"]["p99_us"] + COMMIT_EVERY_US),
                        most=1,
                    ),
                ),
            ),
        ),
    ),
    Scenario(
        "cores", "tcp-post with 1 and 2 shards, in pairs",
        (
            Case(
                "cores", (GATEWAY, TWO_SHARDS), rounds=2,
                targets=(Target("CPU a record of 2 shards ≤ 1.1 × that of 1", ratio("gateway", TWO_SHARDS.name), most=1.1),),
            ),
        ),
    ),
    Scenario(
        "flood",
        "1,000 TCP machines, 40,000 records/s evenly, and 8 HTTP machines that are timed; the same while 64 other machines send as fast as they can",
        tuple(
            Case(
                f"flood/{level}", (calm, flooded), rate=40_000, probes=8,
                targets=(
                    Target(
                        f"{level}: deliveries in a flood ≥ 0.7 × those without", ratio(calm.name, flooded.name, "records_per_s"), least=0.7,
                        needs=(calm.name, flooded.name),
                    ),
                    latency,
                ),
            )
            for level, calm, flooded, latency in (
                (
                    "process", GATEWAY, FLOODED,
                    Target("process: (p99 of the 201 in a flood - one turn) ≤ 2 × that without", flooded_p99("gateway", FLOODED.name), most=2),
                ),
                (
                    "power", POWER, POWER_FLOODED,
                    Target("power: p99 of the 201 in a flood, ms ≤ 20", lambda rows: rows[POWER_FLOODED.name]["accepted_us"]["p99"] / 1e3, most=20),
                ),
            )
        ),
    ),
    Scenario(
        "observe", "tcp-post with histograms and metrics, and without them (another build), in pairs",
        (
            Case(
                "observe", (GATEWAY, BLIND), rounds=3,
                targets=(Target("CPU with them ≤ 1.03 × without", ratio(BLIND.name), most=1.03),),
            ),
        ),
    ),
)
