"""What the kernel refuses, clocks that jump, two gateways on one journal."""

import os
import re
import signal
import time

from e2e.child import Failure

from .cases import case
from .space import RATE, acknowledged, finish


def ended(gateway, code, words):
    """Expects the exit code, and one line in which all of `words` stand; the line."""
    status = gateway.wait_end()
    lines = [line for line in gateway.words().splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if status != code or any(word not in last for word in words):
        raise Failure(f"it ended with {status} and said {lines}; expected are {code} and a last line with {', '.join(words)}")
    return last


@case("two-gateways", "a second gateway on the same state directory")
def two_gateways(site):
    wire = site.receiver()
    wire.receive("up")
    first = site.gateway(wire)
    first.start()
    wire.start_machines("m", tcp=2, tcp_port=first.tcp, http=2, http_port=first.http, rate=RATE / 4)
    second = site.gateway(wire, "second")
    second.state = first.state
    second.spawn()
    line = ended(second, 5, [f"process {first.pid()}", str(first.state)])
    # The first has not noticed, and one that was killed holds nothing.
    finish(site, first, wire)
    first.start()
    pid = first.pid()
    first.kill()
    second.start()
    if second.pid() == pid:
        raise Failure("the lock file has the PID of the dead gateway")
    second.stop()
    return line


@case("strace-setup", "the kernel refuses io_uring_setup", tools=("strace",))
def strace_setup(site):
    gateway = site.gateway(site.receiver())
    gateway.spawn("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=EPERM")
    line = ended(gateway, 4, ["io_uring_setup"])
    said = gateway.words().strip().splitlines()
    if len(said) != 1:
        raise Failure(f"not one line but {len(said)}: {said}")
    return line


@case("strace-enter", "io_uring_enter is interrupted again and again (EINTR)", tools=("strace",))
def strace_enter(site):
    wire = site.receiver()
    wire.receive("up")
    gateway = site.gateway(wire)
    trace = site.directory / "trace"
    gateway.start("strace", "-f", "-qq", "-o", trace, "-e", "trace=io_uring_enter", "-e", "signal=none",
                  "-e", "inject=io_uring_enter:error=EINTR:when=3+5")
    wire.start_machines("m", tcp=2, tcp_port=gateway.tcp, http=2, http_port=gateway.http, rate=200)
    gateway.wait_for("records", lambda: gateway.terms().delivered > 500)
    terms = finish(site, gateway, wire)
    injected = trace.read_text(encoding="ascii", errors="replace").count("(INJECTED)")
    troubled = [line for line in gateway.words().splitlines() if " WARN " in line or " ERROR " in line]
    if troubled:
        raise Failure("it was noticed:\n" + "\n".join(troubled))
    if injected < 100:
        raise Failure(f"only {injected} calls were interrupted")
    return f"{injected} calls interrupted, {terms.delivered} records delivered, nothing said about it"


def faketime_library():
    """The library that the program faketime loads."""
    import subprocess

    found = subprocess.run(["faketime", "-f", "+0d", "sh", "-c", 'printf %s "$LD_PRELOAD"'], capture_output=True, text=True, check=True)
    return found.stdout.split(":")[-1].strip()


@case("clock-jump", "the wall clock jumps by days, forward and back", tools=("faketime",))
def clock_jump(site):
    wire = site.receiver()
    wire.receive("up")
    gateway = site.gateway(wire)
    clock = site.directory / "clock"
    clock.write_text("+0d\n", encoding="ascii")
    gateway.start(environment={
        "LD_PRELOAD": faketime_library(), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1",
    })
    wire.start_machines("m", tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE / 4)
    seen = []
    for offset in ("+3d", "-3d", "+10y", "+0d"):
        before = acknowledged(wire)
        temporary = site.directory / "clock.new"
        temporary.write_text(offset + "\n", encoding="ascii")
        temporary.rename(clock)
        # Retries too, whose timers must not follow the wall clock.
        wire.receive("down")
        time.sleep(0.3)
        wire.receive("up")
        delivered = wire.ledger.deliveries
        gateway.wait_for("acknowledgements", lambda: acknowledged(wire) > before + 100, 5)
        gateway.wait_for("deliveries", lambda: wire.ledger.deliveries > delivered + 100, 5)
        date = wire.do(lambda: next(machine.date for machine in wire.machines if machine.kind == "http"))
        seen.append(date)
    years = {re.search(rb"\d{4}", date)[0] for date in seen}
    if len(years) < 2:
        raise Failure(f"the clock did not jump: the gateway's answers are dated {seen}")
    terms = finish(site, gateway, wire)
    return f"dates of answers: {', '.join(date.decode() for date in seen)}; {terms.delivered} delivered in order, 0 lost"


@case("log-full", "standard error cannot be written: /dev/full")
def log_full(site):
    wire = site.receiver()
    gateway = site.gateway(wire)
    for _ in range(2):
        gateway.start("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
        wire.start_machines(wire.next_prefix(), tcp=2, tcp_port=gateway.tcp, http=4, http_port=gateway.http, rate=RATE)
        # An outage is worth a line of the log, and so is its end.
        gateway.wait_for("records", lambda: gateway.terms().pending > 500)
        wire.receive("up")
        terms = finish(site, gateway, wire)
        wire.receive("down")
    gateway.cores = "[]"
    gateway.spawn("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    if (code := gateway.wait_end()) != 3:
        raise Failure(f"a configuration that it cannot use ends with {code}, not 3, where nothing can be said of it")
    return f"{terms.delivered} delivered, stopped with 0 twice, exit code 3 for a bad configuration"


@case("cores", "fewer and more cores than last time, with a backlog")
def cores(site):
    wire = site.receiver()
    gateway = site.gateway(wire)
    sent, cpus = 0, sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Failure("this machine has one CPU, and a core is a CPU")
    counts = [2, 1, len(cpus), 1]
    for index, count in enumerate(counts):
        gateway.cores = str(cpus[:count])
        gateway.start()
        wire.start_machines(f"m{index}", tcp=8, tcp_port=gateway.tcp, http=8, http_port=gateway.http, rate=RATE)
        gateway.wait_for("records", lambda: gateway.terms().received > 500)
        sent += gateway.terms().received
        gateway.kill()
        wire.end_machines()
    wire.receive("up")
    gateway.start()
    terms = gateway.wait_settled()
    if terms.recovered < sent:
        raise Failure(f"{sent} were received, {terms.recovered} recovered")
    os.kill(gateway.pid(), signal.SIGTERM)
    if gateway.wait_end() != 0:
        raise Failure(f"it did not stop well: {gateway.words()}")
    return f"{sent} received by {', '.join(map(str, counts))} cores, {terms.recovered} recovered and delivered by one"
