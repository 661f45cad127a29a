"""Memory and descriptors of the gateway, once a second, and the line through them."""

import dataclasses
import os
import statistics
import threading
import time

EVERY_S = 1.0
MIB = 1 << 20
# Of what is measured, so much at least, for a slope to mean anything.
JUDGED_S = 600


@dataclasses.dataclass(frozen=True)
class Sample:
    # Which process, and seconds since the beginning of the run.
    life: int
    at_s: float
    rss_bytes: int
    # Without shared memory (the journal's blocks) and files.
    anonymous_bytes: int
    descriptors: int
    # Whether no fault was at work.
    at_rest: bool


class Meter(threading.Thread):
    """`line.pid` is whom it looks at; `at_rest` is told by whoever makes the faults."""

    def __init__(self, line):
        super().__init__(daemon=True)
        self.line, self.begun = line, time.monotonic()
        self.samples, self.at_rest, self.is_over = [], False, threading.Event()

    def run(self):
        while not self.is_over.wait(EVERY_S):
            pid, life, at_rest = self.line.pid, self.line.gateway.starts, self.at_rest
            try:
                sample = Sample(life, self.elapsed(), *memory(pid), len(os.listdir(f"/proc/{pid}/fd")), at_rest)
            except (OSError, KeyError, TypeError):
                # It was ended meanwhile.
                continue
            if pid is not None and self.line.pid == pid:
                self.samples.append(sample)

    def elapsed(self):
        return time.monotonic() - self.begun

    def end(self):
        self.is_over.set()
        self.join(5)

    def lives(self):
        """Of each process: life, seconds seen, resident memory at first, at last and at most, descriptors at most."""
        found = []
        for life in sorted({sample.life for sample in self.samples}):
            own = [sample for sample in self.samples if sample.life == life]
            found.append({
                "life": life, "from_s": round(own[0].at_s), "seconds": round(own[-1].at_s - own[0].at_s),
                "rss_first_mib": mib(own[0].rss_bytes), "rss_last_mib": mib(own[-1].rss_bytes),
                "rss_most_mib": mib(max(sample.rss_bytes for sample in own)),
                "descriptors_most": max(sample.descriptors for sample in own),
            })
        return found

    def slopes(self, warm_s=None):
        """Least squares through what was measured at rest in the longest life, from `warm_s` on (of the run; else from a quarter of the life
        on): MiB an hour of resident and of anonymous memory, descriptors an hour."""
        lives = self.lives()
        if not lives:
            return None
        longest = max(lives, key=lambda life: life["seconds"])
        end_s = longest["from_s"] + longest["seconds"]
        is_told = warm_s is not None and longest["from_s"] <= warm_s < end_s
        begin_s = warm_s if is_told else longest["from_s"] + longest["seconds"] / 4
        chosen = [sample for sample in self.samples if sample.life == longest["life"] and sample.at_rest and sample.at_s >= begin_s]
        if len(chosen) < 3:
            return None
        times = [sample.at_s / 3600 for sample in chosen]
        spans = chosen[-1].at_s - chosen[0].at_s
        return {
            "life": longest["life"], "from_s": round(chosen[0].at_s), "seconds": round(spans), "samples": len(chosen),
            "rss_mib_per_hour": slope(times, [sample.rss_bytes / MIB for sample in chosen]),
            "anonymous_mib_per_hour": slope(times, [sample.anonymous_bytes / MIB for sample in chosen]),
            "descriptors_per_hour": slope(times, [sample.descriptors for sample in chosen]),
            "is_judged": spans >= JUDGED_S,
        }

    def by_minute(self):
        """Medians of resident memory and descriptors of each minute of the run, as [minute, life, MiB, descriptors]."""
        minutes = {}
        for sample in self.samples:
            minutes.setdefault((int(sample.at_s // 60), sample.life), []).append(sample)
        return [[minute, life, mib(statistics.median(s.rss_bytes for s in found)), statistics.median(s.descriptors for s in found)]
                for (minute, life), found in sorted(minutes.items())]


def slope(xs, ys):
    """By how much y grows with x, by least squares."""
    x_mean, y_mean = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return round(sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys)) / spread, 3) if spread else 0.0


def mib(count_bytes):
    return round(count_bytes / MIB, 2)


def memory(pid):
    """Resident memory of a process in bytes, all of it and its anonymous part (proc(5), status)."""
    fields = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "RssAnon"):
                fields[name] = int(value.split()[0]) * 1024
    return fields["VmRSS"], fields["RssAnon"]
