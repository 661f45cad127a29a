"""The command line of scripts/soak: the course of the run, and its verdict."""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback

from e2e.child import Failure
from faults.command import build

from .kinds import Faults
from .line import RATE, Line
from .meter import MIB, Meter
from .plan import draw

SLOPE_MOST, FILES_MORE = 1.0, 2
# Beyond what it is to take, for faults that take long and the end.
LIMIT_S = 300
UNITS = {"s": 1, "m": 60, "h": 3600}


class Ended(Exception):
    """This run is to end now."""


def duration(text):
    found = re.fullmatch(r"(\d+)([smh])", text)
    if not found or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration, such as 90s, 30m, 1h")
    return int(found[1]) * UNITS[found[2]]


def arguments(text):
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for", metavar="TIME", dest="seconds", type=duration, default=3600, help="how long (default 1h)")
    parser.add_argument("--every", metavar="TIME", type=duration, default=30, help="from one fault to the next (default 30s)")
    parser.add_argument("--seed", metavar="N", type=int, help="of the faults (default: by the clock; printed)")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1, help="of the gateway (default 1)")
    parser.add_argument("--ringest", metavar="FILE", type=pathlib.Path, help="the program (default: built by cargo, release)")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="where the summary is written as JSON, too")
    parser.add_argument("--scratch", metavar="DIR", type=pathlib.Path, help="where its directory is made (default: TMPDIR)")
    parser.add_argument("--keep", action="store_true", help="leave the directory if the run fails")
    options = parser.parse_args()
    if options.seconds < 3 * options.every:
        parser.error("--for: at least three times --every")
    if options.seed is None:
        options.seed = time.time_ns() % 1_000_000
    options.chosen = []
    return options


class Soak:
    """The course of it. What went wrong is in `line.account.findings`, in the order in which it was noticed."""

    def __init__(self, options, line):
        self.options, self.line = options, line
        self.meter = Meter(line)
        self.faults = Faults(line, random.Random(options.seed), self.idle)
        self.kinds, self.early, self.warm = draw(options.seed, options.seconds // options.every - 1)
        # (kind, seconds until rest or None), in order.
        self.done = []
        self.quiet, self.warm_s, self.is_finished = [], None, False
        self.words, self.begun = "starting", time.monotonic()
        self.is_terminal, self.shown_at = sys.stdout.isatty(), 0.0

    def elapsed(self):
        return time.monotonic() - self.begun

    # ---- telling

    def say(self, text):
        print(("\r\x1b[K" if self.is_terminal else "") + text, flush=True)

    def show(self):
        """On a terminal, where it is."""
        now = time.monotonic()
        if not self.is_terminal or now - self.shown_at < 1:
            return
        self.shown_at = now
        text = (f"{clock(self.elapsed())} of {clock(self.options.seconds)}  {len(self.done)} of {len(self.kinds)} faults  {self.state()}  "
                f"{self.words}")
        print("\r\x1b[K" + text[:shutil.get_terminal_size().columns - 1], end="", flush=True)

    def state(self):
        last = self.meter.samples[-1] if self.meter.samples else None
        memory = f", {last.rss_bytes / MIB:.1f} MiB, {last.descriptors} descriptors" if last else ""
        return f"{self.line.account.accepted():,} delivered{memory}"

    def idle(self, seconds):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.show()
            self.expect_alive()
            time.sleep(min(left, 0.5))

    def expect_alive(self):
        if self.line.wire.failed:
            raise Ended(f"the network thread has ended: {self.line.wire.failed!r}")
        child = self.line.gateway.child
        if child is not None and not child.is_running():
            raise Ended(f"the gateway has ended by itself with {child.process.returncode}")

    # ---- the course

    def run(self):
        self.line.begin()
        self.begun = self.meter.begun = time.monotonic()
        self.meter.start()
        self.line.wait_rest(self.idle)
        self.meter.at_rest = True
        for place, kind in enumerate(self.kinds):
            self.words = f"next: {kind}"
            self.idle(max((place + 1) * self.options.every - self.elapsed(), 0))
            if place == (self.warm if self.warm < len(self.kinds) else self.early):
                self.warm_s = self.elapsed()
                self.measure_quiet()
            self.strike(kind)
        self.words = "the end"
        self.idle(max(self.options.seconds - self.elapsed(), 0))
        self.finish()

    def strike(self, kind):
        self.words, self.meter.at_rest = kind, False
        begun, findings, rest_s = self.elapsed(), self.line.account.finding_count, None
        try:
            words = self.faults.do(kind)
            rest_s = self.line.wait_rest(self.idle)
            words += f"; at rest after {rest_s:.1f} s"
        except Failure as failure:
            self.expect_alive()
            words = f"FAILED: {failure}"
            self.line.account.find(f"{kind} at {clock(begun)}: {failure}")
            self.recover()
        more = self.line.account.finding_count - findings
        self.done.append((kind, rest_s))
        self.meter.at_rest = rest_s is not None
        self.say(f"{clock(begun)} {kind:15}{words}; {self.state()}" + (f"; {more} FINDINGS: {self.line.account.findings[-1]}" if more else ""))

    def recover(self):
        """After a fault that failed: the next ones are to tell, too."""
        line = self.line
        line.fault(None)
        line.receive("up")
        line.ebb()
        if line.gateway.child is None:
            line.start()

    def measure_quiet(self):
        """Descriptors while nothing happens, under the configuration of the beginning."""
        self.meter.at_rest = False
        self.faults.restore()
        self.line.settle()
        self.quiet.append(self.line.quiet_descriptors())
        self.line.rest_machines(False)
        self.meter.at_rest = True

    def finish(self):
        self.meter.at_rest = False
        self.faults.restore()
        self.line.settle()
        self.quiet.append(self.line.quiet_descriptors())
        self.line.count_life()
        self.meter.end()
        self.line.pid = None
        self.line.gateway.stop()
        self.is_finished = True

    # ---- the outcome

    def summary(self):
        account, meter = self.line.account, self.meter
        # Of a run that ended early, what is missing may still be on its way.
        wrong = account.verdict() if self.is_finished else {"lost": None, "doubled": account.doubled, "reordered": account.reordered, "halved": 0}
        slopes = meter.slopes(self.warm_s)
        if slopes and slopes["is_judged"] and slopes["rss_mib_per_hour"] >= SLOPE_MOST:
            account.find(f"resident memory grows by {slopes['rss_mib_per_hour']} MiB an hour, expected is less than {SLOPE_MOST}")
        if len(self.quiet) == 2 and not is_flat(*self.quiet):
            account.find(f"descriptors while nothing happens were {self.quiet[0]}, at the end {self.quiet[1]}")
        sent, acknowledged, delivered = account.totals()
        counts = collections.Counter(kind for kind, _ in self.done)
        rests = [rest_s for _, rest_s in self.done if rest_s is not None]
        return {
            "holds": account.finding_count == 0, "seed": self.options.seed, "cores": self.options.cores,
            "asked_s": self.options.seconds, "seconds": round(self.elapsed()), "every_s": self.options.every,
            "records": {"sent": sent, "acknowledged_http": acknowledged, "delivered": delivered, "again_under_their_key": account.repeated,
                        "parked_and_retried": account.retried, "by_kind": {kind: account.accepted(kind) for kind in ("tcp", "http", "serial")},
                        "counted_received": account.counted},
            **wrong, "faults": dict(sorted(counts.items())), "faults_planned": len(self.kinds),
            "rest_s": {"median": round(statistics.median(rests), 2), "most": round(max(rests), 2)} if rests else None,
            "lives": meter.lives(), "slope": slopes, "quiet_descriptors": self.quiet,
            "own_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "findings": account.findings, "finding_count": account.finding_count, "by_minute": meter.by_minute(),
            "course": self.done,
        }


def is_flat(first, last):
    """Nothing more is open; files come and go with segments, a few of them."""
    kinds = {*first, *last} - {"file"}
    return all(first.get(kind, 0) == last.get(kind, 0) for kind in kinds) and last.get("file", 0) <= first.get("file", 0) + FILES_MORE


def clock(seconds):
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"


def lines(found):
    """The summary as text."""
    records, slopes, rest = found["records"], found["slope"], found["rest_s"]
    by_kind = ", ".join(f"{count:,} {kind}" for kind, count in records["by_kind"].items())
    yield (f"{found['seconds']} s, seed {found['seed']}, {found['cores']} core(s): {records['sent']:,} records sent, "
           f"{records['delivered']:,} delivered ({by_kind}), {records['again_under_their_key']:,} of them again under their key, "
           f"{records['parked_and_retried']:,} parked and retried")
    lost = "lost: not known" if found["lost"] is None else f"{found['lost']} lost"
    yield (f"{lost}, {found['doubled']} doubled, {found['reordered']} reordered; {found['halved']} serial records were half read when the "
           "gateway was ended")
    counts = ", ".join(f"{kind} {count}" for kind, count in found["faults"].items())
    yield (f"{sum(found['faults'].values())} of {found['faults_planned']} faults: {counts}"
           + (f"; at rest again after {rest['median']} s in the median, {rest['most']} s at most" if rest else ""))
    if slopes:
        judged = f"expected is less than {SLOPE_MOST}" if slopes["is_judged"] else "too short to be judged"
        yield (f"resident memory: {slopes['rss_mib_per_hour']:+.3f} MiB/h ({slopes['anonymous_mib_per_hour']:+.3f} of it anonymous), {judged}; "
               f"{slopes['samples']} samples at rest in {slopes['seconds']} s from {slopes['from_s']} s on, life {slopes['life']}; "
               f"{max(life['rss_most_mib'] for life in found['lives'])} MiB at most in {len(found['lives'])} lives")
        yield (f"descriptors: {' then '.join(str(sum(kinds.values())) for kinds in found['quiet_descriptors'])} while nothing happens, "
               f"{max(life['descriptors_most'] for life in found['lives'])} at most, {slopes['descriptors_per_hour']:+.2f} an hour at rest")
    yield f"this program used {found['own_memory_mib']} MiB"
    for finding in found["findings"][:20]:
        yield f"finding: {finding}"
    if found["finding_count"] > 20:
        yield f"and {found['finding_count'] - 20} more"
    yield "all of it holds" if found["holds"] else f"FAILED: {found['finding_count']} findings"


def end_early(number, _frame):
    raise Ended("it took longer than it may" if number == signal.SIGALRM else f"interrupted by {signal.Signals(number).name}")


def main(text, root, target):
    options = arguments(text)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end_early)
    try:
        build(options, root, target.absolute())
    except (Failure, Ended) as failure:
        print(f"failed: {failure}")
        return 1
    random.seed(options.seed)
    directory = tempfile.mkdtemp(prefix="ringest-soak-", dir=options.scratch)
    signal.alarm(options.seconds + LIMIT_S)
    line = Line(options, directory)
    soak, found = Soak(options, line), None
    soak.say(f"seed {options.seed}: {options.seconds} s, {RATE} records/s, {options.cores} core(s), {len(soak.kinds)} faults, one every "
             f"{options.every} s; nothing ends the gateway after the first {soak.early}")
    try:
        try:
            soak.run()
        except (Failure, Ended) as failure:
            line.account.find(f"ended after {clock(soak.elapsed())}: {failure}")
        except Exception:  # noqa: BLE001 - a defect of this program is a failure of the run
            line.account.find(traceback.format_exc())
        signal.alarm(0)
        soak.meter.is_over.set()
        found = soak.summary()
        for words in lines(found):
            soak.say(words)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    finally:
        line.close()
        if options.keep and not (found and found["holds"]):
            print(f"kept in {directory}", flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if found["holds"] else 1
